"""The books of spot accounts: what open orders lock, what fills pay and bring, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import ROUND_DOWN, ROUND_UP, Decimal

from ccxtbt.sim.account import Account
from ccxtbt.sim.books import Settlement
from ccxtbt.sim.desk import Desk, Offer, quote_of
from ccxtbt.sim.events import BalanceEvent
from ccxtbt.sim.orders import PRICED, Order, Reject
from ccxtbt.sim.spec import UNIT

_ZERO = Decimal(0)


class SpotBooks:
    """Balances and fees of all accounts of a spot exchange.

    Parameters
    ----------
    desks : mapping of str to Desk
        By symbol.
    maker_fee, taker_fee, fee_coin, fee_coin_discount
        As in `Exchange`.
    """

    def __init__(
        self,
        desks: Mapping[str, Desk],
        maker_fee: Decimal,
        taker_fee: Decimal,
        fee_coin: str | None,
        fee_coin_discount: Decimal,
    ) -> None:
        self.maker_fee = maker_fee
        self.taker_fee = taker_fee
        self.fee_coin = fee_coin
        self.fee_coin_discount = fee_coin_discount
        self._desks = desks
        self._changed: dict[Account, dict[str, None]] = {}

    def check(self, order: Order, takes: Iterable[tuple[Offer, Decimal]], needed: Decimal | None = None) -> None:
        """Refuse an order that its account cannot pay for.

        Parameters
        ----------
        order : Order
            Not yet accepted.
        takes : iterable of (Offer, quantity)
            What it would take from the book at once.
        needed : Decimal, optional
            What must be free; by the order alone if not given.

        Raises
        ------
        Reject
            -2010.
        """
        if needed is None:
            if order.type == "MARKET" and order.side == "BUY":
                needed = sum((quote_of(offer.price, qty) for offer, qty in takes), _ZERO)
            else:
                needed = order.orig_qty if order.side == "SELL" else need_of(order)
        if order.account.balance(self._spent(order)).free < needed:
            raise Reject(-2010, "Account has insufficient balance for requested action.")

    def budget(self, order: Order) -> Decimal:
        """Return what an order that is about to take can spend: what it has locked and what is free."""
        return order.locked + order.account.balance(self._spent(order)).free

    def lock(self, order: Order, needed: Decimal) -> None:
        """Let an order hold `needed` of the coin that it pays with: lock more, or free what is too much."""
        if needed != order.locked:
            asset = self._spent(order)
            order.account.lock(asset, needed - order.locked)
            order.locked = needed
            self._changed.setdefault(order.account, {})[asset] = None

    def settle(self, order: Order, price: Decimal, qty: Decimal, *, is_maker: bool) -> Settlement:
        """Book a fill of an order whose lock has been lessened already."""
        desk, account, is_buyer = self._desks[order.symbol], order.account, order.side == "BUY"
        spec, quote = desk.market.spec, quote_of(price, qty)
        paid, received = (quote, qty) if is_buyer else (qty, quote)
        gained = spec.base if is_buyer else spec.quote
        self._deposit(account, self._spent(order), -paid)
        self._deposit(account, gained, received)
        commission, coin = self._commission(desk, account, gained, received, is_maker=is_maker)
        self._deposit(account, coin, -commission)
        return Settlement(commission, coin)

    def changes(self, now_ms: int) -> Iterator[BalanceEvent]:
        """Yield the balances that changed since the last call, once each."""
        for account, assets in self._changed.items():
            account.updated_ms = now_ms
            balances = ((asset, account.balance(asset)) for asset in assets)
            yield BalanceEvent(
                now_ms, account, tuple((asset, balance.free, balance.locked) for asset, balance in balances)
            )
        self._changed.clear()

    def _spent(self, order: Order) -> str:
        """Return the coin that an order pays with."""
        spec = self._desks[order.symbol].market.spec
        return spec.quote if order.side == "BUY" else spec.base

    def _deposit(self, account: Account, asset: str, amount: Decimal) -> None:
        account.deposit(asset, amount)
        self._changed.setdefault(account, {})[asset] = None

    def _commission(
        self, desk: Desk, account: Account, gained: str, received: Decimal, *, is_maker: bool
    ) -> tuple[Decimal, str]:
        """Return the fee of a fill and the coin that it is paid in: the fee coin if there is enough, else the gain."""
        share = self.maker_fee if is_maker else self.taker_fee
        coin = self.fee_coin
        if coin is not None and (rate := self._worth_in_fee_coin(desk, gained)) is not None:
            fee = (received * share * (1 - self.fee_coin_discount) * rate).quantize(UNIT, ROUND_DOWN)
            if fee <= account.balance(coin).free:
                return fee, coin
        return (received * share).quantize(UNIT, ROUND_DOWN), gained

    def _worth_in_fee_coin(self, desk: Desk, asset: str) -> Decimal | None:
        """Return how much of the fee coin one unit of a symbol's coin is worth, by last prices."""
        if asset == self.fee_coin:
            return Decimal(1)
        spec = desk.market.spec
        rate = desk.last_price() if asset == spec.base else Decimal(1)
        if spec.quote != self.fee_coin:
            fee_desk = self._desks.get(f"{self.fee_coin}{spec.quote}")
            fee_price = fee_desk.last_price() if fee_desk else None
            rate = rate / fee_price if rate is not None and fee_price is not None else None
        return rate


def need_of(order: Order) -> Decimal:
    """Return what an open order by itself must hold of the coin that it pays with."""
    if order.type == "MARKET" or order.status == "PENDING_NEW":
        return _ZERO
    if order.side == "SELL":
        return order.remaining
    price = order.price if order.type in PRICED else order.trigger
    return (price * order.remaining).quantize(UNIT, ROUND_UP)
