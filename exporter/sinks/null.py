"""The sink that counts and throws away: for benchmarks of what stands before it. No thread, no queue."""

import threading

from zerospan.exporter.sinks.base import SHUTDOWN, Batch, Signal, SinkStats


class NullSink:
    """Counts every batch as sent at once."""

    def __init__(self, name: str, signal: Signal) -> None:
        self.name = name
        self.signal = signal
        self._lock = threading.Lock()
        self._stopped = False
        self._items = self._batches = self._bytes = self._late_items = self._late_batches = 0

    def put(self, batch: Batch) -> None:
        """Counts; after stop() as dropped."""
        with self._lock:
            if self._stopped:
                self._late_items += batch.count
                self._late_batches += 1
                return
            self._items += batch.count
            self._batches += 1
            self._bytes += len(batch.payload)

    def start(self) -> None:
        """Nothing to do."""

    def stop(self, deadline_s: float) -> None:
        """What comes now is dropped."""
        with self._lock:
            self._stopped = True

    @property
    def stats(self) -> SinkStats:
        """A consistent snapshot; from any thread."""
        with self._lock:
            return SinkStats(
                name=self.name,
                signal=self.signal,
                put_items=self._items + self._late_items,
                put_batches=self._batches + self._late_batches,
                sent_items=self._items,
                sent_batches=self._batches,
                sent_bytes=self._bytes,
                sent_wire_bytes=0,
                dropped={SHUTDOWN: self._late_items} if self._late_items else {},
                retries=0,
                queued_items=0,
                queued_batches=0,
                queue_bytes=0,
                queue_limit_bytes=0,
                failing=False,
                last_error="",
                last_error_ns=0,
            )
