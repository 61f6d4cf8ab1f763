"""A bounded cursor: the only way in which a parser reads bytes of a remote party.

Two fields, and each read checks what is left. `ok` turns to 0 at the first read past the end and stays
so; a parser may read several fields and look at `ok` once. A failed read yields 0 or an empty slice.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp

cdef struct Slice:
    const uint8_t *p
    uint32_t n

cdef struct Cursor:
    const uint8_t *p
    uint32_t left
    bint ok

cdef inline void cur_init(Cursor *c, const uint8_t *p, uint32_t n) noexcept nogil:
    c.p = p
    c.left = n
    c.ok = True

cdef inline bint cur_need(Cursor *c, uint32_t n) noexcept nogil:
    if not c.ok or n > c.left:
        c.ok = False
        return False
    return True

cdef inline uint8_t cur_u8(Cursor *c) noexcept nogil:
    cdef uint8_t v
    if not cur_need(c, 1):
        return 0
    v = c.p[0]
    c.p += 1
    c.left -= 1
    return v

cdef inline uint16_t cur_be16(Cursor *c) noexcept nogil:
    cdef uint16_t v
    if not cur_need(c, 2):
        return 0
    v = (<uint16_t>c.p[0] << 8) | c.p[1]
    c.p += 2
    c.left -= 2
    return v

cdef inline uint32_t cur_be32(Cursor *c) noexcept nogil:
    cdef uint32_t v
    if not cur_need(c, 4):
        return 0
    v = (<uint32_t>c.p[0] << 24) | (<uint32_t>c.p[1] << 16) | (<uint32_t>c.p[2] << 8) | c.p[3]
    c.p += 4
    c.left -= 4
    return v

cdef inline bint cur_skip(Cursor *c, uint32_t n) noexcept nogil:
    if not cur_need(c, n):
        return False
    c.p += n
    c.left -= n
    return True

cdef inline Slice cur_take(Cursor *c, uint32_t n) noexcept nogil:
    """The next n bytes, in place."""
    cdef Slice s
    s.p = c.p
    s.n = 0
    if cur_need(c, n):
        s.n = n
        c.p += n
        c.left -= n
    return s

cdef inline int cur_peek(Cursor *c, uint32_t at) noexcept nogil:
    """The byte `at` bytes ahead, or -1 past the end; does not move and does not fail the cursor."""
    if at >= c.left:
        return -1
    return c.p[at]

cdef inline bint cur_until(Cursor *c, uint8_t byte, Slice *out) noexcept nogil:
    """Bytes up to `byte`, which is consumed; False (nothing moved, cursor still ok) if it is not there."""
    cdef const uint8_t *hit
    out.p = c.p
    out.n = 0
    if not c.ok or c.left == 0:
        return False
    hit = <const uint8_t *>memchr(c.p, byte, c.left)
    if hit == NULL:
        return False
    out.n = <uint32_t>(hit - c.p)
    c.left -= out.n + 1
    c.p = hit + 1
    return True

cdef inline Slice slice_of(const uint8_t *p, uint32_t n) noexcept nogil:
    cdef Slice s
    s.p = p
    s.n = n
    return s

cdef inline bint slice_is(Slice s, const char *text, uint32_t n) noexcept nogil:
    return s.n == n and memcmp(s.p, text, n) == 0

cdef inline bint slice_is_nocase(Slice s, const char *lower, uint32_t n) noexcept nogil:
    """ASCII case-insensitive; `lower` is given in lower case."""
    cdef uint32_t i
    cdef uint8_t c
    if s.n != n:
        return False
    for i in range(n):
        c = s.p[i]
        if 65 <= c <= 90:
            c += 32
        if c != <uint8_t>lower[i]:
            return False
    return True

cdef inline Slice slice_trim(Slice s) noexcept nogil:
    """Without leading and trailing spaces and tabs."""
    while s.n and (s.p[0] == 32 or s.p[0] == 9):
        s.p += 1
        s.n -= 1
    while s.n and (s.p[s.n - 1] == 32 or s.p[s.n - 1] == 9):
        s.n -= 1
    return s

cdef inline int64_t slice_u64(Slice s) noexcept nogil:
    """A plain decimal number of at most 18 digits, or -1."""
    cdef int64_t v = 0
    cdef uint32_t i
    if s.n == 0 or s.n > 18:
        return -1
    for i in range(s.n):
        if s.p[i] < 48 or s.p[i] > 57:
            return -1
        v = v * 10 + (s.p[i] - 48)
    return v
