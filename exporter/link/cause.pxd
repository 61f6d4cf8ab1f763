"""When a process sends a request, which request is it serving? Evidence of threads, of ids on the wire, of nginx.

Four events are told, in the order in which they happened:
  inbound       a request was read             outbound      a request was sent
  answer_in     an answer was read             answer_out    an answer was written
Results go into the registry (Requests.set_cause). A doubtful link is left out.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.link.proxies cimport Proxies
from zerospan.exporter.link.requests cimport Requests

cdef enum:
    MAX_CALLS = 256          # unlinked calls of one thread that wait for the answer that tells

cdef struct Call:
    uint64_t key
    uint64_t sent_ns
    uint64_t cause           # forward evidence, 0 if there was none
    uint8_t answered

cdef struct Thread:
    uint32_t tid             # 0: an empty slot
    uint32_t tgid
    uint64_t current         # the request that was read here and waits for its answer
    uint64_t streaming       # its answer has begun and has no known end
    uint64_t context         # nginx: the request that the last event on this thread was about
    uint64_t last_answer     # nginx: the call whose answer was the last event on this thread
    uint64_t seen_ns
    uint32_t open            # requests read here that wait for their answers
    uint8_t is_loop          # two were open at once: not a thread that serves one request at a time
    uint8_t is_worker        # it answers what other threads have read
    uint32_t n_calls
    uint32_t cap_calls
    Call *calls              # sent here since the last answer was written here

cdef struct IdSlot:          # an id on the wire -> the request that brought it into the process
    uint64_t hash            # of (process, id); 0: empty
    uint64_t key
    uint64_t seen_ns
    uint32_t open            # requests that brought it and are not answered
    uint8_t is_call          # it left first: the answer may name it
    uint8_t ambiguous        # two open requests brought the same id

cdef struct Profile:         # of the executable
    uint8_t is_nginx
    uint8_t is_loop
    uint8_t order            # proxies.Order
    uint8_t fresh            # of a request: the first of its connection; of a call: and its connect() was seen

cdef class Causes:
    cdef Requests requests
    cdef Proxies proxies
    cdef Thread *threads
    cdef uint64_t mask
    cdef readonly uint64_t n
    cdef IdSlot *ids
    cdef uint64_t ids_mask
    cdef readonly uint64_t n_ids
    cdef readonly uint64_t disagreements     # forward and backward evidence differed: left out
    cdef readonly uint64_t ambiguous         # an id or a thread could not tell
    cdef readonly uint64_t ids_refused       # MAX_IDS was too few
    cdef readonly uint64_t calls_forgotten   # MAX_CALLS was too few

    cdef Thread *thread(self, uint32_t tid, uint32_t tgid, uint64_t now) noexcept nogil
    cdef void inbound(self, Profile p, uint32_t tgid, uint32_t tid, uint64_t key, uint64_t now) noexcept nogil
    # A request brought an id into its process; a request left with one: what brought it, 0 if nothing did.
    # hash: of (process, id). keep: an answer may name it.
    cdef void id_in(self, uint64_t hash, uint64_t key, uint64_t now) noexcept nogil
    cdef uint64_t id_out(self, uint64_t hash, uint64_t key, bint keep, uint64_t now) noexcept nogil
    # `by_id`, `method`: what id_out() said. `bound`: what connecting() returned for this connection, 0 if nothing.
    # `others_open`: requests that this process has read and not answered: while there are any, an answer may still tell.
    cdef void outbound(self, Profile p, uint32_t tgid, uint32_t tid, uint64_t key, uint64_t by_id, uint8_t method,
                       uint64_t bound, uint32_t others_open, uint64_t now) noexcept nogil
    cdef void answer_in(self, Profile p, uint32_t tgid, uint32_t tid, uint64_t key, uint64_t now) noexcept nogil
    # `read_tid`: where the request was read. `ended`: the whole answer has left.
    cdef void answer_out(self, Profile p, uint32_t tgid, uint32_t tid, uint32_t read_tid, uint64_t key, uint64_t began_ns,
                         bint ended, uint64_t now) noexcept nogil
    # A request ended without an answer (tid: who read it), or its streamed answer has ended (tid: who wrote it).
    # doubt: its answer was lost, nobody knows when.
    cdef void gone(self, uint32_t tid, uint64_t key, bint answered, bint doubt) noexcept nogil
    # An answer passed whose request was not seen; sent: this process wrote it.
    cdef void stray(self, Profile p, uint32_t tgid, uint32_t tid, bint sent, uint64_t now) noexcept nogil
    # What was concluded from this thread's order of events, and nothing later confirmed, is taken back.
    cdef void take_back(self, Thread *t) noexcept nogil
    # nginx: more of a request was read.
    cdef void resumed(self, uint32_t tgid, uint32_t tid, uint64_t key, uint64_t now) noexcept nogil
    # A thread asks for a connection: the request that this serves, if the executable's profile can tell.
    cdef uint64_t connecting(self, Profile p, uint32_t tgid, uint32_t tid, uint64_t now) noexcept nogil
    cdef void judge_nginx(self, uint64_t call, uint64_t key) noexcept nogil
    cdef void expire(self, uint64_t now, uint64_t idle_ns) noexcept nogil
    # The answer of a request that brought no id shows one: the call that left with it was made for that request.
    cdef void answer_names(self, uint64_t hash, uint64_t key) noexcept nogil
    # Likewise the answer of a call: the id may come from behind the proxy, and be passed on.
    cdef void id_back(self, uint64_t hash, uint64_t key, uint64_t now) noexcept nogil
    cdef IdSlot *id_slot(self, uint64_t hash, bint make, uint64_t now) noexcept nogil
    cdef void drop_id(self, uint64_t at) noexcept nogil
    cdef void forget_id(self, uint64_t hash, uint64_t key) noexcept nogil
    cdef int add_call(self, Thread *t, uint64_t key, uint64_t cause, uint64_t now) noexcept nogil
    cdef int grow(self) noexcept nogil
