# cython: language_level=3, boundscheck=True, wraparound=False
"""SQL into tokens, for sql.pyx: knows quotes, comments and numbers of two dialects, and nothing of grammar.

Lexical rules: PostgreSQL manual, "Lexical Structure"; MySQL manual, "Language Structure". Where a text can be
read in two ways (a backslash before a quote depends on a server setting), the token is marked open: hiding
too much is the lesser harm. Every byte is read once, through the bounded cursor.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, strlen

from zerospan.exporter.proto.cursor cimport (
    Cursor, Slice, cur_init, cur_peek, cur_skip, cur_until, slice_is_nocase, slice_of,
)
from zerospan.exporter.proto.sql cimport SQL_MYSQL, SQL_POSTGRES


cdef inline bint is_digit(int c) noexcept nogil:
    return 48 <= c <= 57


cdef inline bint is_name_start(int c) noexcept nogil:
    return 65 <= c <= 90 or 97 <= c <= 122 or c == 95 or c >= 128


cdef inline bint is_name(int c) noexcept nogil:
    return is_name_start(c) or is_digit(c) or c == 36


cdef void lex_init(Lexer *l, Slice text, int dialect) noexcept nogil:
    cur_init(&l.c, text.p, text.n)
    l.dialect = dialect
    l.on_comment = NULL
    l.ctx = NULL


cdef bint token_is(const Token *t, const char *lower) noexcept nogil:
    return t.kind == TOKEN_WORD and slice_is_nocase(t.text, lower, <uint32_t>strlen(lower))


cdef void skip_comment(Lexer *l) noexcept nogil:
    """Past a /* comment; PostgreSQL's nest."""
    cdef const uint8_t *begin
    cdef uint32_t depth = 1
    cdef int a, b
    cur_skip(&l.c, 2)
    begin = l.c.p
    while depth and l.c.left:
        a = cur_peek(&l.c, 0)
        b = cur_peek(&l.c, 1)
        if a == 42 and b == 47:
            depth -= 1
            if depth == 0:
                break
            cur_skip(&l.c, 2)
        elif a == 47 and b == 42 and l.dialect == SQL_POSTGRES:
            depth += 1
            cur_skip(&l.c, 2)
        else:
            cur_skip(&l.c, 1)
    if l.on_comment != NULL:
        l.on_comment(l.ctx, slice_of(begin, <uint32_t>(l.c.p - begin)))
    cur_skip(&l.c, 2 if l.c.left >= 2 else l.c.left)


cdef bint skip_blank(Lexer *l) noexcept nogil:
    """Past blanks, control bytes and comments; says whether there were any."""
    cdef bint space = False
    cdef Slice line
    cdef int a, b
    while True:
        a = cur_peek(&l.c, 0)
        if a < 0:
            return space
        b = cur_peek(&l.c, 1)
        if a <= 32 or a == 127:
            cur_skip(&l.c, 1)
        elif (a == 45 and b == 45) or (a == 35 and l.dialect == SQL_MYSQL):
            if not cur_until(&l.c, 10, &line):
                cur_skip(&l.c, l.c.left)
        elif a == 47 and b == 42:
            skip_comment(l)
        else:
            return space
        space = True


cdef bint skip_quoted(Cursor *c, int quote, bint escapes, bint doubtful) noexcept nogil:
    """From behind the opening quote to behind the closing one; False if it is not there or cannot be told.

    escapes: a backslash takes the next byte with it. doubtful: whether it does depends on the server, so a
    quote behind an odd number of backslashes cannot be told.
    """
    cdef uint32_t slashes = 0
    cdef int a
    while c.left:
        a = cur_peek(c, 0)
        if a == 92:
            slashes += 1
            cur_skip(c, 1)
            if escapes:
                if c.left == 0:
                    return False
                cur_skip(c, 1)
                slashes = 0
            continue
        if a == quote:
            if doubtful and slashes & 1:
                return False
            if cur_peek(c, 1) != quote:
                cur_skip(c, 1)
                return True
            cur_skip(c, 2)
        else:
            cur_skip(c, 1)
        slashes = 0
    return False


cdef bint skip_dollar_quoted(Cursor *c, uint32_t tag) noexcept nogil:
    """Past $tag$...$tag$; `tag` counts both dollar signs. A tag has no $ inside, so this is linear."""
    cdef const uint8_t *opening = c.p
    cdef Slice passed
    cur_skip(c, tag)
    while cur_until(c, 36, &passed):
        if c.left >= tag - 1 and memcmp(c.p, opening + 1, tag - 1) == 0:
            cur_skip(c, tag - 1)
            return True
    return False


cdef void lex_dollar(Lexer *l, Token *t) noexcept nogil:
    cdef uint32_t i = 1
    if is_digit(cur_peek(&l.c, 1)):
        while is_digit(cur_peek(&l.c, i)):
            i += 1
        t.kind = TOKEN_PARAMETER
        t.text = slice_of(l.c.p, i)
        cur_skip(&l.c, i)
        return
    while is_name(cur_peek(&l.c, i)) and cur_peek(&l.c, i) != 36:
        i += 1
    if l.dialect == SQL_POSTGRES and (cur_peek(&l.c, i) == 36 or cur_peek(&l.c, i) < 0):
        t.kind = TOKEN_LITERAL
        t.open = cur_peek(&l.c, i) < 0 or not skip_dollar_quoted(&l.c, i + 1)
        return
    t.kind = TOKEN_SIGN
    t.text = slice_of(l.c.p, 1)
    cur_skip(&l.c, 1)


cdef void lex_number(Lexer *l, Token *t) noexcept nogil:
    """Digits and whatever hangs on to them: 1.5e-3, 0xFF, 1_000, and junk like 12ab, which is hidden too."""
    cdef int a, before = 0
    t.kind = TOKEN_LITERAL
    while True:
        a = cur_peek(&l.c, 0)
        if not (is_name(a) or a == 46
                or ((a == 43 or a == 45) and (before == 101 or before == 69) and is_digit(cur_peek(&l.c, 1)))):
            return
        before = a
        cur_skip(&l.c, 1)


cdef bint lex_prefixed(Lexer *l, Token *t) noexcept nogil:
    """E'..', B'..', X'..', N'..' and U&'..', U&".."; False if none of these begins here."""
    cdef int a = cur_peek(&l.c, 0) | 32
    cdef int b = cur_peek(&l.c, 1)
    cdef int c = cur_peek(&l.c, 2)
    if b == 39 and (a == 101 or a == 98 or a == 120 or a == 110):
        cur_skip(&l.c, 2)
        t.kind = TOKEN_LITERAL
        t.open = not skip_quoted(&l.c, 39, a == 101 or l.dialect == SQL_MYSQL, True)
        return True
    if a == 117 and b == 38 and c == 39:
        cur_skip(&l.c, 3)
        t.kind = TOKEN_LITERAL
        t.open = not skip_quoted(&l.c, 39, False, True)
        return True
    return False


cdef void lex_word(Lexer *l, Token *t) noexcept nogil:
    cdef uint32_t i = 1
    while is_name(cur_peek(&l.c, i)):
        i += 1
    t.kind = TOKEN_WORD
    t.text = slice_of(l.c.p, i)
    cur_skip(&l.c, i)


cdef void lex_name(Lexer *l, Token *t, int quote) noexcept nogil:
    """A quoted name. One that is not closed is hidden as a literal would be."""
    cdef const uint8_t *begin
    cur_skip(&l.c, 1)
    begin = l.c.p
    if skip_quoted(&l.c, quote, False, False):
        t.kind = TOKEN_NAME
        t.text = slice_of(begin, <uint32_t>(l.c.p - begin) - 1)
    else:
        t.kind = TOKEN_LITERAL
        t.open = True


cdef Token lex_next(Lexer *l) noexcept nogil:
    """The next token; TOKEN_END for ever behind the last one or behind an open one."""
    cdef Token t
    cdef int a
    t.kind = TOKEN_END
    t.open = False
    t.space = skip_blank(l)
    t.text = slice_of(l.c.p, 0)
    a = cur_peek(&l.c, 0)
    if a < 0:
        return t
    if a == 39 or (a == 34 and l.dialect == SQL_MYSQL):
        cur_skip(&l.c, 1)
        t.kind = TOKEN_LITERAL
        t.open = not skip_quoted(&l.c, a, l.dialect == SQL_MYSQL, l.dialect != SQL_MYSQL)
    elif a == 34 or (a == 96 and l.dialect == SQL_MYSQL):
        lex_name(l, &t, a)
    elif is_digit(a) or (a == 46 and is_digit(cur_peek(&l.c, 1))):
        lex_number(l, &t)
    elif a == 36:
        lex_dollar(l, &t)
    elif is_name_start(a):
        if not lex_prefixed(l, &t):
            lex_word(l, &t)
    else:
        t.kind = TOKEN_SIGN
        t.text = slice_of(l.c.p, 1)
        cur_skip(&l.c, 1)
    if t.open:
        cur_skip(&l.c, l.c.left)
    return t
