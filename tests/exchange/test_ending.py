"""How a run leaves its orders: whichever way it ends, what is asked for is done, journaled and told."""

import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from decimal import Decimal

import backtrader as bt
import pytest

from ccxtbt import CCXTStore
from ccxtbt.errors import ConfigError
from ccxtbt.exchange.clock import Clock
from ccxtbt.sim.server import API_KEY, SECRET
from planned import SECONDS, statuses
from simulated import BTC, ETH
from spawned import interrupted
from watching import Watcher, ago, run, store_of

HOUR_MS = 3_600_000
OPENING = {"USDT": 100_000, "BTC": 0}


@pytest.fixture
def server(simulator):
    return simulator((replace(BTC, volatility=0.0005), ETH), seed=2, history_ms=HOUR_MS, speed=10, balances=OPENING)


def open_types(server):
    return sorted(order.type for order in server.exchange.open_orders(server.account(API_KEY)))


def held(server):
    return server.account(API_KEY).balance("BTC").total


class Trader(Watcher):
    """Enters at market with a bracket, and rests a limit far away; ends when all of that stands."""

    def __init__(self):
        super().__init__()
        self.low = None
        self.bracket = []
        self.at_stop = None

    def next(self):
        if self.states[self.data][-1:] == ["LIVE"] and self.low is None:
            price = self.data.close[0]
            self.low = self.buy(size=0.1, exectype=bt.Order.Limit, price=price * 0.9)
            exits = {"stopprice": price * 0.8, "limitprice": price * 1.2}
            self.bracket = self.buy_bracket(size=0.1, exectype=bt.Order.Market, **exits)
        super().next()

    def stands(self):
        """Whether all orders of the plan have arrived."""
        return self.low is not None and all(
            statuses(self, order)[-1:] == [status]
            for order, status in zip(
                (self.low, *self.bracket), ("Accepted", "Completed", "Accepted", "Submitted"), strict=True
            )
        )

    def stop(self):
        ends = [order.getstatusname() for order in (self.low, *self.bracket)]
        self.at_stop = ends, self.broker.getposition(self.data).size, self.broker.open_orders.values()


def trade(server, strategy=Trader, until=Trader.stands, journal=None, **options):
    store = store_of(server, journal=journal)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    return run(store, feed, broker=store.getbroker(check_interval=0.5, **options), strategy=strategy, until=until)


@pytest.mark.parametrize(
    ("on_stop", "ends", "left", "stays"),
    [
        ("leave", ["Accepted", "Completed", "Accepted", "Submitted"], ["LIMIT", "STOP_LOSS"], True),
        ("cancel_entries", ["Canceled", "Completed", "Accepted", "Submitted"], ["STOP_LOSS"], True),
        ("cancel_all", ["Canceled", "Completed", "Canceled", "Canceled"], [], True),
        ("flatten", ["Canceled", "Completed", "Canceled", "Canceled"], [], False),
    ],
)
def test_what_is_asked_for_is_done_before_the_strategy_stops(server, tmp_path, on_stop, ends, left, stays):
    journal = tmp_path / "journal.sqlite"
    watcher = trade(server, journal=journal, on_stop=on_stop)
    assert open_types(server) == left
    assert watcher.at_stop[0] == ends
    assert [statuses(watcher, order)[-1] for order in (watcher.low, *watcher.bracket)] == ends
    assert bool(watcher.at_stop[1]) == bool(held(server)) == stays
    assert len(watcher.at_stop[2]) == {"leave": 3, "cancel_entries": 2}.get(on_stop, 0)
    summary = [message for message in watcher.messages if "open orders at binance" in message]
    assert len(summary) == bool(left)
    with closing(sqlite3.connect(journal)) as db:
        last = dict(db.execute("SELECT client_id, status FROM states ORDER BY id"))
        ((ended_ms, sold),) = db.execute(
            "SELECT ended_ms, (SELECT COUNT(*) FROM fills WHERE size LIKE '-%') FROM runs"
        ).fetchall()
    assert ended_ms
    assert bool(sold) == (not stays)
    there = server.exchange.all_orders(server.account(API_KEY), "BTCUSDT", limit=100)
    meant = {"NEW": "Accepted", "FILLED": "Completed", "CANCELED": "Canceled"}
    assert last == {order.client_id: meant[order.status] for order in there}
    if not stays:
        assert watcher.trades[-1].isclosed


def test_a_strategy_cannot_enter_again_while_its_orders_are_cancelled(server):
    class Stubborn(Trader):
        again = None

        def notify_order(self, order):
            super().notify_order(order)
            if order.getstatusname() == "Canceled" and self.again is None:
                self.again = self.buy(size=0.1)

    watcher = trade(server, Stubborn, on_stop="cancel_all")
    assert statuses(watcher, watcher.again) == ["Rejected"]
    assert "The run ends with on_stop='cancel_all'" in watcher.again.info.reason
    assert not open_types(server)


@pytest.mark.parametrize("on_stop", ["leave", "cancel_all"])
def test_what_a_strategy_orders_when_it_stops_is_done_and_told(server, tmp_path, on_stop):
    class Leaving(Trader):
        def stop(self):
            super().stop()
            self.cancel(self.bracket[1])
            self.closing = self.close()
            self.late = self.buy(size=0.1, exectype=bt.Order.Limit, price=self.data.close[0] * 0.8)

    journal = tmp_path / "journal.sqlite"
    watcher = trade(server, Leaving, journal=journal, on_stop=on_stop)
    told = statuses(watcher, watcher.closing)
    assert (told[:2], told[-1]) == (["Submitted", "Accepted"], "Completed")
    assert not held(server)
    assert statuses(watcher, watcher.bracket[1])[-1] == "Canceled"
    assert statuses(watcher, watcher.late)[-1] == {"leave": "Accepted", "cancel_all": "Canceled"}[on_stop]
    assert open_types(server) == (["LIMIT", "LIMIT"] if on_stop == "leave" else [])
    with closing(sqlite3.connect(journal)) as db:
        last = dict(db.execute("SELECT client_id, status FROM states ORDER BY id"))
    assert last[watcher.closing.info.client_id] == "Completed"


def test_an_exchange_that_does_not_answer_is_not_waited_for_longer_than_asked(server):
    began_s = []

    def until(watcher):
        if watcher.stands() and not began_s:
            began_s.append(time.monotonic())
            for method in ("DELETE", "GET"):
                server.faults.delay_request(600, path="/api/v3/order", method=method, times=0)
        return bool(began_s)

    watcher = trade(server, until=until, on_stop="flatten", stop_timeout=1.0)
    # The time-out, and the end of the connection.
    assert time.monotonic() - began_s[0] < 1.0 + 4.0
    assert any("What on_stop='flatten' asks for was not done within 1 s" in text for text in watcher.messages)
    # Not sold beside a stop of which nobody knows whether it is cancelled.
    assert any("The run ends and still holds 0.09990 BTC" in text for text in watcher.messages)
    assert any("The run ends with 3 open orders" in text for text in watcher.messages)


def test_an_exception_in_a_strategy_ends_its_orders_too_and_comes_out(server):
    class Failing(Trader):
        def next(self):
            super().next()
            if self.stands():
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trade(server, Failing, until=lambda w: False, on_stop="flatten")
    assert not open_types(server)
    assert not held(server)


def test_an_exception_while_the_run_ends_comes_out_once_all_is_done(server):
    class Failing(Trader):
        def notify_order(self, order):
            super().notify_order(order)
            if order.getstatusname() == "Canceled":
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trade(server, Failing, on_stop="flatten")
    assert not open_types(server)
    assert not held(server)


def test_exits_of_other_kinds_are_no_entries(simulator):
    server = simulator(
        (replace(BTC, volatility=0.0005), ETH),
        seed=2,
        history_ms=HOUR_MS,
        speed=10,
        balances={"USDT": 100_000, "BTC": 1},
    )
    made = []

    def act(w):
        price = w.data.close[0]
        if w.states[w.data][-1:] != ["LIVE"]:
            return
        if not made:
            made.append(w.buy(size=0.2))
        elif w.position.size and len(made) == 1:
            limit = {"size": 0.05, "exectype": bt.Order.Limit}
            made.append(w.sell(**limit, price=price * 1.2))
            made.append(w.buy(**limit, price=price * 0.8))
            made.append(w.sell(size=0.05, exectype=bt.Order.StopTrail, trailpercent=0.2))
            made.append(w.buy(size=0.05, exectype=bt.Order.StopTrail, trailpercent=0.2))
            made.append(w.buy(**limit, price=price * 0.7, transmit=False))

    def until(w):
        return len(made) == 6 and all(statuses(w, order)[-1:] == ["Accepted"] for order in made[1:5])

    store = store_of(server, journal=None)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    broker = store.getbroker(check_interval=0.5, on_stop="cancel_entries")
    watcher = run(store, feed, broker=broker, act=act, until=until)
    ends = [statuses(watcher, order)[-1] for order in made]
    assert ends == ["Completed", "Accepted", "Canceled", "Accepted", "Canceled", "Canceled"]
    (order,) = server.exchange.open_orders(server.account(API_KEY))
    assert (order.type, order.side) == ("LIMIT", "SELL")
    (summary,) = [text for text in watcher.messages if "open orders" in text]
    assert f"order {made[3].ref}, sell StopTrail (watched here, and by nobody from now on)" in summary


def test_a_short_position_in_a_contract_is_closed_by_an_order_that_only_reduces(simulator):
    calm = replace(BTC, volatility=0.0005)
    server = simulator(contracts=[calm, ETH], margin={"USDT": 10_000}, history_ms=600_000, speed=10)
    made = []

    def act(w):
        if w.states[w.data][-1:] == ["LIVE"] and not made:
            made.append(w.sell(size=0.01))

    CCXTStore._singleton = None
    keys = {"apiKey": API_KEY, "secret": SECRET}
    store = CCXTStore("binanceusdm", "USDT", keys, endpoint=server.url, clock=Clock(rate=server.speed), journal=None)
    feed = store.getdata(dataname="BTC/USDT:USDT", fromdate=ago(server, minutes=1), **SECONDS)
    broker = store.getbroker(check_interval=0.5, on_stop="flatten")
    run(store, feed, broker=broker, act=act, until=lambda w: made and statuses(w, made[0])[-1:] == ["Completed"])
    account = server.contracts.account(API_KEY)
    opened, closed = server.contracts.all_orders(account, "BTCUSDT", limit=10)
    assert (opened.side, closed.side, closed.type, closed.reduce_only) == ("SELL", "BUY", "MARKET", True)
    assert not server.contracts.books.position(account, "BTCUSDT").amount


def test_what_is_not_known_is_refused():
    store = store_of(type("Server", (), {"url": "http://localhost:1", "speed": 1}))
    with pytest.raises(ConfigError, match=r"on_stop='close' is not known: say one of 'leave', "):
        store.getbroker(on_stop="close")


SCRIPT = f"""
import signal, sys
import backtrader as bt
from ccxtbt import CCXTStore
from ccxtbt.exchange.clock import Clock

journal, on_stop, speed, handled = sys.argv[1:]

class Trader(bt.Strategy):
    made = ()
    def notify_order(self, order):
        print(order.ref, order.getstatusname(), flush=True)
        if len(self.made) == 4 and [order.status for order in self.made] == [2, 4, 2, 1]:
            print("stands", flush=True)
    def next(self):
        if self.data._laststatus == self.data.LIVE and not self.made:
            price = self.data.close[0]
            low = self.buy(size=0.1, exectype=bt.Order.Limit, price=price * 0.9)
            self.made = [low, *self.buy_bracket(size=0.1, exectype=bt.Order.Market, stopprice=price * 0.8,
                                                limitprice=price * 1.2)]
    def stop(self):
        print("stop", flush=True)

store = CCXTStore("binance", "USDT", dict(apiKey={API_KEY!r}, secret={SECRET!r}), journal=journal,
                  clock=Clock(rate=float(speed)))
cerebro = bt.Cerebro(stdstats=False)
cerebro.adddata(store.getdata(dataname="BTC/USDT", timeframe=bt.TimeFrame.Seconds, compression=1))
cerebro.setbroker(store.getbroker(on_stop=on_stop))
cerebro.addstrategy(Trader)
if handled == "handled":
    signal.signal(signal.SIGINT, lambda *_: cerebro.runstop())
cerebro.run()
"""


@pytest.mark.parametrize(("on_stop", "handled"), [("flatten", "-"), ("cancel_entries", "handled")])
def test_ctrl_c_does_what_is_asked_for(server, tmp_path, on_stop, handled):
    script, journal = tmp_path / "trader.py", tmp_path / "journal.sqlite"
    script.write_text(SCRIPT)
    arguments = (str(journal), on_stop, str(server.speed), handled)
    told = interrupted(
        script, *arguments, server=server, cwd=tmp_path, until=lambda lines: "stands" in lines, limit_s=40
    )
    assert "stands" in told.lines, told.errors
    left = ["STOP_LOSS"] if on_stop == "cancel_entries" else []
    assert open_types(server) == left, told.errors
    assert held(server) == (Decimal(0) if on_stop == "flatten" else Decimal("0.0999"))
    if handled == "handled":
        assert told.code == 0, told.errors
    else:
        assert "KeyboardInterrupt" in told.errors
    if left:
        assert "open orders at binance: order " in told.errors
    with closing(sqlite3.connect(journal)) as db:
        ((ended_ms,),) = db.execute("SELECT ended_ms FROM runs").fetchall()
        last = [
            status for _, status in sorted(dict(db.execute("SELECT client_id, status FROM states ORDER BY id")).items())
        ]
    assert ended_ms
    assert last.count("Accepted") == len(left)
