"""What a store leaves behind when it stops: nothing."""

import asyncio
import gc
import logging
import os
import pickle
import subprocess
import sys
import threading
import time

import backtrader as bt
import ccxt
import psutil
import pytest

from ccxtbt import CCXTStore
from ccxtbt.errors import ConfigError, TryLaterError
from ccxtbt.exchange.clock import Clock
from ccxtbt.sim.account import Account
from ccxtbt.sim.server import API_KEY, SECRET
from simulated import BTC, ETH
from spawned import interrupted
from waiting import wait_until
from watching import Watcher, ago, assert_equals_exchange, run, store_of

SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}
MINUTES = {"timeframe": bt.TimeFrame.Minutes, "compression": 1}
END_S = 5.0


def io_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ccxtbt-io")]


def sockets():
    return {(c.laddr, c.raddr) for c in psutil.Process().net_connections() if c.status != "CLOSE_WAIT"}


def cerebro_of(*feeds, until=lambda w: False, broker=None, **params):
    cerebro = bt.Cerebro(stdstats=False)
    for feed in feeds:
        cerebro.adddata(feed)
    if broker is not None:
        cerebro.setbroker(broker)
    cerebro.addstrategy(Watcher, until=until, **params)
    return cerebro


def test_nothing_starts_before_a_run_or_the_first_use(simulator):
    server = simulator((BTC,), history_ms=600_000, speed=10)
    before = {thread.name for thread in threading.enumerate()}, sockets()
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    cerebro = cerebro_of(feed, broker=store.getbroker(), until=lambda w: True)
    assert ({thread.name for thread in threading.enumerate()}, sockets()) == before
    assert not server.requests
    # The first use of a store without a run needs no start.
    assert store.fetch_ohlcv("BTC/USDT", "1m", limit=2)
    assert not io_threads()
    cerebro.run()
    assert len(server.requests) > 1


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
            # Long enough for several attempts to come back, of which none is told.
            threading.Timer(3, watcher.env.runstop).start()

    run(store, feed, broker=store.getbroker(), act=act, until=lambda w: False)
    assert not [record.message for record in caplog.records if record.name == "asyncio"]
    assert feed._laststatus == feed.CONNBROKEN


def test_a_store_can_be_started_again(simulator):
    server = simulator((BTC,), history_ms=600_000, speed=10)
    store = store_of(server)
    for _ in range(2):
        feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
        watcher = run(store, feed, until=lambda w, feed=feed: "LIVE" in w.states[feed])
        assert watcher.states[feed] == ["DELAYED", "LIVE"]
        assert not store.connection.running


def test_an_exception_in_a_strategy_comes_out_and_ends_the_store(simulator):
    server = simulator((BTC,), history_ms=600_000, speed=10)
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)

    raised_s = []

    def act(watcher):
        raised_s.append(time.monotonic())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cerebro_of(feed, act=act, broker=store.getbroker()).run()
    assert time.monotonic() - raised_s[0] < END_S
    assert not store.connection.running
    assert not io_threads()
    again = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    run(store, again, until=lambda w: again.origins.get("ws", 0) >= 2)


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
    kinds = [
        {"exchange": "binance", "currency": "BTC"},
        {"exchange": "binance", "currency": "USDT", "sandbox": True},
        {"exchange": "binanceus", "currency": "USDT"},
    ]
    config = dict(store.connection.account.config)
    others = [type(store)(**kind, config=config, endpoint=server.url, clock=store.connection.clock) for kind in kinds]
    assert len({id(each) for each in (store, other, *others)}) == 5
    again = [type(store)(**kind, config=config, endpoint=server.url, clock=store.connection.clock) for kind in kinds]
    assert all(one is two for one, two in zip(others, again, strict=True))
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
    assert b"sim-" not in pickle.dumps(store)


def test_a_wrong_key_is_said_before_the_run(simulator):
    server = simulator((BTC,), history_ms=600_000)
    store = store_of(server, config={"apiKey": "not-a-key"})
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    with pytest.raises(ConfigError, match="apiKey and secret"):
        run(store, feed, broker=store.getbroker(), until=lambda w: True)


def test_runstop_from_another_thread_ends_a_run_soon(simulator):
    server = simulator((BTC,), history_ms=600_000)
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **MINUTES)
    cerebro = cerebro_of(feed, broker=store.getbroker())
    runner = threading.Thread(target=cerebro.run)
    runner.start()
    wait_until(lambda: getattr(feed, "_laststatus", None) == feed.LIVE)
    began_s = time.monotonic()
    cerebro.runstop()
    runner.join(END_S)
    assert not runner.is_alive(), f"still running after {time.monotonic() - began_s:.1f} s"
    assert not io_threads()


def test_runstop_ends_a_run_that_still_loads_its_history(simulator):
    server = simulator((BTC,), history_ms=600_000)
    server.faults.delay_answer(60, path="/api/v3/klines", times=0)
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=5), **MINUTES)
    cerebro = cerebro_of(feed)
    runner = threading.Thread(target=cerebro.run)
    runner.start()
    wait_until(lambda: server.faults.log)
    cerebro.runstop()
    runner.join(END_S)
    assert not runner.is_alive()
    assert not io_threads()


def test_a_stop_ends_the_pauses_of_whoever_asks_again(simulator):
    server = simulator((BTC,), history_ms=600_000)
    server.faults.server_error(503, path="/api/v3/klines", times=0)
    store = store_of(server, retries=50)
    store.start()
    errors = []

    def ask_here():
        try:
            store.fetch_ohlcv("BTC/USDT", "1m")
        except ccxt.BaseError as error:
            errors.append(error)

    def ask_there():
        try:
            store.connection.call(store.connection.fetch_page, "BTC/USDT", "1m", None, None, {})
        except BaseException as error:  # noqa: BLE001  # a cancelled future, which is no Exception
            errors.append(error)

    asking = [threading.Thread(target=ask, daemon=True) for ask in (ask_here, ask_there)]
    for thread in asking:
        thread.start()
    # Pauses are seconds long by then.
    wait_until(lambda: len([record for record in server.requests if record.path == "/api/v3/klines"]) >= 8)
    began_s = time.monotonic()
    store.stop()
    for thread in asking:
        thread.join(END_S)
    assert time.monotonic() - began_s < END_S
    assert not any(thread.is_alive() for thread in asking)
    assert len(errors) == 2
    # What is asked after the stop is asked again as before.
    server.faults.clear()
    server.faults.server_error(503, path="/api/v3/klines", times=1)
    assert store.fetch_ohlcv("BTC/USDT", "1m")


SCRIPT = """
import sys, backtrader as bt
from ccxtbt import CCXTStore
from ccxtbt.exchange.clock import Clock

store = CCXTStore("binance", currency="USDT", config={{"apiKey": {key!r}, "secret": {secret!r}}},
                  endpoint={url!r}, clock=Clock(rate={speed}))
class Strategy(bt.Strategy):
    def notify_data(self, data, status, *args, **kwargs):
        print(data._getstatusname(status), flush=True)
    def next(self):
        pass
cerebro = bt.Cerebro(stdstats=False)
cerebro.adddata(store.getdata(dataname="BTC/USDT", timeframe=bt.TimeFrame.Seconds))
cerebro.setbroker(store.getbroker())
cerebro.addstrategy(Strategy)
{end}
"""


def script(server, end):
    return SCRIPT.format(key=API_KEY, secret=SECRET, url=server.url, speed=server.speed, end=end)


def test_an_interrupt_ends_a_script_soon_and_cleanly(simulator, tmp_path):
    server = simulator((BTC,), history_ms=600_000, speed=10)
    path = tmp_path / "live.py"
    path.write_text(script(server, "cerebro.run()"))
    said = interrupted(path, server=server, cwd=tmp_path, until=lambda lines: "LIVE" in lines, limit_s=30)
    assert "LIVE" in said.lines, said
    assert said.code not in {0, None, -9}
    assert said.end_s < END_S
    assert "KeyboardInterrupt" in said.errors
    for word in ("nclosed", "never", "release all resources", "daemon", "Fatal"):
        assert word not in said.errors, said.errors


@pytest.mark.parametrize("end", ["store.start(); store.exchange.fetch_time()", "store.start(); 1 / 0"])
def test_a_script_that_forgets_to_stop_ends_cleanly(simulator, end):
    server = simulator((BTC,), history_ms=600_000, speed=10)
    # Registered first, and so called last: how long the interpreter's end took after the script's last line.
    timed = "import atexit, time; atexit.register(lambda: print(time.monotonic() - T))\n"
    lines = timed + script(server, f"T = time.monotonic(); {end}")
    said = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning", "-c", lines],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    for word in ("nclosed", "never", "release all resources", "Fatal"):
        assert word not in said.stderr, said.stderr
    assert float(said.stdout) < END_S
    assert ("ZeroDivisionError" in said.stderr) is ("1 / 0" in end), said.stderr
    assert bool(said.returncode) is ("1 / 0" in end)


def in_a_fork(function):
    """Run a function in a forked child, and return what it said."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        answer = "nothing"
        try:
            answer = function()
        except BaseException as error:  # noqa: BLE001  # whatever it is, the parent must hear it
            answer = f"{type(error).__name__}: {error}"
        finally:
            os.write(writing, str(answer).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_has_a_fresh_store_and_leaves_its_parents_alone(simulator):
    server = simulator((BTC,), history_ms=600_000, speed=10)
    store = store_of(server)
    store.start()
    limiter = store.connection.limiter

    def there():
        assert not store.connection.running
        assert store.connection.limiter is not limiter
        with pytest.raises(ConfigError, match="not started"):
            store.connection.call(store.connection.sync_clock)
        store.start()
        told = store.connection.call(store.connection.rest.fetch_time)
        store.stop()
        return "fresh" if told else told

    assert in_a_fork(there) == "fresh"
    assert store.connection.call(store.connection.rest.fetch_time)
    assert store.connection.limiter is limiter
    store.stop()


class Crossing(bt.Strategy):
    params = (("period", 5),)

    def __init__(self):
        self.mean = bt.indicators.SMA(period=self.p.period)

    def next(self):
        if not self.position and self.data.close[0] > self.mean[0]:
            self.buy(size=0.01)
        elif self.position and self.data.close[0] < self.mean[0]:
            self.close()


def test_an_optimisation_in_processes_carries_no_keys_and_charges_the_markets_fees(simulator):
    server = simulator((BTC,), history_ms=7_200_000)
    results = {}
    for cpus in (1, 2):
        store = store_of(server)
        feed = store.getdata(
            dataname="BTC/USDT",
            fromdate=ago(server, minutes=100),
            todate=ago(server, minutes=10),
            historical=True,
            **MINUTES,
        )
        cerebro = bt.Cerebro(maxcpus=cpus, stdstats=False)
        cerebro.adddata(feed)
        cerebro.setbroker(store.getbroker())
        cerebro.broker.setcash(10_000)
        cerebro.optstrategy(Crossing, period=[5, 9, 14])
        cerebro.addanalyzer(bt.analyzers.TimeReturn, timeframe=bt.TimeFrame.NoTimeFrame, _name="gain")
        asked = len(server.requests)
        results[cpus] = [
            (run.params.period, tuple(run.analyzers.gain.get_analysis().values())) for (run,) in cerebro.run()
        ]
        for thing in (cerebro, feed, cerebro.broker, store):
            assert SECRET.encode() not in pickle.dumps(thing)
            assert API_KEY.encode() not in pickle.dumps(thing)
        pages = [record for record in list(server.requests)[asked:] if record.path == "/api/v3/klines"]
        assert len(pages) == 1 if cpus == 2 else pages
        assert not store.connection.running
        assert not io_threads()
    assert results[2] == results[1]
    assert len({gain for _, gain in results[2]}) > 1
    stand_in = pickle.loads(pickle.dumps(store))
    stand_in.start()
    assert not stand_in.connection.running
    with pytest.raises(ConfigError, match="without its keys"):
        _ = stand_in.exchange


def cycles(simulator, count):
    server = simulator((BTC,), history_ms=600_000, speed=20)
    seen = []
    for _ in range(count + 1):
        store = store_of(server)
        feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
        tasks, loops = [], set()

        def act(watcher, store=store, tasks=tasks, loops=loops):
            tasks.append(len(store.connection._tasks))
            loops.add(store.connection._loop)

        watcher = cerebro_of(
            feed,
            broker=store.getbroker(),
            until=lambda w, feed=feed, tasks=tasks: tasks and feed.origins.get("ws", 0) >= 2,
            act=act,
        ).run()[0]
        assert not watcher.timed_out
        assert max(tasks) > 2
        # Not those that the connection keeps alone: what ccxt has begun, too.
        assert len(loops) == 1
        assert not [task for loop in loops for task in asyncio.all_tasks(loop)]
        del watcher, store, feed, act
        gc.collect()
        seen.append(({thread.name for thread in threading.enumerate()}, len(sockets())))
    # The first one finds the simulator and the libraries cold.
    assert all(state == seen[1] for state in seen[2:]), seen
    assert not io_threads()


def test_start_and_stop_ten_times_leaves_threads_and_sockets_as_they_were(simulator, caplog):
    cycles(simulator, 10)
    assert not [record for record in caplog.records if record.name == "asyncio"]


@pytest.mark.soak
def test_start_and_stop_fifty_times_leaves_threads_and_sockets_as_they_were(simulator, caplog):
    cycles(simulator, 50)
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_two_accounts_and_two_exchanges_in_one_cerebro_share_one_inbox(simulator):
    server = simulator((BTC, ETH), history_ms=600_000, speed=10)
    server.exchange.add_account(Account("second", "other-secret", {"USDT": 1_000}))
    clock = Clock(rate=server.speed)
    one = store_of(server)
    two = CCXTStore(
        "binance",
        currency="USDT",
        config={"apiKey": "second", "secret": "other-secret"},
        endpoint=server.url,
        clock=clock,
    )
    three = CCXTStore("binanceus", currency="USDT", endpoint=server.url, clock=clock)
    assert len({id(store) for store in (one, two, three)}) == 3
    feeds = [
        store.getdata(dataname=symbol, name=name, fromdate=ago(server, minutes=1), **SECONDS)
        for store, symbol, name in ((one, "BTC/USDT", "a"), (two, "ETH/USDT", "b"), (three, "BTC/USDT", "c"))
    ]
    told = []

    def act(watcher):
        if not told:
            two.put_notification("from the second")
            told.append(True)

    cerebro = cerebro_of(
        *feeds, act=act, until=lambda w: all(feed.origins.get("ws", 0) >= 5 for feed in feeds) and w.messages
    )
    (watcher,) = cerebro.run()
    assert not watcher.timed_out
    assert one.inbox is two.inbox is three.inbox
    assert "from the second" in watcher.messages
    for feed in feeds:
        assert_equals_exchange(server, watcher, feed, "1s", feed._utc_ms(feed.p.fromdate))
    assert one.connection.limiter is two.connection.limiter
    assert one.connection.orders is not two.connection.orders
    assert three.connection.limiter is not one.connection.limiter
    assert not io_threads()


def test_a_failed_private_request_is_told_without_its_signature(simulator):
    server = simulator((BTC,))
    server.faults.html(502, path="/api/v3/account", times=0)
    store = store_of(server, retries=0)
    store.start()
    try:
        with pytest.raises(ccxt.ExchangeNotAvailable) as told:
            store.exchange.fetch_balance()
        assert "/api/v3/account" in str(told.value)
        assert "signature" not in str(told.value)
        with pytest.raises(TryLaterError) as told:
            run(store, store.getdata(dataname="BTC/USDT", **SECONDS), broker=store.getbroker(), until=lambda w: True)
        assert "signature" not in str(told.value) + str(told.value.__cause__)
    finally:
        store.stop()
