"""What goes over the wire between the simulated exchange and its clients, with faults and latency on the way."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import orjson
from aiohttp import WSCloseCode, WSMsgType, web

from ccxtbt.sim.binance import Binance, opening, without_host
from ccxtbt.sim.binance_access import Params, Refusal
from ccxtbt.sim.binance_limits import Counter, Limits
from ccxtbt.sim.binance_user import Request
from ccxtbt.sim.connection import Connection, Socket, frame, framed
from ccxtbt.sim.faults import Faults, Rule
from ccxtbt.sim.matching import Exchange
from ccxtbt.sim.perpetuals import Perpetuals
from ccxtbt.sim.usdm import Usdm

T = TypeVar("T")
log = logging.getLogger(__name__)
Reports = Literal["before", "after", "mixed"]


class RequestRecord(NamedTuple):
    """One request as the server saw it; ws-api requests have method 'WS' and the ws-api's method as path."""

    at_ms: int
    method: str
    path: str
    params: str
    status: int
    weight: int


class Gateway:
    """The exchange's doors: takes requests and connections, hands them to the protocol, and sends what comes back.

    All of it runs on one event loop. See `SimServer` for the parameters; the futures exchange keeps its own limits.

    Attributes
    ----------
    requests : deque of RequestRecord
        The last 10,000 requests.
    connections : dict of int to Connection
        The open WebSocket connections by number.
    connects : int
        WebSocket handshakes so far, refused ones too.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        latency_ms: float,
        faults: Faults,
        limits: Limits,
        reports: Reports,
        contracts: Perpetuals | None = None,
    ) -> None:
        self.exchange = exchange
        self.clock = exchange.clock
        self.speed = float(getattr(exchange.clock, "speed", 1.0))
        self.limits = limits
        self.faults = faults
        self.binance = Binance(exchange, limits, self._deliver)
        self.usdm = None if contracts is None else Usdm(contracts, self._deliver)
        self.requests: deque[RequestRecord] = deque(maxlen=10_000)
        self.connections: dict[int, Connection] = {}
        self.connects = 0
        self._reports = reports
        self._orders = count()
        self._numbers = count(1)
        self._latency_s = self._real_s(latency_ms / 1000)
        self._dirty: dict[Connection, None] = {}
        self._messages = Counter(1000)
        self._tasks: set[asyncio.Task[Any]] = set()

    def _real_s(self, virtual_s: float) -> float:
        return virtual_s / self.speed

    def keep(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a task that ends with the gateway."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("A task of the simulator failed", exc_info=task.exception())

    def each(self, socket: Socket | None, act: Callable[[Connection], object]) -> int:
        """Do something to all WebSocket connections, or to those of one kind; return how many there were."""
        chosen = [each for each in self.connections.values() if socket in (None, each.socket)]
        for connection in chosen:
            act(connection)
        return len(chosen)

    async def end(self) -> None:
        """Cancel what still runs, once no request can come any more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def pump(self) -> None:
        """Let the exchange reach the clock's time and send what happens."""
        now_ms = self.clock.now_ms()
        self.binance.publish(self.exchange.advance(now_ms), now_ms)
        self.binance.streams.tick(now_ms)
        if self.usdm is not None:
            self.usdm.publish(self.usdm.exchange.advance(now_ms), now_ms)
            self.usdm.streams.tick(now_ms)

    def _venue(self, *, usdm: bool) -> Binance | Usdm:
        """Return the exchange that a request or a connection is for."""
        return self.usdm if usdm and self.usdm is not None else self.binance

    def flush(self) -> None:
        """Write what is queued on all connections."""
        dirty, self._dirty = self._dirty, {}
        for connection in dirty:
            connection.flush()

    def keep_alive(self) -> None:
        """Ping connections, and close those that do not answer or are too old."""
        now_ms, limits = self.clock.now_ms(), self.limits
        for connection in list(self.connections.values()):
            if connection.stalled:
                continue
            if now_ms - connection.opened_ms >= limits.ws_age_s * 1000:
                connection.close(WSCloseCode.GOING_AWAY)
            elif connection.pinged_ms - connection.ponged_ms > 0 and (
                now_ms - connection.ponged_ms >= (limits.ws_ping_s + limits.ws_pong_s) * 1000
            ):
                connection.close(WSCloseCode.POLICY_VIOLATION, "Pong timeout")
            elif now_ms - connection.pinged_ms >= limits.ws_ping_s * 1000:
                connection.pinged_ms = now_ms
                connection.control(WSMsgType.PING, str(now_ms).encode())

    # Frames

    def _deliver(self, connection: Connection, data: bytes, stream: str, event: str, content: Any) -> None:
        """Send one frame to one connection, unless a rule wants it otherwise."""
        if not self.faults.rules["frame"]:
            connection.send(data)
            return
        fields = {"stream": stream, "event": event, "connection": connection.number}
        rules = self.faults.take("frame", fields, content if isinstance(content, dict) else {})
        copies = 1
        for rule in rules:
            if rule.action == "amend":
                self._amend(rule, connection, stream, content)
            else:
                copies = self._apply(rule, connection, data, copies)
        for _ in range(copies):
            connection.send(data)

    def _amend(self, rule: Rule, connection: Connection, stream: str, content: Any) -> None:
        """Send an event once more, later and otherwise."""
        payload = orjson.dumps(rule.args["change"](content))
        data = framed(payload, stream if connection.combined else None)
        asyncio.get_running_loop().call_later(self._real_s(rule.args["seconds"]), connection.send, data)

    def _apply(self, rule: Rule, connection: Connection, data: bytes, copies: int) -> int:
        """Do what a rule does to a frame; return how often the frame is still to be sent."""
        args = rule.args
        if rule.action == "duplicate":
            return copies + int(args["copies"])
        if rule.action == "delay":
            asyncio.get_running_loop().call_later(self._real_s(args["seconds"]), connection.send, data)
        elif rule.action == "reorder":
            connection.hold(data, args["behind"])
        elif rule.action == "garble":
            connection.send(frame(args["body"]))
        elif rule.action == "close":
            connection.close(args["code"])
        elif rule.action == "abort":
            connection.abort()
        elif rule.action == "stall":
            connection.stall()
        return 0

    # Requests

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer an HTTP request, which may open a WebSocket connection."""
        path = without_host(request.path)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._handle_socket(request, path)
        body = (await request.read()).decode()
        query = request.rel_url.raw_query_string
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        rules = self._rules_on(request.method, path, query, body)
        await self._delay(rules, "delay_request")
        instead = next((rule for rule in rules if rule.action == "answer"), None)
        if instead is not None and not instead.args["taken"]:
            return await self._answer_by(instead, request, path, query or body)
        self.pump()
        venue = self._venue(usdm=path.startswith("/fapi/"))
        api_key, address = request.headers.get("X-MBX-APIKEY"), request.remote or ""
        if any(rule.action == "fill_first" for rule in rules):
            self._fill_first(venue.exchange, api_key or "", query or body)
        with venue.market_data.seen_with(lag_ms=_ms(rules, "lag"), skew_ms=_ms(rules, "skew")):
            status, content, headers, weight = venue.rest.answer(request.method, path, query, body, api_key, address)
        self._report(request.method, path)
        await self._delay(rules, "delay_answer")
        if instead is not None:
            return await self._answer_by(instead, request, path, query or body, weight)
        self.requests.append(RequestRecord(self.clock.now_ms(), request.method, path, query or body, status, weight))
        return await self._respond(request, rules, web.Response(status=status, body=content, headers=headers))

    @staticmethod
    def _fill_first(exchange: Exchange, api_key: str, params: str) -> None:
        named = Params(parse_qsl(params))
        found = named.symbol(), named.integer("orderId"), named.get("origClientOrderId")
        exchange.fill(exchange.account(api_key), *found)

    def _report(self, method: str, path: str) -> None:
        """After a new order, send its reports now or leave them to the next step of the exchange."""
        if method != "POST" or not path.startswith(("/api/v3/order", "/fapi/v1/order", "/fapi/v1/algoOrder")):
            return
        if self._reports == "before" or (self._reports == "mixed" and next(self._orders) % 2 == 0):
            venue = self._venue(usdm=path.startswith("/fapi/"))
            venue.publish(venue.exchange.drain(), self.clock.now_ms())
            self.flush()

    def _rules_on(self, method: str, path: str, query: str, body: str) -> list[Rule]:
        if not self.faults.rules["request"]:
            return []
        params = dict(part.partition("=")[::2] for text in (query, body) for part in text.split("&") if part)
        return self.faults.take("request", {"path": path, "method": method, "symbol": params.get("symbol")}, params)

    def _denial(self, stream: str) -> tuple[int, str] | None:
        """Return why a stream is refused, if a rule says so."""
        rules = self.faults.take("subscribe", {"stream": stream}, {}) if self.faults.rules["subscribe"] else []
        return (rules[0].args["code"], rules[0].args["message"]) if rules else None

    async def _delay(self, rules: list[Rule], action: str) -> None:
        for rule in rules:
            if rule.action == action:
                await asyncio.sleep(self._real_s(rule.args["seconds"]))

    async def _answer_by(
        self, rule: Rule, request: web.BaseRequest, path: str, params: str, weight: int = 0
    ) -> web.StreamResponse:
        """Answer as a rule says instead of the exchange."""
        status = rule.args["status"]
        self.requests.append(RequestRecord(self.clock.now_ms(), request.method, path, params, status, weight))
        headers = {"Content-Type": "application/json;charset=UTF-8"} | rule.args["headers"]
        return await self._respond(request, [], web.Response(status=status, body=rule.args["body"], headers=headers))

    async def _respond(self, request: web.BaseRequest, rules: list[Rule], response: web.Response) -> web.StreamResponse:
        """Bring an answer on its way, through latency and the rules that drop or cut it."""
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        for rule in rules:
            if rule.action == "drop_answer" and request.transport is not None:
                request.transport.abort()
            elif rule.action == "truncate" and isinstance(response.body, bytes):
                part = response.body[: int(len(response.body) * rule.args["keep"])]
                if rule.args["cut"]:
                    return await self._cut(request, response, part)
                response.body = part
        return response

    async def _cut(self, request: web.BaseRequest, response: web.Response, part: bytes) -> web.StreamResponse:
        """Announce a whole answer, send a part of it, and end the connection."""
        cut = web.StreamResponse(status=response.status, headers=response.headers)
        cut.content_length = response.content_length
        await cut.prepare(request)
        await cut.write(part)
        if request.transport is not None:
            request.transport.close()
        return cut

    # WebSocket connections

    async def _handle_socket(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        target = opening(path, request.rel_url.query_string)
        if target is None:
            return web.Response(status=404)
        self.connects += 1
        rules = self.faults.take("connect", {"socket": target.socket}, {})
        await self._delay(rules, "delay")
        refuse = next((rule for rule in rules if rule.action == "refuse"), None)
        if refuse is not None:
            return web.Response(status=refuse.args["status"])
        address = request.remote or ""
        try:
            self.binance.usage.connect(address)
        except Refusal as refusal:
            return web.Response(status=refusal.status, body=orjson.dumps(refusal.body()))
        ws = web.WebSocketResponse(timeout=1.0, autoping=False, compress=False)
        try:
            await ws.prepare(request)
        except ConnectionResetError:  # the client left before its turn came
            return ws
        close = next((rule for rule in rules if rule.action == "close"), None)
        if close is not None:
            await ws.close(code=close.args["code"])
            return ws
        assert request.transport is not None  # noqa: S101 - the handshake was just written to it
        connection = Connection(
            next(self._numbers),
            target.socket,
            path,
            address,
            ws,
            request.transport,
            self.clock.now_ms(),
            self._latency_s,
            self._want_flush,
        )
        connection.combined = target.combined
        connection.usdm = target.usdm
        self.connections[connection.number] = connection
        try:
            self._venue(usdm=target.usdm).streams.subscribe(connection, target.streams)
            if target.listen_key and self.usdm is not None:
                self.usdm.users.open(connection, target.listen_key)
            await self._read(connection, ws)
        finally:
            del self.connections[connection.number]
            self._venue(usdm=target.usdm).drop(connection)
            await connection.closed()
        return ws

    def _want_flush(self, connection: Connection) -> None:
        self._dirty[connection] = None

    async def _read(self, connection: Connection, ws: web.WebSocketResponse) -> None:
        """Read a connection's messages until it ends."""
        async for message in ws:
            if connection.stalled:
                continue
            if message.type is WSMsgType.PONG:
                connection.ponged_ms = self.clock.now_ms()
                continue
            key = str(connection.number)
            if self._messages.add(key, 1, self.clock.now_ms()) > self.limits.ws_messages_per_s:
                connection.close(WSCloseCode.POLICY_VIOLATION, "Too many requests")
                continue
            if message.type is WSMsgType.PING:
                connection.control(WSMsgType.PONG, message.data)
            elif message.type is WSMsgType.TEXT:
                self.keep(self._on_text(connection, message.data))

    async def _on_text(self, connection: Connection, text: str) -> None:
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        if connection.socket == "market" or connection.usdm:
            streams = self._venue(usdm=connection.usdm).streams
            connection.send(frame(streams.answer(connection, text, self._denial)))
        else:
            await self._on_request(connection, text)
        self.flush()

    async def _on_request(self, connection: Connection, text: str) -> None:
        """Carry out a ws-api request, with the rules that match it."""
        try:
            request = Request(text)
        except Refusal as refusal:
            connection.send(frame(orjson.dumps(self.binance.refuse_socket(None, refusal))))
            return
        fields = {"path": request.method, "method": "WS", "symbol": request.params.get("symbol")}
        rules = self.faults.take("request", fields, request.params)
        await self._delay(rules, "delay_request")
        instead = next((rule for rule in rules if rule.action == "answer"), None)
        if instead is None or instead.args["taken"]:
            self.pump()
            answer = self.binance.answer_socket(connection, request)
            self._report("POST" if ".place" in request.method else "WS", "/api/v3/order")
        if instead is not None:
            body = instead.args["body"]
            answer = b'{"id":%b,"status":%d,"error":%b}' % (
                orjson.dumps(request.number),
                instead.args["status"],
                body if body.startswith(b"{") else b"null",
            )
        shown = orjson.loads(answer)
        params = orjson.dumps(request.params).decode()
        self.requests.append(RequestRecord(self.clock.now_ms(), "WS", request.method, params, shown["status"], 0))
        await self._delay(rules, "delay_answer")
        for rule in rules:
            if rule.action == "drop_answer":
                connection.abort()
                return
            if rule.action == "truncate":
                answer = answer[: int(len(answer) * rule.args["keep"])]
        connection.send(frame(answer))


def _ms(rules: list[Rule], action: str) -> int:
    """Return the ms that the rules of an action add up to."""
    return int(1000 * sum(rule.args["seconds"] for rule in rules if rule.action == action))
