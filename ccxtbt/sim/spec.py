"""What a symbol of the simulated exchange is: its coins, its grid and how it trades."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

E8 = 10**8
"""Prices, quantities and balances have eight decimals, as on Binance."""

UNIT = Decimal(1).scaleb(-8)


def e8_text(value: int) -> str:
    """Return a number in units of 1e-8, not below 0, as text with eight decimals."""
    return f"{value // E8}.{value % E8:08d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A symbol: names, price and quantity grid, limits on orders, and the character of its seeded trades.

    Attributes
    ----------
    symbol, base, quote : str
        As Binance writes them: ``'BTCUSDT'``, ``'BTC'``, ``'USDT'``.
    price : Decimal
        About where a seeded market stands at its start.
    tick_size, step_size : Decimal
        The grids of price and of quantity; multiples of 1e-8.
    min_price, max_price, min_qty, max_qty, market_max_qty : Decimal
        Limits of PRICE_FILTER, LOT_SIZE and MARKET_LOT_SIZE.
    min_notional, max_notional : Decimal
        Limits of NOTIONAL, in the quote coin.
    percent_up, percent_down : Decimal
        Multipliers of PERCENT_PRICE_BY_SIDE over the last price.
    min_trailing, max_trailing : int
        Limits of TRAILING_DELTA, in hundredths of a percent.
    max_orders, max_algo_orders, max_order_lists : int
        Open orders, untriggered stops among them, and open order lists that an account may have.
    trades_per_minute : float
        Average of a seeded market, quiet minutes included.
    trade_value : float
        Typical worth of one seeded trade, in the quote coin.
    volatility : float
        Standard deviation of a minute's move, as a share of the price.
    quiet : float
        Share of minutes without any trade, at least 0 and below 1.

    Raises
    ------
    ValueError
        If a grid is not a positive multiple of 1e-8, or the trading numbers make no market.
    """

    symbol: str
    base: str
    quote: str
    price: Decimal = Decimal(100)
    tick_size: Decimal = Decimal("0.01")
    step_size: Decimal = Decimal("0.0001")
    min_price: Decimal = Decimal("0.01")
    max_price: Decimal = Decimal(1_000_000)
    min_qty: Decimal = Decimal("0.0001")
    max_qty: Decimal = Decimal(90_000_000)
    market_max_qty: Decimal = Decimal(9_000_000)
    min_notional: Decimal = Decimal(5)
    max_notional: Decimal = Decimal(9_000_000)
    percent_up: Decimal = Decimal(5)
    percent_down: Decimal = Decimal("0.2")
    min_trailing: int = 10
    max_trailing: int = 2_000
    max_orders: int = 200
    max_algo_orders: int = 5
    max_order_lists: int = 20
    trades_per_minute: float = 12.0
    trade_value: float = 250.0
    volatility: float = 0.0006
    quiet: float = 0.05

    def __post_init__(self) -> None:
        for name in ("tick_size", "step_size"):
            size = getattr(self, name)
            if size <= 0 or size % UNIT:
                raise ValueError(f"{self.symbol}: {name} is {size}: give a positive multiple of {UNIT}")
        if self.price < self.tick_size:
            raise ValueError(f"{self.symbol}: price {self.price} lies below one tick ({self.tick_size}): raise it")
        if not self.trades_per_minute > 0:
            raise ValueError(f"{self.symbol}: trades_per_minute is {self.trades_per_minute}: give a number above 0")
        if not 0 <= self.quiet < 1:
            raise ValueError(f"{self.symbol}: quiet is {self.quiet}: give a share of at least 0 and below 1")

    @property
    def tick_e8(self) -> int:
        """The tick in units of 1e-8."""
        return int(self.tick_size * E8)

    @property
    def step_e8(self) -> int:
        """The step in units of 1e-8."""
        return int(self.step_size * E8)

    @classmethod
    def of_trades(
        cls, symbol: str, base: str, quote: str, trades: Iterable[tuple[int, str, str, bool]], **more: Any
    ) -> Spec:
        """Return a spec whose grid is the coarsest power of ten on which recorded trades lie.

        Parameters
        ----------
        symbol, base, quote : str
            As in `Spec`.
        trades : iterable of (ts_ms, price, qty, buyer_is_maker)
            Prices and quantities as text or Decimal.
        **more
            Any other field of `Spec`; wins over what the trades say.
        """
        first: Decimal | None = None
        worth, count = Decimal(0), 0
        price_digits = qty_digits = 0
        for _, price, qty, _ in trades:
            first = first or Decimal(price)
            worth += Decimal(price) * Decimal(qty)
            count += 1
            price_digits = max(price_digits, _decimals(price))
            qty_digits = max(qty_digits, _decimals(qty))
        if first is None:
            raise ValueError(f"{symbol}: there are no trades to read a price grid from: give at least one")
        tick, step = Decimal(1).scaleb(-price_digits), Decimal(1).scaleb(-qty_digits)
        fields: dict[str, Any] = {
            "price": first,
            "tick_size": tick,
            "step_size": step,
            "min_price": tick,
            "min_qty": step,
            "min_notional": Decimal(0),
            "trade_value": float(worth / count),
        }
        return cls(symbol=symbol, base=base, quote=quote, **(fields | more))


def _decimals(number: str | Decimal) -> int:
    """Return how many decimals a number needs."""
    exponent = Decimal(number).normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0
