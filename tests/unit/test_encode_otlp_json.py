"""OTLP JSON lines: against protobuf's own JSON mapping, and on input that is cut, bent or hostile."""

import base64
import json
import random
import struct
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]
from google.protobuf.descriptor import FieldDescriptor as F  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

sys.path.insert(0, str(Path(__file__).parent))
from encode_cases import CASES, random_span

from zerospan.exporter.encode import harness
from zerospan.exporter.encode.otlp_json import logs_json, traces_json

IDS = {"traceId", "spanId", "parentSpanId"}
# What the Collector holds by value and therefore always writes: {list in which the message is: members}
BY_VALUE = {
    "resourceSpans": ["resource"],
    "resourceLogs": ["resource"],
    "scopeSpans": ["scope"],
    "scopeLogs": ["scope"],
    "spans": ["status"],
    "logRecords": ["body"],
    "attributes": ["value"],
}
MESSAGES: list[tuple[Any, Any]] = [
    (ExportTraceServiceRequest, traces_json),
    (ExportLogsServiceRequest, logs_json),
]


def expected(tree: Any, inside: str = "") -> Any:
    """protobuf's JSON mapping with OTLP's changes (ids in hex) and with what pdata always writes."""
    if isinstance(tree, list):
        return [expected(e, inside) for e in tree]
    if not isinstance(tree, dict):
        return tree
    out: dict[str, Any] = {}
    for name, v in tree.items():
        if name in IDS:
            data = base64.b64decode(v)
            if any(data):
                out[name] = data.hex()
        elif name == "kvlistValue":
            out[name] = {k: expected(e, "attributes") for k, e in v.items()}
        elif name == "arrayValue":
            out[name] = {k: expected(e) for k, e in v.items()}
        else:
            out[name] = expected(v, name if isinstance(v, list) else "")
    for name in BY_VALUE.get(inside, []):
        out.setdefault(name, {})
    return out


def fill(message: Any, r: random.Random, depth: int = 0) -> Any:
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof or r.random() < 0.3:
            continue
        put(message, field, r, depth)
    for oneof in message.DESCRIPTOR.oneofs:
        if r.random() < 0.9:
            put(message, r.choice(oneof.fields), r, depth)
    return message


def put(message: Any, field: Any, r: random.Random, depth: int) -> None:
    target = getattr(message, field.name)
    count = r.randrange(4) if field.is_repeated else 1
    if field.type == F.TYPE_MESSAGE:
        if depth > 9:
            return
        for _ in range(count):
            element = target.add() if field.is_repeated else target
            element.SetInParent()
            fill(element, r, depth + 1)
        return
    values = [scalar(field, r) for _ in range(count)]
    if field.is_repeated:
        target.extend(values)
    else:
        setattr(message, field.name, values[0])


def scalar(field: Any, r: random.Random) -> Any:
    if field.type == F.TYPE_STRING:
        return r.choice(["", "plain", "".join(r.choice('aé€😀"\\\n\x00\x1f\x7f/<') for _ in range(r.randrange(40)))])
    if field.type == F.TYPE_BYTES:
        n = {"trace_id": 16, "span_id": 8, "parent_span_id": 8}.get(field.name)
        return r.choice([b"", bytes(n), r.randbytes(n)]) if n else r.randbytes(r.randrange(12))
    if field.type == F.TYPE_DOUBLE:
        bits: float = struct.unpack("<d", r.randbytes(8))[0]
        return r.choice(
            [
                0.0,
                -0.0,
                0.99,
                0.1 + 0.2,
                1e21,
                1e-7,
                5e-324,
                float("inf"),
                float("-inf"),
                float("nan"),
                bits,
                float(r.randrange(10**9)) / 10 ** r.randrange(9),
                r.random(),
            ]
        )
    if field.type == F.TYPE_BOOL:
        return r.random() < 0.5
    if field.type == F.TYPE_ENUM:
        return r.choice(field.enum_type.values).number
    bits_ = 64 if field.type in (F.TYPE_FIXED64, F.TYPE_INT64) else 32
    v = r.choice([0, 1, r.getrandbits(bits_), 2**bits_ - 1])
    signed = field.type in (F.TYPE_INT64, F.TYPE_INT32)
    return v - 2**bits_ if signed and v >= 2 ** (bits_ - 1) else v


def mapping(message: Any) -> Any:
    return expected(json_format.MessageToDict(message, use_integers_for_enums=True))


@pytest.mark.parametrize(("kind", "convert"), MESSAGES)
def test_random_messages_equal_protobufs_own_mapping(kind: Any, convert: Any) -> None:
    r = random.Random(11)
    seen = 0
    for _ in range(600):
        message = fill(kind(), r)
        data = message.SerializeToString()
        line = convert(data)
        assert b"\n" not in line
        assert json.loads(line) == mapping(message)
        seen += len(data)
    assert seen > 100_000


def test_doubles_read_back_exactly() -> None:
    r = random.Random(12)
    message = ExportTraceServiceRequest()
    values = message.resource_spans.add().resource.attributes.add().value.array_value.values
    doubles = [
        0.0,
        -0.0,
        0.95,
        0.99,
        1.0,
        999999999.999999,
        1e-6,
        -1e-6,
        -0.25,
        -123.456,
        123456789.123456,
        2.0**53,
        1e9,
        0.30000000000000004,
    ]
    doubles += [r.uniform(0, 1e9) for _ in range(3000)] + [
        round(r.uniform(0, 1e4), r.randrange(8)) for _ in range(3000)
    ]
    for v in doubles:
        values.add().double_value = v
    tree = json.loads(traces_json(message.SerializeToString()), parse_int=float)  # or -0 loses its sign
    texts = tree["resourceSpans"][0]["resource"]["attributes"][0]["value"]["arrayValue"]["values"]
    for v, got in zip(doubles, texts, strict=True):
        assert struct.pack("<d", float(got["doubleValue"])) == struct.pack("<d", v)
    # the shortest decimal: the same digits as Python's, whatever the notation
    written = traces_json(message.SerializeToString()).split(b'"doubleValue":')[1:]
    for v, text in zip(doubles, written, strict=True):
        assert Decimal(text.split(b"}")[0].decode()) == Decimal(repr(v))


def test_members_come_in_the_order_in_which_the_collector_writes_them() -> None:
    line = traces_json(harness.encode(CASES[:1])["traces"])
    span = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    assert list(span) == [
        "traceId",
        "spanId",
        "parentSpanId",
        "flags",
        "name",
        "kind",
        "startTimeUnixNano",
        "endTimeUnixNano",
        "attributes",
        "status",
    ]


def test_our_own_requests() -> None:
    r = random.Random(13)
    out = harness.encode(CASES + [random_span(r) for _ in range(200)])
    assert json.loads(traces_json(out["traces"])) == mapping(ExportTraceServiceRequest.FromString(out["traces"]))
    assert json.loads(logs_json(out["logs"])) == mapping(ExportLogsServiceRequest.FromString(out["logs"]))


def verdict(kind: Any, convert: Any, data: bytes) -> tuple[Any, Any]:
    """(protobuf's, ours): a tree or None for a refusal."""
    try:
        theirs = mapping(kind.FromString(data))
    except DecodeError:
        theirs = None
    try:
        ours = json.loads(convert(data))
    except ValueError as refusal:
        assert "at byte" in str(refusal)
        ours = None
    return theirs, ours


@pytest.mark.parametrize(("kind", "convert"), MESSAGES)
def test_a_message_cut_anywhere_is_judged_as_protobuf_judges_it(kind: Any, convert: Any) -> None:
    r = random.Random(14)
    data = b""
    while not 1000 < len(data) < 4000:
        data = fill(kind(), r).SerializeToString()
    for cut in range(len(data) + 1):
        theirs, ours = verdict(kind, convert, data[:cut])
        assert ours == theirs, cut


@pytest.mark.parametrize(("kind", "convert"), MESSAGES)
def test_bent_messages_give_json_or_a_refusal(kind: Any, convert: Any) -> None:
    r = random.Random(15)
    data = harness.encode(CASES[:3])["traces" if kind is ExportTraceServiceRequest else "logs"]
    refused = 0
    for _ in range(4000):
        bent = bytearray(data)
        for _ in range(r.randrange(1, 4)):
            bent[r.randrange(len(bent))] = r.randrange(256)
        try:
            line = convert(bytes(bent))
        except ValueError:
            refused += 1
            continue
        json.loads(line)
        assert len(line) <= 14 * len(bent) + 64
    assert 0 < refused < 4000


@pytest.mark.parametrize(
    ("data", "why", "at"),
    [
        (b"\x0a\x05ab", "longer than what holds it", 0),
        (b"\x0a", "a varint is cut short", 1),
        (b"\x08" + b"\xff" * 11, "longer than 10 bytes", 1),
        (b"\x02\x00", "field number is out of range", 0),
        (b"\xff\xff\xff\xff\xff\x01\x00", "field number is out of range", 0),
        (b"\x0b\x0c", "a group", 0),
        (b"\x0a\x03\x0a\x05x", "longer than what holds it", 2),
        (b"\x09\x00", "longer than what holds it", 0),
    ],
)
def test_a_refusal_says_where_and_why(data: bytes, why: str, at: int) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        traces_json(data)
    assert f"at byte {at} of {len(data)}" in str(caught.value)


def nested(depth: int) -> bytes:
    value = b""
    for _ in range(depth):
        array = b"\x0a" + varint(len(value)) + value
        value = b"\x2a" + varint(len(array)) + array
    body = value
    for tag in (
        0x12,
        0x0A,
        0x0A,
        0x0A,
    ):  # KeyValue.value, Resource.attributes, ResourceSpans.resource, resource_spans
        body = bytes([tag]) + varint(len(body)) + body
    return body


def varint(v: int) -> bytes:
    out = b""
    while v > 127:
        out += bytes([v & 127 | 128])
        v >>= 7
    return out + bytes([v])


def test_nesting_is_limited() -> None:
    assert traces_json(nested(40)).count(b"arrayValue") == 40
    with pytest.raises(ValueError, match="nested too deeply"):
        traces_json(nested(5000))


def test_fields_out_of_order_and_repeated() -> None:
    """The last of a singular field counts, elements of a repeated one stay together wherever they stand."""

    def name(text: bytes) -> bytes:
        return b"\x2a" + varint(len(text)) + text

    def attribute(key: bytes) -> bytes:
        return b"\x4a\x03\x0a\x01" + key

    def event(text: bytes) -> bytes:
        return b"\x5a\x03\x12\x01" + text

    span = (
        attribute(b"a") + name(b"first") + event(b"x") + attribute(b"b") + name(b"last") + event(b"y") + b"\xa8\x06\x07"
    )
    body = span
    for tag in (0x12, 0x12, 0x0A):
        body = bytes([tag]) + varint(len(body)) + body
    got = json.loads(traces_json(body))["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    assert got == json.loads(
        '{"name":"last","attributes":[{"key":"a","value":{}},{"key":"b","value":{}}],'
        '"events":[{"name":"x"},{"name":"y"}],"status":{}}'
    )
    assert got == mapping(ExportTraceServiceRequest.FromString(body))["resourceSpans"][0]["scopeSpans"][0]["spans"][0]


def test_interleaved_fields_take_linear_time() -> None:
    """A quadratic reader would need hours for these five megabytes."""
    span = b"\x4a\x00\x5a\x00\x6a\x00" * 800_000
    body = span
    for tag in (0x12, 0x12, 0x0A):
        body = bytes([tag]) + varint(len(body)) + body
    begin = time.monotonic()
    line = traces_json(body)
    assert time.monotonic() - begin < 30
    assert line.count(b'{"value":{}}') == 800_000
    assert len(line) <= 14 * len(body)


def test_a_request_of_the_wrong_type() -> None:
    with pytest.raises(TypeError):
        traces_json("text")  # type: ignore[arg-type]
    assert traces_json(b"") == b"{}"
