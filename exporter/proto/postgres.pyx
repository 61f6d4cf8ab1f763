# cython: language_level=3, boundscheck=True, wraparound=False
"""PostgreSQL, protocol 3: requests from Query, Execute and Function call, answers from what ends them.

Source: PostgreSQL manual, chapter "Frontend/Backend Protocol". Each frame is one message; those that are no
request and end no answer are MT_IGNORE. Called through postgres_ops(). The client's side is in
postgres_client, what a connection remembers in postgres_state; here is the server's side, which settles what
is owed.

Only the beginning of a run is captured, and a long result hides its CommandComplete. When a server's run is
cut, everything that is owed is answered, truncated. A request that was told for a cut run (OWED_CUT) and
turns out to have been only prepared is answered with operation PREPARE. Both depend on the bytes alone, so
that both ends of a connection agree.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from zerospan.exporter.proto.base cimport (
    LENGTH_UNKNOWN, MSG, MT_IGNORE, MT_RESPONSE, MT_UPGRADE, NOT_MINE, PAIR_IN_ORDER, PROTO_POSTGRES, STATUS_OK,
    STATUS_SERVER_ERROR, STATUS_UNSET, ParseArgs, Parsed, ProtoOps,
)
from zerospan.exporter.proto.cursor cimport Cursor, Slice, cur_u8, slice_of, slice_u64
from zerospan.exporter.proto.postgres_client cimport from_client
from zerospan.exporter.proto.postgres_frame cimport Frame, frame_ignore, frame_read, frame_sniff, frame_text
from zerospan.exporter.proto.postgres_state cimport (
    ABORTED_ERROR, ABORTED_LOST, ABORTED_NO, BEGUN_BOUND, BEGUN_DATA, BEGUN_DONE, BEGUN_PARSED, BEGUN_ROWS,
    OWED_CUT, OWED_NOTHING, OWED_SIMPLE, OWED_SYNC, OWED_SYNC_PREPARED, PgState, owed_drop_syncs_behind_first,
    owed_first, owed_more, owed_pop, owed_replace_first, pg_free, pg_state,
)
from zerospan.exporter.proto.sql cimport sql_mask


cdef inline Slice word(const char *text, uint32_t n) noexcept nogil:
    return slice_of(<const uint8_t *>text, n)


cdef int answer(const ParseArgs *a, PgState *s, const Frame *f, Parsed *out, int status) noexcept nogil:
    """Answers the first request that is owed one. If the run is cut here, all others are owed it now, too."""
    cdef bint simple = owed_first(s) == OWED_SIMPLE
    out.type = MT_RESPONSE
    out.status = <uint8_t>status
    out.rows = s.rows
    out.consumed = <uint32_t>f.size if f.whole else a.n
    out.total = f.size
    if f.last:
        out.truncated = not f.whole or (simple and f.type != c'Z' and status != STATUS_SERVER_ERROR)
        out.total = LENGTH_UNKNOWN
        if owed_more(s):
            out.consumed = 0
            out.total = 0
            s.draining = True
            owed_pop(s)
            return MSG
        while s.owed:
            owed_pop(s)
        s.aborted = ABORTED_NO
        return MSG
    if simple and f.type != c'Z':
        owed_replace_first(s, OWED_SYNC)            # its ReadyForQuery is still to come
    else:
        owed_pop(s)
    return MSG


cdef int answer_lost(const ParseArgs *a, PgState *s, const Frame *f, Parsed *out) noexcept nogil:
    """The end of the first owed answer was not captured."""
    cdef uint8_t seen = s.begun
    answer(a, s, f, out, STATUS_OK if seen & ~BEGUN_PARSED else STATUS_UNSET)
    out.truncated = 1
    if not seen & BEGUN_DONE:
        out.rows = -1
    return MSG


cdef int answer_lost_before(const ParseArgs *a, PgState *s, const Frame *f, Parsed *out) noexcept nogil:
    """The same, and this frame belongs to what comes behind: it is parsed again."""
    cdef Frame earlier = f[0]
    earlier.last = False
    earlier.type = 90
    answer_lost(a, s, &earlier, out)
    out.consumed = 0
    out.total = 0
    return MSG


cdef int answer_skipped(const ParseArgs *a, PgState *s, Parsed *out) noexcept nogil:
    """A request between an error and its Sync: the server never ran it. It has no bytes of its own."""
    owed_pop(s)
    out.type = MT_RESPONSE
    out.consumed = 0
    out.total = 0
    if s.aborted == ABORTED_ERROR:
        out.status = STATUS_SERVER_ERROR
        out.message = word("skipped after error", 19)
    else:
        out.truncated = 1
    return MSG


cdef int drain(const ParseArgs *a, PgState *s, const Frame *f, Parsed *out) noexcept nogil:
    """The run was cut and several answers went with it."""
    while owed_first(s) >= OWED_SYNC:
        s.aborted = ABORTED_NO
        owed_pop(s)
    if s.aborted == ABORTED_ERROR and owed_more(s):
        return answer_skipped(a, s, out)
    if s.aborted == ABORTED_ERROR:
        s.draining = False
        answer(a, s, f, out, STATUS_SERVER_ERROR)
        out.message = word("skipped after error", 19)
        return MSG
    s.draining = owed_more(s)
    if owed_first(s) == OWED_NOTHING:
        return frame_ignore(a, f, out)
    return answer_lost(a, s, f, out)


cdef bint is_sqlstate(Slice s) noexcept nogil:
    """Five digits or upper-case letters: it becomes a label."""
    cdef uint32_t i
    if s.n != 5:
        return False
    for i in range(5):
        if not (48 <= s.p[i] <= 57 or 65 <= s.p[i] <= 90):
            return False
    return True


cdef int error_frame(const ParseArgs *a, PgState *s, Frame *f, Parsed *out) noexcept nogil:
    """ErrorResponse: the answer to the first owed request. Section "Error and Notice Message Fields"."""
    cdef Cursor c = f.body
    cdef Slice value
    cdef uint8_t field
    cdef bint simple = owed_first(s) == OWED_SIMPLE
    s.rows = -1
    if not simple:
        s.aborted = ABORTED_ERROR
    answer(a, s, f, out, STATUS_SERVER_ERROR)
    while c.left:
        field = cur_u8(&c)
        if field == 0:
            break
        if not frame_text(&c, &value) and field != c'M':
            break
        if field == c'C' and is_sqlstate(value):
            out.status_text = value
        elif field == c'M':
            out.message = value
    return MSG


cdef int64_t tag_rows(Slice tag) noexcept nogil:
    """The number at a command tag's end ("SELECT 5", "INSERT 0 1"), or -1."""
    cdef uint32_t n = tag.n
    while n and tag.p[n - 1] != 32:
        n -= 1
    if n == 0:
        return -1
    return slice_u64(slice_of(tag.p + n, tag.n - n))


cdef int complete_frame(const ParseArgs *a, PgState *s, Frame *f, Parsed *out) noexcept nogil:
    """CommandComplete, EmptyQueryResponse, PortalSuspended: end of one statement."""
    cdef Cursor c = f.body
    cdef Slice tag
    cdef int64_t rows = -1
    if f.type == c'C' and frame_text(&c, &tag):
        rows = tag_rows(tag)
    elif f.type == c'I':
        rows = 0
    elif f.type == c's':
        rows = s.data_rows
    if owed_first(s) != OWED_SIMPLE:
        s.rows = rows
        return answer(a, s, f, out, STATUS_OK)
    s.begun = BEGUN_DONE
    if rows >= 0:
        s.rows = rows if s.rows < 0 else s.rows + rows
    return answer_lost(a, s, f, out) if f.last else frame_ignore(a, f, out)


cdef int ready_frame(const ParseArgs *a, PgState *s, Frame *f, Parsed *out) noexcept nogil:
    """ReadyForQuery ends a simple query, and what the server skipped since an error."""
    cdef int first = owed_first(s)
    if first == OWED_NOTHING:
        if s.overflow_syncs:
            s.overflow_syncs -= 1
        s.overflow = s.overflow_syncs != 0
        s.aborted = ABORTED_NO
        return frame_ignore(a, f, out)
    if first >= OWED_SYNC:
        owed_pop(s)
        s.aborted = ABORTED_NO
        return drain(a, s, f, out) if f.last else frame_ignore(a, f, out)
    if first == OWED_SIMPLE:
        if s.begun & BEGUN_DONE:
            return answer(a, s, f, out, STATUS_OK)
        return answer_lost(a, s, f, out) if s.begun or f.last else frame_ignore(a, f, out)
    if s.aborted:
        return answer_skipped(a, s, out)
    if s.begun == 0:
        return frame_ignore(a, f, out)                    # of something that we did not see
    s.aborted = ABORTED_LOST
    if first == OWED_CUT and s.begun == BEGUN_PARSED:
        answer_lost_before(a, s, f, out)
        out.status = STATUS_OK
        out.operation = word("PREPARE", 7)
        return MSG
    return answer_lost_before(a, s, f, out)


cdef uint8_t begins(int type) noexcept nogil:
    """What a frame says of the answer that it stands in."""
    if type == c'1' or type == c'3' or type == c't':    # ParseComplete, CloseComplete, ParameterDescription
        return BEGUN_PARSED
    if type == c'2':                                    # BindComplete
        return BEGUN_BOUND
    # RowDescription, NoData, CopyIn-, CopyOut-, CopyBothResponse
    if type == c'T' or type == c'n' or type == c'G' or type == c'H' or type == c'W':
        return BEGUN_ROWS
    return BEGUN_DATA                                   # DataRow, CopyData, CopyDone, FunctionCallResponse


cdef int answer_frame(const ParseArgs *a, PgState *s, Frame *f, Parsed *out) noexcept nogil:
    """A frame that belongs to the first owed answer."""
    cdef int first = owed_first(s)
    cdef uint8_t flag = begins(f.type)
    if first == OWED_SIMPLE and (flag <= BEGUN_BOUND or f.type == c'n'):
        return frame_ignore(a, f, out)                    # extended protocol: of a request that we did not see
    if first != OWED_SIMPLE and s.begun & BEGUN_DATA and (flag <= BEGUN_BOUND or f.type == c'n' or f.type == c'T'):
        return answer_lost_before(a, s, f, out)     # rows, then the head of another answer
    if first == OWED_CUT and f.type == c't' and not s.begun & BEGUN_BOUND:
        answer(a, s, f, out, STATUS_OK)             # a statement is described, nothing was bound: only prepared
        out.operation = word("PREPARE", 7)
        return MSG
    if f.type == c'V':                                # FunctionCallResponse, its only one
        flag = BEGUN_DONE
    # The description of a statement says nothing of a portal's rows.
    if first != OWED_SIMPLE and flag == BEGUN_ROWS and not s.begun & BEGUN_BOUND:
        flag = BEGUN_PARSED
    s.begun |= flag
    s.data_rows += f.type == c'D'
    if f.type == c'G':
        owed_drop_syncs_behind_first(s)
    if f.type == c'W':                                # CopyBoth: a stream without end has begun
        return answer(a, s, f, out, STATUS_OK)
    return answer_lost(a, s, f, out) if f.last else frame_ignore(a, f, out)


cdef void settle_syncs(PgState *s, const Frame *f) noexcept nogil:
    """An answer begins while a ReadyForQuery is owed: that one was not captured.

    Behind a Parse or Describe their own answers come first, and prove nothing.
    """
    cdef bint prepares = begins(f.type) == BEGUN_PARSED or f.type == c'T' or f.type == c'n' or f.type == c'2'
    if f.type == c'E' and (owed_first(s) == OWED_SYNC_PREPARED or not owed_more(s)):
        return              # a Parse alone failed; or a deferred constraint, at the Sync itself
    while owed_first(s) >= OWED_SYNC and not (prepares and owed_first(s) == OWED_SYNC_PREPARED):
        owed_pop(s)
        s.aborted = ABORTED_NO


cdef bint is_async(int type) noexcept nogil:
    """Frames that stand anywhere: N, A, S, and those of the start-up: R, K, v."""
    return type == c'N' or type == c'A' or type == c'S' or type == c'R' or type == c'K' or type == c'v'


cdef int from_server(const ParseArgs *a, PgState *s, Frame *f, Parsed *out) noexcept nogil:
    if s.draining:
        return drain(a, s, f, out)
    if not is_async(f.type) and not (f.type == c'Z' and f.whole):
        settle_syncs(s, f)
        if s.aborted and owed_first(s) == OWED_NOTHING:
            s.aborted = ABORTED_NO
        if s.aborted and owed_first(s) < OWED_SYNC and not f.last:
            return answer_skipped(a, s, out)        # its ReadyForQuery was not captured
    if f.type == c'Z' and f.whole:
        return ready_frame(a, s, f, out)
    if owed_first(s) == OWED_NOTHING or (owed_first(s) >= OWED_SYNC and not (f.last and owed_more(s))):
        return frame_ignore(a, f, out)
    if f.last and owed_first(s) >= OWED_SYNC:
        return drain(a, s, f, out)
    if f.type == c'E':
        return error_frame(a, s, f, out)
    if is_async(f.type) or f.type == c'Z':
        return answer_lost(a, s, f, out) if f.last else frame_ignore(a, f, out)
    if f.type == c'C' or f.type == c'I' or f.type == c's':
        return complete_frame(a, s, f, out)
    return answer_frame(a, s, f, out)


cdef bint negotiated(const ParseArgs *a, PgState *s, Parsed *out) noexcept nogil:
    """The byte that answers SSLRequest or GSSENCRequest; False if a frame stands there (ErrorResponse)."""
    cdef uint8_t wanted = s.negotiating
    s.negotiating = 0
    if a.data[0] != wanted and a.data[0] != c'N':
        return False
    out.type = MT_UPGRADE if a.data[0] == wanted else MT_IGNORE
    out.consumed = 1
    out.total = 1
    return True


cdef int parse(const ParseArgs *a, Parsed *out) noexcept nogil:
    cdef Frame f
    cdef int outcome
    cdef PgState *s = pg_state(a.state)
    if s == NULL or a.n == 0:
        return NOT_MINE
    if not a.from_client and s.negotiating and negotiated(a, s, out):
        return MSG
    outcome = frame_read(a, &f)
    if outcome != MSG:
        return outcome
    return from_client(a, s, &f, out) if a.from_client else from_server(a, s, &f, out)


cdef ProtoOps OPS
OPS.id = PROTO_POSTGRES
OPS.pairing = PAIR_IN_ORDER
OPS.datagram = 0
OPS.name = "postgresql"
OPS.sniff = frame_sniff
OPS.parse = parse
OPS.mask = sql_mask
OPS.mask_query = NULL
OPS.free_state = pg_free


cdef const ProtoOps *postgres_ops() noexcept:
    return &OPS
