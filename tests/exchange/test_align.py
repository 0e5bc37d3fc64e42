"""Bars of many markets that close together come in one `next()`, and no market that is silent holds the others up."""

from dataclasses import replace

import backtrader as bt
import pytest

from ccxtbt.errors import ConfigError
from simulated import BNB, BTC, ETH
from waiting import wait_until
from watching import ago, assert_equals_exchange, run, stamp_ms, store_of

HOUR_MS = 3_600_000
SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}
BUSY = [replace(spec, quiet=0.0, trades_per_minute=3_000.0) for spec in (BTC, ETH, BNB)]


def run_three(server, align, slow=()):
    """Run three markets; return, by stamp, which came in each pass and how late it was on the exchange's clock."""
    store = store_of(server)
    feeds = [
        store.getdata(dataname=f"{spec.base}/USDT", fromdate=ago(server, minutes=1), align=align, **SECONDS)
        for spec in BUSY
    ]
    came, lengths = [], {}

    def note(watcher):
        new = [feed for feed in feeds if len(feed) > lengths.get(feed, 0)]
        lengths.update((feed, len(feed)) for feed in feeds)
        if all(feed._laststatus == feed.LIVE for feed in feeds):
            late_ms = server.clock.now_ms() - stamp_ms(watcher)
            came.append((stamp_ms(watcher), [feed.p.dataname for feed in new], late_ms))

    enough = [feed for feed in feeds if feed.p.dataname not in slow]
    watcher = run(store, *feeds, act=note, until=lambda w: all(f.origins.get("ws", 0) >= 14 for f in enough))
    for feed in feeds:
        assert_equals_exchange(server, watcher, feed, "1s", feed._utc_ms(feed.p.fromdate))
    by_stamp = {}
    for stamp, names, late_ms in came:
        by_stamp.setdefault(stamp, []).append((names, late_ms))
    # The first and the last pass may be cut.
    return list(by_stamp.values())[1:-1]


def late(server, symbol, seconds):
    """Let the closing frames of a market come later than those of the others."""
    server.faults.delay(seconds, stream=f"{symbol}@kline_1s", where=lambda event: event["k"]["x"], times=0)


def test_bars_that_close_together_come_in_one_pass(simulator):
    server = simulator(BUSY, history_ms=HOUR_MS, speed=2)
    late(server, "ethusdt", 0.2)
    together = run_three(server, align=0.8)
    assert len(together) >= 8
    assert all(len(passes) == 1 and len(passes[0][0]) == 3 for passes in together), together


def test_without_it_each_comes_at_once(simulator):
    server = simulator(BUSY, history_ms=HOUR_MS, speed=2)
    late(server, "ethusdt", 0.2)
    apart = run_three(server, align=None)
    assert all(len(passes) >= 2 and "ETH/USDT" in passes[-1][0] for passes in apart), apart


def test_a_market_that_falls_silent_is_not_waited_for(simulator):
    server = simulator(BUSY, history_ms=HOUR_MS, speed=2)
    # Without closing frames its bars come over REST, seconds later.
    server.faults.lose(stream="bnbusdt@kline_1s", where=lambda event: event["k"]["x"], nth=3, times=0)
    passes = run_three(server, align=0.8, slow=("BNB/USDT",))
    pairs = [[each for each in group if "BTC/USDT" in each[0]] for group in passes]
    pairs = [group[0] for group in pairs if group]
    assert len(pairs) >= 8
    assert all("ETH/USDT" in names for names, _ in pairs), pairs
    waited = [late_ms for _, late_ms in pairs if late_ms >= 800]
    assert len(waited) < len(pairs) / 2, pairs


def test_cerebro_does_not_sleep_over_bars_that_have_come(simulator):
    server = simulator(BUSY, history_ms=HOUR_MS, speed=10)
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    waiting, slept = [], []

    def act(watcher):
        if feed.origins.get("ws", 0) >= 5 and not waiting:
            # What comes while this pass takes its time comes in one go.
            waiting.append(0)
            wait_until(lambda: store.inbox._queue.qsize() >= 5)
        elif waiting and feed.pending:
            waiting.append(feed.pending)
            slept.append(store._may_sleep())

    run(store, feed, act=act, until=lambda w: len(waiting) > 1 and not feed.pending)
    assert len(waiting) > 2
    assert not any(slept)


@pytest.mark.parametrize("align", [-1, "soon"])
def test_a_grace_that_is_none_is_refused(simulator, align):
    store = store_of(simulator(BUSY, history_ms=HOUR_MS))
    with pytest.raises(ConfigError, match="align"):
        run(store, store.getdata(dataname="BTC/USDT", align=align, **SECONDS), until=lambda w: True)
