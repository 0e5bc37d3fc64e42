"""The bars of one market and timeframe, from history to live, on the I/O thread."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ccxtbt.errors import DataError, NotOfferedError
from ccxtbt.exchange.connection import Connection
from ccxtbt.exchange.facts import EXTRA_LINES, Extra
from ccxtbt.exchange.limiter import Lane, in_lane
from ccxtbt.market.flow import TRADES_AT_ONCE, Flow, Sink, State
from ccxtbt.market.frames import Trade
from ccxtbt.market.handover import SURE_MS, Answer, Bar, Gaps, Handover, Origin, Question, Span
from ccxtbt.market.history import Columns, History, Report, empty, join, merge
from ccxtbt.market.keeper import Keeper
from ccxtbt.market.polls import Place, Polls, next_poll_ms, over_ms, window_ms
from ccxtbt.market.streams import Streams
from ccxtbt.market.tape import Tape, TradeQuestion
from ccxtbt.market.timeframes import Timeframe, close_ms, floor_ms, next_ms

if TYPE_CHECKING:
    from ccxtbt.market.archive import Archive

logger = logging.getLogger(__name__)

# A bar seen forming whose closing frame does not come within this time after its end is asked of REST.
OVERDUE_MS = 2_000
# A strategy whose bar is so late is told that its data is not live.
LATE_MS = 15_000
# So many bars any exchange gives in one answer; of a longer span the settled part is downloaded as history is.
MOST_BARS = 90

Source = Literal["auto", "ohlcv", "trades", "poll"]


class Pipeline(Flow):
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
    params : dict or None
        Extra parameters of ccxt's `fetch_ohlcv`.
    archive : Archive or None
        Where the history is kept, and live bars once they are settled; see `Keeper`.
    report : callable or None
        Hears of the history's progress, on the I/O thread.
    source : {'auto', 'ohlcv', 'trades', 'poll'}
        Where live bars come from.
    gaps : {'none', 'flat', 'raise'}
        What to make of bars that do not exist; see `Handover`.
    polls : Polls, optional
        Who else is polled on this connection.
    longest_poll_ms : int, optional
        Longest pause between two polls; None: as long as the bars.
    extra : Extra, optional
        What is wanted beside prices and volume. A frame that has not got it closes no bar: REST is asked.

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
        timeframe: Timeframe,
        start_ms: int | None,
        end_ms: int | None,
        sink: Sink,
        params: dict[str, Any] | None = None,
        archive: Archive | None = None,
        report: Report | None = None,
        *,
        source: Source = "auto",
        gaps: Gaps = "none",
        polls: Polls | None = None,
        longest_poll_ms: int | None = None,
        extra: Extra | None = None,
    ) -> None:
        super().__init__(connection, streams, symbol, f"{symbol} {timeframe}", end_ms, sink)
        self._timeframe = timeframe
        self._start_ms = start_ms
        self._params = params or {}
        self._extra = extra
        self._picked = [EXTRA_LINES.index(name) for name in extra.names] if extra is not None else []
        self._past = History(connection, symbol, timeframe, params, archive, report, extra)
        self._source = source
        self._gaps = gaps
        self._polls = polls or Polls()
        self._longest_poll_ms = longest_poll_ms
        self._handover = Handover(timeframe, gaps)
        self._keeper: Keeper | None = None
        self.counts = self._handover.counts
        # The data is live again once the bars before this one are delivered.
        self._backlog_ms = 0
        self._newest_ms = -1
        self._place: Place | None = None
        self._tape: Tape | None = None
        self._from_trades: list[Bar] = []
        self._live_ms = 0
        self._poll_ms: int | None = None

    async def run(self) -> None:
        """Deliver the history, then, if there are streams, live bars up to `end_ms` or until cancelled."""
        try:
            await super().run()
        finally:
            if self._place is not None:
                self._polls.leave()
            if self._keeper is not None:
                await self._keeper.write()

    def up(self) -> None:
        """Note that frames come from now on."""
        # The bar that forms now is shown by the frames to come; those before it may have been missed.
        self._backlog_ms = floor_ms(self._timeframe, self._now_ms())
        if self._source != "trades":
            self._handover.over(self._backlog_ms)
        super().up()

    def down(self, reason: str) -> None:
        """Note that frames may have been lost from now on."""
        if self._tape is not None:
            self._tape.broken()
        super().down(reason)

    def frame(self, bar: Bar, closed: bool) -> None:
        """Take a bar from the stream."""
        if self._over:
            return
        if self._picked:
            closed = closed and bool(bar.extra)
            bar = bar._replace(extra=tuple(bar.extra[i] for i in self._picked) if bar.extra else ())
        self._take(bar, closed)

    def _take(self, bar: Bar, closed: bool) -> None:
        self._handover.frame(bar, closed)
        if closed:
            if self._state is State.LIVE:
                self._deliver()
            self._news.set()
        elif bar.ts_ms > self._newest_ms:
            self._newest_ms = bar.ts_ms
            self._news.set()
        if not closed and self._sink.partial and self._live and self._handover.next_forming(bar):
            self._sink.forming(bar)
        if self._live and self._sink.priced:
            self._sink.price(bar.close)

    def trades(self, trades: list[Trade]) -> None:
        """Take trades from the stream."""
        if self._over:
            return
        if self._tape is None:
            # The history is not even asked for: these are asked of REST with all since then.
            return
        self._from_trades += self._tape.add(trades)
        if trades and self._live and self._sink.priced:
            self._sink.price(trades[-1].price)
        if self._live and self._from_trades:
            self._deliver()
        if not self._tape.sure:
            self._news.set()

    # History

    async def _history_only(self) -> tuple[Columns, NDArray[np.uint8]]:
        now_ms = self._now_ms()
        end_ms = floor_ms(self._timeframe, now_ms)
        if self._end_ms is not None:
            end_ms = min(end_ms, self._end_ms)
        if self._start_ms is None:
            columns = await self._page(None, None)
            end_ms = max(end_ms, int(columns[0][0])) if len(columns[0]) else end_ms
            columns, sure_ms = _cut(columns, self._sure_ms(now_ms, end_ms))
        else:
            columns, sure_ms = await self._settled_history(self._start_ms, end_ms)
        filled = self._filled(columns, sure_ms)
        self._handover.history(_last_of(*filled), sure_ms, end_ms)
        recent: list[Bar] = []
        while (question := self._handover.question()) is not None:
            await self._sleep_until(question.at_ms)
            self._handover.rest(await self._answer(question.span, Lane.HISTORY))
            recent += self._handover.release()
        self._raise_gap()
        return _joined(filled, recent)

    async def _history_before_live(self, streams: Streams) -> tuple[Columns, NDArray[np.uint8]]:
        self._source = self._chosen()
        if self._source == "poll":
            self._handover.streamed = False
            self._place = self._polls.join()
            self.up()
        elif self._source == "trades":
            streams.subscribe_trades(self._symbol, self)
        else:
            wide = self._extra is not None and self._extra.streamed
            streams.subscribe(self._symbol, self._timeframe.text, self, wide=wide)
        await self._up.wait()
        live_ms = floor_ms(self._timeframe, self._up_ms)
        rest = self._connection.rest
        offered = bool(rest.has.get("fetchOHLCV")) and self._timeframe.text in (rest.timeframes or ())
        if self._source == "trades":
            if self._start_ms is not None and not offered:
                # No exchange has such bars: they are built from the trades since then.
                live_ms = min(live_ms, floor_ms(self._timeframe, self._start_ms - 1 + self._timeframe.nominal_ms))
            names = self._extra.names if self._extra is not None else ()
            self._tape = Tape(self._timeframe, live_ms, self._gaps != "none", names)
        self._live_ms = live_ms
        columns, sure_ms = empty(), live_ms
        if self._start_ms is not None and offered:
            columns, sure_ms = await self._settled_history(self._start_ms, live_ms)
        filled = self._filled(columns, sure_ms)
        self._handover.history(_last_of(*filled), sure_ms, live_ms)
        if self._past.shelf is not None and self._source != "trades":
            self._keeper = Keeper(self._past.shelf, self._timeframe, self._now_ms)
            young_ms = sure_ms if self._past.young_ms is None else self._past.young_ms
            self._keeper.begin(columns, young_ms, sure_ms)
        return filled

    def _chosen(self) -> Source:
        """Return where live bars come from."""
        has = self._connection.rest.has
        offers = {
            "ohlcv": bool(has.get("watchOHLCV") or has.get("watchOHLCVForSymbols")),
            "trades": bool(has.get("watchTrades") or has.get("watchTradesForSymbols")),
            "poll": True,
        }
        if self._source == "auto":
            return "ohlcv" if offers["ohlcv"] else "trades" if offers["trades"] and not self._picked else "poll"
        if not offers[self._source]:
            raise NotOfferedError(
                f"source={self._source!r}: {self._connection.account.exchange_id} does not stream that through ccxt; "
                "use source='auto'."
            )
        return self._source

    def _sure_ms(self, asked_ms: int, end_ms: int) -> int:
        """Return up to where one answer to a question asked at `asked_ms` is taken as settled."""
        return min(end_ms, floor_ms(self._timeframe, asked_ms - SURE_MS))

    async def _settled_history(self, start_ms: int, end_ms: int) -> tuple[Columns, int]:
        """Download what REST has settled of a span; the rest is asked for twice, as live bars are."""
        asked_ms = self._now_ms()
        sure_ms = max(self._sure_ms(asked_ms, end_ms), min(start_ms, end_ms))
        return await self._download(Span(start_ms, sure_ms)), sure_ms

    def _filled(self, columns: Columns, until_ms: int) -> tuple[Columns, NDArray[np.uint8]]:
        """Treat the gaps of the history."""
        if self._gaps == "none" or not len(columns[0]):
            return columns, np.full(len(columns[0]), Origin.REST, np.uint8)
        merged = merge([columns], self._timeframe, gaps=self._gaps, until_ms=until_ms)
        self.counts.synthetic += int(np.count_nonzero(merged.origin == Origin.SYNTHETIC))
        return (merged.ts_ms, merged.ohlcv), merged.origin

    # Live

    def _ends_with(self, error: Exception) -> bool:
        return isinstance(error, DataError) and self._handover.gap is not None

    def _fell_behind(self) -> None:
        self._backlog_ms = max(self._backlog_ms, floor_ms(self._timeframe, self._now_ms()))

    def _state_without_rest(self) -> State:
        # For who is polled, REST is the line.
        return State.CONNBROKEN if self._source == "poll" else State.DELAYED

    async def _follow(self) -> None:
        while not self._over:
            self._news.clear()
            self._look_at_clock()
            self._deliver()
            self._raise_gap()
            if self._up.is_set() and not self._refusal and self._caught_up():
                self._tell(State.LIVE, "")
            question = self._handover.question()
            trades = self._tape.question() if self._tape is not None else None
            if question is not None:
                await self._ask(question)
            elif self._refusal:
                self._end(State.NOTSUBSCRIBED, self._refusal)
            elif self._end_ms is not None and (self._handover.expected_ms() or 0) >= self._end_ms:
                self._end(State.DISCONNECTED, "todate is reached")
            elif not self._up.is_set():
                await self._wait_until(None)
            elif trades is not None:
                await self._ask_trades(trades)
            else:
                await self._wait_until(self._next_look_ms())
                await self._poll_forming()

    def _caught_up(self) -> bool:
        """Whether all bars are delivered that were over when the stream came up, or when something failed."""
        expected = self._handover.expected_ms() or 0
        if self._tape is not None:
            return expected >= self._live_ms and self._tape.sure
        return expected >= self._backlog_ms

    def _look_at_clock(self) -> None:
        """Note which bars are over by the exchange's clock, where that is to be known without a frame."""
        now_ms = self._now_ms()
        if self._place is not None:
            if self._poll_ms is None or now_ms >= self._poll_ms:
                self._handover.over(over_ms(self._timeframe, now_ms))
                self._poll_ms = next_poll_ms(
                    self._timeframe, self._place, self._spread_ms(), now_ms, self._longest_poll_ms
                )
        elif self._tape is not None:
            self._from_trades += self._tape.tick(now_ms)
        elif self._handover.overdue(now_ms, OVERDUE_MS):
            logger.info("%s %s: no closing frame came; asking REST.", self._symbol, self._timeframe)
        elif self._gaps != "none" and self._up.is_set():
            # A bar that nobody trades in has no frame: that it does not exist must be known at its end.
            self._handover.over(floor_ms(self._timeframe, now_ms - OVERDUE_MS))
        if self._end_ms is not None and now_ms >= self._end_ms + OVERDUE_MS and self._tape is None:
            self._handover.over(self._end_ms)

    def _next_look_ms(self) -> int:
        if self._source == "poll" and self._poll_ms is not None:
            return self._poll_ms
        return next_ms(self._timeframe, self._now_ms() - OVERDUE_MS) + OVERDUE_MS

    def _spread_ms(self) -> int:
        """Return over how long polls are spread, by the budget that is left."""
        stats = self._connection.limiter.stats()
        weight = stats.weight / stats.calls if stats.calls else 1.0
        return max(
            (
                window_ms(
                    self._polls.markets,
                    rule.limit / rule.window_s,
                    1.0 if rule.per_call else weight,
                    1.0 - rule.used / rule.limit,
                )
                for rule in stats.rules
                if rule.limit and rule.window_s
            ),
            default=0,
        )

    async def _poll_forming(self) -> None:
        """Between closes, look at the bar that forms, where polls are asked for more often than bars close."""
        expected = self._handover.expected_ms()
        due = self._poll_ms is not None and self._now_ms() >= self._poll_ms
        if self._source != "poll" or self._longest_poll_ms is None or not due:
            return
        if not (self._sink.partial or self._sink.priced):
            return
        if expected is None or over_ms(self._timeframe, self._now_ms()) > expected:
            return
        answer = await self._answer(Span(expected, next_ms(self._timeframe, expected)), Lane.LIVE)
        if len(answer.ts_ms):
            opened, high, low, close, volume, *extra = answer.ohlcv[:, 0].tolist()
            bar = Bar(int(answer.ts_ms[0]), opened, high, low, close, volume, Origin.REST, tuple(extra))
            self._take(bar, closed=False)

    async def _ask(self, question: Question) -> None:
        """Ask REST in due time, unless frames make it needless before."""
        late_s = self._connection.clock.wait_s(close_ms(self._timeframe, question.span.start_ms) + LATE_MS)
        timer = asyncio.get_running_loop().call_later(late_s, self._late, question.span)
        try:
            if self._now_ms() < question.at_ms:
                await self._wait_until(question.at_ms)
                return
            answer = await self._answer(question.span, Lane.LIVE)
        finally:
            timer.cancel()
        self._denials = 0
        if self._source == "poll" and self._state is State.CONNBROKEN:
            self._tell(State.DELAYED, "the exchange answers again")
        self._handover.rest(answer)

    async def _ask_trades(self, question: TradeQuestion) -> None:
        """Ask REST for trades in due time, unless the stream makes it needless before."""
        tape = self._tape
        assert tape is not None  # noqa: S101 - there is a question
        if self._now_ms() < question.at_ms:
            await self._wait_until(min(question.at_ms, self._next_look_ms()))
            return
        sent_ms = self._now_ms()
        with in_lane(Lane.LIVE):
            trades = await self._fetch_trades(question)
        self._from_trades += tape.answered(trades, len(trades) >= TRADES_AT_ONCE, sent_ms, self._now_ms())

    def _late(self, span: Span) -> None:
        """Tell that bars are owed and cannot be had yet."""
        missing = self._handover.missing()
        if self._live and missing is not None and missing.start_ms <= span.start_ms:
            self._backlog_ms = floor_ms(self._timeframe, self._now_ms())
            self._tell(State.DELAYED, f"the bar of {span.start_ms} is over and REST has not confirmed it yet")

    async def _answer(self, span: Span, lane: Lane) -> Answer:
        sent_ms = self._now_ms()
        older, split_ms = empty(), span.start_ms
        with in_lane(lane):
            if span.end_ms - span.start_ms > MOST_BARS * self._timeframe.nominal_ms:
                older, split_ms = await self._settled_history(*span)
            recent, newest_ms = await self._read(Span(split_ms, span.end_ms))
        ts_ms, ohlcv = join([older, recent], *span)
        return Answer(span, ts_ms, ohlcv, sent_ms, self._now_ms(), newest_ms)

    async def _read(self, span: Span) -> tuple[Columns, int]:
        """Read a few bars, and what REST shows behind them; return the columns and the latest open among them."""
        limit = (span.end_ms - span.start_ms) // self._timeframe.nominal_ms + 3
        pages, newest_ms = [empty()], span.start_ms - 1
        while newest_ms < span.end_ms:
            page = await self._page(newest_ms + 1, limit)
            if not len(page[0]) or int(page[0][-1]) <= newest_ms:
                break
            pages.append(page)
            newest_ms = int(page[0][-1])
            if len(page[0]) < limit <= self._connection.facts.page_limit:
                # It ended because nothing more exists, not because an answer holds no more.
                break
        merged = merge(pages)
        first, end = np.searchsorted(merged.ts_ms, span)
        return (merged.ts_ms[first:end], merged.ohlcv[:, first:end]), newest_ms

    def _raise_gap(self) -> None:
        gap = self._handover.gap
        if gap is not None:
            raise DataError(
                f"{self._symbol} {self._timeframe}: nobody traded from {gap.start_ms} to {gap.end_ms} (ms UTC), and "
                "gaps='raise' asks to stop there: allow gaps with gaps='none' or fill them with gaps='flat'."
            )

    def _take_from_trades(self) -> None:
        """Hand over the bars made of trades, once those before them are known."""
        tape, handover = self._tape, self._handover
        if tape is None or (handover.expected_ms() or 0) < self._live_ms:
            return
        for bar in self._from_trades:
            handover.frame(bar, closed=True)
        self._from_trades.clear()
        handover.complete(tape.complete_ms)

    def _deliver(self) -> None:
        self._take_from_trades()
        bars = self._handover.release()
        if self._end_ms is not None:
            bars = [bar for bar in bars if bar.ts_ms < self._end_ms]
        if bars:
            counts = self.counts
            counts.delay_ms = self._now_ms() - close_ms(self._timeframe, bars[-1].ts_ms)
            if self._live:
                counts.longest_delay_ms = max(counts.longest_delay_ms, counts.delay_ms)
            self._sink.bars(bars)
        for kept, came in self._handover.corrections:
            self._sink.correction(kept, came)
        if self._keeper is not None:
            self._keeper.take(bars)
            for _, came in self._handover.corrections:
                self._keeper.correct(came)
            if self._keeper.due:
                self._connection.post(self._keeper.write, name=f"archive of {self._name}")
        self._handover.corrections.clear()

    async def _download(self, span: Span) -> Columns:
        return await self._past.get(span.start_ms, span.end_ms)

    async def _page(self, since_ms: int | None, limit: int | None) -> Columns:
        request = (self._symbol, self._timeframe.text, since_ms, limit, self._params, self._extra)
        return await self._connection.fetch_page(*request)


def _cut(columns: Columns, end_ms: int) -> tuple[Columns, int]:
    """Return the bars before `end_ms`, and where they are complete: there, or at the first one if all are later."""
    ts_ms, ohlcv = columns
    if len(ts_ms):
        end_ms = max(end_ms, int(ts_ms[0]))
    keep = int(ts_ms.searchsorted(end_ms))
    return (ts_ms[:keep], ohlcv[:, :keep].copy()), end_ms


def _last_of(columns: Columns, origin: NDArray[np.uint8]) -> Bar | None:
    ts_ms, ohlcv = columns
    if not len(ts_ms):
        return None
    opened, high, low, close, volume, *extra = ohlcv[:, -1].tolist()
    return Bar(int(ts_ms[-1]), opened, high, low, close, volume, Origin(int(origin[-1])), tuple(extra))


def _joined(block: tuple[Columns, NDArray[np.uint8]], bars: list[Bar]) -> tuple[Columns, NDArray[np.uint8]]:
    """Return a block with bars behind it."""
    (ts_ms, ohlcv), origin = block
    if not bars:
        return block
    later = np.array([(*bar[1:6], *bar.extra) for bar in bars], np.float64).T
    if not len(ts_ms):
        ohlcv = np.empty((len(later), 0))
    return (
        (np.append(ts_ms, [bar.ts_ms for bar in bars]), np.ascontiguousarray(np.hstack([ohlcv, later]))),
        np.append(origin, np.array([bar.origin for bar in bars], np.uint8)),
    )
