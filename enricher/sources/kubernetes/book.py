"""PodBook: which keys of the store belong to which pod, and for how long. The API's and the kubelet's sources fill it.

What is deleted must be ended in the store under the very keys that it had, and never a newer pod's: the book
remembers a pod's tag set and its keys, nothing else (some 200 bytes). Whoever holds an address proves by its start
that the one before it has gone: see `_claim`.
"""

from collections.abc import Callable, Mapping

import msgspec

from zerospan.enricher.keys import CONTAINER, POD
from zerospan.enricher.source import Layer
from zerospan.enricher.sources.kubernetes.pods import PodFacts
from zerospan.enricher.store import TagStore
from zerospan.enricher.tagset import TagSet

SECOND = 1_000_000_000
SHARED = 2048
Member = Callable[[bytes, TagSet | None, Mapping[str, str] | None], None]


class Record(msgspec.Struct, gc=False):
    """keys: the pod's uid first, then its addresses, then its containers."""

    tags: TagSet
    since_ns: int
    dies_ns: int  # end of its grace period, 0: nobody deletes it
    node: str
    keys: tuple[bytes, ...]
    generation: int


def _nobody(key: bytes, old: TagSet | None, new: Mapping[str, str] | None) -> None:
    pass


class PodBook:
    """Not thread-safe: under its source's lock. member(key, old set, new tags): a pod's have come, changed or gone."""

    def __init__(self, store: TagStore, layer: Layer, member: Member = _nobody) -> None:
        self._store = store
        self._layer = layer
        self._member = member
        self._records: dict[bytes, Record] = {}
        self._generation = 0
        self._sets: dict[int, tuple[dict[str, str], TagSet]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: bytes) -> bool:
        return key in self._records

    def tags(self, key: bytes) -> TagSet | None:
        """A living pod's tag set."""
        record = self._records.get(key)
        return record.tags if record is not None else None

    def seen(self, facts: PodFacts, base: TagSet, dies_ns: int = 0) -> None:
        """A pod as it is now. With facts.until_ns it has ended: its addresses are free."""
        store, layer, pod = self._store, self._layer, facts.key
        record = self._records.get(pod)
        if facts.until_ns and record is None:
            if facts.until_ns < store.now() - store.keep_ns:
                return  # nobody asks for it any more
            if (known := store.held(facts.key, layer)) is not None and known.until_ns:
                if known.until_ns > facts.until_ns:
                    self._end(facts, known.tags)
                return
        tags = store.make(facts.tags, base, self._shared(facts.shared))
        since, node = facts.since_ns, facts.node
        old = record.tags if record is not None else None
        if record is None:
            store.put(pod, tags, layer=layer, since_ns=since, node=node)
        else:
            since = record.since_ns
            if tags.id != record.tags.id:
                store.put(pod, tags, layer=layer, since_ns=since, node=node)
        keys = [pod]
        for key in facts.uids:
            keys.append(key)
            store.put(key, tags, layer=layer, since_ns=since, node=node)
        if facts.address_since_ns:
            for key in facts.addresses:
                keys.append(key)
                self._claim(key, old, tags, facts.address_since_ns, node)
        for each in facts.containers:
            until = each.until_ns
            if until and until < store.now() - store.keep_ns:
                continue
            begun = each.since_ns or since
            own = store.make(each.tags, tags, self._shared(each.shared))
            held = store.held(each.key, layer)
            if held is not None and (until and held.until_ns and held.until_ns <= until):
                until = held.until_ns
            store.put(each.key, own, layer=layer, since_ns=begun, until_ns=until, node=node)
            if not until or not facts.until_ns:
                keys.append(each.key)
        if record is not None:
            for key in record.keys:
                if key not in keys and not (facts.until_ns and key[:1] == CONTAINER):
                    self._release(key, record.tags, facts.until_ns)
        if facts.until_ns:
            self._records.pop(facts.key, None)
            for key in keys:
                if key[:1] != CONTAINER:
                    store.end(key, layer=layer, at_ns=facts.until_ns, tags=tags)
            if record is not None:
                for key in record.keys:
                    if key[:1] == CONTAINER:
                        self._store.end(key, layer=layer, at_ns=facts.until_ns)
            if old is not None:
                self._member(facts.key, old, None)
            return
        made = Record(tags, since, dies_ns, node, tuple(keys), self._generation)
        if record is not None and record.keys == made.keys:
            made.keys = record.keys
        self._records[facts.key] = made
        if old is None or old.id != tags.id:
            self._member(facts.key, old, facts.shared | facts.tags)

    def gone(self, key: bytes, at_ns: int = 0) -> None:
        """A pod is no more, and its last state is not to be had: at_ns, now, or the end of its grace period."""
        record = self._records.pop(key, None)
        if record is None:
            return
        at = at_ns or self._store.now()
        if record.dies_ns:
            at = min(at, record.dies_ns)
        for each in record.keys:
            self._release(each, record.tags, max(at, record.since_ns + 1))
        self._member(key, record.tags, None)

    def change(self, key: bytes, drop: Callable[[str], bool], extra: Mapping[str, str]) -> None:
        """Tags that come from elsewhere: those named by drop go, extra comes."""
        record = self._records.get(key)
        if record is None:
            return
        own = {name: value for name, value in record.tags.apart_tags().items() if not drop(name)}
        self._remake(key, record, self._store.make(own | dict(extra), record.tags.base, record.tags.shared))

    def rebase(self, node: str, base: TagSet) -> None:
        """A node's tags have changed."""
        for key in self._store.of_node(node):
            record = self._records.get(key)
            if record is not None:
                self._remake(key, record, self._store.make(record.tags.apart_tags(), base, record.tags.shared))

    def pods(self) -> list[bytes]:
        return list(self._records)

    def begin(self) -> None:
        """A new list begins: what is not `seen` until `whole` is gone."""
        self._generation += 1

    def whole(self, at_ns: int = 0) -> None:
        for key in [key for key, r in self._records.items() if r.generation != self._generation]:
            self.gone(key, at_ns)

    # -- inside

    def _shared(self, tags: dict[str, str]) -> TagSet:
        """Readers hand out the same dict again for the same thing: its set is found by it, at most SHARED are kept."""
        known = self._sets.get(id(tags))
        if known is None or known[0] is not tags:
            if len(self._sets) >= SHARED:
                self._sets.clear()
            known = self._sets[id(tags)] = (tags, self._store.make(tags))
        return known[1]

    def _remake(self, key: bytes, record: Record, new: TagSet) -> None:
        old = record.tags
        if new.id == old.id:
            return
        store, layer = self._store, self._layer
        for each in record.keys:
            if each[:1] == CONTAINER:
                held = store.held(each, layer)
                if held is not None:
                    own = store.make(held.tags.apart_tags(), new, held.tags.shared)
                    store.put(each, own, layer=layer, since_ns=held.since_ns, until_ns=held.until_ns, node=record.node)
            else:
                self._claim(each, old, new, record.since_ns, record.node)
        record.tags = new
        self._member(key, old, new.own_tags())

    def _release(self, key: bytes, tags: TagSet, at_ns: int) -> None:
        self._store.end(key, layer=self._layer, at_ns=at_ns, tags=None if key[:1] == CONTAINER else tags)

    def _end(self, facts: PodFacts, tags: TagSet) -> None:
        for key in (facts.key, *facts.uids, *facts.addresses):
            self._store.end(key, layer=self._layer, at_ns=facts.until_ns, tags=tags)
        for each in facts.containers:
            self._store.end(each.key, layer=self._layer, at_ns=each.until_ns or facts.until_ns)

    def _claim(self, key: bytes, old: TagSet | None, new: TagSet, since_ns: int, node: str) -> None:
        """Puts a key that another pod may have had: an address belongs to one at a time.

        Within the second in which it went from one to the other (Kubernetes tells seconds only) it is nobody's.
        """
        store, layer = self._store, self._layer
        if old is not None:
            mine = store.held(key, layer, old)
            if mine is not None:
                if old.id != new.id or mine.until_ns:
                    last = store.held(key, layer)
                    until = mine.until_ns if last is not None and last.since_ns > mine.since_ns else 0
                    store.put(key, new, layer=layer, since_ns=mine.since_ns, until_ns=until, node=node)
                return
        held = store.held(key, layer)
        if held is not None and held.tags.id != new.id and key[:1] != POD:
            second = since_ns - since_ns % SECOND
            if held.since_ns <= since_ns and (not held.until_ns or held.until_ns > second):
                store.end(key, layer=layer, at_ns=second, tags=held.tags)
                since_ns = second + SECOND
        elif held is not None and held.tags.id == new.id:
            since_ns = held.since_ns
        store.put(key, new, layer=layer, since_ns=since_ns, node=node)
