"""Traces that an SDK begins below: hosts above it take the same name; and calls whose span an SDK has, seen from
elsewhere."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import CLIENT, MS, SERVER, RigMaker, Span, by_path, engines, trace_of
from engine_kit import request_key as request_key
from engine_wire import Process
from shared_kit import Cross, Hosts, slow
from test_link_ids import OTHER, PARENT, TRACE, traceparent
from test_link_threads import check_traces

rig = engines

USER, A, B, C, D = (Process(10 * (i + 1), name) for i, name in enumerate(("user", "a", "b", "c", "d")))
ALL = (USER, A, B, C, D)
SECOND = TRACE[::-1]


def begin(hosts: Hosts, places: list[int], sends: dict[int, str], path: str = "/x", base: int = 1) -> list[Cross]:
    """user -> a -> b ... on these hosts, one thread each; sends: the header of the n-th call."""
    ends = [(place, process, process.tgid + base) for place, process in zip(places, ALL, strict=False)]
    wires = [hosts.cross(a, b) for a, b in zip(ends, ends[1:], strict=False)]
    for i, wire in enumerate(wires):
        wire.send(f"{path}/{i}", *([sends[i]] if i in sends else []), tids=(ends[i][2], ends[i + 1][2]))
    return wires


def end(wires: list[Cross], base: int = 1) -> None:
    for i in reversed(range(len(wires))):
        wires[i].answer(tids=(ALL[i + 1].tgid + base, ALL[i].tgid + base))


def ours(wire: Cross) -> str:
    """The trace id without any context."""
    side = wire.ends[0][0]
    return trace_of(request_key((side.isn, side.peer_isn), (side.isn + 1) % 2**32))


def names(spans: list[Span]) -> set[str]:
    check_traces(spans)
    return {s.trace_id for s in spans}


@pytest.mark.parametrize("latency_ms", [1, 250])
@pytest.mark.parametrize(
    ("places", "sdk"),
    [([0, 0, 1, 2, 2], 3), ([0, 0, 1, 2, 3], 3), ([0, 1, 2, 2], 2), ([0, 0, 1, 2], 2), ([0, 1, 2, 3], 1)],
)
def test_all_hosts_take_the_trace_that_an_sdk_begins(
    rig: RigMaker, places: list[int], sdk: int, latency_ms: int
) -> None:
    """The service that makes the call `sdk` was given no context; it is on the third host, or on the second."""
    hosts = Hosts(rig, 4, processes=ALL, latency=lambda: latency_ms * MS)
    wires = begin(hosts, places, {sdk: traceparent()})
    hosts.run(0.1)
    end(wires)
    hosts.run(2.2)
    assert sum(len(host.rig.spans) for host in hosts.hosts) == 2 * len(wires), "a span waited longer than its hold"
    spans = hosts.spans()
    assert names(spans) == {TRACE}
    clients, servers = by_path(spans, CLIENT), by_path(spans, SERVER)
    for i in range(len(wires)):
        assert servers[f"/x/{i}"].parent_id == clients[f"/x/{i}"].span_id
        above = PARENT if i == sdk else servers[f"/x/{i - 1}"].span_id if i else ""
        assert clients[f"/x/{i}"].parent_id == above


def test_a_host_beside_takes_it_too(rig: RigMaker) -> None:
    """a calls b (no context), then c (which begins a trace): b's host sees nothing of c, and names the trace all the
    same."""
    hosts = Hosts(rig, 4, processes=ALL)
    first = hosts.cross((0, USER, 11), (0, A, 21))
    beside = hosts.cross((0, A, 21), (1, B, 31))
    call = hosts.cross((0, A, 21), (2, C, 41))
    below = hosts.cross((2, C, 41), (3, D, 51))
    first.send("/in", tids=(11, 21))
    beside.send("/b", tids=(21, 31))
    beside.answer(tids=(31, 21))
    hosts.run(0.2)
    call.send("/c", tids=(21, 41))
    below.send("/d", traceparent(), tids=(41, 51))
    for wire, tids in ((below, (51, 41)), (call, (41, 21)), (first, (21, 11))):
        wire.answer(tids=tids)
    hosts.run(4)
    spans = hosts.spans()
    assert names(spans) == {TRACE} and len(spans) == 8


def test_what_is_told_of_a_root_is_renewed_while_it_runs(rig: RigMaker) -> None:
    """The store keeps what it was told for a minute; the request takes longer, and who asks late still learns."""
    hosts = Hosts(rig, 3, processes=ALL, timeout_s=600)
    wires = begin(hosts, [0, 1, 2, 2], {2: traceparent()})
    hosts.run(1)
    side = wires[0].ends[0][0]
    root = (request_key((side.isn, side.peer_isn), (side.isn + 1) % 2**32), b"t")
    for _ in range(3):
        del hosts.values[root]  # expired
        hosts.run(40, step_ms=100)
        assert root in hosts.values
    end(wires)
    hosts.run(4)
    assert names(hosts.spans()) == {TRACE}


def test_two_that_differ_name_nothing(rig: RigMaker) -> None:
    """b and c, on two hosts, each begin a trace: what stands above keeps its own name, on all hosts the same one."""
    hosts = Hosts(rig, 4, processes=ALL)
    first = hosts.cross((0, USER, 11), (0, A, 21))
    calls = [hosts.cross((0, A, 21), (1, B, 31)), hosts.cross((0, A, 21), (2, C, 41))]
    below = [hosts.cross((1, B, 31), (3, D, 51)), hosts.cross((2, C, 41), (3, D, 52))]
    first.send("/in", tids=(11, 21))
    for i, tid in enumerate((31, 41)):
        calls[i].send(f"/call{i}", tids=(21, tid))
        below[i].send(f"/below{i}", traceparent(OTHER, SECOND) if i else traceparent(), tids=(tid, 51 + i))
        below[i].answer(tids=(51 + i, tid))
        calls[i].answer(tids=(tid, 21))
    first.answer(tids=(21, 11))
    hosts.run(4)
    spans = hosts.spans()
    above = {s.trace_id for s in spans if not s.path.startswith("/below")}
    assert above == {ours(first)}
    assert {s.trace_id for s in spans if s.path == "/below0"} == {TRACE}
    assert {s.trace_id for s in spans if s.path == "/below1"} == {SECOND}


def test_what_has_left_keeps_its_name_everywhere(rig: RigMaker) -> None:
    """The trace is begun when spans above have left already: counted, and no host uses the later name for them."""
    hosts = Hosts(rig, 3, processes=ALL, timeout_s=60)
    first = hosts.cross((0, USER, 11), (0, A, 21))
    early = hosts.cross((0, A, 21), (1, B, 31))
    call = hosts.cross((0, A, 21), (2, C, 41))
    below = hosts.cross((2, C, 41), (2, D, 51))
    first.send("/in", tids=(11, 21))
    early.send("/early", tids=(21, 31))
    early.answer(tids=(31, 21))
    hosts.run(4)
    assert {s.path for host in hosts.hosts for s in host.rig.spans} == {"/early"}
    call.send("/c", tids=(21, 41))
    below.send("/d", traceparent(), tids=(41, 51))
    for wire, tids in ((below, (51, 41)), (call, (41, 21)), (first, (21, 11))):
        wire.answer(tids=tids)
    hosts.run(4)
    spans = hosts.spans()
    assert {s.trace_id for s in spans if s.path != "/d"} == {ours(first)}
    assert {s.trace_id for s in spans if s.path == "/d"} == {TRACE}
    assert sum(host.rig.engine.links()["contexts_late"] for host in hosts.hosts) > 0


@pytest.mark.parametrize("seed", range(6))
def test_many_at_once(rig: RigMaker, seed: int) -> None:
    """Forty requests over four hosts, in half of them an SDK begins a trace, at any speed of the store: each is one
    trace."""
    rng = random.Random(seed)
    hosts = Hosts(rig, 4, latency=slow(rng, 150), processes=ALL, hold_s=3)
    under_way, wanted = [], {}
    for i in range(40):
        places = [rng.randrange(4) for _ in range(5)]
        trace = f"{rng.getrandbits(127) + 1:032x}"
        sdk = rng.randrange(1, 4) if rng.random() < 0.5 else None
        sends = {} if sdk is None else {sdk: f"traceparent: 00-{trace}-{PARENT}-01"}
        wires = begin(hosts, places, sends, f"/r{i}", 100 * (i + 1))
        wanted[f"/r{i}"] = trace if sends else ours(wires[0])
        under_way.append((i, wires))
        if rng.random() < 0.5:
            hosts.run(0.016)
    rng.shuffle(under_way)
    for i, wires in under_way:
        end(wires, 100 * (i + 1))
        if rng.random() < 0.3:
            hosts.run(0.016)
    hosts.run(3.3)
    for host in hosts.hosts:
        assert not host.rig.in_flight["held"], "a span waited for the store"
    spans = hosts.spans()
    assert len(spans) == 320
    for span in spans:
        assert span.trace_id == wanted[span.path.rpartition("/")[0]], span.path


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("mode", ["child", "omit"])
def test_an_omitted_client_span_is_nobodys_parent(rig: RigMaker, mode: str, read: bool) -> None:
    """a's SDK has a span of the call: with `omit` the other host's SERVER span stands below that one, also where its
    agent could not read the header."""
    hosts = Hosts(rig, 2, processes=ALL, sdk_client_spans=mode)
    wire = hosts.cross((0, A, 21), (1, B, 31))
    wire.sent("/x", traceparent(), tid=21)
    wire.read("/x", *([traceparent()] if read else [f"padding-{'x' * (len(traceparent()) - 11)}: y"]), tid=31)
    hosts.t += MS
    wire.answer(tids=(31, 21))
    hosts.run(4)
    spans = hosts.spans()
    (server,) = [s for s in spans if s.kind == SERVER]
    clients = [s for s in spans if s.kind == CLIENT]
    assert names(spans) == {TRACE}
    if mode == "omit":
        assert clients == [] and server.parent_id == PARENT and server.link == "traceparent"
    else:
        assert [c.parent_id for c in clients] == [PARENT] and server.parent_id == clients[0].span_id


def test_a_context_that_is_passed_on_omits_nothing(rig: RigMaker) -> None:
    """user's SDK -> a, which only passes the header on to b on another host: a's CLIENT span is there, and b's
    parent."""
    hosts = Hosts(rig, 2, processes=ALL, sdk_client_spans="omit")
    first = hosts.cross((0, USER, 11), (0, A, 21))
    call = hosts.cross((0, A, 21), (1, B, 31))
    first.send("/in", traceparent(), tids=(11, 21))
    call.send("/on", traceparent(), tids=(21, 31))
    call.answer(tids=(31, 21))
    first.answer(tids=(21, 11))
    hosts.run(4)
    spans = hosts.spans()
    clients, servers = by_path(spans, CLIENT), by_path(spans, SERVER)
    assert list(clients) == ["/on"] and names(spans) == {TRACE}
    assert servers["/on"].parent_id == clients["/on"].span_id
    assert clients["/on"].parent_id == servers["/in"].span_id
    assert servers["/in"].parent_id == PARENT
