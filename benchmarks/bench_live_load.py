"""What does a full live load cost: 500 markets' minutes, 100 markets' seconds and the trades of 50, on two cores?

    python -m pytest --benchmark benchmarks/bench_live_load.py            (a minute, at the exchange's own pace)
    python -m pytest --benchmark -m soak benchmarks/bench_live_load.py    (an hour, ten times as fast)

Real feeds in a cerebro, the simulated exchange in another process, connected by HTTP and WebSocket on loopback. Told
are the share of one core that this process used, its memory by the time (warm after a quarter of it), how late bars
came to `next()` by the exchange's clock, and what the exchange itself used. Every bar is counted: each feed must have
all from its first to its last.

Caveats: the simulated markets push as Binance does (a forming bar every 1 or 2 s, if it traded), but each trades only
12 times a minute (those whose trades are streamed 120 times). No TLS, no compression. The strategy does nothing but
look how late it is. Memory is told with `exactbars=1`, where backtrader keeps the last bars alone; else its lines grow
by 56 bytes a bar by design, for the 390,000 bars of the hour 22 MB and what arrays keep in reserve.
"""

from __future__ import annotations

import threading
import time
from array import array
from dataclasses import replace
from typing import Any

import backtrader as bt
import psutil
import pytest

from apart import Apart
from ccxtbt import CCXTFeed, CCXTStore
from ccxtbt.exchange.clock import Clock
from ccxtbt.sim.server import START_MS
from ccxtbt.sim.spec import Spec

MINUTE_FEEDS = 500
SECOND_FEEDS = 100
TRADE_STREAMS = 50
PARTS = 12
WARM_PARTS = 3


class Lateness(bt.Strategy):
    """Writes down how late each pass is: the exchange's time less the stamp of the bars."""

    def __init__(self) -> None:
        self.firsts: dict[Any, float] = {}
        self.env.late_ms = array("d", bytes(8 * 2_000_000))
        self.env.passes = 0
        self.env.watched = False

    def prenext(self) -> None:
        self.next()

    def next(self) -> None:
        cerebro = self.env
        if len(self.firsts) < len(self.datas):
            self.firsts.update((data, data.datetime[0]) for data in self.datas if len(data) == 1)
        if cerebro.watched:
            stamp_ms = (self.datetime[0] - 719_163) * 86_400_000
            cerebro.late_ms[cerebro.passes] = cerebro.clock.now_ms() - stamp_ms
            cerebro.passes += 1


class Counting:
    """Hears trades."""

    def __init__(self) -> None:
        self.count = 0

    def up(self) -> None: ...

    def down(self, reason: str) -> None: ...

    def refused(self, error: Exception) -> None:
        raise error

    def trades(self, trades: list[Any]) -> None:
        self.count += len(trades)


def markets() -> list[Spec]:
    plain = Spec(symbol="CUSDT", base="C", quote="USDT")
    return [
        replace(
            plain, symbol=f"C{i}USDT", base=f"C{i}", trades_per_minute=120.0 if i < TRADE_STREAMS else 12.0, quiet=0.0
        )
        for i in range(MINUTE_FEEDS)
    ]


def missing(strategy: Lateness) -> int:
    """Count the bars that a feed lacks between its first and its last."""
    total = 0
    for data in strategy.datas:
        length_ms = 1_000 if data.p.timeframe == bt.TimeFrame.Seconds else 60_000
        span_ms = (data.datetime[0] - strategy.firsts[data]) * 86_400_000
        total += round(span_ms / length_ms) + 1 - len(data)
    return total


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


class Running:
    """A cerebro over all those feeds, in a thread of its own."""

    def __init__(self, exchange: Apart) -> None:
        CCXTStore._singleton = None
        self.store = CCXTStore("binance", endpoint=exchange.url, clock=Clock(rate=exchange.speed))
        self.cerebro = bt.Cerebro(stdstats=False, exactbars=1)
        self.cerebro.clock = self.store.connection.clock
        for i in range(MINUTE_FEEDS):
            self._add(f"C{i}/USDT", bt.TimeFrame.Minutes)
        for i in range(SECOND_FEEDS):
            self._add(f"C{i}/USDT", bt.TimeFrame.Seconds)
        self.cerebro.addstrategy(Lateness)
        self.trades = Counting()
        self.strategy: Any = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _add(self, symbol: str, timeframe: int) -> None:
        self.cerebro.adddata(CCXTFeed(store=self.store, dataname=symbol, timeframe=timeframe))

    def _run(self) -> None:
        (self.strategy,) = self.cerebro.run()

    @property
    def live(self) -> bool:
        started = hasattr(self.cerebro, "watched")
        return started and all(data._laststatus == data.LIVE and len(data) for data in self.cerebro.datas)

    def listen(self) -> None:
        async def subscribe() -> None:
            for i in range(TRADE_STREAMS):
                self.store.streams.subscribe_trades(f"C{i}/USDT", self.trades)

        self.store.connection.call(subscribe)

    def stop(self) -> None:
        self.cerebro.runstop()
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize(
    ("speed", "seconds"),
    [pytest.param(1, 60, id="at-its-pace"), pytest.param(10, 3_600, id="an-hour", marks=pytest.mark.soak)],
)
def test_full_load(benchmark: Any, speed: int, seconds: int) -> None:
    # The first minute, for whose end all wait, is soon over.
    with Apart(markets(), speed=speed, quiet_bars="flat", start_ms=START_MS + 40_000) as exchange:
        running = Running(exchange)
        try:
            end_s = time.monotonic() + 90
            while not running.live:
                assert time.monotonic() < end_s
                time.sleep(0.2)
            running.listen()
            process = psutil.Process()
            bars = lambda: sum(map(len, running.cerebro.datas))  # noqa: E731
            used: dict[str, Any] = {}

            def watch() -> None:
                wall_s = seconds / speed
                running.cerebro.watched = True
                began_s, cpu_s, theirs_s, count = time.monotonic(), time.process_time(), exchange.cpu_s(), bars()
                used["rss_mb"] = []
                for part in range(1, PARTS + 1):
                    time.sleep(max(0.0, began_s + wall_s * part / PARTS - time.monotonic()))
                    used["rss_mb"].append(round(process.memory_info().rss / 1e6, 1))
                passed_s = time.monotonic() - began_s
                used["cpu_share"] = (time.process_time() - cpu_s) / passed_s
                used["exchange_cpu_share"] = (exchange.cpu_s() - theirs_s) / passed_s
                used["bars"] = bars() - count
                used["trades"] = running.trades.count

            benchmark.pedantic(watch, rounds=1)
            status = exchange.order("status")
        finally:
            running.stop()
    late_ms = list(running.cerebro.late_ms[: running.cerebro.passes])
    used["late_p50_ms"], used["late_p99_ms"] = percentile(late_ms, 0.5), percentile(late_ms, 0.99)
    used["growth"] = used["rss_mb"][-1] / used["rss_mb"][WARM_PARTS - 1] - 1
    origins: dict[str, int] = {}
    for data in running.cerebro.datas:
        for origin, count in data.origins.items():
            origins[origin] = origins.get(origin, 0) + count
    benchmark.extra_info.update(
        speed=speed, passes=running.cerebro.passes, origins=origins, requests=status["requests"],
        missing=missing(running.strategy), **used,
    )  # fmt: skip
    assert missing(running.strategy) == 0
    assert set(status["requests"]) == {"200"}
    if seconds >= 3_600:
        assert used["growth"] <= 0.05
