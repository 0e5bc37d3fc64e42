"""What ccxt does not tell of an exchange, as data: one entry an exchange, over one default.

Every figure names where the exchange says it. A user's own `facts=` on the store wins over the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts of one exchange.

    Attributes
    ----------
    rest_windows : tuple of (int, int)
        Request-weight limits as (weight, window in ms); empty: ccxt's own `rateLimit` is all that is known.
    weight_per_cost : float
        Exchange weight of one unit of ccxt's `cost`.
    costs : mapping of str to float
        ccxt's cost of endpoints, as ``'public/trades'``, where its own table is out of date.
    used_weight_header : str
        Response header, in small letters, that tells the weight used in the first window; '' where there is none.
    order_windows : tuple of (int, int)
        Limits on new orders of a key as (orders, window in ms).
    order_count_headers : tuple of (str, int)
        Response headers, in small letters, that tell the orders counted in a window of so many ms.
    remaining_header, reset_header : str
        Response headers, in small letters, that tell how many requests are left, and when there will be more, in ms.
    reset_counts_down : bool
        The reset is told as the ms until then, not as a time.
    limits_path : str
        End of the address whose answer tells the limits, in Binance's form; '' where there is none.
    safety : float
        Share of each limit on requests that is left unused: for what others use on the same address.
    socket_messages : tuple of (int, int) or ()
        Messages that may be sent on one WebSocket connection as (messages, window in ms); (): no limit is known.
    page_limit : int
        Most OHLCV rows in one answer; 0: what ccxt says, and what pages show.
    history_requests : int
        Most requests for history under way at once, for all markets together. Each has a connection of its own;
        ccxt's session opens 100 at most, and the rest is for live data and orders.
    trades_from_param : str
        Name of the parameter of ccxt's ``fetch_trades`` that says from which id on; '' where only a time can be given.
    streams_per_request : int
        Most subscriptions in one subscribe message.
    streams_per_socket : int
        Most subscriptions on one connection.
    connects_per_s : float
        Most new connections a second, for all shards together.
    socket_age_s : float
        When a connection is replaced, before the exchange ends it.
    ping_s : float
        Longest time between two pings; a connection that says nothing for two and a half of them is dead.
    stream_ends : tuple of str
        What stands in a frame that ends the account's stream while the connection goes on.
    stream_timeframes : mapping
        ccxt's timeframe to the word that the stream has for the same bars, where ccxt's own table means other ones.
    client_id_param : str
        Name of the ccxt parameter that carries the client order id; '' where the exchange has none.
    client_id_form : str
        What client order ids are made of: ``'text'`` (small letters and digits, which every exchange with texts takes),
        ``'uuid'``, ``'hex'`` (128 bits) or ``'number'`` (below 2 ** 45).
    client_id_prefix : str
        What they must begin with.
    client_id_length : int
        Longest client order id, in characters, with its prefix.
    expiry : tuple of (str, str) or ()
        ccxt's parameter that ends an order at a time, beside ``timeInForce='GTD'``, and its unit: ``'ms'`` or ``'iso'``
        (a time), ``'seconds'`` (from now); (): nobody knows how.
    expiry_least_s : float
        An order must be good for longer than this.
    trailing_params : tuple of str
        Which of ccxt's ``trailingAmount`` (in quote) and ``trailingPercent`` it takes.
    wallet_rows : tuple of (str, str, str) or ()
        Where the raw balance of an account of contracts tells its wallets without open profit: the list, and in it the
        currency and the amount; (): nobody knows.
    forced : tuple of (str, str)
        How the client ids of orders begin that the exchange itself makes in contracts, and what they are.
    fee_coins : tuple of str
        Coins of the exchange's own that fees can be taken in, whatever is traded.
    startup_options : mapping
        ccxt `options` that spare start-up calls a strategy does not need.
    """

    rest_windows: tuple[tuple[int, int], ...] = ()
    weight_per_cost: float = 1.0
    costs: Mapping[str, float] = field(default_factory=dict)
    used_weight_header: str = ""
    order_windows: tuple[tuple[int, int], ...] = ()
    order_count_headers: tuple[tuple[str, int], ...] = ()
    remaining_header: str = ""
    reset_header: str = ""
    reset_counts_down: bool = False
    limits_path: str = ""
    safety: float = 0.005
    socket_messages: tuple[int, int] | tuple[()] = (4, 1_000)
    page_limit: int = 0
    history_requests: int = 25
    trades_from_param: str = ""
    streams_per_request: int = 20
    streams_per_socket: int = 100
    connects_per_s: float = 2.0
    socket_age_s: float = 82_800.0
    ping_s: float = 10.0
    stream_ends: tuple[str, ...] = ()
    stream_timeframes: Mapping[str, str] = field(default_factory=dict)
    client_id_param: str = "clientOrderId"
    client_id_form: str = "text"
    client_id_prefix: str = ""
    client_id_length: int = 32
    expiry: tuple[str, str] | tuple[()] = ()
    expiry_least_s: float = 0.0
    trailing_params: tuple[str, ...] = ()
    wallet_rows: tuple[str, str, str] | tuple[()] = ()
    forced: tuple[tuple[str, str], ...] = ()
    fee_coins: tuple[str, ...] = ()
    startup_options: Mapping[str, Any] = field(default_factory=dict)


DEFAULT = Facts()

# REST gives Binance's aggregate trades from an id on; single trades have other numbers there, so that what the stream
# missed could not be told from what it showed.
_AGGREGATE_TRADES = {"watchTrades": {"name": "aggTrade"}, "watchTradesForSymbols": {"name": "aggTrade"}}

_BINANCE_STARTUP = {
    "fetchMargins": False,
    "fetchCurrencies": False,
    **_AGGREGATE_TRADES,
    # Positions are asked for when a run begins.
    "watchPositions": {"fetchPositionsSnapshot": False, "awaitPositionsSnapshot": False},
    # ccxt spreads messages over numbered addresses of 200 streams; here a shard is one socket, whatever it has.
    "streamLimits": {"spot": 1, "linear": 1, "inverse": 1},
    "subscriptionLimitByStream": dict.fromkeys(("spot", "linear", "inverse"), 1_000_000_000),
}

# developers.binance.com, "Spot API": Limits (6,000 weight a minute, 100 orders in 10 s, 200,000 a day), "Klines" (limit
# 1,000), "WebSocket Streams" (1,024 streams a connection, 5 messages a second), "New order" (newClientOrderId up to 36
# characters of [.A-Z:/a-z0-9_-]), "User Data Stream" (eventStreamTerminated). ccxt scales spot costs by a fifth
# (klines: weight 2 is cost 0.4), hence `weight_per_cost`.
_BINANCE = Facts(
    rest_windows=((6_000, 60_000),),
    weight_per_cost=5.0,
    costs={"public/trades": 5.0, "public/historicalTrades": 5.0, "public/aggTrades": 0.8},
    used_weight_header="x-mbx-used-weight-1m",
    order_windows=((100, 10_000), (200_000, 86_400_000)),
    order_count_headers=(("x-mbx-order-count-10s", 10_000), ("x-mbx-order-count-1d", 86_400_000)),
    limits_path="/api/v3/exchangeInfo",
    # Of the 5 in a second some room is left for pongs, which pass unpaced.
    socket_messages=(4, 1_000),
    page_limit=1_000,
    trades_from_param="fromId",
    streams_per_request=200,
    # Of the 1,024 one is taken by the name that ccxt puts at the end of the address.
    streams_per_socket=1_000,
    stream_ends=('"e":"eventStreamTerminated"',),
    client_id_length=36,
    # "USDS-Margined Futures": "Account Information V3" and "Event: Order Update" (special client order ids).
    wallet_rows=("assets", "asset", "walletBalance"),
    forced=(
        ("autoclose-", "a liquidation"),
        ("adl_autoclose", "an auto-deleveraging"),
        ("settlement_autoclose-", "a settlement"),
    ),
    # "Commission FAQ": paid in BNB, with a discount, where the account is set so.
    fee_coins=("BNB",),
    startup_options=_BINANCE_STARTUP,
)

# developers.binance.com, "USDS-Margined Futures": General Info and its exchangeInfo (2,400 weight a minute, 300 orders
# in 10 s, 1,200 a minute), "Kline/Candlestick Data" (limit 1,500), "Websocket Market Streams" (10 messages a second;
# 1,024 streams a connection today, 200 before: the smaller holds for both). ccxt's costs are Binance's weights here.
_BINANCE_USDM = replace(
    _BINANCE,
    rest_windows=((2_400, 60_000),),
    weight_per_cost=1.0,
    costs={},
    order_windows=((300, 10_000), (1_200, 60_000)),
    order_count_headers=(("x-mbx-order-count-10s", 10_000), ("x-mbx-order-count-1m", 60_000)),
    limits_path="/fapi/v1/exchangeInfo",
    socket_messages=(8, 1_000),
    page_limit=1_500,
    streams_per_request=100,
    streams_per_socket=190,
    # "User Data Streams": the key in the address is good for an hour after its last renewal.
    stream_ends=('"e":"listenKeyExpired"',),
)

# bybit: bybit-exchange.github.io, "Rate Limit Rules": the headers X-Bapi-Limit-Status and, as a time in ms,
# X-Bapi-Limit-Reset-Timestamp. kucoin: "Rate Limit": gw-ratelimit-remaining and, in ms from now, gw-ratelimit-reset.
# okx tells nothing in its headers (error 50011 alone), so that there ccxt's `rateLimit` is all there is.
TABLE: Mapping[str, Facts] = {
    "binance": _BINANCE,
    "binanceusdm": _BINANCE_USDM,
    # "COIN-Margined Futures": the same, but no limit on orders in 10 s.
    "binancecoinm": replace(
        _BINANCE_USDM,
        order_windows=((1_200, 60_000),),
        order_count_headers=(("x-mbx-order-count-1m", 60_000),),
        limits_path="/dapi/v1/exchangeInfo",
    ),
    # 1,200 weight a minute by ccxt's source, in its costs as they are; exchangeInfo tells the limits that hold.
    "binanceus": replace(_BINANCE, rest_windows=((1_200, 60_000),), weight_per_cost=1.0, costs={}),
    # okx: www.okx.com/docs-v5, "Candlesticks channel": the plain words for 6 hours and more mean days of UTC+8.
    "okx": Facts(
        stream_timeframes={
            "6h": "6Hutc",
            "12h": "12Hutc",
            "1d": "1Dutc",
            "1w": "1Wutc",
            "1M": "1Mutc",
            "3M": "3Mutc",
        }
    ),
    "bybit": Facts(remaining_header="x-bapi-limit-status", reset_header="x-bapi-limit-reset-timestamp"),
    "kucoin": Facts(
        remaining_header="gw-ratelimit-remaining",
        reset_header="gw-ratelimit-reset",
        reset_counts_down=True,
        # "Trading fee discount": paid in KCS where the account is set so.
        fee_coins=("KCS",),
    ),
}


# Client order ids where they are no free text of 32 characters, as ccxt 4.5 sends them and the exchange documents them:
# gate ("text": t- and up to 28), kraken (cl_ord_id: free text up to 18), okx (clOrdId: 32 letters and digits), bybit
# (orderLinkId: 36), kucoin (clientOid: 40), bitvavo (clientOrderId: a UUID), hyperliquid (cloid: 128 bits in hex),
# bitfinex (cid: a number of 45 bits), woo (clientOrderId: a number). htx takes text on spot only.
_CLIENT_IDS: Mapping[str, Mapping[str, Any]] = {
    "bitfinex": {"client_id_form": "number"},
    "bitvavo": {"client_id_form": "uuid", "client_id_length": 36},
    "bybit": {"client_id_length": 36},
    "gate": {"client_id_prefix": "t-", "client_id_length": 28},
    "gateeu": {"client_id_prefix": "t-", "client_id_length": 28},
    "hyperliquid": {"client_id_form": "hex", "client_id_prefix": "0x", "client_id_length": 34},
    "kraken": {"client_id_length": 18},
    "kucoin": {"client_id_length": 40},
    "woo": {"client_id_form": "number"},
}

# Exchanges to which ccxt 4.5 sends no client id of its unified name. What is promised there: an order is sent once like
# anywhere, and from its answer on the exchange's id serves. What is not: where that answer is lost, no look-up can tell
# the order from another one of the same size. It is never sent again, the doubt is told, and the order stays open and
# in doubt until the user has looked at the account.
NO_CLIENT_IDS = frozenset(
    {
        "bequant", "bit2c", "bitbank", "bitbns", "bitflyer", "bitopro", "bitso", "bitteam", "blofin", "btcbox",
        "bullish", "coincheck", "coinmate", "coinone", "coinsph", "coinspot", "deribit", "digifinex", "fmfwio",
        "hibachi", "hitbtc", "hollaex", "independentreserve", "indodax", "luno", "mercado", "mudrex", "nado", "p2b",
        "paymium", "xt", "zaif",
    }
)  # fmt: skip


# How orders expire and trail at the exchange itself, where ccxt's `features` say that they do. binance's futures
# (goodTillDate, at least 600 s ahead; callbackRate), coinbase (end_time), kucoin (cancelAfter); okx (callbackRatio,
# callbackSpread), bitget (callbackRatio), bingx (priceRate, price), kraken. bybit's belongs to a position and is no
# order, so that there a trailing stop is watched here.
_BINANCE_OFFERS: Mapping[str, Any] = {
    "expiry": ("goodTillDate", "ms"),
    "expiry_least_s": 600.0,
    "trailing_params": ("trailingPercent",),
}
_OFFERS: Mapping[str, Mapping[str, Any]] = {
    "bingx": {"trailing_params": ("trailingAmount", "trailingPercent")},
    "bitget": {"trailing_params": ("trailingPercent",)},
    "coinbase": {"expiry": ("end_time", "iso")},
    "kraken": {"trailing_params": ("trailingAmount", "trailingPercent")},
    "kucoin": {"expiry": ("cancelAfter", "seconds")},
    "okx": {"trailing_params": ("trailingAmount", "trailingPercent")},
    "binance": _BINANCE_OFFERS,
    "binanceusdm": _BINANCE_OFFERS,
    "binancecoinm": _BINANCE_OFFERS,
}


def facts_of(exchange_id: str, override: Facts | None = None) -> Facts:
    """Return the facts of an exchange: the user's own, else the tables', else the default."""
    if override is not None:
        return override
    known = TABLE.get(exchange_id, DEFAULT)
    ids: Mapping[str, Any] = (
        {"client_id_param": ""} if exchange_id in NO_CLIENT_IDS else _CLIENT_IDS.get(exchange_id, {})
    )
    return replace(known, **{**ids, **_OFFERS.get(exchange_id, {})})
