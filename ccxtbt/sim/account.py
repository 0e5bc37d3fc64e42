"""Balances, free and locked, as exact decimals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal


@dataclass(slots=True)
class Balance:
    """What an account has of one coin."""

    free: Decimal = Decimal(0)
    locked: Decimal = Decimal(0)

    @property
    def total(self) -> Decimal:
        """Free and locked together."""
        return self.free + self.locked


class Account:
    """Keys and balances of one customer.

    Parameters
    ----------
    api_key, secret : str
        As the customer signs with.
    balances : mapping of str to Decimal, str or int
        What is there at first, all free.
    """

    def __init__(self, api_key: str, secret: str, balances: Mapping[str, Decimal | str | int]) -> None:
        self.api_key = api_key
        self.secret = secret
        self.updated_ms = 0
        self.balances = {asset: Balance(Decimal(amount)) for asset, amount in balances.items()}

    def balance(self, asset: str) -> Balance:
        """Return the balance of a coin, an empty one if the account never had any."""
        return self.balances.setdefault(asset, Balance())

    def lock(self, asset: str, change: Decimal) -> None:
        """Move `change` from free to locked; back if it is negative."""
        balance = self.balance(asset)
        balance.free -= change
        balance.locked += change

    def deposit(self, asset: str, amount: Decimal) -> None:
        """Add `amount` to what is free; take it if it is negative."""
        self.balance(asset).free += amount
