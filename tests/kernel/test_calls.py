"""Each system call that can carry a message: what comes out is what went over the wire, at both ends."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from pair import ANSWER, REQUEST, Pair
from peer import Peer, compiled
from records import Trace, check_pair

from zerospan.exporter.abi import events

Connect = Callable[..., Pair]

HEAD = b"POST /orders/1?x=2 HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\n"


def send_plain(peer: Peer, fd: int) -> None:
    peer.send(fd, HEAD)


def send_write(peer: Peer, fd: int) -> None:
    peer.write(fd, HEAD)


def send_writev(peer: Peer, fd: int) -> None:
    peer.writev(fd, [HEAD[:5], HEAD[5:20], HEAD[20:]])


def send_writev_empty_first(peer: Peer, fd: int) -> None:
    peer.writev(fd, [b"", HEAD])


def send_writev_two_empty(peer: Peer, fd: int) -> None:
    peer.writev(fd, [b"", b"", HEAD[:1], b"", HEAD[1:]])


def send_sendmsg(peer: Peer, fd: int) -> None:
    peer.sendmsg(fd, [HEAD[:30], HEAD[30:]])


def send_sendmsg_one(peer: Peer, fd: int) -> None:
    peer.sendmsg(fd, [HEAD])


def send_zerocopy(peer: Peer, fd: int) -> None:
    peer.send_zerocopy(fd, HEAD)


def send_sendmmsg(peer: Peer, fd: int) -> None:
    peer.sendmmsg(fd, [HEAD])


def send_split(peer: Peer, fd: int) -> None:
    for part in (HEAD[:2], HEAD[2:3], HEAD[3:40], HEAD[40:]):
        peer.send(fd, part)


def recv_plain(peer: Peer, fd: int) -> None:
    peer.recv_all(fd, len(HEAD))


def recv_read(peer: Peer, fd: int) -> None:
    assert peer.read(fd) == HEAD


def recv_readv(peer: Peer, fd: int) -> None:
    assert peer.readv(fd, [7, 13, 4096]) == len(HEAD)


def recv_readv_empty_first(peer: Peer, fd: int) -> None:
    assert peer.readv(fd, [0, 4096]) == len(HEAD)


def recv_recvmsg(peer: Peer, fd: int) -> None:
    assert peer.recvmsg(fd, [11, 4096]) == len(HEAD)


def recv_recvmmsg(peer: Peer, fd: int) -> None:
    assert peer.recvmmsg(fd, 1) == [HEAD]


def recv_peek(peer: Peer, fd: int) -> None:
    assert peer.recv(fd, 3, socket.MSG_PEEK) == HEAD[:3]
    assert peer.recvmsg(fd, [10], socket.MSG_PEEK) == 10
    assert peer.recv(fd, 4096) == HEAD


def recv_in_pieces(peer: Peer, fd: int) -> None:
    peer.recv_all(fd, len(HEAD), piece=9)


SENDS = (
    send_plain,
    send_write,
    send_writev,
    send_writev_empty_first,
    send_writev_two_empty,
    send_sendmsg,
    send_sendmsg_one,
    send_zerocopy,
    send_sendmmsg,
    send_split,
)
RECEIVES = (
    recv_plain,
    recv_read,
    recv_readv,
    recv_readv_empty_first,
    recv_recvmsg,
    recv_recvmmsg,
    recv_peek,
    recv_in_pieces,
)


def both_whole(trace: Trace, pair: Pair, rounds: int) -> None:
    """Every request is there with all its bytes, at both ends, where the packets say."""
    client, server = pair.ends(trace)
    check_pair(client, server, pair.wire)
    assert [r.payload for r in client.runs()] == [HEAD, ANSWER] * rounds
    assert [r.payload for r in server.runs()] == [HEAD, ANSWER] * rounds
    assert trace.lost() == {}


def wait_for(pair: Pair, n: int) -> None:
    """Until n bytes wait in the server's socket: one receiving call then gets them all."""
    for _ in range(1000):
        if len(pair.server.recv(pair.s, n, socket.MSG_PEEK)) == n:
            return
    raise AssertionError(f"{n} bytes did not come")


@pytest.mark.parametrize("send", SENDS, ids=lambda f: f.__name__)
def test_sending_calls(trace: Trace, connect: Connect, send: Callable[[Peer, int], None]) -> None:
    pair = connect()
    for _ in range(3):
        send(pair.client, pair.c)
        recv_plain(pair.server, pair.s)
        pair.server.send(pair.s, ANSWER)
        pair.client.recv_all(pair.c, len(ANSWER))
    both_whole(trace, pair, 3)


@pytest.mark.parametrize("receive", RECEIVES, ids=lambda f: f.__name__)
def test_receiving_calls(trace: Trace, connect: Connect, receive: Callable[[Peer, int], None]) -> None:
    pair = connect()
    for _ in range(3):
        pair.client.send(pair.c, HEAD)
        wait_for(pair, len(HEAD))
        receive(pair.server, pair.s)
        pair.server.send(pair.s, ANSWER)
        pair.client.recv_all(pair.c, len(ANSWER))
    both_whole(trace, pair, 3)


def test_several_tcp_messages_in_one_vector(trace: Trace, connect: Connect) -> None:
    """sendmmsg and recvmmsg of parts of one head: in place, in order."""
    pair = connect()
    for _ in range(2):
        assert pair.client.sendmmsg(pair.c, [HEAD[:10], HEAD[10:15], HEAD[15:]]) == [10, 5, len(HEAD) - 15]
        wait_for(pair, len(HEAD))
        assert pair.server.recvmmsg(pair.s, 3, 30) == [HEAD[:30], HEAD[30:60], HEAD[60:]]
        pair.server.send(pair.s, ANSWER)
        pair.client.recv_all(pair.c, len(ANSWER))
    both_whole(trace, pair, 2)


def test_bytes_thrown_away_are_counted_but_not_shown(trace: Trace, connect: Connect) -> None:
    """recv(MSG_TRUNC) on TCP drops bytes without copying them: what lies in the buffer is not the message."""
    pair = connect()
    pair.client.send(pair.c, HEAD)
    wait_for(pair, len(HEAD))
    got, left = pair.server.recv_trunc(pair.s, len(HEAD))
    assert got == len(HEAD) and set(left) == {0xAA}
    pair.server.send(pair.s, ANSWER)
    pair.client.recv_all(pair.c, len(ANSWER))
    client, server = pair.ends(trace)
    check_pair(client, server, pair.wire)
    first, second = server.runs()
    assert (first.payload, first.length, first.flags) == (b"", len(HEAD), events.F_NO_PAYLOAD | events.F_CUT)
    assert second.payload == ANSWER


def test_sendfile_answer(trace: Trace, connect: Connect) -> None:
    """A head by write and a body by sendfile: one run, its length known, no byte of the file copied."""
    pair = connect()
    body = bytes(range(256)) * 40
    for _ in range(2):
        pair.client.send(pair.c, REQUEST)
        pair.server.recv_all(pair.s, len(REQUEST))
        pair.server.cork(pair.s, 1)
        pair.server.send(pair.s, ANSWER)
        pair.server.sendfile(pair.s, body)
        pair.server.cork(pair.s, 0)
        pair.client.recv_all(pair.c, len(ANSWER) + len(body))
    client, server = pair.ends(trace)
    check_pair(client, server, pair.wire)
    runs = server.runs()
    assert [r.payload for r in runs] == [REQUEST, ANSWER] * 2
    assert runs[1].length == len(ANSWER) + len(body)
    assert client.runs()[1].payload == (ANSWER + body)[:512]


def test_answer_that_is_sendfile_only(trace: Trace, connect: Connect) -> None:
    pair = connect()
    for _ in range(2):
        pair.client.send(pair.c, REQUEST)
        pair.server.recv_all(pair.s, len(REQUEST))
        pair.server.sendfile(pair.s, ANSWER)
        pair.client.recv_all(pair.c, len(ANSWER))
    client, server = pair.ends(trace)
    check_pair(client, server, pair.wire)
    assert [r.payload for r in server.runs()] == [REQUEST, b""] * 2
    assert [bool(r.flags & events.F_NO_PAYLOAD) for r in server.runs()] == [False, True] * 2
    assert [r.payload for r in client.runs()] == [REQUEST, ANSWER] * 2


def test_splice_to_the_socket(trace: Trace, connect: Connect) -> None:
    pair = connect()
    for _ in range(2):
        pair.client.splice_from_pipe(pair.c, REQUEST)
        pair.server.recv_all(pair.s, len(REQUEST))
        pair.server.send(pair.s, ANSWER)
        pair.client.recv_all(pair.c, len(ANSWER))
    client, server = pair.ends(trace)
    check_pair(client, server, pair.wire)
    assert [r.payload for r in client.runs()] == [b"", ANSWER] * 2
    assert all(r.flags & events.F_NO_PAYLOAD for r in client.runs()[::2])
    assert client.runs()[0].length == len(REQUEST)
    assert [r.payload for r in server.runs()] == [REQUEST, ANSWER] * 2


def test_splice_from_the_socket(trace: Trace, connect: Connect) -> None:
    """No hook sees it; the bytes are told, with their place, when the answer leaves."""
    pair = connect()
    for _ in range(3):
        pair.client.send(pair.c, REQUEST)
        assert pair.server.splice_to_pipe(pair.s, 4096) == REQUEST
        pair.server.send(pair.s, ANSWER)
        pair.client.recv_all(pair.c, len(ANSWER))
    client, server = pair.ends(trace)
    assert [r.payload for r in client.runs()] == [REQUEST, ANSWER] * 3
    runs = server.runs()
    # on the server the first message that any hook sees is the first answer
    assert [r.payload for r in runs] == [ANSWER] + [b"", ANSWER] * 2
    theirs = {(r.dir, r.seq) for r in client.runs()}
    assert {(1 - r.dir, r.seq) for r in runs} <= theirs
    assert all(r.length == len(REQUEST) for r in runs[1:-1:2])


def test_body_that_is_spliced_belongs_to_its_head(trace: Trace, connect: Connect) -> None:
    """A proxy reads the head and splices the body: the run's length has both."""
    pair = connect()
    body = b"x" * 5000
    for _ in range(2):
        pair.client.send(pair.c, HEAD + body)
        wait_for(pair, len(HEAD) + len(body))
        assert pair.server.recv(pair.s, len(HEAD)) == HEAD
        assert pair.server.splice_to_pipe(pair.s, len(body)) == body
        pair.server.send(pair.s, ANSWER)
        pair.client.recv_all(pair.c, len(ANSWER))
    client, server = pair.ends(trace)
    check_pair(client, server, pair.wire)
    assert server.runs()[0].length == len(HEAD) + len(body)
    assert server.runs()[0].payload == HEAD


def test_two_pipelined_requests_in_one_write(trace: Trace, connect: Connect) -> None:
    pair = connect()
    pair.client.write(pair.c, REQUEST + REQUEST)
    pair.server.recv_all(pair.s, 2 * len(REQUEST))
    pair.server.write(pair.s, ANSWER + ANSWER)
    pair.client.recv_all(pair.c, 2 * len(ANSWER))
    client, server = pair.ends(trace)
    check_pair(client, server, pair.wire)
    assert client.payloads == server.payloads == [REQUEST + REQUEST, ANSWER + ANSWER]


def test_more_buffers_than_are_walked(trace: Trace, connect: Connect) -> None:
    """The payload ends early, says so and is counted; the run's length does not suffer."""
    pair = connect()
    parts = [HEAD[i : i + 2] for i in range(0, len(HEAD), 2)]
    pair.client.writev(pair.c, parts)
    pair.server.recv_all(pair.s, len(HEAD))
    pair.server.send(pair.s, ANSWER)
    pair.client.recv_all(pair.c, len(ANSWER))
    client, server = pair.ends(trace)
    check_pair(client, server, pair.wire)
    first = client.runs()[0]
    assert HEAD.startswith(first.payload) and 0 < len(first.payload) < len(HEAD)
    assert first.flags & events.F_CUT
    assert first.length == len(HEAD)
    assert trace.lost() == {"iovecs_cut": 1}


def test_calls_of_32_bit_programs_are_not_mistaken(
    load: Callable[..., Trace], connect: Connect, tmp_path: Path
) -> None:
    """brk() has the number there that recvfrom() has here; its result is no message length."""
    program = compiled("compat", tmp_path)
    pair = connect()
    trace = load(port=(pair.port,))
    pair.exchange()
    assert int(pair.server.run(str(program), pair.s)) > 0
    pair.exchange()
    client, server = pair.ends(trace)
    check_pair(client, server, pair.wire)
    assert server.payloads == [REQUEST, ANSWER] * 2
    assert {m["tgid"] for m in server.msgs} == {pair.server.pid}
    assert trace.lost() == {}
