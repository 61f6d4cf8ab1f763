"""The enricher in one process with what follows it: a real store, whose words come at once or when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from zerospan.enricher import keys
from zerospan.enricher.client import ClientStats
from zerospan.enricher.source import Layer
from zerospan.enricher.store import TagStore
from zerospan.enricher.wire import tags_pb2 as pb
from zerospan.exporter.config.model import Enricher
from zerospan.exporter.tags.follow import Follower
from zerospan.exporter.tags.own import Own
from zerospan.exporter.tags.table import PeerTable

NODE = "n1"
FOUND, NOTHING_KNOWN, NOT_ANSWERED, NOT_ASKED = range(4)  # tags/table.pxd, Finding


class Client:
    """In place of TagClient: the same methods, no network. What a store says is passed on by push()."""

    def __init__(self, store: TagStore, node: str, on_update: Callable[[Any], None]) -> None:
        self.address = "test"
        self.store = store
        self.node = node
        self.on_update = on_update
        self.wanted: set[bytes] = set()
        self.unanswered: set[bytes] = set()
        self.sent: set[int] = set()
        self.revision = 0
        self.connected = True
        self.in_sync = True
        self.asked: list[bytes] = []  # all that ever was
        self.anew = False

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def want(self, wanted: Iterable[bytes]) -> None:
        new = [key for key in wanted if key not in self.wanted]
        self.asked += new
        self.wanted.update(new)
        self.unanswered.update(new)

    def drop(self, dropped: Iterable[bytes]) -> None:
        for key in dropped:
            self.wanted.discard(key)
            self.unanswered.discard(key)

    def again(self) -> None:
        self.anew = True

    def stats(self) -> ClientStats:
        return ClientStats(
            connected=self.connected, in_sync=self.in_sync, epoch=self.store.epoch, revision=self.revision
        )

    def push(self, reset: bool = False) -> None:
        """What the service would say now."""
        reset, self.anew = reset or self.anew, False
        if reset:
            self.sent.clear()
            told = set(self.store.of_node(self.node)) | self.wanted
        else:
            changed = self.store.since(self.revision)
            assert changed is not None
            mine = set(self.store.of_node(self.node)) | self.wanted
            told = {key for key in changed if key in mine} | self.unanswered
        update = pb.TagUpdate(epoch=self.store.epoch, revision=self.store.revision, reset=reset, in_sync=self.in_sync)
        for key in sorted(told):
            binding = update.bindings.add(key=key)
            for piece in self.store.pieces(key):
                for s in piece.tags.chain():
                    if s.id not in self.sent:
                        self.sent.add(s.id)
                        update.sets.add(id=s.id, base=s.base.id if s.base else 0, tags=s.own)
                binding.pieces.add(set=piece.tags.id, since_ns=piece.since_ns, until_ns=piece.until_ns)
        self.unanswered.clear()
        self.revision = self.store.revision
        self.on_update(update)


class World:
    """A store, and an agent's side of it. at: Unix time in ns."""

    def __init__(self, at: int = 10**18, *, limit: int = 1 << 16, **config: Any) -> None:
        self.at = at
        self.now = 10**12  # CLOCK_MONOTONIC
        self.store = TagStore(clock=lambda: self.at)
        unused_s = config.get("unused_s", 600)
        self.table = PeerTable(True, limit, unused_s)
        self.client: Client
        self.follower = Follower(Enricher(address="h:1", **config), NODE, self.table, client=self._make)
        self.own = Own(self.follower, NODE)
        self.step()

    def _make(self, config: Enricher, node: str, on_update: Callable[[Any], None]) -> Client:
        self.client = Client(self.store, node, on_update)
        return self.client

    def put(self, key: bytes, tags: dict[str, str], since_ns: int = 1, node: str = "", until_ns: int = 0) -> None:
        made = self.store.make(tags)
        self.store.put(key, made, layer=Layer.KUBERNETES, since_ns=since_ns, node=node, until_ns=until_ns)

    def pod(self, ip: str, name: str, since_ns: int = 1, **more: str) -> None:
        self.put(keys.address(ip), {"k8s.pod.name": name, "service.name": name, **more}, since_ns)

    def turn(self, *, push: bool = True) -> None:
        """Questions go, answers come, the table takes them in."""
        self.step()
        self.follower.turn()
        if push and self.client.connected:
            self.client.push()
        self.step()
        self.follower.turn()

    def step(self, seconds: float = 0.01) -> None:
        self.now += int(seconds * 1e9)
        self.table.step(self.now)

    def find(self, ip: str, at: int = 0, port: int = 0, server: bool = True) -> tuple[str | None, int]:
        """Name of whose the address is, and why not."""
        whole = keys.packed(ip)
        return self.table.peer_at(whole, port, 6, at or self.at, server)
