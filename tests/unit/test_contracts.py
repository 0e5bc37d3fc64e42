"""Positions in contracts against plain arithmetic and backtrader's position, and what the exchange says of them."""

from decimal import Decimal
from fractions import Fraction

import pytest
from backtrader.position import Position
from hypothesis import given
from hypothesis import strategies as st

from ccxtbt.trading.contracts import ContractBook, Stance, payment_of, stances_of
from ccxtbt.trading.sizes import CommInfo
from ccxtbt.trading.states import Amend, Fill

D = Decimal
LOT = D("0.001")


def rate(currency, quote):
    return {("BNB", "USDT"): D(500)}.get((currency, quote))


@pytest.fixture
def book() -> ContractBook:
    return ContractBook("USDT", LOT, D("0.01"))


def test_opening_moves_no_cash_but_the_fee(book):
    booking = book.fill(Fill(D(-3), D(60_000), D("0.9"), "USDT"), rate)
    assert (booking.opened, booking.closed, booking.psize, booking.pprice) == (-3, 0, -3, 60_000)
    assert (booking.openedvalue, booking.openedcomm, booking.pnl) == (-1_800, D("0.9"), 0)
    assert book.flows == {"USDT": D("-0.9")}


def test_what_closes_settles_its_profit(book):
    book.fill(Fill(D(-3), D(60_000)), rate)
    booking = book.fill(Fill(D(2), D(59_000), D("0.001"), "BNB"), rate)
    assert (booking.closed, booking.pnl, booking.closedcomm) == (2, 20, D("0.5"))
    assert book.flows == {"USDT": D(20), "BNB": D("-0.001")}
    assert (book.size, book.price) == (-1, 60_000)


def test_a_reversal_closes_and_opens(book):
    book.fill(Fill(D(1), D(100)), rate)
    booking = book.fill(Fill(D(-4), D(110), D("0.4"), "USDT"), rate)
    assert (booking.closed, booking.opened, booking.psize, booking.pprice) == (-1, -3, -3, 110)
    assert (booking.closedcomm, booking.openedcomm, booking.pnl) == (D("0.1"), D("0.3"), D("0.1"))


def test_the_exchanges_word_on_a_profit_goes_before_ours(book):
    book.fill(Fill(D(3), D("100.123456789")), rate)
    assert book.fill(Fill(D(-1), D(110), realized=D("0.09876544")), rate).pnl == D("0.09876544")
    assert book.flows == {"USDT": D("0.09876544")}


def test_a_late_fee_is_paid_and_what_a_fill_cost_is_not(book):
    assert book.amend(Amend(D(5), D("0.2"), "USDT"), 1, D(100), rate) == D("0.2")
    assert book.flows == {"USDT": D("-0.2")}


def test_a_run_may_begin_short(book):
    book.seed(D(-2), D(100))
    assert (book.size, book.price, book.flows) == (-2, 100, {})
    assert book.fill(Fill(D(2), D(90)), rate).pnl == D("0.2")


@pytest.mark.parametrize(
    ("stance", "taken"),
    [
        (Stance("x", D(3), D("100.5"), ts_ms=20), True),
        (Stance("x", D(3), D("100.5"), ts_ms=9), False),
        (Stance("x", D(2), D("100.5"), ts_ms=20), False),
        (Stance("x", D(3), None, ts_ms=20), False),
        (Stance("x", D(3), D(100), ts_ms=20), False),
    ],
)
def test_the_mean_price_is_the_exchanges_where_it_speaks_of_the_same_position(book, stance, taken):
    book.fill(Fill(D(3), D(100), ts_ms=10), rate)
    assert book.agrees(stance) is taken
    assert book.price == (stance.entry if taken else 100)


@given(
    fills=st.lists(
        st.tuples(st.integers(1, 5_000), st.sampled_from([1, -1]), st.integers(1, 10**7), st.integers(-100, 10**5)),
        min_size=1,
        max_size=12,
    )
)
def test_the_wallet_equals_the_exchanges_to_the_last_unit(fills):
    book, size, cost, wallet = ContractBook("USDT", LOT, D("0.01")), Fraction(0), Fraction(0), Fraction(0)
    theirs = Position()
    for lots, sign, cents, fee in fills:
        change, price, paid = D(lots * sign) / 1000, D(cents) / 100, D(fee) / 100
        booking = book.fill(Fill(change, price, paid, "USDT"), rate)
        closed = min(abs(change), abs(Fraction(size))) * sign if size * sign < 0 else 0
        entry = cost / size if size else Fraction(0)
        wallet += -Fraction(closed) * (Fraction(price) - entry) / 100 - Fraction(paid)
        cost += Fraction(closed) * entry + (Fraction(change) - Fraction(closed)) * Fraction(price)
        size += Fraction(change)
        theirs.update(float(change), float(price))
        assert Fraction(book.size) == size
        assert float(book.flows["USDT"]) == pytest.approx(float(wallet), abs=1e-9)
        assert float(booking.pprice) == pytest.approx(float(cost / size) if size else 0.0)
        if not size:
            cost = Fraction(0)
            theirs = Position()
        assert theirs.size == pytest.approx(float(book.size), abs=1e-9)
        assert theirs.price == pytest.approx(float(book.price), rel=1e-6)


def row(**fields):
    return {"symbol": "BTC/USDT:USDT", "contracts": 0.5, "side": "long", "entryPrice": 60_000.5, **fields}


def test_positions_are_read_with_their_sign():
    (stance,) = stances_of([row(side="short", leverage=5, marginMode="isolated", timestamp=7)])
    assert stance == Stance("BTC/USDT:USDT", D("-0.5"), D("60000.5"), 5, "isolated", None, 7)
    assert stances_of([row(contracts=0, side=None)]) == (Stance("BTC/USDT:USDT"),)


def test_the_two_positions_of_hedge_mode_become_one():
    (stance,) = stances_of([row(), row(side="short", contracts=0.75)])
    assert (stance.size, stance.entry) == (D("-0.25"), None)
    (stance,) = stances_of([row(), row(side="short", contracts=0)])
    assert (stance.size, stance.entry) == (D("0.5"), D("60000.5"))


def test_a_payment_is_read_exactly():
    told = {"symbol": "BTC/USDT:USDT", "code": "USDT", "amount": -0.00012345, "timestamp": 8, "id": "9"}
    payment = payment_of(told)
    assert (payment.amount, payment.currency, payment.ts_ms, payment.payment_id) == (D("-0.00012345"), "USDT", 8, "9")


class TestCommInfo:
    swap = CommInfo(commission=0.0005, lot=LOT, mult=0.01, stocklike=False, automargin=-1)
    backtest = CommInfo(commission=0.0005, lot=LOT, mult=0.01)

    @pytest.mark.parametrize("info", [swap, backtest])
    def test_a_size_counts_contracts(self, info):
        assert info.getsize(60_000.0, 6_000.0) == 10
        assert info.getcommission(10, 60_000.0) == pytest.approx(3.0)
        assert info.profitandloss(-10, 60_000.0, 59_000.0) == pytest.approx(100.0)
        assert info.getoperationcost(10, 60_000.0) == pytest.approx(6_000.0)
        assert info.getvaluesize(10, 60_000.0) == pytest.approx(6_000.0)

    def test_a_short_position_in_a_backtest_is_worth_less_than_nothing(self):
        assert self.backtest.getvalue(Position(-10, 60_000.0), 60_000.0) == pytest.approx(-6_000.0)
