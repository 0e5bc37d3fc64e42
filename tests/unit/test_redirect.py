"""Leading an exchange's addresses through a gateway."""

import ccxt.pro
import pytest

from ccxtbt.errors import ConfigError
from ccxtbt.exchange.adapter import redirect


def leaves(tree):
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    return [tree]


def test_the_original_host_stays_in_the_path():
    urls = {"public": "https://api.binance.com/api/v3", "ws": {"spot": "wss://stream.binance.com:9443/ws"}}
    assert redirect(urls, "http://127.0.0.1:8080") == {
        "public": "http://127.0.0.1:8080/api.binance.com/api/v3",
        "ws": {"spot": "ws://127.0.0.1:8080/stream.binance.com:9443/ws"},
    }


def test_a_secure_gateway_with_a_path_of_its_own():
    assert redirect("wss://a.b/c", "https://gate.example/x/") == "wss://gate.example/x/a.b/c"


@pytest.mark.parametrize("name", ["binance", "bybit", "okx", "kraken", "gate"])
def test_no_address_of_a_real_exchange_is_left_alone(name):
    urls = redirect(getattr(ccxt.pro, name)().urls["api"], "http://127.0.0.1:1")
    assert all(leaf.split("://")[1].startswith("127.0.0.1:1/") for leaf in leaves(urls) if leaf)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:80", "ftp://host", "http://", ""])
def test_what_is_no_address_is_refused_with_a_sentence(endpoint):
    with pytest.raises(ConfigError, match="write it as http://host:port"):
        redirect({"public": "https://api.binance.com"}, endpoint)
