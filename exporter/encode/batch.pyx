# cython: language_level=3, boundscheck=True, wraparound=False
"""Requests gathered for one export. See batch.pxd for the contract; used by the engine, one batch for each kind of sink.

Buffers are kept for the next batch; one that was not filled to a quarter is given back, so a burst is forgotten.
Two processes with the same labels are one Loki stream: a push must not name a stream twice, nor have it out of order.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memcmp, memcpy, memset, strlen

from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport SpanContext, SpanRec
from zerospan.exporter.encode.buf cimport Buf, buf_byte, buf_free, buf_put
from zerospan.exporter.encode.logs cimport otlp_log
from zerospan.exporter.encode.loki cimport loki_entry
from zerospan.exporter.encode.otlp cimport otlp_span
from zerospan.exporter.encode.payload cimport Payload, Shelf, payload_new
from zerospan.exporter.encode.wire cimport VARINT_MAX, varint_put, varint_size
from zerospan.exporter.proto.cursor cimport Slice, slice_of

from zerospan import __version__

cdef enum:
    SEATS_MAX = 1 << 22      # processes of a host: the kernel's own limit of pids (PID_MAX_LIMIT)
    SPARE = 64               # what surrounds a group and an envelope: tags, lengths, JSON punctuation

KINDS = {"traces": BATCH_TRACES, "logs": BATCH_LOGS, "loki": BATCH_LOKI}

# Resource { attributes { key: "service.name" value { string_value: "unknown_service" } } } and the same as a label: for a
# process that could not be described. The name is the one that the resource conventions give.
cdef const char *UNKNOWN_RESOURCE = b"\x0a\x21\x0a\x0cservice.name\x12\x11\x0a\x0funknown_service"
cdef const char *UNKNOWN_LABELS = b'"service_name":"unknown_service","source":"zerospan"'

cdef const char *STREAMS = b'{"streams":['
cdef const char *STREAM = b'{"stream":{'
cdef const char *VALUES = b'},"values":['


cdef uint64_t hash_bytes(const uint8_t *p, size_t n) noexcept nogil:
    """FNV-1a; only to find equal labels of our own faster, equality is checked."""
    cdef uint64_t h = <uint64_t>0xCBF29CE484222325ULL
    cdef size_t i
    for i in range(n):
        h = (h ^ p[i]) * <uint64_t>0x100000001B3ULL
    return h


cdef int by_time(const void *a, const void *b) noexcept nogil:
    """qsort is not stable: equal times keep their order of arrival by their place."""
    cdef const Entry *x = <const Entry *>a
    cdef const Entry *y = <const Entry *>b
    if x.ns != y.ns:
        return 1 if x.ns > y.ns else -1
    return 1 if x.at > y.at else -1


cdef Slice describe(BatchKind kind, const Proc *me) noexcept nogil:
    cdef Slice head = slice_of(NULL, 0)
    if me != NULL:
        head = me.labels if kind == BATCH_LOKI else me.resource
    if head.n == 0:
        head.p = <const uint8_t *>(UNKNOWN_LABELS if kind == BATCH_LOKI else UNKNOWN_RESOURCE)
        head.n = <uint32_t>strlen(<const char *>head.p)
    return head


cdef inline uint8_t *put(uint8_t *w, const void *p, size_t n) noexcept nogil:
    memcpy(w, p, n)
    return w + n


cdef inline uint8_t *put_text(uint8_t *w, const char *text) noexcept nogil:
    return put(w, text, strlen(text))


cdef inline uint8_t *put_field(uint8_t *w, uint8_t tag, size_t n) noexcept nogil:
    w[0] = tag
    return varint_put(w + 1, n)


cdef inline size_t field_size(size_t n) noexcept nogil:
    """A length-delimited field with n bytes and a one-byte tag."""
    return 1 + varint_size(n) + n


cdef class BatchEncoder:
    def __cinit__(self, str kind):
        if kind not in KINDS:
            raise ValueError(f"no kind of batch named {kind!r}; there are {', '.join(KINDS)}")
        self.kind = KINDS[kind]
        self.generation = 1
        self.shelf = Shelf()
        scope = b"\x0a\x08zerospan\x12" + bytes([len(__version__)]) + __version__.encode()
        self.scope = b"\x0a" + bytes([len(scope)]) + scope
        self.scope_n = len(self.scope)
        self.size = SPARE

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.cap_groups):
            buf_free(&self.groups[i].head)
            buf_free(&self.groups[i].body)
            free(self.groups[i].entries)
        free(self.groups)
        free(self.seats)

    cdef int add(
        self, const SpanRec *r, const SpanContext *c, uint32_t proc_index, const Proc *me, const Proc *peer
    ) noexcept nogil:
        cdef Group *g = self._group(proc_index, me)
        cdef size_t before
        if g == NULL:
            return -1
        before = g.body.n
        if self.kind == BATCH_TRACES:
            otlp_span(&g.body, r, c, me, peer)
        elif self.kind == BATCH_LOGS:
            otlp_log(&g.body, r, c, me, peer)
        elif self._entry(g, r.end_ns + c.wall_offset) == 0:
            loki_entry(&g.body, r, c, me, peer)
            buf_byte(&g.body, 44)                # each value with its comma: take() leaves out the last one
        else:
            g.body.failed = True
        if g.body.failed:
            g.body.n = before                    # half a span is no span; the next one may be smaller
            g.body.failed = False
            return -1
        if self.kind == BATCH_LOKI:
            g.entries[g.n].n = g.body.n - before
        g.n += 1
        self.count += 1
        self.size += g.body.n - before
        return 0

    cdef int _entry(self, Group *g, uint64_t ns) noexcept nogil:
        """Room for one more entry, begun at the end of the body."""
        cdef uint32_t cap
        cdef Entry *grown
        if g.n == g.cap:
            cap = g.cap * 2 if g.cap else 256
            grown = <Entry *>realloc(g.entries, cap * sizeof(Entry))
            if grown == NULL:
                return -1
            g.entries = grown
            g.cap = cap
        g.entries[g.n].ns = ns
        g.entries[g.n].at = g.body.n
        return 0

    cdef void renew(self, uint32_t proc_index) noexcept nogil:
        if proc_index < self.n_seats:
            self.seats[proc_index].generation = 0

    cdef Group *_group(self, uint32_t proc_index, const Proc *me) noexcept nogil:
        """The group of a process; NULL without memory."""
        cdef Seat *grown
        cdef uint32_t n
        if proc_index >= self.n_seats:
            if proc_index >= SEATS_MAX:
                return NULL
            n = self.n_seats * 2 if self.n_seats else 64
            while n <= proc_index:
                n *= 2
            grown = <Seat *>realloc(self.seats, n * sizeof(Seat))
            if grown == NULL:
                return NULL
            memset(grown + self.n_seats, 0, (n - self.n_seats) * sizeof(Seat))
            self.seats = grown
            self.n_seats = n
        if self.seats[proc_index].generation != self.generation:
            n = self._find(describe(self.kind, me))
            if n == SEATS_MAX:
                return NULL
            self.seats[proc_index].group = n
            self.seats[proc_index].generation = self.generation
        return &self.groups[self.seats[proc_index].group]

    cdef uint32_t _find(self, Slice head) noexcept nogil:
        """A new group; for Loki the one with equal labels if there is one. SEATS_MAX without memory."""
        cdef uint64_t h = 0
        cdef uint32_t i
        cdef uint32_t n
        cdef Group *g
        if self.kind == BATCH_LOKI:              # as many as there are streams: Loki itself takes 5000
            h = hash_bytes(head.p, head.n)
            for i in range(self.n_groups):
                g = &self.groups[i]
                if g.hash == h and g.head.n == head.n and memcmp(g.head.p, head.p, head.n) == 0:
                    return i
        if self.n_groups == self.cap_groups:
            n = self.cap_groups * 2 if self.cap_groups else 16
            g = <Group *>realloc(self.groups, n * sizeof(Group))
            if g == NULL:
                return SEATS_MAX
            memset(g + self.cap_groups, 0, (n - self.cap_groups) * sizeof(Group))
            self.groups = g
            self.cap_groups = n
        g = &self.groups[self.n_groups]
        buf_put(&g.head, head.p, head.n)
        if g.head.failed:
            g.head.failed = False
            return SEATS_MAX
        g.hash = h
        self.n_groups += 1
        self.size += head.n + self.scope_n + SPARE
        return self.n_groups - 1

    def full(self, size_t limit_bytes):
        """Whether the batch has reached this size and should be taken."""
        return self.count > 0 and self.size >= limit_bytes

    def take(self):
        """The whole request body (a view of memory that is used again once it is let go), and how many requests are in it.

        None if there is none. The batch is empty then.
        """
        cdef uint32_t count = self.count
        if count == 0:
            return None
        body = self._loki() if self.kind == BATCH_LOKI else self._otlp()
        self._reset()
        return memoryview(body), count

    def clear(self):
        """Throws the batch away; returns how many requests were in it."""
        cdef uint32_t count = self.count
        self._reset()
        return count

    cdef void _reset(self) noexcept:
        cdef uint32_t i
        cdef Group *g
        for i in range(self.cap_groups):
            g = &self.groups[i]
            if g.body.n < g.body.cap // 4:
                buf_free(&g.body)
            if g.n < g.cap // 4:
                free(g.entries)
                g.entries = NULL
                g.cap = 0
            g.body.n = 0
            g.head.n = 0
            g.n = 0
        self.n_groups = 0
        self.count = 0
        self.size = SPARE
        self.generation += 1
        if self.generation == 0:                 # after 2^32 batches no seat may look taken
            memset(self.seats, 0, self.n_seats * sizeof(Seat))
            self.generation = 1

    cdef Payload _otlp(self):
        """resource_spans = 1 / resource_logs = 1 of: resource = 1, scope_spans = 2 / scope_logs = 2 of: scope = 1, spans..."""
        cdef size_t total = 0
        cdef size_t scope_n = self.scope_n
        cdef const char *scope = self.scope
        cdef size_t inner
        cdef Group *g
        cdef uint8_t *w
        cdef Payload out
        cdef uint32_t i
        for i in range(self.n_groups):
            g = &self.groups[i]
            if g.n:
                total += field_size(field_size(g.head.n) + field_size(scope_n + g.body.n))
        out = payload_new(self.shelf, total)
        w = out.p
        for i in range(self.n_groups):
            g = &self.groups[i]
            if g.n == 0:                         # its only spans found no memory
                continue
            inner = scope_n + g.body.n
            w = put_field(w, 0x0A, field_size(g.head.n) + field_size(inner))
            w = put_field(w, 0x0A, g.head.n)
            w = put(w, g.head.p, g.head.n)
            w = put_field(w, 0x12, inner)
            w = put(w, scope, scope_n)
            w = put(w, g.body.p, g.body.n)
        return out

    cdef Payload _loki(self):
        cdef size_t total = strlen(STREAMS) + 2
        cdef Group *g
        cdef uint8_t *w
        cdef Payload out
        cdef uint32_t i
        cdef uint32_t j
        cdef bint first = True
        for i in range(self.n_groups):
            g = &self.groups[i]
            if g.n:                              # its values without the last comma, "]}", and a comma before all but the first
                total += strlen(STREAM) + g.head.n + strlen(VALUES) + g.body.n - 1 + 2 + (0 if first else 1)
                first = False
        out = payload_new(self.shelf, total)
        w = put_text(out.p, STREAMS)
        first = True
        for i in range(self.n_groups):
            g = &self.groups[i]
            if g.n == 0:
                continue
            if not first:
                w = put_text(w, b",")
            first = False
            w = put_text(w, STREAM)
            w = put(w, g.head.p, g.head.n)
            w = put_text(w, VALUES)
            sort_entries(g)
            for j in range(g.n):
                w = put(w, g.body.p + g.entries[j].at, g.entries[j].n - (1 if j + 1 == g.n else 0))
            w = put_text(w, b"]}")
        put_text(w, b"]}")
        return out


cdef void sort_entries(Group *g) noexcept nogil:
    cdef uint32_t i
    for i in range(1, g.n):
        if g.entries[i].ns < g.entries[i - 1].ns:
            qsort(g.entries, g.n, sizeof(Entry), by_time)
            return
