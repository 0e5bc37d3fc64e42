"""The hand-over, case by case."""

import numpy as np
import pytest

from ccxtbt.market.handover import Bar, Handover, Origin, Span
from ccxtbt.market.timeframes import parse

START_MS = 1_700_000_040_000
NOTHING = np.empty(0, np.int64), np.empty((5, 0))


def bar(ts_ms: int) -> Bar:
    return Bar(ts_ms, 1.0, 2.0, 0.5, 1.5, 10.0, Origin.WS)


@pytest.fixture
def handover() -> Handover:
    handover = Handover(parse("1m"))
    handover.history(np.array([START_MS - 60_000]), START_MS)
    return handover


def test_the_next_closed_bar_is_released_at_once(handover):
    handover.frame(bar(START_MS), closed=True)
    assert handover.release() == [bar(START_MS)]
    assert handover.release() == []


def test_a_forming_bar_is_never_released(handover):
    handover.frame(bar(START_MS), closed=False)
    assert handover.release() == []
    assert handover.missing() is None


def test_a_later_bar_waits_until_rest_has_answered_for_those_between(handover):
    handover.frame(bar(START_MS + 120_000), closed=True)
    assert handover.release() == []
    assert handover.missing() == Span(START_MS, START_MS + 120_000)
    handover.rest(Span(START_MS, START_MS + 120_000), *NOTHING)
    assert handover.release() == [bar(START_MS + 120_000)]
    assert handover.missing() is None


def test_an_answer_that_leaves_a_hole_before_it_does_not_jump_the_hole(handover):
    handover.frame(bar(START_MS + 180_000), closed=True)
    handover.rest(Span(START_MS + 60_000, START_MS + 180_000), *NOTHING)
    assert handover.release() == []
    assert handover.missing() == Span(START_MS, START_MS + 180_000)


def test_a_bar_seen_forming_and_never_closed_becomes_overdue(handover):
    handover.frame(bar(START_MS), closed=False)
    assert handover.overdue(START_MS + 61_000, grace_ms=2_000) is None
    assert handover.overdue(START_MS + 62_000, grace_ms=2_000) == Span(START_MS, START_MS + 60_000)


def test_an_overdue_bar_is_asked_once(handover):
    handover.frame(bar(START_MS), closed=False)
    handover.rest(Span(START_MS, START_MS + 60_000), *NOTHING)
    assert handover.overdue(START_MS + 99_000, grace_ms=2_000) is None


def test_the_same_bar_again_is_no_correction(handover):
    for _ in range(3):
        handover.frame(bar(START_MS), closed=True)
    assert handover.release() == [bar(START_MS)]
    handover.frame(bar(START_MS), closed=True)
    assert handover.release() == []
    assert handover.corrections == []
