"""What the pipeline knows of a sink: batches of encoded items go in, a ledger comes out.

Assumes batches are encoded before they arrive (encoding is not sending). `queue.py` has the sink that sends
with a thread of its own; `build.py` makes the sinks of a configuration. A sink never blocks and never raises
into the pipeline, and at every moment `put_items == sent_items + sum(dropped.values()) + queued_items`.
"""

from typing import Literal, Protocol

import msgspec

Signal = Literal["traces", "logs", "loki"]
Overflow = Literal["drop_oldest", "drop_newest"]

# Why an item (span or log line) was dropped. Loki's own reasons come as "rejected_<reason>".
QUEUE_FULL = "queue_full"  # the queue's bytes were used up
REJECTED = "rejected"  # the receiver will not take it, now or later
RETRIES_EXHAUSTED = "retries_exhausted"  # the receiver could not be reached or was busy for too long
TOO_LARGE = "too_large"  # larger than the queue, or than the receiver takes
SHUTDOWN = "shutdown"  # not sent by the deadline of stop(), or put after it
INTERNAL_ERROR = "internal_error"  # a bug of the sink; the log has its trace


class Batch(msgspec.Struct, frozen=True, gc=False):
    """One encoded request: `count` items (spans, lines) in `payload`, made at `created_ns` (Unix time)."""

    payload: bytes | memoryview
    count: int
    signal: Signal
    created_ns: int


class SinkStats(msgspec.Struct, frozen=True):
    """A sink's ledger at one moment. Bytes are of payloads, `sent_wire_bytes` of bodies (compressed)."""

    name: str
    signal: Signal
    put_items: int
    put_batches: int
    sent_items: int
    sent_batches: int
    sent_bytes: int
    sent_wire_bytes: int
    dropped: dict[str, int]
    retries: int
    queued_items: int
    queued_batches: int
    queue_bytes: int
    queue_limit_bytes: int
    failing: bool  # the last attempt did not succeed
    last_error: str  # empty: none so far
    last_error_ns: int  # Unix time; 0: none so far


class Sink(Protocol):
    """A place that takes batches of one signal."""

    @property
    def name(self) -> str:
        """Unique among the sinks of a run, e.g. "otlp/traces"."""

    @property
    def signal(self) -> Signal:
        """What kind of batch it takes."""

    def put(self, batch: Batch) -> None:
        """Takes a batch, or drops and counts one by the overflow policy. Never blocks, never raises."""

    def start(self) -> None:
        """Begins to send. Batches put before wait."""

    def stop(self, deadline_s: float) -> None:
        """Sends what is queued for at most `deadline_s` seconds, drops and counts the rest. Repeatable."""

    @property
    def stats(self) -> SinkStats:
        """A consistent snapshot; from any thread."""
