"""How long does it take to make one clean sequence of a million bars of two histories that overlap?

    taskset -c 1 python -m pytest --benchmark benchmarks/bench_merge.py

1,000,000 minutes of which 1% are missing come as a history of the first 95% and a backfill of the last 15%, each with
1% of its bars sent twice. Out come all 1,000,000: sorted, each once, the later one of equals, gaps filled flat at the
close before. All candidates do all of it and give the same bars. Columns in, columns out; pandas, polars and
freqtrade's way get frames that were made beforehand.

- numpy: join, stable argsort, searchsorted into the grid of minutes, as one would write it for any bars.
- numpy on a grid: a scatter by (time - first) / minute, which only works where every time lies on the grid.
- freqtrade: what its converter does, in our words: floor the dates, make all else floats, group by date and aggregate,
  then resample, carry the close forward and fill the other prices with it.
- copy: `copy()` of the three arrays of the result, the floor.

Ours also compares the bars left out with those kept (in the corrections it reports), which no peer does. Times are CPU
times. `test_ratio` takes all in turns, so that a busy machine slows all alike, and in an order drawn anew each time,
since what ran before leaves the caches to the next. All results are made in fresh memory, whose zeroing by the system
is half of the copy's time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest

from ccxtbt import _bars

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")

BARS, MINUTE, START_MS, SEED = 1_000_000, 60_000, 1_600_000_020_000, 20260105
PRICES = ["open", "high", "low", "close"]
NAMES = ["ours", "copy", "numpy on a grid", "numpy", "pandas", "polars", "freqtrade"]
Columns = tuple[np.ndarray, np.ndarray]


def histories() -> list[Columns]:
    random = np.random.default_rng(SEED)
    there = random.random(BARS) >= 0.01
    there[[0, -1]] = True
    ts_ms = START_MS + MINUTE * np.flatnonzero(there)
    count = len(ts_ms)
    opens = 100 + np.cumsum(random.normal(0, 0.01, count))
    closes = opens + random.normal(0, 0.01, count)
    ohlcv = np.stack([opens, np.maximum(opens, closes), np.minimum(opens, closes), closes, random.random(count)])
    sources = []
    for part in (slice(0, count * 95 // 100), slice(count * 85 // 100, None)):
        times_sent = np.where(random.random(len(ts_ms[part])) < 0.01, 2, 1)
        sources.append((np.repeat(ts_ms[part], times_sent), np.repeat(ohlcv[:, part], times_sent, axis=1)))
    return sources


def by_numpy(sources: list[Columns]) -> Columns:
    ts_ms = np.concatenate([ts for ts, _ in sources])
    ohlcv = np.concatenate([rows for _, rows in sources], axis=1)
    order = np.argsort(ts_ms, kind="stable")
    ts_ms = ts_ms[order]
    last = np.append(ts_ms[1:] != ts_ms[:-1], True)
    ts_ms = ts_ms[last]
    grid = np.arange(ts_ms[0], ts_ms[-1] + 1, MINUTE)
    place = np.searchsorted(ts_ms, grid, side="right") - 1
    filled = ohlcv[:, order[last][place]]
    missing = ts_ms[place] != grid
    filled[:3, missing] = filled[3, missing]
    filled[4, missing] = 0.0
    return grid, filled


def by_numpy_on_a_grid(sources: list[Columns]) -> Columns:
    grid = np.arange(min(ts[0] for ts, _ in sources), max(ts[-1] for ts, _ in sources) + 1, MINUTE)
    ohlcv = np.empty((5, len(grid)))
    there = np.zeros(len(grid), bool)
    for ts_ms, rows in sources:
        place = (ts_ms - grid[0]) // MINUTE
        ohlcv[:, place] = rows
        there[place] = True
    missing = np.flatnonzero(~there)
    before = np.maximum.accumulate(np.where(there, np.arange(len(grid)), 0))[missing]
    ohlcv[:4, missing] = ohlcv[3, before]
    ohlcv[4, missing] = 0.0
    return grid, ohlcv


def by_pandas(frames: list[Any]) -> Any:
    bars = pd.concat(frames, ignore_index=True).drop_duplicates("date", keep="last").set_index("date").sort_index()
    bars = bars.reindex(np.arange(bars.index[0], bars.index[-1] + 1, MINUTE))
    bars["close"] = bars["close"].ffill()
    for name in ("open", "high", "low"):
        bars[name] = bars[name].fillna(bars["close"])
    bars["volume"] = bars["volume"].fillna(0.0)
    return bars


def by_polars(frames: list[Any]) -> Any:
    bars = pl.concat(frames).unique("date", keep="last", maintain_order=True)
    grid = pl.DataFrame({"date": np.arange(bars["date"].min(), bars["date"].max() + 1, MINUTE)})
    bars = grid.join(bars, on="date", how="left", maintain_order="left")
    bars = bars.with_columns(pl.col("close").forward_fill(), pl.col("volume").fill_null(0.0))
    return bars.with_columns(pl.col("open", "high", "low").fill_null(pl.col("close")))


def by_freqtrade(frame: Any) -> Any:
    frame = frame.assign(date=pd.to_datetime(frame["date"], unit="ms", utc=True).dt.floor("1min"))
    frame = frame.astype(dict.fromkeys([*PRICES, "volume"], "float"))
    how = {"open": "first", "high": "max", "low": "min", "close": "last"}
    frame = frame.groupby(by="date", as_index=False, sort=True).agg({**how, "volume": "max"})
    frame = frame.resample("1min", on="date").agg({**how, "volume": "sum"})
    frame["close"] = frame["close"].ffill()
    frame.loc[:, ["open", "high", "low"]] = frame[["open", "high", "low"]].fillna(
        value={"open": frame["close"], "high": frame["close"], "low": frame["close"]}
    )
    return frame.reset_index()


@pytest.fixture(scope="module")
def calls() -> dict[str, Callable[[], Any]]:
    sources = histories()
    tables = [{"date": ts, **dict(zip([*PRICES, "volume"], rows, strict=True))} for ts, rows in sources]
    frames = [pd.DataFrame(table) for table in tables]
    polars_frames = [pl.DataFrame(table) for table in tables]
    joined = pd.concat(frames, ignore_index=True)
    result = _bars.merge(sources, "1m", gaps="flat")
    assert (result.ts_ms.size, result.corrected_ms.size) == (BARS, 0)
    return {
        "ours": lambda: _bars.merge(sources, "1m", gaps="flat"),
        "copy": lambda: (result.ts_ms.copy(), result.ohlcv.copy(), result.origin.copy()),
        "numpy on a grid": lambda: by_numpy_on_a_grid(sources),
        "numpy": lambda: by_numpy(sources),
        "pandas": lambda: by_pandas(frames),
        "polars": lambda: by_polars(polars_frames),
        "freqtrade": lambda: by_freqtrade(joined),
    }


@pytest.fixture(scope="module")
def in_turns(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median CPU times, all candidates in turns."""
    taken: dict[str, list[float]] = {name: [] for name in NAMES}
    random = np.random.default_rng(SEED)
    for _ in range(11):
        for name in random.permutation(NAMES):
            began = time.process_time()
            result = calls[name]()
            taken[name].append(time.process_time() - began)
            del result
    return {name: statistics.median(times) for name, times in taken.items()}


def test_all_give_the_same_bars(calls: dict[str, Callable[[], Any]]) -> None:
    ours = calls["ours"]()
    for name in ("numpy", "numpy on a grid"):
        ts_ms, ohlcv = calls[name]()
        assert np.array_equal(ts_ms, ours.ts_ms), name
        assert np.array_equal(ohlcv, ours.ohlcv), name
    dates = {
        "pandas": lambda frame: frame.index.to_numpy(),
        "polars": lambda frame: frame["date"].to_numpy(),
        "freqtrade": lambda frame: frame["date"].dt.as_unit("ms").astype("int64").to_numpy(),
    }
    for name, date in dates.items():
        frame = calls[name]()
        assert np.array_equal(date(frame), ours.ts_ms), name
        for row, column in zip(ours.ohlcv, [*PRICES, "volume"], strict=True):
            assert np.array_equal(frame[column].to_numpy(), row), (name, column)


@pytest.mark.benchmark(group="merge: 1.1 million bars in, 1 million out", timer=time.process_time)
@pytest.mark.parametrize("name", NAMES)
def test_merge(benchmark: Any, calls: dict[str, Callable[[], Any]], name: str) -> None:
    benchmark.extra_info.update({package: version(package) for package in ("numpy", "pandas", "polars")})
    benchmark.pedantic(calls[name], rounds=10, warmup_rounds=1)


@pytest.mark.parametrize(("name", "wanted"), [("numpy", 6.0), ("pandas", 20.0), ("freqtrade", 28.0)])
def test_ratio(in_turns: dict[str, float], name: str, wanted: float) -> None:
    ratio = in_turns[name] / in_turns["ours"]
    print(f"\nmerge: {name} takes {ratio:.1f} times our time; wanted {wanted:g}")
    assert ratio >= wanted


def test_ratio_to_the_copy(in_turns: dict[str, float]) -> None:
    ratio = in_turns["ours"] / in_turns["copy"]
    print(f"\nmerge: {ratio:.2f} times the time of copying the result; wanted at most 1.5")
    assert ratio <= 1.5
