"""A tiny reader of protobuf messages, for the few answers that a sink must understand.

Sans-IO; takes any bytes: what is malformed ends the walk, silently, as an answer that says nothing. Linear in
the input. Source: protobuf.dev, "Encoding". (Requests are written by zerospan.exporter.encode.)
"""

from collections.abc import Iterator

import msgspec


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) in order: varint and fixed as unsigned int, length-delimited as bytes."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if at < 0 or number == 0:
            return
        if kind == 0:
            value, at = _varint(message, at)
            if at < 0:
                return
            yield number, value
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            if at + size > end:
                return
            yield number, int.from_bytes(message[at : at + size], "little")
            at += size
        elif kind == 2:
            size, at = _varint(message, at)
            if at < 0 or at + size > end:
                return
            yield number, message[at : at + size]
            at += size
        else:  # groups are long gone from OTLP and google.rpc
            return


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """(value, next offset); the offset is -1 where the number does not end within 10 bytes."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    return 0, -1


def int64(value: int) -> int:
    """An unsigned varint read as int64."""
    return value - (1 << 64) if value >= 1 << 63 else value


class PartialSuccess(msgspec.Struct, frozen=True):
    """What an OTLP receiver did not take, and why (the reason may stand alone: a warning)."""

    rejected: int = 0
    message: str = ""


def partial_success(response: bytes) -> PartialSuccess:
    """`partial_success` of an encoded Export{Trace,Logs}ServiceResponse (same numbers)."""
    rejected, message = 0, ""
    for number, value in fields(response):
        if number != 1 or not isinstance(value, bytes):
            continue
        for inner, inner_value in fields(value):
            if inner == 1 and isinstance(inner_value, int):
                rejected = max(0, int64(inner_value))
            elif inner == 2 and isinstance(inner_value, bytes):
                message = inner_value.decode("utf-8", "replace")
    return PartialSuccess(rejected, message)
