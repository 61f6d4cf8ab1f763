"""What the enricher has told: tag sets and bindings, bounded in bytes.

Written by the follower's threads, one at a time (follow.py's lock); read by the drain thread while it describes
processes, without a lock: values are replaced whole and never changed (see find()).

A restarted enricher tells everything anew, and while its own sources are not in sync yet it may say that it knows
nothing of what it will know in a second. So a snapshot does not erase what was known: what it has not told until it is
in sync has gone, and only then.
"""

import contextlib
import time
from collections.abc import Callable, Container, Iterable
from typing import Any

from zerospan.exporter.process.stamp import stamp
from zerospan.exporter.tags.names import PEER_TAGS
from zerospan.exporter.tags.peer import PeerTags

SET_COST = 400  # bytes of a set beside its text, on 64 bits
TAG_COST = 66  # of a tag: its value's str object and two pointers; keys are shared
KEY_COST = 480  # of a binding: key, tuples, places in dicts
PIECE_COST = 160

Pieces = tuple[tuple[int, int, int], ...]  # set, since_ns, until_ns
Tell = Callable[[bytes, Any], None]


class Mirror:
    """tell: PeerTable.tell, for addresses. changed: called with each other key whose tags have changed. wanted: the
    keys that were asked for; only of these "nothing is known" is an answer to be kept.
    """

    def __init__(
        self,
        tell: Tell,
        changed: Callable[[bytes], None],
        wanted: Container[bytes],
        peer_tags: Iterable[str] = PEER_TAGS,
    ) -> None:
        self._wanted = wanted
        self.nbytes = 0
        self.in_sync = False
        self._tell = tell
        self._changed = changed
        self._peer_tags = tuple(peer_tags)
        self._sets: dict[int, tuple[int, tuple[str, ...]]] = {}  # id -> base, own tags
        self._stamps: dict[int, PeerTags] = {}
        self._bindings: dict[bytes, Pieces] = {}
        self._fresh: set[bytes] | None = None  # keys told since a snapshot began; None: there is none under way
        self._nothing: set[bytes] = set()  # of which it has said meanwhile that it knows nothing
        self._keys: dict[str, str] = {}  # names of tags, each once

    # -- the follower's side

    def update(self, update: Any) -> None:
        """A TagUpdate. Raises KeyError if it refers to a set that was not told: all has to be told anew."""
        if update.reset:
            self._fresh = set()
            self._nothing.clear()
            self.prune()  # from here on the stream tells every set anew; later it would miss those that it has told
        self.in_sync = update.in_sync
        for s in update.sets:
            self._put_set(s.id, s.base, s.tags)
        for b in update.bindings:
            pieces = tuple((p.set, p.since_ns, p.until_ns) for p in b.pieces)
            for at, _, _ in pieces:
                if at not in self._sets:
                    raise KeyError(f"set {at:016x} was not told")
            self._put(bytes(b.key), pieces)
        if update.in_sync and self._fresh is not None:
            fresh, self._fresh = self._fresh, None
            for key in self._bindings.keys() - fresh:
                if key in self._nothing:
                    self._put(key, ())  # an answer, which is not given again
                else:
                    self.forget(key)

    def forget(self, key: bytes) -> None:
        """A key that is of no more interest, or that the enricher no longer tells."""
        pieces = self._bindings.pop(key, None)
        if pieces is not None:
            self.nbytes -= KEY_COST + len(pieces) * PIECE_COST
            if self._fresh is not None:
                self._fresh.discard(key)
            self._tell(key, None)
            if pieces:
                self._changed(key)

    def prune(self) -> int:
        """Forgets sets that no binding refers to; how many. The stream that told them may refer to them further."""
        used: set[int] = set()
        for pieces in self._bindings.values():
            for at, _, _ in pieces:
                while at and at not in used:
                    used.add(at)
                    at = self._sets[at][0]
        unused = self._sets.keys() - used
        for at in unused:
            self.nbytes -= self._cost(*self._sets.pop(at))
            made = self._stamps.pop(at, None)
            self.nbytes -= made.nbytes if made is not None else 0
        if len(self._keys) > 4096:
            self._keys.clear()
        return len(unused)

    def oldest(self, n: int, kept: Callable[[bytes], bool]) -> list[bytes]:
        """The n keys that were told first and longest ago, but for those to be kept."""
        found: list[bytes] = []
        for key in self._bindings:
            if len(found) == n:
                break
            if not kept(key):
                found.append(key)
        return found

    def counts(self) -> dict[str, int]:
        """For the status: keys, of these such of which nothing is known, sets."""
        values = list(self._bindings.values())
        return {"keys": len(values), "negative": sum(not pieces for pieces in values), "sets": len(self._sets)}

    # -- any thread

    def known(self, key: bytes) -> bool:
        """Whether the enricher has answered: also that nothing is known."""
        return key in self._bindings

    def find(self, key: bytes, at_ns: int = 0) -> dict[str, str] | None:
        """The key's tags at that time (Unix ns; 0: now); None if none are known. A container's and a pod's ids are
        never given again: what they were last holds for what they have left behind.
        """
        at_ns = at_ns or time.time_ns()
        pieces = self._bindings.get(key, ())
        with contextlib.suppress(KeyError):  # it is being forgotten by another thread, and its set with it
            for at, since, until in pieces:
                if since <= at_ns and (not until or at_ns < until):
                    return self._flat(at)
            return self._flat(pieces[-1][0]) if pieces and key[:1] in (b"c", b"u") else None
        return None

    # -- inside

    def _put_set(self, at: int, base: int, tags: Iterable[str]) -> None:
        if at in self._sets:
            return
        if base and base not in self._sets:
            raise KeyError(f"set {at:016x} stands on {base:016x}, which was not told")
        own = list(tags)
        if len(own) % 2:
            raise ValueError(f"set {at:016x} has a key without a value")
        own[::2] = [self._keys.setdefault(key, key) for key in own[::2]]
        self._sets[at] = (base, tuple(own))
        self.nbytes += self._cost(base, tuple(own))

    def _put(self, key: bytes, pieces: Pieces) -> None:
        old = self._bindings.get(key)
        if not pieces and old and not self.in_sync and self._fresh is not None:
            self._nothing.add(key)
            return  # it has only begun to look: what was known stays until it is in sync
        if not pieces and key not in self._wanted:
            self.forget(key)  # this node's no longer, or too long ago
            return
        if self._fresh is not None:
            self._fresh.add(key)
            self._nothing.discard(key)
        if old is not None:
            self.nbytes -= KEY_COST + len(old) * PIECE_COST
            if old == pieces:
                self.nbytes += KEY_COST + len(old) * PIECE_COST
                return
        self._bindings.pop(key, None)  # the newest stands last
        self._bindings[key] = pieces
        self.nbytes += KEY_COST + len(pieces) * PIECE_COST
        if key[:1] in (b"a", b"e"):
            self._tell(key, tuple((self._stamp(at), since, until) for at, since, until in pieces))
        else:
            self._changed(key)

    def _stamp(self, at: int) -> PeerTags:
        made = self._stamps.get(at)
        if made is None:
            made = self._stamps[at] = PeerTags(stamp(self._flat(at), self._peer_tags))
            self.nbytes += made.nbytes
        return made

    def _flat(self, at: int) -> dict[str, str]:
        found: dict[str, str] = {}
        depth = 0
        while at and depth < 16:
            base, own = self._sets[at]
            found = dict(zip(own[::2], own[1::2], strict=True)) | found
            at, depth = base, depth + 1
        return found

    def _cost(self, base: int, own: tuple[str, ...]) -> int:
        return SET_COST + sum(TAG_COST + len(value) for value in own[1::2])
