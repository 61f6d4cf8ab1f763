"""What agents tell each other about a request: one value for each end, in Redis or Valkey.

  zs1:c:<K>   by the agent that sees the client's end: which request the call serves, what names its trace, who sent it
  zs1:s:<K>   by the agent that sees the server's end: who serves it, how long each point of the way took
  zs1:t:<K>   K is that of a trace's root: an SDK somewhere below it began a trace, of which all above it is part, too

<K> is 16 hexadecimal digits. A value is one version byte and a fixed head, all big-endian, and holds no time of day:
clocks of hosts differ. Another host's bytes are remote bytes: decode() reads them with the checked cursor, and either
takes all of them or none. Called by link/shared.pyx, link/shared_wire.pyx and their tests.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zerospan.exporter.assemble.span cimport EndAddress
from zerospan.exporter.proto.cursor cimport Slice

cdef enum:
    VERSION = 2
    END_CLIENT = 0x63        # 'c'
    END_SERVER = 0x73        # 's'
    END_TRACE = 0x74         # 't': no end, the root's name
    NAME_MAX = 255           # bytes of a service name
    POINTS_MAX = 8
    VALUE_HEAD = 24
    ADDRESS_BYTES = 19       # family, port, address
    VALUE_MAX = 24 + 16 + 8 + 19 + 255 + 8 * 9
    KEY_CHARS = 22           # zs1:c:0123456789abcdef

cdef enum NoteFlag:
    NOTE_PENDING = 1         # the cause is not known yet: an answer that is still to be written may tell
    NOTE_ROOT = 2            # `up` (or the request itself) has no cause: the trace begins there
    NOTE_NAMED = 4           # a trace context names the trace, from `up` on down
    NOTE_TENTATIVE = 8       # later evidence may take the cause back, or the name
    NOTE_MORE = 16           # points of the way, or the name of this end, are still to come
    NOTE_OMITTED = 32        # the client's span is left out: an SDK's stands in its place (`parent`); with NOTE_NAMED
    NOTE_DISPUTED = 64       # of END_TRACE: two SDKs began traces below this root, so that neither names it
    NOTE_ADDRESS = 128       # with this end's own address; only from agents that have an enricher

cdef struct Points:          # of one request: zerospan.hop.*
    uint32_t n
    uint8_t point[8]         # ids.Point
    uint64_t ns[8]           # durations

cdef struct Note:
    uint64_t key             # K
    uint64_t up              # K of the highest request above it that its host knows; 0: none
    uint8_t end              # END_CLIENT, END_SERVER
    uint8_t flags            # NoteFlag
    uint8_t method           # LinkMethod of K's own cause
    uint8_t wire             # WireContext, with NOTE_NAMED
    uint8_t trace_flags
    uint8_t trace_id[16]     # with NOTE_NAMED
    uint64_t parent          # span id, with NOTE_OMITTED
    Slice name               # service.name of this end; points into what was decoded
    Points points
    EndAddress address       # of this end's socket, with NOTE_ADDRESS: what the other end sees may be a Service's, or a node's

# Writes the value: at most VALUE_MAX bytes; returns how many. A longer name is cut.
cdef uint32_t note_encode(const Note *note, uint8_t *out) noexcept nogil
# Reads a value that was stored under (key, end); False if it is not one, or not of this version.
cdef bint note_decode(const uint8_t *p, uint32_t n, uint64_t key, uint8_t end, Note *note) noexcept nogil
# Writes the name under which the value is stored: KEY_CHARS bytes.
cdef void note_key(uint64_t key, uint8_t end, uint8_t *out) noexcept nogil
# A Redis command (its name and first argument) of an agent, like "MGET zs1:c:": not a request of anybody's program.
cdef bint of_an_agent(Slice command) noexcept nogil
