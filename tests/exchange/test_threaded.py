"""Bars, orders and balances in queues, and the other names of the specification, without a cerebro."""

import asyncio
import datetime as dt
import logging
import queue
import threading
import time
from decimal import Decimal

import backtrader as bt
import pytest

import ccxtbt
from ccxtbt import CCXTFeed, RateLimiter, ThreadedBroker, ThreadedDataFeed, WebSocketFeed, retry_with_backoff
from ccxtbt.errors import ConfigError, NotOfferedError
from ccxtbt.exchange.clock import Clock
from ccxtbt.mailbox import Mailbox
from ccxtbt.market.flow import State
from ccxtbt.market.handover import Origin
from ccxtbt.sim.server import API_KEY, SECRET
from ccxtbt.trading.reports import FillFact, OrderFact
from simulated import BTC, ETH
from waiting import wait_until
from watching import ago, assert_equals_exchange, run, store_of, truth

END_S = 5.0


def io_threads():
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("ccxtbt-") and name != "ccxtbt-sim"]


@pytest.fixture
def server(simulator):
    return simulator((BTC, ETH), history_ms=600_000, speed=10)


@pytest.fixture
def opened(caplog):
    """Keep what a test makes, and stop it after it: nothing may be left."""
    made = []
    with caplog.at_level(logging.WARNING):
        yield lambda guest: made.append(guest) or guest
    for guest in made:
        guest.stop()
    assert not io_threads()
    assert not [record.message for record in caplog.records if record.name == "asyncio"]


class Named:
    """What `truth` asks of a feed."""

    def __init__(self, symbol):
        self.p = self
        self.dataname = symbol


def take(box, count, limit_s=20.0):
    return [box.get(timeout=limit_s) for _ in range(count)]


def assert_own(server, symbol, timeframe, bars, ms):
    assert [(bar.ts_ms + ms, *bar[1:6]) for bar in bars] == truth(
        server, Named(symbol), timeframe, bars[0].ts_ms, bars[-1].ts_ms
    )


def test_a_data_feed_gives_history_and_live_bars_each_once(server, opened):
    feed = opened(ThreadedDataFeed(store_of(server), "BTC/USDT", "1s", fromdate=ago(server, minutes=1)))
    assert not feed.running
    feed.start_data_thread()
    feed.start_data_thread()
    assert feed.running
    bars = take(feed.data_queue, 60)
    assert bars[0].origin is Origin.REST
    wait_until(lambda: feed.state is State.LIVE)
    server.abort_connections()
    bars += take(feed.data_queue, 100)
    assert Origin.WS in {bar.origin for bar in bars}
    assert_own(server, "BTC/USDT", "1s", bars, 1_000)
    began_s = time.monotonic()
    feed.stop()
    assert time.monotonic() - began_s < END_S
    assert list(iter(feed.data_queue.get, None)) is not None
    assert feed.data_queue.get() is None
    assert feed.data_queue.empty()
    assert not server.connections
    feed.stop()
    # And again, from the beginning.
    feed.start_data_thread()
    (first,) = take(feed.data_queue, 1)
    assert first.ts_ms == bars[0].ts_ms


def test_a_data_feed_ends_at_its_last_date_and_another_goes_on(server, opened):
    store = store_of(server)
    today = dt.datetime.fromtimestamp(server.clock.now_ms() // 1000, dt.UTC)
    ending = opened(ThreadedDataFeed(store, "BTC/USDT", "1s", todate=today + dt.timedelta(seconds=20)))
    going = opened(ThreadedDataFeed(store, "BTC/USDT", "1s"))
    ending.start_data_thread()
    going.start_data_thread()
    assert len(io_threads()) == 1
    bars = list(iter(ending.data_queue.get, None))
    assert bars[-1].ts_ms == today.timestamp() * 1000 + 20_000
    assert ending.state is State.DISCONNECTED
    assert ending.error is None
    ending.stop()
    assert_own(server, "BTC/USDT", "1s", take(going.data_queue, 30), 1_000)
    assert store.connection.running


def test_a_data_feed_says_what_is_wrong(server, opened, simulator):
    with pytest.raises(ConfigError, match="symbol='BTC-USDT' is not a market"):
        opened(ThreadedDataFeed(store_of(server), "BTC-USDT")).start_data_thread()
    with pytest.raises(NotOfferedError):
        opened(ThreadedDataFeed(store_of(server), "BTC/USDT", "7m")).start_data_thread()
    with pytest.raises(ConfigError, match="swap them"):
        ThreadedDataFeed(store_of(server), "BTC/USDT", fromdate=ago(server), todate=ago(server, days=1))
    assert not io_threads()


def test_a_history_that_fails_is_asked_for_again_and_one_that_cannot_be_had_is_told(server, opened):
    store = store_of(server, retries=0)
    rule = server.faults.server_error(503, path="/api/v3/klines", times=2)
    feed = opened(ThreadedDataFeed(store, "BTC/USDT", "1s", fromdate=ago(server, minutes=1)))
    feed.start_data_thread()
    assert_own(server, "BTC/USDT", "1s", take(feed.data_queue, 30), 1_000)
    assert rule
    feed.stop()
    server.faults.answer(400, b'{"code":-1121,"msg":"Invalid symbol."}', taken=False, path="/api/v3/klines", times=0)
    feed = opened(ThreadedDataFeed(store, "BTC/USDT", "1s", fromdate=ago(server, minutes=1)))
    feed.start_data_thread()
    assert feed.data_queue.get(timeout=10) is None
    assert isinstance(feed.error, ConfigError)
    assert "Loading the bars of BTC/USDT failed" in str(feed.error)


def test_bars_that_nobody_reads_are_bounded_counted_and_logged(server, opened, caplog):
    feed = opened(ThreadedDataFeed(store_of(server), "BTC/USDT", "1s", fromdate=ago(server, minutes=2), buffer=5))
    feed.start_data_thread()
    wait_until(lambda: feed.data_queue.dropped > 3)
    assert [record for record in caplog.records if "bars of BTC/USDT: nobody reads" in record.message]
    # A whole history may wait, whatever the size.
    assert feed.data_queue.qsize() >= 120
    bars = take(feed.data_queue, 100)
    assert_own(server, "BTC/USDT", "1s", bars, 1_000)


def facts(broker, until, limit_s=20.0):
    """Take facts until all of them together are what is wanted."""
    end_s, seen = time.monotonic() + limit_s, []
    while not until(seen):
        try:
            seen.append(broker.order_queue.get(timeout=max(0.0, end_s - time.monotonic())))
        except queue.Empty:
            raise AssertionError(f"what was waited for did not come: {seen}") from None
    return seen


def fills(seen):
    return [fact for fact in seen if isinstance(fact, FillFact)]


def filled(seen, order_id):
    return sum(fact.amount for fact in fills(seen) if fact.order_id == order_id)


def status(seen, order_id):
    told = [fact.status for fact in seen if isinstance(fact, OrderFact) and fact.order_id == order_id]
    return told[-1] if told else None


def test_a_broker_tells_orders_and_balances_as_they_change(server, opened):
    store = store_of(server)
    resting = store.create_order("BTC/USDT", "limit", "buy", 0.01, 30_000)["id"]
    broker = opened(ThreadedBroker(store))
    broker.start_balance_thread()
    broker.start_order_thread()
    broker.start_order_thread()
    assert len(io_threads()) == 1
    first = broker.balance_queue.get(timeout=10)
    assert first["total"]["BTC"] == 1
    assert status(facts(broker, lambda seen: status(seen, resting)), resting) == "open"
    bought = store.create_order("BTC/USDT", "market", "buy", 0.01)["id"]
    facts(broker, lambda seen: status(seen, bought) == "closed" and filled(seen, bought) == Decimal("0.01"))
    store.cancel_order(resting, "BTC/USDT")
    facts(broker, lambda seen: status(seen, resting) == "canceled")
    end_s = time.monotonic() + 10
    # Less the fee.
    while not 1.009 < (last := broker.balance_queue.get(timeout=10))["total"].get("BTC", 0) < 1.01:
        assert time.monotonic() < end_s, last
    began_s = time.monotonic()
    broker.stop()
    assert time.monotonic() - began_s < END_S
    assert broker.order_queue.get() is None
    assert not server.connections
    broker.stop()
    broker.start_order_thread()
    again = store.create_order("BTC/USDT", "market", "sell", 0.01)["id"]
    facts(broker, lambda seen: status(seen, again) == "closed")


def test_what_happens_while_the_account_stream_is_broken_is_looked_up_and_told_once(server, opened):
    store = store_of(server)
    broker = opened(ThreadedBroker(store))
    broker.start_order_thread()
    order_id = store.create_order("BTC/USDT", "limit", "buy", 0.01, 30_000)["id"]
    facts(broker, lambda seen: status(seen, order_id) == "open")
    # The stream is away while one order is cancelled and another is made and filled.
    server.faults.refuse_connect(socket="user", times=2)
    server.abort_connections("user")
    store.cancel_order(order_id, "BTC/USDT")
    bought = store.create_order("BTC/USDT", "market", "buy", 0.02)["id"]
    seen = facts(broker, lambda seen: status(seen, order_id) == "canceled" and filled(seen, bought) == Decimal("0.02"))
    assert {fill.order_id for fill in fills(seen)} == {bought}
    sold = store.create_order("BTC/USDT", "market", "sell", 0.02)["id"]
    seen += facts(broker, lambda more: status(more, sold) == "closed" and filled(more, sold) == Decimal("0.02"))
    facts_left = [broker.order_queue.get() for _ in range(broker.order_queue.qsize())]
    seen += facts_left
    trades = [fill.trade_id for fill in fills(seen)]
    assert len(trades) == len(set(trades))
    assert filled(seen, bought) == filled(seen, sold) == Decimal("0.02")


def test_a_broker_without_streams_looks_orders_up(server, opened):
    store = opened(store_of(server))
    broker = opened(ThreadedBroker(store, poll_s=0.05))
    store.start()
    for name in ("watchOrders", "watchMyTrades", "watchBalance"):
        store.connection.rest.has[name] = False
    broker.start_order_thread()
    order_id = store.create_order("BTC/USDT", "limit", "buy", 0.01, 30_000)["id"]
    facts(broker, lambda seen: status(seen, order_id) == "open")
    store.cancel_order(order_id, "BTC/USDT")
    facts(broker, lambda seen: status(seen, order_id) == "canceled")
    sold = store.create_order("BTC/USDT", "market", "sell", 0.01)["id"]
    seen = facts(broker, fills)
    assert fills(seen)[0].order_id == sold
    assert not server.connections


def test_a_balance_that_cannot_be_had_now_is_asked_for_again(server, opened, monkeypatch, caplog):
    monkeypatch.setattr("ccxtbt.compat.threadedbroker.BALANCE_S", 0.05)
    store = opened(store_of(server, retries=0))
    store.start()
    store.connection.rest.has["watchBalance"] = False
    broker = opened(ThreadedBroker(store))
    broker.start_balance_thread()
    broker.start_balance_thread()
    assert broker.balance_queue.get(timeout=10)["total"]["BTC"] == 1
    failed = server.faults.server_error(503, path="/api/v3/account", times=2)
    wait_until(lambda: failed.seen >= 2)
    store.create_order("BTC/USDT", "market", "buy", 0.01)
    assert broker.balance_queue.get(timeout=10)["total"]["BTC"] > 1
    assert "The balance could not be asked for" in caplog.text


def test_a_broker_needs_keys_that_the_exchange_takes(server, opened):
    with pytest.raises(ConfigError, match="apiKey and secret"):
        opened(ThreadedBroker("binance", endpoint=server.url, clock=Clock(rate=10))).start_order_thread()
    wrong = {"apiKey": "wrong", "secret": "wrong"}
    for begin in ("start_order_thread", "start_balance_thread"):
        broker = opened(ThreadedBroker("binance", config=wrong, endpoint=server.url, clock=Clock(rate=10)))
        with pytest.raises(ConfigError, match="apiKey and secret"):
            getattr(broker, begin)()
        assert not broker.running
    assert not io_threads()


def test_a_guest_beside_a_run_neither_ends_it_nor_outlives_the_store(server, opened):
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), timeframe=bt.TimeFrame.Seconds)
    beside = opened(ThreadedDataFeed(store, "BTC/USDT", "1s"))
    broker = opened(ThreadedBroker(store))
    apart = opened(ThreadedDataFeed("binance", "BTC/USDT", "1s", endpoint=server.url, clock=store.connection.clock))
    for guest, begin in ((beside, "start_data_thread"), (broker, "start_order_thread"), (apart, "start_data_thread")):
        getattr(guest, begin)()
    orders = []

    def act(watcher):
        if watcher.states[feed][-1] == "LIVE" and not orders:
            orders.append(watcher.buy(size=0.01))
            beside.stop()

    run(
        store,
        feed,
        broker=store.getbroker(),
        act=act,
        until=lambda w: feed.origins.get("ws", 0) > 20 and any(o.status == o.Completed for o in w.orders),
    )
    # The broker's own order, seen from beside, and nothing more since the run has stopped the store.
    seen = list(iter(broker.order_queue.get, None))
    assert fills(seen)
    assert not broker.running
    assert apart.running
    assert take(apart.data_queue, 5)
    assert_own(server, "BTC/USDT", "1s", take(apart.data_queue, 5), 1_000)


@pytest.mark.parametrize("count", [10])
def test_starts_and_stops_leave_nothing(server, opened, count):
    store = store_of(server)
    guests = opened(ThreadedDataFeed(store, "BTC/USDT", "1s")), opened(ThreadedBroker(store))
    for _ in range(count):
        guests[0].start_data_thread()
        guests[1].start_order_thread()
        guests[1].start_balance_thread()
        loop = guests[0]._stay.get_loop()
        for guest in guests:
            guest.stop()
        assert not io_threads()
        assert not asyncio.all_tasks(loop)
    wait_until(lambda: not server.connections)


def test_a_web_socket_feed_is_a_feed(server):
    heard = []
    store = store_of(server)
    feed = WebSocketFeed(
        exchange="binance",
        symbol="BTC/USDT",
        timeframe="1s",
        fromdate=ago(server, minutes=1),
        live=True,
        ws_callbacks=heard.append,
        config={"apiKey": API_KEY, "secret": SECRET},
        currency="USDT",
        endpoint=server.url,
        clock=store.connection.clock,
    )
    assert isinstance(feed, CCXTFeed)
    assert feed.store is store
    watcher = run(store, feed, until=lambda w: feed.origins.get("ws", 0) >= 5)
    assert_equals_exchange(server, watcher, feed, "1s", feed._utc_ms(feed.p.fromdate))
    assert watcher.states[feed] == ["DELAYED", "LIVE"]
    assert len(heard) >= 5
    assert all(bar.origin is not Origin.REST or bar.ts_ms for bar in heard)


def test_a_rate_limiter_by_its_names():
    limiter = RateLimiter(rate_limit=5)
    assert RateLimiter().rate_limit == RateLimiter(requests_per_minute=1200).rate_limit == RateLimiter(1200).rate_limit
    for number in range(5):
        assert limiter.current_usage == number
        assert limiter.get_wait_time() == 0
        limiter.acquire()
        limiter.release()
    assert limiter.current_usage == limiter.stats().calls == 5
    assert 59 < limiter.get_wait_time() <= 60.5
    assert "5" in repr(limiter)
    waited = threading.Thread(target=limiter.wait_for_rate_limit, daemon=True)
    waited.start()
    waited.join(0.05)
    assert waited.is_alive()
    limiter.reset()
    assert limiter.current_usage == 0
    limiter.wait_for_rate_limit()
    with limiter:
        assert limiter.current_usage == 1

    async def awaited():
        await limiter.acquire()
        await limiter.wait_for_rate_limit()
        async with limiter:
            return limiter.current_usage

    assert asyncio.run(awaited()) == 3
    with pytest.raises(ConfigError, match="two names for the same"):
        RateLimiter(5, requests_per_minute=6)
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match="lets nothing out"):
            RateLimiter(wrong)


def test_a_mailbox_is_a_queue_that_never_blocks_who_fills_it():
    lost = []
    box = Mailbox("things", 3, lost.append)
    for number in range(5):
        box.put(number)
    assert (lost, box.dropped, box.behind, box.qsize()) == ([0, 1], 2, True, 3)
    assert [box.get() for _ in range(3)] == [2, 3, 4]
    with pytest.raises(queue.Empty):
        box.get_nowait()
    assert box.next(0.01) is None
    readers = [threading.Thread(target=box.get) for _ in range(3)]
    for reader in readers:
        reader.start()
    box.put(5)
    box.end()
    for reader in readers:
        reader.join(END_S)
        assert not reader.is_alive()
    assert box.empty()
    assert not box.qsize()
    assert box.get() is None
    box.begin()
    assert not box.behind or box.put(6) is None

    async def both():
        waiting = [asyncio.create_task(box.next_awaited()) for _ in range(2)]
        given_up = [await box.next_awaited(0.001) for _ in range(5)]
        box.put(7)
        box.put(8)
        return given_up, sorted(await asyncio.gather(*waiting))

    while box.next(0) is not None:
        pass
    assert asyncio.run(both()) == ([None] * 5, [7, 8])
    # Those who gave up are not kept.
    assert len(box._waiting) <= 1


def test_the_names_are_there():
    for name in ("CCXTWebSocket", "ThreadedDataFeed", "ThreadedBroker", "WebSocketFeed", "RateLimiter"):
        assert name in ccxtbt.__all__
    calls = []

    @retry_with_backoff(max_retries=2, base_delay=0.0, exceptions=(OSError,))
    def fails():
        calls.append(1)
        raise OSError

    with pytest.raises(OSError):
        fails()
    assert len(calls) == 2
