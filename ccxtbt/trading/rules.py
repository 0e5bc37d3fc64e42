"""A market's rules as exact numbers, and the rounding of amounts and prices to the safe side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Any, Literal

from ccxtbt.errors import ConfigError, OrderRefusedError
from ccxtbt.exchange.facts import Trail

Side = Literal["buy", "sell"]

# ccxt's numbers for how a market states its precision (`exchange.precisionMode`).
DECIMAL_PLACES = 2
SIGNIFICANT_DIGITS = 3
TICK_SIZE = 4

# Where a market tells no step: the finest that exchanges commonly book.
FINEST_STEP = Decimal("1E-8")

# A float this close to a step, relative to its size, is that step: the residue of a few additions, no more.
_RESIDUE = Decimal(2) ** -48

# Wide enough that no product of an amount and a price is ever rounded.
EXACT = Context(prec=60)

ONE = Decimal(1)


def exact(value: Any, what: str) -> Decimal:
    """Return a number as the decimal that it is written as.

    Parameters
    ----------
    value : int, float, str or Decimal
        A float stands for its shortest text: 0.1 is one tenth.
    what : str
        Name of the value, for the message.

    Raises
    ------
    ConfigError
        `value` is no finite number.
    """
    if isinstance(value, float):
        value = float.__repr__(value)
    try:
        number = Decimal(value)
    except (TypeError, ValueError, InvalidOperation):
        raise ConfigError(f"The {what} {value!r} is not a number: give a finite number.") from None
    if not number.is_finite():
        raise ConfigError(f"The {what} is {number}, which is not a finite number: give a finite one.")
    return number


def text(number: Decimal) -> str:
    """Return a decimal as plain text, without an exponent and without trailing zeros."""
    written = f"{number:f}"
    return written.rstrip("0").rstrip(".") if "." in written else written


def floor_to(number: Decimal, step: Decimal) -> Decimal:
    """Return `number` cut to a whole number of steps, towards zero."""
    return EXACT.multiply(EXACT.divide_int(number, step), step)


def round_to(value: Any, step: Decimal, rounding: str, what: str = "number") -> Decimal:
    """Return `value` on a step; a float within its residue of a step is that step, whatever the direction.

    Parameters
    ----------
    value : int, float, str or Decimal
        What to round.
    step : Decimal
        Above 0.
    rounding : str
        One of decimal's ways to round.
    what : str
        Name of the value, for the message.

    Raises
    ------
    ConfigError
        `value` is no finite number.
    """
    number = exact(value, what)
    steps = EXACT.divide(number, step)
    nearest = steps.to_integral_value(ROUND_HALF_EVEN)
    if isinstance(value, float) and abs(steps - nearest) <= abs(steps) * _RESIDUE:
        return EXACT.multiply(nearest, step)
    return EXACT.multiply(steps.to_integral_value(rounding), step)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a market accepts.

    Attributes
    ----------
    symbol, base, quote : str
        Unified names.
    lot : Decimal
        Step of amounts, in base (or contracts).
    tick : Decimal
        Step of prices, in quote; 0 where the market counts significant digits.
    price_digits : int
        Significant digits of a price; 0 where the market has a tick.
    amount_min, amount_max, market_min, market_max : Decimal or None
        Limits of an amount, the latter two for market orders only.
    price_min, price_max : Decimal or None
        Limits of a price.
    cost_min, cost_max : Decimal or None
        Limits of amount times price, in quote.
    fee_rate : Decimal
        Taker's fee as a share of the value.
    trigger_param, take_profit_param : str
        ccxt's parameters of a stop's and a take-profit's trigger price; '' where ccxt knows none.
    trigger_direction : bool
        ccxt wants to be told from which side the price comes.
    market_buy_by_cost : bool
        The exchange takes a market buy as an amount of quote, which ccxt computes from a price.
    cost_orders : bool
        A market buy can say how much quote to spend.
    good_till_date : bool
        The exchange ends an order at a time that it is given.
    trailing : bool
        The exchange moves a stop with the price.
    contract_size : Decimal or None
        Base in one contract, of which amounts are numbers; None: amounts are in base.
    apart_param : str
        ccxt's parameter with which conditional orders are looked up and cancelled; '' where they are like any other.
    trail : Trail or None
        How far it does, where that is limited, and what else it wants to be told.
    lists : bool
        The exchange takes two orders that end each other as one list.
    """

    symbol: str
    base: str = ""
    quote: str = ""
    lot: Decimal = FINEST_STEP
    tick: Decimal = FINEST_STEP
    price_digits: int = 0
    amount_min: Decimal | None = None
    amount_max: Decimal | None = None
    market_min: Decimal | None = None
    market_max: Decimal | None = None
    price_min: Decimal | None = None
    price_max: Decimal | None = None
    cost_min: Decimal | None = None
    cost_max: Decimal | None = None
    fee_rate: Decimal = Decimal(0)
    trigger_param: str = "triggerPrice"
    take_profit_param: str = "takeProfitPrice"
    trigger_direction: bool = False
    market_buy_by_cost: bool = False
    cost_orders: bool = False
    good_till_date: bool = False
    trailing: bool = False
    contract_size: Decimal | None = None
    apart_param: str = ""
    trail: Trail | None = None
    lists: bool = False

    def amount(self, value: Any) -> Decimal:
        """Return an amount cut down to the lot.

        Raises
        ------
        ConfigError
            `value` is no finite number above zero.
        """
        number = exact(value, "size")
        if number <= 0:
            raise ConfigError(f"An order of size {number} for {self.symbol} trades nothing: give a size above 0.")
        return round_to(value, self.lot, ROUND_FLOOR)

    def price(self, value: Any, side: Side, what: str = "price") -> Decimal:
        """Return a price on the tick, a sell's rounded up and a buy's down.

        So a limit is never worse than asked, and a stop never triggers later than asked.

        Raises
        ------
        ConfigError
            `value` is no finite number above zero.
        """
        number = exact(value, what)
        if number <= 0:
            raise ConfigError(f"A {what} of {number} for {self.symbol} cannot be traded: give one above 0.")
        step = Decimal(1).scaleb(number.adjusted() + 1 - self.price_digits) if self.price_digits else self.tick
        return round_to(value, step, ROUND_FLOOR if side == "buy" else ROUND_CEILING)

    def least(self, price: Decimal | None) -> Decimal:
        """Return the smallest amount that the market takes at `price` (None: whatever the price), on the lot."""
        least = max(self.lot, self.amount_min or self.lot)
        if price and self.cost_min:
            lots = EXACT.divide(self.cost_min, self.value(self.lot, price)).to_integral_value(ROUND_CEILING)
            least = max(least, EXACT.multiply(lots, self.lot))
        return least

    def value(self, amount: Decimal, price: Decimal) -> Decimal:
        """Return what an amount is worth at `price`, in quote."""
        return EXACT.multiply(EXACT.multiply(amount, price), self.contract_size or ONE)

    def check(
        self, amount: Decimal, price: Decimal | None, last: Decimal | None = None, *, reduces: bool = False
    ) -> None:
        """Refuse what the exchange would refuse.

        Parameters
        ----------
        amount : Decimal
            In base, on the lot.
        price : Decimal or None
            Limit price; None for a market order.
        last : Decimal or None
            The market's last price: what a market order comes to is reckoned by it. The exchange reckons by an average
            of its own and has the last word.
        reduces : bool
            It can only reduce a position: it may be worth as little as it likes.

        Raises
        ------
        OrderRefusedError
            Which limit is broken, and how to keep it.
        """
        lows = [self.lot, self.amount_min, self.market_min if price is None else None]
        highs = [self.amount_max, self.market_max if price is None else None]
        low = max(limit for limit in lows if limit is not None)
        high = min((limit for limit in highs if limit is not None), default=amount)
        if amount < low:
            raise OrderRefusedError(
                f"The size {text(amount)} {self.base} is below {self.symbol}'s smallest, {text(low)}: order more."
            )
        if amount > high:
            raise OrderRefusedError(
                f"The size {text(amount)} {self.base} is above {self.symbol}'s largest, {text(high)}: split the order."
            )
        if price is None:
            price = last
        elif (self.price_min and price < self.price_min) or (self.price_max and price > self.price_max):
            raise OrderRefusedError(
                f"The price {text(price)} is outside {self.symbol}'s limits, {self.price_min} to {self.price_max}: "
                "choose one inside."
            )
        if price is None:
            return
        cost = self.value(amount, price)
        if self.cost_min and cost < self.cost_min and not reduces:
            raise OrderRefusedError(
                f"An order of {text(amount)} at {text(price)} is worth {text(cost)} {self.quote}, below "
                f"{self.symbol}'s minimum of {text(self.cost_min)}: order at least {text(self.least(price))}."
            )
        if self.cost_max and cost > self.cost_max:
            raise OrderRefusedError(
                f"An order of {text(amount)} at {text(price)} is worth {text(cost)} {self.quote}, above "
                f"{self.symbol}'s maximum of {text(self.cost_max)}: split the order."
            )


def _limit(limits: Mapping[str, Any], name: str, end: str) -> Decimal | None:
    """Read one limit; ccxt gives None, and exchanges write 0, where there is none."""
    value = (limits.get(name) or {}).get(end)
    return (exact(value, f"{name} limit") or None) if value is not None else None


def _step(value: Any, mode: int) -> Decimal:
    if value is None:
        return FINEST_STEP
    number = exact(value, "precision")
    return number if mode == TICK_SIZE else Decimal(1).scaleb(-int(number))


def rules_of(
    market: Mapping[str, Any],
    precision_mode: int,
    features: Mapping[str, Any] | None = None,
    *,
    triggers_apart: bool = False,
    trail: Trail | None = None,
    lists: bool = False,
) -> Rules:
    """Read a market's rules from ccxt's unified structure.

    Parameters
    ----------
    market : mapping
        ccxt's market: `symbol`, `base`, `quote`, `precision`, `limits`, `taker`.
    precision_mode : int
        `exchange.precisionMode`.
    features : mapping or None
        ccxt's `createOrder` features of the market's type; None: triggers as in ccxt's default.
    triggers_apart : bool
        Conditional orders are looked up and cancelled apart from the others, with ccxt's parameter ``trigger``.
    trail : Trail or None
        How markets of this type trail.
    lists : bool
        The market takes order lists, of which ccxt's features do not tell.

    Raises
    ------
    ConfigError
        A precision or limit is no number.
    """
    precision, limits = market.get("precision") or {}, market.get("limits") or {}
    digits = precision_mode == SIGNIFICANT_DIGITS
    offered = features or {}
    contract = bool(market.get("contract"))
    trigger = "triggerPrice" if features is None or offered.get("triggerPrice") else ""
    if not trigger and offered.get("stopLossPrice"):
        trigger = "stopLossPrice"
    return Rules(
        symbol=str(market["symbol"]),
        base=str(market.get("base") or ""),
        quote=str((market.get("settle") if contract else None) or market.get("quote") or ""),
        # Where prices are counted in significant digits, amounts are in decimal places all the same.
        lot=_step(precision.get("amount"), precision_mode),
        tick=Decimal(0) if digits else _step(precision.get("price"), precision_mode),
        price_digits=int(precision["price"]) if digits and precision.get("price") else 0,
        amount_min=_limit(limits, "amount", "min"),
        amount_max=_limit(limits, "amount", "max"),
        market_min=_limit(limits, "market", "min"),
        market_max=_limit(limits, "market", "max"),
        price_min=_limit(limits, "price", "min"),
        price_max=_limit(limits, "price", "max"),
        cost_min=_limit(limits, "cost", "min"),
        cost_max=_limit(limits, "cost", "max"),
        fee_rate=exact(market.get("taker") or 0, "fee rate"),
        trigger_param=trigger,
        take_profit_param="takeProfitPrice" if features is None or offered.get("takeProfitPrice") else "",
        trigger_direction=bool(offered.get("triggerDirection")),
        market_buy_by_cost=bool(offered.get("marketBuyRequiresPrice")),
        # By what ccxt says contracts too could be bought by cost; it sends their amount all the same.
        cost_orders=bool(offered.get("marketBuyByCost")) and not contract,
        good_till_date=bool((offered.get("timeInForce") or {}).get("GTD")),
        contract_size=exact(market.get("contractSize") or 1, "contract size") if contract else None,
        apart_param="trigger" if triggers_apart else "",
        trailing=bool(offered.get("trailing") or (trail and (market.get("info") or {}).get(trail.offered_by))),
        trail=trail,
        lists=lists,
    )
