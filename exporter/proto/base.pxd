"""What a parser is: one table of functions, three outcomes, one result struct.

A parser never sees a socket, a clock or another connection. It is given the bytes of ONE direction from
the first byte of a message on, and says one of three things:

  MSG       a whole message head was understood; `out` describes it, out.consumed / out.total say how long it is
  MORE      it needs more bytes (never said when `last` is set: no more bytes of this run will come)
  NOT_MINE  these bytes are not this protocol (the flow forgets the guess, or resyncs at the next run)

Only the first bytes of a run are captured (512 by default), so a parser must make a message of a head that was
cut: with `last` set it returns what it has. Slices point into the input (or into the connection's state) and
are only valid until the next call. Lengths that a peer announces are never allocated.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from zerospan.exporter.proto.cursor cimport Slice

cdef enum Outcome:
    MSG = 1
    MORE = 0
    NOT_MINE = -1

cdef enum Proto:
    PROTO_UNKNOWN = 0
    PROTO_HTTP1 = 1
    PROTO_REDIS = 2
    PROTO_POSTGRES = 3
    PROTO_DNS = 4
    PROTO_FASTCGI = 5
    PROTO_MAX = 16

cdef enum MessageType:
    MT_REQUEST = 1       # opens an operation that waits for an answer
    MT_RESPONSE = 2      # answers the oldest open request (or the one with the same id)
    MT_INTERIM = 3       # belongs to the open request, does not end it: HTTP 100-continue, PostgreSQL notices...
    MT_ONEWAY = 4        # an operation without an answer: Redis pub/sub push, PostgreSQL Terminate, cancel
    MT_IGNORE = 5        # part of the protocol, no operation of its own: start-up, SSLRequest, Sync, Parse
    MT_UPGRADE = 6       # a response after which the connection speaks something else (101, CONNECT 2xx)

cdef enum Pairing:
    PAIR_IN_ORDER = 0
    PAIR_BY_ID = 1

cdef enum StatusClass:
    STATUS_UNSET = 0     # no verdict: OpenTelemetry leaves the span status unset
    STATUS_OK = 1        # answered, no error
    STATUS_CLIENT_ERROR = 2  # the caller's fault: an error on the CLIENT span only (HTTP 4xx, NXDOMAIN)
    STATUS_SERVER_ERROR = 3  # an error on both spans

cdef enum WireContext:   # which header carried the trace context
    WIRE_NONE = 0
    WIRE_TRACEPARENT = 1
    WIRE_B3 = 2
    WIRE_SW8 = 3
    WIRE_UBER = 4        # uber-trace-id

cdef enum:
    LENGTH_UNKNOWN = -1  # out.total: the message lasts until the other side speaks or the connection ends

cdef struct Parsed:
    uint8_t type             # MessageType
    uint8_t status           # StatusClass, of a response
    uint8_t wire             # WireContext
    uint8_t trace_flags      # W3C flags octet of the wire context (01 = sampled)
    uint8_t unsampled        # the sender says that the trace is not recorded; without a context, too ("b3: 0")
    uint8_t ends_itself      # response of unknown length: its sender says when it ends (closes); silence does not
    uint8_t truncated        # 1: the head was cut, fields may be missing
    uint8_t bodiless         # request: its response has no body (HEAD); the flow hands it back in ParseArgs
    uint16_t version         # HTTP: 10 or 11; RESP: 2 or 3; 0 otherwise
    uint32_t id              # PAIR_BY_ID: what joins request and response
    int32_t code             # HTTP status, DNS rcode; -1 if none
    uint32_t consumed        # bytes of the input that belong to this message (<= input length); 0: a response that has no bytes
                             # of its own (PostgreSQL skips requests after an error), the same bytes are then parsed again
    int64_t total            # length of the whole message in bytes, or LENGTH_UNKNOWN
    int64_t body_size        # announced or counted body bytes, -1 if not known
    int64_t rows             # rows returned or affected; answers of DNS; -1 if not known
    uint8_t trace_id[16]
    uint8_t parent_id[8]
    Slice operation          # method, command, query type: "GET", "SELECT", "HGETALL", "A". Bounded, upper case where the protocol's is
    Slice target             # path (no query), SQL text, key command line, DNS name: unmasked; see ProtoOps.mask
    Slice query              # HTTP: the query string without '?'; else empty
    Slice domain             # Host / :authority, database name, DNS: empty
    Slice collection         # table of a simple SQL statement; else empty
    Slice status_text        # SQLSTATE, Redis error prefix (WRONGTYPE), DNS rcode name; empty for HTTP
    Slice message            # error text; exported only with masking off
    Slice user_agent
    Slice request_id         # X-Request-ID and its kin, request or response header

cdef struct ParseArgs:
    const uint8_t *data
    uint32_t n
    bint from_client         # who sent these bytes: the connecting side
    bint last                # no more bytes of this run will be seen
    uint16_t server_port
    uint8_t open_bodiless    # Parsed.bodiless of the oldest open request
    uint8_t datagram         # these bytes are one datagram, its end is the message's end: `last` is implied
    void **state             # per connection, both directions share it; NULL at first; freed by ProtoOps.free_state

# Writes a copy without literals that may be secret (values in SQL, Redis arguments, values in a query
# string) to `out` (capacity `cap`), and returns its length. Never more than cap.
ctypedef uint32_t (*mask_fn)(Slice text, uint8_t *out, uint32_t cap) noexcept nogil

cdef struct ProtoOps:
    uint8_t id               # Proto
    uint8_t pairing          # Pairing
    uint8_t datagram         # 1: speaks UDP (too)
    const char *name         # network.protocol.name or db.system.name: "http", "redis", "postgresql", "dns", "fastcgi"
    # How sure is it that these first bytes of a connection's direction are this protocol? 0 no, 1 perhaps (more bytes
    # would tell), 2 likely, 3 certain. Called before any state exists.
    int (*sniff)(const ParseArgs *a) noexcept nogil
    int (*parse)(const ParseArgs *a, Parsed *out) noexcept nogil    # an Outcome
    mask_fn mask             # of Parsed.target
    mask_fn mask_query       # of Parsed.query; NULL if there is none
    void (*free_state)(void *state) noexcept nogil                  # NULL if it keeps none

cdef inline void parsed_init(Parsed *m) noexcept nogil:
    cdef Slice none
    none.p = NULL
    none.n = 0
    m.type = 0
    m.status = STATUS_UNSET
    m.wire = WIRE_NONE
    m.trace_flags = 0
    m.unsampled = 0
    m.ends_itself = 0
    m.truncated = 0
    m.bodiless = 0
    m.version = 0
    m.id = 0
    m.code = -1
    m.consumed = 0
    m.total = LENGTH_UNKNOWN
    m.body_size = -1
    m.rows = -1
    m.operation = none
    m.target = none
    m.query = none
    m.domain = none
    m.collection = none
    m.status_text = none
    m.message = none
    m.user_agent = none
    m.request_id = none
