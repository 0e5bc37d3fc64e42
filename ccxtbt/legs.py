"""An order as a strategy gave it, each order at the exchange that is made of it, and both as the journal keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import backtrader as bt

from ccxtbt.ccxtorder import CCXTOrder, exectype_of
from ccxtbt.trading.dates import number_of
from ccxtbt.trading.journal import Intent
from ccxtbt.trading.orders import TRAILING
from ccxtbt.trading.past import MASKED
from ccxtbt.trading.sizes import Size, resize
from ccxtbt.trading.states import OrderState


def _plain(number: Any) -> float | None:
    """Return a number as JSON has it; a strategy's may be numpy's."""
    return None if number is None else float(number)


# What a journal of an earlier release does not tell.
_UNTOLD = {"pclose": None, "quote_size": None, "owner": 0, "made_ms": 0}


@dataclass(slots=True)
class Member:
    """An order as the strategy gave it.

    Attributes
    ----------
    order : backtrader.Order
        What `buy` or `sell` made.
    params : mapping
        The user's parameters for the exchange.
    quote_size : float, str, Decimal or None
        Quote to spend instead of a size.
    until_ms : int or None
        When its validity is over, by the exchange's clock.
    owner : int or None
        Which of the strategies made it, where it is of an earlier run.
    """

    order: Any
    params: Mapping[str, Any] = field(repr=False)
    quote_size: Any = None
    until_ms: int | None = None
    owner: int | None = None

    def asked(self, made_ms: int, **more: Any) -> dict[str, Any]:
        """Return what the strategy ordered, for the journal.

        Parameters
        ----------
        made_ms : int
            The exchange's time.
        **more
            Kept beside it.
        """
        order, created = self.order, self.order.created
        # Past backtrader's look-up of what is no attribute: `buy()` pays for each.
        given = order.p
        strategies = getattr(getattr(given.owner, "env", None), "runningstrats", ())
        owner = self.owner or 0
        if len(strategies) > 1:
            owner = next((number for number, each in enumerate(strategies) if each is given.owner), owner)
        return {
            "side": "buy" if order.isbuy() else "sell",
            "size": float(created.size),
            "exectype": bt.Order.ExecTypes[order.exectype],
            "price": _plain(created.price),
            "plimit": _plain(created.pricelimit),
            "pclose": _plain(created.pclose),
            "trailamount": _plain(given.trailamount),
            "trailpercent": _plain(given.trailpercent),
            "until_ms": self.until_ms,
            "tradeid": given.tradeid,
            "params": dict(self.params),
            "quote_size": self.quote_size if self.quote_size is None else str(self.quote_size),
            "data": given.data._name,
            "owner": owner,
            "made_ms": made_ms,
            **more,
        }

    @classmethod
    def of(cls, asked: Mapping[str, Any], data: Any, lot: Any) -> Member:
        """Make an order anew of what the journal has kept of it; its data need not have a bar.

        Parameters
        ----------
        asked : mapping
            As `asked` returned it.
        data : backtrader feed
            Of its market.
        lot : Decimal
            Step of its size.
        """
        asked = {**_UNTOLD, **asked}
        named: dict[str, Any] = {
            "data": data,
            "size": abs(asked["size"]),
            "price": asked["price"],
            "pricelimit": asked["plimit"],
            "exectype": bt.Order.ExecTypes.index(asked["exectype"]),
            "trailamount": asked["trailamount"],
            "trailpercent": asked["trailpercent"],
            "tradeid": asked["tradeid"],
            "histnotify": True,
            # Without it backtrader reads the last bar.
            "simulated": True,
        }
        order = CCXTOrder(side=asked["side"], **named)
        order.p.simulated = False
        if order.exectype in TRAILING:
            # It has trailed already.
            order.created.price, order.created.pricelimit = asked["price"], asked["plimit"]
        order.created.pclose = asked["pclose"]
        order.created.dt = number_of(asked["made_ms"])
        resize(order, Size(asked["size"], lot))
        if asked["until_ms"] is not None:
            order.valid = number_of(asked["until_ms"])
        params = {name: value for name, value in asked["params"].items() if value != MASKED}
        order.addinfo(**params, restored=True)
        return cls(order, params, asked["quote_size"], asked["until_ms"], asked["owner"])


def asked_of(told: Mapping[str, Any], data_name: str, made_ms: int) -> dict[str, Any]:
    """Return what a strategy would have ordered, where only the exchange tells of an order.

    Parameters
    ----------
    told : mapping
        The order in ccxt's structure.
    data_name : str
        Name of a data of its market.
    made_ms : int
        When it was made.
    """
    trigger = told.get("triggerPrice") or told.get("stopPrice")
    price = trigger or told.get("price") or told.get("average") or 0.0
    return {
        "side": told["side"],
        "size": float(told["amount"]) * (1 if told["side"] == "buy" else -1),
        "exectype": bt.Order.ExecTypes[exectype_of(told)],
        "price": _plain(price),
        "plimit": _plain(told.get("price") or price),
        "pclose": _plain(price),
        "trailamount": None,
        "trailpercent": None,
        "until_ms": None,
        "tradeid": 0,
        "params": {},
        "quote_size": None,
        "data": data_name,
        "owner": 0,
        "made_ms": made_ms,
    }


@dataclass(frozen=True, slots=True)
class Leg:
    """One order at the exchange: a backtrader order has one, an exit of a bracket as many as were sent for it.

    Attributes
    ----------
    member : Member
        Whose it is.
    state : OrderState
        How it stands.
    number : int
        Which of the order's legs it is; 0 where there is only one.
    at_once : bool
        It trades when it arrives, and never rests.
    list_id : str
        Our id of the list that it is in at the exchange; '' where it is alone.
    """

    member: Member
    state: OrderState
    number: int = 0
    at_once: bool = False
    list_id: str = ""

    @property
    def order(self) -> Any:
        """Backtrader's order."""
        return self.member.order


@dataclass(slots=True)
class Listing:
    """A list on its way: our id of it, and the orders that are in it so far."""

    list_id: str
    orders: list[Intent] = field(default_factory=list)
