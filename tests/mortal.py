"""A strategy that lives in a process of its own, may be killed at any moment, and goes on in its next life."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from multiprocessing.connection import Connection
from typing import Any

import backtrader as bt

from ccxtbt.ccxtstore import CCXTStore
from ccxtbt.exchange.clock import Clock
from ccxtbt.livedesk import LiveDesk
from ccxtbt.restored import Restorer
from ccxtbt.sim.server import API_KEY, SECRET
from ccxtbt.trading.courier import Courier
from ccxtbt.trading.journal import Journal, Told

Order = bt.Order
SYMBOLS = ("BTC/USDT", "ETH/USDT")
# No life takes longer, whatever becomes of its parent.
LIMIT_S = 60

# Where a life ends by its own hand -> what is wrapped: each call of it counts down.
POINTS: dict[str, tuple[Any, str]] = {
    "between journal and send": (Courier, "_release"),
    "between answer and journal": (Journal, "note"),
    "in a burst of fills": (LiveDesk, "_book"),
    "before it catches up": (LiveDesk, "_restore"),
    "while it asks": (Courier, "_trades_of"),
    "while it catches up": (LiveDesk, "_learn"),
    "before it protects": (Restorer, "resume"),
    "while it protects": (Courier, "send"),
}


def die() -> None:
    """End like a process that is killed, which it is."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(point: str, count: int) -> None:
    """Die at the `count`-th arrival at a point."""
    owner, name = POINTS[point]
    whole, left = getattr(owner, name), [count]

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if point != "between answer and journal" or isinstance(args[0], Told):
            left[0] -= 1
            if left[0] == 0:
                die()
        return whole(self, *args, **kwargs)

    setattr(owner, name, wrapped)


class Mortal(bt.Strategy):
    """Orders at random until it is told to settle; then cancels and waits for the end of all."""

    params = (("line", None), ("seed", 0), ("settle", False))

    def __init__(self) -> None:
        self.rng = random.Random(self.p.seed)
        self.states: dict[Any, str] = {}
        self.open: dict[int, Any] = {}
        self.settled = False

    def notify_data(self, data, status, *args, **kwargs):
        self.states[data] = data._getstatusname(status)
        if all(self.states.get(each) == "LIVE" for each in self.datas):
            self.p.line.send(("live", ""))

    def notify_store(self, msg, *args, **kwargs):
        if "restored" in kwargs:
            self.p.line.send(("restored", msg))

    def notify_order(self, order):
        self.open[order.ref] = order
        if not order.alive():
            del self.open[order.ref]

    def next(self):
        if self.p.settle:
            self._settle()
            return
        data = self.rng.choice(self.datas)
        if self.states.get(data) != "LIVE":
            return
        for order in list(self.open.values()):
            # Exits are left alone: what is entered stays protected.
            if order.isbuy() and self.rng.random() < 0.04:
                self.cancel(order)
        if len(self.open) < 24 and self.rng.random() < 0.8:
            self._order(data)

    def _order(self, data):
        rng, price = self.rng, data.close[0]
        size, off = rng.uniform(50, 2_000) / price, rng.uniform(0.0002, 0.002)
        match rng.choices(("bracket", "market", "sell", "near", "oco", "trail"), (6, 2, 2, 3, 2, 1))[0]:
            case "bracket":
                entry = rng.choice(
                    ({"exectype": Order.Market}, {"exectype": Order.Limit, "price": price * (1 - off / 4)})
                )
                exits = {"stopprice": price * (1 - off), "limitprice": price * (1 + off)}
                self.buy_bracket(data=data, size=size, **entry, **exits)
            case "market":
                self.buy(data=data, size=size)
            case "sell":
                self.sell(data=data, size=min(size, max(self.getposition(data).size, 0)) or size)
            case "near":
                self.buy(data=data, size=size, exectype=Order.Limit, price=price * (1 - off / 4))
            case "trail":
                self.buy(data=data, size=size, exectype=Order.StopTrail, trailamount=price * off)
            case _:
                first = self.buy(data=data, size=size, exectype=Order.Limit, price=price * (1 - off))
                self.buy(data=data, size=size, exectype=Order.Limit, price=price * (1 - 2 * off), oco=first)

    def _settle(self):
        if any(self.states.get(data) != "LIVE" for data in self.datas):
            return
        for order in list(self.broker.open_orders):
            self.cancel(order)
        desk = self.broker._desk
        if not self.broker.open_orders and not desk._unsettled and not self.settled:
            self.settled = True
            self.p.line.send(
                (
                    "settled",
                    json.dumps(
                        {
                            "positions": {data._name: repr(float(self.getposition(data).size)) for data in self.datas},
                            "amounts": {name: str(self.broker.amount(name)) for name in ("USDT", "BTC", "ETH")},
                        }
                    ),
                )
            )
            self.env.runstop()


def live(
    line: Connection, url: str, journal: str, seed: int, speed: float, point: str, count: int, settle: bool
) -> None:
    """Live until killed, or until all is settled."""
    signal.alarm(LIMIT_S)
    line.send(("begun", str(time.time())))
    if point:
        die_at(point, count)
    store = CCXTStore(
        "binance", "USDT", {"apiKey": API_KEY, "secret": SECRET}, journal=journal, endpoint=url, clock=Clock(rate=speed)
    )
    cerebro = bt.Cerebro(stdstats=False)
    for symbol in SYMBOLS:
        data = store.getdata(dataname=symbol, timeframe=bt.TimeFrame.Seconds, compression=1)
        cerebro.adddata(data, name=symbol)
    cerebro.setbroker(store.getbroker(check_interval=0.5))
    cerebro.addstrategy(Mortal, line=line, seed=seed, settle=settle)
    cerebro.run()
