"""The account's streams through ccxt's real class: whatever leaves ccxt waiting for ever ends, and they come again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from ccxtbt.exchange.clock import Clock
from ccxtbt.exchange.connection import Account, Connection
from ccxtbt.exchange.exchanges import facts_of
from ccxtbt.exchange.private import Private
from ccxtbt.sim.server import API_KEY, SECRET, SimServer
from listening import Sink, assert_heard, assert_ordered, following
from waiting import wait_until

SPEED = 20
# Sockets whose death is noticed soon.
QUICK = replace(facts_of("binance"), ping_s=0.4)
SUBSCRIBE = {"method": "WS", "path": "userDataStream.subscribe.signature"}


@pytest.fixture
def follow() -> Iterator[Callable[[SimServer], tuple[Connection, Sink]]]:
    with following("binance", QUICK) as begin:
        yield begin


def test_a_quiet_account_is_left_alone(simulator, follow):
    server = simulator(speed=SPEED)
    connection, sink = follow(server)
    wait_until(lambda: sink.events == ["up"])
    # Four times as long as the exchange may take to answer, and as a dead connection takes to be noticed.
    began_s = time.monotonic()
    wait_until(lambda: time.monotonic() - began_s > 4)
    assert sink.events == ["up"]
    assert server.connects == 1
    assert_heard(connection, sink)


def test_a_stream_that_the_exchange_ends_on_an_open_socket_is_subscribed_anew(simulator, follow):
    server = simulator(speed=SPEED)
    connection, sink = follow(server)
    wait_until(lambda: sink.events == ["up"])
    assert_heard(connection, sink)
    server.terminate_user_streams()
    wait_until(lambda: sink.events == ["up", "down", "up"])
    assert "has ended it" in sink.reasons[0]
    assert_heard(connection, sink)
    assert server.connects == 2


def test_a_subscription_that_is_refused_is_asked_for_again(simulator, follow):
    server = simulator(speed=SPEED)
    body = b'{"code":-1022,"msg":"Signature for this request is not valid."}'
    refusal = server.faults.answer(400, body, taken=False, times=2, **SUBSCRIBE)
    connection, sink = follow(server)
    wait_until(lambda: refusal.seen >= 3)
    wait_until(lambda: sink.events[-1] == "up" and len(sink.events) >= 3)
    assert "-1022" in sink.reasons[0]
    assert_heard(connection, sink)


def test_a_subscription_that_is_not_answered_is_asked_for_again(simulator, follow):
    server = simulator(speed=SPEED)
    silence = server.faults.delay_answer(100_000, **SUBSCRIBE)
    connection, sink = follow(server)
    wait_until(lambda: silence.seen == 2)
    wait_until(lambda: sink.events == ["up", "down", "up"])
    assert "not answered" in sink.reasons[0]
    assert_heard(connection, sink)
    assert server.connects == 2


def test_a_socket_that_ends_with_the_frame_that_was_waited_for_is_noticed(simulator):
    server = simulator(speed=SPEED)
    account = Account("binance", config={"apiKey": API_KEY, "secret": SECRET}, endpoint=server.url)
    connection, sink = Connection(account, clock=Clock(rate=server.speed), facts=QUICK), Sink()
    connection.start()
    try:
        # Nothing else waits for the socket while this one's frame is looked at.
        Private(connection, sink).follow("orders")
        wait_until(lambda: sink.events == ["up"])
        end = server.faults.close(stream="user", event="outboundAccountPosition")
        assert_ordered(connection)
        wait_until(lambda: sink.events == ["up", "down", "up"])
        assert end.fired == 1
        assert sink.orders
    finally:
        connection.stop()


def test_a_half_open_socket_is_noticed(simulator, follow):
    server = simulator(speed=SPEED)
    connection, sink = follow(server)
    wait_until(lambda: sink.events == ["up"])
    assert server.stall_connections() == 1
    wait_until(lambda: sink.events == ["up", "down", "up"])
    assert_heard(connection, sink)
