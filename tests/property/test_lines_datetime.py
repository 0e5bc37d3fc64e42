"""Backtrader's number of a time, from and to whole milliseconds."""

import datetime as dt
import math

import backtrader as bt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccxtbt._lines import first_ms, last_ms, ms_from_num, num_from_ms, nums_from_ms
from reference.lines import DAY_MS, EPOCH, num_of

FIRST_MS = (dt.date.min.toordinal() - 719_163) * DAY_MS
LAST_MS = (dt.date.max.toordinal() - 719_163 + 1) * DAY_MS - 1
times = st.integers(FIRST_MS, LAST_MS) | st.integers(1_230_000_000_000, 2_500_000_000_000)


@given(times)
def test_a_time_is_bit_identical_to_date2num(ts_ms):
    assert num_from_ms(ts_ms).hex() == num_of(ts_ms).hex()


@given(times)
def test_a_number_gives_its_time_back(ts_ms):
    assert ms_from_num(num_of(ts_ms)) == ts_ms


@given(st.lists(times, max_size=50), st.sampled_from([0, 60_000, DAY_MS - 1, 7 * DAY_MS]))
def test_columns_of_times_are_converted_one_by_one(column, shift_ms):
    column = [ts_ms for ts_ms in column if ts_ms + shift_ms <= LAST_MS]
    got = nums_from_ms(np.array(column, dtype=np.int64), shift_ms)
    assert got.typecode == "d"
    assert [num.hex() for num in got] == [num_of(ts_ms + shift_ms).hex() for ts_ms in column]


@given(st.datetimes(EPOCH - dt.timedelta(days=30_000), EPOCH + dt.timedelta(days=80_000)))
def test_bounds_select_what_backtraders_comparisons_select(bound):
    """A bar is kept when its number is not below fromdate's and not above todate's, to the microsecond."""
    num = bt.date2num(bound)
    low, high = first_ms(num), last_ms(num)
    assert num_of(low) >= num > num_of(low - 1)
    assert num_of(high) <= num < num_of(high + 1)


def test_no_bounds_select_everything():
    assert first_ms(-math.inf) == np.iinfo(np.int64).min
    assert last_ms(math.inf) == np.iinfo(np.int64).max


@pytest.mark.parametrize("text", ["1970-01-01", "1969-12-31", "2024-02-29", "2038-01-19", "1601-01-01"])
def test_every_thousandth_ms_of_a_day(text):
    start_ms = round((dt.datetime.fromisoformat(text) - EPOCH) / dt.timedelta(milliseconds=1))
    column = start_ms + np.arange(7, DAY_MS, 86_399, dtype=np.int64)
    assert list(nums_from_ms(column)) == [num_of(ts_ms) for ts_ms in column.tolist()]


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_every_ms_of_a_day():
    """One day proves them all from 1435 to 2870: the day number has so many zero bits that it moves no rounding."""
    start_ms = 1_709_164_800_000
    column = start_ms + np.arange(DAY_MS, dtype=np.int64)
    got = nums_from_ms(column)
    for at in range(0, DAY_MS, 1000):
        second = EPOCH + dt.timedelta(milliseconds=start_ms + at)
        expected = [bt.date2num(second + dt.timedelta(milliseconds=ms)) for ms in range(1000)]
        assert got[at : at + 1000].tolist() == expected
