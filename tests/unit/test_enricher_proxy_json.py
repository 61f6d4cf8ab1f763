"""OTLP JSON -> protobuf: random messages made by opentelemetry-proto's descriptors come out as they were."""

from __future__ import annotations

import base64
import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor as F
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

sys.path.insert(0, str(Path(__file__).parent))
from otlp_cases import REQUESTS, canonical

from zerospan.enricher.proxy.config import Signal
from zerospan.enricher.proxy.json_protobuf import NAMES, TABLES, answer_json, to_protobuf
from zerospan.enricher.proxy.rewrite import Malformed

IDS = ("traceId", "spanId", "parentSpanId")
KINDS = {
    F.TYPE_STRING: "text", F.TYPE_BOOL: "bool", F.TYPE_INT32: "int", F.TYPE_INT64: "int", F.TYPE_ENUM: "int",
    F.TYPE_UINT32: "uint", F.TYPE_UINT64: "uint", F.TYPE_SINT32: "sint", F.TYPE_DOUBLE: "double",
    F.TYPE_FIXED64: "fixed64", F.TYPE_SFIXED64: "sfixed64", F.TYPE_FIXED32: "fixed32",
}  # fmt: skip


def test_the_tables_are_opentelemetry_protos() -> None:
    seen: set[str] = set()

    def walk(descriptor: Any, name: str) -> None:
        if name in seen:
            return
        seen.add(name)
        expected = {}
        for field in descriptor.fields:
            if field.type == F.TYPE_MESSAGE:
                kind = field.message_type.name
                walk(field.message_type, kind)
            elif field.type == F.TYPE_BYTES:
                kind = "id" if field.json_name in IDS else "bytes"
            else:
                kind = KINDS[field.type]
            expected[field.json_name] = (field.number, ("[" if field.is_repeated else "") + kind)
        assert TABLES[name] == expected, name

    for signal, kind in REQUESTS.items():
        walk(kind.DESCRIPTOR, signal)
    assert seen == set(TABLES)


def filled(rng: random.Random, message: Any, depth: int = 0) -> Any:
    """Random values in random fields."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() < (0.3 if depth > 1 else 0.05) or (depth > 7 and field.type == F.TYPE_MESSAGE):
            continue
        if field.containing_oneof is not None and rng.random() < 0.6:
            continue
        for _ in range(rng.randrange(1, 3) if field.is_repeated else 1):
            if field.type == F.TYPE_MESSAGE:
                inner = getattr(message, field.name)
                if field.is_repeated:
                    filled(rng, inner.add(), depth + 1)
                else:
                    inner.SetInParent()
                    filled(rng, inner, depth + 1)
                continue
            value = scalar(rng, field)
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
    return message


def scalar(rng: random.Random, field: Any) -> Any:
    bits = rng.choice([0, 1, 7, 31, 32, 63])
    if field.type == F.TYPE_BYTES:
        return rng.randbytes(rng.choice([0, 1, 8, 16]))
    if field.type == F.TYPE_STRING:
        return "".join(rng.choices('aü"\\\n\0\U0001f600', k=rng.randrange(6)))
    if field.type == F.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type == F.TYPE_DOUBLE:
        return rng.choice([0.0, -0.0, 1.5, -1e300, 5e-324, math.inf, -math.inf, math.nan, 3.0])
    if field.type == F.TYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    if field.type in (F.TYPE_INT64, F.TYPE_SFIXED64):
        return rng.choice([1, -1]) * rng.getrandbits(bits)
    if field.type in (F.TYPE_SINT32, F.TYPE_INT32):
        return rng.choice([1, -1]) * rng.getrandbits(min(bits, 31))
    return rng.getrandbits(min(bits, 32) if field.type in (F.TYPE_UINT32, F.TYPE_FIXED32) else bits)


def otlp_json(message: Any, names: bool) -> bytes:
    """json_format's, with ids in hex."""

    def hexed(value: Any) -> Any:
        if isinstance(value, list):
            return [hexed(v) for v in value]
        if isinstance(value, dict):
            return {k: base64.b64decode(v).hex() if k in IDS else hexed(v) for k, v in value.items()}
        return value

    made = json_format.MessageToDict(message, use_integers_for_enums=not names)
    return json.dumps(hexed(made)).encode()


@pytest.mark.parametrize("signal", REQUESTS)
def test_random_messages(signal: Signal) -> None:
    fields = 0
    for seed in range(150):
        message = filled(random.Random(f"{signal}{seed}"), REQUESTS[signal]())
        made = REQUESTS[signal].FromString(to_protobuf(otlp_json(message, seed % 2 == 0), signal))
        assert canonical(made) == canonical(message), seed
        fields += message.ByteSize()
    assert fields > 30_000


def test_all_names_of_enums() -> None:
    for kind in ("traces", "metrics", "logs"):
        for enum in REQUESTS[kind].DESCRIPTOR.fields[0].message_type.file.enum_types_by_name.values():  # type: ignore[index]
            for value in enum.values:
                if not value.name.endswith("_MASK") and "DO_NOT_USE" not in value.name:
                    assert NAMES[value.name] == value.number


@pytest.mark.parametrize(
    "inner",
    ["3", "[]", '{"spans": {}}', '{"spans": [3]}', '{"spans": [{"traceId": "xy"}]}', '{"spans": [{"traceId": "abc"}]}']
    + ['{"spans": [{"traceId": 3}]}', '{"spans": [{"name": 3}]}', '{"spans": [{"startTimeUnixNano": -1}]}']
    + ['{"spans": [{"startTimeUnixNano": "1e3"}]}', '{"spans": [{"kind": "NO_KIND"}]}', '{"spans": [{"flags": 1.5}]}']
    + ['{"spans": [{"flags": 4294967296}]}', '{"spans": [{"flags": true}]}', '{"spans": [{"attributes": {}}]}']
    + [
        '{"scope": {"attributes": [{"value": {"bytesValue": "*"}}]}}',
        '{"scope": {"attributes": [{"value": {"doubleValue": "x"}}]}}',
    ]
    + ['{"scope": {"attributes": [{"value": ' + '{"arrayValue": {"values": [' * 90 + "]}}" * 90 + "}]}}"],
)
def test_malformed(inner: str) -> None:
    with pytest.raises(Malformed):
        to_protobuf(f'{{"resourceSpans": [{{"scopeSpans": [{inner}]}}]}}'.encode(), "traces")


def test_unknown_names_and_null_are_nothing() -> None:
    assert to_protobuf(b'{"resourceSpans": [{"resource": null, "new": {"x": [1]}}], "y": 1}', "traces") == b"\x0a\x00"


def test_answers() -> None:
    answer = ExportMetricsServiceResponse()
    assert answer_json(answer.SerializeToString(), "metrics") == b"{}"
    answer.partial_success.rejected_data_points = 3
    answer.partial_success.error_message = "old"
    said = answer_json(answer.SerializeToString(), "metrics")
    assert json_format.Parse(said, ExportMetricsServiceResponse()) == answer
