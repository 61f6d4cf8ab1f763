"""Claims: keys of nodes and Services. Several may claim one: an external address of a Service may be a node's own.

The lower rank wins, among equals the younger. Times as they are told: a claim holds since its object was made, or since
it won.
"""

from collections.abc import Mapping

import msgspec

from zerospan.enricher.source import Layer
from zerospan.enricher.store import TagStore
from zerospan.enricher.tagset import TagSet

NODE, SERVICE = 0, 1


class Claim(msgspec.Struct, gc=False):
    rank: int
    since_ns: int
    tags: TagSet
    node: str = ""


class Claims:
    """Not thread-safe: under the source's lock."""

    def __init__(self, store: TagStore, layer: Layer) -> None:
        self._store = store
        self._layer = layer
        self._claims: dict[bytes, dict[str, Claim]] = {}
        self._of: dict[str, tuple[bytes, ...]] = {}

    def set(self, owner: str, claims: Mapping[bytes, Claim]) -> None:
        """All that an owner claims from now on."""
        for key in self._of.get(owner, ()):
            if key not in claims:
                self._change(key, owner, None)
        for key, claim in claims.items():
            self._change(key, owner, claim)
        if claims:
            self._of[owner] = tuple(claims)
        else:
            self._of.pop(owner, None)

    def rebase(self, owner: str, tags: TagSet) -> None:
        """The same claims with other tags."""
        kept = {key: self._claims[key][owner] for key in self._of.get(owner, ())}
        self.set(owner, {key: Claim(c.rank, c.since_ns, tags, c.node) for key, c in kept.items()})

    def best(self, key: bytes) -> tuple[str, Claim] | None:
        """Who has a key."""
        all = self._claims.get(key)
        if not all:
            return None
        return min(all.items(), key=lambda item: (item[1].rank, -item[1].since_ns, item[0]))

    def _change(self, key: bytes, owner: str, claim: Claim | None) -> None:
        before = self.best(key)
        all = self._claims.setdefault(key, {})
        if claim is None:
            all.pop(owner, None)
        else:
            all[owner] = claim
        if not all:
            del self._claims[key]
        after = self.best(key)
        store, layer, now = self._store, self._layer, self._store.now()
        if after is None:
            if before is not None:
                store.end(key, layer=layer, at_ns=now, tags=before[1].tags)
            return
        since, tags, node = after[1].since_ns, after[1].tags, after[1].node
        if before is not None:
            held = store.held(key, layer, before[1].tags)
            if before[0] == after[0] and held is not None:
                since = held.since_ns
            elif before[0] != after[0]:
                store.end(key, layer=layer, at_ns=now, tags=before[1].tags)
                since = max(since, now)
        store.put(key, tags, layer=layer, since_ns=since, node=node)
