"""What does a live bar or trade cost, from the socket to who listens?

    taskset -c 0 python -m pytest --benchmark benchmarks/bench_streams.py

CPU time of the client's process per kline or trade of Binance, 50 symbols on loopback, the server in another process:
through `Streams` (our reader below ccxt's client); through ccxt's `watch_ohlcv` or `watch_trades` (a loop a symbol) and
`watch_ohlcv_for_symbols` or `watch_trades_for_symbols` (one loop); and through cryptofeed's Binance feed with its own
callbacks, on uvloop as its `FeedHandler` runs it (its trades are aggregate trades). What asyncio takes to read the same
bytes and drop them is the floor. Three loads: paced at 1,000 a second; streamed, one frame a write as fast as the
server can, so that who is slow finds many at each read and who is fast a few; flooded, all frames wait in the socket.
Connecting is not in the figures.

Caveats: cryptofeed makes Decimals and keeps the raw dict, which the others do not; without TLS and compression;
streamed and flooded, ccxt's watchers wake once for many messages, which spares them work that a strategy that wants
each update would have to do; streamed, a fast client pays the event loop for a read of a few frames, which a slow one
does not.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ccxt
import ccxt.pro
import pytest
import uvloop
from cryptofeed.connection_handler import ConnectionHandler
from cryptofeed.defines import CANDLES, TRADES
from cryptofeed.exchanges import Binance
from cryptofeed.symbols import Symbols

from ccxtbt.exchange.adapter import redirect
from ccxtbt.exchange.connection import Account, Connection
from ccxtbt.market.streams import Streams

SYMBOLS = 50
# The server waits 1.5 s before it sends the first bar.
CONNECT_S = 1.0
NAMES = [f"C{number}/USDT" for number in range(SYMBOLS)]
# Pace, as the server takes it, and frames.
LOADS = {"paced": ("1000", 3_000), "streamed": ("each", 40_000), "flooded": ("all", 40_000)}
MARKETS = [
    ccxt.binance().safe_market_structure(
        {
            "id": f"C{number}USDT", "lowercaseId": f"c{number}usdt", "symbol": name, "base": f"C{number}",
            "quote": "USDT", "baseId": f"C{number}", "quoteId": "USDT", "active": True, "type": "spot", "spot": True,
            "contract": False, "option": False, "info": {},
        }
    )
    for number, name in enumerate(NAMES)
]  # fmt: skip


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    command = [sys.executable, str(Path(__file__).with_name("serve_frames.py")), str(SYMBOLS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.stdin.close()
        server.wait(10)


def endpoint(port: int, kind: str, load: str) -> str:
    pace, count = LOADS[load]
    return f"http://127.0.0.1:{port}/{kind}/{pace}/{count}"


class Counter:
    """Counts frames; `over` is set when the connection ends."""

    def __init__(self, over: threading.Event) -> None:
        self.frames = 0
        self.over = over

    def up(self) -> None:
        pass

    def down(self, reason: str) -> None:
        self.over.set()

    def frame(self, bar: Any, closed: bool) -> None:
        self.frames += 1

    def trades(self, trades: list[Any]) -> None:
        self.frames += len(trades)

    def refused(self, error: Exception) -> None:
        raise error


class Loaded(Connection):
    """A connection that has its markets already: the server here has no REST."""

    async def sync_clock(self) -> None:
        self.rest.set_markets(MARKETS)


def ours(port: int, kind: str, load: str) -> float:
    connection = Loaded(Account("binance", endpoint=endpoint(port, kind, load)))
    connection.start()
    over = threading.Event()
    counters = [Counter(over) for _ in NAMES]
    streams = Streams(connection)

    async def subscribe() -> None:
        for name, counter in zip(NAMES, counters, strict=True):
            if kind == "kline":
                streams.subscribe(name, "1m", counter)
            else:
                streams.subscribe_trades(name, counter)

    connection.call(subscribe)
    time.sleep(CONNECT_S)
    began_s = time.process_time()
    assert sum(counter.frames for counter in counters) == 0
    assert over.wait(60)
    spent_s = time.process_time() - began_s
    connection.stop()
    assert sum(counter.frames for counter in counters) == LOADS[load][1]
    return spent_s


def through_ccxt(port: int, kind: str, load: str, *, together: bool) -> float:
    async def run() -> float:
        exchange = ccxt.pro.binance()
        exchange.urls["api"] = redirect(exchange.urls["api"], endpoint(port, kind, load))
        exchange.set_markets(MARKETS)

        async def watch(name: str) -> None:
            while True:
                await (exchange.watch_ohlcv(name, "1m") if kind == "kline" else exchange.watch_trades(name))

        async def watch_all() -> None:
            while True:
                if kind == "kline":
                    await exchange.watch_ohlcv_for_symbols([[name, "1m"] for name in NAMES])
                else:
                    await exchange.watch_trades_for_symbols(NAMES)

        tasks = [asyncio.ensure_future(task) for task in ([watch_all()] if together else map(watch, NAMES))]
        await asyncio.sleep(CONNECT_S)
        began_s = time.process_time()
        assert not exchange.ohlcvs
        assert not exchange.trades
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        spent_s = time.process_time() - began_s
        for task in pending:
            task.cancel()
        outcomes = await asyncio.gather(*done, *pending, return_exceptions=True)
        assert any(isinstance(outcome, ccxt.NetworkError) for outcome in outcomes)
        await exchange.close()
        return spent_s

    return asyncio.run(run())


def through_cryptofeed(port: int, kind: str, load: str) -> float:
    told = {f"C{number}-USDT": f"C{number}USDT" for number in range(SYMBOLS)}
    Symbols.set(Binance.id, told, {"instrument_type": dict.fromkeys(told, "spot")})
    channel = CANDLES if kind == "kline" else TRADES
    seen, over = 0, asyncio.Event()

    async def hear(told: Any, received_s: float) -> None:
        nonlocal seen
        seen += 1
        if seen == LOADS[load][1]:
            over.set()

    async def run() -> float:
        feed = Binance(symbols=list(told), channels=[channel], callbacks={channel: hear}, candle_closed_only=False)
        ((connection, subscribe, handle, authenticate),) = feed.connect()
        stream = "kline" if kind == "kline" else "aggTrade"
        # It takes addresses of wss alone when it is made.
        query = urlsplit(connection.address).query
        connection.address = f"{endpoint(port, stream, load)}/stream?{query}".replace("http:", "ws:")
        handler = ConnectionHandler(connection, subscribe, handle, authenticate, retries=0, timeout=-1)
        handler.start(asyncio.get_running_loop())
        await asyncio.sleep(CONNECT_S)
        began_s = time.process_time()
        assert seen == 0
        await asyncio.wait_for(over.wait(), 60)
        spent_s = time.process_time() - began_s
        handler.running = False
        await connection.close()
        return spent_s

    return uvloop.run(run())


class Reads(asyncio.Protocol):
    """Takes what the event loop reads and looks at none of it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.over = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        parts = urlsplit(self.address)
        transport.write(
            f"GET {parts.path}/ws HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 101"):
            # A subscription, masked with zeros.
            self.transport.write(b'\x81\x88\0\0\0\0{"id":1}')
        elif data[-4:-2] == b"\x88\x02":
            self.over.set()


def reads_alone(port: int, kind: str, load: str) -> float:
    async def run() -> float:
        address = urlsplit(endpoint(port, kind, load))
        transport, protocol = await asyncio.get_running_loop().create_connection(
            lambda: Reads(address.geturl()), address.hostname, address.port
        )
        await asyncio.sleep(CONNECT_S)
        began_s = time.process_time()
        await asyncio.wait_for(protocol.over.wait(), 60)
        spent_s = time.process_time() - began_s
        transport.close()
        return spent_s

    return asyncio.run(run())


WAYS: dict[str, Callable[[int, str, str], float]] = {
    "ours": ours,
    "ccxt, a loop a symbol": partial(through_ccxt, together=False),
    "ccxt, one loop": partial(through_ccxt, together=True),
    "cryptofeed": through_cryptofeed,
    "the event loop's reads alone": reads_alone,
}


def spent_us(way: str, port: int, kind: str, load: str) -> float:
    # What another way left behind is not charged to this one.
    gc.collect()
    return WAYS[way](port, kind, load) / LOADS[load][1] * 1e6


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("kind", ["kline", "trade"])
@pytest.mark.parametrize("way", WAYS)
def test_cost_of_a_message(benchmark: Any, port: int, way: str, kind: str, load: str) -> None:
    costs = []
    benchmark.pedantic(lambda: costs.append(spent_us(way, port, kind, load)), rounds=1)
    benchmark.group = f"{kind}, {load}"
    benchmark.extra_info.update(
        cpu_us_a_message=round(min(costs), 2),
        ccxt=ccxt.__version__,
        aiohttp=version("aiohttp"),
        cryptofeed=version("cryptofeed"),
    )


@pytest.mark.parametrize("kind", ["kline", "trade"])
@pytest.mark.parametrize(
    ("load", "way", "promised"),
    [
        ("paced", "ccxt, a loop a symbol", 3.0),
        ("paced", "ccxt, one loop", 5.0),
        # Here asyncio's reads are most of our time, see docs/benchmarks.md.
        ("streamed", "ccxt, a loop a symbol", 5.0),
        ("streamed", "ccxt, one loop", 5.0),
        ("streamed", "cryptofeed", 1.0),
        ("streamed", "the event loop's reads alone", 0.0),
        ("flooded", "ccxt, a loop a symbol", 10.0),
        ("flooded", "ccxt, one loop", 10.0),
        ("flooded", "cryptofeed", 1.0),
        ("flooded", "the event loop's reads alone", 0.0),
    ],
)
def test_ratios(port: int, kind: str, load: str, way: str, promised: float, capsys: Any) -> None:
    mine, theirs = spent_us("ours", port, kind, load), spent_us(way, port, kind, load)
    told = f"{kind}, {load}: {way} {theirs:.1f} us / ours {mine:.2f} us = {theirs / mine:.1f}x"
    with capsys.disabled():
        print(f"\n{told} (wanted {promised:g})")
    assert theirs / mine >= promised, told
