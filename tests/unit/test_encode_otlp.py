"""Spans as OTLP: read by OpenTelemetry's classes, compared with the model and with the SDK's encoder."""

import random
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind
from opentelemetry.trace.status import Status, StatusCode

sys.path.insert(0, str(Path(__file__).parent))
from encode_cases import (
    CASES,
    CLIENT,
    CLIENT_SPAN,
    ERROR,
    LIMIT,
    REASONS,
    SERVER_SPAN,
    Span,
    attributes,
    clean,
    error_type,
    random_span,
)

from zerospan import __version__
from zerospan.exporter.encode import harness
from zerospan.exporter.encode.attributes import names

WIRE = {3, 4, 5, 6}  # link methods whose parent another tracer made


def value(v: AnyValue) -> Any:
    which = v.WhichOneof("value")
    assert which is not None
    if which == "array_value":
        return [value(e) for e in v.array_value.values]
    return getattr(v, which)


def decoded(pairs: Any) -> dict[str, Any]:
    out = {p.key: value(p.value) for p in pairs}
    assert len(out) == len(pairs), "an attribute is there twice"
    return out


def resource(name: str) -> bytes:
    service = KeyValue(key="service.name", value=AnyValue(string_value=name))
    encoded: bytes = ResourceMessage(attributes=[service]).SerializeToString()
    return encoded


PROCESSES = [
    {"name": name, "resource": resource(name), "labels": f'"service_name":"{name}"'} for name in ("shop", "pricing")
]


def one(span: Span) -> trace_pb2.Span:
    request = ExportTraceServiceRequest.FromString(harness.encode([span], PROCESSES)["traces"])
    got: trace_pb2.Span = request.resource_spans[0].scope_spans[0].spans[0]
    return got


def message(span: Span) -> str:
    """Of the span's status: why there was no answer, else the error's text (masking off), else its type."""
    return REASONS[span.get("reason", 0)] or clean(span.get("message", "")) or error_type(span)


def check(got: trace_pb2.Span, span: Span) -> None:
    wall = span.get("wall_offset", 0)
    assert got.trace_id == span.get("trace_id", bytes(16))
    assert got.span_id == span.get("span_id", 0).to_bytes(8, "big")
    assert got.parent_span_id == (span["parent_id"].to_bytes(8, "big") if span.get("parent_id") else b"")
    assert got.name == harness.name(span)["span_name"]
    assert got.kind == span["kind"]
    assert got.start_time_unix_nano == span.get("start_ns", 0) + wall
    assert got.end_time_unix_nano == span.get("end_ns", 0) + wall
    remote = 0x200 if span.get("parent_id") and span.get("method", 0) in WIRE else 0
    assert got.flags == 0x100 | remote | span.get("trace_flags", 0)
    assert got.status.code == span.get("status", 0)
    assert got.status.message == (message(span) if span.get("status") == ERROR else "")
    peer = PROCESSES[span["peer_proc"] - 1]["name"] if span.get("peer_proc") else ""
    assert decoded(got.attributes) == attributes(span, str(peer))


@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_field_of_each_protocol(case: int) -> None:
    check(one(CASES[case]), CASES[case])


def test_any_span_is_valid_bounded_and_as_the_model_says() -> None:
    r = random.Random(5)
    for _ in range(1500):
        span = random_span(r) | {"peer_proc": r.randrange(3)}
        if isinstance(span.get("domain"), bytes):
            span["domain"] = span["domain"].replace(b"[", b"")  # literals in brackets have their own test
        got = one(span)  # protobuf refuses strings that are not UTF-8
        check(got, span)
        assert got.ByteSize() < 40 * 1024
        assert len(got.attributes) <= 64
        for text in (value(a.value) for a in got.attributes):
            assert not isinstance(text, str) or len(text.encode()) <= LIMIT


def test_a_peer_is_named_twice_and_only_on_the_client_span() -> None:
    assert (
        decoded(one(CLIENT_SPAN | {"peer_proc": 2}).attributes).items()
        >= {
            "service.peer.name": "pricing",
            "peer.service": "pricing",
        }.items()
    )
    assert "peer.service" not in decoded(one(SERVER_SPAN | {"peer_proc": 2}).attributes)
    assert "peer.service" not in decoded(one(CLIENT_SPAN).attributes)


def test_a_length_of_one_byte_and_of_three_bytes() -> None:
    """The length is written before it is known; both corrections of it must move the span."""
    bare = {"proto": 0, "kind": CLIENT}
    short = harness.encode([bare], PROCESSES)["traces"]
    assert one(bare).ByteSize() >= 128  # the attributes that each span has
    big = SERVER_SPAN | {name: b"x" * 2048 for name in ("target", "query", "agent", "route", "request_id", "domain")}
    assert one(big).ByteSize() > 16384 - 4096
    huge = big | {"operation": "M" * 2048, "status": 2, "message": "m" * 3000}
    assert one(huge).ByteSize() > 16384
    check(one(huge), huge)
    assert len(ExportTraceServiceRequest.FromString(short).resource_spans) == 1


def sdk_span(span: Span) -> ReadableSpan:
    """The same span as a program would hand it to the SDK's exporter."""
    trace_id, parent = int.from_bytes(span["trace_id"], "big"), span.get("parent_id")
    wall = span.get("wall_offset", 0)
    failed = span["status"] == ERROR
    status = Status(StatusCode.ERROR, message(span)) if failed else Status()
    return ReadableSpan(
        name=harness.name(span)["span_name"],
        context=SpanContext(trace_id, span["span_id"], is_remote=False),
        parent=SpanContext(trace_id, parent, is_remote=span.get("method", 0) in WIRE) if parent else None,
        resource=Resource({"service.name": "shop"}),
        attributes=attributes(span),
        kind=SpanKind.CLIENT if span["kind"] == CLIENT else SpanKind.SERVER,
        status=status,
        start_time=span["start_ns"] + wall,
        end_time=span["end_ns"] + wall,
        instrumentation_scope=InstrumentationScope("zerospan", __version__),
    )


def comparable(request: Any, spans: list[Span]) -> Any:
    """Without what differs on purpose.

    The order of attributes; the W3C flags in Span.flags, which the SDK leaves out; a status that is unset,
    for which the SDK writes an empty message, which means the same.
    """
    for group in request.resource_spans:
        for got, span in zip(group.scope_spans[0].spans, spans, strict=True):
            got.flags |= span.get("trace_flags", 0)
            got.status.SetInParent()
            ordered = sorted(got.attributes, key=lambda pair: pair.key)
            del got.attributes[:]
            got.attributes.extend(ordered)
    return request


def test_equal_to_what_the_sdk_encodes() -> None:
    r = random.Random(6)
    spans = [case | {"proc": 1} for case in CASES]
    while len(spans) < 300:
        span = random_span(r) | {"proc": 1, "status": r.choice([0, 2])}
        if b"[" not in (span.get("domain") or b""):
            spans.append(span)
    ours = ExportTraceServiceRequest.FromString(harness.encode(spans, PROCESSES)["traces"])
    theirs = ExportTraceServiceRequest.FromString(encode_spans([sdk_span(s) for s in spans]).SerializeToString())
    assert comparable(ours, spans) == comparable(theirs, spans)


def test_lengths_are_encoded_as_short_as_protobuf_itself_does() -> None:
    """A parser may take padded varints; the same size as a re-encoding shows that there are none."""
    for span in CASES:
        body = harness.encode([span], PROCESSES)["traces"]
        assert len(body) == len(ExportTraceServiceRequest.FromString(body).SerializeToString())


def test_each_name_is_one_of_the_semantic_conventions() -> None:
    import importlib
    import pkgutil

    import opentelemetry.semconv._incubating.attributes as incubating
    import opentelemetry.semconv.attributes as stable

    known: set[str] = set()
    for package in (stable, incubating):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            known |= {v for v in vars(importlib.import_module(module.name)).values() if isinstance(v, str)}
    ours = {"span.kind", "http.request.header.x-request-id"}  # see attributes.pyx; a name from a template
    unknown = {n for n in names() if not n.startswith("zerospan.") and n not in known} - ours
    assert not unknown
