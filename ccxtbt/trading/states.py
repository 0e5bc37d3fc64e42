"""How orders stand, without I/O: facts in any order, any number of times, become transitions, each told once."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from ccxtbt.errors import ConfigError
from ccxtbt.trading import reports
from ccxtbt.trading.orders import Request
from ccxtbt.trading.reports import Absent, Fact, FillFact, OrderFact, Refused, Unknown
from ccxtbt.trading.rules import EXACT, Side

ZERO, ONE = Decimal(0), Decimal(1)

# Means and shares are estimates: cut here, sums with them stay exact.
_ESTIMATE = Decimal("1E-18")

# Facts kept of one order that is not known yet: more than can pass in the moment before its answer.
_FACTS_KEPT = 1_000


class Status(StrEnum):
    """Where an order stands, in backtrader's words."""

    CREATED = "Created"
    SUBMITTED = "Submitted"
    ACCEPTED = "Accepted"
    PARTIAL = "Partial"
    COMPLETED = "Completed"
    CANCELED = "Canceled"
    EXPIRED = "Expired"
    MARGIN = "Margin"
    REJECTED = "Rejected"


OPEN = frozenset({Status.SUBMITTED, Status.ACCEPTED, Status.PARTIAL})
"""Sent, and not known to have ended."""
WORKING = frozenset({Status.ACCEPTED, Status.PARTIAL})
"""Known to be at the exchange."""
DONE = frozenset({Status.COMPLETED, Status.CANCELED, Status.EXPIRED, Status.MARGIN, Status.REJECTED})
"""Over; only late fills can still come."""
REFUSED = frozenset({Status.MARGIN, Status.REJECTED})
"""Over without ever having worked, or thrown out."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """On its way to the exchange."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The exchange has it."""

    order_id: str | None = None
    ts_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Fill:
    """An amount was traded.

    Attributes
    ----------
    size : Decimal
        In base, above 0 for a buy and below for a sell.
    price : Decimal
        In quote.
    fee_cost, fee_currency : Decimal and str, or None
        Fee as charged; None where it is not known.
    ts_ms : int or None
        The exchange's time of the fill.
    trade_id : str or None
        The exchange's id; None where the fill is the growth of a cumulative amount.
    maker : bool or None
        Whether the order rested on the book.
    late : bool
        It came after the order's end was told.
    counted_cost : Decimal or None
        What it came to, where that is known and `price` is only the mean of it.
    realized : Decimal or None
        What it has gained by closing a contract, before fees, by the exchange.
    """

    size: Decimal
    price: Decimal
    fee_cost: Decimal | None = None
    fee_currency: str | None = None
    ts_ms: int | None = None
    trade_id: str | None = None
    maker: bool | None = None
    late: bool = False
    counted_cost: Decimal | None = None
    realized: Decimal | None = None

    @property
    def cost(self) -> Decimal:
        """What it came to, in quote, above 0 for either side."""
        return EXACT.multiply(abs(self.size), self.price) if self.counted_cost is None else self.counted_cost


@dataclass(frozen=True, slots=True)
class Amend:
    """A counted fill cost more, or less, than was told when it was counted.

    Attributes
    ----------
    cost : Decimal
        What to add to the amount of quote that the order's fills came to, whichever the side.
    fee_cost, fee_currency : Decimal and str, or None
        Fee to add.
    trade_id : str or None
        Fill that told.
    """

    cost: Decimal = ZERO
    fee_cost: Decimal | None = None
    fee_currency: str | None = None
    trade_id: str | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """All of it is filled."""

    ts_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Canceled:
    """It ended, by a cancel or by the exchange, with what is filled so far."""

    reason: str = ""
    ts_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Expired:
    """Its time is over; what is filled so far stays."""

    reason: str = ""
    ts_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """It was refused, or thrown out.

    Attributes
    ----------
    reason : str
        A sentence.
    immediate : bool
        A stop whose trigger the price has passed already.
    absent : bool
        It was sent and never arrived.
    """

    reason: str = ""
    immediate: bool = False
    ts_ms: int | None = None
    absent: bool = False


@dataclass(frozen=True, slots=True)
class Margin:
    """It was refused for lack of funds."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class InDoubt:
    """It was sent and nobody knows yet whether it exists; it is being looked up."""

    reason: str = ""


Transition = Submitted | Accepted | Fill | Amend | Completed | Canceled | Expired | Rejected | Margin | InDoubt

_STATUS_OF: Mapping[type, Status] = {
    Submitted: Status.SUBMITTED,
    Accepted: Status.ACCEPTED,
    Fill: Status.PARTIAL,
    Completed: Status.COMPLETED,
    Canceled: Status.CANCELED,
    Expired: Status.EXPIRED,
    Rejected: Status.REJECTED,
    Margin: Status.MARGIN,
}


class OrderState:
    """One order at the exchange: takes facts in any order, any number of times, and says once what is new.

    What it holds only grows: the fills by their ids, the highest cumulative amount seen, the evidence that the exchange
    has the order, and its end. So a repeated or late message changes nothing, and the end is told only when all fills
    that belong to it are.

    Parameters
    ----------
    client_id : str
        Our id.
    symbol : str
        Market; the exchange's ids are unique within it only.
    side : 'buy' or 'sell'
        Gives fills their sign.
    amount : Decimal or None
        Amount sent; None where the exchange fills by cost.
    fill_ids : bool
        The exchange tells each fill with an id: a cumulative amount ahead of them waits for them. Otherwise each
        growth of the cumulative amount is a fill.
    conditional : bool
        It lives apart until its trigger is reached, and becomes an order with another of the exchange's ids.
    reduces : bool
        It can only reduce a position: the exchange may cut it, and has filled it all the same.

    Attributes
    ----------
    order_id : str or None
        The exchange's id, once known; of a conditional one, the first.
    ids : set of str
        All of the exchange's ids that it is known by.
    status : Status
        What has been told.
    filled, cost : Decimal
        Amount told in fills, in base, and what it came to, in quote.
    """

    def __init__(
        self,
        client_id: str,
        symbol: str,
        side: Side,
        amount: Decimal | None,
        *,
        fill_ids: bool = True,
        conditional: bool = False,
        reduces: bool = False,
    ) -> None:
        self.client_id = client_id
        self.symbol = symbol
        self.side = side
        self.amount = amount
        self.fill_ids = fill_ids
        self.conditional = conditional
        self.reduces = reduces
        self.order_id: str | None = None
        self.ids: set[str] = set()
        self.status = Status.CREATED
        self.filled = ZERO
        self.cost = ZERO
        self._trades: dict[str, bool] = {}  # id of each fill counted -> its fee is known
        self._reported = ZERO  # the highest cumulative amount seen, and the last message that told it
        self._report = OrderFact()
        self._loose = ZERO  # part of `filled` that no trade id stands for yet, and what it was counted at
        self._loose_cost = ZERO
        self._fees: dict[str, Decimal] = {}  # fees counted from the order's own cumulative fees
        self._seen = False  # the exchange has, or had, the order
        self._end: OrderFact | None = None
        self._doubt = ""

    @classmethod
    def of(cls, request: Request, *, fill_ids: bool = True) -> OrderState:
        """Return the state of an order that is about to be sent."""
        amount = None if request.by_cost else request.amount
        return cls(
            request.client_id,
            request.symbol,
            request.side,
            amount,
            fill_ids=fill_ids,
            conditional=bool(request.apart),
            reduces=bool(request.params.get("reduceOnly")),
        )

    def __repr__(self) -> str:
        return f"<OrderState {self.client_id} {self.status} {self.filled} of {self.amount}>"

    @property
    def done(self) -> bool:
        """Whether the end has been told."""
        return self.status in DONE

    @property
    def in_doubt(self) -> bool:
        """Whether nobody knows if the exchange has the order."""
        return bool(self._doubt) and not self._seen and not self.done

    @property
    def needs_fills(self) -> bool:
        """Whether fills are missing that the exchange has counted: fetch the order's trades."""
        return self.filled < self._reported

    @property
    def needs_order(self) -> bool:
        """Whether only a look-up of the order can tell how it stands: fetch the order."""
        if self._doubt:
            return True
        return self._end is not None and not self.done and not self._end_amount_known

    @property
    def is_named(self) -> bool:
        """Whether the exchange's id is known under which its fills are told."""
        return len(self.ids) > self.conditional

    @property
    def stray(self) -> bool:
        """Whether the exchange works an order that was told to be refused: cancel it."""
        return self.status in REFUSED and self._seen and self._end is None

    @property
    def _end_amount_known(self) -> bool:
        end = self._end
        return end is not None and (end.filled is not None or end.status == reports.REJECTED)

    def recall(self, status: Status, order_id: str | None, counted: Iterable[Fill | Amend]) -> None:
        """Stand as an earlier run has left the order: what was told then is not told again.

        Parameters
        ----------
        status : Status
            What was told last.
        order_id : str or None
            The exchange's id.
        counted : iterable of Fill or Amend
            All that was counted.
        """
        self.status, self.order_id = status, order_id
        self.ids |= set() if order_id is None else {order_id}
        self._seen = status in WORKING or status in DONE - REFUSED
        for each in counted:
            self.cost = EXACT.add(self.cost, each.cost)
            known_fee = each.fee_cost is not None
            if isinstance(each, Fill):
                amount = abs(each.size)
                self.filled = EXACT.add(self.filled, amount)
                if each.trade_id is None:
                    self._loose = EXACT.add(self._loose, amount)
                    self._loose_cost = EXACT.add(self._loose_cost, each.cost)
            if each.trade_id is not None:
                self._trades[each.trade_id] = known_fee or self._trades.get(each.trade_id, False)
        self._reported = self.filled

    def submit(self) -> list[Transition]:
        """Tell that the order is on its way."""
        return self._move(Submitted()) if self.status is Status.CREATED else []

    def apply(self, fact: Fact) -> list[Transition]:
        """Take one fact and return what is new by it, in the order in which it is to be told."""
        if isinstance(fact, FillFact):
            return self._fill(fact)
        if isinstance(fact, OrderFact):
            return self._order(fact)
        return self._conclude(fact)

    def settle(self, price: Decimal | None = None) -> list[Transition]:
        """Take what is known for the whole: nothing more can be looked up.

        A cumulative amount whose fills nobody can fetch counts as one fill; an end whose amount nobody can tell comes
        with the fills seen.

        Parameters
        ----------
        price : Decimal or None
            What such a fill is counted at where no message has told a price.
        """
        told = self._count_reported(price)
        if not self.done and self._end is not None and not self.needs_fills:
            told += self._tell_end(self._end)
        return told

    def _conclude(self, fact: Refused | Unknown | Absent) -> list[Transition]:
        if self.done:
            return []
        if self._seen:
            # The exchange has shown the order itself, so this answer is about something else, or wrong.
            if not isinstance(fact, Unknown):
                self._doubt = fact.reason
            return []
        if isinstance(fact, Unknown):
            known, self._doubt = self._doubt, fact.reason
            return [] if known else [InDoubt(fact.reason)]
        self._doubt = ""
        if isinstance(fact, Refused) and fact.margin:
            return self._move(Margin(fact.reason))
        immediate = isinstance(fact, Refused) and fact.immediate
        return self._move(Rejected(fact.reason, immediate, absent=isinstance(fact, Absent)))

    def _order(self, fact: OrderFact) -> list[Transition]:
        self._doubt = ""
        rejected = fact.status == reports.REJECTED
        told: list[Transition] = [] if rejected else self._accept(fact.order_id, fact.ts_ms)
        self._seen = True
        self.order_id = self.order_id or fact.order_id
        filled = fact.filled
        if filled is None and fact.status == reports.CLOSED:
            filled = self.amount
        if filled is not None and filled >= self._reported:
            self._reported, self._report = filled, fact
        if fact.status in reports.ENDED:
            self._keep_end(fact, filled)
        if not self.fill_ids:
            told += self._count_reported(None)
        return told + self._advance(fact.ts_ms)

    def _keep_end(self, fact: OrderFact, filled: Decimal | None) -> None:
        """Remember how it ended: the first word of it, unless a later one knows the amount, or more of it."""
        known = self._end
        if known is None or (filled is not None and (known.filled is None or filled > known.filled)):
            self._end = OrderFact(
                status=fact.status, filled=filled, remaining=fact.remaining, ts_ms=fact.ts_ms, reason=fact.reason
            )

    def _fill(self, fact: FillFact) -> list[Transition]:
        self._doubt = ""
        told = self._accept(fact.order_id, fact.ts_ms)
        self._seen = True
        self.order_id = self.order_id or fact.order_id
        if fact.trade_id is None:
            # Without an id a fill cannot be told from its repeat: only the cumulative amount counts it.
            self._doubt = "a fill without an id"
            return told
        if fact.trade_id in self._trades:
            return told + self._late_fee(fact)
        self._trades[fact.trade_id] = fact.fee_cost is not None
        fee: tuple[Decimal | None, str | None] = (fact.fee_cost, fact.fee_currency)
        amount = fact.amount
        if self._loose:
            amount = EXACT.subtract(amount, min(self._loose, amount))
            told += self._match(fact, EXACT.subtract(fact.amount, amount))
            fee = (None, None)
        if amount:
            told += self._count(fact, amount, fee)
        return told + self._advance(fact.ts_ms)

    def _match(self, fact: FillFact, amount: Decimal) -> list[Transition]:
        """Let a fill stand for an amount that was counted without it, and tell what that amount really came to."""
        counted_at = self._loose_cost
        if amount != self._loose:
            counted_at = _share(self._loose_cost, amount, self._loose)
        more = EXACT.subtract(EXACT.multiply(amount, fact.price), counted_at)
        self._loose = EXACT.subtract(self._loose, amount)
        self._loose_cost = EXACT.subtract(self._loose_cost, counted_at)
        self.cost = EXACT.add(self.cost, more)
        # Fees that were counted from the order itself are not charged once more.
        fee_cost, fee_currency = (None, None) if self._fees else (fact.fee_cost, fact.fee_currency)
        return [Amend(more, fee_cost, fee_currency, fact.trade_id)] if more or fee_cost else []

    def _late_fee(self, fact: FillFact) -> list[Transition]:
        """Tell the fee of a fill that was counted from a message without it."""
        if fact.trade_id is None or self._trades[fact.trade_id] or fact.fee_cost is None:
            return []
        self._trades[fact.trade_id] = True
        return [Amend(ZERO, fact.fee_cost, fact.fee_currency, fact.trade_id)] if fact.fee_cost else []

    def _count_reported(self, price: Decimal | None) -> list[Transition]:
        """Count the growth of the cumulative amount, and of its fees where no fills tell them."""
        report, amount = self._report, EXACT.subtract(self._reported, self.filled)
        told: list[Transition] = []
        fees = [] if self.fill_ids else self._fee_growth(report)
        if amount > 0:
            cost = self._cost_of_growth(amount, price)
            if cost is None:
                return []
            fee_cost, fee_currency = fees.pop(0) if fees else (None, None)
            mean, late = _share(cost, ONE, amount), self.done
            self._loose = EXACT.add(self._loose, amount)
            self._loose_cost = EXACT.add(self._loose_cost, cost)
            self.filled = EXACT.add(self.filled, amount)
            self.cost = EXACT.add(self.cost, cost)
            told = self._move(
                Fill(self._signed(amount), mean, fee_cost, fee_currency, report.ts_ms, late=late, counted_cost=cost)
            )
        told += [Amend(ZERO, cost, currency) for cost, currency in fees]
        for currency, total in report.fees if not self.fill_ids else ():
            self._fees[currency] = total
        return told

    def _cost_of_growth(self, amount: Decimal, price: Decimal | None) -> Decimal | None:
        """Return what an amount came to that only the cumulative figures tell of; None: no message says."""
        report = self._report
        if report.cost is not None:
            cost = EXACT.subtract(report.cost, self.cost)
            if cost > 0:
                return cost
        # Fills that the report does not hold yet were counted: its mean is the nearest.
        if report.average is None and report.cost:
            return _share(report.cost, amount, self._reported)
        mean = report.average or price
        return None if mean is None else EXACT.multiply(amount, mean)

    def _fee_growth(self, report: OrderFact) -> list[tuple[Decimal, str]]:
        grown = [(EXACT.subtract(total, self._fees.get(currency, ZERO)), currency) for currency, total in report.fees]
        return [(cost, currency) for cost, currency in grown if cost]

    def _count(self, fact: FillFact, amount: Decimal, fee: tuple[Decimal | None, str | None]) -> list[Transition]:
        late = self.done
        self.filled = EXACT.add(self.filled, amount)
        self.cost = EXACT.add(self.cost, EXACT.multiply(amount, fact.price))
        return self._move(
            Fill(
                self._signed(amount),
                fact.price,
                fee[0],
                fee[1],
                fact.ts_ms,
                fact.trade_id,
                fact.maker,
                late,
                realized=fact.realized if amount == fact.amount else None,
            )
        )

    def _signed(self, amount: Decimal) -> Decimal:
        return amount if self.side == "buy" else -amount

    def _accept(self, order_id: str | None, ts_ms: int | None) -> list[Transition]:
        if self.status not in (Status.CREATED, Status.SUBMITTED):
            return []
        return self.submit() + self._move(Accepted(order_id, ts_ms))

    def _advance(self, ts_ms: int | None) -> list[Transition]:
        """Tell the end if it has come: all is filled, or it ended and every fill that belongs to it is counted."""
        if self.amount is not None and self.filled >= self.amount:
            return self._move(Completed(ts_ms)) if self.status is not Status.COMPLETED else []
        if self._end is None or self.done or self.needs_fills or not self._end_amount_known:
            return []
        return self._tell_end(self._end)

    def _tell_end(self, end: OrderFact) -> list[Transition]:
        if end.status == reports.CANCELED:
            return self._move(Canceled(end.reason, end.ts_ms))
        if end.status == reports.EXPIRED:
            return self._move(Expired(end.reason, end.ts_ms))
        if end.status == reports.REJECTED:
            return self._move(Rejected(end.reason, ts_ms=end.ts_ms))
        if self.amount is None or self.filled >= self.amount or self.reduces:
            return self._move(Completed(end.ts_ms))
        return self._move(Canceled("The exchange closed it with a part unfilled.", end.ts_ms))

    def _move(self, transition: Transition) -> list[Transition]:
        status = _STATUS_OF[type(transition)]
        if not (isinstance(transition, Fill) and self.done):
            self.status = status
        return [transition]


def _share(whole: Decimal, part: Decimal, parts: Decimal) -> Decimal:
    return EXACT.quantize(EXACT.divide(EXACT.multiply(whole, part), parts), _ESTIMATE)


def _ids_of(state: OrderState, fact: Fact) -> tuple[str | None, ...]:
    """Return the exchange's ids of an order that a fact of it tells."""
    if isinstance(fact, OrderFact):
        return state.order_id, fact.order_id, fact.became
    return (state.order_id, fact.order_id) if isinstance(fact, FillFact) else (state.order_id,)


class Orders:
    """The orders of an account by our id and by the exchange's, and the way of a fact to its order.

    A fill may come before the answer that tells the exchange's id of its order: facts of unknown orders are kept and
    delivered once the order is known. Finished orders are kept a while for late messages.

    Parameters
    ----------
    keep_done : int
        How many finished orders stay.
    keep_unknown : int
        How many unknown orders' facts stay; other programs' and hand-made orders of the account end there.
    """

    def __init__(self, keep_done: int = 10_000, keep_unknown: int = 1_000) -> None:
        self._states: dict[str, OrderState] = {}
        self._open: dict[str, OrderState] = {}
        self._clients: dict[tuple[str | None, str], str] = {}
        self._finished: OrderedDict[str, None] = OrderedDict()
        self._unknown: OrderedDict[tuple[str | None, str], deque[Fact]] = OrderedDict()
        # What the orders of others call themselves, for fills that do not tell.
        self._names: OrderedDict[tuple[str | None, str], str] = OrderedDict()
        self._keep_done = keep_done
        self._keep_unknown = keep_unknown

    def __len__(self) -> int:
        return len(self._states)

    def add(self, state: OrderState) -> None:
        """Take an order up.

        Raises
        ------
        ConfigError
            Its client id is in use.
        """
        if state.client_id in self._states:
            raise ConfigError(f"The client id {state.client_id!r} is in use: every order needs one of its own.")
        self._states[state.client_id] = self._open[state.client_id] = state
        if state.order_id is not None:
            self._clients[state.symbol, state.order_id] = state.client_id
        if state.done:
            self._retire(state)

    def get(self, client_id: str | None) -> OrderState | None:
        """Find an order by our id."""
        return None if client_id is None else self._states.get(client_id)

    def find(self, symbol: str | None, order_id: str | None) -> OrderState | None:
        """Find an order by the exchange's id, which is unique within a market only."""
        return None if order_id is None else self.get(self._clients.get((symbol, order_id)))

    def open(self) -> list[OrderState]:
        """Return the orders that have not ended."""
        return [state for state in self._open.values() if not state.done]

    def apply(self, fact: Fact) -> tuple[OrderState | None, list[Transition]]:
        """Give a fact to its order; return the order, None if it is not ours, and what is new."""
        state = self.get(fact.client_id)
        if isinstance(fact, OrderFact | FillFact) and fact.order_id is not None:
            state = state or self.find(fact.symbol, fact.order_id)
            if state is None:
                self._keep(fact, (fact.symbol, fact.order_id))
        if state is None:
            return None, []
        told = state.apply(fact)
        for order_id in _ids_of(state, fact):
            if order_id is not None and (key := (state.symbol, order_id)) not in self._clients:
                self._clients[key] = state.client_id
                state.ids.add(order_id)
                for earlier in (*self._unknown.pop(key, ()), *self._unknown.pop((None, order_id), ())):
                    told += state.apply(earlier)
        if state.done:
            self._retire(state)
        return state, told

    def foreign(
        self, suspects: Container[tuple[str | None, str]] | None = None, waiting: Container[str] = ()
    ) -> list[FillFact]:
        """Take out the fills that belong to no order of ours.

        While the exchange's id is not known under which an order of ours is filled, a fill in its market may be its.

        Parameters
        ----------
        suspects : container of (str, str) or None
            Only these of the `unknown`; None: all.
        waiting : container of str
            Our ids of conditional orders that the exchange said to wait yet after it had told those fills: they are
            none of theirs.
        """
        if not self._unknown:
            # With each message, and most accounts have no other orders.
            return []
        unanswered = {
            state.symbol
            for state in self._open.values()
            if not (state.is_named or (state.ids and state.client_id in waiting))
        }
        keys = [
            key
            for key in self._unknown
            if key[0] is not None and key[0] not in unanswered and (suspects is None or key in suspects)
        ]
        return [
            replace(fact, client_id=fact.client_id or self._names.get(key))
            for key in keys
            for fact in self._unknown.pop(key)
            if isinstance(fact, FillFact)
        ]

    def has_strays(self) -> bool:
        """Whether a fill is known whose order is not: it may be ours or another's."""
        return any(isinstance(fact, FillFact) for facts in self._unknown.values() for fact in facts)

    def unknown(self) -> frozenset[tuple[str | None, str]]:
        """Return what orders are told of that are not known to be ours, by market and the exchange's id."""
        return frozenset(self._unknown)

    def _keep(self, fact: OrderFact | FillFact, key: tuple[str | None, str]) -> None:
        if fact.client_id is not None:
            self._names[key] = fact.client_id
            while len(self._names) > self._keep_unknown:
                self._names.popitem(last=False)
        self._unknown.setdefault(key, deque(maxlen=_FACTS_KEPT)).append(fact)
        while len(self._unknown) > self._keep_unknown:
            self._unknown.popitem(last=False)

    def _retire(self, state: OrderState) -> None:
        self._open.pop(state.client_id, None)
        self._finished[state.client_id] = None
        self._finished.move_to_end(state.client_id)
        while len(self._finished) > self._keep_done:
            oldest = self._states.pop(self._finished.popitem(last=False)[0])
            for order_id in oldest.ids:
                self._clients.pop((oldest.symbol, order_id), None)
