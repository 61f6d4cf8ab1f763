# cython: language_level=3, boundscheck=True, wraparound=False
"""The toy protocol of CONTRIBUTING.md: lines "PING word", each answered in its order by "PONG word" or "FAIL why".

Assumes the bytes of one direction from a message's first byte on; keeps no state. Called through the registry.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp

from zerospan.exporter.proto.base cimport (
    MORE, MSG, MT_REQUEST, MT_RESPONSE, NOT_MINE, PAIR_IN_ORDER, PROTO_TOY, ParseArgs, Parsed, ProtoOps,
    STATUS_OK, STATUS_SERVER_ERROR,
)
from zerospan.exporter.proto.cursor cimport Cursor, Slice, cur_init, cur_until, slice_is, slice_of

cdef enum:
    VERB = 5                 # bytes of "PING ", "PONG ", "FAIL "


cdef inline bint begins(const ParseArgs *a, const char *verb) noexcept nogil:
    """Whether the bytes are this verb, as far as they go."""
    return memcmp(a.data, verb, VERB if a.n > VERB else a.n) == 0


cdef bint fits(const ParseArgs *a) noexcept nogil:
    return begins(a, b"PING ") if a.from_client else begins(a, b"PONG ") or begins(a, b"FAIL ")


cdef int sniff(const ParseArgs *a) noexcept nogil:
    cdef Cursor c
    cdef Slice line
    if a.n == 0 or not fits(a):
        return 0
    cur_init(&c, a.data, a.n)
    if a.n > VERB and cur_until(&c, 10, &line):
        return 3
    return 0 if a.last else 1


cdef int parse(const ParseArgs *a, Parsed *out) noexcept nogil:
    cdef Cursor c
    cdef Slice line
    if not fits(a):
        return NOT_MINE
    cur_init(&c, a.data, a.n)
    if not cur_until(&c, 10, &line):
        if not a.last:
            return MORE
        line = slice_of(a.data, a.n)     # it was cut: what is there is told, how long it is nobody knows
        out.truncated = 1
        out.consumed = a.n
    else:
        out.consumed = line.n + 1
        out.total = out.consumed
    out.type = MT_REQUEST if a.from_client else MT_RESPONSE
    if line.n < VERB:        # cut within the verb
        return MSG if out.truncated else NOT_MINE
    out.operation = slice_of(line.p, VERB - 1)
    if a.from_client:
        out.target = slice_of(line.p + VERB, line.n - VERB)
    elif slice_is(out.operation, b"PONG", 4):
        out.status = STATUS_OK
    else:
        out.status = STATUS_SERVER_ERROR
        out.status_text = out.operation
        out.message = slice_of(line.p + VERB, line.n - VERB)
    return MSG


cdef uint32_t mask(Slice text, uint8_t *out, uint32_t cap) noexcept nogil:
    """Words are what people typed: nothing of them is shown."""
    if text.n == 0 or cap == 0:
        return 0
    out[0] = 63
    return 1


cdef ProtoOps OPS
OPS.id = PROTO_TOY
OPS.pairing = PAIR_IN_ORDER
OPS.datagram = 0
OPS.name = b"toy"
OPS.sniff = sniff
OPS.parse = parse
OPS.mask = mask
OPS.mask_query = NULL
OPS.free_state = NULL


cdef const ProtoOps *toy_ops() noexcept:
    return &OPS
