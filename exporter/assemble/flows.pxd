"""Connections: which parser owns them, what is open on them, and what became of it.

Takes records (Flows.handle) and makes finished spans, which go to the hold; tells the link stage who sent and who
answered what, in the order in which it happened.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.abi.events cimport zs_close, zs_conn, zs_connect, zs_dgram, zs_msg, zs_progress
from zerospan.exporter.assemble.exchanges cimport Exchanges
from zerospan.exporter.assemble.table cimport Flow
from zerospan.exporter.proto.base cimport ParseArgs

cdef class Flows(Exchanges):
    cdef uint64_t timeout_ns
    cdef uint64_t loss_ns        # when the source last lost records: silence proves nothing before
    cdef uint32_t self_tgid
    cdef Flow *flow          # being handled
    cdef ParseArgs *parsing  # what its parser was called with

    # One record of the source. Never raises for what a record says.
    cdef int handle(self, const uint8_t *record, uint32_t size) except -1 nogil
    # Time-outs, and answers that have passed without a record: every half second.
    cdef int settle(self, uint64_t now) except -1 nogil
    # The source has lost records until now.
    cdef void lossy(self, uint64_t now) noexcept nogil
    # The end: what is open is dropped and counted, what is passing is finished.
    cdef int finish(self, uint64_t now) except -1 nogil
    cdef int on_conn(self, const zs_conn *ev) except -1 nogil
    cdef int on_connect(self, const zs_connect *ev) except -1 nogil
    cdef int on_msg(self, const zs_msg *ev, const uint8_t *payload) except -1 nogil
    cdef int on_progress(self, const zs_progress *ev) except -1 nogil
    cdef int on_close(self, const zs_close *ev) except -1 nogil
    cdef int on_dgram(self, const zs_dgram *ev, const uint8_t *payload) except -1 nogil
    cdef int turn(self, Flow *f, const zs_msg *ev, bint from_client) except -1 nogil
    cdef int detect(self, Flow *f, ParseArgs *a, const uint8_t *payload, uint32_t n, bint cut) except -1 nogil
    cdef int refused(self, Flow *f) except -1 nogil
    # The parser's guess or the sides were wrong: what is open is given up, and the protocol is looked for again.
    cdef int afresh(self, Flow *f) except -1 nogil
    cdef void args(self, Flow *f, ParseArgs *a, bint from_client) noexcept nogil
    cdef int end_run(self, Flow *f, uint64_t now) except -1 nogil
