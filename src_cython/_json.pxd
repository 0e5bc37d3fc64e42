"""Walking over JSON text without making objects of it. Inline only: nothing here is a module at run time.

As in `_digits.pxd`, text ends at `end` with one NUL byte behind it. A function that fails returns NULL and leaves the
place in `fault`.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memset

from _digits cimport plain_text, read_exponent, skip_digits


cdef enum Fault:
    OK = 0
    NOT_VALUE  # no JSON value begins here
    NOT_STRING  # a text has no end, holds a control character or a wrong escape
    NOT_CLOSED  # neither a comma nor the closing bracket
    NOT_KEY  # no key, or no colon after it
    TOO_DEEP


cdef enum:
    DEEPEST = 1024
    LEVEL_WORDS = 16  # one bit a level


cdef struct Failure:
    int fault
    const char *at


cdef inline const char *fail(Failure *failure, int fault, const char *at) noexcept nogil:
    failure.fault = fault
    failure.at = at
    return NULL


cdef inline const char *skip_space(const char *p) noexcept nogil:
    while p[0] == c' ' or p[0] == c'\n' or p[0] == c'\r' or p[0] == c'\t':
        p += 1
    return p


cdef inline const char *past_space(const char *p) noexcept nogil:
    """`skip_space`, made for text that has none."""
    if <unsigned char> p[0] > 32:
        return p
    return skip_space(p)


cdef inline const char *skip_escape(const char *p) noexcept nogil:
    """The byte after the escape at `p` (a backslash), or NULL where it is none."""
    cdef int i
    cdef unsigned char c = <unsigned char> p[1]
    if c == c'u':
        for i in range(2, 6):
            c = <unsigned char> p[i]
            if not (c'0' <= c <= c'9' or c'a' <= (c | 32) <= c'f'):
                return NULL
        return p + 6
    if c in (c'"', c'\\', c'/', c'b', c'f', c'n', c'r', c't'):
        return p + 2
    return NULL


cdef inline const char *skip_string(const char *p, const char *end, Failure *failure) noexcept nogil:
    """The byte after the closing quote of the text whose first byte, after its quote, is `p`."""
    cdef const char *first = p
    cdef int plain
    while True:
        while end - p >= 8:
            plain = plain_text(p)
            p += plain
            if plain < 8:
                break
        else:
            while <unsigned char> p[0] >= 32 and p[0] != c'"' and p[0] != c'\\':
                p += 1
        if p[0] == c'"':
            return p + 1
        if p[0] != c'\\':
            return fail(failure, NOT_STRING, first - 1)
        p = skip_escape(p)
        if p == NULL:
            return fail(failure, NOT_STRING, first - 1)


cdef inline const char *skip_number(const char *p, const char *end, Failure *failure) noexcept nogil:
    cdef const char *start = p
    cdef const char *first
    cdef int unused
    if p[0] == c'-':
        p += 1
    first = p
    p = skip_digits(p, end)
    if p == first or (first[0] == c'0' and p - first > 1):
        return fail(failure, NOT_VALUE, start)
    if p[0] == c'.':
        first = p + 1
        p = skip_digits(first, end)
        if p == first:
            return fail(failure, NOT_VALUE, start)
    if p[0] == c'e' or p[0] == c'E':
        p = read_exponent(p + 1, &unused)
        if p == NULL:
            return fail(failure, NOT_VALUE, start)
    return p


cdef inline const char *skip_word(const char *p, const char *end, Failure *failure) noexcept nogil:
    if end - p >= 4 and (memcmp(p, b"null", 4) == 0 or memcmp(p, b"true", 4) == 0):
        return p + 4
    if end - p >= 5 and memcmp(p, b"false", 5) == 0:
        return p + 5
    return fail(failure, NOT_VALUE, p)


cdef inline const char *skip_key(const char *p, const char *end, Failure *failure) noexcept nogil:
    """From a key's quote to the value behind its colon."""
    if p[0] != c'"':
        return fail(failure, NOT_KEY, p)
    p = skip_string(p + 1, end, failure)
    if p == NULL:
        return NULL
    p = past_space(p)
    if p[0] != c':':
        return fail(failure, NOT_KEY, p)
    return past_space(p + 1)


cdef inline const char *skip_nested(const char *p, const char *end, Failure *failure) noexcept nogil:
    """The byte after the list or object that begins at `p`: checked in full, without recursion."""
    cdef uint64_t[LEVEL_WORDS] objects  # a level's bit is set for an object
    cdef int depth = 0
    cdef bint is_object
    memset(objects, 0, sizeof(objects))
    while True:
        is_object = p[0] == c'{'
        if is_object or p[0] == c'[':
            if depth == DEEPEST:
                return fail(failure, TOO_DEEP, p)
            if is_object:
                objects[depth >> 6] |= <uint64_t> 1 << (depth & 63)
            else:
                objects[depth >> 6] &= ~(<uint64_t> 1 << (depth & 63))
            depth += 1
            p = past_space(p + 1)
            if p[0] != (c'}' if is_object else c']'):
                if is_object:
                    p = skip_key(p, end, failure)
                    if p == NULL:
                        return NULL
                continue
        else:
            if p[0] == c'"':
                p = skip_string(p + 1, end, failure)
            elif p[0] == c'-' or c'0' <= p[0] <= c'9':
                p = skip_number(p, end, failure)
            else:
                p = skip_word(p, end, failure)
            if p == NULL:
                return NULL
            p = past_space(p)
        while True:
            is_object = (objects[(depth - 1) >> 6] >> ((depth - 1) & 63)) & 1
            if p[0] == c',':
                p = past_space(p + 1)
                if is_object:
                    p = skip_key(p, end, failure)
                    if p == NULL:
                        return NULL
                break
            if p[0] != (c'}' if is_object else c']'):
                return fail(failure, NOT_CLOSED, p)
            p += 1
            depth -= 1
            if depth == 0:
                return p
            p = past_space(p)


cdef inline const char *skip_value(const char *p, const char *end, Failure *failure) noexcept nogil:
    """The byte after the JSON value that begins at `p`."""
    if p[0] == c'"':
        return skip_string(p + 1, end, failure)
    if p[0] == c'-' or c'0' <= p[0] <= c'9':
        return skip_number(p, end, failure)
    if p[0] == c'[' or p[0] == c'{':
        return skip_nested(p, end, failure)
    return skip_word(p, end, failure)
