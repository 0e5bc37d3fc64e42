"""From history to live without a seam: which closed bars may be delivered next, and what must be asked first.

Pure: time and messages are arguments, nothing is read or sent. `Handover` is fed with REST's answers and with the
frames of the stream, in whatever order they come; it releases bars in strictly increasing order, each once, and says
what REST must be asked before anything later may be released, and when.

When a bar is final
-------------------
A frame that says closed is the exchange's own word. Without it REST decides, for each bar of what was asked:

1. two readings, both sent after its end, give the same values (or both no bar at all);
2. neither knows less of the bar than a frame that was seen of it forming;
3. the later answer also holds a later bar, which proves that it looks back on this one; where nothing later exists,
   the question was sent `QUIET_MS` after the bar's end.

A question sent `SURE_MS` after the bar's end decides alone. All times are the exchange's, as this machine knows them;
a clock that is wrong by less than `QUIET_MS` makes bars late, never wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccxtbt.market.timeframes import Timeframe, close_ms, floor_ms

# REST may lag behind the stream just after a close: no question before a bar has been over for this long.
SETTLE_MS = 1_000
# The least time between an answer and the next question about the same bars; it doubles while nothing is decided.
AGAIN_MS = 1_000
AGAIN_MAX_MS = 8_000
# How long after its end a bar is asked for when no later bar shows that REST looks back on it.
QUIET_MS = 5_000
# REST is taken to be settled so long after a bar's end.
SURE_MS = 30_000
# How many delivered bars are remembered, to tell a repetition from a correction.
REMEMBERED = 100

Gaps = Literal["none", "flat", "raise"]


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


class Question(NamedTuple):
    """What to ask of REST, and not before when."""

    span: Span
    at_ms: int


class Answer(NamedTuple):
    """What REST said to a question.

    Attributes
    ----------
    span : Span
        What was asked; the answer is complete within it, so that a bar that is not there does not exist.
    ts_ms : int64[n]
        Opens, increasing.
    ohlcv : float64[5 + k, n]
        Open, high, low, close, volume, extra values.
    sent_ms, received_ms : int
        When the question left and when its answer had come, by the exchange's clock.
    newest_ms : int
        Open of the latest bar that the answer held, also beyond the span.
    """

    span: Span
    ts_ms: NDArray[np.int64]
    ohlcv: NDArray[np.float64]
    sent_ms: int
    received_ms: int
    newest_ms: int


@dataclass
class Counts:
    """What became of a market's live bars.

    Attributes
    ----------
    outage : int
        Bars of which the stream showed nothing and that REST had: they were missed.
    quiet : int
        Bars that do not exist, by REST's word: nobody traded.
    synthetic : int
        Flat bars delivered in their place, history included.
    corrections : int
        Bars that came again with other values after they were final.
    delay_ms, longest_delay_ms : int
        How long after its end the last bar was delivered, and the longest of these, by the exchange's clock.
    """

    outage: int = 0
    quiet: int = 0
    synthetic: int = 0
    corrections: int = 0
    delay_ms: int = 0
    longest_delay_ms: int = 0


class _Reading(NamedTuple):
    """What the last answer said of bars that are not final yet."""

    span: Span
    sent_ms: int
    received_ms: int
    rows: dict[int, Bar]


@dataclass
class Handover:
    """The sequence of closed bars of one market and timeframe.

    Parameters
    ----------
    timeframe : Timeframe
        Length of the bars.
    gaps : {'none', 'flat', 'raise'}
        What to make of bars that do not exist: nothing; a flat bar at the last close; an end, told by `gap`.
    streamed : bool
        Whether frames are expected, so that a bar that only REST has was missed.

    Attributes
    ----------
    last_ms : int or None
        Open of the last bar released; None before the first.
    corrections : list of (Bar or None, Bar)
        Bars that came again with other values, as (kept, as it came); None for a bar that had been found not to exist
        when later ones were delivered. The owner empties it when it has reported them.
    gap : Span or None
        With ``gaps='raise'``: the first bars that do not exist; nothing is released any more.
    counts : Counts
        What became of the bars.
    """

    timeframe: Timeframe
    gaps: Gaps = "none"
    streamed: bool = True
    last_ms: int | None = None
    corrections: list[tuple[Bar | None, Bar]] = field(default_factory=list)
    gap: Span | None = None
    counts: Counts = field(default_factory=Counts)
    _closed: dict[int, Bar] = field(default_factory=dict)
    # The frame of each undecided bar that knows most of it.
    _seen: dict[int, Bar] = field(default_factory=dict)
    _delivered: dict[int, Bar] = field(default_factory=dict)
    _checked_ms: int | None = None
    _live_ms: int = 0
    _forming_ms: int = -1
    _over_ms: int = -1
    _reading: _Reading | None = None
    _again_ms: int = 0
    _pause_ms: int = AGAIN_MS
    # Frames and REST measure alike; learned to be false where REST's settled values stay behind a frame's.
    _alike: bool = True

    def frame(self, bar: Bar, closed: bool) -> None:
        """Take a bar from the stream."""
        ts_ms = bar.ts_ms
        if ts_ms > self._forming_ms:
            self._forming_ms = ts_ms
        if closed:
            self._keep(bar)
        elif self.last_ms is None or ts_ms > self.last_ms:
            seen = self._seen.get(ts_ms)
            if seen is None or bar.volume >= seen.volume:
                self._seen[ts_ms] = bar

    def over(self, end_ms: int) -> None:
        """Note that all bars that open before `end_ms` are over, by the exchange's clock."""
        self._over_ms = max(self._over_ms, end_ms)

    def overdue(self, now_ms: int, grace_ms: int) -> bool:
        """Note it if a bar that was seen forming ended `grace_ms` ago and was never said to be closed; say whether."""
        forming = self._forming_ms
        if forming < 0 or forming in self._closed or (self.last_ms is not None and forming <= self.last_ms):
            return False
        end_ms = close_ms(self.timeframe, forming)
        if end_ms + grace_ms > now_ms or end_ms <= self._over_ms:
            return False
        self.over(end_ms)
        return True

    def history(self, last: Bar | None, end_ms: int, live_ms: int) -> None:
        """Note what was delivered as a block.

        Parameters
        ----------
        last : Bar or None
            The last bar of the block.
        end_ms : int
            Up to where the block is complete.
        live_ms : int
            From where on the stream is to show bars; what lies before it is history still to be read.
        """
        if last is not None:
            self.last_ms = last.ts_ms
            self._delivered[last.ts_ms] = last
            for known in [ts_ms for ts_ms in self._closed if ts_ms <= last.ts_ms]:
                del self._closed[known]
        self._checked_ms, self._live_ms = end_ms, live_ms
        self.over(live_ms)

    def rest(self, answer: Answer) -> None:
        """Take REST's answer: what it makes final may be released, the rest must be read again."""
        start_ms, end_ms = answer.span
        expected = self.expected_ms()
        if expected is not None:
            # A hole in what is known must not be jumped.
            if start_ms > expected:
                return
            start_ms = expected
        rows = _rows(answer)
        sure_ms = min(end_ms, floor_ms(self.timeframe, answer.sent_ms - SURE_MS))
        final_ms = start_ms
        if sure_ms > start_ms:
            self._settle(start_ms, sure_ms, rows)
            final_ms = sure_ms
        agreed_ms, quiet = self._agreed(final_ms, rows, answer)
        if agreed_ms > final_ms:
            self._settle(final_ms, agreed_ms, rows)
            final_ms = agreed_ms
        if final_ms > start_ms or quiet:
            self._pause_ms = AGAIN_MS
        elif self._reading is not None and self._reading.span.start_ms == start_ms:
            self._pause_ms = min(2 * self._pause_ms, AGAIN_MAX_MS)
        self._again_ms = answer.received_ms + self._pause_ms
        if quiet:
            self._again_ms = max(self._again_ms, close_ms(self.timeframe, final_ms) + QUIET_MS)
        undecided = {ts_ms: row for ts_ms, row in rows.items() if ts_ms >= final_ms}
        self._reading = _Reading(Span(final_ms, end_ms), answer.sent_ms, answer.received_ms, undecided)

    def complete(self, until_ms: int) -> None:
        """Note that whoever gives the bars has given all that open before `until_ms`."""
        expected = self.expected_ms()
        if expected is not None and until_ms > expected:
            known = sum(expected <= ts_ms < until_ms for ts_ms in self._closed)
            self.counts.quiet += max(0, self._slots(expected, until_ms) - known)
            self._checked_ms = until_ms

    def expected_ms(self) -> int | None:
        """Return the open of the first bar about which nothing is known; None before anything was delivered."""
        if self.last_ms is None:
            return self._checked_ms
        after = close_ms(self.timeframe, self.last_ms)
        return after if self._checked_ms is None else max(after, self._checked_ms)

    def release(self) -> list[Bar]:
        """Return the bars that may be delivered now, oldest first; each is returned once."""
        released: list[Bar] = []
        for ts_ms in sorted(self._closed):
            expected = self.expected_ms()
            if expected is not None and ts_ms > expected:
                break
            if self.gaps != "none" and not self._bridge(ts_ms, released):
                return released
            self._deliver(self._closed.pop(ts_ms), released)
        if self.gaps != "none" and self._checked_ms is not None:
            self._bridge(self._checked_ms, released)
        return released

    def missing(self) -> Span | None:
        """Return the span that REST must answer before anything later may be released; None if nothing waits.

        A frame of a later bar proves that the bars before it are over; whether they exist, and with which values,
        only REST can tell.
        """
        expected = self.expected_ms()
        known = min(self._closed, default=None)
        end_ms = known if known is not None else max(self._forming_ms, self._over_ms)
        if expected is None or end_ms <= expected:
            return None
        return Span(expected, end_ms)

    def question(self) -> Question | None:
        """Return what to ask of REST next, and when; None if nothing waits for it."""
        span = self.missing()
        if span is None:
            return None
        return Question(span, max(close_ms(self.timeframe, span.start_ms) + SETTLE_MS, self._again_ms))

    def next_forming(self, bar: Bar) -> bool:
        """Whether `bar`, seen forming, follows all bars released, so that it may be shown as the one that forms."""
        return (self.last_ms is None or bar.ts_ms > self.last_ms) and not self._closed and self.missing() is None

    def _agreed(self, start_ms: int, rows: dict[int, Bar], answer: Answer) -> tuple[int, bool]:
        """Return up to where two readings agree well enough, and whether only time is wanting from there on."""
        last = self._reading
        read_again = last is not None and answer.sent_ms >= last.received_ms + AGAIN_MS
        before = last.rows if last is not None else {}
        at_ms, end_ms = start_ms, answer.span.end_ms
        opens = sorted(ts_ms for ts_ms in {*rows, *before, *self._closed} if start_ms <= ts_ms < end_ms)
        for nearest in [*opens, end_ms]:
            while at_ms < end_ms and at_ms <= nearest:
                # Where an exchange keeps another grid than ours, its next bar ends a stretch without bars early.
                after_ms = close_ms(self.timeframe, at_ms)
                if at_ms < nearest < after_ms:
                    after_ms = nearest
                if after_ms > answer.sent_ms:
                    return at_ms, False
                if at_ms not in self._closed:
                    covered = (
                        last is not None
                        and read_again
                        and last.span.start_ms <= at_ms < last.span.end_ms
                        and last.sent_ms >= after_ms + SETTLE_MS
                    )
                    row = rows.get(at_ms)
                    if not covered or row != before.get(at_ms) or self._behind(row, self._seen.get(at_ms)):
                        return at_ms, False
                    if answer.newest_ms < after_ms and answer.sent_ms < after_ms + QUIET_MS:
                        return at_ms, True
                at_ms = after_ms
        return min(at_ms, end_ms), False

    def _behind(self, row: Bar | None, seen: Bar | None) -> bool:
        """Whether REST knows less of a bar than a frame of it that was seen."""
        if seen is None or not self._alike:
            return False
        return row is None or row.volume < seen.volume or row.high < seen.high or row.low > seen.low

    def _settle(self, start_ms: int, end_ms: int, rows: dict[int, Bar]) -> None:
        """Take the bars of a span from REST as final."""
        live_ms = max(start_ms, self._live_ms)
        absent = self._slots(live_ms, end_ms)
        for ts_ms in {*rows, *self._closed}:
            if not start_ms <= ts_ms < end_ms:
                continue
            absent -= ts_ms >= live_ms
            if ts_ms in self._closed:
                # The stream's own word stands, whatever a lagging answer holds.
                continue
            row, seen = rows[ts_ms], self._seen.get(ts_ms)
            if self._behind(row, seen):
                self._alike = False
            if seen is None and self.streamed and ts_ms >= live_ms:
                self.counts.outage += 1
            self._keep(row)
        self.counts.quiet += max(0, absent)
        self._checked_ms = max(end_ms, self._checked_ms or end_ms)

    def _slots(self, start_ms: int, end_ms: int) -> int:
        """Return how many bars fit in a span."""
        if self.timeframe.ms is not None:
            return -(-(end_ms - start_ms) // self.timeframe.ms)
        slots = 0
        while start_ms < end_ms:
            start_ms = close_ms(self.timeframe, start_ms)
            slots += 1
        return slots

    def _bridge(self, until_ms: int, released: list[Bar]) -> bool:
        """Deal with the bars before `until_ms` that do not exist; say whether later ones may follow."""
        while self.last_ms is not None and (at_ms := close_ms(self.timeframe, self.last_ms)) < until_ms:
            if self.gaps == "raise":
                self.gap = self.gap or Span(at_ms, until_ms)
                return False
            last = self._delivered[self.last_ms]
            price, nothing = last.close, (0.0,) * len(last.extra)
            self.counts.synthetic += 1
            self._deliver(Bar(at_ms, price, price, price, price, 0.0, Origin.SYNTHETIC, nothing), released)
        return True

    def _deliver(self, bar: Bar, released: list[Bar]) -> None:
        released.append(bar)
        self.last_ms = bar.ts_ms
        self._delivered[bar.ts_ms] = bar
        if len(self._delivered) > REMEMBERED:
            del self._delivered[next(iter(self._delivered))]
        if self._seen:
            for ts_ms in [ts_ms for ts_ms in self._seen if ts_ms <= bar.ts_ms]:
                del self._seen[ts_ms]

    def _keep(self, bar: Bar) -> None:
        """Take a final bar: the first word counts, a later, different one is a correction."""
        known: Bar | None
        if self.last_ms is None or bar.ts_ms > self.last_ms:
            known = self._closed.setdefault(bar.ts_ms, bar)
        elif bar.ts_ms >= next(iter(self._delivered)):
            known = self._delivered.get(bar.ts_ms)
        else:
            return
        if known is None or known[1:6] != bar[1:6]:
            self.counts.corrections += 1
            self.corrections.append((known, bar))


def _rows(answer: Answer) -> dict[int, Bar]:
    """Return the bars of an answer's span by their opens."""
    first, end = np.searchsorted(answer.ts_ms, answer.span)
    return {
        # One NaN for all, so that bars without an extra value are equal to themselves.
        ts_ms: Bar(
            ts_ms,
            opened,
            high,
            low,
            close,
            volume,
            Origin.REST,
            tuple(math.nan if math.isnan(value) else value for value in extra),
        )
        for ts_ms, (opened, high, low, close, volume, *extra) in zip(
            answer.ts_ms[first:end].tolist(), answer.ohlcv[:, first:end].T.tolist(), strict=True
        )
    }
