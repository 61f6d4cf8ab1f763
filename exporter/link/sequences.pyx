# cython: language_level=3, boundscheck=True, wraparound=False
"""The last few thousand answered requests by their two sequence numbers; see sequences.pxd.

Both numbers pass NAT and tunnels unchanged, so that a network interface sees the pair that the process has. 64 random bits: the
chance that two of N live requests share a pair is N * N / 2^65; where it happens the pair says nothing. A fixed number of
bytes; a new pair replaces the oldest of its set. Points ask when the next run begins, or when silence has told the end: seconds
later.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove

from zerospan.exporter.link.ids cimport hash64

cdef enum:
    WAYS = 8


cdef class Sequences:
    """limit_bytes: of the table, rounded down to a power of two of sets."""

    def __cinit__(self, uint64_t limit_bytes=1 << 20):
        cdef uint64_t sets = 1
        while 2 * sets * WAYS * sizeof(Pair) <= limit_bytes:
            sets *= 2
        self.mask = sets - 1
        self.pairs = <Pair *>calloc(sets * WAYS, sizeof(Pair))
        if self.pairs == NULL:
            raise MemoryError("zerospan: no memory for the table of sequence numbers")

    def __dealloc__(self):
        free(self.pairs)

    def nbytes(self):
        return (self.mask + 1) * WAYS * sizeof(Pair)

    def note(self, request, response, key):
        """put() for tests."""
        self.put(request, response, key)

    def key(self, request, response):
        """find() for tests."""
        return self.find(request, response)

    cdef void put(self, uint32_t request, uint32_t response, uint64_t key) noexcept nogil:
        cdef Pair *p = &self.pairs[(hash64(request, response) & self.mask) * WAYS]
        cdef int i
        for i in range(WAYS):
            if p[i].request == request and p[i].response == response and (request or response):
                if p[i].key != key:
                    p[i].key = 0
                return
        memmove(p + 1, p, (WAYS - 1) * sizeof(Pair))   # the newest first; the oldest goes
        p.request = request
        p.response = response
        p.key = key

    cdef uint64_t find(self, uint32_t request, uint32_t response) noexcept nogil:
        cdef const Pair *p = &self.pairs[(hash64(request, response) & self.mask) * WAYS]
        cdef int i
        for i in range(WAYS):
            if p[i].request == request and p[i].response == response:
                return p[i].key
        return 0
