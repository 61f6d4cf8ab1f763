# cython: language_level=3, boundscheck=True, wraparound=False
"""Tells values in a path (ids, dates, tokens...) from the words of an application, by their bytes alone.

A value is: digits and separators only (numbers, dates); 8 or more hexadecimal digits, with hyphens too (UUIDs); text with
3 or more digits, or with 2 or more after a separator (order-12), or with digits and letters in turns (a1b2); more than 40
bytes; letters of both cases in turns (base64); any byte that is no letter, digit or one of - _ . ~ : + $ (so e-mail
addresses, %-escapes, lists). An API version (v1, v2.1) is a word. A file name keeps its extension. What is wrongly taken
for a word is bounded by the limits of routes.pyx. Linear in the segment.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

from zerospan.exporter.proto.cursor cimport Slice, slice_of

cdef enum:
    DIGIT = 1
    LOWER = 2
    UPPER = 3
    SEPARATOR = 4            # - _ . ~ : +
    OTHER_WORD = 5           # $
    LONG = 40                # bytes from which a segment without structure is a value
    TOKEN_MIN = 12           # bytes from which letters of both cases in turns are a token


cdef inline int class_of(uint8_t c) noexcept nogil:
    if 97 <= c <= 122:
        return LOWER
    if 48 <= c <= 57:
        return DIGIT
    if 65 <= c <= 90:
        return UPPER
    if c == 45 or c == 95 or c == 46 or c == 126 or c == 58 or c == 43:
        return SEPARATOR
    return OTHER_WORD if c == 36 else 0


cdef bint is_version(const uint8_t *p, uint32_t n) noexcept nogil:
    """v1, v12, v2.1, v1alpha2, v1beta1"""
    cdef uint32_t i = 1
    if n < 2 or n > 10 or (p[0] | 32) != 118 or class_of(p[1]) != DIGIT:
        return False
    while i < n:
        if n - i >= 5 and memcmp(p + i, b"alpha", 5) == 0:
            i += 5
        elif n - i >= 4 and memcmp(p + i, b"beta", 4) == 0:
            i += 4
        elif i < 6 and (class_of(p[i]) == DIGIT or p[i] == 46):
            i += 1
        elif i == n - 1 and class_of(p[i]) == DIGIT:
            i += 1
        else:
            return False
    return True


cdef bint is_value(const uint8_t *p, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef int kind, previous = 0
    cdef uint32_t digits = 0, lower = 0, upper = 0, hexes = 0, other_separators = 0, turns = 0, mixes = 0
    cdef uint32_t part = 0, part_digits = 0
    cdef bint first_part = True, numbered = False
    if n > LONG:
        return True
    if is_version(p, n):
        return False
    for i in range(n):
        kind = class_of(p[i])
        if kind == 0:
            return True
        if kind == SEPARATOR:
            numbered = numbered or (not first_part and part >= 2 and part == part_digits)
            first_part = False
            part = part_digits = 0
            if p[i] != 45:
                other_separators += 1
        else:
            part += 1
            if kind == DIGIT:
                digits += 1
                part_digits += 1
                hexes += 1
            elif kind == LOWER:
                lower += 1
                hexes += p[i] <= 102
            elif kind == UPPER:
                upper += 1
                hexes += p[i] <= 70
            if previous and previous != SEPARATOR and previous != kind:
                turns += 1
                mixes += previous == DIGIT or kind == DIGIT
        previous = kind
    numbered = numbered or (not first_part and part >= 2 and part == part_digits)
    if digits and lower + upper == 0:
        return True
    if digits >= 3 or numbered or (digits >= 2 and mixes >= 3):
        return True
    if hexes >= 8 and hexes == digits + lower + upper and other_separators == 0 and (digits or hexes == n):
        return True
    return n >= TOKEN_MIN and lower > 0 and upper > 0 and 5 * turns >= 2 * n


cdef Slice segment_template(Slice s, uint8_t *out, bint *is_word) noexcept nogil:
    cdef uint32_t dot = s.n
    cdef uint32_t letters = 0
    cdef uint32_t i
    cdef int kind
    is_word[0] = True
    for i in range(s.n if s.n <= SEGMENT_MAX else 0):
        if class_of(s.p[i]) == 0:
            is_word[0] = False   # "joe@example.org" is no file
            return slice_of(<const uint8_t *>b"{id}", 4)
    if s.n <= SEGMENT_MAX:
        # The last dot, if letters and digits follow and something is before it
        for i in range(1, EXTENSION_MAX + 2):
            if i >= s.n:
                break
            kind = class_of(s.p[s.n - i])
            if s.p[s.n - i] == 46:
                dot = s.n - i
                break
            if kind != LOWER and kind != UPPER and kind != DIGIT:
                break
            letters += kind != DIGIT
        if dot < s.n - 1 and letters and not is_version(s.p, s.n):
            if is_value(s.p, dot):
                memcpy(out, b"{id}", 4)
                memcpy(out + 4, s.p + dot, s.n - dot)
                return slice_of(out, 4 + s.n - dot)
            return s
        if not is_value(s.p, s.n):
            return s
    is_word[0] = False
    return slice_of(<const uint8_t *>b"{id}", 4)
