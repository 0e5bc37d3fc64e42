"""Each exchange's reader of trades beside ccxt's own class, given the same frame."""

from __future__ import annotations

import asyncio
import json

import ccxt.pro
import pytest

from ccxtbt.exchange.exchanges import DEFAULT, TABLE
from ccxtbt.market.frames import DIALECTS, trade_of

BINANCE = {
    "e": "trade", "E": 1672515782136, "s": "BNBBTC", "t": 12345, "p": "0.00100000", "q": "100.50000000",
    "T": 1672515782135, "m": True, "M": True,
}  # fmt: skip
BINANCE_AGGREGATE = {
    "e": "aggTrade", "E": 1626992741575, "a": 16599292, "s": "CTKUSDT", "p": "1.01100", "q": "10", "f": 1, "l": 3,
    "T": 1626992741421, "m": False,
}  # fmt: skip
BYBIT = {
    "topic": "publicTrade.BTCUSDT",
    "type": "snapshot",
    "ts": 1672304486868,
    "data": [
        {"T": 1672304486865, "s": "BTCUSDT", "S": "Buy", "v": "0.001", "p": "16578.50", "L": "PlusTick",
         "i": "20f43950-d8dd-5b31-9112-a178eb6023af", "BT": False},
        {"T": 1672304486866, "s": "BTCUSDT", "S": "Sell", "v": "0.5", "p": "16578.00", "L": "MinusTick",
         "i": "20f43950-d8dd-5b31-9112-a178eb6023b0", "BT": False},
    ],
}  # fmt: skip
OKX = {
    "arg": {"channel": "trades", "instId": "BTC-USDT"},
    "data": [
        {"instId": "BTC-USDT", "tradeId": "130639474", "px": "42219.9", "sz": "0.12060306", "side": "buy",
         "ts": "1630048897897", "count": "3"},
    ],
}  # fmt: skip
KRAKEN = {
    "channel": "trade",
    "type": "update",
    "data": [
        {"symbol": "MATIC/USD", "side": "sell", "price": 0.5117, "qty": 40.0, "ord_type": "market",
         "trade_id": 4665846, "timestamp": "2023-09-25T07:48:36.925533Z"},
        {"symbol": "MATIC/USD", "side": "buy", "price": 0.5118, "qty": 1.5, "ord_type": "limit",
         "trade_id": 4665847, "timestamp": "2023-09-25T07:49:37Z"},
    ],
}  # fmt: skip
COINBASE = {
    "channel": "market_trades",
    "client_id": "",
    "timestamp": "2023-02-09T20:19:35.39625135Z",
    "sequence_num": 0,
    "events": [
        {
            "type": "snapshot",
            "trades": [
                {"trade_id": "478", "product_id": "ETH-USD", "price": "1260.02", "size": "0.3", "side": "BUY",
                 "time": "2019-08-14T20:42:27.265000Z"},
                {"trade_id": "477", "product_id": "ETH-USD", "price": "1260.01", "size": "0.2", "side": "SELL",
                 "time": "2019-08-14T20:42:27.265Z"},
                {"trade_id": "476", "product_id": "ETH-USD", "price": "1260", "size": "1", "side": "SELL",
                 "time": "2019-08-14T20:42:26Z"},
            ],
        }
    ],
}  # fmt: skip
GATE = {
    "time": 1606292218,
    "time_ms": 1606292218231,
    "channel": "spot.trades",
    "event": "update",
    "result": {
        "id": 309143071, "create_time": 1606292218, "create_time_ms": "1606292218213.4578", "side": "sell",
        "currency_pair": "GT_USDT", "amount": "16.4700000000", "price": "0.4705000000",
    },
}  # fmt: skip
GATE_FUTURES = {
    "channel": "futures.trades",
    "event": "update",
    "time": 1541503698,
    "time_ms": 1541503698123,
    "result": [
        {"size": -108, "id": 27753479, "create_time": 1545136464, "create_time_ms": 1545136464123,
         "price": "96.4", "contract": "BTC_USD"},
        {"size": 7, "id": 27753480, "create_time": 1545136464, "create_time_ms": 1545136464124,
         "price": "96.5", "contract": "BTC_USD"},
    ],
}  # fmt: skip
KUCOIN = {
    "topic": "/market/match:BTC-USDT",
    "type": "message",
    "subject": "trade.l3match",
    "data": {
        "makerOrderId": "671b5007389355000701b1d3", "price": "67523", "sequence": "11067996711960577", "side": "buy",
        "size": "0.003", "symbol": "BTC-USDT", "takerOrderId": "671b50161777ff00074c168d",
        "time": "1729843222921000000", "tradeId": "11067996711960577", "type": "match",
    },
}  # fmt: skip
KUCOIN_FUTURES = {
    "topic": "/contractMarket/execution:XBTUSDTM",
    "type": "message",
    "subject": "match",
    "sn": 1794100537695,
    "data": {
        "symbol": "XBTUSDTM", "sequence": 1794100537695, "side": "buy", "size": 2, "price": "90503.9",
        "takerOrderId": "247822202957807616", "makerOrderId": "247822167163555840", "tradeId": "1794100537695",
        "ts": 1731898619520000000,
    },
}  # fmt: skip
BITGET = {
    "action": "snapshot",
    "arg": {"instType": "SPOT", "channel": "trade", "instId": "BTCUSDT"},
    "data": [
        {"ts": "1695709835822", "price": "26293.4", "size": "0.0013", "side": "buy", "tradeId": "1000000000"},
        {"ts": "1695709835821", "price": "26293.5", "size": "0.1", "side": "sell", "tradeId": "999999999"},
    ],
    "ts": 1695711090682,
}  # fmt: skip
MEXC = {
    "symbol": "BTC_USDT",
    "data": [
        {"p": 114350.4, "v": 4, "T": 2, "O": 3, "M": 2, "t": 1760368563597},
        {"p": 114350.5, "v": 1, "T": 1, "O": 3, "M": 1, "t": 1760368563598},
    ],
    "channel": "push.deal",
    "ts": 1760368563597,
}  # fmt: skip
HTX = {
    "ch": "market.btcusdt.trade.detail",
    "ts": 1630994963175,
    "tick": {
        "id": 137005445109,
        "ts": 1630994963173,
        "data": [
            {"id": 137005445109359286410323766, "ts": 1630994963173, "tradeId": 102523573486, "amount": 0.006754,
             "price": 52648.62, "direction": "buy"},
        ],
    },
}  # fmt: skip
HTX_SWAP = {
    "ch": "market.BTC-USDT.trade.detail",
    "ts": 1603708208346,
    "tick": {
        "id": 131602265,
        "ts": 1603708208335,
        "data": [
            {"id": 1316022650000, "ts": 1603708208335, "amount": 2, "quantity": 0.002, "trade_turnover": 26.3,
             "price": 13073.3, "direction": "sell"},
        ],
    },
}  # fmt: skip
HYPERLIQUID = {
    "channel": "trades",
    "data": [
        {"coin": "BTC", "side": "A", "px": "68517.0", "sz": "0.005", "time": 1710125266669,
         "hash": "0xc872699f116e012186620407fc08a802015e0097c5cce74710697f7272e6e959", "tid": 981894269203506},
        {"coin": "BTC", "side": "B", "px": "68518.0", "sz": "1.25", "time": 1710125266670,
         "hash": "0xc872699f116e012186620407fc08a802015e0097c5cce74710697f7272e6e95a", "tid": 12},
    ],
}  # fmt: skip
CRYPTOCOM = {
    "id": -1,
    "method": "subscribe",
    "code": 0,
    "result": {
        "instrument_name": "BTC_USDT",
        "subscription": "trade.BTC_USDT",
        "channel": "trade",
        "data": [
            {"d": "2030407068", "t": 1613581138462, "tn": "1613581138462000000", "p": "51327.5", "q": "0.0001",
             "s": "SELL", "i": "BTC_USDT"},
        ],
    },
}  # fmt: skip

SPOT = {"spot": True, "type": "spot"}
SWAP = {"swap": True, "type": "swap", "contract": True, "linear": True}
CASES = [
    ("binance", BINANCE, {"id": "BNBBTC", "symbol": "BNB/BTC", **SPOT}),
    ("binance", {"stream": "bnbbtc@trade", "data": BINANCE}, {"id": "BNBBTC", "symbol": "BNB/BTC", **SPOT}),
    ("binance", BINANCE_AGGREGATE, {"id": "CTKUSDT", "symbol": "CTK/USDT", **SPOT}),
    ("bybit", BYBIT, {"id": "BTCUSDT", "symbol": "BTC/USDT", **SPOT}),
    ("okx", OKX, {"id": "BTC-USDT", "symbol": "BTC/USDT", **SPOT}),
    ("kraken", KRAKEN, {"id": "MATICUSD", "symbol": "MATIC/USD", **SPOT}),
    ("coinbase", COINBASE, {"id": "ETH-USD", "symbol": "ETH/USD", **SPOT}),
    ("gate", GATE, {"id": "GT_USDT", "symbol": "GT/USDT", **SPOT}),
    ("gate", GATE_FUTURES, {"id": "BTC_USD", "symbol": "BTC/USD:BTC", **SWAP}),
    ("kucoin", KUCOIN, {"id": "BTC-USDT", "symbol": "BTC/USDT", **SPOT}),
    ("kucoin", KUCOIN_FUTURES, {"id": "XBTUSDTM", "symbol": "BTC/USDT:USDT", **SWAP}),
    ("bitget", BITGET, {"id": "BTCUSDT", "symbol": "BTC/USDT", **SPOT}),
    ("mexc", MEXC, {"id": "BTC_USDT", "symbol": "BTC/USDT:USDT", **SWAP}),
    ("htx", HTX, {"id": "btcusdt", "symbol": "BTC/USDT", **SPOT}),
    ("htx", HTX_SWAP, {"id": "BTC-USDT", "symbol": "BTC/USDT:USDT", **SWAP}),
    ("hyperliquid", HYPERLIQUID, {"id": "0", "baseName": "BTC", "symbol": "BTC/USDC:USDC", **SWAP}),
    ("cryptocom", CRYPTOCOM, {"id": "BTC_USDT", "symbol": "BTC/USDT", **SPOT}),
]
# Exchanges of which ccxt has no id of the exchange's own: mexc tells none, and that of htx is too long for a number.
MADE_UP = {"mexc", "htx"}


async def trades_of_ccxt(exchange_id, text, market):
    """What ccxt's own class keeps of a frame, as it came from the socket."""
    exchange = getattr(ccxt.pro, exchange_id)()
    exchange.set_markets([exchange.safe_market_structure({"base": "BTC", "quote": "USDT", "active": True, **market})])
    try:
        client = exchange.client("wss://localhost/stream/spot")
        client.handle_text_or_binary_message(text)
        return [trade for trades in exchange.trades.values() for trade in trades]
    finally:
        await exchange.close()


@pytest.mark.parametrize(("exchange_id", "message", "market"), CASES)
def test_a_frame_is_read_as_ccxt_reads_it(exchange_id, message, market):
    text = json.dumps(message, separators=(",", ":"))
    dialect = DIALECTS[exchange_id]
    expected = asyncio.run(trades_of_ccxt(exchange_id, text, market))
    assert expected
    read = dialect.trades(text)
    assert read == dialect.trades(text.encode())
    exchange = getattr(ccxt.pro, exchange_id)()
    exchange.markets = {market["symbol"]: exchange.safe_market_structure(market)}
    assert list(read) == [dialect.trades_key(exchange, market["symbol"])]
    (trades,) = read.values()
    assert [trade[1:5] for trade in trades] == [
        (each["timestamp"], each["price"], each["amount"], each["side"]) for each in expected
    ]
    if exchange_id not in MADE_UP:
        assert [trade.id for trade in trades] == [each["id"] for each in expected]


def test_ids_that_ccxt_makes_up_or_rounds():
    assert [trade.id for trade in DIALECTS["mexc"].trades(json.dumps(MEXC))["BTC_USDT"]] == ["", ""]
    assert DIALECTS["htx"].trades(json.dumps(HTX))["btcusdt"][0].id == "102523573486"
    assert DIALECTS["htx"].trades(json.dumps(HTX_SWAP))["BTC-USDT"][0].id == "1316022650000"


def test_trades_that_the_exchange_puts_together_are_counted():
    # The second holds what the compiled reader leaves to a parser.
    for exchange_id, message in (
        ("binance", BINANCE_AGGREGATE),
        ("binance", BINANCE_AGGREGATE | {"x": {}}),
        ("okx", OKX),
    ):
        (trades,) = DIALECTS[exchange_id].trades(json.dumps(message, separators=(",", ":"))).values()
        assert [trade.parts for trade in trades] == [3]
        # Binance numbers what it has put together by itself, also in REST.
        assert [trade.numbers for trade in trades] == [3 if exchange_id == "okx" else 1]
    (trades,) = DIALECTS["binance"].trades(json.dumps(BINANCE_AGGREGATE, separators=(",", ":"))).values()
    row = ccxt.pro.binance().parse_trade(BINANCE_AGGREGATE)
    assert trade_of(row, TABLE["binance"]) == trades[0]
    assert trade_of(row, DEFAULT).parts == 1


def test_trades_are_told_oldest_first():
    (trades,) = DIALECTS["coinbase"].trades(json.dumps(COINBASE)).values()
    assert [trade.id for trade in trades] == ["476", "477", "478"]


def test_what_was_no_trade_of_binance_is_none():
    event = BINANCE | {"p": "0", "q": "0", "X": "NA"}
    assert DIALECTS["binance"].trades(json.dumps(event, separators=(",", ":"))) == {}


def test_coinbase_tells_a_market_in_usdc_as_that_in_usd():
    exchange = ccxt.pro.coinbase()
    exchange.markets = {"BTC/USD": {}, "BTC/USDC": {}, "EUR/USDC": {}}
    dialect = DIALECTS["coinbase"]
    assert dialect.book(exchange, "BTC/USDC") == "BTC/USD"
    assert dialect.book(exchange, "EUR/USDC") == "EUR/USDC"
    assert dialect.book(exchange, "BTC/USD") == "BTC/USD"


@pytest.mark.parametrize("exchange_id", DIALECTS)
@pytest.mark.parametrize(
    "frame",
    [
        "pong",
        "",
        '{"result":null,"id":1}',
        '{"event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT"}}',
        '{"event":"subscribe","arg":{"channel":"trade","instId":"BTC-USDT"}}',
        '{"channel":"spot.trades","event":"subscribe","result":{"status":"success"}}',
        '{"subbed":"market.btcusdt.trade.detail","status":"ok"}',
        '{"topic":"kline.5.BTCUSDT","data":[]}',
        '{"channel":"trade","type":"heartbeat"}',
        '{"method":"subscribe","result":{"channel":"trade","symbol":"BTC/USD"},"success":true}',
        '{"id":1,"method":"subscribe","code":0,"channel":"trade.BTC_USDT"}',
        '{"id":"x","type":"ack","topic":"/market/match:BTC-USDT"}',
        '{"channel":"subscriptions","events":[{"subscriptions":{"market_trades":["ETH-USD"]}}]}',
        '{"channel":"rs.sub.deal","data":"success","ts":1}',
        '{"channel":"subscriptionResponse","data":{"subscription":{"type":"trades","coin":"BTC"}}}',
        '{"e":"kline","E":1,"s":"BTCUSDT","k":{}}',
    ],
)
def test_a_frame_of_another_kind_has_no_trades(exchange_id, frame):
    assert not DIALECTS[exchange_id].trades(frame)
    assert not DIALECTS[exchange_id].trades(frame.encode())
