"""Connections between pods on two nodes, at every interface of the way, against captures of the same packets."""

import subprocess
from collections.abc import Iterator

import pytest
from nic_net import ACK, SYN, Connection, Net
from nic_records import END, RESET, SOCKET, VXLAN, Points, agree, brief, until

from zerospan.exporter.source import nic_attach
from zerospan.exporter.source.capture import Capture, Filters
from zerospan.exporter.source.nic import Nics

NOBODY = Filters(pid=(1 << 22,))  # the hooks at system calls are not what is tested here


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    made = Net()
    yield made
    made.close()


@pytest.fixture(scope="module")
def capture() -> Iterator[Capture]:
    made = Capture(filters=NOBODY)
    yield made
    made.close()


@pytest.fixture(scope="module", params=[*nic_attach.WAYS, "tcx-each"])
def nics(request: pytest.FixtureRequest, net: Net, capture: Capture) -> Iterator[Nics]:
    way, _, each = request.param.partition("-")
    made = Nics(capture, netns=net.names, way=way, each=bool(each))
    made.start()
    until(lambda: len(made.interfaces()) == 8, 60)
    yield made
    made.stop()


@pytest.fixture
def points(nics: Nics, capture: Capture) -> Points:
    made = Points(capture, nics)
    made.drain()
    made.records = []
    return made


def places(net: Net) -> list[tuple[str, str, int]]:
    """(namespace, interface, tunnel) of each point, in the order of the way of a request."""
    (n1, n2), (p1, p2) = net.node, net.pod
    return [
        (p1, "eth0", 0), (n1, "vethp", 0), (n1, "vx0", 0), (n1, "eth0", VXLAN),
        (n2, "eth0", VXLAN), (n2, "vx0", 0), (n2, "vethp", 0), (p2, "eth0", 0),
    ]  # fmt: skip


@pytest.mark.parametrize("family", [4, 6])
def test_every_point_tells_every_run(net: Net, points: Points, family: int) -> None:
    """Small and large (segments of 64 KB) messages: each of eight points tells the same as its wire."""
    taps = {place: net.tap(*place[:2]) for place in places(net)}
    address = net.address if family == 4 else net.address6
    c = net.connect(net.pod[0], net.pod[1], address[1])
    sizes = [(20, 30), (1, 1), (5000, 70), (100, 300_000), (200_000, 10), (64, 64)]
    for request, answer in sizes:
        c.exchange(request, answer)
    port = c.port
    c.close()
    for place, tap in taps.items():
        points.until(lambda place=place: [r for r in points.at(*place[:2], port, place[2]) if r["flags"] & END])
        records = points.at(*place[:2], port, place[2])
        agree(records, tap, port)
        told = [r["prev_bytes"] for r in records[1:]]
        assert told == [n for pair in sizes for n in pair]
    first = [points.at(*place[:2], port, place[2])[0]["time_ns"] for place in places(net)]
    assert first == sorted(first)  # in the order of the way
    assert max(s.packets for s in taps[places(net)[0]].segments) > 10, "no segment was large"
    counted = points.counted()
    assert not {k for k in counted if k.startswith("ring_full") or k in ("nic_malformed", "nic_table_full")}, counted


def test_older_connection(net: Net) -> None:
    """Begun before anything was attached: the ends know the sequence numbers from their sockets, the rest none."""
    place, far, between = places(net)[0], places(net)[-1], places(net)[1]
    tap = net.tap(*place[:2])
    c = net.connect(net.pod[0], net.pod[1], net.address[1])
    for _ in range(3):
        c.exchange(100, 2000)
    syn = tap.isns(c.port)
    capture = Capture(filters=NOBODY)
    nics = Nics(capture, netns=net.names, way="tcx")
    nics.start()
    try:
        points = Points(capture, nics)
        later = net.tap(*place[:2])
        for size in (10, 70_000, 300):
            c.exchange(size, 2 * size)
        port = c.port
        c.close()
        points.until(lambda: [r for r in points.at(*far[:2], port) if r["flags"] & END])
        for where, known in ((place, True), (far, True), (between, False)):
            records = points.at(*where[:2], port)
            assert [r["prev_bytes"] for r in records[1:]] == [10, 20, 70_000, 140_000, 300, 600]
            for r in records:
                assert (r["isn_connecting"], r["isn_accepting"]) == (syn if known else (0, 0))
                assert bool(r["flags"] & SOCKET) == known
                assert bool(r["role"]) == known
        starts = [run.seq for run in later.runs(port)]
        assert [r["seq"] for r in points.at(*place[:2], port)[:-1]] == starts
        assert points.counted()["nic_midway"] >= 8
    finally:
        nics.stop()
        capture.close()


def drop(net: Net, rule: str) -> None:
    hook = "type filter hook ingress device vethp priority 0;"
    table = "\n".join(("table netdev zs {", "chain c {", hook, f"{rule} drop", "}", "}", ""))
    done = subprocess.run(
        ["ip", "netns", "exec", net.node[0], "nft", "-f", "-"], input=table, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def undrop(net: Net) -> None:
    subprocess.run(["ip", "netns", "exec", net.node[0], "nft", "delete table netdev zs"], capture_output=True)


def test_retransmits_show_where_packets_are_lost(net: Net, points: Points) -> None:
    """Dropped behind the first node's ingress: the points before it see the request again, those behind it once."""
    here, there = places(net)[:2], places(net)[2:]
    tap = net.tap(*here[0][:2])
    c = net.connect(net.pod[0], net.pod[1], net.address[1])
    c.exchange(50, 60)
    drop(net, f"tcp dport {c.port} ip length > 100")
    try:
        c.client.sendall(bytes(500))
        sent = until(lambda: len(s) >= 3 and s if (s := [s for s in tap.read() if s.length == 500]) else None)
    finally:
        undrop(net)
    assert len({s.seq for s in sent}) == 1
    assert len(c.server.recv(500)) == 500
    c.server.sendall(bytes(77))
    assert len(c.client.recv(77)) == 77
    port = c.port
    c.close()
    again = len([s for s in tap.read() if s.length == 500]) - 1
    assert again >= 2
    for place in (*here, *there):
        points.until(lambda place=place: [r for r in points.at(*place[:2], port, place[2]) if r["flags"] & END])
        records = points.at(*place[:2], port, place[2])
        assert [r["prev_bytes"] for r in records] == [0, 50, 60, 500, 77], [brief(r) for r in records]
        assert [r["prev_retransmits"] for r in records] == [0, 0, 0, again if place in here else 0, 0]
        assert records[2]["seq"] == sent[0].seq


def test_lost_first_segment_of_many(net: Net, points: Points) -> None:
    """Behind the loss the run begins with its middle: its first byte is told rightly, all its bytes counted."""
    behind = places(net)[2:]
    tap = net.tap(*places(net)[0][:2])
    c = net.connect(net.pod[0], net.pod[1], net.address[1])
    c.exchange(50, 60)
    start = tap.runs(c.port)[0].seq + 50
    drop(net, f"tcp dport {c.port} tcp sequence {start} ip length > 100")
    try:
        c.client.sendall(bytes(1000))
        c.client.sendall(bytes(600))
        c.client.sendall(bytes(700))
        until(lambda: len([s for s in tap.read() if s.seq == start]) >= 2)
    finally:
        undrop(net)
    left = 2300
    while left:
        left -= len(c.server.recv(left))
    c.server.sendall(bytes(5))
    assert len(c.client.recv(5)) == 5
    port = c.port
    c.close()
    for place in behind:
        points.until(lambda place=place: [r for r in points.at(*place[:2], port, place[2]) if r["flags"] & END])
        records = points.at(*place[:2], port, place[2])
        assert [r["prev_bytes"] for r in records] == [0, 50, 60, 2300, 5], [brief(r) for r in records]
        assert records[2]["seq"] == start


def test_reset_ends_a_run(net: Net, points: Points) -> None:
    c = net.connect(net.pod[0], net.pod[1], net.address[1])
    c.exchange(30, 40)
    c.client.sendall(bytes(11))
    assert len(c.server.recv(1)) == 1
    port = c.port
    c.server.close()  # unread bytes: an RST
    for place in places(net):
        (end,) = points.until(
            lambda place=place: [r for r in points.at(*place[:2], port, place[2]) if r["flags"] & END]
        )
        assert end["flags"] & RESET and end["prev_bytes"] == 11


def test_a_port_used_again_is_another_connection(net: Net, points: Points) -> None:
    """The same four addresses and ports: other sequence numbers, nothing carried over."""
    import socket

    place = places(net)[1]
    tap = net.tap(*place[:2])
    with net.within(net.pod[1]):
        listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((net.address[1], 0))
    listener.listen()
    port = listener.getsockname()[1]
    for size in (10, 20):
        with net.within(net.pod[0]):
            client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # no TIME_WAIT
        client.bind((net.address[0], 33333))
        client.connect((net.address[1], port))
        server = listener.accept()[0]
        Connection(client, server).exchange(size, size + 1)
        client.close()
        server.close()
    listener.close()
    points.until(lambda: len([r for r in points.at(*place[:2], port) if r["flags"] & END]) == 2)
    syns = [s.seq for s in tap.read() if s.flags & SYN and not s.flags & ACK]
    records = points.at(*place[:2], port)
    assert [r["prev_bytes"] for r in records] == [0, 10, 11, 0, 20, 21]
    assert [r["isn_connecting"] for r in records] == [syns[0]] * 3 + [syns[1]] * 3
    assert len({r["isn_accepting"] for r in records}) == 2


def test_silence_makes_no_record(net: Net, points: Points) -> None:
    """Keep-alive probes and empty connections are no runs."""
    import socket

    place = places(net)[0]
    tap = net.tap(*place[:2])
    c = net.connect(net.pod[0], net.pod[1], net.address[1])
    c.client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1)):
        c.client.setsockopt(socket.IPPROTO_TCP, option, value)
    c.exchange(5, 6)
    seen = len(points.until(lambda: len(r := points.at(*place[:2], c.port)) == 2 and r))
    quiet = tap.read()[-1]
    until(lambda: [s for s in tap.read() if s.seq == (quiet.ack - 1) % (1 << 32) or s.seq == quiet.seq - 1], 5)
    assert len(points.at(*place[:2], c.port)) == seen
    empty = net.connect(net.pod[0], net.pod[1], net.address[1])
    port = empty.port
    empty.close()
    assert not points.at(*place[:2], port)
    c.close()
