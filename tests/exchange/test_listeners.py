"""What a listener raises is its own affair: streams through ccxt's real class, from a simulated exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from ccxtbt.exchange.clock import Clock
from ccxtbt.exchange.connection import Account, Connection
from ccxtbt.exchange.exchanges import facts_of
from ccxtbt.market.streams import Streams
from ccxtbt.market.watches import Watches
from ccxtbt.sim.server import SimServer
from waiting import wait_until

QUICK = replace(facts_of("binance"), ping_s=0.4, connects_per_s=50.0)


class Ear:
    """Hears everything."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def up(self) -> None:
        self.hear("up")

    def down(self, reason: str) -> None:
        self.hear("down")

    def frame(self, bar: Any, closed: bool) -> None:
        self.hear("frame")

    def trades(self, trades: list[Any]) -> None:
        self.hear("trades")

    def data(self, structure: Any) -> None:
        self.hear("data")

    def refused(self, error: Exception) -> None:
        self.hear("refused")

    def hear(self, what: str) -> None:
        self.told.append(what)


class Faulty(Ear):
    """Raises whatever it hears."""

    def hear(self, what: str) -> None:
        super().hear(what)
        raise KeyError(what)


@pytest.fixture
def connect() -> Iterator[Callable[[SimServer], Connection]]:
    opened: list[Connection] = []

    def begin(server: SimServer) -> Connection:
        opened.append(Connection(Account("binance", endpoint=server.url), clock=Clock(rate=server.speed), facts=QUICK))
        opened[-1].start()
        return opened[-1]

    yield begin
    for connection in opened:
        connection.stop()


@pytest.mark.parametrize("kind", ["bars", "trades", "ticker"])
def test_a_listener_that_raises_ends_nothing(simulator, connect, caplog, kind):
    server = simulator(speed=20)
    connection = connect(server)
    streams, watches = Streams(connection), Watches(connection)
    faulty, good, other = Faulty(), Ear(), Ear()

    async def subscribe() -> None:
        for symbol, ear in (("BTC/USDT", faulty), ("BTC/USDT", good), ("ETH/USDT", other)):
            if kind == "bars":
                streams.subscribe(symbol, "1s", ear)
            elif kind == "trades":
                streams.subscribe_trades(symbol, ear)
            else:
                watches.subscribe("ticker", symbol, ear)

    connection.call(subscribe)
    wait_until(lambda: all(len(ear.told) > 20 for ear in (faulty, good, other)))
    assert server.connects == 1
    for ear in (faulty, good, other):
        assert ear.told[0] == "up"
        assert not {"up", "down", "refused"} & set(ear.told[1:])
    # Of a break they hear too, all of them, and of its end.
    assert server.abort_connections() == 1
    for ear in (faulty, good, other):
        wait_until(lambda ear=ear: "down" in ear.told and ear.told.count("up") == 2)
    named = {"bars": "BTC/USDT 1s", "trades": "BTC/USDT trades", "ticker": "BTC/USDT ticker"}[kind]
    faults = [record for record in caplog.records if record.exc_info and record.exc_info[0] is KeyError]
    assert {record.getMessage() for record in faults} == {f"{named}: a listener failed; the stream goes on."}
    # Each call that raised is one line.
    assert abs(len(faults) - len(faulty.told)) <= 1
    assert "Fatal error" not in caplog.text
    assert "cannot be read" not in caplog.text
