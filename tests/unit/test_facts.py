"""What the Binance family is known to allow, and that its budgets learn what it tells."""

from __future__ import annotations

import inspect

import ccxt.pro
import pytest

from ccxtbt.exchange.adapter import Hooks, open_async
from ccxtbt.exchange.budgets import Budget
from ccxtbt.exchange.clock import Clock
from ccxtbt.exchange.exchanges import facts_of

FAMILY = {
    "binance": "https://api.binance.com/api/v3/exchangeInfo",
    "binanceusdm": "https://fapi.binance.com/fapi/v1/exchangeInfo",
    "binancecoinm": "https://dapi.binance.com/dapi/v1/exchangeInfo",
    "binanceus": "https://api.binance.us/api/v3/exchangeInfo",
}
# The form of Binance's answer, with limits that are none of those in the table.
TOLD = (
    '{"timezone":"UTC","serverTime":1700000000000,"futuresType":"U_MARGINED","rateLimits":['
    '{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":777},'
    '{"rateLimitType":"ORDERS","interval":"SECOND","intervalNum":10,"limit":11},'
    '{"rateLimitType":"ORDERS","interval":"MINUTE","intervalNum":1,"limit":99}],"symbols":[]}'
)
# In the middle of a window of 10 s, and of one of a minute.
NOW_MS = 1_700_000_015_000.0


@pytest.mark.parametrize("name", FAMILY)
def test_the_limits_that_an_exchange_tells_go_before_the_table(name):
    budget = Budget(name, facts_of(name))
    key = budget.key("key")
    budget.answered(key, f"{FAMILY[name]}?x=1", {}, TOLD, NOW_MS, NOW_MS)
    (minute,) = budget.requests.stats().rules
    assert (minute.limit, minute.window_s) == (pytest.approx(777 * 0.995), 60)
    for orders in (key.orders, budget.key("a later one").orders):
        assert [(rule.limit, rule.window_s) for rule in orders.stats().rules] == [(11, 10), (99, 60)]
    # The answer of another of its addresses is not this one's.
    elsewhere = Budget(name, facts_of(name))
    elsewhere.answered(elsewhere.key("key"), FAMILY[name].replace("exchangeInfo", "time"), {}, TOLD, NOW_MS, NOW_MS)
    assert elsewhere.requests.stats().rules[0].limit != minute.limit


@pytest.mark.parametrize("name", FAMILY)
def test_what_others_use_is_learnt_from_headers(name):
    facts = facts_of(name)
    budget = Budget(name, facts)
    key = budget.key("key")
    counts = {header.upper(): "7" for header, _ in facts.order_count_headers}
    budget.answered(key, "https://x/time", {"X-MBX-USED-WEIGHT-1M": "321", **counts}, "{}", NOW_MS, NOW_MS)
    assert budget.requests.stats().rules[0].used >= 321
    assert [rule.used for rule in key.orders.stats().rules] == [7] * len(facts.order_windows)
    assert [window_ms for _, window_ms in facts.order_count_headers] == [window for _, window in facts.order_windows]


@pytest.mark.parametrize(
    ("name", "section", "weight"),
    [
        ("binance", "public", 2),
        ("binanceusdm", "fapiPublic", 5),
        ("binancecoinm", "dapiPublic", 5),
        ("binanceus", "public", 1),
    ],
)
def test_a_page_of_bars_weighs_what_ccxt_and_the_exchange_say(name, section, weight):
    exchange = getattr(ccxt.pro, name)()
    config = exchange.api[section]["get"]["klines"]
    cost = exchange.calculate_rate_limiter_cost(section, "GET", "klines", {"limit": 1_000}, config)
    assert cost * facts_of(name).weight_per_cost == pytest.approx(weight)


@pytest.mark.parametrize("name", FAMILY)
def test_start_up_options_are_read_by_the_class(name):
    # Not all that ccxt reads stands among its defaults.
    sources = "".join(inspect.getsource(cls) for cls in getattr(ccxt.pro, name).__mro__ if cls is not object)
    missing = [option for option in facts_of(name).startup_options if f"'{option}'" not in sources]
    assert not missing


def test_a_cost_may_be_that_of_one_kind_of_question_alone():
    """Hyperliquid answers everything at one address; its bars weigh more than ccxt reckons, the rest does not."""
    facts = facts_of("hyperliquid")
    budget = Budget("hyperliquid", facts)
    exchange = open_async("hyperliquid", {}, Hooks(Clock(), budget, budget.key("key")))
    config = exchange.api["public"]["post"]["info"]

    def cost(kind):
        return exchange.calculate_rate_limiter_cost("public", "POST", "info", {"type": kind}, config)

    assert cost("candleSnapshot") == facts.costs["public/info?type=candleSnapshot"] > config["byType"]["candleSnapshot"]
    assert cost("orderStatus") == config["byType"]["orderStatus"]
    assert cost("meta") == config["cost"]
