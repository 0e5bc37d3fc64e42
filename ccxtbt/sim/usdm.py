"""The wire protocol of Binance's USD-M futures over simulated perpetual contracts, behind one object."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ccxtbt.sim.binance_limits import Limits, Usage
from ccxtbt.sim.binance_rest import Api, Endpoint, public, signed
from ccxtbt.sim.events import AlgoEvent, BookTickerEvent, KlineEvent, MarginEvent, OrderEvent, TradeEvent
from ccxtbt.sim.usdm_account import UsdmAccounts
from ccxtbt.sim.usdm_algo import NEW_ALGO, UsdmAlgos
from ccxtbt.sim.usdm_limits import LIMITS, WEIGHTS
from ccxtbt.sim.usdm_market import UsdmMarketData
from ccxtbt.sim.usdm_streams import UsdmStreams
from ccxtbt.sim.usdm_trade import NEW_ORDER, TRANSLATIONS, UsdmTrading
from ccxtbt.sim.usdm_user import ListenKeys

if TYPE_CHECKING:
    from ccxtbt.sim.binance_streams import Deliver
    from ccxtbt.sim.connection import Connection
    from ccxtbt.sim.events import Event
    from ccxtbt.sim.orders import Reject
    from ccxtbt.sim.perpetuals import Perpetuals


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

    def __init__(self, exchange: Perpetuals, deliver: Deliver, limits: Limits = LIMITS) -> None:
        self.exchange = exchange
        self.usage = Usage(limits, exchange.clock.now_ms)
        self.market_data = UsdmMarketData(exchange, self.usage)
        self.users = ListenKeys(deliver)
        endpoints = _public(self.market_data) | _signed(
            UsdmTrading(exchange, self.usage), UsdmAccounts(exchange), self.users
        )
        endpoints |= _conditional(UsdmAlgos(exchange, self.usage))
        self.rest = UsdmRest(exchange, self.usage, endpoints, WEIGHTS)
        self.streams = UsdmStreams(exchange, self.market_data, limits.ws_streams, deliver)

    def publish(self, events: Iterable[Event], now_ms: int) -> None:
        """Send events to whom they concern, in their order."""
        for event in events:
            if isinstance(event, (TradeEvent, KlineEvent, BookTickerEvent)):
                self.streams.publish(event, now_ms)
            elif isinstance(event, (OrderEvent, AlgoEvent, MarginEvent)):
                self.users.publish(event, now_ms)

    def drop(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self.streams.drop(connection)
        self.users.drop(connection)


class UsdmRest(Api):
    """The REST API of the futures exchange: it has words of its own for what is refused."""

    def _translate(self, reject: Reject) -> tuple[int, str]:
        return TRANSLATIONS.get(reject.message, (reject.code, reject.message))


def _public(market_data: UsdmMarketData) -> dict[tuple[str, str], Endpoint]:
    """Return the table of the endpoints that need no key."""
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


def _signed(trading: UsdmTrading, accounts: UsdmAccounts, keys: ListenKeys) -> dict[tuple[str, str], Endpoint]:
    """Return the table of the endpoints that need a key, and most of them a signature."""
    span, one = ("startTime", "endTime", "limit"), ("symbol", "orderId", "origClientOrderId")
    v1 = {
        ("POST", "order"): Endpoint(None, trading.place, NEW_ORDER),
        ("GET", "order"): signed(trading.query, *one),
        ("GET", "openOrder"): signed(trading.query_open, *one),
        ("DELETE", "order"): signed(trading.cancel, *one),
        ("DELETE", "allOpenOrders"): signed(trading.cancel_all, "symbol"),
        ("POST", "countdownCancelAll"): signed(trading.count_down, "symbol", "countdownTime"),
        ("GET", "openOrders"): signed(trading.open_orders, "symbol"),
        ("GET", "allOrders"): signed(trading.all_orders, "symbol", "orderId", *span),
        ("GET", "userTrades"): signed(trading.user_trades, "symbol", "orderId", "fromId", *span),
        ("POST", "leverage"): signed(accounts.set_leverage, "symbol", "leverage"),
        ("POST", "marginType"): signed(accounts.set_margin_type, "symbol", "marginType"),
        ("GET", "positionSide/dual"): signed(accounts.position_mode),
        ("POST", "positionSide/dual"): signed(accounts.set_position_mode, "dualSidePosition"),
        ("GET", "symbolConfig"): signed(accounts.symbol_config, "symbol"),
        ("GET", "leverageBracket"): signed(accounts.brackets, "symbol"),
        ("GET", "commissionRate"): signed(accounts.commission_rate, "symbol"),
        ("GET", "income"): signed(accounts.income, "symbol", "incomeType", "page", *span),
        ("POST", "listenKey"): Endpoint(None, keys.make, frozenset(), has_signature=False),
        ("PUT", "listenKey"): Endpoint(None, keys.keep, frozenset({"listenKey"}), has_signature=False),
        ("DELETE", "listenKey"): Endpoint(None, keys.close, frozenset({"listenKey"}), has_signature=False),
    }
    later = {
        ("GET", f"/fapi/{version}/{path}"): signed(handler)
        for path, handler in (("account", accounts.account), ("balance", accounts.balance))
        for version in ("v2", "v3")
    }
    return (
        {(method, f"/fapi/v1/{path}"): endpoint for (method, path), endpoint in v1.items()}
        | later
        | {
            ("GET", "/fapi/v2/positionRisk"): signed(accounts.risk_v2, "symbol"),
            ("GET", "/fapi/v3/positionRisk"): signed(accounts.risk, "symbol"),
        }
    )


def _conditional(algos: UsdmAlgos) -> dict[tuple[str, str], Endpoint]:
    """Return the table of the endpoints for conditional orders."""
    one = ("symbol", "algoId", "clientAlgoId")
    v1 = {
        ("POST", "algoOrder"): Endpoint(None, algos.place, NEW_ALGO),
        ("GET", "algoOrder"): signed(algos.query, *one),
        ("DELETE", "algoOrder"): signed(algos.cancel, *one),
        ("DELETE", "algoOpenOrders"): signed(algos.cancel_all, "symbol"),
        ("GET", "openAlgoOrders"): signed(algos.open_algos, "symbol", "algoType", "algoId"),
        ("GET", "allAlgoOrders"): signed(algos.all_algos, "symbol", "algoId", "startTime", "endTime", "limit"),
    }
    return {(method, f"/fapi/v1/{path}"): endpoint for (method, path), endpoint in v1.items()}
