"""The compiled bar kernel on cases one can read, and what it refuses."""

from __future__ import annotations

import array
import pickle
import threading

import numpy as np
import pytest

from ccxtbt import _bars
from ccxtbt.errors import ConfigError, DataError
from ccxtbt.market.timeframes import parse

MINUTE = 60_000
NOON = 1_709_208_000_000  # 2024-02-29 12:00 UTC


def columns(*minutes: float, close: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Make bars of 1m that open so many minutes after noon, all at one price, volume 7."""
    ts_ms = np.array([NOON + int(minute * MINUTE) for minute in minutes], np.int64)
    ohlcv = np.full((5, len(minutes)), close)
    ohlcv[4] = 7.0
    return ts_ms, ohlcv


def minutes_of(ts_ms: np.ndarray) -> list[float]:
    return ((ts_ms - NOON) / MINUTE).tolist()


class TestMerge:
    def test_newest_first_with_a_repeat(self) -> None:
        merged = _bars.merge([columns(3, 2, 2, 1)])
        assert minutes_of(merged.ts_ms) == [1, 2, 3]
        assert merged.repeats == 1
        assert merged.corrected_ms.size == 0

    @pytest.mark.parametrize(("keep", "expected"), [("last", [1.0, 2.0, 2.0]), ("first", [1.0, 1.0, 2.0])])
    def test_overlap_with_a_correction(self, keep: str, expected: list[float]) -> None:
        merged = _bars.merge([columns(0, 1), columns(1, 2, close=2.0)], keep=keep)
        assert merged.ohlcv[3].tolist() == expected
        assert minutes_of(merged.corrected_ms) == [1]
        assert merged.repeats == 1

    def test_flat_bars_at_the_close_before(self) -> None:
        ts_ms, ohlcv = columns(0, 3)
        ohlcv[:, 0] = [10.0, 12.0, 9.0, 11.0, 5.0]
        merged = _bars.merge([(ts_ms, ohlcv, 1)], "1m", gaps="flat")
        assert minutes_of(merged.ts_ms) == [0, 1, 2, 3]
        assert merged.ohlcv[:, 1].tolist() == [11.0, 11.0, 11.0, 11.0, 0.0]
        assert merged.origin.tolist() == [1, 3, 3, 1]

    def test_gaps_can_be_refused(self) -> None:
        message = r"Between 2024-02-29 12:02:00 UTC and 2024-02-29 12:05:00 UTC 3 bars are missing: .*gaps='flat'"
        with pytest.raises(DataError, match=message):
            _bars.merge([columns(0, 1, 5, 6)], "1m", gaps="raise")
        with pytest.raises(DataError, match=r"12:02:00\.500 UTC 1 bar is missing"):
            _bars.merge([columns(0, 120.5 / 60)], "1m", gaps="raise")
        assert _bars.merge([columns(0, 1, 2)], "1m", gaps="raise").ts_ms.size == 3

    def test_less_than_a_bar_is_no_gap(self) -> None:
        assert _bars.merge([columns(0, 1.9, 2.9)], "1m", gaps="raise").ts_ms.size == 3

    def test_a_forming_bar_is_left_out_until_the_very_end(self) -> None:
        for late_ms, kept in ((-1, [0]), (0, [0, 1]), (1, [0, 1])):
            merged = _bars.merge([columns(0, 1, 2)], "1m", now_ms=NOON + 2 * MINUTE + late_ms)
            assert minutes_of(merged.ts_ms) == kept

    def test_until_goes_on_behind_the_last_bar_but_not_past_now(self) -> None:
        merged = _bars.merge([columns(0)], "1m", gaps="flat", until_ms=NOON + 3 * MINUTE + 1)
        assert minutes_of(merged.ts_ms) == [0, 1, 2]
        merged = _bars.merge([columns(0)], "1m", gaps="flat", until_ms=NOON + 9 * MINUTE, now_ms=NOON + 2 * MINUTE)
        assert minutes_of(merged.ts_ms) == [0, 1]
        with pytest.raises(DataError, match="1 bar is missing"):
            _bars.merge([columns(0)], "1m", gaps="raise", until_ms=NOON + 2 * MINUTE)

    def test_months(self) -> None:
        first = [1_704_067_200_000, 1_711_929_600_000]  # January and April 2024
        merged = _bars.merge([(np.array(first, np.int64), np.ones((5, 2)))], parse("1M"), gaps="flat")
        days = np.diff(merged.ts_ms) / 86_400_000
        assert days.tolist() == [31, 29, 31]

    def test_a_gap_of_millions_of_years_is_no_gap(self) -> None:
        ts_ms = np.array([0, NOON], np.int64)
        with pytest.raises(DataError, match="too many to fill: a timestamp beside the gap is wrong"):
            _bars.merge([(ts_ms, np.ones((5, 2)))], "1m", gaps="flat")

    def test_nothing_at_all(self) -> None:
        for sources in ([], [columns()], [columns(), columns()]):
            merged = _bars.merge(sources, "1m", gaps="flat", until_ms=NOON)
            assert merged.ts_ms.shape == (0,)
            assert merged.ohlcv.shape == (5, 0)
            assert merged.origin.shape == (0,)

    def test_sources_are_left_alone_and_results_are_new(self) -> None:
        ts_ms, ohlcv = columns(1, 0)
        before = ts_ms.copy(), ohlcv.copy()
        ts_ms.flags.writeable = ohlcv.flags.writeable = False
        merged = _bars.merge([(ts_ms, ohlcv)])
        merged.ohlcv[:] = 0
        assert (ts_ms == before[0]).all()
        assert (ohlcv == before[1]).all()

    def test_a_result_can_be_pickled(self) -> None:
        merged = _bars.merge([columns(0, 1)])
        copy = pickle.loads(pickle.dumps(merged))
        assert type(copy) is _bars.Merged
        assert copy.repeats == 0
        assert (copy.ts_ms == merged.ts_ms).all()

    def test_many_threads_at_once(self) -> None:
        source = columns(*range(20_000, 0, -1))
        sizes: list[int] = []
        threads = [
            threading.Thread(target=lambda: sizes.append(_bars.merge([source, source], "1m", gaps="raise").ts_ms.size))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sizes == [20_000] * 8


GOOD = columns(0, 1)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([1, 2], "A source is list: give tuples"),
        ((1,), "A source is tuple: give tuples"),
        (([0, 1], GOOD[1]), "ts_ms must be a numpy array of int64, not list"),
        ((None, GOOD[1]), "ts_ms must be a numpy array of int64, not NoneType"),
        ((GOOD[0].astype(np.int32), GOOD[1]), "ts_ms has the dtype int32: convert it to int64"),
        ((GOOD[0].astype(float), GOOD[1]), "ts_ms has the dtype float64"),
        ((GOOD[0].astype(">i8"), GOOD[1]), "ts_ms has the dtype >i8"),
        ((GOOD[0].astype("M8[ms]"), GOOD[1]), "ts_ms must be a numpy array of int64"),
        ((GOOD[0].reshape(1, 2), GOOD[1]), "ts_ms has 2 dimensions: it must have 1"),
        ((np.array(5), GOOD[1]), "ts_ms has 0 dimensions"),
        ((GOOD[0][::-1], GOOD[1]), "ts_ms is not contiguous"),
        ((GOOD[0], GOOD[1].astype(np.float32)), "ohlcv has the dtype float32: convert it to float64"),
        ((GOOD[0], GOOD[1].astype(object)), "ohlcv has the dtype object"),
        ((GOOD[0], GOOD[1][0]), "ohlcv has 1 dimensions: it must have 2"),
        ((GOOD[0], GOOD[1][:4]), "ohlcv has 4 rows: it must have 5"),
        ((GOOD[0], np.ones((2, 5))), "ohlcv has 2 rows"),
        ((GOOD[0], np.ones((2, 5)).T), "ohlcv is not contiguous along its bars"),
        ((GOOD[0], np.ones((5, 3))), "ohlcv has 3 bars and ts_ms 2"),
        ((*GOOD, np.zeros(2)), "origin has the dtype float64: convert it to uint8"),
        ((*GOOD, np.zeros(3, np.uint8)), "origin has 3 bars and ts_ms 2"),
        ((*GOOD, 4), "origin 4 is not known"),
        ((*GOOD, -1), "origin -1 is not known"),
        ((*GOOD, None), "origin must be a numpy array of uint8"),
    ],
)
def test_merge_refuses_other_forms(source: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _bars.merge([GOOD, source])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": "best"}, "keep='best' is not known: use one of 'first', 'last'"),
        ({"keep": ["last"]}, "keep=.* is not known"),
        ({"gaps": "ffill"}, "gaps='ffill' is not known: use one of 'none', 'flat', 'raise'"),
        ({"gaps": "flat"}, "give timeframe='1m'"),
        ({"now_ms": 0}, "give timeframe='1m'"),
        ({"until_ms": 0}, "give timeframe='1m'"),
        ({"timeframe": "1x"}, "Unknown timeframe '1x'"),
        ({"timeframe": "1m", "now_ms": 1.5}, r"now_ms is 1\.5"),
        ({"timeframe": "1m", "now_ms": 2**53 + 1}, "now_ms is 9007199254740993"),
        ({"timeframe": "1m", "until_ms": 2**70}, "until_ms is 1180591620717411303424"),
    ],
)
def test_merge_refuses_other_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _bars.merge([GOOD], **arguments)


def test_buffers_other_than_numpy_are_read() -> None:
    ohlcv = memoryview(array.array("d", [1.0] * 10)).cast("B").cast("d", (5, 2))
    assert _bars.merge([(array.array("q", [5, 3]), ohlcv)]).ts_ms.tolist() == [3, 5]


def test_timestamps_that_are_no_milliseconds_are_refused() -> None:
    nanoseconds = columns(0)[0] * 1_000_000
    for call in (
        lambda: _bars.merge([(nanoseconds, np.ones((5, 1)))]),
        lambda: _bars.drop_forming(nanoseconds, np.ones((5, 1)), "1m", NOON),
        lambda: _bars.find_gaps(nanoseconds, "1m"),
        lambda: _bars.resample(nanoseconds, np.ones((5, 1)), "1m", "5m"),
    ):
        with pytest.raises(DataError, match="these are not milliseconds"):
            call()


def test_drop_forming_keeps_the_order() -> None:
    ts_ms, ohlcv = _bars.drop_forming(*columns(2, 0, 3, 1, 1), "1m", NOON + 2 * MINUTE)
    assert minutes_of(ts_ms) == [0, 1, 1]
    assert ohlcv.shape == (5, 3)


def test_find_gaps_names_them() -> None:
    gaps = _bars.find_gaps(columns(0, 1, 5, 6, 8)[0], "1m")
    assert gaps.tolist() == [[NOON + 2 * MINUTE, NOON + 5 * MINUTE, 3], [NOON + 7 * MINUTE, NOON + 8 * MINUTE, 1]]
    assert _bars.find_gaps(columns()[0], "1m").shape == (0, 3)


@pytest.mark.parametrize("minutes", [(1, 0), (0, 0)])
def test_what_must_increase_is_refused_otherwise(minutes: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="the times must strictly increase, so pass the bars through merge"):
        _bars.find_gaps(columns(*minutes)[0], "1m")
    with pytest.raises(
        DataError, match=r"The bar of 2024-02-29 12:00:00 UTC follows the one of 2024-02-29 12:0[01]:00"
    ):
        _bars.resample(*columns(*minutes), "1m", "5m")


class TestResample:
    def test_five_minutes(self) -> None:
        ts_ms, ohlcv = columns(3, 4, 5, 6, 7, 8, 9)
        ohlcv[1] = [1, 9, 3, 4, 5, 6, 7]
        ohlcv[2] = [1, -9, 3, 4, -5, 6, 7]
        made = _bars.resample(ts_ms, ohlcv, "1m", "5m")
        assert minutes_of(made.ts_ms) == [0, 5]
        assert made.ohlcv.T.tolist() == [[1, 9, -9, 1, 14], [1, 7, -5, 1, 35]]
        assert made.counts.tolist() == [2, 5]
        assert made.complete.tolist() == [False, True]

    def test_days_to_a_leap_february(self) -> None:
        day = 86_400_000
        ts_ms = np.arange(1_706_745_600_000, 1_706_745_600_000 + 30 * day, day)  # from 2024-02-01
        made = _bars.resample(ts_ms, np.ones((5, 30)), "1d", "1M")
        assert made.counts.tolist() == [29, 1]
        assert made.complete.tolist() == [True, False]

    def test_origins(self) -> None:
        origin = np.array([0, 1, 3, 3, 3, 3], np.uint8)
        made = _bars.resample(*columns(0, 1, 2, 3, 4, 5), "1m", "2m", origin)
        assert made.origin.tolist() == [1, 3, 3]

    @pytest.mark.parametrize(
        ("timeframe", "to"),
        [("5m", "1m"), ("7m", "1h"), ("1w", "1M"), ("3d", "1w"), ("1M", "1w"), ("5h", "1M"), ("2M", "3M")],
    )
    def test_bars_that_do_not_add_up_are_refused(self, timeframe: str, to: str) -> None:
        with pytest.raises(ConfigError, match=f"Bars of {timeframe} do not add up to bars of {to}"):
            _bars.resample(*columns(0), timeframe, to)


class TestTrades:
    def test_a_bar_is_closed_by_the_next_ones_first_trade(self) -> None:
        builder = _bars.TradeBars("1m")
        assert builder.forming() is None
        assert builder.add(NOON, 10.0, 1.0) is None
        assert builder.add(NOON + 59_999, 9.0, 2.0) is None
        assert builder.forming() == (NOON, 10.0, 10.0, 9.0, 9.0, 3.0)
        assert builder.add(NOON + 180_000, 11.0, 1.0) == (NOON, 10.0, 10.0, 9.0, 9.0, 3.0)
        assert builder.forming() == (NOON + 180_000, 11.0, 11.0, 11.0, 11.0, 1.0)

    def test_a_closed_bar_does_not_change(self) -> None:
        builder = _bars.TradeBars("1s")
        builder.add(NOON, 10.0, 1.0)
        ts_ms, ohlcv = builder.close_until(NOON + 1000)
        assert (ts_ms.tolist(), ohlcv[:, 0].tolist()) == ([NOON], [10.0, 10.0, 10.0, 10.0, 1.0])
        assert builder.close_until(NOON + 5000)[0].size == 0
        assert builder.add(NOON + 999, 99.0, 1.0) is None
        assert (builder.late, builder.forming()) == (1, None)

    def test_bars_begun_before_the_subscription_are_left_out(self) -> None:
        builder = _bars.TradeBars("1m", since_ms=NOON + 1)
        assert builder.add(NOON + 2, 10.0, 1.0) is None
        assert builder.add(NOON + MINUTE, 11.0, 1.0) is None
        assert (builder.late, builder.forming()[0]) == (1, NOON + MINUTE)
        assert _bars.TradeBars("1m", since_ms=NOON).add(NOON, 1.0, 1.0) is None

    def test_dicts_as_ccxt_gives_them(self) -> None:
        trades = [
            {"timestamp": NOON, "price": 10, "amount": 1},
            {"timestamp": NOON, "price": "10.5", "amount": None},
            {"timestamp": None, "price": 1.0, "amount": 1.0},
            {"timestamp": NOON, "price": None, "amount": 1.0},
            {"timestamp": NOON, "amount": 1.0},
            {"price": 1.0},
            {"timestamp": 2**80, "price": 1.0},
            {"timestamp": NOON + MINUTE, "price": 9.0},
        ]
        builder = _bars.TradeBars("1m")
        ts_ms, ohlcv = builder.feed_dicts(trades)
        assert ts_ms.tolist() == [NOON]
        assert ohlcv[:, 0].tolist() == [10.0, 10.5, 10.0, 10.5, 1.0]
        assert builder.forming() == (NOON + MINUTE, 9.0, 9.0, 9.0, 9.0, 0.0)
        assert builder.skipped == 5

    @pytest.mark.parametrize(
        ("trade", "error", "message"),
        [
            ({"timestamp": "now", "price": 1.0}, DataError, "timestamp 'now'"),
            ({"timestamp": 1.5, "price": 1.0}, DataError, r"timestamp 1\.5"),
            ({"timestamp": 1, "price": "much"}, DataError, "'much' where a number is due"),
            ({"timestamp": 1, "price": 1.0, "amount": []}, DataError, r"\[\] where a number is due"),
            ({"timestamp": 1, "price": 10**400}, DataError, "where a number is due"),
            ([1, 2], ConfigError, "A trade is a dict, not list"),
        ],
    )
    def test_dicts_that_are_no_trades(self, trade: object, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            _bars.bars_from_trade_dicts([trade], "1m")
        with pytest.raises(ConfigError, match="Trades are a list of dicts, not tuple"):
            _bars.bars_from_trade_dicts((trade,), "1m")

    def test_arrays_that_are_no_trades(self) -> None:
        ts_ms, ones = np.array([NOON, NOON]), np.ones(2)
        for arguments, message in (
            ((ts_ms, ones[:1], ones), "2 timestamps, 1 prices and 2 amounts"),
            ((ts_ms, ones, np.ones(3)), "2 timestamps, 2 prices and 3 amounts"),
            ((ts_ms.astype(float), ones, ones), "ts_ms has the dtype float64"),
            ((ts_ms, [1.0, 1.0], ones), "price must be a numpy array of float64, not list"),
            ((ts_ms, ones, np.ones(4)[::2]), "amount is not contiguous"),
        ):
            for call in (_bars.TradeBars("1m").feed, _bars.TickBars(2).feed):
                with pytest.raises(ConfigError, match=message):
                    call(*arguments)
            with pytest.raises(ConfigError, match=message):
                _bars.bars_from_trades(*arguments, "1m")

    def test_unsorted_trades_are_refused_in_one_go(self) -> None:
        ts_ms = np.array([NOON + MINUTE, NOON])
        with pytest.raises(DataError, match="1 trades come after trades of later bars: sort them"):
            _bars.bars_from_trades(ts_ms, np.ones(2), np.ones(2), "1m")

    def test_tick_bars(self) -> None:
        builder = _bars.TickBars(2)
        ts_ms, ohlcv, end_ms = builder.feed(np.array([5, 7, 7, 6, 9]), np.arange(1.0, 6.0), np.ones(5))
        assert (ts_ms.tolist(), end_ms.tolist()) == ([5, 7], [7, 7])
        assert ohlcv.T.tolist() == [[1, 2, 1, 2, 2], [3, 4, 3, 4, 2]]
        assert builder.forming() == (9, 5.0, 5.0, 5.0, 5.0, 1.0)
        assert builder.add(12, 4.0, 1.0) == (9, 5.0, 5.0, 4.0, 4.0, 2.0, 12)

    @pytest.mark.parametrize("size", [0, -1, 1.0, None, 10**10])
    def test_tick_bars_of_no_size(self, size: object) -> None:
        with pytest.raises(ConfigError, match="trades_per_bar is"):
            _bars.TickBars(size)

    @pytest.mark.parametrize("kind", [_bars.TradeBars, _bars.TickBars])
    def test_no_object_without_its_arguments(self, kind: type) -> None:
        with pytest.raises(TypeError):
            kind.__new__(kind)
