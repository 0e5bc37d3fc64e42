"""Bars of many feeds that close together, held back for a moment so that a strategy gets one `next()` for them all.

Pure: what came and what time it is are arguments.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple


class Slot(NamedTuple):
    """Where a bar of one feed belongs.

    Attributes
    ----------
    close_ms : int or None
        Close of the bar, which it shares with the bars it is to gather with; None for what is not held back.
    next_ms : int
        Close of the feed's next bar.
    grace_s : float
        How long the first bar of a close may wait for the others.
    """

    close_ms: int | None
    next_ms: int
    grace_s: float


Delivery = tuple[Any, Any]


class Gathering:
    """Holds back the bars of one close until all are there that may be expected, or their grace is over.

    A feed is expected if its bar before came, and came within the grace: one that has fallen silent, or is always
    late, costs a single grace, and is expected again after its next bar that comes in time.
    """

    def __init__(self) -> None:
        # Feed -> close of its next bar, if no bar is left out.
        self._next_ms: dict[Any, int] = {}
        self._held: list[Delivery] = []
        self._missing: set[Any] = set()
        self._close_ms: int | None = None
        self._done_ms: float = -math.inf
        self._began_s = 0.0
        self._end_s = math.inf

    def put(self, feed: Any, item: Any, slot: Slot | None, now_s: float) -> list[Delivery]:
        """Take an item, and return what is to be delivered now, in order.

        Parameters
        ----------
        feed
            Whose it is.
        item
            Anything.
        slot : Slot or None
            Where it belongs; None: the feed has no bars to expect from now on.
        now_s : float
            The time.
        """
        if slot is None or slot.close_ms is None or slot.close_ms < (self._close_ms or self._done_ms + 1):
            return self._pass(feed, item, slot, now_s)
        ready: list[Delivery] = []
        if self._close_ms is not None and slot.close_ms > self._close_ms:
            ready = self._release()
        if self._close_ms is None:
            self._close_ms, self._began_s, self._end_s = slot.close_ms, now_s, now_s + slot.grace_s
            self._missing = {known for known, close_ms in self._next_ms.items() if close_ms == slot.close_ms}
        self._held.append((feed, item))
        self._next_ms[feed] = slot.next_ms
        self._missing.discard(feed)
        if not self._missing:
            ready += self._release()
        return ready

    def due(self, now_s: float) -> list[Delivery]:
        """Return what has waited for its whole grace."""
        return self._release() if now_s >= self._end_s else []

    def left_s(self, now_s: float) -> float:
        """Return after which time something is `due`; infinite where nothing waits."""
        return max(0.0, self._end_s - now_s)

    def knows(self, feed: Any) -> bool:
        """Whether something of a feed is held or expected."""
        return feed in self._next_ms

    def _pass(self, feed: Any, item: Any, slot: Slot | None, now_s: float) -> list[Delivery]:
        """Hold nothing back for this item; what its feed has held goes before it."""
        if slot is None or (slot.close_ms is not None and self._too_late(slot.close_ms, slot.grace_s, now_s)):
            self._next_ms.pop(feed, None)
        else:
            self._next_ms[feed] = slot.next_ms
        self._missing.discard(feed)
        held = any(waiting == feed for waiting, _ in self._held)
        before = self._release() if held else []
        after = self._release() if not self._missing else []
        return [*before, (feed, item), *after]

    def _too_late(self, close_ms: int, grace_s: float, now_s: float) -> bool:
        """Whether a bar came when the grace of its close was over."""
        return close_ms < self._done_ms or now_s - self._began_s > grace_s

    def _release(self) -> list[Delivery]:
        released, self._held = self._held, []
        if self._close_ms is not None:
            self._done_ms = max(self._done_ms, self._close_ms)
        self._close_ms, self._end_s = None, math.inf
        self._missing = set()
        return released
