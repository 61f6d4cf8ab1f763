"""An OpenTelemetry resource as bytes: opentelemetry.proto.resource.v1.Resource. Called by describe.py.

Resource { repeated KeyValue attributes = 1 }; KeyValue { key = 1, AnyValue value = 2 };
AnyValue { string_value = 1, int_value = 3 }. Wire format: protobuf.dev, "Encoding".
"""

from collections.abc import Mapping

from zerospan.exporter.encode.varint import field, varint

Value = str | int


def encode_resource(attributes: Mapping[str, Value]) -> bytes:
    """The attributes in their order. Integers are those of int64; raises ValueError for others."""
    return b"".join(encode_attribute(0x0A, key, value) for key, value in attributes.items())


def encode_attribute(tag: int, key: str, value: Value) -> bytes:
    """One KeyValue as a repeated field with this tag (less than 128)."""
    return field(tag, _key_value(key, value))


def _key_value(key: str, value: Value) -> bytes:
    if isinstance(value, str):
        any_value = field(0x0A, value.encode())
    else:
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"resource attribute {key}: {value} is no 64-bit integer")
        any_value = b"\x18" + varint(value & (1 << 64) - 1)
    return field(0x0A, key.encode()) + field(0x12, any_value)
