"""The budget of one (exchange, key or IP): every call waits here for its turn, whoever makes it.

How it works: a call that finds room, and nobody waiting before it, passes at once (`_ratelimit.Gate`). Everybody else
takes a place in the line of its lane. Whoever changes something (a caller who joins or leaves, a timer, new rules)
serves the lines. Nobody waits for the right to serve: who finds it taken leaves a note, and the one who has it looks
again. Each event loop has one timer for all its callers; of the waiting threads one sleeps until the next grant is due,
and the others until they are called.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ccxtbt._ratelimit import Gate, Rule, Ticket, Turn
from ccxtbt.errors import ConfigError
from ccxtbt.exchange.lanes import LANE, ORDERS_PLACED, Lane, in_lane
from ccxtbt.exchange.windows import ns_of_window, rules_from_ccxt, rules_from_table

__all__ = ["LANE", "ORDERS_PLACED", "Lane", "Limiter", "LimiterStats", "Rule", "RuleStats", "in_lane"]

logger = logging.getLogger(__name__)

_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RuleStats:
    """One limit at one moment.

    Attributes
    ----------
    limit, window_s : float
        Weight (or calls, where `per_call`) and the window's length.
    used : float
        Weight that still counts, other users' included.
    promised : float
        Weight of callers that are being woken.
    """

    limit: float
    window_s: float
    used: float
    promised: float
    per_call: bool


@dataclass(frozen=True, slots=True)
class LimiterStats:
    """A budget at one moment.

    Attributes
    ----------
    rules : tuple of RuleStats
    frozen_s : float
        Seconds of the exchange until the freeze ends; 0 where there is none.
    waiting : tuple of int
        Callers waiting in each lane, in the order of `Lane`.
    calls, weight : int, float
        Let out since the start.
    external_weight : float
        Used by others, as the exchange reported it.
    waits, waited_s, longest_wait_s : int, float, float
        Calls that had to wait, how long they all waited, and the longest.
    """

    rules: tuple[RuleStats, ...]
    frozen_s: float
    waiting: tuple[int, int, int]
    calls: int
    weight: float
    external_weight: float
    waits: int
    waited_s: float
    longest_wait_s: float


class _LoopPlace(Ticket):
    """A place of a coroutine."""

    __slots__ = ("future", "joined_ns", "number", "side")

    def __init__(self, weight: float, lane: int, side: _LoopSide) -> None:
        super().__init__(weight, lane)
        self.side = side
        self.joined_ns = 0
        self.number = 0
        self.future: asyncio.Future[None] = side.loop.create_future()

    def call(self, running: asyncio.AbstractEventLoop | None) -> bool:
        """Wake the caller; False where its loop is closed."""
        if running is self.side.loop:
            self._wake()
            return True
        try:
            self.side.loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            return False
        return True

    def _wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class _ThreadPlace(Ticket):
    """A place of a thread that blocks."""

    __slots__ = ("joined_ns", "number", "signal")

    def __init__(self, weight: float, lane: int) -> None:
        super().__init__(weight, lane)
        self.joined_ns = 0
        self.number = 0
        # A semaphore that keeps one call: one that comes before the thread sleeps is not lost.
        self.signal = threading.Lock()
        self.signal.acquire()

    def call(self, running: asyncio.AbstractEventLoop | None = None) -> bool:
        """Wake the thread."""
        with suppress(RuntimeError):
            self.signal.release()
        return True


_Place = _LoopPlace | _ThreadPlace


class _LoopSide:
    """What the limiter keeps of one event loop: its callers and their one timer."""

    __slots__ = ("due_ns", "limiter", "loop", "places", "timer")

    def __init__(self, limiter: Limiter, loop: asyncio.AbstractEventLoop) -> None:
        self.limiter = limiter
        self.loop = loop
        self.places: set[_LoopPlace] = set()
        self.timer: asyncio.TimerHandle | None = None
        self.due_ns = 0

    def arm(self, due_ns: int, running: asyncio.AbstractEventLoop | None) -> None:
        """Have the lines served at `due_ns`; a timer that fires earlier finds out by itself."""
        if self.timer is not None and self.due_ns <= due_ns:
            return
        if running is self.loop:
            self._set(due_ns)
            return
        try:
            self.loop.call_soon_threadsafe(self._set, due_ns)
        except RuntimeError:
            # Closed meanwhile: the next one who serves the lines drops this side.
            return

    def _set(self, due_ns: int) -> None:
        self.disarm()
        if self.places:
            self.due_ns = due_ns
            # Whole milliseconds, upwards: the loops' timers have no finer step, and one that fires early would spin.
            delay_ms = max(math.ceil((due_ns - self.limiter.now_ns()) / 1_000_000), 0)
            self.timer = self.loop.call_later(delay_ms / 1000, self._fire)

    def _fire(self) -> None:
        self.timer = None
        self.limiter.serve()

    def disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Limiter(Gate):
    """The budget of one (exchange, key or IP), shared by event loops and threads.

    Parameters
    ----------
    rules : sequence of Rule
        All of them hold at once; none allows everything until a freeze.
    clock_ns : callable, optional
        Nanoseconds of a monotonic clock, by default that of ``time.monotonic_ns``.
    on_freeze : callable, optional
        Called with (seconds, reason) when a freeze begins, or is extended by half a second or more.
    rate : float, default 1.0
        Exchange seconds that pass in one second here: 1 but for a simulated exchange. Windows, freezes and ages are
        told in the exchange's time; `rules` and waits are in time here.

    Examples
    --------
    >>> limiter = Limiter(rules_from_table([(6000, 60_000)]))
    >>> limiter.try_acquire(20)
    True
    """

    def __init__(
        self,
        rules: Sequence[Rule] = (),
        clock_ns: Callable[[], int] | None = None,
        on_freeze: Callable[[float, str], None] | None = None,
        rate: float = 1.0,
    ) -> None:
        super().__init__(rules, clock_ns)
        self.on_freeze = on_freeze
        self.rate = rate
        self._arrivals: deque[_Place] = deque()
        self._returned: deque[_Place] = deque()
        self._lines: list[deque[_Place]] = [deque() for _ in Lane]
        self._numbers = itertools.count()
        self._left = 0
        self._turn = Turn()
        self._look_again = False
        self._sides: dict[asyncio.AbstractEventLoop, _LoopSide] = {}
        self._threads: dict[_ThreadPlace, None] = {}
        self._leader: _ThreadPlace | None = None
        self._leader_due_ns = 0
        self._waits = 0
        self._waited_ns = 0
        self._longest_ns = 0

    @classmethod
    def of(
        cls,
        windows: Iterable[tuple[float, float]],
        *,
        rate_limit_ms: float = 0.0,
        rate: float = 1.0,
        per_call: bool = False,
    ) -> Limiter:
        """Make the budget of an exchange from what is known of it.

        Parameters
        ----------
        windows : iterable of (limit, window_ms)
            Published limits; none: `rate_limit_ms` is used.
        rate_limit_ms : float, default 0.0
            ccxt's ``rateLimit``; 0 is no limit.
        rate : float, default 1.0
            Exchange seconds that pass in one second here.
        per_call : bool, default False
            The windows count calls, not weight.

        Raises
        ------
        ConfigError
            A limit, window or rate that is not positive.
        """
        table = tuple(windows)
        rules = (
            rules_from_table(table, rate=rate, per_call=per_call)
            if table
            else rules_from_ccxt(rate_limit_ms, rate=rate)
        )
        return cls(rules, rate=rate)

    async def queue(self, weight: float, lane: int) -> None:
        """Wait in line: what `acquire` does where there is no room.

        Parameters
        ----------
        weight : float
        lane : int
        """
        loop = asyncio.get_running_loop()
        side = self._sides.get(loop)
        if side is None:
            side = self._sides[loop] = _LoopSide(self, loop)
        place = _LoopPlace(weight, lane, side)
        side.places.add(place)
        try:
            self._join(place)
            await place.future
            while not self.budget.confirm(place, self.now_ns()):
                place.future = loop.create_future()
                self._go_back(place)
                await place.future
        finally:
            side.places.discard(place)
            if not side.places:
                side.disarm()
                self._sides.pop(loop, None)
            self._leave(place)

    def acquire_blocking(self, weight: float = 1.0, lane: int = Lane.HISTORY, timeout: float | None = None) -> bool:
        """Block this thread until a call of this weight may go out.

        Parameters
        ----------
        weight : float, default 1.0
        lane : int, default Lane.HISTORY
        timeout : float, optional
            Seconds; None waits without end.

        Returns
        -------
        bool
            False when the time ran out: nothing was counted, and the call must not go out.

        Raises
        ------
        ConfigError
            It would have to wait in a thread whose event loop is running.
        """
        if self.try_acquire(weight, lane):
            return True
        if timeout is not None and timeout <= 0:
            return False
        if _running_loop() is not None:
            raise ConfigError("acquire_blocking() would stop the event loop of this thread: use `await acquire()`")
        place = _ThreadPlace(weight, lane)
        give_up_s = math.inf if timeout is None else time.monotonic() + timeout
        try:
            self._threads[place] = None
            self._join(place)
            while True:
                if place.is_promised:
                    if self.budget.confirm(place, self.now_ns()):
                        return True
                    self._go_back(place)
                    continue
                patience_s = give_up_s - time.monotonic()
                if patience_s <= 0:
                    return False
                leads = self._leader is place
                if leads:
                    patience_s = min(patience_s, (self._leader_due_ns - self.now_ns()) / _NS)
                if patience_s > 0:
                    place.signal.acquire(timeout=min(patience_s, threading.TIMEOUT_MAX))
                if leads and self.now_ns() >= self._leader_due_ns:
                    self.serve()
        finally:
            # First, and one step of C: the same interrupt that brings us here cannot come between.
            left = self.budget.leave(place)
            self._threads.pop(place, None)
            if left:
                self._left += 1
                self.serve()

    def wait_time(self, weight: float = 1.0, lane: int = Lane.HISTORY) -> float:
        """Seconds until a call of this weight could go out if nobody else made one; nothing is taken.

        Parameters
        ----------
        weight : float, default 1.0
        lane : int, default Lane.HISTORY
        """
        return self.budget.wait_ns(weight, self.now_ns(), lane) / _NS

    def freeze(self, seconds: float, reason: str = "") -> None:
        """Hold all callers in every lane, those about to be woken too.

        Parameters
        ----------
        seconds : float
            From now, in the exchange's time. A freeze that ends later stays as it is.
        reason : str, default ''
            For the notification.
        """
        now_ns = self.now_ns()
        asked_ns = int(min(seconds / self.rate, 1e8) * _NS)
        frozen_ns = self.budget.state(now_ns)[0]
        self.budget.freeze(now_ns + asked_ns)
        # A hundred requests that were under way bring the same refusal: it is told once.
        if asked_ns > frozen_ns + _NS // 2:
            logger.warning("requests are held for %.1f s: %s", seconds, reason or "the exchange asked for it")
            if self.on_freeze is not None:
                self.on_freeze(seconds, reason)

    def freeze_until(self, until_ms: float, now_ms: float | None = None, reason: str = "") -> None:
        """Hold all callers until a time of the exchange, as a ban states it.

        Parameters
        ----------
        until_ms : float
            Milliseconds since 1970.
        now_ms : float, optional
            The exchange's time now; by default this machine's.
        reason : str, default ''
            For the notification.
        """
        self.freeze((until_ms - (time.time() * 1000 if now_ms is None else now_ms)) / 1000, reason)

    def debit(self, weight: float, window_ms: float | None = None) -> None:
        """Count weight that went out past this limiter.

        Parameters
        ----------
        weight : float
        window_ms : float, optional
            Only in the rules with this window; by default in all that count weight.
        """
        self.budget.debit(weight, self.now_ns(), 0 if window_ms is None else ns_of_window(window_ms, self.rate))

    def observe_used(
        self, used: float, window_ms: float = 60_000, age_ms: float | None = None, *, per_call: bool = False
    ) -> float:
        """Learn what the exchange says has been used, and count what was not known here.

        Parameters
        ----------
        used : float
            Weight (or calls) in the exchange's current window.
        window_ms : float, default 60000
            Length of that window: the rule with the same length learns.
        age_ms : float, optional
            How long ago the exchange's counter began (``exchange_now_ms % window_ms`` where it starts on the minute).
            By default a whole window, which overlooks others as long as the counter is lower than what is known here.
        per_call : bool, default False
            The rule that counts calls, not weight.

        Returns
        -------
        float
            What was not known: used by others, or costs here that are too low.
        """
        window_ns = ns_of_window(window_ms, self.rate)
        age_ns = window_ns if age_ms is None else round(age_ms * 1_000_000 / self.rate)
        now_ns = self.now_ns()
        return self.budget.observe(used, window_ns, now_ns - age_ns, now_ns, per_call)

    def configure(self, rules: Sequence[Rule]) -> None:
        """Replace the rules, as when the exchange has told its real limits; what went out still counts.

        Parameters
        ----------
        rules : sequence of Rule
        """
        self.budget.configure(rules, self.now_ns())
        self.serve()

    def reset(self) -> None:
        """Forget what went out, and any freeze."""
        self.budget.reset()
        self.serve()

    def stats(self) -> LimiterStats:
        """Read the budget without stopping it."""
        frozen_ns, waiting, calls, weight, external, rules = self.budget.state(self.now_ns())
        return LimiterStats(
            rules=tuple(
                RuleStats(limit, window_ns / _NS * self.rate, used, held, per_call)
                for limit, window_ns, used, held, _, per_call in rules
            ),
            frozen_s=frozen_ns / _NS * self.rate,
            waiting=waiting,
            calls=calls,
            weight=weight,
            external_weight=external,
            waits=self._waits,
            waited_s=self._waited_ns / _NS,
            longest_wait_s=self._longest_ns / _NS,
        )

    def serve(self) -> None:
        """Let out whoever may go now, and see to it that somebody looks again when the next one may.

        The limiter's own timers and callers do it; who moves a virtual clock does too.
        """
        self._look_again = True
        # Never waits for its turn: a garbage collection may end a waiting coroutine in the middle of `_serve`.
        while self._look_again:
            with self._turn as mine:
                if not mine:
                    return
                self._look_again = False
                try:
                    self._serve()
                except BaseException:
                    # An interrupt of the main thread: the others must still learn when to look again.
                    self._serve()
                    raise

    # In what follows the lines are hints and the tickets' states the truth: a place is called before it is taken out of
    # its line, so that an interrupt between two steps costs a second call at most.

    def _serve(self) -> None:
        running = _running_loop()
        now_ns = self.now_ns()
        self._seat()
        for loop, side in self._sides.copy().items():
            if loop.is_closed():
                self._drop(side)
        wait_ns = 0
        for line in self._lines:
            while line and wait_ns <= 0:
                place = line[0]
                wait_ns = self.budget.promise(place, now_ns)
                if wait_ns <= 0:
                    if place.is_promised:
                        self._call(place, now_ns, running)
                    line.popleft()
        self._arm(now_ns + wait_ns if wait_ns > 0 else None, running)

    def _seat(self) -> None:
        """Put into the lines who came and who was frozen out; take out who left."""
        while self._arrivals:
            place = self._arrivals[0]
            self._lines[place.lane].append(place)
            self._arrivals.popleft()
        while self._returned:
            place = self._returned[0]
            line = self._lines[place.lane]
            line.insert(next((at for at, one in enumerate(line) if one.number > place.number), len(line)), place)
            self._returned.popleft()
        if self._left > 64 and self._left * 2 > sum(map(len, self._lines)):
            self._left = 0
            self._lines = [deque(place for place in line if place.is_waiting) for line in self._lines]

    def _call(self, place: _Place, now_ns: int, running: asyncio.AbstractEventLoop | None) -> None:
        waited_ns = now_ns - place.joined_ns
        self._waits += 1
        self._waited_ns += waited_ns
        self._longest_ns = max(self._longest_ns, waited_ns)
        if not place.call(running):
            self._leave(place)

    def _arm(self, due_ns: int | None, running: asyncio.AbstractEventLoop | None) -> None:
        if due_ns is None:
            self._leader = None
            return
        for side in self._sides.copy().values():
            side.arm(due_ns, running)
        leader = next((place for place in self._threads.copy() if place.is_waiting), None)
        sooner = leader is not self._leader or due_ns < self._leader_due_ns
        self._leader_due_ns = due_ns
        self._leader = leader
        if leader is not None and sooner:
            leader.call()

    def _join(self, place: _Place) -> None:
        place.joined_ns = self.now_ns()
        place.number = next(self._numbers)
        self.budget.join(place)
        self._arrivals.append(place)
        self.serve()

    def _go_back(self, place: _Place) -> None:
        """Return to the old place in line: a freeze came between the promise and the waking."""
        self._returned.append(place)
        self.serve()

    def _leave(self, place: _Place) -> None:
        if self.budget.leave(place):
            self._left += 1
            self.serve()

    def _drop(self, side: _LoopSide) -> None:
        """Forget the callers of a loop that was closed under them."""
        self._sides.pop(side.loop, None)
        for place in side.places.copy():
            self._leave(place)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
