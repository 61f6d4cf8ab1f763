"""The messages of OTLP traces and logs as tables: what otlp_json.pyx needs to walk them.

From opentelemetry-proto (trace.proto, logs.proto, common.proto, resource.proto). The test of random messages is driven by its
descriptors: a field that is missing or wrong here fails it.
"""

from libc.stdint cimport uint8_t

cdef enum:
    FIELDS_MAX = 17          # fields of the largest message, Span, and one more
    NAME_MAX = 40

cdef enum Kind:
    STRING = 1
    ID                       # trace and span ids: hex
    BYTES                    # base64
    FIXED64                  # a decimal string
    FIXED32
    INT64                    # a decimal string
    UINT32
    INT32                    # and enums
    BOOL
    DOUBLE
    MESSAGE

cdef enum Rule:
    PLAIN = 0                # written if it is not the default
    ALWAYS = 1               # written even if it is not there: what pdata holds by value
    REPEATED = 2
    ONE_OF = 3               # written if it is the last one of the oneof that came, default or not

cdef enum Message:
    TRACES = 0
    RESOURCE_SPANS
    SCOPE_SPANS
    SPAN
    EVENT
    LINK
    STATUS
    LOGS
    RESOURCE_LOGS
    SCOPE_LOGS
    LOG_RECORD
    RESOURCE
    ENTITY_REF
    SCOPE
    KEY_VALUE
    ANY_VALUE
    ARRAY
    KEY_VALUE_LIST
    MESSAGE_MAX

cdef struct Field:
    uint8_t kind
    uint8_t rule
    uint8_t message          # of MESSAGE: which
    uint8_t wire_type
    uint8_t name_n
    uint8_t name[NAME_MAX]   # "name":

cdef struct Schema:
    uint8_t n
    uint8_t slot[32]         # index of a field by its number, plus one; 0 unknown
    Field fields[FIELDS_MAX]

cdef Schema *otlp_schemas    # MESSAGE_MAX of them
