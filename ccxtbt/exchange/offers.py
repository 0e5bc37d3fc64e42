"""What an exchange offers, as its ccxt class describes itself and our facts complete it; nothing is asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import ccxt
import ccxt.pro

from ccxtbt.errors import ConfigError, NotOfferedError
from ccxtbt.exchange.adapter import class_of
from ccxtbt.exchange.exchanges import facts_of
from ccxtbt.exchange.facts import Facts
from ccxtbt.market.timeframes import readable

KINDS = ("spot", "swap", "future", "option")
"""ccxt's types of markets."""
# Some class of ccxt has percents where shares belong: no exchange takes so much.
MOST_FEE = 0.05


@dataclass(frozen=True, slots=True)
class Offer:
    """What one exchange offers.

    Attributes
    ----------
    exchange_id : str
        ccxt's name of it.
    facts : Facts
        What ccxt does not tell.
    kinds : tuple of str
        Types of its markets, of `KINDS`.
    timeframes : tuple of str
        Bars that it lists, shortest first; empty: it has none.
    rate_limit_ms : float
        ccxt's pause between two requests of cost 1.
    raw : object
        The ccxt exchange that this was read from; it holds no connection.
    """

    exchange_id: str
    facts: Facts
    kinds: tuple[str, ...]
    timeframes: tuple[str, ...]
    rate_limit_ms: float
    raw: Any

    def has(self, method: str) -> bool:
        """Whether ccxt has a method of the exchange, as ``'watchOHLCV'``, of its own or put together of others."""
        return bool(self.raw.has.get(method))

    def kind(self, kind: str | None) -> str:
        """Return a type of market, or the first that the exchange has.

        Raises
        ------
        NotOfferedError
            It has no such markets.
        """
        if kind is None and self.kinds:
            return self.kinds[0]
        if kind not in self.kinds:
            raise NotOfferedError(
                f"{self.exchange_id} has no {kind or 'listed'} markets: choose one of "
                f"{', '.join(self.kinds) or 'none at all'}."
            )
        return kind

    def features(self, kind: str, method: str) -> Mapping[str, Any] | None:
        """Return ccxt's features of a method in a type of market; None where ccxt lists none."""
        found = (self.raw.features or {}).get(kind) or {}
        if not found.get(method):
            # Contracts are listed apart by what they settle in; what both offer hardly differs.
            found = found.get("linear") or found.get("inverse") or {}
        features: Mapping[str, Any] | None = found.get(method)
        return features

    def page_limit(self, kind: str) -> int:
        """Return the most bars of one answer.

        Raises
        ------
        NotOfferedError
            Nobody tells.
        """
        told = self.facts.page_limit or (self.features(kind, "fetchOHLCV") or {}).get("limit")
        if not told:
            raise NotOfferedError(f"How many bars {self.exchange_id} gives at once is not told: pages show it.")
        return int(told)

    def fees(self, kind: str) -> dict[str, float]:
        """Return the usual fees as shares of the value: ``{'maker': ..., 'taker': ...}``.

        Raises
        ------
        NotOfferedError
            ccxt's class tells none, or none that can be.
        """
        told = self.raw.fees
        of_kind = told.get(kind) or {}
        contracts = () if kind == "spot" else (of_kind.get("linear"), told.get("contract"), told.get("swap"))
        for fees in (of_kind, *contracts, told.get("trading"), told):
            sides = {side: (fees or {}).get(side) for side in ("maker", "taker")}
            rates = {side: float(rate) for side, rate in sides.items() if isinstance(rate, float | int)}
            if len(rates) == len(sides) and all(abs(rate) < MOST_FEE for rate in rates.values()):
                return rates
        raise NotOfferedError(
            f"ccxt tells no usual fees of {self.exchange_id}: they stand in its markets, once these are loaded"
            + (", and fetch_trading_fee tells the account's." if self.has("fetchTradingFee") else ".")
        )


@cache
def _described(exchange_id: str) -> Any:
    """Return an exchange of the class that a connection uses, for what it says of itself."""
    return class_of(exchange_id)()


def offer_of(exchange_id: str, facts: Facts | None = None) -> Offer:
    """Return what an exchange offers.

    Parameters
    ----------
    exchange_id : str
        ccxt's name of it.
    facts : Facts or None
        The user's own, over the table's.

    Raises
    ------
    ConfigError
        ccxt knows no such exchange.
    """
    raw = _described(exchange_id)
    return Offer(
        exchange_id=exchange_id,
        facts=facts_of(exchange_id, facts),
        kinds=tuple(kind for kind in KINDS if raw.has.get(kind)),
        timeframes=tuple(str(each) for each in readable(raw.timeframes or ())) if raw.has.get("fetchOHLCV") else (),
        rate_limit_ms=float(raw.rateLimit),
        raw=raw,
    )


def unified_status(exchange_id: str, status: str) -> str:
    """Return ccxt's word for a status of an order in the exchange's own words."""
    raw = _described(exchange_id)
    read = getattr(raw, "parse_order_status", None)
    try:
        return str((read(status) if read is not None else None) or status)
    except (ccxt.BaseError, LookupError, TypeError, ValueError) as e:
        raise ConfigError(f"status={status!r} is none that ccxt can read of {exchange_id}: {e}") from e
