"""How Binance's USD-M futures write orders, fills, positions and events."""

from __future__ import annotations

from decimal import Decimal

from ccxtbt.sim.binance_json import STP_MODE, Json, text
from ccxtbt.sim.events import MarginEvent, OrderEvent
from ccxtbt.sim.orders import Fill, Order

_ZERO = Decimal(0)


def kind_of(order: Order) -> tuple[str, str]:
    """Return an order's type and time in force as the futures exchange names them."""
    if order.type == "LIMIT_MAKER":
        return "LIMIT", "GTX"
    return order.type, "GTD" if order.good_till_ms else order.time_in_force


def average(order: Order, executed: Decimal, cum_quote: Decimal) -> str:
    """Return the average price of what was executed."""
    return text(cum_quote / executed) if executed else text(_ZERO)


def order_state(order: Order) -> Json:
    """Describe an order as every answer does."""
    kind, time_in_force = kind_of(order)
    return {
        "orderId": order.order_id,
        "symbol": order.symbol,
        "status": order.status,
        "clientOrderId": order.client_id,
        "price": text(order.price),
        "avgPrice": average(order, order.executed, order.cum_quote),
        "origQty": text(order.orig_qty),
        "executedQty": text(order.executed),
        "cumQty": text(order.executed),
        "cumQuote": text(order.cum_quote),
        "timeInForce": time_in_force,
        "type": kind,
        "reduceOnly": order.reduce_only,
        "closePosition": False,
        "side": order.side,
        "positionSide": "BOTH",
        "stopPrice": text(_ZERO),
        "workingType": "CONTRACT_PRICE",
        "priceProtect": False,
        "origType": kind,
        "priceMatch": "NONE",
        "selfTradePreventionMode": STP_MODE,
        "goodTillDate": order.good_till_ms,
        "time": order.created_ms,
        "updateTime": order.updated_ms,
    }


def user_trade(fill: Fill) -> Json:
    """Describe a fill as ``userTrades`` does."""
    return {
        "symbol": fill.symbol,
        "id": fill.trade_id,
        "orderId": fill.order_id,
        "side": "BUY" if fill.is_buyer else "SELL",
        "price": text(fill.price),
        "qty": text(fill.qty),
        "realizedPnl": text(fill.realized),
        "quoteQty": text(fill.quote),
        "commission": text(fill.commission),
        "commissionAsset": fill.commission_asset,
        "time": fill.ts_ms,
        "positionSide": "BOTH",
        "buyer": fill.is_buyer,
        "maker": fill.is_maker,
    }


def order_update(event: OrderEvent, now_ms: int) -> Json:
    """Write an order's report on the user stream."""
    order, fill = event.order, event.fill
    kind, time_in_force = kind_of(order)
    report: Json = {
        "s": order.symbol,
        "c": order.client_id,
        "S": order.side,
        "o": kind,
        "f": time_in_force,
        "q": text(order.orig_qty),
        "p": text(order.price),
        "ap": average(order, event.executed, event.cum_quote),
        "sp": text(_ZERO),
        "x": "CALCULATED" if fill and order.client_id.startswith("autoclose-") else event.exec_type,
        "X": event.status,
        "i": order.order_id,
        "l": text(fill.qty if fill else _ZERO),
        "z": text(event.executed),
        "L": text(fill.price if fill else _ZERO),
        "T": event.ts_ms,
        "t": fill.trade_id if fill else 0,
        "b": text(_ZERO),
        "a": text(_ZERO),
        "m": fill.is_maker if fill else False,
        "R": order.reduce_only,
        "wt": "CONTRACT_PRICE",
        "ot": kind,
        "ps": "BOTH",
        "cp": False,
        "rp": text(fill.realized if fill else _ZERO),
        "pP": False,
        "si": 0,
        "ss": 0,
        "V": STP_MODE,
        "pm": "NONE",
        "gtd": order.good_till_ms,
    }
    if fill:
        report |= {"N": fill.commission_asset, "n": text(fill.commission)}
    return {"e": "ORDER_TRADE_UPDATE", "E": now_ms, "T": event.ts_ms, "o": report}


def account_update(event: MarginEvent, now_ms: int) -> Json:
    """Write a changed wallet and changed positions on the user stream."""
    wallet = {"a": event.asset, "wb": text(event.wallet), "cw": text(event.cross_wallet), "bc": text(_ZERO)}
    return {
        "e": "ACCOUNT_UPDATE",
        "E": now_ms,
        "T": event.ts_ms,
        "a": {
            "m": event.reason,
            "B": [wallet],
            "P": [
                {
                    "s": symbol,
                    "pa": text(amount),
                    "ep": text(entry),
                    "bep": text(entry),
                    "cr": text(_ZERO),
                    "up": text(profit),
                    "mt": "isolated" if isolated else "cross",
                    "iw": text(kept),
                    "ps": "BOTH",
                    "ma": event.asset,
                }
                for symbol, amount, entry, profit, isolated, kept in event.positions
            ],
        },
    }
