# cython: language_level=3, boundscheck=True, wraparound=False
"""Who the processes are; see processes.pxd. Owned by the engine; Python code describes, C code looks up by index."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

from zerospan.exporter.abi.events cimport ZS_COMM_LEN
from zerospan.exporter.tags.peer cimport PeerTags, view


cdef uint64_t text_bytes(tuple kept):
    info, tags = kept[0], kept[7]
    return ENTRY_BYTES + len(info.resource) + len(info.labels) + len(info.series) + len(info.meta) + len(info.target_info) + (
        tags.nbytes if tags is not None else 0)


cdef class Processes:
    """describe(tgid, comm, cgroup_id) -> ProcessInfo with str name, bytes resource, labels, series; bool nginx, loop, hidden, int order."""

    def __cinit__(self, describe):
        self.describe = describe
        self.by_tgid = {}
        self.services = {}
        self.keep = [None]
        self.spare = []
        self.fresh = []
        self.cap = 64
        self.n = 1
        self.procs = <Proc *>calloc(self.cap, sizeof(Proc))
        if self.procs == NULL:
            raise MemoryError("zerospan: no memory for the process table")

    def __dealloc__(self):
        free(self.procs)

    cdef uint32_t cached(self, uint32_t tgid, const char *comm) noexcept nogil:
        cdef Cached *c = &self.cache[tgid % CACHE]
        if c.index == 0 or c.tgid != tgid or (comm != NULL and memcmp(c.comm, comm, ZS_COMM_LEN) != 0):
            return 0
        return c.index

    cdef uint32_t find(self, uint32_t tgid, const char *comm, uint64_t cgroup_id) except 0:
        cdef Cached *c = &self.cache[tgid % CACHE]
        cdef uint32_t i = self.look_up(tgid, comm, cgroup_id)
        c.tgid = tgid
        c.index = i
        if comm != NULL:
            memcpy(c.comm, comm, ZS_COMM_LEN)
        else:
            memset(c.comm, 0, ZS_COMM_LEN)
        return i

    cdef uint32_t look_up(self, uint32_t tgid, const char *comm, uint64_t cgroup_id) except 0:
        cdef uint32_t i
        cdef str name = ""
        if comm != NULL:
            name = (<bytes>comm[:ZS_COMM_LEN]).split(b"\0", 1)[0].decode("utf-8", "replace")
        known = self.by_tgid.get(tgid)
        if known is not None and (not name or known[1] == name):
            return known[0]
        info = self.describe(tgid, name, cgroup_id)
        shared = self.by_tgid.get(info.shared) if info.shared else None
        if shared is not None:
            i = shared[0]
        else:
            i = self.add(info)
            self.procs[i].tgid = tgid
        if known is not None:
            self.leave(known[0])
        if self.procs[i].gone_ns:
            self.procs[i].gone_ns = 0
            self.n_gone -= 1
        self.procs[i].users += 1
        self.by_tgid[tgid] = (i, name)
        return i

    cdef uint32_t refill(self, object info) except? 0xffffffff:
        known = self.by_tgid.get(info.shared) if info.shared else None
        if known is None:
            return 0
        self.fill(known[0], info)
        return known[0]

    cdef uint32_t add(self, object info) except 0:
        cdef uint32_t i
        cdef Proc *grown
        if self.spare:
            i = self.spare.pop()
        else:
            if self.n == self.cap:
                grown = <Proc *>realloc(self.procs, 2 * self.cap * sizeof(Proc))
                if grown == NULL:
                    raise MemoryError("zerospan: no memory for the process table")
                self.procs = grown
                self.cap *= 2
            i = self.n
            self.n += 1
            self.keep.append(None)
        memset(&self.procs[i], 0, sizeof(Proc))
        self.procs[i].tgid = info.tgid
        self.fill(i, info)
        self.fresh.append(i)
        if info.shared:
            self.by_tgid[info.shared] = (i, "")
        return i

    cdef int fill(self, uint32_t i, object info) except -1:
        cdef Proc *p = &self.procs[i]
        cdef PeerTags tags = PeerTags(info.peer) if info.peer is not None else None
        cdef tuple kept = (info, info.service.encode(), info.resource, info.labels, info.series, info.namespace.encode(), info.meta, tags)
        if self.keep[i] is not None:
            self.nbytes -= text_bytes(self.keep[i])
        self.keep[i] = kept
        self.nbytes += text_bytes(kept)
        p.service = self.services.setdefault(info.service, len(self.services) + 1)
        p.is_nginx = info.nginx
        p.is_loop = info.loop
        p.order = info.order
        p.hidden = info.hidden
        p.name = view(kept[1])
        p.resource = view(kept[2])
        p.labels = view(kept[3])
        p.series = view(kept[4])
        p.space = view(kept[5])
        p.meta = view(kept[6])
        p.tags = &tags.c if tags is not None else NULL
        p.waits = info.waits
        return 0

    def forget(self, tgids):
        """Processes that have ended: their numbers may come again. What refers to their entries stays valid."""
        memset(self.cache, 0, sizeof(self.cache))
        for tgid in tgids:
            known = self.by_tgid.pop(tgid, None)
            if known is not None:
                self.leave(known[0])

    cdef void leave(self, uint32_t i) noexcept:
        cdef Proc *p = &self.procs[i]
        p.users -= 1
        if p.users == 0:
            p.gone_ns = max(self.now_ns, 1)
            self.n_gone += 1

    cdef bint crowded(self) noexcept nogil:
        if self.n_gone <= GONE_MIN or 2 * self.n_gone <= self.n or self.now_ns - self.looked_ns < LOOK_NS:
            return False
        self.looked_ns = self.now_ns
        return True

    cdef list reclaim(self):
        cdef uint32_t i
        cdef Proc *p
        freed = []
        for i in range(1, self.n):
            p = &self.procs[i]
            if p.gone_ns and not p.marked and self.now_ns - p.gone_ns > self.rest_ns:
                info = self.keep[i][0]
                if info.shared:
                    self.by_tgid.pop(info.shared, None)
                self.nbytes -= text_bytes(self.keep[i])
                self.keep[i] = None
                memset(p, 0, sizeof(Proc))
                self.n_gone -= 1
                freed.append(i)
            p.marked = 0
        self.spare += freed
        return freed

    def told(self):
        """[(index, ProcessInfo)] of the entries that are new since the last call."""
        fresh, self.fresh = self.fresh, []
        return [(i, self.keep[i][0]) for i in fresh if self.keep[i] is not None]

    def tgids(self):
        return [t for t in self.by_tgid if isinstance(t, int)]

    def service_names(self):
        """Number -> service name."""
        return {number: name for name, number in dict(self.services).items()}  # a copy: the drain may add to it
