"""TagStore: key -> tag set, with the time for which it holds. Sources put, faces find and follow.

Bindings have a time since they ended: an address that is used again at once belongs to the old pod until the new one
began, so what is asked "at" an earlier time is answered as it was then. Several sources may speak of one key: see
`source.Layer`. Thread-safe. Bounded: keys that have ended leave after `keep_s`, and earlier where there are more than
`max_keys`, the longest ended first; a new key that finds no room is refused and counted.
"""

import ipaddress
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from zerospan.enricher.keys import ADDRESS, ENDPOINT
from zerospan.enricher.source import Layer
from zerospan.enricher.tagset import TagSet, TagSets

LOG = 1 << 17  # changes remembered for those who resume
HISTORY = 8  # bindings of one key and layer
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Binding(msgspec.Struct, gc=False):
    """A key's tags from since_ns to until_ns (Unix time; 0: still so)."""

    tags: TagSet
    since_ns: int
    until_ns: int = 0
    layer: Layer = Layer.KUBERNETES
    node: str = ""  # whose agents are told without asking


class Piece(msgspec.Struct, gc=False, frozen=True):
    """A stretch of time for which one resolved tag set holds."""

    tags: TagSet
    since_ns: int
    until_ns: int  # 0: still so


class TagStore:
    """clock: Unix time in ns, for tests. epoch: names this life of the store; revisions count within it."""

    def __init__(
        self, *, keep_s: float = 600, max_keys: int = 1 << 20, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self.sets = TagSets()
        self.epoch = clock()
        self.revision = 0  # one more for each changed key
        self.range_revision = 0  # one more when ranges change: addresses that have no binding are not told by key
        self.refused = 0  # keys that found no room
        self.evicted = 0  # ended keys that left before keep_s
        self._keep_ns = int(keep_s * 1e9)
        self._max_keys = max_keys
        self._clock = clock
        self._lock = threading.RLock()
        # most keys have one binding: it stands there without a tuple around it
        self._bindings: dict[bytes, Binding | tuple[Binding, ...]] = {}
        self._nodes: dict[str, list[bytes]] = {}  # some may have gone, or stand twice: see of_node
        self._stale: dict[str, int] = {}  # how many, at most
        self._ended: dict[bytes, int] = {}  # key with no open binding -> when; in the order in which they ended
        self._ranges: dict[int, dict[bytes, TagSet]] = {}  # prefix length of the v4-mapped form -> masked address
        self._touched: dict[int, set[bytes]] = {}  # ranges that changed and were not told yet
        self._log: deque[bytes] = deque(maxlen=LOG)
        self._listeners: list[Callable[[], None]] = []
        self._depth = 0
        self._pending = False
        self._loose = 0  # bindings that went since the last sweep of sets: their sets may be of no more use
        self._swept = 0  # sets after it

    # -- sources

    def make(self, tags: Mapping[str, str], base: TagSet | None = None, shared: TagSet | None = None) -> TagSet:
        """The interned set of these tags; see TagSets.of."""
        with self._lock:
            return self.sets.of(tags, base, shared)

    def put(
        self,
        key: bytes,
        tags: TagSet,
        *,
        layer: Layer,
        since_ns: int,
        until_ns: int = 0,
        node: str = "",
    ) -> bool:
        """From since_ns on, this key has these tags. The layer's earlier binding of the key ends then; one of the same
        since_ns is corrected. until_ns: it has ended already. Returns whether anything changed.
        """
        with self._lock:
            old = self._bindings.get(key)
            new = Binding(tags, since_ns, until_ns, layer, node)
            if old is None:
                if len(self._bindings) >= self._max_keys and not self._evict():
                    self.refused += 1
                    return False
                self._bindings[key] = new
                if node:
                    self._index(node, key)
                if until_ns:
                    self._ended[key] = until_ns
                self._changed((key,))
                return True
            kept: list[Binding] = []
            for b in (old,) if isinstance(old, Binding) else old:
                same = b.tags.id == tags.id
                if b.layer != layer:
                    kept.append(b)
                elif b.since_ns == since_ns or (same and not b.until_ns and b.since_ns <= since_ns):
                    if same and b.until_ns == until_ns and b.node == node:
                        return False
                    new.since_ns = b.since_ns if same else since_ns
                elif b.since_ns < since_ns:
                    if not b.until_ns or b.until_ns > since_ns:
                        b = Binding(b.tags, b.since_ns, since_ns, layer, b.node)
                    kept.append(b)
                else:  # news of an earlier time: what came later stays as it is
                    new.until_ns = min(new.until_ns or b.since_ns, b.since_ns)
                    kept.append(b)
            kept.append(new)
            self._set(key, kept)
            return True

    def end(self, key: bytes, *, layer: Layer, at_ns: int = 0, tags: TagSet | None = None) -> bool:
        """The layer's open binding of the key has ended, at_ns or now. tags: only if it is this one (a late word of an
        old pod must not end what a new one has); then an end that is known already becomes earlier if this one is.
        Returns whether anything changed.
        """
        at_ns = at_ns or self._clock()
        with self._lock:
            changed = False
            kept = []
            for b in self._of(key):
                if b.layer == layer and (tags is None or b.tags.id == tags.id):
                    until = max(at_ns, b.since_ns + 1)
                    if not b.until_ns or (tags is not None and until < b.until_ns):
                        b = Binding(b.tags, b.since_ns, until, layer, b.node)
                        changed = True
                kept.append(b)
            if changed:
                self._set(key, kept)
            return changed

    def held(self, key: bytes, layer: Layer, tags: TagSet | None = None) -> Binding | None:
        """The layer's latest binding of a key (to these tags); it may have ended. Not to be changed."""
        with self._lock:
            found = None
            for b in self._of(key):
                if b.layer == layer and (tags is None or b.tags.id == tags.id):
                    found = b if found is None or b.since_ns > found.since_ns else found
            return found

    def now(self) -> int:
        """The store's clock: Unix time in ns."""
        return self._clock()

    @property
    def keep_ns(self) -> int:
        """How long what has ended is kept."""
        return self._keep_ns

    def put_range(self, network: Network, tags: TagSet | None) -> None:
        """Tags of every address of a network that lie under what is known of the address itself; None: no longer."""
        bits = network.prefixlen + (96 if network.version == 4 else 0)
        first = network.network_address.packed
        masked = bytes(10) + b"\xff\xff" + first if network.version == 4 else first
        with self._lock:
            if self._ranges.get(bits, {}).get(masked) is tags:
                return
            if tags is not None:
                self._ranges.setdefault(bits, {})[masked] = tags
                if len(self._ranges[bits]) == 1:
                    self._ranges = dict(sorted(self._ranges.items(), reverse=True))
            else:
                self._ranges[bits].pop(masked)
                if not self._ranges[bits]:
                    del self._ranges[bits]
            self._touched.setdefault(bits, set()).add(masked)
            if self._depth == 0:
                self._ranges_changed()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Puts and ends inside are told to listeners once, at the end."""
        with self._lock:
            self._depth += 1
        try:
            yield
        finally:
            with self._lock:
                self._depth -= 1
                if self._depth == 0 and self._touched:
                    self._depth = 1  # told below, with the rest
                    self._ranges_changed()
                    self._depth = 0
                tell = self._depth == 0 and self._pending
                self._pending = self._pending and not tell
            if tell:
                self._tell()

    # -- faces

    def find(self, key: bytes, at_ns: int = 0) -> TagSet | None:
        """What the key was at that time (0: now); None if nothing is known."""
        at_ns = at_ns or self._clock()
        one = self._bindings.get(key)
        if type(one) is Binding and not (self._ranges and key[:1] == ADDRESS):  # the lock is not needed: never changed
            return one.tags if one.since_ns <= at_ns and (not one.until_ns or at_ns < one.until_ns) else None
        with self._lock:
            for piece in self.pieces(key):
                if piece.since_ns <= at_ns and (not piece.until_ns or at_ns < piece.until_ns):
                    return piece.tags
            return None

    def find_address(self, address: bytes, port: int = 0, protocol: int = 0, at_ns: int = 0) -> TagSet | None:
        """What an address (16 bytes) was; its port first, where a port has a meaning of its own."""
        found = None
        if port:
            found = self.find(ENDPOINT + address + port.to_bytes(2, "big") + bytes((protocol,)), at_ns)
        return found if found is not None else self.find(ADDRESS + address, at_ns)

    def pieces(self, key: bytes) -> list[Piece]:
        """All that is known of a key, layers and ranges merged, in the order of time; no two overlap."""
        with self._lock:
            bindings = self._of(key)
            under = self._range(key[1:]) if key[:1] == ADDRESS else None
            if under is None:
                if not bindings:
                    return []
                if len(bindings) == 1:
                    b = bindings[0]
                    return [Piece(b.tags, b.since_ns, b.until_ns)]
            forever = 1 << 63
            times = {0} if under is not None else set()
            for b in bindings:
                times |= {b.since_ns, b.until_ns or forever}
            found: list[Piece] = []
            for since, until in itertools.pairwise(sorted(times | {forever})):
                tags = under
                for b in sorted(bindings, key=lambda b: b.layer):
                    if b.since_ns <= since and (not b.until_ns or b.until_ns >= until):
                        tags = b.tags if tags is None else self.sets.over(b.tags, tags)
                if tags is None:
                    continue
                until = 0 if until == forever else until
                if found and found[-1].tags is tags and found[-1].until_ns == since:
                    since = found.pop().since_ns
                found.append(Piece(tags, since, until))
            return found

    def keys(self) -> list[bytes]:
        """Every key of which anything is known, ranges left out."""
        with self._lock:
            return list(self._bindings)

    def of_node(self, node: str) -> list[bytes]:
        """Keys that this node's agents are told without asking."""
        with self._lock:
            self._tidy(node)
            return list(self._nodes.get(node, ()))

    def node_of(self, key: bytes) -> set[str]:
        """The nodes whose agents are told of a key without asking."""
        with self._lock:
            return {b.node for b in self._of(key) if b.node}

    def since(self, revision: int) -> list[bytes] | None:
        """Keys that changed after this revision of this epoch, each once; None: too long ago, take all again."""
        with self._lock:
            n = self.revision - revision
            if n < 0 or n > len(self._log):
                return None
            return list(dict.fromkeys(itertools.islice(self._log, len(self._log) - n, None)))

    def listen(self, callback: Callable[[], None]) -> None:
        """callback() after each change or batch of changes, in the thread that made it; it must not block."""
        with self._lock:
            self._listeners.append(callback)

    def sweep(self) -> None:
        """Lets go of what ended longer than keep_s ago, and of sets that nothing uses; every minute or so."""
        with self._lock:
            before = self._clock() - self._keep_ns
            for key, at in list(self._ended.items()):
                if at < before:
                    self._forget(key)
            if self._loose * 8 < len(self.sets) and len(self.sets) * 4 < self._swept * 5:
                return  # looking at every binding would free little
            ranges = (tags for at in self._ranges.values() for tags in at.values())
            self.sets.sweep(itertools.chain((b.tags for key in self._bindings for b in self._of(key)), ranges))
            self._loose, self._swept = 0, len(self.sets)

    def counts(self) -> dict[str, int]:
        """Keys by their first letter, "sets" and "ended"."""
        with self._lock:
            found: dict[str, int] = {"sets": len(self.sets), "ended": len(self._ended)}
            for key in self._bindings:
                kind = chr(key[0])
                found[kind] = found.get(kind, 0) + 1
            return found

    # -- inside, with the lock held

    def _of(self, key: bytes) -> tuple[Binding, ...]:
        found = self._bindings.get(key, ())
        return (found,) if isinstance(found, Binding) else found

    def _index(self, node: str, key: bytes) -> None:
        keys = self._nodes.get(node)
        if keys is None:
            keys = self._nodes[node] = []
        keys.append(key)

    def _count_stale(self, bindings: Iterable[Binding], but: Iterable[str] = ()) -> None:
        for b in bindings:
            if b.node and b.node not in but:
                stale = self._stale[b.node] = self._stale.get(b.node, 0) + 1
                if stale > 64 and stale * 2 > len(self._nodes.get(b.node, ())):
                    self._tidy(b.node)

    def _tidy(self, node: str) -> None:
        if self._stale.pop(node, 0):
            keys = [k for k in dict.fromkeys(self._nodes.get(node, ())) if any(b.node == node for b in self._of(k))]
            self._nodes[node] = keys
            if not keys:
                del self._nodes[node]

    def _set(self, key: bytes, bindings: list[Binding]) -> None:
        bindings.sort(key=lambda b: (b.layer, b.since_ns))
        if len(bindings) > HISTORY:
            for layer in {b.layer for b in bindings}:
                excess = sum(b.layer == layer for b in bindings) - HISTORY
                ended = sorted((b for b in bindings if b.layer == layer and b.until_ns), key=lambda b: b.until_ns)
                old = ended[: max(0, excess)]
                bindings = [b for b in bindings if b not in old]
        before = {b.node for b in self._of(key)}
        after = {b.node for b in bindings}
        stale = self._of(key)
        self._bindings[key] = bindings[0] if len(bindings) == 1 else tuple(bindings)
        for node in after - before:
            if node:
                self._index(node, key)
        self._count_stale(stale, after)
        self._loose += 1
        self._ended.pop(key, None)
        if all(b.until_ns for b in bindings):
            self._ended[key] = max(b.until_ns for b in bindings)
        self._changed((key,))

    def _forget(self, key: bytes) -> None:
        stale = self._of(key)
        self._bindings.pop(key, None)
        self._count_stale(stale)
        self._loose += 1
        self._ended.pop(key, None)
        self._changed((key,))

    def _evict(self) -> bool:
        """Room for one key, taken from one that has ended."""
        if not self._ended:
            return False
        self._forget(next(iter(self._ended)))
        self.evicted += 1
        return True

    def _range(self, address: bytes) -> TagSet | None:
        number = int.from_bytes(address, "big")
        for bits, networks in self._ranges.items():  # the longest prefix first
            masked = _masked(number, bits)
            if masked in networks:
                return networks[masked]
        return None

    def _ranges_changed(self) -> None:
        """Tells of the addresses within ranges that changed; once for a batch, for there may be thousands of both."""
        touched, self._touched = self._touched, {}
        self.range_revision += 1
        changed = []
        for key in self._bindings:
            if key[:1] == ADDRESS:
                number = int.from_bytes(key[1:], "big")
                if any(_masked(number, bits) in networks for bits, networks in touched.items()):
                    changed.append(key)
        self._changed(changed)

    def _changed(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self.revision += 1
            self._log.append(key)
        self._pending = True
        if self._depth == 0:
            self._pending = False
            self._tell()

    def _tell(self) -> None:
        for callback in self._listeners:
            callback()


def _masked(number: int, bits: int) -> bytes:
    """The first bits of an address as a number, the rest zero."""
    return (number >> (128 - bits) << (128 - bits)).to_bytes(16, "big")
