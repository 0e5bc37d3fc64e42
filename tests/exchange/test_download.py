"""`ccxtbt download`: bars into the archive, from the command line."""

import pandas as pd
from typer.testing import CliRunner

from ccxtbt.ccxtstore import CCXTStore
from ccxtbt.cli import app
from simulated import BTC, ETH
from watching import ago

HOUR_MS = 3_600_000


def call(server, folder, *arguments):
    CCXTStore._singleton = None
    return CliRunner().invoke(app, ["download", *arguments, "--archive", str(folder), "--endpoint", server.url])


def klines(server):
    return sum(request.path == "/api/v3/klines" for request in server.requests)


def test_bars_of_two_markets_come_into_the_archive_once(simulator, tmp_path):
    server = simulator((BTC, ETH), history_ms=60 * HOUR_MS, quiet_bars="flat")
    span = ["--from", ago(server, minutes=3_000).isoformat(), "--to", ago(server, minutes=11).isoformat()]
    result = call(server, tmp_path, "binance", "BTC/USDT", "ETH/USDT", *span)
    assert result.exit_code == 0, result.output
    assert "BTC/USDT 1m: 2,990 bars" in result.output
    assert "ETH/USDT 1m: 2,990 bars" in result.output
    for name in ("BTC_USDT", "ETH_USDT"):
        (folder,) = tmp_path.rglob(f"{name}/1m")
        assert len(pd.read_parquet(folder)) == 2_990
    asked = klines(server)
    assert call(server, tmp_path, "binance", "BTC/USDT", "ETH/USDT", *span).exit_code == 0
    assert klines(server) == asked


def test_what_cannot_be_had_is_one_sentence(simulator, tmp_path):
    server = simulator((BTC,), history_ms=HOUR_MS)
    result = call(server, tmp_path, "binance", "BTCUSDT", "--from", "2023-12-01")
    assert result.exit_code == 2
    assert "Did you mean BTC/USDT?" in " ".join(result.output.split())
    result = call(server, tmp_path, "binanse", "BTC/USDT", "--from", "2023-12-01")
    assert result.exit_code == 2
    assert "did you mean" in result.output
