"""What tests of live runs share: a strategy that writes down all it sees, and the exchange's own bars to hold it to."""

from __future__ import annotations

import datetime as dt
import itertools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import backtrader as bt

from ccxtbt.ccxtstore import CCXTStore
from ccxtbt.exchange.clock import Clock
from ccxtbt.market.timeframes import next_ms, parse
from ccxtbt.sim.server import API_KEY, SECRET, SimServer

# No run of a test takes longer; a run that does ends with what it saw, and its test fails.
LIMIT_S = 40.0
_numbers = itertools.count()


class Watcher(bt.Strategy):
    """Writes down each bar, state, order and notification, and ends the run when `until(self)` says so."""

    params = (("until", None), ("act", None), ("limit_s", LIMIT_S))

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.seen: dict[Any, list[tuple[float, ...]]] = {data: [] for data in self.datas}
        self.states: dict[Any, list[str]] = {data: [] for data in self.datas}
        self.bars_at_state: dict[Any, list[int]] = {data: [] for data in self.datas}
        self.messages: list[str] = []
        self.orders: list[Any] = []
        self.trades: list[Any] = []
        self.timed_out = False

    def notify_data(self, data, status, *args, **kwargs):
        self.states[data].append(data._getstatusname(status))
        self.bars_at_state[data].append(len(self.seen[data]))
        self.look()

    def notify_store(self, msg, *args, **kwargs):
        self.messages.append(msg)
        self.look()

    def notify_order(self, order):
        self.orders.append(order)
        self.look()

    def notify_trade(self, trade):
        self.trades.append(trade)

    def prenext(self):
        self.next()

    def next(self):
        for data in self.datas:
            if len(data) != len(self.seen[data]):
                assert len(data) == len(self.seen[data]) + 1
                self.seen[data].append((stamp_ms(data), *(line[0] for line in prices(data))))
        if self.p.act is not None:
            self.p.act(self)
        self.look()

    def look(self):
        self.timed_out = self.timed_out or time.monotonic() - self.began_s > self.p.limit_s
        if self.timed_out or self.p.until(self):
            self.env.runstop()


class Once:
    """Orders once, when each data is LIVE."""

    def __init__(self, order: Callable[[Watcher], Any]) -> None:
        self._order = order
        self.made: list[Any] = []

    def act(self, watcher: Watcher) -> None:
        if live(watcher) and not self.made:
            made = self._order(watcher)
            self.made += made if isinstance(made, list) else [made]


def live(watcher: Watcher) -> bool:
    return all(states[-1:] == ["LIVE"] for states in watcher.states.values())


def prices(data: Any) -> tuple[Any, ...]:
    return data.open, data.high, data.low, data.close, data.volume


def stamp_ms(data: Any) -> int:
    return round((data.datetime[0] - 719_163) * 86_400_000)


def store_of(server: SimServer, exchange: str = "binance", **options: Any) -> CCXTStore:
    """Make a store of its own for a test, on the server's speed and keys."""
    config = {"apiKey": API_KEY, "secret": SECRET, **options.pop("config", {})}
    options.setdefault("currency", "USDT")
    # Two tests never share a store.
    CCXTStore._singleton = None
    return CCXTStore(exchange, config=config, endpoint=server.url, clock=Clock(rate=server.speed), **options)


def ago(server: SimServer, **delta: float) -> dt.datetime:
    """Return a whole minute before the exchange's now, as a script would write it."""
    now = dt.datetime.fromtimestamp(server.clock.now_ms() // 60_000 * 60, dt.UTC).replace(tzinfo=None)
    return now - dt.timedelta(**delta)


def run(
    store: CCXTStore,
    *feeds: Any,
    until: Callable[[Watcher], bool],
    broker: Any = None,
    strategy: type[Watcher] = Watcher,
    **params: Any,
) -> Watcher:
    """Run a `Watcher` over feeds until it has seen enough, and leave nothing behind."""
    cerebro = bt.Cerebro(stdstats=False)
    for feed in feeds:
        cerebro.adddata(feed)
    if broker is not None:
        cerebro.setbroker(broker)
    return run_out(cerebro, store, strategy, until=until, **params)


def run_out(cerebro: bt.Cerebro, store: CCXTStore, strategy: type[Watcher] = Watcher, **params: Any) -> Watcher:
    """Run a `Watcher` on what a cerebro has, to the end or until it has seen enough, and leave nothing behind."""
    cerebro.addstrategy(strategy, **{"until": lambda _: False, **params})
    try:
        (watcher,) = cerebro.run()
    finally:
        store.stop()
    report = {data._name or data.p.dataname: watcher.states[data] for data in watcher.datas}
    assert not watcher.timed_out, f"the run did not end: {report}, {Counter(watcher.messages)}"
    return watcher


def truth(server: SimServer, feed: Any, timeframe: str, first_ms: int, last_ms: int) -> list[tuple[float, ...]]:
    """Return the exchange's own bars that open from `first_ms` to `last_ms`, stamped with their close."""
    market = server.exchange.markets[feed.p.dataname.replace("/", "")]
    frame, rows, since_ms = parse(timeframe), [], first_ms
    now_ms = server.clock.now_ms()
    while since_ms <= last_ms:
        page = market.klines(timeframe, start_ms=since_ms, end_ms=last_ms, limit=1_000, now_ms=now_ms)
        if not page:
            break
        rows += page
        since_ms = page[-1][0] + 1
    return [(next_ms(frame, row[0]), *map(float, row[1:6])) for row in rows]


def assert_equals_exchange(server: SimServer, watcher: Watcher, feed: Any, timeframe: str, since_ms: int) -> None:
    """Hold what a strategy saw against the exchange: each bar since `since_ms`, once, in order, to the last digit."""
    seen = watcher.seen[feed]
    assert seen, "no bars came"
    # The last bar seen opens within the last length of a bar before its stamp.
    last_ms = int(seen[-1][0]) - 1
    expected = truth(server, feed, timeframe, since_ms, last_ms)
    assert seen == expected, differences(seen, expected)


def differences(seen: list[tuple[float, ...]], expected: list[tuple[float, ...]]) -> str:
    stamps = Counter(bar[0] for bar in seen)
    wanted = {bar[0]: bar for bar in expected}
    doubled = [stamp for stamp, count in stamps.items() if count > 1]
    missing = [stamp for stamp in wanted if stamp not in stamps]
    extra = [stamp for stamp in stamps if stamp not in wanted]
    wrong = [(bar, wanted[bar[0]]) for bar in seen if bar[0] in wanted and wanted[bar[0]] != bar]
    return f"{len(seen)} seen, doubled {doubled}, missing {missing}, extra {extra}, wrong {wrong[:5]}"
