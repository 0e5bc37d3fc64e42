"""Backtrader's line buffers and a feed's cursor in C.

The contract of this boundary: columns are int64[n] open times in ms UTC, checked to be strictly increasing (bars of
ticks may share one), and float64[5 or more, n] rows open, high, low, close, volume and those of the lines that a
subclass declares, in their order, which stay the caller's and are read until the run is over; their shapes are checked
by ccxtbt/bulkfeed.py. Whatever happens to lines, ticks and positions equals what backtrader's own methods do. All
methods belong to cerebro's thread.
"""
# `Line` goes before LineBuffer and `Cursor` after DataBase in a class statement. They hold what backtrader moves on
# every bar (positions, lengths) as C integers; anything unusual (filters, bound lines, overridden methods) goes to
# backtrader's own methods. Nothing here creates lines or strategies: backtrader finds their owner by walking Python
# frames, and these functions have none.

from collections import deque

from libc.math cimport ceil, floor
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from cpython.array cimport array, clone
from cpython.sequence cimport PySequence_GetItem, PySequence_SetItem

from backtrader.feed import AbstractDataBase

from ccxtbt.errors import DataError

cdef extern from *:
    """
    #ifdef __linux__
    #include <stdint.h>
    #include <sys/mman.h>
    #endif
    /* Ask for huge pages below a large fresh buffer, as numpy does for its own: a year of minutes is 29 MB of lines,
       and on fresh memory the page faults cost more than the copying. Only advice: the answer does not matter. */
    static void ccxtbt_advise_huge(void *start, size_t size) {
    #if defined(__linux__) && defined(MADV_HUGEPAGE)
        if (size >= 4194304) {
            uintptr_t low = ((uintptr_t)start + 4095) & ~(uintptr_t)4095;
            uintptr_t high = ((uintptr_t)start + size) & ~(uintptr_t)4095;
            (void)madvise((void *)low, high - low, MADV_HUGEPAGE);
        }
    #else
        (void)start;
        (void)size;
    #endif
    }
    """
    void advise_huge "ccxtbt_advise_huge"(void* start, size_t size) noexcept nogil

cdef enum:
    DAY_MS = 86400000
    # Backtrader counts days from 0001-01-01, which is 1: this is 1970-01-01.
    EPOCH_DAY = 719163
    STANDARD_LINES = 7
    # Of a column's bars: open, high, low, close, volume.
    ROWS = 5
    FIRST_ROOM = 16

# Where the values of the current tick are: nowhere yet, nullified, kept one by one; from 0 on an index into the lines.
cdef enum:
    TICKS_UNSET = -3
    TICKS_NONE = -2
    TICKS_KEPT = -1

cdef double QNAN = float("nan")
cdef object NAN = QNAN
cdef object INFINITE = float("inf")
cdef array DOUBLES = array("d")
# In the place of a tick's value that was never set.
cdef object MISSING = object()
# A subclass that overrides one of these gets backtrader's own loop around it.
cdef tuple STEPS = ("load", "_load", "advance", "rewind", "_tick_fill", "_tick_nullify")


cdef struct Bar:
    int64_t ts_ms
    double open
    double high
    double low
    double close
    double volume


cdef inline double _days(int64_t ts_ms) noexcept nogil:
    # Whole days apart from the rest of the day: the one order of operations that equals date2num on every ms.
    cdef int64_t day = ts_ms // DAY_MS
    cdef int64_t rest = ts_ms - day * DAY_MS
    if rest < 0:
        rest += DAY_MS
        day -= 1
    return <double>(EPOCH_DAY + day) + <double>rest / 86400000.0


cdef void _days_of(const int64_t* ts_ms, Py_ssize_t n, int64_t shift_ms, double* out) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = _days(ts_ms[i] + shift_ms)


cdef array _doubles(Py_ssize_t n, Py_ssize_t extra):
    # n values to be set, then `extra` NaNs.
    cdef array out = clone(DOUBLES, n + extra, False)
    cdef Py_ssize_t i
    advise_huge(out.data.as_voidptr, (n + extra) * sizeof(double))
    for i in range(n, n + extra):
        out.data.as_doubles[i] = QNAN
    return out


cdef inline Py_ssize_t _bisect(const int64_t[::1] ts_ms, int64_t bound_ms, bint after_equal) noexcept nogil:
    # First index whose value is >= bound_ms (> bound_ms with after_equal).
    cdef Py_ssize_t low = 0, high = ts_ms.shape[0], middle
    while low < high:
        middle = (low + high) >> 1
        if ts_ms[middle] < bound_ms or (after_equal and ts_ms[middle] == bound_ms):
            low = middle + 1
        else:
            high = middle
    return low


cdef Py_ssize_t _first_disorder(const int64_t[::1] ts_ms, bint shared) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(1, ts_ms.shape[0]):
        if ts_ms[i] <= ts_ms[i - 1] and not (shared and ts_ms[i] == ts_ms[i - 1]):
            return i
    return -1


cdef object _disorder(int64_t ts_ms, int64_t before_ms):
    return DataError(
        f"The bar that opens at {ts_ms} ms is not later than the one before it ({before_ms} ms): "
        "sort the bars and drop duplicates."
    )


def num_from_ms(int64_t ts_ms):
    """Backtrader's number of a time in ms UTC: bit-identical to ``bt.date2num`` on every ms."""
    return _days(ts_ms)


def nums_from_ms(const int64_t[::1] ts_ms, int64_t shift_ms=0):
    """Backtrader's numbers of a column of times, each moved by `shift_ms`, as ``array('d')``."""
    cdef Py_ssize_t n = ts_ms.shape[0]
    cdef array out = _doubles(n, 0)
    if n:
        with nogil:
            _days_of(&ts_ms[0], n, shift_ms, out.data.as_doubles)
    return out


def ms_from_num(double num):
    """The time in ms UTC of one of backtrader's numbers, rounded to the nearest."""
    return round((num - EPOCH_DAY) * 86400000.0)


def first_ms(double num):
    """The first ms whose number is not below `num`: what ``fromdate`` lets in; the least int64 for -inf."""
    if num <= -1e9:
        return INT64_MIN
    if num >= 1e9:
        return INT64_MAX
    cdef int64_t ts_ms = <int64_t>floor((num - EPOCH_DAY) * 86400000.0) - 2
    while _days(ts_ms) < num:
        ts_ms += 1
    return ts_ms


def last_ms(double num):
    """The last ms whose number is not above `num`: what ``todate`` lets in; the greatest int64 for inf."""
    if num <= -1e9:
        return INT64_MIN
    if num >= 1e9:
        return INT64_MAX
    cdef int64_t ts_ms = <int64_t>ceil((num - EPOCH_DAY) * 86400000.0) + 2
    while _days(ts_ms) > num:
        ts_ms -= 1
    return ts_ms


cdef inline Py_ssize_t _length(Py_ssize_t lencount) except -1:
    if lencount < 0:
        raise ValueError("__len__() should return >= 0")
    return lencount


cdef class Line:
    # LineBuffer.__init__ and its other methods set these by name, as if they were ordinary attributes.
    cdef public object array
    cdef public list bindings
    cdef public Py_ssize_t lencount, _idx, extension, lenmark
    cdef public int mode  # 0 UnBounded, 1 QBuffer

    cdef inline void _seat(self, Py_ssize_t idx, bint force) noexcept:
        if self.mode == 0 or force or self._idx < self.lenmark:
            self._idx = idx

    cdef inline object _at(self, Py_ssize_t ago):
        return PySequence_GetItem(self.array, self._idx + ago)

    cdef inline Py_ssize_t _buflen(self) except? -1:
        return len(self.array) - self.extension

    cdef int _push(self, object value) except -1:
        # What forward() and line[0] = value do together where nothing is bound.
        if self.mode == 0 and self._idx + 1 == len(self.array):
            self.array.append(value)
            self._idx += 1
        else:
            self.array.append(NAN)
            self._seat(self._idx + 1, False)
            PySequence_SetItem(self.array, self._idx, value)
        self.lencount += 1
        return 0

    cdef int _forward(self, object value, Py_ssize_t size) except -1:
        cdef Py_ssize_t _i
        self._seat(self._idx + size, False)
        self.lencount += size
        for _i in range(size):
            self.array.append(value)
        return 0

    cdef int _backwards(self, Py_ssize_t size, bint force) except -1:
        cdef Py_ssize_t _i
        self._seat(self._idx - size, force)
        self.lencount -= size
        for _i in range(size):
            self.array.pop()
        return 0

    cdef inline void _step(self, Py_ssize_t size) noexcept:
        self._seat(self._idx + size, False)
        self.lencount += size

    @property
    def idx(self):
        return self._idx

    @idx.setter
    def idx(self, Py_ssize_t value):
        self._seat(value, False)

    def __len__(self):
        return _length(self.lencount)

    def __getitem__(self, ago):
        if type(ago) is int:
            return self._at(ago)
        return self.array[self._idx + ago]

    def __setitem__(self, ago, value):
        if type(ago) is int:
            PySequence_SetItem(self.array, self._idx + <Py_ssize_t>ago, value)
        else:
            self.array[self._idx + ago] = value
        if self.bindings:
            for binding in self.bindings:
                binding[ago] = value

    def buflen(self):
        return self._buflen()

    def home(self):
        self._seat(-1, False)
        self.lencount = 0

    def forward(self, value=NAN, Py_ssize_t size=1):
        self._forward(value, size)

    def backwards(self, Py_ssize_t size=1, bint force=False):
        self._backwards(size, force)

    def rewind(self, Py_ssize_t size=1):
        self._step(-size)

    def advance(self, Py_ssize_t size=1):
        self._step(size)

    def __getstate__(self):
        fields = (self.array, self.bindings, self.lencount, self._idx, self.extension, self.lenmark, self.mode)
        return self.__dict__, fields

    def __setstate__(self, state):
        attributes, fields = state
        self.__dict__.update(attributes)
        self.array, self.bindings, self.lencount, self._idx, self.extension, self.lenmark, self.mode = fields


cdef class Cursor:
    # The feed's lines; `_all` is None until they are first needed, because backtrader makes them after __new__.
    cdef list _all
    cdef Line _close, _low, _high, _open, _volume, _openinterest, _datetime
    # Backtrader's own containers, shared with it: their emptiness is what allows the fast paths.
    cdef object _flt, _stack, _stash, _notifs
    cdef bint _armed, _own, _localised, _share_later

    # Source: columns from _pos to _stop, then the ring of appended bars.
    cdef const int64_t[::1] _ts
    cdef const double[:, ::1] _rows
    cdef object _columns
    cdef Py_ssize_t _pos, _stop  # of the columns: next bar, end
    cdef Bar* _ring
    cdef object _beside  # of each appended bar, what the lines of a subclass are given; empty where there are none
    cdef tuple _extra  # of these, what belongs to the bar taken last
    cdef bint _shared  # bars may share a time: those of ticks do
    cdef Py_ssize_t _room, _head, _count
    cdef int64_t _last_ms
    cdef bint _live, _finished, _busy

    # What a bounded buffer gave up for the bar loaded last, so that a bar which is not due yet can go back.
    cdef list _given_up
    cdef Bar _loaded
    cdef bint _put_back, _can_unload, _of_columns

    # Stamp: the open plus _shift_ms, or for calendar months and years what _stamp_of() says.
    cdef int64_t _shift_ms, _from_ms, _to_ms
    cdef bint _calendar_stamp

    cdef Py_ssize_t _ticks
    cdef list _tick_values
    cdef bint _qwait
    cdef double _qlapse

    def __cinit__(self, *args, **kwargs):
        self._beside = deque()
        self._extra = ()
        self._ticks = TICKS_UNSET
        self._from_ms = INT64_MIN
        self._to_ms = INT64_MAX
        self._last_ms = INT64_MIN

    def __dealloc__(self):
        free(self._ring)

    # Binding to backtrader's objects

    cdef int _take_lines(self) except -1:
        lines = self.lines
        kind = type(self)
        for name in lines.getlinealiases():
            # An attribute of the feed itself, so that data.close needs no search through three classes.
            if not hasattr(kind, name):
                self.__dict__[name] = getattr(lines, name)
        self._close = lines.close
        self._low = lines.low
        self._high = lines.high
        self._open = lines.open
        self._volume = lines.volume
        self._openinterest = lines.openinterest
        self._datetime = lines.datetime
        self._own = all(getattr(kind, name) is getattr(Cursor, name) for name in STEPS)
        self._all = [<Line?>line for line in lines]
        return 0

    cdef inline int _ready(self) except -1:
        if self._all is None:
            self._take_lines()
            if self._share_later:
                self._share()
        return 0

    cdef int _share(self) except -1:
        self._flt = self._filters
        self._stack = self._barstack
        self._stash = self._barstash
        self._notifs = self.notifs
        self._localised = bool(self._tzinput)
        self._armed = True
        self._share_later = False
        return 0

    def _arm(self, int64_t shift_ms, bint calendar_stamp, int64_t from_ms, int64_t to_ms, bint live, bint put_back):
        self._shift_ms = shift_ms
        self._calendar_stamp = calendar_stamp
        self._from_ms = from_ms
        self._to_ms = to_ms
        self._live = live
        self._put_back = put_back
        self._ready()
        self._share()
        self._slice()

    def _rewind_source(self, bint ticks):
        self._shared = ticks
        self._armed = False
        self._columns = None
        self._ts = None
        self._rows = None
        self._beside.clear()
        self._pos = self._stop = self._head = self._count = 0
        self._last_ms = INT64_MIN
        self._finished = self._busy = False

    cdef inline bint _plain(self):
        # Nothing stands between the source and the lines.
        return self._armed and self._own and not (self._flt or self._stack or self._stash or self._localised)

    # Source

    def _set_columns(self, const int64_t[::1] ts_ms, const double[:, ::1] ohlcv, columns):
        cdef Py_ssize_t wrong
        with nogil:
            wrong = _first_disorder(ts_ms, self._shared)
        if wrong >= 0:
            raise _disorder(ts_ms[wrong], ts_ms[wrong - 1])
        self._ts = ts_ms
        self._rows = ohlcv
        self._columns = columns
        self._pos = 0
        self._stop = ts_ms.shape[0]
        if self._stop:
            self._last_ms = ts_ms[self._stop - 1]
            self._busy = True
        if self._armed:
            self._slice()

    cdef void _slice(self):
        if self._columns is not None:
            self._pos = _bisect(self._ts, self._from_ms, False)
            self._stop = max(self._pos, _bisect(self._ts, self._to_ms, True))
            if self._stop < self._ts.shape[0]:
                self._finished = True

    cdef int _grow(self) except -1:
        cdef Py_ssize_t room = 2 * self._room if self._room else FIRST_ROOM, i
        cdef Bar* ring = <Bar*>realloc(self._ring, room * sizeof(Bar))
        if ring == NULL:
            raise MemoryError
        self._ring = ring
        # The part that had wrapped round to the front goes behind the old end.
        for i in range(self._head + self._count - self._room):
            ring[self._room + i] = ring[i]
        self._room = room
        return 0

    cdef int _queue(self, Bar bar, tuple extra) except -1:
        cdef Py_ssize_t at
        if bar.ts_ms <= self._last_ms and not (self._shared and bar.ts_ms == self._last_ms):
            raise _disorder(bar.ts_ms, self._last_ms)
        if self._count == self._room:
            self._grow()
        at = self._head + self._count
        if at >= self._room:
            at -= self._room
        self._ring[at] = bar
        self._count += 1
        self._beside.append(extra)
        self._last_ms = bar.ts_ms
        self._busy = True
        return 0

    def append(
        self, int64_t ts_ms, double open_, double high, double low, double close, double volume, tuple extra=()
    ):
        """Add one bar behind all that is there; a live run delivers it in its next pass.

        Parameters
        ----------
        ts_ms : int
            Open time in ms UTC.
        open_, high, low, close, volume : float
        extra : tuple of float
            Values of the lines that a subclass declares, in their order; those that are missing are NaN.

        Raises
        ------
        DataError
            If the bar is not later than the last one (earlier than that one, for ticks); it was not added.
        """
        cdef Bar bar
        bar.ts_ms = ts_ms
        bar.open = open_
        bar.high = high
        bar.low = low
        bar.close = close
        bar.volume = volume
        self._queue(bar, extra)

    def _append_columns(self, const int64_t[::1] ts_ms, const double[:, ::1] ohlcv):
        cdef Py_ssize_t i, row
        cdef Bar bar
        cdef tuple extra = ()
        for i in range(ts_ms.shape[0]):
            bar.ts_ms = ts_ms[i]
            bar.open = ohlcv[0, i]
            bar.high = ohlcv[1, i]
            bar.low = ohlcv[2, i]
            bar.close = ohlcv[3, i]
            bar.volume = ohlcv[4, i]
            if ohlcv.shape[0] > ROWS:
                extra = tuple([ohlcv[row, i] for row in range(ROWS, ohlcv.shape[0])])
            self._queue(bar, extra)

    def finish(self):
        """End the feed: once the bars that are there are delivered, the run is over for it."""
        self._finished = True

    @property
    def pending(self):
        """How many bars are waiting to be loaded into the lines."""
        return self._stop - self._pos + self._count

    @property
    def last_ms(self):
        """Open time in ms UTC of the last bar given, delivered or not; None before the first."""
        return None if self._last_ms == INT64_MIN else self._last_ms

    cdef bint _take(self, Bar* bar) except -1:
        cdef Py_ssize_t i = self._pos, row
        self._extra = ()
        if i < self._stop:
            bar.ts_ms = self._ts[i]
            bar.open = self._rows[0, i]
            bar.high = self._rows[1, i]
            bar.low = self._rows[2, i]
            bar.close = self._rows[3, i]
            bar.volume = self._rows[4, i]
            self._pos = i + 1
            if self._rows.shape[0] > ROWS:
                self._extra = tuple([self._rows[row, i] for row in range(ROWS, self._rows.shape[0])])
            return True
        while self._count:
            bar[0] = self._ring[self._head]
            self._head = self._head + 1 if self._head + 1 < self._room else 0
            self._count -= 1
            self._extra = self._beside.popleft()
            if bar.ts_ms > self._to_ms:
                self._count = 0
                self._beside.clear()
                self._finished = True
                break
            if bar.ts_ms >= self._from_ms:
                return True
        return False

    cdef int _note_loaded(self, Bar* bar, bint of_columns) except -1:
        cdef Line line
        self._loaded = bar[0]
        self._of_columns = of_columns
        self._given_up = [
            (line._idx, line.array[0] if len(line.array) == line.array.maxlen else MISSING) for line in self._all
        ]
        self._can_unload = True
        return 0

    cdef int _unload(self) except -1:
        # backtrader moves a bounded buffer's length alone: the bar would be seen before its time, and never again.
        cdef Line line
        self._can_unload = False
        for line, (idx, value) in zip(self._all, self._given_up):
            line.array.pop()
            if value is not MISSING:
                line.array.appendleft(value)
            line._idx = idx
            line.lencount -= 1
        if self._of_columns:
            self._pos -= 1
            return 0
        if self._count == self._room:
            self._grow()
        self._head = self._head - 1 if self._head else self._room - 1
        self._ring[self._head] = self._loaded
        self._count += 1
        self._beside.appendleft(self._extra)
        self._busy = True
        return 0

    cdef bint _next_bar(self, Bar* bar) except -1:
        if self._take(bar):
            return True
        if self._busy:
            self._busy = False
            self._drained()
            return self._take(bar)
        return False

    cdef inline object _nothing(self):
        # What _load answers without a bar: None while more may come, False at the end.
        return None if self._live and not self._finished else False

    def _drained(self):
        """Called when the last bar has been delivered and cerebro asks for more: once until bars come again.

        A subclass may add bars here; they are delivered at once.
        """

    cdef double _stamped(self, int64_t ts_ms) except? -1.0:
        if self._calendar_stamp:
            return _days(self._stamp_of(ts_ms))
        return _days(ts_ms + self._shift_ms)

    # Loading

    def preload(self):
        if not self._bulk_allowed():
            return AbstractDataBase.preload(self)
        self._fill()
        # Bars that were appended one by one stand behind the columns.
        while self.load():
            pass
        self._last()
        self.home()

    cdef bint _bulk_allowed(self) except -1:
        cdef Line line
        self._ready()
        if not self._plain() or self._ffilters or self._bound():
            return False
        for line in self._all:
            if line.mode or line.lencount or line._buflen():
                return False
        return True

    cdef int _fill(self) except -1:
        cdef Py_ssize_t start = self._pos, n = self._stop - self._pos, i, row = ROWS
        cdef Line line
        cdef array values
        if n <= 0:
            return 0
        for line in self._all:
            values = _doubles(n, line.extension)
            if line is self._datetime:
                self._stamp_all(values, start, n)
            elif line is self._open:
                self._copy_row(values, 0, start, n)
            elif line is self._high:
                self._copy_row(values, 1, start, n)
            elif line is self._low:
                self._copy_row(values, 2, start, n)
            elif line is self._close:
                self._copy_row(values, 3, start, n)
            elif line is self._volume:
                self._copy_row(values, 4, start, n)
            elif line is not self._openinterest and row < self._rows.shape[0]:
                # The lines of a subclass come behind all others.
                self._copy_row(values, row, start, n)
                row += 1
            else:
                for i in range(n):
                    values.data.as_doubles[i] = QNAN
            line.array = values
            line.lencount = n
            line._idx = n - 1
        self._pos = self._stop
        return 0

    cdef inline void _copy_row(self, array values, Py_ssize_t row, Py_ssize_t start, Py_ssize_t n):
        memcpy(values.data.as_doubles, &self._rows[row, start], n * sizeof(double))

    cdef int _stamp_all(self, array values, Py_ssize_t start, Py_ssize_t n) except -1:
        cdef Py_ssize_t i
        if self._calendar_stamp:
            for i in range(n):
                values.data.as_doubles[i] = self._stamped(self._ts[start + i])
        else:
            _days_of(&self._ts[start], n, self._shift_ms, values.data.as_doubles)
        return 0

    def _load(self):
        cdef Bar bar
        self._ready()
        if not self._next_bar(&bar):
            return self._nothing()
        self._set_bar(&bar)
        return True

    cdef int _set_bar(self, Bar* bar) except -1:
        self._close[0] = bar.close
        self._low[0] = bar.low
        self._high[0] = bar.high
        self._open[0] = bar.open
        self._volume[0] = bar.volume
        self._datetime[0] = self._stamped(bar.ts_ms)
        if len(self._all) > STANDARD_LINES:
            self._set_rest()
        return 0

    cdef int _set_rest(self) except -1:
        # The lines of a subclass, of the bar taken last.
        cdef Py_ssize_t i
        for i in range(min(len(self._all) - STANDARD_LINES, len(self._extra))):
            self._all[STANDARD_LINES + i][0] = self._extra[i]
        return 0

    cdef bint _bound(self) except -1:
        cdef Line line
        for line in self._all:
            if line.bindings:
                return True
        return False

    def load(self):
        self._ready()
        return self._load_plain() if self._plain() else AbstractDataBase.load(self)

    cdef object _load_plain(self):
        cdef Bar bar
        cdef Line line
        cdef Py_ssize_t pos = self._pos
        if not self._next_bar(&bar):
            ret = self._nothing()
            if ret is not None and self._close.mode and not self._live:
                # At the end backtrader has pushed the oldest value out of a bounded buffer.
                self._forward_all(NAN, 1)
                self._backwards_all(1, True)
            return ret
        if self._close.mode and self._put_back:
            self._note_loaded(&bar, self._pos != pos)
        if self._bound():
            # A line of this feed may follow another one: all must have moved before the first is set.
            self._forward_all(NAN, 1)
            self._set_bar(&bar)
            return True
        self._datetime._push(self._stamped(bar.ts_ms))
        self._open._push(bar.open)
        self._high._push(bar.high)
        self._low._push(bar.low)
        self._close._push(bar.close)
        self._volume._push(bar.volume)
        self._openinterest._forward(NAN, 1)
        if len(self._all) > STANDARD_LINES:
            for line in self._all[STANDARD_LINES:]:
                line._forward(NAN, 1)
            self._set_rest()
        return True

    # Movement

    cdef int _forward_all(self, object value, Py_ssize_t size) except -1:
        cdef Line line
        for line in self._all:
            line._forward(value, size)
        return 0

    cdef int _backwards_all(self, Py_ssize_t size, bint force) except -1:
        cdef Line line
        self._can_unload = False
        if self._ticks >= 0:
            # The bar that they point to may be the one that goes.
            self._copy_ticks()
        for line in self._all:
            line._backwards(size, force)
        return 0

    cdef inline void _step_all(self, Py_ssize_t size) noexcept:
        cdef Py_ssize_t i
        for i in range(len(self._all)):
            (<Line>self._all[i])._step(size)

    def __len__(self):
        self._ready()
        return _length(self._close.lencount)

    def buflen(self, Py_ssize_t line=0):
        self._ready()
        return (<Line?>self._all[line])._buflen()

    def forward(self, value=NAN, Py_ssize_t size=1):
        self._ready()
        self._forward_all(value, size)

    def backwards(self, Py_ssize_t size=1, bint force=False):
        self._ready()
        self._backwards_all(size, force)

    def rewind(self, Py_ssize_t size=1):
        self._ready()
        if self._can_unload and size == 1:
            self._unload()
        else:
            self._step_all(-size)

    def home(self):
        cdef Line line
        self._ready()
        self._can_unload = False
        for line in self._all:
            line._seat(-1, False)
            line.lencount = 0

    def advance_peek(self):
        self._ready()
        if self._close.lencount < self._close._buflen():
            return self._datetime._at(1)
        return INFINITE

    cdef int _advance_alone(self, Py_ssize_t size, bint ticks) except -1:
        if ticks:
            self._nullify()
        self._step_all(size)
        if ticks and self._close.lencount < self._close._buflen():
            self._fill_ticks(False)
        return 0

    def advance(self, Py_ssize_t size=1, datamaster=None, bint ticks=True):
        self._ready()
        if datamaster is None:
            self._advance_alone(size, ticks)
            return
        if ticks:
            self._nullify()
        self._step_all(size)
        if self._close.lencount > self._close._buflen():
            self.rewind()
            self._forward_all(NAN, 1)
        elif self._datetime._at(0) > datamaster.lines.datetime[0]:
            self._step_all(-1)
        elif ticks:
            self._fill_ticks(False)

    def next(self, datamaster=None, bint ticks=True):
        self._ready()
        self._can_unload = False
        if not self._own:
            return AbstractDataBase.next(self, datamaster, ticks)
        if self._close.lencount >= self._close._buflen():
            if ticks:
                self._nullify()
            ret = self._load_plain() if self._plain() else AbstractDataBase.load(self)
            if not ret:
                return ret
        else:
            self._advance_alone(1, ticks)
        if datamaster is not None and self._datetime._at(0) > datamaster.lines.datetime[0]:
            self.rewind()
            return False
        if ticks:
            self._fill_ticks(False)
        return True

    # Ticks

    cdef int _nullify(self) except -1:
        if len(self._all) > STANDARD_LINES:
            AbstractDataBase._tick_nullify(self)
        else:
            self._tick_values = None
            self._ticks = TICKS_NONE
        return 0

    cdef int _fill_ticks(self, bint force) except -1:
        cdef bint moving = not self._armed or self._flt or self._close.mode or self._close._idx < 0
        if moving or len(self._all) > STANDARD_LINES:
            # A replayed bar changes in its place and a bounded buffer moves: the values are copied now.
            AbstractDataBase._tick_fill(self, force)
        elif force or self._ticks < 0 and (
            self._tick_values is None or self._tick_values[0] is None or self._tick_values[0] is MISSING
        ):
            self._tick_values = None
            self._ticks = self._close._idx
        return 0

    def _tick_nullify(self):
        self._ready()
        self._nullify()

    def _tick_fill(self, bint force=False):
        self._ready()
        self._fill_ticks(force)

    cdef object _tick(self, Py_ssize_t which):
        self._ready()
        if self._ticks == TICKS_NONE:
            return None
        if self._ticks >= 0:
            values = (<Line>self._tick_line(which)).array
            return values[self._ticks] if self._ticks < len(values) else None
        value = MISSING if self._tick_values is None else self._tick_values[which]
        if value is MISSING:
            raise AttributeError("No bar has been delivered yet.")
        return value

    cdef object _tick_line(self, Py_ssize_t which):
        if which == 0 or which == 6:
            return self._close
        return (self._low, self._high, self._open, self._volume, self._openinterest)[which - 1]

    cdef int _set_tick(self, Py_ssize_t which, object value) except -1:
        if self._tick_values is None:
            self._copy_ticks()
        self._tick_values[which] = value
        return 0

    cdef int _copy_ticks(self) except -1:
        cdef Py_ssize_t i
        missing = self._ticks == TICKS_UNSET
        self._tick_values = [MISSING if missing else self._tick(i) for i in range(7)]
        self._ticks = TICKS_KEPT
        return 0

    @property
    def tick_close(self):
        return self._tick(0)

    @tick_close.setter
    def tick_close(self, value):
        self._set_tick(0, value)

    @property
    def tick_low(self):
        return self._tick(1)

    @tick_low.setter
    def tick_low(self, value):
        self._set_tick(1, value)

    @property
    def tick_high(self):
        return self._tick(2)

    @tick_high.setter
    def tick_high(self, value):
        self._set_tick(2, value)

    @property
    def tick_open(self):
        return self._tick(3)

    @tick_open.setter
    def tick_open(self, value):
        self._set_tick(3, value)

    @property
    def tick_volume(self):
        return self._tick(4)

    @tick_volume.setter
    def tick_volume(self, value):
        self._set_tick(4, value)

    @property
    def tick_openinterest(self):
        return self._tick(5)

    @tick_openinterest.setter
    def tick_openinterest(self, value):
        self._set_tick(5, value)

    @property
    def tick_last(self):
        return self._tick(6)

    @tick_last.setter
    def tick_last(self, value):
        self._set_tick(6, value)

    # What cerebro asks each feed in every pass of a live run

    def haslivedata(self):
        """Whether a live run has bars that no pass has taken yet."""
        return self._live and (self._pos < self._stop or self._count > 0)

    def do_qcheck(self, bint onoff, double qlapse):
        self._qwait = onoff
        self._qlapse = qlapse

    @property
    def _qcheck(self):
        return max(0.0, (self.p.qcheck if self._qwait else 0.0) - self._qlapse)

    def get_notifications(self):
        if not self._armed or self._notifs:
            return AbstractDataBase.get_notifications(self)
        return ()

    def _check(self, forcedata=None):
        if self._flt or not self._armed:
            AbstractDataBase._check(self, forcedata)

    # Pickling

    def _cursor_state(self):
        cdef Py_ssize_t i, at
        bars = []
        for i in range(self._count):
            at = (self._head + i) % self._room
            bar = self._ring[at]
            extra = self._beside[i] if self._beside else ()
            bars.append((bar.ts_ms, bar.open, bar.high, bar.low, bar.close, bar.volume, extra))
        ticks = self._tick_values
        if ticks is not None:
            ticks = [() if value is MISSING else value for value in ticks]
        return (
            self._columns, self._pos, self._stop, bars, self._last_ms,
            self._live, self._finished, self._busy, self._armed,
            self._shift_ms, self._from_ms, self._to_ms, self._calendar_stamp,
            self._ticks, ticks, self._shared,
        )

    def _set_cursor_state(self, state):
        (
            columns, pos, stop, bars, last_ms,
            live, finished, busy, armed,
            self._shift_ms, self._from_ms, self._to_ms, self._calendar_stamp,
            ticks, values, self._shared,
        ) = state
        if columns is not None:
            self._ts, self._rows = columns
            self._columns = columns
        for bar in bars:
            self.append(*bar)
        self._pos, self._stop, self._last_ms = pos, stop, last_ms
        self._live, self._finished, self._busy = live, finished, busy
        self._ticks = ticks
        self._tick_values = None if values is None else [MISSING if value == () else value for value in values]
        # The lines may not be whole yet: they point back to the feed.
        self._share_later = armed
