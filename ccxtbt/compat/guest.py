"""Who works on a store's I/O thread without a cerebro, or beside one: which store that is, and its start and stop."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakValueDictionary

from ccxtbt.ccxtstore import CCXTStore
from ccxtbt.errors import ConfigError
from ccxtbt.exchange.connection import STOP_S, Connection

# What a ccxt exchange was made of, besides credentials, options and addresses.
CARRIED = (
    "hostname",
    "timeout",
    "headers",
    "httpProxy",
    "httpsProxy",
    "socksProxy",
    "wsProxy",
    "wssProxy",
    "wsSocksProxy",
)
# Options in which ccxt notes its own view of the exchange's clock, which a store has a better one of.
CLOCK_OPTIONS = ("timeDifference", "adjustForTimeDifference")

# The stores of guests that were given none: apart from those of scripts, so that the end of a run does not end them.
_OWN: WeakValueDictionary[Any, CCXTStore] = WeakValueDictionary()


def store_of(exchange: Any, **options: Any) -> CCXTStore:
    """Return the store that a guest works on.

    Parameters
    ----------
    exchange : CCXTStore, str or a ccxt exchange
        A store; or ccxt's name of an exchange, or one of ccxt's instances, for a store that all guests of the same
        account share.
    **options
        `CCXTStore`'s, where it is not a store: ``config``, ``sandbox``, ...

    Raises
    ------
    ConfigError
        It is none of the three, or a store with options.
    """
    if isinstance(exchange, CCXTStore):
        if options:
            raise ConfigError(f"A store is made already: give {', '.join(options)} to CCXTStore(...), not beside it.")
        return exchange
    if not isinstance(exchange, str):
        exchange, told = _read(exchange)
        options = {**told, **options, "config": {**told["config"], **(options.get("config") or {})}}
    # Past the metaclass, which would make it the last store of the script.
    fresh: CCXTStore = type.__call__(CCXTStore, exchange, **options)
    return _OWN.setdefault((fresh.key, _ways(fresh.connection.account.config)), fresh)


def _ways(config: dict[str, Any]) -> str:
    """Return what, besides a store's key, makes another connection: other addresses, another kind of market."""
    options = {name: value for name, value in (config.get("options") or {}).items() if isinstance(value, str | bool)}
    return repr((config.get("urls"), sorted(options.items())))


def _read(instance: Any) -> tuple[str, dict[str, Any]]:
    """Return the name of a ccxt exchange's class and what makes a store of the same account."""
    if not (hasattr(instance, "requiredCredentials") and hasattr(instance, "describe")):
        raise ConfigError(
            f"exchange={type(instance).__name__} is none: give a CCXTStore, ccxt's name such as 'binance', or a ccxt "
            "exchange."
        )
    described = instance.describe()
    names = (*instance.requiredCredentials, *CARRIED)
    config = {
        name: value for name in names if (value := getattr(instance, name, None)) and value != described.get(name)
    }
    usual = described.get("options", {})
    config["options"] = {
        name: value
        for name, value in instance.options.items()
        if name not in CLOCK_OPTIONS and (name not in usual or usual[name] != value)
    }
    sandbox = bool(instance.isSandboxModeEnabled)
    if not sandbox and instance.urls["api"] != described["urls"]["api"]:
        config["urls"] = {"api": instance.urls["api"]}
    return str(instance.id), {"config": config, "sandbox": sandbox}


class Guest:
    """What works on a store's I/O thread: nothing has a thread of its own.

    Starting again what runs, and stopping what does not, change nothing. A guest ends with its store; the store that
    only guests have started ends with the last of them.
    """

    def __init__(self, exchange: Any, **options: Any) -> None:
        self.store = store_of(exchange, **options)
        self._stay: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r}, running={self.running})"

    @property
    def running(self) -> bool:
        """Whether it works now."""
        return self._stay is not None and not self._stay.done() and self.connection.running

    @property
    def connection(self) -> Connection:
        """The store's connection."""
        return self.store.connection

    def _enter(self) -> None:
        """Connect the store and begin to work there; waits for it."""
        with self.connection.life:
            if self.running:
                return
            self.store.join(self)
            try:
                self.connection.call(self._arrive)
            except BaseException:
                self.store.leave(self)
                raise

    def _exit(self) -> None:
        """End all work, and the store where nobody else needs it."""
        with self.connection.life:
            try:
                if self.running:
                    self.connection.call(self._depart, timeout_s=STOP_S / 2)
            finally:
                self.store.leave(self)

    async def _arrive(self) -> None:
        self._begin()
        self._stay = asyncio.get_running_loop().create_task(self._until_the_end(), name=f"stay of {self!r}")

    async def _depart(self) -> None:
        try:
            await self._end()
        finally:
            if self._stay is not None:
                self._stay.cancel()
                await asyncio.gather(self._stay, return_exceptions=True)

    async def _until_the_end(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self._over()

    # What each kind of guest does at these moments, on the I/O thread.

    def _begin(self) -> None:
        """Make ready to work."""

    async def _end(self) -> None:
        """Let go of what was begun; not called where the store ends first, and all tasks with it."""

    def _over(self) -> None:
        """Tell who reads that nothing more comes."""
