"""The main job, as `ccxtbt demo` runs it."""

import csv
import gzip

import pytest
from rich.console import Console

from ccxtbt import demo
from ccxtbt.errors import ConfigError
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

    def compare(bars):
        return demo.compare_bars(plan, market, bars, now_ms - 60_000, now_ms)

    assert compare(seen) == []
    assert "no bar of" in compare(seen[1:])[0]
    assert "no bar of" in compare(seen[:5] + seen[6:])[0]
    assert "2 times" in compare([*seen[:5], seen[4], *seen[5:]])[0]
    assert "the exchange has" in compare([(*seen[0][:5], 1e9), *seen[1:]])[0]


@pytest.mark.parametrize("seed", [7, 1, 2, 3])
def test_the_history_of_a_seeded_run_has_2000_bars_of_each_symbol(seed):
    plan = demo.Plan(seed=seed)
    exchange = demo.seeded_exchange(plan)
    now_ms = exchange.clock.now_ms()
    for market in exchange.markets.values():
        since_ms, bars = now_ms - plan.history * plan.bar_ms, 0
        while rows := market.klines("1s", start_ms=since_ms, end_ms=now_ms, limit=1_000, now_ms=now_ms):
            since_ms, bars = rows[-1][0] + 1, bars + len(rows)
        assert bars >= 2_000


@pytest.mark.parametrize(
    ("lines", "symbol", "live", "sentence"),
    [
        ([], "XRP/ETH", 1, "no trades"),
        (["x,buy,1,1"], "XRP/ETH", 1, "line 2 is no trade"),
        (["60000,buy,1,1"], "XRPETH", 1, "base and quote"),
        (["60000,buy,1,1"], "XRP/ETH", 1, "at most 0"),
    ],
)
def test_trades_that_cannot_be_replayed_are_said(tmp_path, lines, symbol, live, sentence):
    file = tmp_path / "trades.csv"
    file.write_text("\n".join(["timestamp,side,price,amount", *lines]))
    with pytest.raises(ConfigError, match=sentence):
        demo.plan_of(demo.read_trades(file), symbol, live, 20.0)
