# cython: language_level=3, boundscheck=True, wraparound=False
"""FastCGI 1.0: the HTTP request that a web server hands to PHP-FPM and its kin, and the answer's status.

Assumes what all servers do: one request at a time on a connection (the specification's multiplexing is used by nobody), BEGIN_REQUEST
first (section 5.1), what matters of its PARAMS (5.2) in one record; a cut one says what its whole pairs say. Of an answer
the CGI head at the beginning of STDOUT is read (RFC 3875 section 6): Status, else 200, or 302 with a Location. A message lasts
until the other side speaks. Called through the registry; keeps no state.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp

from zerospan.exporter.proto.base cimport (
    MORE, MSG, MT_IGNORE, MT_REQUEST, MT_RESPONSE, NOT_MINE, PAIR_IN_ORDER, PROTO_FASTCGI, ParseArgs, Parsed, ProtoOps,
    STATUS_CLIENT_ERROR, STATUS_OK, STATUS_SERVER_ERROR,
)
from zerospan.exporter.proto.cursor cimport (
    Cursor, Slice, cur_be16, cur_be32, cur_init, cur_skip, cur_take, cur_u8, slice_is, slice_is_nocase, slice_of, slice_trim,
    slice_u64,
)
from zerospan.exporter.proto.http1_head cimport find_byte, is_text
from zerospan.exporter.proto.http1_mask cimport mask_path, mask_query
from zerospan.exporter.proto.stream cimport STREAM_MAX
from zerospan.exporter.proto.wire cimport WireHeaders, wire_init, wire_keep, wire_resolve, wire_slot

cdef enum:
    HEADER = 8
    BEGIN_REQUEST = 1
    ABORT_REQUEST = 2
    END_REQUEST = 3
    PARAMS = 4
    STDIN = 5
    STDOUT = 6
    STDERR = 7
    TYPE_MAX = 11
    NAME_MAX_BYTES = 40      # of a header field that matters here
    METHOD_MAX = 32

cdef struct Head:            # of a record
    uint8_t type
    uint16_t id
    uint32_t length          # of the content
    uint32_t size            # of the whole record


cdef int read_head(const uint8_t *p, uint32_t n, Head *h) noexcept nogil:
    """1 understood, 0 needs more, -1 none. What is there of it is checked."""
    cdef Cursor c
    if n and p[0] != 1:
        return -1
    if n > 1 and not 1 <= p[1] <= TYPE_MAX:
        return -1
    if n < HEADER:
        return 0
    cur_init(&c, p + 1, HEADER - 1)
    h.type = cur_u8(&c)
    h.id = cur_be16(&c)
    h.length = cur_be16(&c)
    h.size = HEADER + h.length + cur_u8(&c)
    return 1


cdef uint32_t pair_length(Cursor *c) noexcept nogil:
    """Section 3.4: one byte below 128, else four of which the first bit is set."""
    if c.left and c.p[0] < 128:
        return cur_u8(c)
    return cur_be32(c) & 0x7FFFFFFF


cdef void http_field(Slice name, Slice value, WireHeaders *wire, Parsed *out) noexcept nogil:
    """HTTP_X_REQUEST_ID as the field x-request-id (RFC 3875 section 4.1.18)."""
    cdef uint8_t field[NAME_MAX_BYTES]
    cdef Slice *slot
    cdef uint32_t i
    if name.n > NAME_MAX_BYTES:
        return
    for i in range(name.n):
        field[i] = 45 if name.p[i] == 95 else name.p[i]
    name = slice_of(field, name.n)
    slot = wire_slot(wire, name)
    if slot != NULL:
        wire_keep(wire, slot, value)
    elif slice_is_nocase(name, b"host", 4):
        out.domain = value
    elif slice_is_nocase(name, b"user-agent", 10):
        out.user_agent = value
    elif slice_is_nocase(name, b"x-request-id", 12):
        out.request_id = value


cdef void param(Slice name, Slice value, WireHeaders *wire, Slice *script, Parsed *out) noexcept nogil:
    cdef uint32_t mark
    if not is_text(value):
        return
    if slice_is(name, b"REQUEST_METHOD", 14):
        if value.n <= METHOD_MAX:
            out.operation = value
    elif slice_is(name, b"REQUEST_URI", 11):
        mark = find_byte(value, 63)
        out.target = slice_of(value.p, mark)
        if mark < value.n:
            out.query = slice_of(value.p + mark + 1, value.n - mark - 1)
    elif slice_is(name, b"SCRIPT_NAME", 11):
        script[0] = value
    elif slice_is(name, b"CONTENT_LENGTH", 14):
        out.body_size = slice_u64(value)
    elif name.n > 5 and memcmp(name.p, b"HTTP_", 5) == 0:
        http_field(slice_of(name.p + 5, name.n - 5), value, wire, out)


cdef void read_params(Slice content, WireHeaders *wire, Slice *script, Parsed *out) noexcept nogil:
    """All whole pairs. One that is split between two records is passed by, with what is behind it."""
    cdef Cursor c
    cdef uint32_t name_n, value_n
    cdef Slice name, value
    cur_init(&c, content.p, content.n)
    while c.ok and c.left:
        name_n = pair_length(&c)
        value_n = pair_length(&c)
        name = cur_take(&c, name_n)
        value = cur_take(&c, value_n)
        if c.ok:
            param(name, value, wire, script, out)


cdef int request(const ParseArgs *a, uint32_t n, Parsed *out) noexcept nogil:
    cdef WireHeaders wire
    cdef Slice script = slice_of(a.data, 0)
    cdef Head h
    cdef uint32_t pos = 0, there
    cdef int got
    wire_init(&wire)
    out.type = MT_REQUEST
    while True:
        got = read_head(a.data + pos, n - pos, &h)
        if got < 0:
            return NOT_MINE
        if got == 0:
            if not a.last:
                return MORE
            out.truncated = 1
            if pos == 0 and (n < 2 or a.data[1] != BEGIN_REQUEST):   # cut too short to tell
                out.type = MT_IGNORE
            break
        if pos == 0 and h.type != BEGIN_REQUEST:
            if h.type in (END_REQUEST, STDOUT, STDERR):
                return NOT_MINE
            # a question about the application (GET_VALUES), an abort, or the rest of a request whose head was lost
            out.type = MT_IGNORE
            out.consumed = HEADER
            out.total = h.size
            return MSG
        if h.type == BEGIN_REQUEST and (pos or h.length != 8 or h.id == 0):
            return NOT_MINE
        there = n - pos - HEADER if n - pos - HEADER < h.length else h.length
        if there < h.length and not a.last:
            return MORE
        if h.type == PARAMS and h.length:
            read_params(slice_of(a.data + pos + HEADER, there), &wire, &script, out)
            # what ends the parameters is a record of its own, which may lie behind the capture: not waited for
            if there == h.length and out.operation.n and (out.target.n or script.n):
                pos += HEADER + h.length
                break
        if pos + h.size >= n and not (h.type == PARAMS and h.length == 0):
            if not a.last:
                return MORE
            out.truncated = 1
            break
        if h.type == PARAMS and h.length == 0:
            pos += HEADER
            break
        pos += h.size
        if h.type not in (BEGIN_REQUEST, PARAMS):
            return NOT_MINE
    out.consumed = n if out.truncated else pos
    if out.target.n == 0:
        out.target = script
    wire_resolve(&wire, out)
    return MSG


cdef bint head_line(Slice line, bint *redirect, Parsed *out) noexcept nogil:
    """A field of the CGI head; False for the empty line that ends it."""
    cdef uint32_t colon = find_byte(line, 58)
    cdef Slice name = slice_of(line.p, colon), value
    if line.n == 0:
        return False
    if colon < line.n:
        value = slice_trim(slice_of(line.p + colon + 1, line.n - colon - 1))
        if slice_is_nocase(name, b"status", 6):
            value.n = find_byte(value, 32)
            if value.n == 3 and slice_u64(value) >= 100:
                out.code = <int>slice_u64(value)
        elif slice_is_nocase(name, b"location", 8):
            redirect[0] = True
    return True


cdef int read_cgi_head(Slice content, bint *redirect, Parsed *out) noexcept nogil:
    """1: the head ends in these bytes, 0: it goes on."""
    cdef uint32_t end
    cdef Slice line
    while content.n:
        end = find_byte(content, 10)
        if end == content.n:
            return 0
        line = slice_of(content.p, end)
        if line.n and line.p[line.n - 1] == 13:
            line.n -= 1
        content.p += end + 1
        content.n -= end + 1
        if not head_line(line, redirect, out):
            return 1
    return 0


cdef int response(const ParseArgs *a, uint32_t n, Parsed *out) noexcept nogil:
    cdef Head h
    cdef uint32_t pos = 0, there
    cdef bint redirect = False, whole = False, told = False
    cdef int got
    out.type = MT_RESPONSE
    while not whole:
        got = read_head(a.data + pos, n - pos, &h)
        if got < 0:
            return NOT_MINE
        if got == 0:
            if not a.last:
                return MORE
            if pos == 0 and (n < 2 or a.data[1] > STDERR):
                out.type = MT_IGNORE
            break
        if h.type not in (STDOUT, STDERR, END_REQUEST):
            if pos or h.type in (BEGIN_REQUEST, PARAMS, STDIN):
                return NOT_MINE
            out.type = MT_IGNORE     # GET_VALUES_RESULT, UNKNOWN_TYPE
            out.consumed = HEADER
            out.total = h.size
            return MSG
        there = n - pos - HEADER if n - pos - HEADER < h.length else h.length
        if h.type == STDOUT and h.length:
            told = True
            whole = read_cgi_head(slice_of(a.data + pos + HEADER, there), &redirect, out)
        whole = whole or h.type == END_REQUEST
        if not whole and pos + h.size >= n:
            if not a.last:
                return MORE
            break
        if not whole:
            pos += h.size
    out.consumed = n if not whole else pos + HEADER
    out.truncated = not whole
    if whole and told and out.code < 0:
        out.code = 302 if redirect else 200
    if out.code >= 500:
        out.status = STATUS_SERVER_ERROR
    elif out.code >= 400:
        out.status = STATUS_CLIENT_ERROR
    elif out.code >= 0:
        out.status = STATUS_OK
    return MSG


cdef int parse(const ParseArgs *a, Parsed *out) noexcept nogil:
    cdef uint32_t n = a.n if a.n < STREAM_MAX else STREAM_MAX
    return request(a, n, out) if a.from_client else response(a, n, out)


cdef int sniff(const ParseArgs *a) noexcept nogil:
    cdef Head h
    cdef int got = read_head(a.data, a.n, &h)
    if got < 0:
        return 0
    if got == 0:
        return 0 if a.last else 1
    if a.data[7] != 0 or h.id == 0:      # reserved; id 0 is for questions about the application
        return 0
    if not a.from_client:
        return 2 if h.type in (STDOUT, STDERR, END_REQUEST) else 0
    if h.type != BEGIN_REQUEST or h.length != 8 or a.data[6] != 0:
        return 0
    if a.n < HEADER + 8:
        return 0 if a.last else 1
    # a role of three, one flag, five reserved bytes of 0
    if a.data[8] != 0 or not 1 <= a.data[9] <= 3 or a.data[10] > 1 or memcmp(a.data + 11, b"\0\0\0\0\0", 5) != 0:
        return 0
    return 3


cdef ProtoOps OPS
OPS.id = PROTO_FASTCGI
OPS.pairing = PAIR_IN_ORDER
OPS.datagram = 0
OPS.name = b"fastcgi"
OPS.sniff = sniff
OPS.parse = parse
OPS.mask = mask_path
OPS.mask_query = mask_query
OPS.free_state = NULL


cdef const ProtoOps *fastcgi_ops() noexcept:
    return &OPS
