"""Coarser bars of a feed: those that backtrader resamples or replays, and those of a bulk feed of their own."""

from __future__ import annotations

import math
from typing import Any, cast

import backtrader as bt
import numpy as np
from backtrader.feed import DataClone
from backtrader.resamplerfilter import Replayer, Resampler

from ccxtbt import _bars
from ccxtbt.bulkfeed import STANDARD_LINES, BulkFeed, Columns, Stamp
from ccxtbt.errors import ConfigError
from ccxtbt.exchange.facts import EXTRA_LINES
from ccxtbt.market import timeframes


class _PastGaps:
    """What backtrader's resampler and replayer lack: an end of the open bar where the market was quiet over that end.

    Theirs look whether a bar is over only where the next one does not end exactly on an edge itself; where it does,
    and the minutes before it are missing, they pour it into the bar before.
    """

    bar: Any
    p: Any
    _nexteos: Any
    _nextdteos: float

    def _dataonedge(self, data: Any) -> Any:
        if data.p.timeframe == bt.TimeFrame.Ticks:
            # A trade at the very end of a bar is the first of the next one, as at the exchange.
            return False, True
        return super()._dataonedge(data)  # type: ignore[misc]  # backtrader's

    def _calcadjtime(self, greater: bool = False) -> float:
        if self.p.timeframe == bt.TimeFrame.Days and self._nexteos is not None:
            # Backtrader puts the time of the session's end on the date of the bar; midnight is on the next one.
            return self._nextdteos
        end: float = super()._calcadjtime(greater)  # type: ignore[misc]  # backtrader's
        return end

    def _passed(self, data: Any) -> float | None:
        """Return the end of the open bar if the bar that comes now belongs to a later one; else None."""
        whole = self.p.bar2edge and self.p.rightedge and bt.TimeFrame.Ticks < self.p.timeframe <= bt.TimeFrame.Days
        if not whole or not self.bar.isopen() or (self.p.timeframe == bt.TimeFrame.Days and self.p.compression > 1):
            return None
        self._eosset()  # type: ignore[attr-defined]  # backtrader's
        end = min(self._calcadjtime(), self._nextdteos)
        if not self.bar.datetime <= end < data.datetime[0]:
            return None
        if end == self._nextdteos:
            # As backtrader does when it finds that a session has ended.
            self._lasteos, self._lastdteos = self._nexteos, self._nextdteos
            self._nexteos, self._nextdteos = None, float("-inf")
        return end


class BarResampler(_PastGaps, Resampler):
    """Backtrader's resampler for bars that are stamped with their close, also where the market was quiet."""

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        # Backtrader takes no time from a data that says it is resampled: such a bar could only come with one of
        # another data, and where there is none backtrader's loop fails. By its own time it comes as any bar does.
        data.resampling = 0

    def __call__(self, data: Any, fromcheck: bool = False, forcedata: Any = None) -> Any:
        """Take the bar that has come; see backtrader."""
        end = None if fromcheck else self._passed(data)
        if end is not None:
            if self.doadjusttime:
                self.bar.datetime = end
            data._add2stack(self.bar.lvalues())
            self.bar.bstart(maxdate=True)
        return super().__call__(data, fromcheck, forcedata)


class BarReplayer(_PastGaps, Replayer):
    """Backtrader's replayer for bars that are stamped with their close, also where the market was quiet."""

    def __call__(self, data: Any, fromcheck: bool = False, forcedata: Any = None) -> Any:
        """Take the bar that has come; see backtrader."""
        if not fromcheck and not self.doadjusttime and self._passed(data) is not None:
            self.bar.bstart(maxdate=True)
            self._firstbar = True
        return super().__call__(data, fromcheck, forcedata)


class BarClone(DataClone):
    """A data that is resampled or replayed from a feed which is in the same cerebro."""

    def resample(self, **kwargs: Any) -> None:
        """Let the bars be resampled; cerebro calls it."""
        self.addfilter(BarResampler, **kwargs)

    def replay(self, **kwargs: Any) -> None:
        """Let the bars be replayed; cerebro calls it."""
        self.addfilter(BarReplayer, **kwargs)

    def advance(self, size: int = 1, datamaster: Any = None, ticks: bool = True) -> None:
        """Move on over bars that are there.

        Backtrader counts them as taken from the data, also where they were loaded before and only put back because
        another market came first: then the next bar of the data would be passed over.
        """
        super().advance(size, datamaster, ticks)
        if not self._env._dopreload:
            self._dlen -= size

    def qbuffer(self, savemem: int = 0, replaying: bool = False) -> None:
        """Bound the memory of the lines; cerebro calls it. A bar that is put back needs the room of a replayed one."""
        super().qbuffer(savemem, replaying=True)

    def _check(self, forcedata: Any = None) -> None:
        """Close a bar that another market's bar has passed, but none by the clock, beside a live feed."""
        if forcedata is not None:
            super()._check(forcedata)


class LiveClone(BarClone):
    """The same, from a live feed."""

    def _check(self, forcedata: Any = None) -> None:
        """Close no bar by a clock or by another market's bar: its own last part may still be on the way."""


class ResampledFeed(BulkFeed):
    """Coarser bars of another feed, as a bulk feed: what `CCXTFeed.resampled` returns.

    In a backtest the bars are made at once from the columns of the other feed; in a live run each comes with the bar
    that ends it, or with the first one after it. They lie on the exchanges' grid: days in UTC, weeks from Monday. A bar
    that is not over is never delivered, nor one that began before the other feed did.

    Parameters
    ----------
    base : BulkFeed
        Whose bars to take; it must have been added to cerebro before.
    **kwargs
        ``timeframe`` and ``compression`` of the bars, ``name`` and the like. Dates, time zone and stamp are those of
        the other feed.

    Raises
    ------
    ConfigError
        At the start of a run: the bars of the other feed do not divide these, its stamps are opens, something changes
        its bars on their way to cerebro, or it is not in cerebro before this one.
    """

    params: Any = (("base", None),)

    # As backtrader's own copies of a data: orders on it are orders on what it is made of.
    _clone = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data = self.p.base
        self.p.tz = self.data.p.tz
        # Open of the bar that goes on, its values, and whether its beginning is missing.
        self._open_ms: int | None = None
        self._values = [0.0] * 5
        self._torn = False
        # Of the lines that this class declares, their places among those of the other feed; -1 where it lacks them.
        theirs = self.data.lines.getlinealiases()[STANDARD_LINES:]
        mine = self.lines.getlinealiases()[STANDARD_LINES:]
        self._summed = [theirs.index(name) if name in theirs else -1 for name in mine]

    def islive(self) -> bool:
        """Whether bars follow the history."""
        return bool(self.data.islive())

    def start(self) -> None:
        """Make the bars of the history."""
        super().start()
        self._check_base()
        self._fine, self._coarse = timeframes.parse(_text(self.data)), timeframes.parse(_text(self))
        ts_ms, ohlcv = self.data.history()
        made = _bars.resample(ts_ms, ohlcv[:5], self._fine, self._coarse)
        rows = np.vstack([made.ohlcv, *self._sums(ts_ms, ohlcv)]) if self._summed else made.ohlcv
        opens = made.ts_ms.tolist()
        self._since_ms = self.data.since_ms()
        first = int(bool(opens) and self._before_the_base(opens[0]))
        over = len(opens) - int(bool(opens) and not self._ends_with(int(ts_ms[-1])))
        self._open_ms = None
        if over < len(opens):
            self._open_ms, self._values, self._torn = opens[-1], rows[:, -1].tolist(), over < first
        self.set_columns(made.ts_ms[first:over], rows[:, first:over])
        self.data.tell(self)

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
        """Add a bar of the other feed."""
        open_ms = timeframes.floor_ms(self._coarse, ts_ms)
        if self._open_ms is not None and open_ms > self._open_ms:
            self._close()
        if self._open_ms is None:
            self._open_ms, self._values = open_ms, [open_, high, low, close, volume, *self._picked(extra)]
            self._since_ms = ts_ms if self._since_ms is None else self._since_ms
            self._torn = self._before_the_base(open_ms)
        else:
            kept = self._values
            kept[1:4] = float(np.fmax(kept[1], high)), float(np.fmin(kept[2], low)), close
            kept[4:] = [sum_ + more for sum_, more in zip(kept[4:], (volume, *self._picked(extra)), strict=True)]
        if self._ends_with(ts_ms):
            self._close()

    def _close(self) -> None:
        if self._open_ms is not None and not self._torn:
            open_, high, low, close, volume, *extra = self._values
            self.append(self._open_ms, open_, high, low, close, volume, tuple(extra))
        self._open_ms = None

    def _sums(self, ts_ms: Any, rows: Any) -> list[Any]:
        """Return a row for each line that this class declares: sums, made as those of the volume are."""
        made = []
        for place in self._summed:
            given = place >= 0 and len(rows) > 5
            row = rows[5 + place] if given else np.full(len(ts_ms), np.nan)
            block: Columns = ts_ms, np.vstack([rows[:4], row])
            made.append(_bars.resample(*block, self._fine, self._coarse).ohlcv[4])
        return made

    def _picked(self, extra: tuple[float, ...]) -> list[float]:
        return [extra[place] if 0 <= place < len(extra) else math.nan for place in self._summed]

    def _ends_with(self, ts_ms: int) -> bool:
        """Whether the bar of the other feed that opens at `ts_ms` is the last of its coarser one."""
        return timeframes.next_ms(self._fine, ts_ms) >= timeframes.next_ms(self._coarse, ts_ms)

    def _before_the_base(self, open_ms: int) -> bool:
        return self._since_ms is not None and open_ms < self._since_ms

    def _choose_stamp(self) -> Stamp:
        return cast("Stamp", self.data._stamp)

    def _check_base(self) -> None:
        name, datas = self._name or "A resampled feed", self._env.datas
        places = {id(data): place for place, data in enumerate(datas)}
        if places.get(id(self.data), len(datas)) > places[id(self)]:
            raise ConfigError(f"{name} needs the feed that it is made of in the same cerebro: adddata that one first.")
        if self.data._stamp == "open":
            raise ConfigError(
                f"{name} stands on bars that are stamped with their open, and would be seen before it is over: leave "
                "stamp='open' out."
            )
        if self.data._filters or self.data._tzinput:
            raise ConfigError(
                f"{name} takes the bars as the exchange gave them, but filters or tzinput change those of the other "
                "feed on their way: use cerebro.resampledata."
            )


class ResampledFeedWithVolumes(ResampledFeed):
    """The same with the sums of trades, quote volume and taker-buy volume; NaN for what the other feed lacks."""

    lines: Any = EXTRA_LINES


def _text(feed: BulkFeed) -> str:
    text = feed._timeframe_text()
    if text is None:
        raise ConfigError("Ticks cannot be put together to bars here: ask for bars of a second or more.")
    return text
