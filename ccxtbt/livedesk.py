"""LiveDesk: the broker of a live run: orders go to the exchange, and its facts change backtrader's orders.

Everything here runs on cerebro's thread. What waits for the network is the courier's, on the I/O thread; what it
learns comes back through the store's inbox.
"""

from __future__ import annotations

import functools
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import backtrader as bt

from ccxtbt.ccxtorder import CCXTOrder
from ccxtbt.ccxtstore import CCXTStore
from ccxtbt.errors import CCXTBTError, ConfigError, OrderRefusedError
from ccxtbt.exchange.orderlists import FORMS
from ccxtbt.exchange.switch import Switch
from ccxtbt.legs import Leg, Listing, Member, asked_of
from ccxtbt.livebooks import ZERO, LiveBooks
from ccxtbt.liveswaps import LiveSwaps, contracts_of
from ccxtbt.restored import Restorer
from ccxtbt.trading.armed import Armed
from ccxtbt.trading.books import Book
from ccxtbt.trading.brackets import Action, Bracket, Cancel, End, Excess, Exit, Exposed, Group, Pair, Send
from ccxtbt.trading.contracts import Payment
from ccxtbt.trading.courier import Courier, Down, Held, News, Open, Prices, Stances, Traded, Up
from ccxtbt.trading.dates import ms_of, number_of
from ccxtbt.trading.ids import NONCE_BITS, ClientIds
from ccxtbt.trading.journal import Baseline, Intent, Link, LinkEnd, Told, Trailed
from ccxtbt.trading.limits import NO_LIMITS, Halt
from ccxtbt.trading.openorders import OpenOrders
from ccxtbt.trading.orders import (
    CONDITIONS,
    STOPS,
    Request,
    last_price,
    request_of,
    trailing_without_distance,
    waits_here,
)
from ccxtbt.trading.past import Key, Past
from ccxtbt.trading.reconcile import Answers, Foreign, is_foreign
from ccxtbt.trading.reports import Fact, FillFact, OrderFact, Refused
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

# The same while a run ends.
STOPPING_POLL_S = 1.0

# How old a balance, or the price of a currency without a feed, may get.
BALANCE_TTL_S = 60.0
PRICES_TTL_S = 60.0

# How often all open orders of the account are compared with ours, beside after each reconnect.
RECONCILE_S = 300.0

# Finished orders are let go of in batches; the states keep 10,000 of them for late messages.
KEEP_LEGS = 20_000

# How long an exchange that ends orders by itself may be late with it, before we cancel.
EXPIRY_GRACE_MS = 5_000


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
        Begin with the positions that the account holds, instead of those that the journal knows of; in contracts a run
        always does.
    leverage, margin_mode, hedged
        See `LiveSwaps`.
    foreign : Foreign
        What to do about open orders of the account that are not ours.
    reconcile_s : float
        How often they are looked for.
    cancel_after_s : float or None
        Have the exchange cancel all open orders when it has not heard from this run for so many seconds.

    Attributes
    ----------
    closed : str
        Why no new order is taken from strategies; '' while they are.
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
        foreign: Foreign = Foreign.IGNORE,
        reconcile_s: float = RECONCILE_S,
        leverage: Any = None,
        margin_mode: Any = None,
        hedged: bool = False,
        cancel_after_s: float | None = None,
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
        self.closed = ""
        self._switch = None if cancel_after_s is None else Switch(store.connection, cancel_after_s)
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
        # Brackets whose entry has grown in this pass of cerebro.
        self._grown: set[Bracket] = set()
        # What orders that exclude each other have traded too much, until they have all ended.
        self._excess: dict[Bracket | Group, Decimal] = {}
        self._armed: dict[int, Armed] = {}
        # When the validity of open orders is over, and those whose time has come.
        self._until: dict[int, tuple[int, Any]] = {}
        self._overdue: set[int] = set()
        self._linked: set[int] = set()
        # Orders that are not known to be ours, at the last look of an audit, and at the last two.
        self._unexplained: frozenset[tuple[str | None, str]] = frozenset()
        self._suspects: frozenset[tuple[str | None, str]] = frozenset()
        self._cancelling: set[str] = set()
        # Orders that have ended and still miss something: a fill, their final amount, or their cancel.
        self._unsettled: set[str] = set()
        # Bars of each data that brackets and armed orders have been shown.
        self._priced: dict[Any, int] = {}
        self._looked_s = self._hinted_s = self._balance_s = self._prices_s = time.monotonic()
        self._foreign = foreign
        self._foreign_told: set[tuple[str | None, str | None]] = set()
        self._reconcile_s = reconcile_s
        self._compared_s = time.monotonic()
        # Who an order of an earlier run is in the journal, by its number here; and what of those the strategies, by
        # their numbers, are to hear once their data have bars.
        self.origins: dict[int, Key] = {}
        self._owners: list[tuple[Any, int]] = []
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
                self.store.patiently(self._swaps.open, self._courier, self.store.connection)
            opened_ms = self.store.connection.clock.now_ms()
            balance = self.store.patiently(self._courier.fetch_balance)
            self.wallet.replace(balance)
            opened_ms = balance.get("timestamp") or opened_ms
            self._courier.follow()
        self.open_books(opened_ms)
        if self._switch is not None and self._keyed:
            self._switch.begin(list(self._by_symbol))
        priced = {*self._wanted, *(self._by_symbol if self._seeded or self._swaps is not None else ())}
        if priced:
            self._prices |= self._courier.fetch_prices(priced).last
        self._restore(self._journal.past if self._journal is not None else Past())
        self.begin()

    def _restore(self, past: Past) -> None:
        """Take up what earlier runs have left, and what became of it meanwhile."""
        restorer = Restorer(self, past)
        restorer.books()
        kept = restorer.orders()
        answers = Answers([], [], [])
        if self._keyed:
            answers = self.store.patiently(self._courier.catch_up, kept)
        for fact in answers.facts:
            self.receive(fact)
        fills = sum(isinstance(fact, FillFact) for fact in answers.facts)
        restorer.doubt(answers.absent)
        if self._keyed and self._swaps is not None:
            # As of now, with all that was filled until now.
            self._swaps.hear(self.store.patiently(self._courier.fetch_stances, list(self._swaps.stances)), whole=True)
        if self._keyed and (self._swaps is not None or not self._unclear()):
            for symbol in self._by_symbol:
                self.keep(self.count_account(symbol, self._prices.get(symbol), whole=self._seeded))
        restorer.resume()
        foreign = self._meet(answers.others)
        if past.at_stake or foreign:
            restored = restorer.summary(fills, answers.absent, foreign)
            self._warn(str(restored), restored=restored)

    def keep(self, baseline: Baseline | None) -> None:
        """Keep from where a position is counted the next time."""
        if baseline is not None and self._journal is not None:
            self._journal.note(baseline)

    def restored(self, order: Any, owner: int) -> None:
        """Tell the strategy of that number, once its data have bars, of an order of an earlier run."""
        self._owners.append((order, owner))
        self._notify(order)

    def _meet(self, others: Sequence[OrderFact]) -> list[OrderFact]:
        """Do what the user wants about open orders that are not ours; return those that were not met before."""
        unanswered = {state.symbol for state in self._states.open() if state.order_id is None}
        foreign = []
        for fact in others:
            if self._states.get(fact.client_id) or self._states.find(fact.symbol, fact.order_id):
                self.receive(fact)
            elif is_foreign(fact, self._legs, unanswered) and (fact.symbol, fact.order_id) not in self._foreign_told:
                self._foreign_told.add((fact.symbol, fact.order_id))
                foreign.append(fact)
        for fact in foreign:
            said = f"Order {fact.order_id} in {fact.symbol} is open and not in the journal of this account"
            if self._foreign is Foreign.ADOPT and fact.symbol in self._by_symbol and fact.raw is not None:
                self._adopt(fact, fact.raw)
                self._warn(f"{said}: it is adopted.")
            elif self._foreign is Foreign.HALT:
                self.store.refuse(f"order {fact.order_id} in {fact.symbol} is not ours")
                self._warn(f"{said}: nothing is sent until store.resume() is called.")
            else:
                self._warn(f"{said}: it is left alone.")
        return foreign

    def _adopt(self, fact: OrderFact, raw: Mapping[str, Any]) -> None:
        """Take somebody else's order up as one of the first strategy's."""
        symbol, now_ms = str(fact.symbol), self.store.connection.clock.now_ms()
        rules, data = self._rules_named(symbol), self._by_symbol[symbol][0]
        made_ms = int(raw.get("timestamp") or now_ms)
        member = Member.of(asked_of(raw, data._name, made_ms), data, rules.lot)
        order = member.order
        order.addinfo(adopted_ms=now_ms, order_id=fact.order_id)
        order.addcomminfo(self.getcommissioninfo(data))
        number, client_id = self._ids.next()
        side: Side = "buy" if order.isbuy() else "sell"
        amount = exact(raw["amount"], "amount")
        price = None if raw.get("price") is None else exact(raw["price"], "price")
        request = Request(fact.client_id or client_id, symbol, str(raw.get("type")), side, amount, price)
        if self._journal is not None:
            asked = member.asked(made_ms)
            self._journal.note(Intent(number, request, order.ref, 0, 0, made_ms, None, asked))
        state = OrderState.of(request)
        state.order_id = fact.order_id
        self._states.add(state)
        self._legs[request.client_id] = self._last_leg[order.ref] = Leg(member, state)
        self._courier.know(request.client_id, fact.order_id)
        # What of it was filled before is in the trades of back then.
        self._courier.look_back(symbol, made_ms)
        state.submit()
        order.submit(self)
        if not len(data):
            self._owners.append((order, 0))
        self.receive(fact)

    def stop(self) -> None:
        """End the run; money, value and positions can still be read."""
        self.store.desk = None
        if self._switch is not None:
            self._switch.end()

    def next(self) -> None:
        """Let brackets go on, show them and armed orders the price, end what is over, and look up what is due."""
        while self._grown:
            bracket = self._grown.pop()
            self._act(bracket, bracket.plan())
        self._show_prices()
        if self._until:
            self._expire()
        if self._seeds:
            self._tell_seeds()
        if self._swaps is not None:
            self._swaps.next()
        now_s = time.monotonic()
        if self._keyed and now_s - self._compared_s >= self._reconcile_s:
            self._compared_s = now_s
            self._courier.look_at_account()
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
            self._ask_cancel(self._legs[client_id])

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

    def _hear_account(self, item: dict[str, Any] | Prices | Stances | Payment | Traded) -> None:
        """Take what was pushed of the account, or what it is priced by."""
        now_s = time.monotonic()
        if isinstance(item, Prices):
            self._prices |= item.last
        elif isinstance(item, Payment):
            self._book_payment(item)
        elif isinstance(item, Traded):
            # One look may meet a server that is behind: what two in a row do not explain is another's.
            unknown = self._states.unknown()
            self._suspects, self._unexplained = unknown & self._unexplained, unknown
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
        unclear = self._unclear()
        if held.balance is not None:
            self._balance_s = now_s
            self.wallet.replace(held.balance)
        if not held.looked:
            self._audit.notice(self.differences(), now_s)
        elif held.balance is None or unclear:
            self._audit.looking = False
            self._audit.put_off(now_s, again=True)
        else:
            self._book_foreign(self._states.foreign(self._suspects, held.waiting))
            if self._states.has_strays():
                self._audit.looking = False
                self._audit.put_off(now_s, again=True)
            else:
                self._book_proved(self._audit.look(self.differences(), now_s))

    def _unclear(self) -> bool:
        """Whether fills may be missing that a balance holds."""
        return any(state.order_id is None or state.in_doubt or state.needs_fills for state in self._states.open())

    def _show_prices(self) -> None:
        """Show each new bar to the orders that are watched here."""
        fresh = [data for data in self.cerebro.datas if len(data) != self._priced.get(data, 0)]
        if not fresh:
            return
        self._priced |= {data: len(data) for data in fresh}
        for bracket, member in list(self._members.values()):
            data = member.order.data
            if member.order.parent is None and any(data is each for each in fresh):
                self._act(bracket, bracket.on_price(data.close[0], ms_of(data.datetime[0])))
        for ref, armed in list(self._armed.items()):
            market = self._market(armed.order.data)
            if any(self._market(data) == market and armed.due(data) for data in fresh) and ref in self._armed:
                self._fire(ref)
            elif armed.since_num != armed.kept_num and self._journal is not None:
                # Once a bar: prices come by the hundred.
                armed.kept_num = armed.since_num
                (run, known), created = self._key_of(armed.order), armed.order.created
                since_ms = ms_of(armed.since_num)
                self._journal.note(Trailed(known, created.price, created.pricelimit, since_ms, run))

    def _listen(self, data: Any) -> None:
        """Have the prices between closes told, since something of this market is watched here."""
        self.source(data).tell_price = self._hear_price

    def _hear_price(self, feed: Any, price: float, at_ms: int) -> None:
        """Show a market's last price to the orders that are watched here; with none of them hear no more."""
        market, at_num = self._market(feed), number_of(at_ms)
        heard = False
        for bracket, member in list(self._members.values()):
            if member.order.parent is None and self._market(member.order.data) == market:
                heard = True
                self._act(bracket, bracket.on_price(price, at_ms))
        for ref, armed in list(self._armed.items()):
            if self._market(armed.order.data) == market and ref in self._armed:
                heard = True
                if armed.touched(price, at_num):
                    self._fire(ref)
        if not heard:
            feed.tell_price = None

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

    # The end of a run

    def hurry(self) -> None:
        """Look up open orders at once, and soon again: nobody waits for long at the end of a run."""
        self._poll_s = min(self._poll_s, STOPPING_POLL_S)
        self._looked_s = time.monotonic() - self._poll_s

    def at_rest(self) -> bool:
        """Whether the exchange has answered to all that was sent, and nothing trades or misses a fill at the moment."""
        waiting = self._states.open()
        return not (self._cancelling or self._unsettled or self._grown) and not any(
            state.order_id is None or state.in_doubt or self._legs[state.client_id].at_once for state in waiting
        )

    def alive(self) -> list[Any]:
        """Return the orders that have not ended: those at the exchange, those watched here, and those not sent yet."""
        unsent = [member.order for members in self._untransmitted.values() for member in members]
        here = [armed.order for armed in self._armed.values()] + [member.order for _, member in self._members.values()]
        there = [self._legs[state.client_id].order for state in self._states.open()]
        known = {order.ref: order for order in (*unsent, *here, *there) if order.alive()}
        return [known[ref] for ref in sorted(known)]

    def entries(self) -> list[Any]:
        """Return the orders that have not ended and may open or enlarge a position.

        Not among them are the exits of brackets, what reduces only, and what trades against a position that is held.
        """
        return [order for order in self.alive() if not self._is_exit(order)]

    def _is_exit(self, order: Any) -> bool:
        bracket, member = self._members.get(order.ref, (None, None))
        if bracket is not None and bracket.is_exit(order.ref):
            return True
        leg, armed = self._last_leg.get(order.ref), self._armed.get(order.ref)
        known = member or (armed and armed.member) or (leg and leg.member)
        if known and known.params.get("reduceOnly"):
            return True
        held = self.getposition(order.data, clone=False).size
        return bool(held) and order.isbuy() != (held > 0)

    def held(self) -> list[str]:
        """Return the positions that are held and the market would take, as text."""
        return [f"{book.size} {book.base}" for _, book in self._closable()]

    def _closable(self) -> list[tuple[Any, Book]]:
        books = [(datas[0], self._books[symbol]) for symbol, datas in self._by_symbol.items() if symbol in self._books]
        return [
            (data, book)
            for data, book in books
            if abs(book.size) >= self.rules_of(data).least(Decimal(repr(data.close[0])) if len(data) else None)
        ]

    def flatten(self) -> None:
        """Close each position at market, whatever the state of its data, the user's limits and `halt`."""
        for data, book in self._closable():
            legs = [leg.order for leg in self._last_leg.values() if self._market(leg.order.data) == self._market(data)]
            owner, tradeid = (legs[-1].owner, legs[-1].tradeid) if legs else (self.cerebro.runningstrats[0], 0)
            side = "sell" if book.size > 0 else "buy"
            named: dict[str, Any] = {"owner": owner, "data": data, "tradeid": tradeid, "exectype": bt.Order.Market}
            named["size"] = float(abs(book.size))
            order = CCXTOrder(side=side, **named)
            contract = self.store.connection.markets[self._symbol(data)].get("contract")
            self._send(Member(order, {"reduceOnly": True} if contract else {}), freely=True, last=True)

    def left_open(self) -> list[str]:
        """Return what the run leaves behind: each order that has not ended, and where it is."""
        there = {self._legs[state.client_id].order.ref: f"({state.client_id})" for state in self._states.open()}
        there |= dict.fromkeys(self._untransmitted, "(never transmitted)")
        return [
            f"order {order.ref}, {order.ordtypename().lower()} {order.getordername()} "
            + there.get(order.ref, "(watched here, and by nobody from now on)")
            for order in self.alive()
        ]

    def say(self, text: str) -> None:
        """Log something, and tell it to `notify_store`."""
        self._warn(text)

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
        if self.closed:
            self._refuse(order, self.closed)
            return
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
            self._looked_s = self._compared_s = 0.0
            if self._swaps is not None:
                # Funding, a liquidation and the trades of others show in the wallet alone.
                self._balance_s = -math.inf
        elif isinstance(item, Open):
            self._meet(item.orders)
        elif isinstance(item, Down):
            self.store.put_notification(f"The stream of orders broke ({item.reason}); fills are looked up meanwhile.")
        elif isinstance(item, Halt):
            for order in self.open_orders:
                self.cancel(order)
        elif isinstance(item, Held):
            self._hear_held(item)
        elif isinstance(item, dict | Prices | Stances | Payment | Traded):
            self._hear_account(item)
        else:
            self._learn(item)

    def _learn(self, fact: Fact) -> None:
        """Take what is said of an order."""
        state, told = self._states.apply(fact)
        self._book_foreign(self._states.foreign())
        if state is None:
            return
        if told and self._journal is not None:
            self._journal.note(Told(state.client_id, tuple(told), state.order_id, state.filled, state.cost))
        leg = self._legs[state.client_id]
        if isinstance(fact, OrderFact) and fact.raw is not None and self._last_leg.get(leg.order.ref) is leg:
            leg.order.hear(fact.raw)
        self._tell(leg, told)
        if told:
            self._courier.refresh_balance()
        self._watch(state)

    # What strategies and observers ask

    def get_notification(self) -> Any:
        """Return the next order that changed; None if there is none."""
        if self._owners and not self._hand_over():
            return None
        return self.notifs.popleft() if self.notifs else None

    def _hand_over(self) -> bool:
        """Give the orders of earlier runs to their strategies, once these have bars to read; say whether it is done."""
        datas = [self.cerebro.datas[0], *(order.data for order, _ in self._owners)]
        if not all(len(data) for data in datas):
            return False
        strategies = self.cerebro.runningstrats
        for order, number in self._owners:
            order.p.owner = strategies[number if number < len(strategies) else 0]
        self._owners.clear()
        return True

    # Sending

    def _send(
        self,
        member: Member,
        action: Send | None = None,
        *,
        due: bool = False,
        freely: bool = False,
        last: bool = False,
        listing: Listing | None = None,
    ) -> str:
        """Send an order, or one leg of a bracket's exit; return '' if it is on its way, else why it cannot be.

        `due` is a stop that was watched here and has been reached: what it becomes is sent. `freely` is sent whatever
        the state of its data and the user's limits, and the `last` order of a run also when the store is halted. With
        a `listing` it is put there, to be sent with the other of it.
        """
        order = member.order
        try:
            if self.store.halted and not last:
                raise OrderRefusedError(f"The store is halted ({self.store.halted}): nothing is sent.")
            # An exit protects what is held: it goes out also when its data is not LIVE.
            free = freely or due or action is not None
            if not free:
                self._check(order)
            rules, facts = self.rules_of(order.data), self.store.connection.facts
            triggered = due or (action is not None and action.triggered)
            # An exit is cancelled and sent anew, and a trailing stop of the exchange's would forget its best price.
            trailing = facts.trailing_params if action is None else ()
            waits = not triggered and waits_here(order, rules, self._order_types, trailing)
            number, client_id = (0, "") if waits else self._ids.next()
            expiry = {} if triggered or waits else self._expiry(member, rules)
            request = request_of(
                order,
                rules,
                client_id,
                params={
                    **self._reducing(member, rules),
                    **expiry,
                    **self._listed(None if triggered or waits else listing),
                    **member.params,
                },
                order_types=self._order_types,
                client_id_param=facts.client_id_param,
                trailing_params=trailing,
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
        said = self._emulated(member, rules, waits=waits or due, listed=listing is not None, expires=bool(expiry))
        order.addinfo(emulated=said)
        if order.ref not in self._until:
            self.watch_validity(member, rules)
        if waits:
            self._arm(member, action)
            return ""
        self._forget()
        at_market = triggered or order.exectype in (None, bt.Order.Market, bt.Order.Close)
        at_once, list_id = at_market and request.type == "market", "" if listing is None else listing.list_id
        leg = Leg(member, state, 0 if action is None else action.leg, at_once, list_id)
        self._legs[leg.state.client_id] = self._last_leg[order.ref] = leg
        order.addinfo(client_id=leg.state.client_id)
        order.sent(request)
        self._tell(leg, leg.state.submit())
        intent = self._intent(number, request, leg, triggered=triggered)
        send_now = functools.partial(self._courier.send, after=self._freeing(state, action))
        (send_now if listing is None else listing.orders.append)(intent)
        return ""

    def _freeing(self, state: OrderState, action: Send | None) -> list[str]:
        """Return the orders that are being cancelled and lock, on spot, the currency that an order spends.

        Sent in one go with the cancel it could overtake that, and be refused for lack of funds. What the exit of a
        bracket sells its entry has brought: it waits for nothing.
        """
        if self._swaps is not None or action is not None:
            return []
        ending = [self._legs[client_id].state for client_id in self._cancelling]
        return [each.client_id for each in ending if self._spent(each) == self._spent(state)]

    def _spent(self, state: OrderState) -> str:
        rules = self._rules_named(state.symbol)
        return rules.quote if state.side == "buy" else rules.base

    def _intent(self, number: int, request: Request, leg: Leg, *, triggered: bool) -> Intent:
        """Return what the journal keeps of an order before it is sent."""
        member, order = leg.member, leg.order
        now_ms, (run, ref) = self.store.connection.clock.now_ms(), self._key_of(order)
        asked: dict[str, Any] = {}
        if self._journal is not None:
            more = {"at_once": leg.at_once, "list_id": leg.list_id, "apart": request.apart}
            asked = member.asked(now_ms, triggered=triggered, reduces=leg.state.reduces, **more)
        return Intent(number, request, ref, leg.number, order.tradeid, now_ms, member.until_ms, asked, run)

    def _reducing(self, member: Member, rules: Rules) -> dict[str, Any]:
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

    def _listed(self, listing: Listing | None) -> dict[str, Any]:
        """Return what names the list of an order to the exchange."""
        return {} if listing is None else {FORMS[self.store.connection.facts.order_lists].id_param: listing.list_id}

    def _send_exit(self, bracket: Bracket, action: Send) -> list[Action]:
        """Send an exit of a bracket alone; return what follows at once."""
        refused = self._send(self._members[action.key][1], action)
        if refused:
            return bracket.apply(action.key, action.leg, Rejected(refused))
        return bracket.apply(action.key, action.leg, Accepted()) if action.key in self._armed else []

    def _send_list(self, bracket: Bracket, pair: Pair) -> list[Action]:
        """Send both exits of a bracket as one list; return what follows if that cannot be."""
        listing = Listing(self._ids.next()[1])
        for action in (pair.stop, pair.limit):
            refused = self._send(self._members[action.key][1], action, listing=listing)
            if refused:
                unsent = (pair.stop, pair.limit)[len(listing.orders) :]
                told = [bracket.apply(each.key, each.leg, Rejected(refused)) for each in unsent]
                for intent in listing.orders:
                    self.receive(Refused(refused, intent.request.client_id))
                return [action for actions in told for action in actions]
        self._courier.send(*listing.orders)
        return []

    def _takes_lists(self, members: Sequence[Member], rules: Rules) -> bool:
        """Whether the exchange can have both exits as one list: a stop and a limit as they are, no more."""
        return rules.lists and all(
            not (member.params or member.order.exectype in self._order_types or self._expiry(member, rules))
            and not waits_here(member.order, rules, self._order_types, ())
            for member in members
        )

    def _emulated(
        self, member: Member, rules: Rules, *, waits: bool, listed: bool = False, expires: bool = False
    ) -> str:
        """Return what of an order is done here instead of at the exchange; '' where nothing is."""
        said = []
        bracket, _ = self._members.get(member.order.ref, (None, None))
        if bracket is not None and bracket.is_exit(member.order.ref) and not listed:
            said.append("it takes turns with the other exit, and follows what there is to leave")
        if waits:
            said.append("its trigger is watched here, by the last price")
        if member.until_ms is not None and not expires:
            said.append("its validity is watched here")
        if member.quote_size is not None and not rules.cost_orders:
            said.append("its size is reckoned by the last price")
        return "; ".join(said)

    def watch_validity(self, member: Member, rules: Rules) -> None:
        """Have an order ended when its validity is over; by us, if the exchange has not done it by then."""
        if member.until_ms is not None:
            grace_ms = EXPIRY_GRACE_MS * bool(self._expiry(member, rules))
            self._until[member.order.ref] = member.until_ms + grace_ms, member.order

    def _expiry(self, member: Member, rules: Rules) -> dict[str, Any]:
        """Return what lets the exchange itself end an order; nothing where its validity is watched here.

        That is so for the exits of a bracket, which are sent more than once and end together, and for conditional
        orders that live apart from the others: what is promised of a limit's end is not of theirs.
        """
        connection, order = self.store.connection, member.order
        at_market = order.exectype in (None, bt.Order.Market, bt.Order.Close)
        if member.until_ms is None or at_market or "timeInForce" in member.params:
            return {}
        bracket, _ = self._members.get(order.ref, (None, None))
        if bracket is not None and bracket.is_exit(order.ref):
            return {}
        if rules.apart_param and (order.exectype in STOPS or CONDITIONS & member.params.keys()):
            return {}
        return native_params(member.until_ms, connection.clock.now_ms(), rules, connection.facts)

    def _until_of(self, order: Any, valid: Any) -> int | None:
        end_ms = until_ms(valid, self.store.connection.clock.now_ms(), order.data.date2num)
        if end_ms is not None:
            order.valid = number_of(end_ms)
        return end_ms

    # Stops that are watched here

    def _arm(self, member: Member, action: Send | None) -> None:
        """Watch a stop here; the strategy hears the same as of one at the exchange."""
        order = member.order
        now_num = number_of(self.store.connection.clock.now_ms())
        self._armed[order.ref] = Armed(order, member, now_num, action)
        self._listen(order.data)
        if order.ref not in self._members:
            self._link(member, order, "armed")
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

    def _link(self, member: Member, bond: Any, role: str) -> None:
        """Keep in the journal what is not at the exchange, or hangs together with something else."""
        if self._journal is None:
            return
        order = member.order
        (run, ref), (bond_run, first) = self._key_of(order), self._key_of(bond)
        asked = member.asked(self.store.connection.clock.now_ms())
        self._linked.add(order.ref)
        self._journal.note(Link(ref, first, role, self._symbol(order.data), asked, run=run, bond_run=bond_run))

    def _key_of(self, order: Any) -> Key:
        """Return who an order is in the journal: the run in which it was made, 0 for this one, and its number there."""
        return self.origins.get(order.ref, (0, order.ref))

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
            taken = known.member
            pair = self._pair((taken, member), amount, rules)
        except CCXTBTError as error:
            self._refuse(order, str(error))
            return
        if pair is not None:
            self._send_pair(pair, taken, member)
            return
        group = self._groups.get(first.ref)
        if group is None:
            group = self._groups[first.ref] = Group({first.ref: rules.amount(abs(first.created.size))})
            self._link(taken, first, "oco")
        group.add(order.ref, amount)
        self._groups[order.ref] = group
        self._link(member, first, "oco")
        refused = self._send(member)
        if refused:
            self._act(group, group.apply(order.ref, Rejected(refused)))

    def _pair(self, members: tuple[Member, Member], amount: Decimal, rules: Rules) -> Bracket | None:
        """Return two sales of the same amount, a stop and a limit, as the exits of what is held; None if they are not.

        At the exchange at once they would lock the amount twice, and could both be filled. Two such buys exclude each
        other in the same way where the exchange has order lists; elsewhere each is at the exchange.
        """
        orders = [member.order for member in members]
        first, second = orders
        stops = [order.exectype in STOPS for order in orders]
        limits = [order.exectype == bt.Order.Limit for order in orders]
        same = self._market(first.data) == self._market(second.data) and first.isbuy() == second.isbuy()
        lists = self._takes_lists(members, rules)
        if (first.isbuy() and not lists) or not same or first.ref in self._groups:
            return None
        if sum(stops) != 1 or sum(limits) != 1 or rules.amount(abs(first.created.size)) != amount:
            return None
        side: Side = "sell" if first.isbuy() else "buy"
        exits = [self._exit(order, rules) for order in orders]
        bracket = Bracket(exits, side=side, lot=rules.lot, size=amount, lists=lists)
        if first.ref in self._armed:
            bracket.adopt(first.ref, amount, working=True)
        else:
            state = self._last_leg[first.ref].state
            bracket.adopt(first.ref, amount - state.filled, working=state.status in WORKING)
        return bracket

    def _send_pair(self, bracket: Bracket, taken: Member, member: Member) -> None:
        """Let two exits of one holding take turns, of which the first is on its way already."""
        order = member.order
        self._listen(order.data)
        for each in (taken, member):
            self._members[each.order.ref] = bracket, each
            kind = "stop" if each.order.exectype in STOPS else "limit"
            rules = self.rules_of(order.data)
            each.order.addinfo(emulated=self._emulated(each, rules, waits=False, listed=bracket.lists))
            self._link(each, taken.order, kind)
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
            lists = len(exits) > 1 and self._takes_lists(children, rules)
            bracket = Bracket(exits, side=side, lot=rules.lot, base=rules.base, parent=parent.order.ref, lists=lists)
        except CCXTBTError as error:
            for member in members:
                self._refuse(member.order, str(error))
            return
        self._listen(parent.order.data)
        for member in members:
            self._members[member.order.ref] = bracket, member
            kind = "stop" if member.order.exectype in STOPS else "limit"
            self._link(member, parent.order, "parent" if member is parent else kind)
        for member in children:
            if member.until_ms is not None:
                self._until[member.order.ref] = member.until_ms, member.order
            member.order.addinfo(emulated=self._emulated(member, rules, waits=False, listed=lists))
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
            self._ask_cancel(self._legs[state.client_id])
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
        # With one order of a list all of it goes, and each has to be heard of.
        listed = self._states.open() if leg.list_id else [leg.state]
        same = {state.client_id for state in listed if self._legs[state.client_id].list_id == leg.list_id}
        self._cancelling |= same
        self._ask_cancel(leg)

    def _ask_cancel(self, leg: Leg) -> None:
        self._courier.cancel(leg.state.client_id, leg.state.symbol, leg.list_id)

    def _act(self, bond: Bracket | Group, actions: Sequence[Action]) -> None:
        """Do what a bracket or a group says; what cannot be done is told to it, and what follows is done too."""
        todo = deque(actions)
        while todo:
            action = todo.popleft()
            if isinstance(action, Send) and isinstance(bond, Bracket):
                todo.extend(self._send_exit(bond, action))
            elif isinstance(action, Pair) and isinstance(bond, Bracket):
                todo.extend(self._send_list(bond, action))
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
            actions += self._follow(leg, transition)
        if leg.state.done and not leg.state.stray:
            self._cancelling.discard(leg.state.client_id)
        if filled and not any(isinstance(action, End) and action.key == order.ref for action in actions):
            if order.alive():
                order.partial()
            self._notify(order)
        bond = bracket or self._groups.get(order.ref)
        if bond is not None:
            self._act(bond, actions)

    def _follow(self, leg: Leg, transition: Transition) -> list[Action]:
        """Show a transition to the bracket or the group of its order, and return what is to be done."""
        ref = leg.order.ref
        if ref in self._members:
            bracket, _ = self._members[ref]
            if bracket.is_exit(ref) or not isinstance(transition, Fill | Amend):
                return bracket.apply(ref, leg.number, transition)
            # An entry's fills come in a row: its exits follow them once all that has arrived is counted.
            self._grown.add(bracket)
            return bracket.note(ref, leg.number, transition)
        return self._groups[ref].apply(ref, transition) if ref in self._groups else []

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
            status, reason = Status.EXPIRED, f"its validity was over: {utc(ms_of(order.valid))}"
        self._overdue.discard(order.ref)
        if reason:
            order.addinfo(reason=reason)
            logger.info("Order %d is %s: %s", order.ref, status.value.lower(), reason)
        # Set, not by its methods: `Order.expire` refuses market orders, which exchanges expire too.
        order.status = getattr(bt.Order, status.value)
        order.executed.dt = order.executed.dt or (order.data.datetime[0] if len(order.data) else order.created.dt)

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
                run, ref = self._key_of(order)
                self._journal.note(LinkEnd(ref, order.getstatusname(), run))
        # The clone moves the window of fills that a Trade is built from: one for each change.
        self.notifs.append(order.clone())
