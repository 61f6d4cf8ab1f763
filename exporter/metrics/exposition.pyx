# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""All metrics as text 0.0.4 or OpenMetrics 1.0 (with exemplars), a family at a time.

The labels of a series are text already, so that a line is two copies and a number; times are kept in ns and written
as exact decimals of seconds. Works without the GIL and holds Red's mutex for 64 series at a time, so that neither the
drain nor another thread waits for a scrape. What is scraped is therefore not one instant for all families; each series
is consistent in itself.
Called by sinks/prometheus.py for each scrape.
"""

import re
import threading

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.encode.buf cimport Buf, buf_free, buf_put, buf_reserve
from zerospan.exporter.encode.digits cimport put_hex, put_hex64
from zerospan.exporter.metrics.red cimport KINDS_N, Red, pthread_mutex_lock, pthread_mutex_unlock
from zerospan.exporter.metrics.routes cimport Routes
from zerospan.exporter.metrics.series cimport Part, Series, Table, series_labels, series_values
from zerospan.exporter.metrics.text cimport write_bytes, write_ns, write_u64
from zerospan.exporter.proto.cursor cimport Slice

cdef enum:
    BATCH = 64               # series written while the mutex is held
    LINE_EXTRA = 256         # bytes of a line besides name and labels: suffix, le, number, exemplar

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
SUFFIX = {"counter": "_total", "info": "_info"}  # OpenMetrics: of the samples, not of the family


def header(str name, str kind, str help, bint openmetrics):
    """The HELP and TYPE lines of a family; `name` is that of its samples (a histogram's without _bucket)."""
    if openmetrics:
        name = name.removesuffix(SUFFIX.get(kind, ""))
    elif kind == "info":
        kind = "gauge"
    text = help.replace("\\", "\\\\").replace("\n", "\\n")
    if openmetrics:
        text = text.replace('"', '\\"')
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def label_text(labels):
    """Labels as they stand between braces, values escaped."""
    for name in labels:
        if not LABEL.match(name):
            raise ValueError(f"label name {name!r} is not a Prometheus label name; use letters, digits and underscores")
    return ",".join(
        '%s="%s"' % (name, str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
        for name, value in labels.items()
    )


def number(value):
    """A value as the shortest text that gives it back."""
    if isinstance(value, int):
        return str(int(value))
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return repr(float(value))


def families_text(metrics, bint openmetrics):
    """Families that come as (name, type, help, [(labels, value)]): type is counter (name in _total), gauge or info (_info)."""
    grouped = {}
    for name, kind, help, samples in metrics:
        if kind not in ("counter", "gauge", "info") or not NAME.match(name) or not name.endswith(SUFFIX.get(kind, "")):
            raise ValueError(
                f"metric {name!r} of type {kind!r}: the type must be counter (name ends in _total), info (_info) or gauge"
            )
        grouped.setdefault(name, (kind, help, []))[2].extend(samples)
    out = []
    for name, (kind, help, samples) in grouped.items():
        if samples:
            out.append(header(name, kind, help, openmetrics))
        for labels, value in samples:
            text = label_text(labels)
            out.append(f"{name}{{{text}}} {number(value)}\n" if text else f"{name} {number(value)}\n")
    return "".join(out)


cdef class Exposition:
    """What /metrics shows: `red`, its own counters, those of `routes`, and what the caller adds.

    service_names: Callable[[], Mapping[int, str]] of the numbers that Routes counts by; the number itself if None.
    """

    def __cinit__(self, Red red not None, Routes routes=None, service_names=None):
        cdef Table t
        cdef uint32_t i
        self.red = red
        self.routes = routes
        self.service_names = service_names
        self.one_at_a_time = threading.Lock()
        self.keep = []
        for i, t in enumerate(red.tables):
            at = 0
            for counter in t.kind.counters:
                shape = SHAPE_COUNTER if counter.count_of is None else SHAPE_COUNT
                self.add(i, shape, at if counter.count_of is None else counter.count_of, counter, "counter", ())
                at += counter.count_of is None
            for part, histogram in enumerate(t.kind.histograms):
                self.add(i, SHAPE_HISTOGRAM, part, histogram, "histogram", histogram.bounds)

    cdef Slice text(self, str text):
        cdef bytes raw = text.encode()
        cdef Slice s
        self.keep.append(raw)
        s.p = <const uint8_t *><const char *>raw
        s.n = len(raw)
        return s

    cdef int add(self, uint32_t table, uint32_t shape, uint32_t at, family, str kind, tuple bounds) except -1:
        cdef Family *f
        cdef uint32_t i
        if self.n_families == 24 or len(bounds) > 16:
            raise ValueError(f"{family.name}: no room in exposition.pxd, Family or Exposition.families is too small")
        f = &self.families[self.n_families]
        self.n_families += 1
        f.table = table
        f.shape = shape
        f.at = at
        f.name = self.text(family.name)
        f.head[0] = self.text(header(family.name, kind, family.help, False))
        f.head[1] = self.text(header(family.name, kind, family.help, True))
        for i, bound in enumerate((*bounds, "+Inf")):
            f.le[i] = self.text(f'le="{bound}"}} ')
        return 0

    def render(self, bint openmetrics=False, extra=()):
        """The whole text, with "# EOF" for OpenMetrics.

        extra: further families as [(name, type, help, [(labels, value)])], see families_text.
        """
        cdef Buf out
        cdef bytes more
        cdef uint32_t i
        own = list(self.red.self_metrics())
        if self.routes is not None:
            own += self.routes.self_metrics(self.service_names() if self.service_names is not None else {})
        with self.one_at_a_time:
            out.p = NULL
            out.n = out.cap = 0
            out.failed = False
            try:
                with nogil:
                    buf_reserve(&out, self.last_size + self.last_size // 8)
                    pthread_mutex_lock(&self.red.mutex)
                    self.red.rendering += 1
                    pthread_mutex_unlock(&self.red.mutex)
                    for i in range(self.n_families):
                        self.family(&out, <Table>self.red.table[self.families[i].table], &self.families[i], openmetrics)
                    pthread_mutex_lock(&self.red.mutex)
                    self.red.rendering -= 1
                    pthread_mutex_unlock(&self.red.mutex)
                more = (self.target_info(openmetrics) + families_text([*own, *extra], openmetrics)).encode("utf-8", "replace")
                if openmetrics:
                    more += b"# EOF\n"
                buf_put(&out, <const char *>more, len(more))
                if out.failed:
                    raise MemoryError(f"no memory for the exposition of {self.red.budget.series} series")
                self.last_size = out.n
                return (<const char *>out.p)[:out.n]
            finally:
                buf_free(&out)

    cdef str target_info(self, bint openmetrics):
        cdef Buf raw
        cdef bytes dumped
        raw.p = NULL
        raw.n = raw.cap = 0
        raw.failed = False
        with nogil:
            pthread_mutex_lock(&self.red.mutex)
            self.red.targets.dump(&raw, self.red.oldest())
            pthread_mutex_unlock(&self.red.mutex)
        dumped = (<const char *>raw.p)[:raw.n] if raw.n else b""
        buf_free(&raw)
        fields = iter(dumped.decode("utf-8", "replace").split("\0"))
        # Two processes with the same job and instance would be two values for one join: the last one stands.
        by_series = dict(zip(fields, fields))  # in pairs; the empty text after the last NUL finds no partner
        if not by_series:
            return ""
        return header("target_info", "info", "Attributes of a process instance.", openmetrics) + "".join(
            f"target_info{{{series}{',' if labels else ''}{labels}}} 1\n" for series, labels in by_series.items()
        )

    cdef void family(self, Buf *out, Table t, Family *f, bint openmetrics) noexcept nogil:
        cdef uint32_t i = 0, stop
        cdef bint begun = False
        cdef Series *s
        cdef uint8_t *o
        cdef uint64_t count
        cdef uint64_t *buckets
        cdef uint32_t b
        while True:
            # Room for a usual batch, so that the buffer rarely grows while the mutex is held.
            buf_reserve(out, BATCH * t.lines * 256)
            pthread_mutex_lock(&self.red.mutex)
            stop = i + BATCH if i + BATCH < t.n_items else t.n_items
            for i in range(i, stop):
                s = t.items[i]
                if s == NULL or s.last_ns < self.red.oldest():
                    continue
                count = 0
                if f.shape == SHAPE_COUNTER:
                    count = series_values(s)[f.at]
                else:
                    buckets = series_values(s) + t.parts[f.at].at
                    for b in range(t.parts[f.at].n_bounds + 1):
                        count += buckets[b]
                    if count == 0:
                        continue
                if not begun:
                    buf_put(out, f.head[openmetrics].p, f.head[openmetrics].n)
                    begun = True
                if f.shape == SHAPE_HISTOGRAM:
                    self.histogram(out, t, f, s, openmetrics)
                elif buf_reserve(out, f.name.n + s.labels_n + LINE_EXTRA):
                    o = write_bytes(out.p + out.n, f.name.p, f.name.n)
                    o = write_bytes(o, b"{", 1)
                    o = write_bytes(o, series_labels(t, s), s.labels_n)
                    o = write_bytes(o, b"} ", 2)
                    o = write_u64(o, count)
                    o[0] = 10
                    out.n = o + 1 - out.p
            i = stop
            stop = t.n_items
            pthread_mutex_unlock(&self.red.mutex)
            if i >= stop:
                return

    cdef void histogram(self, Buf *out, Table t, Family *f, Series *s, bint openmetrics) noexcept nogil:
        cdef Part *h = &t.parts[f.at]
        cdef uint64_t *v = series_values(s) + h.at
        cdef const uint8_t *labels = series_labels(t, s)
        cdef const uint8_t *line
        cdef size_t line_n
        cdef uint8_t *o
        cdef uint64_t count = 0
        cdef uint32_t b
        if not buf_reserve(out, (h.n_bounds + 3) * (f.name.n + s.labels_n + <size_t>LINE_EXTRA)):
            return
        o = out.p + out.n
        line = o
        line_n = f.name.n + 8 + s.labels_n + 1
        for b in range(h.n_bounds + 1):
            count += v[b]
            if b == 0:
                o = write_bytes(o, f.name.p, f.name.n)
                o = write_bytes(o, b"_bucket{", 8)
                o = write_bytes(o, labels, s.labels_n)
                o = write_bytes(o, b",", 1)
            else:
                o = write_bytes(o, line, line_n)
            o = write_bytes(o, f.le[b].p, f.le[b].n)
            o = write_u64(o, count)
            if openmetrics and f.at == 0 and s.exemplar.is_set and s.exemplar.bucket == b:
                o = write_bytes(o, b' # {trace_id="', 14)
                o += put_hex(o, s.exemplar.trace_id, 16)
                o = write_bytes(o, b'",span_id="', 11)
                o += put_hex64(o, s.exemplar.span_id)
                o = write_bytes(o, b'"} ', 3)
                o = write_ns(o, s.exemplar.value)
                o = write_bytes(o, b" ", 1)
                o = write_ns(o, s.exemplar.wall_ns)
            o[0] = 10
            o += 1
        o = write_bytes(o, f.name.p, f.name.n)
        o = write_bytes(o, b"_sum{", 5)
        o = write_bytes(o, labels, s.labels_n)
        o = write_bytes(o, b"} ", 2)
        o = write_ns(o, v[h.n_bounds + 1]) if h.is_seconds else write_u64(o, v[h.n_bounds + 1])
        o[0] = 10
        o = write_bytes(o + 1, f.name.p, f.name.n)
        o = write_bytes(o, b"_count{", 7)
        o = write_bytes(o, labels, s.labels_n)
        o = write_bytes(o, b"} ", 2)
        o = write_u64(o, count)
        o[0] = 10
        out.n = o + 1 - out.p
