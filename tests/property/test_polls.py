"""Polls follow each close, are spread evenly, keep within the budget, and pause no longer than was asked."""

import datetime as dt
import itertools

from hypothesis import given
from hypothesis import strategies as st

from ccxtbt.market.handover import SETTLE_MS
from ccxtbt.market.polls import SHARE, Place, Polls, next_poll_ms, window_ms
from ccxtbt.market.timeframes import floor_ms, parse

NOW_MS = 1_700_000_000_000
timeframes = st.sampled_from(["1s", "1m", "3m", "1h", "1d", "1w", "1M"]).map(parse)
places = st.floats(0, 1, exclude_max=True).map(Place)
moments = st.integers(NOW_MS, NOW_MS + 10**10)


def polls(timeframe, place, spread_ms, last_ms, longest_ms, count):
    for _ in range(count):
        last_ms = next_poll_ms(timeframe, place, spread_ms, last_ms, longest_ms)
        yield last_ms


@given(timeframes, places, st.integers(0, 900), moments)
def test_each_close_is_followed_by_one_poll_at_the_market_s_own_distance(timeframe, place, spread_ms, last_ms):
    offset_ms = SETTLE_MS + int(place.at * spread_ms)
    closes = [at_ms - offset_ms for at_ms in polls(timeframe, place, spread_ms, last_ms, None, 5)]
    assert all(floor_ms(timeframe, close) == close for close in closes)
    # Plain counting: the closes after the last poll, none left out.
    at = dt.datetime.fromtimestamp((last_ms - offset_ms) / 1000, dt.UTC)
    assert closes == sorted(set(closes))
    for earlier, later in itertools.pairwise(closes):
        assert floor_ms(timeframe, later - 1) == earlier
    assert closes[0] > last_ms - offset_ms
    assert floor_ms(timeframe, closes[0] - 1) <= at.timestamp() * 1000


@given(timeframes, places, st.integers(0, 10**6), moments, st.integers(1_000, 10**7))
def test_no_pause_is_longer_than_was_asked_and_no_close_waits_for_ever(timeframe, place, spread_ms, last_ms, longest):
    before = last_ms
    for at_ms in polls(timeframe, place, spread_ms, last_ms, longest, 10):
        assert before < at_ms <= before + longest
        before = at_ms
    (at_ms,) = polls(timeframe, place, spread_ms, last_ms, None, 1)
    assert at_ms - last_ms <= spread_ms + 2 * timeframe.nominal_ms + 86_400_000 * bool(timeframe.months)


@given(st.integers(1, 300), st.floats(0.5, 1_000), st.floats(0.1, 10), st.floats(0, 1))
def test_a_round_of_all_markets_keeps_within_its_share_of_the_budget(markets, rate, weight, left):
    spread_ms = window_ms(markets, rate, weight, left)
    assert 2 * markets * weight <= rate * SHARE * max(left, 0.1) * spread_ms / 1000 * (1 + 1e-9)
    assert window_ms(markets + 1, rate, weight, left) >= spread_ms


@given(st.integers(2, 300))
def test_places_lie_evenly_and_stay_when_others_join(count):
    room = Polls()
    places = sorted(room.join().at for _ in range(count))
    gaps = [b - a for a, b in zip(places, [*places[1:], places[0] + 1.0], strict=True)]
    assert max(gaps) < 2 / count
    assert min(gaps) > 0.38 / count


@given(st.integers(1, 100), st.integers(1, 100))
def test_where_the_budget_is_short_closes_are_left_out_alike_for_all(factor, shift):
    timeframe = parse("1s")
    spread_ms = factor * 1_000 - 500
    first, second = polls(timeframe, Place(0.5), spread_ms, NOW_MS + shift * 777, None, 2)
    assert second - first == factor * 1_000
