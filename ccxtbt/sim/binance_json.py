"""How Binance spot writes orders, fills, trades and events: from the exchange's objects to what orjson encodes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from ccxtbt.sim.events import BalanceEvent, BookTickerEvent, KlineEvent, OrderEvent, TradeEvent
from ccxtbt.sim.market import Market, Trade
from ccxtbt.sim.orders import STOPS, Fill, Order

Json = dict[str, Any]
STP_MODE = "EXPIRE_MAKER"


def text(amount: Decimal) -> str:
    """Write an amount with the eight decimals of every price, quantity and balance."""
    return f"{amount:.8f}"


def _order_core(order: Order) -> Json:
    core: Json = {
        "price": text(order.price),
        "origQty": text(order.orig_qty),
        "executedQty": text(order.executed),
        "origQuoteOrderQty": text(order.orig_quote_qty),
        "cummulativeQuoteQty": text(order.cum_quote),
        "status": order.status,
        "timeInForce": order.time_in_force,
        "type": order.type,
        "side": order.side,
    }
    if order.type in STOPS:
        core["stopPrice"] = text(order.stop_price)
    if order.trailing_delta:
        core["trailingDelta"], core["trailingTime"] = order.trailing_delta, order.created_ms
    if order.expiry_reason:
        core["expiryReason"] = order.expiry_reason
    return core


def new_order(order: Order, kind: str) -> Json:
    """Answer a new order with ACK, RESULT or FULL."""
    answer: Json = {
        "symbol": order.symbol,
        "orderId": order.order_id,
        "orderListId": order.order_list_id,
        "clientOrderId": order.client_id,
        "transactTime": order.updated_ms,
    }
    if kind == "ACK":
        return answer
    answer |= _order_core(order)
    if order.working_ms >= 0:
        answer["workingTime"] = order.working_ms
    answer["selfTradePreventionMode"] = STP_MODE
    if kind == "FULL":
        answer["fills"] = [
            {
                "price": text(fill.price),
                "qty": text(fill.qty),
                "commission": text(fill.commission),
                "commissionAsset": fill.commission_asset,
                "tradeId": fill.trade_id,
            }
            for fill in order.fills
        ]
    return answer


def cancelled_order(order: Order, cancel_id: str) -> Json:
    """Answer a cancellation."""
    return {
        "symbol": order.symbol,
        "origClientOrderId": order.client_id,
        "orderId": order.order_id,
        "orderListId": order.order_list_id,
        "clientOrderId": cancel_id,
        "transactTime": order.updated_ms,
        **_order_core(order),
        "selfTradePreventionMode": STP_MODE,
    }


def order_state(order: Order) -> Json:
    """Describe an order as queries and lists of orders do."""
    return {
        "symbol": order.symbol,
        "orderId": order.order_id,
        "orderListId": order.order_list_id,
        "clientOrderId": order.client_id,
        **_order_core(order),
        "stopPrice": text(order.stop_price),
        "icebergQty": text(Decimal(0)),
        "time": order.created_ms,
        "updateTime": order.updated_ms,
        "isWorking": order.working,
        "workingTime": order.working_ms,
        "selfTradePreventionMode": STP_MODE,
    }


def my_trade(fill: Fill) -> Json:
    """Describe a fill as ``myTrades`` does."""
    return {
        "symbol": fill.symbol,
        "id": fill.trade_id,
        "orderId": fill.order_id,
        "orderListId": fill.order_list_id,
        "price": text(fill.price),
        "qty": text(fill.qty),
        "quoteQty": text(fill.quote),
        "commission": text(fill.commission),
        "commissionAsset": fill.commission_asset,
        "time": fill.ts_ms,
        "isBuyer": fill.is_buyer,
        "isMaker": fill.is_maker,
        "isBestMatch": True,
    }


def public_trade(market: Market, trade: Trade) -> Json:
    """Describe a public trade as ``trades`` does."""
    return {
        "id": trade.id,
        "price": market.price_text(trade.price_ticks),
        "qty": market.qty_text(trade.qty_steps),
        "quoteQty": market.quote_text(trade.price_ticks * trade.qty_steps),
        "time": trade.ts_ms,
        "isBuyerMaker": trade.buyer_is_maker,
        "isBestMatch": True,
    }


def agg_trade(market: Market, trade: Trade) -> Json:
    """Describe a public trade as ``aggTrades`` does."""
    return {
        "a": trade.id,
        "p": market.price_text(trade.price_ticks),
        "q": market.qty_text(trade.qty_steps),
        "f": trade.id,
        "l": trade.id,
        "T": trade.ts_ms,
        "m": trade.buyer_is_maker,
        "M": True,
    }


def trade_event(market: Market, event: TradeEvent, now_ms: int) -> Json:
    """Write the event of ``<symbol>@trade``."""
    trade = event.trade
    return {
        "e": "trade",
        "E": now_ms,
        "s": event.symbol,
        "t": trade.id,
        "p": market.price_text(trade.price_ticks),
        "q": market.qty_text(trade.qty_steps),
        "T": trade.ts_ms,
        "m": trade.buyer_is_maker,
        "M": True,
    }


def agg_trade_event(market: Market, event: TradeEvent, now_ms: int) -> Json:
    """Write the event of ``<symbol>@aggTrade``."""
    return {"e": "aggTrade", "E": now_ms, "s": event.symbol, **agg_trade(market, event.trade)}


def kline_event(event: KlineEvent, now_ms: int) -> Json:
    """Write the event of ``<symbol>@kline_<interval>``."""
    open_ms, o, h, low, c, v, close_ms, quote, n_trades, taker_base, taker_quote, ignored = event.row
    return {
        "e": "kline",
        "E": now_ms,
        "s": event.symbol,
        "k": {
            "t": open_ms,
            "T": close_ms,
            "s": event.symbol,
            "i": event.interval,
            "f": event.first_id,
            "L": event.last_id,
            "o": o,
            "c": c,
            "h": h,
            "l": low,
            "v": v,
            "n": n_trades,
            "x": event.closed,
            "q": quote,
            "V": taker_base,
            "Q": taker_quote,
            "B": ignored,
        },
    }


def book_ticker_event(event: BookTickerEvent) -> Json:
    """Write the event of ``<symbol>@bookTicker``, which has neither type nor time."""
    return {
        "u": event.update_id,
        "s": event.symbol,
        "b": event.bid,
        "B": event.bid_qty,
        "a": event.ask,
        "A": event.ask_qty,
    }


def mini_ticker_event(ticker: Json, now_ms: int) -> Json:
    """Write the event of ``<symbol>@miniTicker`` from a 24-hour ticker."""
    return {
        "e": "24hrMiniTicker",
        "E": now_ms,
        "s": ticker["symbol"],
        "c": ticker["lastPrice"],
        "o": ticker["openPrice"],
        "h": ticker["highPrice"],
        "l": ticker["lowPrice"],
        "v": ticker["volume"],
        "q": ticker["quoteVolume"],
    }


def ticker_event(ticker: Json, now_ms: int) -> Json:
    """Write the event of ``<symbol>@ticker`` from a 24-hour ticker with the book's best prices."""
    return {
        "e": "24hrTicker",
        "E": now_ms,
        "s": ticker["symbol"],
        "p": ticker["priceChange"],
        "P": ticker["priceChangePercent"],
        "w": ticker["weightedAvgPrice"],
        "x": ticker["prevClosePrice"],
        "c": ticker["lastPrice"],
        "Q": ticker["lastQty"],
        "b": ticker["bidPrice"],
        "B": ticker["bidQty"],
        "a": ticker["askPrice"],
        "A": ticker["askQty"],
        "o": ticker["openPrice"],
        "h": ticker["highPrice"],
        "l": ticker["lowPrice"],
        "v": ticker["volume"],
        "q": ticker["quoteVolume"],
        "O": ticker["openTime"],
        "C": ticker["closeTime"],
        "F": ticker["firstId"],
        "L": ticker["lastId"],
        "n": ticker["count"],
    }


def execution_report(event: OrderEvent, now_ms: int) -> Json:
    """Write an order's report on the user stream."""
    order, fill = event.order, event.fill
    report: Json = {
        "e": "executionReport",
        "E": now_ms,
        "s": order.symbol,
        "c": event.client_id,
        "S": order.side,
        "o": order.type,
        "f": order.time_in_force,
        "q": text(order.orig_qty),
        "p": text(order.price),
        "P": text(order.stop_price),
        "F": text(Decimal(0)),
        "g": order.order_list_id,
        "C": event.orig_client_id,
        "x": event.exec_type,
        "X": event.status,
        "r": "NONE",
        "i": order.order_id,
        "l": text(fill.qty if fill else Decimal(0)),
        "z": text(event.executed),
        "L": text(fill.price if fill else Decimal(0)),
        "n": text(fill.commission) if fill else "0",
        "N": fill.commission_asset if fill else None,
        "T": event.ts_ms,
        "t": fill.trade_id if fill else -1,
        "I": event.execution_id,
        "w": event.working,
        "m": fill.is_maker if fill else False,
        "M": False,
        "O": order.created_ms,
        "Z": text(event.cum_quote),
        "Y": text(fill.quote if fill else Decimal(0)),
        "Q": text(order.orig_quote_qty),
        "V": STP_MODE,
    }
    if event.working and order.working_ms >= 0:
        report["W"] = order.working_ms
    if order.trailing_delta:
        report["d"], report["D"] = order.trailing_delta, order.created_ms
    if event.exec_type == "EXPIRED" and order.expiry_reason:
        report["eR"] = order.expiry_reason
    return report


def account_position(event: BalanceEvent, now_ms: int) -> Json:
    """Write changed balances on the user stream."""
    return {
        "e": "outboundAccountPosition",
        "E": now_ms,
        "u": event.ts_ms,
        "B": [{"a": asset, "f": text(free), "l": text(locked)} for asset, free, locked in event.changes],
    }


def balance_update(asset: str, change: Decimal, now_ms: int) -> Json:
    """Write a deposit (or, negative, a withdrawal) on the user stream."""
    return {"e": "balanceUpdate", "E": now_ms, "a": asset, "d": text(change), "T": now_ms}
