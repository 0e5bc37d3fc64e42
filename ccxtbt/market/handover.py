"""From history to live without a seam: which closed bars may be delivered next, and what must be asked first.

Pure: time and messages are arguments, nothing is read or sent. `Handover` is fed with the rows of REST answers and
with the frames of the stream, in whatever order they come; it releases bars in strictly increasing order, each once,
and names the span that REST must fill before anything later may be released.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccxtbt.market.timeframes import Timeframe, next_ms


class Origin(IntEnum):
    """Where a bar's values come from."""

    REST = 0
    WS = 1
    TRADES = 2
    SYNTHETIC = 3


class Bar(NamedTuple):
    """A closed bar: open time in ms, prices, volume, origin, and what some feeds want beside.

    Extra values from REST are those that were asked for; from a frame, all of `ccxtbt.exchange.facts.EXTRA_LINES`, or
    none.
    """

    ts_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    origin: Origin
    extra: tuple[float, ...] = ()


class Span(NamedTuple):
    """Bars to ask of REST: those that open at `start_ms` or later and before `end_ms`."""

    start_ms: int
    end_ms: int


@dataclass
class Handover:
    """The sequence of closed bars of one market and timeframe.

    A bar is final when a frame says closed, or when REST gave it after its end. The first word counts: a later,
    different one is counted in `corrections` and not delivered.

    Attributes
    ----------
    timeframe : Timeframe
        Length of the bars.
    last_ms : int or None
        Open of the last bar released; None before the first.
    corrections : list of (Bar, Bar)
        Bars that came again with other values: (as kept, as it came). The owner empties it when it has reported them.
    """

    timeframe: Timeframe
    last_ms: int | None = None
    corrections: list[tuple[Bar, Bar]] = field(default_factory=list)
    _closed: dict[int, Bar] = field(default_factory=dict)
    _checked_ms: int | None = None
    _forming_ms: int = -1
    _last: Bar | None = None

    def frame(self, bar: Bar, closed: bool) -> None:
        """Take a bar from the stream."""
        if bar.ts_ms > self._forming_ms:
            self._forming_ms = bar.ts_ms
        if closed:
            self._keep(bar)

    def rest(self, span: Span, ts_ms: NDArray[np.int64], ohlcv: NDArray[np.float64]) -> None:
        """Take REST's answer for `span`: every bar of the span that exists, all of them over.

        Parameters
        ----------
        span : Span
            What was asked; the answer is complete within it, so that a bar that is not there does not exist.
        ts_ms : int64[n]
            Opens, increasing.
        ohlcv : float64[5 + k, n]
            Open, high, low, close, volume, extra values.
        """
        low, high = np.searchsorted(ts_ms, [span.start_ms, span.end_ms])
        for i in range(int(low), int(high)):
            opened, highest, lowest, closed, volume, *extra = ohlcv[:, i].tolist()
            self._keep(Bar(int(ts_ms[i]), opened, highest, lowest, closed, volume, Origin.REST, tuple(extra)))
        # A hole in what is known must not be jumped: only an answer that joins what was checked before extends it.
        expected = self.expected_ms()
        if expected is None or span.start_ms <= expected:
            self._checked_ms = max(span.end_ms, self._checked_ms or span.end_ms)

    def history(self, ts_ms: NDArray[np.int64], span_end_ms: int) -> None:
        """Note that bars up to `ts_ms[-1]` were delivered as a block, complete up to `span_end_ms`."""
        if len(ts_ms):
            self.last_ms = int(ts_ms[-1])
        self._checked_ms = span_end_ms
        for old in [known for known in self._closed if self.last_ms is not None and known <= self.last_ms]:
            del self._closed[old]

    def expected_ms(self) -> int | None:
        """Return the open of the first bar about which nothing is known; None before anything was delivered."""
        if self.last_ms is None:
            return self._checked_ms
        after = next_ms(self.timeframe, self.last_ms)
        return after if self._checked_ms is None else max(after, self._checked_ms)

    def release(self) -> list[Bar]:
        """Return the bars that may be delivered now, oldest first; each is returned once."""
        released: list[Bar] = []
        for ts_ms in sorted(self._closed):
            expected = self.expected_ms()
            if expected is not None and ts_ms > expected:
                break
            bar = self._closed.pop(ts_ms)
            released.append(bar)
            self.last_ms = ts_ms
            self._last = bar
        return released

    def missing(self) -> Span | None:
        """Return the span that REST must answer before anything later may be released; None if nothing waits.

        A frame of a later bar proves that the bars before it are over; whether they exist, only REST can tell.
        """
        expected = self.expected_ms()
        known = min(self._closed, default=None)
        end_ms = known if known is not None else self._forming_ms
        if expected is None or end_ms <= expected:
            return None
        return Span(expected, end_ms)

    def overdue(self, now_ms: int, grace_ms: int) -> Span | None:
        """Return the span up to a bar that was seen forming, ended `grace_ms` ago, and was never said to be closed."""
        forming = self._forming_ms
        if forming < 0 or forming in self._closed or (self.last_ms is not None and forming <= self.last_ms):
            return None
        end_ms = next_ms(self.timeframe, forming)
        expected = self.expected_ms()
        if end_ms + grace_ms > now_ms or expected is None or expected >= end_ms:
            return None
        return Span(expected, end_ms)

    def _keep(self, bar: Bar) -> None:
        if self.last_ms is not None and bar.ts_ms <= self.last_ms:
            if self._last is not None and bar.ts_ms == self._last.ts_ms and bar[1:6] != self._last[1:6]:
                self.corrections.append((self._last, bar))
            return
        known = self._closed.setdefault(bar.ts_ms, bar)
        if known[1:6] != bar[1:6]:
            self.corrections.append((known, bar))
