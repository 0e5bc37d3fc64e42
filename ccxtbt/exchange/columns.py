"""TEMPORARY placeholder by the lead so that `import ccxtbt` works; the owner of columns.py replaces this file whole."""

from __future__ import annotations

from typing import Any

from ccxtbt._ohlcv import rows_to_columns


class ColumnsMixin:
    async def fetch_columns(
        self, symbol: str, timeframe: str, since: int | None, limit: int | None, params: dict[str, Any]
    ) -> Any:
        return rows_to_columns(await self.fetch_ohlcv(symbol, timeframe, since, limit, params))  # type: ignore
