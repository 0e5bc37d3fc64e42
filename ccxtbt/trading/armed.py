"""Stops that wait here: what the exchange cannot trigger is watched by its market's prices, and sent when it is due."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ccxtbt.trading.brackets import Send

# An order made this early in a bar sees the whole of it: what a strategy orders at the close of one bar belongs to the
# next. Of a bar that was under way, only the close came after the order for certain.
_EARLY = 0.1


@dataclass(slots=True)
class Armed:
    """A stop, or a trailing stop, that is not at the exchange.

    The last price triggers it, and moves what trails, as often as it is told; and as in backtrader's own broker so do a
    bar's close, and its high and low where the stop stood where it stands before that bar began.

    Attributes
    ----------
    order : backtrader.Order
        `created.price` triggers; it moves with the price where the order trails.
    member
        The caller's own record of it.
    since_num : float
        When it was made or has moved last, as backtrader's number, by the exchange's clock.
    action : Send or None
        Which exit of a bracket it is.
    """

    order: Any
    member: Any
    since_num: float
    action: Send | None = None

    def due(self, data: Any) -> bool:
        """Whether the last bar of a data of its market triggers it; if not, let it trail."""
        stamp = data.datetime[0]
        opened = data.datetime[-1] if len(data) > 1 else 0.0
        whole = opened >= self.since_num - _EARLY * (stamp - opened)
        return (whole and self._reached(data.high[0], data.low[0])) or self.touched(data.close[0], stamp)

    def touched(self, price: float, at_num: float) -> bool:
        """Whether a price triggers it; if not, let it trail."""
        if self._reached(price, price):
            return True
        stop = self.order.created.price
        self.order.trailadjust(price)
        if self.order.created.price != stop:
            self.since_num = max(self.since_num, at_num)
        return False

    def _reached(self, high: float, low: float) -> bool:
        stop = self.order.created.price
        return bool(high >= stop if self.order.isbuy() else low <= stop)
