from zerospan.exporter.metrics.series import Table

SelfMetric = tuple[str, str, str, list[tuple[dict[str, str], float]]]

class Red:
    tables: list[Table]
    observed: int
    def __init__(
        self,
        *,
        max_series: int = 200_000,
        max_bytes: int = 33_554_432,
        ttl_s: float = 300,
        max_values: int = 100,
        body_sizes: bool = False,
        exemplars: bool = True,
    ) -> None: ...
    def target_info(self, proc: int, series: bytes, labels: bytes) -> None: ...
    def self_metrics(self) -> list[SelfMetric]: ...
