"""The toy parser of CONTRIBUTING.md. See toy.pyx."""

from zerospan.exporter.proto.base cimport ProtoOps

cdef const ProtoOps *toy_ops() noexcept
