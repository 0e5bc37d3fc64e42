"""A simulated exchange for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ccxt
import pytest

from ccxtbt.sim.server import SimServer
from simulated import BALANCES, BNB, BTC, ETH, point


@pytest.fixture
def simulator() -> Iterator[Callable[..., SimServer]]:
    """Start simulated exchanges on free ports; those that a test starts are stopped after it.

    Called as ``simulator(specs, seed=..., speed=..., balances=..., **options)``, with the options of `SimServer.of`;
    returns the running `SimServer`. ``simulated.point(exchange, server)`` points a ccxt class at it.
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
def binance(server: SimServer) -> ccxt.binance:
    """ccxt's own class for Binance, pointed at the `server` of a test's file, with the markets of spot loaded."""
    exchange = point(ccxt.binance({"enableRateLimit": False}), server)
    exchange.options["fetchMarkets"] = {"types": ["spot"]}
    exchange.load_markets()
    return exchange


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the journals of a test out of the user's folder of data."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"
