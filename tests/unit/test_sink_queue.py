"""The engine of the sinks: ledger, overflow, retry, stop. The receiver is a script of outcomes."""

import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from sink_receivers import balanced, batch, until

from zerospan.exporter.sinks.base import Batch, Overflow
from zerospan.exporter.sinks.null import NullSink
from zerospan.exporter.sinks.queue import Outcome, QueueSink, Refused, Retry, Sent, printable
from zerospan.exporter.sinks.retry import RetryPolicy

FAST = RetryPolicy(initial_s=0.001, max_s=0.004, max_elapsed_s=60)


class Scripted(QueueSink):
    """Sends by calling a function; keeps the payloads that were taken."""

    def __init__(
        self,
        send: Callable[[Batch], Outcome],
        queue_bytes: int = 1000,
        overflow: Overflow = "drop_oldest",
        retry: RetryPolicy = FAST,
    ) -> None:
        super().__init__("test", "traces", queue_bytes=queue_bytes, overflow=overflow, retry=retry)
        self.script = send
        self.taken: list[bytes] = []
        self.attempts = 0
        self.aborted = threading.Event()

    def _send(self, batch: Batch, first: bool) -> Outcome:
        self.attempts += 1
        outcome = self.script(batch)
        if isinstance(outcome, Sent):
            self.taken.append(batch.payload)
        return outcome

    def _abort(self) -> None:
        self.aborted.set()


def taken(batch: Batch) -> Outcome:
    return Sent(len(batch.payload))


def test_batches_leave_in_order_and_are_counted() -> None:
    sink = Scripted(taken)
    for i in range(5):
        sink.put(batch(b"%d" % i, count=i))
    assert sink.stats.queued_items == 10 and sink.stats.queue_bytes == 5
    sink.start()
    sink.stop(5)
    stats = sink.stats
    assert sink.taken == [b"0", b"1", b"2", b"3", b"4"]
    assert (stats.put_items, stats.sent_items, stats.sent_batches, stats.sent_bytes) == (10, 10, 5, 5)
    assert stats.dropped == {} and stats.queue_bytes == stats.queued_items == stats.queued_batches == 0
    assert not stats.failing and stats.last_error == ""


def test_overflow_drops_the_oldest() -> None:
    sink = Scripted(taken, queue_bytes=30)
    for i in range(5):
        sink.put(batch(b"%d" % i * 10, count=7))
    assert sink.stats.dropped == {"queue_full": 14} and sink.stats.queue_bytes == 30
    sink.start()
    sink.stop(5)
    assert [p[:1] for p in sink.taken] == [b"2", b"3", b"4"]


def test_overflow_drops_the_newest() -> None:
    sink = Scripted(taken, queue_bytes=30, overflow="drop_newest")
    for i in range(5):
        sink.put(batch(b"%d" % i * 10, count=7))
    assert sink.stats.dropped == {"queue_full": 14}
    sink.start()
    sink.stop(5)
    assert [p[:1] for p in sink.taken] == [b"0", b"1", b"2"]


def test_a_batch_in_flight_is_not_dropped_and_its_bytes_count() -> None:
    go = threading.Event()

    def send(batch: Batch) -> Outcome:
        go.wait(10)
        return Sent(1)

    sink = Scripted(send, queue_bytes=30)
    sink.start()
    sink.put(batch(b"a" * 20))
    until(lambda: sink.attempts == 1)
    sink.put(batch(b"b" * 20))  # does not fit beside the one in flight, and nothing else can go
    assert sink.stats.dropped == {"queue_full": 1} and sink.stats.queue_bytes == 20
    sink.put(batch(b"c" * 10))
    sink.put(batch(b"d" * 5))
    assert sink.stats.dropped == {"queue_full": 2} and sink.stats.queue_bytes == 25
    go.set()
    sink.stop(5)
    assert [p[:1] for p in sink.taken] == [b"a", b"d"]


def test_a_batch_larger_than_the_queue_is_too_large() -> None:
    sink = Scripted(taken, queue_bytes=10)
    sink.put(batch(b"x" * 11, count=3))
    assert sink.stats.dropped == {"too_large": 3} and "11 bytes" in sink.stats.last_error


def test_a_slow_receiver_does_not_block_put() -> None:
    go = threading.Event()

    def send(batch: Batch) -> Outcome:
        go.wait(20)
        return Sent(1)

    sink = Scripted(send, queue_bytes=100)
    sink.start()
    began = time.monotonic()
    for _ in range(5000):
        sink.put(batch(b"x" * 10))
    assert time.monotonic() - began < 5 and not go.is_set()
    assert balanced(sink.stats) and sink.stats.dropped["queue_full"] >= 4980
    go.set()
    sink.stop(5)
    assert balanced(sink.stats)


def test_retries_until_it_works() -> None:
    outcomes: list[Outcome] = [Retry("busy"), Retry("away", unreachable=True), Sent(1)]
    sink = Scripted(lambda _: outcomes.pop(0))
    sink.start()
    sink.put(batch(count=4))
    until(lambda: sink.stats.sent_items == 4)
    assert sink.stats.retries == 2 and sink.stats.last_error == "away" and not sink.stats.failing
    assert sink.stats.last_error_ns > 0
    sink.stop(1)


def test_gives_up_after_max_elapsed_and_goes_on_with_the_next() -> None:
    sink = Scripted(
        lambda b: Retry("busy") if b.payload == b"bad" else Sent(1),
        retry=RetryPolicy(initial_s=0.001, max_s=0.002, max_elapsed_s=0.02),
    )
    sink.start()
    sink.put(batch(b"bad", count=2))
    sink.put(batch(b"good", count=3))
    until(lambda: sink.stats.sent_items == 3)
    assert sink.stats.dropped == {"retries_exhausted": 2} and "given up after" in sink.stats.last_error
    sink.stop(1)


def test_no_retry_when_max_elapsed_is_zero() -> None:
    sink = Scripted(lambda _: Retry("busy"), retry=RetryPolicy(max_elapsed_s=0))
    sink.start()
    sink.put(batch())
    until(lambda: sink.stats.dropped == {"retries_exhausted": 1})
    assert sink.attempts == 1 and sink.stats.retries == 0
    sink.stop(1)


def test_the_receivers_wish_is_kept_also_for_the_next_batch() -> None:
    times: list[float] = []

    def send(batch: Batch) -> Outcome:
        times.append(time.monotonic())
        return Retry("busy", after_s=0.15) if batch.payload == b"1" and len(times) == 1 else Sent(1)

    sink = Scripted(send)
    sink.start()
    sink.put(batch(b"1"))
    until(lambda: len(times) == 2)
    assert times[1] - times[0] >= 0.15
    sink.stop(1)

    times.clear()
    hopeless = Scripted(
        lambda b: times.append(time.monotonic()) or (Retry("busy", after_s=9999) if b.payload == b"1" else Sent(1)),  # type: ignore[func-returns-value]
        retry=RetryPolicy(max_elapsed_s=0.1),
    )
    hopeless.start()
    hopeless.put(batch(b"1"))
    hopeless.put(batch(b"2"))
    until(lambda: hopeless.stats.sent_items == 1)
    assert hopeless.stats.dropped == {"retries_exhausted": 1} and times[1] - times[0] >= 0.1
    hopeless.stop(1)


@pytest.mark.parametrize("after_s", [None, 300.0])
def test_stop_ends_a_wait_at_once(after_s: float | None) -> None:
    sink = Scripted(
        lambda _: Retry("away", after_s, unreachable=after_s is None),
        retry=RetryPolicy(initial_s=1000, max_s=1000, max_elapsed_s=10_000),
    )
    sink.start()
    sink.put(batch(count=5))
    sink.put(batch(count=6))
    until(lambda: sink.stats.failing)
    began = time.monotonic()
    sink.stop(30)
    assert time.monotonic() - began < 5
    assert sink.stats.dropped == {"shutdown": 11} and balanced(sink.stats)


def test_at_the_end_nobody_there_is_asked_once() -> None:
    began = time.monotonic()
    go = threading.Event()

    def away(batch: Batch) -> Outcome:
        go.wait(10)
        return Retry("away", unreachable=True)

    sink = Scripted(away)
    sink.start()
    sink.put(batch(count=5))
    sink.put(batch(count=6))
    until(lambda: sink.attempts == 1)
    stopper = threading.Thread(target=sink.stop, args=(30,))
    stopper.start()
    until(sink._stopping.is_set)
    go.set()
    stopper.join()
    assert sink.attempts == 1 and time.monotonic() - began < 10
    assert sink.stats.dropped == {"shutdown": 11}


def test_stop_waits_for_a_busy_receiver_within_the_deadline() -> None:
    outcomes: list[Outcome] = [Retry("busy", after_s=0.05), Retry("busy"), Sent(1), Sent(1)]
    sink = Scripted(lambda _: outcomes.pop(0))
    sink.put(batch())
    sink.put(batch())
    sink.start()
    sink.stop(10)
    assert sink.stats.sent_items == 2 and sink.stats.dropped == {}


def test_stop_keeps_its_deadline_against_a_receiver_that_hangs() -> None:
    sink = Scripted(taken)

    def hang(batch: Batch) -> Outcome:
        sink.aborted.wait(30)
        return Retry("broken off", unreachable=True)

    sink.script = hang
    sink.start()
    sink.put(batch(count=2))
    sink.put(batch(count=3))
    until(lambda: sink.attempts == 1)
    began = time.monotonic()
    sink.stop(0.2)
    assert 0.2 <= time.monotonic() - began < 3
    assert sink.stats.dropped == {"shutdown": 5} and balanced(sink.stats)


def test_an_attempt_that_ends_after_stop_is_not_counted_twice() -> None:
    go = threading.Event()

    def deaf(batch: Batch) -> Outcome:
        go.wait(30)
        return Sent(1)

    sink = Scripted(deaf)
    sink.start()
    sink.put(batch(count=2))
    until(lambda: sink.attempts == 1)
    sink.stop(0)
    assert sink.stats.dropped == {"shutdown": 2}
    go.set()
    until(lambda: sink._thread is not None and not sink._thread.is_alive())
    assert sink.stats.sent_items == 0 and balanced(sink.stats)


def test_what_is_put_after_stop_or_never_started_is_shutdown() -> None:
    sink = Scripted(taken)
    sink.put(batch(count=1))
    sink.stop(1)
    sink.put(batch(count=2))
    sink.stop(1)
    sink.start()
    assert sink.stats.dropped == {"shutdown": 3} and balanced(sink.stats) and sink.attempts == 0


def test_rejected_items_of_a_taken_batch_are_dropped_by_reason_and_never_more_than_there_were() -> None:
    outcomes: list[Outcome] = [
        Sent(1, {"rejected": 3}, "3 bad"),
        Sent(1, {"a": 8, "b": 8}),
        Refused("no", "rejected"),
    ]
    sink = Scripted(lambda _: outcomes.pop(0))
    sink.start()
    sink.put(batch(count=10))
    until(lambda: sink.stats.sent_items == 7)
    assert sink.stats.last_error == "3 bad" and not sink.stats.failing
    sink.put(batch(count=10))
    sink.put(batch(count=1))
    until(lambda: sink.stats.queued_items == 0)
    assert sink.stats.sent_items == 7 and sink.stats.dropped == {"rejected": 4, "a": 8, "b": 2}
    sink.stop(1)


def test_an_error_of_our_own_is_counted_and_does_not_end_the_sink() -> None:
    def send(batch: Batch) -> Outcome:
        if batch.payload == b"bug":
            raise KeyError("secret value")
        return Sent(1)

    sink = Scripted(send)
    sink.start()
    sink.put(batch(b"bug", count=2))
    sink.put(batch(b"ok", count=3))
    until(lambda: sink.stats.sent_items == 3)
    assert sink.stats.dropped == {"internal_error": 2} and "secret" not in sink.stats.last_error
    sink.stop(1)


def test_the_ledger_balances_at_every_moment() -> None:
    chance = random.Random(3)

    def send(batch: Batch) -> Outcome:
        return chance.choice(
            [
                Sent(1),
                Sent(1, {"rejected": 2}),
                Retry("busy"),
                Retry("b", after_s=0.0),
                Refused("no", "rejected"),
            ]
        )

    sink = Scripted(send, queue_bytes=400, retry=RetryPolicy(initial_s=0.0005, max_s=0.001, max_elapsed_s=0.003))
    wrong: list[object] = []
    done = threading.Event()
    samples = 0

    def watch() -> None:
        nonlocal samples
        while not done.is_set():
            stats = sink.stats
            samples += 1
            if not balanced(stats) or not 0 <= stats.queue_bytes <= 400:
                wrong.append(stats)

    def put(seed: int) -> None:
        own = random.Random(seed)
        for _ in range(1500):
            sink.put(batch(b"x" * own.randrange(0, 60), count=own.randrange(0, 9)))

    putters = [threading.Thread(target=put, args=(seed,)) for seed in range(4)]
    watcher = threading.Thread(target=watch)
    watcher.start()
    sink.start()
    for thread in putters:
        thread.start()
    for thread in putters:
        thread.join()
    sink.stop(0.3)
    done.set()
    watcher.join()
    stats = sink.stats
    assert not wrong and samples > 100
    assert balanced(stats) and stats.queued_items == 0 and stats.put_batches == 6000
    assert stats.sent_items > 0 and stats.dropped["queue_full"] > 0 and stats.dropped["rejected"] > 0


def test_the_null_sink_counts() -> None:
    sink = NullSink("null", "traces")
    sink.start()
    sink.put(batch(b"abc", count=3))
    sink.stop(0)
    sink.put(batch(b"abc", count=4))
    assert sink.stats.sent_items == 3 and sink.stats.sent_bytes == 3
    assert sink.stats.dropped == {"shutdown": 4} and balanced(sink.stats)


def test_errors_are_safe_to_print() -> None:
    assert printable("a\x1b[31m\r\nb" + "x" * 5000).startswith("a [31m  bxxx")
    assert len(printable("x" * 5000)) == 300
