"""Client order ids reach each exchange in a word of its own, through its real class over real HTTP.

One that ccxt lets fall, or passes on to an exchange that has another word for it, would never be found again: an order
whose answer was lost would be taken for one that never arrived.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

import ccxt
import ccxt.async_support
import pytest

from ccxtbt.errors import OutcomeUnknownError
from ccxtbt.exchange import private
from ccxtbt.exchange.clock import Clock
from ccxtbt.exchange.connection import Account, Connection
from ccxtbt.exchange.exchanges import TABLE, UNNAMED, facts_of
from ccxtbt.exchange.private import Private
from ccxtbt.trading.ids import ClientIds
from serving import KEYS, OPTIONS, Asked, exchange_at, market_of, serving

TABLED = [(name, kind) for name in TABLE for kind in ("spot", "swap") if getattr(ccxt, name)().has.get(kind)]
# Exchanges whose own word for it is ccxt's; HTX's is so where it is asked for an order.
SAME_WORD = {"bitvavo", "hashkey", "htx", "woo"}


def test_orders_carry_their_client_id_and_are_asked_for_by_it() -> None:
    asked: list[Asked] = []

    def answer(request: Asked) -> str:
        asked.append(request)
        # Hyperliquid's class wants to see its markets.
        return '{"universe":[],"tokens":[]}'

    async def carries(call: Any, path: str, client_id: str, word: str) -> None:
        """Require of a call that its request carries the client id, and not in ccxt's word."""
        already = len(asked)
        # The answer is none that the class expects.
        with suppress(Exception):
            await call
        requests = [request for request in asked[already:] if request.target.startswith(path)]
        texts = [text for request in requests for text in (request.target, request.body)]
        found = [text for text in texts if client_id in text]
        assert found, requests
        assert not any(f"{word}{mark}{client_id}" in text for text in found for mark in ("=", '":"')), found
        assert "None" not in requests[-1].target, requests

    async def look(address: str, name: str, kind: str) -> None:
        facts, path = facts_of(name), f"/{name}/{kind}/"
        client_id = ClientIds(facts, 2**49, 77).next()[1]
        params = {facts.client_id_param: client_id}
        word = "no word" if name in SAME_WORD else "clientOrderId"
        exchange = exchange_at(name, address + path, kind)
        symbol = market_of(exchange, kind)["symbol"]
        try:
            if kind not in UNNAMED.get(name, ()):
                order = exchange.create_order(symbol, "limit", "buy", 1.0, 100.0, params)
                await carries(order, path, client_id, word)
            if kind in facts.client_id_lookup:
                connection = Connection(Account(name), Clock())
                connection.rest = exchange
                desk = Private(connection, None)  # type: ignore[arg-type]  # no stream is followed
                await carries(desk.find(None, client_id, symbol), path, client_id, word)
        finally:
            await exchange.close()

    async def main() -> None:
        async with serving(answer) as address:
            await asyncio.gather(*(look(address, *each) for each in TABLED))

    asyncio.run(main())


@pytest.mark.parametrize("found", ["open", "never"])
def test_where_no_request_asks_by_client_id_the_lists_can_prove_an_order_but_not_its_absence(
    found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Coinbase: the answer to an order is cut off, and the order stands, or does not, among the open ones."""
    monkeypatch.setattr(private, "VALIDITY_MS", 200)
    monkeypatch.setattr(private, "LOOK_UP_PAUSE_MS", 20)
    orders: list[dict[str, Any]] = []
    cancelled: list[str] = []

    def answer(request: Asked) -> str:
        if request.target.endswith("/brokerage/orders"):
            sent = json.loads(request.body)
            orders.append({**sent, "order_id": "theirs", "status": "OPEN"})
            return '{"success": true, "success_response": {"or'
        if request.target.endswith("/batch_cancel"):
            cancelled.extend(json.loads(request.body)["order_ids"])
            return '{"results": [{"success": true, "order_id": "theirs"}]}'
        if request.target.endswith("/time"):
            return json.dumps({"data": {"epoch": int(time.time())}})
        listed = orders if found == "open" and "OPEN" in request.target else []
        return json.dumps({"orders": listed, "products": [], "data": [], "accounts": []})

    def use(address: str) -> None:
        account = Account("coinbase", {**KEYS, "options": OPTIONS, "enableRateLimit": False}, endpoint=address)
        connection = Connection(account, Clock())
        connection.start()
        try:
            connection.rest.set_markets([market_of(connection.rest)])
            desk = Private(connection, None)  # type: ignore[arg-type]  # no stream is followed
            client_id = "ours-1"
            params = {connection.facts.client_id_param: client_id}
            doubts: list[str] = []
            order = ("BTC/USDT", "limit", "buy", 1.0, 100.0, params)
            if found == "open":
                assert connection.call(desk.submit, order, client_id, doubts.append)["id"] == "theirs"
                connection.call(desk.cancel, None, client_id, "BTC/USDT")
                assert cancelled == ["theirs"]
            else:
                with pytest.raises(OutcomeUnknownError, match="does not prove that it never arrived"):
                    connection.call(desk.submit, order, client_id, doubts.append)
                with pytest.raises(OutcomeUnknownError, match="in no list"):
                    connection.call(desk.cancel, None, client_id, "BTC/USDT")
                assert not cancelled
            assert doubts
            assert len(orders) == 1
        finally:
            connection.stop()

    async def main() -> None:
        async with serving(answer) as address:
            await asyncio.to_thread(use, address)

    asyncio.run(main())
