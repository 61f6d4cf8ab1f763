# cython: language_level=3, boundscheck=True, wraparound=False
"""Redis and its relatives (Valkey, KeyDB): commands and replies in RESP2 and RESP3, inline commands, pub/sub, MONITOR.

Assumes the bytes of one direction from a value's first byte on. Each command is a request and each reply answers the
oldest one; what a server sends unasked (messages, pushes, further confirmations of one SUBSCRIBE, MONITOR's lines) and
commands that CLIENT REPLY leaves without an answer are one-way.

Reference: "Redis serialization protocol specification"; commands' answers by their own manual pages.
State: one State per connection, for the command's line and for what makes replies one-way. Called through the registry.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, strlen

from zerospan.exporter.proto.base cimport (
    LENGTH_UNKNOWN, MORE, MSG, MT_IGNORE, MT_ONEWAY, MT_REQUEST, MT_RESPONSE, MT_UPGRADE, NOT_MINE, PAIR_IN_ORDER,
    PROTO_REDIS, ParseArgs, Parsed, ProtoOps, STATUS_OK,
)
from zerospan.exporter.proto.cursor cimport Slice, slice_is, slice_is_nocase, slice_of, slice_u64
from zerospan.exporter.proto.redis_sniff cimport error_text, inline_line, sniff
from zerospan.exporter.proto.redis_text cimport (
    CommandLine, line_add, line_add_words, line_begin, line_more, mask_line, next_word,
)
from zerospan.exporter.proto.resp cimport (
    TEXT_LOOK, WALK_BROKEN, WALK_MORE, Walk, read_length, walk,
)
from zerospan.exporter.proto.stream cimport STREAM_MAX

cdef enum:
    DUE_MAX = 8              # SUBSCRIBE commands in flight that are told apart
    DB_MAX = 5               # digits of a database number
    PUSHES = 9
    PUSH_MESSAGES = 3        # the first of PUSH_*: published messages; the rest confirm a subscription
    COUNT_MAX = 0x7fffffff
    UNTOLD = 0xffffffff      # how many confirmations an UNSUBSCRIBE of everything has

cdef enum ReplyMode:         # CLIENT REPLY
    REPLY_ON = 0
    REPLY_OFF = 1
    REPLY_SKIP = 2           # the next command has no answer

cdef struct Due:
    uint32_t request         # State.sent when it was sent
    uint32_t confirmations

cdef struct State:
    CommandLine line         # of the last message
    uint32_t sent            # requests seen
    uint32_t answered        # replies seen
    uint32_t subscribed      # channels and patterns, as the server last counted
    uint32_t more            # confirmations still to come for a SUBSCRIBE that is answered already
    uint32_t due_n
    Due due[DUE_MAX]         # SUBSCRIBE commands without an answer, oldest first
    uint8_t reply_mode       # ReplyMode
    uint8_t resp3
    uint8_t monitor
    uint8_t sync             # SYNC or PSYNC was sent: its answer begins a replication stream
    uint8_t db_n
    uint8_t db[DB_MAX]       # of SELECT

cdef const char *PUSH_KINDS[PUSHES]
cdef const char *PUSH_NAMES[PUSHES]
PUSH_KINDS[:] = [
    b"message", b"pmessage", b"smessage",
    b"subscribe", b"psubscribe", b"ssubscribe", b"unsubscribe", b"punsubscribe", b"sunsubscribe",
]
PUSH_NAMES[:] = [
    b"MESSAGE", b"PMESSAGE", b"SMESSAGE",
    b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE", b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"SUNSUBSCRIBE",
]

cdef State *state_of(const ParseArgs *a) noexcept nogil:
    """NULL if there is no memory: fields that need it stay empty then."""
    if a.state[0] == NULL:
        a.state[0] = calloc(1, sizeof(State))
    return <State *>a.state[0]


cdef inline bint word_is(const State *st, const char *upper) noexcept nogil:
    return st.line.word_n == strlen(upper) and memcmp(st.line.word, upper, st.line.word_n) == 0


cdef int find_push(Slice s, bint known_upper) noexcept nogil:
    """Index into PUSH_KINDS, or -1."""
    cdef int i
    for i in range(PUSHES):
        if slice_is(s, PUSH_NAMES[i] if known_upper else PUSH_KINDS[i], <uint32_t>strlen(PUSH_KINDS[i])):
            return i
    return -1


# ---- commands ----

cdef void show_line(State *st, Parsed *out) noexcept nogil:
    out.operation = slice_of(st.line.word, st.line.word_n)
    out.target = slice_of(st.line.text, st.line.n)


cdef void sent(State *st, Slice first, Slice second, uint32_t arguments, Parsed *out) noexcept nogil:
    """A command was understood: what it means for the answers to come."""
    out.version = 3 if st.resp3 else 2
    if st.db_n:
        out.domain = slice_of(st.db, st.db_n)
    show_line(st, out)
    out.type = MT_REQUEST
    if word_is(st, b"CLIENT") and slice_is_nocase(first, b"reply", 5):
        if slice_is_nocase(second, b"off", 3):
            st.reply_mode = REPLY_OFF
        elif slice_is_nocase(second, b"skip", 4) and st.reply_mode != REPLY_OFF:
            st.reply_mode = REPLY_SKIP
            out.type = MT_ONEWAY
            return
        elif slice_is_nocase(second, b"on", 2):
            st.reply_mode = REPLY_ON
    if st.reply_mode != REPLY_ON or (word_is(st, b"REPLCONF") and slice_is_nocase(first, b"ack", 3)):
        out.type = MT_ONEWAY
        if st.reply_mode == REPLY_SKIP:
            st.reply_mode = REPLY_ON
        return
    if find_push(out.operation, True) >= PUSH_MESSAGES:
        if st.due_n < DUE_MAX:
            st.due[st.due_n].request = st.sent
            st.due[st.due_n].confirmations = arguments if arguments else UNTOLD
            st.due_n += 1
    elif word_is(st, b"MONITOR"):
        st.monitor = True
    elif word_is(st, b"SYNC") or word_is(st, b"PSYNC"):
        st.sync = True
    elif word_is(st, b"SELECT") and 0 < first.n <= DB_MAX and slice_u64(first) >= 0:
        memcpy(st.db, first.p, first.n)
        st.db_n = <uint8_t>first.n
    st.sent += 1


cdef int ignored(uint32_t n, Parsed *out) noexcept nogil:
    out.type = MT_IGNORE
    out.consumed = n
    out.total = n
    return MSG


cdef int cut_command(const ParseArgs *a, uint32_t n, Parsed *out) noexcept nogil:
    if not a.last:
        return MORE
    out.truncated = 1
    out.consumed = n
    return MSG


cdef int array_command(const ParseArgs *a, uint32_t n, Parsed *out) noexcept nogil:
    """"*" count, then that many bulk strings. Waits for TEXT_LOOK bytes of an argument, not for all of a big one."""
    cdef State *st
    cdef Slice heads[3]      # command word and two arguments
    cdef Slice arg
    cdef uint32_t pos = 1, at
    cdef int64_t count, i = 0, length, end, need
    cdef int got = read_length(a.data, n, &pos, &count), outcome = MSG
    out.type = MT_REQUEST
    out.version = 2
    if got <= 0:
        return cut_command(a, n, out) if got == 0 else NOT_MINE
    if count > COUNT_MAX or count < -1:
        return NOT_MINE
    if count <= 0:
        return ignored(pos, out)
    st = state_of(a)
    heads[0] = heads[1] = heads[2] = slice_of(a.data, 0)
    while i < count:
        at = pos + 1
        if pos < n and a.data[pos] != 36:
            return NOT_MINE
        got = read_length(a.data, n, &at, &length) if pos < n else 0
        if got < 0 or (got and length < 0):
            return NOT_MINE
        if got == 0:
            outcome = cut_command(a, n, out)
            break
        end = at + length + 2
        need = end if i < count - 1 and end <= STREAM_MAX else at + min(length + 2, <int64_t>TEXT_LOOK)
        need = min(need, <int64_t>STREAM_MAX)
        if need > n and not a.last:
            return MORE
        need = min(need, <int64_t>n)
        arg = slice_of(a.data + at, <uint32_t>min(length, need - at))
        if need == end and (a.data[end - 2] != 13 or a.data[end - 1] != 10):
            return NOT_MINE
        if i < 3 and arg.n == length:
            heads[i] = arg
        if st != NULL and (i or arg.n == length):
            if i == 0:
                line_begin(&st.line, arg)
            else:
                line_add(&st.line, arg, arg.n < length)
        i += 1
        if i == count:
            out.consumed = <uint32_t>need
            out.total = end
            out.truncated = need < min(end, <int64_t>at + TEXT_LOOK)
        elif need < end:
            out.consumed = <uint32_t>need
            out.truncated = 1
            break
        pos = <uint32_t>end
    if outcome == MORE or st == NULL:
        return outcome
    if heads[0].n == 0:  # cut within the command word, or there is none
        st.sent += 1
        return outcome
    if i < count:
        line_more(&st.line)
    sent(st, heads[1], heads[2], <uint32_t>(count - 1), out)
    return outcome


cdef int inline_command(const ParseArgs *a, uint32_t n, Parsed *out) noexcept nogil:
    cdef Slice word, rest, first, second
    cdef uint32_t used, arguments = 0
    cdef State *st
    cdef int got = inline_line(a.data, n, &word, &rest, &used)
    out.type = MT_REQUEST
    out.version = 2
    if got < 0:
        return NOT_MINE
    if got and word.n == 0:
        return ignored(used, out)
    if got == 0 and not a.last:
        return MORE
    out.consumed = used
    out.truncated = got == 0
    if got:
        out.total = used
    st = state_of(a)
    if st == NULL:
        return MSG
    if got == 0 and rest.n == 0:  # cut within the command word
        st.sent += 1
        return MSG
    line_begin(&st.line, word)
    if got == 0:
        line_more(&st.line)
        first = second = slice_of(a.data, 0)
        sent(st, first, second, 1, out)
        return MSG
    line_add_words(&st.line, rest)
    first = next_word(&rest)
    second = next_word(&rest)
    arguments = (first.n > 0) + (second.n > 0)
    while next_word(&rest).n:
        arguments += 1
    sent(st, first, second, arguments, out)
    return MSG


# ---- replies ----

cdef bint confirms_new(State *st) noexcept nogil:
    """Is this the first confirmation of a SUBSCRIBE in flight? Counts it either way."""
    cdef uint32_t i
    if st.more and (st.more != UNTOLD or st.due_n == 0):
        if st.more != UNTOLD:
            st.more -= 1
        return False
    if st.due_n == 0:
        return False
    st.more = st.due[0].confirmations
    if st.more != UNTOLD:
        st.more -= 1
    drop_due(st)
    return True


cdef void drop_due(State *st) noexcept nogil:
    cdef uint32_t i
    st.due_n -= 1
    for i in range(st.due_n):
        st.due[i] = st.due[i + 1]


cdef bint monitor_line(Slice s) noexcept nogil:
    """1339518083.107412 [0 127.0.0.1:60866] "keys" "*" """
    cdef uint32_t i = 0
    while i < s.n and (48 <= s.p[i] <= 57 or s.p[i] == 46):
        i += 1
    return i > 10 and s.n - i > 2 and s.p[i] == 32 and s.p[i + 1] == 91


cdef void unasked(State *st, const Walk *w, int kind, Parsed *out) noexcept nogil:
    """Names a push: its kind and the channel it came by, never what it carries."""
    cdef uint32_t i
    out.type = MT_ONEWAY
    if st == NULL:
        return
    if kind >= 0:
        line_begin(&st.line, slice_of(<const uint8_t *>PUSH_NAMES[kind], <uint32_t>strlen(PUSH_NAMES[kind])))
    elif w.type == 43:
        line_begin(&st.line, slice_of(<const uint8_t *>b"MONITOR", 7))
    elif w.child[0].n:
        line_begin(&st.line, w.child[0])
    else:  # cut before its kind
        return
    for i in range(1, 3):
        if kind >= 0 and w.child[i].n and (i == 1 or kind == 1):  # a pmessage has pattern and channel
            line_add(&st.line, w.child[i], False)
    show_line(st, out)


cdef void classify(State *st, const Walk *w, Parsed *out) noexcept nogil:
    """Answer or push?"""
    cdef int kind = -1
    cdef int64_t count
    cdef bint push = w.type == 62
    # In RESP2 a message is an array like any other: it is one where a subscription is known, or no command was seen yet.
    if push or (w.type == 42 and w.count >= 3 and (
        st == NULL or st.sent == 0 or (not st.resp3 and (st.subscribed or st.due_n or st.more))
    )):
        out.truncated |= w.cut
        kind = find_push(w.child[0], False)
        if kind >= PUSH_MESSAGES:
            push = True
            if st != NULL:
                if confirms_new(st):
                    out.type = MT_RESPONSE
                    push = False
                count = slice_u64(w.child[2])
                if count >= 0:
                    st.subscribed = <uint32_t>min(count, <int64_t>COUNT_MAX)
                if count == 0 and st.more == UNTOLD:
                    st.more = 0
        elif kind >= 0:
            push = True
        elif w.child[0].p == NULL or w.child[0].n == 0:  # cut before its kind
            if st != NULL and st.due_n and not st.more:
                confirms_new(st)
                push = False
            elif st != NULL and (st.more or st.subscribed) and w.type == 42:
                push = True
    elif w.type == 43 and st != NULL and st.monitor and monitor_line(w.line):
        push = True
    if push:
        unasked(st, w, kind, out)


cdef int reply(const ParseArgs *a, uint32_t n, Parsed *out) noexcept nogil:
    cdef State *st = <State *>a.state[0]
    cdef Walk w
    cdef int got = walk(a.data, n, a.last, &w)
    if got == WALK_MORE:
        return MORE
    if got == WALK_BROKEN:
        return NOT_MINE
    if st == NULL and (w.type == 62 or w.type == 42):
        st = state_of(a)
    if st != NULL and w.resp3:
        st.resp3 = True
    out.version = 3 if w.resp3 or (st != NULL and st.resp3) else 2
    out.type = MT_RESPONSE
    out.consumed = w.pos
    out.total = w.total
    out.truncated = not w.whole_line or (w.cut and w.count < 0)
    if w.type == 0:
        return MSG
    if w.type == 45 or w.type == 33:
        error_text(w.line, w.whole_line, out)
        if st != NULL and st.due_n and st.due[0].request == st.answered:
            drop_due(st)
    else:
        out.status = STATUS_OK
        out.rows = w.count
        classify(st, &w, out)
    if out.type == MT_ONEWAY:
        out.status = 0
        out.rows = -1
    elif st != NULL:
        st.answered += 1
        if w.type == 43 and slice_is(w.line, b"RESET", 5):
            st.subscribed = st.more = st.due_n = 0
            st.monitor = st.reply_mode = st.db_n = 0
        elif st.sync and (w.type == 36 or (w.type == 43 and w.line.n >= 8 and (
            memcmp(w.line.p, b"CONTINUE", 8) == 0 or memcmp(w.line.p, b"FULLRESY", 8) == 0
        ))):
            out.type = MT_UPGRADE
            out.total = LENGTH_UNKNOWN
    return MSG


# ---- the table's functions ----

cdef int parse(const ParseArgs *a, Parsed *out) noexcept nogil:
    cdef uint32_t n = a.n if a.n < STREAM_MAX else STREAM_MAX
    if not a.from_client:
        return reply(a, n, out)
    if a.data[0] == 42:
        return array_command(a, n, out)
    return inline_command(a, n, out)


cdef void free_state(void *state) noexcept nogil:
    free(state)


cdef ProtoOps OPS
OPS.id = PROTO_REDIS
OPS.pairing = PAIR_IN_ORDER
OPS.datagram = 0
OPS.name = b"redis"
OPS.sniff = sniff
OPS.parse = parse
OPS.mask = mask_line
OPS.mask_query = NULL
OPS.free_state = free_state


cdef const ProtoOps *redis_ops() noexcept:
    return &OPS
