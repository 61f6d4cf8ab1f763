# cython: language_level=3, boundscheck=True, wraparound=False
"""Records from memory: what a test or a tool has built (abi.events.build) goes through the engine as if the kernel had written it.

A bounded queue of bytes, 16 MiB by default: a record that finds no room is refused and counted, as in a full ring. Used by one
thread: push() between two ticks of the engine, never during one. Called by the engine's tests and by tests/fuzz.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove, memset

cdef enum:
    HEAD = 8                 # before each record: its size


cdef inline uint64_t padded(uint64_t n) noexcept nogil:
    return (n + 7) & ~<uint64_t>7


cdef class Records(Source):
    """limit_bytes: of all records that wait, 16 bytes or less more for each."""

    def __cinit__(self, uint64_t limit_bytes=16 << 20):
        self.limit = limit_bytes

    def __dealloc__(self):
        free(self.buf)

    def __len__(self):
        """Records that wait."""
        return self.pushed - self.read

    def push(self, bytes record):
        """Appends one record, whatever it says. False if it found no room."""
        cdef uint64_t n = len(record), need = HEAD + padded(n)
        if n > 0xffffffffu or self.make_room(need) == 0:
            self.refused += 1
            return False
        memset(self.buf + self.end + need - 8, 0, 8)
        memcpy(self.buf + self.end, &n, HEAD)
        memcpy(self.buf + self.end + HEAD, <const char *>record, n)
        self.end += need
        self.pushed += 1
        return True

    cdef int make_room(self, uint64_t need) except -1:
        """1 if there is room for so many bytes at the end."""
        cdef uint64_t cap = self.cap if self.cap else 4096
        cdef uint8_t *grown
        if self.end - self.given_back + need > self.limit:
            return 0
        if self.given_back and self.end + need > self.cap:
            memmove(self.buf, self.buf + self.given_back, self.end - self.given_back)
            self.at -= self.given_back
            self.end -= self.given_back
            self.given_back = 0
        while cap < self.end + need:
            cap *= 2
        if cap > self.cap:
            grown = <uint8_t *>realloc(self.buf, cap)
            if grown == NULL:
                raise MemoryError(f"zerospan: no memory for {cap} bytes of records")
            self.buf = grown
            self.cap = cap
        return 1

    cdef const uint8_t *next(self, uint32_t *size) noexcept nogil:
        cdef const uint8_t *record
        cdef uint64_t n = 0
        if self.at == self.end:
            size[0] = 0
            return NULL
        memcpy(&n, self.buf + self.at, HEAD)
        size[0] = <uint32_t>n
        record = self.buf + self.at + HEAD
        self.at += HEAD + padded(n)
        self.read += 1
        return record

    cdef void release(self) noexcept nogil:
        self.given_back = self.at
