# What store.pyx and the Kubernetes sources' book.pyx need of tag sets.

from libc.stdint cimport uint64_t


cdef class TagSet:
    cdef readonly TagSet base
    cdef readonly tuple keys
    cdef readonly bytes text
    cdef readonly TagSet shared
    cdef uint64_t _id

    cdef uint64_t hashed(self) except 0


cdef bint same(TagSet one, TagSet other)


cdef class TagSets:
    cdef readonly unsigned long long made
    cdef dict _sets
    cdef dict _merged
    cdef dict _shapes

    cpdef TagSet of(self, tags, TagSet base=*, TagSet shared=*)
    cpdef TagSet over(self, TagSet top, TagSet bottom)
    cdef tuple _shape(self, tuple names)
