"""When markets without a stream are asked for their bars: just after each close, one market after the other."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from ccxtbt.market.handover import SETTLE_MS
from ccxtbt.market.timeframes import Timeframe, floor_ms, next_ms

# Multiples of it, taken modulo 1, lie evenly in [0, 1) however many there are (Knuth, "The Art of Computer
# Programming", 6.4): a market keeps its place when others join.
GOLDEN = (math.sqrt(5) - 1) / 2
# A bar is read twice.
READINGS = 2.0
# Share of the budget left that polls may take; orders and history have the rest.
SHARE = 0.5
# The window grows no further than this when next to nothing of the budget is left.
LEAST_LEFT = 0.1


@dataclass(frozen=True, slots=True)
class Place:
    """A market's place among those that are polled, in [0, 1)."""

    at: float


def window_ms(markets: int, rate: float, weight: float, left: float) -> int:
    """Return over how many ms the polls of all markets must be spread.

    Parameters
    ----------
    markets : int
        How many are polled.
    rate : float
        Weight that the exchange allows in a second; infinite where no limit is known.
    weight : float
        Of one request.
    left : float
        Share of the budget that is not used now, from 0 to 1.
    """
    return math.ceil(1000 * markets * READINGS * weight / (rate * SHARE * max(left, LEAST_LEFT)))


def next_poll_ms(timeframe: Timeframe, place: Place, spread_ms: int, last_ms: int, longest_ms: int | None) -> int:
    """Return when to poll next, by the exchange's clock.

    Polls follow the closes of bars, each market at its own distance; where the budget does not allow so many, only
    every n-th close, and an answer brings n bars.

    Parameters
    ----------
    timeframe : Timeframe
        Length of the bars.
    place : Place
        The market's own.
    spread_ms : int
        See `window_ms`.
    last_ms : int
        When it was polled last.
    longest_ms : int or None
        Longest pause between two polls; None: as long as the bars.
    """
    offset_ms = SETTLE_MS + int(place.at * spread_ms)
    if timeframe.ms is None:
        poll_ms = next_ms(timeframe, last_ms - offset_ms) + offset_ms
    else:
        step_ms = timeframe.ms * max(1, math.ceil(spread_ms / timeframe.ms))
        since_ms = last_ms - offset_ms - timeframe.anchor_ms
        poll_ms = (since_ms // step_ms + 1) * step_ms + timeframe.anchor_ms + offset_ms
    return poll_ms if longest_ms is None else min(poll_ms, last_ms + longest_ms)


def over_ms(timeframe: Timeframe, now_ms: int) -> int:
    """Return the open before which all bars have been over for long enough to be asked for."""
    return floor_ms(timeframe, now_ms - SETTLE_MS)


class Polls:
    """The markets that are polled on one connection."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.markets = 0

    def join(self) -> Place:
        """Give a market its place."""
        self.markets += 1
        return Place(next(self._numbers) * GOLDEN % 1.0)

    def leave(self) -> None:
        """Take a market out."""
        self.markets -= 1
