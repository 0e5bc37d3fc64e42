"""The Binance spot wire protocol over a simulated exchange: REST, market streams and ws-api behind one object."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from ccxtbt.sim.binance_access import Refusal
from ccxtbt.sim.binance_limits import Limits, Usage, weight_of
from ccxtbt.sim.binance_rest import Rest
from ccxtbt.sim.binance_streams import Deliver, MarketStreams
from ccxtbt.sim.binance_user import Request, UserSockets
from ccxtbt.sim.events import AlgoEvent, BookTickerEvent, KlineEvent, MarginEvent, TradeEvent

if TYPE_CHECKING:
    from ccxtbt.sim.account import Account
    from ccxtbt.sim.connection import Connection, Socket
    from ccxtbt.sim.events import Event
    from ccxtbt.sim.matching import Exchange


class Opening(NamedTuple):
    """What a client connects to: which socket, the streams its address names, and whether frames name their stream."""

    socket: Socket
    streams: list[str]
    combined: bool
    #: Whether it is the futures exchange's, and the listen key that its user stream is opened by.
    usdm: bool = False
    listen_key: str = ""


class Binance:
    """All of Binance spot that a client can talk to.

    Parameters
    ----------
    exchange
        The markets and accounts.
    limits
        What an address and an account may do.
    deliver
        Sends a whole frame to a connection; see `MarketStreams`.
    """

    def __init__(self, exchange: Exchange, limits: Limits, deliver: Deliver) -> None:
        self.exchange = exchange
        self.usage = Usage(limits, exchange.clock.now_ms)
        self.rest = Rest(exchange, self.usage)
        self.market_data = self.rest.market_data
        self.streams = MarketStreams(exchange, self.market_data, limits.ws_streams, deliver)
        self.users = UserSockets(self.rest, deliver)

    def publish(self, events: Iterable[Event], now_ms: int) -> None:
        """Send events to whom they concern, in their order."""
        for event in events:
            if isinstance(event, (TradeEvent, KlineEvent, BookTickerEvent)):
                self.streams.publish(event, now_ms)
            elif not isinstance(event, (AlgoEvent, MarginEvent)):
                self.users.publish(event, now_ms)

    def drop(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self.streams.drop(connection)
        self.users.drop(connection)

    def answer_socket(self, connection: Connection, request: Request) -> bytes:
        """Carry out a ws-api request and return the answer's text."""
        account: Account | None = None
        try:
            self.usage.charge(connection.address, weight_of("WS", request.method, request.params))
            status, result, account = self.users.carry_out(connection, request)
            answer: dict[str, Any] = {"id": request.number, "status": status, "result": result}
        except Refusal as refusal:
            answer = self.refuse_socket(request.number, refusal)
        if request.params.get("returnRateLimits") != "false":
            key = None if account is None else account.api_key
            answer["rateLimits"] = self.usage.rate_limits(connection.address, key)
        return orjson.dumps(answer)

    def refuse_socket(self, number: object, refusal: Refusal) -> dict[str, Any]:
        """Return a refusal as the ws-api writes it."""
        error = refusal.body()
        if "Retry-After" in refusal.headers:
            now_ms = self.exchange.clock.now_ms()
            error["data"] = {"serverTime": now_ms, "retryAfter": now_ms + 1000 * int(refusal.headers["Retry-After"])}
        return {"id": number, "status": refusal.status, "error": error}


def without_host(path: str) -> str:
    """Take the original host off a path: '/api.binance.com/api/v3/time' is '/api/v3/time', which stays as it is."""
    host, slash, rest = path[1:].partition("/")
    return slash + rest if "." in host else path


def opening(path: str, query: str) -> Opening | None:
    """Read what a WebSocket client connects to; None if there is no such address."""
    parts = path.strip("/").split("/")
    if parts[0] in {"public", "market"}:
        inner = opening("/".join(parts[1:]), query)
        return None if inner is None else inner._replace(usdm=True)
    if parts == ["private", "ws"]:
        key = query.partition("listenKey=")[2].partition("&")[0]
        return Opening("user", [], combined=False, usdm=True, listen_key=key)
    if parts[0] == "ws-api" and parts[1:] in ([], ["v3"]):
        return Opening("user", [], combined=False)
    if parts[0] == "ws":
        return Opening("market", parts[1:], combined=False)
    if parts == ["stream"]:
        names = query.partition("streams=")[2].partition("&")[0]
        return Opening("market", [name for name in names.split("/") if name], combined=True)
    return None
