"""How Redis is recognised, and its two free line forms. See redis_sniff.pyx."""

from libc.stdint cimport uint8_t, uint32_t

from zerospan.exporter.proto.base cimport ParseArgs, Parsed
from zerospan.exporter.proto.cursor cimport Slice

# As ProtoOps.sniff.
cdef int sniff(const ParseArgs *a) noexcept nogil
# Splits an error's text into out.status_text and out.message and sets out.status. `whole`: the line's end was seen.
cdef void error_text(Slice line, bint whole, Parsed *out) noexcept nogil
# An inline command: 1: printable text that begins with a word; 0: its end is not there; -1: it is not that. *used is
# its length with the line end.
cdef int inline_line(const uint8_t *p, uint32_t n, Slice *word, Slice *rest, uint32_t *used) noexcept nogil
