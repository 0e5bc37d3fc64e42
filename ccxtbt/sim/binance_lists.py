"""Binance spot's order lists on the wire: the endpoints that place, cancel and query them, and their events."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from ccxtbt.sim.binance_access import Params, Refusal, mandatory
from ccxtbt.sim.binance_json import Json, cancelled_order, new_order
from ccxtbt.sim.orders import ListRequest, Order, OrderList, OrderRequest

if TYPE_CHECKING:
    from ccxtbt.sim.account import Account
    from ccxtbt.sim.binance_limits import Usage
    from ccxtbt.sim.events import ListEvent
    from ccxtbt.sim.matching import Exchange

_LEG = ("Type", "ClientOrderId", "Price", "StopPrice", "TrailingDelta", "IcebergQty", "TimeInForce")
_LEG_NOTES = ("StrategyId", "StrategyType")
_COMMON = frozenset({"symbol", "listClientOrderId", "newOrderRespType", "selfTradePreventionMode"})


def _leg_names(*prefixes: str) -> frozenset[str]:
    return frozenset(prefix + name for prefix in prefixes for name in (*_LEG, *_LEG_NOTES))


#: The parameters of each endpoint that places a list.
OCO = _COMMON | {"side", "quantity"} | _leg_names("above", "below")
OTO = _COMMON | {"workingSide", "workingQuantity", "pendingSide", "pendingQuantity"} | _leg_names("working", "pending")
OTOCO = (
    _COMMON
    | {"workingSide", "workingQuantity", "pendingSide", "pendingQuantity"}
    | _leg_names("working", "pendingAbove", "pendingBelow")
)
OLD_OCO = (
    _COMMON
    | {"side", "quantity", "price", "stopPrice", "stopLimitPrice", "stopLimitTimeInForce", "trailingDelta"}
    | {f"{leg}{name}" for leg in ("limit", "stop") for name in ("ClientOrderId", "IcebergQty", *_LEG_NOTES)}
)


class ListTrading:
    """Answers to signed requests about order lists; see `Trading`."""

    def __init__(self, exchange: Exchange, usage: Usage) -> None:
        self._exchange = exchange
        self._usage = usage

    def place_oco(self, account: Account, params: Params) -> Json:
        """``POST /api/v3/orderList/oco``."""
        side, quantity = params.required("side"), _quantity(params, "quantity")
        pair = tuple(_leg(params, prefix, side, quantity) for prefix in ("above", "below"))
        return self._place(account, params, None, pair)

    def place_old_oco(self, account: Account, params: Params) -> Json:
        """``POST /api/v3/order/oco``, deprecated: a LIMIT_MAKER and a stop loss."""
        side, quantity = params.required("side"), _quantity(params, "quantity")
        symbol, limit_price = params.symbol(), params.decimal("stopLimitPrice")
        params.required("price")
        gain = OrderRequest(
            symbol=symbol,
            side=side,
            type="LIMIT_MAKER",
            quantity=quantity,
            price=params.decimal("price"),
            iceberg_qty=params.decimal("limitIcebergQty"),
            client_id=params.client_id("limitClientOrderId"),
        )
        loss = OrderRequest(
            symbol=symbol,
            side=side,
            type="STOP_LOSS" if limit_price is None else "STOP_LOSS_LIMIT",
            quantity=quantity,
            price=limit_price,
            stop_price=params.decimal("stopPrice"),
            trailing_delta=params.integer("trailingDelta"),
            iceberg_qty=params.decimal("stopIcebergQty"),
            time_in_force=params.get("stopLimitTimeInForce") or None,
            client_id=params.client_id("stopClientOrderId"),
        )
        return self._place(account, params, None, (loss, gain) if side == "BUY" else (gain, loss))

    def place_oto(self, account: Account, params: Params) -> Json:
        """``POST /api/v3/orderList/oto``."""
        pending = _leg(params, "pending", params.required("pendingSide"), _quantity(params, "pendingQuantity"))
        return self._place(account, params, self._working(params), (pending,))

    def place_otoco(self, account: Account, params: Params) -> Json:
        """``POST /api/v3/orderList/otoco``."""
        side, quantity = params.required("pendingSide"), _quantity(params, "pendingQuantity")
        pair = tuple(_leg(params, prefix, side, quantity) for prefix in ("pendingAbove", "pendingBelow"))
        return self._place(account, params, self._working(params), pair)

    def _working(self, params: Params) -> OrderRequest:
        return _leg(params, "working", params.required("workingSide"), _quantity(params, "workingQuantity"))

    def _place(
        self, account: Account, params: Params, working: OrderRequest | None, others: tuple[OrderRequest, ...]
    ) -> Json:
        kind = params.get("newOrderRespType") or "RESULT"
        if kind not in {"ACK", "RESULT", "FULL"}:
            raise Refusal(400, -1131, "Invalid newOrderRespType.")
        request = ListRequest(
            symbol=params.symbol(), working=working, others=others, client_id=params.client_id("listClientOrderId")
        )
        count = len(others) + (working is not None)
        self._usage.check_order(account.api_key, count)
        order_list = self._exchange.lists.place(account, request)
        self._usage.count_order(account.api_key, count)
        return describe(order_list) | {"orderReports": [new_order(order, kind) for order in order_list.orders]}

    def cancel(self, account: Account, params: Params) -> Json:
        """``DELETE /api/v3/orderList``."""
        list_id, client_id = _either(params, "orderListId", "listClientOrderId")
        symbol = params.symbol()
        self._exchange.market(symbol)
        cancel_id = params.client_id("newClientOrderId") or self._exchange.new_client_id()
        return cancelled_list(self._exchange.lists.cancel(account, symbol, list_id, client_id, cancel_id), cancel_id)

    def query(self, account: Account, params: Params) -> Json:
        """``GET /api/v3/orderList``."""
        return describe(self._exchange.lists.query(account, *_either(params, "orderListId", "origClientOrderId")))

    def open_lists(self, account: Account, params: Params) -> list[Json]:
        """``GET /api/v3/openOrderList``."""
        return [describe(order_list) for order_list in self._exchange.lists.open_of(account)]

    def all_lists(self, account: Account, params: Params) -> list[Json]:
        """``GET /api/v3/allOrderList``, the newest first."""
        from_id, (start_ms, end_ms) = params.integer("fromId"), params.day()
        if from_id is not None and (start_ms is not None or end_ms is not None):
            raise Refusal(400, -1128, "Combination of optional parameters invalid.")
        found = self._exchange.lists.all_of(account, from_id, start_ms, end_ms, params.limit(500, 1000))
        return [describe(order_list) for order_list in reversed(found)]


def _quantity(params: Params, name: str) -> Decimal | None:
    params.required(name)
    return params.decimal(name)


def _leg(params: Params, prefix: str, side: str, quantity: Decimal | None) -> OrderRequest:
    """Read one order of a list, whose parameters begin with `prefix`."""
    return OrderRequest(
        symbol=params.symbol(),
        side=side,
        type=params.required(prefix + "Type"),
        quantity=quantity,
        price=params.decimal(prefix + "Price"),
        stop_price=params.decimal(prefix + "StopPrice"),
        trailing_delta=params.integer(prefix + "TrailingDelta"),
        iceberg_qty=params.decimal(prefix + "IcebergQty"),
        time_in_force=params.get(prefix + "TimeInForce") or None,
        client_id=params.client_id(prefix + "ClientOrderId"),
    )


def _either(params: Params, by_id: str, by_client_id: str) -> tuple[int | None, str | None]:
    """Read by what a list is to be found."""
    list_id, client_id = params.integer(by_id), params.get(by_client_id) or None
    if list_id is None and client_id is None:
        raise mandatory(by_id)
    return list_id, client_id


def _members(order_list: OrderList, symbol: str, order_id: str, client_id: str) -> list[Json]:
    return [{symbol: order.symbol, order_id: order.order_id, client_id: order.client_id} for order in order_list.orders]


def describe(order_list: OrderList) -> Json:
    """Describe a list as answers and queries do."""
    return {
        "orderListId": order_list.list_id,
        "contingencyType": order_list.contingency,
        "listStatusType": "ALL_DONE" if order_list.is_done else "EXEC_STARTED",
        "listOrderStatus": "ALL_DONE" if order_list.is_done else "EXECUTING",
        "listClientOrderId": order_list.client_id,
        "transactionTime": order_list.updated_ms,
        "symbol": order_list.symbol,
        "orders": _members(order_list, "symbol", "orderId", "clientOrderId"),
    }


def cancelled_list(order_list: OrderList, cancel_id: str) -> Json:
    """Answer the cancellation of a list, whether it was asked for as a whole or by one of its orders."""
    cancelled = [order for order in order_list.orders if order.status == "CANCELED"]
    return describe(order_list) | {"orderReports": [cancelled_order(order, cancel_id) for order in cancelled]}


def cancelled_all(exchange: Exchange, orders: list[Order], cancel_id: str) -> list[Json]:
    """Answer ``DELETE /api/v3/openOrders``: each list stands once, in place of its orders."""
    answers: list[Json] = []
    seen: set[int] = set()
    for order in orders:
        order_list = exchange.lists.of(order)
        if order_list is None:
            answers.append(cancelled_order(order, cancel_id))
        elif order_list.list_id not in seen:
            seen.add(order_list.list_id)
            answers.append(cancelled_list(order_list, cancel_id))
    return answers


def list_status(event: ListEvent, now_ms: int) -> Json:
    """Write a change of a list on the user stream."""
    order_list = event.order_list
    return {
        "e": "listStatus",
        "E": now_ms,
        "s": order_list.symbol,
        "g": order_list.list_id,
        "c": order_list.contingency,
        "l": "ALL_DONE" if event.is_done else "EXEC_STARTED",
        "L": "ALL_DONE" if event.is_done else "EXECUTING",
        "r": "NONE",
        "C": order_list.client_id,
        "T": event.ts_ms,
        "O": _members(order_list, "s", "i", "c"),
    }
