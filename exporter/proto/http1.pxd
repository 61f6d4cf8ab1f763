"""The HTTP/1.0 and 1.1 parser. See http1.pyx."""

from zerospan.exporter.proto.base cimport ProtoOps

cdef const ProtoOps *http1_ops() noexcept
