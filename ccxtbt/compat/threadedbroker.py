"""ThreadedBroker: what happens to an account's orders and balances, in queues, for code without a cerebro."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from decimal import Decimal
from typing import Any

from ccxtbt.compat.guest import Guest
from ccxtbt.errors import ConfigError
from ccxtbt.exchange.connection import as_ours
from ccxtbt.exchange.wire import Wire
from ccxtbt.mailbox import Mailbox
from ccxtbt.trading.courier import Courier, Down, News, Up
from ccxtbt.trading.reports import OPEN, FillFact, OrderFact

logger = logging.getLogger(__name__)

# How often open orders are looked at under a stream, and where there is none; how often the balance, where none is.
POLL_S = 30.0
POLL_ALONE_S = 5.0
BALANCE_S = 10.0
# How long fills and the word on their order may differ before both are asked for, and how often they are.
HINT_S = 0.5
ASK_TIMES = 3
# How long the account's stream may take to come up before it is waited for no longer.
CONFIRM_S = 20.0
# How many facts, or balances, may wait.
BUFFER = 100_000
# How many of the last fills and orders are known again when they come twice, from the stream and from a look-up.
REMEMBERED = 10_000

_names = itertools.count(1)


class Watched:
    """What is known of an account's orders: which are open, which facts are new, and which do not fit together.

    Attributes
    ----------
    open : dict
        The first word on each open order, by the exchange's id.
    """

    def __init__(self) -> None:
        self.open: dict[str, OrderFact] = {}
        self._last: dict[str, OrderFact] = {}
        self._filled: dict[str, Decimal] = {}
        self._fills: dict[tuple[str | None, str], None] = {}
        # Orders of which a fill came and no word on how they stand, or the other way round; how often it was asked.
        self._doubts: dict[str, int] = {}

    def begin(self) -> None:
        """Take it that fills of what is known so far have been told elsewhere."""
        self._filled = {order_id: fact.filled or Decimal(0) for order_id, fact in self._last.items()}
        self._doubts.clear()

    def take(self, fact: OrderFact | FillFact) -> bool:
        """Take a fact; return whether it is new."""
        fresh = self._take_fill(fact) if isinstance(fact, FillFact) else self._take_order(fact)
        if fresh and fact.order_id is not None:
            known = self._last.get(fact.order_id)
            if known is None or (known.filled or 0) != self._filled.get(fact.order_id, 0):
                self._doubts.setdefault(fact.order_id, 0)
            else:
                self._doubts.pop(fact.order_id, None)
        return fresh

    def doubtful(self) -> list[OrderFact]:
        """Return the orders to ask for that were in doubt at the last call too; each is asked for a few times."""
        asked = []
        for order_id, times in list(self._doubts.items()):
            self._doubts[order_id] = times + 1
            if times and order_id in self._last:
                asked.append(self._last[order_id])
            if times >= ASK_TIMES:
                del self._doubts[order_id]
        return asked

    def _take_fill(self, fill: FillFact) -> bool:
        if fill.trade_id is not None:
            key = (fill.symbol, fill.trade_id)
            if key in self._fills:
                return False
            self._fills[key] = None
            forget(self._fills)
        if fill.order_id is not None:
            self._filled[fill.order_id] = self._filled.get(fill.order_id, Decimal(0)) + fill.amount
            forget(self._filled)
            # An order of which nothing else is known yet is asked for by what its fill tells.
            unknown = OrderFact(fill.client_id, fill.order_id, symbol=fill.symbol)
            self._last.setdefault(fill.order_id, unknown)
            forget(self._last)
        return True

    def _take_order(self, fact: OrderFact) -> bool:
        if fact.order_id is None:
            return True
        if fact.status == OPEN:
            self.open.setdefault(fact.order_id, fact)
        elif fact.status is not None:
            self.open.pop(fact.order_id, None)
        known = self._last.pop(fact.order_id, None)
        self._last[fact.order_id] = fact
        forget(self._last)
        return known is None or (known.status, known.filled) != (fact.status, fact.filled)


def forget(known: dict[Any, Any]) -> None:
    """Let the oldest go where more is known than is remembered."""
    if len(known) > REMEMBERED:
        del known[next(iter(known))]


class ThreadedBroker(Guest):
    """What happens to an account's orders and balances, as facts in queues.

    Streams where the exchange has them, look-ups where not; look-ups also after a break, and every so often all the
    same, since a stream may lose something. The queues are filled from the store's I/O thread, where the work for all
    its streams is done: there is no thread of its own.

    Parameters
    ----------
    store : CCXTStore, str or a ccxt exchange
        As for `CCXTWebSocket`; it must have credentials.
    symbols : iterable of str
        Markets whose trades are also looked up after a break, where none of the account's orders was seen.
    poll_s : float or None
        How often open orders are looked at; None: every 30 s under a stream, every 5 s without.
    buffer : int
        How many items may wait unread in a queue. More than that and the oldest go, with a warning and a count in
        ``order_queue.dropped``.
    **options
        `CCXTStore`'s, where `store` is none: ``config``, ``sandbox``, ...

    Attributes
    ----------
    order_queue : queue.Queue
        Of `OrderFact` and `FillFact`: first each order that is open, then what changes. A fill comes once. How an order
        stands comes when it differs from the last word; an older word may follow a newer one, and ``filled`` and
        ``ts_ms`` tell which is which. None, for ever, where nothing more comes.
    balance_queue : queue.Queue
        Of balances in ccxt's structure, the whole one first, then each that differs; a pushed one may name only the
        currencies that changed. Asked for every 10 s beside the stream.
        None, for ever, where nothing more comes.
    """

    def __init__(
        self,
        store: Any,
        *,
        symbols: Iterable[str] = (),
        poll_s: float | None = None,
        buffer: int = BUFFER,
        **options: Any,
    ) -> None:
        super().__init__(store, **options)
        self.order_queue = Mailbox("facts of orders", buffer)
        self.balance_queue = Mailbox("balances", buffer)
        self._poll_s = poll_s
        self._wanted = list(symbols)
        self._couriers: dict[str, Courier] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watched = Watched()
        self._symbols: set[str] = set()
        self._began_ms = 0
        self._up = asyncio.Event()
        self._look_now = asyncio.Event()
        self._ask_now = asyncio.Event()
        # The last balance that was told: what is free and what is held.
        self._balance = ""

    def start_order_thread(self) -> None:
        """Begin to follow the orders; nothing happens if it has begun.

        Raises
        ------
        ConfigError
            No credentials, or the exchange does not take them.
        TryLaterError
            The exchange does not answer.
        """
        self._start(self._follow_orders)

    def start_balance_thread(self) -> None:
        """Begin to follow the balance; raises as `start_order_thread`."""
        self._start(self._follow_balance)

    def stop(self) -> None:
        """End both, and the connection where nobody else needs it; nothing happens if they have ended."""
        self._exit()

    def _start(self, follow: Any) -> None:
        began = not self.running
        self._enter()
        try:
            self.connection.call(follow)
        except BaseException as error:
            if began:
                self._exit()
            if isinstance(error, Exception):
                raise as_ours(error, "Following the account") from error
            raise

    # On the I/O thread

    def _begin(self) -> None:
        if not self.connection.keyed:
            raise ConfigError("Orders and balances are an account's: give its apiKey and secret in config.")
        self._symbols = {self.store.checked_symbol(symbol) for symbol in self._wanted}
        self._couriers.clear()
        self._tasks.clear()
        self._watched = Watched()
        self._began_ms = self.connection.clock.now_ms()
        self._up, self._look_now, self._ask_now = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._balance = ""
        self.order_queue.begin()
        self.balance_queue.begin()

    async def _end(self) -> None:
        for name in list(self._tasks):
            await self._part(name)

    def _over(self) -> None:
        self.order_queue.end()
        self.balance_queue.end()

    async def _follow_orders(self) -> None:
        if "orders" in self._tasks:
            return
        courier = self._courier("orders", self._put, self._look_on)
        try:
            # What was open before is told first.
            await courier.look_at_open()
            self._watched.begin()
            courier.follow("orders", "trades")
            if self.connection.rest.has.get("watchOrders"):
                async with asyncio.timeout(CONFIRM_S):
                    await self._up.wait()
        except TimeoutError:
            logger.warning("The account's stream does not come up; its orders are looked up until it does.")
        except BaseException:
            await self._part("orders")
            raise

    async def _follow_balance(self) -> None:
        if "balance" in self._tasks:
            return
        courier = self._courier("balance", self._put_balance, self._ask_on)
        try:
            self._put_balance(await courier.balance_now())
        except BaseException:
            await self._part("balance")
            raise
        courier.follow("balance")

    def _courier(
        self, name: str, put: Callable[[News], None], work: Callable[[Courier], Coroutine[Any, Any, None]]
    ) -> Courier:
        """Make the courier of one of both, on a socket of its own, and begin its work: a second caller finds it."""
        wire = Wire(f"account-{next(_names)}", self.connection.facts.ping_s)
        courier = self._couriers[name] = Courier(self.connection, put, {}, None, wire=wire)
        self._tasks[name] = asyncio.get_running_loop().create_task(work(courier), name=f"{name} of {self!r}")
        return courier

    async def _part(self, name: str) -> None:
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self._couriers.pop(name).end()

    async def _look_on(self, courier: Courier) -> None:
        """Look at all that is open when it is time, and at what is in doubt when it has been so for a moment."""
        streamed = self.connection.rest.has.get("watchOrders")
        pause_s = self._poll_s or (POLL_S if streamed else POLL_ALONE_S)
        loop = asyncio.get_running_loop()
        due_s = loop.time() + pause_s
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(max(due_s - loop.time(), 0), HINT_S)):
                    await self._look_now.wait()
            try:
                if self._look_now.is_set() or loop.time() >= due_s:
                    due_s = loop.time() + pause_s
                    self._look_now.clear()
                    await self._look(courier)
                elif doubtful := self._watched.doubtful():
                    await courier.look_up_trades({fact.symbol for fact in doubtful if fact.symbol is not None})
                    await courier.look_up_orders(map(_named, doubtful))
            except Exception as error:  # noqa: BLE001  # a look that fails is taken again
                logger.warning("The orders could not be looked at: %s", error)

    async def _look(self, courier: Courier) -> None:
        """Look at all that is open, at what was open and is no longer, and at the trades of their markets."""
        before = dict(self._watched.open)
        there = await courier.look_at_open()
        await courier.look_up_trades(self._symbols)
        gone = [fact for order_id, fact in before.items() if order_id not in there and order_id in self._watched.open]
        await courier.look_up_orders(map(_named, gone))

    async def _ask_on(self, courier: Courier) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(BALANCE_S):
                    await self._ask_now.wait()
            self._ask_now.clear()
            try:
                self._put_balance(await courier.balance_now())
            except Exception as error:  # noqa: BLE001  # it is asked for again
                logger.warning("The balance could not be asked for: %s", error)

    def _put(self, news: News) -> None:
        if isinstance(news, Up):
            # What happened before the subscription, or while it was broken, must be asked for.
            self._up.set()
            self._look_now.set()
        elif isinstance(news, Down):
            logger.warning("The account's stream broke (%s); what is missed is looked up.", news.reason)
        elif isinstance(news, OrderFact | FillFact):
            if news.symbol is not None:
                self._symbols.add(news.symbol)
            # A look-up of trades begins a little earlier than asked for.
            early = isinstance(news, FillFact) and news.ts_ms is not None and news.ts_ms < self._began_ms
            if not early and self._watched.take(news):
                self.order_queue.put(news)

    def _put_balance(self, news: News) -> None:
        if isinstance(news, Up):
            self._ask_now.set()
        elif isinstance(news, dict):
            amounts = [(name, news.get(name)) for name in ("free", "total")]
            if repr(amounts) != self._balance:
                self._balance = repr(amounts)
                self.balance_queue.put(news)


def _named(fact: OrderFact) -> tuple[str | None, str, str]:
    return fact.order_id, fact.client_id or "", fact.symbol or ""
