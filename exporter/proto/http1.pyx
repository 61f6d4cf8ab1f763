# cython: language_level=3, boundscheck=True, wraparound=False
"""HTTP/1.0 and 1.1 (RFC 9110, RFC 9112): one message head at a time.

Assumes the bytes of one direction from a message's first byte on (proto.stream sees to bodies and lost bytes).
Reads as servers do rather than as the RFC would like: bare LF, folded fields, empty lines before a message and odd
targets are understood, because a request that was answered took place. What is not an HTTP/1 start line at all is
NOT_MINE. A head that was cut yields what its whole lines say, with `truncated` set.

Called through the registry; keeps no state.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcmp, strlen

from zerospan.exporter.proto.base cimport (
    MORE, MSG, MT_IGNORE, MT_INTERIM, MT_REQUEST, MT_RESPONSE, MT_UPGRADE, NOT_MINE, PAIR_IN_ORDER, PROTO_HTTP1,
    ParseArgs, Parsed, ProtoOps, STATUS_CLIENT_ERROR, STATUS_OK, STATUS_SERVER_ERROR,
)
from zerospan.exporter.proto.cursor cimport Slice, slice_is, slice_of, slice_trim
from zerospan.exporter.proto.http1_head cimport (
    ANSWER_HAS_NO_BODY, ANSWER_OPENS_TUNNEL, Head, find_byte, is_text, measure, read_head,
)
from zerospan.exporter.proto.http1_mask cimport mask_path, mask_query
from zerospan.exporter.proto.stream cimport STREAM_MAX
from zerospan.exporter.proto.wire cimport wire_resolve

cdef enum:
    METHOD_MAX = 32          # longest method token
    METHODS = 39

# IANA's HTTP Method Registry, and PURGE of the caches. Other tokens are parsed as well, only not as easily recognised.
cdef const char *KNOWN[METHODS]
KNOWN[:] = [
    b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE", b"PROPFIND", b"PROPPATCH",
    b"MKCOL", b"COPY", b"MOVE", b"LOCK", b"UNLOCK", b"REPORT", b"SEARCH", b"ACL", b"BIND", b"UNBIND", b"REBIND",
    b"CHECKIN", b"CHECKOUT", b"UNCHECKOUT", b"UPDATE", b"LABEL", b"MERGE", b"MKACTIVITY", b"MKCALENDAR",
    b"MKWORKSPACE", b"VERSION-CONTROL", b"BASELINE-CONTROL", b"ORDERPATCH", b"LINK", b"UNLINK", b"QUERY",
    b"MKREDIRECTREF", b"PURGE",
]

cdef inline bint token_char(uint8_t c) noexcept nogil:
    """tchar of RFC 9110 section 5.6.2."""
    if 97 <= c <= 122 or 65 <= c <= 90 or 48 <= c <= 57:
        return True
    return c in (33, 35, 36, 37, 38, 39, 42, 43, 45, 46, 94, 95, 96, 124, 126)


cdef Slice host_of(Slice authority) noexcept nogil:
    """Without user information, which is a credential; empty if it cannot be a host."""
    cdef uint32_t i = authority.n
    while i:
        i -= 1
        if authority.p[i] == 64:
            authority = slice_of(authority.p + i + 1, authority.n - i - 1)
            break
    for i in range(authority.n):
        if authority.p[i] <= 32 or authority.p[i] >= 127 or authority.p[i] == 47:
            authority.n = 0
            break
    return authority


cdef void split_path(Slice t, Parsed *out) noexcept nogil:
    cdef uint32_t mark
    t.n = find_byte(t, 35)  # a fragment does not belong in a request; if one is there it is nobody's path
    mark = find_byte(t, 63)
    out.target = slice_of(t.p, mark)
    if mark < t.n:
        out.query = slice_of(t.p + mark + 1, t.n - mark - 1)


cdef uint32_t scheme_end(Slice t) noexcept nogil:
    """Offset behind "scheme://", or 0."""
    cdef uint32_t i = 0
    while i < t.n and (97 <= (t.p[i] | 32) <= 122 or (i and (48 <= t.p[i] <= 57 or t.p[i] in (43, 45, 46)))):
        i += 1
    if i and t.n - i >= 3 and memcmp(t.p + i, b"://", 3) == 0:
        return i + 3
    return 0


cdef void read_target(Slice t, bint whole, Parsed *out) noexcept nogil:
    """The four forms of RFC 9112 section 3.2. `whole`: its end was seen."""
    cdef uint32_t i, at
    if t.n == 0:
        return
    if slice_is(out.operation, b"CONNECT", 7):
        if whole:
            out.domain = host_of(t)
            out.target = out.domain
        return
    at = scheme_end(t) if t.p[0] != 47 else 0
    if at == 0:
        if whole or t.p[0] in (47, 42):  # else: a URL of which the path is not there yet
            split_path(t, out)
        return
    i = at
    while i < t.n and t.p[i] not in (47, 63, 35):
        i += 1
    if i == t.n and not whole:
        return
    out.domain = host_of(slice_of(t.p + at, i - at))
    split_path(slice_of(t.p + i, t.n - i), out)
    if out.target.n == 0:
        out.target = slice_of(<const uint8_t *>b"/", 1)


cdef int request_line(Slice s, bint whole, Parsed *out) noexcept nogil:
    """1 understood, 0 needs more, -1 no request line. A part of a line fills what it can."""
    cdef uint32_t i = 0
    cdef Slice rest
    while i < s.n and i <= METHOD_MAX and token_char(s.p[i]):
        i += 1
    if i == s.n and not whole:
        return 0 if i <= METHOD_MAX else -1
    if i == 0 or i == s.n or i > METHOD_MAX or s.p[i] != 32:
        return -1
    out.operation = slice_of(s.p, i)
    if slice_is(out.operation, b"HEAD", 4):
        out.bodiless = ANSWER_HAS_NO_BODY
    elif slice_is(out.operation, b"CONNECT", 7):
        out.bodiless = ANSWER_OPENS_TUNNEL
    rest = slice_of(s.p + i + 1, s.n - i - 1)
    if not whole and rest.n and rest.p[rest.n - 1] == 13:
        rest.n -= 1
    if not is_text(rest):
        return -1
    if not whole:
        rest = slice_trim(rest)
        i = find_byte(rest, 32)
        read_target(slice_of(rest.p, i), i < rest.n, out)
        return 0
    rest = slice_trim(rest)
    # Spaces inside a target are wrong and do occur: the version is what stands last.
    if rest.n < 10 or memcmp(rest.p + rest.n - 9, b" HTTP/1.", 8) != 0 or not 48 <= rest.p[rest.n - 1] <= 57:
        return -1
    out.version = 10 + (rest.p[rest.n - 1] - 48)
    read_target(slice_trim(slice_of(rest.p, rest.n - 9)), True, out)
    return 1


cdef int status_line(Slice s, bint whole, Parsed *out) noexcept nogil:
    """As request_line. The reason phrase and the space before it may be absent."""
    cdef uint32_t i
    cdef int code = 0
    if memcmp(s.p, b"HTTP/1.", 7 if s.n > 7 else s.n) != 0:
        return -1
    for i in range(7, 13 if s.n > 13 else s.n):
        if i == 8 or i == 12:
            if s.p[i] != 32 and (i == 8 or whole or s.p[i] != 13):
                return -1
        elif not 48 <= s.p[i] <= 57:
            return -1
        elif i > 8:
            code = code * 10 + (s.p[i] - 48)
    if s.n < 12:
        return -1 if whole else 0
    if code < 100:
        return -1
    out.version = 10 + (s.p[7] - 48)
    out.code = code
    out.status = STATUS_OK
    if code >= 500:  # RFC 9110 section 15: a code above 599 is to be treated as 5xx
        out.status = STATUS_SERVER_ERROR
    elif code >= 400:
        out.status = STATUS_CLIENT_ERROR
    return 1 if whole else 0


cdef int parse(const ParseArgs *a, Parsed *out) noexcept nogil:
    cdef uint32_t n = a.n if a.n < STREAM_MAX else STREAM_MAX
    cdef uint32_t i = 0, head = 0
    cdef const uint8_t *eol
    cdef Slice line
    cdef Head h
    cdef int got
    while i < n and (a.data[i] == 13 or a.data[i] == 10):
        i += 1
    if i:  # RFC 9112 section 2.2: empty lines before a message. They are no part of it: its first byte is its name.
        if i == n and not a.last:
            return MORE
        out.type = MT_IGNORE
        out.consumed = i
        out.total = i
        return MSG
    eol = <const uint8_t *>memchr(a.data, 10, n)
    line = slice_of(a.data, <uint32_t>(eol - a.data) if eol != NULL else n)
    if eol != NULL and line.n and line.p[line.n - 1] == 13:
        line.n -= 1
    if a.from_client:
        out.type = MT_REQUEST
        got = request_line(line, eol != NULL, out)
    else:
        out.type = MT_RESPONSE
        got = status_line(line, eol != NULL, out)
    if got < 0:
        return NOT_MINE
    if got:
        head = read_head(a.data, n, <uint32_t>(eol - a.data) + 1, &h, out)
    if head == 0 and not a.last:
        return MORE
    if got:
        if a.from_client:
            wire_resolve(&h.wire, out)
            if out.domain.n == 0 and out.bodiless != ANSWER_OPENS_TUNNEL:
                out.domain = host_of(h.host)
        elif out.code == 101 or (a.open_bodiless == ANSWER_OPENS_TUNNEL and out.code // 100 == 2):
            out.type = MT_UPGRADE
        elif out.code < 200:
            out.type = MT_INTERIM
    if head == 0:
        out.truncated = 1
        out.consumed = n
        return MSG
    return measure(a, n, head, &h, out)


cdef int method_rank(Slice s, bint whole) noexcept nogil:
    """2: a known method (`whole`) or the beginning of one; 1: could be any other; 0: no method."""
    cdef int i
    cdef uint32_t k, n
    if s.n == 0 or s.n > METHOD_MAX:
        return 0
    for i in range(METHODS):
        n = <uint32_t>strlen(KNOWN[i])
        if (n == s.n if whole else n > s.n) and memcmp(s.p, KNOWN[i], s.n) == 0:
            return 2
    for k in range(s.n):  # every other protocol's words are tokens too: those of upper case only
        if not 65 <= s.p[k] <= 90 and s.p[k] != 45 and s.p[k] != 95:
            return 0
    return 1


cdef int sniff_request(const ParseArgs *a) noexcept nogil:
    cdef Parsed m
    cdef uint32_t i = 0, k
    cdef Slice line
    cdef const uint8_t *eol
    cdef int known
    while i < a.n and i < 4 and (a.data[i] == 13 or a.data[i] == 10):
        i += 1
    if i == a.n:
        return 0 if a.last else 1
    line = slice_of(a.data + i, a.n - i if a.n - i < STREAM_MAX else STREAM_MAX)
    eol = <const uint8_t *>memchr(line.p, 10, line.n)
    if eol != NULL:
        line.n = <uint32_t>(eol - line.p)
        if line.n and line.p[line.n - 1] == 13:
            line.n -= 1
    k = find_byte(line, 32)
    known = method_rank(slice_of(line.p, k), k < line.n)
    if known == 0:
        return 0
    if k == line.n:
        return 0 if eol != NULL or a.last else 1
    m.operation.n = 0
    m.target.n = 0
    m.query.n = 0
    m.domain.n = 0
    m.bodiless = 0
    if request_line(line, eol != NULL, &m) < 0:
        return 0
    if eol != NULL:
        return 3 if known == 2 else 2
    k += 1
    if k == line.n:
        return 0 if a.last else 1
    # The line's end is not there: a path, "*" or a URL looks like HTTP; a CONNECT's host could be anything.
    if line.p[k] in (47, 42) or scheme_end(slice_of(line.p + k, line.n - k)):
        return (2 if known == 2 else 0) if a.last else 1
    return 0 if a.last else 1


cdef int sniff(const ParseArgs *a) noexcept nogil:
    cdef Parsed m
    cdef Slice s = slice_of(a.data, a.n if a.n < 14 else 14)
    if a.n == 0:
        return 1
    if a.from_client:
        return sniff_request(a)
    if status_line(s, False, &m) < 0:
        return 0
    if s.n >= 12:
        return 3
    if a.last:
        return 2 if s.n > 8 else 0
    return 1


cdef ProtoOps OPS
OPS.id = PROTO_HTTP1
OPS.pairing = PAIR_IN_ORDER
OPS.datagram = 0
OPS.name = b"http"
OPS.sniff = sniff
OPS.parse = parse
OPS.mask = mask_path
OPS.mask_query = mask_query
OPS.free_state = NULL


cdef const ProtoOps *http1_ops() noexcept:
    return &OPS
