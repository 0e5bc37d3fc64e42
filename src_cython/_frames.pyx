"""WebSocket frames to the values of a bar, without a parse of the whole."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t
from libc.string cimport memchr, memcmp

from _digits cimport Decimal, read_decimal, to_double, to_integer

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

# The event's name stands among the first bytes, behind the stream's name in a combined frame.
cdef enum:
    HEAD = 96


cdef inline const char *find(const char *p, const char *end, const char *word, Py_ssize_t size) noexcept nogil:
    """The byte after the first `word` that begins at `p` or later; NULL if there is none before `end`."""
    while True:
        if end - p < size:
            return NULL
        p = <const char *> memchr(p, word[0], end - p - size + 1)
        if p == NULL:
            return NULL
        if memcmp(p, word, size) == 0:
            return p + size
        p += 1


cdef inline const char *read_price(const char *p, const char *end, double *value) noexcept nogil:
    """Read a quoted number at `p`; the byte after its closing quote, or NULL where a slower reader must do."""
    cdef Decimal number
    if p[0] != c'"':
        return NULL
    p = read_decimal(p + 1, end, False, &number)
    if p == NULL or p[0] != c'"' or not to_double(&number, 0, value):
        return NULL
    return p + 1


def binance_kline(frame):
    cdef const char *p
    cdef const char *end
    cdef const char *first
    cdef const char *symbol = NULL
    cdef const char *interval = NULL
    cdef Py_ssize_t size, symbol_size = 0, interval_size = 0
    cdef double[5] prices
    cdef int64_t ts_ms = 0
    cdef Decimal number
    cdef int seen = 0, place
    cdef bint closed = False
    cdef char key
    if isinstance(frame, bytes):
        p, size = PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame)
    else:
        p = PyUnicode_AsUTF8AndSize(frame, &size)
    end = p + size
    p = find(p, p + min(size, HEAD), b'"e":"kline"', 11)
    if p == NULL:
        return None
    p = find(p, end, b'"k":{', 5)
    if p == NULL:
        return None
    while True:
        if end - p < 6 or p[0] != c'"' or p[2] != c'"' or p[3] != c':':
            return None
        key = p[1]
        p += 4
        place = -1
        if key == c'o':
            place = 0
        elif key == c'h':
            place = 1
        elif key == c'l':
            place = 2
        elif key == c'c':
            place = 3
        elif key == c'v':
            place = 4
        if place >= 0:
            p = read_price(p, end, &prices[place])
            if p == NULL:
                return None
            seen |= 1 << place
        elif key == c't':
            p = read_decimal(p, end, True, &number)
            if p == NULL or not to_integer(&number, 0, &ts_ms):
                return None
            seen |= 32
        elif key == c'x':
            closed = p[0] == c't'
            if end - p < 5 or memcmp(p, b"true" if closed else b"false", 4 if closed else 5) != 0:
                return None
            p += 4 if closed else 5
            seen |= 64
        elif p[0] == c'"':
            first = p + 1
            p = <const char *> memchr(first, c'"', end - first)
            if p == NULL or memchr(first, c'\\', p - first) != NULL:
                return None
            if key == c's':
                symbol, symbol_size = first, p - first
            elif key == c'i':
                interval, interval_size = first, p - first
            p += 1
        else:
            # A number or a word that is not wanted.
            while p < end and p[0] != c',' and p[0] != c'}':
                if p[0] == c'"' or p[0] == c'{' or p[0] == c'[':
                    return None
                p += 1
        if p[0] == c'}':
            break
        if p[0] != c',':
            return None
        p += 1
    if seen != 127 or symbol == NULL or interval == NULL:
        return None
    for place in range(symbol_size):
        if <unsigned char> symbol[place] > 127:
            return None
    for place in range(interval_size):
        if <unsigned char> interval[place] > 127:
            return None
    return (
        PyUnicode_DecodeASCII(symbol, symbol_size, NULL),
        PyUnicode_DecodeASCII(interval, interval_size, NULL),
        ts_ms,
        prices[0],
        prices[1],
        prices[2],
        prices[3],
        prices[4],
        closed,
    )
