"""A simulator in another process takes orders, and goes on where it was when it is started again."""

from __future__ import annotations

import json
import time
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from apart import Apart
from simulated import BTC


def asked(exchange, path):
    with urlopen(f"{exchange.url}/api/v3/{path}", timeout=10) as answer:
        return json.loads(answer.read())


def time_of(exchange):
    return asked(exchange, "time")["serverTime"]


def test_faults_are_set_and_cleared_from_outside():
    with Apart([BTC]) as exchange:
        exchange.order("fault", name="server_error", status=503, path="/api/v3/time", times=0)
        with pytest.raises(HTTPError, match="503"):
            time_of(exchange)
        exchange.order("clear")
        assert time_of(exchange) > 0
        assert exchange.order("status")["requests"] == {"503": 1, "200": 1}
        for name, arguments, said in (
            ("explode", {}, "'explode' is no order; there are status, close"),
            ("fault", {"name": "flood"}, "no attribute 'flood'"),
            ("fault", {"name": "clear", "path": "x"}, "unexpected keyword argument"),
            ("close", {"when": 1}, "unexpected keyword argument"),
        ):
            with pytest.raises(ValueError, match=said):
                exchange.order(name, **arguments)


def test_who_is_not_asked_to_takes_no_orders(simulator):
    server = simulator((BTC,))
    with pytest.raises(HTTPError, match="404"):
        urlopen(f"{server.url}/control/status", timeout=10)


def test_a_restart_goes_on_with_the_same_market_and_time():
    with Apart([BTC], speed=10, history_days=0.1) as exchange:
        url, began_s, before_ms = exchange.url, time.monotonic(), time_of(exchange)
        (trade,) = asked(exchange, "trades?symbol=BTCUSDT&limit=1")
        exchange.kill()
        exchange.start()
        passed_ms = (time.monotonic() - began_s) * 10_000
        assert exchange.url == url
        assert before_ms < time_of(exchange) <= before_ms + passed_ms + 2_000
        assert asked(exchange, f"historicalTrades?symbol=BTCUSDT&fromId={trade['id']}&limit=1") == [trade]
