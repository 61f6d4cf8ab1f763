# cython: language_level=3, boundscheck=True, wraparound=False
"""A request as an OpenTelemetry log record. Called by BatchEncoder; request_line also serves Loki and the console.

Field tags are those of opentelemetry/proto/logs/v1/logs.proto.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport (
    KIND_CLIENT, REASON_NOT_SEEN, SPAN_ERROR, STR_OPERATION, STR_QUERY, STR_STATUS, STR_TARGET, SpanContext, SpanRec, span_str,
    speaks_http,
)
from zerospan.exporter.encode.attributes cimport ATTR_DURATION, CONST_CLIENT_KIND, CONST_SERVER_KIND
from zerospan.exporter.encode.buf cimport Buf, buf_reserve
from zerospan.exporter.encode.digits cimport DIGITS_MAX, DURATION_MAX, put_ms, put_u64
from zerospan.exporter.encode.fields cimport Fields, field_const, field_int, span_fields
from zerospan.exporter.encode.name cimport error_type, reason_text, span_name
from zerospan.exporter.encode.text cimport TEXT_MAX, text_copy_line
from zerospan.exporter.encode.wire cimport wire_bytes, wire_close, wire_fixed64, wire_open, wire_varint
from zerospan.exporter.proto.base cimport PROTO_DNS
from zerospan.exporter.proto.cursor cimport Slice, slice_of

cdef enum:
    RCODE_NXDOMAIN = 3       # RFC 1035, section 4.1.1


cdef struct Line:
    uint8_t *out
    uint32_t n
    uint32_t cap


cdef void add(Line *l, const char *before, Slice s) noexcept nogil:
    """One character, unless the line is still empty, then at most TEXT_MAX bytes of text; nothing for an empty text."""
    cdef uint32_t room
    if s.n == 0 or l.n + 1 >= l.cap:
        return
    if l.n:
        l.out[l.n] = before[0]
        l.n += 1
    room = l.cap - l.n
    l.n += text_copy_line(l.out + l.n, room if room < TEXT_MAX else TEXT_MAX, s)


cdef uint32_t request_line(const SpanRec *r, uint8_t *out, uint32_t cap) noexcept nogil:
    cdef Line l
    cdef uint8_t text[TEXT_MAX]
    cdef uint8_t name[TEXT_MAX]
    cdef uint8_t number[DIGITS_MAX]
    cdef uint8_t duration[DURATION_MAX]
    cdef Slice took = slice_of(duration, put_ms(duration, duration_ns(r)))
    cdef Slice error = slice_of(text, error_type(r, text, TEXT_MAX))
    l.out = out
    l.n = 0
    l.cap = cap
    if speaks_http(r):
        add(&l, b" ", span_str(r, STR_OPERATION))
        add(&l, b" ", span_str(r, STR_TARGET))
        add(&l, b"?", span_str(r, STR_QUERY))
        if r.code > 0:
            add(&l, b" ", slice_of(number, put_u64(number, <uint32_t>r.code)))
        else:
            add(&l, b" ", slice_of(<const uint8_t *>b"-", 1))
        add(&l, b" ", took)
        if r.code < 400:                         # else the code says it
            add(&l, b" ", error)
        return l.n
    if r.proto == PROTO_DNS:
        add(&l, b" ", slice_of(<const uint8_t *>b"DNS", 3))
        add(&l, b" ", span_str(r, STR_OPERATION))
        add(&l, b" ", span_str(r, STR_TARGET))
    else:
        add(&l, b" ", slice_of(name, span_name(r, name, TEXT_MAX)))
    add(&l, b" ", took)
    if error.n:
        add(&l, b" ", error)
    elif r.reason == REASON_NOT_SEEN:
        add(&l, b" ", slice_of(<const uint8_t *>b"-", 1))
    elif r.proto != PROTO_DNS:
        add(&l, b" ", slice_of(<const uint8_t *>b"ok", 2))
    elif span_str(r, STR_STATUS).n:
        add(&l, b" ", span_str(r, STR_STATUS))
    else:
        add(&l, b" ", slice_of(<const uint8_t *>b"NOERROR", 7))
    return l.n


cdef Severity request_severity(const SpanRec *r) noexcept nogil:
    if reason_text(r.reason).n == 0:
        if speaks_http(r) and 400 <= r.code < 500:
            return SEVERITY_WARN
        if r.proto == PROTO_DNS and r.code == RCODE_NXDOMAIN:
            return SEVERITY_WARN
    return SEVERITY_ERROR if r.status == SPAN_ERROR else SEVERITY_INFO


cdef void otlp_log(Buf *out, const SpanRec *r, const SpanContext *c, const Proc *me, const Proc *peer) noexcept nogil:
    cdef uint8_t line[LINE_MAX]
    cdef uint8_t span_id[8]
    cdef uint64_t end = r.end_ns + c.wall_offset
    cdef Severity severity = request_severity(r)
    cdef uint32_t flags = c.trace_flags
    cdef Fields f
    cdef size_t body
    cdef size_t at = wire_open(out, 0x12)
    cdef int i
    wire_fixed64(out, 0x09, end)
    wire_varint(out, 0x10, severity)
    if severity == SEVERITY_ERROR:
        wire_bytes(out, 0x1A, b"ERROR", 5)
    else:
        wire_bytes(out, 0x1A, b"WARN" if severity == SEVERITY_WARN else b"INFO", 4)
    body = wire_open(out, 0x2A)
    wire_bytes(out, 0x0A, line, request_line(r, line, LINE_MAX))
    wire_close(out, body)
    f.out = out
    f.tag = 0x32
    span_fields(&f, r, c, peer)
    field_int(&f, ATTR_DURATION, <int64_t>duration_ns(r))
    field_const(&f, CONST_CLIENT_KIND if r.kind == KIND_CLIENT else CONST_SERVER_KIND)
    if flags and buf_reserve(out, 5):
        out.p[out.n] = 0x45
        memcpy(out.p + out.n + 1, &flags, 4)
        out.n += 5
    wire_bytes(out, 0x4A, c.trace_id, 16)
    for i in range(8):
        span_id[i] = <uint8_t>(c.span_id >> (56 - 8 * i))
    wire_bytes(out, 0x52, span_id, 8)
    wire_fixed64(out, 0x59, end)
    wire_bytes(out, 0x62, b"zerospan.request", 16)
    wire_close(out, at)
