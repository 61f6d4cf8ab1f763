# cython: language_level=3, boundscheck=True, wraparound=False
"""Names of services of other hosts; see shared_names.pxd."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from zerospan.exporter.link.ids cimport hash_bytes
from zerospan.exporter.proto.cursor cimport slice_of

cdef enum:
    NAME_PLACES = 2 * NAMES_MAX


cdef inline uint32_t name_place(uint64_t h) noexcept nogil:
    return <uint32_t>(h % (NAME_PLACES - 1)) + 1


cdef class Names:
    """processes is set by whoever makes it, before the first find()."""

    def __cinit__(self):
        self.owned = []
        self.n = 1
        self.places = <Proc **>calloc(NAME_PLACES, sizeof(Proc *))
        if self.places != NULL:
            self.places[0] = <Proc *>calloc(1, sizeof(Proc))
        if self.places == NULL or self.places[0] == NULL:
            raise MemoryError("zerospan: no memory for the names of other hosts' services")

    def __dealloc__(self):
        cdef uint64_t i
        if self.places != NULL:
            for i in range(NAME_PLACES):
                free(self.places[i])
        free(self.places)

    cdef uint32_t find(self, const uint8_t *p, uint32_t n) except? 0xffffffff nogil:
        """Place of a service's name; 0 if it is none, or if there are too many."""
        cdef uint64_t h
        cdef uint32_t at
        if n == 0:
            return 0
        h = hash_bytes(p, n, 0)
        at = name_place(h)
        while self.places[at] != NULL:
            if self.places[at].name.n == n and memcmp(self.places[at].name.p, p, n) == 0:
                return at
            at = at % (NAME_PLACES - 1) + 1
        with gil:
            return self.make(p, n, at)

    cdef uint32_t make(self, const uint8_t *p, uint32_t n, uint32_t at) except? 0xffffffff:
        cdef bytes name = (<const char *>p)[:n]
        cdef Proc *proc
        try:
            text = name.decode()
        except UnicodeDecodeError:
            text = "\0"
        if not text.isprintable():
            self.bad += 1
            return 0
        if self.n >= NAMES_MAX:
            self.refused += 1
            return 0
        proc = <Proc *>calloc(1, sizeof(Proc))
        if proc == NULL:
            self.refused += 1
            return 0
        self.owned.append(name)
        proc.name = slice_of(<const uint8_t *><const char *>name, n)
        proc.service = self.processes.services.setdefault(text, len(self.processes.services) + 1)
        self.places[at] = proc
        self.n += 1
        return at
