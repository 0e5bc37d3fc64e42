"""How long does it take to make one clean sequence of a million bars from pages that overlap?

    taskset -c 1 python -m pytest --benchmark benchmarks/bench_merge.py

1,000,000 minutes with 1% gaps and 1% repeated rows come in two runs that overlap by 100,000 bars. Columns go in and
columns come out. Peers: numpy as one would write it by hand, pandas, and freqtrade's way of cleaning and filling
(its algorithm in our words: group by date and aggregate, then resample and fill forward), beside which ours fills too.
`test_ratios` takes all in turns, so that a busy machine slows all alike. Caveats: freqtrade works on frames, so the
time to make one of columns is not counted against it; the copy of the result is the floor.
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

BARS, STEP_MS, START_MS = 1_000_000, 60_000, 1_600_000_020_000
Columns = tuple[np.ndarray, np.ndarray]
PROMISED = {"numpy": 6.0, "pandas": 20.0, "freqtrade": 28.0}


def pages() -> list[Columns]:
    """Two runs that overlap, with gaps and repeated rows."""
    random = np.random.default_rng(20260105)
    ts_ms = START_MS + STEP_MS * np.arange(BARS, dtype=np.int64)
    ts_ms = ts_ms[random.random(BARS) >= 0.01]
    ts_ms = np.sort(np.concatenate([ts_ms, random.choice(ts_ms, len(ts_ms) // 100, replace=False)]))
    closes = 100 + np.cumsum(random.normal(0, 0.01, len(ts_ms)))
    ohlcv = np.stack([closes, closes + 0.02, closes - 0.02, closes + 0.01, random.random(len(ts_ms))])
    half, overlap = len(ts_ms) // 2, 50_000
    runs = [slice(0, half + overlap), slice(half - overlap, None)]
    return [(ts_ms[run].copy(), ohlcv[:, run].copy()) for run in runs]


def by_numpy(sources: list[Columns]) -> Columns:
    ts_ms = np.concatenate([ts for ts, _ in sources])
    ohlcv = np.concatenate([rows for _, rows in sources], axis=1)
    order = np.argsort(ts_ms, kind="stable")
    ts_ms = ts_ms[order]
    last = np.append(ts_ms[1:] != ts_ms[:-1], True)
    return ts_ms[last], ohlcv[:, order[last]]


def frame_of(sources: list[Columns]) -> Any:
    frames = [
        pd.DataFrame({"date": ts, **dict(zip(("open", "high", "low", "close", "volume"), rows, strict=True))})
        for ts, rows in sources
    ]
    return pd.concat(frames, ignore_index=True)


def by_pandas(sources: list[Columns]) -> Any:
    return frame_of(sources).drop_duplicates("date", keep="last").sort_values("date")


def by_freqtrade(frame: Any) -> Any:
    """Clean and fill as freqtrade's converter does: aggregate equal dates, resample, fill forward."""
    aggregate = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "max"}
    frame = frame.assign(date=pd.to_datetime(frame["date"], unit="ms", utc=True))
    frame = frame.groupby(by="date", as_index=False, sort=True).agg(aggregate)
    whole = {**aggregate, "volume": "sum"}
    filled = frame.resample("1min", on="date").agg(whole)
    filled["close"] = filled["close"].ffill()
    filled.loc[:, ["open", "high", "low"]] = filled[["open", "high", "low"]].fillna(
        value={"open": filled["close"], "high": filled["close"], "low": filled["close"]}
    )
    return filled.reset_index()


@pytest.fixture(scope="module")
def calls() -> dict[str, Callable[[], Any]]:
    sources = pages()
    result = _bars.merge(sources)
    frame = frame_of(sources)
    return {
        "ours": lambda: _bars.merge(sources),
        "ours, filled": lambda: _bars.merge(sources, "1m", gaps="flat"),
        "copy of the result": lambda: (result.ts_ms.copy(), result.ohlcv.copy()),
        "numpy": lambda: by_numpy(sources),
        "pandas": lambda: by_pandas(sources),
        "freqtrade": lambda: by_freqtrade(frame),
    }


def test_all_give_the_same_bars(calls: dict[str, Callable[[], Any]]) -> None:
    ours = calls["ours"]()
    for name in ("numpy", "pandas"):
        theirs = calls[name]()
        opens = theirs[0] if isinstance(theirs, tuple) else theirs["date"].to_numpy()
        assert np.array_equal(ours.ts_ms, opens)
    filled, frame = calls["ours, filled"](), calls["freqtrade"]()
    assert np.array_equal(filled.ts_ms, frame["date"].dt.as_unit("ms").astype("int64").to_numpy())
    assert np.array_equal(filled.ohlcv[3], frame["close"].to_numpy())


@pytest.mark.benchmark(group="merge of 1,000,000 bars")
@pytest.mark.parametrize("name", ["ours", "ours, filled", "copy of the result", "numpy", "pandas", "freqtrade"])
def test_merge(benchmark: Any, calls: dict[str, Callable[[], Any]], name: str) -> None:
    benchmark.extra_info.update(numpy=np.__version__, pandas=version("pandas"))
    benchmark.pedantic(calls[name], rounds=5 if name in ("pandas", "freqtrade") else 15, warmup_rounds=1)


@pytest.mark.benchmark(group="merge: ratios, all in turns")
def test_ratios(benchmark: Any, calls: dict[str, Callable[[], Any]]) -> None:
    """Note how many times our time each peer takes, and compare with what is promised."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(7):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    ratios = {name: medians[name] / medians["ours"] for name in ("numpy", "pandas")}
    ratios["freqtrade"] = medians["freqtrade"] / medians["ours, filled"]
    over_copy = medians["ours"] / medians["copy of the result"]
    benchmark.extra_info.update(
        {name: round(ratio, 1) for name, ratio in ratios.items()}, over_copy=round(over_copy, 2)
    )
    print(f"\nmerge: times our time {benchmark.extra_info}")
    benchmark.pedantic(calls["ours"], rounds=3)
    assert {name for name, ratio in ratios.items() if ratio < PROMISED[name]} == set()
    assert over_copy <= 1.5
