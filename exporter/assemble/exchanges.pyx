# cython: language_level=3, boundscheck=True, wraparound=False
"""Requests and their answers on one connection; see exchanges.pxd.

A request opens (request), its answer completes it (response), the answer's last byte finishes it (answered), or there is
none (unanswered): then a SpanRec goes into the hold (release). The link stage is told of each in the order in which it happened.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy

from zerospan.exporter.abi.events cimport ZS_ROLE_CONNECTING
from zerospan.exporter.assemble.operations cimport (
    copy_span, describe_answer, match_open, new_open, route_of, span_of, span_size,
)
from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport (
    KIND_CLIENT, KIND_SERVER, LINK_REQUEST_ID, LINK_TRACEPARENT, REASON_CLOSED, REASON_NOT_SEEN, REASON_TIMEOUT,
    SPAN_ERROR, EndAddress, SpanRec,
)
from zerospan.exporter.assemble.table cimport Flow, FlowTable, Open
from zerospan.exporter.link.cause cimport Profile
from zerospan.exporter.link.context cimport CTX_SERVING, context_read
from zerospan.exporter.link.ends cimport END_CLIENT, END_SERVER
from zerospan.exporter.link.ids cimport hash64, hash_bytes, request_key
from zerospan.exporter.link.requests cimport Request
from zerospan.exporter.link.shared_codec cimport of_an_agent
from zerospan.exporter.proto.base cimport PAIR_BY_ID, PROTO_REDIS, WIRE_NONE, Parsed
from zerospan.exporter.proto.cursor cimport Slice, slice_of
from zerospan.exporter.selfmon.counters cimport (
    N_CLOSED_EARLY, N_DROP_OPEN_FULL, N_DROP_OWN, N_NOT_SEEN, N_ORPHANS, N_OWN_FLOWS, N_REQUESTS, N_RESETS, N_RESPONSES,
    N_RETRANSMITTED, N_SEEN, N_SELFTEST_ANSWERED, N_TIMEOUTS,
)


@cython.no_gc_clear
cdef class Exchanges(FlowTable):
    cdef int request(self, Flow *f, const Parsed *m, uint64_t at) except -1 nogil:
        cdef Open *o
        cdef SpanRec *r
        cdef Request *known
        cdef Proc *proc = &self.processes.procs[self.now.proc]
        cdef Profile p
        cdef uint64_t by_wire = 0, by_request_id = 0, cause = 0
        cdef uint8_t method = 0
        cdef bint brought = False
        self.counts[N_REQUESTS] += 1
        if f.ops.id == PROTO_REDIS and of_an_agent(m.target):
            f.dead = 1                           # the agent of another host, at the store that this one has
            self.counts[N_OWN_FLOWS] += 1
            return self.abandon(f, N_DROP_OWN)
        if f.transport == 17 and self.sent_again(f, m):
            self.counts[N_RETRANSMITTED] += 1
            return 0
        self.counts[N_SEEN] += 1
        o = new_open(f, m, &self.now, self.mask_text,
                     self.open_limit - self.open_bytes if self.open_limit > self.open_bytes else 0)
        if o == NULL:
            self.counts[N_DROP_OPEN_FULL] += 1
            return 0
        self.open_bytes += o.nbytes
        self.open_requests += 1
        r = span_of(o)
        r.start_ns = f.head_ns
        f.head_ns = self.now.time_ns
        if f.transport == 17:
            # the server learns the client's port only when it answers: its key is made then
            r.key = hash64(hash64(m.id, o.name_hash), r.local_port) if r.kind == KIND_CLIENT else 0
        else:
            o.seq = f.run_seq + <uint32_t>at
            r.key = request_key(f.key if f.key else hash64(f.conn_id, 0), o.seq)
        if f.tail == NULL:
            f.head = o
        else:
            f.tail.next = o
        f.tail = o
        self.wait(f)
        if r.key == 0:
            return 0
        known = self.requests.find(r.key)
        if known != NULL and (known.client_proc if r.kind == KIND_CLIENT else known.server_proc):
            r.key = hash64(r.key, r.start_ns)   # a DNS id that is used again: another request all the same
        known = self.requests.ref(r.key)
        if known != NULL:
            o.told = 1
            if r.kind == KIND_CLIENT:
                known.client_proc = self.now.proc
            else:
                known.server_proc = self.now.proc
            if self.shared is not None:
                self.share(f, r)
        p = self.profile(self.now.proc)
        p.fresh = f.run == 1 if r.kind == KIND_SERVER else f.connects
        f.connects = 0
        if m.wire != WIRE_NONE:
            by_wire = hash64(hash_bytes(m.trace_id, 16, self.now.tgid), hash_bytes(m.parent_id, 8, 0))
            brought = r.kind == KIND_CLIENT and self.causes.id_slot(by_wire, False, 0) != NULL
            proc.begins_traces |= r.kind == KIND_CLIENT and not brought
        if known != NULL and (m.wire != WIRE_NONE or m.unsampled):
            context_read(self.requests, known, m, brought)
        if m.request_id.n:
            by_request_id = hash_bytes(m.request_id.p, m.request_id.n, self.now.tgid)
        if r.kind == KIND_SERVER:
            if f.head != o and f.ops.pairing != PAIR_BY_ID:
                o.queued = not self.late
            elif not self.late:
                self.serve(f, o)
            if by_wire:
                self.causes.id_in(by_wire, r.key, self.now.time_ns)
                o.wire_hash = by_wire
            if by_request_id:
                self.causes.id_in(by_request_id, r.key, self.now.time_ns)
                o.id_hash = by_request_id
            return 0
        if self.late:
            # what its thread was about when it was sent is not known any more
            self.requests.unref(f.bound)
            f.bound = 0
            return 0
        if by_wire:
            cause = self.causes.id_out(by_wire, r.key, False, self.now.time_ns)
            method = LINK_TRACEPARENT + m.wire - 1
        if cause == 0 and by_request_id:
            cause = self.causes.id_out(by_request_id, r.key, True, self.now.time_ns)
            method = LINK_REQUEST_ID
        self.causes.outbound(p, self.now.tgid, self.now.tid, r.key, cause, method, f.bound, proc.open,
                             self.now.time_ns)
        if f.bound:
            self.requests.unref(f.bound)
            f.bound = 0
        return 0

    cdef int response(self, Flow *f, const Parsed *m, bint upgrade) except -1 nogil:
        cdef Open *o
        cdef SpanRec *r
        cdef Request *known
        self.counts[N_RESPONSES] += 1
        if f.passing != NULL:
            self.answered(f, f.passing, self.now.time_ns)
            if f.dead:
                return 0   # the agent's own, as it turns out
        o = match_open(f, m)
        if f.unsure or (f.overdue and f.ops.pairing != PAIR_BY_ID):
            o = NULL
            if f.overdue:
                f.overdue -= 1
        if o == NULL:
            self.counts[N_ORPHANS] += 1
            self.stray(f)
            return 0
        self.take(f, o)
        f.passing = o
        self.wait(f)
        r = span_of(o)
        r.first_ns = f.head_ns
        r.end_ns = self.now.time_ns
        f.head_ns = self.now.time_ns
        describe_answer(o, m, self.mask_text)
        if f.transport == 17 and r.kind == KIND_SERVER:
            r.family = f.family
            r.remote_port = f.remote_port
            memcpy(r.remote_addr, f.remote_addr, 16)
            r.key = hash64(hash64(m.id, o.name_hash), f.remote_port)
            known = self.requests.find(r.key)
            if known != NULL and known.server_proc:
                r.key = hash64(r.key, r.start_ns)   # asked again, and answered again
            known = self.requests.ref(r.key)
            if known != NULL:
                o.told = 1
                known.server_proc = r.proc
                if self.shared is not None:
                    self.share(f, r)
            return 0
        if self.points.active:
            self.points.sequences.put(o.seq, f.run_seq, r.key)
        if r.kind == KIND_SERVER:
            if m.request_id.n and not self.late:
                self.causes.answer_names(hash_bytes(m.request_id.p, m.request_id.n, self.now.tgid), r.key)
            self.answering(o, m.total >= 0)
            self.served(o, False)
        else:
            if m.request_id.n and not self.late:
                self.causes.id_back(hash_bytes(m.request_id.p, m.request_id.n, self.now.tgid), r.key, self.now.time_ns)
            self.answering(o, True)
        if not upgrade and f.streams[1].skip > 0:
            f.suspect = 1
        return 0

    cdef void share(self, Flow *f, const SpanRec *r) noexcept nogil:
        self.shared.seen(r.key, r.kind == KIND_CLIENT, r.proc, f.family, f.local_addr, f.local_port, f.remote_addr, f.transport == 17,
                         f.key != 0 or f.transport == 17)

    cdef Profile profile(self, uint32_t proc) noexcept nogil:
        cdef Profile p
        p.is_nginx = self.processes.procs[proc].is_nginx
        p.is_loop = self.processes.procs[proc].is_loop
        p.order = self.processes.procs[proc].order
        p.fresh = 0
        return p

    cdef bint sent_again(self, Flow *f, const Parsed *m) noexcept nogil:
        """A resolver asks once more because no answer came (RFC 1035 section 4.2.1): one request. On a server's socket two
        clients may ask with the same id; they are told apart if the peer is known."""
        cdef Open *o = match_open(f, m)
        cdef SpanRec *r
        if o == NULL:
            return False
        r = span_of(o)
        return self.now.sent if r.kind == KIND_CLIENT else (
            not self.now.sent and f.remote_port != 0 and r.remote_port == f.remote_port
            and memcmp(r.remote_addr, f.remote_addr, 16) == 0)

    cdef void stray(self, Flow *f) noexcept nogil:
        """An answer whose request was not seen: what its thread did before was about that request."""
        f.stray = 1
        if f.transport != 17:
            self.causes.stray(self.profile(self.now.proc), self.now.tgid, self.now.tid, self.now.sent, self.now.time_ns)

    cdef void more_request(self, Flow *f) noexcept nogil:
        """A request goes on (its body): whatever nginx does next is about it."""
        cdef SpanRec *r = span_of(f.tail)
        if self.processes.procs[r.proc].is_nginx:
            self.causes.resumed(self.now.tgid, self.now.tid, r.key, self.now.time_ns)

    cdef void more_answer(self, Flow *f) noexcept nogil:
        """The answer of a call goes on: whatever nginx does next is about that request."""
        cdef SpanRec *r = span_of(f.passing)
        cdef Profile p = self.profile(r.proc)
        if p.is_nginx and r.kind == KIND_CLIENT:
            self.causes.answer_in(p, self.now.tgid, self.now.tid, r.key, self.now.time_ns)

    cdef Open *take(self, Flow *f, Open *o) noexcept nogil:
        """Out of the list of open requests."""
        cdef Open *before = NULL
        cdef Open *at = f.head
        while at != NULL and at != o:
            before = at
            at = at.next
        if at == NULL:
            return NULL
        if before == NULL:
            f.head = o.next
        else:
            before.next = o.next
        if f.tail == o:
            f.tail = before
        o.next = NULL
        return o

    cdef int answered(self, Flow *f, Open *o, uint64_t end_ns) except -1 nogil:
        """The whole answer has passed."""
        cdef SpanRec *r = span_of(o)
        r.end_ns = end_ns if end_ns > r.start_ns else r.start_ns
        f.passing = NULL
        self.counts[N_SELFTEST_ANSWERED] += self.processes.procs[r.proc].hidden
        if r.kind == KIND_SERVER and r.key:
            self.causes.gone(o.answer_tid, r.key, True, False)
        self.serve_next(f)
        return self.release(f, o)

    cdef void serve(self, Flow *f, Open *o) noexcept nogil:
        """A request that was read is what its thread is about."""
        cdef SpanRec *r = span_of(o)
        cdef Request *known = self.requests.find(r.key)
        cdef Proc *proc = &self.processes.procs[r.proc]
        o.queued = 0
        o.serving = 1
        proc.open += 1
        if known != NULL:
            known.context |= CTX_SERVING
        self.causes.inbound(self.profile(r.proc), f.tgid, o.read_tid, r.key, self.now.time_ns)

    cdef void serve_next(self, Flow *f) noexcept nogil:
        """The oldest request is answered: the one behind it (pipelined, RFC 9112 section 9.3.2) has its turn. Servers do
        one after the other, since they must answer so."""
        if f.head != NULL and f.head.queued and f.passing == NULL and not f.dead:
            self.serve(f, f.head)

    cdef void answering(self, Open *o, bint ended) noexcept nogil:
        """The first bytes of an answer pass: what their thread has done until now was for it. Nothing is concluded from an
        answer that is understood only later. ended: no calls follow for it."""
        cdef SpanRec *r = span_of(o)
        cdef Proc *proc = &self.processes.procs[r.proc]
        cdef Profile p = self.profile(r.proc)
        if self.late or o.answered:
            return
        o.answered = 1
        if r.kind == KIND_CLIENT:
            self.causes.answer_in(p, self.now.tgid, self.now.tid, r.key, self.now.time_ns)
        elif o.serving:
            o.serving = 0
            if proc.open:
                proc.open -= 1
            o.answer_tid = self.now.tid
            self.causes.answer_out(p, self.now.tgid, self.now.tid, o.read_tid, r.key, r.start_ns, ended, self.now.time_ns)
        else:
            self.causes.stray(p, self.now.tgid, self.now.tid, True, self.now.time_ns)

    cdef void served(self, Open *o, bint doubt) noexcept nogil:
        """A request that was read is no longer open: its answer has begun, or will not be seen. doubt: it was written some
        time ago, and its thread may have been about other things since."""
        cdef SpanRec *r = span_of(o)
        cdef Request *known
        cdef Proc *proc = &self.processes.procs[r.proc]
        if o.serving:
            o.serving = 0
            if proc.open:
                proc.open -= 1
            self.causes.gone(o.read_tid, r.key, False, doubt)
        if r.kind == KIND_SERVER and o.told:
            known = self.requests.find(r.key)
            if known != NULL:
                known.context &= ~<uint8_t>CTX_SERVING
        if o.id_hash:
            self.causes.forget_id(o.id_hash, r.key)
        if o.wire_hash:
            self.causes.forget_id(o.wire_hash, r.key)
        o.id_hash = 0
        o.wire_hash = 0

    cdef int unanswered(self, Flow *f, Open *o, uint8_t reason, uint64_t end_ns) except -1 nogil:
        """There will be no answer, or it went by unseen."""
        cdef SpanRec *r = span_of(o)
        self.take(f, o)
        self.served(o, reason == REASON_NOT_SEEN)
        if o.answer_tid:
            self.causes.gone(o.answer_tid, r.key, True, False)
        r.end_ns = end_ns if end_ns > r.start_ns else r.start_ns
        r.reason = reason
        if reason == REASON_NOT_SEEN:
            self.counts[N_NOT_SEEN] += 1
        else:
            r.status = SPAN_ERROR
            if reason == REASON_TIMEOUT:
                self.counts[N_TIMEOUTS] += 1
            elif reason == REASON_CLOSED:
                self.counts[N_CLOSED_EARLY] += 1
            else:
                self.counts[N_RESETS] += 1
        if r.key == 0:
            r.key = hash64(f.conn_id, r.start_ns)
        self.serve_next(f)
        return self.release(f, o)

    cdef int unseen(self, Flow *f, uint64_t end_ns) except -1 nogil:
        """The answers of all that is open went by uncaptured."""
        while f.head != NULL:
            self.unanswered(f, f.head, REASON_NOT_SEEN, end_ns)
        return 0

    cdef int abandon(self, Flow *f, int counter) except -1 nogil:
        cdef Open *o
        while f.head != NULL or f.passing != NULL:
            o = f.head
            if o != NULL:
                self.take(f, o)
            else:
                o = f.passing
                f.passing = NULL
            self.served(o, False)
            self.counts[counter] += 1
            self.forget(o)
        self.unwait(f)
        return 0

    cdef Slice peer_of(self, Flow *f) noexcept nogil:
        cdef const EndAddress *other
        if f.peer_asked < 2 and f.key:
            # the other end was seen before the first request was finished, or is not on this host
            f.peer_asked += 1
            other = self.ends.find(f.key, END_SERVER if f.role == ZS_ROLE_CONNECTING else END_CLIENT)
            if other != NULL:
                f.peer_asked = 2
                if other.port != f.remote_port or memcmp(other.addr, f.remote_addr, 16):
                    f.peer = other[0]
        return slice_of(<const uint8_t *>&f.peer, sizeof(EndAddress) if f.peer.family else 0)

    cdef int release(self, Flow *f, Open *o) except -1 nogil:
        """The finished span goes to the hold; the open request is forgotten."""
        cdef SpanRec *r = span_of(o)
        cdef SpanRec *to
        cdef Slice route, peer
        cdef uint32_t size
        if f.checked < 2 and self.n_own:
            f.checked += 1
            if self.is_own(f.key):
                self.counts[N_DROP_OWN] += 1
                f.dead = 1
                self.forget(o)
                return self.abandon(f, N_DROP_OWN)
        route = route_of(o, self.routes, self.processes.procs[r.proc].service)
        peer = self.peer_of(f)
        size = span_size(o, route, peer)
        to = self.hold.push(size, self.now.time_ns + self.hold_ns, self.now.time_ns + self.max_hold_ns)
        if to == NULL:
            self.counts[N_DROP_OPEN_FULL] += 1
        else:
            copy_span(to, o, route, peer, size)
            to.held = o.told
            o.told = 0   # the reference goes with the span
            if self.points.active:
                self.points.process_ended(to)
            if self.shared is not None:
                self.shared.ended(to.key)
        self.forget(o)
        if f.head == NULL and f.passing == NULL and not f.closed_ns:
            self.unwait(f)
        return 0
