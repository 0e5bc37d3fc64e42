"""Live bars and trades over WebSocket: who subscribes to what, one supervised task a shard.

ccxt knows how each exchange is subscribed to; the frames themselves are read by `frames` from the tap on ccxt's
client, before ccxt parses them. A `watch_*` call therefore stays pending for as long as its connection lives, and
its failure is the news that the connection broke. Where there is no reader, ccxt parses, and the call returns often.

A shard is as many subscriptions as one socket may carry. It lives on through its sockets: a new one after a break,
and a new one beside the old where the old is too old or a subscription has fallen silent.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from ccxtbt.errors import NotOfferedError
from ccxtbt.exchange.connection import Connection
from ccxtbt.exchange.wire import SENDER, WIRE, FrameTap, Wire
from ccxtbt.market.frames import DIALECTS, Dialect, Trade
from ccxtbt.market.handover import Bar, Origin
from ccxtbt.market.subscriptions import (
    BARS,
    TRADES,
    BarSubscription,
    Channel,
    Key,
    Listener,
    TradeListener,
    TradeSubscription,
    tell,
)
from ccxtbt.market.timeframes import parse

__all__ = ["Listener", "Streams", "TradeListener"]

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
# A subscription is silent too long after two bars and this time, or after the longest patience for any timeframe; one
# to trades after this.
SILENT_BARS = 2
SILENT_S = 30.0
SILENT_MAX_S = 900.0
SILENT_TRADES_S = 300.0
# The old socket stays so long after the new one is confirmed: what was on its way still arrives.
LINGER_S = 1.0
# How long after a replacement that failed the next one is tried, while the old socket still works.
RENEW_AGAIN_S = 30.0
# How long an exchange may take to answer that it sends something no more.
UNWATCH_S = 5.0

AnySubscription = BarSubscription | TradeSubscription
Kind = tuple[str | None, bool | None, str | None]


class Streams:
    """Subscriptions to bars and trades on one connection; everything runs on the I/O thread.

    Parameters
    ----------
    connection : Connection
        Where the frames come from.
    dialects : mapping
        How exchanges say bars and trades, by ccxt's names; ccxt's parser reads the frames of one that is not there.
    """

    def __init__(self, connection: Connection, dialects: Mapping[str, Dialect] = DIALECTS) -> None:
        self._connection = connection
        self._dialect = dialects.get(connection.account.exchange_id)
        self._subscriptions: dict[Key, AnySubscription] = {}
        self._named: dict[Kind, Named] = {}
        self._shards: list[Shard] = []
        self._waiting: list[AnySubscription] = []
        self._parting: list[AnySubscription] = []
        self._gathering = False
        self._names = itertools.count(1)
        self._free_s = 0.0

    def subscribe(self, symbol: str, timeframe: str, listener: Listener, *, wide: bool = False) -> None:
        """Stream the bars of `symbol`; calls within a moment share messages and sockets.

        Parameters
        ----------
        symbol, timeframe : str
            ccxt's words.
        listener : Listener
            Who hears them.
        wide : bool
            Whether frames are to be read for the extra values of bars, too, where these can be read there.
        """
        if self._refuses(symbol, listener):
            return
        known = self._subscriptions.get((BARS.noun, symbol, timeframe))
        if not isinstance(known, BarSubscription):
            word = self._connection.facts.stream_timeframes.get(timeframe, timeframe)
            patience_s = min(SILENT_BARS * parse(timeframe).nominal_ms / 1000 + SILENT_S, SILENT_MAX_S)
            dialect, rest = self._dialect, self._connection.rest
            name = dialect.bars_key(rest, symbol, word) if dialect is not None else None
            known = BarSubscription(symbol, timeframe, word, self._here_s(patience_s), read=name is not None)
            if name is not None:
                names = self._names_of(symbol)
                names.wide.pop(name, None)
                names.bars[name] = known
            self._begin(known)
        if wide:
            self._names_of(symbol).widen(known)
        known.join(listener)

    def subscribe_trades(self, symbol: str, listener: TradeListener) -> None:
        """Stream the trades of `symbol`; calls within a moment share messages and sockets."""
        if self._refuses(symbol, listener):
            return
        dialect, rest = self._dialect, self._connection.rest
        if dialect is not None:
            symbol = dialect.book(rest, symbol)
        known = self._subscriptions.get((TRADES.noun, symbol, ""))
        if not isinstance(known, TradeSubscription):
            known = TradeSubscription(
                symbol, self._here_s(SILENT_TRADES_S), dialect is not None, self._connection.facts
            )
            if dialect is not None:
                self._names_of(symbol).trades[dialect.trades_key(rest, symbol)] = known
            self._begin(known)
        known.join(listener)

    def unsubscribe(self, listener: Listener | TradeListener) -> None:
        """Call `listener` no more; what nobody listens to any longer is unsubscribed at the exchange."""
        for subscription in list(self._subscriptions.values()):
            if listener not in subscription.listeners:
                continue
            left: Any = tuple(each for each in subscription.listeners if each is not listener)
            subscription.listeners = left
            if not left:
                self._part(subscription)

    def _refuses(self, symbol: str, listener: Listener | TradeListener) -> bool:
        """Tell a listener what is missing here for a stream of `symbol`; say whether anything is."""
        lacks = self._dialect.lacks(self._connection.rest, symbol) if self._dialect is not None else None
        if lacks is None:
            return False
        module, extra = lacks
        error = NotOfferedError(
            f"The streams of {symbol} at {self._connection.account.exchange_id} need {module}: install it with "
            f"pip install 'ccxtbt[{extra}]'."
        )
        tell(symbol, listener.refused, error)
        return True

    def _here_s(self, seconds: float) -> float:
        """Return seconds of the exchange's clock as those of this machine."""
        return seconds / self._connection.clock.rate

    def _begin(self, subscription: AnySubscription) -> None:
        self._subscriptions[subscription.key] = subscription
        self._waiting.append(subscription)
        self._gather_soon()

    def _part(self, subscription: AnySubscription) -> None:
        del self._subscriptions[subscription.key]
        if subscription in self._waiting:
            self._waiting.remove(subscription)
        else:
            self._parting.append(subscription)
            self._gather_soon()

    def _gather_soon(self) -> None:
        if not self._gathering:
            self._gathering = True
            self._connection.spawn(self._gather, name="subscribe")

    def _names_of(self, symbol: str) -> Named:
        return self._named.setdefault(self._kind(symbol), Named())

    def tap(self, url: str, data: str | bytes) -> bool:
        """Leave frames of connections that are not ours to ccxt."""
        return False

    def wire(self, kind: Kind) -> Wire:
        """Return a wire for a new socket, whose frames go to the subscriptions of a kind of market."""
        wire = Wire(f"streams-{next(self._names)}", self._connection.facts.ping_s)
        if self._dialect is not None:
            named = self._named.setdefault(kind, Named())
            wire.tap = self._tap_of(wire, named, self._dialect)
            if self._dialect.reader is not None:
                wire.reader = partial(
                    self._dialect.reader, named.bars, named.wide, named.trades, wire, Bar, Trade, Origin.WS
                )
        return wire

    @staticmethod
    def _tap_of(wire: Wire, named: Named, dialect: Dialect) -> FrameTap:
        read_bars, read_trades, bars_of, trades_of = dialect.bars, dialect.trades, named.bars.get, named.trades.get
        wide_of, read_extra = named.wide.get, dialect.extra
        now_s, by = time.monotonic, Origin.WS

        def read(data: str | bytes) -> bool:
            taken = False
            for bar in read_bars(data) if read_bars is not None else ():
                name = f"{bar.market_id} {bar.interval}"
                extra: tuple[float, ...] = ()
                bars = bars_of(name)
                if bars is None and read_extra is not None and (bars := wide_of(name)) is not None:
                    extra = read_extra(data)
                if bars is not None:
                    bars.frame(tuple.__new__(Bar, (*bar[2:8], by, extra)), bar.closed, now_s())
                    taken = True
            if taken:
                return True
            for market_id, found in read_trades(data).items():
                trades = trades_of(market_id)
                if trades is not None:
                    trades.trades(found, wire, now_s())
                    taken = True
            return taken

        def tap(data: str | bytes) -> bool:
            try:
                return read(data)
            except (ValueError, KeyError, IndexError, TypeError) as error:
                # ccxt says what it thinks of such a frame; the connection is none the worse for it.
                logger.warning("A frame cannot be read (%s: %s).", type(error).__name__, error)
                return False

        return tap

    async def turn(self) -> None:
        """Wait until one more connection may be made."""
        now_s = time.monotonic()
        at_s = max(now_s, self._free_s)
        self._free_s = at_s + 1 / self._connection.facts.connects_per_s
        await asyncio.sleep(at_s - now_s)

    def forget(self, subscription: AnySubscription) -> None:
        """Let go of a subscription that was refused: it may be asked for again."""
        if self._subscriptions.get(subscription.key) is subscription:
            del self._subscriptions[subscription.key]

    async def _gather(self) -> None:
        await asyncio.sleep(GATHER_S)
        self._gathering = False
        parting, self._parting = self._parting, []
        for shard in self._shards:
            shard.remove([each for each in parting if shard.carries(each)])
        waiting, self._waiting = self._waiting, []
        by_kind: dict[Kind, list[AnySubscription]] = {}
        for subscription in waiting:
            by_kind.setdefault(self._kind(subscription.symbol), []).append(subscription)
        for kind, subscriptions in by_kind.items():
            self._share_out(kind, subscriptions)

    def _kind(self, symbol: str) -> Kind:
        """Return what all markets of one message, and for many exchanges of one address, have in common."""
        market = self._connection.rest.market(symbol)
        return market.get("type"), market.get("linear"), market.get("settle") if market.get("contract") else None

    def _share_out(self, kind: Kind, subscriptions: list[AnySubscription]) -> None:
        for shard in self._shards:
            if shard.kind == kind and shard.room:
                taken = [each for each in subscriptions if shard.takes(each)][: shard.room]
                if taken:
                    shard.add(taken)
                    subscriptions = [each for each in subscriptions if each not in taken]
        size = self._connection.facts.streams_per_socket
        for i in range(0, len(subscriptions), size):
            shard = Shard(self, self._connection, kind, subscriptions[i : i + size])
            self._shards.append(shard)
            self._connection.spawn(shard.run, name=f"stream {subscriptions[i].name}...")


class Named:
    """Subscriptions of one kind of market by the names that frames have for them; spot and contracts may share names.

    One that nobody listens to any more stays: what still comes for it is not worth a parse.

    Attributes
    ----------
    bars : dict
        By market and timeframe, with a space between them.
    wide : dict
        Those of which somebody wants the extra values too; they are not in `bars`.
    trades : dict
        By market.
    """

    def __init__(self) -> None:
        self.bars: dict[str, BarSubscription] = {}
        self.wide: dict[str, BarSubscription] = {}
        self.trades: dict[str, TradeSubscription] = {}

    def widen(self, subscription: BarSubscription) -> None:
        """Have the frames of a subscription read for the extra values too."""
        for name in [name for name, known in self.bars.items() if known is subscription]:
            self.wide[name] = self.bars.pop(name)


class Group:
    """The subscriptions of one subscribe message on one socket.

    Attributes
    ----------
    error : Exception or None
        Why nothing comes any more.
    """

    def __init__(
        self,
        connection: Connection,
        wire: Wire,
        subscriptions: list[AnySubscription],
        together: bool,
        news: asyncio.Event,
    ) -> None:
        self.channel = subscriptions[0].channel
        self.subscriptions = subscriptions
        self.error: Exception | None = None
        self.sent_s: float | None = None
        self._connection = connection
        self._wire = wire
        self._together = together
        self._news = news
        self._task = self._begin()

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

    def remove(self, subscription: AnySubscription) -> None:
        """Watch the others only."""
        self.subscriptions.remove(subscription)
        # Else ccxt would end the call for all when one of them is unsubscribed.
        self._task.cancel()
        if self.subscriptions:
            self._task = self._begin()

    async def end(self) -> None:
        """Stop watching."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _begin(self) -> asyncio.Task[None]:
        name = f"watch {self.subscriptions[0].name}..."
        return asyncio.get_running_loop().create_task(self._run(), name=name)

    async def _run(self) -> None:
        SENDER.set(self)
        WIRE.set(self._wire)
        try:
            while not self._wire.has_ended:
                result = await self._watch()
                now_s = time.monotonic()
                for subscription in self.subscriptions:
                    subscription.parsed(result, self._together, self._wire, now_s)
            # ccxt would connect again by itself, and nobody would hear that something was missed.
            self.refused(ConnectionError("the connection ended"))
        except Exception as error:  # noqa: BLE001  # ccxt raises of any kind here: refused for good, or a break
            self.refused(error)

    async def _watch(self) -> Any:
        # Without a time-out of its own, for it may rightly pend as long as the connection lives. `Socket.look` ends it
        # where the connection is dead or says nothing after the message, the shard where one of its streams is silent.
        rest = self._connection.rest
        if self._together:
            return await getattr(rest, self.channel.watch_many)([each.item for each in self.subscriptions])
        (only,) = self.subscriptions
        return await getattr(rest, self.channel.watch)(*only.arguments)


class Socket:
    """One connection and what is subscribed on it; several where an exchange has an address for each kind of stream."""

    def __init__(self, connection: Connection, wire: Wire, subscriptions: list[AnySubscription]) -> None:
        facts = connection.facts
        self._connection = connection
        self._wire = wire
        count, window_ms = facts.socket_messages or (1, 0)
        self._gap_s = window_ms / count / 1000
        self._dead_s = MISSED_PINGS * facts.ping_s
        self._news = asyncio.Event()
        self._groups: list[Group] = []
        self._confirm_by_s = 0.0
        # What was let go of: ccxt may take it for subscribed still, so that it is asked for on another socket.
        self.stale: set[Key] = set()
        self._left: list[AnySubscription] = []
        self._leaving: set[asyncio.Task[None]] = set()
        self.opened_s = time.monotonic()
        self.add(subscriptions)

    @property
    def confirmed(self) -> bool:
        """Whether the exchange has answered to every message."""
        return all(group.confirmed for group in self._groups)

    def add(self, subscriptions: list[AnySubscription]) -> None:
        """Subscribe to more."""
        for channel, together in itertools.product((BARS, TRADES), (True, False)):
            mine = [each for each in subscriptions if each.channel is channel and self._together(each) == together]
            size = self._connection.facts.streams_per_request if together else 1
            for i in range(0, len(mine), size):
                self._watch(mine[i : i + size], together)

    def remove(self, subscriptions: list[AnySubscription]) -> None:
        """Unsubscribe where ccxt can; where it cannot, what still comes is dropped."""
        for group in list(self._groups):
            mine = [each for each in subscriptions if each in group.subscriptions]
            for subscription in mine:
                group.remove(subscription)
            if not group.subscriptions:
                self._groups.remove(group)
            if mine:
                self.stale.update(each.key for each in mine)
                self._left += mine
                task = asyncio.get_running_loop().create_task(self._unwatch(group.channel, mine))
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)

    async def wait(self, seconds: float) -> None:
        """Wait for news, but not longer."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    async def look(self) -> list[tuple[AnySubscription, Exception]]:
        """See to what happened: return what was refused for good, having asked for the others of its message again.

        Raises
        ------
        Exception
            The connection is of no use any more.
        """
        self._news.clear()
        refused: list[tuple[AnySubscription, Exception]] = []
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
            self._watch(group.subscriptions[:middle], together=True)
            self._watch(group.subscriptions[middle:], together=True)
        now_s = time.monotonic()
        heard_s = self._wire.heard_s
        if heard_s is not None and now_s - heard_s > self._dead_s:
            raise TimeoutError(f"the connection has said nothing, not even to pings, for {now_s - heard_s:.1f} s")
        if now_s > self._confirm_by_s and not self.confirmed:
            raise TimeoutError("a subscription was not confirmed in time")
        return refused

    async def close(self) -> None:
        """End the connection."""
        self._wire.mute()
        for subscription in (*self._left, *(each for group in self._groups for each in group.subscriptions)):
            subscription.ended(self._wire)
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*(group.end() for group in self._groups), *self._leaving, return_exceptions=True)
        await self._wire.close()

    def _together(self, subscription: AnySubscription) -> bool:
        """Whether one message may subscribe to it and others."""
        channel = subscription.channel
        return bool(self._connection.rest.has.get(channel.many)) and (subscription.read or channel.lossy)

    def _watch(self, subscriptions: list[AnySubscription], together: bool) -> None:
        self._groups.append(Group(self._connection, self._wire, subscriptions, together, self._news))
        # Messages wait for their turn, one after the other.
        self._confirm_by_s = max(self._confirm_by_s, time.monotonic() + CONFIRM_S) + self._gap_s

    async def _unwatch(self, channel: Channel, subscriptions: list[AnySubscription]) -> None:
        rest = self._connection.rest
        WIRE.set(self._wire)
        try:
            if rest.has.get(channel.unwatch_has_many):
                async with asyncio.timeout(UNWATCH_S):
                    await getattr(rest, channel.unwatch_many)([each.item for each in subscriptions])
                return
            for subscription in subscriptions:
                async with asyncio.timeout(UNWATCH_S):
                    await getattr(rest, channel.unwatch)(*subscription.arguments)
        except Exception as error:  # noqa: BLE001  # ccxt raises of any kind here; what still comes is dropped
            logger.debug("%s is not unsubscribed (%s: %s).", subscriptions[0].name, type(error).__name__, error)


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

    def __init__(
        self, streams: Streams, connection: Connection, kind: Kind, subscriptions: list[AnySubscription]
    ) -> None:
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

    def carries(self, subscription: AnySubscription) -> bool:
        """Whether this very subscription is one of the shard's."""
        return self._subscriptions.get(subscription.key) is subscription

    def takes(self, subscription: AnySubscription) -> bool:
        """Whether the shard's sockets can subscribe to it."""
        return all(socket is None or subscription.key not in socket.stale for socket in (self._socket, self._fresh))

    def remove(self, subscriptions: list[AnySubscription]) -> None:
        """Stream less."""
        for subscription in subscriptions:
            del self._subscriptions[subscription.key]
        for socket in (self._socket, self._fresh):
            if socket is not None and subscriptions:
                socket.remove(subscriptions)

    def add(self, subscriptions: list[AnySubscription]) -> None:
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
                logger.warning("The stream of %d subscriptions broke (%s).", len(self._subscriptions), reason)
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

    def _silent(self, now_s: float) -> list[AnySubscription]:
        return [each for each in self._subscriptions.values() if each.silent(now_s)]

    def _tell_silent(self, now_s: float) -> None:
        for subscription in self._silent(now_s):
            subscription.note_silence()
            reason = f"nothing came for {now_s - subscription.heard_s:.1f} s: subscribing anew"
            logger.info("%s: %s.", subscription.name, reason)
            subscription.down(reason)

    def _drop(self, refused: list[tuple[AnySubscription, Exception]]) -> None:
        for subscription, error in refused:
            if self.carries(subscription):
                del self._subscriptions[subscription.key]
            self._streams.forget(subscription)
            subscription.refused(error)

    def _dispose(self, socket: Socket) -> None:
        self._connection.post(socket.close, name="close a socket")

    async def _close_later(self, socket: Socket) -> None:
        try:
            await asyncio.sleep(LINGER_S)
        finally:
            await socket.close()
