# cython: language_level=3, boundscheck=True, wraparound=False
"""A request as an OTLP span. Called by BatchEncoder for each span; the attributes come from fields.pyx, the names from name.pyx.

Assumes that texts are masked already. Field tags are those of opentelemetry/proto/trace/v1/trace.proto.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport (
    KIND_INTERNAL, LINK_B3, LINK_SW8, LINK_TRACEPARENT, LINK_UBER, SPAN_ERROR, SPAN_UNSET, STR_MESSAGE, SpanContext, SpanRec, span_str,
)
from zerospan.exporter.encode.buf cimport Buf, buf_reserve
from zerospan.exporter.encode.fields cimport Fields, span_fields
from zerospan.exporter.encode.name cimport error_type, reason_text, span_name
from zerospan.exporter.encode.points cimport hop_fields, point_fields, point_name
from zerospan.exporter.encode.text cimport TEXT_MAX, text_copy
from zerospan.exporter.encode.wire cimport wire_bytes, wire_close, wire_fixed64, wire_open, wire_varint
from zerospan.exporter.proto.cursor cimport Slice

cdef enum:
    HAS_IS_REMOTE = 0x100    # SpanFlags: bit 8 says that bit 9 is meant
    IS_REMOTE = 0x200        # the parent is a span of another tracer, read from the wire


cdef inline uint64_t big_endian(uint64_t v) noexcept nogil:
    cdef uint64_t out = 0
    cdef int i
    for i in range(8):
        out = (out << 8) | (v & 0xFF)
        v >>= 8
    return out


cdef inline uint32_t span_flags(const SpanContext *c) noexcept nogil:
    cdef uint32_t flags = HAS_IS_REMOTE | c.trace_flags
    if c.parent_id and c.method in (LINK_TRACEPARENT, LINK_B3, LINK_SW8, LINK_UBER):
        flags |= IS_REMOTE
    return flags


cdef void put_status(Buf *out, const SpanRec *r) noexcept nogil:
    cdef uint8_t text[TEXT_MAX]
    cdef uint32_t n = 0
    cdef Slice message
    cdef size_t at
    if r.status == SPAN_UNSET:
        return
    at = wire_open(out, 0x7A)
    if r.status == SPAN_ERROR:
        message = reason_text(r.reason)
        if message.n == 0:
            message = span_str(r, STR_MESSAGE)
        n = text_copy(text, TEXT_MAX, message) if message.n else error_type(r, text, TEXT_MAX)
        wire_bytes(out, 0x12, text, n)
    wire_varint(out, 0x18, r.status)
    wire_close(out, at)


cdef void put_link(Buf *out, const SpanContext *c) noexcept nogil:
    cdef uint64_t id = big_endian(c.link_id)
    cdef size_t at
    if c.link_id == 0:
        return
    at = wire_open(out, 0x6A)
    wire_bytes(out, 0x0A, c.link_trace, 16)
    wire_bytes(out, 0x12, &id, 8)
    wire_close(out, at)


cdef void otlp_span(Buf *out, const SpanRec *r, const SpanContext *c, const Proc *me, const Proc *peer) noexcept nogil:
    cdef uint8_t name[TEXT_MAX]
    cdef uint64_t id
    cdef uint32_t flags = span_flags(c)
    cdef Fields f
    cdef size_t at = wire_open(out, 0x12)
    wire_bytes(out, 0x0A, c.trace_id, 16)
    id = big_endian(c.span_id)
    wire_bytes(out, 0x12, &id, 8)
    if c.parent_id:
        id = big_endian(c.parent_id)
        wire_bytes(out, 0x22, &id, 8)
    if r.kind == KIND_INTERNAL:
        wire_bytes(out, 0x2A, name, point_name(c, name, TEXT_MAX))
    else:
        wire_bytes(out, 0x2A, name, span_name(r, name, TEXT_MAX))
    wire_varint(out, 0x30, r.kind)
    wire_fixed64(out, 0x39, r.start_ns + c.wall_offset)
    wire_fixed64(out, 0x41, r.end_ns + c.wall_offset)
    f.out = out
    f.tag = 0x4A
    if r.kind == KIND_INTERNAL:
        point_fields(&f, r, c)
    else:
        span_fields(&f, r, c, peer)
        if c.hops:
            hop_fields(&f, c)
    put_link(out, c)
    put_status(out, r)
    if buf_reserve(out, 6):
        out.p[out.n] = 0x85
        out.p[out.n + 1] = 0x01
        memcpy(out.p + out.n + 2, &flags, 4)
        out.n += 6
    wire_close(out, at)
