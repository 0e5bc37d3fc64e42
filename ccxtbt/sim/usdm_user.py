"""User streams of Binance's USD-M futures: opened by a listen key, which a request with the API key makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from ccxtbt.sim.binance_access import Params, Refusal
from ccxtbt.sim.binance_json import Json
from ccxtbt.sim.connection import Connection, frame
from ccxtbt.sim.events import AlgoEvent, MarginEvent, OrderEvent
from ccxtbt.sim.usdm_algo import algo_update
from ccxtbt.sim.usdm_json import account_update, order_update

if TYPE_CHECKING:
    from ccxtbt.sim.account import Account
    from ccxtbt.sim.binance_streams import Deliver

USER_STREAM = "user"


class ListenKeys:
    """The listen keys of all accounts, one each, and the connections that they opened.

    A key lives until it is closed or `expire` is called: the hour after which Binance's expire is not counted, since a
    client renews them by the wall's clock and not by the simulator's.
    """

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._keys: dict[str, str] = {}
        self._connections: dict[str, dict[Connection, None]] = {}
        self._made = 0

    def make(self, account: Account, params: Params) -> Json:
        """``POST /fapi/v1/listenKey``: the same key again while there is one."""
        if account.api_key not in self._keys:
            self._made += 1
            self._keys[account.api_key] = f"sim{self._made:061d}"
        return {"listenKey": self._keys[account.api_key]}

    def keep(self, account: Account, params: Params) -> Json:
        """``PUT /fapi/v1/listenKey``."""
        if account.api_key not in self._keys:
            raise Refusal(400, -1125, "This listenKey does not exist.")
        return {"listenKey": self._keys[account.api_key]}

    def close(self, account: Account, params: Params) -> Json:
        """``DELETE /fapi/v1/listenKey``."""
        self._keys.pop(account.api_key, None)
        return {}

    def open(self, connection: Connection, listen_key: str) -> None:
        """Let a connection have an account's events; with a key that is none it stays silent, as on Binance."""
        for api_key, key in self._keys.items():
            if key == listen_key:
                connection.accounts[0] = api_key
                self._connections.setdefault(api_key, {})[connection] = None

    def drop(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        for connections in self._connections.values():
            connections.pop(connection, None)

    def publish(self, event: OrderEvent | AlgoEvent | MarginEvent, now_ms: int) -> None:
        """Send an account's event to its connections."""
        if self._connections.get(event.account.api_key):
            if isinstance(event, OrderEvent):
                content = order_update(event, now_ms)
            elif isinstance(event, AlgoEvent):
                content = algo_update(event, now_ms)
            else:
                content = account_update(event, now_ms)
            self._send(event.account.api_key, content)

    def expire(self, api_key: str, now_ms: int) -> None:
        """End an account's key and its streams with ``listenKeyExpired``; their connections stay open."""
        key = self._keys.pop(api_key, "")
        self._send(api_key, {"e": "listenKeyExpired", "E": now_ms, "listenKey": key})
        self._connections.pop(api_key, None)

    def _send(self, api_key: str, content: Json) -> None:
        data = frame(orjson.dumps(content))
        for connection in list(self._connections.get(api_key, {})):
            self._deliver(connection, data, USER_STREAM, content["e"], content)
