"""A stop that is watched here sees what backtrader's own broker sees, and nothing from before it was made."""

from dataclasses import dataclass, field

import backtrader as bt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccxtbt.trading.armed import Armed

MINUTE = 1 / 1_440
START = 738_000.0


@dataclass
class Line:
    values: list[float] = field(default_factory=list)

    def __getitem__(self, ago):
        return self.values[ago - 1]


class Bars:
    """As much of a data as a stop looks at."""

    def __init__(self):
        self.datetime, self.high, self.low, self.close = Line(), Line(), Line(), Line()

    def __len__(self):
        return len(self.close.values)

    def add(self, high, low, close):
        self.datetime.values.append(START + MINUTE * (len(self) + 1))
        for line, value in ((self.high, high), (self.low, low), (self.close, close)):
            line.values.append(value)


class Stop:
    """A trailing stop with the price and the movement of backtrader's."""

    trailadjust = bt.Order.trailadjust

    def __init__(self, side, price, amount):
        self.side, self.trailamount, self.trailpercent = side, amount, None
        self.exectype, self._limitoffset = bt.Order.StopTrail, 0.0
        self.created = bt.order.OrderData(price=float("inf") if side == "buy" else float("-inf"))
        self.trailadjust(price)

    def isbuy(self):
        return self.side == "buy"


@pytest.mark.parametrize("side", ["buy", "sell"])
@given(steps=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)), max_size=30))
def test_it_is_due_at_the_first_bar_that_reaches_the_best_close_less_its_distance(side, steps):
    stop, bars = Stop(side, 100.0, 10.0), Bars()
    bars.add(100.0, 100.0, 100.0)
    armed = Armed(stop, None, START + MINUTE)
    sign = 1 if side == "sell" else -1
    best, model = 100.0, 100.0 - 10.0 * sign
    for up, down, close in steps:
        price = bars.close[0]
        high, low = price + up, price - down
        at = min(max(price + close - 10, low), high)
        bars.add(high, low, at)
        reached = low <= model if side == "sell" else high >= model
        assert armed.due(bars) == reached
        if reached:
            return
        best = max(best, at) if side == "sell" else min(best, at)
        model = best - 10.0 * sign
        assert stop.created.price == model


def test_a_bars_extremes_from_before_it_moved_do_not_trigger_it():
    stop, bars = Stop("sell", 100.0, 10.0), Bars()
    bars.add(100.0, 100.0, 100.0)
    armed = Armed(stop, None, START + MINUTE)
    # Within the bar the price fell to 95 first, and rose to 107 then.
    assert not armed.touched(95.0, START + 1.2 * MINUTE)
    assert not armed.touched(107.0, START + 1.5 * MINUTE)
    assert stop.created.price == 97.0
    bars.add(107.0, 95.0, 106.0)
    assert not armed.due(bars)
    assert armed.touched(97.0, START + 2.1 * MINUTE)


def test_of_a_bar_that_was_under_way_only_the_close_counts():
    stop, bars = Stop("sell", 100.0, 10.0), Bars()
    bars.add(100.0, 100.0, 100.0)
    armed = Armed(stop, None, START + 1.5 * MINUTE)
    bars.add(101.0, 80.0, 100.0)
    assert not armed.due(bars)
    bars.add(101.0, 80.0, 100.0)
    assert armed.due(bars)
