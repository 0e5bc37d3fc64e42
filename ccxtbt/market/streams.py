"""Live bars over WebSocket: who subscribes to what, one supervised task a shard.

ccxt knows how each exchange is subscribed to; the frames themselves are read by `frames` from the tap on ccxt's
client, before ccxt parses them. A `watch_*` call therefore stays pending for as long as its connection lives, and
its failure is the news that the connection broke.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from typing import Any, Protocol

from ccxtbt.exchange.adapter import SENDER
from ccxtbt.exchange.connection import Connection
from ccxtbt.market.frames import READERS
from ccxtbt.market.handover import Bar, Origin

logger = logging.getLogger(__name__)

# Subscriptions asked for within this time go out in one message.
GATHER_S = 0.02
BACKOFF_S = 0.5
BACKOFF_MAX_S = 30.0
# A connection that lived this long was a good one: the next break starts the backoff anew.
STEADY_S = 30.0

Key = tuple[str, str]


class Listener(Protocol):
    """What a subscription calls, on the I/O thread."""

    def up(self) -> None:
        """The subscription was sent, for the first time or again after a break."""

    def down(self, reason: str) -> None:
        """The connection broke: frames may have been lost from now on."""

    def frame(self, bar: Bar, closed: bool) -> None:
        """A bar came; `closed` where the exchange says that it is final."""

    def refused(self, error: Exception) -> None:
        """The exchange does not stream this market or timeframe: nothing will come."""


class Streams:
    """Subscriptions to bars on one connection; everything runs on the I/O thread.

    Parameters
    ----------
    connection : Connection
        Where the frames come from.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._read = READERS.get(connection.account.exchange_id)
        self._listeners: dict[Key, Listener] = {}
        self._by_id: dict[Key, Listener] = {}
        self._waiting: list[Key] = []
        self._gathering = False

    def subscribe(self, symbol: str, timeframe: str, listener: Listener) -> None:
        """Stream the bars of `symbol`; several calls within a moment share one message."""
        key = (symbol, timeframe)
        rest = self._connection.rest
        self._listeners[key] = listener
        self._by_id[rest.market_id(symbol), rest.timeframes[timeframe]] = listener
        self._waiting.append(key)
        if not self._gathering:
            self._gathering = True
            self._connection.spawn(self._gather, name="subscribe")

    def tap(self, url: str, data: str | bytes) -> bool:
        """Take a raw frame if it is a bar of ours; True: ccxt need not parse it."""
        if self._read is None:
            return False
        frame = self._read(data)
        if frame is None:
            return False
        listener = self._by_id.get((frame.market_id, frame.interval))
        if listener is None:
            return False
        listener.frame(Bar(*frame[2:8], Origin.WS), frame.closed)
        return True

    async def _gather(self) -> None:
        await asyncio.sleep(GATHER_S)
        self._gathering = False
        keys, self._waiting = self._waiting, []
        size = self._connection.facts.streams_per_request if self._connection.rest.has["watchOHLCVForSymbols"] else 1
        for i in range(0, len(keys), size):
            shard = Shard(self._connection, {key: self._listeners[key] for key in keys[i : i + size]})
            self._connection.spawn(shard.run, name=f"bars {keys[i][0]}...")


class Shard:
    """The subscriptions of one subscribe message, kept alive."""

    def __init__(self, connection: Connection, listeners: dict[Key, Listener]) -> None:
        self._connection = connection
        self._listeners = listeners

    def sent(self) -> None:
        """The subscribe message has left: frames come from now on."""
        for listener in self._listeners.values():
            listener.up()

    async def run(self) -> None:
        """Subscribe and stay subscribed until cancelled or refused for good."""
        SENDER.set(self)
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began_s = loop.time()
            try:
                while True:
                    self._parsed_by_ccxt(await self._watch())
            except Exception as error:  # noqa: BLE001  # ccxt raises of any kind here: refused for good, or a break
                if self._connection.is_final(error):
                    for listener in self._listeners.values():
                        listener.refused(error)
                    return
                reason = f"{type(error).__name__}: {error}"
                logger.warning("The bar stream of %d subscriptions broke (%s).", len(self._listeners), reason)
                for listener in self._listeners.values():
                    listener.down(reason)
            failures = 1 if loop.time() - began_s > STEADY_S else failures + 1
            await asyncio.sleep(random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2**failures)))

    async def _watch(self) -> Any:
        rest = self._connection.rest
        pairs = [list(key) for key in self._listeners]
        if rest.has["watchOHLCVForSymbols"]:
            return await rest.watch_ohlcv_for_symbols(pairs)
        symbol, timeframe = pairs[0]
        return {symbol: {timeframe: await rest.watch_ohlcv(symbol, timeframe)}}

    def _parsed_by_ccxt(self, result: dict[str, dict[str, Iterable[list[Any]]]]) -> None:
        """Pass on rows that no reader of ours took; ccxt does not say whether they are closed."""
        for symbol, frames in result.items():
            for timeframe, rows in frames.items():
                listener = self._listeners.get((symbol, timeframe))
                if listener is None:
                    continue
                for ts_ms, *prices in rows:
                    opened, high, low, close, volume = map(float, prices)
                    listener.frame(Bar(int(ts_ms), opened, high, low, close, volume, Origin.WS), closed=False)
