"""Symbols for simulated exchanges in tests, and the pointing of ccxt's own classes at one."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

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


def rewritten(urls: Any, base: str) -> Any:
    """Put the simulator in front of every address of a tree of addresses, keeping host and path as its path."""
    if isinstance(urls, dict):
        return {key: rewritten(value, base) for key, value in urls.items()}
    parts = urlsplit(urls)
    scheme = "ws" if parts.scheme in {"ws", "wss"} else "http"
    return f"{scheme}://{urlsplit(base).netloc}/{parts.netloc}{parts.path}"


def point(exchange: Any, server: SimServer) -> Any:
    """Point one of ccxt's exchanges at a simulator and give it the simulator's keys and clock."""
    exchange.urls["api"] = rewritten(exchange.urls["api"], server.url)
    exchange.apiKey, exchange.secret = API_KEY, SECRET
    exchange.nonce = server.clock.now_ms
    return exchange
