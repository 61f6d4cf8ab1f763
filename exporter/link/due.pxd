"""Finished spans that wait until their due time, whatever order they come in: a heap of blocks.

Spans of network interfaces are told late by different times (the next request's first packet, silence, a process's end), so that
their due times have no order, and link/hold.pxd's queue cannot take them. Bounded in bytes. Used by assemble.points (push) and
the engine (peek, pop).
"""

from libc.stdint cimport uint32_t, uint64_t

from zerospan.exporter.assemble.span cimport SpanRec
from zerospan.exporter.link.hold cimport Held

cdef class Due:
    cdef Held **heap         # each with its span behind it; the one that is due first at [0]
    cdef uint64_t cap
    cdef readonly uint64_t spans
    cdef readonly uint64_t nbytes    # of blocks and heap
    cdef uint64_t limit
    # Room for a span of `size` bytes, to be filled in; NULL if there is none.
    cdef SpanRec *push(self, uint32_t size, uint64_t due_ns, uint64_t last_ns) noexcept nogil
    # Whether spans should leave early, so that there is room for what a record may bring.
    cdef inline bint tight(self) noexcept nogil:
        return 4 * self.nbytes > 3 * self.limit and self.spans != 0
    # The span that is due first, or NULL.
    cdef inline Held *peek(self) noexcept nogil:
        return self.heap[0] if self.spans else NULL
    cdef void pop(self) noexcept nogil
