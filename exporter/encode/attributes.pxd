"""THE table of attribute names, and the attributes whose value is a constant, both encoded ahead.

A rename is one line in attributes.pyx. The Loki name of an attribute is its OpenTelemetry name with every character
but letters, digits and "_" replaced by "_", as Loki's own OTLP endpoint does.
"""

from libc.stdint cimport uint8_t

from zerospan.exporter.assemble.span cimport SpanRec, LINK_MAX

cdef enum Attr:
    ATTR_NETWORK_TRANSPORT = 0
    ATTR_NETWORK_PROTOCOL_NAME
    ATTR_NETWORK_PROTOCOL_VERSION
    ATTR_NETWORK_PEER_ADDRESS
    ATTR_NETWORK_PEER_PORT
    ATTR_SERVER_ADDRESS
    ATTR_SERVER_PORT
    ATTR_CLIENT_ADDRESS
    ATTR_CLIENT_PORT
    ATTR_THREAD_ID
    ATTR_ERROR_TYPE
    ATTR_SERVICE_PEER_NAME
    ATTR_PEER_SERVICE
    ATTR_SERVICE_PEER_NAMESPACE
    ATTR_REAL_PEER_ADDRESS
    ATTR_REAL_PEER_PORT
    ATTR_POINT
    ATTR_REQUEST_KEY
    ATTR_LINK_METHOD
    ATTR_LINK_CONFIDENCE
    ATTR_TRUNCATED
    ATTR_TIME_TO_FIRST_BYTE
    ATTR_DURATION
    ATTR_SPAN_KIND
    ATTR_HTTP_METHOD
    ATTR_HTTP_METHOD_ORIGINAL
    ATTR_HTTP_STATUS_CODE
    ATTR_HTTP_ROUTE
    ATTR_HTTP_REQUEST_BODY_SIZE
    ATTR_HTTP_RESPONSE_BODY_SIZE
    ATTR_HTTP_REQUEST_ID
    ATTR_URL_PATH
    ATTR_URL_QUERY
    ATTR_URL_SCHEME
    ATTR_URL_TEMPLATE
    ATTR_USER_AGENT
    ATTR_DB_SYSTEM_NAME
    ATTR_DB_SYSTEM
    ATTR_DB_OPERATION
    ATTR_DB_NAMESPACE
    ATTR_DB_COLLECTION
    ATTR_DB_QUERY_TEXT
    ATTR_DB_STATUS_CODE
    ATTR_DB_RETURNED_ROWS
    ATTR_DNS_QUESTION_NAME
    ATTR_DNS_QUESTION_TYPE
    ATTR_DNS_RESPONSE_CODE
    ATTR_DNS_ANSWERS
    ATTR_NETWORK_TYPE            # of points of the way, from here on
    ATTR_INTERFACE_NAME
    ATTR_NETNS
    ATTR_INTERFACE_MAC
    ATTR_INTERFACE_KIND
    ATTR_VLAN_ID
    ATTR_TUNNEL_TYPE
    ATTR_TUNNEL_ID
    ATTR_TUNNEL_SOURCE
    ATTR_TUNNEL_DESTINATION
    ATTR_SOURCE_ADDRESS
    ATTR_SOURCE_PORT
    ATTR_DESTINATION_ADDRESS
    ATTR_DESTINATION_PORT
    ATTR_REQUEST_PACKETS
    ATTR_REQUEST_BYTES
    ATTR_RESPONSE_PACKETS
    ATTR_RESPONSE_BYTES
    ATTR_TCP_RETRANSMITS
    ATTR_HOP                     # HOP_MAX of them, in the order of link.hops.Hop
    ATTR_MAX = ATTR_HOP + 5

cdef enum Const:                 # attributes with their value
    CONST_TCP = 0
    CONST_UDP
    CONST_HTTP
    CONST_REDIS
    CONST_POSTGRESQL
    CONST_DNS
    CONST_FASTCGI
    CONST_HTTP_10
    CONST_HTTP_11
    CONST_RESP_2
    CONST_RESP_3
    CONST_CLIENT_POINT
    CONST_SERVER_POINT
    CONST_CLIENT_KIND
    CONST_SERVER_KIND
    CONST_TRUNCATED
    CONST_SCHEME_HTTP
    CONST_METHOD                 # ten known methods in the order of name.pyx
    CONST_METHOD_OTHER = CONST_METHOD + 10
    CONST_DB_REDIS
    CONST_DB_POSTGRESQL
    CONST_DB_SYSTEM_REDIS
    CONST_DB_SYSTEM_POSTGRESQL
    CONST_LINK                   # LINK_MAX methods, in the order of LinkMethod
    CONST_CONFIDENCE = CONST_LINK + LINK_MAX     # their confidences, in the same order
    CONST_MAX = CONST_CONFIDENCE + LINK_MAX

cdef enum:
    KEY_BYTES = 48               # a multiple of 16: copied whole, which is cheaper than its exact length
    CONST_BYTES = 96

cdef struct AttrKey:
    uint8_t n                    # length of wire
    uint8_t json_n
    uint8_t wire[KEY_BYTES]      # KeyValue.key: tag, length, name
    uint8_t json[KEY_BYTES]      # ,"name":" as in Loki's structured metadata

cdef struct ConstAttr:
    uint8_t n
    uint8_t json_n
    uint8_t wire[CONST_BYTES]    # length of the KeyValue, then the KeyValue: only the tag of the field is missing
    uint8_t json[CONST_BYTES]    # ,"name":"value"

cdef AttrKey *attr_keys          # ATTR_MAX of them
cdef ConstAttr *attr_consts      # CONST_MAX of them
