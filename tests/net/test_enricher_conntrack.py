"""NAT by real nftables between namespaces, told by the kernel's connection tracking; truth: what the sockets say.

    client 10.77.1.2 -- r1 10.77.1.1 | 10.77.2.1 -- r2 10.77.2.2 | 10.77.3.1 -- server 10.77.3.2, 10.77.3.3

r1 has a service address (DNAT) and hides what goes to r2's node port (SNAT); r2 translates its node port (both).
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from zerospan.enricher import keys
from zerospan.enricher.source import Layer
from zerospan.enricher.sources.conntrack import ConntrackConfig, ConntrackSource, End
from zerospan.enricher.sources.ctnetlink import CT_DELETE, Conntrack, parse
from zerospan.enricher.store import TagStore
from zerospan.exporter.source import netns
from zerospan.exporter.source.netlink import NETLINK_NETFILTER, NLM_F_ACK, Netlink, messages

TAG = f"osx-{os.getpid()}-"
NAMES = ("c", "r1", "r2", "s")
V6 = "fd77:0:0:3::2"
R1 = """
table ip t {
  chain pre { type nat hook prerouting priority dstnat
    ip daddr 10.96.0.10 meta l4proto { tcp, udp } dnat to 10.77.3.2:8080
    ip daddr 10.96.0.11 udp dport 53 dnat to 10.77.3.2:5353
    ip daddr 10.96.0.12 meta l4proto { tcp, udp } meta mark set 7 dnat to 10.77.3.2:8080
  }
  chain post { type nat hook postrouting priority srcnat
    meta mark 7 masquerade
    ip daddr 10.77.2.2 masquerade
  }
}
table ip6 t {
  chain pre { type nat hook prerouting priority dstnat
    ip6 daddr fd77:96::10 meta l4proto { tcp, udp } dnat to [fd77:0:0:3::2]:8080
  }
}
"""
R2 = """
table ip t {
  chain pre { type nat hook prerouting priority dstnat
    ip daddr 10.77.2.2 meta l4proto { tcp, udp } th dport 30080 dnat to 10.77.3.2:8080
  }
  chain post { type nat hook postrouting priority srcnat
    ct status dnat masquerade
  }
}
"""


def run(*argv: str, text: str | None = None) -> None:
    done = subprocess.run(argv, input=text, capture_output=True, text=True)
    assert done.returncode == 0, (argv, done.stderr)


def ip(name: str, *lines: str) -> None:
    for line in lines:
        run("ip", "-n", TAG + name, *line.split())


@pytest.fixture(scope="module")
def world() -> Iterator[None]:
    try:
        for name in NAMES:
            run("ip", "netns", "add", TAG + name)
            ip(name, "link set lo up")
            for key in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
                run("ip", "netns", "exec", TAG + name, "sysctl", "-qw", f"net.{key}=1")
        for i, (a, b) in enumerate((("c", "r1"), ("r1", "r2"), ("r2", "s")), 1):
            ip(a, f"link add v{i}a type veth peer name v{i}b netns {TAG}{b}")
            left, right = {1: (2, 1), 2: (1, 2), 3: (1, 2)}[i]
            for name, end, host in ((a, "a", left), (b, "b", right)):
                ip(name, f"addr add 10.77.{i}.{host}/24 dev v{i}{end}",
                   f"addr add fd77:0:0:{i}::{host}/64 dev v{i}{end} nodad", f"link set v{i}{end} up")  # fmt: skip
        ip(
            "s",
            "addr add 10.77.3.3/24 dev v3b",
            "route add default via 10.77.3.1",
            "-6 route add default via fd77:0:0:3::1",
        )
        ip("c", "route add default via 10.77.1.1", "-6 route add default via fd77:0:0:1::1")
        ip("r1", "route add default via 10.77.2.2", "-6 route add default via fd77:0:0:2::2")
        ip("r2", "route add 10.77.1.0/24 via 10.77.2.1", "-6 route add fd77:0:0:1::/64 via fd77:0:0:2::1")
        run("ip", "netns", "exec", TAG + "r1", "nft", "-f", "-", text=R1)
        run("ip", "netns", "exec", TAG + "r2", "nft", "-f", "-", text=R2)
        yield
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", TAG + name], capture_output=True)


def inside(name: str, make: Callable[[], Any]) -> Any:
    fd = os.open(f"/run/netns/{TAG}{name}", os.O_RDONLY)
    try:
        with netns.inside(fd):
            return make()
    finally:
        os.close(fd)


def made(name: str, kind: int, v6: bool = False) -> socket.socket:
    family = socket.AF_INET6 if v6 else socket.AF_INET
    one: socket.socket = inside(name, lambda: socket.socket(family, kind))
    one.settimeout(5)
    return one


class Call:
    """One connection through the namespaces, and what its ends say of themselves."""

    def __init__(self, to: tuple[str, int], kind: int, at: tuple[str, int] = ("", 8080), own_port: int = 0) -> None:
        v6 = ":" in to[0]
        self.protocol = keys.TCP if kind == socket.SOCK_STREAM else keys.UDP
        listener = made("s", kind, v6)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(at)
        self.client = made("c", kind, v6)
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if own_port:
            self.client.bind(("", own_port))
        if kind == socket.SOCK_STREAM:
            listener.listen()
            self.client.connect(to)
            self.server, self.seen = listener.accept()
            listener.close()
            self.server_name = self.server.getsockname()
        else:
            self.server = listener
            self.client.connect(to)
            self.client.send(b"x")
            _, self.seen = listener.recvfrom(10)
            listener.connect(self.seen[:2])
            self.server_name = listener.getsockname()
            listener.send(b"y")
            assert self.client.recv(10) == b"y"
        self.client_name, self.to = self.client.getsockname(), to

    def ends(self) -> tuple[End, End]:
        """(client, server)"""
        return end(self.client_name), end(self.server_name)

    def of_client(self, source: ConntrackSource, at_ns: int = 0) -> tuple[End, End] | None:
        one, two = end(self.client_name), end(self.to)
        return source.translate(one.address, one.port, two.address, two.port, self.protocol, at_ns)

    def of_server(self, source: ConntrackSource, at_ns: int = 0) -> tuple[End, End] | None:
        one, two = end(self.server_name), end(self.seen)
        return source.translate(one.address, one.port, two.address, two.port, self.protocol, at_ns)

    def close(self) -> None:
        self.client.close()
        self.server.close()


def end(name: tuple[Any, ...]) -> End:
    return End(keys.packed(name[0]), name[1])


def wait(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 10
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
    return found


@pytest.fixture
def store() -> TagStore:
    return TagStore()


@pytest.fixture
def source(world: None, store: TagStore) -> Iterator[ConntrackSource]:
    source = ConntrackSource(store, ConntrackConfig(netns=(TAG + "r1", TAG + "r2")))
    source.start()
    wait(lambda: source.stats().in_sync)
    yield source
    source.stop()
    for name in ("r1", "r2"):
        flush(name)


def flush(name: str) -> None:
    """The kernel forgets all connections of a namespace."""
    netlink = inside(name, lambda: Netlink(NETLINK_NETFILTER))
    netlink.request(CT_DELETE, NLM_F_ACK, bytes(4))
    netlink.close()


KINDS = [socket.SOCK_STREAM, socket.SOCK_DGRAM]
WAYS = [("10.96.0.10", 80), ("10.96.0.12", 80), ("10.77.2.2", 30080), ("fd77:96::10", 80)]


@pytest.mark.parametrize("kind", KINDS, ids=["tcp", "udp"])
@pytest.mark.parametrize("to", WAYS, ids=["dnat", "dnat+snat", "snat, then dnat+snat on another node", "ipv6"])
def test_both_ends_are_told_who_the_other_is(source: ConntrackSource, to: tuple[str, int], kind: int) -> None:
    call = Call(to, kind)
    try:
        truth = call.ends()
        wait(lambda: call.of_client(source))
        wait(lambda: call.of_client(source) == truth)
        seen = call.of_server(source)
        assert seen == (truth[1], truth[0])
        one, two = end(call.server_name), end(call.seen)
        real = source.real_end(one.address, one.port, two.address, two.port, call.protocol)
        assert real == (truth[0] if two != truth[0] else None)
    finally:
        call.close()


def test_what_is_not_translated_is_not_kept(source: ConntrackSource) -> None:
    call = Call(("10.77.3.2", 8080), socket.SOCK_DGRAM)
    translated = Call(("10.96.0.11", 53), socket.SOCK_DGRAM, at=("", 5353))
    try:
        wait(lambda: translated.of_client(source))
        assert call.of_client(source) is None and call.of_server(source) is None
        assert len(source.table) == 1
    finally:
        call.close()
        translated.close()


def test_a_connection_that_is_older_than_the_source_is_known(world: None, store: TagStore) -> None:
    call = Call(("10.77.2.2", 30080), socket.SOCK_STREAM)
    source = ConntrackSource(store, ConntrackConfig(netns=(TAG + "r1", TAG + "r2")))
    source.start()
    try:
        wait(lambda: source.stats().in_sync)
        assert call.of_client(source) == call.ends()
        assert call.of_client(source, time.time_ns() - 3600 * 10**9) == call.ends()
    finally:
        call.close()
        source.stop()
        for name in ("r1", "r2"):
            flush(name)


def test_a_tuple_that_is_used_again_is_told_apart_by_time(source: ConntrackSource) -> None:
    """The same client port through the same service address, to another server at once."""
    first = Call(("10.96.0.11", 53), socket.SOCK_DGRAM, at=("10.77.3.2", 5353), own_port=40000)
    rule = ["ip", "netns", "exec", TAG + "r1", "nft"]
    try:
        wait(lambda: first.of_client(source))
        then = time.time_ns()
        first.close()
        text = R1.replace("dnat to 10.77.3.2:5353", "dnat to 10.77.3.3:5353")
        run(*rule, "-f", "-", text="delete table ip t\ndelete table ip6 t\n" + text)
        flush("r1")
        wait(lambda: first.of_client(source) is None)
        second = Call(("10.96.0.11", 53), socket.SOCK_DGRAM, at=("10.77.3.3", 5353), own_port=40000)
        try:
            wait(lambda: second.of_client(source) == second.ends())
            assert second.ends() != first.ends()
            assert first.of_client(source, then) == first.ends()
        finally:
            second.close()
    finally:
        run(*rule, "-f", "-", text="delete table ip t\ndelete table ip6 t\n" + R1)


def flood(n: int, to: tuple[str, int]) -> list[socket.socket]:
    """So many connections by UDP, each of a port of its own."""
    sockets = []
    for _ in range(n):
        one = made("c", socket.SOCK_DGRAM)
        one.connect(to)
        one.send(b"x")
        sockets.append(one)
    return sockets


def test_lost_events_are_counted_and_made_good(world: None, store: TagStore) -> None:
    """The source does not read while more happens than the kernel's queue holds."""
    source = ConntrackSource(store, ConntrackConfig(netns=(TAG + "r1",), receive_bytes=1 << 16))
    one = source._watched[0]
    source._open(one)
    assert one.conntrack is not None
    poll = select.poll()
    sockets = flood(1000, ("10.96.0.11", 53))
    try:
        source._read(one, poll)
        assert source.stats().resyncs == 1
        assert len(source.table) == 1000 and source.table.refused == 0
        server = End(keys.packed("10.77.3.2"), 5353)
        for s in sockets:
            own, to = end(s.getsockname()), end(s.getpeername())
            assert source.real_end(own.address, own.port, to.address, to.port, keys.UDP) == server
        flush("r1")
        # Their ends are lost, too, and what the kernel still holds is older than the table that is read again.
        again = flood(1000, ("10.96.0.11", 53))
        sockets += again
        flush("r1")
        for _ in range(20):
            source._read(one, poll)
        assert source.stats().resyncs == 2
        for s in sockets:
            own, to = end(s.getsockname()), end(s.getpeername())
            assert source.real_end(own.address, own.port, to.address, to.port, keys.UDP) is None
        source.table.sweep(time.time_ns() + 10**12)
        assert len(source.table) == 0
    finally:
        one.conntrack.close()
        for s in sockets:
            s.close()
        flush("r1")


def test_the_kernel_keeps_from_us_what_is_not_translated(world: None) -> None:
    """Its filter on the socket: else each connection of the node would wake the source."""
    conntrack: Conntrack = inside("r1", lambda: Conntrack(1 << 20))
    sockets = flood(50, ("10.77.3.2", 9999)) + flood(3, ("10.96.0.11", 53))
    try:
        told = []
        poll = select.poll()
        poll.register(conntrack.socket, select.POLLIN)
        while len(told) < 3:
            assert poll.poll(5000)
            told += [parse(kind, content) for kind, content in messages(conntrack.socket.recv(1 << 16))]
        assert None not in told and not poll.poll(0)
    finally:
        conntrack.close()
        for s in sockets:
            s.close()
        flush("r1")


def test_a_namespace_that_is_not_there_is_said_and_awaited(world: None, store: TagStore) -> None:
    source = ConntrackSource(store, ConntrackConfig(netns=(TAG + "late",)))
    source.start()
    try:
        wait(lambda: source.stats().errors)
        assert not source.stats().in_sync and TAG + "late" in source.stats().last_error
        run("ip", "netns", "add", TAG + "late")
        wait(lambda: source.stats().in_sync)
    finally:
        source.stop()
        subprocess.run(["ip", "netns", "del", TAG + "late"], capture_output=True)


def test_a_bug_costs_a_reading_and_not_the_thread(source: ConntrackSource, monkeypatch: pytest.MonkeyPatch) -> None:
    take, failed = source._take, []

    def fails_once(*args: Any) -> None:
        if not failed:
            failed.append(args)
            raise KeyError("a bug")
        take(*args)

    monkeypatch.setattr(source, "_take", fails_once)
    call = Call(("10.96.0.11", 53), socket.SOCK_DGRAM, at=("10.77.3.2", 5353))
    try:
        wait(lambda: failed)
        wait(lambda: source.stats().errors == 1 and "a bug" in source.stats().last_error)
        wait(lambda: source.stats().in_sync)  # opened and read anew
        wait(lambda: call.of_client(source))
        assert source._thread.is_alive()
    finally:
        call.close()


def test_the_tag_service_is_answered_with_the_real_ends_tags(source: ConntrackSource, store: TagStore) -> None:
    server = store.make({"k8s.pod.name": "back-0", "service.name": "back"})
    client = store.make({"k8s.pod.name": "front-0"})
    store.put(keys.address("10.77.3.2"), server, layer=Layer.KUBERNETES, since_ns=1)
    store.put(keys.address("10.77.1.2"), client, layer=Layer.KUBERNETES, since_ns=1)
    call = Call(("10.96.0.12", 80), socket.SOCK_DGRAM)
    try:
        wait(lambda: call.of_client(source))
        key = keys.connection(*call.client_name, *call.to, keys.UDP)
        (piece,) = source.pieces(key)
        assert piece.tags.tags() == {**server.tags(), "zerospan.nat.address": "10.77.3.2:8080"}
        assert 0 < piece.since_ns <= time.time_ns() and piece.until_ns == 0
        key = keys.connection(*call.server_name, *call.seen[:2], keys.UDP)
        (piece,) = source.pieces(key)
        assert piece.tags.tags() == {**client.tags(), "zerospan.nat.address": "10.77.1.2"}
        assert source.pieces(keys.connection("10.0.0.1", 1, "10.0.0.2", 2)) == []
        assert source.pieces(b"f") == source.pieces(b"a" + bytes(37)) == []
    finally:
        call.close()
