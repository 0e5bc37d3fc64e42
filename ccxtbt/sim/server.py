"""The simulated exchange on loopback: HTTP and WebSocket in a thread of its own, with faults and latency on the way."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Self, TypeVar

import orjson
from aiohttp import WSCloseCode, web

from ccxtbt.sim.account import Account
from ccxtbt.sim.binance_json import account_position, balance_update
from ccxtbt.sim.binance_limits import Limits
from ccxtbt.sim.clock import SimClock
from ccxtbt.sim.connection import Connection, Socket, frame
from ccxtbt.sim.control import Control
from ccxtbt.sim.events import BalanceEvent
from ccxtbt.sim.faults import Faults
from ccxtbt.sim.gateway import Gateway, Reports
from ccxtbt.sim.market import Market, QuietBars
from ccxtbt.sim.matching import Exchange
from ccxtbt.sim.perpetuals import Perpetuals
from ccxtbt.sim.spec import Spec

T = TypeVar("T")
log = logging.getLogger(__name__)

API_KEY = "sim-key"
SECRET = "sim-secret"  # noqa: S105 - the account that a simulator opens when none is asked for
#: 2024-01-01 00:00 UTC, a Monday: where a simulator's time begins unless told otherwise.
START_MS = 1_704_067_200_000


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
    control
        Whether it takes orders from other processes: see `Control`.
    contracts
        The perpetual contracts of Binance's USD-M futures, on the same clock, served below '/fapi/'; none if not given.

    Attributes
    ----------
    requests : deque of RequestRecord
        The last 10,000 requests.
    connections : dict of int to Connection
        The open WebSocket connections by number.
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
        control: bool = False,
        contracts: Perpetuals | None = None,
    ) -> None:
        self.exchange = exchange
        self.clock = exchange.clock
        self.host = host
        self.port = port
        self.limits = limits or Limits()
        self.faults = faults or Faults()
        self.faults.now_ms = self.clock.now_ms
        self.contracts = contracts
        self.gateway = Gateway(
            exchange,
            latency_ms=latency_ms,
            faults=self.faults,
            limits=self.limits,
            reports=reports,
            contracts=contracts,
        )
        self.binance = self.gateway.binance
        self.usage = self.binance.usage
        self.requests = self.gateway.requests
        self.connections = self.gateway.connections
        self._handle = Control(self.gateway).handle if control else self.gateway.handle
        self._pump_s = pump_ms / 1000
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
        began_s: float | None = None,
        history_ms: int = 0,
        quiet_bars: QuietBars = "skip",
        balances: Mapping[str, Decimal | str | int] | None = None,
        api_key: str = API_KEY,
        secret: str = SECRET,
        exchange_options: Mapping[str, Any] | None = None,
        contracts: Iterable[Spec] = (),
        margin: Mapping[str, Decimal | str | int] | None = None,
        **options: Any,
    ) -> Self:
        """Build a server over seeded markets with one account; it is not started.

        Parameters
        ----------
        specs, seed, start_ms, history_ms, quiet_bars
            The markets; see `Market`.
        speed, began_s
            Virtual milliseconds per real one, and when the clock stood at `start_ms`; see `SimClock`.
        balances
            What the account has at first; nothing if not given.
        api_key, secret
            The account's keys.
        exchange_options
            Further arguments of `Exchange`, such as fees.
        contracts, margin
            The perpetual contracts of a futures exchange beside it, none if not given, and the account's wallet there.
        **options
            Further arguments of `SimServer`.
        """
        markets = {spec.symbol: Market(spec, seed, start_ms, history_ms, quiet_bars) for spec in specs}
        exchange = Exchange(markets, SimClock(start_ms, speed, began_s), **(exchange_options or {}))
        exchange.add_account(Account(api_key, secret, balances or {}))
        perpetuals = {spec.symbol: Market(spec, seed, start_ms, history_ms, quiet_bars) for spec in contracts}
        if perpetuals:
            futures = Perpetuals(perpetuals, exchange.clock)
            futures.add_account(Account(api_key, secret, margin or {}))
            options["contracts"] = futures
        return cls(exchange, **options)

    @property
    def url(self) -> str:
        """Where the server listens, as 'http://127.0.0.1:1234'."""
        return f"http://{self.host}:{self.port}"

    @property
    def speed(self) -> float:
        """Virtual milliseconds per real one."""
        return self.gateway.speed

    @property
    def connects(self) -> int:
        """WebSocket handshakes so far, refused ones too."""
        return self.gateway.connects

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

    def restart(self, down_s: float) -> None:
        """Go away, cutting all connections, and come back on the same port `down_s` (on the simulator's clock) later.

        Markets, accounts and clock go on meanwhile.
        """
        self.stop()
        self._thread = None
        time.sleep(down_s / self.speed)
        self.start()

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
        gateway = self.gateway
        runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.5)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.port).start()
            self.port = runner.addresses[0][1]
            pump = gateway.keep(self._pump_for_ever())
            stopped = gateway.keep(self._stopping.wait())
            if on_ready is not None:
                on_ready()
            await asyncio.wait([stopped, pump], return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
        finally:
            gateway.each(None, Connection.abort)
            await runner.cleanup()
            await gateway.end()
            self._loop = self._stopping = None

    async def _pump_for_ever(self) -> None:
        while True:
            self.gateway.pump()
            self.gateway.flush()
            self.gateway.keep_alive()
            await asyncio.sleep(self._pump_s)

    # Control by tests: each may be called from any thread while the server runs

    def call(self, function: Callable[..., T], *args: Any, timeout_s: float = 10.0) -> T:
        """Run a function on the server's thread, between two steps of the exchange, and return its result."""
        loop = self._loop
        if loop is None:
            raise RuntimeError("The simulator is not running: start it before calling into it.")

        async def run() -> T:
            self.gateway.pump()
            result = function(*args)
            self.gateway.flush()
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
        return self.call(self.gateway.each, socket, act)
