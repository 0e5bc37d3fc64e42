"""Scripts written for bt-ccxt-store run as they are, led to a simulated exchange by CCXTBT_ENDPOINT alone."""

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

import ccxtbt
from ccxtbt.sim.server import API_KEY, SECRET
from simulated import BNB
from spawned import interrupted

HOUR_MS = 3_600_000
MINUTE_MS = 60_000
# A bar in nearly every second, at the price that the coin had when the samples were written.
BUSY = replace(BNB, price=Decimal("6.2"), tick_size=Decimal("0.0001"), trades_per_minute=1_200.0)
YEAR_2019_MS = 1_546_300_800_000


@pytest.fixture
def server(simulator):
    """An exchange at about the real time of day, since a script reads no other clock; a minute ends there soon."""
    soon_ms = (int(time.time() * 1000) // MINUTE_MS + 1) * MINUTE_MS - 8_000
    return simulator((BUSY,), start_ms=soon_ms, history_ms=2 * HOUR_MS, balances={"USDT": 100_000, "BNB": 10})


@pytest.fixture
def server_of_2019(simulator):
    return simulator((BUSY,), start_ms=YEAR_2019_MS + HOUR_MS, history_ms=2 * HOUR_MS, quiet_bars="flat")


@pytest.fixture
def folder(tmp_path):
    """Where the scripts run: they read their keys from ./samples, or from above their own folder."""
    (tmp_path / "samples" / "binance").mkdir(parents=True)
    keys = {"binance": {"apikey": API_KEY, "secret": SECRET}}
    (tmp_path / "samples" / "params.json").write_text(json.dumps(keys))
    return tmp_path


@pytest.fixture
def ours(folder):
    def copied(name):
        return Path(shutil.copy(Path(__file__).with_name(name), folder / "samples" / "binance" / name))

    return copied


@pytest.fixture
def original(request, folder):
    """Copy one of its samples, unmodified, to where the keys of the simulator lie."""
    path = request.config.getoption("--originals")
    if path is None:
        pytest.skip("needs --originals PATH: a checkout of bt-ccxt-store (github.com/Dave-Vallance/bt-ccxt-store)")

    def copied(name):
        return Path(shutil.copy(Path(path) / "samples" / name, folder / "samples" / name))

    return copied


def ended_by_ctrl_c(spoken):
    """Hold it against: Ctrl-C ended it, at once, and no thread, task or socket complained; return what it warned of."""
    assert spoken.code == -2, spoken
    warned, _, errors = spoken.errors.partition("Traceback")
    assert errors.endswith("\nKeyboardInterrupt\n"), spoken.errors
    assert "Traceback" not in errors, spoken.errors
    return warned


def own_bars(server, timeframe, opens):
    market = server.exchange.markets["BNBUSDT"]
    rows = market.klines(timeframe, start_ms=opens[0], end_ms=opens[-1], limit=1_000, now_ms=server.clock.now_ms())
    return [(row[0], float(row[4])) for row in rows]


@pytest.mark.parametrize(
    ("timeframe", "text", "length_ms", "minutes", "live"),
    [("Seconds", "1s", 1_000, 2, 2), ("Minutes", "1m", MINUTE_MS, 90, 0)],
)
def test_a_script_of_ours_with_the_same_calls(server, folder, timeframe, text, length_ms, minutes, live):
    def until(lines):
        at = next((n for n, line in enumerate(lines) if line == "status BNBUSDT LIVE"), None)
        return at is not None and len(lines) > at + live

    spoken = interrupted(
        Path(__file__).with_name("sma_script.py"),
        timeframe,
        str(minutes),
        server=server,
        cwd=folder,
        until=until,
        limit_s=60,
    )
    warned = ended_by_ctrl_c(spoken)
    assert "ohlcv_limit of CCXTFeed changes nothing" in warned
    # A warning and the line of the script that it is of.
    assert len(warned.splitlines()) == 2 * warned.count(": DeprecationWarning: "), warned
    assert [line for line in spoken.lines if line.startswith("status")] == [
        "status BNBUSDT DELAYED",
        "status BNBUSDT LIVE",
    ]
    assert spoken.lines[0] == "status BNBUSDT DELAYED"
    bars = [line.split() for line in spoken.lines if line.startswith("bar")]
    assert {tuple(bar[3:5]) for bar in bars} == ({("None", "None"), ("10.0", "10.0")} if live else {("None", "None")})
    stamps = [dt.datetime.fromisoformat(bar[2]).replace(tzinfo=dt.UTC).timestamp() * 1000 for bar in bars]
    opens = [round(stamp) - length_ms for stamp in stamps]
    assert [(open_ms, float(bar[5])) for open_ms, bar in zip(opens, bars, strict=True)] == own_bars(server, text, opens)


@pytest.mark.originals
def test_its_moving_average(original, server, folder):
    def until(lines):
        at = next((n for n, line in enumerate(lines) if line.endswith("Data Status: LIVE")), None)
        return at is not None and len(lines) > at + 1

    spoken = interrupted(original("binance/SMA.py"), server=server, cwd=folder, until=until, limit_s=150)
    ended_by_ctrl_c(spoken)
    told = [n for n, line in enumerate(spoken.lines) if "Data Status" in line]
    assert [spoken.lines[n].split()[-1] for n in told] == ["DELAYED", "LIVE"]
    assert told[0] == 0
    history, live = spoken.lines[1 : told[1]], spoken.lines[told[1] + 1 :]
    assert len(history) >= 5
    assert all("BNBUSDT | Cash NA | O: " in line for line in history)
    assert all("BNBUSDT | Cash 10.0 | O: " in line for line in live)


# What a script leaves at the exchange: side, type, price, trigger, and where the order stands.
BUY = ("BUY", "LIMIT", Decimal("5.4326"), Decimal(0), "CANCELED")
STOP = ("SELL", "STOP_LOSS_LIMIT", Decimal("5.475"), Decimal("5.4763"), "NEW")
TARGET = ("SELL", "TAKE_PROFIT_LIMIT", Decimal("7.485"), Decimal("7.485"), "NEW")
SAMPLES = {"buy-order.py": BUY, "stop-loss-limit-order.py": STOP, "take-profit-limit-order.py": TARGET}


def hold_to_its_orders(script, orders, server, folder, *arguments):
    """Run a script until its orders stand where they should, and hold the exchange against them."""

    def all_orders():
        return server.exchange.all_orders(server.account(), "BNBUSDT", limit=100)

    def until(lines):
        return sorted(order.status for order in all_orders()) == sorted(order[-1] for order in orders)

    spoken = interrupted(script, *arguments, server=server, cwd=folder, until=until, limit_s=60)
    warned = ended_by_ctrl_c(spoken)
    assert "nonce of config is left out" in warned
    made = all_orders()
    assert sorted((o.side, o.type, o.price, o.stop_price, o.status) for o in made) == sorted(orders)
    assert {(order.orig_qty, order.executed) for order in made} == {(2, 0)}
    assert SECRET not in spoken.errors + "".join(spoken.lines)
    assert [line.split()[5] for line in spoken.lines if "Data Status" in line] == ["DELAYED,", "LIVE,"]
    return spoken


@pytest.mark.parametrize(("kind", "orders"), [("stop", [BUY, STOP]), ("target", [TARGET])])
def test_a_script_of_ours_that_orders(server, ours, folder, kind, orders):
    spoken = hold_to_its_orders(ours("orders_script.py"), orders, server, folder, kind)
    told = [line for line in spoken.lines if line.startswith("order")]
    assert told[0].endswith("Submitted")
    # None is told twice, with quicknotify.
    assert len(told) == len(set(told)), told


@pytest.mark.originals
@pytest.mark.parametrize("sample", SAMPLES)
def test_its_scripts_that_order(original, server, folder, sample):
    hold_to_its_orders(original(f"binance/{sample}"), [SAMPLES[sample]], server, folder)


def hold_to_the_bars_of_2019(script, server, folder):
    """Run a backtest to its end, and hold what it prints against the exchange."""
    spoken = interrupted(script, server=server, cwd=folder, until=lambda lines: False, limit_s=60)
    assert spoken.code == 0, spoken
    opens = [YEAR_2019_MS + n * MINUTE_MS for n in range(3)]
    assert spoken.lines == [
        f"{dt.datetime.fromtimestamp((open_ms + MINUTE_MS) / 1000, dt.UTC):%Y-%m-%dT%H:%M:%S} closing price: {close}"
        for open_ms, close in own_bars(server, "1m", opens)
    ]
    assert len(spoken.lines) == 3
    assert "Traceback" not in spoken.errors, spoken.errors
    # Nothing is asked for that needs a key.
    assert {request.path.split("/")[-1] for request in server.requests} == {"time", "exchangeInfo", "klines"}


def test_a_backtest_of_ours_with_the_same_calls(server_of_2019, ours, folder):
    hold_to_the_bars_of_2019(ours("backtest_script.py"), server_of_2019, folder)


@pytest.mark.originals
def test_its_backtest(original, server_of_2019, folder):
    hold_to_the_bars_of_2019(original("backtesting.py"), server_of_2019, folder)


@pytest.mark.originals
def test_its_own_tests_of_behaviour(request, server_of_2019, folder):
    """Those of the rest that assert a bug, need the internet or replace ccxt are named in docs/migration.md."""
    path = request.config.getoption("--originals")
    if path is None:
        pytest.skip("needs --originals PATH: a checkout of bt-ccxt-store, or of its CosmicDNA fork")
    tests = shutil.copy(Path(path) / "test" / "ccxtbt" / "test_optional_fetch_balance.py", folder / "test_its_own.py")
    behaviour = (
        "test_default_fetch_balance_param or test_feed_islive_property or test_broker_init or test_get_notification "
        "or test_private_end_point"
    )
    source = str(Path(ccxtbt.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", folder, "-k", behaviour, tests],
        cwd=folder,
        env={**os.environ, "CCXTBT_ENDPOINT": server_of_2019.url, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "failed" not in done.stdout
