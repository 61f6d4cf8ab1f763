"""Text of a remote party made fit for protobuf and JSON: valid UTF-8, bounded length.

Bytes that are not UTF-8 become U+FFFD, one for each maximal subpart of an ill-formed sequence (Unicode 16, section
3.9, table 3-7; what bytes.decode("utf-8", "replace") does). A cut never falls within a character.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from zerospan.exporter.encode.buf cimport Buf
from zerospan.exporter.proto.cursor cimport Slice

cdef enum:
    TEXT_MAX = 2048          # bytes of an attribute's value: Tempo cuts there (max_attribute_bytes)

cdef inline bint text_is_ascii(const uint8_t *p, uint32_t n) noexcept nogil:
    cdef uint64_t word
    cdef uint64_t seen = 0
    while n >= 8:
        memcpy(&word, p, 8)
        seen |= word
        p += 8
        n -= 8
    while n:
        seen |= p[0]
        p += 1
        n -= 1
    return (seen & <uint64_t>0x8080808080808080ULL) == 0

# Length of the character at p (`good` set), or of the ill-formed piece there; 1..4, never more than left, which is >= 1.
cdef uint32_t text_step(const uint8_t *p, uint32_t left, bint *good) noexcept nogil

# Copies as valid UTF-8, whole characters only, at most cap bytes; returns how many were written.
cdef uint32_t text_copy(uint8_t *out, uint32_t cap, Slice s) noexcept nogil

# The same with ASCII control characters replaced, too: for a line that people read.
cdef uint32_t text_copy_line(uint8_t *out, uint32_t cap, Slice s) noexcept nogil

# Appends the text's JSON form without quotes (RFC 8259 section 7); any length, any bytes.
cdef void json_chars(Buf *out, Slice s) noexcept nogil
