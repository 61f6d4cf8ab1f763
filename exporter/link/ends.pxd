"""Where the two ends of a connection really are: each end's own socket address, by connection key.

Address translation (SNAT, DNAT, a ClusterIP, hairpin) shows a socket another peer than the one that is there; the connection
key is the same at both ends all the same. So an end that is seen on this host can be told where the other stands.

A cache of bounded size: an entry is of use between the moments in which its two ends are first seen, so the oldest of a
set of four gives way, counted (`replaced`); its connection's spans then lack the other end's address, nothing else.
Called by assemble: on_conn puts, release asks (twice at most a connection).
"""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from zerospan.exporter.assemble.span cimport EndAddress

cdef enum:                   # which end
    END_CLIENT = 0           # the end that connected
    END_SERVER = 1

cdef struct Pair:
    uint64_t key             # C; 0: empty
    EndAddress ends[2]       # END_CLIENT, END_SERVER

cdef class Ends:
    cdef Pair *pairs
    cdef uint64_t mask               # of sets
    cdef uint8_t *oldest             # of each set, the place that gives way next
    cdef readonly uint64_t replaced  # entries that gave way before both of their ends were seen

    cdef void put(self, uint64_t key, int side, uint8_t family, const uint8_t *addr, uint16_t port) noexcept nogil
    # The end on that side; NULL if it was not seen here. Lasts until the next put.
    cdef const EndAddress *find(self, uint64_t key, int side) noexcept nogil
