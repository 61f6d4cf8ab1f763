"""Whose an address is, for the drain thread: what the enricher told, looked up without the GIL, a lock or an allocation.

The follower's thread tells and takes by queues; they are looked at in update(), between two steps of the drain. An
address that is looked for and not there is asked for once; the answer "nothing is known" stays as an entry, too. Entries
that nobody looked up for a while leave, the oldest first; so do the oldest where there are too many.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from zerospan.exporter.tags.peer cimport Peer

cdef enum:
    ASKS = 1024              # new questions between two updates
    OPEN_MAX = 4096          # questions without an answer; beyond it none is asked

cdef enum State:
    STATE_FREE = 0
    STATE_ASKED = 1          # no answer yet
    STATE_TOLD = 2           # of no stretch: nothing is known

cdef enum Finding:           # of the last find()
    FOUND = 0
    NOTHING_KNOWN = 1        # the enricher has said so, or knows it at other times only
    NOT_ANSWERED = 2
    NOT_ASKED = 3            # loopback and the like; or there is no enricher

cdef struct Stretch:         # of time: [since_ns, until_ns), Unix time; until 0: still so
    uint64_t since_ns
    uint64_t until_ns
    const Peer *peer

cdef struct Entry:
    uint8_t addr[16]         # IPv4 as v4-mapped (enricher/keys.pyx)
    uint64_t used_ns         # CLOCK_MONOTONIC
    Stretch *stretches
    uint32_t n
    uint32_t next            # in its bucket, or of the free ones; 0: none
    uint32_t newer           # in the order of use
    uint32_t older
    uint16_t port            # 0: the whole address
    uint8_t protocol
    uint8_t state            # State
    uint8_t pad[4]

cdef class PeerTable:
    cdef Entry *pool             # index 0 is none
    cdef uint32_t *buckets
    cdef uint32_t mask
    cdef uint32_t cap
    cdef uint32_t limit
    cdef uint32_t free_          # first of the free ones
    cdef uint32_t n_free
    cdef uint32_t newest
    cdef uint32_t oldest
    cdef uint32_t asked[ASKS]
    cdef uint32_t n_asked
    cdef uint32_t n_open
    cdef uint64_t now_ns
    cdef uint64_t unused_ns
    cdef dict held               # key -> the PeerTags of its stretches
    cdef object told             # deque: from the follower
    cdef object asks             # deque: to it
    cdef object gone
    cdef uint32_t excess         # entries that are to leave
    cdef readonly bint active
    cdef public bint away        # the enricher does not answer
    cdef uint8_t finding         # Finding
    cdef readonly uint32_t n
    cdef readonly uint64_t asked_total
    cdef readonly uint64_t ask_dropped
    cdef readonly uint64_t evicted

    # Whose the address was at that time (Unix ns): its port's first, then its own. NULL: see `finding`. What is missing is asked
    # for: the address; the port too, if it is a server's. Lasts until the next update().
    cdef const Peer *find(self, uint8_t family, const uint8_t *addr, uint16_t port, uint8_t protocol, uint64_t at_ns,
                          bint server) noexcept nogil
    # The same without an answer: a connection to that address begins.
    cdef void notice(self, uint8_t family, const uint8_t *addr, uint16_t port, uint8_t protocol, bint server) noexcept nogil
    # Between two steps: takes in what was told, lets go what is unused.
    cdef int update(self, uint64_t now) except -1

    cdef uint32_t look(self, const uint8_t *addr, uint16_t port, uint8_t protocol) noexcept nogil
    cdef uint32_t add(self, const uint8_t *addr, uint16_t port, uint8_t protocol) noexcept nogil
    cdef void ask(self, const uint8_t *addr, uint16_t port, uint8_t protocol) noexcept nogil
    cdef void use(self, uint32_t i) noexcept nogil
    cdef void unlist(self, uint32_t i) noexcept nogil
    cdef void list_newest(self, uint32_t i) noexcept nogil
    cdef int put(self, bytes key, object pieces) except -1
    cdef int remove(self, uint32_t i, bytes key) except -1
    cdef int reserve(self) except -1
    cdef bytes key_of(self, uint32_t i)
