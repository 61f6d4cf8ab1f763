# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""traces_service_graph_*: one request, one count, whichever ends of it are seen.

  who is seen           counted (_total)   failed      server_seconds   client_seconds   client, server, connection_type
  both ends             SERVER span        CLIENT      SERVER span      CLIENT span      name, name, "" | database
  only the server       SERVER span        SERVER      SERVER span      -                user, name, virtual_node
  only the client       CLIENT span        CLIENT      of databases     CLIENT span      name, node, virtual_node | database

Both spans of a request come at different times and name the same edge, so they meet in one series. A request failed if the
client says so: its span is an error where the server's is (5xx) and also where only the caller is at fault (4xx), as in
Tempo's generator. Where only the client of a database is seen, its time stands for the server's, as there.

An end that is not seen is named by its process if that is known, else by what the enricher says of its address (so both ends
of a call have one name wherever they are seen), else the server by the HTTP Host or address:port. The number of virtual
nodes of one client is limited (`server` is a capped label). Called by red.pyx with its mutex held.

Hosts that share no links (`links: memory`) cannot know of each other's count: an edge between them that both name by the
enricher's tags is counted at either end, as virtual_node.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from zerospan.exporter.assemble.span cimport KIND_CLIENT, SPAN_ERROR, STR_DOMAIN, span_str
from zerospan.exporter.encode.name cimport server_address
from zerospan.exporter.metrics.series cimport Key, Series, VALUE_MAX, key_begin, key_put, series_values
from zerospan.exporter.metrics.text cimport ADDRESS_PORT_MAX, write_address_port
from zerospan.exporter.proto.base cimport PROTO_HTTP1, PROTO_POSTGRES, PROTO_REDIS

cdef enum:
    SERVER_SECONDS = 0       # histograms and counters of families.EDGES
    CLIENT_SECONDS = 1
    TOTAL = 0
    FAILED = 1


cdef void graph_observe(Table table, const SpanRec *r, const SpanContext *c, const Proc *me, const Proc *peer,
                        uint64_t duration_ns, bint exemplars, uint64_t now_ns) noexcept nogil:
    cdef Key k
    cdef Series *s
    cdef uint8_t text[VALUE_MAX + ADDRESS_PORT_MAX]
    cdef uint16_t port
    cdef uint32_t n, bucket
    cdef uint32_t owner = me.service
    cdef bint is_client = r.kind == KIND_CLIENT
    cdef bint is_database = r.proto == PROTO_POSTGRES or r.proto == PROTO_REDIS
    cdef bint both = c.peer_seen != 0
    cdef bint virtual = False
    if peer != NULL and peer.name.n == 0:
        peer = NULL
    if is_client and both and peer == NULL:
        return                   # the server's end counts it, and knows a name no better than its address tells
    key_begin(&k)
    if is_client:
        key_put(&k, me.name.p, me.name.n)
        if peer != NULL:
            key_put(&k, peer.name.p, peer.name.n)
        else:
            virtual = True
            if c.peer_name.n:
                n = c.peer_name.n if c.peer_name.n <= VALUE_MAX else VALUE_MAX
                memcpy(text, c.peer_name.p, n)
            elif r.proto == PROTO_HTTP1 and span_str(r, STR_DOMAIN).n:
                n = server_address(r, text, VALUE_MAX, &port)
            else:
                n = <uint32_t>(write_address_port(text, r.family, r.remote_addr, r.remote_port) - text)
            key_put(&k, text, n)
    else:
        if both and peer != NULL:
            owner = peer.service
            key_put(&k, peer.name.p, peer.name.n)
        else:
            both = False
            if c.peer_name.n:
                key_put(&k, c.peer_name.p, c.peer_name.n)
            else:
                key_put(&k, <const uint8_t *>b"user", 4)
        key_put(&k, me.name.p, me.name.n)
    if is_database and (is_client or both):
        key_put(&k, <const uint8_t *>b"database", 8)
    elif both:
        key_put(&k, text, 0)
    else:
        key_put(&k, <const uint8_t *>b"virtual_node", 12)
    s = table.get(&k, owner, virtual, now_ns)
    if s == NULL:
        return
    if not both or not is_client:
        series_values(s)[TOTAL] += 1
    if (not both or is_client) and r.status == SPAN_ERROR:
        series_values(s)[FAILED] += 1
    if is_client:
        table.observe(s, CLIENT_SECONDS, duration_ns)
    if not is_client or (is_database and not both):
        bucket = table.observe(s, SERVER_SECONDS, duration_ns)
        if exemplars:
            table.exemplar(s, bucket, duration_ns, c.trace_id, c.span_id, c.wall_offset + r.end_ns)
