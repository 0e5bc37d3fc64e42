"""Facts out of what ccxt's real binance class parses, and out of structures with holes."""

from decimal import Decimal

import pytest

from ccxtbt.errors import DataError
from ccxtbt.trading.reports import FillFact, OrderFact, facts_of, fill_fact, order_fact
from reference.markets import binance

CREATED = {
    "symbol": "BTCUSDT", "orderId": 5403233939, "orderListId": -1, "clientOrderId": "mine",
    "transactTime": 1617151923742, "price": "0.00000000", "origQty": "0.00050000", "executedQty": "0.00050000",
    "cummulativeQuoteQty": "29.47081500", "status": "FILLED", "timeInForce": "GTC", "type": "MARKET", "side": "BUY",
    "fills": [
        {"price": "58941.63000000", "qty": "0.00040000", "commission": "0.00000040", "commissionAsset": "BTC",
         "tradeId": 737466631},
        {"price": "58941.63000000", "qty": "0.00010000", "commission": "0.00007050", "commissionAsset": "BNB",
         "tradeId": 737466632},
    ],
}  # fmt: skip

REPORT = {
    "e": "executionReport", "E": 1499405658658, "s": "BTCUSDT", "c": "mine", "S": "SELL", "o": "LIMIT", "f": "GTC",
    "q": "1.00000000", "p": "30000.10000000", "P": "0.00000000", "F": "0.00000000", "g": -1, "C": "", "x": "TRADE",
    "X": "PARTIALLY_FILLED", "r": "NONE", "i": 4293153, "l": "0.10000000", "z": "0.30000000", "L": "30000.10000000",
    "n": "3.00001000", "N": "USDT", "T": 1499405658657, "t": 77, "I": 8641984, "w": True, "m": True, "M": False,
    "O": 1499405650000, "Z": "9000.03000000", "Y": "3000.01000000", "Q": "0.00000000",
}  # fmt: skip


@pytest.fixture(scope="module")
def exchange():
    return binance()


def test_the_answer_to_a_create_tells_its_fills_and_then_how_it_stands(exchange):
    order = exchange.parse_order(CREATED, exchange.market("BTC/USDT"))
    assert facts_of(order) == [
        FillFact(
            "5403233939", "mine", "737466631", 1617151923742, Decimal("0.0004"), Decimal("58941.63"),
            Decimal("4E-7"), "BTC", None, "BTC/USDT",
        ),
        FillFact(
            "5403233939", "mine", "737466632", 1617151923742, Decimal("0.0001"), Decimal("58941.63"),
            Decimal("0.0000705"), "BNB", None, "BTC/USDT",
        ),
        OrderFact(
            "mine", "5403233939", "closed", Decimal("0.0005"), Decimal("58941.63"), Decimal("29.470815"), Decimal(0),
            1617151923742, (("BTC", Decimal("4E-7")), ("BNB", Decimal("0.0000705"))), "", "BTC/USDT",
        ),
    ]  # fmt: skip


def test_an_execution_report_as_watch_my_trades_gives_it(exchange):
    assert fill_fact(exchange.parse_ws_trade(REPORT)) == FillFact(
        "4293153", "mine", "77", 1499405658657, Decimal("0.1"), Decimal("30000.1"), Decimal("3.00001"), "USDT", True,
        "BTC/USDT", "sell",
    )  # fmt: skip


def test_an_execution_report_as_watch_orders_gives_it(exchange):
    fact = order_fact(exchange.parse_ws_order(REPORT))
    assert (fact.client_id, fact.order_id, fact.status, fact.symbol) == ("mine", "4293153", "open", "BTC/USDT")
    assert (fact.filled, fact.cost, fact.remaining) == (Decimal("0.3"), Decimal("9000.03"), Decimal("0.7"))
    assert fact.ts_ms == 1499405658657


def test_a_cancels_report_names_the_order_by_its_original_id(exchange):
    report = REPORT | {"x": "CANCELED", "X": "CANCELED", "c": "the cancel", "C": "mine", "t": -1}
    fact = order_fact(exchange.parse_ws_order(report))
    assert (fact.client_id, fact.status, fact.filled) == ("mine", "canceled", Decimal("0.3"))


def test_so_does_the_answer_to_a_cancel(exchange):
    answer = CREATED | {"clientOrderId": "the cancel", "origClientOrderId": "mine", "status": "CANCELED", "fills": []}
    fact = order_fact(exchange.parse_order(answer, exchange.market("BTC/USDT")))
    assert (fact.client_id, fact.status) == ("mine", "canceled")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        ("NEW", "open"), ("PARTIALLY_FILLED", "open"), ("FILLED", "closed"), ("CANCELED", "canceled"),
        ("PENDING_CANCEL", "open"), ("REJECTED", "rejected"), ("EXPIRED", "expired"), ("EXPIRED_IN_MATCH", "expired"),
        ("PENDING_NEW", None),
    ],
)  # fmt: skip
def test_every_status_of_binance(exchange, raw, status):
    assert order_fact(exchange.parse_ws_order(REPORT | {"X": raw})).status == status


def test_the_reason_of_a_rejection_is_kept(exchange):
    fact = order_fact(exchange.parse_ws_order(REPORT | {"X": "REJECTED", "r": "INSUFFICIENT_BALANCE"}))
    assert fact.reason == "INSUFFICIENT_BALANCE"


def test_a_trade_from_rest(exchange):
    raw = {
        "symbol": "BTCUSDT", "id": 28457, "orderId": 100234, "price": "4000.00000100", "qty": "12.00000000",
        "quoteQty": "48000.000012", "commission": "0", "commissionAsset": "BNB", "time": 1499865549590,
        "isBuyer": True, "isMaker": False, "isBestMatch": True,
    }  # fmt: skip
    fact = fill_fact(exchange.parse_trade(raw, exchange.market("BTC/USDT")))
    assert (fact.order_id, fact.client_id, fact.trade_id) == ("100234", None, "28457")
    assert (fact.price, fact.fee_cost, fact.fee_currency, fact.maker) == (
        Decimal("4000.000001"),
        Decimal(0),
        "BNB",
        False,
    )


def test_an_id_alone_says_that_the_exchange_has_the_order():
    assert facts_of({"id": "7", "info": {}}, "mine") == [OrderFact("mine", "7")]


def test_holes_are_holes():
    assert order_fact({}) == OrderFact()
    assert order_fact({"amount": 1.0, "remaining": 0.3}).filled == Decimal("0.7")
    fact = fill_fact({"amount": "1.5", "price": "2"})
    assert fact == FillFact(None, None, None, None, Decimal("1.5"), Decimal(2))
    assert fill_fact({"id": -1, "amount": 1, "price": 2, "fee": {"cost": None, "currency": None}}).trade_id is None
    assert fill_fact({"amount": 1, "price": 2, "fee": {"cost": 0.0, "currency": None}}).fee_cost == 0


def test_fees_come_once_whether_in_fee_or_in_fees():
    fee = {"cost": 0.1, "currency": "BNB"}
    assert fill_fact({"amount": 1, "price": 2, "fee": fee, "fees": [fee]}).fee_cost == Decimal("0.1")
    with pytest.raises(DataError, match="fees in 2 currencies"):
        fill_fact({"amount": 1, "price": 2, "fees": [fee, {"cost": 1, "currency": "BTC"}]})


@pytest.mark.parametrize("trade", [{"price": 1}, {"amount": 1}, {"amount": 0, "price": 1}])
def test_a_fill_without_amount_or_price_cannot_be_counted(trade):
    with pytest.raises(DataError, match="cannot be counted"):
        fill_fact(trade)


def test_garbage_in_a_number_is_told():
    with pytest.raises(DataError, match="filled 'many' is not a number"):
        order_fact({"filled": "many"})


@pytest.mark.parametrize(
    ("order", "status"),
    [
        ({"status": "open", "result": 1}, "canceled"),
        ({"status": "canceled", "result": 0}, "open"),
        ({"status": "canceled"}, "canceled"),
        ({"status": "open", "state": "done"}, "closed"),
        ({"status": "closed", "state": "live"}, "open"),
        ({"status": "closed"}, "closed"),
    ],
)
def test_a_users_own_way_to_tell_the_end(order, status):
    mappings = {"closed_order": {"key": "state", "value": "done"}, "canceled_order": {"key": "result", "value": 1}}
    assert order_fact(order, mappings).status == status
    assert order_fact({"status": "closed"}, {"closed_order": {"key": "status", "value": "closed"}}).status == "closed"


@pytest.mark.parametrize(
    ("raw", "status", "expected"),
    [
        ({"actualOrderId": ""}, "open", ("open", Decimal(0), None)),
        ({"actualOrderId": ""}, "canceled", ("canceled", Decimal(0), None)),
        ({"ai": "", "rm": "Margin is insufficient."}, "rejected", ("rejected", Decimal(0), None)),
        # What became of it is told by the order that it is now.
        ({"ai": "77"}, "closed", (None, None, "77")),
        ({"actualOrderId": "77"}, "canceled", (None, None, "77")),
        ({}, "closed", ("closed", Decimal(1), None)),
    ],
)
def test_a_conditional_order_ends_as_the_order_that_it_becomes(raw, status, expected):
    fact = order_fact({"id": "3", "status": status, "amount": 1, "filled": 1, "remaining": 0, "info": raw})
    assert (fact.status, fact.filled, fact.became) == expected


@pytest.mark.parametrize("key", ["realizedPnl", "rp"])
def test_a_contracts_fill_tells_what_it_has_gained(key):
    trade = {"id": "1", "order": "2", "amount": 1, "price": 5, "info": {key: "-0.12345678"}}
    assert fill_fact(trade).realized == Decimal("-0.12345678")
    assert fill_fact({**trade, "info": {}}).realized is None
