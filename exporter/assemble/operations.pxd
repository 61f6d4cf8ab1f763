"""One open request: made of a parsed request, completed by a parsed answer, written out as a SpanRec."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.assemble.table cimport Flow, Now, Open
from zerospan.exporter.assemble.span cimport SpanRec
from zerospan.exporter.metrics.routes cimport Routes
from zerospan.exporter.proto.base cimport Parsed
from zerospan.exporter.proto.cursor cimport Slice

# The SpanRec that follows an Open in memory.
cdef inline SpanRec *span_of(Open *o) noexcept nogil:
    return <SpanRec *>(<uint8_t *>o + sizeof(Open))

# NULL if it would take more than `room` bytes, or if there is no memory.
cdef Open *new_open(const Flow *f, const Parsed *m, const Now *now, bint mask, uint64_t room) noexcept nogil
# The open request that an answer answers: the oldest, or the one with its id and name. NULL if there is none.
cdef Open *match_open(const Flow *f, const Parsed *m) noexcept nogil
cdef void describe_answer(Open *o, const Parsed *m, bint mask) noexcept nogil
# The template of an HTTP request's path; empty for others. Asked for when the answer is known: paths that the server
# does not know make no template.
cdef Slice route_of(Open *o, Routes routes, uint32_t service) noexcept nogil
# Size of the finished span, and its making.
# peer: the other end's own address (STR_PEER), or nothing.
cdef uint32_t span_size(Open *o, Slice route, Slice peer) noexcept nogil
cdef void copy_span(SpanRec *to, Open *o, Slice route, Slice peer, uint32_t size) noexcept nogil
# Reason of an end without an answer, from the socket's error number.
cdef uint8_t close_reason(uint32_t error) noexcept nogil
