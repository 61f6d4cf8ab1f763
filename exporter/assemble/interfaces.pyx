# cython: language_level=3, boundscheck=True, wraparound=False
"""The network interfaces that are points of the way; see interfaces.pxd.

The discovery of interfaces (source) calls set() before it attaches a program there, and remove() when it is gone, from any
thread; the engine takes it in at its next step. An entry that was removed is found for a while: spans of its last
requests are still held. Bounded by the interfaces that there are, and those that went within that time.
"""

from collections import deque

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from zerospan.exporter.link.ids cimport hash64
from zerospan.exporter.proto.cursor cimport slice_of

ROLES = {"pod": ROLE_POD, "node": ROLE_NODE, "tunnel": ROLE_TUNNEL}


cdef class Interfaces:
    """keep_s: how long an entry stays after its interface has gone; longer than any span is held."""

    def __cinit__(self, double keep_s=120.0):
        self.told = deque()
        self.index = {}
        self.table = {}
        self.keep = [None]
        self.keep_ns = <uint64_t>(keep_s * 1e9)
        self.cap = 64
        self.n = 1
        self.mask = 127
        self.all = <Interface *>calloc(self.cap, sizeof(Interface))
        self.slots = <uint32_t *>calloc(self.mask + 1, sizeof(uint32_t))
        if self.all == NULL or self.slots == NULL:
            raise MemoryError("zerospan: no memory for the table of interfaces")

    def __dealloc__(self):
        free(self.all)
        free(self.slots)

    def set(self, netns_cookie, ifindex, name, netns, mac, kind, role, inside=False):
        """An interface of a network namespace (cookie as SO_NETNS_COOKIE says); replaces what was told before.

        name, netns, mac, kind: texts as they are shown (netns "" is the agent's own; kind as `ip -d link` names it). role:
        "pod", "node" or "tunnel". inside: of a pod, the end in its own namespace, where a request that leaves it is egress; at
        the host's end of its veth the same request is ingress. ValueError for another role.
        """
        if role not in ROLES:
            raise ValueError(f"no role {role!r} of an interface; one of {', '.join(ROLES)}")
        texts = tuple(text.encode("utf-8", "replace")[:255] for text in (name, netns, mac, kind))
        self.told.append(((int(netns_cookie), int(ifindex)), ROLES[role], bool(inside), texts))

    def remove(self, netns_cookie, ifindex):
        """The interface is gone."""
        self.told.append(((int(netns_cookie), int(ifindex)), ROLE_NONE, False, None))

    def replace(self, table):
        """All interfaces that there are: (netns_cookie, ifindex) -> source.interfaces.Interface. Tells only what has changed."""
        for key in self.table.keys() - table.keys():
            self.remove(*key)
        for key, i in table.items():
            if self.table.get(key) != i:
                self.set(*key, i.name, i.netns_name or str(i.netns), i.mac, i.kind, i.role, i.inside)
        self.table = dict(table)

    def __len__(self):
        """Interfaces that are there, as far as they were taken in."""
        return sum(1 for i in range(1, self.n) if self.all[i].role and not self.all[i].gone_ns)

    cdef int update(self, uint64_t now) except -1:
        cdef Interface *e
        cdef uint32_t i
        while self.told:
            key, role, inside, texts = self.told.popleft()
            if texts is None:
                i = self.index.get(key, 0)
                if i:
                    self.all[i].gone_ns = now if now else 1
                continue
            i = self.index.get(key, 0)
            if i == 0:
                i = self.place(key, now)
            self.keep[i] = (key, texts, self.keep[i][1] if self.keep[i] else None)   # a span may be encoded from the old texts
            e = &self.all[i]
            e.netns_cookie = key[0]
            e.ifindex = key[1]
            e.gone_ns = 0
            e.role = role
            e.inside = inside
            e.name = slice_of(<const uint8_t *><const char *>texts[0], <uint32_t>len(texts[0]))
            e.netns = slice_of(<const uint8_t *><const char *>texts[1], <uint32_t>len(texts[1]))
            e.mac = slice_of(<const uint8_t *><const char *>texts[2], <uint32_t>len(texts[2]))
            e.kind = slice_of(<const uint8_t *><const char *>texts[3], <uint32_t>len(texts[3]))
            self.index[key] = i
            self.hash_all()
        return 0

    cdef uint32_t place(self, tuple key, uint64_t now) except 0:
        """An entry that nothing refers to any more, or a new one."""
        cdef Interface *grown
        cdef uint32_t i
        for i in range(1, self.n):
            if self.all[i].gone_ns and self.all[i].gone_ns + self.keep_ns < now:
                self.index.pop(self.keep[i][0], None)
                self.keep[i] = None
                memset(&self.all[i], 0, sizeof(Interface))
                return i
        if self.n == self.cap:
            grown = <Interface *>realloc(self.all, 2 * self.cap * sizeof(Interface))
            if grown == NULL:
                raise MemoryError("zerospan: no memory for the table of interfaces")
            self.all = grown
            self.cap *= 2
        memset(&self.all[self.n], 0, sizeof(Interface))
        self.keep.append(None)
        self.n += 1
        return self.n - 1

    cdef int hash_all(self) except -1:
        cdef uint32_t mask = self.mask, i, at
        cdef uint32_t *slots
        while 2 * self.n > mask:
            mask = 2 * mask + 1
        if mask != self.mask:
            slots = <uint32_t *>realloc(self.slots, (mask + 1) * sizeof(uint32_t))
            if slots == NULL:
                raise MemoryError("zerospan: no memory for the table of interfaces")
            self.slots = slots
            self.mask = mask
        memset(self.slots, 0, (mask + 1) * sizeof(uint32_t))
        for i in range(1, self.n):
            if self.all[i].role:
                at = <uint32_t>(hash64(self.all[i].netns_cookie, self.all[i].ifindex) & mask)
                while self.slots[at]:
                    at = (at + 1) & mask
                self.slots[at] = i
        return 0

    cdef uint32_t find(self, uint64_t netns_cookie, uint32_t ifindex) noexcept nogil:
        cdef uint32_t at = <uint32_t>(hash64(netns_cookie, ifindex) & self.mask), i
        while self.slots[at]:
            i = self.slots[at]
            if self.all[i].ifindex == ifindex and self.all[i].netns_cookie == netns_cookie:
                return i
            at = (at + 1) & self.mask
        return 0
