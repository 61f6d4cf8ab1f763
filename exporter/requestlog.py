"""The request log for people and for pipes: one request a line, and RED figures of an interval.

Made of the OTLP log records that the agent exports: one a request (its SERVER end, or its CLIENT end where
the server is not on this host). Used by `zerospan watch`.
"""

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from zerospan.exporter.encode import otlp_json
from zerospan.exporter.terminal import cut, duration, paint, plain
from zerospan.exporter.tree import attributes_of

MAX_ENDPOINTS = 500  # rows kept for one interval; further ones share one
GROWTH = math.log(1.05)  # of the buckets for quantiles: at most 2.5 % off


class Request(msgspec.Struct, gc=False):
    """One request. All keys are always there: this is the object of `watch --json`."""

    time: str  # RFC 3339, UTC, of the end
    service: str
    kind: str  # server, client
    protocol: str
    operation: str | None  # method, command, query type
    target: str | None  # path and query, statement, name
    route: str | None  # http.route, url.template; collection
    status: str | None  # of the answer
    error: str | None  # error.type
    duration_ms: float
    trace_id: str
    span_id: str
    client: str | None  # address, of a server's line
    server: str | None  # name or address
    port: int | None  # of the server
    peer_service: str | None

    @property
    def endpoint(self) -> str:
        """What RED figures are kept for."""
        what = self.route if self.protocol != "dns" else None
        return " ".join(t for t in ("→" if self.kind == "client" else "", self.operation, what) if t) or self.protocol


def decode(payload: bytes | memoryview) -> list[Request]:
    """The requests of an encoded ExportLogsServiceRequest. ValueError if it is malformed."""
    return list(requests_of(msgspec.json.decode(otlp_json.logs_json(bytes(payload)))))


def requests_of(request: dict[str, Any]) -> Iterator[Request]:
    """The same of OTLP JSON: a line of `--logs-file`."""
    for resource in request.get("resourceLogs", ()):
        service = str(attributes_of(resource.get("resource", {})).get("service.name", "unknown_service"))
        for scope in resource.get("scopeLogs", ()):
            for record in scope.get("logRecords", ()):
                yield _request(service, record)


def _request(service: str, record: dict[str, Any]) -> Request:
    a = attributes_of(record)
    protocol = str(a.get("network.protocol.name", ""))
    path, query = a.get("url.path"), a.get("url.query")
    target = a.get("db.query.text") or a.get("dns.question.name") or (f"{path}?{query}" if query else path)
    status = _first(a, "http.response.status_code", "db.response.status_code", "zerospan.dns.response_code")
    ns = int(record.get("timeUnixNano", 0))
    return Request(
        time=datetime.fromtimestamp(ns // 1000 / 1e6, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        service=service,
        kind="client" if a.get("span.kind") == "SPAN_KIND_CLIENT" else "server",
        protocol=protocol,
        operation=_first(
            a,
            "http.request.method_original",
            "http.request.method",
            "db.operation.name",
            "zerospan.dns.question.type",
        ),
        target=target,
        route=_first(a, "http.route", "url.template", "db.collection.name", "db.namespace"),
        status=status,
        error=a.get("error.type"),
        duration_ms=int(a.get("zerospan.duration", 0)) / 1e6,
        trace_id=record.get("traceId", ""),
        span_id=record.get("spanId", ""),
        client=a.get("client.address"),
        server=a.get("server.address"),
        port=a.get("server.port"),
        peer_service=a.get("service.peer.name"),
    )


def _first(attributes: dict[str, Any], *keys: str) -> str | None:
    return next((str(attributes[key]) for key in keys if attributes.get(key) is not None), None)


def line(r: Request, *, width: int = 80, color: bool = False) -> str:
    """Time, service, kind, operation and target, status, duration, in `width` columns."""
    at = datetime.fromisoformat(r.time).astimezone().strftime("%H:%M:%S.%f")[:12]
    what = (r.target or r.route or "") if r.protocol != "http" else f"{r.operation} {r.target or r.route or ''}"
    if r.protocol == "dns":
        what = f"DNS {r.operation} {r.target}"
    elif r.protocol != "http" and not what.upper().startswith((r.operation or "").upper()):
        what = f"{r.operation} {what}"
    status = r.error or r.status or "ok"
    if r.error and r.status and r.status != r.error:
        status = r.status
    tone = "red" if r.error else "yellow" if r.protocol == "http" and status.startswith("4") else "green"
    room = width - 12 - 14 - 3 - 9 - 9 - 5
    return " ".join(
        (
            paint(at, "dim", color),
            paint(f"{cut(plain(r.service), 14):<14}", "bold", color),
            "cli" if r.kind == "client" else "srv",
            f"{cut(plain(what), room):<{room}}",
            paint(f"{cut(plain(status), 9):<9}", tone, color),
            f"{duration(r.duration_ms * 1e6):>9}",
        )
    )


class Endpoint:
    """Figures of one endpoint in one interval. Bounded: durations are counted in buckets."""

    def __init__(self) -> None:
        self.requests = self.errors = 0
        self.most = 0.0
        self._buckets: dict[int, int] = {}

    def add(self, r: Request) -> None:
        self.requests += 1
        self.errors += r.error is not None
        self.most = max(self.most, r.duration_ms)
        bucket = math.ceil(math.log(max(r.duration_ms, 1e-6)) / GROWTH)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def quantile(self, q: float) -> float:
        """Milliseconds, nearest rank."""
        left = math.ceil(q * self.requests)
        for bucket, n in sorted(self._buckets.items()):
            left -= n
            if left <= 0:
                return min(self.most, math.exp((bucket - 0.5) * GROWTH))
        return self.most


class Red:
    """Rate, errors and duration by service and endpoint since the last table()."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Endpoint] = {}
        self._since = time.monotonic()

    def add(self, r: Request) -> None:
        key = (r.service, r.endpoint)
        if key not in self._rows and len(self._rows) >= MAX_ENDPOINTS:
            key = ("(other)", "(other)")
        self._rows.setdefault(key, Endpoint()).add(r)

    def table(self, *, rows: int = 20, width: int = 80, color: bool = False) -> str:
        """The figures, the busiest first, and a new start. Empty if there was nothing."""
        now = time.monotonic()
        seconds, self._since = max(now - self._since, 1e-3), now
        ordered = sorted(self._rows.items(), key=lambda item: (-item[1].requests, item[0]))
        self._rows = {}
        if not ordered:
            return ""
        total, errors = sum(e.requests for _, e in ordered), sum(e.errors for _, e in ordered)
        title = f"── {seconds:.1f} s: {total} requests, {total / seconds:.1f}/s, {errors} errors "
        room = width - 14 - 7 - 6 - 3 * 9 - 6
        lines = [
            paint(title + "─" * max(0, width - len(title)), "dim", color),
            f"{'SERVICE':<14} {'ENDPOINT':<{room}} {'RATE/s':>7} {'ERR%':>6} {'p50':>9} {'p95':>9} {'MAX':>9}",
        ]
        for (service, endpoint), e in ordered[:rows]:
            share = f"{100 * e.errors / e.requests:6.1f}"
            cells = [f"{duration(ms * 1e6):>9}" for ms in (e.quantile(0.5), e.quantile(0.95), e.most)]
            rate = e.requests / seconds
            share = paint(share, "red", color) if e.errors else share
            lines.append(
                f"{cut(plain(service), 14):<14} {cut(plain(endpoint), room):<{room}}"
                f" {rate:>7.{1 if rate < 99_999 else 0}f} {share} {' '.join(cells)}"
            )
        if len(ordered) > rows:
            lines.append(f"… and {len(ordered) - rows} endpoints more")
        lines.append(paint("─" * width, "dim", color))
        return "\n".join(lines) + "\n"
