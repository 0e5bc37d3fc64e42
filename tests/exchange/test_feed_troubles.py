"""What must not happen to the bars of a feed when the exchange, or the script, does something unusual."""

import backtrader as bt
import pytest

from ccxtbt.errors import TryLaterError
from simulated import BTC
from waiting import wait_until
from watching import Watcher, ago, assert_equals_exchange, run, store_of

HOUR_MS = 3_600_000
SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}


def start_of(feed):
    return feed._utc_ms(feed.p.fromdate)


def test_a_backfill_that_fails_is_asked_for_again(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    store = store_of(server, retries=0)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=2), **SECONDS)
    broken = []

    def act(watcher):
        if feed.origins.get("ws", 0) >= 5 and not broken:
            server.faults.server_error(500, path="/api/v3/klines", times=2)
            broken.append(server.abort_connections())

    watcher = run(
        store,
        feed,
        act=act,
        until=lambda w: broken and feed.origins.get("ws", 0) >= 20 and w.states[feed][-1] == "LIVE",
    )
    assert len(server.faults.log) == 2
    assert watcher.states[feed] == ["DELAYED", "LIVE", "CONNBROKEN", "DELAYED", "LIVE"]
    assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))


def test_a_market_that_cannot_be_streamed_gives_its_history_and_is_never_live(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    # ccxt refuses the subscription before anything is sent.
    store = store_of(server, config={"options": {"subscriptionLimitByStream": {"spot": 0}}})
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=2), **SECONDS)
    watcher = run(store, feed, until=lambda w: w.states[feed][-1:] == ["NOTSUBSCRIBED"])
    assert watcher.states[feed] == ["DELAYED", "NOTSUBSCRIBED"]
    assert watcher.bars_at_state[feed][1] == len(watcher.seen[feed]) > 60
    assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))


def test_a_second_run_hears_nothing_of_the_first(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=2), **SECONDS)
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.adddata(feed)

    def left_something(watcher):
        if feed.origins.get("ws", 0) < 3:
            return False
        wait_until(lambda: not store.inbox._queue.empty(), 10)
        return True

    cerebro.addstrategy(Watcher, until=left_something)
    cerebro.run()
    assert not store.inbox._queue.empty()
    cerebro.strats.clear()
    cerebro.addstrategy(Watcher, until=lambda w: feed.origins.get("ws", 0) >= 5)
    (watcher,) = cerebro.run()
    assert watcher.states[feed] == ["DELAYED", "LIVE"]
    assert watcher.bars_at_state[feed][1] >= feed.origins["rest"]
    assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))


def test_a_live_run_ends_at_its_last_date_and_says_so(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    store = store_of(server)
    last = ago(server, minutes=-1)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=2), todate=last, **SECONDS)
    watcher = run(store, feed, until=lambda w: False)
    assert watcher.states[feed] == ["DELAYED", "LIVE", "DISCONNECTED"]
    assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))
    assert feed._utc_ms(last) - 10_000 <= watcher.seen[feed][-1][0] - 1_000 <= feed._utc_ms(last)


def test_a_live_feed_whose_last_date_is_past_is_never_live(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    store = store_of(server)
    feed = store.getdata(
        dataname="BTC/USDT", fromdate=ago(server, minutes=20), todate=ago(server, minutes=10), **SECONDS
    )
    watcher = run(store, feed, until=lambda w: False)
    assert watcher.states[feed] == ["DELAYED", "DISCONNECTED"]
    assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))


def test_a_feed_that_failed_can_be_run_again(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    store = store_of(server, retries=0)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=2), historical=True, **SECONDS)
    server.faults.server_error(500, path="/api/v3/klines")
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.adddata(feed)
    cerebro.addstrategy(Watcher, until=lambda w: False)
    with pytest.raises(TryLaterError, match="try again later"):
        cerebro.run()
    store.stop()
    (watcher,) = cerebro.run()
    assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))


def test_a_backlog_is_delivered_at_once_and_not_a_bar_at_a_time(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=2), **SECONDS)
    behind_ms = []

    def act(watcher):
        if watcher.states[feed][-1:] == ["LIVE"]:
            behind_ms.append(server.clock.now_ms() - watcher.seen[feed][-1][0])

    run(store, feed, act=act, until=lambda w: len(behind_ms) >= 3)
    # The last bars of the history come in one piece, as live bars; then each comes as it closes.
    assert min(behind_ms) < 5_000
