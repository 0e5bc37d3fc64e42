"""The plainest account of an order: what the messages so far say together, worked out anew each time."""

from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise

from ccxtbt.trading.reports import Absent, FillFact, OrderFact, Refused
from ccxtbt.trading.states import Amend, Canceled, Completed, Expired, Fill, InDoubt, Margin, Rejected

ENDS = {"closed": "Completed", "canceled": "Canceled", "expired": "Expired", "rejected": "Rejected"}
OVER = {*ENDS.values(), "Margin"}
NAMES = {Canceled: "Canceled", Completed: "Completed", Expired: "Expired", Rejected: "Rejected", Margin: "Margin"}


@dataclass(frozen=True)
class Union:
    """What a set of messages tells together, whatever their order and number."""

    fills: dict
    filled: Decimal
    cost: Decimal
    reported: Decimal
    end: str | None  # that with the most filled
    known: bool  # some message shows the order itself

    @classmethod
    def of(cls, facts):
        fills = {fact.trade_id: fact for fact in facts if isinstance(fact, FillFact)}
        orders = [fact for fact in facts if isinstance(fact, OrderFact)]
        ends = {fact.filled: fact.status for fact in orders if fact.status in ENDS}
        return cls(
            fills=fills,
            filled=sum((fill.amount for fill in fills.values()), Decimal(0)),
            cost=sum((fill.amount * fill.price for fill in fills.values()), Decimal(0)),
            reported=max((fact.filled for fact in orders), default=Decimal(0)),
            end=ENDS[ends[max(ends)]] if ends else None,
            known=bool(fills or orders),
        )


def status_next(status, fact, union, amount):
    """Return the status after one more message; `union` is of all up to and with it.

    An order that is over stays over, unless its fills grow to the whole amount.
    """
    if union.filled >= amount:
        return "Completed"
    if status in OVER:
        return status
    if union.end and union.filled >= union.reported:
        return union.end
    if union.filled:
        return "Partial"
    if union.known:
        return "Accepted"
    if isinstance(fact, Refused | Absent):
        return "Margin" if isinstance(fact, Refused) and fact.margin else "Rejected"
    return status


@dataclass
class Ledger:
    """Adds up transitions as a broker would, and insists on a sensible life."""

    side: str = "buy"
    filled: Decimal = Decimal(0)
    cost: Decimal = Decimal(0)
    fees: dict = field(default_factory=dict)
    life: list = field(default_factory=list)
    ids: list = field(default_factory=list)

    def take(self, transitions):
        for transition in transitions:
            if isinstance(transition, Fill):
                assert (transition.size > 0) == (self.side == "buy")
                self.filled += abs(transition.size)
                self.cost += transition.cost
                self._fee(transition)
                if transition.trade_id is not None:
                    self.ids.append(transition.trade_id)
                assert transition.late == any(word in OVER for word in self.life)
                self.life.append("Fill")
            elif isinstance(transition, Amend):
                self.cost += transition.cost
                self._fee(transition)
            elif isinstance(transition, InDoubt):
                self.life.append("InDoubt")
            else:
                self.life.append(NAMES.get(type(transition), type(transition).__name__))
        self._sensible()

    def _fee(self, transition):
        if transition.fee_cost:
            known = self.fees.get(transition.fee_currency, Decimal(0))
            self.fees[transition.fee_currency] = known + transition.fee_cost

    def _sensible(self):
        life = self.life
        assert len(self.ids) == len(set(self.ids)), f"a fill was told twice: {self.ids}"
        for word in ("Submitted", "Accepted", *OVER):
            assert life.count(word) <= 1, f"{word} was told twice: {life}"
        assert life[:1] in ([], ["Submitted"]), life
        if "Accepted" in life and "Fill" in life:
            assert life.index("Accepted") < life.index("Fill"), life
        ends = [index for index, word in enumerate(life) if word in OVER]
        for first, second in pairwise(ends):
            # Only the missing fills of an order that was told to be over can complete it.
            assert life[second] == "Completed", life
            assert "Fill" in life[first:second], life
        if ends:
            assert set(life[ends[0] + 1 :]) <= {"Fill", "Completed"}, f"backwards: {life}"
