# cython: language_level=3, boundscheck=True, wraparound=False
"""Text of a remote party made fit for protobuf and JSON. See text.pxd for the contract."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from zerospan.exporter.encode.buf cimport Buf, buf_reserve
from zerospan.exporter.proto.cursor cimport Slice

cdef const char *HEX = b"0123456789abcdef"
cdef const char *REPLACEMENT = b"\xef\xbf\xbd"

cdef uint64_t TOPS = <uint64_t>0x8080808080808080ULL

cdef enum:
    CHUNK = 4096             # input bytes for which json_chars reserves at a time

cdef uint8_t ESCAPE[256]     # 0: as it is, 'u': \u00XX, 0x80: look at the sequence, else the letter after the backslash

cdef void fill_escape() noexcept:
    cdef int i
    for i in range(256):
        ESCAPE[i] = 117 if i < 32 else 0x80 if i >= 128 else 0
    ESCAPE[8] = 98
    ESCAPE[9] = 116
    ESCAPE[10] = 110
    ESCAPE[12] = 102
    ESCAPE[13] = 114
    ESCAPE[34] = 34
    ESCAPE[92] = 92

fill_escape()


cdef uint32_t text_step(const uint8_t *p, uint32_t left, bint *good) noexcept nogil:
    cdef uint8_t lead = p[0]
    cdef uint8_t low = 0x80      # what the second byte may be: that is where overlong forms, surrogates and > U+10FFFF end
    cdef uint8_t high = 0xBF
    cdef uint32_t need
    cdef uint32_t i
    good[0] = True
    if lead < 0x80:
        return 1
    good[0] = False
    if lead < 0xC2 or lead > 0xF4:
        return 1
    if lead < 0xE0:
        need = 2
    elif lead < 0xF0:
        need = 3
        if lead == 0xE0:
            low = 0xA0
        elif lead == 0xED:
            high = 0x9F
    else:
        need = 4
        if lead == 0xF0:
            low = 0x90
        elif lead == 0xF4:
            high = 0x8F
    i = 1
    while i < need:
        if i >= left or p[i] < low or p[i] > high:
            return i
        low = 0x80
        high = 0xBF
        i += 1
    good[0] = True
    return need


cdef uint32_t copy(uint8_t *out, uint32_t cap, Slice s, bint line) noexcept nogil:
    cdef const uint8_t *p = s.p
    cdef const uint8_t *source
    cdef uint32_t left = s.n
    cdef uint32_t n = 0
    cdef uint32_t step
    cdef uint32_t size
    cdef bint good
    while left:
        step = text_step(p, left, &good)
        if line and (p[0] < 32 or p[0] == 127):
            good = False
        source = p if good else <const uint8_t *>REPLACEMENT
        size = step if good else 3
        if n + size > cap:
            break
        memcpy(out + n, source, size)
        n += size
        p += step
        left -= step
    return n


cdef uint32_t text_copy(uint8_t *out, uint32_t cap, Slice s) noexcept nogil:
    cdef uint32_t n
    if text_is_ascii(s.p, s.n):
        n = s.n if s.n < cap else cap
        memcpy(out, s.p, n)
        return n
    return copy(out, cap, s, False)


cdef inline uint64_t refused(uint64_t word) noexcept nogil:
    """Non-zero if one of eight bytes is below 32 or above 127.

    A byte above 127 is refused by its own top bit; below that, a subtraction can only borrow from a byte that is
    refused itself, so the verdict on the word is right.
    """
    return word | (word - <uint64_t>0x2020202020202020ULL)


cdef inline uint64_t equals(uint64_t word, uint64_t bytes8) noexcept nogil:
    """Has a top bit set if a byte of the word is that byte, which stands in bytes8 eight times; the same restriction."""
    return (word ^ bytes8) - <uint64_t>0x0101010101010101ULL


cdef inline bint is_plain(uint64_t word) noexcept nogil:
    """Whether eight bytes stand for themselves in JSON: printable ASCII or DEL, no quotation mark, no backslash."""
    cdef uint64_t bad = refused(word)
    bad |= equals(word, <uint64_t>0x2222222222222222ULL) | equals(word, <uint64_t>0x5C5C5C5C5C5C5C5CULL)
    return (bad & TOPS) == 0


cdef inline bint is_printable(uint64_t word) noexcept nogil:
    return ((refused(word) | equals(word, <uint64_t>0x7F7F7F7F7F7F7F7FULL)) & TOPS) == 0


cdef inline uint64_t load(const uint8_t *p, uint32_t n) noexcept nogil:
    """Up to eight bytes; what is missing is filled with spaces."""
    cdef uint64_t word = <uint64_t>0x2020202020202020ULL
    if n >= 8:
        memcpy(&word, p, 8)
    else:
        memcpy(&word, p, n)
    return word


cdef uint32_t text_copy_line(uint8_t *out, uint32_t cap, Slice s) noexcept nogil:
    cdef uint32_t i = 0
    cdef uint32_t n = s.n if s.n < cap else cap
    while i < s.n:
        if not is_printable(load(s.p + i, s.n - i)):
            return copy(out, cap, s, True)
        i += 8
    memcpy(out, s.p, n)
    return n


cdef void json_chars(Buf *out, Slice s) noexcept nogil:
    cdef const uint8_t *p = s.p
    cdef const uint8_t *end = s.p + s.n
    cdef const uint8_t *stop
    cdef uint8_t *w
    cdef uint8_t how
    cdef uint64_t word
    cdef uint32_t step
    cdef bint good
    while p < end:
        stop = end if end - p <= CHUNK else p + CHUNK
        if not buf_reserve(out, 6 * <size_t>(stop - p) + 16):   # \u00XX is the longest form of one byte
            return
        w = out.p + out.n
        while p < stop:
            while p < stop:
                word = load(p, <uint32_t>(stop - p))
                if not is_plain(word):
                    break
                memcpy(w, &word, 8)              # 8 bytes even for fewer: the spare bytes allow for that, too
                step = 8 if stop - p >= 8 else <uint32_t>(stop - p)
                w += step
                p += step
            if p >= stop:
                break
            how = ESCAPE[p[0]]
            if how == 0:
                w[0] = p[0]
                w += 1
                p += 1
            elif how == 0x80:
                # the last character of a chunk may reach beyond `stop`, which the spare bytes allow for
                step = text_step(p, <uint32_t>(end - p), &good)
                if good:
                    memcpy(w, p, step)
                    w += step
                else:
                    memcpy(w, REPLACEMENT, 3)
                    w += 3
                p += step
            else:
                w[0] = 92
                w[1] = how
                w += 2
                if how == 117:
                    w[0] = 48
                    w[1] = 48
                    w[2] = HEX[p[0] >> 4]
                    w[3] = HEX[p[0] & 15]
                    w += 4
                p += 1
        out.n = w - out.p
