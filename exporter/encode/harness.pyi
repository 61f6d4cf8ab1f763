from collections.abc import Mapping, Sequence

from zerospan.exporter.encode.batch import BatchEncoder
from zerospan.exporter.tags.peer import PeerTags

STRINGS: tuple[str, ...]

def encode(spans: Sequence[Mapping[str, object]], processes: Sequence[Mapping[str, object]] = ()) -> dict[str, bytes]:
    """The request bodies of these spans: {"traces": protobuf, "logs": protobuf, "loki": JSON}.

    A span is a dict with the fields of SpanRec and SpanContext by name (missing ones: 0, or -1 where that
    means "not known"); texts by the names in STRINGS, as str or bytes; "local_addr" and "remote_addr" as
    text; "trace_id" as 16 bytes. "proc" and "peer_proc" count from 1 into `processes`: dicts with "name"
    (str), "resource" (encoded Resource), "labels" and "meta" (JSON members). ValueError: a field that is not there.
    """

def fill(
    batch: BatchEncoder, spans: Sequence[Mapping[str, object]], processes: Sequence[Mapping[str, object]] = ()
) -> int:
    """Adds spans to a batch that lives on; returns how many were taken."""

def flood(batch: BatchEncoder, span: Mapping[str, object], n: int) -> int:
    """Adds the same span n times; returns how many were taken (fewer than n: no memory)."""

def name(span: Mapping[str, object]) -> dict[str, str]:
    """What name.pxd says of a span: span_name, error_type, http_method, server_address, server_port."""

def text(data: bytes, cap: int) -> bytes:
    """text_copy of encode/text.pxd."""

def json_text(data: bytes) -> bytes:
    """json_chars of encode/text.pxd."""

def address(data: bytes) -> str:
    """put_address of 4 or 16 bytes."""

def milliseconds(ns: int) -> str:
    """put_ms."""

def bench(n: int, span: Mapping[str, object], what: str = "traces", who: PeerTags | None = None) -> float:
    """Mean nanoseconds to encode a span ("traces"), log record ("logs") or Loki value ("loki"), over n.

    who: tags of the other end.
    """
