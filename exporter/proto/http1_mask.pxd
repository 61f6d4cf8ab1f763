"""Paths and query strings without what may be secret. See http1_mask.pyx."""

from libc.stdint cimport uint8_t, uint32_t

from zerospan.exporter.proto.cursor cimport Slice

# A path as it is, save the values of its parameters (";jsessionid=...") and the user of a URL within it.
cdef uint32_t mask_path(Slice s, uint8_t *out, uint32_t cap) noexcept nogil
# Keys as they are, "*" for every value: a=1&b -> a=*&b.
cdef uint32_t mask_query(Slice s, uint8_t *out, uint32_t cap) noexcept nogil
