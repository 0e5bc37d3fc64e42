"""Orders as the simulated exchange keeps them: what was asked for, what became of it, and why it was refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from ccxtbt.sim.account import Account

Side = Literal["BUY", "SELL"]
OrderType = Literal[
    "LIMIT", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT", "LIMIT_MAKER"
]
TimeInForce = Literal["GTC", "IOC", "FOK"]
Status = Literal["PENDING_NEW", "NEW", "PARTIALLY_FILLED", "FILLED", "CANCELED", "EXPIRED"]

STOPS = frozenset({"STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT"})
"""Types that wait for the last price to reach `stop_price`."""

PRICED = frozenset({"LIMIT", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT", "LIMIT_MAKER"})
"""Types with a limit price."""

OPEN = frozenset({"PENDING_NEW", "NEW", "PARTIALLY_FILLED"})
"""States in which an order can still be filled or cancelled."""


class Reject(Exception):  # noqa: N818 - Binance's word for it; the answer to a request, not a fault of ours
    """The exchange refuses a request.

    Attributes
    ----------
    code : int
        Binance's error code, as -2010.
    message : str
        Binance's text.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message


@dataclass(slots=True, kw_only=True)
class OrderRequest:
    """The parameters of a new order, as ``POST /api/v3/order`` names them; None where not sent."""

    symbol: str
    side: str
    type: str
    quantity: Decimal | None = None
    quote_qty: Decimal | None = None
    price: Decimal | None = None
    stop_price: Decimal | None = None
    trailing_delta: int | None = None
    iceberg_qty: Decimal | None = None
    time_in_force: str | None = None
    client_id: str | None = None
    reduce_only: bool = False
    good_till_ms: int | None = None


@dataclass(slots=True, frozen=True)
class Fill:
    """One execution of an order, as ``myTrades`` lists it."""

    trade_id: int
    order_id: int
    symbol: str
    ts_ms: int
    price: Decimal
    qty: Decimal
    quote: Decimal
    commission: Decimal
    commission_asset: str
    is_buyer: bool
    is_maker: bool
    order_list_id: int = -1
    realized: Decimal = Decimal(0)


@dataclass(slots=True, kw_only=True, eq=False)
class Order:
    """An order of an account and its state.

    Attributes
    ----------
    order_id : int
        Counts up per symbol, as Binance's do: unique only together with the symbol.
    orig_qty : Decimal
        Quantity asked for; for a market order by quote quantity, what was executed.
    executed, cum_quote : Decimal
        Sums of `qty` and of `quote` over `fills`.
    working : bool
        False while a stop waits for its trigger, and an order of a list for another one to be filled.
    trailing_delta : int
        How far the price must come back from its best to trigger the order, in hundredths of a percent; 0 where a stop
        price triggers it.
    best : Decimal
        The best price since a trailing stop was placed.
    locked : Decimal
        What the order holds of the account's balance: the quote coin for a buy, the base coin for a sale.
    created_ms, updated_ms, working_ms : int
        Times of the exchange; `working_ms` is -1 until the order works.
    order_list_id : int
        The list that the order belongs to, -1 for none.
    expiry_reason : str
        Why an order expired, in Binance's words.
    reduce_only : bool
        Whether the order may only make a position smaller; never on spot.
    good_till_ms : int
        When what is left of it expires, 0 for never; never on spot.
    """

    account: Account
    order_id: int
    client_id: str
    symbol: str
    side: Side
    type: OrderType
    time_in_force: TimeInForce
    price: Decimal
    stop_price: Decimal
    orig_qty: Decimal
    orig_quote_qty: Decimal
    created_ms: int
    updated_ms: int
    working_ms: int = -1
    working: bool = True
    status: Status = "NEW"
    executed: Decimal = Decimal(0)
    cum_quote: Decimal = Decimal(0)
    locked: Decimal = Decimal(0)
    fills: list[Fill] = field(default_factory=list)
    order_list_id: int = -1
    expiry_reason: str = ""
    reduce_only: bool = False
    good_till_ms: int = 0
    trailing_delta: int = 0
    best: Decimal = Decimal(0)

    @property
    def is_open(self) -> bool:
        """Whether the order can still be filled or cancelled."""
        return self.status in OPEN

    @property
    def trigger(self) -> Decimal:
        """The price that sets a stop to work; of one that trails it moves."""
        if not self.trailing_delta:
            return self.stop_price
        sign = 1 if self.side == "BUY" else -1
        return self.best * (1 + sign * Decimal(self.trailing_delta) / 10_000)

    @property
    def remaining(self) -> Decimal:
        """Quantity not yet executed."""
        return self.orig_qty - self.executed


@dataclass(slots=True, kw_only=True)
class ListRequest:
    """A new order list.

    Attributes
    ----------
    working : OrderRequest or None
        The order for whose execution the others wait; None where they work at once.
    others : tuple of OrderRequest
        One, or two that expire each other: first the one above, then the one below.
    """

    symbol: str
    working: OrderRequest | None
    others: tuple[OrderRequest, ...]
    client_id: str | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class OrderList:
    """An order list of an account and its state; see `ListRequest`."""

    account: Account
    list_id: int
    client_id: str
    symbol: str
    working: Order | None
    others: tuple[Order, ...]
    created_ms: int
    updated_ms: int
    is_announced_done: bool = False

    @property
    def contingency(self) -> str:
        """Binance's word for the kind of list."""
        return "OCO" if self.working is None else "OTO"

    @property
    def orders(self) -> tuple[Order, ...]:
        """All orders of the list, the working one first."""
        return self.others if self.working is None else (self.working, *self.others)

    @property
    def is_done(self) -> bool:
        """Whether none of the orders is open."""
        return not any(order.is_open for order in self.orders)
