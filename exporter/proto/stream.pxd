"""One direction of a connection: from records to whole messages.

Bytes that were not captured, bodies and cut heads are settled here, so that a parser sees nothing but the
beginning of a message. Positions are offsets from the start of the current run.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from zerospan.exporter.proto.base cimport Parsed, ParseArgs, ProtoOps

cdef enum:
    STREAM_MAX = 16384       # bytes of an unfinished head that are kept; more is parsed as it is

cdef struct Stream:
    uint8_t *buf             # NULL unless a head is unfinished
    uint32_t n
    uint32_t cap
    uint32_t run             # number of the run that the fields below speak of
    uint64_t pos             # offset in the run of the next byte to parse (of buf[0] while a head is kept)
    int64_t skip             # bytes of the current message still to pass by; -1: all until the next run
    uint8_t keep             # the next run goes on with the same body: set at a 100-continue
    uint8_t lost             # bytes before a message's head were not captured: nothing can be told until the next run

ctypedef int (*message_fn)(void *ctx, const Parsed *m, uint64_t at) except -1 nogil

cdef int stream_begin_run(Stream *s, uint32_t run) noexcept nogil
# No more of the current run will come: a kept head is parsed as it is. Before stream_begin_run and at the connection's end.
cdef int stream_end_run(Stream *s, const ProtoOps *ops, ParseArgs *a, message_fn on_message, void *ctx) except? -2 nogil
# The run is known to have come to `length` bytes, of which the last were not fed.
cdef void stream_pass_to(Stream *s, uint64_t length) noexcept nogil
# Keeps bytes without parsing them: no parser owns the connection yet. -1 if it would be more than 2 * STREAM_MAX.
cdef int stream_keep(Stream *s, const uint8_t *data, uint32_t n) noexcept nogil
cdef void stream_free(Stream *s) noexcept nogil
# Feeds one record: `len` bytes passed at offset `off` of the run, of which `n` were captured at `data`; `cut` says that no
# more of this run will be captured. Calls `on_message` for each message. Returns an Outcome: NOT_MINE if the parser refused.
cdef int stream_feed(Stream *s, const ProtoOps *ops, ParseArgs *a, const uint8_t *data, uint32_t n, uint32_t length,
                     uint64_t off, bint cut, message_fn on_message, void *ctx) except? -2 nogil
