# cython: language_level=3, boundscheck=True, wraparound=False
"""A conversation fed from Python: the parsers as the agent runs them, without a socket.

Used by the parsers' tests, the fuzz targets and `zerospan replay --explain`-like tools; not on the hot path.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from zerospan.exporter.proto.base cimport (
    MT_INTERIM, MT_RESPONSE, MT_REQUEST, MT_UPGRADE, NOT_MINE, ParseArgs, Parsed, ProtoOps,
)
from zerospan.exporter.proto.cursor cimport Slice
from zerospan.exporter.proto.stream cimport Stream, stream_begin_run, stream_end_run, stream_feed, stream_free
from zerospan.exporter.proto.registry cimport proto_by_name

TYPES = {1: "request", 2: "response", 3: "interim", 4: "oneway", 5: "ignore", 6: "upgrade"}
STATUS = {0: "unset", 1: "ok", 2: "client_error", 3: "server_error"}
WIRE = {0: "", 1: "traceparent", 2: "b3", 3: "sw8", 4: "uber-trace-id"}


cdef bytes text(Slice s):
    return (<const char *>s.p)[:s.n] if s.n else b""


cdef bytes masked(const ProtoOps *ops, Slice s, bint query):
    cdef uint8_t out[1024]
    cdef uint32_t n
    if (ops.mask_query if query else ops.mask) == NULL:
        return text(s)
    n = ops.mask_query(s, out, sizeof(out)) if query else ops.mask(s, out, sizeof(out))
    return (<const char *>out)[:n]


cdef uint8_t *exact_copy(const uint8_t *data, uint32_t n) except NULL:
    """No byte more than n, so that a sanitizer sees a parser that reads further. The caller frees it."""
    cdef uint8_t *copy = <uint8_t *>malloc(n if n else 1)
    if copy == NULL:
        raise MemoryError("zerospan: no memory for a test's bytes")
    memcpy(copy, data, n)
    return copy


cdef class Conversation:
    """One connection, its two streams and the parser's state.

    proto: name of a parser ("http", "redis", "postgresql", "dns"). datagram: each feed is one UDP datagram.
    """

    cdef const ProtoOps *ops
    cdef Stream streams[2]
    cdef void *state
    cdef uint32_t run
    cdef int side
    cdef uint64_t off
    cdef list out
    cdef list open_requests
    cdef ParseArgs *args     # of the call that is on its way
    cdef public int server_port
    cdef bint datagram

    def __cinit__(self, str proto, int server_port=0, bint datagram=False):
        self.ops = proto_by_name(proto.encode())
        if self.ops == NULL:
            raise ValueError(f"no parser named {proto!r}")
        memset(self.streams, 0, sizeof(self.streams))
        self.state = NULL
        self.side = -1
        self.server_port = server_port
        self.datagram = datagram
        self.open_requests = []

    def __dealloc__(self):
        stream_free(&self.streams[0])
        stream_free(&self.streams[1])
        if self.state != NULL and self.ops.free_state != NULL:
            self.ops.free_state(self.state)

    def sniff(self, bint from_client, bytes data):
        """How sure the parser is that these are its first bytes: 0 no, 1 perhaps, 2 likely, 3 certain."""
        cdef ParseArgs a
        cdef uint8_t *copy = exact_copy(data, len(data))
        self._args(&a, from_client)
        a.data = copy
        a.n = len(data)
        try:
            return self.ops.sniff(&a)
        finally:
            free(copy)

    def feed(self, bint from_client, bytes data, captured=None, bint cut=False):
        """One call's bytes; returns the messages as dicts.

        captured: how many of them were copied (all if None); cut: no more bytes of this run will be.
        A refusal of the parser appears as {"type": "not_mine"}.
        """
        cdef ParseArgs a
        cdef uint32_t length = len(data)
        cdef uint32_t n = length if captured is None else min(length, captured)
        cdef uint8_t *copy
        cdef int outcome
        self.out = []
        if self.side != from_client or self.datagram:
            if self.side >= 0:
                self._end_run()
            self.side = from_client
            self.run += 1
            self.off = 0
            stream_begin_run(&self.streams[from_client], self.run)
        self._args(&a, from_client)
        copy = exact_copy(data, n)
        try:
            outcome = stream_feed(&self.streams[from_client], self.ops, &a, copy, n, length, self.off,
                                  cut or n < length, on_message, <void *>self)
        finally:
            free(copy)
        self.off += length
        if outcome == NOT_MINE:
            self.out.append({"type": "not_mine"})
        return self.out

    def finish(self):
        """Ends the current run: a head that was cut is parsed as it is. Returns the new messages."""
        self.out = []
        if self.side >= 0:
            self._end_run()
        return self.out

    cdef int _end_run(self) except -1:
        cdef ParseArgs a
        self._args(&a, self.side)
        if stream_end_run(&self.streams[self.side], self.ops, &a, on_message, <void *>self) == NOT_MINE:
            self.out.append({"type": "not_mine"})
        return 0

    cdef void _args(self, ParseArgs *a, bint from_client):
        memset(a, 0, sizeof(a[0]))
        a.from_client = from_client
        a.server_port = self.server_port
        a.datagram = self.datagram
        a.state = &self.state
        a.open_bodiless = self.open_requests[0] if self.open_requests else 0
        self.args = a


cdef int on_message(void *ctx, const Parsed *m, uint64_t at) except -1 nogil:
    with gil:
        record(<Conversation>ctx, m, at)
    return 0


cdef void record(Conversation c, const Parsed *m, uint64_t at):
    if m.type == MT_REQUEST:
        c.open_requests.append(m.bodiless)
    elif m.type in (MT_RESPONSE, MT_UPGRADE) and c.open_requests:
        c.open_requests.pop(0)
    elif m.type == MT_INTERIM and m.code == 100:
        c.streams[1].keep = 1  # the request's body goes on in the client's next run
    c.args.open_bodiless = c.open_requests[0] if c.open_requests else 0  # for the next message of the same bytes
    c.out.append({
        "type": TYPES[m.type],
        "at": at,
        "status": STATUS[m.status],
        "wire": WIRE[m.wire],
        "trace_flags": m.trace_flags,
        "unsampled": bool(m.unsampled),
        "ends_itself": bool(m.ends_itself),
        "truncated": bool(m.truncated),
        "version": m.version,
        "id": m.id,
        "code": m.code,
        "consumed": m.consumed,
        "total": m.total,
        "body_size": m.body_size,
        "rows": m.rows,
        "trace_id": (<const char *>m.trace_id)[:16].hex() if m.wire else "",
        "parent_id": (<const char *>m.parent_id)[:8].hex() if m.wire else "",
        "operation": text(m.operation),
        "target": text(m.target),
        "masked": masked(c.ops, m.target, False),
        "query": text(m.query),
        "masked_query": masked(c.ops, m.query, True),
        "domain": text(m.domain),
        "collection": text(m.collection),
        "status_text": text(m.status_text),
        "message": text(m.message),
        "user_agent": text(m.user_agent),
        "request_id": text(m.request_id),
    })
