"""Ending: how a live run leaves its orders: as they are, without entries, without any, or flat.

Everything here runs on cerebro's thread, which waits, within a time-out, for what the exchange says.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from ccxtbt.ccxtstore import CCXTStore
from ccxtbt.livedesk import LiveDesk

logger = logging.getLogger(__name__)

ON_STOP = ("leave", "cancel_entries", "cancel_all", "flatten")
# Longest time for what a run does at its end, and the pause between two looks at what is not done yet.
STOP_TIMEOUT_S = 10.0
LOOK_S = 0.1


class Ending:
    """The end of a live run: carries out `on_stop`, and tells the strategies what comes of it.

    It comes twice in a run: before ``Strategy.stop()``, which so sees how it ended, and after it, for what a strategy
    has ordered there.

    Parameters
    ----------
    desk : LiveDesk
        Of the run.
    on_stop : str
        One of `ON_STOP`.
    timeout_s : float
        How long all of it may take.
    """

    def __init__(self, desk: LiveDesk, on_stop: str, timeout_s: float) -> None:
        self._desk = desk
        self._on_stop = on_stop
        self._timeout_s = timeout_s
        self._in_time = True
        self._analyzed = True
        self._asked: set[int] = set()
        self._raised: Exception | None = None

    def before_stop(self, failed: bool) -> None:
        """End what the run has at the exchange; `Strategy.stop()` comes after it, or, if it `failed`, an exception."""
        self._end(f"The run ends with on_stop={self._on_stop!r}: nothing new is sent.")
        self._desk.closed = ""
        if self._raised is not None and not failed:
            raise self._raised

    def after_stop(self) -> None:
        """End what strategies have ordered in their `stop()`, say what is left, and let the desk go."""
        # Analyzers have closed their books in their own `stop`.
        self._analyzed = False
        self._end("The run has ended: nothing new is sent.")
        desk = self._desk
        left, holds = desk.left_open(), desk.held() if self._on_stop == "flatten" else []
        if not self._in_time:
            desk.say(
                f"What on_stop={self._on_stop!r} asks for was not done within {self._timeout_s:g} s: look at the "
                "account, or give the broker a longer stop_timeout."
            )
        if holds:
            desk.say(f"The run ends and still holds {', '.join(holds)}.")
        if left:
            desk.say(f"The run ends with {len(left)} open orders at {desk.store.exchange_id}: {'; '.join(left)}.")
        desk.stop()
        self._tell()

    def _end(self, closed: str) -> None:
        """Let what is under way come to rest, cancel what is not to stay, and close what is held."""
        # What was not done in time once is not waited for again.
        end_s = time.monotonic() + (self._timeout_s if self._in_time else 0.0)
        # Nor after a second Ctrl-C.
        self._in_time, in_time = False, self._in_time
        desk = self._desk
        if self._on_stop != "leave" or not self._analyzed:
            desk.closed = closed
        self._tell()
        desk.hurry()
        done = self._wait(desk.at_rest, end_s)
        if self._on_stop != "leave":
            done = self._wait(self._cancelled, end_s) and done
        if self._on_stop == "flatten" and done and desk.held():
            # Only now: beside an order of which nobody knows how it ended, what is held might be sold twice.
            desk.flatten()
            done = self._wait(desk.at_rest, end_s)
        self._tell()
        self._in_time = in_time and done

    def _cancelled(self) -> bool:
        """Cancel what is not to stay, and return whether it has ended: a fill may bring new exits meanwhile."""
        desk = self._desk
        covered = desk.entries() if self._on_stop == "cancel_entries" else desk.alive()
        for order in covered:
            # Once: a cancel whose answer is lost is asked for again by the desk.
            if order.ref not in self._asked and order.alive():
                self._asked.add(order.ref)
                desk.cancel(order)
        return not covered and desk.at_rest()

    def _wait(self, done: Callable[[], bool], end_s: float) -> bool:
        """Take what comes until it is done; return whether it was in time."""
        desk = self._desk
        while not done():
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return False
            desk.store.inbox.drain(min(left_s, LOOK_S))
            desk.next()
            self._tell()
        return True

    def _tell(self) -> None:
        """Tell the strategies what has changed; one that fails at it must not keep the rest from ending."""
        desk = self._desk
        while (order := desk.get_notification()) is not None:
            self._safely(self._tell_order, order)
        for store in desk.cerebro.stores:
            if isinstance(store, CCXTStore):
                for message, args, kwargs in store.take_notifications():
                    self._safely(self._tell_store, message, *args, **kwargs)

    def _tell_order(self, order: Any) -> None:
        owner = self._desk.cerebro.runningstrats[0] if order.owner is None else order.owner
        if self._analyzed:
            owner._addnotification(order, quicknotify=self._desk.cerebro.p.quicknotify)
            return
        told = len(owner._tradespending)
        owner._addnotification(order, quicknotify=False)
        owner.notify_order(order)
        for trade in owner._tradespending[told:]:
            owner.notify_trade(trade)

    def _tell_store(self, message: str, *args: Any, **kwargs: Any) -> None:
        cerebro = self._desk.cerebro
        cerebro._notify_store(message, *args, **kwargs)
        for strategy in cerebro.runningstrats:
            strategy.notify_store(message, *args, **kwargs)

    def _safely(self, tell: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        try:
            tell(*args, **kwargs)
        except Exception as error:
            logger.exception("A strategy failed while the run ended; the end goes on.")
            self._raised = self._raised or error
