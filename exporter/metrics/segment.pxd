"""What a segment of a path is: a word of the application, or a value. See segment.pyx."""

from libc.stdint cimport uint8_t, uint32_t

from zerospan.exporter.proto.cursor cimport Slice

cdef enum:
    SEGMENT_MAX = 64         # bytes; a longer one is a value
    EXTENSION_MAX = 5        # letters and digits after the last dot of a file name

# The segment's place in a template: itself (a word), "{id}", or "{id}.ext" written to `out` (16 bytes). `is_word`: its
# text is the client's choice, so the number of such texts must be bounded.
cdef Slice segment_template(Slice s, uint8_t *out, bint *is_word) noexcept nogil
