"""Until when an order is good: what a strategy may say, as a time of the exchange, and as the exchange's parameters."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from ccxtbt.errors import ConfigError
from ccxtbt.exchange.facts import Facts
from ccxtbt.trading.dates import DAY_MS, ms_of
from ccxtbt.trading.rules import Rules


def until_ms(valid: Any, now_ms: int, date2num: Callable[[Any], float]) -> int | None:
    """Return when an order's validity is over; None where it is good until it is cancelled.

    Parameters
    ----------
    valid : datetime, date, timedelta, number or None
        As backtrader's `valid`: a time in the data's own time zone; a span, or a number of days, from now; a span of 0
        (`Order.DAY`) or 0: until the end of the exchange's day, 00:00 UTC.
    now_ms : int
        The exchange's time, from which spans count. A bar's stamp may be an hour old.
    date2num : callable
        The data's: a time as backtrader's number.

    Raises
    ------
    ConfigError
        It is none of these, or is over already.
    """
    if valid is None:
        return None
    if isinstance(valid, dt.date):
        end_ms = ms_of(date2num(valid))
    elif isinstance(valid, dt.timedelta | float | int):
        span_ms = round((valid / dt.timedelta(days=1) if isinstance(valid, dt.timedelta) else valid) * DAY_MS)
        end_ms = now_ms + span_ms if span_ms else (now_ms // DAY_MS + 1) * DAY_MS
    else:
        raise ConfigError(
            f"valid={valid!r} is no validity: give None, a datetime or date, a timedelta, or bt.Order.DAY."
        )
    if end_ms <= now_ms:
        raise ConfigError(f"valid={valid!r} is over already: it ended at {utc(end_ms)}, and it is {utc(now_ms)}.")
    return end_ms


def utc(ms: int) -> str:
    """Return a time in ms since 1970 as readable UTC."""
    return dt.datetime.fromtimestamp(ms / 1_000, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def native_params(end_ms: int, now_ms: int, rules: Rules, facts: Facts) -> dict[str, Any]:
    """Return what lets the exchange itself end an order; nothing where it cannot, or nobody knows how.

    Parameters
    ----------
    end_ms, now_ms : int
        When the validity is over, and the exchange's time.
    rules : Rules
        Say whether the market takes orders that are good until a date.
    facts : Facts
        Say how.
    """
    if not rules.good_till_date or not facts.expiry or end_ms - now_ms <= facts.expiry_least_s * 1_000:
        return {}
    name, unit = facts.expiry
    values = {
        "ms": end_ms,
        "iso": dt.datetime.fromtimestamp(end_ms / 1_000, dt.UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        "seconds": -(-(end_ms - now_ms) // 1_000),
    }
    return {"timeInForce": "GTD", name: values[unit]}
