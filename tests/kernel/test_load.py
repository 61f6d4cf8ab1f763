"""Many connections at once: roles, threads, and what costs nothing."""

import os
import socket
from collections.abc import Callable

from pair import ANSWER, REQUEST, Pair
from peer import Peer
from records import Trace, check_pair

from zerospan.exporter.abi import events

Connect = Callable[..., Pair]
NUMBERED = b"GET /%09d HTTP/1.1\r\n\r\n"
SIZE = len(NUMBERED % 1)


def test_roles_under_load(load: Callable[..., Trace], client: Peer, server: Peer) -> None:
    """2,000 busy connections on all CPUs: the live counters name the sides right."""
    conns, each = 2000, 4
    trace = load(ring_bytes=32 << 20, pid=(client.pid, server.pid))
    listener, port = server.listen("127.0.0.1", backlog=4096)
    server.raise_files(conns + 1000)
    server.serve(listener, SIZE, ANSWER)
    try:
        ports = client.ask_many("127.0.0.1", port, conns, each, NUMBERED, len(ANSWER))
    finally:
        server.stop_serving()
    trace.until(lambda t: len(t.of("zs_close")) == 2 * conns)
    by_ports = {(e.conn["local_port"], e.conn["remote_port"]): e for e in trace.ends().values()}
    assert len(by_ports) == len(trace.ends()) == 2 * conns
    for local in ports:
        check_pair(by_ports[local, port], by_ports[port, local], None)
    keys = {by_ports[local, port].isns for local in ports}
    assert len(keys) == conns and (0, 0) not in keys
    for end in by_ports.values():
        assert [r.payload for r in end.runs()] == [p for i in range(each) for p in (NUMBERED % i, ANSWER)]
    counters = trace.counters()
    unstable = sum(len(e.conns) > 1 for e in by_ports.values())
    assert unstable <= counters.get("isn_unstable", 0) <= conns // 20
    assert counters["emitted"] == len(trace.records)
    assert set(trace.lost()) <= {"isn_unstable"}


def test_idle_connections_cost_nothing(load: Callable[..., Trace], layout: str, peers: Callable[..., Peer]) -> None:
    """10,000 connections that say nothing: no record and no state, before and after."""
    n = 10_000
    client, server = peers(), peers()
    listener, port = server.listen("127.0.0.1", backlog=4096)
    server.start("accept_crowd", listener, n)
    fds = client.crowd("127.0.0.1", port, n)
    accepted = server.result()
    trace = load(pid=(client.pid, server.pid))
    busy = [0, n // 2, n - 1]
    for i in busy:
        client.send(fds[i], NUMBERED % i)
        server.recv_all(accepted[i], SIZE)
    trace.drain()
    assert len(trace.ends()) == 2 * len(busy)
    pids = (client.pid, server.pid)
    if layout == "sock_length":
        for i in [*busy, *range(1, n - 1, 97)]:
            for peer, fd in ((client, fds[i]), (server, accepted[i])):
                assert trace.has_storage(peer, fd) == (i in busy)
    else:
        assert sum(s["judged_tgid"] in pids for s in trace.states()) == 2 * len(busy)
    trace.capture.sweep()
    before = len(trace.drain().records)
    client.close_all()
    server.close_all()
    trace.until(lambda t: len(t.of("zs_close")) == 2 * len(busy))
    assert len(trace.records) == before + 2 * len(busy)
    if layout == "sys_exit":
        trace.until(lambda t: not [s for s in t.states() if s["judged_tgid"] in pids])


def test_a_connect_leaves_no_state_behind(trace: Trace, layout: str, client: Peer, server: Peer) -> None:
    """Connections without a word: each is told when it is asked for and when it is gone, and forgotten."""
    n = 200
    listener, port = server.listen("127.0.0.1")
    for _ in range(n):
        fd, _ = client.connect("127.0.0.1", port)
        server.close(server.accept(listener))
        client.close(fd)
    trace.until(lambda t: len(t.of("zs_close")) == n)
    asked = {r["conn_id"] for r in trace.of("zs_connect")}
    assert asked == {r["conn_id"] for r in trace.of("zs_close")}
    assert len(asked) == n
    if layout == "sys_exit":  # the other layout's state is part of the socket
        trace.until(lambda t: not [s for s in t.states() if s["conn_id"] in asked])


def test_one_thread_writes_another_reads(trace: Trace, client: Peer, server: Peer, connect: Connect) -> None:
    """The answer may be read before the request's hook has run: it is never paired with another request."""
    n = 3000
    pair = connect()
    server.start("answer", pair.s, n, SIZE, ANSWER)
    client.ask_two_threads(pair.c, n, NUMBERED, len(ANSWER))
    server.result()
    ours, theirs = pair.ends(trace)
    assert [r.payload for r in theirs.runs()] == [p for i in range(n) for p in (NUMBERED % i, ANSWER)]
    place = {r.seq: r.number for r in theirs.runs() if r.dir == events.RECV}
    late = trace.counters().get("late_call", 0)
    blind = 0
    for m in ours.msgs:
        if m["dir"] == events.SEND:
            assert m["run"] == place[m["seq"]]
            blind += bool(m["flags"] & events.F_NO_PAYLOAD)
            assert m["payload"] in (b"", NUMBERED % (place[m["seq"]] // 2))
    assert blind <= late + 1
    assert late < n // 20


def test_unwatched_calls_of_the_agent_itself(
    load: Callable[..., Trace], client: Peer, server: Peer, connect: Connect
) -> None:
    """Of the agent's own connections only who they are is told, so that their other end can be known, too."""
    pair = connect()
    trace = load(self_tgid=client.pid)
    for _ in range(3):
        pair.exchange()
    trace.drain()
    mine = [r for r in trace.records if r.get("tgid") == client.pid]
    assert [r["struct"] for r in mine] == ["zs_conn"]
    theirs = trace.end(pair.port, pair.client_port)
    assert (mine[0]["isn_connecting"], mine[0]["isn_accepting"]) == theirs.isns
    assert [r.payload for r in theirs.runs()] == [REQUEST, ANSWER] * 3
    client.connect("127.0.0.1", pair.port)
    c, _ = client.udp("127.0.0.1", 53)
    client.send(c, b"\0\1\1\0\0\1\0\0\0\0\0\0\4shop\0\0\1\0\1")
    trace.drain()
    assert not [r for r in trace.records if r.get("tgid") == client.pid and r["struct"] != "zs_conn"]
    pair.close()
    trace.until(lambda t: t.end(pair.port, pair.client_port).closes)
    assert not [r for r in trace.of("zs_close") if r["conn_id"] == mine[0]["conn_id"]]


def test_the_test_process_is_never_told(load: Callable[..., Trace], server: Peer) -> None:
    """Without a word about it, the process that loads the programs is the agent."""
    trace = load()
    listener, port = server.listen("127.0.0.1")
    with socket.create_connection(("127.0.0.1", port)) as sock:
        fd = server.accept(listener)
        sock.sendall(REQUEST)
        server.recv_all(fd, len(REQUEST))
    trace.drain()
    assert {r["struct"] for r in trace.records if r.get("tgid") == os.getpid()} == {"zs_conn"}
    assert {r["tgid"] for r in trace.of("zs_msg") if r["payload"] == REQUEST} == {server.pid}
