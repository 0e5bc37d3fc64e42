"""The exchanges' facts, one entry an exchange. Every figure names where the exchange says it.

What no documentation tells is not here: then the default of `Facts` holds, and what ccxt's own class says. Limits that
an exchange counts for each endpoint apart are ccxt's costs and `rateLimit`, which keep all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ccxtbt.exchange.facts import Extras, Facts, Trail

DEFAULT = Facts()

# Places in rows of bars that are lists in this order, and of those whose keys are letters.
_IN_ORDER = (0, 1, 2, 3, 4, 5)
_LETTERS = ("t", "o", "h", "l", "c", "v")

# A dead man's switch of the whole account, by ccxt's unified method. Not here, though ccxt has it for them: bybit (it
# acts when a WebSocket ends, and is not set again), bitvavo (for a group of orders that are sent as its members),
# hyperliquid (cannot be turned off through ccxt), bingx, whitebit (want a kind of market with each call), and those
# nobody here has looked up.
_COUNTDOWN = {"": "cancelAllOrdersAfter"}

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
# characters of [.A-Z:/a-z0-9_-]), "Query order" (origClientOrderId), "User Data Stream" (eventStreamTerminated). ccxt
# scales spot costs by a fifth (klines: weight 2 is cost 0.4), hence `weight_per_cost`. "Kline/Candlestick Data" of
# spot, USD-M (the same) and COIN-M, where the volumes in base currency lie behind those in contracts, and
# "Kline/Candlestick Streams" (n, q, V). Spot's trailingDelta, in hundredths of a percent and within the filter
# TRAILING_DELTA, is not among ccxt's features, since it takes a word more; futures' callbackRate has one decimal.
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
    client_id_lookup=("spot", "swap", "future"),
    client_id_length=36,
    # Of futures, "New Order": goodTillDate, in whole seconds and more than 600 s ahead when it arrives, for which an
    # order may have to wait 30 s; callbackRate, in percent; "Auto-Cancel All Open Orders", a market at a time. Spot has
    # no such switch.
    expiry=("goodTillDate", "ms"),
    expiry_least_s=631.0,
    trailing_params=("trailingPercent",),
    trails={
        "spot": Trail("0.1", "20", "0.01", "allowTrailingStop", {"stopLossOrTakeProfit": "stopLoss"}),
        "swap": Trail("0.1", "10", "0.1"),
        "future": Trail("0.1", "10", "0.1"),
    },
    order_lists="binance",
    countdowns={"linear": "fapiPrivatePostCountdownCancelAll", "inverse": "dapiPrivatePostCountdownCancelAll"},
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
    extras=(
        Extras(("spot", "linear"), _IN_ORDER, {"trades": 8, "quote_volume": 7, "taker_buy_volume": 9}, streamed=True),
        Extras(("inverse",), (0, 1, 2, 3, 4, 7), {"trades": 8, "taker_buy_volume": 10}),
    ),
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
    order_lists="",
)

# bybit-exchange.github.io, v5: "Rate Limit Rules" (500 connections in 5 minutes; requests are counted for each endpoint
# and user, whose count is in the headers X-Bapi-Limit-Status and, as a time in ms, X-Bapi-Limit-Reset-Timestamp),
# "WebSocket: Connect" (10 topics in a request of spot), "Place Order" (orderLinkId: 36 characters). Its trailing stop
# belongs to a position and is no order, so that one is watched here. ccxt's fetch_order asks by the exchange's id. "Get
# Kline": turnover, in quote currency where the contract is not inverse.
_BYBIT = Facts(
    remaining_header="x-bapi-limit-status",
    reset_header="x-bapi-limit-reset-timestamp",
    streams_per_request=10,
    connects_per_s=1.6,
    client_id_length=36,
    extras=(Extras(("spot", "linear"), _IN_ORDER, {"quote_volume": 6}),),
)

# www.okx.com/docs-v5: "Candlesticks channel" (the plain words for 6 hours and more mean days of UTC+8), "WebSocket:
# Connect" (3 connections a second; 480 subscriptions an hour on each, which is why many go in one request), "Place
# order" (clOrdId: 32 letters and digits), "Place algo order" (callbackRatio, callbackSpread). Its headers tell no
# limits (error 50011 alone), so that ccxt's `rateLimit` is all there is. "Get candlesticks": volCcyQuote; the volume
# that ccxt takes lies elsewhere for contracts. "Cancel All After" (10 to 120 s).
_OKX = Facts(
    stream_timeframes={
        "6h": "6Hutc",
        "12h": "12Hutc",
        "1d": "1Dutc",
        "1w": "1Wutc",
        "1M": "1Mutc",
        "3M": "3Mutc",
    },
    client_id_lookup=("spot", "swap", "future"),
    trailing_params=("trailingAmount", "trailingPercent"),
    countdowns=_COUNTDOWN,
    extras=(
        Extras(("spot",), _IN_ORDER, {"quote_volume": 7}),
        Extras(("linear", "inverse"), (0, 1, 2, 3, 4, 6), {"quote_volume": 7}),
    ),
)

# www.kucoin.com/docs-new, "Rate Limit" (gw-ratelimit-remaining and, in ms from now, gw-ratelimit-reset), "Add Order"
# (clientOid: 40 characters; cancelAfter, in seconds), "Trading fee discount" (paid in KCS where the account is set so),
# "Get Klines" of spot (turnover), "Get Trade History" and "Trade" of spot and futures (sequence; REST has no tradeId of
# spot).
# docs.kucoin.com, "Request rate limit" of the WebSocket feed (100 messages in 10 s on a connection).
_KUCOIN = Facts(
    remaining_header="gw-ratelimit-remaining",
    reset_header="gw-ratelimit-reset",
    reset_counts_down=True,
    socket_messages=(90, 10_000),
    trade_id="sequence",
    client_id_lookup=("spot", "swap", "future"),
    client_id_length=40,
    expiry=("cancelAfter", "seconds"),
    fee_coins=("KCS",),
    extras=(Extras(("spot",), (0, 1, 3, 4, 2, 5), {"quote_volume": 6}),),
)

# www.gate.com/docs, "Create an order" (text: t- and up to 28 characters), "Get a single order" (the text in place of
# the id), "Market candlesticks" of spot. Its WebSocket knows no limits (github.com/gateio/gatews, issue 25).
_GATE = Facts(
    client_id_lookup=("spot", "swap", "future"),
    client_id_prefix="t-",
    client_id_length=28,
    extras=(Extras(("spot",), (0, 5, 3, 4, 2, 6), {"quote_volume": 1}),),
)

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
    "binanceus": replace(
        _BINANCE,
        rest_windows=((1_200, 60_000),),
        weight_per_cost=1.0,
        costs={},
        expiry=(),
        expiry_least_s=0.0,
        trailing_params=(),
        trails={},
        order_lists="",
        countdowns={},
    ),
    "bybit": _BYBIT,
    "bybiteu": _BYBIT,
    "bybitid": _BYBIT,
    "okx": _OKX,
    "okxus": _OKX,
    "myokx": _OKX,
    # docs.kraken.com, "Add Order" (cl_ord_id: free text up to 18; trailing stops by an amount or percents). ccxt's
    # fetch_order takes a client id for a userref, which is a number. "Get OHLC Data" (count), "Cancel All Orders After
    # X".
    "kraken": Facts(
        client_id_length=18,
        trailing_params=("trailingAmount", "trailingPercent"),
        countdowns=_COUNTDOWN,
        extras=(Extras(("spot",), (0, 1, 2, 3, 4, 6), {"trades": 7}),),
    ),
    # docs.kraken.com, "Futures: Rate Limits" (100 messages a second on a connection), "Send order" (cliOrdId: 100),
    # "Dead man's switch".
    "krakenfutures": Facts(socket_messages=(90, 1_000), client_id_length=100, countdowns=_COUNTDOWN),
    # docs.cdp.coinbase.com, "Advanced Trade WebSocket Rate Limits" (8 connections and 8 messages a second of an
    # address, all its connections together: 4 on each leave room for two at a time), "Create Order" (client_order_id;
    # end_time). ccxt drops a `clientOrderId`, and no request finds an order by one.
    "coinbase": Facts(client_id_param="client_order_id", client_id_length=36, expiry=("end_time", "iso")),
    "gate": _GATE,
    "gateeu": _GATE,
    "kucoin": _KUCOIN,
    "kucoinfutures": replace(_KUCOIN, expiry=()),
    # www.bitget.com/api-doc, "Websocket API" (300 connections in 5 minutes; 10 messages a second; 240 subscriptions an
    # hour and 1,000 channels on a connection, of which no more than 50 are recommended; closed after 24 hours), "Place
    # Order" (clientOid; callbackRatio of futures), "Get Order Info" (clientOid).
    "bitget": Facts(
        socket_messages=(8, 1_000),
        streams_per_socket=50,
        connects_per_s=1.0,
        client_id_lookup=("spot", "swap", "future"),
        trailing_params=("trailingPercent",),
    ),
    # mexcdevelop.github.io/apidocs, "Websocket Market Streams" (30 subscriptions on a connection, which is closed after
    # 24 hours), "New Order" (newClientOrderId), "Query Order" (origClientOrderId). Of contracts (externalOid) ccxt's
    # fetch_order asks by the exchange's id alone. www.mexc.com/api-docs, "Trade Streams" of spot (raw trades, no id),
    # "Recent Trades List" (the same; the list that ccxt would ask for puts trades together), "Get Recent Trades" of
    # contracts (no id either).
    "mexc": Facts(
        trade_id=None,
        trades_latest=("spot",),
        streams_per_socket=30,
        client_id_lookup=("spot",),
        startup_options={"fetchTradesMethod": "spotPublicGetTrades"},
    ),
    # huobiapi.github.io/docs/spot, "Place a New Order" (client-order-id: 64 characters), "Get the Order Detail of an
    # Order (based on client order ID)". Contracts take a number alone, which ccxt leaves out. www.htx.com/en-us/opend,
    # "Get Klines" of spot: vol and count.
    "htx": Facts(
        client_id_lookup=("spot",),
        client_id_length=64,
        extras=(
            Extras(
                ("spot",), ("id", "open", "high", "low", "close", "amount"), {"trades": "count", "quote_volume": "vol"}
            ),
        ),
    ),
    # hyperliquid.gitbook.io, "Rate limits and user limits" (1,200 weight a minute of an address; a candleSnapshot
    # weighs 20 and one for 60 rows, here reckoned with 240 of them, for ccxt counts 4; 1,000 subscriptions and 2,000
    # messages a minute of all connections together, 30 new ones a minute), "Exchange endpoint" (cloid: 128 bits in
    # hex), "Query order status by oid or cloid", "Candle snapshot" (n).
    "hyperliquid": Facts(
        rest_windows=((1_200, 60_000),),
        costs={"public/info?type=candleSnapshot": 24.0},
        connects_per_s=0.5,
        client_id_lookup=("spot", "swap"),
        client_id_form="hex",
        client_id_prefix="0x",
        client_id_length=34,
        extras=(Extras(("spot", "linear"), _LETTERS, {"trades": "n"}),),
    ),
    # exchange-docs.crypto.com, "Websocket Subscriptions" (400 on a connection), "Rate Limits" (100 messages a second,
    # the first of them counted in proportion, so that the default's few are as fast), "private/create-order" and
    # "private/get-order-detail" (client_oid: 36 characters). ccxt drops a `clientOrderId`.
    "cryptocom": Facts(
        streams_per_socket=400, client_id_param="client_oid", client_id_lookup=("spot", "swap"), client_id_length=36
    ),
    # www.bitstamp.net/api, "Request limits" (400 requests a second, 10,000 in 10 minutes), "Order status"
    # (client_order_id). ccxt counts 1 for each request.
    "bitstamp": Facts(rest_windows=((400, 1_000), (10_000, 600_000)), client_id_lookup=("spot", "swap")),
    # By ccxt's source: where `fetch_order` asks by a client id alone, in the exchange's own words.
    "aster": Facts(client_id_lookup=("spot", "swap")),
    "delta": Facts(client_id_lookup=("spot", "swap")),
    "hashkey": Facts(client_id_lookup=("spot",)),
    "phemex": Facts(client_id_lookup=("spot", "swap")),
    "weex": Facts(client_id_lookup=("spot",)),
    # bingx-api.github.io, "Place order": priceRate, price.
    "bingx": Facts(trailing_params=("trailingAmount", "trailingPercent")),
    # docs.bitfinex.com, "Submit Order": cid, a number of 45 bits.
    "bitfinex": Facts(client_id_form="number"),
    # docs.bitvavo.com, "Create order" and "Get order": clientOrderId, a UUID.
    "bitvavo": Facts(client_id_lookup=("spot",), client_id_form="uuid", client_id_length=36),
    # docs.woox.io, "Place Order" and "Get Order": clientOrderId, a number; "Cancel all after".
    "woo": Facts(client_id_lookup=("spot", "swap"), client_id_form="number", countdowns=_COUNTDOWN),
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


# Types of markets whose orders ccxt sends under a word for the id that the exchange does not have.
UNNAMED = {"htx": ("swap", "future")}

# How the bars of answers that ccxt's sources quote are read: by the decoder once it has learnt their layout, or row by
# row by ccxt, which fills gaps in them, aligns their times, or computes what they hold. Others show it when they are
# first fetched.
BARS_FAST = frozenset(
    {
        "alpaca", "bigone", "binance", "bingx", "bitbank", "bitfinex", "bitso", "bitstamp", "bitteam", "bittrade",
        "bitvavo", "btcmarkets", "btse", "bullish", "bybit", "bydfi", "cex", "coinbase", "cryptocom", "deepcoin",
        "deribit", "foxbit", "grvt", "hashkey", "hibachi", "hitbtc", "hollaex", "htx", "indodax", "kraken",
        "krakenfutures", "kucoin", "lbank", "lighter", "luno", "modetrade", "mudrex", "nado", "ndax", "okx", "phemex",
        "poloniex", "polymarket", "revolutx", "tokocrypto", "upbit", "woo", "xt",
    }
)  # fmt: skip
BARS_BY_CCXT = frozenset({"bitopro", "btcturk", "coinbaseinternational", "onetrading"})


def facts_of(exchange_id: str, override: Facts | None = None) -> Facts:
    """Return the facts of an exchange: the user's own, else the table's, else the default."""
    if override is not None:
        return override
    known = TABLE.get(exchange_id, DEFAULT)
    return replace(known, client_id_param="") if exchange_id in NO_CLIENT_IDS else known
