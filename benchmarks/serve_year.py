"""A simulated Binance with a year of 1-minute bars, for benchmarks of downloads: ends with its standard input.

    python benchmarks/serve_year.py ONE_WAY_LATENCY_MS

Prints its address and where its time begins, as JSON, once all pages are made: what is timed then is the client.
"""

from __future__ import annotations

import asyncio
import json
import sys
from decimal import Decimal

from ccxtbt.sim.server import START_MS, SimServer
from ccxtbt.sim.spec import Spec

DAY_MS = 86_400_000
DAYS = 367


async def main(latency_ms: float) -> None:
    spec = Spec(symbol="BTCUSDT", base="BTC", quote="USDT", price=Decimal(60_000), trades_per_minute=12.0)
    server = SimServer.of([spec], history_ms=DAYS * DAY_MS, quiet_bars="flat", latency_ms=latency_ms)
    market = server.exchange.markets["BTCUSDT"]
    for day in range(DAYS):
        first_ms = START_MS - (DAYS - day) * DAY_MS
        market.klines_json("1m", first_ms, first_ms + DAY_MS - 1, 1_440, now_ms=START_MS)

    def announce() -> None:
        print(json.dumps({"url": server.url, "start_ms": START_MS}), flush=True)

    serving = asyncio.ensure_future(server.serve(announce))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.request_stop()
    await serving


asyncio.run(main(float(sys.argv[1])))
