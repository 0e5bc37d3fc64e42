"""What tests of streams share: ears for a subscription and for an account."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ccxtbt.exchange.clock import Clock
from ccxtbt.exchange.connection import Account, Connection
from ccxtbt.exchange.facts import Facts
from ccxtbt.exchange.private import Private
from ccxtbt.market.handover import Bar
from ccxtbt.sim.server import API_KEY, SECRET, SimServer
from waiting import wait_until


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


@contextmanager
def following(exchange: str, facts: Facts) -> Iterator[Callable[..., tuple[Connection, Sink]]]:
    """Give what begins to follow an account at a simulated exchange; all ends with the block."""
    opened: list[Connection] = []

    def begin(server: SimServer, **options: object) -> tuple[Connection, Sink]:
        config = {"apiKey": API_KEY, "secret": SECRET, "options": options}
        account = Account(exchange, config=config, endpoint=server.url)
        connection, sink = Connection(account, clock=Clock(rate=server.speed), facts=facts), Sink()
        opened.append(connection)
        connection.start()
        Private(connection, sink).follow()
        return connection, sink

    try:
        yield begin
    finally:
        for connection in opened:
            connection.stop()


def assert_ordered(connection: Connection, symbol: str = "BTC/USDT") -> None:
    """The exchange takes an order."""

    async def buy() -> dict[str, object]:
        return dict(await connection.rest.create_order(symbol, "market", "buy", 0.001))

    assert connection.call(buy)["id"]


def assert_heard(connection: Connection, sink: Sink, symbol: str = "BTC/USDT") -> None:
    """An order of now is told by the streams, and so is the balance that it changes."""
    orders, balances = len(sink.orders), len(sink.balances)
    assert_ordered(connection, symbol)
    wait_until(lambda: len(sink.orders) > orders and len(sink.balances) > balances)


def all_live(ears: dict[Any, Ear]) -> Callable[[], bool]:
    return lambda: all(ear.live for ear in ears.values())
