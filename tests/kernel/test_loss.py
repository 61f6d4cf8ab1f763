"""A ring that is too small: what is lost is counted to the event, and nothing is told wrongly afterwards."""

from collections.abc import Callable

import pytest
from pair import ANSWER, Pair
from peer import Peer
from records import End, Trace

from zerospan.exporter.abi import events

Connect = Callable[..., Pair]
REQUEST = b"GET /%09d HTTP/1.1\r\n\r\n"
SIZE = len(REQUEST % 1)
RING = 65536


def requests_told(ends: list[End]) -> int:
    return sum(m["run_off"] == 0 for e in ends for m in e.msgs if (m["dir"] == events.SEND) == (e.conn["role"] == 1))


def answers_told(ends: list[End]) -> int:
    return sum(m["run_off"] == 0 for e in ends for m in e.msgs if (m["dir"] == events.SEND) != (e.conn["role"] == 1))


@pytest.fixture
def small(load: Callable[..., Trace], client: Peer, server: Peer) -> Trace:
    return load(ring_bytes=RING, pid=(client.pid, server.pid))


def check_sums(trace: Trace, requests: int) -> dict[str, int]:
    """emitted is what was drained; told + lost is what the programs did, at both ends together."""
    trace.drain()
    counters = trace.counters()
    assert counters["emitted"] == len(trace.records) == trace.capture.ring.records
    ends = list(trace.ends().values())
    assert requests_told(ends) + counters.get("ring_full_request", 0) == 2 * requests
    assert answers_told(ends) + counters.get("ring_full_response", 0) == 2 * requests
    return counters


def test_every_request_is_told_or_counted(small: Trace, client: Peer, server: Peer, connect: Connect) -> None:
    n = 2000
    pair = connect()
    server.start("answer", pair.s, n, SIZE, ANSWER)
    client.ask(pair.c, n, REQUEST, len(ANSWER))
    server.result()
    counters = check_sums(small, n)
    assert counters["ring_full_request"] > n, "the ring was not full: nothing was tested"
    # the connection recovers: the next messages are whole, the first of each end says that some are missing
    before = {e.conn["conn_id"]: len(e.msgs) for e in small.ends().values()}
    server.start("answer", pair.s, 5, SIZE, ANSWER)
    client.ask(pair.c, 5, REQUEST, len(ANSWER))
    server.result()
    check_sums(small, n + 5)
    for end in pair.ends(small):
        new = end.msgs[before[end.conn["conn_id"]] :]
        assert [m["run"] for m in new] == list(range(2 * n + 1, 2 * n + 11))
        assert [m["payload"] for m in new] == [p for i in range(5) for p in (REQUEST % i, ANSWER)]
        assert [bool(m["flags"] & events.F_GAP) for m in new] == [True] + [False] * 9


def test_split_heads_are_counted_once(small: Trace, client: Peer, server: Peer, connect: Connect) -> None:
    """A run whose first record is lost is one loss, in however many calls it comes."""
    n = 400
    pair = connect()
    server.start("answer", pair.s, n, SIZE, ANSWER)
    client.ask_split(pair.c, n, REQUEST, len(ANSWER))
    server.result()
    counters = check_sums(small, n)
    assert counters["ring_full_request"] > 100


def test_new_connection_for_each_request(small: Trace, client: Peer, server: Peer) -> None:
    """Connections whose ZS_CONN is lost: every request is counted still, on the right side."""
    n = 600
    listener, port = server.listen("127.0.0.1")
    server.serve(listener, SIZE, ANSWER)
    try:
        client.ask_fresh("127.0.0.1", port, n, REQUEST, len(ANSWER))
    finally:
        server.stop_serving()
    counters = check_sums(small, n)
    assert counters["ring_full_conn"] > 0
    assert counters["ring_full_connect"] + len(small.of("zs_connect")) == n
    assert counters["ring_full_close"] > 0


def test_loss_in_the_middle_of_runs(small: Trace, client: Peer, server: Peer, connect: Connect) -> None:
    """Drained now and then: what comes out is in order, and a jump in the numbers is marked."""
    pair = connect()
    total = 0
    for _ in range(6):
        server.start("answer", pair.s, 300, SIZE, ANSWER)
        client.ask(pair.c, 300, REQUEST, len(ANSWER))
        server.result()
        total += 300
        small.drain()
    counters = check_sums(small, total)
    assert counters["ring_full_request"] > 0
    for end in pair.ends(small):
        numbers = [m["run"] for m in end.msgs]
        assert numbers == sorted(set(numbers))
        jumps = 0
        for a, b in zip(end.msgs, end.msgs[1:], strict=False):
            assert bool(b["flags"] & events.F_GAP) == (b["run"] != a["run"] + 1)
            jumps += b["run"] != a["run"] + 1
        assert jumps >= 3
        assert all(len(m["payload"]) == m["len"] for m in end.msgs)


def test_sweep_and_datagrams_meet_a_full_ring(small: Trace, client: Peer, server: Peer, connect: Connect) -> None:
    pair = connect()
    s, port = server.udp("127.0.0.1")
    c, _ = client.udp("127.0.0.1", port)
    query = b"\0\1\1\0\0\1\0\0\0\0\0\0\4shop\0\0\1\0\1"
    pair.exchange()
    client.send_all(pair.c, 100_000)
    server.recv_all(pair.s, 100_000)
    for _ in range(1000):
        client.send(c, query)
        server.recvfrom(s)
    small.capture.sweep()
    counters = small.drain().counters()
    assert counters["ring_full_dgram"] + len(small.of("zs_dgram")) == 2000
    assert counters["ring_full_dgram"] > 0 and counters["ring_full_progress"] > 0
    assert counters["emitted"] == len(small.records)
    # what could not be said is said by the next sweep
    small.capture.sweep()
    for end in pair.ends(small):
        assert end.progress[-1]["run_len"] == 100_000
