# cython: language_level=3, boundscheck=True, wraparound=False
"""See peer.pxd."""

from libc.stdint cimport uint8_t, uint32_t

from zerospan.exporter.proto.cursor cimport Slice, slice_of


cdef Slice view(bytes b):
    return slice_of(<const uint8_t *><const char *>b, <uint32_t>len(b))


cdef class PeerTags:
    def __cinit__(self, stamp):
        cdef int i
        self.bytes_ = stamp
        self.nbytes = 256 + len(stamp.name) + len(stamp.space) + len(stamp.own)
        self.c.name = view(stamp.name)
        self.c.space = view(stamp.space)
        self.c.own = view(stamp.own)
        for i in range(FORMS):
            self.c.peer[i] = view(stamp.peer[i])
            self.c.service[i] = view(stamp.service[i])
            self.nbytes += len(stamp.peer[i]) + len(stamp.service[i])
        self.c.stands_for = stamp.stands_for

    @property
    def stamp(self):
        return self.bytes_
