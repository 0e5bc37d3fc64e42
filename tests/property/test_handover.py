"""Whatever frames are lost, doubled, late or reordered: each bar comes once, in order, with its final values."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ccxtbt.market.handover import Bar, Handover, Origin
from ccxtbt.market.timeframes import parse

MINUTE = parse("1m")
STEP_MS = 60_000
START_MS = 1_700_000_040_000 // STEP_MS * STEP_MS


def final_bar(ts_ms: int) -> Bar:
    """The bar that the exchange holds for `ts_ms` once it is over."""
    seed = float(ts_ms // STEP_MS % 97)
    return Bar(ts_ms, seed, seed + 2, seed - 1, seed + 1, 10 * seed, Origin.WS)


def columns(bars: list[Bar]):
    ts_ms = np.array([bar.ts_ms for bar in bars], np.int64)
    ohlcv = np.array([bar[1:6] for bar in bars], np.float64).reshape(-1, 5).T.copy()
    return ts_ms, ohlcv


def values(bars: list[Bar]):
    return [bar[:6] for bar in bars]


@st.composite
def markets(draw):
    """Bars that exist (quiet minutes are missing), how many of them are history, and the frames that arrive."""
    exists = draw(st.lists(st.booleans(), min_size=2, max_size=25))
    bars = [final_bar(START_MS + i * STEP_MS) for i, there in enumerate(exists) if there]
    split = draw(st.integers(0, len(exists) - 1))
    frames = []
    for bar in bars:
        if bar.ts_ms < START_MS + split * STEP_MS:
            continue
        forming = bar._replace(close=bar.open, volume=1.0)
        frames += [(forming, False)] * draw(st.integers(0, 2))
        frames += [(bar, True)] * draw(st.integers(0, 2))
    swaps = draw(st.lists(st.integers(0, max(0, len(frames) - 2)), max_size=6)) if len(frames) > 1 else []
    for i in swaps:
        frames[i], frames[i + 1] = frames[i + 1], frames[i]
    return bars, START_MS + split * STEP_MS, START_MS + len(exists) * STEP_MS, frames


def rest(bars: list[Bar], handover: Handover) -> list[Bar]:
    """Answer what the hand-over asks, truly, until it asks nothing more."""
    released = handover.release()
    while (span := handover.missing()) is not None:
        asked = [bar for bar in bars if span.start_ms <= bar.ts_ms < span.end_ms]
        handover.rest(span, *columns(asked))
        released += handover.release()
        assert handover.missing() != span
    return released


@given(markets())
def test_every_bar_once_in_order_with_final_values(market):
    bars, live_ms, end_ms, frames = market
    history = [bar for bar in bars if bar.ts_ms < live_ms]
    handover = Handover(MINUTE)
    delivered = list(history)
    handover.history(columns(history)[0], live_ms)
    for bar, closed in frames:
        handover.frame(bar, closed)
        delivered += rest(bars, handover)
    span = handover.overdue(end_ms + 10_000, 2_000)
    if span is not None:
        handover.rest(span, *columns([bar for bar in bars if span.start_ms <= bar.ts_ms < span.end_ms]))
        delivered += rest(bars, handover)
    seen = max([bar.ts_ms for bar, _ in frames], default=live_ms - STEP_MS)
    assert values(delivered) == values([bar for bar in bars if bar.ts_ms <= max(seen, live_ms - STEP_MS)])
    assert not handover.corrections


@given(markets())
def test_frames_before_the_history_are_merged_with_it(market):
    bars, live_ms, _, frames = market
    history = [bar for bar in bars if bar.ts_ms < live_ms]
    handover = Handover(MINUTE)
    for bar, closed in frames:
        handover.frame(bar, closed)
    handover.history(columns(history)[0], live_ms)
    delivered = history + rest(bars, handover)
    stamps = [bar.ts_ms for bar in delivered]
    assert stamps == sorted(set(stamps))
    # A closed frame gives its own bar; a forming one proves that those before it are over.
    proved = [bar.ts_ms if closed else bar.ts_ms - STEP_MS for bar, closed in frames]
    assert values(delivered) == values([bar for bar in bars if bar.ts_ms <= max([live_ms - STEP_MS, *proved])])


def test_a_different_bar_after_the_closed_one_is_a_correction_and_not_a_second_bar():
    handover = Handover(MINUTE)
    handover.history(columns([])[0], START_MS)
    kept = final_bar(START_MS)
    came = kept._replace(close=99.0)
    handover.frame(kept, closed=True)
    assert handover.release() == [kept]
    handover.frame(came, closed=True)
    assert handover.release() == []
    assert handover.corrections == [(kept, came)]
