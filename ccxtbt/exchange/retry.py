"""Which errors a retry can cure, how long to wait first, and the loop that does it.

The table goes by ccxt's exception classes. For a call that creates an order it is stricter: RETRY and FREEZE are given
only where the request provably never reached matching; wherever an order may exist the outcome is UNKNOWN, and the
order is looked up instead of being sent again.
"""

from __future__ import annotations

import asyncio
import email.utils
import functools
import inspect
import logging
import math
import random
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, ParamSpec, TypeVar, cast

import aiohttp
import ccxt
import requests
import urllib3

from ccxtbt.errors import CCXTBTError, ConfigError, DataError, OutcomeUnknownError, TryLaterError
from ccxtbt.exchange.limiter import Limiter

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

LONGEST_FREEZE_S = 3 * 86_400.0


class Remedy(Enum):
    """What helps against an error."""

    RETRY = "the same call may succeed after a pause"
    FREEZE = "no call at all until a time; then the same one may succeed"
    NEVER = "the same call meets the same error again"
    UNKNOWN = "what became of the call is not known: look it up"


@dataclass(frozen=True, slots=True)
class Cure:
    """The remedy for one error.

    Attributes
    ----------
    remedy : Remedy
    after_s : float
        Shortest pause before the next call; for FREEZE, how long all callers are to be held. In the exchange's time.
    orders_only : bool
        A freeze of orders, not of all requests.
    resync_clock : bool
        Set the clock by the exchange's before the next call.
    """

    remedy: Remedy
    after_s: float = 0.0
    orders_only: bool = False
    resync_clock: bool = False


_RETRY = Cure(Remedy.RETRY)
_NEVER = Cure(Remedy.NEVER)
_UNKNOWN = Cure(Remedy.UNKNOWN)
_CLOCK = Cure(Remedy.RETRY, resync_clock=True)
# Where the exchange does not say how long: most count by the second or by the minute.
_TOO_MANY = Cure(Remedy.FREEZE, 10.0)
_TOO_MANY_ORDERS = Cure(Remedy.FREEZE, 10.0, orders_only=True)
_SHUT_OUT = Cure(Remedy.FREEZE, 60.0)
_BANNED = Cure(Remedy.FREEZE, 120.0)

# Exception class -> (cure of a call that may be repeated, cure of a call that creates an order). The nearest base wins.
_TABLE: dict[type[BaseException], tuple[Cure, Cure]] = {
    ccxt.OperationFailed: (_RETRY, _UNKNOWN),
    ccxt.RateLimitExceeded: (_TOO_MANY, _TOO_MANY),
    ccxt.DDoSProtection: (_SHUT_OUT, _SHUT_OUT),
    ccxt.InvalidNonce: (_CLOCK, _CLOCK),
    ccxt.ChecksumError: (_RETRY, _UNKNOWN),
    ccxt.OnMaintenance: (Cure(Remedy.RETRY, 30.0), _UNKNOWN),
    ccxt.CancelPending: (_UNKNOWN, _UNKNOWN),
    # A bare ExchangeError is also what a truncated answer becomes, so an order may live behind it. Its heirs are clear
    # refusals.
    ccxt.ExchangeError: (_NEVER, _UNKNOWN),
    ccxt.AuthenticationError: (_NEVER, _NEVER),
    ccxt.ArgumentsRequired: (_NEVER, _NEVER),
    ccxt.BadRequest: (_NEVER, _NEVER),
    ccxt.OperationRejected: (_NEVER, _NEVER),
    ccxt.InsufficientFunds: (_NEVER, _NEVER),
    ccxt.InvalidAddress: (_NEVER, _NEVER),
    ccxt.InvalidOrder: (_NEVER, _NEVER),
    ccxt.DuplicateOrderId: (_NEVER, _UNKNOWN),
    ccxt.NotSupported: (_NEVER, _NEVER),
    ccxt.InvalidProxySettings: (_NEVER, _NEVER),
    ccxt.ExchangeClosedByUser: (_NEVER, _NEVER),
    # Garbage with status 200 becomes our DataError.
    DataError: (_RETRY, _UNKNOWN),
    TryLaterError: (_RETRY, _UNKNOWN),
    OutcomeUnknownError: (_UNKNOWN, _UNKNOWN),
    CCXTBTError: (_NEVER, _NEVER),
    TimeoutError: (_RETRY, _UNKNOWN),
    ConnectionError: (_RETRY, _UNKNOWN),
    aiohttp.ClientError: (_RETRY, _UNKNOWN),
    requests.RequestException: (_RETRY, _UNKNOWN),
    # The connection never came about.
    ConnectionRefusedError: (_RETRY, _RETRY),
    socket.gaierror: (_RETRY, _RETRY),
    aiohttp.ClientConnectorError: (_RETRY, _RETRY),
    requests.exceptions.ConnectTimeout: (_RETRY, _RETRY),
    # Anything else is a mistake in a program, perhaps in one that was reading the answer to an order.
    BaseException: (_NEVER, _UNKNOWN),
}

_NEVER_CONNECTED = (
    ConnectionRefusedError,
    socket.gaierror,
    aiohttp.ClientConnectorError,
    requests.exceptions.ConnectTimeout,
)
_ANSWER_LOST = (OSError, aiohttp.ClientError, requests.RequestException)

# "binance GET https://... 451 Unavailable For Legal Reasons {...}": how ccxt words a status of which it knows no more.
_STATUS = re.compile(r"^\S+ [A-Z]+ \S+ ([1-5]\d\d) ")
_STATUS_CURES: dict[int, Cure] = {
    400: _NEVER,
    403: _SHUT_OUT,
    404: _NEVER,
    405: _NEVER,
    410: _NEVER,
    451: _NEVER,
}
_BANNED_UNTIL = re.compile(r"banned until (\d{12,14})")
_CODE = re.compile(r'"code":\s*"?(-?\d+)"?')


def classify(
    error: BaseException,
    headers: Mapping[str, str] | None = None,
    *,
    creates_order: bool = False,
    now_ms: float | None = None,
) -> Cure:
    """Say what helps against an error of ccxt, of the network or of this package.

    Parameters
    ----------
    error : BaseException
    headers : mapping of str to str, optional
        Headers of the answer, if there was one.
    creates_order : bool, default False
        The call creates an order: what may have taken effect is UNKNOWN, and never sent again.
    now_ms : float, optional
        The exchange's time, against which bans are stated; by default this machine's.

    Returns
    -------
    Cure
    """
    text = str(error)
    cure = _special(error, text, creates_order)
    if cure is None:
        cure = next(_TABLE[base] for base in type(error).__mro__ if base in _TABLE)[creates_order]
    if cure.remedy is Remedy.FREEZE or (cure.remedy is Remedy.RETRY and isinstance(error, ccxt.ExchangeNotAvailable)):
        told_s = freeze_s(headers, text, now_ms)
        if told_s is not None:
            return replace(cure, after_s=told_s)
    return cure


def _special(error: BaseException, text: str, creates_order: bool) -> Cure | None:
    """Cures that the class alone does not tell."""
    cause = error.__cause__
    if isinstance(error, ccxt.DDoSProtection | ccxt.RateLimitExceeded):
        return _too_many(text)
    if isinstance(error, ccxt.NetworkError) and _never_connected(cause):
        return _RETRY
    if isinstance(error, ccxt.ExchangeNotAvailable):
        status = _STATUS.match(text)
        # An order that met one of these was turned away by what stands before matching, or was not: it is looked up.
        return _STATUS_CURES.get(int(status[1])) if status and not creates_order else None
    if type(error) is ccxt.ExchangeError and isinstance(cause, _ANSWER_LOST) and not creates_order:
        return _RETRY
    if creates_order and isinstance(error, ccxt.InvalidOrder) and "duplicate" in text.lower():
        # It was sent twice, so the first one lives.
        return _UNKNOWN
    return None


def _too_many(text: str) -> Cure | None:
    code = _CODE.search(text)
    if code and code[1] == "-2015":
        # ccxt takes Binance's refusal of a key for a ban if the key has worked before.
        return _NEVER
    if code and code[1] == "-1015":
        return _TOO_MANY_ORDERS
    return _BANNED if " 418 " in text else None


def _never_connected(cause: BaseException | None) -> bool:
    """Whether the connection never came about; a context is no proof, since it may be an older error's."""
    if isinstance(cause, _NEVER_CONNECTED):
        return True
    reason = getattr(cause.args[0], "reason", None) if cause is not None and cause.args else None
    return isinstance(cause, requests.ConnectionError) and isinstance(reason, urllib3.exceptions.NewConnectionError)


def freeze_s(headers: Mapping[str, str] | None, text: str = "", now_ms: float | None = None) -> float | None:
    """Read how long the exchange wants to be left alone.

    Parameters
    ----------
    headers : mapping of str to str or None
        Retry-After, in seconds or as a date, is read in any case of letters; so is Bybit's time of reset.
    text : str, default ''
        The answer's body or the error's message: Binance's "banned until" in ms.
    now_ms : float, optional
        The exchange's time; by default this machine's.

    Returns
    -------
    float or None
        Seconds, 0 to 3 days; None where nothing is said.
    """
    now = time.time() * 1000 if now_ms is None else now_ms
    told = [(int(match[1]) - now) / 1000 for match in _BANNED_UNTIL.finditer(text)]
    for name, value in (headers or {}).items():
        if name.lower() == "retry-after":
            told.extend(_retry_after_s(value, now))
        elif name.lower() == "x-bapi-limit-reset-timestamp" and value.isdecimal():
            told.append((int(value) - now) / 1000)
    return min(max(*told, 0.0), LONGEST_FREEZE_S) if told else None


def _retry_after_s(value: str, now_ms: float) -> Iterator[float]:
    try:
        seconds = float(value)
    except ValueError:
        try:
            yield email.utils.parsedate_to_datetime(value).timestamp() - now_ms / 1000
        except ValueError:
            logger.debug("Retry-After %r is neither seconds nor a date", value)
    else:
        if math.isfinite(seconds):
            yield seconds


@dataclass(frozen=True)
class _Policy:
    """The decisions of one decorated function; the clock and the dice are given, so all of them can be tested."""

    attempts: int
    base_delay: float
    max_delay: float
    exceptions: tuple[type[BaseException], ...] | None
    deadline_s: float
    limiter: Limiter | None
    stop: threading.Event | None
    random: Callable[[], float]
    clock: Callable[[], float]

    def pause_s(
        self, error: Exception, attempt: int, started_s: float, headers: Mapping[str, str] | None
    ) -> float | None:
        """Seconds to wait before the next attempt; None where there is none. Freezes the limiter where that helps."""
        cure = classify(error, headers)
        if cure.remedy is Remedy.FREEZE and self.limiter is not None and not cure.orders_only:
            self.limiter.freeze(cure.after_s, f"{type(error).__name__}: {error}")
        if self.exceptions is None:
            wanted = cure.remedy in (Remedy.RETRY, Remedy.FREEZE)
        else:
            wanted = isinstance(error, self.exceptions)
        if not wanted or attempt + 1 >= self.attempts or (self.stop is not None and self.stop.is_set()):
            return None
        # Full jitter: callers that failed together do not come back together.
        backoff_s = self.random() * min(self.max_delay, self.base_delay * 2.0 ** min(attempt, 60))
        after_s = cure.after_s / (self.limiter.rate if self.limiter is not None else 1.0)
        pause_s = after_s + backoff_s if after_s else backoff_s
        if self.clock() - started_s + pause_s > self.deadline_s:
            return None
        logger.info("attempt %d failed, next in %.2f s: %s: %s", attempt + 1, pause_s, type(error).__name__, error)
        return pause_s


def retry_with_backoff(
    retries: int | None = None,
    base_delay: float = 1.0,
    max_delay: float = 60.0,
    exceptions: type[BaseException] | tuple[type[BaseException], ...] | None = None,
    *,
    max_retries: int | None = None,
    deadline_s: float = math.inf,
    limiter: Limiter | None = None,
    stop: threading.Event | None = None,
    resync: Callable[[], Awaitable[None]] | None = None,
    random: Callable[[], float] = random.random,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function, or a coroutine function, so that it is called again after errors which that can cure.

    Not for the creation of an order: use `classify` with ``creates_order=True`` there.

    Parameters
    ----------
    retries, max_retries : int, default 3
        Two names for the same: how often it is called at most, the first time included.
    base_delay, max_delay : float, default 1.0, 60.0
        Seconds. The pause after failure n, n from 0, is random between 0 and ``min(max_delay, base_delay * 2**n)``,
        after whatever the exchange asked for.
    exceptions : exception class or tuple of them, optional
        Call again after these and no others; by default after those of which `classify` says RETRY or FREEZE.
    deadline_s : float, default inf
        No attempt begins later than that after the first.
    limiter : Limiter, optional
        Frozen for everybody where the exchange asks to be left alone.
    stop : threading.Event, optional
        Ends a pause, and with it the attempts, when it is set. A coroutine's pause also ends by cancellation.
    resync : coroutine function, optional
        Sets the clock, for a decorated coroutine function, where the exchange refused a request for its time.
    random : callable, default random.random
        Gives numbers from 0 to 1.
    clock : callable, default time.monotonic
        Gives seconds.

    Returns
    -------
    callable
        The decorator. When the attempts are used up the last error is raised.

    Raises
    ------
    ConfigError
        Both names with different numbers, or delays that are negative.
    """
    if retries is not None and max_retries is not None and retries != max_retries:
        raise ConfigError(
            f"retries={retries} and max_retries={max_retries} are two names for the same: give one of them"
        )
    if not (base_delay >= 0 and max_delay >= 0):
        raise ConfigError(f"base_delay={base_delay!r} and max_delay={max_delay!r} must be 0 or more seconds")
    chosen = retries if retries is not None else max_retries if max_retries is not None else 3
    wanted = exceptions if exceptions is None or isinstance(exceptions, tuple) else (exceptions,)
    policy = _Policy(chosen, base_delay, max_delay, wanted, deadline_s, limiter, stop, random, clock)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if inspect.iscoroutinefunction(function):
            return cast(Callable[P, R], _decorate_async(function, policy, resync))
        return _decorate_sync(function, policy)

    return decorate


def _headers_of(function: Callable[..., object]) -> Mapping[str, str] | None:
    """Headers of the last answer, where the function is a method of a ccxt exchange."""
    headers = getattr(getattr(function, "__self__", None), "last_response_headers", None)
    return headers if isinstance(headers, Mapping) else None


def _decorate_async(
    function: Callable[P, Awaitable[Any]], policy: _Policy, resync: Callable[[], Awaitable[None]] | None
) -> Callable[P, Awaitable[Any]]:
    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        started_s = policy.clock()
        attempt = 0
        while True:
            try:
                return await function(*args, **kwargs)
            except Exception as error:
                pause_s = policy.pause_s(error, attempt, started_s, _headers_of(function))
                if pause_s is None:
                    raise
                out_of_step = classify(error).resync_clock
            await asyncio.sleep(pause_s)
            if out_of_step and resync is not None:
                await resync()
            attempt += 1

    return call


def _decorate_sync(function: Callable[P, R], policy: _Policy) -> Callable[P, R]:
    stop = policy.stop or threading.Event()

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        started_s = policy.clock()
        attempt = 0
        while True:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                pause_s = policy.pause_s(error, attempt, started_s, _headers_of(function))
                if pause_s is None or stop.wait(min(pause_s, threading.TIMEOUT_MAX)):
                    raise
            attempt += 1

    return call
