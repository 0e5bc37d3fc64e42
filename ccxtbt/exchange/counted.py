"""Requests whose answers teach the budget: mixins before ccxt's classes, asynchronous and synchronous."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import ccxt

_TOO_MANY = (ccxt.DDoSProtection, ccxt.RateLimitExceeded)


@dataclass(slots=True)
class _Request:
    """A request that is under way: the exchange's time when it left, and the headers of its answer."""

    sent_ms: int
    headers: Mapping[str, str] | None = None


# ccxt keeps the headers of the last answer alone, which may be another request's.
_REQUEST: ContextVar[_Request | None] = ContextVar("_REQUEST", default=None)


class Counted:
    """What both classes share; `ccxtbt_hooks` names the clock, the budget and the key."""

    ccxtbt_hooks: Any

    def nonce(self) -> int:
        """Return a nonce that no other exchange object of this process has given for the same key."""
        wanted = int(super().nonce())  # type: ignore[misc]  # ccxt's class stands behind
        given: int = self.ccxtbt_hooks.key.nonce(wanted)
        return given

    def calculate_rate_limiter_cost(self, api: Any, method: Any, path: Any, params: Any, *more: Any) -> Any:
        """Return a request's cost: ccxt's, or ours where that is out of date."""
        section = api if isinstance(api, str) else api[0]
        name = f"{section}/{path}"
        ours = self.ccxtbt_hooks.budget.facts.costs
        if name in ours:
            return ours[name]
        if "type" in params and (asked := f"{name}?type={params['type']}") in ours:
            return ours[asked]
        return super().calculate_rate_limiter_cost(api, method, path, params, *more)  # type: ignore[misc]  # ccxt's class stands behind

    def on_rest_response(
        self, code: int, reason: str, url: str, method: str, response_headers: Any, response_body: str, *more: Any
    ) -> Any:
        """Let an answer teach the budget, before ccxt reads it."""
        hooks, request = self.ccxtbt_hooks, _REQUEST.get()
        if request is not None:
            request.headers = response_headers
            now_ms = hooks.clock.now_ms()
            hooks.budget.answered(hooks.key, url, response_headers, response_body, request.sent_ms, now_ms)
        return super().on_rest_response(  # type: ignore[misc]  # ccxt's class stands behind
            code, reason, url, method, response_headers, response_body, *more
        )

    def _refused(self, error: Exception, request: _Request) -> None:
        hooks = self.ccxtbt_hooks
        hooks.budget.refused(hooks.key, error, request.headers, hooks.clock.now_ms())


class CountedAsync(Counted):
    """Before ccxt's asynchronous class."""

    async def fetch(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request whose answer is for the budget too."""
        request = _Request(self.ccxtbt_hooks.clock.now_ms())
        token = _REQUEST.set(request)
        try:
            return await super().fetch(*args, **kwargs)  # type: ignore[misc]  # ccxt's class stands behind
        except _TOO_MANY as error:
            self._refused(error, request)
            raise
        finally:
            _REQUEST.reset(token)


class CountedSync(Counted):
    """Before ccxt's synchronous class."""

    def fetch(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request whose answer is for the budget too."""
        request = _Request(self.ccxtbt_hooks.clock.now_ms())
        token = _REQUEST.set(request)
        try:
            return super().fetch(*args, **kwargs)  # type: ignore[misc]  # ccxt's class stands behind
        except _TOO_MANY as error:
            self._refused(error, request)
            raise
        finally:
            _REQUEST.reset(token)
