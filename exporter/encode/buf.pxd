"""A growable byte buffer for encoders. No Python object is touched until take().

A buffer that cannot grow turns `failed` and ignores further writes: the caller checks once per batch and counts the
loss, so that encoders stay `noexcept nogil`.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef struct Buf:
    uint8_t *p
    size_t n
    size_t cap
    bint failed

cdef inline bint buf_reserve(Buf *b, size_t extra) noexcept nogil:
    cdef size_t cap
    cdef uint8_t *grown
    if b.failed:
        return False
    if b.n + extra <= b.cap:
        return True
    cap = b.cap * 2 if b.cap else 4096
    while cap < b.n + extra:
        cap *= 2
    grown = <uint8_t *>realloc(b.p, cap)
    if grown == NULL:
        b.failed = True
        return False
    b.p = grown
    b.cap = cap
    return True

cdef inline void buf_put(Buf *b, const void *p, size_t n) noexcept nogil:
    if n and buf_reserve(b, n):
        memcpy(b.p + b.n, p, n)
        b.n += n

cdef inline void buf_byte(Buf *b, uint8_t v) noexcept nogil:
    if buf_reserve(b, 1):
        b.p[b.n] = v
        b.n += 1

cdef inline void buf_free(Buf *b) noexcept nogil:
    free(b.p)
    b.p = NULL
    b.n = 0
    b.cap = 0
    b.failed = False
