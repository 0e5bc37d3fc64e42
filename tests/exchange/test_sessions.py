"""Trading hours and calendars: the same bars in history and live, by the exchange's own."""

import datetime as dt
from dataclasses import replace

import backtrader as bt
import pytest

from ccxtbt.errors import ConfigError
from ccxtbt.market.sessions import Session
from simulated import BTC
from watching import Watcher, run, store_of, truth

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NEW_YEAR_MS = 1_609_459_200_000  # 2021-01-01 00:00 UTC, a Friday
SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}
HOURS = {"timeframe": bt.TimeFrame.Minutes, "compression": 60}
SPEC = replace(BTC, quiet=0.0)
at = dt.datetime.fromisoformat


def kept(bars, length_ms, inside):
    return [bar for bar in bars if inside(dt.datetime.fromtimestamp((bar[0] - length_ms) / 1000, dt.UTC))]


def test_only_bars_of_trading_hours_come_in_history_and_live(simulator):
    # It is 15:58; the session pauses in half a minute, and goes on after another.
    server = simulator((SPEC,), history_ms=3 * HOUR_MS, start_ms=NEW_YEAR_MS + 15 * HOUR_MS + 58 * 60_000, speed=30)
    store = store_of(server)
    hours = [("15:00", "15:58:30"), Session("15:59", "17:00", days="fri")]
    feed = store.getdata(dataname="BTC/USDT", fromdate=at("2021-01-01 14:50"), sessions=hours, **SECONDS)
    every = store.getdata(dataname="BTC/USDT", name="every", fromdate=at("2021-01-01 14:50"), **SECONDS)
    watcher = run(store, feed, every, until=lambda w: every.origins.get("ws", 0) >= 80)
    bars = truth(server, feed, "1s", every._utc_ms(every.p.fromdate), int(watcher.seen[every][-1][0]) - 1)
    assert watcher.seen[every] == bars

    def inside(when):
        return dt.time(15) <= when.time() < dt.time(15, 58, 30) or dt.time(15, 59) <= when.time() < dt.time(17)

    expected = kept(bars, 1_000, inside)
    assert expected[-1][0] > NEW_YEAR_MS + 15 * HOUR_MS + 59 * 60_000
    assert watcher.seen[feed] == expected[: len(watcher.seen[feed])]
    assert len(expected) - len(watcher.seen[feed]) <= 1
    assert watcher.states[feed] == ["DELAYED", "LIVE"]


def test_a_session_of_another_zone_over_midnight(simulator):
    server = simulator((SPEC,), history_ms=73 * HOUR_MS, start_ms=NEW_YEAR_MS + 3 * DAY_MS)
    store = store_of(server)
    hours = {"start": "20:00", "end": "04:00", "days": "thu-sat", "tz": "America/New_York"}
    feed = store.getdata(
        dataname="BTC/USDT", fromdate=at("2021-01-01"), historical=True, sessions=hours, timeframe="1h"
    )
    watcher = run(store, feed, until=lambda w: False)

    def inside(when):
        local = when - dt.timedelta(hours=5)
        day = local if local.hour >= 20 else local - dt.timedelta(days=1)
        return (local.hour >= 20 or local.hour < 4) and day.weekday() in {3, 4, 5}

    bars = truth(server, feed, "1h", NEW_YEAR_MS, NEW_YEAR_MS + 3 * DAY_MS - 1)
    assert watcher.seen[feed] == kept(bars, HOUR_MS, inside)
    # From 01:00 on the 1st, a Thursday evening in New York, to 09:00; two nights more, the Sunday's left out.
    assert len(watcher.seen[feed]) == 3 * 8


@pytest.mark.parametrize(
    ("sessions", "timeframe", "sentence"),
    [
        (("9:30 am", "16:00"), "1h", "9:30 am"),
        (("09:30", "16:00", "weekdays"), "1h", "mon-fri"),
        (("09:30", "16:00", "mon-fri", "New York"), "1h", "New York"),
        ([("09:30",)], "1h", "start and end"),
        (("09:30", "16:00"), "1d", "finer"),
    ],
)
def test_what_is_no_session_is_refused(simulator, sessions, timeframe, sentence):
    store = store_of(simulator((BTC,), history_ms=HOUR_MS))
    with pytest.raises(ConfigError, match=sentence):
        run(store, store.getdata(dataname="BTC/USDT", timeframe=timeframe, sessions=sessions), until=lambda w: True)


def days_by_calendar(server, calendar, **kwargs):
    """Days resampled from hours in a cerebro with a calendar."""
    store = store_of(server)
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.addcalendar(calendar)
    hours = store.getdata(dataname="BTC/USDT", fromdate=at("2021-01-01"), historical=True, **HOURS, **kwargs)
    cerebro.adddata(hours)
    days = cerebro.resampledata(hours, timeframe=bt.TimeFrame.Days)
    cerebro.addstrategy(Watcher, until=lambda w: False)
    (watcher,) = cerebro.run()
    store.stop()
    return watcher.seen[hours], watcher.seen[days]


def test_days_of_a_calendar_without_hours_are_the_exchanges(simulator):
    server = simulator((SPEC,), history_ms=97 * HOUR_MS, start_ms=NEW_YEAR_MS + 4 * DAY_MS)
    _, days = days_by_calendar(server, bt.TradingCalendar(offdays=()))
    market = server.exchange.markets["BTCUSDT"]
    rows = market.klines("1d", start_ms=NEW_YEAR_MS, end_ms=NEW_YEAR_MS + 4 * DAY_MS - 1, limit=9, now_ms=2**50)
    assert [bar[:5] for bar in days] == [(row[0] + DAY_MS, *map(float, row[1:5])) for row in rows]


def test_days_of_a_calendar_end_with_its_close(simulator):
    server = simulator((SPEC,), history_ms=97 * HOUR_MS, start_ms=NEW_YEAR_MS + 4 * DAY_MS)
    hours, days = days_by_calendar(server, bt.TradingCalendar(open=dt.time(9), close=dt.time(17), offdays=()))
    expected = []
    for day in range(4):
        end_ms = NEW_YEAR_MS + day * DAY_MS + 17 * HOUR_MS
        bars = [bar for bar in hours if end_ms - DAY_MS < bar[0] <= end_ms]
        highs, lows = [bar[2] for bar in bars], [bar[3] for bar in bars]
        expected.append((end_ms, bars[0][1], max(highs), min(lows), bars[-1][4]))
    assert [bar[:5] for bar in days][:4] == expected


def test_a_day_of_a_calendar_ends_live_with_its_close(simulator):
    # It is half a minute to the close.
    server = simulator((SPEC,), history_ms=HOUR_MS, start_ms=NEW_YEAR_MS + 17 * HOUR_MS - 30_000, speed=30)
    store = store_of(server)
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.addcalendar(bt.TradingCalendar(open=dt.time(9), close=dt.time(17), offdays=()))
    fine = store.getdata(dataname="BTC/USDT", fromdate=at("2021-01-01 16:30"), **SECONDS)
    cerebro.adddata(fine)
    days = cerebro.resampledata(fine, timeframe=bt.TimeFrame.Days)
    cerebro.addstrategy(Watcher, until=lambda w: fine.origins.get("ws", 0) >= 60)
    (watcher,) = cerebro.run()
    store.stop()
    assert not watcher.timed_out
    end_ms = NEW_YEAR_MS + 17 * HOUR_MS
    bars = [bar for bar in watcher.seen[fine] if bar[0] <= end_ms]
    highs, lows = [bar[2] for bar in bars], [bar[3] for bar in bars]
    assert [bar[:5] for bar in watcher.seen[days]] == [(end_ms, bars[0][1], max(highs), min(lows), bars[-1][4])]


def test_backtraders_session_filter_does_live_what_it_does_in_a_backtest(simulator):
    server = simulator((SPEC,), history_ms=HOUR_MS, start_ms=NEW_YEAR_MS + 16 * HOUR_MS - 30_000, speed=30)
    seen = []
    for historical in (False, True):
        store = store_of(server)
        feed = store.getdata(
            dataname="BTC/USDT",
            fromdate=at("2021-01-01 15:30"),
            historical=historical,
            sessionstart=dt.time(15, 45),
            sessionend=dt.time(16, 0, 10),
            **SECONDS,
        )
        feed.addfilter(bt.filters.SessionFilter)
        # After it nothing comes that could end the run.
        end_ms = NEW_YEAR_MS + 16 * HOUR_MS + 10_000
        watcher = run(store, feed, until=lambda w: w.seen[feed][-1:] and w.seen[feed][-1][0] == end_ms)  # noqa: B023
        seen.append(watcher.seen[feed])
    live, past = seen
    assert len(live) == 15 * 60 + 11
    assert live == past
