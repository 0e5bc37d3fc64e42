"""RateLimiter: so many requests a minute, for code of one's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Self

from ccxtbt.ccxtstore import CCXTStore
from ccxtbt.errors import ConfigError
from ccxtbt.exchange.bridge import in_a_loop
from ccxtbt.exchange.limiter import Limiter, LimiterStats
from ccxtbt.exchange.windows import rules_from_table

WINDOW_MS = 60_000


class RateLimiter:
    """A budget of requests a minute, for any number of threads and event loops: no minute ever sees more.

    What a store asks for has its own budget, by the exchange's real weights: see `CCXTStore.rate_limit_stats`. This one
    is for requests that go past it. ``with limiter:`` acquires.

    Parameters
    ----------
    rate_limit : int
        Requests in any 60 s; also spelled ``requests_per_minute``. Default 1200.

    Raises
    ------
    ConfigError
        It is not above 0, or both spellings are given and differ.
    """

    def __init__(self, rate_limit: float | None = None, *, requests_per_minute: float | None = None) -> None:
        if rate_limit is not None and requests_per_minute is not None and rate_limit != requests_per_minute:
            raise ConfigError(
                f"rate_limit={rate_limit!r} and requests_per_minute={requests_per_minute!r} are two names for the "
                "same: give one of them."
            )
        given = rate_limit if rate_limit is not None else requests_per_minute
        self.rate_limit = 1200 if given is None else given
        if not self.rate_limit >= 1:
            raise ConfigError(f"rate_limit={self.rate_limit!r} lets nothing out: give 1 or more requests a minute.")
        self._limiter = Limiter(rules_from_table([(self.rate_limit, WINDOW_MS)], order_share=0.0))

    @classmethod
    def of(cls, store: CCXTStore) -> RateLimiter:
        """Return one on the budget of a store: who acquires here waits with all other requests of the account."""
        stats = store.connection.limiter.stats()
        per_minute = [rule.limit * WINDOW_MS / 1000 / rule.window_s for rule in stats.rules]
        limiter = _OfStore(min(per_minute, default=1200))
        limiter._limiter = store.connection.limiter
        return limiter

    def __repr__(self) -> str:
        return f"RateLimiter(rate_limit={self.rate_limit!r})"

    def acquire(self) -> Any:
        """Wait until a request may go out, and count it; where an event loop runs it is awaited."""
        return self._limiter.acquire() if in_a_loop() else self._limiter.acquire_blocking()

    def release(self) -> None:
        """Do nothing: a request that went out counts until its minute is over, however soon it was answered."""

    def wait_for_rate_limit(self) -> Awaitable[None] | None:
        """Wait until a request could go out, and count nothing; where an event loop runs it is awaited."""
        if in_a_loop():
            return self._wait()
        while (wait_s := self.get_wait_time()) > 0:
            time.sleep(wait_s)
        return None

    def get_wait_time(self) -> float:
        """Return for how many seconds a request would have to wait now."""
        return self._limiter.wait_time()

    def reset(self) -> None:
        """Forget what went out."""
        self._limiter.reset()

    def stats(self) -> LimiterStats:
        """Read the budget at this moment."""
        return self._limiter.stats()

    @property
    def current_usage(self) -> int:
        """How many requests of the last minute count."""
        return round(self.stats().rules[0].used)

    def __enter__(self) -> Self:
        self._limiter.acquire_blocking()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        await self._limiter.acquire()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.release()

    async def _wait(self) -> None:
        while (wait_s := self.get_wait_time()) > 0:  # noqa: ASYNC110  # time is what is waited for
            await asyncio.sleep(wait_s)


class _OfStore(RateLimiter):
    """The budget of a store."""

    def reset(self) -> None:
        """Do nothing: the exchange forgets nothing either."""


CCXTStore.RateLimiterCls = RateLimiter
