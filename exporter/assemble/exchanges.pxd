"""Requests and their answers: opened, completed, finished, and told to the link stage."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.assemble.points cimport Points
from zerospan.exporter.assemble.span cimport SpanRec
from zerospan.exporter.assemble.table cimport FlowTable, Flow, Open, Now
from zerospan.exporter.link.cause cimport Causes, Profile
from zerospan.exporter.link.hold cimport Hold
from zerospan.exporter.link.shared cimport Shared
from zerospan.exporter.tags.table cimport PeerTable
from zerospan.exporter.metrics.routes cimport Routes
from zerospan.exporter.proto.base cimport Parsed
from zerospan.exporter.proto.cursor cimport Slice

cdef class Exchanges(FlowTable):
    cdef uint64_t open_limit
    cdef uint64_t hold_ns
    cdef uint64_t max_hold_ns
    cdef bint mask_text
    cdef Causes causes
    cdef Shared shared       # None: one host
    cdef PeerTable peers     # whose addresses are
    cdef Hold hold
    cdef Routes routes
    cdef Points points
    cdef bint late           # a kept head is parsed: its bytes passed some time ago
    cdef Now now

    # A connection that is none of ours: what is open on it is dropped and counted.
    cdef int abandon(self, Flow *f, int counter) except -1 nogil
    cdef int request(self, Flow *f, const Parsed *m, uint64_t at) except -1 nogil
    cdef int response(self, Flow *f, const Parsed *m, bint upgrade) except -1 nogil
    # Tells the link stage that a request may have its other end on another host.
    cdef void share(self, Flow *f, const SpanRec *r) noexcept nogil
    cdef Profile profile(self, uint32_t proc) noexcept nogil
    cdef void stray(self, Flow *f) noexcept nogil
    cdef bint sent_again(self, Flow *f, const Parsed *m) noexcept nogil
    cdef void more_request(self, Flow *f) noexcept nogil
    cdef void more_answer(self, Flow *f) noexcept nogil
    cdef int answered(self, Flow *f, Open *o, uint64_t end_ns) except -1 nogil
    cdef void serve(self, Flow *f, Open *o) noexcept nogil
    cdef void serve_next(self, Flow *f) noexcept nogil
    cdef int unseen(self, Flow *f, uint64_t end_ns) except -1 nogil
    cdef void answering(self, Open *o, bint ended) noexcept nogil
    cdef void served(self, Open *o, bint doubt) noexcept nogil
    cdef int unanswered(self, Flow *f, Open *o, uint8_t reason, uint64_t end_ns) except -1 nogil
    cdef int release(self, Flow *f, Open *o) except -1 nogil
    cdef Open *take(self, Flow *f, Open *o) noexcept nogil
    # Where the other end really is (STR_PEER); empty if its address is the socket's peer, or is not known.
    cdef Slice peer_of(self, Flow *f) noexcept nogil
