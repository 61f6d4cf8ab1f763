"""Which attributes a request has, in one place for spans, log records and Loki's structured metadata.

Bounds: at most 64 attributes, each text at most TEXT_MAX bytes of valid UTF-8; so less than 40 KiB in all. And the tags of
the other end: at most 40, less than 5 KiB (process/stamp.py).
"""

from libc.stdint cimport int64_t, uint8_t

from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport SpanContext, SpanRec
from zerospan.exporter.encode.buf cimport Buf
from zerospan.exporter.proto.cursor cimport Slice

cdef enum:
    FIELDS_LOKI = 0          # Fields.tag: JSON members of Loki's structured metadata instead of KeyValue messages

cdef struct Fields:          # where attributes go
    Buf *out
    uint8_t tag              # of the repeated KeyValue field that receives them; or FIELDS_LOKI

# All attributes of a span.
cdef void span_fields(Fields *f, const SpanRec *r, const SpanContext *c, const Proc *peer) noexcept nogil

# One attribute: an Attr and its value (an empty text is left out), or a Const.
cdef void field_text(Fields *f, int attr, Slice text) noexcept nogil
cdef void field_int(Fields *f, int attr, int64_t v) noexcept nogil
cdef void field_const(Fields *f, int which) noexcept nogil
