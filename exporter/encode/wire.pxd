"""Protobuf wire primitives over Buf: varints, fixed-width fields, nested messages (protobuf.dev, "Encoding").

Each function reserves what it writes; after a failed growth it writes nothing and the buffer is `failed`.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from zerospan.exporter.encode.buf cimport Buf, buf_reserve

cdef enum:
    VARINT_MAX = 10

cdef inline uint32_t varint_size(uint64_t v) noexcept nogil:
    cdef uint32_t n = 1
    while v > 127:
        v >>= 7
        n += 1
    return n

cdef inline uint8_t *varint_put(uint8_t *w, uint64_t v) noexcept nogil:
    """Writes at w, where VARINT_MAX bytes are free; returns the end."""
    while v > 127:
        w[0] = <uint8_t>(v | 0x80)
        w += 1
        v >>= 7
    w[0] = <uint8_t>v
    return w + 1

cdef inline void wire_varint(Buf *b, uint8_t tag, uint64_t v) noexcept nogil:
    if buf_reserve(b, 1 + VARINT_MAX):
        b.p[b.n] = tag
        b.n = varint_put(b.p + b.n + 1, v) - b.p

cdef inline void wire_fixed64(Buf *b, uint8_t tag, uint64_t v) noexcept nogil:
    if buf_reserve(b, 9):
        b.p[b.n] = tag
        memcpy(b.p + b.n + 1, &v, 8)         # the wire is little-endian, and so must be the machine: see attributes.pyx
        b.n += 9

cdef inline void wire_bytes(Buf *b, uint8_t tag, const void *p, size_t n) noexcept nogil:
    cdef uint8_t *w
    if buf_reserve(b, 1 + VARINT_MAX + n):
        w = b.p + b.n
        w[0] = tag
        w = varint_put(w + 1, n)
        memcpy(w, p, n)
        b.n = w + n - b.p

cdef inline size_t wire_open(Buf *b, uint8_t tag) noexcept nogil:
    """Begins a nested message whose length is not known yet; give the result to wire_close."""
    if buf_reserve(b, 3):
        b.p[b.n] = tag
        b.n += 3             # two bytes of length: right for 128..16383, what a span has; wire_close corrects the rest
    return b.n

cdef inline void wire_close(Buf *b, size_t start) noexcept nogil:
    cdef size_t n
    cdef uint32_t size
    if b.failed:
        return
    n = b.n - start
    size = varint_size(n)
    if size != 2:
        if not buf_reserve(b, VARINT_MAX):
            return
        memmove(b.p + start - 2 + size, b.p + start, n)
        b.n = start - 2 + size + n
    varint_put(b.p + start - 2, n)
