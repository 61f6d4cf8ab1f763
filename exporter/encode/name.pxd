"""Names that traces, metrics and logs must agree on: of the span, the method, the error, the server.

All texts are valid UTF-8 and at most `cap` bytes; the return value is the length, 0 if there is no such thing.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from zerospan.exporter.assemble.span cimport SpanRec
from zerospan.exporter.proto.cursor cimport Slice

# "GET /orders/{id}", "SELECT orders", "HGETALL", "DNS AAAA": low cardinality; see the .pyx for the rules.
cdef uint32_t span_name(const SpanRec *r, uint8_t *out, uint32_t cap) noexcept nogil

# error.type: "503", "42P01", "WRONGTYPE", "NXDOMAIN", "timeout"...; 0 bytes if the span is no error.
cdef uint32_t error_type(const SpanRec *r, uint8_t *out, uint32_t cap) noexcept nogil

# http.request.method: a method that OpenTelemetry knows, or "_OTHER".
cdef uint32_t http_method(const SpanRec *r, uint8_t *out, uint32_t cap) noexcept nogil

# server.address and server.port: the Host header's, else those of the socket (remote of a CLIENT, local of a SERVER span).
cdef uint32_t server_address(const SpanRec *r, uint8_t *out, uint32_t cap, uint16_t *port) noexcept nogil

# Index into the table of known methods, or -1.
cdef int known_method(Slice method) noexcept nogil

# "timeout", "connection_reset"...; empty for REASON_NONE and REASON_NOT_SEEN, which are no errors.
cdef Slice reason_text(uint8_t reason) noexcept nogil
