"""Protobuf's varints and length-delimited fields, for the few messages that Python writes.

Source: protobuf.dev, "Encoding". Spans and records are written by the compiled modules beside this one.
"""


def varint(value: int) -> bytes:
    """An unsigned varint."""
    if value < 128:
        return bytes((value,))
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(tag: int, content: bytes) -> bytes:
    """A length-delimited field. tag: its first byte, the number and wire type 2; for numbers up to 15."""
    n = len(content)
    return bytes((tag, n)) + content if n < 128 else bytes((tag,)) + varint(n) + content
