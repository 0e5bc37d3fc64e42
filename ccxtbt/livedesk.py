"""LiveDesk: the broker of a live run: orders go to the exchange, and its facts change backtrader's orders.

Everything here runs on cerebro's thread. What waits for the network is the courier's, on the I/O thread; what it
learns comes back through the store's inbox.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import backtrader as bt

from ccxtbt.ccxtstore import CCXTStore
from ccxtbt.errors import CCXTBTError, ConfigError, NotOfferedError
from ccxtbt.trading.books import Book
from ccxtbt.trading.brackets import Action, Bracket, Cancel, End, Excess, Exit, Exposed, Send
from ccxtbt.trading.courier import Courier, Down, News, Up
from ccxtbt.trading.ids import NONCE_BITS, ClientIds
from ccxtbt.trading.journal import Intent, Told
from ccxtbt.trading.openorders import OpenOrders
from ccxtbt.trading.orders import request_of
from ccxtbt.trading.reports import OrderFact
from ccxtbt.trading.rules import Rules, Side
from ccxtbt.trading.sizes import CommInfo, Position, Size, resize
from ccxtbt.trading.states import (
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

logger = logging.getLogger(__name__)

# The safety net under the streams: how often open orders are looked up all the same, and sooner after a hint.
POLL_S = 10.0
HINT_S = 0.5
# How often they are looked up where no stream is listened to.
POLL_ALONE_S = 3.0

# Finished orders are let go of in batches; the states keep 10,000 of them for late messages.
KEEP_LEGS = 20_000

STOPS = frozenset({bt.Order.Stop, bt.Order.StopLimit})


@dataclass(frozen=True, slots=True)
class Leg:
    """One order at the exchange: a backtrader order has one, an exit of a bracket as many as were sent for it.

    Attributes
    ----------
    order : backtrader.Order
        Whose it is.
    state : OrderState
        How it stands.
    number : int
        Which of the order's legs it is; 0 where there is only one.
    """

    order: Any
    state: OrderState
    number: int = 0


@dataclass(slots=True)
class Member:
    """An order of a bracket, or one that waits for the last of its bracket to be transmitted."""

    order: Any
    params: Mapping[str, Any]


class LiveDesk(bt.BrokerBase):
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
    ) -> None:
        super().__init__()
        self.store = store
        self.cerebro = cerebro
        self.comminfo = comminfo
        self.positions: dict[Any, Position] = {}
        self.notifs: deque[Any] = deque()
        self.open_orders = OpenOrders()
        self.wallet = store.wallet
        self.startingcash = self.startingvalue = 0.0
        self._order_types = order_types
        self._poll_s = poll_s
        store.start()
        self._journal = store.open_journal() if store.connection.keyed else None
        self._courier = Courier(store.connection, self._put, mappings, self._journal, streams=streams)
        # `order.ref` begins at 1 in each process, and is no id.
        nonce, first = (
            (self._journal.nonce, self._journal.first) if self._journal else (secrets.randbits(NONCE_BITS), 1)
        )
        self._ids = ClientIds(store.connection.facts, nonce, first)
        self._rules: dict[str, Rules] = {}
        self._opening: dict[str, Decimal] = {}
        self._books: dict[str, Book] = {}
        self._states = Orders()
        self._legs: dict[str, Leg] = {}
        self._last_leg: dict[int, Leg] = {}
        self._untransmitted: dict[int, list[Member]] = {}
        self._members: dict[Any, tuple[Bracket, Member]] = {}
        self._cancelling: set[str] = set()
        # Orders that have ended and still miss something: a fill, their final amount, or their cancel.
        self._unsettled: set[str] = set()
        # Bars of each data that brackets have been shown.
        self._priced: dict[Any, int] = {}
        self._looked_s = time.monotonic()
        self._look_soon = False

    # Life

    def start(self) -> None:
        """Learn what the account holds, and listen to it from now on."""
        super().start()
        self.store.start()
        if self._courier.keyed:
            self.wallet.update(self._courier.fetch_balance())
            self._courier.follow()
        self._opening = self.wallet.totals()
        self.startingcash = self.getcash()
        self.startingvalue = self.getvalue()

    def stop(self) -> None:
        """End the run; orders that are open stay open at the exchange, and that is said."""
        left = self._states.open()
        if left:
            logger.warning("The run ends with %d open orders at %s: %s", len(left), self.store.exchange_id, left)

    def next(self) -> None:
        """Show brackets the price, and look up open orders when the safety net is due."""
        for bracket, member in list(self._members.values()):
            data = member.order.data
            if member.order.parent is None and len(data) != self._priced.get(data, 0):
                self._act(bracket, bracket.on_price(data.close[0], round((data.datetime[0] - 719_163) * 86_400_000)))
        self._priced = {data: len(data) for data in self.cerebro.datas}
        now_s = time.monotonic()
        if now_s - self._looked_s < (HINT_S if self._look_soon else self._poll_s):
            return
        self._looked_s = now_s
        self._look_soon = False
        waiting = self._states.open()
        waiting += [self._legs[client_id].state for client_id in self._unsettled if self._legs[client_id].state.done]
        if waiting and self._courier.keyed:
            self._courier.look_up([(state.order_id, state.client_id, state.symbol) for state in waiting])
        for client_id in self._cancelling:
            # A cancel whose answer was lost is asked for again: a second one does no harm.
            self._courier.cancel(client_id, self._legs[client_id].state.symbol)

    # Orders

    def take(self, order: Any, params: Mapping[str, Any]) -> None:
        """Take an order from a strategy: send it, or keep it until its bracket is complete. Returns at once.

        Parameters
        ----------
        order : backtrader.Order
            As `buy` or `sell` made it.
        params : mapping
            What the user passes to the exchange.
        """
        member = Member(order, params)
        parent = order.parent
        if parent is None and order.transmit:
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
                member.order.cancel()
                self._notify(member.order)
        elif order.ref in self._members:
            bracket, _ = self._members[order.ref]
            self._act(bracket, bracket.cancel(order.ref))
        else:
            self._cancel_leg(order.ref)

    def receive(self, item: News) -> None:
        """Take what the courier has learnt."""
        if isinstance(item, Up):
            # What happened while nobody listened is asked for at once.
            self._looked_s = 0.0
        elif isinstance(item, Down):
            self.store.put_notification(f"The stream of orders broke ({item.reason}); fills are looked up meanwhile.")
        elif isinstance(item, dict):
            self.wallet.update(item)
        else:
            state, told = self._states.apply(item)
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

    def getcash(self) -> float:
        """Return the account's money in the store's currency, by the opening balance and the fills since."""
        return float(self.amount(self.store.currency or ""))

    get_cash = getcash

    def amount(self, currency: str) -> Decimal:
        """Return what is held of a currency, free and locked, by the opening balance and all fills since."""
        flows = (book.flows.get(currency, Decimal(0)) for book in self._books.values())
        return sum(flows, self._opening.get(currency, Decimal(0)))

    def getvalue(self, datas: Any = None) -> float:
        """Return cash and positions at the last price; of `datas`, the value of their positions alone."""
        if datas is not None:
            return sum(self._worth(data) for data in datas)
        # Of the datas that share a position, the one whose bar is the latest tells its price.
        latest = {id(self.positions[data]): data for data in sorted(self.positions, key=self._age)}
        return self.getcash() + sum(self._worth(data) for data in latest.values())

    get_value = getvalue

    def getposition(self, data: Any, clone: bool = True) -> Position:
        """Return the position in a market, which all its datas share: other timeframes, resampled ones."""
        position = self.positions.get(data)
        if position is None:
            market = self._market(data)
            same = (held for other, held in self.positions.items() if self._market(other) == market)
            position = self.positions[data] = next(same, Position())
        return position.clone() if clone else position

    def orderstatus(self, order: Any) -> int:
        """Return an order's status."""
        return int(order.status)

    def getcommissioninfo(self, data: Any) -> Any:
        """Return the CommInfo of a data: the user's own, else one with the market's fees."""
        for name in (data._name, None):
            if name in self.comminfo:
                return self.comminfo[name]
        rules = self.rules_of(data)
        return self.comminfo.setdefault(data._name, CommInfo(commission=float(rules.fee_rate), lot=rules.lot))

    def rules_of(self, data: Any) -> Rules:
        """Return what the market of a data accepts.

        Raises
        ------
        ConfigError
            The data is not of this store.
        """
        symbol = self._symbol(data)
        if symbol not in self._rules:
            self._rules[symbol] = self._courier.rules(symbol)
        return self._rules[symbol]

    @staticmethod
    def source(data: Any) -> Any:
        """Return the feed on which a data stands: itself, or what it is resampled or replayed from."""
        while not isinstance(data, CCXTStore.DataCls) and getattr(data, "_clone", False):
            data = data.data
        return data

    # Sending

    def _send(self, member: Member, action: Send | None = None) -> str:
        """Send an order, or one leg of a bracket's exit; return '' if it is on its way, else why it cannot be."""
        order = member.order
        try:
            # An exit protects what is held: it goes out also when its data is not LIVE.
            if action is None:
                self._check(order)
            rules = self.rules_of(order.data)
            number, client_id = self._ids.next()
            request = request_of(
                order,
                rules,
                client_id,
                params=member.params,
                order_types=self._order_types,
                client_id_param=self.store.connection.facts.client_id_param,
                size=None if action is None else action.size,
                triggered=action is not None and action.triggered,
            )
            state = OrderState.of(request)
            self._states.add(state)
        except CCXTBTError as error:
            if action is None:
                self._refuse(order, str(error))
            return str(error)
        for note in request.notes:
            logger.info("Order %d: %s.", order.ref, note)
        if order.comminfo is None:
            order.addcomminfo(self.getcommissioninfo(order.data))
        if action is None and not request.by_cost:
            resize(order, Size(request.amount if request.side == "buy" else -request.amount, rules.lot))
        self._forget()
        leg = Leg(order, state, 0 if action is None else action.leg)
        self._legs[leg.state.client_id] = self._last_leg[order.ref] = leg
        order.addinfo(client_id=leg.state.client_id)
        order.sent(request)
        self._tell(leg, leg.state.submit())
        now_ms = self.store.connection.clock.now_ms()
        self._courier.send(Intent(number, request, order.ref, leg.number, order.tradeid, now_ms))
        return ""

    def _send_bracket(self, members: Sequence[Member]) -> None:
        """Send an entry; its exits follow what it fills."""
        parent, *children = members
        try:
            for member in children:
                self._check_offered(member.order)
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
        for member in children:
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
        return Exit(order.ref, "stop" if order.exectype in STOPS else "limit", price, rules.least(price))

    def _watch(self, state: OrderState) -> None:
        """Note what an order still misses, so that it is looked up, ended or not."""
        if state.stray and state.client_id not in self._cancelling:
            self._warn(f"{state} was told to be refused, and the exchange works it: it is cancelled.")
            self._cancelling.add(state.client_id)
            self._courier.cancel(state.client_id, state.symbol)
        if state.needs_fills or state.needs_order or state.stray:
            self._unsettled.add(state.client_id)
            self._look_soon = True
        else:
            self._unsettled.discard(state.client_id)

    def _cancel_leg(self, ref: Any) -> None:
        leg = self._last_leg.get(ref)
        if leg is None or leg.state.done:
            return
        self._cancelling.add(leg.state.client_id)
        self._courier.cancel(leg.state.client_id, leg.state.symbol)

    def _act(self, bracket: Bracket, actions: Sequence[Action]) -> None:
        """Do what a bracket says; what cannot be done is told to it, and what follows is done too."""
        todo = deque(actions)
        while todo:
            action = todo.popleft()
            if isinstance(action, Send):
                refused = self._send(self._members[action.key][1], action)
                if refused:
                    todo.extend(bracket.apply(action.key, action.leg, Rejected(refused)))
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
                self._warn(f"{action.size} of {self._name_of(bracket)} is held without an exit: {action.reason}")
            elif isinstance(action, Excess):
                self._warn(f"The exits of {self._name_of(bracket)} traded {action.size} more than its entry.")
        if bracket.done:
            self._members = {ref: kept for ref, kept in self._members.items() if kept[0] is not bracket}

    def _forget(self) -> None:
        """Let go of orders so long finished that no message for them can come."""
        if len(self._legs) > KEEP_LEGS:
            self._legs = {key: leg for key, leg in self._legs.items() if self._states.get(key) is leg.state}
            self._last_leg = {ref: leg for ref, leg in self._last_leg.items() if leg.state.client_id in self._legs}

    def _name_of(self, bracket: Bracket) -> str:
        refs = [ref for ref, kept in self._members.items() if kept[0] is bracket]
        return f"the bracket of order {min(refs, default=0)}"

    # What the exchange says

    def _put(self, news: News) -> None:
        self.store.inbox.put(self, news)

    def _tell(self, leg: Leg, told: Sequence[Transition]) -> None:
        """Carry transitions of a leg into its order and its bracket, with one notification for each change."""
        order = leg.order
        bracket, _ = self._members.get(order.ref, (None, None))
        # The exits of a bracket are told by it: one order to the strategy may be several at the exchange.
        is_exit = bracket is not None and order.parent is not None
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
            elif not is_exit or (isinstance(transition, Accepted) and order.status < bt.Order.Accepted):
                self._move(order, transition)
                self._notify(order)
                filled = False
            if bracket is not None:
                actions += bracket.apply(order.ref, leg.number, transition)
        if leg.state.done and not leg.state.stray:
            self._cancelling.discard(leg.state.client_id)
        if filled and not any(isinstance(action, End) and action.key == order.ref for action in actions):
            if order.alive():
                order.partial()
            self._notify(order)
        if bracket is not None:
            self._act(bracket, actions)

    def _move(self, order: Any, transition: Transition) -> None:
        match transition:
            case Submitted():
                order.submit(self)
            case Accepted(order_id=order_id):
                order.addinfo(order_id=order_id)
                order.accept(self)
            case Completed():
                self._end(order, Status.COMPLETED)
            case Canceled(reason=reason):
                self._end(order, Status.CANCELED, reason)
            case Expired(reason=reason):
                self._end(order, Status.EXPIRED, reason)
            case Rejected(reason=reason):
                self._end(order, Status.REJECTED, reason)
            case Margin(reason=reason):
                self._end(order, Status.MARGIN, reason)

    @staticmethod
    def _end(order: Any, status: Status, reason: str = "") -> None:
        if reason:
            order.addinfo(reason=reason)
            logger.info("Order %d is %s: %s", order.ref, status.value.lower(), reason)
        # Set, not by its methods: `Order.expire` refuses market orders, which exchanges expire too.
        order.status = getattr(bt.Order, status.value)
        order.executed.dt = order.executed.dt or order.data.datetime[0]

    def _book(self, order: Any, fill: Fill) -> None:
        """Book one fill: exact amounts in the market's book, backtrader's figures in order and position."""
        if fill.trade_id is not None:
            order.executed_fills.add(fill.trade_id)
        data, lot = order.data, self.rules_of(order.data).lot
        booked = self._book_of(data).fill(fill, self._rate)
        when = data.datetime[0] if fill.ts_ms is None else 719_163 + fill.ts_ms / 86_400_000
        position = self.getposition(data, clone=False)
        position.update(Size(booked.opened + booked.closed, lot), float(fill.price), bt.num2date(when))
        position.size, position.price = Size(booked.psize, lot), float(booked.pprice)
        comminfo = self.getcommissioninfo(data)
        told = order.status
        order.execute(
            when,
            Size(booked.size, lot),
            float(booked.price),
            Size(booked.closed, lot),
            float(booked.closedvalue),
            float(booked.closedcomm),
            Size(booked.opened, lot),
            float(booked.openedvalue),
            float(booked.openedcomm),
            comminfo.margin,
            float(booked.pnl),
            position.size,
            position.price,
        )
        order.addcomminfo(comminfo)
        if told > bt.Order.Partial:
            # A fill that was late: the order had ended, and has.
            order.status = told

    def _amend(self, order: Any, amend: Amend) -> None:
        """Book what a counted fill turned out to have cost."""
        price = Decimal(repr(order.executed.price))
        fee = self._book_of(order.data).amend(amend, 1 if order.isbuy() else -1, price, self._rate)
        order.executed.comm += float(fee)

    def _book_of(self, data: Any) -> Book:
        rules = self.rules_of(data)
        return self._books.setdefault(rules.symbol, Book(rules.base, rules.quote, rules.lot))

    def _rate(self, currency: str, quote: str) -> Decimal | None:
        """Return the last price of a currency in another, by the feeds of this run."""
        for data in self.cerebro.datas:
            if getattr(self.source(data).p, "dataname", None) == f"{currency}/{quote}" and len(data):
                return Decimal(repr(data.close[0]))
        return None

    # Helpers

    def _check(self, order: Any) -> None:
        """Refuse what must not be sent now."""
        self._check_offered(order)
        if not self._courier.keyed:
            raise ConfigError("There is no apiKey in the store's config: nothing can be ordered without one.")
        symbol, feed = self._symbol(order.data), self.source(order.data)
        if self.store.orders == "live" and feed._laststatus != feed.LIVE:
            raise ConfigError(
                f"{symbol} is {feed._getstatusname(feed._laststatus)}, not LIVE: an order now would act on old bars. "
                "Wait for LIVE in notify_data, or say CCXTStore(orders='always')."
            )

    @staticmethod
    def _check_offered(order: Any) -> None:
        """Refuse what would be sent without something that was asked for."""
        if order.oco is not None:
            raise NotOfferedError(
                "oco= is not offered yet: use buy_bracket or sell_bracket, whose exits exclude each other."
            )
        if order.valid is not None:
            raise NotOfferedError(
                f"valid={order.valid!r} is not offered yet, and the order would rest for ever: leave valid out, and "
                "cancel the order when its time is over."
            )

    def _symbol(self, data: Any) -> str:
        feed = self.source(data)
        if not isinstance(feed, CCXTStore.DataCls) or feed.store is not self.store:
            name = getattr(data, "_name", data)
            raise ConfigError(f"{name!r} is no data of {self.store}: order with a data of the broker's own store.")
        return str(feed.p.dataname)

    def _market(self, data: Any) -> str | int:
        """Return what tells the market of a data: its symbol; data of another store have one of their own."""
        try:
            return self._symbol(data)
        except ConfigError:
            return id(data)

    @staticmethod
    def _age(data: Any) -> float:
        return float(data.datetime[0]) if len(data) else 0.0

    def _worth(self, data: Any) -> float:
        position = self.positions.get(data)
        if position is None or not position.size or not len(data):
            return 0.0
        return float(self.getcommissioninfo(data).getvalue(position, data.close[0]))

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
        # The clone moves the window of fills that a Trade is built from: one for each change.
        self.notifs.append(order.clone())

    def _warn(self, text: str) -> None:
        logger.warning("%s", text)
        self.store.put_notification(text)
