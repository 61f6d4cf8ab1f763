"""Keys and ids. Every agent must compute the same value from the same bytes: pure functions, no seed.

  connection key  C = hash64(ISN of the connecting side, ISN of the accepting side)
  request key     K = hash64(C, sequence number of the request's first byte)
  span id           = hash64(K, observation point)
  trace id          = hash128(K of the root request)

The mixer is the finalizer of MurmurHash3 (a bijection of 64 bits) over a running state.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum Point:
    # in the order of the way; zerospan.point is "client.process", "client.pod" and so on
    POINT_CLIENT_PROCESS = 1
    POINT_CLIENT_POD = 2
    POINT_CLIENT_NODE = 3
    POINT_SERVER_NODE = 4
    POINT_SERVER_POD = 5
    POINT_SERVER_PROCESS = 6
    POINT_GATEWAY_NODE = 7       # on the way between the nodes of both ends

cdef inline uint64_t mix64(uint64_t x) noexcept nogil:
    x ^= x >> 33
    x *= 0xFF51AFD7ED558CCDull
    x ^= x >> 33
    x *= 0xC4CEB9FE1A85EC53ull
    x ^= x >> 33
    return x

cdef inline uint64_t hash64(uint64_t a, uint64_t b) noexcept nogil:
    """Of two words; never 0, which means "none" everywhere."""
    cdef uint64_t h = mix64(a + 0x9E3779B97F4A7C15ull) ^ mix64(b ^ 0x6A09E667F3BCC909ull)
    h = mix64(h + (a << 1))
    return h if h else 1

cdef inline uint64_t connection_key(uint32_t isn_connecting, uint32_t isn_accepting) noexcept nogil:
    return hash64(isn_connecting, isn_accepting)

cdef inline uint64_t request_key(uint64_t connection, uint32_t seq) noexcept nogil:
    return hash64(connection, seq)

cdef inline uint64_t span_id(uint64_t request, Point point) noexcept nogil:
    return hash64(request, point)

cdef inline void put_be64(uint8_t *p, uint64_t v) noexcept nogil:
    cdef int i
    for i in range(8):
        p[i] = <uint8_t>(v >> (56 - 8 * i))

cdef inline uint64_t get_be64(const uint8_t *p) noexcept nogil:
    cdef uint64_t v = 0
    cdef int i
    for i in range(8):
        v = (v << 8) | p[i]
    return v

cdef inline void trace_id(uint64_t root, uint8_t *out) noexcept nogil:
    put_be64(out, hash64(root, 0x7472616365206964ull))
    put_be64(out + 8, hash64(root, 0x7a65726f7370616eull))

cdef inline uint64_t hash_bytes(const uint8_t *p, uint32_t n, uint64_t seed) noexcept nogil:
    """Of a byte string: FNV-1a, then mixed. For look-ups of bounded strings, not for security."""
    cdef uint64_t h = 0xCBF29CE484222325ull ^ seed
    cdef uint32_t i
    for i in range(n):
        h = (h ^ p[i]) * 0x100000001B3ull
    return hash64(h, n)
