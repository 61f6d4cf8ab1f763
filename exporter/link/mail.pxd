"""What goes between the drain thread and the network's (link/exchange.py): values to publish, questions, values that came.

Two queues of bytes, each item made by one thread and taken by the other, so that neither waits. Shared (link/shared.pxd)
has one. The formats, native byte order within one process:
  puts    8 bytes K, 1 byte end, 1 byte datagram, 2 bytes size, the value
  gets    8 bytes K, 1 byte end
  inbox   8 bytes K, 1 byte end, 1 byte, 2 bytes size, the value
"""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from zerospan.exporter.encode.buf cimport Buf

cdef enum:
    ITEM = 12                # before each value

cdef class Mail:
    cdef Buf puts                # of this turn
    cdef Buf gets
    cdef uint64_t n_puts
    cdef uint64_t n_gets
    cdef object outbox           # deque of (puts, gets, when): to the network's thread
    cdef object inbox            # deque of bytes: from it
    cdef uint64_t limit
    cdef readonly uint64_t queued    # bytes in the outbox
    # counters
    cdef readonly uint64_t published
    cdef readonly uint64_t asked
    cdef readonly uint64_t publish_dropped
    cdef readonly uint64_t ask_dropped

    # To be published under this K and end.
    cdef void put(self, uint64_t key, uint8_t end, uint8_t datagram, const uint8_t *value, uint16_t n) noexcept nogil
    # A question for what is published there.
    cdef void ask(self, uint64_t key, uint8_t end) noexcept nogil
    # Hands over what this turn has put and asked; what finds no room is counted.
    cdef int send(self) except -1
    # What came, a batch at a time; None if nothing did.
    cdef object received(self)
