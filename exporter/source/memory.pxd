"""Records that Python code hands over: a source without a kernel."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.source.source cimport Source

cdef class Records(Source):
    cdef uint8_t *buf                    # size (8 bytes), record, padding to 8 bytes; again and again
    cdef uint64_t cap
    cdef uint64_t at                     # of the next record
    cdef uint64_t given_back             # what lies before it may be overwritten
    cdef uint64_t end
    cdef readonly uint64_t limit         # bytes
    cdef readonly uint64_t pushed        # records
    cdef readonly uint64_t refused       # records that found no room
    cdef readonly uint64_t read          # records
    cdef int make_room(self, uint64_t need) except -1
    cdef const uint8_t *next(self, uint32_t *size) noexcept nogil
    cdef void release(self) noexcept nogil
