"""BracketOrderManager: brackets for code that holds a broker and no strategy's `buy_bracket`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import backtrader as bt

from ccxtbt.errors import ConfigError


class BracketState(StrEnum):
    """Where a bracket stands."""

    PENDING = "pending"
    ACTIVE = "active"
    STOPPED = "stopped"
    TARGETED = "targeted"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class BracketOrder:
    """An entry and its two exits.

    Attributes
    ----------
    entry, stop, limit : backtrader.Order
        The three orders; `notify_order` hears of each.
    """

    entry: Any
    stop: Any
    limit: Any

    @property
    def state(self) -> BracketState:
        """Where it stands: entered or not, and through which exit it was left, if it was."""
        if self.stop.status == bt.Order.Completed:
            return BracketState.STOPPED
        if self.limit.status == bt.Order.Completed:
            return BracketState.TARGETED
        if any(order.alive() for order in (self.entry, self.stop, self.limit)):
            return BracketState.ACTIVE if self.entry.executed.size else BracketState.PENDING
        return BracketState.ENDED


class BracketOrderManager:
    """Makes brackets on a broker, in a live run and in a backtest alike.

    Parameters
    ----------
    broker : backtrader broker
        Of a cerebro that runs: the orders belong to its strategy that has the data.

    Attributes
    ----------
    brackets : dict of int to BracketOrder
        By the entry's `ref`.
    """

    def __init__(self, broker: Any) -> None:
        self.broker = broker
        self.brackets: dict[int, BracketOrder] = {}

    def create_bracket(
        self,
        data: Any,
        size: float,
        entry_price: float | None,
        stop_price: float,
        limit_price: float,
        side: str = "buy",
        entry_type: int | None = None,
    ) -> Any:
        """Order an entry with a stop and a target, which follow what it fills and exclude each other.

        Parameters
        ----------
        data : backtrader feed
            Of its market.
        size : float
            Of the entry, above 0.
        entry_price : float or None
            Limit of the entry; None: at market.
        stop_price, limit_price : float
            Of the exits.
        side : str
            ``'buy'`` or ``'sell'``: of the entry.
        entry_type : int or None
            Execution type of the entry; None: a limit order where there is a price, else a market order.

        Returns
        -------
        backtrader.Order
            The entry; its bracket is ``brackets[entry.ref]``.

        Raises
        ------
        ConfigError
            `side` is none, prices are not on their sides of each other, or no strategy runs on the data.
        """
        if side not in {"buy", "sell"}:
            raise ConfigError(f"side={side!r} is not known: say 'buy' or 'sell'.")
        low, high = (stop_price, limit_price) if side == "buy" else (limit_price, stop_price)
        if not low < high or (entry_price is not None and not low < entry_price < high):
            raise ConfigError(
                f"A bracket to {side} needs its entry between its exits, the stop on the losing side: not entry "
                f"{entry_price}, stop {stop_price}, target {limit_price}."
            )
        if entry_type is None:
            entry_type = bt.Order.Market if entry_price is None else bt.Order.Limit
        owner = self._owner_of(data)
        enter, leave = (self.broker.buy, self.broker.sell) if side == "buy" else (self.broker.sell, self.broker.buy)
        entry = enter(owner, data, size, entry_price, exectype=entry_type, transmit=False)
        stop = leave(owner, data, size, stop_price, exectype=bt.Order.Stop, parent=entry, transmit=False)
        limit = leave(owner, data, size, limit_price, exectype=bt.Order.Limit, parent=entry, transmit=True)
        self.brackets[entry.ref] = BracketOrder(entry, stop, limit)
        return entry

    def cancel_bracket(self, entry: Any) -> None:
        """Cancel what is open of a bracket: the entry, and the exits of what it has filled.

        Raises
        ------
        ConfigError
            It is no bracket of this manager.
        """
        bracket = self.brackets.get(getattr(entry, "ref", entry))
        if bracket is None:
            raise ConfigError(f"{entry!r} is the entry of no bracket of this manager: give what create_bracket gave.")
        for order in (bracket.entry, bracket.stop):
            if order.alive():
                self.broker.cancel(order)

    def on_order_fill(self, order: Any) -> None:
        """Accept a call that old strategies make from `notify_order`: the broker itself keeps the exits in step."""

    def _owner_of(self, data: Any) -> Any:
        running = getattr(self.broker.cerebro, "runningstrats", None) or ()
        owner = next((strategy for strategy in running if any(each is data for each in strategy.datas)), None)
        if owner is None:
            raise ConfigError(
                f"No strategy runs on {data._name!r}: create brackets from a strategy's next or notify methods."
            )
        return owner
