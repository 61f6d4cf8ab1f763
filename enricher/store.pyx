# cython: language_level=3, boundscheck=False, wraparound=False
"""TagStore: key -> tag set, with the time for which it holds. Sources put, faces find and follow.

Bindings have a time since they ended: an address that is used again at once belongs to the old pod until the new one
began, so what is asked "at" an earlier time is answered as it was then. Several sources may speak of one key: see
`source.Layer`. Thread-safe. Bounded: keys that have ended leave after `keep_s`, and earlier where there are more than
`max_keys`, the longest ended first; a new key that finds no room is refused and counted. Compiled, and its bindings
are C structs in all but name: a cluster of 50,000 pods has 160,000 of them.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t

from zerospan.enricher.tagset cimport TagSet, TagSets, same

import ipaddress
import itertools
import threading
import time
from collections import deque

from zerospan.enricher.source import Layer

cdef tuple LAYERS = tuple(Layer)
assert all([layer == i for i, layer in enumerate(LAYERS)])

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LOG = 1 << 17  # changes remembered for those who resume
HISTORY = 8  # bindings of one key and layer


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class Binding:
    """A key's tags from since_ns to until_ns (Unix time; 0: still so). Never changed once it is in the store."""

    @property
    def layer(self):
        return LAYERS[self._layer]


cdef Binding _binding(TagSet tags, int64_t since_ns, int64_t until_ns, int layer, str node):
    cdef Binding made = Binding.__new__(Binding)
    made.tags, made.since_ns, made.until_ns, made._layer, made.node = tags, since_ns, until_ns, layer, node
    return made


@cython.final
cdef class Piece:
    """A stretch of time for which one resolved tag set holds. Never changed."""

    def __init__(self, TagSet tags not None, int64_t since_ns, int64_t until_ns):
        self.tags, self.since_ns, self.until_ns = tags, since_ns, until_ns

    def __eq__(self, other):
        cdef Piece b
        if type(other) is not Piece:
            return NotImplemented
        b = other
        return same(self.tags, b.tags) and self.since_ns == b.since_ns and self.until_ns == b.until_ns

    def __repr__(self):
        return f"Piece({self.tags!r}, {self.since_ns}, {self.until_ns})"


cdef inline bint _is_address(bytes key):
    return PyBytes_GET_SIZE(key) > 0 and PyBytes_AS_STRING(key)[0] == c"a"


cdef tuple _all(found):
    """The bindings of a key as they lie in the store: None, one, or a tuple of several."""
    if found is None:
        return ()
    return <tuple>found if type(found) is tuple else (found,)


@cython.final
cdef class _Batch:
    """What TagStore.batch() is: a `with` block."""

    cdef TagStore _store

    def __enter__(self):
        store = self._store
        with store.lock:
            store._depth += 1

    def __exit__(self, *failed):
        store = self._store
        with store.lock:
            if store._depth == 1 and store._touched:
                store._ranges_changed()  # told below, with the rest
            store._depth -= 1
            tell = store._depth == 0 and store._pending
            store._pending = store._pending and not tell
        if tell:
            store._tell()


@cython.final
cdef class TagStore:
    """See store.pyi. The lock is held where a method's name ends in _locked or begins with _."""

    def __init__(self, *, keep_s=600, Py_ssize_t max_keys=1 << 20, clock=time.time_ns):
        self.sets = TagSets()
        self.epoch = clock()
        self.keep_ns = int(keep_s * 1e9)
        self._max_keys = max_keys
        self._clock = clock
        self.lock = threading.RLock()
        self._bindings = {}  # most keys have one binding: it stands there without a tuple around it
        self._nodes = {}  # name: keys; some may have gone, or stand twice: see of_node
        self._stale = {}  # how many, at most
        self._ended = {}  # key with no open binding -> when; in the order in which they ended
        self._ranges = {}  # prefix length of the v4-mapped form -> masked address
        self._touched = {}  # ranges that changed and were not told yet
        self._log = deque(maxlen=LOG)
        self._logged = self._log.append
        self._listeners = []
        self._loose = 0  # bindings that went since the last sweep of sets: their sets may be of no more use
        self._swept = 0  # sets after it

    # -- sources

    def make(self, tags, TagSet base=None, TagSet shared=None):
        with self.lock:
            return self.sets.of(tags, base, shared)

    def put(self, bytes key not None, TagSet tags not None, *, layer, int64_t since_ns, int64_t until_ns=0, str node=""):
        with self.lock:
            return self.put_locked(key, tags, layer, since_ns, until_ns, node)

    def replace(self, bytes key not None, pieces, *, layer, str node=""):
        cdef Binding b
        cdef int of = layer
        cdef int64_t first = pieces[0][1]
        cdef list kept = [_binding(tags, since_ns, until_ns, of, node) for tags, since_ns, until_ns in pieces]
        with self.lock:
            old = _all(self._bindings.get(key))
            if not old and len(self._bindings) >= self._max_keys and not self._evict():
                self.refused += 1
                return False
            for b in old:
                if b._layer != of:
                    kept.append(b)
                elif b.since_ns < first:
                    if not b.until_ns or b.until_ns > first:
                        b = _binding(b.tags, b.since_ns, first, of, b.node)
                    kept.append(b)
            if len(old) == len(kept) and _alike(old, sorted(kept, key=_order_of)):
                return False
            self._set(key, kept)
            return True

    def end(self, bytes key not None, *, layer, int64_t at_ns=0, TagSet tags=None):
        with self.lock:
            return self.end_locked(key, layer, at_ns or self._clock(), tags)

    def held(self, bytes key not None, layer, TagSet tags=None):
        with self.lock:
            return self.held_locked(key, layer, tags)

    def now(self):
        return self._clock()

    def put_range(self, network, TagSet tags):
        bits = network.prefixlen + (96 if network.version == 4 else 0)
        first = network.network_address.packed
        masked = bytes(10) + b"\xff\xff" + first if network.version == 4 else first
        with self.lock:
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

    def batch(self):
        cdef _Batch made = _Batch.__new__(_Batch)
        made._store = self
        return made

    # -- faces

    def find(self, bytes key not None, int64_t at_ns=0):
        cdef Binding one
        cdef Piece piece
        if at_ns == 0:
            at_ns = self._clock()
        found = self._bindings.get(key)
        if type(found) is Binding and not (self._ranges and _is_address(key)):  # no lock: a binding never changes
            one = found
            return one.tags if one.since_ns <= at_ns and (not one.until_ns or at_ns < one.until_ns) else None
        with self.lock:
            for piece in self._pieces(key):
                if piece.since_ns <= at_ns and (not piece.until_ns or at_ns < piece.until_ns):
                    return piece.tags
            return None

    def find_address(self, bytes address not None, int port=0, int protocol=0, int64_t at_ns=0):
        found = None
        if port:
            found = self.find(b"e" + address + port.to_bytes(2, "big") + bytes((protocol,)), at_ns)
        return found if found is not None else self.find(b"a" + address, at_ns)

    def pieces(self, bytes key not None):
        with self.lock:
            return self._pieces(key)

    def keys(self):
        with self.lock:
            return list(self._bindings)

    def of_node(self, str node not None):
        with self.lock:
            self._tidy(node)
            return list(self._nodes.get(node, ()))

    def node_of(self, bytes key not None):
        cdef Binding b
        with self.lock:
            return {b.node for b in _all(self._bindings.get(key)) if b.node}

    def since(self, int64_t revision):
        with self.lock:
            n = self.revision - revision
            if n < 0 or n > len(self._log):
                return None
            return list(dict.fromkeys(itertools.islice(self._log, len(self._log) - n, None)))

    def listen(self, callback):
        with self.lock:
            self._listeners.append(callback)

    def sweep(self):
        with self.lock:
            before = self._clock() - self.keep_ns
            for key, at in list(self._ended.items()):
                if at < before:
                    self._forget(key)
            if self._loose * 8 < len(self._bindings) and len(self.sets) * 4 < self._swept * 5:
                return  # looking at every binding would free little
            self.sets.sweep(self._used())
            self._loose, self._swept = 0, len(self.sets)

    def _used(self):
        """The sets of all bindings and ranges."""
        cdef Binding b
        for found in self._bindings.values():
            for b in _all(found):
                yield b.tags
        for networks in self._ranges.values():
            yield from networks.values()

    def counts(self):
        with self.lock:
            ranges = sum([len(networks) for networks in self._ranges.values()])
            found = {"sets": len(self.sets), "ended": len(self._ended), "ranges": ranges}
            for key in self._bindings:
                kind = chr(key[0])
                found[kind] = found.get(kind, 0) + 1
            return found

    # -- with the lock held

    cdef bint put_locked(self, bytes key, TagSet tags, int layer, int64_t since_ns, int64_t until_ns, str node) except -1:
        cdef Binding new, b
        cdef bint is_same
        cdef list kept
        old = self._bindings.get(key)
        if old is None:
            if len(self._bindings) >= self._max_keys and not self._evict():
                self.refused += 1
                return False
            self._bindings[key] = _binding(tags, since_ns, until_ns, layer, node)
            if node:
                self._index(node, key)
            if until_ns:
                self._ended[key] = until_ns
            self._changed(key)
            return True
        new = _binding(tags, since_ns, until_ns, layer, node)
        kept = []
        for b in _all(old):
            is_same = same(b.tags, tags)
            if b._layer != layer:
                kept.append(b)
            elif b.since_ns == since_ns or (is_same and not b.until_ns and b.since_ns <= since_ns):
                if is_same and b.until_ns == until_ns and b.node == node:
                    return False
                new.since_ns = b.since_ns if is_same else since_ns
            elif b.since_ns < since_ns:
                if not b.until_ns or b.until_ns > since_ns:
                    b = _binding(b.tags, b.since_ns, since_ns, layer, b.node)
                kept.append(b)
            else:  # news of an earlier time: what came later stays as it is
                new.until_ns = min(new.until_ns or b.since_ns, b.since_ns)
                kept.append(b)
        kept.append(new)
        self._set(key, kept)
        return True

    cdef bint end_locked(self, bytes key, int layer, int64_t at_ns, TagSet tags) except -1:
        cdef Binding b
        cdef int64_t until
        cdef bint changed = False
        cdef list kept = []
        for b in _all(self._bindings.get(key)):
            if b._layer == layer and (tags is None or same(b.tags, tags)):
                until = max(at_ns, b.since_ns + 1)
                if not b.until_ns or (tags is not None and until < b.until_ns):
                    b = _binding(b.tags, b.since_ns, until, layer, b.node)
                    changed = True
            kept.append(b)
        if changed:
            self._set(key, kept)
        return changed

    cdef Binding held_locked(self, bytes key, int layer, TagSet tags):
        cdef Binding b, found = None
        all_ = self._bindings.get(key)
        if all_ is None:
            return None
        for b in _all(all_):
            if b._layer == layer and (tags is None or same(b.tags, tags)):
                if found is None or b.since_ns > found.since_ns:
                    found = b
        return found

    cdef list _pieces(self, bytes key):
        cdef Binding b
        cdef Piece last
        cdef tuple bindings = _all(self._bindings.get(key))
        cdef TagSet tags, under = self._range(key[1:]) if self._ranges and _is_address(key) else None
        cdef int64_t since, until
        if under is None:
            if not bindings:
                return []
            if len(bindings) == 1:
                b = bindings[0]
                return [Piece(b.tags, b.since_ns, b.until_ns)]
        times = {0} if under is not None else set()
        for b in bindings:
            times.add(b.since_ns)
            times.add(b.until_ns or FOREVER)
        cdef list found = []
        ordered = sorted(bindings, key=_layer_of)
        for since, until in itertools.pairwise(sorted(times | {FOREVER})):
            tags = under
            for b in ordered:
                if b.since_ns <= since and (not b.until_ns or b.until_ns >= until):
                    tags = b.tags if tags is None else self.sets.over(b.tags, tags)
            if tags is None:
                continue
            if until == FOREVER:
                until = 0
            if found:
                last = found[len(found) - 1]
                if last.until_ns == since and same(last.tags, tags):
                    since = last.since_ns
                    found.pop()
            found.append(Piece(tags, since, until))
        return found

    cdef int _index(self, str node, bytes key) except -1:
        keys = self._nodes.get(node)
        if keys is None:
            keys = self._nodes[node] = []
        (<list>keys).append(key)
        return 0

    cdef int _count_stale(self, tuple bindings, but) except -1:
        cdef Binding b
        for b in bindings:
            if b.node and b.node not in but:
                stale = self._stale[b.node] = self._stale.get(b.node, 0) + 1
                if stale > 64 and stale * 2 > len(self._nodes.get(b.node, ())):
                    self._tidy(b.node)
        return 0

    cdef int _tidy(self, str node) except -1:
        if self._stale.pop(node, 0):
            keys = [k for k in dict.fromkeys(self._nodes.get(node, ())) if self._is_of(node, k)]
            self._nodes[node] = keys
            if not keys:
                del self._nodes[node]
        return 0

    def _is_of(self, str node, bytes key):
        cdef Binding b
        for b in _all(self._bindings.get(key)):
            if b.node == node:
                return True
        return False

    cdef int _set(self, bytes key, list bindings) except -1:
        cdef Binding b, one
        cdef tuple stale = _all(self._bindings.get(key))
        cdef int64_t ended = 0
        cdef bint still = False
        if len(bindings) > 1:
            bindings.sort(key=_order_of)
        if len(bindings) > HISTORY:
            bindings = _youngest(bindings)
        one = bindings[0]
        self._bindings[key] = one if len(bindings) == 1 else tuple(bindings)
        if len(bindings) == 1 and len(stale) == 1 and (<Binding>stale[0]).node == one.node:
            still = True  # the node is the same
        if not still:
            before = {b.node for b in stale}
            after = {b.node for b in bindings}
            for node in after - before:
                if node:
                    self._index(node, key)
            self._count_stale(stale, after)
        self._loose += 1
        for b in bindings:
            if not b.until_ns:
                ended = 0
                break
            ended = max(ended, b.until_ns)
        self._ended.pop(key, None)
        if ended:
            self._ended[key] = ended
        self._changed(key)
        return 0

    cdef int _forget(self, bytes key) except -1:
        stale = _all(self._bindings.pop(key, None))
        self._count_stale(stale, ())
        self._loose += 1
        self._ended.pop(key, None)
        self._changed(key)
        return 0

    cdef bint _evict(self) except -1:
        """Room for one key, taken from one that has ended."""
        if not self._ended:
            return False
        self._forget(next(iter(self._ended)))
        self.evicted += 1
        return True

    cdef TagSet _range(self, bytes address):
        number = int.from_bytes(address, "big")
        for bits, networks in self._ranges.items():  # the longest prefix first
            masked = _masked(number, bits)
            if masked in networks:
                return networks[masked]
        return None

    cdef int _ranges_changed(self) except -1:
        """Tells of the addresses within ranges that changed; once for a batch, for there may be thousands of both."""
        touched, self._touched = self._touched, {}
        self.range_revision += 1
        for key in self._bindings:
            if _is_address(key):
                number = int.from_bytes(key[1:], "big")
                for bits, networks in touched.items():
                    if _masked(number, bits) in networks:
                        self.revision += 1
                        self._logged(key)
                        break
        return self._told()

    cdef int _changed(self, bytes key) except -1:
        self.revision += 1
        self._logged(key)
        self._pending = True
        return self._told() if self._depth == 0 else 0

    cdef int _told(self) except -1:
        self._pending = True
        if self._depth == 0:
            self._pending = False
            self._tell()
        return 0

    cdef int _tell(self) except -1:
        for callback in self._listeners:
            callback()
        return 0


cdef int64_t FOREVER = 0x7FFFFFFFFFFFFFFF


cdef bint _alike(tuple old, list new) except -1:
    """Whether bindings in the same order say the same."""
    cdef Binding a, b
    for a, b in zip(old, new):
        if a._layer != b._layer or a.since_ns != b.since_ns or a.until_ns != b.until_ns or a.node != b.node:
            return False
        if not same(a.tags, b.tags):
            return False
    return True


def _layer_of(Binding b):
    return b._layer


def _order_of(Binding b):
    return b._layer, b.since_ns


cdef list _youngest(list bindings):
    """No more than HISTORY of each layer: those that ended first go."""
    cdef Binding b
    for layer in LAYERS:
        own = [b for b in bindings if b._layer == <int>layer]
        ended = sorted([b for b in own if b.until_ns], key=lambda b: b.until_ns)
        old = {id(b) for b in ended[: max(0, len(own) - HISTORY)]}
        if old:
            bindings = [b for b in bindings if id(b) not in old]
    return bindings


cdef bytes _masked(number, bits):
    """The first bits of an address as a number, the rest zero."""
    return (number >> (128 - bits) << (128 - bits)).to_bytes(16, "big")
