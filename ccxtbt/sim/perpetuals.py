"""A futures exchange: the matching engine over perpetual contracts, with funding and liquidations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Literal

from ccxtbt.sim.account import Account
from ccxtbt.sim.algos import AlgoOrder, check_algo
from ccxtbt.sim.clock import Clock
from ccxtbt.sim.desk import Desk
from ccxtbt.sim.events import AlgoEvent
from ccxtbt.sim.filters import check, check_count, check_parameters
from ccxtbt.sim.funding import next_funding_ms, rate_at
from ccxtbt.sim.margin_books import MarginBooks, Position
from ccxtbt.sim.market import Market, Trade
from ccxtbt.sim.matching import Exchange
from ccxtbt.sim.orders import Order, OrderRequest, Reject

_ZERO = Decimal(0)
# Conditional orders are numbered from here on, so that no order has the same number: clients keep both in one table.
_ALGO_IDS = 3_000_000_000

# "New Order" of Binance's futures: goodTillDate is more than so far ahead, and before this time.
_GOOD_FOR_MS = 600_000
_LAST_DATE_MS = 253_402_300_799_000


class Perpetuals(Exchange):
    """An exchange whose symbols are perpetual contracts; see `Exchange` and `MarginBooks`.

    Orders are MARKET, LIMIT, which may end at a date (Binance's GTD), and LIMIT_MAKER (its GTX). A conditional order
    waits outside of the engine until the last price triggers it (the mark price is the same here); then it becomes an
    order with its client id. Funding is paid at 00:00, 08:00 and 16:00 UTC. After each trade, positions whose margin
    does not suffice are closed at the market by an order whose client id begins with 'autoclose-', and the account's
    other orders of the contract end.

    Attributes
    ----------
    algos : list of AlgoOrder
        Every conditional order that was ever accepted, in order of arrival.
    countdowns : dict of (str, str) to int
        When all orders of an account's key and a contract will be cancelled.
    """

    def __init__(
        self,
        markets: Mapping[str, Market],
        clock: Clock,
        maker_fee: Decimal = Decimal("0.0002"),
        taker_fee: Decimal = Decimal("0.0005"),
    ) -> None:
        super().__init__(markets, clock, maker_fee, taker_fee)
        self.books: MarginBooks = MarginBooks(self._desks, maker_fee, taker_fee)
        self.algos: list[AlgoOrder] = []
        self._waiting: list[AlgoOrder] = []
        self._became: dict[Order, AlgoOrder] = {}
        self._liquidations = 0
        self.countdowns: dict[tuple[str, str], int] = {}
        self.call_at(next_funding_ms(self._now_ms - 1), self._pay_funding)

    def check(self, account: Account, *requests: OrderRequest) -> None:
        """Refuse orders as `Exchange.check` does; one that only reduces may be worth as little as it likes.

        Raises
        ------
        Reject
            -5040 for an order that is to end too soon, or never.
        """
        for request in requests:
            end_ms = request.good_till_ms
            if end_ms is not None and not self._now_ms + _GOOD_FOR_MS < end_ms < _LAST_DATE_MS:
                raise Reject(
                    -5040,
                    "The goodTillDate timestamp must be greater than the current time plus 600 seconds and smaller than"
                    f" {_LAST_DATE_MS}",
                )
            desk = self._desk(request.symbol)
            check_parameters(request)
            spec = replace(desk.market.spec, min_notional=_ZERO) if request.reduce_only else desk.market.spec
            check(spec, request, desk.last_price())
            check_count(spec, sum(order.account is account for order in desk.orders()), 0, request)

    def draft(self, account: Account, request: OrderRequest, now_ms: int) -> Order:
        """Make an order as `Exchange.draft` does; one that only reduces is cut to the position.

        Raises
        ------
        Reject
            -2022 if there is nothing to reduce.
        """
        order = super().draft(account, request, now_ms)
        if order.reduce_only:
            position = self.books.position(account, order.symbol)
            if not position.amount or (position.amount > 0) == (order.side == "BUY"):
                raise Reject(-2022, "ReduceOnly Order is rejected.")
            order.orig_qty = min(order.orig_qty, abs(position.amount))
        return order

    def accept(self, order: Order, now_ms: int) -> None:
        """Accept an order as `Exchange.accept` does, and let it end at its date."""
        super().accept(order, now_ms)
        if order.good_till_ms:
            self.call_at(order.good_till_ms, partial(self._end_at_date, order))

    def _end_at_date(self, order: Order, now_ms: int) -> None:
        if order.is_open:
            self.end(order, "EXPIRED", now_ms)

    def _pay_funding(self, now_ms: int) -> None:
        for symbol in self.markets:
            rate = rate_at(symbol, now_ms)
            for account in self.books.holders(symbol):
                event = self.books.pay_funding(account, self.books.position(account, symbol), rate, now_ms)
                self._events.append(event)
        self.call_at(next_funding_ms(now_ms), self._pay_funding)

    def _on_trade(self, desk: Desk, trade: Trade) -> None:
        super()._on_trade(desk, trade)
        self._trigger_algos(desk, trade.ts_ms)
        for account in self.books.holders(desk.market.spec.symbol):
            for position in self.books.doomed(account):
                self._liquidate(account, position, trade.ts_ms)

    def count_down(self, account: Account, symbol: str, wait_ms: int) -> None:
        """Cancel the account's orders of a contract in so many ms; 0: not any more. The last call counts.

        Conditional orders stay, as they do where all open orders are cancelled.
        """
        self.market(symbol)
        at_ms = self.catch_up() + wait_ms
        self.countdowns.pop((account.api_key, symbol), None)
        if wait_ms > 0:
            self.countdowns[account.api_key, symbol] = at_ms
            self.call_at(at_ms, partial(self._run_out, account, symbol))

    def _run_out(self, account: Account, symbol: str, now_ms: int) -> None:
        if self.countdowns.get((account.api_key, symbol)) != now_ms:
            return
        del self.countdowns[account.api_key, symbol]
        for order in list(self._desk(symbol).orders()):
            if order.account is account:
                self.end(order, "CANCELED", now_ms, self.new_client_id())
        self._announce_balances(now_ms)

    # Conditional orders

    def place_algo(self, algo: AlgoOrder) -> None:
        """Accept a conditional order.

        Raises
        ------
        Reject
            As `check_algo`, -4116 for a client id that is in use.
        """
        desk = self._desk(algo.symbol)
        mine = [each for each in self._waiting if each.account is algo.account and each.symbol == algo.symbol]
        check_algo(desk.market.spec, algo, desk.last_price(), len(mine))
        if any(each.client_id == algo.client_id for each in mine):
            raise Reject(-4116, "ClientOrderId is duplicated.")
        self.algos.append(algo)
        self._waiting.append(algo)
        algo.algo_id = _ALGO_IDS + len(self.algos)
        self._report_algo(algo, algo.created_ms)

    def end_algo(
        self, algo: AlgoOrder, status: Literal["CANCELED", "EXPIRED", "REJECTED"], now_ms: int, reason: str = ""
    ) -> None:
        """End a conditional order that has become none."""
        if algo in self._waiting:
            self._waiting.remove(algo)
        algo.status, algo.reason = status, reason
        self._report_algo(algo, now_ms)

    def _trigger_algos(self, desk: Desk, now_ms: int) -> None:
        last, symbol = desk.last_price(), desk.market.spec.symbol
        reached = [a for a in self._waiting if a.symbol == symbol and last is not None and a.is_reached(last)]
        for algo in reached:
            self._waiting.remove(algo)
            algo.status, algo.trigger_ms = "TRIGGERING", now_ms
            self._report_algo(algo, now_ms)
            try:
                self._become(algo, now_ms)
            except Reject as reject:
                self.end_algo(algo, "EXPIRED" if algo.close_position else "REJECTED", now_ms, reject.message)
        if reached:
            self._announce_balances(now_ms)

    def _become(self, algo: AlgoOrder, now_ms: int) -> None:
        """Place the order of a conditional one that has triggered."""
        request = algo.request(self.books.position(algo.account, algo.symbol).amount)
        if not request.quantity:
            raise Reject(-2022, "ReduceOnly Order is rejected.")
        self.check(algo.account, request)
        order = self.draft(algo.account, request, now_ms)
        takes = self.weigh(order)
        self.check_funds(order, takes)
        algo.order, algo.status = order, "TRIGGERED"
        self._became[order] = algo
        self.accept(order, now_ms)
        self._report_algo(algo, now_ms)
        self.begin(order, takes, now_ms)

    def _follow(self, order: Order, now_ms: int) -> None:
        """Finish a conditional order once the order that it became is done."""
        if not order.is_open and (algo := self._became.pop(order, None)) is not None:
            algo.status = "FINISHED"
            self._report_algo(algo, now_ms)

    def end(
        self,
        order: Order,
        status: Literal["CANCELED", "EXPIRED"],
        now_ms: int,
        cancel_id: str | None = None,
        reason: str = "",
    ) -> None:
        """Close an order as `Exchange.end` does, and finish the conditional order that it was."""
        super().end(order, status, now_ms, cancel_id, reason)
        self._follow(order, now_ms)

    def _report_algo(self, algo: AlgoOrder, now_ms: int) -> None:
        algo.updated_ms, order = now_ms, algo.order
        has_traded = order is not None and order.executed
        self._events.append(
            AlgoEvent(
                ts_ms=now_ms,
                account=algo.account,
                algo=algo,
                status=algo.status,
                order_id=str(order.order_id) if order else "",
                kind=order.type if order else "0",
                average=f"{order.cum_quote / order.executed:.8f}" if order and has_traded else "0.00000000",
                executed=f"{order.executed:.8f}" if order else "0.00000000",
            )
        )

    # Liquidation

    def _liquidate(self, account: Account, position: Position, now_ms: int) -> None:
        """Close a position at the market, after the account's other orders of the contract."""
        for order in [each for each in self._desks[position.symbol].orders() if each.account is account]:
            self.end(order, "EXPIRED", now_ms)
        self._liquidations += 1
        request = OrderRequest(
            symbol=position.symbol,
            side="SELL" if position.amount > 0 else "BUY",
            type="MARKET",
            quantity=abs(position.amount),
            client_id=f"autoclose-{self._liquidations}",
            reduce_only=True,
        )
        order = self.draft(account, request, now_ms)
        takes = self.weigh(order)
        self.accept(order, now_ms)
        self.begin(order, takes, now_ms)
        if self.books.wallet(account) < 0 and not self.books.positions(account):
            self.books.earn(account, "", "INSURANCE_CLEAR", -self.books.wallet(account), now_ms)
        self._announce_balances(now_ms)

    def _after_fill(self, order: Order, now_ms: int) -> None:
        """Cut the orders that may only reduce a position to what is left of it."""
        self._follow(order, now_ms)
        position = self.books.position(order.account, order.symbol)
        for other in [each for each in self._desks[order.symbol].orders() if each.reduce_only]:
            if other.account is not order.account or other is order:
                continue
            if position.amount * (1 if other.side == "BUY" else -1) >= 0:
                self.end(other, "EXPIRED", now_ms)
            else:
                other.orig_qty = min(other.orig_qty, other.executed + abs(position.amount))
