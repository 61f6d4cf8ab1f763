"""The Redis serialisation protocol: one value, and where it ends. See resp.pyx."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from zerospan.exporter.proto.cursor cimport Slice

cdef enum:
    DEPTH_MAX = 32           # nesting beyond this is not followed: the value's end is then unknown
    CHILDREN = 3
    TEXT_LOOK = 512          # bytes of an argument or error text that are waited for

cdef enum WalkResult:
    WALK_WHOLE = 1           # total is exact (announced, or seen)
    WALK_MORE = 0
    WALK_BROKEN = -1         # not RESP
    WALK_OPEN = 2            # RESP, but its end cannot be known from these bytes

cdef struct Walk:
    uint32_t pos             # bytes looked at
    int64_t total
    uint8_t type             # first byte of the value itself (not of attributes before it); 0: not seen
    bint resp3               # a type that RESP2 does not have
    bint cut                 # the bytes end within the value
    bint whole_line          # the value's own first line was seen
    int64_t count            # elements of an aggregate, entries of a map; -1: null, streamed or no aggregate
    Slice line               # first line without type byte and line end; of a bulk error its text
    Slice child[CHILDREN]    # first scalar or bulk elements, as far as they were seen whole; else empty

# Reads a length line at p[*pos] behind its type byte: 1 read (*pos is behind it), 0 needs more, -1 no number.
# "?" (streamed) is -2, "-1" (null) is -1.
cdef int read_length(const uint8_t *p, uint32_t n, uint32_t *pos, int64_t *length) noexcept nogil
# Walks one value from a server, without recursion. `last`: no more bytes will come.
cdef int walk(const uint8_t *p, uint32_t n, bint last, Walk *w) noexcept nogil
