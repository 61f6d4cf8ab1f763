# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""Whose an address is; see table.pxd. Owned by the engine; tell(), take() and evict() are the follower's."""

from collections import deque
from time import perf_counter_ns

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from zerospan.exporter.link.ids cimport hash64
from zerospan.exporter.tags.peer cimport Peer, PeerTags

cdef enum:
    AF_INET = 2
    AF_INET6 = 10
    TAKEN_IN = 2000          # of what was told, in one update: some 3 us each
    LEAVE = 256              # unused entries that leave in one update
    FRESH_NS = 1000000000    # the order of use is good to a second
    FIRST_CAP = 4096

ADDRESS, ENDPOINT = b"a", b"e"   # enricher/keys.pyx


cdef inline bint mapped(uint8_t family, const uint8_t *addr, uint8_t *out) noexcept nogil:
    """As 16 bytes; False for what is no address of a host in a network."""
    cdef int i
    if family == AF_INET:
        memset(out, 0, 10)
        out[10] = out[11] = 0xFF
        memcpy(out + 12, addr, 4)
    elif family == AF_INET6:
        memcpy(out, addr, 16)
    else:
        return False
    for i in range(10):
        if out[i]:
            # multicast, link-local: the same on every link
            return out[0] != 0xFF and not (out[0] == 0xFE and (out[1] & 0xC0) == 0x80)
    if out[10] == 0xFF and out[11] == 0xFF:
        return out[12] != 127 and out[12] != 0 and out[12] < 224
    return out[10] or out[11] or out[12] or out[13] or out[14] or out[15] > 1


cdef inline uint32_t bucket_of(const uint8_t *addr, uint16_t port, uint8_t protocol) noexcept nogil:
    cdef uint64_t a, b
    memcpy(&a, addr, 8)
    memcpy(&b, addr + 8, 8)
    return <uint32_t>hash64(a ^ (<uint64_t>port << 8 | protocol), b)


cdef class PeerTable:
    """active: whether there is an enricher. limit: entries; unused_s: how long one stays that nobody looks up."""

    def __cinit__(self, bint active=False, uint32_t limit=1 << 17, double unused_s=600.0):
        self.active = active
        self.limit = max(limit, 2 * ASKS)
        self.unused_ns = <uint64_t>(unused_s * 1e9)
        self.held = {}
        self.told = deque()
        self.asks = deque()
        self.gone = deque()
        if active:
            self.cap = FIRST_CAP
            self.mask = 2 * FIRST_CAP - 1
            self.pool = <Entry *>calloc(self.cap, sizeof(Entry))
            self.buckets = <uint32_t *>calloc(self.mask + 1, sizeof(uint32_t))
            if self.pool == NULL or self.buckets == NULL:
                raise MemoryError("zerospan: no memory for the table of peers")
            for i in range(1, self.cap):
                self.pool[<uint32_t>i].next = i + 1 if i + 1 < self.cap else 0
            self.free_ = 1
            self.n_free = self.cap - 1

    def __dealloc__(self):
        cdef uint32_t i
        if self.pool != NULL:
            for i in range(self.cap):
                free(self.pool[i].stretches)
        free(self.pool)
        free(self.buckets)

    # ---- the follower's side: any thread, with the GIL -----------------------------------------------

    def tell(self, bytes key, pieces):
        """What is known of an address or endpoint (enricher/keys.pyx): ((PeerTags, since_ns, until_ns), ...) in the order of
        time; (): nothing; None: it is of no more interest. Other keys are ignored.
        """
        if (key[:1] == ADDRESS and len(key) == 17) or (key[:1] == ENDPOINT and len(key) == 20):
            self.told.append((key, pieces))

    def take(self):
        """(keys that were looked for and are not known, keys that have left) since the last time."""
        cdef list asks = [], gone = []
        while self.asks:
            asks.append(self.asks.popleft())
        while self.gone:
            gone.append(self.gone.popleft())
        return asks, gone

    def evict(self, uint32_t n):
        """The n oldest entries shall leave at the next updates: memory is short."""
        self.excess = n

    def waits(self):
        """How many of what was told have not been taken in."""
        return len(self.told)

    def nbytes(self):
        """Bytes of the table; the tag sets' own are the mirror's."""
        return self.cap * sizeof(Entry) + (self.mask + 1) * sizeof(uint32_t) + len(self.held) * 280

    def counts(self):
        """Name -> value, for the status."""
        return {"entries": self.n, "unanswered": self.n_open, "asked": self.asked_total, "ask_dropped": self.ask_dropped,
                "evicted": self.evicted}

    # ---- for tests and benchmarks --------------------------------------------------------------------

    def step(self, now):
        """update()."""
        self.update(now)

    def peer_at(self, bytes address, port, protocol, at_ns, server=True):
        """find(), of 4 or 16 bytes: the name, or None and why."""
        cdef const uint8_t *p = <const uint8_t *><const char *>address
        cdef const Peer *found = self.find(AF_INET if len(address) == 4 else AF_INET6, p, port, protocol, at_ns, server)
        if found == NULL:
            return None, self.finding
        return (<const char *>found.name.p)[:found.name.n].decode(), self.finding

    def bench(self, list addresses, uint32_t rounds, uint16_t port, uint64_t at_ns):
        """Nanoseconds of one find(), over `rounds` of all addresses (4 bytes each), and how many were found."""
        cdef bytes flat = b"".join(addresses)
        cdef const uint8_t *p = <const uint8_t *><const char *>flat
        cdef uint32_t i, j, n = len(addresses), found = 0
        begin = perf_counter_ns()
        with nogil:
            for j in range(rounds):
                for i in range(n):
                    found += self.find(AF_INET, p + 4 * i, port, 6, at_ns, False) != NULL
        return (perf_counter_ns() - begin) / max(rounds * n, 1), found

    # ---- the drain thread ----------------------------------------------------------------------------

    cdef const Peer *find(self, uint8_t family, const uint8_t *addr, uint16_t port, uint8_t protocol, uint64_t at_ns,
                          bint server) noexcept nogil:
        cdef uint8_t whole[16]
        cdef uint32_t i, k
        cdef int turn
        cdef Entry *e
        self.finding = NOT_ASKED
        if not self.active or not mapped(family, addr, whole):
            return NULL
        self.finding = NOTHING_KNOWN
        for turn in range(2):
            if turn == 1:
                port = 0
                protocol = 0
            elif port == 0:
                continue
            i = self.look(whole, port, protocol)
            if i == 0:
                if turn == 1 or server:
                    self.ask(whole, port, protocol)
                    self.finding = NOT_ANSWERED
                continue
            self.use(i)
            e = &self.pool[i]
            if e.state == STATE_ASKED:
                self.finding = NOT_ANSWERED
            for k in range(e.n):
                if e.stretches[k].since_ns <= at_ns and (e.stretches[k].until_ns == 0 or at_ns < e.stretches[k].until_ns):
                    self.finding = FOUND
                    return e.stretches[k].peer
        return NULL

    cdef void notice(self, uint8_t family, const uint8_t *addr, uint16_t port, uint8_t protocol, bint server) noexcept nogil:
        cdef uint8_t whole[16]
        if not self.active or not mapped(family, addr, whole):
            return
        if server and port and self.look(whole, port, protocol) == 0:
            self.ask(whole, port, protocol)
        if self.look(whole, 0, 0) == 0:
            self.ask(whole, 0, 0)

    cdef uint32_t look(self, const uint8_t *addr, uint16_t port, uint8_t protocol) noexcept nogil:
        cdef uint32_t i = self.buckets[bucket_of(addr, port, protocol) & self.mask]
        cdef Entry *e
        while i:
            e = &self.pool[i]
            if e.port == port and e.protocol == protocol and memcmp(e.addr, addr, 16) == 0:
                return i
            i = e.next
        return 0

    cdef uint32_t add(self, const uint8_t *addr, uint16_t port, uint8_t protocol) noexcept nogil:
        """A new entry; 0 if there is no room."""
        cdef uint32_t i = self.free_, at
        cdef Entry *e
        if i == 0:
            return 0
        e = &self.pool[i]
        self.free_ = e.next
        self.n_free -= 1
        self.n += 1
        memset(e, 0, sizeof(Entry))
        memcpy(e.addr, addr, 16)
        e.port = port
        e.protocol = protocol
        at = bucket_of(addr, port, protocol) & self.mask
        e.next = self.buckets[at]
        self.buckets[at] = i
        e.used_ns = self.now_ns
        self.list_newest(i)
        return i

    cdef void ask(self, const uint8_t *addr, uint16_t port, uint8_t protocol) noexcept nogil:
        cdef uint32_t i
        if self.n_asked == ASKS or self.n_open >= OPEN_MAX:
            self.ask_dropped += 1
            return
        i = self.add(addr, port, protocol)
        if i == 0:
            self.ask_dropped += 1
            return
        self.pool[i].state = STATE_ASKED
        self.n_open += 1
        self.asked[self.n_asked] = i
        self.n_asked += 1
        self.asked_total += 1

    cdef void use(self, uint32_t i) noexcept nogil:
        cdef Entry *e = &self.pool[i]
        if self.now_ns - e.used_ns < FRESH_NS:
            return
        e.used_ns = self.now_ns
        self.unlist(i)
        self.list_newest(i)

    cdef void unlist(self, uint32_t i) noexcept nogil:
        cdef Entry *e = &self.pool[i]
        if e.newer:
            self.pool[e.newer].older = e.older
        else:
            self.newest = e.older
        if e.older:
            self.pool[e.older].newer = e.newer
        else:
            self.oldest = e.newer

    cdef void list_newest(self, uint32_t i) noexcept nogil:
        cdef Entry *e = &self.pool[i]
        e.newer = 0
        e.older = self.newest
        if self.newest:
            self.pool[self.newest].newer = i
        else:
            self.oldest = i
        self.newest = i

    cdef int update(self, uint64_t now) except -1:
        cdef uint32_t i, n = 0
        if not self.active:
            return 0
        self.now_ns = now
        for i in range(self.n_asked):
            self.asks.append(self.key_of(self.asked[i]))
        self.n_asked = 0
        while self.told and n < TAKEN_IN:
            key, pieces = self.told.popleft()
            self.put(key, pieces)
            n += 1
        n = 0
        while self.oldest and n < LEAVE and (self.excess or self.pool[self.oldest].used_ns + self.unused_ns < now):
            i = self.oldest
            if self.excess:
                self.excess -= 1
                self.evicted += 1
            key = self.key_of(i)
            self.remove(i, key)
            self.gone.append(key)
            n += 1
        if self.n_free < ASKS:
            self.reserve()
        return 0

    cdef int put(self, bytes key, object pieces) except -1:
        cdef const uint8_t *p = <const uint8_t *><const char *>key
        cdef uint16_t port = 0
        cdef uint8_t protocol = 0
        cdef uint32_t i, k
        cdef Entry *e
        cdef Stretch *made = NULL
        cdef PeerTags tags
        if len(key) == 20:
            port = (<uint16_t>p[17] << 8) | p[18]
            protocol = p[19]
        i = self.look(p + 1, port, protocol)
        if pieces is None:
            if i:
                self.remove(i, key)
            return 0
        if i == 0:
            if self.n_free == 0:
                self.reserve()
            i = self.add(p + 1, port, protocol)
            if i == 0:
                return 0
        if pieces:
            made = <Stretch *>malloc(len(pieces) * sizeof(Stretch))
            if made == NULL:
                raise MemoryError("zerospan: no memory for the table of peers")
            for k, (tags, since_ns, until_ns) in enumerate(pieces):
                made[k].since_ns = max(since_ns, 0)
                made[k].until_ns = max(until_ns, 0)
                made[k].peer = &tags.c
            self.held[key] = tuple(piece[0] for piece in pieces)
        else:
            self.held.pop(key, None)
        e = &self.pool[i]
        self.n_open -= e.state == STATE_ASKED
        e.state = STATE_TOLD
        free(e.stretches)
        e.stretches = made
        e.n = len(pieces)
        return 0

    cdef int remove(self, uint32_t i, bytes key) except -1:
        cdef Entry *e = &self.pool[i]
        cdef uint32_t *at = &self.buckets[bucket_of(e.addr, e.port, e.protocol) & self.mask]
        while at[0] != i:
            at = &self.pool[at[0]].next
        at[0] = e.next
        self.unlist(i)
        free(e.stretches)
        self.n_open -= e.state == STATE_ASKED
        self.held.pop(key, None)
        memset(e, 0, sizeof(Entry))
        e.next = self.free_
        self.free_ = i
        self.n_free += 1
        self.n -= 1
        return 0

    cdef int reserve(self) except -1:
        """Room for the questions of the next step: a larger pool, or what the oldest entries give."""
        cdef Entry *pool
        cdef uint32_t *buckets
        cdef uint32_t i, at, cap = self.cap * 2, mask = 2 * cap - 1
        if self.cap < self.limit:
            pool = <Entry *>realloc(self.pool, cap * sizeof(Entry))
            if pool == NULL:
                raise MemoryError("zerospan: no memory for the table of peers")
            self.pool = pool
            memset(pool + self.cap, 0, (cap - self.cap) * sizeof(Entry))
            buckets = <uint32_t *>calloc(mask + 1, sizeof(uint32_t))
            if buckets == NULL:
                raise MemoryError("zerospan: no memory for the table of peers")
            for i in range(self.cap, cap):
                pool[i].next = self.free_
                self.free_ = i
            self.n_free += cap - self.cap
            self.cap = cap
            free(self.buckets)
            self.buckets = buckets
            self.mask = mask
            for i in range(1, cap):
                if pool[i].state != STATE_FREE:
                    at = bucket_of(pool[i].addr, pool[i].port, pool[i].protocol) & mask
                    pool[i].next = buckets[at]
                    buckets[at] = i
            return 0
        while self.oldest and self.n_free < 2 * ASKS:
            i = self.oldest
            key = self.key_of(i)
            self.remove(i, key)
            self.gone.append(key)
            self.evicted += 1
        return 0

    cdef bytes key_of(self, uint32_t i):
        cdef Entry *e = &self.pool[i]
        cdef bytes addr = (<char *>e.addr)[:16]
        if e.port == 0:
            return ADDRESS + addr
        return ENDPOINT + addr + int(e.port).to_bytes(2, "big") + bytes((e.protocol,))
