"""All metrics as Prometheus' text: see exposition.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from zerospan.exporter.encode.buf cimport Buf
from zerospan.exporter.metrics.red cimport Red
from zerospan.exporter.metrics.routes cimport Routes
from zerospan.exporter.metrics.series cimport Part, Series, Table
from zerospan.exporter.proto.cursor cimport Slice

cdef enum Shape:
    SHAPE_COUNTER = 0        # a value of its own
    SHAPE_COUNT = 1          # a counter that is the count of a histogram
    SHAPE_HISTOGRAM = 2

cdef struct Family:
    uint32_t table           # number of the kind
    uint32_t shape
    uint32_t at              # SHAPE_COUNTER: index of the value; else of the histogram
    uint32_t pad
    Slice name
    Slice head[2]            # HELP and TYPE lines: text, OpenMetrics
    Slice le[17]             # with +Inf

cdef class Exposition:
    cdef readonly Red red
    cdef readonly Routes routes
    cdef object service_names
    cdef object one_at_a_time
    cdef Family families[24]
    cdef uint32_t n_families
    cdef list keep           # owns the bytes behind the slices
    cdef size_t last_size

    cdef Slice text(self, str text)
    cdef int add(self, uint32_t table, uint32_t shape, uint32_t at, family, str kind, tuple bounds) except -1
    cdef str target_info(self, bint openmetrics)
    cdef void family(self, Buf *out, Table t, Family *f, bint openmetrics) noexcept nogil
    cdef void histogram(self, Buf *out, Table t, Family *f, Series *s, bint openmetrics) noexcept nogil
