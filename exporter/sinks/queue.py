"""The sink that sends with a thread of its own, behind a queue bounded in bytes.

Subclasses give `_send` (one attempt) and, if a blocked attempt can be broken off, `_abort`. Everything that
can go wrong is an Outcome; an exception of `_send` is a bug, counted as internal_error. One lock guards the
whole ledger, and is never held while anything is sent.
"""

import logging
import threading
import time
from collections import deque

import msgspec

from zerospan.exporter.sinks.base import (
    INTERNAL_ERROR,
    QUEUE_FULL,
    RETRIES_EXHAUSTED,
    SHUTDOWN,
    TOO_LARGE,
    Batch,
    Overflow,
    Signal,
    SinkStats,
)
from zerospan.exporter.sinks.retry import RetryPolicy

log = logging.getLogger("zerospan.sinks")

DEFAULT_QUEUE_BYTES = 32 << 20
ERROR_CHARS = 300  # of a receiver's words in an error
LOG_EVERY_S = 30.0  # a sink that goes on losing says so this often
ABORT_GRACE_S = 0.5  # for a thread whose attempt was broken off


class Sent(msgspec.Struct, frozen=True):
    """The receiver took the batch, but for `rejected` items (reason -> items)."""

    wire_bytes: int
    rejected: dict[str, int] = {}
    message: str = ""


class Retry(msgspec.Struct, frozen=True):
    """It may work later; `after_s`: the receiver's own wish; `unreachable`: there was no answer at all."""

    message: str
    after_s: float | None = None
    unreachable: bool = False


class Refused(msgspec.Struct, frozen=True):
    """It will never work."""

    message: str
    reason: str


Outcome = Sent | Retry | Refused


class QueueSink:
    """Base of the sinks that send. See `base.Sink` for the public methods."""

    def __init__(
        self,
        name: str,
        signal: Signal,
        *,
        queue_bytes: int = DEFAULT_QUEUE_BYTES,
        overflow: Overflow = "drop_oldest",
        retry: RetryPolicy | None = None,
    ) -> None:
        self.name = name
        self.signal = signal
        self._limit = queue_bytes
        self._overflow = overflow
        self._retry = retry or RetryPolicy()
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._stopping = threading.Event()  # breaks off every wait of the thread
        self._deadline = float("inf")  # monotonic; set by stop()
        self._closed = False  # nothing is sent any more
        self._thread: threading.Thread | None = None
        self._not_before = 0.0  # monotonic; a receiver's Retry-After holds for the next batch, too
        self._unsaid = False  # there is something for the log
        self._said_at = float("-inf")  # monotonic; last line in the log
        self._said_ns = 0  # the last error that is in the log
        self._waiting: deque[Batch] = deque()
        self._flying: Batch | None = None
        self._bytes = 0  # of _waiting and _flying
        self._items = 0
        self._put_items = self._put_batches = 0
        self._sent_items = self._sent_batches = self._sent_bytes = self._sent_wire = 0
        self._dropped: dict[str, int] = {}
        self._retries = 0
        self._failing = False
        self._error, self._error_ns = "", 0

    # What a subclass gives

    def _send(self, batch: Batch, first: bool) -> Outcome:
        """One attempt, on the sink's thread; `first`: the first one of this batch. Bounded in time."""
        raise NotImplementedError

    def _abort(self) -> None:
        """Breaks off an attempt under way; from another thread."""

    def _close(self) -> None:
        """Frees connections and files; on the sink's thread, at its end."""

    # The sink

    def put(self, batch: Batch) -> None:
        """Takes a batch, or drops and counts one by the overflow policy. Never blocks, never raises."""
        size = len(batch.payload)
        with self._lock:
            self._put_items += batch.count
            self._put_batches += 1
            if self._stopping.is_set():
                self._drop(batch.count, SHUTDOWN)
                return
            if size > self._limit:
                self._drop(batch.count, TOO_LARGE)
                told = f"a batch of {size} bytes is larger than the queue ({self._limit} bytes)"
                self._note(told, self._failing)
                self._wake.notify()  # the thread says it: a log may block, put() may not
                return
            flying = len(self._flying.payload) if self._flying is not None else 0
            if self._bytes + size > self._limit and (self._overflow == "drop_newest" or size + flying > self._limit):
                self._overflowed(batch)
                return
            while self._bytes + size > self._limit:
                oldest = self._waiting.popleft()
                self._forget(oldest)
                self._overflowed(oldest)
            self._waiting.append(batch)
            self._bytes += size
            self._items += batch.count
            self._wake.notify()

    def start(self) -> None:
        """Begins to send. Batches put before wait."""
        with self._lock:
            if self._thread is not None or self._stopping.is_set():
                return
            self._thread = threading.Thread(target=self._run, name=f"zs-{self.name}"[:15], daemon=True)
            self._thread.start()

    def stop(self, deadline_s: float) -> None:
        """Sends what is queued for at most `deadline_s` seconds, drops and counts the rest. Repeatable."""
        with self._lock:
            first = not self._stopping.is_set()
            if first:
                self._deadline = time.monotonic() + max(0.0, deadline_s)
            self._stopping.set()
            self._wake.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, self._deadline - time.monotonic()))
            if thread.is_alive():
                self._closed = True
                self._abort()
                thread.join(ABORT_GRACE_S)
        self._shut()
        if first and thread is None:
            self._close()
        if first and (lost := self.stats.dropped.get(SHUTDOWN)):
            log.warning("%s: %d %s not sent by the end: %s", self.name, lost, _noun(self.signal), self._why())

    @property
    def stats(self) -> SinkStats:
        """A consistent snapshot; from any thread."""
        with self._lock:
            return SinkStats(
                name=self.name,
                signal=self.signal,
                put_items=self._put_items,
                put_batches=self._put_batches,
                sent_items=self._sent_items,
                sent_batches=self._sent_batches,
                sent_bytes=self._sent_bytes,
                sent_wire_bytes=self._sent_wire,
                dropped=dict(self._dropped),
                retries=self._retries,
                queued_items=self._items,
                queued_batches=len(self._waiting) + (self._flying is not None),
                queue_bytes=self._bytes,
                queue_limit_bytes=self._limit,
                failing=self._failing,
                last_error=self._error,
                last_error_ns=self._error_ns,
            )

    # The thread

    def _run(self) -> None:
        try:
            while (batch := self._next()) is not None:
                if not self._deliver(batch):
                    break
        except Exception:
            log.exception("%s: the sink's thread ended; what follows is dropped", self.name)
            self._stopping.set()
        finally:
            self._shut()
            try:
                self._close()
            except Exception:
                log.exception("%s: closing failed", self.name)

    def _next(self) -> Batch | None:
        """The next batch, now in flight; None once stop() was called and nothing is left."""
        while True:
            with self._lock:
                if self._waiting:
                    self._flying = self._waiting.popleft()
                    return self._flying
                if self._stopping.is_set():
                    return None
                if not self._unsaid:
                    self._wake.wait()
                    continue
            self._say()

    def _deliver(self, batch: Batch) -> bool:
        """Tries until the batch is settled; False where stop() leaves no sense in going on."""
        failures = 0
        give_up_at = float("inf")
        while True:
            if not self._wait_until(self._not_before) or self._closed or time.monotonic() > self._deadline:
                return False
            if failures:
                with self._lock:
                    self._retries += 1
            try:
                outcome = self._send(batch, failures == 0)
            except Exception as e:
                log.exception("%s: sending failed with an error of our own", self.name)
                outcome = Refused(f"internal error: {type(e).__name__}", INTERNAL_ERROR)
            if not isinstance(outcome, Retry):
                self._settle(batch, outcome)
                return True
            failures += 1
            now = time.monotonic()
            give_up_at = min(give_up_at, now + self._retry.max_elapsed_s)
            if outcome.after_s is not None:  # asked for by the receiver: also the next batch waits
                wait = min(outcome.after_s, self._retry.max_elapsed_s)
                self._not_before = now + wait
            else:
                wait = self._retry.wait_s(failures)
            with self._lock:
                self._note(outcome.message, failing=True)
            self._say()
            if self._stopping.is_set():
                # One answerless attempt is enough at the end; a busy receiver is waited for while there is
                # time.
                if outcome.unreachable or now + wait >= self._deadline:
                    return False
            elif now + wait >= give_up_at:
                given_up = f"given up after {failures} attempts: {outcome.message}"
                self._settle(batch, Refused(given_up, RETRIES_EXHAUSTED))
                return True
            if outcome.after_s is None:
                self._pause(wait)

    def _pause(self, seconds: float) -> None:
        """A wait of our own choice: stop() ends it. During stop() it is kept, within the deadline."""
        if self._stopping.is_set():
            time.sleep(max(0.0, min(seconds, self._deadline - time.monotonic())))
        else:
            self._stopping.wait(seconds)

    def _wait_until(self, at: float) -> bool:
        """A wait that the receiver asked for, kept during stop(); False where it is beyond the deadline."""
        while (left := at - time.monotonic()) > 0:
            if not self._stopping.is_set():
                self._stopping.wait(left)
                continue
            if at >= self._deadline or self._closed:
                return False
            time.sleep(min(left, 0.05))
        return True

    # The ledger (with the lock held, but for _settle, _shut and _say, which take it)

    def _settle(self, batch: Batch, outcome: Sent | Refused) -> None:
        with self._lock:
            if self._flying is not batch:  # stop() has counted it already
                return
            self._flying = None
            self._forget(batch)
            if isinstance(outcome, Refused):
                self._drop(batch.count, outcome.reason)
                self._note(outcome.message, failing=True)
            else:
                left = batch.count
                for reason, items in outcome.rejected.items():
                    items = min(items, left)
                    left -= items
                    self._drop(items, reason)
                self._sent_items += left
                self._sent_batches += 1
                self._sent_bytes += len(batch.payload)
                self._sent_wire += outcome.wire_bytes
                if outcome.message:
                    self._note(outcome.message, failing=False)
                self._unsaid |= self._failing
                self._failing = False
        self._say()

    def _shut(self) -> None:
        """Drops what is left and counts it."""
        with self._lock:
            self._closed = True
            left = [*([self._flying] if self._flying is not None else []), *self._waiting]
            self._flying = None
            self._waiting.clear()
            for batch in left:
                self._forget(batch)
                self._drop(batch.count, SHUTDOWN)

    def _overflowed(self, batch: Batch) -> None:
        self._drop(batch.count, QUEUE_FULL)
        if not self._failing:  # else the receiver's own error says more
            self._note(f"the queue of {self._limit} bytes is full: the receiver is too slow", failing=False)

    def _forget(self, batch: Batch) -> None:
        self._bytes -= len(batch.payload)
        self._items -= batch.count

    def _drop(self, items: int, reason: str) -> None:
        if items:
            self._dropped[reason] = self._dropped.get(reason, 0) + items

    def _note(self, message: str, failing: bool) -> None:
        """Keeps an error; `_say` brings it to the log when it is new or has gone on for a while."""
        self._error = printable(message)
        self._error_ns = time.time_ns()
        self._unsaid |= failing != self._failing or time.monotonic() - self._said_at >= LOG_EVERY_S
        self._failing = failing

    def _say(self) -> None:
        """Logs what is unsaid. On the sink's thread, without the lock: a log may block."""
        if not self._unsaid:
            return
        self._unsaid = False
        now = self.stats
        well = not now.failing and now.last_error_ns <= self._said_ns
        self._said_at, self._said_ns = time.monotonic(), now.last_error_ns
        if well:
            log.info("%s: works again", self.name)
        else:
            log.warning(
                "%s: %s (%d %s queued, dropped so far: %s)",
                self.name,
                now.last_error,
                now.queued_items,
                _noun(self.signal),
                now.dropped or "none",
            )

    def _why(self) -> str:
        return self._error or "the deadline came first"


def printable(text: str) -> str:
    """`text` on one line, bounded, without control characters: safe in a log and on a terminal."""
    return "".join(c if c.isprintable() else " " for c in text[:ERROR_CHARS]).strip()


def _noun(signal: Signal) -> str:
    return "spans" if signal == "traces" else "log lines"
