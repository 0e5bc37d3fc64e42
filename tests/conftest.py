"""A simulated exchange for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ccxtbt.sim.server import SimServer
from simulated import BALANCES, BNB, BTC, ETH


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
