"""Keys come from the environment, a file or the config, and are in nothing that a run leaves or says."""

import io
import logging
import os
import pickle
import traceback
import warnings
from urllib.parse import quote

import backtrader as bt
import pytest

from ccxtbt import CCXTStore, ThreadedBroker, load_ccxt_config_from_env
from ccxtbt.errors import ConfigError
from ccxtbt.exchange.clock import Clock
from simulated import BTC
from watching import ago, run

KEY, SECRET = "marked0key0of0the0account", "marked0secret0of0the0account"
MARKED = (KEY, SECRET)


@pytest.fixture
def server(simulator):
    balances = {"USDT": 100_000, "BTC": 1}
    return simulator((BTC,), history_ms=3_600_000, speed=20, api_key=KEY, secret=SECRET, balances=balances)


def assert_clean(said: dict[str, object]) -> None:
    for name, text in said.items():
        data = text if isinstance(text, bytes) else str(text).encode()
        for marked in MARKED:
            for form in (marked.encode(), quote(marked).encode()):
                assert form not in data, f"{name} shows {form!r}: ...{data[max(0, data.find(form) - 200) :][:400]!r}"


def store_on(server, config, **options):
    CCXTStore._singleton = None
    options = {"endpoint": server.url, "clock": Clock(rate=server.speed), **options}
    return CCXTStore("binance", "USDT", config, retries=0, **options)


def failure(ask):
    """Return an error, with all that led to it, as a user's log has it."""
    try:
        ask()
    except Exception as error:  # noqa: BLE001  # of any kind
        return "".join(traceback.format_exception(error)) + repr(error) + repr(error.args)
    raise AssertionError("it did not fail")


def test_a_run_shows_its_keys_nowhere(server, tmp_path, capfd, monkeypatch):
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s"))
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", logging.DEBUG)
    root.addHandler(handler)
    journal = tmp_path / "orders.sqlite"
    said, made = {}, []
    config = {"apiKey": KEY, "secret": SECRET, "nonce": lambda: 1}
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            store = store_on(server, config, journal=journal, debug=True)
            broker = store.getbroker(debug=True)
            feed = store.getdata(dataname="BTC/USDT", timeframe="1s", fromdate=ago(server, minutes=1), debug=True)

            def act(watcher):
                if watcher.states[watcher.data][-1:] == ["LIVE"] and not made:
                    price = watcher.data.close[0]
                    made.append(watcher.buy(size=0.01))
                    made.append(watcher.buy(size=0.01, exectype=bt.Order.Limit, price=price * 0.9))
                    # Refused by the exchange.
                    made.append(watcher.buy(size=9.0))
                    said["in the run"] = [repr(each) for each in (store, broker, feed, store.connection, watcher)]
                    said["journal, open"] = b"".join(path.read_bytes() for path in tmp_path.glob("orders.sqlite*"))
                    said["exchange"] = repr(store.exchange) + str(store.exchange) + str(store.connection.rest)
                    store.exchange.fetch_balance()

            def settled(watcher):
                return made and made[0].status == bt.Order.Completed and made[1].status == bt.Order.Accepted

            watcher = run(store, feed, broker=broker, act=act, until=settled)
            said["messages"] = watcher.messages
            said["orders"] = [str(order) for order in watcher.orders]
            fresh = store.getdata(dataname="BTC/USDT", timeframe="1s"), store.getbroker()
            said["pickles"] = b"".join(pickle.dumps(each) for each in (store, *fresh))
            with ThreadedBrokerOf(server, config) as facts:
                said["guest"] = repr(facts) + repr(facts.store)
        said["warnings"] = [str(each.message) for each in told]
    finally:
        root.removeHandler(handler)
        logging.getLogger("ccxtbt").setLevel(logging.NOTSET)
    said["journal"] = b"".join(path.read_bytes() for path in tmp_path.glob("orders.sqlite*"))
    said["log"] = heard.getvalue()
    said["screen"] = "".join(capfd.readouterr())
    assert "nonce of config" in str(said["warnings"])
    assert made[0].ccxt_order["id"].encode() in said["journal"]
    # All of it was heard: ccxt's own lines on what it sends, too.
    for line in ("ccxtbt.", "ccxt", "/api/v3/order"):
        assert line in said["log"]
    assert_clean(said)


class ThreadedBrokerOf:
    """A guest on an account, with its queues read, for as long as a block lasts."""

    def __init__(self, server, config):
        options = {"endpoint": server.url, "clock": Clock(rate=server.speed), "config": config}
        self.broker = ThreadedBroker("binance", **options)

    def __enter__(self):
        self.broker.start_order_thread()
        return self.broker

    def __exit__(self, *error):
        self.broker.stop()


@pytest.mark.parametrize("wrong", ["secret", "key"])
def test_an_error_shows_no_key(server, wrong):
    config = {"apiKey": KEY if wrong == "secret" else KEY[:-1], "secret": SECRET[:-1]}
    store = store_on(server, config)
    marks = {"key": config["apiKey"], "secret": config["secret"]}
    said = {
        "balance": failure(store.get_balance),
        "exchange": failure(store.exchange.fetch_balance),
        "order": failure(lambda: store.create_order("BTC/USDT", "limit", "buy", 0.01, 50_000)),
        "run": failure(
            lambda: run(
                store,
                store.getdata(dataname="BTC/USDT", timeframe="1s"),
                broker=store.getbroker(),
                until=lambda w: True,
            )
        ),
    }
    store.stop()
    for name, text in said.items():
        assert "Traceback" in text
        for mark in marks.values():
            assert mark not in text, (name, text)
        assert "signature=" not in text, (name, text)


def test_no_answer_shows_no_key(server):
    server.faults.drop_answer(path="/api/v3/account", times=0)
    store = store_on(server, {"apiKey": KEY, "secret": SECRET, "timeout": 300})
    text = failure(store.get_balance)
    assert_clean({"time-out": text})
    assert "signature=" not in text


def test_a_config_that_cannot_be_right_is_refused_without_its_keys():
    with pytest.raises(ConfigError) as told:
        CCXTStore("nowhere", config={"apiKey": KEY, "secret": SECRET}).exchange.fetch_balance()
    assert_clean({"error": "".join(traceback.format_exception(told.value))})


# Where keys come from


@pytest.fixture
def no_keys(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("BINANCE_", "OKX_", "KRAKEN_", "HYPERLIQUID_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_keys_of_the_environment(no_keys, monkeypatch, server):
    monkeypatch.setenv("BINANCE_API_KEY", KEY)
    monkeypatch.setenv("BINANCE_SECRET", SECRET)
    config = load_ccxt_config_from_env("binance")
    assert config == {"enableRateLimit": True, "apiKey": KEY, "secret": SECRET}
    assert store_on(server, config).get_balance() == (100_000, 100_000)
    assert load_ccxt_config_from_env("binanceusdm")["apiKey"] == KEY
    assert load_ccxt_config_from_env("binance", enable_rate_limit=False)["enableRateLimit"] is False
    assert CCXTStore("binance", config=load_ccxt_config_from_env("binance", sandbox=True)).sandbox is True


@pytest.mark.parametrize(("end", "name"), [("SECRET", "secret"), ("API_SECRET", "secret")])
def test_the_usual_names_of_variables(no_keys, monkeypatch, end, name):
    monkeypatch.setenv("OKX_API_KEY", KEY)
    monkeypatch.setenv(f"OKX_{end}", SECRET)
    monkeypatch.setenv("OKX_PASSWORD", "third")
    assert load_ccxt_config_from_env("okx") == {
        "enableRateLimit": True,
        "apiKey": KEY,
        name: SECRET,
        "password": "third",
    }


def test_what_an_exchange_requires_is_what_ccxt_says(no_keys, monkeypatch):
    monkeypatch.setenv("HYPERLIQUID_WALLET_ADDRESS", "0x1")
    monkeypatch.setenv("HYPERLIQUID_PRIVATE_KEY", SECRET)
    config = load_ccxt_config_from_env("hyperliquid")
    assert config == {"enableRateLimit": True, "walletAddress": "0x1", "privateKey": SECRET}


@pytest.mark.parametrize("where", [None, "keys.txt"])
def test_keys_of_a_file(no_keys, monkeypatch, where):
    path = no_keys / (where or ".env")
    path.write_text(
        f"# mine\n\nexport BINANCE_API_KEY='{KEY}'  # of the account\nBINANCE_SECRET = \"{SECRET}\"\nOTHER=x\n"
    )
    assert load_ccxt_config_from_env("binance", where)["apiKey"] == KEY
    assert load_ccxt_config_from_env("binance", env_path=where)["secret"] == SECRET
    # Children of this process would inherit it.
    assert not any(marked in value for value in os.environ.values() for marked in MARKED)
    monkeypatch.setenv("BINANCE_API_KEY", "of the environment")
    assert load_ccxt_config_from_env("binance", where)["apiKey"] == "of the environment"


def test_what_is_missing_is_named(no_keys, monkeypatch):
    monkeypatch.setenv("KRAKEN_API_KEY", KEY)
    with pytest.raises(ValueError, match="KRAKEN_SECRET are not set") as told:
        load_ccxt_config_from_env("kraken")
    assert_clean({"error": str(told.value)})
    with pytest.raises(ConfigError, match="cannot be read"):
        load_ccxt_config_from_env("kraken", "nowhere.env")
    with pytest.raises(ConfigError, match="is not an exchange of ccxt"):
        load_ccxt_config_from_env("krakn")
