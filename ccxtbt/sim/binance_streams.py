"""Binance spot's market streams: who subscribes to what, and each event encoded once for all who do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import orjson

from ccxtbt.sim.binance_json import (
    Json,
    agg_trade_event,
    book_ticker_event,
    kline_event,
    mini_ticker_event,
    ticker_event,
    trade_event,
)
from ccxtbt.sim.connection import Connection, framed
from ccxtbt.sim.events import BookTickerEvent, KlineEvent, TradeEvent
from ccxtbt.sim.kline import INTERVALS

if TYPE_CHECKING:
    from ccxtbt.sim.binance_market import MarketData
    from ccxtbt.sim.matching import Exchange

_Levels = list[tuple[str, str]]
# Quantity by price as all who follow have it; None where they may have different ones.
_Side = dict[str, str | None]
Deliver = Callable[[Connection, bytes, str, str, Any], None]
# A stream that is asked for -> code and message of a fault, if it is refused.
Denial = Callable[[str], tuple[int, str] | None]
MarketEvent = TradeEvent | KlineEvent | BookTickerEvent
_DEPTH = re.compile(r"^depth(5|10|20)?(?:@(100|1000)ms)?$")
# Best levels of each side that a diff stream keeps up to date.
_DEPTH_LEVELS = 1000


class MarketStreams:
    """Subscriptions of all connections to market streams.

    Parameters
    ----------
    exchange
        Told which events are wanted, by ``watch`` and ``unwatch``.
    market_data
        Gives tickers.
    max_streams
        How many streams a connection may have.
    deliver
        Sends a frame to a connection: called with the connection, the whole frame, and for the rules of faults the
        stream, the event's type and the event.
    """

    def __init__(self, exchange: Exchange, market_data: MarketData, max_streams: int, deliver: Deliver) -> None:
        self._exchange = exchange
        self._market_data = market_data
        self._max_streams = max_streams
        self._deliver = deliver
        self._subscribers: dict[str, dict[Connection, None]] = {}
        self._timed: dict[str, Timed] = {}
        self._prefix = {symbol: symbol.lower() + "@" for symbol in exchange.markets}
        self._symbol = {prefix: symbol for symbol, prefix in self._prefix.items()}
        market_data.on_depth = self._show_depth

    def subscribe(self, connection: Connection, streams: Iterable[str]) -> None:
        """Add streams to a connection; a name that no market has is accepted and stays silent, as on Binance."""
        for stream in streams:
            if stream in connection.streams:
                continue
            connection.streams[stream] = None
            subscribers = self._subscribers.setdefault(stream, {})
            if not subscribers:
                self._begin(stream)
            subscribers[connection] = None

    def unsubscribe(self, connection: Connection, streams: Iterable[str]) -> None:
        """Take streams from a connection."""
        for stream in streams:
            if stream not in connection.streams:
                continue
            del connection.streams[stream]
            subscribers = self._subscribers[stream]
            del subscribers[connection]
            if not subscribers:
                del self._subscribers[stream]
                self._end(stream)

    def drop(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self.unsubscribe(connection, list(connection.streams))

    def _begin(self, stream: str) -> None:
        watched = self._watched(stream)
        if watched is not None:
            self._exchange.watch(*watched)
            return
        timed = self._make_timed(stream)
        if timed is not None:
            self._timed[stream] = timed

    def _end(self, stream: str) -> None:
        watched = self._watched(stream)
        if watched is not None:
            self._exchange.unwatch(*watched)
        self._timed.pop(stream, None)

    def _watched(self, stream: str) -> tuple[str, str] | None:
        """Return what the exchange has to announce for a stream, if it is one that trades drive."""
        at = stream.find("@") + 1
        symbol, kind = self._symbol.get(stream[:at]), stream[at:]
        if symbol is None:
            return None
        if kind in {"trade", "aggTrade"}:
            return symbol, "trade"
        if kind == "bookTicker":
            return symbol, kind
        interval = kind.removeprefix("kline_")
        return (symbol, interval) if kind != interval and interval in INTERVALS else None

    def _make_timed(self, stream: str) -> Timed | None:
        if stream in {"!miniTicker@arr", "!ticker@arr"}:
            return _AllTickers(self._market_data, list(self._exchange.markets), stream)
        at = stream.find("@") + 1
        symbol, kind = self._symbol.get(stream[:at]), stream[at:]
        if symbol is None:
            return None
        if kind in {"ticker", "miniTicker"}:
            return _Ticker(self._market_data, symbol, kind)
        depth = _DEPTH.match(kind)
        if depth is None:
            return None
        period_ms = int(depth[2] or 1000)
        if depth[1]:
            return _PartialDepth(self._exchange, symbol, int(depth[1]), period_ms)
        return self._make_diff(symbol, period_ms)

    def _make_diff(self, symbol: str, period_ms: int) -> DepthDiff:
        return DepthDiff(self._exchange, symbol, period_ms)

    def _book_ticker(self, event: BookTickerEvent, now_ms: int) -> Json:
        return book_ticker_event(event)

    def publish(self, event: MarketEvent, now_ms: int) -> None:
        """Send a market's event to all who subscribe to it."""
        prefix = self._prefix[event.symbol]
        if isinstance(event, KlineEvent):
            stream = f"{prefix}kline_{event.interval}"
            if stream in self._subscribers:
                self._send(stream, "kline", kline_event(event, now_ms))
        elif isinstance(event, TradeEvent):
            market = self._exchange.markets[event.symbol]
            if (stream := prefix + "trade") in self._subscribers:
                self._send(stream, "trade", trade_event(market, event, now_ms))
            if (stream := prefix + "aggTrade") in self._subscribers:
                self._send(stream, "aggTrade", agg_trade_event(market, event, now_ms))
        elif (stream := prefix + "bookTicker") in self._subscribers:
            self._send(stream, "bookTicker", self._book_ticker(event, now_ms))

    def _show_depth(self, symbol: str, bids: _Levels, asks: _Levels) -> None:
        for stream, timed in self._timed.items():
            if isinstance(timed, DepthDiff) and stream.startswith(self._prefix[symbol]):
                timed.show(bids, asks)

    def tick(self, now_ms: int) -> None:
        """Send what is due on the streams that time drives: tickers and depth."""
        for stream, timed in list(self._timed.items()):
            if now_ms >= timed.due_ms:
                timed.due_ms = now_ms - now_ms % timed.period_ms + timed.period_ms
                content = timed.content(now_ms)
                if content is not None:
                    self._send(stream, timed.event, content)

    def _send(self, stream: str, event: str, content: Any) -> None:
        payload = orjson.dumps(content)
        raw = combined = b""
        for connection in list(self._subscribers[stream]):
            if connection.combined:
                combined = combined or framed(payload, stream)
                self._deliver(connection, combined, stream, event, content)
            else:
                raw = raw or framed(payload, None)
                self._deliver(connection, raw, stream, event, content)

    def answer(self, connection: Connection, request: str, denial: Denial) -> bytes:
        """Carry out a client's message on a market connection and return the answer's text."""
        try:
            message = orjson.loads(request)
        except orjson.JSONDecodeError as error:
            return _refuse(3, f"Invalid JSON: {error}", None)
        if not isinstance(message, dict):
            return _refuse(2, "Invalid request: request must be an object", None)
        number, method, params = message.get("id"), message.get("method"), message.get("params")
        if number is not None and not isinstance(number, (int, str)):
            return _refuse(2, "Invalid request: id must be an integer, a string or null", None)
        if method == "LIST_SUBSCRIPTIONS":
            return orjson.dumps({"result": list(connection.streams), "id": number})
        if method in {"SUBSCRIBE", "UNSUBSCRIBE"}:
            return self._change(connection, method, params, number, denial)
        if method in {"SET_PROPERTY", "GET_PROPERTY"}:
            return _property(connection, method, params, number)
        return _refuse(2, f"Invalid request: unknown variant {method}", number)

    def _change(
        self, connection: Connection, method: str, params: object, number: int | str | None, denial: Denial
    ) -> bytes:
        if not isinstance(params, list) or not all(isinstance(name, str) and name for name in params):
            return _refuse(2, "Invalid request: params must be a list of stream names", number)
        if method == "UNSUBSCRIBE":
            self.unsubscribe(connection, params)
        else:
            if len(connection.streams.keys() | set(params)) > self._max_streams:
                return _refuse(2, f"Invalid request: more than {self._max_streams} streams on a connection", number)
            refused = next(filter(None, map(denial, params)), None)
            if refused is not None:
                return _refuse(*refused, number)
            self.subscribe(connection, params)
        return orjson.dumps({"result": None, "id": number})


def _refuse(code: int, msg: str, number: int | str | None) -> bytes:
    return orjson.dumps({"error": {"code": code, "msg": msg}, "id": number})


def _property(connection: Connection, method: str, params: object, number: int | str | None) -> bytes:
    if not isinstance(params, list) or not params or params[0] != "combined":
        return _refuse(0, "Unknown property", number)
    if method == "GET_PROPERTY":
        return orjson.dumps({"result": connection.combined, "id": number})
    if len(params) != 2 or not isinstance(params[1], bool):
        return _refuse(1, "Invalid value type: expected Boolean", number)
    connection.combined = params[1]
    return orjson.dumps({"result": None, "id": number})


class Timed:
    """A stream that the clock drives: what it sends every `period_ms`."""

    event = ""

    def __init__(self, period_ms: int) -> None:
        self.period_ms = period_ms
        self.due_ms = 0

    def content(self, now_ms: int) -> Any:
        """Return what to send, None for nothing this time."""
        raise NotImplementedError


class _Ticker(Timed):
    def __init__(self, market_data: MarketData, symbol: str, kind: str) -> None:
        super().__init__(1000)
        self._market_data = market_data
        self._symbol = symbol
        self._write = ticker_event if kind == "ticker" else mini_ticker_event
        self.event = "24hrTicker" if kind == "ticker" else "24hrMiniTicker"

    def content(self, now_ms: int) -> Json:
        return self._write(self._market_data.ticker_of(self._symbol), now_ms)


class _AllTickers(Timed):
    def __init__(self, market_data: MarketData, symbols: list[str], stream: str) -> None:
        super().__init__(1000)
        self._tickers = [_Ticker(market_data, symbol, stream[1 : stream.index("@")]) for symbol in symbols]
        self.event = self._tickers[0].event

    def content(self, now_ms: int) -> list[Json]:
        return [ticker.content(now_ms) for ticker in self._tickers]


class _PartialDepth(Timed):
    event = "depth"

    def __init__(self, exchange: Exchange, symbol: str, levels: int, period_ms: int) -> None:
        super().__init__(period_ms)
        self._exchange = exchange
        self._symbol = symbol
        self._levels = levels

    def content(self, now_ms: int) -> Json:
        update_id, bids, asks = self._exchange.book(self._symbol, self._levels)
        return {"lastUpdateId": update_id, "bids": bids, "asks": asks}


class DepthDiff(Timed):
    """Changes of a book, each event beginning where the last one ended."""

    event = "depthUpdate"

    def __init__(self, exchange: Exchange, symbol: str, period_ms: int) -> None:
        super().__init__(period_ms)
        self._exchange = exchange
        self._symbol = symbol
        self._last_id, bids, asks = exchange.book(symbol, _DEPTH_LEVELS)
        self._sides: tuple[_Side, _Side] = dict(bids), dict(asks)

    def show(self, bids: _Levels, asks: _Levels) -> None:
        """Know that a client has seen a book from between two events: the next event makes up for what it held."""
        for side, levels in zip(self._sides, (bids, asks), strict=True):
            for price, qty in levels:
                if side.get(price) != qty:
                    side[price] = None

    def content(self, now_ms: int) -> Json | None:
        """Return what has changed since the last event, None for nothing."""
        update_id, bids, asks = self._exchange.book(self._symbol, _DEPTH_LEVELS)
        if update_id <= self._last_id:
            return None
        bids_now, asks_now = dict(bids), dict(asks)
        event = {
            "e": "depthUpdate",
            "E": now_ms,
            "s": self._symbol,
            "U": self._last_id + 1,
            "u": update_id,
            "b": _changes(self._sides[0], bids_now),
            "a": _changes(self._sides[1], asks_now),
        }
        self._last_id, self._sides = update_id, ({**bids_now}, {**asks_now})
        return event


def _changes(before: _Side, now: dict[str, str]) -> _Levels:
    changed = [(price, qty) for price, qty in now.items() if before.get(price) != qty]
    return changed + [(price, "0.00000000") for price in before if price not in now]
