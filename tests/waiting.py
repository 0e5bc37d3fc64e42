"""Patience: how tests wait for what another thread, process or connection brings about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

# Between two looks: what is waited for has no event that a test could wait on.
_LOOK_S = 0.005


def wait_until(condition: Callable[[], Any], limit_s: float = 20.0) -> float:
    """Wait for something to come true; return how long it took."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < limit_s, f"what was waited for did not come within {limit_s} s"
        time.sleep(_LOOK_S)
    return time.monotonic() - began_s


async def come_true(condition: Callable[[], Any], limit_s: float = 10.0) -> None:
    """Wait as `wait_until` does, in a loop that goes on meanwhile."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < limit_s, f"what was waited for did not come within {limit_s} s"
        await asyncio.sleep(_LOOK_S)
