"""What the matching engine needs of the accounts' money, whatever the exchange trades."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import NamedTuple, Protocol

from ccxtbt.sim.desk import Offer
from ccxtbt.sim.events import Event
from ccxtbt.sim.orders import Order


class Settlement(NamedTuple):
    """What a fill cost, and what it brought beyond the coins that changed hands."""

    commission: Decimal
    commission_asset: str
    realized: Decimal = Decimal(0)


class Books(Protocol):
    """Balances and fees of all accounts of an exchange; see `SpotBooks` for the arguments."""

    maker_fee: Decimal
    taker_fee: Decimal
    fee_coin: str | None
    fee_coin_discount: Decimal

    def check(self, order: Order, takes: Iterable[tuple[Offer, Decimal]], needed: Decimal | None = None) -> None:
        """Refuse an order that its account cannot pay for."""
        ...

    def budget(self, order: Order) -> Decimal:
        """Return what an order that is about to take can spend."""
        ...

    def lock(self, order: Order, needed: Decimal) -> None:
        """Let an order hold `needed` of what it pays with."""
        ...

    def settle(self, order: Order, price: Decimal, qty: Decimal, *, is_maker: bool) -> Settlement:
        """Book a fill."""
        ...

    def changes(self, now_ms: int) -> Iterator[Event]:
        """Yield what changed since the last call."""
        ...
