"""Binance spot's WebSocket API: requests over a socket, and the user data stream that a signed one opens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from ccxtbt.sim.binance_access import Params, Refusal
from ccxtbt.sim.binance_json import Json, account_position, execution_report
from ccxtbt.sim.binance_lists import list_status
from ccxtbt.sim.connection import Connection, frame
from ccxtbt.sim.events import BalanceEvent, ListEvent, OrderEvent

if TYPE_CHECKING:
    from ccxtbt.sim.account import Account
    from ccxtbt.sim.binance_rest import Rest
    from ccxtbt.sim.binance_streams import Deliver

#: Methods of the ws-api that answer as a REST endpoint does.
METHODS: dict[str, tuple[str, str]] = {
    "ping": ("GET", "/api/v3/ping"),
    "time": ("GET", "/api/v3/time"),
    "exchangeInfo": ("GET", "/api/v3/exchangeInfo"),
    "depth": ("GET", "/api/v3/depth"),
    "trades.recent": ("GET", "/api/v3/trades"),
    "trades.historical": ("GET", "/api/v3/historicalTrades"),
    "trades.aggregate": ("GET", "/api/v3/aggTrades"),
    "klines": ("GET", "/api/v3/klines"),
    "ticker.24hr": ("GET", "/api/v3/ticker/24hr"),
    "ticker.price": ("GET", "/api/v3/ticker/price"),
    "ticker.book": ("GET", "/api/v3/ticker/bookTicker"),
    "order.place": ("POST", "/api/v3/order"),
    "order.test": ("POST", "/api/v3/order/test"),
    "order.status": ("GET", "/api/v3/order"),
    "order.cancel": ("DELETE", "/api/v3/order"),
    "order.cancelReplace": ("POST", "/api/v3/order/cancelReplace"),
    "orderList.place": ("POST", "/api/v3/order/oco"),
    "orderList.place.oco": ("POST", "/api/v3/orderList/oco"),
    "orderList.place.oto": ("POST", "/api/v3/orderList/oto"),
    "orderList.place.otoco": ("POST", "/api/v3/orderList/otoco"),
    "orderList.cancel": ("DELETE", "/api/v3/orderList"),
    "orderList.status": ("GET", "/api/v3/orderList"),
    "openOrderLists.status": ("GET", "/api/v3/openOrderList"),
    "allOrderLists": ("GET", "/api/v3/allOrderList"),
    "openOrders.status": ("GET", "/api/v3/openOrders"),
    "openOrders.cancelAll": ("DELETE", "/api/v3/openOrders"),
    "allOrders": ("GET", "/api/v3/allOrders"),
    "myTrades": ("GET", "/api/v3/myTrades"),
    "account.status": ("GET", "/api/v3/account"),
    "account.commission": ("GET", "/api/v3/account/commission"),
    "account.rateLimits.orders": ("GET", "/api/v3/rateLimit/order"),
}
USER_STREAM = "user"


class Request:
    """A ws-api message that could be read: what is asked, by which id, with which parameters."""

    def __init__(self, text: str) -> None:
        """Read a message.

        Raises
        ------
        Refusal
            -1135 if it is no JSON object with an id and a method; `number` then stays None.
        """
        self.number: Any = None
        self.method = ""
        self.params = Params()
        try:
            message = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise Refusal(400, -1135, f"Invalid JSON Request: {error}") from error
        if not isinstance(message, dict) or not isinstance(message.get("method"), str):
            raise Refusal(400, -1135, "Invalid JSON Request: 'method' must be a string")
        number, params = message.get("id"), message.get("params") or {}
        if not isinstance(number, (int, str, type(None))) or not isinstance(params, dict):
            raise Refusal(400, -1135, "Invalid JSON Request: 'id' or 'params' has a wrong type")
        self.number = number
        self.method = message["method"]
        self.params = Params({name: _text(value) for name, value in params.items() if value is not None})


class UserSockets:
    """All connections to the ws-api and the user streams opened on them."""

    def __init__(self, rest: Rest, deliver: Deliver) -> None:
        self._rest = rest
        self._deliver = deliver
        self._streams: dict[str, dict[tuple[Connection, int], None]] = {}

    def carry_out(self, connection: Connection, request: Request) -> tuple[int, Any, Account | None]:
        """Carry out a request; return status, result and the account that signed."""
        if request.method == "userDataStream.subscribe.signature":
            account = self._rest.authenticate_socket(request.params, frozenset())
            return 200, {"subscriptionId": self._subscribe(connection, account.api_key)}, account
        if request.method == "userDataStream.unsubscribe":
            self._unsubscribe(connection, request.params.integer("subscriptionId"))
            return 200, {}, None
        if request.method == "session.subscriptions":
            return 200, [{"subscriptionId": number} for number in connection.accounts], None
        if request.method not in METHODS:
            raise Refusal(400, -1020, f"Unsupported method '{request.method}'.")
        result, account_or_none = self._rest.call_socket(*METHODS[request.method], request.params)
        return 200, result, account_or_none

    def _subscribe(self, connection: Connection, api_key: str) -> int:
        if api_key in connection.accounts.values():
            raise Refusal(400, -2035, "User Data Stream subscription already active.")
        number = connection.next_subscription
        connection.next_subscription += 1
        connection.accounts[number] = api_key
        self._streams.setdefault(api_key, {})[connection, number] = None
        return number

    def _unsubscribe(self, connection: Connection, number: int | None) -> None:
        for subscription in list(connection.accounts) if number is None else [number]:
            api_key = connection.accounts.pop(subscription, None)
            if api_key is None:
                raise Refusal(400, -2036, "User Data Stream subscription not active.")
            del self._streams[api_key][connection, subscription]

    def drop(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._unsubscribe(connection, None)

    def publish(self, event: OrderEvent | ListEvent | BalanceEvent, now_ms: int) -> None:
        """Send an account's event to the user streams of the account."""
        if not self._streams.get(event.account.api_key):
            return
        if isinstance(event, OrderEvent):
            self.send(event.account.api_key, execution_report(event, now_ms))
        elif isinstance(event, ListEvent):
            self.send(event.account.api_key, list_status(event, now_ms))
        else:
            self.send(event.account.api_key, account_position(event, now_ms))

    def send(self, api_key: str, content: Json) -> None:
        """Send an event to the user streams of an account."""
        payload = orjson.dumps(content)
        for connection, number in list(self._streams.get(api_key, {})):
            data = frame(b'{"subscriptionId":%d,"event":%b}' % (number, payload))
            self._deliver(connection, data, USER_STREAM, content["e"], content)

    def terminate(self, now_ms: int) -> None:
        """End all user streams with ``eventStreamTerminated``; their connections stay open."""
        for api_key, streams in list(self._streams.items()):
            self.send(api_key, {"e": "eventStreamTerminated", "E": now_ms})
            for connection, number in list(streams):
                self._unsubscribe(connection, number)


def _text(value: Any) -> str:
    """Write a JSON parameter as the signature has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else orjson.dumps(value).decode()
