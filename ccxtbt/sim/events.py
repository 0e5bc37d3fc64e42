"""What the simulated exchange announces, in time order."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from ccxtbt.sim.account import Account
from ccxtbt.sim.algos import AlgoOrder, AlgoStatus
from ccxtbt.sim.market import Trade
from ccxtbt.sim.orders import Fill, Order, OrderList, Status


@dataclass(slots=True, frozen=True)
class TradeEvent:
    """A public trade (for ``trade`` and ``aggTrade``); of watched symbols only."""

    ts_ms: int
    symbol: str
    trade: Trade


@dataclass(slots=True, frozen=True)
class KlineEvent:
    """A bar as it forms, and once more when it has closed; of watched bars only.

    Attributes
    ----------
    row : list
        As in `Market.klines`.
    first_id, last_id : int
        Trades of the bar, -1 without any.
    closed : bool
        Binance's ``x``: true exactly once for each bar.
    """

    ts_ms: int
    symbol: str
    interval: str
    row: list[Any]
    first_id: int
    last_id: int
    closed: bool


@dataclass(slots=True, frozen=True)
class BookTickerEvent:
    """Best bid and ask after a trade, prices and quantities as text; of watched symbols only."""

    ts_ms: int
    symbol: str
    update_id: int
    bid: str
    bid_qty: str
    ask: str
    ask_qty: str


@dataclass(slots=True, frozen=True)
class OrderEvent:
    """An execution report: the order as it stood then, since `order` itself goes on changing.

    Attributes
    ----------
    exec_type : {'NEW', 'TRADE', 'CANCELED', 'EXPIRED'}
        Binance's ``x``. A stop that triggers sends a second NEW, with `working` true.
    fill : Fill or None
        The execution that a TRADE reports.
    client_id, orig_client_id : str
        Binance's ``c`` and ``C``: in a cancellation the id of the cancel request and that of the order, else the
        order's and an empty text.
    execution_id : int
        Counts every report of the exchange.
    """

    ts_ms: int
    account: Account
    order: Order
    exec_type: Literal["NEW", "TRADE", "CANCELED", "EXPIRED"]
    status: Status
    working: bool
    executed: Decimal
    cum_quote: Decimal
    fill: Fill | None
    client_id: str
    orig_client_id: str
    execution_id: int


@dataclass(slots=True, frozen=True)
class BalanceEvent:
    """Balances that changed: (asset, free, locked) each, as they were then."""

    ts_ms: int
    account: Account
    changes: tuple[tuple[str, Decimal, Decimal], ...]


@dataclass(slots=True, frozen=True)
class ListEvent:
    """A change of an order list: it was placed, its pending orders were, or (`is_done`) it has ended."""

    ts_ms: int
    account: Account
    order_list: OrderList
    is_done: bool


@dataclass(slots=True, frozen=True)
class MarginEvent:
    """A futures account's wallet, and positions that changed, as they were then.

    Attributes
    ----------
    reason : str
        Binance's word for it: 'ORDER', 'FUNDING_FEE', 'DEPOSIT'.
    positions : tuple of (symbol, amount, entry price, open profit, whether isolated, isolated wallet)
    """

    ts_ms: int
    account: Account
    reason: str
    asset: str
    wallet: Decimal
    cross_wallet: Decimal
    positions: tuple[tuple[str, Decimal, Decimal, Decimal, bool, Decimal], ...]


@dataclass(slots=True, frozen=True)
class AlgoEvent:
    """A change of a conditional order: what it was then, and what the order that it became had executed, as text."""

    ts_ms: int
    account: Account
    algo: AlgoOrder
    status: AlgoStatus
    order_id: str
    kind: str
    average: str
    executed: str


Event = TradeEvent | KlineEvent | BookTickerEvent | OrderEvent | BalanceEvent | ListEvent | MarginEvent | AlgoEvent
