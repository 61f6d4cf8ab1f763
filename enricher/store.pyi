import ipaddress
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from zerospan.enricher.source import Layer
from zerospan.enricher.tagset import TagSet, TagSets

LOG: int  # changes remembered for those who resume
HISTORY: int  # bindings of one key and layer
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

class Binding:
    """A key's tags from since_ns to until_ns (Unix time; 0: still so). Never changed once it is in the store."""

    tags: TagSet
    since_ns: int
    until_ns: int
    node: str  # whose agents are told without asking
    @property
    def layer(self) -> Layer: ...

class Piece:
    """A stretch of time for which one resolved tag set holds. Never changed."""

    tags: TagSet
    since_ns: int
    until_ns: int  # 0: still so
    def __init__(self, tags: TagSet, since_ns: int, until_ns: int) -> None: ...

class TagStore:
    """clock: Unix time in ns, for tests. epoch: names this life of the store; revisions count within it."""

    sets: TagSets
    epoch: int
    revision: int  # one more for each changed key
    range_revision: int  # one more when ranges change: addresses that have no binding are not told by key
    refused: int  # keys that found no room
    evicted: int  # ended keys that left before keep_s
    keep_ns: int  # how long what has ended is kept

    def __init__(self, *, keep_s: float = 600, max_keys: int = 1 << 20, clock: Callable[[], int] = ...) -> None: ...
    def make(self, tags: Mapping[str, str], base: TagSet | None = None, shared: TagSet | None = None) -> TagSet:
        """The set of these tags; see TagSets.of."""

    def put(
        self,
        key: bytes,
        tags: TagSet,
        *,
        layer: Layer,
        since_ns: int,
        until_ns: int = 0,
        node: str = "",
    ) -> bool:
        """From since_ns on, this key has these tags. The layer's earlier binding of the key ends then; one of the same
        since_ns is corrected. until_ns: it has ended already. Returns whether anything changed.
        """

    def replace(self, key: bytes, pieces: Sequence[tuple[TagSet, int, int]], *, layer: Layer, node: str = "") -> bool:
        """All that the layer knows of a key from the first piece on: (tags, since_ns, until_ns) in the order of time,
        at least one, none over another. What it knew of earlier times stays, ended there. Returns whether anything
        changed.
        """

    def end(self, key: bytes, *, layer: Layer, at_ns: int = 0, tags: TagSet | None = None) -> bool:
        """The layer's open binding of the key has ended, at_ns or now. tags: only if it is this one (a late word of an
        old pod must not end what a new one has); then an end that is known already becomes earlier if this one is.
        Returns whether anything changed.
        """

    def held(self, key: bytes, layer: Layer, tags: TagSet | None = None) -> Binding | None:
        """The layer's latest binding of a key (to these tags); it may have ended. Not to be changed."""

    def now(self) -> int:
        """The store's clock: Unix time in ns."""

    def put_range(self, network: Network, tags: TagSet | None) -> None:
        """Tags of every address of a network that lie under what is known of the address itself; None: no longer."""

    def batch(self) -> AbstractContextManager[None]:
        """Puts and ends inside are told to listeners once, at the end."""

    def find(self, key: bytes, at_ns: int = 0) -> TagSet | None:
        """What the key was at that time (0: now); None if nothing is known."""

    def find_address(self, address: bytes, port: int = 0, protocol: int = 0, at_ns: int = 0) -> TagSet | None:
        """What an address (16 bytes) was; its port first, where a port has a meaning of its own."""

    def pieces(self, key: bytes) -> list[Piece]:
        """All that is known of a key, layers and ranges merged, in the order of time; no two overlap."""

    def keys(self) -> list[bytes]:
        """Every key of which anything is known, ranges left out."""

    def of_node(self, node: str) -> list[bytes]:
        """Keys that this node's agents are told without asking."""

    def node_of(self, key: bytes) -> set[str]:
        """The nodes whose agents are told of a key without asking."""

    def since(self, revision: int) -> list[bytes] | None:
        """Keys that changed after this revision of this epoch, each once; None: too long ago, take all again."""

    def listen(self, callback: Callable[[], None]) -> None:
        """callback() after each change or batch of changes, in the thread that made it; it must not block."""

    def sweep(self) -> None:
        """Lets go of what ended longer than keep_s ago, and of sets that nothing uses; every minute or so."""

    def counts(self) -> dict[str, int]:
        """Keys by their first letter, "sets" (those that many share), "ended" and "ranges"."""
