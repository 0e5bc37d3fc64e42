"""ccxt's own live test-suite, unmodified but for the addresses, against the simulated exchange.

It ships in ccxt's package and refuses to run from site-packages, so it runs from a tree of links beside a copy of its
test folder. Four processes run at once: REST by the sync and by the async class, public and private WebSockets by the
pro class; meanwhile somebody trades on the account, or its streams would have nothing to say.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import ccxt.pro
import pytest

from ccxtbt.sim.orders import OrderRequest
from ccxtbt.sim.server import API_KEY, SECRET, SimServer
from simulated import rewritten

RUNNER = Path(__file__).parent / "run_ccxt_suite.py"
NOT_SPOT = "asks Binance's margin, futures or wallet service, which the simulator does not offer"

# Everything that the suite tests of binance's spot market, and why what is left out is left out.
LEFT_OUT = {
    "createOrder": "the suite's test of it cannot run in Python: it indexes the exchange, adds numbers to text and"
    " rounds up, which ccxt's Python does not offer; test_sim_binance.py places orders instead",
    "fetchAccounts": NOT_SPOT,
    "fetchBorrowInterest": NOT_SPOT,
    "fetchBorrowRateHistory": NOT_SPOT,
    "fetchDeposits": NOT_SPOT,
    "fetchDepositAddress": NOT_SPOT,
    "fetchLedger": NOT_SPOT,
    "fetchLedgerEntry": NOT_SPOT,
    "fetchLeverageTiers": NOT_SPOT,
    "fetchMarginModes": NOT_SPOT,
    "fetchPosition": NOT_SPOT,
    "fetchTransactionFees": NOT_SPOT,
    "fetchTransfers": NOT_SPOT,
    "fetchWithdrawals": NOT_SPOT,
    "watchPosition": NOT_SPOT,
    "watchPositions": NOT_SPOT,
}
# What Binance spot itself does not send, by the suite's name for the structure.
NOT_SENT = {"orderBook": {"timestamp": "spot's depth has no time"}}
REST = {
    "afterConstruct",
    "features",
    "fetchBalance",
    "fetchClosedOrders",
    "fetchCurrencies",
    "fetchLastPrices",
    "fetchMyTrades",
    "fetchOHLCV",
    "fetchOpenOrders",
    "fetchOrderBook",
    "fetchOrders",
    "fetchStatus",
    "fetchTicker",
    "fetchTickers",
    "fetchTrades",
    "fetchTradingFees",
    "loadMarkets",
}
PUBLIC_SOCKET = {
    "loadMarkets",
    "watchBidsAsks",
    "watchOHLCV",
    "watchOHLCVForSymbols",
    "watchOrderBook",
    "watchOrderBookForSymbols",
    "watchTicker",
    "watchTickers",
    "watchTrades",
    "watchTradesForSymbols",
}
PRIVATE_SOCKET = {"loadMarkets", "watchBalance", "watchMyTrades", "watchOrders"}
RUNS = {"sync": (["--sync", "--private"], REST), "async": (["--private"], REST)}
RUNS["pro"] = (["--ws"], PUBLIC_SOCKET)
RUNS["pro, private"] = (["--ws", "--privateOnly"], PRIVATE_SOCKET)


def lay_out(root: Path, url: str) -> None:
    """Make the tree that the suite runs from; the installed package is linked to, and never written to."""
    installed = Path(ccxt.__file__).parent
    package = root / "python" / "ccxt"
    package.mkdir(parents=True)
    for entry in installed.iterdir():
        if entry.name == "test":
            shutil.copytree(entry, package / "test")
        else:
            (package / entry.name).symlink_to(entry)
    keys = {
        "apiKey": API_KEY,
        "secret": SECRET,
        "options": {"fetchMarkets": {"types": ["spot"]}},
        "has": {"swap": False, "future": False, "option": False},
        "urls": {"api": rewritten(ccxt.pro.binance().urls["api"], url)},
    }
    (root / "keys.local.json").write_text(json.dumps({"binance": keys}))
    (root / "skip-tests.json").write_text(json.dumps({"binance": {"skipMethods": LEFT_OUT | NOT_SENT}}))


def trade_until(stop: threading.Event, server: SimServer) -> None:
    """Keep the account busy: now a taking order, now a resting one that is cancelled."""
    exchange, account = server.exchange, server.account()

    def once(number: int) -> None:
        side = ("BUY", "SELL")[number % 2]
        exchange.place(account, OrderRequest(symbol="BTCUSDT", side=side, type="MARKET", quantity=Decimal("0.001")))
        order = exchange.place(
            account,
            OrderRequest(
                symbol="BTCUSDT",
                side="BUY",
                type="LIMIT",
                time_in_force="GTC",
                quantity=Decimal("0.001"),
                price=Decimal(50_000),
            ),
        )
        exchange.cancel(account, "BTCUSDT", order.order_id)

    number = 0
    while not stop.wait(0.25):
        server.call(once, number)
        number += 1


@pytest.mark.skipif(sys.platform == "win32", reason="the suite's tree is made of symbolic links")
def test_ccxts_own_suite_finds_nothing_wrong(simulator, tmp_path):
    server = simulator(start_ms=int(time.time() * 1000), history_ms=2 * 3_600_000)
    lay_out(tmp_path, server.url)
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"}
    stop = threading.Event()
    runs = {
        name: subprocess.Popen(
            [sys.executable, RUNNER, tmp_path, *options, "binance"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for name, (options, _) in RUNS.items()
    }
    with ThreadPoolExecutor(1) as pool:
        trader = pool.submit(trade_until, stop, server)
        try:
            outputs = {name: run.communicate(timeout=120)[0] for name, run in runs.items()}
        finally:
            stop.set()
            for run in runs.values():
                run.kill()
                run.wait()
    trader.result()
    for name, output in outputs.items():
        complaints = [line for line in output.splitlines() if "TEST_FAILURE" in line or "TEST_WARNING" in line]
        assert complaints == [], f"{name}: {output[-20_000:]}"
        assert runs[name].returncode == 0, f"{name}: {output[-20_000:]}"
        done = set(re.findall(r"\[INFO\] TESTING DONE\s+binance (\w+)", output))
        assert done == RUNS[name][1], f"{name}: {output[-20_000:]}"
