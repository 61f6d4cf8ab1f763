# cython: language_level=3, boundscheck=True, wraparound=False
"""Where the time of a call went; see hops.pxd. Filled by assemble.points (network interfaces of this host), by the engine
(processes of this host) and by the shared registry (import_remote); read when a CLIENT span leaves.

The points in the order of the way, and what lies between two neighbours:

    client.process  client.pod  client.node  server.node  server.pod  server.process
           client_process  client_host   network    server_host       |- server_process: its own time

Each duration is from the first packet of the request to the last of the answer, at the client's process from its send to its
last read, so that the difference of two neighbours is the time between them, there and back, whatever their clocks say. What a
client's process does not read in time is client_process; what waits in front of a server's process (listen backlog, socket
buffer) is server_host.

A point that is missing leaves its two shares in one: the one of `network` if the gap holds the network (between the last point
of the client's host and the first of the server's), else the one on whose host it is (client_process before client.node,
server_host behind server.node). Behind the last point that is known, the rest is server_process if that point is one of
the server's, network if it is one of the client's. Shares that are not told apart have no attribute of their own.

Each duration is clamped to the one before it: hooks of a process fire some microseconds after the packet. An interface that says
more than the whole call took, by more than SLACK_NS, does not speak of this request alone (pipelining) and is left out.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from zerospan.exporter.link.ids cimport (
    POINT_CLIENT_NODE, POINT_CLIENT_POD, POINT_CLIENT_PROCESS, POINT_SERVER_NODE, POINT_SERVER_PROCESS,
)

cdef enum:
    SLACK_NS = 5000000


cdef int share(int outer, int inner) noexcept nogil:
    """The Hop between two points, of which none between is known."""
    if outer <= POINT_CLIENT_NODE and inner >= POINT_SERVER_NODE:
        return HOP_NETWORK
    if outer >= POINT_SERVER_NODE:
        return HOP_SERVER_HOST
    return HOP_CLIENT_PROCESS if outer == POINT_CLIENT_PROCESS else HOP_CLIENT_HOST


cdef class Hops:
    """limit_bytes: of both generations; life_s: how long an entry is certain to stay, if there is room."""

    def __cinit__(self, uint64_t limit_bytes=16 << 20, double life_s=15.0):
        # two generations, each filled to 3/8 at the worst
        self.limit = max(3 * limit_bytes // sizeof(Way) // 16, 256)
        self.life_ns = <uint64_t>(life_s * 1e9)
        self.young.mask = 255
        self.young.slots = <Way *>calloc(256, sizeof(Way))
        if self.young.slots == NULL:
            raise MemoryError("zerospan: no memory for the table of hops")

    def __dealloc__(self):
        free(self.young.slots)
        free(self.old.slots)

    def nbytes(self):
        return (self.young.mask + 1 + (self.old.mask + 1 if self.old.slots != NULL else 0)) * sizeof(Way)

    def import_remote(self, uint64_t key, int point, uint64_t duration_ns):
        """What another host says of K: the duration at one of its points (ids.Point, 1 to 6), ns. A gateway's is not taken.

        Called by the engine's thread, as everything here.
        """
        self.active = True
        self.put(key, point, duration_ns)

    def export(self, uint64_t key):
        """What is known of K here: [(point, duration in ns)], in the order of the way."""
        cdef Way *w = self.find(key)
        if w == NULL:
            return []
        return [(i, w.took[i]) for i in range(1, 7) if w.took[i]]

    def shares(self, uint64_t key, uint64_t total):
        """split() for tests: name -> ns."""
        cdef uint64_t out[5]
        cdef uint8_t known = self.split(key, total, out)
        names = ("client_process", "client_host", "network", "server_host", "server_process")
        return {name: out[i] for i, name in enumerate(names) if known >> i & 1}

    cdef Way *find(self, uint64_t key) noexcept nogil:
        cdef uint64_t i = key & self.young.mask
        if key == 0:
            return NULL
        while self.young.slots[i].key:
            if self.young.slots[i].key == key:
                return &self.young.slots[i]
            i = (i + 1) & self.young.mask
        if self.old.slots == NULL:
            return NULL
        i = key & self.old.mask
        while self.old.slots[i].key:
            if self.old.slots[i].key == key:
                return &self.old.slots[i]
            i = (i + 1) & self.old.mask
        return NULL

    cdef Way *make(self, uint64_t key) noexcept nogil:
        cdef Way *w = self.find(key)
        cdef uint64_t i
        if w != NULL or key == 0:
            return w
        if self.young.n >= self.limit:
            self.forgotten += self.old.n
            self.next_generation()
        elif 4 * (self.young.n + 1) > 3 * self.young.mask and self.grow() < 0:
            return NULL
        i = key & self.young.mask
        while self.young.slots[i].key:
            i = (i + 1) & self.young.mask
        w = &self.young.slots[i]
        w.key = key
        self.young.n += 1
        return w

    cdef int grow(self) noexcept nogil:
        cdef uint64_t mask = 2 * self.young.mask + 1, i, j
        cdef Way *slots = <Way *>calloc(mask + 1, sizeof(Way))
        if slots == NULL:
            return -1
        for i in range(self.young.mask + 1):
            if self.young.slots[i].key:
                j = self.young.slots[i].key & mask
                while slots[j].key:
                    j = (j + 1) & mask
                slots[j] = self.young.slots[i]
        free(self.young.slots)
        self.young.slots = slots
        self.young.mask = mask
        return 0

    cdef void next_generation(self) noexcept nogil:
        """The old one is forgotten; its memory is the new young one's, if it is large enough for what comes."""
        cdef Generation g = self.old
        self.old = self.young
        if g.slots == NULL or g.mask != self.old.mask:
            free(g.slots)
            g.mask = self.old.mask
            g.slots = <Way *>calloc(g.mask + 1, sizeof(Way))
            if g.slots == NULL:
                g = self.old
                self.old.slots = NULL
                self.old.n = 0
                memset(g.slots, 0, (g.mask + 1) * sizeof(Way))
        else:
            memset(g.slots, 0, (g.mask + 1) * sizeof(Way))
        g.n = 0
        self.young = g

    cdef void turn(self, uint64_t now) noexcept nogil:
        if now < self.turned_ns + self.life_ns:
            return
        self.turned_ns = now
        if self.young.n or self.old.n:
            if self.young.mask > 1023 and 8 * self.young.n < self.young.mask and 8 * self.old.n < self.young.mask:
                # a burst is over: begin small again
                free(self.old.slots)
                self.old = self.young
                self.young.mask = 255
                self.young.n = 0
                self.young.slots = <Way *>calloc(256, sizeof(Way))
                if self.young.slots == NULL:
                    self.young = self.old
                    memset(&self.old, 0, sizeof(Generation))
                return
            self.next_generation()

    cdef void put(self, uint64_t key, int point, uint64_t duration_ns) noexcept nogil:
        cdef Way *w
        if point < POINT_CLIENT_PROCESS or point > POINT_SERVER_PROCESS:
            return   # a gateway's host is no end of the way: its time is the network's
        w = self.make(key)
        if w == NULL:
            return
        duration_ns = duration_ns if duration_ns else 1   # 0 says that it is not known
        if duration_ns > w.took[point]:
            w.took[point] = duration_ns

    cdef void ended(self, uint64_t key, int point, uint64_t duration_ns, uint64_t end_ns, bint seen) noexcept nogil:
        cdef Way *w = self.make(key)
        if w == NULL:
            return
        if end_ns > w.ended_ns:
            w.ended_ns = end_ns
        if seen:
            self.put(key, point, duration_ns)
            if end_ns > w.answered_ns:
                w.answered_ns = end_ns

    cdef uint64_t answered_ns(self, uint64_t key) noexcept nogil:
        cdef Way *w = self.find(key)
        return w.answered_ns if w != NULL else 0

    cdef uint64_t ended_ns(self, uint64_t key) noexcept nogil:
        cdef Way *w = self.find(key)
        return w.ended_ns if w != NULL else 0

    cdef uint8_t split(self, uint64_t key, uint64_t total, uint64_t *out) noexcept nogil:
        cdef Way *w = self.find(key)
        cdef uint64_t before = total, took
        cdef uint8_t known = 0
        cdef int outer = POINT_CLIENT_PROCESS, point, hop
        for hop in range(HOP_MAX):
            out[hop] = 0
        if w == NULL:
            return 0
        for point in range(POINT_CLIENT_POD, POINT_SERVER_PROCESS + 1):
            took = w.took[point]
            if took == 0 or (point != POINT_SERVER_PROCESS and took > total + SLACK_NS):
                continue
            if took > before:
                took = before
            hop = share(outer, point)
            out[hop] += before - took
            known |= 1 << hop
            before = took
            outer = point
        if outer == POINT_CLIENT_PROCESS:
            return 0
        hop = HOP_SERVER_PROCESS if outer >= POINT_SERVER_NODE else HOP_NETWORK
        out[hop] += before
        return known | <uint8_t>(1 << hop)
