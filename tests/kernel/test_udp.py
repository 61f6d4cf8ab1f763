"""Datagrams: DNS only, whole, whoever sends them and however many in one call."""

import socket
import struct
from collections.abc import Callable

import pytest
from peer import Peer
from records import Record, Trace, address

from zerospan.exporter.abi import events


def question(ident: int, name: bytes = b"\4shop\4test\0", kind: int = 1) -> bytes:
    return struct.pack("!HHHHHH", ident, 0x0100, 1, 0, 0, 0) + name + struct.pack("!HH", kind, 1)


def reply(query: bytes, records: int = 1) -> bytes:
    answer = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + b"\x7f\0\0\1"
    return query[:2] + struct.pack("!HHHHH", 0x8180, 1, records, 0, 0) + query[12:] + answer * records


def datagrams(trace: Trace, peer: Peer, direction: int) -> list[Record]:
    return [r for r in trace.drain().of("zs_dgram") if (r["tgid"], r["dir"]) == (peer.pid, direction)]


@pytest.fixture
def sockets(client: Peer, server: Peer) -> tuple[int, int, int, int]:
    """A connected one of the client, a bound one of the server: (client's, its port, server's, its port)."""
    s, port = server.udp("127.0.0.1")
    c, client_port = client.udp("127.0.0.1", port)
    return c, client_port, s, port


def test_question_and_answer(trace: Trace, client: Peer, server: Peer, sockets: tuple[int, int, int, int]) -> None:
    c, client_port, s, port = sockets
    query = question(0x1234)
    client.send(c, query)
    assert server.recvfrom(s)[0] == query
    server.sendto(s, reply(query), "127.0.0.1", client_port)
    assert client.recv(c) == reply(query)
    (asked,), (got,) = datagrams(trace, client, events.SEND), datagrams(trace, server, events.RECV)
    (answered,), (heard,) = datagrams(trace, server, events.SEND), datagrams(trace, client, events.RECV)
    assert [asked["payload"], got["payload"]] == [query] * 2
    assert [answered["payload"], heard["payload"]] == [reply(query)] * 2
    for end in (asked, heard):
        assert (end["local_port"], end["remote_port"]) == (client_port, port)
        assert address(end, "local") == address(end, "remote") == "127.0.0.1"
    assert (answered["local_port"], answered["remote_port"]) == (port, client_port)
    assert address(answered, "remote") == "127.0.0.1"
    assert asked["conn_id"] == heard["conn_id"] != answered["conn_id"] == got["conn_id"]
    assert all(r["flags"] == 0 and r["len"] == len(r["payload"]) for r in (asked, got, answered, heard))
    assert asked["comm"].startswith(b"python") and asked["netns"] and asked["cgroup_id"]
    assert trace.lost() == {}


@pytest.mark.parametrize(("host", "to", "seen"), [("::1", "::1", "::1"), ("::", "::ffff:127.0.0.1", "127.0.0.1")])
def test_ipv6_and_mapped(trace: Trace, client: Peer, server: Peer, host: str, to: str, seen: str) -> None:
    s, port = server.udp("127.0.0.1" if "." in to else host)
    c, _ = client.udp(host)
    client.sendto(c, question(7), to, port)
    assert server.recvfrom(s)[0] == question(7)
    (asked,) = datagrams(trace, client, events.SEND)
    assert address(asked, "remote") == seen
    assert asked["remote_port"] == port
    assert asked["family"] == (socket.AF_INET if "." in seen else socket.AF_INET6)


def test_only_dns(trace: Trace, client: Peer, server: Peer, sockets: tuple[int, int, int, int]) -> None:
    """What is no DNS is counted and never copied."""
    c, _, s, _ = sockets
    others = [
        b"\xc3\x00\x00\x00\x01\x08" + bytes(range(60)),  # QUIC's long header
        b"\x00\x01\x02",  # shorter than a header
        b"",  # nothing at all
        b"statsd.counter:1|c|#service:shop",
        b"\x80\x60" + b"\xff" * 160,  # RTP
    ]
    for data in others:
        client.send(c, data)
        server.recvfrom(s)
    assert datagrams(trace, client, events.SEND) == datagrams(trace, server, events.RECV) == []
    # an empty datagram is no message for any hook
    assert trace.counters() == {"udp_not_dns": 2 * (len(others) - 1)}


def test_two_questions_in_one_call(
    trace: Trace, client: Peer, server: Peer, sockets: tuple[int, int, int, int]
) -> None:
    """As glibc asks for A and AAAA: both payloads, each its own; again with the same array."""
    c, _, s, _ = sockets
    for turn in range(3):
        queries = [question(100 + turn), question(200 + turn, kind=28)]
        assert client.sendmmsg(c, queries) == [len(q) for q in queries]
        for query in queries:
            assert server.recvfrom(s)[0] == query
        assert [r["payload"] for r in datagrams(trace, client, events.SEND)][-2:] == queries
        assert [r["payload"] for r in datagrams(trace, server, events.RECV)][-2:] == queries
    assert trace.lost() == {}


@pytest.mark.parametrize("waiting", [(1, 1, 1), (2, 2), (1, 2, 1, 3), (3, 1, 4)])
def test_server_that_receives_many_at_once(
    trace: Trace, client: Peer, server: Peer, sockets: tuple[int, int, int, int], waiting: tuple[int, ...]
) -> None:
    """recvmmsg into the same array again and again, however many messages wait: each payload is its own."""
    c, _, s, _ = sockets
    expected = []
    for round_, count in enumerate(waiting):
        queries = [question(1000 * round_ + i) for i in range(count)]  # all of one length
        for query in queries:
            client.send(c, query)
        assert server.recvmmsg(s, 4) == queries
        expected += queries
    assert [r["payload"] for r in datagrams(trace, server, events.RECV)] == expected


def test_more_messages_than_are_looked_at(
    trace: Trace, layout: str, client: Peer, server: Peer, sockets: tuple[int, int, int, int]
) -> None:
    """sys_exit sees a vector once, at its end, and looks at four of it; the others are counted."""
    c, _, s, _ = sockets
    queries = [question(i) for i in range(10)]
    client.sendmmsg(c, queries)
    got = [server.recvfrom(s)[0] for _ in queries]
    assert got == queries
    seen = [r["payload"] for r in datagrams(trace, client, events.SEND)]
    if layout == "sock_length":
        assert seen == queries and trace.lost() == {}
    else:
        assert seen == queries[:4] and trace.lost() == {"iovecs_cut": 6}


def test_datagram_longer_than_the_buffer(
    trace: Trace, client: Peer, server: Peer, sockets: tuple[int, int, int, int]
) -> None:
    """MSG_TRUNC reports the true length: no byte beyond the buffer is shown."""
    c, _, s, _ = sockets
    query = question(1) + b"x" * 300
    client.send(c, query)
    got, buffer = server.recv_trunc(s, 40)
    assert got == len(query) and buffer[:40] == query[:40]
    (heard,) = datagrams(trace, server, events.RECV)
    assert heard["len"] == len(query)
    assert heard["payload"] == query[:40]
    assert heard["flags"] & events.F_CUT


def test_peek_is_not_a_message(trace: Trace, client: Peer, server: Peer, sockets: tuple[int, int, int, int]) -> None:
    c, _, s, _ = sockets
    client.send(c, question(1))
    for _ in range(3):
        server.recv(s, 100, socket.MSG_PEEK)
    server.recv(s)
    assert len(datagrams(trace, server, events.RECV)) == 1


def test_large_answer_is_cut(trace: Trace, client: Peer, server: Peer, sockets: tuple[int, int, int, int]) -> None:
    c, _, s, _ = sockets
    answer = reply(question(9), records=200)
    client.send(c, answer)
    server.recvfrom(s, 65536)
    for (r,) in (datagrams(trace, client, events.SEND), datagrams(trace, server, events.RECV)):
        assert (r["len"], r["payload"]) == (len(answer), answer[:512])
        assert r["flags"] == events.F_CUT


def test_sockets_leave_nothing_behind(trace: Trace, client: Peer, server: Peer) -> None:
    """Each socket has its own number, also where one takes the memory of another that was closed."""
    s, port = server.udp("127.0.0.1")
    for _ in range(50):
        c, _ = client.udp("127.0.0.1", port)
        client.send(c, question(1))
        client.close(c)
    sent = datagrams(trace, client, events.SEND)
    assert len({r["conn_id"] for r in sent}) == len(sent) == 50


def test_connected_by_default_address(load: Callable[..., Trace], client: Peer, server: Peer) -> None:
    """--port decides by either port, for datagrams, too."""
    s, port = server.udp("127.0.0.1")
    other, other_port = server.udp("127.0.0.1")
    trace = load(port=(port,))
    for to, fd in ((port, s), (other_port, other)):
        c, _ = client.udp("127.0.0.1", to)
        client.send(c, question(to))
        server.recvfrom(fd)
    assert {r["payload"] for r in trace.drain().of("zs_dgram")} == {question(port)}
