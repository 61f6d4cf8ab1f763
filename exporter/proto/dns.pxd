"""The DNS parser. See dns.pyx."""

from zerospan.exporter.proto.base cimport ProtoOps

cdef const ProtoOps *dns_ops() noexcept
