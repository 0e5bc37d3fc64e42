"""MEXC's spot streams, which are Protobuf: through ccxt's real class, from a server that speaks as much of them."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator

import ccxt.pro
import pytest
from aiohttp import WSMsgType, web
from ccxt.protobuf.mexc import PushDataV3ApiWrapper_pb2 as pb2

from ccxtbt.errors import NotOfferedError
from ccxtbt.exchange.connection import Account, Connection
from ccxtbt.market.frames import Trade
from ccxtbt.market.handover import Bar, Origin
from ccxtbt.market.streams import Streams
from waiting import wait_until

SYMBOL = "BTC/USDT"
START_S = 1_704_067_200
MARKETS = [
    ccxt.mexc().safe_market_structure(
        {
            "id": "BTCUSDT", "symbol": SYMBOL, "base": "BTC", "quote": "USDT", "baseId": "BTC", "quoteId": "USDT",
            "active": True, "type": "spot", "spot": True, "contract": False, "option": False, "info": {},
        }
    )
]  # fmt: skip
FRAMES = 60


def bar(number: int) -> Bar:
    """Three frames a bar."""
    opened, close = 100.0 + number // 3, 100.5 + number / 10
    return Bar((START_S + number // 3 * 60) * 1000, opened, close + 1, opened - 1, close, 0.5 + number, Origin.WS)


def trades(number: int) -> list[Trade]:
    return [
        Trade("", START_S * 1000 + number * 100 + i, 100.0 + i, 0.25 * (number + 1), "buy" if i % 2 else "sell")
        for i in range(3)
    ]


def kline_frame(number: int, channel: str) -> bytes:
    told, row = pb2.PushDataV3ApiWrapper(channel=channel, symbol="BTCUSDT"), bar(number)
    kline = told.publicSpotKline
    kline.interval, kline.windowStart, kline.windowEnd = "Min1", row.ts_ms // 1000, row.ts_ms // 1000 + 60
    kline.openingPrice, kline.highestPrice = str(row.open), str(row.high)
    kline.lowestPrice, kline.closingPrice, kline.volume = str(row.low), str(row.close), str(row.volume)
    return told.SerializeToString()


def deals_frame(number: int, channel: str) -> bytes:
    told = pb2.PushDataV3ApiWrapper(channel=channel, symbol="BTCUSDT")
    for trade in trades(number):
        told.publicAggreDeals.deals.add(
            price=str(trade.price),
            quantity=str(trade.amount),
            tradeType=1 if trade.side == "buy" else 2,
            time=trade.ts_ms,
        )
    return told.SerializeToString()


async def serve(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        if message.type is not WSMsgType.TEXT:
            continue
        asked = json.loads(message.data)
        if asked["method"] == "ping":
            await ws.send_json({"id": 0, "code": 0, "msg": "PONG"})
        elif asked["method"] == "SUBSCRIPTION":
            (channel,) = asked["params"]
            await ws.send_json({"id": 0, "code": 0, "msg": channel})
            for number in range(FRAMES):
                await ws.send_bytes((kline_frame if "kline" in channel else deals_frame)(number, channel))
    return ws


@pytest.fixture
def url() -> Iterator[str]:
    loop, ready = asyncio.new_event_loop(), threading.Event()
    address: list[str] = []

    async def begin() -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/{path:.*}", serve)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        ready.set()
        return runner

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(begin(), loop).result(10)
    yield address[0]
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


class Loaded(Connection):
    """A connection that has its markets already: the server here has no REST."""

    async def sync_clock(self) -> None:
        self.rest.set_markets(MARKETS)


class Ear:
    """Hears bars and trades."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.errors: list[Exception] = []
        self.bars: list[Bar] = []
        self.heard: list[Trade] = []

    def up(self) -> None:
        self.events.append("up")

    def down(self, reason: str) -> None:
        self.events.append("down")

    def frame(self, bar: Bar, closed: bool) -> None:
        assert not closed
        self.bars.append(bar)

    def trades(self, trades: list[Trade]) -> None:
        self.heard += trades

    def refused(self, error: Exception) -> None:
        self.errors.append(error)


@pytest.fixture
def ears(url: str) -> Iterator[Callable[[], tuple[Ear, Ear]]]:
    connection = Loaded(Account("mexc", endpoint=url))
    connection.start()
    streams, bars, trades = Streams(connection), Ear(), Ear()

    async def subscribe() -> None:
        streams.subscribe(SYMBOL, "1m", bars)
        streams.subscribe_trades(SYMBOL, trades)

    def listen() -> tuple[Ear, Ear]:
        connection.call(subscribe)
        return bars, trades

    yield listen
    connection.stop()


def test_binary_frames_become_bars_and_trades(ears):
    bars, trades_ear = ears()
    wait_until(lambda: bool(bars.bars) and bars.bars[-1] == bar(FRAMES - 1) and len(trades_ear.heard) >= 3 * FRAMES, 10)
    # Between two looks at it ccxt keeps the last state of a bar alone.
    sent = [bar(number) for number in range(FRAMES)]
    assert [sent.index(each) for each in bars.bars] == sorted({sent.index(each) for each in bars.bars})
    assert [each.ts_ms for each in sent[2::3]] == sorted({each.ts_ms for each in bars.bars})
    assert trades_ear.heard == [trade for number in range(FRAMES) for trade in trades(number)]
    assert bars.events == trades_ear.events == ["up"]


def test_without_the_package_one_sentence_names_the_extra(ears, monkeypatch):
    # As import sees it where it is not installed.
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    for ear in ears():
        (error,) = ear.errors
        assert isinstance(error, NotOfferedError)
        assert str(error) == (
            "The streams of BTC/USDT at mexc need google.protobuf: install it with pip install 'ccxtbt[mexc]'."
        )
        assert not ear.events
