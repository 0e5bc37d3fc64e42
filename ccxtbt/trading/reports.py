"""What an exchange says about orders and fills, as facts: read from ccxt's order and trade structures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from ccxtbt.errors import ConfigError, DataError
from ccxtbt.trading.rules import EXACT, exact

# Unified statuses; any other text says nothing but that the exchange knows the order.
OPEN, CLOSED, CANCELED, EXPIRED, REJECTED = "open", "closed", "canceled", "expired", "rejected"
ENDED = frozenset({CLOSED, CANCELED, EXPIRED, REJECTED})
_KNOWN = ENDED | {OPEN}
_STATUSES = {"canceling": OPEN, "cancelled": CANCELED, "new": OPEN, "filled": CLOSED}

# Where exchanges echo our id in a raw trade, which ccxt's trade structure has no field for; Binance's stream, c.
_CLIENT_ID_KEYS = ("clientOrderId", "clOrdId", "orderLinkId", "clientOid", "cl_ord_id", "newClientOrderId", "caid")

# Where a conditional order that lives apart from the others names the one that it has become: Binance's answers and
# stream. An order that has such a field is one.
_BECAME_KEYS = ("actualOrderId", "ai")

# What the part of a contract's fill that closes has gained, before fees, in the exchange's own rounding: Binance's
# answers and stream, bybit, okx.
_REALIZED_KEYS = ("realizedPnl", "rp", "execPnl", "fillPnl")


@dataclass(frozen=True, slots=True)
class OrderFact:
    """How an order stands, by one message.

    Attributes
    ----------
    client_id, order_id : str or None
        Our id and the exchange's.
    status : str or None
        'open', 'closed', 'canceled', 'expired', 'rejected'; None where the message does not say.
    filled, cost : Decimal or None
        Amount filled since the order's start, in base, and what it came to, in quote.
    average : Decimal or None
        Mean price of the fills.
    remaining : Decimal or None
        Amount not filled.
    ts_ms : int or None
        The exchange's time of the message.
    fees : tuple of (str, Decimal)
        Fees since the order's start, by currency.
    reason : str
        Why the exchange ended it, where it says so.
    symbol : str or None
        Market, in ccxt's name.
    became : str or None
        The exchange's id of the order that a conditional one has become.
    raw : mapping or None
        The message itself, in ccxt's structure.
    """

    client_id: str | None = None
    order_id: str | None = None
    status: str | None = None
    filled: Decimal | None = None
    average: Decimal | None = None
    cost: Decimal | None = None
    remaining: Decimal | None = None
    ts_ms: int | None = None
    fees: tuple[tuple[str, Decimal], ...] = ()
    reason: str = ""
    symbol: str | None = None
    became: str | None = None
    raw: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class FillFact:
    """One fill.

    Attributes
    ----------
    order_id, client_id : str or None
        The exchange's id of the order and ours.
    trade_id : str or None
        The exchange's id of the fill; None where it gives none.
    ts_ms : int or None
        Time of the fill.
    amount, price : Decimal
        In base and in quote, above 0.
    fee_cost : Decimal or None
        Fee, below 0 for a rebate; None where the message does not say.
    fee_currency : str or None
        What the fee was taken in.
    maker : bool or None
        Whether the order rested on the book.
    symbol : str or None
        Market, in ccxt's name.
    side : str or None
        'buy' or 'sell'.
    realized : Decimal or None
        What it has gained by closing a contract, before fees; None where the message does not say.
    """

    order_id: str | None
    client_id: str | None
    trade_id: str | None
    ts_ms: int | None
    amount: Decimal
    price: Decimal
    fee_cost: Decimal | None = None
    fee_currency: str | None = None
    maker: bool | None = None
    symbol: str | None = None
    side: str | None = None
    realized: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The exchange, or our own check, refused the order for good: it does not exist.

    Attributes
    ----------
    reason : str
        A sentence.
    margin : bool
        For lack of funds.
    immediate : bool
        A stop whose trigger the price has passed already.
    """

    reason: str
    client_id: str | None = None
    margin: bool = False
    immediate: bool = False


@dataclass(frozen=True, slots=True)
class Unknown:
    """The request was sent and its answer was lost: the order may exist."""

    reason: str
    client_id: str | None = None


@dataclass(frozen=True, slots=True)
class Absent:
    """The request's validity is over and the look-ups agree that the exchange has no such order."""

    reason: str
    client_id: str | None = None


Fact = OrderFact | FillFact | Refused | Unknown | Absent


def _number(row: Mapping[str, Any], key: str) -> Decimal | None:
    value = row.get(key)
    if value is None or value == "":
        return None
    try:
        return exact(value, key)
    except ConfigError as error:
        raise DataError(f"The exchange's {key} {value!r} is not a number: the message was not used.") from error


def _name(value: Any) -> str | None:
    """Return an id as text; exchanges write '', 0 or -1 for none."""
    written = "" if value is None else str(value)
    return None if written in {"", "0", "-1"} else written


def _client_id(row: Mapping[str, Any]) -> str | None:
    raw = row.get("info")
    info: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}
    # The answer to a cancel carries the cancel's own id in the place of the order's.
    found = _name(info.get("origClientOrderId")) or _name(row.get("clientOrderId"))
    if found is None and "x" in info and "X" in info:
        found = _name(info.get("c"))
    for key in _CLIENT_ID_KEYS:
        found = found or _name(info.get(key))
    return found


def _fees(row: Mapping[str, Any]) -> tuple[tuple[str, Decimal], ...]:
    """Return the fees of an order or trade by currency; ccxt fills `fees`, `fee` or both."""
    entries = [fee for fee in row.get("fees") or [row.get("fee")] if fee]
    sums: dict[str, Decimal] = {}
    for fee in entries:
        cost, currency = _number(fee, "cost"), fee.get("currency")
        if cost is not None and currency:
            sums[currency] = EXACT.add(sums.get(currency, Decimal(0)), cost)
    return tuple(sums.items())


def _time(row: Mapping[str, Any], *keys: str) -> int | None:
    return next((int(row[key]) for key in keys if row.get(key)), None)


def fill_fact(trade: Mapping[str, Any]) -> FillFact:
    """Read one of ccxt's own trades: from `watch_my_trades`, `fetch_my_trades` or an order's `trades`.

    Raises
    ------
    DataError
        It has no amount or no price, or is charged in two currencies.
    """
    amount, price = _number(trade, "amount"), _number(trade, "price")
    if not amount or not price:
        raise DataError(f"A fill without amount or price cannot be counted: {trade.get('info') or dict(trade)!r}.")
    fees = _fees(trade)
    if len(fees) > 1:
        raise DataError(f"A fill with fees in {len(fees)} currencies cannot be booked: {dict(fees)!r}.")
    free = (trade.get("fee") or {}).get("cost") is not None
    role = trade.get("takerOrMaker")
    raw = trade.get("info")
    info: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}
    realized = next((_number(info, key) for key in _REALIZED_KEYS if key in info), None)
    return FillFact(
        order_id=_name(trade.get("order")),
        client_id=_client_id(trade),
        trade_id=_name(trade.get("id")),
        ts_ms=_time(trade, "timestamp"),
        amount=abs(amount),
        price=price,
        fee_cost=fees[0][1] if fees else Decimal(0) if free else None,
        fee_currency=fees[0][0] if fees else None,
        maker=None if role is None else role == "maker",
        symbol=trade.get("symbol"),
        side=trade.get("side"),
        realized=realized,
    )


def order_fact(order: Mapping[str, Any], mappings: Mapping[str, Mapping[str, Any]] | None = None) -> OrderFact:
    """Read one of ccxt's orders: from `create_order`, `cancel_order`, `fetch_order` or `watch_orders`.

    Parameters
    ----------
    order : mapping
        ccxt's order; any field may be missing.
    mappings : mapping or None
        A user's own way to tell the end of an order: `{'closed_order': {'key': ..., 'value': ...},
        'canceled_order': ...}`. Where the order lacks the key, ccxt's status counts; `'order_statuses'` holds other
        texts for it, in small letters, by their unified status.

    Raises
    ------
    DataError
        A field that should be a number is none.
    """
    written = str(order.get("status") or "").lower()
    status = {**_STATUSES, **(mappings or {}).get("order_statuses", {})}.get(written, written)
    for name, ended in (("closed_order", CLOSED), ("canceled_order", CANCELED)):
        rule = (mappings or {}).get(name) or {}
        said = order.get(rule.get("key", ""))
        if said is not None:
            if said == rule.get("value"):
                status = ended
            elif status == ended:
                status = OPEN
    filled, remaining, amount = (_number(order, key) for key in ("filled", "remaining", "amount"))
    if filled is None and amount is not None and remaining is not None:
        filled = amount - remaining
    raw = order.get("info")
    info: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}
    reason = info.get("rejectReason") or info.get("r") or info.get("rm")
    became = next((_name(info[key]) for key in _BECAME_KEYS if key in info), None)
    if became is not None:
        # How it stands is told by the order that it is now.
        status, filled, remaining = "", None, None
    elif any(key in info for key in _BECAME_KEYS):
        status, filled, remaining = "" if status == CLOSED else status, Decimal(0), amount
    return OrderFact(
        client_id=_client_id(order),
        order_id=_name(order.get("id")),
        status=status if status in _KNOWN else None,
        filled=filled,
        average=_number(order, "average") or None,
        cost=_number(order, "cost"),
        remaining=remaining,
        ts_ms=_time(order, "lastUpdateTimestamp", "lastTradeTimestamp", "timestamp"),
        fees=_fees(order),
        reason=reason if isinstance(reason, str) and reason != "NONE" else "",
        symbol=order.get("symbol"),
        became=became,
        raw=order,
    )


def facts_of(
    order: Mapping[str, Any],
    client_id: str | None = None,
    mappings: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Fact]:
    """Read all that an order structure tells: its fills first, then how it stands.

    Parameters
    ----------
    order : mapping
        ccxt's order. Its `trades` are a create's own fills, or those that ccxt's stream has gathered.
    client_id : str or None
        Our id, where the caller knows whose answer this is: many exchanges do not repeat it.
    mappings : mapping or None
        As for `order_fact`.
    """
    fact = order_fact(order, mappings)
    if client_id is not None:
        fact = replace(fact, client_id=client_id)
    fills = []
    for trade in order.get("trades") or ():
        fill = fill_fact(trade)
        fills.append(
            replace(
                fill,
                order_id=fill.order_id or fact.order_id,
                client_id=fact.client_id or fill.client_id,
                symbol=fill.symbol or fact.symbol,
                # The fills within an answer to a create carry no time of their own.
                ts_ms=fill.ts_ms or fact.ts_ms,
            )
        )
    return [*fills, fact]
