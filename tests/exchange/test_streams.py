"""Streams that stay alive, through ccxt's real class, whatever a simulated exchange does to their sockets."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from ccxtbt.exchange.clock import Clock
from ccxtbt.exchange.connection import Account, Connection
from ccxtbt.exchange.facts import Facts, facts_of
from ccxtbt.market.handover import Bar
from ccxtbt.market.streams import Streams
from ccxtbt.sim.binance_limits import Limits
from ccxtbt.sim.server import SimServer
from ccxtbt.sim.spec import Spec

BINANCE = facts_of("binance")
# Sockets whose death is noticed soon, and as many new ones a second as the test likes.
QUICK = replace(BINANCE, ping_s=0.4, connects_per_s=50.0)
TIMEFRAMES = ("1s", "1m", "5m", "15m", "1h")


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


def wait_until(condition: Callable[[], bool], limit_s: float = 20.0) -> float:
    """Wait for something to come true; return how long it took."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < limit_s, f"not within {limit_s} s"
        time.sleep(0.01)
    return time.monotonic() - began_s


@pytest.fixture
def listen() -> Iterator[Callable[..., dict[tuple[str, str], Ear]]]:
    """Subscribe to markets of a simulated exchange; connections end with the test."""
    opened: list[Connection] = []

    def begin(server: SimServer, keys: Any, facts: Facts = QUICK) -> dict[tuple[str, str], Ear]:
        clock = Clock(rate=server.speed)
        connection = Connection(Account("binance", endpoint=server.url), clock=clock, facts=facts)
        opened.append(connection)
        connection.start()
        streams = Streams(connection)
        ears = {key: Ear() for key in keys}

        async def subscribe() -> None:
            for (symbol, timeframe), ear in ears.items():
                streams.subscribe(symbol, timeframe, ear)

        connection.call(subscribe)
        return ears

    yield begin
    for connection in opened:
        connection.stop()


def all_live(ears: dict[Any, Ear]) -> Callable[[], bool]:
    return lambda: all(ear.live for ear in ears.values())


THREE = [(symbol, "1s") for symbol in ("BTC/USDT", "ETH/USDT", "BNB/USDT")]


def test_a_server_that_accepts_and_closes_is_not_stormed(simulator, listen):
    server = simulator(speed=10)
    rule = server.faults.accept_and_close(socket="market", times=0)
    ears = listen(server, THREE, replace(BINANCE, connects_per_s=50.0))
    wait_until(lambda: rule.seen >= 1)
    began_s, before = time.monotonic(), server.connects
    wait_until(lambda: time.monotonic() - began_s > 2)
    assert 1 <= server.connects - before <= 5
    server.faults.clear()
    wait_until(all_live(ears))


def test_a_half_open_socket_is_noticed(simulator, listen):
    server = simulator(speed=10)
    ears = listen(server, THREE)
    wait_until(all_live(ears))
    assert server.stall_connections() == 1
    # Two and a half pings of 0.4 s and a look every 0.5 s, with room for a busy machine.
    assert wait_until(lambda: all("down" in ear.events for ear in ears.values())) < 4
    wait_until(all_live(ears))
    assert server.connects == 2


def test_one_silent_stream_is_subscribed_anew_and_the_others_notice_nothing(simulator, listen):
    server = simulator(speed=20)
    ears = listen(server, THREE)
    wait_until(all_live(ears))
    (number,) = server.connections
    server.faults.lose(stream="btcusdt@kline_1s", connection=number, times=0)
    silent = ears["BTC/USDT", "1s"]
    # 32 s of the exchange's time.
    wait_until(lambda: "down" in silent.events, limit_s=10)
    wait_until(all_live(ears))
    assert silent.events == ["up", "down", "up"]
    assert [ear.events for ear in ears.values() if ear is not silent] == [["up"], ["up"]]
    assert server.connects == 2
    wait_until(lambda: len(server.connections) == 1)


def test_one_that_is_refused_leaves_the_others_of_its_message_alone(simulator, listen):
    server = simulator(speed=10, limits=Limits(ws_streams=4))
    ears = listen(server, [*THREE, ("BTC/USDT", "1m")])
    wait_until(lambda: sum(ear.live for ear in ears.values()) == 3)
    wait_until(lambda: [ear.events[-1] for ear in ears.values()].count("refused") == 1)
    assert server.connects == 1


def test_a_socket_is_replaced_before_its_time_without_losing_a_bar(simulator, listen):
    server = simulator(speed=10, limits=Limits(ws_age_s=60), quiet_bars="flat")
    ears = listen(server, THREE, replace(QUICK, socket_age_s=30.0))
    wait_until(lambda: server.connects >= 4, limit_s=30)
    for ear in ears.values():
        assert ear.events == ["up"]
        # Both sockets bring the same bars for a moment: each is there at least once.
        opens = sorted({bar.ts_ms for bar in ear.bars})
        assert opens == list(range(opens[0], opens[-1] + 1, 1_000))
        assert len(opens) > 60


def test_a_frame_that_cannot_be_read_ends_nothing(simulator, listen):
    server = simulator(speed=10)
    garbled = server.faults.garble(b'{"e":"kline","k":{', stream="btcusdt@kline_1s", nth=3, times=5)
    ears = listen(server, THREE)
    wait_until(lambda: garbled.seen > 15)
    wait_until(all_live(ears))
    assert [ear.events for ear in ears.values()] == [["up"]] * 3
    assert server.connects == 1


def test_a_second_listener_of_the_same_bars_hears_them_too(simulator, listen):
    server = simulator(speed=10)
    connection = Connection(Account("binance", endpoint=server.url), clock=Clock(rate=10), facts=QUICK)
    connection.start()
    try:
        streams, first, second = Streams(connection), Ear(), Ear()

        async def subscribe(ear: Ear) -> None:
            streams.subscribe("BTC/USDT", "1s", ear)

        connection.call(subscribe, first)
        wait_until(lambda: first.live)
        connection.call(subscribe, second)
        wait_until(lambda: second.live)
        assert server.connects == 1
    finally:
        connection.stop()


def markets(count: int) -> list[Spec]:
    return [
        Spec(symbol=f"C{i}USDT", base=f"C{i}", quote="USDT", price=Decimal(100), trades_per_minute=120.0)
        for i in range(count)
    ]


def chaos(
    simulator: Any, listen: Any, subscriptions: int, shards: int, limit_s: float, speed: float, ping_s: float
) -> None:
    """Break all sockets in every way; each time all subscriptions come back, without a storm."""
    specs = markets(subscriptions // len(TIMEFRAMES))
    server = simulator(specs, speed=speed)
    keys = itertools.product([f"{spec.base}/USDT" for spec in specs], TIMEFRAMES)
    facts = replace(QUICK, streams_per_socket=subscriptions // shards, streams_per_request=10, ping_s=ping_s)
    ears = listen(server, keys, facts)
    wait_until(all_live(ears), limit_s)
    assert server.connects == shards
    for break_it in (server.close_connections, server.abort_connections, server.stall_connections):
        before = server.connects
        assert break_it() == shards
        wait_until(lambda: all(ear.events[-1] == "down" for ear in ears.values()), limit_s)
        wait_until(all_live(ears), limit_s)
        assert server.connects - before <= 2 * shards, break_it.__name__
    server.stop()
    wait_until(lambda: all(ear.events[-1] == "down" for ear in ears.values()), limit_s)
    again = simulator(specs, speed=speed, port=server.port)
    wait_until(all_live(ears), limit_s)
    assert again.connects <= 2 * shards


def test_a_hundred_subscriptions_survive_chaos(simulator, listen):
    chaos(simulator, listen, subscriptions=100, shards=5, limit_s=20, speed=5, ping_s=1.0)


@pytest.mark.soak
def test_five_hundred_subscriptions_survive_chaos(simulator, listen):
    # The server shares this process: with so much to send it answers a ping late.
    chaos(simulator, listen, subscriptions=500, shards=10, limit_s=60, speed=5, ping_s=4.0)
