"""/metrics of the enricher: its sources, its store, its subscribers; and target_info of every service instance.

prometheus-client renders the families; the lines of target_info, of which there may be very many, are made once per
tag set and kept. Built by `run.py`; `render` is called in the HTTP server's thread.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from zerospan import __version__
from zerospan.enricher import keys, names
from zerospan.enricher.service import ServiceStats
from zerospan.enricher.source import SourceStats
from zerospan.enricher.store import TagStore
from zerospan.enricher.tagset import TagSet
from zerospan.exporter.process import labels

KINDS = {
    keys.ADDRESS: "address",
    keys.ENDPOINT: "endpoint",
    keys.CONTAINER: "container",
    keys.POD: "pod",
    keys.NODE: "node",
    keys.PROCESS: "process",
}
EOF_LINE = b"# EOF\n"
Samples = Iterable[tuple[dict[str, str], float]]


class State(msgspec.Struct, kw_only=True):
    """What one scrape tells of."""

    in_sync: bool
    sources: Mapping[str, SourceStats]
    service: ServiceStats
    http: Mapping[str, int] = {}  # answers by status, and connections that got none
    upstream_refused: int = 0
    more: Iterable[tuple[str, str, str, Samples]] = ()  # counter or gauge, name, help, samples: of the proxy


class Exposition(Collector):
    """store, and what the rest of the enricher is doing; own: the node whose instances have target_info, "": all."""

    def __init__(self, store: TagStore, state: Callable[[], State], *, own: str = "", max_targets: int = 10000) -> None:
        self._store, self._state, self._own, self._max_targets = store, state, own, max_targets
        self._lines: dict[int, tuple[bytes, bytes]] = {}  # set -> job and instance, the line
        self._targets_over = 0
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self, openmetrics: bool) -> bytes:
        """The text of a scrape."""
        targets = self._targets(openmetrics)
        if openmetrics:
            text: bytes = generate_openmetrics(self._registry)  # type: ignore[no-untyped-call]
            return text.removesuffix(EOF_LINE) + targets + EOF_LINE
        return generate_latest(self._registry) + targets

    def collect(self) -> Iterator[Metric]:
        state = self._state()
        yield gauge("build_info", "Version of this enricher.", [({"version": __version__}, 1)])
        yield gauge(
            "in_sync", "Whether all sources have told all that they knew at their start.", [({}, state.in_sync)]
        )
        yield from self._sources(state.sources)
        yield from self._kept()
        yield from self._served(state.service)
        results = [({"result": result}, n) for result, n in sorted(state.http.items())]
        yield counter("http_requests", "HTTP answers by status, and connections that got none.", results)
        refused = "Keys that upstream was not asked for (upstream.max_keys)."
        yield counter("upstream_keys_refused", refused, [({}, state.upstream_refused)])
        for kind, name, text, samples in state.more:
            yield (counter if kind == "counter" else gauge)(name, text, samples)

    def _sources(self, sources: Mapping[str, SourceStats]) -> Iterator[Metric]:
        def of(get: Callable[[SourceStats], float]) -> list[tuple[dict[str, str], float]]:
            return [({"source": name}, get(s)) for name, s in sources.items()]

        entities = [
            ({"source": n, "kind": kind}, count) for n, s in sources.items() for kind, count in s.entities.items()
        ]
        yield gauge("entities", "Things known, by source and kind.", entities)
        yield gauge("source_in_sync", "Whether the source is in sync.", of(lambda s: s.in_sync))
        yield gauge("source_lag_seconds", "How old the source's knowledge may be (watch lag).", of(lambda s: s.lag_s))
        yield counter("source_changes", "Changes that the source told.", of(lambda s: s.changes))
        yield counter("source_errors", "Requests and readings of the source that failed.", of(lambda s: s.errors))
        yield counter("source_resyncs", "Lists made again: a watch expired or was cut.", of(lambda s: s.resyncs))
        lost = [({"source": n, "reason": r}, count) for n, s in sources.items() for r, count in s.dropped.items()]
        yield counter("source_dropped", "What the source left out or could not tell, by reason.", lost)

    def _kept(self) -> Iterator[Metric]:
        counts = self._store.counts()
        yield gauge(
            "keys", "Keys known, by kind.", [({"kind": name}, counts.get(chr(k[0]), 0)) for k, name in KINDS.items()]
        )
        yield gauge("keys_ended", "Keys that have ended and are kept for late spans.", [({}, counts["ended"])])
        yield gauge("sets", "Tag sets that many things share.", [({}, counts["sets"])])
        yield counter("changes", "Changed keys.", [({}, self._store.revision)])
        yield counter("keys_refused", "Keys that found no room (limits.max_keys).", [({}, self._store.refused)])
        yield counter("keys_evicted", "Ended keys that left early for want of room.", [({}, self._store.evicted)])
        over = "Service instances without target_info (limits.target_info)."
        yield gauge("targets_over_limit", over, [({}, self._targets_over)])

    def _served(self, s: ServiceStats) -> Iterator[Metric]:
        yield gauge("subscribers", "Streams of agents and enrichers that are open.", [({}, s.subscribers)])
        yield gauge("wanted_keys", "Keys that subscribers have asked for.", [({}, s.wanted)])
        yield gauge("pending_keys", "Keys that wait to be told, over all subscribers.", [({}, s.pending)])
        yield gauge("service_lag_seconds", "From the last change to its handing out, beyond 20 ms.", [({}, s.lag_s)])
        yield counter("streams", "Streams that were opened.", [({}, s.streams)])
        yield counter("streams_resumed", "Streams that needed no snapshot.", [({}, s.resumed)])
        yield counter("snapshots", "Snapshots told.", [({}, s.snapshots)])
        yield counter("messages", "Updates sent.", [({}, s.messages)])
        yield counter("sent_bytes", "Bytes of updates sent, before TLS.", [({}, s.bytes)])
        yield counter("resolved_keys", "Keys answered once, by Resolve.", [({}, s.resolved)])
        yield counter("calls_refused", "Calls without rights.", [({}, s.refused)])
        yield counter("streams_cut", "Streams ended by us.", [({"reason": r}, n) for r, n in sorted(s.cut.items())])

    # -- target_info

    def _targets(self, openmetrics: bool) -> bytes:
        store = self._store
        wanted = store.of_node(self._own) if self._own else store.keys()
        lines: dict[bytes, bytes] = {}  # job and instance -> line: a join wants one
        kept: dict[int, tuple[bytes, bytes]] = {}
        over = set()
        for key in wanted:
            if key[:1] not in (keys.CONTAINER, keys.PROCESS):
                continue
            tags = store.find(key)
            if tags is None:
                continue
            line = self._lines.get(tags.id) or target(tags)
            if line[0] and line[0] not in lines and len(lines) >= self._max_targets:
                over.add(line[0])
                continue
            kept[tags.id] = line
            if line[0]:
                lines.setdefault(*line)
        self._lines = kept
        self._targets_over = len(over)
        if not lines:
            return b""
        head = ("target", "info") if openmetrics else ("target_info", "gauge")
        help_ = f"# HELP {head[0]} Tags of a service instance.\n# TYPE {head[0]} {head[1]}\n".encode()
        return help_ + b"".join(lines.values())


def target(tags: TagSet) -> tuple[bytes, bytes]:
    """Job and instance, and the line of target_info; empty for what is no service instance."""
    all_ = tags.tags()
    service, instance = all_.get(names.SERVICE_NAME, ""), all_.get(names.SERVICE_INSTANCE_ID, "")
    if not service or not instance:
        return b"", b""
    series = labels.series(service, all_.get(names.SERVICE_NAMESPACE, ""), instance)
    more = labels.target_info(all_)
    return series, b"target_info{" + series + (b"," if more else b"") + more + b"} 1\n"


def gauge(name: str, text: str, samples: Samples) -> Metric:
    """zerospan_enricher_NAME."""
    return _filled(GaugeMetricFamily(f"zerospan_enricher_{name}", text), samples)


def counter(name: str, text: str, samples: Samples) -> Metric:
    """zerospan_enricher_NAME_total."""
    return _filled(CounterMetricFamily(f"zerospan_enricher_{name}", text), samples)


def _filled(family: Metric, samples: Samples) -> Metric:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    for given, value in samples:
        family.add_sample(name, given, float(value))
    return family
