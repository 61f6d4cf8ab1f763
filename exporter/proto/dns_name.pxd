"""DNS: names, types and response codes as text. See dns_name.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from zerospan.exporter.proto.cursor cimport Cursor, Slice

cdef enum:
    DNS_NAME_MAX = 1024      # presentation form: 255 bytes, each at most \DDD
    DNS_WORD_MAX = 16        # TYPE65535, RCODE4095

# Past a name, without following a pointer. False: not a name, or cut (then c.ok is off).
cdef bint name_skip(Cursor *c) noexcept nogil
# The name at offset `at` of a message in presentation form; its length, or -1 if it is none or cut.
cdef int name_text(Slice message, uint32_t at, uint8_t *out) noexcept nogil
# Static text, or TYPE123 / RCODE123 in `room` (DNS_WORD_MAX bytes).
cdef Slice type_text(uint16_t type, uint8_t *room) noexcept nogil
cdef Slice rcode_text(uint16_t rcode, uint8_t *room) noexcept nogil
cdef bint type_known(uint16_t type) noexcept nogil
