"""Requests one of whose ends is on another host: what is told to its agent, what is asked of it, what it said.

Belongs to the drain thread, like the registry. A request that this agent sees one end of gets an entry; if the other end
shows up here within the grace time the entry goes, and nobody is told. Else the end's Note is published, and the other
end's is asked for, again and again at growing intervals for as long as the registry knows the request. What comes is put
into the registry: K -> cause, and the causes above are asked for in turn up to the root, so that Engine.leave() follows
a chain over hosts as it does within one. A trace that an SDK began below the root is told under the root's K: every
host of the trace knows that K before it names the trace, and asks once its own end of a request is over.

A request that only passes this host's network interfaces (a gateway) is asked for, too, both ends of it; never told.

Nothing here waits or does input and output: bytes go out and come in by the queues of `mail`, which
exporter/link/exchange.py carries. No time of another host is compared with one of this.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from zerospan.exporter.assemble.processes cimport Proc, Processes
from zerospan.exporter.assemble.span cimport EndAddress
from zerospan.exporter.link.mail cimport Mail
from zerospan.exporter.link.requests cimport Request, Requests
from zerospan.exporter.link.roots cimport Roots
from zerospan.exporter.link.shared_codec cimport Note, Points
from zerospan.exporter.link.shared_names cimport Names
from zerospan.exporter.link.shared_table cimport End, SharedTable
from zerospan.exporter.tags.table cimport PeerTable

cdef enum:
    HERE = 1024              # addresses of this host that are remembered

cdef class Shared(SharedTable):
    cdef Requests requests
    cdef Processes processes
    cdef PeerTable peers         # without an enricher no addresses are told
    cdef uint64_t grace_ns
    cdef uint64_t near_grace_ns
    cdef uint64_t ttl_ns
    cdef uint64_t here[HERE]
    cdef Names names             # of services of other hosts
    cdef readonly Mail mail      # to and from the network's thread
    cdef uint32_t epoch          # raised when the store may have forgotten: all that is alive is published again
    cdef public bint want_points # zerospan.hop.* are measured: an end is told when its points are there
    cdef bint omit               # configuration link.sdk_client_spans
    cdef uint64_t hold_ns        # how long spans wait for what is asked
    cdef Roots roots
    cdef double allowance        # requests passing by that may be asked for now
    cdef uint64_t allowed_ns
    # counters
    cdef readonly uint64_t again
    cdef readonly uint64_t found
    cdef readonly uint64_t missing
    cdef readonly uint64_t late
    cdef readonly uint64_t bad
    cdef readonly uint64_t local
    cdef readonly uint64_t passed
    cdef readonly uint64_t passing_refused

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
    # Its client's agent says that it exports no span of it: an SDK's stands there (Request.trace, parent).
    cdef bint caller_omitted(self, uint64_t key) noexcept nogil
    # The end that is here is over: what an SDK below began is known by now.
    cdef void ended(self, uint64_t key) noexcept nogil
    # Interfaces of this host saw a request that no process of it has, as it seems: who knows it?
    cdef void passing_by(self, uint64_t key) noexcept nogil
    # Some agent knows a request that no process of this host has.
    cdef bint elsewhere(self, uint64_t key) noexcept nogil
    # Likewise, of both its ends: this host is neither the client's nor the server's.
    cdef bint between(self, uint64_t key) noexcept nogil
    # How long the request took at a point of the server's host; published with that end. The longest of each kind is kept.
    cdef void point(self, uint64_t key, uint8_t point, uint64_t ns) noexcept nogil
    # No more points of this end will come.
    cdef void points_done(self, uint64_t key) noexcept nogil
    # The points of the other end, as far as they are known; NULL if there are none. Lasts until the next call.
    cdef const Points *points(self, uint64_t key) noexcept nogil
    # Every few milliseconds: applies what came, looks at what is due, hands over what is to go.
    cdef int turn(self, uint64_t now) except -1

    cdef void note(self, const End *e, Note *note) noexcept nogil
    cdef void publish(self, End *e, uint64_t now) noexcept nogil
    cdef void ask(self, End *e) noexcept nogil
    cdef uint64_t root_due(self, const End *e) noexcept nogil
    cdef bint root(self, End *e, Request *r, uint64_t now) noexcept nogil
    cdef int apply(self, const uint8_t *p, size_t n) except -1 nogil
    cdef int learn(self, const Note *note) except -1 nogil
    cdef void learn_cause(self, End *e, Request *r, const Note *note) noexcept nogil
