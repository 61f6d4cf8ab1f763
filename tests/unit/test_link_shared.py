"""Traces over several hosts: engines that share what they know through a store, in any order and at any speed."""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import CLIENT, MS, SERVER, US, RigMaker, S, Span, client_id, engines, get, ok, request_key, server_id
from engine_nic import Nic
from engine_wire import Process
from shared_kit import Cross, Hosts, answer, puts, slow
from test_link_threads import check_traces

from zerospan.exporter.link import shared_codec as codec
from zerospan.exporter.link.shared_wire import commands

rig = engines

CURL, A, B, C = Process(10, "curl"), Process(20, "a"), Process(30, "b"), Process(40, "c")
ALL = (CURL, A, B, C)


def chain(hosts: Hosts, places: tuple[int, int, int, int], path: str, base: int, *headers: str) -> list[Cross]:
    """curl -> a -> b -> c, one thread each; the answers come back in turn. places: the host of each."""
    ends = [(place, process, process.tgid + base) for place, process in zip(places, ALL, strict=True)]
    wires = [hosts.cross(a, b) for a, b in zip(ends, ends[1:], strict=False)]
    for i, wire in enumerate(wires):
        wire.send(f"{path}/{i}", *(headers if i == 0 else ()), tids=(ends[i][2], ends[i + 1][2]))
    return wires


def unwind(wires: list[Cross], base: int) -> None:
    for i in reversed(range(len(wires))):
        wires[i].answer(tids=(ALL[i + 1].tgid + base, ALL[i].tgid + base))


def whole(spans: list[Span], path: str) -> set[str]:
    """Six spans, each below the one before it. Returns the trace ids."""
    mine = {(s.path.rpartition("/")[2], s.kind): s for s in spans if s.path.rpartition("/")[0] == path}
    assert len(mine) == 6
    for i in range(3):
        client, server = mine[(str(i), CLIENT)], mine[(str(i), SERVER)]
        assert server.parent_id == client.span_id and server.link == "tcp_isn"
        assert client.parent_id == ("" if i == 0 else mine[(str(i - 1), SERVER)].span_id)
        assert client.attributes.get("service.peer.name") == server.service
    return {s.trace_id for s in mine.values()}


@pytest.mark.parametrize("places", [(0, 1, 2, 3), (0, 0, 1, 2), (0, 1, 1, 0), (0, 1, 0, 1), (0, 0, 0, 1), (0, 0, 0, 0)])
def test_a_trace_over_hosts(rig: RigMaker, places: tuple[int, int, int, int]) -> None:
    """Whoever runs where, also back on the first host: one trace, all parents, the peer's name on both sides."""
    hosts = Hosts(rig, 4, processes=ALL)
    wires = chain(hosts, places, "/x", 1)
    hosts.run(0.5)
    unwind(wires, 1)
    hosts.run(3)
    spans = hosts.spans()
    assert len(whole(spans, "/x")) == 1
    check_traces(spans)
    crossing = sum(a != b for a, b in zip(places, places[1:], strict=False))
    assert hosts.counts("missing") == hosts.counts("late") == hosts.counts("bad") == 0
    told = {key for key, _ in hosts.values.items()}
    assert len(told) == 2 * crossing, "each end of a request that crosses is told, and nothing else"


@pytest.mark.parametrize("seed", range(12))
def test_any_order_of_arrival(rig: RigMaker, seed: int) -> None:
    """Forty requests at once over five hosts, each message to and from the store up to 300 ms late: all whole, none
    mixed, and every span leaves when its hold ends."""
    rng = random.Random(seed)
    hosts = Hosts(rig, 5, latency=slow(rng, 300), processes=ALL, hold_s=3)
    under_way = []
    for i in range(40):
        places = tuple(rng.randrange(5) for _ in range(4))
        under_way.append((i, chain(hosts, (places[0], places[1], places[2], places[3]), f"/r{i}", 100 * (i + 1))))
        if rng.random() < 0.5:
            hosts.run(0.016)
    rng.shuffle(under_way)
    for i, wires in under_way:
        unwind(wires, 100 * (i + 1))
        if rng.random() < 0.3:
            hosts.run(0.016)
    hosts.run(3.2)
    for host in hosts.hosts:
        assert not host.rig.in_flight["held"], "a span waited for the store"
    spans = hosts.spans()
    assert len(spans) == 240
    traces = [whole(spans, f"/r{i}") for i in range(40)]
    assert all(len(t) == 1 for t in traces) and len(set.union(*traces)) == 40


def test_a_trace_context_on_the_way(rig: RigMaker) -> None:
    """curl sends a traceparent: all hosts take its trace id, though the others never see the header."""
    hosts = Hosts(rig, 4, processes=ALL)
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    wires = chain(hosts, (0, 1, 2, 3), "/x", 1, f"traceparent: 00-{trace}-{parent}-01")
    hosts.run(0.5)
    unwind(wires, 1)
    hosts.run(3)
    assert {s.trace_id for s in hosts.spans()} == {trace}


def test_a_cause_that_only_the_answer_tells(rig: RigMaker) -> None:
    """A worker's call is linked when its request is answered, ten seconds later. The host that serves the call is told
    that the cause is pending: its span waits for it, and is in the right trace then."""
    hosts = Hosts(rig, 3, processes=ALL, hold_s=1)
    first = hosts.cross((0, CURL, 11), (1, A, 21))
    call = hosts.cross((1, A, 22), (2, B, 31))
    first.send("/in", tids=(11, 21))
    call.send("/out", tids=(22, 31))
    call.answer(tids=(31, 22))
    hosts.run(9)
    assert hosts[2].rig.spans == [], "it left without its trace"
    first.answer(tids=(22, 11))
    hosts.run(3)
    left = {(s.path, s.kind): s for host in hosts.hosts for s in host.rig.spans}
    assert len(left) == 4 and len({s.trace_id for s in left.values()}) == 1
    assert left[("/out", CLIENT)].parent_id == left[("/in", SERVER)].span_id
    assert left[("/out", SERVER)].parent_id == left[("/out", CLIENT)].span_id


def test_a_pending_cause_does_not_hold_beyond_max_hold(rig: RigMaker) -> None:
    hosts = Hosts(rig, 3, processes=ALL, hold_s=1, max_hold_s=4)
    first = hosts.cross((0, CURL, 11), (1, A, 21))
    call = hosts.cross((1, A, 22), (2, B, 31))
    first.send("/in", tids=(11, 21))
    call.send("/out", tids=(22, 31))
    call.answer(tids=(31, 22))
    hosts.run(3.5)
    assert hosts[2].rig.spans == []
    hosts.run(1)
    (span,) = hosts[2].rig.spans
    assert span.parent_id == client_id(request_key(_isns(call), _seq(call)))


def _isns(wire: Cross) -> tuple[int, int]:
    end = wire.ends[0][0]
    return end.isn, end.peer_isn


def _seq(wire: Cross) -> int:
    return (wire.ends[0][0].isn + 1) % 2**32


def test_the_store_is_away(rig: RigMaker) -> None:
    """Spans leave on time with what is known, counted; later traces are whole again."""
    hosts = Hosts(rig, 4, processes=ALL, hold_s=2)
    hosts.up = False
    wires = chain(hosts, (0, 1, 2, 3), "/x", 1)
    hosts.run(0.1)
    unwind(wires, 1)
    ended = hosts.t
    while hosts.t <= ended + int(2.02 * S):
        hosts.run(0.008)
    assert sum(len(host.rig.spans) for host in hosts.hosts) == 6, "a span waited for the store"
    assert hosts.counts("missing") == 3
    hosts.up = True
    wires = chain(hosts, (0, 1, 2, 3), "/y", 2)
    hosts.run(0.5)
    unwind(wires, 2)
    hosts.run(3)
    assert len(whole(hosts.spans(), "/y")) == 1
    assert hosts.counts("missing") == 3


def test_a_store_that_was_emptied(rig: RigMaker) -> None:
    """What is under way is told again after a reconnect: a request that began before it is whole after it."""
    hosts = Hosts(rig, 4, processes=ALL)
    hosts.latency = lambda: 10 * MS
    wires = chain(hosts, (0, 1, 2, 3), "/x", 1)
    hosts.run(0.04)  # told, and not asked yet by all
    hosts.up = False
    hosts.run(0.2)
    hosts.values.clear()
    hosts.on_way.clear()
    for host in hosts.hosts:
        host.inbox.clear()
        host.shared.forgotten()
    hosts.up = True
    hosts.run(4)
    unwind(wires, 1)
    hosts.run(3)
    assert len(whole(hosts.spans(), "/x")) == 1


def test_a_long_request_is_kept_alive(rig: RigMaker) -> None:
    """What is told is told again before the store forgets it."""
    hosts = Hosts(rig, 2, processes=ALL, timeout_s=600)
    wire = hosts.cross((0, CURL, 11), (1, A, 21))
    wire.send("/x", tids=(11, 21))
    hosts.run(1)
    told = hosts.counts("published")
    assert told == 2
    hosts.run(70, step_ms=50)
    assert hosts.counts("published") >= told + 4, "a value with a time to live of 60 s must be renewed"
    wire.answer(tids=(21, 11))
    hosts.run(3)
    assert len({s.trace_id for s in hosts.spans()}) == 1


def test_points_of_the_other_host(rig: RigMaker) -> None:
    """What the server's host measured is there before the client's span leaves, also if it came after the first
    telling; who wants no points asks once for the other end, and once for the trace's root."""
    hosts = Hosts(rig, 2, processes=ALL)
    asked = []
    for want in (False, True):
        for host in hosts.hosts:
            host.shared.want_points = want
        wire = hosts.cross((0, CURL, 11 + want), (1, A, 21 + want))
        before = hosts.asked
        wire.send(f"/x{want:d}", tids=(11 + want, 21 + want))
        key = request_key(_isns(wire), _seq(wire))
        hosts.run(1)
        wire.answer(tids=(21 + want, 11 + want))
        if want:
            for point, ns in ((6, 1234), (5, 99), (4, 7)):
                hosts[1].shared.add_point(key, point, ns)
            hosts[1].shared.end_points(key)
        hosts.run(1.5)
        assert hosts[0].shared.points_of(key) == ([(6, 1234), (5, 99), (4, 7)] if want else [])
        assert len(hosts[0].rig.spans) == want, "they have not left yet"
        hosts.run(1)
        asked.append(hosts.asked - before)
    assert asked[0] == 4 < asked[1] < 12


def test_interfaces_of_the_other_host(rig: RigMaker) -> None:
    """Points of the server's host hang below the CLIENT span, too; and the CLIENT span says where on that host the time
    went, though the interfaces tell only half a second later and the clocks differ."""
    hosts = Hosts(rig, 2, processes=ALL)
    for host in hosts.hosts:
        host.shared.want_points = True
    wire = hosts.cross((0, CURL, 11), (1, A, 21))
    nics = [
        (0, 100 * US, Nic(hosts[0].rig.kernel, 9, 7, "eth0", "node", True)),
        (1, 900 * US, Nic(hosts[1].rig.kernel, 8, 7, "eth0", "node", False)),
        (1, 950 * US, Nic(hosts[1].rig.kernel, 2, 2, "eth0", "pod", False, inside=True)),
    ]
    for at, _, nic in nics:
        hosts[at].rig.engine.interfaces.set(*nic.told)
    asked, began = get("/x"), hosts.t
    wire.send("/x", tids=(11, 21))
    for at, away, nic in nics:
        nic.packet(wire.wires[at], True, _seq(wire), len(asked), began + away + hosts[at].skew)
    hosts.run(0.1)
    answered = hosts.t
    for at, away, nic in nics:
        nic.packet(wire.wires[at], False, wire.ends[1][0].isn + 1, len(ok()), answered + MS - away + hosts[at].skew)
    wire.answer(tids=(21, 11))
    hosts.run(0.5)
    for at, _, nic in nics:
        nic.silence(wire.wires[at], hosts.t + hosts[at].skew)
    hosts.run(3)
    spans = hosts.spans()
    client = next(s for s in spans if s.kind == CLIENT)
    points = [s for s in spans if s.kind not in (CLIENT, SERVER)]
    assert sorted(s.name for s in points) == ["client.node eth0", "server.node eth0", "server.pod eth0"]
    assert {s.parent_id for s in points} == {client.span_id}
    assert {s.trace_id for s in spans} == {client.trace_id}
    total = client.end - client.start
    assert {k: v for k, v in client.attributes.items() if k.startswith("zerospan.hop.")} == {
        "zerospan.hop.client_process": 200 * US,
        "zerospan.hop.network": 1600 * US,
        "zerospan.hop.server_host": 200 * US,
        "zerospan.hop.server_process": total - 2000 * US,
    }


def test_requests_of_one_host_stay_there(rig: RigMaker) -> None:
    """Loopback, and a process that is seen a little later: nothing is told and little is asked."""
    hosts = Hosts(rig, 1, processes=ALL)
    from engine_wire import Wire

    kernel = hosts[0].rig.kernel
    alone = Wire(kernel, (CURL, 11), (A, 21), watch="client")  # over loopback, its server not seen at all
    alone.pass_on("client", get("/loop"), hosts.t)
    near = hosts.cross((0, CURL, 12), (0, B, 31))
    other = hosts.cross((0, CURL, 13), (0, B, 32))
    other.send("/first", tids=(13, 32))
    near.sent("/late", tid=12)
    hosts.run(0.2)  # the server is busy
    near.read("/late", tid=31)
    hosts.run(0.2)
    alone.pass_on("server", ok(), hosts.t)
    near.answer(tids=(31, 12))
    other.answer(tids=(32, 13))
    hosts.run(3)
    assert hosts.values == {} and hosts.counts("published") == 0
    hosts.spans()


def test_causes_are_taken_back(rig: RigMaker) -> None:
    """A thread that turns out to be an event loop: the call's host follows, before its span leaves."""
    hosts = Hosts(rig, 3, processes=ALL, hold_s=3)
    one, two = hosts.cross((0, CURL, 11), (1, A, 21)), hosts.cross((0, CURL, 12), (1, A, 21))
    call = hosts.cross((1, A, 21), (2, B, 31))
    one.send("/one", tids=(11, 21))
    call.send("/out", tids=(21, 31))
    hosts.run(0.3)
    two.send("/two", tids=(12, 21))  # two open at once on one thread
    hosts.run(0.3)
    for wire, tids in ((call, (31, 21)), (one, (21, 11)), (two, (21, 12))):
        wire.answer(tids=tids)
    hosts.run(4)
    spans = hosts.spans()
    check_traces(spans)
    out = [s for s in spans if s.path == "/out"]
    assert len(out) == 2 and len({s.trace_id for s in out}) == 1


def test_values_of_strangers(rig: RigMaker) -> None:
    """Other hosts' bytes are remote bytes: whatever they are, nothing crashes, no reference is lost, traces of others
    stay as they are."""
    rng = random.Random(7)
    hosts = Hosts(rig, 2, processes=ALL)
    wires = chain(hosts, (0, 1, 0, 1), "/x", 1)
    hosts.run(0.5)
    keys = list(hosts.values)
    for _ in range(3000):
        key = rng.choice(keys)
        value = bytearray(hosts.values[key])
        for _ in range(rng.randrange(1, 4)):
            value[rng.randrange(len(value))] = rng.randrange(256)
        if rng.random() < 0.3:
            value = value[: rng.randrange(len(value))]
        hosts[rng.randrange(2)].shared.mail.give(answer(key, bytes(value)))
        if rng.random() < 0.05:
            hosts.step()
    cyclic = [k for k, end in keys if end == b"c"]
    for a, b in zip(cyclic, cyclic[1:] + cyclic[:1], strict=True):  # each the cause of the next
        for host in hosts.hosts:
            host.shared.mail.give(answer((a, b"c"), codec.encode("c", a, up=b)))
    hosts.run(0.1)
    unwind(wires, 1)
    hosts.run(35, step_ms=50)
    assert len(hosts.spans()) == 6
    assert hosts.counts("bad") > 0


def test_many_services_elsewhere_are_bounded(rig: RigMaker) -> None:
    """Names of other hosts' services are interned up to a limit."""
    hosts = Hosts(rig, 1, processes=ALL, timeout_s=600)
    told: list[bytes] = []
    wire = hosts.cross((0, CURL, 11), (0, A, 21))
    end, host = wire.ends[0]
    from engine_kit import get

    end.send(get("/x"), hosts.t + host.skew, 11)
    hosts.run(0.6)
    ((key, _),) = [k for k in hosts.values if k[1] == b"c"]
    for i in range(5000):
        told.append(answer((key, b"s"), codec.encode("s", key, name=f"service-{i}".encode())))
    host.shared.mail.give(b"".join(told))
    hosts.run(0.1)
    assert host.shared.counts()["names_full"] == 5000 - (4096 - 1)
    hosts.spans()


def test_the_table_is_bounded(rig: RigMaker) -> None:
    from zerospan.exporter.link.shared import Shared

    shared = Shared(table_bytes=65536, queue_bytes=65536)
    r = rig(*ALL, shared=shared)
    from engine_kit import START, get
    from engine_wire import Wire

    for i in range(3000):
        wire = Wire(r.kernel, (CURL, 10), (A, 21), watch="client", addresses=("10.0.0.1", "10.0.0.2"))
        wire.pass_on("client", get(f"/r{i}"), START + i * 1000)
    r.feed()
    for i in range(1, 300):
        r.tick(START + i * 8 * MS)
    assert shared.n <= 512 and shared.counts()["table_full"] > 2000
    assert shared.mail.queued <= 65536
    r.finish()


# ---- the codec ----


def test_a_value_says_what_was_put_in() -> None:
    trace = bytes(range(1, 17))
    value = codec.encode(
        "c", 7, up=9, flags=4 | 8, method=8, wire=1, trace_flags=1, trace_id=trace, name="übung".encode()
    )
    said = codec.decode(value, "c", 7)
    assert said is not None and said["up"] == 9 and said["trace_id"] == trace and said["name"].decode() == "übung"
    assert said["flags"] == 12 and said["method"] == 8 and said["wire"] == 1 and said["trace_flags"] == 1
    value = codec.encode("c", 7, flags=4 | 32, wire=1, trace_id=trace, parent=0xB7AD6B7169203331, name=b"shop")
    said = codec.decode(value, "c", 7)
    assert said is not None and said["parent"] == 0xB7AD6B7169203331 and said["name"] == b"shop"
    said = codec.decode(codec.encode("t", 7, flags=64), "t", 7)
    assert said is not None and said["flags"] == 64
    points = [(i % 7 + 1, i * 10**9) for i in range(8)]
    said = codec.decode(codec.encode("s", 7, name=b"x", points=points), "s", 7)
    assert said is not None and said["points"] == points
    assert "address" not in said
    for address in ((bytes([10, 0, 0, 7]), 8080), (bytes(range(16)), 65535)):
        said = codec.decode(codec.encode("s", 7, name=b"x", points=points, address=address), "s", 7)
        assert said is not None and (said["address"], said["name"], said["points"]) == (address, b"x", points)
    assert struct.pack(">Q", 7) == value[8:16], "big-endian: hosts differ"
    assert codec.stored_as(0xABC, "c") == b"zs1:c:0000000000000abc"


def test_a_long_name_is_cut_between_characters() -> None:
    said = codec.decode(codec.encode("s", 1, name="ü".encode() * 200), "s", 1)
    assert said is not None and said["name"].decode() == "ü" * 127


def test_what_is_no_value() -> None:
    good = codec.encode("c", 7, up=9, flags=4, wire=1, trace_id=b"t" * 16, name=b"shop", address=(b"\1" * 4, 9))
    assert codec.decode(good, "c", 7)
    assert codec.decode(good, "s", 7) is None and codec.decode(good, "c", 8) is None
    for n in range(len(good)):
        assert codec.decode(good[:n], "c", 7) is None
    assert codec.decode(good + b"\0", "c", 7) is None
    assert codec.decode(b"\1" + good[1:], "c", 7) is None, "another version"
    assert codec.decode(codec.encode("c", 7, up=7), "c", 7) is None, "its own cause"
    assert codec.decode(codec.encode("c", 7, flags=4, wire=1, trace_id=bytes(16)), "c", 7) is None
    assert codec.decode(codec.encode("c", 7, flags=4, wire=9, trace_id=b"t" * 16), "c", 7) is None


@pytest.mark.parametrize("seed", range(4))
def test_fuzzed_values(seed: int) -> None:
    """A value is taken whole or not at all: what is taken says the same again when it is written."""
    rng = random.Random(seed)
    taken = 0
    for _ in range(20000):
        key = rng.choice([1, 7, 2**64 - 1])
        value = bytearray(
            codec.encode("c", key, up=rng.choice([0, 5]), flags=rng.choice([0, 4, 36]),
                         wire=rng.choice([1, 4]), trace_id=b"t" * 16, parent=rng.choice([0, 9]),
                         name=b"n" * rng.choice([0, 3, 255]), points=[(1, 5)] * rng.choice([0, 1, 8]),
                         address=rng.choice([None, (b"\12" * 4, 80)]))
        )  # fmt: skip
        for _ in range(rng.randrange(3)):
            value[rng.choice([rng.randrange(8), rng.randrange(len(value))])] = rng.randrange(256)
        if rng.random() < 0.2:
            del value[rng.randrange(len(value)) :]
        said = codec.decode(bytes(value), "c", key)
        if said is not None:
            taken += 1
            again = codec.encode("c", key, **said)
            assert codec.decode(again, "c", key) == said
    assert taken > 2000


def test_an_agents_own_commands_are_told_from_others() -> None:
    for command in (b"SET zs1:c:0000000000000abc ?", b"MGET zs1:s:00", b"GET zs1:c:1", b"SET zs1:t:00"):
        assert codec.is_agents(command)
    for command in (b"SET zs1:x:00", b"GET user:zs1:c:", b"MGET a zs1:c:00", b"SET", b"", b"GETzs1:c:", b"GET zs1:c"):
        assert not codec.is_agents(command)


def test_a_store_that_is_watched_shows_no_agents(rig: RigMaker) -> None:
    """The host of the store sees what agents of other hosts ask of it: that is nobody's request, and is told to nobody.
    A program's own commands are seen as ever."""
    store = Process(30, "redis-server")
    hosts = Hosts(rig, 2, processes=(CURL, store))
    strange = hosts.cross((0, CURL, 11), (1, store, 31))
    own = hosts.cross((0, CURL, 12), (1, store, 31))
    end, host = strange.ends[1]
    told, _ = commands(
        b"".join(answer((k, b"c"), codec.encode("c", k)) for k in (1, 2)), struct.pack("=Qc", 3, b"s"), 9, 9
    )
    for _ in range(3):
        end.recv(told, hosts.t + host.skew, 31)
        hosts.t += MS
        end.send(b"+OK\r\n+OK\r\n*1\r\n$-1\r\n", hosts.t + host.skew, 31)
        hosts.t += MS
    end, host = own.ends[1]
    end.recv(b"*2\r\n$3\r\nGET\r\n$5\r\nuser1\r\n", hosts.t + host.skew, 31)
    hosts.t += MS
    end.send(b"$-1\r\n", hosts.t + host.skew, 31)
    hosts.run(3)
    assert [s.path for s in hosts.spans()] == ["GET user1"]
    assert hosts[1].rig.counts["connections_own"] == 1


def test_puts_are_what_the_kit_thinks(rig: RigMaker) -> None:
    hosts = Hosts(rig, 2, processes=ALL)
    wire = hosts.cross((0, CURL, 11), (1, A, 21))
    wire.send("/x", tids=(11, 21))
    hosts[0].rig.feed()
    for i in range(1, 10):
        hosts[0].rig.tick(hosts.t + i * 8 * MS)
    item = hosts[0].shared.mail.take()
    assert item is not None
    (((key, end), value),) = puts(item[0])
    assert key == request_key(_isns(wire), _seq(wire)) and end == b"c"
    said = codec.decode(value, "c", key)
    assert said is not None and said["name"] == b"curl" and said["flags"] == 2 and said["up"] == 0
    assert server_id(key) != client_id(key)
