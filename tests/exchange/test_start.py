"""What cannot work is one sentence at the start of a run, before a strategy sees a bar."""

from __future__ import annotations

import backtrader as bt
import ccxt
import pytest

from ccxtbt.ccxtstore import CCXTStore
from ccxtbt.errors import CCXTBTError, ConfigError, NotOfferedError
from simulated import BTC
from watching import ago, run, store_of

HOUR_MS = 3_600_000
DENIED = b'{"code":-1002,"msg":"You are not authorized to execute this request."}'
WITHOUT_OHLCV = next(name for name in ccxt.exchanges if not getattr(ccxt, name)().has["fetchOHLCV"])


def refusal(store, *, broker=False, **arguments) -> CCXTBTError:
    """The exception that a run ends with before a strategy hears anything."""
    heard = []
    feed = store.getdata(**{"dataname": "BTC/USDT", "timeframe": "1m", **arguments})
    with pytest.raises(CCXTBTError) as caught:
        run(store, feed, broker=store.getbroker() if broker else None, until=heard.append)
    assert heard == []
    assert not store.connection.running
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("historical", [True, False])
def test_a_bad_symbol(simulator, historical):
    server = simulator((BTC,), history_ms=HOUR_MS)
    error = refusal(store_of(server), dataname="BTCUSDT", historical=historical)
    assert isinstance(error, ConfigError)
    assert str(error) == (
        "dataname='BTCUSDT' is not a market of binance: give ccxt's unified symbol, such as 'BTC/USDT'. "
        "Did you mean BTC/USDT?"
    )


@pytest.mark.parametrize("timeframe", ["1m", (bt.TimeFrame.Ticks, 1)], ids=["bars", "ticks"])
def test_a_symbol_that_is_listed_and_refused_all_the_same(simulator, timeframe):
    server = simulator((BTC,), history_ms=HOUR_MS)
    server.faults.refused(-1121, "Invalid symbol.", symbol="BTCUSDT", times=0)
    error = refusal(store_of(server), fromdate=ago(server, minutes=5), timeframe=timeframe)
    assert isinstance(error, ConfigError)
    assert "Loading the bars of BTC/USDT failed" in str(error)
    assert "Invalid symbol." in str(error)


@pytest.mark.parametrize("historical", [True, False])
def test_no_permission_for_trades(simulator, historical):
    server = simulator((BTC,), history_ms=HOUR_MS)
    server.faults.answer(401, DENIED, taken=False, path="/api/v3/aggTrades", times=0)
    error = refusal(
        store_of(server), fromdate=ago(server, minutes=30), timeframe=(bt.TimeFrame.Ticks, 5), historical=historical
    )
    assert isinstance(error, ConfigError)
    assert "Check apiKey and secret in config, and that the key may do this." in str(error)


@pytest.mark.parametrize("timeframe", ["7m", "2y"])
def test_a_timeframe_that_the_exchange_does_not_offer(simulator, timeframe):
    server = simulator((BTC,), history_ms=HOUR_MS)
    error = refusal(store_of(server), timeframe=timeframe)
    assert isinstance(error, NotOfferedError)
    assert timeframe in str(error)
    assert "choose one of 1s, 1m" in str(error)
    assert not server.requests


def test_dates_in_the_wrong_order(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS)
    first, last = ago(server, minutes=10), ago(server, minutes=20)
    error = refusal(store_of(server), fromdate=first, todate=last)
    assert isinstance(error, ConfigError)
    assert str(error) == f"fromdate {first} of BTC/USDT is after todate {last}: swap them."
    assert not server.requests


def test_an_exchange_without_ohlcv(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS)
    CCXTStore._singleton = None
    error = refusal(CCXTStore(WITHOUT_OHLCV, endpoint=server.url))
    assert isinstance(error, NotOfferedError)
    assert str(error) == f"{WITHOUT_OHLCV} offers no OHLCV through ccxt: take the data from another exchange."
    assert not server.requests


@pytest.mark.parametrize("historical", [True, False])
def test_no_permission_for_bars(simulator, historical):
    server = simulator((BTC,), history_ms=HOUR_MS)
    server.faults.answer(401, DENIED, taken=False, path="/api/v3/klines", times=0)
    error = refusal(store_of(server), fromdate=ago(server, minutes=30), historical=historical)
    assert isinstance(error, ConfigError)
    assert "Loading the bars of BTC/USDT failed" in str(error)
    assert "You are not authorized" in str(error)
    assert "Check apiKey and secret in config, and that the key may do this." in str(error)
    # It was not asked again: no retry cures it.
    assert sum(request.path == "/api/v3/klines" for request in server.requests) <= 2


@pytest.mark.parametrize(("name", "value"), [("apiKey", "wrong-key"), ("secret", "wrong-secret")])
def test_a_wrong_key(simulator, name, value):
    server = simulator((BTC,), history_ms=HOUR_MS)
    store = store_of(server, config={name: value})
    error = refusal(store, broker=True)
    assert isinstance(error, ConfigError)
    assert "Check apiKey and secret in config" in str(error)
    assert value not in str(error)


def test_a_key_that_may_not_see_the_account(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS)
    body = b'{"code":-2015,"msg":"Invalid API-key, IP, or permissions for action."}'
    server.faults.answer(401, body, taken=False, path="/api/v3/account", times=0)
    error = refusal(store_of(server), broker=True)
    assert isinstance(error, ConfigError)
    assert "permissions for action" in str(error)
