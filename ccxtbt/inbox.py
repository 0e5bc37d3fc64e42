"""The one hand-over from the I/O threads to cerebro's thread."""

from __future__ import annotations

import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from ccxtbt.gathering import Delivery, Gathering, Slot


class Receiver(Protocol):
    """What an item is addressed to: a feed, a broker or a store."""

    def receive(self, item: Any) -> None:
        """Take an item; runs on cerebro's thread."""


class Inbox:
    """A queue of (receiver, item): any thread puts, cerebro's thread drains.

    One serves all the stores of a cerebro, so that there is one place to sleep and whatever arrives first, from
    whichever exchange, wakes the strategy.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Receiver | None, Any, Slot | None]] = SimpleQueue()
        self._gathering = Gathering()

    def put(self, receiver: Receiver, item: Any, slot: Slot | None = None) -> None:
        """Hand `item` to `receiver` on cerebro's thread; callable from any thread.

        With a `slot` it may wait there for the items of other receivers (see `Gathering`).
        """
        self._queue.put((receiver, item, slot))

    def wake(self) -> None:
        """End a `drain` that waits."""
        self._queue.put((None, None, None))

    def drain(self, wait_s: float = 0.0) -> set[Receiver | None]:
        """Deliver all that has arrived; if there is nothing, wait up to `wait_s` seconds for the first item.

        Returns
        -------
        set of Receiver or None
            Who was given something; None among them is a call to `wake`. What is held back reaches nobody.
        """
        reached: set[Receiver | None] = set()
        gathering = self._gathering
        wait_s = min(wait_s, gathering.left_s(time.monotonic()))
        with suppress(Empty):
            receiver, item, slot = self._queue.get(timeout=wait_s) if wait_s > 0 else self._queue.get_nowait()
            while True:
                if receiver is None or (slot is None and not gathering.knows(receiver)):
                    reached.add(receiver)
                    if receiver is not None:
                        receiver.receive(item)
                else:
                    self._deliver(gathering.put(receiver, item, slot, time.monotonic()), reached)
                receiver, item, slot = self._queue.get_nowait()
        self._deliver(gathering.due(time.monotonic()), reached)
        return reached

    def _deliver(self, deliveries: list[Delivery], reached: set[Receiver | None]) -> None:
        for receiver, item in deliveries:
            reached.add(receiver)
            receiver.receive(item)


_INBOXES: WeakKeyDictionary[Any, Inbox] = WeakKeyDictionary()


def inbox_of(cerebro: Any) -> Inbox:
    """Return the inbox that all stores of `cerebro` share."""
    return _INBOXES.setdefault(cerebro, Inbox())
