# cython: language_level=3, boundscheck=True, wraparound=False
"""Trace contexts that programs write into header fields themselves: W3C, B3, Jaeger, SkyWalking.

A parser hands over each header field; at the head's end the best well-formed context wins, in this order:

  traceparent    W3C Trace Context, section 3.2
  b3, x-b3-*     B3 propagation: single field, else the separate ones; 64-bit trace ids are padded with zeros on the left
  uber-trace-id  Jaeger: {trace}:{span}:{parent}:{flags}, hexadecimal of any length up to 32 and 16 digits
  sw8            SkyWalking cross-process propagation v3: fields in base64, ids are free text

A malformed context is as good as none: the next one is tried. Called by proto.http1 for requests.

sw8 ids: a trace id of 32 hex digits, with or without the dashes of a UUID, is taken as 16 bytes; any other text, and
the parent (segment id ":" span id), is hashed with FNV-1a 64 and MurmurHash3's 64-bit finaliser, so that every
agent that sees the same field finds the same id. The 16 bytes are two such hashes with different seeds.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from zerospan.exporter.proto.base cimport (
    Parsed, WIRE_B3, WIRE_NONE, WIRE_SW8, WIRE_TRACEPARENT, WIRE_UBER,
)
from zerospan.exporter.proto.cursor cimport Slice, slice_is_nocase, slice_of

cdef enum:
    TRACE_BYTES = 16
    SPAN_BYTES = 8
    TEXT_MAX = 192           # decoded sw8 ids beyond this are refused; SkyWalking's own are below 100
    SW8_FIELDS = 8


cdef void wire_init(WireHeaders *w) noexcept nogil:
    memset(w, 0, sizeof(w[0]))


cdef Slice *wire_slot(WireHeaders *w, Slice name) noexcept nogil:
    if name.n == 2:
        return &w.b3 if slice_is_nocase(name, b"b3", 2) else NULL
    if name.n == 3:
        return &w.sw8 if slice_is_nocase(name, b"sw8", 3) else NULL
    if name.n == 10:
        return &w.b3_flags if slice_is_nocase(name, b"x-b3-flags", 10) else NULL
    if name.n == 11:
        if slice_is_nocase(name, b"traceparent", 11):
            return &w.traceparent
        return &w.b3_span if slice_is_nocase(name, b"x-b3-spanid", 11) else NULL
    if name.n == 12:
        if slice_is_nocase(name, b"x-b3-traceid", 12):
            return &w.b3_trace
        return &w.b3_sampled if slice_is_nocase(name, b"x-b3-sampled", 12) else NULL
    return &w.uber if slice_is_nocase(name, b"uber-trace-id", 13) else NULL


cdef void wire_keep(WireHeaders *w, Slice *slot, Slice value) noexcept nogil:
    if slot.n == 0:
        slot[0] = value
    elif slot == &w.traceparent and (slot.n != value.n or memcmp(slot.p, value.p, value.n) != 0):
        w.disputed = 1


cdef inline int nibble(uint8_t c, bint upper) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    if 97 <= c <= 102:
        return c - 87
    if upper and 65 <= c <= 70:
        return c - 55
    return -1


cdef bint hex_id(Slice text, uint8_t *out, uint32_t size, bint upper) noexcept nogil:
    """Hexadecimal digits, right-aligned in `size` bytes; False if there are none, too many, a bad one, or all are 0."""
    cdef uint32_t i, at
    cdef uint8_t any_bit = 0
    cdef int v
    if text.n == 0 or text.n > size * 2:
        return False
    memset(out, 0, size)
    for i in range(text.n):
        v = nibble(text.p[i], upper)
        if v < 0:
            return False
        at = size * 2 - text.n + i
        out[at >> 1] |= <uint8_t>(v if at & 1 else v << 4)
        any_bit |= <uint8_t>v
    return any_bit != 0


cdef inline Slice part(Slice s, uint32_t at, uint32_t n) noexcept nogil:
    return slice_of(s.p + at, n)


cdef Slice next_field(Slice *rest, uint8_t sep) noexcept nogil:
    """Bytes up to the next `sep` (which is dropped) or the end."""
    cdef Slice field = rest[0]
    cdef uint32_t i
    for i in range(rest.n):
        if rest.p[i] == sep:
            field.n = i
            rest.p += i + 1
            rest.n -= i + 1
            return field
    rest.p += rest.n
    rest.n = 0
    return field


cdef bint traceparent(Slice v, Parsed *out) noexcept nogil:
    """version "-" trace-id "-" parent-id "-" flags; lower case. A later version may append fields after a dash."""
    cdef int hi, lo
    if v.n < 55 or v.p[2] != 45 or v.p[35] != 45 or v.p[52] != 45:
        return False
    hi = nibble(v.p[0], False)
    lo = nibble(v.p[1], False)
    if hi < 0 or lo < 0 or (hi == 15 and lo == 15):
        return False
    if v.n > 55 and ((hi == 0 and lo == 0) or v.p[55] != 45):
        return False
    if not hex_id(part(v, 3, 32), out.trace_id, TRACE_BYTES, False):
        return False
    if not hex_id(part(v, 36, 16), out.parent_id, SPAN_BYTES, False):
        return False
    hi = nibble(v.p[53], False)
    lo = nibble(v.p[54], False)
    if hi < 0 or lo < 0:
        return False
    out.trace_flags = <uint8_t>(hi << 4 | lo)
    out.unsampled = not lo & 1
    return True


cdef inline bint b3_trace_id(Slice v, Parsed *out) noexcept nogil:
    return (v.n == 32 or v.n == 16) and hex_id(v, out.trace_id, TRACE_BYTES, True)


cdef bint b3_single(Slice v, Parsed *out) noexcept nogil:
    """trace-id "-" span-id [ "-" sampling [ "-" parent-span-id ] ]. A lone sampling state names no trace."""
    cdef Slice span, sampling
    if not b3_trace_id(next_field(&v, 45), out):
        return False
    span = next_field(&v, 45)
    if span.n != 16 or not hex_id(span, out.parent_id, SPAN_BYTES, True):
        return False
    sampling = next_field(&v, 45)
    out.trace_flags = 1 if sampling.n == 1 and (sampling.p[0] == 49 or sampling.p[0] == 100) else 0
    out.unsampled = sampling.n == 1 and sampling.p[0] == 48
    return sampling.n <= 1


cdef bint b3_multi(const WireHeaders *w, Parsed *out) noexcept nogil:
    if not b3_trace_id(w.b3_trace, out):
        return False
    if w.b3_span.n != 16 or not hex_id(w.b3_span, out.parent_id, SPAN_BYTES, True):
        return False
    out.trace_flags = 0
    if w.b3_flags.n == 1 and w.b3_flags.p[0] == 49:
        out.trace_flags = 1
    elif w.b3_sampled.n == 1 and w.b3_sampled.p[0] == 49:
        out.trace_flags = 1
    elif slice_is_nocase(w.b3_sampled, b"true", 4):
        out.trace_flags = 1
    out.unsampled = not out.trace_flags and b3_denies(w)
    return True


cdef bint b3_denies(const WireHeaders *w) noexcept nogil:
    """A decision against, which needs no ids; none at all leaves the decision to the receiver."""
    if w.b3.n:
        return w.b3.n == 1 and w.b3.p[0] == 48
    return (w.b3_sampled.n == 1 and w.b3_sampled.p[0] == 48) or slice_is_nocase(w.b3_sampled, b"false", 5)


cdef Slice uber_field(Slice *rest) noexcept nogil:
    """Up to the next colon, which several clients write as %3A."""
    cdef Slice field = rest[0]
    cdef uint32_t i
    for i in range(rest.n):
        if rest.p[i] == 58:
            field.n = i
            rest.p += i + 1
            rest.n -= i + 1
            return field
        if rest.p[i] == 37 and i + 2 < rest.n and rest.p[i + 1] == 51 and (rest.p[i + 2] | 32) == 97:
            field.n = i
            rest.p += i + 3
            rest.n -= i + 3
            return field
    rest.p += rest.n
    rest.n = 0
    return field


cdef bint uber(Slice v, Parsed *out) noexcept nogil:
    cdef Slice flags
    cdef int hi = 0, lo
    if not hex_id(uber_field(&v), out.trace_id, TRACE_BYTES, True):
        return False
    if not hex_id(uber_field(&v), out.parent_id, SPAN_BYTES, True):
        return False
    uber_field(&v)  # the parent's parent: deprecated, commonly "0"
    flags = uber_field(&v)
    if flags.n == 0 or flags.n > 2:
        return False
    lo = nibble(flags.p[flags.n - 1], True)
    if flags.n == 2:
        hi = nibble(flags.p[0], True)
    if hi < 0 or lo < 0:
        return False
    out.trace_flags = <uint8_t>(lo & 1)  # the other bits are Jaeger's own
    out.unsampled = not lo & 1
    return True


cdef int base64_value(uint8_t c) noexcept nogil:
    if 65 <= c <= 90:
        return c - 65
    if 97 <= c <= 122:
        return c - 71
    if 48 <= c <= 57:
        return c + 4
    if c == 43:
        return 62
    if c == 47:
        return 63
    return -1


cdef int base64(Slice v, uint8_t *out, uint32_t cap) noexcept nogil:
    """Decoded length, or -1 (RFC 4648 section 4; missing padding is forgiven)."""
    cdef uint32_t i, n = 0, bits = 0, have = 0
    cdef int value
    while v.n and v.p[v.n - 1] == 61:
        v.n -= 1
    if v.n % 4 == 1:
        return -1
    for i in range(v.n):
        value = base64_value(v.p[i])
        if value < 0:
            return -1
        bits = (bits << 6 | <uint32_t>value) & 0xFFFFFF
        have += 6
        if have >= 8:
            have -= 8
            if n == cap:
                return -1
            out[n] = <uint8_t>(bits >> have)
            n += 1
    return <int>n


cdef uint64_t hash64(const uint8_t *p, uint32_t n, uint64_t seed) noexcept nogil:
    cdef uint64_t h = 0xCBF29CE484222325ULL ^ seed
    cdef uint32_t i
    for i in range(n):
        h = (h ^ p[i]) * 0x100000001B3ULL
    h = (h ^ (h >> 33)) * 0xFF51AFD7ED558CCDULL
    h = (h ^ (h >> 33)) * 0xC4CEB9FE1A85EC53ULL
    h ^= h >> 33
    return h if h else 1


cdef void put_be64(uint8_t *out, uint64_t v) noexcept nogil:
    cdef int i
    for i in range(8):
        out[i] = <uint8_t>(v >> (56 - 8 * i))


cdef bint uuid_id(const uint8_t *text, uint32_t n, uint8_t *out) noexcept nogil:
    """32 hex digits, or 36 characters with dashes at 8, 13, 18 and 23."""
    cdef uint8_t plain[32]
    cdef uint32_t i, k = 0
    if n != 32 and n != 36:
        return False
    for i in range(n):
        if n == 36 and (i == 8 or i == 13 or i == 18 or i == 23):
            if text[i] != 45:
                return False
            continue
        plain[k] = text[i]
        k += 1
    return hex_id(slice_of(plain, 32), out, TRACE_BYTES, True)


cdef bint sw8(Slice v, Parsed *out) noexcept nogil:
    """sample "-" trace "-" segment "-" span "-" service "-" instance "-" endpoint "-" address; ids in base64."""
    cdef uint8_t text[TEXT_MAX]
    cdef Slice fields[SW8_FIELDS]
    cdef int n, i
    cdef uint32_t k
    for i in range(SW8_FIELDS):
        fields[i] = next_field(&v, 45)
        if fields[i].n == 0:
            return False
    if fields[0].n != 1 or (fields[0].p[0] != 48 and fields[0].p[0] != 49):
        return False
    n = base64(fields[1], text, TEXT_MAX)
    if n <= 0:
        return False
    if not uuid_id(text, <uint32_t>n, out.trace_id):
        put_be64(out.trace_id, hash64(text, <uint32_t>n, 0))
        put_be64(out.trace_id + 8, hash64(text, <uint32_t>n, 0x9E3779B97F4A7C15ULL))
    if fields[3].n > 10:
        return False
    for k in range(fields[3].n):
        if not 48 <= fields[3].p[k] <= 57:
            return False
    n = base64(fields[2], text, TEXT_MAX - 12)
    if n <= 0:
        return False
    text[n] = 58
    memcpy(text + n + 1, fields[3].p, fields[3].n)
    put_be64(out.parent_id, hash64(text, <uint32_t>n + 1 + fields[3].n, 0))
    out.trace_flags = <uint8_t>(fields[0].p[0] - 48)
    out.unsampled = not out.trace_flags
    return True


cdef bint wire_resolve(const WireHeaders *w, Parsed *out) noexcept nogil:
    out.wire = WIRE_NONE
    if w.traceparent.n and not w.disputed and traceparent(w.traceparent, out):
        out.wire = WIRE_TRACEPARENT
    elif w.b3.n and b3_single(w.b3, out):
        out.wire = WIRE_B3
    elif w.b3_trace.n and b3_multi(w, out):
        out.wire = WIRE_B3
    elif w.uber.n and uber(w.uber, out):
        out.wire = WIRE_UBER
    elif w.sw8.n and sw8(w.sw8, out):
        out.wire = WIRE_SW8
    else:
        out.trace_flags = 0
        out.unsampled = b3_denies(w)
        return False
    return True
