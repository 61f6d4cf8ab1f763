# cython: language_level=3, boundscheck=True, wraparound=False
"""The door through which records enter; see source.pxd. This base class is an empty source."""

from libc.stdint cimport uint8_t, uint32_t


cdef class Source:
    cdef const uint8_t *next(self, uint32_t *size) noexcept nogil:
        size[0] = 0
        return NULL

    cdef void release(self) noexcept nogil:
        pass
