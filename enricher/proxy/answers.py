"""What the proxy answers, in HTTP and in gRPC: google.rpc.Status with RetryInfo, codes of one for the other.

Sources: the OTLP specification (which codes are retried, RetryInfo, Retry-After); google/rpc/status.proto,
error_details.proto; grpc's list of status codes.
"""

import math

import msgspec

from zerospan.enricher.proxy import ledger
from zerospan.exporter.encode.varint import field, varint
from zerospan.exporter.sinks.retry import RETRY_INFO
from zerospan.exporter.sinks.wire import PartialSuccess

RETRY_S = 1.0  # when a sender may come again where nobody knows better
PROTOBUF = "application/x-protobuf"
JSON = "application/json"
GRPC_NUMBERS = {
    "INVALID_ARGUMENT": 3,
    "RESOURCE_EXHAUSTED": 8,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "UNAUTHENTICATED": 16,
}
# reason -> (HTTP status, gRPC code). A sender that may not try again must not see 429, 502, 503, 504 or UNAVAILABLE.
CODES: dict[str, tuple[int, str]] = {
    ledger.UNAUTHORIZED: (401, "UNAUTHENTICATED"),
    ledger.QUEUE_FULL: (429, "RESOURCE_EXHAUSTED"),
    ledger.TOO_LARGE: (413, "RESOURCE_EXHAUSTED"),
    ledger.MALFORMED: (400, "INVALID_ARGUMENT"),
    ledger.UNSUPPORTED: (415, "UNIMPLEMENTED"),
    ledger.NOT_READ: (408, "INVALID_ARGUMENT"),
    ledger.UNAVAILABLE: (503, "UNAVAILABLE"),
    ledger.REJECTED: (400, "INVALID_ARGUMENT"),
    ledger.SHUTDOWN: (503, "UNAVAILABLE"),
    ledger.INTERNAL_ERROR: (500, "INTERNAL"),
}


class Done(msgspec.Struct, frozen=True):
    """The endpoint took it: its own answer (partial success included), and how many items it did not take."""

    body: bytes
    content_type: str = PROTOBUF
    rejected: int = 0


class Refusal(msgspec.Struct, frozen=True):
    """No, for a reason of ledger.py. retry_s: the sender may come again after so long; None: never."""

    reason: str
    message: str
    retry_s: float | None = None

    @property
    def http(self) -> int:
        return CODES[self.reason][0]

    @property
    def grpc(self) -> str:
        return CODES[self.reason][1]

    def status(self) -> bytes:
        """An encoded google.rpc.Status."""
        out = b"\x08" + varint(GRPC_NUMBERS[self.grpc]) + field(0x12, self.message.encode("utf-8", "replace"))
        if self.retry_s is not None:
            seconds, nanos = divmod(int(self.retry_s * 1e9), 1_000_000_000)
            duration = b"\x08" + varint(seconds) + b"\x10" + varint(nanos)
            info = field(0x0A, f"type.googleapis.com/{RETRY_INFO}".encode()) + field(0x12, field(0x0A, duration))
            out += field(0x1A, info)
        return out

    def json(self) -> bytes:
        """The same for JSON senders."""
        return msgspec.json.encode({"code": GRPC_NUMBERS[self.grpc], "message": self.message})

    def retry_after(self) -> str | None:
        """The header's value: whole seconds."""
        return None if self.retry_s is None else str(max(1, math.ceil(self.retry_s)))


def partial_bytes(partial: PartialSuccess) -> bytes:
    """An encoded Export*ServiceResponse (the three have the same numbers)."""
    inner = b"\x08" + varint(partial.rejected) if partial.rejected else b""
    if partial.message:
        inner += field(0x12, partial.message.encode("utf-8", "replace"))
    return field(0x0A, inner) if inner else b""
