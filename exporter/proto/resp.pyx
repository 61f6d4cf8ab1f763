# cython: language_level=3, boundscheck=True, wraparound=False
"""The Redis serialisation protocol: one value, and where it ends (RESP3 specification, 2018; RESP2 is its subset).

Knows all types: + - : $ * _ # , ( ! = % ~ > | and the streamed forms of strings and aggregates. Lengths are only
added up, never allocated. A value whose last bulk runs past the input has an exact length; one whose middle does
cannot be measured. Called by proto.redis for what servers send.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memset

from zerospan.exporter.proto.cursor cimport Slice, slice_of
from zerospan.exporter.proto.stream cimport STREAM_MAX

cdef enum:
    NULL_VALUE = -1
    STREAMED = -2
    LENGTH_DIGITS = 18
    COUNT_MAX = 0x7fffffff

cdef struct Frame:
    int64_t left             # elements to come; STREAMED: until "."
    bint attribute           # does not count as an element of what it stands in
    bint chunks              # a streamed string: only ";" may follow


cdef int read_length(const uint8_t *p, uint32_t n, uint32_t *pos, int64_t *length) noexcept nogil:
    cdef uint32_t i = pos[0], digits = 0
    cdef bint negative = False
    cdef int64_t v = 0
    if i < n and p[i] == 63:
        v = STREAMED
        i += 1
    else:
        if i < n and p[i] == 45:
            negative = True
            i += 1
        while i < n and 48 <= p[i] <= 57:
            if digits == LENGTH_DIGITS:
                return -1
            v = v * 10 + (p[i] - 48)
            digits += 1
            i += 1
        if i == n:
            return 0
        if digits == 0 or (negative and v != 1):
            return -1
        if negative:
            v = NULL_VALUE
    if i == n:
        return 0
    if p[i] != 13:
        return -1
    if i + 1 == n:
        return 0
    if p[i + 1] != 10:
        return -1
    pos[0] = i + 2
    length[0] = v
    return 1


cdef int read_line(const uint8_t *p, uint32_t n, uint32_t *pos, Slice *line) noexcept nogil:
    """Printable text up to CR LF; as read_length."""
    cdef uint32_t i
    for i in range(pos[0], n):
        if p[i] < 32 and p[i] != 9:
            if p[i] != 13:
                return -1
            if i + 1 == n:
                return 0
            if p[i + 1] != 10:
                return -1
            line[0] = slice_of(p + pos[0], i - pos[0])
            pos[0] = i + 2
            return 1
    return 0


cdef bint well_formed(uint8_t t, Slice s) noexcept nogil:
    """The text of a scalar: : integer, ( big number, # boolean, _ null, "," double; + and - take any."""
    cdef uint32_t i = 0
    if t == 43 or t == 45:
        return True
    if t == 95:
        return s.n == 0
    if t == 35:
        return s.n == 1 and s.p[0] in (116, 102)
    if s.n == 0:
        return False
    if t == 44:  # digits, sign, point, exponent, inf, nan
        for i in range(s.n):
            if not 48 <= s.p[i] <= 57 and s.p[i] not in (43, 45, 46, 69, 101, 105, 110, 102, 97):
                return False
        return True
    if s.p[0] == 45 or s.p[0] == 43:
        i = 1
    if i == s.n or (t == 58 and s.n - i > 19):
        return False
    while i < s.n:
        if not 48 <= s.p[i] <= 57:
            return False
        i += 1
    return True


cdef bint is_final(const Frame *stack, int depth) noexcept nogil:
    """Does the value end with the element that is read now?"""
    while depth:
        depth -= 1
        if stack[depth].left != 1 or stack[depth].attribute:
            return False
    return True


cdef inline int run_out(Walk *w, uint32_t n, bint last) noexcept nogil:
    """The bytes end within the value."""
    if not last:
        return WALK_MORE
    w.pos = n
    w.cut = True
    return WALK_OPEN


cdef int walk(const uint8_t *p, uint32_t n, bint last, Walk *w) noexcept nogil:
    cdef Frame stack[DEPTH_MAX]
    cdef Frame *top
    cdef int depth = 0, outer = 0, got
    cdef uint32_t pos = 0, children = 0, look
    cdef uint8_t t
    cdef int64_t length, streamed_count = 0
    cdef Slice line
    cdef bint own, done
    memset(w, 0, sizeof(w[0]))
    w.count = -1
    w.total = -1
    while True:
        if pos == n:
            return run_out(w, n, last)
        t = p[pos]
        pos += 1
        top = &stack[depth - 1] if depth else NULL
        # The value itself: what stands outside of every aggregate but attributes.
        own = depth == 0 and t != 124
        if own:
            w.type = t
        if t in (33, 37, 126, 62, 124, 95, 35, 44, 40, 61):
            w.resp3 = True
        line = slice_of(p, 0)
        done = True
        if top != NULL and top.chunks and t != 59:
            return WALK_BROKEN
        if t in (43, 45, 58, 95, 35, 44, 40):
            got = read_line(p, n, &pos, &line)
            if got > 0 and not well_formed(t, line):
                return WALK_BROKEN
            if got <= 0:
                return run_out(w, n, last) if got == 0 else WALK_BROKEN
            if own:
                w.line = line
                w.whole_line = True
        elif t in (36, 33, 61):
            got = read_length(p, n, &pos, &length)
            if got <= 0:
                return run_out(w, n, last) if got == 0 else WALK_BROKEN
            if own:
                w.whole_line = True
            if length == STREAMED:
                if t != 36:
                    return WALK_BROKEN
                if depth == DEPTH_MAX:
                    w.pos = pos
                    return WALK_OPEN
                w.resp3 = True
                stack[depth].left = STREAMED
                stack[depth].attribute = False
                stack[depth].chunks = True
                depth += 1
                continue
            if length == NULL_VALUE and t != 36:
                return WALK_BROKEN
            if length >= 0:
                if is_final(stack, depth):
                    w.total = pos + length + 2
                    w.pos = pos
                    if own and t == 33:  # an error's text is wanted, and is short
                        look = <uint32_t>length if length < TEXT_LOOK else TEXT_LOOK
                        if n - pos < look and not last:
                            return WALK_MORE
                        w.whole_line = n - pos >= look
                        w.line = slice_of(p + pos, look if n - pos >= look else n - pos)
                        w.pos = pos + w.line.n
                    return WALK_WHOLE
                if pos + length + 2 > STREAM_MAX:
                    w.pos = pos
                    return WALK_OPEN
                if pos + length + 2 > n:
                    return run_out(w, n, last)
                line = slice_of(p + pos, <uint32_t>length)
                pos += <uint32_t>length + 2
                if p[pos - 2] != 13 or p[pos - 1] != 10:
                    return WALK_BROKEN
        elif t in (42, 37, 126, 62, 124):
            got = read_length(p, n, &pos, &length)
            if got <= 0:
                return run_out(w, n, last) if got == 0 else WALK_BROKEN
            if length > COUNT_MAX or (length == NULL_VALUE and t != 42) or (length == STREAMED and t in (62, 124)):
                return WALK_BROKEN
            if length == STREAMED:
                w.resp3 = True
            if own:
                w.whole_line = True
                w.count = length if length >= 0 else -1
            if depth == 0:
                outer = 1 if own else 0
            if length > 0 or length == STREAMED:
                if depth == DEPTH_MAX:
                    w.pos = pos
                    return WALK_OPEN
                stack[depth].left = length * 2 if length > 0 and t in (37, 124) else length
                stack[depth].attribute = t == 124
                stack[depth].chunks = False
                depth += 1
                continue
            done = t != 124  # an empty attribute is nothing
        elif t == 46 and top != NULL and top.left == STREAMED and not top.chunks:
            if pos + 2 > n:
                return run_out(w, n, last)
            if p[pos] != 13 or p[pos + 1] != 10:
                return WALK_BROKEN
            pos += 2
            depth -= 1
            if depth == 0 and outer:
                w.count = streamed_count // 2 if w.type == 37 else streamed_count
        elif t == 59 and top != NULL and top.chunks:
            got = read_length(p, n, &pos, &length)
            if got <= 0 or length < 0:
                return run_out(w, n, last) if got == 0 else WALK_BROKEN
            if length > 0:
                if pos + length + 2 > STREAM_MAX:
                    w.pos = pos
                    return WALK_OPEN
                if pos + length + 2 > n:
                    return run_out(w, n, last)
                pos += <uint32_t>length + 2
                if p[pos - 2] != 13 or p[pos - 1] != 10:
                    return WALK_BROKEN
                continue
            depth -= 1
        else:
            return WALK_BROKEN
        # One element is complete; so may be what it stands in.
        while done:
            if depth == 0:
                w.pos = pos
                w.total = pos
                return WALK_WHOLE
            if depth == 1 and outer:
                if children < CHILDREN:
                    w.child[children] = line
                    children += 1
                streamed_count += 1
            line.n = 0
            top = &stack[depth - 1]
            if top.left == STREAMED:
                break
            top.left -= 1
            if top.left:
                break
            depth -= 1
            done = not top.attribute
