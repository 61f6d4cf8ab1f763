"""Which request a call serves, by ids on the wire; and trace ids that programs have made themselves."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import (
    CLIENT,
    MS,
    SERVER,
    START,
    RigMaker,
    S,
    Span,
    by_path,
    client_id,
    engines,
    get,
    ok,
    request_key,
    server_id,
    trace_of,
)  # fmt: skip
from engine_wire import Process, Wire
from test_link_threads import Flow, check_traces

rig = engines

CURL, PROXY, SHOP = Process(10, "curl"), Process(20, "shop", loop=True), Process(30, "db")
TRACE, PARENT, OTHER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"
UBER = f"uber-trace-id: {TRACE}:{PARENT}:0:1"


def traceparent(parent: str = PARENT, trace: str = TRACE) -> str:
    return f"traceparent: 00-{trace}-{parent}-01"


def sw8(trace: str = TRACE) -> str:
    fields = ["1", *(base64.b64encode(x.encode()).decode() for x in (trace, "segment")), "3"]
    return "sw8: " + "-".join([*fields, *(base64.b64encode(x).decode() for x in (b"svc", b"i", b"e", b"p"))])


def flow(rig: RigMaker) -> Flow:
    """A proxy that is an event loop: threads say nothing."""
    return Flow(rig(CURL, PROXY, SHOP), PROXY)


def ends(spans: list[Span], path: str) -> tuple[Span, Span]:
    return by_path(spans, CLIENT)[path], by_path(spans, SERVER)[path]


HEADERS = [
    (traceparent(), "traceparent"),
    (f"b3: {TRACE}-{PARENT}-1", "b3"),
    (UBER, "uber-trace-id"),
    (sw8(), "sw8"),
]


@pytest.mark.parametrize(("header", "method"), HEADERS, ids=[m for _, m in HEADERS])
def test_a_context_that_is_passed_on(rig: RigMaker, header: str, method: str) -> None:
    """The same header comes in and goes out: the call serves that request, among many open ones."""
    f = flow(rig)
    f.read("/plain", 21)
    f.read("/in", 21, header)
    f.call("/none", 21)
    f.call("/out", 21, header)
    for path in ("/none", "/out"):
        f.called(path, 21)
    for path in ("/plain", "/in"):
        f.answer(path, 21)
    assert f.links() == {"/out": ("/in", method), "/none": ("", "none")}
    client, server = ends(f.r.spans, "/in")
    assert client.trace_id == server.trace_id == by_path(f.r.spans, CLIENT)["/out"].trace_id == TRACE


@pytest.mark.parametrize(("header", "method"), HEADERS, ids=[m for _, m in HEADERS])
def test_a_root_with_a_context(rig: RigMaker, header: str, method: str) -> None:
    """A program wrote it: it names the trace and the parent of the CLIENT span, or of a SERVER span that is alone."""
    r = rig(CURL, SHOP)
    for watch in ("both", "server"):
        wire = Wire(r.kernel, (CURL, 10), (SHOP, 30), watch=watch)
        t = wire.pass_on("client", get(f"/{watch}", header), START)
        wire.pass_on("server", ok(), t)
    spans = r.finish()
    client, server = ends([s for s in spans if s.path == "/both"], "/both")
    (alone,) = [s for s in spans if s.path == "/server"]
    for span in (client, alone):
        assert (span.trace_id, span.link) == (TRACE, method)
        assert span.parent_id == PARENT or method == "sw8"
    assert alone.parent_id == client.parent_id
    assert (server.trace_id, server.parent_id, server.link) == (TRACE, client.span_id, "tcp_isn")


def test_without_a_context_the_root_names_the_trace(rig: RigMaker) -> None:
    f = Flow(rig(CURL, Process(20, "shop"), SHOP), Process(20, "shop"))
    f.read("/in", 21)
    f.call("/out", 21)
    f.called("/out", 21)
    f.answer("/in", 21)
    assert f.links() == {"/out": ("/in", "thread")}
    wire = f.inbound["/in"]
    root = request_key(wire.isns, wire.seq(0))
    assert {s.trace_id for s in f.r.spans} == {trace_of(root)}
    client, server = ends(f.r.spans, "/in")
    assert (client.span_id, server.span_id) == (client_id(root), server_id(root))


def test_an_sdk_in_the_middle(rig: RigMaker) -> None:
    """It makes spans of its own: the CLIENT span's parent is the one that the SDK wrote, in the same trace, although
    the thread tells the request as well."""
    f = Flow(rig(CURL, Process(20, "shop"), SHOP), Process(20, "shop"))
    f.read("/in", 21, traceparent())
    f.call("/out", 21, traceparent(OTHER))
    f.called("/out", 21)
    f.answer("/in", 21)
    spans = f.r.finish()
    assert {s.trace_id for s in spans} == {TRACE}
    client, server = ends(spans, "/out")
    assert (client.parent_id, client.link) == (OTHER, "traceparent")
    assert (server.parent_id, server.link) == (client.span_id, "tcp_isn")


def test_an_sdk_that_begins_a_trace(rig: RigMaker) -> None:
    """The request had no context, its call has one: all is one trace, the SDK's (more: test_link_context.py)."""
    f = Flow(rig(CURL, Process(20, "shop"), SHOP), Process(20, "shop"))
    f.read("/in", 21)
    f.call("/out", 21, traceparent())
    f.called("/out", 21)
    f.answer("/in", 21)
    spans = f.r.finish()
    check_traces(spans)
    client, server = ends(spans, "/out")
    assert (client.trace_id, client.parent_id, server.trace_id) == (TRACE, PARENT, TRACE)
    assert {s.trace_id for s in spans} == {TRACE}


def test_an_sdk_that_begins_another_trace(rig: RigMaker) -> None:
    """It does not trust the caller: what it wrote counts from there on down."""
    other = TRACE[::-1]
    f = Flow(rig(CURL, Process(20, "shop"), SHOP), Process(20, "shop"))
    f.read("/in", 21, traceparent())
    f.call("/out", 21, traceparent(OTHER, other))
    f.called("/out", 21)
    f.answer("/in", 21)
    spans = f.r.finish()
    check_traces(spans)
    assert [s.trace_id for s in ends(spans, "/in")] == [TRACE] * 2
    assert [s.trace_id for s in ends(spans, "/out")] == [other] * 2
    assert ends(spans, "/out")[0].parent_id == OTHER


def test_two_open_requests_with_one_context(rig: RigMaker) -> None:
    """A caller without an SDK passes its own on to two parallel calls: the id cannot tell them apart, threads can."""
    f = Flow(rig(CURL, Process(20, "shop"), SHOP), Process(20, "shop"))
    for i in (1, 2):
        f.read(f"/in{i}", 20 + i, traceparent())
    for i in (1, 2):
        f.call(f"/out{i}", 20 + i, traceparent())
    for i in (1, 2):
        f.called(f"/out{i}", 20 + i)
        f.answer(f"/in{i}", 20 + i)
    assert f.links() == {"/out1": ("/in1", "thread"), "/out2": ("/in2", "thread")}


def test_one_context_after_another(rig: RigMaker) -> None:
    """`curl -H traceparent` in a loop: each time it is another request's."""
    f = flow(rig)
    for i in range(4):
        f.read(f"/in{i}", 21, traceparent())
        f.call(f"/out{i}", 21, traceparent())
        f.called(f"/out{i}", 21)
        f.answer(f"/in{i}", 21)
    assert f.links() == {f"/out{i}": (f"/in{i}", "traceparent") for i in range(4)}


# ---- X-Request-ID ----


def test_a_request_id_in_and_out(rig: RigMaker) -> None:
    f = flow(rig)
    for i in range(3):
        f.read(f"/in{i}", 21, f"X-Request-ID: id-{i}")
    for i in (2, 0, 1):
        f.call(f"/out{i}", 21, f"X-Request-ID: id-{i}")
    for i in range(3):
        f.called(f"/out{i}", 21)
        f.answer(f"/in{i}", 21)
    assert f.links() == {f"/out{i}": (f"/in{i}", "x-request-id") for i in range(3)}


def test_fan_out_with_one_request_id(rig: RigMaker) -> None:
    f = flow(rig)
    f.read("/in", 21, "X-Request-ID: one")
    for i in range(3):
        f.call(f"/out{i}", 21, "X-Request-ID: one")
    for i in range(3):
        f.called(f"/out{i}", 21)
    f.answer("/in", 21)
    assert f.links() == {f"/out{i}": ("/in", "x-request-id") for i in range(3)}


def test_an_id_that_two_open_requests_brought(rig: RigMaker) -> None:
    """A constant says nothing: no link, counted; and also not right after one of them was answered."""
    f = flow(rig)
    for i in range(2):
        f.read(f"/in{i}", 21, "X-Request-ID: constant")
    f.call("/out0", 21, "X-Request-ID: constant")
    f.called("/out0", 21)
    f.answer("/in0", 21)
    f.call("/out1", 21, "X-Request-ID: constant")
    f.called("/out1", 21)
    f.answer("/in1", 21)
    assert f.links() == {"/out0": ("", "none"), "/out1": ("", "none")}
    assert f.r.engine.links()["ambiguous"] > 0


def test_an_id_says_something_again_later(rig: RigMaker) -> None:
    f = flow(rig)
    for i in range(2):
        f.read(f"/in{i}", 21, "X-Request-ID: constant")
    for i in range(2):
        f.answer(f"/in{i}", 21)
    f.t += 3 * S
    f.read("/in", 21, "X-Request-ID: constant")
    f.call("/out", 21, "X-Request-ID: constant")
    f.called("/out", 21)
    f.answer("/in", 21)
    assert f.links() == {"/out": ("/in", "x-request-id")}


def test_an_id_that_only_the_answer_shows(rig: RigMaker) -> None:
    """The proxy made it: the call left with it, and the answer of the request names it (Envoy)."""
    f = flow(rig)
    for i in range(3):
        f.read(f"/in{i}", 21)
    for i in range(3):
        f.call(f"/out{i}", 21, f"X-Request-ID: made-{i}")
    for i in (1, 0, 2):
        f.called(f"/out{i}", 21)
    for i in range(3):
        f.answer(f"/in{i}", 21, ok(b"ok", f"X-Request-ID: made-{i}"))
    assert f.links() == {f"/out{i}": (f"/in{i}", "x-request-id") for i in range(3)}


def test_ids_are_a_process_own(rig: RigMaker) -> None:
    """The same id in another process is another piece of evidence: only the one that was read here counts."""
    f = flow(rig)
    f.read("/in", 21, "X-Request-ID: a")
    elsewhere = Wire(f.r.kernel, (SHOP, 35), (CURL, 12))
    t = elsewhere.pass_on("client", get("/elsewhere", "X-Request-ID: a"), f.t + MS)
    elsewhere.pass_on("server", ok(), t)
    f.answer("/in", 21)
    assert f.links() == {}
    assert by_path(f.r.spans, CLIENT)["/elsewhere"].parent_id == ""


def test_a_circle_of_ids(rig: RigMaker) -> None:
    """The called service calls back, and the answer of that names the first call's id: nothing is its own cause, and
    the registry is empty at the end (checked by the fixture)."""
    f = flow(rig)
    f.call("/out", 21, "X-Request-ID: ring")
    back = Wire(f.r.kernel, (SHOP, 31), (PROXY, 21))
    t = back.pass_on("client", get("/back", traceparent()), f.t)
    t = back.pass_on("server", ok(b"ok", "X-Request-ID: ring"), t)
    f.t = t
    f.called("/out", 21)
    spans = f.r.finish()
    check_traces(spans)
    assert len(spans) == 4 and {s.kind for s in spans} == {CLIENT, SERVER}
