"""The Redis (RESP2, RESP3) parser. See redis.pyx."""

from zerospan.exporter.proto.base cimport ProtoOps

cdef const ProtoOps *redis_ops() noexcept
