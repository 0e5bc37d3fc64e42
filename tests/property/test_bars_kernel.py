"""The compiled bar kernel against the plain reference, hostile inputs included."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import assume, example, given, note, settings
from hypothesis import strategies as st

from ccxtbt import _bars
from ccxtbt.errors import DataError
from reference import bars as plain

FRAMES = ["1s", "15s", "1m", "7m", "1h", "1d", "3d", "1w", "2w", "1M", "3M", "1y"]
# Each pair nests: bars of the first add up to bars of the second.
NESTED = [
    ("1s", "1m"), ("1m", "5m"), ("1m", "1h"), ("90m", "1d"), ("1h", "1d"), ("4h", "1w"), ("1d", "1w"), ("1d", "1M"),
    ("1w", "2w"), ("1d", "3M"), ("12h", "1y"), ("1M", "3M"), ("1M", "1y"), ("3M", "1y"), ("7m", "7m"),
]  # fmt: skip
START_MS = 1_700_000_000_000
# In our days, long before, at the epoch and at the end of a February.
starts = st.sampled_from([START_MS, -START_MS, 0, 86_400_000 * 59])

# Few different values, so that repeats agree as often as they differ.
values = st.sampled_from([0.0, -0.0, 1.0, 1.5, 2.0, 1e300, -3.25, 0.1, math.nan, math.inf])


@st.composite
def opens(draw: st.DrawFn, timeframe: str, around_ms: int, max_size: int = 40) -> list[int]:
    """Draw open times near each other: on the grid mostly, with gaps, repeats, stray ones, in any order."""
    frame = plain.Frame(timeframe)
    start_ms = frame.floor(around_ms)
    length = frame.length or frame.months * 30 * plain.UNIT_MS["d"]
    out = []
    for place in draw(st.lists(st.integers(0, 60), max_size=max_size)):
        ts_ms = frame.floor(start_ms + place * length + length // 2)
        stray = draw(st.sampled_from([0, 0, 0, 0, 0, 1, -1, length // 3, -length // 2]))
        out.append(ts_ms + stray)
    order = draw(st.sampled_from(["sorted", "reversed", "as drawn"]))
    if order == "sorted":
        out.sort()
    elif order == "reversed":
        out.sort(reverse=True)
    return out


@st.composite
def some_bars(draw: st.DrawFn, timeframe: str, around_ms: int = START_MS, max_size: int = 40) -> list[plain.Bar]:
    bars = []
    for ts_ms in draw(opens(timeframe, around_ms, max_size)):
        prices = draw(st.tuples(values, values, values, values, values))
        bars.append((ts_ms, *prices, draw(st.integers(0, 3))))
    return bars


@st.composite
def overlapping(draw: st.DrawFn, timeframe: str) -> list[list[plain.Bar]]:
    """Draw pages as exchanges give them: sorted, of one history, with overlaps, holes and repeats."""
    frame = plain.Frame(timeframe)
    ts_ms = frame.floor(START_MS)
    history: list[plain.Bar] = []
    for i in range(draw(st.integers(0, 150))):
        history.append((ts_ms, float(i), i + 2.0, i - 1.0, i + 1.0, 10.0, 0))
        ts_ms = frame.close(ts_ms)
    pages = []
    for _ in range(draw(st.integers(1, 5))):
        first = draw(st.integers(0, len(history)))
        page = history[first : draw(st.integers(first, len(history)))]
        for place in draw(st.lists(st.integers(0, 150), max_size=6)):
            if place < len(page):
                what = draw(st.sampled_from(["drop", "repeat", "correct", "correct the repeat"]))
                bar = (*page[place][:5], 11.0, page[place][6])
                page[place : place + 1] = {
                    "drop": [], "repeat": [page[place]] * 2, "correct": [bar], "correct the repeat": [page[place], bar],
                }[what]  # fmt: skip
        if draw(st.booleans()):
            page.reverse()
        pages.append(page)
    return pages


def check_same_bars(got: tuple, expected: list[plain.Bar]) -> None:
    names = ("ts_ms", "ohlcv", "origin")
    for name, array, wanted in zip(names, got, plain.to_columns(expected), strict=False):
        assert array.dtype == wanted.dtype, name
        assert array.flags.c_contiguous, name
        np.testing.assert_array_equal(array, wanted, err_msg=name)


def check_merge(sources: list[list[plain.Bar]], **arguments) -> None:
    try:
        bars, corrected, repeats = plain.merge(sources, **arguments)
    except plain.GapRefusedError as gap:
        with pytest.raises(DataError, match=f" {gap.args[2]} bars? "):
            _bars.merge([plain.to_columns(source) for source in sources], **arguments)
        return
    merged = _bars.merge([plain.to_columns(source) for source in sources], **arguments)
    check_same_bars(merged, bars)
    assert merged.corrected_ms.tolist() == corrected
    assert merged.repeats == repeats


@st.composite
def merges(draw: st.DrawFn) -> tuple[list[list[plain.Bar]], dict]:
    timeframe = draw(st.sampled_from(FRAMES))
    around_ms = draw(starts)
    sources = draw(st.one_of(st.lists(some_bars(timeframe, around_ms), max_size=4), overlapping(timeframe)))
    times = [bar[0] for source in sources for bar in source] or [around_ms]
    frame = plain.Frame(timeframe)
    length = frame.length or 30 * plain.UNIT_MS["d"]
    anywhere = st.integers(min(times) - 2 * length, max(times) + 4 * length)
    near = st.builds(lambda open_ms, off: frame.close(open_ms) + off, st.sampled_from(times), st.integers(-1, 1))
    return sources, {
        "timeframe": timeframe,
        "keep": draw(st.sampled_from(["first", "last"])),
        "gaps": draw(st.sampled_from(["none", "flat", "raise"])),
        "now_ms": draw(st.none() | near | anywhere),
        "until_ms": draw(st.none() | near | anywhere),
    }


@given(merges())
def test_merge(case: tuple[list[list[plain.Bar]], dict]) -> None:
    sources, arguments = case
    note(arguments)
    check_merge(sources, **arguments)


@given(st.data(), st.sampled_from(["first", "last"]))
def test_merge_without_a_timeframe(data: st.DataObject, keep: str) -> None:
    check_merge(data.draw(st.lists(some_bars("1m", max_size=12), max_size=6)), keep=keep)


@given(st.lists(st.lists(st.integers(0, 12), max_size=10), max_size=8), st.sampled_from(["first", "last"]))
def test_merge_of_crowded_runs(times: list[list[int]], keep: str) -> None:
    """Many runs at few times: every tie of the heap, and the pairs that a third run must not disturb."""
    sources = [[(60_000 * t, float(i), j, 0.0, 0.0, 0.0, 1) for j, t in enumerate(ts)] for i, ts in enumerate(times)]
    for gaps in ("none", "flat"):
        check_merge(sources, timeframe="1m", keep=keep, gaps=gaps)


@pytest.mark.parametrize("keep", ["first", "last"])
def test_every_merge_of_four_small_runs(keep: str) -> None:
    pages = [
        [[(60_000 * t, float(run), 0.0, 0.0, 0.0, 0.0, 1) for t in times] for times in ts_sets]
        for run, ts_sets in enumerate([[(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]] * 4)
    ]
    columns = {id(page): plain.to_columns(page) for run in pages for page in run}
    for sources in product(*pages):
        merged = _bars.merge([columns[id(page)] for page in sources], keep=keep)
        bars, corrected, repeats = plain.merge(sources, keep=keep)
        assert merged.ts_ms.tolist() == [bar[0] for bar in bars]
        assert merged.ohlcv[0].tolist() == [bar[1] for bar in bars]
        assert (merged.corrected_ms.tolist(), merged.repeats) == (corrected, repeats)


@given(st.integers(0, 700), st.integers(0, 700), st.integers(1, 90), st.sampled_from(["first", "last"]))
def test_merge_of_long_stretches(first: int, second: int, step: int, keep: str) -> None:
    """Stretches on both sides of every size at which the copy changes its way, with gaps of 1 to 6 bars."""
    history = [(60_000 * i, float(i), i + 0.5, -i, i + 0.25, 1.0, 0) for i in range(700) if i % step or i % 7 == 0]
    late = [bar for bar in history if bar[0] >= 60_000 * second]
    check_merge([history[:first], late], timeframe="1m", keep=keep, gaps="flat")
    check_merge([late + history[:first]], timeframe="1m", keep=keep, gaps="flat")


@given(st.data())
def test_slices_are_read_where_they_lie(data: st.DataObject) -> None:
    bars = data.draw(some_bars("1m"))
    ts_ms, ohlcv, origin = plain.to_columns(bars)
    start = data.draw(st.integers(0, len(bars)))
    end = data.draw(st.integers(start, len(bars)))
    merged = _bars.merge([(ts_ms[start:end], ohlcv[:, start:end], origin[start:end])])
    check_same_bars(merged, plain.merge([bars[start:end]])[0])


@given(st.data(), st.sampled_from(FRAMES))
def test_drop_forming(data: st.DataObject, timeframe: str) -> None:
    bars = data.draw(some_bars(timeframe, data.draw(starts)))
    closes = st.sampled_from([plain.Frame(timeframe).close(bar[0]) for bar in bars] or [0])
    now_ms = data.draw(closes) + data.draw(st.integers(-1, 1))
    ts_ms, ohlcv, _ = plain.to_columns(bars)
    check_same_bars(_bars.drop_forming(ts_ms, ohlcv, timeframe, now_ms), plain.drop_forming(bars, timeframe, now_ms))


@given(st.data(), st.sampled_from(FRAMES))
def test_find_gaps(data: st.DataObject, timeframe: str) -> None:
    times = sorted(set(data.draw(opens(timeframe, data.draw(starts)))))
    found = _bars.find_gaps(np.array(times, np.int64), timeframe)
    assert found.shape[1] == 3
    assert found.tolist() == [list(gap) for gap in plain.find_gaps(times, timeframe)]


@given(st.data(), st.sampled_from(NESTED))
def test_resample(data: st.DataObject, pair: tuple[str, str]) -> None:
    timeframe, to = pair
    bars = {bar[0]: bar for bar in data.draw(some_bars(timeframe, data.draw(starts), 80))}
    ordered = [bars[ts_ms] for ts_ms in sorted(bars)]
    made = _bars.resample(*plain.to_columns(ordered)[:2], timeframe, to, plain.to_columns(ordered)[2])
    expected, counts, complete = plain.resample(ordered, timeframe, to)
    check_same_bars(made, expected)
    assert made.counts.tolist() == counts
    assert made.complete.tolist() == complete


@st.composite
def some_trades(draw: st.DrawFn, timeframe: str) -> list[plain.Trade]:
    """Draw trades that mostly go forward, some late, some worthless."""
    length = plain.Frame(timeframe).length or 30 * plain.UNIT_MS["d"]
    ts_ms = draw(st.sampled_from([START_MS, -START_MS, 0]))
    trades = []
    for _ in range(draw(st.integers(0, 40))):
        ts_ms += draw(st.sampled_from([0, 0, 1, length // 4, length, 3 * length, -length // 3, -length]))
        price = draw(st.sampled_from([1.0, 1.5, 2.0, 0.1, -4.0, 0.0, math.nan, math.inf, -math.inf]))
        strange = draw(st.sampled_from([None] * 12 + [2**53 + 1, -(2**62), 2**63 - 1, -(2**63)]))
        amount = draw(st.sampled_from([0.1, 0.2, 5.0, 0.0, math.nan]))
        trades.append((ts_ms if strange is None else strange, price, amount))
    return trades


def trade_arrays(trades: list[plain.Trade]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    columns = list(zip(*trades, strict=True)) or [(), (), ()]
    return np.array(columns[0], np.int64), np.array(columns[1], np.float64), np.array(columns[2], np.float64)


def trade_dicts(trades: list[plain.Trade]) -> list[dict]:
    return [{"timestamp": t, "price": p, "amount": a, "side": "buy"} for t, p, a in trades]


@given(st.data(), st.sampled_from(FRAMES))
def test_trade_bars_however_they_are_fed(data: st.DataObject, timeframe: str) -> None:
    """The same bars whatever the calls: one trade at a time, in lots as arrays, in lots as dicts."""
    trades = data.draw(some_trades(timeframe))
    since_ms = data.draw(st.none() | st.sampled_from([t for t, *_ in trades if abs(t) < 2**50] or [0]))
    expected, late, skipped = plain.bars_from_trades(trades, timeframe, since_ms)
    builder = _bars.TradeBars(timeframe, since_ms)
    got: list[tuple] = []
    while trades:
        size = data.draw(st.integers(1, len(trades)))
        lot, trades = trades[:size], trades[size:]
        way = data.draw(st.sampled_from(["arrays", "dicts", "one by one"]))
        if way == "one by one":
            got += [bar for bar in (builder.add(*trade) for trade in lot) if bar is not None]
            continue
        ts_ms, ohlcv = builder.feed(*trade_arrays(lot)) if way == "arrays" else builder.feed_dicts(trade_dicts(lot))
        got += [(t, *row) for t, row in zip(ts_ms.tolist(), ohlcv.T.tolist(), strict=True)]
    assert (builder.forming(),) == ((*expected[-1][:6],) if expected else None,)
    assert got == [bar[:6] for bar in expected[:-1]]
    assert (builder.late, builder.skipped) == (late, skipped)


@given(st.data(), st.sampled_from(FRAMES))
def test_bars_from_trades(data: st.DataObject, timeframe: str) -> None:
    trades = data.draw(some_trades(timeframe))
    expected, late, _ = plain.bars_from_trades(trades, timeframe)
    calls = [
        lambda: _bars.bars_from_trades(*trade_arrays(trades), timeframe),
        lambda: _bars.bars_from_trade_dicts(trade_dicts(trades), timeframe),
    ]
    for call in calls:
        if late:
            with pytest.raises(DataError, match=f"^{late} trades"):
                call()
        else:
            check_same_bars(call(), expected)


@given(st.data(), st.sampled_from(FRAMES), st.sampled_from([-(10**9), -1, 0, 1, 10**10]))
def test_closing_by_the_clock(data: st.DataObject, timeframe: str, past_ms: int) -> None:
    """The clock closes a bar exactly at its end, and what comes for it afterwards is late."""
    trades = data.draw(some_trades(timeframe))
    builder = _bars.TradeBars(timeframe)
    builder.feed(*trade_arrays(trades))
    forming = builder.forming()
    assume(forming is not None)
    now_ms = plain.Frame(timeframe).next(forming[0]) + past_ms
    is_over = past_ms >= 0
    closed = builder.close_until(now_ms)
    check_same_bars(closed, [(*forming, 2)] if is_over else [])
    late = builder.late
    assert builder.add(forming[0], 1.0, 1.0) is None
    assert builder.late == late + is_over
    assert (builder.forming() is None) == is_over


@given(st.data(), st.integers(1, 7))
def test_tick_bars(data: st.DataObject, trades_per_bar: int) -> None:
    trades = data.draw(some_trades("1m"))
    expected, ends, left = plain.tick_bars(trades, trades_per_bar)
    cut = data.draw(st.integers(0, len(trades)))
    builder = _bars.TickBars(trades_per_bar)
    ts_ms, ohlcv, end_ms = builder.feed(*trade_arrays(trades[:cut]))
    got = [(t, *row, end) for t, row, end in zip(ts_ms.tolist(), ohlcv.T.tolist(), end_ms.tolist(), strict=True)]
    got += [bar for bar in (builder.add(*trade) for trade in trades[cut:]) if bar is not None]
    assert got == [(*bar[:6], end) for bar, end in zip(expected, ends, strict=True)]
    assert (builder.forming() is None) == (left == 0)
    assert builder.skipped == sum(not plain.usable(trade) for trade in trades)


# Any 64-bit numbers whatever: nothing may crash, hang or fill the memory, and what is refused is refused by name.

# Without single months: 285,000 years of them are counted one by one.
sparse_frames = st.sampled_from([text for text in FRAMES if text != "1M"])
any_time = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 2**53, -(2**53), 2**53 + 1, -(2**53) - 1, 2**63 - 1])


# Filling is left to the examples: what is allowed may take gigabytes.
@given(
    st.lists(st.lists(any_time, max_size=8), max_size=3),
    sparse_frames,
    st.sampled_from(["none", "raise"]),
    st.none() | st.integers(-(2**53), 2**53),
)
@settings(deadline=None)
@example([[2**53, -(2**53)]], "1y", "flat", None)
@example([[2**53, -(2**53)]], "1m", "flat", None)
@example([[0, 2**53 - 1], [2**53]], "1s", "flat", 2**53)
@example([[2**63 - 1] * 3, [-(2**63)]], "1s", "flat", 2**53)
@example([[0, 2**63 - 1, 60_000]], "1m", "flat", None)
def test_merge_of_any_times(times: list[list[int]], timeframe: str, gaps: str, now_ms: int | None) -> None:
    sources = [(np.array(ts, np.int64), np.ones((5, len(ts)))) for ts in times]
    wild = any(abs(t) > 2**53 for ts in times for t in ts)
    try:
        merged = _bars.merge(sources, timeframe, gaps=gaps, now_ms=now_ms)
    except DataError:
        assert wild or gaps != "none"
    else:
        assert not wild
        assert (np.diff(merged.ts_ms) > 0).all()


@settings(deadline=None)
@given(st.lists(any_time, max_size=20), sparse_frames, st.integers(-(2**53), 2**53))
def test_other_functions_at_any_times(times: list[int], timeframe: str, now_ms: int) -> None:
    ts_ms = np.array(times, np.int64)
    ohlcv = np.ones((5, len(times)))
    fine = timeframe if timeframe[-1] in "My" else "1s"
    wild = any(abs(t) > 2**53 for t in times)
    falling = any(a >= b for a, b in pairwise(times))
    calls = {
        "drop_forming": (lambda: _bars.drop_forming(ts_ms, ohlcv, timeframe, now_ms), wild),
        "find_gaps": (lambda: _bars.find_gaps(ts_ms, timeframe), wild or falling),
        "resample": (lambda: _bars.resample(ts_ms, ohlcv, fine, timeframe), wild or falling),
    }
    for name, (call, refused) in calls.items():
        note(name)
        if refused:
            with pytest.raises(DataError):
                call()
        else:
            call()


@given(st.lists(any_time, max_size=20), sparse_frames)
def test_trades_at_any_times(times: list[int], timeframe: str) -> None:
    ts_ms = np.array(times, np.int64)
    ones = np.ones(len(times))
    builder = _bars.TradeBars(timeframe)
    builder.feed(ts_ms, ones, ones)
    # Nobody minds a time just past the limit in a bar that lies across it.
    certain = sum(abs(t) > 2**53 + 366 * 86_400_000 for t in times)
    assert certain <= builder.skipped <= sum(abs(t) > 2**53 for t in times)
    _bars.TickBars(3).feed(ts_ms, ones, ones)
