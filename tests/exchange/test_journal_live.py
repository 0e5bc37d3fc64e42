"""The journal of a live run: nothing is at the exchange that is not in it, wherever the process dies."""

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import backtrader as bt
import pytest

import ccxtbt
from ccxtbt.errors import ConfigError
from ccxtbt.sim.server import API_KEY, SECRET
from simulated import BTC, ETH
from watching import ago, run, store_of

HOUR_MS = 3_600_000
SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}
LIMIT_S = 40.0

# Buys at each bar once its data is LIVE; dies at the place that is asked for.
SCRIPT = f"""
import os, signal, sys
import backtrader as bt
from ccxtbt import CCXTStore
from ccxtbt.exchange.clock import Clock
from ccxtbt.trading.courier import Courier
from ccxtbt.trading.journal import Journal

journal, dies, speed = sys.argv[1:]

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

if dies == "before it is kept":
    Journal.intend = die
if dies == "before it is sent":
    Courier._release = die

class Buyer(bt.Strategy):
    live = False
    def notify_data(self, data, status, *args, **kwargs):
        self.live = data._getstatusname(status) == "LIVE"
    def next(self):
        if self.live:
            self.buy(size=0.001)

store = CCXTStore("binance", "USDT", dict(apiKey={API_KEY!r}, secret={SECRET!r}), journal=journal,
                  clock=Clock(rate=float(speed)))
cerebro = bt.Cerebro(stdstats=False)
cerebro.adddata(store.getdata(dataname="BTC/USDT", timeframe=bt.TimeFrame.Seconds, compression=1))
cerebro.setbroker(store.getbroker())
cerebro.addstrategy(Buyer)
cerebro.run()
"""


@pytest.fixture
def server(simulator):
    return simulator((replace(BTC, volatility=0.003), ETH), seed=3, history_ms=HOUR_MS, speed=5)


def rows(path, query):
    db = sqlite3.connect(path)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


def at_exchange(server):
    return {order.client_id for order in server.exchange.all_orders(server.account(API_KEY), "BTCUSDT", limit=1_000)}


def wait_for(condition):
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def killed(server, folder, dies, when=None):
    """Run the buyer until it kills itself, or until `when()`; return its journal."""
    script, journal = folder / "buyer.py", folder / "journal.sqlite"
    script.write_text(SCRIPT)
    source = str(Path(ccxtbt.__file__).parents[1])
    environment = {**os.environ, "CCXTBT_ENDPOINT": server.url, "PYTHONPATH": source}
    command = [sys.executable, str(script), str(journal), dies, str(server.speed)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            if when is not None:
                wait_for(lambda: when() or process.poll() is not None)
                process.kill()
            _, errors = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL, errors
    return journal


def test_killed_before_it_is_kept_an_order_was_never_sent(server, tmp_path):
    journal = killed(server, tmp_path, "before it is kept")
    assert rows(journal, "SELECT client_id FROM intents") == []
    assert not at_exchange(server)


def test_killed_before_it_is_sent_an_order_is_kept_and_not_at_the_exchange(server, tmp_path):
    journal = killed(server, tmp_path, "before it is sent")
    kept = rows(journal, "SELECT symbol, side, amount FROM intents")
    assert kept == [("BTC/USDT", "buy", "0.001")]
    assert not at_exchange(server)
    # It has no state and no end, so that the next run knows what to ask for.
    assert rows(journal, "SELECT COUNT(*) FROM states") == [(0,)]
    assert rows(journal, "SELECT ended_ms FROM runs") == [(None,)]


@pytest.mark.parametrize("orders", [1, 2, 4])
def test_killed_at_any_moment_what_is_at_the_exchange_is_kept(server, tmp_path, orders):
    # The answer waits, so that the process dies between its request and its answer too.
    server.faults.delay_answer(0.5, path="/api/v3/order", method="POST", times=0)
    journal = killed(server, tmp_path, "-", when=lambda: len(at_exchange(server)) >= orders)
    kept = {client_id for (client_id,) in rows(journal, "SELECT client_id FROM intents")}
    assert len(at_exchange(server)) >= orders
    assert at_exchange(server) <= kept


def buy_once(w):
    if w.states[w.data][-1:] == ["LIVE"] and not w.orders:
        w.buy(size=0.01)


def over(w):
    return any(order.getstatusname() in {"Completed", "Rejected"} for order in w.orders)


def trade(server, **options):
    store = store_of(server, **options)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    return run(store, feed, broker=store.getbroker(check_interval=0.5), act=buy_once, until=over)


def test_what_became_of_an_order_is_kept(server, data_home):
    watcher = trade(server)
    (journal,) = (data_home / "ccxtbt" / "journal").glob("binance-*.sqlite")
    (client_id,) = at_exchange(server)
    assert rows(journal, "SELECT client_id, ref FROM intents") == [(client_id, watcher.orders[0].ref)]
    assert [status for (status,) in rows(journal, "SELECT status FROM states ORDER BY id")] == ["Accepted", "Completed"]
    fills = server.exchange.my_trades(server.account(API_KEY), "BTCUSDT", limit=10)
    kept = rows(journal, "SELECT trade_id, size, price, fee_cost, fee_currency FROM fills")
    assert {
        (str(f.trade_id), f.qty.normalize(), f.price.normalize(), f.commission.normalize(), "BTC") for f in fills
    } == {(number, *(Decimal(each).normalize() for each in amounts), currency) for number, *amounts, currency in kept}
    # Neither the secret nor the key, in none of its files.
    for path in journal.parent.iterdir():
        assert SECRET.encode() not in path.read_bytes()
        assert API_KEY.encode() not in path.read_bytes()


def test_without_a_journal_nothing_is_kept(server, data_home):
    watcher = trade(server, journal=None)
    assert watcher.orders[-1].getstatusname() == "Completed"
    assert not data_home.exists()


def test_when_the_disk_is_full_no_order_is_sent(server, tmp_path):
    journal = tmp_path / "journal.sqlite"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def act(w):
        if w.states[w.data][-1:] == ["LIVE"] and not w.orders:
            resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{journal}-wal").stat().st_size, hard))
        buy_once(w)

    store = store_of(server, journal=journal)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    try:
        watcher = run(store, feed, broker=store.getbroker(), act=act, until=over)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert watcher.orders[-1].getstatusname() == "Rejected"
    assert "no order is sent without it" in watcher.orders[-1].info.reason
    assert len([text for text in watcher.messages if "cannot be written" in text]) == 1
    assert not at_exchange(server)


def test_a_damaged_journal_ends_the_run_before_it_trades(server, tmp_path):
    journal = tmp_path / "journal.sqlite"
    journal.write_bytes(b"no database" * 1_000)
    with pytest.raises(ConfigError, match="no order is sent without it"):
        trade(server, journal=journal)
    assert not at_exchange(server)


def test_two_runs_share_no_client_id(server, tmp_path):
    journal = tmp_path / "journal.sqlite"
    trade(server, journal=journal)
    trade(server, journal=journal)
    kept = rows(journal, "SELECT number, run, ref FROM intents ORDER BY number")
    assert [(number, run_number) for number, run_number, _ in kept] == [(1, 1), (2, 2)]
    assert len(at_exchange(server)) == 2


def test_what_hangs_together_and_what_waits_here_is_kept(server, tmp_path):
    journal = tmp_path / "journal.sqlite"
    made = []

    def act(w):
        if w.states[w.data][-1:] != ["LIVE"] or made:
            return
        price = w.data.close[0]
        made.extend(w.buy_bracket(size=0.01, price=price * 0.9, stopprice=price * 0.8, limitprice=price))
        made.append(w.buy(size=0.01, exectype=bt.Order.StopTrail, trailpercent=0.2, postOnly=True))
        made.append(w.buy(size=0.01, exectype=bt.Order.Limit, price=price * 0.9))
        made.append(w.buy(size=0.01, exectype=bt.Order.Limit, price=price * 0.8, oco=made[4]))
        w.cancel(made[3])

    def settled(w):
        return len(made) == 6 and all(order.status == bt.Order.Accepted for order in (made[0], made[4], made[5]))

    store = store_of(server, journal=journal)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    run(store, feed, broker=store.getbroker(check_interval=0.5), act=act, until=settled)
    refs = [order.ref for order in made]
    assert rows(journal, "SELECT ref, bond, role, status FROM links ORDER BY ref") == [
        (refs[0], refs[0], "parent", "open"),
        (refs[1], refs[0], "stop", "open"),
        (refs[2], refs[0], "limit", "open"),
        (refs[3], refs[3], "armed", "Canceled"),
        (refs[4], refs[4], "oco", "open"),
        (refs[5], refs[4], "oco", "open"),
    ]
    ((asked,),) = rows(journal, f"SELECT asked FROM links WHERE ref = {refs[3]}")
    asked = json.loads(asked)
    assert (asked["exectype"], asked["trailpercent"], asked["params"]) == ("StopTrail", 0.2, {"postOnly": True})
    # Only what is at the exchange was to be sent.
    assert len(rows(journal, "SELECT * FROM intents")) == len(at_exchange(server)) == 3
