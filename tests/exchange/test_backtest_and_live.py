"""The same script on history and live, against one market: the same trades, where the two models agree."""

import datetime as dt
from dataclasses import replace

import backtrader as bt
import pytest

from ccxtbt.sim.server import API_KEY
from planned import SECONDS
from simulated import BTC
from watching import LIMIT_S, stamp_ms, store_of

BARS = 20
# Little enough for the best offer of the book: what more would cost, no bar can tell.
SIZE = 0.002
# Two bars a second: an order is filled long before the bar ends after whose start it was sent.
SPEED = 2.0


class Crossings(bt.Strategy):
    """Buys when the mean of two closes rises above that of four, sells when it falls below; knows nothing of live."""

    params = (("first_ms", 0), ("last_ms", 0))

    def __init__(self):
        self.above = bt.indicators.SMA(period=2) - bt.indicators.SMA(period=4)
        self.bars, self.made, self.fills, self.trades = {}, [], [], []
        self.pending = None

    def notify_order(self, order):
        if order.status == order.Completed:
            self.fills.append((order.ref, order.executed.price, float(order.executed.size), order.executed.comm))
        if not order.alive():
            self.pending = None

    def notify_trade(self, trade):
        if trade.isclosed:
            self.trades.append((trade.pnl, trade.commission))

    def next(self):
        now_ms = stamp_ms(self.data)
        self.bars[now_ms] = (self.data.open[0], self.data.high[0], self.data.low[0], self.data.close[0])
        if now_ms > self.p.last_ms + 2_000:
            self.env.runstop()
        if not self.p.first_ms <= now_ms <= self.p.last_ms or self.pending is not None:
            return
        held = self.position.size > 0
        if (self.above[0] > 0) is not held:
            self.pending = self.close() if held else self.buy(size=SIZE)
            self.made.append((now_ms, self.pending))


def play(server, **params):
    """Run the script from a minute before its first order; historical if that is over."""
    store = store_of(server, currency="USDT")
    old = server.clock.now_ms() > params["last_ms"]
    since = dt.datetime.fromtimestamp((params["first_ms"] - 60_000) / 1_000, dt.UTC).replace(tzinfo=None)
    feed = store.getdata(dataname="BTC/USDT", fromdate=since, historical=old, **SECONDS)
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.adddata(feed)
    broker = store.getbroker(check_interval=0.5)
    if old:
        broker.setcash(100_000)
    cerebro.setbroker(broker)
    cerebro.addstrategy(Crossings, **params)
    try:
        (strategy,) = cerebro.run()
    finally:
        store.stop()
    return strategy


@pytest.mark.timeout(2 * LIMIT_S)
def test_the_same_script_makes_the_same_trades_on_history_and_live(simulator):
    spec = replace(BTC, quiet=0.0)
    server = simulator((spec,), seed=3, history_ms=600_000, speed=SPEED, balances={"USDT": 100_000, "BTC": 0})
    first_ms = server.clock.now_ms() // 1_000 * 1_000 + 10_000
    when = {"first_ms": first_ms, "last_ms": first_ms + BARS * 1_000}
    live = play(server, **when)
    tested = play(server, **when)
    # One was live and one was not: what the exchange has is all of the live one.
    assert len(server.exchange.all_orders(server.account(API_KEY), "BTCUSDT", limit=100)) == len(live.made) > 4

    # The same bars, and so the same orders at the same bars; each is filled, and as many trades are closed.
    stamps = [stamp for stamp in live.bars if stamp <= when["last_ms"]]
    assert {stamp: live.bars[stamp] for stamp in stamps} == {stamp: tested.bars[stamp] for stamp in stamps}
    sides = [[(stamp, order.isbuy()) for stamp, order in run.made] for run in (live, tested)]
    assert sides[0] == sides[1]
    assert len(live.fills) == len(tested.fills) == len(live.made)
    assert len(live.trades) == len(tested.trades)

    for (stamp, order), at, model in zip(live.made, live.fills, tested.fills, strict=True):
        opened, high, low, _ = tested.bars[stamp + 1_000]
        # The model fills at the first trade after the bar. The exchange fills at what it has in its book when the order
        # arrives: within the prices of that bar and of the one that had just closed, by a spread more or less.
        assert model[1] == opened
        _, high_before, low_before, _ = tested.bars[stamp]
        spread = 2e-5 * opened + 2 * float(spec.tick_size)
        assert min(low, low_before) - spread <= at[1] <= max(high, high_before) + spread
        # The model's fee is quote; the exchange's, of a buy, is base: a sale is so much smaller, cut to the lot.
        assert at[3] == pytest.approx(0.001 * abs(at[2]) * at[1])
        assert model[3] == pytest.approx(0.001 * abs(model[2]) * model[1])
        if order.isbuy():
            assert at[2] == model[2] == SIZE
        else:
            assert model[2] == -SIZE
            assert -SIZE <= at[2] <= -SIZE * 0.999 + float(spec.step_size)
