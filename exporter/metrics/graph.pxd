"""The edges of the service graph: see graph.pyx."""

from libc.stdint cimport uint64_t

from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.assemble.span cimport SpanContext, SpanRec
from zerospan.exporter.metrics.series cimport Table

# Counts one end of a request in `table` (families.EDGES). `peer` is the process at the other end, NULL if it is not known.
cdef void graph_observe(Table table, const SpanRec *r, const SpanContext *c, const Proc *me, const Proc *peer,
                        uint64_t duration_ns, bint exemplars, uint64_t now_ns) noexcept nogil
