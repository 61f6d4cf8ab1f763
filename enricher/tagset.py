"""Tag sets: interned, immutable, with an id that is the hash of their content.

Equal content has the same id in every enricher, today and after a restart: agents keep what they have learnt. A set
stands on a base (a container's on its pod's, a pod's on its node's, a node's on its cloud's), so that what many share
stands once (this is what DeepFlow's SmartEncoding does with integers).
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from sys import intern
from typing import Final

FLAT_CACHE = 4096


class TagSet:
    """own: key, value, key, value...; keys in order, no value empty. Never changed; made by `TagSets.of`."""

    __slots__ = ("base", "id", "own")

    def __init__(self, id: int, own: tuple[str, ...], base: "TagSet | None") -> None:
        self.id: Final = id
        self.own: Final = own
        self.base: Final = base

    def tags(self) -> dict[str, str]:
        """All tags, those of the bases included; what stands nearer to the thing itself wins."""
        found = self.base.tags() if self.base is not None else {}
        found.update(zip(self.own[::2], self.own[1::2], strict=True))
        return found

    def get(self, key: str, default: str = "") -> str:
        """One tag."""
        at: TagSet | None = self
        while at is not None:
            for i in range(0, len(at.own), 2):
                if at.own[i] == key:
                    return at.own[i + 1]
            at = at.base
        return default

    def chain(self) -> "Iterable[TagSet]":
        """This set and its bases, the deepest first."""
        if self.base is not None:
            yield from self.base.chain()
        yield self

    def __repr__(self) -> str:
        return f"TagSet({self.id:016x}, {self.tags()})"


class TagSets:
    """The interner. Not thread-safe: the store's lock guards it."""

    def __init__(self) -> None:
        self._sets: dict[int, TagSet] = {}
        self._merged: dict[tuple[int, int], TagSet] = {}

    def __len__(self) -> int:
        return len(self._sets)

    def of(self, tags: Mapping[str, str], base: TagSet | None = None) -> TagSet:
        """The set of these tags on that base. Empty values are left out; keys are interned (values that repeat are the
        caller's to intern). Raises ValueError if two contents have one hash (2^-64 for each pair).
        """
        own: list[str] = []
        for key in sorted(tags):
            if tags[key]:
                own += (intern(key), tags[key])
        digest = blake2b("\0".join(own).encode("utf-8", "surrogatepass"), digest_size=8)
        if base is not None:
            digest.update(b"\0\0" + base.id.to_bytes(8, "big"))
        id = int.from_bytes(digest.digest(), "big") or 1
        known = self._sets.get(id)
        made = tuple(own)
        if known is None:
            known = self._sets[id] = TagSet(id, made, base)
        elif known.own != made or (known.base.id if known.base else 0) != (base.id if base else 0):
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
        self._sets = {s.id: s for top in used for s in top.chain()}
        return before - len(self._sets)
