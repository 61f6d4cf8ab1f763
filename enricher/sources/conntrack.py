"""NAT: who is behind a service's address, a node port or a masqueraded source, by the kernel's connection tracking.

Keeps translated connections only, in a table of its own (nat_table.py): one source port is one connection, too many for
the store. real_end() answers for one of them, pieces() for a CONNECTION key of the tag service. What the agents' own
keys (sequence numbers) tell of TCP is better; this is for UDP, and for ends without an agent. Made by registry.py.
"""

import logging
import os
import select
import threading
import time
from typing import Annotated, NamedTuple

from msgspec import Meta

from zerospan.enricher import keys
from zerospan.enricher.source import SourceStats
from zerospan.enricher.sources.ctnetlink import Conntrack, Event
from zerospan.enricher.sources.nat_services import NatServices
from zerospan.enricher.sources.nat_table import NatTable
from zerospan.enricher.store import Piece, TagStore
from zerospan.exporter.config.model import Section, Text
from zerospan.exporter.source import netns

log = logging.getLogger(__name__)

RETRY_S = 2.0  # a namespace that is not there yet, or has gone
BATCH_S = 0.01  # events are read in one go: a wake-up costs more than ten of them
# Where net.netfilter.nf_conntrack_events is 2 (its default), the kernel tells no end of a connection that began before
# anybody listened: while there are such, the table is read again.
DUMP_S = 60.0
LOOK_S = 2.0  # between two looks at what those behind service addresses are called
NAT_ADDRESS = "zerospan.nat.address"


class ConntrackConfig(Section, frozen=True):
    """Network address translation, seen by the kernel's connection tracking."""

    enabled: Annotated[
        bool,
        Meta(
            description="Listen to connection tracking; needs CAP_NET_ADMIN, for other namespaces than `self`"
            " CAP_SYS_ADMIN, too."
        ),
    ] = False
    netns: Annotated[
        tuple[Text, ...], Meta(description="Network namespaces: a path, a name of `ip netns`, or `self`.")
    ] = ("self",)
    services: Annotated[
        bool,
        Meta(
            description="Name service addresses that nobody else names by the service that is behind them; for hosts"
            " without Kubernetes."
        ),
    ] = False
    table_bytes: Annotated[int, Meta(ge=1 << 16, le=1 << 34, description="Memory for translated connections.")] = (
        32 << 20
    )
    keep_s: Annotated[float, Meta(ge=0, le=3600, description="How long an ended connection is still answered for.")] = (
        120
    )
    receive_bytes: Annotated[
        int, Meta(ge=1 << 16, le=1 << 28, description="The kernel's queue of events, for each namespace.")
    ] = 4 << 20


class End(NamedTuple):
    """The real other end. address: 16 bytes, IPv4 v4-mapped."""

    address: bytes
    port: int


class _Watched:
    """One namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.conntrack: Conntrack | None = None
        self.round = 0
        self.rounds: set[int] = set()  # numbers of its dumps, and 0 of none
        self.again = 0.0
        self.synced = False
        self.heard_ns = 0  # Unix time up to which all is known; 0: nothing yet
        self.dumped = 0.0


class ConntrackSource:
    """Threads: its own, and those that ask."""

    name = "conntrack"
    answers = (keys.CONNECTION,)  # kinds of keys that pieces() answers for, not the store

    def __init__(self, store: TagStore, config: ConntrackConfig) -> None:
        self._store, self._config = store, config
        self.table = NatTable(config.table_bytes, int(config.keep_s * 1e9))
        self._services = NatServices(store) if config.services else None
        self._watched = [_Watched(name) for name in config.netns]
        self._stats = SourceStats()
        self._round = 0
        self._wake_in, self._wake_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="conntrack", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        os.write(self._wake_out, b"x")
        if self._thread.ident is not None:
            self._thread.join(2)

    def stats(self) -> SourceStats:
        stats = self._stats
        stats.in_sync = all(one.synced for one in self._watched)
        stats.entities = {
            "connection": len(self.table), "refused": self.table.refused, "evicted": self.table.evicted,
        }  # fmt: skip
        if self._services is not None:
            stats.entities |= {"service": len(self._services), "service_refused": self._services.refused}
        return stats

    def translate(
        self, address: bytes, port: int, peer: bytes, peer_port: int, protocol: int, at_ns: int = 0
    ) -> tuple[End, End] | None:
        """The real ends (own, peer) of a connection as one end sees it; None: nothing is known to be translated.
        Addresses are 16 bytes.
        """
        seen = address + port.to_bytes(2, "big") + peer + peer_port.to_bytes(2, "big") + bytes((protocol,))
        found = self.table.ends(seen, at_ns or time.time_ns())
        return (_end(found.own), _end(found.peer)) if found is not None else None

    def real_end(
        self, address: bytes, port: int, peer: bytes, peer_port: int, protocol: int, at_ns: int = 0
    ) -> End | None:
        """The peer's real end; None if it is who it seems to be, or nothing is known."""
        found = self.translate(address, port, peer, peer_port, protocol, at_ns)
        return found[1] if found is not None and found[1] != End(peer, peer_port) else None

    def pieces(self, key: bytes, at_ns: int = 0) -> list[Piece]:
        """What the tag service answers for a CONNECTION key: the tags of the peer's real end and its address
        (zerospan.nat.address; with the port if it is the server's). Empty: not translated.
        """
        if key[:1] != keys.CONNECTION or len(key) != 38:
            return []
        at_ns = at_ns or time.time_ns()
        found = self.table.ends(key[1:], at_ns)
        if found is None or found.peer == key[19:37]:
            return []
        peer = _end(found.peer)
        text = keys.unpacked(peer.address)
        if found.own_is_client:
            text = f"[{text}]:{peer.port}" if ":" in text else f"{text}:{peer.port}"
        under = self._store.find_address(peer.address, peer.port if found.own_is_client else 0, key[37], at_ns)
        return [Piece(self._store.make({NAT_ADDRESS: text}, under), found.since_ns, found.until_ns)]

    # -- the thread

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._wake_in, select.POLLIN)
        swept = looked = time.monotonic()
        while not self._stopping:
            for one in self._watched:
                if one.conntrack is None and time.monotonic() >= one.again:
                    self._open(one)
                    if one.conntrack is not None:
                        poll.register(one.conntrack.socket, select.POLLIN)
            poll.poll(1000)
            if not self._stopping:
                time.sleep(BATCH_S)
            for one in self._watched:
                if one.conntrack is not None:
                    self._read(one, poll)
            try:
                if time.monotonic() - swept > 1:
                    swept = time.monotonic()
                    self.table.sweep(time.time_ns())
                if self._services is not None and time.monotonic() - looked > LOOK_S:
                    looked = time.monotonic()
                    self._services.look(time.time_ns())
            except Exception as e:
                self._stats.errors += 1
                self._stats.last_error = f"{type(e).__name__}: {e}"
                log.exception("conntrack: a look at what is known failed: a bug")
        for one in self._watched:
            if one.conntrack is not None:
                one.conntrack.close()
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _open(self, one: _Watched) -> None:
        one.again = time.monotonic() + RETRY_S
        path = one.name if "/" in one.name else f"/run/netns/{one.name}"
        try:
            if one.name == "self":  # to enter a namespace, even one's own, takes CAP_SYS_ADMIN. setns(2)
                path = one.name
                one.conntrack = Conntrack(self._config.receive_bytes)
            else:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    with netns.inside(fd):
                        one.conntrack = Conntrack(self._config.receive_bytes)
                finally:
                    os.close(fd)
            self._dump(one)
        except Exception as e:
            self._failed(one, f"{path}: {e}", e)

    def _failed(self, one: _Watched, what: str, e: Exception) -> None:
        if one.conntrack is not None:
            one.conntrack.close()
            one.conntrack = None
        one.synced = False
        self.table.end_others(-1, time.time_ns(), frozenset(one.rounds))
        one.heard_ns = 0
        self._stats.errors += 1
        if what != self._stats.last_error:
            self._stats.last_error = what
            log.warning("conntrack: %s; it is tried again", what, exc_info=None if isinstance(e, OSError) else e)

    def _dump(self, one: _Watched) -> None:
        assert one.conntrack is not None
        self._round += 1
        before = frozenset(one.rounds)
        one.round = self._round
        for event in one.conntrack.dump():
            at = event.at_ns or one.heard_ns
            self._stats.changes += self.table.add(event.original, event.reply, at, self._round)
            if self._services is not None:
                self._services.saw(event.original, event.reply, at or time.time_ns())
        one.dumped = time.monotonic()
        self.table.end_others(self._round, time.time_ns(), before)
        one.rounds = {self._round}
        one.synced = True
        one.heard_ns = one.heard_ns or time.time_ns()

    def _read(self, one: _Watched, poll: select.poll) -> None:
        assert one.conntrack is not None
        socket = one.conntrack.socket
        try:
            events, whole = one.conntrack.read()
            now = time.time_ns()
            for event in events:
                self._take(event, now, one.round)
            if not whole:
                self._stats.resyncs += 1
                log.warning("conntrack: the kernel lost events of %s; the table is read again", one.name)
            if not whole or (time.monotonic() - one.dumped > DUMP_S and self.table.has_old()):
                self._dump(one)
            one.heard_ns = now
        except Exception as e:  # a source never dies: what it holds may be wrong now, so all is read anew
            poll.unregister(socket)
            self._failed(one, f"{one.name}: {e}", e)

    def _take(self, event: Event, now_ns: int, round: int) -> None:
        at = event.at_ns or now_ns
        if event.ended:
            self._stats.changes += self.table.end(event.original, at)
        else:
            self._stats.changes += self.table.add(event.original, event.reply, at, round)
            if self._services is not None:
                self._services.saw(event.original, event.reply, at)


def _end(end: bytes) -> End:
    return End(end[:16], int.from_bytes(end[16:18], "big"))
