"""The consumer side of BPF ring buffers, read in place: several of them as one source, in the order of time."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.source.source cimport Source

cdef struct Region:          # one ring buffer
    unsigned long *consumer
    unsigned long *producer
    const uint8_t *data
    unsigned long mask
    size_t mapped
    unsigned long at         # where the next record begins
    unsigned long seen       # the producer's position when this pass began
    unsigned long given      # up to here the space was given back
    const uint8_t *record    # the next record
    uint32_t size
    uint64_t time_ns         # when it was made; NOTHING if there is none in this pass

cdef class Rings(Source):
    cdef Region *regions
    cdef int n
    cdef int current         # the ring that is read
    cdef uint64_t bound      # until a record of it is younger than the oldest of the others
    cdef uint64_t until_ns   # records that are younger are left for the next pass
    cdef bint open           # a pass is under way
    cdef readonly unsigned long long records   # drained so far
    cdef const uint8_t *next(self, uint32_t *size) noexcept nogil
    cdef void release(self) noexcept nogil
    cdef void begin(self) noexcept nogil
    cdef bint choose(self) noexcept nogil
