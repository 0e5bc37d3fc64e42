"""Binance spot's signed REST endpoints: orders and the account."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from ccxtbt.sim.binance_access import Params, Refusal
from ccxtbt.sim.binance_json import Json, cancelled_order, my_trade, new_order, order_state, text
from ccxtbt.sim.binance_lists import cancelled_all, cancelled_list
from ccxtbt.sim.binance_market import need_one
from ccxtbt.sim.orders import OrderRequest, Reject

if TYPE_CHECKING:
    from ccxtbt.sim.account import Account
    from ccxtbt.sim.binance_limits import Usage
    from ccxtbt.sim.matching import Exchange


class Trading:
    """Answers to signed requests. Each takes the account that signed and the request's parameters."""

    def __init__(self, exchange: Exchange, usage: Usage) -> None:
        self._exchange = exchange
        self._usage = usage

    def _request(self, params: Params) -> OrderRequest:
        return OrderRequest(
            symbol=params.symbol(),
            side=params.required("side"),
            type=params.required("type"),
            quantity=params.decimal("quantity"),
            quote_qty=params.decimal("quoteOrderQty"),
            price=params.decimal("price"),
            stop_price=params.decimal("stopPrice"),
            trailing_delta=params.integer("trailingDelta"),
            iceberg_qty=params.decimal("icebergQty"),
            time_in_force=params.get("timeInForce") or None,
            client_id=params.client_id("newClientOrderId"),
        )

    def place(self, account: Account, params: Params) -> Json:
        """``POST /api/v3/order``."""
        kind = params.get("newOrderRespType") or ("FULL" if params.get("type") in {"MARKET", "LIMIT"} else "ACK")
        if kind not in {"ACK", "RESULT", "FULL"}:
            raise Refusal(400, -1131, "Invalid newOrderRespType.")
        request = self._request(params)
        self._usage.check_order(account.api_key)
        order = self._exchange.place(account, request)
        self._usage.count_order(account.api_key)
        return new_order(order, kind)

    def test(self, account: Account, params: Params) -> Json:
        """``POST /api/v3/order/test``."""
        self._exchange.check(account, self._request(params))
        return {}

    def _find(self, params: Params) -> tuple[str, int | None, str | None]:
        need_one(params, "orderId", "origClientOrderId")
        return params.symbol(), params.integer("orderId"), params.get("origClientOrderId")

    def query(self, account: Account, params: Params) -> Json:
        """``GET /api/v3/order``."""
        symbol, order_id, client_id = self._find(params)
        self._exchange.market(symbol)
        return order_state(self._exchange.query(account, symbol, order_id, client_id))

    def _cancel(self, account: Account, params: Params, id_of_cancel: str, find_by: tuple[str, str]) -> Json:
        by_order, by_client = find_by
        need_one(params, by_order, by_client)
        symbol = params.symbol()
        self._exchange.market(symbol)
        cancel_id = params.client_id(id_of_cancel) or self._exchange.new_client_id()
        order = self._exchange.cancel(account, symbol, params.integer(by_order), params.get(by_client), cancel_id)
        order_list = self._exchange.lists.of(order)
        return cancelled_order(order, cancel_id) if order_list is None else cancelled_list(order_list, cancel_id)

    def cancel(self, account: Account, params: Params) -> Json:
        """``DELETE /api/v3/order``."""
        return self._cancel(account, params, "newClientOrderId", ("orderId", "origClientOrderId"))

    def cancel_replace(self, account: Account, params: Params) -> Json:
        """``POST /api/v3/order/cancelReplace``: what failed and what did not stands in the refusal's data."""
        mode = params.one_of(
            "cancelReplaceMode", {"STOP_ON_FAILURE", "ALLOW_FAILURE"}, -1100, "Illegal 'cancelReplaceMode'."
        )
        request = self._request(params)
        kind = params.get("newOrderRespType") or ("FULL" if request.type in {"MARKET", "LIMIT"} else "ACK")
        outcome: Json = {"cancelResult": "SUCCESS", "newOrderResult": "NOT_ATTEMPTED"}
        answers: Json = {"cancelResponse": None, "newOrderResponse": None}
        try:
            found = ("cancelOrderId", "cancelOrigClientOrderId")
            answers["cancelResponse"] = self._cancel(account, params, "cancelNewClientOrderId", found)
        except Reject as reject:
            outcome["cancelResult"] = "FAILURE"
            answers["cancelResponse"] = {"code": reject.code, "msg": reject.message}
        if outcome["cancelResult"] == "SUCCESS" or mode == "ALLOW_FAILURE":
            try:
                self._usage.check_order(account.api_key)
                answers["newOrderResponse"] = new_order(self._exchange.place(account, request), kind)
                self._usage.count_order(account.api_key)
                outcome["newOrderResult"] = "SUCCESS"
            except Reject as reject:
                outcome["newOrderResult"] = "FAILURE"
                answers["newOrderResponse"] = {"code": reject.code, "msg": reject.message}
        succeeded = list(outcome.values()).count("SUCCESS")
        if succeeded == 2:
            return outcome | answers
        if succeeded == 1:
            raise Refusal(409, -2021, "Order cancel-replace partially failed.", data=outcome | answers)
        raise Refusal(400, -2022, "Order cancel-replace failed.", data=outcome | answers)

    def open_orders(self, account: Account, params: Params) -> list[Json]:
        """``GET /api/v3/openOrders``."""
        symbol = params.symbol() if "symbol" in params else None
        if symbol is not None:
            self._exchange.market(symbol)
        return [order_state(order) for order in self._exchange.open_orders(account, symbol)]

    def cancel_all(self, account: Account, params: Params) -> list[Json]:
        """``DELETE /api/v3/openOrders``."""
        symbol = params.symbol()
        self._exchange.market(symbol)
        cancel_id = self._exchange.new_client_id()
        return cancelled_all(self._exchange, self._exchange.cancel_all(account, symbol, cancel_id), cancel_id)

    def all_orders(self, account: Account, params: Params) -> list[Json]:
        """``GET /api/v3/allOrders``."""
        symbol = params.symbol()
        self._exchange.market(symbol)
        start_ms, end_ms = params.day()
        orders = self._exchange.all_orders(
            account, symbol, params.integer("orderId"), start_ms, end_ms, params.limit(500, 1000)
        )
        return [order_state(order) for order in orders]

    def my_trades(self, account: Account, params: Params) -> list[Json]:
        """``GET /api/v3/myTrades``."""
        symbol = params.symbol()
        self._exchange.market(symbol)
        start_ms, end_ms = params.day()
        fills = self._exchange.my_trades(
            account,
            symbol,
            params.integer("orderId"),
            params.integer("fromId"),
            start_ms,
            end_ms,
            params.limit(500, 1000),
        )
        return [my_trade(fill) for fill in fills]

    def account(self, account: Account, params: Params) -> Json:
        """``GET /api/v3/account``."""
        omit_zero = params.get("omitZeroBalances") == "true"
        maker, taker = self._exchange.books.maker_fee, self._exchange.books.taker_fee
        return {
            "makerCommission": int(maker * 10_000),
            "takerCommission": int(taker * 10_000),
            "buyerCommission": 0,
            "sellerCommission": 0,
            "commissionRates": _rates(maker, taker),
            "canTrade": True,
            "canWithdraw": True,
            "canDeposit": True,
            "brokered": False,
            "requireSelfTradePrevention": False,
            "preventSor": False,
            "updateTime": account.updated_ms,
            "accountType": "SPOT",
            "balances": [
                {"asset": asset, "free": text(balance.free), "locked": text(balance.locked)}
                for asset, balance in account.balances.items()
                if balance.total or not omit_zero
            ],
            "permissions": ["SPOT"],
            "uid": 354937868,
        }

    def commission(self, account: Account, params: Params) -> Json:
        """``GET /api/v3/account/commission``."""
        spec = self._exchange.market(params.symbol()).spec
        maker, taker = self._exchange.books.maker_fee, self._exchange.books.taker_fee
        return {
            "symbol": spec.symbol,
            "standardCommission": _rates(maker, taker),
            "specialCommission": _rates(Decimal(0), Decimal(0)),
            "taxCommission": _rates(Decimal(0), Decimal(0)),
            "discount": {
                "enabledForAccount": self._exchange.books.fee_coin is not None,
                "enabledForSymbol": self._exchange.books.fee_coin is not None,
                "discountAsset": self._exchange.books.fee_coin,
                "discount": text(1 - self._exchange.books.fee_coin_discount),
            },
        }

    def trade_fee(self, account: Account, params: Params) -> list[Json]:
        """``GET /sapi/v1/asset/tradeFee``."""
        symbols = [params.symbol()] if "symbol" in params else list(self._exchange.markets)
        maker, taker = text(self._exchange.books.maker_fee), text(self._exchange.books.taker_fee)
        return [
            {"symbol": self._exchange.market(symbol).spec.symbol, "makerCommission": maker, "takerCommission": taker}
            for symbol in symbols
        ]

    def order_counts(self, account: Account, params: Params) -> list[Json]:
        """``GET /api/v3/rateLimit/order``."""
        return self._usage.rate_limits("", account.api_key)[1:]

    def coins(self, account: Account, params: Params) -> list[Json]:
        """``GET /sapi/v1/capital/config/getall``: every coin of the markets and of the account, on one network."""
        specs = [market.spec for market in self._exchange.markets.values()]
        names = dict.fromkeys([name for spec in specs for name in (spec.base, spec.quote)] + list(account.balances))
        return [_coin(name, account) for name in names]

    def nothing(self, account: Account, params: Params) -> list[Json]:
        """Answer lists of the margin exchange, which is not offered."""
        return []


def _rates(maker: Decimal, taker: Decimal) -> Json:
    return {"maker": text(maker), "taker": text(taker), "buyer": text(Decimal(0)), "seller": text(Decimal(0))}


def _coin(name: str, account: Account) -> Json:
    balance = account.balance(name)
    return {
        "coin": name,
        "depositAllEnable": True,
        "withdrawAllEnable": True,
        "name": name,
        "free": text(balance.free),
        "locked": text(balance.locked),
        "freeze": "0",
        "withdrawing": "0",
        "ipoing": "0",
        "ipoable": "0",
        "storage": "0",
        "isLegalMoney": False,
        "trading": True,
        "networkList": [
            {
                "network": name,
                "coin": name,
                "withdrawIntegerMultiple": "0.00000001",
                "isDefault": True,
                "depositEnable": True,
                "withdrawEnable": True,
                "name": name,
                "withdrawFee": "0.0005",
                "withdrawMin": "0.001",
                "withdrawMax": "10000000",
                "depositDust": "0.00000001",
                "minConfirm": 1,
                "unLockConfirm": 2,
                "sameAddress": False,
                "busy": False,
                "country": "",
            }
        ],
    }
