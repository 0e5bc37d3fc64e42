"""What does a backtest cost with this feed, and what does loading its bars cost?

    taskset -c 0 python -m pytest --benchmark benchmarks/bench_backtest.py

A strategy with a simple moving average on each data trades the first one by its crossing, under cerebro's defaults
(standard observers, runonce, preload); loading is timed with it. Then loading alone: a year of minutes. Peers run
beside ours in the same process on the same bars: backtrader's PandasData, and a feed that loads as bt-ccxt-store's
does (rows of lists in a deque, a state machine in _load, a datetime object per bar), without its requests and pauses.
Every run must end with the same account value and the same last bar as the others.

Then an hour beside its minutes: backtrader's resampledata over our feed and over PandasData against a bulk feed of the
hours, as `CCXTFeed.resampled` makes it, with a moving average on each data and with a strategy that does nothing. Whole
hours, for backtrader delivers the last one also where it is not over.

Caveats: most of what is left of a backtest is backtrader's own work for the strategy, its indicators and observers, so
the ratio of a whole run depends on them: where all hundred datas are traded, the broker's share is large. Loading a
year fills 29 MB: on fresh memory the page faults cost more than the copying. The group is therefore measured with an
allocator that keeps freed memory (for all peers alike), and ours on fresh memory beside it.
"""

import ctypes
import datetime as dt
import sys
import time
from collections import deque
from importlib.metadata import version

import backtrader as bt
import pytest

from ccxtbt.bulkfeed import BulkFeed
from ccxtbt.resampled import ResampledFeed
from reference.lines import columns, pandas

# CPU time: nothing here waits, and a neighbour on the machine does not count.
pytestmark = pytest.mark.benchmark(timer=time.process_time)

YEAR = 525_600
MINUTES = bt.TimeFrame.Minutes
ENDS = {}


class DequeFeed(bt.feed.DataBase):
    """Loads bar by bar as bt-ccxt-store's feed does once its rows are there."""

    params = (("rows", None),)
    HISTORY, OVER = range(2)

    def start(self):
        super().start()
        self._data = deque()
        self._last_ts = 0
        self._state = self.HISTORY
        for row in self.p.rows:
            if None in row:
                continue
            if row[0] > self._last_ts:
                self._data.append(row)
                self._last_ts = row[0]

    def _load(self):
        if self._state == self.OVER:
            return False
        while True:
            found = self._load_row()
            if found:
                return found
            self.put_notification(self.DISCONNECTED)
            self._state = self.OVER
            return False

    def _load_row(self):
        try:
            row = self._data.popleft()
        except IndexError:
            return None
        stamp, opened, high, low, close, volume = row
        when = dt.datetime.utcfromtimestamp(stamp // 1000)  # noqa: DTZ004  # as the original does
        self.lines.datetime[0] = bt.date2num(when)
        self.lines.open[0] = opened
        self.lines.high[0] = high
        self.lines.low[0] = low
        self.lines.close[0] = close
        self.lines.volume[0] = volume
        return True


def bulk_feed(bars):
    return BulkFeed(columns=bars, stamp="open", timeframe=MINUTES)


def pandas_feed(bars):
    return pandas(bars, timeframe=MINUTES)


def deque_feed(bars):
    ts_ms, ohlcv = bars
    return DequeFeed(rows=list(map(list, zip(ts_ms.tolist(), *ohlcv.tolist(), strict=True))), timeframe=MINUTES)


FEEDS = {"ccxtbt BulkFeed": bulk_feed, "PandasData": pandas_feed, "as bt-ccxt-store": deque_feed}


class Average(bt.Strategy):
    """Long while the close is above its moving average."""

    params = (("traded", 1),)

    def __init__(self):
        self.averages = [bt.indicators.SMA(data, period=20) for data in self.datas]

    def next(self):
        for data, average in zip(self.datas[: self.p.traded], self.averages, strict=False):
            size = self.getposition(data).size
            if data.close[0] > average[0]:
                if not size:
                    self.buy(data)
            elif size:
                self.close(data)


def same_end(group, end):
    assert ENDS.setdefault(group, end) == end, f"{group}: the peers do not end alike"


def describe(benchmark, group, rounds):
    benchmark.group = group
    benchmark.extra_info.update(rounds=rounds, backtrader=version("backtrader"), pandas=version("pandas"))


def backtest(benchmark, group, feed, *, datas, bars, rounds=2, traded=1, **kwargs):
    describe(benchmark, group, rounds)
    sources = [columns(bars, seed=seed) for seed in range(datas)]

    def setup():
        cerebro = bt.Cerebro(**kwargs)
        for bars in sources:
            cerebro.adddata(FEEDS[feed](bars))
        cerebro.addstrategy(Average, traded=traded)
        return (cerebro,), {}

    strategy = benchmark.pedantic(lambda cerebro: cerebro.run()[0], setup=setup, rounds=rounds)
    same_end(group, (strategy.broker.getvalue(), len(strategy), strategy.data.close[0]))


@pytest.mark.parametrize("feed", FEEDS)
def test_one_data(benchmark, feed):
    backtest(benchmark, "SMA strategy, 1 data x 100,000 bars", feed, datas=1, bars=100_000)


@pytest.mark.parametrize("feed", FEEDS)
def test_hundred_datas(benchmark, feed):
    backtest(benchmark, "SMA strategy, 100 datas x 2,000 bars", feed, datas=100, bars=2_000)


@pytest.mark.parametrize("feed", FEEDS)
def test_hundred_datas_all_traded(benchmark, feed):
    group = "the same with all 100 datas traded, x 500 bars"
    backtest(benchmark, group, feed, datas=100, bars=500, traded=100, rounds=1)


@pytest.mark.parametrize("feed", FEEDS)
def test_bar_by_bar(benchmark, feed):
    backtest(benchmark, "bar by bar (preload=False), 10 datas x 2,000 bars", feed, datas=10, bars=2_000, preload=False)


def hours_of_ours(cerebro, bars):
    minutes = BulkFeed(columns=bars, timeframe=MINUTES)
    cerebro.adddata(minutes)
    cerebro.adddata(ResampledFeed(base=minutes, timeframe=MINUTES, compression=60))


def hours_resampled(cerebro, bars):
    minutes = BulkFeed(columns=bars, timeframe=MINUTES)
    cerebro.adddata(minutes)
    cerebro.resampledata(minutes, timeframe=MINUTES, compression=60)


def hours_of_pandas(cerebro, bars):
    minutes = pandas(bars, timeframe=MINUTES, shift_ms=60_000, sessionend=dt.time(0))
    cerebro.adddata(minutes)
    cerebro.resampledata(minutes, timeframe=MINUTES, compression=60)


HOURS = {
    "ccxtbt resampled()": hours_of_ours,
    "ccxtbt + resampledata": hours_resampled,
    "PandasData + resampledata": hours_of_pandas,
}


class Idle(bt.Strategy):
    """Looks at nothing."""

    def next(self):
        pass


def hours(benchmark, group, build, strategy, bars):
    describe(benchmark, group, 2)
    source = columns(bars)

    def setup():
        cerebro = bt.Cerebro(stdstats=strategy is Average)
        HOURS[build](cerebro, source)
        cerebro.addstrategy(strategy)
        return (cerebro,), {}

    end = benchmark.pedantic(lambda cerebro: cerebro.run()[0], setup=setup, rounds=2)
    data = end.data1
    same_end(group, (end.broker.getvalue(), len(data), data.datetime[0], data.close[0], data.high[0]))


@pytest.mark.parametrize("build", HOURS)
def test_hours_beside_minutes(benchmark, build):
    hours(benchmark, "60m beside 1m, SMA strategy, 21,600 bars", build, Average, 21_600)


@pytest.mark.parametrize("build", HOURS)
def test_hours_beside_minutes_alone(benchmark, build):
    hours(benchmark, "60m beside 1m, the datas alone, 60,000 bars", build, Idle, 60_000)


def mallopt(*, mmap_from, keep):
    """Tell glibc from which size on memory is mapped anew, and how much freed memory it keeps; elsewhere nothing."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        mmap_threshold, trim_threshold = -3, -1
        libc.mallopt(mmap_threshold, mmap_from)
        libc.mallopt(trim_threshold, keep)


@pytest.fixture
def kept_memory():
    mallopt(mmap_from=32 << 20, keep=1 << 30)


@pytest.fixture
def fresh_memory():
    mallopt(mmap_from=1 << 20, keep=0)


def load(benchmark, feed, rounds):
    group = "preload of a year of minutes"
    describe(benchmark, group, rounds)
    source = FEEDS[feed](columns(YEAR))
    bt.Cerebro().adddata(source)

    def setup():
        source.reset()

    def preload():
        source._start()
        source.preload()

    benchmark.pedantic(preload, setup=setup, rounds=rounds)
    same_end(group, (source.buflen(), source.lines.datetime.array[-1], source.lines.close.array[-1]))


@pytest.mark.usefixtures("fresh_memory")
def test_preload_into_fresh_memory(benchmark):
    load(benchmark, "ccxtbt BulkFeed", rounds=10)


@pytest.mark.usefixtures("kept_memory")
@pytest.mark.parametrize(("feed", "rounds"), [("ccxtbt BulkFeed", 30), ("PandasData", 1), ("as bt-ccxt-store", 2)])
def test_preload(benchmark, feed, rounds):
    load(benchmark, feed, rounds)
