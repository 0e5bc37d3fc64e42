"""What a broker shows to scripts that know other types in its place: a queue of orders, positions by symbol."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
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


class OldPositions(Mapping[Any, Any]):
    """Positions by data, as backtrader's brokers have them, and by the symbol or the name of a data.

    Parameters
    ----------
    positions : mapping of data to Position
        Whose positions these are.
    """

    def __init__(self, positions: Mapping[Any, Any]) -> None:
        self._positions = positions

    def __getitem__(self, wanted: Any) -> Any:
        if not isinstance(wanted, str):
            return self._positions[wanted]
        for data, position in self._positions.items():
            if wanted in (getattr(data.p, "dataname", None), data._name):
                return position
        raise KeyError(wanted)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)
