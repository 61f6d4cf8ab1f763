"""What a source is: a thread or more that learns facts and puts them into the store.

Each source is a file (or folder) under sources/; `registry.py` makes those that the configuration asks for. A source
never raises out of its thread: what fails is counted, said once, tried again with back-off; what it knew stays, marked
stale by its lag.
"""

from enum import IntEnum
from typing import Protocol

import msgspec


class Layer(IntEnum):
    """Which source knows better, where several speak of one key: the higher wins each tag, the others fill in."""

    RANGE = 0  # CIDR of a static file: under everything
    CONNTRACK = 1
    CLOUD = 2
    OS = 3
    KUBELET = 4
    KUBERNETES = 5
    STATIC = 6  # an address or a name that a person wrote down


class SourceStats(msgspec.Struct, kw_only=True):
    """Of this moment; on /metrics."""

    in_sync: bool = False  # all that it knew of at its start is in the store
    entities: dict[str, int] = {}  # "pod": 50000, "service": 300...
    lag_s: float = 0.0  # since it last heard from its origin, or the age of what it last heard: what is worse
    changes: int = 0
    errors: int = 0
    resyncs: int = 0  # lists made again: watch expired, gone, cut
    dropped: dict[str, int] = {}  # reason: how often something was left out or could not be told
    last_error: str = ""


class Source(Protocol):
    """Life: made by sources/registry.py, start(), ..., stop(). start() returns at once; stop() within 2 s."""

    name: str

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def stats(self) -> SourceStats: ...
