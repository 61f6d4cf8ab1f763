# cython: language_level=3, boundscheck=True, wraparound=False
"""The queues between the drain thread and the network's; see mail.pxd."""

import collections
import time

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from zerospan.exporter.encode.buf cimport buf_free, buf_put


cdef class Mail:
    """limit: bytes that may wait for the network."""

    def __cinit__(self, uint64_t limit):
        self.limit = limit
        self.outbox = collections.deque()
        self.inbox = collections.deque()

    def __dealloc__(self):
        buf_free(&self.puts)
        buf_free(&self.gets)

    # ---- the network's side: any thread, with the GIL ------------------------------------------------

    def take(self):
        """What is to go, the oldest first: (puts, gets, monotonic time in ns), or None."""
        if not self.outbox:
            return None
        item = self.outbox.popleft()
        self.queued -= len(item[0]) + len(item[1])
        return item

    def give(self, bytes values):
        """Values that came."""
        self.inbox.append(values)

    # ---- the drain thread's --------------------------------------------------------------------------

    cdef void put(self, uint64_t key, uint8_t end, uint8_t datagram, const uint8_t *value, uint16_t n) noexcept nogil:
        self.published += 1
        self.n_puts += 1
        buf_put(&self.puts, &key, 8)
        buf_put(&self.puts, &end, 1)
        buf_put(&self.puts, &datagram, 1)
        buf_put(&self.puts, &n, 2)
        buf_put(&self.puts, value, n)

    cdef void ask(self, uint64_t key, uint8_t end) noexcept nogil:
        self.asked += 1
        self.n_gets += 1
        buf_put(&self.gets, &key, 8)
        buf_put(&self.gets, &end, 1)

    cdef int send(self) except -1:
        if self.n_puts == 0 and self.n_gets == 0:
            return 0
        if self.puts.failed or self.gets.failed or self.queued + self.puts.n + self.gets.n > self.limit:
            self.publish_dropped += self.n_puts
            self.ask_dropped += self.n_gets
            if self.puts.failed or self.gets.failed:
                buf_free(&self.puts)
                buf_free(&self.gets)
        else:
            self.queued += self.puts.n + self.gets.n
            self.outbox.append(((<const char *>self.puts.p)[:self.puts.n] if self.puts.n else b"",
                                (<const char *>self.gets.p)[:self.gets.n] if self.gets.n else b"", time.monotonic_ns()))
        self.puts.n = 0
        self.gets.n = 0
        self.n_puts = 0
        self.n_gets = 0
        return 0

    cdef object received(self):
        return self.inbox.popleft() if self.inbox else None
