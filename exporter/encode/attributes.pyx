# cython: language_level=3, boundscheck=True, wraparound=False
"""THE table of attribute names. See attributes.pxd for what is made of it.

Names: OpenTelemetry semantic conventions 1.44. `zerospan.*` are our own. Deprecated names stand beside their successor where
a tool still reads only the old one: peer.service (Tempo's service graph, dashboards), db.system (Tempo's peer attributes).
"""

import re
import struct
import sys

from libc.string cimport memcpy, memset

NAMES = {
    ATTR_NETWORK_TRANSPORT: "network.transport",
    ATTR_NETWORK_PROTOCOL_NAME: "network.protocol.name",
    ATTR_NETWORK_PROTOCOL_VERSION: "network.protocol.version",
    ATTR_NETWORK_PEER_ADDRESS: "network.peer.address",
    ATTR_NETWORK_PEER_PORT: "network.peer.port",
    ATTR_SERVER_ADDRESS: "server.address",
    ATTR_SERVER_PORT: "server.port",
    ATTR_CLIENT_ADDRESS: "client.address",
    ATTR_CLIENT_PORT: "client.port",
    ATTR_THREAD_ID: "thread.id",
    ATTR_ERROR_TYPE: "error.type",
    ATTR_SERVICE_PEER_NAME: "service.peer.name",
    ATTR_PEER_SERVICE: "peer.service",
    ATTR_SERVICE_PEER_NAMESPACE: "service.peer.namespace",
    ATTR_REAL_PEER_ADDRESS: "zerospan.peer.address",  # the other end's own address, where translation hides it
    ATTR_REAL_PEER_PORT: "zerospan.peer.port",
    ATTR_POINT: "zerospan.point",
    ATTR_REQUEST_KEY: "zerospan.request_key",
    ATTR_LINK_METHOD: "zerospan.link.method",
    ATTR_LINK_CONFIDENCE: "zerospan.link.confidence",
    ATTR_TRUNCATED: "zerospan.truncated",
    ATTR_TIME_TO_FIRST_BYTE: "zerospan.time_to_first_byte",  # ns
    ATTR_DURATION: "zerospan.duration",  # ns; of log records only: a span has its times
    ATTR_SPAN_KIND: "span.kind",  # of log records only; the values of the label span_kind of traces_spanmetrics_*
    ATTR_HTTP_METHOD: "http.request.method",
    ATTR_HTTP_METHOD_ORIGINAL: "http.request.method_original",
    ATTR_HTTP_STATUS_CODE: "http.response.status_code",
    ATTR_HTTP_ROUTE: "http.route",
    ATTR_HTTP_REQUEST_BODY_SIZE: "http.request.body.size",
    ATTR_HTTP_RESPONSE_BODY_SIZE: "http.response.body.size",
    ATTR_HTTP_REQUEST_ID: "http.request.header.x-request-id",
    ATTR_URL_PATH: "url.path",
    ATTR_URL_QUERY: "url.query",
    ATTR_URL_SCHEME: "url.scheme",
    ATTR_URL_TEMPLATE: "url.template",
    ATTR_USER_AGENT: "user_agent.original",
    ATTR_DB_SYSTEM_NAME: "db.system.name",
    ATTR_DB_SYSTEM: "db.system",
    ATTR_DB_OPERATION: "db.operation.name",
    ATTR_DB_NAMESPACE: "db.namespace",
    ATTR_DB_COLLECTION: "db.collection.name",
    ATTR_DB_QUERY_TEXT: "db.query.text",
    ATTR_DB_STATUS_CODE: "db.response.status_code",
    ATTR_DB_RETURNED_ROWS: "db.response.returned_rows",
    ATTR_DNS_QUESTION_NAME: "dns.question.name",
    ATTR_DNS_QUESTION_TYPE: "zerospan.dns.question.type",
    ATTR_DNS_RESPONSE_CODE: "zerospan.dns.response_code",
    ATTR_DNS_ANSWERS: "zerospan.dns.answers",
    ATTR_NETWORK_TYPE: "network.type",
    ATTR_INTERFACE_NAME: "network.interface.name",
    ATTR_NETNS: "zerospan.netns",
    ATTR_INTERFACE_MAC: "zerospan.interface.mac",
    ATTR_INTERFACE_KIND: "zerospan.interface.kind",
    ATTR_VLAN_ID: "zerospan.vlan.id",
    ATTR_TUNNEL_TYPE: "zerospan.tunnel.type",
    ATTR_TUNNEL_ID: "zerospan.tunnel.id",
    ATTR_TUNNEL_SOURCE: "zerospan.tunnel.source.address",
    ATTR_TUNNEL_DESTINATION: "zerospan.tunnel.destination.address",
    ATTR_SOURCE_ADDRESS: "source.address",
    ATTR_SOURCE_PORT: "source.port",
    ATTR_DESTINATION_ADDRESS: "destination.address",
    ATTR_DESTINATION_PORT: "destination.port",
    ATTR_REQUEST_PACKETS: "zerospan.request.packets",
    ATTR_REQUEST_BYTES: "zerospan.request.bytes",
    ATTR_RESPONSE_PACKETS: "zerospan.response.packets",
    ATTR_RESPONSE_BYTES: "zerospan.response.bytes",
    ATTR_TCP_RETRANSMITS: "zerospan.tcp.retransmits",
    **{ATTR_HOP + i: f"zerospan.hop.{name}" for i, name in enumerate(  # ns; they sum to the CLIENT span's duration
        ("client_process", "client_host", "network", "server_host", "server_process"))},
}

# In the order of LinkMethod. The confidence is the probability that the parent is the right one; reference/async.md has
# what was measured for threads. 1.0 stands for identities and for what the programs themselves state.
cdef list LINKS = [
    ("none", 0.0),
    ("tcp_isn", 1.0),
    ("dns_id", 0.99),
    ("traceparent", 1.0),
    ("b3", 1.0),
    ("sw8", 1.0),
    ("uber-trace-id", 1.0),
    ("x-request-id", 0.95),
    ("thread", 0.99),
    ("nginx", 0.99),
    ("haproxy", 0.99),
    ("envoy", 0.99),
]

cdef list METHODS = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"]

cdef list CONSTANTS = [
    (CONST_TCP, ATTR_NETWORK_TRANSPORT, "tcp"),
    (CONST_UDP, ATTR_NETWORK_TRANSPORT, "udp"),
    (CONST_HTTP, ATTR_NETWORK_PROTOCOL_NAME, "http"),
    (CONST_REDIS, ATTR_NETWORK_PROTOCOL_NAME, "redis"),
    (CONST_POSTGRESQL, ATTR_NETWORK_PROTOCOL_NAME, "postgresql"),
    (CONST_DNS, ATTR_NETWORK_PROTOCOL_NAME, "dns"),
    (CONST_FASTCGI, ATTR_NETWORK_PROTOCOL_NAME, "fastcgi"),
    (CONST_HTTP_10, ATTR_NETWORK_PROTOCOL_VERSION, "1.0"),
    (CONST_HTTP_11, ATTR_NETWORK_PROTOCOL_VERSION, "1.1"),
    (CONST_RESP_2, ATTR_NETWORK_PROTOCOL_VERSION, "2"),
    (CONST_RESP_3, ATTR_NETWORK_PROTOCOL_VERSION, "3"),
    (CONST_CLIENT_POINT, ATTR_POINT, "client.process"),
    (CONST_SERVER_POINT, ATTR_POINT, "server.process"),
    (CONST_CLIENT_KIND, ATTR_SPAN_KIND, "SPAN_KIND_CLIENT"),
    (CONST_SERVER_KIND, ATTR_SPAN_KIND, "SPAN_KIND_SERVER"),
    (CONST_TRUNCATED, ATTR_TRUNCATED, True),
    (CONST_SCHEME_HTTP, ATTR_URL_SCHEME, "http"),
    *((CONST_METHOD + i, ATTR_HTTP_METHOD, method) for i, method in enumerate(METHODS)),
    (CONST_METHOD_OTHER, ATTR_HTTP_METHOD, "_OTHER"),
    (CONST_DB_REDIS, ATTR_DB_SYSTEM_NAME, "redis"),
    (CONST_DB_POSTGRESQL, ATTR_DB_SYSTEM_NAME, "postgresql"),
    (CONST_DB_SYSTEM_REDIS, ATTR_DB_SYSTEM, "redis"),
    (CONST_DB_SYSTEM_POSTGRESQL, ATTR_DB_SYSTEM, "postgresql"),
    *((CONST_LINK + i, ATTR_LINK_METHOD, method) for i, (method, _) in enumerate(LINKS)),
    *((CONST_CONFIDENCE + i, ATTR_LINK_CONFIDENCE, confidence) for i, (_, confidence) in enumerate(LINKS)),
]

cdef AttrKey KEY_TABLE[ATTR_MAX]
cdef ConstAttr CONST_TABLE[CONST_MAX]
attr_keys = KEY_TABLE
attr_consts = CONST_TABLE


def names():
    """The OpenTelemetry names of all attributes that a span or a log record may carry."""
    return tuple(NAMES.values())


def loki_name(str name):
    """The structured-metadata key under which Loki has an attribute of this name."""
    return re.sub("[^A-Za-z0-9_]", "_", name)


cdef bytes field(int tag, bytes value):
    """A length-delimited field of less than 128 bytes; longer is a mistake in the tables above."""
    if len(value) > 127:
        raise ValueError(f"attribute table: {value!r} is too long to be encoded ahead, shorten it or enlarge CONST_BYTES")
    return bytes([tag, len(value)]) + value


cdef bytes any_value(object value):
    """opentelemetry.proto.common.v1.AnyValue: string_value = 1, bool_value = 2, double_value = 4."""
    if value is True:
        return b"\x10\x01"
    if isinstance(value, float):
        return b"\x21" + struct.pack("<d", value)
    return field(0x0A, value.encode())


cdef int fill() except -1:
    cdef bytes wire, json
    if sys.byteorder != "little":
        raise ImportError("zerospan encodes for little-endian machines only (x86-64, arm64): see encode/wire.pxd")
    if set(NAMES) != set(range(ATTR_MAX)) or sorted(c[0] for c in CONSTANTS) != list(range(CONST_MAX)):
        raise ValueError("attributes.pyx: the tables do not cover the enums of attributes.pxd")
    memset(KEY_TABLE, 0, sizeof(KEY_TABLE))
    memset(CONST_TABLE, 0, sizeof(CONST_TABLE))
    for attr, name in NAMES.items():
        wire = field(0x0A, name.encode())
        json = f',"{loki_name(name)}":"'.encode()
        if len(wire) > KEY_BYTES or len(json) > KEY_BYTES:
            raise ValueError(f"attributes.pyx: the name {name} is too long, enlarge KEY_BYTES in attributes.pxd")
        KEY_TABLE[<int>attr].n = len(wire)
        KEY_TABLE[<int>attr].json_n = len(json)
        memcpy(KEY_TABLE[<int>attr].wire, <const char *>wire, len(wire))
        memcpy(KEY_TABLE[<int>attr].json, <const char *>json, len(json))
    for which, attr, value in CONSTANTS:
        wire = field(0x0A, NAMES[attr].encode()) + field(0x12, any_value(value))
        wire = field(0, wire)[1:]
        json = f',"{loki_name(NAMES[attr])}":"{"true" if value is True else value}"'.encode()
        if len(wire) > CONST_BYTES or len(json) > CONST_BYTES:
            raise ValueError(f"attributes.pyx: {NAMES[attr]}={value} is too long, enlarge CONST_BYTES in attributes.pxd")
        CONST_TABLE[<int>which].n = len(wire)
        CONST_TABLE[<int>which].json_n = len(json)
        memcpy(CONST_TABLE[<int>which].wire, <const char *>wire, len(wire))
        memcpy(CONST_TABLE[<int>which].json, <const char *>json, len(json))
    return 0


fill()
