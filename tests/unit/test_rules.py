"""A market's rules, case by case."""

from decimal import Decimal

import ccxt
import pytest

from ccxtbt.errors import ConfigError, OrderRefusedError
from ccxtbt.trading.rules import DECIMAL_PLACES, SIGNIFICANT_DIGITS, TICK_SIZE, Rules, exact, floor_to, rules_of, text
from reference.markets import binance


@pytest.fixture(scope="module")
def rules() -> Rules:
    exchange = binance()
    return rules_of(
        exchange.market("BTC/USDT"), exchange.precisionMode, exchange.feature_value("BTC/USDT", "createOrder")
    )


def test_binances_filters_are_read_exactly(rules):
    assert (rules.symbol, rules.base, rules.quote) == ("BTC/USDT", "BTC", "USDT")
    assert (rules.lot, rules.tick) == (Decimal("0.00001"), Decimal("0.01"))
    assert (rules.amount_min, rules.amount_max) == (Decimal("0.00001"), Decimal(9000))
    assert (rules.market_min, rules.market_max) == (None, Decimal("86.5"))
    assert (rules.price_min, rules.price_max) == (Decimal("0.01"), Decimal(1000000))
    assert (rules.cost_min, rules.cost_max) == (Decimal(5), Decimal(9000000))
    assert rules.fee_rate == Decimal("0.001")
    assert rules.trigger_param == "triggerPrice"
    assert not rules.market_buy_by_cost


def test_the_precision_modes_are_ccxts():
    assert (DECIMAL_PLACES, SIGNIFICANT_DIGITS, TICK_SIZE) == (
        ccxt.DECIMAL_PLACES,
        ccxt.SIGNIFICANT_DIGITS,
        ccxt.TICK_SIZE,
    )


def test_other_precision_modes():
    market = {"symbol": "A/B", "precision": {"amount": 3, "price": 2}}
    places = rules_of(market, DECIMAL_PLACES)
    assert (places.lot, places.tick) == (Decimal("0.001"), Decimal("0.01"))
    digits = rules_of({"symbol": "A/B", "precision": {"amount": 8, "price": 5}}, SIGNIFICANT_DIGITS)
    assert digits.price(12345.678, "buy") == Decimal(12345)
    assert digits.price(12345.678, "sell") == Decimal(12346)
    assert digits.price(0.000123456, "buy") == Decimal("0.00012345")
    unknown = rules_of({"symbol": "A/B", "precision": {"amount": None, "price": None}}, TICK_SIZE)
    assert unknown.lot == unknown.tick == Decimal("1E-8")


def test_triggers_are_named_as_the_exchange_takes_them():
    market = {"symbol": "A/B"}
    assert rules_of(market, TICK_SIZE, {"stopLossPrice": True}).trigger_param == "stopLossPrice"
    assert rules_of(market, TICK_SIZE, {}).trigger_param == ""
    by_cost = rules_of(market, TICK_SIZE, {"marketBuyRequiresPrice": True, "triggerDirection": True})
    assert by_cost.market_buy_by_cost
    assert by_cost.trigger_direction


@pytest.mark.parametrize(
    ("value", "cut"),
    [
        (0.3 - 0.1, "0.2"),
        (0.1 + 0.2, "0.3"),
        (0.199999, "0.19999"),
        (0.19999999999, "0.19999"),
        (Decimal("0.19999999999999998"), "0.19999"),
        (1, "1"),
        ("0.123456789", "0.12345"),
    ],
)
def test_amounts_are_cut_to_the_lot_but_not_by_a_floats_residue(rules, value, cut):
    assert rules.amount(value) == Decimal(cut)


def test_prices_are_rounded_to_the_side_that_is_never_worse(rules):
    assert rules.price(100.001, "buy") == Decimal("100.00")
    assert rules.price(100.001, "sell") == Decimal("100.01")
    assert rules.price(0.1 + 0.2, "sell") == Decimal("0.30")
    assert rules.price(100.01, "buy") == rules.price(100.01, "sell") == Decimal("100.01")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "ten", [1]])
def test_what_is_no_number_gives_a_sentence(rules, value):
    with pytest.raises(ConfigError, match=r"size .* number"):
        rules.amount(value)
    with pytest.raises(ConfigError, match=r"price .* number"):
        rules.price(value, "buy")


@pytest.mark.parametrize("value", [0, -1, 0.0])
def test_nothing_is_not_an_order(rules, value):
    with pytest.raises(ConfigError, match="above 0"):
        rules.amount(value)
    with pytest.raises(ConfigError, match="above 0"):
        rules.price(value, "sell")


@pytest.mark.parametrize(
    ("amount", "price", "sentence"),
    [
        ("0", "100", "below BTC/USDT's smallest, 0.00001"),
        ("9001", "100", "above BTC/USDT's largest, 9000"),
        ("86.50001", None, "above BTC/USDT's largest, 86.5"),
        ("1", "0.001", "outside BTC/USDT's limits"),
        ("1", "1000001", "outside BTC/USDT's limits"),
        ("0.001", "4999.99", "worth 4.99999 USDT, below BTC/USDT's minimum of 5: order at least 0.00101"),
        ("100", "90001", "above BTC/USDT's maximum"),
    ],
)
def test_a_broken_limit_is_refused_with_the_mend(rules, amount, price, sentence):
    with pytest.raises(OrderRefusedError, match=sentence):
        rules.check(Decimal(amount), None if price is None else Decimal(price))


def test_what_keeps_the_limits_passes(rules):
    rules.check(Decimal("0.001"), Decimal(5000))
    rules.check(Decimal("86.5"), None)
    rules.check(Decimal("0.00001"), None)


def test_the_least_amount_costs_the_minimum(rules):
    assert rules.least(Decimal("4999.99")) == Decimal("0.00101")
    assert rules.least(Decimal(5000)) == Decimal("0.001")
    assert rules.least(None) == Decimal("0.00001")
    assert Rules("A/B", lot=Decimal("0.5")).least(Decimal(1)) == Decimal("0.5")


def test_exact_text_and_floor():
    assert exact(0.1, "size") == Decimal("0.1")
    assert exact(1e-8, "size") == Decimal("1E-8")
    assert [text(Decimal(n)) for n in ("1E-8", "10.500", "100", "0E-8")] == ["0.00000001", "10.5", "100", "0"]
    assert floor_to(Decimal("-0.0259"), Decimal("0.01")) == Decimal("-0.02")
    assert floor_to(Decimal("0.0259"), Decimal("0.01")) == Decimal("0.02")
