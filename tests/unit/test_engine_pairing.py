"""Both ends of a request: keys, ids, parents, times; one connection after another, with nothing lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import (
    CLIENT,
    MS,
    SERVER,
    START,
    US,
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

rig = engines

CURL, SHOP = Process(10, "curl"), Process(20, "shop")
ENDS = ((CURL, 10), (SHOP, 21))
BIG = b"x" * 100_000


def both(spans: list[Span], path: str) -> tuple[Span, Span]:
    return by_path(spans, CLIENT)[path], by_path(spans, SERVER)[path]


@pytest.mark.parametrize("order", ["sender", "reader"])
def test_the_ends_of_a_request_find_each_other(rig: RigMaker, order: str) -> None:
    """Key, trace id, span ids and parent are those of design.md, whichever end's record came first."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS, isns=(0xFFFFFFF0, 7), ports=(40000, 8080))
    t = wire.pass_on("client", get("/a"), START, order=order)
    wire.pass_on("server", ok(), t + MS, order=order)
    client, server = both(r.finish(), "/a")
    key = request_key((0xFFFFFFF0, 7), 0xFFFFFFF1)
    assert client.attributes["zerospan.request_key"] == f"{key:016x}"
    assert (client.span_id, client.parent_id, client.link) == (client_id(key), "", "none")
    assert (server.span_id, server.parent_id, server.link) == (server_id(key), client_id(key), "tcp_isn")
    assert client.trace_id == server.trace_id == trace_of(key)
    assert (client.service, server.service, client.code, server.code) == ("curl", "shop", 200, 200)
    assert client.attributes["service.peer.name"] == "shop"
    assert (client.attributes["thread.id"], server.attributes["thread.id"]) == (10, 21)
    sent, read = (START, START + US) if order == "sender" else (START + US, START)
    assert (client.start, server.start) == (sent, read)


def test_sequence_numbers_wrap(rig: RigMaker) -> None:
    """The key of a request is that of its first byte modulo 2^32."""
    r = rig(CURL, SHOP)
    first = get("/a")
    wire = Wire(r.kernel, *ENDS, isns=((1 << 32) - 1 - len(first), 1))
    t = wire.pass_on("client", first, START)
    t = wire.pass_on("server", ok(), t)
    t = wire.pass_on("client", get("/b"), t)
    wire.pass_on("server", ok(), t)
    client, server = both(r.finish(), "/b")
    assert wire.seq(len(first)) == 0
    assert client.span_id == client_id(request_key(wire.isns, 0)) == server.parent_id


def test_one_end_alone(rig: RigMaker) -> None:
    """A request from elsewhere is a root of its own, a call to elsewhere has no peer."""
    r = rig(CURL, SHOP)
    for watch, path in (("client", "/out"), ("server", "/in")):
        wire = Wire(r.kernel, *ENDS, watch=watch)
        t = wire.pass_on("client", get(path), START)
        wire.pass_on("server", ok(), t)
    out, into = r.finish()
    assert (out.path, out.kind, out.parent_id, into.path, into.kind, into.parent_id) == ("/out", 3, "", "/in", 2, "")
    assert "service.peer.name" not in out.attributes


@pytest.mark.parametrize("body", [b"", b"ok", BIG], ids=["empty", "small", "beyond the capture"])
@pytest.mark.parametrize("user", [True, False], ids=["write", "sendfile"])
def test_keep_alive(rig: RigMaker, body: bytes, user: bool) -> None:
    """Many requests on a connection: every one has its own answer, also if bodies are never copied."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS)
    t = START
    for i in range(50):
        t = wire.pass_on("client", get(f"/r{i}"), t + MS)
        head = ok(body, f"X-I: {i}", code=205 + i)
        head = head[: len(head) - len(body)]
        t = wire.pass_on("server", head, t + MS)
        if body:
            wire.server.send(body, t, user=user)
            for at in range(0, len(body), 30_000):
                wire.client.recv(body[at : at + 30_000], t + at)
            t += MS
    wire.close(t)
    spans = r.finish()
    assert len(spans) == 100 and r.counts["orphans"] == r.counts["parse_errors"] == 0
    for kind in (CLIENT, SERVER):
        for i in range(50):
            span = by_path(spans, kind)[f"/r{i}"]
            assert (span.code, span.error) == (205 + i, False)


def test_one_connection_of_100_mb_bodies_both_ways(rig: RigMaker) -> None:
    """What is longer than the capture is stepped over by its length, in both directions."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS)
    t = START
    for i in range(3):
        head = get(f"/up{i}", "Content-Length: 100000000", method="POST")
        t = wire.pass_on("client", head, t + MS)
        for _ in range(4):
            t = wire.pass_on("client", b"x" * 25_000_000, t)
        t = wire.pass_on("server", b"HTTP/1.1 201 X\r\nContent-Length: 50000000\r\n\r\n", t)
        for _ in range(2):
            t = wire.pass_on("server", b"y" * 25_000_000, t)
    spans = r.finish()
    assert [s.code for s in spans] == [201] * 6
    assert {s.attributes["http.request.body.size"] for s in spans} == {100_000_000}
    assert {s.attributes["http.response.body.size"] for s in spans} == {50_000_000}


@pytest.mark.parametrize("sizes", [None, [1] * 40, [16, 3, 500]], ids=["whole", "byte by byte", "in pieces"])
def test_heads_in_pieces(rig: RigMaker, sizes: list[int] | None) -> None:
    """A head that was written in pieces begins with its first byte and is answered when its last is there."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS)
    t = START
    for i in range(3):
        begun = t
        t = wire.pass_on("client", get(f"/r{i}"), t, sizes=sizes)
        answered = t + MS
        t = wire.pass_on("server", ok(), answered, sizes=sizes)
        client, server = both(r.finish() if i == 2 else [], f"/r{i}") if i == 2 else (None, None)
    assert client is not None and server is not None
    assert (client.start, server.start) == (begun, begun + US)
    assert server.attributes["zerospan.time_to_first_byte"] == answered - server.start
    assert client.parent_id == "" and server.parent_id == client.span_id
    assert len(r.spans) == 6 and all(s.code == 200 for s in r.spans)


@pytest.mark.parametrize("answers", ["one record", "one run", "several runs"])
def test_pipelined_requests_in_one_record(rig: RigMaker, answers: str) -> None:
    """Requests of one write are told apart by their first byte, and answered in their order."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS)
    asks = [get(f"/p{i}") for i in range(4)]
    t = wire.pass_on("client", b"".join(asks), START)
    replies = [ok(b"r" * i, code=200 + i) for i in range(4)]
    if answers == "one record":
        t = wire.pass_on("server", b"".join(replies), t + MS)
    elif answers == "one run":
        for reply in replies:
            t = wire.pass_on("server", reply, t + MS)
    else:
        t = wire.pass_on("server", replies[0] + replies[1], t + MS)
        t = wire.pass_on("client", get("/p4"), t + MS)
        t = wire.pass_on("server", replies[2] + replies[3] + ok(code=204, body=b""), t + MS)
    spans = r.finish()
    clients, servers = by_path(spans, CLIENT), by_path(spans, SERVER)
    for i in range(4):
        key = request_key(wire.isns, wire.seq(sum(map(len, asks[:i]))))
        client, server = clients[f"/p{i}"], servers[f"/p{i}"]
        assert client.code == server.code == 200 + i
        assert (client.span_id, server.parent_id) == (client_id(key), client_id(key))
        assert client.trace_id == trace_of(key)
    assert r.counts["orphans"] == 0
    if answers == "several runs":
        assert clients["/p4"].code == 204


def test_pipelined_beyond_the_capture(rig: RigMaker) -> None:
    """Requests that nobody copied are no requests of ours; the next batch is paired rightly again."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS)
    t = START
    for batch in range(3):
        asks = b"".join(get(f"/b{batch}.{i}", "X-Padding: " + "p" * 150) for i in range(6))
        t = wire.pass_on("client", asks, t + MS)
        t = wire.pass_on("server", b"".join(ok(code=200 + i) for i in range(6)), t + MS)
    spans = r.finish()
    for span in spans:
        assert span.code in (None, 200 + int(span.path.split(".")[1])), span.path
    answered = [s for s in spans if s.kind == SERVER and s.code is not None]
    assert len(answered) == 9, "two of each batch and the beginning of a third fit the capture"
    assert sum("zerospan.truncated" in s.attributes for s in answered) == 3
    assert r.counts["orphans"] > 0 and r.counts["uncaptured"] > 0


def test_answers_beyond_the_capture_end_when_the_next_run_says(rig: RigMaker) -> None:
    """The end of an answer of unknown length is that of its last byte, told by the next request, a sweep or the end."""
    head = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n"
    for how in ("next run", "close"):
        r = rig(CURL, SHOP)
        wire = Wire(r.kernel, *ENDS)
        t = wire.pass_on("client", get("/long"), START)
        t = wire.pass_on("server", head + b"400\r\n" + b"x" * 600, t + MS)
        wire.server.send(b"x" * 424 + b"\r\n0\r\n\r\n", t + 50 * MS)
        wire.client.recv(b"x" * 424 + b"\r\n0\r\n\r\n", t + 51 * MS)
        if how == "next run":
            wire.pass_on("client", get("/next"), t + 900 * MS)
        else:
            wire.close(t + 900 * MS)
        r.feed()
        client, server = both(r.finish(), "/long")
        assert (client.end, server.end) == (t + 51 * MS, t + 50 * MS), how
        assert client.code == 200 and not client.error


def test_a_sweep_ends_an_answer_of_known_length(rig: RigMaker) -> None:
    r = rig(CURL, SHOP, hold_s=0.1)
    wire = Wire(r.kernel, *ENDS)
    t = wire.pass_on("client", get("/file"), START)
    wire.pass_on("server", b"HTTP/1.1 200 X\r\nContent-Length: 5000\r\n\r\n", t + MS)
    for i in range(5):
        wire.server.send(b"x" * 1000, t + (10 + i) * MS, user=False)
        wire.client.recv(b"x" * 1000, t + (20 + i) * MS)
    wire.client.sweep(t + 500 * MS)
    wire.server.sweep(t + 500 * MS)
    r.feed()
    assert r.tick(t + 599 * MS) == [], "the hold begins when the end was told"
    spans = r.tick(t + 600 * MS)
    assert sorted((s.kind, s.end) for s in spans) == [(SERVER, t + 14 * MS), (CLIENT, t + 24 * MS)]


def test_a_sweep_within_a_cut_head_changes_no_key(rig: RigMaker) -> None:
    """A head longer than the capture, of which the first call filled it exactly: both ends compute the same key."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS)
    ask = get("/big", "X-Big: " + "b" * 900)
    wire.client.send(ask[:512], START)
    wire.client.send(ask[512:], START + MS)
    wire.server.recv(ask, START + 2 * MS)
    wire.client.sweep(START + 500 * MS)
    wire.server.sweep(START + 500 * MS)
    t = wire.pass_on("server", ok(), START + S)
    t = wire.pass_on("client", get("/next"), t)
    wire.pass_on("server", ok(), t)
    spans = r.finish()
    client, server = both(spans, "/big")
    assert server.parent_id == client.span_id == client_id(request_key(wire.isns, wire.seq(0)))
    assert client.code == server.code == 200
    assert both(spans, "/next")[0].span_id == client_id(request_key(wire.isns, wire.seq(len(ask))))


def test_expect_100_continue(rig: RigMaker) -> None:
    """The interim answer ends nothing; the body that follows is no request."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS)
    t = START
    for i in range(3):
        begun = t
        ask = get(f"/up{i}", "Expect: 100-continue", "Content-Length: 3000", method="PUT")
        t = wire.pass_on("client", ask, t)
        t = wire.pass_on("server", b"HTTP/1.1 100 Continue\r\n\r\n", t + MS)
        t = wire.pass_on("client", b"GET /x HTTP/1.1\r\n\r\n".ljust(3000, b"."), t + MS)
        t = wire.pass_on("server", ok(code=201), t + MS)
    spans = r.finish()
    assert [s.path for s in spans if s.kind == CLIENT] == ["/up0", "/up1", "/up2"]
    assert {s.code for s in spans} == {201} and r.counts["interim"] == 6
    assert both(spans, "/up2")[0].start == begun


def test_a_refused_expectation(rig: RigMaker) -> None:
    """417 comes instead of 100: the body is never sent, the next request is one."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS)
    ask = get("/up", "Expect: 100-continue", "Content-Length: 3000", method="PUT")
    t = wire.pass_on("client", ask, START)
    t = wire.pass_on("server", ok(code=417), t + MS)
    t = wire.pass_on("client", get("/next"), t + MS)
    wire.pass_on("server", ok(), t + MS)
    spans = r.finish()
    assert [(s.path, s.code) for s in spans if s.kind == SERVER] == [("/up", 417), ("/next", 200)]


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 X\r\nContent-Length: 5000\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 X\r\nContent-Length: 5000\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 X\r\n\r\n"),
        ("GET", b"HTTP/1.1 103 X\r\nLink: a\r\n\r\nHTTP/1.1 200 X\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_answers_without_a_body(rig: RigMaker, method: str, head: bytes) -> None:
    """No body follows, whatever Content-Length says: the next answer is found."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS)
    t = wire.pass_on("client", get("/a", method=method), START)
    t = wire.pass_on("server", head, t)
    t = wire.pass_on("client", get("/b"), t)
    wire.pass_on("server", ok(code=202), t)
    spans = r.finish()
    assert [s.code for s in spans if s.path == "/b"] == [202, 202]
    assert both(spans, "/a")[0].code == (304 if b" 304" in head else 204 if b" 204" in head else 200)


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (get("/chat", "Upgrade: websocket", "Connection: Upgrade"), b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n"),
        (b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n", b"HTTP/1.1 200 X\r\n\r\n"),
    ],
    ids=["upgrade", "connect"],
)
def test_another_protocol_takes_over(rig: RigMaker, ask: bytes, answer: bytes) -> None:
    """After 101 or a CONNECT's 2xx nothing on the connection is HTTP, even if it looks so."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS)
    t = wire.pass_on("client", ask, START)
    t = wire.pass_on("server", answer, t)
    t = wire.pass_on("client", get("/hidden"), t)
    wire.pass_on("server", ok(), t)
    spans = r.finish()
    assert len(spans) == 2 and {s.code for s in spans} == {101 if b"101" in answer else 200}
    assert r.counts["connections_upgraded"] == 2


def test_spliced_answers_are_no_one_elses(rig: RigMaker) -> None:
    """An answer that no hook saw (splice from the socket) leaves its request without an answer, and no other."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS, watch="client")
    wire.client.send(get("/a"), START)
    wire.client.unseen(1, 300)
    wire.client.send(get("/b"), START + MS)
    wire.client.recv(ok(code=202), START + 2 * MS)
    spans = r.finish()
    assert [(s.path, s.code, s.error) for s in spans] == [("/a", None, False), ("/b", 202, False)]
    assert r.counts["not_seen"] == 1


@pytest.mark.parametrize("ports", [(40000, 8080), (40000, 39999)])
def test_roles_that_the_counters_do_not_tell(rig: RigMaker, ports: tuple[int, int]) -> None:
    """Announced again with every message until they do: sides do not change places in between."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS, ports=ports, known=False)
    t = START
    for i in range(4):
        if i == 2:
            wire.client.known = wire.server.known = True
        t = wire.pass_on("client", get(f"/r{i}"), t)
        t = wire.pass_on("server", ok(code=200 + i), t)
    spans = r.finish()
    for kind in (CLIENT, SERVER):
        assert {s.path: s.code for s in spans if s.kind == kind} == {f"/r{i}": 200 + i for i in range(4)}
    client, server = both(spans, "/r3")
    assert server.parent_id == client.span_id
    assert both(spans, "/r0")[1].parent_id == "", "without initial sequence numbers the ends do not know each other"


def test_a_wrong_guess_of_the_sides_is_taken_back(rig: RigMaker) -> None:
    """A server on a high port, called from a low one: nothing is paired until the counters tell, then all is."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS, ports=(8080, 40000), known=False)
    t = START
    for i in range(4):
        if i == 2:
            wire.client.known = wire.server.known = True
        t = wire.pass_on("client", get(f"/r{i}"), t)
        t = wire.pass_on("server", ok(code=200 + i), t)
    spans = r.finish()
    assert {(s.path, s.code) for s in spans if s.kind == CLIENT} == {("/r2", 202), ("/r3", 203)}
    assert {(s.path, s.code) for s in spans if s.kind == SERVER} == {("/r2", 202), ("/r3", 203)}
    client, server = both(spans, "/r3")
    assert server.parent_id == client.span_id


def test_redis_pipelines(rig: RigMaker) -> None:
    """A batch and its answers; the same code pairs every protocol that answers in order."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS)
    t = wire.pass_on(
        "client", b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n*1\r\n$4\r\nINCR\r\n", START
    )
    t = wire.pass_on("server", b"$1\r\n1\r\n$-1\r\n-ERR wrong number\r\n", t)
    spans = [s for s in r.finish() if s.kind == CLIENT]
    assert [(s.path, s.error) for s in spans] == [("GET a", False), ("GET b", False), ("INCR", True)]
