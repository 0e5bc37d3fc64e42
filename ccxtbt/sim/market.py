"""A symbol's public side: trades that are seeded or recorded, and the bars, depth and ticker that follow from them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, cast

import orjson

from ccxtbt.sim.kline import DAY_MS, HOUR_MS, Bar
from ccxtbt.sim.pages import Pages
from ccxtbt.sim.spec import E8, Spec, e8_text
from ccxtbt.sim.tape import Hour, RecordedTape, SeededTape, noise

QuietBars = Literal["skip", "flat"]

MAX_LEVELS = 5_000
"""Depth of the synthetic book, as deep as Binance shows."""

# Hours of trades kept at hand: the one of now, its neighbours, and those of a request or two.
_KEEP_HOURS = 6


@dataclass(slots=True)
class Trade:
    """A public trade in whole ticks and steps; `buyer_is_maker` is Binance's ``m``."""

    id: int
    ts_ms: int
    price_ticks: int
    qty_steps: int
    buyer_is_maker: bool


class Market:
    """Trades of one symbol: a pure function of (seed, symbol, start, time), whatever the order or size of calls.

    Two markets made alike agree for ever, so a judge in another thread or process makes one of its own.

    Parameters
    ----------
    spec : Spec
        The symbol.
    seed : int
        Chooses the trades.
    start_ms : int
        Where "live" begins, ms UTC: `advance` yields what comes after it. The price is near `spec.price` there.
    history_ms : int
        How much history lies before it. It begins on a full hour, and nothing is older.
    quiet_bars : {'skip', 'flat'}
        Whether a bar without trades is absent, or a flat row at the last close with volume 0.

    Attributes
    ----------
    last : Trade or None
        The last trade that has happened by `advance`; None only before the first trade of a replay.
    history_start_ms : int
        No trade and no bar is older.
    """

    def __init__(
        self, spec: Spec, seed: int, start_ms: int, history_ms: int = 0, quiet_bars: QuietBars = "skip"
    ) -> None:
        self._set_up(spec, SeededTape(spec, seed, start_ms), start_ms, start_ms - history_ms, quiet_bars)

    def _set_up(
        self,
        spec: Spec,
        tape: SeededTape | RecordedTape,
        start_ms: int,
        history_start_ms: int,
        quiet_bars: QuietBars,
    ) -> None:
        """Stand at `start_ms` on a tape."""
        self.spec = spec
        self.quiet_bars = quiet_bars
        self.start_ms = start_ms
        self.history_start_ms = history_start_ms - history_start_ms % HOUR_MS
        self._tape = tape
        self._hours: dict[int, Hour | None] = {}
        self._pages = Pages(spec, self._hour, self.history_start_ms, flat=quiet_bars == "flat")
        self._tick_e8, self._step_e8 = spec.tick_e8, spec.step_e8
        past = self.trades(limit=1, now_ms=start_ms)
        self.last: Trade | None = past[0] if past else None
        self._number = start_ms // HOUR_MS
        self._live = self._hour(self._number)
        self._next = bisect_right(self._live.ts_ms, start_ms) if self._live else 0

    def price(self, ticks: int) -> Decimal:
        """Return a price in ticks as a Decimal."""
        return ticks * self.spec.tick_size

    def qty(self, steps: int) -> Decimal:
        """Return a quantity in steps as a Decimal."""
        return steps * self.spec.step_size

    def price_text(self, ticks: int) -> str:
        """Return a price in ticks as Binance writes it, with eight decimals."""
        return e8_text(ticks * self._tick_e8)

    def qty_text(self, steps: int) -> str:
        """Return a quantity in steps as Binance writes it, with eight decimals."""
        return e8_text(steps * self._step_e8)

    def quote_text(self, ticks_steps: int) -> str:
        """Return a worth in ticks times steps as text with eight decimals, further ones cut off."""
        return e8_text(ticks_steps * self._tick_e8 * self._step_e8 // E8)

    def next_ms(self) -> int | None:
        """Return when the next trade after `last` happens, None if a replay is over."""
        live = self._live
        while live is None or self._next >= len(live.ts_ms):
            number = self._tape.next_hour(self._number)
            if number is None:
                return None
            self._number = number
            live = self._live = self._hour(number)
            self._next = 0
        return live.ts_ms[self._next]

    def advance(self, to_ms: int) -> list[Trade]:
        """Return the trades after those already returned, up to and with `to_ms`; the last becomes `last`."""
        happened = []
        while (ts_ms := self.next_ms()) is not None and ts_ms <= to_ms:
            happened.append(self.step())
        return happened

    def step(self) -> Trade:
        """Let the next trade happen and return it; only where `next_ms` is not None."""
        self.last = trade = _trade(cast("Hour", self._live), self._next)
        self._next += 1
        return trade

    def klines(
        self,
        interval: str,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 500,
        *,
        now_ms: int,
    ) -> list[list[Any]]:
        """Return rows as Binance's ``/api/v3/klines`` does, as of `now_ms`, with the forming one.

        Parameters
        ----------
        interval : str
            One of `ccxtbt.sim.kline.INTERVALS`.
        start_ms, end_ms : int, optional
            Earliest and latest open time. With a start, the first `limit` bars from there; without, the last ones.
        limit : int
            Most rows.
        now_ms : int
            The exchange's time: nothing later is seen.

        Returns
        -------
        list of list
            ``[open_ms, o, h, l, c, v, close_ms, quote_volume, n_trades, taker_base, taker_quote, '0']``, numbers with
            decimals as text of eight decimals, `close_ms` the bar's last ms.
        """
        return cast("list[list[Any]]", orjson.loads(self.klines_json(interval, start_ms, end_ms, limit, now_ms=now_ms)))

    def klines_json(
        self,
        interval: str,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 500,
        *,
        now_ms: int,
    ) -> bytes:
        """Return what `klines` returns, as JSON: closed rows are written once and kept, so a page costs a join."""
        return self._pages.page(interval, start_ms, end_ms, limit, now_ms)

    def trades(
        self,
        *,
        from_id: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 500,
        now_ms: int,
    ) -> list[Trade]:
        """Return trades that have happened by `now_ms`, oldest first.

        With `from_id` or `start_ms` the first `limit` from there, else the last ones (up to `end_ms`).
        """
        to_ms = now_ms if end_ms is None else min(end_ms, now_ms)
        if from_id is not None:
            number = self._tape.hour_of(from_id)
            found = [] if number is None else self._forward(number, from_id, self.history_start_ms, to_ms, limit)
        elif start_ms is not None:
            found = self._forward(start_ms // HOUR_MS, 0, start_ms, to_ms, limit)
        else:
            found = self._backward(to_ms, limit)
        return found

    def bar(self, interval: str, now_ms: int) -> Bar | None:
        """Return the bar that holds `now_ms`, of the trades up to then; None if it has none yet."""
        return self._pages.bar(interval, now_ms)

    def close_before(self, ms: int) -> int | None:
        """Return the price in ticks of the last trade before `ms`, None if there is none."""
        return self._pages.close_before(ms)

    def row(self, bar: Bar) -> list[Any]:
        """Return a bar as a row of `klines`."""
        return cast("list[Any]", orjson.loads(self._pages.encode(bar)))

    def agg_trades(
        self,
        *,
        from_id: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 500,
        now_ms: int,
    ) -> list[Trade]:
        """Return aggregate trades: here each holds one trade and has its id (``a == f == l``)."""
        return self.trades(from_id=from_id, start_ms=start_ms, end_ms=end_ms, limit=limit, now_ms=now_ms)

    def levels(self, side: Literal["bid", "ask"]) -> Iterator[tuple[int, int]]:
        """Yield (price_ticks, qty_steps) of the synthetic depth around `last`, best first, at most 5,000 levels.

        It changes with every trade and is a pure function of it. `Exchange.book` adds the accounts' own orders.
        """
        last = self.last
        if last is None:
            return
        spread = max(1, round(last.price_ticks * 2e-5))
        gap = max(1, spread // 2)
        worth = self.spec.trade_value / float(self.spec.tick_size * self.spec.step_size)
        if side == "bid":
            best, gap = last.price_ticks - (0 if last.buyer_is_maker else spread), -gap
        else:
            best = last.price_ticks + (spread if last.buyer_is_maker else 0)
        key = (last.id << 14) + (0 if side == "bid" else MAX_LEVELS)
        for level in range(MAX_LEVELS):
            price_ticks = best + level * gap
            if price_ticks <= 0:
                return
            share = (0.5 + 8 * noise(key + level)) * (1 + level / 20)
            yield price_ticks, max(1, round(worth * share / price_ticks))

    def ticker(self, now_ms: int) -> dict[str, Any]:
        """Return the rolling 24-hour statistics as of `now_ms`.

        Returns
        -------
        dict
            Keys as in Binance's ``/api/v3/ticker/24hr`` without the book's: symbol, priceChange, priceChangePercent,
            weightedAvgPrice, prevClosePrice, lastPrice, lastQty, openPrice, highPrice, lowPrice, volume, quoteVolume
            (text); openTime, closeTime, firstId, lastId, count (int).
        """
        open_ms = now_ms - DAY_MS
        day = self._pages.span(open_ms, now_ms) or Bar(open_ms + 1, now_ms + 1, 0)
        before = self.close_before(open_ms + 1) or 0
        last = self.trades(limit=1, now_ms=now_ms)
        change = self.price(day.close - day.open)
        percent = Decimal(100 * (day.close - day.open)) / day.open if day.open else Decimal(0)
        average = day.quote * self.spec.tick_size / day.volume if day.volume else Decimal(0)
        return {
            "symbol": self.spec.symbol,
            "priceChange": f"{change:.8f}",
            "priceChangePercent": f"{percent:.3f}",
            "weightedAvgPrice": f"{average:.8f}",
            "prevClosePrice": self.price_text(before),
            "lastPrice": self.price_text(last[0].price_ticks if last else 0),
            "lastQty": self.qty_text(last[0].qty_steps if last else 0),
            "openPrice": self.price_text(day.open),
            "highPrice": self.price_text(day.high),
            "lowPrice": self.price_text(day.low),
            "volume": self.qty_text(day.volume),
            "quoteVolume": self.quote_text(day.quote),
            "openTime": open_ms,
            "closeTime": now_ms,
            "firstId": day.first_id,
            "lastId": day.last_id,
            "count": day.n_trades,
        }

    def _hour(self, number: int) -> Hour | None:
        """Return the trades of an hour, future ones too; None for an hour without any or before the history."""
        if number * HOUR_MS < self.history_start_ms:
            return None
        hour = self._hours.get(number)
        if hour is None:
            hour = self._hours[number] = self._tape.hour(number)
            if len(self._hours) > _KEEP_HOURS:
                # A list, since another thread may be reading: iterating the dict itself would fail.
                self._hours.pop(next(iter(list(self._hours))), None)
        return hour

    def _forward(self, number: int | None, from_id: int, from_ms: int, to_ms: int, limit: int) -> list[Trade]:
        """Return the first `limit` trades from an id and a time on, beginning with the hour `number`."""
        found: list[Trade] = []
        first_number = self.history_start_ms // HOUR_MS
        number = first_number if number is None else max(number, first_number)
        while number is not None and number * HOUR_MS <= to_ms and len(found) < limit:
            hour = self._hour(number)
            if hour is not None:
                first = max(from_id - hour.first_id, bisect_left(hour.ts_ms, from_ms))
                stop = min(bisect_right(hour.ts_ms, to_ms), first + limit - len(found))
                found += [_trade(hour, i) for i in range(first, stop)]
            number = self._tape.next_hour(number)
        return found

    def _backward(self, to_ms: int, limit: int) -> list[Trade]:
        """Return the last `limit` trades up to `to_ms`."""
        found: list[Trade] = []
        number = to_ms // HOUR_MS
        while number * HOUR_MS >= self.history_start_ms and len(found) < limit:
            hour = self._hour(number)
            if hour is not None:
                stop = bisect_right(hour.ts_ms, to_ms)
                first = max(0, stop - limit + len(found))
                found = [_trade(hour, i) for i in range(first, stop)] + found
            number -= 1
        return found


class Replay(Market):
    """The same over recorded trades, with their exact times, prices and quantities.

    Parameters
    ----------
    spec : Spec
        The symbol; `Spec.of_trades` reads the grid off the trades.
    trades : iterable of (ts_ms, price, qty, buyer_is_maker)
        In time order; prices and quantities as text or Decimal.
    start_ms : int, optional
        Trades up to and with it are history; the first trade's time if not given.
    quiet_bars : {'skip', 'flat'}
        As in `Market`.
    first_id : int
        Id of the first trade; the others follow it without a gap.

    Raises
    ------
    ValueError
        If a price or quantity does not lie on the symbol's grid, or times go backwards.
    """

    def __init__(
        self,
        spec: Spec,
        trades: Iterable[tuple[int, str | Decimal, str | Decimal, bool]],
        start_ms: int | None = None,
        quiet_bars: QuietBars = "skip",
        first_id: int = 1,
    ) -> None:
        tape = RecordedTape(spec, trades, first_id)
        begin_ms = tape.first_ms if start_ms is None else start_ms
        self._set_up(spec, tape, begin_ms, tape.first_ms, quiet_bars)


def _trade(hour: Hour, i: int) -> Trade:
    """Return one trade of an hour."""
    return Trade(hour.first_id + i, hour.ts_ms[i], hour.price_ticks[i], hour.qty_steps[i], bool(hour.buyer_is_maker[i]))
