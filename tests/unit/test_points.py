"""Points of the way: spans of network interfaces and zerospan.hop.* against what the packets did."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import (
    CLIENT,
    M64,
    MS,
    SERVER,
    START,
    US,
    Rig,
    RigMaker,
    S,
    Span,
    client_id,
    engines,
    get,
    hash64,
    ok,
    request_key,
    server_id,
)  # fmt: skip
from engine_nic import VXLAN, Nic
from engine_nic import Path as Way
from engine_wire import Process, Wire

from zerospan.exporter.link.sequences import Sequences
from zerospan.exporter.metrics.exposition import Exposition

rig = engines
INTERNAL = 1
CURL, SHOP = Process(10, "curl"), Process(20, "shop")
POINT = {"client.pod": 2, "client.node": 3, "server.node": 4, "server.pod": 5, "gateway.node": 7}
HOPS = ("client_process", "client_host", "network", "server_host", "server_process")


def two_nodes(kernel: Any, *, isns: bool = True) -> list[tuple[Nic, int]]:
    """Both ends of the client's veth, tunnel device and uplink of its node; the server's in reverse order."""
    tunnel = {"tunnel": VXLAN, "vni": 42, "outer": ("192.0.2.1", "192.0.2.2")}
    nics = [
        (Nic(kernel, 1, 2, "eth0", "pod", True, inside=True), 10 * US),
        (Nic(kernel, 9, 5, "veth1", "pod", False), 15 * US),
        (Nic(kernel, 9, 6, "vxlan0", "tunnel", True), 30 * US),
        (Nic(kernel, 9, 7, "eth0", "node", True, **tunnel), 35 * US),
        (Nic(kernel, 8, 7, "eth0", "node", False, **tunnel), 535 * US),
        (Nic(kernel, 8, 6, "vxlan0", "tunnel", False), 540 * US),
        (Nic(kernel, 8, 5, "veth9", "pod", True), 550 * US),
        (Nic(kernel, 2, 2, "eth0", "pod", False, inside=True), 555 * US),
    ]
    for nic, _ in nics:
        nic.isns = isns
    return nics


ROLES = ["client.pod"] * 2 + ["client.node"] * 2 + ["server.node"] * 2 + ["server.pod"] * 2


def start(
    rig: RigMaker, *, watch: str = "both", isns: bool = True, known: bool = True, **options: Any
) -> tuple[Rig, Way]:
    r = rig(CURL, SHOP, **options)
    wire = Wire(r.kernel, (CURL, 11), (SHOP, 21), addresses=("10.1.0.2", "10.2.0.2"), watch=watch, known=known)
    nics = two_nodes(r.kernel, isns=isns)
    for nic, _ in nics:
        r.engine.interfaces.set(*nic.told)
    return r, Way(wire, nics, 570 * US)


def points(spans: list[Span]) -> list[Span]:
    return sorted((s for s in spans if s.kind == INTERNAL), key=lambda s: s.start)


def one(spans: list[Span], kind: int) -> Span:
    (found,) = [s for s in spans if s.kind == kind]
    return found


def hops(span: Span) -> dict[str, int]:
    return {name: span.attributes[f"zerospan.hop.{name}"] for name in HOPS if f"zerospan.hop.{name}" in span.attributes}


def test_each_point_of_the_way_is_a_span_of_the_same_trace(rig: RigMaker) -> None:
    r, way = start(rig)
    ask, answer = get("/cart"), ok(b"x" * 4000)
    t = way.pass_on("client", ask, START)
    t = way.pass_on("server", answer, t + 5 * MS, last=300 * US)
    way.close(t + MS)
    spans = r.run(5)
    found = points(spans)
    client, server = one(spans, CLIENT), one(spans, SERVER)
    key = request_key(way.wire.isns, way.wire.seq(0))
    assert [s.attributes["zerospan.point"] for s in found] == ROLES
    assert [s.attributes["network.interface.name"] for s in found] == [n.name for n, _ in way.nics]
    assert [s.name for s in found] == [f"{role} {n.name}" for role, (n, _) in zip(ROLES, way.nics, strict=True)]
    assert {s.service for s in found} == {"zerospan-network"}
    assert {s.trace_id for s in spans} == {client.trace_id}
    assert {s.parent_id for s in found} == {client.span_id} and server.parent_id == client.span_id
    for span, (nic, away) in zip(found, way.nics, strict=True):
        second = hash64(nic.cookie, nic.ifindex << 16 | nic.tunnel << 1 | nic.out)
        assert span.span_id == f"{hash64(hash64(key, POINT[span.attributes['zerospan.point']]), second):016x}"
        assert span.start == START + away
        a = span.attributes
        assert (a["zerospan.request.bytes"], a["zerospan.request.packets"]) == (len(ask), 1)
        assert (a["zerospan.response.bytes"], a["zerospan.response.packets"]) == (len(answer), 3)
        assert a["zerospan.tcp.retransmits"] == 0
        assert (a["source.address"], a["destination.address"], a["destination.port"]) == ("10.1.0.2", "10.2.0.2", 8080)
        assert (a["zerospan.netns"], a["zerospan.interface.mac"]) == (f"ns{nic.cookie}", "02:00:00:00:00:01")
        assert a["zerospan.link.method"] == "tcp_isn"
        tunnel = {k.removeprefix("zerospan.tunnel."): v for k, v in a.items() if k.startswith("zerospan.tunnel.")}
        outer = {"type": "vxlan", "id": 42, "source.address": "192.0.2.1", "destination.address": "192.0.2.2"}
        assert tunnel == (outer if nic.tunnel else {})
    assert client.attributes["zerospan.point"] == "client.process"
    assert server.attributes["zerospan.point"] == "server.process"
    assert sum(hops(client).values()) == client.end - client.start and len(hops(client)) == 5
    assert r.counts["nic_unmatched"] == r.counts["nic_gaps"] == 0


@pytest.mark.parametrize("where", ["client_process", "client_host", "network", "server_host", "server_process"])
def test_the_slow_place_is_named(rig: RigMaker, where: str) -> None:
    """Client slow, server not: where is the time? 200 ms are spent in one place; the answer names it."""
    r, way = start(rig)
    extra, late, work = 100 * MS, 0, 2 * MS
    if where in ("client_host", "network", "server_host"):
        first = {"client_host": 2, "network": 4, "server_host": 6}[where]
        way.nics = [(n, away + (extra if i >= first else 0)) for i, (n, away) in enumerate(way.nics)]
        way.to_server += extra
    elif where == "client_process":
        late = 2 * extra
    else:
        work += 2 * extra
    t = way.pass_on("client", get("/slow"), START)
    t = way.pass_on("server", ok(), t + work, read_late=late)
    way.close(t + MS)
    spans = r.run(5)
    client, server = one(spans, CLIENT), one(spans, SERVER)
    shares = hops(client)
    assert sum(shares.values()) == client.end - client.start
    assert max(shares, key=shares.__getitem__) == where
    assert abs(shares[where] - 2 * extra) < 5 * MS
    assert (server.end - server.start > extra) == (where == "server_process")


def test_what_waits_in_front_of_the_server_is_its_hosts_time(rig: RigMaker) -> None:
    """A full listen backlog: the request lies in the server's socket for 300 ms before it is read."""
    r, way = start(rig)
    t = way.pass_on("client", get("/backlog"), START, read_late=300 * MS)
    t = way.pass_on("server", ok(), t + MS)
    way.close(t + MS)
    shares = hops(one(r.run(5), CLIENT))
    assert 300 * MS <= shares["server_host"] < 302 * MS and shares["server_process"] < 2 * MS


def test_keep_alive_and_silence(rig: RigMaker) -> None:
    """Each exchange of a connection is one span at each point; the end of the last is told by silence."""
    r, way = start(rig)
    t = START
    for i in range(20):
        t = way.pass_on("client", get(f"/{i}"), t + 3 * MS)
        t = way.pass_on("server", ok(), t + MS)
        r.feed()
        r.balance()
    for nic, _ in way.nics:
        nic.silence(way.wire, t + 500 * MS)
    spans = r.run(5)
    found = points(spans)
    assert len(found) == 20 * 8
    known = {s.span_id: s for s in spans}
    for span in found:
        parent = known[span.parent_id]
        assert parent.kind == CLIENT and parent.start - MS < span.start and span.end < parent.end
        assert span.attributes["zerospan.response.packets"] == 1
    assert all(len(hops(s)) == 5 for s in spans if s.kind == CLIENT)


def test_an_end_that_is_never_told(rig: RigMaker) -> None:
    """An idle connection of whose last answer nothing more is heard: spans all the same, ended by the process,
    without sizes of the answer; hops are those of the processes alone."""
    r, way = start(rig)
    t = way.pass_on("server", ok(), way.pass_on("client", get("/idle"), START) + MS)
    spans = r.run(30)
    found = points(spans)
    assert len(found) == 8
    assert all(
        "zerospan.response.bytes" not in s.attributes and s.attributes["zerospan.request.packets"] == 1 for s in found
    )
    assert {s.trace_id for s in found} == {one(spans, CLIENT).trace_id}
    assert all(s.end <= t for s in found)
    assert set(hops(one(spans, CLIENT))) == {"network", "server_process"}


def test_only_the_server_was_seen(rig: RigMaker) -> None:
    r, way = start(rig, watch="server")
    t = way.pass_on("server", ok(), way.pass_on("client", get("/x"), START) + MS)
    way.close(t + MS)
    spans = r.run(5)
    assert {s.parent_id for s in points(spans)} == {one(spans, SERVER).span_id} and len(points(spans)) == 8


def test_no_process_was_seen(rig: RigMaker) -> None:
    """Points of requests of which nobody knows anything are counted and left out."""
    r, way = start(rig, watch="none")
    t = way.pass_on("server", ok(), way.pass_on("client", get("/x"), START) + MS)
    way.close(t + MS)
    assert r.run(5) == []
    assert r.counts["nic_unmatched"] == r.counts["seen"] == 8


def test_the_agents_own_requests_have_no_points(rig: RigMaker) -> None:
    """Points never count on the span of a process that was dropped."""
    r = rig(CURL, Process(60, "zerospan", agent=True))
    wire = Wire(r.kernel, (CURL, 11), (Process(60, "zerospan", agent=True), 60))
    nic = Nic(r.kernel, 1, 2, "eth0", "pod", True, inside=True)
    r.engine.interfaces.set(*nic.told)
    way = Way(wire, [(nic, 5 * US)], 10 * US)
    t = way.pass_on("server", ok(), way.pass_on("client", get("/metrics"), START) + MS)
    way.close(t + MS)
    assert r.run(5) == []
    assert (r.counts["nic_unmatched"], r.counts["own"]) == (1, 1)


def test_interfaces_of_which_nothing_is_known(rig: RigMaker) -> None:
    r, way = start(rig)
    t = way.pass_on("server", ok(), way.pass_on("client", get("/x"), START) + MS)
    way.close(t + MS)
    gone, _ = way.nics[0]
    r.feed()
    r.engine.interfaces.remove(gone.cookie, gone.ifindex)  # its spans are held still
    stranger = Nic(r.kernel, 77, 1, "lo", "node", True)
    other = Way(Wire(r.kernel, (CURL, 11), (SHOP, 21)), [(stranger, 0)], 10 * US)
    t = other.pass_on("server", ok(), other.pass_on("client", get("/y"), t) + MS)
    other.close(t + MS)
    assert len(points(r.run(5))) == 8
    assert r.counts["nic_no_interface"] == 1
    assert len(r.engine.interfaces) == 7  # type: ignore[arg-type]


def test_the_newest_pairs_of_sequence_numbers_are_not_replaced() -> None:
    """An interface asks for its request's pair after a while: what came in between must not have cost it its place."""
    pairs = Sequences()
    room = pairs.nbytes() // 16
    chance = random.Random(7)
    told = {(chance.getrandbits(32), chance.getrandbits(32)): i + 1 for i in range(3 * room)}
    for (request, response), key in told.items():
        pairs.note(request, response, key)
    newest = list(told.items())[-room // 8 :]
    assert [key for (request, response), key in newest if pairs.key(request, response) != key] == []
    (request, response), key = newest[-1]
    pairs.note(request, response, key)  # the other end of the same request
    assert pairs.key(request, response) == key
    pairs.note(request, response, key + 1)
    assert pairs.key(request, response) == 0, "two requests have this pair"


def test_sequence_numbers_stand_for_unknown_isns(rig: RigMaker) -> None:
    """A point that met a connection midway: (request seq, response seq) against the process's own."""
    r, way = start(rig, isns=False)
    way.nics[0][0].isns = True  # something makes the agent look at interfaces at all
    t = START
    for i in range(3):
        t = way.pass_on("client", get(f"/{i}"), t + 3 * MS)
        t = way.pass_on("server", ok(), t + MS)
        r.feed()
    way.close(t + MS)
    spans = r.run(5)
    calls = {s.span_id: s for s in spans if s.kind == CLIENT}
    found = points(spans)
    assert len(calls) == 3 and len(found) == 24
    for span in found:
        assert calls[span.parent_id].start - MS < span.start < calls[span.parent_id].end
    methods = [s.attributes["zerospan.link.method"] for s in found]
    assert methods.count("tcp_seq") == 21 and methods.count("tcp_isn") == 3


def test_nat_does_not_hide_a_point(rig: RigMaker) -> None:
    """SNAT and DNAT on the way: the addresses differ, the trace is whole, each span shows what its packets had."""
    r, way = start(rig)
    for nic, _ in way.nics[4:]:
        nic.addresses = (("192.0.2.1", 61000), ("10.2.0.2", 8080))
    for nic, _ in way.nics[:2]:
        nic.addresses = (("10.1.0.2", way.wire.ports[0]), ("10.96.0.1", 80))
    t = way.pass_on("server", ok(), way.pass_on("client", get("/x"), START) + MS)
    way.close(t + MS)
    spans = r.run(5)
    found = points(spans)
    assert {s.parent_id for s in found} == {one(spans, CLIENT).span_id} and len(found) == 8
    assert [(s.attributes["source.address"], s.attributes["destination.address"]) for s in (found[0], found[-1])] == [
        ("10.1.0.2", "10.96.0.1"), ("192.0.2.1", "10.2.0.2"),
    ]  # fmt: skip


def test_hairpin(rig: RigMaker) -> None:
    """The request enters and leaves by the same interface with the same addresses: two points, two spans."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, (CURL, 11), (SHOP, 21))
    inward, outward = Nic(r.kernel, 1, 3, "eth0", "node", False), Nic(r.kernel, 1, 3, "eth0", "node", True)
    r.engine.interfaces.set(*inward.told)
    way = Way(wire, [(inward, 10 * US), (outward, 20 * US)], 30 * US)
    for i in range(2):
        t = way.pass_on("server", ok(), way.pass_on("client", get(f"/{i}"), START + i * S) + MS)
    way.close(t + MS)
    spans = points(r.run(5))
    assert [s.attributes["zerospan.point"] for s in spans] == ["server.node", "client.node"] * 2
    assert r.counts["nic_gaps"] == 0


def test_retransmits_are_those_of_this_request(rig: RigMaker) -> None:
    r, way = start(rig)
    lossy = way.nics[3][0]
    t = way.pass_on("server", ok(), way.pass_on("client", get("/0"), START) + MS)
    t = way.pass_on("client", get("/1"), t + MS, lossy=lossy)
    t = way.pass_on("server", ok(), t + MS)
    way.close(t + MS)
    spans = r.run(5)
    calls = {s.span_id: s.path for s in spans if s.kind == CLIENT}
    retransmits = {
        p: [s.attributes["zerospan.tcp.retransmits"] for s in points(spans) if calls[s.parent_id] == p]
        for p in calls.values()
    }
    assert retransmits == {"/0": [0] * 8, "/1": [1] * 4 + [0] * 4}


def test_a_body_after_100_continue_belongs_to_its_request(rig: RigMaker) -> None:
    """Two runs of each side are one request to the processes; so they are to the points."""
    r, way = start(rig)
    head = b"POST /up HTTP/1.1\r\nHost: shop\r\nContent-Length: 3000\r\nExpect: 100-continue\r\n\r\n"
    t = way.pass_on("client", head, START)
    t = way.pass_on("server", b"HTTP/1.1 100 Continue\r\n\r\n", t + MS)
    t = way.pass_on("client", b"b" * 3000, t + 50 * MS)
    t = way.pass_on("server", ok(), t + 20 * MS)
    way.close(t + MS)
    spans = r.run(5)
    client = one(spans, CLIENT)
    found = points(spans)
    assert len(found) == 8
    assert all(s.attributes["zerospan.request.bytes"] == len(head) + 3000 for s in found)
    assert all(70 * MS < s.end - s.start < client.end - client.start + MS for s in found)
    shares = hops(client)
    assert sum(shares.values()) == client.end - client.start
    assert shares["server_process"] > 70 * MS and shares["client_process"] < MS


def test_an_answer_that_pauses_is_one_answer(rig: RigMaker) -> None:
    """Server-sent events: the sweep takes the pauses for the end; the next event goes on with the same run."""
    r, way = start(rig)
    t = way.pass_on("client", get("/events"), START)
    t = way.pass_on("server", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", t + MS)
    for _ in range(5):
        for nic, _ in way.nics:
            nic.silence(way.wire, t + 600 * MS)
        r.feed()
        r.settle(t + S)
        t = way.pass_on("server", b"6\r\nhello\n\r\n", t + 2 * S)
    t = way.pass_on("server", b"0\r\n\r\n", t + S)
    way.close(t + MS)
    spans = r.run(5)
    client = one(spans, CLIENT)
    found = points(spans)
    assert len(found) == 8
    assert all(s.end - s.start > 10 * S for s in found)
    assert {s.attributes["zerospan.response.packets"] for s in found} == {7}
    assert sum(hops(client).values()) == client.end - client.start


def test_a_request_that_waits_long(rig: RigMaker) -> None:
    r, way = start(rig)
    t = way.pass_on("client", get("/poll"), START)
    for nic, _ in way.nics:
        nic.silence(way.wire, t + S)
    r.feed()
    for _ in range(60):
        r.settle(r.now + S // 2)
    t = way.pass_on("server", ok(), t + 31 * S)
    way.close(t + MS)
    spans = r.run(5)
    assert len(points(spans)) == 8
    assert all(s.end - s.start > 31 * S for s in points(spans))


def test_a_reset_before_the_answer_makes_no_exchange(rig: RigMaker) -> None:
    r, way = start(rig)
    t = way.pass_on("client", get("/x"), START)
    way.wire.close(t + MS, error=104)
    for nic, _ in way.nics:
        nic.close(way.wire, t + MS, reset=True)
    spans = r.run(5)
    assert points(spans) == [] and len(spans) == 2
    links: Any = r.engine.links()
    assert links["connections_at_interfaces"] == 0


def test_the_ports_of_an_old_connection_again(rig: RigMaker) -> None:
    """Another connection with the same addresses and ports, whose beginning and the other's end were both not told."""
    r, way = start(rig)
    t = way.pass_on("server", ok(), way.pass_on("client", get("/old"), START) + MS)
    wire = Wire(r.kernel, (CURL, 12), (SHOP, 22), addresses=("10.1.0.2", "10.2.0.2"), ports=way.wire.ports)
    new = Way(wire, way.nics, 570 * US)
    t = new.pass_on("server", ok(), new.pass_on("client", get("/new"), t + 10 * S) + MS)
    new.close(t + MS)
    spans = r.run(70)
    calls = {s.span_id: s.path for s in spans if s.kind == CLIENT}
    assert {calls[s.parent_id] for s in points(spans)} >= {"/new"}
    assert sum(calls[s.parent_id] == "/new" for s in points(spans)) == 8


def test_eviction_is_counted_and_bounded(rig: RigMaker) -> None:
    r = rig(CURL, SHOP, points_bytes=1)
    nic = Nic(r.kernel, 1, 2, "eth0", "pod", True, inside=True)
    r.engine.interfaces.set(*nic.told)
    ways = [Way(Wire(r.kernel, (CURL, 11), (SHOP, 21)), [(nic, 5 * US)], 10 * US) for _ in range(100)]
    t = START
    for way in ways:
        t = way.pass_on("client", get("/a"), t + US)
    for way in ways:
        t = way.pass_on("server", ok(), t + US)
        way.close(t)
    r.feed()
    links: Any = r.engine.links()
    assert links["connections_at_interfaces"] <= 32
    spans = r.run(5)
    assert r.counts["nic_evicted"] >= 68
    assert len(points(spans)) == 100 - r.counts["nic_evicted"] or len(points(spans)) < 100
    assert {s.parent_id for s in points(spans)} <= {s.span_id for s in spans if s.kind == CLIENT}


def test_remote_points(rig: RigMaker) -> None:
    """What another host says of its points: durations only, whatever its clock."""
    r, way = start(rig, watch="client")
    way.nics = way.nics[:4]
    t = way.pass_on("client", get("/x"), START)
    t = way.pass_on("server", ok(), t + 8 * MS)
    way.close(t + MS)
    r.feed()
    key = request_key(way.wire.isns, way.wire.seq(0))
    assert [point for point, _ in r.engine.hops.export(key)] == [1, 2, 3]
    r.engine.hops.import_remote(key, 4, 9 * MS - 2 * 535 * US)
    r.engine.hops.import_remote(key, 6, 5 * MS)
    client = one(r.run(5), CLIENT)
    shares = hops(client)
    assert sum(shares.values()) == client.end - client.start
    assert shares["server_process"] == 5 * MS and len(shares) == 5


def test_without_interfaces_nothing_changes(rig: RigMaker) -> None:
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, (CURL, 11), (SHOP, 21))
    t = wire.pass_on("client", get("/x"), START)
    wire.pass_on("server", ok(), t + MS)
    spans = r.run(5)
    assert len(spans) == 2 and hops(one(spans, CLIENT)) == {}
    key = request_key(wire.isns, wire.seq(0))
    assert r.engine.hops.export(key) == []
    assert (client_id(key), server_id(key)) == (one(spans, CLIENT).span_id, one(spans, SERVER).span_id)


def test_no_metrics_and_no_log_lines(rig: RigMaker) -> None:
    r, way = start(rig, signals=("traces", "logs", "loki"))
    t = way.pass_on("server", ok(), way.pass_on("client", get("/x"), START) + MS)
    way.close(t + MS)
    counted = {"traces": 0, "logs": 0, "loki": 0}
    took = r._took

    def count(batches: Any) -> list[Span]:
        for signal, _, n in batches:
            counted[signal] += n
        return took(batches)

    r._took = count  # type: ignore[method-assign]
    r.run(5)
    text = Exposition(r.engine.red, r.engine.routes, r.engine.processes.service_names).render(False, [])
    assert b'job="curl"' in text and b"zerospan-network" not in text and b"SPAN_KIND_INTERNAL" not in text
    assert counted == {"traces": 10, "logs": 1, "loki": 1}


# ---- shares ----


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({2: 90, 3: 80, 4: 60, 5: 50, 6: 10}, (10, 10, 20, 50, 10)),
        ({3: 80, 4: 60, 6: 10}, (20, None, 20, 50, 10)),
        ({2: 90, 4: 60, 6: 10}, (10, None, 30, 50, 10)),
        ({2: 90, 3: 80, 5: 50, 6: 10}, (10, 10, 30, 40, 10)),
        ({2: 90, 5: 50, 6: 10}, (10, None, 40, 40, 10)),
        ({2: 90, 3: 80, 6: 10}, (10, 10, 70, None, 10)),
        ({2: 90, 3: 80}, (10, 10, 80, None, None)),
        ({4: 60, 5: 50}, (None, None, 40, 10, 50)),
        ({6: 10}, (None, None, 90, None, 10)),
        ({}, (None,) * 5),
        ({2: 120, 3: 80, 4: 85, 6: 99}, (0, 20, 0, 0, 80)),  # clamped to what is outside
    ],
)  # fmt: skip
def test_missing_points_merge_into_their_neighbours(
    rig: RigMaker, known: dict[int, int], expected: tuple[int | None, ...]
) -> None:
    r = rig(CURL)
    for point, took in known.items():
        r.engine.hops.import_remote(5, point, took * MS // 10)
    found = r.engine.hops.shares(5, 10 * MS)
    assert found == {name: took * MS // 10 for name, took in zip(HOPS, expected, strict=True) if took is not None}
    assert sum(found.values()) == (10 * MS if known else 0)


def test_a_run_of_several_requests_is_no_hop(rig: RigMaker) -> None:
    """Pipelining: the interface's exchange lasts until the last answer, far longer than the first call took."""
    r = rig(CURL)
    r.engine.hops.import_remote(5, 2, 500 * MS)
    r.engine.hops.import_remote(5, 6, 4 * MS)
    assert r.engine.hops.shares(5, 10 * MS) == {"network": 6 * MS, "server_process": 4 * MS}


def test_hops_are_bounded(rig: RigMaker) -> None:
    r = rig(CURL, hops_bytes=1 << 20)
    for i in range(1, 100_000):
        r.engine.hops.import_remote(hash64(i, i) & M64, 2, i)
    memory = r.engine.memory()
    assert memory["hops"] <= 1 << 20
    links: Any = r.engine.links()
    assert links["hops_forgotten"] > 80_000
    assert r.engine.hops.export(hash64(99_999, 99_999)) == [(2, 99_999)]
