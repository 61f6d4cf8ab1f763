"""Which request a proxy's call serves, by the order of events on its thread: HAProxy and Envoy. See proxies.pyx.

Called by link/cause.pyx, which has nginx's own rule and the ids on the wire; results that come late go into the registry.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.link.requests cimport Requests

cdef enum Order:             # ProcessInfo.order, by the executable
    ORDER_NONE = 0
    ORDER_HAPROXY = 1
    ORDER_ENVOY = 2

cdef enum:
    QUEUE = 256              # HAProxy: requests of one thread that wait for their turn, links of two phases, answers
    SLOTS = 64               # Envoy: requests, and calls, of one thread that are not sorted out
    MAX_WORKERS = 512

cdef enum Vote:              # HAProxy: Request.vote of a request that was read
    VOTE_NONE = 0
    VOTE_VOID = 1            # its turn is not known
    VOTE_RETURN = 2          # its turn is to be proved by its answer

cdef struct Turn:            # a request whose turn it was
    uint64_t request
    uint64_t call            # Envoy
    uint32_t phase           # HAProxy
    uint32_t pad

cdef struct Worker:          # a thread of a proxy
    uint32_t tid
    uint32_t tgid
    uint64_t seen_ns
    # HAProxy
    uint32_t phase           # runs of reading and writing that have passed
    uint32_t limbo           # phases for which nothing is concluded
    uint32_t resets
    uint32_t clean           # phases since that all ended with nobody waiting
    uint8_t writing
    uint8_t behind           # phase ends in a row at which somebody still waited
    uint32_t n_pending
    uint32_t n_passed        # of these: something was written after they were read
    uint32_t pad
    uint32_t n_turns
    uint32_t n_answers
    uint64_t pending[QUEUE]
    Turn turns[QUEUE]        # HAProxy: of this phase and the one before; Envoy: the latest that were linked
    uint64_t answers[QUEUE]  # calls whose answers were read and not passed on
    # Envoy: bit sets of slots
    uint64_t reqs            # in use
    uint64_t closed          # answered
    uint64_t sure_reqs       # matched
    uint64_t calls           # in use
    uint64_t answered
    uint64_t sure_calls
    uint64_t robbed          # requests: a call that was possible went to another
    uint64_t stray_calls     # may also serve a request that is not among these
    uint32_t strangers       # open requests that are not among these
    uint32_t uneven          # requests to go until one call for each request is believed again
    uint64_t req_key[SLOTS]
    uint64_t call_key[SLOTS]
    uint64_t req_calls[SLOTS]    # the calls that it may have made
    uint64_t call_reqs[SLOTS]    # the requests that it may serve

cdef class Proxies:
    cdef Requests requests
    cdef Worker *workers[2 * MAX_WORKERS]
    cdef readonly uint64_t n
    cdef readonly uint64_t disagreements
    cdef readonly uint64_t ambiguous
    cdef readonly uint64_t refused           # threads beyond MAX_WORKERS

    cdef Worker *worker(self, uint32_t tid, uint32_t tgid, uint64_t now) noexcept nogil
    cdef Worker *known(self, uint32_t tid) noexcept nogil
    # first: the first of its connection.
    cdef void inbound(self, uint8_t order, uint32_t tgid, uint32_t tid, uint64_t key, bint first,
                      uint64_t now) noexcept nogil
    # A thread asks for a connection: the request that this serves, 0 if it cannot be told.
    cdef uint64_t connecting(self, uint8_t order, uint32_t tgid, uint32_t tid, uint64_t now) noexcept nogil
    # The request that a call serves, 0 if that is not known yet or never. by_id: as an id on the wire says. bound: as
    # connecting() said. fresh: the first call of a connection for which connecting() was asked.
    cdef uint64_t outbound(self, uint8_t order, uint32_t tgid, uint32_t tid, uint64_t key, uint64_t by_id, uint64_t bound,
                           bint fresh, uint64_t now) noexcept nogil
    cdef void answer_in(self, uint8_t order, uint32_t tgid, uint32_t tid, uint64_t key, uint64_t now) noexcept nogil
    cdef void answer_out(self, uint8_t order, uint32_t tgid, uint32_t tid, uint64_t key, uint64_t now) noexcept nogil
    # A request ended without an answer. tid: who had read it.
    cdef void gone(self, uint32_t tid, uint64_t key) noexcept nogil
    cdef void expire(self, uint64_t now, uint64_t idle_ns) noexcept nogil

    cdef void mark(self, uint64_t request, uint8_t vote) noexcept nogil
    cdef void wrote(self, Worker *w) noexcept nogil
    cdef void reading(self, Worker *w) noexcept nogil
    cdef uint64_t take_turn(self, Worker *w) noexcept nogil
    cdef bint leave_queue(self, Worker *w, uint64_t key) noexcept nogil
    cdef void let_pass(self, Worker *w) noexcept nogil
    cdef void start_over(self, Worker *w) noexcept nogil
    cdef void one_too_many(self, Worker *w) noexcept nogil
    cdef void refuse(self, uint64_t request) noexcept nogil
    cdef void passed_on(self, Worker *w, uint64_t key) noexcept nogil

    cdef uint64_t match_call(self, Worker *w, uint64_t key, uint64_t by_id) noexcept nogil
    cdef void not_even(self, Worker *w) noexcept nogil
    cdef void close_request(self, Worker *w, int a) noexcept nogil
    cdef void pair(self, Worker *w, int a, int k) noexcept nogil
    cdef void follow(self, Worker *w) noexcept nogil
    cdef void finish(self, Worker *w, int a) noexcept nogil
    cdef void give_up(self, Worker *w, int a) noexcept nogil
    cdef void no_cause(self, uint64_t key) noexcept nogil
    cdef void forget_all(self, Worker *w) noexcept nogil
