# cython: language_level=3, boundscheck=True, wraparound=False
"""Which request a proxy's call serves, by the order of events on its thread. Profiles of HAProxy and Envoy.

I: a request is read, c: a connection is asked for, O: a call is sent, U: its answer is read, R: the answer is written.

HAProxy (measured with 2.6, threads 1 and 2, every http-reuse, with and without keep-alive). A thread reads what is
there (I, U), then runs the streams' tasks in the order in which they were woken (c, O, R), then reads again: so requests
have their turn in the order in which they were read. (What has just been accepted is read at any time.) The first O of a new connection comes when it is connected, at any
time, and was settled by its c. A phase of reading and writing that ends with nobody waiting, and in which no c or O found
nobody, has given each request its own. Else: a c or O that finds nobody takes back the turns of this phase and the one
before (a health check may have taken somebody's); where somebody waits beyond the phase's end (a request that was skipped,
or a task that was put off), those turns hold only if the answers prove them: the request is answered by the answer of its
call that was read first. No request is answered before its call was. After several phases with somebody waiting (a
server's maxconn: the queue has an order of its own) nothing is concluded for a while, longer each time.

Envoy (1.40). Writes come in an order of their own, so only what cannot be otherwise is taken: each request has one call,
which is sent after the request was read and answered before the request is. A pair that is the only one possible for its
request or its call is sure, and is taken from the others' possibilities, which may leave them only one, too. This sorts out
few requests where dozens are in flight. An answer without a call is told by there being no call that was answered. It stands on "one call for each request": a call that finds nobody, and a request
whose calls all prove to be others' (retries, mirrors, authorisation), show that it does not hold; then the latest links are
taken back, and only the call of a thread that has a single request open is linked, until UNEVEN requests have come and gone
with one call each.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove, memset

from zerospan.exporter.assemble.span cimport LINK_ENVOY, LINK_HAPROXY, LINK_NONE
from zerospan.exporter.link.ids cimport mix64
from zerospan.exporter.link.requests cimport (
    CAUSE_DOUBTFUL, CAUSE_KNOWN, CAUSE_NONE, CAUSE_PENDING, Request, Requests,
)

cdef extern from * nogil:
    int __builtin_ctzll(unsigned long long)
    int __builtin_popcountll(unsigned long long)

cdef enum:
    MAX_BEHIND = 4           # phase ends in a row with somebody waiting: not the order of reading
    LIMBO = 2                # phases, doubled with each reset
    MAX_RESETS = 12
    CLEAN = 256              # phases that make up for one reset
    PROBATION = 64           # phases after a reset, all without a fault, until turns are believed again
    UNEVEN = 256
    RECENT = 64


cdef inline uint64_t bit(int i) noexcept nogil:
    return (<uint64_t>1) << i


cdef class Proxies:
    def __cinit__(self, Requests requests):
        self.requests = requests

    def __dealloc__(self):
        cdef int i
        for i in range(2 * MAX_WORKERS):
            free(self.workers[i])

    def nbytes(self):
        return sizeof(self.workers) + self.n * sizeof(Worker)

    # ---- threads -----------------------------------------------------------------------------------

    cdef Worker *known(self, uint32_t tid) noexcept nogil:
        cdef uint64_t i = mix64(tid) & (2 * MAX_WORKERS - 1)
        while self.workers[i] != NULL:
            if self.workers[i].tid == tid:
                return self.workers[i]
            i = (i + 1) & (2 * MAX_WORKERS - 1)
        return NULL

    cdef Worker *worker(self, uint32_t tid, uint32_t tgid, uint64_t now) noexcept nogil:
        """The thread's entry, made if need be; NULL if there is no room. A number that another process uses now starts
        afresh."""
        cdef Worker *w = self.known(tid)
        cdef uint64_t i
        if w == NULL:
            if self.n >= MAX_WORKERS:
                self.refused += 1
                return NULL
            w = <Worker *>calloc(1, sizeof(Worker))
            if w == NULL:
                self.refused += 1
                return NULL
            i = mix64(tid) & (2 * MAX_WORKERS - 1)
            while self.workers[i] != NULL:
                i = (i + 1) & (2 * MAX_WORKERS - 1)
            self.workers[i] = w
            self.n += 1
        if w.tgid != tgid:
            memset(w, 0, sizeof(Worker))
            w.tid = tid
            w.tgid = tgid
        w.seen_ns = now
        return w

    cdef void expire(self, uint64_t now, uint64_t idle_ns) noexcept nogil:
        """Forgets threads that were silent for idle_ns."""
        cdef Worker *kept[2 * MAX_WORKERS]
        cdef Worker *w
        cdef int i, n = 0
        cdef uint64_t at
        for i in range(2 * MAX_WORKERS):
            w = self.workers[i]
            self.workers[i] = NULL
            if w == NULL:
                continue
            if now - w.seen_ns > idle_ns:
                free(w)
                continue
            kept[n] = w
            n += 1
        self.n = n
        for i in range(n):
            at = mix64(kept[i].tid) & (2 * MAX_WORKERS - 1)
            while self.workers[at] != NULL:
                at = (at + 1) & (2 * MAX_WORKERS - 1)
            self.workers[at] = kept[i]

    # ---- the events --------------------------------------------------------------------------------

    cdef void inbound(self, uint8_t order, uint32_t tgid, uint32_t tid, uint64_t key, bint first,
                      uint64_t now) noexcept nogil:
        cdef Worker *w = self.worker(tid, tgid, now)
        cdef uint64_t room
        cdef int a
        if w == NULL:
            return
        if order == ORDER_HAPROXY:
            if not first:
                self.reading(w)
            if w.limbo == 0:
                if w.n_pending == QUEUE:
                    self.start_over(w)
                    return
                w.pending[w.n_pending] = key
                w.n_pending += 1
                if w.behind:
                    self.mark(key, VOTE_RETURN)
            return
        if ~w.reqs == 0:
            self.forget_all(w)
        room = ~w.reqs
        a = __builtin_ctzll(room)
        w.reqs |= bit(a)
        w.closed &= ~bit(a)
        w.sure_reqs &= ~bit(a)
        w.robbed &= ~bit(a)
        w.req_key[a] = key
        w.req_calls[a] = 0

    cdef uint64_t connecting(self, uint8_t order, uint32_t tgid, uint32_t tid, uint64_t now) noexcept nogil:
        cdef Worker *w
        cdef uint64_t request
        if order != ORDER_HAPROXY:
            return 0
        w = self.worker(tid, tgid, now)
        if w == NULL:
            return 0
        request = self.take_turn(w)
        self.wrote(w)
        return request

    cdef uint64_t outbound(self, uint8_t order, uint32_t tgid, uint32_t tid, uint64_t key, uint64_t by_id, uint64_t bound,
                           bint fresh, uint64_t now) noexcept nogil:
        cdef Worker *w = self.worker(tid, tgid, now)
        cdef Request *r
        cdef uint64_t request
        if w == NULL:
            return 0
        if order == ORDER_ENVOY:
            return self.match_call(w, key, by_id)
        if fresh:
            if bound == 0:
                self.let_pass(w)   # it may be for one of those that wait: its connection was there before (TCP mode)
            r = self.requests.find(bound)
            return bound if not by_id and r != NULL and r.vote != VOTE_VOID else 0
        if by_id and self.leave_queue(w, by_id):
            request = 0   # the others have their turns all the same
        else:
            request = self.take_turn(w)
        self.wrote(w)
        return 0 if by_id else request

    cdef void answer_in(self, uint8_t order, uint32_t tgid, uint32_t tid, uint64_t key, uint64_t now) noexcept nogil:
        cdef Worker *w = self.worker(tid, tgid, now)
        cdef Request *r
        cdef uint64_t left
        cdef int k
        if w == NULL:
            return
        if order == ORDER_HAPROXY:
            self.reading(w)
            r = self.requests.find(key)
            if r == NULL:
                return
            r.answered = 1
            self.no_cause(key)
            if r.cause and r.cause_method == LINK_HAPROXY:
                if w.n_answers == QUEUE:
                    w.n_answers = 0
                w.answers[w.n_answers] = key
                w.n_answers += 1
            return
        left = w.calls & ~w.answered
        while left:
            k = __builtin_ctzll(left)
            left &= left - 1
            if w.call_key[k] == key:
                w.answered |= bit(k)
                return
        self.no_cause(key)

    cdef void answer_out(self, uint8_t order, uint32_t tgid, uint32_t tid, uint64_t key, uint64_t now) noexcept nogil:
        cdef Worker *w = self.worker(tid, tgid, now)
        cdef uint64_t left
        cdef int a
        if w == NULL:
            return
        if order == ORDER_HAPROXY:
            if not self.leave_queue(w, key):
                self.passed_on(w, key)
            self.wrote(w)
            return
        left = w.reqs & ~w.closed
        while left:
            a = __builtin_ctzll(left)
            left &= left - 1
            if w.req_key[a] == key:
                self.close_request(w, a)
                return
        if w.strangers:
            w.strangers -= 1

    cdef void gone(self, uint32_t tid, uint64_t key) noexcept nogil:
        cdef Worker *w = self.known(tid)
        cdef uint64_t left
        cdef int a, k
        if w == NULL:
            return
        self.leave_queue(w, key)
        left = w.reqs & ~w.closed
        while left:
            a = __builtin_ctzll(left)
            left &= left - 1
            if w.req_key[a] != key:
                continue
            w.reqs &= ~bit(a)
            left = w.req_calls[a]
            if w.sure_reqs & bit(a):
                self.no_cause(w.call_key[__builtin_ctzll(left)])
                w.calls &= ~left
                return
            w.stray_calls |= left   # one of these may have been its own
            while left:
                k = __builtin_ctzll(left)
                left &= left - 1
                w.call_reqs[k] &= ~bit(a)
            self.follow(w)
            return
        if w.strangers:
            w.strangers -= 1

    # ---- HAProxy -----------------------------------------------------------------------------------

    cdef void wrote(self, Worker *w) noexcept nogil:
        w.writing = 1
        w.n_passed = w.n_pending

    cdef void reading(self, Worker *w) noexcept nogil:
        """The thread reads: if it has written, a phase has ended."""
        cdef uint32_t i, n = 0
        if not w.writing:
            return
        w.writing = 0
        w.phase += 1
        if w.limbo:
            w.limbo -= 1
        elif w.n_passed:
            w.behind += 1
            w.clean = 0
            if w.resets:
                self.one_too_many(w)   # it is known of this thread that it may be misleading
            for i in range(min(w.n_passed, w.n_pending)):
                self.mark(w.pending[i], VOTE_RETURN)
            for i in range(w.n_turns):
                if w.turns[i].phase + 1 == w.phase:
                    self.mark(w.turns[i].request, VOTE_RETURN)
            if w.behind > MAX_BEHIND:
                self.start_over(w)
        else:
            w.behind = 0
            w.clean += 1
            if w.clean >= CLEAN and w.resets:
                w.resets -= 1
                w.clean = PROBATION
        for i in range(w.n_turns):
            if w.behind or w.turns[i].phase + 1 >= w.phase:
                w.turns[n] = w.turns[i]
                n += 1
        w.n_turns = n

    cdef uint64_t take_turn(self, Worker *w) noexcept nogil:
        """The request whose turn it is; 0 if that is not known."""
        cdef uint64_t key
        if w.limbo:
            return 0
        if w.n_pending == 0:
            self.one_too_many(w)
            w.clean = 0
            return 0
        key = w.pending[0]
        w.n_pending -= 1
        memmove(&w.pending[0], &w.pending[1], w.n_pending * sizeof(uint64_t))
        if w.resets and w.clean < PROBATION:
            self.mark(key, VOTE_VOID)
            return 0
        if w.n_turns == QUEUE:
            self.one_too_many(w)
        w.turns[w.n_turns].request = key
        w.turns[w.n_turns].phase = w.phase
        w.n_turns += 1
        return key

    cdef bint leave_queue(self, Worker *w, uint64_t key) noexcept nogil:
        """It waits no more; False if it did not wait."""
        cdef uint32_t i
        for i in range(w.n_pending):
            if w.pending[i] == key:
                w.n_pending -= 1
                memmove(&w.pending[i], &w.pending[i + 1], (w.n_pending - i) * sizeof(uint64_t))
                return True
        return False

    cdef void one_too_many(self, Worker *w) noexcept nogil:
        """A call came when nobody waited: an earlier one may have taken its turn."""
        cdef uint32_t i
        for i in range(w.n_turns):
            self.refuse(w.turns[i].request)
        w.n_turns = 0

    cdef void let_pass(self, Worker *w) noexcept nogil:
        """Nothing is known of those that wait."""
        cdef uint32_t i
        for i in range(w.n_pending):
            self.mark(w.pending[i], VOTE_VOID)
        self.ambiguous += w.n_pending
        w.n_pending = 0
        w.n_passed = 0

    cdef void start_over(self, Worker *w) noexcept nogil:
        """Requests do not have their turns in the order in which they were read."""
        self.one_too_many(w)
        self.let_pass(w)
        w.behind = 0
        w.limbo = LIMBO << w.resets
        if w.resets < MAX_RESETS:
            w.resets += 1

    cdef void mark(self, uint64_t request, uint8_t vote) noexcept nogil:
        cdef Request *r = self.requests.find(request)
        if r != NULL and r.vote != VOTE_VOID:
            r.vote = vote

    cdef void refuse(self, uint64_t request) noexcept nogil:
        """What was concluded of this request's turn is taken back."""
        cdef Request *r = self.requests.find(request)
        cdef Request *call
        cdef uint64_t key
        if r == NULL:
            return
        r.vote = VOTE_VOID
        key = r.call
        call = self.requests.find(key)
        if call != NULL and call.cause == request and call.cause_method == LINK_HAPROXY:
            self.disagreements += 1
            self.requests.set_cause(key, 0, LINK_NONE, CAUSE_DOUBTFUL)

    cdef void passed_on(self, Worker *w, uint64_t key) noexcept nogil:
        """A request is answered: by the answer of its call?"""
        cdef Request *r = self.requests.find(key)
        cdef Request *call
        cdef uint64_t own = r.call if r != NULL else 0
        cdef uint32_t i, n = 0
        cdef bint first = False
        if own == 0:
            return
        for i in range(w.n_answers):   # without those that were taken back meanwhile
            call = self.requests.find(w.answers[i])
            if call == NULL or call.cause == 0:
                continue
            if w.answers[i] == own:
                first = n == 0
                continue
            w.answers[n] = w.answers[i]
            n += 1
        w.n_answers = n
        call = self.requests.find(own)
        if call == NULL or call.cause != key or call.cause_method != LINK_HAPROXY:
            return
        if not call.answered or (r.vote == VOTE_RETURN and not first):
            self.refuse(key)

    # ---- Envoy -------------------------------------------------------------------------------------

    cdef uint64_t match_call(self, Worker *w, uint64_t key, uint64_t by_id) noexcept nogil:
        cdef uint64_t may = w.reqs & ~w.closed & ~w.sure_reqs, left
        cdef uint64_t opened = w.reqs & ~w.closed
        cdef int n = __builtin_popcountll(opened), a, k
        cdef uint64_t alone = 0
        if n == 1 and w.strangers == 0:
            alone = w.req_key[__builtin_ctzll(opened)]
            if not may:
                self.not_even(w)   # its second
                return alone
        if by_id:
            left = may
            may = 0
            while left:
                a = __builtin_ctzll(left)
                left &= left - 1
                if w.req_key[a] == by_id:
                    may = bit(a)
            if not may:
                return 0
        elif not may:
            if w.strangers == 0:
                self.not_even(w)
            return 0
        if ~w.calls == 0:
            self.forget_all(w)
            return alone
        k = __builtin_ctzll(~w.calls)
        w.calls |= bit(k)
        w.answered &= ~bit(k)
        w.sure_calls &= ~bit(k)
        w.stray_calls &= ~bit(k)
        if w.strangers and not by_id:
            w.stray_calls |= bit(k)
        w.call_key[k] = key
        w.call_reqs[k] = may
        left = may
        while left:
            a = __builtin_ctzll(left)
            left &= left - 1
            w.req_calls[a] |= bit(k)
        self.follow(w)
        return alone

    cdef void pair(self, Worker *w, int a, int k) noexcept nogil:
        """The call serves the request: neither is possible for any other."""
        cdef uint64_t left = w.req_calls[a] & ~bit(k)
        cdef int i
        while left:
            i = __builtin_ctzll(left)
            left &= left - 1
            w.call_reqs[i] &= ~bit(a)
        left = w.call_reqs[k] & ~bit(a)
        w.robbed |= left
        while left:
            i = __builtin_ctzll(left)
            left &= left - 1
            w.req_calls[i] &= ~bit(k)
        w.req_calls[a] = bit(k)
        w.call_reqs[k] = bit(a)
        w.sure_reqs |= bit(a)
        w.sure_calls |= bit(k)

    cdef void follow(self, Worker *w) noexcept nogil:
        """Pairs whatever has only one possibility left, until there is no more of it."""
        cdef uint64_t left, may
        cdef bint more = True
        cdef int a, k
        while more:
            more = False
            left = w.calls & ~w.sure_calls
            while left:
                k = __builtin_ctzll(left)
                left &= left - 1
                may = w.call_reqs[k]
                if may == 0:
                    # those that it could serve have others; with a stranger's, that is no surprise
                    if not w.stray_calls & bit(k):
                        self.not_even(w)
                    self.no_cause(w.call_key[k])
                    w.calls &= ~bit(k)
                elif not may & (may - 1) and not w.stray_calls & bit(k):
                    self.pair(w, __builtin_ctzll(may), k)
                    more = True
            left = w.reqs & w.closed & ~w.sure_reqs
            while left:
                a = __builtin_ctzll(left)
                left &= left - 1
                may = w.req_calls[a]
                if may == 0:
                    if w.robbed & bit(a):
                        self.not_even(w)   # what was possible for it went to others: one of these had none
                    w.reqs &= ~bit(a)
                elif not may & (may - 1):
                    self.pair(w, a, __builtin_ctzll(may))
                    more = True
            left = w.reqs & w.closed & w.sure_reqs
            while left:
                a = __builtin_ctzll(left)
                left &= left - 1
                self.finish(w, a)

    cdef void finish(self, Worker *w, int a) noexcept nogil:
        """A pair of which both have been answered."""
        cdef int k = __builtin_ctzll(w.req_calls[a])
        cdef uint64_t key = w.call_key[k], request = w.req_key[a]
        cdef Request *r = self.requests.find(key)
        w.reqs &= ~bit(a)
        w.calls &= ~bit(k)
        if not w.answered & bit(k):
            self.not_even(w)
            if r != NULL and r.cause == request and r.cause_method == LINK_ENVOY:
                self.disagreements += 1
                self.requests.set_cause(key, 0, LINK_NONE, CAUSE_DOUBTFUL)
            else:
                self.no_cause(key)
            return
        if w.uneven:
            w.uneven -= 1
            self.no_cause(key)
        elif r != NULL and r.cause == 0 and r.cause_state != CAUSE_DOUBTFUL:
            self.requests.set_cause(key, request, LINK_ENVOY, CAUSE_KNOWN)
            r = self.requests.find(key)
            if r != NULL:
                r.by_order = 1
            if w.n_turns == RECENT:
                w.n_turns -= 1
                memmove(&w.turns[0], &w.turns[1], w.n_turns * sizeof(Turn))
            w.turns[w.n_turns].request = request
            w.turns[w.n_turns].call = key
            w.n_turns += 1

    cdef void not_even(self, Worker *w) noexcept nogil:
        """Not every request has one call: what was concluded lately is taken back."""
        cdef Request *r
        cdef uint32_t i
        w.uneven = UNEVEN
        for i in range(w.n_turns):
            r = self.requests.find(w.turns[i].call)
            if r != NULL and r.cause == w.turns[i].request and r.cause_method == LINK_ENVOY:
                self.disagreements += 1
                self.requests.set_cause(r.key, 0, LINK_NONE, CAUSE_DOUBTFUL)
        w.n_turns = 0

    cdef void close_request(self, Worker *w, int a) noexcept nogil:
        """A request is answered: its call was answered before."""
        cdef uint64_t left
        cdef Request *r
        cdef int k
        w.closed |= bit(a)
        if not w.sure_reqs & bit(a):
            left = w.req_calls[a]
            while left:
                k = __builtin_ctzll(left)
                left &= left - 1
                r = self.requests.find(w.call_key[k])
                # an id in the answer may have told meanwhile
                if not w.answered & bit(k) or (r != NULL and r.cause and r.cause != w.req_key[a]):
                    w.req_calls[a] &= ~bit(k)
                    w.call_reqs[k] &= ~bit(a)
                elif r != NULL and r.cause:
                    self.pair(w, a, k)
                    break
        self.follow(w)
        if w.reqs & bit(a):
            self.give_up(w, a)

    cdef void give_up(self, Worker *w, int a) noexcept nogil:
        """If all that this request is entangled with has been answered, nothing will tell any more."""
        cdef uint64_t rs = bit(a), ks = 0, before, left
        cdef int k
        while True:
            before = rs
            left = rs
            while left:
                ks |= w.req_calls[__builtin_ctzll(left)]
                left &= left - 1
            left = ks
            while left:
                rs |= w.call_reqs[__builtin_ctzll(left)]
                left &= left - 1
            if rs & ~w.closed:
                return
            if rs == before:
                break
        if __builtin_popcountll(rs) != __builtin_popcountll(ks):
            self.not_even(w)
        self.ambiguous += __builtin_popcountll(ks)
        w.reqs &= ~rs
        w.calls &= ~ks
        while ks:
            k = __builtin_ctzll(ks)
            ks &= ks - 1
            self.no_cause(w.call_key[k])

    cdef void forget_all(self, Worker *w) noexcept nogil:
        """Too much is entangled."""
        cdef uint64_t left = w.calls
        w.strangers += __builtin_popcountll(w.reqs & ~w.closed)
        self.ambiguous += __builtin_popcountll(w.calls)
        left &= w.answered   # for the others an id in the answer may tell
        while left:
            self.no_cause(w.call_key[__builtin_ctzll(left)])
            left &= left - 1
        w.reqs = 0
        w.closed = 0
        w.sure_reqs = 0
        w.calls = 0
        w.answered = 0
        w.sure_calls = 0
        w.stray_calls = 0

    cdef void no_cause(self, uint64_t key) noexcept nogil:
        """Nothing will tell any more: spans need not wait for it."""
        cdef Request *r = self.requests.find(key)
        if r != NULL and r.cause == 0 and r.cause_state == CAUSE_PENDING:
            r.cause_state = CAUSE_NONE
