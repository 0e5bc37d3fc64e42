"""Trades that a stream and REST name differently: through ccxt's real class, each counts once, over a break too."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import ccxt
import pytest
from aiohttp import WSMsgType, web
from ccxt.protobuf.mexc import PushDataV3ApiWrapper_pb2 as pb2

from ccxtbt.exchange.connection import Account, Connection
from ccxtbt.market.flow import State
from ccxtbt.market.frames import Trade
from ccxtbt.market.streams import Streams
from ccxtbt.market.ticks import TickFlow

COUNT = 18
PER_BAR = 3
# What REST tells, and what the stream shows, while the first socket lives and while the second does. Between the two,
# some trades are told by REST alone; of pairs that are alike, one source may tell one and another both.
REST = (slice(0, 9), slice(0, 15))
SHOWN = (slice(6, 12), slice(9, 18))


def trades(start_ms: int) -> list[Trade]:
    """Two and two are alike, but for their numbers."""
    return [
        Trade(str(1_000 + i), start_ms + i // 2 * 500, 100.0 + i // 2, 0.25, "sell" if i % 4 < 2 else "buy")
        for i in range(COUNT)
    ]


def kucoin_row(trade: Trade) -> dict[str, Any]:
    told = {"price": str(trade.price), "size": str(trade.amount), "side": trade.side}
    return {"sequence": trade.id, "time": trade.ts_ms * 1_000_000, **told}


def kucoin_frame(trade: Trade) -> str:
    row = {"symbol": "BTC-USDT", "type": "match", "tradeId": trade.id, **kucoin_row(trade)}
    row["time"] = str(row["time"])
    told = {"topic": "/market/match:BTC-USDT", "type": "message", "subject": "trade.l3match", "data": row}
    return json.dumps(told, separators=(",", ":"))


def mexc_row(trade: Trade) -> dict[str, Any]:
    told = {"price": str(trade.price), "qty": str(trade.amount), "time": trade.ts_ms}
    return {"id": None, "isBuyerMaker": trade.side == "sell", "isBestMatch": True, **told}


def mexc_frame(trade: Trade) -> bytes:
    told = pb2.PushDataV3ApiWrapper(channel="spot@public.aggre.deals.v3.api.pb@100ms@BTCUSDT", symbol="BTCUSDT")
    told.publicAggreDeals.deals.add(
        price=str(trade.price),
        quantity=str(trade.amount),
        tradeType=1 if trade.side == "buy" else 2,
        time=trade.ts_ms,
    )
    return told.SerializeToString()


def deal(trade: Trade) -> dict[str, Any]:
    return {"p": trade.price, "v": trade.amount, "T": 1 if trade.side == "buy" else 2, "O": 3, "M": 2, "t": trade.ts_ms}


def deal_frame(trade: Trade) -> str:
    told = {"symbol": "BTC_USDT", "data": [deal(trade)], "channel": "push.deal", "ts": trade.ts_ms}
    return json.dumps(told, separators=(",", ":"))


@dataclass(frozen=True)
class Case:
    """An exchange: where it tells its trades, and how."""

    exchange: str
    market: dict[str, Any]
    path: str
    row: Callable[[Trade], dict[str, Any]]
    wrap: Callable[[list[Any]], Any]
    frame: Callable[[Trade], str | bytes]


SPOT = {"symbol": "BTC/USDT", "type": "spot", "spot": True, "contract": False}
SWAP = {
    "symbol": "BTC/USDT:USDT", "type": "swap", "spot": False, "swap": True, "contract": True, "linear": True,
    "settle": "USDT", "contractSize": 0.0001,
}  # fmt: skip
CASES = {
    "kucoin": Case(
        "kucoin",
        {"id": "BTC-USDT", **SPOT},
        "market/histories",
        kucoin_row,
        lambda rows: {"code": "200000", "data": rows},
        kucoin_frame,
    ),
    "mexc": Case("mexc", {"id": "BTCUSDT", **SPOT}, "api/v3/trades", mexc_row, lambda rows: rows, mexc_frame),
    "mexc contracts": Case(
        "mexc",
        {"id": "BTC_USDT", **SWAP},
        "contract/deals/BTC_USDT",
        deal,
        lambda rows: {"success": True, "code": 0, "data": rows},
        deal_frame,
    ),
}


@dataclass
class Server:
    """Tells the trades of one market; its first socket breaks once it has shown what it has."""

    case: Case
    trades: list[Trade]
    address: str = ""
    sockets: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    tails: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self.stream(request)
        if "bullet-public" in request.path:
            server = {"endpoint": f"ws{self.address.removeprefix('http')}/endpoint", "pingInterval": 18_000}
            return web.json_response({"code": "200000", "data": {"token": "t", "instanceServers": [server]}})
        self.tails.append(request.path_qs)
        assert request.path.endswith(self.case.path), request.path_qs
        self.asked.set()
        rows = [self.case.row(trade) for trade in self.trades[REST[self.sockets - 1]]]
        return web.json_response(self.case.wrap(rows))

    async def stream(self, request: web.Request) -> web.WebSocketResponse:
        number, self.sockets = self.sockets, self.sockets + 1
        asked = self.asked = asyncio.Event()
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            if message.type is not WSMsgType.TEXT or "sub" not in message.data.lower():
                continue
            # What REST told is known when the stream shows it again.
            await asked.wait()
            for trade in self.trades[SHOWN[number]]:
                frame = self.case.frame(trade)
                await (ws.send_bytes(frame) if isinstance(frame, bytes) else ws.send_str(frame))
            if not number:
                await ws.close()
        return ws


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield
    finally:
        await runner.cleanup()


class Loaded(Connection):
    """A connection that has its market already."""

    market: dict[str, Any]

    async def sync_clock(self) -> None:
        names = {"base": "BTC", "quote": "USDT", "baseId": "BTC", "quoteId": "USDT"}
        # As a first request would.
        self.rest.open()
        base = getattr(ccxt, self.account.exchange_id)()
        self.rest.set_markets([base.safe_market_structure({**names, "active": True, "info": {}, **self.market})])


class Sink:
    """Keeps the bars."""

    partial = priced = False

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...]] = []
        self.told: list[State] = []
        self.full = threading.Event()

    def history(self, ts_ms: Any, ohlcv: Any, origin: Any) -> None:
        self._take(zip(ts_ms.tolist(), *ohlcv.tolist(), strict=True))

    def bars(self, bars: list[Any]) -> None:
        self._take(bar[:6] for bar in bars)

    def _take(self, rows: Iterable[tuple[float, ...]]) -> None:
        self.rows += rows
        if len(self.rows) >= COUNT // PER_BAR:
            self.full.set()

    def state(self, state: State, reason: str) -> None:
        self.told.append(state)

    def failed(self, error: Exception) -> None:
        raise error


def expected(trades: list[Trade]) -> list[tuple[float, ...]]:
    rows = []
    for i in range(0, COUNT, PER_BAR):
        inside = trades[i : i + PER_BAR]
        prices = [trade.price for trade in inside]
        volume = sum(trade.amount for trade in inside)
        rows.append((inside[-1].ts_ms, prices[0], max(prices), min(prices), prices[-1], volume))
    return rows


async def live(case: Case) -> tuple[Server, Sink]:
    """Hear the market from before the break until nothing more comes."""
    start_ms = int(time.time()) * 1000 - 30_000
    server, sink = Server(case, trades(start_ms)), Sink()
    async with serving(server):
        connection = Loaded(Account(case.exchange, endpoint=server.address))
        connection.market = case.market
        await asyncio.to_thread(connection.start)
        try:
            flow = TickFlow(
                connection,
                Streams(connection),
                case.market["symbol"],
                PER_BAR,
                start_ms,
                None,
                sink,  # type: ignore[arg-type]
            )
            connection.post(flow.run, name="flow")
            assert await asyncio.to_thread(sink.full.wait, 10), (sink.rows, sink.told)
        finally:
            await asyncio.to_thread(connection.stop)
    return server, sink


@pytest.mark.parametrize("name", CASES)
def test_each_trade_counts_once_whatever_stream_and_rest_call_it(name):
    server, sink = asyncio.run(live(CASES[name]))
    assert server.sockets == 2
    assert sink.rows == expected(server.trades), (sink.told, server.tails)
