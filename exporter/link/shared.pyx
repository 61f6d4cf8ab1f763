# cython: language_level=3, boundscheck=True, wraparound=False
"""Requests that other hosts see the other end of; see shared.pxd."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, memset

from zerospan.exporter.assemble.span cimport LINK_THREAD, EndAddress
from zerospan.exporter.link.context cimport (
    CTX_ADOPTED, CTX_DISPUTED, context_flags, context_own, context_parent, context_put, context_told, context_top,
    context_trace_id, sdk_span,
)
from zerospan.exporter.link.ids cimport hash_bytes
from zerospan.exporter.link.mail cimport ITEM, Mail
from zerospan.exporter.link.requests cimport (
    CAUSE_DOUBTFUL, CAUSE_KNOWN, CAUSE_NONE, CAUSE_PENDING, Request, Requests,
)
from zerospan.exporter.link.roots cimport ROOTS, Root, Roots
from zerospan.exporter.link.shared_codec cimport (
    END_CLIENT, END_SERVER, END_TRACE, NOTE_ADDRESS, NOTE_DISPUTED, NOTE_MORE, NOTE_NAMED, NOTE_OMITTED, NOTE_PENDING, NOTE_ROOT,
    NOTE_TENTATIVE, POINTS_MAX, VALUE_MAX, Note, Points, note_decode, note_encode,
)
from zerospan.exporter.link.shared_names cimport Names
from zerospan.exporter.link.shared_table cimport PASSING, PASSING_NOT, PASSING_SERVED, WHEEL, End, SharedTable
from zerospan.exporter.tags.table cimport PeerTable

cdef enum:
    MAX_CHAIN = 64           # causes that are followed on this host
    RETRY_NS = 250000000     # while a cause is pending or may be taken back
    LAST_NS = 2000000000     # the longest time between two looks
    DATAGRAM_TTL_NS = 10000000000
    N_DELAYS = 4
    ROOT_NS = 100000000      # between two looks for the root of a trace that an SDK began below
    PASSING_TRIES = 3
    PASSING_PER_S = 2000     # requests passing by that are asked for, and at once

# After the first look. The other end is published within its own grace time and a round or two of the network; then
# less and less is to be hoped for, but a program may read a request late and a store may be away for a while.
cdef uint64_t[N_DELAYS] DELAYS = [50000000, 150000000, 600000000, 1200000000]


cdef inline bint loopback(uint8_t family, const uint8_t *address) noexcept nogil:
    cdef int i
    if family == 2:
        return address[0] == 127
    for i in range(10):
        if address[i]:
            return False
    if address[10] == 0xFF and address[11] == 0xFF:
        return address[12] == 127                # ::ffff:127.0.0.1
    for i in range(10, 15):
        if address[i]:
            return False
    return address[15] == 1


cdef class Shared:
    """ttl_s: of what is published. queue_bytes: of what waits for the network. bytes: of the table."""

    def __cinit__(self, double ttl_s=60.0, uint64_t queue_bytes=8 << 20, uint64_t table_bytes=16 << 20,
                  double grace_s=0.03):
        self.names = Names()
        self.limit = max(table_bytes // sizeof(End) // 2, 512)
        self.grace_ns = <uint64_t>(grace_s * 1e9)
        self.near_grace_ns = 10 * self.grace_ns
        self.ttl_ns = <uint64_t>(ttl_s * 1e9)
        self.mail = Mail(queue_bytes)
        self.roots = Roots(self.mail, self.ttl_ns)
        self.peers = PeerTable()
        self.epoch = 1
        self.hold_ns = 2000000000
        self.allowance = PASSING_PER_S

    def attach(self, Requests requests, Processes processes):
        """Called by the engine that it belongs to, before anything else."""
        self.requests = requests
        self.roots.requests = requests
        self.processes = processes
        self.names.processes = processes

    # ---- the network's side: any thread, with the GIL ------------------------------------------------

    def forgotten(self):
        """The store may have lost what was published, or a connection was lost: all that is alive is published again."""
        self.epoch += 1

    def counts(self):
        """Name -> value."""
        return {"published": self.mail.published, "published_again": self.again, "asked": self.mail.asked, "found": self.found,
                "missing": self.missing, "late": self.late, "bad": self.bad + self.names.bad, "local": self.local, "table_full": self.refused,
                "names_full": self.names.refused, "publish_dropped": self.mail.publish_dropped,
                "ask_dropped": self.mail.ask_dropped, "passed": self.passed, "passing_refused": self.passing_refused}

    def nbytes(self):
        cdef uint64_t total = (self.mask + 1) * sizeof(End) + sizeof(Root) * ROOTS + self.mail.queued
        cdef int i
        for i in range(WHEEL):
            total += self.wheel[i].cap * sizeof(uint64_t)
        return total

    # For tests: point(), points_done() and points(), which Cython code calls.
    def add_point(self, key, point, ns):
        self.point(key, point, ns)

    def end_points(self, key):
        self.points_done(key)

    def points_of(self, key):
        """[(point, ns)] of the other end, as far as they are known."""
        cdef const Points *p = self.points(key)
        return [(p.point[i], p.ns[i]) for i in range(p.n)] if p != NULL else []

    # ---- what the engine says ------------------------------------------------------------------------

    cdef void seen(self, uint64_t key, bint client, uint32_t proc, uint8_t family, const uint8_t *local,
                   uint16_t local_port, const uint8_t *remote, bint datagram, bint exact) noexcept nogil:
        cdef uint64_t h
        cdef uint32_t n = 4 if family == 2 else 16
        cdef uint64_t grace = self.grace_ns
        cdef End *e
        h = hash_bytes(local, n, family)
        self.here[h % HERE] = h
        if not exact or loopback(family, remote) or self.processes.procs[proc].hidden:
            return
        e = self.find(key)
        if e != NULL:
            if e.end and e.end != (END_CLIENT if client else END_SERVER):
                self.local += 1
                self.drop(e)                     # both ends are here
                return
        else:
            e = self.make(key)
            if e == NULL:
                return
        if e.end == 0:                           # it was asked for as a cause: the client's end
            e.tries = 0
            e.passing = PASSING_NOT
            e.ended_ns = 0
            e.asked_root = 0
            if client:
                e.found = 0
        e.end = END_CLIENT if client else END_SERVER
        e.proc = proc
        e.datagram = datagram
        memset(&e.here, 0, sizeof(EndAddress))
        memcpy(e.here.addr, local, n)
        e.here.port = local_port
        e.here.family = family
        e.more = self.want_points and not client     # the CLIENT span tells of all points
        if client:
            # It goes to an address of this host: most likely to a program that has not read it yet. But not surely: a
            # port of this node may lead to another one.
            h = hash_bytes(remote, n, family)
            if self.here[h % HERE] == h:
                grace = self.near_grace_ns
        self.due(e, self.now_ns + grace)

    cdef const Proc *other_end(self, uint64_t key, bint client) noexcept nogil:
        cdef End *e = self.find(key)
        if e == NULL:
            return NULL
        if e.end:
            e.more = 0
            self.publish(e, self.now_ns)         # the last word: what was learned since, before the registry forgets it
        if e.found:
            return self.names.places[e.who]
        if not client and e.end == END_SERVER:
            self.missing += 1
        return NULL

    cdef const EndAddress *where(self, uint64_t key) noexcept nogil:
        cdef const End *e = self.find(key)
        return &e.there if e != NULL and e.there.family else NULL

    cdef bint caller_found(self, uint64_t key) noexcept nogil:
        cdef const End *e = self.find(key)
        return e != NULL and e.end != END_CLIENT and e.found != 0

    cdef bint caller_omitted(self, uint64_t key) noexcept nogil:
        cdef const End *e = self.find(key)
        return e != NULL and e.end != END_CLIENT and e.found != 0 and e.flags & NOTE_OMITTED

    cdef bint elsewhere(self, uint64_t key) noexcept nogil:
        cdef const End *e = self.find(key)
        return e != NULL and e.end == 0 and (e.found != 0 or e.passing == PASSING_SERVED)

    cdef bint between(self, uint64_t key) noexcept nogil:
        cdef const End *e = self.find(key)
        return e != NULL and e.end == 0 and e.found != 0 and e.passing == PASSING_SERVED

    cdef void ended(self, uint64_t key) noexcept nogil:
        cdef End *e = self.find(key)
        cdef uint64_t at = self.now_ns
        cdef const Request *top
        if e == NULL or e.end == 0 or e.ended_ns:
            return
        e.ended_ns = self.now_ns
        top = context_top(self.requests, self.requests.find(key))
        if top == NULL or context_own(top) or not top.context & (CTX_ADOPTED | CTX_DISPUTED):
            at += self.hold_ns * 5 // 8
        if e.tries and e.due_ns > at:            # before the first look the other end may still show up here
            self.due(e, at)

    cdef void passing_by(self, uint64_t key) noexcept nogil:
        cdef End *e = self.find(key)
        if e != NULL and (e.end or e.passing or e.found):
            return
        if e == NULL:
            if self.allowance < 1 or 2 * self.n >= self.limit:
                self.passing_refused += 1
                return
            e = self.make(key)
            if e == NULL:
                return
            self.allowance -= 1
        self.passed += 1
        e.passing = PASSING
        e.tries = 0
        e.ended_ns = self.now_ns
        self.due(e, self.now_ns + self.grace_ns)

    cdef void point(self, uint64_t key, uint8_t point, uint64_t ns) noexcept nogil:
        cdef End *e = self.find(key)
        cdef uint32_t i
        if e == NULL or e.end != END_SERVER:
            return
        if e.own == NULL:
            e.own = <Points *>calloc(1, sizeof(Points))
            if e.own == NULL:
                return
        i = 0
        while i < e.own.n and e.own.point[i] != point:
            i += 1
        if i == POINTS_MAX or (i < e.own.n and ns <= e.own.ns[i]):
            return
        e.own.point[i] = point
        e.own.ns[i] = ns
        if i == e.own.n:
            e.own.n += 1
        if e.told:
            self.due(e, self.now_ns + self.grace_ns)     # what comes within it goes along

    cdef void points_done(self, uint64_t key) noexcept nogil:
        cdef End *e = self.find(key)
        if e != NULL and e.more:
            e.more = 0
            if e.told:
                self.due(e, self.now_ns)

    cdef const Points *points(self, uint64_t key) noexcept nogil:
        cdef End *e = self.find(key)
        return e.theirs if e != NULL else NULL

    # ---- time ----------------------------------------------------------------------------------------

    cdef void visit(self, End *e, uint64_t now) noexcept nogil:
        cdef Request *r = self.requests.find(e.key)
        cdef uint64_t wait, at
        cdef bint begun
        if r == NULL or (r.client_proc and r.server_proc):
            self.local += r != NULL
            self.drop(e)
            return
        if e.end == 0 and (r.client_proc or (e.passing and r.server_proc)):
            self.drop(e)                         # the cause is one of this host's: the registry knows the rest
            return
        if e.end:
            if e.more and e.own != NULL and e.own.n > 1:
                e.more = 0           # the process and an interface: the others told at the same time, a grace time ago
            self.publish(e, now)
        # What may be taken back is asked for once more shortly before the span leaves: not more, as it seldom is.
        # At the first look the other end's agent is telling, too: a question would come too early half of the time.
        if e.end and e.tries == 0:
            pass
        elif e.passing and not e.found:
            if e.tries < PASSING_TRIES:
                self.ask(e)
                if e.passing != PASSING_SERVED:
                    self.mail.ask(e.key, END_SERVER)
        elif not e.found or e.flags & (NOTE_PENDING | NOTE_MORE) or (e.flags & NOTE_TENTATIVE and e.tries == N_DELAYS):
            self.ask(e)
        begun = self.root(e, r, now)
        wait = DELAYS[e.tries] if e.tries < N_DELAYS else LAST_NS
        e.tries += e.tries < N_DELAYS
        if wait > RETRY_NS and ((e.found and e.flags & (NOTE_PENDING | NOTE_MORE))
                                or (e.end == END_CLIENT and (r.cause_state == CAUSE_PENDING or r.cause))):
            wait = RETRY_NS
        at = self.root_due(e)
        if at > now:
            if begun and wait > ROOT_NS:
                wait = ROOT_NS       # a higher root may be learned of, which is to be told, too
            if at < now + wait:
                wait = at - now
        self.due(e, now + wait)

    # ---- what is told --------------------------------------------------------------------------------

    cdef void note(self, const End *e, Note *note) noexcept nogil:
        """What is known of the end that is here. Causes of this host are folded: who asks is told the highest of them, and
        goes on from there."""
        cdef Request *r = self.requests.find(e.key)
        cdef Request *at = r
        cdef const Proc *proc = &self.processes.procs[e.proc]
        cdef int steps = 0
        memset(note, 0, sizeof(Note))
        note.key = e.key
        note.end = e.end
        note.name = proc.name
        if self.peers.active:
            if proc.waits == 1 and e.tries + 1 < N_DELAYS and not self.peers.away:
                note.name.n = 0                  # in a moment it is known what it is called
                note.flags |= NOTE_MORE
            elif proc.waits:
                note.flags |= NOTE_TENTATIVE     # its container is younger than what the enricher knows
            if e.end:
                note.flags |= NOTE_ADDRESS
                note.address = e.here
        if e.own != NULL:
            note.points = e.own[0]
        if e.more:
            note.flags |= NOTE_MORE
        if e.end != END_CLIENT:
            return
        if self.omit and r != NULL and sdk_span(self.requests, r):
            note.flags |= NOTE_OMITTED
            note.parent = context_parent(self.requests, r)
        while at != NULL:
            if context_own(at):
                note.flags |= NOTE_NAMED
                note.wire = at.wire
                note.trace_flags = context_flags(self.requests, at)
                memcpy(note.trace_id, context_trace_id(self.requests, at), 16)
                break
            if at.client_proc == 0:
                break                            # it came from elsewhere: its own client's agent says more
            if at.cause_state == CAUSE_PENDING and self.processes.procs[at.client_proc].open:
                note.flags |= NOTE_PENDING
                break
            if at.cause == 0 or at.cause_state == CAUSE_DOUBTFUL:
                note.flags |= NOTE_ROOT
                break
            if steps == MAX_CHAIN:
                break
            steps += 1
            if at.by_order or at.cause_method >= LINK_THREAD:
                note.flags |= NOTE_TENTATIVE
            if at == r:
                note.method = at.cause_method
            at = self.requests.find(at.cause)
            if at != NULL:
                note.up = at.key

    cdef void publish(self, End *e, uint64_t now) noexcept nogil:
        """If it is not what was published last, or that may be forgotten."""
        cdef Note note
        cdef uint8_t value[VALUE_MAX]
        cdef uint16_t n
        cdef uint64_t h, ttl = DATAGRAM_TTL_NS if e.datagram else self.ttl_ns
        self.note(e, &note)
        n = <uint16_t>note_encode(&note, value)
        h = hash_bytes(value, n, 0)
        if h == e.told and e.epoch == self.epoch and now - e.told_ns < ttl // 2:
            return
        self.again += e.told != 0
        e.told = h
        e.told_ns = now
        e.epoch = self.epoch
        self.mail.put(e.key, e.end, e.datagram, value, n)

    cdef void ask(self, End *e) noexcept nogil:
        self.mail.ask(e.key, END_SERVER if e.end == END_CLIENT else END_CLIENT)

    # ---- the root's name -----------------------------------------------------------------------------

    cdef uint64_t root_due(self, const End *e) noexcept nogil:
        """When the name of the root is asked for next; 0: not again. At a gateway, which hears of a request late, sooner."""
        if e.ended_ns == 0 or e.asked_root > 1:
            return 0
        if e.passing:
            return e.ended_ns + self.hold_ns * (3 + e.asked_root) // 10
        return e.ended_ns + self.hold_ns * (5 + 2 * e.asked_root) // 8

    cdef bint root(self, End *e, Request *r, uint64_t now) noexcept nogil:
        """Tells the trace that an SDK began below the root; asks whether another host knows of one, and once more if so.
        Whether one is known here."""
        cdef Request *top = context_top(self.requests, r)
        cdef uint64_t at
        cdef bint known
        if top == NULL or context_own(top):
            return False
        known = top.context & (CTX_ADOPTED | CTX_DISPUTED) != 0
        if known and e.end:
            self.roots.tell(top, False, top.context & CTX_DISPUTED != 0, self.epoch, now)
        at = self.root_due(e)
        if at == 0 or now < at or (e.passing == PASSING and not e.found):
            return known
        e.asked_root += 1
        if e.asked_root > 1 and not known:
            return False
        self.roots.ask(top.key, now)
        return known

    # ---- what comes ----------------------------------------------------------------------------------

    cdef int apply(self, const uint8_t *p, size_t n) except -1 nogil:
        """A batch of the inbox. Made by our own thread: its frame is right, the values in it are remote bytes."""
        cdef Note note
        cdef uint64_t key = 0
        cdef uint16_t size = 0
        while n >= ITEM:
            memcpy(&key, p, 8)
            memcpy(&size, p + 10, 2)
            if n - ITEM < size:
                self.bad += 1
                return 0
            if note_decode(p + ITEM, size, key, p[8], &note):
                self.learn(&note)
            else:
                self.bad += 1
            p += ITEM + size
            n -= ITEM + size
        return 0

    cdef int learn(self, const Note *note) except -1 nogil:
        cdef End *e = self.find(note.key)
        cdef Request *r = self.requests.find(note.key)
        cdef bint right
        if note.end == END_TRACE:
            if r == NULL:
                self.late += 1
            elif note.flags & (NOTE_NAMED | NOTE_DISPUTED):
                right = context_told(self.requests, r, NULL if note.flags & NOTE_DISPUTED else note.trace_id,
                                     note.trace_flags)
                if r.context & (CTX_ADOPTED | CTX_DISPUTED) or not right:
                    self.roots.tell(r, right, note.flags & NOTE_DISPUTED != 0 or not right, self.epoch,
                                    self.now_ns)
            return 0
        if e == NULL or r == NULL:
            self.late += r == NULL               # else both ends are here
            return 0
        if note.end == END_SERVER and e.end == 0 and e.passing:
            e.passing = PASSING_SERVED
            return 0
        if (note.end == END_CLIENT and (e.end == END_CLIENT or r.client_proc)) or (
                note.end == END_SERVER and e.end != END_CLIENT):
            return 0                             # nobody else can know more of an end that is here
        self.found += e.found == 0
        e.found = 1
        e.flags = note.flags
        e.who = self.names.find(note.name.p, note.name.n)
        if note.flags & NOTE_ADDRESS:
            e.there = note.address
            self.peers.notice(e.there.family, e.there.addr, e.there.port, 17 if e.datagram else 6, e.end == END_CLIENT)
        if note.points.n:
            if e.theirs == NULL:
                e.theirs = <Points *>calloc(1, sizeof(Points))
            if e.theirs != NULL:
                e.theirs[0] = note.points
        if note.end == END_CLIENT:
            self.learn_cause(e, r, note)
        return 0

    cdef void learn_cause(self, End *e, Request *r, const Note *note) noexcept nogil:
        cdef Request *up
        cdef End *above
        if note.up == 0:
            if r.cause:
                self.requests.set_cause(note.key, 0, 0, CAUSE_DOUBTFUL)      # it was taken back
                r = self.requests.find(note.key)
                if r == NULL:
                    return
            r.cause_state = CAUSE_PENDING if note.flags & NOTE_PENDING else CAUSE_NONE
            up = r
        else:
            if r.cause != note.up:
                self.requests.set_cause(note.key, note.up, note.method, CAUSE_KNOWN)
                r = self.requests.find(note.key)
                if r == NULL or r.cause != note.up:
                    return                       # no room, or it would be its own cause
            else:
                r.cause_state = CAUSE_KNOWN
            r.by_order = 0                       # what is lost here says nothing of what was seen there
            up = self.requests.find(note.up)
            if up == NULL or up.client_proc or (up.server_proc and not note.flags & NOTE_NAMED):
                return                           # known here already, or asked for as a request of this host
            above = self.find(note.up)
            if up.server_proc == 0 and (above == NULL or not above.found):
                if note.flags & NOTE_PENDING:
                    up.cause_state = CAUSE_PENDING
                elif up.cause == 0:
                    up.cause_state = CAUSE_NONE
        if note.flags & NOTE_NAMED:
            if not context_own(up) and context_put(self.requests, up, note.trace_id, note.parent, note.trace_flags):
                up.wire = note.wire
            return
        if note.up == 0 or note.flags & (NOTE_ROOT | NOTE_PENDING) or self.find(note.up) != NULL:
            return
        above = self.make(note.up)
        if above != NULL:
            self.due(above, self.now_ns)

    # ---- the engine's step ---------------------------------------------------------------------------

    cdef int turn(self, uint64_t now) except -1:
        cdef bytes values
        cdef const char *p
        cdef size_t n
        self.allowance = min(<double>PASSING_PER_S, self.allowance + (now - self.allowed_ns) * 1e-9 * PASSING_PER_S)
        self.allowed_ns = now
        self.now_ns = now
        while (values := self.mail.received()) is not None:
            p = values
            n = len(values)
            with nogil:
                self.apply(<const uint8_t *>p, n)
        with nogil:
            self.look(now)
        return self.mail.send()
