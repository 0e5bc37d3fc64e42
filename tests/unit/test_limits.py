"""Limits of a user's own."""

from decimal import Decimal

import pytest

from ccxtbt.errors import ConfigError, OrderRefusedError
from ccxtbt.trading.limits import NO_LIMITS, Limits
from ccxtbt.trading.rules import Rules

D = Decimal
RULES = Rules("BTC/USDT", "BTC", "USDT")


def test_without_limits_everything_is_allowed():
    NO_LIMITS.check_order(RULES, D(10**9), D(10**9))
    NO_LIMITS.check_open(10**9)
    NO_LIMITS.check_position(RULES, D(0), D(0), D(10**9))


def test_the_limit_itself_is_allowed():
    limits = Limits.of(1_000, 2, 1.5)
    limits.check_order(RULES, D(1), D(1_000))
    limits.check_open(1)
    limits.check_position(RULES, D("0.5"), D("0.5"), D("0.5"))


@pytest.mark.parametrize(
    ("check", "given", "reason"),
    [
        ("check_order", (RULES, D(1), D("1000.01")), "max_order_value=1000"),
        ("check_open", (2,), "max_open_orders=2"),
        ("check_position", (RULES, D("0.5"), D("0.5"), D("0.6")), "max_position=1.5"),
        ("check_position", (RULES, D(-1), D(0), D("-0.6")), "max_position=1.5"),
    ],
)
def test_what_is_beyond_is_refused_with_the_limit(check, given, reason):
    with pytest.raises(OrderRefusedError, match=reason):
        getattr(Limits.of(1_000, 2, 1.5), check)(*given)


def test_what_makes_a_position_smaller_is_allowed_beyond_the_limit():
    Limits.of(None, None, 1).check_position(RULES, D(3), D(0), D(-1))


@pytest.mark.parametrize("given", [(0, None, None), (None, -1, None), (None, None, "much")])
def test_a_limit_that_is_none_is_refused(given):
    with pytest.raises(ConfigError):
        Limits.of(*given)
