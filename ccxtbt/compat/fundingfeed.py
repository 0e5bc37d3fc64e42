"""CCXTFeedWithFunding: bars of a perpetual contract with its funding beside them, by cloudQuant's name and lines."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

import numpy as np

from ccxtbt._lines import num_from_ms
from ccxtbt.bulkfeed import BulkFeed
from ccxtbt.ccxtfeed import CCXTFeed
from ccxtbt.errors import CCXTBTError, NotOfferedError
from ccxtbt.exchange.connection import as_ours

logger = logging.getLogger(__name__)

NAMES = ("funding_rate", "mark_price", "next_funding_time", "predicted_funding_rate")
# How often the rates are asked for in a live run; how many past ones are asked for at once.
POLL_S = 5.0
PAGE = 500
# Funding before the first bar is looked for this far back: no exchange pays less often.
BEFORE_MS = 86_400_000
NAN = float("nan")


class WebSocketRequiredError(CCXTBTError):
    """Accepted in `except` clauses of old scripts; never raised, since nothing here depends on a stream of funding."""


class CCXTFeedWithFunding(CCXTFeed):
    """A `CCXTFeed` of a perpetual contract, with four more lines; arguments as there.

    In the history a bar has what was known when it closed: the rate that was paid last and when the next was due, but
    no mark price. A live bar has what the exchange had said last when it came; that is asked for every 5 s. NaN is what
    nobody told.

    Parameters
    ----------
    include_funding : bool
        False: the four lines stay NaN, and nothing is asked for.
    funding_history_days : int
        Accepted from old scripts: the past rates are loaded for as long as the bars are.

    Attributes
    ----------
    lines.funding_rate
        Share of the position's value that is paid at the next funding (in the history: was paid at the last).
    lines.mark_price
        The exchange's mark price.
    lines.next_funding_time
        When funding is paid next, as backtrader's number of a datetime in UTC.
    lines.predicted_funding_rate
        The rate of the funding after that, where the exchange tells it.

    Raises
    ------
    NotOfferedError
        At the start of a run: the exchange tells no funding rates.
    """

    lines: Any = NAMES
    params: Any = (("include_funding", True), ("funding_history_days", 3), ("use_websocket", True))

    def __init__(self) -> None:
        super().__init__()
        self._now: tuple[float, ...] = (NAN,) * 4
        self._paid_ms = np.empty(0, np.int64)
        self._paid = np.empty(0)

    def start(self) -> None:
        """Get the history, and the rates that were paid meanwhile."""
        super().start()
        self._now = (NAN,) * 4
        self._paid_ms, self._paid = np.empty(0, np.int64), np.empty(0)
        if not self.p.include_funding:
            return
        connection = self.store.connection
        if not connection.rest.has.get("fetchFundingRate"):
            raise NotOfferedError(f"{self.store.exchange_id} tells no funding rates through ccxt: take a CCXTFeed.")
        ts_ms, _ = self._history
        if len(ts_ms) and connection.rest.has.get("fetchFundingRateHistory"):
            try:
                self._paid_ms, self._paid = connection.call(self._past, int(ts_ms[0]), int(ts_ms[-1]))
            except Exception as error:
                raise as_ours(error, f"Loading the funding rates of {self.p.dataname}") from error
        if self.islive():
            connection.spawn(self._follow, self._sink, name=f"funding of {self.p.dataname}")

    async def _past(self, first_ms: int, last_ms: int) -> tuple[Any, Any]:
        """Return when funding was paid, in ms UTC, and at which rates: from before the first bar to after the last."""
        connection = self.store.connection
        ask = connection.retrying(connection.rest.fetch_funding_rate_history)
        paid: dict[int, float] = {}
        since_ms = first_ms - BEFORE_MS
        while True:
            rows = await ask(self.p.dataname, since_ms, PAGE)
            fresh = {int(row["timestamp"]): float(row["fundingRate"]) for row in rows}
            fresh = {at_ms: rate for at_ms, rate in fresh.items() if at_ms not in paid}
            paid |= fresh
            if not fresh or max(fresh) > last_ms:
                break
            since_ms = max(fresh) + 1
        order = sorted(paid)
        return np.array(order, np.int64), np.array([paid[at_ms] for at_ms in order])

    async def _follow(self, sink: Any) -> None:
        """Ask for the rates until this run is over; on the I/O thread."""
        connection = self.store.connection
        ask = connection.retrying(connection.rest.fetch_funding_rate)
        while self._sink is sink:
            told = await ask(self.p.dataname)
            next_ms = told.get("fundingTimestamp") or told.get("nextFundingTimestamp")
            numbers = (told.get("fundingRate"), told.get("markPrice"), None, told.get("nextFundingRate"))
            rate, mark, _, predicted = (NAN if number is None else float(number) for number in numbers)
            self._now = rate, mark, num_from_ms(int(next_ms)) if next_ms else NAN, predicted
            await asyncio.sleep(POLL_S / connection.clock.rate)

    # The lines

    def preload(self) -> None:
        """Load all bars, and what was known of their funding."""
        BulkFeed.preload(self)
        stamps = np.array(self.lines.datetime.array)
        for name, values in zip(NAMES, self._known(np.round((stamps - 719_163) * 86_400_000)), strict=True):
            line = getattr(self.lines, name)
            line.array[: len(values)] = type(line.array)("d", values)

    def _load(self) -> Any:
        loaded = BulkFeed._load(self)
        if loaded:
            live = len(self) > len(self._history[0])
            stamp_ms = np.array([round((self.lines.datetime[0] - 719_163) * 86_400_000)])
            values = self._now if live else [column[0] for column in self._known(stamp_ms)]
            for name, value in zip(NAMES, values, strict=True):
                getattr(self.lines, name)[0] = value
        return loaded

    def _known(self, stamps_ms: Any) -> list[Any]:
        """Return the values of the lines for bars of the history that close at these times."""
        nothing = np.full(len(stamps_ms), math.nan)
        if not len(self._paid_ms):
            return [nothing] * 4
        last = self._paid_ms.searchsorted(stamps_ms, "right") - 1
        rates = np.where(last >= 0, self._paid[last], math.nan)
        days = np.append(self._paid_ms / 86_400_000 + 719_163, math.nan)
        return [rates, nothing, days[last + 1], nothing]
