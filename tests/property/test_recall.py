"""What the journal keeps of an order is enough to go on with it: cut anywhere, it ends as if nobody had been away."""

import sqlite3
from decimal import Decimal

from hypothesis import given, note, settings
from hypothesis import strategies as st

from ccxtbt.trading.journal import _MIGRATIONS, Intent, Told
from ccxtbt.trading.orders import Request
from ccxtbt.trading.past import read_past
from ccxtbt.trading.reconcile import Foreign, Kept, sort_open, trades_wanted
from ccxtbt.trading.reports import Absent, FillFact, OrderFact, Unknown
from ccxtbt.trading.states import Fill, OrderState

D = Decimal
SYMBOL = "BTC/USDT"
REQUEST = Request("a", SYMBOL, "limit", "buy", D(1), D(100))


def fill(number, amount, fee="0.001"):
    fee_cost = None if fee is None else D(fee)
    return FillFact("7", "a", f"t{number}", number, D(amount), D(100 + number), fee_cost, "BNB", True, SYMBOL)


def stands(status, filled):
    return OrderFact("a", "7", status, D(filled), D(100), D(filled) * 100, D(1) - D(filled), symbol=SYMBOL)


FACTS = [
    Unknown("time-out"), stands("open", "0"), fill(1, "0.3"), fill(1, "0.3", None), fill(2, "0.2"), fill(3, "0.5"),
    stands("open", "0.3"), stands("open", "0.5"), stands("canceled", "0.5"), stands("closed", "1"), Absent("gone"),
    stands("expired", "0.3"),
]  # fmt: skip


def through_journal(intent, told):
    """Write what was told, and read it as the next run does."""
    db = sqlite3.connect(":memory:")
    try:
        for version in sorted(_MIGRATIONS):
            db.executescript(_MIGRATIONS[version])
        for record in (intent, *told):
            for statement, values in record.rows(1):
                db.execute(statement, values)
        return read_past(db)
    finally:
        db.close()


@settings(max_examples=300, deadline=None)
@given(
    before=st.lists(st.sampled_from(FACTS), max_size=8),
    after=st.lists(st.sampled_from(FACTS), max_size=8),
    lost=st.integers(0, 3),
)
def test_an_order_goes_on_from_what_the_journal_has(before, after, lost):
    intent = Intent(1, REQUEST, ref=3, leg=0, tradeid=0, made_ms=5, asked={"data": "BTC/USDT"})
    whole = OrderState.of(REQUEST)
    whole.submit()
    told = []
    for number, fact in enumerate(before):
        transitions = whole.apply(fact)
        # The last of what was learnt had not reached the disk when the run was killed.
        if number < len(before) - lost:
            told.append(Told("a", tuple(transitions), whole.order_id, whole.filled, whole.cost))
    past = through_journal(intent, told)
    (order,) = past.orders
    (leg,) = order.legs
    again = leg.state()
    counted = sum((abs(each.size) for each in leg.told if isinstance(each, Fill)), D(0))
    assert again.filled == counted
    assert (order.open, past.at_stake) == (not again.done, not again.done or counted > 0)
    note(f"{again}")
    if again.done:
        return
    # What was missed is asked for again: all that the first one heard, and what comes later to both.
    for fact in (*before, *after):
        again.apply(fact)
    for fact in after:
        whole.apply(fact)
    assert (again.filled, again.cost) == (whole.filled, whole.cost)
    assert set(again._trades) == set(whole._trades)
    assert again.needs_fills == whole.needs_fills


# Our ids and those of others -> the exchange's, which are unique within a market only.
NAMES = {
    "a": ("BTC/USDT", "1"), "b": ("BTC/USDT", "2"), "c": ("ETH/USDT", "1"), "d": ("ETH/USDT", "3"),
    "x": ("BTC/USDT", "3"), "y": ("ETH/USDT", "2"),
}  # fmt: skip
AMOUNTS = st.sampled_from([D(0), D("0.5"), D(1)])


@st.composite
def kept(draw):
    name = draw(st.sampled_from("abcd"))
    symbol, order_id = NAMES[name]
    known = order_id if draw(st.booleans()) else None
    return Kept(name, known, symbol, draw(st.integers(100_000, 200_000)), draw(AMOUNTS))


@st.composite
def facts(draw):
    name = draw(st.sampled_from(sorted(NAMES)))
    symbol, order_id = NAMES[name]
    # Some exchanges do not repeat our id.
    client_id = name if draw(st.booleans()) else None
    return OrderFact(client_id, order_id, "open", draw(st.none() | AMOUNTS), symbol=symbol)


@settings(deadline=None)
@given(
    st.lists(kept(), max_size=4, unique_by=lambda each: each.client_id),
    st.lists(facts(), max_size=6, unique_by=lambda each: (each.symbol, each.order_id)),
)
def test_each_open_order_is_ours_or_not_and_each_of_ours_is_there_or_missing(orders, told):
    ours, missing, others = sort_open(orders, told)
    assert sorted(map(repr, [*ours, *others])) == sorted(map(repr, told))
    assert len(missing) == len(orders) - len(ours)
    assert all(any(each.is_told_by(fact) for each in orders) for fact in ours)
    assert not any(each.is_told_by(fact) for each in missing for fact in others)
    since = trades_wanted(orders, ours)
    for each in orders:
        mine = [fact for fact in ours if each.is_told_by(fact)]
        if any(fact.filled is None or fact.filled > each.filled for fact in mine):
            assert since[each.symbol] < each.made_ms
    for symbol in since:
        assert any(each.symbol == symbol for each in orders)


def test_the_ways_with_foreign_orders():
    assert [Foreign.of(each) for each in ("ignore", "adopt", "halt")] == list(Foreign)
