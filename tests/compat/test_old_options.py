"""Options that only other packages' scripts give: accepted, and each told of once, with what to say instead."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from ccxtbt import CCXTBroker, CCXTFeed, CCXTStore, WebSocketFeed
from ccxtbt.compat import oldoptions
from ccxtbt.errors import ConfigError
from ccxtbt.sim.server import API_KEY, SECRET
from simulated import BTC
from watching import ago, store_of

SYMBOL = {"dataname": "BTC/USDT", "timeframe": "1m"}
TAKERS = {
    "CCXTFeed": (oldoptions.FEED, lambda store, **given: CCXTFeed(store=store, **SYMBOL, **given)),
    "CCXTBroker": (oldoptions.BROKER, lambda store, **given: CCXTBroker(store=store, **given)),
    "CCXTStore": (oldoptions.STORE, lambda store, **given: CCXTStore("kraken", **given)),
    "config": (oldoptions.CONFIG, lambda store, **given: CCXTStore("kraken", config=given)),
}
ALL = [(where, name) for where, (table, _) in TAKERS.items() for name in table]
# What cloudQuant's modules take, and what each is worth there by default.
CLOUDQUANT_FEED = {
    "historical": False,
    "backfill_start": True,
    "fetch_ohlcv_params": {},
    "ohlcv_limit": 100,
    "drop_newest": False,
    "debug": False,
    "use_websocket": False,
    "use_threaded_data": False,
    "hist_start_date": None,
    "ws_reconnect_delay": 5.0,
    "ws_max_reconnect_delay": 60.0,
    "max_fetch_retries": 3,
    "fetch_retry_delay": 1.0,
    "ws_health_check_interval": 30.0,
}
CLOUDQUANT_BROKER = {
    "broker_mapping": None,
    "debug": False,
    "use_threaded_order_manager": True,
    "use_websocket_orders": True,
    "max_retries": 3,
    "retry_delay": 1.0,
}


@pytest.fixture(autouse=True)
def told_nothing(monkeypatch):
    """Each test is a process of its own, to the memory of what was told."""
    monkeypatch.setattr(oldoptions, "_told", set())


@pytest.fixture
def store():
    CCXTStore._singleton = None
    return CCXTStore("binance")


@pytest.mark.parametrize(("where", "name"), ALL)
def test_an_old_option_is_told_of_once_at_the_line_that_gives_it(store, where, name):
    value = {"drop_newest": False, "nonce": lambda: "1", "apikey": "k"}.get(name, 1)
    make = TAKERS[where][1]
    with pytest.warns(DeprecationWarning, match=f"^{name} of {where} ") as told:
        make(store, **{name: value})
    # Warnings are errors here.
    make(store, **{name: value})
    assert [each.filename for each in told] == [__file__]


def test_all_options_of_cloudquants_feed_are_accepted(store):
    with pytest.warns(DeprecationWarning, match=" of CCXT") as told:
        feed = store.getdata(**SYMBOL, **CLOUDQUANT_FEED)
    of_others = {"ws_startup_timeout", "include_funding", "funding_history_days"}
    assert {str(each.message).split()[0] for each in told} == oldoptions.FEED.keys() - of_others
    assert (feed.store, feed.p.historical, feed.p.fromdate, feed.p.source) == (store, False, None, "poll")
    assert CCXTFeed(store, **{**SYMBOL, **CLOUDQUANT_FEED, "use_websocket": True}).p.source == "auto"


def test_all_options_of_cloudquants_broker_are_accepted(store):
    with pytest.warns(DeprecationWarning, match=" of CCXT") as told:
        broker = store.getbroker(**CLOUDQUANT_BROKER)
    assert {str(each.message).split()[0] for each in told} == oldoptions.BROKER.keys()
    assert (broker.store, broker.p.use_websocket) == (store, True)
    by_place = CCXTBroker({}, False, True, False, store, 3, 1.0)
    assert (by_place.store, by_place.p.use_websocket, by_place.p.debug) == (store, False, False)


def test_all_options_of_cloudquants_store_are_accepted():
    with pytest.warns(DeprecationWarning, match=" of CCXT") as told:
        store = CCXTStore("kraken", "EUR", {}, 2, False, False, use_rate_limiter=True, use_connection_manager=False)
    assert {str(each.message).split()[0] for each in told} == oldoptions.STORE.keys()
    assert (store.exchange_id, store.currency, store.retries) == ("kraken", "EUR", 2)


def test_a_renamed_option_means_what_its_new_name_means(store, simulator):
    server = simulator((BTC,), history_ms=3_600_000)
    since = ago(server, minutes=9)
    with pytest.warns(DeprecationWarning, match="is called fromdate"):
        assert CCXTFeed(store=store, hist_start_date=since, **SYMBOL).p.fromdate == since
    for old in (since, None):
        assert CCXTFeed(store=store, hist_start_date=old, fromdate=since, **SYMBOL).p.fromdate == since
    with pytest.raises(ConfigError, match="hist_start_date and fromdate, which are one"):
        CCXTFeed(store=store, hist_start_date=since, fromdate=ago(server, minutes=8), **SYMBOL)


def test_a_class_that_has_an_option_itself_is_told_nothing(store):
    assert WebSocketFeed(store=store, use_websocket=True, **SYMBOL).p.source == "auto"
    assert CCXTFeed(store=store, drop_newest=True, **SYMBOL).p.drop_newest is True


@pytest.mark.filterwarnings("ignore:nonce of config:DeprecationWarning")
def test_a_clock_in_an_old_config_does_not_replace_the_exchanges(simulator):
    server = simulator((BTC,), history_ms=60_000)
    # As in the old samples: text, and this machine's clock, hours from the exchange's.
    store = store_of(server, config={"nonce": lambda: "17"})
    assert store.get_balance() == (100_000, 100_000)
    (asked,) = [request for request in server.requests if request.path == "/api/v3/account"]
    assert asked.status == 200
    assert store.exchange.nonce() > server.clock.now_ms() - 60_000


@pytest.mark.filterwarnings("ignore:apikey of config:DeprecationWarning")
def test_a_key_by_its_old_name_is_the_key(simulator):
    server = simulator((BTC,), history_ms=60_000)
    CCXTStore._singleton = None
    store = CCXTStore("binance", "BTC", {"apikey": API_KEY, "secret": SECRET}, endpoint=server.url)
    assert store.exchange.apiKey == API_KEY
    with pytest.raises(ConfigError) as told:
        CCXTStore("binance", config={"apikey": API_KEY, "apiKey": "another"})
    assert API_KEY not in str(told.value)


@pytest.mark.parametrize("where", ["config", "options"])
@pytest.mark.parametrize("name", ["sandbox", "testnet"])
def test_ccxts_own_switch_for_a_test_network_is_the_stores(where, name):
    config = {name: True} if where == "config" else {"options": {name: True, "defaultType": "spot"}}
    store = CCXTStore("binance", config=config)
    assert store.sandbox is True
    assert store.connection.account.sandbox is True
    assert store.exchange.urls["api"]["public"] == store.exchange.urls["test"]["public"]
    assert store.key == CCXTStore("binance", sandbox=True).key


@pytest.mark.parametrize("who", ["store", "feed", "broker"])
def test_debug_is_a_level_of_the_log(store, who, monkeypatch):
    log = logging.getLogger("ccxtbt")
    monkeypatch.setattr(log, "level", logging.WARNING)
    {
        "store": lambda: CCXTStore("kraken", debug=True),
        "feed": lambda: store.getdata(debug=True, **SYMBOL),
        "broker": lambda: store.getbroker(debug=True),
    }[who]()
    assert log.level == logging.DEBUG
    log.setLevel(logging.NOTSET)


def test_a_script_sees_its_warnings_without_asking(tmp_path):
    script = tmp_path / "old.py"
    script.write_text(
        "import ccxtbt\nstore = ccxtbt.CCXTStore('binance')\n"
        "for _ in range(2):\n    store.getdata(dataname='BTC/USDT', ohlcv_limit=50)\n"
    )
    said = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert said.stderr.count("DeprecationWarning: ohlcv_limit of CCXTFeed changes nothing") == 1
    assert f"{script}:4: " in said.stderr
