"""CCXTOrder: backtrader's order, with what the exchange says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import backtrader as bt

from ccxtbt.errors import ConfigError
from ccxtbt.trading.orders import Request

# What the seven arguments of an order are, in backtrader's words.
_NAMES = ("owner", "data", "exectype", "side", "size", "price", "ccxt_order")
_ENDED = frozenset({"closed", "canceled", "expired", "rejected"})


class Fills(list[str]):
    """Ids of the fills of an order, in the order in which they were booked; `add` takes each once."""

    def add(self, trade_id: str) -> None:
        """Take an id that is not there yet."""
        if trade_id not in self:
            self.append(trade_id)


class _MetaOrder(type(bt.Order)):  # type: ignore[misc]  # backtrader's metaclass
    """Reads the two ways in which scripts make an order, told by the number of their arguments."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 3:
            owner, data, told = args
            size, price = told["amount"], told.get("price")
            named = dict(zip(_NAMES, (owner, data, exectype_of(told), told["side"], size, price, told), strict=True))
        elif args:
            if len(args) != len(_NAMES):
                raise ConfigError(
                    f"CCXTOrder takes 3 arguments (owner, data, ccxt_order) or 7 (owner, data, exectype, side, amount, "
                    f"price, ccxt_order), not {len(args)}."
                )
            named = dict(zip(_NAMES, args, strict=True))
        else:
            named = {}
        return super().__call__(**{**named, **kwargs})


class CCXTOrder(bt.Order, metaclass=_MetaOrder):
    """An order of a live run; the broker makes it.

    Parameters
    ----------
    owner : backtrader.Strategy or None
        Whose it is.
    data : backtrader feed
        Of its market; has at least one bar.
    ccxt_order : mapping
        What the exchange says of it, in ccxt's structure. Of (owner, data, ccxt_order) it tells all the rest; of
        (owner, data, exectype, side, amount, price, ccxt_order) it tells nothing else.
    side : str
        ``'buy'`` or ``'sell'``.
    **kwargs
        backtrader's own, such as ``size``, ``price``, ``exectype``.

    Attributes
    ----------
    ccxt_order : dict
        The last word of the exchange, in ccxt's structure; ``id`` is None until it has answered.
    executed_fills : list of str
        Ids of the fills that are booked.

    Raises
    ------
    ConfigError
        Neither 3 nor 7 arguments, or a side that is none.
    """

    def __init__(self, side: str, ccxt_order: Mapping[str, Any] | None = None) -> None:
        if side not in {"buy", "sell"}:
            raise ConfigError(f"side={side!r} is not known: say 'buy' or 'sell'.")
        self.ordtype = self.Buy if side == "buy" else self.Sell
        self.ccxt_order: dict[str, Any] = {"id": None, **(ccxt_order or {})}
        self.executed_fills = Fills()
        super().__init__()

    def sent(self, request: Request) -> None:
        """Begin anew with what is sent to the exchange; of an exit of a bracket that may be once more."""
        symbol, kind, side, amount, price, _ = request.arguments()
        self.ccxt_order.clear()
        self.ccxt_order.update(
            id=None,
            clientOrderId=request.client_id,
            symbol=symbol,
            type=kind,
            side=side,
            amount=float(amount),
            price=None if price is None else float(price),
            status=None,
        )

    def hear(self, told: Mapping[str, Any]) -> None:
        """Take a message of the exchange; one that knows less than an earlier one changes nothing."""
        if _progress(told) >= _progress(self.ccxt_order):
            self.ccxt_order.update({key: value for key, value in told.items() if value is not None})


def _progress(told: Mapping[str, Any]) -> tuple[bool, float]:
    return told.get("status") in _ENDED, float(told.get("filled") or 0.0)


def exectype_of(told: Mapping[str, Any]) -> int:
    """Return backtrader's execution type of an order in ccxt's structure."""
    limited = "limit" in str(told.get("type") or "market").lower()
    if told.get("triggerPrice") or told.get("stopPrice"):
        return int(bt.Order.StopLimit if limited else bt.Order.Stop)
    return int(bt.Order.Limit if limited else bt.Order.Market)
