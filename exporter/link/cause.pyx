# cython: language_level=3, boundscheck=True, wraparound=False
"""When a process sends a request, which request is it serving? See cause.pxd for the events.

Evidence, best first:

1. An id on the wire (trace context, X-Request-ID) that came in with one open request and goes out with another.
2. A blocking thread. Forward: it has read exactly one request that is not answered. Backward, where another thread
   read the request (Puma's reactor): whoever writes the answer made the calls since its last answer, if all of them
   have been answered. Where both speak and differ, there is no link.
3. nginx, an event loop that handles one event at a time: a call belongs to the request whose event directly precedes it
   on the thread, or during whose event its connection was asked for. Backward, the answer that directly follows the
   call's answer should be that request's. It need not (a body may be read in between without a record), but where
   a request is answered before its own call was, or two requests each follow the other's call, there is no link.

4. HAProxy, Envoy: link/proxies.pyx.

A thread that was seen with two open requests at once is an event loop; nothing is said about its calls (but by ids).
Measured in shared/reference/async.md; counted against ground truth in tests/net.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from zerospan.exporter.assemble.span cimport (
    LINK_ENVOY, LINK_HAPROXY, LINK_NGINX, LINK_NONE, LINK_REQUEST_ID, LINK_THREAD,
)
from zerospan.exporter.link.ids cimport mix64
from zerospan.exporter.link.proxies cimport ORDER_HAPROXY, Proxies
from zerospan.exporter.link.requests cimport (
    CAUSE_DOUBTFUL, CAUSE_KNOWN, CAUSE_NONE, CAUSE_PENDING, Request, Requests,
)

cdef enum:
    MAX_IDS = 1 << 17


cdef class Causes:
    def __cinit__(self, Requests requests):
        self.requests = requests
        self.proxies = Proxies(requests)
        self.mask = 255
        self.ids_mask = 1023
        self.threads = <Thread *>calloc(self.mask + 1, sizeof(Thread))
        self.ids = <IdSlot *>calloc(self.ids_mask + 1, sizeof(IdSlot))
        if self.threads == NULL or self.ids == NULL:
            raise MemoryError("zerospan: no memory for the threads' table")

    def __dealloc__(self):
        cdef uint64_t i
        if self.threads != NULL:
            for i in range(self.mask + 1):
                free(self.threads[i].calls)
        free(self.threads)
        free(self.ids)

    def nbytes(self):
        return (self.mask + 1) * sizeof(Thread) + (self.ids_mask + 1) * sizeof(IdSlot) \
            + self.proxies.nbytes()

    # ---- threads -----------------------------------------------------------------------------------

    cdef Thread *thread(self, uint32_t tid, uint32_t tgid, uint64_t now) noexcept nogil:
        """The thread's entry, made if need be; NULL if there is no memory. A number that another process
        uses now starts afresh."""
        cdef uint64_t i = mix64(tid) & self.mask
        cdef Thread *t
        while self.threads[i].tid:
            t = &self.threads[i]
            if t.tid == tid:
                if t.tgid != tgid:
                    free(t.calls)
                    memset(t, 0, sizeof(Thread))
                    t.tid = tid
                    t.tgid = tgid
                t.seen_ns = now
                return t
            i = (i + 1) & self.mask
        if 2 * (self.n + 1) > self.mask:
            if self.grow() < 0:
                return NULL
            return self.thread(tid, tgid, now)
        t = &self.threads[i]
        memset(t, 0, sizeof(Thread))
        t.tid = tid
        t.tgid = tgid
        t.seen_ns = now
        self.n += 1
        return t

    cdef int grow(self) noexcept nogil:
        cdef uint64_t mask = 2 * self.mask + 1, i, j
        cdef Thread *threads = <Thread *>calloc(mask + 1, sizeof(Thread))
        if threads == NULL:
            return -1
        for i in range(self.mask + 1):
            if self.threads[i].tid:
                j = mix64(self.threads[i].tid) & mask
                while threads[j].tid:
                    j = (j + 1) & mask
                threads[j] = self.threads[i]
        free(self.threads)
        self.threads = threads
        self.mask = mask
        return 0

    cdef void expire(self, uint64_t now, uint64_t idle_ns) noexcept nogil:
        """Forgets threads and ids that were silent for idle_ns."""
        self.proxies.expire(now, idle_ns)
        cdef Thread *old = self.threads
        cdef Thread *fresh
        cdef IdSlot *old_ids = self.ids
        cdef IdSlot *fresh_ids
        cdef uint64_t i, j
        fresh = <Thread *>calloc(self.mask + 1, sizeof(Thread))
        if fresh != NULL:
            self.n = 0
            for i in range(self.mask + 1):
                if not old[i].tid:
                    continue
                if old[i].open == 0 and old[i].streaming == 0 and now - old[i].seen_ns > idle_ns:
                    free(old[i].calls)
                    continue
                j = mix64(old[i].tid) & self.mask
                while fresh[j].tid:
                    j = (j + 1) & self.mask
                fresh[j] = old[i]
                self.n += 1
            self.threads = fresh
            free(old)
        fresh_ids = <IdSlot *>calloc(self.ids_mask + 1, sizeof(IdSlot))
        if fresh_ids != NULL:
            self.n_ids = 0
            for i in range(self.ids_mask + 1):
                if not old_ids[i].hash or (old_ids[i].open == 0 and now - old_ids[i].seen_ns > idle_ns):
                    continue
                j = old_ids[i].hash & self.ids_mask
                while fresh_ids[j].hash:
                    j = (j + 1) & self.ids_mask
                fresh_ids[j] = old_ids[i]
                self.n_ids += 1
            self.ids = fresh_ids
            free(old_ids)

    cdef int add_call(self, Thread *t, uint64_t key, uint64_t cause, uint64_t now) noexcept nogil:
        cdef Call *calls
        cdef uint32_t cap
        if t.n_calls >= MAX_CALLS:
            self.calls_forgotten += 1
            return -1
        if t.n_calls == t.cap_calls:
            cap = t.cap_calls * 2 if t.cap_calls else 4
            calls = <Call *>realloc(t.calls, cap * sizeof(Call))
            if calls == NULL:
                self.calls_forgotten += 1
                return -1
            t.calls = calls
            t.cap_calls = cap
        t.calls[t.n_calls].key = key
        t.calls[t.n_calls].cause = cause
        t.calls[t.n_calls].sent_ns = now
        t.calls[t.n_calls].answered = 0
        t.n_calls += 1
        return 0

    # ---- ids on the wire ---------------------------------------------------------------------------

    cdef IdSlot *id_slot(self, uint64_t hash, bint make, uint64_t now) noexcept nogil:
        cdef uint64_t i = hash & self.ids_mask
        cdef IdSlot *fresh
        cdef uint64_t mask, j, k
        if hash == 0:
            return NULL
        while self.ids[i].hash:
            if self.ids[i].hash == hash:
                return &self.ids[i]
            i = (i + 1) & self.ids_mask
        if not make:
            return NULL
        if self.n_ids >= MAX_IDS:
            self.ids_refused += 1
            return NULL
        if 2 * (self.n_ids + 1) > self.ids_mask:
            mask = 2 * self.ids_mask + 1
            fresh = <IdSlot *>calloc(mask + 1, sizeof(IdSlot))
            if fresh == NULL:
                return NULL
            for k in range(self.ids_mask + 1):
                if self.ids[k].hash:
                    j = self.ids[k].hash & mask
                    while fresh[j].hash:
                        j = (j + 1) & mask
                    fresh[j] = self.ids[k]
            free(self.ids)
            self.ids = fresh
            self.ids_mask = mask
            i = hash & mask
            while self.ids[i].hash:
                i = (i + 1) & mask
        memset(&self.ids[i], 0, sizeof(IdSlot))
        self.ids[i].hash = hash
        self.n_ids += 1
        return &self.ids[i]

    cdef void forget_id(self, uint64_t hash, uint64_t key) noexcept nogil:
        """The request that brought the id has been answered."""
        cdef IdSlot *s = self.id_slot(hash, False, 0)
        if s == NULL or s.open == 0:
            return
        s.open -= 1
        if s.open == 0:
            self.drop_id(s - self.ids)
        elif s.key == key:
            s.ambiguous = 1   # others that brought it are still open: which of them a call serves is not known

    cdef void drop_id(self, uint64_t at) noexcept nogil:
        """Empties a slot and closes the gap."""
        cdef uint64_t hole = at, i = at, home
        while True:
            i = (i + 1) & self.ids_mask
            if self.ids[i].hash == 0:
                break
            home = self.ids[i].hash & self.ids_mask
            if ((i - home) & self.ids_mask) >= ((i - hole) & self.ids_mask):
                self.ids[hole] = self.ids[i]
                hole = i
        self.ids[hole].hash = 0
        self.n_ids -= 1

    # ---- the four events ---------------------------------------------------------------------------

    cdef void id_in(self, uint64_t hash, uint64_t key, uint64_t now) noexcept nogil:
        cdef IdSlot *s = self.id_slot(hash, True, now)
        if s == NULL:
            return
        if s.open:
            s.ambiguous = 1
            self.ambiguous += 1
        else:
            s.ambiguous = 0
            s.key = key
            s.is_call = 0
        s.open += 1
        s.seen_ns = now

    cdef uint64_t id_out(self, uint64_t hash, uint64_t key, bint keep, uint64_t now) noexcept nogil:
        cdef IdSlot *s = self.id_slot(hash, keep, now)
        if s == NULL or s.ambiguous or s.key == key:
            return 0
        if s.key and not s.is_call:
            return s.key
        if s.key == 0:
            s.key = key
            s.is_call = 1
            s.seen_ns = now
        return 0

    cdef void answer_names(self, uint64_t hash, uint64_t key) noexcept nogil:
        cdef IdSlot *s = self.id_slot(hash, False, 0)
        cdef Request *r
        if s == NULL or not s.is_call or s.key == 0 or s.ambiguous:
            return
        r = self.requests.find(s.key)
        if r != NULL and ((r.cause == 0 and r.cause_state != CAUSE_DOUBTFUL)
                          or r.cause_method == LINK_HAPROXY or r.cause_method == LINK_ENVOY):
            self.requests.set_cause(s.key, key, LINK_REQUEST_ID, CAUSE_KNOWN)
        s.key = 0

    cdef void id_back(self, uint64_t hash, uint64_t key, uint64_t now) noexcept nogil:
        cdef IdSlot *s = self.id_slot(hash, True, now)
        if s == NULL or s.key == key:
            return
        if s.key:
            if s.is_call:
                s.ambiguous = 1   # two calls, and which of their answers is passed on is not known
                self.ambiguous += 1
            return
        s.key = key
        s.is_call = 1
        s.ambiguous = 0
        s.seen_ns = now

    cdef void inbound(self, Profile p, uint32_t tgid, uint32_t tid, uint64_t key, uint64_t now) noexcept nogil:
        cdef Thread *t = self.thread(tid, tgid, now)
        if t == NULL:
            return
        t.open += 1
        if p.order:
            self.proxies.inbound(p.order, tgid, tid, key, p.fresh, now)
        if t.open > 1 and not p.is_nginx:
            # A loop, or the records of its last answer were lost: either way it was not known what the calls were for.
            t.is_loop = 1
            self.take_back(t)
        elif t.open == 1:
            t.n_calls = 0
        t.current = key
        t.streaming = 0
        t.context = key
        t.last_answer = 0

    cdef void resumed(self, uint32_t tgid, uint32_t tid, uint64_t key, uint64_t now) noexcept nogil:
        cdef Thread *t = self.thread(tid, tgid, now)
        if t != NULL:
            t.context = key
            t.last_answer = 0

    cdef uint64_t connecting(self, Profile p, uint32_t tgid, uint32_t tid, uint64_t now) noexcept nogil:
        cdef Thread *t
        if p.order:
            return self.proxies.connecting(p.order, tgid, tid, now)
        if not p.is_nginx:
            return 0
        t = self.thread(tid, tgid, now)
        return t.context if t != NULL else 0

    cdef void outbound(self, Profile p, uint32_t tgid, uint32_t tid, uint64_t key, uint64_t by_id, uint8_t method,
                       uint64_t bound, uint32_t others_open, uint64_t now) noexcept nogil:
        cdef Thread *t = self.thread(tid, tgid, now)
        cdef Request *r
        cdef uint64_t cause = by_id
        if p.order:
            cause = self.proxies.outbound(p.order, tgid, tid, key, by_id, bound, p.fresh, now)
            if by_id:
                cause = by_id
            else:
                method = LINK_HAPROXY if p.order == ORDER_HAPROXY else LINK_ENVOY
        elif t != NULL and not by_id:
            if p.is_nginx:
                cause = bound if bound else t.context
                method = LINK_NGINX
            elif p.is_loop or t.is_loop:
                self.ambiguous += t.open > 0
            elif t.open == 1 and t.current:
                cause = t.current
                method = LINK_THREAD
            elif t.open == 0 and t.streaming and not t.is_worker:
                cause = t.streaming
                method = LINK_THREAD
        if cause:
            self.requests.set_cause(key, cause, method, CAUSE_KNOWN)
            r = self.requests.find(key)
            if r != NULL:
                r.by_order = method in (LINK_NGINX, LINK_HAPROXY, LINK_ENVOY)
            r = self.requests.find(cause)
            if r != NULL:
                r.call = key
        elif others_open:
            r = self.requests.find(key)
            if r != NULL:
                r.cause_state = CAUSE_PENDING
        if t == NULL:
            return
        t.context = 0
        t.last_answer = 0
        # a call of a process that serves nothing at this moment waits for no answer that could tell
        if not by_id and not p.is_nginx and not p.is_loop and not t.is_loop and (cause or others_open):
            self.add_call(t, key, cause, now)

    cdef void answer_in(self, Profile p, uint32_t tgid, uint32_t tid, uint64_t key, uint64_t now) noexcept nogil:
        cdef Thread *t = self.thread(tid, tgid, now)
        cdef Request *r
        cdef uint32_t i
        if t == NULL:
            return
        if p.is_nginx:
            r = self.requests.find(key)
            t.context = 0
            if r != NULL:
                t.context = r.cause if r.cause_state != CAUSE_DOUBTFUL else 0
                r.answered = 1
            t.last_answer = key
            return
        if p.order:
            self.proxies.answer_in(p.order, tgid, tid, key, now)
            return
        i = t.n_calls
        while i > 0:
            i -= 1
            if t.calls[i].key == key:
                t.calls[i].answered = 1
                break

    cdef void answer_out(self, Profile p, uint32_t tgid, uint32_t tid, uint32_t read_tid, uint64_t key, uint64_t began_ns,
                         bint ended, uint64_t now) noexcept nogil:
        cdef Thread *t
        cdef Thread *reader
        cdef Request *r
        cdef uint32_t i
        cdef bint sequential
        reader = self.thread(read_tid, tgid, now)
        if reader != NULL:
            if reader.open:
                reader.open -= 1
            if reader.current == key:
                reader.current = 0
        t = self.thread(tid, tgid, now)
        if t == NULL:
            return
        if tid != read_tid:
            t.is_worker = 1
        if p.is_nginx:
            if t.last_answer:
                self.judge_nginx(t.last_answer, key)
            t.context = 0
            t.last_answer = 0
            return
        if p.order:
            self.proxies.answer_out(p.order, tgid, tid, key, now)
        if p.is_loop or t.is_loop:
            t.n_calls = 0
            return
        # The thread that writes the answer made the calls, if it has no other request of its own open.
        sequential = t.open == 0
        for i in range(t.n_calls):
            if not t.calls[i].answered and i + 1 < t.n_calls:
                sequential = False
        for i in range(t.n_calls):
            if t.calls[i].cause == key:
                continue
            if t.calls[i].cause:
                r = self.requests.find(t.calls[i].key)
                if r != NULL and r.cause_method == LINK_THREAD:
                    self.disagreements += 1
                    self.requests.set_cause(t.calls[i].key, 0, LINK_NONE, CAUSE_DOUBTFUL)
            elif sequential and t.calls[i].sent_ns >= began_ns:
                self.requests.set_cause(t.calls[i].key, key, LINK_THREAD, CAUSE_KNOWN)
                r = self.requests.find(t.calls[i].key)
                if r != NULL:
                    r.by_order = 1
            elif t.calls[i].sent_ns >= began_ns:
                self.ambiguous += 1
        t.n_calls = 0
        t.streaming = 0 if ended else key

    cdef void judge_nginx(self, uint64_t call, uint64_t key) noexcept nogil:
        """The answer of `key` was written right after that of `call` was read."""
        cdef Request *r = self.requests.find(call)
        cdef Request *request
        cdef Request *own
        cdef uint64_t cause, other
        if r == NULL or r.cause == key or r.cause_state == CAUSE_DOUBTFUL:
            return
        if r.cause == 0:
            self.requests.set_cause(call, key, LINK_NGINX, CAUSE_KNOWN)
            r = self.requests.find(call)
            if r != NULL:
                r.by_order = 1
            return
        if r.cause_method != LINK_NGINX:
            return
        cause = r.cause
        request = self.requests.find(key)
        other = request.call if request != NULL else 0
        own = self.requests.find(other)
        if other and (own == NULL or (own.answered and own.vote != cause)):
            r.vote = key
            return
        self.disagreements += 1
        self.requests.set_cause(call, 0, LINK_NONE, CAUSE_DOUBTFUL)
        if own != NULL:
            self.requests.set_cause(other, 0, LINK_NONE, CAUSE_DOUBTFUL)

    cdef void take_back(self, Thread *t) noexcept nogil:
        cdef uint32_t i
        cdef Request *r
        for i in range(t.n_calls):
            r = self.requests.find(t.calls[i].key)
            if r != NULL and r.cause and r.cause_method == LINK_THREAD:
                self.disagreements += 1
                self.requests.set_cause(r.key, 0, LINK_NONE, CAUSE_DOUBTFUL)
        t.n_calls = 0

    cdef void stray(self, Profile p, uint32_t tgid, uint32_t tid, bint sent, uint64_t now) noexcept nogil:
        cdef Thread *t = self.thread(tid, tgid, now)
        cdef Request *r
        if t == NULL:
            return
        if p.is_nginx:
            r = self.requests.find(t.last_answer) if sent else NULL
            if r != NULL and r.cause and r.cause_method == LINK_NGINX:
                self.disagreements += 1
                self.requests.set_cause(r.key, 0, LINK_NONE, CAUSE_DOUBTFUL)
            t.context = 0
            t.last_answer = 0
        elif sent:
            self.take_back(t)
            t.streaming = 0

    cdef void gone(self, uint32_t tid, uint64_t key, bint answered, bint doubt) noexcept nogil:
        cdef uint64_t i = mix64(tid) & self.mask
        cdef Thread *t
        if not answered:
            self.proxies.gone(tid, key)
        while self.threads[i].tid:
            t = &self.threads[i]
            if t.tid == tid:
                if not answered:
                    if doubt and t.current == key:
                        self.take_back(t)
                    if t.open:
                        t.open -= 1
                    if t.current == key:
                        t.current = 0
                if t.streaming == key:
                    t.streaming = 0
                if t.context == key:
                    t.context = 0
                return
            i = (i + 1) & self.mask
