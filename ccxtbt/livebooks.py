"""LiveBooks: what a live run holds: positions, cash, value and fees by the fills since its start, exactly.

Everything here runs on cerebro's thread.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import backtrader as bt

from ccxtbt.ccxtorder import CCXTOrder
from ccxtbt.ccxtstore import CCXTStore
from ccxtbt.errors import ConfigError
from ccxtbt.liveswaps import LiveSwaps
from ccxtbt.trading.audit import Apart, Audit, sum_of
from ccxtbt.trading.books import Book, Booking
from ccxtbt.trading.contracts import ContractBook, Payment, Stance
from ccxtbt.trading.dates import number_of
from ccxtbt.trading.journal import Baseline
from ccxtbt.trading.past import PastBook
from ccxtbt.trading.reports import FillFact
from ccxtbt.trading.rules import EXACT, FINEST_STEP, Rules, exact
from ccxtbt.trading.sizes import CommInfo, Position, Size
from ccxtbt.trading.states import Amend, Fill

logger = logging.getLogger(__name__)

ZERO, ONE = Decimal(0), Decimal(1)


def execute(order: Any, booked: Booking, when: float, lot: Decimal, margin: Any) -> None:
    """Book a fill in backtrader's order.

    Parameters
    ----------
    order : backtrader.Order
        Whose.
    booked : Booking
        What the fill did.
    when : float
        Its time, as backtrader's number.
    lot : Decimal
        Step of sizes.
    margin : float or None
        The CommInfo's.
    """
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
        margin,
        float(booked.pnl),
        Size(booked.psize, lot),
        float(booked.pprice),
    )


class LiveBooks(bt.BrokerBase):
    """The books of a live run, and the answers that strategies and observers want of a broker.

    Parameters
    ----------
    store : CCXTStore
        The account.
    cerebro : backtrader.Cerebro
        Whose datas tell prices.
    comminfo : dict
        CommInfos that the user has set, by data name.
    read_rules : callable
        Returns what a market accepts, by its symbol.

    Attributes
    ----------
    apart : list of Apart
        What changed in the account without an order of this run.
    """

    def __init__(
        self, store: CCXTStore, cerebro: Any, comminfo: dict[str | None, Any], read_rules: Callable[[str], Rules]
    ) -> None:
        super().__init__()
        self.store = store
        self.cerebro = cerebro
        self.comminfo = comminfo
        self.positions: dict[Any, Position] = {}
        self.wallet = store.wallet
        self.startingcash = self.startingvalue = 0.0
        self._read_rules = read_rules
        self._rules: dict[str, Rules] = {}
        self.apart: list[Apart] = []
        self._opening: dict[str, Decimal] = {}
        self._opened_ms = 0
        self._beside: dict[str, Decimal] = {}
        self._books: dict[str, Book] = {}
        # What is held of each currency by these books; None: to be summed up again.
        self._amounts: dict[str, Decimal] | None = None
        self._audit = Audit()
        # The datas of each market of the run, and what else prices are asked for, with the last ones told.
        self._by_symbol: dict[str, list[Any]] = {}
        self._quotes: list[str] = []
        self._wanted: set[str] = set()
        self._prices: dict[str, Decimal] = {}
        self._unpriced: set[tuple[str, str]] = set()
        # Positions of the start that no strategy has a trade of yet, and how each came about, with times in ms.
        self._seeds: list[Any] = []
        self._bookings: dict[str, list[tuple[int, Booking]]] = {}
        # Fills of restored orders that the opening balance holds.
        self._opened_with: set[tuple[str, str | None]] = set()
        # The contracts of the run; None where it trades on spot.
        self._swaps: LiveSwaps | None = None

    def init(self) -> None:
        """Add no CommInfo, where backtrader's own would: it charges nothing and cuts sizes to whole units."""

    def open_books(self, opened_ms: int = 0) -> None:
        """Begin with what the account holds now.

        Parameters
        ----------
        opened_ms : int
            Up to when the balance holds what was traded.
        """
        self._opened_ms = opened_ms
        self._opening, self._amounts = self.wallet.totals(), None
        for data in self.cerebro.datas:
            if isinstance(self._market(data), str):
                self._by_symbol.setdefault(self._symbol(data), []).append(data)
        quotes = {self.rules_of(datas[0]).quote for datas in self._by_symbol.values()}
        self._quotes = sorted(quotes - {self.store.currency})
        coins = [coin for coin in self.store.connection.facts.fee_coins if self.wallet.total(coin)]
        for quote in quotes:
            for currency in coins:
                self._want(currency, quote)
            self._want(quote, self.store.currency or "")

    def begin(self) -> None:
        """Note what a run begins with, once prices are known."""
        self.startingcash = self.getcash()
        self.startingvalue = self.getvalue()

    def getcash(self) -> float:
        """Return the money in the store's currency: of the opening balance, all fills, and what came beside them."""
        return float(self.amount(self.store.currency or ""))

    get_cash = getcash

    def amount(self, currency: str) -> Decimal:
        """Return what is held of a currency: of the opening balance, all fills, and what came beside them."""
        return self._sums().get(currency, ZERO)

    def _sums(self) -> dict[str, Decimal]:
        # Observers ask several times a bar, and fills are rare.
        if self._amounts is None:
            self._amounts = sum_of(self._opening, self._beside, *(book.flows for book in self._books.values()))
        return self._amounts

    def getvalue(self, datas: Any = None) -> float:
        """Return money and positions at the last price, in the store's currency; of `datas`, their positions alone.

        Money is the store's currency and what else the markets of the run are paid in. Of contracts the whole counts
        the open profit, so that it is the exchange's equity; alone, what a position is worth, below 0 for a short one,
        so that `order_target_value` and the like reach what they are asked for.
        """
        if datas is not None:
            return sum(self._worth(data) for data in datas)
        # Of the datas that share a position, the one whose bar is the latest tells its price.
        latest = {id(self.positions[data]): data for data in sorted(self.positions, key=self._age)}
        return sum(map(self._money, (self.store.currency or "", *self._quotes))) + sum(
            self._worth(data, open_profit=True) for data in latest.values()
        )

    get_value = getvalue

    def getposition(self, data: Any, clone: bool = True) -> Position:
        """Return the position in a market, which all its datas share: other timeframes, resampled ones."""
        position = self.positions.get(data)
        if position is None:
            market = self._market(data)
            same = (held for other, held in self.positions.items() if self._market(other) == market)
            position = self.positions[data] = next(same, Position())
        return position.clone() if clone else position

    def stance_of(self, data: Any) -> Stance | None:
        """Return the exchange's last word on the contract of a data; None on spot."""
        return None if self._swaps is None else self._swaps.stances.get(self._symbol(data))

    def orderstatus(self, order: Any) -> int:
        """Return an order's status."""
        return int(order.status)

    def getcommissioninfo(self, data: Any) -> Any:
        """Return the CommInfo of a data: the user's own, else one with the market's fees."""
        for name in (data._name, None):
            if name in self.comminfo:
                return self.comminfo[name]
        rules, currency = self.rules_of(data), self.store.currency or ""
        rate = None if rules.quote == currency else functools.partial(self.rate, rules.quote, currency)
        kind = {"mult": float(rules.contract_size), "stocklike": False, "automargin": -1} if rules.contract_size else {}
        info = CommInfo(commission=float(rules.fee_rate), lot=rules.lot, rate=rate, **kind)
        return self.comminfo.setdefault(data._name, info)

    def rules_of(self, data: Any) -> Rules:
        """Return what the market of a data accepts.

        Raises
        ------
        ConfigError
            The data is not of this store.
        """
        return self._rules_named(self._symbol(data))

    def _rules_named(self, symbol: str) -> Rules:
        if symbol not in self._rules:
            self._rules[symbol] = self._read_rules(symbol)
        return self._rules[symbol]

    @staticmethod
    def source(data: Any) -> Any:
        """Return the feed on which a data stands: itself, or what it is resampled or replayed from."""
        while not isinstance(data, CCXTStore.DataCls) and getattr(data, "_clone", False):
            data = data.data
        return data

    # Booking

    def _book(self, order: Any, fill: Fill) -> None:
        """Book one fill: exact amounts in the market's book, backtrader's figures in order and position."""
        if fill.trade_id is not None:
            order.executed_fills.add(fill.trade_id)
        data, lot = order.data, self.rules_of(order.data).lot
        book = self._book_of(data)
        before = self._flows_before(order, fill.trade_id, fill.ts_ms)
        booked = book.fill(fill, self._fee_rate)
        self._open_with(before, book)
        if self._swaps is not None:
            self._swaps.agree(self._symbol(data))
        when_ms = self.store.connection.clock.now_ms() if fill.ts_ms is None else fill.ts_ms
        when = number_of(when_ms)
        position = self.getposition(data, clone=False)
        position.update(Size(booked.opened + booked.closed, lot), float(fill.price), bt.num2date(when))
        position.size, position.price = Size(booked.psize, lot), float(self._book_of(data).price)
        comminfo = self.getcommissioninfo(data)
        told = order.status
        execute(order, booked, when, lot, comminfo.margin)
        order.addcomminfo(comminfo)
        if told > bt.Order.Partial:
            # A fill that was late: the order had ended, and has.
            order.status = told

    def _amend(self, order: Any, amend: Amend) -> None:
        """Book what a counted fill turned out to have cost."""
        price = Decimal(repr(order.executed.price))
        book = self._book_of(order.data)
        before = self._flows_before(order, amend.trade_id, None)
        fee = book.amend(amend, 1 if order.isbuy() else -1, price, self._fee_rate)
        self._open_with(before, book)
        order.executed.comm += float(fee)

    def _flows_before(self, order: Any, trade_id: str | None, ts_ms: int | None) -> dict[str, Decimal] | None:
        """Return the flows of a market so far, if a fill is in the balance that the books were opened with."""
        if not order.info.get("restored"):
            return None
        book, known = self._book_of(order.data), (self._symbol(order.data), trade_id)
        if ts_ms is not None and ts_ms <= max(self._opened_ms, order.info.get("adopted_ms", 0)):
            self._opened_with.add(known)
        return dict(book.flows) if known in self._opened_with else None

    def _open_with(self, before: Mapping[str, Decimal] | None, book: Book) -> None:
        """Let what was booked just now change no balance, where `before` says that the opening balance holds it."""
        self._amounts = None
        if before is not None:
            taken = {currency: -flow for currency, flow in book.flows.items()}
            self._opening = sum_of(self._opening, before, taken)

    def _book_of(self, data: Any) -> Book:
        rules = self.rules_of(data)
        if rules.symbol not in self._books:
            self._books[rules.symbol] = (
                ContractBook(rules.quote, rules.lot, rules.contract_size)
                if rules.contract_size
                else Book(rules.base, rules.quote, rules.lot)
            )
        return self._books[rules.symbol]

    # Prices

    def rate(self, currency: str, other: str) -> Decimal | None:
        """Return the last price of a currency in another: by the feeds of this run, else as last asked for."""
        if currency == other:
            return ONE
        price = self._price(f"{currency}/{other}")
        if price is not None:
            return price
        inverse = self._price(f"{other}/{currency}")
        if inverse:
            return EXACT.divide(ONE, inverse)
        self._want(currency, other)
        return None

    def _price(self, symbol: str) -> Decimal | None:
        datas = [data for data in self._by_symbol.get(symbol, ()) if len(data)]
        if datas:
            return Decimal(repr(max(datas, key=self._age).close[0]))
        return self._prices.get(symbol)

    def _want(self, currency: str, other: str) -> None:
        """Have the price of a currency in another asked for, if no feed of this run tells it and there is a market."""
        markets = self.store.connection.markets
        for symbol in (f"{currency}/{other}", f"{other}/{currency}"):
            if symbol in markets:
                if symbol not in self._by_symbol:
                    self._wanted.add(symbol)
                return

    def _fee_rate(self, currency: str, quote: str) -> Decimal | None:
        """Return the price of a fee's currency; where nobody knows it, that is said once."""
        rate = self.rate(currency, quote)
        if rate is None and (currency, quote) not in self._unpriced:
            self._unpriced.add((currency, quote))
            self._warn(
                f"A fee was taken in {currency}, whose price in {quote} is not known: it is gone from the balance, and "
                "in the commission of no order until there is a price."
            )
        return rate

    def _money(self, currency: str) -> float:
        """Return what is held of a currency beside the positions in it, in the store's currency."""
        held = (book.held for book in self._books.values() if book.base == currency)
        free = EXACT.subtract(self.amount(currency), sum(held, ZERO))
        rate = self.rate(currency, self.store.currency or "") if free else ONE
        return 0.0 if rate is None else float(EXACT.multiply(free, rate))

    # What no order of this run did

    def differences(self) -> dict[str, Decimal]:
        """Return how much more of each currency the account holds than these books say, or below 0 less."""
        if self._swaps is None:
            return self.wallet.differences(self._sums())
        money = self.wallet.differences(self._sums()) if self.store.connection.facts.wallet_rows else {}
        return {**money, **self._swaps.differences()}

    def _book_proved(self, changes: Mapping[str, Decimal]) -> None:
        """Book what two looks have found that no order of this run explains."""
        positions = {name for name in changes if self._swaps is not None and name in self._swaps.stances}
        money = {name: change for name, change in changes.items() if name not in positions}
        if money:
            self._book_apart(Apart(money))
        for symbol in positions:
            if self._swaps is not None:
                self._swaps.adjust(symbol, changes[symbol])

    def _book_payment(self, payment: Payment) -> None:
        """Book what was paid or earned for holding a contract, once."""
        apart = None if self._swaps is None else self._swaps.pay(payment)
        if apart is not None:
            self._book_apart(apart)

    def _book_apart(self, apart: Apart) -> None:
        """Book what changed without an order of this run, and say so."""
        self._beside, self._amounts = sum_of(self._beside, apart.changes), None
        self.apart.append(apart)
        if any(abs(change) > FINEST_STEP for change in apart.changes.values()):
            self._warn(str(apart), apart=apart)

    def _book_foreign(self, fills: Iterable[FillFact]) -> None:
        """Book the fills of orders that are not of this run."""
        for fill in fills:
            # What traded before the books were opened is in the balance that they were opened with.
            if (fill.ts_ms or 0) <= self._opened_ms or fill.side is None or not self._audit.is_new(fill):
                continue
            if self._swaps is not None:
                # In contracts that the run does not trade only the wallet shows what was done.
                self._swaps.trade(fill)
                continue
            rules = self._rules_named(str(fill.symbol))
            beside = Book(rules.base, rules.quote, rules.lot)
            size = fill.amount if fill.side == "buy" else -fill.amount
            beside.fill(Fill(size, fill.price, fill.fee_cost, fill.fee_currency), self.rate)
            self._book_apart(Apart(beside.flows, fill))

    # Positions of the start

    def holdings(self) -> list[str]:
        """Return the markets of the run of which the account holds something."""
        if self._swaps is not None:
            return [symbol for symbol, stance in self._swaps.stances.items() if stance.size]
        return [symbol for symbol in self._by_symbol if self._opening.get(self._rules_named(symbol).base)]

    def restore_book(self, symbol: str, past: PastBook) -> Baseline | None:
        """Begin a market's position with what an earlier run has left.

        Returns
        -------
        Baseline or None
            From where it can be counted the next time, if it was flat in between.
        """
        data, flat = self._by_symbol[symbol][0], None
        book = self._book_of(data)
        book.held, book.size, book.price = past.held, past.size, past.price
        made = [(0, book.standing())] if book.size else []
        for each in past.since:
            if isinstance(each.what, Fill):
                made.append((each.what.ts_ms or 0, book.fill(each.what, self.rate)))
                self._opened_with.add((symbol, each.what.trade_id))
            else:
                fee = book.amend(each.what, 1 if each.side == "buy" else -1, book.price, self.rate)
                if made:
                    when, last = made.pop()
                    made.append((when, replace(last, openedcomm=last.openedcomm + fee)))
            if not book.size:
                made.clear()
                flat = Baseline(symbol, book.held, ZERO, ZERO, each.number)
        # What it did to the balances is in those of now.
        book.flows.clear()
        self._amounts = None
        self._place(data, made)
        return flat

    def count_account(self, symbol: str, price: Decimal | None, *, whole: bool) -> Baseline | None:
        """Hold a market's position against what the account has of its base.

        Parameters
        ----------
        symbol : str
            One of a data of this run.
        price : Decimal or None
            What a difference counts as traded at; None: the close of the first bar.
        whole : bool
            The position is to be all that the account has; else it is only cut where the account has less.

        Returns
        -------
        Baseline or None
            What it is counted from now on, if anything differed.
        """
        data = self._by_symbol[symbol][0]
        book, rules = self._book_of(data), self.rules_of(data)
        if self._swaps is not None:
            return self._count_contract(symbol, price)
        held = self.amount(rules.base)
        more = EXACT.subtract(held, book.held)
        if not (whole and more > 0) and not (book.held > 0 and more < 0):
            return None
        before = dict(book.flows)
        booked = book.fill(Fill(more, price or book.price), self.rate)
        book.flows = before
        if more < 0:
            self._warn(
                f"The account holds {held} {rules.base}, less than the {EXACT.subtract(held, more)} that these books "
                "know of: somebody has sold or withdrawn the rest, and the position is cut."
            )
        if booked.opened or booked.closed:
            self._place(data, [*self._bookings.get(symbol, ()), (0, booked)])
        if price is None and more > 0:
            # What it counts as bought at is not known before the first bar.
            return None
        return Baseline(symbol, book.held, book.size, book.price)

    def _count_contract(self, symbol: str, price: Decimal | None) -> Baseline | None:
        """Take the exchange's position in a contract, whoever has traded it; ours counts how it came about."""
        data, stance = self.data_of(symbol), self.stance_of(self.data_of(symbol))
        book = self._book_of(data)
        if stance is None or stance.size == book.size:
            if self._swaps is not None:
                self._swaps.agree(symbol)
            self._place(data, self._bookings.get(symbol, []))
            return None
        if book.size:
            self._warn(
                f"The exchange holds {stance.size} contracts of {symbol}, and the journal knows of {book.size}: "
                "somebody else has traded, and the exchange's position counts."
            )
        book.seed(stance.size, stance.entry or price or ZERO)
        self._place(data, [(0, book.standing())] if book.size else [])
        return Baseline(symbol, book.held, book.size, book.price)

    def _place(self, data: Any, made: list[tuple[int, Booking]]) -> None:
        """Set the position of a market as its book says, and have its Trade opened by what made it."""
        book, rules = self._book_of(data), self.rules_of(data)
        position = self.getposition(data, clone=False)
        position.size, position.price = Size(book.size, rules.lot), float(book.price)
        self._bookings[rules.symbol] = made
        if book.size and not any(each is data for each in self._seeds):
            self._seeds.append(data)

    def _tell_seeds(self) -> None:
        """Open the Trades of the positions of the start, once their data has a bar."""
        owner = self.cerebro.runningstrats[0]
        for data in [data for data in self._seeds if len(data)]:
            self._seeds = [each for each in self._seeds if each is not data]
            # Not among the notifications: with quicknotify backtrader would tell a simulated order too.
            order = self._seed_order(data)
            owner._addnotification(order.clone(), quicknotify=False)
            for trade in (owner._trades[data][0][-1], *owner._tradespending[-1:]):
                # backtrader knows no time of a simulated order.
                trade.dtopen = order.executed.exbits[0].dt
            owner._notify(qtrades=owner._tradespending[-1:])

    def _seed_order(self, data: Any) -> Any:
        """Return the order that a position of the start counts as made by."""
        book, rules, comminfo = self._book_of(data), self.rules_of(data), self.getcommissioninfo(data)
        lot, close = rules.lot, Decimal(repr(data.close[0]))
        if not book.price:
            book.price = close
            self.getposition(data, clone=False).price = float(close)
        named: dict[str, Any] = {"data": data, "size": Size(abs(book.size), lot), "price": float(book.price)}
        named |= {"side": "buy" if book.size > 0 else "sell", "simulated": True}
        order = CCXTOrder(**named)
        order.addcomminfo(comminfo)
        for when_ms, each in self._bookings.pop(rules.symbol):
            # What has no price was counted as opened now.
            value = exact(float(comminfo.getvaluesize(float(each.opened), float(close))), "value")
            booked = each if each.price else replace(each, price=close, openedvalue=value)
            execute(order, booked, number_of(when_ms) if when_ms else 0.0, lot, comminfo.margin)
        order.completed()
        begun = f"{book.size} {book.base} of the account, counted as bought"
        if self._swaps is not None:
            begun = f"{book.size} contracts of {self._symbol(data)}, opened"
        self._warn(f"The run begins with {begun} at {float(book.price)}.")
        return order

    # Markets

    def data_of(self, symbol: str) -> Any:
        """Return a data of a market of the run."""
        return self._by_symbol[symbol][0]

    def _symbols_of(self, datas: Iterable[Any]) -> list[str]:
        """Return the markets of some datas, each once; those of other stores have none."""
        return list(dict.fromkeys(market for market in map(self._market, datas) if isinstance(market, str)))

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

    def _worth(self, data: Any, *, open_profit: bool = False) -> float:
        position = self.positions.get(data)
        if position is None or not position.size:
            return 0.0
        price = data.close[0] if len(data) else position.price
        rules = self.rules_of(data)
        if rules.contract_size:
            worth = float(position.size) * float(price - position.price * open_profit) * float(rules.contract_size)
        else:
            worth = float(self.getcommissioninfo(data).getvalue(position, price))
        quote, currency = rules.quote, self.store.currency or ""
        return worth if quote == currency else worth * float(self.rate(quote, currency) or 0)

    def _notify(self, order: Any) -> None:
        """Notify an order."""
        raise NotImplementedError

    def _warn(self, text: str, **details: Any) -> None:
        logger.warning("%s", text)
        self.store.put_notification(text, **details)
