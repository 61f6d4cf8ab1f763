# cython: language_level=3, boundscheck=True, wraparound=False
"""The encoders' door for Python: spans as dicts in, request bodies out.

For tests, fuzzing and `make bench`; not on the hot path.
"""

import socket
from time import perf_counter_ns

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport STR_MAX, SpanContext, SpanRec
from zerospan.exporter.encode.batch cimport BatchEncoder
from zerospan.exporter.encode.buf cimport Buf, buf_free
from zerospan.exporter.encode.digits cimport ADDRESS_MAX, DURATION_MAX, put_address, put_ms
from zerospan.exporter.encode.logs cimport otlp_log
from zerospan.exporter.encode.loki cimport loki_entry
from zerospan.exporter.encode.name cimport error_type, http_method, server_address, span_name
from zerospan.exporter.encode.otlp cimport otlp_span
from zerospan.exporter.encode.text cimport TEXT_MAX, json_chars, text_copy
from zerospan.exporter.proto.cursor cimport Slice, slice_of
from zerospan.exporter.tags.peer cimport PeerTags

# In the order of SpanString.
STRINGS = (
    "operation", "target", "query", "domain", "collection", "status_text", "message", "agent", "route", "request_id",
    "peer",
)

cdef class Record:
    """One span built from a dict: a block as assemble makes it, with its context."""

    cdef SpanRec *rec
    cdef SpanContext context

    def __cinit__(self, dict span):
        cdef uint8_t *w
        cdef bytes text
        cdef list texts = [as_bytes(span.get(name, b"")) for name in STRINGS]
        cdef size_t n = sizeof(SpanRec) + sum(len(t) for t in texts)
        cdef SpanRec *r
        unknown = set(span) - FIELDS
        if unknown:
            raise ValueError(f"no such fields of a span: {', '.join(sorted(unknown))}")
        n = (n + 7) // 8 * 8
        self.rec = r = <SpanRec *>calloc(1, n)
        if r == NULL:
            raise MemoryError
        r.size = n
        r.proto = span.get("proto", 1)
        r.kind = span.get("kind", 2)
        r.status = span.get("status", 0)
        r.reason = span.get("reason", 0)
        r.key = span.get("key", 0)
        r.start_ns = span.get("start_ns", 0)
        r.first_ns = span.get("first_ns", 0)
        r.end_ns = span.get("end_ns", 0)
        r.proc = span.get("proc", 0)
        r.tid = span.get("tid", 0)
        r.code = span.get("code", -1)
        r.rows = span.get("rows", -1)
        r.request_size = span.get("request_size", -1)
        r.response_size = span.get("response_size", -1)
        r.local_port = span.get("local_port", 0)
        r.remote_port = span.get("remote_port", 0)
        r.transport = span.get("transport", 0)
        r.version = span.get("version", 0)
        r.truncated = span.get("truncated", 0)
        r.trace_flags = span.get("trace_flags", 0)
        for which, field in enumerate(("local_addr", "remote_addr")):
            if field in span:
                r.family = socket.AF_INET6 if ":" in span[field] else socket.AF_INET
                text = socket.inet_pton(r.family, span[field])
                memcpy(<uint8_t *>r.remote_addr if which else <uint8_t *>r.local_addr, <const char *>text, len(text))
        w = <uint8_t *>r + sizeof(SpanRec)
        for which in range(STR_MAX):
            text = texts[which]
            r.n[<int>which] = len(text)
            memcpy(w, <const char *>text, len(text))
            w += len(text)
        memset(&self.context, 0, sizeof(self.context))
        text = span.get("trace_id", bytes(16))
        if len(text) != 16:
            raise ValueError("trace_id must be 16 bytes")
        memcpy(self.context.trace_id, <const char *>text, 16)
        self.context.span_id = span.get("span_id", 0)
        self.context.parent_id = span.get("parent_id", 0)
        self.context.wall_offset = span.get("wall_offset", 0)
        self.context.peer_proc = span.get("peer_proc", 0)
        self.context.method = span.get("method", 0)
        self.context.trace_flags = span.get("trace_flags", 0)

    def __dealloc__(self):
        free(self.rec)


FIELDS = set(STRINGS) | {
    "proto", "kind", "status", "reason", "key", "start_ns", "first_ns", "end_ns", "proc", "tid", "code", "rows", "request_size",
    "response_size", "local_port", "remote_port", "transport", "version", "truncated", "trace_flags", "local_addr", "remote_addr",
    "trace_id", "span_id", "parent_id", "wall_offset", "peer_proc", "method",
}


cdef bytes as_bytes(object text):
    return text.encode() if isinstance(text, str) else text


cdef class Table:
    """Processes by index from 1, as Processes has them; slices point into `keep`."""

    cdef Proc *procs
    cdef uint32_t n
    cdef list keep

    def __cinit__(self, list processes):
        self.n = len(processes) + 1
        self.procs = <Proc *>calloc(self.n, sizeof(Proc))
        if self.procs == NULL:
            raise MemoryError
        self.keep = []
        for i, process in enumerate(processes, 1):
            self.procs[<int>i].name = self._own(process.get("name", ""))
            self.procs[<int>i].resource = self._own(process.get("resource", b""))
            self.procs[<int>i].labels = self._own(process.get("labels", ""))
            self.procs[<int>i].meta = self._own(process.get("meta", b""))

    def __dealloc__(self):
        free(self.procs)

    cdef Slice _own(self, object text) except *:
        cdef bytes data = as_bytes(text)
        self.keep.append(data)
        return slice_of(<const uint8_t *><const char *>data, len(data))

    cdef const Proc *get(self, uint32_t index) except? NULL:
        if index >= self.n:
            raise IndexError(f"no process {index}: there are {self.n - 1}")
        return &self.procs[index] if index else NULL


def encode(spans, processes=()):
    """The request bodies of these spans: {"traces": protobuf, "logs": protobuf, "loki": JSON}."""
    cdef BatchEncoder batch
    out = {}
    for kind in ("traces", "logs", "loki"):
        batch = BatchEncoder(kind)
        if fill(batch, spans, processes) != len(spans):
            raise MemoryError
        size = batch.size
        body, count = batch.take() or (b"", 0)
        if len(body) > size or count != len(spans):
            raise AssertionError(f"{kind}: {len(body)} bytes of {size} announced, {count} of {len(spans)} spans")
        out[kind] = bytes(body)
    return out


def fill(BatchEncoder batch not None, spans, processes=()):
    """Adds spans to a batch that lives on; returns how many were taken."""
    cdef Table table = Table([dict(p) for p in processes])
    cdef Record record
    taken = 0
    for span in spans:
        record = Record(dict(span))
        taken += batch.add(
            record.rec, &record.context, record.rec.proc, table.get(record.rec.proc), table.get(record.context.peer_proc)
        ) == 0
    return taken


def flood(BatchEncoder batch not None, span, uint32_t n):
    """Adds the same span n times; returns how many were taken."""
    cdef Record record = Record(dict(span))
    cdef uint32_t taken = 0
    cdef uint32_t i
    with nogil:
        for i in range(n):
            if batch.add(record.rec, &record.context, 0, NULL, NULL) == 0:
                taken += 1
    return taken


def name(span):
    """What name.pxd says of a span."""
    cdef Record record = Record(dict(span))
    cdef uint8_t out[TEXT_MAX]
    cdef uint16_t port = 0
    cdef dict said = {}
    said["span_name"] = (<const char *>out)[:span_name(record.rec, out, TEXT_MAX)].decode()
    said["error_type"] = (<const char *>out)[:error_type(record.rec, out, TEXT_MAX)].decode()
    said["http_method"] = (<const char *>out)[:http_method(record.rec, out, TEXT_MAX)].decode()
    said["server_address"] = (<const char *>out)[:server_address(record.rec, out, TEXT_MAX, &port)].decode()
    said["server_port"] = str(port)
    return said


def text(bytes data not None, uint32_t cap):
    """text_copy of encode/text.pxd."""
    cdef bytearray out = bytearray(cap + 1)
    cdef uint32_t n = text_copy(<uint8_t *><char *>out, cap, slice_of(<const uint8_t *><const char *>data, len(data)))
    if out[cap]:
        raise AssertionError("text_copy wrote beyond its capacity")
    return bytes(out[:n])


def json_text(bytes data not None):
    """json_chars of encode/text.pxd."""
    cdef Buf out
    memset(&out, 0, sizeof(out))
    json_chars(&out, slice_of(<const uint8_t *><const char *>data, len(data)))
    try:
        return (<const char *>out.p)[:out.n] if out.n else b""
    finally:
        buf_free(&out)


def address(bytes data not None):
    """put_address of 4 or 16 bytes."""
    cdef uint8_t out[ADDRESS_MAX]
    family = {4: socket.AF_INET, 16: socket.AF_INET6}[len(data)]
    return (<const char *>out)[:put_address(out, family, <const uint8_t *><const char *>data)].decode()


def milliseconds(uint64_t ns):
    """put_ms."""
    cdef uint8_t out[DURATION_MAX]
    return (<const char *>out)[:put_ms(out, ns)].decode()


def bench(uint32_t n, span, str what="traces", PeerTags who=None):
    """Nanoseconds that it takes to encode one span, log record or Loki value, over n of them. who: tags of the other end."""
    cdef Record record = Record(dict(span))
    cdef const SpanRec *r = record.rec
    cdef SpanContext *c = &record.context
    cdef int which = ("traces", "logs", "loki").index(what)
    cdef Buf out
    cdef uint32_t i
    memset(&out, 0, sizeof(out))
    if who is not None:
        c.who = &who.c
        c.peer_name = who.c.name
        c.peer_space = who.c.space
    begin = perf_counter_ns()
    with nogil:
        for i in range(n):
            if out.n > 1 << 20:                  # as large as the batches that are sent: more than the first caches hold
                out.n = 0
            c.span_id = i
            if which == 0:
                otlp_span(&out, r, c, NULL, NULL)
            elif which == 1:
                otlp_log(&out, r, c, NULL, NULL)
            else:
                loki_entry(&out, r, c, NULL, NULL)
    took = perf_counter_ns() - begin
    failed = out.failed
    buf_free(&out)
    if failed:
        raise MemoryError
    return took / n
