"""Where the ends of a connection really are (link/ends.pyx): told where translation hides it, never wrong, bounded."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import CLIENT, MS, SERVER, START, Rig, RigMaker, Span, engines, get, ok
from engine_wire import Process, Wire

rig = engines

CURL, SHOP = Process(10, "curl"), Process(20, "shop")
ENDS = ((CURL, 10), (SHOP, 21))
SERVICE, GATEWAY = ("10.96.0.1", 80), ("10.0.0.254", 61000)
POD, OTHER_POD = "10.1.0.7", "10.2.0.9"


def translated(r: Rig, watch: str = "both", n: int = 0) -> Wire:
    """A connection by a ClusterIP (DNAT), masqueraded by the node (SNAT)."""
    addresses = f"10.1.{n >> 8}.{n & 255}" if n else POD, f"10.2.{n >> 8}.{n & 255}" if n else OTHER_POD
    wire = Wire(r.kernel, *ENDS, addresses=addresses, watch=watch)
    wire.client.remote, wire.server.remote = SERVICE, GATEWAY
    return wire


def talk(wire: Wire, path: str = "/a", t: int = START) -> int:
    return wire.pass_on("server", ok(), wire.pass_on("client", get(path), t) + MS)


def peer(span: Span) -> tuple[str, int] | None:
    a = span.attributes
    return (a["zerospan.peer.address"], a["zerospan.peer.port"]) if "zerospan.peer.address" in a else None


def of(spans: list[Span], kind: int) -> Span:
    return next(s for s in spans if s.kind == kind)


def test_both_real_ends_are_named_behind_translation(rig: RigMaker) -> None:
    r = rig(CURL, SHOP)
    wire = translated(r)
    talk(wire)
    spans = r.run()
    client, server = of(spans, CLIENT), of(spans, SERVER)
    assert (peer(client), peer(server)) == ((OTHER_POD, 8080), (POD, wire.ports[0]))
    assert client.attributes["network.peer.address"] == SERVICE[0]
    assert server.attributes["network.peer.address"] == GATEWAY[0]
    assert (server.attributes["client.address"], server.attributes["client.port"]) == (POD, wire.ports[0])
    assert client.attributes["service.peer.name"] == "shop" and server.attributes["service.peer.name"] == "curl"
    assert "peer.service" in client.attributes and "peer.service" not in server.attributes


def test_a_later_request_of_the_connection_knows_it_too(rig: RigMaker) -> None:
    r = rig(CURL, SHOP)
    wire = translated(r)
    t = START
    for number in range(5):
        t = talk(wire, f"/{number}", t) + MS
    spans = r.run()
    assert {peer(s) for s in spans if s.kind == CLIENT} == {(OTHER_POD, 8080)}
    assert {peer(s) for s in spans if s.kind == SERVER} == {(POD, wire.ports[0])}


def test_a_port_alone_can_be_translated(rig: RigMaker) -> None:
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS, addresses=(POD, OTHER_POD))
    wire.client.remote = (OTHER_POD, 80)
    talk(wire)
    spans = r.run()
    assert (peer(of(spans, CLIENT)), peer(of(spans, SERVER))) == ((OTHER_POD, 8080), None)


def test_nothing_is_added_without_translation_or_with_one_end(rig: RigMaker) -> None:
    r = rig(CURL, SHOP)
    talk(Wire(r.kernel, *ENDS, addresses=(POD, OTHER_POD)))
    talk(translated(r, watch="client"))
    talk(translated(r, watch="server"))
    spans = r.run()
    assert len(spans) == 4
    assert {peer(s) for s in spans} == {None}


def test_many_connections_are_told_apart(rig: RigMaker) -> None:
    r = rig(CURL, SHOP)
    wires = {f"/{n}": translated(r, n=n) for n in range(1, 2000)}
    asked = {path: wire.pass_on("client", get(path), START + MS * n) for n, (path, wire) in enumerate(wires.items())}
    for path, wire in wires.items():
        wire.pass_on("server", ok(), asked[path] + 3000 * MS)
    for span in r.run():
        end = wires[span.path].server.local if span.kind == CLIENT else wires[span.path].client.local
        assert peer(span) == end


def test_what_finds_no_room_is_left_out_and_counted(rig: RigMaker) -> None:
    """40,000 connections of which only one end is seen, between the two ends of another: its entry has given way."""
    r = rig(CURL, SHOP, max_connections=1 << 17)
    wire = translated(r)
    wire.client.send(get("/a"), START)
    for n in range(40_000):
        other = Wire(r.kernel, *ENDS, addresses=(POD, OTHER_POD), watch="client")
        other.client.conn_id = r.kernel.new_id()
        other.client._announce(START + n, CURL, 10)
    t = START + 50 * MS
    wire.server.recv(get("/a"), t)
    wire.server.send(ok(), t + MS)
    wire.client.recv(ok(), t + 2 * MS)
    spans = r.run()
    assert len(spans) == 2
    assert peer(of(spans, SERVER)) is None  # the client's end is forgotten
    assert peer(of(spans, CLIENT)) == (OTHER_POD, 8080)  # the server's came later
    assert r.engine.links()["ends_replaced"] > 10_000
    assert r.engine.memory()["ends"] <= 1 << 20
