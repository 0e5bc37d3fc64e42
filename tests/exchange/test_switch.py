"""The dead man's switch: what is open ends at the exchange when the process does, and not before."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import backtrader as bt
import pytest

import ccxtbt
from ccxtbt import CCXTStore
from ccxtbt.errors import ConfigError, NotOfferedError
from ccxtbt.exchange.clock import Clock
from ccxtbt.sim.server import API_KEY, SECRET
from planned import SECONDS
from simulated import BTC, ETH
from waiting import wait_until
from watching import ago, run, store_of

PERP = "BTC/USDT:USDT"
AFTER_S = 10.0
LIMIT_S = 40.0

SCRIPT = f"""
import sys
import backtrader as bt
from ccxtbt import CCXTStore
from ccxtbt.exchange.clock import Clock

class Rester(bt.Strategy):
    made = None
    def next(self):
        if self.data._laststatus == self.data.LIVE and self.made is None:
            self.made = self.buy(size=0.01, exectype=bt.Order.Limit, price=self.data.close[0] * 0.9)

store = CCXTStore("binanceusdm", "USDT", dict(apiKey={API_KEY!r}, secret={SECRET!r}), journal=None,
                  clock=Clock(rate=float(sys.argv[1])))
cerebro = bt.Cerebro(stdstats=False)
cerebro.adddata(store.getdata(dataname={PERP!r}, timeframe=bt.TimeFrame.Seconds, compression=1))
cerebro.setbroker(store.getbroker(cancel_all_after={AFTER_S}))
cerebro.addstrategy(Rester)
cerebro.run()
"""


@pytest.fixture
def server(simulator):
    calm = replace(BTC, volatility=0.0005)
    return simulator(contracts=[calm, ETH], margin={"USDT": 10_000}, history_ms=600_000, speed=5)


def open_orders(server):
    return server.call(lambda: server.contracts.open_orders(server.contracts.account(API_KEY), "BTCUSDT"))


def test_when_the_process_is_killed_the_exchange_cancels_what_is_open(server, tmp_path):
    script = tmp_path / "rester.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "CCXTBT_ENDPOINT": server.url, "PYTHONPATH": str(Path(ccxtbt.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, str(script), str(server.speed)], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until(lambda: open_orders(server) or process.poll() is not None, LIMIT_S)
            assert process.poll() is None, process.stderr.read()
            # While it lives the order stays, for longer than the switch alone would let it.
            (order,) = open_orders(server)
            wait_until(lambda: server.clock.now_ms() > order.created_ms + 1_500 * AFTER_S, LIMIT_S)
            assert open_orders(server) == [order]
            process.send_signal(signal.SIGKILL)
            killed_ms = server.clock.now_ms()
            wait_until(lambda: not open_orders(server), LIMIT_S)
        finally:
            process.kill()
    assert order.status == "CANCELED"
    assert order.updated_ms - killed_ms <= 1_000 * AFTER_S


def usdm_of(server):
    CCXTStore._singleton = None
    keys = {"apiKey": API_KEY, "secret": SECRET}
    return CCXTStore("binanceusdm", "USDT", keys, endpoint=server.url, clock=Clock(rate=server.speed), journal=None)


def rest_one(server, act=lambda w: None, until=lambda w: True, **options):
    """Rest an order with the switch on; end when it stands and `until` says so."""
    made = []

    def place(w):
        if w.states[w.data][-1:] == ["LIVE"] and not made:
            made.append(w.buy(size=0.01, exectype=bt.Order.Limit, price=w.data.close[0] * 0.9))
        act(w)

    def stands(w):
        return any(order.getstatusname() == "Accepted" for order in w.orders) and until(w)

    store = usdm_of(server)
    feed = store.getdata(dataname=PERP, fromdate=ago(server, minutes=1), **SECONDS)
    return run(store, feed, broker=store.getbroker(cancel_all_after=AFTER_S, **options), act=place, until=stands)


def test_a_run_that_ends_turns_it_off(server):
    running = []
    rest_one(server, lambda w: running.append(dict(server.contracts.countdowns)))
    assert set(running[-1]) == {(API_KEY, "BTCUSDT")}
    assert not server.call(lambda: dict(server.contracts.countdowns))
    assert len(open_orders(server)) == 1


def test_when_it_cannot_be_set_that_is_said_and_so_is_when_it_can_again(server):
    def act(w):
        if w.orders and not any("dead man" in text for text in w.messages):
            server.faults.server_error(503, taken=False, path="/fapi/v1/countdownCancelAll")

    watcher = rest_one(server, act, until=lambda w: any("is set again" in text for text in w.messages))
    assert len([text for text in watcher.messages if "could not be set again" in text]) == 1


def test_an_exchange_without_one_is_told_before_anything_is_ordered(simulator):
    server = simulator((BTC,), history_ms=600_000, speed=5)
    store = store_of(server, journal=None)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    with pytest.raises(NotOfferedError, match="No dead man's switch of binance for BTC/USDT is known here"):
        run(store, feed, broker=store.getbroker(cancel_all_after=60), until=lambda w: True)


def test_a_time_that_is_none_or_that_the_exchange_refuses_is_told_at_the_start(server):
    for seconds, said in ((0, "give seconds above 0"), (-5, "give seconds above 0")):
        store = usdm_of(server)
        feed = store.getdata(dataname=PERP, fromdate=ago(server, minutes=1), **SECONDS)
        with pytest.raises(ConfigError, match=said):
            run(store, feed, broker=store.getbroker(cancel_all_after=seconds), until=lambda w: True)
    server.faults.refused(
        -1130, "Data sent for parameter 'countdownTime' is not valid.", path="/fapi/v1/countdownCancelAll"
    )
    store = usdm_of(server)
    feed = store.getdata(dataname=PERP, fromdate=ago(server, minutes=1), **SECONDS)
    with pytest.raises(ConfigError, match=r"Setting the dead man's switch \(cancel_all_after=7\) failed"):
        run(store, feed, broker=store.getbroker(cancel_all_after=7), until=lambda w: True)
