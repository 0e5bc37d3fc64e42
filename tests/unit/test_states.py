"""The order's state machine, case by case; every ordering is in the property tests."""

from dataclasses import replace
from decimal import Decimal

import pytest

from ccxtbt.errors import ConfigError
from ccxtbt.trading.orders import Request
from ccxtbt.trading.reports import Absent, FillFact, OrderFact, Refused, Unknown
from ccxtbt.trading.states import (
    DONE,
    OPEN,
    Accepted,
    Amend,
    Canceled,
    Completed,
    Expired,
    Fill,
    InDoubt,
    Margin,
    Orders,
    OrderState,
    Rejected,
    Status,
    Submitted,
)

D = Decimal
SYMBOL = "BTC/USDT"
FILL = FillFact("7", "a", "t1", 5, D("0.4"), D(100), D("0.1"), "USDT", False, SYMBOL)
ACK = OrderFact("a", "7", "open", D(0), symbol=SYMBOL)


@pytest.fixture
def state() -> OrderState:
    state = OrderState("a", SYMBOL, "buy", D(1))
    assert state.submit() == [Submitted()]
    assert state.submit() == []
    return state


def ends(status, filled, **fields):
    return OrderFact("a", "7", status, None if filled is None else D(filled), symbol=SYMBOL, **fields)


def test_a_life_from_the_answer_to_the_last_fill(state):
    assert state.apply(ACK) == [Accepted("7", None)]
    assert state.apply(ACK) == []
    assert state.apply(FILL) == [Fill(D("0.4"), D(100), D("0.1"), "USDT", 5, "t1", False)]
    assert state.status is Status.PARTIAL
    assert state.status in OPEN
    assert state.apply(FILL) == []
    last = replace(FILL, trade_id="t2", amount=D("0.6"))
    assert [type(told) for told in state.apply(last)] == [Fill, Completed]
    assert state.status in DONE
    assert (state.filled, state.cost) == (D(1), D(100))
    assert state.apply(ends("closed", "1")) == []


def test_a_fill_before_the_answer_accepts_first(state):
    assert [type(told) for told in state.apply(FILL)] == [Accepted, Fill]
    assert state.order_id == "7"


def test_a_sale_has_a_size_below_zero():
    state = OrderState("a", SYMBOL, "sell", D(1))
    assert state.apply(FILL)[-1].size == D("-0.4")
    assert state.apply(FILL) == []


def test_an_order_made_of_its_request_knows_its_amount():
    request = Request("a", SYMBOL, "market", "sell", D(2), None)
    assert OrderState.of(request).amount == D(2)
    assert OrderState.of(replace(request, by_cost=True)).amount is None


def test_the_end_waits_for_its_fills(state):
    state.apply(ACK)
    assert state.apply(ends("canceled", "0.4", ts_ms=9)) == []
    assert state.needs_fills
    assert not state.done
    assert state.apply(FILL)[-1] == Canceled("", 9)
    assert not state.needs_fills


def test_an_end_without_its_amount_needs_a_look_up(state):
    state.apply(ACK)
    assert state.apply(ends("canceled", None)) == []
    assert state.needs_order
    assert state.apply(ends("canceled", "0")) == [Canceled()]
    assert not state.needs_order


def test_an_end_without_its_amount_is_settled_when_nobody_can_tell(state):
    state.apply(ends("expired", None))
    state.apply(FILL)
    assert state.settle() == [Expired()]
    assert state.filled == D("0.4")


def test_fills_that_nobody_can_fetch_are_settled_by_amount_and_amended_when_they_come(state):
    state.apply(ACK)
    state.apply(ends("canceled", "0.4", average=D(99)))
    assert [type(told) for told in state.settle()] == [Fill, Canceled]
    assert state.cost == D("39.6")
    assert state.apply(FILL) == [Amend(D("0.4"), D("0.1"), "USDT", "t1")]
    assert (state.filled, state.cost) == (D("0.4"), D(40))
    assert state.settle() == []


def test_fees_that_the_order_told_are_not_charged_again_by_its_fills():
    state = OrderState("a", SYMBOL, "buy", D(1), fill_ids=False)
    state.apply(ends("open", "0.4", cost=D(40), fees=(("USDT", D("0.1")),)))
    assert state.apply(FILL) == []
    assert state.apply(replace(FILL, trade_id="t2", amount=D("0.6")))[0].fee_cost == D("0.1")


def test_the_first_word_of_the_end_stays(state):
    state.apply(ends("canceled", "0.4"))
    state.apply(ends("expired", "0.4"))
    assert state.apply(FILL)[-1] == Canceled()


def test_settling_without_any_price_takes_the_callers(state):
    state.apply(ends("canceled", "0.4"))
    assert state.settle() == []
    assert state.needs_fills
    assert state.settle(D(90))[0].price == D(90)
    assert state.done


def test_fills_after_the_end_still_count_and_may_complete_it(state):
    state.apply(ends("canceled", "0"))
    assert state.apply(FILL) == [Fill(D("0.4"), D(100), D("0.1"), "USDT", 5, "t1", False, late=True)]
    assert state.status is Status.CANCELED
    assert [type(told) for told in state.apply(replace(FILL, trade_id="t2", amount=D("0.6")))] == [Fill, Completed]
    assert state.status is Status.COMPLETED


def test_a_cumulative_amount_is_a_fill_where_there_are_no_ids():
    state = OrderState("a", SYMBOL, "buy", D(1), fill_ids=False)
    fee = (("BNB", D("0.1")),)
    told = state.apply(ends("open", "0.4", cost=D(40), fees=fee, ts_ms=3))
    assert told == [
        Submitted(),
        Accepted("7", 3),
        Fill(D("0.4"), D(100), D("0.1"), "BNB", 3, counted_cost=D(40)),
    ]
    assert state.apply(ends("open", "0.4", cost=D(40), fees=fee)) == []
    assert state.apply(ends("open", "0.2", cost=D(20))) == []
    more = (("BNB", D("0.3")), ("BTC", D("0.01")))
    told = state.apply(ends("closed", "1", cost=D(106), fees=more))
    assert told == [
        Fill(D("0.6"), D(110), D("0.2"), "BNB", counted_cost=D(66)),
        Amend(D(0), D("0.01"), "BTC"),
        Completed(),
    ]


def test_a_fee_that_comes_later_is_told_once(state):
    state.apply(replace(FILL, fee_cost=None, fee_currency=None))
    assert state.apply(FILL) == [Amend(D(0), D("0.1"), "USDT", "t1")]
    assert state.apply(FILL) == []


def test_a_fill_without_an_id_asks_for_the_order(state):
    state.apply(ACK)
    assert state.apply(replace(FILL, trade_id=None)) == []
    assert state.needs_order
    assert state.filled == 0
    state.apply(ends("open", "0.4"))
    assert not state.needs_order
    assert state.needs_fills


def test_a_refusal_is_final(state):
    assert state.apply(Refused("The price is too far.")) == [Rejected("The price is too far.")]
    assert state.apply(Refused("again")) == []
    assert not state.stray


def test_lack_of_funds_and_a_passed_trigger_are_told_apart():
    assert OrderState("a", SYMBOL, "buy", D(1)).apply(Refused("no funds", margin=True)) == [Margin("no funds")]
    told = OrderState("a", SYMBOL, "buy", D(1)).apply(Refused("would trigger", immediate=True))
    assert told == [Rejected("would trigger", immediate=True)]


def test_a_lost_answer_leaves_a_doubt_until_the_exchange_shows_the_order(state):
    assert state.apply(Unknown("time-out")) == [InDoubt("time-out")]
    assert state.apply(Unknown("time-out")) == []
    assert state.in_doubt
    assert state.needs_order
    assert state.apply(ACK) == [Accepted("7", None)]
    assert not state.in_doubt
    assert not state.needs_order


def test_a_lost_answer_to_an_order_that_never_arrived(state):
    state.apply(Unknown("time-out"))
    assert state.apply(Absent("Three look-ups agree.")) == [Rejected("Three look-ups agree.", absent=True)]
    assert not state.in_doubt


def test_a_refusal_of_an_order_that_works_is_looked_into(state):
    state.apply(ACK)
    assert state.apply(Refused("Duplicate order sent.")) == []
    assert state.needs_order
    state.apply(ACK)
    assert not state.needs_order
    assert state.apply(Absent("gone")) == []


def test_an_order_that_was_told_to_be_absent_and_works_is_a_stray(state):
    state.apply(Absent("Three look-ups agree."))
    assert state.apply(ACK) == []
    assert state.stray
    assert state.apply(FILL)[0].late
    assert state.apply(ends("canceled", "0.4")) == []
    assert not state.stray


def test_rejected_after_accepted_with_a_part_filled_tells_the_part_first(state):
    state.apply(ACK)
    assert state.apply(ends("rejected", "0.4", reason="thrown out")) == []
    assert [type(told) for told in state.apply(FILL)] == [Fill, Rejected]


def test_rejected_by_a_report_was_never_accepted(state):
    assert state.apply(ends("rejected", None, reason="BAD")) == [Rejected("BAD")]


def test_closed_with_a_part_unfilled_is_a_cancel(state):
    state.apply(FILL)
    assert [type(told) for told in state.apply(ends("closed", "0.4"))] == [Canceled]


def test_closed_without_an_amount_is_all_of_it(state):
    assert state.apply(ends("closed", None))[-1] == Accepted("7", None)
    assert state.needs_fills


def test_an_order_by_cost_ends_when_the_exchange_says_so():
    state = OrderState("a", SYMBOL, "buy", None)
    state.apply(FILL)
    assert not state.done
    assert state.apply(ends("closed", "0.4")) == [Completed()]
    unknown = OrderState("b", SYMBOL, "buy", None)
    unknown.apply(ends("closed", None))
    assert unknown.needs_order


def test_a_message_that_says_nothing_accepts(state):
    assert state.apply(OrderFact("a", "7")) == [Accepted("7", None)]


def test_facts_wait_until_their_order_is_known():
    book = Orders()
    state = OrderState("a", SYMBOL, "buy", D(1))
    book.add(state)
    assert book.apply(replace(FILL, client_id=None)) == (None, [])
    found, told = book.apply(ACK)
    assert found is state
    assert [type(each) for each in told] == [Submitted, Accepted, Fill]
    assert book.find(SYMBOL, "7") is state
    assert book.find("ETH/USDT", "7") is None


def test_two_orders_cannot_share_a_client_id():
    book = Orders()
    book.add(OrderState("a", SYMBOL, "buy", D(1)))
    with pytest.raises(ConfigError, match="client id 'a' is in use"):
        book.add(OrderState("a", SYMBOL, "buy", D(1)))


def test_finished_orders_stay_for_a_while_and_strangers_too():
    book = Orders(keep_done=2, keep_unknown=2)
    for name in "abc":
        book.add(OrderState(name, SYMBOL, "buy", D(1)))
        book.apply(OrderFact(name, f"id-{name}", "canceled", D(0), symbol=SYMBOL))
    assert len(book) == 2
    assert book.get("a") is None
    assert book.find(SYMBOL, "id-a") is None
    assert book.get("c").done
    for number in range(5):
        assert book.apply(replace(FILL, client_id=None, order_id=f"foreign-{number}")) == (None, [])
    book.add(OrderState("d", SYMBOL, "buy", D(1)))
    state, told = book.apply(OrderFact("d", "foreign-0", "open", symbol=SYMBOL))
    assert [type(each) for each in told] == [Submitted, Accepted]
    assert book.open() == [state]


def conditional() -> tuple[Orders, OrderState]:
    orders, state = Orders(), OrderState("mine", "BTC/USDT:USDT", "sell", Decimal(1), conditional=True)
    orders.add(state)
    state.submit()
    orders.apply(OrderFact("mine", "waits", "open", filled=Decimal(0), symbol=state.symbol))
    return orders, state


def fill_of(order_id: str, client_id: str | None = None) -> FillFact:
    return FillFact(order_id, client_id, "t1", 1, Decimal(1), Decimal(5), symbol="BTC/USDT:USDT", side="sell")


@pytest.mark.parametrize("fill_first", [True, False])
@pytest.mark.parametrize("client_id", [None, "theirs"])
def test_the_fills_of_the_order_that_a_conditional_one_becomes_are_its_own(fill_first, client_id):
    orders, state = conditional()
    became = OrderFact("mine", "waits", None, symbol=state.symbol, became="works")
    facts = [fill_of("works", client_id), became]
    told = []
    for fact in facts if fill_first else reversed(facts):
        told += orders.apply(fact)[1]
        assert orders.foreign() == []
    assert [type(transition) for transition in told] == [Fill, Completed]
    assert state.order_id == "waits"


def test_a_fill_beside_a_conditional_order_that_waits_is_anothers():
    orders, _ = conditional()
    orders.apply(OrderFact("autoclose-1", "forced", "open", symbol="BTC/USDT:USDT"))
    orders.apply(fill_of("forced"))
    assert orders.foreign() == []
    suspects = orders.unknown()
    assert orders.foreign(suspects, {"another"}) == []
    assert orders.foreign((), {"mine"}) == []
    (fill,) = orders.foreign(suspects, {"mine"})
    assert (fill.order_id, fill.client_id) == ("forced", "autoclose-1")


def test_what_only_reduces_is_completed_by_as_much_as_there_was():
    cut = OrderState("mine", "BTC/USDT:USDT", "sell", Decimal(2), reduces=True)
    cut.submit()
    cut.apply(fill_of("1"))
    told = cut.apply(OrderFact("mine", "1", "closed", filled=Decimal(1)))
    assert [type(transition) for transition in told] == [Completed]
