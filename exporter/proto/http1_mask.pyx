# cython: language_level=3, boundscheck=True, wraparound=False
"""Paths and query strings without what may be secret. See http1_mask.pxd.

Both functions write at most `cap` bytes and stop when the buffer is full; called through ProtoOps of proto.http1.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from zerospan.exporter.proto.cursor cimport Slice


cdef inline bint put(uint8_t *out, uint32_t *k, uint32_t cap, uint8_t c) noexcept nogil:
    if k[0] == cap:
        return False
    out[k[0]] = c
    k[0] += 1
    return True


cdef inline uint32_t at_mark(Slice s, uint32_t i, uint8_t mark, uint8_t digit) noexcept nogil:
    """How many bytes at i spell the mark: itself, or %3 and its hex digit; 0: none."""
    if s.p[i] == mark:
        return 1
    if s.n - i >= 3 and s.p[i] == 37 and s.p[i + 1] == 51 and (s.p[i + 2] | 32) == digit:
        return 3
    return 0


cdef uint32_t mask_path(Slice s, uint8_t *out, uint32_t cap) noexcept nogil:
    """A path as it is, save the values of its parameters (";jsessionid=...") and the user of a URL within it."""
    cdef uint32_t i = 0, k = 0, n, end
    cdef bint parameter = False
    while i < s.n:
        n = at_mark(s, i, 59, 98)
        if n:
            parameter = True
        elif s.p[i] == 47:
            parameter = False
        elif parameter:
            n = at_mark(s, i, 61, 100)
            if n:  # keep the sign, hide all up to the next parameter or segment
                if cap - k < n + 1:
                    return k
                memcpy(out + k, s.p + i, n)
                k += n
                put(out, &k, cap, 42)
                i += n
                while i < s.n and s.p[i] != 47 and at_mark(s, i, 59, 98) == 0:
                    i += 1
                parameter = False
                continue
        if s.p[i] == 58 and s.n - i > 3 and s.p[i + 1] == 47 and s.p[i + 2] == 47:
            if cap - k < 4:
                return k
            memcpy(out + k, b"://", 3)
            k += 3
            i += 3
            parameter = False
            n = end = i
            while n < s.n and s.p[n] != 47:
                n += 1
                if s.p[n - 1] == 64:
                    end = n
            if end > i:
                put(out, &k, cap, 42)
                i = end - 1  # goes on with the "@"
            continue
        if not put(out, &k, cap, s.p[i]):
            return k
        i += 1
    return k


cdef uint32_t mask_query(Slice s, uint8_t *out, uint32_t cap) noexcept nogil:
    """Keys as they are, "*" for every value: a=1&b -> a=*&b."""
    cdef uint32_t i = 0, k = 0
    cdef bint value = False
    while i < s.n:
        if s.p[i] == 38:
            value = False
        elif value:
            i += 1
            continue
        if not put(out, &k, cap, s.p[i]):
            return k
        if s.p[i] == 61:
            value = True
            if not put(out, &k, cap, 42):
                return k
        i += 1
    return k
