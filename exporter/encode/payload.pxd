"""One encoded request body, and the shelf on which its memory waits for the next one.

A batch of a MiB in fresh memory costs more in page faults than in copying; so what a sink has sent is written over.
"""

from libc.stdint cimport uint8_t

cdef enum:
    SHELF_MAX = 2            # blocks that wait to be filled: one is being sent, seldom two

cdef class Shelf:
    """The memory of payloads that nobody holds any more. All of its use is under the GIL."""

    cdef uint8_t *blocks[SHELF_MAX]
    cdef size_t sizes[SHELF_MAX]
    cdef int n
    # A block of at least `need` bytes, *got its size; NULL without memory.
    cdef uint8_t *take(self, size_t need, size_t *got) noexcept
    cdef void give(self, uint8_t *block, size_t size) noexcept

cdef class Payload:
    """Read-only bytes with the buffer protocol; its memory goes back to the shelf with its last view."""

    cdef Shelf shelf
    cdef uint8_t *p
    cdef Py_ssize_t n
    cdef size_t size         # of the block

cdef Payload payload_new(Shelf shelf, size_t n)
