# cython: language_level=3, boundscheck=True, wraparound=False
"""DNS names and the IANA registries' words, for proto.dns.

Names: RFC 1035 sections 3.1, 4.1.4 (compression) and 5.1 (presentation form), RFC 4343 (case). A compression
pointer must point before the labels that it ends, so that a chain of them gets shorter each time and ends.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, strlen

from zerospan.exporter.proto.cursor cimport (
    Cursor, Slice, cur_init, cur_skip, cur_take, cur_u8, slice_of,
)

cdef struct Word:
    uint16_t id
    const char *text

cdef Word[64] TYPES
cdef Word[32] RCODES
cdef uint32_t TYPES_N = 0
cdef uint32_t RCODES_N = 0


cdef void add_type(uint16_t id, const char *text) noexcept:
    global TYPES_N
    TYPES[TYPES_N].id = id
    TYPES[TYPES_N].text = text
    TYPES_N += 1


cdef void add_rcode(uint16_t id, const char *text) noexcept:
    global RCODES_N
    RCODES[RCODES_N].id = id
    RCODES[RCODES_N].text = text
    RCODES_N += 1


# The commonest first: they are found by walking.
add_type(1, "A")
add_type(28, "AAAA")
add_type(65, "HTTPS")
add_type(33, "SRV")
add_type(12, "PTR")
add_type(16, "TXT")
add_type(5, "CNAME")
add_type(15, "MX")
add_type(2, "NS")
add_type(6, "SOA")
add_type(255, "ANY")
add_type(41, "OPT")
add_type(64, "SVCB")
add_type(35, "NAPTR")
add_type(43, "DS")
add_type(46, "RRSIG")
add_type(47, "NSEC")
add_type(48, "DNSKEY")
add_type(50, "NSEC3")
add_type(51, "NSEC3PARAM")
add_type(52, "TLSA")
add_type(257, "CAA")
add_type(252, "AXFR")
add_type(251, "IXFR")
add_type(13, "HINFO")
add_type(14, "MINFO")
add_type(10, "NULL")
add_type(11, "WKS")
add_type(17, "RP")
add_type(18, "AFSDB")
add_type(24, "SIG")
add_type(25, "KEY")
add_type(29, "LOC")
add_type(36, "KX")
add_type(37, "CERT")
add_type(39, "DNAME")
add_type(42, "APL")
add_type(44, "SSHFP")
add_type(45, "IPSECKEY")
add_type(49, "DHCID")
add_type(53, "SMIMEA")
add_type(55, "HIP")
add_type(59, "CDS")
add_type(60, "CDNSKEY")
add_type(61, "OPENPGPKEY")
add_type(62, "CSYNC")
add_type(63, "ZONEMD")
add_type(99, "SPF")
add_type(108, "EUI48")
add_type(109, "EUI64")
add_type(249, "TKEY")
add_type(250, "TSIG")
add_type(256, "URI")

add_rcode(0, "NOERROR")
add_rcode(1, "FORMERR")
add_rcode(2, "SERVFAIL")
add_rcode(3, "NXDOMAIN")
add_rcode(4, "NOTIMP")
add_rcode(5, "REFUSED")
add_rcode(6, "YXDOMAIN")
add_rcode(7, "YXRRSET")
add_rcode(8, "NXRRSET")
add_rcode(9, "NOTAUTH")
add_rcode(10, "NOTZONE")
add_rcode(11, "DSOTYPENI")
add_rcode(16, "BADVERS")
add_rcode(17, "BADKEY")
add_rcode(18, "BADTIME")
add_rcode(19, "BADMODE")
add_rcode(20, "BADNAME")
add_rcode(21, "BADALG")
add_rcode(22, "BADTRUNC")
add_rcode(23, "BADCOOKIE")


cdef uint32_t put_number(uint8_t *room, uint32_t n, uint32_t value) noexcept nogil:
    """Appends a decimal number of at most five digits; returns the new length."""
    cdef uint8_t digits[5]
    cdef uint32_t k = 0
    while k < 5:
        digits[k] = <uint8_t>(48 + value % 10)
        value //= 10
        k += 1
        if value == 0:
            break
    while k:
        k -= 1
        room[n] = digits[k]
        n += 1
    return n


cdef Slice word_text(const Word *words, uint32_t count, uint16_t id, const char *prefix,
                     uint8_t *room) noexcept nogil:
    cdef uint32_t i, n
    for i in range(count):
        if words[i].id == id:
            return slice_of(<const uint8_t *>words[i].text, <uint32_t>strlen(words[i].text))
    n = <uint32_t>strlen(prefix)
    memcpy(room, prefix, n)
    return slice_of(room, put_number(room, n, id))


cdef Slice type_text(uint16_t type, uint8_t *room) noexcept nogil:
    return word_text(TYPES, TYPES_N, type, "TYPE", room)


cdef Slice rcode_text(uint16_t rcode, uint8_t *room) noexcept nogil:
    return word_text(RCODES, RCODES_N, rcode, "RCODE", room)


cdef bint type_known(uint16_t type) noexcept nogil:
    cdef uint32_t i
    for i in range(TYPES_N):
        if TYPES[i].id == type:
            return True
    return False


cdef bint name_skip(Cursor *c) noexcept nogil:
    cdef uint32_t total = 0
    cdef uint8_t n
    while True:
        n = cur_u8(c)
        if not c.ok:
            return False
        if n == 0:
            return True
        if n & 0xC0 == 0xC0:
            cur_u8(c)
            return c.ok
        total += n + 1
        if n & 0xC0 or total > 254:
            return False
        if not cur_skip(c, n):
            return False


cdef uint32_t put_label(uint8_t *out, uint32_t n, Slice label) noexcept nogil:
    """Appends a label: lower case, \\ before a dot or a backslash, \\DDD for what is not printable."""
    cdef uint32_t i
    cdef uint8_t c
    for i in range(label.n):
        c = label.p[i]
        if 65 <= c <= 90:
            c += 32
        if c == 46 or c == 92:
            out[n] = 92
            n += 1
        elif c <= 32 or c >= 127:
            out[n] = 92
            out[n + 1] = 48 + c // 100
            out[n + 2] = 48 + c // 10 % 10
            c = 48 + c % 10
            n += 3
        out[n] = c
        n += 1
    return n


cdef int name_text(Slice message, uint32_t at, uint8_t *out) noexcept nogil:
    """At most 255 bytes of labels, so that DNS_NAME_MAX is never passed. The root is "."."""
    cdef Cursor c
    cdef uint32_t n = 0, total = 0, begin = at, to
    cdef uint8_t size
    if at > message.n:
        return -1
    cur_init(&c, message.p + at, message.n - at)
    while True:
        size = cur_u8(&c)
        if not c.ok:
            return -1
        if size == 0:
            break
        if size & 0xC0 == 0xC0:
            to = (<uint32_t>size & 0x3F) << 8 | cur_u8(&c)
            if not c.ok or to >= begin:
                return -1
            begin = to
            cur_init(&c, message.p + to, message.n - to)
            continue
        total += size + 1
        if size & 0xC0 or total > 254:
            return -1
        if n:
            out[n] = 46
            n += 1
        n = put_label(out, n, cur_take(&c, size))
        if not c.ok:
            return -1
    if n == 0:
        out[0] = 46
        n = 1
    return <int>n
