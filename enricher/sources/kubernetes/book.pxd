# What a reader tells of a pod (pods.pyx makes them), and the book.

from libc.stdint cimport int64_t

from zerospan.enricher.store cimport TagStore
from zerospan.enricher.tagset cimport TagSet


cdef class ContainerFacts:
    cdef readonly bytes key
    cdef readonly int64_t since_ns
    cdef readonly int64_t until_ns
    cdef readonly dict tags
    cdef readonly dict shared


cdef class PodFacts:
    cdef readonly bytes key
    cdef public str node
    cdef readonly dict tags
    cdef readonly int64_t since_ns
    cdef readonly int64_t address_since_ns
    cdef readonly int64_t until_ns
    cdef readonly list addresses
    cdef readonly list uids
    cdef readonly list containers
    cdef readonly dict shared


cdef class Record:
    cdef TagSet tags
    cdef int64_t since_ns
    cdef int64_t dies_ns
    cdef str node
    cdef tuple keys
    cdef int generation
    cdef int had


cdef class PodBook:
    cdef TagStore _store
    cdef int _layer
    cdef object _member
    cdef dict _records
    cdef int _generation
    cdef readonly int64_t changes
    cdef dict _sets

    cdef int _seen(self, PodFacts facts, TagSet base, int64_t dies_ns) except -1
    cdef TagSet _shared(self, dict tags)
    cdef int _remake(self, bytes key, Record record, TagSet new) except -1
    cdef int _release(self, bytes key, TagSet tags, int64_t at_ns) except -1
    cdef int _end(self, PodFacts facts, TagSet tags) except -1
    cdef int _claim(self, bytes key, TagSet old, TagSet new, int64_t since_ns, str node) except -1
