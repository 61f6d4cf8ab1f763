"""The consumer side of a BPF ring buffer, read in place."""

from libc.stdint cimport uint8_t, uint32_t

from zerospan.exporter.source.source cimport Source

cdef class Ring(Source):
    cdef unsigned long *consumer
    cdef unsigned long *producer
    cdef const uint8_t *data
    cdef unsigned long mask
    cdef unsigned long at
    cdef size_t mapped
    cdef readonly unsigned long long records   # drained so far
    cdef const uint8_t *next(self, uint32_t *size) noexcept nogil
    cdef void release(self) noexcept nogil
