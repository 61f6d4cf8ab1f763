"""Trace contexts that programs write into header fields themselves. See wire.pyx."""

from libc.stdint cimport uint8_t

from zerospan.exporter.proto.base cimport Parsed
from zerospan.exporter.proto.cursor cimport Slice

cdef struct WireHeaders:     # the fields as they stand in the message; all empty at first
    Slice traceparent
    Slice b3
    Slice b3_trace
    Slice b3_span
    Slice b3_sampled
    Slice b3_flags
    Slice uber
    Slice sw8
    uint8_t disputed         # two traceparent fields that differ: none of them counts

cdef void wire_init(WireHeaders *w) noexcept nogil
# Where the value of a field of this name (any case) belongs; NULL: it is none of those above.
cdef Slice *wire_slot(WireHeaders *w, Slice name) noexcept nogil
# Remembers a value there: the first one counts.
cdef void wire_keep(WireHeaders *w, Slice *slot, Slice value) noexcept nogil
# Fills out.wire, trace_id, parent_id, trace_flags and unsampled from the best well-formed context; False if there is none
# (unsampled: B3 says that also without ids).
cdef bint wire_resolve(const WireHeaders *w, Parsed *out) noexcept nogil
