# cython: language_level=3, boundscheck=True, wraparound=False
"""The table of Shared and its timing wheel; see shared_table.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset


cdef class SharedTable:
    """limit is set by whoever inherits."""

    def __cinit__(self):
        self.mask = 1023
        self.slots = <End *>calloc(self.mask + 1, sizeof(End))
        if self.slots == NULL:
            raise MemoryError("zerospan: no memory for the table of shared requests")

    def __dealloc__(self):
        cdef uint64_t i
        if self.slots != NULL:
            for i in range(self.mask + 1):
                free(self.slots[i].own)
                free(self.slots[i].theirs)
        free(self.slots)
        for i in range(WHEEL):
            free(self.wheel[i].keys)

    cdef void visit(self, End *e, uint64_t now) noexcept nogil:
        """What a look is: whoever inherits says."""

    cdef End *find(self, uint64_t key) noexcept nogil:
        cdef uint64_t i = key & self.mask
        if key == 0:
            return NULL
        while self.slots[i].key:
            if self.slots[i].key == key:
                return &self.slots[i]
            i = (i + 1) & self.mask
        return NULL

    cdef End *make(self, uint64_t key) noexcept nogil:
        cdef uint64_t i
        if key == 0 or self.n >= self.limit or (4 * (self.n + 1) > 3 * self.mask and self.grow() < 0):
            self.refused += 1
            return NULL
        i = key & self.mask
        while self.slots[i].key:
            i = (i + 1) & self.mask
        memset(&self.slots[i], 0, sizeof(End))
        self.slots[i].key = key
        self.n += 1
        return &self.slots[i]

    cdef int grow(self) noexcept nogil:
        cdef uint64_t mask = 2 * self.mask + 1, i, j
        cdef End *slots = <End *>calloc(mask + 1, sizeof(End))
        if slots == NULL:
            return -1
        for i in range(self.mask + 1):
            if self.slots[i].key:
                j = self.slots[i].key & mask
                while slots[j].key:
                    j = (j + 1) & mask
                slots[j] = self.slots[i]
        free(self.slots)
        self.slots = slots
        self.mask = mask
        return 0

    cdef void drop(self, End *e) noexcept nogil:
        """Empties a slot and closes the gap."""
        cdef uint64_t hole = e - self.slots, i = hole, home
        free(e.own)
        free(e.theirs)
        while True:
            i = (i + 1) & self.mask
            if self.slots[i].key == 0:
                break
            home = self.slots[i].key & self.mask
            if ((i - home) & self.mask) >= ((i - hole) & self.mask):
                self.slots[hole] = self.slots[i]
                hole = i
        memset(&self.slots[hole], 0, sizeof(End))
        self.n -= 1

    # ---- time ---------------------------------------------------------------------------------------

    cdef void due(self, End *e, uint64_t at_ns) noexcept nogil:
        """Looked at by then. An entry may stand in several places of the wheel: only the time in it counts."""
        cdef uint64_t place = at_ns // WHEEL_NS + 1
        cdef Place *p
        cdef uint64_t *grown
        cdef uint32_t cap
        if place < self.turned:
            place = self.turned
        if place >= self.turned + WHEEL:
            place = self.turned + WHEEL - 1
        e.due_ns = place * WHEEL_NS
        p = &self.wheel[place % WHEEL]
        if p.n == p.cap:
            cap = p.cap * 2 if p.cap else 16
            grown = <uint64_t *>realloc(p.keys, cap * sizeof(uint64_t))
            if grown == NULL:
                self.refused += 1
                self.drop(e)
                return
            p.keys = grown
            p.cap = cap
        p.keys[p.n] = e.key
        p.n += 1

    cdef void look(self, uint64_t now) noexcept nogil:
        cdef uint64_t last = now // WHEEL_NS
        cdef Place *p
        cdef End *e
        cdef Place taken
        cdef uint32_t i
        cdef int places = 0
        while self.turned <= last and places < WHEEL:
            p = &self.wheel[self.turned % WHEEL]
            taken = p[0]
            memset(p, 0, sizeof(Place))
            self.turned += 1
            places += 1
            for i in range(taken.n):
                e = self.find(taken.keys[i])
                if e != NULL and e.due_ns < self.turned * WHEEL_NS:
                    self.visit(e, now)
            if p.keys == NULL and taken.cap <= 1024:
                taken.n = 0
                p[0] = taken
            else:
                free(taken.keys)
        if self.turned <= last:
            self.turned = last + 1               # the first time, or a long sleep: what was due has been looked at
