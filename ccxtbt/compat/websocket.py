"""CCXTWebSocket: an exchange's streams as messages, for code without a cerebro."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, NamedTuple, Self

from ccxtbt.compat.guest import Guest
from ccxtbt.errors import ConfigError, NotOfferedError, TryLaterError
from ccxtbt.exchange.bridge import blocking_or_awaited, in_a_loop, off_loop
from ccxtbt.exchange.connection import as_ours
from ccxtbt.exchange.private import Private
from ccxtbt.exchange.wire import Wire
from ccxtbt.mailbox import Mailbox
from ccxtbt.market import timeframes
from ccxtbt.market.frames import Trade
from ccxtbt.market.handover import Bar

# Channel -> what ccxt calls the ability.
CHANNELS = {
    "ohlcv": "watchOHLCV",
    "trades": "watchTrades",
    "ticker": "watchTicker",
    "orderbook": "watchOrderBook",
    "funding_rate": "watchFundingRate",
    "mark_price": "watchMarkPrice",
    "orders": "watchOrders",
    "my_trades": "watchMyTrades",
}
ALIASES = {"kline": "ohlcv", "bars": "ohlcv", "trade": "trades", "order_book": "orderbook", "mytrades": "my_trades"}
# Channels that need credentials -> their names on the private side.
PRIVATE = {"orders": "orders", "my_trades": "trades"}
USUAL = ("ticker", "ohlcv")

# How long a subscription may take.
CONFIRM_S = 20.0
BUFFER = 10_000

_names = itertools.count(1)

# Channel, symbol (None: all), timeframe ('' where there is none).
Key = tuple[str, str | None, str]


class Message(NamedTuple):
    """One message of an exchange, or about its streams.

    Attributes
    ----------
    channel : str
        One of `CHANNELS`; ``'status'`` where a subscription broke or came back, ``'lost'`` where nobody read.
    symbol : str or None
        ccxt's unified symbol; None in ``'lost'`` and where a status is of all symbols.
    data : Any
        ``'ohlcv'``: a `Bar`, which begins as ccxt's row does (open time in ms UTC, open, high, low, close, volume);
        ``'trades'``: a list of `Trade`; the others: one of ccxt's structures. ``'status'``: a dict of ``channel``,
        ``up`` and ``reason``; what happened before it came up again may not have come. ``'lost'``: by channel, how many
        messages before this one went unread.
    timeframe : str or None
        Of bars.
    closed : bool or None
        Of bars: the exchange says that the values are final. Exchanges that do not say so leave it False.
    """

    channel: str
    symbol: str | None
    data: Any
    timeframe: str | None = None
    closed: bool | None = None


class _Ear:
    """Turns what one subscription brings into messages; on the I/O thread."""

    def __init__(self, key: Key, put: Callable[[Message], None]) -> None:
        self.channel, self.symbol, self.timeframe = key
        self.live = False
        self.refusal: Exception | None = None
        self.settled = asyncio.Event()
        self._put = put

    async def taken(self) -> None:
        """Wait until the exchange has taken the subscription.

        Raises
        ------
        CCXTBTError
            It has not.
        """
        await self.settled.wait()
        if self.refusal is not None:
            raise as_ours(self.refusal, f"Subscribing to {self.channel} of {self.symbol}")

    def up(self) -> None:
        if self.settled.is_set():
            self._tell(True, "")
        self.live = True
        self.settled.set()

    def down(self, reason: str) -> None:
        if self.live:
            self.live = False
            self._tell(False, reason)

    def refused(self, error: Exception) -> None:
        self.refusal = error
        self.live = False
        if self.settled.is_set():
            self._tell(False, str(error))
        self.settled.set()

    def frame(self, bar: Bar, closed: bool) -> None:
        self._put(Message(self.channel, self.symbol, bar, self.timeframe, closed))

    def trades(self, trades: list[Trade]) -> None:
        self._put(Message(self.channel, self.symbol, trades))

    def data(self, structure: dict[str, Any]) -> None:
        if self.channel == "orderbook":
            # ccxt goes on writing into it.
            structure = {**structure, **{side: [list(level) for level in structure[side]] for side in ("bids", "asks")}}
        self._put(Message(self.channel, structure.get("symbol") or self.symbol, structure))

    def _tell(self, up: bool, reason: str) -> None:
        news = {"channel": self.channel, "up": up, "reason": reason}
        self._put(Message("status", self.symbol, news, self.timeframe or None))


class _Account:
    """Shares out what the private streams bring; on the I/O thread."""

    def __init__(self, ears: dict[Key, _Ear]) -> None:
        self._ears = ears

    def order(self, order: dict[str, Any]) -> None:
        self._share("orders", order)

    def trade(self, trade: dict[str, Any]) -> None:
        self._share("my_trades", trade)

    def balance(self, balance: dict[str, Any]) -> None:
        """Nobody asked for it."""

    def positions(self, positions: list[dict[str, Any]]) -> None:
        """Nobody asked for them."""

    def up(self) -> None:
        for ear in self._private():
            ear.up()

    def down(self, reason: str) -> None:
        for ear in self._private():
            ear.down(reason)

    def _private(self) -> list[_Ear]:
        return [ear for ear in self._ears.values() if ear.channel in PRIVATE]

    def _share(self, channel: str, structure: dict[str, Any]) -> None:
        for ear in list(self._ears.values()):
            if ear.channel == channel and ear.symbol in {None, structure.get("symbol")}:
                ear.data(structure)


class CCXTWebSocket(Guest):
    """An exchange's streams as messages, read one by one.

    Each subscription is kept: after a break it is subscribed again, with jittered backoff, and a ``'status'`` message
    tells of both. What happened in between does not come: who needs each bar takes a `ThreadedDataFeed`.

    It blocks, and in a thread where an event loop runs it is awaited: ``ws.connect()``, or ``await ws.connect()``;
    ``for message in ws``, or ``async for message in ws``; ``with ws``, or ``async with ws``. The network's work is done
    on the I/O thread of the store in both.

    Parameters
    ----------
    exchange : CCXTStore, str or a ccxt exchange
        A store; or ccxt's name of an exchange, or one of ccxt's instances. All of one account share connection and
        budget.
    symbols : str or iterable of str
        ccxt's unified symbols that `connect` subscribes to.
    channels : str, iterable of str or None
        Of `CHANNELS`; None: ``'ticker'`` and ``'ohlcv'``, as far as the exchange streams them.
    timeframe : str
        Of bars.
    buffer : int
        How many messages may wait. Where nobody reads, the oldest go: a ``'lost'`` message tells how many of each
        channel, and the log and `notify_store` tell that it began.
    **options
        `CCXTStore`'s, where `exchange` is not a store: ``config``, ``sandbox``, ...

    Examples
    --------
    >>> with CCXTWebSocket("binance", ["BTC/USDT"], channels="trades") as ws:  # doctest: +SKIP
    ...     for message in ws:
    ...         print(message.symbol, message.data)
    """

    def __init__(
        self,
        exchange: Any,
        symbols: str | Iterable[str] = (),
        *,
        channels: str | Iterable[str] | None = None,
        timeframe: str = "1m",
        buffer: int = BUFFER,
        **options: Any,
    ) -> None:
        super().__init__(exchange, **options)
        self.symbols = [symbols] if isinstance(symbols, str) else list(symbols)
        self.timeframe = timeframe
        self.channels = None if channels is None else _channels(channels)
        self._ears: dict[Key, _Ear] = {}
        self._dropped = Counter(dict.fromkeys((*CHANNELS, "status"), 0))
        self._told = dict(self._dropped)
        self._box = Mailbox(f"messages of {self.store.exchange_id}", buffer, self._drop)
        self._private: Private | None = None

    @property
    def dropped(self) -> int:
        """How many messages went unread, because too many waited."""
        return self._box.dropped

    @blocking_or_awaited
    def connect(self) -> None:
        """Reach the exchange and subscribe to `symbols`; returns when all subscriptions are sent.

        Raises
        ------
        ConfigError
            An unknown symbol, channel or timeframe, or for ``'orders'`` and ``'my_trades'`` a wrong apiKey or secret;
            `NotOfferedError` where the exchange does not stream it.
        TryLaterError
            The exchange does not answer.
        """
        self._connect()

    def _connect(self) -> None:
        if self.running:
            return
        self._enter()
        try:
            self._subscribe([key for symbol in self.symbols for key in self._keys(symbol, None, None)])
        except BaseException:
            self._exit()
            raise

    @blocking_or_awaited
    def subscribe(
        self, symbol: str | None, channel: str | Iterable[str] | None = None, timeframe: str | None = None
    ) -> None:
        """Subscribe to more; returns when the subscription is sent. A refusal that follows comes as a ``'status'``.

        Parameters
        ----------
        symbol : str or None
            ccxt's unified symbol; None, for ``'orders'`` and ``'my_trades'``: all.
        channel : str, iterable of str or None
            Of `CHANNELS`; None: the constructor's.
        timeframe : str or None
            Of bars; None: the constructor's.

        Raises
        ------
        ConfigError, TryLaterError
            As `connect`; also where that was not called.
        """
        self._subscribe(self._keys(symbol, channel, timeframe))

    @blocking_or_awaited
    def unsubscribe(
        self, symbol: str | None, channel: str | Iterable[str] | None = None, timeframe: str | None = None
    ) -> None:
        """Subscribe no longer to what `subscribe` was called with."""
        self._call(self._part, self._keys(symbol, channel, timeframe))

    def get_message(self, timeout_s: float | None = None) -> Any:
        """Return the next message.

        Parameters
        ----------
        timeout_s : float or None
            How long to wait for it; None: until there is one.

        Returns
        -------
        Message or None
            None where none came in time, or the connection has ended and all messages are read.

        Raises
        ------
        ConfigError
            `connect` was never called.
        """
        if self._stay is None:
            raise ConfigError(f"There are no messages of {self.store.exchange_id} yet: call connect() first.")
        return self._get_awaited(timeout_s) if in_a_loop() else self._get(timeout_s)

    @blocking_or_awaited
    def disconnect(self) -> None:
        """End all subscriptions, and the connection where nobody else needs it; nothing happens if it has ended."""
        self._exit()

    def is_connected(self) -> bool:
        """Whether all that was subscribed to is streaming now."""
        return self.running and all(ear.live for ear in list(self._ears.values()))

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *error: object) -> None:
        self._exit()

    async def __aenter__(self) -> Self:
        await self.connect()  # type: ignore[misc]  # a loop runs here
        return self

    async def __aexit__(self, *error: object) -> None:
        await off_loop(self._exit)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._get, None)

    async def __aiter__(self) -> AsyncIterator[Message]:
        while (message := await self._get_awaited(None)) is not None:
            yield message

    def _get(self, timeout_s: float | None = None) -> Any:
        return self._lost() or self._box.next(timeout_s)

    async def _get_awaited(self, timeout_s: float | None) -> Any:
        return self._lost() or await self._box.next_awaited(timeout_s)

    def _drop(self, message: Message) -> None:
        self._dropped[message.channel] += 1

    def _lost(self) -> Message | None:
        """Return what is to be told of messages that went unread."""
        if self._box.dropped == sum(self._told.values()):
            return None
        before, self._told = self._told, dict(self._dropped)
        return Message("lost", None, {name: n - before[name] for name, n in self._told.items() if n > before[name]})

    def _put(self, message: Message) -> None:
        behind = self._box.behind
        self._box.put(message)
        if self._box.behind and not behind:
            self.connection.notice(f"{self._box.name}: nobody reads; of what waits, the oldest is dropped.")

    # What is asked for

    def _keys(self, symbol: str | None, channels: str | Iterable[str] | None, timeframe: str | None) -> list[Key]:
        """Return what to subscribe to, once it is known that the exchange has it."""
        if not self.running:
            raise ConfigError(f"There is no connection to {self.store.exchange_id}: call connect() first.")
        if channels is None:
            channels = self.channels or [name for name in USUAL if self._offers(name)]
        keys: list[Key] = []
        for channel in _channels(channels):
            if not self._offers(channel):
                raise NotOfferedError(f"{self.store.exchange_id} streams no {channel} through ccxt.")
            if channel in PRIVATE and not self.connection.keyed:
                raise ConfigError(f"{channel} are an account's: give its apiKey and secret in config.")
            if symbol is not None or channel not in PRIVATE:
                symbol = self.store.checked_symbol(symbol)
            keys.append((channel, symbol, self._word(timeframe) if channel == "ohlcv" else ""))
        return keys

    def _offers(self, channel: str) -> bool:
        return bool(self.connection.rest.has.get(CHANNELS[channel]))

    def _word(self, timeframe: str | None) -> str:
        return self.store.get_granularity(*timeframes.to_backtrader(timeframe or self.timeframe))

    def _subscribe(self, keys: list[Key]) -> None:
        try:
            self._call(self._listen, keys)
        except TimeoutError as error:
            raise TryLaterError(
                f"{self.store.exchange_id} did not take the subscription within {CONFIRM_S:g} s; try again later."
            ) from error

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return self.connection.call(function, *args)
        except concurrent.futures.CancelledError as error:
            raise TryLaterError(f"The connection to {self.store.exchange_id} was ended meanwhile.") from error

    # On the I/O thread

    async def _listen(self, keys: list[Key], limit_s: float | None = CONFIRM_S) -> None:
        """Subscribe, and wait until the exchange has taken it; what is not taken in time, or refused, is let go."""
        fresh = [key for key in keys if key not in self._ears or self._ears[key].refusal is not None]
        if self._private is None and any(channel in PRIVATE for channel, _, _ in fresh):
            await self._log_in()
        try:
            for key in fresh:
                self._ears[key] = _Ear(key, self._put)
                self._attach(key)
            async with asyncio.timeout(limit_s):
                for ear in [self._ears[key] for key in keys]:
                    await ear.taken()
        except BaseException:
            await self._part(fresh)
            raise

    async def _log_in(self) -> None:
        """Ask what only the account may: of a key that is refused to a stream ccxt tells too late, or nobody."""
        rest = self.connection.rest
        if not rest.has.get("fetchBalance"):
            return
        async with asyncio.timeout(CONFIRM_S):
            try:
                await self.connection.retrying(rest.fetch_balance)()
            except Exception as error:
                raise as_ours(error, "Opening the account's streams") from error

    def _attach(self, key: Key) -> None:
        channel, symbol, timeframe = key
        ear = self._ears[key]
        if channel in PRIVATE:
            self._attach_private(channel, ear)
        elif channel == "ohlcv":
            self.store.streams.subscribe(str(symbol), timeframe, ear)
        elif channel == "trades":
            self.store.streams.subscribe_trades(str(symbol), ear)
        else:
            self.store.watches.subscribe(channel, str(symbol), ear)

    def _attach_private(self, channel: str, ear: _Ear) -> None:
        if self._private is None:
            wire = Wire(f"messages-{next(_names)}", self.connection.facts.ping_s)
            self._private = Private(self.connection, _Account(self._ears), wire)
        others = [each for each in self._ears.values() if each.channel in PRIVATE and each is not ear]
        if all(each.channel != channel for each in others):
            self._private.follow(PRIVATE[channel])
        if any(each.live for each in others):
            # One subscription at the exchange serves them all.
            ear.up()

    async def _part(self, keys: Iterable[Key]) -> None:
        for key in keys:
            ear = self._ears.pop(key, None)
            if ear is None:
                continue
            # Who still waits for it need not.
            ear.settled.set()
            if ear.channel not in PRIVATE:
                self.store.streams.unsubscribe(ear)
                await self.store.watches.unsubscribe(ear)
        left = PRIVATE.keys() & {ear.channel for ear in self._ears.values()}
        if self._private is None:
            return
        for channel in PRIVATE.keys() - left if left else ():
            await self._private.end(PRIVATE[channel])
        if not left:
            private, self._private = self._private, None
            await private.end()

    def _begin(self) -> None:
        self._ears.clear()
        self._private = None
        self._box.begin()

    async def _end(self) -> None:
        await self._part(list(self._ears))

    def _over(self) -> None:
        self._box.end()


def _channels(names: str | Iterable[str]) -> list[str]:
    """Return channels by their own names."""
    known = []
    for name in [names] if isinstance(names, str) else names:
        channel = ALIASES.get(name.lower(), name.lower())
        if channel not in CHANNELS:
            raise ConfigError(f"channel={name!r} is none: give one of {', '.join(CHANNELS)}.")
        known.append(channel)
    return known
