"""The ring's consumer against a producer made of a file: same pages as the kernel's, no kernel needed.

kernel/bpf/ringbuf.c: a page with the consumer's position, one with the producer's, the data area twice.
"""

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from zerospan.exporter.source.ring import Ring

PAGE = mmap.PAGESIZE
SIZE = 2 * PAGE
BUSY, DISCARD = 1 << 31, 1 << 30


class Producer:
    """Writes as bpf_ringbuf_reserve and bpf_ringbuf_submit do."""

    def __init__(self, start: int = 0) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + 2 * SIZE)
        self.at = start
        os.pwrite(self.fd, struct.pack("=Q", start), 0)
        os.pwrite(self.fd, struct.pack("=Q", start), PAGE)

    def consumed(self) -> int:
        return int(struct.unpack("=Q", os.pread(self.fd, 8, 0))[0])

    def write(self, at: int, data: bytes) -> None:
        for i, byte in enumerate(data):
            place = (at + i) % SIZE
            for copy in (0, SIZE):
                os.pwrite(self.fd, bytes([byte]), 2 * PAGE + place + copy)

    def reserve(self, payload: bytes, flags: int = BUSY) -> int:
        at = self.at
        self.write(at, struct.pack("=II", len(payload) | flags, 0) + payload)
        self.at += (len(payload) + 8 + 7) // 8 * 8
        assert self.at - self.consumed() <= SIZE, "the ring is full"
        os.pwrite(self.fd, struct.pack("=Q", self.at), PAGE)
        return at

    def submit(self, at: int, payload: bytes, flags: int = 0) -> None:
        self.write(at, struct.pack("=I", len(payload) | flags))


@pytest.fixture(params=[0, SIZE - 8, 10 * SIZE + 16, (1 << 40) + SIZE - 24])
def producer(request: pytest.FixtureRequest) -> Iterator[Producer]:
    made = Producer(request.param)
    yield made
    os.close(made.fd)


def test_nothing_waits(producer: Producer) -> None:
    ring = Ring(producer.fd, SIZE)
    assert (ring.drain(), ring.records, ring.fill()) == ([], 0, 0)


def test_records_in_order_and_space_given_back(producer: Producer) -> None:
    """Of every length, also those that lie across the end of the area."""
    ring = Ring(producer.fd, SIZE)
    total = 0
    for turn in range(4):
        sent = [bytes([turn + n & 255]) * n for n in range(1, 90, 2)]
        for payload in sent:
            producer.reserve(payload, 0)
        assert ring.fill() == (producer.at - producer.consumed()) / SIZE > 0
        assert ring.drain() == sent
        total += len(sent)
        assert producer.consumed() == producer.at
        assert ring.fill() == 0
    assert ring.records == total


def test_a_record_that_is_being_written_holds_back_what_follows(producer: Producer) -> None:
    ring = Ring(producer.fd, SIZE)
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
    ring = Ring(producer.fd, SIZE)
    producer.reserve(b"gone", DISCARD)
    producer.reserve(b"here", 0)
    producer.reserve(b"gone", DISCARD)
    assert ring.drain() == [b"here"]
    assert ring.records == 1
    assert producer.consumed() == producer.at


def test_goes_on_where_an_earlier_consumer_stopped(producer: Producer) -> None:
    first = Ring(producer.fd, SIZE)
    producer.reserve(b"one", 0)
    first.drain()
    producer.reserve(b"two", 0)
    assert Ring(producer.fd, SIZE).drain() == [b"two"]


def test_what_is_no_ring_is_refused() -> None:
    with pytest.raises(OSError, match="ring buffer"):
        Ring(0x7FFFFFF, SIZE)
