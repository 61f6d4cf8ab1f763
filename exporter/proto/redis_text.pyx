# cython: language_level=3, boundscheck=True, wraparound=False
"""A Redis command as one line of text, and the same without its arguments.

The line is what is shown where masking is off; arguments of commands that carry credentials are not in it even then.
It is bounded in bytes and arguments, and printable: an argument with blanks, quotes, control characters or bytes above
126 is quoted, so that the masked form can tell where each argument ends. Called by proto.redis.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

from zerospan.exporter.proto.cursor cimport Slice, slice_of

cdef enum:
    ELLIPSIS = 4             # room for " ..."


cdef inline bint word_char(uint8_t c) noexcept nogil:
    return 65 <= (c & 0xDF) <= 90 or 48 <= c <= 57 or c in (45, 46, 95)


cdef bint has_credentials(const uint8_t *word, uint32_t n) noexcept nogil:
    """AUTH, HELLO (AUTH), ACL (SETUSER), MIGRATE (AUTH), CONFIG (SET requirepass), SENTINEL (SET auth-pass)."""
    return (
        (n == 4 and memcmp(word, b"AUTH", 4) == 0)
        or (n == 5 and memcmp(word, b"HELLO", 5) == 0)
        or (n == 3 and memcmp(word, b"ACL", 3) == 0)
        or (n == 7 and memcmp(word, b"MIGRATE", 7) == 0)
        or (n == 6 and memcmp(word, b"CONFIG", 6) == 0)
        or (n == 8 and memcmp(word, b"SENTINEL", 8) == 0)
    )


cdef void line_begin(CommandLine *c, Slice word) noexcept nogil:
    cdef uint32_t i
    c.full = False
    c.arguments = 0
    c.n = 0
    c.word_n = 0
    if 0 < word.n <= WORD_MAX:
        c.word_n = word.n
        for i in range(word.n):
            if not word_char(word.p[i]):
                c.word_n = 0
                break
            c.word[i] = word.p[i] - 32 if 97 <= word.p[i] <= 122 else word.p[i]
    if c.word_n:
        memcpy(c.text, c.word, c.word_n)
        c.n = c.word_n
        c.hidden = has_credentials(c.word, c.word_n)
    else:  # not a command: nobody knows what it is, so nobody sees it
        c.text[0] = 63
        c.n = 1
        c.hidden = True


cdef void line_more(CommandLine *c) noexcept nogil:
    if not c.full:
        memcpy(c.text + c.n, b" ...", ELLIPSIS)
        c.n += ELLIPSIS
        c.full = True


cdef inline bint plain_char(uint8_t c) noexcept nogil:
    return 33 <= c <= 126 and c not in (34, 39, 92)


cdef inline uint8_t hex_digit(uint8_t v) noexcept nogil:
    return 48 + v if v < 10 else 87 + v


cdef uint32_t quote(Slice s, uint8_t *out) noexcept nogil:
    """At most 4 * s.n + 2 bytes."""
    cdef uint32_t i, k = 1
    cdef uint8_t c
    out[0] = 34
    for i in range(s.n):
        c = s.p[i]
        if c == 34 or c == 92:
            out[k] = 92
            out[k + 1] = c
            k += 2
        elif c in (10, 13, 9):
            out[k] = 92
            out[k + 1] = 110 if c == 10 else 114 if c == 13 else 116
            k += 2
        elif 32 <= c <= 126:
            out[k] = c
            k += 1
        else:
            out[k] = 92
            out[k + 1] = 120
            out[k + 2] = hex_digit(c >> 4)
            out[k + 3] = hex_digit(c & 15)
            k += 4
    out[k] = 34
    return k + 1


cdef void put_argument(CommandLine *c, const uint8_t *p, uint32_t n) noexcept nogil:
    if c.arguments == ARGUMENTS_MAX or c.n + 1 + n + ELLIPSIS > LINE_MAX:
        line_more(c)
        return
    c.text[c.n] = 32
    memcpy(c.text + c.n + 1, p, n)
    c.n += 1 + n
    c.arguments += 1


cdef void line_add(CommandLine *c, Slice argument, bint cut) noexcept nogil:
    cdef uint8_t quoted[4 * ARGUMENT_MAX + 2 + 3]
    cdef uint32_t i, n
    if c.full:
        return
    if c.hidden:
        put_argument(c, <const uint8_t *>b"?", 1)
        return
    if argument.n > ARGUMENT_MAX:
        argument.n = ARGUMENT_MAX
        cut = True
    for i in range(argument.n):
        if not plain_char(argument.p[i]):
            break
    else:
        if argument.n and not cut and not (argument.n == 3 and memcmp(argument.p, b"...", 3) == 0):
            put_argument(c, argument.p, argument.n)
            return
    n = quote(argument, quoted)
    if cut:
        memcpy(quoted + n, b"...", 3)
        n += 3
    put_argument(c, quoted, n)


cdef Slice next_word(Slice *rest) noexcept nogil:
    """The next word, quotes of either kind included; empty at the end."""
    cdef uint32_t i = 0
    cdef uint8_t q = 0
    cdef Slice word
    while rest.n and (rest.p[0] == 32 or rest.p[0] == 9):
        rest.p += 1
        rest.n -= 1
    while i < rest.n:
        if q:
            if rest.p[i] == 92 and q == 34:
                i += 1
            elif rest.p[i] == q:
                q = 0
        elif rest.p[i] == 34 or rest.p[i] == 39:
            q = rest.p[i]
        elif rest.p[i] == 32 or rest.p[i] == 9:
            break
        i += 1
    if i > rest.n:
        i = rest.n
    word = slice_of(rest.p, i)
    rest.p += i
    rest.n -= i
    return word


cdef void line_add_words(CommandLine *c, Slice words) noexcept nogil:
    cdef Slice word = next_word(&words)
    while word.n and not c.full:
        if word.n >= 2 and word.p[0] == 34 and word.p[word.n - 1] == 34:
            word = slice_of(word.p + 1, word.n - 2)
        line_add(c, word, False)
        word = next_word(&words)


cdef uint32_t mask_line(Slice text, uint8_t *out, uint32_t cap) noexcept nogil:
    cdef uint32_t k = 0, count = 0
    cdef Slice word = next_word(&text)
    if word.n > cap or word.n == 0 or word.n > WORD_MAX:
        return 0
    memcpy(out, word.p, word.n)
    k = word.n
    while True:
        word = next_word(&text)
        if word.n == 0:
            return k
        if count == ARGUMENTS_MAX or (word.n == 3 and memcmp(word.p, b"...", 3) == 0):
            if cap - k >= ELLIPSIS:
                memcpy(out + k, b" ...", ELLIPSIS)
                k += ELLIPSIS
            return k
        if cap - k < 2:
            return k
        memcpy(out + k, b" ?", 2)
        k += 2
        count += 1
