# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""RED metrics (rate, errors, duration) of all spans, before any sampling, from which /metrics is made.

observe() is called once for each span that leaves; it fills a key with label values and counts in the table of that
kind (families.py has the names, series.pyx the tables, graph.pyx the edges). A mutex lets a scrape read meanwhile; it is
held for microseconds on both sides, and the GIL is never asked for while it is held.

Bounded: label values that remote parties choose (`max_values` for each service and label), series (`max_series`, as lines
of the exposition) and memory (`max_bytes`). What goes beyond is counted in series that say so, see series.pyx.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

import dataclasses

from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport (
    KIND_CLIENT, SPAN_ERROR, SPAN_OK, STR_COLLECTION, STR_DOMAIN, STR_OPERATION, STR_ROUTE, STR_STATUS, STR_TARGET, SpanContext,
    SpanRec, span_str, speaks_http,
)
from zerospan.exporter.encode.name cimport error_type, http_method, server_address, span_name
from zerospan.exporter.metrics import families
from zerospan.exporter.metrics.graph cimport graph_observe
from zerospan.exporter.metrics.series cimport Budget, Key, SERIES_MAX, Series, Table, VALUE_MAX, key_begin, key_put
from zerospan.exporter.metrics.text cimport write_u64
from zerospan.exporter.proto.base cimport PROTO_DNS, PROTO_POSTGRES, PROTO_REDIS
from zerospan.exporter.proto.cursor cimport Slice, slice_of

cdef enum:
    SWEEP_STEP = 512         # series looked at in one tick


cdef inline void put_text(Key *k, const char *text, uint32_t n) noexcept nogil:
    key_put(k, <const uint8_t *>text, n)


cdef inline void put_slice(Key *k, Slice s) noexcept nogil:
    key_put(k, s.p, s.n)


cdef inline void put_number(Key *k, uint32_t v) noexcept nogil:
    cdef uint8_t digits[24]
    key_put(k, digits, <uint32_t>(write_u64(digits, v) - digits))


cdef inline void put_process(Key *k, const Proc *me) noexcept nogil:
    # Escaped text must not be cut: longer than any real one is taken for none.
    key_put(k, me.series.p, me.series.n if me.series.n <= SERIES_MAX else 0, SERIES_MAX)


cdef inline void put_error(Key *k, const SpanRec *r) noexcept nogil:
    cdef uint8_t text[VALUE_MAX]
    key_put(k, text, error_type(r, text, VALUE_MAX))


cdef inline void put_server(Key *k, const SpanRec *r) noexcept nogil:
    cdef uint8_t text[VALUE_MAX]
    cdef uint16_t port
    key_put(k, text, server_address(r, text, VALUE_MAX, &port))
    put_number(k, port)


cdef class Red:
    """All request metrics.

    max_series: lines of the exposition; max_bytes: memory of the series in bytes; ttl_s: seconds without a change after
    which a series is forgotten; max_values: distinct values of a capped label for each service; body_sizes: also
    histograms of HTTP body sizes; exemplars: keep a trace id for each histogram.
    """

    def __cinit__(self, *, uint64_t max_series=200_000, uint64_t max_bytes=32 << 20, double ttl_s=300,
                  uint32_t max_values=100, bint body_sizes=False, bint exemplars=True):
        kinds = list(families.KINDS)
        if pthread_mutex_init(&self.mutex, NULL) != 0:
            raise MemoryError
        if body_sizes:
            for i, side in ((KIND_HTTP_SERVER, "server"), (KIND_HTTP_CLIENT, "client")):
                kinds[i] = dataclasses.replace(kinds[i], histograms=kinds[i].histograms + families.body_sizes(side))
        self.exemplars = exemplars
        self.ttl_ns = <uint64_t>(ttl_s * 1e9)
        self.budget = Budget(max_series, max_bytes)
        self.limiter = Limiter(max_values)
        self.targets = Targets()
        self.tables = [Table(kind, self.budget, self.limiter) for kind in kinds]
        for i, table in enumerate(self.tables):
            self.table[i] = <void *>table
        self.sweeping = KINDS_N

    def __dealloc__(self):
        pthread_mutex_destroy(&self.mutex)

    def target_info(self, uint32_t proc, bytes series, bytes labels):
        """A process's job and instance (as ProcessInfo.series) and its target_info's further labels, escaped and without braces:
        b'k8s_pod_name="a",os_type="linux"'. What was counted under an earlier name stays there.

        proc: its index in Processes. Call it when the process is described, and when a label changes.
        """
        cdef Slice s = slice_of(<const uint8_t *><const char *>series, <uint32_t>len(series))
        cdef Slice l = slice_of(<const uint8_t *><const char *>labels, <uint32_t>len(labels))
        cdef bint ok
        with nogil:
            pthread_mutex_lock(&self.mutex)
            ok = self.targets.put(proc, s, l)
            pthread_mutex_unlock(&self.mutex)
        if not ok:
            raise MemoryError(f"target_info of process {proc}: no memory, or no index of a process")

    cdef void retire(self, uint32_t proc) noexcept nogil:
        pthread_mutex_lock(&self.mutex)
        self.targets.retire(proc)
        pthread_mutex_unlock(&self.mutex)

    def self_metrics(self):
        """Own counters for Exposition.render(extra=...): what was capped, dropped, forgotten."""
        cdef Table table
        series, dropped, replaced = [], [], []
        for table in self.tables:
            labels = {"family": table.kind.name}
            series.append((labels, table.n * table.lines))
            dropped.append((labels, table.dropped))
            replaced += [({**labels, "label": name}, n) for name, n in table.replaced_values().items()]
        return [
            ("zerospan_series", "gauge", "Series of request metrics, as lines of the exposition.", series),
            ("zerospan_series_bytes", "gauge", "Memory of these series.", [({}, self.budget.bytes)]),
            ("zerospan_series_dropped_total", "counter",
             "Observations that found no room for a series of their own and went to the overflow series.", dropped),
            ("zerospan_series_expired_total", "counter", "Series forgotten because nothing was observed for the TTL.",
             [({}, self.budget.expired)]),
            ("zerospan_label_values_capped_total", "counter",
             f"Observations whose label value was beyond the limit for their service and became {families.OVERFLOW_VALUE}.",
             replaced),
        ]

    cdef void observe(self, const SpanRec *r, const SpanContext *c, const Proc *me, const Proc *peer) noexcept nogil:
        cdef Series *s = NULL
        cdef int kind
        cdef uint64_t duration = r.end_ns - r.start_ns if r.end_ns > r.start_ns else 0
        if me == NULL or me.hidden:
            return
        pthread_mutex_lock(&self.mutex)
        self.observed += 1
        self.targets.touch(r.proc, me.series, self.now_ns)
        kind = r.kind == KIND_CLIENT
        if speaks_http(r):
            s = self.http(r, me)
            kind = KIND_HTTP_CLIENT if kind else KIND_HTTP_SERVER
        elif r.proto == PROTO_POSTGRES or r.proto == PROTO_REDIS:
            s = self.database(r, me)
            kind = KIND_DB_CLIENT if kind else KIND_DB_SERVER
        elif r.proto == PROTO_DNS:
            s = self.dns(r, me)
            kind = KIND_DNS_CLIENT if kind else KIND_DNS_SERVER
        if s != NULL:
            self.measure(<Table>self.table[kind], s, r, c, duration)
        s = self.span(r, me)
        if s != NULL:
            self.measure(<Table>self.table[KIND_SPANS], s, r, c, duration)
        if peer == NULL or not peer.hidden:
            graph_observe(<Table>self.table[KIND_EDGES], r, c, me, peer, duration, self.exemplars and not c.untraced, self.now_ns)
        pthread_mutex_unlock(&self.mutex)

    cdef void measure(self, Table table, Series *s, const SpanRec *r, const SpanContext *c, uint64_t duration) noexcept nogil:
        cdef uint32_t bucket = table.observe(s, 0, duration)
        if self.exemplars and not c.untraced:
            table.exemplar(s, bucket, duration, c.trace_id, c.span_id, c.wall_offset + r.end_ns)
        if table.n_parts == 3:   # HTTP with body sizes
            if r.request_size >= 0:
                table.observe(s, 1, <uint64_t>r.request_size)
            if r.response_size >= 0:
                table.observe(s, 2, <uint64_t>r.response_size)

    cdef Series *http(self, const SpanRec *r, const Proc *me) noexcept nogil:
        cdef Key k
        cdef uint8_t text[VALUE_MAX]
        cdef bint client = r.kind == KIND_CLIENT
        key_begin(&k)
        put_process(&k, me)
        key_put(&k, text, http_method(r, text, VALUE_MAX))
        if not client:
            put_text(&k, b"http", 4)
            put_slice(&k, span_str(r, STR_ROUTE))
        if r.code >= 0:
            put_number(&k, <uint32_t>r.code)
        else:
            put_text(&k, b"", 0)
        put_error(&k, r)
        if r.version == 10:
            put_text(&k, b"1.0", 3)
        elif r.version == 11:
            put_text(&k, b"1.1", 3)
        else:
            put_text(&k, b"", 0)
        if client:
            put_server(&k, r)
            return (<Table>self.table[KIND_HTTP_CLIENT]).get(&k, me.service, True, self.now_ns)
        return (<Table>self.table[KIND_HTTP_SERVER]).get(&k, me.service, True, self.now_ns)

    cdef Series *database(self, const SpanRec *r, const Proc *me) noexcept nogil:
        cdef Key k
        key_begin(&k)
        put_process(&k, me)
        if r.proto == PROTO_REDIS:
            put_text(&k, b"redis", 5)
        else:
            put_text(&k, b"postgresql", 10)
        put_slice(&k, span_str(r, STR_OPERATION))
        put_slice(&k, span_str(r, STR_COLLECTION))
        put_slice(&k, span_str(r, STR_DOMAIN))
        put_slice(&k, span_str(r, STR_STATUS))
        put_error(&k, r)
        if r.kind == KIND_CLIENT:
            put_server(&k, r)
            return (<Table>self.table[KIND_DB_CLIENT]).get(&k, me.service, True, self.now_ns)
        return (<Table>self.table[KIND_DB_SERVER]).get(&k, me.service, True, self.now_ns)

    cdef Series *dns(self, const SpanRec *r, const Proc *me) noexcept nogil:
        cdef Key k
        cdef uint8_t text[VALUE_MAX]
        cdef Slice name = span_str(r, STR_TARGET)
        cdef uint32_t i
        key_begin(&k)
        put_process(&k, me)
        # Names are compared without case (RFC 4343), and some resolvers write them in random case.
        for i in range(name.n if name.n < VALUE_MAX else <uint32_t>VALUE_MAX):
            text[i] = name.p[i] + 32 if 65 <= name.p[i] <= 90 else name.p[i]
        key_put(&k, text, name.n if name.n < VALUE_MAX else <uint32_t>VALUE_MAX)
        put_error(&k, r)
        if r.kind == KIND_CLIENT:
            return (<Table>self.table[KIND_DNS_CLIENT]).get(&k, me.service, True, self.now_ns)
        return (<Table>self.table[KIND_DNS_SERVER]).get(&k, me.service, True, self.now_ns)

    cdef Series *span(self, const SpanRec *r, const Proc *me) noexcept nogil:
        cdef Key k
        cdef uint8_t text[VALUE_MAX]
        key_begin(&k)
        put_process(&k, me)
        put_slice(&k, me.name)
        key_put(&k, text, span_name(r, text, VALUE_MAX))
        if r.kind == KIND_CLIENT:
            put_text(&k, b"SPAN_KIND_CLIENT", 16)
        else:
            put_text(&k, b"SPAN_KIND_SERVER", 16)
        if r.status == SPAN_ERROR:
            put_text(&k, b"STATUS_CODE_ERROR", 17)
        elif r.status == SPAN_OK:
            put_text(&k, b"STATUS_CODE_OK", 14)
        else:
            put_text(&k, b"STATUS_CODE_UNSET", 17)
        return (<Table>self.table[KIND_SPANS]).get(&k, me.service, True, self.now_ns)

    cdef uint64_t oldest(self) noexcept nogil:
        """Series that changed before this are forgotten."""
        return self.now_ns - self.ttl_ns if self.now_ns > self.ttl_ns else 0

    cdef void tick(self, uint64_t now_ns) noexcept nogil:
        pthread_mutex_lock(&self.mutex)
        self.now_ns = now_ns
        if self.sweeping == KINDS_N and now_ns >= self.sweep_ns:
            self.sweeping = 0
            self.sweep_ns = now_ns + self.ttl_ns // 8
        if self.sweeping < KINDS_N and not self.rendering:
            if (<Table>self.table[self.sweeping]).sweep(self.oldest(), SWEEP_STEP):
                self.sweeping += 1
        pthread_mutex_unlock(&self.mutex)
