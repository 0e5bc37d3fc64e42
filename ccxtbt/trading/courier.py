"""Requests to the I/O thread, and what the exchange says of them back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ccxtbt.errors import FundsError, OrderRefusedError, OutcomeUnknownError, TriggerPassedError, TryLaterError
from ccxtbt.exchange.connection import Connection
from ccxtbt.exchange.private import Private
from ccxtbt.exchange.wire import Wire
from ccxtbt.trading.orders import Request
from ccxtbt.trading.reports import Fact, Refused, Unknown, facts_of, fill_fact, order_fact
from ccxtbt.trading.rules import Rules, rules_of

logger = logging.getLogger(__name__)

# Trades are asked for again from this long before the last look: the exchange may show one late.
TRADES_MARGIN_MS = 60_000


@dataclass(frozen=True, slots=True)
class Up:
    """The private stream is subscribed, for the first time or again."""


@dataclass(frozen=True, slots=True)
class Down:
    """The private stream broke."""

    reason: str


News = Fact | Up | Down | dict[str, Any]


class Courier:
    """Sends, cancels and looks up orders on the I/O thread, and hands on each fact that it learns.

    Parameters
    ----------
    connection : Connection
        The account.
    put : callable
        Takes facts, balances and news of the stream; called on the I/O thread.
    mappings : mapping
        A user's own way to tell the end of an order.
    streams : bool
        Listen to the streams that the exchange has; otherwise all is looked up.
    wire : Wire or None
        A socket of their own for the streams, for who ends before the connection does.
    """

    def __init__(
        self,
        connection: Connection,
        put: Callable[[News], None],
        mappings: Mapping[str, Mapping[str, Any]],
        *,
        streams: bool = True,
        wire: Wire | None = None,
    ) -> None:
        self._connection = connection
        self._streams = streams
        self._put = put
        self._mappings = mappings
        self._private = Private(connection, self, wire)
        self._ids: dict[str, asyncio.Future[str | None]] = {}
        # Up to when the trades of each market are known to be complete.
        self._complete_ms: dict[str, int] = {}
        self._began_ms = 0
        self._balance_due = self._asking_balance = False

    @property
    def keyed(self) -> bool:
        """Whether the account has credentials."""
        return self._connection.keyed

    def rules(self, symbol: str) -> Rules:
        """Return what a market accepts."""
        rest = self._connection.rest
        market = rest.market(symbol)
        return rules_of(market, rest.precisionMode, rest.feature_value(symbol, "createOrder"))

    def follow(self, *names: str) -> None:
        """Listen to the account from now on: to its 'orders', 'trades' and 'balance', or to those named."""
        self._began_ms = self._began_ms or self._connection.clock.now_ms()
        if self._streams:
            self._private.follow(*names)

    async def end(self) -> None:
        """Listen no more; runs on the I/O thread."""
        await self._private.end()

    def send(self, request: Request) -> None:
        """Send an order once; its answer comes as facts."""
        self._connection.post(self._send, request, name=f"order {request.client_id}")

    def cancel(self, client_id: str, symbol: str) -> None:
        """Cancel an order; what became of it comes as facts."""
        self._connection.post(self._cancel, client_id, symbol, name=f"cancel {client_id}")

    def look_up(self, orders: list[tuple[str | None, str, str]]) -> None:
        """Ask how orders stand, given as (order id, client id, symbol), and for the trades of their markets."""
        self._connection.post(self._look_up, orders, name="look-up")

    def fetch_balance(self) -> dict[str, Any]:
        """Return the account's balance; waits for it."""
        return self._connection.call(self._private.balance)

    async def balance_now(self) -> dict[str, Any]:
        """Return the account's balance; runs on the I/O thread."""
        return await self._private.balance()

    def refresh_balance(self) -> None:
        """Ask for the balance where no stream pushes it."""
        if not (self._streams and self._connection.rest.has.get("watchBalance")):
            self._connection.post(self._refresh_balance, name="balance")

    # What the private streams call

    def order(self, order: dict[str, Any]) -> None:
        """Pass on an order."""
        self._put(order_fact(order, self._mappings))

    def trade(self, trade: dict[str, Any]) -> None:
        """Pass on a trade of ours."""
        self._put(fill_fact(trade))

    def balance(self, balance: dict[str, Any]) -> None:
        """Pass on a balance."""
        self._put(balance)

    def up(self) -> None:
        """Pass on that the stream is subscribed."""
        self._put(Up())

    def down(self, reason: str) -> None:
        """Pass on that the stream broke."""
        self._put(Down(reason))

    # On the I/O thread

    async def _send(self, request: Request) -> None:
        client_id = request.client_id
        known = self._ids[client_id] = asyncio.get_running_loop().create_future()

        def doubt(reason: str) -> None:
            self._put(Unknown(reason, client_id))

        order_id = None
        try:
            answer = await self._private.submit(request.arguments(), client_id, doubt)
        except OrderRefusedError as error:
            margin, passed = isinstance(error, FundsError), isinstance(error, TriggerPassedError)
            self._put(Refused(str(error), client_id, margin=margin, immediate=passed))
        except Exception as error:
            doubt(f"{type(error).__name__}: {error}")
            raise
        else:
            order_id = answer.get("id")
            for fact in facts_of(answer, client_id, self._mappings):
                self._put(fact)
        finally:
            known.set_result(order_id)

    async def _cancel(self, client_id: str, symbol: str) -> None:
        # A cancel that overtakes its order would meet "unknown order": it waits until the order's answer is here.
        order_id = await self._ids[client_id] if client_id in self._ids else None
        try:
            answer = await self._private.cancel(order_id, client_id, symbol)
        except OutcomeUnknownError as error:
            logger.info("%s", error)
            await self._look_up([(order_id, client_id, symbol)])
            return
        for fact in facts_of(answer, client_id, self._mappings):
            self._put(fact)

    async def _refresh_balance(self) -> None:
        # Many fills at once ask for one balance: the one after the last of them.
        self._balance_due = True
        if self._asking_balance:
            return
        self._asking_balance = True
        try:
            while self._balance_due:
                self._balance_due = False
                self._put(await self._private.balance())
        except TryLaterError as error:
            logger.warning("%s", error)
        finally:
            self._asking_balance = False

    async def look_at_open(self) -> set[str]:
        """Pass on all open orders, and return the exchange's ids of them; runs on the I/O thread."""
        orders = await self._private.open_orders()
        for order in orders:
            self.order(order)
        return {str(order["id"]) for order in orders}

    async def _look_up(self, orders: list[tuple[str | None, str, str]]) -> None:
        await self.look_up_trades({symbol for _, _, symbol in orders})
        await self.look_up_orders(orders)

    async def look_up_trades(self, symbols: Iterable[str]) -> None:
        """Pass on our trades of some markets since they were last complete; runs on the I/O thread."""
        for symbol in symbols:
            asked_ms = self._connection.clock.now_ms()
            try:
                trades = await self._private.trades(
                    symbol, self._complete_ms.get(symbol, self._began_ms) - TRADES_MARGIN_MS
                )
            except Exception as error:  # noqa: BLE001  # a look-up that fails is made again; the order stays open
                logger.warning("The trades of %s could not be looked up: %s", symbol, error)
                continue
            for trade in trades:
                self.trade(trade)
            self._complete_ms[symbol] = asked_ms

    async def look_up_orders(self, orders: Iterable[tuple[str | None, str, str]]) -> None:
        """Pass on how orders stand; runs on the I/O thread."""
        for order_id, client_id, symbol in orders:
            if order_id is None and client_id in self._ids and not self._ids[client_id].done():
                continue
            try:
                found = await self._private.find(order_id, client_id, symbol)
            except TryLaterError as error:
                logger.warning("%s", error)
                continue
            for fact in facts_of(found, client_id, self._mappings) if found else ():
                self._put(fact)
