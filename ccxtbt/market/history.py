"""Download of closed bars: the pages of a plan, side by side, merged; what the archive holds is not asked for."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ccxtbt import _bars
from ccxtbt.exchange.connection import Connection
from ccxtbt.exchange.facts import Extra
from ccxtbt.exchange.lanes import LANE, Lane
from ccxtbt.market.handover import Gaps
from ccxtbt.market.paging import Ask, Kind, Plan, longest_ms
from ccxtbt.market.spans import Spans
from ccxtbt.market.timeframes import Timeframe

if TYPE_CHECKING:
    from ccxtbt._bars import Merged
    from ccxtbt.market.archive import Archive, Shelf

logger = logging.getLogger(__name__)

Columns = tuple[NDArray[np.int64], NDArray[np.float64]]

# An ask -> the columns of its answer.
FetchPage = Callable[[Ask], Awaitable[Columns]]

# A download that takes longer says how far it is, each time that so much time has passed.
TELL_S = 5.0
# Open, high, low, close, volume.
ROWS = 5
# More than the reading of a page takes.
APART_S = 0.002
# REST may correct a bar just after its close: one that is younger is delivered, but not put into the archive.
SETTLED_MS = 60_000


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is.

    Attributes
    ----------
    rows, pages : int
        What has come so far; pages may overlap.
    done_ms, total_ms : int
        How much of the span is known, and its length.
    """

    rows: int
    pages: int
    done_ms: int
    total_ms: int


# Hears of a download's progress, on the I/O thread, after each page.
Report = Callable[[Progress], None]


def empty() -> Columns:
    """Return columns without bars."""
    return np.empty(0, np.int64), np.empty((5, 0), np.float64)


def merge(
    pages: Iterable[Columns], timeframe: Timeframe | None = None, *, gaps: Gaps = "none", until_ms: int | None = None
) -> Merged:
    """Merge pages as `ccxtbt._bars.merge` does, with the rows that they have beside the five; 0 in flat bars."""
    kept = list(pages)
    merged = _bars.merge([(ts_ms, rows[:ROWS]) for ts_ms, rows in kept], timeframe, gaps=gaps, until_ms=until_ms)
    wide = [page for page in kept if len(page[0]) and len(page[1]) > ROWS]
    if not wide:
        return merged
    rows = np.zeros((len(wide[0][1]), len(merged.ts_ms)))
    rows[:ROWS] = merged.ohlcv
    for ts_ms, page in wide:
        rows[ROWS:, np.searchsorted(merged.ts_ms, ts_ms)] = page[ROWS:]
    return merged._replace(ohlcv=rows)


def join(pages: Iterable[Columns], start_ms: int, end_ms: int) -> Columns:
    """Merge pages in any order, and cut what opens in ``[start_ms, end_ms)``; of a bar that came twice the later one.

    Returns
    -------
    ts_ms : int64[n]
        Opens, strictly increasing.
    ohlcv : float64[5 + k, n]
        Open, high, low, close, volume, and what the pages have beside; C-contiguous.
    """
    kept = [page for page in pages if len(page[0])]
    if not kept:
        return empty()
    merged = merge(kept)
    low, high = merged.ts_ms.searchsorted([start_ms, end_ms])
    return merged.ts_ms[low:high], np.ascontiguousarray(merged.ohlcv[:, low:high])


class Download:
    """One span on its way.

    Parameters
    ----------
    plan : Plan
        What to ask.
    fetch_page : callable
        Answers an ask; retries and budget are its own.
    at_once : int
        Most asks under way.
    report : callable or None
        Hears of the progress.

    Attributes
    ----------
    pages : list of columns
        What has come; after a failure, too.
    """

    def __init__(self, plan: Plan, fetch_page: FetchPage, at_once: int, report: Report | None = None) -> None:
        self.plan = plan
        self.pages: list[Columns] = []
        self._fetch_page = fetch_page
        self._at_once = at_once
        self._report = report
        self._rows = 0
        self._flying = 0
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Ask until all is known. A page that cannot be had ends the others and raises its error."""
        began_s = time.monotonic()
        await self._ask_one()
        workers = min(self._at_once, self.plan.pages_left)
        # Pages that leave together come back together, for ever: each then waits for the reading of all.
        apart_s = min(APART_S, (time.monotonic() - began_s) / max(workers, 1))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._ask_on())
                    await asyncio.sleep(apart_s)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures

    async def _ask_on(self) -> None:
        """Ask one page after the other."""
        while True:
            if await self._ask_one():
                self._news.set()
            elif self._flying:
                self._news.clear()
                await self._news.wait()
            else:
                return

    async def _ask_one(self) -> bool:
        """Ask what is next, and take the answer; return whether there was something to ask."""
        ask = self.plan.next()
        if ask is None:
            return False
        self._flying += 1
        page = await self._answer(ask)
        self._flying -= 1
        self._take(ask, page)
        return True

    async def _answer(self, ask: Ask) -> Columns | None:
        try:
            return await self._fetch_page(ask)
        except Exception as error:
            if ask.kind is not Kind.PROBE:
                raise
            # It would only have spared requests.
            logger.debug("No bars of %s to learn from when the market began: %r", ask.timeframe, error)
            return None

    def _take(self, ask: Ask, page: Columns | None) -> None:
        if ask.kind is Kind.PROBE:
            self.plan.answered(ask, None if page is None else _traded(page))
            return
        assert page is not None  # noqa: S101 - only a probe may fail
        self.pages.append(page)
        self._rows += len(page[0])
        self.plan.answered(ask, page[0])
        if self._report is not None:
            plan = self.plan
            self._report(Progress(self._rows, len(self.pages), plan.proved.total_ms, plan.end_ms - plan.start_ms))


def _traded(page: Columns) -> NDArray[np.int64]:
    """Return the opens of bars that saw a trade: some exchanges write bars before the first one."""
    ts_ms, ohlcv = page
    traded = ohlcv[4] > 0
    return ts_ms[traded] if traded.any() else ts_ms


class History:
    """The closed bars of one market: from the archive, and what that has not from the exchange.

    Parameters
    ----------
    connection : Connection
        The exchange.
    symbol : str
        ccxt's unified symbol.
    timeframe : Timeframe
        Length of the bars.
    params : dict or None
        Extra parameters of ccxt's `fetch_ohlcv`.
    archive : Archive or None
        Where bars are kept.
    report : callable or None
        Hears of the progress, on the I/O thread.
    extra : Extra or None
        What is wanted beside prices and volume; the archive keeps such bars apart from those without.

    Attributes
    ----------
    shelf : Shelf or None
        The place of these bars in the archive.
    young_ms : int or None
        Open of the first bar of the last download that was too young for it.
    """

    def __init__(
        self,
        connection: Connection,
        symbol: str,
        timeframe: Timeframe,
        params: dict[str, Any] | None = None,
        archive: Archive | None = None,
        report: Report | None = None,
        extra: Extra | None = None,
    ) -> None:
        self._connection = connection
        self._symbol = symbol
        self._timeframe = timeframe
        self._params = params or {}
        self.shelf: Shelf | None = None
        self._extra = extra
        if archive is not None:
            account, names = connection.account, () if extra is None else extra.names
            source = (account.exchange_id, "sandbox" if account.sandbox else "", connection.endpoint)
            self.shelf = archive.shelf(source, symbol, timeframe, self._params, names)
        self._report = report
        self._told_s = 0.0
        self.young_ms: int | None = None

    async def get(self, start_ms: int, end_ms: int) -> Columns:
        """Return the bars that open in ``[start_ms, end_ms)``.

        Parameters
        ----------
        start_ms, end_ms : int
            `end_ms` must not be later than the open of the forming bar.

        Returns
        -------
        ts_ms : int64[n]
            Opens, strictly increasing.
        ohlcv : float64[5 + k, n]
            Open, high, low, close, volume, and a row for each extra value.

        Raises
        ------
        DataError, ccxt.BaseError
            A page cannot be had, with all its retries. What came before is in the archive.
        """
        if start_ms >= end_ms:
            return empty()
        # What live data lacks is a few bars, wanted at once, and too young to be kept.
        shelf = self.shelf if LANE.get() is Lane.HISTORY else None
        if shelf is None:
            return join([await self._fetch(start_ms, end_ms, None, False)], start_ms, end_ms)
        held, complete = await self._look_up(shelf, start_ms, end_ms)
        missing = complete.missing(start_ms, end_ms)
        if not missing:
            return held
        fetched = [await self._fetch(*span, shelf, len(held[0]) > 0) for span in missing]
        return join([held, *fetched], start_ms, end_ms)

    async def _fetch(self, start_ms: int, end_ms: int, shelf: Shelf | None, known: bool) -> Columns:
        """Download a span, and put into the archive what is settled of it, after a failure too."""
        connection = self._connection
        settled_ms = connection.clock.now_ms() - SETTLED_MS - longest_ms(self._timeframe) + 1
        self.young_ms = min(max(start_ms, settled_ms), end_ms)
        limit = connection.page_limit(self._symbol)
        plan = Plan(self._timeframe, start_ms, end_ms, limit, connection.timeframes)
        download = Download(plan, self._page, connection.facts.history_requests, self._tell)
        self._told_s = time.monotonic()
        try:
            await download.run()
        finally:
            columns = join(download.pages, start_ms, end_ms)
            complete = plan.proved.within(start_ms, settled_ms)
            # An exchange that shows no bar at all may be having a bad day.
            # What could not be read is to be asked for again.
            unread = bool(np.isnan(columns[1][ROWS:]).any())
            if shelf is not None and complete and (known or len(columns[0])) and not unread:
                await self._keep(shelf, columns, Spans(complete))
        for span in plan.withheld:
            self._warn_of(*span)
        return columns

    async def _look_up(self, shelf: Shelf, start_ms: int, end_ms: int) -> tuple[Columns, Spans]:
        try:
            held, damage = await asyncio.to_thread(shelf.read, start_ms, end_ms)
        except OSError as error:
            logger.warning("%s: bars could not be read from %s: %s", self._symbol, shelf.folder, error)
            return empty(), Spans()
        for sentence in damage:
            self._connection.notice(sentence)
        return held.columns, held.complete

    async def _keep(self, shelf: Shelf, columns: Columns, complete: Spans) -> None:
        try:
            await asyncio.to_thread(shelf.add, columns, complete)
        except OSError as error:
            # The bars are there; the next run has to ask for them again.
            logger.warning("%s: bars could not be put into %s: %s", self._symbol, shelf.folder, error)

    async def _page(self, ask: Ask) -> Columns:
        connection = self._connection
        request = (self._symbol, ask.timeframe.text, ask.since_ms, ask.limit, self._params, self._extra)
        if LANE.get() is not Lane.HISTORY:
            return await connection.fetch_page(*request)
        async with connection.history_turns:
            return await connection.fetch_page(*request)

    def _tell(self, progress: Progress) -> None:
        if time.monotonic() - self._told_s >= TELL_S:
            self._told_s = time.monotonic()
            share = progress.done_ms / progress.total_ms
            logger.info("%s %s: %d bars, %.0f%%.", self._symbol, self._timeframe, progress.rows, 100 * share)
        if self._report is not None:
            self._report(progress)

    def _warn_of(self, start_ms: int, end_ms: int) -> None:
        first, last = (dt.datetime.fromtimestamp(ms / 1000, dt.UTC) for ms in (start_ms, end_ms))
        sentence = (
            f"{self._connection.account.exchange_id} gives no {self._timeframe} bars of {self._symbol} from "
            f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}, though the market was open: it keeps only the latest. "
            f"Take longer bars for that time, or another exchange."
        )
        logger.warning("%s", sentence)
        self._connection.notice(sentence)
