"""Whatever trades are lost, doubled, late or reordered: the bars are those of all trades, each once, in order."""

from hypothesis import given
from hypothesis import strategies as st

from ccxtbt.market.frames import Trade
from ccxtbt.market.handover import QUIET_MS
from ccxtbt.market.tape import Tape
from ccxtbt.market.timeframes import parse

SECONDS = parse("5s")
STEP_MS = 5_000
START_MS = 1_700_000_000_000
END_MS = START_MS + 60_000
PAGE = 5


def reference(trades: list[Trade]) -> list[tuple[float, ...]]:
    """Return the bars of trades in plain Python."""
    bars: dict[int, list[Trade]] = {}
    for trade in trades:
        bars.setdefault(trade.ts_ms // STEP_MS * STEP_MS, []).append(trade)
    return [
        (
            opened,
            inside[0].price,
            max(trade.price for trade in inside),
            min(trade.price for trade in inside),
            inside[-1].price,
            round(sum(round(trade.amount * 10) for trade in inside) / 10, 1),
        )
        for opened, inside in sorted(bars.items())
    ]


@st.composite
def markets(draw):
    """Trades, whether their ids have gaps, and the frames that arrive: (when, trade)."""
    moments = sorted(draw(st.lists(st.integers(START_MS, END_MS - 1), min_size=1, max_size=40)))
    steps = draw(st.sampled_from([(1,), (1, 1, 1, 2), (3,)]))
    number, trades = 100, []
    for i, ts_ms in enumerate(moments):
        price, amount = draw(st.integers(1, 9)), draw(st.integers(1, 9)) / 10
        trades.append(Trade(str(number), ts_ms, float(price), amount, "buy"))
        number += steps[i % len(steps)]
    fates = st.lists(st.sampled_from([0, 0, 40, 700, 3_000]), max_size=2)
    frames = [(trade.ts_ms + late_ms, trade) for trade in trades for late_ms in draw(fates)]
    return trades, steps == (1,), sorted(frames, key=lambda frame: frame[0])


def drive(trades, frames, lag_ms: int, until_ms: int = END_MS + 60_000):
    """Live through the market as the pipeline does; return the tape and what it made."""
    tape, bars, waiting, now_ms = Tape(SECONDS, START_MS), [], list(frames), START_MS
    while now_ms < until_ms:
        now_ms += 100
        while waiting and waiting[0][0] <= now_ms:
            bars += tape.add([waiting.pop(0)[1]])
        bars += tape.tick(now_ms)
        question = tape.question()
        if question is None or now_ms < question.at_ms:
            continue
        seen = [trade for trade in trades if trade.ts_ms < now_ms - lag_ms]
        if question.from_id is not None:
            found = [trade for trade in seen if int(trade.id) >= question.from_id]
        else:
            found = [trade for trade in seen if trade.ts_ms >= question.since_ms]
        bars += tape.answered(found[:PAGE], len(found) >= PAGE, now_ms, now_ms + 50)
    return tape, [bar[:6] for bar in bars]


@given(markets(), st.integers(0, QUIET_MS - 200))
def test_the_bars_are_those_of_all_trades(market, lag_ms):
    trades, dense, frames = market
    tape, bars = drive(trades, frames, lag_ms)
    if dense:
        assert bars == reference(trades)
        assert tape.late == 0
    else:
        # Where numbers have gaps a lost trade cannot be known: what came in time is in the bars, and nothing twice.
        exact = {bar[0]: bar for bar in reference(trades)}
        opens = [bar[0] for bar in bars]
        assert opens == sorted(set(opens))
        assert all(bar[5] <= exact[bar[0]][5] for bar in bars)


@given(markets())
def test_where_nothing_is_lost_numbers_with_gaps_do_no_harm(market):
    trades, _, _ = market
    tape, bars = drive(trades, [(trade.ts_ms, trade) for trade in trades], 0)
    assert bars == reference(trades)
    assert tape.late == 0


def test_a_bar_is_final_with_the_first_trade_of_a_later_one():
    tape = Tape(SECONDS, START_MS)
    assert tape.answered([], more=False, sent_ms=START_MS, received_ms=START_MS + 50) == []
    first, second = (Trade(str(i), START_MS + i * STEP_MS, 1.0, 0.1, "buy") for i in range(2))
    tape.add([first])
    assert not tape.sure
    assert tape.answered([first], more=False, sent_ms=START_MS + 1_000, received_ms=START_MS + 1_050) == []
    assert tape.sure
    assert [bar[:6] for bar in tape.add([second])] == reference([first])


def test_a_number_that_is_missing_is_asked_for():
    tape = Tape(SECONDS, START_MS)
    trades = [Trade(str(i), START_MS + i * 1_000, 1.0, 0.1, "buy") for i in range(10)]
    tape.answered(trades[:2], more=False, sent_ms=START_MS + 1_500, received_ms=START_MS + 1_550)
    assert tape.add(trades[4:7]) == []
    assert tape.question().from_id == 1
    # Such as a body that was lost on the way: it does not prove that there are none.
    assert tape.answered([], more=False, sent_ms=START_MS + 6_000, received_ms=START_MS + 6_050) == []
    assert tape.question().from_id == 1
    bars = tape.answered(trades[1:4], more=False, sent_ms=START_MS + 7_000, received_ms=START_MS + 7_050)
    assert [bar[:6] for bar in bars] == reference(trades[:5])


def test_trades_without_an_id_come_each_as_often_as_the_stream_brings_them():
    tape = Tape(SECONDS, START_MS)
    alike = [Trade("", START_MS + 1_000, 1.0, 0.1, "buy")] * 2
    missed = Trade("", START_MS + 2_000, 2.0, 0.3, "buy")
    tape.add(alike)
    tape.answered([*alike, missed], more=False, sent_ms=START_MS + 3_000, received_ms=START_MS + 3_050)
    assert tape.tick(START_MS + STEP_MS) == []
    assert [bar[:6] for bar in tape.tick(START_MS + 2 * STEP_MS)] == reference([*alike, missed])


def test_a_stream_that_began_before_the_first_bar_leaves_no_hole():
    tape = Tape(SECONDS, START_MS)
    trades = [Trade(str(i), START_MS - 1_000 + i * 1_000, 1.0, 0.1, "buy") for i in range(3)]
    tape.add(trades)
    tape.answered(trades[1:2], more=False, sent_ms=START_MS + 1_000, received_ms=START_MS + 1_050)
    assert tape.sure
