"""Points of the way: what network interfaces saw of requests, as spans of their own.

Takes ZS_NIC records (on_nic) and makes finished KIND_INTERNAL spans, which go to the hold; tells Hops how long each took.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from zerospan.exporter.abi.events cimport zs_nic
from zerospan.exporter.assemble.interfaces cimport Interfaces
from zerospan.exporter.assemble.span cimport SpanRec
from zerospan.exporter.link.due cimport Due
from zerospan.exporter.link.ends cimport Ends
from zerospan.exporter.link.hops cimport Hops
from zerospan.exporter.link.ids cimport Point, hash64, span_id
from zerospan.exporter.link.requests cimport Request, Requests
from zerospan.exporter.link.sequences cimport Sequences
from zerospan.exporter.link.shared cimport Shared

cdef struct Run:             # what one side said until the other spoke
    uint64_t begin_ns        # first packet
    uint64_t end_ns          # last one that brought something new
    uint64_t bytes
    uint32_t seq             # of its first byte
    uint32_t mark            # the same of the part that the next record will tell of
    uint32_t packets
    uint32_t retransmits
    uint64_t base_bytes      # of its parts before that one
    uint32_t base_packets
    uint32_t base_retransmits
    uint8_t there
    uint8_t told             # its end and sizes are known
    uint8_t side             # who speaks: 0 the lower end of the tuple, 1 the higher
    uint8_t egress

cdef struct Exchange:        # a request and its answer, both ended
    uint64_t key             # K
    uint64_t start_ns
    uint64_t first_ns
    uint64_t end_ns
    uint64_t request_bytes
    uint64_t response_bytes
    uint32_t request_packets
    uint32_t response_packets
    uint32_t retransmits
    uint64_t began_ns        # of `more`: when the last run of the side that asks began
    uint32_t parts           # of `more`: pairs of runs in it
    uint8_t there
    uint8_t ref              # it holds a reference to K in the registry
    uint8_t side             # who asked
    uint8_t flags            # NicFlags

cdef struct PointFlow:       # a TCP connection at an interface, inside or outside a tunnel
    uint64_t hash            # 0: an empty slot
    uint64_t netns_cookie
    uint64_t connection      # C; 0 as long as the initial sequence numbers are not known
    uint64_t seen_ns
    uint64_t ref             # K of the exchange that is going on, if a reference to it is held; 0
    Run before               # the last two runs
    Run last
    Exchange done            # waits until it is certain that the next runs are not of the same request
    Exchange more            # what those runs are
    uint32_t ifindex
    uint32_t tunnel_id
    uint16_t port[2]         # of the lower and the higher end
    uint16_t vlan
    uint8_t family
    uint8_t tunnel
    uint8_t outer_family
    uint8_t asker            # the side that connected
    uint8_t asker_known
    uint8_t over             # nothing more will come
    uint8_t waiting          # stands in the list of flows with something done
    uint8_t way              # whether what the lower end sends leaves by the interface
    uint8_t pad[2]
    uint8_t addr[2][16]
    uint8_t outer[2][16]     # of the packets of the lower end, of the higher end: their source

cdef class Points:
    cdef Requests requests
    cdef Due hold
    cdef Interfaces interfaces
    cdef Hops hops
    cdef Sequences sequences
    cdef Shared shared       # None: one host
    cdef Ends ends           # of connections that processes of this host have; with `shared`
    cdef uint64_t *tally     # the pipeline's counters
    cdef uint64_t hold_ns
    cdef uint64_t max_hold_ns
    cdef uint32_t proc       # index into Processes: the resource of these spans
    cdef bint active         # a record has come
    cdef PointFlow *flows
    cdef uint64_t mask
    cdef readonly uint64_t n
    cdef uint64_t limit      # entries
    cdef uint64_t hand       # of eviction
    cdef uint64_t look       # of the look for what went silent
    cdef uint64_t *waits     # hashes of flows with something done
    cdef uint64_t n_waits
    cdef uint64_t cap_waits

    cdef int on_nic(self, const zs_nic *ev) noexcept nogil
    # What is over, what went silent; every half second.
    cdef void settle(self, uint64_t now) noexcept nogil
    # The end: what is complete goes to the hold.
    cdef void finish(self, uint64_t now) noexcept nogil
    # A process of this host is done with a request.
    cdef void process_ended(self, const SpanRec *r) noexcept nogil
    cdef bint known(self, uint64_t key) noexcept nogil
    # Whether no process of this host has the connection, as far as is remembered.
    cdef bint passes(self, uint64_t connection) noexcept nogil
    cdef PointFlow *find(self, const PointFlow *like) noexcept nogil
    cdef PointFlow *by_hash(self, uint64_t hash) noexcept nogil
    cdef PointFlow *make(self, const PointFlow *like, uint64_t now) noexcept nogil
    cdef int grow(self) noexcept nogil
    cdef void drop(self, PointFlow *f) noexcept nogil
    cdef void evict(self, uint64_t now) noexcept nogil
    cdef void begin(self, PointFlow *f, const zs_nic *ev, int side) noexcept nogil
    cdef void ended(self, PointFlow *f, const zs_nic *ev) noexcept nogil
    cdef void complete(self, PointFlow *f, uint64_t end_ns, uint64_t now) noexcept nogil
    cdef void push(self, PointFlow *f, uint64_t now) noexcept nogil
    cdef void emit(self, const PointFlow *f, Exchange *e, uint64_t now) noexcept nogil
    cdef void leave_off(self, PointFlow *f, uint64_t now) noexcept nogil
    cdef void hold_on(self, PointFlow *f) noexcept nogil
    cdef void let_go(self, PointFlow *f) noexcept nogil
    cdef void wait(self, PointFlow *f) noexcept nogil

# Whether a process of K was seen here. Else a point's span belongs to no trace, unless another agent saw one
# (Shared.elsewhere).
cdef inline bint has_process(const Request *r) noexcept nogil:
    return r != NULL and (r.client_proc != 0 or r.server_proc != 0)

# Id of a point's span: two interfaces of one role differ, and the two ways through one interface.
cdef inline uint64_t point_id(uint64_t key, Point point, uint64_t netns_cookie, uint32_t ifindex, uint8_t tunnel,
                              bint egress) noexcept nogil:
    return hash64(span_id(key, point), hash64(netns_cookie, (<uint64_t>ifindex << 16) | (tunnel << 1) | egress))

# The point (ids.Point) that an interface is for a request that leaves by it, or enters.
cdef Point point_of(Interfaces interfaces, uint32_t index, bint egress) noexcept nogil
