"""The hot path as a whole: records in, encoded batches out. One thread, no GIL but to hand batches over."""

from libc.stdint cimport int64_t, uint64_t

from zerospan.exporter.assemble.flows cimport Flows
from zerospan.exporter.assemble.interfaces cimport Interfaces
from zerospan.exporter.assemble.points cimport Points
from zerospan.exporter.assemble.processes cimport Proc, Processes
from zerospan.exporter.assemble.span cimport EndAddress, SpanContext, SpanRec
from zerospan.exporter.encode.batch cimport BatchEncoder
from zerospan.exporter.link.cause cimport Causes
from zerospan.exporter.link.due cimport Due
from zerospan.exporter.link.hold cimport Held, Hold
from zerospan.exporter.link.hops cimport Hops
from zerospan.exporter.link.requests cimport Request, Requests
from zerospan.exporter.link.shared cimport Shared
from zerospan.exporter.metrics.red cimport Red
from zerospan.exporter.metrics.routes cimport Routes
from zerospan.exporter.source.source cimport Source
from zerospan.exporter.tags.table cimport PeerTable

cdef class Engine:
    cdef readonly Flows flows
    cdef readonly Requests requests
    cdef readonly Causes causes
    cdef readonly Shared shared  # None: one host
    cdef readonly Processes processes
    cdef readonly Routes routes
    cdef readonly Red red
    cdef readonly Interfaces interfaces  # the points of this host
    cdef readonly Points points
    cdef readonly Hops hops
    cdef readonly Hold hold      # spans in the order in which they ended
    cdef readonly Hold later     # those whose chain was not known when their hold ended
    cdef readonly PeerTable peers # whose addresses are, as the enricher says
    cdef readonly Due nics       # spans of interfaces, which come late
    cdef Source source
    cdef object network
    cdef uint64_t *tally         # the counters of flows
    cdef BatchEncoder traces
    cdef BatchEncoder logs
    cdef BatchEncoder loki
    cdef bint want_traces
    cdef bint want_logs
    cdef bint want_loki
    cdef bint omit_sdk_spans     # configuration link.sdk_client_spans
    cdef uint64_t wall_offset
    cdef uint64_t recheck_ns
    cdef uint64_t batch_bytes
    cdef uint64_t flush_ns
    cdef uint64_t flushed_ns
    cdef readonly uint64_t records       # that were handled

    # Handles what the source has, until it is empty or a batch is full: 1 if there is more.
    cdef int drain(self, uint64_t now) except -1 nogil
    # Lets go what is due.
    cdef int let_go(self, uint64_t now, bint everything) except -1 nogil
    # Marks the processes that requests refer to, for Processes.reclaim().
    cdef void mark_requests(self) noexcept nogil
    # A span whose hold ended leaves, or waits on.
    cdef void end_hold(self, const Held *held, uint64_t now, bint everything) noexcept nogil
    # Whether it left; 0 if it must wait for its chain.
    cdef int leave(self, SpanRec *r, uint64_t now, bint must) noexcept nogil
    # The same for the span of a network interface, once its trace is known.
    cdef int leave_point(self, SpanRec *r, SpanContext *c, const Request *known) noexcept nogil
    # Who is at the other end, by its process and its address: completes the context.
    cdef void meet(self, const SpanRec *r, SpanContext *c, const Proc *peer, const EndAddress *told) noexcept nogil
    cdef bint full(self) noexcept nogil
    # Moves the batches of at least so many bytes to `out`: each post has a cost of its own, so that a small one waits for the flush.
    cdef int take(self, list out, uint64_t least) except -1
