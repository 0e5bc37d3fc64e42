"""What can be streamed, and who listens to it; all of it on the I/O thread."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ccxtbt.exchange.facts import Facts
from ccxtbt.market.frames import Trade, trade_of
from ccxtbt.market.handover import Bar, Origin

logger = logging.getLogger(__name__)

FAULT = "%s: a listener failed; the stream goes on."

# The patience with a silent stream doubles with each time that a new socket brought nothing either, so that a quiet
# market stays cheap.
SILENT_DOUBLINGS = 6
# A market that was silent for some time and spoke again may be silent for so many times as long before its stream is
# taken for lost: a market without trades for minutes must not lose its connection each time.
PATIENCE_LEARNT = 1.5
# How many of the last trades are known again when they come twice: what exchanges show anew to who subscribes anew.
REMEMBERED = 1_000

# Kind of stream, symbol, timeframe ('' where there is none).
Key = tuple[str, str, str]


class Hearer(Protocol):
    """What every listener is told, on the I/O thread.

    What a listener raises is logged and ends nothing: neither the stream nor the turn of the other listeners.
    """

    def up(self) -> None:
        """The subscription was sent, for the first time or again after a break."""

    def down(self, reason: str) -> None:
        """The connection broke: frames may have been lost from now on."""

    def refused(self, error: Exception) -> None:
        """The exchange does not stream this: nothing will come."""


class Listener(Hearer, Protocol):
    """What a subscription to bars calls, on the I/O thread."""

    def frame(self, bar: Bar, closed: bool) -> None:
        """A bar came; `closed` where the exchange says that it is final."""


class TradeListener(Hearer, Protocol):
    """What a subscription to trades calls, on the I/O thread."""

    def trades(self, trades: list[Trade]) -> None:
        """Trades came, oldest first; each comes once, also where the socket is replaced.

        Some exchanges show the last trades to who subscribes: the first may be older than the subscription.
        """


@dataclass(frozen=True)
class Channel:
    """A kind of stream, in the words of ccxt.

    Attributes
    ----------
    noun : str
        Its name.
    many : str
        The key of ccxt's ``has`` that says whether one call subscribes to several.
    unwatch_has_many : str
        The same for unsubscribing.
    watch, watch_many, unwatch, unwatch_many : str
        ccxt's methods for one and for several.
    lossy : bool
        ccxt's call for several tells what came for one of them only: fit for what the next frame replaces.
    """

    noun: str
    many: str
    unwatch_has_many: str
    watch: str
    watch_many: str
    unwatch: str
    unwatch_many: str
    lossy: bool


BARS = Channel(
    noun="bars",
    many="watchOHLCVForSymbols",
    unwatch_has_many="unWatchOHLCVForSymbols",
    watch="watch_ohlcv",
    watch_many="watch_ohlcv_for_symbols",
    unwatch="un_watch_ohlcv",
    unwatch_many="un_watch_ohlcv_for_symbols",
    lossy=True,
)
TRADES = Channel(
    noun="trades",
    many="watchTradesForSymbols",
    unwatch_has_many="unWatchTradesForSymbols",
    watch="watch_trades",
    watch_many="watch_trades_for_symbols",
    unwatch="un_watch_trades",
    unwatch_many="un_watch_trades_for_symbols",
    lossy=False,
)

L = TypeVar("L", bound=Hearer)


def tell(name: str, hear: Callable[..., None], *news: Any) -> None:
    """Call a method of a listener to the stream `name`; what it raises is its own affair, and logged."""
    try:
        hear(*news)
    except Exception:
        logger.exception(FAULT, name)


class Subscription(Generic[L]):
    """One stream of one market, and who listens to it.

    Parameters
    ----------
    channel : Channel
        Kind of stream.
    symbol : str
        ccxt's unified symbol.
    timeframe : str
        The timeframe, as the listener says it; '' where there is none.
    patience_s : float
        How long the stream may be silent, in seconds of this machine.
    read : bool
        A reader of ours knows its frames; else they come through ccxt's parser.
    """

    def __init__(self, channel: Channel, symbol: str, timeframe: str, patience_s: float, read: bool) -> None:
        self.channel = channel
        self.symbol = symbol
        self.timeframe = timeframe
        self.patience_s = patience_s
        self.read = read
        # Never changed in place: a listener may unsubscribe while it is told something.
        self.listeners: tuple[L, ...] = ()
        self.live = False
        self.heard_s = 0.0
        self.silences = 0
        self._most_patience_s = patience_s * 2**SILENT_DOUBLINGS
        self._silent_since_s = 0.0

    @property
    def key(self) -> Key:
        """Kind of stream, symbol and timeframe."""
        return self.channel.noun, self.symbol, self.timeframe

    @property
    def name(self) -> str:
        """What a log line calls it."""
        return f"{self.symbol} {self.timeframe or self.channel.noun}"

    @property
    def arguments(self) -> tuple[str, ...]:
        """What ccxt's call for one takes."""
        return (self.symbol,)

    @property
    def item(self) -> Any:
        """What stands for it in the list that ccxt's call for several takes."""
        return self.symbol

    def join(self, listener: L) -> None:
        """Call `listener` too."""
        self.listeners = (*self.listeners, listener)
        if self.live:
            tell(self.name, listener.up)

    def up(self, now_s: float) -> None:
        """Note that frames come from now on."""
        self.heard_s = now_s
        if not self.live:
            self.live = True
            for listener in self.listeners:
                tell(self.name, listener.up)

    def down(self, reason: str) -> None:
        """Note that frames may be lost from now on."""
        if self.live:
            self.live = False
            for listener in self.listeners:
                tell(self.name, listener.down, reason)

    def refused(self, error: Exception) -> None:
        """Note that nothing will come."""
        for listener in self.listeners:
            tell(self.name, listener.refused, error)

    def silent(self, now_s: float) -> bool:
        """Whether nothing has come for too long."""
        return self.live and now_s - self.heard_s > self.patience_s * 2 ** min(self.silences, SILENT_DOUBLINGS)

    def note_silence(self) -> None:
        """Note that the stream is taken for lost."""
        if not self.silences:
            self._silent_since_s = self.heard_s
        self.silences += 1

    def note_voice(self, now_s: float) -> None:
        """Note that something came after a silence, and how long this market may be silent."""
        learnt_s = PATIENCE_LEARNT * (now_s - self._silent_since_s)
        self.patience_s = min(max(self.patience_s, learnt_s), self._most_patience_s)
        self.silences = 0

    def parsed(self, result: Any, together: bool, source: object, now_s: float) -> None:
        """Pass on what ccxt's call for one returned, or for several where `together`."""
        raise NotImplementedError

    def ended(self, source: object) -> None:
        """Note that nothing more comes from a socket."""


class BarSubscription(Subscription[Listener]):
    """The bars of one market and timeframe.

    Parameters
    ----------
    word : str
        The timeframe, as it is said to ccxt.
    """

    def __init__(self, symbol: str, timeframe: str, word: str, patience_s: float, read: bool) -> None:
        super().__init__(BARS, symbol, timeframe, patience_s, read)
        self.word = word

    @property
    def arguments(self) -> tuple[str, ...]:
        """Symbol and timeframe."""
        return self.symbol, self.word

    @property
    def item(self) -> Any:
        """Symbol and timeframe."""
        return [self.symbol, self.word]

    def frame(self, bar: Bar, closed: bool, now_s: float) -> None:
        """Pass a bar on."""
        self.heard_s = now_s
        if self.silences:
            self.note_voice(now_s)
        for listener in self.listeners:
            # As `tell` does, without the price of a call: this is where every frame goes.
            try:
                listener.frame(bar, closed)
            except Exception:
                logger.exception(FAULT, self.name)

    def parsed(self, result: Any, together: bool, source: object, now_s: float) -> None:
        """Pass on ccxt's rows; ccxt does not say whether they are closed."""
        rows = result.get(self.symbol, {}).get(self.word, ()) if together else result
        for ts_ms, *prices in rows:
            opened, high, low, close, volume = map(float, prices)
            self.frame(Bar(int(ts_ms), opened, high, low, close, volume, Origin.WS), closed=False, now_s=now_s)


class TradeSubscription(Subscription[TradeListener]):
    """The trades of one market, each passed on once.

    While an old socket and the one that replaces it both live, the old one's trades are passed on; the new one's wait
    until the old one has ended, and those that it brought too are left out. So the order holds.
    """

    def __init__(self, symbol: str, patience_s: float, read: bool, facts: Facts) -> None:
        super().__init__(TRADES, symbol, "", patience_s, read)
        self._facts = facts
        self._source: object | None = None
        self._held: dict[object, list[Trade]] = {}
        self._last: deque[Trade] = deque(maxlen=REMEMBERED)
        self._ids: set[str] = set()

    def trades(self, trades: Iterable[Trade], source: object, now_s: float) -> None:
        """Pass trades on that came from a socket."""
        self.heard_s = now_s
        if self.silences:
            self.note_voice(now_s)
        if self._source is None:
            self._source = source
        if source is self._source:
            self._deliver(trades)
        else:
            self._held.setdefault(source, []).extend(trades)

    def parsed(self, result: Any, together: bool, source: object, now_s: float) -> None:
        """Pass on ccxt's trades."""
        rows = [row for row in result if row["symbol"] == self.symbol] if together else result
        trades = [trade_of(row, self._facts) for row in rows]
        if trades:
            self.trades(trades, source, now_s)

    def ended(self, source: object) -> None:
        """Take what waited for a socket's end, or forget what it brought beside another."""
        self._held.pop(source, None)
        if source is not self._source:
            return
        self._source = None
        if self._held:
            self._source, trades = next(iter(self._held.items()))
            del self._held[self._source]
            # Trades without an id are known again by all they say; only here, for they may be alike.
            known = Counter(trade for trade in self._last if not trade.id)
            fresh = []
            for trade in trades:
                if known[trade] > 0:
                    known[trade] -= 1
                else:
                    fresh.append(trade)
            self._deliver(fresh)

    def _deliver(self, trades: Iterable[Trade]) -> None:
        last, ids = self._last, self._ids
        fresh = []
        for trade in trades:
            number = trade.id
            if number:
                if number in ids:
                    continue
                ids.add(number)
            if len(last) == REMEMBERED:
                ids.discard(last[0].id)
            last.append(trade)
            fresh.append(trade)
        if fresh:
            for listener in self.listeners:
                try:
                    listener.trades(fresh)
                except Exception:
                    logger.exception(FAULT, self.name)
