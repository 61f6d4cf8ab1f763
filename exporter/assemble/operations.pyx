# cython: language_level=3, boundscheck=True, wraparound=False
"""One open request: made of a parsed request, completed by a parsed answer. See operations.pxd.

Everything that leaves the process as text is masked and cut here, once, when it is copied out of the record.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, malloc
from libc.string cimport memcpy, memset

from zerospan.exporter.assemble.span cimport (
    KIND_CLIENT, KIND_SERVER, REASON_CLOSED, REASON_RESET, REASON_TCP_TIMEOUT, SPAN_ERROR, SPAN_UNSET,
    STR_AGENT, STR_COLLECTION, STR_DOMAIN, STR_MAX, STR_MESSAGE, STR_OPERATION, STR_PEER, STR_QUERY, STR_REQUEST_ID, STR_ROUTE,
    STR_STATUS, STR_TARGET, SpanRec, span_str, speaks_http,
)
from zerospan.exporter.link.ids cimport hash_bytes
from zerospan.exporter.proto.base cimport (
    PAIR_BY_ID, PROTO_POSTGRES, STATUS_CLIENT_ERROR, STATUS_SERVER_ERROR,
)
from zerospan.exporter.proto.cursor cimport Slice, slice_is, slice_of

cdef extern from "<errno.h>" nogil:
    int ETIMEDOUT

# Longest texts in bytes: what a person reads, and well below what Tempo and Loki take (2048).
cdef enum:
    MAX_OPERATION = 32
    MAX_TARGET = 1024
    MAX_QUERY = 512
    MAX_DOMAIN = 255
    MAX_COLLECTION = 128
    MAX_AGENT = 256
    MAX_ROUTE = 256
    MAX_REQUEST_ID = 128
    MAX_MESSAGE = 512

cdef const char *PREPARE = b"PREPARE"


cdef inline Slice cut(Slice s, uint32_t most) noexcept nogil:
    if s.n > most:
        s.n = most
    return s


cdef Open *new_open(const Flow *f, const Parsed *m, const Now *now, bint mask, uint64_t room) noexcept nogil:
    cdef uint8_t target[MAX_TARGET]
    cdef uint8_t query[MAX_QUERY]
    cdef Slice texts[STR_MAX]
    cdef Open *o
    cdef SpanRec *r
    cdef uint8_t *at
    cdef uint32_t n = 0, i
    memset(texts, 0, sizeof(texts))
    texts[STR_OPERATION] = cut(m.operation, MAX_OPERATION)
    texts[STR_TARGET] = cut(m.target, MAX_TARGET)
    if mask and f.ops.mask != NULL and m.target.n:
        texts[STR_TARGET] = slice_of(target, f.ops.mask(m.target, target, MAX_TARGET))
    if m.query.n:
        texts[STR_QUERY] = cut(m.query, MAX_QUERY)
        if mask and f.ops.mask_query != NULL:
            texts[STR_QUERY] = slice_of(query, f.ops.mask_query(m.query, query, MAX_QUERY))
    texts[STR_DOMAIN] = cut(m.domain, MAX_DOMAIN)
    texts[STR_COLLECTION] = cut(m.collection, MAX_COLLECTION)
    texts[STR_AGENT] = cut(m.user_agent, MAX_AGENT)
    texts[STR_REQUEST_ID] = cut(m.request_id, MAX_REQUEST_ID)
    for i in range(STR_MAX):
        n += texts[i].n
    n = (sizeof(Open) + sizeof(SpanRec) + n + 7) & ~<uint32_t>7
    if n > room:
        return NULL
    o = <Open *>malloc(n)
    if o == NULL:
        return NULL
    memset(o, 0, sizeof(Open) + sizeof(SpanRec))
    o.nbytes = n
    o.id = m.id
    o.run = f.run
    o.read_tid = now.tid
    o.bodiless = m.bodiless
    if f.ops.pairing == PAIR_BY_ID:
        o.name_hash = <uint32_t>hash_bytes(m.target.p, m.target.n, m.operation.n)
    r = span_of(o)
    r.proto = f.ops.id
    r.kind = KIND_CLIENT if now.sent else KIND_SERVER
    r.proc = now.proc
    r.tid = now.tid
    r.code = -1
    r.rows = -1
    r.request_size = m.body_size
    r.response_size = -1
    r.local_port = f.local_port
    r.remote_port = f.remote_port
    r.family = f.family
    r.transport = f.transport
    r.version = m.version
    r.truncated = m.truncated
    r.wire = m.wire
    r.trace_flags = m.trace_flags
    memcpy(r.local_addr, f.local_addr, 16)
    memcpy(r.remote_addr, f.remote_addr, 16)
    at = <uint8_t *>r + sizeof(SpanRec)
    for i in range(STR_MAX):
        r.n[i] = <uint16_t>texts[i].n
        if texts[i].n:
            memcpy(at, texts[i].p, texts[i].n)
            at += texts[i].n
    return o


cdef Open *match_open(const Flow *f, const Parsed *m) noexcept nogil:
    cdef Open *o = f.head
    cdef uint32_t name
    if f.ops.pairing != PAIR_BY_ID:
        return o
    name = <uint32_t>hash_bytes(m.target.p, m.target.n, m.operation.n)
    while o != NULL and (o.id != m.id or (m.target.n and o.name_hash != name)):
        o = o.next
    return o


cdef void describe_answer(Open *o, const Parsed *m, bint mask) noexcept nogil:
    cdef SpanRec *r = span_of(o)
    r.code = m.code
    r.rows = m.rows
    r.response_size = m.body_size
    o.ends_itself = m.ends_itself
    if m.version and not r.version:
        r.version = m.version
    if m.truncated:
        r.truncated = 1
    o.prepared = r.proto == PROTO_POSTGRES and slice_is(m.operation, PREPARE, 7)
    if m.status == STATUS_SERVER_ERROR or (m.status == STATUS_CLIENT_ERROR and r.kind == KIND_CLIENT):
        r.status = SPAN_ERROR
    else:
        r.status = SPAN_UNSET
    o.status_n = <uint8_t>(m.status_text.n if m.status_text.n < sizeof(o.status_text) else sizeof(o.status_text))
    memcpy(o.status_text, m.status_text.p, o.status_n)
    if not mask and m.message.n and o.message == NULL:
        o.message = <uint8_t *>malloc(MAX_MESSAGE)
        if o.message != NULL:
            o.message_n = m.message.n if m.message.n < MAX_MESSAGE else MAX_MESSAGE
            memcpy(o.message, m.message.p, o.message_n)


cdef Slice route_of(Open *o, Routes routes, uint32_t service) noexcept nogil:
    cdef SpanRec *r = span_of(o)
    if not speaks_http(r):
        return slice_of(NULL, 0)
    if r.code == 400 or r.code == 404 or r.code == 405:
        return cut(routes.route_if_known(service, span_str(r, STR_TARGET)), MAX_ROUTE)
    return cut(routes.route(service, span_str(r, STR_TARGET)), MAX_ROUTE)


cdef uint32_t span_size(Open *o, Slice route, Slice peer) noexcept nogil:
    cdef SpanRec *r = span_of(o)
    cdef uint32_t n = sizeof(SpanRec) + o.status_n + o.message_n + route.n + peer.n + 8   # 8: PREPARE
    cdef int i
    for i in range(STR_MAX):
        n += r.n[i]
    return (n + 7) & ~<uint32_t>7


cdef void copy_span(SpanRec *to, Open *o, Slice route, Slice peer, uint32_t size) noexcept nogil:
    """What only the answer told stands in its place among the request's texts."""
    cdef SpanRec *r = span_of(o)
    cdef uint8_t *at = <uint8_t *>to + sizeof(SpanRec)
    cdef Slice s
    cdef int i
    memcpy(to, r, sizeof(SpanRec))
    for i in range(STR_MAX):
        if i == STR_STATUS:
            s = slice_of(o.status_text, o.status_n)
        elif i == STR_MESSAGE:
            s = slice_of(o.message, o.message_n)
        elif i == STR_ROUTE:
            s = route
        elif i == STR_PEER:
            s = peer
        elif i == STR_OPERATION and o.prepared:
            s = slice_of(<const uint8_t *>PREPARE, 7)
        else:
            s = span_str(r, i)
        to.n[i] = <uint16_t>s.n
        if s.n:
            memcpy(at, s.p, s.n)
            at += s.n
    to.size = size


cdef uint8_t close_reason(uint32_t error) noexcept nogil:
    if error == 0:
        return REASON_CLOSED
    if error == ETIMEDOUT:
        return REASON_TCP_TIMEOUT
    return REASON_RESET
