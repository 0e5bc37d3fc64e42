"""Binance spot's REST API: which endpoint there is, who may call it with what, and how answers and refusals look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from ccxtbt.sim import binance_lists
from ccxtbt.sim.binance_access import (
    Params,
    Refusal,
    check_key,
    check_signature,
    read_params,
    signed_params,
    signed_text,
)
from ccxtbt.sim.binance_limits import WEIGHTS, Usage, Weight, weight_of
from ccxtbt.sim.binance_market import MarketData
from ccxtbt.sim.binance_trade import Trading
from ccxtbt.sim.orders import Reject

if TYPE_CHECKING:
    from ccxtbt.sim.account import Account
    from ccxtbt.sim.matching import Exchange

JSON_TYPE = "application/json;charset=UTF-8"
_SIGNED_PARAMS = frozenset({"timestamp", "recvWindow", "signature", "apiKey", "returnRateLimits"})
_NOT_FOUND = b"<html><body><h2>404 Not found</h2></body></html>"


class Answer(NamedTuple):
    """What a REST request is answered with, and what it weighed."""

    status: int
    body: bytes
    headers: dict[str, str]
    weight: int


class Endpoint(NamedTuple):
    """An endpoint without or with signature (one handler is None), and the parameters it reads."""

    public: Callable[[Params], Any] | None
    signed: Callable[[Account, Params], Any] | None
    names: frozenset[str]
    #: False where the key alone is enough.
    has_signature: bool = True


class Api:
    """A REST API of Binance.

    Parameters
    ----------
    exchange
        What the requests are about.
    usage
        Where weights and orders are counted.
    endpoints
        What there is, by method and path.
    weights
        What a request weighs, by method and path.
    """

    def __init__(
        self,
        exchange: Exchange,
        usage: Usage,
        endpoints: dict[tuple[str, str], Endpoint],
        weights: Mapping[tuple[str, str], Weight] = WEIGHTS,
    ) -> None:
        self.exchange = exchange
        self.usage = usage
        self.endpoints = endpoints
        self._weights = weights

    def answer(self, method: str, path: str, query: str, body: str, api_key: str | None, address: str) -> Answer:
        """Carry out one request.

        Parameters
        ----------
        method, path, query, body
            As they were sent; the path without a host in front.
        api_key
            The header X-MBX-APIKEY.
        address
            Whose weight is used.
        """
        endpoint = self.endpoints.get((method, path))
        if endpoint is None:
            return Answer(404, _NOT_FOUND, {"Content-Type": "text/html"}, 0)
        weight = 0
        headers = {"Content-Type": JSON_TYPE}
        try:
            params = read_params(query, body)
            weight = weight_of(method, path, params, self._weights)
            self.usage.charge(address, weight)
            if endpoint.signed is not None:
                secret = check_key(api_key, self._secret_of)
                if endpoint.has_signature:
                    check_signature(params, signed_text(query, body), secret, self.exchange.clock.now_ms())
            result = self._call(endpoint, params, api_key)
            status, content = 200, result if isinstance(result, bytes) else orjson.dumps(result)
        except Refusal as refusal:
            status, content = refusal.status, orjson.dumps(refusal.body())
            headers |= refusal.headers
        used = str(self.usage.weight(address))
        headers |= {"X-MBX-USED-WEIGHT": used, "X-MBX-USED-WEIGHT-1M": used}
        if method == "POST" and api_key and api_key in self.exchange.accounts:
            in_10s, in_day = self.usage.orders(api_key)
            headers |= {"X-MBX-ORDER-COUNT-10S": str(in_10s), "X-MBX-ORDER-COUNT-1D": str(in_day)}
        return Answer(status, content, headers, weight)

    def _secret_of(self, api_key: str) -> str | None:
        account = self.exchange.accounts.get(api_key)
        return None if account is None else account.secret

    def _call(self, endpoint: Endpoint, params: Params, api_key: str | None) -> Any:
        """Call an endpoint's handler; what the exchange refuses becomes a `Refusal`."""
        try:
            if endpoint.signed is None:
                _check_names(params, endpoint.names)
                assert endpoint.public is not None  # noqa: S101 - an endpoint has one handler or the other
                return endpoint.public(params)
            _check_names(params, endpoint.names | _SIGNED_PARAMS)
            return endpoint.signed(self.exchange.accounts[api_key or ""], params)
        except Reject as reject:
            raise Refusal(400, *self._translate(reject)) from reject

    def _translate(self, reject: Reject) -> tuple[int, str]:
        """Return how this API says what the exchange refuses."""
        return reject.code, reject.message

    def authenticate_socket(self, params: Params, names: frozenset[str]) -> Account:
        """Check key, timestamp, signature and parameter names of a ws-api request; return its account."""
        secret = check_key(params.get("apiKey"), self._secret_of)
        check_signature(params, signed_params(params), secret, self.exchange.clock.now_ms())
        _check_names(params, names | _SIGNED_PARAMS)
        return self.exchange.accounts[params["apiKey"]]

    def call_socket(self, method: str, path: str, params: Params) -> tuple[Any, Account | None]:
        """Answer a ws-api request as the REST endpoint does; return the result and the account that signed."""
        endpoint = self.endpoints[method, path]
        params_read = Params({name: value for name, value in params.items() if name != "returnRateLimits"})
        if endpoint.signed is None:
            result = self._call(endpoint, params_read, None)
            return (orjson.Fragment(result) if isinstance(result, bytes) else result), None
        account = self.authenticate_socket(params, endpoint.names)
        return self._call(endpoint, params_read, account.api_key), account


class Rest(Api):
    """The REST API of Binance spot."""

    def __init__(self, exchange: Exchange, usage: Usage) -> None:
        self.market_data = MarketData(exchange, usage)
        self.trading = Trading(exchange, usage)
        lists = binance_lists.ListTrading(exchange, usage)
        super().__init__(exchange, usage, _endpoints(self.market_data, self.trading, lists))


def public(handler: Callable[[Params], Any], *names: str) -> Endpoint:
    """Make an endpoint that anybody may call, from its handler and the parameters that it reads."""
    return Endpoint(handler, None, frozenset(names))


def signed(handler: Callable[[Account, Params], Any], *names: str) -> Endpoint:
    """Make an endpoint whose requests are signed."""
    return Endpoint(None, handler, frozenset(names))


def _check_names(params: Params, names: frozenset[str]) -> None:
    read = len(names.intersection(params))
    if read < len(params):
        raise Refusal(
            400, -1104, f"Not all sent parameters were read; read '{read}' parameter(s) but was sent '{len(params)}'."
        )


_NEW_ORDER = frozenset(
    {
        "symbol",
        "side",
        "type",
        "timeInForce",
        "quantity",
        "quoteOrderQty",
        "price",
        "newClientOrderId",
        "strategyId",
        "strategyType",
        "stopPrice",
        "trailingDelta",
        "icebergQty",
        "newOrderRespType",
        "selfTradePreventionMode",
    }
)


def _endpoints(
    market_data: MarketData, trading: Trading, lists: binance_lists.ListTrading
) -> dict[tuple[str, str], Endpoint]:
    """Return the table of all endpoints."""
    klines = public(market_data.klines, "symbol", "interval", "startTime", "endTime", "timeZone", "limit")
    contracts = public(market_data.no_contracts)
    api = {
        ("GET", "ping"): public(market_data.ping),
        ("GET", "time"): public(market_data.time),
        ("GET", "exchangeInfo"): public(
            market_data.exchange_info, "symbol", "symbols", "permissions", "showPermissionSets", "symbolStatus"
        ),
        ("GET", "klines"): klines,
        ("GET", "uiKlines"): klines,
        ("GET", "trades"): public(market_data.trades, "symbol", "limit"),
        ("GET", "historicalTrades"): public(market_data.trades, "symbol", "limit", "fromId"),
        ("GET", "aggTrades"): public(market_data.agg_trades, "symbol", "fromId", "startTime", "endTime", "limit"),
        ("GET", "depth"): public(market_data.depth, "symbol", "limit"),
        ("GET", "ticker/24hr"): public(market_data.ticker_24hr, "symbol", "symbols", "type"),
        ("GET", "ticker/price"): public(market_data.ticker_price, "symbol", "symbols"),
        ("GET", "ticker/bookTicker"): public(market_data.ticker_book, "symbol", "symbols"),
        ("GET", "account"): signed(trading.account, "omitZeroBalances"),
        ("GET", "account/commission"): signed(trading.commission, "symbol"),
        ("GET", "rateLimit/order"): signed(trading.order_counts),
        ("POST", "order"): Endpoint(None, trading.place, _NEW_ORDER),
        ("POST", "order/test"): Endpoint(None, trading.test, _NEW_ORDER | {"computeCommissionRates"}),
        ("GET", "order"): signed(trading.query, "symbol", "orderId", "origClientOrderId"),
        ("DELETE", "order"): signed(
            trading.cancel, "symbol", "orderId", "origClientOrderId", "newClientOrderId", "cancelRestrictions"
        ),
        ("POST", "order/cancelReplace"): Endpoint(
            None,
            trading.cancel_replace,
            _NEW_ORDER
            | {"cancelReplaceMode", "cancelNewClientOrderId", "cancelOrderId", "cancelOrigClientOrderId"}
            | {"cancelRestrictions", "orderRateLimitExceededMode"},
        ),
        ("POST", "order/oco"): Endpoint(None, lists.place_old_oco, binance_lists.OLD_OCO),
        ("POST", "orderList/oco"): Endpoint(None, lists.place_oco, binance_lists.OCO),
        ("POST", "orderList/oto"): Endpoint(None, lists.place_oto, binance_lists.OTO),
        ("POST", "orderList/otoco"): Endpoint(None, lists.place_otoco, binance_lists.OTOCO),
        ("DELETE", "orderList"): signed(lists.cancel, "symbol", "orderListId", "listClientOrderId", "newClientOrderId"),
        ("GET", "orderList"): signed(lists.query, "orderListId", "origClientOrderId"),
        ("GET", "openOrderList"): signed(lists.open_lists),
        ("GET", "allOrderList"): signed(lists.all_lists, "fromId", "startTime", "endTime", "limit"),
        ("GET", "openOrders"): signed(trading.open_orders, "symbol"),
        ("DELETE", "openOrders"): signed(trading.cancel_all, "symbol"),
        ("GET", "allOrders"): signed(trading.all_orders, "symbol", "orderId", "startTime", "endTime", "limit"),
        ("GET", "myTrades"): signed(trading.my_trades, "symbol", "orderId", "startTime", "endTime", "fromId", "limit"),
    }
    return {(method, f"/api/v3/{path}"): endpoint for (method, path), endpoint in api.items()} | {
        # What ccxt's load_markets and fetch_status ask of Binance's other exchanges and of the wallet.
        ("GET", "/sapi/v1/system/status"): public(market_data.system_status),
        ("GET", "/sapi/v1/capital/config/getall"): signed(trading.coins),
        ("GET", "/sapi/v1/asset/tradeFee"): signed(trading.trade_fee, "symbol"),
        ("GET", "/sapi/v1/margin/allPairs"): signed(trading.nothing, "symbol"),
        ("GET", "/sapi/v1/margin/isolated/allPairs"): signed(trading.nothing, "symbol"),
        ("GET", "/fapi/v1/exchangeInfo"): contracts,
        ("GET", "/dapi/v1/exchangeInfo"): contracts,
        ("GET", "/eapi/v1/exchangeInfo"): contracts,
    }
