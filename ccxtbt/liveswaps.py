"""LiveSwaps: what a live run that trades linear contracts has beside one on spot: positions that are the exchange's.

Everything here runs on cerebro's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, Protocol

import backtrader as bt

from ccxtbt.ccxtorder import CCXTOrder
from ccxtbt.errors import ConfigError, NotOfferedError
from ccxtbt.trading.audit import Apart
from ccxtbt.trading.books import Book
from ccxtbt.trading.contracts import ContractBook, Payment, Stance
from ccxtbt.trading.reports import FillFact
from ccxtbt.trading.rules import EXACT, Rules
from ccxtbt.trading.sizes import Size
from ccxtbt.trading.states import Fill

logger = logging.getLogger(__name__)

ZERO = Decimal(0)
MARGIN_MODES = ("cross", "isolated")


class Books(Protocol):
    """What of `LiveBooks` is used here; it in turn has one of these."""

    store: Any
    apart: list[Apart]
    _opened_ms: int
    _books: dict[str, Book]

    def data_of(self, symbol: str) -> Any:
        """Return a data of a market of the run."""

    def _rules_named(self, symbol: str) -> Rules:
        """Return what a market accepts."""

    def _book_of(self, data: Any) -> Book:
        """Return the book of a data's market."""

    def _book(self, order: Any, fill: Fill) -> None:
        """Book one fill of an order."""

    def getposition(self, data: Any, clone: bool = True) -> Any:
        """Return the position in a market."""

    def getcommissioninfo(self, data: Any) -> Any:
        """Return the CommInfo of a data."""

    def _notify(self, order: Any) -> None:
        """Notify an order."""

    def _warn(self, text: str, **details: Any) -> None:
        """Notify a text."""


def contracts_of(markets: Mapping[str, Any], symbols: list[str], exchange_id: str) -> list[str]:
    """Return the symbols that are contracts: all of a run's, or none.

    Raises
    ------
    ConfigError
        Some are contracts and some are not.
    NotOfferedError
        One is no linear contract.
    """
    found = [symbol for symbol in symbols if markets.get(symbol, {}).get("contract")]
    for symbol in found:
        if not markets[symbol].get("linear"):
            raise NotOfferedError(
                f"{symbol} of {exchange_id} is no linear contract, and orders in it are not offered: trade one that is "
                "margined in its quote, such as 'BTC/USDT:USDT'."
            )
    others = [symbol for symbol in symbols if symbol not in found]
    if found and others:
        raise ConfigError(
            f"{found[0]} is a contract and {others[0]} is not, and they are paid from two wallets: give each kind a "
            "store and a run of its own."
        )
    return found


class LiveSwaps:
    """The contracts of a run.

    There is one position a contract, whoever trades it: the run begins with what there is, and the fills of others, a
    liquidation among them, change the run's position as they change the exchange's.

    Parameters
    ----------
    desk : Books
        Those of the run.
    symbols : list of str
        The contracts.
    leverage : float, mapping of str to float, or None
        To be set, for all or by symbol; None: as it is.
    margin_mode : str, mapping of str to str, or None
        ``'cross'`` or ``'isolated'``, in the same manner.
    hedged : bool
        Begin on an account that holds a long and a short position at a time. The user says which one each order is of;
        the run knows the sum of both, and what it sends by itself names no side.

    Attributes
    ----------
    one_way : bool
        There is one position a contract.
    stances : dict of str to Stance
        The last word of the exchange on each contract.
    """

    def __init__(
        self, desk: Books, symbols: list[str], leverage: Any = None, margin_mode: Any = None, *, hedged: bool = False
    ) -> None:
        self._desk = desk
        self._leverage = leverage
        self._margin_mode = margin_mode
        self.one_way = not hedged
        self.stances = {symbol: Stance(symbol) for symbol in symbols}
        self._paid: set[tuple[str, int, str]] = set()
        # The last fill of each contract that was booked when its position was asked for.
        self._looked_ms: dict[str, int] = {}
        # Fills of others in contracts whose data has no bar yet.
        self._waiting: list[FillFact] = []
        for symbol in symbols:
            wanted = self._wanted(margin_mode, symbol)
            if wanted is not None and wanted not in MARGIN_MODES:
                raise ConfigError(f"margin_mode={wanted!r} is not known: say 'cross' or 'isolated'.")

    @staticmethod
    def _wanted(given: Any, symbol: str) -> Any:
        return given.get(symbol) if isinstance(given, Mapping) else given

    def open(self, courier: Any, connection: Any) -> None:
        """Set what is to be set, and learn what the account holds; waits for the exchange.

        Raises
        ------
        ConfigError
            The account is in hedge mode, or the exchange refuses a setting.
        """
        symbols, margin = list(self.stances), courier.trade_contracts(self.stances)
        if self.one_way and connection.call(margin.is_hedged, symbols[0]):
            raise ConfigError(
                f"The account at {connection.account.exchange_id} is in hedge mode, with a long and a short position a "
                "contract, and backtrader knows one: switch it to one-way mode, or say hedged=True to the broker and "
                "give each order its positionSide."
            )
        if not self.one_way:
            logger.warning(
                "hedged=True: each order needs its side (positionSide= on Binance), positions are the sum "
                "of both, and nothing is flattened. Trading in hedge mode was not proved."
            )
        for symbol in symbols:
            mode, leverage = self._wanted(self._margin_mode, symbol), self._wanted(self._leverage, symbol)
            if mode is not None:
                connection.call(margin.set_margin_mode, mode, symbol)
            if leverage is not None:
                connection.call(margin.set_leverage, leverage, symbol)
        self.hear(courier.fetch_stances(symbols), whole=True)
        for symbol, told in connection.call(margin.leverages, symbols).items():
            if symbol in self.stances:
                self.stances[symbol] = settings_of(self.stances[symbol], told)
        for stance in self.stances.values():
            size = f"{stance.size:f} contracts at {stance.entry:f}" if stance.entry else "no position"
            logger.info(
                "%s: %s, leverage %s, %s margin.", stance.symbol, size, stance.leverage, stance.margin_mode or "unknown"
            )
        if not connection.facts.wallet_rows:
            logger.warning(
                "What is the wallet in a balance of %s, and what is open profit, is not known here: payments and "
                "transfers are booked only where the exchange lists them.",
                connection.account.exchange_id,
            )

    def hear(self, told: tuple[Stance, ...], *, whole: bool) -> None:
        """Take positions from the exchange; `whole`: a contract that is not among them has none."""
        heard = {stance.symbol: stance for stance in told}
        for symbol, known in self.stances.items():
            stance = heard.get(symbol, Stance(symbol) if whole else None)
            if stance is not None:
                self.stances[symbol] = merged(known, stance)
                self.agree(symbol)
            if whole:
                self._looked_ms[symbol] = self._traded_ms(symbol)

    def _traded_ms(self, symbol: str) -> int:
        book = self._desk._books.get(symbol)
        return book.traded_ms if isinstance(book, ContractBook) and book.size else 0

    def has_unheard(self) -> bool:
        """Whether the exchange has said nothing of a position since its last fill: its mean price is not known then."""
        return any(
            self._traded_ms(symbol) > max(stance.ts_ms or 0, self._looked_ms.get(symbol, 0))
            for symbol, stance in self.stances.items()
        )

    def agree(self, symbol: str) -> None:
        """Let the exchange's mean price of a position be ours, if it speaks of the same one."""
        desk, stance = self._desk, self.stances.get(symbol)
        book = desk._books.get(symbol)
        if stance is not None and isinstance(book, ContractBook) and book.agrees(stance):
            desk.getposition(desk.data_of(symbol), clone=False).price = float(book.price)

    def differences(self) -> dict[str, Decimal]:
        """Return by how much each position of the exchange is above ours, where they are not equal."""
        found = {}
        for symbol, stance in self.stances.items():
            book = self._desk._books.get(symbol)
            more = EXACT.subtract(stance.size, ZERO if book is None else book.size)
            if more:
                found[symbol] = more
        return found

    def pay(self, payment: Payment) -> Apart | None:
        """Take a payment for holding a contract; None if it is known, or was before the run."""
        key = (payment.symbol, payment.ts_ms, payment.payment_id)
        if payment.ts_ms <= self._desk._opened_ms or key in self._paid:
            return None
        self._paid.add(key)
        return Apart({payment.currency: payment.amount}, payment=payment)

    def trade(self, fill: FillFact) -> bool:
        """Take a fill of another's order; whether it was in a contract of the run."""
        if fill.symbol not in self.stances:
            return False
        self._waiting.append(fill)
        self.next()
        return True

    def adjust(self, symbol: str, change: Decimal) -> None:
        """Take a change of a position that no trade tells of."""
        side, entry = ("buy" if change > 0 else "sell"), self.stances[symbol].entry
        price = entry or Decimal(repr(self._desk.data_of(symbol).close[0]))
        self.trade(FillFact(None, None, None, None, abs(change), price, ZERO, None, None, symbol, side, ZERO))

    def next(self) -> None:
        """Tell the fills of others, once the data of their contract has a bar."""
        due = [fill for fill in self._waiting if len(self._desk.data_of(str(fill.symbol)))]
        self._waiting = [fill for fill in self._waiting if fill not in due]
        for fill in due:
            self._tell(fill)

    def _tell(self, fill: FillFact) -> None:
        """Book a fill of another's order, and tell it as an order of its own that is completed."""
        desk, symbol = self._desk, str(fill.symbol)
        data, rules = desk.data_of(symbol), desk._rules_named(symbol)
        forced = desk.store.connection.facts.forced
        kind = next((what for prefix, what in forced if (fill.client_id or "").startswith(prefix)), "")
        size = Size(fill.amount, rules.lot)
        named: dict[str, Any] = {"data": data, "size": size, "exectype": bt.Order.Market}
        order = CCXTOrder(side=str(fill.side), **named)
        order.addinfo(foreign=True, reason=kind or "another's order", client_id=fill.client_id, order_id=fill.order_id)
        order.addcomminfo(desk.getcommissioninfo(data))
        before = dict(desk._book_of(data).flows)
        signed = fill.amount if fill.side == "buy" else -fill.amount
        desk._book(
            order,
            Fill(
                signed,
                fill.price,
                fill.fee_cost,
                fill.fee_currency,
                fill.ts_ms,
                fill.trade_id,
                realized=fill.realized,
            ),
        )
        order.completed()
        after = desk._book_of(data).flows
        changes = {name: EXACT.subtract(amount, before.get(name, ZERO)) for name, amount in after.items()}
        changes = {name: change for name, change in changes.items() if change}
        apart = Apart(changes, fill, forced=kind, position=desk._book_of(data).size)
        desk.apart.append(apart)
        desk._notify(order)
        desk._warn(str(apart), apart=apart)


def merged(known: Stance, told: Stance) -> Stance:
    """Return the newer of two words on a contract, with the settings that only the older one tells."""
    if told.ts_ms is not None and known.ts_ms is not None and told.ts_ms < known.ts_ms:
        return known
    return replace(
        told,
        leverage=told.leverage or known.leverage,
        margin_mode=told.margin_mode or known.margin_mode,
        ts_ms=told.ts_ms or known.ts_ms,
    )


def settings_of(stance: Stance, told: Mapping[str, Any]) -> Stance:
    """Return a word on a contract with its leverage and margin mode as ccxt parses them."""
    sides = [told.get("longLeverage"), told.get("shortLeverage")]
    leverage = next((side for side in sides if side), stance.leverage)
    return replace(stance, leverage=leverage, margin_mode=told.get("marginMode") or stance.margin_mode)
