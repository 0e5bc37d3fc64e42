"""Sizes on the market's step, inside backtrader's own classes."""

import copy
import pickle
from decimal import Decimal

import backtrader as bt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccxtbt.trading.sizes import CommInfo, Position, Size, resize

STEP = Decimal("0.1")


def test_the_sum_that_floats_get_wrong():
    assert 0.1 + 0.2 - 0.3 != 0
    assert Size(0.1, STEP) + Size(0.2, STEP) - Size(0.3, STEP) == 0
    assert not Size(0.1, STEP) + 0.2 - 0.3
    assert 0 + Size(0.3, STEP) - 0.1 == 0.2


@given(
    counts=st.lists(st.integers(-(10**9), 10**9), max_size=30),
    step=st.sampled_from(["1E-8", "0.00001", "0.1", "0.25", "0.5", "1", "5", "100"]),
)
def test_sums_of_steps_are_exact(counts, step):
    step, total = Decimal(step), Size(0.0, Decimal(step))
    for count in counts:
        total += Size(count * step, step)
    assert Decimal(repr(float(total))) == sum(counts) * step
    assert total.step == step
    for count in counts:
        total = total - float(count * step)
    assert total == 0


@pytest.mark.parametrize("number", [1, 0.5, np.float64(0.5), Size(0.5, STEP), True])
def test_any_number_may_be_added_on_either_side(number):
    for result in (
        Size(0.3, STEP) + number,
        number + Size(0.3, STEP),
        Size(0.3, STEP) - number,
        number - Size(0.3, STEP),
    ):
        assert abs(float(result) * 10 - round(float(result) * 10)) < 1e-12
    assert isinstance(Size(0.3, STEP) + 0.5, Size)
    assert isinstance(0.5 - Size(0.3, STEP), Size)
    assert isinstance(-Size(0.3, STEP), Size)
    assert isinstance(+Size(0.3, STEP), Size)
    assert isinstance(abs(Size(-0.3, STEP)), Size)


def test_it_is_a_float_otherwise():
    size = Size(0.3, STEP)
    assert type(size * 2) is float
    assert type(size / 3) is float
    assert (repr(size), f"{size:.2f}", hash(size)) == ("0.3", "0.30", hash(0.3))
    assert size == 0.3
    assert Size(float("nan"), STEP) != 0
    with pytest.raises(TypeError):
        size + "0.3"


def test_it_survives_copies():
    size = Size(0.3, STEP)
    for twin in (copy.copy(size), copy.deepcopy(size), pickle.loads(pickle.dumps(size))):
        assert (twin, twin.step) == (size, STEP)
        assert twin - 0.1 - 0.2 == 0


def test_a_position_closes():
    position = Position()
    for size in (0.1, 0.2):
        position.update(Size(size, STEP), 100.0)
    assert len(position) == 1
    assert position
    size, price, opened, closed = position.update(Size(-0.3, STEP), 110.0)
    assert (size, price, opened, closed) == (0, 0, 0, -0.3)
    assert not position
    assert len(position) == 0
    assert isinstance(Position(Size(0.3, STEP), 100.0).clone(), Position)


class Rounds(bt.Strategy):
    params = (("sizes", ()),)

    def __init__(self):
        self.trades, self.left = [], []

    def next(self):
        if len(self) <= len(self.p.sizes):
            size = self.p.sizes[len(self) - 1]
            (self.buy if size > 0 else self.sell)(size=abs(size))

    def notify_order(self, order):
        if order.status in (order.Partial, order.Completed):
            self.left.append(order.executed.remsize)

    def notify_trade(self, trade):
        self.trades.append((trade.isclosed, trade.size))


@pytest.fixture
def run():
    index = pd.date_range("2024-01-01", periods=6, freq="min")
    names = ("open", "high", "low", "close", "volume")

    def run(strategy, **keywords):
        cerebro = bt.Cerebro(stdstats=False)
        cerebro.adddata(bt.feeds.PandasData(dataname=pd.DataFrame(dict.fromkeys(names, 100.0), index=index)))
        cerebro.addstrategy(strategy, **keywords)
        cerebro.broker.addcommissioninfo(CommInfo(commission=0.001, lot=STEP))
        return cerebro.run()[0]

    return run


def test_trades_close_in_backtrader_itself(run):
    plain = run(Rounds, sizes=(0.1, 0.2, -0.3))
    assert plain.trades == [(False, 0.1)]
    ours = run(Rounds, sizes=tuple(Size(size, STEP) for size in (0.1, 0.2, -0.3)))
    assert ours.trades == [(False, 0.1), (True, 0)]
    assert ours.left == [0, 0, 0]
    assert not ours.position
    assert ours.broker.getvalue() == pytest.approx(10_000 - 60 * 0.001)


class Target(bt.Strategy):
    def next(self):
        if len(self) == 1:
            self.order_target_percent(target=0.5)


def test_order_target_percent_buys_a_fraction(run):
    assert run(Target).position.size == 50.0


def test_cash_buys_whole_lots_not_whole_units():
    info = CommInfo(commission=0.001, lot=Decimal("0.001"))
    assert info.getsize(30_000.0, 1_000.0) == 0.033
    assert info.getsize(0.1, 0.3) == 3.0
    assert info.getsize(0.0, 1_000.0) == info.getsize(float("nan"), 1_000.0) == 0
    assert isinstance(info.getsize(30_000.0, 1_000.0), Size)
    assert CommInfo(commission=0.001, lot=Decimal("0.001"), leverage=2.0).getsize(30_000.0, 1_000.0) == 0.066
    assert info.getcommission(0.033, 30_000.0) == pytest.approx(0.99)


def test_an_order_may_shrink_to_what_is_left_to_sell(run):
    class Shrink(bt.Strategy):
        def __init__(self):
            self.order = None

        def next(self):
            if self.order is None:
                self.order = self.sell(size=1.0)
                resize(self.order, Size(-0.3, STEP))

    order = run(Shrink).order
    assert (order.size, order.created.size, order.executed.size, order.executed.remsize) == (-0.3, -0.3, -0.3, 0)
    assert order.status == order.Completed
