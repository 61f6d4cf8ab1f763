"""Runs: how bytes add up to messages, whatever their size and however they are cut."""

from collections.abc import Callable

import pytest
from pair import ANSWER, REQUEST, Pair
from records import Trace, check_pair

Connect = Callable[..., Pair]
HEAD = b"PUT /%09d HTTP/1.1\r\nHost: shop\r\n\r\n" % 1
KIB, MIB = 1 << 10, 1 << 20


def test_head_split_over_several_writes(trace: Trace, connect: Connect) -> None:
    """Byte by byte: every byte in its place, one run."""
    pair = connect()
    for i in range(len(REQUEST)):
        pair.client.send(pair.c, REQUEST[i : i + 1])
    pair.server.recv_all(pair.s, len(REQUEST))
    pair.server.send(pair.s, ANSWER)
    pair.client.recv_all(pair.c, len(ANSWER))
    client, server = pair.ends(trace)
    check_pair(client, server, pair.wire)
    first = client.runs()[0]
    assert first.payload == REQUEST
    assert [c["run_off"] for c in first.calls] == list(range(len(REQUEST)))
    assert first.length == len(REQUEST)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 64 * KIB, MIB, 64 * MIB])
def test_only_the_head_of_a_body_is_copied(trace: Trace, connect: Connect, size: int) -> None:
    """At most 512 bytes of a run, but its length to the byte, both ways and at both ends."""
    pair = connect()
    whole = len(HEAD) + size
    pair.server.start("answer_sized", pair.s, whole, ANSWER, size)
    pair.client.send_all(pair.c, size, HEAD)
    pair.client.recv_all(pair.c, len(ANSWER) + size)
    pair.server.result()
    pair.close()
    trace.until(lambda t: all(e.closes for e in t.ends().values()))
    client, server = pair.ends(trace)
    check_pair(client, server, pair.wire)
    assert pair.wire.total(pair.client_port, pair.port) == whole
    for end in (client, server):
        request, answer = end.runs()
        assert (request.length, answer.length) == (whole, len(ANSWER) + size)
        assert request.payload.startswith(HEAD) and (HEAD + b"b" * 512).startswith(request.payload)
        assert answer.payload.startswith(ANSWER) and (ANSWER + b"b" * 512).startswith(answer.payload)
        # the second call of a run fills up what the first one left; then nothing is said until it ends
        assert len(end.msgs) <= 4
    sent, received = client.closes[0]["bytes_sent"], client.closes[0]["bytes_received"]
    assert sent - whole in (1, 2) and received - len(ANSWER) - size in (0, 1), "the SYN and FINs count as one each"


@pytest.mark.parametrize("payload_bytes", [1, 64, 512, 4096, 16384])
def test_capture_length(load: Callable[..., Trace], connect: Connect, payload_bytes: int) -> None:
    """payload_bytes is the limit of a run, at every size class, in one call and in many."""
    pair = connect()
    pid = (pair.client.pid, pair.server.pid)
    trace = load(payload_bytes=payload_bytes, pid=pid)
    body = bytes(i * 7 % 251 for i in range(20000))
    pair.client.send(pair.c, body)
    pair.server.recv_all(pair.s, len(body), piece=700)
    pair.server.send(pair.s, ANSWER)
    pair.client.recv_all(pair.c, len(ANSWER))
    client, server = pair.ends(trace)
    assert client.isns == server.isns == pair.wire.read().isns(pair.client_port)
    assert client.runs()[0].payload == server.runs()[0].payload == body[:payload_bytes]
    assert client.runs()[0].length == server.runs()[0].length == len(body)
    pair.close()


def test_ports_with_a_longer_capture(load: Callable[..., Trace], connect: Connect) -> None:
    """Up to 16 KiB of a run where either port is named, 512 bytes elsewhere."""
    long, short = connect(), connect()
    trace = load(large_ports=(long.port,), pid=(long.client.pid, long.server.pid))
    body = bytes(i * 7 % 251 for i in range(20000))
    for pair, shown in ((long, 16384), (short, 512)):
        pair.client.send(pair.c, body)
        pair.server.recv_all(pair.s, len(body), piece=5000)
        pair.server.send(pair.s, ANSWER)
        pair.client.recv_all(pair.c, len(ANSWER))
        for end in pair.ends(trace):
            assert end.runs()[0].payload == body[:shown]
            assert end.runs()[0].length == len(body)
        pair.close()


def test_sweep_tells_how_far_a_run_has_come(trace: Trace, connect: Connect) -> None:
    """A long answer goes on without records; the sweep says its length meanwhile, once for each change."""
    pair = connect()
    pair.exchange()
    pair.client.send(pair.c, REQUEST)
    pair.server.recv_all(pair.s, len(REQUEST))
    pair.server.start("send_all", pair.s, MIB, ANSWER)
    pair.client.recv_all(pair.c, MIB + len(ANSWER))
    pair.server.result()
    client, server = pair.ends(trace)
    assert not client.progress and not server.progress
    trace.capture.sweep()
    client, server = pair.ends(trace)
    check_pair(client, server, pair.wire)
    for end in (client, server):
        (said,) = end.progress
        assert said["run"] == 4 and said["run_len"] == MIB + len(ANSWER)
        assert end.msgs[-1]["time_ns"] <= said["run_end_ns"] <= said["time_ns"]
    trace.capture.sweep()
    client, server = pair.ends(trace)
    assert len(client.progress) == len(server.progress) == 1, "nothing new to say"


def test_keep_alive_with_a_thousand_requests(trace: Trace, connect: Connect) -> None:
    """Two records a request at each end, numbers without gap, every request in its place."""
    n = 1000
    pair = connect()
    pair.server.start("answer", pair.s, n, len(HEAD), ANSWER)
    pair.client.ask(pair.c, n, b"PUT /%09d HTTP/1.1\r\nHost: shop\r\n\r\n", len(ANSWER))
    pair.server.result()
    client, server = pair.ends(trace)
    check_pair(client, server, pair.wire)
    for end in (client, server):
        assert [m["run"] for m in end.msgs] == list(range(1, 2 * n + 1))
        assert [int(m["payload"][5:14]) for m in end.msgs[::2]] == list(range(n))
        assert all(p == ANSWER for p in end.payloads[1::2])
    assert trace.lost() == {}
    ours = {client.conn["conn_id"], server.conn["conn_id"]}
    assert sum(r["conn_id"] in ours for r in trace.records) == 4 * n + 2 + len(trace.of("zs_connect"))
    assert trace.counters()["emitted"] == len(trace.records)
