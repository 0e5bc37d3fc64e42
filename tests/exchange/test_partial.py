"""The forming bar, live, is what backtrader's own replay makes of the same updates."""

from dataclasses import replace

import backtrader as bt
import numpy as np
import pytest

from ccxtbt.bulkfeed import BulkFeed
from ccxtbt.errors import ConfigError
from simulated import BTC, ETH
from watching import Watcher, ago, prices, run, run_out, stamp_ms, store_of, truth

HOUR_MS = 3_600_000
SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}
MINUTES = {"timeframe": bt.TimeFrame.Minutes, "compression": 1}
BUSY = (replace(BTC, quiet=0.0), replace(ETH, quiet=0.0))


class Record(Watcher):
    """Writes down what a strategy sees of its first data in each `next`, and what indicators make of it."""

    def __init__(self):
        super().__init__()
        self.rows = []
        self.marks = []
        data = self.datas[0]
        self.indicators = [bt.indicators.SMA(data, period=3), bt.indicators.EMA(data, period=2)]
        self.indicators.append(bt.indicators.Highest(data.high, period=2))

    def next(self):
        data = self.datas[0]
        if len(data) and (not self.rows or (len(data), stamp_ms(data)) != self.rows[-1][:2]):
            made = [line[0] if len(data) >= 3 else None for line in self.indicators]
            self.rows.append((len(data), stamp_ms(data), *(line[0] for line in prices(data)), *made))
            self.marks.append(getattr(data, "forming", None))
            assert all(len(line) == len(data) for line in self.indicators)
        self.look()


def recorded(store, *feeds, settings=None, **params):
    cerebro = bt.Cerebro(stdstats=False, **(settings or {}))
    for feed in feeds:
        cerebro.adddata(feed)
    return run_out(cerebro, store, Record, **params)


def replayed(rows):
    """What backtrader's replaydata shows of the updates that were seen: each as a small bar of its own."""
    stamps, bars, before = [], [], None
    for length, stamp, opened, high, low, close, volume, *_ in rows:
        same = before is not None and before[0] == length
        stamps.append(stamp)
        bars.append((opened, high, low, close, volume - before[1] if same else volume))
        before = length, volume
    columns = np.array(stamps, np.int64), np.ascontiguousarray(np.array(bars).T)
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.replaydata(BulkFeed(columns=columns, stamp="open", **SECONDS), **MINUTES)
    cerebro.addstrategy(Record, until=lambda w: False)
    return cerebro.run()[0].rows


def assert_replayed(rows):
    for seen, expected in zip(rows, replayed(rows), strict=True):
        assert seen[:6] == expected[:6]
        assert seen[6:7] == pytest.approx(expected[6:7])
        assert seen[7:] == expected[7:]


@pytest.mark.parametrize("settings", [{}, {"exactbars": 1}], ids=str)
def test_the_forming_bar_is_what_replay_shows(simulator, settings):
    server = simulator(BUSY, history_ms=HOUR_MS, speed=40)
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=5), partial=True, **MINUTES)
    watcher = recorded(store, feed, until=lambda w: feed.origins.get("ws", 0) >= 4, settings=settings)
    assert_replayed(watcher.rows)
    assert sum(watcher.marks) > 20
    # What is marked as closed are the exchange's bars, each once; what is marked as forming is seen within its bar.
    closed = [row[1:7] for row, forming in zip(watcher.rows, watcher.marks, strict=True) if not forming]
    start_ms = feed._utc_ms(feed.p.fromdate)
    assert closed == truth(server, feed, "1m", start_ms, closed[-1][0] - 1)
    assert all(row[1] % 60_000 for row, forming in zip(watcher.rows, watcher.marks, strict=True) if forming)


def test_beside_another_market_no_length_is_lost(simulator):
    server = simulator(BUSY, history_ms=HOUR_MS, speed=40)
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=5), partial=True, **MINUTES)
    other = store.getdata(dataname="ETH/USDT", fromdate=ago(server, minutes=5), **SECONDS)
    both = store.getdata(dataname="ETH/USDT", name="both", fromdate=ago(server, minutes=5), partial=True, **MINUTES)
    watcher = recorded(store, feed, other, both, until=lambda w: feed.origins.get("ws", 0) >= 4)
    assert_replayed(watcher.rows)
    assert sum(watcher.marks) > 20
    lengths = [row[0] for row in watcher.rows]
    assert lengths == sorted(lengths)


def test_after_a_break_the_forming_bar_is_closed_in_its_place(simulator):
    server = simulator(BUSY, history_ms=HOUR_MS, speed=40)
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=5), partial=True, **MINUTES)
    broken = []

    def until(watcher):
        if feed.origins.get("ws", 0) >= 2 and feed.forming and not broken:
            broken.append(server.abort_connections())
        return broken and feed.origins.get("ws", 0) >= 4 and watcher.states[feed][-1] == "LIVE"

    watcher = recorded(store, feed, until=until)
    assert watcher.states[feed] == ["DELAYED", "LIVE", "CONNBROKEN", "DELAYED", "LIVE"]
    closed = [row[1:7] for row, forming in zip(watcher.rows, watcher.marks, strict=True) if not forming]
    assert closed == truth(server, feed, "1m", feed._utc_ms(feed.p.fromdate), closed[-1][0] - 1)
    assert_replayed(watcher.rows)


def test_coarser_bars_of_a_partial_feed_are_made_of_closed_ones(simulator):
    server = simulator(BUSY, history_ms=HOUR_MS, speed=40)
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=7), partial=True, **SECONDS)
    made = feed.resampled("1m")
    watcher = run(store, feed, made, until=lambda w: feed.origins.get("ws", 0) >= 130)
    seen = watcher.seen[made]
    expected = truth(server, feed, "1m", feed._utc_ms(feed.p.fromdate), seen[-1][0] - 1)
    assert [bar[:5] for bar in seen] == [bar[:5] for bar in expected]


@pytest.mark.parametrize("ask", ["resampledata", "replaydata"])
def test_a_forming_bar_is_never_resampled(simulator, ask):
    store = store_of(simulator(BUSY, history_ms=HOUR_MS))
    feed = store.getdata(dataname="BTC/USDT", partial=True, **SECONDS)
    cerebro = bt.Cerebro()
    cerebro.adddata(feed)
    with pytest.raises(ConfigError, match="partial"):
        getattr(cerebro, ask)(feed, **MINUTES)


def test_a_forming_bar_is_never_filtered(simulator):
    store = store_of(simulator(BUSY, history_ms=HOUR_MS))
    feed = store.getdata(dataname="BTC/USDT", partial=True, **SECONDS)
    feed.addfilter(bt.filters.SessionFilter)
    with pytest.raises(ConfigError, match="partial"):
        run(store, feed, until=lambda w: True)
