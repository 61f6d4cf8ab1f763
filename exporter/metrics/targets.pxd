"""target_info: what stands once for each process instance. See targets.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.encode.buf cimport Buf
from zerospan.exporter.proto.cursor cimport Slice

cdef struct Target:
    uint64_t last_ns         # 0: never seen
    uint8_t *series          # copy of Proc.series
    uint32_t series_n
    uint32_t labels_n
    uint8_t *labels          # further labels, escaped, without braces

cdef enum:
    FORMER = 1024            # former names that are kept; the oldest gives way

cdef class Targets:
    cdef Target *targets     # by index of the process
    cdef uint32_t n
    cdef Target *former      # names that processes had while series were counted under them, a ring
    cdef uint32_t n_former   # ever

    cdef void touch(self, uint32_t proc, Slice series, uint64_t now_ns) noexcept nogil
    # The process is called otherwise now: its series and labels from now on. Series that stand under its former name keep a
    # target_info, with the labels of now.
    cdef bint put(self, uint32_t proc, Slice series, Slice labels) noexcept nogil
    # The process has ended, and its index is given to another: what was counted under its name keeps its target_info.
    cdef void retire(self, uint32_t proc) noexcept nogil
    # Appends series NUL labels NUL for each that was seen since `after_ns`; of several processes that are one instance, the one
    # that was described first.
    cdef void dump(self, Buf *out, uint64_t after_ns) noexcept nogil

    cdef bint reserve(self, uint32_t proc) noexcept nogil
    cdef bint remember(self, const Target *t, Slice labels) noexcept nogil
    cdef Target *at(self, uint32_t i) noexcept nogil
