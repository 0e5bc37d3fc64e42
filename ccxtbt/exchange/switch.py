"""A dead man's switch: the exchange itself cancels all open orders where it has not heard from us in time."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import Sequence
from typing import Any

from ccxtbt.errors import CCXTBTError, ConfigError, NotOfferedError
from ccxtbt.exchange.connection import Connection, as_ours
from ccxtbt.exchange.lanes import Lane, in_lane

logger = logging.getLogger(__name__)

# How often it is set in the time after which it cancels, and how soon again where that has failed.
SETS = 3
AGAIN_S = 1.0
# How long turning it off may take.
END_S = 2.0
UNIFIED = "cancelAllOrdersAfter"


class Switch:
    """Has the exchange cancel all open orders `after_s` seconds from now, and puts that off while we live.

    What it cancels are orders of the account: protective stops, and those of others, among them. Some exchanges have
    one for each market, which then is set for the markets of the run alone.

    Parameters
    ----------
    connection : Connection
        The account, started.
    after_s : float
        In seconds of the exchange.

    Raises
    ------
    ConfigError
        A time that is none.
    """

    def __init__(self, connection: Connection, after_s: float) -> None:
        if not after_s > 0:
            raise ConfigError(f"cancel_all_after={after_s!r} is no time: give seconds above 0, or None for no switch.")
        self._connection = connection
        self._after_s = after_s
        self._calls: list[tuple[str, str | None]] = []
        self._failed = False
        # What is asked last must arrive last.
        self._turn = asyncio.Lock()

    def begin(self, symbols: Sequence[str]) -> None:
        """Set it, and keep setting it until `end`; waits until it is set.

        Raises
        ------
        NotOfferedError
            The exchange has none for one of the markets.
        ConfigError, TryLaterError
            It could not be set.
        """
        known = [self._call_for(symbol) for symbol in symbols]
        self._calls = list(dict.fromkeys(known))
        try:
            self._connection.call(self._set, self._after_s)
        except CCXTBTError:
            raise
        except Exception as error:
            raise as_ours(error, f"Setting the dead man's switch (cancel_all_after={self._after_s:g})") from error
        self._connection.spawn(self._hold, name="dead man's switch")
        logger.info(
            "%s cancels all open orders when it has not heard from this run for %g s.",
            self._connection.account.exchange_id,
            self._after_s,
        )

    def end(self) -> None:
        """Turn it off: what is open may stay. Where that fails, it is said."""
        calls, self._calls = self._calls, []
        if not calls:
            return
        try:
            self._connection.call(self._ask, calls, 0.0, timeout_s=END_S)
        except (Exception, concurrent.futures.TimeoutError) as error:  # noqa: BLE001  # of any kind, and all are told
            self._say(
                f"The dead man's switch could not be turned off ({type(error).__name__}): "
                f"{self._connection.account.exchange_id} cancels what is open within {self._after_s:g} s."
            )

    def _call_for(self, symbol: str) -> tuple[str, str | None]:
        """Return ccxt's method for a market, and the market's id where it is wanted."""
        market = self._connection.markets[symbol]
        kind = next((kind for kind in ("spot", "linear", "inverse") if market.get(kind)), "")
        methods = self._connection.facts.countdowns
        method = methods.get(kind, methods.get(""))
        if method is None:
            raise NotOfferedError(
                f"No dead man's switch of {self._connection.account.exchange_id} for {symbol} is known here: leave "
                "cancel_all_after out."
            )
        return method, None if method == UNIFIED else str(market["id"])

    async def _hold(self) -> None:
        pause_s = self._after_s / SETS / self._connection.clock.rate
        while self._calls:
            await asyncio.sleep(min(pause_s, AGAIN_S) if self._failed else pause_s)
            try:
                await self._set(self._after_s)
            except Exception as error:  # noqa: BLE001  # of any kind: it is told, and set again
                if not self._failed:
                    self._say(
                        f"The dead man's switch could not be set again ({type(error).__name__}: {error}): "
                        f"{self._connection.account.exchange_id} cancels all open orders within {self._after_s:g} s, "
                        "unless it can be."
                    )
                self._failed = True
            else:
                if self._failed:
                    self._say("The dead man's switch is set again.")
                self._failed = False

    async def _set(self, after_s: float) -> None:
        await self._ask(self._calls, after_s)

    async def _ask(self, calls: Sequence[tuple[str, str | None]], after_s: float) -> None:
        async with self._turn:
            await self._ask_now(calls, after_s)

    async def _ask_now(self, calls: Sequence[tuple[str, str | None]], after_s: float) -> None:
        rest, after_ms = self._connection.rest, round(after_s * 1_000)
        asked: list[Any] = []
        with in_lane(Lane.ORDER):
            for method, market in calls:
                if market is None:
                    asked.append(rest.cancel_all_orders_after(after_ms))
                else:
                    asked.append(getattr(rest, method)({"symbol": market, "countdownTime": after_ms}))
            await asyncio.gather(*asked)

    def _say(self, text: str) -> None:
        logger.warning("%s", text)
        self._connection.notice(text)
