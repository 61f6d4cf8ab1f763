"""The table of requests that other hosts are told of or asked for, and when each is looked at next.

Open addressing with deletion by shifting back, and a timing wheel of keys. The base of Shared (link/shared.pxd), which says what a
look is (visit). Belongs to the drain thread.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.assemble.span cimport EndAddress
from zerospan.exporter.link.shared_codec cimport Points

cdef enum:
    WHEEL = 512              # places of the timing wheel
    WHEEL_NS = 8000000       # of each

cdef enum Passing:
    PASSING_NOT = 0
    PASSING = 1              # interfaces saw it, no process of this host did
    PASSING_SERVED = 2       # likewise, and another agent sees its server

cdef struct End:
    uint64_t key             # K; 0: an empty slot
    uint64_t due_ns          # next look at it
    uint64_t told            # hash of the value that was published last; 0: none
    uint64_t told_ns
    uint32_t proc            # of the end that is here
    uint32_t who             # service of the other end, place in `names`; 0: not known
    uint32_t epoch           # of what was published
    uint8_t end              # which end is here: END_CLIENT, END_SERVER; 0: neither, a cause above, or `passing`
    uint8_t tries
    uint8_t found            # the other end's value came
    uint8_t flags            # NoteFlag of it
    uint8_t datagram
    uint8_t more             # points of this end are still to come
    uint8_t passing          # Passing
    uint8_t asked_root       # questions for the root's name
    uint64_t ended_ns        # when this end was over; 0: not yet
    Points *own
    Points *theirs
    EndAddress here          # of the end that is here
    EndAddress there         # of the other end, as its agent has it; family 0: not told

cdef struct Place:           # of the timing wheel: keys, each of which may be due by now
    uint64_t *keys
    uint32_t n
    uint32_t cap

cdef class SharedTable:
    cdef End *slots
    cdef uint64_t mask
    cdef readonly uint64_t n
    cdef uint64_t limit          # entries
    cdef Place wheel[WHEEL]
    cdef uint64_t turned         # number of the next place, since the beginning of time
    cdef uint64_t now_ns         # of the last turn
    cdef readonly uint64_t refused

    cdef End *find(self, uint64_t key) noexcept nogil
    # A new entry; NULL if there is no room, counted as refused. Pointers last until the next make() or drop().
    cdef End *make(self, uint64_t key) noexcept nogil
    cdef int grow(self) noexcept nogil
    cdef void drop(self, End *e) noexcept nogil
    # Looked at by then. Without memory for it the entry is dropped.
    cdef void due(self, End *e, uint64_t at_ns) noexcept nogil
    # Looks at what is due.
    cdef void look(self, uint64_t now) noexcept nogil
    cdef void visit(self, End *e, uint64_t now) noexcept nogil
