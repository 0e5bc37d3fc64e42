"""The bars of one market and timeframe, from history to live, on the I/O thread."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import Any, Protocol

from ccxtbt.exchange.connection import Connection
from ccxtbt.exchange.limiter import Lane, in_lane
from ccxtbt.market.handover import Bar, Handover, Span
from ccxtbt.market.history import Columns, download, empty
from ccxtbt.market.streams import Streams
from ccxtbt.market.timeframes import Timeframe, floor_ms, next_ms

logger = logging.getLogger(__name__)

# REST may lag behind the stream just after a close: a bar is asked for only when it has been over for this long.
SETTLE_MS = 1_000
# A bar seen forming whose closing frame does not come within this time after its end is asked of REST.
OVERDUE_MS = 2_000


class State(Enum):
    """What a feed is told about its data; the names are backtrader's."""

    DELAYED = "DELAYED"
    LIVE = "LIVE"
    CONNBROKEN = "CONNBROKEN"
    NOTSUBSCRIBED = "NOTSUBSCRIBED"


class Sink(Protocol):
    """Where a pipeline delivers; called on the I/O thread."""

    def history(self, ts_ms: Any, ohlcv: Any) -> None:
        """Take the history, once, before anything else."""

    def failed(self, error: Exception) -> None:
        """The history cannot be had; nothing else comes."""

    def bars(self, bars: list[Bar]) -> None:
        """Take closed bars, later than all before."""

    def state(self, state: State, reason: str) -> None:
        """Take a change of the data's state."""

    def correction(self, kept: Bar, came: Bar) -> None:
        """Take note that a bar already delivered came again with other values."""


class Pipeline:
    """History, then live bars, of one market; after each break, what was missed.

    Parameters
    ----------
    connection : Connection
        The exchange.
    streams : Streams or None
        Live subscriptions; None: history only.
    symbol : str
        ccxt's unified symbol.
    timeframe : Timeframe
        Length of the bars.
    start_ms : int or None
        First open wanted; None: no history when live, one page of the latest bars otherwise.
    end_ms : int or None
        First open not wanted; None: up to now.
    sink : Sink
        Where the bars go.
    """

    def __init__(
        self,
        connection: Connection,
        streams: Streams | None,
        symbol: str,
        timeframe: Timeframe,
        start_ms: int | None,
        end_ms: int | None,
        sink: Sink,
        params: dict[str, Any] | None = None,
    ) -> None:
        self._connection = connection
        self._streams = streams
        self._symbol = symbol
        self._timeframe = timeframe
        self._start_ms = start_ms
        self._end_ms = end_ms
        self._sink = sink
        self._params = params or {}
        self._handover = Handover(timeframe)
        self._up = asyncio.Event()
        self._up_ms = 0
        self._news = asyncio.Event()
        self._live = False
        self._broken = False

    async def run(self) -> None:
        """Deliver the history, then, if there are streams, live bars until cancelled."""
        try:
            columns = await (
                self._history_only() if self._streams is None else self._history_before_live(self._streams)
            )
        except Exception as error:  # noqa: BLE001  # whatever it is, the feed that waits for it must hear it
            self._sink.failed(error)
            return
        self._sink.history(*columns)
        if self._streams is not None:
            await self._follow()

    def up(self) -> None:
        """Note that frames come from now on."""
        self._up_ms = self._connection.clock.now_ms()
        self._up.set()
        self._news.set()

    def down(self, reason: str) -> None:
        """Note that frames may have been lost from now on."""
        self._up.clear()
        self._live = False
        self._broken = True
        self._sink.state(State.CONNBROKEN, reason)
        self._news.set()

    def frame(self, bar: Bar, closed: bool) -> None:
        """Take a bar from the stream."""
        self._handover.frame(bar, closed)
        if self._live:
            self._deliver()
        self._news.set()

    def refused(self, error: Exception) -> None:
        """Pass on that this market cannot be streamed."""
        self._sink.state(State.NOTSUBSCRIBED, str(error))

    async def _history_only(self) -> Columns:
        end_ms = await self._settled(self._connection.clock.now_ms())
        if self._end_ms is not None:
            end_ms = min(end_ms, self._end_ms)
        if self._start_ms is None:
            columns = await self._connection.fetch_page(self._symbol, self._timeframe.text, None, None, self._params)
            keep = int(columns[0].searchsorted(end_ms))
            return columns[0][:keep], columns[1][:, :keep].copy()
        return await self._download(Span(self._start_ms, end_ms))

    async def _history_before_live(self, streams: Streams) -> Columns:
        streams.subscribe(self._symbol, self._timeframe.text, self)
        await self._up.wait()
        end_ms = await self._settled(self._up_ms)
        columns = empty() if self._start_ms is None else await self._download(Span(self._start_ms, end_ms))
        self._handover.history(columns[0], end_ms)
        return columns

    async def _settled(self, at_ms: int) -> int:
        """Return the open of the bar that was forming at `at_ms`, once all before it are settled."""
        clock = self._connection.clock
        end_ms = floor_ms(self._timeframe, at_ms)
        await asyncio.sleep(clock.wait_s(end_ms + SETTLE_MS))
        return end_ms

    async def _follow(self) -> None:
        while True:
            self._news.clear()
            if self._broken:
                self._broken = False
                await self._up.wait()
                self._sink.state(State.DELAYED, "asking for the bars missed meanwhile")
                end_ms = await self._settled(self._up_ms)
                expected = self._handover.expected_ms()
                if expected is not None and expected < end_ms:
                    await self._ask(Span(expected, end_ms))
                continue
            self._deliver()
            span = self._handover.missing()
            if span is not None:
                await asyncio.sleep(self._connection.clock.wait_s(span.end_ms + SETTLE_MS))
                # The closing frames may have come while this waited: ask only what is still missing.
                span = self._handover.missing()
                if span is not None:
                    await self._ask(span)
                continue
            if not self._live:
                self._live = True
                self._sink.state(State.LIVE, "")
            await self._wait_for_news()

    async def _wait_for_news(self) -> None:
        now_ms = self._connection.clock.now_ms()
        span = self._handover.overdue(now_ms, OVERDUE_MS)
        if span is not None:
            logger.info(
                "%s %s: no closing frame came for the bars of %s; asking REST.", self._symbol, self._timeframe, span
            )
            await self._ask(span)
            return
        until_ms = next_ms(self._timeframe, now_ms) + OVERDUE_MS
        try:
            async with asyncio.timeout(self._connection.clock.wait_s(until_ms) + 0.01):
                await self._news.wait()
        except TimeoutError:
            return

    async def _ask(self, span: Span) -> None:
        with in_lane(Lane.LIVE):
            ts_ms, ohlcv = await self._download(span)
        self._handover.rest(span, ts_ms, ohlcv)
        self._deliver()

    def _deliver(self) -> None:
        bars = self._handover.release()
        if bars:
            self._sink.bars(bars)
        for kept, came in self._handover.corrections:
            self._sink.correction(kept, came)
        self._handover.corrections.clear()

    async def _download(self, span: Span) -> Columns:
        async def fetch_page(since_ms: int, limit: int) -> Columns:
            return await self._connection.fetch_page(self._symbol, self._timeframe.text, since_ms, limit, self._params)

        return await download(
            fetch_page, self._timeframe, span.start_ms, span.end_ms, self._connection.facts.page_limit
        )
