"""WebSocket frames to bars and trades, an exchange at a time, before ccxt parses them.

ccxt's `watch_ohlcv` drops the exchange's own word on whether a bar is closed; the readers here keep it. An exchange
without a reader goes through ccxt's parser, whose rows count as forming until REST has confirmed them. A trade is what
ccxt makes of it too, but for a tenth of the work.
"""

from __future__ import annotations

import datetime as dt
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from ccxtbt._frames import BinanceReader, binance_kline, binance_trade
from ccxtbt.exchange.facts import Facts


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
    parts : int
        How many trades the exchange has put together to this one.
    numbers : int
        How many numbers it takes up, of which `id` is the last: more than one where the exchange also tells each of
        its parts alone, under a number of its own.
    """

    id: str
    ts_ms: int
    price: float
    amount: float
    side: str
    parts: int = 1
    numbers: int = 1


def trade_of(row: Mapping[str, Any], facts: Facts) -> Trade:
    """Return ccxt's trade, under the id by which the exchange's frames call it too."""
    told = row.get("info") or {}
    first, last = (int(told.get(name, 0)) for name in facts.trade_ids) if facts.trade_ids else (0, 0)
    number = None if facts.trade_id is None else told.get(facts.trade_id) or row["id"]
    return Trade(
        str(number or ""),
        int(row["timestamp"]),
        float(row["price"]),
        float(row["amount"]),
        row["side"] or "",
        max(1, last - first + 1),
    )


# Raw frame -> its bars; none for a frame of any other kind.
Reader = Callable[[str | bytes], tuple[BarFrame, ...]]
# Raw frame -> its trades by the exchange's own name of the market, oldest first; none for a frame of any other kind.
Trades = Mapping[str, list[Trade]]
TradeReader = Callable[[str | bytes], Trades]


def _message(data: str | bytes, mark: str, head_size: int = 200) -> Any:
    """Return the decoded frame if `mark` stands near its beginning, else an empty one: a search costs less."""
    head = data[:head_size]
    if isinstance(head, bytes):
        head = head.decode("latin-1")
    return orjson.loads(data) if mark in head else {}


def _from_keys(market_id: str, interval: str, ts_ms: int, row: Any, keys: str, closed: bool) -> BarFrame:
    opened, high, low, close, volume = (float(row[key]) for key in keys.split())
    return BarFrame(market_id, interval, ts_ms, opened, high, low, close, volume, closed)


def _from_row(market_id: str, interval: str, row: Any, volume: int, closed: bool) -> BarFrame:
    opened, high, low, close = map(float, row[1:5])
    return BarFrame(market_id, interval, int(row[0]), opened, high, low, close, float(row[volume]), closed)


def _by_market(trades: Iterable[tuple[str, Trade]]) -> Trades:
    """Return trades by market, the oldest first also where the exchange begins with the newest."""
    by_market: dict[str, list[Trade]] = {}
    for market_id, trade in trades:
        by_market.setdefault(market_id, []).append(trade)
    for found in by_market.values():
        if found[0].ts_ms > found[-1].ts_ms:
            found.reverse()
    return by_market


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


def extra_of_binance(data: str | bytes) -> tuple[float, ...]:
    """Read what Binance's klines tell beside prices and volume, in the order of `ccxtbt.exchange.facts.EXTRA_LINES`."""
    message = _message(data, '"e":"kline"')
    kline = message.get("data", message).get("k", {})
    return (float(kline["n"]), float(kline["q"]), float(kline["V"])) if kline else ()


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
    """Return the ms of a time in UTC, as 2023-09-25T07:49:37.708706Z."""
    whole_ms = int(dt.datetime.fromisoformat(text[:19] + "+00:00").timestamp()) * 1000
    return whole_ms + (int(text[20:-1].ljust(3, "0")[:3]) if text[19] == "." else 0)


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


def trades_of_binance(data: str | bytes) -> Trades:
    """Read Binance, raw or from a combined stream.

    Source: developers.binance.com, WebSocket Streams, "Trade Streams" and "Aggregate Trade Streams": `m` is "Is the
    buyer the market maker?". Futures also show there, at a price of 0, what was no trade.
    """
    row = binance_trade(data)
    if row is not None:
        return {row[0]: [Trade(*row[1:])]}
    message = _message(data, 'rade","E"')
    event = message.get("data", message)
    if event.get("e") not in {"trade", "aggTrade"} or float(event["p"]) == 0:
        return {}
    number = event["t"] if event["e"] == "trade" else event["a"]
    parts = max(1, event["l"] - event["f"] + 1) if "f" in event and "l" in event else 1
    side = "sell" if event["m"] else "buy"
    return {event["s"]: [Trade(str(number), event["T"], float(event["p"]), float(event["q"]), side, parts)]}


def trades_of_bybit(data: str | bytes) -> Trades:
    """Read Bybit. Source: bybit-exchange.github.io, v5, "Trade": `S` is the side of the taker."""
    message = _message(data, '"publicTrade.')
    return _by_market(
        (row["s"], Trade(row["i"], row["T"], float(row["p"]), float(row["v"]), row["S"].lower()))
        for row in message.get("data", ())
    )


def trades_of_okx(data: str | bytes) -> Trades:
    """Read OKX. Source: www.okx.com/docs-v5, "Trades channel" and "All trades channel": `side` is the taker's.

    The former puts together what one taker order took at one price from one kind of makers: of `count` trades, whose
    numbers follow each other, `tradeId` is the last. REST tells each alone.
    """
    message = _message(data, '"trades')
    if "arg" not in message:
        return {}
    found = []
    for row in message.get("data", ()):
        count = int(row.get("count") or 1)
        trade = Trade(
            row["tradeId"], int(row["ts"]), float(row["px"]), float(row["sz"]), row["side"], parts=count, numbers=count
        )
        found.append((row["instId"], trade))
    return _by_market(found)


def trades_of_kraken(data: str | bytes) -> Trades:
    """Read Kraken. Source: docs.kraken.com, WebSocket v2, "Trades": `side` is the taker's."""
    message = _message(data, '"trade"')
    if message.get("channel") != "trade":
        return {}
    return _by_market(
        (
            row["symbol"],
            Trade(str(row["trade_id"]), _iso_ms(row["timestamp"]), float(row["price"]), float(row["qty"]), row["side"]),
        )
        for row in message.get("data", ())
    )


def trades_of_coinbase(data: str | bytes) -> Trades:
    """Read Coinbase, newest first in a frame. Source: docs.cdp.coinbase.com, Advanced Trade, "Market Trades"."""
    message = _message(data, '"market_trades"')
    if message.get("channel") != "market_trades":
        return {}
    return _by_market(
        (
            row["product_id"],
            Trade(
                row["trade_id"],
                _iso_ms(row["time"]),
                float(row["price"]),
                float(row["size"]),
                row["side"].lower() if row["side"] in {"BUY", "SELL"} else "",
            ),
        )
        for event in message["events"]
        for row in reversed(event.get("trades", ()))
    )


def trades_of_gate(data: str | bytes) -> Trades:
    """Read Gate. Source: www.gate.com/docs, "Public Trades Channel"; of contracts: a sale has a negative size."""
    message = _message(data, ".trades")
    if message.get("event") != "update" or not message["channel"].endswith(".trades"):
        return {}
    result = message["result"]
    found = []
    for row in result if isinstance(result, list) else [result]:
        amount = float(row["amount"] if "amount" in row else row["size"])
        side = row.get("side") or ("sell" if amount < 0 else "buy")
        ts_ms = int(float(row["create_time_ms"]))
        trade = Trade(str(row["id"]), ts_ms, float(row["price"]), abs(amount), side)
        found.append((row["currency_pair"] if "currency_pair" in row else row["contract"], trade))
    return _by_market(found)


def trades_of_kucoin(data: str | bytes) -> Trades:
    """Read KuCoin. Source: www.kucoin.com/docs-new, "Trade" of spot and futures: times are in nanoseconds.

    Of contracts REST has a `tradeId` too; `sequence`, which is the same number today, it has of all markets.
    """
    # The topic may stand behind the data.
    message = _message(data, '"topic":"/', head_size=600)
    topic = message.get("topic", "")
    if not topic.startswith(("/market/match:", "/contractMarket/execution:")) or "data" not in message:
        return {}
    row = message["data"]
    ts_ms = int(row["time"] if "time" in row else row["ts"]) // 1_000_000
    number = str(row["sequence"])
    return {row["symbol"]: [Trade(number, ts_ms, float(row["price"]), float(row["size"]), row["side"])]}


def trades_of_bitget(data: str | bytes) -> Trades:
    """Read Bitget, newest first in a frame. Source: www.bitget.com/api-doc, "Trade Channel": `side` is the taker's."""
    message = _message(data, '"trade"')
    if "data" not in message or message["arg"].get("channel") != "trade":
        return {}
    market_id = message["arg"]["instId"]
    return _by_market(
        (market_id, Trade(row["tradeId"], int(row["ts"]), float(row["price"]), float(row["size"]), row["side"]))
        for row in reversed(message["data"])
    )


def trades_of_mexc(data: str | bytes) -> Trades:
    """Read MEXC's contracts, whose trades have no id. Source: www.mexc.com/api-docs/futures, "Deal": `T` 1 is a buy."""
    message = _message(data, '"push.deal"')
    rows = message.get("data", ())
    return _by_market(
        (message["symbol"], Trade("", row["t"], float(row["p"]), float(row["v"]), "buy" if row["T"] == 1 else "sell"))
        for row in ([rows] if isinstance(rows, dict) else rows)
    )


def trades_of_htx(data: str | bytes) -> Trades:
    """Read HTX. Source: www.htx.com/en-us/opend, "Subscribe Trade Detail": `direction` is the taker's.

    The id is `tradeId`, for `id` has more digits than a JSON number can hold; contracts have an `id` alone.
    """
    message = _message(data, ".trade.detail")
    if "tick" not in message:
        return {}
    market_id = message["ch"].split(".")[1]
    return _by_market(
        (
            market_id,
            Trade(
                str(row["tradeId"] if "tradeId" in row else row["id"]),
                row["ts"],
                float(row["price"]),
                float(row["amount"]),
                row["direction"],
            ),
        )
        for row in message["tick"]["data"]
    )


def trades_of_hyperliquid(data: str | bytes) -> Trades:
    """Read Hyperliquid. Source: hyperliquid.gitbook.io, "Subscriptions": WsTrade, side A for a taker that sells."""
    message = _message(data, '"trades"')
    if message.get("channel") != "trades":
        return {}
    return _by_market(
        (
            row["coin"],
            Trade(
                str(row["tid"]),
                row["time"],
                float(row["px"]),
                float(row["sz"]),
                "sell" if row["side"] == "A" else "buy",
            ),
        )
        for row in message["data"]
    )


def trades_of_cryptocom(data: str | bytes) -> Trades:
    """Read Crypto.com. Source: exchange-docs.crypto.com, "trade.{instrument_name}": `s` is the side of the taker."""
    result = _message(data, '"subscribe"').get("result", {})
    if result.get("channel") != "trade":
        return {}
    return _by_market(
        (row["i"], Trade(row["d"], row["t"], float(row["p"]), float(row["q"]), row["s"].lower()))
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
    """How an exchange says bars and trades.

    Attributes
    ----------
    bars : callable or None
        Raw frame to bars; None where the exchange streams none.
    trades : callable
        Raw frame to trades.
    name : callable
        ccxt's market to its name in a frame.
    own_words : bool
        Timeframes have other words in frames than in REST: those of ccxt's ``options['timeframes']``.
    says_closed : bool
        Frames tell whether the values of a bar are final; else REST has to.
    inverse : bool
        The volume of inverse contracts stands where that of all markets does; else ccxt's parser reads their bars.
    one_book : tuple of (str, str) or ()
        Markets whose symbol ends so are the same as those that end so: frames name the latter.
    needs : tuple of (str, str, str) or ()
        A type of market whose frames only ccxt reads, the module that it takes for that, and the extra of this package
        that brings the module.
    extra : callable or None
        Raw frame of a bar to the values of `ccxtbt.exchange.facts.EXTRA_LINES`, in their order.
    reader : callable or None
        Makes a compiled reader of the socket's bytes, see `ccxtbt._frames.BinanceReader`; what that leaves is for the
        others.
    """

    bars: Reader | None
    trades: TradeReader
    name: Callable[[Mapping[str, Any]], str] = _id
    own_words: bool = False
    says_closed: bool = False
    inverse: bool = False
    one_book: tuple[str, str] | tuple[()] = ()
    needs: tuple[str, str, str] | tuple[()] = ()
    extra: Callable[[str | bytes], tuple[float, ...]] | None = None
    reader: Callable[..., Any] | None = None

    def bars_key(self, exchange: Any, symbol: str, word: str) -> str | None:
        """Return market and timeframe as frames name them, with a space between; None where ccxt's parser must do."""
        market = exchange.market(symbol)
        if self.bars is None or (market.get("inverse") and not self.inverse):
            return None
        words = exchange.options["timeframes"] if self.own_words else exchange.timeframes
        return f"{self.name(market)} {words.get(word, word)}"

    def lacks(self, exchange: Any, symbol: str) -> tuple[str, str] | None:
        """Return the module that is missing for the streams of `symbol` and the extra that brings it; None: nothing."""
        if not self.needs:
            return None
        kind, module, extra = self.needs
        if exchange.market(symbol)["type"] != kind:
            return None
        try:
            importlib.import_module(module)
        except ImportError:
            return module, extra
        return None

    def trades_key(self, exchange: Any, symbol: str) -> str:
        """Return the market as frames of trades name it."""
        return self.name(exchange.market(symbol))

    def book(self, exchange: Any, symbol: str) -> str:
        """Return the symbol under which the exchange tells the trades of `symbol`."""
        if self.one_book and symbol.endswith(self.one_book[0]):
            told = symbol.removesuffix(self.one_book[0]) + self.one_book[1]
            if told in exchange.markets:
                return told
        return symbol


_BINANCE = Dialect(
    read_binance, trades_of_binance, says_closed=True, inverse=True, extra=extra_of_binance, reader=BinanceReader
)
_OKX = Dialect(read_okx, trades_of_okx, says_closed=True, inverse=True)

DIALECTS: Mapping[str, Dialect] = {
    "binance": _BINANCE,
    "binanceusdm": _BINANCE,
    "binancecoinm": _BINANCE,
    "binanceus": _BINANCE,
    "bybit": Dialect(read_bybit, trades_of_bybit, says_closed=True),
    "okx": _OKX,
    "okxus": _OKX,
    "myokx": _OKX,
    "kraken": Dialect(read_kraken, trades_of_kraken, name=_symbol),
    # Who subscribes to a market in USDC is sent the one in USD.
    "coinbase": Dialect(None, trades_of_coinbase, one_book=("/USDC", "/USD")),
    "gate": Dialect(read_gate, trades_of_gate, says_closed=True, inverse=True),
    "kucoin": Dialect(read_kucoin, trades_of_kucoin, inverse=True),
    "bitget": Dialect(read_bitget, trades_of_bitget, own_words=True),
    # Spot frames are Protobuf, which ccxt decodes.
    "mexc": Dialect(read_mexc, trades_of_mexc, own_words=True, inverse=True, needs=("spot", "google.protobuf", "mexc")),
    "htx": Dialect(read_htx, trades_of_htx, inverse=True),
    "hyperliquid": Dialect(read_hyperliquid, trades_of_hyperliquid, name=_coin),
    "cryptocom": Dialect(read_cryptocom, trades_of_cryptocom),
}
