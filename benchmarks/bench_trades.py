"""How long does it take to make one-minute bars from trades?

    taskset -c 1 python -m pytest --benchmark benchmarks/bench_trades.py

1,000,000 seeded trades over 40,000 minutes as arrays, and 50,000 of them as ccxt's dicts. Peers: pandas' resample on
the arrays, and ccxt's own `build_ohlcvc` on the dicts. `test_ratios` takes all in turns. Caveat: the pandas frame is
made beforehand and not counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import ccxt
import numpy as np
import pytest

from ccxtbt import _bars

pd = pytest.importorskip("pandas")

TRADES, DICTS, MINUTES, START_MS = 1_000_000, 50_000, 40_000, 1_600_000_020_000
PROMISED = {"pandas": 6.0, "ccxt": 25.0}


@pytest.fixture(scope="module")
def calls() -> dict[str, Callable[[], Any]]:
    random = np.random.default_rng(7)
    ts_ms = np.sort(START_MS + random.integers(0, MINUTES * 60_000, TRADES, dtype=np.int64))
    price = np.round(100 + np.cumsum(random.normal(0, 0.01, TRADES)), 2)
    amount = np.round(random.random(TRADES), 4)
    dicts = [
        {"timestamp": int(ts), "price": float(p), "amount": float(a)}
        for ts, p, a in zip(ts_ms[:DICTS], price, amount, strict=False)
    ]
    frame = pd.DataFrame({"price": price, "amount": amount}, index=pd.to_datetime(ts_ms, unit="ms", utc=True))
    exchange = ccxt.binance()

    def by_pandas() -> Any:
        bars = frame["price"].resample("1min").ohlc()
        bars["volume"] = frame["amount"].resample("1min").sum()
        return bars.dropna()

    return {
        "arrays: ours": lambda: _bars.bars_from_trades(ts_ms, price, amount, "1m"),
        "arrays: pandas": by_pandas,
        "dicts: ours": lambda: _bars.bars_from_trade_dicts(dicts, "1m"),
        "dicts: ccxt": lambda: exchange.build_ohlcvc(dicts, "1m", 0, 10**9),
    }


def test_all_give_the_same_bars(calls: dict[str, Callable[[], Any]]) -> None:
    ts_ms, ohlcv = calls["arrays: ours"]()
    theirs = calls["arrays: pandas"]()
    assert np.array_equal(ts_ms, theirs.index.as_unit("ms").astype("int64").to_numpy())
    assert np.array_equal(ohlcv[:4].T, theirs[["open", "high", "low", "close"]].to_numpy())
    ts_ms, ohlcv = calls["dicts: ours"]()
    rows = np.array(calls["dicts: ccxt"]())
    assert np.array_equal(ts_ms, rows[:, 0].astype(np.int64))
    assert np.array_equal(ohlcv[:4].T, rows[:, 1:5])


@pytest.mark.benchmark(group="bars from trades")
@pytest.mark.parametrize("name", ["arrays: ours", "arrays: pandas", "dicts: ours", "dicts: ccxt"])
def test_trades(benchmark: Any, calls: dict[str, Callable[[], Any]], name: str) -> None:
    benchmark.extra_info.update(ccxt=ccxt.__version__, pandas=version("pandas"))
    benchmark.pedantic(calls[name], rounds=10, warmup_rounds=1)


@pytest.mark.benchmark(group="bars from trades: ratios, all in turns")
def test_ratios(benchmark: Any, calls: dict[str, Callable[[], Any]]) -> None:
    """Note how many times our time each peer takes, and compare with what is promised."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(9):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    ratios = {
        "pandas": medians["arrays: pandas"] / medians["arrays: ours"],
        "ccxt": medians["dicts: ccxt"] / medians["dicts: ours"],
    }
    benchmark.extra_info.update({name: round(ratio, 1) for name, ratio in ratios.items()})
    print(f"\nbars from trades: times our time {benchmark.extra_info}")
    benchmark.pedantic(calls["arrays: ours"], rounds=3)
    assert {name for name, ratio in ratios.items() if ratio < PROMISED[name]} == set()
