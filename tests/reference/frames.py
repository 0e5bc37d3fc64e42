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


def binance_extra(text: str) -> tuple:
    message = json.loads(text)
    kline = message.get("data", message)["k"]
    if not {"n", "q", "V"} <= set(kline):
        return ()
    return (float(kline["n"]), float(kline["q"]), float(kline["V"]))


def binance_trade(text: str) -> tuple | None:
    message = json.loads(text)
    event = message.get("data", message)
    if event.get("e") not in {"trade", "aggTrade"} or float(event["p"]) == 0:
        return None
    number = event["t"] if event["e"] == "trade" else event["a"]
    side = "sell" if event["m"] else "buy"
    count = max(1, event["l"] - event["f"] + 1) if event["e"] == "aggTrade" and {"f", "l"} <= set(event) else 1
    return (event["s"], str(number), event["T"], float(event["p"]), float(event["q"]), side, count)
