"""A kline frame of Binance read by the standard library."""

from __future__ import annotations

import json


def binance_kline(text: str) -> tuple | None:
    message = json.loads(text)
    event = message.get("data", message)
    if event.get("e") != "kline":
        return None
    kline = event["k"]
    return (kline["s"], kline["i"], kline["t"], *(float(kline[key]) for key in "ohlcv"), kline["x"])
