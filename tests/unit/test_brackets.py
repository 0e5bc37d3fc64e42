"""Brackets and groups, case by case; every course of events is in the property tests."""

from decimal import Decimal

import pytest

from ccxtbt.errors import ConfigError
from ccxtbt.trading.brackets import Bracket, Cancel, End, Excess, Exit, Exposed, Group, Pair, Send
from ccxtbt.trading.states import Accepted, Amend, Canceled, Completed, Expired, Fill, Margin, Rejected, Status

D = Decimal
LOT = D("0.01")
STOP, LIMIT = Exit("stop", "stop", D(90)), Exit("limit", "limit", D(110))


@pytest.fixture
def bracket() -> Bracket:
    return Bracket([STOP, LIMIT], side="buy", lot=LOT, base="BTC", parent="entry")


def bought(size, **fields):
    return Fill(D(size), D(100), **fields)


def sold(size, price=90):
    return Fill(-D(size), D(price))


def enter(bracket, size="1"):
    """Fill the entry and let the stop rest."""
    sent = bracket.apply("entry", 0, bought(size))
    assert bracket.apply("entry", 0, Completed()) == []
    assert bracket.apply("stop", 1, Accepted()) == []
    return sent


def test_nothing_is_sent_before_the_entry_fills(bracket):
    assert bracket.start() == []
    assert bracket.apply("entry", 0, Accepted()) == []
    assert bracket.on_price(100.0) == []


def test_the_stop_rests_and_the_target_waits(bracket):
    assert enter(bracket) == [Send("stop", 1, D(1))]
    assert bracket.on_price(109.99) == []


def test_a_filled_stop_ends_the_bracket(bracket):
    enter(bracket)
    assert bracket.apply("stop", 1, sold("1")) == []
    assert bracket.apply("stop", 1, Completed()) == [End("stop", Status.COMPLETED), End("limit", Status.CANCELED)]
    assert bracket.done


def test_at_the_target_the_exits_change_places_and_back_half_way_down(bracket):
    enter(bracket)
    assert bracket.on_price(110) == [Cancel("stop")]
    assert bracket.on_price(111) == []
    assert bracket.apply("stop", 1, Canceled()) == [Send("limit", 1, D(1))]
    assert bracket.apply("limit", 1, Accepted()) == []
    assert bracket.apply("limit", 1, sold("0.4", 110)) == []
    assert bracket.on_price(100.01) == []
    assert bracket.on_price(100) == [Cancel("limit")]
    assert bracket.apply("limit", 1, Canceled()) == [Send("stop", 2, D("0.6"))]
    bracket.apply("stop", 2, sold("0.6"))
    assert bracket.apply("stop", 2, Completed()) == [End("stop", Status.COMPLETED), End("limit", Status.CANCELED)]


def test_a_stop_that_fills_while_it_is_cancelled_leaves_nothing_for_the_target(bracket):
    enter(bracket)
    bracket.on_price(110)
    assert bracket.apply("stop", 1, sold("1")) == []
    assert bracket.apply("stop", 1, Completed()) == [End("stop", Status.COMPLETED), End("limit", Status.CANCELED)]


def test_a_sold_entry_has_its_target_below():
    exits = [Exit("stop", "stop", D(110)), Exit("limit", "limit", D(90))]
    bracket = Bracket(exits, side="sell", lot=LOT, base="BTC", parent="entry")
    assert bracket.apply("entry", 0, sold("1", 100)) == [Send("stop", 1, D(1))]
    bracket.apply("stop", 1, Accepted())
    assert bracket.on_price(90.01) == []
    assert bracket.on_price(90) == [Cancel("stop")]
    bracket.apply("stop", 1, Canceled())
    bracket.apply("limit", 1, Accepted())
    assert bracket.on_price(100) == [Cancel("limit")]


def test_exits_follow_the_filled_size_as_it_grows(bracket):
    assert bracket.apply("entry", 0, bought("0.3")) == [Send("stop", 1, D("0.3"))]
    assert bracket.apply("entry", 0, bought("0.2")) == []
    assert bracket.apply("stop", 1, Accepted()) == [Cancel("stop")]
    assert bracket.apply("entry", 0, bought("0.1")) == []
    assert bracket.apply("stop", 1, Canceled()) == [Send("stop", 2, D("0.6"))]


def test_a_fee_in_base_is_not_there_to_be_sold(bracket):
    sent = bracket.apply("entry", 0, bought("1", fee_cost=D("0.001"), fee_currency="BTC"))
    assert sent == [Send("stop", 1, D("0.99"))]
    bracket.apply("stop", 1, Accepted())
    assert bracket.apply("entry", 0, bought("1", fee_cost=D("0.001"), fee_currency="BNB")) == [Cancel("stop")]
    assert bracket.rest == D("1.99")
    bracket.apply("entry", 0, Amend(D(0), D("0.01"), "BTC"))
    assert bracket.rest == D("1.98")


def test_an_entry_cancelled_with_a_part_filled_keeps_its_exits_for_the_part(bracket):
    bracket.apply("entry", 0, bought("0.4"))
    bracket.apply("stop", 1, Accepted())
    assert bracket.cancel("entry") == [Cancel("entry")]
    assert bracket.cancel("entry") == []
    assert bracket.apply("entry", 0, Canceled()) == []
    bracket.apply("stop", 1, sold("0.4"))
    assert bracket.apply("stop", 1, Completed())[0] == End("stop", Status.COMPLETED)


@pytest.mark.parametrize("end", [Canceled(), Expired(), Rejected("no"), Margin("no")])
def test_an_entry_that_ends_unfilled_ends_its_exits(bracket, end):
    assert bracket.apply("entry", 0, end) == [End("stop", Status.CANCELED), End("limit", Status.CANCELED)]
    assert bracket.done


def test_an_entry_does_not_grow_once_an_exit_trades(bracket):
    bracket.apply("entry", 0, bought("0.4"))
    bracket.apply("stop", 1, Accepted())
    assert bracket.apply("stop", 1, sold("0.1")) == [Cancel("entry")]
    bracket.apply("stop", 1, sold("0.3"))
    assert bracket.apply("stop", 1, Completed()) == []
    assert bracket.apply("entry", 0, bought("0.2")) == [Send("stop", 2, D("0.2"))]
    assert bracket.apply("entry", 0, Canceled()) == []


def test_cancelling_an_exit_cancels_all(bracket):
    enter(bracket)
    assert bracket.cancel("limit") == [Cancel("stop")]
    told = bracket.apply("stop", 1, Canceled())
    assert told == [End("stop", Status.CANCELED), End("limit", Status.CANCELED)]
    assert bracket.done


def test_cancelling_an_exit_that_has_ended_leaves_the_other_at_work(bracket):
    enter(bracket)
    bracket.on_price(110)
    bracket.apply("stop", 1, Canceled())
    assert bracket.apply("limit", 1, Rejected("too small"))[0] == End("limit", Status.REJECTED, "too small")
    bracket.apply("stop", 2, Accepted())
    assert bracket.cancel("limit") == []
    assert bracket.cancel("stop") == [Cancel("stop")]


def test_cancelling_an_exit_of_an_open_entry_cancels_the_entry(bracket):
    told = bracket.cancel("stop")
    assert told == [Cancel("entry"), End("stop", Status.CANCELED), End("limit", Status.CANCELED)]
    assert not bracket.done
    assert bracket.apply("entry", 0, Canceled()) == []
    assert bracket.done


def test_a_stop_that_the_price_has_passed_goes_at_market(bracket):
    bracket.apply("entry", 0, bought("1"))
    told = bracket.apply("stop", 1, Rejected("would trigger", immediate=True))
    assert told == [Send("stop", 2, D(1), triggered=True)]
    bracket.apply("stop", 2, Accepted())
    assert bracket.on_price(120) == []


def test_a_triggered_stop_is_refused_only_once(bracket):
    bracket.apply("entry", 0, bought("1"))
    bracket.apply("stop", 1, Rejected("would trigger", immediate=True))
    told = bracket.apply("stop", 2, Rejected("again", immediate=True))
    assert told[0] == End("stop", Status.REJECTED, "again")


def test_a_refused_exit_leaves_the_other(bracket):
    bracket.apply("entry", 0, bought("1"))
    bracket.apply("entry", 0, Completed())
    assert bracket.apply("stop", 1, Rejected("bad")) == [End("stop", Status.REJECTED, "bad"), Send("limit", 1, D(1))]
    assert bracket.apply("limit", 1, Margin("no funds")) == [
        End("limit", Status.MARGIN, "no funds"),
        Exposed(D(1), "bad no funds"),
    ]
    assert bracket.done


def test_an_entry_whose_exits_are_refused_is_not_let_grow():
    bracket = Bracket([STOP], side="buy", lot=LOT, parent="entry")
    bracket.apply("entry", 0, bought("0.4"))
    assert bracket.apply("stop", 1, Rejected("bad")) == [End("stop", Status.REJECTED, "bad"), Cancel("entry")]
    assert bracket.apply("entry", 0, Canceled()) == [Exposed(D("0.4"), "bad")]


def test_an_exit_that_ends_unasked_gives_way_to_the_other(bracket):
    enter(bracket)
    told = bracket.apply("stop", 1, Canceled("by hand"))
    assert told == [End("stop", Status.CANCELED, "by hand"), Send("limit", 1, D(1))]


def test_what_is_too_small_waits_and_is_reported_at_the_end():
    bracket = Bracket([Exit("stop", "stop", D(90), D("0.06"))], side="buy", lot=LOT, parent="entry")
    assert bracket.apply("entry", 0, bought("0.05")) == []
    told = bracket.apply("entry", 0, Canceled())
    assert told == [
        End("stop", Status.CANCELED),
        Exposed(D("0.05"), "What is filled is too small to be sold."),
    ]


def test_a_leg_that_has_become_small_may_stay():
    bracket = Bracket([Exit("stop", "stop", D(90), D("0.06"))], side="buy", lot=LOT, parent="entry")
    bracket.apply("entry", 0, bought("1"))
    bracket.apply("stop", 1, Accepted())
    assert bracket.apply("stop", 1, sold("0.98")) == [Cancel("entry")]
    assert bracket.apply("entry", 0, bought("0.02")) == []
    assert bracket.apply("entry", 0, Canceled()) == []
    bracket.apply("stop", 1, sold("0.02"))
    assert bracket.apply("stop", 1, Completed())[-1] == Exposed(D("0.02"), "What is filled is too small to be sold.")


def test_two_exits_of_a_position_need_no_entry():
    bracket = Bracket([STOP, LIMIT], side="buy", lot=LOT, size=D(2))
    assert bracket.start() == [Send("stop", 1, D(2))]
    bracket.apply("stop", 1, sold("2"))
    assert bracket.apply("stop", 1, Completed()) == [End("stop", Status.COMPLETED), End("limit", Status.CANCELED)]


def test_a_fill_of_an_order_that_was_told_to_be_over_is_reported_if_it_is_too_much(bracket):
    enter(bracket)
    bracket.on_price(110)
    bracket.apply("stop", 1, Canceled())
    bracket.apply("limit", 1, Accepted())
    assert bracket.apply("stop", 1, sold("0.5")) == [Cancel("limit")]
    bracket.apply("limit", 1, sold("1", 110))
    told = bracket.apply("limit", 1, Completed())
    assert told == [End("stop", Status.CANCELED), End("limit", Status.COMPLETED)]
    assert bracket.apply("stop", 1, sold("0.1")) == [Excess(D("0.1"))]


def test_a_price_older_than_the_last_fill_moves_nothing(bracket):
    bracket.on_price(112, 1_000)
    assert bracket.apply("entry", 0, bought("1", ts_ms=5_000)) == [Send("stop", 1, D(1))]
    bracket.apply("stop", 1, Accepted())
    assert bracket.on_price(112, 1_000) == []
    assert bracket.on_price(112, 4_999) == []
    assert bracket.on_price(112, 5_000) == [Cancel("stop")]


def test_only_the_exit_that_took_the_last_out_is_completed(bracket):
    bracket.apply("entry", 0, bought("0.4"))
    bracket.apply("stop", 1, Accepted())
    bracket.apply("stop", 1, sold("0.4"))
    bracket.apply("stop", 1, Completed())
    bracket.on_price(110)
    assert bracket.apply("entry", 0, bought("0.2")) == [Send("stop", 2, D("0.2"))]
    bracket.apply("entry", 0, Canceled())
    told = bracket.apply("stop", 2, Rejected("bad"))
    assert told == [End("stop", Status.REJECTED, "bad"), Send("limit", 1, D("0.2"))]
    bracket.apply("limit", 1, sold("0.2", 110))
    assert bracket.apply("limit", 1, Completed()) == [End("limit", Status.COMPLETED)]


def test_an_earlier_exit_of_two_that_completed_is_not_the_last(bracket):
    bracket.apply("entry", 0, bought("0.4"))
    bracket.apply("stop", 1, sold("0.4"))
    bracket.apply("stop", 1, Completed())
    bracket.on_price(110)
    bracket.apply("entry", 0, Amend(D(0), D("-0.2"), "BTC"))
    bracket.apply("entry", 0, Canceled())
    bracket.apply("limit", 1, sold("0.2", 110))
    assert bracket.apply("limit", 1, Completed()) == [End("stop", Status.CANCELED), End("limit", Status.COMPLETED)]


def test_an_old_orders_late_words_do_not_touch_the_new_one(bracket):
    enter(bracket)
    bracket.apply("entry", 0, bought("0.5"))
    bracket.apply("stop", 1, Canceled())
    assert bracket.apply("stop", 1, Accepted()) == []
    assert bracket.on_price(110) == []
    assert bracket.apply("stop", 1, Completed()) == []
    assert bracket.apply("stop", 2, Accepted()) == [Cancel("stop")]


def test_a_fill_is_a_price_too(bracket):
    bracket.on_price(112)
    assert bracket.apply("entry", 0, bought("1")) == [Send("stop", 1, D(1))]
    bracket.apply("stop", 1, Accepted())
    bracket.on_price(112)
    assert bracket.apply("stop", 1, sold("0.5")) == [Cancel("entry")]
    assert bracket.apply("stop", 1, Canceled()) == [Send("stop", 2, D("0.5"))]


# Both exits as one list


@pytest.fixture
def listed() -> Bracket:
    return Bracket([STOP, LIMIT], side="buy", lot=LOT, base="BTC", parent="entry", lists=True)


def pair(leg, size):
    return Pair(Send("stop", leg, D(size)), Send("limit", leg, D(size)))


def enter_listed(bracket, size="1"):
    told = bracket.apply("entry", 0, bought(size)) + bracket.apply("entry", 0, Completed())
    assert told == [pair(1, size)]
    assert bracket.apply("stop", 1, Accepted()) == bracket.apply("limit", 1, Accepted()) == []


def test_a_list_looks_after_itself(listed):
    enter_listed(listed)
    assert listed.on_price(111) == listed.on_price(89) == listed.on_price(100) == []
    assert listed.apply("limit", 1, Expired()) == []
    assert listed.apply("stop", 1, sold("0.3")) == listed.apply("stop", 1, sold("0.7")) == []
    assert listed.apply("stop", 1, Completed()) == [End("stop", Status.COMPLETED), End("limit", Status.CANCELED)]
    assert listed.done


def test_the_end_of_a_list_is_told_in_whatever_order_it_is_heard(listed):
    enter_listed(listed)
    assert listed.apply("limit", 1, sold("1", 110)) == []
    assert listed.apply("limit", 1, Completed()) == [End("limit", Status.COMPLETED)]
    assert not listed.done
    assert listed.apply("stop", 1, Expired()) == [End("stop", Status.CANCELED)]
    assert listed.done


def test_a_list_is_cancelled_once_and_sent_anew_as_the_entry_grows(listed):
    assert listed.apply("entry", 0, bought("0.3")) == [pair(1, "0.3")]
    assert listed.apply("entry", 0, bought("0.2")) == []
    assert listed.apply("stop", 1, Accepted()) == [Cancel("stop")]
    assert listed.apply("limit", 1, Accepted()) == []
    assert listed.apply("limit", 1, Canceled()) == []
    assert listed.apply("stop", 1, Canceled()) == [pair(2, "0.5")]


@pytest.mark.parametrize("heard", ["fill", "end"])
def test_a_target_filled_in_part_stands_alone_until_the_price_is_half_way_back(listed, heard):
    enter_listed(listed)
    words = [("limit", sold("0.4", 110)), ("stop", Expired())]
    for key, word in words if heard == "fill" else reversed(words):
        assert listed.apply(key, 1, word) == []
    assert listed.on_price(100.01) == []
    assert listed.on_price(100) == [Cancel("limit")]
    assert listed.apply("limit", 1, Canceled()) == [pair(2, "0.6")]


def test_a_list_that_is_filled_while_it_is_cancelled_leaves_nothing(listed):
    enter_listed(listed)
    assert listed.cancel("stop") == [Cancel("stop")]
    assert listed.cancel("limit") == []
    assert listed.apply("stop", 1, Expired()) == listed.apply("limit", 1, sold("1", 110)) == []
    told = listed.apply("limit", 1, Completed())
    assert told == [End("stop", Status.CANCELED), End("limit", Status.COMPLETED)]


@pytest.mark.parametrize("no", [Rejected("bad prices"), Margin("no funds")])
def test_a_refused_list_gives_way_to_the_stop_alone_until_that_ends(listed, no):
    listed.apply("entry", 0, bought("1"))
    assert listed.apply("stop", 1, no) == []
    assert listed.apply("limit", 1, no) == [Send("stop", 2, D(1))]
    assert listed.apply("stop", 2, Accepted()) == []
    assert listed.apply("entry", 0, bought("0.5")) == [Cancel("stop")]
    assert listed.apply("stop", 2, Canceled()) == [Pair(Send("stop", 3, D("1.5")), Send("limit", 2, D("1.5")))]


def test_a_refused_list_whose_stop_is_due_goes_at_market(listed):
    listed.apply("entry", 0, bought("1"))
    listed.apply("stop", 1, Rejected("bad prices"))
    listed.apply("limit", 1, Rejected("bad prices"))
    assert listed.apply("stop", 2, Rejected("through", immediate=True)) == [Send("stop", 3, D(1), triggered=True)]


def test_above_the_target_there_is_no_list(listed):
    listed.on_price(112)
    assert listed.apply("entry", 0, Fill(D(1), D(111))) == [Send("limit", 1, D(1))]
    listed.apply("limit", 1, Accepted())
    assert listed.on_price(100) == [Cancel("limit")]
    assert listed.apply("limit", 1, Canceled()) == [Pair(Send("stop", 1, D(1)), Send("limit", 2, D(1)))]


def test_a_list_that_is_cancelled_by_hand_ends_both_and_says_what_is_held(listed):
    enter_listed(listed)
    assert listed.apply("stop", 1, Canceled("by hand")) == [End("stop", Status.CANCELED, "by hand")]
    told = listed.apply("limit", 1, Canceled("by hand"))
    assert told == [End("limit", Status.CANCELED, "by hand"), Exposed(D(1), "by hand by hand")]


def test_an_exit_that_was_there_alone_becomes_one_of_a_list():
    bracket = Bracket([STOP, LIMIT], side="buy", lot=LOT, size=D(2), lists=True)
    bracket.adopt("stop", D(2), working=True)
    assert bracket.start() == [Cancel("stop")]
    told = bracket.apply("stop", 0, Canceled())
    assert told == [pair(1, "2")]


def test_what_a_list_repeats_changes_nothing(listed):
    enter_listed(listed)
    listed.apply("entry", 0, bought("0.5"))
    listed.apply("stop", 1, Canceled())
    listed.apply("limit", 1, Canceled())
    for word in (Accepted(), Expired(), Canceled(), Rejected("late")):
        assert listed.apply("stop", 1, word) == listed.apply("limit", 1, word) == []
    assert listed.apply("limit", 2, Accepted()) == listed.apply("stop", 2, Accepted()) == []
    assert listed.apply("stop", 2, sold("1.5")) == []
    assert listed.apply("stop", 2, Completed())[0] == End("stop", Status.COMPLETED)


@pytest.mark.parametrize("kinds", [[], ["stop", "stop"], ["limit", "stop", "limit"]])
def test_exits_that_one_entry_cannot_have(kinds):
    exits = [Exit(number, kind, D(1)) for number, kind in enumerate(kinds)]
    with pytest.raises(ConfigError, match="one stop, one limit, or one of each"):
        Bracket(exits, side="buy", lot=LOT, parent="entry")


@pytest.mark.parametrize("owner", [{}, {"parent": "entry", "size": D(1)}])
def test_a_bracket_hangs_on_one_thing(owner):
    with pytest.raises(ConfigError, match="a parent or on a size"):
        Bracket([STOP], side="buy", lot=LOT, **owner)


@pytest.mark.parametrize("word", [bought("0.1"), Completed(), Canceled(), Expired()])
def test_the_first_of_a_group_cancels_the_others_once(word):
    group = Group({"a": D(1), "b": D(1), "c": D(1)})
    assert group.apply("a", Accepted()) == []
    assert group.apply("a", word) == [Cancel("b"), Cancel("c")]
    assert group.apply("b", Canceled()) == []
    assert group.apply("c", Canceled()) == []


def test_a_refused_member_leaves_its_group_alone():
    group = Group({"a": D(1), "b": D(1)})
    assert group.apply("a", Rejected("bad")) == []
    assert group.apply("b", Margin("no funds")) == []
    assert group.done


def test_what_a_group_trades_beyond_one_order_is_reported():
    group = Group({"a": D(1), "b": D(2)})
    assert group.apply("a", bought("1")) == [Cancel("b")]
    assert group.apply("b", bought("1")) == [Cancel("a")]
    assert group.apply("b", bought("0.5")) == [Excess(D("0.5"))]
    assert group.apply("b", bought("0.5")) == [Excess(D("0.5"))]
