"""Live bars on their way into the archive, so that the next run need not ask for them."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from ccxtbt.market.handover import Bar, Origin
from ccxtbt.market.history import SETTLED_MS, Columns
from ccxtbt.market.paging import longest_ms
from ccxtbt.market.spans import Spans
from ccxtbt.market.timeframes import Timeframe, close_ms

if TYPE_CHECKING:
    from ccxtbt.market.archive import Shelf

logger = logging.getLogger(__name__)

# A file is written whole: not with each bar. What a process that dies had not written is asked of REST again.
WRITE_MS = 900_000


class Keeper:
    """The live bars of one market until they are old enough to be kept.

    A bar that has just become final may still be corrected: it is kept when it has been over for a minute, with what
    was told of it last. A flat bar stands for a span that is known to be empty; a bar of which a value is not known is
    left to the next run. Bars made of trades have no place here, for the archive holds the exchange's own.

    Parameters
    ----------
    shelf : Shelf
        Where they go.
    timeframe : Timeframe
        Length of the bars.
    now_ms : callable
        The exchange's time.
    """

    def __init__(self, shelf: Shelf, timeframe: Timeframe, now_ms: Callable[[], int]) -> None:
        self._shelf = shelf
        self._timeframe = timeframe
        self._now_ms = now_ms
        self._rows: dict[int, tuple[float, ...]] = {}
        # Where nothing is missing from the rows; up to where that is known.
        self._complete = Spans()
        self._until_ms = 0
        self._written_ms = now_ms()
        self._lock = asyncio.Lock()

    def begin(self, columns: Columns, from_ms: int, until_ms: int) -> None:
        """Take what a download gave and left to be kept: its bars from `from_ms` on, complete up to `until_ms`."""
        ts_ms, rows = columns
        first = int(ts_ms.searchsorted(from_ms))
        self._rows |= zip(ts_ms[first:].tolist(), map(tuple, rows[:, first:].T.tolist()), strict=True)
        self._complete.add(from_ms, until_ms)
        self._until_ms = until_ms

    def take(self, bars: Iterable[Bar]) -> None:
        """Take delivered bars: nothing is missing between them."""
        for bar in bars:
            end_ms = close_ms(self._timeframe, bar.ts_ms)
            if not any(map(math.isnan, bar.extra)):
                self._complete.add(self._until_ms, end_ms)
                if bar.origin is not Origin.SYNTHETIC:
                    self._rows[bar.ts_ms] = (*bar[1:6], *bar.extra)
            self._until_ms = end_ms

    def correct(self, bar: Bar) -> None:
        """Take what is told of a bar after it was final."""
        if any(map(math.isnan, bar.extra)):
            return
        self._rows[bar.ts_ms] = (*bar[1:6], *bar.extra)
        self._complete.add(bar.ts_ms, close_ms(self._timeframe, bar.ts_ms))

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return self._now_ms() - self._written_ms >= WRITE_MS and not self._lock.locked()

    async def write(self) -> None:
        """Put what is settled into the archive; a failure costs a warning."""
        async with self._lock:
            now_ms = self._written_ms = self._now_ms()
            settled_ms = now_ms - SETTLED_MS - longest_ms(self._timeframe) + 1
            settled = Spans((start_ms, min(end_ms, settled_ms)) for start_ms, end_ms in self._complete)
            kept = sorted(ts_ms for ts_ms in self._rows if ts_ms < settled_ms)
            if not kept:
                # As with a download: an exchange that shows no bar at all may be having a bad day.
                return
            rows = [self._rows.pop(ts_ms) for ts_ms in kept]
            for span in settled:
                self._complete.cut(*span)
            columns = np.array(kept, np.int64), np.ascontiguousarray(np.array(rows, np.float64).T)
            try:
                await asyncio.to_thread(self._shelf.add, columns, settled)
            except OSError as error:
                logger.warning("Live bars could not be put into %s: %s", self._shelf.folder, error)
