"""How many distinct values a label may take for one owner (a service): see Limiter in limit.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef struct Entry:
    uint64_t hash
    uint32_t next            # chain of the bucket, or of the free list; 0: end
    uint32_t cell            # the entry of (owner, label) that this value belongs to; 0: it is such an entry itself
    uint32_t refs            # of a value: live series that have it; of a cell: its distinct values
    uint32_t pad

cdef class Limiter:
    cdef Entry *entries      # [0] is never used
    cdef uint32_t *buckets
    cdef uint32_t n_buckets
    cdef uint32_t n
    cdef uint32_t cap
    cdef uint32_t free_head
    cdef uint64_t seed
    cdef readonly uint32_t limit

    # May a series be made that has this value? Takes nothing.
    cdef bint admits(self, uint32_t owner, uint32_t label, const uint8_t *p, uint32_t n) noexcept nogil
    # One more series has it; returns a reference, 0 if there was no memory.
    cdef uint32_t acquire(self, uint32_t owner, uint32_t label, const uint8_t *p, uint32_t n) noexcept nogil
    cdef void release(self, uint32_t ref) noexcept nogil

    cdef uint32_t find(self, uint64_t h) noexcept nogil
    cdef uint32_t add(self, uint64_t h, uint32_t cell) noexcept nogil
    cdef void drop(self, uint32_t ref) noexcept nogil
    cdef bint grow(self) noexcept nogil
