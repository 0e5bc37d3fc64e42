"""What the exchange says that the account holds: the last balance, pushed or fetched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ccxtbt.trading.rules import EXACT

# ccxt gives amounts as floats: a difference of so many of their last places is none.
_LAST_PLACES = 4


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

    def replace(self, balance: Mapping[str, Any]) -> None:
        """Take a balance that was asked for: what it does not name is not there."""
        self._free = dict.fromkeys(self._free, 0.0)
        self._total = dict.fromkeys(self._total, 0.0)
        self.raw = {}
        self.update(balance)

    def totals(self) -> dict[str, Decimal]:
        """Return what is held of each currency, to the digits that the exchange wrote."""
        return {currency: Decimal(repr(amount)) for currency, amount in self._total.items()}

    def differences(self, amounts: Mapping[str, Decimal]) -> dict[str, Decimal]:
        """Return how much more is held of each currency than `amounts` say, or below 0 less, where it is not equal.

        Parameters
        ----------
        amounts : mapping of str to Decimal
            Currency -> what should be held; one that is missing should not be held at all.
        """
        found = {}
        held = self.totals()
        for currency in held.keys() | amounts.keys():
            told, expected = held.get(currency, Decimal(0)), amounts.get(currency, Decimal(0))
            difference = EXACT.subtract(told, expected)
            if abs(difference) > _LAST_PLACES * Decimal(math.ulp(float(max(abs(told), abs(expected))))):
                found[currency] = difference
        return found

    def free(self, currency: str | None) -> float:
        """Return what can be spent of a currency; 0 where the account never held it."""
        return self._free.get(currency or "", 0.0)

    def total(self, currency: str | None) -> float:
        """Return what is held of a currency, locked in orders or not; 0 where the account never held it."""
        return self._total.get(currency or "", 0.0)
