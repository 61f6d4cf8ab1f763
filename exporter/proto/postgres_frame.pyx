# cython: language_level=3, boundscheck=True, wraparound=False
"""Reads PostgreSQL's frames and tells them from other protocols' bytes. Used by proto.postgres.

Source: PostgreSQL manual, chapter "Frontend/Backend Protocol", "Message Formats", protocol 3.0 to 3.2. A
frame is waited for until it is whole, because a cut must be noticed: see postgres.pyx.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from zerospan.exporter.proto.base cimport LENGTH_UNKNOWN, MORE, MSG, MT_IGNORE, NOT_MINE, ParseArgs, Parsed
from zerospan.exporter.proto.cursor cimport (
    Cursor, Slice, cur_be16, cur_be32, cur_init, cur_peek, cur_skip, cur_take, cur_u8, cur_until,
)
from zerospan.exporter.proto.sql cimport SQL_POSTGRES, sql_operation

cdef enum:
    FRAME_MAX = 0x40000000       # the server's own limit (MaxAllocSize)
    SNIFF_MAX = 0x04000000


cdef bint length_fits(int type, int64_t length, bint from_client) noexcept nogil:
    """May a frame of this type from this side announce this length (which counts its own four bytes)?"""
    if length < 4 or length > FRAME_MAX:
        return False
    if from_client:
        if type == c'H' or type == c'S' or type == c'X' or type == c'c':
            return length == 4
        if type == c'Q' or type == c'f':
            return length >= 5
        if type == c'P':
            return length >= 8
        if type == c'B':
            return length >= 12
        if type == c'D' or type == c'C':
            return length >= 6
        if type == c'E':
            return length >= 9
        if type == c'F':
            return length >= 14
        return type == c'd' or type == c'p'
    if type == c'1' or type == c'2' or type == c'3' or type == c'n' or type == c'I' or type == c's' or type == c'c':
        return length == 4
    if type == c'Z':
        return length == 5
    if type == c'R':
        return 8 <= length < 65536
    if type == c'K':
        return 12 <= length <= 264
    if type == c'T' or type == c'D' or type == c't':
        return length >= 6
    if type == c'C' or type == c'E' or type == c'N':
        return length >= 5
    if type == c'S':
        return length >= 6
    if type == c'A':
        return length >= 10
    if type == c'G' or type == c'H' or type == c'W':
        return length >= 7
    if type == c'V':
        return length >= 8
    if type == c'v':
        return length >= 12
    return type == c'd'


cdef bint type_fits(int type, bint from_client) noexcept nogil:
    cdef uint32_t length
    for length in range(4, 15):
        if length_fits(type, length, from_client):
            return True
    return False


cdef int startup_read(const ParseArgs *a, Frame *f) noexcept nogil:
    cdef Cursor c
    cdef int64_t length
    cdef uint32_t code
    cdef bint known
    cur_init(&c, a.data, a.n)
    f.type = 0
    if a.n < 8:
        if a.n >= 2 and a.data[1] != 0:
            return NOT_MINE
        length = cur_be32(&c) if a.n >= 4 else 8
        if length < 8 or length > PG_STARTUP_MAX:
            return NOT_MINE
        if not a.last:
            return MORE
        f.last = True
        f.size = length if a.n >= 4 else 0
        return MSG
    length = cur_be32(&c)
    code = cur_be32(&c)
    known = code >> 16 == 3 and (code & 0xFFFF) < 100 and length >= 9
    known = known or ((code == PG_SSL or code == PG_GSSENC) and length == 8)
    known = known or (code == PG_CANCEL and 16 <= length <= 272)
    if not known or length > PG_STARTUP_MAX:
        return NOT_MINE
    if a.n < length and not a.last:
        return MORE
    f.size = length
    f.whole = a.n >= length
    f.last = a.last and a.n <= length
    cur_init(&f.body, a.data + 4, <uint32_t>(length if f.whole else a.n) - 4)
    return MSG


cdef int frame_read(const ParseArgs *a, Frame *f) noexcept nogil:
    cdef Cursor c
    cdef int64_t length
    cur_init(&c, a.data, a.n)
    f.type = cur_u8(&c)
    f.size = 0
    f.whole = False
    f.last = a.last
    cur_init(&f.body, a.data, 0)
    if f.type == 0 and a.from_client:
        return startup_read(a, f)
    if not type_fits(f.type, a.from_client):
        return NOT_MINE
    if a.n < 5:
        return MSG if a.last else MORE
    length = cur_be32(&c)
    if not length_fits(f.type, length, a.from_client):
        return NOT_MINE
    f.size = length + 1
    f.whole = a.n >= f.size
    if not f.whole and not a.last:
        return MORE
    f.last = a.last and a.n <= f.size
    cur_init(&f.body, c.p, <uint32_t>(f.size if f.whole else a.n) - 5)
    return MSG


cdef int frame_ignore(const ParseArgs *a, const Frame *f, Parsed *out) noexcept nogil:
    """Covers the frame: no operation of its own."""
    out.type = MT_IGNORE
    out.consumed = <uint32_t>f.size if f.whole else a.n
    out.total = f.size if f.size else LENGTH_UNKNOWN
    out.truncated = not f.whole
    return MSG


cdef bint frame_text(Cursor *c, Slice *out) noexcept nogil:
    """A zero-terminated text; False if its end was cut, `out` is then what is there."""
    if cur_until(c, 0, out):
        return True
    out[0] = cur_take(c, c.left)
    return False


# --- sniffing -----------------------------------------------------------------------------------------------

cdef bint printable(Slice s) noexcept nogil:
    cdef uint32_t i
    for i in range(s.n):
        if s.p[i] < 32 and not (9 <= s.p[i] <= 13) or s.p[i] == 127:
            return False
    return True


cdef int text_fits(Cursor *c, bint whole, bint sql) noexcept nogil:
    """A zero-terminated text (that SQL could begin, if `sql`): 1 yes, 0 no, -1 yes as far as it is there."""
    cdef Slice s
    cdef bint ended = cur_until(c, 0, &s)
    if not ended:
        if whole:
            return 0
        s.p = c.p
        s.n = c.left
        cur_skip(c, c.left)
    if not printable(s):
        return 0
    if sql and s.n and sql_operation(s, SQL_POSTGRES).n == 0:
        return 0
    return 1 if ended else -1


cdef bint values_fit(Cursor *c, bint whole, uint32_t count) noexcept nogil:
    """That many values, each a length (or -1 for NULL) and its bytes."""
    cdef uint32_t i, n
    for i in range(count):
        if not whole and c.left < 4:
            return True
        n = cur_be32(c)
        if n == 0xFFFFFFFFU:
            continue
        if n > SNIFF_MAX or (whole and not cur_skip(c, n)):
            return False
        if not whole and not cur_skip(c, n):
            return True
    return c.ok


cdef bint formats_fit(Cursor *c, bint whole) noexcept nogil:
    """A count and that many format codes, 0 or 1."""
    cdef uint32_t i, count = cur_be16(c)
    for i in range(count):
        if not whole and c.left < 2:
            return True
        if cur_be16(c) > 1:
            return False
    return c.ok or not whole


cdef bint types_fit(Cursor *c) noexcept nogil:
    """A count and that many type oids, and nothing behind."""
    cdef uint32_t count = cur_be16(c)
    return c.ok and count * 4 == c.left


cdef bint client_fits(Frame *f) noexcept nogil:
    """Is the body what a client's frame of this type has?"""
    cdef Cursor c = f.body
    cdef int t = f.type
    cdef int a
    if t == c'Q':
        a = text_fits(&c, f.whole, True)
        return a < 0 and f.body.left >= 4 or a > 0 and c.left == 0
    if t == c'P':
        a = text_fits(&c, f.whole, False)
        if a > 0:
            a = text_fits(&c, f.whole, True)
        return a < 0 or (a > 0 and (not f.whole or types_fit(&c)))
    if t == c'B':
        if text_fits(&c, f.whole, False) == 0 or text_fits(&c, f.whole, False) == 0:
            return False
        return formats_fit(&c, f.whole) and values_fit(&c, f.whole, cur_be16(&c)) and (
            not f.whole or (formats_fit(&c, True) and c.left == 0))
    if t == c'D' or t == c'C':
        a = cur_u8(&c)
        return (a == c'S' or a == c'P') and text_fits(&c, f.whole, False) != 0 and (c.left == 0 or not f.whole)
    if t == c'E':
        return text_fits(&c, f.whole, False) != 0 and (c.left == 4 or not f.whole)
    return t == c'S' or t == c'H' or t == c'X' or t == c'c'


cdef bint server_fits(Frame *f) noexcept nogil:
    cdef Cursor c = f.body
    cdef int t = f.type
    cdef int a
    if t == c'Z':
        a = cur_peek(&c, 0)
        return a == c'I' or a == c'T' or a == c'E'
    if t == c'R':
        return cur_be32(&c) <= 12 and c.ok
    if t == c'T':
        a = cur_be16(&c)
        if a > 1664:
            return False
        return a == 0 or (text_fits(&c, f.whole, False) != 0 and (c.left >= 18 or not f.whole))
    if t == c'D':
        a = cur_be16(&c)
        return values_fit(&c, f.whole, a) and (c.left == 0 or not f.whole)
    if t == c'C':
        a = cur_peek(&c, 0)
        return 65 <= a <= 90 and text_fits(&c, f.whole, False) != 0 and c.left == 0
    if t == c'E' or t == c'N':
        return cur_peek(&c, 0) == c'S' and printable_field(&c)
    if t == c'S':
        return text_fits(&c, f.whole, False) != 0 and text_fits(&c, f.whole, False) != 0 and c.left == 0
    if t == c't':
        return not f.whole or types_fit(&c)
    if t == c'G' or t == c'H':
        return cur_u8(&c) <= 1 and formats_fit(&c, f.whole)
    return t == c'1' or t == c'2' or t == c'3' or t == c'n' or t == c'I' or t == c's' or t == c'K'


cdef bint printable_field(Cursor *c) noexcept nogil:
    """The severity of an error or a notice: S, a word, zero."""
    cdef Slice s
    cur_skip(c, 1)
    if not cur_until(c, 0, &s):
        return False
    return 3 <= s.n <= 24 and printable(s)


cdef int sniff_startup(const ParseArgs *a) noexcept nogil:
    cdef Frame f
    cdef ParseArgs whole = a[0]
    cdef Cursor c
    cdef Slice name
    whole.last = True
    if startup_read(&whole, &f) != MSG:
        return 0
    if a.n < 8:
        return 0 if a.last else 1
    c = f.body
    if cur_be32(&c) >> 16 != 3:
        return 3
    # Kafka's Metadata v0 has the same first eight bytes: a parameter's name is letters.
    if c.left == 0:
        return 0 if a.last else 1
    if f.whole and a.data[f.size - 1] != 0:
        return 0
    if not cur_until(&c, 0, &name):
        name.p = c.p
        name.n = c.left
    if name.n == 0 or not 95 <= name.p[0] <= 122 or not printable(name):
        return 0
    return 3


cdef int frame_sniff(const ParseArgs *a) noexcept nogil:
    """3: a start-up packet. 2: frames of this side one behind the other, each with a body that fits."""
    cdef ParseArgs rest = a[0]
    cdef Frame f
    cdef uint32_t frames = 0
    if a.n == 0:
        return 0
    if a.from_client and a.data[0] == 0:
        return sniff_startup(a)
    while rest.n and frames < 8:
        f.whole = False
        if not type_fits(rest.data[0], rest.from_client):
            return 0
        if rest.n < 5:
            return 2 if frames else (0 if a.last else 1)
        rest.last = True
        if frame_read(&rest, &f) != MSG or f.size > SNIFF_MAX:
            return 0
        if frames == 0 and not f.whole and not a.last and f.body.left < 24:
            return 1
        if not (client_fits(&f) if rest.from_client else server_fits(&f)):
            return 0
        frames += 1
        if not f.whole:
            # One frame that is cut proves little unless its body can be judged: text of SQL, a column's name.
            if frames > 1 or f.type == c'Q' or f.type == c'P' or (f.type == c'T' and f.body.left >= 8):
                return 2
            return 0 if a.last else 1
        rest.data += f.size
        rest.n -= <uint32_t>f.size
    return 2
