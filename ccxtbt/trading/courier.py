"""Requests to the I/O thread, and what the exchange says of them back."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

from ccxtbt.errors import (
    ConfigError,
    FundsError,
    NeverArrivedError,
    OrderRefusedError,
    OutcomeUnknownError,
    TriggerPassedError,
    TryLaterError,
)
from ccxtbt.exchange.connection import Connection, as_ours
from ccxtbt.exchange.margin import Margin
from ccxtbt.exchange.orderlists import FORMS
from ccxtbt.exchange.private import Private
from ccxtbt.exchange.wire import Wire
from ccxtbt.trading.contracts import Payment, Stance, payment_of, stances_of
from ccxtbt.trading.journal import Intent, Intents, Journal
from ccxtbt.trading.orders import Request
from ccxtbt.trading.reconcile import Answers, Kept, sort_open, trades_wanted
from ccxtbt.trading.reports import (
    CANCELED,
    Absent,
    Fact,
    FillFact,
    OrderFact,
    Refused,
    Unknown,
    facts_of,
    fill_fact,
    order_fact,
)
from ccxtbt.trading.rules import Rules, exact, rules_of

logger = logging.getLogger(__name__)

# Trades are asked for again from this long before the last look: the exchange may show one late.
TRADES_MARGIN_MS = 60_000

# How long an order waits at most for the cancels of what has locked the money, or the coins, that it spends.
CANCEL_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Up:
    """The private stream is subscribed, for the first time or again."""


@dataclass(frozen=True, slots=True)
class Down:
    """The private stream broke."""

    reason: str


@dataclass(frozen=True, slots=True)
class Held:
    """The balance that was asked for.

    Attributes
    ----------
    balance : dict or None
        In ccxt's structure; None where it could not be had.
    looked : bool
        The trades were looked at first, as an audit wants it.
    waiting : frozenset of str
        Our ids of the conditional orders that had not become others after the trades were looked at.
    """

    balance: dict[str, Any] | None
    looked: bool = False
    waiting: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Traded:
    """The trades that an audit has asked for are told."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Last prices of markets, by symbol."""

    last: Mapping[str, Decimal]


@dataclass(frozen=True, slots=True)
class Open:
    """The orders that are open at the exchange, ours or not."""

    orders: list[OrderFact]


@dataclass(frozen=True, slots=True)
class Stances:
    """Positions in contracts.

    Attributes
    ----------
    told : tuple of Stance
        What each contract's is.
    whole : bool
        They were asked for: a contract without one has none.
    """

    told: tuple[Stance, ...]
    whole: bool = False


News = Fact | Open | Up | Down | Held | Traded | Prices | Stances | Payment | dict[str, Any]

Asked = tuple[str | None, str, str]
"""The exchange's id of an order, None where it is not known, ours, and its market."""


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
    journal : Journal or None
        Has each order on disk before it is sent; None: nothing is kept.
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
        journal: Journal | None,
        *,
        streams: bool = True,
        wire: Wire | None = None,
    ) -> None:
        self._connection = connection
        self._journal = journal
        self._streams = streams
        self._put = put
        self._mappings = mappings
        self._private = Private(connection, self, wire)
        # What each order's answer said: the exchange's id, None where it is not known, False where there is no order.
        self._answers: dict[str, Future[str | Literal[False] | None]] = {}
        # The last cancel of each order: done once the exchange has answered to it.
        self._cancels: dict[str, Future[None]] = {}
        # With which parameter conditional orders are looked up and cancelled.
        self._apart: dict[str, str] = {}
        # Up to when the trades of each market are known to be complete.
        self._complete_ms: dict[str, int] = {}
        self._began_ms = 0
        # Of many orders at once one begins in each pass of the loop, so that fills are heard in between.
        self._turn = asyncio.Lock()
        self._balance_due = self._asking_balance = False
        # The contracts of the run, and up to when the payments for holding them are known to be complete.
        self._contracts: tuple[str, ...] = ()
        self._paid_ms = 0

    def rules(self, symbol: str) -> Rules:
        """Return what a market accepts."""
        rest = self._connection.rest
        market = rest.market(symbol)
        facts, features = self._connection.facts, rest.feature_value(symbol, "createOrder")
        form, trail = FORMS.get(facts.order_lists), facts.trails.get(market.get("type"))
        lists = form is not None and form.offers(market)
        apart = bool(rest.feature_value(symbol, "fetchOrder", "trigger"))
        return rules_of(market, rest.precisionMode, features, trail=trail, lists=lists, triggers_apart=apart)

    def follow(self, *names: str) -> None:
        """Listen to the account from now on: to its 'orders', 'trades' and 'balance', or to those named."""
        self._began_ms = self._began_ms or self._connection.clock.now_ms()
        if self._streams:
            self._private.follow(*names)

    async def end(self) -> None:
        """Listen no more; runs on the I/O thread."""
        await self._private.end()

    def send(self, *orders: Intent, after: Iterable[str] = ()) -> None:
        """Send an order, or the orders of a list, once, as soon as that is on disk; returns at once.

        The answer comes as facts.

        Parameters
        ----------
        *orders : Intent
            What to send.
        after : iterable of str
            Our ids of orders that are being cancelled and lock what this one spends: the exchange is to answer to
            that first, within `CANCEL_WAIT_S`.
        """
        requests = tuple(order.request for order in orders)
        cancels = tuple(self._cancels[client_id] for client_id in after if client_id in self._cancels)
        self._answers |= {request.client_id: Future() for request in requests}
        self._apart |= {request.client_id: request.apart for request in requests if request.apart}
        if self._journal is None:
            self._release(requests, cancels, "")
        else:
            self._journal.intend(Intents(orders), functools.partial(self._release, requests, cancels))

    def _release(self, requests: Sequence[Request], cancels: Sequence[Future[None]], reason: str) -> None:
        """Let orders go whose intents are on disk, or refuse them with the reason why they are not; on any thread."""
        names = ", ".join(request.client_id for request in requests)
        if not reason:
            try:
                self._connection.post(self._send, requests, cancels, name=f"order {names}")
            except (ConfigError, RuntimeError) as error:
                reason = f"The connection was closed before it could leave ({error})."
            else:
                return
        for request in requests:
            self._put(Refused(reason, request.client_id))
            self._answers[request.client_id].set_result(False)

    def know(self, client_id: str, order_id: str | None, apart: str = "") -> None:
        """Take the exchange's id of an order that an earlier run sent, and with which parameter it is looked up."""
        if apart:
            self._apart[client_id] = apart
        if order_id is not None:
            self._answers[client_id] = Future()
            self._answers[client_id].set_result(order_id)

    def look_back(self, symbol: str, since_ms: int) -> None:
        """Ask for the trades of a market from further back with the next look-up."""
        self._complete_ms[symbol] = min(since_ms, self._complete_ms.get(symbol, since_ms))

    def resume(self, kept: Kept) -> None:
        """Find out what became of an order that an earlier run sent; it comes as facts. Returns at once."""
        self._answers[kept.client_id] = Future()
        self._connection.post(self._resume, kept, name=f"order {kept.client_id}")

    def catch_up(self, kept: Sequence[Kept]) -> Answers:
        """Return what became of orders while nobody listened; waits for it.

        Raises
        ------
        TryLaterError
            The exchange does not answer to all of it.
        """
        return self._connection.call(self._catch_up, tuple(kept))

    def look_at_account(self) -> None:
        """Ask which orders are open, ours or not."""
        self._connection.post(self._look_at_account, name="open orders")

    def forget(self, known: Container[str]) -> None:
        """Let go of the answers to orders that are not `known` any more."""
        self._answers = {client_id: answer for client_id, answer in self._answers.items() if client_id in known}
        self._cancels = {client_id: answer for client_id, answer in self._cancels.items() if client_id in known}
        self._apart = {client_id: param for client_id, param in self._apart.items() if client_id in known}

    def cancel(self, client_id: str, symbol: str, list_id: str = "") -> None:
        """Cancel an order, or with `list_id` all that is left of its list; what became of it comes as facts."""
        answered = self._cancels[client_id] = Future()
        self._connection.post(self._cancel, client_id, symbol, list_id, answered, name=f"cancel {client_id}")

    def look_up(self, orders: list[Asked]) -> None:
        """Ask how orders stand, given as (order id, client id, symbol), and for the trades of their markets."""
        self._connection.post(self._look_up, orders, name="look-up")

    def fetch_balance(self) -> dict[str, Any]:
        """Return the account's balance; waits for it."""
        return self._connection.call(self._private.balance)

    async def balance_now(self) -> dict[str, Any]:
        """Return the account's balance; runs on the I/O thread."""
        return await self._private.balance()

    def refresh_balance(self, *, pushed_too: bool = False) -> None:
        """Ask for the balance where no stream pushes it; or, `pushed_too`, in any case."""
        if pushed_too or not (self._streams and self._connection.rest.has.get("watchBalance")):
            self._connection.post(self._refresh_balance, name="balance")

    def audit(self, symbols: Iterable[str], conditional: Iterable[Asked] = ()) -> None:
        """Ask for our trades of some markets, for some conditional orders, and then for the balance.

        Before it, where contracts are traded, come positions and what was paid for holding them.
        """
        self._connection.post(self._audit, tuple(symbols), tuple(conditional), name="audit")

    def trade_contracts(self, symbols: Iterable[str]) -> Margin:
        """Take the account for one of contracts: its balance is the wallet, and positions are heard too."""
        self._contracts = tuple(symbols)
        self._private.trades_contracts = True
        self._connection.rest.options["defaultType"] = "swap"
        return Margin(self._connection)

    def fetch_stances(self, symbols: Iterable[str]) -> tuple[Stance, ...]:
        """Return the open positions in some contracts; waits for them."""
        return stances_of(self._connection.call(Margin(self._connection).positions, list(symbols)))

    def fetch_prices(self, symbols: Iterable[str]) -> Prices:
        """Return the last prices of markets; waits for them."""
        return self._connection.call(self._prices, tuple(symbols))

    def refresh_prices(self, symbols: Iterable[str]) -> None:
        """Ask for the last prices of markets."""
        self._connection.post(self._refresh_prices, tuple(symbols), name="prices")

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

    def positions(self, positions: list[dict[str, Any]]) -> None:
        """Pass on positions in contracts."""
        self._put(Stances(stances_of(positions)))

    def up(self) -> None:
        """Pass on that the stream is subscribed."""
        self._put(Up())

    def down(self, reason: str) -> None:
        """Pass on that the stream broke."""
        self._put(Down(reason))

    # On the I/O thread

    async def _send(self, requests: Sequence[Request], cancels: Sequence[Future[None]]) -> None:
        client_ids = [request.client_id for request in requests]

        def doubt(reason: str) -> None:
            for client_id in client_ids:
                self._put(Unknown(reason, client_id))

        answered: dict[str | None, str | Literal[False] | None] = dict.fromkeys(client_ids)
        try:
            await self._wait_for(cancels, ", ".join(client_ids))
            async with self._turn:
                await asyncio.sleep(0)
            orders = await self._private.submit(
                [request.arguments() for request in requests], client_ids, doubt, requests[0].apart
            )
        except NeverArrivedError as error:
            for client_id in client_ids:
                answered[client_id] = False
                self._put(Absent(str(error), client_id))
        except OrderRefusedError as error:
            margin, passed = isinstance(error, FundsError), isinstance(error, TriggerPassedError)
            for client_id in client_ids:
                answered[client_id] = False
                self._put(Refused(str(error), client_id, margin=margin, immediate=passed))
        except Exception as error:
            doubt(f"{type(error).__name__}: {error}")
            raise
        else:
            for order in orders:
                # Many exchanges do not repeat the id of a single order; of a list each order has it.
                facts = facts_of(order, client_ids[0] if len(client_ids) == 1 else None, self._mappings)
                answered[facts[-1].client_id] = order.get("id")
                for fact in facts:
                    self._put(fact)
        finally:
            for client_id in client_ids:
                self._answers[client_id].set_result(answered[client_id])

    @staticmethod
    async def _wait_for(cancels: Sequence[Future[None]], names: str) -> None:
        if not cancels:
            return
        waits = [asyncio.wrap_future(each) for each in cancels]
        _, unanswered = await asyncio.wait(waits, timeout=CANCEL_WAIT_S)
        if unanswered:
            logger.warning(
                "Order %s is sent although a cancel that may free what it spends was not answered within %g s.",
                names,
                CANCEL_WAIT_S,
            )

    async def _resume(self, kept: Kept) -> None:
        answered: str | Literal[False] | None = kept.order_id
        try:
            answer = await self._private.settle(kept.client_id, kept.symbol, kept.apart, kept.order_id)
        except NeverArrivedError as error:
            if kept.seen:
                # It was there, and is in no list any more: exchanges let go of old orders. Its trades they keep.
                for fill in await self._trades_of({kept.symbol: kept.made_ms - TRADES_MARGIN_MS}):
                    self._put(fill)
                self._put(OrderFact(kept.client_id, status=CANCELED, filled=Decimal(0), reason=str(error)))
            else:
                answered = False
                self._put(Absent(str(error), kept.client_id))
        except OutcomeUnknownError as error:
            self._put(Unknown(str(error), kept.client_id))
        else:
            answered = answer.get("id")
            for fact in facts_of(answer, kept.client_id, self._mappings):
                self._put(fact)
        finally:
            self._answers[kept.client_id].set_result(answered)

    async def _catch_up(self, kept: tuple[Kept, ...]) -> Answers:
        ours, missing, others = sort_open(kept, await self._open_orders())
        told: list[OrderFact] = list(ours)
        absent = []
        for each, found in zip(missing, await asyncio.gather(*map(self._find, missing)), strict=True):
            told += found
            if not found:
                absent.append(each)
        fills = await self._trades_of(trades_wanted(kept, told))
        return Answers([*fills, *told], others, absent)

    async def _open_orders(self) -> list[OrderFact]:
        if not self._connection.rest.has.get("fetchOpenOrders"):
            return []
        try:
            return [order_fact(order, self._mappings) for order in await self._private.open_orders()]
        except Exception as error:
            raise as_ours(error, "Reading the open orders") from error

    async def _find(self, kept: Kept) -> list[OrderFact]:
        """Return how an order stands, and the one that it has become; nothing where the exchange knows of none."""
        try:
            found = await self._private.find(kept.order_id, kept.client_id, kept.symbol, kept.apart)
            told = [] if found is None else [order_fact(found, self._mappings)]
            if told and told[0].became is not None:
                found = await self._private.find(told[0].became, kept.client_id, kept.symbol)
                told += [] if found is None else [order_fact(found, self._mappings)]
        except OutcomeUnknownError:
            # Nobody can tell: it has no id to be asked for by.
            return []
        return [replace(fact, client_id=kept.client_id) for fact in told]

    async def _trades_of(self, since_ms: Mapping[str, int]) -> list[FillFact]:
        facts = []
        for symbol, from_ms in since_ms.items():
            try:
                facts += [fill_fact(trade) for trade in await self._private.trades(symbol, from_ms)]
            except Exception as error:
                raise as_ours(error, f"Reading the trades of {symbol}") from error
        return facts

    async def _look_at_account(self) -> None:
        try:
            self._put(Open(await self._open_orders()))
        except TryLaterError as error:
            logger.warning("%s", error)

    async def _cancel(self, client_id: str, symbol: str, list_id: str, answered: Future[None]) -> None:
        try:
            await self._cancel_now(client_id, symbol, list_id)
        finally:
            answered.set_result(None)

    async def _cancel_now(self, client_id: str, symbol: str, list_id: str) -> None:
        order_id: str | Literal[False] | None = None
        # A cancel that overtakes its order would meet "unknown order": it waits until the order's answer is here.
        if client_id in self._answers:
            # Shielded: a cancel that ends early must not end the answer for whoever else waits, or will set it.
            order_id = await asyncio.shield(asyncio.wrap_future(self._answers[client_id]))
        if order_id is False:
            return
        try:
            orders = await self._private.cancel(order_id, client_id, symbol, list_id, self._apart.get(client_id, ""))
        except OutcomeUnknownError as error:
            logger.info("%s", error)
            await self._look_up([(order_id, client_id, symbol)])
            return
        for order in orders:
            # An order of a list takes the others along: each is told by its own id.
            for fact in facts_of(order, client_id if len(orders) == 1 and not list_id else None, self._mappings):
                self._put(fact)
        if client_id in self._apart:
            # The answer may say no more than that it was heard.
            await self._look_up([(order_id, client_id, symbol)])

    async def _refresh_balance(self) -> None:
        # Many fills at once ask for one balance: the one after the last of them.
        self._balance_due = True
        if self._asking_balance:
            return
        self._asking_balance = True
        try:
            while self._balance_due:
                self._balance_due = False
                self._put(Held(await self._private.balance()))
        except TryLaterError as error:
            logger.warning("%s", error)
        finally:
            self._asking_balance = False

    async def _audit(self, symbols: tuple[str, ...], conditional: tuple[Asked, ...]) -> None:
        held = Held(None, looked=True)
        try:
            await self.look_up_trades(symbols)
            self._put(Traded())
            waiting = await self.look_up_orders(conditional)
            await self._look_at_contracts()
            held = Held(await self._private.balance(), looked=True, waiting=waiting)
        except TryLaterError as error:
            logger.warning("%s", error)
        finally:
            self._put(held)

    async def _prices(self, symbols: tuple[str, ...]) -> Prices:
        rest = self._connection.rest
        last = {}
        for symbol in symbols:
            try:
                price = (await self._connection.retrying(rest.fetch_ticker)(symbol)).get("last")
            except Exception as error:  # noqa: BLE001  # a price that cannot be had is told by who needs it
                logger.warning("The price of %s could not be had: %s", symbol, error)
                continue
            if price:
                last[symbol] = exact(price, "last price")
        return Prices(last)

    async def _refresh_prices(self, symbols: tuple[str, ...]) -> None:
        self._put(await self._prices(symbols))

    async def look_at_open(self) -> set[str]:
        """Pass on all open orders, and return the exchange's ids of them; runs on the I/O thread."""
        orders = await self._private.open_orders()
        for order in orders:
            self.order(order)
        return {str(order["id"]) for order in orders}

    async def _look_at_contracts(self) -> None:
        if not self._contracts:
            return
        margin, asked_ms = Margin(self._connection), self._connection.clock.now_ms()
        since_ms = (self._paid_ms or self._began_ms) - TRADES_MARGIN_MS
        for payment in await margin.payments(self._contracts, since_ms):
            self._put(payment_of(payment))
        self._paid_ms = asked_ms
        self._put(Stances(stances_of(await margin.positions(self._contracts)), whole=True))

    async def _look_up(self, orders: list[Asked]) -> None:
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

    async def look_up_orders(self, orders: Iterable[Asked]) -> frozenset[str]:
        """Pass on how orders stand; runs on the I/O thread.

        Returns
        -------
        frozenset of str
            Our ids of the conditional orders that wait for their trigger yet.
        """
        waiting = set()
        for order_id, client_id, symbol in orders:
            if order_id is None and client_id in self._answers and not self._answers[client_id].done():
                continue
            try:
                found = await self._private.find(order_id, client_id, symbol, self._apart.get(client_id, ""))
            except TryLaterError as error:
                logger.warning("%s", error)
                continue
            except OutcomeUnknownError:
                # It has no id to be asked for by, which was told when its answer was lost.
                continue
            facts = facts_of(found, client_id, self._mappings) if found else []
            for fact in facts:
                self._put(fact)
            became = next((fact.became for fact in facts if isinstance(fact, OrderFact) and fact.became), None)
            if became is not None:
                await self._look_up_become(became, client_id, symbol)
            elif found and client_id in self._apart:
                waiting.add(client_id)
        return frozenset(waiting)

    async def _look_up_become(self, order_id: str, client_id: str, symbol: str) -> None:
        """Pass on how the order stands that a conditional one has become."""
        try:
            found = await self._private.find(order_id, client_id, symbol)
        except TryLaterError as error:
            logger.warning("%s", error)
            return
        for fact in facts_of(found, client_id, self._mappings) if found else ():
            self._put(fact)
