"""The agent as a user runs it, in a process of its own: spans by OTLP, request lines to Loki, /metrics.

Its receiver is sink.c, whose CPU is counted apart. An agent that lost something marks the run.
"""

import contextlib
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import OTHER_CORE, BenchError, agent_env, cpu_ns, end, running, wait_for
from traffic import CONNECTIONS, free_port

from zerospan.exporter.selfmon.control import ControlError, ask

MIB = 1 << 20
START_S = 30.0  # the self-test included
DRAIN_S = 45.0  # max_hold is 30 s
LEDGER = re.compile(r"ledger: seen (\d+) / exported (\d+) / dropped (\S.*?)(?: / in flight (\d+))?\s*(\(DOES NOT.*)?$")

CONFIG = """
otlp: {{traces: {{endpoint: "http://127.0.0.1:{sink}"}}}}
loki: {{url: "http://127.0.0.1:{sink}"}}
metrics: {{listen: "127.0.0.1:{metrics}"}}
run_dir: {folder}/run
log: {{level: warning}}
"""


@dataclass
class Account:
    """What became of the requests while the agent ran."""

    seen: int
    exported: int
    dropped: dict[str, int]
    events_lost: int  # records for which the ring had no room
    sink: dict[str, int]
    expected: int = 0  # one span at each end of each request
    marks: list[str] = field(default_factory=list)

    def judge(self, requests: int, loads: int) -> None:
        """requests: those that were answered; loads: runs of a client, each may end amid requests."""
        self.expected = 2 * requests
        if self.events_lost:
            self.marks.append(f"{self.events_lost} records lost in the kernel")
        for reason, n in self.dropped.items():
            if reason != "unfinished" or n > 2 * CONNECTIONS * loads:
                self.marks.append(f"{n} spans dropped: {reason}")
        if self.exported < self.expected:
            self.marks.append(f"{self.expected - self.exported} of {self.expected} spans missing")


@dataclass
class Agent:
    """A running agent and its receiver."""

    process: subprocess.Popen[str]
    sink: subprocess.Popen[str]
    run_dir: str
    metrics_port: int
    errors: Path
    marks: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.pid

    def status(self) -> dict[str, Any]:
        """What `zerospan status` shows."""
        try:
            return ask(self.run_dir)
        except ControlError as e:
            raise BenchError(f"the agent does not answer: {e}{self._said()}") from e

    def cpu_ns(self) -> int:
        return cpu_ns(self.pid)

    def sink_cpu_ns(self) -> int:
        return cpu_ns(self.sink.pid)

    def scrape(self) -> bytes:
        """One scrape of /metrics, as Prometheus does it."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30) as answer:
            body: bytes = answer.read()
        return body

    def drain(self, spans: int) -> None:
        """Waits until so many spans have left, or nothing waits any more; stop() tells what was lost."""

        def done() -> bool:
            now = self.status()
            waiting = now["in_flight"]
            return now["exported"] >= spans or not (waiting.get("held") or waiting.get("queued"))

        try:
            wait_for("the last spans have not left", done, DRAIN_S, 0.25)
        except BenchError as e:
            self.marks.append(str(e))

    def stop(self) -> Account:
        """Ends agent and receiver; what they say of the run."""
        kernel = self.status()["kernel"]
        end(self.process, 30)
        end(self.sink)
        said = self.errors.read_text()
        line = next((m for m in map(LEDGER.search, said.splitlines()) if m), None)
        if line is None:
            raise BenchError(f"the agent left no ledger (exit code {self.process.returncode}){self._said()}")
        dropped = {} if line[3] == "none" else {k: int(v) for k, v in (p.split("=") for p in line[3].split())}
        lost = sum(n for name, n in kernel.items() if name.startswith("ring_full_") or name == "conn_table_full")
        assert self.sink.stdout is not None
        account = Account(int(line[1]), int(line[2]), dropped, lost, json.loads(self.sink.stdout.read() or "{}"))
        account.marks += self.marks
        if line[5]:
            account.marks.append("the agent's ledger does not balance")
        if self.process.returncode:
            account.marks.append(f"the agent left with {self.process.returncode}")
        account.marks += [text.strip() for text in said.splitlines() if "WARNING" in text]
        return account

    def memory_mb(self) -> dict[str, float]:
        """RSS and memory of BPF maps and programs in MB (10^6 bytes); mapped pages of the ring count once."""
        rss, shared = resident(self.pid)
        maps, programs = bpf_bytes(self.pid)
        return {
            "process": (rss - shared) / 1e6,
            "maps": maps / 1e6,
            "programs": programs / 1e6,
            "total": (rss - shared + maps + programs) / 1e6,
        }

    def _said(self) -> str:
        text = self.errors.read_text().strip()
        return f"; it said: {text[-2000:]}" if text else ""


def resident(pid: int) -> tuple[int, int]:
    """Resident bytes of a process, and those among them that are a BPF map's, mapped."""
    rss = shared = 0
    is_map = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_map = "bpf-map" in line
        elif line.startswith("Rss:"):
            n = int(line.split()[1]) * 1024
            rss += n
            shared += n if is_map else 0
    return rss, shared


def bpf_bytes(pid: int) -> tuple[int, int]:
    """Kernel memory of the BPF maps and programs that a process holds (`memlock` of /proc/PID/fdinfo)."""
    found: dict[tuple[str, str], int] = {}
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            info = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
            for kind in ("map", "prog"):
                if f"{kind}_type" in info and "memlock" in info:
                    found[kind, info[f"{kind}_id"].strip()] = int(info["memlock"])
    return tuple(sum(n for (k, _), n in found.items() if k == kind) for kind in ("map", "prog"))  # type: ignore[return-value]


@contextlib.contextmanager
def agent(folder: Path, sink_program: str) -> Iterator[Agent]:
    """Starts receiver and agent; yields when every hook is on. Whatever stop() has not ended ends here."""
    folder.mkdir(parents=True)
    errors = folder / "agent.err"
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(running(OTHER_CORE, [sink_program], stdout=subprocess.PIPE))
        assert sink.stdout is not None
        sink_port = int(sink.stdout.readline())
        metrics = free_port()
        config = folder / "agent.yaml"
        config.write_text(CONFIG.format(sink=sink_port, metrics=metrics, folder=folder))
        err = stack.enter_context(errors.open("w"))
        command = [sys.executable, "-m", "zerospan.exporter.cli", "run", "--config", str(config)]
        process = stack.enter_context(running(OTHER_CORE, command, stderr=err, env=agent_env()))
        made = Agent(process, sink, str(folder / "run"), metrics, errors)

        def ready() -> bool:
            if process.poll() is not None:
                raise BenchError(f"the agent ended at its start ({process.returncode}){made._said()}")
            return any("ready" in line.split() for line in errors.read_text().splitlines())

        wait_for("the agent's hooks", ready, START_S)
        yield made
