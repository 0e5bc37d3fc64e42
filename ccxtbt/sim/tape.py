"""The public trades of a symbol, hour by hour: made up from a seed, or recorded."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from math import log, sqrt
from zlib import crc32

import numpy as np

from ccxtbt.sim.kline import HOUR_MS, MINUTE_MS
from ccxtbt.sim.spec import Spec

_MASK = 2**64 - 1

# The slow walk of the price: waves of 1, 2, 4, ... hours. The longest lasts 3.7 years, so a price stays within reason.
_OCTAVES = 16


def noise(key: int) -> float:
    """Return a number in [0, 1) that depends on `key` alone and looks random (the finaliser of splitmix64)."""
    key = (key + 0x9E3779B97F4A7C15) & _MASK
    key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((key ^ (key >> 31)) >> 11) * 2.0**-53


@dataclass(slots=True)
class Hour:
    """The trades of one hour as columns, in time order; ids follow `first_id` without a gap.

    Attributes
    ----------
    ts_ms, price_ticks, qty_steps : array of int64
        One entry a trade.
    buyer_is_maker : bytes
        1 where the seller took.
    """

    first_id: int
    ts_ms: array[int]
    price_ticks: array[int]
    qty_steps: array[int]
    buyer_is_maker: bytes


class SeededTape:
    """Trades made up hour by hour: hour `h` depends on the seed, the symbol, the start and `h` alone.

    Every hour has the same number of trades, so that ids are without a gap and known without making the hours
    before. Within an hour the price is a Brownian bridge between the ends that a slow walk gives it.

    Parameters
    ----------
    spec : Spec
        The symbol.
    seed : int
        Chooses the trades.
    start_ms : int
        Where the price is near `spec.price`, ms UTC.
    """

    def __init__(self, spec: Spec, seed: int, start_ms: int) -> None:
        self._spec = spec
        self._key = (seed & _MASK, crc32(spec.symbol.encode()))
        self._walk_key = (self._key[0] * 0x9E3779B1 + self._key[1]) << 40
        self._per_hour = max(1, round(spec.trades_per_minute * 60))
        self._volatility = spec.volatility * sqrt(60)
        self._walked: dict[int, float] = {}
        start, into_ms = divmod(start_ms, HOUR_MS)
        before, after = self._walk(start), self._walk(start + 1)
        self._log_start = log(float(spec.price / spec.tick_size)) - before - (after - before) * into_ms / HOUR_MS

    def next_hour(self, after: int) -> int | None:
        """Return the number of the first hour with trades after the hour `after`."""
        return after + 1

    def hour_of(self, trade_id: int) -> int | None:
        """Return the number of the hour that holds a trade."""
        return trade_id // self._per_hour

    def hour(self, number: int) -> Hour | None:
        """Return the trades of an hour, counted from the epoch."""
        spec, count = self._spec, self._per_hour
        rng = np.random.Generator(np.random.PCG64([*self._key, number & _MASK]))
        minutes = np.flatnonzero(rng.random(60) >= spec.quiet)
        if not minutes.size:
            minutes = np.array([number % 60])
        slots, moves, tail, side = rng.random((4, count + 1))

        at = np.sort(slots[:count]) * minutes.size
        minute = at.astype(np.int64)
        ts_ms = minutes[minute] * MINUTE_MS + ((at - minute) * MINUTE_MS).astype(np.int64)

        # Uniform steps in [-0.5, 0.5) have a variance of 1/12.
        path = np.cumsum(moves - 0.5)
        path -= path[-1] * np.arange(1, count + 2) / (count + 1)
        path *= self._volatility * sqrt(12 / count)
        before, after = self._walk(number), self._walk(number + 1)
        middle = np.exp(self._log_start + before + (after - before) / HOUR_MS * ts_ms + path[:count])
        sells = side[:count] < 0.5
        half_spread = 0.5 + middle * 1e-5
        price = np.maximum(np.rint(middle + np.where(sells, -half_spread, half_spread)), 1)
        # Trades of one millisecond are one taker's way through the book: a price that falls was sold into.
        swept = (ts_ms[1:] == ts_ms[:-1]) & (price[1:] != price[:-1])
        sells[1:] = np.where(swept, price[1:] < price[:-1], sells[1:])

        # A squared exponential has many small values, a long tail and a mean of 2.
        worth = spec.trade_value / 2 * np.log1p(-tail[:count]) ** 2
        qty = np.maximum(np.rint(worth / (price * float(spec.tick_size * spec.step_size))), 1)
        return Hour(
            number * count,
            _column(ts_ms + number * HOUR_MS),
            _column(price),
            _column(qty),
            sells.tobytes(),
        )

    def _walk(self, hour: int) -> float:
        """Return the logarithm of the slow walk at the beginning of an hour: value noise over waves of all lengths."""
        if hour not in self._walked:
            if len(self._walked) > 100:
                self._walked.clear()
            total = 0.0
            for octave in range(_OCTAVES):
                knot, into = divmod(hour, 1 << octave)
                key = self._walk_key + (octave << 34) + knot
                before, after = noise(key), noise(key + 1)
                total += (before + (after - before) * into / (1 << octave) - 0.5) * 2 ** (octave / 2)
            self._walked[hour] = total * self._volatility
        return self._walked[hour]


class RecordedTape:
    """Recorded trades, kept as they are.

    Parameters
    ----------
    spec : Spec
        The symbol, whose grid every trade must lie on.
    trades : iterable of (ts_ms, price, qty, buyer_is_maker)
        In time order; prices and quantities as text or Decimal.
    first_id : int
        Id of the first trade.

    Raises
    ------
    ValueError
        If there are no trades, one is off the grid, or times go backwards.
    """

    def __init__(
        self, spec: Spec, trades: Iterable[tuple[int, str | Decimal, str | Decimal, bool]], first_id: int
    ) -> None:
        self._hours: dict[int, Hour] = {}
        makers: dict[int, bytearray] = {}
        self.first_ms = last_ms = -1
        trade_id = first_id
        for trade_id, (ts_ms, price, qty, buyer_is_maker) in enumerate(trades, first_id):
            if ts_ms < last_ms:
                raise ValueError(f"{spec.symbol}: trade at {ts_ms} follows one at {last_ms}: sort the trades by time")
            number = ts_ms // HOUR_MS
            hour = self._hours.get(number)
            if hour is None:
                hour = self._hours[number] = Hour(trade_id, array("q"), array("q"), array("q"), b"")
                makers[number] = bytearray()
            hour.ts_ms.append(ts_ms)
            hour.price_ticks.append(_on_grid(spec, "price", price, spec.tick_size))
            hour.qty_steps.append(_on_grid(spec, "quantity", qty, spec.step_size))
            makers[number].append(bool(buyer_is_maker))
            if self.first_ms < 0:
                self.first_ms = ts_ms
            last_ms = ts_ms
        if not self._hours:
            raise ValueError(f"{spec.symbol}: there are no trades to replay: give at least one")
        for number, flags in makers.items():
            self._hours[number].buyer_is_maker = bytes(flags)
        self._numbers = list(self._hours)
        self._first_ids = [hour.first_id for hour in self._hours.values()]
        self._last_id = trade_id

    def next_hour(self, after: int) -> int | None:
        """Return the number of the first hour with trades after the hour `after`."""
        i = bisect_right(self._numbers, after)
        return self._numbers[i] if i < len(self._numbers) else None

    def hour_of(self, trade_id: int) -> int | None:
        """Return the number of the hour that holds a trade; the first hour for an older one, None for a later one."""
        if trade_id > self._last_id:
            return None
        return self._numbers[max(0, bisect_right(self._first_ids, trade_id) - 1)]

    def hour(self, number: int) -> Hour | None:
        """Return the trades of an hour, None if it has none."""
        return self._hours.get(number)


def cut(hour: Hour, after_ms: int, to_ms: int) -> tuple[int, int]:
    """Return the range of indices of an hour's trades later than `after_ms`, up to and with `to_ms`."""
    return bisect_right(hour.ts_ms, after_ms), bisect_right(hour.ts_ms, to_ms)


def _column(values: np.ndarray) -> array[int]:
    """Return numpy's values as whole numbers without numpy."""
    column = array("q")
    column.frombytes(values.astype(np.int64).tobytes())
    return column


def _on_grid(spec: Spec, name: str, value: str | Decimal, size: Decimal) -> int:
    """Return a recorded number in units of its grid."""
    units = Decimal(value) / size
    if units != (whole := int(units)) or whole <= 0:
        raise ValueError(f"{spec.symbol}: {name} {value} is no positive multiple of {size}: give the spec a finer grid")
    return whole
