"""How much of this machine's time does a whole `fetch_ohlcv(limit=1000)` take?

    taskset -c 0 python -m pytest --benchmark benchmarks/bench_fetch.py

CPU time of the client's process per request, over loopback HTTP to a server in another process: ccxt's asynchronous
class as it is, and the same class with `fetch_columns`. Plain and gzipped answers of 1,000 bars. `test_ratios` takes
both in turns and holds the medians to what is promised.

Caveats: without the exchange's rate limit, TLS and distance; OKX never sends 1,000 bars at once, and ccxt keeps 300 of
them (so do we); `aiohttp` decompresses with zlib unless another backend is set, for both alike.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ccxt.async_support
import pytest

from ccxtbt._ohlcv import rows_to_columns
from ccxtbt.exchange.adapter import redirect
from ccxtbt.exchange.columns import ColumnsMixin
from reference import answers

ROWS = 1000
REQUESTS = 10
PROMISED = {"plain": 5.0, "gzip": 4.0}
IDS = {"binance": "BTCUSDT", "okx": "BTC-USDT", "bybit": "BTCUSDT", "kraken": "XXBTZUSD"}
MARKET = {
    "symbol": "BTC/USDT", "base": "BTC", "quote": "USDT", "baseId": "BTC", "quoteId": "USDT", "active": True,
    "type": "spot", "spot": True, "contract": False, "precision": {}, "limits": {}, "info": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("answers")
    for name in IDS:
        (folder / f"{name}.json").write_text(getattr(answers, name)(answers.candles(ROWS)))
    command = [sys.executable, str(Path(__file__).with_name("serve_answers.py")), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()
        server.wait(10)


def open_exchange(name: str, endpoint: str, *parents: type) -> Any:
    exchange = type(name, (*parents, getattr(ccxt.async_support, name)), {})({"enableRateLimit": False})
    exchange.urls["api"] = redirect(exchange.urls["api"], endpoint)
    exchange.set_markets([{**MARKET, "id": IDS[name]}])
    return exchange


class Client:
    """Two exchanges, ccxt's own and ours, on one event loop; both warm."""

    def __init__(self, name: str, endpoint: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.theirs = self.loop.run_until_complete(self._opened(name, endpoint))
        self.ours = self.loop.run_until_complete(self._opened(name, endpoint, ColumnsMixin))
        self.calls: dict[str, Callable[..., Awaitable[Any]]] = {
            "ccxt": self.theirs.fetch_ohlcv,
            "ours": self.ours.fetch_columns,
        }
        wanted = rows_to_columns(self.loop.run_until_complete(self._ask("ccxt")))
        for _ in range(2):
            found = self.loop.run_until_complete(self._ask("ours"))
            assert found[0].tolist() == wanted[0].tolist()
            assert found[1].tobytes() == wanted[1].tobytes()
        assert self.ours.ccxtbt_counts.fast == 1

    @staticmethod
    async def _opened(name: str, endpoint: str, *parents: type) -> Any:
        return open_exchange(name, endpoint, *parents)

    async def _ask(self, whose: str) -> Any:
        return await self.calls[whose]("BTC/USDT", "1m", answers.START_MS, ROWS)

    async def _ask_often(self, whose: str) -> None:
        for _ in range(REQUESTS):
            await self._ask(whose)

    def ask_often(self, whose: str) -> None:
        self.loop.run_until_complete(self._ask_often(whose))

    def close(self) -> None:
        for exchange in (self.theirs, self.ours):
            self.loop.run_until_complete(exchange.close())
        self.loop.close()


@pytest.fixture
def client(address: str, name: str, coding: str) -> Iterator[Client]:
    client = Client(name, address if coding == "plain" else f"{address}/gzip")
    yield client
    client.close()


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("whose", ["ours", "ccxt"])
@pytest.mark.parametrize("coding", PROMISED)
@pytest.mark.parametrize("name", IDS)
def test_fetch(benchmark: Any, client: Client, name: str, coding: str, whose: str) -> None:
    benchmark.group = f"CPU time of {REQUESTS} x fetch_ohlcv(limit={ROWS}), {name} {coding}"
    versions = {package: version(package) for package in ("ccxt", "aiohttp", "orjson", "numpy")}
    benchmark.extra_info.update(versions=versions | {"python": sys.version.split()[0]}, requests=REQUESTS)
    benchmark.pedantic(client.ask_often, (whose,), rounds=10, warmup_rounds=2)


@pytest.mark.parametrize("coding", PROMISED)
@pytest.mark.parametrize("name", IDS)
def test_ratios(benchmark: Any, client: Client, name: str, coding: str) -> None:
    benchmark.group = "ratios"
    times: dict[str, list[float]] = {"ccxt": [], "ours": []}
    for _ in range(12):
        for whose, found in times.items():
            start_s = time.process_time()
            client.ask_often(whose)
            found.append(time.process_time() - start_s)
    ratio = round(statistics.median(times["ccxt"]) / statistics.median(times["ours"]), 1)
    benchmark.extra_info["ratio"] = ratio
    benchmark.pedantic(client.ask_often, ("ours",), rounds=1)
    print(f"\n{benchmark.name}: ccxt takes {ratio} times our CPU time; promised: {PROMISED[coding]}")
    assert ratio >= PROMISED[coding]
