"""Scripts written for bt-ccxt-store run as they are, led to a simulated exchange by CCXTBT_ENDPOINT alone."""

import datetime as dt
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ccxtbt.sim.server import API_KEY, SECRET
from simulated import BNB
from spawned import interrupted

HOUR_MS = 3_600_000
# A bar in nearly every second.
BUSY = replace(BNB, trades_per_minute=1_200.0)


@pytest.fixture
def server(simulator):
    """An exchange at the real time of day, since a script reads no other clock."""
    now_ms = int(time.time() * 1000)
    return simulator((BUSY,), start_ms=now_ms, history_ms=2 * HOUR_MS, balances={"USDT": 100_000, "BNB": 10})


@pytest.fixture
def folder(tmp_path):
    """Where the scripts run: they read their keys from ./samples."""
    (tmp_path / "samples").mkdir()
    keys = {"binance": {"apikey": API_KEY, "secret": SECRET}}
    (tmp_path / "samples" / "params.json").write_text(json.dumps(keys))
    return tmp_path


@pytest.fixture
def originals(request):
    path = request.config.getoption("--originals")
    if path is None:
        pytest.skip("needs --originals PATH: a checkout of bt-ccxt-store (github.com/Dave-Vallance/bt-ccxt-store)")
    return Path(path)


def assert_clean(spoken):
    """Ctrl-C ended it, at once, and no thread, task or socket complained."""
    assert spoken.code == -2, spoken
    warned, _, errors = spoken.errors.partition("Traceback")
    assert "ohlcv_limit of CCXTFeed changes nothing" in warned, warned
    # A warning and the line of the script that it is of.
    assert len(warned.splitlines()) == 2 * warned.count(": DeprecationWarning: "), warned
    assert errors.endswith("\nKeyboardInterrupt\n"), spoken.errors
    assert spoken.errors.count("Traceback") == 1, spoken.errors


def own_bars(server, timeframe, opens):
    market = server.exchange.markets["BNBUSDT"]
    rows = market.klines(timeframe, start_ms=opens[0], end_ms=opens[-1], limit=1_000, now_ms=server.clock.now_ms())
    return [(row[0], float(row[4])) for row in rows]


@pytest.mark.parametrize(
    ("timeframe", "text", "length_ms", "minutes", "live"),
    [("Seconds", "1s", 1_000, 2, 2), ("Minutes", "1m", 60_000, 90, 0)],
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
    assert_clean(spoken)
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
def test_its_moving_average(originals, server, folder):
    def until(lines):
        at = next((n for n, line in enumerate(lines) if line.endswith("Data Status: LIVE")), None)
        return at is not None and len(lines) > at + 1

    spoken = interrupted(
        originals / "samples" / "binance" / "SMA.py", server=server, cwd=folder, until=until, limit_s=150
    )
    assert_clean(spoken)
    told = [n for n, line in enumerate(spoken.lines) if "Data Status" in line]
    assert [spoken.lines[n].split()[-1] for n in told] == ["DELAYED", "LIVE"]
    assert told[0] == 0
    history, live = spoken.lines[1 : told[1]], spoken.lines[told[1] + 1 :]
    assert len(history) >= 5
    assert all("BNBUSDT | Cash NA | O: " in line for line in history)
    assert all("BNBUSDT | Cash 10.0 | O: " in line for line in live)
