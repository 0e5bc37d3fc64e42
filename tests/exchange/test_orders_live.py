"""Orders through ccxt's real class, over real HTTP and WebSocket: each sent once, each fill counted once."""

from dataclasses import replace
from decimal import Decimal

import backtrader as bt
import pytest

from ccxtbt.exchange.exchanges import facts_of
from ccxtbt.trading import courier
from planned import SECONDS, Plan, assert_books_agree, statuses, trade
from simulated import BTC, ETH
from watching import ago, run, store_of

HOUR_MS = 3_600_000


@pytest.fixture
def server(simulator):
    # Lively, so that stops and targets are reached within seconds.
    return simulator(
        (replace(BTC, volatility=0.003), ETH), seed=2, history_ms=HOUR_MS, speed=5, balances={"USDT": 100_000, "BTC": 0}
    )


OPENING = {"USDT": 100_000, "BTC": 0}


def test_a_market_order_is_filled_and_sold_again(server):
    watcher, plan, broker = trade(server, lambda w: w.buy(size=0.5), lambda w: w.close())
    buy, sell = plan.made
    for order in (buy, sell):
        seen = statuses(watcher, order)
        assert seen[:2] == ["Submitted", "Accepted"]
        assert seen[-1] == "Completed"
        assert seen.count("Completed") == 1
    assert_books_agree(server, watcher, broker, OPENING)
    assert broker.getposition(watcher.data).size == 0
    closed = [t for t in watcher.trades if t.isclosed]
    assert len(closed) == 1
    # What a Trade made, fees included, is what the account has lost or won, but for dust that no order can sell.
    assert closed[0].pnlcomm == pytest.approx(broker.getcash() - 100_000, abs=60_000 * 0.00001)


def test_a_target_is_sized_by_the_markets_own_step_and_fee(server):
    watcher, plan, broker = trade(server, lambda w: w.order_target_percent(target=0.3), lambda w: w.close())
    entry = plan.made[0]
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed", "Completed"]
    assert entry.executed.value == pytest.approx(30_000, rel=0.01)
    # Half a coin: whole units, as backtrader's own CommInfo has them, would be none.
    assert 0.4 < entry.executed.size < 0.6
    assert broker.getcommissioninfo(watcher.data).p.commission == 0.001
    assert_books_agree(server, watcher, broker, OPENING)


def test_a_limit_order_rests_and_is_cancelled(server):
    placed = []

    def rest(w):
        placed.append(w.buy(size=0.1, exectype=bt.Order.Limit, price=w.data.close[0] * 0.9))

    def cancel(w):
        w.cancel(placed[0])

    watcher, _, broker = trade(server, rest, cancel, lambda w: placed[0])
    assert statuses(watcher, placed[0]) == ["Submitted", "Accepted", "Canceled"]
    assert_books_agree(server, watcher, broker, OPENING)


def test_a_limit_order_that_crosses_is_filled_at_its_price_or_better(server):
    watcher, plan, broker = trade(
        server, lambda w: w.buy(size=0.2, exectype=bt.Order.Limit, price=w.data.close[0] * 1.01)
    )
    (order,) = plan.made
    assert statuses(watcher, order)[-1] == "Completed"
    assert_books_agree(server, watcher, broker, OPENING)


def test_a_stop_and_a_stop_limit_trigger(server):
    watcher, plan, broker = trade(
        server,
        lambda w: w.buy(size=0.2, exectype=bt.Order.Stop, price=w.data.close[0] * 1.00002),
        lambda w: w.sell(
            size=0.1, exectype=bt.Order.StopLimit, price=w.data.close[0] * 0.99998, plimit=w.data.close[0] * 0.99
        ),
    )
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed", "Completed"]
    types = [o.type for o in server.exchange.all_orders(server.account(), "BTCUSDT", limit=10)]
    assert types == ["STOP_LOSS", "STOP_LOSS_LIMIT"]
    assert_books_agree(server, watcher, broker, OPENING)


@pytest.mark.parametrize("order_lists", ["binance", ""])
@pytest.mark.parametrize(("stop", "limit"), [(0.9, 1.00001), (0.9999, 1.1)])
def test_a_bracket_leaves_through_one_exit(server, stop, limit, order_lists):
    def enter(w):
        price = w.data.close[0]
        return w.buy_bracket(size=0.3, exectype=bt.Order.Market, stopprice=price * stop, limitprice=price * limit)

    facts = replace(facts_of("binance"), order_lists=order_lists)
    watcher, plan, broker = trade(server, enter, facts=facts)
    entry, stop_order, limit_order = plan.made
    ends = [statuses(watcher, order)[-1] for order in plan.made]
    assert ends == (["Completed", "Canceled", "Completed"] if stop == 0.9 else ["Completed", "Completed", "Canceled"])
    assert not entry.info.emulated
    if not order_lists:
        assert "takes turns" in stop_order.info.emulated
        assert "takes turns" in limit_order.info.emulated
        assert not server.exchange.lists.all
    # An exit is sized to what the entry left after its fee.
    out = next(order for order in (stop_order, limit_order) if statuses(watcher, order)[-1] == "Completed")
    assert abs(out.executed.size) <= entry.executed.size
    assert_books_agree(server, watcher, broker, OPENING)
    assert broker.getposition(watcher.data).size == 0


def test_a_bracket_whose_entry_is_cancelled_takes_its_exits_along(server):
    made = []

    def enter(w):
        price = w.data.close[0]
        made.extend(w.buy_bracket(size=0.3, price=price * 0.9, stopprice=price * 0.8, limitprice=price))

    watcher, _, broker = trade(server, enter, lambda w: w.cancel(made[0]), lambda w: made)
    assert [statuses(watcher, order)[-1] for order in made] == ["Canceled"] * 3
    assert not assert_books_agree(server, watcher, broker, OPENING)


@pytest.mark.parametrize(
    ("step", "status", "reason"),
    [
        (lambda w: w.buy(size=1e-9), "Rejected", "size"),
        (lambda w: w.buy(size=0.00002), "Rejected", "minimum"),
        (lambda w: w.buy(size=50), "Margin", "balance"),
        (lambda w: w.buy(size=0.1, exectype=bt.Order.StopTrail), "Rejected", "trailamount"),
        (lambda w: w.buy(size=0.1, exectype=bt.Order.Historical), "Rejected", "Historical"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_reason(server, step, status, reason):
    watcher, plan, broker = trade(server, step)
    (order,) = plan.made
    assert statuses(watcher, order)[-1] == status
    assert reason in order.info.reason
    assert not assert_books_agree(server, watcher, broker, OPENING)


def test_before_live_nothing_is_sent(server):
    early = []

    def step(w):
        if not early:
            early.append(w.buy(size=0.1))

    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    watcher = run(store, feed, broker=store.getbroker(), act=step, until=lambda w: w.states[feed][-1:] == ["LIVE"])
    assert statuses(watcher, early[0]) == ["Rejected"]
    assert "not LIVE" in early[0].info.reason
    assert not server.exchange.all_orders(server.account(), "BTCUSDT", limit=10)


def test_an_answer_that_is_lost_does_not_send_the_order_twice(server):
    server.faults.drop_answer(path="/api/v3/order", method="POST")
    watcher, plan, broker = trade(server, lambda w: w.buy(size=0.5))
    assert server.faults.log
    assert statuses(watcher, plan.made[0])[-1] == "Completed"
    assert len(server.exchange.all_orders(server.account(), "BTCUSDT", limit=10)) == 1
    assert_books_agree(server, watcher, broker, OPENING)


@pytest.mark.parametrize("answer", ["none", "an error", "a page", "half", "nothing of the order"])
def test_an_order_that_nobody_knows_of_is_looked_up_and_not_sent_again(server, answer):
    faults, which = server.faults, {"path": "/api/v3/order", "method": "POST"}
    {
        "none": lambda: faults.drop_answer(**which),
        "an error": lambda: faults.server_error(504, taken=True, **which),
        "a page": lambda: faults.html(taken=True, **which),
        "half": lambda: faults.truncate(cut=False, **which),
        "nothing of the order": lambda: faults.answer(200, b"{}", taken=True, **which),
    }[answer]()
    # Only its own look-up tells of it, and not at once: time enough to send it again.
    faults.lose(stream="user", times=0)
    faults.not_visible(path="/api/v3/order", method="GET", times=2)
    watcher, plan, broker = trade(server, lambda w: w.buy(size=0.5))
    assert statuses(watcher, plan.made[0])[-1] == "Completed"
    assert any("Nobody knows" in message for message in watcher.messages)
    assert [request.method for request in server.requests if request.path == "/api/v3/order"].count("POST") == 1
    assert_books_agree(server, watcher, broker, OPENING)


def test_an_order_that_was_turned_away_goes_again_under_the_same_id(server):
    server.faults.rate_limited(retry_after_s=1, path="/api/v3/order", method="POST")
    watcher, plan, broker = trade(server, lambda w: w.buy(size=0.5))
    assert server.faults.log
    assert statuses(watcher, plan.made[0])[-1] == "Completed"
    assert_books_agree(server, watcher, broker, OPENING)


def test_fills_that_no_stream_brought_are_looked_up(server):
    server.faults.lose(stream="user", times=0)
    watcher, plan, broker = trade(
        server, lambda w: w.buy(size=0.2, exectype=bt.Order.Stop, price=w.data.close[0] * 1.00002)
    )
    assert statuses(watcher, plan.made[0])[-1] == "Completed"
    assert_books_agree(server, watcher, broker, OPENING)


def test_what_the_streams_tell_is_not_looked_up(server):
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    broker = store.getbroker()
    resting = []

    def rest(w):
        resting.append(w.buy(size=0.1, exectype=bt.Order.Limit, price=w.data.close[0] * 0.9))

    def cancel(w):
        w.cancel(resting[0])
        return resting

    plan = Plan(rest, *[lambda w: w.buy(size=0.1), lambda w: w.close()] * 4, cancel)
    watcher = run(store, feed, broker=broker, act=plan.act, until=plan.until)
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed"] * 8 + ["Canceled"]
    assert not [each for each in server.requests if each.path == "/api/v3/myTrades"]
    assert_books_agree(server, watcher, broker, OPENING)


def test_reports_that_come_twice_and_in_disorder_are_counted_once(server):
    server.faults.duplicate(stream="user", times=0)
    server.faults.reorder(stream="user", nth=2, times=4)
    watcher, plan, broker = trade(server, lambda w: w.buy(size=0.5), lambda w: w.close())
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed"] * 2
    assert_books_agree(server, watcher, broker, OPENING)


def test_fills_while_the_private_stream_is_down_are_found(server):
    cut = 0

    def enter(w):
        nonlocal cut
        order = w.buy(size=0.2, exectype=bt.Order.Stop, price=w.data.close[0] * 1.00002)
        # Once more for each try, where the market has passed the price by then.
        cut += server.abort_connections("user")
        return order

    watcher, plan, broker = trade(server, enter)
    assert statuses(watcher, plan.made[0])[-1] == "Completed"
    # One connection carries orders, trades and balances: its break is told once.
    assert len([text for text in watcher.messages if "stream of orders broke" in text]) == cut
    assert_books_agree(server, watcher, broker, OPENING)


def test_a_run_on_history_alone_sends_nothing(server):
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=30), historical=True, **SECONDS)
    made = []

    def step(w):
        if len(w.data) in (100, 200):
            made.append(w.buy(size=0.5) if len(w.data) == 100 else w.close())

    broker = store.getbroker()
    broker.setcash(50_000)
    watcher = run(store, feed, broker=broker, act=step, until=lambda w: False)
    assert [order.getstatusname() for order in watcher.orders][-1] == "Completed"
    assert broker.getposition(feed).size == 0
    fees = sum(order.executed.comm for order in made)
    assert fees == pytest.approx(0.001 * sum(abs(o.executed.size) * o.executed.price for o in made))
    assert not server.exchange.all_orders(server.account(), "BTCUSDT", limit=10)


def test_an_entry_that_is_filled_while_bars_are_cut_off_gets_its_stop(server):
    made = []

    def enter(w):
        price = w.data.close[0]
        made.extend(w.buy_bracket(size=0.3, exectype=bt.Order.Market, stopprice=price * 0.9, limitprice=price * 1.1))
        server.faults.refuse_connect(socket="market", times=0)
        server.abort_connections("market")
        return made

    # The entry leaves while its data is LIVE; when its fill comes, the data is cut off.
    server.faults.delay_request(5.0, path="/api/v3/order", method="POST")
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    broker = store.getbroker(check_interval=0.5)
    watcher = run(
        store,
        feed,
        broker=broker,
        act=Plan(enter).act,
        until=lambda w: made and statuses(w, made[1])[-1:] not in ([], ["Submitted"]),
    )
    assert watcher.states[feed][-1] == "CONNBROKEN"
    assert statuses(watcher, made[0])[-1] == "Completed"
    assert statuses(watcher, made[1]) == ["Submitted", "Accepted"]
    entry, *exits = server.exchange.all_orders(server.account(), "BTCUSDT", limit=10)
    assert [entry.type, *sorted({order.type for order in exits})] == ["MARKET", "LIMIT_MAKER", "STOP_LOSS"]
    # What was sent for the first fills alone has made room for one list for all of them.
    held = Decimal(repr(float(broker.getposition(feed).size)))
    assert all(abs(order.orig_qty - held) < BTC.step_size for order in exits if order.is_open)


def test_the_datas_of_one_market_share_its_position(server):
    store = store_of(server)
    fine = store.getdata(dataname="BTC/USDT", name="fine", fromdate=ago(server, minutes=1), **SECONDS)
    coarse = store.getdata(
        dataname="BTC/USDT", name="coarse", fromdate=ago(server, minutes=10), timeframe=bt.TimeFrame.Minutes
    )
    held = []

    def look(w):
        held.append((float(w.getposition(fine).size), float(w.getposition(coarse).size), w.broker.getvalue()))

    def sell(w):
        look(w)
        return w.sell(data=coarse, size=w.getposition(fine).size)

    broker = store.getbroker(check_interval=0.5)
    plan = Plan(lambda w: w.buy(data=fine, size=0.5), sell, look)
    ready = lambda w: w.states[coarse][-1:] == ["LIVE"]  # noqa: E731
    watcher = run(store, fine, coarse, broker=broker, act=lambda w: ready(w) and plan.act(w), until=plan.until)
    (bought, bought_too, _), (sold, sold_too, value) = held
    assert bought == bought_too == pytest.approx(0.4995)
    assert sold == sold_too == 0
    # Nothing is held, so the account is worth its money.
    assert value == broker.getcash()
    assert_books_agree(server, watcher, broker, OPENING)


def test_an_order_is_not_sent_long_after_it_was_made(server):
    # The exchange shuts us out for longer than an order may wait.
    server.faults.banned(retry_after_s=600, path="/api/v3/order", method="POST")
    watcher, plan, _ = trade(server, lambda w: w.buy(size=0.5))
    assert statuses(watcher, plan.made[0]) == ["Submitted", "Rejected"]
    assert "never sent" in plan.made[0].info.reason
    assert not server.exchange.all_orders(server.account(), "BTCUSDT", limit=10)


def cancel_and_close(server):
    """Sell all that is held in one go with the cancel of the order that has locked it."""
    made = []

    def protect(w):
        made.append(w.sell(size=w.position.size, exectype=bt.Order.Limit, price=w.data.close[0] * 1.2))

    def leave(w):
        w.cancel(made[0])
        return w.close()

    watcher, plan, broker = trade(server, lambda w: w.buy(size=0.5), protect, leave, lambda w: made[0])
    return statuses(watcher, plan.made[1])[-1], statuses(watcher, made[0])[-1], watcher, broker


def test_what_is_sold_in_one_go_with_a_cancel_waits_for_what_that_had_locked(server):
    server.faults.delay_request(1.0, path="/api/v3/order", method="DELETE", times=0)
    closed, cancelled, watcher, broker = cancel_and_close(server)
    assert (closed, cancelled) == ("Completed", "Canceled")
    assert_books_agree(server, watcher, broker, OPENING)
    assert not broker.getposition(watcher.data).size


def test_a_cancel_that_is_not_answered_holds_up_nothing_for_long(server, monkeypatch):
    monkeypatch.setattr(courier, "CANCEL_WAIT_S", 0.2)
    server.faults.delay_request(2.0, path="/api/v3/order", method="DELETE", times=0)
    closed, cancelled, watcher, broker = cancel_and_close(server)
    # By then the exchange had not freed it.
    assert (closed, cancelled) == ("Margin", "Canceled")
    assert_books_agree(server, watcher, broker, OPENING)


def test_a_run_that_ends_while_a_cancel_waits_for_its_order_ends_quietly(server, caplog):
    def place(w):
        for _ in range(8):
            w.cancel(w.buy(size=0.1, exectype=bt.Order.Limit, price=w.data.close[0] * 0.9))

    # None is done when the run ends: each cancel waits for an answer, and each answer for the exchange.
    server.faults.delay_answer(300.0, path="/api/v3/order", method="POST", times=0)
    store = store_of(server)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    plan = Plan(place)
    run(store, feed, broker=store.getbroker(), act=plan.act, until=lambda w: len(server.faults.log) == 8)
    assert not [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


def test_a_clock_that_is_wrong_is_set_by_whichever_request_meets_it(server):
    def put_forward(seconds):
        clock = store.connection.clock
        now_s = clock.monotonic()
        clock.synced(clock.now_ms() + round(seconds * 1_000), now_s, now_s)

    made = []

    def rest(w):
        made.append(w.buy(size=0.1, exectype=bt.Order.Limit, price=w.data.close[0] * 0.9))

    def cancel(w):
        put_forward(5)
        w.cancel(made[0])
        return made

    store = store_of(server)
    store.start()
    put_forward(5)
    # The first request of a run with a key asks for the balance; the last one here cancels.
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    plan = Plan(rest, cancel)
    watcher = run(store, feed, broker=store.getbroker(check_interval=0.5), act=plan.act, until=plan.until)
    assert statuses(watcher, made[0]) == ["Submitted", "Accepted", "Canceled"]
    refused = [each for each in server.requests if each.status == 400]
    assert {each.path for each in refused} >= {"/api/v3/account", "/api/v3/order"}


def test_an_id_that_was_used_before_is_refused(server):
    watcher, plan, broker = trade(
        server, lambda w: w.buy(size=0.1, clientOrderId="mine"), lambda w: w.buy(size=0.1, clientOrderId="mine")
    )
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed", "Rejected"]
    assert "in use" in plan.made[1].info.reason
    assert_books_agree(server, watcher, broker, OPENING)
