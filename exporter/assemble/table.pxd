"""What is known of each connection, and where to find it: by its id, by what waits on it."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from zerospan.exporter.assemble.processes cimport Processes
from zerospan.exporter.assemble.span cimport EndAddress, SpanRec
from zerospan.exporter.link.ends cimport Ends
from zerospan.exporter.link.requests cimport Requests
from zerospan.exporter.proto.base cimport ProtoOps
from zerospan.exporter.proto.stream cimport Stream
from zerospan.exporter.selfmon.counters cimport N_MAX

cdef enum:
    OWN_KEYS = 256           # connections of the agent itself that are remembered

cdef enum Partial:
    PARTIAL_LOST = 1         # requests beyond the capture
    PARTIAL_CUT = 2          # a request that was cut: there may be more behind it

cdef struct Open:            # a request without its (whole) answer; its SpanRec and strings follow
    Open *next
    uint32_t nbytes
    uint32_t id              # of protocols that pair by id
    uint32_t run             # of the connection, in which the request came
    uint32_t read_tid
    uint32_t answer_tid
    uint64_t id_hash         # of the request id that it brought; 0
    uint64_t wire_hash       # of the trace context that it brought; 0
    uint8_t bodiless
    uint8_t answered         # the answer has begun
    uint8_t prepared         # PostgreSQL: the statement was only prepared, as its answer shows
    uint8_t told             # it holds a reference to its entry in the registry
    uint8_t serving          # read, not answered: the link stage counts it as open
    uint8_t queued           # read behind one that is not answered yet: nothing is done for it
    uint8_t ends_itself      # Parsed.ends_itself of its answer
    uint8_t status_n
    uint8_t status_text[36]
    uint8_t *message         # error text, only with masking off
    uint32_t message_n
    uint32_t name_hash       # of the DNS question
    uint32_t seq             # TCP sequence number of the request's first byte

cdef struct Flow:
    uint64_t conn_id
    uint64_t key             # C; 0 if the initial sequence numbers are not known
    const ProtoOps *ops
    void *state              # the parser's
    Stream streams[2]        # from the server, from the client
    Open *head               # oldest open request
    Open *tail
    Open *passing            # its answer is passing by
    uint64_t bound           # a proxy's: what its connect() served
    uint64_t head_ns         # when the unfinished head of the current run began
    uint64_t last_ns
    uint64_t closed_ns       # when the connection ended; what it received may be read later
    Flow *next_waiting       # list of flows that have something open
    Flow *prev_waiting
    uint32_t run
    uint32_t run_seq         # sequence number of the current run's first byte
    uint32_t tgid
    uint32_t tid             # who read or sent the last record
    uint32_t proc
    uint32_t netns
    uint32_t refused         # bit mask of Proto ids that were tried and proved wrong
    uint32_t overdue         # requests that timed out: the next answers are theirs
    uint16_t local_port
    uint16_t remote_port
    uint8_t role
    uint8_t family
    uint8_t transport
    uint8_t from_client      # direction of the current run
    uint8_t proven           # a message was parsed
    uint8_t errors           # runs in a row that the parser refused
    uint8_t tries
    uint8_t dead             # own, upgraded, or of no known protocol: nothing is parsed
    uint8_t close_reason     # Reason of what is open when it has closed
    uint8_t waiting          # stands in the list of waiting flows
    uint8_t suspect          # the request was answered before its body was sent: it may never be
    uint8_t overlaps         # the client does not wait: it sent requests while earlier ones were not answered
    uint8_t unsure           # it does not wait, and records were lost: which answer is whose is not known
    uint8_t partial          # Partial: what the client's last run held was not all captured
    uint8_t stray            # the current run brought an answer whose request was not seen
    uint8_t connects         # its connect() was seen, and no request since
    uint8_t checked          # spans for which it was asked whether the connection is the agent's own
    uint8_t local_addr[16]
    uint8_t remote_addr[16]
    EndAddress peer          # where the other end really is, if that is not the remote address; family 0: it is, or is not known
    uint8_t peer_asked       # spans for which `peer` was asked for

cdef struct Now:             # of the record that is being handled: what on_message needs
    uint64_t time_ns
    uint64_t run_off
    uint32_t seq
    uint32_t tid
    uint32_t tgid
    uint32_t proc
    uint8_t sent             # this process sent it
    uint8_t from_client

cdef class FlowTable:
    cdef Flow **slots
    cdef uint64_t mask
    cdef readonly uint64_t n
    cdef readonly uint64_t limit
    cdef uint64_t hand
    cdef Flow *waiting
    cdef readonly uint64_t open_bytes
    cdef readonly uint64_t open_requests
    cdef uint64_t own_keys[OWN_KEYS]
    cdef uint64_t n_own
    cdef uint64_t counts[N_MAX]
    cdef Requests requests
    cdef Ends ends
    cdef Processes processes

    cdef Flow *find(self, uint64_t conn_id) noexcept nogil
    cdef Flow *make(self, uint64_t conn_id) noexcept nogil
    cdef int grow(self) noexcept nogil
    cdef int drop(self, Flow *f) noexcept nogil
    cdef void free_flow(self, Flow *f) noexcept nogil
    cdef int evict(self) noexcept nogil
    cdef bint is_own(self, uint64_t key) noexcept nogil
    cdef uint32_t proc_of(self, Flow *f, uint32_t tgid, const char *comm, uint64_t cgroup_id) except 0 nogil
    # Marks the processes that connections and their requests refer to.
    cdef void mark(self) noexcept nogil
    cdef void forget(self, Open *o) noexcept nogil
    cdef void wait(self, Flow *f) noexcept nogil
    cdef void unwait(self, Flow *f) noexcept nogil
