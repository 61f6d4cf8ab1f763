"""Requests gathered for one export: grouped by resource (OTLP) or stream (Loki), assembled at take().

One thread at a time: add() runs in the drain thread without the GIL, take() must not run beside it.
"""

from libc.stdint cimport uint32_t, uint64_t

from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport SpanContext, SpanRec
from zerospan.exporter.encode.buf cimport Buf
from zerospan.exporter.encode.payload cimport Payload, Shelf
from zerospan.exporter.proto.cursor cimport Slice

cdef enum BatchKind:
    BATCH_TRACES = 0         # ExportTraceServiceRequest
    BATCH_LOGS = 1           # ExportLogsServiceRequest
    BATCH_LOKI = 2           # the JSON body of /loki/api/v1/push

cdef struct Entry:           # one value of a Loki stream
    uint64_t ns
    size_t at                # where it begins in Group.body; it ends where the next one begins
    size_t n

cdef struct Group:
    Buf head                 # a copy of the Resource message, or of the stream's labels
    Buf body                 # spans, log records or values, one after the other
    Entry *entries           # of a Loki stream; NULL otherwise
    uint32_t n
    uint32_t cap
    uint64_t hash            # of head

cdef struct Seat:            # where a process's spans go in the batch of this generation
    uint32_t generation
    uint32_t group

cdef class BatchEncoder:
    cdef BatchKind kind
    cdef Group *groups       # the first n_groups are of this batch; the others only keep their memory for the next one
    cdef uint32_t n_groups
    cdef uint32_t cap_groups
    cdef Seat *seats         # by index of process
    cdef uint32_t n_seats
    cdef uint32_t generation
    cdef Shelf shelf         # memory of bodies that were sent
    cdef bytes scope         # encoded ScopeSpans.scope / ScopeLogs.scope field
    cdef size_t scope_n
    cdef readonly size_t size    # bytes that take() will return, at most
    cdef readonly uint32_t count

    # Encodes one request. `proc_index` and `me` say whose it is (0 and NULL: unknown_service); `peer` may be NULL. The
    # process's resource is copied at its first request of the batch, so nothing of `me` is kept.
    # -1: no memory, the request is not in the batch and must be counted as lost.
    cdef int add(
        self, const SpanRec *r, const SpanContext *c, uint32_t proc_index, const Proc *me, const Proc *peer
    ) noexcept nogil

    # What is said of a process has changed: its next request opens a group of its own.
    cdef void renew(self, uint32_t proc_index) noexcept nogil

    cdef int _entry(self, Group *g, uint64_t ns) noexcept nogil
    cdef Group *_group(self, uint32_t proc_index, const Proc *me) noexcept nogil
    cdef uint32_t _find(self, Slice head) noexcept nogil
    cdef void _reset(self) noexcept
    cdef Payload _otlp(self)
    cdef Payload _loki(self)
