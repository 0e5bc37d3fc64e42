"""Recorded WebSocket frames through the real readers, beside what ccxt makes of them."""

import json

import ccxt.pro

from ccxtbt.market.frames import read_binance
from recording import recorded


def binance_frames():
    for line in recorded("captures/binance_futures.ws.txt").read_text().splitlines():
        _, _, payload = line.partition(": ")
        if payload.startswith("{"):
            yield payload


def test_each_recorded_kline_is_read_as_ccxt_reads_it():
    exchange = ccxt.pro.binance()
    read = []
    for payload in binance_frames():
        message = json.loads(payload)
        data = message.get("data", message)
        frames = read_binance(payload)
        assert len(frames) == (data.get("e") == "kline")
        if not frames:
            continue
        (frame,) = frames
        kline = data["k"]
        expected = [exchange.safe_float(kline, key) for key in "ohlcv"]
        assert list(frame[3:8]) == expected
        assert (frame.market_id, frame.interval, frame.ts_ms, frame.closed) == (
            kline["s"],
            kline["i"],
            kline["t"],
            kline["x"],
        )
        assert read_binance(payload.encode()) == frames
        read.append(frame)
    assert len(read) > 50
    assert {frame.closed for frame in read} == {False, True}
