"""Funding beside the bars of perpetual contracts, through ccxt's real class, over real HTTP and WebSocket."""

import math

import backtrader as bt
import pytest

from ccxtbt import CCXTFeedWithFunding
from ccxtbt.errors import CCXTBTError, NotOfferedError
from ccxtbt.sim.funding import FUNDING_MS, next_funding_ms, rate_at
from ccxtbt.sim.server import START_MS
from simulated import BTC
from watching import ago, run, stamp_ms, store_of

PERP = "BTC/USDT:USDT"
DAY_MS = 86_400_000
MINUTES = {"timeframe": bt.TimeFrame.Minutes, "compression": 1}
SECONDS = {"timeframe": bt.TimeFrame.Seconds, "compression": 1}
NAMES = ("funding_rate", "mark_price", "next_funding_time", "predicted_funding_rate")


class WithTrades(CCXTFeedWithFunding):
    lines = ("trades",)


class Seen:
    """Writes down the lines of each bar, as they are in its `next()`."""

    def __init__(self, *names):
        self.names = names or NAMES
        self.bars = []

    def __call__(self, watcher):
        data = watcher.datas[0]
        if len(data) > len(self.bars):
            self.bars.append((stamp_ms(data), data.close[0], *(getattr(data, name)[0] for name in self.names)))


def paid(stamp):
    return float(rate_at("BTCUSDT", stamp - stamp % FUNDING_MS))


def test_history_has_what_was_known_at_each_close(simulator):
    server = simulator(contracts=[BTC], margin={"USDT": 10_000}, history_ms=3 * DAY_MS, quiet_bars="flat")
    feed = WithTrades(store=store_of(server), dataname=PERP, fromdate=ago(server, hours=40), historical=True, **MINUTES)
    seen = Seen(*NAMES, "trades")
    run(feed.store, feed, act=seen, until=lambda w: False)
    assert len(seen.bars) == 40 * 60
    for stamp, close, rate, mark, due, predicted, trades in seen.bars:
        assert rate == paid(stamp)
        # The simulator's mark price is the last trade's.
        assert mark == close
        assert due == next_funding_ms(stamp)
        assert math.isnan(predicted)
        assert trades >= 0
    assert len({rate for _, _, rate, *_ in seen.bars}) == 6


@pytest.mark.parametrize("path", ["/fapi/v1/premiumIndex", "/fapi/v1/fundingRate", "/fapi/v1/markPriceKlines"])
def test_where_funding_cannot_be_had_the_run_says_so(simulator, path):
    server = simulator(contracts=[BTC], margin={"USDT": 10_000}, history_ms=DAY_MS)
    store = store_of(server)
    server.faults.answer(400, b'{"code":-1121,"msg":"Invalid symbol."}', taken=False, path=path, times=0)
    feed = CCXTFeedWithFunding(store=store, dataname=PERP, fromdate=ago(server, hours=9), historical=True, **MINUTES)
    with pytest.raises(CCXTBTError, match="Invalid symbol"):
        run(store, feed, until=lambda w: False)


@pytest.mark.parametrize(("watched", "breaks"), [(True, False), (True, True), (False, False)])
def test_live_bars_have_what_was_known_at_each_close_also_when_funding_is_paid(simulator, watched, breaks):
    server = simulator(
        contracts=[BTC],
        margin={"USDT": 10_000},
        history_ms=2 * DAY_MS,
        start_ms=START_MS - START_MS % FUNDING_MS + FUNDING_MS - 10_000,
        speed=4,
    )
    store = store_of(server)
    feed = CCXTFeedWithFunding(store=store, dataname=PERP, fromdate=ago(server, minutes=5), **SECONDS)
    if not watched:
        store.start()
        store.connection.rest.has["watchMarkPrice"] = False
    seen, broken = Seen(), []
    due_ms = next_funding_ms(server.clock.now_ms())

    def act(watcher):
        seen(watcher)
        if breaks and feed.origins.get("ws", 0) >= 5 and not broken:
            broken.append(server.abort_connections())

    def enough(watcher):
        return bool(seen.bars) and seen.bars[-1][0] >= due_ms + 8_000 and feed.origins.get("ws", 0) >= 20

    run(store, feed, act=act, until=enough)
    asked = sum(record.path.endswith("/premiumIndex") for record in server.requests)
    assert asked < 8 if watched else asked >= 10
    assert bool(broken) == breaks
    # The bars and the mark price have a socket each.
    assert broken in ([], [2])
    market = server.contracts.markets["BTCUSDT"]
    live = 0
    for stamp, _, rate, mark, due, predicted in seen.bars:
        assert rate == paid(stamp)
        assert math.isnan(due) or due == next_funding_ms(stamp)
        if math.isnan(predicted):
            continue
        live += 1
        assert predicted == float(rate_at("BTCUSDT", next_funding_ms(stamp)))
        # One of the mark prices of the last seconds before the close (of the last minute, over a break), and none
        # after it.
        if breaks and math.isnan(mark):
            continue
        oldest_ms = stamp - (60_000 if breaks else 4_000)
        recent = {float(market.price(market.close_before(at_ms + 1))) for at_ms in range(oldest_ms, stamp + 1)}
        assert mark in recent
    assert live >= 10
    # The next payment is known soon after one.
    assert seen.bars[-1][0] > due_ms
    assert seen.bars[-1][4] == due_ms + FUNDING_MS
    assert any(stamp < due_ms for stamp, *_ in seen.bars)


def test_spot_has_no_funding(simulator):
    server = simulator((BTC,))
    store = store_of(server)
    feed = CCXTFeedWithFunding(store=store, dataname="BTC/USDT", historical=True, **MINUTES)
    with pytest.raises(NotOfferedError, match="BTC/USDT of binance is no perpetual contract and has no funding"):
        run(store, feed, until=lambda w: True)
