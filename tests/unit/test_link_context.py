"""SDKs beside us: which trace id counts, whose span stands above, what is not recorded; threads are the evidence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import CLIENT, MS, SERVER, Rig, RigMaker, S, Span, by_path, engines, get, ok, request_key, trace_of
from engine_wire import Process, Wire
from test_link_ids import OTHER, PARENT, TRACE, traceparent
from test_link_threads import check_traces

rig = engines

USER, A, B, C = Process(10, "user"), Process(20, "a"), Process(30, "b"), Process(40, "c")
SECOND = TRACE[::-1]


class Chain:
    """user -> a -> b -> c, each a blocking thread; `sends` is what b's SDK writes into its call to c."""

    def __init__(self, rig: RigMaker, **options: Any) -> None:
        self.r: Rig = rig(USER, A, B, C, **options)
        self.t = 5_000 * S
        self.wires: dict[str, Wire] = {}

    def ask(self, path: str, who: Process, whom: Process, *headers: str, tid: int = 0, at: int = 0) -> None:
        wire = self.wires[path] = Wire(self.r.kernel, (who, tid or who.tgid + 1), (whom, at or whom.tgid + 1))
        self.t = wire.pass_on("client", get(path, *headers), self.t + MS)

    def reply(self, path: str) -> None:
        self.t = self.wires[path].pass_on("server", ok(), self.t + MS)

    def pause(self, seconds: float) -> None:
        """Time passes, and the agent works."""
        end = self.t + int(seconds * S)
        while self.t < end:
            self.t += S // 4
            self.r.now = max(self.r.now, self.t)
            self.r.feed()
            self.r.settle(self.t)

    def run(self, *sends: str, first: str = "") -> list[Span]:
        """One request through all; b calls c once for each of `sends`. first: a context that a is given."""
        self.ask("/a", USER, A, *([first] if first else []))
        self.ask("/b", A, B)
        for i, header in enumerate(sends):
            self.ask(f"/c{i}", B, C, *([header] if header else []))
            self.reply(f"/c{i}")
        self.reply("/b")
        self.reply("/a")
        spans = self.r.finish()
        check_traces(spans)
        return spans

    def ours(self, path: str = "/a") -> str:
        wire = self.wires[path]
        return trace_of(request_key(wire.isns, wire.seq(0)))


def ids(spans: list[Span]) -> dict[tuple[str, int], str]:
    return {(s.path, s.kind): s.trace_id for s in spans}


@pytest.mark.parametrize("sends", [[traceparent()], ["", traceparent(), ""], [traceparent(), traceparent(OTHER)]])
def test_the_trace_that_an_sdk_in_the_middle_begins_is_that_of_all(rig: RigMaker, sends: list[str]) -> None:
    """Also of what stands above it, and of its calls that carry nothing; parents as they are without it, but for the
    call that the SDK has a span of."""
    chain = Chain(rig)
    spans = chain.run(*sends)
    assert set(ids(spans).values()) == {TRACE} and len(spans) == 4 + 2 * len(sends)
    clients, servers = by_path(spans, CLIENT), by_path(spans, SERVER)
    assert clients["/a"].parent_id == ""
    assert clients["/b"].parent_id == servers["/a"].span_id
    for i, header in enumerate(sends):
        call = clients[f"/c{i}"]
        assert (call.parent_id, call.link) == (
            (header.split("-")[2], "traceparent") if header else (servers["/b"].span_id, "thread")
        )
        assert servers[f"/c{i}"].parent_id == call.span_id
        assert call.links == (((TRACE, servers["/b"].span_id),) if header else ())
    assert not any(s.links for s in spans if s.path in ("/a", "/b") or s.kind == SERVER)


def test_two_traces_that_an_sdk_begins_for_one_request_name_nothing(rig: RigMaker) -> None:
    chain = Chain(rig)
    spans = chain.run(traceparent(), traceparent(OTHER, SECOND), "")
    got = ids(spans)
    assert {got["/c0", kind] for kind in (CLIENT, SERVER)} == {TRACE}
    assert {got["/c1", kind] for kind in (CLIENT, SERVER)} == {SECOND}
    assert {got[path, kind] for path in ("/a", "/b", "/c2") for kind in (CLIENT, SERVER)} == {chain.ours()}
    assert chain.r.engine.links()["contexts_disputed"] == 1
    clients, above = by_path(spans, CLIENT), by_path(spans, SERVER)["/b"].span_id
    assert {clients[f"/c{i}"].links for i in (0, 1)} == {((chain.ours(), above),)}, "a link leads from trace to trace"


def test_two_services_that_begin_traces_below_one_request(rig: RigMaker) -> None:
    """a calls b twice, and b's SDK knows of no common request: what is above both keeps our id."""
    chain = Chain(rig)
    chain.ask("/a", USER, A)
    for i, trace in enumerate((TRACE, SECOND)):
        chain.ask(f"/b{i}", A, B)
        chain.ask(f"/c{i}", B, C, traceparent(PARENT, trace))
        chain.reply(f"/c{i}")
        chain.reply(f"/b{i}")
    chain.reply("/a")
    spans = chain.r.finish()
    check_traces(spans)
    got = ids(spans)
    assert [got[f"/c{i}", CLIENT] for i in (0, 1)] == [TRACE, SECOND]
    assert {v for (path, _), v in got.items() if not path.startswith("/c")} == {chain.ours()}
    assert chain.r.engine.links()["contexts_disputed"] == 1


def test_what_the_caller_began_counts_above(rig: RigMaker) -> None:
    """a was given a trace, b was not and begins another: what b wrote counts below b only."""
    got = ids(Chain(rig).run(traceparent(OTHER, SECOND), first=traceparent()))
    assert {v for (path, _), v in got.items() if path != "/c0"} == {TRACE}
    assert {v for (path, _), v in got.items() if path == "/c0"} == {SECOND}


def test_the_cause_of_the_upper_call_is_known_last(rig: RigMaker) -> None:
    """a's reader is not its worker: the link of its call comes with its answer, and the trace id with it."""
    chain = Chain(rig)
    chain.ask("/a", USER, A, at=25)
    chain.ask("/b", A, B, tid=26)
    chain.ask("/c0", B, C, traceparent())
    for path in ("/c0", "/b"):
        chain.reply(path)
    chain.t = chain.wires["/a"].pass_on("server", ok(), chain.t + MS, tids=(26, 0))
    spans = chain.r.finish()
    check_traces(spans)
    assert by_path(spans, CLIENT)["/b"].parent_id == by_path(spans, SERVER)["/a"].span_id
    assert set(ids(spans).values()) == {TRACE}


def test_a_link_that_is_taken_back_takes_the_trace_id_with_it(rig: RigMaker) -> None:
    """Two requests on one thread: an event loop after all. Nothing that was concluded counts, the name neither."""
    chain = Chain(rig)
    chain.ask("/a", USER, A)
    chain.ask("/b", A, B, traceparent())
    chain.ask("/other", USER, A)
    for path in ("/b", "/a", "/other"):
        chain.reply(path)
    spans = chain.r.finish()
    check_traces(spans)
    got = ids(spans)
    assert got["/b", CLIENT] == got["/b", SERVER] == TRACE
    assert got["/a", SERVER] == got["/a", CLIENT] == chain.ours("/a")
    assert got["/other", SERVER] == chain.ours("/other")


def test_spans_wait_for_an_sdk_that_is_known_to_begin_traces(rig: RigMaker) -> None:
    """A call at once and the one with a context five seconds later: one trace, since the process has done so before."""
    chain = Chain(rig)
    chain.ask("/b", A, B)
    chain.ask("/learn", B, C, traceparent(OTHER, SECOND))
    chain.reply("/learn")
    chain.reply("/b")
    chain.pause(4)
    assert len(chain.r.spans) == 4
    chain.ask("/slow", A, B)
    chain.ask("/early", B, C)
    chain.reply("/early")
    chain.pause(5)
    assert len(chain.r.spans) == 4, "spans left before their trace had its name"
    chain.ask("/late", B, C, traceparent())
    chain.reply("/late")
    chain.reply("/slow")
    chain.pause(4)
    spans = chain.r.finish()
    check_traces(spans)
    assert {v for (path, _), v in ids(spans).items() if path in ("/slow", "/early", "/late")} == {TRACE}
    assert len(spans) == 10 and chain.r.engine.links()["contexts_late"] == 0


def test_nothing_waits_for_an_sdk_once_the_answer_has_begun(rig: RigMaker) -> None:
    """Requests without any context at a process that is known to begin traces: they leave after the usual time."""
    chain = Chain(rig)
    chain.ask("/learn", A, B)
    chain.ask("/c", B, C, traceparent())
    chain.reply("/c")
    chain.reply("/learn")
    chain.ask("/plain", A, B)
    chain.ask("/inner", B, C)
    chain.reply("/inner")
    chain.reply("/plain")
    chain.pause(3)
    assert len(chain.r.spans) == 8


def test_a_trace_that_has_a_name_keeps_it(rig: RigMaker) -> None:
    """Nobody knew of the SDK when the first call's spans left: the trace is not torn apart, and that is counted."""
    chain = Chain(rig)
    chain.ask("/slow", A, B)
    chain.ask("/early", B, C)
    chain.reply("/early")
    chain.pause(5)
    assert len(chain.r.spans) == 2
    chain.ask("/late", B, C, traceparent())
    chain.reply("/late")
    chain.reply("/slow")
    spans = chain.r.finish()
    check_traces(spans)
    got = ids(spans)
    assert {v for (path, _), v in got.items() if path != "/late"} == {chain.ours("/slow")}
    assert got["/late", CLIENT] == TRACE
    assert chain.r.engine.links()["contexts_late"] == 1


# ---- whose span stands above ----


@pytest.mark.parametrize("mode", ["child", "omit"])
def test_the_call_of_an_sdk(rig: RigMaker, mode: str) -> None:
    """Our CLIENT span stands below the SDK's, or is left out, and our SERVER span stands there."""
    chain = Chain(rig, sdk_client_spans=mode)
    spans = chain.run(traceparent(OTHER), first=traceparent())
    clients, servers = by_path(spans, CLIENT), by_path(spans, SERVER)
    if mode == "omit":
        assert set(clients) == {"/b"}
        assert (servers["/a"].parent_id, servers["/a"].link) == (PARENT, "traceparent")
        assert (servers["/c0"].parent_id, servers["/c0"].link) == (OTHER, "traceparent")
        assert chain.r.counts["sdk_span"] == 2
    else:
        assert (clients["/a"].parent_id, clients["/c0"].parent_id) == (PARENT, OTHER)
        assert servers["/c0"].parent_id == clients["/c0"].span_id
    assert servers["/b"].parent_id == clients["/b"].span_id
    assert {s.trace_id for s in spans} == {TRACE}


@pytest.mark.parametrize("mode", ["child", "omit"])
@pytest.mark.parametrize("same", [False, True])
def test_a_proxy_that_passes_a_context_on(rig: RigMaker, mode: str, same: bool) -> None:
    """Its CLIENT span stands below its SERVER span, not beside the caller's; `same`: two open requests brought the same
    context, and threads tell them apart. It is never left out: no SDK made it."""
    proxy = Process(20, "proxy")
    r = rig(USER, proxy, C, sdk_client_spans=mode)
    wires, t = {}, 5_000 * S
    for i in range(1 + same):
        wires[f"/in{i}"] = Wire(r.kernel, (USER, 11 + i), (proxy, 21 + i))
        wires[f"/out{i}"] = Wire(r.kernel, (proxy, 21 + i), (C, 41 + i))
    for path, wire in sorted(wires.items()):
        t = wire.pass_on("client", get(path, traceparent()), t + MS)
    for _, wire in sorted(wires.items(), reverse=True):
        t = wire.pass_on("server", ok(), t + MS)
    spans = r.finish()
    clients, servers = by_path(spans, CLIENT), by_path(spans, SERVER)
    for i in range(1 + same):
        assert clients[f"/out{i}"].parent_id == servers[f"/in{i}"].span_id
        assert servers[f"/out{i}"].parent_id == clients[f"/out{i}"].span_id
        if mode == "omit":
            assert servers[f"/in{i}"].parent_id == PARENT and f"/in{i}" not in clients
        else:
            assert clients[f"/in{i}"].parent_id == PARENT


def test_a_context_that_cannot_be_told_apart_is_no_sdk_span(rig: RigMaker) -> None:
    """An event loop passes on what two open requests brought: the call has the context's parent, and is exported."""
    loop = Process(20, "loop", loop=True)
    r = rig(USER, loop, C, sdk_client_spans="omit")
    wires, t = [Wire(r.kernel, (USER, 11 + i), (loop, 21)) for i in range(2)], 5_000 * S
    wires.append(Wire(r.kernel, (loop, 21), (C, 41)))
    for path, wire in zip(("/in0", "/in1", "/out"), wires, strict=True):
        t = wire.pass_on("client", get(path, traceparent()), t + MS)
    for wire in reversed(wires):
        t = wire.pass_on("server", ok(), t + MS)
    spans = r.finish()
    (call,) = (s for s in spans if s.kind == CLIENT)
    assert (call.path, call.parent_id, call.trace_id) == ("/out", PARENT, TRACE)


# ---- sampling ----

DENIED = traceparent()[:-1] + "0"


@pytest.mark.parametrize("honour", [True, False])
def test_a_request_whose_context_says_no(rig: RigMaker, honour: bool) -> None:
    """Nothing of it, nor of what it causes, is exported; its metrics are, and each span is accounted for."""
    chain = Chain(rig, honour_sampling=honour)
    spans = chain.run("", first=DENIED)
    if honour:
        assert spans == [] and chain.r.counts["not_sampled"] == 6
    else:
        assert set(ids(spans).values()) == {TRACE} and len(spans) == 6


@pytest.mark.parametrize("header", ["b3: 0", "X-B3-Sampled: 0"])
def test_a_decision_without_ids(rig: RigMaker, header: str) -> None:
    chain = Chain(rig)
    assert chain.run("", first=header) == [] and chain.r.counts["not_sampled"] == 6


@pytest.mark.parametrize("honour", [True, False])
def test_an_sdk_in_the_middle_that_records_one_in_a_hundred(rig: RigMaker, honour: bool) -> None:
    """It decides about what it calls; who called it keeps a trace of its own."""
    chain = Chain(rig, honour_sampling=honour)
    got = ids(chain.run(DENIED))
    if honour:
        assert set(got) == {(path, kind) for path in ("/a", "/b") for kind in (CLIENT, SERVER)}
        assert set(got.values()) == {chain.ours()}
    else:
        assert set(got.values()) == {TRACE} and len(got) == 6


def test_the_nearest_decision_counts(rig: RigMaker) -> None:
    got = ids(Chain(rig).run(traceparent(OTHER, SECOND), first=DENIED))
    assert set(got) == {("/c0", CLIENT), ("/c0", SERVER)}
    assert set(got.values()) == {SECOND}
