"""Bars of a number of trades, through ccxt's real class, over real HTTP and WebSocket."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from typing import Any

import backtrader as bt
import pytest

from ccxtbt import CCXTFeed, CCXTFeedWithFunding, CCXTFeedWithVolumes
from ccxtbt.errors import ConfigError, NotOfferedError
from simulated import BTC, ETH
from watching import Watcher, ago, run, stamp_ms, store_of

HOUR_MS = 3_600_000
TICKS = {"timeframe": bt.TimeFrame.Ticks}
# So many trades that there are many in a ms.
BUSY = dataclasses.replace(BTC, trades_per_minute=24_000.0, quiet=0.0)
CALM = dataclasses.replace(ETH, trades_per_minute=60.0)


def market_of(server: Any, feed: CCXTFeed) -> Any:
    return server.exchange.markets[feed.p.dataname.replace("/", "")]


def bars_of(server: Any, feed: CCXTFeed, size: int, first_ms: int, count: int) -> list[tuple[float, ...]]:
    """The bars that the exchange's own trades from a time on make, `count` at most."""
    market = market_of(server, feed)
    bars: list[tuple[float, ...]] = []
    trades = market.trades(start_ms=first_ms, limit=size * count, now_ms=server.clock.now_ms())
    for at in range(0, len(trades) - size + 1, size):
        taken = trades[at : at + size]
        prices = [float(market.price(trade.price_ticks)) for trade in taken]
        volume = sum(market.qty(trade.qty_steps) for trade in taken)
        bars.append((taken[-1].ts_ms, prices[0], max(prices), min(prices), prices[-1], float(volume)))
    return bars


def assert_ticks(server: Any, watcher: Watcher, feed: CCXTFeed, first_ms: int) -> None:
    """What a strategy saw is each of the exchange's trades from a time on, once and in order."""
    seen = watcher.seen[feed]
    assert seen == bars_of(server, feed, feed.p.compression, first_ms, len(seen))


def start_of(feed: CCXTFeed) -> int:
    return feed._utc_ms(feed.p.fromdate)


@pytest.mark.parametrize("size", [1, 7])
def test_every_trade_once_from_history_to_live_over_a_break(simulator, size):
    server = simulator((BUSY, CALM), history_ms=HOUR_MS, speed=1)
    server.faults.lose(stream="btcusdt@aggTrade", nth=50, times=5)
    server.faults.reorder(2, stream="btcusdt@aggTrade", nth=120, times=2)
    server.faults.duplicate(2, stream="btcusdt@aggTrade", nth=150, times=10)
    server.faults.abort(stream="btcusdt@aggTrade", nth=500)
    store = store_of(server)
    feeds = [
        CCXTFeed(store=store, dataname=name, fromdate=ago(server, minutes=1), compression=size, **TICKS)
        for name in ("BTC/USDT", "ETH/USDT")
    ]
    busy = feeds[0]

    def enough(watcher):
        states = watcher.states[busy]
        broken = states.count("LIVE") == 2 and states[-1] == "LIVE"
        return broken and len(watcher.seen[busy]) > watcher.bars_at_state[busy][-1] + 300 // size

    watcher = run(store, *feeds, until=enough)
    assert not watcher.timed_out
    for feed in feeds:
        assert_ticks(server, watcher, feed, start_of(feed))
        assert feed.origins.keys() == {"trades"}
        assert watcher.states[feed] == ["DELAYED", "LIVE", "CONNBROKEN", "DELAYED", "LIVE"]
    stamps = [bar[0] for bar in watcher.seen[busy]]
    live = stamps[watcher.bars_at_state[busy][1] :]
    if size == 1:
        assert any(one == other for one, other in itertools.pairwise(live))


@pytest.mark.parametrize("cerebro", [{}, {"preload": False}, {"runonce": False}, {"exactbars": 1}])
def test_history_is_all_trades_of_its_span(simulator, cerebro):
    server = simulator((BUSY,), history_ms=HOUR_MS)
    store = store_of(server)
    first, last = ago(server, seconds=30), ago(server, seconds=20)
    feed = CCXTFeed(
        store=store, dataname="BTC/USDT", fromdate=first, todate=last, compression=3, historical=True, **TICKS
    )
    brain = bt.Cerebro(stdstats=False, **cerebro)
    brain.adddata(feed)
    brain.addstrategy(Watcher, until=lambda w: False)
    try:
        (watcher,) = brain.run()
    finally:
        store.stop()
    expected = bars_of(server, feed, 3, start_of(feed), 100_000)
    assert watcher.seen[feed] == [bar for bar in expected if bar[0] <= feed._utc_ms(last)]
    assert 1_000 < len(watcher.seen[feed]) < 1_700


def test_history_of_a_market_that_is_silent_for_more_than_an_hour(simulator):
    rare = dataclasses.replace(CALM, trades_per_minute=0.005, quiet=0.9)
    server = simulator((rare,), history_ms=40 * HOUR_MS, seed=3)
    store = store_of(server)
    trades = server.exchange.markets["ETHUSDT"].trades(start_ms=0, limit=10**6, now_ms=server.clock.now_ms())
    before = next(one for one, other in itertools.pairwise(trades) if other.ts_ms - one.ts_ms > HOUR_MS + 60_000)
    first = dt.datetime.fromtimestamp(before.ts_ms // 1_000 + 1, dt.UTC).replace(tzinfo=None)
    feed = CCXTFeed(store=store, dataname="ETH/USDT", fromdate=first, historical=True, **TICKS)
    watcher = run(store, feed, until=lambda w: False)
    assert_ticks(server, watcher, feed, start_of(feed))
    assert len(watcher.seen[feed]) == len([trade for trade in trades if trade.ts_ms > before.ts_ms]) > 0


def test_without_a_first_date_the_latest_trades_are_the_history(simulator):
    server = simulator((CALM,), history_ms=HOUR_MS)
    feed = CCXTFeed(store=store_of(server), dataname="ETH/USDT", compression=2, historical=True, **TICKS)
    watcher = run(feed.store, feed, until=lambda w: False)
    market = market_of(server, feed)
    before = market.trades(start_ms=0, limit=10**6, now_ms=int(watcher.seen[feed][0][0]))
    assert len(watcher.seen[feed]) == 500
    assert_ticks(server, watcher, feed, before[-2].ts_ms)


def test_a_live_run_begins_now_and_ends_with_the_last_trade_of_its_last_date(simulator):
    server = simulator((CALM,), history_ms=HOUR_MS, speed=30)
    last = ago(server, minutes=-1)
    feed = CCXTFeed(store=store_of(server), dataname="ETH/USDT", todate=last, **TICKS)
    watcher = run(feed.store, feed, until=lambda w: False)
    assert watcher.states[feed] == ["LIVE", "DISCONNECTED"]
    assert_ticks(server, watcher, feed, int(watcher.seen[feed][0][0]))
    after = market_of(server, feed).trades(
        start_ms=int(watcher.seen[feed][-1][0]) + 1, limit=1, now_ms=server.clock.now_ms()
    )
    assert not after or after[0].ts_ms > feed._utc_ms(last)


def test_resampled_ticks_are_the_exchanges_own_bars(simulator):
    server = simulator((BUSY,), history_ms=HOUR_MS, speed=4)
    store = store_of(server)
    feed = CCXTFeed(store=store, dataname="BTC/USDT", fromdate=ago(server, seconds=20), **TICKS)
    seen: dict[Any, list[tuple[float, ...]]] = {}

    class Look(bt.Strategy):
        def prenext(self):
            self.next()

        def next(self):
            for data in self.datas[1:]:
                bars = seen.setdefault(data, [])
                if len(data) > len(bars):
                    bars.append((stamp_ms(data), data.open[0], data.high[0], data.low[0], data.close[0]))
            if len(seen.get(self.data1, ())) >= 28:
                self.env.runstop()

    brain = bt.Cerebro(stdstats=False)
    brain.adddata(feed)
    seconds = brain.resampledata(feed, timeframe=bt.TimeFrame.Seconds, compression=1)
    tens = brain.resampledata(feed, timeframe=bt.TimeFrame.Seconds, compression=10)
    brain.addstrategy(Look)
    try:
        brain.run()
    finally:
        store.stop()
    trades = market_of(server, feed).trades(start_ms=start_of(feed), limit=10**6, now_ms=server.clock.now_ms())
    price = market_of(server, feed).price
    for data, length_ms in ((seconds, 1_000), (tens, 10_000)):
        bars: dict[int, list[float]] = {}
        for trade in trades:
            bars.setdefault(trade.ts_ms // length_ms * length_ms + length_ms, []).append(
                float(price(trade.price_ticks))
            )
        expected = [(end, each[0], max(each), min(each), each[-1]) for end, each in sorted(bars.items())]
        assert seen[data] == expected[: len(seen[data])]
        assert len(seen[data]) >= (28 if data is seconds else 2)


def test_ticks_have_the_extra_lines_that_trades_tell(simulator):
    server = simulator((ETH,), history_ms=HOUR_MS, speed=10)
    feed = CCXTFeedWithVolumes(
        store=store_of(server), dataname="ETH/USDT", fromdate=ago(server, minutes=1), compression=5, **TICKS
    )
    rows: list[tuple[float, ...]] = []

    def act(watcher):
        rows.append((feed.trades[0], feed.quote_volume[0], feed.taker_buy_volume[0]))

    watcher = run(
        feed.store, feed, act=act, until=lambda w: len(rows) >= w.bars_at_state[feed][-1] + 10 and len(rows) > 20
    )
    assert_ticks(server, watcher, feed, start_of(feed))
    market = market_of(server, feed)
    trades = market.trades(start_ms=start_of(feed), limit=5 * len(rows), now_ms=server.clock.now_ms())
    for at, (count, quote, bought) in enumerate(rows):
        taken = trades[5 * at : 5 * at + 5]
        assert count == 5
        assert quote == float(sum(market.price(each.price_ticks) * market.qty(each.qty_steps) for each in taken))
        assert bought == float(sum(market.qty(each.qty_steps) for each in taken if not each.buyer_is_maker))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"compression": 0}, "no number of trades"),
        ({"source": "poll"}, "source='auto' or 'trades'"),
        ({"gaps": "flat"}, "have no gaps"),
        ({"partial": True}, "partial=True is for bars of some length"),
        ({"align": 0.3}, "align is for bars of some length"),
    ],
)
def test_what_ticks_cannot_have_is_refused(simulator, arguments, says):
    server = simulator((BTC,), history_ms=HOUR_MS)
    feed = CCXTFeed(store=store_of(server), dataname="BTC/USDT", **arguments, **TICKS)
    with pytest.raises(ConfigError, match=says):
        run(feed.store, feed, until=lambda w: False)
    assert not server.requests


def test_funding_is_not_for_ticks(simulator):
    server = simulator(contracts=[BTC], margin={"USDT": 10_000})
    feed = CCXTFeedWithFunding(store=store_of(server), dataname="BTC/USDT:USDT", **TICKS)
    with pytest.raises(ConfigError, match="CCXTFeedWithFunding is for bars of some length"):
        run(feed.store, feed, until=lambda w: False)


@pytest.mark.parametrize(
    ("lacks", "says"),
    [(("fetchTrades",), "ask for the trades"), (("watchTrades", "watchTradesForSymbols"), "stream the trades")],
)
def test_an_exchange_that_does_not_tell_its_trades(simulator, lacks, says):
    server = simulator((BTC,), history_ms=HOUR_MS)
    store = store_of(server, config={"has": dict.fromkeys(lacks, False)})
    feed = CCXTFeed(store=store, dataname="BTC/USDT", **TICKS)
    with pytest.raises(NotOfferedError, match=f"ccxt cannot {says} of binance"):
        run(store, feed, until=lambda w: False)
