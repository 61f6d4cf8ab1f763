from collections.abc import Iterable

from zerospan.exporter.metrics.exposition import Exposition, Metric
from zerospan.exporter.metrics.red import Red
from zerospan.exporter.metrics.routes import Routes

def labels(**values: str) -> bytes: ...

class Feeder:
    red: Red
    routes: Routes
    exposition: Exposition
    def __init__(
        self,
        *,
        routes: Routes | None = None,
        max_series: int = 200_000,
        max_bytes: int = 33_554_432,
        ttl_s: float = 300,
        max_values: int = 100,
        body_sizes: bool = False,
        exemplars: bool = True,
    ) -> None: ...
    def service_names(self) -> dict[int, str]: ...
    def process(
        self, name: str, instance: str = "host:1", *, hidden: bool = False, series: bytes | None = None
    ) -> int: ...
    def target_info(self, proc: int, labels: bytes) -> None: ...
    def observe(
        self,
        proc: int,
        kind: str = "server",
        proto: str = "http",
        *,
        peer: int = 0,
        peer_seen: bool = False,
        status: str = "unset",
        reason: str = "",
        code: int = -1,
        version: int = 0,
        duration_ns: int = 1_000_000,
        request_size: int = -1,
        response_size: int = -1,
        local: str = "127.0.0.1:8080",
        remote: str = "127.0.0.1:40000",
        trace_id: bytes = ...,
        span_id: int = 2,
        wall_ns: int = ...,
        times: int = 1,
        **strings: bytes,
    ) -> None: ...
    def tick(self, seconds: float, times: int = 1) -> None: ...
    def route(self, service: str, path: bytes, *, known: bool = False) -> bytes: ...
    def render(self, openmetrics: bool = False, extra: Iterable[Metric] = ()) -> bytes: ...
    def fill(self, n_series: int) -> int: ...
