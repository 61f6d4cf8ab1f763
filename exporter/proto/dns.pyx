# cython: language_level=3, boundscheck=True, wraparound=False
"""DNS over UDP and TCP; mDNS and LLMNR have the same format.

Sources: RFC 1035 section 4 (messages), 4.2.2 (TCP: two bytes of length), RFC 6891 (OPT, extended RCODE), RFC
1996 (NOTIFY), RFC 2136 (UPDATE), RFC 5936 (AXFR: one answer in several messages). Which is request and which
response is told by the QR bit, never by who sent it. ParseArgs.datagram tells UDP from TCP. Called through
dns_ops().
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free

from zerospan.exporter.proto.base cimport (
    LENGTH_UNKNOWN, MORE, MSG, MT_IGNORE, MT_REQUEST, MT_RESPONSE, NOT_MINE, PAIR_BY_ID, PROTO_DNS,
    STATUS_CLIENT_ERROR, STATUS_OK, STATUS_SERVER_ERROR, ParseArgs, Parsed, ProtoOps,
)
from zerospan.exporter.proto.cursor cimport (
    Cursor, Slice, cur_be16, cur_be32, cur_init, cur_skip, slice_of,
)
from zerospan.exporter.proto.dns_name cimport (
    DNS_NAME_MAX, DNS_WORD_MAX, name_skip, name_text, rcode_text, type_known, type_text,
)

cdef enum:
    HEADER = 12
    TYPE_OPT = 41
    TYPE_IXFR = 251
    TYPE_AXFR = 252
    OPCODE_QUERY = 0
    OPCODE_NOTIFY = 4
    OPCODE_UPDATE = 5
    OPCODE_DSO = 6

cdef struct State:           # what the slices of the last message point into
    uint8_t name[DNS_NAME_MAX]
    uint8_t type[DNS_WORD_MAX]
    uint8_t rcode[DNS_WORD_MAX]
    bint transfer            # a zone transfer's first answer was told: more messages with its id are no answers
    uint16_t transfer_id

cdef struct Header:
    uint16_t id
    bint response
    uint8_t opcode
    bint cut_short           # TC
    bint reserved            # Z, must be zero
    uint16_t rcode
    uint16_t questions
    uint16_t answers
    uint16_t authorities
    uint16_t additional

cdef struct Question:
    int name                 # length of the first question's name in State.name; -1: none
    uint16_t type
    uint16_t cls


cdef Header read_header(Cursor *c) noexcept nogil:
    cdef Header h
    cdef uint16_t flags
    h.id = cur_be16(c)
    flags = cur_be16(c)
    h.response = flags >> 15
    h.opcode = flags >> 11 & 15
    h.cut_short = flags >> 9 & 1
    h.reserved = flags >> 6 & 1
    h.rcode = flags & 15
    h.questions = cur_be16(c)
    h.answers = cur_be16(c)
    h.authorities = cur_be16(c)
    h.additional = cur_be16(c)
    return h


cdef bint read_questions(Slice message, Cursor *c, const Header *h, uint8_t *name, Question *q) noexcept nogil:
    """Past the question section; the first is kept. False: cut (c.ok off) or not a question section."""
    cdef uint32_t i
    q.name = -1
    q.type = 0
    q.cls = 0
    for i in range(h.questions):
        if i == 0:
            q.name = name_text(message, HEADER, name)
        if not name_skip(c):
            return False
        if i == 0:
            q.type = cur_be16(c)
            q.cls = cur_be16(c)
        else:
            cur_skip(c, 4)
        if not c.ok:
            return False
        if i == 0 and q.name < 0:
            return False
    return True


cdef bint read_records(Cursor *c, Header *h) noexcept nogil:
    """Past all resource records; OPT's upper rcode bits go into h.rcode. False: cut or broken."""
    cdef uint32_t i, count = <uint32_t>h.answers + h.authorities + h.additional
    cdef uint16_t type
    cdef uint32_t ttl
    for i in range(count):
        if not name_skip(c):
            return False
        type = cur_be16(c)
        cur_be16(c)
        ttl = cur_be32(c)
        if not cur_skip(c, cur_be16(c)) or not c.ok:
            return False
        if type == TYPE_OPT:
            h.rcode |= <uint16_t>(ttl >> 24) << 4
    return True


cdef bint opcode_known(int opcode) noexcept nogil:
    return 0 <= opcode <= OPCODE_DSO and opcode != 3


cdef Slice operation(State *s, const Header *h, const Question *q) noexcept nogil:
    """The question's type; of other opcodes their name."""
    if h.opcode == OPCODE_QUERY:
        return type_text(q.type, s.type) if q.name >= 0 else slice_of(NULL, 0)
    if h.opcode == OPCODE_NOTIFY:
        return slice_of(<const uint8_t *>"NOTIFY", 6)
    if h.opcode == OPCODE_UPDATE:
        return slice_of(<const uint8_t *>"UPDATE", 6)
    if h.opcode == OPCODE_DSO:
        return slice_of(<const uint8_t *>"DSO", 3)
    return slice_of(<const uint8_t *>"IQUERY", 6) if h.opcode == 1 else slice_of(<const uint8_t *>"STATUS", 6)


cdef void tell_response(State *s, const Header *h, Parsed *out) noexcept nogil:
    out.type = MT_RESPONSE
    out.code = h.rcode
    out.rows = h.answers
    if h.rcode == 0:
        out.status = STATUS_OK
        return
    # FORMERR and NXDOMAIN: the question was wrong.
    out.status = STATUS_CLIENT_ERROR if h.rcode == 1 or h.rcode == 3 else STATUS_SERVER_ERROR
    out.status_text = rcode_text(h.rcode, s.rcode)


cdef int tell(State *s, Slice message, bint whole, Parsed *out) noexcept nogil:
    """Understands one message, of which `message` is there."""
    cdef Cursor c
    cdef Header h
    cdef Question q
    cdef bint complete
    cur_init(&c, message.p, message.n)
    h = read_header(&c)
    if not c.ok:
        out.type = MT_IGNORE
        out.truncated = 1
        return MSG
    if not opcode_known(h.opcode):
        return NOT_MINE
    complete = read_questions(message, &c, &h, s.name, &q)
    if not complete and (whole or c.ok):
        return NOT_MINE
    if complete:
        complete = read_records(&c, &h)
        if q.name >= 0:
            out.target = slice_of(s.name, <uint32_t>q.name)
        out.operation = operation(s, &h, &q)
    out.id = h.id
    out.truncated = not complete or h.cut_short
    if h.response:
        tell_response(s, &h, out)
        if s.transfer and s.transfer_id == h.id:
            out.type = MT_IGNORE
        s.transfer = q.name >= 0 and (q.type == TYPE_AXFR or q.type == TYPE_IXFR) or out.type == MT_IGNORE
        s.transfer_id = h.id
        return MSG
    s.transfer = False
    out.type = MT_REQUEST
    if h.questions > 1:
        out.rows = h.questions
    return MSG


cdef int parse(const ParseArgs *a, Parsed *out) noexcept nogil:
    cdef State *s
    cdef Cursor c
    cdef uint32_t size
    if a.n == 0:
        return NOT_MINE
    if a.state[0] == NULL:
        a.state[0] = calloc(1, sizeof(State))
        if a.state[0] == NULL:
            return NOT_MINE
    s = <State *>a.state[0]
    if a.datagram:
        out.consumed = a.n
        out.total = a.n
        return tell(s, slice_of(a.data, a.n), False, out)
    cur_init(&c, a.data, a.n)
    size = cur_be16(&c)
    if not c.ok:
        if not a.last:
            return MORE
        out.type = MT_IGNORE
        out.truncated = 1
        out.consumed = a.n
        out.total = LENGTH_UNKNOWN
        return MSG
    if size < HEADER:
        return NOT_MINE
    if c.left < size and not a.last:
        return MORE
    out.consumed = 2 + (size if c.left >= size else c.left)
    out.total = 2 + size
    return tell(s, slice_of(c.p, out.consumed - 2), c.left >= size, out)


# --- sniffing -----------------------------------------------------------------------------------------------

cdef bint class_fits(uint16_t cls) noexcept nogil:
    """IN, CH, HS, NONE, ANY; mDNS sets the top bit (RFC 6762 section 5.4)."""
    cls &= 0x7FFF
    return cls == 1 or cls == 3 or cls == 4 or cls == 254 or cls == 255


cdef bint header_fits(const Header *h) noexcept nogil:
    if h.opcode != OPCODE_QUERY and h.opcode != OPCODE_NOTIFY and h.opcode != OPCODE_UPDATE:
        return False
    if h.reserved or h.rcode > 11 or h.questions > 32:
        return False
    if h.answers > 1024 or h.authorities > 256 or h.additional > 256:
        return False
    if h.response:
        return h.questions <= 1 and (h.questions or h.answers)
    return h.questions != 0 and h.rcode == 0


cdef bint labels_fit(Slice message) noexcept nogil:
    """No control bytes in the first question's labels, and no pointer: nothing stands before it."""
    cdef uint32_t at = HEADER, i
    cdef uint8_t n
    while at < message.n:
        n = message.p[at]
        if n == 0:
            return True
        if n > 63 or message.n - at - 1 < n:
            return False
        for i in range(n):
            if message.p[at + 1 + i] < 32 or message.p[at + 1 + i] == 127:
                return False
        at += 1 + n
    return False


cdef int sniff_message(Slice message, bint ends, bint cut) noexcept nogil:
    """3: all sections fill the message exactly; 2: the question is in bounds and the records were cut; else 0.

    ends: the message may end here; cut: it may go on.
    """
    cdef uint8_t name[DNS_NAME_MAX]
    cdef Cursor c
    cdef Header h
    cdef Question q
    cur_init(&c, message.p, message.n)
    h = read_header(&c)
    if not c.ok or not header_fits(&h):
        return 0
    if h.questions and not labels_fit(message):
        return 0
    if not read_questions(message, &c, &h, name, &q):
        return 0
    if h.questions and not (class_fits(q.cls) and (type_known(q.type) or q.type <= 260)):
        return 0
    if read_records(&c, &h):
        return 3 if ends and c.left == 0 else 0
    return 2 if cut and not c.ok and h.questions else 0


cdef int sniff(const ParseArgs *a) noexcept nogil:
    cdef Cursor c
    cdef uint32_t size
    if a.datagram:
        return sniff_message(slice_of(a.data, a.n), True, True)
    cur_init(&c, a.data, a.n)
    size = cur_be16(&c)
    if not c.ok:
        return 1 if a.n and not a.last else 0
    if size < HEADER + 5:
        return 0
    if c.left >= size:
        return sniff_message(slice_of(c.p, size), True, False)
    if c.left < HEADER + 5:
        return 1 if not a.last and sniff_start(slice_of(c.p, c.left)) else 0
    if sniff_message(slice_of(c.p, c.left), False, True):
        return 2
    return 1 if not a.last and c.left < 300 and sniff_start(slice_of(c.p, c.left)) else 0


cdef bint sniff_start(Slice head) noexcept nogil:
    """Could a message begin with these few bytes?"""
    cdef Header h
    cdef Cursor c
    cdef uint8_t padded[HEADER]
    cdef uint32_t i
    for i in range(HEADER):
        padded[i] = head.p[i] if i < head.n else 0
    if head.n < 6:
        padded[5] = 1
    cur_init(&c, padded, HEADER)
    h = read_header(&c)
    return header_fits(&h)


cdef void free_state(void *state) noexcept nogil:
    free(state)


cdef uint32_t keep(Slice text, uint8_t *out, uint32_t cap) noexcept nogil:
    """Names stay: there is nothing to mask."""
    cdef uint32_t i, n = text.n if text.n < cap else cap
    for i in range(n):
        out[i] = text.p[i]
    return n


cdef ProtoOps OPS
OPS.id = PROTO_DNS
OPS.pairing = PAIR_BY_ID
OPS.datagram = 1
OPS.name = "dns"
OPS.sniff = sniff
OPS.parse = parse
OPS.mask = keep
OPS.mask_query = NULL
OPS.free_state = free_state


cdef const ProtoOps *dns_ops() noexcept:
    return &OPS
