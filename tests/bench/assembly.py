"""Lag of a trace: from the end of its root's response to the arrival of its last span at an OTLP receiver.

`.venv/bin/python tests/bench/assembly.py [--rate N] [--seconds N]`: client -> a -> b -> c, each in a pod, on one
host, two and three, with an agent for each host (interfaces on), a real redis-server where there is more than one, and
one receiver, in this process, that notes when each span came. Both times are of one clock. Root; moderate load, as lag
has no meaning where the machine is full. What an open request weighs is measured in a process of its own (`--open`).
Figures go into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src"), str(Path(__file__).resolve().parent), str(ROOT / "tests" / "unit")]

from demo.bookinfo.agents import Agent  # noqa: E402
from demo.hosts import Cluster, HostsError, Pod  # noqa: E402
from machine import BenchError, leave_on_sigterm, progress, wait_for  # noqa: E402

SERVICE = ROOT / "tests" / "net" / "hosts_service.py"
PORT = 8080
CALLER = """
import http.client, sys, time
address, port, rate, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
c = http.client.HTTPConnection(address, port, timeout=20)
begin, n = time.monotonic(), int(rate * seconds)
for i in range(n):
    time.sleep(max(0.0, begin + i / rate - time.monotonic()))
    c.request("GET", f"/a/{i}")
    if c.getresponse().read() != b"a>b>c":
        sys.exit(1)
"""


@dataclass
class Trace:
    """What came of one trace. Times: Unix, ns."""

    root_end: int = 0
    last: int = 0
    processes: int = 0
    points: int = 0


@dataclass
class Receiver:
    """OTLP/HTTP on loopback."""

    traces: dict[bytes, Trace] = field(default_factory=lambda: defaultdict(Trace))
    port: int = 0

    @contextlib.contextmanager
    def serving(self) -> Iterator[Receiver]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                now = time.time_ns()
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                request = ExportTraceServiceRequest.FromString(body)
                with lock:
                    for resource in request.resource_spans:
                        for scope in resource.scope_spans:
                            for span in scope.spans:
                                outer.note(span, now)

            def log_message(self, *args: object) -> None:
                """Quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def note(self, span: Any, now: int) -> None:
        trace = self.traces[span.trace_id]
        trace.last = max(trace.last, now)
        if not span.parent_span_id:
            trace.root_end = span.end_time_unix_nano
        if span.kind in (2, 3):
            trace.processes += 1
        else:
            trace.points += 1


@contextlib.contextmanager
def redis(folder: str) -> Iterator[str]:
    """A redis-server on loopback; its URL."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)

    def up() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        wait_for("redis-server", up, 10)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def lag(hosts: int, rate: float, seconds: float) -> dict[str, float]:
    """p50 and p99 in ms, and the traces behind them, with the chain spread over so many hosts. BenchError."""
    receiver = Receiver()
    with contextlib.ExitStack() as undo:
        folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="zerospan-lag-"))
        undo.enter_context(receiver.serving())
        cluster = undo.enter_context(Cluster("lag"))
        nodes = [cluster.host(f"h{i}") for i in range(hosts)]
        client = nodes[0].pod("client")
        pods: list[Pod] = [nodes[i * hosts // 3].pod(name) for i, name in enumerate("abc")]
        for i, (pod, name) in enumerate(zip(pods, "abc", strict=True)):
            to = [pods[i + 1].address, str(PORT)] if i < 2 else []
            pod.run([sys.executable, str(SERVICE), name, pod.address, str(PORT), *to])
        for pod in pods:
            pod.wait_port(PORT)
        settings: dict[str, Any] = {
            "otlp": {"traces": {"endpoint": f"http://127.0.0.1:{receiver.port}"}},
            "capture": {"nic": "on"},
            "selftest": False,
        }
        if hosts > 1:
            settings["links"] = undo.enter_context(redis(folder))
        for node in nodes:
            agent = Agent(Path(folder) / node.name, node.namespaces, settings)
            undo.enter_context(agent)
        caller = [sys.executable, "-c", CALLER, pods[0].address, str(PORT), str(rate), str(seconds)]
        client.output(caller, seconds + 60)
        time.sleep(6)  # twice the reach: what comes later still counts against it, what never comes shows in `missing`
    n = int(rate * seconds)
    whole = [t for t in receiver.traces.values() if t.root_end and t.processes == 6 and t.points]
    if len(whole) < 0.9 * n:
        raise BenchError(f"{len(whole)} of {n} traces are whole on {hosts} hosts: their lag says nothing")
    lags = sorted((t.last - t.root_end) / 1e6 for t in whole)
    return {
        f"lag_p50_ms_{hosts}_hosts": round(lags[len(lags) // 2]),
        f"lag_p99_ms_{hosts}_hosts": round(lags[len(lags) * 99 // 100]),
        f"lag_traces_missing_{hosts}_hosts": n - len(whole),
        f"lag_points_{hosts}_hosts": sum(t.points for t in whole) / len(whole),
    }


def open_requests(n: int, *, shared: bool) -> float:
    """Resident bytes of an open request, its connection, its registry entry and what is told of it; in this process."""
    from engine_kit import START, WALL, describe, get
    from engine_wire import Kernel, Process, Wire

    from zerospan.exporter.engine import Engine
    from zerospan.exporter.link.shared import Shared
    from zerospan.exporter.source.memory import Records

    known = {10: Process(10, "client"), 20: Process(20, "server")}
    kernel = Kernel()
    for i in range(n):
        isns = (i * 0x9E3779B1 % 2**32, i * 0x85EBCA77 % 2**32)
        wire = Wire(
            kernel,
            (known[10], 10),
            (known[20], 20),
            isns=isns,
            watch="server" if shared else "both",
            addresses=("10.0.0.1", "10.0.0.2"),
        )
        wire.pass_on("client", get(f"/r/{i}"), START + i, step=1)
    data = [r.data for r in kernel.records]
    source = Records(1 << 30)
    engine = Engine(
        source,
        lambda tgid, comm, _: describe(known[tgid]),
        mask=False,
        registry_bytes=1 << 30,
        max_open_bytes=1 << 30,
        max_connections=1 << 20,
        shared=Shared(queue_bytes=1 << 30, table_bytes=1 << 30) if shared else None,
    )
    engine.tick(START, WALL)
    before = resident()
    for record in data:
        if not source.push(record):
            raise BenchError("the source is full")
        if len(record) and source:
            engine.tick(START + n, WALL)
    if engine.ledger()["in_flight"]["open"] < n:  # type: ignore[index]
        raise BenchError(f"{engine.ledger()} after {n} requests")
    return (resident() - before) / n


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_bytes(hosts: int, n: int = 50_000) -> float:
    """open_requests() in a process of its own. BenchError."""
    argv = [sys.executable, __file__, "--open", str(n), *(["--shared"] if hosts > 1 else [])]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"open requests: {done.stderr.strip()[-500:]}")
    return float(done.stdout)


def run(rate: float, seconds: float) -> dict[str, float]:
    """All figures of this file. BenchError."""
    found: dict[str, float] = {}
    for hosts in (1, 2, 3):
        progress(f"traces over {hosts} host(s)")
        try:
            found |= lag(hosts, rate, seconds)
        except HostsError as e:
            raise BenchError(str(e)) from e
    found["open_request_bytes_1_hosts"] = open_bytes(1)
    found["open_request_bytes_3_hosts"] = open_bytes(3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rate", type=float, default=50, help="requests/s (default: 50)")
    parser.add_argument("--seconds", type=float, default=10, help="of load for each number of hosts (default: 10)")
    parser.add_argument("--open", type=int, metavar="N", help="only: bytes of each of N open requests")
    parser.add_argument("--shared", action="store_true", help="with --open: one end is on another host")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    leave_on_sigterm()
    if args.open:
        print(round(open_requests(args.open, shared=args.shared)))
        return
    try:
        found = run(args.rate, args.seconds)
    except BenchError as e:
        sys.exit(f"assembly: {e}")
    for name, value in found.items():
        print(f"{name:<28} {value:g}")
    if args.json:
        Path(args.json).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
