"""Whatever trades are lost, doubled, late or reordered: the bars are those of all trades, each once, in order."""

from hypothesis import given
from hypothesis import strategies as st

from ccxtbt.market.frames import Trade
from ccxtbt.market.handover import QUIET_MS
from ccxtbt.market.tape import Tape
from ccxtbt.market.ticks import TickReel
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


def drive(trades, frames, lag_ms: int, until_ms: int = END_MS + 60_000, tape=None, page=PAGE):
    """Live through the market as the pipeline does; return the tape and what it made."""
    tape, bars, waiting, now_ms = tape or Tape(SECONDS, START_MS), [], list(frames), START_MS
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
        bars += tape.answered(found[:page], len(found) >= page, now_ms, now_ms + 50)
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


def gapped(places):
    """Trades with numbers in steps of 3, at these seconds."""
    return [Trade(str(100 + 3 * i), START_MS + place * 1_000, 1.0, 0.1, "buy") for i, place in enumerate(places)]


def test_a_trade_whose_turn_is_over_stays_out_when_the_numbers_turn_out_to_have_gaps():
    trades = gapped([0, 0, 0, 25, 25, 25, 30])
    frames = [(trades[4].ts_ms, trades[4]), (trades[2].ts_ms + 28_000, trades[2])]
    _, bars = drive(trades, frames, 0)
    # The last trade was lost.
    assert bars == reference(trades)[:2]


@given(st.randoms(use_true_random=False), st.integers(2, 30))
def test_numbers_that_do_not_rise_with_time_tell_nothing(random, count):
    numbers = random.sample(range(1_000), count)
    trades = [Trade(str(number), START_MS + i * 60_000 // count, 1.0, 0.1, "buy") for i, number in enumerate(numbers)]
    _, bars = drive(trades, [(trade.ts_ms, trade) for trade in trades], 0)
    assert bars == reference(trades)


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


# What the stream puts together


def joined(trades: list[Trade]) -> Trade:
    """Return several trades of one order at one price as OKX's stream tells them: under the number of the last."""
    amount = round(sum(round(trade.amount * 10) for trade in trades) / 10, 1)
    return trades[-1]._replace(amount=amount, parts=len(trades), numbers=len(trades))


def ticks(trades: list[Trade], per_bar: int) -> list[tuple[float, ...]]:
    """Return the bars of every so many trades in plain Python."""
    bars = []
    for i in range(0, len(trades) - per_bar + 1, per_bar):
        inside = trades[i : i + per_bar]
        prices = [trade.price for trade in inside]
        volume = round(sum(round(trade.amount * 10) for trade in inside) / 10, 1)
        bars.append((inside[-1].ts_ms, prices[0], max(prices), min(prices), prices[-1], volume))
    return bars


@st.composite
def orders(draw):
    """Trades as REST tells them, and the frames that arrive, several trades of one order in each: (when, trade)."""
    moments = sorted(draw(st.lists(st.integers(START_MS, END_MS - 1), min_size=1, max_size=25, unique=True)))
    number, trades, frames = 100, [], []
    fates = st.lists(st.sampled_from([0, 0, 0, 40, 700, 3_000]), max_size=2)
    for ts_ms in moments:
        price, count = float(draw(st.integers(1, 9))), draw(st.sampled_from([1, 1, 2, 3, 7]))
        parts = [
            Trade(str(number + i), ts_ms, price, amount / 10, "buy")
            for i, amount in enumerate(draw(st.lists(st.integers(1, 9), min_size=count, max_size=count)))
        ]
        number += count
        trades += parts
        # Some streams tell singles too, some of an order's in one frame and some in another: one more kind of maker.
        cut = draw(st.integers(0, count - 1))
        told = draw(st.sampled_from([[parts], [parts[:cut], parts[cut:]], [[part] for part in parts]]))
        frames += [(ts_ms + late_ms, joined(each)) for each in told if each for late_ms in draw(fates)]
    return trades, sorted(frames, key=lambda frame: frame[0])


@given(orders(), st.integers(0, QUIET_MS - 200), st.sampled_from([2, 5, 500]))
def test_trades_put_together_count_once(market, lag_ms, page):
    trades, frames = market
    tape, bars = drive(trades, frames, lag_ms, page=page)
    assert bars == reference(trades)
    assert tape.late == 0


@given(orders(), st.integers(0, QUIET_MS - 200), st.integers(1, 6), st.sampled_from([2, 5, 500]))
def test_ticks_are_single_trades_also_where_the_stream_puts_them_together(market, lag_ms, per_bar, page):
    trades, frames = market
    reel = TickReel(per_bar, START_MS, names=("trades", "taker_buy_volume"))
    _, bars = drive(trades, frames, lag_ms, tape=reel, page=page)
    assert bars == ticks(trades, per_bar)


@given(orders(), st.sets(st.integers(0, 170)))
def test_where_numbers_may_have_gaps_trades_put_together_count_once(market, known):
    trades, frames = market
    tape = Tape(SECONDS, START_MS)
    # Numbers that do not rise with time: these tell nothing of other trades from now on.
    early = [Trade("7", START_MS - 2, 1.0, 0.1, "buy"), Trade("6", START_MS - 1, 1.0, 0.1, "buy")]
    tape.answered(early, more=False, sent_ms=START_MS, received_ms=START_MS)
    streamed = list(dict.fromkeys(trade for _, trade in frames))
    singles = [trade for i, trade in enumerate(trades) if i in known]
    for before, after in ((streamed[::2], singles[::2]), (singles[1::2], streamed[1::2])):
        tape.add(before)
        tape.answered(after, more=False, sent_ms=START_MS, received_ms=START_MS)
    told = {number for trade in streamed for number in range(int(trade.id) - trade.numbers + 1, int(trade.id) + 1)}
    told |= {int(trade.id) for trade in singles}
    bars = [bar[:6] for bar in tape.tick(END_MS + 60_000)]
    assert bars == reference([trade for trade in trades if int(trade.id) in told])


def test_what_the_stream_puts_together_is_not_asked_for():
    tape = Tape(SECONDS, START_MS)
    trades = [Trade(str(100 + i), START_MS + 1_000, 2.0, 0.1, "buy") for i in range(7)]
    tape.answered(trades[:2], more=False, sent_ms=START_MS + 1_000, received_ms=START_MS + 1_050)
    tape.add([joined(trades[2:5])])
    assert tape.sure
    # The two before it are on their way.
    tape.add([joined(trades[6:7])])
    assert not tape.sure
    tape.add([joined(trades[5:6])])
    assert tape.sure
    later = trades[0]._replace(id="107", ts_ms=START_MS + STEP_MS)
    assert [bar[:6] for bar in tape.add([later])] == reference(trades)
    assert tape.fetched == 2


def test_of_trades_put_together_rest_tells_those_that_were_cut_off():
    tape = Tape(SECONDS, START_MS)
    trades = [Trade(str(100 + i), START_MS + 1_000, 2.0, (i + 1) / 10, "buy") for i in range(5)]
    # The page ends within them.
    tape.answered(trades[:3], more=False, sent_ms=START_MS + 1_000, received_ms=START_MS + 1_050)
    tape.add([joined(trades[1:])])
    assert not tape.sure
    assert tape.question().from_id == 102
    tape.answered(trades[2:], more=False, sent_ms=START_MS + 2_000, received_ms=START_MS + 2_050)
    assert tape.sure
    later = trades[0]._replace(id="105", ts_ms=START_MS + STEP_MS)
    assert [bar[:6] for bar in tape.add([later])] == reference(trades)


def test_ticks_whose_single_trades_rest_has_no_more():
    reel = TickReel(2, START_MS)
    trades = [Trade(str(100 + i), START_MS + 1_000, 2.0, 0.1, "buy") for i in range(6)]
    reel.answered(trades[:1], more=False, sent_ms=START_MS + 1_000, received_ms=START_MS + 1_050)
    assert reel.add([joined(trades[1:4])]) == []
    assert not reel.sure
    reel.question()
    bars = reel.answered(trades[4:], more=False, sent_ms=START_MS + 2_000, received_ms=START_MS + 2_050)
    assert [bar[5] for bar in bars] == [0.4, 0.0, 0.2]
    assert reel.sure


# Trades without a number


@st.composite
def alike(draw):
    """Trades of which several at one moment are alike, and the number of them before each moment, and behind all."""
    moments = sorted(draw(st.lists(st.integers(START_MS, END_MS - 1), min_size=1, max_size=12, unique=True)))
    trades, cuts = [], [0]
    for ts_ms in moments:
        trade = Trade("", ts_ms, float(draw(st.integers(1, 3))), draw(st.integers(1, 3)) / 10, "buy")
        trades += [trade] * draw(st.integers(1, 3))
        cuts.append(len(trades))
    return trades, cuts


@given(alike(), st.data())
def test_of_trades_alike_there_are_as_many_as_one_source_told(market, data):
    trades, cuts = market
    tape = Tape(SECONDS, START_MS)
    # Before the break the stream shows these, which may end amid those of a moment.
    early = trades[: data.draw(st.integers(0, len(trades)))]
    known = data.draw(st.sampled_from([cut for cut in cuts if cut <= len(early)]))
    # REST tells all up to a moment, the stream all from that one on or from an earlier one.
    told = data.draw(st.sampled_from(cuts))
    again = data.draw(st.sampled_from([cut for cut in cuts if cut <= told]))
    bars = tape.answered(trades[:known], more=False, sent_ms=START_MS, received_ms=START_MS)
    bars += tape.add(early)
    tape.broken()
    tape.question()
    after = [lambda: tape.add(trades[again:]), lambda: tape.answered(trades[:told], False, START_MS, START_MS)]
    for act in data.draw(st.permutations(after)):
        bars += act()
    assert tape.sure
    bars += tape.tick(END_MS + 60_000)
    assert [bar[:6] for bar in bars] == reference(trades)


def test_an_answer_to_what_was_asked_before_a_break_does_not_mend_it():
    tape = Tape(SECONDS, START_MS)
    tape.question()
    tape.broken()
    tape.answered([], more=False, sent_ms=START_MS, received_ms=START_MS)
    assert not tape.sure
    tape.question()
    tape.answered([], more=False, sent_ms=START_MS, received_ms=START_MS)
    assert tape.sure
