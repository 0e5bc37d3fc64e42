"""Data that backtrader resamples or replays from a live feed: their bars close by their own data, as in a backtest."""

from dataclasses import replace

import backtrader as bt
import pytest

from simulated import BTC, ETH
from watching import Watcher, ago, prices, stamp_ms, store_of

HOUR_MS = 3_600_000
SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}


def five(bars):
    """Bars of 5 s of bars of 1 s, by their closes; the last may not be over."""
    made = {}
    for stamp, opened, high, low, close, volume in bars:
        end = -(-stamp // 5_000) * 5_000
        kept = made.setdefault(end, [opened, high, low, close, 0.0])
        kept[1], kept[2], kept[3] = max(kept[1], high), min(kept[2], low), close
        kept[4] += volume
    return [(stamp, *map(float, values)) for stamp, values in made.items()]


def run_resampled(server, beside):
    store = store_of(server)
    start = ago(server, minutes=1)
    cerebro = bt.Cerebro(stdstats=False)
    fine = store.getdata(dataname="BTC/USDT", fromdate=start, **SECONDS)
    if beside:
        cerebro.adddata(store.getdata(dataname="ETH/USDT", fromdate=start, **SECONDS))
    else:
        cerebro.adddata(fine)
    cerebro.resampledata(fine, timeframe=bt.TimeFrame.Seconds, compression=5)
    # A pass without a bar follows each bar: in such a pass backtrader asks resamplers whether time has closed theirs.
    cerebro.addstrategy(
        Watcher, until=lambda w: fine.origins.get("ws", 0) >= 40, act=lambda w: store.put_notification("")
    )
    try:
        (watcher,) = cerebro.run()
    finally:
        store.stop()
    assert not watcher.timed_out
    return watcher, fine


def test_a_clone_has_the_bars_of_its_data(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=5)
    watcher, fine = run_resampled(server, beside=False)
    expected = five(watcher.seen[fine])
    seen = watcher.seen[watcher.datas[1]]
    assert len(seen) >= len(expected) - 1
    assert [bar[0] for bar in seen] == [bar[0] for bar in expected[: len(seen)]]
    assert seen == expected[: len(seen)]


def test_a_resampled_feed_beside_another_market(simulator):
    server = simulator((BTC, ETH), history_ms=HOUR_MS, speed=5)
    watcher, fine = run_resampled(server, beside=True)
    seen = watcher.seen[fine]
    market = server.exchange.markets["BTCUSDT"]
    first_ms, last_ms = fine._utc_ms(fine.p.fromdate), int(seen[-1][0]) - 1
    rows = market.klines("1s", start_ms=first_ms, end_ms=last_ms, limit=1_000, now_ms=server.clock.now_ms())
    assert seen == five([(row[0] + 1_000, *map(float, row[1:6])) for row in rows])


FIVE = {"timeframe": bt.TimeFrame.Seconds, "compression": 5}


class Record(Watcher):
    """Writes down what a strategy sees in each `next`: of each data its length, its bar, and an average over it."""

    def __init__(self):
        super().__init__()
        self.rows = []
        self.averages = [bt.indicators.EMA(data, period=2) for data in self.datas]

    def next(self):
        self.rows.append(
            [
                (len(data), stamp_ms(data), *(line[0] for line in prices(data)), average[0] if len(data) > 1 else None)
                for data, average in zip(self.datas, self.averages, strict=True)
                if len(data)
            ]
        )
        self.look()


def plain_and_resampled(cerebro, fine, other):
    cerebro.adddata(fine)
    cerebro.resampledata(fine, **FIVE)


def plain_and_replayed(cerebro, fine, other):
    cerebro.adddata(fine)
    cerebro.replaydata(fine, **FIVE)


def all_at_once(cerebro, fine, other):
    cerebro.adddata(fine)
    cerebro.resampledata(fine, **FIVE)
    cerebro.replaydata(fine, timeframe=bt.TimeFrame.Seconds, compression=10)
    cerebro.resampledata(fine, timeframe=bt.TimeFrame.Minutes, compression=1)


def resampled_alone(cerebro, fine, other):
    cerebro.resampledata(fine, **FIVE)


def replayed_alone(cerebro, fine, other):
    cerebro.replaydata(fine, **FIVE)


def resampled_beside_another(cerebro, fine, other):
    cerebro.adddata(other)
    cerebro.resampledata(fine, **FIVE)


def replayed_beside_another(cerebro, fine, other):
    cerebro.adddata(other)
    cerebro.replaydata(fine, **FIVE)


def recorded(store, build, feeds, **params):
    cerebro = bt.Cerebro(stdstats=False)
    build(cerebro, *feeds)
    cerebro.addstrategy(Record, **{"until": lambda w: False, **params})
    try:
        (watcher,) = cerebro.run()
    finally:
        store.stop()
    assert not watcher.timed_out
    return watcher.rows


@pytest.mark.parametrize(
    "build", [plain_and_resampled, plain_and_replayed, all_at_once, resampled_alone, replayed_alone]
)
def test_a_live_run_sees_what_a_backtest_sees(simulator, build):
    server = simulator((replace(BTC, trades_per_minute=90),), history_ms=HOUR_MS, speed=40)
    store = store_of(server)
    start = ago(server, minutes=2)
    fine = store.getdata(dataname="BTC/USDT", fromdate=start, **SECONDS)
    live = recorded(store, build, (fine, None), until=lambda w: fine.origins.get("ws", 0) >= 60)
    store = store_of(server)
    fine = store.getdata(dataname="BTC/USDT", fromdate=start, historical=True, **SECONDS)
    past = recorded(store, build, (fine, None))
    assert len(live) > 60 / (5 if build is resampled_alone else 1)
    assert live == past[: len(live)]


@pytest.mark.parametrize("build", [resampled_beside_another, replayed_beside_another])
def test_beside_another_market_each_data_is_what_it_is_in_a_backtest(simulator, build):
    server = simulator((replace(BTC, trades_per_minute=90), ETH), history_ms=HOUR_MS, speed=40)
    start = ago(server, minutes=2)

    def closed(rows, which):
        """The last that was seen of each bar but the last, which may go on."""
        return [row[:-1] for row in {row[which][0]: row[which] for row in rows if len(row) > which}.values()][:-1]

    runs = []
    for historical in (False, True):
        store = store_of(server)
        feeds = [
            store.getdata(dataname=f"{base}/USDT", fromdate=start, historical=historical, **SECONDS)
            for base in ("BTC", "ETH")
        ]
        until = (lambda w: False) if historical else (lambda w: feeds[0].origins.get("ws", 0) >= 60)  # noqa: B023
        runs.append(recorded(store, build, feeds, until=until))
    live, past = runs
    assert len(live) > 60
    for which in (0, 1):
        seen = closed(live, which)
        assert len(seen) > 20
        assert seen == closed(past, which)[: len(seen)]
