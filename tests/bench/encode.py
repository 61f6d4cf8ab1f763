"""What it costs to encode one span as OTLP protobuf: ours, the SDK's encoder, opentelemetry-proto (upb).

All three make the same span: the attributes of the other two are read back from what ours wrote. The best of
several rounds, since whatever else runs can only add.
"""

import time
from collections.abc import Callable

from google.protobuf.internal import api_implementation  # type: ignore[import-untyped]
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind
from opentelemetry.trace.status import Status

from zerospan.exporter.encode import harness

Value = str | int | float | bool
BATCH = 512  # the SDK's default max_export_batch_size

# nginx's answer to wrk: the span of the other measurements.
SPAN: dict[str, object] = {
    "proto": 1,
    "kind": 2,
    "status": 0,
    "key": 0x0123456789ABCDEF,
    "start_ns": 10**9,
    "first_ns": 10**9 + 30_000,
    "end_ns": 10**9 + 41_000,
    "tid": 4711,
    "code": 200,
    "request_size": 0,
    "response_size": 1024,
    "local_port": 18080,
    "remote_port": 40000,
    "transport": 6,
    "version": 11,
    "local_addr": "127.0.0.1",
    "remote_addr": "127.0.0.1",
    "trace_id": bytes(range(1, 17)),
    "span_id": 0xA1B2,
    "parent_id": 0xC3D4,
    "wall_offset": 1_763_000_000 * 10**9,
    "method": 1,
    "trace_flags": 1,
    "operation": "GET",
    "target": "/f.html",
    "domain": "127.0.0.1:18080",
    "route": "/f.html",
}


def attributes() -> dict[str, Value]:
    """Those that our encoder gives SPAN."""
    request = ExportTraceServiceRequest.FromString(harness.encode([SPAN])["traces"])
    span = request.resource_spans[0].scope_spans[0].spans[0]
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in span.attributes}


def sdk_span(found: dict[str, Value]) -> ReadableSpan:
    """SPAN as a program that uses the SDK would hand it to its exporter."""
    trace_id = 0x0102030405060708090A0B0C0D0E0F10
    return ReadableSpan(
        name="GET /f.html",
        context=SpanContext(trace_id, 0xA1B2, is_remote=False),
        parent=SpanContext(trace_id, 0xC3D4, is_remote=False),
        resource=Resource({"service.name": "nginx"}),
        attributes=found,
        kind=SpanKind.SERVER,
        status=Status(),
        start_time=1_763_000_001 * 10**9,
        end_time=1_763_000_001 * 10**9 + 41_000,
        instrumentation_scope=InstrumentationScope("zerospan", "1"),
    )


def any_value(value: Value) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(string_value=value)


def upb_batch(found: dict[str, Value]) -> bytes:
    """BATCH spans as objects of opentelemetry-proto, made and serialized: the least that Python can do."""
    spans = [
        SpanMessage(
            trace_id=b"\1" * 16,
            span_id=b"\2" * 8,
            parent_span_id=b"\3" * 8,
            flags=0x101,
            name="GET /f.html",
            kind=2,  # type: ignore[arg-type]
            start_time_unix_nano=1_763_000_001 * 10**9,
            end_time_unix_nano=1_763_000_001 * 10**9 + 41_000,
            attributes=[KeyValue(key=key, value=any_value(value)) for key, value in found.items()],
        )
        for _ in range(BATCH)
    ]
    request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])])
    body: bytes = request.SerializeToString()
    return body


def best(make: Callable[[], object], rounds: int) -> float:
    """ns a span of the best round; a round makes BATCH spans."""
    took = []
    for _ in range(rounds):
        began = time.thread_time_ns()
        make()
        took.append(time.thread_time_ns() - began)
    return min(took) / BATCH


def run(spans: int, rounds: int) -> dict[str, float]:
    """ns a span: ours (spans, log records, Loki values), the SDK's encoder, upb's objects."""
    if api_implementation.Type() != "upb":
        raise RuntimeError(f"protobuf runs on {api_implementation.Type()}, not upb: the comparison would flatter us")
    found = attributes()
    span = sdk_span(found)
    ours = {kind: min(harness.bench(spans, SPAN, kind) for _ in range(rounds)) for kind in ("traces", "logs", "loki")}
    return {
        "encode_ns_per_span": ours["traces"],
        "encode_log_ns": ours["logs"],
        "encode_loki_ns": ours["loki"],
        "encode_sdk_ns_per_span": best(lambda: encode_spans([span] * BATCH).SerializeToString(), rounds),
        "encode_upb_ns_per_span": best(lambda: upb_batch(found), rounds),
    }
