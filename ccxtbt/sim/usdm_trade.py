"""The signed REST endpoints of Binance's USD-M futures: orders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ccxtbt.sim.binance_access import Params, Refusal
from ccxtbt.sim.binance_json import Json
from ccxtbt.sim.binance_market import need_one
from ccxtbt.sim.orders import OrderRequest
from ccxtbt.sim.usdm_json import order_state, user_trade

if TYPE_CHECKING:
    from ccxtbt.sim.account import Account
    from ccxtbt.sim.binance_limits import Usage
    from ccxtbt.sim.perpetuals import Perpetuals

WEEK_MS = 7 * 86_400_000
NEW_ORDER = frozenset(
    {
        "symbol",
        "side",
        "positionSide",
        "type",
        "timeInForce",
        "quantity",
        "reduceOnly",
        "price",
        "newClientOrderId",
        "newOrderRespType",
        "selfTradePreventionMode",
        "goodTillDate",
    }
)
_CONDITIONAL = frozenset({"STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET"})

#: How the futures exchange says what the engine refuses in spot's words.
TRANSLATIONS: dict[str, tuple[int, str]] = {
    "Filter failure: PRICE_FILTER": (-4014, "Price not increased by tick size."),
    "Filter failure: LOT_SIZE": (-1111, "Precision is over the maximum defined for this asset."),
    "Filter failure: MARKET_LOT_SIZE": (-4005, "Quantity greater than max quantity."),
    "Filter failure: PERCENT_PRICE_BY_SIDE": (-4131, "The counterparty's best price does not meet the PERCENT_PRICE"),
    "Filter failure: NOTIONAL": (-4164, "Order's notional must be no smaller than 5 (unless you choose reduce only)."),
    "Filter failure: MAX_NUM_ORDERS": (-2025, "Reach max open order limit."),
    "Duplicate order sent.": (-4116, "ClientOrderId is duplicated."),
    "Order would immediately match and take.": (
        -5022,
        "Due to the order could not be executed as maker, the Post Only order will be rejected."
        " The order will not be recorded in the order history",
    ),
}

_NO_DATE = Refusal(400, -1102, "Mandatory parameter 'goodTillDate' was not sent, was empty/null, or malformed.")
_NEEDLESS_DATE = Refusal(400, -1106, "Parameter 'goodTillDate' sent when not required.")
WRONG_SIDE = Refusal(400, -4061, "Order's position side does not match user's setting.")


class UsdmTrading:
    """Answers to signed requests about orders. Each takes the account that signed and the request's parameters."""

    def __init__(self, exchange: Perpetuals, usage: Usage) -> None:
        self._exchange = exchange
        self._usage = usage

    def place(self, account: Account, params: Params) -> Json:
        """``POST /fapi/v1/order``."""
        self._usage.check_order(account.api_key)
        if account in self._exchange.books.hedged:
            raise WRONG_SIDE
        order = self._exchange.place(account, order_request(params))
        self._usage.count_order(account.api_key)
        state = order_state(order)
        # ACK, the default, is written before anything is executed.
        untouched = {"status": "NEW", "executedQty": "0", "cumQty": "0", "cumQuote": "0", "avgPrice": "0.00"}
        return state if params.get("newOrderRespType") == "RESULT" else state | untouched

    def _find(self, params: Params) -> tuple[str, int | None, str | None]:
        need_one(params, "orderId", "origClientOrderId")
        symbol = params.symbol()
        self._exchange.market(symbol)
        return symbol, params.integer("orderId"), params.get("origClientOrderId")

    def query(self, account: Account, params: Params) -> Json:
        """``GET /fapi/v1/order``."""
        return order_state(self._exchange.query(account, *self._find(params)))

    def query_open(self, account: Account, params: Params) -> Json:
        """``GET /fapi/v1/openOrder``."""
        order = self._exchange.query(account, *self._find(params))
        if not order.is_open:
            raise Refusal(400, -2013, "Order does not exist.")
        return order_state(order)

    def cancel(self, account: Account, params: Params) -> Json:
        """``DELETE /fapi/v1/order``."""
        return order_state(self._exchange.cancel(account, *self._find(params)))

    def cancel_all(self, account: Account, params: Params) -> Json:
        """``DELETE /fapi/v1/allOpenOrders``, whether there are any or not."""
        symbol = params.symbol()
        self._exchange.market(symbol)
        if self._exchange.open_orders(account, symbol):
            self._exchange.cancel_all(account, symbol)
        return {"code": 200, "msg": "The operation of cancel all open order is done."}

    def count_down(self, account: Account, params: Params) -> Json:
        """``POST /fapi/v1/countdownCancelAll``: cancel all orders of a symbol in so many ms, 0 for not at all."""
        symbol, wait_ms = params.symbol(), params.integer("countdownTime")
        if wait_ms is None:
            raise Refusal(400, -1102, "Mandatory parameter 'countdownTime' was not sent, was empty/null, or malformed.")
        self._exchange.count_down(account, symbol, wait_ms)
        return {"symbol": symbol, "countdownTime": str(wait_ms)}

    def open_orders(self, account: Account, params: Params) -> list[Json]:
        """``GET /fapi/v1/openOrders``."""
        symbol = params.symbol() if "symbol" in params else None
        return [order_state(order) for order in self._exchange.open_orders(account, symbol)]

    def all_orders(self, account: Account, params: Params) -> list[Json]:
        """``GET /fapi/v1/allOrders``."""
        orders = self._exchange.all_orders(
            account, params.symbol(), params.integer("orderId"), *_week(params), params.limit(500, 1000)
        )
        return [order_state(order) for order in orders]

    def user_trades(self, account: Account, params: Params) -> list[Json]:
        """``GET /fapi/v1/userTrades``."""
        symbol, (start_ms, end_ms) = params.symbol(), _week(params)
        fills = self._exchange.my_trades(
            account,
            symbol,
            params.integer("orderId"),
            params.integer("fromId"),
            start_ms,
            end_ms,
            params.limit(500, 1000),
        )
        return [user_trade(fill) for fill in fills]


def order_request(params: Params) -> OrderRequest:
    """Read a new order; post-only is a time in force here, and so is an end at a date, of which whole seconds count.

    Raises
    ------
    Refusal
        -4120 for conditional orders, which have endpoints of their own, -4061 for a side of hedge mode, and -1102 or
        -1106 for an end at a date without the date, or the other way round.
    """
    kind, time_in_force = params.required("type"), params.get("timeInForce") or None
    if kind in _CONDITIONAL:
        raise Refusal(
            400,
            -4120,
            "Order type not supported for this endpoint. Please use the Algo Order API endpoints instead.",
        )
    if kind not in {"LIMIT", "MARKET"}:
        raise Refusal(400, -1116, "Invalid orderType.")
    check_side(params)
    if kind == "LIMIT" and time_in_force == "GTX":
        kind, time_in_force = "LIMIT_MAKER", None
    good_till_ms = params.integer("goodTillDate")
    if (time_in_force == "GTD") != (good_till_ms is not None):
        raise _NO_DATE if good_till_ms is None else _NEEDLESS_DATE
    if kind == "LIMIT" and good_till_ms is not None:
        time_in_force = "GTC"
    return OrderRequest(
        symbol=params.symbol(),
        side=params.required("side"),
        type=kind,
        quantity=params.decimal("quantity"),
        price=params.decimal("price"),
        time_in_force=time_in_force,
        client_id=params.client_id("newClientOrderId"),
        reduce_only=params.get("reduceOnly", "false").lower() == "true",
        good_till_ms=None if good_till_ms is None else good_till_ms // 1_000 * 1_000,
    )


def check_side(params: Params) -> None:
    """Refuse an order for one of two positions of a contract: there is only one."""
    if params.get("positionSide", "BOTH") != "BOTH":
        raise WRONG_SIDE


def _week(params: Params) -> tuple[int | None, int | None]:
    """Read startTime and endTime, which may not span more than seven days."""
    start_ms, end_ms = params.integer("startTime"), params.integer("endTime")
    if start_ms is not None and end_ms is not None and end_ms - start_ms > WEEK_MS:
        raise Refusal(400, -4165, "Maximum time interval is 7 days.")
    return start_ms, end_ms
