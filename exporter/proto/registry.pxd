"""All parsers, and which of them owns a connection."""

from zerospan.exporter.proto.base cimport ParseArgs, ProtoOps

# NULL if there is none.
cdef const ProtoOps *proto_by_id(int proto) noexcept nogil
cdef const ProtoOps *proto_by_name(const char *name) noexcept
# The parser that is surest of these first bytes (of either side), or NULL. `datagram`: only those that speak UDP.
# `refused` is a bit mask of Proto ids that this connection has already proved wrong. *more is set when a parser
# could decide with more bytes.
cdef const ProtoOps *proto_detect(const ParseArgs *a, bint datagram, unsigned int refused, bint *more) noexcept nogil
