"""SQL into tokens, without building anything: see sql_lexer.pyx."""

from zerospan.exporter.proto.cursor cimport Cursor, Slice

cdef enum TokenKind:
    TOKEN_END = 0
    TOKEN_WORD = 1           # keyword or plain name
    TOKEN_NAME = 2           # quoted name; text is what stands between the quotes
    TOKEN_LITERAL = 3        # string, number, bit string, dollar-quoted text
    TOKEN_PARAMETER = 4      # $1
    TOKEN_SIGN = 5           # one byte of anything else

cdef struct Token:
    int kind
    Slice text
    bint space               # blanks or a comment stood before it
    bint open                # not terminated, or ambiguous: nothing behind it can be trusted

ctypedef void (*comment_fn)(void *ctx, Slice comment) noexcept nogil

cdef struct Lexer:
    Cursor c
    int dialect              # SqlDialect
    comment_fn on_comment    # NULL: comments are only skipped
    void *ctx

cdef void lex_init(Lexer *l, Slice text, int dialect) noexcept nogil
cdef Token lex_next(Lexer *l) noexcept nogil
cdef bint token_is(const Token *t, const char *lower) noexcept nogil
