"""CCXTWebSocketManager: an exchange's streams as callbacks, by the name and methods of cloudQuant's module."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ccxtbt.ccxtstore import CCXTStore
from ccxtbt.compat.websocket import ALIASES, CCXTWebSocket, Key, Message
from ccxtbt.errors import CCXTBTError, ConfigError
from ccxtbt.market.subscriptions import tell

logger = logging.getLogger(__name__)

# What is asked for by REST, every so many seconds, where the exchange does not stream it.
POLLED = {"funding_rate": "fetchFundingRate", "mark_price": "fetchFundingRate"}
POLL_S = 5.0


class CCXTWebSocketManager(CCXTWebSocket):
    """A `CCXTWebSocket` that calls back, on the store's I/O thread, instead of being read.

    Who subscribes does not wait, and may do so before `start`. A callback that raises is logged and called again with
    the next message; it must not wait for anything, since all streams of the account are served by that thread.

    Parameters
    ----------
    exchange_id : CCXTStore, str or a ccxt exchange
        As for `CCXTWebSocket`.
    config : mapping or None
        ccxt's configuration, where `exchange_id` is no store.
    markets : mapping or None
        Accepted from old scripts: the markets are loaded once for all that one account does.
    sandbox : bool
        Use the exchange's test network.
    **options
        `CCXTStore`'s.
    """

    def __init__(
        self,
        exchange_id: Any,
        config: Mapping[str, Any] | None = None,
        markets: Mapping[str, Any] | None = None,
        sandbox: bool = False,
        **options: Any,
    ) -> None:
        if not isinstance(exchange_id, CCXTStore):
            options |= {"config": dict(config or {}), "sandbox": sandbox}
        super().__init__(exchange_id, **options)
        self._callbacks: dict[Key, Callable[[Any], None]] = {}
        self._early: dict[Key, Callable[[Any], None]] = {}
        self._polls: dict[Key, asyncio.Task[None]] = {}

    @property
    def exchange_id(self) -> str:
        """Ccxt's name of the exchange."""
        return self.store.exchange_id

    def start(self) -> None:
        """Reach the exchange, and subscribe to what was asked for before; waits for it, where an event loop runs too.

        Raises
        ------
        ConfigError, TryLaterError
            As `connect`; or what the first subscription that cannot be was refused for, once it runs with all others.
        """
        self._connect()
        early, self._early = self._early, {}
        refusals: list[CCXTBTError] = []
        for key, callback in early.items():
            try:
                self._ask(*key, callback)
            except CCXTBTError as error:
                logger.error("There will be no %s: %s", _in_one_word(key), error)  # noqa: TRY400  # raised below
                refusals.append(error)
        if refusals:
            raise refusals[0]

    def stop(self) -> None:
        """End all subscriptions, and the connection where nobody else needs it."""
        self._exit()

    def subscribe_ticker(self, symbol: str, callback: Callable[[Any], None]) -> None:
        """Call back with each of ccxt's tickers."""
        self._ask("ticker", symbol, "", callback)

    def subscribe_ohlcv(self, symbol: str, timeframe: str, callback: Callable[[Any], None]) -> None:
        """Call back with lists of ccxt's rows: open time in ms, open, high, low, close, volume; one may be forming."""
        self._ask("ohlcv", symbol, timeframe, callback)

    def subscribe_trades(self, symbol: str, callback: Callable[[Any], None]) -> None:
        """Call back with lists of ccxt's public trades."""
        self._ask("trades", symbol, "", callback)

    def subscribe_orderbook(self, symbol: str, callback: Callable[[Any], None], limit: int = 20) -> None:
        """Call back with each state of the order book, cut to `limit` levels a side."""

        def cut(book: Any) -> None:
            callback({**book, **{side: book[side][:limit] for side in ("bids", "asks")}})

        self._ask("orderbook", symbol, "", cut)

    def subscribe_my_trades(self, symbol: str | None, callback: Callable[[Any], None]) -> None:
        """Call back with lists of the account's own trades, in ccxt's structure."""
        self._ask("my_trades", symbol, "", callback)

    def subscribe_funding_rate(self, symbol: str, callback: Callable[[Any], None]) -> None:
        """Call back with ccxt's funding rates; where the exchange streams none they are asked for every 5 s."""
        self._ask("funding_rate", symbol, "", callback)

    def subscribe_mark_price(self, symbol: str, callback: Callable[[Any], None]) -> None:
        """Call back with structures that have a ``markPrice``; asked for as funding rates where there is no stream."""
        self._ask("mark_price", symbol, "", callback)

    def unsubscribe(self, symbol: str | None, channel: Any = None, timeframe: str | None = None) -> Any:
        """Call back no longer.

        Parameters
        ----------
        symbol : str
            The subscription in one word, as old scripts write it: ``'ticker:BTC/USDT'``, ``'ohlcv:BTC/USDT:1m'``; or
            as `CCXTWebSocket.unsubscribe` takes it, with a `channel`.
        """
        if channel is not None or symbol is None:
            return super().unsubscribe(symbol, channel, timeframe)
        for key in [key for key in {**self._callbacks, **self._early} if _in_one_word(key) == _same_word(symbol)]:
            self._early.pop(key, None)
            if self._callbacks.pop(key, None) is not None and self.running:
                self.connection.post(self._part, [key], name=f"end of {symbol}")
        return None

    def _ask(self, channel: str, symbol: str | None, timeframe: str, callback: Callable[[Any], None]) -> None:
        if not self.running:
            self._early[channel, symbol, timeframe] = callback
            return
        (key,) = self._keys(symbol, channel, timeframe or None)
        self._callbacks[key] = callback
        # Nobody waits for it here, so that it may take as long as the exchange needs.
        self.connection.post(self._listen, [key], None, name=f"{channel} of {symbol}")

    def _offers(self, channel: str) -> bool:
        return super()._offers(channel) or bool(self.connection.rest.has.get(POLLED.get(channel, "")))

    def _attach(self, key: Key) -> None:
        channel, symbol, _ = key
        if super()._offers(channel):
            super()._attach(key)
            return
        self._polls[key] = asyncio.get_running_loop().create_task(self._poll(key), name=f"{channel} of {symbol}")
        self._ears[key].up()

    async def _part(self, keys: Iterable[Key]) -> None:
        keys = list(keys)
        polls = [self._polls.pop(key) for key in keys if key in self._polls]
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
        await super()._part(keys)

    async def _poll(self, key: Key) -> None:
        ear = self._ears[key]
        ask = self.connection.retrying(self.connection.rest.fetch_funding_rate)
        while True:
            try:
                ear.data(await ask(ear.symbol))
            except Exception as error:  # noqa: BLE001  # of any kind; the next one may do
                logger.warning("The %s of %s cannot be had now: %s", ear.channel, ear.symbol, error)
            await asyncio.sleep(POLL_S / self.connection.clock.rate)

    def _over(self) -> None:
        self._polls.clear()
        super()._over()

    def _put(self, message: Message) -> None:
        callback = self._callbacks.get((message.channel, message.symbol, message.timeframe or ""))
        if callback is None and message.channel == "my_trades":
            callback = self._callbacks.get((message.channel, None, ""))
        if callback is not None:
            tell(f"{message.channel} of {message.symbol}", callback, _as_ccxt(message))
        elif message.channel == "status":
            logger.info("%s of %s: %s", message.data["channel"], message.symbol, message.data)
        else:
            super()._put(message)


def _as_ccxt(message: Message) -> Any:
    if message.channel == "ohlcv":
        return [list(message.data[:6])]
    if message.channel == "trades":
        return [
            {
                "id": trade.id,
                "timestamp": trade.ts_ms,
                "symbol": message.symbol,
                "side": trade.side or None,
                "price": trade.price,
                "amount": trade.amount,
            }
            for trade in message.data
        ]
    return [message.data] if message.channel == "my_trades" else message.data


def _in_one_word(key: Key) -> str:
    return ":".join(part for part in key if part)


def _same_word(text: str) -> str:
    channel, _, rest = text.partition(":")
    if not rest:
        raise ConfigError(f"unsubscribe({text!r}) names no subscription: say it as 'ticker:BTC/USDT'.")
    return f"{ALIASES.get(channel, channel)}:{rest}"


CCXTStore.WebSocketManagerCls = CCXTWebSocketManager
