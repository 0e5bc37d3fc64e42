"""What ccxtbt._bars must give, in plain Python: bars are tuples in lists, calendars are datetime's.

A bar is ``(ts_ms, open, high, low, close, volume)``, here always with its origin as a seventh value.
"""

from __future__ import annotations

import calendar
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise

import numpy as np

Bar = tuple[int, float, float, float, float, float, int]
Trade = tuple[int, float, float]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
TIME_LIMIT = 2**53


def ms_of(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)


def add_months(moment: datetime, months: int) -> datetime:
    """Shift the first of a month."""
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    return moment.replace(year=year, month=month + 1)


def month_start(ts_ms: int) -> datetime:
    moment = EPOCH + timedelta(milliseconds=ts_ms)
    return moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


class Frame:
    """A timeframe; months only between the years 1 and 9998, as datetime has it."""

    def __init__(self, text: str) -> None:
        self.amount, self.unit = int(text[:-1]), text[-1]
        self.months = self.amount * {"M": 1, "y": 12}.get(self.unit, 0)
        self.length = 0 if self.months else self.amount * UNIT_MS[self.unit]
        self.anchor = 4 * UNIT_MS["d"] if self.unit == "w" else 0

    def floor(self, ts_ms: int) -> int:
        if self.length:
            return (ts_ms - self.anchor) // self.length * self.length + self.anchor
        start = month_start(ts_ms)
        return ms_of(add_months(start, -((start.year * 12 + start.month - 1) % self.months)))

    def next(self, ts_ms: int) -> int:
        if self.length:
            return self.floor(ts_ms) + self.length
        return ms_of(add_months(EPOCH + timedelta(milliseconds=self.floor(ts_ms)), self.months))

    def close(self, open_ms: int) -> int:
        if self.length:
            return open_ms + self.length
        start = month_start(open_ms)
        days = calendar.monthrange(start.year, start.month)[1]
        if 2 * (open_ms - ms_of(start)) > days * UNIT_MS["d"]:
            start = add_months(start, 1)
        return ms_of(add_months(start, self.months)) + open_ms - ms_of(start)

    def fitting(self, from_ms: int, to_ms: int) -> list[int]:
        """Open times of the whole bars between two times."""
        opens = []
        while from_ms < to_ms and self.close(from_ms) <= to_ms:
            opens.append(from_ms)
            from_ms = self.close(from_ms)
        return opens


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


class GapRefusedError(Exception):
    """Its arguments are the first missing open, the time after the gap and the number of bars."""


def merge(
    sources: Iterable[Sequence[Bar]],
    timeframe: str | None = None,
    keep: str = "last",
    gaps: str = "none",
    now_ms: int | None = None,
    until_ms: int | None = None,
) -> tuple[list[Bar], list[int], int]:
    """Return the bars, the open times of which there were different values, and how many bars were left out."""
    frame = Frame(timeframe) if timeframe else None
    bars = [bar for source in sources for bar in source]
    if now_ms is not None:
        bars = [bar for bar in bars if frame.close(bar[0]) <= now_ms]
    bars.sort(key=lambda bar: bar[0])
    groups = [list(group) for _, group in groupby(bars, key=lambda bar: bar[0])]
    kept = [group[-1 if keep == "last" else 0] for group in groups]
    corrected = [
        winner[0]
        for winner, group in zip(kept, groups, strict=True)
        if not all(same(a, b) for bar in group for a, b in zip(bar[1:6], winner[1:6], strict=True))
    ]
    repeats = len(bars) - len(kept)
    if gaps == "none":
        return kept, corrected, repeats
    filled: list[Bar] = []
    ends = [bar[0] for bar in kept[1:]]
    last = [] if until_ms is None else [until_ms if now_ms is None else min(until_ms, now_ms)]
    for bar, end in zip(kept, ends + last, strict=False):
        filled.append(bar)
        missing = frame.fitting(frame.close(bar[0]), end)
        if missing and gaps == "raise":
            raise GapRefusedError(missing[0], end, len(missing))
        filled += [(ts_ms, bar[4], bar[4], bar[4], bar[4], 0.0, 3) for ts_ms in missing]
    return filled + kept[len(ends + last) :], corrected, repeats


def drop_forming(bars: Sequence[Bar], timeframe: str, now_ms: int) -> list[Bar]:
    return [bar for bar in bars if Frame(timeframe).close(bar[0]) <= now_ms]


def find_gaps(times: Sequence[int], timeframe: str) -> list[tuple[int, int, int]]:
    frame = Frame(timeframe)
    gaps = []
    for before, after in pairwise(times):
        missing = frame.fitting(frame.close(before), after)
        if missing:
            gaps.append((missing[0], after, len(missing)))
    return gaps


def extreme(values: Iterable[float], better: Callable[[float, float], bool]) -> float:
    """Return the highest or lowest value, NaN only where there is nothing else."""
    best = math.nan
    for value in values:
        if math.isnan(best) or better(value, best):
            best = value
    return best


def in_order(values: Iterable[float]) -> float:
    """Add one after the other: sum() rounds better since Python 3.12, and exchanges do not."""
    values = list(values)
    total = values[0]
    for value in values[1:]:
        total += value
    return total


def resample(bars: Sequence[Bar], timeframe: str, to: str) -> tuple[list[Bar], list[int], list[bool]]:
    """Return the coarser bars, of how many finer ones each was made, and whether that is all of them."""
    fine, coarse = Frame(timeframe), Frame(to)
    out, counts, complete = [], [], []
    for open_ms, group in groupby(bars, key=lambda bar: coarse.floor(bar[0])):
        _, opens, highs, lows, closes, volumes, origins = zip(*group, strict=True)
        real = [origin for origin in origins if origin != 3]
        high = extreme(highs, lambda a, b: a > b)
        low = extreme(lows, lambda a, b: a < b)
        out.append((open_ms, opens[0], high, low, closes[-1], in_order(volumes), (real or [3])[-1]))
        counts.append(len(opens))
        complete.append(len(opens) >= len(fine.fitting(open_ms, coarse.next(open_ms))))
    return out, counts, complete


def usable(trade: Trade) -> bool:
    return math.isfinite(trade[1]) and trade[1] != 0 and abs(trade[0]) <= TIME_LIMIT


def bar_of(open_ms: int, trades: Sequence[Trade]) -> Bar:
    prices = [price for _, price, _ in trades]
    volume = in_order(0.0 if math.isnan(amount) else amount for _, _, amount in trades)
    return (open_ms, prices[0], max(prices), min(prices), prices[-1], volume, 2)


def bars_from_trades(
    trades: Iterable[Trade], timeframe: str, since_ms: int | None = None
) -> tuple[list[Bar], int, int]:
    """Return the bars, the last one as it stands, how many trades came late, and how many were skipped."""
    frame = Frame(timeframe)
    first_ms = -math.inf if since_ms is None else since_ms
    bars: list[tuple[int, list[Trade]]] = []
    late = skipped = 0
    for trade in trades:
        if not usable(trade):
            skipped += 1
            continue
        open_ms = frame.floor(trade[0])
        if open_ms < (bars[-1][0] if bars else first_ms):
            late += 1
        elif bars and bars[-1][0] == open_ms:
            bars[-1][1].append(trade)
        else:
            bars.append((open_ms, [trade]))
    return [bar_of(open_ms, group) for open_ms, group in bars], late, skipped


def tick_bars(trades: Iterable[Trade], trades_per_bar: int) -> tuple[list[Bar], list[int], int]:
    """Return the full bars, the latest time in each, and how many trades are in the bar that is not full."""
    good = [trade for trade in trades if usable(trade)]
    full = len(good) // trades_per_bar * trades_per_bar
    groups = [good[i : i + trades_per_bar] for i in range(0, full, trades_per_bar)]
    return [bar_of(group[0][0], group) for group in groups], [max(t for t, *_ in g) for g in groups], len(good) - full


def to_columns(bars: Sequence[Bar]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give bars the form in which ccxtbt._bars takes and returns them."""
    ts_ms = np.array([bar[0] for bar in bars], np.int64)
    ohlcv = np.ascontiguousarray(np.array([bar[1:6] for bar in bars], np.float64).reshape(-1, 5).T)
    return ts_ms, ohlcv, np.array([bar[6] for bar in bars], np.uint8)
