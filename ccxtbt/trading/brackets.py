"""Orders that hang together, without I/O: transitions of the members in, what to send and cancel next out.

On spot each resting sale locks its amount: the stop and the target of one entry lock it twice, so the exchange refuses
the second; and where the account happens to hold enough for both, a fast market can fill both, one entry sold twice.
So **for each entry either one list with both exits is at the exchange, or one exit, and the next is sent only when the
end of the last is known with all its fills.**

Where the exchange has order lists (`lists`) both rest there and exclude each other (OCO): when one trades or its stop
triggers, the exchange ends the other first. What grows is cancelled and sent anew for the whole; a list that waits for
its entry at the exchange (OTOCO) does not serve, since it stands for one amount, begins when all of the entry is
filled, and goes with an entry that is cancelled with a part filled. A target that was filled in part stands alone,
until it is filled or the price falls back half-way to the stop: then both are sent again, for the rest.

Elsewhere, and where the exchange refuses a pair because the price has passed one of the two, it is the stop that rests,
since it must work when this process does not. The target is watched here: when the price reaches it, the stop is
cancelled and the target sent at its limit for what the stop left; when the price falls back half-way to the stop before
the target is filled, they change places again. A stop that the exchange refuses because the price has passed it is sent
as what it becomes, at market or at its limit; only the exchange decides that, since a price known here may be old. What
this cannot do: fill a target that the price touches and leaves within the time that the change takes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from ccxtbt.errors import ConfigError
from ccxtbt.trading.rules import EXACT, Side, exact, floor_to
from ccxtbt.trading.states import (
    REFUSED,
    Accepted,
    Amend,
    Canceled,
    Completed,
    Expired,
    Fill,
    Margin,
    Rejected,
    Status,
    Transition,
)

ZERO = Decimal(0)
_TWO = Decimal(2)

_ENDS: Mapping[type, Status] = {
    Completed: Status.COMPLETED,
    Canceled: Status.CANCELED,
    Expired: Status.EXPIRED,
    Rejected: Status.REJECTED,
    Margin: Status.MARGIN,
}


@dataclass(frozen=True, slots=True)
class Exit:
    """A child of a bracket.

    Attributes
    ----------
    key : hashable
        The caller's name of it.
    kind : 'stop' or 'limit'
        What it protects: a loss or a profit.
    price : Decimal
        A stop's trigger, a limit's price.
    least : Decimal
        The smallest amount that the market takes at this price.
    """

    key: Hashable
    kind: Literal["stop", "limit"]
    price: Decimal
    least: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Send:
    """Send a member as a new order at the exchange, under a new client id.

    Attributes
    ----------
    key : hashable
        Member.
    leg : int
        Which order of the member this is; transitions come back with it.
    size : Decimal
        Amount, on the lot.
    triggered : bool
        A stop that the price has passed: send what it becomes.
    """

    key: Hashable
    leg: int
    size: Decimal
    triggered: bool = False


@dataclass(frozen=True, slots=True)
class Pair:
    """Send both exits as one list, of which the first that trades or triggers ends the other."""

    stop: Send
    limit: Send


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel a member's order at the exchange; stands until a transition tells the order's end: ask again if need be.

    For a child that end is not the member's: what the strategy is told comes as `End`. One of a pair stands for both.
    """

    key: Hashable


@dataclass(frozen=True, slots=True)
class End:
    """A child is over: tell the strategy.

    Attributes
    ----------
    key : hashable
        Member.
    status : Status
        COMPLETED if it took the last of the entry out, although that may be less than it was made for.
    reason : str
        A sentence, where there is one.
    """

    key: Hashable
    status: Status
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Exposed:
    """A part of the entry is held and no exit is left for it, against the strategy's will."""

    size: Decimal
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Excess:
    """More was traded than one order of the group was to trade: a fill came after its order's end was told."""

    size: Decimal


Action = Send | Pair | Cancel | End | Exposed | Excess


@dataclass(frozen=True, slots=True)
class Recalled:
    """How a member stood when an earlier run ended.

    Attributes
    ----------
    counted : tuple of Fill or Amend
        Of all its legs.
    open : bool
        Its last leg may be at the exchange.
    working : bool
        The exchange is known to have it.
    leg : int
        The number of its last leg.
    left : Decimal or None
        What of that is not filled.
    triggered, completed : bool
        A stop that was sent as what it becomes; an exit whose last leg took all that it was sent for.
    traded : bool
        Something of the last leg is filled.
    refused : bool
        The last leg was refused.
    list_id : str
        Names the list that the last leg is in; '' where it is alone.
    sequence : int
        Higher, the later the last leg was sent.
    ended : Status or None
        How the member has ended, if it has.
    """

    counted: tuple[Fill | Amend, ...] = ()
    open: bool = False
    working: bool = False
    leg: int = 0
    left: Decimal | None = None
    triggered: bool = False
    completed: bool = False
    traded: bool = False
    refused: bool = False
    list_id: str = ""
    sequence: int = 0
    ended: Status | None = None


@dataclass(slots=True)
class _Child:
    """Where an exit stands. A leg is one order of it at the exchange: `sent`, then `working`, then gone."""

    exit: Exit
    leg: int = 0
    sent: bool = False
    working: bool = False
    cancelling: bool = False  # by us, or by the exchange because the other of its pair trades
    paired: bool = False  # in one list with the other, and neither trades yet
    left: Decimal = ZERO  # of the leg
    triggered: bool = False  # sent, or to be sent, as what the stop becomes
    completed: bool = False  # its last leg took all that it was sent for
    recalled: bool = False  # an earlier run has sent the leg, and may have asked to cancel it
    status: Status | None = None


@dataclass(slots=True)
class _Parent:
    key: Hashable
    open: bool = True
    cancelling: bool = False


@dataclass(slots=True)
class _Totals:
    entered: Decimal = ZERO
    exited: Decimal = ZERO
    excess: Decimal = ZERO  # reported so far
    exposed: Decimal = ZERO
    reasons: list[str] = field(default_factory=list)


class Bracket:
    """An entry and its exits; or, with `size` instead of a parent, two exits of a position that is there already.

    Parameters
    ----------
    exits : sequence of Exit
        At most one stop and one limit.
    side : 'buy' or 'sell'
        Of the entry; the exits trade the other way.
    lot : Decimal
        Step of sizes.
    base : str
        Currency whose fees reduce what a bought entry leaves to sell.
    parent : hashable
        Key of the entry, which the caller sends itself; its leg is 0.
    size : Decimal or None
        What the exits are for, where there is no parent.
    lists : bool
        The exchange takes both exits as one list.

    Attributes
    ----------
    lists : bool
        As given.

    Raises
    ------
    ConfigError
        Not one parent or one size, or exits that one entry cannot have.
    """

    def __init__(
        self,
        exits: Sequence[Exit],
        *,
        side: Side,
        lot: Decimal,
        base: str = "",
        parent: Hashable = None,
        size: Decimal | None = None,
        lists: bool = False,
    ) -> None:
        kinds = [each.kind for each in exits]
        if not kinds or len(set(kinds)) < len(kinds):
            raise ConfigError(f"A bracket takes one stop, one limit, or one of each, not {kinds}: drop the others.")
        if (parent is None) == (size is None):
            raise ConfigError("A bracket hangs on a parent or on a size: give one of them.")
        self._children = {each.key: _Child(each) for each in exits}
        self._stop = next((child for child in self._children.values() if child.exit.kind == "stop"), None)
        self._limit = next((child for child in self._children.values() if child.exit.kind == "limit"), None)
        self._parent = None if parent is None else _Parent(parent)
        self._totals = _Totals(entered=size or ZERO)
        self._side = side
        self._lot = lot
        self._base = base if side == "buy" else ""
        self._seen_ms = 0
        self._at_target = False
        self._closing = False
        self._away = False
        self.lists = lists
        # What is at the exchange stays without the other: one of a pair that trades, or after a pair was refused.
        self._alone = False

    @property
    def rest(self) -> Decimal:
        """What is entered and not taken out, in whole lots."""
        totals = self._totals
        return floor_to(max(EXACT.subtract(totals.entered, totals.exited), ZERO), self._lot)

    @property
    def done(self) -> bool:
        """Whether nothing more is to be expected."""
        return not self._parent_open and all(child.status is not None for child in self._children.values())

    @property
    def _parent_open(self) -> bool:
        return self._parent is not None and self._parent.open

    def start(self) -> list[Action]:
        """Send the first exit, where there is no entry to wait for."""
        return self.plan()

    def is_exit(self, key: Hashable) -> bool:
        """Whether a member is an exit, whose end only this bracket tells."""
        return key in self._children

    def adopt(self, key: Hashable, left: Decimal, *, working: bool) -> None:
        """Take an exit over that is at the exchange already, as its leg 0.

        Parameters
        ----------
        key : hashable
            Member.
        left : Decimal
            What of it is not filled; the rest of the bracket's size counts as taken out by it.
        working : bool
            The exchange is known to have it.
        """
        child, totals = self._children[key], self._totals
        child.sent, child.working, child.left = True, working, left
        totals.exited = EXACT.subtract(totals.entered, left)

    def recall(self, members: Mapping[Hashable, Recalled]) -> None:
        """Stand as an earlier run has left the bracket, and plan nothing before `resume`.

        What came meanwhile is to be applied in between. Nobody knows any more whether the earlier run has asked to
        cancel an exit: one that is cancelled is sent again.

        Parameters
        ----------
        members : mapping
            Key of each member -> how it stood.
        """
        self._away = True
        totals, parent = self._totals, self._parent
        for key, told in members.items():
            counted = [each for each in told.counted if isinstance(each, Fill)]
            moved = sum((abs(each.size) for each in counted), ZERO)
            fees = sum((self._taken(each) for each in told.counted), ZERO)
            if parent is not None and key == parent.key:
                totals.entered = EXACT.subtract(EXACT.add(totals.entered, moved), fees)
                parent.open = told.open
                continue
            child = self._children[key]
            totals.exited = EXACT.add(totals.exited, EXACT.add(moved, fees))
            child.leg, child.left, child.status = told.leg, told.left or ZERO, told.ended
            child.sent, child.working, child.triggered = told.open, told.working, told.triggered
            child.recalled = told.open
            if told.open and child is self._limit:
                self._at_target = True
        exits = {key: told for key, told in members.items() if key in self._children}
        newest = max(exits.values(), key=lambda told: told.sequence)
        for key, told in exits.items():
            # With each leg that is sent, what was completed before is no more the last word.
            latest = told is newest or (told.list_id and told.list_id == newest.list_id)
            self._children[key].completed = bool(told.completed and latest)
        if len(exits) > 1 and newest.list_id and all(told.list_id == newest.list_id for told in exits.values()):
            self._recall_pair(exits)

    def _recall_pair(self, exits: Mapping[Hashable, Recalled]) -> None:
        """Stand as the list does in which both exits were sent: whole, or with one of it left that trades."""
        out = [child for child in self._children.values() if child.sent]
        traded = next((child for child in out if exits[child.exit.key].traded), None)
        refused = any(told.refused for told in exits.values())
        if refused and not out:
            self._alone = True
        elif traded is None and (refused or len(out) > 1):
            # A list is refused as a whole: the one of which that was not heard will be told so too.
            for child in out:
                child.paired = True
            self._at_target = False
        elif out:
            alone = traded or out[0]
            self._alone, self._at_target = True, alone is self._limit
            for child in out:
                child.cancelling = child is not alone

    def resume(self) -> list[Action]:
        """Go on after `recall`: send the exit that is missing, or that has another size than what is held."""
        self._away = False
        return self.plan()

    def apply(self, key: Hashable, leg: int, transition: Transition) -> list[Action]:
        """Take a transition of a member's order at the exchange.

        Parameters
        ----------
        key : hashable
            Member.
        leg : int
            Which of its orders; 0 for the parent.
        transition : Transition
            As the order's state told it.
        """
        return self.note(key, leg, transition) + self.plan()

    def note(self, key: Hashable, leg: int, transition: Transition) -> list[Action]:
        """Take a transition as `apply` does, and leave the next steps to `plan`: more may be about to be told."""
        if self._parent is not None and key == self._parent.key:
            self._of_parent(self._parent, transition)
            return []
        return self._of_child(self._children[key], leg, transition)

    def on_price(self, price: Any, ts_ms: int | None = None) -> list[Action]:
        """Take the market's last price.

        Parameters
        ----------
        price : float or Decimal
            Of the last trade; of a bar, its close.
        ts_ms : int or None
            When that was, by the exchange's clock: a price older than the last fill says nothing of now and is not
            used. A bar's close may be an hour old when its entry fills far away from it.
        """
        self._see(exact(price, "price"), ts_ms)
        return self.plan()

    def cancel(self, key: Hashable) -> list[Action]:
        """Cancel a member on the strategy's behalf.

        The parent: what it has filled keeps its exits. An exit: everything, the parent included, as backtrader does.
        A member that has ended: nothing.
        """
        if self._parent is not None and key == self._parent.key:
            return self._cancel_parent()
        if self._children[key].status is not None:
            return []
        self._closing = True
        return self._cancel_parent() + self.plan()

    def _see(self, price: Decimal, ts_ms: int | None) -> None:
        """Note which exit the market is at; a member's fill is a price as good as any."""
        if self._limit is None or self._stop is None:
            return
        if ts_ms is not None:
            if ts_ms < self._seen_ms:
                return
            self._seen_ms = ts_ms
        target, stop = self._limit.exit.price, self._stop.exit.price
        half_way = EXACT.divide(EXACT.add(target, stop), _TWO)
        if price >= target if self._side == "buy" else price <= target:
            self._at_target = True
        elif price <= half_way if self._side == "buy" else price >= half_way:
            self._at_target = False

    def _cancel_parent(self) -> list[Action]:
        parent = self._parent
        if parent is None or not parent.open or parent.cancelling:
            return []
        parent.cancelling = True
        return [Cancel(parent.key)]

    def _of_parent(self, parent: _Parent, transition: Transition) -> None:
        totals = self._totals
        if isinstance(transition, Fill):
            totals.entered = EXACT.add(totals.entered, abs(transition.size))
            self._see(transition.price, transition.ts_ms)
        if isinstance(transition, Fill | Amend):
            totals.entered = EXACT.subtract(totals.entered, self._taken(transition))
        if type(transition) in _ENDS:
            parent.open = False

    def _taken(self, transition: Fill | Amend) -> Decimal:
        """Return the fee in base, which is not there to be sold."""
        base = self._base and transition.fee_currency == self._base
        return transition.fee_cost if base and transition.fee_cost else ZERO

    def _of_child(self, child: _Child, leg: int, transition: Transition) -> list[Action]:
        current = leg == child.leg and child.sent
        totals = self._totals
        if isinstance(transition, Fill):
            totals.exited = EXACT.add(totals.exited, abs(transition.size))
            self._see(transition.price, transition.ts_ms)
            if current:
                child.left = EXACT.subtract(child.left, abs(transition.size))
                self._part(child, transition.ts_ms)
        if isinstance(transition, Fill | Amend):
            totals.exited = EXACT.add(totals.exited, self._taken(transition))
        if not current:
            return []
        if isinstance(transition, Accepted | Fill):
            child.working = True
        ended = _ENDS.get(type(transition))
        return [] if ended is None else self._leg_ended(child, ended, transition)

    def _part(self, child: _Child, ts_ms: int | None) -> None:
        """Let one of a pair stand alone, since it trades or is about to: the exchange ends the other first."""
        if child.paired:
            for other in self._children.values():
                other.paired = False
                other.cancelling = other.cancelling or other is not child
            self._alone = True
            self._at_target = child is self._limit
            self._seen_ms = max(self._seen_ms, ts_ms or 0)

    def _leg_ended(self, child: _Child, status: Status, transition: Any) -> list[Action]:
        rival = next((other for other in self._children.values() if other is not child), child)
        if child.paired and status is Status.EXPIRED:
            self._part(rival, transition.ts_ms)
        elif status is Status.CANCELED:
            # With one of a list the whole of it is cancelled.
            rival.paired = False
        asked, child.sent, child.working, child.cancelling = child.cancelling, False, False, False
        paired, child.paired = child.paired, False
        refused = paired and status in (Status.REJECTED, Status.MARGIN)
        if not any(other.sent for other in self._children.values()):
            self._alone = refused
        child.completed = status is Status.COMPLETED
        if child.completed or refused or ((asked or child.recalled) and status in (Status.CANCELED, Status.EXPIRED)):
            return []
        if status is Status.REJECTED and transition.absent:
            # Nobody has refused it: it is sent again, under another id.
            return []
        if status is Status.REJECTED and transition.immediate and not child.triggered:
            # The price is through the stop already: now it is due at once.
            child.triggered = True
            return []
        return [self._end(child, status, getattr(transition, "reason", ""))]

    def _end(self, child: _Child, status: Status, reason: str = "") -> End:
        child.status = status
        if reason:
            self._totals.reasons.append(reason)
        return End(child.exit.key, status, reason)

    def plan(self) -> list[Action]:
        """Compare what is at the exchange with what should be there, and say the next steps."""
        if self._away:
            return []
        actions = self._report_excess()
        rest = self.rest
        alive = [child for child in self._children.values() if child.status is None]
        if not alive or (self._totals.exited and not self._closing):
            # Exits that are at work, or cannot be, are no reason to enter further.
            actions += self._cancel_parent()
        wanted = [] if self._closing else self._wanted(alive, rest)
        out = [child for child in alive if child.sent]
        for child in out:
            fits = child in wanted and child.paired is (len(wanted) > 1) and self._fits(child, rest)
            if child.left > 0 and child.working and not (fits or child.cancelling):
                for other in out if child.paired else [child]:
                    other.cancelling = True
                actions.append(Cancel(child.exit.key))
        if out:
            return actions + self._end_completed(alive, rest)
        if wanted:
            return [*actions, self._send(wanted, rest)]
        if self._closing:
            return actions + [self._end(child, self._last_word(child)) for child in alive]
        if not self._parent_open:
            actions += [self._end(child, self._last_word(child)) for child in alive]
            actions += self._report_exposure(rest)
        return actions

    def _wanted(self, alive: Sequence[_Child], rest: Decimal) -> list[_Child]:
        """Return what should be at the exchange: the pair, or one exit; nothing while the rest is too small."""
        sizable = [child for child in alive if rest >= child.exit.least or (child.sent and self._fits(child, rest))]
        if not rest:
            return []
        if len(sizable) > 1 and self._takes_pair(alive):
            return sizable
        first = self._limit if self._at_target else self._stop
        if self._stop is not None and self._stop.triggered:
            first = self._stop
        return sorted(sizable, key=lambda child: child is not first)[:1]

    def _takes_pair(self, alive: Sequence[_Child]) -> bool:
        """Whether the exchange takes a pair: while the price is between the two. It looks after one that it has."""
        between = not self._at_target and not any(child.triggered for child in alive)
        return self.lists and not self._alone and (between or all(child.paired for child in alive))

    @staticmethod
    def _fits(child: _Child, rest: Decimal) -> bool:
        """Whether a leg may stay: it is for the rest, or for part of a rest that is too small to be sent anew."""
        return child.left == rest or child.left < rest < child.exit.least

    def _send(self, wanted: Sequence[_Child], size: Decimal) -> Send | Pair:
        sends: dict[str, Send] = {}
        for child in self._children.values():
            child.completed = False
        for child in wanted:
            child.leg += 1
            child.sent, child.working, child.left, child.paired = True, False, size, len(wanted) > 1
            child.recalled = False
            sends[child.exit.kind] = Send(child.exit.key, child.leg, size, child.triggered)
        return Pair(**sends) if len(sends) > 1 else next(iter(sends.values()))

    def _end_completed(self, alive: Sequence[_Child], rest: Decimal) -> list[Action]:
        """Tell the end of the exit that took all out, while the end of the other of its pair is still to be heard."""
        if rest or self._parent_open:
            return []
        return [self._end(child, Status.COMPLETED) for child in alive if child.completed and not child.sent]

    def _last_word(self, child: _Child) -> Status:
        return Status.COMPLETED if child.completed else Status.CANCELED

    def _report_excess(self) -> list[Action]:
        totals = self._totals
        over = EXACT.subtract(EXACT.subtract(totals.exited, totals.entered), totals.excess)
        if over <= 0 or self._parent_open:
            return []
        totals.excess = EXACT.add(totals.excess, over)
        return [Excess(over)]

    def _report_exposure(self, rest: Decimal) -> list[Action]:
        totals = self._totals
        if rest <= totals.exposed:
            return []
        totals.exposed = rest
        reason = " ".join(totals.reasons) or "What is filled is too small to be sold."
        return [Exposed(rest, reason)]


class Group:
    """Orders that cancel each other, all at the exchange at once: `oco` of orders that are not two exits of one size.

    The first that trades, or that ends unrefused, cancels the others. Two can trade before that reaches the exchange,
    which is reported as `Excess`.

    Parameters
    ----------
    sizes : mapping
        Key of each member -> its amount.
    """

    def __init__(self, sizes: Mapping[Hashable, Decimal]) -> None:
        self._open: dict[Hashable, None] = dict.fromkeys(sizes)
        self._largest = max(sizes.values(), default=ZERO)
        self._filled = ZERO
        self._reported = ZERO
        self._cancelling: set[Hashable] = set()

    @property
    def done(self) -> bool:
        """Whether all have ended."""
        return not self._open

    def add(self, key: Hashable, size: Decimal) -> None:
        """Take a member up before it is sent."""
        self._open[key] = None
        self._largest = max(self._largest, size)

    def recall(self, ended: Mapping[Hashable, Status], filled: Decimal) -> list[Action]:
        """Stand as an earlier run has left the group, and cancel the others if one has traded or ended unrefused.

        Parameters
        ----------
        ended : mapping
            Key of each member that is over -> how it ended.
        filled : Decimal
            What all have traded together.
        """
        for key in ended:
            self._open.pop(key, None)
        self._filled = filled
        self._reported = max(EXACT.subtract(filled, self._largest), ZERO)
        if not filled and all(status in REFUSED for status in ended.values()):
            return []
        self._cancelling.update(self._open)
        return [Cancel(other) for other in self._open]

    def apply(self, key: Hashable, transition: Transition) -> list[Action]:
        """Take a transition of a member."""
        actions: list[Action] = []
        status = _ENDS.get(type(transition))
        if status is not None:
            self._open.pop(key, None)
        unasked = key not in self._cancelling and status in (Status.CANCELED, Status.EXPIRED)
        if isinstance(transition, Fill) or status is Status.COMPLETED or unasked:
            others = [other for other in self._open if other != key and other not in self._cancelling]
            self._cancelling.update(others)
            actions += [Cancel(other) for other in others]
        if isinstance(transition, Fill):
            self._filled = EXACT.add(self._filled, abs(transition.size))
            over = EXACT.subtract(EXACT.subtract(self._filled, self._largest), self._reported)
            if over > 0:
                self._reported = EXACT.add(self._reported, over)
                actions.append(Excess(over))
        return actions
