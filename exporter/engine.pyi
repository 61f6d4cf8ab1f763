from collections.abc import Collection, Mapping
from typing import Literal

from zerospan.exporter.link.shared import Shared
from zerospan.exporter.metrics.red import Red
from zerospan.exporter.metrics.routes import Routes
from zerospan.exporter.process import ProcessInfo
from zerospan.exporter.source.interfaces import Interface
from zerospan.exporter.tags.table import PeerTable

Signal = Literal["traces", "logs", "loki"]

class Processes:
    def told(self) -> list[tuple[int, ProcessInfo]]: ...
    def tgids(self) -> list[int]: ...
    def service_names(self) -> dict[int, str]: ...

class Interfaces:
    def set(
        self,
        netns_cookie: int,
        ifindex: int,
        name: str,
        netns: str,
        mac: str,
        kind: str,
        role: Literal["pod", "node", "tunnel"],
        inside: bool = False,
    ) -> None: ...
    def replace(self, table: Mapping[tuple[int, int], Interface]) -> None: ...
    def remove(self, netns_cookie: int, ifindex: int) -> None: ...
    def __len__(self) -> int: ...

class Hops:
    def import_remote(self, key: int, point: int, duration_ns: int) -> None: ...
    def export(self, key: int) -> list[tuple[int, int]]: ...
    def shares(self, key: int, total: int) -> dict[str, int]: ...

class Engine:
    records: int
    processes: Processes
    interfaces: Interfaces
    hops: Hops
    routes: Routes
    red: Red
    shared: Shared | None
    peers: PeerTable
    def __init__(
        self,
        source: object,
        describe: object,
        *,
        signals: Collection[str] = ("traces",),
        self_tgid: int = 0,
        mask: bool = True,
        timeout_s: float = 60.0,
        max_connections: int = 131072,
        max_open_bytes: int = ...,
        route_limit: int = 200,
        hold_s: float = 2.0,
        max_hold_s: float = 30.0,
        hold_bytes: int = ...,
        registry_bytes: int = ...,
        red: Red | None = None,
        batch_bytes: int = ...,
        flush_s: float = 1.0,
        honour_sampling: bool = True,
        sdk_client_spans: Literal["child", "omit"] = "child",
        shared: Shared | None = None,
        peers: PeerTable | None = None,
        network: ProcessInfo = ...,
        points_bytes: int = ...,
        hops_bytes: int = ...,
    ) -> None: ...
    def tick(self, now: int, wall_offset: int) -> list[tuple[Signal, memoryview, int]]: ...
    def refill(self, info: ProcessInfo) -> bool: ...
    def forget(self, tgids: Collection[int]) -> None: ...
    def settle(self, now: int) -> None: ...
    def lossy(self, now: int) -> None: ...
    def expire(self, now: int, idle_ns: int) -> None: ...
    def finish(self, now: int, wall_offset: int) -> list[tuple[Signal, memoryview, int]]: ...
    def counts(self) -> dict[str, int]: ...
    def ledger(self) -> dict[str, object]: ...
    def memory(self) -> dict[str, int]: ...
    def links(self) -> dict[str, int]: ...
