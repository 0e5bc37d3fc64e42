"""What an account shows beside our fills is booked once it is certain, and ends up right whatever came before."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from ccxtbt.trading.account import Wallet
from ccxtbt.trading.audit import Apart, Audit, sum_of
from ccxtbt.trading.reports import FillFact

D = Decimal


def test_one_difference_proves_nothing():
    audit = Audit()
    audit.notice({"USDT": D(5)}, 0.0)
    assert not audit.is_due(0.4)
    assert audit.is_due(0.5)
    assert audit.look({"USDT": D(5), "BTC": D(1)}, 1.0) == {}
    assert audit.is_due(1.5)
    # A fill has come meanwhile; what stays is real.
    assert audit.look({"USDT": D(5)}, 2.0) == {"USDT": D(5)}
    assert not audit.is_due(9.0)


def test_a_difference_that_changes_is_looked_at_again():
    audit = Audit()
    assert audit.look({"USDT": D(5)}, 1.0) == {}
    assert audit.look({"USDT": D(6)}, 2.0) == {}
    assert audit.look({"USDT": D(6)}, 3.0) == {"USDT": D(6)}


def test_one_look_at_a_time_and_none_where_all_agrees():
    audit = Audit()
    audit.notice({}, 0.0)
    assert not audit.is_due(9.0)
    audit.notice({"USDT": D(5)}, 0.0)
    audit.looking = True
    assert not audit.is_due(9.0)
    audit.looking = False
    audit.put_off(9.0, again=True)
    assert audit.is_due(9.5)
    audit.put_off(9.5, again=False)
    assert not audit.is_due(99.0)


def test_what_is_put_off_begins_anew():
    audit = Audit()
    audit.look({"USDT": D(5)}, 1.0)
    audit.put_off(2.0, again=True)
    assert audit.look({"USDT": D(5)}, 3.0) == {}


def test_a_fill_of_another_is_new_once():
    audit = Audit()
    fill = FillFact("1", None, "7", 5, D(1), D(100), symbol="BTC/USDT", side="buy")
    assert [audit.is_new(fill), audit.is_new(fill)] == [True, False]
    assert not audit.is_new(FillFact("1", None, None, 5, D(1), D(100)))
    assert "Order 1, which is not of this run, traded BTC/USDT (+1 BTC)" in str(Apart({"BTC": D(1)}, fill))
    assert "changed by -2.5 USDT without an order of this run" in str(Apart({"USDT": D("-2.5")}))


def test_a_wallet_differs_by_what_is_there_and_not_by_the_last_places_of_a_float():
    wallet = Wallet()
    totals = {"USDT": 100.1, "SHIB": 1234567890.1234567, "X": None}
    wallet.update({"free": {"USDT": 90.0, "SHIB": 1.0}, "total": totals})
    assert wallet.differences({"USDT": D("100.1"), "SHIB": D("1234567890.1234567891")}) == {}
    assert wallet.differences({"USDT": D("100.10000001"), "SHIB": D("1234567890.1234567"), "BTC": D(1)}) == {
        "USDT": D("-0.00000001"),
        "BTC": D(-1),
    }
    wallet.replace({"free": {"USDT": 1.0}, "total": {"USDT": 2.0}})
    assert (wallet.free("USDT"), wallet.total("SHIB"), wallet.free("SHIB")) == (1.0, 0.0, 0.0)


# What happens: a fill of ours (told at once or later), money from outside, a look.
HAPPENINGS = st.lists(
    st.tuples(
        st.sampled_from(["fill", "late fill", "hear", "outside", "look"]),
        st.integers(-1_000, 1_000).map(lambda cents: D(cents) / 100),
    ),
    max_size=60,
)


@given(happenings=HAPPENINGS)
def test_the_books_end_where_the_account_is_and_what_is_apart_is_what_came_from_outside(happenings):
    audit, account, books, apart, outside, late = Audit(), D(0), D(0), D(0), D(0), []

    def look(now_s):
        nonlocal apart
        difference = account - books - apart
        apart += audit.look({"USDT": difference} if difference else {}, now_s).get("USDT", D(0))

    for now_s, (what, amount) in enumerate(happenings):
        if what in ("fill", "late fill", "outside"):
            account += amount
        if what == "fill":
            books += amount
        elif what == "late fill":
            late.append(amount)
        elif what == "outside":
            outside += amount
        elif what == "hear" and late:
            books += late.pop(0)
        elif what == "look":
            look(now_s)
    books += sum(late)
    for now_s in (1_000, 1_001):
        look(now_s)
    assert account == books + apart
    assert apart == outside


def test_sums_by_currency():
    assert sum_of({"A": D(1)}, {"A": D("0.5"), "B": D(2)}, {}) == {"A": D("1.5"), "B": D(2)}
