# cython: language_level=3, boundscheck=False, wraparound=False
"""The elements of a JSON list, one at a time and as they are written: a list of a million costs no more than its text.

For texts that a JSON decoder has looked over already (msgspec.Raw): brackets and texts are followed, no more. Used by
json_body.py.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memchr

from zerospan.enricher.proxy.rewrite import Malformed


cdef enum:
    OTHER, QUOTE, OPEN, CLOSE, COMMA

cdef uint8_t[256] MEANS
MEANS[:] = [OTHER] * 256
MEANS[c'"'] = QUOTE
MEANS[c"["] = MEANS[c"{"] = OPEN
MEANS[c"]"] = MEANS[c"}"] = CLOSE
MEANS[c","] = COMMA


cdef inline bint blank(uint8_t c) noexcept nogil:
    return c == c" " or c == c"\n" or c == c"\r" or c == c"\t"


cdef Py_ssize_t begin(const uint8_t[::1] text) except -1:
    """Behind the bracket; the text's end where it is null."""
    cdef Py_ssize_t i = 0, n = text.shape[0]
    while i < n and blank(text[i]):
        i += 1
    if i < n and text[i] == c"[":
        return i + 1
    if i < n and text[i] == c"n":
        return n
    raise Malformed("not OTLP JSON: expected a list")


cdef const uint8_t *behind(const uint8_t *p, const uint8_t *to) noexcept nogil:
    """Behind the quote that ends a text; p: behind the one that begins it."""
    cdef const uint8_t *quote = NULL
    cdef const uint8_t *escape
    while p < to:
        if quote < p:  # looked for once: a text of nothing but escapes must not be walked for each of them
            quote = <const uint8_t *>memchr(p, c'"', to - p)
            if quote == NULL:
                return to
        escape = <const uint8_t *>memchr(p, c"\\", quote - p)
        if escape == NULL:
            return quote + 1
        p = escape + 2  # what stands behind a backslash means nothing
    return to


cdef Py_ssize_t end(const uint8_t[::1] text, Py_ssize_t i) noexcept nogil:
    """Where the element that begins at i ends: at a comma, the list's bracket, or the text's end."""
    cdef Py_ssize_t depth = 0, n = text.shape[0]
    cdef const uint8_t *p
    cdef const uint8_t *to
    cdef uint8_t c
    if i >= n:
        return n
    p, to = &text[i], &text[0] + n
    while p < to:
        c = MEANS[p[0]]
        p += 1
        if c == OTHER:
            continue
        if c == QUOTE:
            p = behind(p, to)
        elif c == OPEN:
            depth += 1
        elif depth == 0:
            return p - 1 - &text[0]
        elif c == CLOSE:
            depth -= 1
    return n


cdef Py_ssize_t skip(const uint8_t[::1] text, Py_ssize_t i) noexcept nogil:
    while i < text.shape[0] and blank(text[i]):
        i += 1
    return i


def elements(text):
    cdef const uint8_t[::1] view = text
    cdef Py_ssize_t i = skip(view, begin(view)), to
    whole = memoryview(text)
    while i < view.shape[0] and view[i] != c"]":
        to = end(view, i)
        yield whole[i:to]
        i = skip(view, to + 1)


def count(text):
    cdef const uint8_t[::1] view = text
    cdef Py_ssize_t i = skip(view, begin(view)), found = 0
    while i < view.shape[0] and view[i] != c"]":
        found += 1
        i = skip(view, end(view, i) + 1)
    return found


def place(part, whole):
    cdef const uint8_t[::1] a = part
    cdef const uint8_t[::1] b = whole
    cdef Py_ssize_t at
    if not a.shape[0] or not b.shape[0]:
        raise ValueError("empty")
    at = &a[0] - &b[0]
    if at < 0 or at + a.shape[0] > b.shape[0]:
        raise ValueError("no part of it")
    return at
