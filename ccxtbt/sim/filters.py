"""What an order must satisfy before it is taken: its parameters, and Binance's filters of a symbol."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from ccxtbt.sim.orders import PRICED, STOPS, OrderRequest, Reject
from ccxtbt.sim.spec import UNIT, Spec

ORDER_TYPES = (
    "LIMIT",
    "LIMIT_MAKER",
    "MARKET",
    "STOP_LOSS",
    "STOP_LOSS_LIMIT",
    "TAKE_PROFIT",
    "TAKE_PROFIT_LIMIT",
)
"""Every type that the exchange takes, as exchangeInfo lists them."""

TRAILING = frozenset({"STOP_LOSS", "STOP_LOSS_LIMIT"})
"""Types that may trail the last price."""

_TIMED = PRICED - {"LIMIT_MAKER"}
_CLIENT_ID = r"^[\.A-Z\:/a-z0-9_-]{1,36}$"

# An order's numbers: the field of OrderRequest and Binance's name of the parameter.
_NUMBERS = (
    ("quantity", "quantity"),
    ("quote_qty", "quoteOrderQty"),
    ("price", "price"),
    ("stop_price", "stopPrice"),
)


def describe(spec: Spec) -> list[dict[str, Any]]:
    """Return the filters as exchangeInfo lists them."""
    return [
        {
            "filterType": "PRICE_FILTER",
            "minPrice": _text(spec.min_price),
            "maxPrice": _text(spec.max_price),
            "tickSize": _text(spec.tick_size),
        },
        {
            "filterType": "LOT_SIZE",
            "minQty": _text(spec.min_qty),
            "maxQty": _text(spec.max_qty),
            "stepSize": _text(spec.step_size),
        },
        {
            "filterType": "MARKET_LOT_SIZE",
            "minQty": "0.00000000",
            "maxQty": _text(spec.market_max_qty),
            "stepSize": "0.00000000",
        },
        {
            "filterType": "PERCENT_PRICE_BY_SIDE",
            "bidMultiplierUp": f"{spec.percent_up:f}",
            "bidMultiplierDown": f"{spec.percent_down:f}",
            "askMultiplierUp": f"{spec.percent_up:f}",
            "askMultiplierDown": f"{spec.percent_down:f}",
            "avgPriceMins": 0,
        },
        {
            "filterType": "NOTIONAL",
            "minNotional": _text(spec.min_notional),
            "applyMinToMarket": True,
            "maxNotional": _text(spec.max_notional),
            "applyMaxToMarket": False,
            "avgPriceMins": 0,
        },
        {
            "filterType": "TRAILING_DELTA",
            "minTrailingAboveDelta": spec.min_trailing,
            "maxTrailingAboveDelta": spec.max_trailing,
            "minTrailingBelowDelta": spec.min_trailing,
            "maxTrailingBelowDelta": spec.max_trailing,
        },
        {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": spec.max_orders},
        {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": spec.max_algo_orders},
        {"filterType": "MAX_NUM_ORDER_LISTS", "maxNumOrderLists": spec.max_order_lists},
    ]


def check_parameters(request: OrderRequest) -> None:
    """Refuse an order whose parameters are unknown, missing, too many or malformed.

    Raises
    ------
    Reject
        -1013 for a number that is not above zero, -1100 to -1117 and -1128 for parameters, -2010 for what no symbol of
        this exchange offers.
    """
    if request.side not in {"BUY", "SELL"}:
        raise Reject(-1117, "Invalid side.")
    if request.type not in ORDER_TYPES:
        raise Reject(-1116, "Invalid orderType.")
    if request.time_in_force not in {None, "GTC", "IOC", "FOK"}:
        raise Reject(-1115, "Invalid timeInForce.")
    if request.client_id is not None and not re.fullmatch(_CLIENT_ID, request.client_id):
        raise Reject(-1100, f"Illegal characters found in parameter 'newClientOrderId'; legal range is '{_CLIENT_ID}'.")
    if request.trailing_delta is not None and (request.type not in TRAILING or request.stop_price is not None):
        raise Reject(-2010, "This simulator trails stop losses alone, and those from the last price on.")
    if request.iceberg_qty is not None:
        raise Reject(-2010, "Iceberg orders are not supported for this symbol.")
    _check_presence(request)
    for field, name in _NUMBERS:
        number = getattr(request, field)
        if number is None:
            continue
        if not number.is_finite() or number <= 0:
            raise Reject(-1013, f"Invalid {'price' if 'rice' in name else 'quantity'}.")
        if number % UNIT:
            raise Reject(-1111, f"Parameter '{name}' has too much precision.")


def check(spec: Spec, request: OrderRequest, last_price: Decimal | None) -> None:
    """Refuse an order that a filter of its symbol does not let through.

    Parameters
    ----------
    spec : Spec
        The symbol.
    request : OrderRequest
        The order, its parameters already checked.
    last_price : Decimal or None
        The last trade's price; None where the symbol has not traded yet.

    Raises
    ------
    Reject
        -1013 with the filter's name.
    """
    for price in (request.price, request.stop_price):
        if price is not None and (not spec.min_price <= price <= spec.max_price or price % spec.tick_size):
            raise _failure("PRICE_FILTER")
    if request.trailing_delta is not None and not spec.min_trailing <= request.trailing_delta <= spec.max_trailing:
        raise _failure("TRAILING_DELTA")
    if request.quantity is not None:
        check_quantity(spec, request.quantity)
        if request.type not in PRICED and request.quantity > spec.market_max_qty:
            raise _failure("MARKET_LOT_SIZE")
    if request.price is not None and last_price is not None:
        lowest, highest = last_price * spec.percent_down, last_price * spec.percent_up
        if not lowest <= request.price <= highest:
            raise _failure("PERCENT_PRICE_BY_SIDE")
    _check_notional(spec, request, last_price)


def check_quantity(spec: Spec, quantity: Decimal) -> None:
    """Refuse a quantity outside LOT_SIZE.

    Raises
    ------
    Reject
        -1013 with the filter's name.
    """
    if not spec.min_qty <= quantity <= spec.max_qty or quantity % spec.step_size:
        raise _failure("LOT_SIZE")


def check_count(spec: Spec, open_orders: int, open_stops: int, request: OrderRequest) -> None:
    """Refuse one more order of an account that has as many as the symbol allows.

    Raises
    ------
    Reject
        -1013 with the filter's name.
    """
    if request.type == "MARKET":
        return
    if open_orders >= spec.max_orders:
        raise _failure("MAX_NUM_ORDERS")
    if request.type in STOPS and open_stops >= spec.max_algo_orders:
        raise _failure("MAX_NUM_ALGO_ORDERS")


def check_list_count(spec: Spec, open_lists: int) -> None:
    """Refuse one more order list of an account that has as many as the symbol allows.

    Raises
    ------
    Reject
        -1013 with the filter's name.
    """
    if open_lists >= spec.max_order_lists:
        raise _failure("MAX_NUM_ORDER_LISTS")


def _check_presence(request: OrderRequest) -> None:
    """Refuse parameters that the order's type needs and lacks, or has and does not take."""
    wanted = {
        "price": request.type in PRICED,
        "stopPrice": request.type in STOPS and request.trailing_delta is None,
        "timeInForce": request.type in _TIMED,
    }
    sent = {"price": request.price, "stopPrice": request.stop_price, "timeInForce": request.time_in_force}
    if request.type == "MARKET":
        if request.quantity is None and request.quote_qty is None:
            raise Reject(-1102, "Param 'quantity' or 'quoteOrderQty' must be sent, but both were empty/null!")
        if request.quantity is not None and request.quote_qty is not None:
            raise Reject(-1128, "Combination of optional parameters invalid.")
    else:
        wanted |= {"quantity": True, "quoteOrderQty": False}
        sent |= {"quantity": request.quantity, "quoteOrderQty": request.quote_qty}
    for name, is_wanted in wanted.items():
        if is_wanted and sent[name] is None:
            raise Reject(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
        if not is_wanted and sent[name] is not None:
            raise Reject(-1106, f"Parameter '{name}' sent when not required.")


def _check_notional(spec: Spec, request: OrderRequest, last_price: Decimal | None) -> None:
    """Refuse an order worth too little or too much; one without a price counts at its stop or the last price."""
    price = request.price or request.stop_price or last_price
    notional = request.quote_qty
    if request.quantity is not None and price is not None:
        notional = price * request.quantity
    if notional is None:
        return
    if notional < spec.min_notional or (request.type != "MARKET" and notional > spec.max_notional):
        raise _failure("NOTIONAL")


def _failure(name: str) -> Reject:
    return Reject(-1013, f"Filter failure: {name}")


def _text(number: Decimal) -> str:
    return f"{number:.8f}"
