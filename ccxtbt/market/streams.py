"""Live bars over WebSocket: who subscribes to what, one supervised task a shard.

ccxt knows how each exchange is subscribed to; the frames themselves are read by `frames` from the tap on ccxt's
client, before ccxt parses them. A `watch_*` call therefore stays pending for as long as its connection lives, and
its failure is the news that the connection broke.

A shard is as many subscriptions as one socket may carry. It lives on through its sockets: a new one after a break,
and a new one beside the old where the old is too old or a subscription has fallen silent.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ccxtbt.exchange.connection import Connection
from ccxtbt.exchange.wire import SENDER, WIRE, Wire
from ccxtbt.market.frames import DIALECTS
from ccxtbt.market.handover import Bar, Origin
from ccxtbt.market.timeframes import parse

logger = logging.getLogger(__name__)

# Subscriptions asked for within this time go out together.
GATHER_S = 0.02
BACKOFF_S = 0.5
BACKOFF_MAX_S = 30.0
# A connection that lived this long was a good one: the next break starts the backoff anew.
STEADY_S = 30.0
# How long after its turn a subscription may stay unsent or unanswered.
CONFIRM_S = 20.0
# How often a shard looks at its subscriptions when nothing happens.
LOOK_S = 0.5
# A connection that says nothing for so many times the longest time between two pings is dead.
MISSED_PINGS = 2.5
# A subscription is silent too long after two bars and this time, or after the longest patience for any timeframe; the
# patience doubles with each time that a new socket brought nothing either, so that a quiet market stays cheap.
SILENT_BARS = 2
SILENT_S = 30.0
SILENT_MAX_S = 900.0
SILENT_DOUBLINGS = 6
# The old socket stays so long after the new one is confirmed: what was on its way still arrives.
LINGER_S = 1.0
# How long after a replacement that failed the next one is tried, while the old socket still works.
RENEW_AGAIN_S = 30.0

Key = tuple[str, str]
Kind = tuple[str | None, bool | None, str | None]


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


class Subscription:
    """The bars of one market and timeframe, and who listens to them.

    Parameters
    ----------
    symbol : str
        ccxt's unified symbol.
    word : str
        The timeframe, as it is said to ccxt.
    timeframe : str
        The timeframe, as the listener says it.
    patience_s : float
        How long the stream may be silent, in seconds of this machine.
    """

    __slots__ = ("heard_s", "listeners", "live", "patience_s", "silences", "symbol", "timeframe", "word")

    def __init__(self, symbol: str, word: str, timeframe: str, patience_s: float) -> None:
        self.symbol = symbol
        self.word = word
        self.timeframe = timeframe
        self.patience_s = patience_s
        self.listeners: list[Listener] = []
        self.live = False
        self.heard_s = 0.0
        self.silences = 0

    @property
    def key(self) -> Key:
        """Symbol and timeframe."""
        return self.symbol, self.timeframe

    def up(self, now_s: float) -> None:
        """Note that frames come from now on."""
        self.heard_s = now_s
        if not self.live:
            self.live = True
            for listener in self.listeners:
                listener.up()

    def down(self, reason: str) -> None:
        """Note that frames may be lost from now on."""
        if self.live:
            self.live = False
            for listener in self.listeners:
                listener.down(reason)

    def frame(self, bar: Bar, closed: bool, now_s: float) -> None:
        """Pass a bar on."""
        self.heard_s = now_s
        self.silences = 0
        for listener in self.listeners:
            listener.frame(bar, closed)

    def silent(self, now_s: float) -> bool:
        """Whether nothing has come for too long."""
        return self.live and now_s - self.heard_s > self.patience_s * 2 ** min(self.silences, SILENT_DOUBLINGS)


class Streams:
    """Subscriptions to bars on one connection; everything runs on the I/O thread.

    Parameters
    ----------
    connection : Connection
        Where the frames come from.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dialect = DIALECTS.get(connection.account.exchange_id)
        self._subscriptions: dict[Key, Subscription] = {}
        # By kind of market, for spot and contracts may share a name: (market, timeframe) as frames name them.
        self._named: dict[Kind, dict[Key, Subscription]] = {}
        self._shards: list[Shard] = []
        self._waiting: list[Subscription] = []
        self._gathering = False
        self._names = itertools.count(1)
        self._free_s = 0.0

    def subscribe(self, symbol: str, timeframe: str, listener: Listener) -> None:
        """Stream the bars of `symbol`; calls within a moment share messages and sockets."""
        known = self._subscriptions.get((symbol, timeframe))
        if known is not None:
            known.listeners.append(listener)
            if known.live:
                listener.up()
            return
        rest = self._connection.rest
        word = self._connection.facts.stream_timeframes.get(timeframe, timeframe)
        patience_s = min(SILENT_BARS * parse(timeframe).nominal_ms / 1000 + SILENT_S, SILENT_MAX_S)
        subscription = Subscription(symbol, word, timeframe, patience_s / self._connection.clock.rate)
        subscription.listeners.append(listener)
        self._subscriptions[subscription.key] = subscription
        key = self._dialect.key(rest, symbol, word) if self._dialect is not None else None
        if key is not None:
            self._named.setdefault(self._kind(subscription), {})[key] = subscription
        self._waiting.append(subscription)
        if not self._gathering:
            self._gathering = True
            self._connection.spawn(self._gather, name="subscribe")

    def tap(self, url: str, data: str | bytes) -> bool:
        """Leave frames of connections that are not ours to ccxt."""
        return False

    def wire(self, kind: Kind) -> Wire:
        """Return a wire for a new socket, whose frames go to the subscriptions of a kind of market."""
        return Wire(f"bars-{next(self._names)}", self._connection.facts.ping_s, self._tap_of(kind))

    def _tap_of(self, kind: Kind) -> Callable[[str | bytes], bool]:
        if self._dialect is None:
            return lambda data: False
        read, named, now_s, by = self._dialect.read, self._named.setdefault(kind, {}), time.monotonic, Origin.WS

        def tap(data: str | bytes) -> bool:
            taken = False
            try:
                frames = read(data)
            except (ValueError, KeyError, IndexError, TypeError) as error:
                # ccxt says what it thinks of such a frame; the connection is none the worse for it.
                logger.warning("A frame cannot be read (%s: %s).", type(error).__name__, error)
                return False
            for frame in frames:
                subscription = named.get(frame[:2])
                if subscription is not None:
                    subscription.frame(tuple.__new__(Bar, (*frame[2:8], by)), frame.closed, now_s())
                    taken = True
            return taken

        return tap

    async def turn(self) -> None:
        """Wait until one more connection may be made."""
        now_s = time.monotonic()
        at_s = max(now_s, self._free_s)
        self._free_s = at_s + 1 / self._connection.facts.connects_per_s
        await asyncio.sleep(at_s - now_s)

    def forget(self, subscription: Subscription) -> None:
        """Let go of a subscription that was refused: it may be asked for again."""
        self._subscriptions.pop(subscription.key, None)

    async def _gather(self) -> None:
        await asyncio.sleep(GATHER_S)
        self._gathering = False
        waiting, self._waiting = self._waiting, []
        by_kind: dict[Kind, list[Subscription]] = {}
        for subscription in waiting:
            by_kind.setdefault(self._kind(subscription), []).append(subscription)
        for kind, subscriptions in by_kind.items():
            self._share_out(kind, subscriptions)

    def _kind(self, subscription: Subscription) -> Kind:
        """Return what all markets of one message, and for many exchanges of one address, have in common."""
        market = self._connection.rest.market(subscription.symbol)
        return market.get("type"), market.get("linear"), market.get("settle") if market.get("contract") else None

    def _share_out(self, kind: Kind, subscriptions: list[Subscription]) -> None:
        for shard in self._shards:
            if shard.kind == kind and shard.room and subscriptions:
                taken, subscriptions = subscriptions[: shard.room], subscriptions[shard.room :]
                shard.add(taken)
        size = self._connection.facts.streams_per_socket
        for i in range(0, len(subscriptions), size):
            shard = Shard(self, self._connection, kind, subscriptions[i : i + size])
            self._shards.append(shard)
            self._connection.spawn(shard.run, name=f"bars {subscriptions[i].symbol}...")


class Group:
    """The subscriptions of one subscribe message on one socket.

    Attributes
    ----------
    error : Exception or None
        Why nothing comes any more.
    """

    def __init__(self, connection: Connection, wire: Wire, subscriptions: list[Subscription], news: asyncio.Event):
        self.subscriptions = subscriptions
        self.error: Exception | None = None
        self.sent_s: float | None = None
        self._connection = connection
        self._wire = wire
        self._news = news
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"watch {subscriptions[0].symbol}...")

    @property
    def confirmed(self) -> bool:
        """Whether the exchange has said anything since the message left."""
        heard_s = self._wire.heard_s
        return self.sent_s is not None and heard_s is not None and heard_s > self.sent_s

    def sent(self) -> None:
        """The subscribe message has left: frames come from now on."""
        if self.sent_s is None:
            self.sent_s = time.monotonic()
            for subscription in self.subscriptions:
                subscription.up(self.sent_s)

    def refused(self, error: Exception) -> None:
        """The exchange does not take the message."""
        self.error = self.error or error
        self._news.set()

    async def end(self) -> None:
        """Stop watching."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        SENDER.set(self)
        WIRE.set(self._wire)
        try:
            while True:
                self._parsed_by_ccxt(await self._watch())
        except Exception as error:  # noqa: BLE001  # ccxt raises of any kind here: refused for good, or a break
            self.refused(error)

    async def _watch(self) -> Any:
        rest = self._connection.rest
        if rest.has["watchOHLCVForSymbols"]:
            return await rest.watch_ohlcv_for_symbols([[each.symbol, each.word] for each in self.subscriptions])
        (only,) = self.subscriptions
        return {only.symbol: {only.word: await rest.watch_ohlcv(only.symbol, only.word)}}

    def _parsed_by_ccxt(self, result: dict[str, dict[str, Iterable[list[Any]]]]) -> None:
        """Pass on rows that no reader of ours took; ccxt does not say whether they are closed."""
        now_s = time.monotonic()
        for subscription in self.subscriptions:
            for ts_ms, *prices in result.get(subscription.symbol, {}).get(subscription.word, ()):
                opened, high, low, close, volume = map(float, prices)
                bar = Bar(int(ts_ms), opened, high, low, close, volume, Origin.WS)
                subscription.frame(bar, closed=False, now_s=now_s)


class Socket:
    """One connection and what is subscribed on it."""

    def __init__(self, connection: Connection, wire: Wire, subscriptions: list[Subscription]) -> None:
        facts = connection.facts
        self._connection = connection
        self._wire = wire
        self._size = facts.streams_per_request if connection.rest.has["watchOHLCVForSymbols"] else 1
        count, window_ms = facts.socket_messages or (1, 0)
        self._gap_s = window_ms / count / 1000
        self._dead_s = MISSED_PINGS * facts.ping_s
        self._news = asyncio.Event()
        self._groups: list[Group] = []
        self._confirm_by_s = 0.0
        self.opened_s = time.monotonic()
        self.add(subscriptions)

    @property
    def confirmed(self) -> bool:
        """Whether the exchange has answered to every message."""
        return all(group.confirmed for group in self._groups)

    def add(self, subscriptions: list[Subscription]) -> None:
        """Subscribe to more."""
        for i in range(0, len(subscriptions), self._size):
            self._watch(subscriptions[i : i + self._size])

    async def wait(self, seconds: float) -> None:
        """Wait for news, but not longer."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    async def look(self) -> list[tuple[Subscription, Exception]]:
        """See to what happened: return what was refused for good, having asked for the others of its message again.

        Raises
        ------
        Exception
            The connection is of no use any more.
        """
        self._news.clear()
        refused: list[tuple[Subscription, Exception]] = []
        for group in [group for group in self._groups if group.error is not None]:
            error = group.error
            if error is None or not self._connection.is_final(error):
                raise error or TimeoutError
            self._groups.remove(group)
            await group.end()
            self._wire.refused(group)
            if len(group.subscriptions) == 1:
                refused.append((group.subscriptions[0], error))
                continue
            # One that is refused takes the others of its message with it: halve the message until it stands alone.
            middle = len(group.subscriptions) // 2
            self._watch(group.subscriptions[:middle])
            self._watch(group.subscriptions[middle:])
        now_s = time.monotonic()
        heard_s = self._wire.heard_s
        if heard_s is not None and now_s - heard_s > self._dead_s:
            raise TimeoutError(f"the connection has said nothing, not even to pings, for {now_s - heard_s:.1f} s")
        if now_s > self._confirm_by_s and not self.confirmed:
            raise TimeoutError("a subscription was not confirmed in time")
        return refused

    async def close(self) -> None:
        """End the connection."""
        await asyncio.gather(*(group.end() for group in self._groups))
        await self._wire.close()

    def _watch(self, subscriptions: list[Subscription]) -> None:
        self._groups.append(Group(self._connection, self._wire, subscriptions, self._news))
        # Messages wait for their turn, one after the other.
        self._confirm_by_s = max(self._confirm_by_s, time.monotonic() + CONFIRM_S) + self._gap_s


class Shard:
    """The subscriptions of one socket, kept alive from socket to socket.

    Parameters
    ----------
    streams : Streams
        Grants new connections.
    connection : Connection
        The exchange.
    kind : tuple
        What all markets of the shard have in common.
    subscriptions : list of Subscription
        What to stream at first.
    """

    def __init__(self, streams: Streams, connection: Connection, kind: Kind, subscriptions: list[Subscription]) -> None:
        self.kind = kind
        self._streams = streams
        self._connection = connection
        self._subscriptions = {each.key: each for each in subscriptions}
        self._socket: Socket | None = None
        self._fresh: Socket | None = None
        self._more = asyncio.Event()

    @property
    def room(self) -> int:
        """How many more subscriptions fit."""
        return self._connection.facts.streams_per_socket - len(self._subscriptions)

    def add(self, subscriptions: list[Subscription]) -> None:
        """Stream more."""
        self._subscriptions.update((each.key, each) for each in subscriptions)
        for socket in (self._socket, self._fresh):
            if socket is not None:
                socket.add(subscriptions)
        self._more.set()

    async def run(self) -> None:
        """Subscribe and stay subscribed until cancelled."""
        failures = 0
        while True:
            if not self._subscriptions:
                self._more.clear()
                await self._more.wait()
            await self._streams.turn()
            began_s = time.monotonic()
            try:
                await self._live()
            except Exception as error:  # noqa: BLE001  # whatever ended the socket, a new one is the cure
                reason = f"{type(error).__name__}: {error}"
                logger.warning("The bar stream of %d subscriptions broke (%s).", len(self._subscriptions), reason)
                for subscription in list(self._subscriptions.values()):
                    subscription.down(reason)
                failures = 1 if time.monotonic() - began_s > STEADY_S else failures + 1
                most_s = min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** (failures - 1))
                await asyncio.sleep(random.uniform(most_s / 2, most_s))

    async def _live(self) -> None:
        """Hold a socket, and replace it in time, until it breaks or nothing is left to subscribe to."""
        self._socket = self._open()
        renew_s = self._renewal_s()
        try:
            while self._subscriptions:
                await self._socket.wait(LOOK_S)
                self._drop(await self._socket.look())
                now_s = time.monotonic()
                if now_s < renew_s and not self._silent(now_s):
                    continue
                self._tell_silent(now_s)
                renewed = await self._renew(self._socket)
                renew_s = self._renewal_s() if renewed else time.monotonic() + RENEW_AGAIN_S
        finally:
            self._dispose(self._socket)
            self._socket = None

    async def _renew(self, old: Socket) -> bool:
        """Put a new socket in the place of a working one, without a moment between them; say whether it came up."""
        await self._streams.turn()
        self._fresh = self._open()
        try:
            while not self._fresh.confirmed:
                await self._fresh.wait(LOOK_S)
                self._drop(await self._fresh.look())
        except Exception as error:  # noqa: BLE001  # whatever it is, the old socket is still there
            logger.warning("A socket could not be replaced (%s: %s).", type(error).__name__, error)
            self._dispose(self._fresh)
            self._fresh = None
            return False
        except asyncio.CancelledError:
            self._dispose(self._fresh)
            raise
        self._socket, self._fresh = self._fresh, None
        self._connection.post(self._close_later, old, name="close a replaced socket")
        return True

    def _open(self) -> Socket:
        return Socket(self._connection, self._streams.wire(self.kind), list(self._subscriptions.values()))

    def _renewal_s(self) -> float:
        # Shards that opened together do not all renew together.
        age_s = self._connection.facts.socket_age_s * random.uniform(0.9, 1.0)
        return time.monotonic() + age_s / self._connection.clock.rate

    def _silent(self, now_s: float) -> list[Subscription]:
        return [each for each in self._subscriptions.values() if each.silent(now_s)]

    def _tell_silent(self, now_s: float) -> None:
        for subscription in self._silent(now_s):
            subscription.silences += 1
            reason = f"nothing came for {now_s - subscription.heard_s:.1f} s: subscribing anew"
            logger.info("%s %s: %s.", *subscription.key, reason)
            subscription.down(reason)

    def _drop(self, refused: list[tuple[Subscription, Exception]]) -> None:
        for subscription, error in refused:
            self._subscriptions.pop(subscription.key, None)
            self._streams.forget(subscription)
            for listener in subscription.listeners:
                listener.refused(error)

    def _dispose(self, socket: Socket) -> None:
        self._connection.post(socket.close, name="close a socket")

    async def _close_later(self, socket: Socket) -> None:
        try:
            await asyncio.sleep(LINGER_S)
        finally:
            await socket.close()
