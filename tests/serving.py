"""Exchanges without a network: their real classes, led to a local server, with a market to trade."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ccxtbt.exchange.adapter import Hooks, open_async, redirect
from ccxtbt.exchange.budgets import Budget
from ccxtbt.exchange.clock import Clock
from ccxtbt.exchange.exchanges import facts_of
from ccxtbt.trading.rules import TICK_SIZE

# Enough for any class to sign with; no exchange has given them.
KEYS = {
    "apiKey": "key",
    # 32 bytes in base58, which is base64 too.
    "secret": "4NwnA4HWZurKyXWNowJwYmb9CwX4gBKzwQKov1ExMf8M",
    "password": "password",
    "uid": "1",
    "accountId": "1",
    "walletAddress": "0x" + "1" * 40,
    "privateKey": "0x" + "2" * 64,
}
# What some classes want to be told before an order.
OPTIONS = {
    "operatorId": 1,
    "builderFee": False,
    "accountId": "1",
    "enableUnifiedMargin": False,
    "enableUnifiedAccount": True,
    "uta": False,
}


@dataclass(frozen=True)
class Asked:
    """A request as the server saw it: its path with the query, and its body."""

    target: str
    body: str


@asynccontextmanager
async def serving(answer: Callable[[Asked], str]) -> AsyncIterator[str]:
    """Serve an answer at every address; gives the server's."""

    async def handle(request: web.Request) -> web.Response:
        asked = Asked(request.path_qs, await request.text())
        return web.Response(text=answer(asked), content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def market_of(exchange: Any, kind: str = "spot") -> dict[str, Any]:
    """Return a market with all that ccxt's classes read of one, BTC/USDT or its linear perpetual."""
    spot = kind == "spot"
    settle = None if spot else "USDT"
    steps = {"amount": 1e-6, "price": 0.01} if exchange.precisionMode == TICK_SIZE else {"amount": 6, "price": 5}
    return {
        "id": "BTCUSDT",
        "lowercaseId": "btcusdt",
        "uppercaseId": "BTCUSDT",
        "numericId": 1,
        "symbol": "BTC/USDT" if spot else "BTC/USDT:USDT",
        "base": "BTC",
        "baseId": "1",
        "baseName": "BTC",
        "quote": "USDT",
        "quoteId": "USDT",
        "settle": settle,
        "settleId": settle,
        "type": kind,
        "subType": None if spot else "linear",
        "spot": spot,
        "swap": not spot,
        "future": False,
        "option": False,
        "contract": not spot,
        "contractSize": None if spot else 1.0,
        "linear": None if spot else True,
        "inverse": None if spot else False,
        "active": True,
        "maker": 0.001,
        "taker": 0.001,
        "precision": steps,
        "limits": {"amount": {"min": 1e-6}, "price": {}, "cost": {}},
        "priceScale": 8,
        "valueScale": 8,
        "info": {"orderTypes": ["LIMIT", "MARKET"]},
    }


def exchange_at(name: str, address: str, kind: str = "spot", **config: Any) -> Any:
    """Return the class that a connection uses, led to a local server, with one market and keys."""
    budget = Budget(name, facts_of(name))
    hooks = Hooks(Clock(), budget, budget.key("test"), endpoint=address)
    exchange = open_async(name, {**KEYS, "enableRateLimit": False, "options": OPTIONS, **config}, hooks)
    exchange.urls["api"] = redirect(exchange.urls["api"], address)
    exchange.set_markets([market_of(exchange, kind)])
    exchange.accounts = [{"id": "1", "type": kind, "code": None}]
    return exchange
