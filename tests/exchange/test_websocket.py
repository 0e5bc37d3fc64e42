"""CCXTWebSocket, through ccxt's real class, blocking and in a caller's own event loop."""

import asyncio
import logging
import threading
import time

import ccxt.pro
import pytest

from ccxtbt import CCXTWebSocket
from ccxtbt.errors import ConfigError, NotOfferedError, TryLaterError
from ccxtbt.exchange.clock import Clock
from ccxtbt.sim.binance_limits import Limits
from ccxtbt.sim.server import API_KEY, SECRET
from simulated import BTC, ETH, point
from waiting import wait_until
from watching import store_of, truth

END_S = 5.0


def io_threads():
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("ccxtbt-") and name != "ccxtbt-sim"]


@pytest.fixture(autouse=True)
def nothing_left(caplog):
    with caplog.at_level(logging.WARNING):
        yield
    assert not io_threads()
    assert not [record.message for record in caplog.records if record.name == "asyncio"]


@pytest.fixture
def server(simulator):
    return simulator((BTC, ETH), history_ms=600_000, speed=10)


@pytest.fixture
def opened(server):
    """Make CCXTWebSockets of one's own connection; those that a test makes are disconnected after it."""
    made = []

    def make(*arguments, exchange="binance", keys=(API_KEY, SECRET), **options):
        if exchange == "binance":
            options.setdefault("config", dict(zip(("apiKey", "secret"), keys, strict=False)))
            options.setdefault("clock", CLOCKS.setdefault(server.url, Clock(rate=server.speed)))
            options.setdefault("endpoint", server.url)
        made.append(CCXTWebSocket(exchange, *arguments, **options))
        return made[-1]

    yield make
    for ws in made:
        ws.disconnect()


# A store is of one clock.
CLOCKS = {}


def messages(ws, until, limit_s=20.0):
    """Read until a message is what is wanted; return all."""
    end_s = time.monotonic() + limit_s
    seen = []
    while not (seen and until(seen[-1])):
        message = ws.get_message(timeout_s=end_s - time.monotonic())
        assert message is not None, f"what was waited for did not come: {seen[-5:]}"
        seen.append(message)
    return seen


def test_it_connects_subscribes_gets_messages_and_disconnects(server, opened):
    ws = opened(["BTC/USDT"], timeframe="1s")
    assert not ws.is_connected()
    with pytest.raises(ConfigError, match="call connect"):
        ws.get_message()
    ws.connect()
    assert ws.is_connected()
    ws.connect()
    seen = messages(ws, lambda m: m.closed)
    # What its first sketch watched: the ticker and the bars.
    wait_until(lambda: messages(ws, lambda m: m.channel == "ticker"))
    assert {message.symbol for message in seen} == {"BTC/USDT"}
    ws.subscribe("ETH/USDT", "trades")
    (*_, trades) = messages(ws, lambda m: m.channel == "trades")
    assert trades.symbol == "ETH/USDT"
    assert trades.data[0].price > 0
    ws.subscribe("ETH/USDT", ["order_book", "ticker"])
    (*_, book) = messages(ws, lambda m: m.channel == "orderbook")
    assert book.symbol == "ETH/USDT"
    assert book.data["bids"][0][0] < book.data["asks"][0][0]
    (*_, ticker) = messages(ws, lambda m: m.channel == "ticker" and m.symbol == "ETH/USDT")
    assert ticker.data["last"] > 0
    began_s = time.monotonic()
    ws.disconnect()
    assert time.monotonic() - began_s < END_S
    assert not ws.is_connected()
    assert not server.connections
    # What is left can be read, then None comes for ever.
    left = list(ws)
    assert ws.get_message() is None
    assert all(message.symbol in {"BTC/USDT", "ETH/USDT"} for message in left)
    ws.disconnect()
    ws.connect()
    assert messages(ws, lambda m: m.channel == "ohlcv")


def test_closed_bars_are_the_exchanges_own(server, opened):
    ws = opened("BTC/USDT", channels="ohlcv", timeframe="1s")
    ws.connect()
    bars = []
    while len(bars) < 15:
        message = ws.get_message(timeout_s=10)
        assert message.timeframe == "1s"
        if message.closed:
            bars.append(message.data)

    class Feed:
        class p:  # noqa: N801
            dataname = "BTC/USDT"

    own = truth(server, Feed, "1s", bars[0].ts_ms, bars[-1].ts_ms)
    assert [(bar.ts_ms + 1_000, *bar[1:6]) for bar in bars] == own


@pytest.mark.parametrize(
    "make", [ccxt.pro.binance, ccxt.binance, ccxt.async_support.binance], ids=["pro", "sync", "async"]
)
def test_it_takes_an_instance_of_ccxt(simulator, opened, make):
    server = simulator((BTC,), history_ms=600_000)
    given = make({"options": {"fetchMarkets": {"types": ["spot"]}, "fetchMargins": False, "fetchCurrencies": False}})
    point(given, server)
    pro = ccxt.pro.binance()
    given.urls["api"]["ws"] = point(pro, server).urls["api"]["ws"]
    ws = opened("BTC/USDT", exchange=given, channels=["trades", "orders"])
    ws.connect()
    assert messages(ws, lambda m: m.channel == "trades")
    assert ws.connection.account.config["apiKey"] == API_KEY
    assert SECRET not in repr(ws)
    ws.disconnect()
    assert not io_threads()


def test_it_is_awaited_in_a_loop_of_the_callers(server, opened):
    ws = opened("BTC/USDT", channels=("trades", "orderbook"))

    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)  # counts that the loop turns, and waits for nothing
                ticks += 1

        ticking = asyncio.create_task(tick())
        await ws.connect()
        # The loop goes on while the connection is made.
        assert ticks > 5
        await ws.subscribe("ETH/USDT", "trades")
        seen = [await ws.get_message() for _ in range(5)]
        ticking.cancel()
        async for message in ws:
            seen.append(message)
            if message.symbol == "ETH/USDT":
                break
        assert await asyncio.gather(*(ws.get_message(timeout_s=0.001) for _ in range(50)))
        waiting = asyncio.create_task(drained(ws))
        await ws.disconnect()
        assert await waiting is None
        assert await ws.get_message() is None
        await ws.disconnect()
        return seen

    async def drained(ws):
        while (message := await ws.get_message()) is not None:
            pass
        return message

    seen = asyncio.run(main())
    assert {message.symbol for message in seen} == {"BTC/USDT", "ETH/USDT"}

    async def within():
        async with opened("BTC/USDT", channels="trades") as ws:
            assert ws.is_connected()
            assert io_threads()
            assert (await ws.get_message()).channel == "trades"
        assert not io_threads()

    asyncio.run(within())


def test_what_cannot_be_is_said_at_once_and_leaves_nothing(server, opened):
    with pytest.raises(ConfigError, match="channel='candels' is none: give one of ohlcv"):
        opened("BTC/USDT", channels="candels")
    with pytest.raises(ConfigError, match="exchange=int is none"):
        CCXTWebSocket(7, "BTC/USDT")
    with pytest.raises(ConfigError, match=r"symbol='BTCUSDT' is not a market .* Did you mean BTC/USDT"):
        opened("BTCUSDT").connect()
    assert not io_threads()
    with pytest.raises(NotOfferedError):
        opened("BTC/USDT", channels="ohlcv", timeframe="7m").connect()
    with pytest.raises(ConfigError, match="orders are an account's"):
        opened("BTC/USDT", channels="orders", keys=()).connect()
    assert not io_threads()
    ws = opened()
    with pytest.raises(ConfigError, match="call connect"):
        ws.subscribe("BTC/USDT")
    ws.connect()
    assert ws.is_connected()
    with pytest.raises(ConfigError, match="not a market"):
        ws.subscribe(None, "ticker")


@pytest.mark.parametrize("keys", [(API_KEY, SECRET[:-1]), (API_KEY[:-1], SECRET)], ids=["secret", "key"])
@pytest.mark.parametrize("channel", ["orders", "my_trades"])
def test_a_wrong_key_is_said_at_once(server, opened, keys, channel):
    ws = opened("BTC/USDT", channels=channel, keys=keys)
    with pytest.raises(ConfigError, match="Check apiKey and secret"):
        ws.connect()
    assert not io_threads()
    assert not ws.is_connected()
    ws = opened("BTC/USDT", channels="trades", keys=keys)
    ws.connect()
    with pytest.raises(ConfigError, match="Check apiKey and secret"):
        ws.subscribe("BTC/USDT", channel)
    assert ws.is_connected()
    assert messages(ws, lambda m: m.channel == "trades")


def test_what_the_exchange_refuses_is_said_and_not_kept(simulator, opened):
    server = simulator((BTC, ETH), speed=10, limits=Limits(ws_streams=2))
    ws = CCXTWebSocket("binance", "BTC/USDT", channels="trades", endpoint=server.url, clock=Clock(rate=10))
    with ws:
        ws.subscribe("BTC/USDT", "ticker")
        for channel in ("trades", "ticker"):
            for _ in range(2):
                try:
                    ws.subscribe("ETH/USDT", channel)
                except ConfigError as error:
                    assert f"Subscribing to {channel} of ETH/USDT failed" in str(error)  # noqa: PT017  # either may be
                else:
                    (*_, told) = messages(ws, lambda m: m.channel == "status")
                    assert told.symbol == "ETH/USDT"
                    assert (told.data["channel"], told.data["up"]) == (channel, False)
                    assert "more than 2 streams" in told.data["reason"]
                    assert not ws.is_connected()
            ws.unsubscribe("ETH/USDT", channel)
            assert ws.is_connected()
        for channel in ("trades", "ticker"):
            assert messages(ws, lambda m, channel=channel: m.channel == channel)


def test_two_on_one_account_share_connection_and_budget_and_end_apart(server, opened):
    one = opened("BTC/USDT", channels=("trades", "orders", "ticker"))
    two = opened("BTC/USDT", channels=("trades", "orders", "ticker"))
    one.connect()
    two.connect()
    assert one.connection is two.connection
    assert len(io_threads()) == 1
    for ws in (one, two):
        for channel in ("trades", "ticker"):
            messages(ws, lambda m, channel=channel: m.channel == channel)
    one.disconnect()
    assert not one.is_connected()
    assert two.is_connected()
    order = two.store.create_order("BTC/USDT", "market", "buy", 0.01)
    (*_, told) = messages(two, lambda m: m.channel == "orders" and m.data["status"] == "closed")
    assert told.data["id"] == order["id"]
    for channel in ("trades", "ticker"):
        messages(two, lambda m, channel=channel: m.channel == channel)
    two.disconnect()
    assert not io_threads()
    assert not server.connections


def test_orders_and_trades_of_ones_own(server, opened):
    ws = opened()
    ws.connect()
    ws.subscribe(None, "my_trades")
    ws.subscribe("ETH/USDT", "orders")
    assert ws.is_connected()
    ws.store.create_order("BTC/USDT", "market", "buy", 0.01)
    ws.store.create_order("ETH/USDT", "market", "buy", 0.1)
    seen = messages(ws, lambda m: m.channel == "orders" and m.data["status"] == "closed")
    while not any(m.channel == "my_trades" and m.symbol == "ETH/USDT" for m in seen):
        seen += messages(ws, lambda m: m.channel == "my_trades")
    assert {m.symbol for m in seen if m.channel == "my_trades"} == {"BTC/USDT", "ETH/USDT"}
    assert {m.symbol for m in seen if m.channel == "orders"} == {"ETH/USDT"}
    ws.unsubscribe("ETH/USDT", "orders")
    ws.store.create_order("ETH/USDT", "market", "sell", 0.1)
    assert all(m.channel == "my_trades" for m in messages(ws, lambda m: m.channel == "my_trades"))
    assert ws.is_connected()
    ws.subscribe("ETH/USDT", "orders")
    ws.store.create_order("ETH/USDT", "market", "sell", 0.1)
    assert messages(ws, lambda m: m.channel == "orders" and m.data["status"] == "closed")


def test_a_break_is_told_and_mended(server, opened):
    ws = opened("BTC/USDT", channels=("ticker", "trades", "orders", "ohlcv"), timeframe="1s")
    ws.connect()
    for channel in ("ticker", "trades", "ohlcv"):
        messages(ws, lambda m, channel=channel: m.channel == channel)
    server.abort_connections()
    up = set()
    while up != {"ticker", "trades", "orders", "ohlcv"}:
        (*_, status) = messages(ws, lambda m: m.channel == "status")
        if status.data["up"]:
            up.add(status.data["channel"])
        else:
            assert status.data["reason"]
    wait_until(ws.is_connected)
    ws.store.create_order("BTC/USDT", "market", "buy", 0.01)
    wanted = {"ticker", "trades", "ohlcv", "orders"}
    while wanted:
        wanted.discard(ws.get_message(timeout_s=10).channel)


def test_what_nobody_reads_is_counted_logged_and_told(server, opened, caplog):
    ws = opened("BTC/USDT", channels=("trades", "ohlcv"), timeframe="1s", buffer=10)
    ws.connect()
    wait_until(lambda: ws.dropped > 20)
    lost = ws.get_message()
    assert lost.channel == "lost"
    assert sum(lost.data.values()) > 20
    assert set(lost.data) == {"trades", "ohlcv"}
    assert ws.get_message().channel in {"trades", "ohlcv"}
    assert [r for r in caplog.records if "nobody reads" in r.message]
    assert [text for text, _, _ in ws.store.get_notifications() if "nobody reads" in text]


def test_it_works_on_a_store_beside_a_script_and_ends_with_it(server, opened):
    store = store_of(server)
    ws = opened("BTC/USDT", exchange=store, channels="trades")
    ws.connect()
    assert ws.connection is store.connection
    ws.disconnect()
    # Started by it alone, the store ends with it.
    assert not io_threads()
    store.start()
    ws.connect()
    ws.disconnect()
    assert store.connection.running
    ws.connect()
    reader = threading.Thread(target=lambda: [None for _ in ws])
    reader.start()
    store.stop()
    reader.join(END_S)
    assert not reader.is_alive()
    assert not ws.is_connected()
    with pytest.raises(ConfigError, match="give sandbox to CCXTStore"):
        CCXTWebSocket(store, "BTC/USDT", sandbox=True)


def test_an_exchange_that_is_not_there_is_said_and_leaves_nothing(opened):
    with pytest.raises(TryLaterError):
        opened("BTC/USDT", endpoint="http://127.0.0.1:9", retries=0).connect()
    assert not io_threads()


def test_ten_connects_leave_nothing(server, opened):
    ws = opened("BTC/USDT", channels=("trades", "ticker", "orders"))
    for _ in range(10):
        ws.connect()
        assert ws.is_connected()
        ws.disconnect()
        assert not io_threads()
        assert not asyncio.all_tasks(ws._stay.get_loop())
    assert not server.connections
