"""Funding of perpetual contracts beside their bars: what was known of it when each bar closed."""

from __future__ import annotations

import asyncio
import logging
import math
from bisect import bisect_left, bisect_right
from collections import deque
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccxtbt.errors import NotOfferedError
from ccxtbt.exchange.connection import Connection
from ccxtbt.exchange.limiter import Lane, in_lane
from ccxtbt.market.history import History
from ccxtbt.market.timeframes import Timeframe, close_ms, next_ms
from ccxtbt.market.watches import Watches

logger = logging.getLogger(__name__)

# The lines, in the order of the rows and tuples here.
FUNDING_LINES = ("funding_rate", "mark_price", "next_funding_time", "predicted_funding_rate")

DAY_MS = 86_400_000
# A mark price that was seen longer ago than this at a bar's close says nothing of that moment.
STALE_MS = 60_000
# So long before a close the exchange is asked, where it streams no mark price.
EARLY_MS = 500
# The least time between two questions: where nothing is streamed, and where the mark price is.
PAUSE_MS = 1_000
STREAMED_PAUSE_MS = 60_000
# The longest time.
LONGEST_PAUSE_MS = 300_000
REMEMBERED = 1_000
NAN = math.nan


class Forecast(NamedTuple):
    """What the exchange said at a time: this rate will be paid then."""

    at_ms: int
    rate: float
    due_ms: int


class Ledger:
    """Payments, forecasts and mark prices by their times. Pure: what is known at a time is what was told up to it."""

    def __init__(self) -> None:
        self._paid_ms: list[int] = []
        self._paid: list[float] = []
        self._marks: deque[tuple[int, float]] = deque(maxlen=REMEMBERED)
        self._forecasts: deque[Forecast] = deque(maxlen=REMEMBERED)

    def pay(self, at_ms: int, rate: float) -> None:
        """Note a payment; one that is told again counts as it is told last."""
        place = bisect_left(self._paid_ms, at_ms)
        if place < len(self._paid_ms) and self._paid_ms[place] == at_ms:
            self._paid[place] = rate
        else:
            self._paid_ms.insert(place, at_ms)
            self._paid.insert(place, rate)

    def mark(self, at_ms: int, price: float) -> None:
        """Note a mark price."""
        if not self._marks or at_ms >= self._marks[-1][0]:
            self._marks.append((at_ms, price))

    def forecast(self, forecast: Forecast) -> int | None:
        """Note a forecast; return when the one before it fell due, if it has: its rate counts as paid until told."""
        last = self._forecasts[-1] if self._forecasts else None
        if last is not None and forecast.at_ms < last.at_ms:
            return None
        self._forecasts.append(forecast)
        if last is None or forecast.due_ms <= last.due_ms:
            return None
        if last.due_ms not in self._paid_ms:
            self.pay(last.due_ms, last.rate)
        return last.due_ms

    def at(self, now_ms: int) -> tuple[float, float, float, float]:
        """Return the values of `FUNDING_LINES` as they were known at a time; NaN for what was not."""
        mark = next((price for at_ms, price in reversed(self._marks) if at_ms <= now_ms), NAN)
        if not any(now_ms - STALE_MS <= at_ms <= now_ms for at_ms, _ in reversed(self._marks)):
            mark = NAN
        told = next((each for each in reversed(self._forecasts) if each.at_ms <= now_ms), None)
        place = bisect_right(self._paid_ms, now_ms)
        paid_ms, rate = (self._paid_ms[place - 1], self._paid[place - 1]) if place else (None, NAN)
        if told is None:
            return rate, mark, self._due(place), NAN
        if told.due_ms > now_ms:
            return rate, mark, float(told.due_ms), told.rate
        if paid_ms is None or told.due_ms > paid_ms:
            # It has fallen due, and nobody has said otherwise yet.
            rate = told.rate
        return rate, mark, self._due(place), NAN

    def paid_columns(self, closes_ms: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the rate last paid up to each time, and the time of the payment after it; NaN where not known."""
        place = np.searchsorted(np.array(self._paid_ms, np.int64), closes_ms, "right")
        rates = np.array([NAN, *self._paid])[place]
        due = self._forecasts[-1].due_ms if self._forecasts else NAN
        later = np.array([*self._paid_ms, due], np.float64)[place]
        later[later <= closes_ms] = NAN
        return rates, later

    def _due(self, place: int) -> float:
        return float(self._paid_ms[place]) if place < len(self._paid_ms) else NAN


def check_funding(connection: Connection, symbol: str) -> None:
    """Raise unless the exchange tells the funding of a market.

    Raises
    ------
    NotOfferedError
        It is no perpetual contract, or ccxt cannot ask for its funding there.
    """
    exchange_id, rest = connection.account.exchange_id, connection.rest
    if not connection.markets[symbol].get("swap"):
        raise NotOfferedError(
            f"{symbol} of {exchange_id} is no perpetual contract and has no funding: use CCXTFeed, or a contract such "
            "as 'BTC/USDT:USDT'."
        )
    missing = [name for name in ("fetchFundingRate", "fetchFundingRateHistory") if not rest.has.get(name)]
    if missing:
        raise NotOfferedError(f"ccxt cannot ask {exchange_id} for funding ({', '.join(missing)}): use CCXTFeed.")


class Funding:
    """The funding of one contract, on the I/O thread: its past, and what comes while bars are live.

    Parameters
    ----------
    connection : Connection
        The exchange.
    watches : Watches or None
        Where mark prices are streamed; None: history only.
    symbol : str
        ccxt's unified symbol.
    timeframe : Timeframe
        Length of the bars.
    """

    def __init__(self, connection: Connection, watches: Watches | None, symbol: str, timeframe: Timeframe) -> None:
        self.ledger = Ledger()
        self._connection = connection
        self._watches = watches
        self._symbol = symbol
        self._timeframe = timeframe
        self._since_ms: int | None = None
        self._streamed = False

    async def begin(self, start_ms: int | None) -> None:
        """Learn the payments from the last one before `start_ms` on, and what comes next; follow it from then on."""
        now_ms = self._connection.clock.now_ms()
        await self._ask()
        await self._learn(now_ms if start_ms is None else start_ms)
        if self._watches is not None:
            self._connection.spawn(self._follow, name=f"funding of {self._symbol}")

    def at(self, open_ms: int) -> tuple[float, ...]:
        """Return the values of `FUNDING_LINES` as they were known when the bar that opens at `open_ms` closed."""
        return self.ledger.at(close_ms(self._timeframe, open_ms))

    def now(self) -> tuple[float, ...]:
        """Return the values of `FUNDING_LINES` as they are known now."""
        return self.ledger.at(self._connection.clock.now_ms())

    async def columns(self, ts_ms: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the values of `FUNDING_LINES` at the closes of past bars.

        Parameters
        ----------
        ts_ms : int64[n]
            Opens, increasing.

        Returns
        -------
        float64[4, n]
            Mark prices are the closes of the exchange's own bars of them; forecasts are nowhere kept, and NaN.
        """
        rows = np.full((len(FUNDING_LINES), len(ts_ms)), NAN)
        if not len(ts_ms):
            return rows
        closes_ms = np.array([close_ms(self._timeframe, open_ms) for open_ms in ts_ms.tolist()], np.int64)
        if self._since_ms is None or ts_ms[0] < self._since_ms:
            await self._learn(int(ts_ms[0]))
        rows[0], rows[2] = self.ledger.paid_columns(closes_ms)
        if math.isnan(rows[0, 0]):
            logger.warning("%s: the exchange tells no funding as old as the first bar.", self._symbol)
        if self._connection.rest.has.get("fetchMarkOHLCV"):
            marks = History(self._connection, self._symbol, self._timeframe, {"price": "mark"})
            marks_ms, ohlcv = await marks.get(int(ts_ms[0]), int(ts_ms[-1]) + 1)
            if len(marks_ms):
                at = np.minimum(np.searchsorted(marks_ms, ts_ms), len(marks_ms) - 1)
                found = marks_ms[at] == ts_ms
                rows[1, found] = ohlcv[3, at[found]]
        return rows

    # What a watch calls

    def up(self) -> None:
        """Mark prices are streamed from now on."""
        self._streamed = True

    def down(self, reason: str) -> None:
        """They are not, for a while: they are asked for."""
        self._streamed = False

    def refused(self, error: Exception) -> None:
        """They never will be."""
        self._streamed = False
        logger.warning("%s: its mark price is not streamed (%s), and asked for at each close.", self._symbol, error)

    def data(self, structure: Any) -> None:
        """Take ccxt's ticker of a mark price, or its funding rate."""
        self._take(structure)

    # Questions

    async def _learn(self, start_ms: int) -> None:
        """Ask for payments, from a day before `start_ms` on: none is further apart."""
        ask = self._connection.retrying(self._connection.rest.fetch_funding_rate_history)
        since_ms = self._since_ms = start_ms - DAY_MS
        while True:
            rows = await ask(self._symbol, since_ms)
            for row in rows:
                self.ledger.pay(int(row["timestamp"]), float(row["fundingRate"]))
            newest_ms = max((int(row["timestamp"]) for row in rows), default=since_ms - 1)
            if newest_ms < since_ms:
                return
            since_ms = newest_ms + 1

    async def _ask(self) -> None:
        due_ms = self._take(await self._connection.retrying(self._connection.rest.fetch_funding_rate)(self._symbol))
        if due_ms is not None:
            # What was paid may differ from what was said last.
            rows = await self._connection.retrying(self._connection.rest.fetch_funding_rate_history)(
                self._symbol, due_ms
            )
            for row in rows:
                self.ledger.pay(int(row["timestamp"]), float(row["fundingRate"]))

    def _take(self, told: Any) -> int | None:
        at_ms = int(told.get("timestamp") or self._connection.clock.now_ms())
        if told.get("markPrice") is not None:
            self.ledger.mark(at_ms, float(told["markPrice"]))
        due_ms = told.get("fundingTimestamp") or told.get("nextFundingTimestamp")
        if told.get("fundingRate") is None or due_ms is None:
            return None
        return self.ledger.forecast(Forecast(at_ms, float(told["fundingRate"]), int(due_ms)))

    async def _follow(self) -> None:
        """Ask again and again, the more seldom where mark prices are streamed."""
        has, clock = self._connection.rest.has, self._connection.clock
        if self._watches is not None:
            for kind, ability in (("funding", "watchFundingRate"), ("mark", "watchMarkPrice")):
                if has.get(ability):
                    self._watches.subscribe(kind, self._symbol, self)
                    break
        while True:
            await asyncio.sleep(clock.wait_s(self._next_ask_ms(clock.now_ms())))
            try:
                with in_lane(Lane.LIVE):
                    await self._ask()
            except Exception as error:  # noqa: BLE001  # whatever it is, the bars after it want their values
                logger.warning("%s: asking for its funding failed: %r", self._symbol, error)

    def _next_ask_ms(self, now_ms: int) -> int:
        """Return when to ask next: just before a bar closes, neither too often nor too seldom."""
        soonest_ms = now_ms + (STREAMED_PAUSE_MS if self._streamed else PAUSE_MS)
        before_ms = next_ms(self._timeframe, soonest_ms + EARLY_MS) - EARLY_MS
        return min(before_ms, now_ms + LONGEST_PAUSE_MS)
