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
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src"), str(Path(__file__).resolve().parent)]

from demo.hosts import Cluster, HostsError, Node  # noqa: E402
from machine import (  # noqa: E402
    OTHER_CORE,
    SERVER_CORE,
    BenchError,
    compile_c,
    cpu_ns,
    leave_on_sigterm,
    measure,
    measure_json,
    program,
    progress,
    running,
    wait_for,
)
from traffic import CONFIG, CONNECTIONS, FILE_BYTES, PATH, Load, children, parse_wrk  # noqa: E402

from zerospan.exporter import pipeline  # noqa: E402
from zerospan.exporter.config import load  # noqa: E402
from zerospan.exporter.source.nic import Nics  # noqa: E402

PORT, ECHO = 8080, 8081
POINTS = {"hosts": 1, "pods": 4}  # at each host
PONGS, WRITES, BATCHES = 2000, 1024, 15
START_S = 15.0


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
        assert self.agent.capture is not None
        nics = Nics(self.agent.capture, netns=self.watched)
        nics.start()
        self.agent.nics = nics
        wait_for(f"{self.points} points", lambda: len(nics.interfaces()) == self.points, START_S)


@dataclass
class Round:
    """With the points and without, one right after the other. ns: of a message there and back, of a write of 16 KiB."""

    rps: dict[bool, float] = field(default_factory=dict)
    agent_us: dict[bool, float] = field(default_factory=dict)
    ns: dict[tuple[str, bool], float] = field(default_factory=dict)
    runs: dict[str, float] = field(default_factory=dict)  # of programs at interfaces, for one round trip or write


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
def nginx(node: Node, folder: Path) -> Iterator[int]:
    """nginx inside, on its core; its worker's process id."""
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
        yield children(process.pid)[0]


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


def measure_round(watch: Watch, where: Net, packets: str, worker: int, seconds: int, first: bool) -> Round:
    """Both states, one after the other; `first`: whether the points are there in the first."""
    out = Round()
    for on in (first, not first):
        if on:
            watch.on()
        else:
            watch.off()
        begin = cpu_ns(os.getpid())
        load = wrk(where, worker, seconds)
        out.rps[on] = load.rps
        out.agent_us[on] = (cpu_ns(os.getpid()) - begin) / 1e3 / load.requests
        for what, n in (("pong", PONGS), ("bulk", WRITES)):
            before = passed(where) if on else 0
            ends = [f"/run/netns/{where.server.netns}", where.server.address, f"/run/netns/{where.client.netns}"]
            took = measure_json(SERVER_CORE, [packets, *ends, str(ECHO), what, str(n), str(BATCHES)], 60)
            out.ns[what, on] = took["median"]
            if on:
                out.runs[what] = (passed(where) - before) / (n * (BATCHES + 1))
    return out


def wrk(where: Net, worker: int, seconds: int) -> Load:
    command = inside(where.client, program("wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency")
    before = cpu_ns(worker)
    out = measure(OTHER_CORE, [*command, f"http://{where.server.address}:{PORT}{PATH}"], seconds + 20)
    return parse_wrk(out, cpu_ns(worker) - before)


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
                with net(kind) as where, nginx(where.server, folder / kind) as worker:
                    alone = [wrk(where, worker, seconds).rps for _ in range(2)]  # the first one warms up
                    with agent(where.watched, where.points, sink, folder) as watch:
                        for i in range(rounds):
                            one = measure_round(watch, where, packets, worker, seconds, bool(i % 2))
                            put(f"nic_rps_ratio_{points}", one.rps[True] / one.rps[False])
                            put(f"nic_rps_{points}_off", one.rps[False])
                            put(f"nic_agent_added_us_{points}", one.agent_us[True] - one.agent_us[False])
                            for what in ("pong", "bulk"):
                                added = one.ns[what, True] - one.ns[what, False]
                                put(f"nic_{what}_ns_{points}", added / one.runs[what])
                                put(f"nic_{what}_base_ns_{points}", one.ns[what, False])
                                put(f"nic_{what}_runs_{points}", one.runs[what])
                            if points == max(POINTS.values()):
                                put("nic_rps_ratio_0", one.rps[False] / alone[-1])
                        kernel = watch.agent.kernel()
                        messages = pipeline.lost_messages(kernel)
                        lost = sum(n for name, n in kernel.items() if name.startswith("ring_full_"))
                        put(f"nic_lost_{points}", lost - messages)
                        put(f"nic_lost_messages_{points}", messages)
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
