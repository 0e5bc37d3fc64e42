"""Bars written as exchanges write them, byte for byte in their manner: bodies for decoders and loopback servers."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

MINUTE_MS = 60_000
START_MS = 1_700_000_040_000


@dataclass(frozen=True)
class Candle:
    """A bar in decimal text, as an exchange counts: prices to cents, volume to five places."""

    ts_ms: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    quote_volume: str
    trades: int

    @property
    def prices(self) -> tuple[str, str, str, str]:
        return self.open, self.high, self.low, self.close


def candles(count: int, seed: int = 1) -> list[Candle]:
    """A seeded random walk of 1-minute bars, oldest first."""
    draw = random.Random(seed)
    last = 43_000.0
    found = []
    for i in range(count):
        close = last + draw.gauss(0, 15)
        high = max(last, close) + abs(draw.gauss(0, 8))
        low = min(last, close) - abs(draw.gauss(0, 8))
        volume = draw.expovariate(1 / 20) + 0.001
        prices = (f"{price:.2f}" for price in (last, high, low, close))
        turnover = f"{volume * close:.8f}"
        found.append(Candle(START_MS + i * MINUTE_MS, *prices, f"{volume:.5f}", turnover, draw.randrange(100, 3000)))
        last = close
    return found


def _compact(answer: object) -> str:
    return json.dumps(answer, separators=(",", ":"))


def _short(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def binance(bars: list[Candle]) -> str:
    """`/api/v3/klines`: oldest first, twelve values, eight decimals."""
    return _compact(
        [
            [
                bar.ts_ms,
                *(f"{price}000000" for price in bar.prices),
                f"{bar.volume}000",
                bar.ts_ms + MINUTE_MS - 1,
                bar.quote_volume,
                bar.trades,
                f"{float(bar.volume) / 2:.5f}000",
                f"{float(bar.quote_volume) / 2:.8f}",
                "0",
            ]
            for bar in bars
        ]
    )


def okx(bars: list[Candle]) -> str:
    """`/api/v5/market/candles`: newest first, all text, trailing zeros dropped."""
    rows = [
        [
            str(bar.ts_ms),
            *map(_short, bar.prices),
            _short(bar.volume),
            _short(bar.volume),
            _short(bar.quote_volume),
            "1",
        ]
        for bar in reversed(bars)
    ]
    return _compact({"code": "0", "msg": "", "data": rows})


def bybit(bars: list[Candle]) -> str:
    """`/v5/market/kline`: newest first, all text."""
    rows = [
        [str(bar.ts_ms), *map(_short, bar.prices), _short(bar.volume), _short(bar.quote_volume)]
        for bar in reversed(bars)
    ]
    result = {"category": "spot", "symbol": "BTCUSDT", "list": rows}
    return _compact({"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": 1700000000000})


def kraken(bars: list[Candle]) -> str:
    """`/0/public/OHLC`: oldest first, seconds, the average price between close and volume."""
    rows = [
        [bar.ts_ms // 1000, *(price[:-1] for price in bar.prices), bar.close[:-1], f"{bar.volume}000", bar.trades]
        for bar in bars
    ]
    return _compact({"error": [], "result": {"XXBTZUSD": rows, "last": bars[-1].ts_ms // 1000 if bars else 0}})


def deribit(bars: list[Candle]) -> str:
    """`get_tradingview_chart_data`: a dict of columns of numbers."""
    result: dict[str, object] = {
        "volume": [float(bar.volume) for bar in bars],
        "ticks": [bar.ts_ms for bar in bars],
        "status": "ok",
        "cost": [float(bar.quote_volume) for bar in bars],
    }
    for name in ("open", "low", "high", "close"):
        result[name] = [float(getattr(bar, name)) for bar in bars]
    return _compact({"jsonrpc": "2.0", "result": result, "usIn": 1, "usOut": 2, "usDiff": 1, "testnet": False})
