"""Log records as OTLP, and the request line."""

import random
import sys
from pathlib import Path

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

sys.path.insert(0, str(Path(__file__).parent))
from encode_cases import (
    CASES,
    CLIENT,
    CLIENT_SPAN,
    DNS_SPAN,
    REDIS_SPAN,
    SERVER_SPAN,
    SQL_SPAN,
    TIMEOUT_SPAN,
    Span,
    attributes,
    random_span,
)

from zerospan import __version__
from zerospan.exporter.encode import harness

RESOURCE = ResourceMessage(
    attributes=[KeyValue(key="service.name", value=AnyValue(string_value="shop"))]
).SerializeToString()
PROCESSES = [{"name": "shop", "resource": RESOURCE, "labels": '"service_name":"shop"'}]


def records(spans: list[Span]) -> list[logs_pb2.LogRecord]:
    request = ExportLogsServiceRequest.FromString(harness.encode(spans, PROCESSES)["logs"])
    return list(request.resource_logs[0].scope_logs[0].log_records)


def line(span: Span) -> str:
    return records([span])[0].body.string_value


LINES = [
    (SERVER_SPAN, "GET /orders/77?full=? 200 12.3ms", 9),
    (SERVER_SPAN | {"query": "", "code": 503, "status": 2}, "GET /orders/77 503 12.3ms", 17),
    (SERVER_SPAN | {"query": "", "code": 404}, "GET /orders/77 404 12.3ms", 13),
    (CLIENT_SPAN | {"query": ""}, "GET /orders/77 404 12.3ms", 13),
    (TIMEOUT_SPAN, "GET /orders/77?full=? - 5000.0ms timeout", 17),
    (
        SERVER_SPAN | {"status": 2, "reason": 3, "query": ""},
        "GET /orders/77 200 12.3ms connection_closed",
        17,
    ),
    (SERVER_SPAN | {"code": 404, "status": 2, "reason": 2, "query": ""}, "GET /orders/77 404 12.3ms", 17),
    (SERVER_SPAN | {"code": -1, "reason": 5, "query": ""}, "GET /orders/77 - 12.3ms", 9),
    (SQL_SPAN, "SELECT orders 1.2ms 42P01", 17),
    (SQL_SPAN | {"status": 0, "status_text": ""}, "SELECT orders 1.2ms ok", 9),
    (SQL_SPAN | {"status": 0, "status_text": "", "reason": 5}, "SELECT orders 1.2ms -", 9),
    (REDIS_SPAN, "HGETALL 0 1.2ms ok", 9),
    (DNS_SPAN, "DNS AAAA pricing.shop.local 0.345ms NXDOMAIN", 13),
    (
        DNS_SPAN | {"status": 0, "code": 0, "status_text": ""},
        "DNS AAAA pricing.shop.local 0.345ms NOERROR",
        9,
    ),
    (SERVER_SPAN | {"end_ns": 0, "query": ""}, "GET /orders/77 200 0.000ms", 9),
]


@pytest.mark.parametrize(("span", "text", "severity"), LINES)
def test_the_line_and_its_severity(span: Span, text: str, severity: int) -> None:
    record = records([span])[0]
    assert record.body.string_value == text
    assert record.severity_number == severity
    assert record.severity_text == {9: "INFO", 13: "WARN", 17: "ERROR"}[severity]


def test_a_request_cannot_forge_a_second_line() -> None:
    forged = line(SERVER_SPAN | {"target": "/a\r\n2026-01-01 GET /admin 200\x1b[2J\x7f\x00"})
    assert forged.isprintable()
    assert forged.startswith("GET /a\ufffd\ufffd2026-01-01 GET /admin 200\ufffd[2J\ufffd\ufffd?full=? 200")


def duration(span: Span) -> int:
    return int(max(0, span["end_ns"] - span["start_ns"]))


def sdk_record(span: Span, body: str, severity: int) -> ReadableLogRecord:
    context = SpanContext(
        int.from_bytes(span["trace_id"], "big"),
        span["span_id"],
        is_remote=False,
        trace_flags=TraceFlags(span.get("trace_flags", 0)),
    )
    end = span["end_ns"] + span.get("wall_offset", 0)
    kind = "SPAN_KIND_CLIENT" if span["kind"] == CLIENT else "SPAN_KIND_SERVER"
    return ReadableLogRecord(
        LogRecord(
            timestamp=end,
            observed_timestamp=end,
            context=set_span_in_context(NonRecordingSpan(context)),
            severity_text={9: "INFO", 13: "WARN", 17: "ERROR"}[severity],
            severity_number=SeverityNumber(severity),
            body=body,
            attributes=attributes(span) | {"zerospan.duration": duration(span), "span.kind": kind},
            event_name="zerospan.request",
        ),
        Resource({"service.name": "shop"}),
        InstrumentationScope("zerospan", __version__),
    )


def ordered(request: ExportLogsServiceRequest) -> ExportLogsServiceRequest:
    """The order of attributes means nothing."""
    for record in request.resource_logs[0].scope_logs[0].log_records:
        pairs = sorted(record.attributes, key=lambda pair: pair.key)
        del record.attributes[:]
        record.attributes.extend(pairs)
    return request


def test_equal_to_what_the_sdk_encodes() -> None:
    spans = [span | {"proc": 1} for span, _, _ in LINES]
    ours = ExportLogsServiceRequest.FromString(harness.encode(spans, PROCESSES)["logs"])
    theirs = encode_logs([sdk_record(span, text, severity) for span, text, severity in LINES])
    assert ordered(ours) == ordered(theirs)


def test_any_record_is_valid_bounded_and_carries_the_attributes_of_its_span() -> None:
    r = random.Random(7)
    spans = CASES + [random_span(r) for _ in range(800)]
    for span, record in zip(spans, records(spans), strict=True):
        assert record.body.string_value.isprintable() or any(ord(c) > 127 for c in record.body.string_value)
        assert not any(ord(c) < 32 or ord(c) == 127 for c in record.body.string_value)
        assert len(record.body.string_value.encode()) <= 9216
        assert record.ByteSize() < 48 * 1024
        keys = [pair.key for pair in record.attributes]
        if b"[" not in (span.get("domain") or b"" if isinstance(span.get("domain", b""), bytes) else b""):
            assert set(keys) == set(attributes(span)) | {"zerospan.duration", "span.kind"}
        assert len(keys) == len(set(keys))
        assert record.trace_id == span["trace_id"]
        assert int.from_bytes(record.span_id, "big") == span["span_id"]
        assert record.time_unix_nano == span["end_ns"] + span.get("wall_offset", 0)
