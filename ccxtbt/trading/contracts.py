"""Contracts, without I/O: a position that holds no coin, what the exchange says of it, and what holding it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from ccxtbt.trading.books import ZERO, Book, Booking, Rate
from ccxtbt.trading.rules import EXACT, exact
from ccxtbt.trading.states import Amend, Fill


@dataclass(frozen=True, slots=True)
class Stance:
    """A position in a contract by the exchange.

    Attributes
    ----------
    symbol : str
        Market, in ccxt's name.
    size : Decimal
        In contracts, below 0 for a short one; in hedge mode the sum of both.
    entry : Decimal or None
        Mean price at which it was opened; None without one, or in hedge mode with two.
    leverage : float or None
        As set; None where the message does not say.
    margin_mode : str or None
        'cross' or 'isolated'; None where the message does not say.
    liquidation : float or None
        Price at which the exchange would close it, as of the message.
    ts_ms : int or None
        The exchange's time of the position.
    """

    symbol: str
    size: Decimal = ZERO
    entry: Decimal | None = None
    leverage: float | None = None
    margin_mode: str | None = None
    liquidation: float | None = None
    ts_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Payment:
    """What was paid or earned for holding a contract: funding.

    Attributes
    ----------
    symbol : str
        The contract.
    currency : str
        What it was paid in.
    amount : Decimal
        Below 0 where it was paid.
    ts_ms : int
        When.
    payment_id : str
        The exchange's id of it; unique with symbol and time.
    """

    symbol: str
    currency: str
    amount: Decimal
    ts_ms: int
    payment_id: str


def stances_of(positions: Iterable[Mapping[str, Any]]) -> tuple[Stance, ...]:
    """Read ccxt's positions; the two of hedge mode become one."""
    read: dict[str, Stance] = {}
    for row in positions:
        contracts = exact(row.get("contracts") or 0, "position")
        size = -abs(contracts) if row.get("side") == "short" else contracts
        entry = exact(row["entryPrice"], "entry price") if row.get("entryPrice") and size else None
        stance = Stance(
            symbol=str(row["symbol"]),
            size=size,
            entry=entry,
            leverage=row.get("leverage"),
            margin_mode=row.get("marginMode"),
            liquidation=row.get("liquidationPrice") or None,
            ts_ms=row.get("timestamp"),
        )
        other = read.get(stance.symbol)
        if other is not None and other.size:
            both = bool(stance.size)
            net = EXACT.add(other.size, stance.size)
            stance = replace(stance, size=net, entry=None if both else other.entry, liquidation=None)
        read[stance.symbol] = stance
    return tuple(read.values())


def payment_of(row: Mapping[str, Any]) -> Payment:
    """Read one of ccxt's funding payments."""
    return Payment(
        symbol=str(row["symbol"]),
        currency=str(row["code"]),
        amount=exact(row["amount"], "funding"),
        ts_ms=int(row["timestamp"]),
        payment_id=str(row.get("id")),
    )


class ContractBook(Book):
    """The position in one linear contract.

    It holds no coin: a fill moves nothing but the position, until what it closes settles its profit to the wallet, and
    the fee. Sizes are numbers of contracts.

    Parameters
    ----------
    settle : str
        Currency of profits, fees and payments.
    lot : Decimal
        Step of sizes.
    contract_size : Decimal
        Base in one contract.

    Attributes
    ----------
    traded_ms : int
        Time of its latest fill; 0 before there is one.
    """

    def __init__(self, settle: str, lot: Decimal, contract_size: Decimal) -> None:
        super().__init__("", settle, lot)
        self.contract_size = contract_size
        self.traded_ms = 0

    def fill(self, fill: Fill, rate: Rate) -> Booking:
        """Book a fill; what its closing part has gained is the exchange's word, where it gives one."""
        self.held = EXACT.add(self.held, fill.size)
        self.traded_ms = max(self.traded_ms, fill.ts_ms or 0)
        booking = self._book(fill, self._fee(fill.fee_cost, fill.fee_currency, fill.price, rate))
        pnl = EXACT.multiply(booking.pnl, self.contract_size) if fill.realized is None else fill.realized
        self._flow(self.quote, pnl)
        return replace(
            booking,
            pnl=pnl,
            openedvalue=EXACT.multiply(booking.openedvalue, self.contract_size),
            closedvalue=EXACT.multiply(booking.closedvalue, self.contract_size),
        )

    def amend(self, amend: Amend, side: int, price: Decimal, rate: Rate) -> Decimal:
        """Book a fee that came late; what a fill cost moves no cash."""
        return self._fee(amend.fee_cost, amend.fee_currency, price, rate)

    def standing(self) -> Booking:
        """Return the position as if one fill without a fee had made it."""
        standing = super().standing()
        return replace(standing, openedvalue=EXACT.multiply(standing.openedvalue, self.contract_size))

    def agrees(self, stance: Stance) -> bool:
        """Take the exchange's mean price, where it speaks of this very position; whether that changed anything.

        Its mean is rounded, and by the order in which it booked the fills; ours came in the order of their messages.
        """
        spoken = stance.size == self.size and stance.entry is not None and (stance.ts_ms or 0) >= self.traded_ms
        if not spoken or stance.entry is None or stance.entry == self.price:
            return False
        self.price = stance.entry
        return True
