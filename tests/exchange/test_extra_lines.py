"""Lines beside prices and volume, through ccxt's real class, over real HTTP and WebSocket."""

import dataclasses
import datetime as dt
import math
from typing import Any

import backtrader as bt
import pytest

from ccxtbt import CCXTFeedWithVolumes
from ccxtbt.ccxtfeed import CCXTFeed
from ccxtbt.errors import NotOfferedError
from ccxtbt.market.timeframes import next_ms, parse
from ccxtbt.resampled import ResampledFeedWithVolumes
from simulated import BTC, ETH
from watching import ago, assert_equals_exchange, run, stamp_ms, store_of

HOUR_MS = 3_600_000
SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}
MINUTES = {"timeframe": bt.TimeFrame.Minutes, "compression": 1}
NAMES = ("trades", "quote_volume", "taker_buy_volume")
# Where Binance keeps them in a row, in the order of NAMES.
PLACES = (8, 7, 9)


class OwnLines(CCXTFeed):
    """A user's own class: one line is the exchange's, another the user's."""

    lines = ("mood", "taker_buy_volume")


class Extras:
    """Writes down the extra lines of each bar, as they are in its `next()`."""

    def __init__(self) -> None:
        self.seen: dict[Any, list[tuple[float, ...]]] = {}

    def __call__(self, watcher: Any) -> None:
        for data in watcher.datas:
            seen = self.seen.setdefault(data, [])
            if len(data) > len(seen):
                names = data.getlinealiases()[7:]
                seen.append((stamp_ms(data), *(getattr(data, name)[0] for name in names)))


def rows_of(server: Any, feed: CCXTFeed, timeframe: str, seen: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """The exchange's own extra values of the bars that were seen."""
    market = server.exchange.markets[feed.p.dataname.replace("/", "")]
    frame, rows, since_ms = parse(timeframe), [], feed._utc_ms(feed.p.fromdate)
    while since_ms < seen[-1][0]:
        last_ms = int(seen[-1][0]) - 1
        page = market.klines(timeframe, start_ms=since_ms, end_ms=last_ms, limit=1_000, now_ms=server.clock.now_ms())
        if not page:
            break
        rows += page
        since_ms = next_ms(frame, page[-1][0])
    return [(next_ms(frame, row[0]), *(float(row[place]) for place in PLACES)) for row in rows]


def test_history_and_live_are_the_exchanges_own_also_over_a_break(simulator):
    server = simulator((BTC, ETH), history_ms=HOUR_MS, speed=10)
    store = store_of(server)
    options = {"store": store, "fromdate": ago(server, minutes=20), **SECONDS}
    wide = CCXTFeedWithVolumes(dataname="BTC/USDT", name="wide", **options)
    own = OwnLines(dataname="BTC/USDT", name="own", **options)
    plain = CCXTFeed(dataname="BTC/USDT", name="plain", **options)
    extras, broken = Extras(), []

    def act(watcher):
        extras(watcher)
        if wide.origins.get("ws", 0) >= 10 and not broken:
            broken.append(server.abort_connections())

    def enough(watcher):
        return all(feed.origins.get("ws", 0) >= 30 and watcher.states[feed][-1] == "LIVE" for feed in watcher.datas)

    watcher = run(store, wide, own, plain, act=act, until=enough)
    assert broken == [1]
    for feed in (wide, own, plain):
        assert_equals_exchange(server, watcher, feed, "1s", feed._utc_ms(feed.p.fromdate))
    # Live bars came from frames, not from REST after them.
    assert wide.origins["ws"] >= 30
    expected = rows_of(server, wide, "1s", extras.seen[wide])
    assert extras.seen[wide] == expected
    assert any(trades > 1 for _, trades, _, _ in expected)
    known = {stamp: taker for stamp, _, _, taker in rows_of(server, own, "1s", extras.seen[own])}
    for stamp, mood, taker in extras.seen[own]:
        assert math.isnan(mood)
        assert taker == known[stamp]


@pytest.mark.parametrize("cerebro", [{}, {"preload": False}, {"runonce": False}, {"exactbars": 1}, {"exactbars": -1}])
def test_history_however_cerebro_runs(simulator, cerebro):
    server = simulator((BTC,), history_ms=30 * HOUR_MS, quiet_bars="flat")
    store = store_of(server)
    feed = CCXTFeedWithVolumes(
        store=store, dataname="BTC/USDT", fromdate=ago(server, minutes=1_500), historical=True, **MINUTES
    )
    seen: list[tuple[float, ...]] = []

    class Look(bt.Strategy):
        def __init__(self):
            self.buys = bt.ind.SMA(self.data.taker_buy_volume - self.data.volume, period=3)

        def prenext(self):
            self.next()

        def next(self):
            seen.append((stamp_ms(self.data), *(getattr(self.data, name)[0] for name in NAMES)))

    brain = bt.Cerebro(stdstats=False, **cerebro)
    brain.adddata(feed)
    brain.addstrategy(Look)
    try:
        brain.run()
    finally:
        store.stop()
    assert len(seen) == 1_500
    assert seen == rows_of(server, feed, "1m", seen)


class TotalTrades(bt.Strategy):
    """Sums a line up; at the top of the module, for it travels to other processes."""

    params = (("scale", 1),)

    def __init__(self):
        self.total = 0.0

    def next(self):
        self.total += self.p.scale * self.data.trades[0]


def test_an_optimisation_in_other_processes_has_the_lines(simulator):
    server = simulator((BTC,), history_ms=3 * HOUR_MS)
    store = store_of(server)
    options = {"store": store, "dataname": "BTC/USDT", "fromdate": ago(server, minutes=60), "historical": True}
    totals = []
    try:
        for brain in (bt.Cerebro(stdstats=False, maxcpus=2, optreturn=False), bt.Cerebro(stdstats=False, maxcpus=1)):
            feed = CCXTFeedWithVolumes(**options, **MINUTES)
            brain.adddata(feed)
            brain.optstrategy(TotalTrades, scale=[1, 2])
            totals.append([run[0].total for run in brain.run(optreturn=False)])
    finally:
        store.stop()
    expected = sum(row[1] for row in rows_of(server, feed, "1m", [(feed.last_ms + 60_000,)]))
    assert totals == [[expected, 2 * expected]] * 2


def test_coarser_bars_have_the_sums_in_history_and_live(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=20)
    store = store_of(server)
    fine = CCXTFeedWithVolumes(store=store, dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    coarse = fine.resampled(bt.TimeFrame.Seconds, 10)
    assert isinstance(coarse, ResampledFeedWithVolumes)
    extras = Extras()
    run(store, fine, coarse, act=extras, until=lambda w: len(coarse) >= 12)
    sums: dict[float, list[float]] = {}
    for stamp, *values in extras.seen[fine]:
        kept = sums.setdefault(math.ceil(stamp / 10_000) * 10_000, [0.0, 0.0, 0.0])
        kept[:] = [one + more for one, more in zip(kept, values, strict=True)]
    assert len(extras.seen[coarse]) >= 12
    for stamp, *values in extras.seen[coarse]:
        assert values == sums[stamp]


def test_a_forming_bar_shows_its_extra_lines_too(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=30)
    store = store_of(server)
    feed = CCXTFeedWithVolumes(
        store=store, dataname="BTC/USDT", fromdate=ago(server, minutes=5), partial=True, **MINUTES
    )
    glimpses, closed = [], {}

    class Look(bt.Strategy):
        def next(self):
            if feed.forming:
                glimpses.append((len(self.data), self.data.trades[0], self.data.quote_volume[0]))
            else:
                closed[len(self.data)] = self.data.trades[0]
            if len(closed) >= 6 and any(number in closed for number, *_ in glimpses):
                self.env.runstop()

    brain = bt.Cerebro(stdstats=False)
    brain.adddata(feed)
    brain.addstrategy(Look)
    try:
        brain.run()
    finally:
        store.stop()
    both = [(trades, closed[number]) for number, trades, _ in glimpses if number in closed]
    assert both
    assert all(0 <= trades <= final for trades, final in both)
    assert any(0 < trades < final for trades, final in both)


def test_frames_without_the_values_close_no_bar(simulator):
    # Said by the facts: this exchange's frames do not carry them, so that each bar comes from REST.
    server = simulator((BTC,), history_ms=HOUR_MS, speed=5)
    store = store_of(server)
    known = store.connection.facts
    extras_of = tuple(dataclasses.replace(each, streamed=False) for each in known.extras)
    store.connection.facts = dataclasses.replace(known, extras=extras_of)
    feed = CCXTFeedWithVolumes(store=store, dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    extras = Extras()
    history = []

    def enough(watcher):
        if "LIVE" in watcher.states[feed] and not history:
            history.append(feed.origins["rest"])
        return bool(history) and feed.origins["rest"] >= history[0] + 10

    run(store, feed, act=extras, until=enough)
    assert feed.origins.get("ws", 0) == 0
    assert extras.seen[feed] == rows_of(server, feed, "1s", extras.seen[feed])


def test_what_the_exchange_does_not_give_is_told_at_the_start(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS)
    store = store_of(server)
    store.connection.facts = dataclasses.replace(store.connection.facts, extras=())
    feed = CCXTFeedWithVolumes(
        store=store, dataname="BTC/USDT", fromdate=ago(server, minutes=5), historical=True, **MINUTES
    )
    with pytest.raises(NotOfferedError, match=r"binance gives no trades, quote_volume, taker_buy_volume .* BTC/USDT"):
        run(store, feed, until=lambda w: True)


@pytest.mark.parametrize("source", ["ohlcv", "poll", "trades"])
def test_flat_bars_have_zeros_and_polled_ones_the_exchanges_values(simulator, source):
    quiet = dataclasses.replace(BTC, trades_per_minute=30.0)
    server = simulator((quiet,), history_ms=HOUR_MS, speed=10)
    store = store_of(server)
    feed = CCXTFeedWithVolumes(
        store=store, dataname="BTC/USDT", fromdate=ago(server, minutes=2), gaps="flat", source=source, **SECONDS
    )
    extras, at_live = Extras(), []

    def enough(watcher):
        if "LIVE" in watcher.states[feed] and not at_live:
            at_live.append(len(extras.seen[feed]))
        return bool(at_live) and len(extras.seen[feed]) >= at_live[0] + 20

    run(store, feed, act=extras, until=enough)
    known = {stamp: values for stamp, *values in rows_of(server, feed, "1s", extras.seen[feed])}
    flat = 0
    for stamp, *values in extras.seen[feed]:
        assert values == known.get(stamp, [0.0, 0.0, 0.0])
        flat += stamp not in known
    assert 0 < flat < len(extras.seen[feed])


def test_trades_tell_what_the_exchanges_own_bars_do_not(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    store = store_of(server)
    store.connection.facts = dataclasses.replace(store.connection.facts, extras=())
    feed = CCXTFeedWithVolumes(store=store, dataname="BTC/USDT", source="trades", **SECONDS)
    extras = Extras()
    run(store, feed, act=extras, until=lambda w: len(extras.seen.get(feed, ())) >= 10)
    feed.p.fromdate = dt.datetime.fromtimestamp(extras.seen[feed][0][0] / 1_000 - 1, dt.UTC)
    assert extras.seen[feed] == rows_of(server, feed, "1s", extras.seen[feed])


def test_a_second_run_has_them_from_the_archive(simulator, tmp_path):
    server = simulator((BTC,), history_ms=3 * HOUR_MS, quiet_bars="flat")
    options = {"dataname": "BTC/USDT", "historical": True, "archive": tmp_path, **MINUTES}
    span = {"fromdate": ago(server, minutes=90), "todate": ago(server, minutes=10)}
    seen, asked = [], []
    # Bars without these lines are kept elsewhere; those of fewer of them, too.
    for kind in (CCXTFeed, CCXTFeedWithVolumes, CCXTFeedWithVolumes, OwnLines, OwnLines, CCXTFeed):
        store = store_of(server)
        feed = kind(store=store, **span, **options)
        extras = Extras()
        before = len(server.requests)
        run(store, feed, act=extras, until=lambda w: False)
        seen.append(extras.seen[feed])
        asked.append(sum(request.path == "/api/v3/klines" for request in list(server.requests)[before:]))
    assert [bool(count) for count in asked] == [True, True, False, True, False, False]
    assert seen[1] == seen[2] == rows_of(server, feed, "1m", seen[1])
    assert [taker for _, _, taker in seen[4]] == [taker for *_, taker in seen[1]]
    assert len(seen[1]) == len(seen[0]) == 81
