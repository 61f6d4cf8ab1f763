"""The ring's consumer against a producer made of a file: same pages as the kernel's, no kernel needed.

kernel/bpf/ringbuf.c: a page with the consumer's position, one with the producer's, the data area twice.
"""

import os
import random
import struct
import time
from collections.abc import Iterator

import pytest
from tests.unit.ring_kit import DISCARD, SIZE, Producer

from zerospan.exporter.source.ring import Rings


def filled(byte: int, n: int) -> bytes:
    """A record that is not from the future."""
    return (bytes([byte]) * n)[:8] + bytes(max(0, min(n, 16) - 8)) + bytes([byte]) * max(0, n - 16)


@pytest.fixture(params=[0, SIZE - 8, 10 * SIZE + 16, (1 << 40) + SIZE - 24])
def producer(request: pytest.FixtureRequest) -> Iterator[Producer]:
    made = Producer(request.param)
    yield made
    os.close(made.fd)


def test_nothing_waits(producer: Producer) -> None:
    ring = Rings([(producer.fd, SIZE)])
    assert (ring.drain(), ring.records, ring.fill()) == ([], 0, 0)


def test_records_in_order_and_space_given_back(producer: Producer) -> None:
    """Of every length, also those that lie across the end of the area."""
    ring = Rings([(producer.fd, SIZE)])
    total = 0
    for turn in range(4):
        sent = [filled(turn + n & 255, n) for n in range(1, 90, 2)]
        for payload in sent:
            producer.reserve(payload, 0)
        assert ring.fill() == (producer.at - producer.consumed()) / SIZE > 0
        assert ring.drain() == sent
        total += len(sent)
        assert producer.consumed() == producer.at
        assert ring.fill() == 0
    assert ring.records == total


def test_a_record_that_is_being_written_holds_back_what_follows(producer: Producer) -> None:
    ring = Rings([(producer.fd, SIZE)])
    producer.reserve(b"first", 0)
    at = producer.reserve(b"second")
    producer.reserve(b"third", 0)
    assert ring.drain() == [b"first"]
    assert producer.consumed() == at
    assert ring.drain() == []
    producer.submit(at, b"second")
    assert ring.drain() == [b"second", b"third"]
    assert ring.records == 3


def test_discarded_records_are_skipped_and_not_counted(producer: Producer) -> None:
    ring = Rings([(producer.fd, SIZE)])
    producer.reserve(b"gone", DISCARD)
    producer.reserve(b"here", 0)
    producer.reserve(b"gone", DISCARD)
    assert ring.drain() == [b"here"]
    assert ring.records == 1
    assert producer.consumed() == producer.at


def test_goes_on_where_an_earlier_consumer_stopped(producer: Producer) -> None:
    first = Rings([(producer.fd, SIZE)])
    producer.reserve(b"one", 0)
    first.drain()
    producer.reserve(b"two", 0)
    assert Rings([(producer.fd, SIZE)]).drain() == [b"two"]


def test_what_is_no_ring_is_refused() -> None:
    with pytest.raises(OSError, match="ring buffer"):
        Rings([(0x7FFFFFF, SIZE)])


def stamped(time_ns: int, name: bytes = b"") -> bytes:
    return bytes(8) + struct.pack("=Q", time_ns) + name


@pytest.mark.parametrize("rings", [1, 2, 5])
def test_records_of_several_rings_come_by_time_and_none_from_the_future(rings: int) -> None:
    r = random.Random(rings)
    producers = [Producer(r.randrange(0, 4 * SIZE, 8)) for _ in range(rings)]
    source = Rings([(p.fd, SIZE) for p in producers])
    past, got = 0, []
    for _ in range(30):
        wrote = []
        for _ in range(r.randrange(12)):
            past += r.randrange(1, 1000)
            wrote.append(stamped(past, b"%d" % past))
            r.choice(producers).reserve(wrote[-1], 0)
        future = stamped(time.monotonic_ns() + 10**12)
        late = producers[0].reserve(future, 0)
        assert source.drain() == wrote
        assert source.drain() == []
        got += wrote
        producers[0].write(late, struct.pack("=I", len(future) | DISCARD))  # else it would hold up its ring
    assert source.records == len(got) > 50
    assert source.drain() == []
    assert [p.consumed() for p in producers] == [p.at for p in producers]
    for p in producers:
        os.close(p.fd)


def test_a_record_under_way_holds_up_its_own_ring_only() -> None:
    slow, quick = Producer(), Producer()
    source = Rings([(slow.fd, SIZE), (quick.fd, SIZE)])
    at = slow.reserve(stamped(10))
    slow.reserve(stamped(30), 0)
    quick.reserve(stamped(20), 0)
    assert source.drain() == [stamped(20)]
    slow.submit(at, stamped(10))
    quick.reserve(stamped(25), 0)
    assert source.drain() == [stamped(10), stamped(25), stamped(30)]
    os.close(slow.fd)
    os.close(quick.fd)
