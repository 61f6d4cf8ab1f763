"""(sequence number of a request's first byte, of its answer's) -> K, for points that do not know the connection's ISNs."""

from libc.stdint cimport uint32_t, uint64_t

cdef struct Pair:
    uint32_t request
    uint32_t response
    uint64_t key             # 0: two requests had this pair; nothing is said of it

cdef class Sequences:
    cdef Pair *pairs         # sets of WAYS
    cdef uint64_t mask       # of sets

    # A request of a process of this host was answered.
    cdef void put(self, uint32_t request, uint32_t response, uint64_t key) noexcept nogil
    # 0: not known, or not certain.
    cdef uint64_t find(self, uint32_t request, uint32_t response) noexcept nogil
