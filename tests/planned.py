"""What tests of orders share: a plan that acts step by step on live bars, and the exchange's books to hold it to."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import backtrader as bt
import pytest

from ccxtbt.sim.server import API_KEY, SimServer
from simulated import BTC
from watching import ago, run, store_of

SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}
TERMINAL = {"Completed", "Canceled", "Expired", "Margin", "Rejected"}


class Plan:
    """Acts once each data is LIVE, one step a bar; ends when every order has and nothing is left to do."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.made = []
        self.step = None

    def again(self, watcher):
        """Place a stop anew that the market had passed before it arrived: that is no fault of anybody."""
        last = self.made[-1] if self.made else None
        if last is not None and last.ref in ended(watcher) and "immediately" in (last.info.reason or ""):
            self.made.remove(last)
            self.steps.insert(0, self.step)

    def act(self, watcher):
        self.again(watcher)
        if watcher.states[watcher.data][-1:] == ["LIVE"] and self.steps and self.settled(watcher):
            self.step = self.steps.pop(0)
            made = self.step(watcher)
            self.made += made if isinstance(made, list) else [made] if made is not None else []

    def settled(self, watcher):
        return all(order.ref in ended(watcher) for order in self.made)

    def until(self, watcher):
        self.again(watcher)
        return not self.steps and self.settled(watcher)


def ended(watcher):
    return {order.ref for order in watcher.orders if order.getstatusname() in TERMINAL}


def statuses(watcher, order):
    return [seen.getstatusname() for seen in watcher.orders if seen.ref == order.ref]


def trade(server: SimServer, *steps, **options):
    """Run a plan on live BTC/USDT bars; return (watcher, plan, broker)."""
    store = store_of(server, **options)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    broker = store.getbroker(check_interval=0.5)
    plan = Plan(*steps)
    watcher = run(store, feed, broker=broker, act=plan.act, until=plan.until)
    return watcher, plan, broker


def assert_books_agree(server: SimServer, watcher, broker, opening):
    """The broker's fills, position and money are the exchange's, to the last unit; one order there for each sent."""
    account = server.account(API_KEY)
    fills = server.exchange.my_trades(account, "BTCUSDT", limit=1_000)
    last = {order.ref: order for order in watcher.orders}
    assert sum(len(order.executed.exbits) for order in last.values()) == len(fills)
    position = Decimal(repr(float(broker.getposition(watcher.data).size)))
    held = account.balance("BTC").total - Decimal(opening["BTC"])
    assert abs(position - held) < BTC.step_size
    assert Decimal(repr(broker.getcash())) == pytest.approx(account.balance("USDT").total, abs=Decimal("1e-7"))
    there = Counter(order.client_id for order in server.exchange.all_orders(account, "BTCUSDT", limit=1_000))
    assert set(there.values()) <= {1}
    return fills
