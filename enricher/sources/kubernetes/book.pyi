from collections.abc import Callable, Mapping

from zerospan.enricher.source import Layer
from zerospan.enricher.store import TagStore
from zerospan.enricher.tagset import TagSet

Member = Callable[[bytes, TagSet | None, TagSet | None], None]

class ContainerFacts:
    """One life of a container."""

    key: bytes
    since_ns: int  # 0: not known
    until_ns: int  # 0: still runs
    tags: dict[str, str]
    shared: dict[str, str]  # tags that all containers of the image have; not to be changed

class PodFacts:
    """since_ns: since when the uid means it. address_since_ns: since when its addresses are its own; 0: not yet."""

    key: bytes
    node: str
    tags: dict[str, str]
    since_ns: int
    address_since_ns: int
    until_ns: int  # 0: not ended
    addresses: list[bytes]  # ADDRESS and ENDPOINT keys
    uids: list[bytes]  # further POD keys: a static pod's own
    containers: list[ContainerFacts]
    shared: dict[str, str]  # tags that all pods of its owner have; not to be changed

class PodBook:
    """Not thread-safe: under its source's lock. member(key, old set, new set): a pod's have come, changed or gone."""

    def __init__(self, store: TagStore, layer: Layer, member: Member | None = None) -> None: ...
    changes: int  # of the store, made by this book

    def __len__(self) -> int: ...
    def __contains__(self, key: bytes) -> bool: ...
    def tags(self, key: bytes) -> TagSet | None:
        """A living pod's tag set."""

    def seen(self, facts: PodFacts, base: TagSet, dies_ns: int = 0) -> None:
        """A pod as it is now. With facts.until_ns it has ended: its addresses are free."""

    def gone(self, key: bytes, at_ns: int = 0) -> None:
        """A pod is no more, and its last state is not to be had: at_ns, now, or the end of its grace period."""

    def change(self, key: bytes, drop: Callable[[str], bool], extra: Mapping[str, str]) -> None:
        """Tags that come from elsewhere: those named by drop go, extra comes."""

    def rebase(self, node: str, base: TagSet) -> None:
        """A node's tags have changed."""

    def pods(self) -> list[bytes]:
        """Keys of the living pods."""

    def begin(self) -> None:
        """A new list begins: what is not `seen` until `whole` is gone."""

    def whole(self, at_ns: int = 0) -> None:
        """The list was whole."""
