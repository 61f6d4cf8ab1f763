"""The table of metric families: names, labels and buckets, each in one place, so that a rename is one line.

Names are OpenTelemetry's semantic conventions 1.44 in their Prometheus form, and those of Tempo's metrics
generator for what Grafana's Service Graph tab reads. A `Kind` is what one key stands for: a set of label
values with all counters and histograms that share it. The order of KINDS and of each label tuple is the
order in which red.pyx and graph.pyx fill keys.

Two families are ours because OpenTelemetry has no name for the server's side of a database or of a name
server: `zerospan_db_server_operation_duration_seconds` and `zerospan_dns_server_lookup_duration_seconds`.
Adding these requests to the client's families would count each request twice where both ends run here.
"""

from dataclasses import dataclass

OVERFLOW_VALUE = "AGGREGATED"
"""Stands for label values beyond the limit for a service (the word that Beyla uses for span names)."""

OVERFLOW_LABEL = 'otel_metric_overflow="true"'
"""The only label (besides constant ones) of the series that takes what found no room for its own."""

SOURCE = 'source="zerospan"'
"""Tells our trace-derived series from those that a Tempo generator makes of the same spans."""

HTTP_SECONDS = (
    "0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "0.25",
    "0.5", "0.75", "1.0", "2.5", "5.0", "7.5", "10.0",
)  # fmt: skip
DB_SECONDS = ("0.001", "0.005", "0.01", "0.05", "0.1", "0.5", "1.0", "5.0", "10.0")
SPAN_SECONDS = (
    "0.002", "0.004", "0.008", "0.016", "0.032", "0.064", "0.128",
    "0.256", "0.512", "1.024", "2.048", "4.096", "8.192", "16.384",
)  # fmt: skip
GRAPH_SECONDS = ("0.1", "0.2", "0.4", "0.8", "1.6", "3.2", "6.4", "12.8")
BODY_BYTES = ("0.0", "32.0", "64.0", "128.0", "256.0", "512.0", "1024.0", "2048.0", "4096.0", "8192.0")


@dataclass(frozen=True)
class Label:
    """A label; `capped`: remote parties choose its values, so their number is limited for each service."""

    name: str
    capped: bool = False


@dataclass(frozen=True)
class Counter:
    """A counter of its own, or (`count_of`) the number of observations in one of the kind's histograms."""

    name: str
    help: str
    count_of: int | None = None


@dataclass(frozen=True)
class Histogram:
    """A histogram. `unit`: "seconds" (observed in ns) or "bytes"; bounds are inclusive, as text for `le`."""

    name: str
    help: str
    bounds: tuple[str, ...]
    unit: str = "seconds"


@dataclass(frozen=True)
class Kind:
    """What one key stands for.

    process: the key begins with job and instance; constant: labels that never change, as text.
    """

    name: str
    labels: tuple[Label, ...]
    histograms: tuple[Histogram, ...]
    counters: tuple[Counter, ...] = ()
    process: bool = True
    constant: str = ""


HTTP_SERVER = Kind(
    "http_server",
    (
        Label("http_request_method"),
        Label("url_scheme"),
        Label("http_route"),  # limited by routes.pyx
        Label("http_response_status_code"),
        Label("error_type", capped=True),
        Label("network_protocol_version"),
    ),
    (Histogram("http_server_request_duration_seconds", "Duration of HTTP server requests.", HTTP_SECONDS),),
)
HTTP_CLIENT = Kind(
    "http_client",
    (
        Label("http_request_method"),
        Label("http_response_status_code"),
        Label("error_type", capped=True),
        Label("network_protocol_version"),
        Label("server_address", capped=True),
        Label("server_port", capped=True),
    ),
    (Histogram("http_client_request_duration_seconds", "Duration of HTTP client requests.", HTTP_SECONDS),),
)
DB_LABELS = (
    Label("db_system_name"),
    Label("db_operation_name", capped=True),
    Label("db_collection_name", capped=True),
    Label("db_namespace", capped=True),
    Label("db_response_status_code", capped=True),
    Label("error_type", capped=True),
)
DB_CLIENT = Kind(
    "db_client",
    (*DB_LABELS, Label("server_address", capped=True), Label("server_port", capped=True)),
    (Histogram("db_client_operation_duration_seconds", "Duration of database client operations.", DB_SECONDS),),
)
DB_SERVER = Kind(
    "db_server",
    DB_LABELS,
    (
        Histogram(
            "zerospan_db_server_operation_duration_seconds",
            "Duration of database operations as seen by the database.",
            DB_SECONDS,
        ),
    ),
)
DNS_LABELS = (Label("dns_question_name", capped=True), Label("error_type", capped=True))
DNS_CLIENT = Kind(
    "dns_client",
    DNS_LABELS,
    (Histogram("dns_lookup_duration_seconds", "Duration of DNS lookups.", HTTP_SECONDS),),
)
DNS_SERVER = Kind(
    "dns_server",
    DNS_LABELS,
    (
        Histogram(
            "zerospan_dns_server_lookup_duration_seconds",
            "Duration of DNS lookups as seen by the name server.",
            HTTP_SECONDS,
        ),
    ),
)
SPANS = Kind(
    "spanmetrics",
    (Label("service"), Label("span_name", capped=True), Label("span_kind"), Label("status_code")),
    (Histogram("traces_spanmetrics_latency", "Duration of spans in seconds.", SPAN_SECONDS),),
    (Counter("traces_spanmetrics_calls_total", "Number of spans.", count_of=0),),
    constant=SOURCE,
)
EDGES = Kind(
    "service_graph",
    (Label("client"), Label("server", capped=True), Label("connection_type")),
    (
        Histogram(
            "traces_service_graph_request_server_seconds",
            "Duration of requests as seen by the server.",
            GRAPH_SECONDS,
        ),
        Histogram(
            "traces_service_graph_request_client_seconds",
            "Duration of requests as seen by the client.",
            GRAPH_SECONDS,
        ),
    ),
    (
        Counter("traces_service_graph_request_total", "Requests between two nodes."),
        Counter("traces_service_graph_request_failed_total", "Failed requests between two nodes."),
    ),
    process=False,
    constant=SOURCE,
)


def body_sizes(side: str) -> tuple[Histogram, ...]:
    """The two optional histograms of HTTP body sizes. side: "server" or "client"."""
    return tuple(
        Histogram(
            f"http_{side}_{message}_body_size_bytes",
            f"Size of HTTP {side} {message} bodies.",
            BODY_BYTES,
            unit="bytes",
        )
        for message in ("request", "response")
    )


KINDS = (HTTP_SERVER, HTTP_CLIENT, DB_CLIENT, DB_SERVER, DNS_CLIENT, DNS_SERVER, SPANS, EDGES)
