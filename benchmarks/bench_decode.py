"""How long does an exchange's answer of 1,000 bars take to become columns?

    taskset -c 0 python -m pytest --benchmark benchmarks/bench_decode.py

One table an exchange, from the body's text to int64 times and float64 columns unless a name says otherwise; one more
for rows that ccxt has parsed already. `test_ratios` takes the same calls in turns, so that a busy machine slows all
alike, and holds the medians to what is promised.

The answers are seeded random walks written in each exchange's manner; Kraken's is also a recorded one, spaced and
indented, where the recording is at hand. Caveats: pysimdjson's figure is the parse alone, which turns no quoted number
into one; ccxt's is without columns; bt-ccxt-store's is a description of its loops, without its requests and pauses.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from typing import Any

import backtrader as bt
import ccxt
import numpy as np
import orjson
import pytest

from ccxtbt._ohlcv import Layout, decode, rows_to_columns
from ccxtbt.exchange.layouts import follow, path_to, probe_rows
from recording import recorded
from reference import answers

ROWS = 1000
SINCE_MS = answers.START_MS
MARKET = {"type": "spot", "spot": True, "inverse": False}
Case = tuple[str, Any, Layout]


def case(name: str) -> Case:
    """A body, ccxt's class, and the layout that the class itself tells of."""
    exchange_id, _, source = name.partition(" ")
    if source:
        body = recorded("captures/kraken_ohlc.json").read_text()
    else:
        body = getattr(answers, exchange_id)(answers.candles(ROWS))
    exchange = getattr(ccxt, exchange_id)()
    answer = orjson.loads(body)
    found = [value for value in (answer, *_lists(answer)) if isinstance(value, list) and len(value) > 100]
    path = path_to(answer, found[0])
    assert path is not None
    layout = probe_rows(lambda row: exchange.parse_ohlcv(row, MARKET), found[0][0], path)
    assert layout is not None
    return body, exchange, layout


def _lists(answer: Any) -> list[Any]:
    if not isinstance(answer, dict):
        return []
    return [inner for value in answer.values() for inner in (value, *_lists(value))]


def ours(body: str, exchange: Any, layout: Layout) -> Any:
    return decode(body, layout)


def ccxt_rows(body: str, exchange: Any, layout: Layout) -> Any:
    """What `fetch_ohlcv` does with an answer: lists of a bar each, no columns."""
    rows = follow(orjson.loads(body), layout.path)
    return exchange.parse_ohlcvs(rows, MARKET, "1m", SINCE_MS, None)


def bt_ccxt_store(body: str, exchange: Any, layout: Layout) -> Any:
    """bt-ccxt-store's path, described from its `_fetch_ohlcv` and `_load_ohlcv`: ccxt, sort, check, queue, lines."""
    queue: deque[Any] = deque()
    last_ts = 0
    for ohlcv in sorted(ccxt_rows(body, exchange, layout)):
        if None in ohlcv:
            continue
        if ohlcv[0] > last_ts:
            queue.append(ohlcv)
            last_ts = ohlcv[0]
    lines = LINES
    while queue:
        tstamp, open_, high, low, close, volume = queue.popleft()
        lines.datetime[0] = bt.date2num(datetime.utcfromtimestamp(tstamp // 1000))  # noqa: DTZ004  # as it does
        lines.open[0] = open_
        lines.high[0] = high
        lines.low[0] = low
        lines.close[0] = close
        lines.volume[0] = volume
    return None


def orjson_numpy(body: str, exchange: Any, layout: Layout) -> Any:
    """The shortest way with what everybody has."""
    rows = follow(orjson.loads(body), layout.path)
    columns = list(zip(*rows, strict=True))
    ts_ms = np.fromiter(map(int, columns[layout.fields[0]]), np.int64, len(rows)) * (1000 if layout.time == "s" else 1)
    ohlcv = np.empty((5, len(rows)))
    for line, field in zip(ohlcv, layout.fields[1:], strict=True):
        line[:] = np.fromiter(map(float, columns[field]), np.float64, len(rows))
    return (ts_ms[::-1], ohlcv[:, ::-1]) if ts_ms[0] > ts_ms[-1] else (ts_ms, ohlcv)


def pysimdjson_parse(body: str, exchange: Any, layout: Layout) -> Any:
    """The parse alone: no number is converted to Python, and quoted ones not at all."""
    return SIMDJSON.parse(body)


class Lines:
    """The six line buffers of a backtrader data, one bar long."""

    def __init__(self) -> None:
        for name in ("datetime", "open", "high", "low", "close", "volume"):
            line = bt.LineBuffer()
            line.forward()
            setattr(self, name, line)


LINES = Lines()
SIMDJSON: Any = None
PEERS: list[Callable[[str, Any, Layout], Any]] = [ours, ccxt_rows, bt_ccxt_store, orjson_numpy, pysimdjson_parse]


@pytest.fixture
def simdjson_parser() -> None:
    global SIMDJSON
    SIMDJSON = pytest.importorskip("simdjson").Parser()


def _note_versions(benchmark: Any, body_bytes: int) -> None:
    names = ("ccxt", "orjson", "numpy", "backtrader", "pysimdjson")
    benchmark.extra_info["versions"] = {name: version(name) for name in names} | {"python": sys.version.split()[0]}
    benchmark.extra_info["body_bytes"] = body_bytes


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.__name__)
@pytest.mark.parametrize("name", ["binance", "okx", "bybit", "kraken", "kraken recorded"])
def test_decode(benchmark: Any, name: str, peer: Callable[..., Any], simdjson_parser: None) -> None:
    benchmark.group = f"decode {name}"
    body, exchange, layout = case(name)
    _note_versions(benchmark, len(body))
    wanted = rows_to_columns(exchange.parse_ohlcvs(follow(orjson.loads(body), layout.path), MARKET))
    found = benchmark(peer, body, exchange, layout)
    if peer in {ours, orjson_numpy}:
        assert found[0].tolist() == wanted[0].tolist()
        assert found[1].tobytes() == wanted[1].tobytes()


def np_array(rows: list[Any]) -> Any:
    """One array of float64, row by row: columns would be one more copy."""
    return np.array(rows)


@pytest.mark.parametrize("peer", [rows_to_columns, np_array], ids=["ours", "np_array"])
def test_parsed_rows(benchmark: Any, peer: Callable[..., Any]) -> None:
    benchmark.group = "parsed rows to arrays"
    body, exchange, layout = case("binance")
    rows = ccxt_rows(body, exchange, layout)
    _note_versions(benchmark, len(body))
    assert len(rows) == ROWS
    benchmark(peer, rows)


PROMISED = {
    "binance": {ccxt_rows: 35.0, bt_ccxt_store: 50.0, orjson_numpy: 10.0, pysimdjson_parse: 1.0},
    "okx": {ccxt_rows: 45.0},
    "bybit": {ccxt_rows: 28.0},
    "kraken": {ccxt_rows: 22.0},
}


def in_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median time of each call, in s."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def hold(benchmark: Any, promised: dict[str, float], calls: dict[str, Callable[[], Any]]) -> None:
    """Note how many times our time each peer takes, and compare with what is promised."""
    benchmark.pedantic(calls["ours"], rounds=20)
    medians = in_turns(calls, 60)
    ratios = {name: round(medians[name] / medians["ours"], 1 + (name == "pysimdjson_parse")) for name in promised}
    benchmark.extra_info["ratios"] = ratios
    print(f"\n{benchmark.name}: times our time: {ratios}; promised: {promised}")
    assert all(ratios[name] >= wanted for name, wanted in promised.items()), ratios


@pytest.mark.parametrize("name", PROMISED)
def test_ratios(benchmark: Any, name: str, simdjson_parser: None) -> None:
    benchmark.group = "ratios"
    given = case(name)
    calls = {peer.__name__: (lambda peer=peer: peer(*given)) for peer in (ours, *PROMISED[name])}
    hold(benchmark, {peer.__name__: wanted for peer, wanted in PROMISED[name].items()}, calls)


def test_ratio_of_parsed_rows(benchmark: Any) -> None:
    benchmark.group = "ratios"
    rows = ccxt_rows(*case("binance"))
    calls = {"ours": lambda: rows_to_columns(rows), "np_array": lambda: np_array(rows)}
    hold(benchmark, {"np_array": 8.0}, calls)
