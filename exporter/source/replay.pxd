"""A recording as a source: the records between two steps of the drain loop, in place."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.source.source cimport Source

cdef class Replay(Source):
    cdef object map
    cdef const uint8_t[::1] view         # keeps the mapping alive
    cdef const uint8_t *data
    cdef uint64_t at                     # of the next frame
    cdef uint64_t end                    # of the last whole frame
    cdef dict processes                  # (tgid, comm) -> descriptions that are still to be asked for
    cdef readonly str path
    cdef readonly dict about             # the header
    cdef readonly dict kernel            # counters of the kernel programs at the end
    cdef readonly uint64_t records       # in the file
    cdef readonly uint64_t first_ns      # time of the first step
    cdef readonly uint64_t now           # time of the step that was taken last
    cdef readonly object wall_offset     # then
    cdef bytes body(self, uint64_t at)
    cdef const uint8_t *next(self, uint32_t *size) noexcept nogil
    cdef void release(self) noexcept nogil
