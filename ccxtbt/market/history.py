"""Paged download of closed bars over REST."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

from ccxtbt import _bars
from ccxtbt.market.timeframes import Timeframe

Columns = tuple[NDArray[np.int64], NDArray[np.float64]]

# (since_ms, limit) -> the columns of one page.
FetchPage = Callable[[int, int], Awaitable[Columns]]

# What most exchanges give at once; a first page that is shorter teaches the real figure.
USUAL_PAGE = 1_000
PAGES_AT_ONCE = 10
# Open, high, low, close, volume.
ROWS = 5


def empty(extra: int = 0) -> Columns:
    """Return columns without bars, with so many rows beside prices and volume."""
    return np.empty(0, np.int64), np.empty((ROWS + extra, 0), np.float64)


async def download(
    fetch_page: FetchPage, timeframe: Timeframe, start_ms: int, end_ms: int, page_limit: int = 0, extra: int = 0
) -> Columns:
    """Download the bars that open in ``[start_ms, end_ms)``.

    The first page tells how many rows the exchange gives; the rest are fetched side by side, as far as the request
    budget behind `fetch_page` allows, and merged by time.

    Parameters
    ----------
    fetch_page : callable
        Returns the bars that open at `since_ms` or later, at most `limit`; retries and budget are its own.
    timeframe : Timeframe
        Length of the bars.
    start_ms, end_ms : int
        Span of opens; `end_ms` must not be later than the open of the forming bar.
    page_limit : int
        Most rows the exchange gives at once; 0: not known.
    extra : int
        How many values a page holds of a bar beside prices and volume.

    Returns
    -------
    ts_ms : int64[n]
        Opens, strictly increasing.
    ohlcv : float64[5 + extra, n]
        Open, high, low, close, volume, and the extra values.
    """
    if start_ms >= end_ms:
        return empty(extra)
    limit = page_limit or USUAL_PAGE
    first = await fetch_page(start_ms, limit)
    pages = [first]
    since_ms = _after(first, timeframe, start_ms)
    # A page that came short of its limit without reaching the end teaches the exchange's own limit.
    rows = min(limit, len(first[0])) or limit
    step_ms = rows * timeframe.nominal_ms
    starts = range(since_ms, end_ms, step_ms)
    budget = asyncio.Semaphore(PAGES_AT_ONCE)

    async def page_from(since: int) -> None:
        until = min(since + step_ms, end_ms)
        while since < until:
            async with budget:
                page = await fetch_page(since, limit)
            pages.append(page)
            if not len(page[0]):
                break
            since = _after(page, timeframe, since)

    try:
        async with asyncio.TaskGroup() as group:
            for since in starts:
                group.create_task(page_from(since))
    except ExceptionGroup as failures:
        # One page that cannot be had ends the download; the others were cancelled and say nothing more.
        raise failures.exceptions[0] from failures
    ts_ms, ohlcv = _merged(pages, extra)
    low, high = np.searchsorted(ts_ms, [start_ms, end_ms])
    return ts_ms[low:high], np.ascontiguousarray(ohlcv[:, low:high])


def _merged(pages: list[Columns], extra: int) -> Columns:
    """Return the pages as one, each bar once; the last page that has it counts."""
    if not extra:
        merged = _bars.merge(pages)
        return merged.ts_ms, merged.ohlcv
    merged = _bars.merge([(ts_ms, rows[:ROWS]) for ts_ms, rows in pages])
    ohlcv = np.empty((ROWS + extra, len(merged.ts_ms)))
    ohlcv[:ROWS] = merged.ohlcv
    for ts_ms, rows in pages:
        ohlcv[ROWS:, np.searchsorted(merged.ts_ms, ts_ms)] = rows[ROWS:]
    return merged.ts_ms, ohlcv


def _after(page: Columns, timeframe: Timeframe, since_ms: int) -> int:
    """Return where the page after `page` begins; always later than `since_ms`, so that paging ends."""
    shortest = timeframe.ms or timeframe.nominal_ms - 2 * 86_400_000
    if not len(page[0]):
        return since_ms + shortest
    return max(int(page[0][-1]) + 1, since_ms + 1)
