"""A Redis command as one line of text, and the same without its arguments. See redis_text.pyx."""

from libc.stdint cimport uint8_t, uint32_t

from zerospan.exporter.proto.cursor cimport Slice

cdef enum:
    WORD_MAX = 32            # longest command word
    LINE_MAX = 512           # bytes of the line, " ..." included
    ARGUMENT_MAX = 128       # bytes of one argument that are looked at
    ARGUMENTS_MAX = 16

cdef struct CommandLine:
    bint hidden              # arguments are credentials: "?" stands for each
    bint full                # nothing more is added
    uint32_t arguments
    uint32_t word_n
    uint32_t n
    uint8_t word[WORD_MAX]   # in upper case; word_n is 0 if it is no command word
    uint8_t text[LINE_MAX]

# Starts the line with a command word, in upper case.
cdef void line_begin(CommandLine *c, Slice word) noexcept nogil
# Adds one argument, quoted as redis-cli prints it where it is not plain; `cut`: more of it was not seen.
cdef void line_add(CommandLine *c, Slice argument, bint cut) noexcept nogil
# Adds the arguments of an inline command.
cdef void line_add_words(CommandLine *c, Slice words) noexcept nogil
# Says that more arguments follow which are not shown.
cdef void line_more(CommandLine *c) noexcept nogil
# mask_fn: `SET user:1 "a b"` -> `SET ? ?`.
cdef uint32_t mask_line(Slice text, uint8_t *out, uint32_t cap) noexcept nogil
# The first two words of an inline command's arguments.
cdef Slice next_word(Slice *rest) noexcept nogil
