# cython: language_level=3, boundscheck=True, wraparound=False
"""What is said to Redis or Valkey, and what it answers: SET with a time to live, MGET (a cluster: GET), in batches.

commands() makes one block of bytes of a whole round, Replies reads the answers, in order, in whatever pieces they come.
No Python object is made for a single request: that is what a general client spends its time on (docs/decisions.md). The
store is a remote party: lengths are bounded, and what is not RESP2 ends the connection (ValueError). Queues' formats:
link/shared.pyx. Called by link/exchange.py; a Replies belongs to one connection.

Reference: "Redis serialization protocol specification", RESP2; "Redis cluster specification" for hash slots.
"""

import collections

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy, memmove

from zerospan.exporter.encode.buf cimport Buf, buf_free, buf_put, buf_reserve
from zerospan.exporter.link.shared_codec cimport KEY_CHARS, VALUE_MAX, note_key

cdef enum:
    ITEM = 12                # before each value of a queue
    QUESTION = 9
    MGET_MAX = 512           # keys of one MGET: Redis serves nobody else meanwhile
    COMMAND_MAX = 128 + VALUE_MAX
    LINE_MAX = 4096          # of a simple string or an error
    BULK_MAX = 1 << 16       # longer values are no agent's
    WORDS_MAX = 200          # of an error that is shown
    SLOTS = 16384

cdef uint16_t CRC[256]


cdef void make_crc() noexcept:
    """CRC-16/XMODEM: polynomial 0x1021."""
    cdef uint32_t i, j, c
    for i in range(256):
        c = i << 8
        for j in range(8):
            c = ((c << 1) ^ 0x1021) if c & 0x8000 else c << 1
        CRC[i] = <uint16_t>c


make_crc()


cdef inline uint32_t slot_of(uint64_t key, uint8_t end) noexcept nogil:
    cdef uint8_t name[KEY_CHARS]
    cdef uint16_t crc = 0
    cdef int i
    note_key(key, end, name)
    for i in range(KEY_CHARS):
        crc = <uint16_t>(crc << 8) ^ CRC[((crc >> 8) ^ name[i]) & 0xFF]
    return crc % SLOTS


cdef inline uint32_t digits(uint8_t *out, uint64_t v) noexcept nogil:
    cdef uint8_t text[20]
    cdef uint32_t n = 0, i
    while True:
        text[n] = <uint8_t>(48 + v % 10)
        n += 1
        v //= 10
        if v == 0:
            break
    for i in range(n):
        out[i] = text[n - 1 - i]
    return n


cdef inline uint8_t *put_length(uint8_t *w, uint8_t kind, uint64_t n) noexcept nogil:
    w[0] = kind
    w += 1 + digits(w + 1, n)
    w[0] = 13
    w[1] = 10
    return w + 2


cdef inline uint8_t *put_bulk(uint8_t *w, const void *p, uint32_t n) noexcept nogil:
    w = put_length(w, 36, n)
    memcpy(w, p, n)
    w[n] = 13
    w[n + 1] = 10
    return w + n + 2


cdef inline uint8_t *put_name(uint8_t *w, uint64_t key, uint8_t end) noexcept nogil:
    memcpy(w, b"$22\r\n", 5)
    note_key(key, end, w + 5)
    w[5 + KEY_CHARS] = 13
    w[6 + KEY_CHARS] = 10
    return w + 7 + KEY_CHARS


cdef uint32_t put_all(Buf *out, const uint8_t *puts, size_t puts_n, const uint8_t *gets, size_t gets_n, uint64_t ttl_ms,
                      uint64_t datagram_ttl_ms, bint single) noexcept nogil:
    """Returns the number of values that are set."""
    cdef uint64_t key = 0, left
    cdef uint16_t n = 0
    cdef uint32_t count = 0, group, i
    cdef uint8_t ttl[20]
    cdef uint8_t *w
    while puts_n >= ITEM:
        memcpy(&key, puts, 8)
        memcpy(&n, puts + 10, 2)
        if puts_n - ITEM < n or n > VALUE_MAX or not buf_reserve(out, COMMAND_MAX):
            break
        w = out.p + out.n
        memcpy(w, b"*5\r\n$3\r\nSET\r\n", 13)
        w = put_name(w + 13, key, puts[8])
        w = put_bulk(w, puts + ITEM, n)
        memcpy(w, b"$2\r\nPX\r\n", 8)
        w = put_bulk(w + 8, ttl, digits(ttl, datagram_ttl_ms if puts[9] else ttl_ms))
        out.n = w - out.p
        puts += ITEM + n
        puts_n -= ITEM + n
        count += 1
    while gets_n >= QUESTION:
        left = gets_n // QUESTION
        group = 1 if single else <uint32_t>(left if left < MGET_MAX else MGET_MAX)
        if not buf_reserve(out, 64 + group * (KEY_CHARS + 16)):
            break
        w = put_length(out.p + out.n, 42, group + 1)
        if single:
            memcpy(w, b"$3\r\nGET\r\n", 9)
            w += 9
        else:
            memcpy(w, b"$4\r\nMGET\r\n", 10)
            w += 10
        for i in range(group):
            memcpy(&key, gets, 8)
            w = put_name(w, key, gets[8])
            gets += QUESTION
            gets_n -= QUESTION
        out.n = w - out.p
    return count


def commands(bytes puts, bytes gets, uint64_t ttl_ms, uint64_t datagram_ttl_ms, bint single=False):
    """A round: (its bytes, number of SETs). single: a GET for each key, as a cluster wants it."""
    cdef Buf out
    cdef uint32_t n
    cdef const char *p = puts
    cdef const char *g = gets
    cdef size_t puts_n = len(puts), gets_n = len(gets)
    out.p = NULL
    out.n = 0
    out.cap = 0
    out.failed = False
    try:
        with nogil:
            n = put_all(&out, <const uint8_t *>p, puts_n, <const uint8_t *>g, gets_n, ttl_ms, datagram_ttl_ms, single)
        if out.failed:
            raise MemoryError("zerospan: no memory for a round of shared links")
        return (<const char *>out.p)[:out.n] if out.n else b"", n
    finally:
        buf_free(&out)


def split(bytes puts, bytes gets, const uint16_t[::1] owners, uint32_t nodes):
    """For a cluster: [(puts, gets)] for each node. owners: node of each of the 16384 slots."""
    cdef const char *start = puts
    cdef const uint8_t *p = <const uint8_t *>start
    cdef size_t n = len(puts)
    cdef uint64_t key = 0
    cdef uint16_t size = 0
    cdef uint32_t node
    if owners.shape[0] != SLOTS:
        raise ValueError("a cluster has 16384 slots")
    out = [([], []) for _ in range(nodes)]
    while n >= ITEM:
        memcpy(&key, p, 8)
        memcpy(&size, p + 10, 2)
        if n - ITEM < size:
            break
        node = owners[slot_of(key, p[8])]
        if node < nodes:
            out[node][0].append((<const char *>p)[:ITEM + size])
        p += ITEM + size
        n -= ITEM + size
    start = gets
    p = <const uint8_t *>start
    n = len(gets)
    while n >= QUESTION:
        memcpy(&key, p, 8)
        node = owners[slot_of(key, p[8])]
        if node < nodes:
            out[node][1].append((<const char *>p)[:QUESTION])
        p += QUESTION
        n -= QUESTION
    return [(b"".join(a), b"".join(b)) for a, b in out]


cdef class Replies:
    """Answers of one connection, in the order of the rounds that expect() announces.

    stored, errors: counts of SETs. error: the words of the last error answer; empty: none.
    """

    cdef Buf waiting             # an unfinished answer
    cdef size_t at
    cdef Buf found               # values, in the inbox's format
    cdef object rounds           # deque of (SETs, questions)
    cdef uint32_t sets_left
    cdef bytes gets
    cdef uint32_t gets_at        # questions that are answered
    cdef uint32_t gets_n
    cdef uint32_t group          # answers of the current MGET that are still to come
    cdef bint single
    cdef bint busy               # within a round
    cdef readonly uint64_t stored
    cdef readonly uint64_t errors
    cdef readonly uint64_t oversized
    cdef public str error

    def __cinit__(self, bint single=False):
        self.rounds = collections.deque()
        self.single = single
        self.error = ""

    def __dealloc__(self):
        buf_free(&self.waiting)
        buf_free(&self.found)

    def expect(self, uint32_t sets, bytes gets):
        """A round was sent; see commands()."""
        self.rounds.append((sets, gets))
        self._next()

    cdef _next(self):
        while not self.busy and self.rounds:
            sets, gets = self.rounds[0]
            self.sets_left = sets
            self.gets = gets
            self.gets_n = <uint32_t>(len(gets) // QUESTION)
            self.gets_at = 0
            self.group = 0
            self.busy = True

    def feed(self, const uint8_t[::1] data):
        """Reads what came. Returns how many rounds are complete by it. ValueError: these are no answers."""
        cdef int done = 0
        if data.shape[0]:
            buf_put(&self.waiting, &data[0], data.shape[0])
        if self.waiting.failed:
            raise ValueError("no memory for the answers")
        while True:
            while self.busy and self.sets_left == 0 and self.gets_at == self.gets_n:
                self.rounds.popleft()
                self.busy = False
                done += 1
                self._next()
            if not self._one():
                break
        if self.at:
            memmove(self.waiting.p, self.waiting.p + self.at, self.waiting.n - self.at)
            self.waiting.n -= self.at
            self.at = 0
        return done

    cdef bint _one(self) except -1:
        """One value; False if it is not all there yet."""
        cdef const uint8_t *p = self.waiting.p + self.at
        cdef size_t n = self.waiting.n - self.at
        cdef const uint8_t *end
        cdef int64_t size
        cdef size_t line
        if n == 0:
            return False
        end = <const uint8_t *>memchr(p, 10, n)
        if end == NULL:
            if n > LINE_MAX:
                raise ValueError("a line without an end")
            return False
        line = end - p + 1
        if line < 3 or p[line - 2] != 13:
            raise ValueError("a line that does not end as RESP's do")
        if not self.busy:
            raise ValueError("an answer to no question")
        if p[0] == 43:                           # +OK
            if self.sets_left == 0:
                raise ValueError("a simple string for a value")
            self.sets_left -= 1
            self.stored += 1
        elif p[0] == 45:                         # -ERR: of a SET, of a whole MGET, of a GET
            self.error = (<const char *>p)[1:min(line - 2, WORDS_MAX)].decode("utf-8", "replace")
            if self.sets_left:
                self.sets_left -= 1
                self.errors += 1
            elif self.group:
                raise ValueError("an error within an array")
            else:
                self.gets_at += 1 if self.single else min(self.gets_n - self.gets_at, <uint32_t>MGET_MAX)
        elif p[0] == 42:                         # *n of an MGET
            size = number(p + 1, line - 3)
            if self.sets_left or self.single or self.group or size != min(self.gets_n - self.gets_at, <uint32_t>MGET_MAX):
                raise ValueError("an array of another size")
            self.group = <uint32_t>size
        elif p[0] == 36:                         # $n
            size = number(p + 1, line - 3)
            if self.sets_left or (self.group == 0 and not self.single) or size > BULK_MAX or size < -1:
                raise ValueError("a value that nobody asked for")
            if size >= 0:
                if n < line + size + 2:
                    return False
                self._found(p + line, <uint32_t>size)
                line += size + 2
            self.gets_at += 1
            if self.group:
                self.group -= 1
        else:
            raise ValueError("an answer that is not RESP2")
        self.at += line
        return True

    cdef int _found(self, const uint8_t *p, uint32_t n) except -1:
        cdef const char *question = self.gets
        cdef uint8_t zero = 0
        cdef uint16_t size = <uint16_t>n
        if n > VALUE_MAX:
            self.oversized += 1
            return 0
        buf_put(&self.found, question + QUESTION * self.gets_at, QUESTION)
        buf_put(&self.found, &zero, 1)
        buf_put(&self.found, &size, 2)
        buf_put(&self.found, p, n)
        return 0

    def take(self):
        """The values that were found since the last time, in the inbox's format; b"" if there are none."""
        if self.found.failed:
            buf_free(&self.found)
            raise ValueError("no memory for the answers")
        out = (<const char *>self.found.p)[:self.found.n] if self.found.n else b""
        self.found.n = 0
        return out


cdef int64_t number(const uint8_t *p, size_t n) except? -2:
    cdef int64_t v = 0
    cdef size_t i = 0
    cdef bint negative = n > 0 and p[0] == 45
    if negative:
        i = 1
    if i == n or n > 10:
        raise ValueError("a length that is no number")
    while i < n:
        if p[i] < 48 or p[i] > 57:
            raise ValueError("a length that is no number")
        v = v * 10 + p[i] - 48
        i += 1
    return -v if negative else v
