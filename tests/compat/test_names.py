"""Names that old scripts use beside those of test_signatures: each does what it did, through ccxt's real class."""

import collections
import importlib
import queue

import backtrader as bt
import pytest

import ccxtbt
from ccxtbt import CCXTBroker, CCXTFeed, CCXTStore
from ccxtbt.errors import NotOfferedError
from simulated import BTC, ETH
from watching import ago, run, store_of

HOUR_MS = 3_600_000
MINUTES = {"dataname": "BTC/USDT", "timeframe": "1m"}
SECONDS = {"dataname": "BTC/USDT", "timeframe": "1s"}


@pytest.fixture
def server(simulator):
    return simulator((BTC, ETH), history_ms=2 * HOUR_MS, speed=20, balances={"USDT": 100_000, "BTC": 1})


@pytest.fixture
def store(server):
    return store_of(server)


# bt-ccxt-store


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        ((bt.TimeFrame.Minutes, minutes), text)
        for minutes, text in {1: "1m", 3: "3m", 5: "5m", 15: "15m", 30: "30m", 60: "1h", 120: "2h", 240: "4h"}.items()
    ]
    + [
        ((bt.TimeFrame.Minutes, 360), "6h"),
        ((bt.TimeFrame.Minutes, 480), "8h"),
        ((bt.TimeFrame.Minutes, 720), "12h"),
        ((bt.TimeFrame.Days, 1), "1d"),
        ((bt.TimeFrame.Days, 3), "3d"),
        ((bt.TimeFrame.Weeks, 1), "1w"),
        ((bt.TimeFrame.Months, 1), "1M"),
        # What the exchange lists beside them.
        ((bt.TimeFrame.Seconds, 1), "1s"),
    ],
)
def test_the_granularities_of_an_exchange(pair, text):
    assert CCXTStore("binance").get_granularity(*pair) == text


def test_the_granularities_of_old_are_all_known():
    old = {"1m", "3m", "5m", "15m", "30m", "1h", "90m", "2h", "3h", "4h", "6h", "8h", "12h"}
    old |= {"1d", "3d", "1w", "2w", "1M", "3M", "6M", "1y"}
    assert old <= set(CCXTStore._GRANULARITIES.values())


def test_a_granularity_that_is_not_offered_is_an_error_of_the_old_types():
    with pytest.raises(ValueError, match="no bars of Minutes x 7"):
        CCXTStore("binance").get_granularity(bt.TimeFrame.Minutes, 7)
    without = next(name for name in ("coinspot", "btcmarkets", "paymium") if not exchange(name).has["fetchOHLCV"])
    with pytest.raises(NotImplementedError, match=f"{without} offers no OHLCV"):
        CCXTStore(without).get_granularity(bt.TimeFrame.Minutes, 1)


def exchange(name):
    return CCXTStore(name).exchange


def test_the_open_orders_of_the_account_are_asked_for(server, store):
    broker = store.getbroker()
    assert broker.get_orders_open() == broker.get_orders_open(safe=True) == []
    made = store.create_order("BTC/USDT", "limit", "buy", 0.01, 50_000.0, {})
    assert [order["id"] for order in broker.get_orders_open()] == [made["id"]]


@pytest.mark.parametrize("endpoint", ["order", "/order"])
def test_any_private_endpoint_can_be_called(server, store, endpoint):
    broker = store.getbroker()
    made = store.create_order("BTC/USDT", "limit", "buy", 0.01, 50_000.0, {})
    params = {"symbol": "BTCUSDT", "orderId": made["id"]}
    told = broker.private_end_point(type="Delete", endpoint=endpoint, params=params)
    assert (told["status"], str(told["orderId"])) == ("CANCELED", made["id"])
    with pytest.raises(NotOfferedError, match="v2_private_post_order_id_cancel"):
        broker.private_end_point("Post", "order/{id}/cancel", {}, prefix="v2")


def test_before_a_live_run_a_broker_tells_what_the_account_has(server):
    for currency, expected in (("BTC", 1.0), (None, 100_000.0)):
        store = store_of(server, currency=currency)
        cerebro = bt.Cerebro()
        broker = store.getbroker()
        # Nothing is known of the run, and nothing is asked.
        assert broker.getcash() == 10_000
        cerebro.setbroker(broker)
        cerebro.adddata(store.getdata(**SECONDS))
        before = len(list(server.requests))
        told = broker.getcash(), broker.getvalue(), broker.startingcash, broker.startingvalue, broker.cash, broker.value
        assert told == (expected,) * 6
        assert broker.get_balance() == (expected, expected)
        assert broker.get_wallet_balance("BTC") == (1.0, 1.0)
        assert broker.get_wallet_balance()["total"]["USDT"] == 100_000
        asked = [request.path for request in list(server.requests)[before:]]
        assert asked.count("/api/v3/account") == 1
        assert broker.currency == currency


def test_before_a_backtest_a_broker_tells_the_money_of_the_backtest(server, store):
    cerebro = bt.Cerebro()
    broker = store.getbroker()
    cerebro.setbroker(broker)
    cerebro.adddata(store.getdata(historical=True, **MINUTES))
    broker.setcash(500)
    assert (broker.getcash(), broker.getvalue(), broker.cash, broker.startingcash) == (500, 500, 500, 500)
    broker.cash = 600
    assert broker.getcash() == 600
    assert not server.requests


def test_an_order_is_told_once_with_quicknotify_and_one_of_no_size_is_rejected(server):
    store = store_of(server)
    made, broker = [], store.getbroker()

    def act(watcher):
        if watcher.states[watcher.data][-1:] == ["LIVE"] and not made:
            made.extend([broker.buy(watcher, watcher.data, 0), watcher.buy(size=0.01)])
            made.append([each.ref for each in broker.notifs])

    def ended(watcher):
        return made and {order.ref for order in watcher.orders if not order.alive()} >= {made[0].ref, made[1].ref}

    feed = store.getdata(fromdate=ago(server, minutes=1), **SECONDS)
    # A live run is always one with quicknotify=True: else a fill would wait for the next bar.
    watcher = run(store, feed, broker=broker, act=act, until=ended)
    empty, full, waiting = made
    told = collections.defaultdict(list)
    for order in watcher.orders:
        told[order.ref].append(order.getstatusname())
    assert told[empty.ref][-1] == "Rejected"
    assert told[full.ref][:2] == ["Submitted", "Accepted"]
    assert told[full.ref][-1] == "Completed"
    assert told[full.ref].count("Completed") == told[full.ref].count("Submitted") == 1
    # What was to be told, as other packages' queue of orders has it.
    assert waiting[:1] == [empty.ref]
    assert broker.positions["BTC/USDT"].size == broker.positions[feed].size > 0
    assert broker.getposition(feed, clone=False) is broker.positions[feed]
    copy = broker.getposition(feed, clone=True)
    assert copy is not broker.positions[feed]
    assert (copy.size, copy.price) == (broker.positions[feed].size, broker.positions[feed].price)
    assert broker.use_order_params is True


def test_a_store_may_be_added_to_cerebro(server, store):
    heard = []

    class Hears(bt.Strategy):
        def notify_store(self, msg, *args, **kwargs):
            heard.append(msg)

        def next(self):
            if len(self) == 2:
                store.put_notification("of the user", 1, more=2)

    cerebro = bt.Cerebro(runonce=False, preload=False)
    cerebro.addstore(store)
    cerebro.adddata(store.getdata(historical=True, fromdate=ago(server, minutes=9), **MINUTES))
    cerebro.addstrategy(Hears)
    cerebro.run()
    assert heard == ["of the user"]
    assert [each is store for each in cerebro.stores] == [True]
    assert not store.is_connected()


def test_the_queue_of_notifications_is_a_queue_and_a_deque():
    CCXTStore._singleton = None
    broker = CCXTBroker(CCXTStore("binance"))
    broker._desk.notifs = collections.deque()
    assert broker.notifs.empty()
    assert broker.get_notification() is None
    broker.notifs.put("first")
    broker.notifs.append("second")
    assert (broker.notifs.qsize(), len(broker.notifs)) == (2, 2)
    assert (broker.notifs.get(False), broker.get_notification()) == ("first", "second")
    with pytest.raises(queue.Empty):
        broker.notifs.get(False)


@pytest.mark.parametrize("drop", [True, False])
def test_the_last_bars_of_a_market_as_a_table(server, store, drop):
    """Of the CosmicDNA fork of bt-ccxt-store."""
    table = store.get_historical_dataframe("BTC/USDT", "1m", 5, drop_incomplete_candle=drop)
    now_ms = server.clock.now_ms()
    assert list(table.columns) == ["open", "high", "low", "close", "volume"]
    assert (table.index.name, str(table.index.tz), len(table)) == ("timestamp", "UTC", 5)
    assert set(map(str, table.dtypes)) == {"float64"}
    opens = [round(stamp.timestamp() * 1000) for stamp in table.index]
    closed = [open_ms + 60_000 <= now_ms for open_ms in opens]
    assert closed == [True] * 5 if drop else closed[:4] == [True] * 4
    rows = server.exchange.markets["BTCUSDT"].klines("1m", opens[0], opens[3], 10, now_ms=now_ms)
    assert table.head(4).values.tolist() == [[float(value) for value in row[1:6]] for row in rows]


def test_a_table_of_nothing_has_its_form_and_one_that_is_not_offered_is_an_error(store):
    empty = store.get_historical_dataframe("BTC/USDT", "1h", 0)
    assert (len(empty), list(empty.columns)) == (0, ["open", "high", "low", "close", "volume"])
    assert str(empty.index.tz) == "UTC"
    assert set(map(str, empty.dtypes)) == {"float64"}
    with pytest.raises(NotOfferedError, match="no bars of '7m'"):
        store.get_historical_dataframe("BTC/USDT", "7m", 5)


# cloudQuant's modules


def test_a_store_tells_whether_it_is_connected_and_lends_its_budget(server, store):
    assert store.is_connected() is False
    store.start()
    try:
        assert (store.is_connected(), store.exchange_id) == (True, "binance")
        limiter = store.get_rate_limiter()
        before = limiter.current_usage
        limiter.acquire()
        assert limiter.current_usage == before + 1 == round(store.rate_limit_stats().requests.rules[0].used)
        assert limiter.get_wait_time() == 0.0
        limiter.reset()
        assert limiter.current_usage == before + 1
    finally:
        store.stop()
    assert store.is_connected() is False


# The specification's names


SPELLINGS = {"CcxtStore": "CCXTStore", "CcxtBroker": "CCXTBroker", "CcxtFeed": "CCXTFeed"}
PUBLIC = {
    "CCXTStore": "getdata getbroker get_granularity get_wallet_balance get_balance getposition create_order "
    "cancel_order fetch_trades fetch_ohlcv fetch_order fetch_open_orders private_end_point get_websocket_manager "
    "get_rate_limiter is_connected start stop",
    "CCXTBroker": "buy sell cancel start stop next get_balance get_wallet_balance getcash getvalue get_notification "
    "notify getposition get_orders_open private_end_point create_bracket_order get_bracket_manager",
    "CCXTFeed": "start stop islive haslivedata",
    "WebSocketFeed": "start stop islive haslivedata",
    "CCXTFeedWithVolumes": "start stop islive haslivedata",
    "CCXTFeedWithFunding": "start stop islive haslivedata",
    "CCXTWebSocket": "connect subscribe unsubscribe get_message disconnect is_connected",
    "CCXTWebSocketManager": "start stop is_connected subscribe_ticker subscribe_ohlcv subscribe_trades "
    "subscribe_orderbook subscribe_my_trades subscribe_funding_rate subscribe_mark_price unsubscribe",
    "ThreadedDataFeed": "start_data_thread stop",
    "ThreadedBroker": "start_order_thread start_balance_thread stop",
    "ThreadedDataManager": "add_symbol remove_symbol start stop get_update is_running",
    "ThreadedOrderManager": "add_order remove_order start stop get_updates is_running",
    "RateLimiter": "acquire release wait_for_rate_limit get_wait_time stats reset",
    "BracketOrderManager": "create_bracket on_order_fill cancel_bracket",
    "ExchangeConfig": "get_order_type supports_order_type get_order_status get_params get_timeframe get_fees "
    "get_supported_timeframes get_rate_limit get_limits",
}


@pytest.mark.parametrize("name", PUBLIC)
def test_each_named_interface_is_there_and_documented(name):
    assert name in ccxtbt.__all__
    kind = getattr(ccxtbt, name)
    assert kind.__doc__
    for method in PUBLIC[name].split():
        assert callable(getattr(kind, method)), method
        assert getattr(kind, method).__doc__, method


def test_the_other_spellings_are_the_same_classes():
    assert {other: getattr(ccxtbt, other).__name__ for other in SPELLINGS} == SPELLINGS
    assert callable(ccxtbt.retry_with_backoff)
    assert ccxtbt.retry_with_backoff.__doc__


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("backtrader.stores", ["CCXTStore"]),
        ("backtrader.brokers", ["CCXTBroker"]),
        ("backtrader.feeds", ["CCXTFeed", "CCXTFeedWithFunding"]),
        ("backtrader.stores.ccxtstore", ["CCXTStore"]),
        ("backtrader.brokers.ccxtbroker", ["CCXTBroker", "CCXTOrder"]),
        ("backtrader.feeds.ccxtfeed", ["CCXTFeed"]),
        ("backtrader.feeds.ccxtfeed_funding", ["CCXTFeedWithFunding"]),
        ("backtrader.ccxt.ratelimit", ["RateLimiter", "retry_with_backoff"]),
        ("backtrader.ccxt.threading", ["ThreadedDataManager", "ThreadedOrderManager", "DataUpdate"]),
        ("backtrader.ccxt.websocket", ["CCXTWebSocketManager"]),
        ("backtrader.ccxt.orders.bracket", ["BracketOrderManager", "BracketOrder", "BracketState"]),
        ("backtrader.ccxt.config", ["ExchangeConfig"]),
        ("backtrader.ccxt.config_helper", ["load_ccxt_config_from_env"]),
        ("backtrader.ccxt", ["RateLimiter", "CCXTWebSocketManager", "load_ccxt_config_from_env"]),
    ],
)
def test_backtrader_has_them_where_cloudquants_has(module, names):
    found = importlib.import_module(module)
    for name in names:
        assert getattr(found, name) is getattr(ccxtbt, name)
    assert CCXTFeed is bt.feeds.CCXTFeed


def test_a_star_brings_the_classes_and_nothing_else():
    brought: dict[str, object] = {}
    exec("from backtrader.brokers.ccxtbroker import *\nfrom backtrader.feeds.ccxtfeed import *", brought)
    assert brought.keys() - {"__builtins__"} == {"CCXTBroker", "CCXTOrder", "CCXTStore", "CCXTFeed"}
