"""The orders that are open, as scripts read them: a list of orders, and a mapping by id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class OpenOrders:
    """The orders that are open, as a list or as a mapping by id.

    Iterating gives orders. An id is the exchange's or, before that is known, our own client id. An order that a script
    puts in is listed until the script takes it out, and not followed.
    """

    def __init__(self, orders: Iterable[Any] = ()) -> None:
        self._orders: dict[int, Any] = {order.ref: order for order in orders}

    def __repr__(self) -> str:
        return f"OpenOrders({self.keys()})"

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._orders.values()))

    def __len__(self) -> int:
        return len(self._orders)

    def __contains__(self, wanted: Any) -> bool:
        return self._find(wanted) is not None

    def __getitem__(self, wanted: int | str) -> Any:
        if isinstance(wanted, int):
            return list(self._orders.values())[wanted]
        order = self._find(wanted)
        if order is None:
            raise KeyError(wanted)
        return order

    def __delitem__(self, wanted: str) -> None:
        del self._orders[self[wanted].ref]

    def get(self, wanted: str, default: Any = None) -> Any:
        """Return the order of an id."""
        order = self._find(wanted)
        return default if order is None else order

    def keys(self) -> list[str]:
        """Return the ids."""
        return [_ids(order)[0] for order in self]

    def values(self) -> list[Any]:
        """Return the orders."""
        return list(self)

    def items(self) -> list[tuple[str, Any]]:
        """Return pairs of id and order."""
        return [(_ids(order)[0], order) for order in self]

    def append(self, order: Any) -> None:
        """List an order; nothing happens if it is listed."""
        self._orders.setdefault(order.ref, order)

    def remove(self, order: Any) -> None:
        """Take an order out.

        Raises
        ------
        ValueError
            It is not there.
        """
        if self._orders.pop(order.ref, None) is None:
            raise ValueError(f"Order {order.ref} is not among the open ones.")

    def discard(self, order: Any) -> None:
        """Take an order out if it is there."""
        self._orders.pop(order.ref, None)

    def _find(self, wanted: Any) -> Any:
        if isinstance(wanted, str):
            return next((order for order in self._orders.values() if wanted in _ids(order)), None)
        return self._orders.get(getattr(wanted, "ref", 0))


def _ids(order: Any) -> list[str]:
    """Return the exchange's id and ours, as far as they are known; else backtrader's number."""
    told: Mapping[str, Any] = getattr(order, "ccxt_order", None) or {}
    return [str(name) for name in (told.get("id"), told.get("clientOrderId")) if name] or [str(order.ref)]
