"""A bracket's exits and OCO pairs as the exchange's own order lists, through ccxt's real class."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from decimal import Decimal

import backtrader as bt
import pytest

from ccxtbt.sim.server import API_KEY
from planned import SECONDS, Plan, assert_books_agree, statuses, trade
from simulated import BTC, ETH
from watching import ago, run, store_of

OPENING = {"USDT": 100_000, "BTC": 0}
OCO = "/api/v3/orderList/oco"
LIST = "/api/v3/orderList"


@pytest.fixture
def server(simulator):
    return simulator(
        (replace(BTC, volatility=0.01), ETH), seed=2, history_ms=600_000, speed=5, balances=OPENING, latency_ms=5
    )


@pytest.fixture
def holding(simulator):
    return simulator(
        (replace(BTC, volatility=0.01), ETH), seed=2, history_ms=600_000, speed=5, balances={**OPENING, "BTC": 1}
    )


def enter(stop=0.9, limit=1.1, size=0.3, **entry):
    """Make a step that buys a bracket with exits at shares of the price."""

    def step(w):
        price = w.data.close[0]
        how = {"exectype": bt.Order.Market, **entry}
        if "price" in how:
            how["price"] = price * how["price"]
        return w.buy_bracket(size=size, stopprice=price * stop, limitprice=price * limit, **how)

    return step


def lists(server):
    return server.call(lambda: list(server.exchange.lists.all))


def at_exchange(server):
    return server.exchange.all_orders(server.account(API_KEY), "BTCUSDT", limit=1_000)


def play(server, *steps, until, act=None, **options):
    """Run a plan until `until(watcher, made)`, whether or not its orders have ended."""
    store = store_of(server, **options)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    broker = store.getbroker(check_interval=0.5)
    plan = Plan(*steps)
    watcher = run(store, feed, broker=broker, act=act or plan.act, until=lambda w: until(w, plan.made))
    return watcher, plan, broker


def accepted(w, made):
    return len(made) > 2 and all("Accepted" in statuses(w, order) for order in made[1:])


def test_both_exits_rest_as_one_list_whose_intent_is_on_disk_first(server, tmp_path):
    journal = tmp_path / "journal.sqlite"
    watcher, plan, broker = play(server, enter(), until=accepted, journal=journal)
    (listed,) = lists(server)
    assert [order.type for order in listed.orders] == ["LIMIT_MAKER", "STOP_LOSS"]
    assert [order.status for order in listed.orders] == ["NEW", "NEW"]
    entry, stop, limit = plan.made
    assert not stop.info.emulated
    assert not limit.info.emulated
    # What is there to be sold, each exit for the whole of it; it is locked once.
    assert {order.orig_qty for order in listed.orders} == {Decimal(repr(float(broker.getposition(watcher.data).size)))}
    assert server.account(API_KEY).balance("BTC").locked == listed.orders[0].orig_qty
    with closing(sqlite3.connect(journal)) as db:
        sent = dict(db.execute("SELECT client_id, params FROM intents WHERE ref IN (?, ?)", (stop.ref, limit.ref)))
        links = dict(db.execute("SELECT ref, role FROM links WHERE bond = ?", (entry.ref,)))
    assert sent.keys() == {order.client_id for order in listed.orders}
    assert {json.loads(params)["listClientOrderId"] for params in sent.values()} == {listed.client_id}
    assert links == {entry.ref: "parent", stop.ref: "stop", limit.ref: "limit"}


@pytest.mark.parametrize(("stop", "limit", "left"), [(0.9, 1.0005, "limit"), (0.9997, 1.1, "stop")])
def test_one_exit_fills_and_the_exchange_ends_the_other(server, stop, limit, left):
    watcher, plan, broker = trade(server, enter(stop, limit))
    ends = [statuses(watcher, order)[-1] for order in plan.made]
    assert ends == ["Completed", *(["Canceled", "Completed"] if left == "limit" else ["Completed", "Canceled"])]
    (listed,) = lists(server)
    assert sorted(order.status for order in listed.orders) == ["EXPIRED", "FILLED"]
    assert not [each for each in server.requests if each.method == "DELETE"]
    assert_books_agree(server, watcher, broker, OPENING)
    assert broker.getposition(watcher.data).size == 0


def test_a_stop_limit_in_a_list_keeps_its_limit(server):
    def step(w):
        price = w.data.close[0]
        exits = {"stopprice": price * 0.9997, "limitprice": price * 1.1, "stopexec": bt.Order.StopLimit}
        return w.buy_bracket(size=0.1, exectype=bt.Order.Market, stopargs={"plimit": price * 0.99}, **exits)

    watcher, plan, broker = trade(server, step)
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed", "Completed", "Canceled"]
    stop = next(order for order in at_exchange(server) if order.type == "STOP_LOSS_LIMIT")
    assert stop.price < stop.stop_price
    assert_books_agree(server, watcher, broker, OPENING)


def test_the_list_follows_what_the_entry_fills(server):
    # Of a size that takes many trades, so that exits stand while the entry still grows.
    watcher, plan, broker = trade(server, enter(0.9, 1.0015, size=1.5, exectype=bt.Order.Limit, price=0.99999))
    sizes = [listed.orders[0].orig_qty for listed in lists(server)]
    assert len(sizes) > 1
    assert max(sizes) > sizes[0]
    assert all(sum(order.status == "FILLED" for order in listed.orders) <= 1 for listed in lists(server))
    assert statuses(watcher, plan.made[2])[-1] == "Completed"
    assert statuses(watcher, plan.made[1]).count("Accepted") == 1
    assert_books_agree(server, watcher, broker, OPENING)
    assert broker.getposition(watcher.data).size == 0


def enter_and_end(server, *ways, **options):
    """Run brackets one after another, each ended by one of `ways(watcher, stop, limit)` once its list is there."""
    done = []

    def act(w):
        plan.act(w)
        if accepted(w, plan.made[-3:]) and len(done) < len(plan.made) // 3:
            done.append(ways[len(done)](w, *plan.made[-2:]))

    # So little that it is filled at once, and its list needs not grow.
    plan = Plan(*[enter(size=0.001)] * len(ways))
    store = store_of(server, **options)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=1), **SECONDS)
    broker = store.getbroker(check_interval=0.5)
    watcher = run(store, feed, broker=broker, act=act, until=lambda w: len(done) == len(ways) and plan.until(w))
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed", "Canceled", "Canceled"] * len(ways)
    assert {order.status for listed in lists(server) for order in listed.orders} == {"CANCELED"}
    assert len(lists(server)) >= len(ways)
    assert_books_agree(server, watcher, broker, OPENING)
    return watcher


def by_stop(w, stop, limit):
    w.cancel(stop)


def by_limit(w, stop, limit):
    w.cancel(limit)


def test_cancelling_one_exit_cancels_the_list_and_so_does_a_hand(server):
    def by_hand(w, stop, limit):
        server.call(lambda: server.exchange.cancel_all(server.account(API_KEY), "BTCUSDT"))

    watcher = enter_and_end(server, by_stop, by_limit, by_hand)
    # One request, which names the list; what the account's owner cancels leaves the rest without an exit.
    assert [each.path for each in server.requests if each.method == "DELETE"] == [LIST] * 2
    assert sum("without an exit" in text for text in watcher.messages) == 1


def test_whatever_becomes_of_the_answer_a_list_is_there_once(server):
    faults = server.faults
    faults.drop_answer(path=OCO, nth=1)
    faults.server_error(503, taken=True, path=OCO, nth=2)
    faults.truncate(0.5, path=OCO, nth=3)
    faults.empty(path=OCO, nth=4)
    # Turned away, it goes again.
    faults.rate_limited(1, path=OCO, nth=5)
    faults.out_of_step(path=OCO, nth=7)
    faults.drop_answer(path=LIST, method="DELETE", nth=2)
    enter_and_end(server, *[by_stop] * 6)
    assert len(faults.log) == 7
    # Each order of a list was made for one intent.
    assert len({order.client_id for order in at_exchange(server)}) == len(at_exchange(server))


def test_a_list_that_never_arrived_is_found_to_be_absent_and_the_exits_take_turns(server):
    server.faults.server_error(503, taken=False, path=OCO)
    watcher, plan, broker = trade(server, enter(0.9, 1.0005))
    assert server.faults.log
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed", "Canceled", "Completed"]
    assert_books_agree(server, watcher, broker, OPENING)


@pytest.mark.parametrize("heard", ["twice and in disorder", "by look-ups alone"])
def test_a_list_survives_what_streams_go_through(server, heard):
    if heard == "by look-ups alone":
        server.faults.lose(stream="user", times=0)
    else:
        server.faults.duplicate(stream="user", times=0)
        server.faults.reorder(stream="user", nth=2, times=40)
    watcher, plan, broker = trade(server, enter(0.9, 1.0003, size=1.0, exectype=bt.Order.Limit, price=0.99999))
    assert statuses(watcher, plan.made[2])[-1] == "Completed"
    assert statuses(watcher, plan.made[1])[-1] == "Canceled"
    assert_books_agree(server, watcher, broker, OPENING)
    assert broker.getposition(watcher.data).size == 0


def test_a_refused_list_leaves_the_stop_and_the_target_to_take_turns(server):
    # Its market says that it takes lists, and then does not: as with a filter that is full.
    server.faults.refused(-1013, "Filter failure: MAX_NUM_ORDER_LISTS", path=OCO, times=0)
    watcher, plan, broker = trade(server, enter(0.9, 1.0005))
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed", "Canceled", "Completed"]
    assert "takes turns" in plan.made[1].info.emulated
    assert not lists(server)
    assert_books_agree(server, watcher, broker, OPENING)


@pytest.mark.parametrize(("side", "stop_first"), [("buy", False), ("sell", True)])
def test_two_that_exclude_each_other_become_a_list(server, holding, side, stop_first):
    there = holding if side == "sell" else server
    sign = 1 if side == "sell" else -1
    made = []

    def place(w):
        price, give = w.data.close[0], getattr(w, side)
        kinds = [
            {"exectype": bt.Order.Limit, "price": price * (1 + sign * 0.1)},
            {"exectype": bt.Order.Stop, "price": price * (1 - sign * 0.0003)},
        ]
        if stop_first:
            kinds.reverse()
        made.append(give(size=1, **kinds[0]))
        made.append(give(size=1, oco=made[0], **kinds[1]))
        return made

    watcher, _, broker = trade(there, place)
    ends = {order.exectype: statuses(watcher, order)[-1] for order in made}
    assert ends == {bt.Order.Limit: "Canceled", bt.Order.Stop: "Completed"}
    assert all(not order.info.emulated for order in made)
    (listed,) = lists(there)
    assert sorted(order.status for order in listed.orders) == ["EXPIRED", "FILLED"]
    assert_books_agree(there, watcher, broker, OPENING if side == "buy" else {**OPENING, "BTC": 1})


def test_exits_with_parameters_of_their_own_take_turns(server):
    def step(w):
        price = w.data.close[0]
        exits = {"stopprice": price * 0.9, "limitprice": price * 1.0003, "limitargs": {"postOnly": True}}
        return w.buy_bracket(size=0.3, exectype=bt.Order.Market, **exits)

    _, plan, _ = play(server, step, until=lambda w, made: made and "Accepted" in statuses(w, made[1]))
    assert "takes turns" in plan.made[1].info.emulated
    assert not lists(server)
