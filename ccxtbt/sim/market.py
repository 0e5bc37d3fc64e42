"""A symbol's public side: trades that are seeded or recorded, and the bars, depth and ticker that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from ccxtbt.sim.spec import Spec

QuietBars = Literal["skip", "flat"]


@dataclass(slots=True)
class Trade:
    """A public trade in whole ticks and steps; `buyer_is_maker` is Binance's ``m``."""

    id: int
    ts_ms: int
    price_ticks: int
    qty_steps: int
    buyer_is_maker: bool


class Market:
    """Trades of one symbol: a pure function of (seed, symbol, start, time), whatever the order or size of calls.

    Two markets made alike agree for ever, so a judge in another thread or process makes one of its own.

    Parameters
    ----------
    spec : Spec
        The symbol.
    seed : int
        Chooses the trades.
    start_ms : int
        Where "live" begins, ms UTC: `advance` yields what comes after it. The price is near `spec.price` there.
    history_ms : int
        How much history lies before it. It begins on a full hour, and nothing is older.
    quiet_bars : {'skip', 'flat'}
        Whether a bar without trades is absent, or a flat row at the last close with volume 0.

    Attributes
    ----------
    last : Trade or None
        The last trade that has happened by `advance`; None only before the first trade of a replay.
    history_start_ms : int
        No trade and no bar is older.
    """

    def __init__(
        self, spec: Spec, seed: int, start_ms: int, history_ms: int = 0, quiet_bars: QuietBars = "skip"
    ) -> None:
        self.spec = spec
        self.quiet_bars = quiet_bars
        self.start_ms = start_ms
        self.history_start_ms = start_ms
        self.last: Trade | None = None
        raise NotImplementedError

    def price(self, ticks: int) -> Decimal:
        """Return a price in ticks as a Decimal."""
        raise NotImplementedError

    def qty(self, steps: int) -> Decimal:
        """Return a quantity in steps as a Decimal."""
        raise NotImplementedError

    def price_text(self, ticks: int) -> str:
        """Return a price in ticks as Binance writes it, with eight decimals."""
        raise NotImplementedError

    def qty_text(self, steps: int) -> str:
        """Return a quantity in steps as Binance writes it, with eight decimals."""
        raise NotImplementedError

    def quote_text(self, ticks_steps: int) -> str:
        """Return a worth in ticks times steps as text with eight decimals, further ones cut off."""
        raise NotImplementedError

    def next_ms(self) -> int | None:
        """Return when the next trade after `last` happens, None if a replay is over."""
        raise NotImplementedError

    def advance(self, to_ms: int) -> list[Trade]:
        """Return the trades after those already returned, up to and with `to_ms`; the last becomes `last`."""
        raise NotImplementedError

    def klines(
        self,
        interval: str,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 500,
        *,
        now_ms: int,
    ) -> list[list[Any]]:
        """Return rows as Binance's ``/api/v3/klines`` does, as of `now_ms`, with the forming one.

        Parameters
        ----------
        interval : str
            One of `ccxtbt.sim.kline.INTERVALS`.
        start_ms, end_ms : int, optional
            Earliest and latest open time. With a start, the first `limit` bars from there; without, the last ones.
        limit : int
            Most rows.
        now_ms : int
            The exchange's time: nothing later is seen.

        Returns
        -------
        list of list
            ``[open_ms, o, h, l, c, v, close_ms, quote_volume, n_trades, taker_base, taker_quote, '0']``, numbers with
            decimals as text of eight decimals, `close_ms` the bar's last ms.
        """
        raise NotImplementedError

    def klines_json(
        self,
        interval: str,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 500,
        *,
        now_ms: int,
    ) -> bytes:
        """Return what `klines` returns, as JSON: closed rows are written once and kept, so a page costs a join."""
        raise NotImplementedError

    def trades(
        self,
        *,
        from_id: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 500,
        now_ms: int,
    ) -> list[Trade]:
        """Return trades that have happened by `now_ms`, oldest first.

        With `from_id` or `start_ms` the first `limit` from there, else the last ones (up to `end_ms`).
        """
        raise NotImplementedError

    def agg_trades(
        self,
        *,
        from_id: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 500,
        now_ms: int,
    ) -> list[Trade]:
        """Return aggregate trades: here each holds one trade and has its id (``a == f == l``)."""
        return self.trades(from_id=from_id, start_ms=start_ms, end_ms=end_ms, limit=limit, now_ms=now_ms)

    def levels(self, side: Literal["bid", "ask"]) -> Iterator[tuple[int, int]]:
        """Yield (price_ticks, qty_steps) of the synthetic depth around `last`, best first, at most 5,000 levels.

        It changes with every trade and is a pure function of it. `Exchange.book` adds the accounts' own orders.
        """
        raise NotImplementedError

    def ticker(self, now_ms: int) -> dict[str, Any]:
        """Return the rolling 24-hour statistics as of `now_ms`.

        Returns
        -------
        dict
            Keys as in Binance's ``/api/v3/ticker/24hr`` without the book's: symbol, priceChange, priceChangePercent,
            weightedAvgPrice, prevClosePrice, lastPrice, lastQty, openPrice, highPrice, lowPrice, volume, quoteVolume
            (text); openTime, closeTime, firstId, lastId, count (int).
        """
        raise NotImplementedError


class Replay(Market):
    """The same over recorded trades, with their exact times, prices and quantities.

    Parameters
    ----------
    spec : Spec
        The symbol; `Spec.of_trades` reads the grid off the trades.
    trades : iterable of (ts_ms, price, qty, buyer_is_maker)
        In time order; prices and quantities as text or Decimal.
    start_ms : int, optional
        Trades up to and with it are history; the first trade's time if not given.
    quiet_bars : {'skip', 'flat'}
        As in `Market`.
    first_id : int
        Id of the first trade; the others follow it without a gap.

    Raises
    ------
    ValueError
        If a price or quantity does not lie on the symbol's grid, or times go backwards.
    """

    def __init__(
        self,
        spec: Spec,
        trades: Iterable[tuple[int, str | Decimal, str | Decimal, bool]],
        start_ms: int | None = None,
        quiet_bars: QuietBars = "skip",
        first_id: int = 1,
    ) -> None:
        raise NotImplementedError
