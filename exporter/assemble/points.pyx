# cython: language_level=3, boundscheck=True, wraparound=False
"""What network interfaces saw of requests; see points.pxd. Called by Flows.handle for each ZS_NIC record.

A connection at an interface is a row of runs, first the one side's, then the other's. A record says that a run begins and what the
run before was. A run of the side that asks and the other's run after it, both ended, are one exchange: a span of this
point. K comes from the initial sequence numbers and the request's first byte, or from the sequence numbers of request
and answer where the former are not known. The side that connected asks; the other does where the registry has such a K.

* An exchange whose request a process is still busy with may go on: "100 Continue" and the body after it, an answer that pauses. It
  waits (`done`) until that process has ended it, or until a run begins that is a request of its own. What comes meanwhile belongs to
  it (`more`) if the process had its answer only after that.
* Of requests that are sent without waiting (pipelined) a run shows the first one only; the span lasts until the last answer.
* A record whose `prev_seq` is not where the last run began follows a lost one: what was going on is forgotten, nothing is paired
  across the gap.
* Its span is held from the end of the exchange on, as those of the processes are, however late that end is told.
* On a host that has no process of the request (a gateway) nothing tells what belongs to it but K: other agents are asked who knows
  it (link/shared.pyx), and an answer that pauses ends there.
* A packet that enters and leaves by one interface makes two flows there: `way` tells them apart.
* Nothing tells that a connection is idle but ZS_NIC_END. If that is lost, the end is the one that the process saw (NIC_END_UNKNOWN).

Memory: one table, bounded in bytes; the longest idle of a few makes room. A flow holds a reference to the K that passes, so
that the registry still knows it when the end is told.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

from zerospan.exporter.abi.events cimport (
    ZS_NIC_EGRESS, ZS_NIC_END, ZS_NIC_RESET, ZS_ROLE_ACCEPTING, ZS_ROLE_CONNECTING, zs_nic,
)
from zerospan.exporter.assemble.interfaces cimport ROLE_POD, Interface, Interfaces
from zerospan.exporter.assemble.nic_part cimport (
    NIC_BY_SEQUENCE, NIC_EGRESS, NIC_END_UNKNOWN, OUTER, NicPart, nic_part, outer_addresses,
)
from zerospan.exporter.assemble.span cimport KIND_CLIENT, KIND_INTERNAL, KIND_SERVER, REASON_NONE, SpanRec
from zerospan.exporter.link.due cimport Due
from zerospan.exporter.link.ends cimport END_CLIENT, END_SERVER
from zerospan.exporter.link.hops cimport Hops
from zerospan.exporter.link.ids cimport (
    POINT_CLIENT_NODE, POINT_CLIENT_POD, POINT_CLIENT_PROCESS, POINT_SERVER_NODE, POINT_SERVER_POD, POINT_SERVER_PROCESS, Point,
    connection_key, hash64, hash_bytes, request_key,
)
from zerospan.exporter.link.requests cimport Request, Requests
from zerospan.exporter.link.sequences cimport Sequences
from zerospan.exporter.selfmon.counters cimport (
    N_DROP_NIC_UNMATCHED, N_DROP_OPEN_FULL, N_NIC_EVICTED, N_NIC_GAPS, N_NIC_NO_INTERFACE, N_NIC_RECORDS, N_NIC_REFUSED, N_SEEN,
)

cdef enum:
    SILENCE_NS = 3000000000      # so long after its process the end of an answer may be told
    IDLE_NS = 60000000000        # a flow that was silent for so long, with no request under way, is forgotten
    IDLE_MOST_NS = 900000000000  # whatever is under way
    SHARE_OF_TABLE = 8           # looked at each time
    AF_INET = 2
    TCP = 6


cdef Point point_of(Interfaces interfaces, uint32_t index, bint egress) noexcept nogil:
    cdef const Interface *e = &interfaces.all[index]
    if e.role != ROLE_POD:
        return POINT_CLIENT_NODE if egress else POINT_SERVER_NODE
    return POINT_CLIENT_POD if egress == (e.inside != 0) else POINT_SERVER_POD


cdef inline bint same(const PointFlow *a, const PointFlow *b) noexcept nogil:
    return (a.hash == b.hash and a.netns_cookie == b.netns_cookie and a.ifindex == b.ifindex and a.tunnel == b.tunnel
            and a.tunnel_id == b.tunnel_id and a.vlan == b.vlan and a.way == b.way
            and a.port[0] == b.port[0] and a.port[1] == b.port[1] and a.family == b.family
            and memcmp(a.addr, b.addr, 32) == 0)


cdef class Points:
    """limit_bytes: of the table of flows. hold_s, max_hold_s: configuration `link`."""

    def __cinit__(self, Requests requests, Due hold, Interfaces interfaces, Hops hops, Sequences sequences,
                  uint64_t limit_bytes=32 << 20, double hold_s=2.0, double max_hold_s=30.0):
        self.requests = requests
        self.hold = hold
        self.interfaces = interfaces
        self.hops = hops
        self.sequences = sequences
        self.hold_ns = <uint64_t>(hold_s * 1e9)
        self.max_hold_ns = <uint64_t>(max_hold_s * 1e9)
        self.mask = 63
        self.flows = <PointFlow *>calloc(self.mask + 1, sizeof(PointFlow))
        if self.flows == NULL:
            raise MemoryError("zerospan: no memory for the table of connections at interfaces")
        # the table is never less than 3/8 full when it has grown last
        self.limit = max(3 * limit_bytes // (8 * (sizeof(PointFlow) + sizeof(uint64_t))), 32)

    def __dealloc__(self):
        free(self.flows)
        free(self.waits)

    def nbytes(self):
        return (self.mask + 1) * sizeof(PointFlow) + self.cap_waits * sizeof(uint64_t)

    # ---- the table ---------------------------------------------------------------------------------

    cdef PointFlow *find(self, const PointFlow *like) noexcept nogil:
        cdef uint64_t i = like.hash & self.mask
        while self.flows[i].hash:
            if same(&self.flows[i], like):
                return &self.flows[i]
            i = (i + 1) & self.mask
        return NULL

    cdef PointFlow *by_hash(self, uint64_t hash) noexcept nogil:
        cdef uint64_t i = hash & self.mask
        while self.flows[i].hash:
            if self.flows[i].hash == hash:
                return &self.flows[i]
            i = (i + 1) & self.mask
        return NULL

    cdef PointFlow *make(self, const PointFlow *like, uint64_t now) noexcept nogil:
        """A new entry, a copy of `like`; NULL if there is no room."""
        cdef uint64_t i
        if self.n >= self.limit:
            self.evict(now)
        if 4 * (self.n + 1) > 3 * (self.mask + 1) and self.grow() < 0:
            self.tally[N_NIC_REFUSED] += 1
            return NULL
        i = like.hash & self.mask
        while self.flows[i].hash:
            i = (i + 1) & self.mask
        self.flows[i] = like[0]
        self.n += 1
        return &self.flows[i]

    cdef int grow(self) noexcept nogil:
        cdef uint64_t mask = 2 * self.mask + 1, i, j
        cdef PointFlow *flows = <PointFlow *>calloc(mask + 1, sizeof(PointFlow))
        if flows == NULL:
            return -1
        for i in range(self.mask + 1):
            if self.flows[i].hash:
                j = self.flows[i].hash & mask
                while flows[j].hash:
                    j = (j + 1) & mask
                flows[j] = self.flows[i]
        free(self.flows)
        self.flows = flows
        self.mask = mask
        return 0

    cdef void drop(self, PointFlow *f) noexcept nogil:
        """Forgets a flow. Others move into its place: no pointer lasts."""
        cdef uint64_t hole = f - self.flows, i = f - self.flows, home
        self.let_go(f)
        if f.done.ref:
            self.requests.unref(f.done.key)
        if f.more.ref:
            self.requests.unref(f.more.key)
        while True:
            i = (i + 1) & self.mask
            if self.flows[i].hash == 0:
                break
            home = self.flows[i].hash & self.mask
            if ((i - home) & self.mask) >= ((i - hole) & self.mask):
                self.flows[hole] = self.flows[i]
                hole = i
        memset(&self.flows[hole], 0, sizeof(PointFlow))
        self.n -= 1

    cdef void evict(self, uint64_t now) noexcept nogil:
        """Makes room: the longest idle of the next few, sooner one with nothing under way."""
        cdef PointFlow *oldest = NULL
        cdef PointFlow *f
        cdef uint64_t looked = 0
        cdef int seen = 0
        while seen < 8 and looked <= self.mask:
            f = &self.flows[self.hand & self.mask]
            self.hand += 1
            looked += 1
            if f.hash == 0:
                continue
            seen += 1
            if oldest == NULL or ((f.ref == 0) > (oldest.ref == 0)) or (
                    (f.ref == 0) == (oldest.ref == 0) and f.seen_ns < oldest.seen_ns):
                oldest = f
        if oldest == NULL:
            return
        self.tally[N_NIC_EVICTED] += 1
        self.push(oldest, now)
        self.drop(oldest)

    cdef void wait(self, PointFlow *f) noexcept nogil:
        cdef uint64_t *grown
        cdef uint64_t cap
        if f.waiting:
            return
        if self.n_waits == self.cap_waits:
            if self.cap_waits >= 2 * self.limit:
                return   # the look at the whole table finds it
            cap = 2 * self.cap_waits if self.cap_waits else 64
            grown = <uint64_t *>realloc(self.waits, cap * sizeof(uint64_t))
            if grown == NULL:
                return
            self.waits = grown
            self.cap_waits = cap
        self.waits[self.n_waits] = f.hash
        self.n_waits += 1
        f.waiting = 1

    # ---- records -----------------------------------------------------------------------------------

    cdef bint known(self, uint64_t key) noexcept nogil:
        return has_process(self.requests.find(key))

    cdef bint passes(self, uint64_t connection) noexcept nogil:
        return connection != 0 and self.ends.find(connection, END_CLIENT) == NULL and self.ends.find(connection, END_SERVER) == NULL

    cdef int on_nic(self, const zs_nic *ev) noexcept nogil:
        cdef PointFlow like
        cdef PointFlow *f
        cdef int side, order
        cdef uint64_t connection = 0
        self.tally[N_NIC_RECORDS] += 1
        self.active = True
        self.hops.active = True
        memset(&like, 0, sizeof(like))
        order = memcmp(ev.src_addr, ev.dst_addr, 16)
        side = order > 0 or (order == 0 and ev.src_port > ev.dst_port)
        like.netns_cookie = ev.netns_cookie
        like.ifindex = ev.ifindex
        like.tunnel = ev.tunnel
        like.tunnel_id = ev.tunnel_id
        like.vlan = ev.vlan
        like.way = ((ev.hdr.flags & ZS_NIC_EGRESS) != 0) != side
        like.family = ev.family
        like.port[side] = ev.src_port
        like.port[1 - side] = ev.dst_port
        memcpy(like.addr[side], ev.src_addr, 16)
        memcpy(like.addr[1 - side], ev.dst_addr, 16)
        like.hash = hash64(hash64(hash_bytes(<const uint8_t *>like.addr, 32, ev.netns_cookie), ev.ifindex),
                           (<uint64_t>like.port[0] << 32) | (<uint64_t>like.port[1] << 16) | (<uint64_t>ev.tunnel << 8)
                           | (like.way << 7) | (ev.family & 127))
        f = self.find(&like)
        if ev.isn_connecting or ev.isn_accepting:
            connection = connection_key(ev.isn_connecting, ev.isn_accepting)
            if f != NULL and f.connection and f.connection != connection:
                self.leave_off(f, ev.time_ns)   # the same ports again: another connection
                self.drop(f)
                f = NULL
        if f == NULL:
            if ev.hdr.flags & ZS_NIC_END:
                return 0
            f = self.make(&like, ev.time_ns)
            if f == NULL:
                return 0
        f.seen_ns = ev.time_ns
        if connection:
            f.connection = connection
        if ev.hdr.flags & ZS_NIC_END:
            self.ended(f, ev)
            return 0
        if ev.role == ZS_ROLE_CONNECTING or ev.role == ZS_ROLE_ACCEPTING:
            f.asker = side if ev.role == ZS_ROLE_CONNECTING else 1 - side
            f.asker_known = 1
        elif not f.asker_known:
            f.asker = f.port[1] > f.port[0]   # servers have the lower port
        f.outer_family = ev.outer_family
        memcpy(f.outer[side], ev.outer_src_addr, 16)
        memcpy(f.outer[1 - side], ev.outer_dst_addr, 16)
        self.begin(f, ev, side)
        return 0

    cdef void begin(self, PointFlow *f, const zs_nic *ev, int side) noexcept nogil:
        """A run begins, and so the one before has ended."""
        cdef Run *last = &f.last
        cdef uint64_t key
        cdef bint follows
        if last.there and last.told and not ev.prev_end_ns and last.side == side and ev.seq == <uint32_t>(last.seq + last.bytes):
            # silence was taken for its end
            last.told = 0
            last.mark = ev.seq
            last.base_bytes = last.bytes
            last.base_packets = last.packets
            last.base_retransmits = last.retransmits
            return
        if ev.prev_end_ns:
            follows = ev.prev_seq == last.mark
        else:
            follows = last.told != 0     # by a ZS_NIC_END
        if last.there and (last.side == side or not follows):
            self.tally[N_NIC_GAPS] += 1
            self.leave_off(f, ev.time_ns)
            memset(&f.before, 0, sizeof(Run))
        elif last.there:
            if ev.prev_end_ns:
                tell(last, ev)
                self.complete(f, last.end_ns, ev.time_ns)
            f.before = last[0]
        memset(last, 0, sizeof(Run))
        last.there = 1
        last.begin_ns = ev.time_ns
        last.seq = ev.seq
        last.mark = ev.seq
        last.side = side
        last.egress = (ev.hdr.flags & ZS_NIC_EGRESS) != 0
        if f.before.there:
            self.hold_on(f)
            if not f.ref and f.connection and f.before.side == f.asker:
                self.wait(f)     # the process's record may come a little later
        if f.done.there:
            if f.connection and f.before.there:
                key = request_key(f.connection, f.before.seq)
                if key != f.done.key and self.known(key):
                    self.push(f, ev.time_ns)   # a request of its own was sent since
            self.wait(f)

    cdef void ended(self, PointFlow *f, const zs_nic *ev) noexcept nogil:
        """FIN, RST or silence."""
        cdef Run *last = &f.last
        if last.there and ev.prev_end_ns and ev.prev_seq == last.mark:
            tell(last, ev)
            self.complete(f, last.end_ns, ev.time_ns)
        elif last.there:
            self.tally[N_NIC_GAPS] += 1
            self.leave_off(f, ev.time_ns)
            self.drop(f)
            return
        if ev.hdr.flags & ZS_NIC_RESET:
            self.leave_off(f, ev.time_ns)
            self.drop(f)
        elif f.done.there:
            self.wait(f)
        elif f.before.there or not last.there:
            self.drop(f)    # a request without its answer is waited for

    cdef void hold_on(self, PointFlow *f) noexcept nogil:
        """An answer begins: the registry shall know its request until the answer has ended here, too."""
        cdef uint64_t key
        if f.connection == 0 or f.ref:
            return
        key = request_key(f.connection, f.before.seq)
        if self.known(key) and self.requests.ref(key) != NULL:
            f.ref = key

    cdef void let_go(self, PointFlow *f) noexcept nogil:
        if f.ref:
            self.requests.unref(f.ref)
            f.ref = 0

    cdef void leave_off(self, PointFlow *f, uint64_t now) noexcept nogil:
        """Nothing more will be known of what is under way."""
        self.push(f, now)
        self.let_go(f)

    cdef void complete(self, PointFlow *f, uint64_t end_ns, uint64_t now) noexcept nogil:
        """The last run has ended, and with it, it may be, an exchange."""
        cdef Run *asked = &f.before
        cdef Run *answer = &f.last
        cdef Exchange *done = &f.done
        cdef Exchange *more
        cdef Exchange e
        cdef uint64_t key, process_end
        cdef bint known
        if not asked.there or not asked.told or asked.side == answer.side:
            return
        memset(&e, 0, sizeof(e))
        if f.connection:
            key = request_key(f.connection, asked.seq)
        else:
            key = self.sequences.find(asked.seq, answer.seq)
            e.flags = NIC_BY_SEQUENCE
        known = self.known(key)
        if asked.side != f.asker and not known:
            self.let_go(f)
            return
        e.key = key
        e.there = 1
        e.side = asked.side
        e.start_ns = asked.begin_ns
        e.first_ns = answer.begin_ns
        e.end_ns = end_ns if end_ns > answer.begin_ns else answer.begin_ns
        e.request_bytes = asked.bytes
        e.request_packets = asked.packets
        e.response_bytes = answer.bytes
        e.response_packets = answer.packets
        e.retransmits = asked.retransmits + answer.retransmits
        if asked.egress:
            e.flags |= NIC_EGRESS
        if not answer.told:
            e.flags |= NIC_END_UNKNOWN
        if f.ref == key and key:
            e.ref = 1
            f.ref = 0    # it goes with the exchange
        self.let_go(f)
        if done.there and done.key == key and key:
            if e.ref and done.ref:
                self.requests.unref(key)
            e.ref = e.ref or done.ref
            done[0] = e      # the same answer, longer
        elif done.there and not known and self.known(done.key) and e.side == done.side and asked.side == f.asker:
            process_end = self.hops.answered_ns(done.key)
            if asked.begin_ns < process_end or (process_end == 0 and self.hops.ended_ns(done.key) == 0):
                more = &f.more
                if more.there and more.key == key and key:
                    if e.ref:
                        self.requests.unref(key)
                    e.ref = more.ref
                    if more.parts == 1:
                        more[0] = e      # the same answer, longer
                        more.parts = 1
                elif more.there:
                    if e.ref:
                        self.requests.unref(key)
                    join(more, &e)
                    more.parts += 1
                else:
                    more[0] = e
                    more.parts = 1
                more.began_ns = asked.begin_ns
                if process_end:
                    self.push(f, now)
                return
            self.push(f, now)
            done[0] = e
        else:
            self.push(f, now)
            done[0] = e
        if not done.ref and key and (known or 2 * self.requests.n < self.requests.limit):
            # not known yet: its process's record may be on the way, or another agent may tell
            done.ref = self.requests.ref(key) != NULL
        if not known or self.hops.ended_ns(key):
            self.push(f, now)

    cdef void push(self, PointFlow *f, uint64_t now) noexcept nogil:
        """What is done goes to the hold."""
        cdef Exchange *e = &f.done
        cdef Exchange *more = &f.more
        if not e.there:
            return
        if more.there and more.began_ns < self.hops.answered_ns(e.key):
            join(e, more)    # the process had its answer after those runs began: they were of this request
            if more.ref:
                self.requests.unref(more.key)
            more.there = 0
        self.emit(f, e, now)
        if more.there and more.parts == 1:
            self.emit(f, more, now)
        elif more.there:
            self.tally[N_NIC_GAPS] += 1   # of several requests nobody told in time: which is which is not known
            if more.ref:
                self.requests.unref(more.key)
        more.there = 0
        more.ref = 0

    cdef void emit(self, const PointFlow *f, Exchange *e, uint64_t now) noexcept nogil:
        cdef SpanRec *r
        cdef NicPart *part
        cdef uint32_t size = sizeof(SpanRec) + sizeof(NicPart) + (OUTER if f.outer_family else 0)
        cdef uint32_t index
        cdef uint64_t due = e.end_ns + self.hold_ns
        cdef int asker = e.side
        cdef Point point
        e.there = 0
        index = self.interfaces.find(f.netns_cookie, f.ifindex)
        if index == 0:
            self.tally[N_NIC_NO_INTERFACE] += 1
        else:
            self.tally[N_SEEN] += 1
            if e.key == 0:
                self.tally[N_DROP_NIC_UNMATCHED] += 1
            else:
                if not e.flags & NIC_END_UNKNOWN and self.known(e.key):
                    point = point_of(self.interfaces, index, e.flags & NIC_EGRESS)
                    self.hops.put(e.key, point, e.end_ns - e.start_ns)
                    if self.shared is not None and point >= POINT_SERVER_NODE:
                        self.shared.point(e.key, point, e.end_ns - e.start_ns)
                if due < now + self.hold_ns // 2 and not self.known(e.key):
                    due = now + self.hold_ns // 2    # who knows it is still to be heard of
                if self.shared is not None and e.ref and self.passes(f.connection) and not self.known(e.key):
                    self.shared.passing_by(e.key)
                r = self.hold.push((size + 7) & ~<uint32_t>7, due, now + self.max_hold_ns)
                if r == NULL:
                    self.tally[N_DROP_OPEN_FULL] += 1
                else:
                    memset(r, 0, size)
                    r.size = size
                    r.kind = KIND_INTERNAL
                    r.key = e.key
                    r.start_ns = e.start_ns
                    r.first_ns = e.first_ns
                    r.end_ns = e.end_ns if e.end_ns > e.start_ns else e.start_ns
                    r.proc = self.proc
                    r.held = e.ref
                    r.code = -1
                    r.rows = -1
                    r.request_size = -1
                    r.response_size = -1
                    r.local_port = f.port[asker]
                    r.remote_port = f.port[1 - asker]
                    r.family = f.family
                    r.transport = TCP
                    memcpy(r.local_addr, f.addr[asker], 16)
                    memcpy(r.remote_addr, f.addr[1 - asker], 16)
                    part = nic_part(r)
                    part.request_bytes = e.request_bytes
                    part.response_bytes = e.response_bytes
                    part.request_packets = e.request_packets
                    part.response_packets = e.response_packets
                    part.retransmits = e.retransmits
                    part.interface = index
                    part.tunnel_id = f.tunnel_id
                    part.vlan = f.vlan
                    part.tunnel = f.tunnel
                    part.outer_family = f.outer_family
                    part.flags = e.flags
                    if f.outer_family:
                        memcpy(<uint8_t *>outer_addresses(r), f.outer[asker], 16)
                        memcpy(<uint8_t *>outer_addresses(r) + 16, f.outer[1 - asker], 16)
                    e.ref = 0    # the reference goes with the span
        if e.ref:
            self.requests.unref(e.key)
        e.ref = 0

    # ---- time --------------------------------------------------------------------------------------

    cdef void process_ended(self, const SpanRec *r) noexcept nogil:
        self.hops.ended(r.key, POINT_CLIENT_PROCESS if r.kind == KIND_CLIENT else POINT_SERVER_PROCESS,
                        r.end_ns - r.start_ns, r.end_ns, r.reason == REASON_NONE)
        if self.shared is not None and r.kind == KIND_SERVER and r.reason == REASON_NONE:
            self.shared.point(r.key, POINT_SERVER_PROCESS, r.end_ns - r.start_ns)

    cdef void settle(self, uint64_t now) noexcept nogil:
        cdef uint64_t i, end, most, n = self.n_waits
        cdef PointFlow *f
        self.hops.turn(now)
        self.n_waits = 0
        for i in range(n):
            f = self.by_hash(self.waits[i])
            if f == NULL:
                continue
            f.waiting = 0
            if f.before.there and not f.last.told:
                self.hold_on(f)
            if f.done.there and self.known(f.done.key) and self.hops.ended_ns(f.done.key) == 0 and now < f.seen_ns + IDLE_MOST_NS:
                self.wait(f)     # n_waits is at most i: it is written where it was read
                continue
            self.push(f, now)
            if f.last.there and f.last.told and f.before.there:
                self.drop(f)
        for i in range((self.mask + 1) // SHARE_OF_TABLE):
            f = &self.flows[self.look & self.mask]
            self.look += 1
            if f.hash == 0 or now < f.seen_ns + SILENCE_NS:
                continue
            if f.ref and not f.last.told and not f.done.there:
                end = self.hops.answered_ns(f.ref)
                if end and now > end + SILENCE_NS:
                    self.complete(f, end, now)
                    memset(&f.before, 0, sizeof(Run))
            most = IDLE_NS
            if f.ref or f.done.there or f.last.side == f.asker:
                most = IDLE_MOST_NS
            if now > f.seen_ns + most:
                self.leave_off(f, now)
                self.drop(f)

    cdef void finish(self, uint64_t now) noexcept nogil:
        cdef uint64_t i
        for i in range(self.mask + 1):
            if self.flows[i].hash:
                self.leave_off(&self.flows[i], now)
        memset(self.flows, 0, (self.mask + 1) * sizeof(PointFlow))
        self.n = 0
        self.n_waits = 0


cdef void join(Exchange *e, const Exchange *more) noexcept nogil:
    """The later runs belong to the same request."""
    e.end_ns = more.end_ns
    e.request_bytes += more.request_bytes
    e.request_packets += more.request_packets
    e.response_bytes += more.response_bytes
    e.response_packets += more.response_packets
    e.retransmits += more.retransmits
    e.flags |= more.flags & NIC_END_UNKNOWN


cdef void tell(Run *run, const zs_nic *ev) noexcept nogil:
    """What a record says of the run before it: of its last part, as a whole."""
    run.told = 1
    run.end_ns = ev.prev_end_ns
    run.bytes = run.base_bytes + ev.prev_bytes
    run.packets = run.base_packets + ev.prev_packets
    run.retransmits = run.base_retransmits + ev.prev_retransmits
