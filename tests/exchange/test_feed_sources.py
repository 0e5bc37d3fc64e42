"""Live bars from polls and from trades, and what is made of bars that do not exist."""

import backtrader as bt
import pytest

from ccxtbt.errors import ConfigError, DataError
from ccxtbt.sim.spec import Spec
from simulated import BTC, ETH
from watching import ago, assert_equals_exchange, run, store_of

HOUR_MS = 3_600_000
SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}
MINUTES = {"timeframe": bt.TimeFrame.Minutes, "compression": 1}
QUIET = Spec(symbol="DULLUSDT", base="DULL", quote="USDT", price=50, trades_per_minute=20.0)


def start_of(feed):
    return feed._utc_ms(feed.p.fromdate)


def lived(*feeds, bars):
    """Whether each feed has delivered so many bars after its first LIVE."""

    def reached(watcher):
        return all(
            "LIVE" in watcher.states[feed]
            and len(watcher.seen[feed]) >= watcher.bars_at_state[feed][watcher.states[feed].index("LIVE")] + bars
            for feed in feeds
        )

    return reached


@pytest.mark.parametrize(("timeframe", "text", "speed", "bars"), [(SECONDS, "1s", 5, 20), (MINUTES, "1m", 60, 3)])
def test_polls_give_every_bar_of_the_exchange_once(simulator, timeframe, text, speed, bars):
    server = simulator((BTC, ETH), history_ms=HOUR_MS, speed=speed)
    store = store_of(server)
    feeds = [
        store.getdata(dataname=name, fromdate=ago(server, minutes=5), source="poll", **timeframe)
        for name in ("BTC/USDT", "ETH/USDT")
    ]
    watcher = run(store, *feeds, until=lived(*feeds, bars=bars))
    assert server.connects == 0
    for feed in feeds:
        assert watcher.states[feed] == ["DELAYED", "LIVE"]
        assert_equals_exchange(server, watcher, feed, text, start_of(feed))
        assert feed.origins.keys() == {"rest"}
        assert feed.counts.outage == 0


def test_polls_go_out_just_after_each_close_and_not_all_at_once(simulator):
    server = simulator((BTC, ETH), history_ms=HOUR_MS, speed=30)
    store = store_of(server)
    feeds = [
        store.getdata(dataname=name, source="poll", backfill_start=False, **MINUTES)
        for name in ("BTC/USDT", "ETH/USDT")
    ]
    run(store, *feeds, until=lived(*feeds, bars=3))
    polls = [record for record in server.requests if record.path == "/api/v3/klines"]
    # Two readings a bar, three where the market is quiet, and one look at the end.
    assert len(polls) <= 2 * 3 * 4 + 2
    for record in polls:
        assert 1_000 <= record.at_ms % 60_000 <= 12_000


def test_a_break_of_the_line_is_told_to_who_is_polled(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    store = store_of(server, retries=0)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=2), source="poll", **SECONDS)
    broken = []

    def act(watcher):
        if watcher.states[feed][-1] == "LIVE" and not broken:
            broken.append(server.faults.server_error(500, path="/api/v3/klines", times=2))

    watcher = run(store, feed, act=act, until=lambda w: broken and w.states[feed][2:] and w.states[feed][-1] == "LIVE")
    assert watcher.states[feed] == ["DELAYED", "LIVE", "CONNBROKEN", "DELAYED", "LIVE"]
    assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))


@pytest.mark.parametrize("source", ["ohlcv", "poll"])
def test_flat_bars_stand_for_the_seconds_in_which_nobody_traded(simulator, source):
    server = simulator((QUIET,), history_ms=HOUR_MS, speed=5)
    store = store_of(server)
    feed = store.getdata(dataname="DULL/USDT", fromdate=ago(server, minutes=2), gaps="flat", source=source, **SECONDS)
    watcher = run(store, feed, until=lived(feed, bars=25))
    stamps = [bar[0] for bar in watcher.seen[feed]]
    assert stamps == list(range(int(stamps[0]), int(stamps[-1]) + 1, 1_000))
    real = [bar for bar in watcher.seen[feed] if bar[5] > 0]
    flat = len(stamps) - len(real)
    assert 20 < flat <= feed.origins["synthetic"] <= feed.counts.synthetic
    for before, bar in zip(watcher.seen[feed], watcher.seen[feed][1:], strict=False):
        if bar[5] == 0:
            assert bar[1:5] == (before[4],) * 4
    watcher.seen[feed] = real
    assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))


def test_a_gap_may_end_the_run(simulator):
    server = simulator((QUIET,), history_ms=HOUR_MS, speed=10)
    store = store_of(server)
    feed = store.getdata(dataname="DULL/USDT", backfill_start=False, gaps="raise", **SECONDS)
    with pytest.raises(DataError, match="gaps='flat'"):
        run(store, feed, until=lambda w: False)


@pytest.mark.parametrize("wrong", [{"source": "rest"}, {"gaps": "fill"}])
def test_what_is_unknown_is_refused(simulator, wrong):
    server = simulator((BTC,), history_ms=HOUR_MS)
    feed = store_of(server).getdata(dataname="BTC/USDT", **wrong, **SECONDS)
    with pytest.raises(ConfigError, match="give one of"):
        run(feed.store, feed, until=lambda w: False)
