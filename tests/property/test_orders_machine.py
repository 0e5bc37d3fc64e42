"""The order's state machine against the plainest account of it: every ordering, repeat and loss of its messages."""

from dataclasses import replace
from decimal import Decimal
from itertools import product

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from ccxtbt.trading.reports import Absent, FillFact, OrderFact, Refused, Unknown
from ccxtbt.trading.states import DONE, Orders, OrderState, Status
from reference.orders import Ledger, Union, status_next

D = Decimal
SYMBOL, AMOUNT = "BTC/USDT", D(1)


def fill(number, amount, price="100"):
    return FillFact("7", "a", f"t{number}", number, D(amount), D(price), D("0.001") * D(amount), "BNB", True, SYMBOL)


def stands(status, filled):
    return OrderFact("a", "7", status, D(filled), D(100), D(filled) * 100, AMOUNT - D(filled), symbol=SYMBOL)


ACK = stands("open", "0")
STORIES = {
    "completed in two": [ACK, fill(1, "0.3"), stands("open", "0.3"), fill(2, "0.7"), stands("closed", "1")],
    "completed at once, and its answer lost": [Unknown("time-out"), fill(1, "1"), stands("closed", "1")],
    "canceled with a part filled": [ACK, fill(1, "0.4"), stands("open", "0.4"), stands("canceled", "0.4")],
    "a cancel crosses a fill": [ACK, fill(1, "0.4"), stands("open", "0.4"), fill(2, "0.6"), stands("closed", "1")],
    "three fills and a cancel": [fill(1, "0.1"), fill(2, "0.2"), fill(3, "0.3"), stands("canceled", "0.6"), ACK],
    "expired unfilled, after a doubt": [Unknown("dropped"), ACK, stands("expired", "0")],
    "expired in the match, with a part": [ACK, fill(1, "0.5"), stands("open", "0.5"), stands("expired", "0.5")],
    "rejected after it was accepted": [ACK, stands("rejected", "0")],
    "six messages, two fills and a cancel": [
        ACK, fill(1, "0.2"), stands("open", "0.2"), fill(2, "0.3"), stands("open", "0.5"), stands("canceled", "0.5"),
    ],
}  # fmt: skip


def fresh(side="buy", **keywords):
    state = OrderState("a", SYMBOL, side, AMOUNT, **keywords)
    ledger = Ledger(side)
    ledger.take(state.submit())
    return state, ledger


class Account:
    """The reference's verdicts on the sequences over a few messages, each set and each prefix worked out once."""

    def __init__(self, messages):
        self.messages = messages
        self.unions = {}
        self.statuses = {(): "Submitted"}

    def union(self, sequence):
        key = frozenset(sequence)
        if key not in self.unions:
            self.unions[key] = Union.of([self.messages[index] for index in key])
        return self.unions[key]

    def status(self, sequence):
        if sequence not in self.statuses:
            before, last = self.status(sequence[:-1]), self.messages[sequence[-1]]
            self.statuses[sequence] = status_next(before, last, self.union(sequence), AMOUNT)
        return self.statuses[sequence]

    def agrees(self, state, ledger, sequence):
        union = self.union(sequence)
        assert state.status == self.status(sequence)
        assert state.filled == ledger.filled == union.filled
        assert state.cost == ledger.cost == union.cost
        assert state.needs_fills == (union.filled < union.reported)
        assert set(ledger.ids) == set(union.fills)


def sequences(count):
    """All sequences of up to `count` of as many messages: every order, every repeat, every loss."""
    return (sequence for length in range(count + 1) for sequence in product(range(count), repeat=length))


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_every_ordering_repeat_and_loss_ends_as_the_exchange_says(story):
    account = Account(story)
    fills = [index for index, fact in enumerate(story) if isinstance(fact, FillFact)]
    truth = max(index for index, fact in enumerate(story) if isinstance(fact, OrderFact) and fact.status != "open")
    for sequence in sequences(len(story)):
        state, ledger = fresh()
        for index in sequence:
            ledger.take(state.apply(story[index]))
        account.agrees(state, ledger, sequence)
        # What was lost, REST tells: the order, and its trades if the order says that some are missing.
        looked_up = [truth] if not state.done else []
        for index in looked_up:
            ledger.take(state.apply(story[index]))
        if state.needs_fills:
            looked_up += fills
            for index in fills:
                ledger.take(state.apply(story[index]))
        account.agrees(state, ledger, (*sequence, *looked_up))
        assert state.done
        assert not state.needs_order
        assert ledger.fees.get("BNB", 0) == D("0.001") * state.filled


@pytest.mark.parametrize(
    "words",
    [
        [Unknown("time-out"), Absent("three look-ups agree"), Unknown("late")],
        [Refused("no funds", margin=True), Unknown("time-out")],
        [Refused("bad price"), Absent("gone"), Refused("no funds", margin=True)],
    ],
)
def test_words_about_an_order_that_never_was(words):
    account = Account(words)
    for sequence in sequences(len(words)):
        state, ledger = fresh()
        for index in sequence:
            ledger.take(state.apply(words[index]))
        account.agrees(state, ledger, sequence)
        assert state.in_doubt == (not state.done and bool(sequence))
        assert not state.stray


@st.composite
def histories(draw):
    """An exchange's true history of one order: fills in lots of 0.001, an end, and each message it sends."""
    lots = draw(st.lists(st.integers(1, 400), max_size=12))
    side = draw(st.sampled_from(["buy", "sell"]))
    whole = draw(st.booleans()) and bool(lots)
    amount = D(sum(lots) if whole else sum(lots) + draw(st.integers(1, 500))) / 1000
    messages, filled, cost, fees = [], D(0), D(0), D(0)

    def order(status):
        return OrderFact(
            "a", "7", status, filled, None, cost, amount - filled, len(messages), (("BNB", fees),), "", SYMBOL
        )

    messages.append(order("open"))
    for number, lot in enumerate(lots):
        size, price = D(lot) / 1000, D(draw(st.integers(1, 10**7))) / 100
        fee = size * draw(st.integers(-5, 10)) / 1000
        filled, cost, fees = filled + size, cost + size * price, fees + fee
        messages.append(FillFact("7", "a", str(number), number, size, price, fee, "BNB", None, SYMBOL))
        messages.append(order("closed" if filled == amount else "open"))
    if not whole:
        messages.append(order(draw(st.sampled_from(["canceled", "expired"]))))
    return side, amount, messages


def disturbed(draw, messages):
    """Return the messages as a network brings them: some lost, some twice, in any order."""
    kept = [message for message in messages for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3])))]
    noise = draw(st.lists(st.sampled_from([Unknown("lost"), Refused("Duplicate order sent.")]), max_size=2))
    # Words without evidence are only heard after some; before any, a refusal would be believed, as it must be.
    return [*draw(st.permutations(kept)), *(noise if kept else [])]


def totals(messages):
    union = Union.of(messages)
    return union.filled, union.cost, sum((fact.fee_cost for fact in union.fills.values()), D(0))


@settings(max_examples=200, deadline=None)
@given(history=histories(), data=st.data())
def test_fills_by_trade_id_are_counted_exactly_once(history, data):
    side, amount, messages = history
    state, ledger = OrderState("a", SYMBOL, side, amount), Ledger(side)
    ledger.take(state.submit())
    for fact in disturbed(data.draw, messages):
        ledger.take(state.apply(fact))
    ledger.take(state.apply(messages[-1]))
    for fact in messages:
        if isinstance(fact, FillFact) and data.draw(st.booleans() if not state.needs_fills else st.just(value=True)):
            ledger.take(state.apply(fact))
    filled, cost, fees = totals(messages)
    assert (state.filled, state.cost) == (ledger.filled, ledger.cost) == (filled, cost)
    assert ledger.fees.get("BNB", D(0)) == fees
    assert state.done
    assert not any((state.needs_fills, state.needs_order, state.stray))
    last = messages[-1].status
    assert state.status == {"closed": "Completed", "canceled": "Canceled", "expired": "Expired"}[last]


@settings(max_examples=150, deadline=None)
@given(history=histories(), data=st.data())
def test_cumulative_amounts_are_counted_exactly_once(history, data):
    side, amount, messages = history
    state, ledger = OrderState("a", SYMBOL, side, amount, fill_ids=False), Ledger(side)
    ledger.take(state.submit())
    orders = [fact for fact in messages if isinstance(fact, OrderFact)]
    for fact in disturbed(data.draw, orders):
        ledger.take(state.apply(fact))
        assert not state.needs_fills
    ledger.take(state.apply(messages[-1]))
    filled, cost, fees = totals(messages)
    assert (state.filled, ledger.filled, state.cost, ledger.cost) == (filled, filled, cost, cost)
    assert ledger.fees.get("BNB", D(0)) == fees
    assert state.done


@settings(max_examples=200, deadline=None)
@given(history=histories(), data=st.data())
def test_both_ways_of_counting_are_reconciled(history, data):
    """Amounts that had to be counted without their fills give way to the fills, to the last unit of cost and fee."""
    side, amount, messages = history
    state, ledger = OrderState("a", SYMBOL, side, amount), Ledger(side)
    ledger.take(state.submit())
    for fact in disturbed(data.draw, messages):
        ledger.take(state.apply(fact))
        if data.draw(st.integers(0, 2)) == 0:
            ledger.take(state.settle())
            assert not state.needs_fills
    for fact in data.draw(st.permutations(messages)):
        ledger.take(state.apply(fact))
    filled, cost, fees = totals(messages)
    assert (state.filled, ledger.filled) == (filled, filled)
    assert ledger.cost == cost
    assert ledger.fees.get("BNB", D(0)) == fees
    assert state.done


@settings(max_examples=100, deadline=None)
@given(histories=st.lists(histories(), min_size=1, max_size=4), data=st.data())
def test_facts_find_their_order_by_either_id(histories, data):
    """Several orders at once; some messages carry only the exchange's id, which two markets may share."""
    book, ledgers, mail = Orders(), {}, []
    for number, (side, amount, messages) in enumerate(histories):
        client, symbol, order_id = f"c{number}", f"S{number % 2}", str(7 + number // 2)
        state = OrderState(client, symbol, side, amount)
        book.add(state)
        ledgers[client] = Ledger(side)
        ledgers[client].take(state.submit())
        named = [replace(fact, client_id=client, order_id=order_id, symbol=symbol) for fact in messages]
        # At least one message must tell both ids, or nobody could know whose the others are.
        mail += [named[-1], *(data.draw(st.sampled_from([fact, replace(fact, client_id=None)])) for fact in named)]
    for fact in data.draw(st.permutations(mail)):
        state, told = book.apply(fact)
        if state is None:
            assert not told
        else:
            ledgers[state.client_id].take(told)
    for number, (_, _, messages) in enumerate(histories):
        ledger = ledgers[f"c{number}"]
        assert (ledger.filled, ledger.cost) == totals(messages)[:2]
        assert book.get(f"c{number}").done
    assert not book.open()
    note(str(len(book)))


def test_the_machine_knows_all_of_backtraders_words():
    import backtrader as bt

    assert [status.value for status in Status] == [name for name in bt.Order.Status if name != "x"]
    assert {status.value for status in DONE} == {"Completed", "Canceled", "Expired", "Margin", "Rejected"}
