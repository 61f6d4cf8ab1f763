"""OTLP JSON -> protobuf, for senders of JSON where the endpoint is gRPC; and the endpoint's answer back into JSON.

Sources: the OTLP specification, "JSON Protobuf Encoding" (ids in hex, enums as numbers, unknown names ignored); the
JSON mapping of protobuf (64-bit integers also as texts, base64, "NaN"); opentelemetry-proto. The test walks the
descriptors: a field that is missing or wrong here fails it. Some 40 us a span: JSON is what browsers and curl send.
"""

import base64
import struct
from collections.abc import Callable
from typing import Any

import msgspec

from zerospan.enricher.proxy.config import Signal
from zerospan.enricher.proxy.rewrite import Malformed
from zerospan.exporter.encode.varint import varint
from zerospan.exporter.sinks.wire import partial_success

DEPTH_MAX = 64  # of messages in messages
REJECTED = {"traces": "rejectedSpans", "metrics": "rejectedDataPoints", "logs": "rejectedLogRecords"}
ENUMS = {
    "SPAN_KIND": ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"),
    "STATUS_CODE": ("UNSET", "OK", "ERROR"),
    "AGGREGATION_TEMPORALITY": ("UNSPECIFIED", "DELTA", "CUMULATIVE"),
    "SEVERITY_NUMBER": (
        "UNSPECIFIED",
        *(f"{level}{n or ''}" for level in ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL") for n in (0, 2, 3, 4)),
    ),
}
NAMES = {f"{kind}_{name}": i for kind, names in ENUMS.items() for i, name in enumerate(names)}
ATTRIBUTES = "[KeyValue"
# message -> JSON name -> (number, kind). "[" before a kind: repeated; a kind with a capital is a message.
TABLES: dict[str, dict[str, tuple[int, str]]] = {
    "traces": {"resourceSpans": (1, "[ResourceSpans")},
    "metrics": {"resourceMetrics": (1, "[ResourceMetrics")},
    "logs": {"resourceLogs": (1, "[ResourceLogs")},
    "ResourceSpans": {"resource": (1, "Resource"), "scopeSpans": (2, "[ScopeSpans"), "schemaUrl": (3, "text")},
    "ResourceMetrics": {"resource": (1, "Resource"), "scopeMetrics": (2, "[ScopeMetrics"), "schemaUrl": (3, "text")},
    "ResourceLogs": {"resource": (1, "Resource"), "scopeLogs": (2, "[ScopeLogs"), "schemaUrl": (3, "text")},
    "ScopeSpans": {"scope": (1, "InstrumentationScope"), "spans": (2, "[Span"), "schemaUrl": (3, "text")},
    "ScopeMetrics": {"scope": (1, "InstrumentationScope"), "metrics": (2, "[Metric"), "schemaUrl": (3, "text")},
    "ScopeLogs": {"scope": (1, "InstrumentationScope"), "logRecords": (2, "[LogRecord"), "schemaUrl": (3, "text")},
    "Span": {
        "traceId": (1, "id"),
        "spanId": (2, "id"),
        "traceState": (3, "text"),
        "parentSpanId": (4, "id"),
        "flags": (16, "fixed32"),
        "name": (5, "text"),
        "kind": (6, "int"),
        "startTimeUnixNano": (7, "fixed64"),
        "endTimeUnixNano": (8, "fixed64"),
        "attributes": (9, ATTRIBUTES),
        "droppedAttributesCount": (10, "uint"),
        "events": (11, "[Event"),
        "droppedEventsCount": (12, "uint"),
        "links": (13, "[Link"),
        "droppedLinksCount": (14, "uint"),
        "status": (15, "Status"),
    },
    "Event": {
        "timeUnixNano": (1, "fixed64"),
        "name": (2, "text"),
        "attributes": (3, ATTRIBUTES),
        "droppedAttributesCount": (4, "uint"),
    },
    "Link": {
        "traceId": (1, "id"),
        "spanId": (2, "id"),
        "traceState": (3, "text"),
        "attributes": (4, ATTRIBUTES),
        "droppedAttributesCount": (5, "uint"),
        "flags": (6, "fixed32"),
    },
    "Status": {"message": (2, "text"), "code": (3, "int")},
    "LogRecord": {
        "timeUnixNano": (1, "fixed64"),
        "observedTimeUnixNano": (11, "fixed64"),
        "severityNumber": (2, "int"),
        "severityText": (3, "text"),
        "body": (5, "AnyValue"),
        "attributes": (6, ATTRIBUTES),
        "droppedAttributesCount": (7, "uint"),
        "flags": (8, "fixed32"),
        "traceId": (9, "id"),
        "spanId": (10, "id"),
        "eventName": (12, "text"),
    },
    "Metric": {
        "name": (1, "text"),
        "description": (2, "text"),
        "unit": (3, "text"),
        "gauge": (5, "Gauge"),
        "sum": (7, "Sum"),
        "histogram": (9, "Histogram"),
        "exponentialHistogram": (10, "ExponentialHistogram"),
        "summary": (11, "Summary"),
        "metadata": (12, ATTRIBUTES),
    },
    "Gauge": {"dataPoints": (1, "[NumberDataPoint")},
    "Sum": {"dataPoints": (1, "[NumberDataPoint"), "aggregationTemporality": (2, "int"), "isMonotonic": (3, "bool")},
    "Histogram": {"dataPoints": (1, "[HistogramDataPoint"), "aggregationTemporality": (2, "int")},
    "ExponentialHistogram": {
        "dataPoints": (1, "[ExponentialHistogramDataPoint"),
        "aggregationTemporality": (2, "int"),
    },
    "Summary": {"dataPoints": (1, "[SummaryDataPoint")},
    "NumberDataPoint": {
        "attributes": (7, ATTRIBUTES),
        "startTimeUnixNano": (2, "fixed64"),
        "timeUnixNano": (3, "fixed64"),
        "asDouble": (4, "double"),
        "asInt": (6, "sfixed64"),
        "exemplars": (5, "[Exemplar"),
        "flags": (8, "uint"),
    },
    "HistogramDataPoint": {
        "attributes": (9, ATTRIBUTES),
        "startTimeUnixNano": (2, "fixed64"),
        "timeUnixNano": (3, "fixed64"),
        "count": (4, "fixed64"),
        "sum": (5, "double"),
        "bucketCounts": (6, "[fixed64"),
        "explicitBounds": (7, "[double"),
        "exemplars": (8, "[Exemplar"),
        "flags": (10, "uint"),
        "min": (11, "double"),
        "max": (12, "double"),
    },
    "ExponentialHistogramDataPoint": {
        "attributes": (1, ATTRIBUTES),
        "startTimeUnixNano": (2, "fixed64"),
        "timeUnixNano": (3, "fixed64"),
        "count": (4, "fixed64"),
        "sum": (5, "double"),
        "scale": (6, "sint"),
        "zeroCount": (7, "fixed64"),
        "positive": (8, "Buckets"),
        "negative": (9, "Buckets"),
        "flags": (10, "uint"),
        "exemplars": (11, "[Exemplar"),
        "min": (12, "double"),
        "max": (13, "double"),
        "zeroThreshold": (14, "double"),
    },
    "Buckets": {"offset": (1, "sint"), "bucketCounts": (2, "[uint")},
    "SummaryDataPoint": {
        "attributes": (7, ATTRIBUTES),
        "startTimeUnixNano": (2, "fixed64"),
        "timeUnixNano": (3, "fixed64"),
        "count": (4, "fixed64"),
        "sum": (5, "double"),
        "quantileValues": (6, "[ValueAtQuantile"),
        "flags": (8, "uint"),
    },
    "ValueAtQuantile": {"quantile": (1, "double"), "value": (2, "double")},
    "Exemplar": {
        "filteredAttributes": (7, ATTRIBUTES),
        "timeUnixNano": (2, "fixed64"),
        "asDouble": (3, "double"),
        "asInt": (6, "sfixed64"),
        "spanId": (4, "id"),
        "traceId": (5, "id"),
    },
    "Resource": {
        "attributes": (1, ATTRIBUTES),
        "droppedAttributesCount": (2, "uint"),
        "entityRefs": (3, "[EntityRef"),
    },
    "EntityRef": {
        "schemaUrl": (1, "text"),
        "type": (2, "text"),
        "idKeys": (3, "[text"),
        "descriptionKeys": (4, "[text"),
    },
    "InstrumentationScope": {
        "name": (1, "text"),
        "version": (2, "text"),
        "attributes": (3, ATTRIBUTES),
        "droppedAttributesCount": (4, "uint"),
    },
    "KeyValue": {"key": (1, "text"), "value": (2, "AnyValue"), "keyStrindex": (3, "int")},
    "AnyValue": {
        "stringValue": (1, "text"),
        "boolValue": (2, "bool"),
        "intValue": (3, "int"),
        "doubleValue": (4, "double"),
        "arrayValue": (5, "ArrayValue"),
        "kvlistValue": (6, "KeyValueList"),
        "bytesValue": (7, "bytes"),
        "stringValueStrindex": (8, "int"),
    },
    "ArrayValue": {"values": (1, "[AnyValue")},
    "KeyValueList": {"values": (1, ATTRIBUTES)},
}


def to_protobuf(body: bytes, signal: Signal) -> bytes:
    """The encoded Export*ServiceRequest of a JSON body. Raises Malformed."""
    try:
        request = msgspec.json.decode(body)
        return _message(request, signal, 0)
    except (msgspec.DecodeError, ValueError, TypeError, OverflowError, struct.error, RecursionError) as e:
        raise Malformed(f"not OTLP JSON: {e}") from None


def answer_json(answer: bytes, signal: Signal) -> bytes:
    """An encoded Export*ServiceResponse in JSON."""
    partial = partial_success(answer)
    told: dict[str, str] = {}
    if partial.rejected:
        told[REJECTED[signal]] = str(partial.rejected)
    if partial.message:
        told["errorMessage"] = partial.message
    return msgspec.json.encode({"partialSuccess": told} if told else {})


def _message(value: Any, name: str, depth: int) -> bytes:
    if type(value) is not dict:
        raise TypeError(f"{name} must be an object")
    if depth > DEPTH_MAX:
        raise ValueError("nested too deeply")
    table = TABLES[name]
    parts: list[bytes] = []
    for key, content in value.items():
        row = table.get(key)
        if row is None or content is None:
            continue
        number, kind = row
        if kind[0] != "[":
            _field(parts, number, kind, content, depth)
            continue
        if type(content) is not list:
            raise TypeError(f"{key} must be a list")
        if kind[1:] in PACKED:
            packed = b"".join([SCALARS[kind[1:]][1](one) for one in content])
            parts += (varint(number << 3 | 2), varint(len(packed)), packed)
            continue
        for one in content:
            _field(parts, number, kind[1:], one, depth)
    return b"".join(parts)


def _field(parts: list[bytes], number: int, kind: str, value: Any, depth: int) -> None:
    if kind in TABLES:
        wire, content = 2, _message(value, kind, depth + 1)
    else:
        wire, encode = SCALARS[kind]
        content = encode(value)
    if wire == 2:
        parts += (varint(number << 3 | 2), varint(len(content)), content)
    else:
        parts += (varint(number << 3 | wire), content)


def _integer(value: Any, least: int, most: int) -> int:
    if type(value) is str:
        value = NAMES[value] if value in NAMES else int(value) if len(value) <= 20 else None
    elif type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not least <= value <= most:
        raise ValueError("a number is none, or out of its range")
    return value


def _text(value: Any) -> bytes:
    if type(value) is not str:
        raise TypeError("a text must be one")
    return value.encode()


def _id(value: Any) -> bytes:
    return base64.b16decode(_text(value), casefold=True)


def _bytes(value: Any) -> bytes:
    text = _text(value).replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
    return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)


def _bool(value: Any) -> bytes:
    if type(value) is not bool:
        raise TypeError("a truth value must be true or false")
    return b"\1" if value else b"\0"


def _double(value: Any) -> bytes:
    if type(value) is bool:
        raise TypeError("a number must be one")
    return struct.pack("<d", float(value))


def _sint(value: Any) -> bytes:
    number = _integer(value, -(1 << 31), (1 << 31) - 1)
    return varint(number << 1 if number >= 0 else (-number << 1) - 1)


# kind -> (wire type, encoder)
SCALARS: dict[str, tuple[int, Callable[[Any], bytes]]] = {
    "text": (2, _text),
    "id": (2, _id),
    "bytes": (2, _bytes),
    "bool": (0, _bool),
    "int": (0, lambda v: varint(_integer(v, -(1 << 63), (1 << 63) - 1) & (1 << 64) - 1)),
    "uint": (0, lambda v: varint(_integer(v, 0, (1 << 64) - 1))),
    "sint": (0, _sint),
    "double": (1, _double),
    "fixed64": (1, lambda v: struct.pack("<Q", _integer(v, 0, (1 << 64) - 1))),
    "sfixed64": (1, lambda v: struct.pack("<q", _integer(v, -(1 << 63), (1 << 63) - 1))),
    "fixed32": (5, lambda v: struct.pack("<I", _integer(v, 0, (1 << 32) - 1))),
}
PACKED = ("fixed64", "double", "uint")
