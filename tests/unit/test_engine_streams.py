"""Long and unusual conversations, at their full length in simulated time: waiting, streaming, pipelining, upgrades.

The clock moves as the pipeline moves it: a tick and a sweep every half second, housekeeping every ten.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import CLIENT, MS, SERVER, START, Rig, RigMaker, S, Span, by_path, engines, get, ok
from engine_wire import Process, Wire
from test_link_threads import check_traces

rig = engines

USER, SHOP, DB = Process(10, "user"), Process(20, "shop"), Process(30, "db")
IDLE_NS = 60 * S  # pipeline.IDLE_NS
CHUNKED = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n"


class Clock:
    """The agent beside a conversation."""

    def __init__(self, rig: RigMaker, **options: Any) -> None:
        self.r: Rig = rig(USER, SHOP, DB, **options)
        self.t = self.swept = self.cleaned = START
        self.wires: list[Wire] = []

    def wire(self, *ends: tuple[Process, int]) -> Wire:
        self.wires.append(Wire(self.r.kernel, *(ends or ((USER, 11), (SHOP, 21)))))
        return self.wires[-1]

    def call(self, path: str, tid: int = 21) -> None:
        """A call of the shop's, answered at once."""
        wire = Wire(self.r.kernel, (SHOP, tid), (DB, 31))
        self.t = wire.pass_on("client", get(path), self.t + MS)
        self.t = wire.pass_on("server", ok(), self.t + MS)

    def until(self, at: int) -> None:
        while self.swept + S // 2 <= at:
            self.swept += S // 2
            for wire in self.wires:
                wire.client.sweep(self.swept)
                wire.server.sweep(self.swept)
            self.r.now = max(self.r.now, self.swept)
            self.r.feed()
            self.r.settle(self.swept)
            if self.swept - self.cleaned >= 10 * S:
                self.cleaned = self.swept
                self.r.engine.expire(self.swept, IDLE_NS)
        self.t = max(self.t, at)

    def wait(self, seconds: float) -> None:
        self.until(self.t + int(seconds * S))

    def end(self) -> list[Span]:
        self.wait(70)
        spans = self.r.finish()
        check_traces(spans)
        return spans


def test_a_request_that_waits_thirty_seconds(rig: RigMaker) -> None:
    """Its first call has long left when its last begins: one trace, one parent."""
    c = Clock(rig)
    wire = c.wire()
    asked = c.t
    c.t = wire.pass_on("client", get("/slow"), c.t)
    c.call("/first")
    c.wait(30)
    assert {s.path for s in c.r.spans} == {"/first"}, "what ended early is not held for the whole time"
    c.call("/last")
    c.t = wire.pass_on("server", ok(), c.t + MS)
    answered = c.t
    spans = c.end()
    clients, servers = by_path(spans, CLIENT), by_path(spans, SERVER)
    assert len({s.trace_id for s in spans}) == 1 and len(spans) == 6
    for path in ("/first", "/last"):
        assert (clients[path].parent_id, clients[path].link) == (servers["/slow"].span_id, "thread")
    assert servers["/slow"].start - asked < MS and answered - servers["/slow"].end < MS
    assert (servers["/slow"].code, servers["/slow"].error) == (200, False)


def test_a_request_that_waits_longer_than_the_time_out(rig: RigMaker) -> None:
    """An error span at 60 s, for both ends; its late answer is nobody else's, and the connection goes on."""
    c = Clock(rig)
    wire = c.wire()
    c.t = wire.pass_on("client", get("/slow"), c.t)
    c.wait(100)
    c.t = wire.pass_on("server", ok(code=203), c.t)
    c.t = wire.pass_on("client", get("/next"), c.t + MS)
    c.t = wire.pass_on("server", ok(code=204), c.t + MS)
    spans = c.end()
    assert {(s.path, s.code, s.reason) for s in spans} == {("/slow", None, "timeout"), ("/next", 204, "")}
    assert {round((s.end - s.start) / S) for s in spans if s.path == "/slow"} == {60}


PART = b"14\r\n" + b"e" * 20 + b"\r\n"
STREAMS = {
    "server-sent events": CHUNKED + b"Content-Type: text/event-stream; charset=utf-8\r\n\r\n",
    "until the close": b"HTTP/1.1 200 X\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n",
    "a known length": b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n",
}


@pytest.mark.parametrize("kind", list(STREAMS))
@pytest.mark.parametrize("pause", [0.1, 20], ids=["busy", "with silence"])
def test_five_minutes_of_answer(rig: RigMaker, kind: str, pause: float) -> None:
    """One span of five minutes at each end; where the end of the answer is not announced, calls for the parts of it are
    its children, also after minutes of none."""
    c = Clock(rig)
    wire = c.wire()
    asked, parts = c.t, int(300 / pause)
    head = STREAMS[kind]
    if b"%d" in head:
        head = head % (parts * len(PART))
    c.t = wire.pass_on("client", get("/stream"), c.t)
    c.t = wire.pass_on("server", head, c.t + 50 * MS)
    for i in range(parts):
        c.wait(pause)
        if i == parts // 2:
            c.call("/row")
        if i == parts - 1:
            assert not [s for s in c.r.spans if s.path == "/stream"], "the span left while its answer was on its way"
        c.t = wire.pass_on("server", PART, c.t)
    last = c.t
    c.wait(0.2)
    wire.close(c.t)
    spans = c.end()
    clients, servers = by_path(spans, CLIENT), by_path(spans, SERVER)
    for end in (clients["/stream"], servers["/stream"]):
        assert end.start - asked < 10 * MS and not end.error
        assert abs(end.end - last) < 10 * MS, f"{(end.end - last) / S} s off"
        assert end.attributes["zerospan.time_to_first_byte"] < 100 * MS
    if kind != "a known length":  # after the head of such an answer, nothing is done for it: the same for all servers
        assert (clients["/row"].parent_id, clients["/row"].link) == (servers["/stream"].span_id, "thread")
        assert clients["/row"].trace_id == servers["/stream"].trace_id


def test_an_event_stream_that_falls_silent_for_good(rig: RigMaker) -> None:
    """It ends, for us, with its last event: found after assemble.timeout_s without any."""
    c = Clock(rig)
    wire = c.wire()
    c.t = wire.pass_on("client", get("/stream"), c.t)
    c.t = wire.pass_on("server", STREAMS["server-sent events"] + b"5\r\nhello\r\n", c.t)
    last = c.t
    c.wait(50)
    assert c.r.in_flight["open"] == 2
    c.wait(20)
    assert c.r.in_flight["open"] == 0
    assert all(abs(s.end - last) < 10 * MS and not s.error for s in c.end())


def test_chunks_of_no_known_end(rig: RigMaker) -> None:
    """A chunked answer beyond the capture, busy for a minute: its span ends with its last byte, and leaves soon."""
    c = Clock(rig)
    wire = c.wire()
    c.t = wire.pass_on("client", get("/report"), c.t)
    c.t = wire.pass_on("server", CHUNKED + b"\r\n", c.t)
    for _ in range(120):
        c.wait(0.5)
        c.t = wire.pass_on("server", b"64\r\n" + b"x" * 100 + b"\r\n", c.t)
    last = c.t
    c.wait(6)
    assert {s.path for s in c.r.spans} == {"/report"}, "the span waits for the next request"
    assert all(abs(s.end - last) < 10 * MS for s in c.end())


# ---- pipelining ----


def pipelined(c: Clock, wire: Wire) -> None:
    """Three requests in one write, read by one thread, which does one after the other."""
    c.t = wire.pass_on("client", b"".join(get(f"/p{i}") for i in range(3)), c.t)
    for i in range(3):
        for k in range(2):
            c.call(f"/p{i}.{k}")
        c.t = wire.pass_on("server", ok(code=200 + i), c.t + MS)


def test_each_pipelined_request_has_its_calls(rig: RigMaker) -> None:
    c = Clock(rig)
    wire = c.wire()
    pipelined(c, wire)
    c.wait(1)
    c.t = wire.pass_on("client", get("/after"), c.t)
    c.call("/after.0")
    c.t = wire.pass_on("server", ok(), c.t + MS)
    spans = c.end()
    clients, servers = by_path(spans, CLIENT), by_path(spans, SERVER)
    for i in range(3):
        assert servers[f"/p{i}"].code == 200 + i
        assert len({servers[f"/p{i}"].trace_id, clients[f"/p{i}"].trace_id}) == 1
        for k in range(2):
            assert clients[f"/p{i}.{k}"].parent_id == servers[f"/p{i}"].span_id
    assert clients["/after.0"].parent_id == servers["/after"].span_id, "the thread was taken for an event loop"
    assert len({servers[f"/p{i}"].trace_id for i in range(3)}) == 3


def test_pipelined_answers_whose_end_is_not_known(rig: RigMaker) -> None:
    """A call after the head of a chunked answer may be for that one or for the next request: it is nobody's."""
    c = Clock(rig)
    wire = c.wire()
    c.t = wire.pass_on("client", get("/p0") + get("/p1"), c.t)
    c.call("/p0.0")
    c.t = wire.pass_on("server", CHUNKED + b"\r\n400\r\n" + b"x" * 300, c.t + MS)
    c.call("/whose")
    c.t = wire.pass_on("server", b"x" * 724 + b"\r\n0\r\n\r\n", c.t + MS)
    c.t = wire.pass_on("server", ok(), c.t + MS)
    spans = c.end()
    clients, servers = by_path(spans, CLIENT), by_path(spans, SERVER)
    assert clients["/p0.0"].parent_id == servers["/p0"].span_id
    parents = {"": "", servers["/p0"].span_id: "/p0", servers["/p1"].span_id: "/p1"}
    assert parents[clients["/whose"].parent_id] in ("", "/p0")


def test_a_loop_that_is_given_pipelined_requests(rig: RigMaker) -> None:
    """Another connection's request comes in between: an event loop, nothing is said of its calls."""
    c = Clock(rig)
    wire, other = c.wire(), c.wire((USER, 12), (SHOP, 21))
    c.t = wire.pass_on("client", get("/p0") + get("/p1"), c.t)
    c.t = other.pass_on("client", get("/q"), c.t)
    c.call("/whose")
    for each, n in ((wire, 1), (other, 1), (wire, 1)):
        for _ in range(n):
            c.t = each.pass_on("server", ok(), c.t + MS)
    assert by_path(c.end(), CLIENT)["/whose"].parent_id == ""


def test_a_client_that_gives_up_on_its_pipeline(rig: RigMaker) -> None:
    """It closes after the first answer: the others were read and are errors; the thread serves on."""
    c = Clock(rig)
    wire = c.wire()
    c.t = wire.pass_on("client", b"".join(get(f"/p{i}") for i in range(3)), c.t)
    c.t = wire.pass_on("server", ok(), c.t + MS)
    wire.close(c.t + MS)
    c.wait(3)
    again = c.wire()
    c.t = again.pass_on("client", get("/next"), c.t)
    c.call("/next.0")
    c.t = again.pass_on("server", ok(), c.t)
    spans = c.end()
    servers = by_path(spans, SERVER)
    assert {p: (s.code, s.reason) for p, s in servers.items() if p[1] == "p"} == {
        "/p0": (200, ""), "/p1": (None, "connection_closed"), "/p2": (None, "connection_closed"),
    }  # fmt: skip
    assert by_path(spans, CLIENT)["/next.0"].parent_id == servers["/next"].span_id


# ---- others ----


def test_ten_calls_at_once_by_one_thread(rig: RigMaker) -> None:
    """All are sent before the first answer comes (select, curl_multi): each serves the request of its thread."""
    c = Clock(rig)
    wire = c.wire()
    c.t = wire.pass_on("client", get("/in"), c.t)
    calls = [Wire(c.r.kernel, (SHOP, 21), (DB, 31 + i)) for i in range(10)]
    for i, call in enumerate(calls):
        c.t = call.pass_on("client", get(f"/c{i}"), c.t + MS)
    for call in reversed(calls):
        c.t = call.pass_on("server", ok(), c.t + MS)
    c.t = wire.pass_on("server", ok(), c.t)
    spans = c.end()
    above = by_path(spans, SERVER)["/in"].span_id
    clients = by_path(spans, CLIENT)
    assert {clients[f"/c{i}"].parent_id for i in range(10)} == {above}
    assert len({s.trace_id for s in spans}) == 1


def test_calls_of_a_pools_threads_are_nobodys(rig: RigMaker) -> None:
    """Another thread sends them, and no record says who asked it to: no link, rather than a guess."""
    c = Clock(rig)
    wires = [c.wire((USER, 11 + i), (SHOP, 21 + i)) for i in range(3)]
    for i, wire in enumerate(wires):
        c.t = wire.pass_on("client", get(f"/in{i}"), c.t)
    for i in range(6):
        c.call(f"/c{i}", tid=50 + i % 2)
    for wire in wires:
        c.t = wire.pass_on("server", ok(), c.t + MS)
    clients = by_path(c.end(), CLIENT)
    assert {(clients[f"/c{i}"].parent_id, clients[f"/c{i}"].link) for i in range(6)} == {("", "none")}


def test_a_websocket(rig: RigMaker) -> None:
    """Its span is the handshake, and leaves soon; what is said afterwards makes none, nor does it end anything."""
    c = Clock(rig)
    wire = c.wire()
    ask = get("/chat", "Upgrade: websocket", "Connection: Upgrade")
    c.t = wire.pass_on("client", ask, c.t)
    c.call("/session")
    c.t = wire.pass_on("server", b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", c.t + MS)
    shaken = c.t
    for _ in range(30):
        c.wait(2)
        c.t = wire.pass_on("client", b"\x81\x85aaaaGET /", c.t)
        c.call("/message")
        c.t = wire.pass_on("server", b"\x81\x05hello", c.t)
    assert {s.path for s in c.r.spans if s.code == 101} == {"/chat"}
    wire.close(c.t)
    spans = c.end()
    chat = [s for s in spans if s.path == "/chat"]
    assert [s.code for s in chat] == [101, 101] and all(shaken - s.end < MS for s in chat)
    clients = {s.path: s for s in spans if s.kind == CLIENT}
    assert clients["/session"].parent_id == next(s.span_id for s in chat if s.kind == SERVER)
    messages = [s for s in spans if s.kind == CLIENT and s.path == "/message"]
    assert len(messages) == 30 and {s.parent_id for s in messages} == {""}
    assert c.r.counts["connections_upgraded"] == 2


def test_a_retry_after_a_reset(rig: RigMaker) -> None:
    """Two calls of one request: the first is an error, the second is answered; both are its children."""
    c = Clock(rig)
    wire = c.wire()
    c.t = wire.pass_on("client", get("/in"), c.t)
    first = c.wire((SHOP, 21), (DB, 31))
    c.t = first.pass_on("client", get("/try"), c.t)
    first.close(c.t, error=104)
    second = c.wire((SHOP, 21), (DB, 31))
    c.t = second.pass_on("client", get("/again"), c.t + MS)
    c.t = second.pass_on("server", ok(), c.t + MS)
    c.t = wire.pass_on("server", ok(), c.t)
    spans = c.end()
    clients, above = by_path(spans, CLIENT), by_path(spans, SERVER)["/in"].span_id
    assert [(clients[p].parent_id, clients[p].reason) for p in ("/try", "/again")] == [
        (above, "connection_reset"), (above, ""),
    ]  # fmt: skip
    assert len({s.trace_id for s in spans}) == 1
