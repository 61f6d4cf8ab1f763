# cython: language_level=3, boundscheck=True, wraparound=False
"""Values that agents exchange; see shared_codec.pxd. encode() and decode() are for tests and tools."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from zerospan.exporter.assemble.span cimport LINK_MAX
from zerospan.exporter.link.ids cimport POINT_GATEWAY_NODE, get_be64, put_be64
from zerospan.exporter.proto.cursor cimport Cursor, Slice, cur_init, cur_skip, cur_u8, slice_of

cdef enum:
    AF_INET = 2
    AF_INET6 = 10
    WIRE_LAST = 4            # proto.base.WireContext

cdef const char *HEX = b"0123456789abcdef"
cdef const char *PREFIX = b"zs1:"


cdef void note_key(uint64_t key, uint8_t end, uint8_t *out) noexcept nogil:
    cdef int i
    memcpy(out, PREFIX, 4)
    out[4] = end
    out[5] = 0x3A
    for i in range(16):
        out[6 + i] = HEX[(key >> (60 - 4 * i)) & 15]


cdef bint of_an_agent(Slice command) noexcept nogil:
    cdef uint32_t at = 4 if command.n > 4 and command.p[3] == 0x20 else 5
    return command.n >= at + 6 and command.p[at - 1] == 0x20 and memcmp(command.p + at, PREFIX, 4) == 0 \
        and (command.p[at + 4] == END_CLIENT or command.p[at + 4] == END_SERVER or command.p[at + 4] == END_TRACE) \
        and command.p[at + 5] == 0x3A


cdef uint32_t note_encode(const Note *note, uint8_t *out) noexcept nogil:
    cdef uint32_t name_n = note.name.n if note.name.n <= NAME_MAX else NAME_MAX
    cdef uint32_t i, points = note.points.n if note.points.n <= POINTS_MAX else POINTS_MAX
    cdef uint8_t *w = out + VALUE_HEAD
    while 0 < name_n < note.name.n and (note.name.p[name_n] & 0xC0) == 0x80:
        name_n -= 1                              # not within a character
    out[0] = VERSION
    out[1] = note.end
    out[2] = note.flags
    out[3] = note.method
    out[4] = note.trace_flags
    out[5] = note.wire
    out[6] = <uint8_t>points
    out[7] = <uint8_t>name_n
    put_be64(out + 8, note.key)
    put_be64(out + 16, note.up)
    if note.flags & NOTE_NAMED:
        memcpy(w, note.trace_id, 16)
        w += 16
        if note.flags & NOTE_OMITTED:
            put_be64(w, note.parent)
            w += 8
    if note.flags & NOTE_ADDRESS:
        w[0] = note.address.family
        w[1] = <uint8_t>(note.address.port >> 8)
        w[2] = <uint8_t>note.address.port
        memcpy(w + 3, note.address.addr, 16)
        w += ADDRESS_BYTES
    if name_n:
        memcpy(w, note.name.p, name_n)
        w += name_n
    for i in range(points):
        w[0] = note.points.point[i]
        put_be64(w + 1, note.points.ns[i])
        w += 9
    return <uint32_t>(w - out)


cdef bint note_decode(const uint8_t *p, uint32_t n, uint64_t key, uint8_t end, Note *note) noexcept nogil:
    cdef Cursor c
    cdef uint32_t i
    cdef uint8_t any_bit = 0
    cdef uint8_t head[8]
    memset(note, 0, sizeof(Note))
    cur_init(&c, p, n)
    for i in range(8):
        head[i] = cur_u8(&c)
    if not c.ok or head[0] != VERSION or head[1] != end or head[6] > POINTS_MAX:
        return False
    note.end = end
    note.flags = head[2]
    note.method = head[3] if head[3] < LINK_MAX else 0
    note.trace_flags = head[4] & 1
    note.wire = head[5]
    note.points.n = head[6]
    if c.left < 16:
        return False
    note.key = get_be64(c.p)
    note.up = get_be64(c.p + 8)
    cur_skip(&c, 16)
    if note.key != key or note.up == key:
        return False
    if note.flags & NOTE_NAMED:
        if c.left < 16 or note.wire == 0 or note.wire > WIRE_LAST:
            return False
        memcpy(note.trace_id, c.p, 16)
        for i in range(16):
            any_bit |= note.trace_id[i]
        if any_bit == 0:
            return False
        cur_skip(&c, 16)
        if note.flags & NOTE_OMITTED:
            if c.left < 8:
                return False
            note.parent = get_be64(c.p)
            cur_skip(&c, 8)
    else:
        note.wire = 0
        note.flags &= ~<uint8_t>NOTE_OMITTED
    if note.flags & NOTE_ADDRESS:
        if c.left < ADDRESS_BYTES or (c.p[0] != AF_INET and c.p[0] != AF_INET6):
            return False
        note.address.family = c.p[0]
        note.address.port = (<uint16_t>c.p[1] << 8) | c.p[2]
        memcpy(note.address.addr, c.p + 3, 16)
        cur_skip(&c, ADDRESS_BYTES)
    note.name = slice_of(c.p, head[7])
    if not cur_skip(&c, head[7]):
        return False
    for i in range(note.points.n):
        note.points.point[i] = cur_u8(&c)
        if c.left < 8 or note.points.point[i] == 0 or note.points.point[i] > POINT_GATEWAY_NODE:
            return False
        note.points.ns[i] = get_be64(c.p)
        cur_skip(&c, 8)
        if note.points.ns[i] >> 62:
            return False
    return c.ok and c.left == 0


def encode(end, key, up=0, flags=0, method=0, wire=0, trace_flags=0, trace_id=bytes(16), parent=0, name=b"", points=(),
           address=None):
    """The value of a request's end ("c" or "s"), or of a root ("t"). points: (point, ns) pairs. address: (4 or 16 bytes, port).
    """
    cdef Note note
    cdef uint8_t out[VALUE_MAX]
    cdef const uint8_t[::1] text = name if name else b"\0"
    memset(&note, 0, sizeof(Note))
    note.key = key
    note.up = up
    note.end = ord(end)
    note.flags = flags
    note.method = method
    note.wire = wire
    note.trace_flags = trace_flags
    for i in range(16):
        note.trace_id[i] = trace_id[i]
    note.parent = parent
    note.name = slice_of(&text[0], len(name))
    if address is not None:
        note.flags |= NOTE_ADDRESS
        note.address.family = AF_INET if len(address[0]) == 4 else AF_INET6
        note.address.port = address[1]
        for i, byte in enumerate(address[0]):
            note.address.addr[<int>i] = byte
    for point, ns in points:
        note.points.point[note.points.n] = point
        note.points.ns[note.points.n] = ns
        note.points.n += 1
    return (<char *>out)[:note_encode(&note, out)]


def decode(bytes value, end, key):
    """The value as a dict, or None if it is none that was stored under this key."""
    cdef Note note
    cdef const char *p = value
    if not note_decode(<const uint8_t *>p, <uint32_t>len(value), key, ord(end), &note):
        return None
    return {"up": note.up, "flags": note.flags, "method": note.method, "wire": note.wire, "trace_flags": note.trace_flags,
            "trace_id": (<char *>note.trace_id)[:16], "parent": note.parent, "name": (<const char *>note.name.p)[:note.name.n],
            **({"address": ((<char *>note.address.addr)[:4 if note.address.family == AF_INET else 16], note.address.port)}
               if note.flags & NOTE_ADDRESS else {}),
            "points": [(note.points.point[i], note.points.ns[i]) for i in range(note.points.n)]}


def stored_as(key, end):
    """The key in Redis."""
    cdef uint8_t out[KEY_CHARS]
    note_key(key, ord(end), out)
    return (<char *>out)[:KEY_CHARS]


def is_agents(bytes command):
    """Whether a Redis command is one of an agent; see of_an_agent()."""
    cdef const char *p = command
    return of_an_agent(slice_of(<const uint8_t *>p, <uint32_t>len(command)))
