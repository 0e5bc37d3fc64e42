"""ThreadedDataFeed: the bars of a `CCXTFeed` in a queue, for code without a cerebro."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from typing import Any

from ccxtbt.compat.guest import Guest
from ccxtbt.errors import ConfigError
from ccxtbt.exchange.connection import as_ours
from ccxtbt.mailbox import Mailbox
from ccxtbt.market import timeframes
from ccxtbt.market.flow import State
from ccxtbt.market.handover import Bar, Origin
from ccxtbt.market.pipeline import Pipeline

logger = logging.getLogger(__name__)

# How many live bars may wait.
BUFFER = 100_000
# A history that cannot be had now is asked for again after this time, or where the exchange goes on refusing, later.
AGAIN_S = 1.0
AGAIN_MAX_S = 60.0


class ThreadedDataFeed(Guest):
    """The bars of one market in a queue: history, then live, each closed, once and in order, also after breaks.

    The queue is filled from the store's I/O thread, where the work for all its streams is done: there is no thread of
    its own.

    Parameters
    ----------
    store : CCXTStore, str or a ccxt exchange
        As for `CCXTWebSocket`.
    symbol : str
        ccxt's unified symbol, such as ``'BTC/USDT'``.
    timeframe : str
        Such as ``'5m'``.
    fromdate, todate : datetime or None
        Bars that open in this span, in UTC where they name no zone; without ``fromdate``, those that close from now on.
    buffer : int
        How many live bars may wait unread, beside the history. More than that and the oldest go, with a warning and a
        count in ``data_queue.dropped``.
    **options
        `CCXTStore`'s, where `store` is none: ``config``, ``sandbox``, ...

    Attributes
    ----------
    data_queue : queue.Queue
        Of `Bar`: open time in ms UTC, open, high, low, close, volume, origin; None, for ever, where nothing more comes.
    state : State or None
        What a `CCXTFeed` would tell `notify_data`, without waiting for the bars before it to be read.
    error : Exception or None
        Why nothing comes any more.

    Examples
    --------
    >>> feed = ThreadedDataFeed("binance", "BTC/USDT", "1m")  # doctest: +SKIP
    >>> feed.start_data_thread()
    >>> for bar in iter(feed.data_queue.get, None):
    ...     print(bar.ts_ms, bar.close)
    """

    def __init__(
        self,
        store: Any,
        symbol: str,
        timeframe: str = "1m",
        *,
        fromdate: dt.datetime | None = None,
        todate: dt.datetime | None = None,
        buffer: int = BUFFER,
        **options: Any,
    ) -> None:
        super().__init__(store, **options)
        self.symbol = symbol
        self.timeframe = timeframe
        self.state: State | None = None
        self.error: Exception | None = None
        self.data_queue = Mailbox(f"bars of {symbol}", buffer)
        self._buffer = buffer
        self._start_ms = None if fromdate is None else _utc_ms(fromdate)
        # backtrader's todate includes the bar that opens on it.
        self._end_ms = None if todate is None else _utc_ms(todate) + 1
        if self._start_ms is not None and self._end_ms is not None and self._start_ms >= self._end_ms:
            raise ConfigError(f"fromdate {fromdate} of {symbol} is after todate {todate}: swap them.")
        self._pipeline: Pipeline | None = None
        self._task: asyncio.Task[None] | None = None

    def start_data_thread(self) -> None:
        """Begin; nothing happens if it has begun. After a `stop` it begins anew, with the history.

        Raises
        ------
        ConfigError
            An unknown symbol or timeframe.
        TryLaterError
            The exchange does not answer.
        """
        self._enter()

    def stop(self) -> None:
        """End it, and the connection where nobody else needs it; nothing happens if it has ended."""
        self._exit()

    def _begin(self) -> None:
        symbol = self.store.checked_symbol(self.symbol)
        word = self.store.get_granularity(*timeframes.to_backtrader(self.timeframe))
        self.state = self.error = None
        self.data_queue.begin()
        self._task = asyncio.get_running_loop().create_task(self._run(symbol, word), name=f"bars of {symbol}")

    async def _end(self) -> None:
        if self._pipeline is not None:
            self.store.streams.unsubscribe(self._pipeline)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _over(self) -> None:
        self.data_queue.end()

    async def _run(self, symbol: str, word: str) -> None:
        """Deliver bars until nothing more comes; what fails for a passing reason is begun again."""
        pause_s = AGAIN_S
        while True:
            sink = _Sink(self, symbol)
            span = self._start_ms, self._end_ms
            streams = self.store.streams
            self._pipeline = Pipeline(self.connection, streams, symbol, timeframes.parse(word), *span, sink)
            try:
                await self._pipeline.run()
            finally:
                streams.unsubscribe(self._pipeline)
            if sink.error is None or self.connection.is_final(sink.error):
                break
            logger.warning("%s: its history cannot be had now, trying again in %g s: %s", symbol, pause_s, sink.error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, AGAIN_MAX_S)
        if sink.error is not None:
            self.error = as_ours(sink.error, f"Loading the bars of {symbol}")
            logger.error("%s", self.error)
            self.connection.notice(str(self.error))
        self.data_queue.end()

    def make_room(self, bars: int) -> None:
        """Let so many bars wait beside the live ones: they come at once, and no reader is quick enough."""
        self.data_queue.size = self.data_queue.qsize() + bars + self._buffer


class _Sink:
    """What the pipeline calls, on the I/O thread."""

    partial = priced = False

    def __init__(self, feed: ThreadedDataFeed, symbol: str) -> None:
        self.error: Exception | None = None
        self._feed = feed
        self._symbol = symbol

    def history(self, ts_ms: Any, ohlcv: Any, origin: Any) -> None:
        self._feed.make_room(len(ts_ms))
        rows = zip(ts_ms.tolist(), *ohlcv.tolist(), origin.tolist(), strict=True)
        for opened_ms, o, h, l, c, v, source in rows:  # noqa: E741  # as all name them
            self._feed.data_queue.put(Bar(opened_ms, o, h, l, c, v, Origin(source)))

    def failed(self, error: Exception) -> None:
        self.error = error

    def bars(self, bars: list[Bar]) -> None:
        if self._feed.state is not State.LIVE:
            # The end of the history, or what a break has missed.
            self._feed.make_room(len(bars))
        for bar in bars:
            self._feed.data_queue.put(bar)

    def forming(self, bar: Bar) -> None:
        """Leave out what is not final."""

    def price(self, price: float) -> None:
        """Leave out what is no bar."""

    def state(self, state: State, reason: str) -> None:
        self._feed.state = state
        logger.info("%s: %s%s", self._symbol, state.value, f" ({reason})" if reason else "")

    def correction(self, kept: Bar | None, came: Bar) -> None:
        what = "a bar that had been found not to exist came late" if kept is None else f"the bar {kept} came again"
        text = f"{self._symbol}: {what} as {came}; what was delivered stays."
        logger.warning("%s", text)
        self._feed.connection.notice(text)


def _utc_ms(when: dt.datetime) -> int:
    moment = when if when.tzinfo is not None else when.replace(tzinfo=dt.UTC)
    return round(moment.timestamp() * 1000)
