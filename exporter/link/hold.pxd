"""Finished spans that wait until their chain is known: a queue of bytes in order of their due time."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.assemble.span cimport SpanRec

cdef enum:
    CHUNK = (2 << 20) - 16   # with its head a huge page

cdef struct Chunk:
    Chunk *next
    uint32_t n               # bytes used
    uint32_t at              # bytes read
    uint8_t data[CHUNK]

cdef struct Held:            # stands before each span
    uint64_t due_ns          # when it is looked at (again)
    uint64_t last_ns         # when it leaves whatever is known

cdef class Hold:
    cdef Chunk *head
    cdef Chunk *tail
    cdef Chunk *spare
    cdef readonly uint64_t spans
    cdef readonly uint64_t nbytes    # of chunks
    cdef uint64_t waiting    # bytes of the spans in them
    cdef uint64_t limit
    # Room for a span of `size` bytes at the end of the queue, to be filled in; NULL if there is no room.
    cdef SpanRec *push(self, uint32_t size, uint64_t due_ns, uint64_t last_ns) noexcept nogil
    # Whether spans should leave early, so that there is room for what a record may bring. Said in time, by single spans:
    # waiting until a chunk is needed would let go all spans of a chunk at once.
    cdef inline bint tight(self) noexcept nogil:
        return self.waiting + 3 * CHUNK > self.limit and self.spans != 0
    # The oldest span, or NULL.
    cdef Held *peek(self) noexcept nogil
    cdef void pop(self) noexcept nogil
    # Key of the span that is the next but one, or 0: what is asked for so much earlier is there when its turn comes.
    cdef uint64_t coming(self) noexcept nogil
