# cython: language_level=3, boundscheck=True, wraparound=False
"""The client's frames of PostgreSQL: which of them are requests, and of what statement. Used by
proto.postgres.

An Execute stands behind its Parse and Bind. A run that is cut inside one of these is therefore told as a
request there and then (OWED_CUT): a statement of 600 bytes would never be seen otherwise. Passwords are never
looked at.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from zerospan.exporter.proto.base cimport MSG, MT_ONEWAY, MT_REQUEST, NOT_MINE, ParseArgs, Parsed
from zerospan.exporter.proto.cursor cimport (
    Cursor, Slice, cur_be32, cur_skip, cur_u8, cur_until, slice_is, slice_of,
)
from zerospan.exporter.proto.postgres_frame cimport (
    PG_CANCEL, PG_GSSENC, PG_SSL, Frame, frame_ignore, frame_text,
)
from zerospan.exporter.proto.postgres_state cimport (
    OWED_CUT, OWED_EXECUTE, OWED_SIMPLE, OWED_SYNC, OWED_SYNC_PREPARED, PG_NAME, PgState, SqlText, name_drop,
    name_get, name_set, owe, text_drop, text_hold, text_new,
)
from zerospan.exporter.proto.sql cimport SQL_POSTGRES, SqlSummary, sql_summarise


cdef inline Slice word(const char *text, uint32_t n) noexcept nogil:
    return slice_of(<const uint8_t *>text, n)


cdef void take_domain(PgState *s, Frame *f) noexcept nogil:
    """The database of a start-up packet; the server takes the user's name if none is given."""
    cdef Slice key, value, database
    cdef Cursor c = f.body
    database = slice_of(c.p, 0)
    cur_skip(&c, 4)
    while cur_until(&c, 0, &key) and key.n and cur_until(&c, 0, &value):
        if slice_is(key, "database", 8):
            database = value
            break
        if slice_is(key, "user", 4):
            database = value
    s.domain_n = database.n if database.n < PG_NAME else PG_NAME
    memcpy(s.domain, database.p, s.domain_n)


cdef int startup(const ParseArgs *a, PgState *s, Frame *f, Parsed *out) noexcept nogil:
    cdef Cursor c = f.body
    cdef uint32_t code = cur_be32(&c)
    frame_ignore(a, f, out)
    if not c.ok:
        return MSG
    if code == PG_SSL or code == PG_GSSENC:
        s.negotiating = c'S' if code == PG_SSL else c'G'
    elif code == PG_CANCEL:
        out.type = MT_ONEWAY
        out.operation = word("CANCEL", 6)
    else:
        take_domain(s, f)
    return MSG


cdef void tell_summary(Parsed *out, SqlSummary *sql, bint trace) noexcept nogil:
    if sql.operation.n:
        out.operation = sql.operation
    out.collection = slice_of(sql.collection, sql.collection_n)
    if trace and sql.wire:
        out.wire = sql.wire
        out.trace_flags = sql.trace_flags
        memcpy(out.trace_id, sql.trace_id, 16)
        memcpy(out.parent_id, sql.parent_id, 8)


cdef int request(const ParseArgs *a, PgState *s, const Frame *f, Parsed *out, int what) noexcept nogil:
    frame_ignore(a, f, out)
    out.type = MT_REQUEST if owe(s, what) else MT_ONEWAY
    out.domain = slice_of(s.domain, s.domain_n)
    s.prepared = False
    s.bound = False
    return MSG


cdef int simple_query(const ParseArgs *a, PgState *s, Frame *f, Parsed *out) noexcept nogil:
    cdef Slice sql
    cdef Cursor c = f.body
    cdef bint ended = frame_text(&c, &sql)
    if f.whole and not (ended and c.left == 0):
        return NOT_MINE
    request(a, s, f, out, OWED_SIMPLE)
    sql_summarise(sql, not ended, SQL_POSTGRES, &s.summary)
    out.target = sql
    tell_summary(out, &s.summary, True)
    return MSG


cdef int prepared_request(const ParseArgs *a, PgState *s, const Frame *f, Parsed *out, SqlText *text,
                          int what) noexcept nogil:
    """A request that runs a statement of this text; NULL if it was prepared before we watched."""
    request(a, s, f, out, what)
    out.operation = word("EXECUTE", 7)
    text_hold(text)
    text_drop(s.last)
    s.last = text
    if text != NULL:
        out.target = slice_of(text.text, text.n)
        out.truncated |= text.cut
        tell_summary(out, &text.summary, not text.traced)
        text.traced = True
    return MSG


cdef int parse_frame(const ParseArgs *a, PgState *s, Frame *f, Parsed *out) noexcept nogil:
    cdef Slice name, sql
    cdef Cursor c = f.body
    cdef bint ended
    cdef SqlText *text
    if not frame_text(&c, &name):
        if f.whole:
            return NOT_MINE
        prepared_request(a, s, f, out, NULL, OWED_CUT)
        owe(s, OWED_SYNC)
        return MSG
    ended = frame_text(&c, &sql)
    if f.whole and not ended:
        return NOT_MINE
    text = text_new(sql, not ended)
    name_set(s, &s.statements, name, text)
    text_drop(s.recent)
    s.recent = text
    s.prepared = True
    if f.last:
        prepared_request(a, s, f, out, text, OWED_CUT)
        owe(s, OWED_SYNC)
        return MSG
    return frame_ignore(a, f, out)


cdef int bind_frame(const ParseArgs *a, PgState *s, Frame *f, Parsed *out) noexcept nogil:
    cdef Slice portal, name
    cdef Cursor c = f.body
    cdef SqlText *text
    cdef bint named = frame_text(&c, &portal) and frame_text(&c, &name)
    if f.whole and not named:
        return NOT_MINE
    text = name_get(s, &s.statements, name) if named else s.recent
    s.prepared = True
    s.bound = True
    text_hold(text)
    text_drop(s.recent)
    s.recent = text
    if named:
        name_set(s, &s.portals, portal, text)
    if f.last:
        prepared_request(a, s, f, out, text, OWED_CUT)
        owe(s, OWED_SYNC)
        return MSG
    return frame_ignore(a, f, out)


cdef int execute_frame(const ParseArgs *a, PgState *s, Frame *f, Parsed *out) noexcept nogil:
    cdef Slice portal
    cdef Cursor c = f.body
    cdef bint named = frame_text(&c, &portal)
    if f.whole and not (named and c.left == 4):
        return NOT_MINE
    prepared_request(a, s, f, out, name_get(s, &s.portals, portal) if named else s.recent, OWED_EXECUTE)
    if f.last:
        owe(s, OWED_SYNC)
    return MSG


cdef int describe_close(const ParseArgs *a, PgState *s, Frame *f, Parsed *out) noexcept nogil:
    """Describe and Close: neither is a request. A cut behind a Bind hides the Execute that it is for."""
    cdef Cursor c = f.body
    cdef uint8_t kind = cur_u8(&c)
    cdef Slice name
    cdef SqlText *text
    cdef bint named = frame_text(&c, &name)
    if f.whole and not (named and c.left == 0 and (kind == c'S' or kind == c'P')):
        return NOT_MINE
    if f.last and s.bound:
        text = name_get(s, &s.portals, name) if kind == c'P' and named else s.recent
        prepared_request(a, s, f, out, text, OWED_CUT)
        owe(s, OWED_SYNC)
        return MSG
    s.prepared = True
    if f.type == c'C' and named:
        name_drop(&s.statements if kind == c'S' else &s.portals, name)
    return frame_ignore(a, f, out)


cdef int sync_frame(const ParseArgs *a, PgState *s, Frame *f, Parsed *out) noexcept nogil:
    owe(s, OWED_SYNC_PREPARED if s.prepared else OWED_SYNC)
    s.prepared = False
    s.bound = False
    text_drop(s.recent)
    s.recent = NULL
    return frame_ignore(a, f, out)


cdef int from_client(const ParseArgs *a, PgState *s, Frame *f, Parsed *out) noexcept nogil:
    if f.type == 0:
        return startup(a, s, f, out)
    if f.type == c'Q':                                # Query
        return simple_query(a, s, f, out)
    if f.type == c'P':                                # Parse
        return parse_frame(a, s, f, out)
    if f.type == c'B':                                # Bind
        return bind_frame(a, s, f, out)
    if f.type == c'E':                                # Execute
        return execute_frame(a, s, f, out)
    if f.type == c'D' or f.type == c'C':                # Describe, Close
        return describe_close(a, s, f, out)
    if f.type == c'S':                                # Sync
        return sync_frame(a, s, f, out)
    if f.type == c'F':                                # Function call
        request(a, s, f, out, OWED_SIMPLE)
        out.operation = word("FUNCTION", 8)
        return MSG
    # Flush, CopyData, CopyDone, CopyFail, password, Terminate
    return frame_ignore(a, f, out)
