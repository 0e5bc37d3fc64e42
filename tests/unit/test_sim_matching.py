"""The matching engine against markets whose every trade is written down here."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccxtbt.sim.clock import ManualClock
from ccxtbt.sim.filters import describe
from ccxtbt.sim.market import Market, Replay
from ccxtbt.sim.matching import (
    Account,
    BalanceEvent,
    BookTickerEvent,
    Exchange,
    KlineEvent,
    OrderEvent,
    OrderRequest,
    Reject,
    TradeEvent,
)
from matched import BOUGHT, SOLD, SPEC, START_MS, Bench, D


def refusal(call, *args, **fields):
    with pytest.raises(Reject) as caught:
        call(*args, **fields)
    return caught.value.code, caught.value.message


# Fills


def test_a_market_order_takes_several_levels_at_once():
    bench = Bench((1, "100", "1", SOLD))
    _, _, asks = bench.exchange.book("BTCUSDT", 3)
    (first, first_qty), (second, second_qty), _ = [(D(price), D(qty)) for price, qty in asks]
    order = bench.place("BUY", "MARKET", quantity=first_qty + D("0.001"))
    assert order.status == "FILLED"
    assert [(fill.price, fill.qty) for fill in order.fills] == [(first, first_qty), (second, D("0.001"))]
    assert first < second
    assert order.cum_quote == sum(fill.quote for fill in order.fills) == first * first_qty + second * D("0.001")
    assert bench.funds("USDT") == (10_000 - order.cum_quote, 0)
    assert bench.funds("BTC") == (10 + order.executed - sum(fill.commission for fill in order.fills), 0)
    assert [fill.commission_asset for fill in order.fills] == ["BTC", "BTC"]
    # The depth that was taken is gone until the next public trade.
    assert bench.exchange.book("BTCUSDT", 1)[2] == [(f"{second:.8f}", f"{second_qty - D('0.001'):.8f}")]
    bench.run(1)
    market = bench.markets["BTCUSDT"]
    ticks, steps = next(market.levels("ask"))
    assert bench.exchange.book("BTCUSDT", 1)[2] == [(market.price_text(ticks), market.qty_text(steps))]
    assert market.price(ticks) == first


def test_a_resting_buy_fills_at_its_price_by_at_most_what_trades():
    bench = Bench((1, "99.00", "0.4", SOLD), (2, "99.01", "5", SOLD), (3, "98.00", "0.25", SOLD), (4, "99", "9", SOLD))
    order = bench.place("BUY", "LIMIT", quantity="1", price="99")
    assert (order.status, bench.funds("USDT")) == ("NEW", (D(9901), D(99)))
    seen = []
    for second in (1, 2, 3, 4):
        bench.run(second)
        seen.append((order.status, order.executed, *bench.funds("USDT")))
    assert seen == [
        ("PARTIALLY_FILLED", D("0.4"), D(9901), D("59.4")),
        ("PARTIALLY_FILLED", D("0.4"), D(9901), D("59.4")),
        ("PARTIALLY_FILLED", D("0.65"), D(9901), D("34.65")),
        ("FILLED", D(1), D(9901), D(0)),
    ]
    assert [(fill.trade_id, fill.qty, fill.price, fill.is_maker) for fill in order.fills] == [
        (1, D("0.4"), D(99), True),
        (2, D("0.25"), D(99), True),
        (3, D("0.35"), D(99), True),
    ]
    assert [fill.ts_ms - START_MS for fill in order.fills] == [1000, 3000, 4000]


def test_a_resting_sale_fills_when_the_price_rises_and_pays_the_fee_in_quote():
    bench = Bench((1, "101.5", "2", BOUGHT), maker_fee=D("0.0005"))
    order = bench.place("SELL", "LIMIT", quantity="1.5", price="101.00")
    assert bench.funds("BTC") == (D("8.5"), D("1.5"))
    bench.run(1)
    assert order.status == "FILLED"
    assert [(fill.commission, fill.commission_asset) for fill in order.fills] == [(D("0.07575"), "USDT")]
    assert bench.funds("USDT") == (10_000 + D("151.5") - D("0.07575"), 0)
    assert bench.funds("BTC") == (D("8.5"), 0)


def test_price_then_age_decides_who_is_filled():
    bench = Bench((1, "98", "2.5", SOLD))
    later_but_better = D("98.50")
    old = bench.place("BUY", "LIMIT", quantity="1", price="98.20")
    young = bench.place("BUY", "LIMIT", quantity="1", price="98.20")
    best = bench.place("BUY", "LIMIT", quantity="1", price=later_but_better)
    bench.run(1)
    assert (best.executed, old.executed, young.executed) == (1, 1, D("0.5"))


def test_a_marketable_limit_takes_at_better_prices_and_rests_with_the_remainder():
    bench = Bench()
    _, _, asks = bench.exchange.book("BTCUSDT", 50)
    limit = D(asks[2][0])
    available = sum(D(qty) for price, qty in asks if D(price) <= limit)
    order = bench.place("BUY", "LIMIT", quantity=available + 1, price=limit)
    assert (order.status, order.executed) == ("PARTIALLY_FILLED", available)
    assert max(fill.price for fill in order.fills) == limit > min(fill.price for fill in order.fills)
    assert bench.funds("USDT") == (10_000 - order.cum_quote - limit, limit)
    # It stands in the book now, above the synthetic bids.
    assert bench.exchange.book("BTCUSDT", 1)[1] == [(f"{limit:.8f}", "1.00000000")]
    assert D(bench.exchange.book("BTCUSDT", 1)[2][0][0]) > limit


def test_what_is_due_happens_before_a_request():
    bench = Bench((1, "98", "5", SOLD))
    bench.clock.advance(1500)
    order = bench.place("BUY", "LIMIT", quantity="0.1", price="99")
    assert (order.status, order.fills[0].is_maker, order.created_ms) == ("FILLED", False, START_MS + 1500)
    assert D(98) < order.fills[0].price < D("98.10")


def test_the_book_is_never_crossed():
    bench = Bench((1, "98", "0.1", SOLD), (2, "103", "0.1", BOUGHT))
    bench.place("BUY", "LIMIT", quantity="1", price="99")
    bench.place("SELL", "LIMIT", quantity="1", price="102")
    for second, own in ((1, "99.00000000"), (2, "102.00000000")):
        bench.run(second)
        _, bids, asks = bench.exchange.book("BTCUSDT", 100)
        assert D(bids[0][0]) < D(asks[0][0])
        assert own in {bids[0][0], asks[0][0]}


def test_a_worth_beyond_eight_decimals_is_locked_upwards_and_paid_downwards():
    spec = replace(SPEC, step_size=D("0.00000001"), min_qty=D("0.00000001"))
    bench = Bench((1, "99", "1", SOLD), spec=spec)
    order = bench.place("BUY", "LIMIT", quantity="0.12345677", price="99.50")
    assert bench.funds("USDT")[1] == D("12.28394862")
    bench.run(1)
    assert order.cum_quote == D("12.28394861")
    assert bench.funds("USDT") == (10_000 - D("12.28394861"), 0)


def test_accounts_trade_with_each_other():
    bench = Bench(taker_fee=D("0.002"))
    other = bench.exchange.add_account(Account("other", "secret", {"USDT": 1000}))
    bid = bench.place("BUY", "LIMIT", account=other, quantity="1", price="100.00")
    sale = bench.place("SELL", "MARKET", quantity="0.3")
    assert (bid.status, bid.executed, sale.status) == ("PARTIALLY_FILLED", D("0.3"), "FILLED")
    assert [fill.trade_id for fill in bid.fills] == [fill.trade_id for fill in sale.fills]
    assert [fill.is_maker for fill in bid.fills + sale.fills] == [True, False]
    assert bench.funds("BTC", other) == (D("0.3") - D("0.0003"), 0)
    assert bench.funds("USDT") == (10_000 + 30 - D("0.06"), 0)


def test_quote_quantity_buys_for_at_most_that_much():
    bench = Bench()
    order = bench.place("BUY", "MARKET", quote_qty="555.55")
    assert order.status == "FILLED"
    assert order.orig_quote_qty == D("555.55")
    assert order.orig_qty == order.executed
    assert D("555.55") - max(fill.price for fill in order.fills) * SPEC.step_size < order.cum_quote <= D("555.55")
    sale = bench.place("SELL", "MARKET", quote_qty="100")
    assert D("99.8") < sale.cum_quote <= 100


# Time in force


def test_immediate_or_cancel_takes_what_is_there_and_expires():
    bench = Bench()
    price, qty = bench.exchange.book("BTCUSDT", 1)[2][0]
    order = bench.place("BUY", "LIMIT", quantity=D(qty) + 1, price=price, time_in_force="IOC")
    assert (order.status, order.executed) == ("EXPIRED", D(qty))
    assert bench.funds("USDT") == (10_000 - order.cum_quote, 0)
    assert bench.exchange.open_orders(bench.account) == []


def test_fill_or_kill_takes_all_or_nothing():
    bench = Bench()
    price, qty = bench.exchange.book("BTCUSDT", 1)[2][0]
    killed = bench.place("BUY", "LIMIT", quantity=D(qty) + 1, price=price, time_in_force="FOK")
    assert (killed.status, killed.executed, bench.funds("USDT")) == ("EXPIRED", 0, (D(10_000), D(0)))
    filled = bench.place("BUY", "LIMIT", quantity=qty, price=price, time_in_force="FOK")
    assert filled.status == "FILLED"


def test_a_maker_order_that_would_take_is_refused():
    bench = Bench()
    (bid, _), (ask, _) = (side[0] for side in bench.exchange.book("BTCUSDT", 1)[1:])
    assert refusal(bench.place, "BUY", "LIMIT_MAKER", quantity="1", price=ask) == (
        -2010,
        "Order would immediately match and take.",
    )
    assert bench.place("BUY", "LIMIT_MAKER", quantity="1", price=bid).status == "NEW"


# Stops


@pytest.mark.parametrize(
    ("side", "kind", "stop", "price", "fired"),
    [
        ("SELL", "STOP_LOSS", "98", "98.00", True),
        ("SELL", "STOP_LOSS", "98", "98.01", False),
        ("SELL", "TAKE_PROFIT", "102", "102.00", True),
        ("SELL", "TAKE_PROFIT", "102", "101.99", False),
        ("BUY", "STOP_LOSS", "102", "102.00", True),
        ("BUY", "STOP_LOSS", "102", "101.99", False),
        ("BUY", "TAKE_PROFIT", "98", "98.00", True),
        ("BUY", "TAKE_PROFIT", "98", "98.01", False),
    ],
)
def test_a_stop_works_once_the_last_price_reaches_it(side, kind, stop, price, fired):
    bench = Bench((1, price, "0.01", SOLD))
    order = bench.place(side, kind, quantity="0.5", stop_price=stop)
    assert (order.working, order.status, order.working_ms) == (False, "NEW", -1)
    assert [event.working for event in bench.exchange.drain() if isinstance(event, OrderEvent)] == [False]
    reports = [event for event in bench.run(1) if isinstance(event, OrderEvent)]
    assert order.working == fired
    if fired:
        assert (order.status, order.working_ms) == ("FILLED", START_MS + 1000)
        assert [(event.exec_type, event.working) for event in reports][:2] == [("NEW", True), ("TRADE", True)]
        assert bench.funds("USDT")[1] == bench.funds("BTC")[1] == 0
    else:
        assert reports == []


def test_a_stop_limit_rests_at_its_price_after_the_trigger():
    bench = Bench((1, "97", "1", SOLD), (2, "97.60", "0.2", BOUGHT))
    order = bench.place("SELL", "STOP_LOSS_LIMIT", quantity="1", price="97.50", stop_price="98")
    assert bench.funds("BTC") == (9, 1)
    bench.run(1)
    assert (order.status, order.working, order.executed) == ("NEW", True, 0)
    bench.run(2)
    assert (order.status, order.executed, order.fills[0].price) == ("PARTIALLY_FILLED", D("0.2"), D("97.50"))


@pytest.mark.parametrize(
    ("side", "prices", "fired"),
    [
        ("SELL", ["102", "104", "102.97"], False),
        ("SELL", ["102", "104", "102.96"], True),
        ("SELL", ["99.01"], False),
        ("SELL", ["99"], True),
        ("BUY", ["98", "96", "96.95"], False),
        ("BUY", ["98", "96", "96.96"], True),
    ],
)
def test_a_trailing_stop_works_once_the_price_has_come_back_from_its_best(side, prices, fired):
    bench = Bench(*[(at_s, price, "0.01", SOLD) for at_s, price in enumerate(prices, 1)])
    order = bench.place(side, "STOP_LOSS", quantity="0.5", trailing_delta=100)
    assert not order.working
    bench.run(len(prices) - 1)
    assert not order.working
    bench.run(len(prices))
    assert order.working == fired


def test_a_stop_that_would_trigger_at_once_is_refused():
    bench = Bench()
    for side, kind, stop in [
        ("SELL", "STOP_LOSS", "100"),
        ("BUY", "STOP_LOSS", "99"),
        ("SELL", "TAKE_PROFIT", "99"),
        ("BUY", "TAKE_PROFIT", "101"),
    ]:
        assert refusal(bench.place, side, kind, quantity="1", stop_price=stop) == (
            -2010,
            "Stop price would trigger immediately.",
        )
    assert bench.funds("USDT") == (10_000, 0)


def test_a_stop_buy_that_gaps_buys_no_more_than_the_account_can_pay():
    bench = Bench((1, "120", "1", BOUGHT), balances={"USDT": 105})
    order = bench.place("BUY", "STOP_LOSS", quantity="1", stop_price="102")
    assert bench.funds("USDT") == (3, 102)
    bench.run(1)
    assert order.status == "EXPIRED"
    assert D("0.85") < order.executed < D("0.876")
    free, locked = bench.funds("USDT")
    assert 0 <= free < D("0.13")
    assert locked == 0


# Fees in a third coin


def test_the_fee_coin_pays_at_a_discount_while_there_is_enough():
    bnb = replace(SPEC, symbol="BNBUSDT", base="BNB")
    clock = ManualClock(START_MS)
    markets = {
        "BTCUSDT": Replay(SPEC, [(START_MS, "100", "1", SOLD)]),
        "BNBUSDT": Replay(bnb, [(START_MS, "20", "1", SOLD)]),
    }
    exchange = Exchange(markets, clock, fee_coin="BNB")
    account = exchange.add_account(Account("key", "secret", {"USDT": 10_000, "BTC": 10, "BNB": "0.004"}))
    request = OrderRequest(
        symbol="BTCUSDT", side="SELL", type="LIMIT", time_in_force="IOC", price=D(100), quantity=D(1)
    )
    first = exchange.place(account, request)
    assert [(fill.commission, fill.commission_asset) for fill in first.fills] == [(D("0.00375"), "BNB")]
    assert account.balance("BNB").free == D("0.00025")
    assert account.balance("USDT").free == 10_100
    second = exchange.place(account, request)
    assert [(fill.commission, fill.commission_asset) for fill in second.fills] == [(D("0.1"), "USDT")]


# Refusals


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"symbol": "NOPE"}, -1121, "Invalid symbol."),
        ({"side": "HOLD"}, -1117, "Invalid side."),
        ({"type": "ICEBERG"}, -1116, "Invalid orderType."),
        ({"time_in_force": "GTD"}, -1115, "Invalid timeInForce."),
        ({"client_id": "sp ace"}, -1100, "Illegal characters found in parameter 'newClientOrderId'"),
        ({"price": None}, -1102, "Mandatory parameter 'price' was not sent"),
        ({"time_in_force": None}, -1102, "Mandatory parameter 'timeInForce' was not sent"),
        ({"quantity": None}, -1102, "Mandatory parameter 'quantity' was not sent"),
        ({"stop_price": D(90)}, -1106, "Parameter 'stopPrice' sent when not required."),
        ({"type": "MARKET"}, -1106, "Parameter 'price' sent when not required."),
        ({"type": "STOP_LOSS_LIMIT"}, -1102, "Mandatory parameter 'stopPrice' was not sent"),
        ({"type": "LIMIT_MAKER"}, -1106, "Parameter 'timeInForce' sent when not required."),
        ({"type": "MARKET", "price": None, "time_in_force": None, "quote_qty": D(9)}, -1128, "Combination of"),
        ({"type": "MARKET", "price": None, "time_in_force": None, "quantity": None}, -1102, "Param 'quantity' or"),
        ({"trailing_delta": 100}, -2010, "This simulator trails stop losses alone"),
        (
            {"type": "STOP_LOSS", "price": None, "time_in_force": None, "trailing_delta": 9},
            -1013,
            "Filter failure: TRAILING_DELTA",
        ),
        ({"iceberg_qty": D(1)}, -2010, "Iceberg orders are not supported for this symbol."),
        ({"quantity": D(0)}, -1013, "Invalid quantity."),
        ({"price": D(-1)}, -1013, "Invalid price."),
        ({"price": D("99.123456789")}, -1111, "Parameter 'price' has too much precision."),
        ({"price": D("99.001")}, -1013, "Filter failure: PRICE_FILTER"),
        ({"price": D(2_000_000)}, -1013, "Filter failure: PRICE_FILTER"),
        ({"quantity": D("1.0001")}, -1013, "Filter failure: LOT_SIZE"),
        ({"quantity": D(1001)}, -1013, "Filter failure: LOT_SIZE"),
        (
            {"type": "MARKET", "price": None, "time_in_force": None, "quantity": D(51)},
            -1013,
            "Filter failure: MARKET_LOT_SIZE",
        ),
        ({"price": D("19.99")}, -1013, "Filter failure: PERCENT_PRICE_BY_SIDE"),
        ({"price": D("500.01")}, -1013, "Filter failure: PERCENT_PRICE_BY_SIDE"),
        ({"quantity": D("0.05")}, -1013, "Filter failure: NOTIONAL"),
        ({"quantity": D(102)}, -2010, "Account has insufficient balance for requested action."),
        ({"side": "SELL", "quantity": D("10.001")}, -2010, "Account has insufficient balance for requested action."),
    ],
)
def test_refusals_carry_the_codes_of_binance(fields, code, message):
    bench = Bench()
    request = {
        "symbol": "BTCUSDT",
        "side": "BUY",
        "type": "LIMIT",
        "time_in_force": "GTC",
        "price": D(99),
        "quantity": D(1),
    } | fields
    found, text = refusal(bench.exchange.place, bench.account, OrderRequest(**request))
    assert (found, text[: len(message)]) == (code, message)
    assert bench.exchange.orders == []
    assert bench.exchange.drain() == []
    assert bench.funds("USDT") == (10_000, 0)


def test_a_market_order_beyond_the_funds_is_refused():
    bench = Bench(balances={"USDT": 50})
    assert refusal(bench.place, "BUY", "MARKET", quantity="0.5")[0] == -2010
    assert bench.place("BUY", "MARKET", quantity="0.49").status == "FILLED"


def test_open_orders_are_counted():
    bench = Bench(spec=replace(SPEC, max_orders=3, max_algo_orders=1))
    bench.place("SELL", "STOP_LOSS", quantity="1", stop_price="90")
    assert refusal(bench.place, "SELL", "STOP_LOSS", quantity="1", stop_price="90") == (
        -1013,
        "Filter failure: MAX_NUM_ALGO_ORDERS",
    )
    for _ in range(2):
        bench.place("BUY", "LIMIT", quantity="1", price="90")
    assert refusal(bench.place, "BUY", "LIMIT", quantity="1", price="90") == (-1013, "Filter failure: MAX_NUM_ORDERS")
    assert bench.place("BUY", "MARKET", quantity="1").status == "FILLED"


def test_an_open_client_id_is_taken_a_finished_one_is_free():
    bench = Bench()
    first = bench.place("BUY", "LIMIT", quantity="1", price="90", client_id="mine")
    assert refusal(bench.place, "BUY", "LIMIT", quantity="1", price="90", client_id="mine") == (
        -2010,
        "Duplicate order sent.",
    )
    bench.exchange.cancel(bench.account, "BTCUSDT", client_id="mine")
    second = bench.place("BUY", "LIMIT", quantity="1", price="90", client_id="mine")
    assert bench.exchange.query(bench.account, "BTCUSDT", client_id="mine") is second
    assert bench.exchange.query(bench.account, "BTCUSDT", first.order_id) is first


def test_a_test_order_changes_nothing():
    bench = Bench()
    request = OrderRequest(symbol="BTCUSDT", side="BUY", type="MARKET", quantity=D(1))
    bench.exchange.check(bench.account, request)
    assert refusal(bench.exchange.check, bench.account, replace(request, quantity=D("0.01"))) == (
        -1013,
        "Filter failure: NOTIONAL",
    )
    assert bench.exchange.orders == []


def test_exchange_info_lists_the_filters_that_are_checked():
    filters = {filter_["filterType"]: filter_ for filter_ in describe(SPEC)}
    assert list(filters) == [
        "PRICE_FILTER",
        "LOT_SIZE",
        "MARKET_LOT_SIZE",
        "PERCENT_PRICE_BY_SIDE",
        "NOTIONAL",
        "TRAILING_DELTA",
        "MAX_NUM_ORDERS",
        "MAX_NUM_ALGO_ORDERS",
        "MAX_NUM_ORDER_LISTS",
    ]
    assert filters["PRICE_FILTER"]["tickSize"] == "0.01000000"
    assert filters["LOT_SIZE"] == {
        "filterType": "LOT_SIZE",
        "minQty": "0.00100000",
        "maxQty": "1000.00000000",
        "stepSize": "0.00100000",
    }


# Cancelling and looking up


def test_a_cancelled_order_frees_what_is_left_of_its_lock():
    bench = Bench((1, "99", "0.25", SOLD))
    order = bench.place("BUY", "LIMIT", quantity="1", price="99", client_id="mine")
    bench.run(1)
    bench.exchange.cancel(bench.account, "BTCUSDT", order_id=order.order_id, cancel_id="cancel-it")
    assert (order.status, order.executed) == ("CANCELED", D("0.25"))
    assert bench.funds("USDT") == (10_000 - D("24.75"), 0)
    report, balances = bench.exchange.drain()
    assert (report.exec_type, report.client_id, report.orig_client_id) == ("CANCELED", "cancel-it", "mine")
    assert balances.changes == (("USDT", D("9975.25"), D(0)),)
    assert refusal(bench.exchange.cancel, bench.account, "BTCUSDT", order.order_id) == (-2011, "Unknown order sent.")


def test_unknown_orders():
    bench = Bench()
    other = bench.exchange.add_account(Account("other", "secret", {}))
    order = bench.place("BUY", "LIMIT", quantity="1", price="99")
    exchange = bench.exchange
    assert refusal(exchange.query, bench.account, "BTCUSDT", 77) == (-2013, "Order does not exist.")
    assert refusal(exchange.query, other, "BTCUSDT", order.order_id) == (-2013, "Order does not exist.")
    assert refusal(exchange.cancel, other, "BTCUSDT", order.order_id) == (-2011, "Unknown order sent.")
    assert refusal(exchange.cancel, bench.account, "BTCUSDT", order.order_id, "not-its-id")[0] == -2011
    assert refusal(exchange.query, bench.account, "BTCUSDT")[0] == -1102
    assert refusal(exchange.cancel_all, other, "BTCUSDT") == (-2011, "Unknown order sent.")
    assert refusal(exchange.account, "no-such-key")[0] == -2015
    assert exchange.cancel_all(bench.account, "BTCUSDT") == [order]
    assert exchange.open_orders(bench.account) == []


def test_lists_of_orders_and_fills():
    bench = Bench()
    orders = []
    for second in range(1, 6):
        bench.run(second)
        orders.append(bench.place("BUY", "MARKET", quantity="0.1"))
    exchange, account = bench.exchange, bench.account
    assert exchange.all_orders(account, "BTCUSDT") == orders
    assert exchange.all_orders(account, "BTCUSDT", limit=2) == orders[3:]
    assert exchange.all_orders(account, "BTCUSDT", order_id=2, limit=2) == orders[1:3]
    assert exchange.all_orders(account, "BTCUSDT", start_ms=START_MS + 2000, limit=2) == orders[1:3]
    assert exchange.all_orders(account, "BTCUSDT", end_ms=START_MS + 2000) == orders[:2]
    fills = [fill for order in orders for fill in order.fills]
    assert exchange.my_trades(account, "BTCUSDT") == fills
    assert exchange.my_trades(account, "BTCUSDT", order_id=3) == orders[2].fills
    assert exchange.my_trades(account, "BTCUSDT", from_id=fills[2].trade_id, limit=1) == [fills[2]]
    assert exchange.my_trades(account, "BTCUSDT", start_ms=START_MS + 4000) == orders[3].fills + orders[4].fills


# Events


def test_events_come_in_time_order_and_only_for_what_is_watched():
    bench = Bench(
        (0.2, "100.10", "1", BOUGHT), (0.4, "100.20", "1", BOUGHT), (2.5, "99", "1", SOLD), (3, "99", "2", SOLD)
    )
    assert [type(event) for event in bench.run(0.1)] == []
    exchange = bench.exchange
    for stream in ("trade", "bookTicker", "1s", "1s"):
        exchange.watch("BTCUSDT", stream)
    exchange.unwatch("BTCUSDT", "1s")
    bench.place("BUY", "LIMIT", quantity="0.5", price="99.50")
    events = bench.run(3.9)
    assert [(type(event), event.ts_ms - START_MS) for event in events] == [
        (OrderEvent, 100),
        (BalanceEvent, 100),
        (TradeEvent, 200),
        (BookTickerEvent, 200),
        (KlineEvent, 200),
        (TradeEvent, 400),
        (BookTickerEvent, 400),
        (KlineEvent, 1000),
        (TradeEvent, 2500),
        (OrderEvent, 2500),
        (BookTickerEvent, 2500),
        (BalanceEvent, 2500),
        (KlineEvent, 2500),
        (KlineEvent, 3000),
        (TradeEvent, 3000),
        (BookTickerEvent, 3000),
        (KlineEvent, 3500),
    ]
    frames = [event for event in events if isinstance(event, KlineEvent)]
    assert [frame.closed for frame in frames] == [False, True, False, True, False]
    # The first bar began before it was watched: its opening trade counts.
    assert frames[1].row[:6] == [START_MS, "100.00000000", "100.20000000", "100.00000000", "100.20000000", "3.00000000"]
    assert (frames[1].first_id, frames[1].last_id) == (1, 3)
    exchange.unwatch("BTCUSDT", "1s")
    assert refusal(exchange.watch, "NOPE", "trade")[0] == -1121
    with pytest.raises(ValueError, match="no stream '7m'"):
        exchange.watch("BTCUSDT", "7m")


def test_a_report_keeps_the_order_as_it_was():
    bench = Bench((1, "99", "0.4", SOLD), (2, "99", "0.6", SOLD))
    bench.place("BUY", "LIMIT", quantity="1", price="99")
    reports = [event for event in bench.run(2) if isinstance(event, OrderEvent)]
    assert [(report.exec_type, report.status, report.executed, report.cum_quote) for report in reports] == [
        ("NEW", "NEW", 0, 0),
        ("TRADE", "PARTIALLY_FILLED", D("0.4"), D("39.6")),
        ("TRADE", "FILLED", 1, 99),
    ]
    assert [report.execution_id for report in reports] == [1, 2, 3]


# The books, whatever happens

operations = st.lists(
    st.one_of(
        st.tuples(
            st.just("place"),
            st.sampled_from(["BUY", "SELL"]),
            st.sampled_from(["LIMIT", "MARKET", "QUOTE", "LIMIT_MAKER", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT"]),
            st.integers(1, 5000),
            st.integers(-60, 60),
            st.integers(-60, 60),
            st.sampled_from(["GTC", "IOC", "FOK"]),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.integers(1, 60_000)),
    ),
    min_size=5,
    max_size=40,
)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), steps=operations, digits=st.sampled_from(["0.001", "0.00000001"]), bnb=st.booleans())
def test_the_books_balance_to_the_last_decimal(seed, steps, digits, bnb):
    spec = replace(SPEC, step_size=D(digits), min_qty=D(digits), max_algo_orders=200, trades_per_minute=60)
    coin = replace(spec, symbol="BNBUSDT", base="BNB", price=D(20))
    clock = ManualClock(START_MS)
    markets = {each.symbol: Market(each, seed, START_MS) for each in (spec, coin)}
    exchange = Exchange(markets, clock, fee_coin="BNB" if bnb else None, taker_fee=D("0.00075"))
    start = {"USDT": D(2000), "BTC": D(20), "BNB": D("0.01")}
    accounts = [exchange.add_account(Account(name, "secret", start)) for name in ("one", "two")]
    reports = []
    for i, step in enumerate(steps):
        account = accounts[i % 2]
        try:
            if step[0] == "place":
                exchange.place(account, request_of(spec, markets["BTCUSDT"].last, *step[1:]))
            elif step[0] == "cancel":
                exchange.cancel(account, "BTCUSDT", order_id=step[1])
            else:
                clock.advance(step[1])
        except Reject:
            pass
        reports += exchange.advance(clock.now_ms())
        for account in accounts:
            check_books(exchange, account, start)
    assert [report.ts_ms for report in reports] == sorted(report.ts_ms for report in reports)
    check_reports(exchange, [report for report in reports if isinstance(report, OrderEvent)])


def request_of(spec, last, side, kind, steps, price_offset, stop_offset, time_in_force):
    last_price = last.price_ticks * spec.tick_size
    fields = {"quantity": steps * D("0.001") + 7 * spec.step_size}
    if kind == "QUOTE":
        kind, fields = "MARKET", {"quote_qty": fields["quantity"] * 100}
    if kind in {"LIMIT", "LIMIT_MAKER", "STOP_LOSS_LIMIT"}:
        fields["price"] = last_price + price_offset * spec.tick_size
    if kind in {"LIMIT", "STOP_LOSS_LIMIT"}:
        fields["time_in_force"] = time_in_force
    if kind in {"STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT"}:
        fields["stop_price"] = last_price + stop_offset * spec.tick_size
    return OrderRequest(symbol=spec.symbol, side=side, type=kind, **fields)


def check_books(exchange, account, start):
    """Balances follow from the fills alone; what is locked is what the open orders hold."""
    expected = dict(start)
    locked = dict.fromkeys(start, D(0))
    for order in exchange.orders:
        if order.account is not account:
            continue
        assert order.executed == sum(fill.qty for fill in order.fills) <= order.orig_qty
        assert order.cum_quote == sum(fill.quote for fill in order.fills)
        assert (order.status == "FILLED") == (order.executed == order.orig_qty)
        spent, sign = ("USDT", 1) if order.side == "BUY" else ("BTC", -1)
        locked[spent] += order.locked
        assert order.locked >= 0
        assert order.is_open or order.locked == 0
        for fill in order.fills:
            expected["BTC"] += sign * fill.qty
            expected["USDT"] -= sign * fill.quote
            expected[fill.commission_asset] -= fill.commission
    for asset, amount in expected.items():
        balance = account.balance(asset)
        assert balance.total == amount
        assert balance.locked == locked[asset]
        assert balance.free >= 0
        assert amount % D("0.00000001") == 0


def check_reports(exchange, reports):
    """The last report of an order says what the order says, and each fill was reported once."""
    assert [report.execution_id for report in reports] == list(range(1, len(reports) + 1))
    for order in exchange.orders:
        mine = [report for report in reports if report.order is order]
        last = mine[-1]
        assert (last.status, last.executed, last.cum_quote) == (order.status, order.executed, order.cum_quote)
        assert [report.fill for report in mine if report.exec_type == "TRADE"] == order.fills
