# cython: language_level=3, boundscheck=True, wraparound=False
"""A request as one value of a Loki stream. Called by BatchEncoder, which groups the values by stream and sorts them.

Metadata: trace_id, span_id, level (Loki's discover_log_levels reads it), duration_ns, span_kind, and the span's attributes
under their Loki names; all values are strings, as the push API wants them.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport strlen

from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport KIND_CLIENT, SpanContext, SpanRec
from zerospan.exporter.encode.attributes cimport CONST_CLIENT_KIND, CONST_SERVER_KIND
from zerospan.exporter.encode.buf cimport Buf, buf_put, buf_reserve
from zerospan.exporter.encode.digits cimport put_hex, put_hex64, put_u64
from zerospan.exporter.encode.fields cimport FIELDS_LOKI, Fields, field_const, span_fields
from zerospan.exporter.encode.logs cimport (
    LINE_MAX, SEVERITY_ERROR, SEVERITY_WARN, Severity, duration_ns, request_line, request_severity,
)
from zerospan.exporter.encode.text cimport json_chars
from zerospan.exporter.proto.cursor cimport slice_of

cdef inline void put(Buf *out, const char *json) noexcept nogil:
    buf_put(out, json, strlen(json))


cdef inline void put_number(Buf *out, uint64_t v) noexcept nogil:
    if buf_reserve(out, 24):
        out.n += put_u64(out.p + out.n, v)


cdef void loki_entry(Buf *out, const SpanRec *r, const SpanContext *c, const Proc *me, const Proc *peer) noexcept nogil:
    cdef uint8_t line[LINE_MAX]
    cdef Severity severity = request_severity(r)
    cdef Fields f
    put(out, b'["')
    put_number(out, r.end_ns + c.wall_offset)
    put(out, b'","')
    json_chars(out, slice_of(line, request_line(r, line, LINE_MAX)))
    put(out, b'",{"trace_id":"')
    if buf_reserve(out, 32):
        out.n += put_hex(out.p + out.n, c.trace_id, 16)
    put(out, b'","span_id":"')
    if buf_reserve(out, 16):
        out.n += put_hex64(out.p + out.n, c.span_id)
    if severity == SEVERITY_ERROR:
        put(out, b'","level":"error"')
    elif severity == SEVERITY_WARN:
        put(out, b'","level":"warn"')
    else:
        put(out, b'","level":"info"')
    put(out, b',"duration_ns":"')
    put_number(out, duration_ns(r))
    put(out, b'"')
    f.out = out
    f.tag = FIELDS_LOKI
    field_const(&f, CONST_CLIENT_KIND if r.kind == KIND_CLIENT else CONST_SERVER_KIND)
    span_fields(&f, r, c, peer)
    if me != NULL:
        buf_put(out, me.meta.p, me.meta.n)
    put(out, b"}]")
