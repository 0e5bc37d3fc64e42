"""Restoring: a live run takes up what earlier runs have left: orders, what hangs together, positions.

Everything here runs on cerebro's thread, before the first bar.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import backtrader as bt

from ccxtbt.legs import Leg, Member
from ccxtbt.trading.armed import Armed
from ccxtbt.trading.books import Book
from ccxtbt.trading.brackets import Action, Bracket, Group, Recalled
from ccxtbt.trading.dates import number_of
from ccxtbt.trading.orders import waits_here
from ccxtbt.trading.past import Key, Past, PastLeg, PastOrder
from ccxtbt.trading.reconcile import Kept
from ccxtbt.trading.reports import OrderFact, Unknown
from ccxtbt.trading.rules import EXACT, Rules, Side, text
from ccxtbt.trading.sizes import Size
from ccxtbt.trading.states import REFUSED, WORKING, Amend, Fill, Rejected, Status

NEVER_LEFT = "The run that was to send it ended before it could, and it was never sent."


@dataclass(frozen=True, slots=True)
class Restored:
    """What a run has taken up; the message of the start carries it.

    Attributes
    ----------
    orders : tuple of backtrader.Order
        Those that earlier runs had not seen end, as they stand now.
    positions : mapping of str to (Decimal, Decimal)
        Symbol -> size and mean price.
    fills : int
        How many fills had been missed.
    unknown : tuple of str
        Client ids of orders of which nobody knows yet whether the exchange has them: they are looked up.
    left : tuple of str
        Client ids of orders that may be open in markets of which this run has no data: nobody looks after them.
    foreign : tuple of OrderFact
        Open orders of the account that are not ours.
    """

    orders: tuple[Any, ...]
    positions: Mapping[str, tuple[Decimal, Decimal]]
    fills: int = 0
    unknown: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    foreign: tuple[OrderFact, ...] = ()

    def __str__(self) -> str:
        ends = [order for order in self.orders if not order.alive()]
        said = [
            f"Restored: {len(self.orders)} orders, of which {len(ends)} ended meanwhile, and {self.fills} fills that "
            "nobody had counted"
        ]
        said += [f"{text(size)} {symbol} at {float(price)}" for symbol, (size, price) in self.positions.items()]
        if self.unknown:
            said.append(f"{len(self.unknown)} orders are looked up that the exchange may have or not")
        if self.left:
            said.append(f"orders {', '.join(self.left)} may be open in markets of which this run has no data")
        if self.foreign:
            said.append(f"{len(self.foreign)} open orders are not ours")
        return "; ".join(said) + "."


class Restorer:
    """Puts what earlier runs have left into a desk.

    Parameters
    ----------
    desk : LiveDesk
        Where it belongs.
    past : Past
        What the journal says.
    """

    def __init__(self, desk: Any, past: Past) -> None:
        self._desk = desk
        self._past = past
        self._members: dict[Key, Member] = {}
        self._orders: dict[Key, PastOrder] = {}
        self._bonds: list[Bracket] = []
        self._unfinished: list[Any] = []
        self._left: list[str] = []

    def books(self) -> None:
        """Restore the positions."""
        for symbol, past in self._past.books.items():
            if symbol in self._desk._by_symbol:
                self._desk.keep(self._desk.restore_book(symbol, past))

    def orders(self) -> list[Kept]:
        """Make the orders anew, as the journal knows them, and return those that have to be asked for."""
        kept = []
        for past in self._past.orders:
            if past.symbol not in self._desk._by_symbol:
                self._left += [leg.client_id for leg in past.legs if not leg.done]
                continue
            self._orders[past.key] = past
            self._make(past)
            kept += [
                Kept.of(self._desk._legs[leg.client_id].state, leg.made_ms, leg.apart)
                for leg in past.legs
                if not leg.done
            ]
        bonds: dict[Key, list[PastOrder]] = {}
        for past in self._orders.values():
            if past.bond is not None and past.role != "armed":
                bonds.setdefault(past.bond, []).append(past)
        for members in bonds.values():
            if any(member.role == "oco" for member in members):
                self._group(members)
            else:
                self._bracket(members)
        for past in self._orders.values():
            if past.role in {"armed", "oco"} and past.open and not past.legs:
                self._rearm(past)
        return kept

    def doubt(self, absent: Iterable[Kept]) -> None:
        """Have orders looked up that the exchange does not show: some show them late."""
        for kept in absent:
            self._desk.receive(Unknown("an earlier run ended before its answer", kept.client_id))
            self._desk._courier.resume(kept)

    def resume(self) -> None:
        """Let brackets go on: from here on what is missing is sent."""
        for bond in self._bonds:
            self._desk._act(bond, bond.resume())

    def summary(self, fills: int, unknown: Iterable[Kept], foreign: Iterable[OrderFact]) -> Restored:
        """Return what was restored."""
        books = self._desk._books
        return Restored(
            tuple(self._unfinished),
            {symbol: (book.size, book.price) for symbol, book in books.items() if book.size},
            fills,
            tuple(kept.client_id for kept in unknown),
            tuple(self._left),
            tuple(foreign),
        )

    # Orders

    def _make(self, past: PastOrder) -> None:
        """Make an order anew and tell the strategy of it, if nobody had told its end."""
        desk = self._desk
        rules = desk._rules_named(past.symbol)
        datas = desk._by_symbol[past.symbol]
        data = next((data for data in datas if data._name == past.asked.get("data")), datas[0])
        member = self._members[past.key] = Member.of(past.asked, data, rules.lot)
        order = member.order
        order.addcomminfo(desk.getcommissioninfo(data))
        desk.origins[order.ref] = past.key
        self._count(order, past.legs, rules)
        for past_leg in past.legs:
            leg = Leg(member, past_leg.state(), past_leg.number, past_leg.at_once, past_leg.list_id)
            desk._states.add(leg.state)
            desk._legs[past_leg.client_id] = desk._last_leg[order.ref] = leg
            desk._courier.know(past_leg.client_id, past_leg.order_id, past_leg.apart)
            order.addinfo(client_id=past_leg.client_id, order_id=past_leg.order_id)
            order.ccxt_order.update(id=past_leg.order_id, clientOrderId=past_leg.client_id, symbol=past.symbol)
        order.broker = desk
        order.status = getattr(bt.Order, self._status(past).value)
        if past.role:
            desk._linked.add(order.ref)
        if past.open:
            desk.watch_validity(member, rules)
            self._unfinished.append(order)
            desk.restored(order, member.owner or 0)

    @staticmethod
    def _status(past: PastOrder) -> Status:
        """Return what the strategy was told last."""
        statuses = [leg.status for leg in past.legs]
        if past.role in {"stop", "limit"} or not statuses:
            if past.status and past.status != "open":
                return Status(past.status)
            # It is told as one order, whichever of its legs works.
            filled = any(isinstance(each, Fill) for leg in past.legs for each in leg.told)
            waits = past.role == "armed" or any(status is not Status.SUBMITTED for status in statuses)
            return Status.PARTIAL if filled else Status.ACCEPTED if waits else Status.SUBMITTED
        return statuses[-1]

    def _count(self, order: Any, legs: Iterable[PastLeg], rules: Rules) -> None:
        """Put into an order what was counted of it: no Trade is made of that once more."""
        book = Book(rules.base, rules.quote, rules.lot)
        size, cost, fees = Decimal(0), Decimal(0), Decimal(0)
        for each in (each for leg in legs for each in leg.told):
            if isinstance(each, Fill):
                booked = book.fill(each, self._desk.rate)
                size = EXACT.add(size, each.size)
                fees += booked.openedcomm + booked.closedcomm
                if each.trade_id is not None:
                    order.executed_fills.add(each.trade_id)
                if each.ts_ms is not None:
                    order.executed.dt = number_of(each.ts_ms)
            else:
                mean = EXACT.divide(cost, abs(size)) if size else Decimal(0)
                fees += book.amend(each, 1 if order.isbuy() else -1, mean, self._desk.rate)
            cost = EXACT.add(cost, each.cost)
        if size:
            executed, price = order.executed, EXACT.divide(cost, abs(size))
            executed.size, executed.price = Size(size, rules.lot), float(price)
            executed.remsize = order.size - executed.size
            executed.value, executed.comm = float(cost.copy_sign(size)), float(fees)

    def _rearm(self, past: PastOrder) -> None:
        """Watch a stop again that waited here; what else never left will not any more."""
        desk, member = self._desk, self._members[past.key]
        order = member.order
        rules, facts = desk.rules_of(order.data), desk.store.connection.facts
        if waits_here(order, rules, desk._order_types, facts.trailing_params):
            since_ms = past.asked.get("since_ms")
            since_num = order.created.dt if since_ms is None else number_of(since_ms)
            desk._armed[order.ref] = Armed(order, member, since_num)
            desk._listen(order.data)
            return
        desk._end(order, Status.REJECTED, NEVER_LEFT)
        desk._notify(order)
        if order.ref in desk._groups:
            group = desk._groups[order.ref]
            desk._act(group, group.apply(order.ref, Rejected(NEVER_LEFT)))

    # What hangs together

    def _bracket(self, members: list[PastOrder]) -> None:
        """Make a bracket anew; what it sends waits until all is known that happened meanwhile."""
        desk = self._desk
        parent = next((each for each in members if each.role == "parent"), None)
        exits = [each for each in members if each is not parent]
        if not any(each.open for each in members):
            return
        rules = desk._rules_named(members[0].symbol)
        made = [desk._exit(self._members[each.key].order, rules) for each in exits]
        lists = len(exits) > 1 and desk._takes_lists([self._members[each.key] for each in exits], rules)
        side: Side = "sell" if self._members[exits[0].key].order.isbuy() else "buy"
        if parent is None:
            size = rules.amount(abs(exits[0].asked["size"]))
            bracket = Bracket(made, side=side, lot=rules.lot, size=size, lists=lists)
        else:
            entry = self._members[parent.key].order
            bracket = Bracket(made, side=side, lot=rules.lot, base=rules.base, parent=entry.ref, lists=lists)
        desk._listen(self._members[exits[0].key].order.data)
        for each in members:
            member = self._members[each.key]
            desk._members[member.order.ref] = bracket, member
            if parent is not None and each is not parent:
                member.order.p.parent = self._members[parent.key].order
            if each is not parent:
                member.order.addinfo(emulated=desk._emulated(member, rules, waits=False, listed=lists))
        bracket.recall({self._members[each.key].order.ref: _recalled(each) for each in members})
        self._bonds.append(bracket)
        if parent is not None and parent.open and not parent.legs:
            entry = self._members[parent.key].order
            desk._end(entry, Status.REJECTED, NEVER_LEFT)
            desk._notify(entry)
            desk._act(bracket, bracket.apply(entry.ref, 0, Rejected(NEVER_LEFT)))

    def _group(self, members: list[PastOrder]) -> None:
        """Make an OCO group anew, and cancel the others if one of it was the first."""
        desk = self._desk
        if not any(each.open for each in members):
            return
        rules = desk._rules_named(members[0].symbol)
        refs = {each.key: self._members[each.key].order.ref for each in members}
        group = Group({refs[each.key]: rules.amount(abs(each.asked["size"])) for each in members})
        ended = {refs[each.key]: self._status(each) for each in members if not each.open}
        filled = sum((abs(fill.size) for each in members for fill in _fills(each)), Decimal(0))
        desk._groups |= dict.fromkeys(refs.values(), group)
        actions: list[Action] = group.recall(ended, filled)
        desk._act(group, actions)


def _fills(past: PastOrder) -> list[Fill]:
    return [each for leg in past.legs for each in leg.told if isinstance(each, Fill)]


def _recalled(past: PastOrder) -> Recalled:
    """Return how a member of a bracket stood."""
    told: tuple[Fill | Amend, ...] = tuple(each for leg in past.legs for each in leg.told)
    if past.role == "parent":
        return Recalled(told, open=past.open)
    ended = None if past.open else Status(past.status)
    if not past.legs:
        return Recalled(told, ended=ended)
    last = past.legs[-1]
    filled = sum((abs(each.size) for each in last.told if isinstance(each, Fill)), Decimal(0))
    return Recalled(
        told,
        open=not last.done,
        working=last.status in WORKING,
        leg=last.number,
        left=EXACT.subtract(last.amount or Decimal(0), filled),
        triggered=last.triggered,
        traded=bool(filled),
        refused=last.status in REFUSED,
        sequence=last.sequence,
        list_id=last.list_id,
        completed=last.status is Status.COMPLETED,
        ended=ended,
    )
