# cython: language_level=3, boundscheck=True, wraparound=False
"""target_info: the labels that stand once for each process instance, so that a further tag costs no series.

Kept by the index of the process (assemble/processes.pxd); before an index is used again, retire() is told. Shown as long as its process makes spans (the TTL of series). Used by red.pyx with its mutex held.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from zerospan.exporter.encode.buf cimport Buf, buf_byte, buf_put
from zerospan.exporter.link.ids cimport hash_bytes
from zerospan.exporter.proto.cursor cimport Slice

cdef enum:
    PROCS_MAX = 1 << 20      # a guard against an index that is none


cdef bint replace(uint8_t **p, uint32_t *n, Slice s) noexcept nogil:
    cdef uint8_t *copy = <uint8_t *>malloc(s.n + 1)
    if copy == NULL:
        return False
    memcpy(copy, s.p, s.n)
    free(p[0])
    p[0] = copy
    n[0] = s.n
    return True


cdef bint same(const Target *a, const Target *b) noexcept nogil:
    return a.series_n == b.series_n and memcmp(a.series, b.series, a.series_n) == 0


cdef class Targets:
    """All process instances that were seen."""

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.n):
            free(self.targets[i].series)
            free(self.targets[i].labels)
        free(self.targets)
        if self.former != NULL:
            for i in range(FORMER):
                free(self.former[i].series)
                free(self.former[i].labels)
        free(self.former)

    cdef bint reserve(self, uint32_t proc) noexcept nogil:
        cdef uint32_t n = self.n if self.n else 64
        cdef Target *grown
        if proc < self.n:
            return True
        if proc >= PROCS_MAX:
            return False
        while n <= proc:
            n *= 2
        grown = <Target *>realloc(self.targets, n * sizeof(Target))
        if grown == NULL:
            return False
        memset(grown + self.n, 0, (n - self.n) * sizeof(Target))
        self.targets = grown
        self.n = n
        return True

    cdef void touch(self, uint32_t proc, Slice series, uint64_t now_ns) noexcept nogil:
        cdef Target *t
        if not self.reserve(proc):
            return
        t = &self.targets[proc]
        if t.series_n != series.n or series.n == 0 or memcmp(t.series, series.p, series.n) != 0:
            if series.n == 0 or not replace(&t.series, &t.series_n, series):
                return
            if t.last_ns:
                t.labels_n = 0   # they were those of another process that had this index
        t.last_ns = now_ns if now_ns else 1

    cdef bint put(self, uint32_t proc, Slice series, Slice labels) noexcept nogil:
        cdef Target *t
        if not self.reserve(proc):
            return False
        t = &self.targets[proc]
        if t.last_ns and (t.series_n != series.n or memcmp(t.series, series.p, series.n) != 0):
            if not self.remember(t, labels):
                return False
        return replace(&t.series, &t.series_n, series) and replace(&t.labels, &t.labels_n, labels)

    cdef void retire(self, uint32_t proc) noexcept nogil:
        cdef Target *t
        cdef Slice labels
        if proc >= self.n:
            return
        t = &self.targets[proc]
        if t.last_ns:
            labels.p = t.labels
            labels.n = t.labels_n
            self.remember(t, labels)
        free(t.series)
        free(t.labels)
        memset(t, 0, sizeof(Target))

    cdef bint remember(self, const Target *t, Slice labels) noexcept nogil:
        cdef Target *kept
        cdef Slice series
        if self.former == NULL:
            self.former = <Target *>calloc(FORMER, sizeof(Target))
            if self.former == NULL:
                return False
        kept = &self.former[self.n_former % FORMER]
        series.p = t.series
        series.n = t.series_n
        if not replace(&kept.series, &kept.series_n, series) or not replace(&kept.labels, &kept.labels_n, labels):
            kept.last_ns = 0
            return False
        kept.last_ns = t.last_ns
        self.n_former += 1
        return True

    cdef Target *at(self, uint32_t i) noexcept nogil:
        return &self.targets[i] if i < self.n else &self.former[i - self.n]

    cdef void dump(self, Buf *out, uint64_t after_ns) noexcept nogil:
        """A second target_info of one job and instance would make joins with it fail, so the worker processes of one container,
        which are one instance, have one."""
        cdef uint32_t i, at, mask = 127
        cdef uint32_t all = self.n + min(self.n_former, <uint32_t>FORMER)
        cdef uint32_t *shown
        cdef Target *t
        while mask < 2 * all:
            mask = 2 * mask + 1
        shown = <uint32_t *>calloc(mask + 1, sizeof(uint32_t))
        if shown == NULL:
            out.failed = True
            return
        for i in range(all):
            t = self.at(i)
            if t.last_ns == 0 or t.last_ns < after_ns:
                continue
            at = <uint32_t>(hash_bytes(t.series, t.series_n, 0) & mask)
            while shown[at] and not same(self.at(shown[at] - 1), t):
                at = (at + 1) & mask
            if shown[at]:
                continue
            shown[at] = i + 1
            buf_put(out, t.series, t.series_n)
            buf_byte(out, 0)
            buf_put(out, t.labels, t.labels_n)
            buf_byte(out, 0)
        free(shown)
