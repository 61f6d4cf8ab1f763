"""The door through which records enter, live or recorded."""

from libc.stdint cimport uint8_t, uint32_t

cdef class Source:
    # The next record, in place, and its size; NULL if there is none now. It stays valid until the next call.
    cdef const uint8_t *next(self, uint32_t *size) noexcept nogil
    # Gives back what was read: the producer may write over it.
    cdef void release(self) noexcept nogil
