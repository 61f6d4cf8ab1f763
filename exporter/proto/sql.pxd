"""SQL text: what may be shown of it, and what it is about. Used by the parsers of SQL databases.

One bounded pass over the text each, no allocation. A dialect says what quotes and backslashes mean.
"""

from libc.stdint cimport uint8_t, uint32_t

from zerospan.exporter.proto.cursor cimport Slice

cdef enum SqlDialect:
    SQL_POSTGRES = 0         # "x" is a name, $tag$..$tag$ a literal, comments nest
    SQL_MYSQL = 1            # "x" is a literal, `x` a name, backslash escapes, # comments

cdef enum:
    SQL_COLLECTION_MAX = 128

cdef struct SqlSummary:
    Slice operation          # the first keyword in upper case (static text), empty if it is none we know
    uint32_t collection_n
    uint8_t collection[SQL_COLLECTION_MAX]   # the table of a simple statement, unquoted; empty if doubtful
    uint8_t wire             # WIRE_TRACEPARENT: a comment carried one (sqlcommenter)
    uint8_t trace_flags
    uint8_t trace_id[16]
    uint8_t parent_id[8]

# A mask_fn: literals become ?, comments vanish, blanks collapse, (?, ?, ?) becomes (?). Names, keywords and
# $1 stay.
cdef uint32_t sql_mask(Slice text, uint8_t *out, uint32_t cap) noexcept nogil
cdef uint32_t sql_mask_mysql(Slice text, uint8_t *out, uint32_t cap) noexcept nogil
# `cut`: the text goes on beyond what was captured.
cdef void sql_summarise(Slice text, bint cut, int dialect, SqlSummary *out) noexcept nogil
# The command that this text begins with, upper case, static; empty if it does not look like SQL.
cdef Slice sql_operation(Slice text, int dialect) noexcept nogil
