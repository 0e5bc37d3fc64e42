"""A run begins where the last one ended: orders, positions, trades, cash and what hangs together."""

import datetime as dt
import json
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from decimal import Decimal

import backtrader as bt
import ccxt
import pytest

from ccxtbt.errors import ConfigError
from planned import SECONDS, ended, statuses
from simulated import BTC, ETH, point
from watching import Once, ago, live, run, store_of

HOUR_MS = 3_600_000
OPENING = {"USDT": 100_000, "BTC": 0, "ETH": 0}


@pytest.fixture
def server(simulator):
    # Lively, so that stops and targets are reached within seconds.
    return simulator((replace(BTC, volatility=0.003), ETH), seed=2, history_ms=HOUR_MS, speed=5, balances=OPENING)


@pytest.fixture
def play(server, tmp_path):
    """Run one life of a strategy on the same journal: `act(watcher)` until `until(watcher)`."""

    def one(until, act=None, *, symbols=("BTC/USDT",), **options):
        store = store_of(server, journal=tmp_path / "journal.sqlite")
        feeds = [store.getdata(dataname=name, fromdate=ago(server, minutes=1), **SECONDS) for name in symbols]
        # A run that is killed waits for nothing at its end.
        broker = store.getbroker(check_interval=0.5, stop_timeout=0.01, **options)
        return run(store, *feeds, broker=broker, act=act, until=until), broker

    return one


def restored(watcher):
    """The orders of earlier runs, by their client ids."""
    return {order.info.get("client_id", order.ref): order for order in watcher.orders if order.info.get("restored")}


def test_a_position_is_there_before_the_first_bar_and_its_trade_closes_with_all_fees(server, play):
    buy = Once(lambda w: w.buy(size=0.5))
    play(lambda w: buy.made and buy.made[0].ref in ended(w), buy.act)
    entry = buy.made[0]
    seen = []

    def act(w):
        seen.append((w.position.size, w.position.price))
        close.act(w)

    close = Once(lambda w: w.close())
    watcher, broker = play(lambda w: close.made and close.made[0].ref in ended(w), act)
    held = entry.executed.size * (1 - 0.001)
    assert seen[0][0] == pytest.approx(held, abs=0.00001)
    assert seen[0][1] == pytest.approx(entry.executed.price)
    assert watcher.position.size == 0
    trade = next(trade for trade in watcher.trades if trade.isclosed)
    # As if nothing had been between: fees of both sides, and the time of the entry.
    assert trade.commission == pytest.approx(entry.executed.comm + close.made[0].executed.comm, rel=1e-6)
    assert trade.pnlcomm == pytest.approx(broker.getcash() - 100_000, abs=60_000 * 0.00001)
    assert trade.dtopen == pytest.approx(entry.executed.exbits[0].dt)
    assert [message for message in watcher.messages if message.startswith("Restored: 0 orders")]
    assert Decimal(repr(broker.getcash())) == server.account().balance("USDT").total


def test_an_order_that_rests_is_taken_up_and_can_be_cancelled(server, play):
    rest = Once(lambda w: w.buy(size=0.1, exectype=bt.Order.Limit, price=w.data.close[0] * 0.9))
    play(lambda w: rest.made and w.orders and w.orders[-1].status == bt.Order.Accepted, rest.act)
    first = rest.made[0]

    def cancel(w):
        if live(w):
            w.cancel(*restored(w).values())

    watcher, broker = play(lambda w: restored(w) and set(statuses(w, w.orders[0])) & {"Canceled"}, cancel)
    assert statuses(watcher, watcher.orders[0]) == ["Accepted", "Canceled"]
    order = watcher.orders[0]
    assert (order.exectype, order.created.size, order.created.price) == (
        first.exectype,
        first.created.size,
        first.created.price,
    )
    assert order.owner is watcher
    assert not broker.open_orders
    # And nothing of it is left for a third run.
    watcher, _ = play(live)
    assert not watcher.orders


def test_what_was_filled_while_nobody_ran_is_counted_once(server, play):
    rest = Once(lambda w: w.buy(size=0.4, exectype=bt.Order.Limit, price=w.data.close[0] * 0.9))
    play(lambda w: rest.made and w.orders and w.orders[-1].status == bt.Order.Accepted, rest.act)
    (there,) = server.call(lambda: list(server.exchange.orders))
    server.call(lambda: server.exchange.fill(server.account(), "BTCUSDT", there.order_id))
    watcher, broker = play(lambda w: live(w) and statuses(w, w.orders[0])[-1:] == ["Completed"])
    assert statuses(watcher, watcher.orders[0]) == ["Accepted", "Completed"]
    assert watcher.position.size == pytest.approx(0.4 * 0.999, abs=0.00001)
    assert watcher.orders[-1].executed.price == pytest.approx(float(there.price))
    assert [trade.isopen for trade in watcher.trades] == [True]
    assert broker.getcash() == float(server.account().balance("USDT").total)
    assert any("1 fills that nobody had counted" in message for message in watcher.messages)
    # The next run counts from what this one has kept.
    watcher, broker = play(live)
    assert watcher.position.size == pytest.approx(0.4 * 0.999, abs=0.00001)
    assert broker.getcash() == float(server.account().balance("USDT").total)
    assert not watcher.orders


def at_exchange(server, *statuses_):
    orders = server.call(lambda: list(server.exchange.orders))
    return [order for order in orders if not statuses_ or order.status in statuses_]


def protection(server):
    """What open sales at the exchange lock of the coin, those of a list once, and what is held of it."""
    balance = server.call(lambda: server.account().balance("BTC"))
    return balance.locked, balance.total


def stops_of(server):
    return [order for order in at_exchange(server, "NEW") if order.stop_price]


def bracket(size=0.3, stop=0.9, target=1.1, **entry):
    def order(w):
        price = w.data.close[0]
        priced = {"price": price * entry["at"]} if "at" in entry else {"exectype": bt.Order.Market}
        return w.buy_bracket(size=size, stopprice=price * stop, limitprice=price * target, **priced)

    return Once(order)


def test_an_entry_that_filled_while_nobody_ran_gets_its_stop(server, play):
    enter = bracket(at=0.95)
    play(lambda w: enter.made and w.orders and at_exchange(server, "NEW"), enter.act)
    (entry,) = at_exchange(server)
    server.call(lambda: server.exchange.fill(server.account(), "BTCUSDT", entry.order_id))
    watcher, _ = play(lambda w: live(w) and protection(server)[0])
    locked, held = protection(server)
    assert locked == held // Decimal("0.00001") * Decimal("0.00001")
    assert watcher.position.size == float(locked)
    # A third run leaves it as it is.
    before = len(at_exchange(server))
    play(lambda w: live(w) and len(broker_orders(w)) == 2)
    assert len(at_exchange(server)) == before
    assert protection(server)[0] == locked


def test_an_exit_that_is_missing_is_sent_before_the_first_bar(server, play):
    enter = bracket(at=0.95)
    play(lambda w: enter.made and w.orders and at_exchange(server, "NEW"), enter.act)
    (entry,) = at_exchange(server)
    server.call(lambda: server.exchange.fill(server.account(), "BTCUSDT", entry.order_id))
    seen = []

    def until(w):
        if not any(message.startswith("Restored") for message in w.messages):
            return False
        # No bar comes, and no price, before this returns.
        assert not len(w.data)
        end_s = time.monotonic() + 10
        while not protection(server)[0] and time.monotonic() < end_s:
            time.sleep(0.005)
        seen.append(protection(server))
        return True

    play(until)
    locked, held = seen[0]
    assert locked == held // Decimal("0.00001") * Decimal("0.00001") > 0


def broker_orders(watcher):
    return list(watcher.broker.open_orders)


def test_a_stop_is_resized_for_an_entry_that_filled_further(server, play):
    def fill(order, qty):
        exchange = server.exchange
        desk = exchange._desk("BTCUSDT")
        exchange._fill(desk, order, order.price, qty, desk.next_trade_id(), server.clock.now_ms(), is_maker=True)

    enter = bracket(at=0.95)

    def act(w):
        enter.act(w)
        for order in at_exchange(server, "NEW"):
            if order.side == "BUY":
                server.call(fill, order, Decimal("0.1"))

    play(lambda w: enter.made and protection(server)[0], act)
    (entry,) = at_exchange(server, "PARTIALLY_FILLED")
    assert protection(server)[0] == Decimal("0.0999")
    server.call(fill, entry, Decimal("0.15"))
    play(lambda w: live(w) and protection(server)[0] > Decimal("0.2"))
    assert protection(server)[0] == Decimal("0.24975")
    assert {order.remaining for order in at_exchange(server, "NEW")} == {Decimal("0.24975")}


def test_a_stop_that_is_missing_is_sent_again(server, play):
    enter = bracket()
    play(lambda w: enter.made and protection(server)[0], enter.act)
    (stop,) = stops_of(server)
    server.call(lambda: server.exchange.cancel(server.account(), "BTCUSDT", stop.order_id))
    watcher, _ = play(lambda w: live(w) and protection(server)[0])
    locked, held = protection(server)
    assert locked == held // Decimal("0.00001") * Decimal("0.00001")
    (again,) = stops_of(server)
    assert (again.client_id != stop.client_id, again.stop_price) == (True, stop.stop_price)
    assert {order.getordername() for order in broker_orders(watcher)} == {"Stop", "Limit"}
    assert not any("without an exit" in message for message in watcher.messages)


def test_a_bracket_leaves_through_its_target_in_its_second_life(server, play):
    enter = bracket(target=1.0003, stop=0.9)
    play(lambda w: enter.made and protection(server)[0], enter.act)
    watcher, broker = play(lambda w: live(w) and not w.position.size and not broker_orders(w))
    ends = {order.getordername(): order.getstatusname() for order in watcher.orders}
    assert ends == {"Stop": "Canceled", "Limit": "Completed"}
    assert [trade.isclosed for trade in watcher.trades][-1]
    assert broker.getcash() == float(server.account().balance("USDT").total)


def test_an_exclusive_order_is_cancelled_if_the_other_one_filled_meanwhile(server, play):
    def order(w):
        price = w.data.close[0]
        first = w.buy(size=0.1, exectype=bt.Order.Limit, price=price * 0.9)
        return [first, w.buy(size=0.1, exectype=bt.Order.Limit, price=price * 0.8, oco=first)]

    pair = Once(order)
    play(lambda w: len(at_exchange(server, "NEW")) == 2, pair.act)
    first, second = sorted(at_exchange(server), key=lambda order: -order.price)
    server.call(lambda: server.exchange.fill(server.account(), "BTCUSDT", first.order_id))
    watcher, _ = play(lambda w: live(w) and {"Canceled"} <= {order.getstatusname() for order in w.orders})
    assert second.status == "CANCELED"
    assert statuses(watcher, restored(watcher)[first.client_id])[-1] == "Completed"


def test_a_stop_that_trails_here_goes_on_from_where_it_was(server, play, tmp_path):
    def order(w):
        # No exchange moves a limit along: this one trails here.
        price = w.data.close[0]
        trailing = {"exectype": bt.Order.StopTrailLimit, "price": price, "plimit": price * 0.99, "trailpercent": 0.2}
        return [w.buy(size=0.1), w.sell(size=0.09, **trailing)]

    stop, first = Once(order), []

    def moved(w):
        if stop.made and not first:
            first.append(stop.made[1].created.price)
        return stop.made and stop.made[0].ref in ended(w) and stop.made[1].created.price > first[0]

    play(moved, stop.act)
    reached = stop.made[1].created.price
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as db:
        ((asked,),) = db.execute("SELECT asked FROM links WHERE role = 'armed'").fetchall()
    assert json.loads(asked)["price"] == reached
    watcher, _ = play(lambda w: live(w) and len(broker_orders(w)) == 1)
    (again,) = broker_orders(watcher)
    assert again.created.price >= reached
    assert again.created.price == pytest.approx(reached, rel=0.01)
    assert again.getordername() == "StopTrailLimit"
    assert again.created.price - again.created.pricelimit == pytest.approx(
        stop.made[1].created.price - stop.made[1].created.pricelimit
    )
    # It has not been triggered by the bars of before.
    assert len(at_exchange(server)) == 1


def test_an_order_that_never_left_is_told_and_not_sent(server, play, tmp_path):
    """An intent without an answer: the exchange says that it has no such order."""
    server.faults.answer(504, b"{}", taken=False, path="/api/v3/order", method="POST", times=0)
    buy = Once(lambda w: w.buy(size=0.1))
    play(lambda w: buy.made and any("Nobody knows" in message for message in w.messages), buy.act)
    server.faults.clear()
    watcher, _ = play(lambda w: live(w) and w.orders and w.orders[-1].getstatusname() == "Rejected")
    assert not at_exchange(server)
    assert statuses(watcher, watcher.orders[0]) == ["Submitted", "Rejected"]
    assert "never arrived" in watcher.orders[-1].info.reason
    assert any("looked up that the exchange may have or not" in message for message in watcher.messages)


def test_an_order_whose_answer_was_lost_is_found(server, play):
    server.faults.drop_answer(path="/api/v3/order", method="POST", times=0)
    # Nothing is told by the streams either, and the look-up finds nothing yet.
    server.faults.lose(stream="user", times=0)
    server.faults.not_visible(path="/api/v3/order", method="GET", times=0)
    buy = Once(lambda w: w.buy(size=0.1))
    play(lambda w: buy.made and any("Nobody knows" in message for message in w.messages), buy.act)
    server.faults.clear()
    watcher, broker = play(lambda w: live(w) and w.orders and w.orders[-1].getstatusname() == "Completed")
    assert len(at_exchange(server)) == 1
    assert watcher.position.size == pytest.approx(0.0999)
    assert broker.getcash() == float(server.account().balance("USDT").total)


def by_hand(server, side, size, price=None, **more):
    """Order past the run, with the same key."""
    other = point(ccxt.binance({"options": {"fetchMarkets": {"types": ["spot"]}, "fetchCurrencies": False}}), server)
    return other.create_order("BTC/USDT", "limit" if price else "market", side, size, price, more)


@pytest.mark.parametrize("when", ["before", "during"])
@pytest.mark.parametrize("foreign", ["ignore", "adopt", "halt"])
def test_an_order_of_somebody_else(server, play, foreign, when):
    placed = []

    def act(w):
        if live(w) and not placed:
            placed.append(by_hand(server, "buy", 0.1, 50_000))
        if placed and foreign == "halt" and any("resume" in message for message in w.messages):
            order.act(w)

    order = Once(lambda w: w.buy(size=0.1))
    if when == "before":
        placed.append(by_hand(server, "buy", 0.1, 50_000))

    def until(w):
        if foreign == "halt":
            return order.made and order.made[0].ref in ended(w)
        return (
            live(w)
            and any(f"Order {placed[0]['id']}" in message for message in w.messages)
            and (foreign == "ignore" or w.orders)
        )

    watcher, broker = play(until, act, foreign=foreign, reconcile_interval=0.3)
    said = [message for message in watcher.messages if f"Order {placed[0]['id']}" in message]
    assert len(said) == 1
    assert at_exchange(server, "NEW")
    if foreign == "adopt":
        assert statuses(watcher, watcher.orders[0])[-1] == "Accepted"
        assert watcher.orders[0].created.price == 50_000
        (there,) = at_exchange(server)
        server.call(lambda: server.exchange.fill(server.account(), "BTCUSDT", there.order_id))
        # From now on it is ours: the next run counts its fill.
        watcher, broker = play(lambda w: live(w) and w.orders and not w.orders[-1].alive())
        assert watcher.position.size == pytest.approx(0.0999)
        assert broker.getcash() == float(server.account().balance("USDT").total)
    else:
        assert foreign == "halt" or not watcher.orders
    if foreign == "halt":
        assert watcher.orders[-1].getstatusname() == "Rejected"
        assert "is not ours" in watcher.orders[-1].info.reason


def test_an_unknown_way_with_foreign_orders_is_a_sentence(server):
    with pytest.raises(ConfigError, match="say 'ignore', 'adopt', 'halt'"):
        store_of(server).getbroker(foreign="sell")


def test_a_position_that_was_sold_by_hand_is_cut(server, play):
    buy = Once(lambda w: w.buy(size=0.5))
    play(lambda w: buy.made and buy.made[0].ref in ended(w), buy.act)
    by_hand(server, "sell", 0.3)
    watcher, broker = play(live)
    assert watcher.position.size == pytest.approx(0.1995, abs=0.00001)
    assert any("somebody has sold or withdrawn" in message for message in watcher.messages)
    assert broker.amount("BTC") == server.account().balance("BTC").total
    watcher, _ = play(live)
    assert watcher.position.size == pytest.approx(0.1995, abs=0.00001)
    assert not any("somebody has sold" in message for message in watcher.messages)


def test_all_that_the_account_holds_keeps_its_price_from_run_to_run(server, play):
    buy = Once(lambda w: w.buy(size=0.5))
    play(lambda w: buy.made and buy.made[0].ref in ended(w), buy.act)
    server.deposit("BTC", "0.1")
    watcher, _ = play(live, position="balance")
    size, price = watcher.position.size, watcher.position.price
    assert size == pytest.approx(0.5995, abs=0.00001)
    watcher, _ = play(live, position="balance")
    assert (watcher.position.size, watcher.position.price) == (size, pytest.approx(price))


def test_orders_in_a_market_that_the_run_does_not_have_are_named(server, play):
    rest = Once(lambda w: w.buy(data=w.datas[1], size=0.1, exectype=bt.Order.Limit, price=w.datas[1].close[0] * 0.9))
    both = ("BTC/USDT", "ETH/USDT")
    play(lambda w: rest.made and w.orders and w.orders[-1].status == bt.Order.Accepted, rest.act, symbols=both)
    (there,) = at_exchange(server)
    watcher, _ = play(live)
    assert any(there.client_id in message and "no data" in message for message in watcher.messages)
    assert not watcher.orders
    watcher, _ = play(lambda w: live(w) and w.orders, symbols=both)
    assert watcher.orders[0].data._name == watcher.datas[1]._name
    assert watcher.orders[0].data is watcher.datas[1]


def test_validity_goes_on(server, play):
    rest = Once(
        lambda w: w.buy(size=0.1, exectype=bt.Order.Limit, price=w.data.close[0] * 0.9, valid=dt.timedelta(seconds=20))
    )
    play(lambda w: rest.made and w.orders and w.orders[-1].status == bt.Order.Accepted, rest.act)
    watcher, _ = play(lambda w: w.orders and not w.orders[-1].alive())
    assert watcher.orders[-1].getstatusname() == "Expired"
    assert at_exchange(server, "CANCELED")


def test_an_order_that_arrives_after_its_run_had_ended_is_found(server, play):
    """It was on its way when the run was killed: that the exchange does not know it yet proves nothing."""
    late = server.faults.delay_request(7, path="/api/v3/order", method="POST")
    buy = Once(lambda w: w.buy(size=0.1))
    play(lambda w: late.fired, buy.act)
    assert not at_exchange(server)
    watcher, broker = play(lambda w: live(w) and w.orders and not w.orders[-1].alive())
    assert statuses(watcher, watcher.orders[0])[-1] == "Completed"
    assert len(at_exchange(server)) == 1
    assert watcher.position.size == pytest.approx(0.0999)
    assert broker.getcash() == float(server.account().balance("USDT").total)


def test_an_exit_that_never_arrived_is_sent_again(server, play):
    enter = bracket()
    stops = server.faults.answer(504, b"{}", taken=False, path="/api/v3/orderList/oco", method="POST", times=0)
    play(lambda w: enter.made and stops.fired, enter.act)
    server.faults.clear()
    watcher, _ = play(lambda w: live(w) and protection(server)[0])
    locked, held = protection(server)
    assert locked == held // Decimal("0.00001") * Decimal("0.00001")
    assert {order.getordername() for order in broker_orders(watcher)} == {"Stop", "Limit"}


def test_an_exit_whose_answer_was_lost_is_not_sent_again(server, play):
    enter = bracket()
    lost = server.faults.drop_answer(path="/api/v3/orderList/oco", method="POST")
    # Nothing is told by the streams either, and the look-up finds nothing yet.
    server.faults.lose(stream="user", times=0)
    server.faults.not_visible(path="/api/v3/order", method="GET", times=0)
    play(lambda w: lost.fired and any("Nobody knows" in message for message in w.messages), enter.act)
    server.faults.clear()
    watcher, _ = play(lambda w: live(w) and all(order.status == bt.Order.Accepted for order in broker_orders(w)))
    assert {order.getordername() for order in broker_orders(watcher)} == {"Stop", "Limit"}
    sent = [request for request in server.requests if request.path == "/api/v3/orderList/oco"]
    assert [request.method for request in sent] == ["POST"]
    locked, held = protection(server)
    assert locked == held // Decimal("0.00001") * Decimal("0.00001")
