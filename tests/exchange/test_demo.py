"""The main job, as `ccxtbt demo` runs it."""

import csv
import gzip

import pytest
from rich.console import Console

from ccxtbt import demo
from recording import recorded


@pytest.fixture
def console(tmp_path):
    with (tmp_path / "console.txt").open("w") as file:
        yield Console(file=file, width=120)


def test_a_run_on_a_seeded_market_agrees_with_the_exchange(console, tmp_path):
    plan = demo.Plan(history=400, live=60, speed=10.0)
    report = demo.run(plan, demo.seeded_exchange(plan), console)
    assert report.faults == []
    assert report.strategy.trades > 0
    for data in report.strategy.datas:
        assert data.origins["rest"] > 200
        assert data.origins["ws"] > 30
    demo.draw(report, tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_the_bars_of_replayed_trades_are_the_recorded_bars(console):
    trades = demo.read_trades(recorded("captures/xrp_eth_trades.csv.gz"))
    plan = demo.plan_of(trades, "XRP/ETH", live=8, speed=20.0)
    report = demo.run(plan, demo.replayed_exchange(plan, trades), console)
    assert report.faults == []
    (feed,) = report.strategy.datas
    with gzip.open(recorded("captures/xrp_eth_1m.csv.gz"), "rt") as lines:
        expected = [
            (int(row["ts_ms"]) + 60_000, *(float(row[key]) for key in ("open", "high", "low", "close", "volume")))
            for row in csv.DictReader(lines)
        ]
    assert feed.origins["ws"] >= 3
    assert report.strategy.bars[feed] == expected


def test_a_judge_that_finds_a_difference_says_so():
    plan = demo.Plan(history=100, live=1)
    exchange = demo.seeded_exchange(plan)
    market = exchange.markets["BTCUSDT"]
    now_ms = exchange.clock.now_ms()
    rows = market.klines("1s", start_ms=now_ms - 60_000, end_ms=now_ms - 1_000, limit=1_000, now_ms=now_ms)
    seen = [(row[0] + 1_000, *map(float, row[1:6])) for row in rows]
    assert demo.compare_bars(plan, market, seen, now_ms) == []
    assert "no bar of" in demo.compare_bars(plan, market, seen[:5] + seen[6:], now_ms)[0]
    assert "2 times" in demo.compare_bars(plan, market, [*seen[:5], seen[4], *seen[5:]], now_ms)[0]
    assert "the exchange has" in demo.compare_bars(plan, market, [(*seen[0][:5], 1e9), *seen[1:]], now_ms)[0]
