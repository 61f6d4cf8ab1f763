# cython: language_level=3, boundscheck=True, wraparound=False
"""The queue of held spans; see hold.pxd. Memory comes and goes by chunks of 2 MiB, a huge page, bounded by the limit."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.link.pages cimport pages_give, pages_take


cdef class Hold:
    """limit_bytes: of all chunks together."""

    def __cinit__(self, uint64_t limit_bytes):
        self.limit = max(limit_bytes, 2 * sizeof(Chunk))

    def __dealloc__(self):
        cdef Chunk *c
        while self.head != NULL:
            c = self.head
            self.head = c.next
            pages_give(c, sizeof(Chunk))
        pages_give(self.spare, sizeof(Chunk))

    cdef SpanRec *push(self, uint32_t size, uint64_t due_ns, uint64_t last_ns) noexcept nogil:
        cdef uint32_t need = sizeof(Held) + size
        cdef Chunk *c = self.tail
        cdef Held *held
        if need > CHUNK:
            return NULL
        if c == NULL or c.n + need > CHUNK:
            if self.spare != NULL:
                c = self.spare
                self.spare = NULL
            else:
                if self.nbytes + sizeof(Chunk) > self.limit:
                    return NULL
                c = <Chunk *>pages_take(sizeof(Chunk))
                if c == NULL:
                    return NULL
                self.nbytes += sizeof(Chunk)
            c.next = NULL
            c.n = 0
            c.at = 0
            if self.tail == NULL:
                self.head = c
            else:
                self.tail.next = c
            self.tail = c
        held = <Held *>(c.data + c.n)
        held.due_ns = due_ns
        held.last_ns = last_ns
        c.n += need
        self.spans += 1
        self.waiting += need
        return <SpanRec *>(<uint8_t *>held + sizeof(Held))

    cdef Held *peek(self) noexcept nogil:
        cdef Chunk *c = self.head
        if c == NULL or c.at >= c.n:
            return NULL
        return <Held *>(c.data + c.at)

    cdef uint64_t coming(self) noexcept nogil:
        cdef Chunk *c = self.head
        cdef uint32_t at = c.at
        cdef int i
        for i in range(2):
            at += sizeof(Held) + (<SpanRec *>(c.data + at + sizeof(Held))).size
            if at >= c.n:
                return 0
        return (<SpanRec *>(c.data + at + sizeof(Held))).key

    cdef void pop(self) noexcept nogil:
        cdef Chunk *c = self.head
        cdef SpanRec *r = <SpanRec *>(c.data + c.at + sizeof(Held))
        c.at += sizeof(Held) + r.size
        self.spans -= 1
        self.waiting -= sizeof(Held) + r.size
        if c.at < c.n:
            return
        if c.next == NULL:
            c.at = 0
            c.n = 0
            return
        self.head = c.next
        if self.spare == NULL:
            self.spare = c
        else:
            pages_give(c, sizeof(Chunk))
            self.nbytes -= sizeof(Chunk)
