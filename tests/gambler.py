"""A strategy that orders and cancels at random: all kinds of orders, at all moments."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from typing import Any

import backtrader as bt

from planned import ended

Order = bt.Order


class Gambler:
    """Acts on each pass of a watcher until `enough()`, then cancels what is open and waits for its end.

    Parameters
    ----------
    seed : int
        Of its choices.
    enough : callable
        Says that no more orders are wanted.
    contracts : bool
        Go short as well as long, and reduce.
    **more : int
        Weights of kinds of orders, over the usual ones.
    """

    def __init__(self, seed: int, enough: Callable[[], bool], *, contracts: bool = False, **more: int) -> None:
        self._rng = random.Random(seed)
        self._enough = enough
        self.made: list[Any] = []
        self.over = False
        self._passes = 0
        self._cancels: list[tuple[int, Any]] = []
        self._open: dict[Any, set[int]] = {}
        self._kinds = {
            "market": 7, "crossing": 3, "near": 5, "far": 2, "stop": 2, "stop limit": 2,
            "trailing": 1, "bracket": 8, "oco": 5, "edge": 2, "at once or not": 2, **more,
        }  # fmt: skip
        self._contracts = contracts
        if contracts:
            self._kinds["reducing"] = 3

    def act(self, watcher: Any) -> None:
        """Order and cancel."""
        if self.over:
            return
        self._passes += 1
        if self._enough():
            self.over = True
            done = ended(watcher)
            for order in self.made:
                if order.ref not in done:
                    watcher.cancel(order)
            return
        for due, order in list(self._cancels):
            if due <= self._passes:
                self._cancels.remove((due, order))
                watcher.cancel(order)
        data = self._rng.choice(watcher.datas)
        if watcher.states[data][-1:] != ["LIVE"] or not len(data):
            return
        mine = self._open.setdefault(data, set())
        mine -= ended(watcher)
        if len(mine) < 6 and self._rng.random() < 0.7:
            kind = self._rng.choices(list(self._kinds), list(self._kinds.values()))[0]
            for order in self._order(watcher, data, kind):
                if order is not None:
                    self._took(watcher, order)

    def until(self, watcher: Any) -> bool:
        """Whether every order has come to its end."""
        return self.over and {order.ref for order in self.made} <= ended(watcher)

    def _took(self, watcher: Any, order: Any) -> None:
        self.made.append(order)
        self._open[order.data].add(order.ref)
        if self._rng.random() < 0.35:
            # Now, in the same pass: before anybody knows of it; or later, as likely as not after its end.
            wait = self._rng.choice((0, 0, 1, 3, 10, 40))
            if wait:
                self._cancels.append((self._passes + wait, order))
            else:
                watcher.cancel(order)

    def _order(self, w: Any, data: Any, kind: str) -> list[Any]:
        rng, price, held = self._rng, data.close[0], float(w.getposition(data).size)
        # Of 50 to 2,000 in quote: several of the market's trades, so that what rests is filled in parts.
        size = rng.uniform(50, 2_000) / price
        sells = (held > 0 or self._contracts) and rng.random() < 0.5
        give, away = (w.sell, 1) if sells else (w.buy, -1)
        size = min(size, held) if sells and not self._contracts else size
        span = {"valid": dt.timedelta(seconds=rng.choice((3, 15, 60)))} if rng.random() < 0.2 else {}
        named = {"data": data, "size": size, **span}
        off = rng.uniform(0.0001, 0.001)
        match kind:
            case "market":
                choices = (give, w.close, lambda data, size: w.buy(data=data, quote_size=size * price))
                return [rng.choices(choices, (4, 2, 1))[0](data=data, size=size)]
            case "crossing":
                return [give(exectype=Order.Limit, price=price * (1 - away * 0.003), **named)]
            case "near":
                return [give(exectype=Order.Limit, price=price * (1 + away * off / 2), **named)]
            case "far":
                return [give(exectype=Order.Limit, price=price * (1 + away * 0.1), **named)]
            case "stop":
                return [give(exectype=Order.Stop, price=price * (1 - away * off), **named)]
            case "stop limit":
                trigger = price * (1 - away * off)
                return [give(exectype=Order.StopLimit, price=trigger, plimit=trigger * (1 - away * 0.0005), **named)]
            case "trailing":
                trail = {"trailpercent": 0.001} if self._contracts else {"trailamount": price * off}
                return [give(exectype=Order.StopTrail, **trail, **named)]
            case "at once or not":
                how = {"exectype": Order.Limit, "price": price * (1 + away * rng.choice((0.001, -0.0002)))}
                return [give(data=data, size=size, timeInForce=rng.choice(("IOC", "FOK")), **how)]
            case "bracket":
                return self._bracket(w, data, size, off)
            case "oco":
                return self._exclusive(give, away, off, named)
            case "reducing":
                return [self._reducing(w, held, off, named)]
            case _:
                return [self._edge(w, data, price)]

    def _reducing(self, w: Any, held: float, off: float, named: dict[str, Any]) -> Any:
        """Order what may only reduce a position, whatever its size, and whether there is one."""
        reduce, away = (w.sell, 1) if held > 0 else (w.buy, -1)
        resting = {"exectype": Order.Limit, "price": named["data"].close[0] * (1 + away * off)}
        return reduce(reduceOnly=True, **named, **self._rng.choice(({}, resting)))

    def _bracket(self, w: Any, data: Any, size: float, off: float) -> list[Any]:
        price = data.close[0]
        opens, sign = (w.sell_bracket, -1) if self._contracts and self._rng.random() < 0.5 else (w.buy_bracket, 1)
        # Some that stand for a while, and some that the market has passed when they arrive.
        off *= self._rng.choice((1, 3, 10))
        exits = {"stopprice": price * (1 - sign * off), "limitprice": price * (1 + sign * off)}
        if self._rng.random() < 0.2:
            exits |= {"stopexec": Order.StopTrail, "stopargs": {"trailamount": price * off}}
        entry = self._rng.choice(({"exectype": Order.Market}, {"exectype": Order.Limit, "price": price}))
        return list(opens(data=data, size=size, **entry, **exits))

    def _exclusive(self, give: Callable[..., Any], away: int, off: float, named: dict[str, Any]) -> list[Any]:
        price = named["data"].close[0]
        off *= self._rng.choice((1, 3, 10))
        first = give(exectype=Order.Limit, price=price * (1 + away * off), **named)
        others = [(Order.Stop, price * (1 - away * off)), (Order.Limit, price * (1 + away * off * 2))]
        kind, at = self._rng.choices(others, (2, 1))[0]
        return [first, give(oco=first, exectype=kind, price=at, **named)]

    def _edge(self, w: Any, data: Any, price: float) -> Any:
        """Order at the edge of what the market takes: the least amount, one lot below it, digits that are cut."""
        rules = w.broker._desk.rules_of(data)
        at = rules.price(price * (1 - 0.0002), "buy")
        least = rules.least(at)
        size = self._rng.choice(
            (float(least), float(least - rules.lot), float(least) + 0.999 * float(rules.lot), float(3 * least) / 7 * 5)
        )
        return w.buy(data=data, size=size, exectype=Order.Limit, price=float(at) + 0.499 * float(rules.tick))
