"""`zerospan run` for Bookinfo: an agent that watches some of its namespaces and writes its spans to a file.

Assumes root, the repository's environment and that the main thread asks. Called by `__main__.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from demo.hosts import HostsError

ROOT = Path(__file__).resolve().parents[2]
DIES = ("/usr/bin/setpriv", "--pdeathsig=TERM", "--")  # with the program that started it
COMMAND = (sys.executable, "-m", "zerospan.exporter.cli")
READY_S = 30.0
STOP_S = 60.0


class Agent:
    """`with Agent(folder, namespaces, settings) as agent:`; `.traces` is the file of its spans, `.ledger` its last
    word."""

    def __init__(self, folder: Path, namespaces: Sequence[str], settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.traces, self.log, self.run_dir = folder / "spans.jsonl", folder / "agent.log", folder / "run"
        self.traces.unlink(missing_ok=True)  # of an earlier run into the same folder
        self.ledger = ""
        config = folder / "zerospan.yaml"
        config.write_text(json.dumps({**settings, "run_dir": str(self.run_dir)}))  # JSON is YAML
        chosen = [word for name in namespaces for word in ("--netns", name)]
        self.argv = [*DIES, *COMMAND, "run", "--config", str(config), "--traces-file", str(self.traces), *chosen]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stderr=log, env=_environment())
        deadline = time.monotonic() + READY_S
        try:
            while "zerospan: ready" not in self.log.read_text():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise HostsError(f"the agent did not start:\n{self.log.read_text()}")
                time.sleep(0.05)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def settle(self, seconds: float = 40.0) -> None:
        """Waits until nothing is in flight, the hold included; at most so long."""
        deadline = time.monotonic() + seconds
        argv = [*COMMAND, "status", "--json", "--run-dir", str(self.run_dir)]
        while time.monotonic() < deadline:
            asked = subprocess.run(argv, capture_output=True, text=True, env=_environment())
            if asked.returncode:
                raise HostsError(f"the agent does not tell its status: {asked.stderr}{self.log.read_text()}")
            if not json.loads(asked.stdout)["in_flight"]:
                return
            time.sleep(0.2)

    def stop(self) -> None:
        """SIGTERM, then its ledger. HostsError if it does not end well."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        said = self.log.read_text()
        self.ledger = next((line for line in said.splitlines() if line.startswith("ledger:")), "")
        if code or not self.ledger:
            raise HostsError(f"the agent ended with code {code}:\n{said}")


def _environment() -> dict[str, str]:
    """Nothing of OTEL_* or ZEROSPAN_* of the caller; this repository's code first, where the environment is
    another's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "ZEROSPAN_"))}
    return {**kept, "PYTHONPATH": str(ROOT / "src")}
