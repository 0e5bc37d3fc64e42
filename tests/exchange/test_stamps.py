"""What the datetime of a bar promises: resampled bars are the exchange's own, none is seen early, days keep dates."""

import datetime as dt
from bisect import bisect_right
from dataclasses import replace

import backtrader as bt
import pytest

from simulated import BTC, ETH
from watching import ago, assert_equals_exchange, run, run_out, stamp_ms, store_of, truth

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NEW_YEAR_MS = 1_609_459_200_000  # 2021-01-01 00:00 UTC
SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}
MINUTES = {"timeframe": bt.TimeFrame.Minutes, "compression": 1}
COARSER = {"5m": (bt.TimeFrame.Minutes, 5), "1h": (bt.TimeFrame.Minutes, 60), "4h": (bt.TimeFrame.Minutes, 240)}
COARSER["1d"] = (bt.TimeFrame.Days, 1)

at = dt.datetime.fromisoformat


def assert_same(made, expected):
    """Hold bars that were put together against the exchange's: volumes are added as floats here, as decimals there."""
    assert [bar[:5] for bar in made] == [bar[:5] for bar in expected]
    assert [bar[5] for bar in made] == pytest.approx([bar[5] for bar in expected], rel=1e-12)


@pytest.mark.parametrize("quiet_bars", ["flat", "skip"])
def test_resampled_bars_are_the_exchanges_own_and_arrive_on_time(simulator, quiet_bars):
    # Every minute has its trades, or some have none and no bar.
    spec = replace(BTC, quiet=0.0) if quiet_bars == "flat" else replace(ETH, trades_per_minute=0.5)
    server = simulator((spec,), history_ms=50 * HOUR_MS, quiet_bars=quiet_bars, start_ms=NEW_YEAR_MS + 2 * DAY_MS)
    store = store_of(server)
    span = {"fromdate": at("2021-01-01"), "todate": at("2021-01-02 23:59"), "historical": True}
    symbol = f"{spec.base}/{spec.quote}"
    cerebro = bt.Cerebro(stdstats=False)
    fine = store.getdata(dataname=symbol, name="1m", **span, **MINUTES)
    cerebro.adddata(fine)
    made, bulk = {}, {}
    for text, (timeframe, compression) in COARSER.items():
        made[text] = cerebro.resampledata(fine, timeframe=timeframe, compression=compression, name=f"made {text}")
        bulk[text] = fine.resampled(text)
        cerebro.adddata(bulk[text], name=f"bulk {text}")
        cerebro.adddata(store.getdata(dataname=symbol, name=text, timeframe=text, **span))
    arrived = {data: [] for data in cerebro.datas}

    def note(watcher):
        for data in watcher.datas:
            if len(data) > len(arrived[data]):
                arrived[data].append(stamp_ms(fine))

    watcher = run_out(cerebro, store, act=note)
    first_ms = fine._utc_ms(fine.p.fromdate)
    for text in COARSER:
        native = watcher.getdatabyname(text)
        assert_equals_exchange(server, watcher, native, text, first_ms)
        for data in (made[text], bulk[text]):
            assert_same(watcher.seen[data], watcher.seen[native])
        # All are seen at their end: when the last minute up to it has been, and none after it.
        minutes = [bar[0] for bar in watcher.seen[fine]]
        at_end = [minutes[bisect_right(minutes, bar[0]) - 1] for bar in watcher.seen[native]]
        for data in (native, made[text], bulk[text]):
            assert arrived[data] == at_end
    assert len(watcher.seen[made["1d"]]) == 2
    assert (len(minutes) < 2 * 1_440) is (quiet_bars == "skip")


def test_no_bar_of_any_timeframe_is_seen_before_its_end_or_after_it(simulator):
    server = simulator((BTC,), history_ms=52 * HOUR_MS, start_ms=NEW_YEAR_MS + 2 * DAY_MS + HOUR_MS)
    store = store_of(server)
    start = at("2021-01-01")
    frames = ("1m", "5m", "1h", "1d")
    feeds = {
        text: store.getdata(dataname="BTC/USDT", name=text, timeframe=text, fromdate=start, historical=True)
        for text in frames
    }
    wrong = []

    def look(watcher):
        # The strategy's own time: a quiet minute has no bar.
        now_ms = stamp_ms(watcher)
        for text, feed in feeds.items():
            expected = len(truth(server, feed, text, NEW_YEAR_MS, now_ms - 1))
            over = expected - (now_ms % {"1m": 60_000, "5m": 300_000, "1h": HOUR_MS, "1d": DAY_MS}[text] != 0)
            if len(feed) != over:
                wrong.append((text, now_ms, len(feed), over))

    # Every 97th minute is looked at: the exchange's answer takes its time.
    run(store, *feeds.values(), until=lambda w: False, act=lambda w: len(w) % 97 or look(w))
    assert not wrong


def test_daily_runs_keep_their_calendar(simulator):
    server = simulator(
        (replace(BTC, trades_per_minute=0.2),), history_ms=45 * DAY_MS, start_ms=NEW_YEAR_MS + 10 * DAY_MS
    )
    store = store_of(server)
    feed = store.getdata(
        dataname="BTC/USDT",
        timeframe="1d",
        fromdate=at("2020-12-01"),
        todate=at("2021-01-05"),
        historical=True,
    )
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.adddata(feed)
    cerebro.addanalyzer(bt.analyzers.TimeReturn, timeframe=bt.TimeFrame.Years, data=feed, _name="years")
    cerebro.addanalyzer(bt.analyzers.TimeReturn, timeframe=bt.TimeFrame.Days, data=feed, _name="days")
    watcher = run_out(cerebro, store)
    dates = [(at("2020-12-01") + dt.timedelta(days=day)).date() for day in range(36)]
    assert [bt.num2date(num).date() for num in feed.datetime.array] == dates
    years = {year.year: change for year, change in watcher.analyzers.years.get_analysis().items()}
    closes = dict(zip(dates, feed.close.array, strict=True))
    new_years_eve = closes[dt.date(2020, 12, 31)]
    assert years[2021] == pytest.approx(closes[dates[-1]] / new_years_eve - 1)
    days = watcher.analyzers.days.get_analysis()
    assert [day.date() for day in days] == dates


def test_live_bars_resampled_from_seconds_are_the_exchanges_minutes(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=40)
    store = store_of(server)
    cerebro = bt.Cerebro(stdstats=False)
    fine = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=3), **SECONDS)
    cerebro.adddata(fine)
    made = cerebro.resampledata(fine, **MINUTES)
    watcher = run_out(cerebro, store, until=lambda w: fine.origins.get("ws", 0) >= 150)
    start_ms = fine._utc_ms(fine.p.fromdate)
    assert_equals_exchange(server, watcher, fine, "1s", start_ms)
    last_ms = watcher.seen[fine][-1][0]
    expected = [bar for bar in truth(server, fine, "1m", start_ms, last_ms - 60_000) if bar[0] <= last_ms]
    assert len(expected) >= 5
    assert_same(watcher.seen[made], expected)
