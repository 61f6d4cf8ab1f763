# cython: language_level=3, boundscheck=True, wraparound=False
"""A source that writes down what passes through it; the format is that of recording.py, which makes and owns it.

Used by the drain thread. One buffer of a fixed size: when it is full it is written out then and there. A disk that is too slow
so holds up the drain, the ring fills, and the kernel counts what is lost: nothing is left out of the file in silence.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cdef extern from "<unistd.h>" nogil:
    ssize_t write(int fd, const void *buf, size_t count)

cdef enum:
    BUFFER = 1 << 20
    KIND_RECORD = 1          # recording.RECORD


cdef class Recorder(Source):
    """inner: where the records come from; fd: the file, open for writing."""

    def __cinit__(self, Source inner, int fd):
        self.inner = inner
        self.fd = fd
        self.buf = <uint8_t *>malloc(BUFFER)
        if self.buf == NULL:
            raise MemoryError("zerospan: no memory for the buffer of the recording")

    def __dealloc__(self):
        free(self.buf)

    def raw(self, bytes data):
        """Bytes as they are: the header."""
        self.put(<const uint8_t *><const char *>data, len(data))

    def write(self, uint32_t kind, bytes body):
        """One frame."""
        self.frame(kind, <const uint8_t *><const char *>body, <uint32_t>len(body))

    def flush(self):
        """Hands the buffer to the kernel; an error shows in `error`."""
        with nogil:
            self.spill()

    cdef const uint8_t *next(self, uint32_t *size) noexcept nogil:
        cdef const uint8_t *record = self.inner.next(size)
        if record != NULL:
            self.frame(KIND_RECORD, record, size[0])
            self.records += self.error == 0
        return record

    cdef void release(self) noexcept nogil:
        self.inner.release()

    cdef void frame(self, uint32_t kind, const uint8_t *p, uint32_t n) noexcept nogil:
        cdef uint32_t head[2]
        cdef uint64_t zeros = 0
        head[0] = n
        head[1] = kind
        self.put(<const uint8_t *>head, 8)
        self.put(p, n)
        self.put(<const uint8_t *>&zeros, (8 - n % 8) % 8)

    cdef void put(self, const uint8_t *p, size_t n) noexcept nogil:
        cdef size_t part
        while n and self.error == 0:
            if self.n == BUFFER:
                self.spill()
                continue
            part = BUFFER - self.n if n > BUFFER - self.n else n
            memcpy(self.buf + self.n, p, part)
            self.n += part
            self.written += part
            p += part
            n -= part

    cdef void spill(self) noexcept nogil:
        cdef size_t at = 0
        cdef ssize_t done
        while at < self.n and self.error == 0:
            done = write(self.fd, self.buf + at, self.n - at)
            if done > 0:
                at += done
            elif done == 0 or errno != EINTR:
                self.error = errno if done < 0 else 5
        self.n = 0
