# cython: language_level=3, boundscheck=False, wraparound=False
"""Keys: what tags are looked up by. A key is bytes: one letter for its kind, then the thing itself, small.

Made by sources and faces, compared by the store, sent as they are by the tag service (wire/tags.proto): so they mean
the same on every machine. Compiled: each object that Kubernetes tells of costs some.
"""

import ipaddress

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcmp, memcpy

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef extern from "arpa/inet.h" nogil:
    int inet_pton(int family, const char* text, void* into)
    enum:
        AF_INET, AF_INET6

ADDRESS = b"a"  # 16 bytes, network order; IPv4 is v4-mapped (RFC 4291, 2.5.5.2)
ENDPOINT = b"e"  # an address, the port (2 bytes, big-endian) and the IP protocol (1 byte): node ports, host ports
CONTAINER = b"c"  # container id: 32 bytes where it is 64 hexadecimal digits, else its text
POD = b"u"  # pod uid: 16 bytes where it is a UUID, else its text
NODE = b"n"  # the node's (host's) name, UTF-8
PROCESS = b"p"  # node's name, a NUL, pid in decimal digits
CONNECTION = (
    b"f"  # both ends of one connection as one end sees it: own address and port, peer's, IP protocol (37 bytes)
)

TCP, UDP = 6, 17
cdef bytes _MAPPED = bytes(10) + b"\xff\xff"


cdef bytes _packed(str text, const char* kind):
    """The kind's letter, where there is one, and the 16 bytes."""
    cdef Py_ssize_t size
    cdef uint8_t out[17]
    cdef uint8_t* at = out + 1
    cdef const char* c = PyUnicode_AsUTF8AndSize(text, &size)
    out[0] = <uint8_t>kind[0]
    if memchr(c, 0, size) == NULL:
        memcpy(at, <const char*>_MAPPED, 12)
        if inet_pton(AF_INET, c, at + 12) == 1:
            return out[:17] if kind[0] else at[:16]
        if memchr(c, c"%", size) != NULL and memchr(c, c":", size) != NULL:
            return _packed(text.partition("%")[0], kind)  # a zone
        if inet_pton(AF_INET6, c, at) == 1:
            return out[:17] if kind[0] else at[:16]
    raise ValueError(f"no IP address: {text!r}")


cdef int _digit(char c) noexcept nogil:
    """The value of a lower-case hexadecimal digit, -1 for anything else."""
    if c"0" <= c <= c"9":
        return c - c"0"
    if c"a" <= c <= c"f":
        return c - c"a" + 10
    return -1


cdef Py_ssize_t _hex(const char* text, Py_ssize_t size, uint8_t* into, bint dashed) noexcept nogil:
    """Reads hexadecimal digits. dashed: with "-" or "_" where a UUID has them. Returns the bytes, -1 for other text."""
    cdef Py_ssize_t i, n = 0
    cdef int digit
    for i in range(size):
        if dashed and (i == 8 or i == 13 or i == 18 or i == 23):
            if text[i] != c"-" and text[i] != c"_":
                return -1
            continue
        digit = _digit(text[i])
        if digit < 0:
            return -1
        if n & 1:
            into[n >> 1] |= <uint8_t>digit
        else:
            into[n >> 1] = <uint8_t>(digit << 4)
        n += 1
    return n >> 1


def packed(str text not None):
    return _packed(text, b"")


def packed_v4(bytes address not None):
    return _MAPPED + address


def unpacked(bytes address not None):
    if address.startswith(_MAPPED):
        return str(ipaddress.IPv4Address(address[12:]))
    return str(ipaddress.IPv6Address(address))


cpdef bytes address(str text):
    return _packed(text, b"a")


def endpoint(str text not None, port, protocol=TCP):
    return _packed(text, b"e") + port.to_bytes(2, "big") + bytes((protocol,))


cpdef bytes container(str container_id):
    cdef Py_ssize_t size
    cdef uint8_t out[33]
    cdef const char* c = PyUnicode_AsUTF8AndSize(container_id, &size)
    if size > 66 and memcmp(c + size - 67, b"://", 3) == 0:  # the runtime's prefix
        c += size - 64
        size = 64
    if size == 64 and _hex(c, size, out + 1, False) == 32:
        out[0] = c"c"
        return out[:33]
    return CONTAINER + container_id.rpartition("://")[2].encode()


cpdef bytes pod(str uid):
    cdef Py_ssize_t size
    cdef uint8_t out[17]
    cdef const char* c = PyUnicode_AsUTF8AndSize(uid, &size)
    if size == 36 and _hex(c, size, out + 1, True) == 16:
        out[0] = c"u"
        return out[:17]
    return POD + uid.replace("_", "-").encode()


def node(name):
    return NODE + name.encode()


def process(node_name, pid):
    return PROCESS + node_name.encode() + b"\0" + str(pid).encode()


def connection(own, port, peer, peer_port, protocol=TCP):
    ends = packed(own) + port.to_bytes(2, "big") + packed(peer) + peer_port.to_bytes(2, "big")
    return CONNECTION + ends + bytes((protocol,))


def show(bytes key not None):
    kind, rest = key[:1], key[1:]
    if kind == ADDRESS and len(rest) == 16:
        return f"address {unpacked(rest)}"
    if kind == ENDPOINT and len(rest) == 19:
        protocol = {TCP: "tcp", UDP: "udp"}.get(rest[18], str(rest[18]))
        return f"endpoint {unpacked(rest[:16])}:{int.from_bytes(rest[16:18], 'big')}/{protocol}"
    if kind == CONNECTION and len(rest) == 37:
        ends = (f"{unpacked(rest[at : at + 16])}:{int.from_bytes(rest[at + 16 : at + 18], 'big')}" for at in (0, 18))
        return "connection " + " -> ".join(ends)
    if kind == CONTAINER:
        return f"container {rest.hex() if len(rest) == 32 else rest.decode('utf-8', 'replace')}"
    if kind == POD:
        return f"pod {rest.hex() if len(rest) == 16 else rest.decode('utf-8', 'replace')}"
    if kind == NODE:
        return f"node {rest.decode('utf-8', 'replace')}"
    if kind == PROCESS:
        return "process " + rest.decode("utf-8", "replace").replace("\0", " ")
    return f"key {key.hex()}"
