"""What a PostgreSQL client says. See postgres_client.pyx."""

from zerospan.exporter.proto.base cimport ParseArgs, Parsed
from zerospan.exporter.proto.postgres_frame cimport Frame
from zerospan.exporter.proto.postgres_state cimport PgState

# One frame of the client. An Outcome; never MORE.
cdef int from_client(const ParseArgs *a, PgState *s, Frame *f, Parsed *out) noexcept nogil
