"""What tests of streams share: ears for a subscription and for an account."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ccxtbt.market.handover import Bar


class Ear:
    """Hears one subscription."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.bars: list[Bar] = []
        self.frames = 0
        self.since_up = 0

    def up(self) -> None:
        self.events.append("up")
        self.since_up = 0

    def down(self, reason: str) -> None:
        self.events.append("down")

    def frame(self, bar: Bar, closed: bool) -> None:
        self.frames += 1
        self.since_up += 1
        if closed:
            self.bars.append(bar)

    def refused(self, error: Exception) -> None:
        self.events.append("refused")

    @property
    def live(self) -> bool:
        return bool(self.events) and self.events[-1] == "up" and self.since_up > 0


class Sink:
    """Hears an account."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.reasons: list[str] = []
        self.orders: list[dict[str, Any]] = []
        self.balances: list[dict[str, Any]] = []

    def order(self, order: dict[str, Any]) -> None:
        self.orders.append(order)

    def trade(self, trade: dict[str, Any]) -> None:
        pass

    def balance(self, balance: dict[str, Any]) -> None:
        self.balances.append(balance)

    def up(self) -> None:
        self.events.append("up")

    def down(self, reason: str) -> None:
        self.events.append("down")
        self.reasons.append(reason)


def all_live(ears: dict[Any, Ear]) -> Callable[[], bool]:
    return lambda: all(ear.live for ear in ears.values())
