# cython: language_level=3, boundscheck=True, wraparound=False
"""The hot path as a whole: source -> flows -> hold -> metrics and encoders. See engine.pxd.

Built by zerospan.exporter.pipeline, which gives it a source and carries its batches to the sinks. `tick` is called every
few milliseconds by one thread; all state belongs to that thread. Time comes in as an argument, so that a replayed
recording runs through the same code at its own pace.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from zerospan.exporter.assemble.interfaces cimport ROLE_POD
from zerospan.exporter.assemble.nic_part cimport NIC_EGRESS, NicPart, nic_part
from zerospan.exporter.assemble.points cimport has_process, point_id, point_of
from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport (
    KIND_CLIENT, KIND_INTERNAL, KIND_SERVER, LINK_DNS_ID, LINK_ISN, LINK_NONE, LINK_TRACEPARENT, STR_PEER, EndAddress,
    SpanContext, SpanRec, span_str,
)
from zerospan.exporter.link.context cimport (
    Name, context_beside, context_cause, context_changed, context_name, context_own, context_parent, sdk_span,
)
from zerospan.exporter.link.ids cimport POINT_CLIENT_NODE, POINT_CLIENT_PROCESS, POINT_GATEWAY_NODE, POINT_SERVER_PROCESS, Point, span_id
from zerospan.exporter.link.requests cimport Request
from zerospan.exporter.selfmon.counters cimport (
    N_DROP_ENCODE, N_DROP_NIC_UNMATCHED, N_DROP_NOT_SAMPLED, N_DROP_SDK_SPAN, N_DROP_SELFTEST, N_HOLD_EARLY, N_HOLD_WAITED,
    N_LINKED, N_MAX, N_PEER_AWAY, N_PEER_UNANSWERED, N_PEER_UNKNOWN, N_RELEASED, N_SEEN, N_TAGS_LATE, N_UNLINKED,
)
from zerospan.exporter.link.sequences cimport Sequences
from zerospan.exporter.link.shared_codec cimport Points as SharedPoints
from zerospan.exporter.proto.cursor cimport Slice
from zerospan.exporter.tags.peer cimport Peer
from zerospan.exporter.tags.table cimport NOT_ANSWERED, NOT_ASKED, NOTHING_KNOWN, PeerTable
from zerospan.exporter.encode.batch import BatchEncoder
from zerospan.exporter.process.network import NETWORK
from zerospan.exporter.selfmon.counters import DROPS, NAMES

cdef enum:
    BATCH_OF_RECORDS = 64    # after so many the ring's space is given back


cdef inline bint same(Slice a, Slice b) noexcept nogil:
    return a.n == b.n and memcmp(a.p, b.p, a.n) == 0


cdef class Engine:
    """source: where records come from. describe: see Processes. signals: of "traces", "logs", "loki", those that a sink takes.

    network: ProcessInfo of spans of network interfaces; points_bytes, hops_bytes: bounds of the tables that these need.

    Sizes in bytes, times in seconds; the meaning of each is that of the configuration key of its name.
    """

    def __init__(self, Source source, describe, *, signals=("traces",), self_tgid=0, mask=True, timeout_s=60.0,
                 max_connections=131072, max_open_bytes=32 << 20, route_limit=200, hold_s=2.0, max_hold_s=30.0,
                 hold_bytes=36 << 20, registry_bytes=48 << 20, red=None, batch_bytes=1 << 20, flush_s=0.5,
                 honour_sampling=True, sdk_client_spans="child", Shared shared=None, network=NETWORK, PeerTable peers=None,
                 points_bytes=32 << 20, hops_bytes=16 << 20):
        self.source = source
        self.requests = Requests(registry_bytes)
        self.requests.changed = context_changed
        self.requests.honour_sampling = honour_sampling
        self.omit_sdk_spans = sdk_client_spans == "omit"
        self.causes = Causes(self.requests)
        self.hold = Hold(hold_bytes)
        self.later = Hold(hold_bytes)
        self.nics = Due(hold_bytes)
        self.processes = Processes(describe)
        self.processes.rest_ns = <uint64_t>(3e9 * max(max_hold_s, 10.0))
        self.routes = Routes(limit=route_limit)
        self.red = Red() if red is None else red
        self.interfaces = Interfaces(keep_s=4 * max_hold_s)
        self.hops = Hops(hops_bytes, max(max_hold_s / 2, 5.0))
        self.points = Points(self.requests, self.nics, self.interfaces, self.hops, Sequences(), points_bytes,
                             hold_s, max_hold_s)
        self.network = network
        self.flows = Flows(self.requests, self.causes, self.hold, self.processes, self.routes, self.points,
                           max_connections=max_connections, max_open_bytes=max_open_bytes, timeout_s=timeout_s,
                           hold_s=hold_s, max_hold_s=max_hold_s, mask=mask, self_tgid=self_tgid)
        self.peers = PeerTable() if peers is None else peers
        self.flows.peers = self.peers
        self.shared = shared
        if shared is not None:
            shared.attach(self.requests, self.processes)
            shared.peers = self.peers
            shared.omit = self.omit_sdk_spans
            shared.hold_ns = <uint64_t>(hold_s * 1e9)
            self.flows.shared = shared
            self.points.shared = shared
            self.points.ends = self.flows.ends
        self.tally = self.flows.counts
        self.want_traces = "traces" in signals
        self.want_logs = "logs" in signals
        self.want_loki = "loki" in signals
        self.traces = BatchEncoder("traces")
        self.logs = BatchEncoder("logs")
        self.loki = BatchEncoder("loki")
        self.recheck_ns = <uint64_t>(min(max(hold_s, 0.001), 0.25) * 1e9)
        self.batch_bytes = batch_bytes
        self.flush_ns = <uint64_t>(flush_s * 1e9)

    def tick(self, uint64_t now, int64_t wall_offset):
        """Handles what there is, lets go what is due. now: CLOCK_MONOTONIC, ns; wall_offset: CLOCK_REALTIME - now.

        Returns the batches that are ready: [(signal, payload, count)].
        """
        cdef int more = 1
        self.wall_offset = <uint64_t>wall_offset
        self.processes.now_ns = now
        if self.interfaces.told:
            self.interfaces.update(now)
            if self.points.proc == 0:
                self.points.proc = self.processes.add(self.network)
        out = []
        self.peers.update(now)
        if self.shared is not None:
            self.shared.turn(now)
        while more:
            with nogil:
                more = self.drain(now)
                self.let_go(now, False)
            if self.full():
                more = 1   # what else is due leaves, too
                self.take(out, self.batch_bytes)
        self.red.tick(now)
        if now - self.flushed_ns >= self.flush_ns:
            self.flushed_ns = now
            self.take(out, 0)
        return out

    def refill(self, info):
        """What is said of a process (ProcessInfo.shared) has changed: so say spans that have not left yet, and all later ones. Between
        two ticks. Returns whether the process is known."""
        cdef uint32_t i
        if info.shared == self.network.shared:
            self.network = info
        i = self.processes.refill(info)
        if i == 0:
            return False
        self.traces.renew(i)
        self.logs.renew(i)
        self.loki.renew(i)
        if info.target_info and not info.hidden:
            self.red.target_info(i, info.series, info.target_info)
        return True

    def forget(self, tgids):
        """These processes have ended. Entries to which nothing refers any more are given to others. Between two ticks."""
        self.processes.forget(tgids)
        if not self.processes.crowded():
            return
        with nogil:
            self.flows.mark()
            self.mark_requests()
            self.processes.mark(self.points.proc)
        for i in self.processes.reclaim():
            self.traces.renew(i)
            self.logs.renew(i)
            self.loki.renew(i)
            self.red.retire(i)

    cdef void mark_requests(self) noexcept nogil:
        """Spans on hold are among these: their request is kept as long."""
        cdef uint64_t i
        cdef Request *r
        for i in range(self.requests.mask + 1):
            r = &self.requests.slots[i]
            if r.key:
                self.processes.mark(r.client_proc)
                self.processes.mark(r.server_proc)
        if self.shared is not None:
            for i in range(self.shared.mask + 1):
                if self.shared.slots[i].key:
                    self.processes.mark(self.shared.slots[i].proc)

    def settle(self, uint64_t now):
        """Time-outs and answers that passed without a record; every half second."""
        with nogil:
            self.flows.settle(now)

    def lossy(self, uint64_t now):
        """The source has lost records until now: a missing answer is no proof of a time-out."""
        self.flows.lossy(now)

    def expire(self, uint64_t now, uint64_t idle_ns):
        """Forgets threads and ids on the wire that were silent for so long; now and then."""
        self.causes.expire(now, idle_ns)

    def finish(self, uint64_t now, int64_t wall_offset):
        """The end: everything leaves, whatever is known of it. Returns the last batches, none larger than usual."""
        out = self.tick(now, wall_offset)
        with nogil:
            self.flows.settle(now)
            self.flows.finish(now)
        while self.hold.spans or self.later.spans or self.nics.spans:
            with nogil:
                self.let_go(now, True)
            self.take(out, self.batch_bytes)
        self.take(out, 0)
        return out

    cdef int take(self, list out, uint64_t least) except -1:
        cdef BatchEncoder batch
        for name, batch in (("traces", self.traces), ("logs", self.logs), ("loki", self.loki)):
            if batch.size < least:
                continue
            taken = batch.take()
            if taken is not None:
                out.append((name, taken[0], taken[1]))
        return 0

    def counts(self):
        """Name -> value of each of the pipeline's counters (selfmon.counters)."""
        cdef int i
        out = {}
        for i in range(N_MAX):
            out[NAMES[i]] = self.flows.counts[i]
        return out

    def ledger(self):
        """seen = released + dropped by reason + in_flight, in spans."""
        counts = self.counts()
        return {
            "seen": counts["seen"],
            "released": counts["released"],
            "dropped": {name: counts[name] for name in DROPS if counts[name]},
            "in_flight": {"open": self.flows.open_requests, "held": self.hold.spans + self.later.spans + self.nics.spans},
        }

    def memory(self):
        """Bytes that the tables hold."""
        return {"registry": self.requests.nbytes(), "processes": self.processes.nbytes, "causes": self.causes.nbytes(),
                **({"shared": self.shared.nbytes()} if self.shared is not None else {}),
                "hold": self.hold.nbytes + self.later.nbytes + self.nics.nbytes, "open": self.flows.open_bytes,
                "ends": self.flows.ends.nbytes(), **({"tags": self.peers.nbytes()} if self.peers.active else {}),
                "points": self.points.nbytes() + self.points.sequences.nbytes(), "hops": self.hops.nbytes()}

    def links(self):
        return {"disagreements": self.causes.disagreements + self.causes.proxies.disagreements,
                "ambiguous": self.causes.ambiguous + self.causes.proxies.ambiguous,
                "proxy_threads_refused": self.causes.proxies.refused,
                "ends_replaced": self.flows.ends.replaced,
                "calls_forgotten": self.causes.calls_forgotten, "ids_refused": self.causes.ids_refused,
                "registry_refused": self.requests.refused,
                "contexts_disputed": self.requests.contexts_disputed, "contexts_late": self.requests.contexts_late,
                "registry_entries": self.requests.n, "threads": self.causes.n, "connections": self.flows.n,
                "connections_at_interfaces": self.points.n, "hops_forgotten": self.hops.forgotten}

    cdef bint full(self) noexcept nogil:
        return (self.traces.size >= self.batch_bytes or self.logs.size >= self.batch_bytes
                or self.loki.size >= self.batch_bytes)

    cdef int drain(self, uint64_t now) except -1 nogil:
        cdef const uint8_t *record
        cdef uint32_t size = 0, n = 0
        cdef Held *held
        while True:
            record = self.source.next(&size)
            if record == NULL:
                self.source.release()
                return 0
            self.flows.handle(record, size)
            self.records += 1
            n += 1
            while self.hold.tight():
                # no more room than for what one record may bring: the oldest leave with what is known
                held = self.hold.peek()
                self.leave(<SpanRec *>(<uint8_t *>held + sizeof(Held)), now, True)
                self.hold.pop()
                self.tally[N_HOLD_EARLY] += 1
            while self.nics.tight():
                held = self.nics.peek()
                self.leave(<SpanRec *>(<uint8_t *>held + sizeof(Held)), now, True)
                self.nics.pop()
                self.tally[N_HOLD_EARLY] += 1
            if n % BATCH_OF_RECORDS == 0:
                self.source.release()
                if self.full():
                    return 1

    cdef int let_go(self, uint64_t now, bint everything) except -1 nogil:
        cdef Held *held
        cdef SpanRec *r
        cdef SpanRec *to
        while not self.full():
            held = self.later.peek()
            if held == NULL or (held.due_ns > now and not everything):
                break
            r = <SpanRec *>(<uint8_t *>held + sizeof(Held))
            if not self.leave(r, now, everything or held.last_ns <= now):
                to = self.later.push(r.size, now + self.recheck_ns, held.last_ns)
                if to != NULL:
                    memcpy(to, r, r.size)
                else:
                    self.leave(r, now, True)
            self.later.pop()
        while not self.full():
            held = self.hold.peek()
            if held == NULL or (held.due_ns > now and not everything):
                break
            self.requests.prefetch(self.hold.coming())
            self.end_hold(held, now, everything)
            self.hold.pop()
        while not self.full():
            held = self.nics.peek()
            if held == NULL or (held.due_ns > now and not everything):
                break
            self.end_hold(held, now, everything)
            self.nics.pop()
        return 0

    cdef void end_hold(self, const Held *held, uint64_t now, bint everything) noexcept nogil:
        cdef SpanRec *r = <SpanRec *>(<uint8_t *>held + sizeof(Held))
        cdef SpanRec *to
        if not self.leave(r, now, everything or held.last_ns <= now):
            to = self.later.push(r.size, now + self.recheck_ns, held.last_ns)
            if to != NULL:
                memcpy(to, r, r.size)
                self.tally[N_HOLD_WAITED] += 1
            else:
                self.leave(r, now, True)

    cdef int leave(self, SpanRec *r, uint64_t now, bint must) noexcept nogil:
        cdef SpanContext c
        cdef Name name
        cdef Request *known = self.requests.find(r.key)
        cdef Proc *me = &self.processes.procs[r.proc]
        cdef const Proc *peer = NULL
        cdef uint64_t cause = 0
        cdef const SharedPoints *theirs
        cdef const EndAddress *told = NULL
        cdef uint32_t i
        cdef bint lost = False, sdk = known != NULL and self.omit_sdk_spans and sdk_span(self.requests, known)
        cdef bint unsampled = False
        if r.kind == KIND_INTERNAL and not has_process(known) and (
                known == NULL or self.shared is None or not self.shared.elsewhere(r.key)):
            self.tally[N_DROP_NIC_UNMATCHED] += 1
            if r.held:
                self.requests.unref(r.key)
            return 1
        memset(&c, 0, sizeof(c))
        c.wall_offset = self.wall_offset
        if not context_name(self.requests, self.processes.procs, r.key, must, &name):
            return 0
        memcpy(c.trace_id, name.trace_id, 16)
        c.trace_flags = name.trace_flags
        unsampled = name.unsampled and self.requests.honour_sampling
        if r.kind == KIND_INTERNAL:
            c.untraced = unsampled
            return self.leave_point(r, &c, known)
        c.span_id = span_id(r.key, POINT_CLIENT_PROCESS if r.kind == KIND_CLIENT else POINT_SERVER_PROCESS)
        if known != NULL:
            if r.kind == KIND_SERVER:
                c.peer_proc = known.client_proc
                if self.shared is not None and known.client_proc == 0:
                    peer = self.shared.other_end(r.key, False)
                    told = self.shared.where(r.key)
                    if peer != NULL:
                        sdk = self.shared.caller_omitted(r.key)     # its agent knows, and may be configured otherwise
                if (known.client_proc or peer != NULL) and not sdk:
                    c.parent_id = span_id(r.key, POINT_CLIENT_PROCESS)
                    c.method = LINK_DNS_ID if r.transport == 17 else LINK_ISN
            else:
                c.peer_proc = known.server_proc
                if self.shared is not None and known.server_proc == 0:
                    peer = self.shared.other_end(r.key, True)
                    told = self.shared.where(r.key)
                    theirs = self.shared.points(r.key)
                    if theirs != NULL and self.hops.active:
                        for i in range(theirs.n):
                            self.hops.put(r.key, theirs.point[i], theirs.ns[i])
                cause = context_cause(self.requests, known)
                if cause:
                    c.parent_id = span_id(cause, POINT_SERVER_PROCESS)
                    c.method = known.cause_method
                else:
                    cause = context_beside(self.requests, known)
                    if cause and not context_name(self.requests, self.processes.procs, cause, must, &name):
                        return 0
                    if cause and not (name.unsampled and self.requests.honour_sampling):
                        c.link_id = span_id(cause, POINT_SERVER_PROCESS)
                        memcpy(c.link_trace, name.trace_id, 16)
                self.tally[N_LINKED if cause else N_UNLINKED] += 1
            c.peer_seen = c.peer_proc != 0 or peer != NULL
            if c.parent_id == 0 and context_own(known):
                c.parent_id = context_parent(self.requests, known)
                c.method = LINK_TRACEPARENT + known.wire - 1
        if r.kind == KIND_CLIENT and self.hops.active and r.end_ns > r.start_ns:
            c.hops = self.hops.split(r.key, r.end_ns - r.start_ns, <uint64_t *>c.hop)
        if c.peer_proc:
            peer = &self.processes.procs[c.peer_proc]
            told = NULL
        self.meet(r, &c, peer, told)
        if me.hidden or (peer != NULL and peer.hidden):
            self.tally[N_DROP_SELFTEST] += 1
        else:
            c.untraced = unsampled
            self.tally[N_TAGS_LATE] += me.waits == 1
            self.red.observe(r, &c, me, peer)
            sdk = sdk and r.kind == KIND_CLIENT
            if self.want_traces and not unsampled and not sdk and self.traces.add(r, &c, r.proc, me, peer) < 0:
                lost = True
            if r.kind == KIND_SERVER or not c.peer_seen:
                if self.want_logs and self.logs.add(r, &c, r.proc, me, peer) < 0:
                    lost = True
                if self.want_loki and self.loki.add(r, &c, r.proc, me, peer) < 0:
                    lost = True
            self.tally[N_DROP_ENCODE if lost else N_DROP_NOT_SAMPLED if unsampled else
                       N_DROP_SDK_SPAN if sdk else N_RELEASED] += 1
        if r.held:
            self.requests.unref(r.key)
        return 1

    cdef void meet(self, const SpanRec *r, SpanContext *c, const Proc *peer, const EndAddress *told) noexcept nogil:
        """The process is exact; without it, the end's own address (told by the other end's agent, or seen here), then the one that
        this end spoke with, at the span's time. What stands for others (a Service) is never taken for them."""
        cdef const Peer *at
        cdef const Peer *other
        cdef EndAddress end
        cdef uint64_t when = r.start_ns + c.wall_offset
        cdef uint8_t finding
        cdef bint server = r.kind == KIND_CLIENT
        if peer != NULL:
            c.peer_space = peer.space
            if not peer.waits:               # else its address may be known before its container is
                c.who = peer.tags
        if not self.peers.active:
            return
        at = self.peers.find(r.family, r.remote_addr, r.remote_port, r.transport, when, server)
        finding = self.peers.finding
        if at != NULL and at.stands_for:
            c.via = at
            at = NULL
        if c.who == NULL:
            memset(&end, 0, sizeof(EndAddress))
            if told != NULL and told.family:
                end = told[0]
            elif r.n[STR_PEER] == sizeof(EndAddress):
                memcpy(&end, span_str(r, STR_PEER).p, sizeof(EndAddress))
            if end.family:
                other = self.peers.find(end.family, end.addr, end.port, r.transport, when, server)
                if self.peers.finding != NOT_ASKED:   # else no address: a datagram's socket need not have one
                    at = other
            if at != NULL and not at.stands_for:
                c.who = at
        if peer != NULL and c.who == NULL:
            c.who = peer.tags
        if peer != NULL and peer.name.n:
            # told by another agent, with no more than its name: the address's tags say more where they agree
            if c.peer_space.n == 0 and c.who != NULL and same(c.who.name, peer.name):
                c.peer_space = c.who.space
            return
        at = c.who if c.who != NULL and c.who.name.n else c.via
        if at != NULL:
            c.peer_name = at.name
            c.peer_space = at.space
        if c.who == NULL and c.via == NULL:
            if finding == NOTHING_KNOWN:
                self.tally[N_PEER_UNKNOWN] += 1
            elif finding == NOT_ANSWERED:
                self.tally[N_PEER_UNANSWERED] += 1
                self.tally[N_PEER_AWAY] += self.peers.away

    cdef int leave_point(self, SpanRec *r, SpanContext *c, const Request *known) noexcept nogil:
        """No metrics and no log line: the processes' spans made these. Child of the CLIENT span, of the SERVER span where no client
        process was seen."""
        cdef const NicPart *part = nic_part(r)
        cdef const Proc *procs = self.processes.procs
        cdef const uint8_t *mine
        cdef bint caller = known.client_proc != 0, omitted = self.omit_sdk_spans and sdk_span(self.requests, known)
        cdef Point point = point_of(self.interfaces, part.interface, part.flags & NIC_EGRESS)
        c.nic = &self.interfaces.all[part.interface]
        if not has_process(known) and (c.nic.role != ROLE_POD or self.shared.between(r.key)):
            point = POINT_GATEWAY_NODE   # another agent knows the request: it only passes here
        c.point = point
        c.span_id = point_id(r.key, point, c.nic.netns_cookie, c.nic.ifindex, part.tunnel, (part.flags & NIC_EGRESS) != 0)
        if not caller and self.shared is not None and self.shared.caller_found(r.key):
            caller = True
            omitted = self.shared.caller_omitted(r.key)
        c.parent_id = span_id(r.key, POINT_CLIENT_PROCESS if caller and not omitted else POINT_SERVER_PROCESS)
        c.method = LINK_ISN
        c.peer_seen = True
        if self.peers.active and c.nic.role == ROLE_POD and point != POINT_GATEWAY_NODE:
            # Before its packets are translated a pod's own address stands in them, at either end of its veth.
            mine = <const uint8_t *>r.local_addr if point <= POINT_CLIENT_NODE else <const uint8_t *>r.remote_addr
            c.who = self.peers.find(r.family, mine, 0, 0, r.start_ns + c.wall_offset, False)
            if c.who != NULL and c.who.stands_for:
                c.who = NULL
        if procs[known.client_proc].hidden or procs[known.server_proc].hidden:
            self.tally[N_DROP_SELFTEST] += 1
        elif c.untraced:
            self.tally[N_DROP_NOT_SAMPLED] += 1
        elif self.want_traces and self.traces.add(r, c, r.proc, &procs[r.proc], NULL) < 0:
            self.tally[N_DROP_ENCODE] += 1
        else:
            self.tally[N_RELEASED] += 1
        if r.held:
            self.requests.unref(r.key)
        return 1
