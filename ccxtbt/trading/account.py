"""What the exchange says that the account holds: the last balance, pushed or fetched."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any


class Wallet:
    """The last balance in ccxt's unified form; reading it never touches the network."""

    def __init__(self) -> None:
        self._free: dict[str, float] = {}
        self._total: dict[str, float] = {}
        self.raw: dict[str, Any] = {}

    def update(self, balance: Mapping[str, Any]) -> None:
        """Take a balance; a pushed one may name only the currencies that changed."""
        self.raw.update(balance)
        for kept, name in ((self._free, "free"), (self._total, "total")):
            kept.update(
                {
                    currency: float(amount)
                    for currency, amount in (balance.get(name) or {}).items()
                    if amount is not None
                }
            )

    def totals(self) -> dict[str, Decimal]:
        """Return what is held of each currency, to the digits that the exchange wrote."""
        return {currency: Decimal(repr(amount)) for currency, amount in self._total.items()}

    def free(self, currency: str | None) -> float:
        """Return what can be spent of a currency; 0 where the account never held it."""
        return self._free.get(currency or "", 0.0)

    def total(self, currency: str | None) -> float:
        """Return what is held of a currency, locked in orders or not; 0 where the account never held it."""
        return self._total.get(currency or "", 0.0)
