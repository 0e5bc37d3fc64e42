"""Whatever frames are lost, doubled, late or reordered, and however REST lags: each bar once, in order, as it was."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccxtbt.market.handover import QUIET_MS, Answer, Bar, Handover, Origin
from ccxtbt.market.timeframes import parse

MINUTE = parse("1m")
STEP_MS = 60_000
START_MS = 1_700_000_040_000 // STEP_MS * STEP_MS
# How often the machine that drives the hand-over looks at the clock.
TICK_MS = 250


# How far back each answer of REST looks, in turn.
lagging = st.lists(st.one_of(st.integers(0, QUIET_MS - 100), st.just(QUIET_MS - 100)), min_size=1, max_size=5)


class Exchange:
    """Trades as (ts_ms, price), and its bars as they stand at any time."""

    def __init__(self, trades: list[tuple[int, float]]) -> None:
        self.trades = sorted(trades)

    def bars(self, at_ms: int = 10**15) -> list[Bar]:
        """Return the bars that the trades before `at_ms` make."""
        bars: dict[int, Bar] = {}
        for ts_ms, price in self.trades:
            if ts_ms >= at_ms:
                break
            opened = ts_ms // STEP_MS * STEP_MS
            bar = bars.get(opened) or Bar(opened, price, price, price, price, 0.0, Origin.REST)
            high, low = max(bar.high, price), min(bar.low, price)
            bars[opened] = bar._replace(high=high, low=low, close=price, volume=bar.volume + 1.0)
        return [bars[ts_ms] for ts_ms in sorted(bars)]


def columns(bars: list[Bar]):
    ts_ms = np.array([bar.ts_ms for bar in bars], np.int64)
    ohlcv = np.array([bar[1:6] for bar in bars], np.float64).reshape(-1, 5).T.copy()
    return ts_ms, ohlcv


def values(bars: list[Bar]):
    return [bar[:6] for bar in bars]


@st.composite
def markets(draw, minutes: int = 8):
    """An exchange, and the frames that arrive: (when, bar, closed), each lost, doubled or late as it pleases."""
    # The last moments of a bar are the ones that a lagging answer lacks.
    late = st.builds(lambda i, ms: i * STEP_MS - ms, st.integers(1, minutes), st.integers(1, QUIET_MS))
    moments = st.one_of(late, st.integers(0, minutes * STEP_MS - 1))
    trades = draw(st.lists(st.tuples(moments, st.integers(1, 9)), min_size=1, max_size=20))
    exchange = Exchange([(START_MS + at, float(price)) for at, price in trades])
    fates = st.lists(st.sampled_from([0, 0, 40, 900, 3_000, 70_000]), max_size=2)
    frames = []
    for ts_ms, _ in exchange.trades:
        forming = exchange.bars(ts_ms + 1)[-1]
        frames += [(ts_ms + late_ms, forming, False) for late_ms in draw(fates)]
    for bar in exchange.bars():
        frames += [(bar.ts_ms + STEP_MS + late_ms, bar, True) for late_ms in draw(fates)]
    return exchange, sorted(frames, key=lambda frame: frame[0]), START_MS + minutes * STEP_MS


def drive(
    exchange: Exchange, handover: Handover, frames, end_ms: int, lags, skew_ms: int = 0, polled: bool = False
) -> list[Bar]:
    """Live through the market as the pipeline does; REST looks back by `lags`, and the clock is wrong by `skew_ms`."""
    delivered, waiting, asked = [], list(frames), 0
    now_ms = START_MS
    while now_ms < end_ms + 60_000:
        now_ms += TICK_MS
        while waiting and waiting[0][0] <= now_ms:
            _, bar, closed = waiting.pop(0)
            handover.frame(bar._replace(origin=Origin.WS), closed)
            delivered += handover.release()
        clock_ms = now_ms + skew_ms
        handover.overdue(clock_ms, 2_000)
        if clock_ms >= end_ms + 2_000:
            handover.over(end_ms)
        elif polled:
            handover.over(clock_ms // STEP_MS * STEP_MS)
        question = handover.question()
        if question is None or clock_ms < question.at_ms:
            continue
        span = question.span
        view_ms = now_ms - lags[asked % len(lags)]
        view = [bar for bar in exchange.bars(view_ms) if span.start_ms <= bar.ts_ms]
        newest_ms = view[-1].ts_ms if view else 0
        asked += 1
        now_ms += 40
        handover.rest(
            Answer(
                span,
                *columns([bar for bar in view if bar.ts_ms < span.end_ms]),
                clock_ms,
                clock_ms + 40,
                newest_ms,
            )
        )
        delivered += handover.release()
    return delivered


@given(
    markets(),
    lagging,
    st.sampled_from([0, 0, -3_000, 3_000]),
)
def test_every_bar_once_in_order_with_final_values(market, lags, skew_ms):
    exchange, frames, end_ms = market
    # A clock that is ahead makes REST look back that much more.
    lags = [min(lag_ms, QUIET_MS - 100 - max(0, skew_ms)) for lag_ms in lags]
    handover = Handover(MINUTE)
    handover.history(None, START_MS, START_MS)
    delivered = drive(exchange, handover, frames, end_ms, lags, skew_ms)
    assert values(delivered) == values(exchange.bars())
    assert not handover.corrections
    assert handover.missing() is None


@given(markets(), lagging, st.sampled_from([0, 0, -3_000, 3_000]))
def test_polls_alone_give_every_bar_too(market, lags, skew_ms):
    exchange, _, end_ms = market
    lags = [min(lag_ms, QUIET_MS - 100 - max(0, skew_ms)) for lag_ms in lags]
    handover = Handover(MINUTE, streamed=False)
    handover.history(None, START_MS, START_MS)
    delivered = drive(exchange, handover, [], end_ms, lags, skew_ms, polled=True)
    assert values(delivered) == values(exchange.bars())
    assert handover.counts.outage == 0


@given(markets(), lagging)
def test_flat_bars_fill_what_does_not_exist_and_nothing_else(market, lags):
    exchange, frames, end_ms = market
    handover = Handover(MINUTE, gaps="flat")
    handover.history(None, START_MS, START_MS)
    delivered = drive(exchange, handover, frames, end_ms, lags)
    real = [bar for bar in delivered if bar.origin is not Origin.SYNTHETIC]
    assert values(real) == values(exchange.bars())
    first_ms = real[0].ts_ms
    assert [bar.ts_ms for bar in delivered] == list(range(first_ms, end_ms, STEP_MS))
    close = math.nan
    for bar in delivered:
        if bar.origin is Origin.SYNTHETIC:
            assert bar[1:6] == (close, close, close, close, 0.0)
        close = bar.close
    assert handover.counts.synthetic == len(delivered) - len(real)


@given(markets())
def test_what_the_stream_showed_nothing_of_is_an_outage_or_was_quiet(market):
    exchange, frames, end_ms = market
    handover = Handover(MINUTE)
    handover.history(None, START_MS, START_MS)
    drive(exchange, handover, frames, end_ms, [0])
    # A frame that comes after REST was asked for its bar changes nothing any more: leave those out.
    shown = {bar.ts_ms for at_ms, bar, _ in frames if at_ms < bar.ts_ms + STEP_MS}
    late = {bar.ts_ms for at_ms, bar, _ in frames if at_ms >= bar.ts_ms + STEP_MS}
    exist = {bar.ts_ms for bar in exchange.bars()}
    minutes = set(range(START_MS, end_ms, STEP_MS))
    assert handover.counts.quiet == len(minutes - exist)
    assert len(exist - shown - late) <= handover.counts.outage <= len(exist - shown)


@given(markets(), st.integers(1, 7), lagging)
def test_frames_before_the_history_are_merged_with_it(market, split, lags):
    exchange, frames, end_ms = market
    split_ms = START_MS + split * STEP_MS
    history = [bar for bar in exchange.bars() if bar.ts_ms < split_ms]
    handover = Handover(MINUTE)
    early = [frame for frame in frames if frame[0] < split_ms]
    for _, bar, closed in early:
        handover.frame(bar, closed)
    handover.history(history[-1] if history else None, split_ms, split_ms)
    delivered = history + handover.release()
    delivered += drive(exchange, handover, frames[len(early) :], end_ms, lags)
    assert values(delivered) == values(exchange.bars())


@pytest.mark.parametrize("lag_ms", [QUIET_MS + 3_000])
def test_the_proof_can_fail(lag_ms):
    """A REST that looks back further than all patience, in a market where nothing later shows it, is believed."""
    exchange = Exchange([(START_MS + 59_000, 1.0), (START_MS + 59_900, 2.0)])
    handover = Handover(MINUTE)
    handover.history(None, START_MS, START_MS)
    handover.over(START_MS + STEP_MS)
    assert values(drive(exchange, handover, [], START_MS + STEP_MS, [lag_ms])) != values(exchange.bars())
