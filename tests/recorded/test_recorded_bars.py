"""Recorded trades through the compiled kernel give exactly the recorded bars."""

import csv
import gzip

import numpy as np

from ccxtbt import _bars
from recording import recorded


def rows(name):
    with gzip.open(recorded(f"captures/{name}"), "rt") as lines:
        return list(csv.DictReader(lines))


def recorded_bars():
    bars = rows("xrp_eth_1m.csv.gz")
    ts_ms = np.array([int(bar["ts_ms"]) for bar in bars])
    return ts_ms, np.array([[float(bar[key]) for bar in bars] for key in ("open", "high", "low", "close", "volume")])


def recorded_trades():
    trades = rows("xrp_eth_trades.csv.gz")
    return (
        np.array([int(trade["timestamp"]) for trade in trades]),
        np.array([float(trade["price"]) for trade in trades]),
        np.array([float(trade["amount"]) for trade in trades]),
    )


def test_all_at_once():
    ts_ms, ohlcv = _bars.bars_from_trades(*recorded_trades(), "1m")
    wanted_ms, wanted = recorded_bars()
    assert np.array_equal(ts_ms, wanted_ms)
    assert np.array_equal(ohlcv, wanted)


def test_one_by_one_as_they_come_live():
    bars = _bars.TradeBars("1m")
    closed = [bar for trade in zip(*recorded_trades(), strict=True) if (bar := bars.add(*trade)) is not None]
    closed.append(bars.forming())
    wanted_ms, wanted = recorded_bars()
    assert [bar[0] for bar in closed] == wanted_ms.tolist()
    assert np.array_equal(np.array([bar[1:] for bar in closed]).T, wanted)


def test_the_silent_minutes_are_the_gaps():
    ts_ms, ohlcv = recorded_bars()
    filled = _bars.merge([(ts_ms, ohlcv)], "1m", gaps="flat")
    assert len(filled.ts_ms) - len(ts_ms) == 1_091
    synthetic = filled.origin == 3
    assert synthetic.sum() == 1_091
    assert not filled.ohlcv[4][synthetic].any()
    assert np.array_equal(filled.ohlcv[:, ~synthetic], ohlcv)


def test_resampled_to_an_hour_they_hold_the_same_volume():
    ts_ms, ohlcv = recorded_bars()
    hours = _bars.resample(ts_ms, ohlcv, "1m", "1h")
    assert hours.counts.sum() == len(ts_ms)
    assert np.isclose(hours.ohlcv[4].sum(), ohlcv[4].sum())
    for open_ms, high, low in zip(hours.ts_ms, hours.ohlcv[1], hours.ohlcv[2], strict=True):
        inside = (ts_ms >= open_ms) & (ts_ms < open_ms + 3_600_000)
        assert high == ohlcv[1][inside].max()
        assert low == ohlcv[2][inside].min()
