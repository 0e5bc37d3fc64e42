"""A budget in the places where ccxt's classes keep their own: called with a cost before each request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ccxtbt.exchange.lanes import LANE, ORDERS_PLACED, Lane
from ccxtbt.exchange.limiter import Limiter


class AsyncThrottle:
    """A budget in the place of ``exchange.throttler`` of ccxt's asynchronous classes.

    Parameters
    ----------
    limiter : Limiter
        The budget of the address (or key) that the requests count against.
    factor : float, default 1.0
        Weight of one unit of ccxt's cost: `weight_per_cost`.
    lane_of : callable, optional
        Gives the lane of the call; by default that of the context (`LANE`).
    orders : Limiter, optional
        The key's budget of orders, charged with what the context says the call places (`ORDERS_PLACED`).
    """

    __slots__ = ("_factor", "_lane_of", "_limiter", "_orders", "loop")

    def __init__(
        self,
        limiter: Limiter,
        factor: float = 1.0,
        lane_of: Callable[[], int] = LANE.get,
        orders: Limiter | None = None,
    ) -> None:
        self._limiter = limiter
        self._lane_of = lane_of
        self._factor = factor
        self._orders = orders
        # ccxt writes its event loop here when it opens.
        self.loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, cost: float | None = None) -> Coroutine[Any, Any, None]:
        """Wait for a request of this cost: ``await exchange.throttler(cost)``.

        Parameters
        ----------
        cost : float, optional
            In ccxt's units; None is 1.
        """
        weight = self._factor * (1.0 if cost is None else cost)
        if self._orders is not None and (placed := ORDERS_PLACED.get()) > 0:
            return self._with_orders(self._orders, placed, weight)
        return self._limiter.acquire(weight, self._lane_of())

    async def _with_orders(self, orders: Limiter, placed: float, weight: float) -> None:
        await orders.acquire(placed, Lane.ORDER)
        if not self._limiter.try_acquire(weight, self._lane_of()):
            await self._limiter.acquire(weight, self._lane_of())
            # The orders go out later than they were stamped: stamp them again, now.
            orders.debit(placed)


class SyncThrottle:
    """A budget in the place of the method ``exchange.throttle`` of ccxt's synchronous classes.

    Parameters
    ----------
    limiter, factor, lane_of, orders
        As in `AsyncThrottle`.
    """

    __slots__ = ("_factor", "_lane_of", "_limiter", "_orders")

    def __init__(
        self,
        limiter: Limiter,
        factor: float = 1.0,
        lane_of: Callable[[], int] = LANE.get,
        orders: Limiter | None = None,
    ) -> None:
        self._limiter = limiter
        self._lane_of = lane_of
        self._factor = factor
        self._orders = orders

    def __call__(self, cost: float | None = None) -> None:
        """Block until a request of this cost may go out.

        Parameters
        ----------
        cost : float, optional
            In ccxt's units; None is 1.
        """
        weight = self._factor * (1.0 if cost is None else cost)
        placed = ORDERS_PLACED.get() if self._orders is not None else 0.0
        if self._orders is not None and placed > 0:
            self._orders.acquire_blocking(placed, Lane.ORDER)
        if not self._limiter.try_acquire(weight, self._lane_of()):
            self._limiter.acquire_blocking(weight, self._lane_of())
            if self._orders is not None and placed > 0:
                self._orders.debit(placed)
