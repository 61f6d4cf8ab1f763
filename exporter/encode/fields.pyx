# cython: language_level=3, boundscheck=True, wraparound=False
"""Which attributes a request has. See fields.pxd; names and constants are in attributes.pyx."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport (
    KIND_CLIENT, LINK_MAX, SPAN_ERROR, STR_AGENT, STR_COLLECTION, STR_DOMAIN, STR_OPERATION, STR_QUERY, STR_REQUEST_ID, STR_ROUTE,
    STR_PEER, STR_STATUS, STR_TARGET, EndAddress, SpanContext, SpanRec, span_str, speaks_http,
)
from zerospan.exporter.encode.attributes cimport (
    ATTR_CLIENT_ADDRESS, ATTR_CLIENT_PORT, ATTR_DB_COLLECTION, ATTR_DB_NAMESPACE, ATTR_DB_OPERATION, ATTR_DB_QUERY_TEXT,
    ATTR_DB_RETURNED_ROWS, ATTR_DB_STATUS_CODE, ATTR_DNS_ANSWERS, ATTR_DNS_QUESTION_NAME, ATTR_DNS_QUESTION_TYPE,
    ATTR_DNS_RESPONSE_CODE, ATTR_ERROR_TYPE, ATTR_HTTP_METHOD_ORIGINAL, ATTR_HTTP_REQUEST_BODY_SIZE, ATTR_HTTP_REQUEST_ID,
    ATTR_HTTP_RESPONSE_BODY_SIZE, ATTR_HTTP_ROUTE, ATTR_HTTP_STATUS_CODE, ATTR_NETWORK_PEER_ADDRESS, ATTR_NETWORK_PEER_PORT,
    ATTR_PEER_SERVICE, ATTR_REAL_PEER_ADDRESS, ATTR_REAL_PEER_PORT, ATTR_REQUEST_KEY, ATTR_SERVER_ADDRESS, ATTR_SERVER_PORT,
    ATTR_SERVICE_PEER_NAME, ATTR_SERVICE_PEER_NAMESPACE, ATTR_THREAD_ID,
    ATTR_TIME_TO_FIRST_BYTE, ATTR_URL_PATH, ATTR_URL_QUERY, ATTR_URL_TEMPLATE, ATTR_USER_AGENT, CONST_BYTES, CONST_CLIENT_POINT,
    CONST_CONFIDENCE, CONST_DB_POSTGRESQL, CONST_DB_REDIS, CONST_DB_SYSTEM_POSTGRESQL, CONST_DB_SYSTEM_REDIS, CONST_DNS, CONST_FASTCGI, CONST_HTTP,
    CONST_HTTP_10, CONST_HTTP_11, CONST_LINK, CONST_METHOD, CONST_METHOD_OTHER, CONST_POSTGRESQL, CONST_REDIS, CONST_RESP_2,
    CONST_RESP_3, CONST_SCHEME_HTTP, CONST_SERVER_POINT, CONST_TCP, CONST_TRUNCATED, CONST_UDP, KEY_BYTES, AttrKey, ConstAttr,
    attr_consts, attr_keys,
)
from zerospan.exporter.encode.buf cimport Buf, buf_byte, buf_put, buf_reserve
from zerospan.exporter.encode.digits cimport ADDRESS_MAX, DIGITS_MAX, put_address, put_hex64, put_i64
from zerospan.exporter.encode.name cimport error_type, known_method, server_address
from zerospan.exporter.encode.text cimport TEXT_MAX, json_chars, text_copy, text_is_ascii
from zerospan.exporter.encode.wire cimport VARINT_MAX, varint_put, varint_size
from zerospan.exporter.proto.base cimport PROTO_DNS, PROTO_HTTP1, PROTO_POSTGRES, PROTO_REDIS
from zerospan.exporter.proto.cursor cimport Slice, slice_of
from zerospan.exporter.tags.peer cimport FORM_LOG, FORM_LOKI, FORM_SPAN

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_TCP
        IPPROTO_UDP

cdef enum:
    TAG_SPAN = 0x4A          # Span.attributes
    TAG_LOG = 0x32           # LogRecord.attributes
    FRAME = KEY_BYTES + CONST_BYTES + 8 * VARINT_MAX     # more than all that surrounds an attribute's value


cdef inline uint8_t *put_key(uint8_t *w, const AttrKey *key) noexcept nogil:
    memcpy(w, key.wire, KEY_BYTES)       # the room behind the key is reserved: see FRAME
    return w + key.n


cdef inline void put_member(Buf *b, const AttrKey *key, Slice text, bint plain) noexcept nogil:
    """A Loki member; `plain` text has nothing to be escaped."""
    if not buf_reserve(b, FRAME + text.n):
        return
    memcpy(b.p + b.n, key.json, KEY_BYTES)
    b.n += key.json_n
    if plain:
        memcpy(b.p + b.n, text.p, text.n)
        b.n += text.n
    else:
        json_chars(b, text)
    buf_byte(b, 34)


cdef inline void put_string(Fields *f, int attr, Slice s, bint in_array, bint plain) noexcept nogil:
    """A text that is valid and short enough already."""
    cdef Buf *b = f.out
    cdef const AttrKey *key = &attr_keys[attr]
    cdef uint32_t value = 1 + varint_size(s.n) + s.n         # AnyValue with a string_value
    cdef uint32_t outer = value
    cdef uint8_t *w
    if f.tag == FIELDS_LOKI:
        put_member(b, key, s, plain)
        return
    if not buf_reserve(b, FRAME + s.n):
        return
    if in_array:                                             # AnyValue { array_value { values: [AnyValue] } }
        outer += 1 + varint_size(value)
        outer += 1 + varint_size(outer)
    w = b.p + b.n
    w[0] = f.tag
    w = varint_put(w + 1, key.n + 1 + varint_size(outer) + outer)
    w = put_key(w, key)
    w[0] = 0x12
    w = varint_put(w + 1, outer)
    if in_array:
        w[0] = 0x2A
        w = varint_put(w + 1, 1 + varint_size(value) + value)
        w[0] = 0x0A
        w = varint_put(w + 1, value)
    w[0] = 0x0A
    w = varint_put(w + 1, s.n)
    memcpy(w, s.p, s.n)
    b.n = w + s.n - b.p


cdef inline void put_text(Fields *f, int attr, Slice s, bint in_array) noexcept nogil:
    cdef uint8_t valid[TEXT_MAX]
    if s.n == 0:
        return
    if s.n > TEXT_MAX or not text_is_ascii(s.p, s.n):
        s.n = text_copy(valid, TEXT_MAX, s)
        s.p = valid
    put_string(f, attr, s, in_array, False)


cdef void field_text(Fields *f, int attr, Slice text) noexcept nogil:
    put_text(f, attr, text, False)


cdef void field_int(Fields *f, int attr, int64_t v) noexcept nogil:
    cdef Buf *b = f.out
    cdef const AttrKey *key = &attr_keys[attr]
    cdef uint8_t digits[DIGITS_MAX]
    cdef uint32_t value
    cdef uint8_t *w
    if f.tag == FIELDS_LOKI:
        put_member(b, key, slice_of(digits, put_i64(digits, v)), True)
        return
    if not buf_reserve(b, FRAME):
        return
    value = 1 + varint_size(<uint64_t>v)
    w = b.p + b.n
    w[0] = f.tag
    w[1] = <uint8_t>(key.n + 2 + value)                      # KEY_BYTES + 2 + 11 is less than 128: one byte
    w = put_key(w + 2, key)
    w[0] = 0x12
    w[1] = <uint8_t>value
    w[2] = 0x18
    b.n = varint_put(w + 3, <uint64_t>v) - b.p


cdef void field_const(Fields *f, int which) noexcept nogil:
    cdef Buf *b = f.out
    cdef const ConstAttr *a = &attr_consts[which]
    if not buf_reserve(b, FRAME):
        return
    if f.tag == FIELDS_LOKI:
        memcpy(b.p + b.n, a.json, CONST_BYTES)
        b.n += a.json_n
    else:
        b.p[b.n] = f.tag
        memcpy(b.p + b.n + 1, a.wire, CONST_BYTES)
        b.n += 1 + a.n


cdef inline void span_text(Fields *f, int attr, const SpanRec *r, int which) noexcept nogil:
    if r.n[which]:
        put_text(f, attr, span_str(r, which), False)


cdef inline void field_ready(Fields *f, const Slice *forms) noexcept nogil:
    """Attributes that are encoded already."""
    cdef int form = FORM_SPAN if f.tag == TAG_SPAN else FORM_LOG if f.tag == TAG_LOG else FORM_LOKI
    cdef Slice s = forms[form]
    buf_put(f.out, s.p, s.n)


cdef void peer_fields(Fields *f, const SpanRec *r, const SpanContext *c, const Proc *peer) noexcept nogil:
    """Who is at the other end: the process, if it is known, else what its address says."""
    cdef Slice name = peer.name if peer != NULL and peer.name.n else c.peer_name
    if name.n:
        put_text(f, ATTR_SERVICE_PEER_NAME, name, False)
        if r.kind == KIND_CLIENT:
            put_text(f, ATTR_PEER_SERVICE, name, False)
    if c.peer_space.n:
        put_text(f, ATTR_SERVICE_PEER_NAMESPACE, c.peer_space, False)
    if c.who != NULL:
        field_ready(f, c.who.peer)
    if c.via != NULL:
        if c.who == NULL:
            field_ready(f, c.via.peer)
        field_ready(f, c.via.service)
    elif c.who != NULL:
        field_ready(f, c.who.service)


cdef void network_fields(Fields *f, const SpanRec *r, const SpanContext *c, const Proc *peer) noexcept nogil:
    cdef uint8_t text[TEXT_MAX]
    cdef uint8_t remote[ADDRESS_MAX]
    cdef EndAddress end
    cdef Slice address
    cdef uint16_t port
    if r.transport == IPPROTO_TCP:
        field_const(f, CONST_TCP)
    elif r.transport == IPPROTO_UDP:
        field_const(f, CONST_UDP)
    address = slice_of(remote, put_address(remote, r.family, <const uint8_t *>r.remote_addr))
    if address.n:
        put_string(f, ATTR_NETWORK_PEER_ADDRESS, address, False, True)
        field_int(f, ATTR_NETWORK_PEER_PORT, r.remote_port)
        port = r.remote_port
        if r.n[STR_PEER] == sizeof(EndAddress):
            # behind address translation; client.* is then the client behind it, as the conventions ask
            memcpy(&end, span_str(r, STR_PEER).p, sizeof(EndAddress))
            address = slice_of(remote, put_address(remote, end.family, end.addr))
            port = end.port
            put_string(f, ATTR_REAL_PEER_ADDRESS, address, False, True)
            field_int(f, ATTR_REAL_PEER_PORT, port)
        if r.kind != KIND_CLIENT:
            put_string(f, ATTR_CLIENT_ADDRESS, address, False, True)
            field_int(f, ATTR_CLIENT_PORT, port)
    address = slice_of(text, server_address(r, text, TEXT_MAX, &port))
    if address.n:
        put_string(f, ATTR_SERVER_ADDRESS, address, False, False)
        if port:
            field_int(f, ATTR_SERVER_PORT, port)
    peer_fields(f, r, c, peer)


cdef void http_fields(Fields *f, const SpanRec *r) noexcept nogil:
    cdef Slice method = span_str(r, STR_OPERATION)
    cdef int known = known_method(method)
    field_const(f, CONST_HTTP if r.proto == PROTO_HTTP1 else CONST_FASTCGI)
    if r.version == 11:
        field_const(f, CONST_HTTP_11)
    elif r.version == 10:
        field_const(f, CONST_HTTP_10)
    if known >= 0:
        field_const(f, CONST_METHOD + known)
    else:
        field_const(f, CONST_METHOD_OTHER)
        put_text(f, ATTR_HTTP_METHOD_ORIGINAL, method, False)
    field_const(f, CONST_SCHEME_HTTP)
    span_text(f, ATTR_URL_PATH, r, STR_TARGET)
    span_text(f, ATTR_URL_QUERY, r, STR_QUERY)
    span_text(f, ATTR_URL_TEMPLATE if r.kind == KIND_CLIENT else ATTR_HTTP_ROUTE, r, STR_ROUTE)
    span_text(f, ATTR_USER_AGENT, r, STR_AGENT)
    if r.code > 0:
        field_int(f, ATTR_HTTP_STATUS_CODE, r.code)
    if r.request_size >= 0:
        field_int(f, ATTR_HTTP_REQUEST_BODY_SIZE, r.request_size)
    if r.response_size >= 0:
        field_int(f, ATTR_HTTP_RESPONSE_BODY_SIZE, r.response_size)
    if span_str(r, STR_REQUEST_ID).n:
        put_text(f, ATTR_HTTP_REQUEST_ID, span_str(r, STR_REQUEST_ID), True)     # headers are arrays by convention


cdef void db_fields(Fields *f, const SpanRec *r) noexcept nogil:
    if r.proto == PROTO_REDIS:
        field_const(f, CONST_REDIS)
        if r.version == 2:
            field_const(f, CONST_RESP_2)
        elif r.version == 3:
            field_const(f, CONST_RESP_3)
        field_const(f, CONST_DB_REDIS)
        field_const(f, CONST_DB_SYSTEM_REDIS)
    else:
        field_const(f, CONST_POSTGRESQL)
        field_const(f, CONST_DB_POSTGRESQL)
        field_const(f, CONST_DB_SYSTEM_POSTGRESQL)
    span_text(f, ATTR_DB_OPERATION, r, STR_OPERATION)
    span_text(f, ATTR_DB_NAMESPACE, r, STR_DOMAIN)
    span_text(f, ATTR_DB_COLLECTION, r, STR_COLLECTION)
    span_text(f, ATTR_DB_QUERY_TEXT, r, STR_TARGET)
    span_text(f, ATTR_DB_STATUS_CODE, r, STR_STATUS)
    if r.rows >= 0:
        field_int(f, ATTR_DB_RETURNED_ROWS, r.rows)


cdef void dns_fields(Fields *f, const SpanRec *r) noexcept nogil:
    field_const(f, CONST_DNS)
    span_text(f, ATTR_DNS_QUESTION_NAME, r, STR_TARGET)
    span_text(f, ATTR_DNS_QUESTION_TYPE, r, STR_OPERATION)
    if span_str(r, STR_STATUS).n:
        span_text(f, ATTR_DNS_RESPONSE_CODE, r, STR_STATUS)
    elif r.code == 0:
        put_string(f, ATTR_DNS_RESPONSE_CODE, slice_of(<const uint8_t *>b"NOERROR", 7), False, True)
    if r.rows >= 0:
        field_int(f, ATTR_DNS_ANSWERS, r.rows)


cdef void span_fields(Fields *f, const SpanRec *r, const SpanContext *c, const Proc *peer) noexcept nogil:
    cdef uint8_t text[TEXT_MAX]
    cdef uint32_t method = c.method if c.method < LINK_MAX else 0
    if speaks_http(r):
        http_fields(f, r)
    elif r.proto == PROTO_REDIS or r.proto == PROTO_POSTGRES:
        db_fields(f, r)
    elif r.proto == PROTO_DNS:
        dns_fields(f, r)
    network_fields(f, r, c, peer)
    if r.status == SPAN_ERROR:
        put_string(f, ATTR_ERROR_TYPE, slice_of(text, error_type(r, text, TEXT_MAX)), False, False)
    if r.tid:
        field_int(f, ATTR_THREAD_ID, r.tid)
    field_const(f, CONST_CLIENT_POINT if r.kind == KIND_CLIENT else CONST_SERVER_POINT)
    put_string(f, ATTR_REQUEST_KEY, slice_of(text, put_hex64(text, r.key)), False, True)
    field_const(f, CONST_LINK + method)
    field_const(f, CONST_CONFIDENCE + method)
    if r.truncated:
        field_const(f, CONST_TRUNCATED)
    if r.first_ns and r.first_ns >= r.start_ns:
        field_int(f, ATTR_TIME_TO_FIRST_BYTE, <int64_t>(r.first_ns - r.start_ns))
