"""The simulated exchange on loopback: HTTP and WebSocket in a thread of its own, with faults and latency on the way."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from decimal import Decimal
from itertools import count
from typing import Any, Literal, NamedTuple, Self, TypeVar

import orjson
from aiohttp import WSCloseCode, WSMsgType, web

from ccxtbt.sim.account import Account
from ccxtbt.sim.binance import Binance, opening, without_host
from ccxtbt.sim.binance_access import Refusal
from ccxtbt.sim.binance_json import account_position, balance_update
from ccxtbt.sim.binance_limits import Counter, Limits
from ccxtbt.sim.binance_user import Request
from ccxtbt.sim.clock import SimClock
from ccxtbt.sim.connection import Connection, Socket, frame
from ccxtbt.sim.events import BalanceEvent
from ccxtbt.sim.faults import Faults, Rule
from ccxtbt.sim.market import Market, QuietBars
from ccxtbt.sim.matching import Exchange
from ccxtbt.sim.spec import Spec

T = TypeVar("T")
Reports = Literal["before", "after", "mixed"]
log = logging.getLogger(__name__)

API_KEY = "sim-key"
SECRET = "sim-secret"  # noqa: S105 - the account that a simulator opens when none is asked for
#: 2024-01-01 00:00 UTC, a Monday: where a simulator's time begins unless told otherwise.
START_MS = 1_704_067_200_000


class RequestRecord(NamedTuple):
    """One request as the server saw it; ws-api requests have method 'WS' and the ws-api's method as path."""

    at_ms: int
    method: str
    path: str
    params: str
    status: int
    weight: int


class SimServer:
    """A simulated Binance spot that ccxt's own class connects to.

    Paths are served bare ('/api/v3/time') and behind the original host ('/api.binance.com/api/v3/time').

    Parameters
    ----------
    exchange
        Markets, accounts and clock. While the server runs, only its thread may touch them: see `call`.
    host, port
        Where to listen; port 0 takes a free one.
    latency_ms
        How long a message is on its way, in each direction, on the simulator's clock.
    faults
        The rules of what goes wrong.
    limits
        Request weights and socket limits.
    reports
        Whether the user stream's reports of an order leave before its answer, after it, or by turns.
    pump_ms
        Real time between two steps of the exchange.

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
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        latency_ms: float = 0.0,
        faults: Faults | None = None,
        limits: Limits | None = None,
        reports: Reports = "mixed",
        pump_ms: float = 5.0,
    ) -> None:
        self.exchange = exchange
        self.clock = exchange.clock
        self.host = host
        self.port = port
        self.limits = limits or Limits()
        self.faults = faults or Faults()
        self.faults.now_ms = self.clock.now_ms
        self.binance = Binance(exchange, self.limits, self._deliver)
        self.usage = self.binance.usage
        self.requests: deque[RequestRecord] = deque(maxlen=10_000)
        self.connections: dict[int, Connection] = {}
        self.connects = 0
        self._reports = reports
        self._orders = count()
        self._numbers = count(1)
        self._pump_s = pump_ms / 1000
        self._latency_s = self._real_s(latency_ms / 1000)
        self._dirty: dict[Connection, None] = {}
        self._messages = Counter(1000)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._error: BaseException | None = None

    @classmethod
    def of(
        cls,
        specs: Iterable[Spec],
        *,
        seed: int = 1,
        speed: float = 1.0,
        start_ms: int = START_MS,
        history_ms: int = 0,
        quiet_bars: QuietBars = "skip",
        balances: Mapping[str, Decimal | str | int] | None = None,
        api_key: str = API_KEY,
        secret: str = SECRET,
        exchange_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Build a server over seeded markets with one account; it is not started.

        Parameters
        ----------
        specs, seed, start_ms, history_ms, quiet_bars
            The markets; see `Market`.
        speed
            Virtual milliseconds per real one.
        balances
            What the account has at first; nothing if not given.
        api_key, secret
            The account's keys.
        exchange_options
            Further arguments of `Exchange`, such as fees.
        **options
            Further arguments of `SimServer`.
        """
        markets = {spec.symbol: Market(spec, seed, start_ms, history_ms, quiet_bars) for spec in specs}
        exchange = Exchange(markets, SimClock(start_ms, speed), **(exchange_options or {}))
        exchange.add_account(Account(api_key, secret, balances or {}))
        return cls(exchange, **options)

    @property
    def url(self) -> str:
        """Where the server listens, as 'http://127.0.0.1:1234'."""
        return f"http://{self.host}:{self.port}"

    @property
    def speed(self) -> float:
        """Virtual milliseconds per real one."""
        return float(getattr(self.clock, "speed", 1.0))

    def _real_s(self, virtual_s: float) -> float:
        return virtual_s / self.speed

    # Life cycle

    def start(self) -> Self:
        """Start in a thread of its own and return once the server listens.

        Raises
        ------
        OSError
            If the port cannot be had.
        """
        if self._thread is not None:
            raise RuntimeError("The simulator has been started already; make a new one.")
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="ccxtbt-sim", daemon=True)
        self._thread.start()
        ready.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self.serve(ready.set))
        except BaseException as error:
            self._error = error
            log.exception("The simulator's thread ended by an error")
        finally:
            ready.set()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the server, its connections and its thread; a second call does nothing.

        Raises
        ------
        RuntimeError
            If the thread does not end in time, or had died of an error while it ran.
        """
        thread, loop = self._thread, self._loop
        if thread is None:
            return
        if thread.is_alive() and loop is not None:
            loop.call_soon_threadsafe(self.request_stop)
        thread.join(timeout_s)
        if thread.is_alive():
            raise RuntimeError(f"The simulator's thread did not end within {timeout_s} s.")
        error, self._error = self._error, None
        if error is not None:
            raise RuntimeError("The simulator died while it ran.") from error

    def request_stop(self) -> None:
        """Let `serve` return; to be called on the server's thread."""
        if self._stopping is not None:
            self._stopping.set()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def serve(self, on_ready: Callable[[], None] | None = None) -> None:
        """Serve on the running loop until `request_stop` is called there.

        Parameters
        ----------
        on_ready
            Called once the server listens and `port` is known.
        """
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.5)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.port).start()
            self.port = runner.addresses[0][1]
            pump = self._keep(self._pump_for_ever())
            stopped = self._keep(self._stopping.wait())
            if on_ready is not None:
                on_ready()
            await asyncio.wait([stopped, pump], return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
        finally:
            for connection in list(self.connections.values()):
                connection.abort()
            await runner.cleanup()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._loop = self._stopping = None

    # Control by tests: each may be called from any thread while the server runs

    def call(self, function: Callable[..., T], *args: Any, timeout_s: float = 10.0) -> T:
        """Run a function on the server's thread, between two steps of the exchange, and return its result."""
        loop = self._loop
        if loop is None:
            raise RuntimeError("The simulator is not running: start it before calling into it.")

        async def run() -> T:
            self._pump()
            result = function(*args)
            self._flush()
            return result

        return asyncio.run_coroutine_threadsafe(run(), loop).result(timeout_s)

    def account(self, api_key: str = API_KEY) -> Account:
        """Return an account; read its balances through `call` while the server runs."""
        return self.exchange.account(api_key)

    def deposit(self, asset: str, amount: Decimal | str | int, api_key: str = API_KEY) -> None:
        """Give an account coins (take them, if negative) and say so on its user streams."""

        def give() -> None:
            account, change, now_ms = self.exchange.account(api_key), Decimal(amount), self.clock.now_ms()
            account.deposit(asset, change)
            balance = account.balance(asset)
            changed = BalanceEvent(now_ms, account, ((asset, balance.free, balance.locked),))
            self.binance.users.send(api_key, balance_update(asset, change, now_ms))
            self.binance.users.send(api_key, account_position(changed, now_ms))

        self.call(give)

    def close_connections(self, code: int = WSCloseCode.GOING_AWAY, socket: Socket | None = None) -> int:
        """Close all WebSocket connections, or those of one kind, with a code; return how many there were."""
        return self._each(socket, lambda connection: connection.close(code))

    def abort_connections(self, socket: Socket | None = None) -> int:
        """Cut all WebSocket connections, or those of one kind (TCP reset); return how many there were."""
        return self._each(socket, Connection.abort)

    def stall_connections(self, socket: Socket | None = None) -> int:
        """Leave all WebSocket connections, or those of one kind, half open; return how many there were."""
        return self._each(socket, Connection.stall)

    def announce_shutdown(self) -> int:
        """Send ``serverShutdown`` to all WebSocket connections, as Binance does ten minutes before it closes them."""
        event = orjson.dumps({"e": "serverShutdown", "E": self.clock.now_ms()})
        wrapped = frame(b'{"event":%b}' % event)
        return self._each(None, lambda c: c.send(wrapped if c.socket == "user" else frame(event)))

    def terminate_user_streams(self) -> None:
        """End all user streams with ``eventStreamTerminated``; their connections stay open."""
        self.call(lambda: self.binance.users.terminate(self.clock.now_ms()))

    def _each(self, socket: Socket | None, act: Callable[[Connection], object]) -> int:
        def run() -> int:
            chosen = [c for c in self.connections.values() if socket in (None, c.socket)]
            for connection in chosen:
                act(connection)
            return len(chosen)

        return self.call(run)

    # The exchange's time

    async def _pump_for_ever(self) -> None:
        while True:
            self._pump()
            self._flush()
            self._keep_alive()
            await asyncio.sleep(self._pump_s)

    def _pump(self) -> None:
        now_ms = self.clock.now_ms()
        self.binance.publish(self.exchange.advance(now_ms), now_ms)
        self.binance.streams.tick(now_ms)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for connection in dirty:
            connection.flush()

    def _keep_alive(self) -> None:
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
            copies = self._apply(rule, connection, data, copies)
        for _ in range(copies):
            connection.send(data)

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

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
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
        self._pump()
        api_key, address = request.headers.get("X-MBX-APIKEY"), request.remote or ""
        status, content, headers, weight = self.binance.rest.answer(request.method, path, query, body, api_key, address)
        self._report(request.method, path)
        await self._delay(rules, "delay_answer")
        if instead is not None:
            return await self._answer_by(instead, request, path, query or body, weight)
        self.requests.append(RequestRecord(self.clock.now_ms(), request.method, path, query or body, status, weight))
        return await self._respond(request, rules, web.Response(status=status, body=content, headers=headers))

    def _report(self, method: str, path: str) -> None:
        """After a new order, send its reports now or leave them to the next step of the exchange."""
        if method != "POST" or path != "/api/v3/order":
            return
        if self._reports == "before" or (self._reports == "mixed" and next(self._orders) % 2 == 0):
            self.binance.publish(self.exchange.drain(), self.clock.now_ms())
            self._flush()

    def _rules_on(self, method: str, path: str, query: str, body: str) -> list[Rule]:
        if not self.faults.rules["request"]:
            return []
        params = dict(part.partition("=")[::2] for text in (query, body) for part in text.split("&") if part)
        return self.faults.take("request", {"path": path, "method": method, "symbol": params.get("symbol")}, params)

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
                response.body = response.body[: int(len(response.body) * rule.args["keep"])]
        return response

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
            self.usage.connect(address)
        except Refusal as refusal:
            return web.Response(status=refusal.status, body=orjson.dumps(refusal.body()))
        ws = web.WebSocketResponse(timeout=1.0, autoping=False, compress=False)
        await ws.prepare(request)
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
        self.connections[connection.number] = connection
        try:
            self.binance.streams.subscribe(connection, target.streams)
            await self._read(connection, ws)
        finally:
            del self.connections[connection.number]
            self.binance.drop(connection)
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
                self._keep(self._on_text(connection, message.data))

    def _keep(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _on_text(self, connection: Connection, text: str) -> None:
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        if connection.socket == "market":
            connection.send(frame(self.binance.streams.answer(connection, text)))
        else:
            await self._on_request(connection, text)
        self._flush()

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
            self._pump()
            answer = self.binance.answer_socket(connection, request)
            self._report("POST" if request.method == "order.place" else "WS", "/api/v3/order")
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
