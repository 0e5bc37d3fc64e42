"""From a backtrader order to a request, through ccxt's own request building for the wire's last word."""

from dataclasses import replace
from decimal import Decimal

import backtrader as bt
import numpy as np
import pandas as pd
import pytest

from ccxtbt.errors import ConfigError, NotOfferedError, OrderRefusedError
from ccxtbt.exchange.facts import Trail
from ccxtbt.trading.orders import Request, request_of, trails_there, waits_here
from ccxtbt.trading.rules import Rules, rules_of
from reference.markets import binance

SYMBOL = "BTC/USDT"


@pytest.fixture(scope="module")
def exchange():
    return binance()


@pytest.fixture(scope="module")
def rules(exchange):
    return rules_of(exchange.market(SYMBOL), exchange.precisionMode, exchange.feature_value(SYMBOL, "createOrder"))


@pytest.fixture(scope="module")
def data():
    index = pd.date_range("2024-01-01", periods=3, freq="min")
    frame = pd.DataFrame(dict.fromkeys(("open", "high", "low", "close", "volume"), 30000.0), index=index)
    cerebro = bt.Cerebro(stdstats=False)
    cerebro.adddata(bt.feeds.PandasData(dataname=frame))
    cerebro.addstrategy(bt.Strategy)
    return cerebro.run()[0].data


@pytest.fixture
def order(data):
    def make(side, exectype, size=0.01, price=None, plimit=None, **more):
        kind = bt.BuyOrder if side == "buy" else bt.SellOrder
        return kind(owner=None, data=data, size=size, price=price, pricelimit=plimit, exectype=exectype, **more)

    return make


def wire(exchange, request: Request) -> dict:
    """Return what ccxt's own class would send."""
    symbol, kind, side, amount, price, params = request.arguments()
    sent = exchange.create_order_request(symbol, kind, side, amount, price, params)
    return {key: str(value) for key, value in sent.items() if key not in ("symbol", "newOrderRespType")}


def test_each_exectype_on_binances_wire(exchange, rules, order):
    market = request_of(order("buy", bt.Order.Market), rules, "id1")
    assert wire(exchange, market) == {
        "side": "BUY", "type": "MARKET", "quantity": "0.01", "newClientOrderId": "id1",
    }  # fmt: skip
    assert request_of(order("sell", bt.Order.Close), rules, "id1").type == "market"
    limit = request_of(order("sell", bt.Order.Limit, price=30_000.123), rules, "id2")
    assert wire(exchange, limit) == {
        "side": "SELL", "type": "LIMIT", "quantity": "0.01", "price": "30000.13", "timeInForce": "GTC",
        "newClientOrderId": "id2",
    }  # fmt: skip
    stop = request_of(order("sell", bt.Order.Stop, price=29_000.0), rules, "id3")
    assert wire(exchange, stop) == {
        "side": "SELL", "type": "STOP_LOSS", "quantity": "0.01", "stopPrice": "29000", "newClientOrderId": "id3",
    }  # fmt: skip
    both = request_of(order("buy", bt.Order.StopLimit, price=31_000.0, plimit=31_010.0), rules, "id4")
    assert wire(exchange, both) == {
        "side": "BUY", "type": "STOP_LOSS_LIMIT", "quantity": "0.01", "stopPrice": "31000", "price": "31010",
        "timeInForce": "GTC", "newClientOrderId": "id4",
    }  # fmt: skip


def test_a_stop_limit_without_a_limit_limits_at_its_trigger(rules, order):
    request = request_of(order("sell", bt.Order.StopLimit, price=29_000.0), rules, "a")
    assert request.price == Decimal(29_000)
    assert request.params["triggerPrice"] == "29000"


def test_a_market_order_never_carries_the_close_as_its_price(rules, order):
    buy = order("buy", bt.Order.Market)
    assert buy.created.price == 30_000.0
    assert request_of(buy, rules, "a").price is None


@pytest.mark.parametrize("name", ["STOP_LOSS_LIMIT", "stop limit", "stop-loss-limit"])
def test_an_old_scripts_stop_limit_has_its_trigger_among_the_parameters(exchange, rules, order, name):
    old, params = order("sell", bt.Order.StopLimit, price=28_900.0), {"stopPrice": 29_000.5}
    request = request_of(old, rules, "a", params=params, order_types={bt.Order.StopLimit: name})
    sent = wire(exchange, request)
    assert (sent["type"], sent["price"], sent["stopPrice"]) == ("STOP_LOSS_LIMIT", "28900", "29000.5")
    assert params == {"stopPrice": 29_000.5}


def test_an_old_scripts_take_profit(exchange, rules, order):
    old = order("sell", bt.Order.StopLimit, price=31_000.0)
    types = {bt.Order.StopLimit: "TAKE_PROFIT_LIMIT"}
    sent = wire(exchange, request_of(old, rules, "a", params={"stopPrice": 31_000}, order_types=types))
    assert (sent["type"], sent["price"], sent["stopPrice"]) == ("TAKE_PROFIT_LIMIT", "31000", "31000")


def test_a_name_that_only_the_exchange_knows_goes_as_it_is(rules, order):
    request = request_of(
        order("buy", bt.Order.StopLimit, price=1.0, plimit=10_000.0), rules, "a",
        order_types={bt.Order.StopLimit: "conditional", bt.Order.Limit: "exchange limit"},
    )  # fmt: skip
    assert (request.type, request.price, request.params["triggerPrice"]) == ("conditional", Decimal(10_000), "1")
    limit = order("buy", bt.Order.Limit, price=10_000.0)
    assert request_of(limit, rules, "a", order_types={bt.Order.Limit: "exchange limit"}).type == "exchange limit"


def test_the_users_parameters_are_passed_and_theirs_is_the_client_id(rules, order):
    params = {"postOnly": True, "clientOrderId": "mine"}
    request = request_of(order("buy", bt.Order.Limit, price=30_000.0), rules, "ours", params=params)
    assert request.client_id == "mine"
    assert request.params == {"postOnly": True, "clientOrderId": "mine"}
    assert params == {"postOnly": True, "clientOrderId": "mine"}
    nameless = request_of(order("buy", bt.Order.Limit, price=30_000.0), rules, "ours", client_id_param="")
    assert (nameless.client_id, nameless.params) == ("ours", {})


def test_two_triggers_are_one_too_many(rules, order):
    with pytest.raises(ConfigError, match="one trigger price, not 2"):
        request_of(order("sell", bt.Order.Stop, price=1.0), rules, "a", params={"stopPrice": 2, "triggerPrice": 3})


def test_a_stop_whose_trigger_has_passed_is_sent_as_what_it_becomes(rules, order):
    stop = request_of(order("sell", bt.Order.Stop, price=29_000.0), rules, "a", triggered=True)
    assert (stop.type, stop.price, "triggerPrice" in stop.params) == ("market", None, False)
    both = order("sell", bt.Order.StopLimit, price=29_000.0, plimit=28_900.0)
    limit = request_of(both, rules, "a", triggered=True)
    assert (limit.type, limit.price, "triggerPrice" in limit.params) == ("limit", Decimal(28_900), False)


def test_an_exit_may_be_sent_smaller_than_it_was_asked_for(rules, order):
    stop = order("sell", bt.Order.Stop, size=1.0, price=29_000.0)
    assert request_of(stop, rules, "a", size=Decimal("0.99912")).amount == Decimal("0.99912")


def test_what_is_rounded_is_noted(rules, order):
    request = request_of(order("buy", bt.Order.Limit, size=0.123456, price=30_000.001), rules, "a")
    assert (request.amount, request.price) == (Decimal("0.12345"), Decimal("30000.00"))
    assert request.notes == ("size 0.123456 cut to 0.12345", "price 30000.001 rounded to 30000")
    assert not request_of(order("buy", bt.Order.Limit, size=0.1, price=30_000.0), rules, "a").notes


def test_numbers_go_as_floats_only_where_a_float_says_the_same(rules):
    request = Request("a", SYMBOL, "limit", "buy", Decimal("123456789012.12345678"), Decimal("0.00000001"))
    assert request.arguments()[3:5] == ("123456789012.12345678", 1e-08)


@pytest.mark.parametrize("exectype", [bt.Order.StopTrail, bt.Order.StopTrailLimit, bt.Order.Historical])
def test_what_cannot_be_sent_is_refused_with_a_sentence(rules, order, exectype):
    with pytest.raises(NotOfferedError, match=f"{bt.Order.ExecTypes[exectype]} order cannot be sent.*use Market"):
        request_of(order("sell", exectype, price=1.0), rules, "a")


@pytest.mark.parametrize("bad", [{"size": float("nan")}, {"price": float("nan")}, {"size": np.float64("inf")}])
def test_a_programming_error_gives_a_sentence(rules, order, bad):
    with pytest.raises(ConfigError, match="not a finite number"):
        request_of(order("buy", bt.Order.Limit, **{"price": 30_000.0, **bad}), rules, "a")


def test_the_markets_limits_are_kept(rules, order):
    with pytest.raises(OrderRefusedError, match="minimum of 5"):
        request_of(order("buy", bt.Order.Limit, size=0.0001, price=30_000.0), rules, "a")


def test_a_buy_by_cost_is_priced_and_marked(rules, order):
    buy = order("buy", bt.Order.Market)
    by_cost = replace(rules, market_buy_by_cost=True)
    request = request_of(buy, by_cost, "a")
    assert (request.price, request.by_cost) == (Decimal(30_000), True)
    assert request_of(buy, by_cost, "a", params={"cost": 50}).price is None
    assert request_of(buy, rules, "a", params={"quoteOrderQty": 50}).by_cost
    assert not request_of(order("sell", bt.Order.Market), by_cost, "a").by_cost


def test_the_direction_of_a_trigger_is_told_where_it_is_asked_for(rules, order):
    asked = replace(rules, trigger_direction=True)
    assert request_of(order("sell", bt.Order.Stop, price=1.0), asked, "a").params["triggerDirection"] == "descending"
    assert request_of(order("buy", bt.Order.Stop, price=1.0), asked, "a").params["triggerDirection"] == "ascending"
    profit = {bt.Order.Stop: "take_profit"}
    sell = request_of(order("sell", bt.Order.Stop, price=1.0), asked, "a", order_types=profit)
    assert (sell.params["triggerDirection"], sell.params["takeProfitPrice"]) == ("ascending", "1")


def test_the_trigger_is_named_as_the_exchange_names_it(rules, order):
    kraken = replace(rules, trigger_param="stopLossPrice")
    stop = request_of(
        order("sell", bt.Order.Stop, price=29_000.0), kraken, "a", order_types={bt.Order.Stop: "stop-loss"}
    )
    assert (stop.type, stop.params["stopLossPrice"]) == ("market", "29000")


def test_a_trailing_stop_is_told_in_the_exchanges_words(rules, order):
    made, trailing = order("sell", bt.Order.StopTrail, trailpercent=0.015), ("trailingPercent",)
    swap = replace(rules, trailing=True)
    assert trails_there(made, swap, trailing)
    assert not waits_here(made, swap, {}, trailing)
    request = request_of(made, swap, "a", trailing_params=trailing)
    # backtrader's is a share, ccxt's a percentage.
    assert (request.type, request.price, request.params["trailingPercent"]) == ("market", None, "1.5")
    by_amount = request_of(
        order("sell", bt.Order.StopTrail, trailamount=5.5),
        swap,
        "a",
        trailing_params=("trailingAmount",),
    )
    assert by_amount.params["trailingAmount"] == "5.5"


@pytest.mark.parametrize(
    ("exectype", "given", "trailing", "taken"),
    [
        (bt.Order.StopTrail, {"trailamount": 5.0}, True, ("trailingPercent",)),
        (bt.Order.StopTrail, {"trailpercent": 0.1}, False, ("trailingPercent",)),
        (bt.Order.StopTrailLimit, {"trailpercent": 0.1}, True, ("trailingPercent",)),
        (bt.Order.StopTrail, {"trailpercent": 0.1}, True, ()),
    ],
)
def test_what_the_exchange_cannot_trail_is_watched_here(order, exectype, given, trailing, taken):
    made = order("sell", exectype, price=30_000.0, plimit=29_900.0, **given)
    assert waits_here(made, Rules("BTC/USDT", trailing=trailing), {}, taken)


@pytest.mark.parametrize(
    ("price", "percent", "there"),
    [
        (None, 0.001, True),
        (30_000.0, 0.2, True),
        (None, 0.0123, True),
        (None, 0.0009, False),
        (None, 0.21, False),
        (None, 0.01234, False),
        (30_001.0, 0.01, False),
    ],
    ids=["least", "most", "on the step", "too near", "too far", "too fine", "from a price of the user's"],
)
def test_a_trailing_stop_is_the_exchanges_as_far_as_that_can_have_it(order, price, percent, there):
    rules = Rules("BTC/USDT", trailing=True, trail=Trail("0.1", "20", "0.01", params={"stopLossOrTakeProfit": "stop"}))
    made = order("sell", bt.Order.StopTrail, price=price, trailpercent=percent)
    assert trails_there(made, rules, ("trailingPercent",)) is there
    if there:
        request = request_of(made, rules, "a", trailing_params=("trailingPercent",))
        assert request.params["stopLossOrTakeProfit"] == "stop"


def test_a_stop_where_ccxt_knows_no_trigger_is_watched_here_unless_the_user_says_how(order):
    made, rules = order("sell", bt.Order.Stop, price=60_000.0), Rules("BTC/USDT", trigger_param="")
    assert waits_here(made, rules, {}, ())
    assert not waits_here(made, rules, {bt.Order.Stop: "stop-loss"}, ())
    assert not waits_here(made, Rules("BTC/USDT"), {}, ())


def test_a_buy_by_cost_on_binances_wire(exchange, rules, order):
    request = request_of(order("buy", bt.Order.Market, size=1), rules, "id1", cost=250)
    assert request.by_cost
    assert wire(exchange, request) == {
        "side": "BUY", "type": "MARKET", "quoteOrderQty": "250", "newClientOrderId": "id1",
    }  # fmt: skip
    # The amount is a guess, by the last price.
    assert request.amount == Decimal("0.00833")


def test_a_buy_by_cost_where_there_is_none_has_its_size_reckoned(rules, order):
    request = request_of(order("buy", bt.Order.Market, size=1), replace(rules, cost_orders=False), "id1", cost=250)
    assert (request.amount, request.by_cost) == (Decimal("0.00833"), False)
    assert "cost" not in request.params
