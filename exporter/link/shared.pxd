"""Requests one of whose ends is on another host: what is told to its agent, what is asked of it, what it said.

Belongs to the drain thread, like the registry. A request that this agent sees one end of gets an entry; if the other end
shows up here within the grace time the entry goes, and nobody is told. Else the end's Note is published, and the other
end's is asked for, again and again at growing intervals for as long as the registry knows the request. What comes is put
into the registry: K -> cause, and the causes above are asked for in turn up to the root, so that Engine.leave() follows
a chain over hosts as it does within one.

Nothing here waits or does input and output: bytes go out and come in by two queues (take, give) that
exporter/link/exchange.py carries. No time of another host is compared with one of this.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from zerospan.exporter.assemble.processes cimport Proc, Processes
from zerospan.exporter.encode.buf cimport Buf
from zerospan.exporter.link.requests cimport Request, Requests
from zerospan.exporter.assemble.span cimport EndAddress
from zerospan.exporter.link.shared_codec cimport Note, Points
from zerospan.exporter.tags.table cimport PeerTable

cdef enum:
    WHEEL = 512              # places of the timing wheel
    WHEEL_NS = 8000000       # of each
    HERE = 1024              # addresses of this host that are remembered
    NAMES_MAX = 4096         # services of other hosts

cdef struct End:
    uint64_t key             # K; 0: an empty slot
    uint64_t due_ns          # next look at it
    uint64_t told            # hash of the value that was published last; 0: none
    uint64_t told_ns
    uint32_t proc            # of the end that is here
    uint32_t who             # service of the other end, place in `names`; 0: not known
    uint32_t epoch           # of what was published
    uint8_t end              # which end is here: END_CLIENT, END_SERVER; 0: neither, a cause above
    uint8_t tries
    uint8_t found            # the other end's value came
    uint8_t flags            # NoteFlag of it
    uint8_t datagram
    uint8_t more             # points of this end are still to come
    uint8_t pad[2]
    Points *own
    Points *theirs
    EndAddress here          # of the end that is here
    EndAddress there         # of the other end, as its agent has it; family 0: not told

cdef struct Place:           # of the timing wheel: keys, each of which may be due by now
    uint64_t *keys
    uint32_t n
    uint32_t cap

cdef class Shared:
    cdef Requests requests
    cdef Processes processes
    cdef PeerTable peers         # without an enricher no addresses are told
    cdef End *slots
    cdef uint64_t mask
    cdef readonly uint64_t n
    cdef uint64_t limit          # entries
    cdef Place wheel[WHEEL]
    cdef uint64_t turned         # number of the next place, since the beginning of time
    cdef uint64_t now_ns         # of the last turn
    cdef uint64_t grace_ns
    cdef uint64_t near_grace_ns
    cdef uint64_t ttl_ns
    cdef uint64_t here[HERE]
    cdef Proc **names            # by hash
    cdef uint32_t n_names
    cdef list name_bytes         # owns what the slices of `names` point to
    cdef Buf puts                # of this turn
    cdef Buf gets
    cdef uint64_t n_puts
    cdef uint64_t n_gets
    cdef object outbox           # deque of (puts, gets, when): to the network's thread
    cdef object inbox            # deque of bytes: from it
    cdef readonly uint64_t queued    # bytes in the outbox
    cdef uint64_t queue_limit
    cdef uint32_t epoch          # raised when the store may have forgotten: all that is alive is published again
    cdef public bint want_points # zerospan.hop.* are measured: an end is told when its points are there
    # counters
    cdef readonly uint64_t published
    cdef readonly uint64_t again
    cdef readonly uint64_t asked
    cdef readonly uint64_t found
    cdef readonly uint64_t missing
    cdef readonly uint64_t late
    cdef readonly uint64_t bad
    cdef readonly uint64_t local
    cdef readonly uint64_t refused
    cdef readonly uint64_t names_refused
    cdef readonly uint64_t publish_dropped
    cdef readonly uint64_t ask_dropped

    # A request was seen at one end (client: sent here). exact: its key is the same at the other end.
    cdef void seen(self, uint64_t key, bint client, uint32_t proc, uint8_t family, const uint8_t *local,
                   uint16_t local_port, const uint8_t *remote, bint datagram, bint exact) noexcept nogil
    # Its span leaves: what was learned of this end since is told. Returns the service at the other end (a Proc with nothing
    # but a name, which may be empty) if an agent elsewhere has said that it sees that end; else NULL, counted as missing
    # where it is the server's end that is here.
    cdef const Proc *other_end(self, uint64_t key, bint client) noexcept nogil
    # The other end's own address, if its agent has told it; else NULL. Lasts until the next call.
    cdef const EndAddress *where(self, uint64_t key) noexcept nogil
    # The server's end is here, and an agent elsewhere has said that it sees the client's.
    cdef bint caller_found(self, uint64_t key) noexcept nogil
    # How long the request took at a point of the server's host; published with that end. The longest of each kind is kept.
    cdef void point(self, uint64_t key, uint8_t point, uint64_t ns) noexcept nogil
    # No more points of this end will come.
    cdef void points_done(self, uint64_t key) noexcept nogil
    # The points of the other end, as far as they are known; NULL if there are none. Lasts until the next call.
    cdef const Points *points(self, uint64_t key) noexcept nogil
    # Every few milliseconds: applies what came, looks at what is due, hands over what is to go.
    cdef int turn(self, uint64_t now) except -1

    cdef End *find(self, uint64_t key) noexcept nogil
    cdef End *make(self, uint64_t key) noexcept nogil
    cdef int grow(self) noexcept nogil
    cdef void drop(self, End *e) noexcept nogil
    cdef void due(self, End *e, uint64_t at_ns) noexcept nogil
    cdef void look(self, uint64_t now) noexcept nogil
    cdef void visit(self, End *e, uint64_t now) noexcept nogil
    cdef void note(self, const End *e, Note *note) noexcept nogil
    cdef void publish(self, End *e, uint64_t now) noexcept nogil
    cdef void ask(self, End *e) noexcept nogil
    cdef int apply(self, const uint8_t *p, size_t n) except -1 nogil
    cdef int learn(self, const Note *note) except -1 nogil
    cdef void learn_cause(self, End *e, Request *r, const Note *note) noexcept nogil
    cdef uint32_t name_of(self, const uint8_t *p, uint32_t n) except? 0xffffffff nogil
    cdef uint32_t new_name(self, const uint8_t *p, uint32_t n, uint32_t at) except? 0xffffffff
