"""A deque of backtrader, also as the `queue.Queue` that other packages have in its place."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from queue import Empty
from typing import Any


class OldQueue:
    """A view of a deque with the methods of both.

    Parameters
    ----------
    items : deque
        Whose items these are; they are taken from it and put into it.
    """

    def __init__(self, items: deque[Any]) -> None:
        self._items = items
        self.append = self.put = items.append
        self.popleft = items.popleft

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def get(self, block: bool = False, timeout: float | None = None) -> Any:
        """Take the first item; it never waits, whatever is asked.

        Raises
        ------
        queue.Empty
            There is none.
        """
        if not self._items:
            raise Empty
        return self._items.popleft()

    get_nowait = get

    def qsize(self) -> int:
        """Return how many items there are."""
        return len(self._items)

    def empty(self) -> bool:
        """Whether there is none."""
        return not self._items
