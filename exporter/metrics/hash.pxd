"""A seeded 64-bit hash for the tables of this folder. The seed is random for each table's life, because remote
parties choose what is hashed; equality is always decided on the full bytes, where it matters.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

cdef inline uint64_t hash_mix(uint64_t h) noexcept nogil:
    h ^= h >> 32
    h *= <uint64_t>0xd6e8feb86659fd93
    h ^= h >> 32
    return h

cdef inline uint64_t hash_bytes(const uint8_t *p, size_t n, uint64_t seed) noexcept nogil:
    cdef uint64_t h = seed ^ (<uint64_t>n * <uint64_t>0x9e3779b97f4a7c15)
    cdef uint64_t w
    while n >= 8:
        memcpy(&w, p, 8)
        h = hash_mix(h ^ w)
        p += 8
        n -= 8
    if n:
        w = 0
        memcpy(&w, p, n)
        h = hash_mix(h ^ w)
    return hash_mix(h ^ <uint64_t>0x9e3779b97f4a7c15)
