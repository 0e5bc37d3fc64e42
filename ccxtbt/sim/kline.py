"""Bars from trades, in plain Python: the judge of every bar that the library delivers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from operator import mul
from typing import Protocol

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

MONTH = "1M"
INTERVALS: dict[str, int] = {
    "1s": SECOND_MS,
    "1m": MINUTE_MS,
    "3m": 3 * MINUTE_MS,
    "5m": 5 * MINUTE_MS,
    "15m": 15 * MINUTE_MS,
    "30m": 30 * MINUTE_MS,
    "1h": HOUR_MS,
    "2h": 2 * HOUR_MS,
    "4h": 4 * HOUR_MS,
    "6h": 6 * HOUR_MS,
    "8h": 8 * HOUR_MS,
    "12h": 12 * HOUR_MS,
    "1d": DAY_MS,
    "3d": 3 * DAY_MS,
    "1w": 7 * DAY_MS,
    MONTH: 0,
}
"""Every kline interval of Binance and its length in ms; a month's length is not fixed and stands as 0."""

# The epoch was a Thursday; Binance's weeks begin on Monday.
_FIRST_MONDAY_MS = 4 * DAY_MS

_FLIP = bytes([1, 0]) + bytes(254)


class TradeLike(Protocol):
    """The attributes of a trade that a bar is made of."""

    id: int
    ts_ms: int
    price_ticks: int
    qty_steps: int
    buyer_is_maker: bool


def open_of(interval: str, ts_ms: int) -> int:
    """Return the open time in ms UTC of the bar that holds the moment `ts_ms`.

    Raises
    ------
    KeyError
        If `interval` is none of `INTERVALS`.
    """
    length_ms = INTERVALS[interval]
    if interval == "1w":
        return ts_ms - (ts_ms - _FIRST_MONDAY_MS) % length_ms
    if length_ms:
        return ts_ms - ts_ms % length_ms
    day = datetime.fromtimestamp(ts_ms // 1000, UTC)
    return int(datetime(day.year, day.month, 1, tzinfo=UTC).timestamp()) * 1000


def end_of(interval: str, open_ms: int) -> int:
    """Return the first ms UTC after the bar that opens at `open_ms`."""
    length_ms = INTERVALS[interval]
    if length_ms:
        return open_ms + length_ms
    # Any month ends within 31 days, and the 32nd day after its first lies inside the next one.
    return open_of(MONTH, open_ms + 32 * DAY_MS)


class Bar:
    """One bar in whole ticks and steps, so that every sum is exact.

    Attributes
    ----------
    open_ms, end_ms : int
        Open time, and the first ms after the bar, in ms UTC.
    open, high, low, close : int
        Prices in ticks.
    volume, taker_volume : int
        Quantity in steps: of all trades, and of those in which the buyer took.
    quote, taker_quote : int
        The same in ticks times steps.
    n_trades : int
        Number of trades; 0 in a flat bar of a silent stretch.
    first_id, last_id : int
        Ids of the first and last trade, -1 without trades.
    """

    __slots__ = (
        "close",
        "end_ms",
        "first_id",
        "high",
        "last_id",
        "low",
        "n_trades",
        "open",
        "open_ms",
        "quote",
        "taker_quote",
        "taker_volume",
        "volume",
    )

    def __init__(self, open_ms: int, end_ms: int, price_ticks: int) -> None:
        self.open_ms = open_ms
        self.end_ms = end_ms
        self.open = self.high = self.low = self.close = price_ticks
        self.volume = self.quote = self.taker_volume = self.taker_quote = self.n_trades = 0
        self.first_id = self.last_id = -1

    def add(self, trade: TradeLike) -> None:
        """Count one more trade, which must not be older than the last."""
        price, qty = trade.price_ticks, trade.qty_steps
        if self.n_trades == 0:
            self.open = self.high = self.low = price
            self.first_id = trade.id
        elif price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price
        self.close = price
        self.last_id = trade.id
        self.n_trades += 1
        self.volume += qty
        self.quote += price * qty
        if not trade.buyer_is_maker:
            self.taker_volume += qty
            self.taker_quote += price * qty

    def merge(self, later: Bar) -> None:
        """Count the trades of a later bar into this one."""
        if later.n_trades == 0:
            return
        if self.n_trades == 0:
            self.open, self.high, self.low = later.open, later.high, later.low
            self.first_id = later.first_id
        else:
            self.high = max(self.high, later.high)
            self.low = min(self.low, later.low)
        self.close = later.close
        self.last_id = later.last_id
        self.n_trades += later.n_trades
        self.volume += later.volume
        self.quote += later.quote
        self.taker_volume += later.taker_volume
        self.taker_quote += later.taker_quote


def aggregate(interval: str, trades: Iterable[TradeLike]) -> list[Bar]:
    """Return the bars of trades that are in time order; a stretch without trades has no bar."""
    bars: list[Bar] = []
    for trade in trades:
        if not bars or trade.ts_ms >= bars[-1].end_ms:
            open_ms = open_of(interval, trade.ts_ms)
            bars.append(Bar(open_ms, end_of(interval, open_ms), trade.price_ticks))
        bars[-1].add(trade)
    return bars


def aggregate_columns(
    length_ms: int,
    first_id: int,
    ts_ms: Sequence[int],
    price_ticks: Sequence[int],
    qty_steps: Sequence[int],
    buyer_is_maker: bytes,
) -> list[Bar]:
    """Return the bars of trades that come as columns: `aggregate` for intervals of a fixed length, quickly.

    Parameters
    ----------
    length_ms : int
        Length of a bar, counted from the epoch: any interval below a week.
    first_id : int
        Id of the first trade; the others follow it without a gap.
    ts_ms, price_ticks, qty_steps : sequences of int
        The trades, in time order; lists are fastest.
    buyer_is_maker : bytes
        1 for a trade in which the seller took, else 0.
    """
    buyer_took = buyer_is_maker.translate(_FLIP)
    quotes = list(map(mul, price_ticks, qty_steps))
    taker_qty = list(map(mul, qty_steps, buyer_took))
    taker_quotes = list(map(mul, quotes, buyer_took))
    bars: list[Bar] = []
    i, n = 0, len(ts_ms)
    while i < n:
        open_ms = ts_ms[i] - ts_ms[i] % length_ms
        bar = Bar(open_ms, open_ms + length_ms, price_ticks[i])
        j = bisect_left(ts_ms, bar.end_ms, i, n)
        if j > i + 1:
            prices = price_ticks[i:j]
            bar.high = max(prices)
            bar.low = min(prices)
            bar.close = prices[-1]
        bar.volume = sum(qty_steps[i:j])
        bar.quote = sum(quotes[i:j])
        bar.taker_volume = sum(taker_qty[i:j])
        bar.taker_quote = sum(taker_quotes[i:j])
        bar.n_trades = j - i
        bar.first_id, bar.last_id = first_id + i, first_id + j - 1
        bars.append(bar)
        i = j
    return bars
