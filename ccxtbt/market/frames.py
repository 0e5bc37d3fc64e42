"""WebSocket frames to bars, an exchange at a time, before ccxt parses them.

ccxt's `watch_ohlcv` drops the exchange's own word on whether a bar is closed; the readers here keep it. An exchange
without a reader goes through ccxt's parser, whose rows count as forming until REST has confirmed them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from ccxtbt._frames import binance_kline


class BarFrame(NamedTuple):
    """One bar as a frame shows it.

    Attributes
    ----------
    market_id : str
        The exchange's own name of the market.
    interval : str
        The exchange's own name of the timeframe.
    ts_ms : int
        Open of the bar.
    open, high, low, close, volume : float
        Prices in quote currency, volume in base currency (contracts where the exchange counts so).
    closed : bool
        The exchange says that these values are final.
    """

    market_id: str
    interval: str
    ts_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    closed: bool


class Trade(NamedTuple):
    """One public trade.

    Attributes
    ----------
    id : str
        The exchange's own; '' where it gives none.
    ts_ms : int
        When it happened, by the exchange.
    price : float
        In quote currency.
    amount : float
        In base currency (contracts where the exchange counts so).
    side : str
        The taker's: 'buy' or 'sell'; '' where the exchange does not say.
    """

    id: str
    ts_ms: int
    price: float
    amount: float
    side: str


# Raw frame -> its bars; none for a frame of any other kind.
Reader = Callable[[str | bytes], tuple[BarFrame, ...]]


def _message(data: str | bytes, mark: str) -> Any:
    """Return the decoded frame if `mark` stands near its beginning, else an empty one: a search costs less."""
    head = data[:200]
    if isinstance(head, bytes):
        head = head.decode("latin-1")
    return orjson.loads(data) if mark in head else {}


def _from_keys(market_id: str, interval: str, ts_ms: int, row: Any, keys: str, closed: bool) -> BarFrame:
    opened, high, low, close, volume = (float(row[key]) for key in keys.split())
    return BarFrame(market_id, interval, ts_ms, opened, high, low, close, volume, closed)


def _from_row(market_id: str, interval: str, row: Any, volume: int, closed: bool) -> BarFrame:
    opened, high, low, close = map(float, row[1:5])
    return BarFrame(market_id, interval, int(row[0]), opened, high, low, close, float(row[volume]), closed)


def read_binance(data: str | bytes) -> tuple[BarFrame, ...]:
    """Read Binance, raw or from a combined stream.

    Source: developers.binance.com, WebSocket Streams, "Kline/Candlestick Streams": `x` is "Is this kline closed?".
    """
    row = binance_kline(data)
    if row is not None:
        # What `BarFrame(*row)` does, without its detour through Python.
        return (tuple.__new__(BarFrame, row),)
    message = _message(data, '"e":"kline"')
    if not message:
        return ()
    kline = message.get("data", message)["k"]
    return (
        BarFrame(
            kline["s"],
            kline["i"],
            kline["t"],
            float(kline["o"]),
            float(kline["h"]),
            float(kline["l"]),
            float(kline["c"]),
            float(kline["v"]),
            kline["x"],
        ),
    )


def read_bybit(data: str | bytes) -> tuple[BarFrame, ...]:
    """Read Bybit. Source: bybit-exchange.github.io, v5, "Kline": `confirm` says whether the candle has ended."""
    message = _message(data, '"kline.')
    if "data" not in message:
        return ()
    _, interval, market_id = message["topic"].split(".", 2)
    return tuple(
        _from_keys(market_id, interval, row["start"], row, "open high low close volume", row["confirm"])
        for row in message["data"]
    )


def read_okx(data: str | bytes) -> tuple[BarFrame, ...]:
    """Read OKX. Source: www.okx.com/docs-v5, "Candlesticks channel": the last field is "1" for a completed candle.

    Volume is in base currency: the sixth field of spot (BTC-USDT), the seventh of contracts (BTC-USDT-SWAP).
    """
    message = _message(data, '"candle')
    if "data" not in message:
        return ()
    market_id, interval = message["arg"]["instId"], message["arg"]["channel"].removeprefix("candle")
    volume = 5 if market_id.count("-") == 1 else 6
    return tuple(_from_row(market_id, interval, row, volume, len(row) > 8 and row[8] == "1") for row in message["data"])


def read_kraken(data: str | bytes) -> tuple[BarFrame, ...]:
    """Read Kraken, which has no closed flag. Source: docs.kraken.com, WebSocket v2, "OHLC"."""
    message = _message(data, '"ohlc"')
    return tuple(
        _from_keys(
            row["symbol"],
            str(row["interval"]),
            _iso_ms(row["interval_begin"]),
            row,
            "open high low close volume",
            False,
        )
        for row in message.get("data", ())
    )


def _iso_ms(text: str) -> int:
    return int(dt.datetime.fromisoformat(text[:19] + "+00:00").timestamp()) * 1000


def read_gate(data: str | bytes) -> tuple[BarFrame, ...]:
    """Read Gate. Source: www.gate.com/docs, "Candlesticks channel": `w` says whether the window is closed.

    Spot's `v` is in quote currency and its `a` in base currency; contracts count `v` in contracts, as REST does.
    """
    message = _message(data, "candlesticks")
    if message.get("event") != "update":
        return ()
    result = message["result"]
    spot = message["channel"].startswith("spot.")
    frames = []
    for row in result if isinstance(result, list) else [result]:
        interval, market_id = row["n"].split("_", 1)
        keys = "o h l c a" if spot and "a" in row else "o h l c v"
        frames.append(_from_keys(market_id, interval, int(row["t"]) * 1000, row, keys, bool(row.get("w", False))))
    return tuple(frames)


def read_kucoin(data: str | bytes) -> tuple[BarFrame, ...]:
    """Read KuCoin, which has no closed flag. Source: www.kucoin.com/docs, "Klines" of spot and futures."""
    message = _message(data, "andle")
    topic = message.get("topic", "")
    if ("andle:" not in topic and "andles:" not in topic) or "data" not in message:
        return ()
    row = message["data"]["candles"]
    # Futures: the documented place of the volume is said to be wrong, the one behind it holds it.
    volume = 6 if "contractMarket" in topic else 5
    interval = topic.rpartition("_")[2]
    at_ms, opened, close, high, low = int(row[0]) * 1000, *map(float, row[1:5])
    return (BarFrame(message["data"]["symbol"], interval, at_ms, opened, high, low, close, float(row[volume]), False),)


def read_bitget(data: str | bytes) -> tuple[BarFrame, ...]:
    """Read Bitget, which has no closed flag. Source: www.bitget.com/api-doc, "Candlestick Channel"."""
    message = _message(data, '"candle')
    if "data" not in message:
        return ()
    market_id, interval = message["arg"]["instId"], message["arg"]["channel"].removeprefix("candle")
    return tuple(_from_row(market_id, interval, row, 5, False) for row in message["data"])


def read_mexc(data: str | bytes) -> tuple[BarFrame, ...]:
    """Read MEXC's contracts, which have no closed flag; its spot frames are Protobuf and ccxt's to read.

    Source: www.mexc.com/api-docs/futures, "K-line": `q` is the volume in contracts.
    """
    message = _message(data, '"push.kline"')
    if "data" not in message:
        return ()
    row = message["data"]
    return (_from_keys(row["symbol"], row["interval"], row["t"] * 1000, row, "o h l c q", False),)


def read_htx(data: str | bytes) -> tuple[BarFrame, ...]:
    """Read HTX, which has no closed flag. Source: huobiapi.github.io, "Market Candlestick": `amount` is in base."""
    message = _message(data, ".kline.")
    if "tick" not in message:
        return ()
    _, market_id, _, interval = message["ch"].split(".")
    row = message["tick"]
    return (_from_keys(market_id, interval, row["id"] * 1000, row, "open high low close amount", False),)


def read_hyperliquid(data: str | bytes) -> tuple[BarFrame, ...]:
    """Read Hyperliquid, which has no closed flag. Source: hyperliquid.gitbook.io, "Subscriptions": candle."""
    message = _message(data, '"candle"')
    if message.get("channel") != "candle":
        return ()
    row = message["data"]
    return (_from_keys(row["s"], row["i"], row["t"], row, "o h l c v", False),)


def read_cryptocom(data: str | bytes) -> tuple[BarFrame, ...]:
    """Read Crypto.com, which has no closed flag. Source: exchange-docs.crypto.com, "candlestick.{time_frame}"."""
    message = _message(data, '"candlestick')
    result = message.get("result", {})
    return tuple(
        _from_keys(result["instrument_name"], result["interval"], row["t"], row, "o h l c v", False)
        for row in result.get("data", ())
    )


def _id(market: Mapping[str, Any]) -> str:
    return str(market["id"])


def _symbol(market: Mapping[str, Any]) -> str:
    return str(market["symbol"])


def _coin(market: Mapping[str, Any]) -> str:
    return str(market["baseName"] if market["swap"] else market["id"])


@dataclass(frozen=True)
class Dialect:
    """How an exchange says bars.

    Attributes
    ----------
    read : callable
        Raw frame to bars.
    name : callable
        ccxt's market to its name in a frame.
    own_words : bool
        Timeframes have other words in frames than in REST: those of ccxt's ``options['timeframes']``.
    inverse : bool
        The volume of inverse contracts stands where that of all markets does; where not, ccxt's parser reads them.
    """

    read: Reader
    name: Callable[[Mapping[str, Any]], str] = _id
    own_words: bool = False
    inverse: bool = False

    def key(self, exchange: Any, symbol: str, word: str) -> tuple[str, str] | None:
        """Return (market, timeframe) as frames name them; None where ccxt's parser must do."""
        market = exchange.market(symbol)
        if market.get("inverse") and not self.inverse:
            return None
        words = exchange.options["timeframes"] if self.own_words else exchange.timeframes
        return self.name(market), str(words.get(word, word))


_BINANCE = Dialect(read_binance, inverse=True)

# coinbase streams no bars through ccxt.
DIALECTS: Mapping[str, Dialect] = {
    "binance": _BINANCE,
    "binanceusdm": _BINANCE,
    "binancecoinm": _BINANCE,
    "binanceus": _BINANCE,
    "bybit": Dialect(read_bybit),
    "okx": Dialect(read_okx, inverse=True),
    "kraken": Dialect(read_kraken, name=_symbol),
    "gate": Dialect(read_gate, inverse=True),
    "kucoin": Dialect(read_kucoin, inverse=True),
    "bitget": Dialect(read_bitget, own_words=True),
    "mexc": Dialect(read_mexc, own_words=True, inverse=True),
    "htx": Dialect(read_htx, inverse=True),
    "hyperliquid": Dialect(read_hyperliquid, name=_coin),
    "cryptocom": Dialect(read_cryptocom),
}
