"""The exchange is away, before a run or in it: the run waits, says so, and counts what happened meanwhile."""

import threading
import time
from dataclasses import replace
from decimal import Decimal

import backtrader as bt
import pytest

from ccxtbt.errors import TryLaterError
from ccxtbt.sim.server import API_KEY
from planned import SECONDS, ended
from simulated import BTC
from watching import ago, live, run, store_of

HOUR_MS = 3_600_000
MINUTES = {"timeframe": bt.TimeFrame.Minutes, "compression": 1}
OPENING = {"USDT": 100_000, "BTC": 0}
TEN_MINUTES_MS = 600_000


def started(simulator, speed):
    return simulator((replace(BTC, volatility=0.003),), seed=2, history_ms=HOUR_MS, speed=speed, balances=OPENING)


def play(server, journal, until, act=None, *, frame=SECONDS, **options):
    store = store_of(server, journal=journal, **options)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **frame)
    # A run that is killed waits for nothing at its end.
    broker = store.getbroker(check_interval=0.5, stop_timeout=0.01)
    return run(store, feed, broker=broker, act=act, until=until), broker


def orders_of(server):
    return server.call(lambda: list(server.exchange.orders))


def open_sides(server):
    """The resting entry buys, and the exits of what is held sell: both of them, where they are one list."""
    return {order.side for order in orders_of(server) if order.is_open}


def enter(w):
    """A bracket that holds, and an order that rests."""
    price = w.data.close[0]
    made = w.buy_bracket(size=0.3, exectype=bt.Order.Market, stopprice=price * 0.8, limitprice=price * 1.2)
    return [*made, w.buy(size=0.1, exectype=bt.Order.Limit, price=price * 0.9)]


def left_open(server, journal):
    """Live a first life that leaves a position, its stop and a resting order."""
    made = []

    def act(w):
        if live(w) and not made:
            made.extend(enter(w))

    play(server, journal, lambda w: made and open_sides(server) == {"BUY", "SELL"}, act)


def assert_agree(server, watcher, broker):
    account = server.account(API_KEY)
    fills = server.exchange.my_trades(account, "BTCUSDT", limit=1_000)
    brought = sum((fill.qty if fill.is_buyer else -fill.qty) for fill in fills)
    brought -= sum(fill.commission for fill in fills if fill.commission_asset == "BTC")
    assert account.balance("BTC").total == brought == broker.amount("BTC")
    assert Decimal(repr(float(broker.getposition(watcher.data).size))) == brought // BTC.step_size * BTC.step_size
    assert broker.getcash() == float(account.balance("USDT").total)


class Meanwhile(threading.Thread):
    """Does something beside a run, once `when()`; a failure fails the test that joins it."""

    def __init__(self, when, what, limit_s=30.0):
        super().__init__(daemon=True)
        self._when, self._what, self._limit_s = when, what, limit_s
        self.done = False

    def run(self):
        end_s = time.monotonic() + self._limit_s
        while not self._when() and time.monotonic() < end_s:
            time.sleep(0.01)  # between two looks: what it waits for has no event
        self.done = self._when()
        self._what()


def test_a_start_waits_for_an_exchange_that_answers_errors(simulator, tmp_path):
    server, journal = started(simulator, 5), tmp_path / "journal.sqlite"
    left_open(server, journal)
    (resting,) = [order for order in orders_of(server) if order.is_open and order.side == "BUY"]
    before = len(server.requests)
    server.faults.server_error(503, times=0)

    def refused():
        return sum(request.status == 503 for request in list(server.requests)[before:])

    def fill_and_clear():
        server.call(lambda: server.exchange.fill(server.account(), "BTCUSDT", resting.order_id))
        server.faults.clear()

    meanwhile = Meanwhile(lambda: refused() >= 4, fill_and_clear)
    meanwhile.start()
    watcher, broker = play(server, journal, lambda w: live(w) and resting.client_id in finished(w), retries=0)
    meanwhile.join()
    assert meanwhile.done
    assert any(message.startswith("The start waits for binance") for message in watcher.messages)
    assert_agree(server, watcher, broker)
    assert open_sides(server) == {"SELL"}


@pytest.mark.parametrize("path", ["account", "openOrders", "order", "myTrades", "klines"])
def test_a_start_waits_for_whatever_is_not_answered(simulator, tmp_path, path):
    server, journal = started(simulator, 5), tmp_path / "journal.sqlite"
    left_open(server, journal)
    (resting,) = [order for order in orders_of(server) if order.is_open and order.side == "BUY"]
    server.call(lambda: server.exchange.fill(server.account(), "BTCUSDT", resting.order_id))
    rule = server.faults.server_error(502, path=f"/api/v3/{path}", method="GET", times=3)
    watcher, broker = play(server, journal, lambda w: live(w) and resting.client_id in finished(w), retries=0)
    assert rule.fired == 3
    assert any(message.startswith("The start waits for binance") for message in watcher.messages)
    assert_agree(server, watcher, broker)


def test_a_start_with_nothing_at_stake_does_not_wait(simulator, tmp_path):
    server = started(simulator, 5)
    server.faults.server_error(502, path="/api/v3/openOrders", times=0)
    with pytest.raises(TryLaterError, match="open orders"):
        play(server, tmp_path / "journal.sqlite", lambda w: True, retries=0)


def test_a_start_that_waits_can_be_ended(simulator, tmp_path):
    server, journal = started(simulator, 5), tmp_path / "journal.sqlite"
    left_open(server, journal)
    server.faults.server_error(503, times=0)
    store = store_of(server, journal=journal, retries=0)
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.adddata(store.getdata(dataname="BTC/USDT", **SECONDS))
    cerebro.setbroker(store.getbroker())
    cerebro.addstrategy(bt.Strategy)
    meanwhile = Meanwhile(lambda: len(store._notifs) >= 2, cerebro.runstop)
    meanwhile.start()
    with pytest.raises(TryLaterError):
        cerebro.run()
    meanwhile.join()
    assert meanwhile.done


def finished(watcher):
    return {order.info.get("client_id") for order in watcher.orders if not order.alive()}


def test_the_exchange_is_restarted_while_orders_are_open(simulator, tmp_path):
    server = started(simulator, 5)
    made, restarted = [], []

    def act(w):
        if live(w) and not made:
            made.extend(enter(w))
        if len(made) == 4 and not restarted and open_sides(server) == {"BUY", "SELL"}:
            restarted.append(True)
            (resting,) = [order for order in orders_of(server) if order.is_open and order.side == "BUY"]
            server.call(lambda: server.exchange.fill(server.account(), "BTCUSDT", resting.order_id))
            server.stop()
            server._thread = None
            # The outage itself: who comes back within it is refused.
            time.sleep(0.5)
            server.start()

    def until(w):
        return live(w) and restarted and made[3].ref in ended(w) and w.states[w.data].count("LIVE") >= 2

    watcher, broker = play(server, tmp_path / "journal.sqlite", until, act)
    assert any("The stream of orders broke" in message for message in watcher.messages)
    assert_agree(server, watcher, broker)
    assert open_sides(server) == {"SELL"}


def test_ten_minutes_without_a_stream_while_orders_are_filled(simulator, tmp_path):
    """Ten minutes of the exchange's clock, which runs a hundred times as fast; REST goes on."""
    server = started(simulator, 100)
    made, broke_ms, missed = [], [], []

    def act(w):
        if not live(w):
            return
        price = w.data.close[0]
        if not made:
            exits = {"stopprice": price * 0.9995, "limitprice": price * 1.0005}
            made.extend(w.buy_bracket(size=0.2, exectype=bt.Order.Market, **exits))
            offs = (0.0001, 0.0002, 0.0004, 0.0006, 0.0008, 0.001)
            made.extend(w.buy(size=0.2, exectype=bt.Order.Limit, price=price * (1 - off)) for off in offs)
        elif not broke_ms and len(orders_of(server)) >= 8:
            broke_ms.append(server.clock.now_ms())
            server.faults.refuse_connect(times=0)
            server.abort_connections()

    def meanwhile():
        for order in orders_of(server):
            # Whatever the market has left of them.
            server.call(server.exchange.fill, server.account(), "BTCUSDT", order.order_id)
        missed.append(True)
        server.faults.clear()

    back = Meanwhile(lambda: broke_ms and server.clock.now_ms() - broke_ms[0] >= TEN_MINUTES_MS, meanwhile)
    back.start()

    def until(w):
        return (
            bool(missed)
            and live(w)
            and w.bars_at_state[w.data][-1] > 1
            and not any(state.needs_fills or state.in_doubt for state in w.broker._desk._states.open())
        )

    watcher, broker = play(server, tmp_path / "journal.sqlite", until, act, frame=MINUTES)
    back.join()
    fills = server.exchange.my_trades(server.account(API_KEY), "BTCUSDT", limit=1_000)
    during = [fill for fill in fills if broke_ms[0] < fill.ts_ms]
    assert len(during) > 5
    assert any("The stream of orders broke" in message for message in watcher.messages)
    assert sum(len(order.executed_fills) for order in {o.ref: o for o in watcher.orders}.values()) == len(fills)
    assert_agree(server, watcher, broker)
