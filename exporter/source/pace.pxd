"""The agent's place among the programs of its CPU: behind them, as long as that keeps up."""

from libc.stdint cimport uint64_t

from zerospan.exporter.source.ring cimport Rings

cdef class Pace:
    cdef Rings rings
    cdef object thread
    cdef bint stopping
    cdef bint behind         # SCHED_IDLE now
    cdef uint64_t beat_ns    # when the drain thread last came to an end of its work
    cdef double queues       # share of the fullest sink's queue then
    cdef readonly unsigned long long hurried     # times that it had to go faster
    cdef void watch(self) noexcept nogil
