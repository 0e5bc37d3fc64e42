"""The bars of one market and timeframe, from history to live, on the I/O thread."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import Any, Protocol

from ccxtbt.errors import TryLaterError
from ccxtbt.exchange.connection import Connection
from ccxtbt.exchange.facts import EXTRA_LINES, Extra
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
# A question about missing bars that failed, with all its retries, is asked again after this time.
ASK_AGAIN_S = 1.0


class State(Enum):
    """What a feed is told about its data; the names are backtrader's."""

    DELAYED = "DELAYED"
    LIVE = "LIVE"
    CONNBROKEN = "CONNBROKEN"
    NOTSUBSCRIBED = "NOTSUBSCRIBED"
    DISCONNECTED = "DISCONNECTED"


class Sink(Protocol):
    """Where a pipeline delivers; called on the I/O thread.

    Attributes
    ----------
    partial : bool
        Whether `forming` is to be told.
    """

    partial: bool

    def history(self, ts_ms: Any, ohlcv: Any) -> None:
        """Take the history, once, before anything else."""

    def failed(self, error: Exception) -> None:
        """The history cannot be had; nothing else comes."""

    def bars(self, bars: list[Bar]) -> None:
        """Take closed bars, later than all before."""

    def forming(self, bar: Bar) -> None:
        """Take what is known of the bar after all closed ones, while it forms."""

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
        First open not wanted; None: up to now, and on if there are streams.
    sink : Sink
        Where the bars go.
    params : dict, optional
        Extra parameters of ccxt's ``fetch_ohlcv``.
    extra : Extra, optional
        What is wanted beside prices and volume. A frame that has not got it closes no bar: REST is asked.
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
        extra: Extra | None = None,
    ) -> None:
        self._connection = connection
        self._streams = streams
        self._symbol = symbol
        self._timeframe = timeframe
        self._start_ms = start_ms
        self._end_ms = end_ms
        self._sink = sink
        self._params = params or {}
        self._extra = extra
        self._picked = [EXTRA_LINES.index(name) for name in extra.names] if extra is not None else []
        self._handover = Handover(timeframe)
        self._up = asyncio.Event()
        self._up_ms = 0
        self._news = asyncio.Event()
        self._live = False
        self._broken = False
        self._over = False
        self._refusal = ""

    async def run(self) -> None:
        """Deliver the history, then, if there are streams, live bars up to `end_ms` or until cancelled."""
        past = self._end_ms is not None and self._connection.clock.now_ms() >= self._end_ms
        try:
            if self._streams is None or past:
                columns = await self._history_only()
            else:
                columns = await self._history_before_live(self._streams)
        except asyncio.CancelledError:
            self._sink.failed(TryLaterError(f"The store stopped while {self._symbol} was loading: start it again."))
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the feed that waits for it must hear it
            self._sink.failed(error)
            return
        self._sink.history(*columns)
        if past:
            self._end(State.DISCONNECTED, "todate is past")
        elif self._streams is not None:
            await self._follow_on()

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
        if self._over:
            return
        if self._picked:
            closed = closed and bool(bar.extra)
            bar = bar._replace(extra=tuple(bar.extra[i] for i in self._picked) if bar.extra else ())
        self._handover.frame(bar, closed)
        if self._live:
            self._deliver()
            if not closed and self._sink.partial and bar.ts_ms == self._handover.expected_ms():
                self._sink.forming(bar)
        self._news.set()

    def refused(self, error: Exception) -> None:
        """Note that this market cannot be streamed: what is known is delivered, and nothing else comes."""
        self._refusal = str(error)
        self._live = False
        # Who waits for the stream need not wait longer.
        self.up()

    async def _history_only(self) -> Columns:
        end_ms = await self._settled(self._connection.clock.now_ms())
        if self._end_ms is not None:
            end_ms = min(end_ms, self._end_ms)
        if self._start_ms is None:
            columns = await self._page(None, None)
            keep = int(columns[0].searchsorted(end_ms))
            return columns[0][:keep], columns[1][:, :keep].copy()
        return await self._download(Span(self._start_ms, end_ms))

    async def _history_before_live(self, streams: Streams) -> Columns:
        wide = self._extra is not None and self._extra.streamed
        streams.subscribe(self._symbol, self._timeframe.text, self, wide=wide)
        await self._up.wait()
        end_ms = await self._settled(self._up_ms)
        columns = (
            empty(len(self._picked)) if self._start_ms is None else await self._download(Span(self._start_ms, end_ms))
        )
        self._handover.history(columns[0], end_ms)
        return columns

    async def _settled(self, at_ms: int) -> int:
        """Return the open of the bar that was forming at `at_ms`, once all before it are settled."""
        clock = self._connection.clock
        end_ms = floor_ms(self._timeframe, at_ms)
        await asyncio.sleep(clock.wait_s(end_ms + SETTLE_MS))
        return end_ms

    async def _follow_on(self) -> None:
        """Follow the stream; where REST fails, what is missing is asked for again instead of loading all anew."""
        while not self._over:
            try:
                await self._follow()
            except Exception as error:  # noqa: BLE001  # whatever it is, the bars after it are wanted
                logger.warning("%s %s: asking for missing bars failed: %r", self._symbol, self._timeframe, error)
                self._live = False
                self._broken = True
                self._sink.state(State.DELAYED, f"missing bars cannot be had now: {type(error).__name__}: {error}")
                await asyncio.sleep(ASK_AGAIN_S)

    def _end(self, state: State, reason: str) -> None:
        """Tell that nothing more comes."""
        self._over = True
        self._live = False
        self._sink.state(state, reason)

    async def _follow(self) -> None:
        while not self._over:
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
            if self._refusal:
                self._end(State.NOTSUBSCRIBED, self._refusal)
                return
            if self._end_ms is not None and (self._handover.expected_ms() or 0) >= self._end_ms:
                self._end(State.DISCONNECTED, "todate is reached")
                return
            if not self._live:
                self._live = True
                self._sink.state(State.LIVE, "")
            await self._wait_for_news()

    async def _wait_for_news(self) -> None:
        now_ms = self._connection.clock.now_ms()
        span = self._handover.overdue(now_ms, OVERDUE_MS) or self._unseen_end(now_ms)
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

    def _unseen_end(self, now_ms: int) -> Span | None:
        """Return the last span before `end_ms` if its time is over and no frame has told of its bars."""
        expected = self._handover.expected_ms()
        if self._end_ms is None or expected is None or now_ms < self._end_ms + OVERDUE_MS:
            return None
        return Span(expected, self._end_ms)

    async def _ask(self, span: Span) -> None:
        with in_lane(Lane.LIVE):
            ts_ms, ohlcv = await self._download(span)
        self._handover.rest(span, ts_ms, ohlcv)
        self._deliver()

    def _deliver(self) -> None:
        bars = self._handover.release()
        if self._end_ms is not None:
            bars = [bar for bar in bars if bar.ts_ms < self._end_ms]
        if bars:
            self._sink.bars(bars)
        for kept, came in self._handover.corrections:
            self._sink.correction(kept, came)
        self._handover.corrections.clear()

    async def _download(self, span: Span) -> Columns:
        limit = self._connection.facts.page_limit
        return await download(self._page, self._timeframe, span.start_ms, span.end_ms, limit, len(self._picked))

    async def _page(self, since_ms: int | None, limit: int | None) -> Columns:
        return await self._connection.fetch_page(
            self._symbol, self._timeframe.text, since_ms, limit, self._params, self._extra
        )
