"""Who the processes are: what stands once for all spans of a process.

A process is looked up by tgid when its first message comes (not per message), and described by Python code
(exporter/process.py) as a ProcessInfo. Indices are stable while anything refers to them; 0 means unknown. An entry whose
processes have ended is used again once no connection, request or held span refers to it: see reclaim().
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.proto.cursor cimport Slice
from zerospan.exporter.tags.peer cimport Peer

cdef struct Proc:
    uint32_t tgid
    uint32_t service         # number of the service name: equal names, equal numbers; 0 unknown
    uint8_t is_nginx         # profile of the executable: its upstream pairing is used
    uint8_t is_loop          # profile: an event loop (node, uvicorn...); no thread evidence
    uint8_t order            # profile: link.proxies.Order
    uint8_t hidden           # self-test: its spans are not exported
    Slice name               # service.name
    Slice resource           # encoded opentelemetry.proto.resource.v1.Resource message
    Slice labels             # Loki stream labels as JSON members without braces: "service_name":"shop","source":"zerospan"
    Slice series             # Prometheus labels, escaped, no braces: job="shop",instance="host:123"
    uint64_t last_ns         # when it last spoke
    uint32_t open            # requests that it has read and not answered
    uint8_t begins_traces    # it has written trace contexts that no request had brought: an SDK is in it
    uint8_t waits            # ProcessInfo.waits: 1 the enricher has still to say what its container is, 2 it knows nothing yet
    uint8_t marked           # something refers to it
    uint8_t pad
    uint32_t users           # processes that run, as far as is known
    uint64_t gone_ns         # since when there are none; 0: there are some, or it is no process
    Slice space              # service.namespace; may be empty
    Slice meta               # members of a Loki line's structured metadata, each with a comma before it; may be empty
    const Peer *tags         # how it looks at the other end; NULL without an enricher

cdef enum:
    CACHE = 1024
    GONE_MIN = 256           # entries without users that are always allowed
    LOOK_NS = 30000000000    # between two looks at all that may refer to an entry
    ENTRY_BYTES = 1200       # of an entry beside its texts: ProcessInfo, tuple, places in dicts

cdef struct Cached:          # saves asking Python for each new connection
    uint32_t tgid
    uint32_t index
    char comm[16]

cdef class Processes:
    cdef Cached cache[CACHE]
    cdef Proc *procs
    cdef uint32_t n
    cdef uint32_t cap
    cdef dict by_tgid        # tgid -> (index, name), ProcessInfo.shared -> (index, "")
    cdef list spare          # indices that are free
    cdef list fresh          # indices of entries that are new: see told()
    cdef uint32_t n_gone     # entries without users
    cdef uint64_t now_ns     # of the engine's last tick
    cdef uint64_t rest_ns    # how long an entry without users rests before it is given to another
    cdef uint64_t looked_ns  # when reclaim() last looked for some
    cdef readonly uint64_t nbytes    # of entries and texts
    cdef list keep           # owns the bytes behind the slices
    cdef dict services
    cdef object describe     # Callable[[int tgid, str comm, int cgroup_id], ProcessInfo]

    # Index of the process if it was asked for lately, else 0. comm may be NULL.
    cdef uint32_t cached(self, uint32_t tgid, const char *comm) noexcept nogil
    # Index of the process; asks `describe` if it is new. cgroup_id: the kernel's word for where it is, 0: not told.
    cdef uint32_t find(self, uint32_t tgid, const char *comm, uint64_t cgroup_id) except 0
    cdef uint32_t look_up(self, uint32_t tgid, const char *comm, uint64_t cgroup_id) except 0
    # The process described under this name (ProcessInfo.shared) is described anew: its index, 0 if there is none. Nothing may refer
    # to its texts. What was learned of it stays.
    cdef uint32_t refill(self, object info) except? 0xffffffff
    # An entry that is no process, for spans of something else.
    cdef uint32_t add(self, object info) except 0
    cdef int fill(self, uint32_t i, object info) except -1
    cdef void leave(self, uint32_t i) noexcept
    # Whether so many entries are without users that it is time to mark those that are referred to, and to reclaim the others.
    cdef bint crowded(self) noexcept nogil
    cdef inline void mark(self, uint32_t i) noexcept nogil:
        self.procs[i].marked = 1
    # Frees what is not marked and has had no users for rest_ns, and takes away all marks. The indices that are free now.
    cdef list reclaim(self)
