# cython: language_level=3, boundscheck=True, wraparound=False
"""Encoded OTLP requests as lines of OTLP JSON. Called by the file sinks; works on what any SDK sends, not only on ours.

One generic walk driven by the tables of otlp_schema.pyx. It reads a message twice: the first pass notes where each
field begins and ends and refuses what is malformed, the second writes the fields in the table's order. So fields may come in any
order and interleaved, and the last of a singular field wins. Time is linear (a message has at most three repeated fields,
each looked for between its first and its last place), nesting is limited, output is at most 14 bytes for one of input.

Differences to a whole protobuf parser, none of which an SDK produces: a singular message that comes twice is not merged (the
last one counts), and groups are refused.
"""

from libc.math cimport copysign
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free

from zerospan.exporter.encode.buf cimport Buf, buf_byte, buf_free, buf_put, buf_reserve
from zerospan.exporter.encode.digits cimport DIGITS_MAX, put_hex, put_i64, put_u64
from zerospan.exporter.encode.otlp_schema cimport (
    ALWAYS, BOOL, BYTES, DOUBLE, FIELDS_MAX, FIXED32, FIXED64, ID, INT32, INT64, LOGS, MESSAGE, NAME_MAX, ONE_OF, PLAIN, REPEATED,
    STRING, TRACES, UINT32, Field, Message, Schema, otlp_schemas,
)
from zerospan.exporter.encode.text cimport json_chars
from zerospan.exporter.proto.cursor cimport slice_of

cdef extern from "Python.h":
    char *PyOS_double_to_string(double v, char code, int precision, int flags, int *kind) except NULL
    enum:
        Py_DTSF_ADD_DOT_0

cdef enum:
    NESTING_MAX = 100        # protobuf's own default limit of recursion

cdef struct Walk:
    const uint8_t *begin
    const uint8_t *bad       # where the input is malformed
    const char *why
    Buf out

cdef struct Reader:          # a field at a time of one message
    const uint8_t *p
    const uint8_t *end
    uint32_t number
    uint8_t wire_type
    uint64_t value           # of a varint or fixed-width field
    const uint8_t *data      # of a length-delimited one
    size_t n

cdef const char *BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


cdef int refuse(Walk *k, const uint8_t *at, const char *why) noexcept nogil:
    if k.why == NULL:
        k.bad = at
        k.why = why
    return -1


cdef inline int read_varint(Walk *k, Reader *r, uint64_t *v) noexcept nogil:
    cdef const uint8_t *at = r.p
    cdef uint64_t value = 0
    cdef uint32_t shift = 0
    cdef uint8_t byte
    while True:
        if r.p >= r.end:
            return refuse(k, at, b"a varint is cut short")
        if shift > 63:
            return refuse(k, at, b"a varint is longer than 10 bytes")
        byte = r.p[0]
        r.p += 1
        value |= <uint64_t>(byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    v[0] = value
    return 0


cdef int read_field(Walk *k, Reader *r) noexcept nogil:
    """The next field; r.p < r.end."""
    cdef const uint8_t *at = r.p
    cdef uint64_t key = 0
    cdef uint64_t n = 0
    if read_varint(k, r, &key) < 0:
        return -1
    if key >> 32 or key >> 3 == 0:
        return refuse(k, at, b"a field number is out of range")
    r.number = <uint32_t>(key >> 3)
    r.wire_type = key & 7
    if r.wire_type == 0:
        return read_varint(k, r, &r.value)
    if r.wire_type == 1:
        n = 8
    elif r.wire_type == 5:
        n = 4
    elif r.wire_type == 2:
        if read_varint(k, r, &n) < 0:
            return -1
    else:
        return refuse(k, at, b"a wire type is unknown or a group, which OTLP does not use")
    if n > <uint64_t>(r.end - r.p):
        return refuse(k, at, b"a field is longer than what holds it")
    r.data = r.p
    r.n = n
    r.p += n
    if r.wire_type != 2:
        r.value = 0
        memcpy(&r.value, r.data, n)
    return 0


cdef void put_base64(Buf *out, const uint8_t *p, size_t n) noexcept nogil:
    """RFC 4648, section 4, with padding."""
    cdef uint8_t *w
    cdef uint32_t v
    if not buf_reserve(out, (n + 2) // 3 * 4):
        return
    w = out.p + out.n
    out.n += (n + 2) // 3 * 4
    while n:
        v = <uint32_t>p[0] << 16
        if n > 1:
            v |= <uint32_t>p[1] << 8
        if n > 2:
            v |= p[2]
        w[0] = BASE64[v >> 18]
        w[1] = BASE64[(v >> 12) & 63]
        w[2] = BASE64[(v >> 6) & 63] if n > 1 else 61
        w[3] = BASE64[v & 63] if n > 2 else 61
        w += 4
        if n <= 3:
            break
        p += 3
        n -= 3


cdef void put_double_slowly(Buf *out, double v) noexcept with gil:
    cdef char *text
    try:
        text = PyOS_double_to_string(v, b"r", 0, Py_DTSF_ADD_DOT_0, NULL)
    except MemoryError:
        out.failed = True
        return
    for i in range(32):
        if text[i] == 0:
            break
        buf_byte(out, <uint8_t>text[i])
    PyMem_Free(text)


cdef void put_double(Buf *out, double v) noexcept nogil:
    """The shortest decimal that reads back as v; the special values as strings (protobuf's JSON mapping)."""
    cdef int64_t scaled
    cdef uint32_t digit = 100000
    cdef uint32_t fraction
    if v != v:
        buf_put(out, b'"NaN"', 5)
    elif v - v != 0:
        buf_put(out, b'"Infinity"' if v > 0 else b'"-Infinity"', 10 if v > 0 else 11)
    elif -1e9 < v <= -1e-6:
        buf_byte(out, 45)
        put_double(out, -v)
    elif v == 0:
        buf_put(out, b"0" if copysign(1, v) > 0 else b"-0", 1 if copysign(1, v) > 0 else 2)
    elif 1e-6 <= v < 1e9:
        # with at most 15 digits in all, a decimal that reads back as v is the only one: no search for the shortest is needed
        scaled = <int64_t>(v * 1e6 + 0.5)
        if <double>scaled / 1e6 != v:
            put_double_slowly(out, v)
            return
        if buf_reserve(out, 2 * DIGITS_MAX):
            fraction = <uint32_t>(scaled % 1000000)
            out.n += put_u64(out.p + out.n, <uint64_t>(scaled // 1000000))
            if fraction:
                buf_byte(out, 46)
            while fraction:
                buf_byte(out, <uint8_t>(48 + fraction // digit))
                fraction = fraction % digit
                digit = digit // 10 if digit > 1 else 1
    else:
        put_double_slowly(out, v)


cdef inline void put_number(Buf *out, int64_t v, bint is_unsigned, bint quoted) noexcept nogil:
    cdef uint8_t *w
    if not buf_reserve(out, DIGITS_MAX + 2):
        return
    w = out.p + out.n
    if quoted:
        w[0] = 34
        w += 1
    w += put_u64(w, <uint64_t>v) if is_unsigned else put_i64(w, v)
    if quoted:
        w[0] = 34
        w += 1
    out.n = w - out.p


cdef inline bint is_default(const Field *f, const Reader *r) noexcept nogil:
    cdef size_t i
    if f.kind == STRING or f.kind == BYTES:
        return r.n == 0
    if f.kind == ID:
        for i in range(r.n):
            if r.data[i]:
                return False
        return True
    if f.kind == MESSAGE:
        return False
    if f.kind == UINT32 or f.kind == INT32:
        return <uint32_t>r.value == 0            # protobuf cuts a longer varint to the field's width
    return r.value == 0


cdef int put_value(Walk *k, const Field *f, const Reader *r, uint32_t depth) noexcept nogil:
    cdef Buf *out = &k.out
    cdef double real
    if f.kind == STRING:
        buf_byte(out, 34)
        # one call takes lengths of 32 bits: a request of 4 GiB is refused at the door
        json_chars(out, slice_of(r.data, <uint32_t>r.n))
        buf_byte(out, 34)
    elif f.kind == ID:
        if buf_reserve(out, 2 * r.n + 2):
            out.p[out.n] = 34
            out.n += 1 + put_hex(out.p + out.n + 1, r.data, <uint32_t>r.n)
            out.p[out.n] = 34
            out.n += 1
    elif f.kind == BYTES:
        buf_byte(out, 34)
        put_base64(out, r.data, r.n)
        buf_byte(out, 34)
    elif f.kind == FIXED64:
        put_number(out, <int64_t>r.value, True, True)
    elif f.kind == INT64:
        put_number(out, <int64_t>r.value, False, True)
    elif f.kind == FIXED32 or f.kind == UINT32:
        put_number(out, <uint32_t>r.value, True, False)
    elif f.kind == INT32:
        put_number(out, <int32_t>r.value, False, False)
    elif f.kind == BOOL:
        if r.value:
            buf_put(out, b"true", 4)
        else:
            buf_put(out, b"false", 5)
    elif f.kind == DOUBLE:
        memcpy(&real, &r.value, 8)
        put_double(out, real)
    else:
        return put_message(k, f.message, r.data, r.n, depth + 1)
    return 0


cdef int put_array(Walk *k, uint32_t number, const Field *f, Reader *r, uint32_t depth) noexcept nogil:
    """All elements of a repeated field between r.p and r.end."""
    cdef bint first = True
    buf_byte(&k.out, 91)
    while r.p < r.end:
        if read_field(k, r) < 0:
            return -1
        if r.number != number or r.wire_type != f.wire_type:
            continue
        if not first:
            buf_byte(&k.out, 44)
        first = False
        if put_value(k, f, r, depth) < 0:
            return -1
    buf_byte(&k.out, 93)
    return 0


cdef int put_message(Walk *k, int which, const uint8_t *p, size_t n, uint32_t depth) noexcept nogil:
    cdef const Schema *s = &otlp_schemas[which]
    cdef const Field *f
    cdef const uint8_t *first[FIELDS_MAX]        # NULL: the field is not there
    cdef const uint8_t *last[FIELDS_MAX]
    cdef const uint8_t *stop[FIELDS_MAX]         # end of the last one
    cdef uint32_t numbers[FIELDS_MAX]
    cdef const uint8_t *at
    cdef uint32_t slot
    cdef int chosen = -1                         # field of the oneof that counts
    cdef bint any_field = False
    cdef Reader r
    if depth > NESTING_MAX:
        return refuse(k, p, b"messages are nested too deeply")
    memset(first, 0, s.n * sizeof(first[0]))
    r.p = p
    r.end = p + n
    while r.p < r.end:
        at = r.p
        if read_field(k, &r) < 0:
            return -1
        slot = s.slot[r.number] if r.number < 32 else 0
        if slot == 0 or s.fields[slot - 1].wire_type != r.wire_type:
            continue                             # unknown, as a newer protocol may have
        slot -= 1
        if first[slot] == NULL:
            first[slot] = at
        last[slot] = at
        stop[slot] = r.p
        numbers[slot] = r.number
        if s.fields[slot].rule == ONE_OF:
            chosen = <int>slot
    buf_byte(&k.out, 123)
    for slot in range(s.n):
        f = &s.fields[slot]
        if first[slot] == NULL:
            if f.rule != ALWAYS:
                continue
        elif f.rule == ONE_OF and chosen != <int>slot:
            continue
        else:
            r.p = first[slot] if f.rule == REPEATED else last[slot]
            r.end = stop[slot]
            if f.rule != REPEATED:
                if read_field(k, &r) < 0:
                    return -1
                if f.rule == PLAIN and is_default(f, &r):
                    continue
        if not buf_reserve(&k.out, NAME_MAX + 1):
            return -1
        if any_field:
            k.out.p[k.out.n] = 44
            k.out.n += 1
        any_field = True
        memcpy(k.out.p + k.out.n, f.name, NAME_MAX)      # the room is reserved: cheaper than its exact length
        k.out.n += f.name_n
        if first[slot] == NULL:
            buf_put(&k.out, b"{}", 2)
        elif f.rule == REPEATED:
            if put_array(k, numbers[slot], f, &r, depth) < 0:
                return -1
        elif put_value(k, f, &r, depth) < 0:
            return -1
    buf_byte(&k.out, 125)
    return -1 if k.out.failed else 0


cdef bytes convert(Message which, bytes request):
    cdef Walk k
    cdef const char *data = request
    cdef size_t n = len(request)
    cdef int status
    if n > 0x7FFFFFFF:
        raise ValueError(f"an OTLP request of {n} bytes is larger than protobuf allows (2 GiB): send smaller batches")
    memset(&k, 0, sizeof(k))
    k.begin = <const uint8_t *>data
    try:
        with nogil:
            status = put_message(&k, which, k.begin, n, 0)
        if status < 0 and k.why != NULL:
            raise ValueError(f"malformed OTLP message at byte {k.bad - k.begin} of {n}: {k.why.decode()}")
        if status < 0:
            raise MemoryError(f"no memory for the JSON form of an OTLP request of {n} bytes")
        return PyBytes_FromStringAndSize(<char *>k.out.p, k.out.n)
    finally:
        buf_free(&k.out)


def traces_json(bytes request not None):
    """An encoded ExportTraceServiceRequest as one line of OTLP JSON, without the line break."""
    return convert(TRACES, request)


def logs_json(bytes request not None):
    """An encoded ExportLogsServiceRequest as one line of OTLP JSON, without the line break."""
    return convert(LOGS, request)
