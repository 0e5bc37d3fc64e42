"""LiveDesk: the broker of a live run: orders go to the exchange, and its facts change backtrader's orders.

Everything here runs on cerebro's thread. What waits for the network is the courier's, on the I/O thread; what it
learns comes back through the store's inbox.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import backtrader as bt

from ccxtbt.ccxtorder import CCXTOrder
from ccxtbt.ccxtstore import CCXTStore
from ccxtbt.errors import CCXTBTError, ConfigError, OrderRefusedError
from ccxtbt.livebooks import ZERO, LiveBooks
from ccxtbt.liveswaps import LiveSwaps, contracts_of
from ccxtbt.trading.armed import Armed
from ccxtbt.trading.brackets import Action, Bracket, Cancel, End, Excess, Exit, Exposed, Group, Send
from ccxtbt.trading.contracts import Payment
from ccxtbt.trading.courier import Courier, Down, Held, News, Prices, Stances, Up
from ccxtbt.trading.ids import NONCE_BITS, ClientIds
from ccxtbt.trading.journal import Intent, Link, LinkEnd, Told
from ccxtbt.trading.limits import NO_LIMITS, Halt
from ccxtbt.trading.openorders import OpenOrders
from ccxtbt.trading.orders import STOPS, Request, last_price, request_of, trailing_without_distance, waits_here
from ccxtbt.trading.reports import OrderFact
from ccxtbt.trading.rules import Rules, Side, exact
from ccxtbt.trading.sizes import Size, resize
from ccxtbt.trading.states import (
    WORKING,
    Accepted,
    Amend,
    Canceled,
    Completed,
    Expired,
    Fill,
    InDoubt,
    Margin,
    Orders,
    OrderState,
    Rejected,
    Status,
    Submitted,
    Transition,
)
from ccxtbt.trading.validity import native_params, until_ms, utc

logger = logging.getLogger(__name__)

# The safety net under the streams: how often open orders are looked up all the same, and sooner after a hint.
POLL_S = 10.0
HINT_S = 0.5
# How often they are looked up where no stream is listened to.
POLL_ALONE_S = 3.0

# How old a balance, or the price of a currency without a feed, may get.
BALANCE_TTL_S = 60.0
PRICES_TTL_S = 60.0

# Finished orders are let go of in batches; the states keep 10,000 of them for late messages.
KEEP_LEGS = 20_000

# How long an exchange that ends orders by itself may be late with it, before we cancel.
EXPIRY_GRACE_MS = 5_000


@dataclass(slots=True)
class Member:
    """An order as the strategy gave it.

    Attributes
    ----------
    order : backtrader.Order
        What `buy` or `sell` made.
    params : mapping
        The user's parameters for the exchange.
    quote_size : float, str, Decimal or None
        Quote to spend instead of a size.
    until_ms : int or None
        When its validity is over, by the exchange's clock.
    """

    order: Any
    params: Mapping[str, Any]
    quote_size: Any = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Leg:
    """One order at the exchange: a backtrader order has one, an exit of a bracket as many as were sent for it.

    Attributes
    ----------
    member : Member
        Whose it is.
    state : OrderState
        How it stands.
    number : int
        Which of the order's legs it is; 0 where there is only one.
    """

    member: Member
    state: OrderState
    number: int = 0

    @property
    def order(self) -> Any:
        """Backtrader's order."""
        return self.member.order


class LiveDesk(LiveBooks):
    """Sends orders and keeps the books; the part of `CCXTBroker` that a live run uses.

    Parameters
    ----------
    store : CCXTStore
        The account.
    cerebro : backtrader.Cerebro
        Whose thread this runs on.
    order_types : mapping
        exectype -> the exchange's name of the order type, over the usual ones.
    mappings : mapping
        A user's own way to tell that an order is closed or cancelled.
    comminfo : dict
        CommInfos that the user has set, by data name.
    poll_s : float
        Longest pause between two looks at open orders.
    streams : bool
        Listen to the account's streams where the exchange has them.
    flatten_excess : bool
        Trade back at once what orders that exclude each other have traded too much.
    balance_ttl_s : float
        How old a balance may get before it is asked for again.
    seeded : bool
        Begin with the positions that the account holds, instead of none; in contracts a run always does.
    leverage, margin_mode, hedged
        See `LiveSwaps`.
    """

    def __init__(
        self,
        store: CCXTStore,
        cerebro: Any,
        order_types: Mapping[int, str],
        mappings: Mapping[str, Mapping[str, Any]],
        comminfo: dict[str | None, Any],
        poll_s: float = POLL_S,
        *,
        streams: bool = True,
        flatten_excess: bool = False,
        balance_ttl_s: float = BALANCE_TTL_S,
        seeded: bool = False,
        leverage: Any = None,
        margin_mode: Any = None,
        hedged: bool = False,
    ) -> None:
        store.start()
        self._balance_ttl_s = balance_ttl_s
        self._seeded = seeded
        self._asked: set[str] = set()
        self._keyed = store.connection.keyed
        self._journal = store.open_journal() if self._keyed else None
        self._courier = Courier(store.connection, self._put, mappings, self._journal, streams=streams)
        super().__init__(store, cerebro, comminfo, self._courier.rules)
        self.notifs: deque[Any] = deque()
        self.open_orders = OpenOrders()
        self._order_types = order_types
        self._flatten_excess = flatten_excess
        self._poll_s = poll_s
        # `order.ref` begins at 1 in each process, and is no id.
        nonce, first = (
            (self._journal.nonce, self._journal.first) if self._journal else (secrets.randbits(NONCE_BITS), 1)
        )
        self._ids = ClientIds(store.connection.facts, nonce, first)
        self._states = Orders()
        self._legs: dict[str, Leg] = {}
        self._last_leg: dict[int, Leg] = {}
        self._untransmitted: dict[int, list[Member]] = {}
        self._members: dict[Any, tuple[Bracket, Member]] = {}
        self._groups: dict[int, Group] = {}
        # What orders that exclude each other have traded too much, until they have all ended.
        self._excess: dict[Bracket | Group, Decimal] = {}
        self._armed: dict[int, Armed] = {}
        # When the validity of open orders is over, and those whose time has come.
        self._until: dict[int, tuple[int, Any]] = {}
        self._overdue: set[int] = set()
        self._linked: set[int] = set()
        self._cancelling: set[str] = set()
        # Orders that have ended and still miss something: a fill, their final amount, or their cancel.
        self._unsettled: set[str] = set()
        # Bars of each data that brackets and armed orders have been shown.
        self._priced: dict[Any, int] = {}
        self._looked_s = self._hinted_s = self._balance_s = self._prices_s = time.monotonic()
        contracts = contracts_of(store.connection.markets, self._symbols_of(cerebro.datas), store.exchange_id)
        if contracts:
            self._swaps = LiveSwaps(self, contracts, leverage, margin_mode, hedged=hedged)

    # Life

    def start(self) -> None:
        """Learn what the account holds, and listen to it from now on."""
        super().start()
        self.store.start()
        self.store.desk = self
        opened_ms = 0
        if self._keyed:
            if self._swaps is not None:
                self._swaps.open(self._courier, self.store.connection)
            opened_ms = self.store.connection.clock.now_ms()
            balance = self._courier.fetch_balance()
            self.wallet.replace(balance)
            opened_ms = balance.get("timestamp") or opened_ms
            self._courier.follow()
        self.open_books(opened_ms)
        seeded = self.holdings() if self._seeded or self._swaps is not None else []
        if seeded or self._wanted:
            self._prices |= self._courier.fetch_prices({*seeded, *self._wanted}).last
        for symbol in seeded:
            self.seed(symbol, self._prices.get(symbol))
        self.begin()

    def stop(self) -> None:
        """End the run; orders that are open stay open at the exchange, and that is said."""
        self.store.desk = None
        left = self._states.open()
        if left:
            logger.warning("The run ends with %d open orders at %s: %s", len(left), self.store.exchange_id, left)

    def next(self) -> None:
        """Show brackets and armed orders the price, end what is over, and look up open orders when it is due."""
        self._show_prices()
        if self._until:
            self._expire()
        if self._seeds:
            self._tell_seeds()
        if self._swaps is not None:
            self._swaps.next()
        now_s = time.monotonic()
        self._keep_account(now_s)
        all_due = now_s - self._looked_s >= self._poll_s
        if not all_due and not (self._unsettled and now_s - self._hinted_s >= HINT_S):
            return
        self._hinted_s = now_s
        waiting = [self._legs[client_id].state for client_id in self._unsettled]
        if all_due:
            self._looked_s = now_s
            waiting = [*self._states.open(), *(state for state in waiting if state.done)]
        if waiting and self._keyed:
            self._courier.look_up([(state.order_id, state.client_id, state.symbol) for state in waiting])
        for client_id in self._cancelling:
            # A cancel whose answer was lost is asked for again: a second one does no harm.
            self._courier.cancel(client_id, self._legs[client_id].state.symbol)

    def _keep_account(self, now_s: float) -> None:
        """Ask for balances and prices that have become old, and look at what the books do not explain."""
        unheard = self._swaps is not None and self._swaps.has_unheard()
        if unheard:
            self._audit.expect(now_s)
        if self._audit.is_due(now_s):
            if unheard or self.differences():
                self._audit.looking = True
                # Fills that explain it may be in any market that we have traded or have orders in.
                waiting = self._states.open()
                self._courier.audit(
                    {*self._books, *(state.symbol for state in waiting), *(self._swaps.stances if self._swaps else ())},
                    [(state.order_id, state.client_id, state.symbol) for state in waiting if not state.is_named],
                )
            else:
                self._audit.put_off(now_s, again=False)
        if self._keyed and now_s - self._balance_s >= self._balance_ttl_s:
            self._balance_s = now_s
            self._courier.refresh_balance(pushed_too=True)
        if self._wanted and (now_s - self._prices_s >= PRICES_TTL_S or not self._wanted <= self._asked):
            self._prices_s, self._asked = now_s, set(self._wanted)
            self._courier.refresh_prices(self._wanted)

    def _hear_account(self, item: dict[str, Any] | Prices | Stances | Payment) -> None:
        """Take what was pushed of the account, or what it is priced by."""
        now_s = time.monotonic()
        if isinstance(item, Prices):
            self._prices |= item.last
        elif isinstance(item, Payment):
            self._book_payment(item)
        elif isinstance(item, dict):
            self._balance_s = now_s
            self.wallet.update(item)
            self._audit.notice(self.differences(), now_s)
        elif self._swaps is not None:
            self._swaps.hear(item.told, whole=item.whole)
            self._audit.notice(self._swaps.differences(), now_s)

    def _hear_held(self, held: Held) -> None:
        """Take a balance that was asked for."""
        now_s = time.monotonic()
        waiting = self._states.open()
        unclear = any(state.order_id is None or state.in_doubt or state.needs_fills for state in waiting)
        if held.balance is not None:
            self._balance_s = now_s
            self.wallet.replace(held.balance)
        if not held.looked:
            self._audit.notice(self.differences(), now_s)
        elif held.balance is None or unclear:
            self._audit.looking = False
            self._audit.put_off(now_s, again=True)
        else:
            self._book_foreign(self._states.foreign(looked=True))
            self._book_proved(self._audit.look(self.differences(), now_s))

    def _show_prices(self) -> None:
        """Show each new bar to the orders that are watched here."""
        fresh = [data for data in self.cerebro.datas if len(data) != self._priced.get(data, 0)]
        if not fresh:
            return
        self._priced |= {data: len(data) for data in fresh}
        for bracket, member in list(self._members.values()):
            data = member.order.data
            if member.order.parent is None and any(data is each for each in fresh):
                self._act(bracket, bracket.on_price(data.close[0], round((data.datetime[0] - 719_163) * 86_400_000)))
        for ref, armed in list(self._armed.items()):
            market = self._market(armed.order.data)
            if any(self._market(data) == market and armed.due(data) for data in fresh) and ref in self._armed:
                self._fire(ref)

    def _expire(self) -> None:
        """Cancel the orders whose validity is over."""
        now_ms = self.store.connection.clock.now_ms()
        over = [ref for ref, (end_ms, _) in self._until.items() if now_ms >= end_ms]
        for ref in over:
            if ref in self._until:
                _, order = self._until.pop(ref)
                self._overdue.add(ref)
                bracket, _ = self._members.get(ref, (None, None))
                if bracket is not None and bracket.is_exit(ref) and bracket.rest:
                    self._warn(
                        f"The validity of order {ref}, an exit, is over: {bracket.rest} is held, and its bracket ends. "
                        "Give exits a later validity than their entry."
                    )
                self.cancel(order)

    # Orders

    def take(self, order: Any, params: Mapping[str, Any], valid: Any = None, quote_size: Any = None) -> None:
        """Take an order from a strategy: send it, or keep it until its bracket is complete. Returns at once.

        Parameters
        ----------
        order : backtrader.Order
            As `buy` or `sell` made it.
        params : mapping
            What the user passes to the exchange.
        valid : datetime, date, timedelta, number or None
            Until when it is good.
        quote_size : float, str, Decimal or None
            Quote to spend, instead of the order's size.
        """
        try:
            member = Member(order, params, quote_size, self._until_of(order, valid))
        except ConfigError as error:
            self._refuse(order, str(error))
            return
        parent = order.parent
        if order.oco is not None:
            self._send_exclusive(member)
        elif parent is None and order.transmit:
            self._send(member)
        elif parent is None:
            self._untransmitted[order.ref] = [member]
        elif parent.ref not in self._untransmitted:
            self._refuse(
                order, f"Its parent, order {parent.ref}, was transmitted before: send a bracket's exits with it."
            )
        else:
            self._untransmitted[parent.ref].append(member)
            if order.transmit:
                self._send_bracket(self._untransmitted.pop(parent.ref))

    def cancel(self, order: Any) -> None:
        """Ask to cancel an order; its notification comes when it is done. Returns at once."""
        if order.ref in self._untransmitted:
            for member in self._untransmitted.pop(order.ref):
                self._end(member.order, Status.CANCELED)
                self._notify(member.order)
        elif order.ref in self._members:
            bracket, _ = self._members[order.ref]
            self._act(bracket, bracket.cancel(order.ref))
        elif order.ref in self._armed:
            self._disarm(order.ref)
        else:
            self._cancel_leg(order.ref)

    def receive(self, item: News | Halt) -> None:
        """Take what the courier has learnt."""
        if isinstance(item, Up):
            # What happened while nobody listened is asked for at once.
            self._looked_s = 0.0
            if self._swaps is not None:
                # Funding, a liquidation and the trades of others show in the wallet alone.
                self._balance_s = -math.inf
        elif isinstance(item, Down):
            self.store.put_notification(f"The stream of orders broke ({item.reason}); fills are looked up meanwhile.")
        elif isinstance(item, Halt):
            for order in self.open_orders:
                self.cancel(order)
        elif isinstance(item, Held):
            self._hear_held(item)
        elif isinstance(item, dict | Prices | Stances | Payment):
            self._hear_account(item)
        else:
            state, told = self._states.apply(item)
            self._book_foreign(self._states.foreign())
            if state is not None:
                if told and self._journal is not None:
                    self._journal.note(Told(state.client_id, tuple(told), state.order_id, state.filled, state.cost))
                leg = self._legs[state.client_id]
                if isinstance(item, OrderFact) and item.raw is not None and self._last_leg.get(leg.order.ref) is leg:
                    leg.order.hear(item.raw)
                self._tell(leg, told)
                if told:
                    self._courier.refresh_balance()
                self._watch(state)

    # What strategies and observers ask

    def get_notification(self) -> Any:
        """Return the next order that changed; None if there is none."""
        return self.notifs.popleft() if self.notifs else None

    # Sending

    def _send(self, member: Member, action: Send | None = None, *, due: bool = False, freely: bool = False) -> str:
        """Send an order, or one leg of a bracket's exit; return '' if it is on its way, else why it cannot be.

        `due` is a stop that was watched here and has been reached: what it becomes is sent. `freely` is sent whatever
        the state of its data and the user's limits.
        """
        order = member.order
        try:
            if self.store.halted:
                raise OrderRefusedError(f"The store is halted ({self.store.halted}): nothing is sent.")
            # An exit protects what is held: it goes out also when its data is not LIVE.
            free = freely or due or action is not None
            if not free:
                self._check(order)
            rules, facts = self.rules_of(order.data), self.store.connection.facts
            triggered = due or (action is not None and action.triggered)
            waits = not triggered and waits_here(order, rules, self._order_types, facts.trailing_params)
            number, client_id = (0, "") if waits else self._ids.next()
            request = request_of(
                order,
                rules,
                client_id,
                params={
                    **({} if triggered or waits else self._expiry(member, rules)),
                    **self._reducing(member, action, rules),
                    **member.params,
                },
                order_types=self._order_types,
                client_id_param=facts.client_id_param,
                trailing_params=facts.trailing_params,
                size=None if action is None else action.size,
                cost=member.quote_size,
                triggered=triggered or waits,
            )
            if not free:
                self._check_limits(order, request, rules)
            state = OrderState.of(request)
            if not waits:
                self._states.add(state)
        except CCXTBTError as error:
            # What a bracket sends, it ends too.
            if action is None and not (due and order.ref in self._members):
                self._refuse(order, str(error))
            return str(error)
        for note in request.notes:
            logger.info("Order %d: %s.", order.ref, note)
        if order.comminfo is None:
            order.addcomminfo(self.getcommissioninfo(order.data))
        if action is None and not due:
            resize(order, Size(request.amount if request.side == "buy" else -request.amount, rules.lot))
        order.addinfo(emulated=self._emulated(member, rules, waits=waits or due))
        if member.until_ms is not None and order.ref not in self._until:
            self._until[order.ref] = member.until_ms + EXPIRY_GRACE_MS * bool(self._expiry(member, rules)), order
        if waits:
            self._arm(member, action)
            return ""
        self._forget()
        leg = Leg(member, state, 0 if action is None else action.leg)
        self._legs[leg.state.client_id] = self._last_leg[order.ref] = leg
        order.addinfo(client_id=leg.state.client_id)
        order.sent(request)
        self._tell(leg, leg.state.submit())
        now_ms = self.store.connection.clock.now_ms()
        self._courier.send(Intent(number, request, order.ref, leg.number, order.tradeid, now_ms, member.until_ms))
        return ""

    def _reducing(self, member: Member, action: Send | None, rules: Rules) -> dict[str, Any]:
        """Return what lets an order only reduce: the exits of brackets, and one for exactly what is held.

        The latter is what `Strategy.close` sends, and nothing tells it from a plain order of that size.
        """
        if self._swaps is None or not self._swaps.one_way or not rules.contract_size:
            return {}
        order, said = member.order, {"reduceOnly", "closePosition"} & member.params.keys()
        bracket, _ = self._members.get(order.ref, (None, None))
        if bracket is not None:
            return {"reduceOnly": True} if bracket.is_exit(order.ref) and not said else {}
        held = self._book_of(order.data).size
        sign = 1 if order.isbuy() else -1
        whole = exact(order.created.size, "size") == -held and held * sign < 0
        return {"reduceOnly": True} if whole and not said and not self._pending(order) else {}

    def _pending(self, order: Any) -> Decimal:
        """Return what open orders of an order's market and side may trade yet."""
        orders = [self._legs[state.client_id].order for state in self._states.open()]
        orders += [armed.order for armed in self._armed.values()]
        same = [
            each
            for each in orders
            if each.ref != order.ref
            and each.isbuy() == order.isbuy()
            and self._market(each.data) == self._market(order.data)
        ]
        return sum((Decimal(repr(float(abs(each.executed.remsize)))) for each in same), ZERO)

    def _emulated(self, member: Member, rules: Rules, *, waits: bool) -> str:
        """Return what of an order is done here instead of at the exchange; '' where nothing is."""
        said = []
        bracket, _ = self._members.get(member.order.ref, (None, None))
        if bracket is not None and bracket.is_exit(member.order.ref):
            said.append("it takes turns with the other exit, and follows what there is to leave")
        if waits:
            said.append("its trigger is watched here, on the closed bars of the run")
        if member.until_ms is not None and not self._expiry(member, rules):
            said.append("its validity is watched here")
        if member.quote_size is not None and not rules.cost_orders:
            said.append("its size is reckoned by the last price")
        return "; ".join(said)

    def _expiry(self, member: Member, rules: Rules) -> dict[str, Any]:
        connection = self.store.connection
        at_market = member.order.exectype in (None, bt.Order.Market, bt.Order.Close)
        if member.until_ms is None or at_market or "timeInForce" in member.params:
            return {}
        return native_params(member.until_ms, connection.clock.now_ms(), rules, connection.facts)

    def _until_of(self, order: Any, valid: Any) -> int | None:
        end_ms = until_ms(valid, self.store.connection.clock.now_ms(), order.data.date2num)
        if end_ms is not None:
            order.valid = 719_163 + end_ms / 86_400_000
        return end_ms

    # Stops that are watched here

    def _arm(self, member: Member, action: Send | None) -> None:
        """Watch a stop here; the strategy hears the same as of one at the exchange."""
        order = member.order
        now_num = 719_163 + self.store.connection.clock.now_ms() / 86_400_000
        self._armed[order.ref] = Armed(order, member, now_num, action)
        if order.ref not in self._members:
            self._link(member, order.ref, "armed")
        if order.status < bt.Order.Submitted:
            order.submit(self)
            self._notify(order)
        if order.status < bt.Order.Accepted:
            order.accept(self)
            self._notify(order)

    def _fire(self, ref: int) -> None:
        """Send what a stop becomes."""
        armed = self._armed.pop(ref)
        refused = self._send(armed.member, armed.action, due=True)
        if refused:
            self._tell_local(armed, Rejected(refused))

    def _disarm(self, ref: int) -> None:
        """Let a stop go that was watched here."""
        armed = self._armed.pop(ref)
        if ref not in self._members:
            self._end(armed.order, Status.CANCELED)
            self._notify(armed.order)
        self._tell_local(armed, Canceled())

    def _tell_local(self, armed: Armed, transition: Transition) -> None:
        """Tell the bracket or the group of a stop that was watched here what became of it."""
        ref, leg = armed.order.ref, 0 if armed.action is None else armed.action.leg
        if ref in self._members:
            bracket, _ = self._members[ref]
            self._act(bracket, bracket.apply(ref, leg, transition))
        elif ref in self._groups:
            self._act(self._groups[ref], self._groups[ref].apply(ref, transition))

    # Orders that hang together

    def _link(self, member: Member, bond: int, role: str) -> None:
        """Keep in the journal what is not at the exchange, or hangs together with something else."""
        if self._journal is None:
            return
        order, created = member.order, member.order.created
        asked = {
            "side": order.ordtypename().lower(),
            "size": float(created.size),
            "exectype": order.getordername(),
            "price": created.price,
            "plimit": created.pricelimit,
            "trailamount": order.trailamount,
            "trailpercent": order.trailpercent,
            "until_ms": member.until_ms,
            "tradeid": order.tradeid,
            "params": dict(member.params),
        }
        self._linked.add(order.ref)
        self._journal.note(Link(order.ref, bond, role, self._symbol(order.data), asked))

    def _send_exclusive(self, member: Member) -> None:
        """Send an order that shall be the only one of its group to trade."""
        order, first = member.order, member.order.oco
        known = self._armed.get(first.ref) or self._last_leg.get(first.ref)
        # What a strategy has from a notification is a copy, as it stood then.
        first = first if known is None else known.order
        try:
            self._check(order)
            if order.parent is not None or first.parent is not None or first.ref in self._members:
                raise ConfigError(
                    f"Order {first.ref} is in a bracket, whose exits exclude each other: leave oco out there, and "
                    "give each pair of exits orders of its own."
                )
            if known is None or not first.alive():
                raise ConfigError(
                    f"oco: order {first.ref} is not open any more, or not yet: nothing is to be excluded."
                )
            rules = self.rules_of(order.data)
            amount = rules.amount(abs(order.created.size))
            pair = self._pair(first, order, amount, rules)
            taken = known.member
        except CCXTBTError as error:
            self._refuse(order, str(error))
            return
        if pair is not None:
            self._send_pair(pair, taken, member)
            return
        group = self._groups.get(first.ref)
        if group is None:
            group = self._groups[first.ref] = Group({first.ref: rules.amount(abs(first.created.size))})
            self._link(taken, first.ref, "oco")
        group.add(order.ref, amount)
        self._groups[order.ref] = group
        self._link(member, first.ref, "oco")
        refused = self._send(member)
        if refused:
            self._act(group, group.apply(order.ref, Rejected(refused)))

    def _pair(self, first: Any, second: Any, amount: Decimal, rules: Rules) -> Bracket | None:
        """Return two sales of the same amount, a stop and a limit, as the exits of what is held; None if they are not.

        At the exchange at once they would lock the amount twice, and could both be filled.
        """
        stops = [order.exectype in STOPS for order in (first, second)]
        limits = [order.exectype == bt.Order.Limit for order in (first, second)]
        same = self._market(first.data) == self._market(second.data)
        if first.isbuy() or second.isbuy() or not same or first.ref in self._groups:
            return None
        if sum(stops) != 1 or sum(limits) != 1 or rules.amount(abs(first.created.size)) != amount:
            return None
        bracket = Bracket(
            [self._exit(order, rules) for order in (first, second)], side="buy", lot=rules.lot, size=amount
        )
        if first.ref in self._armed:
            bracket.adopt(first.ref, amount, working=True)
        else:
            state = self._last_leg[first.ref].state
            bracket.adopt(first.ref, amount - state.filled, working=state.status in WORKING)
        return bracket

    def _send_pair(self, bracket: Bracket, taken: Member, member: Member) -> None:
        """Let two exits of one holding take turns, of which the first is on its way already."""
        order = member.order
        for each in (taken, member):
            self._members[each.order.ref] = bracket, each
            kind = "stop" if each.order.exectype in STOPS else "limit"
            each.order.addinfo(emulated=self._emulated(each, self.rules_of(order.data), waits=False))
            self._link(each, taken.order.ref, kind)
        order.addcomminfo(self.getcommissioninfo(order.data))
        order.submit(self)
        self._notify(order)
        self._act(bracket, bracket.start())

    def _send_bracket(self, members: Sequence[Member]) -> None:
        """Send an entry; its exits follow what it fills."""
        parent, *children = members
        try:
            rules = self.rules_of(parent.order.data)
            exits = [self._exit(member.order, rules) for member in children]
            side: Side = "buy" if parent.order.isbuy() else "sell"
            bracket = Bracket(exits, side=side, lot=rules.lot, base=rules.base, parent=parent.order.ref)
        except CCXTBTError as error:
            for member in members:
                self._refuse(member.order, str(error))
            return
        for member in members:
            self._members[member.order.ref] = bracket, member
            kind = "stop" if member.order.exectype in STOPS else "limit"
            self._link(member, parent.order.ref, "parent" if member is parent else kind)
        for member in children:
            if member.until_ms is not None:
                self._until[member.order.ref] = member.until_ms, member.order
            member.order.addinfo(emulated=self._emulated(member, rules, waits=False))
            member.order.addcomminfo(self.getcommissioninfo(member.order.data))
            member.order.submit(self)
            self._notify(member.order)
        refused = self._send(parent)
        if refused:
            self._act(bracket, bracket.apply(parent.order.ref, 0, Rejected(refused)))

    @staticmethod
    def _exit(order: Any, rules: Rules) -> Exit:
        side: Side = "buy" if order.isbuy() else "sell"
        price = rules.price(order.created.price, side)
        # What only reduces may be worth as little as it likes.
        least = rules.lot if rules.contract_size else rules.least(price)
        return Exit(order.ref, "stop" if order.exectype in STOPS else "limit", price, least)

    def _watch(self, state: OrderState) -> None:
        """Note what an order still misses, so that it is looked up, ended or not."""
        if state.stray and state.client_id not in self._cancelling:
            self._warn(f"{state} was told to be refused, and the exchange works it: it is cancelled.")
            self._cancelling.add(state.client_id)
            self._courier.cancel(state.client_id, state.symbol)
        if state.needs_fills or state.needs_order or state.stray:
            if not self._unsettled:
                # What is missing comes as a rule the next moment: it is not asked for at once.
                self._hinted_s = time.monotonic()
            self._unsettled.add(state.client_id)
        else:
            self._unsettled.discard(state.client_id)

    def _cancel_leg(self, ref: Any) -> None:
        if ref in self._armed:
            self._disarm(ref)
            return
        leg = self._last_leg.get(ref)
        if leg is None or leg.state.done:
            return
        self._cancelling.add(leg.state.client_id)
        self._courier.cancel(leg.state.client_id, leg.state.symbol)

    def _act(self, bond: Bracket | Group, actions: Sequence[Action]) -> None:
        """Do what a bracket or a group says; what cannot be done is told to it, and what follows is done too."""
        todo = deque(actions)
        while todo:
            action = todo.popleft()
            if isinstance(action, Send) and isinstance(bond, Bracket):
                refused = self._send(self._members[action.key][1], action)
                if refused:
                    todo.extend(bond.apply(action.key, action.leg, Rejected(refused)))
                elif action.key in self._armed:
                    todo.extend(bond.apply(action.key, action.leg, Accepted()))
            elif isinstance(action, Cancel):
                self._cancel_leg(action.key)
            elif isinstance(action, End):
                order = self._members[action.key][1].order
                if action.status is Status.COMPLETED:
                    # It was made for more than its entry left to sell.
                    resize(order, order.executed.size)
                self._end(order, action.status, action.reason)
                self._notify(order)
            elif isinstance(action, Exposed):
                self._warn(f"{self._name_of(bond)} holds {action.size} without an exit: {action.reason}")
            elif isinstance(action, Excess):
                self._warn(f"{self._name_of(bond)} traded {action.size} more than one of its orders was to trade.")
                self._excess[bond] = self._excess.get(bond, Decimal(0)) + action.size
        if bond.done:
            excess = self._excess.pop(bond, None)
            if excess is not None and self._flatten_excess:
                self._trade_back(bond, excess)
            self._members = {ref: kept for ref, kept in self._members.items() if kept[0] is not bond}
            self._groups = {ref: kept for ref, kept in self._groups.items() if kept is not bond}

    def _trade_back(self, bond: Bracket | Group, size: Decimal) -> None:
        """Trade back what orders that exclude each other have traded too much."""
        one = next(
            self._last_leg[ref].order
            for ref in self._refs_of(bond)
            if ref in self._last_leg and (isinstance(bond, Group) or bond.is_exit(ref))
        )
        side = "sell" if one.isbuy() else "buy"
        named: dict[str, Any] = {"owner": one.owner, "data": one.data, "size": float(size), "exectype": bt.Order.Market}
        back = CCXTOrder(side=side, **named)
        back.addinfo(flattens=one.ref)
        self._send(Member(back, {}), freely=True)

    def _forget(self) -> None:
        """Let go of orders so long finished that no message for them can come."""
        if len(self._legs) > KEEP_LEGS:
            self._legs = {key: leg for key, leg in self._legs.items() if self._states.get(key) is leg.state}
            self._last_leg = {ref: leg for ref, leg in self._last_leg.items() if leg.state.client_id in self._legs}
            self._courier.forget(self._legs)

    def _name_of(self, bond: Bracket | Group) -> str:
        kind = "bracket" if isinstance(bond, Bracket) else "OCO group"
        return f"The {kind} of order {min(self._refs_of(bond), default=0)}"

    def _refs_of(self, bond: Bracket | Group) -> list[int]:
        refs = [ref for ref, kept in self._members.items() if kept[0] is bond]
        return refs + [ref for ref, kept in self._groups.items() if kept is bond]

    # What the exchange says

    def _put(self, news: News) -> None:
        self.store.inbox.put(self, news)

    def _tell(self, leg: Leg, told: Sequence[Transition]) -> None:
        """Carry transitions of a leg into its order and its bracket, with one notification for each change."""
        order = leg.order
        bracket, _ = self._members.get(order.ref, (None, None))
        # The exits of a bracket are told by it: one order to the strategy may be several at the exchange.
        is_exit = bracket is not None and bracket.is_exit(order.ref)
        group = self._groups.get(order.ref)
        actions: list[Action] = []
        filled = False
        for transition in told:
            if isinstance(transition, Fill):
                self._book(order, transition)
                filled = True
            elif isinstance(transition, Amend):
                self._amend(order, transition)
            elif isinstance(transition, InDoubt):
                self._warn(
                    f"Is order {order.ref} at the exchange? Nobody knows ({transition.reason}); it is looked up."
                )
            elif self._is_news(order, transition, is_exit=is_exit):
                self._move(order, transition)
                self._notify(order)
                filled = False
            if bracket is not None:
                actions += bracket.apply(order.ref, leg.number, transition)
            elif group is not None:
                actions += group.apply(order.ref, transition)
        if leg.state.done and not leg.state.stray:
            self._cancelling.discard(leg.state.client_id)
        if filled and not any(isinstance(action, End) and action.key == order.ref for action in actions):
            if order.alive():
                order.partial()
            self._notify(order)
        bond = bracket or group
        if bond is not None:
            self._act(bond, actions)

    @staticmethod
    def _is_news(order: Any, transition: Transition, *, is_exit: bool) -> bool:
        """Whether the strategy is to hear a transition of one of the order's legs."""
        if isinstance(transition, Submitted | Accepted) and order.status >= bt.Order.Accepted:
            # A stop that was watched here, or a later leg of an exit.
            return False
        return not is_exit or isinstance(transition, Accepted)

    def _move(self, order: Any, transition: Transition) -> None:
        match transition:
            case Submitted():
                order.submit(self)
            case Accepted(order_id=order_id):
                order.addinfo(order_id=order_id)
                order.accept(self)
            case Completed():
                if order.executed.remsize:
                    # What an amount of quote has bought was not known before.
                    resize(order, order.executed.size)
                self._end(order, Status.COMPLETED)
            case Canceled(reason=reason):
                self._end(order, Status.CANCELED, reason)
            case Expired(reason=reason):
                self._end(order, Status.EXPIRED, reason)
            case Rejected(reason=reason):
                self._end(order, Status.REJECTED, reason)
            case Margin(reason=reason):
                self._end(order, Status.MARGIN, reason)

    def _end(self, order: Any, status: Status, reason: str = "") -> None:
        if status is Status.CANCELED and order.ref in self._overdue:
            status, reason = (
                Status.EXPIRED,
                f"its validity was over: {utc(round((order.valid - 719_163) * 86_400_000))}",
            )
        self._overdue.discard(order.ref)
        if reason:
            order.addinfo(reason=reason)
            logger.info("Order %d is %s: %s", order.ref, status.value.lower(), reason)
        # Set, not by its methods: `Order.expire` refuses market orders, which exchanges expire too.
        order.status = getattr(bt.Order, status.value)
        order.executed.dt = order.executed.dt or order.data.datetime[0]

    # Helpers

    def _check(self, order: Any) -> None:
        """Refuse what must not be sent now."""
        if trailing_without_distance(order):
            raise ConfigError("A trailing stop needs a distance above 0: give trailamount or trailpercent.")
        if not self._keyed:
            raise ConfigError("There is no apiKey in the store's config: nothing can be ordered without one.")
        symbol, feed = self._symbol(order.data), self.source(order.data)
        if self.store.orders == "live" and feed._laststatus != feed.LIVE:
            raise ConfigError(
                f"{symbol} is {feed._getstatusname(feed._laststatus)}, not LIVE: an order now would act on old bars. "
                "Wait for LIVE in notify_data, or say CCXTStore(orders='always')."
            )

    def _check_limits(self, order: Any, request: Request, rules: Rules) -> None:
        """Refuse what the user's limits do not allow."""
        limits = self.store.limits
        if limits == NO_LIMITS:
            return
        limits.check_order(rules, request.amount, request.price or last_price(order))
        waiting = self._states.open()
        limits.check_open(len(waiting) + len(self._armed))
        sign, pending = 1 if request.side == "buy" else -1, self._pending(order)
        limits.check_position(rules, self._book_of(order.data).size, sign * pending, sign * request.amount)

    def _refuse(self, order: Any, reason: str) -> None:
        logger.warning("Order %d is rejected: %s", order.ref, reason)
        order.addinfo(reason=reason)
        order.reject(self)
        self._notify(order)

    def _notify(self, order: Any) -> None:
        if order.alive():
            self.open_orders.append(order)
        else:
            self.open_orders.discard(order)
            self._until.pop(order.ref, None)
            if order.ref in self._linked and self._journal is not None:
                self._linked.discard(order.ref)
                self._journal.note(LinkEnd(order.ref, order.getstatusname()))
        # The clone moves the window of fills that a Trade is built from: one for each change.
        self.notifs.append(order.clone())
