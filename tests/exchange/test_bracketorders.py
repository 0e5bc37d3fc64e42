"""BracketOrderManager and create_bracket_order: the same bracket in a live run and in a backtest."""

from dataclasses import replace

import backtrader as bt
import pytest

from ccxtbt import BracketOrderManager, BracketState
from ccxtbt.errors import ConfigError
from planned import SECONDS, assert_books_agree, statuses, trade
from simulated import BTC, ETH
from watching import ago, run, store_of

HOUR_MS = 3_600_000
OPENING = {"USDT": 100_000, "BTC": 0}


@pytest.fixture
def server(simulator):
    return simulator((replace(BTC, volatility=0.003), ETH), seed=2, history_ms=HOUR_MS, speed=5, balances=OPENING)


def test_a_bracket_is_entered_and_left_at_its_target(server):
    made = []

    def enter(w):
        price = w.data.close[0]
        manager = BracketOrderManager(w.broker)
        entry = manager.create_bracket(w.data, 0.3, None, price * 0.9, price * 1.00001)
        made.append(manager.brackets[entry.ref])
        assert made[0].state == BracketState.PENDING
        return [entry, made[0].stop, made[0].limit]

    watcher, plan, broker = trade(server, enter)
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed", "Canceled", "Completed"]
    assert made[0].state == BracketState.TARGETED
    assert_books_agree(server, watcher, broker, OPENING)


def test_the_broker_makes_and_cancels_brackets(server):
    made = []

    def enter(w):
        price = w.data.close[0]
        made.append(w.broker.create_bracket_order(w.data, 0.3, price * 0.9, price * 0.8, price))

    def cancel(w):
        w.broker.get_bracket_manager().cancel_bracket(made[0].entry)
        return [made[0].entry, made[0].stop, made[0].limit]

    watcher, plan, broker = trade(server, enter, cancel)
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Canceled"] * 3
    assert made[0].state == BracketState.ENDED
    assert not assert_books_agree(server, watcher, broker, OPENING)


def test_a_backtest_makes_the_same_bracket(server):
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=30), historical=True, **SECONDS)
    made = []

    def enter(w):
        price = w.data.close[0]
        if not made:
            made.append(w.broker.create_bracket_order(w.data, 0.3, None, price * 0.99999, price * 1.00001))

    broker = store.getbroker()
    broker.setcash(100_000)
    run(store, feed, broker=broker, act=enter, until=lambda w: False)
    assert made[0].entry.status == bt.Order.Completed
    assert made[0].state in {BracketState.STOPPED, BracketState.TARGETED}
    assert broker.getposition(feed).size == 0


@pytest.mark.parametrize(
    ("prices", "side", "reason"),
    [
        ((100, 110, 120), "buy", "between its exits"),
        ((100, 90, 110), "sell", "between its exits"),
        ((None, 110, 90), "buy", "between its exits"),
        ((100, 90, 110), "long", "side='long'"),
    ],
)
def test_a_bracket_that_makes_no_sense_is_refused(prices, side, reason):
    with pytest.raises(ConfigError, match=reason):
        BracketOrderManager(None).create_bracket(None, 1, *prices, side=side)
