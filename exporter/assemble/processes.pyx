# cython: language_level=3, boundscheck=True, wraparound=False
"""Who the processes are; see processes.pxd. Owned by the engine; Python code describes, C code looks up by index."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

from zerospan.exporter.abi.events cimport ZS_COMM_LEN
from zerospan.exporter.tags.peer cimport PeerTags


cdef Slice view(bytes b):
    cdef Slice s
    s.p = <const uint8_t *><const char *>b
    s.n = <uint32_t>len(b)
    return s


cdef class Processes:
    """describe(tgid, comm, cgroup_id) -> ProcessInfo with str name, bytes resource, labels, series; bool nginx, loop, hidden, int order."""

    def __cinit__(self, describe):
        self.describe = describe
        self.by_tgid = {}
        self.services = {}
        self.keep = [None]
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
            self.by_tgid[tgid] = (shared[0], name)
            return shared[0]
        i = self.add(info)
        self.procs[i].tgid = tgid
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
        if self.n == self.cap:
            grown = <Proc *>realloc(self.procs, 2 * self.cap * sizeof(Proc))
            if grown == NULL:
                raise MemoryError("zerospan: no memory for the process table")
            self.procs = grown
            self.cap *= 2
        i = self.n
        self.n += 1
        memset(&self.procs[i], 0, sizeof(Proc))
        self.procs[i].tgid = info.tgid
        self.keep.append(None)
        self.fill(i, info)
        if info.shared:
            self.by_tgid[info.shared] = (i, "")
        return i

    cdef int fill(self, uint32_t i, object info) except -1:
        cdef Proc *p = &self.procs[i]
        cdef PeerTags tags = PeerTags(info.peer) if info.peer is not None else None
        cdef tuple kept = (info, info.service.encode(), info.resource, info.labels, info.series, info.namespace.encode(), info.meta, tags)
        self.keep[i] = kept
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
            self.by_tgid.pop(tgid, None)

    def known(self):
        """(index, ProcessInfo) of every entry, the oldest first."""
        return [(i, kept[0]) for i, kept in enumerate(self.keep) if kept is not None]

    def tgids(self):
        return [t for t in self.by_tgid if isinstance(t, int)]

    def service_names(self):
        """Number -> service name."""
        return {number: name for name, number in dict(self.services).items()}  # a copy: the drain may add to it
