# cython: language_level=3, boundscheck=True, wraparound=False
"""The hot path as a whole: source -> flows -> hold -> metrics and encoders. See engine.pxd.

Built by zerospan.exporter.pipeline, which gives it a source and carries its batches to the sinks. `tick` is called every
few milliseconds by one thread; all state belongs to that thread. Time comes in as an argument, so that a replayed
recording runs through the same code at its own pace.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport (
    KIND_CLIENT, KIND_SERVER, LINK_DNS_ID, LINK_ISN, LINK_NONE, LINK_TRACEPARENT, SpanContext, SpanRec,
)
from zerospan.exporter.link.hold cimport CHUNK
from zerospan.exporter.link.ids cimport POINT_CLIENT_PROCESS, POINT_SERVER_PROCESS, span_id, trace_id
from zerospan.exporter.link.requests cimport CAUSE_DOUBTFUL, CAUSE_PENDING, Request
from zerospan.exporter.proto.base cimport WIRE_NONE
from zerospan.exporter.selfmon.counters cimport (
    N_DROP_ENCODE, N_DROP_SELFTEST, N_HOLD_EARLY, N_HOLD_WAITED, N_LINKED, N_MAX, N_RELEASED, N_SEEN, N_UNLINKED,
)
from zerospan.exporter.encode.batch import BatchEncoder
from zerospan.exporter.selfmon.counters import DROPS, NAMES

cdef enum:
    MAX_CHAIN = 64           # causes that are followed to the root
    BATCH_OF_RECORDS = 64    # after so many the ring's space is given back


cdef class Engine:
    """source: where records come from. describe: see Processes. signals: of "traces", "logs", "loki", those that a sink takes.

    Sizes in bytes, times in seconds; the meaning of each is that of the configuration key of its name.
    """

    def __init__(self, Source source, describe, *, signals=("traces",), self_tgid=0, mask=True, timeout_s=60.0,
                 max_connections=131072, max_open_bytes=32 << 20, route_limit=200, hold_s=2.0, max_hold_s=30.0,
                 hold_bytes=48 << 20, registry_bytes=48 << 20, red=None, batch_bytes=1 << 20, flush_s=1.0):
        self.source = source
        self.requests = Requests(registry_bytes)
        self.causes = Causes(self.requests)
        self.hold = Hold(hold_bytes)
        self.later = Hold(hold_bytes)
        self.processes = Processes(describe)
        self.routes = Routes(limit=route_limit)
        self.red = Red() if red is None else red
        self.flows = Flows(self.requests, self.causes, self.hold, self.processes, self.routes,
                           max_connections=max_connections, max_open_bytes=max_open_bytes, timeout_s=timeout_s,
                           hold_s=hold_s, max_hold_s=max_hold_s, mask=mask, self_tgid=self_tgid)
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
        out = []
        while more:
            with nogil:
                more = self.drain(now)
                self.let_go(now, False)
            if self.full():
                more = 1   # what else is due leaves, too
                self.take(out)
        self.red.tick(now)
        if now - self.flushed_ns >= self.flush_ns:
            self.flushed_ns = now
            self.take(out)
        return out

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
        while self.hold.spans or self.later.spans:
            with nogil:
                self.let_go(now, True)
            self.take(out)
        self.take(out)
        return out

    def take(self, list out):
        for name, batch in (("traces", self.traces), ("logs", self.logs), ("loki", self.loki)):
            taken = batch.take()
            if taken is not None:
                out.append((name, taken[0], taken[1]))

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
            "in_flight": {"open": self.flows.open_requests, "held": self.hold.spans + self.later.spans},
        }

    def memory(self):
        """Bytes that the tables hold."""
        return {"registry": self.requests.nbytes(), "causes": self.causes.nbytes(),
                "hold": self.hold.nbytes + self.later.nbytes, "open": self.flows.open_bytes}

    def links(self):
        return {"disagreements": self.causes.disagreements + self.causes.proxies.disagreements,
                "ambiguous": self.causes.ambiguous + self.causes.proxies.ambiguous,
                "proxy_threads_refused": self.causes.proxies.refused,
                "calls_forgotten": self.causes.calls_forgotten, "ids_refused": self.causes.ids_refused,
                "registry_refused": self.requests.refused,
                "registry_entries": self.requests.n, "threads": self.causes.n, "connections": self.flows.n}

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
            n += 1
            while self.hold.nbytes + 2 * CHUNK > self.hold.limit and self.hold.spans:
                # no more room than for what one record may bring: the oldest leave with what is known
                held = self.hold.peek()
                self.leave(<SpanRec *>(<uint8_t *>held + sizeof(Held)), now, True)
                self.hold.pop()
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
            r = <SpanRec *>(<uint8_t *>held + sizeof(Held))
            if not self.leave(r, now, everything or held.last_ns <= now):
                to = self.later.push(r.size, now + self.recheck_ns, held.last_ns)
                if to != NULL:
                    memcpy(to, r, r.size)
                    self.tally[N_HOLD_WAITED] += 1
                else:
                    self.leave(r, now, True)
            self.hold.pop()
            held = self.hold.peek()
            if held != NULL:
                self.requests.prefetch((<SpanRec *>(<uint8_t *>held + sizeof(Held))).key)
        return 0

    cdef uint64_t cause_of(self, const Request *r) noexcept nogil:
        """The request that this call serves; 0 if none is known, or if a program says better: a trace context of its own
        stands for a span that its SDK makes. One that is only passed on is that of the request."""
        cdef const Request *cause
        if r.cause == 0 or r.cause_state == CAUSE_DOUBTFUL:
            return 0
        if r.wire == WIRE_NONE:
            return r.cause
        cause = self.requests.find(r.cause)
        if cause == NULL or cause.wire == WIRE_NONE or cause.wire_parent != r.wire_parent:
            return 0
        return r.cause if memcmp(cause.trace_id, r.trace_id, 16) == 0 else 0

    cdef int leave(self, SpanRec *r, uint64_t now, bint must) noexcept nogil:
        cdef SpanContext c
        cdef Request *known = self.requests.find(r.key)
        cdef Request *at = known
        cdef Proc *me = &self.processes.procs[r.proc]
        cdef Proc *peer = NULL
        cdef uint64_t root = r.key, cause = 0
        cdef int steps = 0
        cdef bint lost = False, named = False
        memset(&c, 0, sizeof(c))
        c.wall_offset = self.wall_offset
        while at != NULL:
            if at.cause_state == CAUSE_PENDING and not must and self.processes.procs[at.client_proc].open:
                return 0
            if at.wire != WIRE_NONE:
                # what a program has written itself names the trace, from there on down
                memcpy(c.trace_id, at.trace_id, 16)
                c.trace_flags = at.trace_flags
                named = True
                break
            root = at.key
            if at.cause == 0 or at.cause_state == CAUSE_DOUBTFUL or steps >= MAX_CHAIN:
                break
            steps += 1
            at = self.requests.find(at.cause)
        if not named:
            trace_id(root, c.trace_id)
            c.trace_flags = 1
        c.span_id = span_id(r.key, POINT_CLIENT_PROCESS if r.kind == KIND_CLIENT else POINT_SERVER_PROCESS)
        if known != NULL:
            if r.kind == KIND_SERVER:
                c.peer_proc = known.client_proc
                if known.client_proc:
                    c.parent_id = span_id(r.key, POINT_CLIENT_PROCESS)
                    c.method = LINK_DNS_ID if r.transport == 17 else LINK_ISN
            else:
                c.peer_proc = known.server_proc
                cause = self.cause_of(known)
                if cause:
                    c.parent_id = span_id(cause, POINT_SERVER_PROCESS)
                    c.method = known.cause_method
                    self.tally[N_LINKED] += 1
                else:
                    self.tally[N_UNLINKED] += 1
            c.peer_seen = c.peer_proc != 0
            if c.parent_id == 0 and known.wire != WIRE_NONE:
                c.parent_id = known.wire_parent
                c.method = LINK_TRACEPARENT + known.wire - 1
        if c.peer_proc:
            peer = &self.processes.procs[c.peer_proc]
        if me.hidden or (peer != NULL and peer.hidden):
            self.tally[N_DROP_SELFTEST] += 1
        else:
            self.red.observe(r, &c, me, peer)
            if self.want_traces and self.traces.add(r, &c, r.proc, me, peer) < 0:
                lost = True
            if r.kind == KIND_SERVER or not c.peer_seen:
                if self.want_logs and self.logs.add(r, &c, r.proc, me, peer) < 0:
                    lost = True
                if self.want_loki and self.loki.add(r, &c, r.proc, me, peer) < 0:
                    lost = True
            self.tally[N_DROP_ENCODE if lost else N_RELEASED] += 1
        if r.held:
            self.requests.unref(r.key)
        return 1
