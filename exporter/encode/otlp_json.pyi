def traces_json(request: bytes) -> bytes:
    """An encoded ExportTraceServiceRequest as one line of OTLP JSON, without the line break.

    As the Collector's file exporter writes it: lowerCamelCase names, trace and span ids in hex, 64-bit
    integers as decimal strings, enums as numbers, defaults left out (OTLP specification, "JSON Protobuf
    Encoding").
    ValueError: malformed protobuf; the message has the position in bytes.
    """

def logs_json(request: bytes) -> bytes:
    """The same for an encoded ExportLogsServiceRequest."""
