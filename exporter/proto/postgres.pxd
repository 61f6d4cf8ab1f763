"""The PostgreSQL parser. See postgres.pyx; what a connection remembers is in postgres_state."""

from zerospan.exporter.proto.base cimport ParseArgs, Parsed, ProtoOps

cdef const ProtoOps *postgres_ops() noexcept
