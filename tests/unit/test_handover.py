"""The hand-over, case by case."""

import numpy as np
import pytest

from ccxtbt.market.handover import (
    QUIET_MS,
    SETTLE_MS,
    SURE_MS,
    Answer,
    Bar,
    Handover,
    Origin,
    Question,
    Span,
)
from ccxtbt.market.timeframes import parse

MINUTE_MS = 60_000
START_MS = 1_700_000_040_000 // MINUTE_MS * MINUTE_MS
END_MS = START_MS + MINUTE_MS


def bar(ts_ms: int, close: float = 1.5, volume: float = 10.0) -> Bar:
    return Bar(ts_ms, 1.0, 2.0, 0.5, close, volume, Origin.WS)


def answer(span: Span, sent_ms: int, *bars: Bar, newest_ms: int = START_MS + 100 * MINUTE_MS) -> Answer:
    ts_ms = np.array([each.ts_ms for each in bars], np.int64)
    ohlcv = np.array([each[1:6] for each in bars], np.float64).reshape(-1, 5).T.copy()
    return Answer(span, ts_ms, ohlcv, sent_ms, sent_ms + 50, newest_ms)


def values(bars):
    return [each[:6] for each in bars]


def started(**options) -> Handover:
    handover = Handover(parse("1m"), **options)
    handover.history(bar(START_MS - MINUTE_MS), START_MS, START_MS)
    return handover


@pytest.fixture
def handover() -> Handover:
    return started()


def test_the_next_closed_bar_is_released_at_once(handover):
    handover.frame(bar(START_MS), closed=True)
    assert handover.release() == [bar(START_MS)]
    assert handover.release() == []


def test_a_forming_bar_is_never_released(handover):
    handover.frame(bar(START_MS), closed=False)
    assert handover.release() == []
    assert handover.question() is None


def test_a_later_bar_waits_until_rest_has_said_twice_that_those_between_do_not_exist(handover):
    handover.frame(bar(START_MS + 2 * MINUTE_MS), closed=True)
    span = Span(START_MS, START_MS + 2 * MINUTE_MS)
    assert handover.release() == []
    assert handover.question() == Question(span, END_MS + SETTLE_MS)
    asked_ms = span.end_ms + SETTLE_MS
    handover.rest(answer(span, asked_ms))
    assert handover.release() == []
    question = handover.question()
    # The bar before the last is older than the patience for REST: its absence is sure.
    assert question == Question(Span(END_MS, span.end_ms), asked_ms + 50 + 1_000)
    handover.rest(answer(question.span, question.at_ms))
    assert handover.release() == [bar(START_MS + 2 * MINUTE_MS)]
    assert handover.question() is None
    assert (handover.counts.quiet, handover.counts.outage) == (2, 0)


def test_a_bar_that_rest_alone_has_is_final_after_two_equal_readings(handover):
    handover.over(END_MS)
    span, at_ms = handover.question()
    handover.rest(answer(span, at_ms, bar(START_MS)))
    assert handover.release() == []
    handover.rest(answer(span, at_ms + 2_000, bar(START_MS, close=1.6)))
    assert handover.release() == []
    handover.rest(answer(span, at_ms + 6_000, bar(START_MS, close=1.6)))
    (released,) = handover.release()
    assert released == bar(START_MS, close=1.6)._replace(origin=Origin.REST)
    assert handover.counts.outage == 1
    assert not handover.corrections


def test_two_readings_at_once_count_as_one(handover):
    handover.over(END_MS)
    span, at_ms = handover.question()
    for sent_ms in (at_ms, at_ms + 60):
        handover.rest(answer(span, sent_ms, bar(START_MS)))
    assert handover.release() == []


def test_a_reading_before_the_bar_has_settled_does_not_count(handover):
    handover.over(END_MS)
    span, _ = handover.question()
    handover.rest(answer(span, END_MS + 100, bar(START_MS)))
    handover.rest(answer(span, END_MS + 2_000, bar(START_MS)))
    assert handover.release() == []
    handover.rest(answer(span, END_MS + 4_000, bar(START_MS)))
    assert len(handover.release()) == 1


def test_one_reading_decides_alone_only_if_it_left_when_the_bar_was_long_over(handover):
    handover.over(END_MS)
    span, _ = handover.question()
    # Its answer came in time, but REST may have looked before.
    handover.rest(answer(span, END_MS + SURE_MS - 40, bar(START_MS)))
    assert handover.release() == []
    other = started()
    other.over(END_MS)
    other.rest(answer(span, END_MS + SURE_MS, bar(START_MS)))
    assert len(other.release()) == 1


def test_where_nothing_later_exists_rest_is_asked_again_after_a_while(handover):
    handover.over(END_MS)
    span, at_ms = handover.question()
    for sent_ms in (at_ms, at_ms + 2_000):
        handover.rest(answer(span, sent_ms, bar(START_MS), newest_ms=START_MS))
    assert handover.release() == []
    question = handover.question()
    assert question == Question(span, END_MS + QUIET_MS)
    handover.rest(answer(span, question.at_ms, bar(START_MS), newest_ms=START_MS))
    assert len(handover.release()) == 1


def test_a_reading_that_knows_less_than_a_frame_is_stale(handover):
    handover.frame(bar(START_MS, volume=12.0), closed=False)
    handover.over(END_MS)
    span, at_ms = handover.question()
    for i in range(3):
        handover.rest(answer(span, at_ms + 2_000 * i, bar(START_MS, volume=11.0)))
    assert handover.release() == []
    for i in (5, 7):
        handover.rest(answer(span, at_ms + 2_000 * i, bar(START_MS, volume=13.0)))
    assert values(handover.release()) == values([bar(START_MS, volume=13.0)])


def test_where_rest_measures_otherwise_than_the_stream_only_the_first_bar_waits_long(handover):
    handover.frame(bar(START_MS, volume=1_000.0), closed=False)
    handover.over(END_MS)
    span = handover.question().span
    handover.rest(answer(span, END_MS + SURE_MS, bar(START_MS, volume=10.0)))
    assert len(handover.release()) == 1
    handover.frame(bar(END_MS, volume=1_000.0), closed=False)
    handover.over(END_MS + MINUTE_MS)
    span, at_ms = handover.question()
    for i in range(2):
        handover.rest(answer(span, at_ms + 2_000 * i, bar(END_MS)))
    assert len(handover.release()) == 1


def test_readings_that_differ_are_asked_for_less_and_less_often(handover):
    handover.over(END_MS)
    pauses, received_ms = [], None
    for i in range(6):
        span, at_ms = handover.question()
        if received_ms is not None:
            pauses.append(at_ms - received_ms)
        handover.rest(answer(span, at_ms, bar(START_MS, close=1.0 + i / 10)))
        received_ms = at_ms + 50
    assert pauses == [1_000, 2_000, 4_000, 8_000, 8_000]
    assert handover.release() == []


def test_an_answer_that_leaves_a_hole_before_it_does_not_jump_the_hole(handover):
    handover.frame(bar(START_MS + 3 * MINUTE_MS), closed=True)
    handover.rest(answer(Span(END_MS, START_MS + 3 * MINUTE_MS), START_MS + 99 * MINUTE_MS))
    assert handover.release() == []
    assert handover.missing() == Span(START_MS, START_MS + 3 * MINUTE_MS)


def test_a_bar_seen_forming_and_never_closed_becomes_overdue(handover):
    handover.frame(bar(START_MS), closed=False)
    assert not handover.overdue(END_MS + 1_000, grace_ms=2_000)
    assert handover.question() is None
    assert handover.overdue(END_MS + 2_000, grace_ms=2_000)
    assert handover.question() == Question(Span(START_MS, END_MS), END_MS + SETTLE_MS)
    assert not handover.overdue(END_MS + 3_000, grace_ms=2_000)


def test_a_closing_frame_that_comes_while_rest_is_asked_is_taken_at_its_word(handover):
    handover.over(END_MS)
    span, at_ms = handover.question()
    handover.rest(answer(span, at_ms, bar(START_MS, close=1.1)))
    handover.frame(bar(START_MS), closed=True)
    assert handover.release() == [bar(START_MS)]
    handover.rest(answer(span, at_ms + 2_000, bar(START_MS, close=1.1)))
    assert handover.release() == []
    assert not handover.corrections


def test_the_same_bar_again_is_no_correction(handover):
    for _ in range(3):
        handover.frame(bar(START_MS), closed=True)
    assert handover.release() == [bar(START_MS)]
    handover.frame(bar(START_MS), closed=True)
    assert handover.release() == []
    assert handover.corrections == []


def test_a_bar_of_some_time_ago_that_comes_again_otherwise_is_a_correction(handover):
    for i in range(3):
        handover.frame(bar(START_MS + i * MINUTE_MS), closed=True)
    assert len(handover.release()) == 3
    handover.frame(bar(START_MS, close=1.7), closed=True)
    assert handover.release() == []
    assert handover.corrections == [(bar(START_MS), bar(START_MS, close=1.7))]


def test_a_bar_that_had_been_found_not_to_exist_comes_if_nothing_later_was_delivered(handover):
    handover.over(END_MS)
    handover.rest(answer(Span(START_MS, END_MS), END_MS + SURE_MS))
    assert handover.missing() is None
    handover.frame(bar(START_MS), closed=True)
    assert handover.release() == [bar(START_MS)]


def test_a_bar_that_had_been_found_not_to_exist_is_a_correction_after_later_ones(handover):
    handover.frame(bar(END_MS), closed=True)
    handover.rest(answer(Span(START_MS, END_MS), END_MS + SURE_MS))
    assert handover.release() == [bar(END_MS)]
    handover.frame(bar(START_MS), closed=True)
    assert handover.release() == []
    assert handover.corrections == [(None, bar(START_MS))]


def test_a_quiet_stretch_is_filled_with_marked_flat_bars():
    handover = started(gaps="flat")
    handover.frame(bar(START_MS + 2 * MINUTE_MS), closed=True)
    span = handover.missing()
    handover.rest(answer(span, span.end_ms + SURE_MS))
    first, second, third = handover.release()
    assert first == Bar(START_MS, 1.5, 1.5, 1.5, 1.5, 0.0, Origin.SYNTHETIC)
    assert second == first._replace(ts_ms=END_MS)
    assert third == bar(START_MS + 2 * MINUTE_MS)
    assert (handover.counts.quiet, handover.counts.synthetic) == (2, 2)


def test_a_flat_bar_comes_as_soon_as_nothing_is_known_to_have_happened():
    handover = started(gaps="flat")
    handover.over(END_MS)
    assert handover.release() == []
    handover.rest(answer(Span(START_MS, END_MS), END_MS + SURE_MS))
    assert [each.origin for each in handover.release()] == [Origin.SYNTHETIC]
    handover.frame(bar(START_MS), closed=True)
    assert handover.release() == []
    assert [kept.origin for kept, _ in handover.corrections] == [Origin.SYNTHETIC]


def test_a_gap_can_be_an_end():
    handover = started(gaps="raise")
    handover.frame(bar(END_MS), closed=True)
    assert handover.gap is None
    handover.rest(answer(Span(START_MS, END_MS), END_MS + SURE_MS))
    assert handover.release() == []
    assert handover.gap == Span(START_MS, END_MS)


def test_what_is_still_history_is_no_outage():
    handover = Handover(parse("1m"))
    handover.history(bar(START_MS - MINUTE_MS), START_MS, END_MS)
    assert handover.question() == Question(Span(START_MS, END_MS), END_MS + SETTLE_MS)
    handover.rest(answer(Span(START_MS, END_MS), END_MS + SURE_MS, bar(START_MS)))
    assert len(handover.release()) == 1
    assert (handover.counts.outage, handover.counts.quiet) == (0, 0)


def test_a_forming_bar_may_be_shown_when_nothing_before_it_is_owed(handover):
    assert handover.next_forming(bar(START_MS))
    handover.frame(bar(END_MS), closed=False)
    assert not handover.next_forming(bar(END_MS))
    handover.frame(bar(START_MS), closed=True)
    handover.release()
    assert handover.next_forming(bar(END_MS))
    assert not handover.next_forming(bar(START_MS))
