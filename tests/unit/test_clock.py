"""The exchange's clock."""

import time

import pytest

from ccxtbt.exchange.clock import Clock


class Hand:
    """A monotonic clock moved by hand."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def hand() -> Hand:
    return Hand()


def test_until_it_is_set_it_shows_this_machines_time():
    assert abs(Clock().now_ms() - time.time() * 1000) < 1_000


def test_a_set_clock_runs_on_from_the_middle_of_question_and_answer(hand):
    clock = Clock(monotonic=hand)
    clock.synced(1_000_000, 100.0, 100.5)
    hand.s = 101.25
    assert clock.now_ms() == 1_001_000


def test_a_faster_exchange(hand):
    clock = Clock(rate=20.0, monotonic=hand)
    clock.synced(1_000_000, 100.0, 100.0)
    hand.s = 101.0
    assert clock.now_ms() == 1_020_000
    assert clock.wait_s(1_040_000) == pytest.approx(1.0)
    assert clock.wait_s(1_000_000) == 0.0
