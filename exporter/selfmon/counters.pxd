"""One table of the pipeline's counters. Names and meanings are in counters.pyx; C code counts by index."""

from libc.stdint cimport uint64_t

cdef enum:
    # records, as they come from the source
    N_RECORDS
    N_UNANNOUNCED
    N_BAD_RECORD
    # connections
    N_FLOWS
    N_FLOWS_REFUSED
    N_FLOWS_EVICTED
    N_OWN_FLOWS
    N_UNKNOWN_PROTOCOL
    N_UPGRADED
    # messages
    N_REQUESTS
    N_RESPONSES
    N_INTERIM
    N_ONEWAY
    N_ORPHANS
    N_PARSE_ERRORS
    N_UNCAPTURED
    N_GAPS
    N_RETRANSMITTED
    # spans: the ledger
    N_SEEN
    N_RELEASED
    N_DROP_OPEN_FULL
    N_DROP_OWN
    N_DROP_SELFTEST
    N_DROP_UNFINISHED
    N_DROP_ENCODE
    N_DROP_NOT_SAMPLED
    N_DROP_SDK_SPAN
    # not losses, but worth knowing
    N_HOLD_EARLY
    N_HOLD_WAITED
    N_TIMEOUTS
    N_RESETS
    N_CLOSED_EARLY
    N_NOT_SEEN
    N_LINKED
    N_UNLINKED
    N_SELFTEST_ANSWERED
    # points of the way: network interfaces
    N_NIC_RECORDS
    N_NIC_GAPS
    N_NIC_EVICTED
    N_NIC_REFUSED
    N_NIC_NO_INTERFACE
    N_DROP_NIC_UNMATCHED
    # tags
    N_TAGS_LATE
    N_PEER_UNKNOWN
    N_PEER_UNANSWERED
    N_PEER_AWAY
    N_MAX
