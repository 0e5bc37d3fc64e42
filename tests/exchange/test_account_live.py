"""Money and positions of a live run, against the exchange's own books to the last unit."""

from dataclasses import replace
from decimal import Decimal

import backtrader as bt
import ccxt
import pytest

from ccxtbt.ccxtbroker import CCXTBroker
from ccxtbt.ccxtstore import CCXTStore
from ccxtbt.errors import ConfigError
from ccxtbt.sim.server import API_KEY
from ccxtbt.sim.spec import Spec
from planned import SECONDS, Plan, assert_books_agree, statuses
from simulated import BNB, BTC, ETH, point
from watching import Watcher, ago, run, store_of

HOUR_MS = 3_600_000
ETHBTC = Spec(
    symbol="ETHBTC",
    base="ETH",
    quote="BTC",
    price=Decimal("0.05"),
    tick_size=Decimal("0.00001"),
    min_notional=Decimal("0.0001"),
    trades_per_minute=300.0,
)
OPENING = {"USDT": 100_000, "BTC": 0}


@pytest.fixture
def server(simulator):
    return simulator((replace(BTC, volatility=0.003), ETH), seed=2, history_ms=HOUR_MS, speed=5, balances=OPENING)


def feed_of(store, server, symbol="BTC/USDT", **options):
    return store.getdata(dataname=symbol, **{"fromdate": ago(server, minutes=1), **SECONDS, **options})


def by_hand(server):
    """Return another client of the same account: its orders are not of the run."""
    return point(ccxt.binance({"options": {"fetchMarkets": {"types": ["spot"]}, "fetchCurrencies": False}}), server)


def held(server, asset):
    return server.call(lambda: server.account(API_KEY).balance(asset).total)


def agrees(broker, server, *assets):
    return all(broker.amount(asset) == held(server, asset) for asset in assets)


def test_deposits_and_withdrawals_are_booked_apart_and_told(server):
    store = store_of(server)
    feed, broker = feed_of(store, server), store.getbroker(check_interval=0.5)

    def move(w):
        server.deposit("USDT", 500)
        server.deposit("DOGE", 7)
        return w.buy(size=0.5)

    plan = Plan(move, lambda w: server.deposit("USDT", "-200.5"), lambda w: w.close())
    watcher = run(
        store,
        feed,
        broker=broker,
        act=plan.act,
        until=lambda w: plan.until(w) and sum(a.changes.get("USDT", 0) for a in broker.apart) == Decimal("299.5"),
    )
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed"] * 2
    assert all(apart.fill is None for apart in broker.apart)
    assert sum(apart.changes.get("DOGE", 0) for apart in broker.apart) == 7
    assert len([text for text in watcher.messages if "booked apart" in text]) == len(broker.apart)
    assert agrees(broker, server, "USDT", "BTC", "DOGE")
    assert_books_agree(server, watcher, broker, OPENING)
    (closed,) = [trade for trade in watcher.trades if trade.isclosed]
    # What came from outside is in the cash and in no trade.
    assert broker.getcash() == pytest.approx(100_299.5 + closed.pnlcomm, abs=0.7)


def test_no_fill_of_our_own_is_ever_taken_for_a_deposit(server):
    # Reports of fills come more than a second late, while balances come at once.
    server.faults.delay(6.0, stream="user", event="executionReport", times=0)
    store = store_of(server)
    feed, broker = feed_of(store, server), store.getbroker(check_interval=30)
    stop = {"size": 0.1, "exectype": bt.Order.Stop}
    plan = Plan(
        *[
            lambda w: w.buy(**stop, price=w.data.close[0] * 1.00002),
            lambda w: w.sell(**stop, price=w.data.close[0] * 0.99998),
        ]
        * 2,
        lambda w: w.close(),
    )
    watcher = run(store, feed, broker=broker, act=plan.act, until=plan.until)
    assert server.faults.log
    assert not broker.apart
    assert_books_agree(server, watcher, broker, OPENING)


def test_an_order_of_another_client_is_told_and_changes_no_position(server):
    other = by_hand(server)
    store = store_of(server)
    feed, broker = feed_of(store, server), store.getbroker(check_interval=0.5)

    def trade_by_hand(w):
        other.create_order("BTC/USDT", "market", "buy", 0.25)

    plan = Plan(lambda w: w.buy(size=0.5), trade_by_hand, lambda w: w.close())
    watcher = run(
        store,
        feed,
        broker=broker,
        act=plan.act,
        until=lambda w: plan.until(w) and broker.apart and agrees(broker, server, "USDT", "BTC"),
    )
    assert {apart.fill.symbol for apart in broker.apart} == {"BTC/USDT"}
    assert sum(apart.changes["BTC"] for apart in broker.apart) == Decimal("0.24975")
    assert any("not of this run" in text for text in watcher.messages)
    assert broker.getposition(feed).size == 0
    assert sum(order.executed.size for order in plan.made) == pytest.approx(0.0005)
    assert len([trade for trade in watcher.trades if trade.isclosed]) == 1


def test_without_streams_a_trade_of_another_client_is_found_by_the_balance(server):
    other = by_hand(server)
    store = store_of(server)
    feed = feed_of(store, server)
    broker = store.getbroker(check_interval=0.5, use_websocket=False, balance_ttl=0.5)
    plan = Plan(
        lambda w: w.buy(size=0.5),
        lambda w: other.create_order("BTC/USDT", "market", "buy", 0.25) and None,
        lambda w: other.create_order("ETH/USDT", "market", "buy", 1) and None,
    )
    watcher = run(
        store,
        feed,
        broker=broker,
        act=plan.act,
        until=lambda w: plan.until(w) and len(broker.apart) > 1 and agrees(broker, server, "USDT", "BTC", "ETH"),
    )
    assert broker.getposition(feed).size == pytest.approx(0.4995)
    # In the market of the run it is known for the trade that it was; elsewhere only as what it did.
    assert {apart.fill and apart.fill.symbol for apart in broker.apart} == {"BTC/USDT", None}
    assert not [order for order in watcher.orders if order.ref != plan.made[0].ref]


def test_what_was_traded_before_the_start_is_not_booked_again(server):
    other = by_hand(server)
    other.create_order("BTC/USDT", "market", "buy", 0.25)
    store = store_of(server)
    feed = feed_of(store, server)
    broker = store.getbroker(check_interval=0.5, use_websocket=False, balance_ttl=0.5)
    plan = Plan(lambda w: w.buy(size=0.5), lambda w: server.deposit("USDT", 1), lambda w: w.close())
    run(store, feed, broker=broker, act=plan.act, until=lambda w: plan.until(w) and broker.apart)
    assert [apart.changes for apart in broker.apart] == [{"USDT": 1}]
    assert agrees(broker, server, "USDT", "BTC")


def test_a_run_may_begin_with_what_the_account_holds(server):
    server.deposit("BTC", "0.300004")
    store = store_of(server)
    feed, broker = feed_of(store, server), store.getbroker(check_interval=0.5, position="balance")
    begun = []

    def look(w):
        begun.append((w.position.size, w.position.price, w.broker.getvalue(), w.data.close[0]))
        return w.close()

    plan = Plan(look)
    watcher = run(store, feed, broker=broker, act=plan.act, until=plan.until)
    ((size, price, value, close),) = begun
    assert size == 0.3
    assert value == pytest.approx(100_000 + 0.3 * close)
    assert broker.startingvalue == pytest.approx(100_000 + 0.3 * price, rel=0.01)
    assert any("begins with 0.30000 BTC" in text for text in watcher.messages)
    # The strategy hears of no order but its own, and has the trade that its order closed.
    assert {order.ref for order in watcher.orders} == {plan.made[0].ref}
    (closed,) = [trade for trade in watcher.trades if trade.isclosed]
    sold = plan.made[0].executed
    assert closed.pnl == pytest.approx(0.3 * (sold.price - price))
    assert closed.pnlcomm == pytest.approx(closed.pnl - sold.comm)
    assert watcher.position.size == 0
    assert agrees(broker, server, "USDT", "BTC")


def test_by_fills_a_run_begins_flat_whatever_is_held(server):
    server.deposit("BTC", 2)
    store = store_of(server)
    feed, broker = feed_of(store, server), store.getbroker(check_interval=0.5)
    seen = []
    plan = Plan(lambda w: seen.append((w.position.size, w.broker.getvalue())))
    run(store, feed, broker=broker, act=plan.act, until=plan.until)
    assert seen == [(0, 100_000.0)]


def test_a_position_of_another_kind_is_refused():
    CCXTStore._singleton = None
    with pytest.raises(ConfigError, match="'fills' or 'balance'"):
        CCXTBroker(exchange="binance", position="all")


@pytest.mark.parametrize("with_feed", [False, True])
def test_a_fee_in_a_third_coin_is_in_the_commission_and_leaves_the_position_whole(simulator, with_feed):
    server = simulator(
        (BTC, BNB),
        seed=3,
        history_ms=HOUR_MS,
        speed=5,
        balances={"USDT": 100_000, "BTC": 0, "BNB": 10},
        exchange_options={"fee_coin": "BNB"},
    )
    store = store_of(server)
    feeds = [feed_of(store, server)] + [feed_of(store, server, "BNB/USDT")] * with_feed
    broker = store.getbroker(check_interval=0.5)
    plan = Plan(lambda w: w.buy(size=0.5), lambda w: w.close())
    watcher = run(store, *feeds, broker=broker, act=plan.act, until=plan.until)
    bought, sold = plan.made
    fills = server.exchange.my_trades(server.account(API_KEY), "BTCUSDT", limit=100)
    assert {fill.commission_asset for fill in fills} == {"BNB"}
    assert (bought.executed.size, sold.executed.size, broker.getposition(feeds[0]).size) == (0.5, -0.5, 0)
    # A tenth of a per cent, less the quarter that is off in BNB.
    for order in (bought, sold):
        assert order.executed.comm == pytest.approx(0.00075 * 0.5 * order.executed.price, rel=0.01)
    (closed,) = [trade for trade in watcher.trades if trade.isclosed]
    assert closed.commission == pytest.approx(bought.executed.comm + sold.executed.comm)
    assert broker.amount("BNB") == 10 - sum(fill.commission for fill in fills)
    assert agrees(broker, server, "USDT", "BTC", "BNB")


def test_value_is_told_in_the_stores_currency_through_the_markets(simulator):
    server = simulator(
        (BTC, ETH, ETHBTC), seed=4, history_ms=HOUR_MS, speed=5, balances={"USDT": 10_000, "BTC": 1, "ETH": 0}
    )
    store = store_of(server)
    # No feed tells what a bitcoin is worth: its market is asked.
    feed, broker = feed_of(store, server, "ETH/BTC"), store.getbroker(check_interval=0.5)
    seen = []

    def look(w):
        seen.append((w.broker.getcash(), w.broker.getvalue(), w.broker.getvalue([feed]), float(w.position.size)))

    def buy(w):
        look(w)
        return w.order_target_value(target=6_000)

    plan = Plan(buy, look)
    run(store, feed, broker=broker, act=plan.act, until=plan.until)
    (cash, value, _, _), (cash_after, value_after, worth, size) = seen
    assert cash == cash_after == 10_000
    assert value == pytest.approx(70_000, rel=0.05)
    assert value_after == pytest.approx(value, rel=0.005)
    assert worth == pytest.approx(6_000, rel=0.01)
    assert size == pytest.approx(2, rel=0.1)


def test_cash_and_value_ask_nothing_and_the_balance_is_refreshed(server):
    store = store_of(server)
    feed = feed_of(store, server)
    broker = store.getbroker(check_interval=0.5, balance_ttl=1.0)
    asked = []

    def many(w):
        before = len(server.requests)
        for _ in range(1_000):
            w.broker.getcash(), w.broker.getvalue(), w.broker.get_balance(), w.broker.get_balance("USDT")
            w.broker.get_wallet_balance("BTC"), w.broker.get_wallet_balance(["BTC"]), w.broker.get_wallet_balance()
        asked.append(len(server.requests) - before)

    def fetched():
        return [request for request in server.requests if request.path == "/api/v3/account"]

    plan = Plan(lambda w: w.buy(size=0.5), many)
    watcher = run(
        store,
        feed,
        broker=broker,
        act=plan.act,
        until=lambda w: (
            plan.until(w) and len(fetched()) > 3 and broker.get_wallet_balance("BTC")[1] == float(held(server, "BTC"))
        ),
    )
    # A background question may fall into the moment; a thousand would show.
    assert asked[0] < 5
    assert broker.get_balance() == (broker.getcash(), broker.getvalue())
    assert broker.get_balance("USDT") == float(held(server, "USDT"))
    assert_books_agree(server, watcher, broker, OPENING)


@pytest.mark.parametrize("quick", [True, False])
def test_a_fill_is_told_before_the_next_bar(server, quick):
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=5), timeframe=bt.TimeFrame.Minutes)
    bars = {}

    class Noting(Watcher):
        def notify_order(self, order):
            bars.setdefault(order.getstatusname(), len(self.data))
            super().notify_order(order)

    plan = Plan(lambda w: bars.setdefault("ordered", len(w.data)) and w.buy(size=0.1))
    cerebro = bt.Cerebro(stdstats=False, quicknotify=quick)
    cerebro.adddata(feed)
    cerebro.setbroker(store.getbroker())
    cerebro.addstrategy(Noting, act=plan.act, until=plan.until)
    (watcher,) = cerebro.run()
    assert not watcher.timed_out
    # A minute lasts twelve seconds here.
    assert bars["ordered"] == bars["Submitted"] == bars["Accepted"] == bars["Completed"]


class Whole(Watcher):
    """Orders in each way that backtrader has without a size of its own."""

    def __init__(self):
        super().__init__()
        self.steps = [
            lambda: self.order_target_percent(target=0.3),
            lambda: self.order_target_size(target=0.12345),
            lambda: self.order_target_value(target=5_000.0),
            lambda: self.buy(),
            lambda: self.order_target_percent(target=0.0),
            lambda: self.buy(size=0.1),
            lambda: self.buy(size=0.2),
            lambda: self.close(),
        ]
        self.made, self.sizes = [], []

    def next(self):
        super().next()
        if self.states[self.data][-1:] != ["LIVE"] or any(order.alive() for order in self.made):
            return
        self.sizes.append(float(self.position.size))
        if self.steps:
            order = self.steps.pop(0)()
            self.made += [order] if order is not None else []


def test_what_backtrader_has_works_unmodified(server, tmp_path):
    store = store_of(server)
    cerebro = bt.Cerebro()
    cerebro.adddata(feed_of(store, server))
    broker = store.getbroker(check_interval=0.5)
    cerebro.setbroker(broker)
    cerebro.addsizer(bt.sizers.PercentSizer, percents=10, retint=False)
    for analyzer in (bt.analyzers.TradeAnalyzer, bt.analyzers.PyFolio, bt.analyzers.TimeReturn, bt.analyzers.DrawDown):
        cerebro.addanalyzer(analyzer, _name=analyzer.__name__.lower())
    for analyzer in (bt.analyzers.PositionsValue, bt.analyzers.Transactions, bt.analyzers.SQN):
        cerebro.addanalyzer(analyzer, _name=analyzer.__name__.lower())
    cerebro.addwriter(bt.WriterFile, csv=True, out=str(tmp_path / "out.csv"))
    cerebro.addstrategy(Whole, until=lambda w: not w.steps and len(w.sizes) > 8)
    (watcher,) = cerebro.run()
    assert not watcher.timed_out
    assert {order.getstatusname() for order in watcher.made} == {"Completed"}
    assert all(order.executed.remsize == 0 for order in watcher.made)
    by_percent, by_size, by_value, _, flat, _, both, closed = watcher.sizes[1:9]
    close = watcher.data.close[0]
    assert by_percent * close == pytest.approx(30_000, rel=0.1)
    assert by_size == pytest.approx(0.12345, rel=0.01)
    assert by_value * close == pytest.approx(5_000, rel=0.1)
    # 0.1 and 0.2, less their fees, are closed to the last unit.
    assert flat == closed == 0
    assert both == pytest.approx(0.2997)
    analysis = watcher.analyzers.tradeanalyzer.get_analysis()
    assert (analysis.total.closed, analysis.total.open) == (2, 0)
    returns, _positions, transactions, _ = watcher.analyzers.pyfolio.get_pf_items()
    assert len(returns)
    assert len(transactions)
    assert watcher.analyzers.positionsvalue.get_analysis()
    assert watcher.observers.broker.value[0] == pytest.approx(broker.getvalue(), rel=0.01)
    assert (tmp_path / "out.csv").read_text().count("\n") > 10
    assert_books_agree(server, watcher, broker, OPENING)
