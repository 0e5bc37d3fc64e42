"""Order lists of the simulated exchange, on markets whose every trade is written down here."""

import contextlib
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccxtbt.sim.events import BalanceEvent, ListEvent, OrderEvent
from ccxtbt.sim.orders import ListRequest, OrderRequest, Reject
from ccxtbt.sim.spot_books import need_of
from matched import BOUGHT, SOLD, SPEC, Bench, D


def leg(side, kind, quantity="1", price=None, stop=None, client_id=None, tif=None):
    timed = kind in {"LIMIT", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"}
    return OrderRequest(
        symbol="BTCUSDT",
        side=side,
        type=kind,
        quantity=D(quantity),
        price=None if price is None else D(price),
        stop_price=None if stop is None else D(stop),
        time_in_force=tif or ("GTC" if timed else None),
        client_id=client_id,
    )


def place(bench, *others, working=None, client_id=None):
    request = ListRequest(symbol="BTCUSDT", working=working, others=others, client_id=client_id)
    return bench.exchange.lists.place(bench.account, request)


def oco(bench, quantity="1", limit="101", stop="99", **more):
    """An exit of a long position: a limit above, a stop below."""
    return place(
        bench, leg("SELL", "LIMIT_MAKER", quantity, limit), leg("SELL", "STOP_LOSS", quantity, stop=stop), **more
    )


def entry(price="99.5", tif="GTC", quantity="1"):
    return leg("BUY", "LIMIT", quantity, price, tif=tif)


def exits(quantity="1"):
    return leg("SELL", "LIMIT_MAKER", quantity, "101"), leg("SELL", "STOP_LOSS", quantity, stop="98")


def told(events):
    """Return what order and list events say, shortly."""
    said = []
    for event in events:
        if isinstance(event, OrderEvent):
            said.append((event.order.type, event.exec_type, event.status))
        elif isinstance(event, ListEvent):
            said.append(("list", event.is_done))
    return said


def states(order_list):
    return [order.status for order in order_list.orders]


# Pairs


def test_a_pair_locks_its_funds_once_and_both_orders_work():
    bench = Bench((1, "100", "1", SOLD))
    made = oco(bench)
    assert states(made) == ["NEW", "NEW"]
    assert bench.funds("BTC") == (9, 1)
    assert told(bench.exchange.drain()) == [
        ("LIMIT_MAKER", "NEW", "NEW"),
        ("STOP_LOSS", "NEW", "NEW"),
        ("list", False),
    ]
    assert [order.order_list_id for order in made.orders] == [made.list_id] * 2


def test_a_buying_pair_locks_what_the_dearer_order_needs():
    bench = Bench()
    made = place(bench, leg("BUY", "STOP_LOSS_LIMIT", "1", "103", stop="102"), leg("BUY", "LIMIT_MAKER", "1", "98"))
    assert bench.funds("USDT") == (10_000 - 103, 103)
    bench.exchange.cancel(bench.account, "BTCUSDT", made.orders[1].order_id)
    assert bench.funds("USDT") == (10_000, 0)


def test_a_filled_limit_lets_the_stop_expire_before_it():
    bench = Bench((1, "101", "5", BOUGHT))
    made = oco(bench)
    bench.exchange.drain()
    assert told(bench.run(1)) == [
        ("STOP_LOSS", "EXPIRED", "EXPIRED"),
        ("LIMIT_MAKER", "TRADE", "FILLED"),
        ("list", True),
    ]
    assert (made.orders[1].expiry_reason, made.is_done) == ("OCO_TRIGGER", True)
    assert bench.funds("BTC") == (9, 0)


def test_a_partly_filled_limit_lets_the_stop_expire_and_goes_on_alone():
    bench = Bench((1, "101", "0.4", BOUGHT), (2, "98", "1", SOLD), (3, "101", "5", BOUGHT))
    made = oco(bench)
    bench.run(1)
    assert states(made) == ["PARTIALLY_FILLED", "EXPIRED"]
    assert bench.funds("BTC") == (9, D("0.6"))
    bench.run(2)
    assert states(made) == ["PARTIALLY_FILLED", "EXPIRED"]
    assert ("list", True) in told(bench.run(3))
    assert states(made) == ["FILLED", "EXPIRED"]


def test_a_triggered_stop_lets_the_limit_expire_before_it_trades():
    bench = Bench((1, "99", "1", SOLD))
    made = oco(bench)
    bench.exchange.drain()
    said = told(bench.run(1))
    assert said[:2] == [("LIMIT_MAKER", "EXPIRED", "EXPIRED"), ("STOP_LOSS", "NEW", "NEW")]
    assert set(said[2:-1]) <= {("STOP_LOSS", "TRADE", "PARTIALLY_FILLED"), ("STOP_LOSS", "TRADE", "FILLED")}
    assert said[-2:] == [("STOP_LOSS", "TRADE", "FILLED"), ("list", True)]
    assert (states(made), made.orders[0].expiry_reason) == (["EXPIRED", "FILLED"], "OCO_TRIGGER")
    assert bench.funds("BTC") == (9, 0)


def test_a_triggered_stop_limit_that_rests_keeps_the_list_open():
    bench = Bench((1, "99", "1", SOLD), (2, "99.6", "9", BOUGHT))
    made = place(bench, leg("SELL", "LIMIT_MAKER", "1", "101"), leg("SELL", "STOP_LOSS_LIMIT", "1", "99.5", "99"))
    bench.run(1)
    assert (states(made), made.is_done) == (["EXPIRED", "NEW"], False)
    assert bench.funds("BTC") == (9, 1)
    bench.run(2)
    assert (states(made), made.is_done) == (["EXPIRED", "FILLED"], True)


def test_two_stops_may_be_a_pair():
    bench = Bench((1, "101", "1", BOUGHT))
    made = place(bench, leg("SELL", "TAKE_PROFIT", "1", stop="101"), leg("SELL", "STOP_LOSS", "1", stop="99"))
    assert bench.funds("BTC") == (9, 1)
    bench.run(1)
    assert states(made) == ["FILLED", "EXPIRED"]


@pytest.mark.parametrize("which", [0, 1])
def test_cancelling_one_order_cancels_the_list(which):
    bench = Bench()
    made = oco(bench)
    bench.exchange.drain()
    bench.exchange.cancel(bench.account, "BTCUSDT", made.orders[which].order_id, cancel_id="mine")
    events = bench.exchange.drain()
    assert states(made) == ["CANCELED", "CANCELED"]
    assert [event.client_id for event in events if isinstance(event, OrderEvent)] == ["mine", "mine"]
    assert told(events)[-1] == ("list", True)
    assert bench.funds("BTC") == (10, 0)


def test_cancelling_a_list_twice_or_anothers_is_refused():
    bench = Bench()
    made = oco(bench, client_id="list")
    cancel = bench.exchange.lists.cancel
    for wrong in ({"list_id": 7}, {"client_id": "other"}, {"list_id": made.list_id, "client_id": "other"}):
        with pytest.raises(Reject, match="-2011"):
            cancel(bench.account, "BTCUSDT", **wrong)
    cancel(bench.account, "BTCUSDT", client_id="list")
    with pytest.raises(Reject, match="-2011"):
        cancel(bench.account, "BTCUSDT", list_id=made.list_id)
    assert bench.funds("BTC") == (10, 0)


def test_cancelling_all_takes_lists_along():
    bench = Bench()
    made = oco(bench)
    single = bench.place("BUY", "LIMIT", quantity="1", price="90")
    assert len(bench.exchange.cancel_all(bench.account, "BTCUSDT")) == 3
    assert [*states(made), single.status] == ["CANCELED"] * 3
    assert (bench.funds("BTC"), bench.funds("USDT")) == ((10, 0), (10_000, 0))


@pytest.mark.parametrize(
    ("above", "below", "code"),
    [
        (leg("SELL", "LIMIT", "1", "101"), leg("SELL", "STOP_LOSS", stop="99"), -1158),
        (leg("SELL", "LIMIT_MAKER", "1", "101"), leg("SELL", "LIMIT_MAKER", "1", "99"), -1168),
        (leg("SELL", "STOP_LOSS", stop="99"), leg("SELL", "LIMIT_MAKER", "1", "101"), -1197),
        (leg("BUY", "LIMIT_MAKER", "1", "99"), leg("BUY", "STOP_LOSS", stop="101"), -1196),
        (leg("BUY", "LIMIT_MAKER", "1", "101"), leg("BUY", "TAKE_PROFIT", stop="99"), -1165),
        (leg("SELL", "TAKE_PROFIT", stop="101"), leg("SELL", "LIMIT_MAKER", "1", "99"), -1166),
        (leg("SELL", "LIMIT_MAKER", "1", "101"), leg("SELL", "TAKE_PROFIT", stop="99"), -1199),
        (leg("BUY", "TAKE_PROFIT", stop="101"), leg("BUY", "LIMIT_MAKER", "1", "99"), -1198),
        (leg("SELL", "LIMIT_MAKER", "1", "99"), leg("SELL", "STOP_LOSS", stop="101"), -2010),
        (leg("SELL", "LIMIT_MAKER", "1", "99.5"), leg("SELL", "STOP_LOSS", stop="99"), -2010),
        (leg("SELL", "LIMIT_MAKER", "1", "102"), leg("SELL", "STOP_LOSS", stop="101"), -2010),
        (leg("SELL", "LIMIT_MAKER", "11", "101"), leg("SELL", "STOP_LOSS", "11", stop="99"), -2010),
        (leg("SELL", "LIMIT_MAKER", "1", "101.001"), leg("SELL", "STOP_LOSS", stop="99"), -1013),
        (leg("SELL", "LIMIT_MAKER"), leg("SELL", "STOP_LOSS", stop="99"), -1102),
    ],
)
def test_pairs_that_are_none_are_refused_and_leave_no_trace(above, below, code):
    bench = Bench()
    with pytest.raises(Reject, match=str(code)):
        place(bench, above, below)
    assert (bench.exchange.orders, bench.exchange.lists.all, bench.exchange.drain()) == ([], [], [])
    assert bench.funds("BTC") == (10, 0)


def test_ids_of_lists_and_of_their_orders_are_unique_while_open():
    bench = Bench()
    made = oco(bench, client_id="list")
    with pytest.raises(Reject, match="Duplicate"):
        oco(bench, client_id="list")
    with pytest.raises(Reject, match="Duplicate"):
        place(bench, leg("SELL", "LIMIT_MAKER", "1", "101", None, "a"), leg("SELL", "STOP_LOSS", "1", None, "99", "a"))
    bench.exchange.lists.cancel(bench.account, "BTCUSDT", made.list_id)
    again = oco(bench, client_id="list")
    assert bench.exchange.lists.query(bench.account, client_id="list") is again
    assert bench.exchange.lists.open_of(bench.account) == [again]


def test_a_list_counts_as_many_orders_as_it_has():
    bench = Bench()
    for _ in range(SPEC.max_algo_orders):
        oco(bench)
    with pytest.raises(Reject, match="MAX_NUM_ALGO_ORDERS"):
        oco(bench)


# Orders that wait for another


def test_pending_orders_lock_nothing_and_are_placed_when_the_working_one_is_wholly_filled():
    tape = [(1, "99.5", "0.4", SOLD), (2, "99.5", "0.6", SOLD), (3, "101", "9", BOUGHT)]
    bench = Bench(*tape, balances={"USDT": 1_000}, maker_fee=D(0), taker_fee=D(0))
    made = place(bench, *exits(), working=entry())
    assert (made.contingency, states(made)) == ("OTO", ["NEW", "PENDING_NEW", "PENDING_NEW"])
    assert bench.funds("USDT") == (D("900.5"), D("99.5"))
    assert told(bench.exchange.drain())[1:3] == [
        ("LIMIT_MAKER", "NEW", "PENDING_NEW"),
        ("STOP_LOSS", "NEW", "PENDING_NEW"),
    ]
    bench.run(1)
    assert states(made) == ["PARTIALLY_FILLED", "PENDING_NEW", "PENDING_NEW"]
    assert told(bench.run(2)) == [
        ("LIMIT", "TRADE", "FILLED"),
        ("LIMIT_MAKER", "NEW", "NEW"),
        ("STOP_LOSS", "NEW", "NEW"),
        ("list", False),
    ]
    assert bench.funds("BTC") == (0, 1)
    bench.run(3)
    assert (states(made), made.is_done) == (["FILLED", "FILLED", "EXPIRED"], True)
    assert bench.funds("USDT") == (D("1001.5"), 0)


def test_the_answer_shows_pending_orders_although_the_working_one_is_filled_at_once():
    bench = Bench(maker_fee=D(0), taker_fee=D(0))
    made = place(bench, leg("SELL", "LIMIT", "0.1", "105"), working=entry("100.01", quantity="0.1"))
    assert states(made) == ["FILLED", "PENDING_NEW"]
    bench.run(0)
    assert states(made) == ["FILLED", "NEW"]


def test_a_pending_market_order_trades_when_it_is_placed():
    bench = Bench((1, "99.5", "5", SOLD))
    made = place(bench, leg("SELL", "MARKET", "0.5"), working=entry())
    said = told(bench.run(1))
    assert states(made) == ["FILLED", "FILLED"]
    assert said[-2:] == [("MARKET", "TRADE", "FILLED"), ("list", True)]


@pytest.mark.parametrize("tif", ["IOC", "FOK"])
def test_a_working_order_that_expires_takes_the_pending_ones_along(tif):
    bench = Bench()
    made = place(bench, *exits(), working=entry(tif=tif))
    assert states(made) == ["EXPIRED"] * 3
    assert [order.expiry_reason for order in made.orders[1:]] == ["OTO_PHASE_ONE_EXPIRED"] * 2
    assert (made.orders[0].expiry_reason, made.is_done) == (
        "UNFILLED_IOC_QUANTITY_EXPIRED" if tif == "IOC" else "UNFILLED_FOK_ORDER_EXPIRED",
        True,
    )
    assert told(bench.exchange.drain()).count(("list", True)) == 1


@pytest.mark.parametrize("which", [0, 1, 2])
def test_cancelling_any_order_of_three_cancels_all(which):
    bench = Bench()
    made = place(bench, *exits(), working=entry())
    bench.exchange.cancel(bench.account, "BTCUSDT", made.orders[which].order_id)
    assert states(made) == ["CANCELED"] * 3
    assert bench.funds("USDT") == (10_000, 0)
    assert bench.exchange.open_orders(bench.account) == []


def test_pending_orders_that_cannot_be_paid_expire():
    bench = Bench((1, "99.5", "5", SOLD), balances={"USDT": 1_000})
    made = place(bench, *exits(), working=entry())  # the fee leaves less than the 1 BTC that the exits sell
    bench.run(1)
    assert states(made) == ["FILLED", "EXPIRED", "EXPIRED"]
    assert [order.expiry_reason for order in made.orders[1:]] == ["REJECTED", "OCO_TRIGGER"]
    assert made.is_done
    assert bench.funds("BTC") == (D("0.999"), 0)


def test_pending_stops_that_the_price_has_passed_expire():
    bench = Bench((1, "97", "5", SOLD))
    made = place(bench, *exits(), working=entry())
    bench.run(1)
    assert [order.expiry_reason for order in made.orders] == ["", "OCO_TRIGGER", "REJECTED"]
    assert bench.funds("BTC") == (D("10.999"), 0)


def test_only_limit_orders_may_be_waited_for():
    bench = Bench()
    with pytest.raises(Reject, match="-1116"):
        place(bench, *exits(), working=leg("BUY", "MARKET"))


# Any sequence

PRICES = st.integers(9_500, 10_500).map(lambda cents: str(D(cents) / 100))
QUANTITIES = st.sampled_from(["0.5", "1", "2.5"])
TRADES = st.lists(st.tuples(PRICES, QUANTITIES, st.booleans()), max_size=25)


@st.composite
def acts(draw):
    low, high = sorted(draw(st.lists(PRICES, min_size=2, max_size=2, unique=True)), key=Decimal)
    side, quantity, kind = draw(st.sampled_from(["BUY", "SELL"])), draw(QUANTITIES), draw(st.sampled_from("POTC"))
    gain = leg(side, "LIMIT_MAKER", quantity, high if side == "SELL" else low)
    loss = leg(side, "STOP_LOSS_LIMIT", quantity, *([low] * 2 if side == "SELL" else [high] * 2))
    if draw(st.booleans()):
        loss = leg(side, "STOP_LOSS", quantity, stop=low if side == "SELL" else high)
    pair = (gain, loss) if side == "SELL" else (loss, gain)
    other = "BUY" if side == "SELL" else "SELL"
    working = leg(other, "LIMIT", quantity, draw(PRICES), tif=draw(st.sampled_from(["GTC", "IOC"])))
    return kind, pair, working, draw(st.integers(0, 30))


@settings(max_examples=150, deadline=None)
@given(TRADES, st.lists(st.tuples(st.integers(0, 25), acts()), max_size=8))
def test_books_balance_whatever_happens(trades, done):
    tape = [(1 + second, price, qty, side) for second, (price, qty, side) in enumerate(trades)]
    bench = Bench(*tape, balances={"USDT": 1_000, "BTC": 10})
    events = []
    for second in range(len(trades) + 2):
        for at, act in done:
            if at == second:
                with contextlib.suppress(Reject):
                    carry_out(bench, *act)
        events += bench.run(second)
        judge(bench)
    for order_list in bench.exchange.lists.all:
        dones = [event.is_done for event in events if isinstance(event, ListEvent) and event.order_list is order_list]
        assert dones.count(True) == order_list.is_done
        assert (dones[0], dones[-1]) == (False, order_list.is_done)
    last = {}
    for event in events:
        if isinstance(event, BalanceEvent):
            last |= {asset: (free, locked) for asset, free, locked in event.changes}
    assert all(bench.funds(asset) == amounts for asset, amounts in last.items())


def carry_out(bench, kind, pair, working, which):
    if kind == "P":
        place(bench, *pair)
    elif kind == "O":
        place(bench, *pair, working=working)
    elif kind == "T":
        place(bench, pair[0], working=working)
    elif bench.exchange.orders:
        orders = bench.exchange.orders
        bench.exchange.cancel(bench.account, "BTCUSDT", orders[which % len(orders)].order_id)


def judge(bench):
    """Check balances and lists by the orders and fills alone."""
    exchange = bench.exchange
    totals = {"USDT": D(1_000), "BTC": D(10)}
    locked = {"USDT": D(0), "BTC": D(0)}
    for order in exchange.orders:
        sign = 1 if order.side == "BUY" else -1
        for fill in order.fills:
            totals["BTC"] += sign * fill.qty
            totals["USDT"] -= sign * fill.quote
            totals[fill.commission_asset] -= fill.commission
        if order.is_open and order.order_list_id < 0:
            locked["USDT" if sign > 0 else "BTC"] += need_of(order)
    for each in exchange.lists.all:
        working = [order for order in each.orders if order.is_open and order.status != "PENDING_NEW"]
        if working:
            locked["USDT" if working[0].side == "BUY" else "BTC"] += max(need_of(order) for order in working)
        filled = [order for order in each.others if order.executed]
        assert len(filled) <= 1
        if filled:
            assert all(not order.is_open for order in each.others if order is not filled[0])
        if each.working is not None and each.working.status != "FILLED":
            assert all(order.status in {"PENDING_NEW", "CANCELED", "EXPIRED"} for order in each.others)
    for asset, total in totals.items():
        free, held = bench.funds(asset)
        assert (free + held, held) == (total, locked[asset])
        assert free >= 0
