"""The network interfaces whose points make spans: told by Python, looked up by C code for each exchange."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.proto.cursor cimport Slice

cdef enum Role:
    ROLE_NONE = 0            # the entry is empty
    ROLE_POD = 1             # a pod's interface: its own end, or the host's end of its veth
    ROLE_NODE = 2            # uplink of a node
    ROLE_TUNNEL = 3          # tunnel device of a node

cdef struct Interface:
    uint64_t netns_cookie
    uint64_t gone_ns         # when it was removed; 0: it is there
    uint32_t ifindex
    uint8_t role
    uint8_t inside           # of a pod: its own end
    Slice name
    Slice netns
    Slice mac
    Slice kind

cdef class Interfaces:
    cdef Interface *all      # index 0 is none
    cdef uint32_t n
    cdef uint32_t cap
    cdef uint32_t *slots     # open addressing over indices
    cdef uint32_t mask
    cdef list keep           # owns the texts, by index
    cdef object told         # deque of what set() and remove() said
    cdef dict index
    cdef dict table          # what replace() was given last
    cdef uint64_t keep_ns

    # Takes in what was told since. Called by the engine's thread before it handles records.
    cdef int update(self, uint64_t now) except -1
    # Index of the interface, 0 if it was never told. Also for some time after it was removed.
    cdef uint32_t find(self, uint64_t netns_cookie, uint32_t ifindex) noexcept nogil
    cdef uint32_t place(self, tuple key, uint64_t now) except 0
    cdef int hash_all(self) except -1
