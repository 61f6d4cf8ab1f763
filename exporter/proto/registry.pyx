# cython: language_level=3, boundscheck=True, wraparound=False
"""All parsers, and which of them owns a connection. A new protocol is added below and in base.Proto."""

from libc.string cimport strcmp

from zerospan.exporter.proto.base cimport PROTO_MAX
from zerospan.exporter.proto.dns cimport dns_ops
from zerospan.exporter.proto.fastcgi cimport fastcgi_ops
from zerospan.exporter.proto.http1 cimport http1_ops
from zerospan.exporter.proto.postgres cimport postgres_ops
from zerospan.exporter.proto.redis cimport redis_ops

cdef const ProtoOps *PARSERS[PROTO_MAX]


cdef void add(const ProtoOps *ops) noexcept:
    if ops != NULL:
        PARSERS[ops.id] = ops


add(http1_ops())
add(redis_ops())
add(postgres_ops())
add(fastcgi_ops())
add(dns_ops())


cdef const ProtoOps *proto_by_id(int proto) noexcept nogil:
    return PARSERS[proto] if 0 < proto < PROTO_MAX else NULL


cdef const ProtoOps *proto_by_name(const char *name) noexcept:
    cdef int i
    for i in range(PROTO_MAX):
        if PARSERS[i] != NULL and strcmp(PARSERS[i].name, name) == 0:
            return PARSERS[i]
    return NULL


cdef const ProtoOps *proto_detect(const ParseArgs *a, bint datagram, unsigned int refused, bint *more) noexcept nogil:
    cdef const ProtoOps *best = NULL
    cdef int i, sure, surest = 1
    more[0] = False
    for i in range(PROTO_MAX):
        if PARSERS[i] == NULL or refused & (1u << i) or (datagram and not PARSERS[i].datagram):
            continue
        sure = PARSERS[i].sniff(a)
        if sure == 1:
            more[0] = True
        if sure > surest:
            best = PARSERS[i]
            surest = sure
    return best


def names() -> list[str]:
    """Names of all parsers."""
    cdef int i
    found = []
    for i in range(PROTO_MAX):
        if PARSERS[i] != NULL:
            found.append(PARSERS[i].name.decode())
    return found
