"""Numbers and addresses as text. Each writes to `out`, which the caller has made large enough, and returns how many bytes.

inet_ntop and printf are not used: they cost more than the whole rest of a span.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    DIGITS_MAX = 24          # bytes for put_u64, put_i64
    ADDRESS_MAX = 48         # bytes for put_address
    DURATION_MAX = 32        # bytes for put_ms

cdef uint32_t put_u64(uint8_t *out, uint64_t v) noexcept nogil
cdef uint32_t put_i64(uint8_t *out, int64_t v) noexcept nogil
# Two lower-case hex digits a byte.
cdef uint32_t put_hex(uint8_t *out, const uint8_t *p, uint32_t n) noexcept nogil
# 16 hex digits.
cdef uint32_t put_hex64(uint8_t *out, uint64_t v) noexcept nogil
# AF_INET as a.b.c.d; AF_INET6 as in RFC 5952; an IPv4-mapped address as the IPv4 address it stands for, so that both
# ends of a connection call it the same. 0 bytes for another family.
cdef uint32_t put_address(uint8_t *out, uint8_t family, const uint8_t *addr) noexcept nogil
# A duration in milliseconds: "0.123ms", "12.3ms", "5000.0ms".
cdef uint32_t put_ms(uint8_t *out, uint64_t ns) noexcept nogil
