"""Data that backtrader resamples or replays from a feed: live they close by their own data, and never alone."""

from __future__ import annotations

from typing import Any

import backtrader as bt
from backtrader.feed import DataClone
from backtrader.resamplerfilter import Replayer, Resampler


def waits(data: Any) -> bool:
    """Whether a data may come only beside a bar of a plain one.

    Backtrader's loop takes the time of a pass from the datas that are not resampled, and fails in a pass in which
    there are such datas and none of them has a bar.
    """
    if not data.resampling or data.replaying:
        return False
    return any(other.replaying or not other.resampling for other in data._env.datas)


class _PastGaps:
    """What backtrader's resampler and replayer lack: an end of the open bar where the market was quiet over that end.

    Theirs look whether a bar is over only where the next one does not end exactly on an edge itself; where it does,
    and the minutes before it are missing, they pour it into the bar before.
    """

    bar: Any
    p: Any
    _nexteos: Any
    _nextdteos: float

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


class LiveClone(BarClone):
    """The same, from a live feed."""

    def _check(self, forcedata: Any = None) -> None:
        """Close no bar by a clock or by another market's bar: its own last part may still be on the way."""

    def next(self, datamaster: Any = None, ticks: bool = True) -> Any:
        """Move to the next bar; where it `waits`, only when a plain data has moved."""
        if datamaster is None and waits(self):
            return False
        return super().next(datamaster, ticks)
