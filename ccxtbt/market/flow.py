"""What every flow of bars does on the I/O thread, however they are made: history, live, breaks, an end."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ccxtbt.errors import TryLaterError
from ccxtbt.exchange.connection import Connection
from ccxtbt.market.frames import Trade, trade_of
from ccxtbt.market.handover import Bar
from ccxtbt.market.history import Columns
from ccxtbt.market.streams import Streams
from ccxtbt.market.tape import TradeQuestion

logger = logging.getLogger(__name__)

# The most trades that are asked for at once; an answer that is as long may have left some out.
TRADES_AT_ONCE = 1_000
# A question about what is missing that failed, with all its retries, is asked again after this time.
ASK_AGAIN_S = 1.0
# So many times in a row the exchange must say that it has no such market, until it is believed of one it had.
DENIALS = 3


class State(Enum):
    """What a feed is told about its data; the names are backtrader's."""

    DELAYED = "DELAYED"
    LIVE = "LIVE"
    CONNBROKEN = "CONNBROKEN"
    NOTSUBSCRIBED = "NOTSUBSCRIBED"
    DISCONNECTED = "DISCONNECTED"


class Sink(Protocol):
    """Where a flow delivers; called on the I/O thread.

    Attributes
    ----------
    partial : bool
        Whether `forming` is to be told.
    """

    partial: bool

    @property
    def priced(self) -> bool:
        """Whether `price` is to be told now."""

    def history(self, ts_ms: Any, ohlcv: Any, origin: Any) -> None:
        """Take the history, once, before anything else; `origin` is uint8[n], see `Origin`."""

    def failed(self, error: Exception) -> None:
        """The history cannot be had, or the bars cannot go on; nothing else comes."""

    def bars(self, bars: list[Bar]) -> None:
        """Take closed bars, later than all before; those of ticks may share a time."""

    def forming(self, bar: Bar) -> None:
        """Take what is known of the bar after all closed ones, while it forms and the data is live."""

    def price(self, price: float) -> None:
        """Take the market's last price, while the data is live."""

    def state(self, state: State, reason: str) -> None:
        """Take a change of the data's state."""

    def correction(self, kept: Bar | None, came: Bar) -> None:
        """Take note that a bar already delivered (None: found not to exist) came again with other values."""


class Flow:
    """History, then live bars, of one market; after each break, what was missed.

    Parameters
    ----------
    connection : Connection
        The exchange.
    streams : Streams or None
        Live subscriptions; None: history only.
    symbol : str
        ccxt's unified symbol.
    name : str
        Market and kind of bars, as messages have it.
    end_ms : int or None
        First time not wanted; None: up to now, and on if there are streams.
    sink : Sink
        Where the bars go.
    """

    def __init__(
        self,
        connection: Connection,
        streams: Streams | None,
        symbol: str,
        name: str,
        end_ms: int | None,
        sink: Sink,
    ) -> None:
        self._connection = connection
        self._streams = streams
        self._symbol = symbol
        self._name = name
        self._end_ms = end_ms
        self._sink = sink
        self._up = asyncio.Event()
        self._up_ms = 0
        self._news = asyncio.Event()
        self._state: State | None = None
        self._over = False
        self._refusal = ""
        self._denials = 0

    @property
    def _live(self) -> bool:
        return self._state is State.LIVE

    async def run(self) -> None:
        """Deliver the history, then, if there are streams, live bars up to `end_ms` or until cancelled."""
        past = self._end_ms is not None and self._now_ms() >= self._end_ms
        try:
            if self._streams is None or past:
                columns, origin = await self._history_only()
            else:
                columns, origin = await self._history_before_live(self._streams)
        except asyncio.CancelledError:
            self._sink.failed(TryLaterError(f"The store stopped while {self._symbol} was loading: start it again."))
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the feed that waits for it must hear it
            self._sink.failed(error)
            return
        self._sink.history(*columns, origin)
        if past:
            self._end(State.DISCONNECTED, "todate is past")
        elif self._streams is not None:
            await self._follow_on()

    # What a kind of bars has of its own

    async def _history_only(self) -> tuple[Columns, NDArray[np.uint8]]:
        """Return the history, and where each of its bars comes from."""
        raise NotImplementedError

    async def _history_before_live(self, streams: Streams) -> tuple[Columns, NDArray[np.uint8]]:
        """Subscribe, and return the history up to what the stream shows."""
        raise NotImplementedError

    async def _follow(self) -> None:
        """Deliver live bars until it is over."""
        raise NotImplementedError

    def _ends_with(self, error: Exception) -> bool:
        """Whether nothing can follow an error."""
        return False

    def _fell_behind(self) -> None:
        """Note that what is over by now is owed."""

    # What the stream calls

    def up(self) -> None:
        """Note that frames come from now on."""
        self._up_ms = self._now_ms()
        if self._state is State.CONNBROKEN:
            self._tell(State.DELAYED, "asking for the bars missed meanwhile")
        self._up.set()
        self._news.set()

    def down(self, reason: str) -> None:
        """Note that frames may have been lost from now on."""
        self._up.clear()
        self._tell(State.CONNBROKEN, reason)
        self._news.set()

    def refused(self, error: Exception) -> None:
        """Note that this market cannot be streamed: what is known is delivered, and nothing else comes."""
        self._refusal = str(error)
        # Who waits for the stream need not wait longer.
        self.up()

    # Live

    async def _follow_on(self) -> None:
        """Follow the market; where REST fails, what is missing is asked for again instead of loading all anew."""
        while not self._over:
            try:
                await self._follow()
            except Exception as error:  # noqa: BLE001  # whatever it is, the bars after it are wanted
                self._denials = self._denials + 1 if self._connection.knows_no_market(error) else 0
                if self._ends_with(error):
                    self._over = True
                    self._sink.failed(error)
                elif self._denials >= DENIALS:
                    self._end(State.NOTSUBSCRIBED, f"the exchange has this market no more: {error}")
                else:
                    await self._try_again(error)

    async def _try_again(self, error: Exception) -> None:
        logger.warning("%s: asking for missing bars failed: %r", self._name, error)
        if self._state is not State.CONNBROKEN:
            self._tell(self._state_without_rest(), f"missing bars cannot be had now: {type(error).__name__}: {error}")
        self._fell_behind()
        await asyncio.sleep(ASK_AGAIN_S)

    def _state_without_rest(self) -> State:
        """Return what the data is while REST fails."""
        return State.DELAYED

    async def _fetch_trades(self, question: TradeQuestion | None) -> list[Trade]:
        """Ask REST for trades, oldest first; None: the latest."""
        rest, facts = self._connection.rest, self._connection.facts
        name = facts.trades_from_param
        since_ms, params = None, {}
        if question is not None and question.from_id is not None and name:
            params = {name: question.from_id}
        elif question is not None:
            # One ms earlier: some exchanges give only what is later than they are told.
            since_ms = question.since_ms - 1
        asked_ms = None if rest.market(self._symbol)["type"] in facts.trades_latest else since_ms
        rows = await self._connection.retrying(rest.fetch_trades)(self._symbol, asked_ms, TRADES_AT_ONCE, params)
        self._denials = 0
        trades = [trade_of(row, facts) for row in rows]
        return trades if since_ms is None else [trade for trade in trades if trade.ts_ms >= since_ms]

    def _now_ms(self) -> int:
        return self._connection.clock.now_ms()

    async def _sleep_until(self, at_ms: int) -> None:
        await asyncio.sleep(self._connection.clock.wait_s(at_ms))

    async def _wait_until(self, at_ms: int | None) -> None:
        """Wait for news, but not longer than to a time of the exchange."""
        try:
            async with asyncio.timeout(None if at_ms is None else self._connection.clock.wait_s(at_ms) + 0.001):
                await self._news.wait()
        except TimeoutError:
            return

    def _tell(self, state: State, reason: str) -> None:
        if state is not self._state and not self._over:
            self._state = state
            self._sink.state(state, reason)

    def _end(self, state: State, reason: str) -> None:
        """Tell that nothing more comes."""
        self._tell(state, reason)
        self._over = True
        if self._streams is not None:
            # A market that is gone would be taken for silent, and subscribed to again and again.
            listener: Any = self
            self._streams.unsubscribe(listener)
