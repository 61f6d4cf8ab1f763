"""A producer made of a file: the pages of a ring as the kernel lays them out, no kernel needed.

kernel/bpf/ringbuf.c: a page with the consumer's position, one with the producer's, the data area twice.
"""

import mmap
import os
import struct

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
