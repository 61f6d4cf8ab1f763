"""Tag sets: interned, immutable, with an id that is the hash of their content.

Equal content has the same id in every enricher, today and after a restart: agents keep what they have learnt. A set
stands on a base (a container's on its pod's, a pod's on its node's, a node's on its cloud's), so that what many share
stands once (this is what DeepFlow's SmartEncoding does with integers).
"""

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from operator import itemgetter
from sys import intern

import msgspec

FLAT_CACHE = 4096
SHAPES = 4096


class TagSet(msgspec.Struct, gc=False, eq=False):
    """Never changed; made by `TagSets.of`. 50,000 pods have 100,000 of them: the values lie in one text, the keys in a
    tuple that all sets with the same keys share, and what the pods of one workload have in common in `shared`.
    """

    id: int
    base: "TagSet | None"
    keys: tuple[str, ...]  # in order
    text: bytes  # the values in the keys' order, UTF-8, a NUL between
    shared: "TagSet | None"  # further own tags, under these; it has neither base nor shared

    @property
    def own(self) -> tuple[str, ...]:
        """Key, value, key, value...; keys in order, no value empty."""
        found: list[str] = []
        for pair in sorted(self.own_tags().items()):
            found += pair
        return tuple(found)

    def own_tags(self) -> dict[str, str]:
        """Its own tags, without those of its base."""
        return self._over(self.shared._over({}) if self.shared is not None else {})

    def apart_tags(self) -> dict[str, str]:
        """Its own tags without the shared ones."""
        return self._over({})

    def tags(self) -> dict[str, str]:
        """All tags, those of the bases included; what stands nearer to the thing itself wins."""
        found = self.base.tags() if self.base is not None else {}
        if self.shared is not None:
            self.shared._over(found)
        return self._over(found)

    def get(self, key: str, default: str = "") -> str:
        """One tag."""
        at: TagSet | None = self
        while at is not None:
            if key in at.keys:
                return at._values()[at.keys.index(key)]
            if at.shared is not None and key in at.shared.keys:
                return at.shared.get(key)
            at = at.base
        return default

    def _over(self, tags: dict[str, str]) -> dict[str, str]:
        tags.update(zip(self.keys, self._values(), strict=True))
        return tags

    def chain(self) -> "Iterable[TagSet]":
        """This set and its bases, the deepest first."""
        if self.base is not None:
            yield from self.base.chain()
        yield self

    def _values(self) -> list[str]:
        return self.text.decode("utf-8", "surrogatepass").split("\0") if self.keys else []

    def __repr__(self) -> str:
        return f"TagSet({self.id:016x}, {self.tags()})"


class _Shape(msgspec.Struct, gc=False):
    """What all sets with the same keys have in common."""

    keys: tuple[str, ...]
    pick: Callable[[Mapping[str, str]], tuple[str, ...]]
    head: bytes


def _shape(names: tuple[str, ...]) -> _Shape:
    keys = tuple(map(intern, sorted(names)))
    if len(keys) == 1:
        only = keys[0]
        return _Shape(keys, lambda tags: (tags[only],), only.encode("utf-8", "surrogatepass") + b"\1")
    pick: Callable[[Mapping[str, str]], tuple[str, ...]] = itemgetter(*keys) if keys else lambda tags: ()
    return _Shape(keys, pick, "\0".join(keys).encode("utf-8", "surrogatepass") + b"\1")


class TagSets:
    """The interner. Not thread-safe: the store's lock guards it."""

    def __init__(self) -> None:
        self._sets: dict[int, TagSet] = {}
        self._merged: dict[tuple[int, int], TagSet] = {}
        self._shapes: dict[tuple[str, ...], _Shape] = {}

    def __len__(self) -> int:
        return len(self._sets)

    def of(self, tags: Mapping[str, str], base: TagSet | None = None, shared: TagSet | None = None) -> TagSet:
        """The set of these tags on that base. Empty values are left out, a NUL in one becomes U+FFFD. shared: a
        set without a base whose tags are this one's, too; the same tags split otherwise are another set, so whoever
        makes a thing's set always splits alike. ValueError if two contents have one hash (2^-64 for each pair).
        """
        if "" in tags.values():
            tags = {key: value for key, value in tags.items() if value}
        names = tuple(tags)
        shape = self._shapes.get(names)
        if shape is None:
            if len(self._shapes) >= SHAPES:
                self._shapes.clear()
            shape = self._shapes[names] = _shape(names)
        values = shape.pick(tags)
        joined = "\0".join(values)
        if joined.count("\0") >= len(values) > 0:
            joined = "\0".join(value.replace("\0", "\ufffd") for value in values)
        text = joined.encode("utf-8", "surrogatepass")
        content = shape.head + text
        if base is not None or shared is not None:
            content += b"\0\1" + _id(base).to_bytes(8, "big") + _id(shared).to_bytes(8, "big")
        id = int.from_bytes(blake2b(content, digest_size=8).digest(), "big") or 1
        known = self._sets.get(id)
        if known is None:
            known = self._sets[id] = TagSet(id, base, shape.keys, text, shared)
        elif known.text != text or known.keys != shape.keys or _id(known.base) != _id(base):
            raise ValueError(f"two tag sets have the id {id:016x}")
        return known

    def over(self, top: TagSet, bottom: TagSet) -> TagSet:
        """One set of both; where both have a tag, the top's."""
        if top is bottom:
            return top
        known = self._merged.get((top.id, bottom.id))
        if known is None:
            if len(self._merged) >= FLAT_CACHE:
                self._merged.clear()
            known = self.of(bottom.tags() | top.tags())
            self._merged[top.id, bottom.id] = known
        return known

    def sweep(self, used: Iterable[TagSet]) -> int:
        """Forgets every set that is neither among these nor their base. Returns how many went."""
        before = len(self._sets)
        self._merged.clear()
        kept: dict[int, TagSet] = {}
        for top in used:
            at: TagSet | None = top
            while at is not None and at.id not in kept:
                kept[at.id] = at
                if at.shared is not None:
                    kept[at.shared.id] = at.shared
                at = at.base
        self._sets = kept
        return before - len(kept)


def _id(tags: TagSet | None) -> int:
    return tags.id if tags is not None else 0
