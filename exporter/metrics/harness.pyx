# cython: language_level=3, boundscheck=True, wraparound=False
"""Spans fed from Python: metrics and routes as the agent runs them, without a socket.

Used by the tests and by `make bench` (scrape of 10k and 100k series); not on the hot path.
"""

import socket

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport SpanContext, SpanRec, STR_MAX
from zerospan.exporter.metrics.exposition cimport Exposition
from zerospan.exporter.metrics.red cimport Red
from zerospan.exporter.metrics.routes cimport Routes
from zerospan.exporter.proto.cursor cimport Slice, slice_of

PROTO = {"http": 1, "redis": 2, "postgresql": 3, "dns": 4}
KIND = {"server": 2, "client": 3}
STATUS = {"unset": 0, "ok": 1, "error": 2}
REASON = {"": 0, "timeout": 1, "connection_reset": 2, "connection_closed": 3, "tcp_timeout": 4, "not_seen": 5}
STRINGS = (
    "operation", "target", "query", "domain", "collection", "status_text", "message", "agent", "route", "request_id", "peer",
)
PROCS_MAX = 65536


cdef Slice slice_bytes(bytes raw):
    return slice_of(<const uint8_t *><const char *>raw, <uint32_t>len(raw))


def labels(**values):
    """Prometheus labels as Proc.series holds them: escaped, without braces."""
    escape = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
    return ",".join(f'{name}="{value.translate(escape)}"' for name, value in values.items()).encode()


cdef class Feeder:
    """Processes, and spans of them, into one Red, one Routes and one Exposition. Options are those of Red."""

    cdef readonly Red red
    cdef readonly Routes routes
    cdef readonly Exposition exposition
    cdef Proc *procs
    cdef uint32_t n
    cdef list keep
    cdef dict services
    cdef uint64_t now_ns

    def __cinit__(self, *, routes=None, **options):
        self.procs = <Proc *>calloc(PROCS_MAX, sizeof(Proc))
        if self.procs == NULL:
            raise MemoryError
        self.n = 1
        self.keep = []
        self.services = {"": 0}
        self.red = Red(**options)
        self.routes = routes if routes is not None else Routes()
        self.exposition = Exposition(self.red, self.routes, self.service_names)

    def __dealloc__(self):
        free(self.procs)

    def service_names(self):
        """{service number: name}"""
        return {number: name for name, number in self.services.items()}

    def process(self, str name, str instance="host:1", *, bint hidden=False, bytes series=None):
        """A new process; returns its index. series: its labels instead of job and instance."""
        cdef Proc *p = &self.procs[self.n]
        if self.n + 1 == PROCS_MAX:
            raise ValueError(f"the harness holds {PROCS_MAX} processes")
        owned = [name.encode(), series if series is not None else labels(job=name, instance=instance)]
        self.keep.append(owned)
        p.service = self.services.setdefault(name, len(self.services))
        p.hidden = hidden
        p.name = slice_bytes(owned[0])
        p.series = slice_bytes(owned[1])
        self.n += 1
        return self.n - 1

    def target_info(self, uint32_t proc, bytes labels):
        """Further labels of a process's target_info."""
        self.red.target_info(proc, (<const char *>self.procs[proc].series.p)[:self.procs[proc].series.n], labels)

    def observe(self, uint32_t proc, str kind="server", str proto="http", *, uint32_t peer=0, bint peer_seen=False,
                str status="unset", str reason="", int code=-1, int version=0, uint64_t duration_ns=1_000_000,
                request_size=-1, response_size=-1, str local="127.0.0.1:8080", str remote="127.0.0.1:40000",
                bytes trace_id=b"\x01" * 16, uint64_t span_id=2, uint64_t wall_ns=1_700_000_000_000_000_000,
                int times=1, **strings):
        """One span (or the same `times`). Strings as bytes: operation, target, domain, collection, status_text, route...

        local, remote: "address:port" or "[address]:port".
        """
        cdef SpanContext c
        cdef SpanRec *r
        cdef bytes block
        cdef int i
        if proc == 0 or proc >= self.n or peer >= self.n:
            raise ValueError(f"process {proc} or {peer} is not one of process()")
        texts = [strings.pop(name, b"") for name in STRINGS]
        if strings:
            raise TypeError(f"unknown fields {sorted(strings)}; strings are {STRINGS}")
        block = bytes(sizeof(SpanRec)) + b"".join(texts)
        r = <SpanRec *><char *>block         # ours alone: just made, and not shared
        r.size = <uint32_t>len(block)
        r.proto = PROTO[proto]
        r.kind = KIND[kind]
        r.status = STATUS[status]
        r.reason = REASON[reason]
        r.start_ns = 1_000_000_000
        r.end_ns = r.start_ns + duration_ns
        r.proc = proc
        r.code = code
        r.rows = -1
        r.request_size = request_size
        r.response_size = response_size
        r.version = <uint16_t>version
        for i in range(STR_MAX):
            r.n[i] = <uint16_t>len(texts[i])
        self._endpoint(local, &r.family, r.local_addr, &r.local_port)
        self._endpoint(remote, &r.family, r.remote_addr, &r.remote_port)
        memset(&c, 0, sizeof(c))
        memcpy(c.trace_id, <const char *>trace_id, 16)
        c.span_id = span_id
        c.wall_offset = wall_ns - r.end_ns
        c.peer_proc = peer
        c.peer_seen = peer_seen
        with nogil:
            for i in range(times):
                self.red.observe(r, &c, &self.procs[proc], &self.procs[peer] if peer else NULL)

    cdef int _endpoint(self, str text, uint8_t *family, uint8_t *addr, uint16_t *port) except -1:
        host, _, number = text.rpartition(":")
        family[0] = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        cdef bytes raw = socket.inet_pton(family[0], host.strip("[]"))
        memcpy(addr, <const char *>raw, len(raw))
        port[0] = int(number)
        return 0

    def tick(self, double seconds, int times=1):
        """The clock of the TTL moves on, and the drain turns `times`."""
        cdef int i
        self.now_ns += <uint64_t>(seconds * 1e9)
        for i in range(times):
            self.red.tick(self.now_ns)

    def route(self, str service, bytes path, *, bint known=False):
        """The template of a path of a service (by name); known: route_if_known."""
        cdef uint32_t number = self.services.setdefault(service, len(self.services))
        cdef Slice s
        if known:
            s = self.routes.route_if_known(number, slice_bytes(path))
        else:
            s = self.routes.route(number, slice_bytes(path))
        return (<const char *>s.p)[:s.n] if s.n else b""

    def render(self, bint openmetrics=False, extra=()):
        """The text of a scrape."""
        return self.exposition.render(openmetrics, extra)

    def fill(self, int n_series):
        """At least `n_series` lines of synthetic HTTP server series, of 20 services with 50 routes each; returns how many.

        Labels are of usual length; the limits of Red must allow as many.
        """
        cdef int lines = self.red.tables[0].lines
        cdef int wanted = (n_series + lines - 1) // lines
        cdef int i
        before = self.red.tables[0].n
        processes = [self.process(f"service-{i}", f"node-17.example.internal:{4000 + self.n}") for i in range(20)]
        for i in range(wanted):
            route = f"/api/v1/resource-{chr(97 + i // 20 % 25)}/{{id}}/part-{i // 500}".encode()
            self.observe(processes[i % 20], "server", "http", code=200 if i % 5 else 404, version=11, operation=b"GET",
                         route=route, duration_ns=(i % 14 + 1) * 3_000_000)
        made = (self.red.tables[0].n - before) * lines
        if made < n_series:
            raise ValueError(f"only {made} of {n_series} series fit; give Feeder a larger max_series and max_bytes")
        return made
