"""What only spans of network interfaces say, and where the time of a call went.

At most 30 attributes; texts are those that the discovery of interfaces gave, at most 255 bytes each.
"""

from libc.stdint cimport uint8_t, uint32_t

from zerospan.exporter.assemble.span cimport SpanContext, SpanRec
from zerospan.exporter.encode.fields cimport Fields

# All attributes of a KIND_INTERNAL span.
cdef void point_fields(Fields *f, const SpanRec *r, const SpanContext *c) noexcept nogil
# zerospan.hop.* of a CLIENT span.
cdef void hop_fields(Fields *f, const SpanContext *c) noexcept nogil
# "client.node vxlan0": its length.
cdef uint32_t point_name(const SpanContext *c, uint8_t *out, uint32_t cap) noexcept nogil
