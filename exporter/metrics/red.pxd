"""RED and service-graph metrics of all spans: see red.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport SpanContext, SpanRec
from zerospan.exporter.metrics.limit cimport Limiter
from zerospan.exporter.metrics.series cimport Budget, Series, Table
from zerospan.exporter.metrics.targets cimport Targets

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attr)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)

cdef enum:                   # numbers of kinds: the order of families.KINDS
    KIND_HTTP_SERVER = 0
    KIND_HTTP_CLIENT = 1
    KIND_DB_CLIENT = 2
    KIND_DB_SERVER = 3
    KIND_DNS_CLIENT = 4
    KIND_DNS_SERVER = 5
    KIND_SPANS = 6
    KIND_EDGES = 7
    KINDS_N = 8

cdef class Red:
    cdef pthread_mutex_t mutex
    cdef readonly list tables        # of Table, in the order of families.KINDS
    cdef void *table[8]              # the same, for code without the GIL
    cdef Budget budget
    cdef Limiter limiter
    cdef Targets targets
    cdef bint exemplars
    cdef uint64_t ttl_ns
    cdef uint64_t now_ns             # set by tick(): the clock of the TTL
    cdef uint64_t sweep_ns           # when the next round of forgetting begins
    cdef int sweeping                # the table that is being looked through; KINDS_N: none
    cdef int rendering               # an index of a series must not be used again meanwhile
    cdef readonly uint64_t observed  # spans

    # Once for each span that leaves. `me` made it; `peer` is the process at the other end, NULL if it is not known.
    cdef void observe(self, const SpanRec *r, const SpanContext *c, const Proc *me, const Proc *peer) noexcept nogil
    # The time (CLOCK_MONOTONIC in ns), at every turn of the drain: series that did not change for the TTL are
    # forgotten a few at a time. Without it none is.
    cdef void tick(self, uint64_t now_ns) noexcept nogil
    # The process with this index (Processes) has ended, and another will have it.
    cdef void retire(self, uint32_t proc) noexcept nogil

    cdef void measure(self, Table table, Series *s, const SpanRec *r, const SpanContext *c, uint64_t duration) noexcept nogil
    cdef Series *http(self, const SpanRec *r, const Proc *me) noexcept nogil
    cdef Series *database(self, const SpanRec *r, const Proc *me) noexcept nogil
    cdef Series *dns(self, const SpanRec *r, const Proc *me) noexcept nogil
    cdef Series *span(self, const SpanRec *r, const Proc *me) noexcept nogil
    cdef uint64_t oldest(self) noexcept nogil
