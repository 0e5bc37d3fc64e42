"""BulkFeed against PandasData: the same bars give the same run, to the last bit, however cerebro runs."""

import datetime as dt
import itertools
import multiprocessing
import pickle
import zoneinfo

import backtrader as bt
import numpy as np
import pytest

from ccxtbt.bulkfeed import BulkFeed, localizable
from ccxtbt.errors import ConfigError, DataError
from ccxtbt.resampled import ResampledFeed
from reference import lines as reference
from reference.lines import DAY_MS, START_MS, Chooser, bulk, cerebro_of, columns, pandas, record

MINUTES, DAYS, WEEKS, MONTHS = bt.TimeFrame.Minutes, bt.TimeFrame.Days, bt.TimeFrame.Weeks, bt.TimeFrame.Months
BARS = 90


def at(text):
    """A naive time in UTC, as backtrader takes it."""
    return dt.datetime.fromisoformat(text)


def compare(build, *, settings=None, run=None, **kwargs):
    """Run the same cerebro over both feeds; `build(cerebro, make)` adds the datas."""
    results = []
    for make in (pandas, bulk):
        cerebro = cerebro_of(settings=settings, **kwargs)
        build(cerebro, make)
        results.append(record(cerebro, **(run or {})))
    expected, got = results
    assert expected["seen"], "the run saw no bar: it compares nothing"
    for name, value in expected.items():
        assert got[name] == value, name
    return got


def minutes(cerebro, make):
    cerebro.adddata(make(columns(BARS), timeframe=MINUTES), name="one")


def three(cerebro, make):
    """Minutes, five minutes with gaps and hours that begin later."""
    cerebro.adddata(make(columns(BARS), timeframe=MINUTES), name="fine")
    cerebro.adddata(make(columns(30, step_ms=300_000, seed=2, gaps=0.3), timeframe=MINUTES, compression=5), name="five")
    later = columns(9, step_ms=900_000, seed=3, start_ms=START_MS + 1_800_000)
    cerebro.adddata(make(later, timeframe=MINUTES, compression=15), name="quarter")


def five_days(cerebro, make):
    cerebro.adddata(make(columns(110, step_ms=3_600_000), timeframe=MINUTES, compression=60), name="hours")
    cerebro.adddata(make(columns(5, step_ms=DAY_MS, seed=4), timeframe=DAYS), name="days")


MODES = {
    "runonce": {},
    "next": {"runonce": False},
    "no preload": {"preload": False},
    "exactbars 1": {"exactbars": 1},
    "exactbars -1": {"exactbars": -1},
    "exactbars -2": {"exactbars": -2},
    "lookahead": {"lookahead": 3},
    "old sync": {"oldsync": True},
    "old sync, next": {"oldsync": True, "runonce": False},
    "cheat on open": {"cheat_on_open": True},
    "trade history": {"tradehistory": True, "runonce": False},
    "live by wish": {"live": True},
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_one_data(mode):
    compare(minutes, **mode)


# Backtrader's old runonce fails on datas of different lengths, with any feed.
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "old sync"])
def test_datas_of_several_timeframes(mode):
    compare(three, settings={"period": 3}, **MODES[mode])


def test_hours_and_days():
    compare(five_days, settings={"period": 2})


def test_a_coupled_line_of_a_slower_data():
    compare(three, settings={"period": 3, "coupled": True}, runonce=False)


def resampled(timeframe, compression, **kwargs):
    def build(cerebro, make):
        cerebro.resampledata(
            make(columns(250), timeframe=MINUTES), timeframe=timeframe, compression=compression, **kwargs
        )

    return build


def beside_resampled(cerebro, make):
    data = make(columns(150), timeframe=MINUTES)
    cerebro.adddata(data)
    cerebro.resampledata(data, timeframe=MINUTES, compression=15)


def days_to_weeks_and_months(cerebro, make):
    data = make(columns(90, step_ms=DAY_MS), timeframe=DAYS)
    cerebro.adddata(data)
    cerebro.resampledata(data, timeframe=WEEKS)
    cerebro.resampledata(data, timeframe=MONTHS)


def days_to_weeks_by_a_calendar(cerebro, make):
    cerebro.addcalendar(bt.TradingCalendar(holidays=[dt.date(2021, 1, 1), dt.date(2021, 1, 8)]))
    cerebro.resampledata(make(columns(60, step_ms=DAY_MS), timeframe=DAYS), timeframe=WEEKS)


def days_of_sessions(cerebro, make):
    data = make(columns(200, step_ms=1_800_000), timeframe=MINUTES, compression=30, sessionend=dt.time(17, 30))
    cerebro.resampledata(data, timeframe=DAYS)


def replayed(timeframe, compression):
    def build(cerebro, make):
        cerebro.replaydata(make(columns(150), timeframe=MINUTES), timeframe=timeframe, compression=compression)

    return build


def filtered(*filters, bars=150, step_ms=60_000, **kwargs):
    def build(cerebro, make):
        data = make(columns(bars, step_ms=step_ms), timeframe=MINUTES, **kwargs)
        for each in filters:
            data.addfilter(each)
        cerebro.adddata(data)

    return build


def simply_filtered(cerebro, make):
    data = make(columns(120), timeframe=MINUTES)
    data.addfilter_simple(lambda bar: bar.close[0] > bar.open[0])
    cerebro.adddata(data)


def filter_param(cerebro, make):
    cerebro.adddata(make(columns(120), timeframe=MINUTES, filters=[bt.filters.HeikinAshi]))


def split_days(cerebro, make):
    data = make(columns(60, step_ms=DAY_MS), timeframe=DAYS, sessionstart=dt.time(9, 0), sessionend=dt.time(17, 30))
    data.addfilter(bt.filters.DaySplitter_Close)
    cerebro.adddata(data)


def opened_days(cerebro, make):
    data = make(columns(60, step_ms=DAY_MS), timeframe=DAYS, sessionstart=dt.time(9, 0), sessionend=dt.time(17, 30))
    data.addfilter(bt.filters.BarReplayer_Open)
    cerebro.adddata(data)


SPAN = {"fromdate": at("2020-12-31 00:30"), "todate": at("2020-12-31 01:45")}
BUILDS = {
    "resampled to 5 minutes": resampled(MINUTES, 5),
    "resampled to hours, left edge": resampled(MINUTES, 60, rightedge=False),
    "resampled without edges": resampled(MINUTES, 7, bar2edge=False),
    "resampled to days": resampled(DAYS, 1),
    "beside its resampled": beside_resampled,
    "days to weeks and months": days_to_weeks_and_months,
    "days to weeks by a calendar": days_to_weeks_by_a_calendar,
    "days of sessions": days_of_sessions,
    "replayed to 5 minutes": replayed(MINUTES, 5),
    "replayed to hours": replayed(MINUTES, 60),
    "HeikinAshi": filtered(bt.filters.HeikinAshi),
    "Renko": filtered(bt.filters.Renko, bars=600),
    "two filters": filtered(bt.filters.HeikinAshi, bt.filters.Renko, bars=600),
    "session filter": filtered(bt.filters.SessionFilter, sessionstart=dt.time(1, 0), sessionend=dt.time(2, 20)),
    "session filler": filtered(
        bt.filters.SessionFiller, step_ms=300_000, sessionstart=dt.time(1, 0), sessionend=dt.time(4, 20)
    ),
    "simple filter": simply_filtered,
    "filter as a parameter": filter_param,
    "split days": split_days,
    "opened days": opened_days,
    "span": filtered(**SPAN),
    "span of dates": filtered(bars=50, step_ms=6 * 3_600_000, fromdate=dt.date(2021, 1, 2), todate=dt.date(2021, 1, 8)),
    "span and filter": filtered(bt.filters.HeikinAshi, **SPAN),
    "span in a time zone": filtered(
        tz=localizable("America/New_York"),
        fromdate=at("2020-12-30 19:30"),
        todate=at("2020-12-30 21:00"),
    ),
    "output time zone": filtered(tz=localizable("Asia/Kathmandu")),
    "input time zone": filtered(tzinput=localizable("Europe/Berlin"), **SPAN),
    "both time zones": filtered(tz=localizable("Asia/Tokyo"), tzinput=localizable("Europe/Berlin")),
}

# Backtrader's other filters fail on its bounded buffers, with any feed.
WITH_BOUNDED_BUFFERS = ["resampled to 5 minutes", "replayed to 5 minutes", "HeikinAshi", "simple filter", "span"]


@pytest.mark.parametrize("name", BUILDS)
def test_what_stands_between_the_bars_and_the_strategy(name):
    compare(BUILDS[name], settings={"period": 3})


@pytest.mark.parametrize("name", WITH_BOUNDED_BUFFERS)
def test_what_stands_between_with_bounded_buffers(name):
    compare(BUILDS[name], settings={"period": 3}, exactbars=1)


def clones(cerebro, make):
    data = make(columns(BARS), timeframe=MINUTES)
    cerebro.adddata(data)
    cerebro.adddata(data.clone())
    cerebro.adddata(data.copyas("copy"))


def chained(cerebro, make):
    first, second = columns(70), columns(90, seed=5, start_ms=START_MS + 50 * 60_000)
    cerebro.chaindata(make(first, timeframe=MINUTES), make(second, timeframe=MINUTES), name="chain")


def test_clones_and_copies():
    compare(clones)


def test_a_chain_of_feeds():
    compare(chained)


def timed(cerebro, make):
    data = make(columns(240), timeframe=MINUTES, sessionstart=dt.time(0, 20), sessionend=dt.time(2, 0))
    cerebro.adddata(data)
    for when in (bt.timer.SESSION_START, bt.timer.SESSION_END, dt.time(1, 11)):
        cerebro.add_timer(when, tzdata=data, strats=True)


@pytest.mark.parametrize("mode", [{}, {"runonce": False}], ids=str)
def test_timers(mode):
    got = compare(timed, **mode)
    assert sum(entry[0] == "timer" for entry in got["told"]) == 3


@pytest.mark.parametrize("first", [{}, {"exactbars": 1}], ids=str)
def test_a_second_run_of_the_same_cerebro(first):
    both = []
    for make in (pandas, bulk):
        cerebro = cerebro_of()
        three(cerebro, make)
        record(cerebro, writer=False, **first)
        cerebro.broker.set_cash(100_000.0)
        # A bounded buffer stays bounded in later runs, where runonce fails with any feed.
        both.append(record(cerebro, writer=False, exactbars=0, runonce=not first, preload=True))
    assert both[0] == both[1]


def optimise(make, **kwargs):
    # Without the standard observers: backtrader's DataTrades cannot come back from another process.
    cerebro = bt.Cerebro(stdstats=False, **kwargs)
    cerebro.adddata(make(columns(BARS), timeframe=MINUTES))
    cerebro.adddata(make(columns(30, step_ms=300_000), timeframe=MINUTES, compression=5))
    cerebro.optstrategy(Chooser, period=[3, 5, 8])
    cerebro.addanalyzer(bt.analyzers.TradeAnalyzer)
    cerebro.addanalyzer(bt.analyzers.TimeReturn, timeframe=MINUTES)
    runs = [run[0] for run in cerebro.run()]
    return [(run.params.period, [reference.deep(each.get_analysis()) for each in run.analyzers]) for run in runs]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("kwargs", [{"optdatas": True}, {"optdatas": False}, {"optreturn": False}], ids=str)
def test_optimisation_in_several_processes(kwargs):
    expected = optimise(pandas, maxcpus=1)
    assert expected[0][1] != expected[1][1]
    assert optimise(bulk, maxcpus=1) == expected
    assert optimise(bulk, maxcpus=2, **kwargs) == expected


class Counting(bt.Strategy):
    params = (("period", 2),)

    def __init__(self):
        self.average = bt.indicators.SMA(self.data1, period=self.p.period)

    def stop(self):
        self.end = (len(self.data0), len(self.data1), self.data1.datetime[0], self.average[0])


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_coarser_bars_travel_to_the_processes_of_an_optimisation():
    bars = columns(300)
    cerebro = bt.Cerebro(stdstats=False, maxcpus=2, optreturn=False)
    minutes = BulkFeed(columns=bars, timeframe=MINUTES)
    cerebro.adddata(minutes)
    cerebro.adddata(ResampledFeed(base=minutes, timeframe=MINUTES, compression=15))
    cerebro.optstrategy(Counting, period=[2, 3])
    (two,), (three,) = cerebro.run()
    assert two.end[:2] == three.end[:2] == (300, 20)
    closes = bars[1][3][14::15]
    assert [two.end[3], three.end[3]] == pytest.approx([closes[-2:].mean(), closes[-3:].mean()])


@pytest.mark.soak
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_optimisation_in_processes_that_share_nothing(method, monkeypatch):
    expected = optimise(bulk, maxcpus=1)
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform has no {method}")
    monkeypatch.setattr(multiprocessing, "Pool", multiprocessing.get_context(method).Pool)
    assert optimise(bulk, maxcpus=2) == expected


def loaded(feed):
    cerebro = bt.Cerebro()
    cerebro.adddata(feed)
    cerebro.addstrategy(bt.Strategy)
    cerebro.run()
    return feed


def test_a_pickled_feed_carries_columns_lines_position_and_waiting_bars():
    feed = loaded(bulk(columns(20), timeframe=MINUTES))
    feed.home()
    for _ in range(7):
        feed.advance()
    feed.append(START_MS + 20 * 60_000, 1.0, 2.0, 0.5, 1.5, 9.0)
    feed._env = None
    copy = pickle.loads(pickle.dumps(feed))
    assert (len(copy), copy.buflen(), copy.pending, copy.last_ms) == (7, 20, 1, START_MS + 20 * 60_000)
    assert (copy.tick_close, copy.tick_last) == (feed.close[0], feed.close[0])
    assert copy.close[0] == feed.close[0]
    assert copy.close is copy.lines.close is copy.lines[0]
    copy.advance()
    feed.advance()
    assert [line[0].hex() for line in copy.lines] == [line[0].hex() for line in feed.lines]


STEPS = {
    "len": len,
    "buflen": lambda feed: feed.buflen(),
    "tick": lambda feed: feed.tick_high,
    "set tick": lambda feed: setattr(feed, "tick_high", 2.0),
    "fill ticks": lambda feed: feed._tick_fill(force=True),
    "nullify ticks": lambda feed: feed._tick_nullify(),
    "peek": lambda feed: feed.advance_peek(),
    "advance": lambda feed: feed.advance(),
    "rewind": lambda feed: feed.rewind(),
    "home": lambda feed: feed.home(),
    "forward": lambda feed: feed.forward(),
    "backwards": lambda feed: feed.backwards(),
    "next": lambda feed: feed.next(),
    "load": lambda feed: feed.load(),
    "_load": lambda feed: feed._load(),
    "preload": lambda feed: feed.preload(),
    "check": lambda feed: feed._check(),
    "live data": lambda feed: feed.haslivedata(),
    "notifications": lambda feed: list(feed.get_notifications()),
    "columns": lambda feed: feed.set_columns(*columns(3)),
    "append": lambda feed: feed.append(*bar(99)),
    "pickle": lambda feed: pickle.loads(pickle.dumps(feed)).lines[0][0],
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_the_first_step_of_a_pickled_feed_may_be_any(step):
    feed = loaded(bulk(columns(5), timeframe=MINUTES))
    feed._env = None
    feed.home()
    feed.advance(3)
    copy = pickle.loads(pickle.dumps(feed))
    assert step(copy) == step(feed)
    assert len(copy) == len(feed)
    assert [line[0].hex() for line in copy.lines] == [line[0].hex() for line in feed.lines]


@pytest.mark.parametrize("step", ["len", "buflen", "peek", "home", "live data", "append", "columns", "nullify ticks"])
def test_a_feed_that_no_cerebro_has_started_does_not_break(step):
    STEPS[step](BulkFeed())


def test_a_pickled_feed_keeps_to_the_fast_paths(monkeypatch):
    feed = loaded(bulk(columns(5), timeframe=MINUTES))
    feed._env = None
    copy = pickle.loads(pickle.dumps(feed))
    monkeypatch.delattr(bt.feed.AbstractDataBase, "_tick_fill")
    copy.home()
    copy.advance()
    assert copy.tick_close == feed.lines.close.array[0]


# Stamps


def stamps_of(feeds, **kwargs):
    cerebro = bt.Cerebro(**kwargs)
    for feed in feeds:
        cerebro.adddata(feed)
    cerebro.addstrategy(bt.Strategy)
    cerebro.run()
    return [[round((num - 719163) * DAY_MS) for num in feed.lines.datetime.array] for feed in feeds]


def opens(bars):
    return bars[0].tolist()


def test_below_a_day_a_bar_is_stamped_with_its_close():
    bars = columns(10, step_ms=300_000)
    got = stamps_of([BulkFeed(columns=bars, timeframe=MINUTES, compression=5)])
    assert got == [[ts + 300_000 for ts in opens(bars)]]


def test_days_carry_their_own_date():
    bars = columns(10, step_ms=DAY_MS)
    assert stamps_of([BulkFeed(columns=bars, timeframe=DAYS)]) == [[ts + DAY_MS - 1 for ts in opens(bars)]]


def test_days_beside_minutes_are_stamped_with_their_close(caplog):
    bars, fine = columns(3, step_ms=DAY_MS), columns(10)
    with caplog.at_level("INFO", logger="ccxtbt.bulkfeed"):
        got = stamps_of(
            [BulkFeed(columns=fine, timeframe=MINUTES), BulkFeed(columns=bars, timeframe=DAYS, name="days")]
        )
    assert got[1] == [ts + DAY_MS for ts in opens(bars)]
    assert [record.getMessage() for record in caplog.records if "days" in record.getMessage()] == [
        "days: bars are stamped with their close (there are feeds below a day beside it)"
    ]


def test_weeks_beside_days_keep_their_own_date():
    days, weeks = columns(20, step_ms=DAY_MS), columns(3, step_ms=7 * DAY_MS, start_ms=START_MS - 3 * DAY_MS)
    got = stamps_of([BulkFeed(columns=days, timeframe=DAYS), BulkFeed(columns=weeks, timeframe=WEEKS)])
    assert got[1] == [ts + 7 * DAY_MS - 1 for ts in opens(weeks)]


@pytest.mark.parametrize(("stamp", "early"), [("close", 0), ("close-1ms", 1)])
@pytest.mark.parametrize("preload", [True, False])
def test_months_end_with_the_calendar(stamp, early, preload):
    firsts = [dt.datetime(2020 + month // 12, month % 12 + 1, 1, tzinfo=dt.UTC) for month in range(13)]
    ts_ms = [int(first.timestamp() * 1000) for first in firsts]
    bars = np.array(ts_ms[:-1]), columns(12)[1]
    feed = BulkFeed(columns=bars, timeframe=MONTHS, stamp=stamp)
    assert stamps_of([feed], preload=preload) == [[ts - early for ts in ts_ms[1:]]]


@pytest.mark.parametrize("stamp", ["open", "close", "close-1ms"])
@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize("between", [[], [lambda data: False]], ids=["plain", "filtered"])
def test_the_span_takes_bars_by_their_open_whatever_the_stamp(stamp, preload, between):
    bars = columns(200)
    feed = BulkFeed(columns=bars, timeframe=MINUTES, stamp=stamp, filters=between, **SPAN)
    shift_ms = {"open": 0, "close": 60_000, "close-1ms": 59_999}[stamp]
    assert stamps_of([feed], preload=preload) == [[ts + shift_ms for ts in opens(bars)[30:106]]]


@pytest.mark.parametrize("stamp", ["open", "close", "close-1ms"])
def test_the_span_of_wall_times_of_another_zone(stamp):
    """The columns say Berlin's wall time, an hour ahead: the same span in UTC lies an hour later in them."""
    bars = columns(200)
    feed = BulkFeed(columns=bars, timeframe=MINUTES, stamp=stamp, tzinput="Europe/Berlin", **SPAN)
    shift_ms = {"open": 0, "close": 60_000, "close-1ms": 59_999}[stamp] - 3_600_000
    assert stamps_of([feed]) == [[ts + shift_ms for ts in opens(bars)[90:166]]]


def test_the_end_of_a_day_does_not_let_the_next_day_in():
    bars = columns(100, step_ms=3_600_000)
    feed = BulkFeed(columns=bars, timeframe=MINUTES, compression=60, stamp="open", todate=dt.date(2020, 12, 31))
    assert stamps_of([feed]) == [opens(bars)[:24]]


@pytest.mark.parametrize("stamp", ["close", "close-1ms"])
@pytest.mark.parametrize("mode", [{}, {"preload": False}, {"exactbars": 1}], ids=str)
def test_a_stamped_feed_equals_pandas_data_with_those_stamps(stamp, mode):
    bars = columns(BARS)
    results = []
    for data in (
        pandas(bars, shift_ms=60_000 - (stamp == "close-1ms"), timeframe=MINUTES),
        BulkFeed(columns=bars, stamp=stamp, timeframe=MINUTES),
    ):
        cerebro = cerebro_of(**mode)
        cerebro.adddata(data)
        results.append(record(cerebro))
    assert results[0] == results[1]


def by_hand(bars, length_ms):
    """Bars of `length_ms` made from finer ones: (open, high, low, close) by their open time."""
    made = {}
    for ts, row in zip(bars[0].tolist(), bars[1].T.tolist(), strict=True):
        key = ts - ts % length_ms
        opened, high, low, _ = made.get(key, row[:4])
        made[key] = (opened, max(high, row[1]), min(low, row[2]), row[3])
    return made


@pytest.mark.parametrize(("timeframe", "compression", "length_ms"), [(MINUTES, 60, 3_600_000), (DAYS, 1, DAY_MS)])
def test_bars_resampled_from_closes_are_the_exchanges(timeframe, compression, length_ms):
    bars = columns(1440, step_ms=300_000)
    feed = BulkFeed(columns=bars, timeframe=MINUTES, compression=5)
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.resampledata(feed, timeframe=timeframe, compression=compression)
    cerebro.addstrategy(bt.Strategy)
    cerebro.run()
    expected = by_hand(bars, length_ms)
    names = ("datetime", "open", "high", "low", "close")
    rows = zip(*(getattr(feed.lines, name).array for name in names), strict=True)
    got = {round((num - 719163) * DAY_MS) - length_ms: tuple(values) for num, *values in rows}
    assert got == expected


# Live


class Source(BulkFeed):
    """A live feed whose bars a test puts in."""

    def __init__(self):
        self.drains = 0

    def islive(self):
        return True

    def _drained(self):
        self.drains += 1


class Watcher(bt.Strategy):
    def __init__(self):
        self.closes = []

    def next(self):
        self.closes.append([data.close[0] for data in self.datas])


def bar(number, close=1.0):
    return START_MS + number * 60_000, close, close, close, close, 1.0


class Feeder:
    """A store that puts the next bar in at every second pass of cerebro, and then ends the feed."""

    def __init__(self, feed, bars):
        self.feed, self.bars, self.passes = feed, iter(bars), 0

    def start(self):
        """Nothing to start."""

    def stop(self):
        """Nothing to stop."""

    def get_notifications(self):
        self.passes += 1
        if self.passes % 2 == 0:
            return ()
        found = next(self.bars, None)
        if found is None:
            self.feed.finish()
        else:
            self.feed.append(*found)
        return ()


class Filled(Source):
    """A live feed whose bars have all come when it starts."""

    def start(self):
        super().start()
        for found in self.bars:
            self.append(*found)
        self.finish()


class Noter(bt.Strategy):
    """Notes what its datas show, as far back as its moving averages look."""

    def __init__(self):
        self.seen = []
        for data in self.datas:
            bt.ind.SMA(data, period=3)

    def prenext(self):
        self.next()

    def next(self):
        datas = [data for data in self.datas if len(data) >= 3]
        self.seen.append([(len(data), data.datetime[0], [data.close[-i] for i in range(3)]) for data in datas])


@pytest.mark.parametrize("history", [0, 20])
@pytest.mark.parametrize("seed", range(4))
def test_a_live_bar_that_comes_too_early_is_neither_seen_nor_lost(history, seed):
    seen = []
    for exactbars in (0, -1, 1):
        cerebro = bt.Cerebro(exactbars=exactbars, stdstats=False)
        for number in range(3):
            ts_ms, ohlcv = columns(60, seed=10 * seed + number, gaps=0.4)
            past = np.ascontiguousarray(ohlcv[:, :history])
            feed = Filled(columns=(ts_ms[:history], past), timeframe=MINUTES)
            feed.bars = [(int(ts_ms[i]), *ohlcv[:, i]) for i in range(history, len(ts_ms))]
            cerebro.adddata(feed, name=str(number))
        cerebro.addstrategy(Noter)
        (strategy,) = cerebro.run()
        seen.append(strategy.seen)
    assert len(seen[0]) > 50
    # backtrader's bounded buffers cannot go back: such a bar would show the future, and then be gone.
    assert seen[1] == seen[0]
    assert seen[2] == seen[0]


@pytest.mark.parametrize("mode", [{}, {"exactbars": 1}], ids=str)
def test_history_then_live_bars_then_the_end(mode):
    history = columns(30)
    feed = Source(columns=history, timeframe=MINUTES)
    cerebro = bt.Cerebro(quicknotify=True, **mode)
    cerebro.adddata(feed)
    cerebro.addstrategy(Watcher)
    feeder = Feeder(feed, [bar(30 + n, 50.0 + n) for n in range(5)])
    cerebro.addstore(feeder)
    strategy = cerebro.run()[0]
    assert [row[0] for row in strategy.closes] == [*history[1][3].tolist(), 50.0, 51.0, 52.0, 53.0, 54.0]
    assert feed.drains >= 1
    assert feeder.passes > 35
    assert feed.last_ms == START_MS + 34 * 60_000


def armed(**kwargs):
    """A live feed as cerebro has it before its loop."""
    feed = Source(timeframe=MINUTES, **kwargs)
    bt.Cerebro().adddata(feed)
    feed.reset()
    feed._start()
    return feed


def test_an_idle_live_feed_answers_none_and_has_no_live_data():
    feed = armed()
    assert feed.next() is None
    assert not feed.haslivedata()
    assert feed.get_notifications() == ()
    feed.append(*bar(0))
    assert feed.haslivedata()
    assert feed.pending == 1
    assert feed.next() is True
    assert (len(feed), feed.close[0], feed.tick_last) == (1, 1.0, 1.0)
    assert feed.next() is None
    feed.finish()
    assert feed.next() is False


def test_drained_is_called_once_each_time_the_bars_run_out():
    feed = armed()
    assert feed.next() is None
    assert feed.drains == 0
    for number in range(2):
        feed.append(*bar(number))
        assert feed.next() is True
        assert [feed.next(), feed.next()] == [None, None]
        assert feed.drains == number + 1


def test_bars_that_drained_adds_are_delivered_at_once():
    class Refill(Source):
        def _drained(self):
            super()._drained()
            if self.drains == 1:
                self.append(*bar(1, 7.0))

    feed = Refill(timeframe=MINUTES)
    bt.Cerebro().adddata(feed)
    feed._start()
    feed.append(*bar(0))
    assert [feed.next(), feed.next(), feed.next()] == [True, True, None]
    assert feed.close[0] == 7.0


def test_the_ring_of_waiting_bars_grows_and_wraps():
    feed = armed()
    put, taken = itertools.count(), itertools.count()
    for size in (10, 3, 14, 40, 1, 100, 7):
        for _ in range(size):
            number = next(put)
            feed.append(*bar(number, float(number)))
        for _ in range(min(size, feed.pending) - 1):
            assert feed.next() is True
            assert feed.close[0] == float(next(taken))
    while feed.pending:
        assert feed.next() is True
        assert feed.close[0] == float(next(taken))
    assert next(put) == next(taken)


def test_columns_appended_behind_history():
    history, more = columns(5), columns(4, start_ms=START_MS + 5 * 60_000, seed=8)
    feed = armed(columns=history)
    feed.append_columns(*more)
    assert feed.pending == 9
    while feed.next():
        pass
    assert list(feed.lines.close.array) == [*history[1][3], *more[1][3]]


def test_a_live_feed_ends_after_its_todate():
    feed = armed(fromdate=at("2020-12-31 00:01"), todate=at("2020-12-31 00:02"))
    for number in range(4):
        feed.append(*bar(number, float(number)))
    assert [feed.next(), feed.next(), feed.next(), feed.next()] == [True, True, False, False]
    assert list(feed.lines.close.array) == [1.0, 2.0]


def test_bars_appended_in_a_backtest_follow_the_columns():
    class Late(BulkFeed):
        def start(self):
            super().start()
            self.append(*bar(20, 3.0))

    feed = loaded(Late(columns=columns(20), timeframe=MINUTES))
    assert feed.buflen() == 21
    assert feed.lines.close.array[-1] == 3.0


def test_qcheck_is_backtraders():
    feed = armed(qcheck=0.5)
    feed.do_qcheck(True, 0.2)
    assert feed._qcheck == 0.5 - 0.2
    feed.do_qcheck(True, 0.7)
    assert feed._qcheck == 0.0
    feed.do_qcheck(False, 0.0)
    assert feed._qcheck == 0.0


def test_notifications_are_delivered():
    feed = armed()
    feed.put_notification(feed.LIVE)
    assert feed.get_notifications() == [(feed.LIVE, (), {})]
    assert feed.get_notifications() == ()


# What is refused, and too little data


@pytest.mark.parametrize(
    ("ts_ms", "rows"), [([1, 2, 3], 2), ([[1, 2]], 2)], ids=["lengths differ", "times in two dimensions"]
)
def test_columns_that_do_not_fit_are_refused(ts_ms, rows):
    with pytest.raises(ConfigError, match="do not fit"):
        BulkFeed().set_columns(np.array(ts_ms), np.zeros((5, rows)))


@pytest.mark.parametrize("ts_ms", [[1, 3, 3], [1, 3, 2]])
def test_times_that_do_not_increase_are_refused(ts_ms):
    with pytest.raises(DataError, match=f"opens at {ts_ms[2]} ms is not later than the one before it \\(3 ms\\)"):
        BulkFeed().set_columns(np.array(ts_ms), np.zeros((5, 3)))


def test_an_appended_bar_must_be_later_than_all_before():
    feed = armed(columns=columns(5))
    with pytest.raises(DataError, match="not later"):
        feed.append(*bar(4))
    feed.append(*bar(5))
    with pytest.raises(DataError, match="not later"):
        feed.append(*bar(5))
    assert feed.pending == 6


def test_bars_of_ticks_may_share_a_time():
    times = np.array([1_000, 1_000, 2_000])

    class Look(bt.Strategy):
        def __init__(self):
            self.seen = []

        def next(self):
            self.seen.append((len(self.data), self.data.close[0]))

    class Growing(BulkFeed):
        def _drained(self):
            if self.last_ms == 2_000:
                self.append(2_000, *[4.0] * 5)
                self.append(3_000, *[5.0] * 5)

    for options in ({}, {"preload": False}, {"runonce": False}, {"exactbars": 1}):
        feed = Growing(columns=(times, np.tile([1.0, 2.0, 3.0], (5, 1))), timeframe=bt.TimeFrame.Ticks)
        cerebro = bt.Cerebro(stdstats=False, **options)
        cerebro.adddata(feed)
        cerebro.addstrategy(Look)
        assert cerebro.run()[0].seen == [(n, float(n)) for n in range(1, 6)]
        with pytest.raises(DataError, match="not later"):
            feed.append(2_999, *[6.0] * 5)


def test_an_unknown_stamp_is_refused():
    with pytest.raises(ConfigError, match="'middle'"):
        loaded(BulkFeed(columns=columns(3), stamp="middle"))


def test_an_unknown_time_zone_is_refused():
    with pytest.raises(ConfigError, match="Mars/Olympus"):
        loaded(BulkFeed(columns=columns(3), tz="Mars/Olympus"))


ZONES = ["Europe/Berlin", zoneinfo.ZoneInfo("Europe/Berlin"), dt.timezone(dt.timedelta(hours=1))]


@pytest.mark.parametrize("zone", ZONES, ids=["name", "zoneinfo", "offset"])
def test_any_time_zone_serves(zone):
    feed = loaded(bulk(columns(3), timeframe=MINUTES, tz=zone))
    assert pickle.loads(pickle.dumps(feed._tz)).utcoffset(at("2021-01-01 00:00")) == dt.timedelta(hours=1)
    assert feed.datetime.datetime(0) == at("2020-12-31 01:02")


@pytest.mark.parametrize("bars", [0, 1, 4])
@pytest.mark.parametrize("mode", [{}, {"preload": False}, {"exactbars": 1}, {"lookahead": 2}], ids=str)
def test_fewer_bars_than_an_indicator_needs(bars, mode):
    """PandasData raises IndexError with runonce; both give the same without."""
    results = []
    for make, extra in ((pandas, {"runonce": False}), (bulk, {})):
        cerebro = cerebro_of(settings={"period": 5}, **{**mode, **extra})
        cerebro.adddata(make(columns(bars), timeframe=MINUTES))
        results.append(record(cerebro))
    assert results[0]["seen"] == results[1]["seen"]
    assert len(results[1]["seen"]) == bars
    assert results[0]["analysis"] == results[1]["analysis"]


def test_a_short_slow_feed_does_not_slow_down_a_long_one_that_alone_has_indicators():
    class FineOnly(bt.Strategy):
        def __init__(self):
            bt.indicators.SMA(self.data0, period=20)

    cerebro = bt.Cerebro()
    cerebro.adddata(bulk(columns(100), timeframe=MINUTES))
    cerebro.adddata(bulk(columns(2, step_ms=3_600_000), timeframe=MINUTES, compression=60))
    cerebro.addstrategy(FineOnly)
    cerebro.run()
    assert cerebro._dorunonce


# Subclasses


def test_a_subclass_may_override_load():
    class Doubled(BulkFeed):
        def _load(self):
            if not super()._load():
                return False
            self.lines.close[0] *= 2
            return True

    bars = columns(20)
    feed = loaded(Doubled(columns=bars, timeframe=MINUTES))
    assert list(feed.lines.close.array) == [2 * value for value in bars[1][3]]


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("mode", [{}, {"preload": False}, {"exactbars": 1}], ids=str)
def test_a_subclass_may_add_lines_and_bind_them(mode, bound):
    def bind(self):
        if bound:
            self.lines.close.addbinding(self.lines.trades)

    class Wide(BulkFeed):
        lines = ("trades",)
        __init__ = bind

    class WidePandas(bt.feeds.PandasData):
        lines = ("trades",)
        params = (("trades", None),)

        def __init__(self):
            super().__init__()
            bind(self)

    bars = columns(40)
    results = []
    for data in (
        WidePandas(dataname=pandas(bars).p.dataname, timeframe=MINUTES),
        Wide(columns=bars, stamp="open", timeframe=MINUTES),
    ):
        cerebro = cerebro_of(**mode)
        cerebro.adddata(data)
        results.append(record(cerebro))
    assert results[0] == results[1]
    assert ("nan" in results[0]["lines"][0][7]) is not bound


def test_ticks_can_be_set():
    feed = armed()
    with pytest.raises(AttributeError):
        _ = feed.tick_close
    feed.append(*bar(0, 5.0))
    feed.next()
    feed.tick_last = 9.0
    assert (feed.tick_close, feed.tick_last) == (5.0, 9.0)
    feed._tick_nullify()
    assert (feed.tick_close, feed.tick_last) == (None, None)


def test_the_lines_are_real_arrays_and_aliases_are_the_lines():
    feed = loaded(bulk(columns(5), timeframe=MINUTES))
    assert [line.array.typecode for line in feed.lines] == ["d"] * 7
    assert [name for name in feed.getlinealiases() if getattr(feed, name) is not getattr(feed.lines, name)] == []


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    import matplotlib.pyplot as plt
    from backtrader import plot

    plt.switch_backend("Agg")
    cerebro = cerebro_of(settings={"log": False})
    cerebro.adddata(bulk(columns(60), timeframe=MINUTES), name="shown")
    cerebro.run()
    figures = cerebro.plot(plotter=plot.Plot(style="candle"), iplot=False)
    figures[0][0].savefig(tmp_path / "plot.png", dpi=40)
    plt.close("all")
    assert (tmp_path / "plot.png").stat().st_size > 1000
