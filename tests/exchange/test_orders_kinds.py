"""Validity, OCO, trailing stops, orders by cost, limits and the halt, through ccxt's real class."""

import datetime as dt
from dataclasses import replace

import backtrader as bt
import pytest

from ccxtbt.sim.server import API_KEY
from planned import SECONDS, Plan, assert_books_agree, ended, statuses, trade
from simulated import BTC, ETH
from watching import ago, run, store_of

HOUR_MS = 3_600_000
OPENING = {"USDT": 100_000, "BTC": 0}
RICH = {"USDT": 100_000, "BTC": 1}


@pytest.fixture
def server(simulator):
    return simulator(
        (replace(BTC, volatility=0.003), ETH), seed=2, history_ms=HOUR_MS, speed=5, balances={"USDT": 100_000, "BTC": 0}
    )


@pytest.fixture
def holding(simulator):
    return simulator((replace(BTC, volatility=0.003), ETH), seed=2, history_ms=HOUR_MS, speed=5, balances=RICH)


def at_exchange(server):
    return server.exchange.all_orders(server.account(API_KEY), "BTCUSDT", limit=100)


def low_limit(w, **more):
    return w.buy(size=0.1, exectype=bt.Order.Limit, price=w.data.close[0] * 0.9, **more)


# Validity


@pytest.mark.parametrize("given", ["span", "time", "days"])
def test_an_order_whose_time_is_over_is_cancelled_and_told_as_expired(server, given):
    made = []

    def place(w):
        made.append(server.clock.now_ms())
        end = dt.datetime.fromtimestamp(made[0] / 1_000, dt.UTC).replace(tzinfo=None) + dt.timedelta(seconds=8)
        return low_limit(w, valid={"span": dt.timedelta(seconds=8), "time": end, "days": 8 / 86_400}[given])

    watcher, plan, broker = trade(server, place)
    (order,) = plan.made
    assert statuses(watcher, order) == ["Submitted", "Accepted", "Expired"]
    assert "validity was over" in order.info.reason
    assert order.info.emulated == "its validity is watched here"
    (there,) = at_exchange(server)
    assert there.status == "CANCELED"
    # Not before its time, and soon after it: passes of cerebro are at most a second apart, five by this clock.
    assert 8_000 <= there.updated_ms - made[0] < 8_000 + 10_000
    assert not assert_books_agree(server, watcher, broker, OPENING)


@pytest.mark.parametrize("valid", [bt.Order.DAY, 0, dt.date(2024, 1, 1)], ids=["DAY", "0", "date"])
def test_an_order_for_the_day_ends_with_the_exchanges_day(simulator, valid):
    midnight_ms = 1_704_067_200_000
    server = simulator((BTC,), seed=2, start_ms=midnight_ms - 20_000, history_ms=HOUR_MS, speed=10, balances=OPENING)
    watcher, plan, _ = trade(server, lambda w: low_limit(w, valid=valid))
    assert statuses(watcher, plan.made[0])[-1] == "Expired"
    (there,) = at_exchange(server)
    assert there.created_ms < midnight_ms <= there.updated_ms < midnight_ms + 20_000


def test_an_order_that_is_filled_in_time_does_not_expire(server):
    def place(w):
        return w.buy(size=0.1, exectype=bt.Order.Limit, price=w.data.close[0] * 1.01, valid=dt.timedelta(seconds=5))

    watcher, plan, broker = trade(server, place, lambda w: None, lambda w: w.close())
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed"] * 2
    assert_books_agree(server, watcher, broker, OPENING)


@pytest.mark.parametrize(("valid", "reason"), [(dt.datetime(2020, 1, 1), "over already"), ("soon", "no validity")])  # noqa: DTZ001
def test_a_validity_that_makes_no_sense_is_refused(server, valid, reason):
    watcher, plan, _ = trade(server, lambda w: low_limit(w, valid=valid))
    assert statuses(watcher, plan.made[0]) == ["Rejected"]
    assert reason in plan.made[0].info.reason
    assert not at_exchange(server)


def test_a_bracket_whose_entry_expires_takes_its_exits_along(server):
    # As in backtrader the validity of a bracket is that of its stop too.
    def enter(w):
        price = w.data.close[0]
        exits = {"stopprice": price * 0.8, "limitprice": price}
        return w.buy_bracket(size=0.1, price=price * 0.9, valid=dt.timedelta(seconds=5), **exits)

    watcher, plan, broker = trade(server, enter)
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Expired", "Expired", "Canceled"]
    assert not assert_books_agree(server, watcher, broker, OPENING)


def test_an_exit_that_expires_ends_its_bracket_and_says_what_is_held(server):
    def enter(w):
        price = w.data.close[0]
        exits = {"stopprice": price * 0.8, "limitprice": price * 1.2, "stopargs": {"valid": dt.timedelta(seconds=5)}}
        return w.buy_bracket(size=0.1, exectype=bt.Order.Market, **exits)

    watcher, plan, broker = trade(server, enter)
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed", "Expired", "Canceled"]
    assert any("is held, and its bracket ends" in text for text in watcher.messages)
    assert_books_agree(server, watcher, broker, OPENING)


# What else an order can say


def test_a_close_order_and_a_trade_of_its_own_id(server):
    steps = [
        lambda w: w.buy(size=0.1, exectype=bt.Order.Close, tradeid=1),
        lambda w: w.buy(size=0.2, tradeid=2),
        lambda w: w.sell(size=0.0999, exectype=bt.Order.Close, tradeid=1),
        lambda w: w.sell(size=0.1998, tradeid=2),
    ]
    watcher, plan, broker = trade(server, *steps)
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed"] * 4
    assert {order.type for order in at_exchange(server)} == {"MARKET"}
    assert {trade.tradeid for trade in watcher.trades if trade.isclosed} == {1, 2}
    assert_books_agree(server, watcher, broker, OPENING)


def test_parameters_reach_the_exchange_as_they_are(server):
    def at(share, **more):
        def step(w):
            return w.buy(size=0.1, exectype=bt.Order.Limit, price=w.data.close[0] * share, **more)

        return step

    steps = [
        at(0.9, timeInForce="IOC"),
        at(0.9, timeInForce="FOK"),
        at(1.01, timeInForce="IOC"),
        at(0.9, postOnly=True, valid=dt.timedelta(seconds=2)),
    ]
    watcher, plan, broker = trade(server, *steps)
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Expired", "Expired", "Completed", "Expired"]
    there = at_exchange(server)
    assert [(order.type, order.time_in_force) for order in there] == [
        ("LIMIT", "IOC"),
        ("LIMIT", "FOK"),
        ("LIMIT", "IOC"),
        ("LIMIT_MAKER", "GTC"),
    ]
    assert_books_agree(server, watcher, broker, OPENING)


def test_an_order_that_is_to_make_and_would_take_is_rejected(server):
    def act(w):
        if not w.orders and w.states[w.data][-1:] == ["LIVE"]:
            w.buy(size=0.1, exectype=bt.Order.Limit, price=w.data.close[0] * 1.01, postOnly=True)

    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    watcher = run(store, feed, broker=store.getbroker(), act=act, until=lambda w: ended(w))
    assert [order.getstatusname() for order in watcher.orders] == ["Submitted", "Rejected"]
    assert "immediately match" in watcher.orders[-1].info.reason
    assert not at_exchange(server)


def test_a_bracket_by_hand_is_sent_when_its_last_order_says_so(server):
    made, sent = [], []

    def begin(w):
        price = w.data.close[0]
        made.append(w.buy(size=0.1, exectype=bt.Order.Limit, price=price * 1.01, transmit=False))
        made.append(w.sell(size=0.1, exectype=bt.Order.Stop, price=price * 0.9, parent=made[0], transmit=False))
        sent.append(len(at_exchange(server)))

    def complete(w):
        sent.append(len(at_exchange(server)))
        price = w.data.close[0]
        made.append(w.sell(size=0.1, exectype=bt.Order.Limit, price=price * 1.0001, parent=made[0]))
        return made

    watcher, _, broker = trade(server, begin, complete)
    assert sent == [0, 0]
    assert [statuses(watcher, order)[-1] for order in made] == ["Completed", "Canceled", "Completed"]
    assert_books_agree(server, watcher, broker, OPENING)


# OCO


def test_of_two_buys_the_fill_of_one_cancels_the_other(server):
    made = []

    def place(w):
        price = w.data.close[0]
        made.append(w.buy(size=0.1, exectype=bt.Order.Limit, price=price * 0.9))
        made.append(w.buy(size=0.1, exectype=bt.Order.Stop, price=price * 1.0002, oco=made[0]))
        return made

    watcher, _, broker = trade(server, place)
    assert [statuses(watcher, order)[-1] for order in made] == ["Canceled", "Completed"]
    assert_books_agree(server, watcher, broker, OPENING)


def test_a_cancel_of_one_cancels_the_other(server):
    made = []

    def place(w):
        made.append(low_limit(w))
        made.append(low_limit(w, oco=made[0]))

    watcher, _, _ = trade(server, place, lambda w: w.cancel(made[1]), lambda w: made)
    assert [statuses(watcher, order)[-1] for order in made] == ["Canceled"] * 2
    assert {order.status for order in at_exchange(server)} == {"CANCELED"}


@pytest.mark.parametrize(("stop", "limit"), [(0.9, 1.00001), (0.9999, 1.1)])
@pytest.mark.parametrize("stop_first", [False, True])
def test_two_exits_of_all_that_is_held_never_lock_it_twice(holding, stop, limit, stop_first):
    made = []

    def place(w):
        price = w.data.close[0]
        kinds = [
            {"exectype": bt.Order.Limit, "price": price * limit},
            {"exectype": bt.Order.Stop, "price": price * stop},
        ]
        if stop_first:
            kinds.reverse()
        made.append(w.sell(size=1, **kinds[0]))
        made.append(w.sell(size=1, oco=made[0], **kinds[1]))
        return made

    watcher, _, _ = trade(holding, place)
    ends = {order.exectype: statuses(watcher, order)[-1] for order in made}
    taken, left = (bt.Order.Limit, bt.Order.Stop) if stop == 0.9 else (bt.Order.Stop, bt.Order.Limit)
    assert (ends[taken], ends[left]) == ("Completed", "Canceled")
    # All that was held is sold, once; nothing was refused for lack of funds.
    fills = holding.exchange.my_trades(holding.account(API_KEY), "BTCUSDT", limit=1_000)
    assert sum(fill.qty for fill in fills) == 1
    assert "Margin" not in [status for order in made for status in statuses(watcher, order)]


def test_an_exclusion_of_what_has_ended_is_refused(server):
    def buy(w):
        return w.buy(size=0.1)

    def exclude(w):
        return low_limit(w, oco=w.orders[0])

    watcher, plan, _ = trade(server, buy, exclude)
    assert statuses(watcher, plan.made[1]) == ["Rejected"]
    assert "not open any more" in plan.made[1].info.reason


@pytest.mark.parametrize("flatten", [False, True])
def test_two_that_are_both_filled_are_told_and_traded_back_if_that_is_wanted(server, flatten):
    made = []

    def place(w):
        price = w.data.close[0] * 1.01
        # Both cross the market at once: the second is on its way before anybody knows of the first one's fill.
        made.append(w.buy(size=0.1, exectype=bt.Order.Limit, price=price))
        made.append(w.buy(size=0.1, exectype=bt.Order.Limit, price=price, oco=made[0]))

    def done(w):
        position = float(broker.getposition(w.data).size)
        return len(made) == 2 and {made[0].ref, made[1].ref} <= ended(w) and (position < 0.11 if flatten else True)

    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    broker = store.getbroker(check_interval=0.5, flatten_excess=flatten)
    watcher = run(store, feed, broker=broker, act=Plan(place).act, until=done)
    assert [statuses(watcher, order)[-1] for order in made] == ["Completed"] * 2
    assert [text for text in watcher.messages if "traded" in text and "more than one of its orders" in text]
    assert [order.side for order in at_exchange(server)] == ["BUY", "BUY", "SELL"][: 2 + flatten]
    assert_books_agree(server, watcher, broker, OPENING)


# Trailing stops


@pytest.mark.parametrize("exectype", [bt.Order.StopTrail, bt.Order.StopTrailLimit])
def test_a_trailing_stop_moves_with_the_price_and_sells_when_it_falls_back(server, exectype):
    seen = []

    def trail(w):
        price = w.data.close[0]
        more = {"price": price, "plimit": price * 0.99} if exectype == bt.Order.StopTrailLimit else {}
        return w.sell(size=0.1, exectype=exectype, trailamount=price * 0.0002, **more)

    def watch(w):
        plan.act(w)
        if len(plan.made) == 2:
            seen.append((plan.made[1].created.price, w.data.close[0]))

    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    broker = store.getbroker(check_interval=0.5)
    plan = Plan(lambda w: w.buy(size=0.101), trail)
    watcher = run(store, feed, broker=broker, act=watch, until=plan.until)
    order = plan.made[1]
    assert statuses(watcher, order)[:2] == ["Submitted", "Accepted"]
    assert statuses(watcher, order)[-1] == "Completed"
    assert statuses(watcher, order).count("Accepted") == 1
    assert "watched here, by the last price" in order.info.emulated
    # It never falls, and is no farther from any close than its distance.
    stops, closes = zip(*seen, strict=True)
    assert list(stops) == sorted(stops)
    assert all(stop >= close - order.trailamount - 1e-6 for stop, close in zip(stops, closes, strict=True))
    assert at_exchange(server)[-1].type == ("MARKET" if exectype == bt.Order.StopTrail else "LIMIT")
    assert_books_agree(server, watcher, broker, OPENING)


def test_a_trailing_stop_can_be_cancelled_and_expires(server):
    made = []

    def place(w):
        made.append(w.buy(size=0.1, exectype=bt.Order.StopTrail, trailamount=9_000))
        made.append(w.buy(size=0.1, exectype=bt.Order.StopTrail, trailamount=9_000, valid=dt.timedelta(seconds=5)))

    watcher, _, _ = trade(server, place, lambda w: w.cancel(made[0]), lambda w: made)
    assert [statuses(watcher, order) for order in made] == [
        ["Submitted", "Accepted", "Canceled"],
        ["Submitted", "Accepted", "Expired"],
    ]
    assert not at_exchange(server)


@pytest.mark.parametrize("source", ["ohlcv", "trades"])
def test_what_is_watched_here_is_due_between_closes(simulator, source):
    server = simulator((replace(BTC, volatility=0.01),), seed=2, history_ms=HOUR_MS, speed=20, balances=OPENING)
    when = []

    def place(w):
        when.append(len(w.data))
        return w.buy(size=0.1, exectype=bt.Order.StopTrail, trailamount=w.data.close[0] * 0.00005)

    def done(w):
        if plan.made and plan.made[0].ref in ended(w):
            when.append(len(w.data))
        return len(when) > 1

    store = store_of(server)
    feed = store.getdata(
        dataname="BTC/USDT", fromdate=ago(server, minutes=5), timeframe=bt.TimeFrame.Minutes, source=source
    )
    plan = Plan(place)
    watcher = run(store, feed, broker=store.getbroker(check_interval=0.5), act=plan.act, until=done)
    assert statuses(watcher, plan.made[0])[-1] == "Completed"
    assert when[0] == when[1]


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_a_trailing_stop_that_the_exchange_can_have_is_its_own(holding, side):
    # One that is reached, one that is cancelled, one whose time is over.
    made = []

    def place(w):
        give = getattr(w, side)
        made.extend(give(size=0.1, exectype=bt.Order.StopTrail, trailpercent=share) for share in (0.001, 0.2))
        valid = dt.timedelta(seconds=5)
        made.append(give(size=0.1, exectype=bt.Order.StopTrail, trailpercent=0.2, valid=valid))

    watcher, _, broker = trade(holding, place, lambda w: w.cancel(made[1]), lambda w: made)
    assert [statuses(watcher, order)[-1] for order in made] == ["Completed", "Canceled", "Expired"]
    assert [order.info.emulated for order in made] == ["", "", "its validity is watched here"]
    there = at_exchange(holding)
    assert [(order.type, order.trailing_delta) for order in there] == [("STOP_LOSS", d) for d in (10, 2_000, 2_000)]
    # It was reached by the price's coming back from its best.
    assert there[0].executed == there[0].orig_qty
    assert_books_agree(holding, watcher, broker, RICH)


def test_a_bracket_trails_its_stop(server):
    def enter(w):
        price = w.data.close[0]
        exits = {"stopprice": price, "stopexec": bt.Order.StopTrail, "stopargs": {"trailamount": price * 0.0002}}
        return w.buy_bracket(size=0.3, exectype=bt.Order.Market, limitprice=price * 1.5, **exits)

    watcher, plan, broker = trade(server, enter)
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed", "Completed", "Canceled"]
    assert [order.type for order in at_exchange(server)] == ["MARKET", "MARKET"]
    assert_books_agree(server, watcher, broker, OPENING)
    assert broker.getposition(watcher.data).size == 0


# By cost


def test_a_market_buy_spends_an_amount_of_quote(server):
    watcher, plan, broker = trade(server, lambda w: w.buy(quote_size=250))
    (order,) = plan.made
    assert statuses(watcher, order)[-1] == "Completed"
    assert order.executed.remsize == 0
    assert 249 < order.executed.size * order.executed.price <= 250
    assert not order.info.emulated
    assert_books_agree(server, watcher, broker, OPENING)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (lambda w: w.sell(quote_size=250), "market buys alone"),
        (lambda w: low_limit(w, quote_size=250), "market buys alone"),
        (lambda w: w.buy(quote_size=-1), "buys nothing"),
        (lambda w: w.buy(quote_size=1), "minimum"),
    ],
)
def test_a_cost_that_makes_no_sense_is_refused(server, step, reason):
    watcher, plan, _ = trade(server, step)
    assert statuses(watcher, plan.made[0]) == ["Rejected"]
    assert reason in plan.made[0].info.reason
    assert not at_exchange(server)


# Limits and the halt


@pytest.mark.parametrize(
    ("limits", "steps", "reason"),
    [
        ({"max_order_value": 1_000}, [lambda w: w.buy(size=0.1)], "max_order_value=1000"),
        ({"max_position": 0.15}, [lambda w: w.buy(size=0.1), lambda w: w.buy(size=0.1)], "max_position=0.15"),
        ({"max_position": 0.15}, [lambda w: [low_limit(w), low_limit(w)]], "max_position=0.15"),
        ({"max_open_orders": 1}, [lambda w: [low_limit(w), low_limit(w)]], "max_open_orders=1"),
    ],
)
def test_what_breaks_a_limit_is_refused_before_it_is_sent(server, limits, steps, reason):
    store = store_of(server, **limits)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    plan = Plan(*steps)
    watcher = run(
        store,
        feed,
        broker=store.getbroker(check_interval=0.5),
        act=plan.act,
        until=lambda w: any(order.getstatusname() == "Rejected" for order in w.orders),
    )
    *sent, refused = plan.made
    assert statuses(watcher, refused) == ["Rejected"]
    assert reason in refused.info.reason
    assert len(at_exchange(server)) <= len(sent)


def test_a_sale_that_makes_the_position_smaller_is_within_each_position_limit(server):
    watcher, plan, broker = trade(server, lambda w: w.buy(size=0.1), lambda w: w.close(), max_position=0.1)
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed"] * 2
    assert_books_agree(server, watcher, broker, OPENING)


def test_a_halt_cancels_all_that_is_open_and_refuses_what_comes(server):
    made = []

    def place(w):
        price = w.data.close[0]
        made.extend([low_limit(w), w.buy(size=0.1, exectype=bt.Order.StopTrail, trailpercent=0.2)])
        made.extend(w.buy_bracket(size=0.1, exectype=bt.Order.Market, stopprice=price * 0.8, limitprice=price * 1.2))

    def halt(w):
        if made[2].ref in ended(w):
            w.broker.store.halt("the test says so")
            made.append(low_limit(w))
            return made
        plan.steps.insert(0, halt)
        return None

    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    broker = store.getbroker(check_interval=0.5)
    plan = Plan(place, halt)
    watcher = run(store, feed, broker=broker, act=plan.act, until=plan.until)
    ends = [statuses(watcher, order)[-1] for order in made]
    assert ends == ["Canceled", "Canceled", "Completed", "Canceled", "Canceled", "Rejected"]
    assert "halted (the test says so)" in made[-1].info.reason
    assert any("Halted: the test says so" in text for text in watcher.messages)
    assert not server.exchange.open_orders(server.account(API_KEY))
    assert_books_agree(server, watcher, broker, OPENING)
