"""ThreadedDataManager and ThreadedOrderManager: cloudQuant's names for bars and orders that are read one by one."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from ccxtbt.compat.threadedbroker import ThreadedBroker, forget
from ccxtbt.compat.threadeddatafeed import ThreadedDataFeed
from ccxtbt.mailbox import Mailbox
from ccxtbt.market.handover import Bar
from ccxtbt.trading.reports import OPEN, OrderFact

BUFFER = 10_000
# What the word on an order says that has not ended.
_OPEN = (None, OPEN)


class DataUpdate(NamedTuple):
    """A bar.

    Attributes
    ----------
    symbol : str
        ccxt's unified symbol.
    timestamp : int
        When it opens, in ms UTC.
    data : list
        As ccxt's row: open time, open, high, low, close, volume.
    data_type : str
        ``'ohlcv'``.
    """

    symbol: str
    timestamp: int
    data: list[float]
    data_type: str = "ohlcv"


class OrderUpdate(NamedTuple):
    """How an order stands.

    Attributes
    ----------
    order_id : str
        The exchange's.
    status : str or None
        ccxt's word.
    filled, remaining, average : float
        Amounts in base, and the mean price; 0 where the exchange does not say.
    timestamp : int
        The exchange's time of the word, in ms UTC; 0 where it does not say.
    """

    order_id: str
    status: str | None
    filled: float
    remaining: float
    average: float
    timestamp: int


class _Tagged:
    """The queue of one feed, whose bars go into the queue of all with their symbol."""

    dropped = 0

    def __init__(self, symbol: str, all_: Mailbox) -> None:
        self.symbol = symbol
        self.size = 0
        self._all = all_

    def put(self, bar: Bar) -> None:
        self._all.put(DataUpdate(self.symbol, bar.ts_ms, list(bar[:6])))

    def qsize(self) -> int:
        return self._all.qsize()

    def begin(self) -> None:
        """The queue of all goes on."""

    end = begin


class ThreadedDataManager:
    """The bars of several markets in one queue, each closed, once and in the order of its market.

    Parameters
    ----------
    store : CCXTStore, str or a ccxt exchange
        As for `ThreadedDataFeed`, which there is one of for each symbol.
    update_interval : float
        Accepted from old scripts: bars come as soon as they are closed.
    """

    def __init__(self, store: Any, update_interval: float = 1.0) -> None:
        self.store = store
        self.update_interval = update_interval
        self._updates = Mailbox("updates of bars", BUFFER)
        self._feeds: dict[str, ThreadedDataFeed] = {}
        self._running = False

    def add_symbol(self, symbol: str, timeframe: str) -> None:
        """Follow a market too; one that is followed already goes over to this timeframe.

        Raises
        ------
        ConfigError, TryLaterError
            As `ThreadedDataFeed.start_data_thread`, where this has started.
        """
        self.remove_symbol(symbol)
        feed = self._feeds[symbol] = ThreadedDataFeed(self.store, symbol, timeframe)
        feed.data_queue = _Tagged(symbol, self._updates)  # type: ignore[assignment]  # what a feed does with it
        if self._running:
            feed.start_data_thread()

    def remove_symbol(self, symbol: str) -> None:
        """Follow a market no longer; nothing happens if it is not followed."""
        feed = self._feeds.pop(symbol, None)
        if feed is not None:
            feed.stop()

    def start(self) -> None:
        """Begin all, or none; nothing happens if it has begun. Raises as `add_symbol`."""
        if self._running:
            return
        try:
            for feed in self._feeds.values():
                feed.start_data_thread()
        except BaseException:
            self.stop()
            raise
        self._running = True

    def stop(self) -> None:
        """End it; what was not read can still be read."""
        self._running = False
        for feed in self._feeds.values():
            feed.stop()

    def get_update(self, timeout: float | None = None) -> DataUpdate | None:
        """Return the next bar; None where there is none within `timeout` seconds (None: do not wait)."""
        update: DataUpdate | None = self._updates.next(timeout or 0.0)
        return update

    def is_running(self) -> bool:
        """Whether it has begun and not ended."""
        return self._running


class ThreadedOrderManager:
    """How orders stand, by their ids.

    Parameters
    ----------
    store : CCXTStore, str or a ccxt exchange
        As for `ThreadedBroker`, which follows the account.
    check_interval : float
        How often open orders are looked up, in seconds, and how long one is waited for that no word has come of.
    """

    def __init__(self, store: Any, check_interval: float = 3.0) -> None:
        self._broker = ThreadedBroker(store, poll_s=check_interval)
        self.store = self._broker.store
        self.check_interval = check_interval
        # Symbol of each order, and until when its first word is waited for.
        self._orders: dict[str, tuple[str, float]] = {}
        self._last: dict[str, OrderUpdate] = {}
        self._told: dict[str, OrderUpdate] = {}

    def add_order(self, order_id: str, symbol: str, **order_info: Any) -> None:
        """Follow an order, until it has ended; what else old scripts tell of it is not needed."""
        self._orders[order_id] = symbol, time.monotonic() + self.check_interval

    def remove_order(self, order_id: str) -> None:
        """Follow an order no longer; nothing happens if it is not followed."""
        self._orders.pop(order_id, None)
        self._told.pop(order_id, None)

    def start(self) -> None:
        """Begin; nothing happens if it has begun. Raises as `ThreadedBroker.start_order_thread`."""
        self._broker.start_order_thread()

    def stop(self) -> None:
        """End it."""
        self._broker.stop()

    def is_running(self) -> bool:
        """Whether it has begun and not ended."""
        return self._broker.running

    def get_updates(self) -> list[OrderUpdate]:
        """Return how the followed orders stand that stand otherwise than at the last call.

        One that no word has come of within `check_interval` is asked for, which waits for the exchange.
        """
        while (fact := self._broker.order_queue.next(0.0)) is not None:
            if isinstance(fact, OrderFact) and fact.order_id is not None:
                self._take(_update(fact))
        updates = []
        for order_id, (symbol, until_s) in list(self._orders.items()):
            if order_id not in self._last and time.monotonic() >= until_s:
                self._last[order_id] = _answer(order_id, self.store.fetch_order(order_id, symbol))
            update = self._last.get(order_id)
            if update is not None and self._differs(update):
                updates.append(update)
                self._told[order_id] = update
                if update.status not in _OPEN:
                    self.remove_order(order_id)
        return updates

    def _take(self, update: OrderUpdate) -> None:
        """Keep the last word on an order; one that is followed too late is still known then."""
        known = self._last.pop(update.order_id, update)
        # An older word may follow a newer one: no order opens again or fills less.
        is_older = update.status in _OPEN and (known.status not in _OPEN or update.filled < known.filled)
        self._last[update.order_id] = known if is_older else update
        forget(self._last)

    def _differs(self, update: OrderUpdate) -> bool:
        told = self._told.get(update.order_id)
        return told is None or (told.status, told.filled) != (update.status, update.filled)


def _update(fact: OrderFact) -> OrderUpdate:
    filled, remaining, average = (float(number or 0) for number in (fact.filled, fact.remaining, fact.average))
    return OrderUpdate(str(fact.order_id), fact.status, filled, remaining, average, fact.ts_ms or 0)


def _answer(order_id: str, told: dict[str, Any]) -> OrderUpdate:
    filled, remaining, average = (float(told.get(name) or 0) for name in ("filled", "remaining", "average"))
    return OrderUpdate(order_id, told.get("status"), filled, remaining, average, int(told.get("timestamp") or 0))
