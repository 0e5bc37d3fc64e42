"""Binance spot's public REST endpoints over the simulated markets."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson

from ccxtbt.sim import filters
from ccxtbt.sim.binance_access import Params, Refusal, mandatory
from ccxtbt.sim.binance_json import STP_MODE, Json, agg_trade, public_trade
from ccxtbt.sim.kline import INTERVALS

if TYPE_CHECKING:
    from ccxtbt.sim.binance_limits import Usage
    from ccxtbt.sim.market import Market
    from ccxtbt.sim.matching import Exchange
    from ccxtbt.sim.spec import Spec

ORDER_TYPES = ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT"]
HOUR_MS = 3_600_000


class MarketData:
    """Answers that need no signature. Each takes the request's parameters and returns JSON or its bytes."""

    #: Most rows of one answer.
    max_klines = 1000

    def __init__(self, exchange: Exchange, usage: Usage) -> None:
        self._exchange = exchange
        self._usage = usage
        #: Told of every book that leaves by REST: symbol, bids, asks.
        self.on_depth: Callable[[str, list[tuple[str, str]], list[tuple[str, str]]], None] = lambda *_: None
        self._lag_ms = self._skew_ms = 0

    @contextmanager
    def seen_with(self, lag_ms: int, skew_ms: int) -> Generator[None]:
        """Answer, within, from a replica that is `lag_ms` behind and by a clock that is `skew_ms` ahead."""
        self._lag_ms, self._skew_ms = lag_ms, skew_ms
        try:
            yield
        finally:
            self._lag_ms = self._skew_ms = 0

    def _seen_ms(self) -> int:
        """Return up to when klines and trades are seen."""
        return self._exchange.clock.now_ms() - self._lag_ms

    def _market(self, params: Params) -> Market:
        return self._exchange.market(params.symbol())

    def _symbols(self, params: Params) -> tuple[list[str], bool]:
        """Return the symbols that a request names, all where it names none, and whether the answer is a list."""
        if "symbol" in params:
            if "symbols" in params:
                raise Refusal(400, -1128, "Combination of optional parameters invalid.")
            return [params.symbol()], False
        if "symbols" not in params:
            return list(self._exchange.markets), True
        try:
            symbols = orjson.loads(params["symbols"])
        except orjson.JSONDecodeError:
            symbols = None
        if not isinstance(symbols, list) or not symbols:
            raise Refusal(400, -1100, "Illegal characters found in parameter 'symbols'.")
        return [str(symbol) for symbol in symbols], True

    def ping(self, params: Params) -> Json:
        """``GET /api/v3/ping``."""
        return {}

    def time(self, params: Params) -> Json:
        """``GET /api/v3/time``."""
        return {"serverTime": self._exchange.clock.now_ms() + self._skew_ms}

    def exchange_info(self, params: Params) -> Json:
        """``GET /api/v3/exchangeInfo``."""
        symbols, _ = self._symbols(params)
        return {
            "timezone": "UTC",
            "serverTime": self._exchange.clock.now_ms(),
            "rateLimits": self._usage.describe(),
            "exchangeFilters": [],
            "symbols": [_symbol_info(self._exchange.market(symbol).spec) for symbol in symbols],
        }

    def klines(self, params: Params) -> bytes:
        """``GET /api/v3/klines`` and ``uiKlines``."""
        market = self._market(params)
        interval = params.one_of("interval", INTERVALS, -1120, "Invalid interval.")
        return market.klines_json(
            interval,
            params.integer("startTime"),
            params.integer("endTime"),
            params.limit(500, self.max_klines),
            now_ms=self._seen_ms(),
        )

    def trades(self, params: Params) -> list[Json]:
        """``GET /api/v3/trades`` and, with fromId, ``historicalTrades``."""
        market = self._market(params)
        rows = market.trades(from_id=params.integer("fromId"), limit=params.limit(500, 1000), now_ms=self._seen_ms())
        return [public_trade(market, trade) for trade in rows]

    def agg_trades(self, params: Params) -> list[Json]:
        """``GET /api/v3/aggTrades``."""
        market = self._market(params)
        from_id, start_ms, end_ms = (params.integer(name) for name in ("fromId", "startTime", "endTime"))
        if from_id is not None and (start_ms is not None or end_ms is not None):
            raise Refusal(400, -1128, "Combination of optional parameters invalid.")
        rows = market.agg_trades(
            from_id=from_id,
            start_ms=start_ms,
            end_ms=end_ms,
            limit=params.limit(500, 1000),
            now_ms=self._seen_ms(),
        )
        return [agg_trade(market, trade) for trade in rows]

    def depth(self, params: Params) -> Json:
        """``GET /api/v3/depth``."""
        symbol = params.symbol()
        update_id, bids, asks = self._exchange.book(symbol, params.limit(100, 5000))
        self.on_depth(symbol, bids, asks)
        return {"lastUpdateId": update_id, "bids": bids, "asks": asks}

    def ticker_of(self, symbol: str) -> Json:
        """Return a symbol's 24-hour statistics together with the best prices of its book."""
        ticker = self._exchange.market(symbol).ticker(self._exchange.clock.now_ms())
        return ticker | self._best_of(symbol)

    def _best_of(self, symbol: str) -> Json:
        _, bids, asks = self._exchange.book(symbol, 1)
        bid, bid_qty = bids[0] if bids else ("0.00000000", "0.00000000")
        ask, ask_qty = asks[0] if asks else ("0.00000000", "0.00000000")
        return {"bidPrice": bid, "bidQty": bid_qty, "askPrice": ask, "askQty": ask_qty}

    def ticker_24hr(self, params: Params) -> Any:
        """``GET /api/v3/ticker/24hr``, FULL or MINI."""
        symbols, many = self._symbols(params)
        rows = [self.ticker_of(symbol) for symbol in symbols]
        if params.get("type", "FULL") == "MINI":
            rows = [{key: row[key] for key in _MINI} for row in rows]
        return rows if many else rows[0]

    def ticker_price(self, params: Params) -> Any:
        """``GET /api/v3/ticker/price``."""
        symbols, many = self._symbols(params)
        now_ms = self._exchange.clock.now_ms()
        rows = [
            {"symbol": symbol, "price": self._exchange.market(symbol).ticker(now_ms)["lastPrice"]} for symbol in symbols
        ]
        return rows if many else rows[0]

    def ticker_book(self, params: Params) -> Any:
        """``GET /api/v3/ticker/bookTicker``."""
        symbols, many = self._symbols(params)
        rows = [{"symbol": self._exchange.market(symbol).spec.symbol, **self._best_of(symbol)} for symbol in symbols]
        return rows if many else rows[0]

    def system_status(self, params: Params) -> Json:
        """``GET /sapi/v1/system/status``."""
        return {"status": 0, "msg": "normal"}

    def no_contracts(self, params: Params) -> Json:
        """Answer exchangeInfo of the futures and options exchanges, which list nothing here."""
        return {
            "timezone": "UTC",
            "serverTime": self._exchange.clock.now_ms(),
            "rateLimits": [],
            "exchangeFilters": [],
            "assets": [],
            "symbols": [],
        }


_MINI = (
    "symbol",
    "openPrice",
    "highPrice",
    "lowPrice",
    "lastPrice",
    "volume",
    "quoteVolume",
    "openTime",
    "closeTime",
    "firstId",
    "lastId",
    "count",
)


def _symbol_info(spec: Spec) -> Json:
    return {
        "symbol": spec.symbol,
        "status": "TRADING",
        "baseAsset": spec.base,
        "baseAssetPrecision": 8,
        "quoteAsset": spec.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": ORDER_TYPES,
        "icebergAllowed": False,
        "ocoAllowed": True,
        "otoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": True,
        "cancelReplaceAllowed": True,
        "amendAllowed": False,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": filters.describe(spec),
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": STP_MODE,
        "allowedSelfTradePreventionModes": [STP_MODE],
    }


def need_one(params: Params, first: str, second: str) -> None:
    """Refuse a request that has neither of two parameters of which it needs one."""
    if not params.get(first) and not params.get(second):
        raise mandatory(first)
