"""Timeframes: spellings, grids and the calendar."""

import datetime as dt

import pytest
from backtrader import TimeFrame
from hypothesis import given
from hypothesis import strategies as st

from ccxtbt.errors import ConfigError, NotOfferedError
from ccxtbt.market import timeframes as tf

FIXED = ["1s", "5s", "1m", "3m", "5m", "15m", "30m", "1h", "90m", "4h", "12h", "1d", "3d", "1w", "2w"]
CALENDAR = ["1M", "3M", "6M", "1y"]
moments = st.integers(-(10**12), 4 * 10**12)


def utc(ms: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=ms)


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        ((TimeFrame.Seconds, 1), "1s"),
        ((TimeFrame.Minutes, 1), "1m"),
        ((TimeFrame.Minutes, 60), "1h"),
        ((TimeFrame.Minutes, 90), "90m"),
        ((TimeFrame.Minutes, 720), "12h"),
        ((TimeFrame.Days, 3), "3d"),
        ((TimeFrame.Weeks, 1), "1w"),
        ((TimeFrame.Months, 1), "1M"),
        ((TimeFrame.Years, 1), "1y"),
    ],
)
def test_backtraders_pair_and_ccxts_text(pair, text):
    assert tf.from_backtrader(*pair) == text
    assert tf.from_backtrader(*tf.to_backtrader(text)) == text


def test_the_exchanges_own_spelling_is_chosen():
    assert tf.from_backtrader(TimeFrame.Minutes, 1440, ["1m", "1d"]) == "1d"
    assert tf.from_backtrader(TimeFrame.Minutes, 60, ["1m", "60m"]) == "60m"


@pytest.mark.parametrize("text", ["", "m", "0m", "-1m", "1.5m", "5 m", "1x", "1000000m", None])
def test_what_is_no_timeframe_is_refused_with_what_is(text):
    with pytest.raises(ConfigError, match="'5m'"):
        tf.parse(text)


def test_a_timeframe_that_the_exchange_lacks_is_refused():
    with pytest.raises(NotOfferedError, match="1m"):
        tf.from_backtrader(TimeFrame.Minutes, 7, ["1m", "5m"])


@given(st.sampled_from(FIXED + CALENDAR), moments)
def test_a_bar_holds_its_moments_and_ends_where_the_next_begins(text, ts_ms):
    opened = tf.floor_ms(text, ts_ms)
    after = tf.next_ms(text, ts_ms)
    assert opened <= ts_ms < after
    assert tf.floor_ms(text, after) == after
    assert tf.floor_ms(text, after - 1) == opened
    assert tf.close_ms(text, opened) == after


@given(st.sampled_from(["1M", "3M", "6M"]), moments)
def test_months_follow_the_calendar(text, ts_ms):
    opened = utc(tf.floor_ms(text, ts_ms))
    assert (opened.day, opened.hour, opened.microsecond) == (1, 0, 0)
    assert (opened.month - 1) % tf.parse(text).months == 0


@given(moments)
def test_weeks_begin_on_monday(ts_ms):
    opened = utc(tf.floor_ms("1w", ts_ms))
    assert (opened.weekday(), opened.hour) == (0, 0)
