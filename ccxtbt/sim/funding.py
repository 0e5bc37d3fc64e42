"""Funding of perpetual contracts: the mark price, the index price, and the rate that is paid every eight hours."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from zlib import crc32

from ccxtbt.sim.kline import HOUR_MS
from ccxtbt.sim.market import Market
from ccxtbt.sim.spec import UNIT
from ccxtbt.sim.tape import noise

FUNDING_MS = 8 * HOUR_MS
INTEREST = Decimal("0.0001")
# Rates lie within this distance of the interest.
_SPREAD = Decimal("0.0004")


@dataclass(slots=True, frozen=True)
class Mark:
    """What a contract is worth for margin and funding.

    Attributes
    ----------
    mark, index : Decimal
        Prices.
    rate : Decimal
        What is paid per worth of a position at `next_ms`: by longs to shorts if it is positive.
    next_ms : int
        When funding is paid next.
    """

    mark: Decimal
    index: Decimal
    rate: Decimal
    next_ms: int


def next_funding_ms(now_ms: int) -> int:
    """Return the first moment after `now_ms` at which funding is paid: 00:00, 08:00 and 16:00 UTC."""
    return now_ms - now_ms % FUNDING_MS + FUNDING_MS


def rate_at(symbol: str, funding_ms: int) -> Decimal:
    """Return the rate that is paid at a moment: a pure function of symbol and time, known eight hours before."""
    share = Decimal(noise(crc32(symbol.encode()) * 1_000_003 + funding_ms // FUNDING_MS))
    return (INTEREST + (2 * share - 1) * _SPREAD).quantize(UNIT)


def mark_of(market: Market, now_ms: int) -> Mark | None:
    """Return a contract's mark as of `now_ms`, None before its first trade.

    The mark price is the last trade's, without Binance's averages; the index lies below it by the funding rate.
    """
    ticks = market.close_before(now_ms + 1)
    if ticks is None:
        return None
    next_ms = next_funding_ms(now_ms)
    rate = rate_at(market.spec.symbol, next_ms)
    mark = market.price(ticks)
    return Mark(mark, (mark / (1 + rate)).quantize(UNIT), rate, next_ms)


def history(
    market: Market, start_ms: int | None, end_ms: int | None, limit: int, *, now_ms: int
) -> list[tuple[int, Decimal, Decimal]]:
    """Return (time, rate, mark price) of past payments: the first `limit` from a start, else the last ones."""
    last_ms = now_ms if end_ms is None else min(now_ms, end_ms)
    last_ms -= last_ms % FUNDING_MS
    first_ms = max(market.history_start_ms, 0 if start_ms is None else start_ms)
    first_ms = -(-first_ms // FUNDING_MS) * FUNDING_MS
    if start_ms is None:
        first_ms = max(first_ms, last_ms - (limit - 1) * FUNDING_MS)
    else:
        last_ms = min(last_ms, first_ms + (limit - 1) * FUNDING_MS)
    rows = []
    for at_ms in range(first_ms, last_ms + 1, FUNDING_MS):
        ticks = market.close_before(at_ms + 1)
        if ticks is not None:
            rows.append((at_ms, rate_at(market.spec.symbol, at_ms), market.price(ticks)))
    return rows
