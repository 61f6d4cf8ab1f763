"""K -> how long the request took at each point of its way: where the time of a call went.

Only durations are compared, each measured by one clock: the clocks of hosts may differ by seconds.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum Hop:               # zerospan.hop.*; bit numbers of what split() returns
    HOP_CLIENT_PROCESS = 0
    HOP_CLIENT_HOST = 1
    HOP_NETWORK = 2
    HOP_SERVER_HOST = 3
    HOP_SERVER_PROCESS = 4
    HOP_MAX = 5

cdef struct Way:
    uint64_t key             # 0: an empty slot
    uint64_t ended_ns        # when a process of this host was done with it; 0: not yet
    uint64_t answered_ns     # when it had the whole answer, or had written it; 0: not yet, or not seen
    uint64_t took[7]         # ns by ids.Point, 0: not known; [0] is not used

cdef struct Generation:
    Way *slots
    uint64_t mask
    uint64_t n

cdef class Hops:
    cdef Generation young
    cdef Generation old
    cdef uint64_t limit      # entries of one generation
    cdef uint64_t turned_ns
    cdef uint64_t life_ns    # of a generation
    cdef readonly uint64_t forgotten     # entries that made room before their time
    cdef public bint active  # something was said that could be used: before, processes need not be noted

    # Duration of K at a point (ids.Point); of several interfaces of one role the longest counts, the one nearest to the client.
    cdef void put(self, uint64_t key, int point, uint64_t duration_ns) noexcept nogil
    # A process of this host is done with K; seen: the end of its answer was.
    cdef void ended(self, uint64_t key, int point, uint64_t duration_ns, uint64_t end_ns, bint seen) noexcept nogil
    # When it was, 0 if it is not, or if it is long ago; the same for the end of its answer.
    cdef uint64_t ended_ns(self, uint64_t key) noexcept nogil
    cdef uint64_t answered_ns(self, uint64_t key) noexcept nogil
    # The shares of a CLIENT span of this duration; bits of the Hops that are known. They sum to `total`. 0: nothing is known.
    cdef uint8_t split(self, uint64_t key, uint64_t total, uint64_t *out) noexcept nogil
    # Forgets what is old; now and then.
    cdef void turn(self, uint64_t now) noexcept nogil
    cdef Way *find(self, uint64_t key) noexcept nogil
    cdef Way *make(self, uint64_t key) noexcept nogil
    cdef int grow(self) noexcept nogil
    cdef void next_generation(self) noexcept nogil
