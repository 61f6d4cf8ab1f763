"""A request as an OTLP span (opentelemetry.proto.trace.v1.Span)."""

from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport SpanContext, SpanRec
from zerospan.exporter.encode.buf cimport Buf

# Appends one `spans` field of ScopeSpans: tag, length, Span. `me` and `peer` may be NULL.
cdef void otlp_span(Buf *out, const SpanRec *r, const SpanContext *c, const Proc *me, const Proc *peer) noexcept nogil
