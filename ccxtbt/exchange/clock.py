"""The exchange's time, read without asking it each time."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """The exchange's clock: its last known time carried on by this machine's monotonic clock.

    Until `synced` is called it shows this machine's own time. Safe to read from any thread: the two numbers that
    make the time are replaced together.

    Parameters
    ----------
    rate : float
        Exchange milliseconds that pass in one millisecond here. 1 on every real exchange; a simulated exchange may
        run faster.
    monotonic : callable
        Returns seconds that never go back; injectable for tests.

    Attributes
    ----------
    known : bool
        Whether the exchange has told its time.
    """

    __slots__ = ("_anchor", "_monotonic", "known", "rate")

    def __init__(self, rate: float = 1.0, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.known = False
        self._monotonic = monotonic
        self._anchor = (time.time() * 1000.0, monotonic())

    def now_ms(self) -> int:
        """Return the exchange's time, in ms since 1970 UTC."""
        at_ms, at_s = self._anchor
        return int(at_ms + (self._monotonic() - at_s) * 1000.0 * self.rate)

    def synced(self, server_ms: int, sent_s: float, received_s: float) -> None:
        """Set the time by an answer of the exchange.

        Parameters
        ----------
        server_ms : int
            The time the exchange told.
        sent_s, received_s : float
            `monotonic()` before the question and after the answer; the exchange read its clock between them, and the
            middle is the best guess.
        """
        self._anchor = (float(server_ms), (sent_s + received_s) / 2.0)
        self.known = True

    def monotonic(self) -> float:
        """Return this machine's monotonic time in seconds, as `synced` wants it."""
        return self._monotonic()

    def wait_s(self, until_ms: int) -> float:
        """Return how many seconds of this machine pass until the exchange's clock shows `until_ms`; 0 if it has."""
        return max(0.0, (until_ms - self.now_ms()) / 1000.0 / self.rate)
