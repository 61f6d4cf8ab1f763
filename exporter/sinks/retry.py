"""When to try again: exponential back-off with full jitter, and what a receiver says about it.

Pure but for the random number. Used by `queue.py` (waiting) and the senders (reading Retry-After, RetryInfo).
Sources: RFC 9110 section 10.2.3 (Retry-After); the OTLP specification ("OTLP/HTTP Throttling", "OTLP/gRPC
Throttling"); google/rpc/error_details.proto (RetryInfo), google/rpc/status.proto.
"""

import email.utils
import random
import time
from collections.abc import Callable

import msgspec

from zerospan.exporter.sinks import wire

RETRY_INFO = "google.rpc.RetryInfo"


class RetryPolicy(msgspec.Struct, frozen=True):
    """Seconds. A wait is uniform in 0..min(max_s, initial_s * 2^n); a batch is given up `max_elapsed_s` after
    its first failure (0: no retry at all)."""

    initial_s: float = 0.5
    max_s: float = 30.0
    max_elapsed_s: float = 300.0

    def wait_s(self, failures: int, uniform: Callable[[float, float], float] = random.uniform) -> float:
        """Time to wait after the `failures`-th failure in a row (1 = the first)."""
        ceiling = min(self.max_s, self.initial_s * 2.0 ** min(failures - 1, 60))
        return uniform(0.0, ceiling)


def parse_retry_after(text: str | None, now: Callable[[], float] = time.time) -> float | None:
    """Seconds of a Retry-After header (a number, or an HTTP date); None where it cannot be understood."""
    text = (text or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])  # longer numbers are decades anyhow
    if not text:
        return None
    try:
        at = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0.0, at.timestamp() - now())


def retry_info_s(status: bytes) -> float | None:
    """Seconds of the RetryInfo in an encoded google.rpc.Status; None where there is none."""
    for number, value in wire.fields(status):
        if number != 3 or not isinstance(value, bytes):  # Status.details: google.protobuf.Any
            continue
        kind, body = b"", b""
        for any_number, any_value in wire.fields(value):
            if any_number == 1 and isinstance(any_value, bytes):
                kind = any_value
            elif any_number == 2 and isinstance(any_value, bytes):
                body = any_value
        if kind.rpartition(b"/")[2] != RETRY_INFO.encode():
            continue
        for info_number, delay in wire.fields(body):
            if info_number == 1 and isinstance(delay, bytes):  # RetryInfo.retry_delay: Duration
                parts = {n: wire.int64(v) for n, v in wire.fields(delay) if isinstance(v, int)}
                return max(0.0, parts.get(1, 0) + parts.get(2, 0) / 1e9)
        return 0.0
    return None


def status_message(status: bytes) -> str:
    """The message of an encoded google.rpc.Status; empty where there is none."""
    for number, value in wire.fields(status):
        if number == 2 and isinstance(value, bytes):
            return value.decode("utf-8", "replace")
    return ""
