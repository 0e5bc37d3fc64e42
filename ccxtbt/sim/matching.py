"""The matching engine: accounts, orders and fills over the symbols' markets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import partial
from heapq import heappop, heappush
from typing import Literal, TypeVar, cast

from ccxtbt.sim.account import Account, Balance
from ccxtbt.sim.books import Books
from ccxtbt.sim.clock import Clock
from ccxtbt.sim.desk import Desk, Offer, quote_of
from ccxtbt.sim.events import BalanceEvent, BookTickerEvent, Event, KlineEvent, ListEvent, OrderEvent, TradeEvent
from ccxtbt.sim.filters import check, check_count, check_list_count, check_parameters, check_quantity
from ccxtbt.sim.lists import Lists
from ccxtbt.sim.market import Market, Trade
from ccxtbt.sim.orders import PRICED, STOPS, Fill, Order, OrderList, OrderRequest, OrderType, Reject, Side, TimeInForce
from ccxtbt.sim.spot_books import SpotBooks
from ccxtbt.sim.streams import KlineStream

__all__ = [
    "Account",
    "Balance",
    "BalanceEvent",
    "BookTickerEvent",
    "Event",
    "Exchange",
    "Fill",
    "KlineEvent",
    "ListEvent",
    "Order",
    "OrderEvent",
    "OrderRequest",
    "Reject",
    "TradeEvent",
]

_T = TypeVar("_T")

_ZERO = Decimal(0)
_NO_ID = "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!"

# On the agenda, what follows from the past comes before what closes at a moment, and that before what trades at it.
_DUE, _TICK, _TRADE = 0, 1, 2


class Exchange:
    """All markets and accounts under one clock.

    The accounts' own trades are not printed on the public tape: the markets stay pure functions of their seed or
    recording, so bars can be judged without knowing what the strategy did. A resting order is filled by trades that
    pass its price, at its price, by at most their quantity; a taking order takes from the synthetic depth and from
    the accounts' resting orders at once.

    Parameters
    ----------
    markets : mapping of str to Market
        By Binance's symbol.
    clock : Clock
        Says what time it is when a request arrives.
    maker_fee, taker_fee : Decimal
        Shares of what an account receives by a fill.
    fee_coin : str, optional
        Fees are paid in this coin at `fee_coin_discount`, while the account has enough of it and there is a market
        of it in the symbol's quote coin.
    fee_coin_discount : Decimal
        By how much a fee shrinks when paid in the fee coin.
    kline_push_ms : int, optional
        Least virtual time between two frames of a forming bar; 1000 for 1s bars and 2000 else if not given.

    Attributes
    ----------
    orders : list of Order
        Every order that was ever accepted, in order of arrival.
    accounts : dict of str to Account
        By API key.
    lists : Lists
        The order lists: they are placed and cancelled there.
    books : Books
        What orders lock, pay and cost.
    """

    def __init__(
        self,
        markets: Mapping[str, Market],
        clock: Clock,
        maker_fee: Decimal = Decimal("0.001"),
        taker_fee: Decimal = Decimal("0.001"),
        fee_coin: str | None = None,
        fee_coin_discount: Decimal = Decimal("0.25"),
        kline_push_ms: int | None = None,
    ) -> None:
        self.markets = dict(markets)
        self.clock = clock
        self.orders: list[Order] = []
        self.accounts: dict[str, Account] = {}
        self._kline_push_ms = kline_push_ms
        self._desks = {symbol: Desk(market) for symbol, market in self.markets.items()}
        self.books: Books = SpotBooks(self._desks, maker_fee, taker_fee, fee_coin, fee_coin_discount)
        self.lists = Lists(self)
        self._by_id: dict[tuple[Account, str, int], Order] = {}
        self._by_client_id: dict[tuple[Account, str, str], Order] = {}
        self._fills: dict[tuple[Account, str], list[Fill]] = {}
        self._executions = 0
        self._client_ids = 0
        self._events: list[Event] = []
        self._watched: dict[tuple[str, str], int] = {}
        self._streams: dict[str, dict[str, KlineStream]] = {symbol: {} for symbol in self.markets}
        # What happens next, as (ms, kind, serial number, whose): something due, a stream's frame, a market's trade.
        self._agenda: list[tuple[int, int, int, Callable[[int], None] | KlineStream | Desk]] = []
        self._serial = 0
        self._now_ms = max((market.start_ms for market in self.markets.values()), default=0)
        for desk in self._desks.values():
            desk.market.advance(self._now_ms)
            self._expect_trade(desk)

    def add_account(self, account: Account) -> Account:
        """Open an account and return it."""
        self.accounts[account.api_key] = account
        return account

    def account(self, api_key: str) -> Account:
        """Return the account of a key.

        Raises
        ------
        Reject
            -2015 if there is none.
        """
        if api_key not in self.accounts:
            raise Reject(-2015, "Invalid API-key, IP, or permissions for action.")
        return self.accounts[api_key]

    def market(self, symbol: str) -> Market:
        """Return a symbol's market.

        Raises
        ------
        Reject
            -1121 if there is none.
        """
        return self._desk(symbol).market

    def watch(self, symbol: str, stream: str) -> None:
        """Have events of a public stream from now on; calls are counted.

        Parameters
        ----------
        symbol : str
            Binance's symbol.
        stream : str
            ``'trade'`` (aggTrade too), ``'bookTicker'``, or a kline interval as ``'1m'``.

        Raises
        ------
        Reject
            -1121 for a symbol that is not there.
        ValueError
            For a stream that is not there.
        """
        market = self._desk(symbol).market
        if stream not in {"trade", "bookTicker"} and stream not in self._streams[symbol]:
            push_ms = self._kline_push_ms or (1000 if stream == "1s" else 2000)
            kline = KlineStream(market, stream, push_ms, self._now_ms)
            self._streams[symbol][stream] = kline
            self._expect_tick(kline, kline.begin())
        self._watched[symbol, stream] = self._watched.get((symbol, stream), 0) + 1

    def unwatch(self, symbol: str, stream: str) -> None:
        """Take one `watch` back; events end with the last."""
        left = self._watched.get((symbol, stream), 0) - 1
        if left > 0:
            self._watched[symbol, stream] = left
            return
        self._watched.pop((symbol, stream), None)
        self._streams.get(symbol, {}).pop(stream, None)

    def advance(self, to_ms: int) -> list[Event]:
        """Let everything up to and with `to_ms` happen and return all events since the last call, in time order."""
        self._run_to(to_ms)
        return self.drain()

    def drain(self) -> list[Event]:
        """Return the events since the last call without letting time pass: what a request has just caused."""
        events, self._events = self._events, []
        return events

    def check(self, account: Account, *requests: OrderRequest) -> None:
        """Do what `place` does up to the filters, and place nothing: ``/api/v3/order/test``.

        Several orders of one symbol are checked as if they came one after another.

        Raises
        ------
        Reject
            As `place`, but for balances and immediate triggers.
        """
        desk = self._desk(requests[0].symbol)
        mine = [order for order in desk.orders() if order.account is account]
        stops = sum(order.type in STOPS and not order.working for order in mine)
        for number, request in enumerate(requests, len(mine)):
            check_parameters(request)
            check(desk.market.spec, request, desk.last_price())
            check_count(desk.market.spec, number, stops, request)
            stops += request.type in STOPS

    def check_list_count(self, symbol: str, open_lists: int) -> None:
        """Refuse one more order list of an account that has as many as the symbol allows.

        Raises
        ------
        Reject
            -1013 with the filter's name.
        """
        check_list_count(self._desk(symbol).market.spec, open_lists)

    def place(self, account: Account, request: OrderRequest) -> Order:
        """Accept an order at the clock's time, execute what can be executed at once, and return it.

        Everything due before that time happens first; all events wait for `drain` or `advance`.

        Raises
        ------
        Reject
            -1013 with the filter's name, -1100 to -1121 for parameters, -2010 for balance, duplicates, a maker order
            that would take and a stop that would trigger at once.
        """
        now_ms = self.catch_up()
        self.check(account, request)
        order = self.draft(account, request, now_ms)
        takes = self.weigh(order)
        self.check_funds(order, takes)
        self.accept(order, now_ms)
        self.begin(order, takes, now_ms)
        self._announce_balances(now_ms)
        return order

    def cancel(
        self,
        account: Account,
        symbol: str,
        order_id: int | None = None,
        client_id: str | None = None,
        cancel_id: str | None = None,
    ) -> Order:
        """Cancel an open order, found by its id or client id; `cancel_id` names the cancel request itself.

        Raises
        ------
        Reject
            -2011 if no such order is open.
        """
        now_ms = self.catch_up()
        if order_id is None and client_id is None:
            raise Reject(-1102, _NO_ID)
        order = self._find(account, symbol, order_id, client_id)
        if order is None or not order.is_open:
            raise Reject(-2011, "Unknown order sent.")
        self.end(order, "CANCELED", now_ms, cancel_id or self.new_client_id())
        self._announce_balances(now_ms)
        return order

    def fill(
        self, account: Account, symbol: str, order_id: int | None = None, client_id: str | None = None
    ) -> Order | None:
        """Fill what is left of a resting order at its price, as if a trade had passed it; None if it does not rest."""
        now_ms = self.catch_up()
        order = self._find(account, symbol, order_id, client_id)
        desk = self._desk(symbol)
        if order is None or order not in desk.resting[order.side]:
            return None
        self._fill(desk, order, order.price, order.remaining, desk.next_trade_id(), now_ms, is_maker=True)
        self._announce_balances(now_ms)
        return order

    def cancel_all(self, account: Account, symbol: str, cancel_id: str | None = None) -> list[Order]:
        """Cancel every open order of a symbol, those of lists too; `cancel_id` names the request.

        Raises
        ------
        Reject
            -2011 if there is none.
        """
        now_ms = self.catch_up()
        orders = self.open_orders(account, symbol)
        if not orders:
            raise Reject(-2011, "Unknown order sent.")
        cancel_id = cancel_id or self.new_client_id()
        for order in orders:
            if order.is_open:  # else it was cancelled together with another one of its list
                self.end(order, "CANCELED", now_ms, cancel_id)
        self._announce_balances(now_ms)
        return orders

    def query(self, account: Account, symbol: str, order_id: int | None = None, client_id: str | None = None) -> Order:
        """Return an order, the latest of that client id.

        Raises
        ------
        Reject
            -2013 if there is none, -1102 if neither id is given.
        """
        self.catch_up()
        if order_id is None and client_id is None:
            raise Reject(-1102, _NO_ID)
        order = self._find(account, symbol, order_id, client_id)
        if order is None:
            raise Reject(-2013, "Order does not exist.")
        return order

    def open_orders(self, account: Account, symbol: str | None = None) -> list[Order]:
        """Return the open orders of a symbol, or of all."""
        self.catch_up()
        desks = self._desks.values() if symbol is None else [self._desk(symbol)]
        mine = (order for desk in desks for order in desk.orders() if order.account is account)
        return sorted(mine, key=lambda order: (order.symbol, order.order_id))

    def all_orders(
        self,
        account: Account,
        symbol: str,
        order_id: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 500,
    ) -> list[Order]:
        """Return orders whatever their state: from `order_id` on or within the times, else the last `limit`."""
        self.catch_up()
        self._desk(symbol)
        mine = [order for order in self.orders if order.account is account and order.symbol == symbol]
        if order_id is not None:
            return [order for order in mine if order.order_id >= order_id][:limit]
        return _within(mine, [order.created_ms for order in mine], start_ms, end_ms, limit)

    def my_trades(
        self,
        account: Account,
        symbol: str,
        order_id: int | None = None,
        from_id: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 500,
    ) -> list[Fill]:
        """Return fills: of an order, from a trade id on, or within the times, else the last `limit`."""
        self.catch_up()
        self._desk(symbol)
        mine = self._fills.get((account, symbol), [])
        if order_id is not None:
            mine = [fill for fill in mine if fill.order_id == order_id]
        if from_id is not None:
            return [fill for fill in mine if fill.trade_id >= from_id][:limit]
        return _within(mine, [fill.ts_ms for fill in mine], start_ms, end_ms, limit)

    def book(self, symbol: str, limit: int = 100) -> tuple[int, list[tuple[str, str]], list[tuple[str, str]]]:
        """Return (update id, bids, asks), best first, each (price, quantity) as text."""
        self.catch_up()
        desk = self._desk(symbol)
        last = desk.market.last
        bids, asks = self._side(desk, "BUY", limit), self._side(desk, "SELL", limit)
        return (0 if last is None else last.id), bids, asks

    # Time

    def catch_up(self) -> int:
        """Let everything happen that is due by the clock, and return the time."""
        self._run_to(self.clock.now_ms())
        return self._now_ms

    def _run_to(self, to_ms: int) -> None:
        agenda = self._agenda
        while agenda and agenda[0][0] <= to_ms:
            at_ms, kind, _, whose = heappop(agenda)
            if kind == _DUE:
                cast("Callable[[int], None]", whose)(at_ms)
                self._announce_balances(at_ms)
            elif kind == _TICK:
                self._on_tick(cast("KlineStream", whose), at_ms)
            else:
                desk = cast("Desk", whose)
                self._on_trade(desk, desk.market.step())
                self._expect_trade(desk)
        self._now_ms = max(self._now_ms, to_ms)

    def call_at(self, at_ms: int, act: Callable[[int], None]) -> None:
        """Let something happen at a moment, before what closes or trades then; it is given the time."""
        self._serial += 1
        heappush(self._agenda, (at_ms, _DUE, self._serial, act))

    def _expect_trade(self, desk: Desk) -> None:
        next_ms = desk.market.next_ms()
        if next_ms is not None:
            self._serial += 1
            heappush(self._agenda, (next_ms, _TRADE, self._serial, desk))

    def _expect_tick(self, stream: KlineStream, at_ms: int | None) -> None:
        if at_ms is not None:
            self._serial += 1
            heappush(self._agenda, (at_ms, _TICK, self._serial, stream))

    def _on_tick(self, stream: KlineStream, at_ms: int) -> None:
        """Send a bar's frame if one is due and somebody still watches."""
        if self._streams[stream.symbol].get(stream.interval) is not stream:
            return
        frame, next_ms = stream.tick(at_ms)
        if frame is not None:
            self._events.append(frame)
        self._expect_tick(stream, next_ms)

    def _on_trade(self, desk: Desk, trade: Trade) -> None:
        """Announce a public trade and let it hit the orders."""
        symbol = desk.market.spec.symbol
        if (symbol, "trade") in self._watched:
            self._events.append(TradeEvent(trade.ts_ms, symbol, trade))
        for stream in self._streams[symbol].values():
            for at_ms in stream.add(trade):
                self._expect_tick(stream, at_ms)
        desk.renew_depth()
        if desk.resting["BUY"] or desk.resting["SELL"]:
            self._hit(desk, trade)
        if desk.waiting:
            self._trigger(desk, trade.ts_ms)
        if (symbol, "bookTicker") in self._watched:
            self._events.append(self._book_ticker(desk, trade))
        self._announce_balances(trade.ts_ms)

    def _hit(self, desk: Desk, trade: Trade) -> None:
        """Fill resting orders whose price a public trade reached or passed, by no more than its quantity."""
        price, left = desk.market.price(trade.price_ticks), desk.market.qty(trade.qty_steps)
        buys = [order for order in desk.resting["BUY"] if order.price >= price]
        sells = [order for order in desk.resting["SELL"] if order.price <= price]
        for order in buys + sells:
            qty = min(left, order.remaining)
            if qty > 0 and order.is_open:
                self._fill(desk, order, order.price, qty, desk.next_trade_id(), trade.ts_ms, is_maker=True)
                left -= qty

    def _trigger(self, desk: Desk, now_ms: int) -> None:
        """Set those stops to work whose price the last trade reached."""
        for order in [order for order in desk.waiting if desk.is_reached(order)]:
            if not order.is_open:  # the other of its pair triggered by the same trade
                continue
            self.lists.before_working(order, now_ms)
            desk.waiting.remove(order)
            order.working = True
            order.working_ms = order.updated_ms = now_ms
            self._report(order, "NEW", now_ms)
            self._execute(desk, order, self._plan(desk, order), now_ms)

    # Orders

    def draft(self, account: Account, request: OrderRequest, now_ms: int) -> Order:
        """Return a request as an order that has no id yet and touches nothing.

        Raises
        ------
        Reject
            -2010 for a client id that is in use.
        """
        working = request.type not in STOPS
        order = Order(
            account=account,
            order_id=0,
            client_id=request.client_id or self.new_client_id(),
            symbol=request.symbol,
            side=cast("Side", request.side),
            type=cast("OrderType", request.type),
            time_in_force=cast("TimeInForce", request.time_in_force or "GTC"),
            price=request.price or _ZERO,
            stop_price=request.stop_price or _ZERO,
            orig_qty=request.quantity or _ZERO,
            orig_quote_qty=request.quote_qty or _ZERO,
            created_ms=now_ms,
            updated_ms=now_ms,
            working=working,
            working_ms=now_ms if working else -1,
            reduce_only=request.reduce_only,
            good_till_ms=request.good_till_ms or 0,
            trailing_delta=request.trailing_delta or 0,
        )
        previous = self._by_client_id.get((account, order.symbol, order.client_id))
        if previous is not None and previous.is_open:
            raise Reject(-2010, "Duplicate order sent.")
        return order

    def weigh(self, order: Order) -> list[tuple[Offer, Decimal]]:
        """Return what an order would take from the book now; the quantity of one by worth is set by that.

        Raises
        ------
        Reject
            -2010 for a stop that would trigger at once and a maker order that would take.
        """
        desk = self._desks[order.symbol]
        if desk.is_reached(order):
            raise Reject(-2010, "Stop price would trigger immediately.")
        takes = self._plan(desk, order) if order.type not in STOPS else []
        if order.type == "LIMIT_MAKER" and takes:
            raise Reject(-2010, "Order would immediately match and take.")
        if order.orig_quote_qty:
            order.orig_qty = sum((qty for _, qty in takes), _ZERO)
            check_quantity(desk.market.spec, order.orig_qty)
        return takes

    def check_funds(self, order: Order, takes: Iterable[tuple[Offer, Decimal]], needed: Decimal | None = None) -> None:
        """Refuse an order that its account cannot pay for; see `SpotBooks.check`.

        Raises
        ------
        Reject
            -2010.
        """
        self.books.check(order, takes, needed)

    def accept(self, order: Order, now_ms: int) -> None:
        """Give an order its id, keep it, lock its funds and report it."""
        order.order_id = self._desks[order.symbol].next_order_id()
        self.orders.append(order)
        self._by_id[order.account, order.symbol, order.order_id] = order
        self._by_client_id[order.account, order.symbol, order.client_id] = order
        self.lock(order)
        self._report(order, "NEW", now_ms)

    def begin(self, order: Order, takes: list[tuple[Offer, Decimal]], now_ms: int) -> None:
        """Execute an accepted order, or let it wait for its trigger or for another order."""
        desk = self._desks[order.symbol]
        if order.status == "PENDING_NEW":
            desk.pending.append(order)
        elif order.working:
            self._execute(desk, order, takes, now_ms)
        else:
            desk.waiting.append(order)

    def wake(self, order: Order, now_ms: int) -> None:
        """Let a pending order become a new one: lock its funds and report it."""
        self._desks[order.symbol].remove(order)
        order.updated_ms = now_ms
        order.working = order.type not in STOPS
        order.working_ms = now_ms if order.working else -1
        self.lock(order)
        self._report(order, "NEW", now_ms)

    def start_soon(self, order_list: OrderList, at_ms: int) -> None:
        """Place the pending orders of a list before anything else happens."""
        self.call_at(at_ms, partial(self.lists.start, order_list))

    def _plan(self, desk: Desk, order: Order) -> list[tuple[Offer, Decimal]]:
        """Return what an order would take from the book now."""
        limit = order.price if order.type in PRICED else None
        qty: Decimal | None = order.remaining
        budget: Decimal | None = None
        if order.orig_quote_qty:
            qty, budget = None, order.orig_quote_qty
        elif order.type in {"STOP_LOSS", "TAKE_PROFIT"} and order.side == "BUY":
            # The price may have run past the stop for which funds are locked: the rest must be free, or is not bought.
            budget = self.books.budget(order)
        return desk.plan(order.side, qty, budget, limit)

    def _execute(self, desk: Desk, order: Order, takes: list[tuple[Offer, Decimal]], now_ms: int) -> None:
        """Take from the book what was planned; then rest, or expire what is left."""
        is_limit = order.type in PRICED
        reason = "UNFILLED_IOC_QUANTITY_EXPIRED" if is_limit else "INSUFFICIENT_LIQUIDITY"
        if order.time_in_force == "FOK" and sum((qty for _, qty in takes), _ZERO) < order.remaining:
            takes, reason = [], "UNFILLED_FOK_ORDER_EXPIRED"
        for offer, planned in takes:
            qty = planned
            if offer.order is not None:  # an earlier fill may have ended or cut it
                qty = min(qty, offer.order.remaining) if offer.order.is_open else _ZERO
            if not qty:
                continue
            trade_id = desk.next_trade_id()
            if offer.order is None:
                desk.take(order.side, offer, qty)
            else:
                self._fill(desk, offer.order, offer.price, qty, trade_id, now_ms, is_maker=True)
            self._fill(desk, order, offer.price, qty, trade_id, now_ms, is_maker=False)
        if not order.is_open:
            return
        if is_limit and order.time_in_force == "GTC":
            desk.rest(order)
        else:
            self.end(order, "EXPIRED", now_ms, reason=reason)

    def _fill(
        self,
        desk: Desk,
        order: Order,
        price: Decimal,
        qty: Decimal,
        trade_id: int,
        now_ms: int,
        *,
        is_maker: bool,
    ) -> None:
        """Execute some of an order: quantities, balances, fee, report."""
        self.lists.before_working(order, now_ms)
        quote = quote_of(price, qty)
        order.executed += qty
        order.cum_quote += quote
        order.updated_ms = now_ms
        order.status = "FILLED" if order.executed == order.orig_qty else "PARTIALLY_FILLED"
        self.lock(order)
        commission, commission_asset, realized = self.books.settle(order, price, qty, is_maker=is_maker)
        fill = Fill(
            trade_id,
            order.order_id,
            order.symbol,
            now_ms,
            price,
            qty,
            quote,
            commission,
            commission_asset,
            order.side == "BUY",
            is_maker,
            order.order_list_id,
            realized,
        )
        order.fills.append(fill)
        self._fills.setdefault((order.account, order.symbol), []).append(fill)
        if order.status == "FILLED":
            desk.remove(order)
        self._report(order, "TRADE", now_ms, fill=fill)
        self._after_fill(order, now_ms)

    def _after_fill(self, order: Order, now_ms: int) -> None:
        """Do what follows from a fill."""
        self.lists.after_fill(order, now_ms)

    def end(
        self,
        order: Order,
        status: Literal["CANCELED", "EXPIRED"],
        now_ms: int,
        cancel_id: str | None = None,
        reason: str = "",
    ) -> None:
        """Close an order with something left of it, and free what it locked.

        Parameters
        ----------
        order : Order
            An open one.
        status : {'CANCELED', 'EXPIRED'}
            By its owner or by the exchange.
        now_ms : int
            When.
        cancel_id : str, optional
            Names the request to cancel it.
        reason : str
            Why it expires, in Binance's words.
        """
        self._desks[order.symbol].remove(order)
        order.status = status
        order.updated_ms = now_ms
        order.expiry_reason = reason
        self.lock(order)
        self._report(order, status, now_ms, cancel_id=cancel_id)
        self.lists.after_end(order, status, now_ms, cancel_id)

    def lock(self, order: Order) -> None:
        """Lock what the order needs as it stands now, or free what it needs no longer."""
        self.books.lock(order, self.lists.need(order) if order.is_open else _ZERO)

    def announce(self, event: ListEvent | None, now_ms: int) -> None:
        """Send what became of an order list; None sends the balances that changed."""
        if event is None:
            self._announce_balances(now_ms)
        else:
            self._events.append(event)

    def _announce_balances(self, now_ms: int) -> None:
        """Announce the balances that changed since the last report, once each."""
        self._events.extend(self.books.changes(now_ms))

    # Reports and look-ups

    def _report(
        self,
        order: Order,
        exec_type: Literal["NEW", "TRADE", "CANCELED", "EXPIRED"],
        now_ms: int,
        fill: Fill | None = None,
        cancel_id: str | None = None,
    ) -> None:
        self._executions += 1
        event = OrderEvent(
            ts_ms=now_ms,
            account=order.account,
            order=order,
            exec_type=exec_type,
            status=order.status,
            working=order.working,
            executed=order.executed,
            cum_quote=order.cum_quote,
            fill=fill,
            client_id=cancel_id or order.client_id,
            orig_client_id=order.client_id if cancel_id else "",
            execution_id=self._executions,
        )
        self._events.append(event)

    def _book_ticker(self, desk: Desk, trade: Trade) -> BookTickerEvent:
        bids, asks = self._side(desk, "BUY", 1), self._side(desk, "SELL", 1)
        bid, bid_qty = bids[0] if bids else ("0.00000000", "0.00000000")
        ask, ask_qty = asks[0] if asks else ("0.00000000", "0.00000000")
        return BookTickerEvent(trade.ts_ms, desk.market.spec.symbol, trade.id, bid, bid_qty, ask, ask_qty)

    def _side(self, desk: Desk, side: Side, limit: int) -> list[tuple[str, str]]:
        """Return one side of the visible book: depth on which an account's order has got the better is not shown."""
        taker: Side = "SELL" if side == "BUY" else "BUY"
        against = desk.resting[taker]
        levels: dict[Decimal, Decimal] = {}
        for offer in desk.offers(taker):
            if offer.order is None and against:
                barrier = against[0].price
                if offer.price >= barrier if side == "BUY" else offer.price <= barrier:
                    continue
            if len(levels) == limit and offer.price not in levels:
                break
            levels[offer.price] = levels.get(offer.price, _ZERO) + offer.qty
        return [(f"{price:.8f}", f"{qty:.8f}") for price, qty in levels.items()]

    def _desk(self, symbol: str) -> Desk:
        if symbol not in self._desks:
            raise Reject(-1121, "Invalid symbol.")
        return self._desks[symbol]

    def _find(self, account: Account, symbol: str, order_id: int | None, client_id: str | None) -> Order | None:
        self._desk(symbol)
        if order_id is None:
            return self._by_client_id.get((account, symbol, client_id or ""))
        order = self._by_id.get((account, symbol, order_id))
        return order if order is None or client_id in {None, order.client_id} else None

    def new_client_id(self) -> str:
        """Return an id for what came without one."""
        self._client_ids += 1
        return f"sim{self._client_ids:019d}"


def _within(items: list[_T], times_ms: list[int], start_ms: int | None, end_ms: int | None, limit: int) -> list[_T]:
    """Return the items of a stretch of time: its first `limit` if a start is given, else its last ones."""
    found = [
        item
        for item, ts_ms in zip(items, times_ms, strict=True)
        if (start_ms is None or ts_ms >= start_ms) and (end_ms is None or ts_ms <= end_ms)
    ]
    return found[-limit:] if start_ms is None else found[:limit]
