"""What a store leaves behind when it stops: nothing."""

import logging
import threading

import backtrader as bt
import psutil
import pytest

from ccxtbt.errors import ConfigError
from simulated import BTC
from watching import ago, run, store_of

SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}


def sockets():
    return {(c.laddr, c.raddr) for c in psutil.Process().net_connections() if c.status != "CLOSE_WAIT"}


def live_run(server):
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    run(store, feed, broker=store.getbroker(), until=lambda w: feed.origins.get("ws", 0) >= 2)
    return store


def test_a_run_leaves_no_thread_socket_or_complaint(simulator, caplog):
    server = simulator((BTC,), history_ms=600_000, speed=10)
    with caplog.at_level(logging.WARNING):
        live_run(server)
        before = {thread.name for thread in threading.enumerate()}, len(sockets())
        for _ in range(3):
            live_run(server)
        assert ({thread.name for thread in threading.enumerate()}, len(sockets())) == before
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_an_exchange_that_goes_away_is_waited_for_without_complaints_of_asyncio(simulator, caplog):
    server = simulator((BTC,), history_ms=600_000, speed=10)
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    gone = []

    def act(watcher):
        if watcher.states[feed][-1] == "LIVE" and not gone:
            gone.append(server.stop())

    run(store, feed, broker=store.getbroker(), act=act, until=lambda w: len(w.messages) >= 4)
    assert not [record.message for record in caplog.records if record.name == "asyncio"]
    assert feed._laststatus == feed.CONNBROKEN


def test_a_store_can_be_started_again(simulator):
    server = simulator((BTC,), history_ms=600_000, speed=10)
    store = store_of(server)
    for _ in range(2):
        feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
        watcher = run(store, feed, until=lambda w, feed=feed: feed.origins.get("ws", 0) >= 2)
        assert watcher.states[feed] == ["DELAYED", "LIVE"]
        assert not store.connection.running


def test_an_exception_in_a_strategy_comes_out_and_the_store_can_be_stopped(simulator):
    server = simulator((BTC,), history_ms=600_000, speed=10)
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)

    def act(watcher):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(store, feed, until=lambda w: False, act=act)
    assert not store.connection.running


def test_one_store_for_one_account_and_another_for_another(simulator):
    server = simulator((BTC,))
    store = store_of(server)
    same = type(store)(
        "binance",
        currency="USDT",
        config=dict(store.connection.account.config),
        endpoint=server.url,
        clock=store.connection.clock,
    )
    other = type(store)("binance", currency="USDT", config={"apiKey": "x", "secret": "y"}, endpoint=server.url)
    assert same is store
    assert other is not store
    type(store)._singleton = None
    fresh = type(store)(
        "binance",
        currency="USDT",
        config=dict(store.connection.account.config),
        endpoint=server.url,
        clock=store.connection.clock,
    )
    assert fresh is not store


def test_keys_are_in_no_text_of_a_store(simulator):
    store = store_of(simulator((BTC,)))
    text = repr(store) + repr(store.connection.account) + str(vars(store.connection.account).keys())
    assert "sim-secret" not in text
    assert "sim-key" not in text
    with pytest.raises(TypeError, match="holds keys"):
        store.__reduce_ex__(2)


def test_a_wrong_key_is_said_before_the_run(simulator):
    server = simulator((BTC,), history_ms=600_000)
    store = store_of(server, config={"apiKey": "not-a-key"})
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    with pytest.raises(ConfigError, match="apiKey and secret"):
        run(store, feed, broker=store.getbroker(), until=lambda w: True)
