"""A request from host to host through a third one that only forwards: its interfaces are points of the same trace.

Two pods on two nodes; the nodes route each other's pods over a third node (both ways over its one uplink, so that a
packet enters and leaves by one interface). Three agents, a real Redis.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sharing import Cluster, agents_of, settled, spans_of, store

INTERNAL, SERVER, CLIENT = 1, 2, 3
PORT = 8080
REQUESTS = 30
SERVE = """
import http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b"x" * (100000 if self.path == "/large" else 2)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), H).serve_forever()
"""
CALL = """
import http.client, sys
c = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=20)
for i in range(int(sys.argv[3])):
    c.request("GET", f"/r{i}"); c.getresponse().read()
c.request("GET", "/large"); c.getresponse().read()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster("fourgw", tunnel=None) as made:
        one, two, gateway = made.host("one"), made.host("two"), made.host("gateway")
        one.pod("caller")
        served = two.pod("served")
        one.ip(f"route replace {two.cidr} via {gateway.address}")
        two.ip(f"route replace {one.cidr} via {gateway.address}")
        for host in made.hosts:
            host.sysctl({"ipv4/conf/all/send_redirects": 0, "ipv4/conf/eth0/send_redirects": 0,
                         "ipv4/conf/all/accept_redirects": 0, "ipv4/conf/eth0/accept_redirects": 0})  # fmt: skip
        served.run([sys.executable, "-c", SERVE, str(PORT)])
        served.wait_port(PORT)
        yield made


def drive(cluster: Cluster) -> list[str]:
    """One connection for all; returns the paths."""
    one, two, _ = cluster.hosts
    argv = [sys.executable, "-c", CALL, two.pods[0].address, str(PORT), str(REQUESTS)]
    subprocess.run(one.pods[0].argv(argv), check=True, timeout=60)
    return [*(f"/r{i}" for i in range(REQUESTS)), "/large"]


def by_trace(found: list[dict[str, Any]], path: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    (client,) = [s for s in found if s["kind"] == CLIENT and s["attributes"].get("url.path") == path]
    return client, [s for s in found if s["kind"] == INTERNAL and s["traceId"] == client["traceId"]]


def test_a_gateway_is_a_point_of_the_trace(cluster: Cluster, tmp_path: Path) -> None:
    with store(tmp_path / "store") as port, agents_of(
        cluster, tmp_path, f"redis://127.0.0.1:{port}", {"capture": {"nic": "on"}}
    ) as agents:  # fmt: skip
        paths = drive(cluster)
        for agent in agents:
            agent.settled()
        asked = agents[2].status()["links_shared"]["events"]
        settled(agents)
    found = spans_of(agents)
    gateway = cluster.hosts[2].netns
    for path in paths:
        client, points = by_trace(found, path)
        (server,) = [s for s in found if s["kind"] == SERVER and s["attributes"].get("url.path") == path]
        assert (server["traceId"], server["parentSpanId"]) == (client["traceId"], client["spanId"])
        mine = [p for p in points if p["agent"] == 2]
        assert [p["attributes"]["zerospan.point"] for p in mine] == ["gateway.node"] * 2, path
        assert {p["attributes"]["zerospan.netns"] for p in mine} == {gateway}
        assert {p["attributes"]["network.interface.name"] for p in mine} == {"eth0"}
        assert len({p["spanId"] for p in mine}) == 2, "in and out are two points"
        assert {p["parentSpanId"] for p in points} == {client["spanId"]}
        assert all(int(p["attributes"]["zerospan.response.bytes"]) > (100_000 if path == "/large" else 2) for p in mine)
        others = {p["attributes"]["zerospan.point"] for p in points if p["agent"] != 2}
        assert others == {"client.pod", "client.node", "server.node", "server.pod"}
        a = client["attributes"]
        total = int(client["endTimeUnixNano"]) - int(client["startTimeUnixNano"])
        shares = [int(v) for k, v in a.items() if k.startswith("zerospan.hop.")]
        assert sum(shares) == total and len(shares) == 5, "a gateway is no end of the way"
    assert agents[2].ledger["dropped"] == {}
    assert asked["passed"] == len(paths), "one for a request, whatever interfaces saw it"
    assert asked["asked"] <= 4 * len(paths)


def test_without_a_shared_registry_it_is_dropped_and_counted(cluster: Cluster, tmp_path: Path) -> None:
    with agents_of(cluster, tmp_path, "memory", {"capture": {"nic": "on"}}) as agents:
        paths = drive(cluster)
        settled(agents)
    assert [s for s in spans_of(agents) if s["agent"] == 2] == []
    assert agents[2].ledger["dropped"] == {"nic_unmatched": 2 * len(paths)}
