"""One measurement of a runtime: its programs and an agent in a cgroup of their own, requests sent, links judged.

    with Bench("gunicorn", tmp_path) as bench:
        bench.start(["gunicorn", ...], port)          # knows $TRUTH_UPSTREAM; see kit/truth.py for what it must answer
        score = bench.measure(f"http://127.0.0.1:{port}", requests=2000, in_flight=50, keep_alive=True)
    assert score.all.precision >= 0.999, score.text()

Assumes root and that the calling process may move into a cgroup (kit/cgroup.py). Used by tests/net.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agent import Agent
from agent import spans as spans_of_file
from cgroup import own_cgroup
from nginx import free_port
from truth import Ident, Score, Sent, by_path, judge

PEERS = [sys.executable, str(Path(__file__).resolve().with_name("truth_peers.py"))]
CLEAN_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}
READY_S = 30.0


def listens(port: int) -> bool:
    """Whether something in this network namespace listens on the TCP port; nothing is sent."""
    wanted = f":{port:04X} "
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and (fields[1] + " ").endswith(wanted):
                return True
    return False


class Bench:
    """A leaf, an agent, and the programs under test. `config`: of the agent. `spans` of the last measurement stay."""

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.folder = folder
        self.config = {"capture": {"ring_bytes": 64 << 20}, **(config or {})}
        self.leaf_port = free_port()
        self.upstream = f"http://127.0.0.1:{self.leaf_port}"
        self.spans: list[dict[str, Any]] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.cgroup = self._stack.enter_context(own_cgroup(f"truth-{self.name}"))
        self._stack.callback(self.stop)
        self.start([*PEERS, "leaf", str(self.leaf_port)], self.leaf_port)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def start(
        self, argv: Sequence[str], port: int, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a program and waits until it listens; the port 0: it does not. Its output is in NAME-N.log."""
        log = self.folder / f"{self.name}-{len(self.processes)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=cwd or self.folder,
                env={**CLEAN_ENV, "TRUTH_UPSTREAM": self.upstream, "TRUTH_PORT": str(port), **(env or {})},
                start_new_session=True,
            )
        self.processes.append(process)
        end = time.monotonic() + READY_S
        while port and not listens(port):
            said = log.read_text(errors="replace")[-2000:]
            assert process.poll() is None, f"{argv[0]} ended with {process.returncode}: {said}"
            assert time.monotonic() < end, f"{argv[0]} does not listen on {port} after {READY_S} s: {said}"
            time.sleep(0.02)
        return process

    def stop(self) -> None:
        """Ends all programs and their groups."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + 5.0
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
            with contextlib.suppress(OSError):  # workers that outlived their master
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()

    def measure(
        self,
        url: str,
        *,
        requests: int = 2000,
        in_flight: int = 50,
        keep_alive: bool = True,
        plans: str = "1,2,3",
        proxies: Collection[str] = (),
        ident: Ident = by_path,
    ) -> Score:
        """Sends the requests with an agent beside it, judges its links. All must get their 200, nothing may be lost."""
        with Agent(self.folder, self.config, "--cgroup", self.cgroup) as agent:
            sent = drive(url, requests, in_flight, keep_alive, plans)
            status = agent.settled()
            agent.stop()
        assert agent.ledger["dropped"] == {}, agent.ledger
        assert not any(count for name, count in status["kernel"].items() if name.startswith("ring_full")), status
        self.spans = spans_of_file(agent.traces_file)
        score = judge(self.spans, sent, proxies=proxies, ident=ident)
        report(self.name, score)
        return score


def drive(
    url: str, requests: int, in_flight: int, keep_alive: bool = True, plans: str = "1,2,3", inside: Sequence[str] = ()
) -> list[Sent]:
    """Sends the requests from a program of its own (`inside`: what to put before it); what was sent."""
    argv = [*inside, *PEERS, "drive", url, str(requests), str(in_flight), "--plans", plans]
    argv += ["--keep-alive"] if keep_alive else []
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    sent = [Sent(*line.split()) for line in done.stdout.splitlines()]
    assert len(sent) == requests
    return sent


def report(name: str, score: Score) -> None:
    """Prints the table; adds a line of JSON to $ZEROSPAN_TRUTH_JSON if that is set."""
    print(f"\n{name}: {score.text()}")
    path = os.environ.get("ZEROSPAN_TRUTH_JSON")
    if path:
        with open(path, "a") as out:
            print(json.dumps({"name": name, **score.json()}), file=out)
