"""Templates of few values for HTTP paths: see routes.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.proto.cursor cimport Slice

cdef struct Node:            # a position in the tree of one service: what a prefix of segments became
    uint64_t hash            # of parent and text
    const uint8_t *text      # this segment, in the arena
    uint32_t text_n
    uint32_t parent
    uint32_t words           # children that are literal segments
    uint32_t is_param        # too many of them: every literal is {param} from now on
    const uint8_t *template  # in the arena; NULL: no path ended here
    uint32_t template_n
    uint32_t pad

cdef struct Service:
    uint32_t root            # its node; 0: none yet
    uint32_t used            # distinct templates
    uint64_t capped          # paths that found no room

cdef class Routes:
    cdef readonly uint32_t limit         # templates a service
    cdef readonly uint32_t max_words     # literal segments at one position
    cdef readonly uint64_t max_bytes
    cdef readonly uint64_t bytes         # of memory that is held
    cdef readonly uint64_t collapsed     # positions that became {param}
    cdef readonly uint64_t unplaced      # paths of services for which there was no memory at all
    cdef Service *services
    cdef uint32_t n_services
    cdef Node *nodes                     # [0] is never used
    cdef uint32_t n_nodes
    cdef uint32_t cap_nodes
    cdef uint32_t *slots                 # of nodes, by hash; 0: empty
    cdef uint32_t n_slots
    cdef uint8_t **chunks                # the arena: never moved, freed with the object
    cdef uint32_t n_chunks
    cdef uint32_t chunk_left
    cdef uint64_t seed

    # The template of `path` (url.path, without query) for this service; a new one is made if there is room. It stays
    # valid as long as this object lives. Empty for what is no path ("host:443" of CONNECT).
    cdef Slice route(self, uint32_t service, Slice path) noexcept nogil
    # The same, but never makes one: empty if no other request made it. For paths that the server did not know
    # (404, 405, 400), so that a scanner does not use up the templates.
    cdef Slice route_if_known(self, uint32_t service, Slice path) noexcept nogil

    cdef Slice walk(self, uint32_t service, Slice path, bint make) noexcept nogil
    cdef Slice capped(self, Service *s) noexcept nogil
    cdef Service *service_of(self, uint32_t service) noexcept nogil
    cdef uint32_t words_allowed(self, const Service *s) noexcept nogil
    cdef uint32_t child(self, uint32_t parent, Slice text) noexcept nogil
    cdef uint32_t add(self, uint32_t parent, Slice text) noexcept nogil
    cdef bint grow_nodes(self) noexcept nogil
    cdef bint take(self, uint64_t n) noexcept nogil
    cdef const uint8_t *keep(self, const uint8_t *p, uint32_t n) noexcept nogil
