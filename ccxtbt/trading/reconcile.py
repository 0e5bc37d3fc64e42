"""What we believe against what the exchange says, without I/O: what to ask for next, and what is foreign."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from ccxtbt.errors import ConfigError
from ccxtbt.trading.reports import Fact, OrderFact
from ccxtbt.trading.states import OrderState, Status

# How much earlier than its intent, by a clock that was off, an order may have traded.
MARGIN_MS = 60_000


class Foreign(StrEnum):
    """What to do about open orders of the account that are not ours."""

    IGNORE = "ignore"
    ADOPT = "adopt"
    HALT = "halt"

    @classmethod
    def of(cls, asked: str) -> Foreign:
        """Read what a user says.

        Raises
        ------
        ConfigError
            It is none of these.
        """
        if asked not in list(cls):
            raise ConfigError(f"foreign={asked!r} is not known: say {', '.join(repr(str(each)) for each in cls)}.")
        return cls(asked)


@dataclass(frozen=True, slots=True)
class Kept:
    """An order of ours that is not known to have ended.

    Attributes
    ----------
    client_id, order_id : str, str or None
        Our id and the exchange's.
    symbol : str
        Market.
    made_ms : int
        When it was made.
    filled : Decimal
        What of it was counted.
    seen : bool
        The exchange is known to have, or to have had it.
    apart : str
        ccxt's parameter with which it is looked up, where conditional orders live apart from the others.
    """

    client_id: str
    order_id: str | None
    symbol: str
    made_ms: int
    filled: Decimal = Decimal(0)
    seen: bool = False
    apart: str = ""

    @classmethod
    def of(cls, state: OrderState, made_ms: int, apart: str = "") -> Kept:
        """Return what is to be asked of an order."""
        seen = state.status is not Status.SUBMITTED
        return cls(state.client_id, state.order_id, state.symbol, made_ms, state.filled, seen, apart)

    def is_told_by(self, fact: OrderFact) -> bool:
        """Whether a message is about this order."""
        if fact.client_id == self.client_id:
            return True
        # The exchange's ids are unique within a market only.
        return self.order_id is not None and (fact.symbol, fact.order_id) == (self.symbol, self.order_id)


@dataclass(frozen=True, slots=True)
class Answers:
    """What the exchange says of our orders.

    Attributes
    ----------
    facts : list of Fact
        Fills and orders, to be applied in this order.
    others : list of OrderFact
        Open orders that are none of those that were asked for.
    absent : list of Kept
        What it says that it does not know: some exchanges show an order late, so that one such answer proves nothing.
    """

    facts: list[Fact]
    others: list[OrderFact]
    absent: list[Kept]


def sort_open(
    kept: Sequence[Kept], open_orders: Iterable[OrderFact]
) -> tuple[list[OrderFact], list[Kept], list[OrderFact]]:
    """Compare our orders with those that are open at the exchange.

    Returns
    -------
    ours : list of OrderFact
        Messages about ours.
    missing : list of Kept
        Ours that are not open there: they have ended, or never arrived. They have to be asked for one by one.
    others : list of OrderFact
        Open orders that are none of these.
    """
    ours, others = [], []
    left = {each.client_id: each for each in kept}
    for fact in open_orders:
        mine = next((each for each in left.values() if each.is_told_by(fact)), None)
        if mine is None:
            others.append(fact)
        else:
            del left[mine.client_id]
            ours.append(fact)
    return ours, list(left.values()), others


def trades_wanted(kept: Sequence[Kept], facts: Iterable[OrderFact]) -> dict[str, int]:
    """Return the markets whose trades are missing, and since when (ms): what was filled and is not counted yet.

    Parameters
    ----------
    kept : sequence of Kept
        What was counted.
    facts : iterable of OrderFact
        What is filled, as the exchange says.
    """
    since: dict[str, int] = {}
    for fact in facts:
        mine = next((each for each in kept if each.is_told_by(fact)), None)
        if mine is None or (fact.filled is not None and fact.filled <= mine.filled):
            continue
        since[mine.symbol] = min(since.get(mine.symbol, mine.made_ms), mine.made_ms)
    return {symbol: made_ms - MARGIN_MS for symbol, made_ms in since.items()}


def is_foreign(fact: OrderFact, ours: Container[str], unanswered: Container[str | None]) -> bool:
    """Whether an open order is nobody's here.

    Parameters
    ----------
    fact : OrderFact
        The order.
    ours : container of str
        Our client ids.
    unanswered : container of str
        Markets in which an order of ours does not know the exchange's id of it yet: one without a client id may be it.
    """
    if fact.client_id is not None:
        return fact.client_id not in ours
    return fact.symbol not in unanswered
