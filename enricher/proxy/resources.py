"""Which tags a Resource gets: finds whom it speaks of in the TagStore, remembers resources that it saw before.

Wrong tags are worse than none: what the resource itself says of pod, namespace, node or container contradicts what an
address or a host's name led to -> nothing is added; the connection's address counts only for
resources that name nobody.
Not thread-safe: one loop owns it. Protobuf and JSON differ by their `Codec`.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from zerospan.enricher import keys
from zerospan.enricher.names import SERVICE_NAME
from zerospan.enricher.proxy.config import Identity
from zerospan.enricher.proxy.rewrite import attributes, key_value
from zerospan.enricher.store import TagStore
from zerospan.enricher.tagset import TagSet

Attribute = tuple[str, tuple[str, ...], int, int]  # key, texts, and its place (whose meaning is the codec's)
RECHECK_S = 1.0  # a binding may end at a time that was said before: no revision tells of that
ENTRY_BYTES = 800  # of an entry beside its bytes, with some candidates (measured by tracemalloc: 500 to 700)
SOME, CANDIDATE_BYTES = 4, 120  # of each further one, beside its key
CANDIDATES_MAX = 64  # of a resource; a host has some addresses
UNKNOWN_SERVICE = "unknown_service"  # the SDKs' word for a name that nobody gave (resource conventions, service.name)
STRONG = ("container.id", "k8s.pod.uid")  # no two things ever have the same
STATED = ("container.id", "k8s.pod.uid", "k8s.pod.name", "k8s.namespace.name", "k8s.node.name", "k8s.cluster.name")
CONNECTION = "connection"


class Codec(Protocol):
    """How a resource is written."""

    def read(self, resource: bytes) -> list[Attribute]:
        """Its attributes. Raises ValueError."""

    def write(self, resource: bytes, without: Sequence[Attribute], more: dict[str, str]) -> bytes:
        """The resource without some of its attributes and with more."""


class Protobuf:
    """An encoded Resource; places are bytes."""

    def read(self, resource: bytes) -> list[Attribute]:
        return attributes(resource)

    def write(self, resource: bytes, without: Sequence[Attribute], more: dict[str, str]) -> bytes:
        parts, at = [], 0
        for _, _, start, end in without:
            parts.append(resource[at:start])
            at = end
        parts.append(resource[at:])
        parts += [key_value(key, value) for key, value in more.items()]
        return b"".join(parts)


class ResourceStats(msgspec.Struct):
    """What became of the resources; a resource is counted each time it comes."""

    enriched: int = 0  # got a tag
    known: int = 0  # found in the store, but had all tags
    unknown: int = 0  # says who it is, but the store does not know of it
    contradicted: int = 0  # what was found is not what the resource says of itself
    anonymous: int = 0  # says nothing by which it could be found
    cached: int = 0  # of all these, those that were remembered
    cache_bytes: int = 0


class _Entry:
    """What is known of one resource. `outcome`: the counter of ResourceStats that it counts as."""

    __slots__ = ("at", "attributes", "candidates", "new", "outcome", "revision", "tags")

    def __init__(self, attributes: list[Attribute] | None, candidates: list[tuple[bytes, bool]]) -> None:
        self.attributes = attributes  # None: read them again if they are needed (they are large)
        self.candidates = candidates  # store keys in order; and whether the key is beyond doubt
        self.tags: TagSet | None = None
        self.new: bytes | None = None
        self.outcome = ""
        self.revision = -1
        self.at = 0.0


_Name = tuple[type[Codec], bytes, bytes]  # peer, resource


class Resources:
    """Answers for each resource of each request."""

    def __init__(
        self, store: TagStore, associate: Sequence[Identity], *, overwrite: bool = False, cache_bytes: int = 16 << 20
    ) -> None:
        self.stats = ResourceStats()
        self._store = store
        self._associate = [name for name in associate if name != CONNECTION]
        self._connection = CONNECTION in associate
        self._overwrite = overwrite
        self._limit = cache_bytes // 2
        self._young: dict[_Name, _Entry] = {}  # two generations: what is used moves up
        self._old: dict[_Name, _Entry] = {}
        self._young_bytes = self._old_bytes = 0

    def replace(self, resource: bytes, peer: bytes, codec: Codec) -> bytes | None:
        """The resource with its tags; None: as it is. peer: 16 bytes of the connection's address, or empty. Raises
        ValueError where the codec does.
        """
        name = (type(codec), peer, resource)
        entry = self._young.get(name)
        if entry is None:
            entry = self._old.get(name)
            if entry is not None:
                self._keep(name, entry)
        if entry is not None:
            self.stats.cached += 1
            if entry.revision != self._store.revision or time.monotonic() - entry.at > RECHECK_S:
                before = len(entry.new or b"")
                self._decide(entry, resource, codec)
                self._grown(name, entry, len(entry.new or b"") - before)
        else:
            found = codec.read(resource)
            entry = _Entry(found, self._candidates(found, peer))
            self._decide(entry, resource, codec)
            self._keep(name, entry)
        setattr(self.stats, entry.outcome, getattr(self.stats, entry.outcome) + 1)
        return entry.new

    def _decide(self, entry: _Entry, resource: bytes, codec: Codec) -> None:
        """Asks the store (again), and writes the resource if the answer is another one than before."""
        entry.revision, entry.at = self._store.revision, time.monotonic()
        first = not entry.outcome
        tags, contradicted = None, False
        stated: dict[str, str] | None = None
        for key, strong in entry.candidates:
            tags = self._store.find(key)
            if tags is None or strong:
                if tags is not None:
                    break
                continue
            if stated is None:
                entry.attributes = entry.attributes if entry.attributes is not None else codec.read(resource)
                stated = {name: texts[0] for name, texts, _, _ in entry.attributes if texts and name in STATED}
            if not _contradicts(stated, tags):
                break
            contradicted, tags = True, None
        if first or tags is not entry.tags or tags is None:
            entry.tags = tags
            if tags is None:
                entry.new = None
                entry.outcome = "contradicted" if contradicted else "unknown" if entry.candidates else "anonymous"
            else:
                found = entry.attributes if entry.attributes is not None else codec.read(resource)
                entry.new = self._write(resource, found, tags, codec)
                entry.outcome = "known" if entry.new is None else "enriched"
        entry.attributes = None

    def _write(self, resource: bytes, found: list[Attribute], tags: TagSet, codec: Codec) -> bytes | None:
        more = tags.tags()
        without = []
        for attribute in found:
            name, texts, _, _ = attribute
            if name not in more:
                continue
            unnamed = name == SERVICE_NAME and bool(texts) and texts[0].startswith(UNKNOWN_SERVICE)
            if (self._overwrite or unnamed) and texts != (more[name],):
                without.append(attribute)
        gone = {id(attribute) for attribute in without}
        for attribute in found:
            if id(attribute) not in gone:
                more.pop(attribute[0], None)
        return codec.write(resource, without, more) if more or without else None

    def _candidates(self, found: list[Attribute], peer: bytes) -> list[tuple[bytes, bool]]:
        """Keys to ask the store for, in the configured order."""
        said: dict[str, tuple[str, ...]] = {}
        for name, texts, _, _ in found:
            if name in IDENTITY and texts:
                said[name] = texts
        found_keys = (
            (key, name in STRONG)
            for name in self._associate
            for text in said.get(name, ())
            for key in _keys(name, text)
        )
        candidates = list(itertools.islice(found_keys, CANDIDATES_MAX))
        if not candidates and self._connection and peer and not _loopback(peer):
            candidates.append((keys.ADDRESS + peer, False))
        return candidates

    def _keep(self, name: _Name, entry: _Entry) -> None:
        size = _size(name, entry)
        if self._young_bytes + size > self._limit:
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = {}, 0
        if size <= self._limit:
            self._young[name] = entry
            self._young_bytes += size
        self.stats.cache_bytes = self._young_bytes + self._old_bytes

    def _grown(self, name: _Name, entry: _Entry, more: int) -> None:
        """What is kept has become larger, by tags that were not there before, or smaller."""
        if more and self._young.pop(name, None) is not None:
            self._young_bytes -= _size(name, entry) - more
            self._keep(name, entry)


IDENTITY = frozenset(Identity.__args__) - {CONNECTION}  # type: ignore[attr-defined]


def _size(name: _Name, entry: _Entry) -> int:
    more = sum([CANDIDATE_BYTES + len(key) for key, _ in entry.candidates[SOME:]])
    return ENTRY_BYTES + len(name[2]) + len(entry.new or b"") + more


def _keys(name: str, text: str) -> Iterator[bytes]:
    if not text:
        return
    if name == "container.id":
        yield keys.container(text)
    elif name == "k8s.pod.uid":
        yield keys.pod(text)
    elif name in ("k8s.node.name", "host.name", "host.id"):
        yield keys.node(text)
    else:
        try:
            address = keys.packed(text)
        except ValueError:
            return
        if not _loopback(address):
            yield keys.ADDRESS + address


def _loopback(address: bytes) -> bool:
    """127.0.0.0/8, ::1, and the addresses that are none: everyone's own."""
    return (
        address[:13] == bytes(10) + b"\xff\xff\x7f"
        or address[:15] == bytes(15)
        or address == bytes(10) + b"\xff\xff" + bytes(4)
    )


def _contradicts(stated: dict[str, str], tags: TagSet) -> bool:
    """Whether the resource says that it is another one than those tags'."""
    for name, text in stated.items():
        found = tags.get(name)
        if found and found != (text.rpartition("://")[2] if name == "container.id" else text):
            return True
    return False
