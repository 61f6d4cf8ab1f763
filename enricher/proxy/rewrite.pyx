# cython: language_level=3, boundscheck=True, wraparound=False
"""Walks the three Export*ServiceRequest messages to their resources and replaces these; all else is copied in ranges.

Source: protobuf.dev, "Encoding"; opentelemetry-proto (trace.proto, metrics.proto, logs.proto, resource.proto,
common.proto). The three requests have the same numbers down to the scope: field 1 of the request is the list of
Resource{Spans,Metrics,Logs}, 1 in it is the Resource, 2 the list of scopes, 2 in that the spans, metrics or records.
Spans and records are counted, never decoded. What the walk itself does not need is checked no further: the endpoint will.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from zerospan.exporter.encode.buf cimport Buf, buf_free, buf_reserve
from zerospan.exporter.encode.wire cimport VARINT_MAX, varint_put, varint_size, wire_bytes
from zerospan.exporter.proto.cursor cimport Cursor, cur_init, cur_skip, cur_u8

cdef enum:
    VARINT, FIXED64, LEN, GROUP, GROUP_END, FIXED32   # wire types
    LEN_1 = 1 << 3 | LEN                              # the tag of field 1, length-delimited
    DEPTH_MAX = 100                                   # of groups, as protobuf's own readers
    BODY_MAX = 0x7fffffff                             # protobuf's own limit


SIGNALS = {"traces": 0, "metrics": 1, "logs": 2}


class Malformed(ValueError):
    """The bytes are not such a request."""


cdef struct Field:
    const uint8_t *start     # its tag
    const uint8_t *p         # its value, where that is length-delimited
    uint32_t n
    uint32_t number
    uint8_t kind             # wire type

cdef uint64_t varint(Cursor *c, uint32_t bits=70) noexcept nogil:
    """bits: 7 for each byte that it may have. Tags and lengths have 5: longer ones, which nobody writes, are malformed to
    protobuf's own reader, too, and would become valid by being written anew.
    """
    cdef uint64_t v = 0
    cdef uint32_t shift
    cdef uint8_t byte
    for shift in range(0, bits, 7):
        byte = cur_u8(c)
        v |= <uint64_t>(byte & 0x7f) << shift
        if byte < 0x80:
            return v
    c.ok = False
    return 0

cdef bint skip_group(Cursor *c, uint32_t number) noexcept nogil:
    """Behind the end of the group that has just begun. Unknown fields may still be groups; protobuf's own readers take
    number 0 in them."""
    cdef uint32_t[DEPTH_MAX] open
    cdef uint32_t depth = 1
    cdef uint64_t tag
    open[0] = number
    while depth and c.ok:
        tag = varint(c)
        if not skip_value(c, tag):
            if tag & 7 == GROUP and depth < DEPTH_MAX:
                open[depth] = <uint32_t>(tag >> 3)
                depth += 1
            elif tag & 7 == GROUP_END and tag >> 3 == open[depth - 1]:
                depth -= 1
            else:
                c.ok = False
    return c.ok

cdef bint skip_value(Cursor *c, uint64_t tag) noexcept nogil:
    """Behind a value that is no group; False (and nothing moved) if it is one, or nothing that there is."""
    cdef uint64_t n
    if tag & 7 == VARINT:
        varint(c)
    elif tag & 7 == FIXED64:
        cur_skip(c, 8)
    elif tag & 7 == FIXED32:
        cur_skip(c, 4)
    elif tag & 7 == LEN:
        n = varint(c)
        if n > c.left:
            c.ok = False
        else:
            cur_skip(c, <uint32_t>n)
    else:
        return False
    return True

cdef bint next_field(Cursor *c, Field *f) noexcept nogil:
    """The next field; False at the end, or where c is no longer ok."""
    cdef uint64_t tag, n
    if c.left == 0 or not c.ok:
        return False
    f.start = c.p
    f.p = NULL
    f.n = 0
    tag = varint(c, 35)
    if not c.ok or tag >> 32 or tag >> 3 == 0:
        c.ok = False
        return False
    f.number = <uint32_t>(tag >> 3)
    f.kind = <uint8_t>(tag & 7)
    if f.kind == LEN:
        n = varint(c, 35)
        if n > c.left:
            c.ok = False
            return False
        f.p = c.p
        f.n = <uint32_t>n
        return cur_skip(c, f.n)
    if f.kind == GROUP:
        return skip_group(c, f.number)
    if not skip_value(c, tag):
        c.ok = False
    return c.ok

cdef int64_t points(const uint8_t *p, uint32_t n) noexcept nogil:
    """Data points of a Metric: gauge 5, sum 7, histogram 9, exponential histogram 10, summary 11; field 1 in each."""
    cdef Cursor c, inner
    cdef Field f, g
    cdef int64_t found = 0
    cur_init(&c, p, n)
    while next_field(&c, &f):
        if f.kind == LEN and (f.number == 5 or f.number == 7 or 9 <= f.number <= 11):
            cur_init(&inner, f.p, f.n)
            while next_field(&inner, &g):
                found += g.number == 1 and g.kind == LEN
            if not inner.ok:
                return -1
    return found if c.ok else -1

cdef int64_t items(const uint8_t *p, uint32_t n, int signal) noexcept nogil:
    """Spans, data points or log records of a Scope*; -1: malformed."""
    cdef Cursor c
    cdef Field f
    cdef int64_t found = 0, more
    cur_init(&c, p, n)
    while next_field(&c, &f):
        if f.number != 2 or f.kind != LEN:
            continue
        more = points(f.p, f.n) if signal == 1 else 1
        if more < 0:
            return -1
        found += more
    return found if c.ok else -1

cdef struct Group:           # one Resource{Spans,Metrics,Logs}
    uint32_t resources       # fields 1: none, one; several are one, in pieces
    const uint8_t *start     # of the first
    const uint8_t *p         # its content
    uint32_t n
    uint32_t bytes           # of all of them, tags and lengths included
    int64_t items

cdef bint look(Group *g, const uint8_t *p, uint32_t n, int signal) noexcept nogil:
    """What a group holds; False: malformed."""
    cdef Cursor c
    cdef Field f
    cdef int64_t more
    g.resources = g.n = g.bytes = 0
    g.start = g.p = NULL
    g.items = 0
    cur_init(&c, p, n)
    while next_field(&c, &f):
        if f.kind != LEN:
            continue
        if f.number == 1:
            g.bytes += <uint32_t>(c.p - f.start)
            if g.resources == 0:
                g.start, g.p, g.n = f.start, f.p, f.n
            g.resources += 1
        elif f.number == 2:
            more = items(f.p, f.n, signal)
            if more < 0:
                return False
            g.items += more
    return c.ok

cdef bytes merged(const uint8_t *p, uint32_t n):
    """The content of all resources of a group, one behind the other: that is how protobuf merges them."""
    cdef Cursor c
    cdef Field f
    cdef list parts = []
    cur_init(&c, p, n)
    while next_field(&c, &f):
        if f.number == 1 and f.kind == LEN:
            parts.append(PyBytes_FromStringAndSize(<char *>f.p, f.n))
    return b"".join(parts)

cdef bytes head(size_t n):
    """Tag and length of a field 1 of n bytes."""
    cdef uint8_t[1 + VARINT_MAX] b
    b[0] = LEN_1
    return PyBytes_FromStringAndSize(<char *>b, varint_put(b + 1, n) - b)

cdef const uint8_t *put_group(list parts, view, const uint8_t *whole, Field *f, Group *g, bytes resource) except NULL:
    """The group with another resource, up to where the rest can be taken as it is: returns that place."""
    cdef Cursor c
    cdef Field inner
    cdef const uint8_t *kept = f.p
    cdef bytes field = head(PyBytes_GET_SIZE(resource))
    parts.append(head(f.n - g.bytes + PyBytes_GET_SIZE(field) + PyBytes_GET_SIZE(resource)))
    if g.resources == 1:     # where it stood
        parts += (view[f.p - whole:g.start - whole], field, resource)
        return g.p + g.n
    parts += (field, resource)
    if g.resources:          # the others go: they are in the new one
        cur_init(&c, f.p, f.n)
        while next_field(&c, &inner):
            if inner.number == 1 and inner.kind == LEN:
                parts.append(view[kept - whole:inner.start - whole])
                kept = c.p
    return kept


def rewrite(bytes body not None, signal, replace):
    """See rewrite.pyi."""
    cdef int what = SIGNALS[signal]
    cdef Cursor c
    cdef Field f
    cdef Group g
    cdef const uint8_t *whole = <const uint8_t *>PyBytes_AS_STRING(body)
    cdef const uint8_t *kept = whole         # what stands before it is in `parts`
    cdef int64_t found = 0
    cdef list parts = []
    cdef bytes resource
    if PyBytes_GET_SIZE(body) > BODY_MAX:
        raise Malformed("larger than 2 GiB")
    view = memoryview(body)
    cur_init(&c, whole, <uint32_t>PyBytes_GET_SIZE(body))
    while next_field(&c, &f):
        if f.number != 1 or f.kind != LEN:
            continue
        if not look(&g, f.p, f.n, what):
            raise Malformed(f"broken within bytes {f.p - whole} to {f.p - whole + f.n}")
        found += g.items
        resource = PyBytes_FromStringAndSize(<char *>g.p, g.n) if g.resources < 2 else merged(f.p, f.n)
        new = replace(resource)
        if new is not None:
            parts.append(view[kept - whole:f.start - whole])
            kept = put_group(parts, view, whole, &f, &g, new)
    if not c.ok:
        raise Malformed(f"broken at byte {c.p - whole}")
    if not parts:
        return body, found
    parts.append(view[kept - whole:])
    return b"".join(parts), found


cdef object text(const uint8_t *p, uint32_t n):
    try:
        return PyUnicode_DecodeUTF8(<char *>p, n, NULL)
    except UnicodeDecodeError:
        raise Malformed("a text is not UTF-8") from None

cdef tuple strings(const uint8_t *p, uint32_t n, tuple before, int depth):
    """The texts of an AnyValue: one of string_value (1), those of array_value (5), else none. The last of a oneof wins."""
    cdef Cursor c, inner
    cdef Field f, g
    cdef tuple found = before
    cur_init(&c, p, n)
    while next_field(&c, &f):
        if f.kind != LEN:
            if f.kind == VARINT and 2 <= f.number <= 3 or f.kind == FIXED64 and f.number == 4:
                found = ()
        elif f.number == 1:
            found = (text(f.p, f.n),)
        elif f.number == 5 and depth == 0:
            found = ()
            cur_init(&inner, f.p, f.n)
            while next_field(&inner, &g):
                if g.number == 1 and g.kind == LEN:
                    found += strings(g.p, g.n, (), 1)
            if not inner.ok:
                raise Malformed("a broken array")
        elif 5 <= f.number <= 7:
            found = ()
    if not c.ok:
        raise Malformed("a broken value")
    return found


def attributes(bytes resource not None):
    """See rewrite.pyi."""
    cdef Cursor c, inner
    cdef Field f, g
    cdef const uint8_t *whole = <const uint8_t *>PyBytes_AS_STRING(resource)
    cdef list found = []
    cdef tuple values
    cur_init(&c, whole, <uint32_t>PyBytes_GET_SIZE(resource))
    while next_field(&c, &f):
        if f.number != 1 or f.kind != LEN:
            continue
        key = ""
        values = ()
        cur_init(&inner, f.p, f.n)
        while next_field(&inner, &g):
            if g.kind == LEN and g.number == 1:
                key = text(g.p, g.n)
            elif g.kind == LEN and g.number == 2:
                values = strings(g.p, g.n, values, 0)
        if not inner.ok:
            raise Malformed("a broken attribute")
        found.append((key, values, f.start - whole, c.p - whole))
    if not c.ok:
        raise Malformed("a broken resource")
    return found


def key_value(str key not None, str value not None):
    """See rewrite.pyi."""
    cdef bytes k = key.encode("utf-8", "replace"), v = value.encode("utf-8", "replace")
    cdef size_t kn = PyBytes_GET_SIZE(k), vn = PyBytes_GET_SIZE(v)
    cdef size_t any_n = 1 + varint_size(vn) + vn
    cdef Buf out
    out.p = NULL
    out.n = out.cap = 0
    out.failed = False
    if buf_reserve(&out, 64 + kn + vn):
        out.p[0] = LEN_1
        out.n = varint_put(out.p + 1, 1 + varint_size(kn) + kn + 1 + varint_size(any_n) + any_n) - out.p
        wire_bytes(&out, LEN_1, PyBytes_AS_STRING(k), kn)
        out.p[out.n] = 2 << 3 | LEN
        out.n = varint_put(out.p + out.n + 1, any_n) - out.p
        wire_bytes(&out, LEN_1, PyBytes_AS_STRING(v), vn)
    try:
        if out.failed:
            raise MemoryError
        return PyBytes_FromStringAndSize(<char *>out.p, out.n)
    finally:
        buf_free(&out)
