"""An exchange's limits as rules: exact windows, with a margin for what the way to it does to the pace."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from ccxtbt._ratelimit import Rule
from ccxtbt.errors import ConfigError

_NS: Final = 1_000_000_000


def ns_of_window(window_ms: float, rate: float) -> int:
    """Return the nanoseconds here of a window of the exchange: the same for a rule and for who names it."""
    if not 0 < rate < math.inf or not 0 < window_ms < math.inf:
        raise ConfigError(f"a window of {window_ms!r} ms at rate {rate!r} is no length of time: both must be positive")
    return round(window_ms * 1_000_000 / rate)


def rules_from_table(
    table: Iterable[tuple[float, float]],
    *,
    margin_ms: float | None = None,
    order_share: float = 0.01,
    live_share: float = 0.0,
    per_call: bool = False,
    rate: float = 1.0,
) -> tuple[Rule, ...]:
    """Build exact windows from an exchange's published limits.

    Parameters
    ----------
    table : iterable of (limit, window_ms)
        All of them hold at once.
    margin_ms : float, optional
        Added to each window, for requests that reach the exchange at uneven speed. By default half a percent of the
        window, at least 10 ms (but no more than a tenth of it) and at most 1 s.
    order_share : float, default 0.01
        Share of each limit, rounded down to whole weight, that only orders may use: history that has just used the
        window up does not make an order wait for it.
    live_share : float, default 0.0
        Further share that only orders and live data may use, rounded down likewise.
    per_call : bool, default False
        The limits count calls, not weight.
    rate : float, default 1.0
        Exchange seconds that pass in one second here; `margin_ms` is in time here.

    Returns
    -------
    tuple of Rule

    Raises
    ------
    ConfigError
        A limit or window that is not positive.
    """
    rules = []
    for limit, window_ms in table:
        window_ns = ns_of_window(window_ms, rate)
        if margin_ms is None:
            margin_ns = min(max(window_ns // 200, 10_000_000), window_ns // 10, _NS)
        else:
            margin_ns = round(margin_ms * 1_000_000)
        rules.append(
            Rule(
                limit,
                window_ns,
                margin_ns=margin_ns,
                order_reserve=math.floor(limit * order_share),
                live_reserve=math.floor(limit * live_share),
                per_call=per_call,
            )
        )
    return tuple(rules)


def rules_from_ccxt(
    rate_limit_ms: float, *, window_ms: float = 1000.0, margin_ms: float | None = None, rate: float = 1.0
) -> tuple[Rule, ...]:
    """Build the rule of an exchange of which only ccxt's ``rateLimit`` is known.

    As many calls of cost 1 as ccxt would space over a second may go out at once, and no more in any second: a bucket
    of that capacity would let nearly twice as many into one.

    Parameters
    ----------
    rate_limit_ms : float
        Milliseconds between two calls of cost 1; 0 is no limit.
    window_ms : float, default 1000.0
        Shortened to a multiple of `rate_limit_ms`, or lengthened to it.
    margin_ms, rate : float, optional
        As in `rules_from_table`.

    Returns
    -------
    tuple of Rule
        In units of ccxt's cost.
    """
    if rate_limit_ms == 0:
        return ()
    if not 0 < rate_limit_ms < math.inf:
        raise ConfigError(f"rateLimit {rate_limit_ms!r} is not a number of milliseconds: give 0 or more")
    calls = max(math.floor(window_ms / rate_limit_ms + 1e-9), 1)
    return rules_from_table([(calls, calls * rate_limit_ms)], margin_ms=margin_ms, order_share=0.0, rate=rate)


def weight_per_cost(limit: float, window_ms: float, rate_limit_ms: float) -> float:
    """Weight of one unit of ccxt's cost, from a limit and ccxt's ``rateLimit``.

    Parameters
    ----------
    limit, window_ms : float
        What the exchange allows: 6,000 in 60,000 ms at Binance spot.
    rate_limit_ms : float
        ccxt's ``rateLimit``: 50 there, so that a cost of 0.4 is a weight of 2.

    Returns
    -------
    float
    """
    return limit * rate_limit_ms / window_ms
