# cython: language_level=3, boundscheck=True, wraparound=False
"""Which trace context names a trace; see context.pxd.

A context that a call carries, and no request above it, is told upwards as soon as the call's cause is known: every
request on the way to the root takes its trace id (CTX_ADOPTED), until one is met that brought a context itself, or one
that took another (CTX_DISPUTED from there on up). The root's counts. All this happens before the first span of the
trace leaves its hold; what comes later changes no name (CTX_FIXED): a trace must not be torn apart. Hosts that serve other parts
of the trace are told through the store, by the root's K (link/shared.pyx, context_told).
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from zerospan.exporter.link.ids cimport get_be64, trace_id
from zerospan.exporter.link.requests cimport CAUSE_DOUBTFUL, CAUSE_PENDING

cdef enum:
    MAX_CHAIN = 64           # causes that are followed to the root


cdef inline uint64_t above(const Request *r) noexcept nogil:
    """K of what it serves, as far as it is known."""
    return r.cause if r.cause_state != CAUSE_DOUBTFUL else 0


cdef inline bint named(const Request *r) noexcept nogil:
    """A context of its own, or one that came from below and is not disputed."""
    return context_own(r) or (r.context & (CTX_ADOPTED | CTX_DISPUTED)) == CTX_ADOPTED


cdef void dispute(Requests requests, Request *r) noexcept nogil:
    """From here to the root, nothing from below counts."""
    cdef int steps = 0
    while r != NULL and not context_own(r) and steps < MAX_CHAIN:
        if r.context & CTX_DISPUTED:
            return
        r.context |= CTX_DISPUTED
        r = requests.find(above(r))
        steps += 1


cdef void offer(Requests requests, const Request *r) noexcept nogil:
    """What stands above takes the trace id of r."""
    cdef uint8_t id[16]      # a copy: the table of contexts grows
    cdef uint8_t flags = context_flags(requests, r)
    cdef Request *at = requests.find(above(r))
    cdef Request *root = NULL
    cdef int steps = 0
    memcpy(id, context_trace_id(requests, r), 16)
    while at != NULL and steps < MAX_CHAIN:
        if context_own(at):
            return   # what an SDK was given counts for all that stands below, but not for what another one began
        root = at
        at = requests.find(above(at))
        steps += 1
    if root != NULL and root.context & CTX_FIXED:
        if not named(root) or memcmp(context_trace_id(requests, root), id, 16) != 0:
            requests.contexts_late += 1
        return
    at = requests.find(above(r))
    steps = 0
    while at != NULL and steps < MAX_CHAIN:
        if not at.context & CTX_ADOPTED:
            if not context_put(requests, at, id, 0, flags):
                return
            at.context |= CTX_ADOPTED
        elif memcmp(context_trace_id(requests, at), id, 16) != 0:
            if not at.context & CTX_DISPUTED:
                requests.contexts_disputed += 1
                dispute(requests, at)
            return
        at = requests.find(above(at))
        steps += 1


cdef void withdraw(Requests requests, const Request *r, uint64_t before) noexcept nogil:
    """r does not serve `before`, as it seemed: who else gave it this trace id is not known."""
    cdef Request *at = requests.find(before)
    cdef Request *root = at
    cdef int steps = 0
    while root != NULL and above(root) and not context_own(root) and steps < MAX_CHAIN:
        root = requests.find(above(root))
        steps += 1
    if root == NULL or context_own(root) or root.context & CTX_FIXED:
        return
    if at.context & CTX_ADOPTED and memcmp(context_trace_id(requests, at), context_trace_id(requests, r), 16) == 0:
        requests.contexts_disputed += 1
        dispute(requests, at)


cdef void context_changed(Requests requests, uint64_t key, uint64_t before) noexcept nogil:
    cdef Request *r = requests.find(key)
    if r == NULL or not named(r):
        return
    if r.context & CTX_UNSAMPLED and requests.honour_sampling:
        return   # the program records no span of it: its decision is about what it calls, not about its callers
    if before and before != above(r):
        withdraw(requests, r, before)
    if above(r):
        offer(requests, r)


cdef void context_read(Requests requests, Request *r, const Parsed *m, bint brought) noexcept nogil:
    cdef bint told = context_own(r)
    if m.unsampled:
        r.context |= CTX_UNSAMPLED
    if m.wire == WIRE_NONE:
        return
    if brought:
        r.context |= CTX_PASSED_ON
    if not context_put(requests, r, m.trace_id, get_be64(m.parent_id), m.trace_flags):
        return
    r.wire = m.wire
    r.context &= ~<uint8_t>(CTX_ADOPTED | CTX_DISPUTED)
    if not told and r.cause:
        context_changed(requests, r.key, 0)   # the other end could not read it


cdef uint64_t context_cause(Requests requests, const Request *r) noexcept nogil:
    cdef const Request *cause
    if above(r) == 0 or not context_own(r):
        return above(r)
    cause = requests.find(r.cause)
    # one that is only passed on is the request's own
    if cause == NULL or not context_own(cause) or context_parent(requests, cause) != context_parent(requests, r):
        return 0
    return r.cause if memcmp(context_trace_id(requests, cause), context_trace_id(requests, r), 16) == 0 else 0


cdef uint64_t context_beside(Requests requests, const Request *r) noexcept nogil:
    return above(r) if context_own(r) and context_cause(requests, r) == 0 else 0


cdef bint sdk_span(Requests requests, const Request *r) noexcept nogil:
    return context_own(r) and not r.context & CTX_PASSED_ON and context_cause(requests, r) == 0


cdef Request *context_top(Requests requests, Request *r) noexcept nogil:
    cdef Request *at = r
    cdef int steps = 0
    while at != NULL and steps <= MAX_CHAIN:
        r = at
        if context_own(at):
            break
        at = requests.find(above(at))
        steps += 1
    return r


cdef bint context_told(Requests requests, Request *root, const uint8_t *id, uint8_t flags) noexcept nogil:
    if context_own(root):
        return True
    if id == NULL:
        if root.context & CTX_FIXED:
            requests.contexts_late += named(root)
        else:
            root.context |= CTX_DISPUTED
        return True
    if named(root) and memcmp(context_trace_id(requests, root), id, 16) == 0:
        return True
    if root.context & CTX_FIXED:
        requests.contexts_late += 1
        return False
    if root.context & (CTX_ADOPTED | CTX_DISPUTED):
        if not root.context & CTX_DISPUTED:
            requests.contexts_disputed += 1
        root.context |= CTX_DISPUTED
        return False
    if context_put(requests, root, id, 0, flags):
        root.context |= CTX_ADOPTED
    return True


cdef bint context_name(Requests requests, const Proc *procs, uint64_t key, bint must, Name *out) noexcept nogil:
    cdef Request *at = requests.find(key)
    cdef Request *top = NULL
    cdef bint to_come = False
    cdef int steps = 0
    out.root = key
    out.trace_flags = 1
    out.unsampled = 0
    while at != NULL:
        if at.cause_state == CAUSE_PENDING and not must and (at.client_proc == 0 or procs[at.client_proc].open):
            return False
        out.root = at.key
        top = at
        if at.context & CTX_UNSAMPLED:
            out.unsampled = 1
        if context_own(at):
            break
        # An SDK that has begun traces before may still do so for this request.
        to_come |= at.context & CTX_SERVING and procs[at.server_proc].begins_traces
        if above(at) == 0 or steps >= MAX_CHAIN:
            break
        steps += 1
        at = requests.find(at.cause)
    if top != NULL and named(top):
        memcpy(out.trace_id, context_trace_id(requests, top), 16)
        out.trace_flags = context_flags(requests, top)
    else:
        if to_come and not must and not top.context & (CTX_FIXED | CTX_DISPUTED):
            return False
        trace_id(out.root, out.trace_id)
    if not out.unsampled:
        out.trace_flags |= 1     # no decision (B3 may defer it) is ours, and it is exported
    if top != NULL:
        top.context |= CTX_FIXED
    return True
