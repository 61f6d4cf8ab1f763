"""What one PostgreSQL connection remembers: its statements, its portals, and the answers that are owed.

All of it is bounded; see the enum below. Used by proto.postgres only.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from zerospan.exporter.proto.cursor cimport Slice
from zerospan.exporter.proto.sql cimport SqlSummary

cdef enum:
    PG_STATEMENTS = 64       # remembered statements; the one unused longest leaves
    PG_PORTALS = 16
    PG_TEXT = 512            # bytes of SQL kept of each
    PG_NAME = 64             # a longer statement or portal name is not remembered
    PG_QUEUE = 4096          # answers owed; further requests become one-way until the queue has run empty

cdef enum Owed:              # what the server still has to say, in order
    OWED_NOTHING = 0
    OWED_SIMPLE = 1          # Query, Function call: ends at ReadyForQuery
    OWED_EXECUTE = 2         # Execute: ends at CommandComplete and its kin
    OWED_CUT = 3             # a run was cut in a Parse or Bind: an Execute very probably, or only a prepare
    OWED_SYNC = 4            # ReadyForQuery
    OWED_SYNC_PREPARED = 5   # the same, behind a Parse, Describe or Close that is answered first

cdef enum Begun:             # what was seen of the first owed answer
    BEGUN_PARSED = 1         # ParseComplete, ParameterDescription, CloseComplete
    BEGUN_BOUND = 2          # BindComplete, NoData
    BEGUN_ROWS = 4           # RowDescription, CopyOutResponse...
    BEGUN_DATA = 8           # DataRow, CopyData
    BEGUN_DONE = 16          # simple query: at least one statement is complete

cdef enum Aborted:
    ABORTED_NO = 0
    ABORTED_ERROR = 1        # after ErrorResponse the server skips to the next Sync
    ABORTED_LOST = 2         # completions were not captured: the rest up to the Sync is answered without a verdict

cdef struct SqlText:         # shared by a statement and the portals bound to it
    uint32_t refs
    uint32_t n
    bint cut
    bint traced              # its trace context was handed out: it speaks of one execution only
    SqlSummary summary
    uint8_t text[1]

cdef struct Named:
    SqlText *text
    uint32_t used
    uint32_t name_n
    uint8_t name[PG_NAME]

cdef struct NameTable:
    Named *rows
    uint32_t n
    uint32_t cap
    uint32_t limit

cdef struct PgState:
    NameTable statements
    NameTable portals
    uint32_t tick
    SqlText *recent          # of the last Parse or Bind since the last Sync: what a cut frame probably means
    SqlText *last            # of the last request: keeps its slices alive
    uint8_t *queue           # ring of Owed
    uint32_t head
    uint32_t owed
    uint32_t queue_cap
    bint overflow            # the queue was full: its requests are one-way
    uint32_t overflow_syncs
    bint prepared            # client: Parse, Bind, Describe or Close since the last request or Sync
    bint bound               # client: a Bind that no Execute followed yet
    uint8_t negotiating      # 'S' or 'G': the server's next byte answers SSLRequest or GSSENCRequest
    uint8_t begun            # Begun, of the first owed answer
    uint8_t aborted          # Aborted
    bint draining            # the server's run was cut: all that is owed is being answered
    int64_t rows
    int64_t data_rows
    SqlSummary summary       # of the last simple query
    uint32_t domain_n
    uint8_t domain[PG_NAME]

cdef PgState *pg_state(void **state) noexcept nogil       # made when first asked for; NULL without memory
cdef void pg_free(void *state) noexcept nogil
cdef SqlText *text_new(Slice sql, bint cut) noexcept nogil
cdef SqlText *text_hold(SqlText *t) noexcept nogil
cdef void text_drop(SqlText *t) noexcept nogil
cdef SqlText *name_get(PgState *s, NameTable *table, Slice name) noexcept nogil
# Takes its own hold of the text; NULL forgets the name.
cdef void name_set(PgState *s, NameTable *table, Slice name, SqlText *text) noexcept nogil
cdef void name_drop(NameTable *table, Slice name) noexcept nogil
# False: the queue is full, no answer will be told for this one.
cdef bint owe(PgState *s, int what) noexcept nogil
cdef int owed_first(const PgState *s) noexcept nogil
cdef void owed_pop(PgState *s) noexcept nogil
cdef void owed_replace_first(PgState *s, int what) noexcept nogil
# Whether a request is owed an answer behind the first entry.
cdef bint owed_more(const PgState *s) noexcept nogil
cdef void owed_drop_syncs_behind_first(PgState *s) noexcept nogil
