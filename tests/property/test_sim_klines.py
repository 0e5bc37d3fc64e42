"""The judge judged: its bars against a slower, plainer reference, and its trades whatever the calls."""

import csv
import gzip
import itertools
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from ccxtbt.sim.clock import ManualClock
from ccxtbt.sim.kline import INTERVALS, aggregate, aggregate_columns, end_of, open_of
from ccxtbt.sim.market import Market, Replay, Trade
from ccxtbt.sim.matching import Exchange, KlineEvent
from ccxtbt.sim.spec import Spec
from recording import recorded
from reference import klines as reference

HOUR_MS = 3_600_000
START_MS = 1_709_251_190_123  # 29 February 2024, shortly before midnight
SPEC = Spec(
    symbol="ADAUSDT",
    base="ADA",
    quote="USDT",
    price=Decimal("0.5"),
    tick_size=Decimal("0.0001"),
    step_size=Decimal("0.1"),
    min_price=Decimal("0.0001"),
    trades_per_minute=2,
    quiet=0.4,
)
SHORT = [interval for interval, length_ms in INTERVALS.items() if 0 < length_ms <= HOUR_MS]

tapes = st.lists(
    st.tuples(st.integers(0, 5_000_000), st.integers(1, 50), st.integers(1, 10**6), st.booleans()),
    max_size=60,
).map(lambda rows: [(7 + i, START_MS + at, *rest) for i, (at, *rest) in enumerate(sorted(rows))])


def fields(bar):
    return {name: getattr(bar, name) for name in bar.__slots__ if name != "open_ms"}


@settings(deadline=None)
@given(interval=st.sampled_from(list(INTERVALS)), ts_ms=st.integers(0, 4_000_000_000_000))
def test_bars_begin_and_end_by_the_calendar(interval, ts_ms):
    open_ms = open_of(interval, ts_ms)
    assert (open_ms, end_of(interval, open_ms)) == reference.bounds(interval, ts_ms)


@settings(deadline=None)
@given(interval=st.sampled_from(list(INTERVALS)), tape=tapes)
def test_bars_equal_the_plain_reference(interval, tape):
    bars = aggregate(interval, [Trade(*row) for row in tape])
    assert {bar.open_ms: fields(bar) for bar in bars} == reference.bars(interval, tape)


@settings(deadline=None)
@given(interval=st.sampled_from(SHORT), tape=tapes)
def test_bars_from_columns_equal_the_plain_reference(interval, tape):
    _, ts_ms, prices, qtys, makers = map(list, zip(*tape, strict=True)) if tape else ([], [], [], [], [])
    bars = aggregate_columns(INTERVALS[interval], 7, ts_ms, prices, qtys, bytes(makers))
    assert {bar.open_ms: fields(bar) for bar in bars} == reference.bars(interval, tape)


@settings(deadline=None)
@given(tape=tapes, cut=st.integers(0, 60))
def test_merging_bars_is_counting_on(tape, cut):
    whole = aggregate("1M", [Trade(*row) for row in tape if row[1] < 1_709_251_200_000])
    parts = aggregate("1M", [Trade(*row) for row in tape[:cut] if row[1] < 1_709_251_200_000])
    later = aggregate("1M", [Trade(*row) for row in tape[cut:] if row[1] < 1_709_251_200_000])
    if parts and later:
        parts[0].merge(later[0])
        assert fields(parts[0]) == fields(whole[0])


@settings(deadline=None)
@given(seed=st.integers(-(2**70), 2**70), steps=st.lists(st.integers(0, HOUR_MS), max_size=12), look=st.data())
def test_the_same_seed_gives_the_same_trades_whatever_the_calls(seed, steps, look):
    patient, restless = (Market(SPEC, seed, START_MS, HOUR_MS) for _ in range(2))
    now_ms = START_MS
    seen = []
    for step_ms in steps:
        now_ms += step_ms
        restless.klines(look.draw(st.sampled_from(list(INTERVALS))), limit=3, now_ms=now_ms)
        restless.trades(start_ms=START_MS - look.draw(st.integers(0, HOUR_MS)), limit=5, now_ms=now_ms)
        seen += restless.advance(now_ms)
    assert seen == patient.advance(now_ms)
    assert seen == patient.trades(start_ms=START_MS + 1, limit=10**6, now_ms=now_ms)
    assert [trade.id for trade in seen] == list(range(seen[0].id, seen[0].id + len(seen))) if seen else True
    assert all(START_MS < trade.ts_ms <= now_ms for trade in seen)


@settings(deadline=None)
@given(
    seed=st.integers(0, 100),
    interval=st.sampled_from(list(INTERVALS)),
    ahead_ms=st.integers(0, 5 * HOUR_MS),
    quiet_bars=st.sampled_from(["skip", "flat"]),
    limit=st.integers(1, 1000),
    page=st.data(),
)
def test_klines_equal_the_plain_reference_at_any_time_and_page(seed, interval, ahead_ms, quiet_bars, limit, page):
    market = Market(SPEC, seed, START_MS, 2 * HOUR_MS, quiet_bars)
    now_ms = START_MS + ahead_ms
    trades = market.trades(start_ms=0, limit=10**6, now_ms=now_ms)
    tape = [(t.id, t.ts_ms, t.price_ticks, t.qty_steps, t.buyer_is_maker) for t in trades]
    expected = reference.bars(interval, tape)
    if quiet_bars == "flat":
        expected = reference.with_flat_bars(interval, expected, now_ms)
    expected = {open_ms: row_of(open_ms, bar) for open_ms, bar in expected.items()}

    # A market asked at an earlier time must not remember the bars as they were then.
    market.klines(interval, now_ms=START_MS)
    start_ms = page.draw(st.none() | st.integers(START_MS - 3 * HOUR_MS, now_ms), "start")
    end_ms = page.draw(st.none() | st.integers(START_MS - 3 * HOUR_MS, now_ms + HOUR_MS), "end")
    rows = [
        row
        for open_ms, row in sorted(expected.items())
        if (start_ms is None or open_ms >= start_ms) and (end_ms is None or open_ms <= end_ms)
    ]
    rows = rows[-limit:] if start_ms is None else rows[:limit]
    assert market.klines(interval, start_ms, end_ms, limit, now_ms=now_ms) == rows
    assert market.klines(interval, start_ms, end_ms, limit, now_ms=now_ms) == rows


@settings(deadline=None)
@given(
    seed=st.integers(0, 100),
    interval=st.sampled_from(["1s", "1m", "3m", "1h"]),
    quiet_bars=st.sampled_from(["skip", "flat"]),
    steps=st.lists(st.integers(1, 400_000), min_size=1, max_size=20),
)
def test_each_bar_closes_exactly_once_with_its_final_row(seed, interval, quiet_bars, steps):
    market = Market(SPEC, seed, START_MS, HOUR_MS, quiet_bars)
    clock = ManualClock(START_MS)
    exchange = Exchange({"ADAUSDT": market}, clock)
    exchange.watch("ADAUSDT", interval)
    frames = []
    for step_ms in steps:
        clock.advance(step_ms)
        frames += exchange.advance(clock.now_ms())
    assert all(isinstance(frame, KlineEvent) for frame in frames)
    now_ms = clock.now_ms()
    closed = [frame.row for frame in frames if frame.closed]
    rows = market.klines(interval, open_of(interval, START_MS), None, 10**6, now_ms=now_ms)
    assert closed == [row for row in rows if row[6] < now_ms]
    times = [frame.ts_ms for frame in frames]
    assert times == sorted(times)
    forming = [frame.ts_ms for frame in frames if not frame.closed]
    push_ms = 1000 if interval == "1s" else 2000
    assert all(later - sooner >= push_ms for sooner, later in itertools.pairwise(forming))


def row_of(open_ms, bar):
    price = {name: f"{bar[name] * SPEC.tick_size:.8f}" for name in ("open", "high", "low", "close")}
    qty = {name: f"{bar[name] * SPEC.step_size:.8f}" for name in ("volume", "taker_volume")}
    quote = {name: f"{bar[name] * SPEC.tick_size * SPEC.step_size:.8f}" for name in ("quote", "taker_quote")}
    return [
        open_ms,
        *price.values(),
        qty["volume"],
        bar["end_ms"] - 1,
        quote["quote"],
        bar["n_trades"],
        qty["taker_volume"],
        quote["taker_quote"],
        "0",
    ]


def read(name):
    with gzip.open(recorded(f"captures/{name}.csv.gz"), "rt") as file:
        yield from csv.DictReader(file)


def test_recorded_trades_give_exactly_the_recorded_bars():
    trades = [
        (int(row["timestamp"]), row["price"], row["amount"], row["side"] == "sell") for row in read("xrp_eth_trades")
    ]
    bars = list(read("xrp_eth_1m"))
    market = Replay(Spec.of_trades("XRPETH", "XRP", "ETH", trades), trades)
    now_ms = trades[-1][0] + 60_000
    rows = market.klines("1m", limit=10**6, now_ms=now_ms)
    assert len(rows) == len(bars) == 2469
    numbers = [[int(row[0]), *map(Decimal, row[1:6])] for row in rows]
    names = ("open", "high", "low", "close", "volume")
    assert numbers == [[int(bar["ts_ms"]), *(Decimal(bar[name]) for name in names)] for bar in bars]
    replayed = market.advance(now_ms)
    assert len(replayed) == sum(at > trades[0][0] for at, *_ in trades)
    assert [(t.ts_ms, market.price(t.price_ticks), market.qty(t.qty_steps), t.buyer_is_maker) for t in replayed] == [
        (at, Decimal(price), Decimal(qty), maker) for at, price, qty, maker in trades if at > trades[0][0]
    ]
