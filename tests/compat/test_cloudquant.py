"""Classes by the names of cloudQuant's modules, through ccxt's real class against a simulated exchange."""

import asyncio
import math
from decimal import Decimal

import backtrader as bt
import pytest

from ccxtbt import (
    CCXTFeedWithFunding,
    CCXTStore,
    CCXTWebSocketManager,
    ThreadedDataManager,
    ThreadedOrderManager,
)
from ccxtbt.compat import oldoptions
from ccxtbt.errors import ConfigError
from ccxtbt.exchange.clock import Clock
from ccxtbt.sim.funding import mark_of
from ccxtbt.sim.server import API_KEY, SECRET
from ccxtbt.trading.reports import OrderFact
from simulated import BTC, ETH
from waiting import come_true, wait_until
from watching import ago, store_of

HOUR_MS = 3_600_000
LIMIT_S = 20.0
PERP = "BTC/USDT:USDT"


@pytest.fixture
def server(simulator):
    return simulator(
        (BTC, ETH),
        contracts=[BTC],
        margin={"USDT": 10_000},
        history_ms=48 * HOUR_MS,
        speed=20,
        balances={"USDT": 100_000, "BTC": 1},
    )


def options(server):
    return {"endpoint": server.url, "clock": Clock(rate=server.speed)}


def test_streams_call_back_in_ccxts_structures(server):
    keys = {"apiKey": API_KEY, "secret": SECRET}
    manager = CCXTWebSocketManager("binance", keys, markets={}, sandbox=False, **options(server))
    heard = {name: [] for name in ("ticker", "ohlcv", "trades", "book", "mine")}
    manager.subscribe_ticker("BTC/USDT", heard["ticker"].append)
    manager.subscribe_ohlcv("BTC/USDT", "1m", heard["ohlcv"].append)
    assert manager.is_connected() is False
    manager.start()
    try:
        assert (manager.exchange_id, manager.running) == ("binance", True)
        manager.subscribe_trades("ETH/USDT", heard["trades"].append)
        manager.subscribe_orderbook("BTC/USDT", heard["book"].append, limit=3)
        manager.subscribe_my_trades("BTC/USDT", heard["mine"].append)
        wait_until(lambda: all(heard[name] for name in heard if name != "mine") and manager.is_connected())
        # On the account's stream by now: what is bought from here on is heard.
        made = manager.store.create_order("BTC/USDT", "market", "buy", 0.01)
        wait_until(lambda: heard["mine"])
        manager.unsubscribe("ticker:BTC/USDT")
        wait_until(lambda: not any(key[0] == "ticker" for key in manager._ears))
        with pytest.raises(ConfigError, match="names no subscription"):
            manager.unsubscribe("ticker")
        with pytest.raises(ConfigError, match="is not a market"):
            manager.subscribe_ticker("BTC/EUR", print)
    finally:
        manager.stop()
    assert manager.is_connected() is False
    assert heard["ticker"][0]["symbol"] == "BTC/USDT"
    (row,) = heard["ohlcv"][0]
    assert len(row) == 6
    assert row[0] % 60_000 == 0
    assert {"id", "timestamp", "price", "amount", "side", "symbol"} <= heard["trades"][0][0].keys()
    assert (len(heard["book"][-1]["bids"]), len(heard["book"][-1]["asks"])) == (3, 3)
    (mine,) = heard["mine"][0]
    assert (mine["order"], mine["symbol"]) == (made["id"], "BTC/USDT")


def test_one_subscription_that_is_refused_takes_no_other_with_it(server):
    manager, heard = CCXTWebSocketManager("binance", **options(server)), []
    manager.subscribe_ticker("BTC/EUR", print)
    manager.subscribe_trades("BTC/USDT", heard.append)
    try:
        with pytest.raises(ConfigError, match="'BTC/EUR' is not a market"):
            manager.start()
        wait_until(lambda: heard)
        # It was told of once.
        manager.start()
    finally:
        manager.stop()


def test_a_subscription_that_takes_long_is_kept(server, monkeypatch):
    # Sooner than ccxt connects again: here nobody waits, and nothing may be given up.
    monkeypatch.setattr("ccxtbt.compat.websocket.CONFIRM_S", 0.05)
    manager, heard = CCXTWebSocketManager("binance", **options(server)), []
    manager.start()
    try:
        refused = server.faults.refuse_connect(times=2)
        manager.subscribe_trades("BTC/USDT", heard.append)
        wait_until(lambda: heard)
        assert refused.seen >= 2
        # Who gives it up before it is there waits no longer either.
        server.faults.refuse_connect(times=0)
        server.abort_connections()
        manager.subscribe_ticker("BTC/USDT", print)
        wait_until(lambda: len(manager._ears) == 2)
        manager.unsubscribe("ticker:BTC/USDT")
        wait_until(lambda: len(manager._ears) == 1 and not tasks(manager, "ticker of BTC/USDT"))
    finally:
        manager.stop()


def tasks(manager, name):
    async def running():
        return [task for task in asyncio.all_tasks() if task.get_name() == name]

    return manager.connection.call(running)


def test_it_starts_and_ends_in_a_loop_of_the_callers_too(server):
    manager, heard = CCXTWebSocketManager("binance", **options(server)), []
    manager.subscribe_ohlcv("BTC/USDT", "1m", heard.append)

    async def main():
        manager.start()
        try:
            await come_true(lambda: heard)
            await manager.unsubscribe("BTC/USDT", "kline", "1m")
            assert not manager._ears
        finally:
            manager.stop()

    asyncio.run(main())
    assert not manager.running


def test_a_callback_that_fails_is_called_again(server, caplog):
    manager, heard = CCXTWebSocketManager("binance", **options(server)), []

    def callback(trades):
        heard.append(trades)
        raise ZeroDivisionError("of the user")

    manager.subscribe_trades("BTC/USDT", callback)
    manager.start()
    try:
        wait_until(lambda: len(heard) >= 3)
    finally:
        manager.stop()
    assert "of the user" in caplog.text


def test_funding_is_told_where_the_exchange_streams_it_and_where_not(server):
    manager, heard = CCXTWebSocketManager("binanceusdm", **options(server)), {"rate": [], "mark": []}
    manager.start()
    try:
        # Binance streams mark prices, and no funding rates through ccxt.
        assert manager.connection.rest.has.get("watchMarkPrice")
        assert not manager.connection.rest.has.get("watchFundingRate")
        manager.subscribe_funding_rate(PERP, heard["rate"].append)
        manager.subscribe_mark_price(PERP, heard["mark"].append)
        wait_until(lambda: len(heard["rate"]) >= 2 and len(heard["mark"]) >= 2)
        manager.unsubscribe(f"funding_rate:{PERP}")
        wait_until(lambda: not manager._polls)
        manager.subscribe_funding_rate(PERP, heard["rate"].append)
        wait_until(lambda: manager._polls)
        manager.unsubscribe(PERP, "funding_rate")
        assert not manager._polls
        assert {channel for channel, *_ in manager._ears} == {"mark_price"}
    finally:
        manager.stop()
    rate, mark = heard["rate"][0], heard["mark"][0]
    now = mark_of(server.contracts.markets["BTCUSDT"], server.clock.now_ms())
    assert (rate["symbol"], rate["fundingTimestamp"]) == (PERP, now.next_ms)
    assert mark["markPrice"] == pytest.approx(float(now.mark), rel=0.02)


def test_a_funding_rate_that_cannot_be_had_now_is_asked_for_again(server, caplog):
    manager, heard = CCXTWebSocketManager("binanceusdm", retries=0, **options(server)), []
    manager.start()
    try:
        server.faults.server_error(503, path="/fapi/v1/premiumIndex", times=2)
        manager.subscribe_funding_rate(PERP, heard.append)
        wait_until(lambda: heard)
    finally:
        manager.stop()
    assert caplog.text.count(f"The funding_rate of {PERP} cannot be had now") == 2


def test_one_manager_for_each_store(server):
    store = store_of(server)
    manager = store.get_websocket_manager()
    try:
        assert store.is_connected()
        assert store.get_websocket_manager() is manager
        assert manager.store is store
    finally:
        manager.stop()
    assert not store.is_connected()


def test_bars_of_several_markets_in_one_queue(server):
    manager = ThreadedDataManager(store_of(server), update_interval=0.5)
    manager.add_symbol("BTC/USDT", "1s")
    assert (manager.is_running(), manager.get_update()) == (False, None)
    manager.start()
    try:
        manager.add_symbol("ETH/USDT", "1s")
        seen = {"BTC/USDT": [], "ETH/USDT": []}
        while min(map(len, seen.values())) < 3:
            update = manager.get_update(timeout=LIMIT_S)
            assert update is not None
            assert (update.data_type, update.timestamp) == ("ohlcv", update.data[0])
            seen[update.symbol].append(update.data)
        manager.remove_symbol("ETH/USDT")
        assert manager.is_running()
    finally:
        manager.stop()
    for symbol, rows in seen.items():
        market = server.exchange.markets[symbol.replace("/", "")]
        own = market.klines("1s", rows[0][0], rows[-1][0], 1_000, now_ms=server.clock.now_ms())
        assert rows == [[row[0], *map(float, row[1:6])] for row in own]


def test_a_start_that_is_refused_is_no_start(server):
    manager = ThreadedDataManager(store_of(server))
    manager.add_symbol("BTC/USDT", "1s")
    manager.add_symbol("BTC/EUR", "1s")
    try:
        with pytest.raises(ConfigError, match="'BTC/EUR' is not a market"):
            manager.start()
        assert not manager.is_running()
        assert not manager.store.is_connected()
        manager.remove_symbol("BTC/EUR")
        manager.start()
        assert manager.get_update(timeout=LIMIT_S).symbol == "BTC/USDT"
    finally:
        manager.stop()


def test_an_older_word_that_comes_late_changes_nothing(server):
    manager = ThreadedOrderManager(store_of(server))
    manager.add_order("7", "BTC/USDT")
    manager.add_order("8", "BTC/USDT")

    def told(order_id, status, filled):
        manager._broker.order_queue.put(OrderFact(None, order_id, status=status, filled=Decimal(filled)))
        return [(update.order_id, update.status, update.filled) for update in manager.get_updates()]

    assert told("8", "open", 2) == [("8", "open", 2.0)]
    assert told("8", "open", 1) == []
    manager._broker.order_queue.put(OrderFact(None, "7", status="canceled", filled=Decimal(1)))
    assert told("7", "open", 1) == [("7", "canceled", 1.0)]


def test_orders_are_followed_by_their_ids_until_they_end(server):
    store = store_of(server)
    before = store.create_order("BTC/USDT", "market", "buy", 0.01)
    resting = store.create_order("BTC/USDT", "limit", "buy", 0.01, 50_000.0)
    manager = ThreadedOrderManager(store, check_interval=0.2)
    manager.add_order(resting["id"], "BTC/USDT", side="buy")
    # It has ended already, and no word of it comes by itself.
    manager.add_order(before["id"], "BTC/USDT")
    manager.start()
    updates = {}

    def hear():
        for update in manager.get_updates():
            updates.setdefault(update.order_id, []).append(update)
        return updates

    try:
        assert manager.is_running()
        wait_until(lambda: len(hear()) == 2)
        store.cancel_order(resting["id"], "BTC/USDT")
        wait_until(lambda: hear()[resting["id"]][-1].status == "canceled")
        assert manager.get_updates() == []
    finally:
        manager.stop()
        store.stop()
    assert [update.status for update in updates[resting["id"]]] == ["open", "canceled"]
    (ended,) = updates[before["id"]]
    assert (ended.status, ended.filled, ended.remaining) == ("closed", 0.01, 0.0)
    assert ended.average > 0


def test_a_feed_with_funding_takes_the_options_of_old_scripts(server, monkeypatch):
    CCXTStore._singleton = None
    store = CCXTStore("binanceusdm", "USDT", **options(server))
    monkeypatch.setattr(oldoptions, "_told", set())
    with pytest.warns(DeprecationWarning, match="of CCXTFeed") as warned:
        feed = CCXTFeedWithFunding(
            store=store,
            dataname=PERP,
            use_websocket=True,
            include_funding=True,
            funding_history_days=3,
            historical=True,
            fromdate=ago(server, hours=9),
            timeframe=bt.TimeFrame.Minutes,
            compression=60,
        )
    assert {str(each.message).split()[0] for each in warned} == {
        "use_websocket",
        "include_funding",
        "funding_history_days",
    }
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.adddata(feed)
    cerebro.addstrategy(bt.Strategy)
    try:
        cerebro.run()
    finally:
        store.stop()
    assert not math.isnan(feed.funding_rate[0])
    # In ms, as cloudQuant's.
    assert feed.next_funding_time[0] % 3_600_000 == 0
