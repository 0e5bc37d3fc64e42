"""What a user allows at most: an order that breaks a limit is refused before it is sent."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ccxtbt.errors import ConfigError, OrderRefusedError
from ccxtbt.trading.rules import EXACT, Rules, exact, text


@dataclass(frozen=True, slots=True)
class Halt:
    """Everything is to be cancelled."""

    reason: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on what a run may order; None where there is none.

    Attributes
    ----------
    order_value : Decimal or None
        Value of one order, in quote, at its limit price, else at the last price.
    open_orders : int or None
        Orders that are open at once.
    position : Decimal or None
        Position in one market, in base, if all open orders of the same side were filled.
    """

    order_value: Decimal | None = None
    open_orders: int | None = None
    position: Decimal | None = None

    @classmethod
    def of(cls, order_value: Any, open_orders: int | None, position: Any) -> Limits:
        """Read limits as a user gives them.

        Raises
        ------
        ConfigError
            One is no number above 0.
        """
        given = {"max_order_value": order_value, "max_open_orders": open_orders, "max_position": position}
        read = {name: None if value is None else exact(value, name) for name, value in given.items()}
        for name, limit in read.items():
            if limit is not None and limit <= 0:
                raise ConfigError(f"{name}={given[name]!r} would allow nothing: give a number above 0, or None.")
        return cls(read["max_order_value"], open_orders, read["max_position"])

    def check_order(self, rules: Rules, amount: Decimal, price: Decimal | None) -> None:
        """Refuse an order that is worth too much.

        Raises
        ------
        OrderRefusedError
            It is.
        """
        if self.order_value is None or price is None:
            return
        value = rules.value(amount, price)
        if value > self.order_value:
            raise OrderRefusedError(
                f"An order of {text(amount)} {rules.base} is worth {text(value)} {rules.quote}, above "
                f"max_order_value={text(self.order_value)}: order less, or raise the limit on the store."
            )

    def check_open(self, count: int) -> None:
        """Refuse an order beside `count` that are open.

        Raises
        ------
        OrderRefusedError
            They are as many as may be.
        """
        if self.open_orders is not None and count >= self.open_orders:
            raise OrderRefusedError(
                f"{count} orders are open, and max_open_orders={self.open_orders}: wait for one to end, or raise the "
                "limit on the store."
            )

    def check_position(self, rules: Rules, held: Decimal, pending: Decimal, change: Decimal) -> None:
        """Refuse an order that could make a position too large; one that makes it smaller is always allowed.

        Parameters
        ----------
        rules : Rules
            Of the market.
        held, pending, change : Decimal
            Position, open orders of the order's side, and the order; below 0 for sales.

        Raises
        ------
        OrderRefusedError
            It could.
        """
        after = EXACT.add(EXACT.add(held, pending), change)
        if self.position is not None and abs(after) > self.position and abs(after) > abs(held):
            raise OrderRefusedError(
                f"The position could become {text(after)} {rules.base} ({text(held)} held, {text(pending)} in open "
                f"orders), beyond max_position={text(self.position)}: order less, or raise the limit on the store."
            )


NO_LIMITS = Limits()
