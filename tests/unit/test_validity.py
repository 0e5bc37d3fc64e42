"""Validity as a time of the exchange, and as the parameters with which it ends an order itself."""

import datetime as dt
from dataclasses import replace

import backtrader as bt
import ccxt
import pytest

from ccxtbt.errors import ConfigError
from ccxtbt.exchange.exchanges import facts_of
from ccxtbt.trading.rules import Rules, rules_of
from ccxtbt.trading.validity import native_params, until_ms

DAY_MS = 86_400_000
NOON_MS = 1_704_067_200_000 + DAY_MS // 2  # 2024-01-01 12:00 UTC
RULES = Rules("BTC/USDT", good_till_date=True)


@pytest.mark.parametrize(
    ("valid", "after_ms"),
    [
        (dt.timedelta(minutes=5), 300_000),
        (bt.Order.DAY, DAY_MS // 2),
        (0, DAY_MS // 2),
        (0.5, DAY_MS // 2),
        (dt.datetime(2024, 1, 1, 12, 1), 60_000),  # noqa: DTZ001
        (dt.date(2024, 1, 2), DAY_MS // 2),
    ],
)
def test_what_a_strategy_may_say(valid, after_ms):
    assert until_ms(valid, NOON_MS, bt.date2num) == NOON_MS + after_ms


def test_none_is_good_till_cancelled():
    assert until_ms(None, NOON_MS, bt.date2num) is None


@pytest.mark.parametrize("valid", [dt.date(2024, 1, 1), dt.timedelta(seconds=-1), "tomorrow"])
def test_what_is_over_or_no_time_is_refused(valid):
    with pytest.raises(ConfigError, match="valid="):
        until_ms(valid, NOON_MS, bt.date2num)


def test_each_exchange_is_told_in_its_own_words():
    told = {
        name: native_params(NOON_MS + 3_600_500, NOON_MS, RULES, facts_of(name))
        for name in ("coinbase", "kucoin", "binanceusdm", "bybit")
    }
    assert told == {
        "coinbase": {"timeInForce": "GTD", "end_time": "2024-01-01T13:00:00.500Z"},
        "kucoin": {"timeInForce": "GTD", "cancelAfter": 3_601},
        "binanceusdm": {"timeInForce": "GTD", "goodTillDate": NOON_MS + 3_600_500},
        "bybit": {},
    }


def test_what_the_market_or_the_exchange_does_not_take_is_not_sent():
    usdm = facts_of("binanceusdm")
    assert not native_params(NOON_MS + 3_600_000, NOON_MS, replace(RULES, good_till_date=False), usdm)
    # Less than ten minutes ahead is refused there.
    assert not native_params(NOON_MS + 600_000, NOON_MS, RULES, usdm)


def test_the_rules_say_what_ccxts_features_say():
    market = {"symbol": "BTC/USDT", "base": "BTC", "quote": "USDT"}
    features = ccxt.binance().features
    spot = rules_of(market, 4, features["spot"]["createOrder"])
    swap = rules_of(market, 4, features["swap"]["linear"]["createOrder"])
    assert (spot.good_till_date, spot.trailing, spot.cost_orders) == (False, False, True)
    assert (swap.good_till_date, swap.trailing) == (True, True)
