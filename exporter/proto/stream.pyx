# cython: language_level=3, boundscheck=True, wraparound=False
"""One direction of a connection: from captured records to whole messages. See stream.pxd.

Called by assemble.flows for live and replayed records and by proto.harness in the parsers' tests, so that
the tests feed parsers exactly as the agent does.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove

from zerospan.exporter.proto.base cimport (
    LENGTH_UNKNOWN, MORE, MSG, MT_RESPONSE, NOT_MINE, ParseArgs, Parsed, ProtoOps, parsed_init,
)


cdef void stream_free(Stream *s) noexcept nogil:
    free(s.buf)
    s.buf = NULL
    s.n = 0
    s.cap = 0


cdef int stream_begin_run(Stream *s, uint32_t run) noexcept nogil:
    """The other side has spoken. A body of announced length goes on (Expect: 100-continue, or an answer
    that came before the request's end); everything else starts afresh."""
    s.run = run
    s.pos = 0
    s.n = 0
    s.lost = 0
    if s.skip < 0 and not s.keep:
        s.skip = 0
    s.keep = 0
    return 0


cdef void pass_by(Stream *s, uint64_t n) noexcept nogil:
    """n bytes went by that nobody copied."""
    s.pos += n
    if s.skip < 0:
        return
    if <uint64_t>s.skip >= n:
        s.skip -= <int64_t>n
    else:
        s.skip = 0
        s.lost = 1


cdef void stream_pass_to(Stream *s, uint64_t length) noexcept nogil:
    cdef uint64_t seen = s.pos + s.n
    if length > seen and not s.lost:
        s.n = 0
        pass_by(s, length - s.pos)


cdef int keep_head(Stream *s, const uint8_t *p, uint32_t n) noexcept nogil:
    """Keeps an unfinished head; the bytes may lie inside the buffer already."""
    cdef uint8_t *grown
    cdef uint32_t cap
    if s.cap < n:
        cap = 256
        while cap < n:
            cap *= 2
        grown = <uint8_t *>malloc(cap)
        if grown == NULL:
            return -1
        memcpy(grown, p, n)
        free(s.buf)
        s.buf = grown
        s.cap = cap
    else:
        memmove(s.buf, p, n)
    s.n = n
    return 0


cdef int parse_some(Stream *s, const ProtoOps *ops, ParseArgs *a, const uint8_t *p, uint32_t n, bint last,
                    message_fn on_message, void *ctx) except? -2 nogil:
    """Parses what lies at p: the message head starts at s.pos - (what of it is passed already)."""
    cdef Parsed m
    cdef int outcome
    cdef uint32_t step
    while n:
        if s.skip < 0:
            s.pos += n
            return MORE
        if s.skip > 0:
            step = n if <uint64_t>s.skip >= n else <uint32_t>s.skip
            s.skip -= step
            s.pos += step
            p += step
            n -= step
            continue
        a.data = p
        # Never more than what would be kept: a message must read the same however its bytes were split.
        a.n = n if n < STREAM_MAX else STREAM_MAX
        a.last = last or n >= STREAM_MAX
        parsed_init(&m)
        outcome = ops.parse(a, &m)
        if outcome == MORE and not a.last:
            if keep_head(s, p, n) < 0:
                s.lost = 1
                s.pos += n
                return NOT_MINE
            return MORE
        # A response of no bytes takes an open request each time, so that this ends.
        if outcome != MSG or m.consumed > n or (m.consumed == 0 and m.type != MT_RESPONSE):
            s.lost = 1
            s.pos += n
            return NOT_MINE
        on_message(ctx, &m, s.pos)
        s.pos += m.consumed
        p += m.consumed
        n -= m.consumed
        if m.total == LENGTH_UNKNOWN:
            s.skip = -1
        elif m.total > m.consumed:
            s.skip = m.total - m.consumed
    return MSG


cdef int stream_feed(Stream *s, const ProtoOps *ops, ParseArgs *a, const uint8_t *data, uint32_t n, uint32_t length,
                     uint64_t off, bint cut, message_fn on_message, void *ctx) except? -2 nogil:
    cdef int outcome = MORE
    cdef uint64_t seen = s.pos + s.n
    cdef uint32_t held
    if off < seen:
        return MORE
    if off > seen:
        if s.n:
            held = s.n
            s.n = 0
            outcome = parse_some(s, ops, a, s.buf, held, True, on_message, ctx)
        pass_by(s, off - s.pos)
    if s.lost:
        s.pos = off + length
        return outcome
    if n:
        if s.n:
            held = s.n
            if stream_keep(s, data, n) < 0:
                s.n = 0
                s.lost = 1
                s.pos = off + length
                return NOT_MINE
            s.n = 0
            outcome = parse_some(s, ops, a, s.buf, held + n, cut, on_message, ctx)
        else:
            outcome = parse_some(s, ops, a, data, n, cut, on_message, ctx)
    if length > n:
        if s.n:
            held = s.n
            s.n = 0
            outcome = parse_some(s, ops, a, s.buf, held, True, on_message, ctx)
        if not s.lost:
            pass_by(s, length - n)
        else:
            s.pos += length - n
    return outcome


cdef int stream_end_run(Stream *s, const ProtoOps *ops, ParseArgs *a, message_fn on_message, void *ctx) except? -2 nogil:
    cdef uint32_t held = s.n
    if held == 0:
        return MORE
    s.n = 0
    return parse_some(s, ops, a, s.buf, held, True, on_message, ctx)


cdef int stream_keep(Stream *s, const uint8_t *data, uint32_t n) noexcept nogil:
    cdef uint32_t cap = s.cap if s.cap else 256
    cdef uint8_t *grown
    if s.n + n > 2 * STREAM_MAX:
        return -1
    while cap < s.n + n:
        cap *= 2
    if cap > s.cap:
        grown = <uint8_t *>realloc(s.buf, cap)
        if grown == NULL:
            return -1
        s.buf = grown
        s.cap = cap
    memcpy(s.buf + s.n, data, n)
    s.n += n
    return 0
