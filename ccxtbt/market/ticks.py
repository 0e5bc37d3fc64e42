"""Bars of a fixed number of trades: from REST for the history, from the stream of trades when live."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccxtbt._bars import TickBars
from ccxtbt.errors import NotOfferedError
from ccxtbt.exchange.connection import Connection
from ccxtbt.exchange.limiter import Lane, in_lane
from ccxtbt.market.flow import TRADES_AT_ONCE, Flow, Sink, State
from ccxtbt.market.frames import Trade
from ccxtbt.market.handover import QUIET_MS, SETTLE_MS, Bar, Counts, Origin
from ccxtbt.market.history import Columns, Progress, Report
from ccxtbt.market.streams import Streams
from ccxtbt.market.tape import SILENT_MS, WINDOW_MS, Reel

logger = logging.getLogger(__name__)


class TickReel(Reel):
    """The bars that every n trades of a market make. One bears the time of its last trade; several may share one.

    A trade is what REST tells as one. OKX's stream puts together what one order took at one price from one kind of
    makers: that counts for as many trades as it stands for (www.okx.com/docs-v5, "Trades channel"). Where a bar ends
    among them, REST is asked for each; if REST reaches not so far back, their whole amount counts with the first.

    Parameters
    ----------
    trades_per_bar : int
        How many.
    since_ms : int
        The first trade at this time or later begins the first bar.
    end_ms : int or None
        Trades from here on are not wanted.
    names : tuple of str
        As in `Reel`.
    """

    def __init__(
        self, trades_per_bar: int, since_ms: int, end_ms: int | None = None, names: tuple[str, ...] = ()
    ) -> None:
        super().__init__(since_ms, names)
        self._bars = TickBars(trades_per_bar)
        self._per_bar = trades_per_bar
        self._in_bar = 0
        self._since_ms = since_ms
        self._end_ms = end_ms
        self._at_ms = since_ms

    @property
    def over(self) -> bool:
        """Whether nothing before `end_ms` is missing."""
        return self._end_ms is not None and self.complete_ms >= self._end_ms

    @property
    def last_ms(self) -> int:
        """Time of the last trade that is known with all before it."""
        return self._last_ms

    def _feed(self, trades: list[Trade]) -> list[Bar]:
        bars = []
        for trade in trades:
            if self.over:
                break
            if self._end_ms is not None and trade.ts_ms >= self._end_ms:
                self.complete_ms = self._end_ms
                break
            if trade.ts_ms >= self._since_ms:
                self._note(trade)
                self._last_ms = max(self._last_ms, trade.ts_ms)
                # Numbers tell the order; where times tell another one, no bar is earlier than the one before it.
                self._at_ms = max(self._at_ms, trade.ts_ms)
                bars += self._add(trade)
        return bars

    def _fits(self, trade: Trade) -> bool:
        return self._in_bar + trade.numbers <= self._per_bar

    def _add(self, trade: Trade) -> list[Bar]:
        bars = []
        for i in range(trade.numbers):
            skipped = self._bars.skipped
            closed = self._bars.add(trade.ts_ms, trade.price, 0.0 if i else trade.amount)
            if self._bars.skipped != skipped:
                break
            self._in_bar += 1
            if not i:
                self._sums.add(trade)
            if closed is not None:
                _, opened, high, low, close, volume, _ = closed
                bars.append(self._bar(self._at_ms, opened, high, low, close, volume))
                self._in_bar = 0
        return bars

    def _closed_by(self, now_ms: int) -> list[Bar]:
        self.complete_ms = max(self.complete_ms, now_ms)
        return []

    def _look_ms(self) -> int:
        # It may be that nobody trades, or that the only trade was lost.
        at_ms = max(self._last_ms + QUIET_MS, self._asked_ms + SILENT_MS)
        if self._end_ms is not None and not self.over:
            at_ms = min(at_ms, max(self._end_ms + QUIET_MS, self._asked_ms))
        return at_ms


def check_ticks(connection: Connection, live: bool) -> None:
    """Raise unless an exchange tells its trades.

    Raises
    ------
    NotOfferedError
        ccxt cannot ask for them, or, for a live feed, cannot stream them.
    """
    has = connection.rest.has
    streamed = has.get("watchTrades") or has.get("watchTradesForSymbols")
    if has.get("fetchTrades") and (streamed or not live):
        return
    what = "stream the trades" if has.get("fetchTrades") else "ask for the trades"
    raise NotOfferedError(
        f"ccxt cannot {what} of {connection.account.exchange_id}, of which bars of Ticks are made: ask for bars of "
        "bt.TimeFrame.Seconds or coarser."
    )


class TickFlow(Flow):
    """History, then live bars, of a fixed number of trades each; after each break, the trades that were missed.

    A bar is final with its last trade. There is no bar of fewer trades: what is left at the end is not delivered.

    Parameters
    ----------
    connection, streams, symbol, end_ms, sink
        As in `Flow`.
    trades_per_bar : int
        How many.
    start_ms : int or None
        Trades from here on are wanted, and the first of them begins a bar; None: from now on.
    report : callable or None
        Hears of the history's progress, on the I/O thread; its rows and pages are trades.
    names : tuple of str
        Extra values of bars that are wanted, of `ccxtbt.exchange.facts.EXTRA_LINES`.

    Attributes
    ----------
    counts : Counts
        What became of the live bars; written on the I/O thread.
    """

    def __init__(
        self,
        connection: Connection,
        streams: Streams | None,
        symbol: str,
        trades_per_bar: int,
        start_ms: int | None,
        end_ms: int | None,
        sink: Sink,
        report: Report | None = None,
        names: tuple[str, ...] = (),
    ) -> None:
        super().__init__(connection, streams, symbol, f"{symbol} ticks x {trades_per_bar}", end_ms, sink)
        self.counts = Counts()
        self._per_bar = trades_per_bar
        self._start_ms = start_ms
        self._report = report
        self._names = names
        self._reel: TickReel | None = None
        self._fresh: list[Bar] = []

    def up(self) -> None:
        """Note that frames come from now on, and that what REST was asked before does not reach so far."""
        if self._reel is not None:
            self._reel.broken()
        super().up()

    def down(self, reason: str) -> None:
        """Note that trades may have been lost from now on."""
        if self._reel is not None:
            self._reel.broken()
        super().down(reason)

    def trades(self, trades: list[Trade]) -> None:
        """Take trades from the stream."""
        if self._over or self._reel is None:
            # The history is not even asked for: these are asked of REST with all since then.
            return
        self._fresh += self._reel.add(trades)
        if trades and self._live and self._sink.priced:
            self._sink.price(trades[-1].price)
        if self._live and self._fresh:
            self._deliver()
        if self._reel.over or not self._reel.sure:
            self._news.set()

    # History

    async def _history_only(self) -> tuple[Columns, NDArray[np.uint8]]:
        now_ms = self._now_ms()
        end_ms = now_ms if self._end_ms is None else min(now_ms, self._end_ms)
        if self._start_ms is not None:
            return await self._past(self._start_ms, end_ms)
        with in_lane(Lane.HISTORY):
            trades = await self._fetch_trades(None)
        reel = TickReel(self._per_bar, trades[0].ts_ms if trades else end_ms, self._end_ms, self._names)
        return _block(reel.answered(trades, False, now_ms, self._now_ms()) + reel.tick(self._now_ms()))

    async def _history_before_live(self, streams: Streams) -> tuple[Columns, NDArray[np.uint8]]:
        streams.subscribe_trades(self._symbol, self)
        await self._up.wait()
        return await self._past(self._up_ms if self._start_ms is None else self._start_ms, self._end_ms)

    async def _past(self, start_ms: int, end_ms: int | None) -> tuple[Columns, NDArray[np.uint8]]:
        """Ask for all trades up to what the stream shows; without a stream, up to the last one."""
        reel = self._reel = TickReel(self._per_bar, start_ms, end_ms, self._names)
        total_ms, pages = max(self._now_ms() - start_ms, 1), 0
        with in_lane(Lane.HISTORY):
            while not reel.sure and not reel.over and (question := reel.question()) is not None:
                await self._sleep_until(question.at_ms)
                sent_ms, last_ms = self._now_ms(), reel.last_ms
                trades = await self._fetch_trades(question)
                if not pages and trades and question.since_ms + WINDOW_MS < trades[0].ts_ms:
                    self._warn_of(start_ms, trades[0].ts_ms)
                pages += 1
                # Whatever an exchange gives at most in one answer: one that ends in the past has left some out, unless
                # the next one has nothing new.
                newest_ms = trades[-1].ts_ms if trades else last_ms
                full = len(trades) >= TRADES_AT_ONCE
                more = bool(trades) and (full or last_ms < newest_ms < sent_ms - QUIET_MS)
                self._fresh += reel.answered(trades, more, sent_ms, self._now_ms())
                if self._report is not None:
                    done_ms = min(reel.last_ms - start_ms, total_ms)
                    self._report(Progress(reel.fetched, pages, done_ms, total_ms))
        self._fresh += reel.tick(self._now_ms())
        bars, self._fresh = self._fresh, []
        return _block(bars)

    def _warn_of(self, start_ms: int, first_ms: int) -> None:
        moments = [np.datetime64(ms, "ms").item().strftime("%Y-%m-%d %H:%M") for ms in (start_ms, first_ms)]
        sentence = (
            f"{self._connection.account.exchange_id} gives trades of {self._symbol} from {moments[1]} on, not from "
            f"{moments[0]}: most exchanges keep only the latest. Bars of seconds or minutes reach further back."
        )
        logger.warning("%s", sentence)
        self._connection.notice(sentence)

    # Live

    async def _follow(self) -> None:
        reel = self._reel
        assert reel is not None  # noqa: S101 - there is a history
        while not self._over:
            self._news.clear()
            self._fresh += reel.tick(self._now_ms())
            self._deliver()
            if self._up.is_set() and not self._refusal and reel.sure:
                self._tell(State.LIVE, "")
            question = reel.question()
            if self._refusal:
                self._end(State.NOTSUBSCRIBED, self._refusal)
            elif reel.over:
                self._end(State.DISCONNECTED, "todate is reached")
            elif not self._up.is_set():
                await self._wait_until(None)
            elif question is None:
                await self._wait_until(self._now_ms() + SETTLE_MS)
            elif self._now_ms() < question.at_ms:
                await self._wait_until(question.at_ms)
            else:
                with in_lane(Lane.LIVE):
                    sent_ms = self._now_ms()
                    trades = await self._fetch_trades(question)
                self._fresh += reel.answered(trades, len(trades) >= TRADES_AT_ONCE, sent_ms, self._now_ms())

    def _deliver(self) -> None:
        bars, self._fresh = self._fresh, []
        if bars:
            self.counts.delay_ms = self._now_ms() - bars[-1].ts_ms
            if self._live:
                self.counts.longest_delay_ms = max(self.counts.longest_delay_ms, self.counts.delay_ms)
            self._sink.bars(bars)


def _block(bars: list[Bar]) -> tuple[Columns, NDArray[np.uint8]]:
    rows: list[list[Any]] = [[*bar[1:6], *bar.extra] for bar in bars]
    ohlcv = np.array(rows, np.float64).T if rows else np.empty((5, 0))
    columns = np.array([bar.ts_ms for bar in bars], np.int64), np.ascontiguousarray(ohlcv)
    return columns, np.full(len(bars), Origin.TRADES, np.uint8)
