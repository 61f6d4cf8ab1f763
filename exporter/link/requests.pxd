"""The registry of requests: K -> what is known of the request, whoever saw which end of it.

In memory, of this host. An entry lives as long as something refers to it: an open request or a held span of
either end, or a request whose cause it is. Bounded in bytes; what finds no room is counted.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum CauseState:
    CAUSE_NONE = 0           # no evidence, and none to come
    CAUSE_PENDING = 1        # an answer that is still to be written may tell
    CAUSE_KNOWN = 2
    CAUSE_DOUBTFUL = 3       # forward and backward evidence disagree: left out for good

cdef struct Trace:           # a trace context that came with a request
    uint8_t trace_id[16]
    uint64_t parent          # span id
    uint32_t next            # of those that are free: index + 1
    uint8_t flags
    uint8_t pad[3]

cdef struct Request:         # one line of the cache: tables of this size are read from memory
    uint64_t key             # 0: an empty slot
    uint64_t cause           # K of the request being served when this one was sent; 0: none
    uint64_t call            # nginx: K of the call that was linked to it by forward evidence
    uint64_t vote            # nginx: the request whose answer followed this call's answer, where it is not the cause
    uint32_t refs
    uint32_t trace           # its trace context: index + 1 into Requests.traces; 0: none
    uint32_t client_proc     # Processes index of the end that sent it; 0: not seen
    uint32_t server_proc
    uint8_t wire             # WireContext; set with its trace, by set_trace()
    uint8_t cause_method     # LinkMethod
    uint8_t cause_state      # CauseState
    uint8_t answered         # its answer has begun
    uint8_t by_order         # its cause was found by the order of events alone: a lost record could have misled
    uint8_t pad[11]

cdef class Requests:
    cdef Request *slots
    cdef Trace *traces
    cdef uint32_t n_traces
    cdef uint32_t cap_traces
    cdef uint32_t free_trace # index + 1
    cdef uint64_t mask
    cdef readonly uint64_t n
    cdef uint64_t limit      # entries
    cdef readonly uint64_t refused   # entries that found no room
    # The entry with one more reference, made if need be; NULL if there is no room. Pointers last until the next call.
    cdef Request *ref(self, uint64_t key) noexcept nogil
    cdef Request *find(self, uint64_t key) noexcept nogil
    # It will be asked for soon: a table of this size does not stay in the cache for the time of a hold.
    cdef void prefetch(self, uint64_t key) noexcept nogil
    # The trace context of a request; NULL if there is none.
    cdef const Trace *trace_of(self, const Request *r) noexcept nogil
    # Sets it; `wire` (WireContext) says in which form it came. Without memory the request stays without one, counted as refused.
    cdef void set_trace(self, Request *r, uint8_t wire, const uint8_t *trace_id, uint64_t parent, uint8_t flags) noexcept nogil
    cdef void unref(self, uint64_t key) noexcept nogil
    # Sets a cause, holding a reference to it; replaces an earlier one. state is CAUSE_KNOWN, or DOUBTFUL with cause 0.
    cdef void set_cause(self, uint64_t key, uint64_t cause, uint8_t method, uint8_t state) noexcept nogil
    # Records were lost: causes that were found by the order of events are taken back.
    cdef void doubt(self) noexcept nogil
    cdef bint leads_to(self, uint64_t key, uint64_t root) noexcept nogil
    cdef int grow(self) noexcept nogil
    cdef void drop(self, uint64_t at) noexcept nogil
