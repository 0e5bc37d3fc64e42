"""The public side of the simulated exchange: trades, ticker, depth, clocks."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from itertools import islice, pairwise
from statistics import pstdev

import pytest

from ccxtbt.sim.clock import ManualClock, SimClock
from ccxtbt.sim.kline import DAY_MS, HOUR_MS, MINUTE_MS
from ccxtbt.sim.market import MAX_LEVELS, Market, Replay
from ccxtbt.sim.spec import Spec

START_MS = 1_700_000_000_000
SPEC = Spec(
    symbol="ETHUSDT",
    base="ETH",
    quote="USDT",
    price=Decimal(2000),
    trades_per_minute=5,
    trade_value=1000,
    quiet=0.3,
    volatility=0.001,
)
TAPE = [
    (START_MS, "0.00141342", "23.0", True),
    (START_MS + 5, "0.00141342", "54", False),
    (START_MS + 5, "0.00141500", "1", False),
    (START_MS + 3 * HOUR_MS, "0.00141000", "2", True),
]


@pytest.fixture(scope="module")
def market():
    return Market(SPEC, 42, START_MS, 2 * DAY_MS)


@pytest.fixture(scope="module")
def past(market):
    return market.trades(start_ms=0, limit=10**6, now_ms=START_MS)


def test_the_market_has_the_character_that_was_asked_for(market, past):
    assert len(past) == pytest.approx(2 * 24 * 60 * 5, rel=0.05)
    assert [later.id - sooner.id for sooner, later in pairwise(past)] == [1] * (len(past) - 1)
    assert all(sooner.ts_ms <= later.ts_ms for sooner, later in pairwise(past))
    assert past[0].ts_ms >= market.history_start_ms >= START_MS - 2 * DAY_MS - HOUR_MS
    assert market.last == past[-1]
    assert float(market.price(market.last.price_ticks)) == pytest.approx(2000, rel=0.03)
    minutes = {trade.ts_ms // MINUTE_MS for trade in past}
    # Besides the quiet minutes a few stay silent by chance.
    assert 0.65 < len(minutes) / (2 * 24 * 60) < 0.73
    closes = [float(row[4]) for row in market.klines("1m", limit=3000, now_ms=START_MS)]
    moves = [later / sooner - 1 for sooner, later in pairwise(closes)]
    assert 0.0008 < pstdev(moves) < 0.0018
    worth = [float(market.price(t.price_ticks) * market.qty(t.qty_steps)) for t in past]
    assert sum(worth) / len(worth) == pytest.approx(1000, rel=0.1)
    assert 0.4 < sum(trade.buyer_is_maker for trade in past) / len(past) < 0.6


def test_other_seeds_and_symbols_trade_otherwise():
    makers = [(SPEC, 42), (SPEC, 43), (replace(SPEC, symbol="XYZUSDT"), 42), (SPEC, 42)]
    first, *others = [Market(spec, seed, START_MS).advance(START_MS + HOUR_MS) for spec, seed in makers]
    assert [first == other for other in others] == [False, False, True]


def test_history_does_not_change_what_happens():
    short, long = Market(SPEC, 1, START_MS), Market(SPEC, 1, START_MS, 30 * DAY_MS)
    assert short.advance(START_MS + HOUR_MS) == long.advance(START_MS + HOUR_MS)


def test_trades_are_found_by_id_by_time_and_from_the_end(market, past):
    now_ms = START_MS
    assert market.trades(limit=7, now_ms=now_ms) == past[-7:]
    assert market.trades(limit=10**6, now_ms=now_ms) == past
    assert market.trades(from_id=past[400].id, limit=900, now_ms=now_ms) == past[400:1300]
    assert market.trades(from_id=0, limit=3, now_ms=now_ms) == past[:3]
    assert market.trades(from_id=past[-1].id + 1, limit=3, now_ms=now_ms) == []
    start_ms, end_ms = past[100].ts_ms, past[2000].ts_ms
    between = [trade for trade in past if start_ms <= trade.ts_ms <= end_ms]
    assert market.trades(start_ms=start_ms, end_ms=end_ms, limit=5000, now_ms=now_ms) == between
    assert market.trades(start_ms=start_ms, end_ms=end_ms, limit=10, now_ms=now_ms) == between[:10]
    assert market.trades(end_ms=end_ms, limit=10, now_ms=now_ms) == between[-10:]
    assert market.agg_trades(from_id=past[5].id, limit=2, now_ms=now_ms) == past[5:7]
    earlier = past[50].ts_ms
    assert market.trades(limit=1, now_ms=earlier)[0].ts_ms == earlier


def test_the_ticker_counts_exactly_one_day(market, past):
    day = [trade for trade in past if trade.ts_ms > START_MS - DAY_MS]
    before = [trade for trade in past if trade.ts_ms <= START_MS - DAY_MS]
    prices = [market.price(trade.price_ticks) for trade in day]
    volume = sum(market.qty(trade.qty_steps) for trade in day)
    quote = sum(market.price(trade.price_ticks) * market.qty(trade.qty_steps) for trade in day)
    ticker = market.ticker(START_MS)
    assert {name: ticker[name] for name in ("openTime", "closeTime", "firstId", "lastId", "count")} == {
        "openTime": START_MS - DAY_MS,
        "closeTime": START_MS,
        "firstId": day[0].id,
        "lastId": day[-1].id,
        "count": len(day),
    }
    assert {name: ticker[name] for name in ("openPrice", "highPrice", "lowPrice", "lastPrice", "prevClosePrice")} == {
        "openPrice": f"{prices[0]:.8f}",
        "highPrice": f"{max(prices):.8f}",
        "lowPrice": f"{min(prices):.8f}",
        "lastPrice": f"{prices[-1]:.8f}",
        "prevClosePrice": market.price_text(before[-1].price_ticks),
    }
    assert (ticker["volume"], ticker["quoteVolume"]) == (f"{volume:.8f}", f"{quote:.8f}")
    assert ticker["weightedAvgPrice"] == f"{quote / volume:.8f}"
    assert ticker["priceChange"] == f"{prices[-1] - prices[0]:.8f}"
    assert float(ticker["priceChangePercent"]) == pytest.approx(float(prices[-1] / prices[0] - 1) * 100, abs=0.0006)


def test_the_depth_lies_around_the_last_price_and_changes_with_it():
    market = Market(SPEC, 3, START_MS)
    seen = set()
    for _ in range(20):
        last = market.step()
        bids, asks = (list(islice(market.levels(side), 30)) for side in ("bid", "ask"))
        assert all(better[0] > worse[0] for better, worse in pairwise(bids))
        assert all(better[0] < worse[0] for better, worse in pairwise(asks))
        assert bids[0][0] < asks[0][0]
        assert last.price_ticks == (bids if last.buyer_is_maker else asks)[0][0]
        assert min(qty for _, qty in bids + asks) >= 1
        assert list(islice(market.levels("bid"), 30)) == bids
        seen.add(tuple(bids))
    assert len(seen) == 20
    assert sum(1 for _ in market.levels("ask")) == MAX_LEVELS
    # Prices end above zero, however coarse the tick.
    coarse = Market(replace(SPEC, price=Decimal("0.05")), 3, START_MS)
    assert min(ticks for ticks, _ in coarse.levels("bid")) > 0


def test_a_silent_bar_is_absent_or_flat():
    spec = Spec.of_trades("XRPETH", "XRP", "ETH", TAPE)
    now_ms = START_MS + 3 * HOUR_MS + 1
    skip, flat = (Replay(spec, TAPE, quiet_bars=quiet).klines("1h", now_ms=now_ms) for quiet in ("skip", "flat"))
    assert [row[0] for row in skip] == [START_MS // HOUR_MS * HOUR_MS, (START_MS + 3 * HOUR_MS) // HOUR_MS * HOUR_MS]
    assert [row for row in flat if row[8]] == skip
    assert flat[1] == [
        flat[0][0] + HOUR_MS,
        *["0.00141500"] * 4,
        "0.00000000",
        flat[0][0] + 2 * HOUR_MS - 1,
        "0.00000000",
        0,
        "0.00000000",
        "0.00000000",
        "0",
    ]


@pytest.mark.parametrize("interval", ["1s", "1m", "1h", "1d", "1M"])
def test_a_bar_counts_a_trade_from_its_very_millisecond(interval):
    replay = Replay(Spec.of_trades("XRPETH", "XRP", "ETH", TAPE), TAPE)
    counts = [replay.klines(interval, now_ms=now_ms)[-1][8] for now_ms in (START_MS, START_MS + 4, START_MS + 5)]
    assert counts == [1, 1, 3]


def test_a_replay_keeps_what_was_recorded_and_ends():
    spec = Spec.of_trades("XRPETH", "XRP", "ETH", TAPE, max_orders=7)
    assert (spec.tick_size, spec.step_size, spec.max_orders) == (Decimal("0.00000001"), Decimal(1), 7)
    replay = Replay(spec, TAPE, first_id=500)
    assert (replay.last.id, replay.price_text(replay.last.price_ticks)) == (500, "0.00141342")
    assert replay.next_ms() == START_MS + 5
    assert [(trade.id, trade.ts_ms, trade.qty_steps) for trade in replay.advance(START_MS + HOUR_MS)] == [
        (501, START_MS + 5, 54),
        (502, START_MS + 5, 1),
    ]
    assert replay.next_ms() == START_MS + 3 * HOUR_MS
    assert len(replay.advance(START_MS + DAY_MS)) == 1
    assert replay.next_ms() is None
    assert replay.trades(from_id=502, now_ms=START_MS + DAY_MS)[0].id == 502
    assert replay.trades(from_id=504, now_ms=START_MS + DAY_MS) == []
    # Begun before its first trade there is no price yet, and the book is empty.
    unborn = Replay(spec, TAPE, start_ms=START_MS - 1)
    assert (unborn.last, list(unborn.levels("bid")), unborn.klines("1m", now_ms=START_MS - 1)) == (None, [], [])
    assert unborn.ticker(START_MS - 1)["lastPrice"] == "0.00000000"


def test_a_recording_that_does_not_fit_is_refused():
    spec = Spec.of_trades("XRPETH", "XRP", "ETH", TAPE)
    with pytest.raises(ValueError, match=r"price 0\.001413425 is no positive multiple of 1E-8"):
        Replay(spec, [(START_MS, "0.001413425", "1", True)])
    with pytest.raises(ValueError, match=r"quantity 0\.5 is no positive multiple of 1"):
        Replay(spec, [(START_MS, "0.00141342", "0.5", True)])
    with pytest.raises(ValueError, match="sort the trades by time"):
        Replay(spec, TAPE[::-1])
    with pytest.raises(ValueError, match="there are no trades"):
        Replay(spec, [])
    with pytest.raises(ValueError, match="there are no trades"):
        Spec.of_trades("XRPETH", "XRP", "ETH", [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"tick_size": Decimal("0.000000001")},
        {"step_size": Decimal(0)},
        {"price": Decimal("0.001")},
        {"trades_per_minute": 0},
        {"quiet": 1},
    ],
)
def test_a_spec_that_makes_no_market_is_refused(wrong):
    with pytest.raises(ValueError, match=f"ETHUSDT: {next(iter(wrong))}"):
        replace(SPEC, **wrong)


def test_an_unknown_interval_is_refused(market):
    with pytest.raises(KeyError):
        market.klines("7m", now_ms=START_MS)


def test_the_manual_clock_wakes_its_sleepers_in_time():
    async def sleepers():
        clock = ManualClock(1000)
        woken = []

        async def sleep(ms):
            await clock.sleep(ms)
            woken.append((ms, clock.now_ms()))

        tasks = [asyncio.create_task(sleep(ms)) for ms in (0, 10, 20)]
        await asyncio.sleep(0)
        clock.advance(9)
        await asyncio.sleep(0)
        clock.advance(1)
        await asyncio.sleep(0)
        clock.set_ms(5000)
        await asyncio.gather(*tasks)
        with pytest.raises(ValueError, match="cannot set the clock back from 5000 to 4999"):
            clock.set_ms(4999)
        return woken

    assert asyncio.run(sleepers()) == [(0, 1000), (10, 1010), (20, 5000)]


def test_the_clock_runs_as_fast_as_it_is_told():
    async def nap():
        clock = SimClock(START_MS, speed=1000)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await clock.sleep(20_000)
        return clock.now_ms() - START_MS, loop.time() - begin

    virtual_ms, real_s = asyncio.run(nap())
    assert virtual_ms >= 20_000
    assert 0.015 < real_s < 10
    with pytest.raises(ValueError, match="speed is 0"):
        SimClock(START_MS, speed=0)
