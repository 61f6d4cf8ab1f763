"""A name that is looked up at a server on another host (UDP): CLIENT and SERVER span in one trace; dnsmasq, a real
Redis.

The key is of the transaction id, the question and the client's port: it passes SNAT that keeps the port (as the
kernel does wherever the port is free), and not SNAT to other ports. Then there are two spans, of two traces, and
never a wrong link: id and question alone would name two clients' queries the same.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sharing import Cluster, Node, agents_of, settled, spans_of, store

SERVER, CLIENT = 2, 3
QUERIES = 40
PORTS = itertools.count(31000, 1000)
# Its own resolver: each query from a socket of its own, as libc does it, or all from one.
ASK = """
import random, socket, struct, sys
from concurrent.futures import ThreadPoolExecutor
server, how, first = sys.argv[1], sys.argv[2], int(sys.argv[4])
def made(i):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("", first + i))
    return s
one = made(999)
def ask(s, name, kind=1):
    number = random.randrange(65536)
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
    s.settimeout(5)
    head = struct.pack(">6H", number, 0x0100, 1, 0, 0, 0)
    s.sendto(head + labels + b"\\0" + struct.pack(">2H", kind, 1), (server, 53))
    while True:
        data, _ = s.recvfrom(4096)
        if struct.unpack(">H", data[:2])[0] == number:
            assert data[3] & 15 in (0, 3), data
            return
def query(i):
    name = f"n{i}.four.test"
    if how == "one":
        return ask(one, name)
    with made(i) as s:
        if how == "connected":
            s.connect((server, 53))
        ask(s, name)
        ask(s, name, 28)
with ThreadPoolExecutor(1 if how == "one" else 8) as pool:
    list(pool.map(query, range(int(sys.argv[3]))))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster("fourdns", tunnel=None) as made:
        one, two = made.host("one"), made.host("two")
        one.pod("asker")
        dns = two.pod("dns")
        known = [f"--address=/n{i}.four.test/10.9.0.{i + 1}" for i in range(QUERIES)]
        alone = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file=",
        ]
        where = ["--listen-address=0.0.0.0", "--bind-interfaces", "--local=/four.test/"]
        dns.run(["/usr/sbin/dnsmasq", *alone, *where, *known])
        dns.wait_port(53)
        yield made


def look_up(cluster: Cluster, folder: Path, how: str) -> list[dict[str, Any]]:
    asker, dns = (host.pods[0] for host in cluster.hosts)
    with store(folder / "store") as port, agents_of(cluster, folder, f"redis://127.0.0.1:{port}") as agents:
        # ports of its own: the kernel remembers for minutes how a pair of ports was translated
        asker.output([sys.executable, "-c", ASK, dns.address, how, str(QUERIES), str(next(PORTS))])
        settled(agents)
    return [s for s in spans_of(agents) if "four.test" in s["attributes"].get("dns.question.name", "")]


def pairs(found: list[dict[str, Any]]) -> int:
    """Queries whose two spans are one trace; no SERVER span may stand below another query's."""
    clients = {s["spanId"]: s for s in found if s["kind"] == CLIENT}
    joined = 0
    for server in (s for s in found if s["kind"] == SERVER):
        client = clients.get(server.get("parentSpanId", ""))
        if client is None:
            continue
        joined += 1
        assert client["agent"] == 0 and server["agent"] == 1
        assert client["name"] == server["name"] and client["traceId"] == server["traceId"]
        assert client["attributes"]["dns.question.name"] == server["attributes"]["dns.question.name"]
        assert server["attributes"]["zerospan.link.method"] == "dns_id"
    return joined


@pytest.mark.parametrize("how", ["unconnected", "connected", "one"])
def test_a_look_up_at_another_host(cluster: Cluster, tmp_path: Path, how: str) -> None:
    found = look_up(cluster, tmp_path, how)
    queries = QUERIES * (1 if how == "one" else 2)
    assert len([s for s in found if s["kind"] == CLIENT]) == len([s for s in found if s["kind"] == SERVER]) == queries
    assert pairs(found) == queries
    assert {s["attributes"].get("service.peer.name") for s in found if s["kind"] == CLIENT} == {"dnsmasq"}


def translated(node: Node, ports: str) -> None:
    """What the node sends for its pods to DNS servers leaves with its own address."""
    node.nft("add table ip four\ndelete table ip four\ntable ip four {\n chain out {\n"
             "  type nat hook postrouting priority 50\n"
             f"  ip protocol udp udp dport 53 snat to {node.address}{ports}\n }}\n}}\n")  # fmt: skip


@pytest.mark.parametrize(("ports", "kept"), [("", True), (":20000-29999", False)])
def test_through_snat(cluster: Cluster, tmp_path: Path, ports: str, kept: bool) -> None:
    one = cluster.hosts[0]
    translated(one, ports)
    try:
        found = look_up(cluster, tmp_path, "unconnected")
    finally:
        one.nft("delete table ip four")
    servers = [s for s in found if s["kind"] == SERVER]
    assert len(servers) == 2 * QUERIES
    assert {s["attributes"]["network.peer.address"] for s in servers} == {one.address}, "SNAT was not on the way"
    assert pairs(found) == (2 * QUERIES if kept else 0)
