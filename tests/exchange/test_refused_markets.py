"""One market that the exchange refuses, at the start or later: it is said, and the others go on."""

from __future__ import annotations

import backtrader as bt
import pytest

from ccxtbt import CCXTFeed
from simulated import BNB, BTC, ETH
from watching import ago, assert_equals_exchange, run, store_of

HOUR_MS = 3_600_000
SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}
NAMES = ("BTC/USDT", "ETH/USDT", "BNB/USDT")


def start_of(feed):
    return feed._utc_ms(feed.p.fromdate)


def made(simulator, speed=20, **options):
    server = simulator((BTC, ETH, BNB), history_ms=HOUR_MS, speed=speed)
    store = store_of(server)
    feeds = [CCXTFeed(store=store, dataname=name, fromdate=ago(server, minutes=1), **options) for name in NAMES]
    return server, store, feeds


def ended_beside_living(gone, feeds, bars=15):
    """Whether one feed has ended and the others have delivered so many bars since."""
    since = {}

    def reached(watcher):
        if watcher.states[gone][-1:] != ["NOTSUBSCRIBED"]:
            return False
        others = [feed for feed in feeds if feed is not gone]
        for feed in others:
            since.setdefault(feed, len(watcher.seen[feed]))
        return all(
            watcher.states[feed][-1:] == ["LIVE"] and len(watcher.seen[feed]) >= since[feed] + bars for feed in others
        )

    return reached


def assert_never_came(states):
    """The last word is that it is not subscribed to.

    The refusal comes an answer's time after the question, and later for one that shared its message with others; on a
    clock that runs fast, bars may be late by then.
    """
    assert states[0] == "DELAYED"
    assert states[-1] == "NOTSUBSCRIBED"
    assert states[1:-1] in ([], ["LIVE"], ["LIVE", "DELAYED"])


@pytest.mark.parametrize(
    ("source", "stream"), [("ohlcv", "ethusdt@kline_1s"), ("trades", "ethusdt@aggTrade")], ids=["bars", "trades"]
)
def test_one_whose_subscription_is_refused(simulator, source, stream):
    server, store, feeds = made(simulator, speed=4, source=source, **SECONDS)
    refused = server.faults.refuse_stream(stream=stream, times=0)
    gone = feeds[1]
    watcher = run(store, *feeds, until=ended_beside_living(gone, feeds, bars=6))
    assert not watcher.timed_out
    assert refused.fired
    assert_never_came(watcher.states[gone])
    # Its history is all there, and nothing comes behind its last state.
    assert len(watcher.seen[gone]) == watcher.bars_at_state[gone][-1] > 30
    (message,) = [message for message in watcher.messages if "ETH/USDT gives no more bars" in str(message)]
    assert "invalid stream" in message
    for feed in feeds:
        assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))
        if feed is not gone:
            assert watcher.states[feed] == ["DELAYED", "LIVE"]


@pytest.mark.parametrize("source", ["ohlcv", "poll"])
def test_one_that_is_taken_off_the_list_while_it_is_live(simulator, source):
    server, store, feeds = made(simulator, source=source, **SECONDS)
    gone, removed = feeds[1], []

    def act(watcher):
        if not removed and all(watcher.states[feed][-1:] == ["LIVE"] for feed in feeds):
            removed.append(server.faults.refused(-1121, "Invalid symbol.", symbol="ETHUSDT", times=0))
            server.faults.lose(stream="ethusdt@kline_1s", times=0)

    watcher = run(store, *feeds, act=act, until=ended_beside_living(gone, feeds))
    assert not watcher.timed_out
    states = [state for state in watcher.states[gone] if state != "CONNBROKEN"]
    assert states == ["DELAYED", "LIVE", "DELAYED", "NOTSUBSCRIBED"] or states == ["DELAYED", "LIVE", "NOTSUBSCRIBED"]
    # It is believed, and not asked for ever.
    asked = removed[0].fired
    assert 3 <= asked <= 4
    assert any("ETH/USDT gives no more bars: the exchange has this market no more" in str(m) for m in watcher.messages)
    for feed in feeds:
        assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))
        if feed is not gone:
            assert watcher.states[feed] == ["DELAYED", "LIVE"]


def test_a_market_that_is_said_to_be_unknown_once_is_not_given_up(simulator):
    server, store, feeds = made(simulator, source="poll", **SECONDS)
    doubted, denied = feeds[1], []

    def act(watcher):
        if not denied and watcher.states[doubted][-1:] == ["LIVE"]:
            denied.append(server.faults.refused(-1121, "Invalid symbol.", symbol="ETHUSDT", times=2))

    def enough(watcher):
        states = watcher.states[doubted]
        return bool(denied) and denied[0].fired == 2 and states.count("LIVE") == 2 and states[-1] == "LIVE"

    watcher = run(store, *feeds, act=act, until=enough)
    assert watcher.states[doubted] == ["DELAYED", "LIVE", "CONNBROKEN", "DELAYED", "LIVE"]
    assert_equals_exchange(server, watcher, doubted, "1s", start_of(doubted))


def test_ticks_of_a_market_that_is_not_streamed(simulator):
    server = simulator((BTC, ETH), history_ms=HOUR_MS, speed=10)
    store = store_of(server)
    server.faults.refuse_stream(stream="ethusdt@aggTrade", times=0)
    feeds = [
        CCXTFeed(store=store, dataname=name, fromdate=ago(server, minutes=1), timeframe=bt.TimeFrame.Ticks)
        for name in NAMES[:2]
    ]
    watcher = run(store, *feeds, until=ended_beside_living(feeds[1], feeds))
    assert_never_came(watcher.states[feeds[1]])
    assert watcher.states[feeds[0]] == ["DELAYED", "LIVE"]
    assert len(watcher.seen[feeds[1]]) > 30
