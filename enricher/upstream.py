"""Follows an enricher of cluster scope: this node's keys, and what this node's agents ask for. A source like any other.

So a node needs no access to the API server, and each address is asked for by those nodes only that talk to it. What
upstream told stays, when it is away, as last known. Built by `run.py`; `want` and `drop` are called by the tag
service's loop.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable

from zerospan.enricher import keys
from zerospan.enricher.client import Security, TagClient
from zerospan.enricher.config.model import Upstream
from zerospan.enricher.source import Layer, SourceStats
from zerospan.enricher.store import TagStore
from zerospan.enricher.tagset import TagSet
from zerospan.enricher.wire import tags_pb2 as pb

LAYER = Layer.KUBERNETES  # what it tells has all of upstream's layers merged
ASKED = (keys.ADDRESS, keys.ENDPOINT, keys.CONTAINER, keys.POD)  # what is of one host only is known there
IN_FLIGHT_S = 5.0  # what upstream had sent before it knew that a key is of no more interest
DROPPED_MAX = 8192
Told = tuple[TagSet, int, int]


class UpstreamSource:
    """node: the name of this node."""

    name = "upstream"

    def __init__(self, store: TagStore, config: Upstream, node: str) -> None:
        self.refused = 0  # keys that it would ask for beyond config.max_keys
        self._store, self._node, self._max_keys = store, node, config.max_keys
        security = Security(
            tls=config.tls,
            ca=config.ca,
            cert=config.cert,
            key=config.key,
            server_name=config.server_name,
            token=config.token.reveal() if config.token is not None else "",
            token_file=config.token_file,
        )
        self._client = TagClient(config.address, node, security, self._update, on_connect=self._prune)
        self._lock = threading.Lock()  # between a key's being dropped and its being put; taken before the store's
        self._wanted: set[bytes] = set()  # changed in the service's loop only
        self._dropped: dict[bytes, float] = {}  # key -> when; written in the service's loop only
        self._forgotten: deque[bytes] = deque()  # from the service's loop: not told any more
        self._synced = False
        # the rest in the client's thread only
        self._sets: dict[int, TagSet] = {}
        self._told: dict[bytes, list[Told]] = {}
        self._stale: set[bytes] = set()  # not told again yet since a reset
        self._changes = 0

    def start(self) -> None:
        self._client.start()

    def stop(self) -> None:
        self._client.stop()

    def stats(self) -> SourceStats:
        s = self._client.stats()
        self._synced |= s.in_sync
        return SourceStats(
            in_sync=self._synced,
            entities={"key": len(self._told), "set": len(self._sets)},
            lag_s=s.silent_s,
            changes=self._changes,
            errors=s.failures + s.handler_errors,
            resyncs=s.resets,
            last_error=s.last_error,
        )

    def want(self, wanted: Iterable[bytes]) -> None:
        """This node's agents ask for these."""
        room = self._max_keys - len(self._wanted)
        new = [key for key in wanted if key not in self._wanted and key[:1] in ASKED]
        self.refused += max(0, len(new) - room)
        self._wanted.update(new[:room])
        self._client.want(new[:room])

    def drop(self, dropped: Iterable[bytes]) -> None:
        """They ask no more. What is known ends now: it would not be told of changes any more."""
        gone = [key for key in dropped if key in self._wanted]
        now = time.monotonic()
        with self._lock:  # what is told of them meanwhile is put before this, and ended here, or not at all
            if len(self._dropped) + len(gone) > DROPPED_MAX:
                self._dropped = {key: at for key, at in self._dropped.items() if now - at < IN_FLIGHT_S}
            self._dropped.update(dict.fromkeys(gone, now))
            self._wanted.difference_update(gone)
            with self._store.batch():
                for key in gone:
                    if self._node not in self._store.node_of(key):
                        self._store.end(key, layer=LAYER)
                        self._forgotten.append(key)  # else the same, told again, would be no change
        self._client.drop(gone)

    # -- in the client's thread

    def _update(self, update: pb.TagUpdate) -> None:
        store = self._store
        while self._forgotten:
            self._told.pop(self._forgotten.popleft(), None)
        if update.reset:
            self._stale = set(self._told)
        for s in update.sets:
            tags = dict(zip(s.tags[::2], s.tags[1::2], strict=True))
            self._sets[s.id] = store.make(tags, self._sets[s.base] if s.base else None)
        with store.batch():
            for b in update.bindings:
                self._stale.discard(b.key)
                self._put(b.key, [(self._sets[p.set], p.since_ns, p.until_ns) for p in b.pieces])
            if update.in_sync and self._stale:  # the snapshot is whole: what it did not hold is no more
                for key in self._stale - self._wanted:
                    self._put(key, [])
                self._stale = set()

    def _put(self, key: bytes, pieces: list[Told]) -> None:
        if pieces == self._told.get(key, []):
            return
        with self._lock:
            wanted = key in self._wanted
            own = self._node in self._store.node_of(key)
            lately = time.monotonic() - self._dropped.get(key, -IN_FLIGHT_S) < IN_FLIGHT_S
            if not wanted and lately and not own:
                return  # nobody follows it any more: it would never be corrected
            self._changes += 1
            if pieces:
                # Once its node's, it stays so while it is wanted: else its end would come with the last who asks.
                node = self._node if own or not wanted else ""
                self._store.replace(key, pieces, layer=LAYER, node=node)
                self._told[key] = pieces
            else:
                self._store.end(key, layer=LAYER)
                self._told.pop(key, None)

    def _prune(self) -> None:
        """A new stream: sets that nothing refers to are told again when they are needed."""
        used: dict[int, TagSet] = {}
        for pieces in self._told.values():
            for top, _, _ in pieces:
                for tags in top.chain():
                    used[tags.id] = tags
        self._sets = used
