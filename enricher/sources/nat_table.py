"""Connections whose addresses are translated: a table from what one end sees to the real ends. Used by conntrack.py.

An entry is conntrack's pair of tuples: `original`, as the first packet was sent, and `reply`, as the answers are. What
differs was translated. Tuples are 37 bytes: source address and port, destination address and port, protocol, as in
keys.CONNECTION. Bounded in bytes; ended entries leave first, and a new one that finds no room is refused and counted.
Several translations on a way (a node's SNAT, the next node's DNAT) are followed from entry to entry. Thread-safe.
"""

import threading
from collections import deque
from typing import NamedTuple

import msgspec

ENTRY_BYTES = 512  # of one entry with its two keys, measured (tests/unit/test_enricher_nat.py)
HISTORY = 4  # entries of one tuple that is used again
HOPS = 4  # translations on one way
SLACK_NS = 2_000_000_000  # we are told of a connection after its first packet: what was before may be this one's
TUPLE = 37

Found = tuple["Nat", ...]


class Nat(msgspec.Struct, gc=False, eq=False):
    """Unix time in ns; since_ns 0: older than the table; until_ns 0: still open."""

    original: bytes
    reply: bytes
    since_ns: int
    until_ns: int = 0
    round: int = 0  # of the dump that saw it last


class Ends(NamedTuple):
    """The real ends of a connection, in the order of the question: 18 bytes each, address and port."""

    own: bytes
    peer: bytes
    own_is_client: bool
    since_ns: int
    until_ns: int


def swapped(ends: bytes) -> bytes:
    """The tuple of the other direction."""
    return ends[18:36] + ends[:18] + ends[36:]


class NatTable:
    """limit: bytes. keep_ns: how long an ended connection is still answered for."""

    def __init__(self, limit: int, keep_ns: int) -> None:
        self.refused = 0
        self.evicted = 0  # ended ones that left before their time
        self._max = max(limit // ENTRY_BYTES, 16)
        self._keep_ns = keep_ns
        self._lock = threading.Lock()
        self._original: dict[bytes, Found] = {}
        self._reply: dict[bytes, Found] = {}
        self._ended: deque[Nat] = deque()
        self._count = 0
        self._old = 0  # open ones that are older than the table

    def __len__(self) -> int:
        return self._count

    def add(self, original: bytes, reply: bytes, since_ns: int, round: int = 0) -> bool:
        """A translated connection; known already: seen again. Returns whether it is new."""
        with self._lock:
            for nat in self._original.get(original, ()):
                if not nat.until_ns:
                    if nat.reply == reply:
                        nat.round = round
                        return False
                    self._end(nat, since_ns)  # its end was not told
            if self._count >= self._max:
                if not self._ended:
                    self.refused += 1
                    return False
                self.evicted += 1
                self._drop(self._ended.popleft())
            nat = Nat(original, reply, since_ns, round=round)
            for table, key in ((self._original, original), (self._reply, reply)):
                before = table.get(key, ())
                if len(before) >= HISTORY:
                    before = before[1:]
                table[key] = (*before, nat)
            self._count += 1
            self._old += not since_ns
            return True

    def end(self, original: bytes, at_ns: int) -> bool:
        """A connection has ended. Returns whether it was known."""
        with self._lock:
            for nat in self._original.get(original, ()):
                if not nat.until_ns:
                    self._end(nat, at_ns)
                    return True
            return False

    def end_others(self, round: int, at_ns: int, rounds: frozenset[int]) -> int:
        """Ends what a dump did not see again: of the earlier dumps `rounds` of the same namespace. How many."""
        with self._lock:
            gone = [
                nat
                for found in self._original.values()
                for nat in found
                if not nat.until_ns and nat.round != round and nat.round in rounds
            ]
            for nat in gone:
                self._end(nat, at_ns)
            return len(gone)

    def has_old(self) -> bool:
        """Whether a connection is open that is older than the table: its end may never be told (conntrack.py)."""
        return self._old > 0

    def sweep(self, now_ns: int) -> None:
        """Lets go of what ended long ago."""
        with self._lock:
            while self._ended and self._ended[0].until_ns < now_ns - self._keep_ns:
                self._drop(self._ended.popleft())

    def ends(self, seen: bytes, at_ns: int) -> Ends | None:
        """The real ends of a connection that one end sees so (37 bytes) at a time; None: nothing is translated, or it
        is not known.
        """
        with self._lock:
            client = self._walk(seen, at_ns)
            if client is not None:
                return client
            server = self._walk(swapped(seen), at_ns)
        if server is None:
            return None
        return Ends(server.peer, server.own, False, server.since_ns, server.until_ns)

    # -- with the lock held

    def _walk(self, seen: bytes, at_ns: int) -> Ends | None:
        """As if the tuple's source had connected."""
        since, until, last = 0, 0, None
        down = up = seen
        for _ in range(HOPS):
            nat = _at(self._original.get(down, ()), at_ns)
            if nat is None or nat is last:
                break
            down, last = swapped(nat.reply), nat
            since, until = max(since, nat.since_ns), nat.until_ns or until
        first = last
        last = None
        for _ in range(HOPS):
            nat = _at(self._reply.get(swapped(up), ()), at_ns)
            if nat is None or nat is last or nat is first:
                break
            up, last = nat.original, nat
            since, until = max(since, nat.since_ns), nat.until_ns or until
        if first is None and last is None:
            return None
        return Ends(up[:18], down[18:36], True, since, until)

    def _end(self, nat: Nat, at_ns: int) -> None:
        self._old -= not nat.since_ns and not nat.until_ns
        nat.until_ns = max(at_ns, nat.since_ns + 1)
        self._ended.append(nat)

    def _drop(self, nat: Nat) -> None:
        for table, key in ((self._original, nat.original), (self._reply, nat.reply)):
            left = tuple(other for other in table.get(key, ()) if other is not nat)
            if left:
                table[key] = left
            else:
                table.pop(key, None)
        self._count -= 1


def _at(found: Found, at_ns: int) -> Nat | None:
    """The entry of a time: the one that was open; else the next one, if it began so soon after that we heard late."""
    for nat in reversed(found):
        if nat.since_ns <= at_ns and (not nat.until_ns or at_ns < nat.until_ns):
            return nat
    for nat in found:
        if at_ns < nat.since_ns <= at_ns + SLACK_NS:
            return nat
    return None
