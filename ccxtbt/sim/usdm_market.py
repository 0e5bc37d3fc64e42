"""The public REST endpoints of Binance's USD-M futures over simulated perpetual contracts."""

from __future__ import annotations

from typing import Any

import orjson

from ccxtbt.sim import filters
from ccxtbt.sim.binance_access import Params
from ccxtbt.sim.binance_json import STP_MODE, Json
from ccxtbt.sim.binance_market import MarketData
from ccxtbt.sim.funding import FUNDING_MS, INTEREST, history, mark_of
from ccxtbt.sim.spec import Spec

ORDER_TYPES = ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET"]
#: Binance's delivery date of a contract that is never delivered.
_NEVER_MS = 4_133_404_800_000


class UsdmMarketData(MarketData):
    """Answers that need no signature; those that are not here are the spot exchange's."""

    max_klines = 1500

    def exchange_info(self, params: Params) -> Json:
        """``GET /fapi/v1/exchangeInfo``."""
        specs = [market.spec for market in self._exchange.markets.values()]
        return {
            "timezone": "UTC",
            "serverTime": self._exchange.clock.now_ms(),
            "futuresType": "U_MARGINED",
            "rateLimits": self._usage.describe(),
            "exchangeFilters": [],
            "assets": [
                {"asset": asset, "marginAvailable": True, "autoAssetExchange": None}
                for asset in dict.fromkeys(spec.quote for spec in specs)
            ],
            "symbols": [_contract_info(spec) for spec in specs],
        }

    def depth(self, params: Params) -> Json:
        """``GET /fapi/v1/depth``."""
        now_ms = self._exchange.clock.now_ms()
        return {"E": now_ms, "T": now_ms} | super().depth(params)

    def mark_klines(self, params: Params) -> list[list[Any]]:
        """``GET /fapi/v1/markPriceKlines``: the mark price is the last price, and nothing is traded by it."""
        rows = orjson.loads(self.klines(params))
        return [[*row[:5], "0", row[6], "0", row[8], "0", "0", "0"] for row in rows]

    def premium_of(self, symbol: str) -> Json:
        """Return a contract's prices and its funding as of now."""
        now_ms = self._exchange.clock.now_ms()
        mark = mark_of(self._exchange.market(symbol), now_ms)
        return {
            "symbol": symbol,
            "markPrice": f"{mark.mark if mark else 0:.8f}",
            "indexPrice": f"{mark.index if mark else 0:.8f}",
            "estimatedSettlePrice": f"{mark.index if mark else 0:.8f}",
            "lastFundingRate": f"{mark.rate if mark else 0:.8f}",
            "interestRate": f"{INTEREST:.8f}",
            "nextFundingTime": mark.next_ms if mark else 0,
            "time": now_ms,
        }

    def premium_index(self, params: Params) -> Any:
        """``GET /fapi/v1/premiumIndex``."""
        symbols, many = self._symbols(params)
        rows = [self.premium_of(symbol) for symbol in symbols]
        return rows if many else rows[0]

    def funding_rates(self, params: Params) -> list[Json]:
        """``GET /fapi/v1/fundingRate``: past payments, oldest first."""
        symbols, _ = self._symbols(params)
        limit, now_ms = params.limit(100, 1000), self._exchange.clock.now_ms()
        start_ms, end_ms = params.integer("startTime"), params.integer("endTime")
        rows: list[Json] = [
            {"symbol": symbol, "fundingTime": at_ms, "fundingRate": f"{rate:.8f}", "markPrice": f"{mark:.8f}"}
            for symbol in symbols
            for at_ms, rate, mark in history(self._exchange.market(symbol), start_ms, end_ms, limit, now_ms=now_ms)
        ]
        rows.sort(key=lambda row: row["fundingTime"])
        return rows[-limit:] if start_ms is None else rows[:limit]

    def funding_info(self, params: Params) -> list[Json]:
        """``GET /fapi/v1/fundingInfo``."""
        return [
            {
                "symbol": symbol,
                "adjustedFundingRateCap": "0.02000000",
                "adjustedFundingRateFloor": "-0.02000000",
                "fundingIntervalHours": FUNDING_MS // 3_600_000,
                "disclaimer": False,
            }
            for symbol in self._exchange.markets
        ]

    def ticker_price(self, params: Params) -> Any:
        """``GET /fapi/v1/ticker/price`` and its second version."""
        rows = super().ticker_price(params)
        now_ms = self._exchange.clock.now_ms()
        return [row | {"time": now_ms} for row in rows] if isinstance(rows, list) else rows | {"time": now_ms}


def _contract_info(spec: Spec) -> Json:
    return {
        "symbol": spec.symbol,
        "pair": spec.symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": _NEVER_MS,
        "onboardDate": 1_569_398_400_000,
        "status": "TRADING",
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": spec.base,
        "quoteAsset": spec.quote,
        "marginAsset": spec.quote,
        "pricePrecision": 8,
        "quantityPrecision": 8,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "triggerProtect": "0.0500",
        "liquidationFee": "0.012500",
        "marketTakeBound": "0.05",
        "maxMoveOrderLimit": 10_000,
        "filters": _filters(spec),
        "orderTypes": ORDER_TYPES,
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
        "permissionSets": ["GRID"],
        "defaultSelfTradePreventionMode": STP_MODE,
    }


def _filters(spec: Spec) -> list[Json]:
    """Return a contract's filters: spot's, but for those that have another shape here or are not there."""
    same = {"PRICE_FILTER", "LOT_SIZE", "MARKET_LOT_SIZE"}
    rows = [row for row in filters.describe(spec) if row["filterType"] in same]
    return [
        *rows,
        {"filterType": "MAX_NUM_ORDERS", "limit": spec.max_orders},
        {"filterType": "MAX_NUM_ALGO_ORDERS", "limit": spec.max_algo_orders},
        {"filterType": "MIN_NOTIONAL", "notional": f"{spec.min_notional:f}"},
        {
            "filterType": "PERCENT_PRICE",
            "multiplierUp": f"{spec.percent_up:f}",
            "multiplierDown": f"{spec.percent_down:f}",
            "multiplierDecimal": "4",
        },
    ]
