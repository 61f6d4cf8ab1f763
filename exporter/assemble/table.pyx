# cython: language_level=3, boundscheck=True, wraparound=False
"""The table of connections; see table.pxd. Open addressing over pointers, so that a Flow stays where it is."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from zerospan.exporter.assemble.operations cimport span_of
from zerospan.exporter.assemble.span cimport KIND_CLIENT
from zerospan.exporter.link.ids cimport mix64
from zerospan.exporter.link.requests cimport Request
from zerospan.exporter.proto.stream cimport stream_free
from zerospan.exporter.selfmon.counters cimport N_FLOWS, N_FLOWS_EVICTED, N_FLOWS_REFUSED


@cython.no_gc_clear   # __dealloc__ gives references back to the registry
cdef class FlowTable:
    def __cinit__(self, *args, **kwargs):
        self.mask = 1023
        self.slots = <Flow **>calloc(self.mask + 1, sizeof(Flow *))
        if self.slots == NULL:
            raise MemoryError("zerospan: no memory for the table of connections")

    def __dealloc__(self):
        cdef uint64_t i
        if self.slots == NULL:
            return
        for i in range(self.mask + 1):
            if self.slots[i] != NULL:
                self.free_flow(self.slots[i])
        free(self.slots)

    cdef Flow *find(self, uint64_t conn_id) noexcept nogil:
        cdef uint64_t i = mix64(conn_id) & self.mask
        while self.slots[i] != NULL:
            if self.slots[i].conn_id == conn_id:
                return self.slots[i]
            i = (i + 1) & self.mask
        return NULL

    cdef Flow *make(self, uint64_t conn_id) noexcept nogil:
        """A new connection's entry, in place of an idle one if there are too many; NULL if there is no room."""
        cdef uint64_t i
        cdef Flow *f
        if self.n >= self.limit and self.evict() < 0:
            self.counts[N_FLOWS_REFUSED] += 1
            return NULL
        if 2 * (self.n + 1) > self.mask and self.grow() < 0:
            self.counts[N_FLOWS_REFUSED] += 1
            return NULL
        f = <Flow *>calloc(1, sizeof(Flow))
        if f == NULL:
            self.counts[N_FLOWS_REFUSED] += 1
            return NULL
        i = mix64(conn_id) & self.mask
        while self.slots[i] != NULL:
            i = (i + 1) & self.mask
        f.conn_id = conn_id
        self.slots[i] = f
        self.n += 1
        self.counts[N_FLOWS] += 1
        return f

    cdef int grow(self) noexcept nogil:
        cdef uint64_t mask = 2 * self.mask + 1, i, j
        cdef Flow **slots = <Flow **>calloc(mask + 1, sizeof(Flow *))
        if slots == NULL:
            return -1
        for i in range(self.mask + 1):
            if self.slots[i] != NULL:
                j = mix64(self.slots[i].conn_id) & mask
                while slots[j] != NULL:
                    j = (j + 1) & mask
                slots[j] = self.slots[i]
        free(self.slots)
        self.slots = slots
        self.mask = mask
        return 0

    cdef int drop(self, Flow *f) noexcept nogil:
        """Forgets a connection with nothing open."""
        cdef uint64_t i = mix64(f.conn_id) & self.mask, hole, home
        while self.slots[i] != f:
            i = (i + 1) & self.mask
        hole = i
        while True:
            i = (i + 1) & self.mask
            if self.slots[i] == NULL:
                break
            home = mix64(self.slots[i].conn_id) & self.mask
            if ((i - home) & self.mask) >= ((i - hole) & self.mask):
                self.slots[hole] = self.slots[i]
                hole = i
        self.slots[hole] = NULL
        self.n -= 1
        self.unwait(f)
        self.free_flow(f)
        return 0

    cdef void free_flow(self, Flow *f) noexcept nogil:
        cdef Open *o
        while f.head != NULL:
            o = f.head
            f.head = o.next
            self.forget(o)
        if f.passing != NULL:
            self.forget(f.passing)
        if f.bound:
            self.requests.unref(f.bound)
        if f.state != NULL and f.ops != NULL and f.ops.free_state != NULL:
            f.ops.free_state(f.state)
        stream_free(&f.streams[0])
        stream_free(&f.streams[1])
        free(f)

    cdef int evict(self) noexcept nogil:
        """Makes room: the longest idle one of the next few that have nothing open."""
        cdef Flow *oldest = NULL
        cdef Flow *f
        cdef int seen = 0
        cdef uint64_t looked = 0
        while seen < 16 and looked <= self.mask:
            f = self.slots[self.hand & self.mask]
            self.hand += 1
            looked += 1
            if f == NULL or f.head != NULL or f.passing != NULL:
                continue
            seen += 1
            if oldest == NULL or f.last_ns < oldest.last_ns:
                oldest = f
        if oldest == NULL:
            return -1
        self.counts[N_FLOWS_EVICTED] += 1
        return self.drop(oldest)

    cdef void wait(self, Flow *f) noexcept nogil:
        if f.waiting:
            return
        f.waiting = 1
        f.prev_waiting = NULL
        f.next_waiting = self.waiting
        if self.waiting != NULL:
            self.waiting.prev_waiting = f
        self.waiting = f

    cdef void unwait(self, Flow *f) noexcept nogil:
        if not f.waiting:
            return
        f.waiting = 0
        if f.prev_waiting != NULL:
            f.prev_waiting.next_waiting = f.next_waiting
        else:
            self.waiting = f.next_waiting
        if f.next_waiting != NULL:
            f.next_waiting.prev_waiting = f.prev_waiting

    cdef bint is_own(self, uint64_t key) noexcept nogil:
        cdef uint64_t i, n = self.n_own if self.n_own < OWN_KEYS else OWN_KEYS
        for i in range(n):
            if self.own_keys[i] == key:
                return True
        return False

    cdef uint32_t proc_of(self, Flow *f, uint32_t tgid, const char *comm, uint64_t cgroup_id) except 0 nogil:
        cdef uint32_t i
        if f.tgid == tgid and f.proc and comm == NULL:
            return f.proc
        i = self.processes.cached(tgid, comm)
        if i == 0:
            with gil:
                i = self.processes.find(tgid, comm, cgroup_id)
        f.tgid = tgid
        f.proc = i
        return i

    cdef void mark(self) noexcept nogil:
        cdef uint64_t i
        cdef Flow *f
        cdef Open *o
        for i in range(self.mask + 1):
            f = self.slots[i]
            if f == NULL:
                continue
            self.processes.mark(f.proc)
            o = f.head
            while o != NULL:
                self.processes.mark(span_of(o).proc)
                o = o.next
            if f.passing != NULL:
                self.processes.mark(span_of(f.passing).proc)

    cdef void forget(self, Open *o) noexcept nogil:
        cdef Request *known
        if o.told:
            # it makes no span: points of its way shall not count on one
            known = self.requests.find(span_of(o).key)
            if known != NULL:
                if span_of(o).kind == KIND_CLIENT:
                    known.client_proc = 0
                else:
                    known.server_proc = 0
            self.requests.unref(span_of(o).key)
        self.open_bytes -= o.nbytes
        self.open_requests -= 1
        free(o.message)
        free(o)
