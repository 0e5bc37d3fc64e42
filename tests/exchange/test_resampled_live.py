"""Data that backtrader resamples or replays from a live feed: their bars close by their own data, as in a backtest."""

import datetime as dt
from dataclasses import replace

import backtrader as bt
import pytest

from ccxtbt.errors import ConfigError
from simulated import BTC, ETH
from watching import Watcher, ago, prices, run, run_out, stamp_ms, store_of

HOUR_MS = 3_600_000
SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}


def utc_ms(moment):
    return round(moment.replace(tzinfo=dt.UTC).timestamp() * 1_000)


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
    return run_out(cerebro, store, Record, **params).rows


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


@pytest.mark.parametrize("build", [resampled_beside_another, replayed_beside_another])
def test_in_a_backtest_a_market_that_ends_before_another_ends_neither_the_run_nor_the_other(simulator, build):
    server = simulator((replace(BTC, trades_per_minute=90), ETH), history_ms=HOUR_MS)
    store, now = store_of(server), ago(server, minutes=0)
    spans = {"BTC": now, "ETH": ago(server, minutes=1)}
    feeds = [
        store.getdata(dataname=f"{base}/USDT", fromdate=ago(server, minutes=3), todate=end, historical=True, **SECONDS)
        for base, end in spans.items()
    ]
    cerebro = bt.Cerebro(stdstats=False)
    build(cerebro, *feeds)
    cerebro.addstrategy(Record, until=lambda w: False)
    try:
        (watcher,) = cerebro.run()
    finally:
        store.stop()
    other, coarse = watcher.datas
    assert abs(stamp_ms(other) - utc_ms(spans["ETH"])) < 30_000
    assert abs(stamp_ms(coarse) - utc_ms(now)) < 30_000


def run_bulk(server, *frames, until, **kwargs):
    """Run seconds of BTC with bulk feeds of coarser bars beside them."""
    store = store_of(server)
    fine = store.getdata(dataname="BTC/USDT", **SECONDS, **kwargs)
    coarser = [fine.resampled(text) for text in frames]
    watcher = run(store, fine, *coarser, until=lambda w: until(w, fine))
    return watcher, fine, coarser


def assert_closes_in_time(watcher, fine, made, length_ms, first_ms):
    """Hold coarser bars to the seconds that the same strategy saw: each whole, and in the pass that ended it."""
    expected, rows = [], {}
    for bar in watcher.seen[fine]:
        end = -(-int(bar[0]) // length_ms) * length_ms
        rows.setdefault(end, []).append(bar)
    over_ms = watcher.seen[fine][-1][0]
    for end, bars in rows.items():
        if end - length_ms >= first_ms and (bars[-1][0] == end or end < over_ms):
            highs, lows = [bar[2] for bar in bars], [bar[3] for bar in bars]
            expected.append((end, bars[0][1], max(highs), min(lows), bars[-1][4], sum(bar[5] for bar in bars)))
    assert len(expected) >= 3
    seen = watcher.seen[made]
    assert [bar[:5] for bar in seen] == [bar[:5] for bar in expected]
    assert [bar[5] for bar in seen] == pytest.approx([bar[5] for bar in expected], rel=1e-12)


def test_a_bulk_feed_of_coarser_bars_goes_on_live(simulator):
    server = simulator((replace(BTC, trades_per_minute=90),), history_ms=HOUR_MS, speed=40)
    start = ago(server, minutes=2)
    watcher, fine, coarser = run_bulk(
        server, "5s", "15s", "1m", fromdate=start, until=lambda w, f: f.origins.get("ws", 0) >= 80
    )
    for made, length_ms in zip(coarser, (5_000, 15_000, 60_000), strict=True):
        assert_closes_in_time(watcher, fine, made, length_ms, fine._utc_ms(start))


def test_a_bulk_feed_begins_with_the_first_whole_bar(simulator):
    server = simulator((replace(BTC, quiet=0.0, trades_per_minute=6_000),), history_ms=HOUR_MS, speed=20)
    watcher, fine, (made,) = run_bulk(server, "7s", until=lambda w, f: f.origins.get("ws", 0) >= 40)
    assert_closes_in_time(watcher, fine, made, 7_000, int(watcher.seen[fine][0][0]) - 1_000)


def test_a_bulk_feed_ends_with_the_feed_that_it_is_made_of(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=20)
    span = {"fromdate": ago(server, minutes=2), "todate": ago(server, minutes=-1)}
    watcher, fine, (made,) = run_bulk(server, "5s", until=lambda w, f: False, **span)
    assert watcher.states[fine] == ["DELAYED", "LIVE", "DISCONNECTED"]
    assert_closes_in_time(watcher, fine, made, 5_000, fine._utc_ms(fine.p.fromdate))


def of_opens(store):
    fine = store.getdata(dataname="BTC/USDT", stamp="open", historical=True, **SECONDS)
    return fine, fine.resampled("5s")


def of_filtered(store):
    fine = store.getdata(dataname="BTC/USDT", historical=True, **SECONDS)
    fine.addfilter_simple(lambda data: True)
    return fine, fine.resampled("5s")


def added_first(store):
    fine = store.getdata(dataname="BTC/USDT", historical=True, **SECONDS)
    return fine.resampled("5s"), fine


def not_divided(store):
    fine = store.getdata(dataname="BTC/USDT", historical=True, timeframe="3m")
    return fine, fine.resampled("5m")


@pytest.mark.parametrize(
    ("build", "sentence"),
    [(of_opens, "stamp='open'"), (of_filtered, "resampledata"), (added_first, "adddata"), (not_divided, "5m")],
)
def test_coarser_bars_that_would_be_wrong_are_refused(simulator, build, sentence):
    store = store_of(simulator((BTC,), history_ms=HOUR_MS))
    with pytest.raises(ConfigError, match=sentence):
        run(store, *build(store), until=lambda w: False)


MINUTE_MS = 60_000
AT_TEN_MS = 1_609_495_200_000  # 2021-01-01 10:00 UTC, a Friday
FIVE_MINUTES = {"timeframe": bt.TimeFrame.Minutes, "compression": 5}


def hour_from_ten(store, *hours, historical=True):
    return store.getdata(
        dataname="BTC/USDT",
        timeframe="1m",
        fromdate=dt.datetime.fromisoformat("2021-01-01 10:00"),
        todate=dt.datetime.fromisoformat("2021-01-01 10:59"),
        sessions=list(hours),
        historical=historical,
    )


class Arrivals(Watcher):
    """Writes down too which bar of the first data was the last when each of the second came."""

    def __init__(self):
        super().__init__()
        self.arrived = []

    def next(self):
        if len(self.data1) > len(self.arrived):
            self.arrived.append(stamp_ms(self.data0))
        super().next()


def assert_whole_and_in_time(watcher):
    """Hold bars of five minutes to the minutes that the same strategy saw, each in the pass that told that it ended."""
    made = {}
    for bar in watcher.seen[watcher.data0]:
        made.setdefault(-(-int(bar[0]) // (5 * MINUTE_MS)) * 5 * MINUTE_MS, []).append(bar)
    seen = watcher.seen[watcher.data1]
    made = dict(list(made.items())[: len(seen)])
    assert [bar[:5] for bar in seen] == [
        (stamp, bars[0][1], max(bar[2] for bar in bars), min(bar[3] for bar in bars), bars[-1][4])
        for stamp, bars in made.items()
    ]
    assert [bar[5] for bar in seen] == pytest.approx([sum(bar[5] for bar in bars) for bars in made.values()], rel=1e-12)
    assert watcher.arrived == [bars[-1][0] for bars in made.values()]


@pytest.mark.parametrize("exactbars", [False, 1])
@pytest.mark.parametrize("end", ["10:40", "10:50"])
def test_a_bar_that_ends_two_coarser_ones_loses_none_and_delays_none(simulator, end, exactbars):
    server = simulator((replace(BTC, quiet=0.0),), history_ms=4 * HOUR_MS, start_ms=AT_TEN_MS + 2 * HOUR_MS)
    store = store_of(server)
    # The minutes around a full five are missing, and the first bar after them, perhaps the last of all, ends the next.
    fine = hour_from_ten(store, ("10:00", "10:33"), ("10:39", end))
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.adddata(fine)
    cerebro.resampledata(fine, **FIVE_MINUTES)
    cerebro.addstrategy(Arrivals, until=lambda w: False)
    try:
        (watcher,) = cerebro.run(exactbars=exactbars)
    finally:
        store.stop()
    assert len(watcher.seen[watcher.datas[1]]) == (8 if end == "10:40" else 10)
    assert_whole_and_in_time(watcher)


@pytest.mark.parametrize("coarser", ["resampledata", "replaydata"])
def test_a_history_that_ends_within_a_coarser_bar_goes_with_a_live_market(simulator, coarser):
    spec = replace(BTC, quiet=0.0)
    server = simulator((spec, ETH), history_ms=4 * HOUR_MS, start_ms=AT_TEN_MS + 2 * HOUR_MS, speed=40)
    store = store_of(server)
    past = hour_from_ten(store, ("10:00", "10:33"))
    live = store.getdata(dataname="ETH/USDT", **SECONDS)
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.adddata(past)
    getattr(cerebro, coarser)(past, **FIVE_MINUTES)
    cerebro.adddata(live)
    cerebro.addstrategy(
        Watcher, until=lambda w: live.origins.get("ws", 0) >= 20, act=lambda w: store.put_notification("")
    )
    try:
        (watcher,) = cerebro.run()
    finally:
        store.stop()
    assert not watcher.timed_out
    assert len(watcher.seen[past]) == 33
    # A bar that is replayed is written down as it is first seen, after its first minute.
    first_minute = 5 if coarser == "resampledata" else 1
    stamps = [bar[0] for bar in watcher.seen[watcher.datas[1]]]
    assert stamps == [AT_TEN_MS + (minutes + first_minute) * MINUTE_MS for minutes in range(0, 35, 5)]


def test_live_too_a_bar_that_ends_two_coarser_ones_loses_none_and_delays_none(simulator):
    # It is 10:32, and an hour lasts 18 seconds.
    server = simulator(
        (replace(BTC, quiet=0.0),), history_ms=4 * HOUR_MS, start_ms=AT_TEN_MS + 32 * MINUTE_MS, speed=200
    )
    store = store_of(server)
    fine = hour_from_ten(store, ("10:00", "10:33"), ("10:39", "10:50"), historical=False)
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.adddata(fine)
    cerebro.resampledata(fine, **FIVE_MINUTES)
    cerebro.addstrategy(Arrivals, until=lambda w: stamp_ms(fine) >= AT_TEN_MS + 46 * MINUTE_MS if len(fine) else False)
    try:
        (watcher,) = cerebro.run()
    finally:
        store.stop()
    assert not watcher.timed_out
    assert len(watcher.seen[watcher.data1]) == 9
    assert_whole_and_in_time(watcher)
