# cython: language_level=3, boundscheck=True, wraparound=False
"""Names that traces, metrics and logs must agree on. See name.pxd for the contract.

Span names follow the OpenTelemetry conventions (1.44): HTTP "{method} {route}" and "{method}" without a route, with "HTTP"
for a method that is not known; databases "{operation} {collection}", else "{operation} {namespace}", else the operation.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcpy, strlen

from zerospan.exporter.assemble.span cimport (
    KIND_CLIENT, REASON_CLOSED, REASON_RESET, REASON_TCP_TIMEOUT, REASON_TIMEOUT, SPAN_ERROR, STR_COLLECTION, STR_DOMAIN,
    STR_OPERATION, STR_ROUTE, STR_STATUS, SpanRec, span_str, speaks_http,
)
from zerospan.exporter.encode.digits cimport ADDRESS_MAX, DIGITS_MAX, put_address, put_u64
from zerospan.exporter.encode.text cimport text_copy
from zerospan.exporter.proto.base cimport PROTO_DNS, PROTO_HTTP1, PROTO_POSTGRES, PROTO_REDIS
from zerospan.exporter.proto.cursor cimport Slice, slice_is, slice_of

# RFC 9110, PATCH (RFC 5789) and QUERY: the values of http.request.method. The order is that of CONST_METHOD in attributes.pxd.
cdef const char *METHODS[10]
METHODS[:] = [b"CONNECT", b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"QUERY", b"TRACE"]


cdef inline Slice literal(const char *text) noexcept nogil:
    return slice_of(<const uint8_t *>text, <uint32_t>strlen(text))


cdef uint32_t join(uint8_t *out, uint32_t cap, Slice a, Slice b) noexcept nogil:
    """Both with a space between, or the one that is there."""
    cdef uint32_t n = text_copy(out, cap, a)
    if b.n and n + 1 < cap:
        if n:
            out[n] = 32
            n += 1
        n += text_copy(out + n, cap - n, b)
    return n


cdef int known_method(Slice method) noexcept nogil:
    cdef int i
    if slice_is(method, b"GET", 3):
        return 2
    if method.n < 3 or method.n > 7:
        return -1
    for i in range(10):
        if slice_is(method, METHODS[i], <uint32_t>strlen(METHODS[i])):
            return i
    return -1


cdef uint32_t http_method(const SpanRec *r, uint8_t *out, uint32_t cap) noexcept nogil:
    cdef int known = known_method(span_str(r, STR_OPERATION))
    return text_copy(out, cap, literal(METHODS[known]) if known >= 0 else literal(b"_OTHER"))


cdef uint32_t span_name(const SpanRec *r, uint8_t *out, uint32_t cap) noexcept nogil:
    cdef Slice operation = span_str(r, STR_OPERATION)
    cdef Slice object
    if speaks_http(r):
        if known_method(operation) < 0:
            operation = literal(b"HTTP")
        return join(out, cap, operation, span_str(r, STR_ROUTE))
    if r.proto == PROTO_DNS:
        return join(out, cap, literal(b"DNS"), operation)
    object = span_str(r, STR_COLLECTION)
    if object.n == 0:
        object = span_str(r, STR_DOMAIN)
    if operation.n == 0:
        # without an operation the semantic conventions fall back to the target, then to the system's name
        if object.n == 0:
            object = literal(
                b"redis" if r.proto == PROTO_REDIS else b"postgresql" if r.proto == PROTO_POSTGRES else b"request"
            )
        return text_copy(out, cap, object)
    return join(out, cap, operation, object)


cdef Slice reason_text(uint8_t reason) noexcept nogil:
    if reason == REASON_TIMEOUT:
        return literal(b"timeout")
    if reason == REASON_RESET:
        return literal(b"connection_reset")
    if reason == REASON_CLOSED:
        return literal(b"connection_closed")
    if reason == REASON_TCP_TIMEOUT:
        return literal(b"tcp_timeout")
    return slice_of(NULL, 0)


cdef uint32_t error_type(const SpanRec *r, uint8_t *out, uint32_t cap) noexcept nogil:
    cdef uint8_t digits[DIGITS_MAX]
    cdef Slice text
    if r.status != SPAN_ERROR:
        return 0
    # an answer that broke off after "200 OK" failed for its reason, not for its status
    if speaks_http(r) and r.code >= 400:
        return text_copy(out, cap, slice_of(digits, put_u64(digits, <uint32_t>r.code)))
    text = span_str(r, STR_STATUS)
    if text.n == 0:
        text = reason_text(r.reason)
    if text.n == 0:
        text = literal(b"_OTHER")
    return text_copy(out, cap, text)


cdef Slice split_host(Slice domain, uint16_t *port) noexcept nogil:
    """uri-host [":" port] (RFC 9110, section 7.2); an IPv6 literal loses its brackets. `port` is set if there is a valid one."""
    cdef Slice host = domain
    cdef const uint8_t *colon
    cdef uint32_t v = 0
    cdef uint32_t at
    if domain.n and domain.p[0] == 91:
        colon = <const uint8_t *>memchr(domain.p, 93, domain.n)
        if colon == NULL:
            return domain
        host = slice_of(domain.p + 1, <uint32_t>(colon - domain.p) - 1)
        colon += 1
        if colon == domain.p + domain.n:
            return host
        if colon[0] != 58:
            return domain
    else:
        colon = <const uint8_t *>memchr(domain.p, 58, domain.n) if domain.n else NULL
        if colon == NULL:
            return domain
        host.n = <uint32_t>(colon - domain.p)
    at = <uint32_t>(colon - domain.p) + 1
    if domain.n - at > 5:
        return domain
    while at < domain.n:
        if domain.p[at] < 48 or domain.p[at] > 57:
            return domain
        v = v * 10 + (domain.p[at] - 48)
        at += 1
    if v > 65535:
        return domain
    if v:
        port[0] = <uint16_t>v
    return host


cdef uint32_t server_address(const SpanRec *r, uint8_t *out, uint32_t cap, uint16_t *port) noexcept nogil:
    cdef uint8_t address[ADDRESS_MAX]
    cdef const uint8_t *socket = <const uint8_t *>r.local_addr
    cdef Slice host
    port[0] = r.local_port
    if r.kind == KIND_CLIENT:
        socket = <const uint8_t *>r.remote_addr
        port[0] = r.remote_port
    if r.proto == PROTO_HTTP1:
        host = split_host(span_str(r, STR_DOMAIN), port)
        if host.n:
            return text_copy(out, cap, host)
    return text_copy(out, cap, slice_of(address, put_address(address, r.family, socket)))
