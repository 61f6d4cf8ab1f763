"""The agent steps behind other programs while it keeps up, and steps forward when it does not."""

import os
import resource
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tests.unit.ring_kit import SIZE, Producer

from zerospan.exporter.source.pace import Pace
from zerospan.exporter.source.ring import Rings

MAY = os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20
pytestmark = pytest.mark.skipif(not MAY, reason="the way back from SCHED_IDLE needs CAP_SYS_NICE")


@pytest.fixture
def worker() -> Iterator[int]:
    """A thread that only waits; its id."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    assert thread.native_id is not None
    yield thread.native_id
    over.set()
    thread.join()


def until(what: Callable[[], bool], beat: Callable[[], None] = lambda: None) -> None:
    end = time.monotonic() + 10
    while not what():
        assert time.monotonic() < end
        beat()
        time.sleep(0.002)


def test_idle_while_nothing_presses(worker: int) -> None:
    producer = Producer()
    rings = Rings([(producer.fd, SIZE)])
    pace = Pace(rings)

    def beat() -> None:
        pace.beat(0.0)

    pace.start()
    try:
        until(lambda: pace.idle and os.sched_getscheduler(worker) == os.SCHED_IDLE, beat)
        assert pace.hurried == 0
        for _ in range(8):  # records pile up: half of the ring
            producer.reserve(bytes(SIZE // 16 - 8), 0)
        until(lambda: os.sched_getscheduler(worker) == os.SCHED_OTHER, beat)
        assert (pace.idle, pace.hurried) == (False, 1)
        assert len(rings.drain()) == 8
        until(lambda: pace.idle, beat)
        until(lambda: os.sched_getscheduler(worker) == os.SCHED_OTHER, lambda: pace.beat(0.9))  # a sink's queue grows
        until(lambda: pace.idle, beat)
        until(lambda: os.sched_getscheduler(worker) == os.SCHED_OTHER)  # the drain thread does not come round
        assert pace.hurried == 3
    finally:
        pace.stop()
    pace.stop()
    assert os.sched_getscheduler(worker) == os.sched_getscheduler(0) == os.SCHED_OTHER
    os.close(producer.fd)


def test_a_policy_that_somebody_chose_is_left_alone(worker: int) -> None:
    producer = Producer()
    pace = Pace(Rings([(producer.fd, SIZE)]))
    param = os.sched_param(0)
    os.sched_setscheduler(0, os.SCHED_BATCH, param)  # threads inherit it, so does the one that watches
    try:
        pace.start()
        until(lambda: "zs-pace" not in [t.name for t in threading.enumerate()], lambda: pace.beat(0.0))
        assert not pace.idle
        pace.stop()
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, param)
    os.close(producer.fd)
