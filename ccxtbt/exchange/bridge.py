"""Blocking work for callers that have an event loop of their own."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


def in_a_loop() -> bool:
    """Whether an event loop runs in this thread: then nothing may block here."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def off_loop(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking function in a thread of its own, which ends with it, and wait for its result.

    The loop's own executor would keep its thread. A caller that is cancelled does not end the function.
    """
    promise: Future[T] = Future()

    def work() -> None:
        try:
            result = function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the caller must hear it
            promise.set_exception(error)
        else:
            promise.set_result(result)

    thread = threading.Thread(target=work, name=f"ccxtbt-{function.__name__}", daemon=True)
    thread.start()
    try:
        return await asyncio.shield(asyncio.wrap_future(promise))
    finally:
        if promise.done():
            thread.join()


def blocking_or_awaited(
    method: Callable[Concatenate[S, P], T],
) -> Callable[Concatenate[S, P], T | Coroutine[Any, Any, T]]:
    """Decorate a blocking method so that it is awaited where an event loop runs, and waited for elsewhere."""

    @functools.wraps(method)
    def call(self: S, *args: P.args, **kwargs: P.kwargs) -> T | Coroutine[Any, Any, T]:
        if in_a_loop():
            return off_loop(method, self, *args, **kwargs)
        return method(self, *args, **kwargs)

    return cast(Callable[Concatenate[S, P], T | Coroutine[Any, Any, T]], call)
