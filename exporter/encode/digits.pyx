# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""Numbers and addresses as text. See digits.pxd for the contract."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "<sys/socket.h>" nogil:
    enum:
        AF_INET
        AF_INET6

cdef const char *HEX = b"0123456789abcdef"


cdef uint32_t put_u64(uint8_t *out, uint64_t v) noexcept nogil:
    cdef uint8_t tmp[24]
    cdef uint32_t at = 24
    while True:
        at -= 1
        tmp[at] = <uint8_t>(48 + v % 10)
        v //= 10
        if v == 0:
            break
    memcpy(out, tmp + at, 24 - at)
    return 24 - at


cdef uint32_t put_i64(uint8_t *out, int64_t v) noexcept nogil:
    if v >= 0:
        return put_u64(out, <uint64_t>v)
    out[0] = 45
    return 1 + put_u64(out + 1, 0 - <uint64_t>v)


cdef uint32_t put_hex(uint8_t *out, const uint8_t *p, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        out[2 * i] = HEX[p[i] >> 4]
        out[2 * i + 1] = HEX[p[i] & 15]
    return 2 * n


cdef uint32_t put_hex64(uint8_t *out, uint64_t v) noexcept nogil:
    cdef int i
    for i in range(16):
        out[i] = HEX[(v >> (60 - 4 * i)) & 15]
    return 16


cdef uint32_t put_v4(uint8_t *out, const uint8_t *addr) noexcept nogil:
    cdef uint32_t n = 0
    cdef uint8_t v
    cdef int i
    for i in range(4):
        if i:
            out[n] = 46
            n += 1
        v = addr[i]
        if v >= 100:
            out[n] = 48 + v // 100
            n += 1
        if v >= 10:
            out[n] = 48 + v // 10 % 10
            n += 1
        out[n] = 48 + v % 10
        n += 1
    return n


cdef bint is_v4_mapped(const uint8_t *addr) noexcept nogil:
    cdef int i
    for i in range(10):
        if addr[i]:
            return False
    return addr[10] == 0xFF and addr[11] == 0xFF


cdef uint32_t put_v6(uint8_t *out, const uint8_t *addr) noexcept nogil:
    cdef uint16_t group[8]
    cdef uint32_t n = 0
    cdef int i
    cdef int run = 0             # length of the run of zeros that ends before i
    cdef int best = 1            # "::" stands for the longest run of two or more, the first of equals (section 4.2)
    cdef int best_at = -1
    cdef int shift
    for i in range(8):
        group[i] = (<uint16_t>addr[2 * i] << 8) | addr[2 * i + 1]
        run = run + 1 if group[i] == 0 else 0
        if run > best:
            best = run
            best_at = i + 1 - run
    i = 0
    while i < 8:
        if i == best_at:
            out[n] = 58
            out[n + 1] = 58
            n += 2
            i += best
            continue
        if i and out[n - 1] != 58:
            out[n] = 58
            n += 1
        shift = 12
        while shift and (group[i] >> shift) == 0:
            shift -= 4
        while shift >= 0:
            out[n] = HEX[(group[i] >> shift) & 15]
            n += 1
            shift -= 4
        i += 1
    return n


cdef uint32_t put_address(uint8_t *out, uint8_t family, const uint8_t *addr) noexcept nogil:
    if family == AF_INET:
        return put_v4(out, addr)
    if family != AF_INET6:
        return 0
    if is_v4_mapped(addr):
        return put_v4(out, addr + 12)
    return put_v6(out, addr)


cdef uint32_t put_ms(uint8_t *out, uint64_t ns) noexcept nogil:
    cdef uint64_t us = ns // 1000
    cdef uint32_t n = put_u64(out, us // 1000)
    out[n] = 46
    n += 1
    out[n] = <uint8_t>(48 + us // 100 % 10)
    n += 1
    if us < 1000:
        out[n] = <uint8_t>(48 + us // 10 % 10)
        out[n + 1] = <uint8_t>(48 + us % 10)
        n += 2
    memcpy(out + n, b"ms", 2)
    return n + 2
