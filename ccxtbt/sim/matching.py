"""The matching engine: accounts, orders, fees and fills over the symbols' markets."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from ccxtbt.sim.account import Account, Balance
from ccxtbt.sim.clock import Clock
from ccxtbt.sim.events import BalanceEvent, BookTickerEvent, Event, KlineEvent, OrderEvent, TradeEvent
from ccxtbt.sim.market import Market
from ccxtbt.sim.orders import Fill, Order, OrderRequest, Reject

__all__ = [
    "Account",
    "Balance",
    "BalanceEvent",
    "BookTickerEvent",
    "Event",
    "Exchange",
    "Fill",
    "KlineEvent",
    "Order",
    "OrderEvent",
    "OrderRequest",
    "Reject",
    "TradeEvent",
]


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
        self.maker_fee = maker_fee
        self.taker_fee = taker_fee
        self.fee_coin = fee_coin
        self.fee_coin_discount = fee_coin_discount
        self.orders: list[Order] = []
        self.accounts: dict[str, Account] = {}
        raise NotImplementedError

    def add_account(self, account: Account) -> Account:
        """Open an account and return it."""
        raise NotImplementedError

    def account(self, api_key: str) -> Account:
        """Return the account of a key.

        Raises
        ------
        Reject
            -2015 if there is none.
        """
        raise NotImplementedError

    def market(self, symbol: str) -> Market:
        """Return a symbol's market.

        Raises
        ------
        Reject
            -1121 if there is none.
        """
        raise NotImplementedError

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
        raise NotImplementedError

    def unwatch(self, symbol: str, stream: str) -> None:
        """Take one `watch` back; events end with the last."""
        raise NotImplementedError

    def advance(self, to_ms: int) -> list[Event]:
        """Let everything up to and with `to_ms` happen and return all events since the last call, in time order."""
        raise NotImplementedError

    def drain(self) -> list[Event]:
        """Return the events since the last call without letting time pass: what a request has just caused."""
        raise NotImplementedError

    def check(self, account: Account, request: OrderRequest) -> None:
        """Do what `place` does up to the filters, and place nothing: ``/api/v3/order/test``.

        Raises
        ------
        Reject
            As `place`, but for balances and immediate triggers.
        """
        raise NotImplementedError

    def place(self, account: Account, request: OrderRequest) -> Order:
        """Accept an order at the clock's time, execute what can be executed at once, and return it.

        Everything due before that time happens first; all events wait for `drain` or `advance`.

        Raises
        ------
        Reject
            -1013 with the filter's name, -1100 to -1121 for parameters, -2010 for balance, duplicates, a maker order
            that would take and a stop that would trigger at once.
        """
        raise NotImplementedError

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
        raise NotImplementedError

    def cancel_all(self, account: Account, symbol: str) -> list[Order]:
        """Cancel every open order of a symbol.

        Raises
        ------
        Reject
            -2011 if there is none.
        """
        raise NotImplementedError

    def query(self, account: Account, symbol: str, order_id: int | None = None, client_id: str | None = None) -> Order:
        """Return an order, the latest of that client id.

        Raises
        ------
        Reject
            -2013 if there is none, -1102 if neither id is given.
        """
        raise NotImplementedError

    def open_orders(self, account: Account, symbol: str | None = None) -> list[Order]:
        """Return the open orders of a symbol, or of all."""
        raise NotImplementedError

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
        raise NotImplementedError

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
        raise NotImplementedError

    def book(self, symbol: str, limit: int = 100) -> tuple[int, list[tuple[str, str]], list[tuple[str, str]]]:
        """Return (update id, bids, asks), best first, each (price, quantity) as text."""
        raise NotImplementedError
