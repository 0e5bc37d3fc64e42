"""An exchange's answer, or rows already parsed, to columns of bars.

The contract of this boundary: every body and every row is taken as hostile. What cannot be read exactly as described
by its layout raises `DataError` with its place; nothing is read beyond the body, guessed or left out. Prices and
volumes are what `float()` gives for the same text, bit for bit.
"""

from cpython.buffer cimport Py_buffer, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.math cimport isfinite
from libc.stdint cimport int64_t
from libc.string cimport memchr, memcmp

from _digits cimport Decimal, read_decimal, to_double, to_integer
from _iso cimport read_iso
from _json cimport (
    NOT_CLOSED,
    NOT_KEY,
    NOT_STRING,
    NOT_VALUE,
    TOO_DEEP,
    Failure,
    fail,
    past_space,
    skip_nested,
    skip_string,
    skip_value,
)
from _short cimport ShortColumns, count_byte, prepare_short, short_field, short_fields

cimport cython

import numpy as np

from ccxtbt.errors import ConfigError, DataError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    double PyOS_string_to_double(const char *text, char **stop, void *overflow) except? -1.0
    bint PyFloat_CheckExact(PyObject *item)
    double PyFloat_AS_DOUBLE(PyObject *item)
    bint PyLong_CheckExact(PyObject *item)
    long long PyLong_AsLongLong(PyObject *item) except? -1
    long long PyLong_AsLongLongAndOverflow(PyObject *item, int *overflow) noexcept
    bint PyList_CheckExact(PyObject *item)
    Py_ssize_t PyList_GET_SIZE(object items)
    PyObject *PyList_GET_ITEM(object items, Py_ssize_t at)
    PyObject *PyDict_GetItemWithError(object items, object key) except? NULL

cdef enum Failing:  # goes on where _json's Fault ends
    NOT_LIST = 100
    NOT_OBJECT
    NOT_ROW
    NOT_NUMBER
    NOT_FINITE
    NOT_TIME
    NOT_IN_ROW
    NOT_IN_ANSWER
    TWICE
    ESCAPED
    UNEQUAL
    TRAILING

cdef dict EXPECTED = {
    NOT_VALUE: "a JSON value is expected",
    NOT_STRING: "a text begins that does not end properly",
    NOT_CLOSED: "a comma or a closing bracket is expected",
    NOT_KEY: "a key and a colon are expected",
    TOO_DEEP: "the nesting is deeper than 1,024 levels",
    NOT_LIST: "a list is expected",
    NOT_OBJECT: "an object is expected",
    NOT_ROW: "a row is expected",
    NOT_NUMBER: "a decimal number is expected",
    NOT_FINITE: "the number is beyond what a float holds",
    NOT_TIME: "a time within the years 1970 to 9999 is expected",
    NOT_IN_ROW: "a row ends that lacks a time, price or volume",
    NOT_IN_ANSWER: "an object or a list ends in which the rows were expected",
    TWICE: "a key comes for the second time",
    ESCAPED: "a key is written with escapes",
    UNEQUAL: "a column ends whose length is not that of the times",
    TRAILING: "the end is expected",
}

cdef int64_t LAST_MS = 253402300799999  # the end of the year 9999
cdef Py_ssize_t KEEP_GIL = 65536  # bodies up to this many bytes are read before another thread could take over

cdef enum Kind:
    LISTS
    DICTS
    COLUMNS

cdef enum:
    FIELDS = 6
    WIDEST = 64
    ALL_SEEN = 63

cdef bint SHORT = prepare_short()

cdef dict KINDS = {"lists": LISTS, "dicts": DICTS, "columns": COLUMNS}
cdef dict TIMES = {"s": 3, "ms": 0, "us": -3, "ns": -6, "iso": 0}


ctypedef const char *Text


cdef struct Plan:  # a layout as the loops want it
    int kind
    int width  # list rows: the positions that every row has; those behind hold nothing wanted
    signed char[WIDEST] field_at  # list rows: position -> field, -1 for none
    Text[FIELDS] key
    Py_ssize_t[FIELDS] key_size
    int time_shift  # decimal places from the unit to milliseconds
    bint iso
    int[FIELDS] scale
    bint brief  # times and numbers are their plain decimal text, and this processor has a way for that


@cython.final
cdef class Layout:
    """Where an answer keeps its bars and how a bar is written.

    Parameters
    ----------
    fields : sequence of six int or str
        Index (rows are lists) or key (rows are dicts, or each column is a list under its key) of time, open, high,
        low, close and volume.
    rows : {'lists', 'dicts', 'columns'}
        A list of lists, a list of dicts, or a dict of columns.
    path : sequence of str or int
        Keys and indices that lead from the answer to its rows (to the dict that holds the columns).
    time : {'ms', 's', 'us', 'ns', 'iso'}
        Unit of the opening times, or ``'iso'`` for text like ``2024-01-31T23:59:00.000Z`` (UTC where no offset stands).
    scales : sequence of five int
        Decimal places by which open, high, low, close and volume are scaled integers: the value is number / 10**scale.

    Raises
    ------
    ConfigError
        An argument is none of the above.
    """

    cdef readonly tuple fields
    cdef readonly str rows
    cdef readonly tuple path
    cdef readonly str time
    cdef readonly tuple scales
    cdef Plan plan
    cdef tuple steps  # the path, its keys as UTF-8
    cdef tuple keys  # the fields' keys as UTF-8: the plan points into them

    def __cinit__(self, fields, *, rows="lists", path=(), time="ms", scales=(0, 0, 0, 0, 0)):
        cdef int i
        cdef bytes key
        self.fields, self.rows, self.path, self.time = tuple(fields), rows, tuple(path), time
        self.scales = tuple(scales)
        if rows not in KINDS or time not in TIMES:
            raise ConfigError(
                f"Layout(rows={rows!r}, time={time!r}) is unknown: rows is one of {', '.join(KINDS)}, "
                f"time one of {', '.join(TIMES)}."
            )
        if len(self.fields) != FIELDS or len(set(self.fields)) != FIELDS:
            raise ConfigError(f"Layout.fields is {self.fields!r}: give six different indices or keys.")
        if len(self.scales) != 5 or not all(type(scale) is int and abs(scale) <= 30 for scale in self.scales):
            raise ConfigError(f"Layout.scales is {self.scales!r}: give five integers from -30 to 30.")
        if not all(type(step) is str or (type(step) is int and step >= 0) for step in self.path):
            raise ConfigError(f"Layout.path is {self.path!r}: give keys and indices.")
        self.plan.kind = KINDS[rows]
        self.plan.time_shift = TIMES[time]
        self.plan.iso = time == "iso"
        self.plan.scale[0] = 0
        for i in range(5):
            self.plan.scale[i + 1] = self.scales[i]
        self.plan.brief = SHORT and time in ("ms", "s") and not any(self.scales)
        self.steps = tuple(step.encode() if type(step) is str else step for step in self.path)
        if self.plan.kind == LISTS:
            if not all(type(field) is int and 0 <= field < WIDEST for field in self.fields):
                raise ConfigError(f"Layout.fields is {self.fields!r}: rows that are lists take indices from 0 to 63.")
            self.plan.width = max(self.fields) + 1
            for i in range(WIDEST):
                self.plan.field_at[i] = -1
            for i in range(FIELDS):
                self.plan.field_at[<int> self.fields[i]] = i
            return
        if not all(type(field) is str and field for field in self.fields):
            raise ConfigError(f"Layout.fields is {self.fields!r}: rows={rows!r} takes keys.")
        self.keys = tuple(field.encode() for field in self.fields)
        for i in range(FIELDS):
            key = self.keys[i]
            self.plan.key[i] = PyBytes_AS_STRING(key)
            self.plan.key_size[i] = PyBytes_GET_SIZE(key)

    def _values(self):
        return self.fields, self.rows, self.path, self.time, self.scales

    def __eq__(self, other):
        return type(other) is Layout and self._values() == (<Layout> other)._values()

    def __hash__(self):
        return hash(self._values())

    def __repr__(self):
        return (
            f"Layout({self.fields!r}, rows={self.rows!r}, path={self.path!r}, time={self.time!r}, "
            f"scales={self.scales!r})"
        )


cdef struct Span:  # a JSON list within the body
    const char *start  # its opening bracket
    const char *stop  # behind its closing bracket
    const char *first_stop  # behind its first element; NULL when it is empty
    const char *last_start  # its last element


cdef struct Reader:
    const char *body
    const char *end
    Failure failure
    int64_t row  # the row being read, for messages; -1 before the first
    const char *short_until  # from here on there are not the 33 bytes that short values are read by
    Py_ssize_t room  # rows the columns have room for
    ShortColumns columns
    Py_ssize_t count  # rows read
    bint backward  # written from the end of the columns to their start: newest came first
    bint tangled  # neither oldest nor newest first throughout
    int spans_count
    Span[FIELDS] spans
    int[FIELDS + 1] follows  # dict rows: the field that came after each one in the row before; first of a row: FIELDS


cdef double hard_number(const char *start, const char *stop, int scale) noexcept with gil:
    """What `float()` gives for a number that the fast paths leave; NaN where it gives nothing."""
    cdef char *read_to = NULL
    cdef double value
    try:
        if scale:
            digits, _, exponent = (<bytes> start[:stop - start]).lower().partition(b"e")
            return float(b"%se%d" % (digits, int(exponent or b"0") - scale))
        value = PyOS_string_to_double(start, &read_to, NULL)
        return value if read_to == stop else float("nan")
    except Exception:
        return float("nan")


cdef inline const char *read_price(Reader *reader, const char *p, int scale, double *value) noexcept nogil:
    """Read the number at `p`, quoted or not; return the byte after it."""
    cdef Decimal number
    cdef bint bare = p[0] != c'"'
    cdef const char *start = p if bare else p + 1
    cdef const char *stop = read_decimal(start, reader.end, bare, &number)
    if stop == NULL:
        return fail(&reader.failure, NOT_NUMBER, p)
    if not to_double(&number, scale, value):
        value[0] = hard_number(start, stop, scale)
        if not isfinite(value[0]):
            return fail(&reader.failure, NOT_FINITE, p)
    if bare:
        return stop
    if stop[0] != c'"':
        return fail(&reader.failure, NOT_NUMBER, p)
    return stop + 1


cdef inline const char *read_time(Reader *reader, const char *p, const Plan *plan, int64_t *ts_ms) noexcept nogil:
    """Read the time at `p` to milliseconds, cut to whole ones; return the byte after it."""
    cdef Decimal number
    cdef bint bare = p[0] != c'"'
    cdef const char *stop = NULL
    if plan.iso:
        if not bare:
            stop = read_iso(p + 1, ts_ms)
    else:
        stop = read_decimal(p if bare else p + 1, reader.end, bare, &number)
        if stop != NULL and not to_integer(&number, plan.time_shift, ts_ms):
            stop = NULL
    if stop == NULL or ts_ms[0] < 0 or ts_ms[0] > LAST_MS:
        return fail(&reader.failure, NOT_TIME, p)
    if bare:
        return stop
    if stop[0] != c'"':
        return fail(&reader.failure, NOT_TIME, p)
    return stop + 1


cdef inline const char *read_field(
    Reader *reader, const char *p, const Plan *plan, int field, Py_ssize_t slot
) noexcept nogil:
    """Read the value at `p` into the column of `field`; return the byte after it."""
    cdef const char *stop
    if plan.brief and p < reader.short_until:
        stop = short_field(p, field, &reader.columns, slot)
        if stop != NULL:
            return stop
    return read_slowly(reader, p, plan, field, slot)


cdef const char *read_slowly(
    Reader *reader, const char *p, const Plan *plan, int field, Py_ssize_t slot
) noexcept nogil:
    if field:
        return read_price(reader, p, plan.scale[field], reader.columns.out[field] + slot)
    return read_time(reader, p, plan, reader.columns.ts_ms + slot)


cdef inline const char *read_list_row(Reader *reader, const char *p, const Plan *plan, Py_ssize_t slot) noexcept nogil:
    """Read the row whose bracket is at `p`; return the byte after its closing one."""
    cdef int at = 0, field
    cdef const char *start = p
    if p[0] != c'[':
        return fail(&reader.failure, NOT_ROW, p)
    p = past_space(p + 1)
    while True:
        if plan.brief and short_fields(
            &p, reader.short_until, plan.field_at, plan.width, &reader.columns, slot, &at
        ):
            break
        p = past_space(p)
        field = plan.field_at[at] if at < plan.width else -1
        if field < 0:
            p = skip_value(p, reader.end, &reader.failure)
        else:
            p = read_slowly(reader, p, plan, field, slot)
        if p == NULL:
            return NULL
        p = past_space(p)
        if p[0] != c',':
            break
        p = past_space(p + 1)
        at += 1
    if p[0] != c']':
        return fail(&reader.failure, NOT_CLOSED, p)
    if at + 1 < plan.width:
        return fail(&reader.failure, NOT_IN_ROW, start)
    return p + 1


cdef inline int field_of_key(const Plan *plan, const char *key, Py_ssize_t size, int guess) noexcept nogil:
    """The field whose key this is, or -1. The guess is tried first: rows of an answer keep the order of their keys."""
    cdef int i
    if size == plan.key_size[guess] and memcmp(key, plan.key[guess], size) == 0:
        return guess
    for i in range(FIELDS):
        if size == plan.key_size[i] and memcmp(key, plan.key[i], size) == 0:
            return i
    return -1


cdef inline const char *read_key(Reader *reader, const char *p, Text *key, Py_ssize_t *size) noexcept nogil:
    """From a key's quote to the value behind its colon; gives the key's bytes, which hold no escape."""
    if p[0] != c'"':
        return fail(&reader.failure, NOT_KEY, p)
    key[0] = p + 1
    p = skip_string(p + 1, reader.end, &reader.failure)
    if p == NULL:
        return NULL
    size[0] = p - 1 - key[0]
    if memchr(key[0], c'\\', size[0]) != NULL:
        return fail(&reader.failure, ESCAPED, key[0] - 1)
    p = past_space(p)
    if p[0] != c':':
        return fail(&reader.failure, NOT_KEY, p)
    return past_space(p + 1)


cdef inline const char *read_dict_row(Reader *reader, const char *p, const Plan *plan, Py_ssize_t slot) noexcept nogil:
    """Read the row whose brace is at `p`; return the byte after its closing one."""
    cdef int field, seen = 0, before = FIELDS
    cdef const char *start = p
    cdef const char *key = NULL
    cdef const char *place
    cdef Py_ssize_t size = 0
    if p[0] != c'{':
        return fail(&reader.failure, NOT_ROW, p)
    p = past_space(p + 1)
    while True:
        place = p
        p = read_key(reader, p, &key, &size)
        if p == NULL:
            return NULL
        field = field_of_key(plan, key, size, reader.follows[before])
        if field < 0:
            p = skip_value(p, reader.end, &reader.failure)
        else:
            if seen & (1 << field):
                return fail(&reader.failure, TWICE, place)
            seen |= 1 << field
            reader.follows[before] = field
            before = field
            p = read_field(reader, p, plan, field, slot)
        if p == NULL:
            return NULL
        p = past_space(p)
        if p[0] != c',':
            break
        p = past_space(p + 1)
    if p[0] != c'}':
        return fail(&reader.failure, NOT_CLOSED, p)
    if seen != ALL_SEEN:
        return fail(&reader.failure, NOT_IN_ROW, start)
    return p + 1


cdef void swap_rows(Reader *reader, Py_ssize_t one, Py_ssize_t other) noexcept nogil:
    cdef int i
    cdef double *column
    reader.columns.ts_ms[one], reader.columns.ts_ms[other] = reader.columns.ts_ms[other], reader.columns.ts_ms[one]
    for i in range(1, FIELDS):
        column = reader.columns.out[i]
        column[one], column[other] = column[other], column[one]


cdef const char *read_rows(Reader *reader, const char *p, const Plan *plan) noexcept nogil:
    """Read the list of rows whose bracket is at `p` into the columns; return the byte after its closing one.

    The second row tells the direction: when it is older than the first, rows are written from the columns' end to
    their start, so that the oldest comes first without another pass.
    """
    cdef Span *span = &reader.spans[0]
    cdef Py_ssize_t slot = 0, step = 1
    cdef int64_t before = 0, ts_ms
    span.start = p
    span.first_stop = NULL
    reader.spans_count = 1
    p = past_space(p + 1)
    if p[0] == c']':
        span.stop = p + 1
        return p + 1
    while True:
        span.last_start = p
        reader.row = reader.count
        # There is room for every row: room counts the brackets that could begin one.
        if plan.kind == LISTS:
            p = read_list_row(reader, p, plan, slot)
        else:
            p = read_dict_row(reader, p, plan, slot)
        if p == NULL:
            return NULL
        if span.first_stop == NULL:
            span.first_stop = p
        ts_ms = reader.columns.ts_ms[slot]
        if ts_ms < before or step < 0:
            if reader.count == 1:
                swap_rows(reader, 0, reader.room - 1)
                if reader.room > 3:
                    swap_rows(reader, 1, reader.room - 2)
                slot = reader.room - 2
                step = -1
                reader.backward = True
            elif step > 0 or ts_ms >= before:
                reader.tangled = True
        before = ts_ms
        slot += step
        reader.count += 1
        p = past_space(p)
        if p[0] != c',':
            break
        p = past_space(p + 1)
    if p[0] != c']':
        return fail(&reader.failure, NOT_CLOSED, p)
    span.stop = p + 1
    return p + 1


cdef const char *find_columns(Reader *reader, const char *p, const Plan *plan, Text *columns) noexcept nogil:
    """From the brace at `p` of a dict of columns, note where each field's list begins; return the byte after it."""
    cdef int field
    cdef const char *key = NULL
    cdef const char *place
    cdef Py_ssize_t size = 0
    if p[0] != c'{':
        return fail(&reader.failure, NOT_OBJECT, p)
    p = past_space(p + 1)
    if p[0] != c'}':
        while True:
            place = p
            p = read_key(reader, p, &key, &size)
            if p == NULL:
                return NULL
            field = field_of_key(plan, key, size, 0)
            if field >= 0:
                if columns[field] != NULL:
                    return fail(&reader.failure, TWICE, place)
                if p[0] != c'[':
                    return fail(&reader.failure, NOT_LIST, p)
                columns[field] = p
            p = skip_value(p, reader.end, &reader.failure)
            if p == NULL:
                return NULL
            p = past_space(p)
            if p[0] != c',':
                break
            p = past_space(p + 1)
    if p[0] != c'}':
        return fail(&reader.failure, NOT_CLOSED, p)
    for field in range(FIELDS):
        if columns[field] == NULL:
            return fail(&reader.failure, NOT_IN_ANSWER, p)
    return p + 1


cdef const char *read_column(Reader *reader, const char *p, const Plan *plan, int field) noexcept nogil:
    """Read the list at `p`, one value a row, into the column of `field`."""
    cdef Span *span = &reader.spans[reader.spans_count]
    cdef Py_ssize_t slot = 0
    reader.spans_count += 1
    span.start = p
    span.first_stop = NULL
    p = past_space(p + 1)
    if p[0] != c']':
        while True:
            if slot == reader.room:
                return fail(&reader.failure, UNEQUAL, p)
            span.last_start = p
            reader.row = slot
            p = read_field(reader, p, plan, field, slot)
            if p == NULL:
                return NULL
            if span.first_stop == NULL:
                span.first_stop = p
            slot += 1
            p = past_space(p)
            if p[0] != c',':
                break
            p = past_space(p + 1)
        if p[0] != c']':
            return fail(&reader.failure, NOT_CLOSED, p)
    if slot != reader.room:
        return fail(&reader.failure, UNEQUAL, p)
    span.stop = p + 1
    return p + 1


cdef bint read_columns(Reader *reader, Text *columns, const Plan *plan) noexcept nogil:
    """Read a dict of columns, each from where its list begins; False on failure."""
    cdef int field
    cdef Py_ssize_t i
    for field in range(FIELDS):
        if read_column(reader, columns[field], plan, field) == NULL:
            return False
    for i in range(1, reader.room):
        if reader.columns.ts_ms[i] < reader.columns.ts_ms[i - 1]:
            reader.tangled = True
            break
    reader.count = reader.room
    return True


cdef const char *descend(Reader *reader, const char *p, tuple steps) except? NULL:
    """Follow the path from the value at `p`; return where the value begins to which it leads."""
    cdef const char *key = NULL
    cdef Py_ssize_t size = 0, index
    for step in steps:
        if type(step) is bytes:
            if p[0] != c'{':
                return fail(&reader.failure, NOT_OBJECT, p)
            p = past_space(p + 1)
            while True:
                if p[0] == c'}':
                    return fail(&reader.failure, NOT_IN_ANSWER, p)
                p = read_key(reader, p, &key, &size)
                if p == NULL:
                    return NULL
                if size == PyBytes_GET_SIZE(step) and memcmp(key, PyBytes_AS_STRING(step), size) == 0:
                    break
                p = behind_comma(reader, p, c'}')
                if p == NULL:
                    return NULL
        else:
            if p[0] != c'[':
                return fail(&reader.failure, NOT_LIST, p)
            p = past_space(p + 1)
            for index in range(<Py_ssize_t> step + 1):
                if p[0] == c']':
                    return fail(&reader.failure, NOT_IN_ANSWER, p)
                if index < <Py_ssize_t> step:
                    p = behind_comma(reader, p, c']')
                    if p == NULL:
                        return NULL
    return p


cdef const char *behind_comma(Reader *reader, const char *p, char closing) noexcept nogil:
    """Skip the value at `p` and the comma after it; stop at the closing bracket if that comes instead."""
    p = skip_value(p, reader.end, &reader.failure)
    if p == NULL:
        return NULL
    p = past_space(p)
    if p[0] == closing:
        return p
    if p[0] != c',':
        return fail(&reader.failure, NOT_CLOSED, p)
    p = past_space(p + 1)
    if p[0] == closing:
        return fail(&reader.failure, NOT_VALUE, p)
    return p


cdef const char *ascend(Reader *reader, const char *p, tuple steps) except? NULL:
    """From behind the rows at `p` to the end of the answer: it must be whole, and no key of the path come again."""
    cdef const char *key = NULL
    cdef const char *place
    cdef Py_ssize_t size = 0
    cdef char closing
    for step in reversed(steps):
        closing = c'}' if type(step) is bytes else c']'
        p = past_space(p)
        while p[0] == c',':
            p = past_space(p + 1)
            if closing == c'}':
                place = p
                p = read_key(reader, p, &key, &size)
                if p == NULL:
                    return NULL
                if size == PyBytes_GET_SIZE(step) and memcmp(key, PyBytes_AS_STRING(step), size) == 0:
                    return fail(&reader.failure, TWICE, place)
            p = skip_value(p, reader.end, &reader.failure)
            if p == NULL:
                return NULL
            p = past_space(p)
        if p[0] != closing:
            return fail(&reader.failure, NOT_CLOSED, p)
        p += 1
    p = past_space(p)
    if p != reader.end:
        return fail(&reader.failure, TRAILING, p)
    return p


cdef const char *text_of(object body, Py_ssize_t *size) except NULL:
    """The UTF-8 bytes of a body: its own memory, not a copy, for bytes and for ASCII text."""
    if type(body) is bytes:
        size[0] = PyBytes_GET_SIZE(body)
        return PyBytes_AS_STRING(body)
    if type(body) is str:
        try:
            return PyUnicode_AsUTF8AndSize(body, size)
        except UnicodeEncodeError as e:
            raise DataError(
                f"The exchange's answer holds a lone surrogate at character {e.start}, which no exchange sends: "
                "report it; nothing of it was used."
            ) from e
    raise ConfigError(f"An answer is bytes or str, not {type(body).__name__}: give the body as it came.")


cdef object failed(const Reader *reader):
    """The error of a reader that failed."""
    cdef Py_ssize_t at = reader.failure.at - reader.body
    cdef Py_ssize_t size = min(reader.end - reader.failure.at, 24)
    found = repr(reader.failure.at[:size]) if size > 0 else "its end"
    where = f" (row {reader.row})" if reader.row >= 0 else ""
    return DataError(
        f"The exchange's answer of {reader.end - reader.body} bytes is not the bars it should be: at byte {at}{where} "
        f"{EXPECTED[reader.failure.fault]}, and {found} is there; nothing of it was used, so ask again or report it."
    )


cdef bint read_all(Reader *reader, Text *p, Text *columns, const Plan *plan) noexcept nogil:
    """Read what `p` (rows) or `columns` point at; `p` is then behind it. False on failure."""
    if plan.kind == COLUMNS:
        return read_columns(reader, columns, plan)
    p[0] = read_rows(reader, p[0], plan)
    return p[0] != NULL


cdef object sorted_columns(object ts_ms, object ohlcv, bint backward):
    """Oldest first; bars of one time stay in the order in which the answer has them, as in ccxt."""
    if backward:
        ts_ms, ohlcv = ts_ms[::-1], ohlcv[:, ::-1]
    order = np.argsort(ts_ms, kind="stable")
    return ts_ms[order], np.take(ohlcv, order, axis=1)


cdef bytes splice(const Reader *reader):
    """The body with no more than the first and the last element in each list that was read."""
    cdef const char *p = reader.body
    cdef const Span *span
    cdef int i
    cdef list pieces = []
    places = sorted([(reader.spans[i].start - p, i) for i in range(reader.spans_count)])
    for _, i in places:
        span = &reader.spans[i]
        if span.first_stop == NULL:
            continue
        pieces.append(p[:span.first_stop - p])
        if past_space(span.start + 1) != span.last_start:
            pieces.append(b",")
            pieces.append(span.last_start[:span.stop - 1 - span.last_start])
        p = span.stop - 1
    pieces.append(p[:reader.end - p])
    return b"".join(pieces)


cdef object empty_columns(Py_ssize_t room):
    return np.empty(room, np.int64), np.empty((5, room), np.float64)


cdef object read_body(object body, Layout layout, bint spliced):
    cdef Reader reader
    cdef Py_ssize_t size = 0
    cdef const char *p
    cdef const char *stop
    cdef Text[FIELDS] columns
    cdef const Plan *plan = &layout.plan
    cdef Py_buffer ts_buffer, ohlcv_buffer
    cdef bint done
    cdef int i
    reader.body = text_of(body, &size)
    reader.end = reader.body + size
    reader.short_until = reader.end - 32 if size > 32 else reader.body
    reader.row = -1
    reader.count = 0
    reader.backward = reader.tangled = False
    reader.spans_count = 0
    for i in range(FIELDS + 1):
        reader.follows[i] = i % FIELDS
    p = descend(&reader, past_space(reader.body), layout.steps)
    if p == NULL:
        raise failed(&reader)
    if plan.kind == COLUMNS:
        for i in range(FIELDS):
            columns[i] = NULL
        with nogil:
            p = find_columns(&reader, p, plan, columns)
        if p == NULL:
            raise failed(&reader)
        # Where the times hold more commas than values, reading them fails.
        stop = skip_nested(columns[0], reader.end, &reader.failure)
        reader.room = count_byte(columns[0], stop, c',') + 1 if past_space(columns[0] + 1)[0] != c']' else 0
    else:
        if p[0] != c'[':
            fail(&reader.failure, NOT_LIST, p)
            raise failed(&reader)
        # Rows are counted by their brackets; a good row and its comma take at least twelve bytes.
        reader.room = min(
            count_byte(p + 1, reader.end, c'[' if plan.kind == LISTS else c'{'), (reader.end - p) // 12 + 1)
    ts_ms, ohlcv = empty_columns(reader.room)
    PyObject_GetBuffer(ts_ms, &ts_buffer, PyBUF_WRITABLE)
    PyObject_GetBuffer(ohlcv, &ohlcv_buffer, PyBUF_WRITABLE)
    reader.columns.ts_ms = <int64_t *> ts_buffer.buf
    reader.columns.ms_per_time = 1000 if plan.time_shift == 3 else 1
    reader.columns.last_time = LAST_MS // reader.columns.ms_per_time
    for i in range(1, FIELDS):
        reader.columns.out[i] = <double *> ohlcv_buffer.buf + (i - 1) * reader.room
    try:
        if size > KEEP_GIL:
            with nogil:
                done = read_all(&reader, &p, columns, plan)
        else:
            done = read_all(&reader, &p, columns, plan)
    finally:
        PyBuffer_Release(&ts_buffer)
        PyBuffer_Release(&ohlcv_buffer)
    if not done:
        raise failed(&reader)
    reader.row = -1
    if ascend(&reader, p, layout.steps) == NULL:
        raise failed(&reader)
    if reader.count != reader.room:
        first = reader.room - reader.count if reader.backward else 0
        ts_ms = ts_ms[first:first + reader.count].copy()
        ohlcv = np.ascontiguousarray(ohlcv[:, first:first + reader.count])
    if reader.tangled:
        ts_ms, ohlcv = sorted_columns(ts_ms, ohlcv, reader.backward)
    return (ts_ms, ohlcv, splice(&reader)) if spliced else (ts_ms, ohlcv)


def decode(body, Layout layout not None):
    """Read the bars of an exchange's answer.

    Parameters
    ----------
    body : bytes or str
        The whole answer, UTF-8 JSON. Read in place; above 64 KiB without the interpreter lock.
    layout : Layout
        Where the bars lie and how they are written.

    Returns
    -------
    ts_ms : numpy.ndarray
        int64[n], opening times in ms UTC, oldest first; bars of one time stay in the order of the answer.
    ohlcv : numpy.ndarray
        float64[5, n], C-contiguous: open, high, low, close, volume.

    Raises
    ------
    DataError
        The answer is not whole, or not exactly what the layout says: null, NaN and infinity included. The message
        names the byte. Values that the layout does not want are only checked to be JSON (in bytes, not for UTF-8).
    ConfigError
        `body` is neither bytes nor str.
    """
    return read_body(body, layout, False)


def decode_and_splice(body, Layout layout not None):
    """Read the bars of an exchange's answer, and make of it one that holds only the first and the last of them.

    The rest is what ccxt needs to go its own way (error handling, and its own reading of these two rows, by which
    ours is proved) without paying for all rows.

    Parameters
    ----------
    body, layout
        As for `decode`.

    Returns
    -------
    ts_ms, ohlcv : numpy.ndarray
        As from `decode`.
    rest : bytes
        The answer with the first and the last element (in the answer's order; one, if it has but one) in its list of
        rows, or in each of its columns that was read; else byte for byte the same.

    Raises
    ------
    DataError, ConfigError
        As from `decode`.
    """
    return read_body(body, layout, True)


cdef Layout PARSED = Layout(range(6))
cdef tuple FIELD_NAMES = ("time", "open", "high", "low", "close", "volume")


cdef int price_of(object item, int scale, double *value) except -1:
    """Any number or decimal text; 1 where it is neither."""
    cdef Reader reader
    cdef Py_ssize_t size = 0
    cdef Decimal number
    cdef const char *stop
    if type(item) is str:
        text = item
    elif type(item) is bool or item is None:
        return 1
    elif scale:
        text = repr(item)
    else:
        try:
            value[0] = float(item)
        except (TypeError, ValueError, OverflowError):
            return 1
        return 0
    reader.body = text_of(text, &size)
    reader.end = reader.body + size
    stop = read_decimal(reader.body, reader.end, False, &number)
    if stop == NULL or stop != reader.end:
        return 1
    if not to_double(&number, scale, value):
        value[0] = hard_number(reader.body, stop, scale)
    return 0


cdef int time_of(object item, const Plan *plan, int64_t *ts_ms) except -1:
    """An integer, float or text in the layout's unit; 1 where it is no time."""
    cdef Py_ssize_t size = 0
    cdef Decimal number
    cdef const char *text
    cdef const char *stop
    if type(item) is bool or not isinstance(item, (int, float, str)) or (plan.iso and type(item) is not str):
        return 1
    written = item if type(item) is str else repr(item)
    text = text_of(written, &size)
    if plan.iso:
        stop = read_iso(text, ts_ms)
    else:
        stop = read_decimal(text, text + size, False, &number)
        if stop != NULL and not to_integer(&number, plan.time_shift, ts_ms):
            stop = NULL
    return stop == NULL or stop != text + size


cdef inline int value_of(PyObject *item, const Plan *plan, int field, int64_t *ts_ms, double *value) except -1:
    """Read one field of a parsed row; 1 where it cannot be used."""
    cdef int failing
    if field == 0:
        if PyLong_CheckExact(item) and plan.time_shift == 0 and not plan.iso:
            try:
                ts_ms[0] = PyLong_AsLongLong(item)
            except OverflowError:
                return 1
        else:
            failing = time_of(<object> item, plan, ts_ms)
            if failing:
                return failing
        return not 0 <= ts_ms[0] <= LAST_MS
    if PyFloat_CheckExact(item) and plan.scale[field] == 0:
        value[0] = PyFloat_AS_DOUBLE(item)
    elif field == 5 and <object> item is None:
        value[0] = 0.0
    else:
        failing = price_of(<object> item, plan.scale[field], value)
        if failing:
            return failing
    return not isfinite(value[0])


cdef PyObject *item_of(object row, Layout layout, int field) except? NULL:
    """The field's item of a row, borrowed; NULL where the row has none."""
    cdef Py_ssize_t at
    if layout.plan.kind == DICTS:
        if type(row) is not dict:
            return NULL
        return PyDict_GetItemWithError(row, layout.fields[field])
    at = layout.fields[field]
    if type(row) is not list or at >= PyList_GET_SIZE(row):
        return NULL
    return PyList_GET_ITEM(row, at)


cdef inline bint read_plain_row(PyObject *row, int64_t *ts_ms, double *out, Py_ssize_t stride) noexcept:
    """Read a list of an int and five finite floats; False for every other row, which is read with more care."""
    cdef PyObject *item
    cdef double value
    cdef int field
    if not PyList_CheckExact(row) or PyList_GET_SIZE(<object> row) < FIELDS:
        return False
    item = PyList_GET_ITEM(<object> row, 0)
    if not PyLong_CheckExact(item):
        return False
    ts_ms[0] = PyLong_AsLongLongAndOverflow(item, &field)
    if not 0 <= ts_ms[0] <= LAST_MS:
        return False
    for field in range(1, FIELDS):
        item = PyList_GET_ITEM(<object> row, field)
        if not PyFloat_CheckExact(item):
            return False
        value = PyFloat_AS_DOUBLE(item)
        if not isfinite(value):
            return False
        out[0] = value
        out += stride
    return True


cdef int read_odd_row(
    list rows, Py_ssize_t at, Layout layout, int64_t *ts_ms, double *out, Py_ssize_t stride
) except -1:
    """Read any row; DataError where it is no bar."""
    cdef object row = rows[at]
    cdef PyObject *item
    cdef int field
    for field in range(FIELDS):
        # Looked up anew for each field: reading an odd item may run its own code, and that change the row.
        item = item_of(row, layout, field)
        if item == NULL or value_of(item, &layout.plan, field, ts_ms, &out[(field - 1 if field else 0) * stride]):
            found = repr(row)
            raise DataError(
                f"Row {at} of {len(rows)} has no usable {FIELD_NAMES[field]}: {found[:200]}; nothing was used, so ask "
                "again or report it."
            )
    return 0


def rows_to_columns(list rows not None, Layout layout not None=PARSED):
    """Make columns of rows that are parsed already: ccxt's, or those of an exchange.

    Parameters
    ----------
    rows : list
        Lists or dicts, one a bar. Without a layout ccxt's own ``[ts_ms, open, high, low, close, volume]``.
    layout : Layout, optional
        How rows of another kind are written (lists of them or dicts; `path` is not followed).

    Returns
    -------
    ts_ms : numpy.ndarray
        int64[n], opening times in ms UTC, oldest first; bars of one time stay in their order.
    ohlcv : numpy.ndarray
        float64[5, n], C-contiguous: open, high, low, close, volume. A volume of None, which ccxt gives for candles of
        mark and index prices, is 0.

    Raises
    ------
    DataError
        A row has no time or price, or one that is None, NaN, infinite or no number (ccxt answers rows of six None
        when the exchange sent HTML). The message names the row.
    ConfigError
        The layout is one of columns.
    """
    cdef Py_ssize_t count = PyList_GET_SIZE(rows), i
    cdef Py_buffer ts_buffer, ohlcv_buffer
    cdef int64_t *ts_out
    cdef double *out
    cdef int64_t before = 0
    cdef bint tangled = False, plain = layout is PARSED
    if layout.plan.kind == COLUMNS:
        raise ConfigError("rows_to_columns() takes rows, and this layout is one of columns: decode the body instead.")
    ts_ms, ohlcv = empty_columns(count)
    PyObject_GetBuffer(ts_ms, &ts_buffer, PyBUF_WRITABLE)
    PyObject_GetBuffer(ohlcv, &ohlcv_buffer, PyBUF_WRITABLE)
    ts_out = <int64_t *> ts_buffer.buf
    out = <double *> ohlcv_buffer.buf
    try:
        for i in range(count):
            if i >= PyList_GET_SIZE(rows):
                raise DataError(
                    f"The list of {count} rows shrank while it was read: give one that nobody changes meanwhile."
                )
            if not plain or not read_plain_row(PyList_GET_ITEM(rows, i), ts_out + i, out + i, count):
                read_odd_row(rows, i, layout, ts_out + i, out + i, count)
            if ts_out[i] < before:
                tangled = True
            before = ts_out[i]
    finally:
        PyBuffer_Release(&ts_buffer)
        PyBuffer_Release(&ohlcv_buffer)
    return sorted_columns(ts_ms, ohlcv, False) if tangled else (ts_ms, ohlcv)
