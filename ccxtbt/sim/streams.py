"""A live kline: one bar after another as it forms, pushed at most so often, and once when it closes."""

from __future__ import annotations

from ccxtbt.sim.events import KlineEvent
from ccxtbt.sim.kline import INTERVALS, Bar, end_of, open_of
from ccxtbt.sim.market import Market, Trade


class KlineStream:
    """The bars of one market and interval from now on.

    It says when it wants to be called (`add`, `tick` and `begin` return times), so that its owner keeps the only
    schedule.

    Parameters
    ----------
    market : Market
        Where the trades come from.
    interval : str
        One of `INTERVALS`.
    push_ms : int
        Least time between two frames of a forming bar.
    now_ms : int
        Up to where the market's trades have happened.

    Raises
    ------
    ValueError
        If the interval is none of `INTERVALS`.
    """

    def __init__(self, market: Market, interval: str, push_ms: int, now_ms: int) -> None:
        if interval not in INTERVALS:
            raise ValueError(f"there is no stream {interval!r}: give 'trade', 'bookTicker' or a kline interval")
        self.symbol = market.spec.symbol
        self._market = market
        self.interval = interval
        self._push_ms = push_ms
        self._flat = market.quiet_bars == "flat"
        self._pushed_ms = now_ms - push_ms
        self._unsent = False
        self._bar = market.bar(interval, now_ms)
        if self._bar is None and self._flat and market.last is not None:
            self._bar = self._next_bar(now_ms, market.last.price_ticks)

    def begin(self) -> int | None:
        """Return when to call `tick` first, None if nothing is forming."""
        return self._bar.end_ms if self._bar else None

    def add(self, trade: Trade) -> tuple[int, ...]:
        """Count a trade and return the times at which to call `tick` because of it."""
        wanted: tuple[int, ...] = ()
        if self._bar is None:
            self._bar = self._next_bar(trade.ts_ms, trade.price_ticks)
            wanted = (self._bar.end_ms,)
        self._bar.add(trade)
        if not self._unsent:
            self._unsent = True
            wanted = (*wanted, max(trade.ts_ms, self._pushed_ms + self._push_ms))
        return wanted

    def tick(self, now_ms: int) -> tuple[KlineEvent | None, int | None]:
        """Return the frame that is due at `now_ms`, if any, and when the bar that opens with it ends."""
        bar = self._bar
        if bar is None:
            return None, None
        if now_ms >= bar.end_ms:
            self._unsent = False
            self._bar = self._next_bar(bar.end_ms, bar.close) if self._flat else None
            return self._frame(bar, now_ms, closed=True), self.begin()
        if self._unsent and now_ms >= self._pushed_ms + self._push_ms:
            self._unsent = False
            self._pushed_ms = now_ms
            return self._frame(bar, now_ms, closed=False), None
        return None, None

    def _next_bar(self, ts_ms: int, price_ticks: int) -> Bar:
        open_ms = open_of(self.interval, ts_ms)
        return Bar(open_ms, end_of(self.interval, open_ms), price_ticks)

    def _frame(self, bar: Bar, now_ms: int, *, closed: bool) -> KlineEvent:
        row = self._market.row(bar)
        return KlineEvent(now_ms, self.symbol, self.interval, row, bar.first_id, bar.last_id, closed)
