"""The ends of connections: addresses, roles, processes, and every way to close."""

import errno
import socket
from collections.abc import Callable

import pytest
from pair import ANSWER, REQUEST, Pair
from peer import Peer, PeerError
from records import End, Trace, address, check_pair
from wire import Wire

from zerospan.exporter.abi import events

Connect = Callable[..., Pair]


def closed(trace: Trace, pair: Pair) -> tuple[End, End]:
    """Both ends, once both have said that they are gone."""

    def both(t: Trace) -> bool:
        client, server = pair.ends(t)
        return bool(client.closes and server.closes)

    trace.until(both)
    client, server = pair.ends(trace)
    for end in (client, server):
        assert len(end.closes) == 1
        assert end.order[-1] is end.closes[0], "nothing comes after the close"
    return client, server


# ---- addresses


@pytest.mark.parametrize(
    ("host", "dual", "family", "seen"),
    [
        ("127.0.0.1", "", socket.AF_INET, "127.0.0.1"),
        ("::1", "", socket.AF_INET6, "::1"),
        ("", "127.0.0.1", socket.AF_INET, "127.0.0.1"),
        ("", "::ffff:127.0.0.1", socket.AF_INET, "127.0.0.1"),
        ("", "::1", socket.AF_INET6, "::1"),
    ],
    ids=["ipv4", "ipv6", "ipv4-to-dual", "mapped-to-dual", "ipv6-to-dual"],
)
def test_addresses(trace: Trace, connect: Connect, host: str, dual: str, family: int, seen: str) -> None:
    """A v4-mapped address is given as what it is, at both ends, so that both name the connection alike."""
    pair = connect(host, dual)
    pair.exchange()
    client, server = pair.ends(trace)
    check_pair(client, server, pair.wire)
    for end in (client, server):
        assert end.conn["family"] == family
        assert address(end.conn, "local") == address(end.conn, "remote") == seen
        assert end.conn["protocol"] == socket.IPPROTO_TCP
    assert (client.conn["tgid"], server.conn["tgid"]) == (pair.client.pid, pair.server.pid)
    assert client.conn["comm"].startswith(b"python")
    assert client.conn["netns"] == server.conn["netns"] != 0
    assert client.conn["cgroup_id"] != 0


# ---- age


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("state", ["fresh", "used", "answer-pending", "half-closed"])
def test_connection_older_than_the_agent(load: Callable[..., Trace], connect: Connect, host: str, state: str) -> None:
    """Role and initial sequence numbers come from the live socket: nothing of the past is needed."""
    pair = connect(host)
    if state != "fresh":
        for _ in range(5):
            pair.exchange()
        pair.client.send_all(pair.c, 100_000)
        pair.server.recv_all(pair.s, 100_000)
    if state == "answer-pending":
        pair.server.send_all(pair.s, 5000)
    if state == "half-closed":
        pair.client.shutdown(pair.c)
    trace = load(pid=(pair.client.pid, pair.server.pid))
    if state == "answer-pending":
        pair.client.recv_all(pair.c, 5000)
    if state == "half-closed":
        assert pair.server.recv(pair.s) == b""
        pair.server.send(pair.s, ANSWER)
        pair.client.recv_all(pair.c, len(ANSWER))
        pair.server.send(pair.s, ANSWER)
        pair.client.recv_all(pair.c, len(ANSWER))
    else:
        pair.exchange()
        pair.exchange()
    client, server = pair.ends(trace)
    assert len(client.conns) == len(server.conns) == 1
    assert client.isns == server.isns == pair.wire.read().isns(pair.client_port)
    assert (client.conn["role"], server.conn["role"]) == (events.CONNECTING, events.ACCEPTING)
    for end, flow in ((client, (pair.client_port, pair.port)), (server, (pair.port, pair.client_port))):
        for m in end.msgs:
            at = flow if m["dir"] == events.SEND else flow[::-1]
            assert pair.wire.bytes_at(*at, m["seq"], len(m["payload"])) == m["payload"]
    pair.close()
    closed(trace, pair)


# ---- processes


def test_two_processes_share_a_listening_socket(
    load: Callable[..., Trace], peers: Callable[..., Peer], tap: Callable[[int], Wire]
) -> None:
    """Each connection is told for the process that speaks on it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        port = listener.getsockname()[1]
        client, one, two = peers(), peers(pass_fds=(listener.fileno(),)), peers(pass_fds=(listener.fileno(),))
        trace, wire = load(pid=(client.pid, one.pid, two.pid)), tap(port)
        for peer in (one, two):
            peer.adopt(listener.fileno())
        for i, peer in enumerate((one, two, two, one)):
            c, client_port = client.connect("127.0.0.1", port)
            s = peer.accept(listener.fileno())
            request = REQUEST.replace(b"7", b"%d" % i)
            client.send(c, request)
            peer.recv_all(s, len(request))
            peer.send(s, ANSWER)
            client.recv_all(c, len(ANSWER))
            trace.drain()
            ours, theirs = trace.end(client_port, port), trace.end(port, client_port)
            check_pair(ours, theirs, wire)
            assert {m["tgid"] for m in theirs.msgs} == {theirs.conn["tgid"]} == {peer.pid}
            assert ours.payloads == theirs.payloads == [request, ANSWER]


def test_fork_after_accept(load: Callable[..., Trace], client: Peer, server: Peer, connect: Connect) -> None:
    """The connection goes on; each message names the process that read or wrote it."""
    pair = connect()
    trace = load(port=(pair.port,))
    pair.exchange()
    children = []
    for _ in range(2):
        client.send(pair.c, REQUEST)
        children.append(server.fork_and_answer(pair.s, len(REQUEST), ANSWER))
        client.recv_all(pair.c, len(ANSWER))
    pair.exchange()
    ours, theirs = pair.ends(trace)
    check_pair(ours, theirs, pair.wire)
    assert [m["tgid"] for m in theirs.msgs[::2]] == [server.pid, *children, server.pid]
    assert [m["tgid"] for m in theirs.msgs[1::2]] == [server.pid, *children, server.pid]
    assert not theirs.closes, "a child's exit does not close the connection"
    pair.close()
    closed(trace, pair)


# ---- ways to close


def test_orderly_close(trace: Trace, connect: Connect) -> None:
    pair = connect()
    pair.exchange()
    pair.client.close(pair.c)
    assert pair.server.recv(pair.s) == b""
    pair.server.close(pair.s)
    client, server = closed(trace, pair)
    check_pair(client, server, pair.wire)
    for end in (client, server):
        (said,) = end.closes
        assert (said["error"], said["run"], said["retransmits"]) == (0, 2, 0)
        assert said["run_len"] == len(ANSWER)
        assert said["run_end_ns"] == end.msgs[-1]["time_ns"]
    # the SYN counts on the side that sent it, a FIN on both
    assert client.closes[0]["bytes_sent"] - len(REQUEST) in (1, 2)
    assert client.closes[0]["bytes_received"] - len(ANSWER) in (0, 1)


def test_client_closes_before_the_answer(trace: Trace, connect: Connect) -> None:
    """The server's answer meets a closed socket: its connection ends with a reset."""
    pair = connect()
    pair.client.send(pair.c, REQUEST)
    pair.client.close(pair.c)
    pair.server.recv_all(pair.s, len(REQUEST))
    pair.server.send(pair.s, ANSWER)
    pair.server.close(pair.s)
    client, server = closed(trace, pair)
    check_pair(client, server, pair.wire)
    assert client.payloads == [REQUEST]
    assert server.payloads == [REQUEST, ANSWER]
    assert server.closes[0]["error"] in (errno.ECONNRESET, errno.EPIPE)
    assert client.closes[0]["run_len"] == len(REQUEST)


def test_request_and_fin_in_one_segment(trace: Trace, connect: Connect) -> None:
    """The reader steps over the FIN with the data: its sequence number is no byte of a message."""
    pair = connect()
    pair.exchange()
    pair.client.cork(pair.c, 1)
    pair.client.send(pair.c, REQUEST)
    pair.client.shutdown(pair.c)
    assert pair.server.recv(pair.s) == REQUEST
    pair.server.send(pair.s, ANSWER)
    pair.client.recv_all(pair.c, len(ANSWER))
    client, server = pair.ends(trace)
    (last,) = [s for s in pair.wire.read().flow(pair.client_port, pair.port) if s.payload and s.flags & 1]
    assert last.payload == REQUEST, "the case did not come about"
    check_pair(client, server, pair.wire)
    assert server.payloads == client.payloads == [REQUEST, ANSWER] * 2
    pair.close()
    closed(trace, pair)


@pytest.mark.parametrize("fin_read", [True, False])
def test_half_close_before_the_answer(trace: Trace, connect: Connect, fin_read: bool) -> None:
    """Whether the server consumed the FIN before it answers or not: the numbers are those of the bytes."""
    pair = connect()
    pair.client.send(pair.c, REQUEST)
    pair.client.shutdown(pair.c)
    pair.server.recv_all(pair.s, len(REQUEST))
    if fin_read:
        assert pair.server.recv(pair.s) == b""
    pair.server.send(pair.s, ANSWER[:9])
    pair.server.send(pair.s, ANSWER[9:])
    pair.client.recv_all(pair.c, len(ANSWER))
    client, server = pair.ends(trace)
    check_pair(client, server, pair.wire)
    assert [r.payload for r in client.runs()] == [r.payload for r in server.runs()] == [REQUEST, ANSWER]
    pair.close()
    closed(trace, pair)


def test_answer_is_read_after_both_sides_closed(trace: Trace, connect: Connect) -> None:
    """TCP has ended while the last bytes still wait to be read: the close is told after them."""
    pair = connect()
    pair.client.send(pair.c, REQUEST)
    pair.client.shutdown(pair.c)
    pair.server.recv_all(pair.s, len(REQUEST))
    pair.server.send(pair.s, ANSWER)
    pair.server.close(pair.s)
    trace.until(lambda t: pair.ends(t)[1].closes if len(t.ends()) > 1 else None)
    pair.client.recv_all(pair.c, len(ANSWER))
    pair.client.close(pair.c)
    client, server = closed(trace, pair)
    check_pair(client, server, pair.wire)
    assert client.payloads == server.payloads == [REQUEST, ANSWER]
    assert client.closes[0]["run"] == 2
    assert client.closes[0]["error"] == 0


def test_reading_side_shut_down(trace: Trace, connect: Connect) -> None:
    """shutdown(SHUT_RD) is not the peer's FIN."""
    pair = connect()
    pair.exchange()
    pair.client.shutdown(pair.c, socket.SHUT_RD)
    for _ in range(2):
        pair.exchange()
    client, server = pair.ends(trace)
    check_pair(client, server, pair.wire)
    assert client.payloads == server.payloads == [REQUEST, ANSWER] * 3


def test_reset(trace: Trace, connect: Connect) -> None:
    """SO_LINGER 0: the other side's connection ends with ECONNRESET."""
    pair = connect()
    pair.exchange()
    pair.client.send(pair.c, REQUEST)
    pair.server.recv_all(pair.s, len(REQUEST))
    pair.client.linger0(pair.c)
    pair.client.close(pair.c)
    with pytest.raises(PeerError, match="ECONNRESET"):
        pair.server.recv(pair.s)  # which clears the socket's error
    pair.server.close(pair.s)
    client, server = closed(trace, pair)
    check_pair(client, server, pair.wire)
    assert server.closes[0]["error"] == errno.ECONNRESET
    assert (server.closes[0]["run"], server.closes[0]["run_len"]) == (3, len(REQUEST))
    assert server.closes[0]["dir"] == events.RECV


def test_reset_with_unread_bytes(trace: Trace, connect: Connect) -> None:
    """A server that closes without reading all: the kernel resets, with the answer already sent."""
    pair = connect()
    pair.client.send(pair.c, REQUEST * 100)
    pair.server.recv_all(pair.s, len(REQUEST))
    pair.server.send(pair.s, ANSWER)
    pair.server.close(pair.s)
    trace.until(lambda t: any(e.closes for e in t.ends().values()))
    pair.client.close(pair.c)
    client, server = closed(trace, pair)
    assert client.isns == server.isns == pair.wire.read().isns(pair.client_port)
    assert client.closes[0]["error"] == errno.ECONNRESET
    assert server.runs()[0].length == len(REQUEST)


def test_refused_then_connected_on_one_socket(
    trace: Trace, client: Peer, server: Peer, tap: Callable[[int], Wire]
) -> None:
    """Two connections are two, even if the program uses one socket for both."""
    listener, port = server.listen("127.0.0.1")
    unused, refused = server.listen("127.0.0.1")
    server.close(unused)
    wire = tap(port)
    c, client_port = client.reconnect("127.0.0.1", refused, port)
    s = server.accept(listener)
    client.send(c, REQUEST)
    server.recv_all(s, len(REQUEST))
    server.send(s, ANSWER)
    client.recv_all(c, len(ANSWER))
    trace.drain()
    check_pair(trace.end(client_port, port), trace.end(port, client_port), wire)
    asked = [r["conn_id"] for r in trace.of("zs_connect")]
    assert len(asked) == len(set(asked)) == 2
    assert asked[1] == trace.end(client_port, port).conn["conn_id"]


def test_connect_is_told_with_its_thread(trace: Trace, connect: Connect) -> None:
    """Before anything is sent: this is how a proxy's upstream connection is tied to the request it serves."""
    pair = connect()
    trace.drain()
    (asked,) = trace.of("zs_connect")
    assert (asked["tgid"], asked["tid"]) == (pair.client.pid, pair.client.pid)
    pair.exchange()
    client, _ = pair.ends(trace)
    assert client.conn["conn_id"] == asked["conn_id"]
    assert asked["time_ns"] < client.msgs[0]["time_ns"]
