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


def empty() -> Columns:
    """Return columns without bars."""
    return np.empty(0, np.int64), np.empty((5, 0), np.float64)


async def download(
    fetch_page: FetchPage, timeframe: Timeframe, start_ms: int, end_ms: int, page_limit: int = 0
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

    Returns
    -------
    ts_ms : int64[n]
        Opens, strictly increasing.
    ohlcv : float64[5, n]
        Open, high, low, close, volume.
    """
    if start_ms >= end_ms:
        return empty()
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
    merged = _bars.merge(pages)
    ts_ms, ohlcv = merged[0], merged[1]
    low, high = np.searchsorted(ts_ms, [start_ms, end_ms])
    return ts_ms[low:high], np.ascontiguousarray(ohlcv[:, low:high])


def _after(page: Columns, timeframe: Timeframe, since_ms: int) -> int:
    """Return where the page after `page` begins; always later than `since_ms`, so that paging ends."""
    shortest = timeframe.ms or timeframe.nominal_ms - 2 * 86_400_000
    if not len(page[0]):
        return since_ms + shortest
    return max(int(page[0][-1]) + 1, since_ms + 1)
