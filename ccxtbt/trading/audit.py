"""What changed in an account beside the fills of a run, without I/O: deposits, funding, orders of others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from ccxtbt.trading.contracts import Payment
from ccxtbt.trading.reports import FillFact
from ccxtbt.trading.rules import EXACT, FINEST_STEP

# A difference is looked at only after this: most are fills whose own message is still on its way.
SETTLE_S = 0.5

# Fills of others that are remembered, since each is told by a stream and by look-ups.
FILLS_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Apart:
    """A change of the account that no order of this run made.

    Attributes
    ----------
    changes : mapping of str to Decimal
        Currency -> what came, or below 0 what went.
    fill : FillFact or None
        The trade of another's order that did it; None where only the balance shows it: a deposit, a withdrawal, a
        transfer.
    payment : Payment or None
        What was paid or earned for holding a contract.
    position : Decimal or None
        The run's position after it, where another's order traded a contract of the run.
    forced : str
        What the exchange itself did, such as a liquidation; '' where it did nothing, or does not say.
    """

    changes: Mapping[str, Decimal]
    fill: FillFact | None = None
    payment: Payment | None = None
    position: Decimal | None = None
    forced: str = ""

    def __str__(self) -> str:
        changes = ", ".join(f"{change:+f} {currency}" for currency, change in self.changes.items()) or "no money"
        if self.payment is not None:
            return f"Funding of {self.payment.symbol}: {changes}; it is booked apart."
        if self.fill is not None and self.position is not None:
            traded = f"{self.fill.side} {self.fill.amount:f} {self.fill.symbol} at {self.fill.price:f}"
            whose = f"{self.forced} by the exchange" if self.forced else "an order that is not of this run"
            return f"{whose[0].upper()}{whose[1:]}: {traded} ({changes}); the position is {self.position:f}."
        if self.fill is None:
            return (
                f"The balance changed by {changes} without an order of this run (a deposit, a withdrawal, a transfer, "
                "a payment): it is booked apart."
            )
        return (
            f"Order {self.fill.order_id}, which is not of this run, traded {self.fill.symbol} ({changes}): it is "
            "booked apart and changes no position of the run."
        )


class Audit:
    """Compares what the exchange says is held with what the books say.

    A balance and the fills behind it come in any order, so that one difference proves nothing. It is taken for real
    when two looks in a row, each at the trades first and then at the balance, find the same one. Whatever is booked
    wrongly even so differs the other way afterwards, and is mended in the same manner.

    Attributes
    ----------
    looking : bool
        A look is under way.
    """

    def __init__(self) -> None:
        self.looking = False
        self._due_s: float | None = None
        self._suspected: dict[str, Decimal] = {}
        self._fills: OrderedDict[tuple[str | None, str], None] = OrderedDict()

    def notice(self, differences: Mapping[str, Decimal], now_s: float) -> None:
        """Take the differences by a pushed balance: if there are any, a look becomes due."""
        if differences:
            self.expect(now_s)

    def expect(self, now_s: float) -> None:
        """Let a look become due."""
        if self._due_s is None:
            self._due_s = now_s + SETTLE_S

    def is_due(self, now_s: float) -> bool:
        """Whether a look should be made now."""
        return self._due_s is not None and not self.looking and now_s >= self._due_s

    def put_off(self, now_s: float, *, again: bool) -> None:
        """Make no look now; `again`: but later."""
        self._due_s = now_s + SETTLE_S if again else None
        self._suspected = {}

    def look(self, differences: Mapping[str, Decimal], now_s: float) -> dict[str, Decimal]:
        """Take the differences of a look, and return those that the look before had found too."""
        self.looking = False
        proved = {
            currency: difference
            for currency, difference in differences.items()
            if currency in self._suspected and abs(self._suspected[currency] - difference) <= FINEST_STEP
        }
        self._suspected = {currency: value for currency, value in differences.items() if currency not in proved}
        self._due_s = now_s + SETTLE_S if self._suspected else None
        return proved

    def is_new(self, fill: FillFact) -> bool:
        """Whether a fill of another's order is heard of for the first time; one without an id never is."""
        if fill.trade_id is None or (fill.symbol, fill.trade_id) in self._fills:
            return False
        self._fills[fill.symbol, fill.trade_id] = None
        while len(self._fills) > FILLS_KEPT:
            self._fills.popitem(last=False)
        return True


def sum_of(*flows: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """Return the sums of some amounts by currency."""
    sums: dict[str, Decimal] = {}
    for flow in flows:
        for currency, amount in flow.items():
            sums[currency] = EXACT.add(sums.get(currency, Decimal(0)), amount)
    return sums
