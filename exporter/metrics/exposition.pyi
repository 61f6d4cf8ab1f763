from collections.abc import Callable, Iterable, Mapping

from zerospan.exporter.metrics.red import Red
from zerospan.exporter.metrics.routes import Routes

Sample = tuple[Mapping[str, object], float]
Metric = tuple[str, str, str, Iterable[Sample]]

def families_text(metrics: Iterable[Metric], openmetrics: bool) -> str: ...
def number(value: float) -> str: ...

class Exposition:
    red: Red
    routes: Routes | None
    def __init__(
        self,
        red: Red,
        routes: Routes | None = None,
        service_names: Callable[[], Mapping[int, str]] | None = None,
    ) -> None: ...
    def render(self, openmetrics: bool = False, extra: Iterable[Metric] = ()) -> bytes: ...
