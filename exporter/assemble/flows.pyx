# cython: language_level=3, boundscheck=True, wraparound=False
"""Connections: which parser owns them, what is open on them, what became of it. See flows.pxd.

The road of one message: handle -> on_msg -> turn (a run ended: answers that were passing are finished) -> detect
(no parser owns the connection yet) -> proto.stream -> on_message -> request or response -> answered -> release (a
SpanRec in the hold). Runs alternate between the two sides, so a missing number means lost records: what was open then
has been answered unseen, and nothing is paired across the gap.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy, memset

from zerospan.exporter.abi.events cimport (
    ZS_CLOSE, ZS_CONN, ZS_CONNECT, ZS_DGRAM, ZS_F_CUT, ZS_F_GAP, ZS_MSG, ZS_NIC, ZS_PROGRESS, ZS_ROLE_ACCEPTING,
    ZS_ROLE_CONNECTING, ZS_SEND, zs_close, zs_conn, zs_connect, zs_dgram, zs_hdr, zs_msg, zs_nic, zs_progress,
)
from zerospan.exporter.assemble.exchanges cimport Exchanges
from zerospan.exporter.assemble.operations cimport close_reason, span_of
from zerospan.exporter.assemble.points cimport Points
from zerospan.exporter.assemble.processes cimport Processes
from zerospan.exporter.assemble.span cimport REASON_NOT_SEEN, REASON_TIMEOUT, SPAN_ERROR, SpanRec
from zerospan.exporter.assemble.table cimport OWN_KEYS, Flow, Now
from zerospan.exporter.assemble.table cimport PARTIAL_CUT, PARTIAL_LOST
from zerospan.exporter.link.cause cimport Causes, Profile
from zerospan.exporter.link.hold cimport Hold
from zerospan.exporter.link.ends cimport END_CLIENT, END_SERVER, Ends
from zerospan.exporter.link.ids cimport connection_key, request_key
from zerospan.exporter.link.requests cimport Requests
from zerospan.exporter.metrics.routes cimport Routes
from zerospan.exporter.proto.base cimport (
    MT_INTERIM, MT_ONEWAY, MT_REQUEST, MT_RESPONSE, MT_UPGRADE, NOT_MINE, PAIR_IN_ORDER, ParseArgs, Parsed,
    parsed_init,
)
from zerospan.exporter.proto.registry cimport proto_detect
from zerospan.exporter.proto.stream cimport (
    Stream, message_fn, stream_begin_run, stream_end_run, stream_feed, stream_keep, stream_pass_to,
)
from zerospan.exporter.selfmon.counters cimport (
    N_BAD_RECORD, N_DROP_OWN, N_DROP_UNFINISHED, N_GAPS, N_INTERIM, N_ONEWAY, N_OWN_FLOWS, N_PARSE_ERRORS,
    N_RECORDS, N_RESETS, N_UNANNOUNCED, N_UNCAPTURED, N_UNKNOWN_PROTOCOL, N_UPGRADED,
)

cdef enum:
    MAX_TRIES = 6            # runs in which no parser recognised anything
    MAX_ERRORS = 8           # runs in a row that the parser refused: the guess was wrong after all
    LINGER_NS = 1000000000   # so long after its end a connection's last answer may still be read
    IDLE_END_NS = 1000000000 # a chunked answer whose end was not captured has ended when nothing came for so long
    IDLE_HEAD_NS = 2000000000
    QUIET_NS = 1000000000    # a connection that was silent for so long has nothing under way
    DATAGRAM_TIMEOUT_NS = 10000000000


@cython.no_gc_clear
cdef class Flows(Exchanges):
    """max_connections, max_open_bytes, timeout_s: configuration `assemble`; hold_s, max_hold_s: `link`."""

    def __cinit__(self, Requests requests, Causes causes, Hold hold, Processes processes, Routes routes, Points points,
                  uint64_t max_connections=131072, uint64_t max_open_bytes=32 << 20, double timeout_s=60.0,
                  double hold_s=2.0, double max_hold_s=30.0, bint mask=True, uint32_t self_tgid=0):
        self.requests = requests
        self.ends = Ends()
        self.causes = causes
        self.hold = hold
        self.processes = processes
        self.routes = routes
        self.points = points
        points.tally = self.counts
        self.limit = max_connections
        self.open_limit = max_open_bytes
        self.timeout_ns = <uint64_t>(timeout_s * 1e9)
        self.hold_ns = <uint64_t>(hold_s * 1e9)
        self.max_hold_ns = <uint64_t>(max_hold_s * 1e9)
        self.mask_text = mask
        self.self_tgid = self_tgid

    cdef int handle(self, const uint8_t *record, uint32_t size) except -1 nogil:
        cdef const zs_hdr *h = <const zs_hdr *>record
        cdef uint32_t head
        self.counts[N_RECORDS] += 1
        if size < sizeof(zs_hdr) or h.size > size:
            self.counts[N_BAD_RECORD] += 1
            return 0
        if h.kind == ZS_MSG:
            head = sizeof(zs_msg)
        elif h.kind == ZS_CONN:
            head = sizeof(zs_conn)
        elif h.kind == ZS_CLOSE:
            head = sizeof(zs_close)
        elif h.kind == ZS_CONNECT:
            head = sizeof(zs_connect)
        elif h.kind == ZS_PROGRESS:
            head = sizeof(zs_progress)
        elif h.kind == ZS_DGRAM:
            head = sizeof(zs_dgram)
        elif h.kind == ZS_NIC:
            head = sizeof(zs_nic)
        else:
            self.counts[N_BAD_RECORD] += 1
            return 0
        if h.size < head or h.payload_len > h.size - head:
            self.counts[N_BAD_RECORD] += 1
            return 0
        if h.kind == ZS_MSG:
            return self.on_msg(<const zs_msg *>record, record + head)
        if h.kind == ZS_CONN:
            return self.on_conn(<const zs_conn *>record)
        if h.kind == ZS_CLOSE:
            return self.on_close(<const zs_close *>record)
        if h.kind == ZS_CONNECT:
            return self.on_connect(<const zs_connect *>record)
        if h.kind == ZS_PROGRESS:
            return self.on_progress(<const zs_progress *>record)
        if h.kind == ZS_NIC:
            return self.points.on_nic(<const zs_nic *>record)
        return self.on_dgram(<const zs_dgram *>record, record + head)

    cdef int on_conn(self, const zs_conn *ev) except -1 nogil:
        cdef Flow *f = self.find(ev.conn_id)
        cdef uint64_t key = 0
        if ev.role:
            key = connection_key(ev.isn_connecting, ev.isn_accepting)
        if ev.tgid == self.self_tgid:
            if key:
                self.own_keys[self.n_own % OWN_KEYS] = key
                self.n_own += 1
                self.counts[N_OWN_FLOWS] += 1
            if f != NULL:
                self.abandon(f, N_DROP_OWN)
                self.drop(f)
            return 0
        if f == NULL:
            f = self.make(ev.conn_id)
            if f == NULL:
                return 0
        if ev.role:
            # Until the counters tell, each message is announced: what was guessed meanwhile stands until then.
            if f.role and f.role != ev.role and f.run:
                self.now.time_ns = ev.time_ns
                self.afresh(f)
            f.key = key
            f.role = ev.role
        f.family = ev.family
        f.transport = ev.protocol
        f.netns = ev.netns
        f.local_port = ev.local_port
        f.remote_port = ev.remote_port
        memcpy(f.local_addr, ev.local_addr, 16)
        memcpy(f.remote_addr, ev.remote_addr, 16)
        f.last_ns = ev.time_ns
        if key:
            self.ends.put(key, END_CLIENT if ev.role == ZS_ROLE_CONNECTING else END_SERVER, f.family, f.local_addr, f.local_port)
        self.proc_of(f, ev.tgid, ev.comm, ev.cgroup_id)
        if key and self.n_own and self.is_own(key):
            f.dead = 1
        else:
            self.peers.notice(f.family, f.remote_addr, f.remote_port, f.transport, f.role == ZS_ROLE_CONNECTING)
        return 0

    cdef int on_connect(self, const zs_connect *ev) except -1 nogil:
        """nginx and HAProxy ask for an upstream connection while they handle the request that it is for."""
        cdef uint32_t proc = self.processes.cached(ev.tgid, NULL)
        cdef Profile p
        cdef Flow *f
        if proc == 0:
            return 0
        p = self.profile(proc)
        if not p.is_nginx and not p.order:
            return 0
        if self.find(ev.conn_id) != NULL:
            return 0
        f = self.make(ev.conn_id)
        if f == NULL:
            return 0
        f.connects = 1
        f.last_ns = ev.time_ns
        f.bound = self.causes.connecting(p, ev.tgid, ev.tid, ev.time_ns)
        if f.bound and self.requests.ref(f.bound) == NULL:
            f.bound = 0
        self.wait(f)   # nothing tells that it failed
        return 0

    cdef void args(self, Flow *f, ParseArgs *a, bint from_client) noexcept nogil:
        memset(a, 0, sizeof(ParseArgs))
        a.from_client = from_client
        a.server_port = f.remote_port if f.role == ZS_ROLE_CONNECTING else f.local_port
        a.state = &f.state
        a.open_bodiless = f.head.bodiless if f.head != NULL else 0
        self.parsing = a

    cdef int on_msg(self, const zs_msg *ev, const uint8_t *payload) except -1 nogil:
        cdef Flow *f = self.find(ev.conn_id)
        cdef Stream *s
        cdef ParseArgs a
        cdef bint sent = ev.hdr.dir == ZS_SEND, from_client
        cdef bint cut = (ev.hdr.flags & ZS_F_CUT) != 0
        cdef int outcome
        if f == NULL or not f.transport:
            self.counts[N_UNANNOUNCED] += 1
            return 0
        f.last_ns = ev.time_ns
        if f.dead:
            return 0
        if not f.role:
            # The counters could not tell who connected: servers have the lower port.
            f.role = ZS_ROLE_ACCEPTING if f.local_port < f.remote_port else ZS_ROLE_CONNECTING
        from_client = sent == (f.role == ZS_ROLE_CONNECTING)
        if from_client and f.key:
            self.requests.prefetch(request_key(f.key, ev.seq))   # the other end may have told of it; parsing comes first
        self.flow = f
        self.now.time_ns = ev.time_ns
        self.now.tid = ev.tid
        self.now.tgid = ev.tgid
        self.now.proc = self.proc_of(f, ev.tgid, NULL, 0)
        self.now.sent = sent
        self.now.from_client = from_client
        if ev.run != f.run:
            self.turn(f, ev, from_client)
            if f.dead:
                return 0
            if f.suspect and from_client and f.ops != NULL:
                self.args(f, &a, True)
                a.data = payload
                a.n = ev.hdr.payload_len
                if f.ops.sniff(&a) >= 2:
                    f.streams[1].skip = 0
                f.suspect = 0
        f.tid = ev.tid
        f.run_seq = ev.seq - ev.run_off
        s = &f.streams[from_client]
        if s.n == 0:
            f.head_ns = ev.time_ns
        self.args(f, &a, from_client)
        if ev.run_off != s.pos + s.n and f.ops == NULL:
            s.n = 0
            s.lost = 1   # a hole before these bytes: they are not the beginning of anything
        if f.ops == NULL and self.detect(f, &a, payload, ev.hdr.payload_len, cut) == 0:
            if ev.len > ev.hdr.payload_len and s.n == 0:
                s.lost = 1
            s.pos = ev.run_off + ev.len - s.n
            return 0
        outcome = stream_feed(s, f.ops, &a, payload, ev.hdr.payload_len, ev.len, ev.run_off, cut, <message_fn>on_message,
                              <void *>self)
        if f.dead:
            return 0
        if outcome == NOT_MINE:
            self.refused(f)
        if s.lost:
            self.counts[N_UNCAPTURED] += 1
        if f.unsure:
            self.unseen(f, ev.time_ns)
        elif not from_client and s.n and f.head != NULL and f.ops.pairing == PAIR_IN_ORDER and not f.overdue:
            self.answering(f.head, False)   # its head is not all there yet
        if from_client and not sent and ev.run_off and f.tail != NULL:
            self.more_request(f)
        if not from_client and f.passing != NULL:
            span_of(f.passing).end_ns = ev.time_ns
            if ev.run_off and not sent:
                self.more_answer(f)
            if f.streams[0].skip == 0 and f.streams[0].n == 0:
                self.answered(f, f.passing, ev.time_ns)
        return 0

    cdef int turn(self, Flow *f, const zs_msg *ev, bint from_client) except -1 nogil:
        """The other side has begun to speak: what ended, and what was missed."""
        cdef Stream *before = &f.streams[f.from_client]
        cdef Now was = self.now
        cdef uint64_t end = ev.prev_end_ns if ev.prev_end_ns else ev.time_ns
        cdef bint missed = f.run != 0 and (ev.run != f.run + 1 or ev.run_off != 0)
        cdef bint in_order = f.ops != NULL and f.ops.pairing == PAIR_IN_ORDER
        cdef bint doubt
        self.end_run(f, end)
        self.now = was
        if f.run and not missed:
            stream_pass_to(before, ev.prev_len)
        if f.run and f.from_client:
            f.partial = 0
            if in_order and f.proven and f.errors == 0:
                f.partial = PARTIAL_LOST if before.lost else PARTIAL_CUT if before.skip < 0 else 0
        if f.passing != NULL:
            self.answered(f, f.passing, span_of(f.passing).end_ns if missed else end)
        self.counts[N_GAPS] += f.run != 0 and (missed or (ev.hdr.flags & ZS_F_GAP) != 0)
        # Answers were not captured: pipelined beyond the capture, or lost. A client that waits for its answers has
        # had them all when it speaks again; with one that does not, nobody knows which answer is the next.
        doubt = missed or (from_client and (f.streams[0].lost or f.streams[0].skip < 0))
        if from_client and f.run and not missed:
            if f.partial == PARTIAL_LOST and not f.streams[0].lost and not f.stray:
                f.overlaps = 1   # requests that were not captured have had no answer
            elif in_order and f.head != NULL and not doubt and f.streams[1].skip <= 0 and not f.streams[1].keep:
                f.overlaps = 1
            doubt = doubt or f.partial == PARTIAL_LOST or (f.partial and f.overlaps)
            if f.unsure and ev.time_ns > end + QUIET_NS:
                f.unsure = 0     # nothing was said for long: whatever was sent has been answered
        if doubt:
            self.unseen(f, end)
            f.overdue = 0
            f.unsure = f.overlaps
        f.stray = 0
        f.run = ev.run
        f.from_client = from_client
        if missed:
            f.streams[0].skip = 0
            f.streams[1].skip = 0
        stream_begin_run(&f.streams[from_client], ev.run)
        return 0

    cdef int end_run(self, Flow *f, uint64_t now) except -1 nogil:
        """No more of the current run will be captured: a head that is kept is read as it is."""
        cdef Stream *s = &f.streams[f.from_client]
        cdef ParseArgs a
        cdef int outcome
        self.flow = f
        self.now.time_ns = now
        self.now.proc = f.proc
        self.now.tgid = f.tgid
        self.now.tid = f.tid
        self.now.from_client = f.from_client
        self.now.sent = f.from_client == (f.role == ZS_ROLE_CONNECTING)
        if f.dead or f.ops == NULL or s.n == 0:
            return 0
        self.args(f, &a, f.from_client)
        self.late = True
        outcome = stream_end_run(s, f.ops, &a, <message_fn>on_message, <void *>self)
        self.late = False
        if outcome == NOT_MINE and not f.dead:
            self.refused(f)
        return 0

    cdef int detect(self, Flow *f, ParseArgs *a, const uint8_t *payload, uint32_t n, bint cut) except -1 nogil:
        """1 if a parser owns the connection now."""
        cdef Stream *s = &f.streams[a.from_client]
        cdef bint more = False
        cdef uint32_t held = s.n
        if n == 0 or s.lost:
            return 0
        if held:
            if stream_keep(s, payload, n) < 0:
                s.n = 0
                s.lost = 1
                return 0
            a.data = s.buf
            a.n = s.n
        else:
            a.data = payload
            a.n = n
        a.last = cut
        f.ops = proto_detect(a, False, f.refused, &more)
        if f.ops != NULL:
            s.n = held
            s.skip = 0
            return 1
        if more and not cut:
            if not held:
                stream_keep(s, payload, n)
            return 0
        s.n = 0
        s.lost = 1
        f.tries += 1
        if f.tries >= MAX_TRIES:
            f.dead = 1
            self.counts[N_UNKNOWN_PROTOCOL] += 1
        return 0

    cdef int refused(self, Flow *f) except -1 nogil:
        """The parser said that these bytes are not its protocol."""
        self.counts[N_PARSE_ERRORS] += f.proven
        f.errors += 1
        if f.proven and f.errors < MAX_ERRORS:
            return 0
        f.refused |= 1u << f.ops.id
        f.tries += 1
        return self.afresh(f)

    cdef int afresh(self, Flow *f) except -1 nogil:
        cdef int i
        self.unseen(f, self.now.time_ns)
        if f.passing != NULL:
            self.answered(f, f.passing, self.now.time_ns)
        if f.ops != NULL and f.state != NULL and f.ops.free_state != NULL:
            f.ops.free_state(f.state)
        f.state = NULL
        f.ops = NULL
        f.proven = 0
        f.errors = 0
        f.overdue = 0
        f.suspect = 0
        f.overlaps = 0
        f.unsure = 0
        for i in range(2):
            f.streams[i].n = 0
            f.streams[i].skip = 0
            f.streams[i].keep = 0
            f.streams[i].lost = 1   # until the next run
        return 0

    cdef int on_progress(self, const zs_progress *ev) except -1 nogil:
        """How far a run came that went on without records (sendfile, a body beyond the capture)."""
        cdef Flow *f = self.find(ev.conn_id)
        cdef Stream *s
        if f == NULL or f.dead or f.run != ev.run:
            return 0
        f.last_ns = ev.time_ns
        s = &f.streams[f.from_client]
        if ev.run_len > s.pos + s.n:
            self.end_run(f, ev.run_end_ns)   # the rest of a head that is kept was not captured: this is all of it
            stream_pass_to(s, ev.run_len)
        self.now.time_ns = ev.time_ns
        if f.from_client or f.passing == NULL:
            return 0
        span_of(f.passing).end_ns = ev.run_end_ns
        if s.skip == 0:
            self.answered(f, f.passing, ev.run_end_ns)
        return 0

    cdef int on_close(self, const zs_close *ev) except -1 nogil:
        cdef Flow *f = self.find(ev.conn_id)
        cdef uint8_t reason
        cdef SpanRec *r
        if f == NULL:
            return 0
        self.end_run(f, ev.end_ns)
        reason = close_reason(ev.error)
        if ev.hdr.flags & ZS_F_GAP or ev.run != f.run:
            reason = REASON_NOT_SEEN
        elif f.run:
            stream_pass_to(&f.streams[f.from_client], ev.run_len)
        if f.passing != NULL:
            r = span_of(f.passing)
            if ev.error and f.streams[0].skip and reason != REASON_NOT_SEEN:
                r.reason = reason   # it broke off
                r.status = SPAN_ERROR
                self.counts[N_RESETS] += 1
            self.answered(f, f.passing, ev.run_end_ns if not f.from_client and ev.run_end_ns else ev.end_ns)
        if f.head == NULL:
            return self.drop(f)
        # TCP may be done with a connection before the process has read what came last: settle() waits a little
        f.closed_ns = ev.end_ns
        f.close_reason = reason
        return 0

    cdef int on_dgram(self, const zs_dgram *ev, const uint8_t *payload) except -1 nogil:
        """One datagram is one message; who is the client is said by the message, not by the socket."""
        cdef Flow *f = self.find(ev.conn_id)
        cdef ParseArgs a
        cdef Parsed m
        cdef bint more = False, sent = ev.hdr.dir == ZS_SEND
        if f == NULL:
            f = self.make(ev.conn_id)
            if f == NULL:
                return 0
            f.transport = 17
            f.netns = ev.netns
            self.proc_of(f, ev.tgid, ev.comm, ev.cgroup_id)
        self.peers.notice(ev.family, ev.remote_addr, ev.remote_port, 17, False)     # a server's socket has many
        f.last_ns = ev.time_ns
        f.family = ev.family                     # a socket of IPv6 speaks both
        f.local_port = ev.local_port
        memcpy(f.local_addr, ev.local_addr, 16)
        f.remote_port = ev.remote_port
        memcpy(f.remote_addr, ev.remote_addr, 16)
        self.flow = f
        self.now.time_ns = ev.time_ns
        self.now.tid = ev.tid
        self.now.tgid = ev.tgid
        self.now.proc = self.proc_of(f, ev.tgid, NULL, 0)
        self.now.sent = sent
        f.head_ns = ev.time_ns
        f.run_seq = 0
        self.args(f, &a, sent)
        a.data = payload
        a.n = ev.hdr.payload_len
        a.last = True
        a.datagram = True
        if f.ops == NULL:
            f.ops = proto_detect(&a, True, 0, &more)
        if f.ops != NULL:
            parsed_init(&m)
            if f.ops.parse(&a, &m) == 1:
                # a request comes from the client's side, an answer from the server's
                f.role = ZS_ROLE_CONNECTING if sent == (m.type != MT_RESPONSE) else ZS_ROLE_ACCEPTING
                self.now.from_client = m.type != MT_RESPONSE
                on_message(self, &m, 0)
                if f.passing != NULL:
                    self.answered(f, f.passing, ev.time_ns)
        if f.head == NULL and f.passing == NULL:
            self.drop(f)
        return 0

    cdef void lossy(self, uint64_t now) noexcept nogil:
        self.loss_ns = now
        self.requests.doubt()

    cdef int settle(self, uint64_t now) except -1 nogil:
        cdef Flow *f = self.waiting
        cdef Flow *next_flow
        cdef SpanRec *r
        cdef ParseArgs a
        cdef uint64_t timeout
        while f != NULL:
            next_flow = f.next_waiting
            self.now.time_ns = now
            if f.streams[0].n and f.head != NULL and f.ops != NULL and now > f.last_ns + IDLE_HEAD_NS:
                # a head whose parser waits for the end of its body (chunks): tell it as it is
                self.flow = f
                self.now.proc = f.proc
                self.now.tgid = f.tgid
                self.now.from_client = 0
                self.now.sent = f.role != ZS_ROLE_CONNECTING
                self.args(f, &a, False)
                stream_end_run(&f.streams[0], f.ops, &a, <message_fn>on_message, <void *>self)
                if f.passing != NULL:
                    span_of(f.passing).end_ns = f.last_ns
            if f.passing != NULL:
                r = span_of(f.passing)
                if (f.streams[0].skip <= 0 and not f.passing.ends_itself and now > r.end_ns + IDLE_END_NS) \
                        or now > r.end_ns + self.timeout_ns:
                    self.answered(f, f.passing, r.end_ns)
            timeout = DATAGRAM_TIMEOUT_NS if f.transport == 17 and DATAGRAM_TIMEOUT_NS < self.timeout_ns \
                else self.timeout_ns
            while f.head != NULL and now > span_of(f.head).start_ns + timeout:
                self.unanswered(f, f.head, REASON_NOT_SEEN if self.loss_ns >= span_of(f.head).start_ns
                                else REASON_TIMEOUT, now)
                f.overdue += 1
            if f.closed_ns and now > f.closed_ns + LINGER_NS:
                while f.head != NULL:
                    self.unanswered(f, f.head, f.close_reason, f.closed_ns)
            if f.bound and now > f.last_ns + self.timeout_ns:
                self.requests.unref(f.bound)
                f.bound = 0
            if f.head == NULL and f.passing == NULL:
                if f.closed_ns or f.transport == 17 or (not f.transport and now > f.last_ns + self.timeout_ns):
                    self.drop(f)
                elif f.transport and not f.bound:
                    self.unwait(f)
            f = next_flow
        self.points.settle(now)
        return 0

    cdef int finish(self, uint64_t now) except -1 nogil:
        cdef Flow *f = self.waiting
        cdef Flow *next_flow
        while f != NULL:
            next_flow = f.next_waiting
            self.now.time_ns = now
            if f.passing != NULL:
                self.answered(f, f.passing, span_of(f.passing).end_ns)
            if f.head != NULL:
                self.abandon(f, N_DROP_UNFINISHED)
            if f.bound:
                self.requests.unref(f.bound)
                f.bound = 0
            self.unwait(f)
            f = next_flow
        self.points.finish(now)
        return 0


cdef int on_message(Flows self, const Parsed *m, uint64_t at) except -1 nogil:
    """What a parser understood, in the order of the bytes. Called as a message_fn: self is borrowed."""
    cdef Flow *f = self.flow
    if f.dead:
        return 0
    f.proven = 1
    f.errors = 0
    if m.type == MT_REQUEST:
        self.request(f, m, at)
    elif m.type == MT_RESPONSE:
        self.response(f, m, False)
    elif m.type == MT_INTERIM:
        self.counts[N_INTERIM] += 1
        if m.code == 100:
            f.streams[1].keep = 1
    elif m.type == MT_ONEWAY:
        self.counts[N_ONEWAY] += 1
    elif m.type == MT_UPGRADE:
        if f.head != NULL:
            self.response(f, m, True)
        if f.passing != NULL:
            self.answered(f, f.passing, self.now.time_ns)
        self.counts[N_UPGRADED] += 1
        f.dead = 1
    # the next message of the same bytes may answer another request
    self.parsing.open_bodiless = f.head.bodiless if f.head != NULL else 0
    return 0
