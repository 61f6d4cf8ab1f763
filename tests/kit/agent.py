"""A running agent for tests: `zerospan run` as a user starts it, its files, its metrics, its ledger.

Used by tests/net and tests/e2e (tests/conftest.py puts this folder on sys.path). Needs root.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [str(ROOT / ".venv/bin/zerospan")]
LEDGER = re.compile(r"^ledger: seen (\d+) / exported (\d+) / dropped (.*?)(?: / in flight (\d+))?(  \(DOES.*)?$", re.M)


class Agent:
    """`with Agent(folder, {...}) as agent:` runs until stop(); config is what stands in the YAML."""

    def __init__(
        self, folder: Path, config: Mapping[str, Any] | None = None, *options: str, env: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.traces_file = folder / "traces.jsonl"
        self.logs_file = folder / "logs.jsonl"
        self.stderr_file = folder / "agent.stderr"
        path = folder / "zerospan.yaml"
        settings = {"run_dir": str(self.run_dir), "metrics": {"listen": "127.0.0.1:0"}, **(config or {})}
        path.write_text(yaml.safe_dump(settings))
        self.argv = [*COMMAND, "run", "--config", str(path), "--traces-file", str(self.traces_file),
                     "--logs-file", str(self.logs_file), *options]  # fmt: skip
        self.env = {**os.environ, **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.ledger: dict[str, Any] = {}

    def __enter__(self) -> Agent:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()

    def start(self, deadline_s: float = 20.0) -> None:
        with self.stderr_file.open("wb") as err:
            self.process = subprocess.Popen(self.argv, stderr=err, stdout=sys.stderr, env=self.env)
        end = time.monotonic() + deadline_s
        while "ready" not in self.said():
            assert self.process.poll() is None, f"the agent ended: {self.said()}\nrepeat: {' '.join(self.argv)}"
            assert time.monotonic() < end, f"not ready after {deadline_s} s: {self.said()}"
            time.sleep(0.02)

    def said(self) -> str:
        return self.stderr_file.read_text(errors="replace")

    def stop(self, deadline_s: float = 30.0) -> dict[str, Any]:
        """SIGTERM; waits for the end and reads the ledger's line."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(deadline_s)
        assert code == 0, f"exit code {code}: {self.said()}"
        found = LEDGER.search(self.said())
        assert found, f"no ledger in: {self.said()}"
        dropped = {} if found[3] == "none" else {k: int(v) for k, v in (p.split("=") for p in found[3].split())}
        self.ledger = {"seen": int(found[1]), "exported": int(found[2]), "dropped": dropped}
        assert not found[5], self.said()
        assert self.ledger["seen"] == self.ledger["exported"] + sum(dropped.values()) + int(found[4] or 0), self.said()
        return self.ledger

    def status(self) -> dict[str, Any]:
        out = subprocess.run([*COMMAND, "status", "--json", "--run-dir", str(self.run_dir)],
                             capture_output=True, text=True, check=True)  # fmt: skip
        answer: dict[str, Any] = json.loads(out.stdout)
        return answer

    @property
    def metrics_address(self) -> str:
        """HOST:PORT of /metrics."""
        return str(self.status()["metrics"])

    def metrics(self, openmetrics: bool = False) -> str:
        accept = "application/openmetrics-text; version=1.0.0" if openmetrics else "text/plain"
        request = urllib.request.Request(f"http://{self.metrics_address}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=30) as answer:
            body: bytes = answer.read()
        return body.decode()

    def settled(self, seconds: float = 0.0, deadline_s: float = 40.0) -> dict[str, Any]:
        """Waits until nothing is in flight (holds included); the status then."""
        end = time.monotonic() + deadline_s
        time.sleep(seconds)
        while True:
            status = self.status()
            if not status["in_flight"] or time.monotonic() > end:
                return status
            time.sleep(0.1)


def spans(path: Path) -> list[dict[str, Any]]:
    """Flat spans of a file of OTLP JSON lines: the span's fields, `attributes` as a dict, `service`."""
    out = []
    for line in path.read_text().splitlines():
        for rs in json.loads(line)["resourceSpans"]:
            resource = attributes(rs["resource"])
            for scope in rs["scopeSpans"]:
                for span in scope["spans"]:
                    out.append({**span, "attributes": attributes(span), "service": resource.get("service.name")})
    return out


def count_spans(path: Path, kind: int) -> int:
    """Spans of one kind (2 SERVER, 3 CLIENT) in a file of OTLP JSON lines; of many, quickly."""
    with path.open() as lines:
        return sum(
            span["kind"] == kind
            for line in lines
            for rs in json.loads(line)["resourceSpans"]
            for scope in rs["scopeSpans"]
            for span in scope["spans"]
        )


def count_logs(path: Path) -> int:
    """Log records in a file of OTLP JSON lines."""
    with path.open() as lines:
        return sum(
            len(scope["logRecords"])
            for line in lines
            for rl in json.loads(line)["resourceLogs"]
            for scope in rl["scopeLogs"]
        )


def logs(path: Path) -> list[dict[str, Any]]:
    """Flat log records of a file of OTLP JSON lines."""
    out = []
    for line in path.read_text().splitlines():
        for rl in json.loads(line)["resourceLogs"]:
            resource = attributes(rl["resource"])
            for scope in rl["scopeLogs"]:
                for record in scope["logRecords"]:
                    out.append({**record, "attributes": attributes(record), "service": resource.get("service.name")})
    return out


def attributes(thing: Mapping[str, Any]) -> dict[str, Any]:
    def plain(value: Mapping[str, Any]) -> Any:
        kind, content = next(iter(value.items()))
        if kind == "intValue":
            return int(content)
        if kind == "arrayValue":
            return [plain(v) for v in content.get("values", [])]
        return content

    return {a["key"]: plain(a["value"]) for a in thing.get("attributes", [])}
