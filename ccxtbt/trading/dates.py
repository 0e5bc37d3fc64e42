"""Times as backtrader has them: days since the year 1 as one number, in UTC."""

from __future__ import annotations

DAY_MS = 86_400_000
# The number of 1970-01-01.
_EPOCH = 719_163


def number_of(ms: int) -> float:
    """Return a time in ms since 1970 as backtrader's number."""
    return _EPOCH + ms / DAY_MS


def ms_of(number: float) -> int:
    """Return backtrader's number as ms since 1970."""
    return round((number - _EPOCH) * DAY_MS)
