"""Names of services of other hosts, each once: a Proc with nothing but a name, which stays as long as the agent runs.

Remote text: only what is printable UTF-8 is taken, and so many at most. Used by link/shared.pyx.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.assemble.processes cimport Proc, Processes

cdef enum:
    NAMES_MAX = 4096

cdef class Names:
    cdef Processes processes     # numbers services
    cdef Proc **places           # by hash; [0] has no name
    cdef uint32_t n
    cdef list owned              # what the slices of `places` point to
    cdef readonly uint64_t refused   # names that found no room
    cdef readonly uint64_t bad       # that are no text

    # Place of a service's name; 0 if it is none, or if there are too many.
    cdef uint32_t find(self, const uint8_t *p, uint32_t n) except? 0xffffffff nogil
    cdef uint32_t make(self, const uint8_t *p, uint32_t n, uint32_t at) except? 0xffffffff
