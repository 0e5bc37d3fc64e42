"""BulkFeed: a backtrader data over columns of bars, loaded whole for a backtest and bar by bar for a live run."""

from __future__ import annotations

import datetime as dt
import logging
import math
import zoneinfo
from typing import Any, Literal, Protocol, cast

import backtrader as bt
import numpy as np
import numpy.typing as npt
from backtrader.linebuffer import LineBuffer

from ccxtbt._lines import Cursor, Line, first_ms, last_ms, num_from_ms
from ccxtbt.errors import ConfigError
from ccxtbt.market import timeframes

Stamp = Literal["open", "close", "close-1ms"]
Columns = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]

logger = logging.getLogger(__name__)

STAMPS: tuple[Stamp, ...] = ("open", "close", "close-1ms")
# What backtrader puts in for a session end that nobody gave.
NO_SESSIONEND = dt.time(23, 59, 59, 999990)
# Those of every data; a subclass may declare more, which come behind them.
STANDARD_LINES = 7
ONE_MS = dt.timedelta(milliseconds=1)
ONE_DAY = dt.timedelta(days=1)


class BulkLine(Line, LineBuffer):
    """A backtrader line whose position and length live in C."""


class Zone(dt.tzinfo):
    """Any tzinfo with the ``localize`` that backtrader asks of a time zone."""

    def __init__(self, zone: dt.tzinfo) -> None:
        self.zone = zone

    def __getinitargs__(self) -> tuple[dt.tzinfo]:
        return (self.zone,)

    def utcoffset(self, when: dt.datetime | None) -> dt.timedelta | None:
        """See datetime.tzinfo."""
        return self.zone.utcoffset(self._theirs(when))

    def dst(self, when: dt.datetime | None) -> dt.timedelta | None:
        """See datetime.tzinfo."""
        return self.zone.dst(self._theirs(when))

    def tzname(self, when: dt.datetime | None) -> str | None:
        """See datetime.tzinfo."""
        return self.zone.tzname(self._theirs(when))

    def fromutc(self, when: dt.datetime) -> dt.datetime:
        """See datetime.tzinfo."""
        return self.zone.fromutc(when.replace(tzinfo=self.zone)).replace(tzinfo=self)

    def localize(self, when: dt.datetime) -> dt.datetime:
        """Put a naive time into this zone."""
        return when.replace(tzinfo=self)

    def _theirs(self, when: dt.datetime | None) -> dt.datetime | None:
        return None if when is None else when.replace(tzinfo=self.zone)


def localizable(zone: str | dt.tzinfo | None) -> Any:
    """Give a time zone in the form that backtrader can use.

    Parameters
    ----------
    zone : str, tzinfo or None
        A name such as ``'Europe/Berlin'`` (pytz is not needed) or any tzinfo.

    Returns
    -------
    tzinfo or None
        With a ``localize`` method.

    Raises
    ------
    ConfigError
        If there is no time zone of that name.
    """
    if isinstance(zone, str):
        try:
            zone = zoneinfo.ZoneInfo("CST6CDT" if zone == "CST" else zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
            raise ConfigError(f"Unknown time zone {zone!r}: give an IANA name such as 'Europe/Berlin'.") from error
    if zone is None or hasattr(zone, "localize"):
        return zone
    return Zone(zone)


class Listener(Protocol):
    """What hears the bars that a feed is given."""

    def take(
        self,
        ts_ms: int,
        open_: float,
        high: float,
        low: float,
        close: float,
        volume: float,
        extra: tuple[float, ...] = (),
    ) -> None:
        """Take a bar: its open time in ms UTC, its values, and those of the lines that the feed's class declares."""

    def finish(self) -> None:
        """Nothing more comes."""


class BulkFeed(bt.feed.DataBase, Cursor):
    """A backtrader data over columns of bars.

    For a backtest the columns are copied whole into the lines at preload. In a live run, and wherever cerebro does
    not preload, they are delivered bar by bar, followed by what `append` adds. Results equal those of backtrader's
    PandasData over the same bars and datetimes.

    Parameters
    ----------
    columns : tuple of ndarray, optional
        ``(ts_ms, ohlcv)``: int64[n] open times in ms UTC, strictly increasing, and float64[5, n] C-contiguous with
        rows open, high, low, close, volume; float64[5 + k, n] for a subclass that declares k ``lines``, with a row
        for each in their order. A subclass may call `set_columns` in its ``start()`` instead.
    stamp : {'open', 'close', 'close-1ms'}, optional
        What the datetime of a bar says; the length of a bar is that of ``timeframe`` and ``compression``. Below a day
        the default is its close. A day and above it is one ms earlier, so that the bar carries its own date, except
        beside a feed below a day in the same cerebro, where it is the close too: one ms earlier it would be seen
        before the last minute of its day.
    **kwargs
        Backtrader's own: ``timeframe``, ``compression``, ``fromdate``, ``todate``, ``tz``, ``name``, ... The bars
        that open from ``fromdate`` to ``todate`` (both included) are taken, whatever the stamp. ``tz`` may be a name
        or any tzinfo.

    Raises
    ------
    ConfigError
        At the start of a run, if a parameter is wrong.
    DataError
        If the open times are not strictly increasing.

    Notes
    -----
    The C cursor stands after backtrader's base, else its metaclass would count the lines twice; the methods that it
    replaces are therefore named one by one here. A subclass may override any of them.
    """

    params: Any = (("columns", None), ("stamp", None))

    __len__ = Cursor.__len__
    forward = Cursor.forward
    backwards = Cursor.backwards
    rewind = Cursor.rewind
    home = Cursor.home
    advance = Cursor.advance
    advance_peek = Cursor.advance_peek
    next = Cursor.next
    preload = Cursor.preload
    load = Cursor.load
    _load = Cursor._load
    _tick_nullify = Cursor._tick_nullify
    _tick_fill = Cursor._tick_fill
    _check = Cursor._check
    haslivedata = Cursor.haslivedata
    do_qcheck = Cursor.do_qcheck
    get_notifications = Cursor.get_notifications
    _qcheck = Cursor._qcheck

    _stamp: Stamp | None = None
    _history: Columns
    _listeners: tuple[Listener, ...] = ()

    # The source

    def set_columns(self, ts_ms: npt.NDArray[np.int64], ohlcv: npt.NDArray[np.float64]) -> None:
        """Give the history of this run, in place of what was given before.

        Parameters
        ----------
        ts_ms : ndarray of int64, shape (n,)
            Open times in ms UTC, strictly increasing; those of ticks may be equal.
        ohlcv : ndarray of float64, shape (5, n) or (5 + k, n)
            Rows open, high, low, close, volume, and one for each of the k lines that a subclass declares; without
            those rows its lines are NaN. Neither array is copied: leave them alone until the run is over.

        Raises
        ------
        ConfigError
            If shapes do not fit.
        DataError
            If the open times are not strictly increasing.
        """
        ts_ms, ohlcv = self._checked(ts_ms, ohlcv)
        self._set_columns(ts_ms, ohlcv, (ts_ms, ohlcv))
        self._history = ts_ms, ohlcv

    def append_columns(self, ts_ms: npt.NDArray[np.int64], ohlcv: npt.NDArray[np.float64]) -> None:
        """Add bars behind all that is there, as `append` does one by one.

        Parameters
        ----------
        ts_ms : ndarray of int64, shape (n,)
            Open times in ms UTC, strictly increasing.
        ohlcv : ndarray of float64, shape (5, n) or (5 + k, n)
            Rows as in `set_columns`; copied.

        Raises
        ------
        ConfigError
            If shapes do not fit.
        DataError
            If a bar is not later than the one before it; the bars before that one were added.
        """
        opens, rows = self._checked(ts_ms, ohlcv)
        self._append_columns(opens, rows)
        for listener in self._listeners:
            for open_ms, opened, high, low, close, volume, *extra in zip(opens.tolist(), *rows.tolist(), strict=True):
                listener.take(open_ms, opened, high, low, close, volume, tuple(extra))

    def history(self) -> Columns:
        """Return the bars of this run's columns that its dates let in; opens and rows as in `set_columns`."""
        ts_ms, ohlcv = self._history
        from_ms, to_ms = self._span()
        low, high = ts_ms.searchsorted(from_ms), ts_ms.searchsorted(to_ms, "right")
        return ts_ms[low:high], ohlcv[:, low:high]

    def since_ms(self) -> int | None:
        """Return from when on no bar is missing, in ms UTC; None before the first bar."""
        ts_ms, _ = self.history()
        return int(ts_ms[0]) if len(ts_ms) else None

    def tell(self, listener: Listener) -> None:
        """Let a listener hear, until the end of this run, what is appended from now on."""
        self._listeners += (listener,)
        # On the feed itself: the others keep the methods in C.
        self.__dict__.update(append=self._append_and_tell, finish=self._finish_and_tell)

    def _append_and_tell(self, ts_ms: int, *values: Any) -> None:
        Cursor.append(self, ts_ms, *values)
        for listener in self._listeners:
            listener.take(ts_ms, *values)

    def _finish_and_tell(self) -> None:
        Cursor.finish(self)
        for listener in self._listeners:
            listener.finish()

    def _checked(self, ts_ms: npt.ArrayLike, ohlcv: npt.ArrayLike) -> Columns:
        opens = np.ascontiguousarray(ts_ms, dtype=np.int64)
        rows = np.ascontiguousarray(ohlcv, dtype=np.float64)
        more = len(self.lines.getlinealiases()) - STANDARD_LINES
        if opens.ndim != 1 or rows.shape not in {(5, opens.size), (5 + more, opens.size)}:
            also = f", or ohlcv[{5 + more}, n] with one more for each line of {type(self).__name__}" if more else ""
            raise ConfigError(
                f"Columns of the shapes {opens.shape} and {rows.shape} do not fit: "
                f"give ts_ms[n] and ohlcv[5, n] with rows open, high, low, close, volume{also}."
            )
        return opens, rows

    # The start of a run

    def start(self) -> None:
        """Forget the last run and take the ``columns`` parameter."""
        super().start()
        self._rewind_source(ticks=self.p.timeframe < bt.TimeFrame.Seconds)
        self._history = np.empty(0, np.int64), np.empty((5, 0))
        if self._listeners:
            self._listeners = ()
            del self.__dict__["append"], self.__dict__["finish"]
        if self.p.columns is not None:
            self.set_columns(*self.p.columns)

    def _start(self) -> None:
        super()._start()
        self._stamp = self._choose_stamp()
        shift_ms, by_calendar = self._shift()
        from_ms, to_ms = self._span()
        self._arm(shift_ms, by_calendar, from_ms, to_ms, self.islive(), self._put_back_whole())

    def _put_back_whole(self) -> bool:
        """Whether a bar that another data is to come before is kept for the next pass also where lines are bounded.

        Backtrader loses it there (exactbars=1): in a backtest the results are backtrader's.
        """
        return bool(self.islive())

    def _timeframe_text(self) -> str | None:
        # From the parameters: a resampler changes _timeframe and _compression of the data that it stands on.
        if self.p.timeframe < bt.TimeFrame.Seconds:
            return None
        return timeframes.from_backtrader(self.p.timeframe, self.p.compression)

    def _choose_stamp(self) -> Stamp:
        asked = self.p.stamp
        if asked is not None:
            if asked not in STAMPS:
                raise ConfigError(f"Unknown stamp {asked!r}: choose 'open', 'close' or 'close-1ms', or leave it out.")
            return cast("Stamp", asked)
        chosen: Stamp
        if self.p.timeframe < bt.TimeFrame.Seconds:
            chosen, reason = "open", "a tick has no length"
        elif self.p.timeframe < bt.TimeFrame.Days:
            chosen, reason = "close", "the default below a day"
        elif any(data is not self and data.p.timeframe < bt.TimeFrame.Days for data in self._env.datas):
            chosen, reason = "close", "there are feeds below a day beside it"
        else:
            chosen, reason = "close-1ms", "so that a bar carries its own date"
        if chosen != self._stamp:
            logger.info("%s: bars are stamped with their %s (%s)", self._name or "feed", chosen, reason)
        return chosen

    def _shift(self) -> tuple[int, bool]:
        """How far stamps lie behind opens, in ms; or 0 and that the calendar decides it bar by bar."""
        text = None if self._stamp == "open" else self._timeframe_text()
        if text is None:
            return 0, False
        length_ms = timeframes.parse(text).ms
        if length_ms is None:
            return 0, True
        return length_ms - (self._stamp == "close-1ms"), False

    def _stamp_of(self, open_ms: int) -> int:
        """Stamp of one bar, in ms UTC; the cursor asks where a shift does not do, in months and years."""
        text = None if self._stamp == "open" else self._timeframe_text()
        if text is None:
            return open_ms
        return timeframes.close_ms(text, open_ms) - (self._stamp == "close-1ms")

    def _span(self) -> tuple[int, int]:
        """First and last open time to take, in ms UTC; what backtrader's own check is to do is set beside it."""
        low = -math.inf if self.p.fromdate is None else self.date2num(self.p.fromdate)
        high = math.inf if self.p.todate is None else self.date2num(self.p.todate)
        from_ms, to_ms = first_ms(low), last_ms(high)
        if self._stamp == "open":
            self.fromdate, self.todate = low, high
        elif self._tzinput:
            # The columns are wall times of another zone: backtrader's check, made after it has moved them, decides.
            self.fromdate = -math.inf if math.isinf(low) else self._stamp_bound(from_ms, up=True)
            self.todate = math.inf if math.isinf(high) else self._stamp_bound(to_ms, up=False)
        else:
            self.fromdate, self.todate = -math.inf, math.inf
        return (first_ms(-math.inf), last_ms(math.inf)) if self._tzinput else (from_ms, to_ms)

    def _stamp_bound(self, open_ms: int, *, up: bool) -> float:
        text = self._timeframe_text()
        if text is not None and timeframes.parse(text).ms is None:
            floor_ms = timeframes.floor_ms(text, open_ms)
            open_ms = timeframes.next_ms(text, open_ms) if up and floor_ms < open_ms else floor_ms
        # Half a ms of play, because backtrader's way to a datetime and back is some microseconds off.
        return num_from_ms(self._stamp_of(open_ms)) + (-0.5 if up else 0.5) / timeframes.DAY_MS

    # Time zones and sessions

    def _gettz(self) -> Any:
        return localizable(self.p.tz)

    def _gettzinput(self) -> Any:
        return localizable(self.p.tzinput)

    def _getnexteos(self) -> tuple[dt.datetime, float]:
        """Give the end of the session of the current bar.

        Bars stamped with their close end a day at 00:00 of the next: with backtrader's default end of session,
        10 microseconds earlier, a day that is resampled from them would lose its last bar to the day after.
        """
        if self._stamp == "close" and self._calendar is not None and len(self):
            return self._calendars_eos()
        if self._stamp != "close" or self._calendar is not None or self.p.sessionend != NO_SESSIONEND or not len(self):
            return cast("tuple[dt.datetime, float]", super()._getnexteos())
        now = bt.num2date(self.lines.datetime[0])
        end = bt.num2date(self.date2num(dt.datetime.combine(now, dt.time.min)))
        while now > end:
            end += dt.timedelta(days=1)
        return end, bt.date2num(end)

    def _calendars_eos(self) -> tuple[dt.datetime, float]:
        # A bar belongs to the session that its last moment is in; a session that ends with the day ends at midnight.
        moment = bt.num2date(self.lines.datetime[0]) - ONE_MS
        # Asked for a time after the close, backtrader's calendar counts days without end: it is asked for midnights,
        # from the day before on, whose session may end today in UTC.
        day = dt.datetime.combine(moment.date(), dt.time.min) - ONE_DAY
        while True:
            _, end = self._calendar.schedule(day, self._tz)
            end += dt.timedelta(microseconds=-end.microsecond % 1_000)
            if moment < end:
                return end, bt.date2num(end)
            day += ONE_DAY

    # Too little data

    def _stage2(self) -> None:
        super()._stage2()
        env = self.getenvironment()
        if env._dopreload and env._dorunonce and self._too_short(env):
            logger.warning(
                "%s: %d bars are fewer than an indicator needs; running bar by bar, as runonce would fail",
                self._name or "feed",
                self.buflen(),
            )
            env._disable_runonce()

    def _too_short(self, env: Any) -> bool:
        """Whether an indicator on this feed needs more bars than there are: backtrader's runonce then fails."""
        bars = self.buflen()
        waiting = [strategy for strategy in env.runningstrats if strategy._minperiod > bars]
        while waiting:
            owner = waiting.pop()
            for user in owner._lineiterators[bt.LineIterator.IndType]:
                if user._minperiod > bars and self._is_clock_of(user):
                    return True
                if hasattr(user, "_lineiterators"):
                    waiting.append(user)
        return False

    def _is_clock_of(self, user: Any) -> bool:
        clock = getattr(user, "_clock", None)
        while clock is not None and clock is not self:
            # An indicator's clock is what it stands on; a line has none, but an owner.
            above = getattr(clock, "_clock", None)
            clock = getattr(clock, "_owner", None) if above is None else above
        return clock is self

    # Pickling, for the processes of an optimisation

    def __getstate__(self) -> tuple[dict[str, Any], Any]:
        """Carry the columns and the loaded lines; a subclass removes what cannot travel from the dict."""
        return dict(self.__dict__), self._cursor_state()

    def __setstate__(self, state: tuple[dict[str, Any], Any]) -> None:
        attributes, cursor = state
        self.__dict__.update(attributes)
        self._set_cursor_state(cursor)


def _make_lines(self: Any, initlines: Any = None) -> None:
    self.lines = [BulkLine() for _ in self._getlines()]


# The class of its lines is made by backtrader's metaclass, so their making can only be replaced afterwards.
BulkFeed.lines.__init__ = _make_lines
