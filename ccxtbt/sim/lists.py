"""Order lists: orders that expire each other (OCO), and orders that wait until another is filled (OTO, OTOCO)."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal, Protocol

from ccxtbt.sim.account import Account
from ccxtbt.sim.desk import Offer
from ccxtbt.sim.events import ListEvent
from ccxtbt.sim.orders import STOPS, ListRequest, Order, OrderList, OrderRequest, Reject
from ccxtbt.sim.spot_books import need_of

Takes = list[tuple[Offer, Decimal]]

_WORKING_TYPES = frozenset({"LIMIT", "LIMIT_MAKER"})
_LOSSES = frozenset({"STOP_LOSS", "STOP_LOSS_LIMIT"})
_GAINS = frozenset({"LIMIT_MAKER", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT"})
_BAD_PRICES = "The relationship of the prices for the orders is not correct."


class Engine(Protocol):
    """What order lists need of the exchange that they belong to."""

    def catch_up(self) -> int:
        """Let happen what is due, and return the time."""
        ...

    def check(self, account: Account, *requests: OrderRequest) -> None:
        """Refuse orders for their parameters, filters or number."""
        ...

    def check_list_count(self, symbol: str, open_lists: int) -> None:
        """Refuse one more list of an account that has as many as the symbol allows."""
        ...

    def draft(self, account: Account, request: OrderRequest, now_ms: int) -> Order:
        """Make an order that has no id yet and touches nothing; refuse a client id that is in use."""
        ...

    def weigh(self, order: Order) -> Takes:
        """Return what an order would take now; refuse a stop that would trigger and a maker that would take."""
        ...

    def check_funds(self, order: Order, takes: Takes, needed: Decimal | None = None) -> None:
        """Refuse an order that cannot be paid."""
        ...

    def accept(self, order: Order, now_ms: int) -> None:
        """Give an order its id, keep it, lock its funds and report it."""
        ...

    def wake(self, order: Order, now_ms: int) -> None:
        """Let a pending order become a new one: lock its funds and report it."""
        ...

    def begin(self, order: Order, takes: Takes, now_ms: int) -> None:
        """Execute an accepted order, or let it wait for its trigger."""
        ...

    def end(
        self,
        order: Order,
        status: Literal["CANCELED", "EXPIRED"],
        now_ms: int,
        cancel_id: str | None = None,
        reason: str = "",
    ) -> None:
        """Close an open order."""
        ...

    def lock(self, order: Order) -> None:
        """Lock what an order needs as it stands now."""
        ...

    def start_soon(self, order_list: OrderList, at_ms: int) -> None:
        """Call `Lists.start` before anything else happens."""
        ...

    def announce(self, event: ListEvent | None, now_ms: int) -> None:
        """Send an event, and the balances that changed before it if there is none."""
        ...

    def new_client_id(self) -> str:
        """Return an id for what came without one."""
        ...


class Lists:
    """All order lists of an exchange.

    Of a pair whose orders expire each other, the funds are locked once: as much as the dearer one needs. When one is
    filled (wholly or in part) or its stop triggers, the other expires before that. Pending orders lock nothing; they
    are placed when the working order is wholly filled, before the next thing that happens on the exchange, and expire
    if they cannot be placed then. A list is done when none of its orders is open.

    Parameters
    ----------
    engine : Engine
        Carries out what becomes of the orders.

    Attributes
    ----------
    all : list of OrderList
        Every list that was ever accepted, in order of arrival; a list's id is its place here.
    """

    def __init__(self, engine: Engine) -> None:
        self.all: list[OrderList] = []
        self._engine = engine
        self._by_client_id: dict[tuple[Account, str], OrderList] = {}

    def of(self, order: Order) -> OrderList | None:
        """Return the list that an order belongs to, if any."""
        return self.all[order.order_list_id] if order.order_list_id >= 0 else None

    def open_of(self, account: Account) -> list[OrderList]:
        """Return the lists of an account that are not done."""
        self._engine.catch_up()
        return [each for each in self.all if each.account is account and not each.is_done]

    def all_of(
        self, account: Account, from_id: int | None, start_ms: int | None, end_ms: int | None, limit: int
    ) -> list[OrderList]:
        """Return lists whatever their state, oldest first: from an id on or within the times, else the last ones."""
        self._engine.catch_up()
        mine = [
            each
            for each in self.all
            if each.account is account
            and (from_id is None or each.list_id >= from_id)
            and (start_ms is None or each.created_ms >= start_ms)
            and (end_ms is None or each.created_ms <= end_ms)
        ]
        return mine[-limit:] if from_id is None and start_ms is None else mine[:limit]

    def need(self, order: Order) -> Decimal:
        """Return what an open order must hold: the first of a pair holds for both."""
        pair = self._pair(order)
        if len(pair) < 2:
            return need_of(order)
        return max(need_of(leg) for leg in pair) if order is pair[0] else Decimal(0)

    # Requests

    def place(self, account: Account, request: ListRequest) -> OrderList:
        """Accept a list at the clock's time, execute what can be executed at once, and return it.

        Raises
        ------
        Reject
            As `Exchange.place`; -1158 to -1199 for a pair that is none, -2010 for prices on the wrong side.
        """
        engine = self._engine
        now_ms = engine.catch_up()
        if len(request.others) == 2:
            check_pair(*request.others)
        working = request.working
        if working is not None and working.type not in _WORKING_TYPES:
            raise Reject(-1116, "Invalid orderType.")
        requests = (*(() if working is None else (working,)), *request.others)
        engine.check(account, *requests)
        engine.check_list_count(request.symbol, sum(each.symbol == request.symbol for each in self.open_of(account)))
        client_id = request.client_id or engine.new_client_id()
        previous = self._by_client_id.get((account, client_id))
        orders = [engine.draft(account, each, now_ms) for each in requests]
        ids = {order.client_id for order in orders}
        if len(ids) < len(orders) or (previous is not None and not previous.is_done):
            raise Reject(-2010, "Duplicate order sent.")
        first, others = (None, orders) if working is None else (orders[0], orders[1:])
        takes: Takes = []
        if first is None:
            self._check_pair(others)
        else:
            takes = engine.weigh(first)
            engine.check_funds(first, takes)
            for order in others:
                order.status, order.working, order.working_ms = "PENDING_NEW", False, -1

        order_list = OrderList(
            account=account,
            list_id=len(self.all),
            client_id=client_id,
            symbol=request.symbol,
            working=first,
            others=tuple(others),
            created_ms=now_ms,
            updated_ms=now_ms,
        )
        self.all.append(order_list)
        self._by_client_id[account, client_id] = order_list
        for order in orders:
            order.order_list_id = order_list.list_id
        for order in orders:
            engine.accept(order, now_ms)
        self._announce(order_list, now_ms)
        for order in reversed(orders):  # the working one last: only its fill wakes those that wait for it
            engine.begin(order, takes if order is first else [], now_ms)
        engine.announce(None, now_ms)
        return order_list

    def cancel(
        self,
        account: Account,
        symbol: str,
        list_id: int | None = None,
        client_id: str | None = None,
        cancel_id: str | None = None,
    ) -> OrderList:
        """Cancel the open orders of a list.

        Raises
        ------
        Reject
            -2011 if there is no such list, or nothing of it is open.
        """
        now_ms = self._engine.catch_up()
        order_list = self._find(account, list_id, client_id)
        if order_list is None or order_list.symbol != symbol or order_list.is_done:
            raise Reject(-2011, "Unknown order sent.")
        order = next(order for order in order_list.orders if order.is_open)
        self._engine.end(order, "CANCELED", now_ms, cancel_id or self._engine.new_client_id())
        self._engine.announce(None, now_ms)
        return order_list

    def query(self, account: Account, list_id: int | None = None, client_id: str | None = None) -> OrderList:
        """Return a list.

        Raises
        ------
        Reject
            -2013 if there is none.
        """
        self._engine.catch_up()
        order_list = self._find(account, list_id, client_id)
        if order_list is None:
            raise Reject(-2013, "Order list does not exist.")
        return order_list

    # What happens to orders of lists

    def before_working(self, order: Order, now_ms: int) -> None:
        """Let the other of a pair expire, since an order is about to be filled or its stop has triggered."""
        for rival in self._pair(order):
            if rival is not order:
                self._engine.end(rival, "EXPIRED", now_ms, reason="OCO_TRIGGER")
                self._engine.lock(order)

    def after_fill(self, order: Order, now_ms: int) -> None:
        """Go on with a list one of whose orders was wholly filled."""
        order_list = self.of(order)
        if order_list is None or order.is_open:
            return
        if order is order_list.working:
            self._engine.start_soon(order_list, now_ms)
        self._finish(order_list, now_ms)

    def after_end(
        self, order: Order, status: Literal["CANCELED", "EXPIRED"], now_ms: int, cancel_id: str | None
    ) -> None:
        """Go on with a list one of whose orders was cancelled or has expired."""
        order_list = self.of(order)
        if order_list is None:
            return
        for other in order_list.orders:
            if not other.is_open:
                continue
            if status == "CANCELED":
                self._engine.end(other, status, now_ms, cancel_id)
            elif order is order_list.working:
                self._engine.end(other, status, now_ms, reason="OTO_PHASE_ONE_EXPIRED")
        self._finish(order_list, now_ms)

    def start(self, order_list: OrderList, now_ms: int) -> None:
        """Place the pending orders of a list, or let them expire if that cannot be."""
        engine = self._engine
        orders = [order for order in order_list.others if order.is_open]
        if not orders:
            return
        for order in orders:
            order.status = "NEW"
        plans = []
        for order in orders:
            try:
                plans.append(engine.weigh(order))
                engine.check_funds(order, plans[-1])
            except Reject:
                engine.end(order, "EXPIRED", now_ms, reason="REJECTED")
                for other in orders:
                    if other.is_open:
                        engine.end(other, "EXPIRED", now_ms, reason="OCO_TRIGGER")
                return
        for order in orders:
            engine.wake(order, now_ms)
        self._announce(order_list, now_ms)
        for order, takes in zip(orders, plans, strict=True):
            engine.begin(order, takes, now_ms)

    def _pair(self, order: Order) -> list[Order]:
        """Return the open orders that expire each other among which an order is; none of them pending."""
        order_list = self.of(order)
        if order_list is None or order is order_list.working:
            return []
        return [other for other in order_list.others if other.is_open and other.status != "PENDING_NEW"]

    def _check_pair(self, pair: list[Order]) -> None:
        """Refuse a pair that does not stand on both sides of the last price, or cannot be paid."""
        for order in pair:
            try:
                self._engine.weigh(order)
            except Reject as reject:
                raise Reject(-2010, _BAD_PRICES) from reject
        self._engine.check_funds(pair[0], [], max(need_of(order) for order in pair))

    def _finish(self, order_list: OrderList, now_ms: int) -> None:
        """Announce a list's end, once."""
        if not order_list.is_announced_done and order_list.is_done:
            order_list.is_announced_done = True
            self._announce(order_list, now_ms)

    def _announce(self, order_list: OrderList, now_ms: int) -> None:
        order_list.updated_ms = now_ms
        self._engine.announce(ListEvent(now_ms, order_list.account, order_list, order_list.is_done), now_ms)

    def _find(self, account: Account, list_id: int | None, client_id: str | None) -> OrderList | None:
        if list_id is None:
            return self._by_client_id.get((account, client_id or ""))
        found = self.all[list_id] if list_id < len(self.all) else None
        if found is None or found.account is not account or client_id not in {None, found.client_id}:
            return None
        return found


def check_pair(above: OrderRequest, below: OrderRequest) -> None:
    """Refuse two orders that cannot expire each other: by their types, and by which of them is above.

    Raises
    ------
    Reject
        -1158 to -1199 for the types, -2010 for prices in the wrong order.
    """
    if not {above.type, below.type} <= _LOSSES | _GAINS:
        raise Reject(-1158, "Order type not supported in OCO.")
    if {above.type, below.type} == {"LIMIT_MAKER"}:
        raise Reject(-1168, "At least one OCO order must be contingent.")
    is_buy = above.side == "BUY"
    gain, loss = (below, above) if is_buy else (above, below)
    if gain.type in _LOSSES:
        word = "buy OCO must be above" if is_buy else "sell OCO must be below"
        raise Reject(-1196 if is_buy else -1197, f"A stop loss order in a {word}.")
    if loss.type == "LIMIT_MAKER":
        word = "buy OCO must be below" if is_buy else "sell OCO must be above"
        raise Reject(-1165 if is_buy else -1166, f"A limit order in a {word}.")
    if loss.type in _GAINS:
        word = "buy OCO must be below" if is_buy else "sell OCO must be above"
        raise Reject(-1198 if is_buy else -1199, f"A take profit order in a {word}.")
    high, low = (each.stop_price if each.type in STOPS else each.price for each in (above, below))
    if high is not None and low is not None and high <= low:
        raise Reject(-2010, _BAD_PRICES)
