"""OTLP requests for the tests and the fuzzer of the proxy, and the oracle: opentelemetry-proto.

CASES: name -> (signal, encoded request). Some are what no SDK writes but any protobuf reader must understand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from zerospan.enricher.proxy.config import Signal

REQUESTS: dict[Signal, Any] = {
    "traces": ExportTraceServiceRequest,
    "metrics": ExportMetricsServiceRequest,
    "logs": ExportLogsServiceRequest,
}
POINTS = ("gauge", "sum", "histogram", "exponential_histogram", "summary")


def groups(message: Any) -> Any:
    """The list of Resource{Spans,Metrics,Logs}."""
    return getattr(message, message.DESCRIPTOR.fields_by_number[1].name)


def count(message: Any) -> int:
    """Spans, data points or log records."""
    n = 0
    for group in groups(message):
        for scope in getattr(group, group.DESCRIPTOR.fields_by_number[2].name):
            for item in getattr(scope, scope.DESCRIPTOR.fields_by_number[2].name):
                kind = item.WhichOneof("data") if item.DESCRIPTOR.name == "Metric" else None
                n += len(getattr(item, kind).data_points) if kind else int(item.DESCRIPTOR.name != "Metric")
    return n


def resource(message: Resource, **attributes: Any) -> Resource:
    """Fills a Resource: texts, numbers, truth values, lists of texts; `_` in names is a dot."""
    for name, value in attributes.items():
        into = message.attributes.add(key=name.replace("_", ".")).value
        if isinstance(value, bool):
            into.bool_value = value
        elif isinstance(value, int):
            into.int_value = value
        elif isinstance(value, list):
            for one in value:
                into.array_value.values.add(string_value=one)
        else:
            into.string_value = value
    return message


def traces(*attributes: dict[str, Any], spans: int = 3, text: str = "value") -> ExportTraceServiceRequest:
    message = ExportTraceServiceRequest()
    for some in attributes:
        group = message.resource_spans.add(schema_url="https://opentelemetry.io/schemas/1.44.0")
        resource(group.resource, **some)
        for library in ("http", "db"):
            scope = group.scope_spans.add(schema_url="s")
            scope.scope.name = library
            for i in range(spans):
                span = scope.spans.add(
                    trace_id=bytes(range(16)), span_id=bytes(range(8)), name=f"GET /{i}", kind=2, flags=0x101,
                    start_time_unix_nano=1_700_000_000_000_000_000, end_time_unix_nano=1_700_000_000_000_009_000,
                )  # fmt: skip
                for k in range(3):
                    span.attributes.add(key=f"key.{k}").value.string_value = text
                span.events.add(name="event", time_unix_nano=5).attributes.add(key="e").value.double_value = 0.5
                span.links.add(trace_id=b"t" * 16, span_id=b"s" * 8)
                span.status.message = "no"
    return message


def metrics(*attributes: dict[str, Any]) -> ExportMetricsServiceRequest:
    message = ExportMetricsServiceRequest()
    for some in attributes:
        group = message.resource_metrics.add()
        resource(group.resource, **some)
        scope = group.scope_metrics.add()
        for n, kind in enumerate(POINTS):
            data = getattr(scope.metrics.add(name=kind, unit="s"), kind)
            for i in range(n + 1):
                point = data.data_points.add(time_unix_nano=i)
                point.attributes.add(key="k").value.int_value = i
        scope.metrics.add(name="empty").gauge.SetInParent()
        scope.metrics.add(name="nothing")
    return message


def logs(*attributes: dict[str, Any]) -> ExportLogsServiceRequest:
    message = ExportLogsServiceRequest()
    for some in attributes:
        group = message.resource_logs.add()
        resource(group.resource, **some)
        scope = group.scope_logs.add()
        for i in range(4):
            record = scope.log_records.add(severity_text="INFO", time_unix_nano=i)
            record.body.kvlist_value.values.add(key="k").value.bytes_value = b"\0\xff"
    return message


SHOP = {"service_name": "shop", "host_ip": ["127.0.0.1", "10.1.2.3"], "container_id": "ab" * 32, "process_pid": 7}
LARGE = {"service_name": "x" * 200, "a": "y" * 20000, "flag": True}


def _varint(value: int, pad: int = 0) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    for _ in range(pad):
        out[-1] |= 128
        out.append(0)
    return bytes(out)


def field(number: int, content: bytes, pad: int = 0) -> bytes:
    """A length-delimited field, with a longer varint than needed."""
    return _varint(number << 3 | 2, pad) + _varint(len(content), pad) + content


def _odd() -> dict[str, tuple[Signal, bytes]]:
    """What only a hand writes."""
    group = traces(SHOP).resource_spans[0]
    own = group.resource.SerializeToString()
    scopes = b"".join(field(2, scope.SerializeToString()) for scope in group.scope_spans)
    unknown = _varint(99 << 3) + _varint(5) + _varint(98 << 3 | 1) + b"8bytes!!" + _varint(97 << 3 | 5) + b"4byt"
    inside = _varint(96 << 3 | 3) + unknown + _varint(95 << 3 | 3) + _varint(95 << 3 | 4) + _varint(96 << 3 | 4)
    twice = resource(Resource(dropped_attributes_count=2), k8s_pod_uid="u", service_name="second").SerializeToString()
    return {
        "resource last": ("traces", field(1, scopes + field(1, own))),
        "resource in two pieces": ("traces", field(1, field(1, own) + scopes + field(1, twice) + field(3, b"url"))),
        "resource is a number": ("traces", field(1, _varint(1 << 3) + _varint(7) + scopes)),
        "long varints": ("traces", field(1, field(1, own, 2) + scopes, 3)),
        "unknown fields": ("traces", unknown + field(1, unknown + field(1, own + unknown) + scopes + unknown) + inside),
        "groups": ("traces", inside + field(1, inside + field(1, own + inside) + inside)),
        "request is a number": ("traces", _varint(1 << 3) + _varint(3)),
        "value twice": (
            "traces",
            field(1, field(1, field(1, field(1, b"host.name") + field(2, field(1, b"a")) + field(2, b"\x10\x01")))),
        ),
        "logs unknown": ("logs", logs(SHOP).SerializeToString() + unknown),
    }


CASES: dict[str, tuple[Signal, bytes]] = {
    "empty": ("traces", b""),
    "no resource": ("traces", traces({}).SerializeToString()),
    "empty group": ("metrics", field(1, b"")),
    "empty resource": ("traces", field(1, field(1, b"") + traces({}).resource_spans[0].SerializeToString())),
    "traces": ("traces", traces(SHOP).SerializeToString()),
    "several": ("traces", traces(SHOP, {}, LARGE, SHOP, spans=1).SerializeToString()),
    "large": ("traces", traces(LARGE, text="v" * 3000).SerializeToString()),
    "metrics": ("metrics", metrics(SHOP, {"host_name": "n1"}).SerializeToString()),
    "logs": ("logs", logs(SHOP, LARGE).SerializeToString()),
    **_odd(),
}


def decoded(signal: Signal, body: bytes) -> Any:
    """The oracle's message, or None where it is none."""
    from google.protobuf.message import DecodeError

    try:
        return REQUESTS[signal].FromString(body)
    except DecodeError:
        return None


def canonical(message: Any) -> bytes:
    """Comparable, also where a number is NaN and where fields are not known."""
    return bytes(message.SerializeToString(deterministic=True))


def changed(message: Any, drop: str, add: dict[str, str]) -> Any:
    """The message as a proxy must hand it on that takes attribute `drop` away and adds those."""
    made = type(message)()
    made.CopyFrom(message)
    for group in groups(made):
        kept = [a for a in group.resource.attributes if a.key != drop]
        del group.resource.attributes[:]
        group.resource.attributes.extend(kept)
        resource(group.resource, **{name.replace(".", "_"): value for name, value in add.items()})
    return made


Replace = Callable[[bytes], bytes | None]
