"""A tag set as the encoders want it: bytes that are copied. Made once for each set by stamp.py."""

from libc.stdint cimport uint8_t, uint64_t

from zerospan.exporter.proto.cursor cimport Slice

cdef enum Form:              # what the bytes are copied into
    FORM_SPAN = 0            # Span.attributes: KeyValue fields with their tag
    FORM_LOG = 1             # LogRecord.attributes
    FORM_LOKI = 2            # members of structured metadata, each with a comma before it
    FORMS = 3

cdef struct Peer:
    Slice name               # what the thing is called: service.name, else a Service's or an address range's name; may be empty
    Slice space              # service.namespace; may be empty
    Slice peer[3]            # by Form: zerospan.peer.*, all but the Service
    Slice service[3]         # by Form: zerospan.peer.k8s.service.name
    Slice own                # FORM_SPAN: the same tags by their own names, for the span of a pod's interface
    uint8_t stands_for       # the address is a Service's: who is behind it is not known by it
    uint8_t pad[7]

# Stays valid as long as b.
cdef Slice view(bytes b)

cdef class PeerTags:
    """The owner of a Peer's bytes."""

    cdef Peer c
    cdef object bytes_       # stamp.Stamp
    cdef readonly uint64_t nbytes
