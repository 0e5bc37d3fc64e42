"""CCXTStore: the front door: data, broker, notifications, and the one place where cerebro's thread sleeps."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ccxtbt.compat import oldoptions
from ccxtbt.errors import ConfigError, NotOfferedError, TryLaterError
from ccxtbt.exchange.budgets import BudgetStats
from ccxtbt.exchange.calls import Calls
from ccxtbt.exchange.clock import Clock
from ccxtbt.exchange.connection import Account, Connection
from ccxtbt.exchange.facts import Facts
from ccxtbt.inbox import Inbox, inbox_of
from ccxtbt.market.polls import Polls
from ccxtbt.market.streams import Streams
from ccxtbt.market.timeframes import GRANULARITIES, from_backtrader
from ccxtbt.market.watches import Watches
from ccxtbt.trading.account import Wallet
from ccxtbt.trading.journal import Journal, default_path
from ccxtbt.trading.limits import Halt, Limits
from ccxtbt.trading.state import State

if TYPE_CHECKING:
    from ccxtbt.market.archive import Archive

__all__ = ["CCXTStore"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Pauses of a start that waits for the exchange: the longer it does not answer, the longer.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0

# How long a `cerebro.runstop()` from another thread may wait until it is seen.
PATIENCE_S = 0.25
# Sleep of cerebro's thread with nothing to do, until a pass over all datas looks whether something is due: the longer
# nothing comes, the rarer.
FIRST_SLEEP_S = 0.25
LONGEST_SLEEP_S = 1.0
# A live data that is not ours has a queue of its own, which only a pass of cerebro looks into.
PATIENCE_BESIDE_OTHERS_S = 0.01


def open_archive(wanted: bool | str | os.PathLike[str] | None) -> Archive | None:
    """Return the archive that an argument asks for: True is the user's cache folder, a path another one.

    Raises
    ------
    ConfigError
        The packages that it needs are not installed.
    """
    if wanted is None or wanted is False:
        return None
    try:
        from ccxtbt.market.archive import Archive
    except ImportError as error:
        raise ConfigError(
            f"archive={wanted!r} needs the package {error.name}: install it with pip install 'ccxtbt[archive]'."
        ) from error
    return Archive(None if wanted is True else wanted)


def log_in_detail() -> None:
    """Log at DEBUG level; who wants to see it says where to with `logging`."""
    logging.getLogger("ccxtbt").setLevel(logging.DEBUG)


def _take_sandbox(config: dict[str, Any]) -> bool:
    """Take ccxt's own switches for a test network out of its configuration; return whether one is on.

    With them alone ccxt would trade there, and our budget and journal would know nothing of it.
    """
    options = dict(config.get("options") or {})
    asked = [where.pop(name, False) for where in (config, options) for name in ("sandbox", "testnet")]
    if "options" in config:
        config["options"] = options
    return any(asked)


class _OnePerAccount(type):
    """One store for each (exchange, credentials, sandbox, currency), as a script that makes it twice expects.

    `_singleton` is the last store made; a script that sets it to None starts afresh.
    """

    _singleton: CCXTStore | None = None
    _stores: dict[tuple[Any, ...], CCXTStore]

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls._singleton is None:
            cls._stores = {}
        fresh = super().__call__(*args, **oldoptions.put("CCXTStore", oldoptions.STORE, kwargs))
        cls._singleton = store = cls._stores.setdefault(fresh.key, fresh)
        return store

    def last_of(cls, exchange: str) -> Any:
        """Return the store that was made last for an exchange; None if there is none."""
        if cls._singleton is None:
            return None
        made = (cls._singleton, *reversed(cls._stores.values()))
        return next((store for store in made if store.exchange_id == exchange), None)


class _OnClassOrInstance:
    """A method that works on a store and, for old scripts, on the class: there it takes the last store made."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, store: CCXTStore | None, owner: type[CCXTStore]) -> Callable[..., Any]:
        def bound(*args: Any, **kwargs: Any) -> Any:
            return self._method(store, *args, **kwargs)

        bound.__doc__ = self._method.__doc__
        return bound


class _Run:
    """The `run` of a cerebro that has a store of ours: whichever way a run ends, its stores end with it.

    backtrader stops stores at the end of a run alone, not after an exception, and not after an optimisation.
    """

    def __init__(self, cerebro: Any) -> None:
        self._cerebro = cerebro

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        cerebro = self._cerebro
        try:
            return type(cerebro).run(cerebro, *args, **kwargs)
        except BaseException:
            try:
                if isinstance(cerebro._broker, CCXTStore.BrokerCls):
                    cerebro._broker.stop()
            finally:
                for data in cerebro.datas:
                    if isinstance(data, CCXTStore.DataCls):
                        data.stop()
            raise
        finally:
            for store in cerebro.stores:
                if isinstance(store, CCXTStore):
                    store.stop()


class _Passes:
    """The passes of a cerebro that has a store of ours: whichever way they end, its broker is told before strategies.

    backtrader tells its broker after `Strategy.stop()`, and not at all after Ctrl-C or an exception.
    """

    def __init__(self, cerebro: Any, name: str) -> None:
        self._cerebro = cerebro
        self._name = name

    def __call__(self, strategies: Any) -> None:
        cerebro = self._cerebro
        try:
            getattr(type(cerebro), self._name)(cerebro, strategies)
        except BaseException:
            self._tell_broker(failed=True)
            raise
        self._tell_broker(failed=False)

    def _tell_broker(self, failed: bool) -> None:
        broker = self._cerebro._broker
        if isinstance(broker, CCXTStore.BrokerCls):
            broker.before_stop(failed)


class CCXTStore(Calls, metaclass=_OnePerAccount):
    """An account at an exchange: give it to a feed and a broker, or get them from it.

    Its other methods (`fetch_order`, `create_order`, ...) ask the exchange and wait for the answer: see `Calls`.

    Parameters
    ----------
    exchange : str
        ccxt's name of the exchange, such as ``'binance'``.
    currency : str or None
        Currency in which cash and value are told; None: the quote currency of the first data.
    config : dict or None
        ccxt's configuration: ``apiKey``, ``secret``, ``options``, ... It is never logged or shown.
    retries : int
        How often a question that failed for a passing reason is asked again; also spelled ``max_retries``. Orders are
        never sent again blindly.
    debug : bool
        Log at DEBUG level.
    sandbox : bool
        Use the exchange's test network, REST and WebSocket alike.
    endpoint : str or None
        Lead every address through this gateway (``http://host:port``); None: environment variable CCXTBT_ENDPOINT.
    clock : Clock or None
        The exchange's time; None: one that follows the exchange's own.
    facts : Facts or None
        Overrides what is known of the exchange.
    orders : str
        ``'live'``: an order is sent only while its data is LIVE, and rejected with the reason otherwise;
        ``'always'``: also before.
    stamp : str or None
        Datetime of bars: ``'open'``, ``'close'``, ``'close-1ms'``; None: the close (of a day and above: 1 ms before).
    journal : str, path, bool or None
        SQLite file in which each order is kept before it is sent; True: one for each account in the user's folder of
        data; None: nothing is kept, so that after a crash nobody knows what was sent.
    max_order_value : float or None
        Largest value of one order, in the market's quote currency; one above it is rejected before it is sent.
    max_open_orders : int or None
        How many orders may be open at once.
    max_position : float or None
        Largest position in one market, in base, if all open orders of its side were filled. Exits of brackets are sent
        whatever the limits: they make positions smaller.
    archive : bool or path
        Keep the bars of this store's feeds on disk, and ask only for what is missing there: True in the user's cache
        folder, or under a path. Needs the extra ``ccxtbt[archive]``.

    Attributes
    ----------
    state : State
        A mapping of JSON values that strategies keep over restarts, in the journal's file.

    Raises
    ------
    ConfigError
        An argument is wrong; the sentence says which, why and how to mend it.
    """

    BrokerCls: Any = None
    DataCls: Any = None
    # As those two, set by the modules that have them.
    WebSocketManagerCls: Any = None
    RateLimiterCls: Any = None
    _GRANULARITIES = GRANULARITIES

    def __init__(
        self,
        exchange: str,
        currency: str | None = None,
        config: dict[str, Any] | None = None,
        retries: int = 5,
        debug: bool = False,
        sandbox: bool = False,
        *,
        endpoint: str | None = None,
        clock: Clock | None = None,
        facts: Facts | None = None,
        orders: str = "live",
        stamp: str | None = None,
        max_retries: int | None = None,
        journal: str | os.PathLike[str] | bool | None = True,
        max_order_value: float | None = None,
        max_open_orders: int | None = None,
        max_position: float | None = None,
        archive: bool | str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(exchange, str):
            raise ConfigError(f"exchange={exchange!r} is not a name: give ccxt's, such as exchange='binance'.")
        if orders not in {"live", "always"}:
            raise ConfigError(f"orders={orders!r} is not known: say 'live' or 'always'.")
        config = oldoptions.config_of(config)
        sandbox = bool(sandbox) | _take_sandbox(config)
        self.currency = currency
        self.retries = retries if max_retries is None else max_retries
        self.debug = debug
        self.orders = orders
        self.stamp = stamp
        self.archive = open_archive(archive)
        self.exchange_id = exchange
        self.sandbox = sandbox
        self.keyless = False
        secret = repr(sorted((name, value) for name, value in config.items() if isinstance(value, str)))
        fingerprint = hashlib.sha256(secret.encode()).hexdigest()
        self.limits = Limits.of(max_order_value, max_open_orders, max_position)
        self.key = (
            exchange,
            fingerprint,
            sandbox,
            currency,
            endpoint,
            orders,
            stamp,
            clock and id(clock),
            journal,
            self.limits,
            repr(self.archive),
        )
        self.connection = Connection(
            Account(exchange, config, sandbox, endpoint), clock=clock, facts=facts, retries=self.retries, tap=self._tap
        )
        self.connection.notice = self.put_notification
        self.streams = Streams(self.connection)
        self.watches = Watches(self.connection)
        self.polls = Polls()
        self._halted = ""
        self.desk: Any = None
        self.journal: Journal | None = None
        self._journal_asked = journal
        self.state = State()
        self.inbox = Inbox()
        self.wallet = Wallet()
        self.stamp_told = False
        self._own: list[Any] = []
        self._awake: set[Any] = set()
        self._stacking: list[Any] = []
        self._datas_seen = 0
        self._beside_others = False
        self._patience_s = FIRST_SLEEP_S
        self._env: Any = None
        self._notifs: deque[tuple[str, tuple[Any, ...], dict[str, Any]]] = deque()
        self._pause_s = FIRST_PAUSE_S
        self._guests: set[object] = set()
        self._manager: Any = None
        self._runs_for_guests = False
        if debug:
            log_in_detail()

    def __repr__(self) -> str:
        return f"CCXTStore(exchange={self.exchange_id!r}, currency={self.currency!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to a process of an optimisation without keys and connections, with the markets of the run alone."""
        known = self.connection.markets
        names = {getattr(data.p, "dataname", None) for data in (self._env.datas if self._env is not None else ())}
        markets = {name: known[name] for name in names if isinstance(name, str) and name in known}
        return _keyless, (self.exchange_id, self.currency, self.sandbox, self.orders, self.stamp, markets)

    @_OnClassOrInstance
    def getdata(self: CCXTStore | None, *args: Any, **kwargs: Any) -> Any:
        """Return a feed of this store; arguments as `CCXTFeed`'s."""
        if self is not None:
            kwargs.setdefault("store", self)
        return CCXTStore.DataCls(*args, **kwargs)

    @_OnClassOrInstance
    def getbroker(self: CCXTStore | None, *args: Any, **kwargs: Any) -> Any:
        """Return the broker of this store; arguments as `CCXTBroker`'s."""
        if self is not None:
            kwargs.setdefault("store", self)
        return CCXTStore.BrokerCls(*args, **kwargs)

    @property
    def exchange(self) -> Any:
        """The synchronous ccxt exchange, for calls of your own: it shares clock and budget with everything else.

        Raises
        ------
        ConfigError
            This store came from another process, without keys.
        """
        if self.keyless:
            raise ConfigError(f"{self} came from another process without its keys: open a CCXTStore of its own here.")
        return self.connection.sync

    ccxt = exchange

    @property
    def _cash(self) -> float:
        """What can be spent of the store's currency, as last known; asked for if nothing is known yet."""
        return self.known_wallet().free(self.currency)

    @property
    def _value(self) -> float:
        """What is held of the store's currency, as last known; asked for if nothing is known yet."""
        return self.known_wallet().total(self.currency)

    def get_balance(self, currency: str | None = None) -> Any:
        """Ask for the balance; return (cash, value) in the store's currency, or what can be spent of a given one.

        Raises
        ------
        ConfigError
            Neither the store nor the call names a currency.
        """
        if currency is None and self.currency is None:
            raise ConfigError("A balance is told in a currency: say which here, or CCXTStore(currency='USDT').")
        self.wallet.update(self.get_wallet_balance())
        return (self._cash, self._value) if currency is None else self.wallet.free(currency)

    def getposition(self) -> float:
        """Return what is held of the store's currency, as last known."""
        return self._value

    def known_wallet(self) -> Wallet:
        """Return the balance as last known; asked for if nothing is known yet and there are keys."""
        if not self.wallet.raw and self.exchange.check_required_credentials(False):
            self.wallet.update(self.get_wallet_balance())
        return self.wallet

    def rate_limit_stats(self) -> BudgetStats:
        """Read the budgets of requests and orders at this moment: used, waiting, frozen."""
        return self.connection.stats()

    def get_rate_limiter(self) -> Any:
        """Return a `RateLimiter` on this account's own budget of requests, for what goes past the store."""
        return self.RateLimiterCls.of(self)

    def get_websocket_manager(self) -> Any:
        """Return the `CCXTWebSocketManager` of this account, started.

        Raises
        ------
        ConfigError, TryLaterError
            As at any start.
        """
        if self._manager is None:
            self._manager = self.WebSocketManagerCls(self)
        self._manager.start()
        return self._manager

    def is_connected(self) -> bool:
        """Whether the connection to the exchange is up."""
        return self.connection.running

    def get_granularity(self, timeframe: int, compression: int) -> str:
        """Return the exchange's text for a backtrader timeframe, such as ``'5m'``.

        Raises
        ------
        NotOfferedError
            The exchange has no OHLCV, or not this timeframe.
        """
        exchange = self.connection.rest or self.connection.description
        if not exchange.has.get("fetchOHLCV"):
            raise NotOfferedError(
                f"{self.exchange_id} offers no OHLCV through ccxt: take the data from another exchange."
            )
        return from_backtrader(timeframe, compression, exchange.timeframes or None)

    def attach(self, cerebro: Any) -> None:
        """Join a cerebro: its notifications, its inbox, its start and stop."""
        if self._env is not cerebro:
            self._env = cerebro
            self.inbox = inbox_of(cerebro)
        if not any(store is self for store in cerebro.stores):
            cerebro.addstore(self)
        if not isinstance(cerebro.run, _Run):
            cerebro.run = _Run(cerebro)
            for name in ("_runnext", "_runnext_old"):
                setattr(cerebro, name, _Passes(cerebro, name))

    def start(self, data: Any = None, broker: Any = None) -> None:
        """Connect; nothing happens if it is connected already. The arguments are backtrader's and mean nothing here.

        Raises
        ------
        ConfigError
            The exchange, the credentials or what a feed of this store asks for cannot be right.
        TryLaterError
            The exchange does not answer.
        """
        self._datas_seen = 0
        if not self.connection.running and not self.keyless:
            # What is known to be wrong without asking is said without asking.
            for feed in self._env.datas if self._env is not None else ():
                if isinstance(feed, CCXTStore.DataCls) and feed.store is self:
                    feed.check()
        self._pause_s = FIRST_PAUSE_S
        with self.connection.life:
            self._runs_for_guests = False
            self.patiently(self._connect)
        if not self.state.open:
            self.state.begin({}, None)

    def patiently(self, ask: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Ask what waits for the exchange; where an earlier run has left something to look after, until it answers.

        Raises
        ------
        TryLaterError
            The exchange does not answer, and nothing is at stake; or the run is to stop.
        """
        while True:
            try:
                return ask(*args, **kwargs)
            except TryLaterError as error:
                if not self.waits_out(error):
                    raise

    def waits_out(self, error: TryLaterError) -> bool:
        """Say that the start of a run waits for the exchange, and pause; False where nothing waits for the run."""
        if not self._is_awaited():
            return False
        self.put_notification(f"The start waits for {self.exchange_id}: {error}")
        logger.warning("The start waits for %s, since an earlier run has left orders or positions: %s", self, error)
        end_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        while time.monotonic() < end_s and not self._env._event_stop:
            time.sleep(min(PATIENCE_S, max(0.0, end_s - time.monotonic())))
        return not self._env._event_stop

    def _is_awaited(self) -> bool:
        """Whether this start is of a live run that orders, and an earlier one has left something to look after."""
        broker = self._env.broker if self._env is not None else None
        if not isinstance(broker, CCXTStore.BrokerCls) or broker.store is not self:
            return False
        if not any(data.islive() for data in self._env.datas):
            return False
        if not self.connection.description.check_required_credentials(False):
            return False
        journal = self.open_journal()
        return journal is not None and journal.past.at_stake

    def stop(self) -> None:
        """Disconnect: close the journal, end the tasks, the sockets and the I/O thread."""
        # In this order: what the journal lets go when it closes still finds the I/O thread.
        if self.journal is not None:
            self.journal.close()
            self.journal = None
        self.state.end()
        self.connection.stop()

    def join(self, guest: object) -> None:
        """Connect for one who works beside a cerebro or without one, until it leaves.

        Raises
        ------
        ConfigError, TryLaterError
            As at any start.
        """
        with self.connection.life:
            if not self.connection.running:
                self._guests.clear()
                self._runs_for_guests = True
            self._connect()
            self._guests.add(guest)

    def leave(self, guest: object) -> None:
        """Let a guest go; with the last one the connection ends, if nobody else has started the store."""
        with self.connection.life:
            self._guests.discard(guest)
            if self._runs_for_guests and not self._guests:
                self.stop()

    def _connect(self) -> None:
        if not self.connection.running and not self.keyless:
            self.streams = Streams(self.connection)
            self.watches = Watches(self.connection)
            self.connection.start()

    def checked_symbol(self, symbol: Any, said: str = "symbol") -> str:
        """Return the name of a market that the exchange has; the store must be started.

        Raises
        ------
        ConfigError
            It has no such market; those with a name like it are told, and `said` is how the caller names it.
        """
        markets = self.connection.markets
        if symbol not in markets:
            wanted = str(symbol).replace("-", "/").upper()
            near = [name for name in markets if name == wanted or name.replace("/", "") == wanted.replace("/", "")]
            near = near or [name for name in markets if name.split("/")[0] == wanted.split("/")[0]]
            hint = f" Did you mean {', '.join(near[:5])}?" if near else ""
            raise ConfigError(
                f"{said}={symbol!r} is not a market of {self.exchange_id}: give ccxt's unified symbol, "
                f"such as 'BTC/USDT'.{hint}"
            )
        return str(symbol)

    def open_journal(self) -> Journal | None:
        """Open the journal of the account for a run that may order; None where none is wanted.

        Raises
        ------
        ConfigError
            It cannot be used, or another run has it.
        """
        if self.journal is None and self._journal_asked:
            account = f"{self.exchange_id}-{self.connection.fingerprint}"
            asked = self._journal_asked
            path = default_path(account) if asked is True else Path(asked).expanduser()
            journal = Journal(path, account, self.put_notification, self.connection.clock.now_ms)
            journal.open()
            self.journal = journal
            self.state.begin(journal.state, journal.note)
            logger.info("Orders at %s are kept in %s.", self.exchange_id, path)
        return self.journal

    @property
    def halted(self) -> str:
        """Why no new order is sent at present: `halt` was called, or the journal cannot be written; '' if none is."""
        return self._halted or (self.journal.trouble if self.journal is not None else "")

    def halt(self, reason: str) -> None:
        """Cancel all open orders of the run and refuse new ones until `resume`; callable from any thread.

        The exits of brackets are orders too: what is held stays, without them.

        Parameters
        ----------
        reason : str
            Told in `notify_store` and as the reason of each order that is refused.
        """
        self._halted = reason or "without a reason"
        logger.warning("Halted: %s. All open orders are cancelled and new ones refused.", self._halted)
        self.put_notification(f"Halted: {self._halted}. All open orders are cancelled and new ones refused.")
        if self.desk is not None:
            self.inbox.put(self.desk, Halt(self._halted))

    def refuse(self, reason: str) -> None:
        """Refuse new orders until `resume`, and leave open ones as they are; callable from any thread."""
        self._halted = reason
        logger.warning("Nothing is sent: %s.", reason)

    def resume(self) -> None:
        """Accept orders again after a `halt`."""
        self._halted = ""
        still = self.halted
        self.put_notification(f"Still halted: {still}" if still else "Resumed: orders are sent again.")

    def outcome(self, promise: Future[T], if_stopped: T) -> T:
        """Wait for what an I/O thread has promised, or until the run is to stop.

        Parameters
        ----------
        promise : Future
            Whose result is wanted; its exception is raised.
        if_stopped
            What is returned after `cerebro.runstop()`.
        """
        while self._env is None or not self._env._event_stop:
            try:
                return promise.result(PATIENCE_S)
            except TimeoutError:
                if promise.done():
                    raise
        return if_stopped

    def put_notification(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Tell `notify_store` something; callable from any thread."""
        self._notifs.append((msg, args, kwargs))
        self.inbox.wake()

    def get_notifications(self) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
        """Return what `notify_store` is to hear; called by cerebro at the top of each pass.

        Here cerebro's thread takes what the I/O threads have put, and here alone it sleeps when there is nothing.
        """
        if self._env is not None and self._leads():
            self._sleep()
        return self.take_notifications()

    def take_notifications(self) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
        """Return what `notify_store` is to hear, without waiting."""
        notifs = []
        while self._notifs:
            notifs.append(self._notifs.popleft())
        return notifs

    def _tap(self, url: str, data: str | bytes) -> bool:
        return self.streams.tap(url, data)

    def _leads(self) -> bool:
        """Whether this is the first of our stores in its cerebro: only one of them sleeps."""
        return next((store for store in self._env.stores if isinstance(store, CCXTStore)), None) is self

    def _sleep(self) -> None:
        """Take what has come; where there is nothing to do, wait for it."""
        if self._may_sleep():
            patience_s = PATIENCE_BESIDE_OTHERS_S if self._beside_others else self._patience_s
            self._patience_s = min(2 * self._patience_s, LONGEST_SLEEP_S)
            end_s = time.monotonic() + patience_s
            reached = self.inbox.drain(min(patience_s, PATIENCE_S))
            while not reached and not self._env._event_stop and (left_s := end_s - time.monotonic()) > 0:
                reached = self.inbox.drain(min(left_s, PATIENCE_S))
        else:
            reached = self.inbox.drain()
        if reached:
            self._patience_s = FIRST_SLEEP_S
            # A feed is reached through the sink of its run.
            # One pass of cerebro takes one bar of a feed: who was given several must be looked at until all are gone.
            self._awake.update(feed for each in reached if (feed := getattr(each, "feed", None)) is not None)

    def _look_at_datas(self) -> None:
        """Note once a run what a sleep depends on, so that a pass need not walk a thousand datas for it."""
        datas = self._env.datas
        self._datas_seen = len(datas)
        self._own = [data for data in datas if isinstance(data, CCXTStore.DataCls)]
        # Whatever comes to a feed comes by the inbox; at the start each may have its history to deliver.
        self._awake = set(self._own)
        others = [data for data in datas if not isinstance(data, CCXTStore.DataCls)]
        self._stacking = [data for data in datas if data._filters or not isinstance(data, CCXTStore.DataCls)]
        self._beside_others = any(not data._clone for data in others)
        self._patience_s = FIRST_SLEEP_S

    def _may_sleep(self) -> bool:
        if self._datas_seen != len(self._env.datas):
            self._look_at_datas()
        if self._notifs or not any(feed.expecting for feed in self._own):
            return False
        self._awake = {feed for feed in self._awake if feed.ready}
        return not self._awake and not any(data._barstack or data._barstash for data in self._stacking)


def _keyless(
    exchange: str, currency: str | None, sandbox: bool, orders: str, stamp: str | None, markets: dict[str, Any]
) -> CCXTStore:
    """Make the stand-in of a store of another process: it knows the markets of the run and asks for nothing."""
    # Past the metaclass: it is not the store of an account.
    store = CCXTStore.__new__(CCXTStore)
    store.__init__(exchange, currency, sandbox=sandbox, orders=orders, stamp=stamp)  # type: ignore[misc]  # see above
    store.keyless = True
    store.connection.know(markets)
    return store
