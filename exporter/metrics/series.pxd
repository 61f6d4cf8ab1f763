"""Series and the tables that hold them: one Table for each Kind of families.py. Not thread-safe: Red's mutex is held."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from zerospan.exporter.metrics.limit cimport Limiter
from zerospan.exporter.proto.cursor cimport Slice

cdef enum:
    VALUE_MAX = 256          # bytes of a label value; the rest is cut
    SERIES_MAX = 1024        # bytes of Proc.series
    LABELS_MAX = 10          # labels of a Kind
    PARTS_MAX = 3            # histograms of a Kind
    REFS_MAX = 8             # capped labels of a Kind
    KEY_MAX = 4096           # > SERIES_MAX + LABELS_MAX * VALUE_MAX, and their 2-byte lengths: always fits

cdef struct Key:             # the label values in the order of Kind.labels, each with a 2-byte length
    uint32_t n
    uint32_t pad
    uint8_t b[4096]

cdef struct Exemplar:
    uint8_t trace_id[16]
    uint64_t span_id         # written big-endian
    uint64_t value           # as observed: ns or bytes
    uint64_t wall_ns
    uint32_t bucket          # of the kind's first histogram
    uint32_t is_set

cdef struct Series:          # followed by: uint64_t values[Table.n_values], the key, the labels as text
    uint64_t hash
    uint64_t last_ns         # Table clock at the last change
    uint32_t size            # of this block in bytes
    uint32_t item            # index in Table.items
    uint32_t refs[8]         # what it holds in the Limiter
    uint32_t key_n
    uint32_t labels_n
    Exemplar exemplar

cdef struct Part:            # a histogram's place among the values: n_bounds + 1 buckets, then the sum
    uint32_t at
    uint32_t n_bounds
    uint32_t is_seconds      # values are ns
    uint32_t pad
    uint64_t bounds[16]      # in ns or bytes, inclusive

cdef struct Slot:
    uint32_t tag             # upper half of the hash
    uint32_t item            # index in Table.items + 1; 0: empty

cdef class Budget:           # what all tables of one Red share
    cdef readonly uint64_t max_series
    cdef readonly uint64_t max_bytes
    cdef readonly uint64_t series      # lines of the exposition
    cdef readonly uint64_t bytes
    cdef readonly uint64_t expired

cdef class Table:
    cdef readonly object kind
    cdef Budget budget
    cdef Limiter limiter
    cdef uint64_t seed
    cdef Slot *slots
    cdef uint32_t n_slots    # a power of two
    cdef Series **items      # NULL: a hole; an index never changes while its series lives
    cdef uint32_t n_items
    cdef uint32_t cap_items
    cdef uint32_t *holes
    cdef uint32_t n_holes
    cdef uint32_t sweep_at
    cdef readonly uint32_t n # live series
    cdef uint32_t n_values
    cdef uint32_t n_counters # come first among the values
    cdef uint32_t n_parts
    cdef readonly uint32_t lines     # of the exposition, for each series
    cdef Part parts[3]
    cdef uint32_t n_labels
    cdef uint32_t capped[10] # number of the label in the Limiter; 0: not limited
    cdef bint process        # the key's first field is Proc.series
    cdef Slice names[10]
    cdef Slice constant
    cdef list keep           # owns the bytes behind the slices
    cdef readonly uint64_t dropped           # observations that went to the overflow series, or nowhere
    cdef uint64_t replaced[10]               # observations with a label value beyond the limit
    cdef Series *overflow

    # The series of these label values, made if it is new: with values made clean and limited (for `owner`, a service
    # number; `limited` False: no limit), or the overflow series. NULL only if there is no memory at all.
    cdef Series *get(self, const Key *k, uint32_t owner, bint limited, uint64_t now_ns) noexcept nogil
    # One observation of histogram `part`; returns the bucket.
    cdef uint32_t observe(self, Series *s, uint32_t part, uint64_t value) noexcept nogil
    cdef void exemplar(self, Series *s, uint32_t bucket, uint64_t value, const uint8_t *trace_id, uint64_t span_id,
                       uint64_t wall_ns) noexcept nogil
    # Looks at the next `budget` items and forgets those that did not change since `before_ns`. True at the end of a round.
    cdef bint sweep(self, uint64_t before_ns, uint32_t budget) noexcept nogil

    cdef Slice text(self, str text)
    cdef Series *find(self, uint64_t h, const Key *k) noexcept nogil
    cdef Series *admit(self, const Key *k, uint32_t owner, bint limited, uint64_t now_ns) noexcept nogil
    cdef Series *make(self, const Key *k, uint64_t h, bint is_overflow, uint64_t now_ns) noexcept nogil
    cdef bint insert(self, Series *s) noexcept nogil
    cdef bint grow_slots(self) noexcept nogil
    cdef void remove(self, Series *s) noexcept nogil
    cdef void clear(self) noexcept nogil
    cdef uint32_t put_labels(self, uint8_t *out, const Key *k, bint is_overflow) noexcept nogil

cdef inline uint64_t *series_values(Series *s) noexcept nogil:
    return <uint64_t *>(s + 1)

cdef inline uint8_t *series_key(Table t, Series *s) noexcept nogil:
    return <uint8_t *>(series_values(s) + t.n_values)

cdef inline uint8_t *series_labels(Table t, Series *s) noexcept nogil:
    return series_key(t, s) + s.key_n

cdef inline void key_begin(Key *k) noexcept nogil:
    k.n = 0

cdef inline void key_put(Key *k, const uint8_t *p, uint32_t n, uint32_t most=VALUE_MAX) noexcept nogil:
    """Adds a label value; cut at `most` bytes."""
    if n > most:
        n = most
    if k.n + 2 + n > KEY_MAX:
        n = 0
    if k.n + 2 > KEY_MAX:
        return
    k.b[k.n] = <uint8_t>(n & 255)
    k.b[k.n + 1] = <uint8_t>(n >> 8)
    memcpy(k.b + k.n + 2, p, n)
    k.n += 2 + n
