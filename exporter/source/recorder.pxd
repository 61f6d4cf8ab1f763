"""A source that writes down what passes through it."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.source.source cimport Source

cdef class Recorder(Source):
    cdef Source inner
    cdef int fd
    cdef uint8_t *buf
    cdef size_t n
    cdef readonly uint64_t records
    cdef readonly uint64_t written       # bytes, those in the buffer included
    cdef readonly int error              # errno of the write that failed
    cdef const uint8_t *next(self, uint32_t *size) noexcept nogil
    cdef void release(self) noexcept nogil
    cdef void put(self, const uint8_t *p, size_t n) noexcept nogil
    cdef void frame(self, uint32_t kind, const uint8_t *p, uint32_t n) noexcept nogil
    cdef void spill(self) noexcept nogil
