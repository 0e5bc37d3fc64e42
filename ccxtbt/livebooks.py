"""LiveBooks: what a live run holds: positions, cash, value and fees by the fills since its start, exactly.

Everything here runs on cerebro's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import backtrader as bt

from ccxtbt.ccxtstore import CCXTStore
from ccxtbt.errors import ConfigError
from ccxtbt.trading.books import Book
from ccxtbt.trading.rules import Rules
from ccxtbt.trading.sizes import CommInfo, Position, Size
from ccxtbt.trading.states import Amend, Fill


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
        self._opening: dict[str, Decimal] = {}
        self._books: dict[str, Book] = {}

    def open_books(self) -> None:
        """Begin with what the account holds now."""
        self._opening = self.wallet.totals()
        self.startingcash = self.getcash()
        self.startingvalue = self.getvalue()

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

    # Markets

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
