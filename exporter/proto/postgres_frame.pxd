"""PostgreSQL's frames: a type byte, a length that counts itself, a body; start-up packets have no type byte."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from zerospan.exporter.proto.base cimport ParseArgs, Parsed
from zerospan.exporter.proto.cursor cimport Cursor, Slice

cdef enum:
    PG_STARTUP_MAX = 10000       # the server refuses longer ones
    PG_CANCEL = 80877102
    PG_SSL = 80877103
    PG_GSSENC = 80877104

cdef struct Frame:
    uint8_t type             # 0: a start-up packet
    int64_t size             # of the whole frame with its head; 0 if the head itself was cut
    Cursor body              # what is there of the body
    bint whole
    bint last                # nothing of this run will be seen behind this frame

# An Outcome. MORE until the frame is whole or the run is cut; NOT_MINE if it can be none.
cdef int frame_read(const ParseArgs *a, Frame *f) noexcept nogil
# Covers the frame as MT_IGNORE: no operation of its own. Returns MSG.
cdef int frame_ignore(const ParseArgs *a, const Frame *f, Parsed *out) noexcept nogil
# A zero-terminated text of the body; False if its end was cut, `out` is then what is there.
cdef bint frame_text(Cursor *c, Slice *out) noexcept nogil
# ProtoOps.sniff: by chains of frames whose types, lengths and bodies fit together.
cdef int frame_sniff(const ParseArgs *a) noexcept nogil
