"""Calls of user code that wait for their answer: by the names that scripts know, thin over ccxt's synchronous class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccxtbt.errors import ConfigError, NotOfferedError
from ccxtbt.exchange.connection import Connection
from ccxtbt.exchange.limiter import Lane, in_lane
from ccxtbt.exchange.retry import retry_with_backoff
from ccxtbt.market.timeframes import next_ms, parse


class Calls:
    """What scripts ask a store for directly.

    Each call goes to the exchange, waits for the answer and returns it as ccxt gives it; errors are ccxt's own.
    Questions are asked again where that can cure their failure. What changes something at the exchange is sent once.
    """

    connection: Connection
    retries: int

    def get_wallet_balance(
        self, currency: str | Mapping[str, Any] | None = None, params: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Ask for the balance of the whole account, in ccxt's structure.

        Parameters
        ----------
        currency : str, mapping or None
            A currency, which old scripts give and which narrows nothing; or the parameters themselves.
        params : mapping or None
            Further parameters of ccxt's ``fetch_balance``.
        """
        given = currency if isinstance(currency, Mapping) else params
        return dict(self._ask("fetch_balance", dict(given or {})))

    def create_order(
        self,
        symbol: str,
        order_type: str,
        side: str,
        amount: float,
        price: float | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Send an order past the broker, once; no strategy is told of it.

        Raises
        ------
        ccxt.BaseError
            As ccxt raises it. After a NetworkError the order may be at the exchange: look before sending another.
        """
        with in_lane(Lane.ORDER, orders=1):
            return dict(self.connection.sync.create_order(symbol, order_type, side, amount, price, dict(params or {})))

    def cancel_order(self, order_id: str, symbol: str | None = None) -> dict[str, Any]:
        """Cancel an order past the broker, once."""
        with in_lane(Lane.ORDER):
            return dict(self.connection.sync.cancel_order(order_id, symbol))

    def fetch_trades(self, symbol: str) -> list[dict[str, Any]]:
        """Ask for a market's latest trades."""
        return list(self._ask("fetch_trades", symbol))

    def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: str,
        since: int | None = None,
        limit: int | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> list[list[float]]:
        """Ask for a page of bars: rows of open time (ms UTC), open, high, low, close, volume; one may be forming."""
        return list(self._ask("fetch_ohlcv", symbol, timeframe, since, limit, dict(params or {})))

    def get_historical_dataframe(
        self, symbol: str, interval_str: str, num_candles: int, drop_incomplete_candle: bool = True
    ) -> Any:
        """Ask for the last bars of a market, in one page, as pandas has them.

        Parameters
        ----------
        symbol : str
            ccxt's unified symbol.
        interval_str : str
            ccxt's timeframe, such as ``'5m'``.
        num_candles : int
            How many bars; no more come than the exchange gives at once.
        drop_incomplete_candle : bool
            Leave out the bar that is forming by the exchange's clock, where the answer has it.

        Returns
        -------
        pandas.DataFrame
            Columns open, high, low, close, volume, as float64, by their open in UTC; the index is called timestamp.

        Raises
        ------
        NotOfferedError
            The exchange has no OHLCV, or not this timeframe.
        ConfigError
            pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ConfigError("get_historical_dataframe needs pandas: install it with pip install pandas.") from error
        known = self.connection.rest or self.connection.description
        if not known.has.get("fetchOHLCV") or interval_str not in (known.timeframes or {interval_str: ""}):
            offered = ", ".join(known.timeframes or ()) or "none"
            raise NotOfferedError(f"{known.id} has no bars of {interval_str!r} through ccxt; it has: {offered}.")
        rows = self.fetch_ohlcv(symbol, interval_str, None, num_candles + 1) if num_candles > 0 else []
        now_ms, frame = self.connection.clock.now_ms(), parse(interval_str)
        if drop_incomplete_candle:
            rows = [row for row in rows if next_ms(frame, int(row[0])) <= now_ms]
        rows = [row[:6] for row in rows if None not in row[:6]][-num_candles:] if num_candles > 0 else []
        table = pd.DataFrame(rows, columns=["timestamp", "open", "high", "low", "close", "volume"], dtype=float)
        table.index = pd.DatetimeIndex(pd.to_datetime(table.pop("timestamp"), unit="ms", utc=True), name="timestamp")
        return table

    def fetch_order(self, oid: str, symbol: str | None = None) -> dict[str, Any]:
        """Ask how an order stands, by the exchange's id."""
        return dict(self._ask("fetch_order", oid, symbol))

    def fetch_open_orders(self, symbol: str | None = None) -> list[dict[str, Any]]:
        """Ask for the account's open orders, of one market or, at a higher weight, of all."""
        # The budget counts what the request weighs: ccxt need not refuse it.
        self.connection.sync.options["warnOnFetchOpenOrdersWithoutSymbol"] = False
        return list(self._ask("fetch_open_orders", symbol))

    def private_end_point(self, type: str, endpoint: str, params: Mapping[str, Any] | None = None) -> Any:  # noqa: A002  # the name that scripts give
        """Call one of ccxt's implicit methods, once, and return the exchange's own answer.

        Parameters
        ----------
        type : str
            ``'Get'``, ``'Post'``, ... as old scripts give it; `endpoint` says it too.
        endpoint : str
            Name of the method, such as ``'private_get_account'``.
        params : mapping or None
            The endpoint's parameters.
        """
        return getattr(self.connection.sync, endpoint)(dict(params or {}))

    def _ask(self, name: str, *args: Any) -> Any:
        ask = getattr(self.connection.sync, name)
        connection = self.connection
        again = retry_with_backoff(retries=self.retries + 1, limiter=connection.limiter, stop=connection.ending)
        return again(ask)(*args)
