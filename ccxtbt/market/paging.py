"""Which pages of bars to ask for next, and what the answers prove. No I/O: answers are arguments.

ccxt promises the bars from `since` on, oldest first, at most `limit`. Exchanges keep that promise in different ways,
and some do not. An answer is therefore taken for no more than it proves:

- The bars from its first to its last are all there are between these two.
- Some exchanges answer for a window of `limit` bars from `since` on, so an empty answer may mean a silent window. It
  proves no more than the longest distance at which a bar was ever seen from its `since`: every window is as long.
- A page that holds as many bars as any before may have been cut. Cut at its end, the next page goes on. Cut at its
  beginning (an exchange that keeps the newest bars of a window), the part before its first bar is asked for again.
- Where bars begin far later than asked for, one page of longer bars tells whether there was a market before. If not,
  years without data cost one request; if so, the exchange keeps those bars back, which is said, not passed over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from ccxtbt.market.spans import Span, Spans
from ccxtbt.market.timeframes import DAY_MS, Timeframe, close_ms

# No exchange of ccxt has shorter pages, by ccxt's own table of features: an answer with fewer rows was not cut, and no
# window is shorter.
SHORTEST_PAGE = 100


class Kind(Enum):
    """What an ask is for."""

    PAGE = "bars that are wanted"
    AGAIN = "the part before the first bar of a page that may have been cut there"
    PROBE = "longer bars, to learn when the market began"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes
    ----------
    timeframe : Timeframe
        Length of the bars; not the wanted one for a probe.
    since_ms, limit : int
        As ccxt takes them.
    until_ms : int
        End of the part of the plan that this ask is to fill; it may bring more, and it may bring less.
    kind : Kind
    """

    timeframe: Timeframe
    since_ms: int
    until_ms: int
    limit: int
    kind: Kind = Kind.PAGE


def shortest_ms(timeframe: Timeframe) -> int:
    """Return the length of the shortest bar: of a February, where the calendar decides."""
    return timeframe.ms or (28 * timeframe.months if timeframe.unit == "M" else 365 * timeframe.amount) * DAY_MS


def longest_ms(timeframe: Timeframe) -> int:
    """Return the length of the longest bar."""
    return timeframe.ms or (31 * timeframe.months if timeframe.unit == "M" else 366 * timeframe.amount) * DAY_MS


class Plan:
    """The pages of one span.

    Call `next` for what may be asked now, in any number at once, and `answered` with each answer, in any order; when
    `next` gives None and no answer is outstanding, all is proved that can be.

    Parameters
    ----------
    timeframe : Timeframe
        Length of the bars.
    start_ms, end_ms : int
        Opens wanted: from `start_ms` on and before `end_ms`.
    limit : int
        Rows to ask for; the exchange may give fewer.
    listed : iterable of Timeframe
        What the exchange offers; longer ones serve for the probe.

    Attributes
    ----------
    proved : Spans
        Where all bars that exist have been in answers.
    withheld : Spans
        Where there was a market, but the exchange gives no bars.
    """

    def __init__(
        self, timeframe: Timeframe, start_ms: int, end_ms: int, limit: int, listed: Iterable[Timeframe] = ()
    ) -> None:
        self.timeframe = timeframe
        self.start_ms = start_ms
        self.end_ms = end_ms
        self.proved = Spans()
        self.withheld = Spans()
        self._limit = limit
        self._shortest_ms = shortest_ms(timeframe)
        self._longer = sorted(
            (each for each in listed if each.nominal_ms > timeframe.nominal_ms), key=lambda each: each.nominal_ms
        )
        self._todo = Spans([(start_ms, end_ms)])
        self._again = Spans()
        self._parked = Spans()
        self._flying = 0
        # The most rows of a page, and the longest distance of a bar from the `since` that brought it.
        self._rows = min(limit, SHORTEST_PAGE)
        self._reach_ms = self._rows * self._shortest_ms
        # How far a page is expected to go.
        self._step_ms = limit * timeframe.nominal_ms
        self._seen = False
        self._blanks = 0
        self._look_at_ms: int | None = None
        self._probe: Ask | None = None
        self._probed = False
        # Bars that begin here after a probe told of earlier ones: who asks before it and gets these, gets no others.
        self._suspect_ms = 0

    @property
    def pages_left(self) -> int:
        """About how many asks are still to come."""
        return -(-self._todo.total_ms // self._step_ms) + len(self._again) + (self._probe is not None)

    def next(self) -> Ask | None:
        """Return what to ask now; None if nothing may be asked before an answer comes, or if nothing is left."""
        ask = self._choose()
        if ask is not None:
            self._flying += 1
        return ask

    def _choose(self) -> Ask | None:
        if self._probe is not None:
            ask, self._probe = self._probe, None
            return ask
        for start_ms, end_ms in self._again:
            self._again.cut(start_ms, end_ms)
            return Ask(self.timeframe, start_ms, end_ms, self._rows_between(start_ms, end_ms), Kind.AGAIN)
        if not self._todo or (self._flying and not self._seen and self._blanks < 2):
            # One page at a time until one has shown bars: years before a market began are not asked for side by side.
            return None
        start_ms, end_ms = self._place()
        until_ms = min(end_ms, start_ms + self._step_ms)
        self._todo.cut(start_ms, until_ms)
        return Ask(self.timeframe, start_ms, until_ms, self._rows_between(start_ms, end_ms))

    def _place(self) -> Span:
        """Return where the next page begins, and the end of what is open there."""
        if self._seen or self._blanks != 1:
            return next(iter(self._todo))
        # The first page was empty: how exchanges answer is learnt where bars are most likely.
        if self._look_at_ms is not None:
            for span in self._todo.within(self._look_at_ms, self.end_ms):
                return span
        *_, (start_ms, end_ms) = self._todo
        return max(start_ms, end_ms - self._limit * self._shortest_ms), end_ms

    def _rows_between(self, start_ms: int, end_ms: int) -> int:
        return min(self._limit, -(-(end_ms - start_ms) // self._shortest_ms))

    def answered(self, ask: Ask, ts_ms: NDArray[np.int64] | None) -> None:
        """Take the answer to an ask.

        Parameters
        ----------
        ask : Ask
            As `next` gave it.
        ts_ms : int64[n] or None
            Opens of the bars, oldest first; None: a probe that failed.
        """
        self._flying -= 1
        if ask.kind is Kind.PROBE or ts_ms is None:
            self._take_probe(ask, ts_ms)
            return
        seen = ts_ms[ts_ms.searchsorted(ask.since_ms) :]
        if len(seen):
            self._take_page(ask, int(seen[0]), int(seen[-1]), len(seen))
        else:
            self._take_blank(ask)
        for span in self.proved.missing(ask.since_ms, ask.until_ms):
            self._reopen(*span)

    def _reopen(self, start_ms: int, end_ms: int) -> None:
        """Put back what is not proved and waits for nothing else."""
        rest = Spans([(start_ms, end_ms)])
        for waiting in (self._again, self._parked, self.withheld):
            for span in waiting.within(start_ms, end_ms):
                rest.cut(*span)
        for span in rest:
            self._todo.add(*span)

    def _prove(self, start_ms: int, end_ms: int) -> None:
        start_ms, end_ms = max(start_ms, self.start_ms), min(end_ms, self.end_ms)
        self.proved.add(start_ms, end_ms)
        for waiting in (self._todo, self._again):
            waiting.cut(start_ms, end_ms)

    def _sure_ms(self, ask: Ask) -> int:
        """Return how far from `since` an answer to this ask tells of every bar, if it was not cut."""
        return min(self._reach_ms, ask.limit * self._shortest_ms)

    def _take_blank(self, ask: Ask) -> None:
        self._prove(ask.since_ms, ask.since_ms + self._sure_ms(ask))
        if self._seen or self._sure_ms(ask) >= self.end_ms - self.start_ms:
            return
        self._blanks += 1
        if self._blanks == 1:
            self._want_probe(self.start_ms, self.end_ms)

    def _take_page(self, ask: Ask, first_ms: int, last_ms: int, rows: int) -> None:
        maybe_cut = rows >= self._rows
        self._seen = True
        self._rows = max(self._rows, rows)
        self._reach_ms = max(self._reach_ms, last_ms - ask.since_ms + 1)
        sure_ms = close_ms(self.timeframe, last_ms)
        if not maybe_cut:
            sure_ms = max(sure_ms, ask.since_ms + self._sure_ms(ask))
        if ask.limit == self._limit:
            self._step_ms = sure_ms - ask.since_ms
        self._prove(first_ms, sure_ms)
        if first_ms > ask.since_ms:
            self._judge_head(ask, first_ms, rows, maybe_cut)

    def _judge_head(self, ask: Ask, first_ms: int, rows: int, maybe_cut: bool) -> None:
        """Decide on the time before the first bar of a page."""
        start_ms, head_ms = ask.since_ms, first_ms - ask.since_ms
        # A cut window loses its first bars only where the exchange gives fewer than asked for.
        cut_there = maybe_cut and rows < ask.limit
        in_vain = ask.kind is Kind.AGAIN and first_ms >= ask.until_ms
        far = maybe_cut and head_ms >= self._limit * self._shortest_ms
        beyond = head_ms >= ask.limit * longest_ms(self.timeframe)
        if start_ms < self._suspect_ms <= first_ms:
            self.withheld.add(start_ms, self._suspect_ms)
            self._todo.cut(start_ms, self._suspect_ms)
            self._prove(self._suspect_ms, first_ms)
        elif head_ms < self._shortest_ms:
            self._prove(start_ms, first_ms)
        elif cut_there and not beyond and not in_vain:
            self._again.add(start_ms, first_ms)
            self._todo.cut(start_ms, first_ms)
        elif (cut_there or in_vain or far) and self._want_probe(start_ms, first_ms):
            self._parked.add(start_ms, first_ms)
            self._todo.cut(start_ms, first_ms)
        else:
            self._prove(start_ms, first_ms)

    def _want_probe(self, start_ms: int, end_ms: int) -> bool:
        """Have longer bars asked for over a span, once in a plan; return whether they will be."""
        if self._probed or not self._longer:
            return False
        span_ms = end_ms - start_ms
        # So few that no exchange cuts the answer.
        most = min(self._limit, SHORTEST_PAGE)
        fits = (each for each in self._longer if span_ms // shortest_ms(each) + 3 <= most)
        longer = next(fits, self._longer[-1])
        if span_ms < 2 * longest_ms(longer):
            return False
        self._probed = True
        # One bar earlier: the one that holds the beginning opened before it.
        since_ms = max(start_ms - longest_ms(longer), 0)
        limit = min(most, span_ms // shortest_ms(longer) + 3)
        self._probe = Ask(longer, since_ms, end_ms, limit, Kind.PROBE)
        return True

    def _take_probe(self, ask: Ask, ts_ms: NDArray[np.int64] | None) -> None:
        start_ms = next((span[0] for span in self._parked), self.start_ms)
        opens = [] if ts_ms is None else [int(ts) for ts in ts_ms if ask.since_ms <= ts < ask.until_ms]
        if ts_ms is not None and not opens:
            # Neither short bars nor long ones: no market yet.
            sure_ms = ask.since_ms + ask.limit * shortest_ms(ask.timeframe)
            self._prove(start_ms, min(sure_ms, ask.until_ms))
            if sure_ms < ask.until_ms:
                self._probe = replace(ask, since_ms=sure_ms)
            elif self._parked:
                self._parked = Spans()
            return
        if opens:
            self._prove(start_ms, opens[0])
        if not self._parked:
            self._look_at_ms = opens[0] + longest_ms(ask.timeframe) if opens else None
            return
        self._parked = Spans()
        # A long bar that lies there as a whole was traded there; one that overlaps the beginning may have been before.
        if any(start_ms <= ts and ts + longest_ms(ask.timeframe) <= ask.until_ms for ts in opens):
            self._suspect_ms = ask.until_ms
            for span in self.proved.missing(max(start_ms, opens[0]), ask.until_ms):
                self._reopen(*span)
        else:
            self._prove(start_ms, ask.until_ms)
