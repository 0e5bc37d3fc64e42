"""WebSocket frames to bars, an exchange at a time, before ccxt parses them.

ccxt's `watch_ohlcv` drops the exchange's own word on whether a bar is closed; the readers here keep it. An exchange
without a reader goes through ccxt's parser, whose rows count as forming until REST has confirmed them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import orjson


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


Reader = Callable[[str | bytes], BarFrame | None]


def read_binance(data: str | bytes) -> BarFrame | None:
    """Read a kline frame of Binance, raw or from a combined stream; None for any other frame.

    Source: developers.binance.com, WebSocket Streams, "Kline/Candlestick Streams": `x` is "Is this kline closed?".
    """
    # Both forms name the event within their first hundred characters: other frames cost a search, not a parse.
    head = data[:100]
    if isinstance(head, bytes):
        head = head.decode("latin-1")
    if '"e":"kline"' not in head:
        return None
    message = orjson.loads(data)
    kline = message.get("data", message)["k"]
    return BarFrame(
        kline["s"],
        kline["i"],
        kline["t"],
        float(kline["o"]),
        float(kline["h"]),
        float(kline["l"]),
        float(kline["c"]),
        float(kline["v"]),
        kline["x"],
    )


READERS: Mapping[str, Reader] = {
    "binance": read_binance,
    "binanceusdm": read_binance,
    "binancecoinm": read_binance,
    "binanceus": read_binance,
}
