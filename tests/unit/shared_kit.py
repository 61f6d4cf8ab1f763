"""Several hosts in one test: an engine each, and between them a store that is as slow, lossy and unordered as wanted.

A request crosses from one kernel to another as two ends of one connection: the same initial sequence numbers, other
addresses and other clocks. The store speaks the queues' formats of link/shared.pyx.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from engine_kit import MS, START, Rig, RigMaker, S, Span, get, ok
from engine_wire import Process, Wire

from zerospan.exporter.link.shared import Shared

HEAD = struct.Struct("=QcBH")
QUESTION = struct.Struct("=Qc")
Key = tuple[int, bytes]


def puts(data: bytes) -> list[tuple[Key, bytes]]:
    out, at = [], 0
    while at < len(data):
        key, end, _, n = HEAD.unpack_from(data, at)
        at += HEAD.size
        out.append(((key, end), data[at : at + n]))
        at += n
    return out


def answer(key: Key, value: bytes) -> bytes:
    return HEAD.pack(key[0], key[1], 0, len(value)) + value


@dataclass
class Host:
    """skew: of this host's monotonic clock."""

    name: str
    rig: Rig
    shared: Shared
    skew: int
    inbox: list[tuple[int, bytes]] = field(default_factory=list)  # (when it comes, what)


class Hosts:
    """latency: of one way to the store, asked for each message. up: whether the store answers."""

    def __init__(
        self, rig: RigMaker, n: int, *, latency: Callable[[], int] = lambda: MS, processes: tuple[Process, ...] = (),
        **options: object,
    ) -> None:  # fmt: skip
        self.t = START
        self.latency = latency
        self.up = True
        self.values: dict[Key, bytes] = {}
        self.on_way: list[tuple[int, Key, bytes]] = []
        self.isn = 1000
        self.asked = 0
        self.hosts: list[Host] = []
        for i in range(n):
            shared = Shared()
            # clocks of hosts have nothing in common
            self.hosts.append(Host(f"h{i}", rig(*processes, shared=shared, **options), shared, i * 1237 * S))

    def __getitem__(self, i: int) -> Host:
        return self.hosts[i]

    def cross(self, client: tuple[int, Process, int], server: tuple[int, Process, int]) -> Cross:
        """A connection from (host, process, thread) to another."""
        self.isn += 17
        return Cross(self, client, server, (self.isn * 0x9E3779B1 % 2**32, self.isn * 0x85EBCA77 % 2**32))

    def run(self, seconds: float, step_ms: int = 8) -> None:
        """Time passes on all hosts."""
        end = self.t + int(seconds * S)
        while self.t < end:
            self.t += step_ms * MS
            self.step()

    def step(self) -> None:
        for host in self.hosts:
            for when, values in [x for x in host.inbox if x[0] <= self.t]:
                host.inbox.remove((when, values))
                host.shared.mail.give(values)
            host.rig.now = max(host.rig.now, self.t + host.skew)
            host.rig.feed()
            host.rig.balance()
            while (item := host.shared.mail.take()) is not None:
                if self.up:
                    self.exchange(host, item[0], item[1])
        for when, key, value in [x for x in self.on_way if x[0] <= self.t]:
            self.on_way.remove((when, key, value))
            self.values[key] = value

    def exchange(self, host: Host, told: bytes, asked: bytes) -> None:
        # Values of one key keep their order: they come from one agent, over one connection.
        came = self.t + self.latency()
        for key, value in puts(told):
            last = max((w for w, k, _ in self.on_way if k == key), default=0)
            self.on_way.append((max(came, last), key, value))
        for at in range(0, len(asked), QUESTION.size):
            key = QUESTION.unpack_from(asked, at)
            self.asked += 1
            if key in self.values:
                host.inbox.append((self.t + self.latency(), answer(key, self.values[key])))

    def settle(self) -> None:
        """What the pipeline does every half second."""
        for host in self.hosts:
            host.rig.settle(self.t + host.skew)

    def spans(self) -> list[Span]:
        """All spans of all hosts, those that are on hold included."""
        return [s for host in self.hosts for s in host.rig.finish()]

    def counts(self, name: str) -> int:
        return sum(host.shared.counts()[name] for host in self.hosts)


class Cross:
    """Both ends of a connection between two hosts (or within one)."""

    def __init__(
        self, hosts: Hosts, client: tuple[int, Process, int], server: tuple[int, Process, int], isns: tuple[int, int]
    ) -> None:
        self.hosts = hosts
        self.ends = []
        self.wires = []
        addresses = (f"10.0.{client[0]}.1", f"10.0.{server[0]}.1")
        for which, at in (("client", client[0]), ("server", server[0])):
            kernel = hosts[at].rig.kernel
            wire = Wire(kernel, client[1:], server[1:], isns=isns, addresses=addresses, watch=which)
            self.ends.append((getattr(wire, which), hosts[at]))
            self.wires.append(wire)

    def send(self, path: str, *headers: str, tids: tuple[int, int] = (0, 0)) -> None:
        """The request is sent, and read a millisecond later."""
        self._pass(0, get(path, *headers), tids)

    def answer(self, tids: tuple[int, int] = (0, 0), data: bytes = b"") -> None:
        """tids: of the server's and the client's thread."""
        self._pass(1, data or ok(), tids)

    def sent(self, path: str, *headers: str, tid: int = 0) -> None:
        """The request is sent and not read yet."""
        end, host = self.ends[0]
        end.send(get(path, *headers), self.hosts.t + host.skew, tid)

    def read(self, path: str, *headers: str, tid: int = 0) -> None:
        end, host = self.ends[1]
        end.recv(get(path, *headers), self.hosts.t + host.skew, tid)

    def _pass(self, sender: int, data: bytes, tids: tuple[int, int]) -> None:
        (a, a_host), (b, b_host) = self.ends[sender], self.ends[1 - sender]
        a.send(data, self.hosts.t + a_host.skew, tids[0])
        self.hosts.t += MS
        b.recv(data, self.hosts.t + b_host.skew, tids[1])


def slow(rng: random.Random, most_ms: int) -> Callable[[], int]:
    """Each message takes its own time."""
    return lambda: rng.randrange(1, most_ms) * MS
