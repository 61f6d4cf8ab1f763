"""The proxy's books as samples for the enricher's /metrics, which gives them their prefix and their text form."""

from collections.abc import Iterator
from typing import Literal

from zerospan.enricher.proxy.proxy import ProxyStats

Samples = list[tuple[dict[str, str], float]]
Family = tuple[Literal["counter", "gauge"], str, str, Samples]
OUTCOMES = ("enriched", "known", "unknown", "contradicted", "anonymous")


def families(stats: ProxyStats) -> Iterator[Family]:
    """(type, name, help, samples). For each signal received = forwarded + refused + in flight: requests and items."""
    signals = stats.signals.items()

    def of(field: str) -> Samples:
        return [({"signal": signal}, getattr(one, field)) for signal, one in signals]

    def by_reason(field: str) -> Samples:
        return [
            ({"signal": signal, "reason": reason}, n)
            for signal, one in signals
            for reason, n in sorted(getattr(one, field).items())
        ]

    yield "counter", "proxy_received_requests", "OTLP requests that came.", of("received")
    yield "counter", "proxy_forwarded_requests", "OTLP requests that the endpoint took.", of("forwarded")
    yield (
        "counter",
        "proxy_refused_requests",
        "OTLP requests that were refused; their senders know.",
        by_reason("refused"),
    )
    yield "gauge", "proxy_in_flight_requests", "OTLP requests that are not answered yet.", of("in_flight")
    items = "Spans, data points or log records"
    yield "counter", "proxy_received_items", f"{items} in requests that were read.", of("received_items")
    yield "counter", "proxy_forwarded_items", f"{items} that the endpoint took.", of("forwarded_items")
    yield (
        "counter",
        "proxy_refused_items",
        f"{items} that were refused; their senders know.",
        by_reason("refused_items"),
    )
    yield "gauge", "proxy_in_flight_items", f"{items} that are not answered yet.", of("in_flight_items")
    yield "counter", "proxy_retries", "Attempts at the endpoint after the first one.", of("retries")
    unheard = "Requests that the endpoint took after their sender had gone: it may send them again."
    yield "counter", "proxy_unheard_requests", unheard, of("unheard")
    outcomes: Samples = [({"outcome": name}, getattr(stats.resources, name)) for name in OUTCOMES]
    outcomes.append(({"outcome": "crowded"}, stats.crowded))
    yield "counter", "proxy_resources", "Resources by what became of them.", outcomes
    yield "counter", "proxy_resources_cached", "Of these, those that were remembered.", [({}, stats.resources.cached)]
    yield "gauge", "proxy_cache_bytes", "Memory of resources that are remembered.", [({}, stats.resources.cache_bytes)]
    yield "gauge", "proxy_held_bytes", "Memory of requests that are not answered yet.", [({}, stats.held_bytes)]
    yield "gauge", "proxy_queue_limit_bytes", "Most that it may be.", [({}, stats.limit_bytes)]
    yield "gauge", "proxy_http_connections", "HTTP connections of senders.", [({}, stats.connections)]
    turned_away = "HTTP connections beyond proxy.max_senders."
    yield "counter", "proxy_http_turned_away", turned_away, [({}, stats.turned_away)]
    yield "counter", "proxy_http_not_otlp", "HTTP requests that are not OTLP's.", [({}, stats.not_found)]
    failing = "Whether the last attempt at the endpoint did not work."
    yield "gauge", "proxy_endpoint_failing", failing, [({}, float(stats.failing))]
