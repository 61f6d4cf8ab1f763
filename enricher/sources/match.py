"""Rules of the static file for things that come and go: "a container called cart-* is of team shop".

Follows the store: what other sources say of a key is compared with the rules, and the tags of those that fit are put
over it, for the same stretches of time. A rule may not ask for what a rule sets, so that the outcome depends on other
sources only, and following one's own changes comes to an end. Used by static.py, in its thread.
"""

import re
from collections.abc import Mapping
from fnmatch import translate

from zerospan.enricher.source import Layer
from zerospan.enricher.store import HISTORY, TagStore

Tags = dict[str, str]


class Rule:
    """All of `match` (name of a tag -> glob, upper and lower case apart) must fit."""

    def __init__(self, match: Mapping[str, str], tags: Tags) -> None:
        self.match, self.tags = dict(match), tags
        self._globs = [(name, re.compile(translate(glob))) for name, glob in match.items()]

    def fits(self, tags: Mapping[str, str]) -> bool:
        return all(glob.fullmatch(tags.get(name, "")) and name in tags for name, glob in self._globs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rule) and self.match == other.match and self.tags == other.tags

    __hash__ = None  # type: ignore[assignment]


class Matcher:
    """Not thread-safe. The keys in `points` are static entries of their own and left alone."""

    def __init__(self, store: TagStore) -> None:
        self._store = store
        self.rules: list[Rule] = []
        self._since_ns = 0  # since when these rules hold
        self._revision = 0  # of the store, seen
        self._open: set[bytes] = set()  # keys over which tags of ours lie
        self._points: frozenset[bytes] = frozenset()

    def __len__(self) -> int:
        return len(self._open)

    def set(self, rules: list[Rule], points: frozenset[bytes], since_ns: int) -> int:
        """Other rules hold from now on (since_ns; 0: they always have); what was said before stays said of before.
        Returns the number of changes.
        """
        if rules == self.rules and points == self._points:
            return 0
        self.rules, self._points, self._since_ns = rules, points, since_ns
        self._open -= points
        return self._follow(self._store.keys() if rules else list(self._open))

    def follow(self) -> int:
        """Looks at what has changed in the store since the last call. Returns the number of changes made."""
        if not self.rules:
            return 0
        seen, self._revision = self._revision, self._store.revision
        changed = self._store.since(seen)
        return self._follow(list({*self._store.keys(), *self._open}) if changed is None else changed)

    def _follow(self, keys: list[bytes]) -> int:
        with self._store.batch():
            return sum(self._look(key) for key in keys if key not in self._points)

    def _look(self, key: bytes) -> int:
        store, changes, still = self._store, 0, False
        stretches = self._stretches(key)[-HISTORY:]  # what the store does not keep would be put again and again
        for tags, since_ns, until_ns in stretches:
            if tags:
                made = store.make(tags)
                changes += store.put(key, made, layer=Layer.STATIC, since_ns=since_ns, until_ns=until_ns)
                still = not until_ns
        if still:
            self._open.add(key)
        elif key in self._open:
            self._open.discard(key)
            if stretches and not stretches[-1][2]:  # nothing of the others is left there, or what no longer fits
                changes += store.end(key, layer=Layer.STATIC, at_ns=stretches[-1][1])
        return changes

    def _stretches(self, key: bytes) -> list[tuple[Tags, int, int]]:
        """What the rules say of a key and for which time; neighbours that say the same are one."""
        found: list[tuple[Tags, int, int]] = []
        for piece in self._store.pieces(key):
            since_ns = max(piece.since_ns, self._since_ns)
            if piece.until_ns and piece.until_ns <= since_ns:
                continue
            known = piece.tags.tags()
            tags: Tags = {}
            for rule in self.rules:
                if rule.fits(known):
                    tags |= rule.tags
            if found and found[-1][0] == tags and found[-1][2] == since_ns:
                since_ns = found.pop()[1]
            found.append((tags, since_ns, piece.until_ns))
        return found
