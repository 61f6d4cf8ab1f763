"""What only the span of a network interface needs. It stands at the end of the SpanRec's block, behind the strings, so that
spans of processes are no larger for it.

Of a KIND_INTERNAL SpanRec `local` is the end that sent the request, `remote` the other, as they are seen there (NAT, tunnels);
first_ns is the first packet of the answer. The outer addresses of a tunnel, 16 bytes each, stand before the part.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from zerospan.exporter.assemble.span cimport SpanRec

cdef enum NicFlags:
    NIC_EGRESS = 1 << 0      # the request left by the interface
    NIC_BY_SEQUENCE = 1 << 1 # K was found by the sequence numbers of request and answer, not by the initial ones
    NIC_END_UNKNOWN = 1 << 2 # nothing told of the end of the answer: it is that of a process, and no sizes of it are known

cdef struct NicPart:
    uint64_t request_bytes
    uint64_t response_bytes
    uint32_t interface       # index into Interfaces
    uint32_t request_packets
    uint32_t response_packets
    uint32_t retransmits
    uint32_t tunnel_id
    uint16_t vlan
    uint8_t tunnel           # ZS_TUNNEL_
    uint8_t outer_family     # 0: no outer addresses
    uint8_t flags            # NicFlags
    uint8_t pad[7]

cdef enum:
    OUTER = 32               # bytes of the outer addresses

cdef inline NicPart *nic_part(const SpanRec *r) noexcept nogil:
    return <NicPart *>(<uint8_t *>r + r.size - sizeof(NicPart))

cdef inline const uint8_t *outer_addresses(const SpanRec *r) noexcept nogil:
    """Of the request's packets: source, destination."""
    return <const uint8_t *>r + r.size - sizeof(NicPart) - OUTER
