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
from waiting import wait_until
from watching import Watcher, ago, run, store_of

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
            store.state["orders"] = store.state.get("orders", 0) + 1
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
                wait_until(lambda: when() or process.poll() is not None, LIMIT_S)
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
    # What the strategy kept before it ordered is there too.
    assert rows(journal, "SELECT value FROM state WHERE name = 'orders'") == [("1",)]
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


def test_with_a_full_disk_cancels_go_out_and_orders_are_sent_again_once_there_is_room(server, tmp_path):
    journal, made = tmp_path / "journal.sqlite", []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def ends(w):
        return [[told.getstatusname() for told in w.orders if told.ref == order.ref][-1:] for order in made]

    def act(w):
        if w.states[w.data][-1:] != ["LIVE"]:
            return
        limit = {"size": 0.01, "exectype": bt.Order.Limit, "price": w.data.close[0] * 0.9}
        halted = w.broker.store.halted
        if not made:
            made.append(w.buy(**limit))
        elif len(made) == 1 and ends(w) == [["Accepted"]]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{journal}-wal").stat().st_size, hard))
            made.append(w.buy(**limit))
        elif len(made) == 2 and halted:
            # This one is refused at once, and needs no trial of the disk.
            made.append(w.buy(**limit))
            w.cancel(made[0])
        elif len(made) == 3 and ends(w) == [["Canceled"], ["Rejected"], ["Rejected"]]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            if not halted:
                made.append(w.buy(**limit))

    store = store_of(server, journal=journal)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    broker = store.getbroker(check_interval=0.5)
    try:
        watcher = run(store, feed, broker=broker, act=act, until=lambda w: made and ends(w)[3:] == [["Accepted"]])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "no order is sent without it" in made[1].info.reason
    assert "The store is halted" in made[2].info.reason
    assert "no order is sent without it" in made[2].info.reason
    assert len([text for text in watcher.messages if "open ones can be cancelled" in text]) == 1
    assert len([text for text in watcher.messages if "written again" in text]) == 1
    assert at_exchange(server) == {made[0].info.client_id, made[3].info.client_id}
    # What was told while the disk was full is there, once it had room.
    last = dict(rows(journal, "SELECT client_id, status FROM states ORDER BY id"))
    assert last[made[0].info.client_id] == "Canceled"


def test_a_second_process_on_the_account_is_refused_at_once(server, tmp_path):
    refused = []

    def when():
        if at_exchange(server) and not refused:
            began_s = time.monotonic()
            with pytest.raises(ConfigError) as caught:
                trade(server, journal=tmp_path / "journal.sqlite")
            refused.append((str(caught.value), time.monotonic() - began_s))
        return bool(refused)

    killed(server, tmp_path, "-", when=when)
    ((said, took_s),) = refused
    assert "is in use by another run" in said
    assert took_s < LIMIT_S / 4
    # The lock has died with the process that was killed.
    assert trade(server, journal=tmp_path / "journal.sqlite").orders[-1].getstatusname() == "Completed"


def test_a_second_store_on_the_account_in_one_process_is_refused(server, tmp_path):
    journal, refused = tmp_path / "journal.sqlite", []

    def act(w):
        if w.states[w.data][-1:] == ["LIVE"] and not refused:
            with pytest.raises(ConfigError, match="in use by another run, of this process or another"):
                trade(server, journal=journal, currency="BTC")
            refused.append(True)

    store = store_of(server, journal=journal)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    run(store, feed, broker=store.getbroker(), act=act, until=lambda w: refused)
    assert not at_exchange(server)


def test_no_secret_is_in_any_file_nor_in_what_is_told(server, tmp_path, caplog):
    marks = {name: f"marked-{name}-0123456789" for name in ("password", "uid", "privateKey", "token", "twofa")}
    # The answer to the order is lost, and the error tells the address with all that it carried.
    server.faults.drop_answer(path="/api/v3/order", method="POST")
    server.faults.server_error(503, taken=False, path="/api/v3/order", method="GET", times=2)

    def act(w):
        if w.states[w.data][-1:] == ["LIVE"] and not w.orders:
            w.buy(size=0.01, params={"tradePassword": "marked-param-1", "nested": {"passphrase": "marked-param-2"}})

    store = store_of(server, journal=tmp_path / "journal.sqlite", config=marks)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    with caplog.at_level("INFO", logger="ccxtbt"):
        watcher = run(store, feed, broker=store.getbroker(check_interval=0.5), act=act, until=over)
    said = "\n".join((caplog.text, *watcher.messages, repr(store), repr(store.connection.account)))
    for path in tmp_path.glob("journal.sqlite*"):
        said += path.read_bytes().decode("latin-1")
    assert watcher.orders[0].info.client_id in said
    for secret in (API_KEY, SECRET, *marks.values(), "marked-param", "signature="):
        assert secret not in said, secret
    # The account is told by a digest of them.
    ((account,),) = rows(tmp_path / "journal.sqlite", "SELECT value FROM meta WHERE key = 'account'")
    assert account == f"binance-{store.connection.fingerprint}"


def test_what_a_strategy_keeps_is_there_for_the_next_run_and_in_no_backtest(server, tmp_path):
    class Keeper(Watcher):
        def __init__(self):
            super().__init__()
            state = self.broker.store.state
            self.before = dict(state)
            state["runs"] = state.get("runs", 0) + 1

    def keep(journal, **options):
        store = store_of(server, journal=journal)
        feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS, **options)
        watcher = run(store, feed, broker=store.getbroker(), strategy=Keeper, until=lambda w: True)
        assert store.state["runs"] == watcher.before.get("runs", 0) + 1
        with pytest.raises(ConfigError, match="no run is on"):
            store.state["runs"] = 7
        return watcher.before

    journal = tmp_path / "journal.sqlite"
    assert [keep(journal), keep(journal)] == [{}, {"runs": 1}]
    assert keep(journal, historical=True) == {}
    assert rows(journal, "SELECT name, value FROM state") == [("runs", "2")]


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
        made.append(w.buy(size=0.01, exectype=bt.Order.StopTrail, trailamount=9_000.0, postOnly=True))
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
    assert (asked["exectype"], asked["trailamount"], asked["params"]) == ("StopTrail", 9_000.0, {"postOnly": True})
    # Only what is at the exchange was to be sent.
    assert len(rows(journal, "SELECT * FROM intents")) == len(at_exchange(server)) == 3
