# cython: language_level=3, boundscheck=True, wraparound=False
"""Where the two ends of a connection really are. See ends.pxd."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from zerospan.exporter.assemble.span cimport EndAddress

cdef enum:
    WAYS = 4
    MIN_SETS = 16


cdef class Ends:
    """nbytes: the most that the table may take; it is touched as connections come."""

    def __cinit__(self, uint64_t nbytes=1 << 20):
        cdef uint64_t sets = MIN_SETS
        while 2 * sets * WAYS * sizeof(Pair) <= nbytes:
            sets *= 2
        self.mask = sets - 1
        self.pairs = <Pair *>calloc(sets * WAYS, sizeof(Pair))
        self.oldest = <uint8_t *>calloc(sets, 1)
        if self.pairs == NULL or self.oldest == NULL:
            raise MemoryError("zerospan: no memory for the table of connections' ends")

    def __dealloc__(self):
        free(self.pairs)
        free(self.oldest)

    def nbytes(self):
        """Bytes that the table takes when it is full."""
        return (self.mask + 1) * (WAYS * sizeof(Pair) + 1)

    cdef void put(self, uint64_t key, int side, uint8_t family, const uint8_t *addr, uint16_t port) noexcept nogil:
        cdef uint64_t at = key & self.mask            # C is a hash already
        cdef Pair *row = &self.pairs[at * WAYS]
        cdef Pair *pair = NULL
        cdef uint32_t i
        if key == 0 or family == 0:
            return
        for i in range(WAYS):
            if row[i].key == key or (row[i].key == 0 and pair == NULL):
                pair = &row[i]
                if pair.key:
                    break
        if pair == NULL:
            pair = &row[self.oldest[at] % WAYS]
            self.oldest[at] = (self.oldest[at] + 1) % WAYS
            self.replaced += pair.ends[END_CLIENT].family == 0 or pair.ends[END_SERVER].family == 0
            pair.key = 0
        if pair.key == 0:
            memset(pair, 0, sizeof(Pair))
            pair.key = key
        memcpy(pair.ends[side].addr, addr, 16)
        pair.ends[side].port = port
        pair.ends[side].family = family

    cdef const EndAddress *find(self, uint64_t key, int side) noexcept nogil:
        cdef Pair *row = &self.pairs[(key & self.mask) * WAYS]
        cdef uint32_t i
        if key == 0:
            return NULL
        for i in range(WAYS):
            if row[i].key == key:
                return &row[i].ends[side] if row[i].ends[side].family else NULL
        return NULL
