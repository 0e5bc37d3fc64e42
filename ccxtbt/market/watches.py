"""Tickers and order books as ccxt's own `watch_*` bring them: one supervised task a subscription, on one socket."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from typing import Any, Protocol

from ccxtbt.exchange.connection import Connection
from ccxtbt.exchange.wire import SENDER, WIRE, Wire
from ccxtbt.market.subscriptions import Hearer, tell

logger = logging.getLogger(__name__)

# What is watched -> (ccxt's word for the ability, its method).
KINDS = {
    "ticker": ("watchTicker", "watch_ticker"),
    "orderbook": ("watchOrderBook", "watch_order_book"),
    "mark": ("watchMarkPrice", "watch_mark_price"),
    "funding": ("watchFundingRate", "watch_funding_rate"),
}

BACKOFF_S = 0.5
BACKOFF_MAX_S = 30.0
# How long the first word may take, and how long a stream that has spoken may be silent: ccxt leaves who asked waiting
# where the exchange does not answer. A connection that is dead is noticed by its pings long before.
FIRST_S = 30.0
SILENT_S = 900.0

_names = itertools.count(1)


class WatchListener(Hearer, Protocol):
    """What a watch calls, on the I/O thread."""

    def data(self, structure: Any) -> None:
        """Take ccxt's structure; ccxt goes on writing into an order book."""


class Watch:
    """One subscription, and who listens to it."""

    def __init__(self, watches: Watches, kind: str, symbol: str) -> None:
        self.kind = kind
        self.symbol = symbol
        self.listeners: list[WatchListener] = []
        self.live = False
        self.spoken = False
        self.task: asyncio.Task[None] | None = None
        self._watches = watches
        self._asking: asyncio.Task[Any] | None = None
        self._refusal: Exception | None = None

    @property
    def name(self) -> str:
        """What a log line calls it."""
        return f"{self.symbol} {self.kind}"

    def sent(self) -> None:
        """The subscribe message has left."""
        if self.spoken:
            # ccxt has made the connection anew without a word: it broke just when a message had come.
            self._down("the connection was made anew")
        self._up()

    def refused(self, error: Exception) -> None:
        """The exchange does not take the message, and ccxt tells nobody."""
        self._refusal = error
        if self._asking is not None:
            self._asking.cancel()

    async def run(self) -> None:
        """Watch until cancelled or refused."""
        SENDER.set(self)
        failures = 0
        while True:
            wire = self._watches.wire()
            WIRE.set(wire)
            try:
                async with asyncio.timeout(SILENT_S if self.spoken else FIRST_S):
                    structure = await self._next()
            except Exception as error:  # noqa: BLE001  # ccxt raises of any kind here; most mean: subscribe again
                if self._watches.is_final(error):
                    wire.refused(self)
                    self._watches.refuse(self, error)
                    return
                if isinstance(error, TimeoutError):
                    wire.break_off("an answer or a word did not come in time")
                self._down(f"{type(error).__name__}: {error}")
                failures, self._refusal = failures + 1, None
                await asyncio.sleep(random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(failures, 10))))
                continue
            failures = 0
            self._up()
            self.spoken = True
            for listener in tuple(self.listeners):
                tell(self.name, listener.data, structure)

    async def _next(self) -> Any:
        self._asking = asyncio.get_running_loop().create_task(self._watches.ask(self.kind, self.symbol))
        try:
            return await self._asking
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._refusal is None or (task is not None and task.cancelling()):
                raise
            raise self._refusal from None

    def _up(self) -> None:
        if not self.live:
            self.live = True
            for listener in tuple(self.listeners):
                tell(self.name, listener.up)

    def _down(self, reason: str) -> None:
        self.spoken = False
        logger.warning("The %s stream of %s broke (%s).", self.kind, self.symbol, reason)
        if self.live:
            self.live = False
            for listener in tuple(self.listeners):
                tell(self.name, listener.down, reason)


class Watches:
    """What is watched on one connection, each thing once for all who listen; everything runs on the I/O thread.

    One that nobody listens to any more is watched no longer; its messages end with the socket, when the last one goes.

    Parameters
    ----------
    connection : Connection
        The exchange.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._watches: dict[tuple[str, str], Watch] = {}
        self._wire: Wire | None = None

    def subscribe(self, kind: str, symbol: str, listener: WatchListener) -> None:
        """Watch something of `KINDS`."""
        watch = self._watches.get((kind, symbol))
        if watch is None:
            watch = self._watches[kind, symbol] = Watch(self, kind, symbol)
            watch.task = asyncio.get_running_loop().create_task(watch.run(), name=f"watch {kind} {symbol}")
        watch.listeners.append(listener)
        if watch.live:
            tell(watch.name, listener.up)

    async def unsubscribe(self, listener: WatchListener) -> None:
        """Call `listener` no more."""
        for key, watch in list(self._watches.items()):
            if listener in watch.listeners:
                watch.listeners.remove(listener)
                if not watch.listeners:
                    del self._watches[key]
                    if watch.task is not None:
                        watch.task.cancel()
                        await asyncio.gather(watch.task, return_exceptions=True)
        if not self._watches and self._wire is not None:
            wire, self._wire = self._wire, None
            await wire.close()

    def wire(self) -> Wire:
        """Return the socket that all share."""
        if self._wire is None:
            self._wire = Wire(f"watch-{next(_names)}", self._connection.facts.ping_s)
        return self._wire

    async def ask(self, kind: str, symbol: str) -> Any:
        """Wait for the next structure."""
        return await getattr(self._connection.rest, KINDS[kind][1])(symbol)

    def is_final(self, error: Exception) -> bool:
        """Whether asking again is of no use."""
        return self._connection.is_final(error)

    def refuse(self, watch: Watch, error: Exception) -> None:
        """Let go of what the exchange does not stream: it may be asked for again."""
        self._watches.pop((watch.kind, watch.symbol), None)
        for listener in tuple(watch.listeners):
            tell(watch.name, listener.refused, error)
