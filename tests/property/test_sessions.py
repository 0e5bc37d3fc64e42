"""Trading hours against the wall clock of their zone, one time at a time."""

import datetime as dt
import zoneinfo

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ccxtbt.market.sessions import WEEK, Sessions

ZONES = ("UTC", "America/New_York", "Europe/Berlin", "Asia/Tokyo", "Asia/Kolkata", "Pacific/Auckland")
# Not between midnight and four: where clocks are put forward or back, a wall time there is no moment or two.
TIMES = st.builds(dt.time, st.integers(4, 23), st.sampled_from([0, 15, 30]))
SESSIONS = st.tuples(TIMES, TIMES, st.sets(st.sampled_from(WEEK), min_size=1).map(sorted), st.sampled_from(ZONES))


def inside(ts_ms, start, end, days, zone):
    local = dt.datetime.fromtimestamp(ts_ms / 1000, zoneinfo.ZoneInfo(zone))
    if end > start:
        return start <= local.time() < end and WEEK[local.weekday()] in days
    yesterday = WEEK[(local.weekday() - 1) % 7]
    return (local.time() >= start and WEEK[local.weekday()] in days) or (local.time() < end and yesterday in days)


@settings(max_examples=200)
@given(st.lists(SESSIONS, min_size=1, max_size=3), st.integers(1_600_000_000, 1_640_000_000), st.integers(1, 300))
def test_the_mask_is_what_the_wall_clock_says(sessions, start_s, step_min):
    ts_ms = (start_s // 60 * 60 + np.arange(300, dtype=np.int64) * step_min * 60) * 1_000
    expected = [any(inside(ts, *session) for session in sessions) for ts in ts_ms.tolist()]
    sieve = Sessions(sessions)
    assert sieve.mask(ts_ms).tolist() == expected
    for k in range(0, 300, 37):
        assert sieve.mask(ts_ms[k : k + 1]).tolist() == expected[k : k + 1]


def test_a_whole_day_and_no_time():
    assert Sessions(("00:00", "24:00")).mask(np.arange(10, dtype=np.int64) * 7_200_000).all()
    assert Sessions(("09:00", "10:00")).mask(np.zeros(0, np.int64)).tolist() == []
