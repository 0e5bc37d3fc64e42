"""What only accounts of contracts have: positions, settings and funding, on the I/O thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import ccxt

from ccxtbt.errors import ConfigError
from ccxtbt.exchange.connection import Connection, as_ours
from ccxtbt.exchange.facts import Facts

# Most payments that are asked for at once.
_PAGE = 100


def wallets_in(balance: Mapping[str, Any], facts: Facts) -> dict[str, float]:
    """Return the wallets of an account of contracts without open profit, by currency; ccxt's totals may hold it."""
    if not facts.wallet_rows:
        return {}
    rows, currency, amount = facts.wallet_rows
    info = balance.get("info")
    told = info.get(rows) if isinstance(info, Mapping) else None
    return {row[currency]: float(row[amount]) for row in told or () if row.get(amount) is not None}


class Margin:
    """Questions about an account's contracts, and its settings.

    Parameters
    ----------
    connection : Connection
        The account.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def positions(self, symbols: Iterable[str]) -> list[dict[str, Any]]:
        """Return the open positions of some contracts as ccxt parses them.

        Raises
        ------
        TryLaterError
            The exchange does not answer.
        """
        rows = await self._ask("Reading the positions", self._connection.rest.fetch_positions, list(symbols))
        return list(rows)

    async def payments(self, symbols: Iterable[str], since_ms: int) -> list[dict[str, Any]]:
        """Return what was paid or earned for holding some contracts since `since_ms`, oldest first.

        Raises
        ------
        TryLaterError
            The exchange does not answer.
        """
        rest, found = self._connection.rest, []
        if rest.has.get("fetchFundingHistory"):
            for symbol in symbols:
                start_ms = since_ms
                while True:
                    page = await self._ask("Reading the funding", rest.fetch_funding_history, symbol, start_ms, _PAGE)
                    found += page
                    if len(page) < _PAGE or page[-1]["timestamp"] <= start_ms:
                        break
                    start_ms = page[-1]["timestamp"]
        return found

    async def leverages(self, symbols: Iterable[str]) -> dict[str, Any]:
        """Return each contract's leverage and margin mode as ccxt parses them, where the exchange tells."""
        rest, wanted = self._connection.rest, list(symbols)
        if rest.has.get("fetchLeverages"):
            return dict(await self._ask("Reading the leverage", rest.fetch_leverages, wanted))
        if not rest.has.get("fetchLeverage"):
            return {}
        return {symbol: await self._ask("Reading the leverage", rest.fetch_leverage, symbol) for symbol in wanted}

    async def is_hedged(self, symbol: str) -> bool:
        """Whether the account holds two positions a contract, a long and a short one; False where it does not say."""
        rest = self._connection.rest
        if not rest.has.get("fetchPositionMode"):
            return False
        return bool((await self._ask("Reading the position mode", rest.fetch_position_mode, symbol)).get("hedged"))

    async def set_margin_mode(self, mode: str, symbol: str) -> None:
        """Keep a contract's margin as ``'cross'`` or ``'isolated'``.

        Raises
        ------
        ConfigError
            The exchange refuses it.
        """
        try:
            await self._connection.rest.set_margin_mode(mode, symbol)
        except (ccxt.MarginModeAlreadySet, ccxt.NoChange):
            return
        except Exception as error:
            raise self._refused(f"margin_mode={mode!r}", symbol, error) from error

    async def set_leverage(self, leverage: float, symbol: str) -> None:
        """Set a contract's leverage.

        Raises
        ------
        ConfigError
            The exchange refuses it.
        """
        try:
            await self._connection.rest.set_leverage(leverage, symbol)
        except ccxt.NoChange:
            return
        except Exception as error:
            raise self._refused(f"leverage={leverage:g}", symbol, error) from error

    def _refused(self, what: str, symbol: str, error: Exception) -> Exception:
        if isinstance(error, ccxt.NetworkError):
            return as_ours(error, f"Setting {what} for {symbol}")
        return ConfigError(
            f"{self._connection.account.exchange_id} refuses {what} for {symbol} ({error}): nothing was changed; give "
            "one that it takes there, or leave it out to trade with what is set."
        )

    async def _ask(self, what: str, ask: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        try:
            return await self._connection.retrying(ask)(*args)
        except Exception as error:
            raise as_ours(error, what) from error
