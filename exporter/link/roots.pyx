# cython: language_level=3, boundscheck=True, wraparound=False
"""What was lately said of traces' roots; see roots.pxd."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from zerospan.exporter.link.context cimport context_flags, context_trace_id
from zerospan.exporter.link.ids cimport hash_bytes
from zerospan.exporter.link.shared_codec cimport END_TRACE, NOTE_DISPUTED, NOTE_NAMED, VALUE_MAX, Note, note_encode
from zerospan.exporter.proto.base cimport WIRE_TRACEPARENT

cdef enum:
    AGAIN_NS = 100000000     # several ends of one trace ask for its root


cdef class Roots:
    def __cinit__(self, Mail mail, uint64_t ttl_ns):
        self.mail = mail
        self.ttl_ns = ttl_ns

    cdef Root *of(self, uint64_t key) noexcept nogil:
        """Its place, emptied if it was another root's."""
        cdef Root *said = &self.said[key % ROOTS]
        if said.key != key:
            memset(said, 0, sizeof(Root))
            said.key = key
        return said

    cdef void ask(self, uint64_t key, uint64_t now) noexcept nogil:
        cdef Root *said = self.of(key)
        if said.asked_ns and now - said.asked_ns < AGAIN_NS:
            return
        said.asked_ns = now
        self.mail.ask(key, END_TRACE)

    cdef void tell(self, const Request *r, bint known, bint disputed, uint32_t epoch, uint64_t now) noexcept nogil:
        cdef Root *said = self.of(r.key)
        cdef Note note
        cdef uint8_t value[VALUE_MAX]
        cdef uint16_t n
        cdef uint64_t h
        if said.disputed and not disputed:
            return
        memset(&note, 0, sizeof(Note))
        note.key = r.key
        note.end = END_TRACE
        if disputed:
            note.flags = NOTE_DISPUTED
        else:
            note.flags = NOTE_NAMED
            note.wire = WIRE_TRACEPARENT
            note.trace_flags = context_flags(self.requests, r)
            memcpy(note.trace_id, context_trace_id(self.requests, r), 16)
        n = <uint16_t>note_encode(&note, value)
        h = hash_bytes(value, n, epoch)
        if h == said.told and now - said.told_ns < self.ttl_ns // 2:
            return
        said.told = h
        said.told_ns = now
        said.disputed = disputed
        if not known:
            self.mail.put(r.key, END_TRACE, False, value, n)
