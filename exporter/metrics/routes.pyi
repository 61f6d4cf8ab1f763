from collections.abc import Mapping

from zerospan.exporter.metrics.red import SelfMetric

class Routes:
    limit: int
    max_words: int
    max_bytes: int
    bytes: int
    collapsed: int
    def __init__(self, *, limit: int = 200, max_words: int = 20, max_bytes: int = 8_388_608) -> None: ...
    def stats(self) -> dict[str, int]: ...
    def self_metrics(self, names: Mapping[int, str]) -> list[SelfMetric]: ...
