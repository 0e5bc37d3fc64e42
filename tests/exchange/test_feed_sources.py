"""Live bars from polls and from trades, and what is made of bars that do not exist."""

import backtrader as bt
import pytest

from ccxtbt.errors import ConfigError, DataError, NotOfferedError
from ccxtbt.market.pipeline import Pipeline
from ccxtbt.market.timeframes import parse
from ccxtbt.sim.spec import Spec
from simulated import BTC, ETH
from waiting import wait_until
from watching import ago, assert_equals_exchange, run, store_of

HOUR_MS = 3_600_000
SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}
MINUTES = {"timeframe": bt.TimeFrame.Minutes, "compression": 1}
QUIET = Spec(symbol="DULLUSDT", base="DULL", quote="USDT", price=50, trades_per_minute=20.0)


def start_of(feed):
    return feed._utc_ms(feed.p.fromdate)


def lived(*feeds, bars):
    """Whether each feed has delivered so many bars after its first LIVE."""

    def reached(watcher):
        return all(
            "LIVE" in watcher.states[feed]
            and len(watcher.seen[feed]) >= watcher.bars_at_state[feed][watcher.states[feed].index("LIVE")] + bars
            for feed in feeds
        )

    return reached


@pytest.mark.parametrize(("timeframe", "text", "speed", "bars"), [(SECONDS, "1s", 5, 20), (MINUTES, "1m", 60, 3)])
def test_polls_give_every_bar_of_the_exchange_once(simulator, timeframe, text, speed, bars):
    server = simulator((BTC, ETH), history_ms=HOUR_MS, speed=speed)
    store = store_of(server)
    feeds = [
        store.getdata(dataname=name, fromdate=ago(server, minutes=5), source="poll", **timeframe)
        for name in ("BTC/USDT", "ETH/USDT")
    ]
    watcher = run(store, *feeds, until=lived(*feeds, bars=bars))
    assert server.connects == 0
    for feed in feeds:
        assert watcher.states[feed] == ["DELAYED", "LIVE"]
        assert_equals_exchange(server, watcher, feed, text, start_of(feed))
        assert feed.origins.keys() == {"rest"}
        assert feed.counts.outage == 0


def test_polls_go_out_just_after_each_close_and_not_all_at_once(simulator):
    server = simulator((BTC, ETH), history_ms=HOUR_MS, speed=30)
    store = store_of(server)
    feeds = [
        store.getdata(dataname=name, source="poll", backfill_start=False, **MINUTES)
        for name in ("BTC/USDT", "ETH/USDT")
    ]
    run(store, *feeds, until=lived(*feeds, bars=3))
    polls = [record for record in server.requests if record.path == "/api/v3/klines"]
    # Two readings a bar, three where the market is quiet, and one look at the end.
    assert len(polls) <= 2 * 3 * 4 + 2
    for record in polls:
        assert 1_000 <= record.at_ms % 60_000 <= 12_000


def test_a_break_of_the_line_is_told_to_who_is_polled(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    store = store_of(server, retries=0)
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=2), source="poll", **SECONDS)
    broken = []

    def act(watcher):
        if watcher.states[feed][-1] == "LIVE" and not broken:
            broken.append(server.faults.server_error(500, path="/api/v3/klines", times=2))

    watcher = run(store, feed, act=act, until=lambda w: broken and w.states[feed][2:] and w.states[feed][-1] == "LIVE")
    assert watcher.states[feed] == ["DELAYED", "LIVE", "CONNBROKEN", "DELAYED", "LIVE"]
    assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))


@pytest.mark.parametrize("source", ["ohlcv", "poll"])
def test_flat_bars_stand_for_the_seconds_in_which_nobody_traded(simulator, source):
    server = simulator((QUIET,), history_ms=HOUR_MS, speed=5)
    store = store_of(server)
    feed = store.getdata(dataname="DULL/USDT", fromdate=ago(server, minutes=2), gaps="flat", source=source, **SECONDS)
    watcher = run(store, feed, until=lived(feed, bars=25))
    stamps = [bar[0] for bar in watcher.seen[feed]]
    assert stamps == list(range(int(stamps[0]), int(stamps[-1]) + 1, 1_000))
    real = [bar for bar in watcher.seen[feed] if bar[5] > 0]
    flat = len(stamps) - len(real)
    assert 20 < flat <= feed.origins["synthetic"] <= feed.counts.synthetic
    for before, bar in zip(watcher.seen[feed], watcher.seen[feed][1:], strict=False):
        if bar[5] == 0:
            assert bar[1:5] == (before[4],) * 4
    watcher.seen[feed] = real
    assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))


def test_a_gap_may_end_the_run(simulator):
    server = simulator((QUIET,), history_ms=HOUR_MS, speed=10)
    store = store_of(server)
    feed = store.getdata(dataname="DULL/USDT", backfill_start=False, gaps="raise", **SECONDS)
    with pytest.raises(DataError, match="gaps='flat'"):
        run(store, feed, until=lambda w: False)


@pytest.mark.parametrize("wrong", [{"source": "rest"}, {"gaps": "fill"}])
def test_what_is_unknown_is_refused(simulator, wrong):
    server = simulator((BTC,), history_ms=HOUR_MS)
    feed = store_of(server).getdata(dataname="BTC/USDT", **wrong, **SECONDS)
    with pytest.raises(ConfigError, match="give one of"):
        run(feed.store, feed, until=lambda w: False)


@pytest.mark.parametrize(("timeframe", "text", "speed", "bars"), [(SECONDS, "1s", 5, 15), (MINUTES, "1m", 60, 3)])
def test_bars_built_from_trades_are_the_exchange_s_own(simulator, timeframe, text, speed, bars):
    server = simulator((BTC, ETH), history_ms=HOUR_MS, speed=speed)
    store = store_of(server)
    feeds = [
        store.getdata(dataname=name, fromdate=ago(server, minutes=5), source="trades", **timeframe)
        for name in ("BTC/USDT", "ETH/USDT")
    ]
    watcher = run(store, *feeds, until=lived(*feeds, bars=bars))
    for feed in feeds:
        assert watcher.states[feed] == ["DELAYED", "LIVE"]
        assert_equals_exchange(server, watcher, feed, text, start_of(feed))
        assert feed.origins["trades"] >= bars


def test_trades_that_were_missed_are_fetched(simulator):
    server = simulator((BTC, QUIET), history_ms=HOUR_MS, speed=10)
    server.faults.lose(stream="btcusdt@aggTrade", nth=15, times=4)
    server.faults.lose(stream="btcusdt@aggTrade", nth=60, times=30)
    server.faults.reorder(2, stream="btcusdt@aggTrade", nth=130, times=2)
    server.faults.duplicate(2, stream="btcusdt@aggTrade", nth=150, times=10)
    server.faults.abort(stream="btcusdt@aggTrade", nth=200)
    server.faults.lag(1.5, path="/api/v3/aggTrades", times=0)
    store = store_of(server)
    feeds = [
        store.getdata(dataname=name, fromdate=ago(server, minutes=2), source="trades", **SECONDS)
        for name in ("BTC/USDT", "DULL/USDT")
    ]
    end_ms = server.clock.now_ms() + 60_000
    watcher = run(
        store,
        *feeds,
        until=lambda w: all(
            states[-1:] == ["LIVE"] and "CONNBROKEN" in states and w.seen[feed][-1][0] > end_ms
            for feed, states in w.states.items()
        ),
    )
    assert {fired.action for fired in server.faults.log} >= {"frame lose", "frame reorder", "frame abort"}
    for feed in feeds:
        assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))
        assert watcher.states[feed] == ["DELAYED", "LIVE", "CONNBROKEN", "DELAYED", "LIVE"]


def test_an_exchange_without_bars_gives_those_of_its_trades(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    store = store_of(server, config={"has": {"fetchOHLCV": False, "watchOHLCV": False, "watchOHLCVForSymbols": False}})
    feed = store.getdata(dataname="BTC/USDT", fromdate=ago(server, minutes=2), source="trades", **SECONDS)
    watcher = run(store, feed, until=lived(feed, bars=10))
    assert_equals_exchange(server, watcher, feed, "1s", start_of(feed))
    assert not [record for record in server.requests if record.path == "/api/v3/klines"]


def test_bars_that_the_exchange_does_not_offer_are_built_from_trades(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=20)
    store = store_of(server)
    feed = store.getdata(
        dataname="BTC/USDT",
        fromdate=ago(server, minutes=10),
        timeframe=bt.TimeFrame.Seconds,
        compression=7,
        source="trades",
    )
    watcher = run(store, feed, until=lived(feed, bars=10))
    market = server.exchange.markets["BTCUSDT"]
    first_ms, last_ms = start_of(feed), int(watcher.seen[feed][-1][0])
    bars: dict[int, list] = {}
    for trade in market.trades(start_ms=first_ms, limit=10**6, now_ms=last_ms - 1):
        price, amount = market.price(trade.price_ticks), market.qty(trade.qty_steps)
        bars.setdefault(trade.ts_ms // 7_000 * 7_000, []).append((price, amount))
    expected = [
        (
            opened + 7_000,
            float(trades[0][0]),
            float(max(price for price, _ in trades)),
            float(min(price for price, _ in trades)),
            float(trades[-1][0]),
            float(sum(amount for _, amount in trades)),
        )
        for opened, trades in sorted(bars.items())
        if opened >= first_ms
    ]
    seen = watcher.seen[feed]
    assert [bar[:5] for bar in seen] == [bar[:5] for bar in expected]
    assert [bar[5] for bar in seen] == pytest.approx([bar[5] for bar in expected], rel=1e-12)
    assert feed.origins.keys() == {"trades"}


class Forming:
    """A sink that writes down which bar it was shown forming, and which were delivered."""

    partial, priced = True, False

    def __init__(self):
        self.shown, self.closed, self.states = [], [], []

    def history(self, ts_ms, ohlcv, origin):
        self.closed += ts_ms.tolist()

    def failed(self, error):
        self.states.append(error)

    def bars(self, bars):
        self.closed += [bar.ts_ms for bar in bars]

    def forming(self, bar):
        self.shown.append((bar.ts_ms, self.closed[-1]))

    def state(self, state, reason):
        self.states.append(state.name)

    def correction(self, kept, came):
        self.states.append("correction")


@pytest.mark.parametrize(("source", "longest_ms"), [("ohlcv", None), ("poll", 10_000)])
def test_the_bar_that_forms_is_shown_to_who_asks_and_is_always_the_next(simulator, source, longest_ms):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=30)
    store = store_of(server)
    store.start()
    sink = Forming()
    try:
        start_ms = server.clock.now_ms() - 600_000
        pipeline = Pipeline(
            store.connection,
            store.streams,
            "BTC/USDT",
            parse("1m"),
            start_ms,
            None,
            sink,
            source=source,
            longest_poll_ms=longest_ms,
        )
        store.connection.spawn(pipeline.run, name="bars")
        wait_until(lambda: len({ts_ms for ts_ms, _ in sink.shown}) >= 3)
    finally:
        store.stop()
    assert sink.states[-1] == "LIVE"
    assert all(ts_ms == last_ms + 60_000 for ts_ms, last_ms in sink.shown)
    assert len(sink.shown) > 6


@pytest.mark.parametrize(
    ("lacks", "origin"),
    [
        (("watchOHLCV", "watchOHLCVForSymbols"), "trades"),
        (("watchOHLCV", "watchOHLCVForSymbols", "watchTrades", "watchTradesForSymbols"), "rest"),
    ],
)
def test_where_the_exchange_streams_no_bars_the_next_best_source_is_taken(simulator, lacks, origin):
    server = simulator((BTC,), history_ms=HOUR_MS, speed=10)
    store = store_of(server, config={"has": dict.fromkeys(lacks, False)})
    feed = store.getdata(dataname="BTC/USDT", backfill_start=False, **SECONDS)
    run(store, feed, until=lived(feed, bars=5))
    assert feed.origins.keys() == {origin}


def test_a_source_that_the_exchange_does_not_have_is_refused(simulator):
    server = simulator((BTC,), history_ms=HOUR_MS)
    store = store_of(server, config={"has": {"watchTrades": False, "watchTradesForSymbols": False}})
    feed = store.getdata(dataname="BTC/USDT", source="trades", **SECONDS)
    with pytest.raises(NotOfferedError, match="source='auto'"):
        run(store, feed, until=lambda w: False)
