# cython: language_level=3, boundscheck=True, wraparound=False
"""Spans of network interfaces and the shares of a call's time as attributes; see points.pxd. Called by otlp.pyx.

OpenTelemetry's names where there are any (network.interface.name, network.type, source.*, destination.*). Source is the end that
sent the request, as the packets at this point have it: behind NAT not what the processes' spans say.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport strlen

from zerospan.exporter.abi.events cimport (
    ZS_TUNNEL_GENEVE, ZS_TUNNEL_GRE, ZS_TUNNEL_IPIP, ZS_TUNNEL_NONE, ZS_TUNNEL_VXLAN,
)
from zerospan.exporter.assemble.nic_part cimport (
    NIC_BY_SEQUENCE, NIC_END_UNKNOWN, NicPart, nic_part, outer_addresses,
)
from zerospan.exporter.assemble.span cimport LINK_ISN, SpanContext, SpanRec
from zerospan.exporter.encode.attributes cimport (
    ATTR_DESTINATION_ADDRESS, ATTR_DESTINATION_PORT, ATTR_HOP, ATTR_INTERFACE_KIND, ATTR_INTERFACE_MAC, ATTR_INTERFACE_NAME,
    ATTR_LINK_METHOD, ATTR_NETNS, ATTR_NETWORK_TYPE, ATTR_POINT, ATTR_REQUEST_BYTES, ATTR_REQUEST_KEY, ATTR_REQUEST_PACKETS,
    ATTR_RESPONSE_BYTES, ATTR_RESPONSE_PACKETS, ATTR_SOURCE_ADDRESS, ATTR_SOURCE_PORT, ATTR_TCP_RETRANSMITS,
    ATTR_TIME_TO_FIRST_BYTE, ATTR_TUNNEL_DESTINATION, ATTR_TUNNEL_ID, ATTR_TUNNEL_SOURCE, ATTR_TUNNEL_TYPE, ATTR_VLAN_ID,
    CONST_CONFIDENCE, CONST_LINK, CONST_TCP,
)
from zerospan.exporter.encode.buf cimport buf_put
from zerospan.exporter.encode.digits cimport ADDRESS_MAX, DIGITS_MAX, put_address, put_hex64
from zerospan.exporter.encode.fields cimport Fields, field_const, field_int, field_text
from zerospan.exporter.encode.text cimport text_copy
from zerospan.exporter.link.hops cimport HOP_MAX
from zerospan.exporter.proto.cursor cimport Slice, slice_of

cdef enum:
    AF_INET = 2
    AF_INET6 = 10

cdef const char *POINTS[8]
POINTS[:] = [
    b"", b"client.process", b"client.pod", b"client.node", b"server.node", b"server.pod", b"server.process", b"gateway.node",
]


cdef inline Slice literal(const char *text) noexcept nogil:
    return slice_of(<const uint8_t *>text, <uint32_t>strlen(text))


cdef Slice tunnel_type(uint8_t tunnel) noexcept nogil:
    """Lower case, as OpenTelemetry writes network.type and network.transport."""
    if tunnel == ZS_TUNNEL_VXLAN:
        return literal(b"vxlan")
    if tunnel == ZS_TUNNEL_GENEVE:
        return literal(b"geneve")
    if tunnel == ZS_TUNNEL_GRE:
        return literal(b"gre")
    if tunnel == ZS_TUNNEL_IPIP:
        return literal(b"ipip")
    return literal(b"other")


cdef void address(Fields *f, int attr, uint8_t family, const uint8_t *p) noexcept nogil:
    cdef uint8_t text[ADDRESS_MAX]
    field_text(f, attr, slice_of(text, put_address(text, family, p)))


cdef uint32_t point_name(const SpanContext *c, uint8_t *out, uint32_t cap) noexcept nogil:
    cdef uint32_t n = text_copy(out, cap, literal(POINTS[c.point & 7]))
    if c.nic.name.n and n + 1 < cap:
        out[n] = 32
        n += 1
        n += text_copy(out + n, cap - n, c.nic.name)
    return n


cdef void own_fields(Fields *f, const SpanContext *c) noexcept nogil:
    """Whose the interface is, where it is a pod's."""
    if c.who != NULL:
        buf_put(f.out, c.who.own.p, c.who.own.n)


cdef void point_fields(Fields *f, const SpanRec *r, const SpanContext *c) noexcept nogil:
    cdef const NicPart *part = nic_part(r)
    cdef uint8_t hex[DIGITS_MAX]
    cdef const uint8_t *outer
    field_const(f, CONST_TCP)
    if r.family == AF_INET:
        field_text(f, ATTR_NETWORK_TYPE, literal(b"ipv4"))
    elif r.family == AF_INET6:
        field_text(f, ATTR_NETWORK_TYPE, literal(b"ipv6"))
    field_text(f, ATTR_POINT, literal(POINTS[c.point & 7]))
    field_text(f, ATTR_INTERFACE_NAME, c.nic.name)
    field_text(f, ATTR_NETNS, c.nic.netns)
    field_text(f, ATTR_INTERFACE_MAC, c.nic.mac)
    field_text(f, ATTR_INTERFACE_KIND, c.nic.kind)
    own_fields(f, c)
    if part.vlan:
        field_int(f, ATTR_VLAN_ID, part.vlan & 0xFFF)
    if part.tunnel != ZS_TUNNEL_NONE:
        field_text(f, ATTR_TUNNEL_TYPE, tunnel_type(part.tunnel))
        if part.tunnel != ZS_TUNNEL_IPIP:
            field_int(f, ATTR_TUNNEL_ID, part.tunnel_id)
    if part.outer_family:
        outer = outer_addresses(r)
        address(f, ATTR_TUNNEL_SOURCE, part.outer_family, outer)
        address(f, ATTR_TUNNEL_DESTINATION, part.outer_family, outer + 16)
    address(f, ATTR_SOURCE_ADDRESS, r.family, <const uint8_t *>r.local_addr)
    field_int(f, ATTR_SOURCE_PORT, r.local_port)
    address(f, ATTR_DESTINATION_ADDRESS, r.family, <const uint8_t *>r.remote_addr)
    field_int(f, ATTR_DESTINATION_PORT, r.remote_port)
    field_int(f, ATTR_REQUEST_PACKETS, part.request_packets)
    field_int(f, ATTR_REQUEST_BYTES, <int64_t>part.request_bytes)
    if not part.flags & NIC_END_UNKNOWN:
        field_int(f, ATTR_RESPONSE_PACKETS, part.response_packets)
        field_int(f, ATTR_RESPONSE_BYTES, <int64_t>part.response_bytes)
    field_int(f, ATTR_TCP_RETRANSMITS, part.retransmits)
    if r.first_ns > r.start_ns:
        field_int(f, ATTR_TIME_TO_FIRST_BYTE, <int64_t>(r.first_ns - r.start_ns))
    field_text(f, ATTR_REQUEST_KEY, slice_of(hex, put_hex64(hex, r.key)))
    if part.flags & NIC_BY_SEQUENCE:
        field_text(f, ATTR_LINK_METHOD, literal(b"tcp_seq"))
    else:
        field_const(f, CONST_LINK + LINK_ISN)
    field_const(f, CONST_CONFIDENCE + LINK_ISN)


cdef void hop_fields(Fields *f, const SpanContext *c) noexcept nogil:
    cdef int i
    for i in range(HOP_MAX):
        if c.hops >> i & 1:
            field_int(f, ATTR_HOP + i, c.hop[i])
