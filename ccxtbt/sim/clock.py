"""The exchange's own time, which may run faster than the wall's."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What the simulated exchange needs to know about time."""

    def now_ms(self) -> int:
        """Return the exchange's time in milliseconds UTC."""
        ...

    async def sleep_until(self, ms: int) -> None:
        """Return once `now_ms()` has reached `ms`."""
        ...

    async def sleep(self, ms: int) -> None:
        """Return once `ms` milliseconds of the exchange's time have passed."""
        ...


class SimClock:
    """A clock that starts at a chosen moment and runs at a chosen speed.

    Parameters
    ----------
    start_ms : int
        What the clock shows when it is made, in milliseconds UTC.
    speed : float
        Virtual milliseconds per real millisecond.
    began_s : float or None
        When the clock stood at `start_ms`, in Unix time: a simulator that is started again goes on with the time of
        the one before. None: now.

    Raises
    ------
    ValueError
        If `speed` is not above zero.
    """

    def __init__(self, start_ms: int, speed: float = 1.0, began_s: float | None = None) -> None:
        if not speed > 0:
            raise ValueError(f"speed is {speed}: a clock must run forward, give a number above 0")
        self.start_ms = start_ms
        self.speed = speed
        ago_s = 0.0 if began_s is None else time.time() - began_s
        self._start_ns = time.monotonic_ns() - int(ago_s * 1e9)

    def now_ms(self) -> int:
        """Return the virtual time in milliseconds UTC."""
        return self.start_ms + int((time.monotonic_ns() - self._start_ns) * self.speed) // 1_000_000

    async def sleep_until(self, ms: int) -> None:
        """Return once `now_ms()` has reached `ms`, at once if it already has."""
        while (left_ms := ms - self.now_ms()) > 0:  # noqa: ASYNC110 - the loop mends early wake-ups
            await asyncio.sleep(left_ms / 1000 / self.speed)

    async def sleep(self, ms: int) -> None:
        """Return once `ms` virtual milliseconds have passed."""
        await self.sleep_until(self.now_ms() + ms)


class ManualClock:
    """A clock that stands still until it is moved by hand; for tests without waiting.

    Parameters
    ----------
    start_ms : int
        What the clock shows at first, in milliseconds UTC.

    Notes
    -----
    Its sleepers belong to one event loop, and the clock is moved on that loop's thread.
    """

    speed = 1.0

    def __init__(self, start_ms: int) -> None:
        self.start_ms = start_ms
        self._now_ms = start_ms
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        """Return the time that was last set, in milliseconds UTC."""
        return self._now_ms

    def set_ms(self, ms: int) -> None:
        """Move the clock to `ms` and wake the sleepers whose time has come.

        Raises
        ------
        ValueError
            If `ms` lies before the time that the clock shows.
        """
        if ms < self._now_ms:
            raise ValueError(f"cannot set the clock back from {self._now_ms} to {ms}: time only moves forward")
        self._now_ms = ms
        due = [future for at_ms, future in self._sleepers if at_ms <= ms]
        self._sleepers = [(at_ms, future) for at_ms, future in self._sleepers if at_ms > ms]
        for future in due:
            if not future.done():
                future.set_result(None)

    def advance(self, ms: int) -> None:
        """Move the clock forward by `ms` milliseconds."""
        self.set_ms(self._now_ms + ms)

    async def sleep_until(self, ms: int) -> None:
        """Return once the clock was moved to `ms` or later."""
        if ms > self._now_ms:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._sleepers.append((ms, future))
            await future

    async def sleep(self, ms: int) -> None:
        """Return once the clock was moved forward by `ms` milliseconds."""
        await self.sleep_until(self._now_ms + ms)
