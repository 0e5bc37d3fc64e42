"""The wire protocol of Binance's USD-M futures over simulated perpetual contracts, behind one object."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ccxtbt.sim.binance_limits import Limits, Usage
from ccxtbt.sim.binance_rest import Api, Endpoint, public
from ccxtbt.sim.events import BookTickerEvent, KlineEvent, TradeEvent
from ccxtbt.sim.usdm_limits import LIMITS, WEIGHTS
from ccxtbt.sim.usdm_market import UsdmMarketData
from ccxtbt.sim.usdm_streams import UsdmStreams

if TYPE_CHECKING:
    from ccxtbt.sim.binance_streams import Deliver
    from ccxtbt.sim.connection import Connection
    from ccxtbt.sim.events import Event
    from ccxtbt.sim.matching import Exchange


class Usdm:
    """All of Binance's USD-M futures that a client can talk to.

    Parameters
    ----------
    exchange
        The contracts and accounts.
    deliver
        Sends a whole frame to a connection; see `MarketStreams`.
    limits
        What an address and an account may do.
    """

    def __init__(self, exchange: Exchange, deliver: Deliver, limits: Limits = LIMITS) -> None:
        self.exchange = exchange
        self.usage = Usage(limits, exchange.clock.now_ms)
        market_data = UsdmMarketData(exchange, self.usage)
        self.rest = Api(exchange, self.usage, _endpoints(market_data), WEIGHTS)
        self.streams = UsdmStreams(exchange, market_data, limits.ws_streams, deliver)

    def publish(self, events: Iterable[Event], now_ms: int) -> None:
        """Send events to whom they concern, in their order."""
        for event in events:
            if isinstance(event, (TradeEvent, KlineEvent, BookTickerEvent)):
                self.streams.publish(event, now_ms)

    def drop(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self.streams.drop(connection)


def _endpoints(market_data: UsdmMarketData) -> dict[tuple[str, str], Endpoint]:
    """Return the table of all endpoints."""
    span = ("startTime", "endTime", "limit")
    klines = ("symbol", "interval", *span)
    v1 = {
        "ping": public(market_data.ping),
        "time": public(market_data.time),
        "exchangeInfo": public(market_data.exchange_info),
        "klines": public(market_data.klines, *klines),
        "markPriceKlines": public(market_data.mark_klines, *klines),
        "trades": public(market_data.trades, "symbol", "limit"),
        "historicalTrades": public(market_data.trades, "symbol", "limit", "fromId"),
        "aggTrades": public(market_data.agg_trades, "symbol", "fromId", *span),
        "depth": public(market_data.depth, "symbol", "limit"),
        "ticker/24hr": public(market_data.ticker_24hr, "symbol"),
        "ticker/price": public(market_data.ticker_price, "symbol"),
        "ticker/bookTicker": public(market_data.ticker_book, "symbol"),
        "premiumIndex": public(market_data.premium_index, "symbol"),
        "fundingRate": public(market_data.funding_rates, "symbol", *span),
        "fundingInfo": public(market_data.funding_info),
    }
    return {("GET", f"/fapi/v1/{path}"): endpoint for path, endpoint in v1.items()} | {
        ("GET", "/fapi/v2/ticker/price"): public(market_data.ticker_price, "symbol"),
    }
