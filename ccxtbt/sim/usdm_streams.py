"""The market streams of Binance's USD-M futures: spot's, with the mark price and events that say more."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ccxtbt.sim.binance_json import Json, book_ticker_event
from ccxtbt.sim.binance_streams import DepthDiff, MarketStreams, Timed
from ccxtbt.sim.events import BookTickerEvent

if TYPE_CHECKING:
    from ccxtbt.sim.matching import Exchange
    from ccxtbt.sim.usdm_market import UsdmMarketData

_MARK = re.compile(r"^markPrice(@1s)?$")
_ALL_MARKS = re.compile(r"^!markPrice@arr(@1s)?$")


class UsdmStreams(MarketStreams):
    """Subscriptions of all connections to market streams; see `MarketStreams`."""

    _market_data: UsdmMarketData

    def _make_timed(self, stream: str) -> Timed | None:
        every = _ALL_MARKS.match(stream)
        if every:
            return _Marks(self._market_data, list(self._exchange.markets), 1000 if every[1] else 3000)
        at = stream.find("@") + 1
        symbol, mark = self._symbol.get(stream[:at]), _MARK.match(stream[at:])
        if symbol is not None and mark:
            return _Mark(self._market_data, symbol, 1000 if mark[1] else 3000)
        return super()._make_timed(stream)

    def _make_diff(self, symbol: str, period_ms: int) -> DepthDiff:
        return _UsdmDepthDiff(self._exchange, symbol, period_ms)

    def _book_ticker(self, event: BookTickerEvent, now_ms: int) -> Json:
        return {"e": "bookTicker", "E": now_ms, "T": event.ts_ms} | book_ticker_event(event)


class _Mark(Timed):
    event = "markPriceUpdate"

    def __init__(self, market_data: UsdmMarketData, symbol: str, period_ms: int) -> None:
        super().__init__(period_ms)
        self._market_data = market_data
        self._symbol = symbol

    def content(self, now_ms: int) -> Json:
        row = self._market_data.premium_of(self._symbol)
        return {
            "e": self.event,
            "E": now_ms,
            "s": self._symbol,
            "p": row["markPrice"],
            "i": row["indexPrice"],
            "P": row["estimatedSettlePrice"],
            "r": row["lastFundingRate"],
            "T": row["nextFundingTime"],
        }


class _Marks(Timed):
    event = "markPriceUpdate"

    def __init__(self, market_data: UsdmMarketData, symbols: list[str], period_ms: int) -> None:
        super().__init__(period_ms)
        self._marks = [_Mark(market_data, symbol, period_ms) for symbol in symbols]

    def content(self, now_ms: int) -> list[Json]:
        return [mark.content(now_ms) for mark in self._marks]


class _UsdmDepthDiff(DepthDiff):
    def __init__(self, exchange: Exchange, symbol: str, period_ms: int) -> None:
        super().__init__(exchange, symbol, period_ms)
        self._before = self._last_id

    def content(self, now_ms: int) -> Json | None:
        event = super().content(now_ms)
        if event is not None:
            event |= {"T": now_ms, "pu": self._before}
            self._before = event["u"]
        return event
