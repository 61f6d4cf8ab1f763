# cython: language_level=3, boundscheck=True, wraparound=False
"""The registry of requests; see requests.pxd. Open addressing, linear probing, deletion by shifting back."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from zerospan.exporter.link.pages cimport pages_give, pages_take

cdef extern from * nogil:
    void __builtin_prefetch(const void *address)

cdef enum:
    MAX_CHAIN = 256          # causes above each other


cdef class Requests:
    """limit_bytes: memory for the table."""

    def __cinit__(self, uint64_t limit_bytes):
        self.mask = 1023
        self.slots = <Request *>pages_take((self.mask + 1) * sizeof(Request))
        if self.slots == NULL:
            raise MemoryError("zerospan: no memory for the registry of requests")
        self.limit = max(limit_bytes // sizeof(Request) // 2, 512)

    def __dealloc__(self):
        pages_give(self.slots, (self.mask + 1) * sizeof(Request))
        free(self.traces)

    def nbytes(self):
        return (self.mask + 1) * sizeof(Request) + self.cap_traces * sizeof(Trace)

    cdef void prefetch(self, uint64_t key) noexcept nogil:
        __builtin_prefetch(&self.slots[key & self.mask])
        __builtin_prefetch(&self.slots[(key + 1) & self.mask])   # where a search goes on, and what drop() looks at

    cdef Request *find(self, uint64_t key) noexcept nogil:
        cdef uint64_t i = key & self.mask
        if key == 0:
            return NULL
        while self.slots[i].key:
            if self.slots[i].key == key:
                return &self.slots[i]
            i = (i + 1) & self.mask
        return NULL

    cdef Request *ref(self, uint64_t key) noexcept nogil:
        cdef Request *r = self.find(key)
        cdef uint64_t i
        if r != NULL:
            r.refs += 1
            return r
        if key == 0 or self.n >= self.limit or (4 * (self.n + 1) > 3 * self.mask and self.grow() < 0):
            self.refused += 1
            return NULL
        i = key & self.mask
        while self.slots[i].key:
            i = (i + 1) & self.mask
        memset(&self.slots[i], 0, sizeof(Request))
        self.slots[i].key = key
        self.slots[i].refs = 1
        self.n += 1
        return &self.slots[i]

    cdef int grow(self) noexcept nogil:
        cdef uint64_t mask = 2 * self.mask + 1, i, j
        cdef Request *slots = <Request *>pages_take((mask + 1) * sizeof(Request))
        if slots == NULL:
            return -1
        for i in range(self.mask + 1):
            if self.slots[i].key:
                j = self.slots[i].key & mask
                while slots[j].key:
                    j = (j + 1) & mask
                slots[j] = self.slots[i]
        pages_give(self.slots, (self.mask + 1) * sizeof(Request))
        self.slots = slots
        self.mask = mask
        return 0

    cdef void drop(self, uint64_t at) noexcept nogil:
        """Empties a slot and closes the gap, so that no tombstone is needed."""
        cdef uint64_t hole = at, i = at, home
        cdef uint32_t trace = self.slots[at].trace
        if trace:
            self.traces[trace - 1].next = self.free_trace
            self.free_trace = trace
        while True:
            i = (i + 1) & self.mask
            if self.slots[i].key == 0:
                break
            home = self.slots[i].key & self.mask
            if ((i - home) & self.mask) >= ((i - hole) & self.mask):
                self.slots[hole] = self.slots[i]
                hole = i
        self.slots[hole].key = 0
        self.n -= 1

    cdef bint put_trace(self, Request *r, const uint8_t *trace_id, uint64_t parent, uint8_t flags) noexcept nogil:
        cdef Trace *t
        cdef uint32_t cap
        if r.trace == 0:
            if self.free_trace:
                r.trace = self.free_trace
                self.free_trace = self.traces[r.trace - 1].next
            else:
                if self.n_traces == self.cap_traces:
                    cap = self.cap_traces * 2 if self.cap_traces else 64
                    t = <Trace *>realloc(self.traces, cap * sizeof(Trace))
                    if t == NULL:
                        self.refused += 1
                        return False
                    self.traces = t
                    self.cap_traces = cap
                self.n_traces += 1
                r.trace = self.n_traces
        t = &self.traces[r.trace - 1]
        memcpy(t.trace_id, trace_id, 16)
        t.parent = parent
        t.flags = flags
        return True

    cdef void unref(self, uint64_t key) noexcept nogil:
        cdef Request *r
        cdef uint64_t cause
        while key:
            r = self.find(key)
            if r == NULL:
                return
            r.refs -= 1
            if r.refs:
                return
            cause = r.cause
            self.drop(r - self.slots)
            key = cause   # the reference that the entry held

    cdef bint leads_to(self, uint64_t key, uint64_t root) noexcept nogil:
        """Whether `root` is `key` or stands above it."""
        cdef Request *r
        cdef int steps = 0
        while key:
            if key == root or steps > MAX_CHAIN:
                return True
            r = self.find(key)
            key = r.cause if r != NULL else 0
            steps += 1
        return False

    cdef void doubt(self) noexcept nogil:
        cdef uint64_t i
        for i in range(self.mask + 1):
            if self.slots[i].key and self.slots[i].by_order and self.slots[i].cause_state == CAUSE_KNOWN:
                self.slots[i].cause_state = CAUSE_DOUBTFUL   # the reference stays until the entry leaves
                if self.changed != NULL:
                    self.changed(self, self.slots[i].key, self.slots[i].cause)

    cdef void set_cause(self, uint64_t key, uint64_t cause, uint8_t method, uint8_t state) noexcept nogil:
        cdef Request *r
        cdef uint64_t before
        if self.leads_to(cause, key):
            return   # nothing is its own cause: two entries that refer to each other would stay forever
        if cause and self.ref(cause) == NULL:
            return
        r = self.find(key)
        if r == NULL:
            self.unref(cause)
            return
        before = r.cause
        r.cause = cause
        r.cause_method = method
        r.cause_state = state
        r.by_order = 0
        if self.changed != NULL:
            self.changed(self, key, before)
        self.unref(before)
