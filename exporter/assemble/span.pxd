"""A finished request as seen at one end: what assemble makes, link holds and encode writes.

One block of bytes: the struct, then its strings one after the other in the order of the `n_` fields. It
holds no pointer, so it can be copied, queued in an arena and kept on hold without a Python object.
All texts are masked already (or meant to be seen: privacy.mask false).
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from zerospan.exporter.assemble.interfaces cimport Interface
from zerospan.exporter.proto.base cimport PROTO_FASTCGI, PROTO_HTTP1
from zerospan.exporter.proto.cursor cimport Slice
from zerospan.exporter.tags.peer cimport Peer

cdef enum SpanKind:          # as in opentelemetry.proto.trace.v1.Span.SpanKind
    KIND_INTERNAL = 1        # of a point of the way: a network interface; see nic_part.pxd
    KIND_SERVER = 2
    KIND_CLIENT = 3

cdef enum SpanStatus:        # as in opentelemetry.proto.trace.v1.Status.StatusCode
    SPAN_UNSET = 0
    SPAN_OK = 1
    SPAN_ERROR = 2

cdef enum Reason:            # why there is no (whole) answer; error.type where it is an error
    REASON_NONE = 0
    REASON_TIMEOUT = 1       # "timeout": nothing came within assemble.timeout
    REASON_RESET = 2         # "connection_reset": ECONNRESET, EPIPE
    REASON_CLOSED = 3        # "connection_closed": an orderly end before the answer
    REASON_TCP_TIMEOUT = 4   # "tcp_timeout": ETIMEDOUT
    REASON_NOT_SEEN = 5      # the answer passed but was not captured (pipelined beyond the capture, lost record): no error

cdef enum LinkMethod:
    LINK_NONE = 0            # "none": a root, or left out because it was doubtful
    LINK_ISN = 1             # "tcp_isn": SERVER span to the CLIENT span of the same request, by initial sequence numbers
    LINK_DNS_ID = 2          # "dns_id": the same for datagrams, by transaction id, name and port
    LINK_TRACEPARENT = 3     # "traceparent"
    LINK_B3 = 4              # "b3"
    LINK_SW8 = 5             # "sw8"
    LINK_UBER = 6            # "uber-trace-id"
    LINK_REQUEST_ID = 7      # "x-request-id"
    LINK_THREAD = 8          # "thread"
    LINK_NGINX = 9           # "nginx": pairing of an upstream call with the request around it
    LINK_HAPROXY = 10        # "haproxy": by the order of events on the proxy's thread
    LINK_ENVOY = 11          # "envoy": likewise
    LINK_MAX = 12

cdef enum:                   # SpanString
    STR_OPERATION = 0        # http.request.method, db.operation.name, DNS query type
    STR_TARGET = 1           # url.path, db.query.text, dns.question.name
    STR_QUERY = 2            # url.query
    STR_DOMAIN = 3           # Host header, db.namespace
    STR_COLLECTION = 4       # db.collection.name
    STR_STATUS = 5           # db.response.status_code as text, DNS rcode name
    STR_MESSAGE = 6          # error text; only with masking off
    STR_AGENT = 7            # user_agent.original
    STR_ROUTE = 8            # http.route of a SERVER span, url.template of a CLIENT span
    STR_REQUEST_ID = 9
    STR_PEER = 10            # EndAddress of the other end, where translation hides it: bytes, no text
    STR_MAX = 11

cdef struct EndAddress:      # a socket's own address; in a span as it is (STR_PEER): no implicit padding
    uint8_t addr[16]         # network order; IPv4 in the first 4 bytes
    uint16_t port            # host order
    uint8_t family           # AF_INET, AF_INET6; 0: not seen
    uint8_t pad

cdef struct SpanRec:
    uint32_t size            # of the whole block, a multiple of 8
    uint8_t proto            # proto.base.Proto
    uint8_t kind             # SpanKind
    uint8_t status           # SpanStatus
    uint8_t reason           # Reason
    uint64_t key             # K: hash of the connection's ISN pair and the request's first byte
    uint64_t start_ns        # CLOCK_MONOTONIC; wall clock = + SpanContext.wall_offset
    uint64_t first_ns        # first byte of the answer; 0 if there is none
    uint64_t end_ns          # last byte of the answer
    uint32_t proc            # index into Processes: who made this span
    uint32_t tid
    uint32_t held            # 1: it holds a reference to its request in the registry
    int32_t code             # http.response.status_code, DNS rcode; -1: none
    int64_t rows             # db.response.returned_rows / answers; -1: not known
    int64_t request_size     # body bytes; -1: not known
    int64_t response_size
    uint16_t local_port
    uint16_t remote_port
    uint8_t family           # AF_INET, AF_INET6; addresses in network order, IPv4 in the first 4 bytes
    uint8_t transport        # IPPROTO_TCP, IPPROTO_UDP
    uint16_t version         # 10, 11 of HTTP; 2, 3 of RESP; 0
    uint8_t truncated        # the head was cut: fields may be missing
    uint8_t wire             # proto.base.WireContext of the request
    uint8_t trace_flags
    uint8_t pad0[5]
    uint8_t local_addr[16]
    uint8_t remote_addr[16]
    uint16_t n[11]           # lengths of the strings (STR_MAX)
    uint16_t pad[1]

cdef struct SpanContext:     # what the link stage adds when a span leaves
    uint8_t trace_id[16]
    uint64_t span_id         # written big-endian
    uint64_t parent_id       # 0: a root
    uint64_t wall_offset     # CLOCK_REALTIME - CLOCK_MONOTONIC, ns
    uint8_t link_trace[16]   # a span link: the SERVER span that this call serves, where an SDK's span stands between
    uint64_t link_id         # 0: none
    uint32_t peer_proc       # index of the process at the other end, 0 if it is not on this host
    uint8_t method           # LinkMethod
    uint8_t trace_flags
    uint8_t peer_seen        # the other end's process makes a span of this request, too
    uint8_t untraced         # its trace is not exported: nothing may point to it
    uint8_t hops             # bits of those of `hop` that are known; link.hops.Hop
    uint8_t point            # ids.Point of a KIND_INTERNAL span
    int64_t hop[5]           # ns, of a CLIENT span
    const Interface *nic     # of a KIND_INTERNAL span
    const Peer *who          # tags of the other end (of a KIND_INTERNAL span: of the interface's own pod); NULL: none known
    const Peer *via          # the Service that the request was sent to, in front of it; NULL: none
    Slice peer_name          # what the other end is called where its process is not known; may be empty
    Slice peer_space         # its service.namespace; may be empty

cdef inline bint speaks_http(const SpanRec *r) noexcept nogil:
    """An HTTP request and answer, whatever carries them."""
    return r.proto == PROTO_HTTP1 or r.proto == PROTO_FASTCGI

cdef inline Slice span_str(const SpanRec *r, int which) noexcept nogil:
    """One of the strings (SpanString); empty if it is not there."""
    cdef Slice s
    cdef int i
    s.p = <const uint8_t *>r + sizeof(SpanRec)
    for i in range(which):
        s.p += r.n[i]
    s.n = r.n[which]
    return s
