"""The endpoints of Binance's USD-M futures for conditional orders (``algoOrder``), and their events."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, cast

from ccxtbt.sim.algos import AlgoOrder
from ccxtbt.sim.binance_access import Params, Refusal
from ccxtbt.sim.binance_json import STP_MODE, Json, text
from ccxtbt.sim.binance_market import need_one
from ccxtbt.sim.events import AlgoEvent
from ccxtbt.sim.usdm_json import average
from ccxtbt.sim.usdm_trade import check_side

if TYPE_CHECKING:
    from ccxtbt.sim.account import Account
    from ccxtbt.sim.algos import AlgoType
    from ccxtbt.sim.binance_limits import Usage
    from ccxtbt.sim.orders import Side
    from ccxtbt.sim.perpetuals import Perpetuals

_ZERO = Decimal(0)
NEW_ALGO = frozenset(
    {
        "algoType",
        "symbol",
        "side",
        "positionSide",
        "type",
        "timeInForce",
        "quantity",
        "price",
        "triggerPrice",
        "workingType",
        "priceProtect",
        "closePosition",
        "reduceOnly",
        "activatePrice",
        "callbackRate",
        "clientAlgoId",
        "newOrderRespType",
        "selfTradePreventionMode",
    }
)


class UsdmAlgos:
    """Answers to signed requests about conditional orders."""

    def __init__(self, exchange: Perpetuals, usage: Usage) -> None:
        self._exchange = exchange
        self._usage = usage

    def place(self, account: Account, params: Params) -> Json:
        """``POST /fapi/v1/algoOrder``."""
        params.one_of("algoType", {"CONDITIONAL"}, -1130, "Data sent for parameter 'algoType' is not valid.")
        check_side(params)
        side = params.one_of("side", {"BUY", "SELL"}, -1117, "Invalid side.")
        self._usage.check_order(account.api_key)
        now_ms = self._exchange.catch_up()
        algo = AlgoOrder(
            account=account,
            algo_id=0,
            client_id=params.client_id("clientAlgoId") or self._exchange.new_client_id(),
            symbol=params.symbol(),
            side=cast("Side", side),
            type=cast("AlgoType", params.required("type")),
            quantity=params.decimal("quantity"),
            price=params.decimal("price"),
            time_in_force=params.get("timeInForce") or "GTC",
            trigger_price=params.decimal("triggerPrice") or _ZERO,
            callback_rate=params.decimal("callbackRate") or _ZERO,
            activate_price=params.decimal("activatePrice") or _ZERO,
            reduce_only=_flag(params, "reduceOnly"),
            close_position=_flag(params, "closePosition"),
            working_type=params.get("workingType") or "CONTRACT_PRICE",
            created_ms=now_ms,
            updated_ms=now_ms,
        )
        self._exchange.place_algo(algo)
        self._usage.count_order(account.api_key)
        return state(algo)

    def _find(self, account: Account, params: Params) -> AlgoOrder | None:
        need_one(params, "algoId", "clientAlgoId")
        self._exchange.catch_up()
        algo_id, client_id = params.integer("algoId"), params.get("clientAlgoId")
        for algo in reversed(self._exchange.algos):
            if algo.account is account and (algo.algo_id == algo_id if algo_id else algo.client_id == client_id):
                return algo
        return None

    def query(self, account: Account, params: Params) -> Json:
        """``GET /fapi/v1/algoOrder``."""
        algo = self._find(account, params)
        if algo is None:
            raise Refusal(400, -2013, "Order does not exist.")
        return state(algo)

    def cancel(self, account: Account, params: Params) -> Json:
        """``DELETE /fapi/v1/algoOrder``."""
        algo = self._find(account, params)
        if algo is None or algo.status != "NEW":
            raise Refusal(400, -2011, "Unknown order sent.")
        self._exchange.end_algo(algo, "CANCELED", self._exchange.catch_up())
        return {"algoId": algo.algo_id, "clientAlgoId": algo.client_id, "code": "200", "msg": "success"}

    def cancel_all(self, account: Account, params: Params) -> Json:
        """``DELETE /fapi/v1/algoOpenOrders``."""
        now_ms, symbol = self._exchange.catch_up(), params.symbol()
        self._exchange.market(symbol)
        for algo in self._waiting(account, symbol):
            self._exchange.end_algo(algo, "CANCELED", now_ms)
        return {"code": 200, "msg": "The operation of cancel all open order is done."}

    def _waiting(self, account: Account, symbol: str | None) -> list[AlgoOrder]:
        return [
            algo
            for algo in self._exchange.algos
            if algo.account is account and algo.status == "NEW" and symbol in {None, algo.symbol}
        ]

    def open_algos(self, account: Account, params: Params) -> list[Json]:
        """``GET /fapi/v1/openAlgoOrders``."""
        self._exchange.catch_up()
        return [state(algo) for algo in self._waiting(account, params.get("symbol"))]

    def all_algos(self, account: Account, params: Params) -> list[Json]:
        """``GET /fapi/v1/allAlgoOrders``."""
        self._exchange.catch_up()
        symbol, algo_id = params.symbol(), params.integer("algoId") or 0
        start_ms, end_ms = params.integer("startTime"), params.integer("endTime")
        rows = [
            state(algo)
            for algo in self._exchange.algos
            if algo.account is account
            and algo.symbol == symbol
            and algo.algo_id >= algo_id
            and (start_ms is None or algo.created_ms >= start_ms)
            and (end_ms is None or algo.created_ms <= end_ms)
        ]
        return rows[-params.limit(500, 1000) :]


def _flag(params: Params, name: str) -> bool:
    return params.get(name, "false").lower() == "true"


def state(algo: AlgoOrder) -> Json:
    """Describe a conditional order as every answer does."""
    answer: Json = {
        "algoId": algo.algo_id,
        "clientAlgoId": algo.client_id,
        "algoType": "CONDITIONAL",
        "orderType": algo.type,
        "symbol": algo.symbol,
        "side": algo.side,
        "positionSide": "BOTH",
        "timeInForce": algo.time_in_force,
        "quantity": text(algo.quantity or _ZERO),
        "algoStatus": algo.status,
        "actualOrderId": str(algo.order.order_id) if algo.order else "",
        "actualPrice": average(algo.order, algo.order.executed, algo.order.cum_quote) if algo.order else text(_ZERO),
        "triggerPrice": text(algo.trigger_price),
        "price": text(algo.price or _ZERO),
        "icebergQuantity": None,
        "selfTradePreventionMode": STP_MODE,
        "workingType": algo.working_type,
        "priceMatch": "NONE",
        "closePosition": algo.close_position,
        "priceProtect": False,
        "reduceOnly": algo.reduce_only,
        "createTime": algo.created_ms,
        "updateTime": algo.updated_ms,
        "triggerTime": algo.trigger_ms,
        "goodTillDate": 0,
    }
    if algo.type == "TRAILING_STOP_MARKET":
        answer |= {"callbackRate": f"{algo.callback_rate:f}", "activatePrice": text(algo.activate_price)}
    return answer


def algo_update(event: AlgoEvent, now_ms: int) -> Json:
    """Write a change of a conditional order on the user stream."""
    algo = event.algo
    return {
        "e": "ALGO_UPDATE",
        "E": now_ms,
        "T": event.ts_ms,
        "o": {
            "caid": algo.client_id,
            "aid": algo.algo_id,
            "at": "CONDITIONAL",
            "o": algo.type,
            "s": algo.symbol,
            "S": algo.side,
            "ps": "BOTH",
            "f": algo.time_in_force,
            "q": text(algo.quantity or _ZERO),
            "X": event.status,
            "ai": event.order_id,
            "ap": event.average,
            "aq": event.executed,
            "act": event.kind,
            "tp": text(algo.trigger_price),
            "p": text(algo.price or _ZERO),
            "V": STP_MODE,
            "wt": algo.working_type,
            "pm": "NONE",
            "cp": algo.close_position,
            "pP": False,
            "R": algo.reduce_only,
            "tt": algo.trigger_ms,
            "gtd": 0,
            "rm": algo.reason,
        },
    }
