"""The specification's three examples run: completed where they leave something out, else as they are written."""

import datetime as dt
import sys
from dataclasses import replace
from types import ModuleType

import pytest

from ccxtbt import CCXTStore
from ccxtbt.sim.server import API_KEY, SECRET
from simulated import BTC

HOUR_MS = 3_600_000
YEAR_2024_MS = 1_704_067_200_000
OURS = "import backtrader as bt\nfrom ccxtbt import BracketOrderManager, CCXTBroker, CCXTFeed, CCXTStore\n"
ITS_OWN = (
    "import ccxtbt\nimport backtrader as bt\nfrom backtrader.brokers import CCXTBroker\n"
    "from backtrader.feeds import CCXTFeed\nimport ccxt\nfrom ccxtbt import BracketOrderManager\n"
    "CCXTStore = bt.stores.CCXTStore\n"
)
# Completed in each: the import of datetime, and a strategy that writes down what it sees.
BEGIN = """
from datetime import datetime

class Seen(bt.Strategy):
    bars, orders, states = [], [], []

    def next(self):
        self.bars.append((self.data.datetime.datetime(), self.data.close[0]))

    def notify_data(self, data, status):
        self.states.append(data._getstatusname(status))

    def notify_order(self, order):
        self.orders.append((order.ref, order.getstatusname()))
"""
BACKTEST = """
exchange_config = {
    'apiKey': 'your_api_key',
    'secret': 'your_secret',
    'enableRateLimit': True,
}

store = CCXTStore(
    exchange='binance',
    config=exchange_config
)

cerebro = bt.Cerebro()

cerebro.setbroker(CCXTBroker(store=store))

data = CCXTFeed(
    exchange='binance',
    symbol='BTC/USDT',
    timeframe='1h',
    fromdate=datetime(2023, 1, 1),
    todate=datetime(2023, 12, 31),
    live=False
)
cerebro.adddata(data)
"""
LIVE = """
data = CCXTFeed(
    exchange='binance',
    symbol='BTC/USDT',
    timeframe='1h',
    live=True,
    check_interval=30
)

cerebro.setbroker(CCXTBroker(
    store=store,
    check_interval=5,
    use_websocket=True
))
"""
BRACKET = """
class BracketStrategy(Seen):
    def __init__(self):
        self.bracket_mgr = BracketOrderManager(self.broker)
        # Supplied: a data has no average of its own.
        self.data.sma = bt.indicators.SMA(self.data, period=10)

    def next(self):
        super().next()
        if not self.position:
            if self.data.close[0] > self.data.sma[0]:
                entry = self.data.close[0]
                stop = entry * 0.95
                limit = entry * 1.05

                self.bracket_mgr.create_bracket(
                    self.data,
                    size=0.1,
                    entry_price=entry,
                    stop_price=stop,
                    limit_price=limit
                )
"""
RUN = "\ntry:\n    result = cerebro.run()\nfinally:\n    store.stop()\n"
pytestmark = pytest.mark.timeout(60)
IMPORTS = pytest.mark.parametrize("imports", [OURS, ITS_OWN], ids=["ours", "its own"])


@pytest.fixture
def script(monkeypatch):
    """Run a script of these parts in a module of its own, led to a simulator."""

    def ran(server, *parts):
        CCXTStore._singleton = None
        monkeypatch.setenv("CCXTBT_ENDPOINT", server.url)
        # backtrader looks a strategy's module up.
        module = ModuleType("example")
        monkeypatch.setitem(sys.modules, "example", module)
        exec("".join(parts), module.__dict__)
        return module.__dict__

    return ran


@pytest.fixture
def year(simulator):
    """A simulator on the first day of 2024, with the year before."""
    quiet = replace(BTC, trades_per_minute=0.2)
    return simulator((quiet,), start_ms=YEAR_2024_MS, history_ms=366 * 24 * HOUR_MS, quiet_bars="flat")


def stamp(ms):
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).replace(tzinfo=None)


@IMPORTS
def test_the_backtest_of_a_year(year, script, imports):
    names = script(year, imports, BEGIN, BACKTEST, "cerebro.addstrategy(Seen)\n", RUN)
    bars = names["Seen"].bars
    first_ms, last_ms = YEAR_2024_MS - 365 * 24 * HOUR_MS, YEAR_2024_MS - 24 * HOUR_MS
    rows = [
        row
        for since_ms in range(first_ms, last_ms + 1, 1_000 * HOUR_MS)
        for row in year.exchange.markets["BTCUSDT"].klines(
            "1h", start_ms=since_ms, end_ms=last_ms, limit=1_000, now_ms=YEAR_2024_MS
        )
    ]
    assert len(rows) == 364 * 24 + 1
    assert bars == [(stamp(row[0] + HOUR_MS), float(row[4])) for row in rows]
    assert not year.exchange.all_orders(year.account(), "BTCUSDT", limit=10)


def live_store(server):
    """Begin the first example with keys that the simulator takes, which a live run needs."""
    config = BACKTEST.replace("your_api_key", API_KEY).replace("your_secret", SECRET)
    return config.split("data = ")[0]


def test_the_live_run(simulator, script):
    # Three seconds before an hour ends.
    server = simulator((BTC,), start_ms=YEAR_2024_MS - 3_000, history_ms=2 * HOUR_MS, balances={"USDT": 100_000})
    end = "cerebro.adddata(data)\nclass Once(Seen):\n    def next(self):\n        super().next()\n        "
    end += "self.env.runstop()\ncerebro.addstrategy(Once)\n"
    names = script(server, ITS_OWN, BEGIN, live_store(server), LIVE, end, RUN)
    (row,) = server.exchange.markets["BTCUSDT"].klines(
        "1h", start_ms=YEAR_2024_MS - HOUR_MS, end_ms=YEAR_2024_MS - 1, limit=1, now_ms=server.clock.now_ms()
    )
    assert names["Seen"].bars == [(stamp(YEAR_2024_MS), float(row[4]))]
    assert names["Seen"].states == ["LIVE"]
    broker = names["cerebro"].broker
    assert (broker.p.check_interval, broker.p.use_websocket, broker.getcash()) == (5, True, 100_000)


def test_the_bracket_in_a_backtest(simulator, script):
    server = simulator((BTC,), start_ms=YEAR_2024_MS, history_ms=10 * 24 * HOUR_MS)
    dates = BACKTEST.replace("datetime(2023, 1, 1)", "datetime(2023, 12, 24)")
    names = script(server, OURS, BEGIN, BRACKET, dates, "cerebro.addstrategy(BracketStrategy)\n", RUN)
    orders = names["Seen"].orders
    (strategy,) = names["result"]
    brackets = strategy.bracket_mgr.brackets
    entered = [ref for ref, status in orders if status == "Completed" and ref in brackets]
    assert entered
    for ref in entered[:-1]:
        exits = {brackets[ref].stop.getstatusname(), brackets[ref].limit.getstatusname()}
        assert exits == {"Completed", "Canceled"}


def test_the_bracket_in_a_live_run(simulator, script):
    busy = replace(BTC, trades_per_minute=3_000.0, quiet=0.0)
    server = simulator((busy,), history_ms=HOUR_MS, balances={"USDT": 100_000})
    live = """
from datetime import timedelta
start = store.exchange.fetch_time() // 1000
data = CCXTFeed(exchange='binance', symbol='BTC/USDT', timeframe='1s', live=True,
                fromdate=datetime.utcfromtimestamp(start) - timedelta(seconds=60))
cerebro.adddata(data)
cerebro.setbroker(CCXTBroker(store=store, check_interval=5, use_websocket=True))

class Entered(BracketStrategy):
    def notify_order(self, order):
        super().notify_order(order)
        if any(each.stop.status == order.Accepted for each in self.bracket_mgr.brackets.values()):
            self.env.runstop()
    def next(self):
        if self.states[-1] == 'LIVE':
            super().next()

cerebro.addstrategy(Entered)
"""
    names = script(server, ITS_OWN, BEGIN, BRACKET, live_store(server), live, RUN)
    (strategy,) = names["result"]
    brackets = list(strategy.bracket_mgr.brackets.values())
    bracket = next(each for each in brackets if each.stop.status == each.stop.Accepted)
    made = {str(order.order_id): order for order in server.exchange.all_orders(server.account(), "BTCUSDT", limit=100)}
    entry, stop = made[bracket.entry.ccxt_order["id"]], made[bracket.stop.ccxt_order["id"]]
    assert (entry.side, entry.type, float(entry.price)) == ("BUY", "LIMIT", round(bracket.entry.price, 2))
    # The stop is there as soon as something is filled.
    assert entry.executed > 0
    assert (stop.side, stop.status) == ("SELL", "NEW")
    assert float(stop.stop_price) == pytest.approx(bracket.stop.price, abs=0.01)
    assert strategy.states == ["DELAYED", "LIVE"]
