# cython: language_level=3, boundscheck=True, wraparound=False
"""The number of distinct values that a label has among the live series of one service.

Counted by reference: a series that is forgotten (TTL) gives its values back, so that a new version of a service may
use new names. Values are known by a seeded 64-bit hash only: two that collide count as one, which is harmless here.
Memory is bounded by the number of series. Not thread-safe: Red's mutex is held. Used by series.pyx.
"""

import os

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from zerospan.exporter.metrics.hash cimport hash_bytes, hash_mix


cdef class Limiter:
    """limit: distinct values for each (owner, label)."""

    def __cinit__(self, uint32_t limit):
        self.limit = limit
        self.seed = int.from_bytes(os.urandom(8), "little")
        self.cap = 256
        self.entries = <Entry *>calloc(self.cap, sizeof(Entry))
        self.n_buckets = 256
        self.buckets = <uint32_t *>calloc(self.n_buckets, sizeof(uint32_t))
        self.n = 1
        self.free_head = 0
        if self.entries == NULL or self.buckets == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.entries)
        free(self.buckets)

    cdef bint admits(self, uint32_t owner, uint32_t label, const uint8_t *p, uint32_t n) noexcept nogil:
        cdef uint64_t cell_hash = hash_mix((<uint64_t>owner << 32 | label) ^ self.seed)
        cdef uint32_t cell = self.find(cell_hash)
        if cell == 0 or self.entries[cell].refs < self.limit:
            return self.limit > 0
        return self.find(hash_bytes(p, n, cell_hash)) != 0

    cdef uint32_t acquire(self, uint32_t owner, uint32_t label, const uint8_t *p, uint32_t n) noexcept nogil:
        cdef uint64_t cell_hash = hash_mix((<uint64_t>owner << 32 | label) ^ self.seed)
        cdef uint64_t h = hash_bytes(p, n, cell_hash)
        cdef uint32_t ref = self.find(h)
        cdef uint32_t cell
        if ref:
            self.entries[ref].refs += 1
            return ref
        cell = self.find(cell_hash)
        if cell == 0:
            cell = self.add(cell_hash, 0)
            if cell == 0:
                return 0
        ref = self.add(h, cell)
        if ref == 0:
            if self.entries[cell].refs == 0:
                self.drop(cell)
            return 0
        self.entries[ref].refs = 1
        self.entries[cell].refs += 1
        return ref

    cdef void release(self, uint32_t ref) noexcept nogil:
        cdef uint32_t cell
        if ref == 0:
            return
        self.entries[ref].refs -= 1
        if self.entries[ref].refs:
            return
        cell = self.entries[ref].cell
        self.drop(ref)
        self.entries[cell].refs -= 1
        if self.entries[cell].refs == 0:
            self.drop(cell)

    cdef uint32_t find(self, uint64_t h) noexcept nogil:
        cdef uint32_t i = self.buckets[h & (self.n_buckets - 1)]
        while i and self.entries[i].hash != h:
            i = self.entries[i].next
        return i

    cdef uint32_t add(self, uint64_t h, uint32_t cell) noexcept nogil:
        cdef uint32_t i = self.free_head
        cdef uint32_t *bucket
        if i:
            self.free_head = self.entries[i].next
        else:
            if self.n == self.cap and not self.grow():
                return 0
            i = self.n
            self.n += 1
        bucket = &self.buckets[h & (self.n_buckets - 1)]
        self.entries[i].hash = h
        self.entries[i].cell = cell
        self.entries[i].refs = 0
        self.entries[i].next = bucket[0]
        bucket[0] = i
        return i

    cdef void drop(self, uint32_t ref) noexcept nogil:
        cdef uint32_t *link = &self.buckets[self.entries[ref].hash & (self.n_buckets - 1)]
        while link[0] != ref:
            link = &self.entries[link[0]].next
        link[0] = self.entries[ref].next
        self.entries[ref].next = self.free_head
        self.entries[ref].hash = 0
        self.free_head = ref

    cdef bint grow(self) noexcept nogil:
        # Only called when no entry is free: all of 1..n are in the chains.
        cdef Entry *entries = <Entry *>realloc(self.entries, 2 * self.cap * sizeof(Entry))
        cdef uint32_t *buckets
        cdef uint32_t *bucket
        cdef uint32_t i
        if entries == NULL:
            return False
        self.entries = entries
        buckets = <uint32_t *>realloc(self.buckets, 2 * self.n_buckets * sizeof(uint32_t))
        if buckets == NULL:
            return False
        self.buckets = buckets
        self.cap *= 2
        self.n_buckets *= 2
        memset(self.buckets, 0, self.n_buckets * sizeof(uint32_t))
        for i in range(1, self.n):
            bucket = &self.buckets[self.entries[i].hash & (self.n_buckets - 1)]
            self.entries[i].next = bucket[0]
            bucket[0] = i
        return True
