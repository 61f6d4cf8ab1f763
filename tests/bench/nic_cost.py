"""What points at network interfaces cost: nanoseconds of a packet at each, requests/s through 1 and 4 of them a host.

    .venv/bin/python tests/bench/nic_cost.py [--rounds 3] [--seconds 3] [--json FILE]

Two hosts, each a network namespace: joined by their uplinks alone (1 point a host), and with a pod each, joined by a
VXLAN (4: the pod's eth0, its veth, the tunnel, the uplink). The agent runs in this process with its real sinks' work (a
receiver that only counts); only its programs at the interfaces go and come again, within one run and in turns. Root.
"""

from __future__ import annotations

import argparse
import contextlib
import grp
import json
import os
import pwd
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src"), str(Path(__file__).resolve().parent)]

from demo.hosts import Cluster, HostsError, Node  # noqa: E402
from machine import (  # noqa: E402
    OTHER_CORE,
    SERVER_CORE,
    BenchError,
    compile_c,
    leave_on_sigterm,
    measure,
    measure_json,
    program,
    progress,
    running,
    wait_for,
)
from traffic import CONFIG, CONNECTIONS, FILE_BYTES, PATH, children, parse_wrk  # noqa: E402

from zerospan.exporter import pipeline  # noqa: E402
from zerospan.exporter.config import load  # noqa: E402
from zerospan.exporter.source.nic import Nics  # noqa: E402

PORT, ECHO = 8080, 8081
POINTS = {"hosts": 1, "pods": 4}  # at each host
OPERATIONS = {"pong": 1000, "bulk": 1024}  # of packets.c in a batch
BATCHES = 5
MORE_TURNS = 1  # of packets.c than of wrk
START_S = 15.0
T = TypeVar("T")


@dataclass
class Net:
    """Client and server in a namespace each; `watched`: those that the agent is limited to."""

    client: Node
    server: Node
    watched: list[str]
    points: int  # at both hosts


@dataclass
class Watch:
    """The agent, whose points are taken away and put back."""

    agent: pipeline.Pipeline
    watched: tuple[str, ...]
    points: int

    def off(self) -> None:
        nics, self.agent.nics = self.agent.nics, None
        if nics is not None:
            time.sleep(0.05)  # the drain, each 8 ms, may have it in hand
            nics.stop()

    def on(self) -> None:
        """Not a second time: programs would run twice."""
        if self.agent.nics is not None:
            return
        assert self.agent.capture is not None
        nics = Nics(self.agent.capture, netns=self.watched)
        nics.start()
        self.agent.nics = nics
        wait_for(f"{self.points} points", lambda: len(nics.interfaces()) == self.points, START_S)


@contextlib.contextmanager
def net(kind: str) -> Iterator[Net]:
    """Makes hosts (and pods). HostsError."""
    with Cluster("niccost") as cluster:
        one, two = (cluster.host(name, pods=kind == "pods") for name in ("one", "two"))
        if kind == "pods":
            client, server = one.pod("client"), two.pod("server")
            yield Net(client, server, [*one.namespaces, *two.namespaces], 8)
        else:
            yield Net(one, two, [one.netns, two.netns], 2)


@contextlib.contextmanager
def nginx(node: Node, folder: Path) -> Iterator[None]:
    """nginx inside, on its core."""
    folder.mkdir(mode=0o755)
    nobody = pwd.getpwnam("nobody")
    (folder / "www").mkdir()
    (folder / "www" / PATH.lstrip("/")).write_bytes(b"x" * FILE_BYTES)
    group = grp.getgrgid(nobody.pw_gid).gr_name
    text = CONFIG.format(folder=folder, port=PORT, user=nobody.pw_name, group=group)
    config = folder / "nginx.conf"
    config.write_text(text.replace(f"listen 127.0.0.1:{PORT}", f"listen {PORT}"))
    command = inside(node, program("nginx"), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config))
    with running(SERVER_CORE, command, stderr=subprocess.DEVNULL) as process:
        node.wait_port(PORT)
        wait_for("nginx's worker", lambda: len(children(process.pid)) == 1, 10)
        yield


def inside(node: Node, *command: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{node.netns}", "--", *command]


@contextlib.contextmanager
def agent(watched: list[str], points: int, sink: str, folder: Path) -> Iterator[Watch]:
    """The agent of this process: spans and log lines go to the receiver."""
    with contextlib.ExitStack() as undo:
        receiver = undo.enter_context(running(OTHER_CORE, [sink], stdout=subprocess.PIPE))
        assert receiver.stdout is not None
        url = f"http://127.0.0.1:{int(receiver.stdout.readline())}"
        settings = {
            "otlp.traces.endpoint": url, "loki.url": url, "filter.netns": watched, "run_dir": str(folder / "run"),
            "selftest": False,
        }  # fmt: skip
        made = pipeline.build(load(None, {}, settings), control=False)
        made.start()
        undo.callback(made.stop)
        watch = Watch(made, tuple(watched), points)
        undo.callback(watch.off)
        yield watch


def in_turns(watch: Watch, measured: Callable[[], T], first: bool) -> dict[bool, T]:
    """The same with the points and without, one right after the other; `first`: whether they are there first."""
    found = {}
    for on in (first, not first):
        if on:
            watch.on()
        else:
            watch.off()
        found[on] = measured()
    return found


def timed(where: Net, packets: str, what: str) -> float:
    """Nanoseconds of a message there and back, or of a write of 16 KiB: the least of some batches."""
    ends = [f"/run/netns/{where.server.netns}", where.server.address, f"/run/netns/{where.client.netns}"]
    count = [str(OPERATIONS[what]), str(BATCHES)]
    least: float = measure_json(SERVER_CORE, [packets, *ends, str(ECHO), what, *count], 60)["least"]
    return least


def timed_all(where: Net, packets: str) -> dict[str, float]:
    return {what: timed(where, packets, what) for what in OPERATIONS}


def runs(where: Net, packets: str, what: str) -> float:
    """Programs at interfaces that run for one operation of packets.c."""
    before = passed(where)
    timed(where, packets, what)
    return (passed(where) - before) / (OPERATIONS[what] * (BATCHES + 1))


def wrk(where: Net, seconds: int) -> float:
    """Requests/s as fast as they go."""
    command = inside(where.client, program("wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency")
    out = measure(OTHER_CORE, [*command, f"http://{where.server.address}:{PORT}{PATH}"], seconds + 20)
    return parse_wrk(out, 0).rps


def passed(where: Net) -> int:
    """Packets that went through the interfaces that have points, in and out: each is one run of a program."""
    total = 0
    for name in where.watched:
        said = json.loads(subprocess.run(
            ["ip", "-n", name, "-s", "-j", "-d", "link"], check=True, capture_output=True, text=True
        ).stdout)  # fmt: skip
        for link in said:
            if link["ifname"] == "lo" or link.get("linkinfo", {}).get("info_kind") == "bridge":
                continue
            total += link["stats64"]["rx"]["packets"] + link["stats64"]["tx"]["packets"]
    return total


def run(rounds: int, seconds: int) -> dict[str, list[float]]:
    """A value for each round, by plain names. BenchError."""
    found: dict[str, list[float]] = {}

    def put(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    with contextlib.ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="zerospan-nic-")))
        folder.chmod(0o755)
        sink, packets = compile_c("sink", folder), compile_c("packets", folder)
        for kind, points in POINTS.items():
            progress(f"{points} point(s) at each host")
            try:
                with net(kind) as where, nginx(where.server, folder / kind):
                    alone = [wrk(where, seconds) for _ in range(2)][1:]  # the first one warms up
                    without: list[float] = []
                    with agent(where.watched, where.points, sink, folder) as watch:
                        for i in range(rounds):
                            rps = in_turns(watch, lambda: wrk(where, seconds), bool(i % 2))
                            put(f"nic_rps_ratio_{points}", rps[True] / rps[False])
                            put(f"nic_rps_{points}_off", rps[False])
                            without.append(rps[False])
                        passes = {what: runs(where, packets, what) for what in OPERATIONS}
                        for i in range(rounds + MORE_TURNS):
                            ns = in_turns(watch, lambda: timed_all(where, packets), bool(i % 2))
                            for what, n in passes.items():
                                put(f"nic_{what}_runs_{points}", n)
                                put(f"nic_{what}_ns_{points}", (ns[True][what] - ns[False][what]) / n)
                                put(f"nic_{what}_base_ns_{points}", ns[False][what])
                        kernel = watch.agent.kernel()
                        messages = pipeline.lost_messages(kernel)
                        lost = sum(n for name, n in kernel.items() if name.startswith("ring_full_"))
                        put(f"nic_lost_{points}", lost - messages)
                        put(f"nic_lost_messages_{points}", messages)
                    alone.append(wrk(where, seconds))
                    if points == max(POINTS.values()):
                        for rps in alone:
                            put("nic_rps_ratio_0", statistics.median(without) / rps)
            except HostsError as e:
                raise BenchError(str(e)) from e
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="each without and with (default: 3)")
    parser.add_argument("--seconds", type=int, default=3, help="of wrk in each (default: 3)")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    leave_on_sigterm()
    os.sched_setaffinity(0, {OTHER_CORE})
    try:
        found = run(args.rounds, args.seconds)
    except BenchError as e:
        sys.exit(f"nic_cost: {e}")
    for name, values in found.items():
        print(f"{name:<24} {sorted(values)[len(values) // 2]:>10,.4g}   of {', '.join(f'{v:,.4g}' for v in values)}")
    if args.json:
        Path(args.json).write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
