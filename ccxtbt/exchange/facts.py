"""What ccxt does not tell of an exchange, as data: one entry an exchange, over one default.

Every figure names where the exchange says it. A user's own `facts=` on the store wins over the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ccxtbt.errors import NotOfferedError

# What a feed may have beside prices and volume: the number of trades, the volume in quote currency, and that part of
# the volume (in base currency) in which the buyer was the taker.
EXTRA_LINES = ("trades", "quote_volume", "taker_buy_volume")


class Extra(NamedTuple):
    """Extra values of bars that are wanted, and where they lie.

    Attributes
    ----------
    names : tuple of str
        Of `EXTRA_LINES`.
    fields : tuple of int or str
        Places of time, open, high, low, close and volume in rows that have the extra values.
    places : tuple of int or str
        Those of the extra values, in the order of `names`.
    streamed : bool
        The frames that close a bar carry all of `EXTRA_LINES`; else REST is asked for each bar.
    """

    names: tuple[str, ...]
    fields: tuple[int | str, ...]
    places: tuple[int | str, ...]
    streamed: bool


@dataclass(frozen=True, slots=True)
class Extras:
    """One way in which an exchange writes bars, and the extra values in them.

    Attributes
    ----------
    kinds : tuple of str
        Markets whose bars are written so: 'spot', 'linear', 'inverse'.
    fields : tuple of int or str
        Index (rows are lists) or key (dicts) of time, open, high, low, close and volume in a row of REST. Rows in
        which these are found elsewhere are written in another way, and no extra value is read from them.
    places : mapping of str to int or str
        One of `EXTRA_LINES` to its index or key.
    streamed : bool
        As in `Extra`.
    """

    kinds: tuple[str, ...]
    fields: tuple[int | str, ...]
    places: Mapping[str, int | str]
    streamed: bool = False


@dataclass(frozen=True, slots=True)
class Trail:
    """How far an exchange trails a stop by itself, in percent; what is nearer, farther or finer is watched here.

    Attributes
    ----------
    least, most, step : str
        Of the distance.
    offered_by : str
        Flag of the exchange's own description of a market that says whether it trails; '' where ccxt's `features` say.
    params : mapping
        What ccxt wants to be told beside the distance.
    """

    least: str
    most: str
    step: str
    offered_by: str = ""
    params: Mapping[str, str] = field(default_factory=dict)


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
    trade_ids : tuple of str
        Names, in a trade of REST that stands for several, of the numbers of the first and the last of them.
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
    trails : mapping of str to Trail
        Type of market, in ccxt's word, to how its orders trail.
    order_lists : str
        Form in which it takes two orders that end each other, by its name in `exchange.orderlists`; '' where it has no
        such lists, or nobody has written down how.
    fee_coins : tuple of str
        Coins of the exchange's own that fees can be taken in, whatever is traded.
    countdowns : mapping of str to str
        Kind of market (``'spot'``, ``'linear'``, ``'inverse'``, ``''``: any) to ccxt's method that cancels all open
        orders after a time: the unified ``'cancelAllOrdersAfter'`` for an account, or one of ccxt's raw methods for a
        market, which takes ``symbol`` and ``countdownTime`` in ms.
    startup_options : mapping
        ccxt `options` that spare start-up calls a strategy does not need.
    extras : tuple of Extras
        What bars tell beside prices and volume.
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
    trade_ids: tuple[str, str] | tuple[()] = ()
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
    trails: Mapping[str, Trail] = field(default_factory=dict)
    order_lists: str = ""
    fee_coins: tuple[str, ...] = ()
    countdowns: Mapping[str, str] = field(default_factory=dict)
    startup_options: Mapping[str, Any] = field(default_factory=dict)
    extras: tuple[Extras, ...] = ()

    def find_extra(self, names: tuple[str, ...], exchange_id: str, market: Mapping[str, Any]) -> Extra | None:
        """Return where the extra values of a market's bars lie; None if none are wanted.

        Parameters
        ----------
        names : tuple of str
            Those wanted, of `EXTRA_LINES`.
        exchange_id : str
            Whose facts these are.
        market : mapping
            ccxt's market.

        Raises
        ------
        NotOfferedError
            The exchange does not give all of them with the bars of such a market.
        """
        if not names:
            return None
        kind = "spot" if not market.get("contract") else "inverse" if market.get("inverse") else "linear"
        for known in self.extras:
            if kind in known.kinds:
                break
        else:
            known = Extras((), (), {})
        missing = [name for name in names if name not in known.places]
        if missing:
            given = ", ".join(known.places) or "prices and volume alone"
            raise NotOfferedError(
                f"{exchange_id} gives no {', '.join(missing)} with the bars of {market['symbol']}, but {given}: leave "
                f"{'that line' if len(missing) == 1 else 'those lines'} out."
            )
        return Extra(names, known.fields, tuple(known.places[name] for name in names), known.streamed)


DEFAULT = Facts()

# Places in rows of bars. binance: developers.binance.com, "Kline/Candlestick Data" of spot, USD-M (the same) and
# COIN-M, where the volumes in base currency lie behind those in contracts; "Kline/Candlestick Streams": n, q, V. bybit:
# bybit-exchange.github.io, v5, "Get Kline": turnover, in quote currency where the contract is not inverse. okx:
# www.okx.com/docs-v5, "Get candlesticks": volCcyQuote; the volume that ccxt takes lies elsewhere for contracts. kraken:
# docs.kraken.com, "Get OHLC Data": count. gate: www.gate.com/docs, "Market candlesticks" of spot. kucoin:
# www.kucoin.com/docs-new, "Get Klines" of spot: turnover. htx: www.htx.com/en-us/opend, "Get Klines" of spot: vol and
# count. hyperliquid: hyperliquid.gitbook.io, "Candle snapshot": n.
_IN_ORDER = (0, 1, 2, 3, 4, 5)
_LETTERS = ("t", "o", "h", "l", "c", "v")
_OF_BINANCE = (
    Extras(("spot", "linear"), _IN_ORDER, {"trades": 8, "quote_volume": 7, "taker_buy_volume": 9}, streamed=True),
    Extras(("inverse",), (0, 1, 2, 3, 4, 7), {"trades": 8, "taker_buy_volume": 10}),
)

# REST gives Binance's aggregate trades from an id on; single trades have other numbers there, so that what the stream
# missed could not be told from what it showed.
_AGGREGATE_TRADES = {"watchTrades": {"name": "aggTrade"}, "watchTradesForSymbols": {"name": "aggTrade"}}

_BINANCE_STARTUP = {
    "fetchMargins": False,
    "fetchCurrencies": False,
    **_AGGREGATE_TRADES,
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
    trade_ids=("f", "l"),
    streams_per_request=200,
    # Of the 1,024 one is taken by the name that ccxt puts at the end of the address.
    streams_per_socket=1_000,
    stream_ends=('"e":"eventStreamTerminated"',),
    client_id_length=36,
    # "Commission FAQ": paid in BNB, with a discount, where the account is set so.
    fee_coins=("BNB",),
    startup_options=_BINANCE_STARTUP,
    extras=_OF_BINANCE,
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
    stream_ends=(),
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
        },
        extras=(
            Extras(("spot",), _IN_ORDER, {"quote_volume": 7}),
            Extras(("linear", "inverse"), (0, 1, 2, 3, 4, 6), {"quote_volume": 7}),
        ),
    ),
    "bybit": Facts(
        remaining_header="x-bapi-limit-status",
        reset_header="x-bapi-limit-reset-timestamp",
        extras=(Extras(("spot", "linear"), _IN_ORDER, {"quote_volume": 6}),),
    ),
    "kucoin": Facts(
        remaining_header="gw-ratelimit-remaining",
        reset_header="gw-ratelimit-reset",
        reset_counts_down=True,
        # "Trading fee discount": paid in KCS where the account is set so.
        fee_coins=("KCS",),
        extras=(Extras(("spot",), (0, 1, 3, 4, 2, 5), {"quote_volume": 6}),),
    ),
    "kraken": Facts(extras=(Extras(("spot",), (0, 1, 2, 3, 4, 6), {"trades": 7}),)),
    "gate": Facts(extras=(Extras(("spot",), (0, 5, 3, 4, 2, 6), {"quote_volume": 1}),)),
    "htx": Facts(
        extras=(
            Extras(
                ("spot",), ("id", "open", "high", "low", "close", "amount"), {"trades": "count", "quote_volume": "vol"}
            ),
        )
    ),
    "hyperliquid": Facts(extras=(Extras(("spot", "linear"), _LETTERS, {"trades": "n"}),)),
}


# Dead man's switches that are set again and again by who lives. binance: "Auto-Cancel All Open Orders" of the futures;
# spot has none. okx: "Cancel All After" (10 to 120 s). kraken: "Cancel All Orders After X", and its futures' "Dead
# man's switch". woo: "Cancel all after". Not here, though ccxt has its method for them: bybit (it acts when a WebSocket
# ends, and is not set again), bitvavo (for a group of orders that are sent as its members), hyperliquid (cannot be
# turned off through ccxt), bingx, whitebit (want a kind of market with each call), and those nobody here has looked up.
_COUNTDOWN = {"": "cancelAllOrdersAfter"}
_BINANCE_COUNTDOWNS = {"linear": "fapiPrivatePostCountdownCancelAll", "inverse": "dapiPrivatePostCountdownCancelAll"}
_COUNTDOWNS: Mapping[str, Mapping[str, str]] = {
    "binance": _BINANCE_COUNTDOWNS,
    "binanceusdm": _BINANCE_COUNTDOWNS,
    "binancecoinm": _BINANCE_COUNTDOWNS,
    "kraken": _COUNTDOWN,
    "krakenfutures": _COUNTDOWN,
    "myokx": _COUNTDOWN,
    "okx": _COUNTDOWN,
    "okxus": _COUNTDOWN,
    "woo": _COUNTDOWN,
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
# binance's spot (trailingDelta, in hundredths of a percent, within the filter TRAILING_DELTA) is not among ccxt's
# features, since it takes a word more; its futures' callbackRate has one decimal.
_SPOT_TRAIL = Trail("0.1", "20", "0.01", "allowTrailingStop", {"stopLossOrTakeProfit": "stopLoss"})
_BINANCE_OFFERS: Mapping[str, Any] = {
    "expiry": ("goodTillDate", "ms"),
    "expiry_least_s": 600.0,
    "trailing_params": ("trailingPercent",),
    "trails": {"spot": _SPOT_TRAIL, "swap": Trail("0.1", "10", "0.1"), "future": Trail("0.1", "10", "0.1")},
}
_OFFERS: Mapping[str, Mapping[str, Any]] = {
    "bingx": {"trailing_params": ("trailingAmount", "trailingPercent")},
    "bitget": {"trailing_params": ("trailingPercent",)},
    "coinbase": {"expiry": ("end_time", "iso")},
    "kraken": {"trailing_params": ("trailingAmount", "trailingPercent")},
    "kucoin": {"expiry": ("cancelAfter", "seconds")},
    "okx": {"trailing_params": ("trailingAmount", "trailingPercent")},
    "binance": {**_BINANCE_OFFERS, "order_lists": "binance"},
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
    offers = {**ids, **_OFFERS.get(exchange_id, {}), "countdowns": _COUNTDOWNS.get(exchange_id, {})}
    return replace(known, **offers)
