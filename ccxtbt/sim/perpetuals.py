"""A futures exchange: the matching engine over perpetual contracts, with funding and liquidations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

from ccxtbt.sim.account import Account
from ccxtbt.sim.clock import Clock
from ccxtbt.sim.desk import Desk
from ccxtbt.sim.filters import check, check_count, check_parameters
from ccxtbt.sim.funding import next_funding_ms, rate_at
from ccxtbt.sim.margin_books import MarginBooks, Position
from ccxtbt.sim.market import Market, Trade
from ccxtbt.sim.matching import Exchange
from ccxtbt.sim.orders import Order, OrderRequest, Reject

_ZERO = Decimal(0)


class Perpetuals(Exchange):
    """An exchange whose symbols are perpetual contracts; see `Exchange` and `MarginBooks`.

    Orders are MARKET, LIMIT and LIMIT_MAKER (Binance's GTX); conditional orders wait outside of the engine. Funding is
    paid at 00:00, 08:00 and 16:00 UTC. After each trade, positions whose margin does not suffice are closed at the
    market by an order whose client id begins with 'autoclose-', and the account's other orders of the contract end.
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
        self._liquidations = 0
        self.call_at(next_funding_ms(self._now_ms - 1), self._pay_funding)

    def check(self, account: Account, *requests: OrderRequest) -> None:
        """Refuse orders as `Exchange.check` does; one that only reduces may be worth as little as it likes."""
        for request in requests:
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

    def _pay_funding(self, now_ms: int) -> None:
        for symbol in self.markets:
            rate = rate_at(symbol, now_ms)
            for account in self.books.holders(symbol):
                event = self.books.pay_funding(account, self.books.position(account, symbol), rate, now_ms)
                self._events.append(event)
        self.call_at(next_funding_ms(now_ms), self._pay_funding)

    def _on_trade(self, desk: Desk, trade: Trade) -> None:
        super()._on_trade(desk, trade)
        for account in self.books.holders(desk.market.spec.symbol):
            for position in self.books.doomed(account):
                self._liquidate(account, position, trade.ts_ms)

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
        position = self.books.position(order.account, order.symbol)
        for other in [each for each in self._desks[order.symbol].orders() if each.reduce_only]:
            if other.account is not order.account or other is order:
                continue
            if position.amount * (1 if other.side == "BUY" else -1) >= 0:
                self.end(other, "EXPIRED", now_ms)
            else:
                other.orig_qty = min(other.orig_qty, other.executed + abs(position.amount))
