"""Trace contexts that programs write into their requests: which of them names a trace, whose span stands above, what is sampled.

  trace id    of a request: that of the nearest context on the way up its causes. Where none stands above, one that stands
              below: an SDK in the middle began a trace T when it served a request without a context, so all that
              stands above it belongs to T as well. Two that differ name nothing.
  parent      of a call: the request that it serves, unless its context is one that this process did not read: that is
              the span of an SDK, which stands between the two.
  sampling    of the same context as the trace id.

Called by engine.leave() (context_name, context_cause, sdk_span), assemble.exchanges (context_read) and, through
Requests.changed, whenever a cause was found or taken back (context_changed). Every access to the fields of a
Request that a context fills is below: where they are kept may change.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.assemble.processes cimport Proc
from zerospan.exporter.link.requests cimport Request, Requests
from zerospan.exporter.proto.base cimport WIRE_NONE, Parsed

cdef enum ContextFlag:       # Request.context
    CTX_UNSAMPLED = 1        # it says that its trace is not recorded
    CTX_PASSED_ON = 2        # a call with a context that an open request had brought into its process
    CTX_ADOPTED = 4          # it brought none; trace_id is that of a call below
    CTX_DISPUTED = 8         # calls below it carry different ones: none counts
    CTX_FIXED = 16           # a span below this root has left: its trace has a name
    CTX_SERVING = 32         # read and not answered: a call that is still to come may carry one

cdef struct Name:            # what context_name() says
    uint64_t root            # K of the topmost request of which something is known
    uint8_t trace_id[16]
    uint8_t trace_flags      # W3C flags octet of the exported spans
    uint8_t unsampled        # the context that counts says so

# ---- where a context is kept ----

cdef inline bint context_own(const Request *r) noexcept nogil:
    """It brought a trace context itself."""
    return r.wire != WIRE_NONE

cdef inline const uint8_t *context_trace_id(Requests requests, const Request *r) noexcept nogil:
    """Of one that brought a context, or took one from below."""
    return requests.traces[r.trace - 1].trace_id

cdef inline uint64_t context_parent(Requests requests, const Request *r) noexcept nogil:
    """Span id that came with it; 0 if it brought none."""
    return requests.traces[r.trace - 1].parent if r.trace else 0

cdef inline uint8_t context_flags(Requests requests, const Request *r) noexcept nogil:
    return requests.traces[r.trace - 1].flags if r.trace else 0

cdef inline bint context_put(
    Requests requests, Request *r, const uint8_t *trace_id, uint64_t parent, uint8_t flags
) noexcept nogil:
    return requests.put_trace(r, trace_id, parent, flags)

# ---- what is made of it ----

# The head of a request was read, at either end. brought: sent by a process that has an open request with this very context.
cdef void context_read(Requests requests, Request *r, const Parsed *m, bint brought) noexcept nogil
# A Requests.changed: the cause of `key` was found (before: what it was until now), or taken back.
cdef void context_changed(Requests requests, uint64_t key, uint64_t before) noexcept nogil
# The request that this call serves; 0 if none is known, or if a span of an SDK stands between.
cdef uint64_t context_cause(Requests requests, const Request *r) noexcept nogil
# The request that it serves all the same, where a span of an SDK stands between; else 0.
cdef uint64_t context_beside(Requests requests, const Request *r) noexcept nogil
# Whether an SDK makes a CLIENT span of this call itself: it carries a context that its process made.
cdef bint sdk_span(Requests requests, const Request *r) noexcept nogil
# The topmost request of which something is known, from r on up; not beyond one that brought a context.
cdef Request *context_top(Requests requests, Request *r) noexcept nogil
# Another host says of a root that an SDK below it began this trace; id NULL: that several did. False: what is known here says
# otherwise, so that nothing from below names the trace.
cdef bint context_told(Requests requests, Request *root, const uint8_t *id, uint8_t flags) noexcept nogil
# The trace of the request `key`. False: it is not known yet; never with `must`. procs: Processes.procs.
cdef bint context_name(Requests requests, const Proc *procs, uint64_t key, bint must, Name *out) noexcept nogil
