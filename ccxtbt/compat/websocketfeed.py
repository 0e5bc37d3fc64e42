"""WebSocketFeed: the specification's name for a live `CCXTFeed`."""

from __future__ import annotations

from typing import Any

from ccxtbt.ccxtfeed import CCXTFeed
from ccxtbt.market.handover import Bar


class WebSocketFeed(CCXTFeed):
    """A `CCXTFeed`, which streams wherever the exchange does; arguments as there.

    Parameters
    ----------
    use_websocket : bool
        Accepted, and changes nothing: without it, this is a `CCXTFeed`.
    ws_callbacks : callable, sequence of callables or None
        Each is called with each live `Bar`, on cerebro's thread, before the strategy sees it.
    """

    params: Any = (("use_websocket", True), ("ws_callbacks", None))

    def _queue_bars(self, bars: list[Bar]) -> None:
        super()._queue_bars(bars)
        callbacks = self.p.ws_callbacks or ()
        for callback in (callbacks,) if callable(callbacks) else callbacks:
            for bar in bars:
                callback(bar)
