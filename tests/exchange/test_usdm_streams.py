"""The streams of a futures account, whose key stands in their address: they come again after any break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from ccxtbt.exchange.connection import Connection
from ccxtbt.exchange.exchanges import facts_of
from ccxtbt.sim.server import API_KEY, SimServer
from listening import Sink, assert_heard, following
from simulated import BTC
from waiting import wait_until

SPEED = 20
QUICK = replace(facts_of("binanceusdm"), ping_s=0.2)
PERP = "BTC/USDT:USDT"
LISTEN_KEY = "/fapi/v1/listenKey"


@pytest.fixture
def server(simulator) -> SimServer:
    return simulator(contracts=[BTC], margin={"USDT": 10_000}, speed=SPEED)


@pytest.fixture
def follow() -> Iterator[Callable[..., tuple[Connection, Sink]]]:
    with following("binanceusdm", QUICK) as begin:
        yield begin


def keys(server: SimServer, method: str) -> int:
    return sum(record.path == LISTEN_KEY and record.method == method for record in server.requests)


def test_a_quiet_account_is_left_alone(server, follow):
    connection, sink = follow(server)
    wait_until(lambda: sink.events == ["up"])
    heard = connection.clock.now_ms()
    # Three times as long as a connection may say nothing.
    wait_until(lambda: connection.clock.now_ms() > heard + 1_500 * SPEED)
    assert sink.events == ["up"]
    assert keys(server, "POST") == 1
    assert_heard(connection, sink, PERP)


@pytest.mark.parametrize("break_off", [SimServer.abort_connections, SimServer.close_connections])
def test_a_break_is_told_once_and_so_is_its_end(server, follow, break_off):
    connection, sink = follow(server)
    wait_until(lambda: sink.events == ["up"])
    break_off(server, socket="user")
    wait_until(lambda: sink.events == ["up", "down", "up"])
    assert_heard(connection, sink, PERP)


def test_a_connection_that_says_nothing_is_replaced(server, follow):
    connection, sink = follow(server)
    wait_until(lambda: sink.events == ["up"])
    server.stall_connections(socket="user")
    wait_until(lambda: sink.events == ["up", "down", "up"])
    assert_heard(connection, sink, PERP)


def test_a_key_that_has_expired_is_made_anew(server, follow):
    connection, sink = follow(server)
    wait_until(lambda: sink.events == ["up"])
    server.call(lambda: server.gateway.usdm.users.expire(API_KEY, server.clock.now_ms()))
    wait_until(lambda: sink.events == ["up", "down", "up"])
    assert "ended" in sink.reasons[0]
    assert keys(server, "POST") == 2
    assert_heard(connection, sink, PERP)


def test_the_key_is_renewed_as_long_as_the_account_is_watched(server, follow):
    connection, sink = follow(server, listenKeyRefreshRate=300)
    # ccxt renews it once; a key that is asked for again is the same one, renewed.
    wait_until(lambda: keys(server, "PUT") + keys(server, "POST") >= 5)
    assert sink.events == ["up"]
    assert_heard(connection, sink, PERP)


def test_a_renewal_that_fails_is_told_and_nothing_is_lost(server, follow):
    server.faults.server_error(503, path=LISTEN_KEY, method="PUT", times=1)
    connection, sink = follow(server, listenKeyRefreshRate=500)
    wait_until(lambda: sink.events == ["up", "down", "up"])
    assert_heard(connection, sink, PERP)
