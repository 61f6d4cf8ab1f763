"""What was lately said of traces' roots, so that several ends of one trace on this host tell and ask once.

A trace that an SDK began below the root is told under the root's K. Belongs to Shared (link/shared.pxd), which knows when.
"""

from libc.stdint cimport uint32_t, uint64_t

from zerospan.exporter.link.mail cimport Mail
from zerospan.exporter.link.requests cimport Request, Requests

cdef enum:
    ROOTS = 4096             # that are remembered

cdef struct Root:
    uint64_t key
    uint64_t asked_ns
    uint64_t told            # hash of the value that is in the store, as far as is known
    uint64_t told_ns         # since when
    uint64_t disputed        # told so: nothing else is told after it

cdef class Roots:
    cdef Mail mail
    cdef Requests requests
    cdef uint64_t ttl_ns         # how long the store keeps what is told
    cdef Root said[ROOTS]        # each at its key's place

    # Asks whether another host knows of a trace begun below this root, unless that was asked just now.
    cdef void ask(self, uint64_t key, uint64_t now) noexcept nogil
    # Renewed while the root is looked at. known: the store has it. disputed: no SDK's trace is this one's. epoch: of what
    # was published (Shared.epoch).
    cdef void tell(self, const Request *r, bint known, bint disputed, uint32_t epoch, uint64_t now) noexcept nogil

    cdef Root *of(self, uint64_t key) noexcept nogil
