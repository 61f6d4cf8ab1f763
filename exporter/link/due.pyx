# cython: language_level=3, boundscheck=True, wraparound=False
"""A heap of spans by due time; see due.pxd."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc

cdef enum:
    BLOCK = 16               # what the allocator adds to a block


cdef class Due:
    """limit_bytes: of all blocks and the heap."""

    def __cinit__(self, uint64_t limit_bytes):
        self.limit = limit_bytes

    def __dealloc__(self):
        cdef uint64_t i
        for i in range(self.spans):
            free(self.heap[i])
        free(self.heap)

    cdef SpanRec *push(self, uint32_t size, uint64_t due_ns, uint64_t last_ns) noexcept nogil:
        cdef uint32_t need = sizeof(Held) + size
        cdef Held *held
        cdef Held **grown
        cdef uint64_t i, up, cap
        if self.nbytes + need + BLOCK > self.limit:
            return NULL
        if self.spans == self.cap:
            cap = 2 * self.cap if self.cap else 64
            grown = <Held **>realloc(self.heap, cap * sizeof(Held *))
            if grown == NULL:
                return NULL
            self.heap = grown
            self.nbytes += (cap - self.cap) * sizeof(Held *)
            self.cap = cap
        held = <Held *>malloc(need)
        if held == NULL:
            return NULL
        held.due_ns = due_ns
        held.last_ns = last_ns
        self.nbytes += need + BLOCK
        i = self.spans
        self.spans += 1
        while i:
            up = (i - 1) // 2
            if self.heap[up].due_ns <= due_ns:
                break
            self.heap[i] = self.heap[up]
            i = up
        self.heap[i] = held
        return <SpanRec *>(<uint8_t *>held + sizeof(Held))

    cdef void pop(self) noexcept nogil:
        cdef Held *gone = self.heap[0]
        cdef Held *last
        cdef uint64_t i = 0, down
        cdef uint32_t size = (<SpanRec *>(<uint8_t *>gone + sizeof(Held))).size
        self.nbytes -= sizeof(Held) + size + BLOCK
        free(gone)
        self.spans -= 1
        if self.spans == 0:
            return
        last = self.heap[self.spans]
        while True:
            down = 2 * i + 1
            if down >= self.spans:
                break
            if down + 1 < self.spans and self.heap[down + 1].due_ns < self.heap[down].due_ns:
                down += 1
            if last.due_ns <= self.heap[down].due_ns:
                break
            self.heap[i] = self.heap[down]
            i = down
        self.heap[i] = last
