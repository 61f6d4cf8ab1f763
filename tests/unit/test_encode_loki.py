"""Loki's push body: JSON that Loki takes, streams in order, within its default limits."""

import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from encode_cases import CASES, SERVER_SPAN, Span, attributes, random_span
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from zerospan.exporter.encode import harness
from zerospan.exporter.encode.attributes import loki_name

LABELS = '"service_name":"shop","source":"zerospan"'
PROCESSES = [
    {"name": "shop", "labels": LABELS},
    {"name": "shop", "labels": LABELS},  # a second worker of the same service
    {"name": "pricing", "labels": '"service_name":"pricing","source":"zerospan"'},
]
LINE_LIMIT, METADATA_LIMIT, ENTRIES_LIMIT = 256 * 1024, 64 * 1024, 128  # Loki's defaults


def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({k for k, _ in pairs}) == len(pairs), "a JSON object names a member twice"
    return dict(pairs)


def streams(spans: list[Span]) -> list[dict[str, Any]]:
    body = json.loads(harness.encode(spans, PROCESSES)["loki"], object_pairs_hook=no_twins)
    assert body.keys() == {"streams"}
    found: list[dict[str, Any]] = body["streams"]
    return found


def text(v: object) -> str:
    """Structured metadata holds strings only."""
    if isinstance(v, bool):
        return "true" if v else "false"
    if isinstance(v, list):
        return str(v[0])
    return str(v)


def test_an_entry_carries_what_the_span_carries() -> None:
    r = random.Random(8)
    spans = CASES + [random_span(r) for _ in range(600)]
    spans = [s for s in spans if "[" not in str(s.get("domain", ""))]
    log = ExportLogsServiceRequest.FromString(harness.encode(spans, PROCESSES)["logs"])
    lines = {x.span_id: x for x in log.resource_logs[0].scope_logs[0].log_records}
    for span in spans:
        (stream,) = streams([span])
        ((ns, line, metadata),) = stream["values"]
        assert ns == str(span["end_ns"] + span.get("wall_offset", 0))
        assert stream["stream"] == {"service_name": "unknown_service", "source": "zerospan"}
        record = lines[span["span_id"].to_bytes(8, "big")]
        if span not in CASES:  # whose span ids are not unique
            assert line == record.body.string_value
            assert metadata["level"] == record.severity_text.lower()
        own = {
            "trace_id": span["trace_id"].hex(),
            "span_id": f"{span['span_id']:016x}",
            "level": metadata["level"],
            "duration_ns": str(max(0, span["end_ns"] - span["start_ns"])),
            "span_kind": "SPAN_KIND_CLIENT" if span["kind"] == 3 else "SPAN_KIND_SERVER",
        }
        assert metadata == own | {loki_name(k): text(v) for k, v in attributes(span).items()}


def test_limits_hold_for_the_largest_request() -> None:
    for filler in ("x" * 65535, "\x00" * 65535, "😀" * 10000, '"\\' * 30000):
        names = ("operation", "target", "query", "domain", "agent", "route", "request_id", "status_text")
        span = SERVER_SPAN | {name: filler for name in names} | {"status": 2, "code": -1, "truncated": 1}
        ((_, line, metadata),) = streams([span])[0]["values"]
        assert len(line.encode()) < LINE_LIMIT
        assert sum(len(k.encode()) + len(v.encode()) for k, v in metadata.items()) < METADATA_LIMIT
        assert len(metadata) <= ENTRIES_LIMIT


def test_a_stream_is_named_once_and_is_in_the_order_of_time() -> None:
    r = random.Random(9)
    for _ in range(30):
        spans = [
            SERVER_SPAN | {"proc": r.randrange(4), "end_ns": 10**9 + r.randrange(50), "span_id": i}
            for i in range(r.randrange(1, 120))
        ]
        found = streams(spans)
        names = [s["stream"]["service_name"] for s in found]
        assert len(names) == len(set(names))
        for stream in found:
            service = stream["stream"]["service_name"]
            mine = [s for s in spans if ["unknown_service", "shop", "shop", "pricing"][s["proc"]] == service]
            wanted = sorted(mine, key=lambda s: s["end_ns"])  # stable: equal times keep their order
            assert [(v[0], v[2]["span_id"]) for v in stream["values"]] == [
                (str(s["end_ns"] + s["wall_offset"]), f"{s['span_id']:016x}") for s in wanted
            ]
        assert sum(len(s["values"]) for s in found) == len(spans)


def test_names_are_those_that_loki_itself_would_make() -> None:
    assert loki_name("http.response.status_code") == "http_response_status_code"
    assert loki_name("http.request.header.x-request-id") == "http_request_header_x_request_id"
