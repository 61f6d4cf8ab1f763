# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True
"""Routes: few templates (/r/{id}/products/{id}) for the many paths of a service, without knowing its framework.

Three limits, so that no client can make series without end:
  1. a segment that looks like a value becomes {id} (segment.pyx);
  2. a position that took more than `max_words` literal segments after the same prefix becomes {param}: tenants, slugs, user
     names. Half as many are allowed once half of the templates are used, a quarter after three quarters;
  3. a service has at most `limit` templates in its life; further paths become "/{other}" and are counted.

Slashes at the end and double ones are dropped, as is what follows ';', '?' or '#'; more than 16 segments end in "{rest}".
Templates are ASCII. One tree for all services, in an arena: a template stays where it is until this object dies. Memory is
bounded by `max_bytes`, work is linear in the path. One thread calls route(); counters may be read by another.
Called by assemble for each HTTP request; the result becomes http.route or url.template.
"""

import os

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from zerospan.exporter.metrics.hash cimport hash_bytes
from zerospan.exporter.metrics.segment cimport SEGMENT_MAX, segment_template
from zerospan.exporter.proto.cursor cimport Slice, slice_of

cdef enum:
    DEPTH_MAX = 16           # segments
    PATH_MAX = 4096          # bytes of a path that are looked at
    TEMPLATE_MAX = 1280      # > DEPTH_MAX * (SEGMENT_MAX + EXTENSION_MAX + 2)
    CHUNK = 16384
    SERVICES_MAX = 65536     # further services share number 0


cdef class Routes:
    """limit: templates a service; max_words: literal segments at one position; max_bytes: memory in bytes."""

    def __cinit__(self, *, uint32_t limit=200, uint32_t max_words=20, uint64_t max_bytes=8 << 20):
        if limit < 1 or max_words < 1:
            raise ValueError("limit and max_words must be at least 1; they are the number of routes kept")
        self.limit = limit
        self.max_words = max_words
        self.max_bytes = max_bytes
        self.seed = int.from_bytes(os.urandom(8), "little")
        self.n_slots = 64
        self.slots = <uint32_t *>calloc(self.n_slots, sizeof(uint32_t))
        self.n_nodes = 1
        if self.slots == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.n_chunks):
            free(self.chunks[i])
        free(self.chunks)
        free(self.slots)
        free(self.nodes)
        free(self.services)

    def stats(self):
        """For `zerospan status`: {"services", "templates", "collapsed", "capped", "bytes"}."""
        cdef uint32_t i
        seen = [(self.services[i].used, self.services[i].capped) for i in range(self.n_services) if self.services[i].root]
        return {
            "services": len(seen),
            "templates": sum(used for used, _ in seen),
            "collapsed": self.collapsed,
            "capped": self.unplaced + sum(capped for _, capped in seen),
            "bytes": self.bytes,
        }

    def self_metrics(self, names):
        """Own counters for Exposition.render(extra=...). names: Mapping of service numbers to names."""
        cdef uint32_t i
        used, capped = [], []
        for i in range(self.n_services):
            if self.services[i].root or self.services[i].capped:
                labels = {"service": names.get(i, str(i))}
                used.append((labels, self.services[i].used))
                capped.append((labels, self.services[i].capped))
        if self.unplaced:
            capped.append(({"service": ""}, self.unplaced))
        return [
            ("zerospan_routes", "gauge", "HTTP routes that the service has, of those that it may have.", used),
            ("zerospan_routes_capped_total", "counter",
             "Requests whose path found no room among the service's routes and became /{other}.", capped),
            ("zerospan_routes_collapsed_total", "counter",
             "Positions in paths that took too many different words and became {param}.", [({}, self.collapsed)]),
        ]

    cdef Slice route(self, uint32_t service, Slice path) noexcept nogil:
        return self.walk(service, path, True)

    cdef Slice route_if_known(self, uint32_t service, Slice path) noexcept nogil:
        return self.walk(service, path, False)

    cdef Slice walk(self, uint32_t service, Slice path, bint make) noexcept nogil:
        cdef Service *s
        cdef uint8_t template[TEMPLATE_MAX]
        cdef uint8_t scratch[16]
        cdef uint32_t n = 0, node, next, depth = 0
        cdef const uint8_t *p = path.p
        cdef const uint8_t *end
        cdef const uint8_t *start
        cdef Slice text
        cdef bint is_word
        if path.n == 1 and p[0] == 42:
            return slice_of(<const uint8_t *>b"*", 1)        # OPTIONS *
        if path.n == 0 or p[0] != 47:
            return slice_of(p, 0)
        s = self.service_of(service)
        if s == NULL:
            if not make:
                return slice_of(p, 0)
            self.unplaced += 1
            return slice_of(<const uint8_t *>b"/{other}", 8)
        node = s.root
        end = p + (path.n if path.n < PATH_MAX else <uint32_t>PATH_MAX)
        while p < end and p[0] != 63 and p[0] != 35:
            if p[0] == 47:
                p += 1
                continue
            start = p
            while p < end and p[0] != 47 and p[0] != 63 and p[0] != 35 and p[0] != 59:
                p += 1
            text = slice_of(start, <uint32_t>(p - start))
            while p < end and p[0] != 47 and p[0] != 63 and p[0] != 35:
                p += 1                                       # ;parameters of the segment (RFC 3986 section 3.3)
            if text.n == 0:
                continue
            depth += 1
            if depth == DEPTH_MAX:
                text = slice_of(<const uint8_t *>b"{rest}", 6)
                is_word = False
                p = end
            else:
                text = segment_template(text, scratch, &is_word)
            if is_word and self.nodes[node].is_param:
                text = slice_of(<const uint8_t *>b"{param}", 7)
                is_word = False
            next = self.child(node, text)
            if next == 0:
                if not make:
                    return slice_of(path.p, 0)
                if s.used >= self.limit:
                    return self.capped(s)
                if is_word and self.nodes[node].words >= self.words_allowed(s):
                    self.nodes[node].is_param = 1
                    self.collapsed += 1
                    text = slice_of(<const uint8_t *>b"{param}", 7)
                    is_word = False
                next = self.add(node, text)
                if next == 0:
                    return self.capped(s)
                self.nodes[node].words += is_word
            node = next
            template[n] = 47
            memcpy(template + n + 1, text.p, text.n)
            n += 1 + text.n
        if self.nodes[node].template == NULL:
            if not make:
                return slice_of(path.p, 0)
            if s.used >= self.limit:
                return self.capped(s)
            if n == 0:
                template[0] = 47
                n = 1
            self.nodes[node].template = self.keep(template, n)
            if self.nodes[node].template == NULL:
                return self.capped(s)
            self.nodes[node].template_n = n
            s.used += 1
        return slice_of(self.nodes[node].template, self.nodes[node].template_n)

    cdef Slice capped(self, Service *s) noexcept nogil:
        s.capped += 1
        return slice_of(<const uint8_t *>b"/{other}", 8)

    cdef uint32_t words_allowed(self, const Service *s) noexcept nogil:
        cdef uint32_t n = self.max_words
        if 4 * <uint64_t>s.used >= 3 * <uint64_t>self.limit:
            n //= 4
        elif 2 * <uint64_t>s.used >= self.limit:
            n //= 2
        return n if n else 1

    cdef Service *service_of(self, uint32_t service) noexcept nogil:
        """Its entry with a root, or NULL if there is no memory."""
        cdef uint32_t n = self.n_services if self.n_services else 64
        cdef Service *grown
        if service >= SERVICES_MAX:
            service = 0
        if service >= self.n_services:
            while n <= service:
                n *= 2
            if not self.take((n - self.n_services) * sizeof(Service)):
                return NULL
            grown = <Service *>realloc(self.services, n * sizeof(Service))
            if grown == NULL:
                return NULL
            memset(grown + self.n_services, 0, (n - self.n_services) * sizeof(Service))
            self.services = grown
            self.n_services = n
        if self.services[service].root == 0:
            self.services[service].root = self.add(0, slice_of(<const uint8_t *>&service, sizeof(service)))
            if self.services[service].root == 0:
                return NULL
        return &self.services[service]

    cdef uint32_t child(self, uint32_t parent, Slice text) noexcept nogil:
        cdef uint64_t h = hash_bytes(text.p, text.n, self.seed + parent)
        cdef uint32_t i = <uint32_t>h & (self.n_slots - 1)
        cdef Node *node
        while self.slots[i]:
            node = &self.nodes[self.slots[i]]
            if node.hash == h and node.parent == parent and node.text_n == text.n and memcmp(node.text, text.p, text.n) == 0:
                return self.slots[i]
            i = (i + 1) & (self.n_slots - 1)
        return 0

    cdef uint32_t add(self, uint32_t parent, Slice text) noexcept nogil:
        """A new node, or the one that is there; 0 if there is no memory."""
        cdef uint32_t i = self.child(parent, text)
        cdef Node *node
        if i:
            return i
        if (self.n_nodes >= self.cap_nodes or 2 * self.n_nodes >= self.n_slots) and not self.grow_nodes():
            return 0
        node = &self.nodes[self.n_nodes]
        memset(node, 0, sizeof(Node))
        node.text = self.keep(text.p, text.n)
        if node.text == NULL:
            return 0
        node.text_n = text.n
        node.parent = parent
        node.hash = hash_bytes(text.p, text.n, self.seed + parent)
        i = <uint32_t>node.hash & (self.n_slots - 1)
        while self.slots[i]:
            i = (i + 1) & (self.n_slots - 1)
        self.slots[i] = self.n_nodes
        self.n_nodes += 1
        return self.n_nodes - 1

    cdef bint grow_nodes(self) noexcept nogil:
        """Twice as many nodes, and slots for twice as many again."""
        cdef uint32_t cap = 2 * self.cap_nodes if self.cap_nodes else 64
        cdef uint32_t *slots
        cdef Node *nodes
        cdef uint32_t i, j
        if not self.take((cap - self.cap_nodes) * (sizeof(Node) + 4 * sizeof(uint32_t))):
            return False
        nodes = <Node *>realloc(self.nodes, cap * sizeof(Node))
        if nodes == NULL:
            return False
        self.nodes = nodes
        slots = <uint32_t *>calloc(4 * cap, sizeof(uint32_t))
        if slots == NULL:
            return False
        self.cap_nodes = cap
        for j in range(1, self.n_nodes):
            i = <uint32_t>nodes[j].hash & (4 * cap - 1)
            while slots[i]:
                i = (i + 1) & (4 * cap - 1)
            slots[i] = j
        free(self.slots)
        self.slots = slots
        self.n_slots = 4 * cap
        return True

    cdef bint take(self, uint64_t n) noexcept nogil:
        if self.bytes + n > self.max_bytes:
            return False
        self.bytes += n
        return True

    cdef const uint8_t *keep(self, const uint8_t *p, uint32_t n) noexcept nogil:
        """A copy that never moves; NULL if there is no room."""
        cdef uint8_t **grown
        cdef uint8_t *chunk
        if n > CHUNK:
            return NULL
        if self.n_chunks == 0 or n > self.chunk_left:
            if not self.take(CHUNK + sizeof(uint8_t *)):
                return NULL
            grown = <uint8_t **>realloc(self.chunks, (self.n_chunks + 1) * sizeof(uint8_t *))
            if grown == NULL:
                return NULL
            self.chunks = grown
            chunk = <uint8_t *>malloc(CHUNK)
            if chunk == NULL:
                return NULL
            self.chunks[self.n_chunks] = chunk
            self.n_chunks += 1
            self.chunk_left = CHUNK
        chunk = self.chunks[self.n_chunks - 1] + CHUNK - self.chunk_left
        memcpy(chunk, p, n)
        self.chunk_left -= n
        return chunk
