"""A request as an OpenTelemetry log record, and the line that people read."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport SpanContext, SpanRec
from zerospan.exporter.encode.buf cimport Buf

cdef enum:
    LINE_MAX = 9216          # bytes of a request line: its four texts of TEXT_MAX and the rest

cdef enum Severity:          # opentelemetry.proto.logs.v1.SeverityNumber
    SEVERITY_INFO = 9
    SEVERITY_WARN = 13
    SEVERITY_ERROR = 17

# Appends one `log_records` field of ScopeLogs: tag, length, LogRecord. `me` and `peer` may be NULL.
cdef void otlp_log(Buf *out, const SpanRec *r, const SpanContext *c, const Proc *me, const Proc *peer) noexcept nogil

# "GET /orders/7?full=? 200 12.3ms", "SELECT orders 1.2ms ok", "DNS A example.com 0.345ms NXDOMAIN": valid UTF-8 without
# control characters; at most cap bytes (LINE_MAX is always enough). Returns the length.
cdef uint32_t request_line(const SpanRec *r, uint8_t *out, uint32_t cap) noexcept nogil

# WARN for what the caller got wrong (HTTP 4xx, NXDOMAIN), ERROR for other errors, INFO for the rest.
cdef Severity request_severity(const SpanRec *r) noexcept nogil

cdef inline uint64_t duration_ns(const SpanRec *r) noexcept nogil:
    return r.end_ns - r.start_ns if r.end_ns > r.start_ns else 0
