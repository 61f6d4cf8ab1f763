"""Follows the enricher: what it tells goes into the mirror and to the drain thread, and what that misses is asked for.

A thread of its own beside the client's: it asks, lets go what nobody uses, keeps to the bound of memory. The drain
thread never waits for it: queues go both ways. Made by the pipeline.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from zerospan.exporter.config.model import Enricher
from zerospan.exporter.config.tree import ConfigError
from zerospan.exporter.tags.mirror import Mirror
from zerospan.exporter.tags.table import PeerTable

if TYPE_CHECKING:
    from zerospan.enricher.client import Security

log = logging.getLogger(__name__)

TURN_S = 0.02  # between two looks at what is missing: far less than the hold
EVICT = 16  # when memory is short, this part of the keys goes at a time


class Follower:
    """config: enricher.*; node: this node's name. client: how to reach the enricher, for tests.

    Raises ConfigError without grpcio, or if a file of the configuration cannot be read.
    """

    def __init__(
        self, config: Enricher, node: str, table: PeerTable, *, client: Callable[..., Any] | None = None
    ) -> None:
        self.node = node
        self.table = table
        self._limit = config.cache_bytes
        self._lock = threading.Lock()  # of the mirror's writers
        self._changes: deque[bytes] = deque()
        self._wanted: set[bytes] = set()  # keys that were asked for
        self.mirror = Mirror(table.tell, self._changes.append, self._wanted, config.peer_tags)
        self._wants: deque[tuple[bytes, ...]] = deque()
        self._drops: deque[tuple[bytes, ...]] = deque()
        self._kept: set[bytes] = set()  # keys that described processes depend on
        self._evicted = 0  # keys that are no addresses
        self._resyncs = 0
        self._pruned = False  # sets are gone that the stream has told
        self._since_ns = time.time_ns()
        self._connected = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._client = (client or _client)(config, node, self._update)
        table.away = True

    def start(self) -> None:
        """Connects from now on; returns at once."""
        self._client.start()
        self._thread = threading.Thread(target=self._run, name="tags", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """May be called twice."""
        self._stopping.set()
        self._client.stop()
        if self._thread is not None:
            self._thread.join(2.0)

    # -- the drain thread's side

    def find(self, key: bytes) -> dict[str, str] | None:
        """The key's tags now."""
        return self.mirror.find(key)

    def answered(self, key: bytes) -> bool:
        """Whether the enricher has said something of the key, or that nothing is known."""
        return self.mirror.known(key)

    def want(self, keys: Iterable[bytes]) -> None:
        """To be told of these, and to keep what is told of them."""
        self._wants.append(tuple(keys))

    def drop(self, keys: Iterable[bytes]) -> None:
        """No process depends on these any more."""
        self._drops.append(tuple(keys))

    def changes(self) -> list[bytes]:
        """Keys, not of addresses, whose tags have changed since the last time."""
        found = []
        while self._changes:
            found.append(self._changes.popleft())
        return found

    # -- for people

    def status(self) -> dict[str, Any]:
        """Plain values, for the control socket and /metrics."""
        stats = self._client.stats()
        return {
            "address": self._client.address,
            "node": self.node,
            "connected": bool(stats.connected),
            "in_sync": bool(stats.in_sync and stats.connected),
            "since_unix_s": round(self._since_ns / 1e9, 3),
            "epoch": stats.epoch,
            "revision": stats.revision,
            "silent_s": round(stats.silent_s, 1),
            "last_error": stats.last_error,
            "memory_bytes": self.nbytes(),
            "memory_limit_bytes": self._limit,
            **self.mirror.counts(),
            "events": {
                "updates": stats.updates,
                "bindings": stats.bindings,
                "connects": stats.connections,
                "failures": stats.failures,
                "snapshots": stats.resets,
                "resyncs": self._resyncs,
                "asked": self.table.counts()["asked"],
                "ask_dropped": self.table.counts()["ask_dropped"],
                "evicted": self.table.counts()["evicted"] + self._evicted,
            },
            "unanswered": self.table.counts()["unanswered"],
        }

    def nbytes(self) -> int:
        """Memory of what was told, estimated to a tenth or so."""
        return self.mirror.nbytes + self.table.nbytes()

    # -- inside

    def _update(self, update: Any) -> None:
        """In the client's thread. An exception makes it ask for everything anew."""
        with self._lock:
            if update.reset:
                self._pruned = False
            elif self._pruned:
                return  # of the stream that is being ended; the next one begins anew
            try:
                self.mirror.update(update)
            except KeyError:
                self._resyncs += 1
                raise

    def _run(self) -> None:
        while not self._stopping.wait(TURN_S):
            try:
                self.turn()
            except Exception:
                log.exception("tags: a turn failed")
                self._stopping.wait(1.0)

    def turn(self) -> None:
        """One look at what is missing, unused, too much. For tests, too."""
        stats = self._client.stats()
        if stats.connected != self._connected:
            self._connected = stats.connected
            self._since_ns = time.time_ns()
        self.table.away = not stats.connected
        asks, gone = self.table.take()
        while self._wants:
            keys = self._wants.popleft()
            self._kept.update(keys)
            asks += keys
        while self._drops:
            keys = self._drops.popleft()
            self._kept.difference_update(keys)
            gone += keys
        if asks:
            self._wanted.update(asks)
            self._client.want(asks)
        if gone:
            again = set(asks)
            gone = [key for key in gone if key not in again]
            self._client.drop(gone)
            self._wanted.difference_update(gone)
            with self._lock:
                for key in gone:
                    self.mirror.forget(key)
        self._make_room()

    def _make_room(self) -> None:
        """What nobody refers to leaves, then the oldest. The enricher tells each set once a stream: so a new one."""
        if self.nbytes() <= self._limit or self.table.waits() or self._pruned:
            return  # what was told is on its way into the table: then it is known what leaves
        with self._lock:
            self._pruned = self.mirror.prune() > 0
        if self._pruned:
            self._client.again()
        if self.nbytes() <= self._limit - self._limit // EVICT:
            return
        n = max(self.mirror.counts()["keys"] // EVICT, 64)
        self.table.evict(min(n, self.table.n))
        with self._lock:
            others = self.mirror.oldest(n, lambda key: key in self._kept or key[:1] in (b"a", b"e"))
            for key in others:
                self.mirror.forget(key)
        self._evicted += len(others)
        if others:
            self._client.drop(others)
            self._wanted.difference_update(others)


def node_of(config: Enricher) -> str:
    """This node's name: configured, NODE_NAME, the host's."""
    return config.node or os.environ.get("NODE_NAME") or os.uname().nodename


def access(config: Enricher) -> "tuple[str, Security]":
    """The address as gRPC writes it, and how it is reached. Raises ConfigError without grpcio, or if a file of the
    configuration cannot be read.
    """
    try:
        from zerospan.enricher.client import Security
    except ImportError as e:
        raise ConfigError(
            [f"enricher.address: its client needs grpcio and protobuf ({e}); install `zerospan[grpc]`, or say `off`"]
        ) from e
    tls = config.tls
    security = Security(
        tls=tls.enabled,
        ca=tls.ca or "",
        cert=tls.cert or "",
        key=tls.key or "",
        server_name=tls.server_name or "",
        token=config.token.reveal() if config.token is not None else "",
        token_file=config.token_file or "",
    )
    try:
        security.metadata()
        for name in (security.ca, security.cert, security.key):
            if name:
                with open(name, "rb"):
                    pass
    except OSError as e:
        raise ConfigError([f"enricher: {e}; correct the path, or give the agent the right to read it"]) from e
    address = config.address
    if address.startswith("unix://"):
        address = "unix:" + address.removeprefix("unix://")
    return address, security


def _client(config: Enricher, node: str, on_update: Callable[[Any], None]) -> Any:
    address, security = access(config)
    from zerospan.enricher.client import TagClient

    return TagClient(address, node, security, on_update)
