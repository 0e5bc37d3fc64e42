"""Bars through ccxt's real class, over real HTTP and WebSocket: history, hand-over, live, breaks."""

import datetime as dt

import backtrader as bt
import pytest

from ccxtbt.ccxtfeed import CCXTFeed
from ccxtbt.ccxtstore import CCXTStore
from ccxtbt.errors import ConfigError, NotOfferedError, TryLaterError
from simulated import BTC, ETH
from watching import ago, assert_equals_exchange, run, store_of

HOUR_MS = 3_600_000
SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}
MINUTES = {"timeframe": bt.TimeFrame.Minutes, "compression": 1}


def start_of(feed: CCXTFeed) -> int:
    """The open of the first bar that a feed was asked for."""
    return feed._utc_ms(feed.p.fromdate)


def live_bars(feed: CCXTFeed, count: int):
    return lambda watcher: feed.origins.get("ws", 0) >= count


def test_history_then_live_without_a_seam(simulator):
    server = simulator((BTC, ETH), history_ms=HOUR_MS, speed=10)
    store = store_of(server)
    btc = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=30), **SECONDS)
    eth = store.getdata(dataname="ETH/USDT", fromdate=ago(server, minutes=20), **SECONDS)
    watcher = run(store, btc, eth, until=lambda w: live_bars(btc, 20)(w) and live_bars(eth, 20)(w))
    for feed in (btc, eth):
        assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))
        assert watcher.states[feed] == ["DELAYED", "LIVE"]
        # DELAYED is told before the first bar, LIVE only after the whole history.
        assert watcher.bars_at_state[feed][0] == 0
        assert watcher.bars_at_state[feed][1] >= feed.origins["rest"]
        assert feed.origins["rest"] > 1_000


def test_two_timeframes_of_one_market_never_look_ahead(simulator):
    server = simulator((BTC,), history_ms=3 * HOUR_MS, speed=20)
    store = store_of(server)
    fast = store.getdata(dataname="BTC/USDT", name="fast", fromdate=ago(server, minutes=10), **SECONDS)
    slow = store.getdata(dataname="BTC/USDT", name="slow", fromdate=ago(server, minutes=90), **MINUTES)
    ahead = []

    def look(watcher):
        # Live, the frames of two bars that close together may come in either order.
        both = len(slow) and len(fast) and "LIVE" not in watcher.states[slow] + watcher.states[fast]
        if both and slow.datetime[0] > fast.datetime[0] + 1e-9:
            ahead.append((bt.num2date(slow.datetime[0]), bt.num2date(fast.datetime[0])))

    watcher = run(store, fast, slow, until=lambda w: slow.origins.get("ws", 0) >= 2, act=look)
    assert_equals_exchange(server, watcher, fast, "1s", start_of(fast))
    assert_equals_exchange(server, watcher, slow, "1m", start_of(slow))
    assert not ahead


@pytest.mark.parametrize("bars", [1, 999, 1_000, 1_001, 3_700])
def test_history_is_paged_to_its_end(simulator, bars):
    server = simulator((BTC,), history_ms=70 * HOUR_MS, quiet_bars="flat")
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=bars), historical=True, **MINUTES)
    watcher = run(store, feed, until=lambda w: False)
    assert len(watcher.seen[feed]) == bars
    assert_equals_exchange(server, watcher, feed, "1m", start_of(feed))


def test_history_between_two_dates(simulator):
    server = simulator((BTC,), history_ms=10 * HOUR_MS)
    store = store_of(server)
    first, last = ago(server, hours=8), ago(server, hours=5)
    feed = store.getdata(dataname="BTC/USDT", fromdate=first, todate=last, historical=True, **MINUTES)
    watcher = run(store, feed, until=lambda w: False)
    assert_equals_exchange(server, watcher, feed, "1m", start_of(feed))
    opens = [stamp - 60_000 for stamp, *_ in watcher.seen[feed]]
    assert feed._utc_ms(last) - 300_000 <= opens[-1] <= feed._utc_ms(last)


@pytest.mark.parametrize("break_it", ["close_connections", "abort_connections"])
def test_after_a_break_what_was_missed_comes_first(simulator, break_it):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=5), **SECONDS)
    broken = []

    def act(watcher):
        if feed.origins.get("ws", 0) >= 10 and not broken:
            broken.append(getattr(server, break_it)())

    watcher = run(store, feed, act=act, until=lambda w: live_bars(feed, 30)(w) and w.states[feed][-1] == "LIVE")
    assert broken == [1]
    assert watcher.states[feed] == ["DELAYED", "LIVE", "CONNBROKEN", "DELAYED", "LIVE"]
    assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))


def test_a_closing_frame_that_is_lost_is_made_good_over_rest(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    server.faults.lose(stream="btcusdt@kline_1s", where=lambda event: event["k"]["x"], nth=5, times=3)
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=2), **SECONDS)
    watcher = run(store, feed, until=live_bars(feed, 25))
    assert len(server.faults.log) == 3
    assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))


def test_a_doubled_and_a_reordered_frame_change_nothing(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    server.faults.duplicate(stream="btcusdt@kline_1s", nth=3, times=20)
    server.faults.reorder(stream="btcusdt@kline_1s", nth=30, times=10)
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=2), **SECONDS)
    watcher = run(store, feed, until=live_bars(feed, 40))
    assert {fired.action for fired in server.faults.log} == {"frame duplicate", "frame reorder"}
    assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))


def test_feeds_of_one_market_and_timeframe_share_a_subscription(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    store = store_of(server)
    start = ago(server, minutes=2)
    feeds = [store.getdata(dataname="BTC/USDT", name=name, fromdate=start, **SECONDS) for name in ("one", "two")]
    watcher = run(store, *feeds, until=lambda w: all(live_bars(feed, 5)(w) for feed in feeds))
    for feed in feeds:
        assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))
    assert len(store.streams._subscriptions) == 1
    assert server.connects == 1


def test_a_time_zone_moves_dates_and_what_a_strategy_is_told_live_as_in_history(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    store = store_of(server)
    start = ago(server, minutes=2)
    told = []
    feed = store.getdata(
        dataname="BTC/USDT", fromdate=start + dt.timedelta(hours=5, minutes=30), tz="Asia/Kolkata", **SECONDS
    )
    watcher = run(
        store, feed, until=live_bars(feed, 5), act=lambda w: told.append((feed.datetime.datetime(0), feed.datetime[0]))
    )
    assert_equals_exchange(server, watcher, feed, "1s", int(start.replace(tzinfo=dt.UTC).timestamp()) * 1_000)
    half_past_five = dt.timedelta(hours=5, minutes=30)
    assert all(abs(local - bt.num2date(num) - half_past_five) < dt.timedelta(milliseconds=1) for local, num in told)


def test_without_a_first_date_only_live_bars_come(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", **SECONDS)
    watcher = run(store, feed, until=live_bars(feed, 5))
    assert watcher.states[feed] == ["LIVE"]
    # Strategies of old set their flag there and look at it with the first bar.
    assert watcher.bars_at_state[feed] == [0]
    assert_equals_exchange(server, watcher, feed, "1s", int(watcher.seen[feed][0][0]) - 1_000)


def test_the_specifications_spelling_of_a_feed(simulator):
    server = simulator((BTC,), history_ms=10 * HOUR_MS)
    CCXTStore._singleton = None
    feed = CCXTFeed(
        exchange="binance",
        endpoint=server.url,
        symbol="BTC/USDT",
        timeframe="1h",
        fromdate=ago(server, hours=6),
        todate=ago(server, hours=1),
        drop_newest=True,
        live=False,
        check_interval=30,
    )
    watcher = run(feed.store, feed, until=lambda w: False)
    assert len(watcher.seen[feed]) == 6
    assert_equals_exchange(server, watcher, feed, "1h", start_of(feed))


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"dataname": "BTC-USDT", **MINUTES}, ConfigError, "Did you mean BTC/USDT"),
        ({"dataname": "BTC/USDT", "timeframe": "7m"}, NotOfferedError, "7m"),
        ({"dataname": "BTC/USDT", "timeframe": "yesterday"}, ConfigError, "yesterday"),
    ],
)
def test_what_cannot_be_had_is_said_before_the_run(simulator, arguments, error, sentence):
    server = simulator((BTC,), history_ms=HOUR_MS)
    store = store_of(server)
    with pytest.raises(error, match=sentence):
        run(store, store.getdata(historical=True, **arguments), until=lambda w: True)


def test_dates_in_the_wrong_order_are_said_before_the_run(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS)
    store = store_of(server)
    feed = store.getdata(
        dataname="BTC/USDT", fromdate=ago(server, hours=1), todate=ago(server, hours=2), historical=True, **MINUTES
    )
    with pytest.raises(ConfigError, match="swap them"):
        run(store, feed, until=lambda w: True)


def test_an_exchange_that_does_not_exist():
    with pytest.raises(ConfigError, match=r"did you mean .*binance"):
        CCXTStore("binanse").start()


def test_an_exchange_that_does_not_answer(simulator):
    server = simulator((BTC,))
    server.stop()
    store = store_of(server, retries=2)
    with pytest.raises(TryLaterError, match="binance"):
        store.start()
    assert not store.connection.running
