"""ExchangeConfig: every exchange of ccxt resolves to something true, or to a sentence that says what is not offered."""

from __future__ import annotations

from typing import Any

import backtrader as bt
import ccxt
import ccxt.async_support
import ccxt.pro
import pytest

from ccxtbt import CCXTStore, ExchangeConfig
from ccxtbt.errors import ConfigError, NotOfferedError
from ccxtbt.exchange.exchanges import NO_CLIENT_IDS, TABLE, facts_of
from ccxtbt.exchange.offers import KINDS, offer_of
from ccxtbt.market.timeframes import parse, to_backtrader
from ccxtbt.trading.orders import waits_here
from ccxtbt.trading.rules import TICK_SIZE, rules_of

T, Order = bt.TimeFrame, bt.Order
SENT = (Order.Market, Order.Close, Order.Limit, Order.Stop, Order.StopLimit, Order.StopTrail, Order.StopTrailLimit)
MOST_USED = [
    "binance", "binanceusdm", "bybit", "okx", "kraken", "krakenfutures", "coinbase", "gate", "kucoin", "bitget", "mexc",
    "htx", "hyperliquid", "cryptocom", "bitstamp",
]  # fmt: skip


def told(ask: Any, *arguments: Any) -> Any:
    """Return an answer, or the sentence that says that there is none; anything else is an error."""
    try:
        return ask(*arguments)
    except NotOfferedError as error:
        return str(error)


def is_sentence(answer: Any, name: str) -> bool:
    return isinstance(answer, str) and name in answer and len(answer.split()) > 5


@pytest.mark.parametrize("name", ccxt.exchanges)
def test_every_exchange_offers_something_true_or_says_that_it_does_not(name: str) -> None:
    exchange = getattr(ccxt.pro if name in ccxt.pro.exchanges else ccxt.async_support, name)()
    kinds = [kind for kind in KINDS if exchange.has.get(kind)]
    assert kinds

    timeframes = told(ExchangeConfig.get_supported_timeframes, name)
    if exchange.has.get("fetchOHLCV") and exchange.timeframes:
        assert set(timeframes) <= set(exchange.timeframes)
        # What is left out is no timeframe at all, such as '15'.
        assert len(timeframes) >= len(exchange.timeframes) - 2 > 0
        for text in timeframes:
            found = ExchangeConfig.get_timeframe(name, to_backtrader(text))
            assert parse(found).nominal_ms == parse(text).nominal_ms
    else:
        assert is_sentence(timeframes, name)
        assert is_sentence(told(ExchangeConfig.get_timeframe, name, T.Minutes), name)

    assert 0 < ExchangeConfig.get_rate_limit(name) < 1_000_000
    for kind in kinds:
        fees = told(ExchangeConfig.get_fees, name, kind)
        # A maker's fee may be paid back to him.
        assert is_sentence(fees, name) or (-0.01 < fees["maker"] < 0.05 and 0 <= fees["taker"] < 0.05)

        limits = ExchangeConfig.get_limits(name, kind)
        bars = limits.pop("bars_per_request")
        assert is_sentence(told(offer_of(name).page_limit, kind), name) if bars is None else bars >= 10
        assert all(limit > 0 for limit in limits.values())

        features = offer_of(name).features(kind, "createOrder")
        for bt_type in SENT:
            sent = told(ExchangeConfig.get_order_type, name, bt_type, kind)
            if not exchange.has.get("createOrder"):
                assert is_sentence(sent, name)
                continue
            assert sent in {"market", "limit", "stop", "stop limit", "trailing stop"}
            if bt_type in (Order.Stop, Order.StopLimit) and features is not None:
                native = bool(features.get("triggerPrice") or features.get("stopLossPrice"))
                assert ExchangeConfig.supports_order_type(name, bt_type, kind) is native
        params = ExchangeConfig.get_params(name, kind)
        assert ("client_id" in params) is (name not in NO_CLIENT_IDS)
        assert all(params.values())
        with pytest.raises(NotOfferedError, match=r"not sent to any exchange|takes no orders"):
            ExchangeConfig.get_order_type(name, Order.Historical, kind)
    for status in ("open", "closed", "canceled"):
        assert ExchangeConfig.get_order_status(name, status) in {"open", "closed", "canceled"}


def test_the_most_used_exchanges_have_facts_of_their_own() -> None:
    assert set(MOST_USED) <= set(TABLE)
    assert all(facts_of(name) is TABLE[name] for name in MOST_USED)
    # And all that is in the table is an exchange.
    assert set(TABLE) | NO_CLIENT_IDS <= set(ccxt.exchanges)
    assert not set(TABLE) & NO_CLIENT_IDS


@pytest.mark.parametrize(
    ("name", "kind", "bt_type", "sent", "native"),
    [
        ("binance", "spot", Order.Market, "market", True),
        ("binance", "spot", Order.StopLimit, "stop limit", True),
        ("binance", "spot", Order.StopTrail, "market", False),
        ("binanceusdm", "swap", Order.StopTrail, "trailing stop", True),
        ("binanceusdm", "swap", Order.StopTrailLimit, "limit", False),
        ("bybit", "swap", Order.StopTrail, "market", False),
        ("okx", "spot", Order.StopTrail, "trailing stop", True),
        ("mexc", "spot", Order.Stop, "market", False),
        ("bitstamp", "spot", Order.StopLimit, "limit", False),
    ],
)
def test_order_types(name: str, kind: str, bt_type: int, sent: str, native: bool) -> None:
    assert ExchangeConfig.get_order_type(name, bt_type, kind) == sent
    assert ExchangeConfig.supports_order_type(name, bt_type, kind) is native


@pytest.mark.parametrize("name", MOST_USED)
def test_what_it_says_of_stops_is_what_a_live_run_does(name: str) -> None:
    offer = offer_of(name)
    data = bt.feeds.DataBase()
    for kind in offer.kinds:
        rules = rules_of({"symbol": name}, TICK_SIZE, offer.features(kind, "createOrder"))
        for bt_type in (Order.Stop, Order.StopLimit, Order.StopTrail, Order.StopTrailLimit):
            waits = []
            for trail in ({"trailamount": 1.0}, {"trailpercent": 0.01}):
                order = bt.SellOrder(
                    data=data, size=1.0, price=9.0, pricelimit=9.0, exectype=bt_type, simulated=True, **trail
                )
                waits.append(waits_here(order, rules, {}, offer.facts.trailing_params))
            assert ExchangeConfig.supports_order_type(name, bt_type, kind) is not all(waits)


def test_timeframes_in_backtraders_words() -> None:
    assert ExchangeConfig.get_timeframe("binance", T.Minutes) == "1m"
    assert ExchangeConfig.get_timeframe("binance", T.Minutes, 60) == "1h"
    assert ExchangeConfig.get_timeframe("kraken", (T.Weeks, 2)) == "2w"
    with pytest.raises(NotOfferedError, match="7m"):
        ExchangeConfig.get_timeframe("binance", T.Minutes, 7)


def test_the_exchanges_own_words_for_a_status() -> None:
    assert ExchangeConfig.get_order_status("binance", "PARTIALLY_FILLED") == "open"
    assert ExchangeConfig.get_order_status("okx", "live") == "open"
    assert ExchangeConfig.get_order_status("kucoin", "closed") == "closed"
    with pytest.raises(ConfigError, match="no status"):
        ExchangeConfig.get_order_status("binance", "lost in the post")


def test_parameters_and_fees() -> None:
    assert ExchangeConfig.get_params("coinbase") == {
        "client_id": "client_order_id",
        "trigger": "triggerPrice",
        "take_profit": "takeProfitPrice",
        "expiry": "end_time",
        "cost": "cost",
    }
    assert ExchangeConfig.get_params("kraken")["trigger"] == "stopLossPrice"
    assert ExchangeConfig.get_fees("binance") == {"maker": 0.001, "taker": 0.001}
    with pytest.raises(NotOfferedError, match="no usual fees of weex"):
        # ccxt has 0.1 for a tenth of a percent there.
        ExchangeConfig.get_fees("weex")
    assert ExchangeConfig.get_rate_limit("binanceusdm") == 2_400
    assert ExchangeConfig.get_rate_limit("binance") == 1_200
    assert ExchangeConfig.get_rate_limit("bybit") == 3_000


def test_an_exchange_may_be_named_or_given_and_a_stores_facts_win() -> None:
    assert ExchangeConfig.get_fees(ccxt.binance()) == ExchangeConfig.get_fees("binance")
    own = facts_of("binance").__class__(client_id_param="mine", rest_windows=((60, 60_000),))
    # Of keys that no other test has: stores of one account are one.
    store = CCXTStore("binance", config={"apiKey": "of this test alone"}, facts=own)
    assert ExchangeConfig.get_params(store)["client_id"] == "mine"
    assert ExchangeConfig.get_rate_limit(store) == 60


def test_what_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match=r"bynance.*not an exchange of ccxt"):
        ExchangeConfig.get_fees("bynance")
    with pytest.raises(NotOfferedError, match="kraken has no swap markets: choose one of spot"):
        ExchangeConfig.get_fees("kraken", "swap")
