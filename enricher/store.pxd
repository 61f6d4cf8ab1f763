# What the Kubernetes sources' book.pyx needs of the store.

from libc.stdint cimport int64_t

from zerospan.enricher.tagset cimport TagSet, TagSets


cdef class Binding:
    cdef readonly TagSet tags
    cdef readonly int64_t since_ns
    cdef readonly int64_t until_ns
    cdef readonly str node
    cdef int _layer


cdef class Piece:
    cdef readonly TagSet tags
    cdef readonly int64_t since_ns
    cdef readonly int64_t until_ns


cdef class TagStore:
    cdef readonly TagSets sets
    cdef readonly int64_t epoch
    cdef readonly int64_t revision
    cdef readonly int64_t range_revision
    cdef readonly int64_t refused
    cdef readonly int64_t evicted
    cdef readonly int64_t keep_ns
    cdef object lock          # held by whoever calls a method below from C
    cdef Py_ssize_t _max_keys
    cdef object _clock
    cdef dict _bindings
    cdef dict _nodes
    cdef dict _stale
    cdef dict _ended
    cdef dict _ranges
    cdef dict _touched
    cdef object _log
    cdef object _logged
    cdef list _listeners
    cdef int _depth
    cdef bint _pending
    cdef Py_ssize_t _loose
    cdef Py_ssize_t _swept

    cdef bint put_locked(self, bytes key, TagSet tags, int layer, int64_t since_ns, int64_t until_ns, str node) except -1
    cdef bint end_locked(self, bytes key, int layer, int64_t at_ns, TagSet tags) except -1
    cdef Binding held_locked(self, bytes key, int layer, TagSet tags)

    cdef list _pieces(self, bytes key)
    cdef int _index(self, str node, bytes key) except -1
    cdef int _count_stale(self, tuple bindings, but) except -1
    cdef int _tidy(self, str node) except -1
    cdef int _set(self, bytes key, list bindings) except -1
    cdef int _forget(self, bytes key) except -1
    cdef bint _evict(self) except -1
    cdef TagSet _range(self, bytes address)
    cdef int _ranges_changed(self) except -1
    cdef int _changed(self, bytes key) except -1
    cdef int _told(self) except -1
    cdef int _tell(self) except -1
