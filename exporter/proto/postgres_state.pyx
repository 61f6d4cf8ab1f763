# cython: language_level=3, boundscheck=True, wraparound=False
"""A PostgreSQL connection's memory: names of statements and portals, and the queue of owed answers. See the
.pxd.

Everything is allocated when first needed, so that a connection that was only looked at costs one struct.
Without memory a name is forgotten; its requests are then told without their text.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy

from zerospan.exporter.proto.cursor cimport Slice, slice_of
from zerospan.exporter.proto.sql cimport SQL_POSTGRES, sql_summarise


cdef PgState *pg_state(void **state) noexcept nogil:
    cdef PgState *s
    if state[0] == NULL:
        s = <PgState *>calloc(1, sizeof(PgState))
        if s == NULL:
            return NULL
        s.statements.limit = PG_STATEMENTS
        s.portals.limit = PG_PORTALS
        s.rows = -1
        state[0] = s
    return <PgState *>state[0]


cdef void table_free(NameTable *table) noexcept nogil:
    cdef uint32_t i
    for i in range(table.n):
        text_drop(table.rows[i].text)
    free(table.rows)


cdef void pg_free(void *state) noexcept nogil:
    cdef PgState *s = <PgState *>state
    if s == NULL:
        return
    table_free(&s.statements)
    table_free(&s.portals)
    text_drop(s.recent)
    text_drop(s.last)
    free(s.queue)
    free(s)


cdef SqlText *text_new(Slice sql, bint cut) noexcept nogil:
    """A bounded copy, held once; NULL without memory."""
    cdef uint32_t n = sql.n if sql.n < PG_TEXT else PG_TEXT
    cdef SqlText *t = <SqlText *>malloc(sizeof(SqlText) + n)
    if t == NULL:
        return NULL
    t.refs = 1
    t.n = n
    t.cut = cut or n < sql.n
    t.traced = False
    memcpy(t.text, sql.p, n)
    sql_summarise(slice_of(t.text, n), t.cut, SQL_POSTGRES, &t.summary)
    return t


cdef SqlText *text_hold(SqlText *t) noexcept nogil:
    if t != NULL:
        t.refs += 1
    return t


cdef void text_drop(SqlText *t) noexcept nogil:
    if t == NULL:
        return
    t.refs -= 1
    if t.refs == 0:
        free(t)


cdef Named *find(NameTable *table, Slice name) noexcept nogil:
    cdef uint32_t i
    for i in range(table.n):
        if table.rows[i].name_n == name.n and memcmp(table.rows[i].name, name.p, name.n) == 0:
            return &table.rows[i]
    return NULL


cdef SqlText *name_get(PgState *s, NameTable *table, Slice name) noexcept nogil:
    """The text of that name, still held by the table; NULL if unknown."""
    cdef Named *row = find(table, name)
    if row == NULL:
        return NULL
    s.tick += 1
    row.used = s.tick
    return row.text


cdef Named *new_row(NameTable *table) noexcept nogil:
    cdef Named *grown
    cdef Named *row
    cdef uint32_t i, cap
    if table.n == table.limit:
        row = &table.rows[0]
        for i in range(1, table.n):
            if table.rows[i].used < row.used:
                row = &table.rows[i]
        text_drop(row.text)
        return row
    if table.n == table.cap:
        cap = table.cap * 2 if table.cap else 2
        grown = <Named *>realloc(table.rows, cap * sizeof(Named))
        if grown == NULL:
            return NULL
        table.rows = grown
        table.cap = cap
    table.n += 1
    return &table.rows[table.n - 1]


cdef void name_set(PgState *s, NameTable *table, Slice name, SqlText *text) noexcept nogil:
    cdef Named *row
    if text == NULL or name.n > PG_NAME:
        name_drop(table, name)
        return
    text_hold(text)
    row = find(table, name)
    if row != NULL:
        text_drop(row.text)
    else:
        row = new_row(table)
        if row == NULL:
            text_drop(text)
            return
        row.name_n = name.n
        memcpy(row.name, name.p, name.n)
    row.text = text
    s.tick += 1
    row.used = s.tick


cdef void name_drop(NameTable *table, Slice name) noexcept nogil:
    cdef Named *row = find(table, name)
    if row == NULL:
        return
    text_drop(row.text)
    table.n -= 1
    row[0] = table.rows[table.n]


cdef bint grow_queue(PgState *s) noexcept nogil:
    cdef uint32_t cap = s.queue_cap * 2 if s.queue_cap else 32
    cdef uint32_t i
    cdef uint8_t *grown
    if cap > PG_QUEUE:
        return False
    grown = <uint8_t *>malloc(cap)
    if grown == NULL:
        return False
    for i in range(s.owed):
        grown[i] = s.queue[(s.head + i) & (s.queue_cap - 1)]
    free(s.queue)
    s.queue = grown
    s.queue_cap = cap
    s.head = 0
    return True


cdef bint owe(PgState *s, int what) noexcept nogil:
    if not s.overflow and s.owed == s.queue_cap and not grow_queue(s):
        s.overflow = True
    if s.overflow:
        s.overflow_syncs += what != OWED_EXECUTE and what != OWED_CUT
        return False
    s.queue[(s.head + s.owed) & (s.queue_cap - 1)] = <uint8_t>what
    s.owed += 1
    return True


cdef int owed_first(const PgState *s) noexcept nogil:
    return s.queue[s.head] if s.owed else OWED_NOTHING


cdef void owed_pop(PgState *s) noexcept nogil:
    """The first entry is settled; what was seen of its answer is forgotten."""
    s.begun = 0
    s.rows = -1
    s.data_rows = 0
    if s.owed:
        s.head = (s.head + 1) & (s.queue_cap - 1)
        s.owed -= 1


cdef void owed_replace_first(PgState *s, int what) noexcept nogil:
    s.begun = 0
    s.rows = -1
    s.data_rows = 0
    if s.owed:
        s.queue[s.head] = <uint8_t>what


cdef bint owed_more(const PgState *s) noexcept nogil:
    cdef uint32_t i
    for i in range(1, s.owed):
        if s.queue[(s.head + i) & (s.queue_cap - 1)] < OWED_SYNC:
            return True
    return False


cdef void owed_drop_syncs_behind_first(PgState *s) noexcept nogil:
    """A Sync that was sent before copy-in began is ignored by the server (chapter COPY Operations)."""
    cdef uint8_t first
    while s.owed > 1 and s.queue[(s.head + 1) & (s.queue_cap - 1)] >= OWED_SYNC:
        first = s.queue[s.head]
        s.head = (s.head + 1) & (s.queue_cap - 1)
        s.owed -= 1
        s.queue[s.head] = first
