"""The hand-over from the I/O threads to code without a cerebro: a queue that never blocks who fills it."""

from __future__ import annotations

import asyncio
import logging
import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

logger = logging.getLogger(__name__)


class Mailbox(queue.Queue[Any]):
    """A `queue.Queue` of a limited size, which gives None for ever once nothing more comes.

    Nothing that comes waits for the reader: where it is full the oldest item goes. That is counted, logged when it
    begins, and told to `lost`.

    Parameters
    ----------
    name : str
        For the log.
    size : int
        How many items may wait.
    lost : callable or None
        Hears of each item that went unread, in the thread that fills the box, and must not touch it.

    Attributes
    ----------
    dropped : int
        Items that went unread, since the start.
    behind : bool
        Items were dropped, and the reader has not yet caught up.

    Examples
    --------
    >>> box = Mailbox("bars", 2)
    >>> for number in (1, 2, 3):
    ...     box.put(number)
    >>> box.end()
    >>> list(iter(box.get, None)), box.dropped
    ([2, 3], 1)
    """

    def __init__(self, name: str, size: int, lost: Callable[[Any], None] | None = None) -> None:
        super().__init__()
        self.name = name
        self.size = size
        self.dropped = 0
        self._lost = lost
        self.behind = False
        self._ended = False
        self._waiting: list[Future[None]] = []

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item; never waits. The other arguments are the base class's and mean nothing here."""
        before = self.dropped
        super().put(item)
        if self.dropped == before:
            self.behind = self.behind and self.qsize() > self.size // 2
        elif not self.behind:
            self.behind = True
            logger.warning("%s: nobody reads; of what waits, the oldest is dropped (size %d).", self.name, self.size)

    def begin(self) -> None:
        """Something may come again; what was not read is still there."""
        with self.mutex:
            self._ended = False

    def end(self) -> None:
        """Nothing more comes: who reads gets what is left, and then None."""
        with self.mutex:
            self._ended = True
            self.not_empty.notify_all()
            self._wake()

    def qsize(self) -> int:
        """Return how many items wait."""
        return len(self.queue)

    def empty(self) -> bool:
        """Whether no item waits."""
        return not self.queue

    def next(self, timeout_s: float | None = None) -> Any:
        """Wait for the next item; None where none came in time, or nothing comes any more."""
        try:
            return self.get(timeout=timeout_s)
        except queue.Empty:
            return None

    async def next_awaited(self, timeout_s: float | None = None) -> Any:
        """Wait for the next item as `next` does, in any event loop."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        return self.get_nowait()
                    except queue.Empty:
                        await asyncio.wrap_future(self._arrival())
        except TimeoutError:
            return None

    def _arrival(self) -> Future[None]:
        """Return a promise that something is there."""
        promise: Future[None] = Future()
        with self.mutex:
            # Those who gave up.
            self._waiting = [each for each in self._waiting if not each.done()]
            self._waiting.append(promise)
            if self._qsize():
                self._wake()
        return promise

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for promise in waiting:
            if promise.set_running_or_notify_cancel():
                promise.set_result(None)

    # What the base class asks for, with its lock held: the end counts as an item that nobody takes away.

    def _qsize(self) -> int:
        return len(self.queue) + self._ended

    def _put(self, item: Any) -> None:
        if len(self.queue) >= self.size:
            oldest = self.queue.popleft()
            self.dropped += 1
            if self._lost is not None:
                self._lost(oldest)
        self.queue.append(item)
        self._wake()

    def _get(self) -> Any:
        return self.queue.popleft() if self.queue else None
