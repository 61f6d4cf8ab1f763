# cython: language_level=3, boundscheck=True, wraparound=False
"""Names and meanings of the pipeline's counters, in the order of the enum Counter."""

ROWS = [
    ("records", "records drained from the source"),
    ("records_unannounced", "records of connections whose first record was lost"),
    ("records_bad", "records that are not of this ABI version"),
    ("connections", "connections seen"),
    ("connections_refused", "connections left out: assemble.max_connections was reached"),
    ("connections_evicted", "idle connections that made room for new ones"),
    ("connections_own", "connections of the agent itself, both ends left out"),
    ("connections_unknown", "connections whose protocol no parser knows"),
    ("connections_upgraded", "connections that went on in another protocol (TLS, WebSocket, CONNECT)"),
    ("requests", "request messages"),
    ("responses", "response messages"),
    ("interim", "interim messages (100 Continue)"),
    ("oneway", "messages that have no answer"),
    ("orphans", "responses whose request was not seen"),
    ("parse_errors", "runs of a known protocol that its parser refused"),
    ("uncaptured", "runs with message heads beyond the captured bytes"),
    ("gaps", "places where records of a connection were lost"),
    ("retransmitted", "datagrams that were sent again while their request was open"),
    ("seen", "requests observed, one at each end"),
    ("released", "spans given to the encoders"),
    ("open_full", "requests dropped: assemble.max_open_bytes was reached"),
    ("own", "spans dropped: the agent's own requests"),
    ("selftest", "spans of the start-up self-test"),
    ("unfinished", "requests dropped: still without an answer when the agent stopped"),
    ("encode", "spans dropped: no memory for their encoding"),
    ("not_sampled", "spans left out: the trace context of their request says that its trace is not recorded"),
    ("sdk_span", "CLIENT spans left out: an SDK makes them (link.sdk_client_spans: omit)"),
    ("hold_early", "spans that left before their hold time: link.hold_bytes was reached"),
    ("hold_waited", "times that a span waited longer because its chain was not known"),
    ("timeouts", "requests without an answer within assemble.timeout_s"),
    ("resets", "requests ended by a reset"),
    ("closed_early", "requests ended by an orderly close before the answer"),
    ("not_seen", "requests whose answer passed uncaptured"),
    ("linked", "calls with a known cause"),
    ("unlinked", "calls without one"),
    ("selftest_answered", "requests of the self-test that were paired with their answer: one at each end"),
]
NAMES = [name for name, _ in ROWS]
DROPS = ("open_full", "own", "selftest", "unfinished", "encode", "not_sampled", "sdk_span")
assert len(ROWS) == N_MAX, (len(ROWS), N_MAX)
