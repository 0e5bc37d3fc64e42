"""Exchanges that give bars in pages, each in its own way, in plain Python."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from ccxtbt.market.timeframes import Timeframe, floor_ms


@dataclass
class PagedExchange:
    """One market: the opens of its bars, and how pages of them are given.

    Attributes
    ----------
    style : str
        ``jump``: the first bars from `since` on. ``window``: those of the `limit` bars' time from `since` on, of which
        too many lose the last. ``newest``: the same, but too many lose the first. ``clamped``: a window of no more than
        `cap` bars' time, whatever `limit` says. ``latest``: always the last ones, whatever `since` says. ``early``: as
        `jump`, and some bars from before `since`.
    cap : int
        Most rows of an answer.
    """

    opens: list[int]
    timeframe: Timeframe
    style: str
    cap: int
    requests: int = 0

    def bars(self, timeframe: Timeframe) -> list[int]:
        if timeframe == self.timeframe:
            return self.opens
        return sorted({floor_ms(timeframe, ts) for ts in self.opens})

    def page(self, timeframe: Timeframe, since_ms: int, limit: int) -> list[int]:
        """Answer as ccxt hands it on: oldest first, none before `since` but where the exchange is ``early``."""
        self.requests += 1
        opens = self.bars(timeframe)
        first = bisect_left(opens, since_ms)
        rows = min(limit, self.cap)
        if self.style == "jump":
            return opens[first : first + rows]
        if self.style == "early":
            return opens[max(0, first - 3) : first + rows]
        if self.style == "latest":
            return [ts for ts in opens[-self.cap :] if ts >= since_ms][:limit]
        if self.style == "clamped":
            return opens[first : bisect_left(opens, since_ms + rows * timeframe.nominal_ms)]
        window = opens[first : bisect_left(opens, since_ms + limit * timeframe.nominal_ms)]
        return window[:rows] if self.style == "window" else window[-rows:]
