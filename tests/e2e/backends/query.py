"""Questions to Tempo, Loki and Prometheus by their HTTP APIs, asked again until the answer is there.

Used by the end-to-end tests through `stack.Stack`, and alone against back ends that run elsewhere. What was
sent can be found only some seconds later (Tempo: when the trace was idle, Prometheus: at the next scrape), so
every method polls. Standard library only, so that tests share no code with what they test.
"""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

Json = dict[str, Any]
T = TypeVar("T")

WAIT_S = 30.0
REQUEST_TIMEOUT_S = 10.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 0.5

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no place on loopback


class NotFound(AssertionError):
    """The answer was not what was asked for in time; the message holds the question and the last answer."""


class BadQuery(ValueError):
    """The back end refused the question (status 400 or 422); asking again would not help."""


class LogLine(NamedTuple):
    """One line of Loki: stream labels, time (ns since the epoch), text, structured metadata."""

    labels: dict[str, str]
    ts_ns: int
    line: str
    metadata: dict[str, str]


class Span(NamedTuple):
    """One span of a trace as Tempo returns it. Ids in hex (`parent_id` is "" for a root), times in ns since
    the epoch, `kind` and `status` by OTLP's short names (SERVER, ERROR; UNSET where absent)."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    status: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    resource: dict[str, Any]

    @property
    def service(self) -> str:
        """`service.name` of the resource, "" if absent."""
        return str(self.resource.get("service.name", ""))


def request(url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
    """GET, or POST if there is a body. Raises HTTPError for a status of 400 and more, OSError otherwise."""
    outgoing = urllib.request.Request(url, data=body, headers=dict(headers or {}))
    with _opener.open(outgoing, timeout=REQUEST_TIMEOUT_S) as answer:
        content: bytes = answer.read()
    return content


def poll(fetch: Callable[[], T], until: Callable[[T], bool], *, what: str, wait_s: float = WAIT_S) -> T:
    """Calls `fetch` until `until` likes its answer; at least once, for at most `wait_s` seconds.

    Errors of the network and statuses such as 404 or 503 count as "not yet". Raises NotFound, BadQuery."""
    deadline = time.monotonic() + wait_s
    pause, last = FIRST_PAUSE_S, ""
    while True:
        try:
            answer = fetch()
            if until(answer):
                return answer
            last = json.dumps(answer, default=str)
        except urllib.error.HTTPError as error:
            text = error.read(2000).decode(errors="replace").strip()
            if error.code in (400, 422):
                raise BadQuery(f"{what}: status {error.code}: {text}") from error
            last = f"status {error.code}: {text}"
        except OSError as error:
            last = str(error)
        if time.monotonic() >= deadline:
            raise NotFound(f"{what}: not found within {wait_s:g} s; last answer: {last[:4000]}")
        time.sleep(pause)
        pause = min(pause * 1.5, LAST_PAUSE_S)


class Queries:
    """The query side of the three back ends, by their base URLs (no slash at the end)."""

    def __init__(self, tempo_url: str, loki_url: str, prometheus_url: str) -> None:
        self.tempo_url = tempo_url
        self.loki_url = loki_url
        self.prometheus_url = prometheus_url

    def traceql(
        self, query: str, *, at_least: int = 1, wait_s: float = WAIT_S, limit: int = 1000, spans: int = 100
    ) -> list[Json]:
        """Traces that match a TraceQL query: Tempo's search results, with `traceID` padded to 32 digits.

        Waits for `at_least` of them (0: asks once). `spans` bounds the matching spans in each `spanSets`.
        Without a time range Tempo asks its ingester, which keeps the last hour. Structure (`>>`) in a trace
        that came in pieces is seen only after `Stack.flush`."""

        def fetch() -> list[Json]:
            found: list[Json] = (
                self._get(self.tempo_url, "/api/search", q=query, limit=limit, spss=spans).get("traces") or []
            )
            for one in found:
                one["traceID"] = str(one["traceID"]).rjust(32, "0")  # Tempo strips leading zeros
            return found

        return poll(fetch, lambda found: len(found) >= at_least, what=f"TraceQL {query}", wait_s=wait_s)

    def trace(self, trace_id: str, *, spans: int = 1, wait_s: float = WAIT_S) -> Json:
        """One trace by its id in hex, once it has `spans` spans.

        OTLP's JSON (`{"resourceSpans": [...]}`), but with ids in base64."""

        def fetch() -> Json:
            # Version 1 of the API names the list `batches`.
            return {
                "resourceSpans": self._get(self.tempo_url, f"/api/traces/{trace_id}").get("batches") or []
            }

        return poll(
            fetch,
            lambda it: len(flatten(it)) >= spans,
            what=f"trace {trace_id} of {spans} spans",
            wait_s=wait_s,
        )

    def spans(self, trace_id: str, *, at_least: int = 1, wait_s: float = WAIT_S) -> list[Span]:
        """The spans of one trace by start time, once there are `at_least`."""
        found = flatten(self.trace(trace_id, spans=at_least, wait_s=wait_s))
        return sorted(found, key=lambda span: (span.start_ns, -span.end_ns))

    def promql(
        self,
        query: str,
        *,
        at_least: int = 1,
        wait_s: float = WAIT_S,
        until: Callable[[list[Json]], bool] | None = None,
    ) -> list[Json]:
        """An instant query now: Prometheus' result vector (`{"metric": {...}, "value": [seconds, "text"]}`).

        Waits for `at_least` series, and for `until(result)` if given (counters that still grow)."""

        def fetch() -> list[Json]:
            data = self._get(self.prometheus_url, "/api/v1/query", query=query)["data"]
            result: list[Json] = (
                data["result"]
                if data["resultType"] in ("vector", "matrix")
                else [{"metric": {}, "value": data["result"]}]
            )
            return result

        def enough(result: list[Json]) -> bool:
            return len(result) >= at_least and (until is None or until(result))

        return poll(fetch, enough, what=f"PromQL {query}", wait_s=wait_s)

    def exemplars(
        self, query: str, *, since_s: float = 600, at_least: int = 1, wait_s: float = WAIT_S
    ) -> list[Json]:
        """Exemplars of the series that a query selects, once `at_least` series have some.

        Each: `{"seriesLabels": {...}, "exemplars": [{"labels": {...}, "value": ..., "timestamp": ...}]}`."""

        def fetch() -> list[Json]:
            now = time.time()
            answer = self._get(
                self.prometheus_url, "/api/v1/query_exemplars", query=query, start=now - since_s, end=now + 60
            )
            data: list[Json] = answer["data"]
            return data

        return poll(fetch, lambda found: len(found) >= at_least, what=f"exemplars of {query}", wait_s=wait_s)

    def logql(
        self,
        query: str,
        since_s: float = 600,
        *,
        at_least: int = 1,
        wait_s: float = WAIT_S,
        limit: int = 5000,
    ) -> list[LogLine]:
        """Lines of the last `since_s` seconds that a LogQL query selects, oldest first."""

        def fetch() -> list[LogLine]:
            now = time.time_ns()
            answer = self._get(
                self.loki_url,
                "/loki/api/v1/query_range",
                # Keeps stream labels and structured metadata apart; otherwise Loki merges both into `stream`.
                headers={"X-Loki-Response-Encoding-Flags": "categorize-labels"},
                query=query,
                start=now - int(since_s * 1e9),
                end=now + 60_000_000_000,
                limit=limit,
                direction="forward",
            )
            if answer["data"]["resultType"] != "streams":
                raise BadQuery(f"LogQL {query}: a metric query; ask it with logql_metric")
            lines = [
                LogLine(
                    stream["stream"],
                    int(entry[0]),
                    entry[1],
                    entry[2].get("structuredMetadata", {}) if len(entry) > 2 else {},
                )
                for stream in answer["data"]["result"]
                for entry in stream["values"]
            ]
            return sorted(lines, key=lambda line: line.ts_ns)

        return poll(fetch, lambda lines: len(lines) >= at_least, what=f"LogQL {query}", wait_s=wait_s)

    def logql_metric(
        self,
        query: str,
        *,
        at_least: int = 1,
        wait_s: float = WAIT_S,
        until: Callable[[list[Json]], bool] | None = None,
    ) -> list[Json]:
        """An instant LogQL metric query (`sum(count_over_time(...))`): a vector as `promql` returns it."""

        def fetch() -> list[Json]:
            result: list[Json] = self._get(self.loki_url, "/loki/api/v1/query", query=query)["data"]["result"]
            return result

        def enough(result: list[Json]) -> bool:
            return len(result) >= at_least and (until is None or until(result))

        return poll(fetch, enough, what=f"LogQL {query}", wait_s=wait_s)

    @staticmethod
    def _get(
        base: str, path: str, *, headers: Mapping[str, str] | None = None, **arguments: str | int | float
    ) -> Json:
        url = f"{base}{path}?{urllib.parse.urlencode(arguments)}" if arguments else base + path
        answer: Json = json.loads(request(url, headers={"Accept": "application/json", **(headers or {})}))
        return answer


def flatten(trace: Json) -> list[Span]:
    """The spans of an OTLP JSON trace (`resourceSpans`), in the order in which they stand there."""
    spans = []
    for batch in trace["resourceSpans"]:
        resource = _attributes(batch.get("resource", {}))
        for scope in batch.get("scopeSpans", []):
            for span in scope.get("spans", []):
                spans.append(
                    Span(
                        trace_id=_hex(span["traceId"]),
                        span_id=_hex(span["spanId"]),
                        parent_id=_hex(span.get("parentSpanId", "")),
                        name=span.get("name", ""),
                        kind=str(span.get("kind", "SPAN_KIND_UNSPECIFIED")).removeprefix("SPAN_KIND_"),
                        status=str(span.get("status", {}).get("code", "STATUS_CODE_UNSET")).removeprefix(
                            "STATUS_CODE_"
                        ),
                        start_ns=int(span.get("startTimeUnixNano", 0)),
                        end_ns=int(span.get("endTimeUnixNano", 0)),
                        attributes=_attributes(span),
                        resource=resource,
                    )
                )
    return spans


def _hex(identifier: str) -> str:
    # Tempo's JSON is that of protobuf: bytes in base64 (and not in hex as OTLP/JSON has ids).
    return base64.b64decode(identifier).hex()


def _attributes(holder: Json) -> dict[str, Any]:
    return {pair["key"]: _value(pair.get("value", {})) for pair in holder.get("attributes", [])}


def _value(value: Json) -> Any:
    for kind, content in value.items():
        if kind == "intValue":
            return int(content)  # protobuf's JSON has 64-bit integers as text
        if kind == "arrayValue":
            return [_value(item) for item in content.get("values", [])]
        if kind == "kvlistValue":
            return _attributes({"attributes": content.get("values", [])})
        return content
    return None
