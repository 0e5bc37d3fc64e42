"""Binance's filters of a symbol: how exchangeInfo lists them and what they let through."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from ccxtbt.sim.orders import OrderRequest
from ccxtbt.sim.spec import Spec


def describe(spec: Spec) -> list[dict[str, Any]]:
    """Return the filters as exchangeInfo lists them."""
    raise NotImplementedError


def check(spec: Spec, request: OrderRequest, last_price: Decimal | None) -> None:
    """Refuse an order that a filter of its symbol does not let through.

    Parameters
    ----------
    spec : Spec
        The symbol.
    request : OrderRequest
        The order, its parameters already known to be complete.
    last_price : Decimal or None
        The last trade's price; None where the symbol has not traded yet.

    Raises
    ------
    Reject
        -1013 with the filter's name.
    """
    raise NotImplementedError
