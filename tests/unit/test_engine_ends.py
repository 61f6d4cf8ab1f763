"""Requests that get no whole answer: closes, resets, time-outs, the agent's end. And what is no request at all."""

from __future__ import annotations

import errno
import gc
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import (
    CLIENT,
    MS,
    SERVER,
    START,
    Rig,
    RigMaker,
    S,
    by_path,
    engines,
    get,
    ok,
)  # fmt: skip
from engine_wire import Process, Wire

rig = engines

CURL, SHOP = Process(10, "curl"), Process(20, "shop")
ENDS = ((CURL, 10), (SHOP, 21))


def asked(r: Rig, path: str = "/a") -> tuple[Wire, int]:
    wire = Wire(r.kernel, *ENDS)
    return wire, wire.pass_on("client", get(path), START)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (0, "connection_closed"),
        (errno.ECONNRESET, "connection_reset"),
        (errno.EPIPE, "connection_reset"),
        (errno.ETIMEDOUT, "tcp_timeout"),
    ],
)
def test_closed_before_the_answer(rig: RigMaker, error: int, reason: str) -> None:
    """An error on both spans, with the reason, that ends with the connection; told a second later, as an answer may
    still be read."""
    r = rig(CURL, SHOP)
    wire, t = asked(r)
    wire.close(t + 5 * MS, error)
    r.feed()
    r.settle(t + 5 * MS + S)
    assert r.engine.ledger()["in_flight"] == {"open": 2, "held": 0}
    r.settle(t + 6 * MS + S)
    assert r.engine.ledger()["in_flight"] == {"open": 0, "held": 2}
    assert r.engine.links()["connections"] == 0
    for span in r.finish():
        assert (span.error, span.reason, span.message, span.end) == (True, reason, reason, t + 5 * MS)
        assert span.code is None


def test_the_last_answer_is_read_after_the_close(rig: RigMaker) -> None:
    """TCP was done with the connection before the process read what had come: it is an answer all the same, and nothing
    of the connection stays."""
    r = rig(CURL, SHOP)
    wire, t = asked(r)
    wire.server.send(ok(), t + MS)
    wire.close(t + 2 * MS)
    wire.client.recv(ok(), t + 3 * MS)
    r.feed()
    r.settle(t + S // 2)
    r.settle(t + 2 * S)
    assert r.engine.links()["connections"] == 0, "a connection that is gone was kept"
    assert [(s.code, s.error) for s in r.finish()] == [(200, False)] * 2


@pytest.mark.parametrize("error", [0, errno.ECONNRESET])
def test_closed_within_the_answer(rig: RigMaker, error: int) -> None:
    """An answer that broke off by a reset is an error of both ends; an orderly end says that all was sent."""
    r = rig(CURL, SHOP)
    wire, t = asked(r)
    t = wire.pass_on("server", b"HTTP/1.1 200 X\r\nContent-Length: 5000\r\n\r\n", t + MS)
    t = wire.pass_on("server", b"x" * 1000, t + MS)
    wire.close(t + MS, error)
    spans = r.run()
    assert [(s.code, s.error, s.reason) for s in spans] == [(200, bool(error), "connection_reset" if error else "")] * 2
    assert r.counts["resets"] == (2 if error else 0)


def test_reset_after_a_whole_answer(rig: RigMaker) -> None:
    """A connection that was kept alive in vain: no error. The body passed without a record."""
    r = rig(CURL, SHOP)
    wire, t = asked(r)
    t = wire.pass_on("server", b"HTTP/1.1 200 X\r\nContent-Length: 5000\r\n\r\n", t + MS)
    t = wire.pass_on("server", b"x" * 1000, t + MS)
    end = t + MS
    wire.pass_on("server", b"x" * 4000, end)
    wire.close(t + 9 * S, errno.ECONNRESET)
    spans = r.run()
    assert [(s.code, s.error) for s in spans] == [(200, False)] * 2
    assert max(s.end for s in spans) < t + S


def test_nothing_comes(rig: RigMaker) -> None:
    """After assemble.timeout_s the request is an error; its late answer is nobody else's."""
    r = rig(CURL, SHOP, timeout_s=5)
    wire, t = asked(r)
    wire.pass_on("client", get("/b"), START + 4 * S)
    r.feed()
    r.settle(START + 5 * S)
    assert r.counts["timeouts"] == 0
    r.settle(START + 5 * S + MS)
    assert r.counts["timeouts"] == 2
    t = wire.pass_on("server", ok(code=201), START + 6 * S)
    wire.pass_on("server", ok(code=202), t)
    spans = r.run()
    assert {(s.path, s.code, s.reason) for s in spans} == {("/a", None, "timeout"), ("/b", 202, "")}
    assert r.counts["orphans"] == 2


def test_a_late_answer_and_the_next_request(rig: RigMaker) -> None:
    r = rig(CURL, SHOP, timeout_s=5)
    wire, t = asked(r)
    r.feed()
    r.settle(START + 6 * S)
    t = wire.pass_on("server", ok(code=201), START + 7 * S)
    t = wire.pass_on("client", get("/b"), t)
    wire.pass_on("server", ok(code=202), t)
    spans = r.run()
    assert {(s.path, s.code) for s in spans} == {("/a", None), ("/b", 202)}


def test_lost_records_are_no_proof_of_a_time_out(rig: RigMaker) -> None:
    r = rig(CURL, SHOP, timeout_s=5)
    _, t = asked(r)
    r.feed()
    r.engine.lossy(t + S)
    spans = r.run()
    assert [(s.error, s.reason) for s in spans] == [(False, "")] * 2 and r.counts["not_seen"] == 2


def test_an_idle_answer_without_length_has_ended(rig: RigMaker) -> None:
    """Chunks beyond the capture do not tell which is the last (other answers do: test_engine_streams.py)."""
    r = rig(CURL, SHOP)
    wire, t = asked(r)
    t = wire.pass_on("server", b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n" + b"x" * 600, t + MS)
    r.feed()
    r.settle(t + S // 2)
    assert r.in_flight["open"] == 2
    r.settle(t + 2 * S)
    assert r.in_flight["open"] == 0
    assert {s.end for s in r.finish()} == {t - 1100, t - 100}


def test_the_agent_stops(rig: RigMaker) -> None:
    """What waits is dropped, by name; what is on hold leaves; an answer that is passing counts."""
    r = rig(CURL, SHOP)
    asked(r, "/open")
    wire, t = asked(r, "/passing")
    t = wire.pass_on("server", b"HTTP/1.1 200 X\r\nContent-Length: 5000\r\n\r\n", t)
    wire, t = asked(r, "/held")
    wire.pass_on("server", ok(), t)
    r.feed()
    r.balance()
    assert {(s.path, s.code) for s in r.finish()} == {("/passing", 200), ("/held", 200)}
    assert r.engine.ledger()["dropped"] == {"unfinished": 2}


def test_bytes_of_open_requests_are_bounded(rig: RigMaker) -> None:
    """Beyond max_open_bytes requests are dropped and counted, not kept; memory comes back."""
    r = rig(CURL, SHOP, max_open_bytes=100_000)
    for i in range(400):
        Wire(r.kernel, *ENDS, watch="server").pass_on("client", get(f"/{i}/" + "x" * 300), START + i * MS)
    r.feed()
    assert 50_000 < r.engine.memory()["open"] <= 100_000
    dropped = r.counts["open_full"]
    assert 0 < dropped < 400
    r.balance()
    r.run()
    assert r.counts["released"] == 400 - dropped


def test_connections_are_bounded(rig: RigMaker) -> None:
    """An idle connection makes room; with requests open on all of them a new one is refused and counted."""
    r = rig(CURL, SHOP, max_connections=50)
    wires = []
    for i in range(200):
        wires.append(Wire(r.kernel, *ENDS, watch="server"))
        t = wires[-1].pass_on("client", get(f"/{i}"), START + i * MS)
        wires[-1].pass_on("server", ok(), t)
    r.feed()
    assert r.engine.links()["connections"] == 50 and r.counts["connections_evicted"] == 150
    for i in range(60):
        Wire(r.kernel, *ENDS, watch="server").pass_on("client", get(f"/open/{i}"), START + S + i * MS)
    r.feed()
    assert r.engine.links()["connections"] == 50 and r.counts["connections_refused"] >= 10
    assert len([s for s in r.run() if s.code == 200]) == 200


def test_ten_thousand_connections_come_and_go(rig: RigMaker) -> None:
    r = rig(CURL, SHOP)
    t = START
    for i in range(10_000):
        wire = Wire(r.kernel, *ENDS, watch="server")
        t = wire.pass_on("client", get("/x"), t)
        t = wire.pass_on("server", ok(), t)
        wire.close(t)
        if i % 1000 == 999:
            r.feed()
            assert r.engine.links()["connections"] == 0
    assert len(r.finish()) == 10_000


# ---- what is no request ----


def test_unknown_protocols_are_given_up(rig: RigMaker) -> None:
    """After six runs that no parser knows a connection is dead, and counted once."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS)
    t = START
    for i in range(6):
        t = wire.pass_on("client", b"\x00\x01what" + bytes([i]) * 40, t)
        t = wire.pass_on("server", b"\xff\xfe\xfdever" * 9, t)
    t = wire.pass_on("client", get("/too/late"), t)
    wire.pass_on("server", ok(), t)
    assert r.finish() == [] and r.counts["connections_unknown"] == 2 and r.counts["seen"] == 0


@pytest.mark.parametrize("sizes", [None, [3, 2]])
def test_tls_is_no_protocol_of_ours(rig: RigMaker, sizes: list[int] | None) -> None:
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS, ports=(40000, 443))
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(1, 256)) * 2
    t = START
    for i in range(8):
        t = wire.pass_on("client", hello if i == 0 else b"\x17\x03\x03\x00\x50" + bytes(range(80)), t, sizes=sizes)
        t = wire.pass_on("server", b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76" + bytes(range(100)), t, sizes=sizes)
    assert r.finish() == []
    assert r.counts["connections_unknown"] == 2 and r.counts["seen"] == 0


def test_a_protocol_that_begins_late(rig: RigMaker) -> None:
    """A preamble that nobody knows (PROXY protocol) costs its own run only."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS)
    t = wire.pass_on("client", b"\r\n\r\n\x00\r\nQUIT\n" + b"\x21\x11\x00\x0c" + b"a" * 12, START)
    t = wire.pass_on("server", b"\x06", t)
    t = wire.pass_on("client", get("/a"), t)
    wire.pass_on("server", ok(), t)
    assert [(s.path, s.code) for s in r.finish()] == [("/a", 200)] * 2


def test_a_wrong_guess_is_taken_back(rig: RigMaker) -> None:
    """A connection that looked like HTTP and is Redis: after eight refused runs in a row it is what it is."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS)
    t = wire.pass_on("client", get("/looks/like/http"), START)
    t = wire.pass_on("server", b"-ERR unknown command\r\n", t)
    for i in range(12):
        t = wire.pass_on("client", b"*2\r\n$3\r\nGET\r\n$2\r\nk%d\r\n" % (i % 10), t)
        t = wire.pass_on("server", b"$1\r\n%d\r\n" % (i % 10), t)
    spans = r.finish()
    http = [s for s in spans if "url.path" in s.attributes]
    assert len(http) == 2 and {s.code for s in http} == {None}
    assert len([s for s in spans if s.path.startswith("GET k")]) >= 10
    assert r.counts["parse_errors"] >= 8


def test_connections_that_begin_in_the_middle(rig: RigMaker) -> None:
    """The agent starts within an answer's body: bytes that look like a request are none, what comes next is."""
    r = rig(CURL, SHOP)
    wire = Wire(r.kernel, *ENDS)
    wire.client.watched = wire.server.watched = False
    t = wire.pass_on("client", get("/unseen"), START)
    t = wire.pass_on("server", ok(b"x" * 5000)[:2000], t)
    wire.client.watched = wire.server.watched = True
    t = wire.pass_on("server", b"y" * 3000, t)
    t = wire.pass_on("client", get("/seen"), t)
    wire.pass_on("server", ok(), t)
    assert [(s.path, s.code) for s in r.finish()] == [("/seen", 200)] * 2


# ---- the agent's own, and the self-test's ----


@pytest.mark.parametrize("agent_first", [True, False])
def test_the_agents_own_requests_are_left_out(rig: RigMaker, agent_first: bool) -> None:
    """Both ends: the agent's is only announced, the other one is known by the connection's key."""
    agent = Process(99, "zerospan", agent=True)
    r = rig(CURL, SHOP, agent)
    wire = Wire(r.kernel, (agent, 99), (SHOP, 21))
    ask = get("/metrics", method="POST", body=b"spans")
    if agent_first:
        t = wire.pass_on("client", ask, START, order="sender")
    else:
        wire.server.recv(ask, START)
        wire.client.send(ask, START + MS)
        t = START + MS
    t = wire.pass_on("server", ok(), t)
    t = wire.pass_on("client", ask, t)
    t = wire.pass_on("server", ok(), t)
    other, t = asked(r, "/other")
    other.pass_on("server", ok(), t)
    spans = r.run()
    assert {s.path for s in spans} == {"/other"} and len(spans) == 2
    assert r.counts["connections_own"] == 1 and r.counts["own"] == (0 if agent_first else 1)


def test_requests_of_the_agent_that_wait_are_not_timed_out_spans(rig: RigMaker) -> None:
    """Several requests were pipelined before it was known whose the connection is."""
    agent = Process(99, "zerospan", agent=True)
    r = rig(SHOP, agent)
    wire = Wire(r.kernel, (agent, 99), (SHOP, 21))
    asks = b"".join(get(f"/{i}") for i in range(5))
    wire.server.recv(asks, START)
    wire.client.send(asks, START + MS)
    wire.server.send(ok(), START + 2 * MS)
    wire.server.send(ok() * 4, START + 3 * MS)
    assert r.run() == [] and r.engine.ledger()["dropped"] == {"own": 5}


def test_a_socket_that_the_agent_takes_over(rig: RigMaker) -> None:
    """Inherited from a parent with a request open: counted, not lost."""
    agent = Process(99, "zerospan", agent=True)
    r = rig(CURL, SHOP, agent)
    wire = Wire(r.kernel, *ENDS, watch="client")
    wire.client.send(get("/a"), START)
    wire.client.announced = False
    wire.client.send(b"more", START + MS, process=agent)
    assert r.run() == [] and r.engine.ledger()["dropped"] == {"own": 1}


def test_the_self_test_is_seen_but_not_exported(rig: RigMaker) -> None:
    """Spans of hidden processes, and of those that speak with them, are no part of what is released."""
    hidden = Process(77, "zerospan-selftest", hidden=True)
    r = rig(CURL, SHOP, hidden)
    wire = Wire(r.kernel, (hidden, 77), (hidden, 78))
    t = wire.pass_on("client", get("/selftest"), START)
    t = wire.pass_on("server", ok(), t)
    half = Wire(r.kernel, (hidden, 77), (SHOP, 21))
    t = half.pass_on("client", get("/selftest"), t)
    half.pass_on("server", ok(), t)
    other, t = asked(r, "/other")
    other.pass_on("server", ok(), t)
    assert {s.path for s in r.finish()} == {"/other"}
    assert (r.counts["selftest"], r.counts["released"], r.counts["selftest_answered"]) == (4, 2, 3)


# ---- memory ----


def test_an_engine_in_a_cycle_is_collected(rig: RigMaker) -> None:
    """With requests open, and reached by its own `describe`: the collector may clear it in any order."""
    for _ in range(20):
        r = Rig(CURL, SHOP)
        asked(r)
        r.feed()
        r.known["cycle"] = r  # type: ignore[index, assignment]
        del r
    gc.collect()


def test_both_kinds_by_path(rig: RigMaker) -> None:
    """A forked worker answers on the connection that its parent accepted: the span is of the one that read."""
    worker = Process(30, "worker")
    r = rig(CURL, SHOP, worker)
    wire, t = asked(r)
    wire.server.send(ok(), t, tid=31, process=worker)
    wire.client.recv(ok(), t + MS)
    spans = r.finish()
    assert by_path(spans, SERVER)["/a"].service == "shop" and by_path(spans, CLIENT)["/a"].code == 200
