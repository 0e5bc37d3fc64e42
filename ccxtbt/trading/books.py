"""Positions and cash, without I/O: what each fill does to them, to the last unit, with fees as they were charged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from ccxtbt.trading.rules import EXACT, floor_to
from ccxtbt.trading.states import Amend, Fill

ZERO = Decimal(0)

Rate = Callable[[str, str], Decimal | None]
"""(from, to) -> the price of one unit of a currency in another; None where nobody knows it."""


@dataclass(frozen=True, slots=True)
class Booking:
    """What a fill did, in the terms of `backtrader.Order.execute`.

    Attributes
    ----------
    size, price : Decimal
        As traded, before fees; below 0 for a sale.
    opened, closed : Decimal
        How the position changed, in whole lots, with the sign of `size`; their sum is less than `size` by what a fee
        taken in base, and the part of a lot that it leaves, took away.
    openedvalue, closedvalue : Decimal
        Of `opened` at the fill's price, of `closed` at the position's.
    openedcomm, closedcomm : Decimal
        Fee in quote, split by the parts.
    pnl : Decimal
        Profit of what was closed, before fees.
    psize, pprice : Decimal
        Position after it.
    """

    size: Decimal
    price: Decimal
    opened: Decimal
    closed: Decimal
    openedvalue: Decimal
    closedvalue: Decimal
    openedcomm: Decimal
    closedcomm: Decimal
    pnl: Decimal
    psize: Decimal
    pprice: Decimal


class Book:
    """The position of one spot market.

    What an exchange holds for us and what a strategy can trade are not the same: a fee in base leaves parts of a lot
    that no order can sell. They are kept apart as `dust`, so that a position closes and its trade ends; as soon as they
    make a lot, they join the position with the next fill.

    Parameters
    ----------
    base, quote : str
        The market's currencies.
    lot : Decimal
        Step of sizes.

    Attributes
    ----------
    size, price : Decimal
        Position in whole lots and its mean price.
    held : Decimal
        All of the base that fills brought and fees left: equal to the exchange's to the last unit.
    flows : dict of str to Decimal
        What fills and fees did to each currency's balance, base and quote included.
    unpriced : dict of str to Decimal
        Fees in currencies that could not be expressed in quote: paid in `flows`, in no commission.
    """

    def __init__(self, base: str, quote: str, lot: Decimal) -> None:
        self.base = base
        self.quote = quote
        self.lot = lot
        self.size = ZERO
        self.price = ZERO
        self.held = ZERO
        self.flows: dict[str, Decimal] = {}
        self.unpriced: dict[str, Decimal] = {}

    @property
    def dust(self) -> Decimal:
        """Base that is held but makes no whole lot."""
        return EXACT.subtract(self.held, self.size)

    def seed(self, held: Decimal, price: Decimal) -> None:
        """Begin with what the account holds; its balance is no flow.

        Parameters
        ----------
        held : Decimal
            In base, or in contracts.
        price : Decimal
            What it counts as bought at.
        """
        self.held = held
        self.size = floor_to(held, self.lot)
        self.price = price if self.size else ZERO

    def standing(self) -> Booking:
        """Return the position as if one fill without a fee had made it."""
        value = EXACT.multiply(self.size, self.price)
        size, price = self.size, self.price
        return Booking(size, price, size, ZERO, value, ZERO, ZERO, ZERO, ZERO, size, price)

    def fill(self, fill: Fill, rate: Rate) -> Booking:
        """Book a fill.

        Parameters
        ----------
        fill : Fill
            As the exchange told it.
        rate : callable
            Prices a fee in a third currency.
        """
        sign = 1 if fill.size > 0 else -1
        self._flow(self.base, fill.size)
        self._flow(self.quote, EXACT.multiply(fill.cost, Decimal(-sign)))
        fee = self._fee(fill.fee_cost, fill.fee_currency, fill.price, rate)
        taken = fill.fee_cost if fill.fee_cost and fill.fee_currency == self.base else ZERO
        self.held = EXACT.subtract(EXACT.add(self.held, fill.size), taken)
        return self._book(fill, fee)

    def amend(self, amend: Amend, side: int, price: Decimal, rate: Rate) -> Decimal:
        """Book what a counted fill cost more, and a fee that came late; return the fee in quote.

        Parameters
        ----------
        amend : Amend
            As the order's state told it.
        side : int
            1 for a buy, -1 for a sale.
        price : Decimal
            Values a fee in base.
        rate : callable
            As for `fill`.
        """
        self._flow(self.quote, EXACT.multiply(amend.cost, Decimal(-side)))
        if amend.fee_cost and amend.fee_currency == self.base:
            self.held = EXACT.subtract(self.held, amend.fee_cost)
        return self._fee(amend.fee_cost, amend.fee_currency, price, rate)

    def _flow(self, currency: str, amount: Decimal) -> None:
        self.flows[currency] = EXACT.add(self.flows.get(currency, ZERO), amount)

    def _fee(self, cost: Decimal | None, currency: str | None, price: Decimal, rate: Rate) -> Decimal:
        """Take a fee out of its currency's balance and return it in quote."""
        if not cost or currency is None:
            return ZERO
        self._flow(currency, -cost)
        if currency == self.quote:
            return cost
        worth = price if currency == self.base else rate(currency, self.quote)
        if worth is None:
            self.unpriced[currency] = EXACT.add(self.unpriced.get(currency, ZERO), cost)
            return ZERO
        return EXACT.multiply(cost, worth)

    def _book(self, fill: Fill, fee: Decimal) -> Booking:
        before, mean = self.size, self.price
        after = floor_to(self.held, self.lot)
        change = EXACT.subtract(after, before)
        closed = ZERO
        if before and (change > 0) != (before > 0):
            closed = change if abs(change) <= abs(before) else -before
        opened = EXACT.subtract(change, closed)
        self.size = after
        if not after:
            self.price = ZERO
        elif not before or (after > 0) != (before > 0):
            self.price = fill.price
        elif opened:
            spent = EXACT.add(EXACT.multiply(mean, before), EXACT.multiply(fill.price, opened))
            self.price = EXACT.divide(spent, after)
        parts = abs(opened) + abs(closed)
        closedcomm = EXACT.divide(EXACT.multiply(fee, abs(closed)), parts) if closed else ZERO
        return Booking(
            size=fill.size,
            price=fill.price,
            opened=opened,
            closed=closed,
            openedvalue=EXACT.multiply(opened, fill.price),
            closedvalue=EXACT.multiply(-closed, mean),
            openedcomm=EXACT.subtract(fee, closedcomm),
            closedcomm=closedcomm,
            pnl=EXACT.multiply(-closed, EXACT.subtract(fill.price, mean)),
            psize=after,
            pprice=self.price,
        )
