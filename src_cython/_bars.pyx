"""Columns of bars: put in order, merged, filled, resampled, and built from trades.

Everything here takes and returns columns: ``ts_ms``, int64[n], the open time of each bar in ms UTC, and ``ohlcv``,
float64[5, n], rows open, high, low, close, volume. The ``def`` functions check every argument (shape, dtype,
contiguity, range of the times) and raise ConfigError or DataError; behind them nothing can fail but memory, and no
Python object is made for a bar. Inputs are read in place and never changed; results are new arrays.
"""

from collections import namedtuple
from datetime import datetime, timezone

import numpy as np

from ccxtbt.errors import ConfigError, DataError
from ccxtbt.market.timeframes import parse

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.number cimport PyNumber_Index
from cpython.object cimport PyObject
from libc.math cimport NAN
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from _frame cimport (
    DAY_MS,
    INT64_MAX,
    INT64_MIN,
    TIME_LIMIT,
    Frame,
    frame_close,
    frame_fitting,
    frame_floor,
    frame_next,
    time_allowed,
)
from _prefetch cimport prefetch
from _words cimport (
    READ_AHEAD,
    copy_lot,
    copy_words,
    eight_in_step,
    how_many_in_step,
    rise_end,
    same_double,
    words_differ,
)

Merged = namedtuple("Merged", "ts_ms ohlcv origin corrected_ms repeats", module="ccxtbt._bars")
Merged.__doc__ = """What `merge` returns.

Attributes
----------
ts_ms : ndarray of int64, shape (n,)
    Open times in ms UTC, strictly increasing.
ohlcv : ndarray of float64, shape (5, n)
origin : ndarray of uint8, shape (n,)
    0 rest, 1 ws, 2 trades, 3 synthetic.
corrected_ms : ndarray of int64, shape (m,)
    Open times for which bars of different values were given; strictly increasing.
repeats : int
    How many bars were left out because another of the same open time was kept.
"""

Resampled = namedtuple("Resampled", "ts_ms ohlcv origin counts complete", module="ccxtbt._bars")
Resampled.__doc__ = """What `resample` returns.

Attributes
----------
ts_ms : ndarray of int64, shape (n,)
    Open times in ms UTC, on the grid of the coarser timeframe.
ohlcv : ndarray of float64, shape (5, n)
origin : ndarray of uint8, shape (n,)
    3 where every bar of it was synthetic, else that of the last one that was not.
counts : ndarray of int64, shape (n,)
    How many finer bars it was made of.
complete : ndarray of bool, shape (n,)
    Whether that is as many as fit into it.
"""

cdef enum:
    OPEN = 0
    HIGH = 1
    LOW = 2
    CLOSE = 3
    VOLUME = 4
    ROWS = 5

cdef enum:
    GAPS_NONE = 0
    GAPS_FLAT = 1
    GAPS_RAISE = 2

cdef enum:
    ORIGIN_TRADES = 2
    ORIGIN_SYNTHETIC = 3

cdef enum:
    # One gap of more bars than this is a wrong timestamp (ten million minutes are 19 years), and would eat the memory.
    GAP_LIMIT = 10000000
    # All synthetic bars of one call, 2 GB; a year of seconds has 32 million.
    FLAT_LIMIT = 40000000

cdef enum:
    HUGE_PAGE = 2097152  # bytes; of x86-64 and most others, elsewhere only speed is lost

cdef enum Outcome:
    DONE = 0
    NO_MEMORY = 1
    TIME_REFUSED = 2
    GAP_REFUSED = 3
    GAP_TOO_LONG = 4
    OUT_OF_ORDER = 5
    NOT_PAIRED = 6


cdef int _grow(void** items, Py_ssize_t* room, Py_ssize_t item_size) noexcept nogil:
    # Make room for more items, twice as many.
    cdef Py_ssize_t wanted = 2 * room[0] + 64
    cdef void* grown = realloc(items[0], wanted * item_size)
    if grown == NULL:
        return NO_MEMORY
    items[0] = grown
    room[0] = wanted
    return DONE


_GAPS = {"none": GAPS_NONE, "flat": GAPS_FLAT, "raise": GAPS_RAISE}
_KEEP = {"first": False, "last": True}


# ---- arguments and results ------------------------------------------------------------------------------------------


cdef Frame _frame(timeframe) except *:
    cdef Frame frame
    parsed = parse(timeframe)
    frame.ms = 0 if parsed.ms is None else parsed.ms
    frame.anchor_ms = parsed.anchor_ms
    frame.months = parsed.months
    return frame


cdef int64_t _time(value, str name) except? -1:
    cdef int64_t time_ms
    try:
        time_ms = PyNumber_Index(value)
    except (TypeError, OverflowError):
        time_ms = INT64_MAX
    if not time_allowed(time_ms):
        raise ConfigError(f"{name} is {value!r}: give a whole number of milliseconds since 1970 within +-2**53.")
    return time_ms


cdef str _when(int64_t ts_ms):
    """Write a time for a message."""
    if not -62135596800000 <= ts_ms <= 253402300799999:
        return f"{ts_ms} ms"
    seconds, ms = divmod(ts_ms, 1000)
    text = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{ms:03d} UTC" if ms else f"{text} UTC"


cdef object _choice(dict known, value, str name):
    try:
        return known[value]
    except (KeyError, TypeError):
        raise ConfigError(f"{name}={value!r} is not known: use one of {', '.join(map(repr, known))}.") from None


cdef int _hold(object array, Py_buffer* view, str name, Py_ssize_t ndim, str kind) except -1:
    """Get hold of a buffer of int64, float64 or uint8 whose last axis is contiguous; the caller releases it."""
    cdef Py_ssize_t last
    cdef bytes form
    try:
        PyObject_GetBuffer(array, view, PyBUF_STRIDES | PyBUF_FORMAT)
    except (TypeError, BufferError, ValueError):
        raise ConfigError(f"{name} must be a numpy array of {kind}, not {type(array).__name__}.") from None
    form = view.format if view.format != NULL else b"B"
    last = view.ndim - 1
    if view.ndim != ndim:
        message = f"{name} has {view.ndim} dimensions: it must have {ndim}."
    elif not (
        (kind == "int64" and view.itemsize == 8 and form in (b"q", b"l"))
        or (kind == "float64" and form == b"d")
        or (kind == "uint8" and form == b"B")
    ):
        message = f"{name} has the dtype {getattr(array, 'dtype', form.decode())}: convert it to {kind}."
    elif ndim == 2 and view.shape[0] != ROWS:
        message = f"{name} has {view.shape[0]} rows: it must have 5, which are open, high, low, close, volume."
    elif view.shape[last] > 1 and view.strides[last] != view.itemsize or ndim == 2 and view.strides[0] % 8:
        message = f"{name} is not contiguous along its bars: pass it through numpy.ascontiguousarray."
    else:
        return 0
    PyBuffer_Release(view)
    raise ConfigError(message)


cdef void* _data(object array) except? NULL:
    """Give the address of an array of ours; valid as long as the array is."""
    cdef Py_buffer view
    cdef void* data
    PyObject_GetBuffer(array, &view, PyBUF_STRIDES)
    data = view.buf
    PyBuffer_Release(&view)
    return data


cdef object _fresh(Py_ssize_t count, object dtype):
    """Give an array of 8-byte values, not set; a large one begins on a huge page.

    For large arrays numpy asks the system for huge pages. It gives them for whole ones only: one megabyte before the
    first and behind the last, as it comes on average, costs 256 faults.
    """
    cdef Py_ssize_t skipped
    if 8 * count < 2 * HUGE_PAGE:
        return np.empty(count, dtype)
    array = np.empty(count + HUGE_PAGE // 8, dtype)
    skipped = (HUGE_PAGE - <Py_ssize_t> _data(array) % HUGE_PAGE) % HUGE_PAGE // 8
    return array[skipped:skipped + count]


cdef struct Source:
    const int64_t* ts
    const double* rows[ROWS]
    const uint8_t* origins  # NULL where all bars have the same
    uint8_t origin
    Py_ssize_t size


cdef class _Held:
    """Columns of the caller, held so that they can be read without the GIL."""

    cdef Py_buffer views[3]
    cdef int held
    cdef Source source

    def __dealloc__(self):
        cdef int i
        for i in range(self.held):
            PyBuffer_Release(&self.views[i])

    cdef Py_buffer* take(self, object array, str name, Py_ssize_t ndim, str kind) except NULL:
        _hold(array, &self.views[self.held], name, ndim, kind)
        self.held += 1
        return &self.views[self.held - 1]


cdef _Held _hold_columns(object ts_ms, object ohlcv, object origin=0):
    cdef _Held held = _Held.__new__(_Held)
    cdef Py_buffer* view = held.take(ts_ms, "ts_ms", 1, "int64")
    cdef Py_ssize_t i
    held.source.ts = <const int64_t*> view.buf
    held.source.size = view.shape[0]
    view = held.take(ohlcv, "ohlcv", 2, "float64")
    if view.shape[1] != held.source.size:
        raise ConfigError(f"ohlcv has {view.shape[1]} bars and ts_ms {held.source.size}: they must be equally many.")
    for i in range(ROWS):
        held.source.rows[i] = <const double*> (<char*> view.buf + i * view.strides[0])
    held.source.origins = NULL
    if isinstance(origin, int):
        if not 0 <= origin <= ORIGIN_SYNTHETIC:
            raise ConfigError(f"origin {origin} is not known: it is 0 rest, 1 ws, 2 trades or 3 synthetic.")
        held.source.origin = origin
    else:
        view = held.take(origin, "origin", 1, "uint8")
        if view.shape[0] != held.source.size:
            raise ConfigError(f"origin has {view.shape[0]} bars and ts_ms {held.source.size}: they must be as many.")
        held.source.origins = <const uint8_t*> view.buf
    return held


cdef str _gap(Frame frame, int64_t from_ms, int64_t to_ms):
    """Begin a message about what is missing between two times."""
    missing = frame_fitting(frame, from_ms, to_ms)
    bars = "bars are" if missing > 1 else "bar is"
    return f"Between {_when(from_ms)} and {_when(to_ms)} {missing} {bars} missing"


cdef int _refuse_time(int64_t ts_ms) except -1:
    raise DataError(
        f"A bar or trade has the timestamp {ts_ms}: milliseconds since 1970 lie within +-2**53, "
        "so these are not milliseconds."
    )


cdef int _refuse_order(int64_t before_ms, int64_t ts_ms) except -1:
    raise DataError(
        f"The bar of {_when(ts_ms)} follows the one of {_when(before_ms)}: the times must strictly increase, "
        "so pass the bars through merge first."
    )


# ---- a plan: which bars of which source make the result -------------------------------------------------------------


cdef struct Run:
    # A stretch of a source in which time never falls (step 1), or always falls and is read backwards (step -1).
    Py_ssize_t source
    Py_ssize_t at
    Py_ssize_t end  # one step past the last bar
    int step


cdef struct Head:
    # The next bar of a run. Equal times come in the order of the runs, which is the order in which they were given.
    int64_t ts
    Py_ssize_t run


cdef struct Segment:
    # Bars of the result that lie side by side in a source, at least one, and how many flat bars follow them.
    Py_ssize_t source
    Py_ssize_t start
    Py_ssize_t count
    Py_ssize_t flats
    int step           # 1, or -1 where the source is read backwards


cdef struct Repeat:
    # Bars left out, whose open times are those of as many bars of the result; compared with them once these are there.
    Py_ssize_t at      # in the result
    Py_ssize_t source
    Py_ssize_t start   # in the source
    Py_ssize_t count
    int step
    bint differs


cdef struct Piece:
    # A segment, or a part of it, as it is copied: see `_Plan.cut`.
    Py_ssize_t start
    int32_t count
    int32_t source
    int32_t flats
    int how


cdef enum:
    PIECE_SHORT = 0   # copied as SHORT_PIECE bars and SHORT_FLATS flat ones, however few of them it has
    PIECE_WHOLE = 1
    PIECE_TURNED = 2  # its source is read backwards

cdef enum:
    SHORT_PIECE = 32  # what `copy_lot` copies
    SHORT_FLATS = 4
    WHOLE_PIECE = 256
    PIECE_LIMIT = 1000000000
    COMPARE_EVERY = 2048  # bars of a row: they are still in the nearest caches


cdef inline bint _earlier(Head a, Head b) noexcept nogil:
    return a.ts < b.ts or (a.ts == b.ts and a.run < b.run)


cdef class _Plan:
    """What makes the result, piece by piece; found and carried out without the GIL.

    First the times alone are read and merged into a plan, which gives the size of the result; then the bars are copied
    once, to where they belong.
    """

    cdef list held
    cdef Source* sources
    cdef Py_ssize_t source_count
    cdef Run* runs
    cdef Py_ssize_t run_count
    cdef Py_ssize_t run_room
    cdef Head* heap
    cdef Py_ssize_t head_count
    cdef Segment last               # the bars planned last; those before it are cut into pieces already
    cdef Py_ssize_t last_at         # where it begins in the result
    cdef Repeat* repeated
    cdef Py_ssize_t repeated_count
    cdef Py_ssize_t repeated_room
    cdef Piece* pieces
    cdef Py_ssize_t piece_count
    cdef Py_ssize_t piece_room
    cdef double* flat_closes        # the close before each piece's flat bars, from the last piece to the first
    cdef Py_ssize_t flat_places
    cdef int64_t* corrected
    cdef Py_ssize_t corrected_count
    cdef Py_ssize_t corrected_room
    cdef Py_ssize_t size            # of the result
    cdef Py_ssize_t flat            # flat bars in it
    cdef Py_ssize_t repeats
    cdef Frame frame
    cdef int gaps
    cdef bint keep_last
    cdef int64_t now_ms             # bars that close later are forming; INT64_MAX: none is
    cdef int64_t until_ms           # gaps are looked for up to here; INT64_MIN: up to the last bar
    cdef int64_t surely_closed_ms   # bars that open later are to be looked at: they may be forming
    cdef int64_t before_ms          # the last bar planned ...
    cdef int64_t expected_ms        # ... and its close; INT64_MAX where nobody looks for gaps
    cdef int64_t failed_ms          # what the outcome is about: a time, or the gap from ...
    cdef int64_t failed_end_ms      # ... to here

    def __cinit__(self, list held):
        cdef _Held columns
        self.held = held
        self.sources = <Source*> malloc(max(1, len(held)) * sizeof(Source))
        if self.sources == NULL:
            raise MemoryError
        for columns in held:
            self.sources[self.source_count] = columns.source
            self.source_count += 1
        self.now_ms = INT64_MAX
        self.until_ms = INT64_MIN

    def __dealloc__(self):
        free(self.sources)
        free(self.runs)
        free(self.heap)
        free(self.repeated)
        free(self.pieces)
        free(self.flat_closes)
        free(self.corrected)

    # -- what a plan is made of

    cdef int add(self, Py_ssize_t source, Py_ssize_t start, Py_ssize_t count, int step) noexcept nogil:
        cdef Segment* last = &self.last
        self.size += count
        if last.source == source and last.start + step * last.count == start and last.step == step and last.flats == 0:
            last.count += count
            return DONE
        if self.cut() != DONE:
            return NO_MEMORY
        last.source = source
        last.start = start
        last.count = count
        last.flats = 0
        last.step = step
        return DONE

    cdef int leave_out(self, Py_ssize_t source, Py_ssize_t start, Py_ssize_t count, int step) noexcept nogil:
        # Bars with the open times of the last ones planned.
        cdef Repeat* repeat
        self.repeats += count
        if self.repeated_count == self.repeated_room:
            if _grow(<void**> &self.repeated, &self.repeated_room, sizeof(Repeat)) != DONE:
                return NO_MEMORY
        repeat = &self.repeated[self.repeated_count]
        repeat.at = self.size - count
        repeat.source = source
        repeat.start = start
        repeat.count = count
        repeat.step = step
        repeat.differs = False
        self.repeated_count += 1
        return DONE

    cdef int replace(self, Py_ssize_t source, Py_ssize_t at, int step) noexcept nogil:
        # The last bar planned, which is never a flat one, by another of its open time.
        cdef Segment old = self.last
        cdef int outcome
        self.last.count -= 1
        self.size -= 1
        outcome = self.add(source, at, 1, step)
        if outcome == DONE:
            outcome = self.leave_out(old.source, old.start + old.step * (old.count - 1), 1, 1)
        return outcome

    cdef int fill(self, int64_t from_ms, int64_t to_ms) noexcept nogil:
        # Treat what is missing between two times by the policy.
        cdef int64_t missing = frame_fitting(self.frame, from_ms, to_ms)
        if missing == 0:
            return DONE
        self.failed_ms = from_ms
        self.failed_end_ms = to_ms
        if self.gaps == GAPS_RAISE:
            return GAP_REFUSED
        if missing > GAP_LIMIT or self.flat + missing > FLAT_LIMIT:
            return GAP_TOO_LONG
        self.flat += <Py_ssize_t> missing
        self.size += <Py_ssize_t> missing
        self.last.flats += <Py_ssize_t> missing
        return DONE

    cdef int cut(self) noexcept nogil:
        """Cut the last segment into pieces that are copied without a branch that has to be guessed.

        Gaps and repeats leave segments of all lengths. To guess each one's wrongly, once for every row, costs more than
        to copy it: so short pieces are all copied as if they were equally long. The copy goes from the last piece to
        the first, and what was too much before a piece is overwritten by the piece before it.
        """
        cdef Segment* segment = &self.last
        cdef Py_ssize_t start = segment.start
        cdef Py_ssize_t count = segment.count
        cdef Piece* piece
        while count:
            if self.piece_count == self.piece_room:
                if _grow(<void**> &self.pieces, &self.piece_room, sizeof(Piece)) != DONE:
                    return NO_MEMORY
            piece = &self.pieces[self.piece_count]
            piece.how = PIECE_SHORT
            piece.source = <int32_t> segment.source
            piece.start = start
            piece.count = <int32_t> min(count, SHORT_PIECE)
            if segment.step != 1:
                piece.how = PIECE_TURNED
            elif (
                count >= WHOLE_PIECE
                or self.last_at + piece.count < SHORT_PIECE
                or start + piece.count < SHORT_PIECE
                or segment.flats > SHORT_FLATS
            ):
                piece.how = PIECE_WHOLE
            if piece.how != PIECE_SHORT:
                piece.count = <int32_t> min(count, PIECE_LIMIT)
            count -= piece.count
            piece.flats = 0 if count else <int32_t> segment.flats
            start += segment.step * piece.count
            self.last_at += piece.count + piece.flats
            self.flat_places += piece.flats != 0
            self.piece_count += 1
        return DONE

    # -- runs and their heads

    cdef int add_run(self, Run* run) noexcept nogil:
        cdef const int64_t* ts = self.sources[run.source].ts
        self.failed_ms = ts[run.at]
        if time_allowed(self.failed_ms):
            self.failed_ms = ts[run.end - run.step]
        if not time_allowed(self.failed_ms):
            return TIME_REFUSED
        if self.run_count == self.run_room:
            if _grow(<void**> &self.runs, &self.run_room, sizeof(Run)) != DONE:
                return NO_MEMORY
        self.runs[self.run_count] = run[0]
        self.run_count += 1
        return DONE

    cdef int assume_sorted(self) noexcept nogil:
        # Take every source for one run; `walk` finds out if it is not.
        cdef Run run
        cdef int outcome
        run.at = 0
        run.step = 1
        for run.source in range(self.source_count):
            run.end = self.sources[run.source].size
            if run.end:
                outcome = self.add_run(&run)
                if outcome != DONE:
                    return outcome
        return DONE

    cdef int split(self) noexcept nogil:
        # Cut every source into runs, in the order in which the bars were given.
        cdef const int64_t* ts
        cdef Py_ssize_t size, i, j
        cdef int outcome
        cdef Run run
        for run.source in range(self.source_count):
            ts = self.sources[run.source].ts
            size = self.sources[run.source].size
            i = 0
            while i < size:
                j = i + 1
                if j < size and ts[j] < ts[i]:
                    while j < size and ts[j] < ts[j - 1]:
                        j += 1
                    run.at = j - 1
                    run.end = i - 1
                    run.step = -1
                else:
                    j = rise_end(ts, j, size)
                    run.at = i
                    run.end = j
                    run.step = 1
                i = j
                outcome = self.add_run(&run)
                if outcome != DONE:
                    return outcome
        return DONE

    cdef int line_up(self) noexcept nogil:
        # Make a heap of the heads of all runs, the earliest at place 0.
        cdef Py_ssize_t i
        free(self.heap)
        self.heap = <Head*> malloc(max(1, self.run_count) * sizeof(Head))
        if self.heap == NULL:
            return NO_MEMORY
        self.head_count = self.run_count
        for i in range(self.head_count):
            self.heap[i].ts = self.sources[self.runs[i].source].ts[self.runs[i].at]
            self.heap[i].run = i
        for i in range(self.head_count // 2 - 1, -1, -1):
            self.sink(i)
        return DONE

    cdef void sink(self, Py_ssize_t place) noexcept nogil:
        # Restore the order below a head that may be too late for its place.
        cdef Head head = self.heap[place]
        cdef Py_ssize_t child = 2 * place + 1
        while child < self.head_count:
            if child + 1 < self.head_count and _earlier(self.heap[child + 1], self.heap[child]):
                child += 1
            if not _earlier(self.heap[child], head):
                break
            self.heap[place] = self.heap[child]
            place = child
            child = 2 * place + 1
        self.heap[place] = head

    cdef void advance(self, Py_ssize_t place) noexcept nogil:
        # Put the head of a run that was read on, or to its end, where it belongs.
        cdef Run* run = &self.runs[self.heap[place].run]
        if run.at != run.end:
            self.heap[place].ts = self.sources[run.source].ts[run.at]
        else:
            self.head_count -= 1
            self.heap[place] = self.heap[self.head_count]
        self.sink(place)

    # -- making the plan

    cdef int arrange(self) noexcept nogil:
        """Plan every closed bar once, in the order of time."""
        cdef int outcome = self.assume_sorted()
        if outcome == DONE:
            outcome = self.walk()
        if outcome == DONE or outcome == NO_MEMORY:
            return outcome
        # A source is not sorted, or seems to hold what is refused: now for certain.
        self.run_count = 0
        self.piece_count = 0
        self.flat_places = 0
        self.last_at = 0
        self.last.count = 0
        self.repeated_count = 0
        self.size = 0
        self.flat = 0
        self.repeats = 0
        outcome = self.split()
        return outcome if outcome != DONE else self.walk()

    cdef int walk(self) noexcept nogil:
        # Merge the runs; OUT_OF_ORDER if one of them is none.
        cdef Py_ssize_t rival
        cdef int64_t limit_ms
        cdef int outcome = self.line_up()
        self.before_ms = INT64_MIN
        self.expected_ms = INT64_MAX
        self.surely_closed_ms = INT64_MAX
        if self.now_ms != INT64_MAX:
            self.surely_closed_ms = self.now_ms - (self.frame.ms or self.frame.months * 31 * DAY_MS)
        while outcome == DONE and self.head_count:
            # The earliest run goes on until another one comes first.
            limit_ms = TIME_LIMIT
            if self.head_count > 1:
                rival = 2 if self.head_count > 2 and _earlier(self.heap[2], self.heap[1]) else 1
                if self.heap[rival].ts == self.heap[0].ts:
                    outcome = self.take_pair(rival)
                    if outcome != NOT_PAIRED:
                        continue
                limit_ms = self.heap[rival].ts
                if self.heap[rival].run < self.heap[0].run:
                    limit_ms -= 1
            outcome = self.take_run(&self.runs[self.heap[0].run], limit_ms)
            self.advance(0)
        if outcome == DONE and self.gaps != GAPS_NONE and self.size and self.until_ms != INT64_MIN:
            return self.fill(self.expected_ms, min(self.until_ms, self.now_ms))
        return outcome

    cdef int take_run(self, Run* run, int64_t limit_ms) noexcept nogil:
        # Plan the bars of a run up to a time.
        cdef const int64_t* ts = self.sources[run.source].ts
        cdef Py_ssize_t at = run.at
        cdef Py_ssize_t start
        cdef int64_t calm_ms = min(limit_ms, self.surely_closed_ms)
        cdef int64_t length_ms = self.frame.ms
        cdef bint watching = self.gaps != GAPS_NONE
        cdef int64_t t, before_ms, expected_ms
        cdef int outcome = DONE
        while outcome == DONE and at != run.end and ts[at] <= limit_ms:
            start = at
            before_ms = self.before_ms
            expected_ms = self.expected_ms
            if watching and length_ms and run.step == 1 and ts[at] == expected_ms:
                while run.end - at > 8 and ts[at + 8] <= calm_ms:
                    prefetch(ts + at, READ_AHEAD)
                    if not eight_in_step(ts + at, length_ms):
                        at += how_many_in_step(ts + at, length_ms)
                        break
                    at += 8
                expected_ms = ts[at]
            while at != run.end:
                t = ts[at]
                if t > calm_ms or t <= before_ms or t > expected_ms:
                    break
                before_ms = t
                if watching:
                    expected_ms = t + length_ms if length_ms else frame_close(self.frame, t)
                at += run.step
            if at != start:
                self.before_ms = before_ms
                self.expected_ms = expected_ms
                outcome = self.add(run.source, start, (at - start) * run.step, run.step)
            else:
                outcome = self.take_odd(run, at)
                at += run.step
        if at == run.at:
            return OUT_OF_ORDER
        run.at = at
        return outcome

    cdef int take_odd(self, Run* run, Py_ssize_t at) noexcept nogil:
        # Plan a bar that may be forming, the same again, or after a gap.
        cdef const int64_t* ts = self.sources[run.source].ts
        cdef int64_t t = ts[at]
        cdef int outcome
        if t < self.before_ms or (at + run.step != run.end and ts[at + run.step] < t):
            return OUT_OF_ORDER
        if t > self.surely_closed_ms and frame_close(self.frame, t) > self.now_ms:
            return DONE
        if t == self.before_ms:
            return self.replace(run.source, at, run.step) if self.keep_last else self.leave_out(run.source, at, 1, 1)
        if t > self.expected_ms:
            outcome = self.fill(self.expected_ms, t)
            if outcome != DONE:
                return outcome
        self.before_ms = t
        if self.gaps != GAPS_NONE:
            self.expected_ms = frame_close(self.frame, t)
        return self.add(run.source, at, 1, run.step)

    cdef int take_pair(self, Py_ssize_t rival) noexcept nogil:
        """Plan a stretch in which the two earliest runs have the same open times: where a backfill overlaps."""
        cdef Run* a = &self.runs[self.heap[0].run]
        cdef Run* b = &self.runs[self.heap[rival].run]
        cdef const int64_t* ts_a = self.sources[a.source].ts
        cdef const int64_t* ts_b = self.sources[b.source].ts
        cdef Py_ssize_t at_a = a.at
        cdef Py_ssize_t at_b = b.at
        cdef Py_ssize_t count, i
        cdef int64_t limit_ms = min(TIME_LIMIT, self.surely_closed_ms)
        cdef int64_t length_ms = self.frame.ms
        cdef int64_t t = ts_a[at_a]
        cdef int64_t before_ms, expected_ms
        cdef bint watching = self.gaps != GAPS_NONE
        cdef int outcome
        # No third run may have a say: the sibling of the rival and its children are the earliest of the others.
        if self.head_count > 2:
            limit_ms = min(limit_ms, self.heap[3 - rival].ts - 1)
        for i in range(2 * rival + 1, min(2 * rival + 3, self.head_count)):
            limit_ms = min(limit_ms, self.heap[i].ts - 1)
        if t <= self.before_ms or t > limit_ms or (at_a + a.step != a.end and ts_a[at_a + a.step] == t):
            return NOT_PAIRED
        if t > self.expected_ms:
            outcome = self.fill(self.expected_ms, t)
            if outcome != DONE:
                return outcome
            self.expected_ms = t
        before_ms = self.before_ms
        expected_ms = self.expected_ms
        while at_a != a.end and at_b != b.end:
            t = ts_a[at_a]
            if ts_b[at_b] != t or t > limit_ms or t <= before_ms or t > expected_ms:
                break
            if at_a + a.step != a.end and ts_a[at_a + a.step] == t:
                # Another bar of this time in the earlier run: it comes before the later run's.
                break
            before_ms = t
            if watching:
                expected_ms = t + length_ms if length_ms else frame_close(self.frame, t)
            at_a += a.step
            at_b += b.step
        self.before_ms = before_ms
        self.expected_ms = expected_ms
        count = (at_a - a.at) * a.step
        if self.keep_last:
            outcome = self.add(b.source, b.at, count, b.step)
            if outcome == DONE:
                outcome = self.leave_out(a.source, a.at, count, a.step)
        else:
            outcome = self.add(a.source, a.at, count, a.step)
            if outcome == DONE:
                outcome = self.leave_out(b.source, b.at, count, b.step)
        a.at = at_a
        b.at = at_b
        # The rival first: while it sinks, its parent is still the earliest of all.
        self.advance(rival)
        self.advance(0)
        return outcome

    cdef int select_closed(self) noexcept nogil:
        """Plan every closed bar of the first source, in its own order."""
        cdef Source* source = self.sources
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t i
        for i in range(source.size):
            if not time_allowed(source.ts[i]):
                self.failed_ms = source.ts[i]
                return TIME_REFUSED
            if frame_close(self.frame, source.ts[i]) > self.now_ms:
                if i > start and self.add(0, start, i - start, 1) != DONE:
                    return NO_MEMORY
                start = i + 1
        return self.add(0, start, source.size - start, 1) if source.size > start else DONE

    cdef int check(self, int outcome) except -1:
        """Raise what an outcome means."""
        if outcome == NO_MEMORY:
            raise MemoryError
        if outcome == TIME_REFUSED:
            _refuse_time(self.failed_ms)
        if outcome == GAP_REFUSED:
            gap = _gap(self.frame, self.failed_ms, self.failed_end_ms)
            raise DataError(f"{gap}: fetch them, or allow gaps with gaps='none' or fill them with gaps='flat'.")
        if outcome == GAP_TOO_LONG:
            gap = _gap(self.frame, self.failed_ms, self.failed_end_ms)
            raise DataError(f"{gap}, too many to fill: a timestamp beside the gap is wrong, or use gaps='none'.")
        return 0

    # -- carrying it out

    cdef tuple carry_out(self):
        """Make the columns and the origins."""
        cdef object ts_ms = _fresh(self.size, np.int64)
        cdef object ohlcv = _fresh(5 * self.size, np.float64).reshape(5, self.size)
        cdef object origin = np.empty(self.size, np.uint8)
        cdef int64_t* ts = <int64_t*> _data(ts_ms)
        cdef double* rows = <double*> _data(ohlcv)
        cdef uint8_t* origins = <uint8_t*> _data(origin)
        cdef int outcome
        with nogil:
            outcome = self.copy(ts, rows, origins)
        self.check(outcome)
        return ts_ms, ohlcv, origin

    cdef int copy(self, int64_t* ts, double* rows, uint8_t* origins) noexcept nogil:
        # Row by row: six fresh arrays side by side would drive each other's pages out of the cache.
        if self.cut() != DONE:
            return NO_MEMORY
        self.flat_closes = <double*> malloc((self.flat_places + 1) * sizeof(double))
        if self.flat_closes == NULL:
            return NO_MEMORY
        self.copy_times(ts + self.size)
        self.copy_origins(origins + self.size)
        # Closes come before the other prices: flat bars take the close before them.
        self.copy_row(CLOSE, rows + CLOSE * self.size)
        self.copy_row(OPEN, rows + OPEN * self.size)
        self.copy_row(HIGH, rows + HIGH * self.size)
        self.copy_row(LOW, rows + LOW * self.size)
        self.copy_row(VOLUME, rows + VOLUME * self.size)
        return self.note_corrections(ts, rows)

    cdef void copy_times(self, int64_t* end) noexcept nogil:
        cdef Piece* piece = self.pieces + self.piece_count
        cdef int64_t* out = end
        cdef const int64_t* ts
        cdef int64_t t
        cdef Py_ssize_t i
        while piece != self.pieces:
            piece -= 1
            ts = self.sources[piece.source].ts
            out -= piece.flats
            if piece.flats:
                t = ts[_last_of(piece)]
                for i in range(piece.flats):
                    t = frame_close(self.frame, t)
                    out[i] = t
            out -= piece.count
            _copy_piece(piece, out, ts)

    cdef void copy_origins(self, uint8_t* end) noexcept nogil:
        cdef Piece* piece = self.pieces + self.piece_count
        cdef uint8_t* out = end
        cdef Source* source
        cdef Py_ssize_t i
        while piece != self.pieces:
            piece -= 1
            source = &self.sources[piece.source]
            if piece.how == PIECE_SHORT and source.origins == NULL:
                memset(out - SHORT_FLATS, ORIGIN_SYNTHETIC, SHORT_FLATS)
                out -= piece.flats
                memset(out - SHORT_PIECE, source.origin, SHORT_PIECE)
                out -= piece.count
                continue
            out -= piece.flats
            memset(out, ORIGIN_SYNTHETIC, piece.flats)
            out -= piece.count
            if source.origins == NULL:
                memset(out, source.origin, piece.count)
            elif piece.how != PIECE_TURNED:
                memcpy(out, source.origins + piece.start, piece.count)
            else:
                for i in range(piece.count):
                    out[i] = source.origins[piece.start - i]

    cdef void copy_row(self, int row, double* begin) noexcept nogil:
        cdef Piece* piece = self.pieces + self.piece_count
        cdef Repeat* repeat = self.repeated + self.repeated_count
        cdef double* flat_close = self.flat_closes
        cdef double* out = begin + self.size
        cdef double* pause
        cdef const double* values
        cdef double flat = 0.0
        cdef Py_ssize_t i
        while piece != self.pieces:
            pause = out - COMPARE_EVERY
            while piece != self.pieces and out > pause:
                piece -= 1
                values = self.sources[piece.source].rows[row]
                if row == CLOSE:
                    flat_close[0] = values[_last_of(piece)]
                if row != VOLUME:
                    flat = flat_close[0]
                flat_close += piece.flats != 0
                for i in range(1, 1 + (SHORT_FLATS if piece.how == PIECE_SHORT else piece.flats)):
                    out[-i] = flat
                out -= piece.flats + piece.count
                _copy_piece(piece, out, values)
            while repeat != self.repeated and (repeat - 1).at >= out - begin:
                repeat -= 1
                repeat.differs |= words_differ(
                    begin + repeat.at, self.sources[repeat.source].rows[row] + repeat.start, repeat.count, repeat.step
                )

    cdef int note_corrections(self, const int64_t* ts, const double* rows) noexcept nogil:
        cdef Repeat* repeat
        cdef Py_ssize_t r, i, row
        for r in range(self.repeated_count):
            repeat = &self.repeated[r]
            if not repeat.differs:
                continue
            for i in range(repeat.count):
                for row in range(ROWS):
                    if not same_double(
                        rows[row * self.size + repeat.at + i],
                        self.sources[repeat.source].rows[row][repeat.start + repeat.step * i],
                    ):
                        if self.note_correction(ts[repeat.at + i]) != DONE:
                            return NO_MEMORY
                        break
        return DONE

    cdef int note_correction(self, int64_t ts_ms) noexcept nogil:
        if self.corrected_count and self.corrected[self.corrected_count - 1] == ts_ms:
            return DONE
        if self.corrected_count == self.corrected_room:
            if _grow(<void**> &self.corrected, &self.corrected_room, sizeof(int64_t)) != DONE:
                return NO_MEMORY
        self.corrected[self.corrected_count] = ts_ms
        self.corrected_count += 1
        return DONE


cdef inline Py_ssize_t _last_of(const Piece* piece) noexcept nogil:
    return piece.start - piece.count + 1 if piece.how == PIECE_TURNED else piece.start + piece.count - 1


cdef inline void _copy_piece(const Piece* piece, void* out, const void* row) noexcept nogil:
    # Copy a piece of a row of 8-byte values; of a short one also what lies before it.
    cdef const char* values = <const char*> row + 8 * piece.start
    cdef Py_ssize_t i
    if piece.how == PIECE_SHORT:
        i = 8 * (piece.count - SHORT_PIECE)
        copy_lot(<char*> out + i, values + i)
    elif piece.how == PIECE_WHOLE:
        copy_words(out, values, piece.count)
    else:
        for i in range(piece.count):
            memcpy(<char*> out + 8 * i, values - 8 * i, 8)


def merge(sources, timeframe=None, *, keep="last", gaps="none", now_ms=None, until_ms=None):
    """Merge columns, in whatever order, into one strictly increasing sequence of closed bars.

    In one pass: forming bars are left out, the rest is sorted, of equal open times one is kept, and gaps are treated.

    Parameters
    ----------
    sources : iterable of tuple
        Each ``(ts_ms, ohlcv)`` or ``(ts_ms, ohlcv, origin)``: int64[n] in any order, float64[5, n], and uint8[n] or one
        int for all of it (0 when not given). The rows of `ohlcv` may be slices of longer ones.
    timeframe : str or Timeframe, optional
        Needed for `gaps` other than ``'none'``, `now_ms` and `until_ms`.
    keep : {'last', 'first'}
        Which of the bars with one open time wins, in the order given: by source, then by place in the source.
    gaps : {'none', 'flat', 'raise'}
        Leave gaps; fill them with flat bars at the close before (volume 0, origin 3); or raise DataError. A gap is a
        hole between a bar's close and the next open into which at least one whole bar fits.
    now_ms : int, optional
        The exchange's time: bars that close later are forming and left out.
    until_ms : int, optional
        Treat as a gap also what is missing between the last bar and this time (not later than `now_ms`).

    Returns
    -------
    Merged
        ``(ts_ms, ohlcv, origin, corrected_ms, repeats)``; see there.

    Raises
    ------
    ConfigError
        If an argument is not of the form above.
    DataError
        If a timestamp lies outside +-2**53 ms, a gap is met with ``'raise'``, or one is too long to be filled.
    """
    cdef list held = []
    cdef _Plan plan
    cdef int outcome
    for source in sources:
        if not isinstance(source, tuple) or not 2 <= len(source) <= 3:
            raise ConfigError(
                f"A source is {type(source).__name__}: give tuples (ts_ms, ohlcv) or (ts_ms, ohlcv, origin)."
            )
        held.append(_hold_columns(source[0], source[1], source[2] if len(source) == 3 else 0))
    plan = _Plan(held)
    plan.keep_last = _choice(_KEEP, keep, "keep")
    plan.gaps = _choice(_GAPS, gaps, "gaps")
    if timeframe is not None:
        plan.frame = _frame(timeframe)
    elif plan.gaps != GAPS_NONE or now_ms is not None or until_ms is not None:
        raise ConfigError("Gaps and forming bars can be told only by a timeframe: give timeframe='1m' or another.")
    if now_ms is not None:
        plan.now_ms = _time(now_ms, "now_ms")
    if until_ms is not None:
        plan.until_ms = _time(until_ms, "until_ms")
    with nogil:
        outcome = plan.arrange()
    plan.check(outcome)
    ts_ms, ohlcv, origin = plan.carry_out()
    corrected_ms = np.empty(plan.corrected_count, np.int64)
    if plan.corrected_count:
        memcpy(_data(corrected_ms), plan.corrected, plan.corrected_count * sizeof(int64_t))
    return Merged(ts_ms, ohlcv, origin, corrected_ms, plan.repeats)


def drop_forming(ts_ms, ohlcv, timeframe, now_ms):
    """Leave out the bars that are not over yet; the order stays.

    Parameters
    ----------
    ts_ms : ndarray of int64, shape (n,)
        Open times, in any order.
    ohlcv : ndarray of float64, shape (5, n)
    timeframe : str or Timeframe
    now_ms : int
        The exchange's time: a bar is over when it closes then or earlier.

    Returns
    -------
    tuple of ndarray
        ``(ts_ms, ohlcv)``, copies.

    Raises
    ------
    ConfigError
        If an argument is not of the form above.
    DataError
        If a timestamp lies outside +-2**53 ms.
    """
    cdef _Plan plan = _Plan([_hold_columns(ts_ms, ohlcv)])
    cdef int outcome
    plan.frame = _frame(timeframe)
    plan.now_ms = _time(now_ms, "now_ms")
    with nogil:
        outcome = plan.select_closed()
    plan.check(outcome)
    return plan.carry_out()[:2]


# ---- bars made of smaller things ------------------------------------------------------------------------------------


cdef struct Bar:
    int64_t ts
    int64_t end        # its close; of a tick bar the time of its last trade
    double open
    double high        # apart from `low`: side by side gcc keeps both in one register and repacks it for every trade
    double close
    double low
    double volume
    int64_t count      # of bars or trades in it
    uint8_t origin


cdef struct Bars:
    Bar* items
    Py_ssize_t size
    Py_ssize_t room


cdef inline int _append(Bars* bars, Bar* bar) noexcept nogil:
    if bars.size == bars.room and _grow(<void**> &bars.items, &bars.room, sizeof(Bar)) != DONE:
        return NO_MEMORY
    bars.items[bars.size] = bar[0]
    bars.size += 1
    return DONE


cdef tuple _bars_to_columns(Bars* bars):
    cdef object ts_ms = np.empty(bars.size, np.int64)
    cdef object ohlcv = np.empty((5, bars.size), np.float64)
    cdef int64_t* ts
    cdef double* rows
    cdef Py_ssize_t i, n = bars.size
    if n:
        ts = <int64_t*> _data(ts_ms)
        rows = <double*> _data(ohlcv)
        with nogil:
            for i in range(n):
                ts[i] = bars.items[i].ts
                rows[OPEN * n + i] = bars.items[i].open
                rows[HIGH * n + i] = bars.items[i].high
                rows[LOW * n + i] = bars.items[i].low
                rows[CLOSE * n + i] = bars.items[i].close
                rows[VOLUME * n + i] = bars.items[i].volume
    return ts_ms, ohlcv


cdef int _resample(Source* source, Frame frame, Bars* bars, int64_t* failed_ms) noexcept nogil:
    cdef Bar bar
    cdef Py_ssize_t i
    cdef int64_t t
    cdef double high, low
    cdef uint8_t origin
    bar.count = 0
    bar.ts = 0
    bar.end = INT64_MIN
    for i in range(source.size):
        t = source.ts[i]
        if not time_allowed(t):
            failed_ms[0] = t
            return TIME_REFUSED
        if i and t <= source.ts[i - 1]:
            failed_ms[0] = t
            failed_ms[1] = source.ts[i - 1]
            return OUT_OF_ORDER
        origin = source.origin if source.origins == NULL else source.origins[i]
        if t >= bar.end:
            if bar.count and _append(bars, &bar) != DONE:
                return NO_MEMORY
            bar.ts = frame_floor(frame, t)
            bar.end = frame_next(frame, t)
            bar.open = source.rows[OPEN][i]
            bar.high = source.rows[HIGH][i]
            bar.low = source.rows[LOW][i]
            bar.close = source.rows[CLOSE][i]
            bar.volume = source.rows[VOLUME][i]
            bar.origin = origin
            bar.count = 1
            continue
        high = source.rows[HIGH][i]
        low = source.rows[LOW][i]
        if high > bar.high or bar.high != bar.high:
            bar.high = high
        if low < bar.low or bar.low != bar.low:
            bar.low = low
        bar.close = source.rows[CLOSE][i]
        bar.volume += source.rows[VOLUME][i]
        if origin != ORIGIN_SYNTHETIC:
            bar.origin = origin
        bar.count += 1
    if bar.count:
        return _append(bars, &bar)
    return DONE


cdef int _check_divides(Frame fine, Frame coarse, timeframe, to) except -1:
    """Refuse a pair of timeframes whose bars do not nest."""
    cdef bint nests
    if coarse.ms:
        nests = fine.ms and coarse.ms % fine.ms == 0 and (coarse.anchor_ms - fine.anchor_ms) % fine.ms == 0
    elif fine.ms:
        nests = DAY_MS % fine.ms == 0
    else:
        nests = coarse.months % fine.months == 0
    if not nests:
        raise ConfigError(f"Bars of {timeframe} do not add up to bars of {to}: take a timeframe that divides it.")
    return 0


def resample(ts_ms, ohlcv, timeframe, to, origin=0):
    """Make bars of a coarser timeframe.

    Each bar belongs to the coarser one that holds its open. Open and close are those of the first and the last bar,
    high and low leave out NaN, volumes are added up in order.

    Parameters
    ----------
    ts_ms : ndarray of int64, shape (n,)
        Open times, strictly increasing.
    ohlcv : ndarray of float64, shape (5, n)
    timeframe : str or Timeframe
        What the bars are.
    to : str or Timeframe
        What to make of them; `timeframe` must divide it. Weeks start on Monday, months and years follow the calendar.
    origin : ndarray of uint8, shape (n,), or int
        Where the bars came from.

    Returns
    -------
    Resampled
        ``(ts_ms, ohlcv, origin, counts, complete)``; see there. The first and the last bar may be incomplete.

    Raises
    ------
    ConfigError
        If an argument is not of the form above.
    DataError
        If the times do not strictly increase or lie outside +-2**53 ms.
    """
    cdef _Held held = _hold_columns(ts_ms, ohlcv, origin)
    cdef Frame fine = _frame(timeframe)
    cdef Frame coarse = _frame(to)
    cdef Bars bars
    cdef int outcome
    cdef int64_t[2] failed_ms
    cdef int64_t* counts
    cdef uint8_t* origins
    cdef uint8_t* completes
    cdef Bar* bar
    cdef Py_ssize_t i
    _check_divides(fine, coarse, timeframe, to)
    memset(&bars, 0, sizeof(bars))
    try:
        with nogil:
            outcome = _resample(&held.source, coarse, &bars, failed_ms)
        if outcome == NO_MEMORY:
            raise MemoryError
        if outcome == TIME_REFUSED:
            _refuse_time(failed_ms[0])
        if outcome == OUT_OF_ORDER:
            _refuse_order(failed_ms[1], failed_ms[0])
        columns = _bars_to_columns(&bars)
        origin_out = np.empty(bars.size, np.uint8)
        counts_out = np.empty(bars.size, np.int64)
        complete_out = np.empty(bars.size, np.bool_)
        origins = <uint8_t*> _data(origin_out)
        counts = <int64_t*> _data(counts_out)
        completes = <uint8_t*> _data(complete_out)
        with nogil:
            for i in range(bars.size):
                bar = &bars.items[i]
                origins[i] = bar.origin
                counts[i] = bar.count
                completes[i] = bar.count >= frame_fitting(fine, bar.ts, bar.end)
    finally:
        free(bars.items)
    return Resampled(*columns, origin_out, counts_out, complete_out)


cdef int _find_gaps(
    const int64_t* ts,
    Py_ssize_t size,
    Frame frame,
    int64_t* out,
    Py_ssize_t room,
    Py_ssize_t* found,
    int64_t* failed_ms,
) noexcept nogil:
    # Write up to `room` gaps and count them all.
    cdef int64_t expected_ms, missing
    cdef Py_ssize_t i, count = 0
    for i in range(size):
        if not time_allowed(ts[i]):
            failed_ms[0] = ts[i]
            return TIME_REFUSED
        if i == 0:
            continue
        if ts[i] <= ts[i - 1]:
            failed_ms[0] = ts[i]
            failed_ms[1] = ts[i - 1]
            return OUT_OF_ORDER
        expected_ms = frame_close(frame, ts[i - 1])
        if ts[i] <= expected_ms:
            continue
        missing = frame_fitting(frame, expected_ms, ts[i])
        if missing:
            if count < room:
                out[3 * count] = expected_ms
                out[3 * count + 1] = ts[i]
                out[3 * count + 2] = missing
            count += 1
    found[0] = count
    return DONE


def find_gaps(ts_ms, timeframe):
    """Find the holes between bars into which at least one whole bar fits.

    Parameters
    ----------
    ts_ms : ndarray of int64, shape (n,)
        Open times, strictly increasing.
    timeframe : str or Timeframe

    Returns
    -------
    ndarray of int64, shape (m, 3)
        One row a gap: open time of the first missing bar, open time of the bar after the gap, number of bars missing.

    Raises
    ------
    ConfigError
        If an argument is not of the form above.
    DataError
        If the times do not strictly increase or lie outside +-2**53 ms.
    """
    cdef _Held held = _Held.__new__(_Held)
    cdef Py_buffer* view = held.take(ts_ms, "ts_ms", 1, "int64")
    cdef const int64_t* ts = <const int64_t*> view.buf
    cdef Py_ssize_t size = view.shape[0]
    cdef Frame frame = _frame(timeframe)
    cdef int64_t[2] failed_ms
    cdef Py_ssize_t found = 0
    cdef Py_ssize_t gaps_found
    cdef int outcome
    cdef int64_t* rows
    with nogil:
        outcome = _find_gaps(ts, size, frame, NULL, 0, &found, failed_ms)
    if outcome == TIME_REFUSED:
        _refuse_time(failed_ms[0])
    if outcome == OUT_OF_ORDER:
        _refuse_order(failed_ms[1], failed_ms[0])
    gaps = np.zeros((found, 3), np.int64)
    gaps_found = found
    if found:
        rows = <int64_t*> _data(gaps)
        with nogil:
            _find_gaps(ts, size, frame, rows, gaps_found, &found, failed_ms)
    return gaps


# ---- bars from trades -----------------------------------------------------------------------------------------------


cdef inline bint _usable(double price) noexcept nogil:
    # Finite and not zero: some exchanges report cancelled trades at price 0.
    return price - price == 0.0 and price != 0.0


cdef inline void _begin(Bar* bar, int64_t ts_ms, double price, double amount) noexcept nogil:
    bar.ts = ts_ms
    bar.end = ts_ms
    bar.open = price
    bar.high = price
    bar.low = price
    bar.close = price
    bar.volume = amount if amount == amount else 0.0
    bar.count = 1
    bar.origin = ORIGIN_TRADES


cdef inline void _extend(Bar* bar, double price, double amount) noexcept nogil:
    if price > bar.high:
        bar.high = price
    if price < bar.low:
        bar.low = price
    bar.close = price
    if amount == amount:
        bar.volume += amount
    bar.count += 1


cdef inline tuple _bar_tuple(Bar* bar):
    return (bar.ts, bar.open, bar.high, bar.low, bar.close, bar.volume)


cdef inline double _number(object value) except? -1.0:
    return PyFloat_AS_DOUBLE(value) if PyFloat_CheckExact(value) else _other_number(value)


cdef double _other_number(object value) except? -1.0:
    # None is NaN, as in ccxt's structures; a number or its text is the number.
    if value is None:
        return NAN
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"A trade has {value!r} where a number is due: give ccxt's unified trades.") from None


cdef inline int64_t _trade_time(object value) except? -1:
    cdef int overflow = 0
    cdef int64_t time_ms
    if PyLong_CheckExact(value):
        time_ms = PyLong_AsLongLongAndOverflow(value, &overflow)
        return INT64_MAX if overflow else time_ms
    return _other_time(value)


cdef int64_t _other_time(object value) except? -1:
    # A time outside the allowed ones stands for what is none.
    if value is None:
        return INT64_MAX
    try:
        return PyNumber_Index(value)
    except OverflowError:
        return INT64_MAX
    except TypeError:
        raise DataError(f"A trade has the timestamp {value!r}: a whole number of milliseconds is due.") from None


cdef class _Trades:
    """Trades of the caller, held so that they can be read without the GIL."""

    cdef _Held held
    cdef const int64_t* ts
    cdef const double* price
    cdef const double* amount
    cdef Py_ssize_t size

    def __cinit__(self, object ts_ms, object price, object amount):
        self.held = _Held.__new__(_Held)
        cdef Py_buffer* view = self.held.take(ts_ms, "ts_ms", 1, "int64")
        self.ts = <const int64_t*> view.buf
        self.size = view.shape[0]
        view = self.held.take(price, "price", 1, "float64")
        self.price = <const double*> view.buf
        cdef Py_ssize_t prices = view.shape[0]
        view = self.held.take(amount, "amount", 1, "float64")
        self.amount = <const double*> view.buf
        if prices != self.size or view.shape[0] != self.size:
            raise ConfigError(
                f"There are {self.size} timestamps, {prices} prices and {view.shape[0]} amounts of trades: "
                "they must be equally many."
            )


cdef class TradeBars:
    """Bars of a timeframe, built from trades as they come.

    A bar is closed by the first trade of a later one, or by `close_until`; after that nothing changes it. There is no
    bar where there was no trade. One thread at a time may use an object.

    Parameters
    ----------
    timeframe : str or Timeframe
        From ``'1s'`` up.
    since_ms : int, optional
        Trades of bars that open before are left out: a subscription begins in the middle of a bar.

    Attributes
    ----------
    late : int
        Trades left out because their bar was closed already, or opens before `since_ms`.
    skipped : int
        Trades left out because their price is zero or not finite, or their time none within +-2**53 ms.

    Raises
    ------
    ConfigError
        If an argument is not of the form above.
    """

    cdef Frame frame
    cdef Bar bar             # count 0: none is open; then ts is INT64_MAX and end INT64_MIN
    cdef int64_t begin_ms    # no bar opens before
    cdef readonly int64_t late
    cdef readonly int64_t skipped

    def __cinit__(self, timeframe, since_ms=None):
        self.frame = _frame(timeframe)
        self.begin_ms = INT64_MIN
        if since_ms is not None:
            self.begin_ms = _time(since_ms, "since_ms")
            if frame_floor(self.frame, self.begin_ms) < self.begin_ms:
                self.begin_ms = frame_next(self.frame, self.begin_ms)
        self.forget()

    cdef void forget(self) noexcept nogil:
        self.bar.count = 0
        self.bar.ts = INT64_MAX
        self.bar.end = INT64_MIN

    cdef int turn(self, int64_t ts_ms, double price, double amount, Bar* closed) noexcept nogil:
        # Take a trade that is not of the open bar; whether it closed a bar, which is then in `closed`.
        cdef bint was_open = self.bar.count > 0
        cdef int64_t open_ms = self.bar.end
        if not time_allowed(ts_ms):
            self.skipped += 1
            return False
        if ts_ms < self.begin_ms:
            self.late += 1
            return False
        if was_open:
            closed[0] = self.bar
        if not was_open or self.frame.ms == 0 or ts_ms - open_ms >= self.frame.ms:
            open_ms = frame_floor(self.frame, ts_ms)
        # Else it is the very next bar, found without a division.
        _begin(&self.bar, open_ms, price, amount)
        self.bar.end = open_ms + self.frame.ms if self.frame.ms else frame_next(self.frame, ts_ms)
        self.begin_ms = open_ms
        return was_open

    cdef int take(
        self, const int64_t* ts, const double* price, const double* amount, Py_ssize_t size, Bars* bars
    ) noexcept nogil:
        # What most trades touch is kept in local variables, which the compiler keeps in registers.
        cdef Bar closed
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t begun
        cdef int64_t open_ms, end_ms
        cdef double p, a, high, low, volume
        while i < size:
            open_ms = self.bar.ts
            end_ms = self.bar.end
            high = self.bar.high
            low = self.bar.low
            volume = self.bar.volume
            begun = i
            while i < size:
                p = price[i]
                if ts[i] < open_ms or ts[i] >= end_ms or not _usable(p):
                    break
                high = p if p > high else high
                low = p if p < low else low
                a = amount[i]
                if a == a:
                    volume += a
                i += 1
            if i > begun:
                self.bar.high = high
                self.bar.low = low
                self.bar.close = price[i - 1]
                self.bar.volume = volume
                self.bar.count += i - begun
            if i < size:
                if not _usable(price[i]):
                    self.skipped += 1
                elif self.turn(ts[i], price[i], amount[i], &closed) and _append(bars, &closed) != DONE:
                    return NO_MEMORY
                i += 1
        return DONE

    cdef object add_one(self, int64_t ts_ms, double price, double amount):
        cdef Bar closed
        if not _usable(price):
            self.skipped += 1
        elif self.bar.ts <= ts_ms < self.bar.end:
            _extend(&self.bar, price, amount)
        elif self.turn(ts_ms, price, amount, &closed):
            return _bar_tuple(&closed)
        return None

    def add(self, ts_ms, price, amount):
        """Take one trade.

        Parameters
        ----------
        ts_ms : int
        price, amount : float
            An amount of NaN counts as 0.

        Returns
        -------
        tuple or None
            ``(ts_ms, open, high, low, close, volume)`` of the bar that this trade closed, if it did.

        Raises
        ------
        DataError
            If a value is no number.
        """
        return self.add_one(_trade_time(ts_ms), _number(price), _number(amount))

    def feed(self, ts_ms, price, amount):
        """Take trades, in the order in which they were made.

        Parameters
        ----------
        ts_ms : ndarray of int64, shape (n,)
        price, amount : ndarray of float64, shape (n,)

        Returns
        -------
        tuple of ndarray
            ``(ts_ms, ohlcv)`` of the bars that these trades closed.

        Raises
        ------
        ConfigError
            If an argument is not of the form above.
        """
        cdef _Trades trades = _Trades(ts_ms, price, amount)
        cdef Bars bars
        cdef int outcome
        memset(&bars, 0, sizeof(bars))
        try:
            with nogil:
                outcome = self.take(trades.ts, trades.price, trades.amount, trades.size, &bars)
            if outcome != DONE:
                raise MemoryError
            return _bars_to_columns(&bars)
        finally:
            free(bars.items)

    def feed_dicts(self, trades):
        """Take trades as ccxt gives them, in the order in which they were made.

        Parameters
        ----------
        trades : list of dict
            Of each ``timestamp`` (ms), ``price`` and ``amount`` are read. One without a timestamp or a price is
            skipped, an amount of None counts as 0.

        Returns
        -------
        tuple of ndarray
            ``(ts_ms, ohlcv)`` of the bars that these trades closed.

        Raises
        ------
        ConfigError
            If `trades` is no list of dicts.
        DataError
            If a value is no number; the trades before it were taken.
        """
        cdef Bars bars
        memset(&bars, 0, sizeof(bars))
        try:
            _take_dicts(self, trades, &bars)
            return _bars_to_columns(&bars)
        finally:
            free(bars.items)

    def close_until(self, now_ms):
        """Close the open bar if it is over.

        Parameters
        ----------
        now_ms : int
            The exchange's time up to which all trades have been fed. Later ones of that bar are late.

        Returns
        -------
        tuple of ndarray
            ``(ts_ms, ohlcv)`` of the bar closed, or of none.

        Raises
        ------
        ConfigError
            If `now_ms` is no time.
        """
        cdef int64_t now = _time(now_ms, "now_ms")
        cdef Bars bars
        cdef Bar bar = self.bar
        memset(&bars, 0, sizeof(bars))
        if bar.count and bar.end <= now:
            self.begin_ms = bar.end
            self.forget()
            bars.items = &bar
            bars.size = 1
        return _bars_to_columns(&bars)

    def forming(self):
        """Give the open bar as it stands.

        Returns
        -------
        tuple or None
            ``(ts_ms, open, high, low, close, volume)``, or None where no bar is open.
        """
        return _bar_tuple(&self.bar) if self.bar.count else None


cdef inline PyObject* _value(dict trade, str key, Py_ssize_t* place) except? NULL:
    # The value of a key, NULL without one. Trades of one page have their keys in one order: the place at which the last
    # one had it spares the search in the table; that the key stands there is checked.
    cdef Py_ssize_t at = place[0]
    cdef PyObject* found
    cdef PyObject* value
    if PyDict_Next(trade, &at, &found, &value) and found == <PyObject*> key:
        return value
    at = 0
    place[0] = 0
    while PyDict_Next(trade, &at, &found, &value):
        if found == <PyObject*> key:
            return value
        place[0] = at
    return PyDict_GetItemWithError(trade, key)


cdef int _take_dicts(TradeBars to, object trades, Bars* bars) except -1:
    cdef Py_ssize_t[3] places = [0, 0, 0]
    cdef PyObject* ts_ms
    cdef PyObject* price
    cdef PyObject* amount
    cdef Bar closed
    cdef double p, a
    cdef int64_t t
    if not isinstance(trades, list):
        raise ConfigError(f"Trades are a list of dicts, not {type(trades).__name__}.")
    for trade in <list> trades:
        if not isinstance(trade, dict):
            raise ConfigError(f"A trade is a dict, not {type(trade).__name__}.")
        ts_ms = _value(trade, "timestamp", &places[0])
        price = _value(trade, "price", &places[1])
        amount = _value(trade, "amount", &places[2])
        p = NAN if price == NULL else _number(<object> price)
        if not _usable(p):
            to.skipped += 1
            continue
        t = INT64_MAX if ts_ms == NULL else _trade_time(<object> ts_ms)
        a = NAN if amount == NULL else _number(<object> amount)
        if to.bar.ts <= t < to.bar.end:
            _extend(&to.bar, p, a)
        elif to.turn(t, p, a, &closed) and _append(bars, &closed) != DONE:
            raise MemoryError
    return 0


cdef tuple _all_bars(TradeBars builder, Bars* bars):
    """Give the closed bars and the open one, if no trade came too late for its bar."""
    if builder.late:
        raise DataError(f"{builder.late} trades come after trades of later bars: sort them by time.")
    if builder.bar.count and _append(bars, &builder.bar) != DONE:
        raise MemoryError
    return _bars_to_columns(bars)


def bars_from_trades(ts_ms, price, amount, timeframe):
    """Build bars from trades; the last one may be forming.

    Parameters
    ----------
    ts_ms : ndarray of int64, shape (n,)
        Times of the trades, sorted at least by bar.
    price, amount : ndarray of float64, shape (n,)
        Trades at a price of zero, NaN or infinity, or at a time outside +-2**53 ms, are skipped; an amount of NaN
        counts as 0.
    timeframe : str or Timeframe

    Returns
    -------
    tuple of ndarray
        ``(ts_ms, ohlcv)``; no bar where there was no trade.

    Raises
    ------
    ConfigError
        If an argument is not of the form above.
    DataError
        If a trade belongs to a bar before that of a trade ahead of it.
    """
    cdef _Trades trades = _Trades(ts_ms, price, amount)
    cdef TradeBars builder = TradeBars(timeframe)
    cdef Bars bars
    cdef int outcome
    memset(&bars, 0, sizeof(bars))
    try:
        with nogil:
            outcome = builder.take(trades.ts, trades.price, trades.amount, trades.size, &bars)
        if outcome != DONE:
            raise MemoryError
        return _all_bars(builder, &bars)
    finally:
        free(bars.items)


def bars_from_trade_dicts(trades, timeframe):
    """Build bars from trades as ccxt gives them; the last one may be forming.

    Parameters
    ----------
    trades : list of dict
        See `TradeBars.feed_dicts`; sorted at least by bar.
    timeframe : str or Timeframe

    Returns
    -------
    tuple of ndarray
        ``(ts_ms, ohlcv)``; no bar where there was no trade.

    Raises
    ------
    ConfigError
        If `trades` is no list of dicts, or the timeframe unknown.
    DataError
        If a value is no number, or a trade belongs to a bar before that of a trade ahead of it.
    """
    cdef TradeBars builder = TradeBars(timeframe)
    cdef Bars bars
    memset(&bars, 0, sizeof(bars))
    try:
        _take_dicts(builder, trades, &bars)
        return _all_bars(builder, &bars)
    finally:
        free(bars.items)


cdef class TickBars:
    """Bars of a fixed number of trades.

    Parameters
    ----------
    trades_per_bar : int
        At least 1.

    Attributes
    ----------
    skipped : int
        Trades left out, as with `TradeBars`.

    Raises
    ------
    ConfigError
        If an argument is not of the form above.
    """

    cdef int64_t per_bar
    cdef Bar bar
    cdef readonly int64_t skipped

    def __cinit__(self, trades_per_bar):
        if not isinstance(trades_per_bar, int) or not 1 <= trades_per_bar <= 1_000_000_000:
            raise ConfigError(f"trades_per_bar is {trades_per_bar!r}: give a whole number from 1 to 1000000000.")
        self.per_bar = trades_per_bar
        self.bar.count = 0

    cdef bint take_one(self, int64_t ts_ms, double price, double amount) noexcept nogil:
        # Whether the bar is full; the caller takes it away by setting its count to 0.
        if not _usable(price) or not time_allowed(ts_ms):
            self.skipped += 1
            return False
        if self.bar.count == 0:
            _begin(&self.bar, ts_ms, price, amount)
        else:
            _extend(&self.bar, price, amount)
            if ts_ms > self.bar.end:
                self.bar.end = ts_ms
        return self.bar.count >= self.per_bar

    def add(self, ts_ms, price, amount):
        """Take one trade.

        Parameters
        ----------
        ts_ms : int
        price, amount : float
            An amount of NaN counts as 0.

        Returns
        -------
        tuple or None
            ``(ts_ms, open, high, low, close, volume, end_ms)`` of the bar that this trade closed, if it did.

        Raises
        ------
        DataError
            If a value is no number.
        """
        if not self.take_one(_trade_time(ts_ms), _number(price), _number(amount)):
            return None
        self.bar.count = 0
        return (*_bar_tuple(&self.bar), self.bar.end)

    def feed(self, ts_ms, price, amount):
        """Take trades, in the order in which they were made.

        Parameters
        ----------
        ts_ms : ndarray of int64, shape (n,)
        price, amount : ndarray of float64, shape (n,)

        Returns
        -------
        tuple of ndarray
            ``(ts_ms, ohlcv, end_ms)`` of the bars that these trades closed: `ts_ms` is the time of a bar's first
            trade, `end_ms`, int64, the latest time in it. Neighbouring bars can share a time.

        Raises
        ------
        ConfigError
            If an argument is not of the form above.
        """
        cdef _Trades trades = _Trades(ts_ms, price, amount)
        cdef Bars bars
        cdef Py_ssize_t i
        cdef int outcome = DONE
        cdef int64_t* ends
        memset(&bars, 0, sizeof(bars))
        try:
            with nogil:
                for i in range(trades.size):
                    if self.take_one(trades.ts[i], trades.price[i], trades.amount[i]):
                        outcome = _append(&bars, &self.bar)
                        if outcome != DONE:
                            break
                        self.bar.count = 0
            if outcome != DONE:
                raise MemoryError
            ts_out, ohlcv_out = _bars_to_columns(&bars)
            end_out = np.empty(bars.size, np.int64)
            if bars.size:
                ends = <int64_t*> _data(end_out)
                for i in range(bars.size):
                    ends[i] = bars.items[i].end
            return ts_out, ohlcv_out, end_out
        finally:
            free(bars.items)

    def forming(self):
        """Give the open bar as it stands.

        Returns
        -------
        tuple or None
            ``(ts_ms, open, high, low, close, volume)``, or None where no bar is open.
        """
        return _bar_tuple(&self.bar) if self.bar.count else None
