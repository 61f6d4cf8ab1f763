# cython: language_level=3, boundscheck=True, wraparound=False
"""The consumer side of BPF ring buffers, mapped and read in place.

Layout of the pages: kernel/bpf/ringbuf.c (struct bpf_ringbuf); the data area is mapped twice in a row, so that a
record is always contiguous. Used by one thread; no wake-ups are asked for, the engine drains by a timer.

Records of several rings come out by their times. What a thread does on two CPUs stays in order by two rules: a pass looks at its
clock first and at the producers then, and it leaves alone what is younger than its clock. Had the earlier of two records not been
there when its ring was looked at, the later one would be younger than that moment.
"""

import errno
import os

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

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
    void __builtin_prefetch(const void *address)
    void zs_store_release(unsigned long *p, unsigned long v)

cdef enum:
    BUSY_BIT = 1 << 31
    DISCARD_BIT = 1 << 30
    HEADER = 8               # length and page offset before each record
    LINE = 64
    AHEAD = 4                # lines of a record that are fetched before it is read
    STAMPED = 16             # bytes of a record that has a time, which follows struct zs_hdr

cdef uint64_t NOTHING = ~<uint64_t>0

cdef size_t PAGE = os.sysconf("SC_PAGE_SIZE")



cdef class Rings(Source):
    """rings: (fd of the map, its max_entries in bytes) of each. OSError if one cannot be mapped."""

    def __cinit__(self, list rings):
        cdef Region *r
        self.regions = <Region *>calloc(len(rings), sizeof(Region))
        if self.regions == NULL:
            raise MemoryError()
        for fd, size in rings:
            r = &self.regions[self.n]
            map_ring(r, fd, size)
            self.n += 1

    def __dealloc__(self):
        cdef int i
        for i in range(self.n):
            munmap(self.regions[i].consumer, PAGE)
            munmap(self.regions[i].producer, self.regions[i].mapped)
        free(self.regions)

    def fill(self):
        """Share of the fullest ring that waits to be read, 0 to 1."""
        cdef int i
        return max([(zs_load_acquire(self.regions[i].producer) - self.regions[i].at) / (self.regions[i].mask + 1)
                    for i in range(self.n)])

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
        cdef Region *r = &self.regions[self.current]
        cdef const uint8_t *record
        if not self.open:
            self.begin()
        if (r.time_ns > self.bound or r.time_ns == NOTHING) and not self.choose():
            self.open = False
            size[0] = 0
            return NULL
        r = &self.regions[self.current]
        record = r.record
        size[0] = r.size
        r.at += (r.size + HEADER + 7) & ~<unsigned long>7
        look(r, self.until_ns)
        self.records += 1
        return record

    cdef void release(self) noexcept nogil:
        cdef int i
        cdef Region *r
        for i in range(self.n):
            r = &self.regions[i]
            if r.given != r.at:
                r.given = r.at
                zs_store_release(r.consumer, r.at)

    cdef void begin(self) noexcept nogil:
        cdef timespec now
        cdef int i
        clock_gettime(CLOCK_MONOTONIC, &now)
        self.until_ns = <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec
        for i in range(self.n):
            self.regions[i].seen = zs_load_acquire(self.regions[i].producer)
            look(&self.regions[i], self.until_ns)
        self.bound = 0
        self.open = True

    cdef bint choose(self) noexcept nogil:
        """The ring with the oldest record, and how long it stays that; False if there is none."""
        cdef uint64_t first = NOTHING, second = NOTHING, t
        cdef int i
        for i in range(self.n):
            t = self.regions[i].time_ns
            if t < first:
                second = first
                first = t
                self.current = i
            elif t < second:
                second = t
        self.bound = second
        return first != NOTHING


cdef inline void fetch(const Region *r) noexcept nogil:
    """Another CPU wrote these lines a moment ago: they are asked for while the record before is handled."""
    cdef uint32_t n = r.size if r.size < AHEAD * LINE else AHEAD * LINE, at = LINE
    while at < n:
        __builtin_prefetch(r.record + at)
        at += LINE
    __builtin_prefetch(r.data + ((r.at + r.size + HEADER + 7) & r.mask & ~<unsigned long>7))


cdef void look(Region *r, uint64_t until_ns) noexcept nogil:
    """Settles which record is the next one of a ring in this pass."""
    cdef uint32_t head
    r.time_ns = NOTHING
    while r.at < r.seen:
        r.record = r.data + (r.at & r.mask)
        head = zs_load_acquire32(r.record)
        if head & <uint32_t>BUSY_BIT:
            return
        r.size = head & ~<uint32_t>DISCARD_BIT
        if head & <uint32_t>DISCARD_BIT:
            r.at += (r.size + HEADER + 7) & ~<unsigned long>7
            continue
        fetch(r)
        r.record += HEADER
        if r.size < STAMPED:
            r.time_ns = 0                        # the engine counts it as malformed
        elif (<const uint64_t *>r.record)[1] <= until_ns:
            r.time_ns = (<const uint64_t *>r.record)[1]
        return


cdef int map_ring(Region *r, int fd, unsigned long size) except -1:
    cdef void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if p == MAP_FAILED:
        raise OSError(errno.ENOMEM, "mapping a ring buffer's consumer page")
    r.consumer = <unsigned long *>p
    r.mapped = PAGE + 2 * size
    p = mmap(NULL, r.mapped, PROT_READ, MAP_SHARED, fd, PAGE)
    if p == MAP_FAILED:
        munmap(r.consumer, PAGE)
        raise OSError(errno.ENOMEM, f"mapping a ring buffer ({size} bytes)")
    r.producer = <unsigned long *>p
    r.data = <const uint8_t *>p + PAGE
    r.mask = size - 1
    r.at = r.consumer[0]
    r.given = r.at
    r.time_ns = NOTHING
    return 0
