"""The simulated futures exchange, on contracts whose every trade is written down here."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccxtbt.sim.algos import AlgoOrder
from ccxtbt.sim.clock import ManualClock
from ccxtbt.sim.events import AlgoEvent, MarginEvent, OrderEvent
from ccxtbt.sim.funding import FUNDING_MS, next_funding_ms, rate_at
from ccxtbt.sim.margin_books import BRACKETS, maintenance_of
from ccxtbt.sim.market import Replay
from ccxtbt.sim.matching import Account, OrderRequest, Reject
from ccxtbt.sim.perpetuals import Perpetuals
from matched import BOUGHT, SOLD, SPEC, START_MS, D

DEEP = replace(SPEC, trade_value=100_000.0, market_max_qty=D(1000))


class Bench:
    """A contract on a tape of (seconds after the start, price), and an account with a wallet."""

    def __init__(self, *tape, wallet="1000", spec=DEEP, **more):
        trades = [(START_MS, "100", "1", SOLD)]
        trades += [(START_MS + int(at_s * 1000), price, "1000", BOUGHT) for at_s, price in tape]
        self.clock = ManualClock(START_MS)
        self.exchange = Perpetuals({spec.symbol: Replay(spec, trades)}, self.clock, **more)
        self.books = self.exchange.books
        self.account = self.exchange.add_account(Account("key", "secret", {"USDT": wallet}))

    def place(self, side, kind, quantity, price=None, **fields):
        if kind == "LIMIT":
            fields.setdefault("time_in_force", "GTC")
        number = None if price is None else D(price)
        request = OrderRequest(symbol="BTCUSDT", side=side, type=kind, quantity=D(quantity), price=number, **fields)
        return self.exchange.place(self.account, request)

    def run(self, to_s):
        self.clock.set_ms(START_MS + int(to_s * 1000))
        return self.exchange.advance(self.clock.now_ms())

    @property
    def position(self):
        return self.books.position(self.account, "BTCUSDT")

    @property
    def wallet(self):
        return self.books.wallet(self.account)


FREE = {"maker_fee": D(0), "taker_fee": D(0)}


def test_a_position_is_opened_added_to_reduced_turned_and_closed():
    bench = Bench((1, "101"), (2, "102"), (3, "103"), (4, "104"), (5, "99"), **FREE)
    bench.exchange.drain()
    bench.place("SELL", "LIMIT", "1", "101")
    bench.place("SELL", "LIMIT", "1", "103")
    bench.run(1)
    assert (bench.position.amount, bench.position.entry, bench.wallet) == (-1, 101, 1000)
    bench.run(3)
    assert (bench.position.amount, bench.position.entry) == (-2, 102)
    bench.place("BUY", "LIMIT", "3", "100")
    assert bench.books.unrealized(bench.position) == -2
    bench.run(5)
    assert (bench.position.amount, bench.position.entry) == (1, 100)
    assert bench.wallet == 1000 + 2 * (102 - 100)
    (income,) = [each for each in bench.books.incomes(bench.account) if each.kind == "REALIZED_PNL"]
    assert income.amount == 4


def test_fees_are_paid_from_the_wallet_in_the_margin_coin():
    bench = Bench(maker_fee=D("0.0002"), taker_fee=D("0.0005"))
    order = bench.place("BUY", "MARKET", "2")
    fees = sum(fill.commission for fill in order.fills)
    assert fees == sum((fill.quote * D("0.0005")).quantize(D("1e-8")) for fill in order.fills) > 0
    assert bench.wallet == 1000 - fees
    assert {fill.commission_asset for fill in order.fills} == {"USDT"}


def test_margin_bounds_what_can_be_opened_and_not_what_closes():
    bench = Bench(**FREE)
    bench.books.set_leverage(bench.account, "BTCUSDT", 2)
    bench.place("BUY", "LIMIT", "19", "99")
    assert bench.books.order_margin(bench.account) == D("940.5")
    assert bench.books.available(bench.account) == D("59.5")
    with pytest.raises(Reject, match="-2019"):
        bench.place("BUY", "LIMIT", "2", "99")
    bench.exchange.cancel_all(bench.account, "BTCUSDT")
    bench.place("BUY", "MARKET", "19")
    bench.place("SELL", "MARKET", "19")
    assert (bench.position.amount, bench.position.cost) == (0, 0)


def test_orders_that_only_reduce_are_cut_to_the_position_and_end_with_it():
    bench = Bench((1, "105"), (2, "106"), (3, "107"), **FREE)
    with pytest.raises(Reject, match="-2022"):
        bench.place("SELL", "LIMIT", "1", "105", reduce_only=True)
    bench.place("BUY", "MARKET", "2")
    with pytest.raises(Reject, match="-2022"):
        bench.place("BUY", "LIMIT", "1", "99", reduce_only=True)
    first = bench.place("SELL", "LIMIT", "5", "105", reduce_only=True)
    second = bench.place("SELL", "LIMIT", "1", "106", reduce_only=True)
    assert first.orig_qty == 2
    assert bench.books.order_margin(bench.account) == 0
    bench.place("SELL", "MARKET", "1.5")
    assert (first.orig_qty, second.orig_qty) == (D("0.5"), D("0.5"))
    bench.run(1)
    assert (first.status, second.status, bench.position.amount) == ("FILLED", "EXPIRED", 0)


def test_funding_is_paid_by_the_clock():
    until_s = (next_funding_ms(START_MS) - START_MS) / 1000
    bench = Bench((until_s - 1, "110"), (until_s + 1, "120"), **FREE)
    bench.place("BUY", "MARKET", "2")
    bench.run(until_s - 0.5)
    assert bench.wallet == 1000
    events = bench.run(until_s)
    due = -(2 * 110 * rate_at("BTCUSDT", next_funding_ms(START_MS))).quantize(D("1e-8"))
    assert bench.wallet == 1000 + due
    (event,) = [event for event in events if isinstance(event, MarginEvent)]
    assert (event.reason, event.wallet, event.ts_ms) == ("FUNDING_FEE", 1000 + due, next_funding_ms(START_MS))
    bench.run(until_s + 2 * FUNDING_MS / 1000)
    assert [income.kind for income in bench.books.incomes(bench.account)] == ["FUNDING_FEE"] * 3


def test_a_crossed_position_is_liquidated_when_the_margin_is_used_up():
    bench = Bench((1, "91"), (2, "90.3"), (3, "90"), **FREE)
    order = bench.place("BUY", "MARKET", "100")
    price = bench.books.liquidation_price(bench.account, bench.position)
    assert D("90.3") < price < D("91")
    resting = bench.place("BUY", "LIMIT", "1", "80")
    bench.run(1)
    assert bench.position.amount == 100
    events = bench.run(2)
    assert (bench.position.amount, resting.status) == (0, "EXPIRED")
    forced = bench.exchange.orders[-1]
    assert (forced.client_id, forced.side, forced.executed) == ("autoclose-1", "SELL", 100)
    assert forced in {event.order for event in events if isinstance(event, OrderEvent)}
    assert bench.wallet == 1000 - order.cum_quote + forced.cum_quote >= 0


def test_a_wallet_is_never_left_below_nothing():
    bench = Bench((1, "50"), **FREE)
    bench.place("BUY", "MARKET", "100")
    bench.run(1)
    assert bench.wallet == 0
    assert bench.books.incomes(bench.account)[-1].kind == "INSURANCE_CLEAR"


def test_an_isolated_position_stands_for_itself():
    bench = Bench((1, "96"), (2, "95"), **FREE)
    bench.books.set_isolated(bench.account, "BTCUSDT", isolated=True)
    order = bench.place("BUY", "MARKET", "10")
    kept = bench.position.wallet
    assert abs(kept - order.cum_quote / 20) < D("1e-7")
    assert bench.books.cross_wallet(bench.account) == 1000 - kept
    assert bench.books.available(bench.account) == 1000 - kept
    bench.run(1)
    assert bench.position.amount == 10
    bench.run(2)
    assert (bench.position.amount, bench.position.wallet) == (0, 0)
    assert bench.wallet < 1000
    with pytest.raises(Reject, match="-4046"):
        bench.books.set_isolated(bench.account, "BTCUSDT", isolated=True)


def test_settings_are_refused_as_binance_refuses_them():
    bench = Bench(**FREE)
    for leverage in (0, 126):
        with pytest.raises(Reject, match="-4028"):
            bench.books.set_leverage(bench.account, "BTCUSDT", leverage)
    bench.place("BUY", "LIMIT", "1", "90")
    with pytest.raises(Reject, match="-4047"):
        bench.books.set_isolated(bench.account, "BTCUSDT", isolated=True)
    bench.place("BUY", "MARKET", "1")
    bench.exchange.cancel_all(bench.account, "BTCUSDT")
    with pytest.raises(Reject, match="-4048"):
        bench.books.set_isolated(bench.account, "BTCUSDT", isolated=True)


def test_maintenance_margin_has_no_step():
    for bracket in BRACKETS[1:]:
        below, above = maintenance_of(bracket.floor - D("0.01"))[1], maintenance_of(D(bracket.floor))[1]
        assert 0 < above - below < D("0.001")


PRICES = st.integers(9_000, 11_000).map(lambda cents: str(D(cents) / 100))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(PRICES, max_size=25),
    st.lists(
        st.tuples(
            st.integers(0, 25),
            st.sampled_from(["BUY", "SELL"]),
            st.sampled_from(["LIMIT", "MARKET", "LIMIT_MAKER"]),
            st.integers(1, 60_000),
            PRICES,
            st.booleans(),
        ),
        max_size=15,
    ),
    st.booleans(),
)
def test_books_balance_whatever_happens(prices, orders, isolated):
    gap_s = 3_000
    bench = Bench(*(((1 + number) * gap_s, price) for number, price in enumerate(prices)))
    bench.books.set_leverage(bench.account, "BTCUSDT", 50)
    if isolated:
        bench.books.set_isolated(bench.account, "BTCUSDT", isolated=True)
    for number in range(len(prices) + 2):
        for at, side, kind, milli, price, reduce_only in orders:
            if at == number:
                with contextlib.suppress(Reject):
                    limit = None if kind == "MARKET" else price
                    bench.place(side, kind, D(milli) / 1000, limit, reduce_only=reduce_only)
        bench.run(number * gap_s)
        judge(bench)


def judge(bench):
    """Check wallet and position by the fills and incomes alone."""
    fills = [fill for order in bench.exchange.orders for fill in order.fills]
    assert bench.position.amount == sum(fill.qty if fill.is_buyer else -fill.qty for fill in fills)
    paid = sum(fill.quote if fill.is_buyer else -fill.quote for fill in fills)
    realized = sum(fill.realized for fill in fills)
    assert bench.position.cost == paid + realized
    incomes = bench.books.incomes(bench.account)
    assert bench.wallet == 1000 + sum(income.amount for income in incomes) >= 0
    assert sum(income.amount for income in incomes if income.kind == "REALIZED_PNL") == realized
    assert -sum(i.amount for i in incomes if i.kind == "COMMISSION") == sum(fill.commission for fill in fills)
    assert bench.position.amount or (bench.position.cost, bench.position.wallet) == (0, 0)
    for order in bench.exchange.orders:
        assert order.executed <= order.orig_qty
        if order.is_open and order.reduce_only:
            assert bench.position.amount * (1 if order.side == "SELL" else -1) >= order.remaining


# Conditional orders


def algo(bench, kind, side="SELL", quantity="1", **fields):
    made = AlgoOrder(
        account=bench.account,
        algo_id=0,
        client_id=fields.pop("client_id", f"algo-{len(bench.exchange.algos)}"),
        symbol="BTCUSDT",
        side=side,
        type=kind,
        quantity=None if quantity is None else D(quantity),
        price=D(fields.pop("price")) if "price" in fields else None,
        time_in_force=fields.pop("time_in_force", "GTC"),
        trigger_price=D(fields.pop("trigger", 0)),
        callback_rate=D(fields.pop("callback", 0)),
        activate_price=D(fields.pop("activate", 0)),
        reduce_only=fields.pop("reduce_only", False),
        close_position=fields.pop("close_position", False),
        working_type="CONTRACT_PRICE",
        created_ms=bench.clock.now_ms(),
        updated_ms=bench.clock.now_ms(),
    )
    assert not fields
    bench.exchange.place_algo(made)
    return made


@pytest.mark.parametrize(
    ("kind", "side", "trigger", "prices"),
    [
        ("STOP_MARKET", "SELL", "99", ["99.01", "99"]),
        ("STOP_MARKET", "BUY", "101", ["100.99", "101"]),
        ("TAKE_PROFIT_MARKET", "SELL", "101", ["100.99", "101"]),
        ("TAKE_PROFIT_MARKET", "BUY", "99", ["99.01", "99"]),
    ],
)
def test_a_conditional_order_becomes_one_when_the_price_reaches_its_trigger(kind, side, trigger, prices):
    bench = Bench(*enumerate(prices, 1), **FREE)
    made = algo(bench, kind, side, trigger=trigger)
    bench.run(1)
    assert (made.status, bench.exchange.orders) == ("NEW", [])
    events = bench.run(2)
    assert (made.status, made.order.status, made.trigger_ms) == ("FINISHED", "FILLED", START_MS + 2000)
    assert bench.position.amount == (1 if side == "BUY" else -1)
    assert [event.status for event in events if isinstance(event, AlgoEvent)] == ["TRIGGERING", "TRIGGERED", "FINISHED"]


def test_a_conditional_limit_order_rests_once_it_has_triggered():
    bench = Bench((1, "99"), (2, "99.5"), **FREE)
    made = algo(bench, "STOP", trigger="99", price="99.5")
    bench.run(1)
    assert (made.status, made.order.status, made.order.price) == ("TRIGGERED", "NEW", D("99.5"))
    bench.run(2)
    assert (made.status, made.order.status) == ("FINISHED", "FILLED")


def test_a_trailing_stop_follows_the_best_price_from_its_activation_on():
    bench = Bench((1, "97"), (2, "104"), (3, "110"), (4, "108.91"), (5, "108.9"), **FREE)
    made = algo(bench, "TRAILING_STOP_MARKET", callback="1", activate="103")
    for second, best in ((1, 0), (2, 104), (3, 110), (4, 110)):
        bench.run(second)
        assert (made.status, made.best) == ("NEW", best)
    bench.run(5)
    assert made.status == "FINISHED"


def test_a_buying_trailing_stop_without_activation():
    bench = Bench((1, "90"), (2, "90.89"), (3, "90.9"), **FREE)
    made = algo(bench, "TRAILING_STOP_MARKET", "BUY", callback="1")
    bench.run(2)
    assert made.status == "NEW"
    bench.run(3)
    assert made.status == "FINISHED"


def test_closing_the_position_takes_what_there_is_then():
    bench = Bench((1, "99"), (2, "98"), **FREE)
    bench.place("BUY", "MARKET", "3")
    closing = algo(bench, "STOP_MARKET", quantity=None, trigger="99", close_position=True)
    late = algo(bench, "STOP_MARKET", quantity=None, trigger="98", close_position=True)
    reducing = algo(bench, "STOP_MARKET", trigger="98", reduce_only=True)
    bench.run(1)
    assert (closing.status, closing.order.executed, bench.position.amount) == ("FINISHED", 3, 0)
    bench.run(2)
    assert (late.status, reducing.status, bench.position.amount) == ("EXPIRED", "REJECTED", 0)
    assert reducing.reason == "ReduceOnly Order is rejected."


@pytest.mark.parametrize(
    ("kind", "fields", "code"),
    [
        ("STOP_MARKET", {"trigger": "100"}, -2021),
        ("TAKE_PROFIT_MARKET", {"trigger": "99"}, -2021),
        ("TRAILING_STOP_MARKET", {"callback": "1", "activate": "99"}, -2021),
        ("TRAILING_STOP_MARKET", {"callback": "11"}, -2007),
        ("TRAILING_STOP_MARKET", {}, -2007),
        ("STOP_MARKET", {}, -1102),
        ("STOP_MARKET", {"trigger": "99", "quantity": None}, -1102),
        ("STOP_MARKET", {"trigger": "99", "price": "98"}, -1106),
        ("STOP", {"trigger": "99"}, -1102),
        ("STOP", {"trigger": "99", "price": "98", "quantity": None, "close_position": True}, -4136),
        ("STOP_MARKET", {"trigger": "99", "close_position": True}, -4136),
        ("STOP_MARKET", {"trigger": "99.001"}, -4014),
        ("STOP_MARKET", {"trigger": "99", "quantity": "0.0001"}, -1013),
        ("OCO", {"trigger": "99"}, -1116),
    ],
)
def test_conditional_orders_that_make_no_sense_are_refused(kind, fields, code):
    bench = Bench(**FREE)
    with pytest.raises(Reject, match=str(code)):
        algo(bench, kind, **fields)
    assert (bench.exchange.algos, bench.exchange.drain()) == ([], [])


def test_no_more_conditional_orders_than_the_contract_allows():
    bench = Bench(**FREE)
    algo(bench, "STOP_MARKET", trigger="90", client_id="mine")
    with pytest.raises(Reject, match="-4116"):
        algo(bench, "STOP_MARKET", trigger="90", client_id="mine")
    for _ in range(DEEP.max_algo_orders - 1):
        algo(bench, "STOP_MARKET", trigger="90")
    with pytest.raises(Reject, match="-4045"):
        algo(bench, "STOP_MARKET", trigger="90")
