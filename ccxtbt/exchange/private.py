"""Orders, trades and balances of one account: private REST calls and streams, on the I/O thread."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import ccxt

from ccxtbt.errors import (
    FundsError,
    NeverArrivedError,
    NotOfferedError,
    OrderRefusedError,
    OutcomeUnknownError,
    TriggerPassedError,
    TryLaterError,
)
from ccxtbt.exchange.adapter import SENDER
from ccxtbt.exchange.connection import Connection, as_ours
from ccxtbt.exchange.limiter import Lane, in_lane
from ccxtbt.exchange.margin import wallets_in
from ccxtbt.exchange.orderlists import FORMS, Arguments
from ccxtbt.exchange.retry import Cure, Remedy, classify
from ccxtbt.exchange.wire import WIRE, Wire

logger = logging.getLogger(__name__)

# How long a request that was turned away is tried again before the order is given up, and between tries.
SUBMIT_DEADLINE_S = 30.0
SUBMIT_PAUSE_S = 1.0
# An order whose answer was lost is absent only after the request can no longer be accepted (Binance's recvWindow as
# ccxt sends it) and this many look-ups in a row have not found it.
VALIDITY_MS = 10_000
LOOK_UPS = 3
LOOK_UP_PAUSE_MS = 1_000

BACKOFF_S = 0.5
BACKOFF_MAX_S = 30.0
# How often the socket is looked at, and how long the exchange may take to answer to a subscription.
LOOK_S = 0.5
CONFIRM_S = 20.0
# A key that could not be renewed is good for a while yet.
RENEW_PAUSE_S = 30.0
# A connection that says nothing for so many times the longest time between two pings is dead.
MISSED_PINGS = 2.5
# What keeps a connection alive answers nothing.
_KEEPS_ALIVE = re.compile("ping|pong|heartbeat", re.IGNORECASE)
_HEAD = 120

_numbers = itertools.count(1)


class AccountSink(Protocol):
    """What the private streams call, on the I/O thread."""

    def order(self, order: dict[str, Any]) -> None:
        """Take an order as ccxt parses it."""

    def trade(self, trade: dict[str, Any]) -> None:
        """Take a trade of ours as ccxt parses it."""

    def balance(self, balance: dict[str, Any]) -> None:
        """Take a balance as ccxt parses it."""

    def positions(self, positions: list[dict[str, Any]]) -> None:
        """Take positions as ccxt parses them; only where contracts are traded."""

    def up(self) -> None:
        """A subscription of the streams has left, the first time or again: ask for what was before."""

    def down(self, reason: str) -> None:
        """The stream broke: events may be lost from now on."""


def _refusal(error: Exception) -> OrderRefusedError:
    """Return ccxt's refusal of an order as ours."""
    if isinstance(error, ccxt.InsufficientFunds):
        return FundsError(str(error))
    if isinstance(error, ccxt.OrderImmediatelyFillable):
        return TriggerPassedError(str(error))
    return OrderRefusedError(str(error))


class Private:
    """The private side of a connection.

    Its streams may be silent for hours, for an account may be quiet: no `watch_*` has a time-out of its own. What ends
    one on which nothing can come any more is a guard of their socket: that must answer pings, and the exchange must
    answer to a subscription, and not end it. ccxt leaves who watches waiting for ever where it does not.

    Parameters
    ----------
    connection : Connection
        The account.
    sink : AccountSink
        Hears what the streams bring.
    wire : Wire or None
        The socket of the streams; None: a new one.

    Attributes
    ----------
    trades_contracts : bool
        The account is one of contracts: its balance is its wallet, without open profit, and positions are followed.
    """

    def __init__(self, connection: Connection, sink: AccountSink, wire: Wire | None = None) -> None:
        self._connection = connection
        self._lists = FORMS.get(connection.facts.order_lists)
        self._sink = sink
        self._wire = wire or Wire(f"private-{next(_numbers)}", connection.facts.ping_s)
        self._wire.tap = self._hear
        self.trades_contracts = False
        self._asked_s: float | None = None
        self._why = ""
        # Up was told, and no break since; a break was told, and no up since.
        self._is_up = self._broken = False
        self._again = asyncio.Event()
        self._pausing: set[str] = set()
        self._renew_s = 0.0
        self._watching: dict[str, asyncio.Task[Any] | None] = {}

    def follow(self, *names: str) -> None:
        """Start the streams of 'orders', 'trades' and 'balance', or of those named, where the exchange has them."""
        rest = self._connection.rest
        streams: list[tuple[str, Callable[[], Awaitable[Any]], Callable[[Any], None]]] = []
        if rest.has.get("watchOrders"):
            streams.append(("orders", rest.watch_orders, self._orders))
        if rest.has.get("watchMyTrades"):
            streams.append(("trades", rest.watch_my_trades, self._trades))
        if rest.has.get("watchBalance"):
            streams.append(("balance", rest.watch_balance, self._sink.balance))
        if self.trades_contracts and rest.has.get("watchPositions"):
            streams.append(("positions", rest.watch_positions, self._sink.positions))
        for name, watch, handle in streams:
            if name in names or not names:
                self._connection.spawn(self._watch, name, watch, handle, name=f"private {name}")
        if "guard" not in self._watching:
            self._watching["guard"] = None
            self._connection.spawn(self._guard, name="private guard")

    async def end(self, *names: str) -> None:
        """End the streams that are named; or all of them, and their socket."""
        for name in names or list(self._watching):
            task = self._watching.pop(name, None)
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if not names:
            await self._wire.close()

    async def submit(
        self,
        orders: Sequence[Arguments],
        client_ids: Sequence[str],
        doubt: Callable[[str], None],
        apart: str = "",
    ) -> list[dict[str, Any]]:
        """Send one order, or two as a list that is taken as a whole, and return them as ccxt parses the answer.

        What provably never reached matching is sent again under the same client ids. Orders whose answer was lost
        are never sent again: they are looked up until the exchange has told what became of them.

        Parameters
        ----------
        orders : sequence of tuple
            Of ccxt's `create_order`: symbol, type, side, amount, price, params; the client id is among the params, and
            so is that of their list.
        client_ids : sequence of str
            Under which the orders can be found again.
        doubt : callable
            Hears why, when it is not known whether the exchange has them.
        apart : str
            ccxt's parameter with which an order is looked up, where conditional ones live apart from the others.

        Raises
        ------
        OrderRefusedError
            They are not at the exchange and will not be; `FundsError` for lack of funds, `TriggerPassedError` for a
            stop that is due already, `NeverArrivedError` where nobody refused them.
        OutcomeUnknownError
            An answer was lost, and the exchange cannot be asked by client ids.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + SUBMIT_DEADLINE_S
        names = ", ".join(client_ids)
        turned_away = "requests are held at the exchange's wish"
        while True:
            if loop.time() + self._held_s() > deadline_s:
                raise OrderRefusedError(
                    f"The order could not leave within {SUBMIT_DEADLINE_S:g} s and was never sent: {turned_away}."
                )
            try:
                with in_lane(Lane.ORDER, orders=len(orders)):
                    answered = await self._create(orders)
            except Exception as error:
                cure = classify(error, self._connection.rest.last_response_headers, creates_order=True)
                if cure.remedy is Remedy.NEVER:
                    raise _refusal(error) from error
                if cure.remedy is Remedy.UNKNOWN:
                    logger.warning("The answer to order %s was lost (%s); looking it up.", names, error)
                    doubt(str(error))
                    break
                turned_away = str(error)
                logger.warning("Order %s was turned away before matching (%s); sending it again.", names, error)
                await self._pause(cure)
            else:
                if len(answered) == len(orders) and all(order.get("id") for order in answered):
                    return answered
                # A cut answer that still parses: ccxt raises nothing, and the order may live.
                doubt("the answer names no order")
                break
        return [await self.settle(client_id, orders[0][0], apart) for client_id in client_ids]

    async def _create(self, orders: Sequence[Arguments]) -> list[dict[str, Any]]:
        rest = self._connection.rest
        if len(orders) == 1:
            return [dict(await rest.create_order(*orders[0]))]
        if self._lists is None:
            raise NotOfferedError(f"{self._connection.account.exchange_id} takes no lists of orders.")
        request = self._lists.request(rest, orders)
        return self._parsed(await getattr(rest, self._lists.place)(request), orders[0][0])

    def _parsed(self, answer: Any, symbol: str) -> list[dict[str, Any]]:
        """Return the orders of a list that an answer tells of."""
        rest = self._connection.rest
        told = () if self._lists is None else self._lists.orders(answer)
        return [dict(rest.parse_order(order, rest.market(symbol))) for order in told]

    async def cancel(
        self, order_id: str | None, client_id: str, symbol: str, list_id: str = "", apart: str = ""
    ) -> list[dict[str, Any]]:
        """Cancel an order, or with `list_id` the whole of its list, and return what the exchange says of them.

        An order of a list takes the list along, and the answer then tells of all of it; `apart` as in `submit`.

        Raises
        ------
        OutcomeUnknownError
            It may or may not be cancelled: look at the order.
        """
        rest = self._connection.rest
        if not order_id and not list_id and not self._looks_up(symbol):
            order_id = await self._own_id(client_id, symbol)
        order_id = self._lasting(order_id, symbol, apart)
        params = self._named(order_id, client_id)
        try:
            with in_lane(Lane.ORDER):
                if self._lists is not None and list_id:
                    request = {"symbol": rest.market_id(symbol), self._lists.id_param: list_id}
                    return self._parsed(await getattr(rest, self._lists.cancel)(request), symbol)
                if apart:
                    # One that was triggered is an order like any other by now.
                    with suppress(ccxt.OrderNotFound):
                        return [dict(await rest.cancel_order(order_id, symbol, {**params, apart: True}))]
                order = await rest.cancel_order(order_id, symbol, params)
                return self._parsed(order.get("info"), symbol) or [dict(order)]
        except Exception as error:
            await self._keep_in_step(error)
            # OrderNotFound too: it says the same of a filled order, a cancelled one and one not yet visible.
            raise OutcomeUnknownError(f"The cancel of order {client_id} was not confirmed: {error}") from error

    async def find(self, order_id: str | None, client_id: str, symbol: str, apart: str = "") -> dict[str, Any] | None:
        """Return the order as the exchange knows it; None where it says that there is no such order.

        An order whose id is not known is looked for by its client id: see `Facts.client_id_lookup` for what None means
        then. A conditional order (`apart` as in `submit`) is looked for among those, and then among the others.

        Raises
        ------
        TryLaterError
            The exchange could not be asked.
        OutcomeUnknownError
            It has no client ids, and the order's own is not known.
        """
        if not order_id and not self._looks_up(symbol):
            return await self._search(client_id, symbol)
        order_id = self._lasting(order_id, symbol, apart)
        params = self._named(order_id, client_id)
        ask = self._connection.rest.fetch_order
        try:
            if apart:
                with suppress(ccxt.OrderNotFound):
                    return dict(await ask(order_id, symbol, {**params, apart: True}))
            return dict(await ask(order_id, symbol, params))
        except ccxt.OrderNotFound:
            return None
        except Exception as error:
            await self._keep_in_step(error)
            raise TryLaterError(f"Order {client_id} could not be looked up: {error}") from error

    async def open_orders(self) -> list[dict[str, Any]]:
        """Return the account's open orders as ccxt parses them."""
        rest = self._connection.rest
        # The budget counts what the request weighs: ccxt need not refuse it.
        rest.options["warnOnFetchOpenOrdersWithoutSymbol"] = False
        return list(await self._connection.retrying(rest.fetch_open_orders)())

    async def trades(self, symbol: str, since_ms: int) -> list[dict[str, Any]]:
        """Return our trades of a market since `since_ms`, oldest first."""
        limit = 1_000
        trades: list[dict[str, Any]] = []
        while True:
            try:
                page = await self._connection.rest.fetch_my_trades(symbol, since_ms, limit)
            except Exception as error:
                await self._keep_in_step(error)
                raise
            fresh = [trade for trade in page if all(trade["id"] != known["id"] for known in trades[-limit:])]
            trades += fresh
            if len(page) < limit or not fresh:
                return trades
            since_ms = fresh[-1]["timestamp"]

    async def balance(self) -> dict[str, Any]:
        """Return the account's balance as ccxt parses it.

        Raises
        ------
        ConfigError
            The key is wrong, or may not do this.
        TryLaterError
            The exchange does not answer.
        """
        try:
            balance = dict(await self._connection.retrying(self._connection.rest.fetch_balance)())
        except Exception as error:
            raise as_ours(error, "Reading the balance") from error
        if self.trades_contracts:
            balance["total"] = {**balance.get("total", {}), **wallets_in(balance, self._connection.facts)}
        return balance

    def sent(self) -> None:
        """A subscription of the private stream has left."""
        self._asked_s = time.monotonic()
        self._come_up()

    def _come_up(self) -> None:
        self._is_up, self._broken, self._why = True, False, ""
        # The streams share a subscription: those that still pause would miss what comes from now on.
        self._again.set()
        self._sink.up()

    def _looks_up(self, symbol: str) -> bool:
        """Whether ccxt can ask for an order of this market by its client id."""
        return self._connection.rest.market(symbol)["type"] in self._connection.facts.client_id_lookup

    async def _own_id(self, client_id: str, symbol: str) -> str:
        """Return the exchange's own id of an order, where ccxt can cancel by no other."""
        try:
            found = await self._search(client_id, symbol)
        except TryLaterError as error:
            raise OutcomeUnknownError(f"Order {client_id} could not be found to be cancelled: {error}") from error
        if found is None:
            raise OutcomeUnknownError(f"Order {client_id} is in no list of the exchange to be cancelled.")
        return str(found["id"])

    async def _search(self, client_id: str, symbol: str) -> dict[str, Any] | None:
        """Return the order that bears a client id from the lists of the exchange; None where it is in none of them."""
        self._named(None, client_id)
        rest = self._connection.rest
        lists = {
            "fetchOpenOrders": rest.fetch_open_orders,
            "fetchClosedOrders": rest.fetch_closed_orders,
            "fetchCanceledOrders": rest.fetch_canceled_orders,
        }
        try:
            for name, ask in lists.items():
                if not rest.has.get(name):
                    continue
                with suppress(ccxt.NotSupported):
                    for order in await ask(symbol):
                        # Not all of ccxt's parsers read it.
                        if client_id in (order.get("clientOrderId"), *(order.get("info") or {}).values()):
                            return dict(order)
        except Exception as error:
            await self._keep_in_step(error)
            raise TryLaterError(f"Order {client_id} could not be looked up: {error}") from error
        return None

    def _named(self, order_id: str | None, client_id: str) -> dict[str, str]:
        """Return the parameters that name an order beside its id."""
        param, exchange = self._connection.facts.client_id_param, self._connection.account.exchange_id
        if not order_id and not param:
            raise OutcomeUnknownError(
                f"Order {client_id} cannot be looked up: {exchange} takes no client ids and its own id is not known. "
                "Look at the account: the order may be there, and is not sent again."
            )
        return {} if order_id else {param: client_id}

    def refused(self, error: Exception) -> None:
        """A subscription is not taken, and ccxt tells nobody."""
        self._break_off(f"{type(error).__name__}: {error}")

    def _hear(self, data: str | bytes) -> bool:
        """See a frame before ccxt does; take the one that ends the stream on a connection that goes on."""
        text = data if isinstance(data, str) else data.decode("latin-1")
        if self._asked_s is not None and not _KEEPS_ALIVE.search(text[:_HEAD]):
            self._asked_s = None
        ended = any(word in text for word in self._connection.facts.stream_ends)
        if ended:
            self._connection.rest.forget_listen_keys()
            self._break_off("the exchange has ended it")
        return ended

    def _break_off(self, reason: str) -> None:
        """Take the socket for dead: all streams hear it, and ccxt makes another client for them."""
        # ccxt may say less of it, or trip over it.
        self._asked_s, self._why = None, reason
        self._wire.break_off(reason)

    def _see_connection(self) -> None:
        """Raise where the socket has ended: ccxt would open another, and nobody would ask for what was missed."""
        if self._wire.has_ended:
            self._break_off("the connection ended")
            raise ConnectionError(self._why)

    async def _guard(self) -> None:
        """Break the socket off where nothing can come any more; tell where all comes without being asked for."""
        self._watching["guard"] = asyncio.current_task()
        confirm_s = CONFIRM_S / self._connection.clock.rate
        dead_s = MISSED_PINGS * self._wire.ping_s
        while True:
            await asyncio.sleep(LOOK_S)
            now_s, heard_s = time.monotonic(), self._wire.heard_s
            if not (self._is_up or self._pausing or self._asked_s) and self._wire.is_open:
                # A key in the address is the whole subscription: no message leaves that would tell it.
                self._come_up()
            if self._asked_s is not None and now_s - self._asked_s > confirm_s:
                self._break_off("the exchange has not answered to the subscription")
            elif heard_s is not None and now_s - heard_s > dead_s:
                self._break_off(f"the connection has said nothing, not even to pings, for {now_s - heard_s:.1f} s")
            if self._is_up and now_s >= self._renew_s:
                await self._renew(now_s)

    async def _renew(self, now_s: float) -> None:
        """Keep the key of the stream alive, where it has one."""
        try:
            same = await self._connection.rest.renew_listen_keys()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is tried again
            self._renew_s = now_s + RENEW_PAUSE_S
            logger.warning("The key of the private stream could not be renewed (%s); trying again.", error)
        else:
            if not same:
                self._break_off("its key was not renewed in time")

    def _held_s(self) -> float:
        """Return for how many seconds from now no order can leave."""
        budgets = (self._connection.limiter, self._connection.orders)
        return max(budget.stats().frozen_s for budget in budgets) / self._connection.clock.rate

    async def _keep_in_step(self, error: Exception) -> None:
        """Set the clock, where the exchange refused a request for its time: the next one would meet the same."""
        if classify(error).resync_clock:
            await self._set_clock()

    async def _set_clock(self) -> None:
        try:
            await self._connection.sync_clock()
        except Exception as failure:  # noqa: BLE001  # what was refused is refused, and goes again all the same
            logger.warning("The clock could not be set: %s", failure)

    async def _pause(self, cure: Cure) -> None:
        """Do what helps against an error before the same request goes out again."""
        if cure.resync_clock:
            await self._set_clock()
        if cure.remedy is Remedy.FREEZE:
            budget = self._connection.orders if cure.orders_only else self._connection.limiter
            budget.freeze(cure.after_s)
        else:
            await asyncio.sleep(max(SUBMIT_PAUSE_S, cure.after_s))

    def _lasting(self, order_id: str | None, symbol: str, apart: str) -> str | None:
        """Return the id that an order is to be asked for by: a conditional one gets another when it triggers."""
        return None if apart and self._looks_up(symbol) else order_id

    async def settle(self, client_id: str, symbol: str, apart: str = "", order_id: str | None = None) -> dict[str, Any]:
        """Look up an order whose answer was lost, and return it as soon as the exchange shows it.

        Raises
        ------
        NeverArrivedError
            The exchange has no such order, and can take none of that request any more.
        OutcomeUnknownError
            The exchange has no client ids: nobody can tell.
        """
        clock = self._connection.clock
        # It was signed before now, and perhaps only just: it had to wait for the budget first.
        sent_ms = clock.now_ms()
        absent = failures = 0
        while True:
            try:
                order = await self.find(order_id, client_id, symbol, apart)
            except TryLaterError as error:
                failures += 1
                logger.warning("Order %s: its look-up failed %d times (%s); trying on.", client_id, failures, error)
            else:
                if order is not None:
                    return order
                absent = absent + 1 if clock.now_ms() > sent_ms + VALIDITY_MS else 0
                if absent >= LOOK_UPS and not self._looks_up(symbol):
                    raise OutcomeUnknownError(
                        f"Order {client_id} is in doubt: its answer was lost, and {LOOK_UPS} look-ups have not found "
                        f"it among {self._connection.account.exchange_id}'s open and latest orders, which does not "
                        "prove that it never arrived. Look at the account: it is not sent again."
                    )
                if absent >= LOOK_UPS:
                    raise NeverArrivedError(
                        f"Order {client_id} never arrived: its answer was lost and, {VALIDITY_MS / 1000:g} s later, "
                        f"{LOOK_UPS} look-ups did not find it."
                    )
            await asyncio.sleep(clock.wait_s(clock.now_ms() + LOOK_UP_PAUSE_MS))

    async def _watch(self, name: str, watch: Callable[[], Awaitable[Any]], handle: Callable[[Any], None]) -> None:
        self._watching[name] = asyncio.current_task()
        WIRE.set(self._wire)
        # Whichever stream comes first subscribes for all, where they share a subscription.
        SENDER.set(self)
        failures = 0
        while True:
            try:
                handle(await watch())
                failures = 0
                self._see_connection()
            except Exception as error:  # noqa: BLE001  # ccxt raises of any kind here; each means: subscribe again
                failures += 1
                reason = self._why or f"{type(error).__name__}: {error}"
                logger.warning("The private stream of %s broke (%s).", name, reason)
                self._is_up = False
                if not self._broken:
                    # The streams share a connection: each breaks with it, and it is told once.
                    self._broken = True
                    self._again.clear()
                    self._sink.down(reason)
                self._pausing.add(name)
                with suppress(TimeoutError):
                    async with asyncio.timeout(
                        random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(failures, 10)))
                    ):
                        await self._again.wait()
                self._pausing.discard(name)

    def _orders(self, orders: list[dict[str, Any]]) -> None:
        for order in orders:
            self._sink.order(order)

    def _trades(self, trades: list[dict[str, Any]]) -> None:
        for trade in trades:
            self._sink.trade(trade)
