"""DNS over UDP: requests and answers by id and name, both ends by id, name and the client's port."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from engine_kit import (
    CLIENT,
    MS,
    SERVER,
    START,
    RigMaker,
    S,
    client_id,
    dns_key,
    engines,
    server_id,
    trace_of,
)  # fmt: skip
from engine_wire import Process, Socket

rig = engines

APP, DNSMASQ = Process(10, "app"), Process(20, "dnsmasq")
AT = ("127.0.0.1", 53)
A, AAAA = 1, 28


def name(text: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in text.split(".")) + b"\0"


def query(number: int, text: str, kind: int = A) -> bytes:
    return number.to_bytes(2, "big") + b"\1\0\0\1\0\0\0\0\0\0" + name(text) + bytes([0, kind, 0, 1])


def reply(number: int, text: str, kind: int = A, rcode: int = 0, answers: int = 1) -> bytes:
    if rcode:
        answers = 0
    head = number.to_bytes(2, "big") + bytes([0x81, 0x80 | rcode, 0, 1, 0, answers, 0, 0, 0, 0])
    data = b"\x7f\0\0\1" if kind == A else bytes(15) + b"\1"
    record = b"\xc0\x0c" + bytes([0, kind, 0, 1, 0, 0, 0, 60, 0, len(data)]) + data
    return head + name(text) + bytes([0, kind, 0, 1]) + record * answers


def test_both_ends(rig: RigMaker) -> None:
    """The server's socket is not connected and learns the client's port when it answers: the same key all the same."""
    r = rig(APP, DNSMASQ)
    app = Socket(r.kernel, APP, 10, ("127.0.0.1", 40000), AT)
    server = Socket(r.kernel, DNSMASQ, 20, AT)
    app.send(query(7, "db.shop"), START)
    server.recv(query(7, "db.shop"), START + MS)
    server.send(reply(7, "db.shop", answers=3), START + 2 * MS, ("127.0.0.1", 40000))
    app.recv(reply(7, "db.shop", answers=3), START + 3 * MS)
    client, answerer = r.finish()
    key = dns_key(7, b"db.shop", b"A", 40000)
    assert (client.kind, client.span_id, client.parent_id) == (CLIENT, client_id(key), "")
    assert (answerer.kind, answerer.span_id, answerer.parent_id) == (SERVER, server_id(key), client_id(key))
    assert client.trace_id == answerer.trace_id == trace_of(key)
    assert (answerer.link, client.name, client.path) == ("dns_id", "DNS A", "db.shop")
    assert (client.start, client.end, answerer.start, answerer.end) == tuple(START + i * MS for i in (0, 3, 1, 2))
    assert client.attributes["zerospan.dns.answers"] == 3
    assert client.attributes["service.peer.name"] == "dnsmasq"


def test_a_socket_of_ipv6_speaks_ipv4_too(rig: RigMaker) -> None:
    """As a server at [::]:53 does, which learns who asks when it answers."""
    r = rig(DNSMASQ)
    server = Socket(r.kernel, DNSMASQ, 20, ("::", 53))
    asked = [("fd00::9", 40000), ("10.244.1.9", 40001), ("fd00::a", 40002)]
    for number, client in enumerate(asked):
        server.recv(query(number, "db.shop"), START + number * S, client if number == 2 else None)
        server.send(reply(number, "db.shop"), START + number * S + MS, client)
    assert [(s.attributes["client.address"], s.attributes["client.port"]) for s in r.finish()] == asked


def test_two_questions_from_one_socket(rig: RigMaker) -> None:
    """getaddrinfo() asks for A and AAAA at once; answers come in any order, with any result."""
    r = rig(APP, DNSMASQ)
    app = Socket(r.kernel, APP, 10, ("127.0.0.1", 40001), AT)
    server = Socket(r.kernel, DNSMASQ, 20, AT)
    for number, kind in ((100, A), (101, AAAA)):
        app.send(query(number, "cache.shop", kind), START + number * MS)
        server.recv(query(number, "cache.shop", kind), START + number * MS + 1)
    for number, kind, rcode in ((101, AAAA, 3), (100, A, 0)):
        server.send(reply(number, "cache.shop", kind, rcode), START + S - number * MS, ("127.0.0.1", 40001))
        app.recv(reply(number, "cache.shop", kind, rcode), START + S - number * MS + 1)
    spans = r.finish()
    got = {(s.kind, s.name): (s.error, s.end - s.start, s.span_id) for s in spans}
    assert len(spans) == len(got) == 4
    for number, word, failed in ((100, "A", False), (101, "AAAA", True)):
        key = dns_key(number, b"cache.shop", word.encode(), 40001)
        assert got[CLIENT, f"DNS {word}"] == (failed, S - 2 * number * MS + 1, client_id(key))
        assert got[SERVER, f"DNS {word}"][2] == server_id(key)
    assert [s.attributes["zerospan.dns.response_code"] for s in spans if s.name == "DNS AAAA"] == ["NXDOMAIN"] * 2


def test_a_question_asked_again(rig: RigMaker) -> None:
    """The first datagram was lost: one request, from the first question to the answer; no time-out is left behind."""
    r = rig(APP, DNSMASQ)
    app = Socket(r.kernel, APP, 10, ("127.0.0.1", 40002), AT)
    server = Socket(r.kernel, DNSMASQ, 20, AT)
    app.send(query(9, "a.shop"), START)
    app.send(query(9, "a.shop"), START + 5 * S)
    server.recv(query(9, "a.shop"), START + 5 * S + MS)
    server.send(reply(9, "a.shop"), START + 5 * S + 2 * MS, ("127.0.0.1", 40002))
    app.recv(reply(9, "a.shop"), START + 5 * S + 3 * MS)
    client, answerer = r.run()
    assert (client.start, client.end, client.error) == (START, START + 5 * S + 3 * MS, False)
    assert answerer.parent_id == client.span_id
    assert (r.counts["retransmitted"], r.counts["timeouts"], r.counts["seen"]) == (1, 0, 2)


def test_a_question_answered_twice(rig: RigMaker) -> None:
    """The server was only slow: it handles both copies. Two SERVER spans, each with an id of its own, one of them the
    client's; the second answer is nobody's."""
    r = rig(APP, DNSMASQ)
    app = Socket(r.kernel, APP, 10, ("127.0.0.1", 40003), AT)
    server = Socket(r.kernel, DNSMASQ, 20, AT)
    for i in range(2):
        app.send(query(9, "a.shop"), START + i * MS)
        server.recv(query(9, "a.shop"), START + (2 + i) * MS)
    for i in range(2):
        server.send(reply(9, "a.shop"), START + (4 + i) * MS, ("127.0.0.1", 40003))
        app.recv(reply(9, "a.shop"), START + (6 + i) * MS)
    spans = r.run()
    assert [s.kind for s in spans] == [CLIENT, SERVER, SERVER]
    assert [s.parent_id for s in spans] == ["", spans[0].span_id, ""]
    assert not any(s.error for s in spans) and r.counts["orphans"] == 1


def test_an_id_used_again(rig: RigMaker) -> None:
    """A resolver that always takes the same id and port: every question is a request with an id of its own."""
    r = rig(APP, DNSMASQ)
    app = Socket(r.kernel, APP, 10, ("127.0.0.1", 40004), AT)
    server = Socket(r.kernel, DNSMASQ, 20, AT)
    t = START
    for _ in range(3):
        app.send(query(1, "a.shop"), t)
        server.recv(query(1, "a.shop"), t + 1)
        server.send(reply(1, "a.shop"), t + 2, ("127.0.0.1", 40004))
        app.recv(reply(1, "a.shop"), t + 3)
        t += MS
    assert len(r.run()) == 6


def test_no_answer(rig: RigMaker) -> None:
    """Ten seconds, then an error; also if assemble.timeout_s is longer."""
    r = rig(APP, DNSMASQ)
    app = Socket(r.kernel, APP, 10, ("127.0.0.1", 40005), AT)
    server = Socket(r.kernel, DNSMASQ, 20, AT)
    app.send(query(5, "gone.shop"), START)
    server.recv(query(5, "gone.shop"), START + MS)
    r.feed()
    r.settle(START + 10 * S)
    assert r.counts["timeouts"] == 0
    r.settle(START + 10 * S + 2 * MS)
    assert r.counts["timeouts"] == 2 and r.engine.links()["connections"] == 0
    spans = r.finish()
    assert [(s.kind, s.error, s.reason) for s in spans] == [(CLIENT, True, "timeout"), (SERVER, True, "timeout")]


def test_two_clients_with_one_id(rig: RigMaker) -> None:
    """A server that knows its clients when it reads (recvfrom with a name) or only when it answers."""
    for named in (True, False):
        r = rig(APP, DNSMASQ)
        server = Socket(r.kernel, DNSMASQ, 20, AT)
        clients = [Socket(r.kernel, APP, 10, ("127.0.0.1", port), AT) for port in (41000, 41001)]
        for i, app in enumerate(clients):
            app.send(query(3, "x.shop"), START + i * MS)
            server.recv(query(3, "x.shop"), START + (2 + i) * MS, app.local if named else None)
        for i, app in enumerate(clients):
            server.send(reply(3, "x.shop"), START + (4 + i) * MS, app.local)
            app.recv(reply(3, "x.shop"), START + (6 + i) * MS)
        spans = r.run()
        assert len(spans) == 4 and r.counts["retransmitted"] == 0
        assert {s.parent_id for s in spans if s.kind == SERVER} == {s.span_id for s in spans if s.kind == CLIENT}


def test_what_is_no_dns(rig: RigMaker) -> None:
    r = rig(APP)
    app = Socket(r.kernel, APP, 10, ("127.0.0.1", 40006), ("127.0.0.1", 443))
    for i in range(50):
        app.send(bytes([0xC0 + i % 4]) + bytes(range(60)), START + i)
    assert r.run() == []
    assert r.engine.links()["connections"] == 0 and r.counts["requests"] == 0


def test_an_answer_to_nothing(rig: RigMaker) -> None:
    r = rig(APP)
    app = Socket(r.kernel, APP, 10, ("127.0.0.1", 40007), AT)
    app.recv(reply(3, "x.shop"), START)
    assert r.run() == [] and r.counts["orphans"] == 1
