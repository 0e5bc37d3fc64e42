"""Conditional orders of a futures exchange: they wait outside of the book and become an order when they trigger."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from ccxtbt.sim.account import Account
from ccxtbt.sim.filters import check_quantity
from ccxtbt.sim.orders import Order, OrderRequest, Reject, Side
from ccxtbt.sim.spec import Spec

AlgoType = Literal["STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET"]
AlgoStatus = Literal["NEW", "TRIGGERING", "TRIGGERED", "FINISHED", "CANCELED", "EXPIRED", "REJECTED"]

TYPES = frozenset({"STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET"})
PRICED = frozenset({"STOP", "TAKE_PROFIT"})
CLOSING = frozenset({"STOP_MARKET", "TAKE_PROFIT_MARKET"})
"""Types that may close whatever position there is."""

_IMMEDIATE = Reject(-2021, "Order would immediately trigger.")


@dataclass(slots=True, kw_only=True, eq=False)
class AlgoOrder:
    """A conditional order of an account and its state.

    Attributes
    ----------
    quantity : Decimal or None
        None where it closes the position.
    trigger_price : Decimal
        What the last price must reach; 0 for a trailing stop.
    callback_rate, activate_price : Decimal
        Of a trailing stop: how far, in percent, the price must come back from its best, and where that begins to
        count (0 for at once).
    best : Decimal
        The best price since a trailing stop was activated, 0 before.
    order : Order or None
        What it has become.
    reason : str
        Why it was rejected or has expired.
    """

    account: Account
    algo_id: int
    client_id: str
    symbol: str
    side: Side
    type: AlgoType
    quantity: Decimal | None
    price: Decimal | None
    time_in_force: str
    trigger_price: Decimal
    callback_rate: Decimal
    activate_price: Decimal
    reduce_only: bool
    close_position: bool
    working_type: str
    created_ms: int
    updated_ms: int
    trigger_ms: int = 0
    status: AlgoStatus = "NEW"
    best: Decimal = Decimal(0)
    order: Order | None = None
    reason: str = ""

    def is_reached(self, last: Decimal) -> bool:
        """Whether the last price triggers the order; a trailing stop remembers its best price by it."""
        if self.type == "TRAILING_STOP_MARKET":
            return self._has_come_back(last)
        rising = (self.side == "BUY") == (self.type in {"STOP", "STOP_MARKET"})
        return last >= self.trigger_price if rising else last <= self.trigger_price

    def _has_come_back(self, last: Decimal) -> bool:
        sign = 1 if self.side == "SELL" else -1
        if not self.best:
            if self.activate_price and sign * last < sign * self.activate_price:
                return False
            self.best = last
        self.best = max(self.best, last) if sign > 0 else min(self.best, last)
        return sign * last <= sign * self.best * (1 - sign * self.callback_rate / 100)

    def request(self, held: Decimal) -> OrderRequest:
        """Return the order that it becomes, where the account holds a position of `held`."""
        kind, time_in_force = ("LIMIT", self.time_in_force) if self.type in PRICED else ("MARKET", None)
        if time_in_force == "GTX":
            kind, time_in_force = "LIMIT_MAKER", None
        return OrderRequest(
            symbol=self.symbol,
            side=self.side,
            type=kind,
            quantity=abs(held) if self.quantity is None else self.quantity,
            price=self.price,
            time_in_force=time_in_force,
            client_id=self.client_id,
            reduce_only=self.reduce_only or self.close_position,
        )


def check_algo(spec: Spec, algo: AlgoOrder, last: Decimal | None, waiting: int) -> None:
    """Refuse a conditional order whose parameters do not fit together, or that would trigger at once.

    Raises
    ------
    Reject
        -1102, -1106, -1116, -4014, -4045, -4136, -2007 or -2021.
    """
    if algo.type not in TYPES:
        raise Reject(-1116, "Invalid orderType.")
    if waiting >= spec.max_algo_orders:
        raise Reject(-4045, "Reach max stop order limit.")
    _check_numbers(spec, algo)
    if algo.type == "TRAILING_STOP_MARKET":
        if not Decimal("0.1") <= algo.callback_rate <= 10:
            raise Reject(-2007, "Invalid callBack rate.")
        sign = 1 if algo.side == "SELL" else -1
        if last is not None and algo.activate_price and sign * algo.activate_price <= sign * last:
            raise _IMMEDIATE
    elif not algo.trigger_price:
        raise Reject(-1102, "Mandatory parameter 'triggerPrice' was not sent, was empty/null, or malformed.")
    elif last is not None and algo.is_reached(last):
        raise _IMMEDIATE


def _check_numbers(spec: Spec, algo: AlgoOrder) -> None:
    """Refuse a quantity or prices that are missing, too many, or off their grid."""
    if algo.close_position and (algo.type not in CLOSING or algo.quantity is not None or algo.reduce_only):
        raise Reject(-4136, "Target strategy invalid for orderType, quantity or reduceOnly with closePosition.")
    if algo.quantity is not None:
        check_quantity(spec, algo.quantity)
    elif not algo.close_position:
        raise Reject(-1102, "Mandatory parameter 'quantity' was not sent, was empty/null, or malformed.")
    if (algo.price is not None) != (algo.type in PRICED):
        known = algo.price is not None
        raise Reject(
            -1106 if known else -1102,
            "Parameter 'price' sent when not required."
            if known
            else "Mandatory parameter 'price' was not sent, was empty/null, or malformed.",
        )
    for price in (algo.price, algo.trigger_price, algo.activate_price):
        if price and (not spec.min_price <= price <= spec.max_price or price % spec.tick_size):
            raise Reject(-4014, "Price not increased by tick size.")
