# cython: language_level=3, boundscheck=True, wraparound=False
"""Bodies of requests in memory that is used again; see payload.pxd. Made by encode.batch, read by the sinks."""

cimport cython
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc

from cpython.buffer cimport PyBuffer_FillInfo

cdef enum:
    WASTE = 4                # a block of more than so many times what is asked for is left for a larger payload


cdef class Shelf:
    def __dealloc__(self):
        cdef int i
        for i in range(self.n):
            free(self.blocks[i])

    cdef uint8_t *take(self, size_t need, size_t *got) noexcept:
        cdef int i
        cdef uint8_t *block
        for i in range(self.n):
            if need <= self.sizes[i] <= WASTE * need:
                block = self.blocks[i]
                got[0] = self.sizes[i]
                self.n -= 1
                self.blocks[i] = self.blocks[self.n]
                self.sizes[i] = self.sizes[self.n]
                return block
        got[0] = need + need // 8
        return <uint8_t *>malloc(got[0])

    cdef void give(self, uint8_t *block, size_t size) noexcept:
        if self.n == SHELF_MAX:
            self.n -= 1                          # of blocks that do not fit any more, none stays for long
            free(self.blocks[0])
            self.blocks[0] = self.blocks[self.n]
            self.sizes[0] = self.sizes[self.n]
        self.blocks[self.n] = block
        self.sizes[self.n] = size
        self.n += 1


@cython.no_gc                # the collector would take the shelf away before __dealloc__; it refers to nothing that could refer to it
cdef class Payload:
    def __dealloc__(self):
        if self.p != NULL:
            self.shelf.give(self.p, self.size)

    def __len__(self):
        return self.n

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.p, self.n, 1, flags)


cdef Payload payload_new(Shelf shelf, size_t n):
    cdef Payload made = Payload.__new__(Payload)
    made.shelf = shelf
    made.p = shelf.take(n, &made.size)
    if made.p == NULL:
        raise MemoryError(f"zerospan: no memory for a batch of {n} bytes")
    made.n = n
    return made
