"""What earlier runs have left in the journal: orders that may still be open, what hangs together, and positions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import orjson

from ccxtbt.trading.rules import Side
from ccxtbt.trading.states import DONE, Amend, Fill, OrderState, Status

# So many of the last orders are known again although they have ended: for a late message, and for an order that was
# told to be refused and is at the exchange all the same.
RECENT = 500

# What stands in the journal for a value that it must not keep.
MASKED = "***"

_ENDS = ", ".join(f"'{status.value}'" for status in sorted(DONE))
_STATUSES = {status.value: status for status in Status}

Key = tuple[int, int]
"""The run in which an order was made, and backtrader's number of it there."""


@dataclass(frozen=True, slots=True)
class PastLeg:
    """An order at the exchange, as it was last told of.

    Attributes
    ----------
    client_id, order_id : str, str or None
        Our id and the exchange's.
    symbol, side : str
        What it trades.
    amount : Decimal or None
        As sent; None where the exchange fills by cost.
    number : int
        Which of the order's legs it is.
    made_ms : int
        When it was made, by the exchange's clock.
    status : Status
        SUBMITTED where no answer is known.
    told : tuple of Fill or Amend
        What was counted.
    triggered : bool
        A stop, sent as what it becomes.
    at_once : bool
        It trades when it arrives, and never rests.
    list_id : str
        Our id of the list that it is in.
    apart : str
        ccxt's parameter with which it is looked up, where conditional orders live apart from the others.
    reduces : bool
        It can only reduce a position.
    sequence : int
        Higher, the later it was sent.
    """

    client_id: str
    order_id: str | None
    symbol: str
    side: Side
    amount: Decimal | None
    number: int
    made_ms: int
    status: Status
    told: tuple[Fill | Amend, ...] = ()
    triggered: bool = False
    at_once: bool = False
    list_id: str = ""
    apart: str = ""
    reduces: bool = False
    sequence: int = 0

    @property
    def done(self) -> bool:
        """Whether its end is known."""
        return self.status in DONE

    def state(self) -> OrderState:
        """Return its state, as if nobody had been away."""
        state = OrderState(
            self.client_id,
            self.symbol,
            self.side,
            self.amount,
            conditional=bool(self.apart),
            reduces=self.reduces,
        )
        state.recall(self.status, self.order_id, self.told)
        return state


@dataclass(frozen=True, slots=True)
class PastOrder:
    """An order of a strategy, with all its legs.

    Attributes
    ----------
    key : Key
        Who it is, in all runs.
    symbol : str
        Market.
    asked : mapping
        What the strategy ordered.
    legs : tuple of PastLeg
        In the order in which they were sent; none where it waits here, or has never left.
    role : str
        'parent', 'stop', 'limit', 'oco', 'armed', or '' for an order on its own.
    bond : Key or None
        The first of those it hangs together with.
    status : str
        ``'open'``, or how it ended, where it has a role.
    """

    key: Key
    symbol: str
    asked: Mapping[str, Any]
    legs: tuple[PastLeg, ...]
    role: str = ""
    bond: Key | None = None
    status: str = ""

    @property
    def open(self) -> bool:
        """Whether its end was not told."""
        if self.role in {"stop", "limit"}:
            return self.status == "open"
        if self.legs:
            return not self.legs[-1].done
        return self.status == "open"


@dataclass(frozen=True, slots=True)
class Counted:
    """A fill, or what a counted fill turned out to have cost, with its number in the journal."""

    number: int
    client_id: str
    side: Side
    tradeid: int
    what: Fill | Amend


@dataclass(frozen=True, slots=True)
class PastBook:
    """A position as it stood, and what was counted since.

    Attributes
    ----------
    held, size, price : Decimal
        As of `trading.books.Book`.
    since : tuple of Counted
        In the order in which they were counted.
    """

    held: Decimal = Decimal(0)
    size: Decimal = Decimal(0)
    price: Decimal = Decimal(0)
    since: tuple[Counted, ...] = ()


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier runs have left.

    Attributes
    ----------
    orders : tuple of PastOrder
        Those that are not known to have ended, all that hang together with them, and the last ones that have.
    books : mapping of str to PastBook
        By symbol.
    """

    orders: tuple[PastOrder, ...] = ()
    books: Mapping[str, PastBook] = field(default_factory=dict)

    @property
    def at_stake(self) -> bool:
        """Whether somebody has to look after something: an open order, or perhaps a position."""
        return any(order.open for order in self.orders) or any(book.size or book.since for book in self.books.values())


def read_past(db: sqlite3.Connection) -> Past:
    """Read what earlier runs have left; of a journal without any, nothing."""
    keys: set[Key] = set(
        db.execute(
            f"SELECT run, ref FROM intents AS i WHERE NOT EXISTS ("  # noqa: S608  # constants
            f"SELECT 1 FROM states AS s WHERE s.client_id = i.client_id AND s.status IN ({_ENDS}))"
        )
    )
    keys |= set(db.execute("SELECT run, ref FROM intents ORDER BY number DESC LIMIT ?", (RECENT,)))
    links = {
        (run, ref): ((bond_run, bond), role, symbol, orjson.loads(asked), status)
        for run, ref, bond_run, bond, role, symbol, asked, status in db.execute(
            "SELECT run, ref, bond_run, bond, role, symbol, asked, status FROM links "
            "WHERE (bond_run, bond) IN (SELECT bond_run, bond FROM links WHERE status = 'open')"
        )
    }
    orders = []
    for key in sorted(keys | links.keys()):
        legs = [_leg(db, row) for row in db.execute(f"{_INTENTS} WHERE run = ? AND ref = ? ORDER BY number", key)]
        if key in links:
            bond, role, symbol, asked, status = links[key]
            orders.append(PastOrder(key, symbol, asked, tuple(leg for leg, _ in legs), role, bond, status))
        elif legs:
            orders.append(PastOrder(key, legs[0][0].symbol, legs[0][1], tuple(leg for leg, _ in legs)))
    return Past(tuple(orders), _books(db))


_INTENTS = (
    "SELECT client_id, symbol, side, amount, by_cost, leg, made_ms, asked, number, type, price, params, until_ms, "
    "tradeid "
    "FROM intents"
)
_FILLS = "SELECT id, trade_id, size, price, cost, fee_cost, fee_currency, ts_ms FROM fills"


def _leg(db: sqlite3.Connection, row: tuple[Any, ...]) -> tuple[PastLeg, Mapping[str, Any]]:
    client_id, symbol, side, amount, by_cost, number, made_ms, asked, sequence, *request = row
    told = tuple(_counted(each[1:]) for each in db.execute(f"{_FILLS} WHERE client_id = ? ORDER BY id", (client_id,)))
    status, order_id = Status.SUBMITTED, None
    states = "SELECT status, order_id FROM states WHERE client_id = ? ORDER BY id"
    for said, known_id in db.execute(states, (client_id,)):
        order_id = order_id or known_id
        status = status if status in DONE else _STATUSES.get(said, status)
    if status not in DONE and any(isinstance(each, Fill) for each in told):
        status = Status.PARTIAL
    kept = orjson.loads(asked) or _as_sent(symbol, side, amount, made_ms, *request)
    leg = PastLeg(
        client_id,
        order_id,
        symbol,
        side,
        None if by_cost else Decimal(amount),
        number,
        made_ms,
        status,
        told,
        triggered=bool(kept.get("triggered")),
        at_once=bool(kept.get("at_once")),
        list_id=kept.get("list_id", ""),
        apart=kept.get("apart", ""),
        reduces=bool(kept.get("reduces")),
        sequence=sequence,
    )
    return leg, kept


def _as_sent(
    symbol: str, side: str, amount: str, made_ms: int, kind: str, price: str | None, params: str, until_ms: Any,
    tradeid: int,
) -> dict[str, Any]:  # fmt: skip
    """Return what a strategy ordered, where a journal of an earlier release tells only what was sent."""
    trigger = orjson.loads(params).get("triggerPrice")
    names = {(False, False): "Market", (False, True): "Limit", (True, False): "Stop", (True, True): "StopLimit"}
    limit = None if price is None else float(price)
    first = limit if trigger is None else float(trigger)
    return {
        "side": side,
        "size": float(amount) * (1 if side == "buy" else -1),
        "exectype": names[trigger is not None, "limit" in kind],
        "price": first,
        "plimit": limit,
        "trailamount": None,
        "trailpercent": None,
        "until_ms": until_ms,
        "tradeid": tradeid,
        "params": {},
        "data": symbol,
        "made_ms": made_ms,
    }


def _counted(row: Iterable[Any]) -> Fill | Amend:
    trade_id, size, price, cost, fee_cost, fee_currency, ts_ms = row
    fee = None if fee_cost is None else Decimal(fee_cost)
    if size == "0":
        return Amend(Decimal(cost), fee, fee_currency, trade_id)
    return Fill(Decimal(size), Decimal(price), fee, fee_currency, ts_ms, trade_id, counted_cost=Decimal(cost))


def _books(db: sqlite3.Connection) -> dict[str, PastBook]:
    bases = {row[0]: row[1:] for row in db.execute("SELECT symbol, after, held, size, price FROM books")}
    since: dict[str, list[Counted]] = {symbol: [] for symbol in bases}
    first = min((after for after, *_ in bases.values()), default=0)
    if {symbol for (symbol,) in db.execute("SELECT DISTINCT symbol FROM intents")} - bases.keys():
        first = 0
    query = (
        "SELECT f.id, i.client_id, i.symbol, i.side, i.tradeid, f.trade_id, f.size, f.price, f.cost, f.fee_cost, "
        "f.fee_currency, f.ts_ms FROM fills AS f JOIN intents AS i USING (client_id) WHERE f.id > ? ORDER BY f.id"
    )
    for number, client_id, symbol, side, tradeid, *row in db.execute(query, (first,)):
        if number > bases.get(symbol, (0,))[0]:
            since.setdefault(symbol, []).append(Counted(number, client_id, side, tradeid, _counted(row)))
    books = {}
    for symbol, counted in since.items():
        held, size, price = (Decimal(each) for each in bases.get(symbol, (0, "0", "0", "0"))[1:])
        books[symbol] = PastBook(held, size, price, tuple(counted))
    return books
