"""A backtrader order as the request that ccxt sends: mapped, and rounded by the market's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import backtrader as bt

from ccxtbt.errors import ConfigError, NotOfferedError
from ccxtbt.trading.rules import EXACT, ONE, Rules, Side, exact, text

ORDER_TYPES: Mapping[int, str] = {
    bt.Order.Market: "market",
    bt.Order.Close: "market",
    bt.Order.Limit: "limit",
    bt.Order.Stop: "stop",
    bt.Order.StopLimit: "stop limit",
}
"""What an exectype is sent as where neither the user nor the exchange's facts say otherwise."""

# The names under which exchanges and old scripts know a triggered order -> ccxt's unified type, and whether the trigger
# takes a profit. Any other name in a user's mapping is sent as it stands.
_TRIGGERED = {
    "market": ("market", False),
    "stop": ("market", False),
    "stop market": ("market", False),
    "stop loss": ("market", False),
    "limit": ("limit", False),
    "stop limit": ("limit", False),
    "stop loss limit": ("limit", False),
    "take profit": ("market", True),
    "take profit market": ("market", True),
    "take profit limit": ("limit", True),
}
TRAILING = frozenset({bt.Order.StopTrail, bt.Order.StopTrailLimit})
"""Stops that move with the price."""
STOPS = frozenset({bt.Order.Stop, bt.Order.StopLimit}) | TRAILING
"""Orders that wait for a trigger."""
_LIMITED = frozenset({bt.Order.StopLimit, bt.Order.StopTrailLimit})

# Two prices so near each other, as a share, are one that was reckoned in two ways.
_SAME = 1e-12

_TRIGGER_PARAMS = ("triggerPrice", "stopPrice", "stopLossPrice", "takeProfitPrice")
CONDITIONS = frozenset({*_TRIGGER_PARAMS, "trailingAmount", "trailingPercent"})
"""ccxt's parameters that make an order wait for a price."""
_COST_PARAMS = ("cost", "quoteOrderQty")


@dataclass(frozen=True, slots=True)
class Request:
    """An order as ccxt's `create_order` takes it, exact to the last digit.

    Attributes
    ----------
    client_id : str
        Our id of this one attempt; also in `params`.
    symbol, type, side : str
        As ccxt names them.
    amount : Decimal
        In base, on the lot.
    price : Decimal or None
        Limit price on the tick; None for a market order.
    params : mapping
        The user's parameters, the client id and the trigger.
    by_cost : bool
        The exchange fills by an amount of quote: `amount` is only a guess of what it buys.
    notes : tuple of str
        What was rounded, for the log.
    apart : str
        ccxt's parameter with which it is looked up and cancelled, where conditional orders live apart from the others.
    """

    client_id: str
    symbol: str
    type: str
    side: Side
    amount: Decimal
    price: Decimal | None
    # Some exchanges want a password among them: it is in no log.
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    by_cost: bool = False
    notes: tuple[str, ...] = ()
    apart: str = ""

    def arguments(self) -> tuple[str, str, str, float | str, float | str | None, dict[str, Any]]:
        """Return the arguments of `create_order`: numbers as floats where a float says exactly the same, else text."""
        price = None if self.price is None else _plain(self.price)
        return self.symbol, self.type, self.side, _plain(self.amount), price, dict(self.params)


def _plain(number: Decimal) -> float | str:
    value = float(number)
    return value if Decimal(repr(value)) == number else text(number)


@dataclass(slots=True)
class _Draft:
    """What a request is to say, before the market's rules."""

    type: str
    price: Any = None
    params: dict[str, Any] = field(default_factory=dict)


def request_of(
    order: bt.Order,
    rules: Rules,
    client_id: str,
    *,
    params: Mapping[str, Any] | None = None,
    order_types: Mapping[int, str] | None = None,
    client_id_param: str = "clientOrderId",
    trailing_params: Sequence[str] = (),
    size: Decimal | None = None,
    cost: Any = None,
    triggered: bool = False,
) -> Request:
    """Translate a backtrader order for ccxt, by the market's rules.

    Parameters
    ----------
    order : backtrader.Order
        As `buy` or `sell` made it. Of a StopLimit, `price` triggers and `plimit` limits; where the user gives the
        trigger among the parameters instead, as old scripts do, `price` limits.
    rules : Rules
        The market's.
    client_id : str
        Id to send; the user's own, if there is one among `params`, goes before it.
    params : mapping or None
        Parameters that the user wants passed to the exchange, as ccxt takes them.
    order_types : mapping or None
        exectype -> the exchange's name, over `ORDER_TYPES`.
    client_id_param : str
        ccxt's parameter for the client id; '' where the exchange has none.
    trailing_params : sequence of str
        Which of ccxt's `trailingAmount` and `trailingPercent` the exchange takes.
    size : Decimal or None
        Amount to send instead of the order's: an exit that follows what its entry has filled.
    cost : float, str, Decimal or None
        Quote to spend, instead of an amount; of a market buy.
    triggered : bool
        The price has passed the trigger already: send what the stop becomes.

    Raises
    ------
    NotOfferedError
        The execution type cannot be sent.
    ConfigError
        A size or price is no number above 0.
    OrderRefusedError
        A limit of the market is broken.
    """
    kept = dict(params or {})
    if client_id_param:
        client_id = str(kept.get(client_id_param) or client_id)
    side: Side = "buy" if order.isbuy() else "sell"
    given = abs(order.created.size) if size is None else size
    if cost is not None:
        given = _amount_for(order, rules, cost)
    amount = rules.amount(given)
    if not triggered and trails_there(order, rules, trailing_params):
        draft = _Draft("market", None, {**kept, **_trail(order, rules)})
    else:
        draft = _draft(order, rules, {**ORDER_TYPES, **(order_types or {})}, kept, side, triggered)
    if cost is not None and rules.cost_orders:
        draft.params["cost"] = _plain(exact(cost, "quote_size"))
    notes = [] if amount == exact(given, "size") else [f"size {given} cut to {text(amount)}"]
    price = None if draft.price is None else rules.price(draft.price, side)
    if price is not None and price != exact(draft.price, "price"):
        notes.append(f"price {draft.price} rounded to {text(price)}")
    rules.check(amount, price, last_price(order), reduces=bool(draft.params.get("reduceOnly")))
    conditional = not CONDITIONS.isdisjoint(draft.params)
    by_cost = any(name in draft.params for name in _COST_PARAMS)
    if rules.market_buy_by_cost and price is None and side == "buy" and not by_cost:
        price, by_cost = rules.price(order.created.pclose, side), True
    if client_id_param:
        draft.params[client_id_param] = client_id
    apart = rules.apart_param if conditional else ""
    return Request(client_id, rules.symbol, draft.type, side, amount, price, draft.params, by_cost, tuple(notes), apart)


def _amount_for(order: bt.Order, rules: Rules, cost: Any) -> Decimal:
    """Return about how much an amount of quote buys."""
    spend, last = exact(cost, "quote_size"), last_price(order)
    if order.exectype not in (None, bt.Order.Market) or not order.isbuy():
        raise ConfigError(f"quote_size={cost!r} is of market buys alone: give any other order its size.")
    if spend <= 0 or not last:
        raise ConfigError(f"quote_size={cost!r} buys nothing: give an amount of {rules.quote} above 0.")
    return EXACT.divide(spend, rules.value(ONE, last))


def trails_there(order: bt.Order, rules: Rules, trailing_params: Sequence[str]) -> bool:
    """Whether the exchange itself trails an order."""
    wanted = "trailingAmount" if order.trailamount else "trailingPercent"
    # A limit that moves along is known to no exchange in ccxt's words.
    offered = order.exectype == bt.Order.StopTrail and rules.trailing and wanted in trailing_params
    if not offered or trailing_without_distance(order) or not _trails_from_here(order):
        return False
    if rules.trail is None or order.trailamount:
        return True
    distance = exact(order.trailpercent, "trailpercent") * 100
    least, most, step = map(Decimal, (rules.trail.least, rules.trail.most, rules.trail.step))
    return least <= distance <= most and not distance % step


def _trails_from_here(order: bt.Order) -> bool:
    """Whether a trailing stop begins at the last price, as an exchange's own does, and not at a price of the user's."""
    last, sign = order.created.pclose, 1 if order.isbuy() else -1
    begins = last + sign * (order.trailamount or last * order.trailpercent)
    return bool(abs(order.created.price - begins) <= _SAME * abs(begins))


def waits_here(order: bt.Order, rules: Rules, names: Mapping[int, str], trailing_params: Sequence[str]) -> bool:
    """Whether a stop has to be watched here: the exchange cannot do it, and no mapping of the user's says how."""
    if order.exectype in names or order.exectype not in STOPS:
        return False
    if order.exectype in TRAILING:
        return not trails_there(order, rules, trailing_params)
    return not rules.trigger_param


def _trail(order: bt.Order, rules: Rules) -> dict[str, Any]:
    more = {} if rules.trail is None else rules.trail.params
    if order.trailamount:
        return {"trailingAmount": text(exact(order.trailamount, "trailamount")), **more}
    # backtrader's is a share, ccxt's a percentage.
    return {"trailingPercent": text(exact(order.trailpercent, "trailpercent") * 100), **more}


def trailing_without_distance(order: bt.Order) -> bool:
    """Whether a trailing stop lacks what it trails by."""
    return order.exectype in TRAILING and not (order.trailamount or 0) > 0 and not (order.trailpercent or 0) > 0


def last_price(order: bt.Order) -> Decimal | None:
    """Return the market's last price when an order was made, as far as it is known."""
    last = order.created.pclose
    return exact(last, "last price") if last and last == last else None


def _draft(
    order: bt.Order, rules: Rules, names: Mapping[int, str], params: dict[str, Any], side: Side, triggered: bool
) -> _Draft:
    exectype = order.exectype
    if exectype not in names and not (triggered and exectype in TRAILING):
        raise NotOfferedError(
            f"A {order.getordername()} order cannot be sent to this exchange as it is: use Market, Limit, Stop or "
            "StopLimit."
        )
    name = str(names.get(exectype, "stop"))
    if exectype in (bt.Order.Market, bt.Order.Close):
        return _Draft(name, None, params)
    if exectype == bt.Order.Limit:
        return _Draft(name, order.created.price, params)
    trigger, limit = _trigger_and_limit(order, params)
    unified, profit = _TRIGGERED.get(name.lower().replace("_", " ").replace("-", " "), (name, False))
    limited = exectype in _LIMITED or unified == "limit"
    if triggered:
        return _Draft("limit" if limited else "market", limit if limited else None, params)
    key = rules.take_profit_param if profit else rules.trigger_param
    if unified == name or not key:
        # A name of the exchange's own: its type, price and trigger, as they are.
        unified, key = name, "triggerPrice"
    params[key] = text(rules.price(trigger, side, "trigger price"))
    if rules.trigger_direction:
        params.setdefault("triggerDirection", "ascending" if (side == "buy") is not profit else "descending")
    return _Draft(unified, limit if limited else None, params)


def _trigger_and_limit(order: bt.Order, params: dict[str, Any]) -> tuple[Any, Any]:
    """Return a stop's trigger and limit; a trigger among the user's parameters is taken out of them."""
    own = [params.pop(name) for name in _TRIGGER_PARAMS if name in params]
    if len(own) > 1:
        raise ConfigError(f"An order has one trigger price, not {len(own)} ({own}): give one of {_TRIGGER_PARAMS}.")
    # Where no limit was given, backtrader has put the price there.
    return own[0] if own else order.created.price, order.created.pricelimit
