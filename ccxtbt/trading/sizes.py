"""Amounts inside backtrader: floats on the market's step, and the classes that must not cut them to whole units."""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Decimal
from typing import Any

import backtrader as bt
from backtrader.position import Position as _Position

from ccxtbt.trading.rules import FINEST_STEP, round_to


class Size(float):
    """A float that stays on a step through `+`, `-` and change of sign.

    backtrader adds and subtracts sizes and asks whether the result is 0; with plain floats 0.1 + 0.2 - 0.3 is not. A
    sum or difference with any number is a `Size` on the same step; a product or quotient is a plain float.

    Parameters
    ----------
    value : float or Decimal
        Rounded to the nearest step.
    step : Decimal
        The market's lot, above 0.
    """

    __slots__ = ("_above", "_below")

    _above: int
    _below: int

    def __new__(cls, value: float | Decimal, step: Decimal) -> Size:
        """Round `value` to `step`."""
        above, below = step.as_integer_ratio()
        return cls._on(float(value), above, below)

    @classmethod
    def _on(cls, value: float, above: int, below: int) -> Size:
        if math.isfinite(value):
            # One division of integers: the nearest float to the exact multiple of the step.
            value = round(value * below / above) * above / below
        size = super().__new__(cls, value)
        size._above, size._below = above, below
        return size

    @property
    def step(self) -> Decimal:
        """The step that it lives on."""
        return Decimal(self._above) / self._below

    def __reduce__(self) -> tuple[type[Size], tuple[float, Decimal]]:
        return Size, (float(self), self.step)

    def _stay(self, result: Any) -> Size:
        stayed: Size = result if result is NotImplemented else self._on(result, self._above, self._below)
        return stayed

    def __add__(self, other: float) -> Size:
        return self._stay(float.__add__(self, other))

    def __radd__(self, other: float) -> Size:
        return self._stay(float.__radd__(self, other))

    def __sub__(self, other: float) -> Size:
        return self._stay(float.__sub__(self, other))

    def __rsub__(self, other: float) -> Size:
        return self._stay(float.__rsub__(self, other))

    def __neg__(self) -> Size:
        return self._stay(float.__neg__(self))

    def __pos__(self) -> Size:
        return self

    def __abs__(self) -> Size:
        return self._stay(float.__abs__(self))


class Position(_Position):
    """backtrader's position, for sizes that are no whole numbers."""

    def __len__(self) -> int:
        return math.ceil(abs(float(self.size)))

    def clone(self) -> Position:
        """Return a copy."""
        return Position(size=self.size, price=self.price)


class CommInfo(bt.CommInfoBase):
    """A market's fees and steps for backtrader: a share of the value, and sizes in lots instead of whole units.

    A size counts `mult` of base each. Of a contract (``stocklike=False, automargin=-1``) the margin is the whole value,
    so that a size means the same on history and live, whatever leverage the exchange gives.

    Parameters
    ----------
    commission : float
        Fee as a share of the value: 0.001 is a tenth of a per cent.
    lot : Decimal
        Step of sizes.
    rate : callable or None
        Returns what one unit of the market's quote is worth in the account's currency, None if nobody knows; itself
        None where the two are the same.
    """

    params = (
        ("commission", 0.0),
        ("percabs", True),
        ("commtype", bt.CommInfoBase.COMM_PERC),
        ("stocklike", True),
        ("lot", FINEST_STEP),
        ("rate", None),
    )

    def getsize(self, price: float, cash: float) -> Size:
        """Return the largest size, in whole lots, that `cash` buys at `price`; 0 where there is no price."""
        rate = 1.0 if self.p.rate is None else float(self.p.rate() or 0)
        if not price > 0 or not rate > 0:
            return Size(0.0, self.p.lot)
        unit = rate * (price * self.p.mult if self.stocklike else self.get_margin(price))
        return Size(round_to(self.p.leverage * cash / unit, self.p.lot, ROUND_FLOOR, "cash"), self.p.lot)

    def getoperationcost(self, size: float, price: float) -> float:
        """Return what an operation takes out of the cash of a backtest."""
        return self._scaled(super().getoperationcost(size, price))

    def getvaluesize(self, size: float, price: float) -> float:
        """Return what a size is worth at `price`."""
        return self._scaled(super().getvaluesize(size, price))

    def getvalue(self, position: Any, price: float) -> float:
        """Return what a position is worth at `price`."""
        return self._scaled(super().getvalue(position, price))

    def _scaled(self, value: float) -> float:
        # backtrader counts `mult` into a margin, and leaves it out of what is paid in full.
        return float(value) * (float(self.p.mult) if self.stocklike else 1.0)

    def _getcommission(self, size: float, price: float, pseudoexec: bool) -> float:
        return float(super()._getcommission(size, price, pseudoexec)) * float(self.p.mult)


def resize(order: Any, size: Size) -> None:
    """Give a backtrader order another size: what the lot allows, or what an entry has filled.

    Parameters
    ----------
    order : backtrader.Order
        What remains of it follows.
    size : Size
        Above 0 for a buy, below for a sell.
    """
    order.size = order.created.size = size
    order.executed.remsize = size - order.executed.size
