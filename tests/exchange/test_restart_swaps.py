"""A run in contracts begins where the last one ended."""

from decimal import Decimal

import backtrader as bt
import ccxt
import pytest

from ccxtbt.sim.server import API_KEY
from planned import SECONDS, ended, statuses
from simulated import BTC, ETH, point
from watching import Once, ago, live, run, store_of

PERP = "BTC/USDT:USDT"
HOUR_MS = 3_600_000


@pytest.fixture
def server(simulator):
    return simulator(contracts=[BTC, ETH], margin={"USDT": 100_000}, seed=5, history_ms=HOUR_MS, speed=15)


@pytest.fixture
def play(server, tmp_path):
    """Run one life of a strategy on the same journal."""

    def one(until, act=None):
        store = store_of(server, "binanceusdm", journal=tmp_path / "journal.sqlite")
        feed = store.getdata(dataname=PERP, fromdate=ago(server, minutes=1), **SECONDS)
        # A run that is killed waits for nothing at its end.
        broker = store.getbroker(check_interval=0.5, stop_timeout=0.01)
        return run(store, feed, broker=broker, act=act, until=until), broker

    return one


def held(server):
    """The exchange's own position and wallet."""

    def read():
        account = server.contracts.account(API_KEY)
        sizes = [each.amount for each in server.contracts.books.positions(account) if each.symbol == "BTCUSDT"]
        return (sizes or [Decimal(0)])[0], server.contracts.books.wallet(account)

    return server.call(read)


def exits_of(server):
    """The conditional orders that wait at the exchange."""
    return server.call(lambda: [each for each in server.contracts.algos if each.status == "NEW"])


def agrees(watcher, broker, server):
    size, wallet = held(server)
    return Decimal(repr(float(watcher.position.size))) == size and broker.amount("USDT") == wallet


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_a_position_is_there_and_its_trade_closes_with_all_fees(server, play, side):
    enter = Once(lambda w: getattr(w, side)(size=0.5))
    play(lambda w: enter.made and enter.made[0].ref in ended(w), enter.act)
    seen = []

    def act(w):
        seen.append((w.position.size, w.position.price))
        close.act(w)

    close = Once(lambda w: w.close())
    watcher, broker = play(lambda w: close.made and close.made[0].ref in ended(w) and agrees(w, w.broker, server), act)
    entry = enter.made[0]
    assert seen[0] == (entry.executed.size, pytest.approx(entry.executed.price, rel=1e-6))
    trade = next(each for each in watcher.trades if each.isclosed)
    assert trade.long is (side == "buy")
    assert trade.pnlcomm == pytest.approx(broker.getcash() - 100_000, abs=1e-5)
    assert not broker.apart


def test_a_stop_that_waits_at_the_exchange_is_taken_up(server, play):
    enter = Once(lambda w: [w.buy(size=0.5), w.sell(size=0.5, exectype=bt.Order.Stop, price=w.data.close[0] * 0.9)])
    play(lambda w: len(enter.made) == 2 and enter.made[1].status == bt.Order.Accepted and exits_of(server), enter.act)

    def cancel(w):
        if live(w):
            for order in w.broker.open_orders:
                w.cancel(order)

    watcher, broker = play(lambda w: w.orders and not w.orders[-1].alive() and agrees(w, w.broker, server), cancel)
    assert statuses(watcher, watcher.orders[-1]) == ["Accepted", "Canceled"]
    assert not exits_of(server)
    assert watcher.position.size == 0.5
    assert not broker.apart


def test_a_brackets_stop_that_went_while_nobody_ran_is_sent_again(server, play):
    def order(w):
        price = w.data.close[0]
        return w.buy_bracket(size=0.5, exectype=bt.Order.Market, stopprice=price * 0.9, limitprice=price * 1.1)

    enter = Once(order)
    play(lambda w: enter.made and exits_of(server), enter.act)
    (stop,) = exits_of(server)
    server.call(lambda: server.contracts.end_algo(stop, "CANCELED", server.clock.now_ms()))
    _, broker = play(lambda w: live(w) and exits_of(server) and agrees(w, w.broker, server))
    (again,) = exits_of(server)
    assert again is not stop
    assert not broker.apart


def test_a_stop_that_was_reached_while_nobody_ran_is_counted(server, play):
    """It has become another order, with another of the exchange's ids, by the time that it is asked for."""
    enter = Once(lambda w: [w.buy(size=0.5), w.sell(size=0.2, exectype=bt.Order.Stop, price=w.data.close[0] * 0.9)])
    play(lambda w: len(enter.made) == 2 and enter.made[1].status == bt.Order.Accepted and exits_of(server), enter.act)
    (stop,) = exits_of(server)
    server.contracts._waiting.remove(stop)
    server.call(lambda: server.contracts._become(stop, server.clock.now_ms()))
    watcher, broker = play(lambda w: live(w) and w.orders and not w.orders[-1].alive() and agrees(w, w.broker, server))
    assert statuses(watcher, watcher.orders[-1])[-1] == "Completed"
    assert watcher.position.size == 0.3
    assert not broker.apart


def test_what_another_did_while_nobody_ran_is_in_the_position(server, play):
    enter = Once(lambda w: w.buy(size=0.5))
    play(lambda w: enter.made and enter.made[0].ref in ended(w), enter.act)
    usdm = point(ccxt.binanceusdm({"enableRateLimit": False}), server)
    usdm.load_markets()
    usdm.create_order(PERP, "market", "sell", 0.2)
    watcher, _ = play(lambda w: live(w) and agrees(w, w.broker, server))
    assert watcher.position.size == 0.3
    assert any("somebody else has traded" in message for message in watcher.messages)
    watcher, broker = play(lambda w: live(w) and agrees(w, w.broker, server))
    assert watcher.position.size == 0.3
    assert not broker.apart
