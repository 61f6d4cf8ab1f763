# cython: language_level=3, boundscheck=True, wraparound=False
"""The table of all series of one Kind: found by their label values, made on first use, forgotten after a while.

The hot road is get() -> find(): hash of the raw label values, then a comparison of all bytes. Only when that finds
nothing are the values made clean (UTF-8) and limited, and only when a series is made are its labels written as text. So a
value that is not clean or beyond its limit takes the slow road each time, into the series that stands for it.

A series is one block of memory: counters, buckets, key and labels, as many as its kind has. Beyond Budget.max_series or
.max_bytes observations go to one overflow series for each kind, with OpenTelemetry's label otel_metric_overflow="true", and are counted:
totals stay right. Used by red.pyx and graph.pyx; read by exposition.pyx.
"""

import os
from decimal import Decimal

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from zerospan.exporter.encode.text cimport text_copy_line
from zerospan.exporter.metrics.families import OVERFLOW_LABEL, OVERFLOW_VALUE
from zerospan.exporter.metrics.hash cimport hash_bytes
from zerospan.exporter.metrics.text cimport write_bytes, write_escaped
from zerospan.exporter.proto.cursor cimport slice_of

cdef bytes _overflow = OVERFLOW_LABEL.encode()
cdef bytes _aggregated = OVERFLOW_VALUE.encode()
cdef Slice AGGREGATED
AGGREGATED.p = <const uint8_t *><const char *>_aggregated
AGGREGATED.n = len(_aggregated)
cdef Slice OVERFLOW
OVERFLOW.p = <const uint8_t *><const char *>_overflow
OVERFLOW.n = len(_overflow)
_label_numbers = {}


cdef class Budget:
    """max_series: lines of the exposition; max_bytes: memory of the series in bytes. Shared by all tables."""

    def __cinit__(self, uint64_t max_series, uint64_t max_bytes):
        self.max_series = max_series
        self.max_bytes = max_bytes


cdef class Table:
    """kind: a families.Kind; the others are shared with the other tables."""

    def __cinit__(self, kind, Budget budget, Limiter limiter):
        cdef uint32_t i, b, at
        self.kind = kind
        self.budget = budget
        self.limiter = limiter
        self.seed = int.from_bytes(os.urandom(8), "little")
        self.keep = []
        self.process = kind.process
        self.n_labels = len(kind.labels)
        self.n_parts = len(kind.histograms)
        if self.n_labels > LABELS_MAX or self.n_parts > PARTS_MAX:
            raise ValueError(
                f"kind {kind.name}: at most {LABELS_MAX} labels and {PARTS_MAX} histograms fit; raise the limits in series.pxd"
            )
        for i, label in enumerate(kind.labels):
            self.names[i] = self.text(label.name)
            self.capped[i] = _label_numbers.setdefault(label.name, len(_label_numbers) + 1) if label.capped else 0
        if sum(label.capped for label in kind.labels) > REFS_MAX:
            raise ValueError(f"kind {kind.name}: at most {REFS_MAX} capped labels fit; raise REFS_MAX in series.pxd")
        self.constant = self.text(kind.constant)
        self.n_counters = sum(c.count_of is None for c in kind.counters)
        self.lines = len(kind.counters)
        at = self.n_counters
        for i, histogram in enumerate(kind.histograms):
            self.parts[i].at = at
            self.parts[i].n_bounds = len(histogram.bounds)
            self.parts[i].is_seconds = histogram.unit == "seconds"
            for b, bound in enumerate(histogram.bounds):
                self.parts[i].bounds[b] = int(Decimal(bound) * (10**9 if histogram.unit == "seconds" else 1))
            at += self.parts[i].n_bounds + 2
            self.lines += self.parts[i].n_bounds + 3
        self.n_values = at
        self.n_slots = 64
        self.slots = <Slot *>calloc(self.n_slots, sizeof(Slot))
        if self.slots == NULL:
            raise MemoryError

    def __dealloc__(self):
        self.clear()
        free(self.slots)
        free(self.items)
        free(self.holes)

    cdef Slice text(self, str text):
        cdef bytes raw = text.encode()
        cdef Slice s
        self.keep.append(raw)
        s.p = <const uint8_t *><const char *>raw
        s.n = len(raw)
        return s

    def replaced_values(self):
        """{label: observations whose value was beyond the limit for their service}."""
        return {label.name: self.replaced[i] for i, label in enumerate(self.kind.labels) if label.capped}

    cdef Series *get(self, const Key *k, uint32_t owner, bint limited, uint64_t now_ns) noexcept nogil:
        cdef Series *s = self.find(hash_bytes(k.b, k.n, self.seed), k)
        if s == NULL:
            s = self.admit(k, owner, limited, now_ns)
            if s == NULL:
                return NULL
        s.last_ns = now_ns
        return s

    cdef Series *find(self, uint64_t h, const Key *k) noexcept nogil:
        cdef uint32_t i = <uint32_t>h & (self.n_slots - 1)
        cdef uint32_t tag = <uint32_t>(h >> 32)
        cdef Series *s
        while self.slots[i].item:
            if self.slots[i].tag == tag:
                s = self.items[self.slots[i].item - 1]
                if s.hash == h and s.key_n == k.n and memcmp(series_key(self, s), k.b, k.n) == 0:
                    return s
            i = (i + 1) & (self.n_slots - 1)
        return NULL

    cdef Series *admit(self, const Key *k, uint32_t owner, bint limited, uint64_t now_ns) noexcept nogil:
        cdef Key clean
        cdef uint8_t value[VALUE_MAX]
        cdef uint32_t at = 0, i, n, taken = 0
        cdef uint64_t h
        cdef Series *s
        key_begin(&clean)
        if self.process:
            n = k.b[0] | <uint32_t>k.b[1] << 8
            key_put(&clean, k.b + 2, n, SERIES_MAX)
            at = 2 + n
        for i in range(self.n_labels):
            n = k.b[at] | <uint32_t>k.b[at + 1] << 8
            at += 2 + n
            n = text_copy_line(value, VALUE_MAX, slice_of(k.b + at - n, n))
            if n and limited and self.capped[i] and not self.limiter.admits(owner, self.capped[i], value, n):
                self.replaced[i] += 1
                key_put(&clean, AGGREGATED.p, AGGREGATED.n)
            else:
                key_put(&clean, value, n)
        h = hash_bytes(clean.b, clean.n, self.seed)
        s = self.find(h, &clean)
        if s != NULL:
            return s
        s = self.make(&clean, h, False, now_ns)
        if s == NULL:
            self.dropped += 1
            if self.overflow == NULL:
                clean.n = 2
                clean.b[0] = clean.b[1] = 255       # no key of label values begins like this: see SERIES_MAX
                self.overflow = self.make(&clean, hash_bytes(clean.b, 2, self.seed), True, now_ns)
            return self.overflow
        at = 0
        if self.process:
            at = 2 + (clean.b[0] | <uint32_t>clean.b[1] << 8)
        for i in range(self.n_labels):
            n = clean.b[at] | <uint32_t>clean.b[at + 1] << 8
            at += 2
            if n and limited and self.capped[i] and not (n == AGGREGATED.n and memcmp(clean.b + at, AGGREGATED.p, n) == 0):
                s.refs[taken] = self.limiter.acquire(owner, self.capped[i], clean.b + at, n)
                taken += 1
            at += n
        return s

    cdef Series *make(self, const Key *k, uint64_t h, bint is_overflow, uint64_t now_ns) noexcept nogil:
        cdef uint8_t labels[SERIES_MAX + 10 * (2 * VALUE_MAX + 64) + 64]
        cdef uint32_t n = self.put_labels(labels, k, is_overflow)
        cdef uint64_t size
        cdef Series *s
        size = (sizeof(Series) + self.n_values * sizeof(uint64_t) + k.n + n + 7) & ~<uint64_t>7
        if not is_overflow and (self.budget.series + self.lines > self.budget.max_series
                                or self.budget.bytes + size > self.budget.max_bytes):
            return NULL
        s = <Series *>malloc(size)
        if s == NULL:
            return NULL
        memset(s, 0, sizeof(Series) + self.n_values * sizeof(uint64_t))
        s.hash = h
        s.last_ns = now_ns
        s.size = <uint32_t>size
        s.key_n = k.n
        s.labels_n = n
        memcpy(series_key(self, s), k.b, k.n)
        memcpy(series_labels(self, s), labels, n)
        if not self.insert(s):
            free(s)
            return NULL
        self.budget.series += self.lines
        self.budget.bytes += size
        return s

    cdef bint insert(self, Series *s) noexcept nogil:
        cdef uint32_t i
        cdef uint32_t cap
        cdef void *grown
        if (self.n + 1) * 2 > self.n_slots and not self.grow_slots():
            return False
        if self.n_holes:
            self.n_holes -= 1
            s.item = self.holes[self.n_holes]
        else:
            if self.n_items == self.cap_items:
                cap = 2 * self.cap_items if self.cap_items else 64
                grown = realloc(self.items, cap * sizeof(Series *))
                if grown == NULL:
                    return False
                self.items = <Series **>grown
                grown = realloc(self.holes, cap * sizeof(uint32_t))
                if grown == NULL:
                    return False
                self.holes = <uint32_t *>grown
                self.cap_items = cap
            s.item = self.n_items
            self.n_items += 1
        self.items[s.item] = s
        i = <uint32_t>s.hash & (self.n_slots - 1)
        while self.slots[i].item:
            i = (i + 1) & (self.n_slots - 1)
        self.slots[i].tag = <uint32_t>(s.hash >> 32)
        self.slots[i].item = s.item + 1
        self.n += 1
        return True

    cdef bint grow_slots(self) noexcept nogil:
        cdef uint32_t n = 2 * self.n_slots
        cdef Slot *slots = <Slot *>calloc(n, sizeof(Slot))
        cdef uint32_t i, j
        if slots == NULL:
            return False
        for j in range(self.n_items):
            if self.items[j] == NULL:
                continue
            i = <uint32_t>self.items[j].hash & (n - 1)
            while slots[i].item:
                i = (i + 1) & (n - 1)
            slots[i].tag = <uint32_t>(self.items[j].hash >> 32)
            slots[i].item = j + 1
        free(self.slots)
        self.slots = slots
        self.n_slots = n
        return True

    cdef void remove(self, Series *s) noexcept nogil:
        cdef uint32_t mask = self.n_slots - 1
        cdef uint32_t i = <uint32_t>s.hash & mask
        cdef uint32_t j, home, r
        while self.slots[i].item != s.item + 1:
            i = (i + 1) & mask
        # Those behind it move up, as far as their own place allows, so that no tombstones are needed.
        j = i
        while True:
            j = (j + 1) & mask
            if self.slots[j].item == 0:
                break
            home = <uint32_t>self.items[self.slots[j].item - 1].hash & mask
            if ((j - home) & mask) >= ((j - i) & mask):
                self.slots[i] = self.slots[j]
                i = j
        self.slots[i].item = 0
        for r in range(REFS_MAX):
            self.limiter.release(s.refs[r])
        self.items[s.item] = NULL
        self.holes[self.n_holes] = s.item
        self.n_holes += 1
        self.n -= 1
        self.budget.series -= self.lines
        self.budget.bytes -= s.size
        if s == self.overflow:
            self.overflow = NULL
        free(s)

    cdef void clear(self) noexcept nogil:
        cdef uint32_t i
        for i in range(self.n_items):
            free(self.items[i])
        self.n_items = 0

    cdef uint32_t observe(self, Series *s, uint32_t part, uint64_t value) noexcept nogil:
        cdef Part *h = &self.parts[part]
        cdef uint64_t *v = series_values(s) + h.at
        cdef uint32_t b = 0
        while b < h.n_bounds and value > h.bounds[b]:
            b += 1
        v[b] += 1
        v[h.n_bounds + 1] += value
        return b

    cdef void exemplar(self, Series *s, uint32_t bucket, uint64_t value, const uint8_t *trace_id, uint64_t span_id,
                       uint64_t wall_ns) noexcept nogil:
        # The slowest of the last half minute: one for a series, where the eye goes first.
        if s.exemplar.is_set and bucket < s.exemplar.bucket and wall_ns < s.exemplar.wall_ns + 30 * <uint64_t>1000000000:
            return
        memcpy(s.exemplar.trace_id, trace_id, 16)
        s.exemplar.span_id = span_id
        s.exemplar.value = value
        s.exemplar.wall_ns = wall_ns
        s.exemplar.bucket = bucket
        s.exemplar.is_set = 1

    cdef bint sweep(self, uint64_t before_ns, uint32_t budget) noexcept nogil:
        cdef Series *s
        while budget:
            if self.sweep_at >= self.n_items:
                self.sweep_at = 0
                return True
            s = self.items[self.sweep_at]
            if s != NULL and s.last_ns < before_ns:
                self.remove(s)
                self.budget.expired += 1
            self.sweep_at += 1
            budget -= 1
        return False

    cdef uint32_t put_labels(self, uint8_t *out, const Key *k, bint is_overflow) noexcept nogil:
        cdef uint8_t *o = out
        cdef uint32_t at = 0, i, n
        if is_overflow:
            o = write_bytes(o, OVERFLOW.p, OVERFLOW.n)
            if self.constant.n:
                o = write_bytes(o, b",", 1)
            return <uint32_t>(write_bytes(o, self.constant.p, self.constant.n) - out)
        if self.process:
            n = k.b[0] | <uint32_t>k.b[1] << 8
            o = write_bytes(o, k.b + 2, n)
            if n:
                o = write_bytes(o, b",", 1)
            at = 2 + n
        for i in range(self.n_labels):
            n = k.b[at] | <uint32_t>k.b[at + 1] << 8
            at += 2
            if n:
                o = write_bytes(o, self.names[i].p, self.names[i].n)
                o = write_bytes(o, b'="', 2)
                o = write_escaped(o, k.b + at, n)
                o = write_bytes(o, b'",', 2)
            at += n
        o = write_bytes(o, self.constant.p, self.constant.n)
        if self.constant.n == 0 and o > out:
            o -= 1               # the last comma
        return <uint32_t>(o - out)
