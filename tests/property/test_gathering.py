"""Gathering bars of one close: whatever comes in whatever order, each is delivered once, in order, and in time."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from ccxtbt.gathering import Gathering, Slot

LENGTHS = (60, 60, 60, 300)
GRACE_S = 0.3


@st.composite
def arrivals(draw):
    """Bars and breaks of four feeds, by the time of arrival: (time, feed, kind, close)."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    spread_s = draw(st.sampled_from([0.05, 0.5, 5.0]))
    silent = draw(st.sampled_from([0.0, 0.2]))
    events = []
    for feed, length in enumerate(LENGTHS):
        at_s = 0.0
        for close in range(length, 1_201, length):
            if rng.random() < silent:
                continue
            at_s = max(at_s, close + rng.random() * spread_s)
            events.append((at_s, feed, "break" if rng.random() < silent / 4 else "bar", close))
    return sorted(events)


@settings(max_examples=300)
@given(arrivals())
def test_every_bar_is_delivered_once_in_order_and_in_time(events):
    gathering, out, now_s = Gathering(), [], 0.0
    for at_s, feed, kind, close in events:
        # Time passes in small steps, as the one who waits sees it.
        while gathering.left_s(now_s) <= at_s - now_s:
            now_s += gathering.left_s(now_s)
            out += [(now_s, *delivery) for delivery in gathering.due(now_s)]
        now_s = at_s
        slot = Slot(close * 1_000, (close + LENGTHS[feed]) * 1_000, GRACE_S) if kind == "bar" else None
        out += [(now_s, *delivery) for delivery in gathering.put(feed, (at_s, close, kind), slot, now_s)]
    now_s += gathering.left_s(now_s) if gathering.left_s(now_s) < 1 else 0
    out += [(now_s, *delivery) for delivery in gathering.due(now_s)]
    for feed in range(len(LENGTHS)):
        assert [item for _, who, item in out if who == feed] == [(at, c, k) for at, who, k, c in events if who == feed]
    assert all(delivered_s - item[0] <= GRACE_S + 1e-6 for delivered_s, _, item in out)


def bars(gathering, close, feeds, now_s=0.0, length=60):
    return [gathering.put(feed, close, Slot(close, close + length, GRACE_S), now_s) for feed in feeds]


def test_the_last_that_is_expected_releases_all():
    gathering = Gathering()
    bars(gathering, 60, "abc")
    gathering.due(60)
    assert bars(gathering, 120, "cab") == [[], [], [("c", 120), ("a", 120), ("b", 120)]]


def test_a_feed_that_fell_silent_costs_one_grace():
    gathering = Gathering()
    bars(gathering, 60, "abc")
    gathering.due(60)
    assert bars(gathering, 120, "ab") == [[], []]
    assert gathering.due(GRACE_S) == [("a", 120), ("b", 120)]
    assert bars(gathering, 180, "ab") == [[], [("a", 180), ("b", 180)]]
    # Its next bar is not waited for, and those after it are.
    assert bars(gathering, 240, "abc") == [[], [("a", 240), ("b", 240)], [("c", 240)]]
    assert bars(gathering, 300, "abc") == [[], [], [("a", 300), ("b", 300), ("c", 300)]]


def test_a_feed_that_is_always_late_costs_one_grace():
    gathering = Gathering()
    bars(gathering, 60, "abc")
    assert bars(gathering, 120, "ab", now_s=60) == [[], []]
    assert gathering.due(60 + GRACE_S) == [("a", 120), ("b", 120)]
    assert bars(gathering, 120, "c", now_s=62) == [[("c", 120)]]
    for close in range(180, 420, 60):
        assert bars(gathering, close, "ab", now_s=close - 60)[-1] == [("a", close), ("b", close)]
        assert bars(gathering, close, "c", now_s=close - 58) == [[("c", close)]]


def test_a_coarser_bar_is_waited_for_only_where_it_ends():
    gathering = Gathering()
    bars(gathering, 300, "f", length=300)
    bars(gathering, 300, "ab")
    gathering.due(300)
    for close in (360, 420, 480, 540):
        assert bars(gathering, close, "ab")[-1] == [("a", close), ("b", close)]
    assert bars(gathering, 600, "ab") == [[], []]
    assert bars(gathering, 600, "f", length=300) == [[("a", 600), ("b", 600), ("f", 600)]]


def test_what_follows_a_held_bar_does_not_overtake_it():
    gathering = Gathering()
    bars(gathering, 60, "ab")
    gathering.due(60)
    bars(gathering, 120, "a")
    assert gathering.put("a", "broken", None, 0.0) == [("a", 120), ("a", "broken")]
    assert not gathering.knows("a")
