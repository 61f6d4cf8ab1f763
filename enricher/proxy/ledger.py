"""The proxy's books: at every moment received = forwarded + refused by reason + in flight, in requests and in items.

Items are spans, data points and log records; a request that was refused before it was read has none. Thread-safe.
"""

import threading

import msgspec

from zerospan.enricher.proxy.config import SIGNALS, Signal

# Why a request was not taken. The sender is told each time; what says (retry) it may send again.
UNAUTHORIZED = "unauthorized"
QUEUE_FULL = "queue_full"  # (retry) queue_bytes are in use
TOO_LARGE = "too_large"  # than max_request_bytes, or than the endpoint takes
MALFORMED = "malformed"  # not protobuf, JSON, gzip or HTTP
UNSUPPORTED = "unsupported"  # content type or encoding
NOT_READ = "not_read"  # the sender broke off, or was slower than read_s
UNAVAILABLE = "unavailable"  # (retry) the endpoint does not answer, or says later
REJECTED = "rejected"  # the endpoint will not take it; items also by its partial success
SHUTDOWN = "shutdown"  # (retry)
INTERNAL_ERROR = "internal_error"  # a bug; the log has its trace


class SignalStats(msgspec.Struct, kw_only=True):
    """Of one signal."""

    received: int = 0
    forwarded: int = 0
    refused: dict[str, int] = {}
    in_flight: int = 0
    received_items: int = 0
    forwarded_items: int = 0
    refused_items: dict[str, int] = {}
    in_flight_items: int = 0
    retries: int = 0
    unheard: int = 0  # forwarded, but the sender had gone (or closed its side) by then: it may send again

    def balanced(self) -> bool:
        """The invariant."""
        requests = self.received == self.forwarded + sum(self.refused.values()) + self.in_flight
        items = self.forwarded_items + sum(self.refused_items.values()) + self.in_flight_items
        return requests and self.received_items == items


class Ledger:
    """All signals, and the memory that requests hold."""

    def __init__(self, queue_bytes: int) -> None:
        self.held_bytes = 0
        self.limit_bytes = queue_bytes
        self._lock = threading.Lock()
        self._signals = {signal: SignalStats(refused={}, refused_items={}) for signal in SIGNALS}

    def open(self, signal: Signal) -> "Entry":
        """A request has come."""
        with self._lock:
            stats = self._signals[signal]
            stats.received += 1
            stats.in_flight += 1
        return Entry(self, signal)

    def snapshot(self) -> dict[Signal, SignalStats]:
        """A consistent copy."""
        with self._lock:
            return {
                signal: msgspec.structs.replace(
                    stats, refused=dict(stats.refused), refused_items=dict(stats.refused_items)
                )
                for signal, stats in self._signals.items()
            }


class Entry:
    """One request's line. Every method may be called when it is settled already: the first word counts."""

    __slots__ = ("_held", "_items", "_ledger", "_open", "signal")

    def __init__(self, ledger: Ledger, signal: Signal) -> None:
        self.signal: Signal = signal
        self._ledger = ledger
        self._held = 0
        self._items = 0
        self._open = True

    def hold(self, size: int) -> bool:
        """Takes memory for the request; False (nothing taken) where there is none, or it is settled."""
        ledger = self._ledger
        with ledger._lock:
            if not self._open or ledger.held_bytes + size > ledger.limit_bytes:
                return False
            ledger.held_bytes += size
            self._held += size
            return True

    def resize(self, size: int) -> bool:
        """Holds so much from now on; False (nothing changed) where there is no room."""
        if size > self._held:
            return self.hold(size - self._held)
        self.release(self._held - size)
        return True

    def release(self, size: int) -> None:
        """Gives some of what is held back."""
        with self._ledger._lock:
            if self._open:
                self._ledger.held_bytes -= size
                self._held -= size

    def count(self, items: int) -> None:
        """What is in it is known."""
        with self._ledger._lock:
            if not self._open:
                return
            stats = self._ledger._signals[self.signal]
            self._items = items
            stats.received_items += items
            stats.in_flight_items += items

    def retried(self) -> None:
        """Another attempt begins."""
        with self._ledger._lock:
            self._ledger._signals[self.signal].retries += 1

    def forwarded(self, rejected: int = 0, heard: bool = True) -> None:
        """The endpoint has it, but for `rejected` items."""
        with self._ledger._lock:
            stats = self._settle()
            if stats is not None:
                stats.forwarded += 1
                rejected = min(rejected, self._items)
                stats.forwarded_items += self._items - rejected
                if rejected:
                    stats.refused_items[REJECTED] = stats.refused_items.get(REJECTED, 0) + rejected
                stats.unheard += not heard

    def refuse(self, reason: str) -> None:
        """The sender is told no."""
        with self._ledger._lock:
            stats = self._settle()
            if stats is not None:
                stats.refused[reason] = stats.refused.get(reason, 0) + 1
                if self._items:
                    stats.refused_items[reason] = stats.refused_items.get(reason, 0) + self._items

    def _settle(self) -> SignalStats | None:
        if not self._open:
            return None
        self._open = False
        self._ledger.held_bytes -= self._held
        stats = self._ledger._signals[self.signal]
        stats.in_flight -= 1
        stats.in_flight_items -= self._items
        return stats
