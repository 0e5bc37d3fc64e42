"""Data that backtrader resamples or replays from a live feed: their bars close by their own data, and never alone."""

from __future__ import annotations

from typing import Any

from backtrader.feed import DataClone


def waits(data: Any) -> bool:
    """Whether a data may come only beside a bar of a plain one.

    Backtrader's loop takes the time of a pass from the datas that are not resampled, and fails in a pass in which
    there are such datas and none of them has a bar.
    """
    if not data.resampling or data.replaying:
        return False
    return any(other.replaying or not other.resampling for other in data._env.datas)


class LiveClone(DataClone):
    """A data that is resampled or replayed from a live feed which is in the same cerebro."""

    def _check(self, forcedata: Any = None) -> None:
        """Close no bar by a clock or by another market's bar: its own last part may still be on the way."""

    def next(self, datamaster: Any = None, ticks: bool = True) -> Any:
        """Move to the next bar; where it `waits`, only when a plain data has moved."""
        if datamaster is None and waits(self):
            return False
        return super().next(datamaster, ticks)
