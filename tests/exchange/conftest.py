"""A simulated exchange for each test, and ccxt's own classes pointed at it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import pytest

from ccxtbt.sim.server import API_KEY, SECRET, SimServer
from ccxtbt.sim.spec import Spec

BTC = Spec(
    symbol="BTCUSDT",
    base="BTC",
    quote="USDT",
    price=Decimal(60_000),
    tick_size=Decimal("0.01"),
    step_size=Decimal("0.00001"),
    min_qty=Decimal("0.00001"),
    trades_per_minute=600.0,
)
ETH = Spec(symbol="ETHUSDT", base="ETH", quote="USDT", price=Decimal(3_000), trades_per_minute=300.0)
BNB = Spec(symbol="BNBUSDT", base="BNB", quote="USDT", price=Decimal(500), trades_per_minute=120.0)
BALANCES = {"USDT": 100_000, "BTC": 1, "ETH": 10, "BNB": 10}


@pytest.fixture
def simulator() -> Iterator[Any]:
    """Start simulated exchanges on free ports; those that a test starts are stopped after it.

    Called as ``simulator(specs=..., seed=..., speed=..., balances=..., **options)``, with the options of
    ``SimServer.of``; returns the running `SimServer`.
    """
    servers: list[SimServer] = []

    def start(specs: Any = (BTC, ETH, BNB), *, balances: Any = BALANCES, **options: Any) -> SimServer:
        server = SimServer.of(specs, balances=balances, **options)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def point() -> Any:
    """Return a function that points one of ccxt's exchanges at a simulator: ``point(exchange, server)``."""

    def point_at(exchange: Any, server: SimServer) -> Any:
        exchange.urls["api"] = rewritten(exchange.urls["api"], server.url)
        exchange.apiKey, exchange.secret = API_KEY, SECRET
        # ccxt signs with its own clock, and Binance spot lists thousands of contracts that the simulator has not.
        exchange.options["fetchMarkets"] = {"types": ["spot"]}
        exchange.nonce = server.clock.now_ms
        return exchange

    return point_at


def rewritten(urls: Any, base: str) -> Any:
    """Put the simulator in front of every address of a tree of addresses, keeping host and path as its path."""
    if isinstance(urls, dict):
        return {key: rewritten(value, base) for key, value in urls.items()}
    parts = urlsplit(urls)
    scheme = "ws" if parts.scheme in {"ws", "wss"} else "http"
    return f"{scheme}://{urlsplit(base).netloc}/{parts.netloc}{parts.path}"
