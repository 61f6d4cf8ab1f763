# cython: language_level=3, boundscheck=True, wraparound=False
"""How Redis is recognised by its first bytes, and the two line forms that need a judgement: errors and inline commands.

Cautious: POP3 and NATS answer "+OK" and "-ERR" too, memcached has "get", SIP and HTTP have lines of words. Called by
proto.redis.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memchr, memcmp, strlen

from zerospan.exporter.proto.base cimport ParseArgs, Parsed, STATUS_SERVER_ERROR
from zerospan.exporter.proto.cursor cimport Slice, slice_is, slice_of, slice_u64
from zerospan.exporter.proto.redis_text cimport next_word
from zerospan.exporter.proto.resp cimport TEXT_LOOK, WALK_BROKEN, WALK_MORE, WALK_OPEN, Walk, read_length, walk
from zerospan.exporter.proto.stream cimport STREAM_MAX

cdef enum:
    WORDS = 47
    ERROR_WORD_MAX = 32
    COUNT_MAX = 0x7fffffff
    PORT = 6379

# Words by which an inline command is recognised. Those that memcached has, too, stand first: only in upper case.
cdef enum:
    MEMCACHED_WORDS = 6
cdef const char *KNOWN[WORDS]
KNOWN[:] = [
    b"GET", b"SET", b"INCR", b"DECR", b"APPEND", b"TOUCH", b"PING", b"ECHO", b"DEL", b"EXISTS", b"INFO", b"SELECT",
    b"HELLO", b"MONITOR", b"SUBSCRIBE", b"PSUBSCRIBE", b"PUBLISH", b"CLIENT", b"CONFIG", b"COMMAND", b"KEYS", b"SCAN",
    b"TTL", b"EXPIRE", b"MGET", b"MSET", b"INCRBY", b"HGET", b"HSET", b"HGETALL", b"LPUSH", b"RPUSH", b"LPOP", b"RPOP",
    b"LRANGE", b"LLEN", b"SADD", b"SMEMBERS", b"ZADD", b"ZRANGE", b"DBSIZE", b"MULTI", b"EXEC", b"CLUSTER", b"SLOWLOG",
    b"FLUSHALL", b"FLUSHDB",
]


cdef void error_text(Slice line, bint whole, Parsed *out) noexcept nogil:
    """"WRONGTYPE Operation against ...": the first word is the kind of error if it looks like one."""
    cdef uint32_t i = 0
    out.status = STATUS_SERVER_ERROR
    while i < line.n and (65 <= line.p[i] <= 90 or line.p[i] == 95 or (i and 48 <= line.p[i] <= 57)):
        i += 1
    if 0 < i <= ERROR_WORD_MAX and (line.p[i] == 32 if i < line.n else whole):
        out.status_text = slice_of(line.p, i)
        i = i + 1 if i < line.n else i
    else:
        i = 0
    out.message = slice_of(line.p + i, line.n - i)


cdef bint other_protocol(Slice line) noexcept nogil:
    """HTTP, SIP and RTSP end their first line with a version; words such as GET and INFO are theirs, too."""
    cdef uint32_t i
    for i in range(line.n):
        if line.p[i] == 47 and i >= 3 and (
            memcmp(line.p + i - 3, b"SIP/", 4) == 0
            or (i >= 4 and (memcmp(line.p + i - 4, b"HTTP/", 5) == 0 or memcmp(line.p + i - 4, b"RTSP/", 5) == 0))
        ):
            return True
    return False


cdef int inline_line(const uint8_t *p, uint32_t n, Slice *word, Slice *rest, uint32_t *used) noexcept nogil:
    """1: a line of printable text that begins with a word; 0: its end is not there; -1: it is not that."""
    cdef const uint8_t *eol = <const uint8_t *>memchr(p, 10, n)
    cdef uint32_t i, k = <uint32_t>(eol - p) if eol != NULL else n
    used[0] = k + 1 if eol != NULL else n
    if k and p[k - 1] == 13:
        k -= 1
    for i in range(k):
        if (p[i] < 32 and p[i] != 9) or p[i] == 127:
            return -1
    rest[0] = slice_of(p, k)
    if other_protocol(rest[0]):
        return -1
    word[0] = next_word(rest)
    for i in range(word.n):
        if not 65 <= (word.p[i] & 0xDF) <= 90 and (i == 0 or (not 48 <= word.p[i] <= 57 and word.p[i] not in (45, 46, 95))):
            return -1
    return 0 if eol == NULL else 1


cdef int sniff_inline(const ParseArgs *a, uint32_t n) noexcept nogil:
    cdef Slice word, rest, first
    cdef uint32_t used, k
    cdef uint8_t upper[16]
    cdef bint lower = False
    cdef int got = inline_line(a.data, n, &word, &rest, &used), i
    if got < 0 or word.n == 0 or word.n > sizeof(upper):
        return 0
    for k in range(word.n):
        lower = lower or word.p[k] >= 97
        upper[k] = word.p[k] & 0xDF
    for i in range(WORDS):
        if strlen(KNOWN[i]) < word.n or (got and strlen(KNOWN[i]) != word.n) or memcmp(upper, KNOWN[i], word.n) != 0:
            continue
        if got == 0:
            return 0 if a.last else 1
        if lower and i < MEMCACHED_WORDS:
            return 2 if a.server_port == PORT else 0
        if slice_is(slice_of(upper, word.n), b"SELECT", 6):  # SQL has it, too
            first = next_word(&rest)
            return 2 if slice_u64(first) >= 0 and next_word(&rest).n == 0 else 0
        return 2
    return 0


cdef int sniff_request(const ParseArgs *a, uint32_t n) noexcept nogil:
    cdef uint32_t pos = 1, i
    cdef int64_t count = 0, length = 0
    cdef int got
    if a.data[0] != 42:
        return sniff_inline(a, n)
    got = read_length(a.data, n, &pos, &count)
    if got == 0:
        return 0 if a.last else 1
    if got < 0 or count < 1 or count > COUNT_MAX:
        return 0
    if pos == n:
        return 0 if a.last else 1
    if a.data[pos] != 36:
        return 0
    pos += 1
    got = read_length(a.data, n, &pos, &length)
    if got == 0:
        return 2 if a.last else 1
    if got < 0 or length < 1 or length > TEXT_LOOK:
        return 0
    for i in range(pos, <uint32_t>min(<int64_t>n, pos + length)):
        if not 33 <= a.data[i] <= 126:
            return 0
    return 3


cdef int sniff_reply(const ParseArgs *a, uint32_t n) noexcept nogil:
    """Only whole values of forms that others do not have: POP3 and NATS say +OK and -ERR as well."""
    cdef Walk w
    cdef Parsed m
    cdef int got
    if memchr(b"+-:$*_#,(!=%~>|", a.data[0], 15) == NULL:
        return 0
    got = walk(a.data, n, False, &w)
    if got == WALK_BROKEN:
        return 0
    if got == WALK_MORE or not w.whole_line:
        # A cut aggregate or bulk string still shows its announced length.
        return (2 if a.last and w.whole_line and w.type in (36, 42, 37, 126, 62) else 0) if a.last else 1
    if w.type == 43:
        return 2 if slice_is(w.line, b"PONG", 4) or slice_is(w.line, b"QUEUED", 6) else 1
    if w.type == 45:
        m.status_text.n = 0
        error_text(w.line, True, &m)
        return 2 if m.status_text.n and not slice_is(m.status_text, b"ERR", 3) else 1
    if got == WALK_OPEN:
        return 2
    if w.type in (36, 61, 33) and w.total <= n and w.total > w.pos:
        return 3 if a.data[w.total - 2] == 13 and a.data[w.total - 1] == 10 else 0
    return 2


cdef int sniff(const ParseArgs *a) noexcept nogil:
    cdef uint32_t n = a.n if a.n < STREAM_MAX else STREAM_MAX
    if n == 0:
        return 1
    return sniff_request(a, n) if a.from_client else sniff_reply(a, n)
