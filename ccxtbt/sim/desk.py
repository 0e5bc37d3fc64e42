"""The orders of one symbol: those that rest in the book, those that wait for a stop, and what a taker can have."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from heapq import merge

from ccxtbt.sim.market import Market
from ccxtbt.sim.orders import STOPS, Order, Side
from ccxtbt.sim.spec import UNIT


@dataclass(slots=True, frozen=True)
class Offer:
    """A quantity to be had at a price; of an account's resting order, or of the synthetic depth if `order` is None."""

    price: Decimal
    qty: Decimal
    order: Order | None


def quote_of(price: Decimal, qty: Decimal) -> Decimal:
    """Return what a quantity costs, with eight decimals, further ones cut off."""
    return (price * qty).quantize(UNIT, ROUND_DOWN)


class Desk:
    """The open orders of a symbol over its market.

    Attributes
    ----------
    resting : dict of side to list of Order
        Best price first, then the oldest.
    waiting : list of Order
        Stops that have not triggered, oldest first.
    pending : list of Order
        Orders of lists that wait for another order to be filled.
    """

    def __init__(self, market: Market) -> None:
        self.market = market
        self.resting: dict[Side, list[Order]] = {"BUY": [], "SELL": []}
        self.waiting: list[Order] = []
        self.pending: list[Order] = []
        # What takers have had of the synthetic depth, which only the next public trade renews.
        self._taken: dict[tuple[Side, int], int] = {}
        self._orders = 0
        self._trades = 0

    def next_order_id(self) -> int:
        """Return a new order id of the symbol."""
        self._orders += 1
        return self._orders

    def next_trade_id(self) -> int:
        """Return a new trade id of the symbol."""
        self._trades += 1
        return self._trades

    def last_price(self) -> Decimal | None:
        """Return the price of the last public trade, None before the first."""
        last = self.market.last
        return None if last is None else self.market.price(last.price_ticks)

    def orders(self) -> Iterator[Order]:
        """Yield every open order."""
        yield from self.resting["BUY"]
        yield from self.resting["SELL"]
        yield from self.waiting
        yield from self.pending

    def rest(self, order: Order) -> None:
        """Put an order into the book, behind those of the same price."""
        sign = -1 if order.side == "BUY" else 1
        insort(self.resting[order.side], order, key=lambda other: (sign * other.price, other.working_ms))

    def remove(self, order: Order) -> None:
        """Take an order out of wherever it stands."""
        for orders in (self.resting[order.side], self.waiting, self.pending):
            if order in orders:
                orders.remove(order)

    def renew_depth(self) -> None:
        """Forget what takers had of the synthetic depth."""
        self._taken.clear()

    def take(self, side: Side, offer: Offer, qty: Decimal) -> None:
        """Note that a taker on `side` had some of the synthetic depth."""
        spec = self.market.spec
        key = (side, int(offer.price / spec.tick_size))
        self._taken[key] = self._taken.get(key, 0) + int(qty / spec.step_size)

    def depth(self, side: Side) -> Iterator[Offer]:
        """Yield what is left of the synthetic depth that a taker on `side` meets, best first."""
        market = self.market
        for ticks, steps in market.levels("ask" if side == "BUY" else "bid"):
            left = steps - self._taken.get((side, ticks), 0)
            if left > 0:
                yield Offer(market.price(ticks), market.qty(left), None)

    def offers(self, side: Side) -> Iterator[Offer]:
        """Yield all that a taker on `side` meets, best first, resting orders before the synthetic depth."""
        opposite: Side = "SELL" if side == "BUY" else "BUY"
        resting = (Offer(order.price, order.remaining, order) for order in self.resting[opposite])
        sign = 1 if side == "BUY" else -1
        return merge(resting, self.depth(side), key=lambda offer: sign * offer.price)

    def plan(
        self, side: Side, qty: Decimal | None, budget: Decimal | None, limit: Decimal | None
    ) -> list[tuple[Offer, Decimal]]:
        """Return what a taker would have of which offers.

        Parameters
        ----------
        side : {'BUY', 'SELL'}
            The taker's.
        qty : Decimal or None
            Most that it takes; None where the budget alone says.
        budget : Decimal or None
            Most that may change hands in the quote coin.
        limit : Decimal or None
            Worst price.
        """
        step = self.market.spec.step_size
        takes = []
        for offer in self.offers(side):
            if limit is not None and (offer.price > limit if side == "BUY" else offer.price < limit):
                break
            take = offer.qty if qty is None else min(offer.qty, qty)
            if budget is not None:
                take = min(take, budget / offer.price // step * step)
                budget -= quote_of(offer.price, take)
            if qty is not None:
                qty -= take
            if take <= 0:
                break
            takes.append((offer, take))
        return takes

    def is_reached(self, order: Order) -> bool:
        """Whether the last price has reached a stop's trigger; a trailing stop remembers its best price by it."""
        last = self.last_price()
        if last is None or order.type not in STOPS:
            return False
        if order.trailing_delta:
            order.best = min(order.best or last, last) if order.side == "BUY" else max(order.best, last)
        rising = (order.side == "BUY") == (order.type in {"STOP_LOSS", "STOP_LOSS_LIMIT"})
        return last >= order.trigger if rising else last <= order.trigger
