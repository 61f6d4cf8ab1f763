# cython: language_level=3, boundscheck=True, wraparound=False
"""Masked SQL and what a statement is about: operation, collection, trace context. See sql.pxd.

Assumes the text of one statement or of several, perhaps cut. Called by proto.postgres (and by proto.mysql to
come); `mask` and `summary` are the same functions for tests and tools. Attributes: OpenTelemetry semantic
conventions for databases (db.operation.name, db.collection.name, db.query.text). Trace context in comments:
sqlcommenter, W3C Trace Context section 3.2 (traceparent).
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset, strlen

from zerospan.exporter.proto.base cimport WIRE_NONE, Parsed, parsed_init
from zerospan.exporter.proto.cursor cimport (
    Cursor, Slice, cur_init, cur_peek, cur_skip, cur_until, slice_is_nocase, slice_of,
)
from zerospan.exporter.proto.sql_lexer cimport (
    TOKEN_END, TOKEN_LITERAL, TOKEN_NAME, TOKEN_PARAMETER, TOKEN_SIGN, TOKEN_WORD, Lexer, Token,
    lex_init, lex_next, token_is,
)
from zerospan.exporter.proto.wire cimport WireHeaders, wire_init, wire_resolve

cdef const char **COMMANDS = [
    "SELECT", "INSERT", "UPDATE", "DELETE", "BEGIN", "COMMIT", "ROLLBACK", "START", "END", "ABORT",
    "SAVEPOINT", "RELEASE", "WITH", "MERGE", "VALUES", "TABLE", "COPY", "TRUNCATE", "CREATE", "ALTER",
    "DROP", "COMMENT", "GRANT", "REVOKE", "SET", "RESET", "SHOW", "EXPLAIN", "ANALYZE", "VACUUM",
    "REINDEX", "CLUSTER", "REFRESH", "LOCK", "CALL", "DO", "EXECUTE", "PREPARE", "DEALLOCATE", "DECLARE",
    "FETCH", "MOVE", "CLOSE", "LISTEN", "UNLISTEN", "NOTIFY", "DISCARD", "CHECKPOINT", "LOAD", "REASSIGN",
    "SECURITY", "IMPORT", "REPLACE", "USE", "DESCRIBE", "DESC", "KILL", "HANDLER", "RENAME", "OPTIMIZE",
    "FLUSH", "PURGE", "UNLOCK", "XA", "REPAIR", "CHECK", "INSTALL", "UNINSTALL", "CHANGE", "STOP",
    "SIGNAL", "IDENTIFY_SYSTEM", "START_REPLICATION", "CREATE_REPLICATION_SLOT", "DROP_REPLICATION_SLOT",
    "TIMELINE_HISTORY", "READ_REPLICATION_SLOT", "BASE_BACKUP", NULL,
]


# --- masking ------------------------------------------------------------------------------------------------

cdef enum ListState:         # inside "(": may it still be a list of nothing but literals?
    LIST_NO = 0
    LIST_OPEN = 1            # "(" was just written
    LIST_ITEM = 2            # a literal stood there
    LIST_COMMA = 3           # a comma behind a literal, not yet written

cdef struct Writer:
    uint8_t *out
    uint32_t n
    uint32_t cap
    bint full                # a token did not fit: nothing more is written, so that no token is cut in two
    int state                # ListState
    uint32_t held            # literals ", ?" of the list that are not yet written


cdef void put(Writer *w, const uint8_t *p, uint32_t n, bint space) noexcept nogil:
    cdef uint32_t extra = 1 if space and w.n else 0
    if w.full or n > w.cap or extra > w.cap - n or w.n > w.cap - n - extra:
        w.full = True
        return
    if extra:
        w.out[w.n] = 32
        w.n += 1
    memcpy(w.out + w.n, p, n)
    w.n += n


cdef void put_byte(Writer *w, uint8_t byte, bint space) noexcept nogil:
    put(w, &byte, 1, space)


cdef void flush_list(Writer *w) noexcept nogil:
    """It is no list of literals after all: writes what was held back."""
    while w.held and not w.full:
        put_byte(w, 44, False)
        put_byte(w, 63, True)
        w.held -= 1
    if w.state == LIST_COMMA:
        put_byte(w, 44, False)
    w.held = 0
    w.state = LIST_NO


cdef void put_literal(Writer *w, bint space) noexcept nogil:
    if w.state == LIST_OPEN:
        put_byte(w, 63, space)
        w.state = LIST_ITEM
    elif w.state == LIST_COMMA:
        w.held += 1
        w.state = LIST_ITEM
    else:
        flush_list(w)
        put_byte(w, 63, space)


cdef void put_sign(Writer *w, uint8_t byte, bint space) noexcept nogil:
    if byte == 44 and w.state == LIST_ITEM:
        w.state = LIST_COMMA
        return
    if byte == 41 and w.state == LIST_ITEM:
        w.held = 0
        w.state = LIST_NO
    flush_list(w)
    put_byte(w, byte, space)
    if byte == 40:
        w.state = LIST_OPEN


cdef bint value_before(const Token *t) noexcept nogil:
    """Can `t` end an operand, so that a + or - behind it is an operator and not part of a number?"""
    if t.kind == TOKEN_SIGN:
        return t.text.p[0] == 41 or t.text.p[0] == 93
    return t.kind != TOKEN_END


cdef void put_name(Writer *w, const Token *t) noexcept nogil:
    """A quoted name with its quotes, as one token."""
    put(w, t.text.p - 1, t.text.n + 2, t.space)


cdef uint32_t mask_text(Slice text, uint8_t *out, uint32_t cap, int dialect) noexcept nogil:
    cdef Lexer l
    cdef Writer w
    cdef Token t, before
    cdef int ahead
    cdef bint space = False
    w.out = out
    w.n = 0
    w.cap = cap
    w.full = False
    w.state = LIST_NO
    w.held = 0
    memset(&before, 0, sizeof(before))
    lex_init(&l, text, dialect)
    while not w.full:
        t = lex_next(&l)
        if space:
            t.space = True
            space = False
        if t.kind == TOKEN_END:
            break
        if t.kind == TOKEN_LITERAL:
            put_literal(&w, t.space)
        elif t.kind == TOKEN_SIGN:
            ahead = cur_peek(&l.c, 0)
            if ahead == 46:
                ahead = cur_peek(&l.c, 1)
            if (t.text.p[0] == 45 or t.text.p[0] == 43) and 48 <= ahead <= 57 and not value_before(&before):
                space = t.space
                continue
            put_sign(&w, t.text.p[0], t.space)
        else:
            flush_list(&w)
            if t.kind == TOKEN_NAME:
                put_name(&w, &t)
            else:
                put(&w, t.text.p, t.text.n, t.space)
        before = t
    return w.n


cdef uint32_t sql_mask(Slice text, uint8_t *out, uint32_t cap) noexcept nogil:
    return mask_text(text, out, cap, SQL_POSTGRES)


cdef uint32_t sql_mask_mysql(Slice text, uint8_t *out, uint32_t cap) noexcept nogil:
    return mask_text(text, out, cap, SQL_MYSQL)


# --- summary ------------------------------------------------------------------------------------------------

cdef Slice command(Slice word) noexcept nogil:
    """The known command that `word` is, in upper case; empty if none."""
    cdef uint32_t i = 0, k, n
    cdef uint8_t c
    while COMMANDS[i] != NULL:
        n = <uint32_t>strlen(COMMANDS[i])
        if n == word.n:
            k = 0
            while k < n:
                c = word.p[k]
                if 97 <= c <= 122:
                    c -= 32
                if c != <uint8_t>COMMANDS[i][k]:
                    break
                k += 1
            if k == n:
                return slice_of(<const uint8_t *>COMMANDS[i], n)
        i += 1
    return slice_of(NULL, 0)


cdef Slice first_command(Lexer *l) noexcept nogil:
    cdef Token t = lex_next(l)
    while t.kind == TOKEN_SIGN and (t.text.p[0] == 40 or t.text.p[0] == 59):
        t = lex_next(l)
    if t.kind != TOKEN_WORD:
        return slice_of(NULL, 0)
    return command(t.text)


cdef Slice sql_operation(Slice text, int dialect) noexcept nogil:
    cdef Lexer l
    lex_init(&l, text, dialect)
    return first_command(&l)


cdef inline bint sign_is(const Token *t, uint8_t byte) noexcept nogil:
    return t.kind == TOKEN_SIGN and t.text.p[0] == byte


cdef bint add_part(SqlSummary *s, const Token *t) noexcept nogil:
    """Adds a part of a qualified name; False if it would be ambiguous or does not fit."""
    cdef uint32_t i
    cdef uint8_t c
    if t.kind != TOKEN_WORD and t.kind != TOKEN_NAME or t.text.n == 0:
        return False
    if s.collection_n + t.text.n + 1 > SQL_COLLECTION_MAX:
        return False
    for i in range(t.text.n):
        c = t.text.p[i]
        if c < 32 or c == c'"' or c == c'.' or c == c'`' or c == 127:
            return False
    memcpy(s.collection + s.collection_n, t.text.p, t.text.n)
    s.collection_n += t.text.n
    return True


cdef bint take_collection(Lexer *l, Token *t, SqlSummary *s) noexcept nogil:
    """`t` begins a table's name, perhaps after ONLY; on return it is the token behind the name."""
    cdef Token look
    if token_is(t, "only"):
        t[0] = lex_next(l)
    while add_part(s, t):
        t[0] = lex_next(l)
        if not (sign_is(t, 46) and not t.space):
            # Directly behind the name: a call, not a table.
            look = t[0]
            return not (sign_is(&look, 40) and not look.space)
        s.collection[s.collection_n] = 46
        s.collection_n += 1
        t[0] = lex_next(l)
        if t.space:
            return False
    return False


cdef bint ends_from(const Token *t) noexcept nogil:
    return (token_is(t, "where") or token_is(t, "group") or token_is(t, "order") or token_is(t, "limit")
            or token_is(t, "having") or token_is(t, "offset") or token_is(t, "fetch") or token_is(t, "for")
            or token_is(t, "window"))


cdef bint joins(const Token *t) noexcept nogil:
    return (token_is(t, "join") or token_is(t, "straight_join") or token_is(t, "lateral")
            or token_is(t, "union") or token_is(t, "intersect") or token_is(t, "except"))


cdef bint select_collection(Lexer *l, bint cut, SqlSummary *s) noexcept nogil:
    """The one table that a SELECT reads; False as soon as there are two, or might be."""
    cdef Token t, before
    cdef int depth = 0
    cdef bint in_from = False, found = False
    memset(&before, 0, sizeof(before))
    t = lex_next(l)
    while True:
        if t.kind == TOKEN_END or t.open or (depth == 0 and sign_is(&t, 59)):
            return found and not ((cut or t.open) and in_from and t.kind != TOKEN_SIGN)
        if sign_is(&t, 40):
            depth += 1
        elif sign_is(&t, 41):
            depth -= 1
        elif token_is(&t, "select") or joins(&t) or (in_from and depth == 0 and sign_is(&t, 44)):
            return False
        elif depth == 0 and token_is(&t, "from") and not token_is(&before, "distinct"):
            if found:
                return False
            t = lex_next(l)
            if not take_collection(l, &t, s):
                return False
            found = True
            in_from = True
            before.kind = TOKEN_NAME
            continue
        elif in_from and depth == 0 and ends_from(&t):
            in_from = False
        before = t
        t = lex_next(l)


cdef bint target_collection(Lexer *l, Token *t, bint cut, SqlSummary *s) noexcept nogil:
    """The table that is written to: a name, and something behind it that is not another table."""
    if token_is(t, "into") or token_is(t, "table"):
        t[0] = lex_next(l)
    if token_is(t, "select") or token_is(t, "values") or token_is(t, "set"):
        return False
    # INSERT INTO t(a, b): a parenthesis directly behind the name is its column list here.
    if not take_collection(l, t, s) and not (sign_is(t, 40) and s.collection_n):
        return False
    return not ((cut and t.kind == TOKEN_END) or t.open or sign_is(t, 44) or sign_is(t, 46) or joins(t))


cdef bint find_collection(Lexer *l, Slice op, bint cut, SqlSummary *s) noexcept nogil:
    cdef Token t
    cdef int i
    if slice_is_nocase(op, "select", 6):
        return select_collection(l, cut, s)
    t = lex_next(l)
    if slice_is_nocase(op, "insert", 6) or slice_is_nocase(op, "replace", 7) or slice_is_nocase(op, "merge", 5):
        for i in range(3):
            if t.kind != TOKEN_WORD or token_is(&t, "into"):
                break
            t = lex_next(l)
        return token_is(&t, "into") and target_collection(l, &t, cut, s)
    if slice_is_nocase(op, "delete", 6):
        if not token_is(&t, "from"):
            return False
        t = lex_next(l)
        return target_collection(l, &t, cut, s)
    if slice_is_nocase(op, "copy", 4) or slice_is_nocase(op, "truncate", 8):
        return target_collection(l, &t, cut, s)
    if slice_is_nocase(op, "update", 6):
        if not target_collection(l, &t, cut, s):
            return False
        for i in range(6):      # UPDATE t * AS x SET
            if token_is(&t, "set"):
                return True
            if t.kind == TOKEN_END or t.open or sign_is(&t, 44) or joins(&t):
                return False
            t = lex_next(l)
    return False


cdef int hex_value(int c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    if 97 <= c <= 102:
        return c - 87
    return -1


cdef uint32_t url_decode(Slice s, uint8_t *out, uint32_t cap) noexcept nogil:
    """Bytes written, or 0 if they do not fit. A broken escape is left as it is."""
    cdef Cursor c
    cdef uint32_t n = 0
    cdef int high, low
    cur_init(&c, s.p, s.n)
    while c.left:
        if n == cap:
            return 0
        high = hex_value(cur_peek(&c, 1) | 32)
        low = hex_value(cur_peek(&c, 2) | 32)
        if cur_peek(&c, 0) == 37 and high >= 0 and low >= 0:
            out[n] = <uint8_t>(high << 4 | low)
            cur_skip(&c, 3)
        else:
            out[n] = <uint8_t>cur_peek(&c, 0)
            cur_skip(&c, 1)
        n += 1
    return n


cdef void read_traceparent(SqlSummary *s, Slice value) noexcept nogil:
    cdef uint8_t text[128]
    cdef Parsed m
    cdef WireHeaders w
    parsed_init(&m)
    wire_init(&w)
    w.traceparent = slice_of(text, url_decode(value, text, sizeof(text)))
    if wire_resolve(&w, &m):
        s.wire = m.wire
        s.trace_flags = m.trace_flags
        memcpy(s.trace_id, m.trace_id, 16)
        memcpy(s.parent_id, m.parent_id, 8)


cdef void note_comment(void *ctx, Slice comment) noexcept nogil:
    """Looks for traceparent='..' in a comment."""
    cdef SqlSummary *s = <SqlSummary *>ctx
    cdef Cursor c
    cdef Slice value
    cdef int before = 44
    cur_init(&c, comment.p, comment.n)
    while c.left > 13 and s.wire == WIRE_NONE:
        if (before == 44 or before <= 32) and memcmp(c.p, <const char *>"traceparent='", 13) == 0:
            cur_skip(&c, 13)
            if not cur_until(&c, 39, &value):
                return
            read_traceparent(s, value)
        before = cur_peek(&c, 0)
        cur_skip(&c, 1)


cdef void sql_summarise(Slice text, bint cut, int dialect, SqlSummary *out) noexcept nogil:
    cdef Lexer l
    cdef Token t
    memset(out, 0, sizeof(out[0]))
    lex_init(&l, text, dialect)
    l.on_comment = note_comment
    l.ctx = out
    out.operation = first_command(&l)
    if out.operation.n and not find_collection(&l, out.operation, cut, out):
        out.collection_n = 0
    # sqlcommenter puts its comment at the end.
    while out.wire == WIRE_NONE:
        t = lex_next(&l)
        if t.kind == TOKEN_END:
            break


# --- for tests and tools ------------------------------------------------------------------------------------

DIALECTS = {"postgresql": SQL_POSTGRES, "mysql": SQL_MYSQL}


def mask(bytes text, uint32_t cap=1024, str dialect="postgresql"):
    """The masked statement, at most `cap` bytes."""
    cdef uint8_t *out = <uint8_t *>malloc(cap if cap else 1)
    cdef uint32_t n
    if out == NULL:
        raise MemoryError(f"zerospan: no memory for {cap} bytes of masked SQL")
    n = mask_text(slice_of(text, <uint32_t>len(text)), out, cap, DIALECTS[dialect])
    try:
        return (<const char *>out)[:n]
    finally:
        free(out)


def summary(bytes text, bint cut=False, str dialect="postgresql"):
    """operation, collection, trace_id, parent_id (hex, empty if none) and trace_flags of a statement."""
    cdef SqlSummary s
    sql_summarise(slice_of(text, <uint32_t>len(text)), cut, DIALECTS[dialect], &s)
    return {
        "operation": (<const char *>s.operation.p)[:s.operation.n] if s.operation.n else b"",
        "collection": (<const char *>s.collection)[:s.collection_n],
        "trace_id": (<const char *>s.trace_id)[:16].hex() if s.wire else "",
        "parent_id": (<const char *>s.parent_id)[:8].hex() if s.wire else "",
        "trace_flags": s.trace_flags,
    }
