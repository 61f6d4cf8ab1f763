"""Every interface on the way of a request between pods on two nodes: real packets, real tunnel."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from agent import spans

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernel"))
from nic_net import Net, command

from zerospan.exporter.config import Config
from zerospan.exporter.config.model import Capture, Files, Filter
from zerospan.exporter.pipeline import Pipeline, build

INTERNAL, SERVER, CLIENT = 1, 2, 3
MS = 1_000_000
HOPS = ("client_process", "client_host", "network", "server_host", "server_process")
PORT = 8080
SERVE = """
import http.server, sys, time
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(0.4)
        body = b"x" * (200000 if self.path == "/large" else 2)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), H).serve_forever()
"""

IDLE = """
import http.client, sys
c = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]))
c.request("GET", "/idle")
c.getresponse().read()
sys.stdin.read()
"""
LATE = """
import socket, sys, time
l = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
time.sleep(0.5)
s, _ = l.accept()
s.recv(65536)
s.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
s.recv(1)
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    made = Net()
    try:
        yield made
    finally:
        made.close()


@dataclass
class Agent:
    """An agent in this process that watches these namespaces and nothing else."""

    pipeline: Pipeline
    file: Path

    def until(self, what: Callable[[list[dict[str, Any]]], bool], deadline_s: float = 20) -> list[dict[str, Any]]:
        end = time.monotonic() + deadline_s
        while True:
            found = spans(self.file) if self.file.exists() else []
            if what(found):
                return found
            assert time.monotonic() < end, f"{[s['name'] for s in found]} {self.pipeline.engine.counts()}"
            time.sleep(0.1)


@pytest.fixture
def agent(net: Net, tmp_path: Path) -> Iterator[Agent]:
    file = tmp_path / "traces.jsonl"
    config = Config(
        run_dir=str(tmp_path / "run"),
        capture=Capture(nic=1.0),
        filter=Filter(netns=net.names),
        files=Files(traces=str(file)),
    )
    pipeline = build(config, control=False)
    pipeline.start()
    try:
        yield Agent(pipeline, file)
    finally:
        result = pipeline.stop()
    assert result.seen == result.exported + sum(result.dropped.values())


@pytest.fixture
def server(net: Net) -> Iterator[None]:
    argv = ["ip", "netns", "exec", net.pod[1], sys.executable, "-c", SERVE, net.address[1], str(PORT)]
    process = subprocess.Popen(argv)
    try:
        end = time.monotonic() + 10
        while f":{PORT}" not in command(net.pod[1], "ss", "-ltn"):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


def places(net: Net) -> list[tuple[str, str, str, str | None]]:
    """(role, namespace, interface, tunnel) of each point, in the order of the way of a request."""
    (n1, n2), (p1, p2) = net.node, net.pod
    return [
        ("client.pod", p1, "eth0", None), ("client.pod", n1, "vethp", None), ("client.node", n1, "vx0", None),
        ("client.node", n1, "eth0", "vxlan"), ("server.node", n2, "eth0", "vxlan"), ("server.node", n2, "vx0", None),
        ("server.pod", n2, "vethp", None), ("server.pod", p2, "eth0", None),
    ]  # fmt: skip


def curl(net: Net, *paths: str) -> None:
    """One connection for all of them."""
    urls = [f"http://{net.address[1]}:{PORT}{path}" for path in paths]
    command(net.pod[0], "curl", "-sf", "--max-time", "20", *(x for url in urls for x in ("-o", "/dev/null", url)))


def trace(found: list[dict[str, Any]], path: str) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """CLIENT and SERVER span of the request for a path, and those of its points."""
    (client,) = [s for s in found if s["kind"] == CLIENT and s["attributes"].get("url.path") == path]
    (server,) = [s for s in found if s["kind"] == SERVER and s["attributes"].get("url.path") == path]
    points = [s for s in found if s["kind"] == INTERNAL and s["traceId"] == client["traceId"]]
    return client, server, sorted(points, key=lambda s: int(s["startTimeUnixNano"]))


def hops(span: dict[str, Any]) -> dict[str, int]:
    return {h: int(span["attributes"][f"zerospan.hop.{h}"]) for h in HOPS if f"zerospan.hop.{h}" in span["attributes"]}


def length(span: dict[str, Any]) -> int:
    return int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])


def told(span: dict[str, Any]) -> tuple[str, str, str, str | None]:
    a = span["attributes"]
    return a["zerospan.point"], a["zerospan.netns"], a["network.interface.name"], a.get("zerospan.tunnel.type")


def test_every_point_of_the_way(net: Net, agent: Agent, server: None) -> None:
    """Three requests on one connection: eight points each, in order, with role, parent, sizes; hops sum to the call."""
    paths = ["/one", "/large", "/slow"]
    curl(net, *paths)
    found = agent.until(lambda s: sum(x["kind"] == INTERNAL for x in s) >= 24)
    for path in paths:
        client, server_span, points = trace(found, path)
        assert [told(p) for p in points] == places(net), path
        assert {p["parentSpanId"] for p in points} == {client["spanId"]} == {server_span["parentSpanId"]}
        assert len({p["spanId"] for p in points}) == 8
        for p in points:
            a = p["attributes"]
            assert int(a["zerospan.response.bytes"]) > (200_000 if path == "/large" else 2)
            assert int(a["zerospan.response.packets"]) >= (138 if path == "/large" else 1)
            assert (a["source.address"], a["destination.address"]) == tuple(net.address)
            assert a["zerospan.interface.mac"].count(":") == 5
            outer = [a.get(f"zerospan.tunnel.{end}.address") for end in ("source", "destination")]
            assert outer == (net.underlay if a.get("zerospan.tunnel.type") else [None, None])
        shares = hops(client)
        assert sum(shares.values()) == length(client) and len(shares) == 5, shares
    shares = hops(trace(found, "/slow")[0])
    # head and body are two writes: Nagle's algorithm may keep the body in the server's host
    assert shares["server_process"] > 395 * MS and shares["server_process"] + shares["server_host"] > 0.98 * sum(
        shares.values()
    )


def test_an_idle_connection_tells_its_last_answer(net: Net, agent: Agent, server: None) -> None:
    """Keep-alive without a further request: silence ends the answer, before the call's span leaves."""
    with subprocess.Popen(
        ["ip", "netns", "exec", net.pod[0], sys.executable, "-c", IDLE, net.address[1], str(PORT)],
        stdin=subprocess.PIPE,
    ) as client:
        found = agent.until(lambda s: sum(x["kind"] == INTERNAL for x in s) >= 8)
        assert client.poll() is None
    span, _, points = trace(found, "/idle")
    assert [told(p) for p in points] == places(net)
    assert all(int(p["attributes"]["zerospan.response.packets"]) >= 1 for p in points)
    assert all(length(p) < length(span) + MS for p in points)
    shares = hops(span)
    assert sum(shares.values()) == length(span) and len(shares) == 5, shares


def test_the_network_between_the_nodes_is_slow(net: Net, agent: Agent, server: None) -> None:
    """150 ms each way between the uplinks: client slow, server not, and the network is named."""
    tc = ("tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "150ms")
    done = [subprocess.run(["ip", "netns", "exec", n, *tc], capture_output=True, text=True) for n in net.node]
    if any(d.returncode for d in done):
        pytest.skip(f"no netem here: {done[0].stderr}")
    try:
        curl(net, "/far")
        found = agent.until(lambda s: sum(x["kind"] == INTERNAL for x in s) >= 8)
    finally:
        for n in net.node:
            subprocess.run(["ip", "netns", "exec", n, "tc", "qdisc", "del", "dev", "eth0", "root"], capture_output=True)
    client, server_span, points = trace(found, "/far")
    shares = hops(client)
    assert sum(shares.values()) == length(client) > 300 * MS
    assert length(server_span) < 100 * MS
    # the delay is behind client.node on its way out, and behind the server's on the way back
    assert shares["network"] > 0.9 * length(client), shares


def test_the_server_does_not_accept(net: Net, agent: Agent) -> None:
    """The request lies in the server's socket for half a second: neither its process nor the network is slow."""
    argv = ["ip", "netns", "exec", net.pod[1], sys.executable, "-c", LATE, net.address[1], str(PORT)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as late:
        assert late.stdout is not None and late.stdout.readline() == b"ready\n"
        curl(net, "/backlog")
    found = agent.until(lambda s: sum(x["kind"] == INTERNAL for x in s) >= 8)
    client = next(s for s in found if s["kind"] == CLIENT)
    shares = hops(client)
    assert sum(shares.values()) == length(client)
    assert shares["server_host"] > 0.9 * length(client) > 400 * MS, shares
