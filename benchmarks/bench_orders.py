"""How long does `buy()` keep a strategy, and how soon after a fill's message does `notify_order` hear of it?

    python -m pytest --benchmark benchmarks/bench_orders.py

A live run against the simulated exchange in a process of its own, with the journal on. Beside ours stands the design of
bt-ccxt-store, described here: its `buy()` asks the exchange on the strategy's thread and waits for the answer, measured
with ccxt's own synchronous class on the same exchange. There the round trip is loopback's; a real one adds its own. How
soon that design hears of a fill is no matter of speed: it asks at each bar.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time

import backtrader as bt
import orjson
import pytest

from ccxtbt import CCXTStore
from ccxtbt.exchange.clock import Clock
from ccxtbt.exchange.private import Private

SPEED = 5.0
BUYS = 300
FILLS = 150
PEERS_BUYS = 30
LIMIT_S = 120.0
SPEC = {
    "symbol": "BTCUSDT", "base": "BTC", "quote": "USDT", "price": "60000", "tick_size": "0.01",
    "step_size": "0.00001", "min_qty": "0.00001", "trades_per_minute": 1200.0, "volatility": 0.003,
}  # fmt: skip
TRADE_ID = re.compile(rb'"x":"TRADE".*?"t":(\d+)')


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    """The address and keys of a simulated exchange in a process of its own."""
    config = tmp_path_factory.mktemp("exchange") / "config.json"
    config.write_bytes(orjson.dumps({"specs": [SPEC], "balances": "USDT:100000000,BTC:1000"}))
    command = [sys.executable, "-m", "ccxtbt.sim", "--with-stdin", "--config", str(config)]
    command += ["--speed", str(SPEED), "--history-days", "0.05"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield orjson.loads(process.stdout.readline())
        process.stdin.close()


def store_of(exchange, journal):
    CCXTStore._singleton = None
    keys = {"apiKey": exchange["api_key"], "secret": exchange["secret"]}
    return CCXTStore(
        "binance", "USDT", keys, endpoint=exchange["url"], clock=Clock(rate=SPEED), journal=journal, orders="always"
    )


class Timed(bt.Strategy):
    """Buys at each bar below the market, and writes down how long that took and when it heard of fills."""

    params = (("until", None), ("at_once", 1))

    def __init__(self):
        self.began_s = time.monotonic()
        self.live = False
        self.bought_s, self.heard_s = [], {}

    def notify_data(self, data, status, *args, **kwargs):
        self.live = data._getstatusname(status) == "LIVE"

    def notify_order(self, order):
        now_s = time.perf_counter()
        for number in order.executed_fills:
            self.heard_s.setdefault(number, now_s)
        self.look()

    def next(self):
        if self.live and len(self.bought_s) < BUYS:
            for _ in range(self.p.at_once):
                price = self.data.close[0] * 0.99999
                began_s = time.perf_counter()
                self.buy(size=0.001, exectype=bt.Order.Limit, price=price)
                self.bought_s.append(time.perf_counter() - began_s)
        self.look()

    def look(self):
        if self.p.until(self) or time.monotonic() - self.began_s > LIMIT_S:
            self.env.runstop()


def live(exchange, journal, until, at_once):
    store = store_of(exchange, journal)
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.adddata(store.getdata(dataname="BTC/USDT", timeframe=bt.TimeFrame.Seconds, compression=1))
    cerebro.setbroker(store.getbroker())
    cerebro.addstrategy(Timed, until=until, at_once=at_once)
    (strategy,) = cerebro.run()
    return strategy


@pytest.mark.parametrize("kept", [True, False], ids=["journal on", "journal off"])
def test_buy(exchange, benchmark, tmp_path, kept):
    def run():
        return live(
            exchange, tmp_path / "journal.sqlite" if kept else None, lambda w: len(w.bought_s) >= BUYS, at_once=10
        )

    strategy = benchmark.pedantic(run, rounds=1)
    took_us = sorted(1e6 * each for each in strategy.bought_s)
    median_us, p99_us = statistics.median(took_us), took_us[int(0.99 * len(took_us)) - 1]
    benchmark.extra_info.update(buys=len(took_us), median_us=median_us, p99_us=p99_us)
    print(f"buy(): median {median_us:.0f} us, p99 {p99_us:.0f} us")
    assert len(took_us) >= BUYS


def test_buy_that_asks_and_waits(exchange, benchmark):
    store = store_of(exchange, None)
    ask = store.exchange
    ask.load_markets()
    price = ask.fetch_ticker("BTC/USDT")["last"]
    taken_us = []

    def buy():
        began_s = time.perf_counter()
        ask.create_order("BTC/USDT", "limit", "buy", 0.001, round(price * 0.9, 2))
        taken_us.append(1e6 * (time.perf_counter() - began_s))

    benchmark.pedantic(buy, rounds=PEERS_BUYS)
    benchmark.extra_info.update(median_us=statistics.median(taken_us), peer="bt-ccxt-store's design")
    print(f"buy() that asks and waits: median {statistics.median(taken_us):.0f} us")
    store.stop()


@pytest.mark.parametrize("at_once", [1, 10], ids=["one order a bar", "ten orders a bar"])
def test_fill_to_notify_order(exchange, benchmark, tmp_path, monkeypatch, at_once):
    came_s = {}
    plain = Private._hear

    def tap(private, data):
        body = data.encode() if isinstance(data, str) else bytes(data)
        if b"executionReport" in body and (found := TRADE_ID.search(body)):
            came_s.setdefault(found[1].decode(), time.perf_counter())
        return plain(private, data)

    def run():
        journal = tmp_path / "journal.sqlite"
        return live(exchange, journal, lambda w: len(came_s.keys() & w.heard_s.keys()) >= FILLS, at_once)

    monkeypatch.setattr(Private, "_hear", tap)
    strategy = benchmark.pedantic(run, rounds=1)
    both = came_s.keys() & strategy.heard_s.keys()
    # Below 0: the answer to the order or a look-up had told the fill before its message came.
    taken_ms = sorted(1e3 * (strategy.heard_s[number] - came_s[number]) for number in both)
    taken_ms = [each for each in taken_ms if each > 0]
    median_ms, p99_ms = statistics.median(taken_ms), taken_ms[int(0.99 * len(taken_ms)) - 1]
    benchmark.extra_info.update(fills=len(taken_ms), median_ms=median_ms, p99_ms=p99_ms)
    found = f"{len(taken_ms)} fills, median {median_ms:.2f} ms, p99 {p99_ms:.2f} ms"
    print(f"fill to notify_order, {at_once} orders a bar: {found}")
