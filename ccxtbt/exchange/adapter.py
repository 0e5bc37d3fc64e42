"""The run-time subclass of an exchange's own ccxt class: our hooks and nothing else.

What is hooked: the clock (`milliseconds`, `nonce`), the request budget (`throttler`; answers teach it by `fetch` and
`on_rest_response`), the WebSocket client (raw frames are
offered to a tap before ccxt parses them, and a subscription learns when its message has left), and, by
`ColumnsMixin`, OHLCV answers as columns. Everything that knows an exchange stays ccxt's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import ccxt
import ccxt.pro

from ccxtbt.errors import ConfigError
from ccxtbt.exchange.budgets import Budget, Key
from ccxtbt.exchange.clock import Clock
from ccxtbt.exchange.columns import ColumnsMixin
from ccxtbt.exchange.counted import CountedAsync, CountedSync
from ccxtbt.exchange.discretion import DiscreetLog, without_query
from ccxtbt.exchange.throttle import AsyncThrottle, SyncThrottle
from ccxtbt.exchange.wire import SENDER, WIRE, TappedClient

__all__ = ["SENDER", "Hooks", "Tap", "exchange_ids", "open_async", "open_sync", "redirect"]

logger = logging.getLogger(__name__)

# (client URL, raw frame) -> True if the frame was taken and ccxt is not to see it.
Tap = Callable[[str, str | bytes], bool]


@dataclass(frozen=True)
class Hooks:
    """What an adapted exchange is given.

    Attributes
    ----------
    clock : Clock
        The exchange's time.
    budget : Budget
        What may go out from this address.
    key : Key
        The orders and nonces of this key.
    endpoint : str
        Gateway through which addresses are led; '' where they are the exchange's own.
    tap : callable or None
        Sees raw WebSocket frames before ccxt does.
    """

    clock: Clock
    budget: Budget
    key: Key
    endpoint: str = ""
    tap: Tap | None = None


class CommonMixin:
    """Hooks of both classes."""

    ccxtbt_hooks: Hooks

    def milliseconds(self) -> int:
        """Return the exchange's time in ms instead of this machine's: signatures, nonces and expiries use it."""
        return self.ccxtbt_hooks.clock.now_ms()

    def handle_errors(self, code: int, reason: str, url: str, *more: Any) -> Any:
        """Let ccxt judge an answer by the exchange's own address: some classes choose their table of errors by it."""
        endpoint = self.ccxtbt_hooks.endpoint
        own = f"https://{url.removeprefix(endpoint + '/')}" if endpoint else url
        return super().handle_errors(code, reason, own, *more)  # type: ignore[misc]  # the mixin stands before ccxt's class


class AsyncMixin(CommonMixin, CountedAsync):
    """Hooks of the asynchronous class, REST and WebSocket."""

    def init_throttler(self, cost: float | None = None) -> None:
        """Put the shared budget where ccxt keeps its own."""
        hooks = self.ccxtbt_hooks
        factor = hooks.budget.facts.weight_per_cost
        self.throttler = AsyncThrottle(hooks.budget.requests, factor=factor, orders=hooks.key.orders)

    async def fetch(self, url: str, *more: Any, **named: Any) -> Any:
        """Send a request; an error tells its address without the query."""
        try:
            return await super().fetch(url, *more, **named)
        except ccxt.BaseError as error:
            raise without_query(error)  # noqa: B904  # the same error, with its own cause

    def forget_listen_keys(self) -> None:
        """Let ccxt make the keys of its user streams anew: those that it has were ended by the exchange."""
        for kept in self.options.values():  # type: ignore[attr-defined]  # ccxt's
            if isinstance(kept, dict) and "listenKey" in kept:
                kept |= {"listenKey": None, "lastAuthenticatedTime": 0}

    async def renew_listen_keys(self) -> bool:
        """Renew the keys of user streams that ccxt has let become old: its own timer renews each once.

        Returns
        -------
        bool
            Whether the exchange still knows the keys that the streams were opened with.
        """
        options: dict[str, Any] = self.options  # type: ignore[attr-defined]  # ccxt's
        old_ms = int(options.get("listenKeyRefreshRate", 1_200_000)) + 10_000
        for name, kept in list(options.items()):
            if isinstance(kept, dict) and kept.get("listenKey"):
                if self.milliseconds() - int(kept["lastAuthenticatedTime"]) > old_ms:
                    await self.authenticate()  # type: ignore[attr-defined]  # ccxt's
                if options[name]["listenKey"] != kept["listenKey"]:
                    return False
        return True

    def client(self, url: str) -> Any:
        """Return ccxt's client for `url` on the wire of this context, tapped."""
        # What is no address is a place of ccxt's own to wait in: no socket, and it says nothing, ever.
        wire = WIRE.get() if "://" in url else None
        if wire is not None and "#" not in url:
            url = f"{url}#{wire.name}"
        client = super().client(url)  # type: ignore[misc]  # the mixin stands before ccxt's class
        if not isinstance(client, TappedClient):
            hooks = self.ccxtbt_hooks
            tap = None if hooks.tap is None else partial(hooks.tap, url)
            forget = partial(self.clients.pop, url, None)  # type: ignore[attr-defined]  # ccxt's
            TappedClient.adopt(client, hooks.budget.socket(), tap, wire, forget)
        return client


class SyncMixin(CommonMixin, CountedSync):
    """Hooks of the synchronous class, which user code calls directly."""

    _clock_asked = False

    def milliseconds(self) -> int:
        """Return the exchange's time; the first call asks for it, where no connection has."""
        clock = self.ccxtbt_hooks.clock
        if not (clock.known or self._clock_asked):
            self._clock_asked = True
            sent_s = clock.monotonic()
            try:
                told_ms = int(self.fetch_time())  # type: ignore[attr-defined]  # ccxt's
            except Exception as error:  # noqa: BLE001  # whatever it is, this machine's clock has to do
                logger.debug("The exchange does not tell its time: %s", error)
            else:
                clock.synced(told_ms, sent_s, clock.monotonic())
        return clock.now_ms()

    def fetch(self, url: str, *more: Any, **named: Any) -> Any:
        """Send a request; an error tells its address without the query."""
        try:
            return super().fetch(url, *more, **named)
        except ccxt.BaseError as error:
            raise without_query(error)  # noqa: B904  # the same error, with its own cause

    def throttle(self, cost: float | None = None) -> None:
        """Wait for the shared budget."""
        hooks = self.ccxtbt_hooks
        factor = hooks.budget.facts.weight_per_cost
        SyncThrottle(hooks.budget.requests, factor=factor, orders=hooks.key.orders)(cost)


def exchange_ids() -> list[str]:
    """Return the names of all exchanges that ccxt knows."""
    return list(ccxt.exchanges)


def ccxt_version() -> str:
    """Return the version of ccxt that runs."""
    return str(ccxt.__version__)


def _ccxt_class(module: Any, exchange_id: str) -> Any:
    if exchange_id not in ccxt.exchanges:
        near = [name for name in ccxt.exchanges if name.startswith(exchange_id[:3])]
        hint = f"; did you mean {', '.join(near[:5])}?" if near else ""
        raise ConfigError(f"exchange={exchange_id!r} is not an exchange of ccxt {ccxt.__version__}{hint}")
    return getattr(module, exchange_id)


def _discreet(exchange: Any) -> Any:
    exchange.logger = DiscreetLog(logging.getLogger("ccxt.base.exchange"), exchange)
    return exchange


def required_credentials(exchange_id: str) -> list[str]:
    """Return ccxt's names of what an exchange wants to know of an account.

    Raises
    ------
    ConfigError
        ccxt knows no such exchange.
    """
    return [name for name, needed in _ccxt_class(ccxt, exchange_id)().requiredCredentials.items() if needed]


def class_of(exchange_id: str) -> Any:
    """Return ccxt's class for the I/O thread: with WebSocket where there is one.

    Raises
    ------
    ConfigError
        ccxt knows no such exchange.
    """
    return _ccxt_class(ccxt.pro if exchange_id in ccxt.pro.exchanges else ccxt.async_support, exchange_id)


def open_async(exchange_id: str, config: dict[str, Any], hooks: Hooks) -> Any:
    """Return a ccxt exchange for the I/O thread: REST, and WebSocket where ccxt has it.

    Raises
    ------
    ConfigError
        ccxt knows no such exchange.
    """
    base = class_of(exchange_id)
    return _discreet(type(base.__name__, (AsyncMixin, ColumnsMixin, base), {"ccxtbt_hooks": hooks})(config))


def open_sync(exchange_id: str, config: dict[str, Any], hooks: Hooks) -> Any:
    """Return a synchronous ccxt exchange for user code, on the same clock and budget.

    Raises
    ------
    ConfigError
        ccxt knows no such exchange.
    """
    base = _ccxt_class(ccxt, exchange_id)
    return _discreet(type(base.__name__, (SyncMixin, base), {"ccxtbt_hooks": hooks})(config))


def redirect(urls: Any, endpoint: str) -> Any:
    """Return ccxt's `urls['api']` with every address led through `endpoint`.

    ``https://api.binance.com/api/v3`` becomes ``<endpoint>/api.binance.com/api/v3``: the original host stays in the
    path, because ccxt and gateways tell services apart by it. WebSocket addresses get ``ws`` or ``wss`` as
    `endpoint` is ``http`` or ``https``.

    Parameters
    ----------
    urls : str, dict, list or None
        The tree of addresses.
    endpoint : str
        ``http://host:port`` or ``https://host:port``, with or without a path.

    Raises
    ------
    ConfigError
        `endpoint` is not such an address.
    """
    target = urlsplit(endpoint)
    if target.scheme not in {"http", "https"} or not target.netloc:
        raise ConfigError(f"endpoint {endpoint!r} is not an address: write it as http://host:port or https://host:port")
    if isinstance(urls, dict):
        return {key: redirect(value, endpoint) for key, value in urls.items()}
    if isinstance(urls, list):
        return [redirect(value, endpoint) for value in urls]
    if not isinstance(urls, str) or "://" not in urls:
        return urls
    scheme, rest = urls.split("://", 1)
    if scheme.startswith("ws"):
        return f"{target.scheme.replace('http', 'ws')}://{target.netloc}{target.path.rstrip('/')}/{rest}"
    return f"{target.scheme}://{target.netloc}{target.path.rstrip('/')}/{rest}"
