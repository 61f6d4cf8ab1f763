# cython: language_level=3, boundscheck=True, wraparound=False
"""The messages of OTLP traces and logs as tables. See otlp_schema.pxd."""

from libc.string cimport memcpy, memset

# (number, JSON name, kind, rule, message), in the order in which the Collector writes them.
TABLES = {
    TRACES: [(1, "resourceSpans", MESSAGE, REPEATED, RESOURCE_SPANS)],
    RESOURCE_SPANS: [
        (1, "resource", MESSAGE, ALWAYS, RESOURCE),
        (2, "scopeSpans", MESSAGE, REPEATED, SCOPE_SPANS),
        (3, "schemaUrl", STRING),
    ],
    SCOPE_SPANS: [(1, "scope", MESSAGE, ALWAYS, SCOPE), (2, "spans", MESSAGE, REPEATED, SPAN), (3, "schemaUrl", STRING)],
    SPAN: [
        (1, "traceId", ID),
        (2, "spanId", ID),
        (3, "traceState", STRING),
        (4, "parentSpanId", ID),
        (16, "flags", FIXED32),
        (5, "name", STRING),
        (6, "kind", INT32),
        (7, "startTimeUnixNano", FIXED64),
        (8, "endTimeUnixNano", FIXED64),
        (9, "attributes", MESSAGE, REPEATED, KEY_VALUE),
        (10, "droppedAttributesCount", UINT32),
        (11, "events", MESSAGE, REPEATED, EVENT),
        (12, "droppedEventsCount", UINT32),
        (13, "links", MESSAGE, REPEATED, LINK),
        (14, "droppedLinksCount", UINT32),
        (15, "status", MESSAGE, ALWAYS, STATUS),
    ],
    EVENT: [
        (1, "timeUnixNano", FIXED64),
        (2, "name", STRING),
        (3, "attributes", MESSAGE, REPEATED, KEY_VALUE),
        (4, "droppedAttributesCount", UINT32),
    ],
    LINK: [
        (1, "traceId", ID),
        (2, "spanId", ID),
        (3, "traceState", STRING),
        (4, "attributes", MESSAGE, REPEATED, KEY_VALUE),
        (5, "droppedAttributesCount", UINT32),
        (6, "flags", FIXED32),
    ],
    STATUS: [(2, "message", STRING), (3, "code", INT32)],
    LOGS: [(1, "resourceLogs", MESSAGE, REPEATED, RESOURCE_LOGS)],
    RESOURCE_LOGS: [
        (1, "resource", MESSAGE, ALWAYS, RESOURCE),
        (2, "scopeLogs", MESSAGE, REPEATED, SCOPE_LOGS),
        (3, "schemaUrl", STRING),
    ],
    SCOPE_LOGS: [(1, "scope", MESSAGE, ALWAYS, SCOPE), (2, "logRecords", MESSAGE, REPEATED, LOG_RECORD), (3, "schemaUrl", STRING)],
    LOG_RECORD: [
        (1, "timeUnixNano", FIXED64),
        (11, "observedTimeUnixNano", FIXED64),
        (2, "severityNumber", INT32),
        (3, "severityText", STRING),
        (5, "body", MESSAGE, ALWAYS, ANY_VALUE),
        (6, "attributes", MESSAGE, REPEATED, KEY_VALUE),
        (7, "droppedAttributesCount", UINT32),
        (8, "flags", FIXED32),
        (9, "traceId", ID),
        (10, "spanId", ID),
        (12, "eventName", STRING),
    ],
    RESOURCE: [
        (1, "attributes", MESSAGE, REPEATED, KEY_VALUE),
        (2, "droppedAttributesCount", UINT32),
        (3, "entityRefs", MESSAGE, REPEATED, ENTITY_REF),
    ],
    ENTITY_REF: [
        (1, "schemaUrl", STRING),
        (2, "type", STRING),
        (3, "idKeys", STRING, REPEATED),
        (4, "descriptionKeys", STRING, REPEATED),
    ],
    SCOPE: [
        (1, "name", STRING),
        (2, "version", STRING),
        (3, "attributes", MESSAGE, REPEATED, KEY_VALUE),
        (4, "droppedAttributesCount", UINT32),
    ],
    KEY_VALUE: [(1, "key", STRING), (2, "value", MESSAGE, ALWAYS, ANY_VALUE), (3, "keyStrindex", INT32)],
    ANY_VALUE: [
        (1, "stringValue", STRING, ONE_OF),
        (2, "boolValue", BOOL, ONE_OF),
        (3, "intValue", INT64, ONE_OF),
        (4, "doubleValue", DOUBLE, ONE_OF),
        (5, "arrayValue", MESSAGE, ONE_OF, ARRAY),
        (6, "kvlistValue", MESSAGE, ONE_OF, KEY_VALUE_LIST),
        (7, "bytesValue", BYTES, ONE_OF),
        (8, "stringValueStrindex", INT32, ONE_OF),
    ],
    ARRAY: [(1, "values", MESSAGE, REPEATED, ANY_VALUE)],
    KEY_VALUE_LIST: [(1, "values", MESSAGE, REPEATED, KEY_VALUE)],
}

cdef Schema SCHEMA_TABLE[MESSAGE_MAX]
otlp_schemas = SCHEMA_TABLE

cdef dict WIRE_TYPES = {FIXED64: 1, DOUBLE: 1, FIXED32: 5, STRING: 2, ID: 2, BYTES: 2, MESSAGE: 2}


cdef int fill() except -1:
    cdef Field *f
    cdef bytes json
    memset(SCHEMA_TABLE, 0, sizeof(SCHEMA_TABLE))
    for which, rows in TABLES.items():
        SCHEMA_TABLE[<int>which].n = len(rows)
        if len(rows) > FIELDS_MAX:
            raise ValueError(f"otlp_schema.pyx: {len(rows)} fields in a message, enlarge FIELDS_MAX in otlp_schema.pxd")
        for i, (number, name, kind, *rest) in enumerate(rows):
            json = f'"{name}":'.encode()
            if len(json) > NAME_MAX or number > 31:
                raise ValueError(f"otlp_schema.pyx: {name} = {number} does not fit, see Field and Schema in otlp_schema.pxd")
            f = &SCHEMA_TABLE[<int>which].fields[<int>i]
            f.kind = kind
            f.rule = rest[0] if rest else PLAIN
            f.message = rest[1] if len(rest) > 1 else 0
            f.wire_type = WIRE_TYPES.get(kind, 0)
            f.name_n = len(json)
            memcpy(f.name, <const char *>json, len(json))
            SCHEMA_TABLE[<int>which].slot[<int>number] = i + 1
    return 0


fill()
