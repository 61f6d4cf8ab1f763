"""What the header fields of an HTTP/1 message say, and how long the message is. See http1_head.pyx."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memchr

from zerospan.exporter.proto.base cimport ParseArgs, Parsed
from zerospan.exporter.proto.cursor cimport Slice
from zerospan.exporter.proto.wire cimport WireHeaders

cdef enum:                   # Parsed.bodiless of a request, handed back in ParseArgs.open_bodiless
    ANSWER_HAS_NO_BODY = 1   # HEAD
    ANSWER_OPENS_TUNNEL = 2  # CONNECT: a 2xx ends HTTP on this connection

cdef enum:
    LENGTH_NONE = -1         # no Content-Length field
    LENGTH_BAD = -2          # fields that are no number or contradict each other

cdef enum TransferCoding:
    CODING_NONE = 0
    CODING_CHUNKED = 1       # chunked is the last one
    CODING_OTHER = 2         # the message ends with the connection

cdef struct Head:            # what the fields say that the caller needs
    int64_t length           # Content-Length, or LENGTH_NONE, LENGTH_BAD
    uint8_t coding           # TransferCoding
    uint8_t id_rank          # which name gave request_id: 0 is the best
    uint8_t stream           # its media type is one of events that come when they come
    Slice host
    WireHeaders wire

# Reads the whole field lines from offset `start` on into h, and into out: user_agent, request_id. Offset behind the empty line that
# ends the head; 0: it is not there.
cdef uint32_t read_head(const uint8_t *p, uint32_t n, uint32_t start, Head *h, Parsed *out) noexcept nogil
# Settles consumed, total and body_size of a head of `head` bytes (a.data, of which n count); an Outcome.
cdef int measure(const ParseArgs *a, uint32_t n, uint32_t head, const Head *h, Parsed *out) noexcept nogil

cdef inline bint is_text(Slice s) noexcept nogil:
    """No control characters: bytes above 127 do occur in targets."""
    cdef uint32_t i
    for i in range(s.n):
        if s.p[i] < 32 or s.p[i] == 127:
            return False
    return True

cdef inline uint32_t find_byte(Slice s, uint8_t byte) noexcept nogil:
    """Its offset, or s.n."""
    cdef const uint8_t *hit = <const uint8_t *>memchr(s.p, byte, s.n) if s.n else NULL
    return <uint32_t>(hit - s.p) if hit != NULL else s.n
