"""Linear contracts in a live run: positions, wallet and equity are the exchange's, whoever changed them."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import backtrader as bt
import ccxt
import pytest

from ccxtbt.errors import ConfigError
from ccxtbt.sim.funding import next_funding_ms, rate_at
from ccxtbt.sim.server import API_KEY, START_MS
from planned import SECONDS, Plan, statuses
from simulated import BTC, ETH, point
from watching import Watcher, ago, run, store_of

PERP = "BTC/USDT:USDT"
HOUR_MS = 3_600_000
WALLET = {"USDT": 100_000}


@pytest.fixture
def server(simulator):
    return simulator(contracts=[BTC, ETH], margin=WALLET, seed=5, history_ms=HOUR_MS, speed=15)


def by_hand(server):
    usdm = point(ccxt.binanceusdm({"enableRateLimit": False}), server)
    usdm.load_markets()
    return usdm


def feed_of(store, server, symbol=PERP):
    return store.getdata(dataname=symbol, fromdate=ago(server, minutes=1), **SECONDS)


def books(server):
    """Return the exchange's own books: wallet, positions by symbol."""

    def read():
        contracts = server.contracts
        account = contracts.account(API_KEY)
        held = {each.symbol: (each.amount, each.entry) for each in contracts.books.positions(account)}
        return contracts.books.wallet(account), held

    return server.call(read)


def agree(broker, server, feed):
    wallet, held = books(server)
    size, entry = held.get("BTCUSDT", (Decimal(0), Decimal(0)))
    position = broker.getposition(feed)
    return (broker.amount("USDT"), Decimal(repr(float(position.size))), position.price) == (wallet, size, float(entry))


def trade(server, *steps, until=lambda w: True, exchange="binanceusdm", store=None, **options):
    """Run a plan; return (watcher, plan, broker, feed) once its books agree with the exchange's."""
    store = store or store_of(server, exchange)
    feed, broker = feed_of(store, server), store.getbroker(check_interval=0.5, **options)
    plan = Plan(*steps)
    watcher = run(
        store,
        feed,
        broker=broker,
        act=plan.act,
        until=lambda w: plan.until(w) and until(w) and agree(broker, server, feed),
    )
    return watcher, plan, broker, feed


@pytest.mark.parametrize("exchange", ["binanceusdm", "binance"])
def test_long_and_short_from_entry_to_close(server, exchange):
    seen = []

    def look(w):
        position = w.position
        equity = float(books(server)[0]) + position.size * (w.data.close[0] - position.price)
        seen.append((float(position.size), w.broker.getvalue(), equity, w.broker.getvalue([w.data]), w.data.close[0]))

    watcher, plan, broker, _ = trade(
        server,
        lambda w: w.buy(size=0.5),
        look,
        lambda w: w.close(),
        lambda w: w.sell(size=0.4),
        look,
        lambda w: w.sell(exectype=bt.Order.Limit, price=w.data.close[0] * 0.999, size=0.1),
        lambda w: w.buy(size=0.8),
        look,
        lambda w: w.close(),
        exchange=exchange,
    )
    assert {statuses(watcher, order)[-1] for order in plan.made} == {"Completed"}
    assert [size for size, *_ in seen] == [0.5, -0.4, 0.3]
    for size, value, equity, worth, close in seen:
        assert value == pytest.approx(equity, abs=1e-6)
        assert worth == pytest.approx(size * close)
    closed = [each for each in watcher.trades if each.isclosed]
    assert [each.long for each in closed] == [True, False, True]
    assert broker.getcash() == pytest.approx(100_000 + sum(each.pnlcomm for each in closed), abs=1e-6)
    assert not broker.apart
    # Only what closes is told to reduce.
    reducing = [order.reduce_only for order in server.call(lambda: list(server.contracts.orders))]
    assert reducing == [False, True, False, False, False, True]


def test_a_run_begins_with_the_exchanges_position_leverage_and_margin_mode(server):
    other = by_hand(server)
    other.set_leverage(7, PERP)
    other.set_margin_mode("isolated", PERP)
    other.create_order(PERP, "market", "sell", 0.25)
    begun = []

    def look(w):
        begun.append((float(w.position.size), w.position.price, w.broker.get_stance(w.data)))
        return w.close()

    watcher, plan, _, _ = trade(server, look)
    ((size, price, stance),) = begun
    assert size == -0.25
    assert (stance.size, float(stance.entry)) == (Decimal("-0.25"), price)
    assert (stance.leverage, stance.margin_mode) == (7, "isolated")
    assert {order.ref for order in watcher.orders} == {plan.made[0].ref}
    (closed,) = [each for each in watcher.trades if each.isclosed]
    assert closed.pnl == pytest.approx(-0.25 * (plan.made[0].executed.price - price))


def test_leverage_and_margin_mode_are_set_where_they_are_given(server):
    _, _, broker, feed = trade(server, lambda w: w.buy(size=0.1), leverage=3, margin_mode={PERP: "isolated"})
    stance = broker.get_stance(feed)
    assert (stance.leverage, stance.margin_mode) == (3, "isolated")
    account = server.contracts.account(API_KEY)
    position = server.call(lambda: server.contracts.books.position(account, "BTCUSDT"))
    assert (position.leverage, position.isolated) == (3, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"leverage": 500}, "refuses leverage=500 for BTC/USDT:USDT"),
        ({"margin_mode": "both"}, "margin_mode='both' is not known"),
    ],
)
def test_what_the_exchange_does_not_set_is_one_sentence(server, options, said):
    with pytest.raises(ConfigError, match=said):
        trade(server, **options)


def test_hedge_mode_is_refused_unless_asked_for(server, caplog):
    server.call(lambda: server.contracts.books.hedged.add(server.contracts.account(API_KEY)))
    with pytest.raises(ConfigError, match="in hedge mode"):
        trade(server)
    watcher, plan, _, _ = trade(server, lambda w: w.buy(size=0.1), hedged=True)
    assert statuses(watcher, plan.made[0])[-1] == "Rejected"
    assert "position side" in plan.made[0].info.reason
    assert any("hedge mode was not proved" in record.message for record in caplog.records)


def test_spot_and_contracts_are_not_of_one_run(server):
    store = store_of(server)
    feeds = [feed_of(store, server), feed_of(store, server, "ETH/USDT")]
    with pytest.raises(ConfigError, match="give each kind a store"):
        run(store, *feeds, broker=store.getbroker(), until=lambda w: True)


def test_stops_wait_at_the_exchange_and_are_filled_once(server):
    stop = {"size": 0.1, "exectype": bt.Order.Stop}

    def limited(w):
        price = w.data.close[0] * 1.00002
        return w.buy(size=0.1, exectype=bt.Order.StopLimit, price=price, plimit=price * 1.002)

    watcher, plan, _, _ = trade(
        server,
        lambda w: w.buy(**stop, price=w.data.close[0] * 1.00002),
        lambda w: w.sell(**stop, price=w.data.close[0] * 0.99998),
        limited,
        lambda w: w.sell(size=0.1, exectype=bt.Order.StopTrail, trailpercent=0.001),
    )
    assert {statuses(watcher, order)[-1] for order in plan.made} == {"Completed"}
    assert len(server.call(lambda: list(server.contracts.algos))) >= 4
    assert not any(order.info.emulated for order in plan.made)


def test_a_trailing_stop_follows_the_price_and_sells_when_it_falls_back(server):
    def trail(w):
        shares = (0.001, 0.0009, 0.00105)
        return [w.sell(size=0.1, exectype=bt.Order.StopTrail, trailpercent=share) for share in shares]

    def far(w):
        order = w.sell(size=0.1, exectype=bt.Order.StopTrail, trailpercent=0.101)
        w.cancel(order)
        return order

    watcher, plan, _, feed = trade(server, lambda w: w.buy(size=0.4), far, trail)
    _, too_far, native, too_near, too_fine = plan.made
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed", "Canceled", *3 * ["Completed"]]
    assert watcher.getposition(feed).size == pytest.approx(0.1)
    # What is not among the exchange's distances, 0.1, 0.2, ... 10 percent, is watched here.
    assert not native.info.emulated
    for order in (too_far, too_near, too_fine):
        assert order.info.emulated == "its trigger is watched here, by the last price"
    (algo,) = server.call(lambda: list(server.contracts.algos))
    assert (algo.type, algo.callback_rate, algo.status) == ("TRAILING_STOP_MARKET", Decimal("0.1"), "FINISHED")
    assert all(fill.price <= algo.best * (1 - algo.callback_rate / 100) for fill in algo.order.fills)
    assert native.executed.price == pytest.approx(float(algo.order.cum_quote / algo.order.executed))


def test_a_stop_can_be_cancelled_and_one_for_all_that_is_held_only_reduces(server):
    far = {"size": 0.1, "exectype": bt.Order.Stop}

    def cancels(w):
        order = w.sell(**far, price=w.data.close[0] * 0.5)
        w.cancel(order)
        return order

    watcher, plan, _, _ = trade(server, lambda w: w.buy(size=0.1), cancels, lambda w: w.close())
    assert statuses(watcher, plan.made[1]) == ["Submitted", "Accepted", "Canceled"]
    assert [algo.reduce_only for algo in server.call(lambda: list(server.contracts.algos))] == [True]


def test_the_exits_of_a_bracket_only_reduce(server):
    def bracket(w):
        price = w.data.close[0]
        return w.sell_bracket(size=0.2, exectype=bt.Order.Market, stopprice=price * 1.0003, limitprice=price * 0.9997)

    watcher, plan, _, _ = trade(server, bracket)
    entry, stop, limit = plan.made
    assert statuses(watcher, entry)[-1] == "Completed"
    assert sorted(statuses(watcher, each)[-1] for each in (stop, limit)) == ["Canceled", "Completed"]
    exits = [*server.contracts.algos, *server.contracts.orders[1:]]
    assert exits
    assert all(each.reduce_only for each in exits)


def test_both_exits_of_a_bracket_do_their_work_and_what_is_held_is_never_long_without_one(server):
    def done(w):
        return {order.getordername() for order in w.orders if order.parent and order.getstatusname() == "Completed"}

    def enter(w):
        # Which of the two is reached the market says: again, until both were.
        if done(w) == {"Stop", "Limit"}:
            return None
        price, entries = w.data.close[0], len({order.ref for order in w.orders if order.parent is None})
        exits = {"stopprice": price * (1 - 0.0002), "limitprice": price * (1 + 0.0002)}
        if entries % 2:
            exits["stopprice"], exits["limitprice"] = exits["limitprice"], exits["stopprice"]
        give = w.sell_bracket if entries % 2 else w.buy_bracket
        return give(size=0.2, exectype=bt.Order.Market, **exits)

    watcher, plan, _, feed = trade(server, *12 * [enter])
    assert done(watcher) == {"Stop", "Limit"}
    for entry, *exits in zip(*3 * [iter(plan.made)], strict=True):
        assert statuses(watcher, entry)[-1] == "Completed"
        assert sorted(statuses(watcher, each)[-1] for each in exits) == ["Canceled", "Completed"]
        assert all("takes turns" in each.info.emulated for each in exits)
    assert watcher.getposition(feed).size == 0
    assert not any("without an exit" in text for text in watcher.messages)
    algos, orders = server.call(lambda: (list(server.contracts.algos), list(server.contracts.orders)))
    assert all(algo.reduce_only for algo in algos)
    # From its entry's fill to its own end a position has an exit at the exchange, but for the moments in which they
    # change places.
    spans = [(algo.created_ms, algo.trigger_ms or algo.updated_ms) for algo in algos]
    spans += [(order.created_ms, order.updated_ms) for order in orders if order.reduce_only]
    fills = [fill for order in orders for fill in order.fills]
    held, begun_ms, bare = Decimal(0), 0, []
    for fill in sorted(fills, key=lambda fill: fill.trade_id):
        if not held:
            begun_ms = fill.ts_ms
        held += fill.qty if fill.is_buyer else -fill.qty
        if not held:
            bare.append(longest_gap(begun_ms, fill.ts_ms, spans))
    assert len(bare) == len(plan.made) // 3
    assert max(bare) < 1_000 * server.speed


def longest_gap(begin_ms, end_ms, spans):
    """Return the longest stretch between two times in which none of the spans goes on."""
    longest_ms, covered_ms = 0, begin_ms
    for first_ms, last_ms in sorted(spans):
        if begin_ms <= first_ms <= end_ms:
            longest_ms, covered_ms = max(longest_ms, first_ms - covered_ms), max(covered_ms, last_ms)
    return max(longest_ms, end_ms - covered_ms)


def test_an_order_that_only_reduces_never_turns_the_position(server):
    sizes = []

    def look(w):
        sizes.append(float(w.position.size))

    def reduce(w, side, exectype, share):
        return getattr(w, side)(size=5, exectype=exectype, price=w.data.close[0] * share, reduceOnly=True)

    watcher, plan, _, _ = trade(
        server,
        lambda w: w.buy(size=0.2),
        lambda w: reduce(w, "sell", bt.Order.Market, 1),
        look,
        lambda w: w.sell(size=0.3),
        # The limit rests, and the position has become smaller when it is filled.
        lambda w: [reduce(w, "buy", bt.Order.Limit, 0.9997), w.buy(size=0.1)],
        look,
        lambda w: reduce(w, "sell", bt.Order.Market, 1),
    )
    assert sizes == [0, 0]
    ends = [statuses(watcher, order)[-1] for order in plan.made]
    assert ends == [*5 * ["Completed"], "Rejected"]
    assert "ReduceOnly" in plan.made[-1].info.reason
    assert [float(order.executed.size) for order in plan.made] == [0.2, -0.2, -0.3, 0.2, 0.1, 0]


def test_what_reduces_may_be_worth_little_and_what_opens_may_not(server):
    watcher, plan, _, _ = trade(
        server, lambda w: w.buy(size=0.00005), lambda w: w.buy(size=0.0001), lambda w: w.sell(size=0.00005),
        lambda w: w.close(),
    )  # fmt: skip
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Rejected", "Completed", "Rejected", "Completed"]


def test_an_order_beyond_the_margin_ends_as_margin(server):
    watcher, plan, _, _ = trade(server, lambda w: w.buy(size=90))
    assert statuses(watcher, plan.made[0])[-1] == "Margin"


def test_targets_are_reached_long_and_short(server):
    sizes = []

    def look(w):
        sizes.append(w.position.size * w.data.close[0] / w.broker.getvalue())

    trade(
        server,
        lambda w: w.order_target_percent(target=0.5),
        look,
        lambda w: w.order_target_percent(target=-0.5),
        look,
        lambda w: w.order_target_percent(target=-1.5),
        look,
        lambda w: w.order_target_percent(target=0.0),
        look,
    )
    assert sizes == pytest.approx([0.5, -0.5, -1.5, 0.0], abs=0.01)


def test_funding_is_booked_apart_and_told(simulator):
    begun_ms = next_funding_ms(START_MS) - 25_000
    server = simulator(contracts=[BTC], margin=WALLET, seed=5, history_ms=HOUR_MS, speed=15, start_ms=begun_ms)
    watcher, plan, broker, _ = trade(
        server,
        lambda w: w.sell(size=0.5),
        until=lambda w: w.broker.apart,
    )
    (apart,) = broker.apart
    assert apart.payment.symbol == PERP
    assert apart.payment.ts_ms == next_funding_ms(begun_ms)
    assert (apart.payment.amount > 0) == (rate_at("BTCUSDT", apart.payment.ts_ms) > 0)
    assert apart.changes == {"USDT": apart.payment.amount}
    assert any(text.startswith(f"Funding of {PERP}") for text in watcher.messages)
    assert {order.ref for order in watcher.orders} == {plan.made[0].ref}
    assert len(plan.made[0].executed_fills) == len(server.contracts.orders[0].fills)


def test_an_order_of_another_client_changes_the_position_and_is_told(server):
    other = by_hand(server)

    def trade_by_hand(w):
        other.create_order(PERP, "market", "sell", 0.3)

    watcher, _, broker, feed = trade(
        server, lambda w: w.buy(size=0.2), trade_by_hand, until=lambda w: foreign_size(w) == pytest.approx(-0.3)
    )
    assert broker.getposition(feed).size == pytest.approx(-0.1)
    foreign = [order for order in watcher.orders if order.info.foreign]
    assert {order.getstatusname() for order in foreign} == {"Completed"}
    assert [each.long for each in watcher.trades if each.isclosed] == [True]


def test_without_streams_the_same_is_found_by_looking(server):
    other = by_hand(server)
    far = {"size": 0.1, "exectype": bt.Order.Stop}

    def trade_by_hand(w):
        # While a stop waits, a fill in its market might be its own.
        stop = w.sell(**far, price=w.data.close[0] * 0.5, reduceOnly=False)
        other.create_order(PERP, "market", "sell", 0.3)
        return [stop]

    stopped = []
    store = store_of(server, "binanceusdm")
    feed = feed_of(store, server)
    broker = store.getbroker(check_interval=0.3, use_websocket=False, balance_ttl=0.5)
    plan = Plan(lambda w: w.buy(size=0.2))

    def act(w):
        plan.act(w)
        if plan.until(w) and not stopped:
            stopped.extend(trade_by_hand(w))
        elif stopped and foreign_size(w) == pytest.approx(-0.3):
            w.cancel(stopped[0])

    watcher = run(
        store,
        feed,
        broker=broker,
        act=act,
        until=lambda w: stopped and "Canceled" in statuses(w, stopped[0]) and agree(broker, server, feed),
    )
    assert foreign_size(watcher) == pytest.approx(-0.3)
    assert broker.getposition(feed).size == pytest.approx(-0.1)


def test_what_others_do_while_the_stream_is_down_is_found_when_it_is_up(server):
    other = by_hand(server)

    def trade_by_hand(w):
        server.faults.refuse_connect(socket="user", times=2)
        server.abort_connections(socket="user")
        other.create_order(PERP, "market", "sell", 0.3)

    _, _, broker, _ = trade(
        server, lambda w: w.buy(size=0.2), trade_by_hand, until=lambda w: foreign_size(w) == pytest.approx(-0.3)
    )
    assert {apart.position for apart in broker.apart[-1:]} == {Decimal("-0.1")}


def test_analyzers_tell_what_the_wallet_has_gained(server):
    store = store_of(server, "binanceusdm")
    cerebro = bt.Cerebro()
    cerebro.adddata(feed_of(store, server))
    broker = store.getbroker(check_interval=0.5)
    cerebro.setbroker(broker)
    cerebro.addsizer(bt.sizers.PercentSizer, percents=10, retint=False)
    for analyzer in (bt.analyzers.TradeAnalyzer, bt.analyzers.PyFolio, bt.analyzers.TimeReturn):
        cerebro.addanalyzer(analyzer, _name=analyzer.__name__.lower())
    # The last step lets one more bar see what the last order has done.
    plan = Plan(lambda w: w.buy(), lambda w: w.close(), lambda w: w.sell(), lambda w: w.close(), lambda w: None)
    cerebro.addstrategy(Watcher, act=plan.act, until=plan.until)
    (watcher,) = cerebro.run()
    store.stop()
    assert not watcher.timed_out
    assert [order.executed.size * order.executed.price for order in plan.made] == pytest.approx(
        [10_000, -10_000, -10_000, 10_000], rel=0.01
    )
    wallet, held = books(server)
    assert not held
    gained = float(wallet) - 100_000
    analysis = watcher.analyzers.tradeanalyzer.get_analysis()
    assert (analysis.total.closed, analysis.long.total, analysis.short.total) == (2, 1, 1)
    assert analysis.pnl.net.total == pytest.approx(gained, abs=1e-6)
    returns, positions, transactions, _ = watcher.analyzers.pyfolio.get_pf_items()
    assert transactions["amount"].sum() == pytest.approx(0.0)
    assert len(positions)
    assert broker.getvalue() == float(wallet)
    assert sum(watcher.analyzers.timereturn.get_analysis().values()) == pytest.approx(gained / 100_000, abs=1e-6)
    assert len(returns)


def foreign_size(watcher):
    return sum(order.executed.size for order in watcher.orders if order.info.foreign)


def test_a_deposit_moves_cash_alone(server):
    def deposit(w):
        def give():
            contracts = server.contracts
            account, now_ms = contracts.account(API_KEY), server.clock.now_ms()
            contracts.books.earn(account, "", "TRANSFER", Decimal("123.45"), now_ms)
            contracts._events.append(contracts.books.event(account, "DEPOSIT", [], now_ms))

        server.call(give)

    _, _, broker, _ = trade(server, lambda w: w.buy(size=0.2), deposit, until=lambda w: w.broker.apart)
    assert [apart.changes for apart in broker.apart] == [{"USDT": Decimal("123.45")}]
    assert broker.apart[0].payment is None


def test_a_liquidation_is_a_fill_of_its_own(simulator):
    server = simulator(
        contracts=[BTC], margin={"USDT": 1_000}, seed=5, history_ms=HOUR_MS, speed=15,
    )  # fmt: skip

    def doom(w):
        def take():
            account = server.contracts.account(API_KEY)
            # All but what the position needs.
            server.contracts.books.earn(account, "", "TRANSFER", Decimal(-930), server.clock.now_ms())

        server.call(take)

    watcher, _, _, _ = trade(
        server,
        lambda w: w.buy(size=0.3),
        lambda w: w.sell(size=0.3, exectype=bt.Order.Stop, price=w.data.close[0] * 0.5) and None,
        doom,
        until=lambda w: foreign_size(w) == pytest.approx(-0.3),
        leverage=100,
    )
    foreign = [order for order in watcher.orders if order.info.foreign]
    assert foreign
    assert {order.info.reason for order in foreign} == {"a liquidation"}
    assert [each.long for each in watcher.trades if each.isclosed] == [True]
    assert any("liquidation by the exchange" in text for text in watcher.messages)


# Validity


def test_what_is_good_for_long_ends_at_the_exchange_and_what_else_has_an_end_is_watched_here(simulator):
    # Ten minutes are some seconds there.
    server = simulator(contracts=[BTC], margin=WALLET, seed=5, history_ms=HOUR_MS, speed=150)

    def place(w):
        low = {"size": 0.1, "price": w.data.close[0] * 0.9}
        near, far = dt.timedelta(seconds=60), dt.timedelta(seconds=640)
        return [
            w.buy(exectype=bt.Order.Limit, valid=far, **low),
            w.buy(exectype=bt.Order.Limit, valid=near, **low),
            w.sell(exectype=bt.Order.Stop, valid=far, **low),
        ]

    store = store_of(server, "binanceusdm", config={"options": {"recvWindow": 60_000}})
    watcher, plan, _, _ = trade(server, place, store=store)
    assert [statuses(watcher, order) for order in plan.made] == 3 * [["Submitted", "Accepted", "Expired"]]
    assert [order.info.emulated for order in plan.made] == ["", *2 * ["its validity is watched here"]]
    far, near = server.call(lambda: list(server.contracts.orders))
    (stop,) = server.call(lambda: list(server.contracts.algos))
    assert far.good_till_ms // 1_000 == round((plan.made[0].valid - 719_163) * 86_400_000) // 1_000
    assert (far.status, far.updated_ms) == ("EXPIRED", far.good_till_ms)
    assert (near.status, near.good_till_ms, stop.status) == ("CANCELED", 0, "CANCELED")
    cancelled = [request for request in server.requests if request.method == "DELETE"]
    assert {request.path for request in cancelled} == {"/fapi/v1/order", "/fapi/v1/algoOrder"}


@pytest.mark.parametrize("other", [bt.Order.Stop, bt.Order.Limit])
def test_an_order_whose_time_is_over_takes_along_what_it_excludes(simulator, other):
    server = simulator(contracts=[BTC], margin=WALLET, seed=5, history_ms=HOUR_MS, speed=150)

    def place(w):
        price, far = w.data.close[0], dt.timedelta(seconds=640)
        first = w.sell(size=0.1, exectype=bt.Order.Limit, price=price * 1.2, valid=far)
        return [first, w.sell(size=0.1, exectype=other, price=price * {3: 0.8, 2: 1.3}[other], oco=first)]

    store = store_of(server, "binanceusdm", config={"options": {"recvWindow": 60_000}})
    watcher, plan, _, _ = trade(server, lambda w: w.buy(size=0.1), place, store=store)
    assert [statuses(watcher, order)[-1] for order in plan.made] == ["Completed", "Expired", "Canceled"]
    orders = server.call(lambda: [*server.contracts.orders, *server.contracts.algos])
    assert not [order for order in orders if order.status == "NEW"]
    # Two exits of one holding take turns, and what takes turns ends here; of others the exchange ends the first.
    (first,) = [order for order in orders if getattr(order, "good_till_ms", 0)]
    assert first.status == ("CANCELED" if other == bt.Order.Stop else "EXPIRED")
