"""Stops that wait here: what the exchange cannot trigger is watched by its market's bars, and sent when it is due."""

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

    As in backtrader's own broker a bar's high and low trigger it, and its close moves what trails.

    Attributes
    ----------
    order : backtrader.Order
        `created.price` triggers; it moves with the price where the order trails.
    member
        The caller's own record of it.
    made_num : float
        When it was made, as backtrader's number, by the exchange's clock.
    action : Send or None
        Which exit of a bracket it is.
    """

    order: Any
    member: Any
    made_num: float
    action: Send | None = None

    def due(self, data: Any) -> bool:
        """Whether the last bar of a data of its market triggers it; if not, let it trail."""
        high = low = data.close[0]
        opened = data.datetime[-1] if len(data) > 1 else 0.0
        if opened >= self.made_num - _EARLY * (data.datetime[0] - opened):
            high, low = data.high[0], data.low[0]
        order = self.order
        if high >= order.created.price if order.isbuy() else low <= order.created.price:
            return True
        order.trailadjust(data.close[0])
        return False
