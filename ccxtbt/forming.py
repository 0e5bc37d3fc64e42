"""The bar that is still forming, in the last place of a feed's lines until it is closed, as in a replay."""

from __future__ import annotations

from typing import Any, NamedTuple

from ccxtbt._lines import Cursor, num_from_ms
from ccxtbt.bulkfeed import STANDARD_LINES

Row = list[float]


class Glimpse(NamedTuple):
    """A forming bar as it was seen: its stamp, its values, and the closed bar (its open in ms) that it follows."""

    stamp_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    after_ms: int | None
    extra: tuple[float, ...] = ()


class FormingBar:
    """Shows the forming bar of a feed: the same length, other values, until the closed bar takes its place.

    It stands between cerebro and the feed's own steps. Where another data has an earlier bar, cerebro puts back what
    it has just got: a bar that was changed in its place must then be what it was before, not be gone, or every
    indicator on it would count one bar too many from then on.

    Parameters
    ----------
    feed : BulkFeed
        Whose lines these are.
    """

    def __init__(self, feed: Any) -> None:
        self._feed = feed
        self._news: Glimpse | None = None
        self._shown = False
        self._before: Row | None = None
        self._put_back: tuple[Row, bool] | None = None

    @property
    def shown(self) -> bool:
        """Whether the last bar that the strategy sees is forming."""
        return self._shown and len(self._feed) >= self._feed.buflen()

    @property
    def waiting(self) -> bool:
        """Whether there is something to show."""
        return self._put_back is not None or self._fits()

    def see(self, glimpse: Glimpse) -> None:
        """Take note of the forming bar; what was not shown yet is not shown any more."""
        self._news = glimpse

    def next(self, datamaster: Any = None, ticks: bool = True) -> Any:
        """Move on, or change the last bar: what is asked of a data in backtrader's loop."""
        feed = self._feed
        self._before = None
        if len(feed) < feed.buflen():
            return Cursor.next(feed, datamaster, ticks)
        if self._put_back is not None:
            row, self._put_back = self._put_back, None
            self._replace(*row)
        elif feed.pending:
            before = self._take_off() if self._shown else None
            ret = Cursor.next(feed, None, ticks)
            if not ret:
                if before is not None:
                    feed._updatebar(before, forward=True)
                return ret
            self._before, self._shown = before, False
        elif self._news is not None and self._fits():
            self._replace(self._row(self._news), True)
            self._news = None
        else:
            return Cursor.next(feed, datamaster, ticks)
        if datamaster is not None and feed.lines.datetime[0] > datamaster.lines.datetime[0]:
            self.rewind()
            return False
        if ticks:
            feed._tick_fill(force=True)
        return True

    def rewind(self, size: int = 1) -> None:
        """Put back what `next` has brought: a bar, or the change of one."""
        if self._before is None:
            Cursor.rewind(self._feed, size)
            return
        self._put_back = self._take_off(), self._shown
        self._feed._updatebar(self._before, forward=True)
        self._before, self._shown = None, True

    def _replace(self, row: Row, forming: bool) -> None:
        self._before = self._take_off() if self._shown else None
        self._feed._updatebar(row, forward=True)
        self._shown = forming

    def _take_off(self) -> Row:
        row = [line[0] for line in self._feed.itersize()]
        self._feed.backwards(force=True)
        return row

    def _fits(self) -> bool:
        """Whether the bars before the forming one have all come."""
        return self._news is not None and self._news.after_ms == self._feed.given_ms

    def _row(self, glimpse: Glimpse) -> Row:
        values = {**glimpse._asdict(), "datetime": num_from_ms(glimpse.stamp_ms)}
        values |= zip(self._feed.getlinealiases()[STANDARD_LINES:], glimpse.extra, strict=False)
        return [values.get(name, float("nan")) for name in self._feed.getlinealiases()]
