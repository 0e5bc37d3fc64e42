"""One I/O thread and the ccxt instances of one account: their life from start to stop."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import functools
import hashlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import ccxt

from ccxtbt.errors import CCXTBTError, ConfigError, DataError, NotOfferedError, TryLaterError
from ccxtbt.exchange import adapter
from ccxtbt.exchange.budgets import BudgetStats, budget_of
from ccxtbt.exchange.clock import Clock
from ccxtbt.exchange.exchanges import facts_of
from ccxtbt.exchange.facts import Extra, Facts
from ccxtbt.exchange.limiter import Limiter
from ccxtbt.exchange.retry import Remedy, classify, retry_with_backoff
from ccxtbt.market.timeframes import Timeframe, readable

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

ENDPOINT_VARIABLE = "CCXTBT_ENDPOINT"
CLOCK_SYNC_S = 600.0
# Bars in an answer, where neither our table nor ccxt's tells: what most exchanges give.
USUAL_PAGE = 1_000
STOP_S = 4.0
RESTART_DELAY_S = 1.0
CLOSING_S = 0.5
# ccxt's names of what tells one user of an exchange from another.
CREDENTIALS = ("apiKey", "uid", "login", "accountId", "walletAddress", "privateKey", "token")


def as_ours(error: Exception, doing: str) -> CCXTBTError:
    """Return `error` of ccxt as our exception, named by what the caller does next, with `doing` in its sentence."""
    if isinstance(error, CCXTBTError):
        return error
    text = f"{doing} failed: {type(error).__name__}: {error}"
    if isinstance(error, ccxt.AuthenticationError):
        return ConfigError(f"{text}. Check apiKey and secret in config, and that the key may do this.")
    if isinstance(error, ccxt.NotSupported):
        return NotOfferedError(text)
    if classify(error).remedy is not Remedy.NEVER:
        return TryLaterError(f"{text}. The exchange or the network does not answer now; try again later.")
    if isinstance(error, ccxt.BadRequest | ccxt.ArgumentsRequired | ccxt.PermissionDenied):
        return ConfigError(text)
    return DataError(text)


@dataclass(frozen=True)
class Account:
    """What makes a connection: an exchange and who uses it. Its `repr` carries no secret.

    Attributes
    ----------
    exchange_id : str
        ccxt's name of the exchange.
    config : dict
        ccxt's configuration, with keys; never shown.
    sandbox : bool
        Use the exchange's test network, REST and WebSocket alike.
    endpoint : str or None
        Gateway through which every address is led; None: the environment variable CCXTBT_ENDPOINT, else the
        exchange itself.
    """

    exchange_id: str
    config: dict[str, Any] = field(default_factory=dict, repr=False)
    sandbox: bool = False
    endpoint: str | None = None


class Connection:
    """The I/O thread of an account: an event loop, one asynchronous ccxt exchange, a clock and a budget.

    `start` and `stop` may be called again and again, from one thread at a time. Everything named `async` runs on the
    I/O thread only; `call` and `spawn` bring work there from others.

    Parameters
    ----------
    account : Account
        Exchange and credentials.
    clock : Clock or None
        The exchange's time; None: one that follows the exchange's own.
    facts : Facts or None
        Overrides the table of facts.
    retries : int
        How often a question that failed for a passing reason is asked again.
    tap : callable or None
        Sees raw WebSocket frames before ccxt does.

    Attributes
    ----------
    notice : callable
        Hears, from the I/O thread, what the user should be told; by default nobody.
    fingerprint : str
        Tells one account from another without showing its key: of the key, the test network and the gateway.
    life : RLock
        Held by who starts or stops: the end of a run and the interpreter's exit may come together.
    ending : Event
        Set when the connection stops: it ends the pauses of whoever asks from another thread. Each start of life has
        its own.
    history_turns : asyncio.Semaphore
        One turn for each request for history that may be under way.
    """

    def __init__(
        self,
        account: Account,
        clock: Clock | None = None,
        facts: Facts | None = None,
        retries: int = 5,
        tap: adapter.Tap | None = None,
    ) -> None:
        self.account = account
        self.clock = clock or Clock()
        self.facts = facts_of(account.exchange_id, facts)
        self.retries = retries
        self.notice: Callable[[str], None] = logger.debug
        self.rest: Any = None
        self.history_turns = asyncio.Semaphore(self.facts.history_requests)
        self._endpoint = (account.endpoint or os.environ.get(ENDPOINT_VARIABLE) or "").rstrip("/")
        self._tap = tap
        self._share()
        self._sync: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pid = 0
        self._known_markets: dict[str, Any] = {}
        self.life = threading.RLock()
        self.ending = threading.Event()
        _CONNECTIONS.add(self)

    def _share(self) -> None:
        """Join the budget of this process on the way to the exchange, and within it the key's."""
        config = self.account.config
        proxies = tuple(sorted((name, str(value)) for name, value in config.items() if "proxy" in name.lower()))
        way = (self._endpoint, self.account.sandbox, proxies)
        named = sorted((name, config[name]) for name in CREDENTIALS if config.get(name))
        self.budget = budget_of(self.account.exchange_id, way, self.facts, self.clock.rate)
        self._key = self.budget.key(hashlib.sha256(repr(named).encode()).hexdigest())
        told = (self._endpoint, self.account.sandbox, named)
        self.fingerprint = hashlib.sha256(repr(told).encode()).hexdigest()[:12]
        self._hooks = adapter.Hooks(self.clock, self.budget, self._key, self._endpoint, self._tap)

    @property
    def limiter(self) -> Limiter:
        """The budget of requests, shared by all who ask this exchange from this address."""
        return self.budget.requests

    @property
    def orders(self) -> Limiter:
        """The budget of new orders, shared by all who use this key."""
        return self._key.orders

    def stats(self) -> BudgetStats:
        """Read the budget at this moment."""
        return self.budget.stats(self._key)

    @property
    def running(self) -> bool:
        """Whether the I/O thread of this process is up."""
        return self._thread is not None and self._thread.is_alive() and self._pid == os.getpid()

    @property
    def keyed(self) -> bool:
        """Whether there are credentials to call private methods with."""
        return self.rest is not None and bool(self.rest.check_required_credentials(False))

    @property
    def markets(self) -> dict[str, Any]:
        """Ccxt's markets by unified symbol, as loaded at start."""
        return self.rest.markets if self.rest is not None and self.rest.markets else self._known_markets

    @functools.cached_property
    def description(self) -> Any:
        """The exchange's ccxt class, not opened: what it has and lists can be read before anything is asked."""
        return adapter.open_sync(self.account.exchange_id, self._config(), self._hooks)

    @property
    def endpoint(self) -> str:
        """Gateway through which addresses are led; '' where they are the exchange's own."""
        return self._endpoint

    @property
    def timeframes(self) -> list[Timeframe]:
        """What bars the exchange lists, as far as they can be read."""
        return readable(self.rest.timeframes or ())

    def page_limit(self, symbol: str) -> int:
        """Return how many bars to ask for at once: what is known of the exchange, else what ccxt says of it."""
        told = self.facts.page_limit or self.rest.feature_value(symbol, "fetchOHLCV", "limit")
        return int(told or USUAL_PAGE)

    def know(self, markets: dict[str, Any]) -> None:
        """Take markets that another process has loaded; they serve until this connection is started."""
        self._known_markets = markets

    @property
    def sync(self) -> Any:
        """The synchronous ccxt exchange for user code, on the same clock and budget; made on first use."""
        if self._sync is None:
            self._sync = adapter.open_sync(self.account.exchange_id, self._config(), self._hooks)
            self._aim(self._sync)
            self.budget.pace(self._sync.rateLimit)
            if self.markets:
                self._sync.set_markets(list(self.markets.values()), self.rest.currencies)
        return self._sync

    def start(self) -> None:
        """Start the I/O thread, load the markets and set the clock; nothing happens if it runs already.

        Raises
        ------
        ConfigError
            The exchange, the endpoint or the credentials cannot be right.
        TryLaterError
            The exchange does not answer.
        """
        with self.life:
            if self.running:
                return
            self._pid = os.getpid()
            self._tasks = set()
            self.budget.listen(self, self._frozen)
            # It belongs to the loop that first waits for it.
            self.history_turns = asyncio.Semaphore(self.facts.history_requests)
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name=f"ccxtbt-io-{self.account.exchange_id}", daemon=True
            )
            self._thread.start()
            try:
                self.call(self._open)
            except BaseException:
                self.stop()
                raise

    def stop(self, timeout_s: float = STOP_S) -> None:
        """End all tasks, close all sockets and the thread; nothing happens if it does not run.

        Parameters
        ----------
        timeout_s : float
            How long that may take; what does not end in that time is left to the end of the process, with a warning.
        """
        with self.life:
            self.ending.set()
            self.ending = threading.Event()
            loop, thread = self._loop, self._thread
            if loop is None or thread is None or not self.running:
                return
            end_s = time.monotonic() + timeout_s
            try:
                self.call(self._close, timeout_s / 5, timeout_s=0.9 * timeout_s)
            except concurrent.futures.TimeoutError:
                logger.warning("%s: not all connections closed within %g s.", self.account.exchange_id, timeout_s)
            finally:
                self.budget.listen(self, None)
                loop.call_soon_threadsafe(loop.stop)
                thread.join(max(end_s - time.monotonic(), 0.1 * timeout_s))
                if thread.is_alive():
                    logger.warning("%s: the I/O thread is busy and ends later.", self.account.exchange_id)
                else:
                    loop.close()
                self._loop = self._thread = None
                self.rest = None

    def _abandon(self) -> None:
        """Begin anew in a forked child: thread, sockets and budget are the parent's."""
        # Kept, because their destructors would close what the parent still uses, and complain.
        _INHERITED.append((self._loop, self._thread, self._tasks, self.rest, self._sync))
        self._loop = self._thread = self.rest = self._sync = None
        self._tasks = set()
        self.life = threading.RLock()
        self._share()

    def call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any, timeout_s: float | None = None) -> T:
        """Run a coroutine function on the I/O thread and wait for its result.

        Raises
        ------
        ConfigError
            The connection is not started.
        concurrent.futures.TimeoutError
            No result within `timeout_s`; the coroutine was cancelled.
        """
        if not self.running or self._loop is None:
            raise ConfigError(f"The connection to {self.account.exchange_id} is not started: start the store first.")
        future = asyncio.run_coroutine_threadsafe(function(*args), self._loop)
        try:
            return future.result(timeout_s)
        except BaseException:
            future.cancel()
            raise

    def spawn(self, function: Callable[..., Awaitable[None]], *args: Any, name: str) -> None:
        """Run a coroutine function as a task of its own until `stop`; callable from any thread.

        A task that fails is logged and started again after a pause; one that returns is done. For what must not be
        done twice, see `post`.
        """
        self._begin(self._supervise(function, args, name), name)

    def post(self, function: Callable[..., Awaitable[None]], *args: Any, name: str) -> None:
        """Run a coroutine function once, as a task of its own; callable from any thread. A failure is logged."""
        self._begin(self._once(function, args, name), name)

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        if self._loop is None:
            work.close()
            raise ConfigError(f"The connection to {self.account.exchange_id} is not started: start the store first.")
        if threading.current_thread() is self._thread:
            self._create_task(work, name)
        else:
            self._loop.call_soon_threadsafe(self._create_task, work, name)

    async def fetch_page(
        self,
        symbol: str,
        timeframe: str,
        since_ms: int | None,
        limit: int | None,
        params: dict[str, Any],
        extra: Extra | None = None,
    ) -> tuple[Any, Any]:
        """Fetch one page of bars as columns, trying again where that can help."""
        columns: tuple[Any, Any] = await self.retrying(self.rest.fetch_columns)(
            symbol, timeframe, since_ms, limit, params, extra
        )
        return columns

    def retrying(self, ask: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """Return a question that is asked again where that can cure its failure. Not for what creates an order."""
        # The clock is read without a date: that question cannot be refused for it.
        return retry_with_backoff(retries=self.retries + 1, limiter=self.limiter, resync=self.sync_clock)(ask)

    @staticmethod
    def is_final(error: Exception) -> bool:
        """Whether trying again cannot cure `error`."""
        return isinstance(error, ccxt.BaseError) and classify(error).remedy is Remedy.NEVER

    @staticmethod
    def knows_no_market(error: Exception) -> bool:
        """Whether the exchange says by `error` that it has no such market."""
        return isinstance(error, ccxt.BadSymbol)

    def _frozen(self, seconds: float, reason: str) -> None:
        self.notice(f"No request goes out for {seconds:.0f} s: {reason or 'the exchange asked for it'}.")

    def _config(self) -> dict[str, Any]:
        """Return ccxt's configuration: the user's, with the options that spare start-up calls below it."""
        config = dict(self.account.config)
        config["options"] = {**self.facts.startup_options, **config.get("options", {})}
        config.setdefault("enableRateLimit", True)
        return config

    def _aim(self, exchange: Any) -> None:
        """Point a ccxt exchange at the test network or the gateway that was asked for."""
        if self.account.sandbox:
            exchange.set_sandbox_mode(True)
        if self._endpoint:
            exchange.urls["api"] = adapter.redirect(exchange.urls["api"], self._endpoint)

    async def _open(self) -> None:
        name = self.account.exchange_id
        self.rest = adapter.open_async(name, self._config(), self._hooks)
        self._aim(self.rest)
        self.budget.pace(self.rest.rateLimit)
        try:
            await self.sync_clock()
            await self.retrying(self.rest.load_markets)()
            # Once more: the first answer came late, by the time that a new connection takes.
            await self.sync_clock()
        except Exception as error:
            raise as_ours(error, f"Loading the markets of {name}") from error
        self.spawn(self._keep_clock, name="clock")

    async def _close(self, patience_s: float) -> None:
        await _end(self._tasks, patience_s)
        if self.rest is not None:
            # ccxt's timers renew them, and would open a connection anew.
            self.rest.forget_listen_keys()
            try:
                async with asyncio.timeout(patience_s):
                    await self.rest.close()
            except TimeoutError:
                logger.warning("%s: a connection did not close within %g s.", self.account.exchange_id, patience_s)
        # Name look-ups and files run in threads of the loop.
        try:
            async with asyncio.timeout(patience_s):
                await asyncio.get_running_loop().shutdown_default_executor()
        except TimeoutError:
            logger.warning("%s: a file or a name look-up takes longer than %g s.", self.account.exchange_id, patience_s)
        # What ccxt started of its own (ping loops, reads that were pending) ends here too.
        await _end(asyncio.all_tasks() - {asyncio.current_task()}, patience_s)

    async def sync_clock(self) -> None:
        """Set the clock by the exchange's, where it tells its time."""
        if not self.rest.has.get("fetchTime"):
            return
        await self.retrying(self._read_clock)()

    async def _read_clock(self) -> None:
        sent_s = self.clock.monotonic()
        server_ms = await self.rest.fetch_time()
        self.clock.synced(int(server_ms), sent_s, self.clock.monotonic())

    async def _keep_clock(self) -> None:
        while True:
            await asyncio.sleep(CLOCK_SYNC_S)
            await self.sync_clock()

    def _create_task(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _once(self, function: Callable[..., Awaitable[None]], args: tuple[Any, ...], name: str) -> None:
        try:
            await function(*args)
        except Exception as error:
            logger.exception("%s: the task %r failed.", self.account.exchange_id, name)
            self.notice(f"{name}: {type(error).__name__}: {error}")

    async def _supervise(self, function: Callable[..., Awaitable[None]], args: tuple[Any, ...], name: str) -> None:
        while True:
            try:
                await function(*args)
                return  # noqa: TRY300  # the one way out; an `else` would hide it
            except Exception as error:
                logger.exception("%s: the task %r failed and is started again.", self.account.exchange_id, name)
                self.notice(f"{name}: {type(error).__name__}: {error}")
                await asyncio.sleep(RESTART_DELAY_S)


async def _end(tasks: Iterable[asyncio.Task[Any] | None], patience_s: float) -> None:
    """Cancel tasks and wait for their end; their failures count as seen."""
    ending = [task for task in tasks if task is not None]
    for task in ending:
        task.cancel()
    if ending:
        done, _ = await asyncio.wait(ending, timeout=patience_s)
        for task in done:
            if not task.cancelled():
                task.exception()


_CONNECTIONS: weakref.WeakSet[Connection] = weakref.WeakSet()
_INHERITED: list[Any] = []


@atexit.register
def _stop_all() -> None:
    """Leave nothing open when the interpreter ends."""
    for connection in list(_CONNECTIONS):
        connection.stop()


def _abandon_all() -> None:
    for connection in list(_CONNECTIONS):
        connection._abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
