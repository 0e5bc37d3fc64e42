"""The names and arguments that existing scripts use, each through ccxt's real class against a simulated exchange."""

import logging

import backtrader as bt
import ccxt
import pytest

import ccxtbt
from ccxtbt import CCXTBroker, CCXTFeed, CCXTOrder, CCXTStore
from ccxtbt.errors import ConfigError
from ccxtbt.sim.server import API_KEY, SECRET
from simulated import BTC, ETH
from watching import ago, assert_equals_exchange, run, store_of, truth

HOUR_MS = 3_600_000
SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}
MINUTES = {"timeframe": bt.TimeFrame.Minutes, "compression": 1}
TERMINAL = {"Completed", "Canceled", "Expired", "Margin", "Rejected"}


@pytest.fixture
def server(simulator):
    return simulator((BTC, ETH), history_ms=6 * HOUR_MS, speed=10, balances={"USDT": 100_000, "BTC": 1})


@pytest.fixture
def store(server):
    return store_of(server)


def asked(server, path):
    return [request for request in server.requests if request.path == path]


def feed_of(store, server, **options):
    return store.getdata(**{"dataname": "BTC/USDT", "fromdate": ago(server, minutes=1), **SECONDS, **options})


def is_live(watcher):
    return watcher.states[watcher.data][-1:] == ["LIVE"]


def has_ended(watcher, order):
    return any(seen.ref == order.ref and seen.getstatusname() in TERMINAL for seen in watcher.orders)


def statuses(watcher, order):
    return [seen.getstatusname() for seen in watcher.orders if seen.ref == order.ref]


def trade(server, *steps, store=None, **options):
    """Take one step on each live bar once the orders before it have ended; return (watcher, orders, broker)."""
    store = store or store_of(server)
    broker = store.getbroker(**options)
    steps, made = list(steps), []

    def settled(watcher):
        return all(has_ended(watcher, order) for order in made)

    def act(watcher):
        if is_live(watcher) and steps and settled(watcher):
            made.append(steps.pop(0)(watcher))

    watcher = run(store, feed_of(store, server), broker=broker, act=act, until=lambda w: not steps and settled(w))
    return watcher, made, broker


# The store's own calls, outside any run


def test_a_wallet_is_asked_for_by_a_currency_or_by_parameters(store, server):
    for arguments in ((), ("USDT",), ({},), ("USDT", {}), ("USDT", None)):
        balance = store.get_wallet_balance(*arguments)
        assert balance["free"]["USDT"] == balance["total"]["USDT"] == 100_000
        assert balance["BTC"] == {"free": 1.0, "used": 0.0, "total": 1.0}
        assert balance["info"]["accountType"] == "SPOT"
    for given in ({"omitZeroBalances": "true"}, "USDT"):
        store.get_wallet_balance(given, **({"params": {"omitZeroBalances": "true"}} if given == "USDT" else {}))
        assert "omitZeroBalances=true" in asked(server, "/api/v3/account")[-1].params


def test_the_balance_of_a_store_is_kept_and_asked_for_again_by_hand(store, server):
    assert (store._cash, store._value) == (100_000, 100_000)
    assert len(asked(server, "/api/v3/account")) == 1
    store.create_order("BTC/USDT", "limit", "buy", 0.1, 50_000.0, {})
    assert store._cash == 100_000
    assert store.get_balance() == (95_000, 100_000)
    assert (store._cash, store._value, store.getposition()) == (95_000, 100_000, 100_000)
    assert store.get_balance("BTC") == 1.0
    assert store.get_balance("DOGE") == 0.0


def test_without_keys_nothing_is_asked_and_nothing_is_held(server):
    store = store_of(server, config={"apiKey": "", "secret": ""})
    assert (store._cash, store._value) == (0.0, 0.0)
    assert not asked(server, "/api/v3/account")


def test_a_balance_needs_a_currency(server):
    store = store_of(server, currency=None)
    with pytest.raises(ConfigError, match="currency"):
        store.get_balance()
    assert store.get_balance("USDT") == 100_000


def test_an_order_past_the_broker_from_its_creation_to_its_cancel(store, server):
    made = store.create_order(symbol="BTC/USDT", order_type="limit", side="buy", amount=0.01, price=50_000, params={})
    (there,) = server.exchange.all_orders(server.account(), "BTCUSDT", limit=10)
    assert made["id"] == str(there.order_id)
    assert store.fetch_order(made["id"], "BTC/USDT")["status"] == "open"
    # Without a symbol ccxt refuses unless told that the weight is known.
    for symbol in ("BTC/USDT", None):
        assert [order["id"] for order in store.fetch_open_orders(symbol)] == [made["id"]]
    assert store.fetch_open_orders("ETH/USDT") == []
    assert store.cancel_order(made["id"], "BTC/USDT")["status"] == "canceled"
    assert store.fetch_open_orders() == []
    assert store.fetch_order(made["id"], "BTC/USDT")["status"] == "canceled"


def test_trades_and_bars_as_ccxt_gives_them(store, server):
    trades = store.fetch_trades("BTC/USDT")
    assert trades
    assert {trade["symbol"] for trade in trades} == {"BTC/USDT"}
    since = server.clock.now_ms() // 60_000 * 60_000 - 600_000
    rows = store.fetch_ohlcv("BTC/USDT", "1m", since, 5)
    market = server.exchange.markets["BTCUSDT"]
    own = market.klines("1m", start_ms=since, limit=5, now_ms=server.clock.now_ms())
    assert rows == [[row[0], *map(float, row[1:6])] for row in own]
    (last,) = store.fetch_ohlcv("BTC/USDT", timeframe="1m", since=None, limit=1, params={"endTime": since + 59_999})
    assert last == rows[0]


def test_a_private_endpoint_answers_as_the_exchange_does(store):
    answer = store.private_end_point(type="Get", endpoint="private_get_account", params={})
    assert {"asset": "BTC", "free": "1.00000000", "locked": "0.00000000"} in answer["balances"]


def test_the_synchronous_exchange_has_two_names_and_one_budget(store):
    assert store.ccxt is store.exchange
    assert isinstance(store.exchange, ccxt.binance)
    assert store.exchange.fetch_balance()["total"]["USDT"] == 100_000
    assert store.connection.limiter.stats().rules[0].used > 0


@pytest.mark.parametrize("name", ["retries", "max_retries"])
def test_a_question_is_asked_again_as_often_as_said(server, name):
    server.faults.server_error(503, path="/api/v3/account", times=2)
    with pytest.raises(ccxt.OperationFailed):
        store_of(server, **{name: 0}).get_wallet_balance("USDT")
    assert store_of(server, **{name: 1}).get_wallet_balance("USDT")["total"]["USDT"] == 100_000
    assert len(asked(server, "/api/v3/account")) == 3


def test_an_order_past_the_broker_is_sent_once_whatever_happens(store, server):
    server.faults.drop_answer(path="/api/v3/order", method="POST")
    with pytest.raises(ccxt.NetworkError):
        store.create_order("BTC/USDT", "limit", "buy", 0.01, 50_000)
    assert len(server.exchange.all_orders(server.account(), "BTCUSDT", limit=10)) == 1


# Which store one gets


def test_one_store_for_each_account_and_the_last_one_by_itself(server):
    first = store_of(server)
    options = {"endpoint": server.url, "clock": first.connection.clock}
    config = {"apiKey": API_KEY, "secret": SECRET}
    assert CCXTStore._singleton is first
    assert CCXTStore("binance", "USDT", config, 5, **options) is first
    others = [
        CCXTStore("kraken", "USDT", config, 5, **options),
        CCXTStore("binance", "BTC", config, 5, **options),
        CCXTStore("binance", "USDT", {"apiKey": "another", "secret": SECRET}, 5, **options),
        CCXTStore("binance", "USDT", config, 5, False, True, **options),
    ]
    assert len({id(store) for store in (first, *others)}) == 5
    assert [store.exchange.id for store in others] == ["kraken", "binance", "binance", "binance"]
    assert CCXTStore._singleton is others[-1]
    CCXTStore._singleton = None
    assert CCXTStore("binance", "USDT", config, 5, **options) is not first


def test_a_feed_that_names_only_its_exchange_is_of_the_account_that_is_open_there(server):
    kraken = CCXTStore("kraken")
    store = store_of(server)
    assert CCXTFeed(exchange="binance", symbol="BTC/USDT", timeframe="1h").store is store
    assert CCXTFeed(exchange="kraken", symbol="BTC/USDT", timeframe="1h").store is not store
    assert CCXTFeed(exchange="binance", config={"apiKey": "another"}, symbol="BTC/USDT").store is not store
    CCXTStore._singleton = None
    assert CCXTFeed(exchange="binance", symbol="BTC/USDT", timeframe="1h").store not in (store, kraken)


def test_data_and_broker_come_from_the_class_and_from_an_instance(server):
    earlier, store = store_of(server, currency="BTC"), None
    CCXTStore._singleton = None
    store = CCXTStore("binance", "USDT", endpoint=server.url, clock=earlier.connection.clock)
    assert CCXTStore.getdata(dataname="BTC/USDT", **MINUTES).store is store
    assert CCXTStore.getbroker().store is store
    assert earlier.getdata(dataname="BTC/USDT", **MINUTES).store is earlier
    assert earlier.getbroker(broker_mapping={}).store is earlier
    assert isinstance(store.getdata("BTC/USDT", **MINUTES), CCXTFeed)
    assert isinstance(store.getbroker(), CCXTBroker)
    assert (CCXTStore.DataCls, CCXTStore.BrokerCls) == (CCXTFeed, CCXTBroker)


def test_a_broker_tells_its_arguments_by_their_types(store):
    mapping = {"order_types": {bt.Order.Stop: "stop-loss"}, "is_live": True}
    for broker in (
        CCXTBroker(store, mapping),
        CCXTBroker(mapping, store=store),
        CCXTBroker(mapping, False),
        CCXTBroker(broker_mapping=mapping, debug=False),
        store.getbroker(mapping),
    ):
        assert broker.store is store
        assert broker.order_types[bt.Order.Stop] == "stop-loss"
    assert CCXTBroker(store).store is CCXTBroker(None, True).store is CCXTBroker().store is store
    assert CCXTBroker(exchange="kraken", currency="EUR", config={}, retries=2).store.exchange_id == "kraken"
    with pytest.raises(ConfigError, match="twice"):
        CCXTBroker(mapping, broker_mapping={})


def test_the_names_of_the_package_and_of_its_modules():
    assert {"CCXTStore", "CCXTBroker", "CCXTFeed", "CCXTOrder"} <= set(ccxtbt.__all__)
    from ccxtbt import ccxtbroker, ccxtfeed, ccxtstore

    assert (ccxtstore.CCXTStore, ccxtbroker.CCXTBroker, ccxtfeed.CCXTFeed) == (CCXTStore, CCXTBroker, CCXTFeed)


# Feeds


@pytest.mark.filterwarnings("ignore:ohlcv_limit of CCXTFeed:DeprecationWarning")
@pytest.mark.parametrize("limit", [20, 100])
def test_a_page_size_never_shortens_a_history(simulator, limit):
    server = simulator((BTC,), history_ms=6 * HOUR_MS, quiet_bars="flat", speed=10)
    store = store_of(server)
    feed = feed_of(
        store,
        server,
        fromdate=ago(server, minutes=300),
        historical=True,
        ohlcv_limit=limit,
        drop_newest=True,
        **MINUTES,
    )
    watcher = run(store, feed, until=lambda w: False)
    assert_equals_exchange(server, watcher, feed, "1m", feed._utc_ms(feed.p.fromdate))
    assert len(watcher.seen[feed]) == 300


@pytest.mark.filterwarnings("ignore:drop_newest of CCXTFeed:DeprecationWarning")
@pytest.mark.parametrize("drop_newest", [True, False])
def test_dropping_the_newest_bar_changes_nothing(store, server, drop_newest):
    feed = feed_of(store, server, drop_newest=drop_newest)
    watcher = run(store, feed, until=lambda w: feed.origins.get("ws", 0) >= 3)
    assert_equals_exchange(server, watcher, feed, "1s", feed._utc_ms(feed.p.fromdate))


@pytest.mark.parametrize(
    ("given", "live"),
    [
        ({}, True),
        ({"live": True}, True),
        ({"live": False}, False),
        ({"historical": False}, True),
        ({"historical": True}, False),
    ],
)
def test_live_and_historical_are_opposites(store, given, live):
    assert store.getdata(symbol="BTC/USDT", timeframe="1h", check_interval=30, **given).islive() is live


@pytest.mark.parametrize(
    "given",
    [
        {"timeframe": "5m"},
        {"timeframe": (bt.TimeFrame.Minutes, 5)},
        {"timeframe": bt.TimeFrame.Minutes, "compression": 5},
    ],
)
def test_a_timeframe_is_text_or_a_pair(store, server, given):
    feed = store.getdata(symbol="BTC/USDT", fromdate=ago(server, hours=1), historical=True, **given)
    watcher = run(store, feed, until=lambda w: False)
    assert_equals_exchange(server, watcher, feed, "5m", feed._utc_ms(feed.p.fromdate))


@pytest.mark.parametrize("where", ["store", "feed"])
def test_bars_may_carry_the_time_of_their_open(server, where):
    store = store_of(server, **({"stamp": "open"} if where == "store" else {}))
    feed = feed_of(store, server, **({"stamp": "open"} if where == "feed" else {}))
    watcher = run(store, feed, until=lambda w: feed.origins.get("ws", 0) >= 2)
    first_ms, last_ms = watcher.seen[feed][0][0], watcher.seen[feed][-1][0]
    closes = truth(server, feed, "1s", first_ms, last_ms)
    assert watcher.seen[feed] == [(stamp - 1_000, *bar) for stamp, *bar in closes]


def test_the_one_deliberate_difference_is_logged_once(server, caplog):
    def said(**options):
        caplog.clear()
        store = store_of(server, **options)
        feeds = [feed_of(store, server, dataname=name, historical=True, name=name) for name in ("BTC/USDT", "ETH/USDT")]
        for _ in range(2):
            run(store, *feeds, until=lambda w: False)
        return [record.message for record in caplog.records if "stamp='open'" in record.message]

    with caplog.at_level(logging.INFO, "ccxtbt"):
        assert len(said()) == 1
        assert not said(stamp="open")
        assert not said(stamp="close")


# Orders


def test_orders_are_sent_before_live_where_that_is_asked_for(server):
    early = []

    def act(watcher):
        if not early:
            early.append((watcher.buy(size=0.01), is_live(watcher)))

    store = store_of(server, orders="always")
    feed = feed_of(store, server)
    watcher = run(store, feed, broker=store.getbroker(), act=act, until=lambda w: early and has_ended(w, early[0][0]))
    assert early[0][1] is False
    assert statuses(watcher, early[0][0])[-1] == "Completed"
    with pytest.raises(ConfigError, match="'live' or 'always'"):
        store_of(server, orders="sometimes")


def test_open_orders_are_a_list_and_a_mapping(server):
    seen = {}

    def rest(w):
        seen["none"] = list(w.broker.open_orders), len(w.broker.open_orders), bool(w.broker.open_orders)
        seen["order"] = w.buy(size=0.01, exectype=bt.Order.Limit, price=w.data.close[0] * 0.9)
        return seen["order"]

    def look(watcher):
        order, opened = seen.get("order"), watcher.broker.open_orders
        if order is None or order.status != order.Accepted or "look" in seen:
            return
        key = order.ccxt_order["id"]
        seen["look"] = {
            "orders": list(opened),
            "length": len(opened),
            "keys": opened.keys(),
            "pairs": opened.items(),
            "inside": (order in opened, order.clone() in opened, key in opened, "no such id" in opened),
            "found": (opened[key], opened.get(key), opened.get("no such id"), opened[0]),
            "id": key,
        }
        opened.remove(order)
        seen["removed"] = order in opened
        opened.append(order)
        opened.append(order)
        seen["appended"] = opened.values()
        watcher.cancel(order)

    store = store_of(server)
    feed, broker = feed_of(store, server), store.getbroker()

    def act(watcher):
        if is_live(watcher) and "order" not in seen:
            rest(watcher)
        look(watcher)

    watcher = run(store, feed, broker=broker, act=act, until=lambda w: "order" in seen and has_ended(w, seen["order"]))
    order, look_ = seen["order"], seen["look"]
    (there,) = server.exchange.all_orders(server.account(), "BTCUSDT", limit=10)
    assert seen["none"] == ([], 0, False)
    assert look_["id"] == str(there.order_id)
    assert look_["orders"] == [order]
    assert look_["length"] == 1
    assert look_["keys"] == [str(there.order_id)]
    assert look_["pairs"] == [(str(there.order_id), order)]
    assert look_["inside"] == (True, True, True, False)
    assert look_["found"] == (order, order, None, order)
    assert seen["removed"] is False
    assert seen["appended"] == [order]
    assert statuses(watcher, order)[-1] == "Canceled"
    assert not broker.open_orders
    assert order not in broker.open_orders
    with pytest.raises(ValueError, match="not among the open"):
        broker.open_orders.remove(order)
    with pytest.raises(KeyError):
        broker.open_orders[str(there.order_id)]


def test_open_orders_of_a_backtest(server):
    seen = []

    def act(watcher):
        if len(watcher.data) == 5:
            seen.append(watcher.buy(size=0.1, exectype=bt.Order.Limit, price=1.0))
        if len(watcher.data) == 10:
            (order,) = seen
            opened = watcher.broker.open_orders
            seen.append((list(opened), order in opened, opened.keys(), opened[str(order.ref)]))
            watcher.cancel(order)
        if len(watcher.data) == 15:
            seen.append(len(watcher.broker.open_orders))

    store = store_of(server)
    feed = feed_of(store, server, historical=True)
    run(store, feed, broker=store.getbroker(), act=act, until=lambda w: False)
    order, opened, after = seen
    assert opened == ([order], True, [str(order.ref)], order)
    assert after == 0


def test_an_order_carries_what_the_exchange_says_and_each_fill_once(server):
    server.faults.duplicate(stream="user", times=0)
    watcher, (order, resting), _ = trade(
        server,
        lambda w: w.buy(size=0.9),
        lambda w: w.sell(size=0.9, exectype=bt.Order.Limit, price=w.data.close[0] * 0.99),
    )
    for made, side in ((order, "buy"), (resting, "sell")):
        assert isinstance(made, CCXTOrder)
        assert isinstance(made, bt.Order)
        fills = server.exchange.my_trades(server.account(), "BTCUSDT", limit=1_000)
        own = [str(fill.trade_id) for fill in fills if str(fill.order_id) == made.ccxt_order["id"]]
        assert sorted(made.executed_fills) == sorted(own)
        assert isinstance(made.executed_fills, list)
        made.executed_fills.add(own[0])
        made.executed_fills.add("another")
        assert len(made.executed_fills) == len(own) + 1
        told = made.ccxt_order
        assert (told["symbol"], told["side"], told["amount"], told["status"]) == ("BTC/USDT", side, 0.9, "closed")
        assert told["filled"] == 0.9
        assert told["clientOrderId"] == made.info.client_id
    assert [seen.ccxt_order["id"] for seen in watcher.orders if seen.ref == order.ref][-1] == order.ccxt_order["id"]


def test_a_late_report_takes_nothing_back_from_an_order(server):
    late = server.faults.delay(5.0, stream="user", event="executionReport", nth=1)
    state = {}

    def act(watcher):
        if is_live(watcher) and not state:
            state.update(order=watcher.buy(size=0.01), bars=len(watcher.data))

    store = store_of(server)
    # The delayed report has come ten bars of a second later.
    watcher = run(
        store,
        feed_of(store, server),
        broker=store.getbroker(),
        act=act,
        until=lambda w: state and has_ended(w, state["order"]) and len(w.data) >= state["bars"] + 10,
    )
    assert late.seen > 1
    told = state["order"].ccxt_order
    assert (told["status"], told["filled"], told["remaining"]) == ("closed", 0.01, 0.0)
    assert statuses(watcher, state["order"])[-1] == "Completed"


def test_an_order_is_made_of_three_or_seven_arguments(server):
    made = []

    def act(watcher):
        if not made:
            told = store.create_order("BTC/USDT", "limit", "sell", 0.01, 70_000.0)
            stop = store.create_order("BTC/USDT", "limit", "sell", 0.01, 40_000.0, {"stopLossPrice": 41_000.0})
            made.extend(
                [
                    CCXTOrder(watcher, watcher.data, told),
                    CCXTOrder(watcher, watcher.data, bt.Order.Limit, "sell", 0.01, 70_000.0, told),
                    CCXTOrder(watcher, watcher.data, stop),
                    CCXTOrder(watcher, watcher.data, None, "buy", 0.01, None, {"id": "77"}),
                ]
            )
            with pytest.raises(ConfigError, match="3 arguments"):
                CCXTOrder(watcher, watcher.data)
            with pytest.raises(ConfigError, match="side"):
                CCXTOrder(watcher, watcher.data, None, "long", 0.01, None, {})

    store = store_of(server)
    feed = feed_of(store, server)
    watcher = run(store, feed, act=act, until=lambda w: made)
    three, seven, stop, market = made
    for order in (three, seven):
        assert (order.owner, order.data, order.ccxt_order["side"]) == (watcher, feed, "sell")
        assert order.issell()
        assert (order.size, order.price, order.exectype) == (-0.01, 70_000.0, bt.Order.Limit)
        assert order.executed_fills == []
    assert three.ccxt_order["id"] == seven.ccxt_order["id"]
    assert stop.exectype == bt.Order.StopLimit
    assert (market.isbuy(), market.size, market.exectype) == (True, 0.01, bt.Order.Market)
    assert len({order.ref for order in made}) == 4


def test_a_live_broker_tells_balances_in_all_their_forms(server):
    told = []

    def look(w):
        if not told:
            return w.buy(size=0.1, exectype=bt.Order.Limit, price=50_000.0)
        return None

    store = store_of(server)
    feed, broker = feed_of(store, server), store.getbroker()
    state = {}

    def act(watcher):
        if is_live(watcher) and "order" not in state:
            state["order"] = look(watcher)
        locked = broker.get_wallet_balance("USDT") == (95_000, 100_000)
        if "order" in state and state["order"].status == bt.Order.Accepted and locked:
            told.append(
                {
                    "balance": broker.get_balance(),
                    "free": broker.get_balance("USDT"),
                    "one": broker.get_wallet_balance("BTC", params={}),
                    "missing": broker.get_wallet_balance("DOGE"),
                    "list": broker.get_wallet_balance(["USDT", "BTC", "DOGE"]),
                    "raw": broker.get_wallet_balance(),
                    "store": (store._cash, store._value),
                    "asked": len(asked(server, "/api/v3/account")),
                }
            )

    run(store, feed, broker=broker, act=act, until=lambda w: told)
    (seen, *_) = told
    assert seen["balance"] == (100_000, 100_000)
    assert seen["free"] == 95_000
    assert seen["one"] == (1.0, 1.0)
    assert seen["missing"] == (0.0, 0.0)
    assert seen["list"] == {
        "USDT": {"cash": 95_000, "value": 100_000},
        "BTC": {"cash": 1.0, "value": 1.0},
        "DOGE": {"cash": 0.0, "value": 0.0},
    }
    assert seen["raw"]["free"]["USDT"] == 95_000
    assert seen["store"] == (95_000, 100_000)
    # Pushed by the exchange, never asked for in the run.
    assert seen["asked"] == 1


def test_cash_set_before_the_broker_is_set_hurts_nothing(server):
    store = store_of(server)
    cerebro = bt.Cerebro(quicknotify=True)
    cerebro.broker.setcash(10.0)
    broker = store.getbroker()
    cerebro.setbroker(broker)
    cerebro.adddata(feed_of(store, server))

    class Look(bt.Strategy):
        def next(self):
            if self.data._laststatus == self.data.LIVE:
                self.cash = self.broker.getcash()
                self.env.runstop()

    cerebro.addstrategy(Look)
    try:
        (look,) = cerebro.run()
    finally:
        store.stop()
    assert (look.cash, broker.startingcash) == (100_000, 100_000)
    with pytest.raises(ConfigError, match="live account"):
        broker.setcash(10.0)


def never_filled(w):
    """An order that the exchange ends at once, as expired: no trader sells that low."""
    return w.buy(size=0.01, exectype=bt.Order.Limit, price=w.data.close[0] * 0.9, params={"timeInForce": "IOC"})


@pytest.mark.parametrize(
    ("order_statuses", "end"),
    [
        (None, "Expired"),
        ({"expired": [bt.Order.Canceled]}, "Canceled"),
        ({"EXPIRED": "Rejected", "open": [bt.Order.Accepted, bt.Order.Partial]}, "Rejected"),
        ({"open": [bt.Order.Accepted, bt.Order.Partial], "closed": bt.Order.Completed}, "Expired"),
    ],
)
def test_a_user_may_say_what_statuses_mean(server, order_statuses, end):
    mapping = {} if order_statuses is None else {"order_statuses": order_statuses}
    watcher, (order,), _ = trade(server, never_filled, broker_mapping=mapping)
    assert statuses(watcher, order)[-1] == end


@pytest.mark.parametrize("given", [["open", bt.Order.Completed], [bt.Order.Accepted, bt.Order.Completed], "soon", []])
def test_a_status_that_means_nothing_is_said_at_once(store, given):
    with pytest.raises(ConfigError, match="order_statuses"):
        store.getbroker(broker_mapping={"order_statuses": {"closed": given}})


def test_a_mapping_on_a_key_that_orders_lack_falls_back_to_the_status(server):
    mapping = {
        "mappings": {
            "closed_order": {"key": "status", "value": "closed"},
            "canceled_order": {"key": "result", "value": 1},
        }
    }
    watcher, (order, _), _ = trade(server, lambda w: w.buy(size=0.01), never_filled, broker_mapping=mapping)
    assert statuses(watcher, order)[-1] == "Completed"


def test_open_orders_are_looked_up_as_often_as_asked(server):
    def looks(**options):
        state = {}
        before = len(asked(server, "/api/v3/order"))

        def act(watcher):
            if is_live(watcher) and not state:
                state["order"] = watcher.buy(size=0.01, exectype=bt.Order.Limit, price=watcher.data.close[0] * 0.9)
                state["bars"] = len(watcher.data)

        store = store_of(server)
        feed = feed_of(store, server)
        # 12 bars of a second pass in 1.2 seconds here.
        run(
            store,
            feed,
            broker=store.getbroker(**options),
            act=act,
            until=lambda w: state and len(w.data) >= state["bars"] + 12,
        )
        return len(asked(server, "/api/v3/order")) - before - 1

    assert looks(check_interval=0.1) >= 5
    assert looks() <= 1


def test_without_streams_orders_and_balances_are_looked_up(server):
    account, made = server.account(), []
    store = store_of(server)
    feed, broker = feed_of(store, server), store.getbroker(use_websocket=False, check_interval=0.3)

    def act(watcher):
        if is_live(watcher) and not made:
            made.append(watcher.buy(size=0.2, exectype=bt.Order.Limit, price=watcher.data.close[0] * 0.99998))

    def until(watcher):
        held = tuple(float(account.balance(name).total) for name in ("BTC", "USDT"))
        known = broker.get_wallet_balance("BTC")[1], broker.get_wallet_balance("USDT")[1]
        return made and has_ended(watcher, made[0]) and known == held

    connects = server.connects
    watcher = run(store, feed, broker=broker, act=act, until=until)
    assert statuses(watcher, made[0])[-1] == "Completed"
    assert broker.getcash() == pytest.approx(float(account.balance("USDT").total), abs=1e-7)
    assert account.balance("BTC").total > 1
    # One connection, the market's.
    assert server.connects == connects + 1
    assert not any(request.method == "WS" for request in server.requests)
