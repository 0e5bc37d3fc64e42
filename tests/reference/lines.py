"""What backtrader does with the same bars: the reference of BulkFeed is PandasData, to the last bit of each line."""

from __future__ import annotations

import datetime as dt
import io
import itertools
import re
from collections.abc import Callable
from typing import Any

import backtrader as bt
import numpy as np
import pandas as pd

from ccxtbt.bulkfeed import BulkFeed

DAY_MS = 86_400_000
EPOCH = dt.datetime.fromisoformat("1970-01-01")  # naive UTC, as all of backtrader's
START_MS = 1_609_372_800_000  # 2020-12-31 00:00 UTC: a year, a month and a week end soon after

Columns = tuple[np.ndarray, np.ndarray]
Make = Callable[..., Any]


def num_of(ts_ms: int) -> float:
    """Backtrader's own number of a time."""
    return bt.date2num(EPOCH + dt.timedelta(milliseconds=ts_ms))


def columns(bars: int, *, step_ms: int = 60_000, start_ms: int = START_MS, seed: int = 1, gaps: float = 0.0) -> Columns:
    """Seeded bars of a random walk; `gaps` is the share of bars that are left out."""
    rng = np.random.default_rng(seed)
    ts_ms = start_ms + np.arange(bars, dtype=np.int64) * step_ms
    close = np.round(100.0 * np.exp(np.cumsum(rng.normal(0.0, 2e-3, bars))), 2)
    opened = np.concatenate([close[:1], close[:-1]])
    high = np.maximum(opened, close) + np.round(rng.random(bars) * 0.3, 2)
    low = np.minimum(opened, close) - np.round(rng.random(bars) * 0.3, 2)
    ohlcv = np.ascontiguousarray([opened, high, low, close, np.round(rng.random(bars) * 10, 4)])
    kept = rng.random(bars) >= gaps
    return ts_ms[kept], np.ascontiguousarray(ohlcv[:, kept])


def bulk(bars: Columns, **kwargs: Any) -> BulkFeed:
    """The feed under test, stamped with the open unless said otherwise."""
    return BulkFeed(columns=bars, **{"stamp": "open", **kwargs})


def pandas(bars: Columns, *, shift_ms: int = 0, **kwargs: Any) -> Any:
    """Backtrader's own feed over the same bars, stamped `shift_ms` after their open."""
    ts_ms, ohlcv = bars
    names = ("open", "high", "low", "close", "volume")
    index = pd.to_datetime(ts_ms + shift_ms, unit="ms")
    return bt.feeds.PandasData(dataname=pd.DataFrame(dict(zip(names, ohlcv, strict=True)), index=index), **kwargs)


class ByHand(bt.Indicator):
    """An indicator with next() only, which backtrader advances by itself when it runs once."""

    lines = ("spread",)

    def __init__(self) -> None:
        self.addminperiod(3)

    def next(self) -> None:
        self.lines.spread[0] = self.data.high[0] - self.data.low[-2]


class Recorder(bt.Strategy):
    """Trades in many ways and writes down all that a strategy can see."""

    params = (("period", 5), ("coupled", False), ("log", True))

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.told: list[Any] = []
        self.calls = 0
        self.kept: list[Any] = []
        for data in self.datas:
            average = bt.indicators.SMA(data, period=self.p.period)
            self.kept += [
                average,
                bt.indicators.CrossOver(data.close, average),
                bt.indicators.RSI(data.close, period=self.p.period, safediv=True),
                bt.indicators.BollingerBands(data, period=self.p.period),
                bt.indicators.ATR(data, period=self.p.period),
                ByHand(data),
                bt.indicators.EMA(data.open, period=3),
                data.close(-1) - data.low,
                bt.Max(data.high, data.close(-2)),
            ]
        if self.p.coupled:
            self.kept.append(self.datas[-1].close())

    def prenext(self) -> None:
        self.look("pre")

    def nextstart(self) -> None:
        self.look("start")

    def next(self) -> None:
        self.look("next")
        self.calls += 1
        for number, data in enumerate(self.datas):
            size = self.getposition(data).size
            turn = (self.calls + 3 * number) % 23
            if turn == 1:
                self.buy(data, size=2)
            elif turn == 4 and size:
                self.close(data)
            elif turn == 7:
                self.buy(data, size=1, exectype=bt.Order.Limit, price=data.low[0], valid=dt.timedelta(minutes=30))
            elif turn == 11:
                self.sell(data, size=1, exectype=bt.Order.Stop, price=data.low[-1])
            elif turn == 14:
                self.buy_bracket(data, size=1, price=data.close[0], stopprice=data.low[0], limitprice=data.high[0])
            elif turn == 18:
                self.sell(data, size=1, exectype=bt.Order.Close)

    def look(self, phase: str) -> None:
        if not self.p.log:
            return
        row: list[Any] = [phase, len(self), self.lines.datetime[0], self.broker.getvalue()]
        for data in self.datas:
            row.append(len(data))
            if len(data):
                row += [line[0] for line in data.lines]
                row += [data.datetime.datetime(0), data.num2date(), data.close[-1] if len(data) > 1 else None]
                row += [getattr(data, f"tick_{name}", "unset") for name in (*data.getlinealiases(), "last")]
        for indicator in self.kept:
            row += [line[0] for line in indicator.lines] if len(indicator) else ["none"]
        self.seen.append(tuple(map(plain, row)))

    def notify_order(self, order: bt.Order) -> None:
        done = order.executed
        self.told.append(("order", order.ref, order.getstatusname(), done.dt, plain(done.price), plain(done.size)))

    def notify_trade(self, trade: bt.Trade) -> None:
        self.told.append(("trade", trade.ref, trade.status, plain(trade.pnl), plain(trade.pnlcomm), trade.barlen))

    def notify_timer(self, timer: Any, when: Any, *args: Any, **kwargs: Any) -> None:
        self.told.append(("timer", when))


class Chooser(bt.Strategy):
    """What an optimisation varies: the period of an average that is traded."""

    params = (("period", 5),)

    def __init__(self) -> None:
        self.cross = bt.indicators.CrossOver(self.data.close, bt.indicators.SMA(self.data, period=self.p.period))

    def next(self) -> None:
        if self.cross[0] > 0:
            self.buy()
        elif self.cross[0] < 0 and self.position.size > 0:
            self.close()


def plain(value: Any) -> Any:
    """A form in which equal means bit-equal, also for NaN."""
    return float(value).hex() if isinstance(value, float | np.floating) else value


def deep(value: Any) -> Any:
    """The same for the nested results of analyzers."""
    if isinstance(value, dict):
        return {str(key): deep(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [deep(inner) for inner in value]
    return plain(value)


def values_of(series: Any) -> list[list[Any]]:
    """All values in all lines of a data, indicator or observer."""
    return [[plain(value) for value in line.array] for line in series.lines]


ANALYZERS = (
    bt.analyzers.TradeAnalyzer,
    bt.analyzers.DrawDown,
    bt.analyzers.TimeReturn,
    bt.analyzers.SQN,
    bt.analyzers.Transactions,
)


def cerebro_of(strategy: type[bt.Strategy] = Recorder, *, settings: Any = None, **kwargs: Any) -> bt.Cerebro:
    """A cerebro that trades with costs, slippage, timers and every common analyzer."""
    cerebro = bt.Cerebro(**kwargs)
    cerebro.addstrategy(strategy, **(settings or {}))
    cerebro.broker.set_cash(100_000.0)
    cerebro.broker.setcommission(commission=0.001)
    cerebro.broker.set_slippage_perc(0.0005)
    cerebro.addobserver(bt.observers.DrawDown)
    cerebro.addobserver(bt.observers.TimeReturn, timeframe=bt.TimeFrame.Days)
    for analyzer in ANALYZERS:
        cerebro.addanalyzer(analyzer)
    return cerebro


def record(cerebro: bt.Cerebro, *, writer: bool = True, **kwargs: Any) -> dict[str, Any]:
    """Run and give back all that came out of it, in a form in which equal means bit-equal."""
    out = io.StringIO()
    if writer:
        cerebro.addwriter(bt.WriterFile, csv=True, out=out, rounding=None)
    bt.Order.refbasis = itertools.count(1)
    bt.Trade.refbasis = itertools.count(1)
    strategy = cerebro.run(**kwargs)[0]
    return {
        "seen": strategy.seen,
        "told": strategy.told,
        "value": plain(cerebro.broker.getvalue()),
        "indicators": [
            [list(map(plain, line.array)) for line in each.lines] for each in strategy.getindicators_lines()
        ],
        "observers": [[list(map(plain, line.array)) for line in each.lines] for each in strategy.getobservers()],
        "lines": [[list(map(plain, line.array)) for line in data.lines] for data in cerebro.datas],
        "lengths": [(len(data), data.buflen(), [line.idx for line in data.lines]) for data in cerebro.datas],
        "analysis": {name: deep(each.get_analysis()) for name, each in strategy.analyzers.getitems()},
        # PandasData leaves numpy's floats in bounded buffers, whose repr names the type: only that may differ.
        "written": re.sub(r"np\.float64\(([^)]*)\)", r"\1", out.getvalue()),
    }
