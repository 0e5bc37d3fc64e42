"""Each exchange's reader beside ccxt's own handler of the same frame."""

from __future__ import annotations

import asyncio
import json

import ccxt.pro
import pytest

from ccxtbt.market.frames import DIALECTS

BARS = {exchange_id: dialect.bars for exchange_id, dialect in DIALECTS.items() if dialect.bars is not None}
ROW = ["1626690720000", "31334", "31336.5", "31330.1", "31335", "0.0077", "241.2718", "241.2718"]
LONG = {"open": "16649.5", "close": "16677", "high": "16678", "low": "16608", "volume": "2.081"}
SHORT = {"o": "71400.0", "c": "71411.0", "h": "71422.0", "l": "71389.0", "v": "1.20407"}
NUMBERS = {key: float(value) for key, value in SHORT.items()}


def binance(closed):
    return {
        "e": "kline",
        "E": 1579482921215,
        "s": "ETHBTC",
        "k": {"t": 1579482900000, "T": 1579482959999, "s": "ETHBTC", "i": "1m", "f": 1, "L": 2}
        | SHORT
        | {"n": 16, "x": closed, "q": "0.0972"},
    }


def bybit(*closed):
    rows = [
        {"start": 1672324800000 + i * 300_000, "interval": "5", "confirm": flag, **LONG}
        for i, flag in enumerate(closed)
    ]
    return {"topic": "kline.5.BTCUSDT", "data": rows, "ts": 1672324988882, "type": "snapshot"}


def okx(instrument, flag):
    return {"arg": {"channel": "candle1m", "instId": instrument}, "data": [[*ROW, flag]]}


def gate(channel, **more):
    row = {"t": "1606292580", "n": "1m_BTC_USDT", **SHORT, **more}
    return {"time": 1606292600, "channel": channel, "event": "update", "result": row}


KRAKEN = {
    "channel": "ohlc",
    "type": "update",
    "data": [
        {
            "symbol": "MATIC/USD",
            "open": 0.5624,
            "high": 0.5628,
            "low": 0.5622,
            "close": 0.5627,
            "trades": 12,
            "volume": 30927.68066226,
            "interval_begin": "2023-10-04T16:25:00.000000000Z",
            "interval": 5,
        }
    ],
}
CANDLES = ["1624881240", "34138.8", "34121.6", "34138.9", "34097.9", "3.06097133", "104430.95"]
KUCOIN = {
    "data": {"symbol": "BTC-USDT", "candles": CANDLES, "time": 1624881284466023700},
    "subject": "trade.candles.update",
    "topic": "/market/candles:BTC-USDT_1min",
    "type": "message",
}
KUCOIN_FUTURES = {
    "topic": "/contractMarket/limitCandle:LTCUSDTM_1min",
    "type": "message",
    "data": {"symbol": "LTCUSDTM", "candles": [*CANDLES[:5], "61.0", "6100"], "time": 1715470994801},
    "subject": "candle.stick",
}
BITGET = {
    "action": "snapshot",
    "arg": {"instType": "SPOT", "channel": "candle1H", "instId": "BTCUSDT"},
    "data": [ROW, ["1626694320000", *ROW[1:]]],
}
MEXC = {
    "channel": "push.kline",
    "data": {"a": 325653.3, "interval": "Min1", "q": 83808, "symbol": "BTC_USDT", "t": 1651230660}
    | {key: NUMBERS[key] for key in "ohlc"},
    "symbol": "BTC_USDT",
    "ts": 1651230713067,
}
HTX = {
    "ch": "market.btcusdt.kline.1min",
    "ts": 1583501786794,
    "tick": {
        "id": 1583501760,
        "open": 9094.5,
        "close": 9094.51,
        "low": 9094.4,
        "high": 9094.6,
        "amount": 0.44639786263800907,
        "vol": 4059.76919054,
        "count": 16,
    },
}
HYPERLIQUID = {"channel": "candle", "data": {"t": 1710146280000, "T": 1710146339999, "s": "BTC", "i": "1m", **SHORT}}
CRYPTOCOM = {
    "id": -1,
    "method": "subscribe",
    "code": 0,
    "result": {
        "instrument_name": "BTC_USDT",
        "subscription": "candlestick.1m.BTC_USDT",
        "channel": "candlestick",
        "interval": "1m",
        "data": [{"t": 1710146280000, **SHORT}, {"t": 1710146340000, **SHORT}],
    },
}

CASES = [
    ("binance", binance(False), [False]),
    ("binance", binance(True), [True]),
    ("binance", {"stream": "ethbtc@kline_1m", "data": binance(True)}, [True]),
    ("bybit", bybit(False), [False]),
    ("bybit", bybit(True, False), [True, False]),
    ("okx", okx("BTC-USDT", "0"), [False]),
    ("okx", okx("BTC-USDT", "1"), [True]),
    ("kraken", KRAKEN, [False]),
    ("gate", gate("futures.candlesticks", w=True), [True]),
    ("gate", gate("futures.candlesticks"), [False]),
    ("kucoin", KUCOIN, [False]),
    ("kucoin", KUCOIN_FUTURES, [False]),
    ("bitget", BITGET, [False, False]),
    ("mexc", MEXC, [False]),
    ("htx", HTX, [False]),
    ("hyperliquid", HYPERLIQUID, [False]),
    ("cryptocom", CRYPTOCOM, [False, False]),
]


async def rows_of_ccxt(exchange_id, message):
    """What ccxt's own handler keeps of a frame: its rows, by time."""
    exchange = getattr(ccxt.pro, exchange_id)()
    # Without markets ccxt takes that of mexc for spot, whose frames have no `q`, and knows no id for that of okx.
    known = [("BTC_USDT", "BTC/USDT:USDT", False), ("BTC-USDT", "BTC/USDT", True)]
    if exchange_id in {"mexc", "okx"}:
        exchange.markets_by_id = {
            name: [exchange.safe_market_structure({"id": name, "symbol": symbol, "spot": spot, "type": "spot"})]
            for name, symbol, spot in known
        }
    try:
        client = exchange.client("wss://localhost/spot")
        told = message.get("data", message) if exchange_id == "binance" else message
        exchange.handle_ohlcv(client, told["result"] if exchange_id == "cryptocom" else told)
        return [list(row) for by_time in exchange.ohlcvs.values() for rows in by_time.values() for row in rows]
    finally:
        await exchange.close()


@pytest.mark.parametrize(("exchange_id", "message", "closed"), CASES)
def test_a_frame_is_read_as_ccxt_reads_it(exchange_id, message, closed):
    text = json.dumps(message, separators=(",", ":"))
    frames = BARS[exchange_id](text)
    assert [list(frame[2:8]) for frame in frames] == asyncio.run(rows_of_ccxt(exchange_id, message))
    assert [frame.closed for frame in frames] == closed
    assert BARS[exchange_id](text.encode()) == frames


def test_volumes_that_ccxt_takes_from_another_column_than_rest_does():
    (spot,) = BARS["gate"](json.dumps(gate("spot.candlesticks", a="0.5", w=False)))
    assert spot.volume == 0.5
    (swap,) = BARS["okx"](json.dumps(okx("BTC-USDT-SWAP", "0")).replace(" ", ""))
    assert swap.volume == float(ROW[6])


@pytest.mark.parametrize("exchange_id", BARS)
@pytest.mark.parametrize(
    "frame",
    [
        "pong",
        "",
        '{"result":null,"id":1}',
        '{"event":"subscribe","arg":{"channel":"candle1m","instId":"BTC-USDT"}}',
        '{"channel":"candlestick","event":"subscribe"}',
        '{"subbed":"market.btcusdt.kline.1min","status":"ok"}',
        '{"topic":"publicTrade.BTCUSDT","data":[]}',
        '{"channel":"ohlc","type":"heartbeat"}',
        '{"id":1,"method":"subscribe","code":0,"channel":"candlestick.1m.BTC_USDT"}',
        '{"id":"x","type":"ack","topic":"/market/candles:BTC-USDT_1min"}',
    ],
)
def test_a_frame_of_another_kind_has_no_bars(exchange_id, frame):
    assert BARS[exchange_id](frame) == ()
    assert BARS[exchange_id](frame.encode()) == ()


@pytest.mark.parametrize(
    ("exchange_id", "market", "timeframe", "key"),
    [
        ("binance", {"id": "BTCUSDT"}, "1h", "BTCUSDT 1h"),
        ("bybit", {"id": "BTCUSDT"}, "1h", "BTCUSDT 60"),
        ("bybit", {"id": "BTCUSD", "inverse": True}, "1h", None),
        ("okx", {"id": "BTC-USDT"}, "1Dutc", "BTC-USDT 1Dutc"),
        ("kraken", {"id": "XXBTZUSD"}, "5m", "BTC/USD 5"),
        ("bitget", {"id": "BTCUSDT"}, "1h", "BTCUSDT 1H"),
        ("mexc", {"id": "BTC_USDT"}, "1m", "BTC_USDT Min1"),
        ("htx", {"id": "btcusdt"}, "1h", "btcusdt 60min"),
        ("hyperliquid", {"id": "0", "baseName": "BTC", "swap": True}, "1m", "BTC 1m"),
    ],
)
def test_what_a_subscription_is_called_in_frames(exchange_id, market, timeframe, key):
    exchange = getattr(ccxt.pro, exchange_id)()
    exchange.markets = {"BTC/USD": exchange.safe_market_structure({"symbol": "BTC/USD", **market})}
    assert DIALECTS[exchange_id].bars_key(exchange, "BTC/USD", timeframe) == key
