from collections.abc import Callable

from zerospan.enricher.proxy.config import Signal

class Malformed(ValueError):
    """The bytes are not such a request."""

def rewrite(body: bytes, signal: Signal, replace: Callable[[bytes], bytes | None]) -> tuple[bytes, int]:
    """A whole Export*ServiceRequest with other resources, and the number of its spans, data points or log records.

    replace: is given each encoded Resource (b"" where there is none) and returns another one, or None to leave it; what
    it raises goes through. The same object is returned where nothing changed. Fields that are not known stay. Raises
    Malformed for what is not protobuf down to the spans' and records' borders (in metrics: the points'); at most 2 GiB.
    """

def attributes(resource: bytes) -> list[tuple[str, tuple[str, ...], int, int]]:
    """The attributes of an encoded Resource in order: (key, texts, first byte, byte behind its last).

    texts: the one of a string, those of an array of strings, none for other values. Raises Malformed.
    """

def key_value(key: str, value: str) -> bytes:
    """An attribute as a Resource has it: tag, length and a KeyValue with a string."""
