"""Who goes first at a limit, and how much a call asks of it: told by the context that a call runs in."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum


class Lane(IntEnum):
    """Who goes first: an order before live data before history."""

    ORDER = 0
    LIVE = 1
    HISTORY = 2


LANE: ContextVar[Lane] = ContextVar("LANE", default=Lane.HISTORY)
"""The lane in which the calls of this context run."""

ORDERS_PLACED: ContextVar[float] = ContextVar("ORDERS_PLACED", default=0.0)
"""How many orders the call of this context places: what the key's budget of orders is charged."""


@contextmanager
def in_lane(which: Lane, orders: float = 0.0) -> Generator[None]:
    """Run the calls of a ``with`` block in a lane.

    Parameters
    ----------
    which : Lane
    orders : float, default 0.0
        Orders that the call places.
    """
    lane_token = LANE.set(which)
    orders_token = ORDERS_PLACED.set(orders)
    try:
        yield
    finally:
        ORDERS_PLACED.reset(orders_token)
        LANE.reset(lane_token)
