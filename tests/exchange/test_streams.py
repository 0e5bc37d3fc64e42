"""Streams that stay alive, through ccxt's real class, whatever a simulated exchange does to their sockets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from ccxtbt.exchange.clock import Clock
from ccxtbt.exchange.connection import Account, Connection
from ccxtbt.exchange.exchanges import facts_of
from ccxtbt.exchange.facts import Facts
from ccxtbt.market.streams import Streams
from ccxtbt.sim.binance_limits import Limits
from ccxtbt.sim.server import SimServer
from listening import Ear, all_live
from simulated import BTC, ETH
from waiting import wait_until

BINANCE = facts_of("binance")
# Sockets whose death is noticed soon, and as many new ones a second as the test likes.
QUICK = replace(BINANCE, ping_s=0.4, connects_per_s=50.0)


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


def test_a_market_that_is_often_silent_keeps_its_connection(simulator, listen):
    # Minutes without a trade, and 1s bars that come only with trades: silent again and again for longer than 32 s.
    quiet = replace(BTC, quiet=0.5)
    server = simulator((quiet, ETH), speed=120)
    keys = [("BTC/USDT", "1s"), ("ETH/USDT", "1m")]
    ears = listen(server, keys, replace(BINANCE, ping_s=5.0, connects_per_s=50.0))
    wait_until(all_live(ears))
    end_ms = server.clock.now_ms() + 25 * 60_000
    wait_until(lambda: server.clock.now_ms() > end_ms)
    # About half of the minutes were silent; a silence much longer than all before may be taken for a loss once.
    assert ears["BTC/USDT", "1s"].events.count("down") <= 4
    assert server.connects <= 5


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
