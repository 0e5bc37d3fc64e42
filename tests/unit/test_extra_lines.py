"""Lines that a subclass of a bulk feed declares: filled from rows behind the five, and from what is appended."""

import math
import pickle

import backtrader as bt
import numpy as np
import pytest

from ccxtbt.bulkfeed import BulkFeed
from ccxtbt.errors import ConfigError
from ccxtbt.exchange.exchanges import TABLE
from ccxtbt.exchange.facts import Facts
from ccxtbt.resampled import ResampledFeedWithVolumes

BARS = 40
MINUTES = {"timeframe": bt.TimeFrame.Minutes}
TIMES = np.arange(1, BARS + 1, dtype=np.int64) * 60_000
ROWS = np.arange(7.0 * BARS).reshape(7, BARS)


class TwoMore(BulkFeed):
    lines = ("mood", "trades")


class Growing(TwoMore):
    """Half of the bars are appended when the first half has been delivered, with and without extra values."""

    appended = False

    def _drained(self):
        if not self.appended:
            self.appended = True
            half = BARS // 2
            for at in range(half, BARS - 5):
                self.append(int(TIMES[at]), *ROWS[:5, at], tuple(ROWS[5:, at]) if at % 2 else ())
            self.append_columns(TIMES[BARS - 5 :], ROWS[:, BARS - 5 :])


class Look(bt.Strategy):
    def __init__(self):
        self.mean = bt.ind.SMA(self.data.trades, period=2)
        self.seen = []

    def prenext(self):
        self.next()

    def next(self):
        self.seen.append((self.data.close[0], self.data.mood[0], self.data.trades[0], self.data.trades[-1]))


def passing(data):
    """A filter that changes nothing, so that backtrader's own loop loads the bars."""
    return False


def seen_by(feed, filtered=False, **options):
    if filtered:
        feed.addfilter_simple(passing)
    cerebro = bt.Cerebro(stdstats=False, **options)
    cerebro.adddata(feed)
    cerebro.addstrategy(Look)
    return cerebro.run()[0].seen


def same(one, other):
    return all(
        left == right or (math.isnan(left) and math.isnan(right)) for left, right in zip(one, other, strict=True)
    )


HOW = [{}, {"preload": False}, {"runonce": False}, {"exactbars": 1}, {"exactbars": -2}, {"filtered": True}]


@pytest.mark.parametrize("how", HOW, ids=str)
def test_rows_behind_the_five_are_the_declared_lines(how):
    seen = seen_by(TwoMore(columns=(TIMES, ROWS), **MINUTES), **how)
    assert len(seen) == BARS
    for at in range(1, BARS):
        assert seen[at] == (ROWS[3, at], ROWS[5, at], ROWS[6, at], ROWS[6, at - 1])


@pytest.mark.parametrize("how", HOW, ids=str)
def test_appended_bars_bring_their_own(how):
    half = BARS // 2
    seen = seen_by(Growing(columns=(TIMES[:half], np.ascontiguousarray(ROWS[:, :half])), **MINUTES), **how)
    assert len(seen) == BARS
    for at in range(BARS):
        given = not half <= at < BARS - 5 or at % 2
        assert same(seen[at][:3], (ROWS[3, at], *(ROWS[5:, at] if given else [math.nan] * 2)))


@pytest.mark.parametrize("how", HOW, ids=str)
def test_without_their_rows_they_are_nan(how):
    seen = seen_by(TwoMore(columns=(TIMES, np.ascontiguousarray(ROWS[:5])), **MINUTES), **how)
    assert [close for close, *_ in seen] == ROWS[3].tolist()
    assert all(math.isnan(mood) and math.isnan(trades) for _, mood, trades, _ in seen)


def test_a_copy_in_another_process_has_them():
    feed = Growing(columns=(TIMES[:20], np.ascontiguousarray(ROWS[:, :20])), **MINUTES)
    cerebro = bt.Cerebro()
    cerebro.adddata(feed)
    feed._start()
    feed.append(int(TIMES[20]), *ROWS[:5, 20], tuple(ROWS[5:, 20]))
    copy = pickle.loads(pickle.dumps(feed))
    copy.appended = True
    for _ in range(21):
        assert copy.load()
    assert [line[0] for line in (copy.lines.mood, copy.lines.trades)] == ROWS[5:, 20].tolist()
    assert copy.lines.trades[-1] == ROWS[6, 19]


class LiveTwo(TwoMore):
    """All bars are appended, in a live run, in which a bar that is not due yet is put back."""

    def islive(self):
        return True

    def start(self):
        super().start()
        for at in range(self.p.first, BARS, self.p.step):
            self.append(int(TIMES[at]), *ROWS[:5, at], tuple(ROWS[5:, at]))
        self.finish()

    params = (("first", 0), ("step", 1))


@pytest.mark.parametrize("exactbars", [False, 1])
def test_a_bar_that_is_put_back_keeps_its_own(exactbars):
    seen = []

    class Both(bt.Strategy):
        def prenext(self):
            self.next()

        def next(self):
            if len(self.data1):
                seen.append((len(self.data1), self.data1.mood[0], self.data1.trades[0]))

    cerebro = bt.Cerebro(stdstats=False, exactbars=exactbars)
    cerebro.adddata(LiveTwo(**MINUTES))
    cerebro.adddata(LiveTwo(first=4, step=5, **MINUTES))
    cerebro.addstrategy(Both)
    cerebro.run()
    assert list(dict.fromkeys(seen)) == [(n, ROWS[5, at], ROWS[6, at]) for n, at in enumerate(range(4, BARS, 5), 1)]


def test_rows_for_other_lines_are_refused():
    with pytest.raises(ConfigError, match=r"or ohlcv\[7, n\] with one more for each line of TwoMore"):
        TwoMore(**MINUTES).set_columns(TIMES, ROWS[:6])


def test_sums_of_a_feed_that_lacks_some_are_nan():
    fine = TwoMore(columns=(TIMES, ROWS), **MINUTES)
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.adddata(fine)
    coarse = ResampledFeedWithVolumes(base=fine, timeframe=bt.TimeFrame.Minutes, compression=10)
    cerebro.adddata(coarse)
    cerebro.run()
    trades = np.array(coarse.lines.trades.array)
    # The first ten minutes lack the first; the last bar is not over.
    assert trades.tolist() == [ROWS[6, low : low + 10].sum() for low in (9, 19, 29)]
    assert np.isnan(np.array(coarse.lines.quote_volume.array)).all()


MARKETS = {
    "spot": {"symbol": "BTC/USDT", "contract": False},
    "linear": {"symbol": "BTC/USDT:USDT", "contract": True, "inverse": False},
    "inverse": {"symbol": "BTC/USD:BTC", "contract": True, "inverse": True},
}


@pytest.mark.parametrize("exchange_id", sorted(TABLE))
@pytest.mark.parametrize("kind", sorted(MARKETS))
def test_each_exchange_offers_what_its_facts_say_and_nothing_else(exchange_id, kind):
    facts = TABLE[exchange_id]
    given = {name for known in facts.extras if kind in known.kinds for name in known.places}
    for name in ("trades", "quote_volume", "taker_buy_volume"):
        if name in given:
            extra = facts.find_extra((name,), exchange_id, MARKETS[kind])
            assert extra.names == (name,)
            assert extra.places[0] not in extra.fields
        else:
            with pytest.raises(NotImplementedError, match=f"{exchange_id} gives no {name} with the bars of BTC"):
                facts.find_extra((name,), exchange_id, MARKETS[kind])
    assert Facts().find_extra((), "other", MARKETS[kind]) is None
