"""Writers of Prometheus' text. Each takes a pointer with enough room behind it (it says how much) and returns the
pointer behind what it wrote.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from zerospan.exporter.encode.digits cimport put_address, put_u64

cdef enum:
    ADDRESS_PORT_MAX = 64    # bytes for write_address_port

cdef inline uint8_t *write_bytes(uint8_t *o, const void *p, size_t n) noexcept nogil:
    memcpy(o, p, n)
    return o + n

cdef inline uint8_t *write_u64(uint8_t *o, uint64_t v) noexcept nogil:
    """Decimal; DIGITS_MAX bytes."""
    if v < 10:
        o[0] = <uint8_t>(48 + v)
        return o + 1
    return o + put_u64(o, v)

cdef inline uint8_t *write_ns(uint8_t *o, uint64_t ns) noexcept nogil:
    """Nanoseconds as seconds, exact and without trailing zeros ("1.5", "0.000001", "0.0"); DIGITS_MAX + 10 bytes."""
    cdef uint64_t part = ns % 1000000000
    cdef uint8_t *end
    cdef int i
    o = write_u64(o, ns // 1000000000)
    o[0] = 46
    o += 1
    for i in range(8, -1, -1):
        o[i] = <uint8_t>(48 + part % 10)
        part //= 10
    end = o + 9
    while end > o + 1 and (end - 1)[0] == 48:
        end -= 1
    return end

cdef inline uint8_t *write_address_port(uint8_t *o, uint8_t family, const uint8_t *addr, uint16_t port) noexcept nogil:
    """10.0.0.1:80 or [::1]:80."""
    cdef uint32_t n = put_address(o + 1, family, addr)
    cdef uint32_t i
    for i in range(1, n + 1):
        if o[i] == 58:
            o[0] = 91
            o[n + 1] = 93
            o[n + 2] = 58
            return write_u64(o + n + 3, port)
    for i in range(n):
        o[i] = o[i + 1]
    o[n] = 58
    return write_u64(o + n + 1, port)

cdef inline uint8_t *write_escaped(uint8_t *o, const uint8_t *p, uint32_t n) noexcept nogil:
    """A label value with backslash, quote and line feed escaped; 2 n bytes."""
    cdef uint32_t i
    for i in range(n):
        if p[i] == 92 or p[i] == 34 or p[i] == 10:
            o[0] = 92
            o[1] = 110 if p[i] == 10 else p[i]
            o += 2
        else:
            o[0] = p[i]
            o += 1
    return o
