# cython: language_level=3, boundscheck=False, wraparound=False
"""PodBook: which keys of the store belong to which pod, and for how long. The API's and the kubelet's sources fill it.

What is deleted must be ended in the store under the very keys that it had, and never a newer pod's: the book
remembers a pod's tag set and its keys, nothing else (some 200 bytes). Whoever holds an address proves by its start
that the one before it has gone: see `_claim`. Compiled: it handles each pod of a list and each change.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t

from zerospan.enricher.store cimport Binding, TagStore
from zerospan.enricher.tagset cimport TagSet, same

cdef int64_t SECOND = 1_000_000_000
cdef enum:
    SHARED = 2048   # shared sets that are found by their dict
    ADDRESS = 1     # Record.had
    ENDPOINT = 2


@cython.final
cdef class ContainerFacts:
    """See book.pyi."""


@cython.final
cdef class PodFacts:
    """See book.pyi."""


@cython.final
@cython.no_gc
cdef class Record:
    """keys: the pod's uid first, then its addresses, then its containers. dies_ns: end of its grace period, 0: none.
    had: kinds of addresses that it has had.
    """


cdef inline bint _is_container(bytes key):
    return PyBytes_AS_STRING(key)[0] == c"c"


@cython.final
cdef class PodBook:
    """See book.pyi."""

    def __init__(self, TagStore store not None, int layer, member=None):
        self._store, self._layer, self._member = store, layer, member
        self._records, self._sets = {}, {}

    def __len__(self):
        return len(self._records)

    def __contains__(self, bytes key):
        return key in self._records

    def tags(self, bytes key):
        cdef Record record = self._records.get(key)
        return record.tags if record is not None else None

    def seen(self, PodFacts facts not None, TagSet base not None, int64_t dies_ns=0):
        with self._store.lock:
            self._seen(facts, base, dies_ns)

    def gone(self, bytes key, int64_t at_ns=0):
        cdef Record record = self._records.pop(key, None)
        if record is None:
            return
        at_ns = at_ns or self._store.now()
        if record.dies_ns:
            at_ns = min(at_ns, record.dies_ns)
        with self._store.lock:
            for each in record.keys:
                self._release(each, record.tags, max(at_ns, record.since_ns + 1))
        if self._member is not None:
            self._member(key, record.tags, None)

    def change(self, bytes key, drop, extra):
        cdef Record record = self._records.get(key)
        if record is None:
            return
        own = {name: value for name, value in record.tags.apart_tags().items() if not drop(name)}
        own.update(extra)
        with self._store.lock:
            self._remake(key, record, self._store.sets.of(own, record.tags.base, record.tags.shared))

    def rebase(self, str node, TagSet base not None):
        cdef Record record
        with self._store.lock:
            for key in self._store.of_node(node):
                record = self._records.get(key)
                if record is not None:
                    self._remake(key, record, self._store.sets.of(record.tags.apart_tags(), base, record.tags.shared))

    def pods(self):
        return list(self._records)

    def begin(self):
        self._generation += 1

    def whole(self, int64_t at_ns=0):
        cdef Record record
        cdef list left = []
        for key, record in self._records.items():
            if record.generation != self._generation:
                left.append(key)
        for key in left:
            self.gone(key, at_ns)

    # -- with the store's lock held

    cdef int _seen(self, PodFacts facts, TagSet base, int64_t dies_ns) except -1:
        cdef TagStore store = self._store
        cdef int layer = self._layer
        cdef bytes pod = facts.key
        cdef Record record = self._records.get(pod), made
        cdef Binding held
        cdef ContainerFacts each
        cdef TagSet tags, own, old = record.tags if record is not None else None
        cdef int64_t since = facts.since_ns, until, begun
        cdef str node = facts.node
        cdef bytes key
        cdef int kind, had = record.had if record is not None else 0
        if facts.until_ns and record is None:
            if facts.until_ns < store.now() - store.keep_ns:
                return 0  # nobody asks for it any more
            held = store.held_locked(pod, layer, None)
            if held is not None and held.until_ns:
                if held.until_ns > facts.until_ns:
                    self._end(facts, held.tags)
                return 0
        tags = store.sets.of(facts.tags, base, self._shared(facts.shared))
        cdef bint changed = old is None or not same(old, tags)
        if not changed:
            tags = old
        if record is not None:
            since = record.since_ns
        if changed:
            self.changes += store.put_locked(pod, tags, layer, since, 0, node)
        cdef list keys = [pod]
        for key in facts.uids:
            keys.append(key)
            # a static pod's own uid goes on with its next mirror pod: what the last one was is no news then
            if old is None or key not in record.keys or (changed and store.held_locked(key, layer, old) is not None):
                self.changes += store.put_locked(key, tags, layer, since, 0, node)
        if facts.address_since_ns:
            for key in facts.addresses:
                kind = ADDRESS if PyBytes_AS_STRING(key)[0] == c"a" else ENDPOINT
                had |= kind
                begun = facts.address_since_ns
                if record is not None and record.had & kind and key not in record.keys:
                    begun = max(begun, store.now())  # it had others before, all the time since its containers' start
                    if facts.until_ns and facts.until_ns <= begun:
                        continue
                keys.append(key)
                self._claim(key, old, tags, begun, node)
        for each in facts.containers:
            until = each.until_ns
            if until and until < store.now() - store.keep_ns:
                continue
            begun = each.since_ns or since
            own = store.sets.of(each.tags, tags, self._shared(each.shared))
            held = store.held_locked(each.key, layer, None)
            if held is not None and until and held.until_ns and held.until_ns <= until:
                until = held.until_ns
            self.changes += store.put_locked(each.key, own, layer, begun, until, node)
            if not until or not facts.until_ns:
                keys.append(each.key)
        if record is not None:
            for key in record.keys:
                if key not in keys and not (facts.until_ns and _is_container(key)):
                    self._release(key, record.tags, facts.until_ns or store.now())
        if facts.until_ns:
            self._records.pop(pod, None)
            for key in keys:
                if not _is_container(key):
                    self.changes += store.end_locked(key, layer, facts.until_ns, tags)
            if record is not None:
                for key in record.keys:
                    if _is_container(key):
                        self.changes += store.end_locked(key, layer, facts.until_ns, None)
            if old is not None and self._member is not None:
                self._member(pod, old, None)
            return 0
        made = Record.__new__(Record)
        made.tags, made.since_ns, made.dies_ns, made.node = tags, since, dies_ns, node
        made.generation, made.had = self._generation, had
        made.keys = tuple(keys)
        if record is not None and record.keys == made.keys:
            made.keys = record.keys
        self._records[pod] = made
        if changed and self._member is not None:
            self._member(pod, old, tags)
        return 0

    cdef TagSet _shared(self, dict tags):
        """Readers hand out the same dict again for the same thing: its set is found by it, at most SHARED are kept."""
        at = id(tags)
        known = self._sets.get(at)
        if known is None or (<tuple>known)[0] is not tags:
            if len(self._sets) >= SHARED:
                self._sets.clear()
            known = self._sets[at] = (tags, self._store.sets.of(tags))
        return (<tuple>known)[1]

    cdef int _remake(self, bytes key, Record record, TagSet new) except -1:
        cdef TagSet own, old = record.tags
        cdef TagStore store = self._store
        cdef Binding held
        cdef bytes each
        if same(new, old):
            return 0
        for each in record.keys:
            if _is_container(each):
                held = store.held_locked(each, self._layer, None)
                if held is not None:
                    own = store.sets.of(held.tags.apart_tags(), new, held.tags.shared)
                    self.changes += store.put_locked(each, own, self._layer, held.since_ns, held.until_ns, record.node)
            else:
                self._claim(each, old, new, record.since_ns, record.node)
        record.tags = new
        if self._member is not None:
            self._member(key, old, new)
        return 0

    cdef int _release(self, bytes key, TagSet tags, int64_t at_ns) except -1:
        self.changes += self._store.end_locked(key, self._layer, at_ns, None if _is_container(key) else tags)
        return 0

    cdef int _end(self, PodFacts facts, TagSet tags) except -1:
        cdef ContainerFacts each
        for key in (facts.key, *facts.uids, *facts.addresses):
            self.changes += self._store.end_locked(key, self._layer, facts.until_ns, tags)
        for each in facts.containers:
            self.changes += self._store.end_locked(each.key, self._layer, each.until_ns or facts.until_ns, None)
        return 0

    cdef int _claim(self, bytes key, TagSet old, TagSet new, int64_t since_ns, str node) except -1:
        """Puts a key that another pod may have had: an address belongs to one at a time.

        Within the second in which it went from one to the other (Kubernetes tells seconds only) it is nobody's.
        """
        cdef TagStore store = self._store
        cdef int layer = self._layer
        cdef Binding mine, last, held
        cdef int64_t until, second
        if old is not None:
            mine = store.held_locked(key, layer, old)
            if mine is not None:
                if mine.until_ns or not same(old, new):
                    last = store.held_locked(key, layer, None)
                    until = mine.until_ns if last is not None and last.since_ns > mine.since_ns else 0
                    self.changes += store.put_locked(key, new, layer, mine.since_ns, until, node)
                return 0
        held = store.held_locked(key, layer, None)
        if held is not None:
            if same(held.tags, new):
                since_ns = held.since_ns
            elif PyBytes_AS_STRING(key)[0] != c"u":
                second = since_ns - since_ns % SECOND
                if held.since_ns <= since_ns and (not held.until_ns or held.until_ns > second):
                    self.changes += store.end_locked(key, layer, second, held.tags)
                    since_ns = second + SECOND
        self.changes += store.put_locked(key, new, layer, since_ns, 0, node)
        return 0
