"""A request as one value of a stream of Loki's push API: ["<ns>","<line>",{structured metadata}]."""

from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport SpanContext, SpanRec
from zerospan.exporter.encode.buf cimport Buf

# Appends one JSON array without a comma behind it. `me` and `peer` may be NULL. Within Loki's default limits whatever the
# request held: line < 256 KB (LINE_MAX is 9 KiB), metadata < 64 KB and at most 128 members (see fields.pxd).
cdef void loki_entry(Buf *out, const SpanRec *r, const SpanContext *c, const Proc *me, const Proc *peer) noexcept nogil
