# cython: language_level=3, boundscheck=True, wraparound=False
"""What the header fields of an HTTP/1 message say, and how long the message is (RFC 9110, RFC 9112).

Length of a message (RFC 9112 section 6.3): none for HEAD, 1xx, 204 and 304; chunked when its last chunk is among the
bytes, unknown when it cannot be; Content-Length; none for requests without either; else until the connection ends.
A chunked message is told once its end was seen or no more bytes will come, so that what follows it is found.

Called by proto.http1; keeps no state and never reads beyond STREAM_MAX bytes of a message.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from zerospan.exporter.proto.base cimport MORE, MSG, MT_INTERIM, MT_REQUEST, MT_RESPONSE, MT_UPGRADE, ParseArgs, Parsed
from zerospan.exporter.proto.cursor cimport (
    Cursor, Slice, cur_init, cur_peek, cur_skip, cur_until, slice_is_nocase, slice_of, slice_trim,
)
from zerospan.exporter.proto.stream cimport STREAM_MAX
from zerospan.exporter.proto.wire cimport wire_init, wire_keep, wire_slot

cdef enum:
    ID_RANKS = 4             # Head.id_rank while there is no request id


cdef inline Slice trim_line(Slice s) noexcept nogil:
    """Without white space and line ends around it."""
    while s.n and s.p[0] in (32, 9, 13, 10):
        s.p += 1
        s.n -= 1
    while s.n and s.p[s.n - 1] in (32, 9, 13, 10):
        s.n -= 1
    return s


cdef int64_t content_length(Slice v) noexcept nogil:
    """One number, or a list of equal ones (RFC 9110 section 8.6); more than 18 digits are nonsense."""
    cdef int64_t found = LENGTH_NONE, value
    cdef uint32_t i = 0, digits
    while True:
        while i < v.n and v.p[i] in (32, 9, 13, 10):
            i += 1
        value = 0
        digits = 0
        while i < v.n and 48 <= v.p[i] <= 57:
            if digits and value > 99999999999999999LL:
                return LENGTH_BAD
            value = value * 10 + (v.p[i] - 48)
            digits += 1
            i += 1
        while i < v.n and v.p[i] in (32, 9, 13, 10):
            i += 1
        if digits == 0 or (found >= 0 and found != value):
            return LENGTH_BAD
        found = value
        if i == v.n:
            return found
        if v.p[i] != 44:
            return LENGTH_BAD
        i += 1


cdef uint8_t transfer_coding(Slice v) noexcept nogil:
    """By the last coding of the list."""
    cdef uint32_t i = v.n
    while i and v.p[i - 1] != 44:
        i -= 1
    v = trim_line(slice_of(v.p + i, v.n - i))
    v.n = find_byte(v, 59)
    v = trim_line(v)
    if slice_is_nocase(v, b"chunked", 7):
        return CODING_CHUNKED
    return CODING_NONE if slice_is_nocase(v, b"identity", 8) else CODING_OTHER


cdef void request_id(Head *h, Slice v, uint8_t rank, Parsed *out) noexcept nogil:
    if v.n and rank < h.id_rank:
        h.id_rank = rank
        out.request_id = v


cdef bint is_stream(Slice v) noexcept nogil:
    """Media types that are sent piece by piece, with silence in between: Server-Sent Events (WHATWG HTML section 9.2),
    multipart/x-mixed-replace (cameras), JSON text sequences (RFC 7464) and lines."""
    v.n = find_byte(v, 59)
    v = trim_line(v)
    return (slice_is_nocase(v, b"text/event-stream", 17) or slice_is_nocase(v, b"multipart/x-mixed-replace", 25)
            or slice_is_nocase(v, b"application/json-seq", 20) or slice_is_nocase(v, b"application/x-ndjson", 20)
            or slice_is_nocase(v, b"application/stream+json", 23))


cdef enum Field:             # those that tell something
    FIELD_OTHER
    FIELD_HOST
    FIELD_LENGTH
    FIELD_CODING
    FIELD_AGENT
    FIELD_TYPE
    FIELD_ID                 # + rank: the names that request ids have, the best first


cdef inline int field_of(Slice name) noexcept nogil:
    """Which field (any case) this is, but for trace contexts."""
    if name.n == 4:
        return FIELD_HOST if slice_is_nocase(name, b"host", 4) else FIELD_OTHER
    if name.n == 10:
        if slice_is_nocase(name, b"user-agent", 10):
            return FIELD_AGENT
        return FIELD_ID + 1 if slice_is_nocase(name, b"request-id", 10) else FIELD_OTHER
    if name.n == 12:
        if slice_is_nocase(name, b"content-type", 12):
            return FIELD_TYPE
        if slice_is_nocase(name, b"x-request-id", 12):
            return FIELD_ID
        return FIELD_ID + 2 if slice_is_nocase(name, b"x-bfe-log-id", 12) else FIELD_OTHER
    if name.n == 14:
        return FIELD_LENGTH if slice_is_nocase(name, b"content-length", 14) else FIELD_OTHER
    if name.n == 15:
        return FIELD_ID + 3 if slice_is_nocase(name, b"stgw-request-id", 15) else FIELD_OTHER
    return FIELD_CODING if slice_is_nocase(name, b"transfer-encoding", 17) else FIELD_OTHER


cdef void field(Head *h, Slice name, Slice value, Parsed *out) noexcept nogil:
    cdef int64_t length
    cdef Slice *slot = NULL
    cdef Slice text
    cdef int which
    name = slice_trim(name)
    which = field_of(name)
    if which == FIELD_OTHER:
        slot = wire_slot(&h.wire, name)
        if slot == NULL:
            return
    value = trim_line(value)
    if which == FIELD_LENGTH:
        length = content_length(value)
        h.length = length if h.length == LENGTH_NONE or h.length == length else LENGTH_BAD
        return
    if which == FIELD_CODING:
        h.coding = transfer_coding(value)
        return
    text = trim_line(slice_of(value.p, find_byte(value, 10)))   # a folded text keeps its first line
    if not is_text(text):
        text.n = 0
    if which == FIELD_OTHER:
        wire_keep(&h.wire, slot, text)
    elif which == FIELD_HOST:
        if h.host.n == 0:
            h.host = text
    elif which == FIELD_AGENT:
        out.user_agent = text
    elif which == FIELD_TYPE:
        h.stream = is_stream(text)
    else:
        request_id(h, text, <uint8_t>(which - FIELD_ID), out)


cdef uint32_t read_head(const uint8_t *p, uint32_t n, uint32_t start, Head *h, Parsed *out) noexcept nogil:
    """A line that starts with white space goes on with the one before (obs-fold)."""
    cdef Cursor c
    cdef Slice line, more
    cdef uint32_t colon
    h.length = LENGTH_NONE
    h.coding = CODING_NONE
    h.id_rank = ID_RANKS
    h.stream = 0
    h.host.n = 0
    wire_init(&h.wire)
    cur_init(&c, p + start, n - start)
    while cur_until(&c, 10, &line):
        if line.n == 0 or (line.n == 1 and line.p[0] == 13):
            return n - c.left
        while cur_peek(&c, 0) in (32, 9) and cur_until(&c, 10, &more):
            line.n = <uint32_t>(more.p - line.p) + more.n
        colon = find_byte(line, 58)
        if colon and colon < line.n:
            field(h, slice_of(line.p, colon), slice_of(line.p + colon + 1, line.n - colon - 1), out)
    return 0


cdef int chunk_size(Cursor *c, Slice *line, int64_t *size) noexcept nogil:
    """1: a chunk-size line was read, 0: it is not all there, -1: it is none (RFC 9112 section 7.1)."""
    cdef uint32_t i
    cdef uint8_t digit
    if not cur_until(c, 10, line):
        return 0
    size[0] = 0
    for i in range(line.n):
        digit = line.p[i]
        if 48 <= digit <= 57:
            digit -= 48
        elif 97 <= (digit | 32) <= 102:
            digit = (digit | 32) - 87
        else:
            return 1 if i and digit in (13, 59, 32, 9) else -1
        size[0] = size[0] * 16 + digit
        if size[0] > STREAM_MAX:
            return -1
    return 1 if line.n else -1


cdef int chunked_body(const uint8_t *p, uint32_t n, uint32_t start, uint32_t *end, int64_t *body) noexcept nogil:
    """1: whole, *end is the offset behind it; 0: needs more; -1: broken, or can never be seen whole."""
    cdef Cursor c
    cdef Slice line
    cdef int64_t size
    cdef int got
    body[0] = 0
    cur_init(&c, p + start, n - start)
    while True:
        got = chunk_size(&c, &line, &size)
        if got <= 0:
            return got
        if size == 0:
            break
        if <int64_t>(c.p - p) + size > STREAM_MAX:
            return -1
        if not cur_skip(&c, <uint32_t>size):
            return 0
        body[0] += size
        if not cur_until(&c, 10, &line):
            return 0 if c.left == 0 or (c.left == 1 and c.p[0] == 13) else -1
        if line.n > 1 or (line.n == 1 and line.p[0] != 13):
            return -1
    while cur_until(&c, 10, &line):  # trailer fields, then the empty line
        if line.n == 0 or (line.n == 1 and line.p[0] == 13):
            end[0] = <uint32_t>(c.p - p)
            return 1
    return 0


cdef int measure(const ParseArgs *a, uint32_t n, uint32_t head, const Head *h, Parsed *out) noexcept nogil:
    """Settles total and body_size of a whole head; an Outcome."""
    cdef uint32_t end = 0
    cdef int64_t body = 0
    cdef int got
    out.consumed = head
    if out.type == MT_UPGRADE:
        return MSG
    if out.type == MT_INTERIM or (out.type == MT_RESPONSE and (
        out.code == 204 or out.code == 304 or a.open_bodiless == ANSWER_HAS_NO_BODY
    )):
        out.total = head
        out.body_size = 0
    elif h.coding == CODING_CHUNKED:
        got = chunked_body(a.data, n, head, &end, &body)
        if got == 0 and not a.last:
            return MORE
        if got == 1:
            out.consumed = end
            out.total = end
            out.body_size = body
    elif h.coding == CODING_NONE and h.length >= 0:
        out.body_size = h.length
        out.total = head + h.length
    elif h.coding == CODING_NONE and h.length == LENGTH_NONE and out.type == MT_REQUEST:
        out.body_size = 0
        out.total = head
    if out.type == MT_RESPONSE and out.total < 0:
        out.ends_itself = h.stream or (h.coding != CODING_CHUNKED and h.length == LENGTH_NONE)
    return MSG
