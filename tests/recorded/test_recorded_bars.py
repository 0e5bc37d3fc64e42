"""Recorded trades give exactly the recorded bars, whichever way they are fed."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator

import numpy as np
import pytest

from ccxtbt import _bars
from ccxtbt.errors import DataError
from recording import recorded
from reference import bars as plain

MINUTE = 60_000


def rows(name: str) -> Iterator[dict[str, str]]:
    with gzip.open(recorded(f"captures/{name}.csv.gz"), "rt") as lines:
        yield from csv.DictReader(lines)


def recorded_bars(name: str) -> tuple[np.ndarray, np.ndarray]:
    bars = list(rows(name))
    ohlcv = [[float(bar[key]) for bar in bars] for key in ("open", "high", "low", "close", "volume")]
    return np.array([int(bar["ts_ms"]) for bar in bars], np.int64), np.array(ohlcv)


@pytest.fixture(scope="module")
def trades() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """XRP/ETH trades of Binance: times, prices, amounts."""
    made = list(rows("xrp_eth_trades"))
    ts_ms = np.array([int(trade["timestamp"]) for trade in made], np.int64)
    return ts_ms, np.array([float(trade["price"]) for trade in made]), np.array([float(t["amount"]) for t in made])


@pytest.fixture(scope="module")
def minutes() -> tuple[np.ndarray, np.ndarray]:
    """Binance's own 1m bars of the same days."""
    return recorded_bars("xrp_eth_1m")


def check_same(got: tuple, expected: tuple) -> None:
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


def test_trades_give_the_exchanges_bars(trades: tuple, minutes: tuple) -> None:
    assert minutes[0].size == 2469
    check_same(_bars.bars_from_trades(*trades, "1m"), minutes)


def test_trades_as_ccxt_gives_them(trades: tuple, minutes: tuple) -> None:
    dicts = [
        {"timestamp": t, "price": p, "amount": a} for t, p, a in zip(*(row.tolist() for row in trades), strict=True)
    ]
    check_same(_bars.bars_from_trade_dicts(dicts, "1m"), minutes)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_trades_in_pages(trades: tuple, minutes: tuple, size: int) -> None:
    builder = _bars.TradeBars("1m")
    parts = [builder.feed(*(row[i : i + size] for row in trades)) for i in range(0, len(trades[0]), size)]
    parts.append(builder.close_until(int(minutes[0][-1]) + MINUTE))
    check_same((np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts], axis=1)), minutes)
    assert builder.late == builder.skipped == 0


def test_seconds_resampled_are_the_minutes(trades: tuple, minutes: tuple) -> None:
    seconds = _bars.bars_from_trades(*trades, "1s")
    assert seconds[0].size > minutes[0].size
    check_same(_bars.resample(*seconds, "1s", "1m"), minutes)


@pytest.mark.parametrize("timeframe", ["5m", "1h", "4h", "1d", "1w", "1M"])
def test_coarser_bars_from_minutes_and_from_trades_agree(trades: tuple, minutes: tuple, timeframe: str) -> None:
    made = _bars.resample(*minutes, "1m", timeframe)
    check_same(made, _bars.bars_from_trades(*trades, timeframe))
    assert made.counts.sum() == minutes[0].size
    assert not made.complete.all()


def test_quiet_minutes_are_gaps_and_flat_bars(minutes: tuple) -> None:
    gaps = _bars.find_gaps(minutes[0], "1m")
    assert gaps[:, 2].sum() == 1091
    full = _bars.merge([minutes], "1m", gaps="flat")
    assert (np.diff(full.ts_ms) == MINUTE).all()
    flat = full.origin == 3
    assert flat.sum() == 1091
    check_same((full.ts_ms[~flat], full.ohlcv[:, ~flat]), minutes)
    assert (full.ohlcv[4, flat] == 0).all()
    before = np.flatnonzero(flat) - 1
    assert (full.ohlcv[:4, flat] == full.ohlcv[3, before]).all()
    with pytest.raises(DataError, match="missing"):
        _bars.merge([minutes], "1m", gaps="raise")
    complete = _bars.resample(full.ts_ms, full.ohlcv, "1m", "1h", full.origin)
    assert complete.complete[1:-1].all()


def test_pages_of_a_history_with_real_gaps_merge_back() -> None:
    ts_ms, ohlcv = recorded_bars("unittest_btc_1m")
    pages = [(ts_ms[i : i + 1000], ohlcv[:, i : i + 1000]) for i in range(0, ts_ms.size, 900)]
    newest_first = [(t[::-1].copy(), values[:, ::-1].copy()) for t, values in reversed(pages)]
    for sources in (pages, newest_first, pages + newest_first):
        merged = _bars.merge(sources, "1m")
        check_same(merged, (ts_ms, ohlcv))
        assert merged.corrected_ms.size == 0
    gaps = _bars.find_gaps(ts_ms, "1m")
    assert gaps.tolist() == [list(gap) for gap in plain.find_gaps(ts_ms.tolist(), "1m")]
    assert len(gaps) > 0


def test_krakens_answer_has_its_quiet_minutes_already() -> None:
    answer = json.loads(recorded("captures/kraken_ohlc.json").read_text())
    sent = next(value for value in answer.get("result", answer).values() if isinstance(value, list))
    ts_ms = np.array([row[0] * 1000 for row in sent], np.int64)
    ohlcv = np.array([[float(row[column]) for row in sent] for column in (1, 2, 3, 4, 6)])
    merged = _bars.merge([(ts_ms, ohlcv)], "1m", gaps="raise")
    check_same(merged, (ts_ms, ohlcv))
    quiet = ohlcv[4] == 0
    assert quiet.any()
    rebuilt = _bars.merge(
        [(ts_ms[~quiet], ohlcv[:, ~quiet].copy())], "1m", gaps="flat", until_ms=int(ts_ms[-1]) + MINUTE
    )
    first = int(np.argmin(quiet))
    check_same(rebuilt, (ts_ms[first:], ohlcv[:, first:]))
