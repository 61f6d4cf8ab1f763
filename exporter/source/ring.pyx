# cython: language_level=3, boundscheck=True, wraparound=False
"""The consumer side of a BPF ring buffer, mapped and read in place.

Layout of the pages: kernel/bpf/ringbuf.c (struct bpf_ringbuf); the data area is mapped twice in a row, so that a
record is always contiguous. Used by one thread; no wake-ups are asked for, the engine drains by a timer.
"""

import errno
import os

from libc.stdint cimport uint8_t, uint32_t

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int PROT_READ, PROT_WRITE, MAP_SHARED
    void *MAP_FAILED

cdef extern from * nogil:
    """
    static inline unsigned long zs_load_acquire(const unsigned long *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline unsigned zs_load_acquire32(const void *p) { return __atomic_load_n((const unsigned *)p, __ATOMIC_ACQUIRE); }
    static inline void zs_store_release(unsigned long *p, unsigned long v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    """
    unsigned long zs_load_acquire(const unsigned long *p)
    unsigned int zs_load_acquire32(const void *p)
    void zs_store_release(unsigned long *p, unsigned long v)

cdef enum:
    BUSY_BIT = 1 << 31
    DISCARD_BIT = 1 << 30
    HEADER = 8               # length and page offset before each record

cdef size_t PAGE = os.sysconf("SC_PAGE_SIZE")


cdef class Ring(Source):
    """fd: the ring buffer map; size: its max_entries in bytes. OSError if it cannot be mapped."""

    def __cinit__(self, int fd, unsigned long size):
        cdef void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if p == MAP_FAILED:
            raise OSError(errno.ENOMEM, "mapping the ring buffer's consumer page")
        self.consumer = <unsigned long *>p
        self.mapped = PAGE + 2 * size
        p = mmap(NULL, self.mapped, PROT_READ, MAP_SHARED, fd, PAGE)
        if p == MAP_FAILED:
            munmap(self.consumer, PAGE)
            self.consumer = NULL
            raise OSError(errno.ENOMEM, f"mapping the ring buffer ({size} bytes)")
        self.producer = <unsigned long *>p
        self.data = <const uint8_t *>p + PAGE
        self.mask = size - 1
        self.at = self.consumer[0]

    def __dealloc__(self):
        if self.consumer != NULL:
            munmap(self.consumer, PAGE)
            munmap(self.producer, self.mapped)

    def fill(self):
        """Share of the ring that waits to be read, 0 to 1."""
        return (zs_load_acquire(self.producer) - self.at) / (self.mask + 1)

    def drain(self):
        """Copies of all records that wait, in order; their space is given back. For tests and `zerospan record`."""
        cdef uint32_t size = 0
        cdef const uint8_t *record = self.next(&size)
        out = []
        while record != NULL:
            out.append((<const char *>record)[:size])
            record = self.next(&size)
        self.release()
        return out

    cdef const uint8_t *next(self, uint32_t *size) noexcept nogil:
        cdef uint32_t head
        cdef const uint8_t *record
        while self.at < zs_load_acquire(self.producer):
            record = self.data + (self.at & self.mask)
            head = zs_load_acquire32(record)
            if head & <uint32_t>BUSY_BIT:
                break
            size[0] = head & ~<uint32_t>DISCARD_BIT
            self.at += (size[0] + HEADER + 7) & ~<unsigned long>7
            if head & <uint32_t>DISCARD_BIT:
                continue
            self.records += 1
            return record + HEADER
        size[0] = 0
        return NULL

    cdef void release(self) noexcept nogil:
        zs_store_release(self.consumer, self.at)
